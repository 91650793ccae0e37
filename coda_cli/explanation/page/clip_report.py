"""A page about clips: the frames of one after the other are kept on disk, and the file appears whole at the end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from markupsafe import Markup

from coda_cli.checkpoints.loading import Net
from coda_cli.errors import CodaError, UsageError
from coda_cli.explanation.page.clip_entry import ClipEntry, Piece
from coda_cli.explanation.page.report import MOST_MAPS, Report
from coda_cli.explanation.request import Request
from coda_cli.media.sources import Item
from coda_cli.schema.clips import ClipRecord
from coda_cli.video.reading import Selection, Source

FEWEST = 10  # frames of a clip that a page must have room for; with fewer, its plot chooses among next to nothing


class ClipReport(Report):
    """A page about clips that is being made, in a ``with`` block. Nothing is at its path before ``finish``.

    Args:
        path: the file.
        force: whether a file that exists is replaced.
        sources: the clips that are explained; their files are never written over.
        net: the network.
        request: what is asked.
        selection: which frames are asked for.
        alpha: opacity of full colour in overlays, from 0 to 1.

    Raises:
        UsageError: before any work: there are too many clips or classes for one page, a camera has no end, the file
            exists and may not be replaced, or its folder cannot be written.
    """

    noun = "clip"
    scripts = ("page.js", "clip.js")
    styles = ("page.css", "clip.css")

    def __init__(
        self,
        path: Path,
        force: bool,
        sources: Sequence[Source],
        net: Net,
        request: Request,
        selection: Selection,
        alpha: float,
    ) -> None:
        endless = selection.end is None and selection.max_frames is None
        if cameras := [source for source in sources if isinstance(source, int) and endless]:
            raise UsageError(
                f"--html: camera:{cameras[0]} ends with Ctrl-C, which leaves no page; add --seconds or --max-frames"
            )
        self._most = _frames_of_each(len(sources), request.targets(net).most)
        self._shown = list[list[Piece]]()
        files = [Item(Path(source)) for source in sources if not isinstance(source, int)]
        super().__init__(path, "overwrite" if force else "error", files, net, request, alpha)

    def begin(self) -> ClipEntry:
        """Begin the part about the next clip.

        Returns:
            What its frames are given to.
        """
        return ClipEntry(self._keep, self._most, self._alpha)

    def add_clip(self, entry: ClipEntry, summary: ClipRecord) -> None:
        """Take in a clip that is explained.

        Args:
            entry: what its frames were given to.
            summary: its record.

        Raises:
            MediaError: the disk is full.
        """
        self._shown.append(list(entry.pieces(summary, self._read)))

    def fail(self, error: CodaError) -> None:
        """Note a clip that could not be explained.

        Args:
            error: why.
        """
        self._failures.append(str(error))

    def _count(self) -> int:
        return len(self._shown)

    def _entries(self) -> Iterator[Markup]:
        """The parts of all clips, one piece at a time."""
        for pieces in self._shown:
            yield from (Markup(self._read(piece).decode()) for piece in pieces)

    def _read(self, piece: Piece) -> bytes:
        """Read what was kept."""
        self._kept.seek(piece[0])
        content = self._kept.read(piece[1])
        self._kept.seek(0, 2)
        return content


def _frames_of_each(clips: int, targets: int) -> int:
    """How many frames of each clip a page has room for. Raises UsageError where that is too few."""
    most = MOST_MAPS // (clips * targets)
    if most < FEWEST:
        what = f"{clips} clips" if clips > 1 else "a clip"
        classes = f" of up to {targets} classes each" if targets > 1 else ""
        fewer = [name for name, count in (("clips", clips), ("classes with --class", targets)) if count > 1]
        raise UsageError(
            f"--html: {what}{classes}: one page holds {MOST_MAPS} maps, which is {most} frames of each; name fewer "
            + " or fewer ".join(fewer)
        )
    return most
