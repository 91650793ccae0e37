"""A page about clips: the frames of one after the other are kept on disk, and the file appears whole at the end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import IO, Self

from markupsafe import Markup

from coda_cli.checkpoints.loading import Net
from coda_cli.errors import CodaError, UsageError
from coda_cli.explanation.page.clip_entry import ClipEntry
from coda_cli.explanation.page.output import Kept, PagePath
from coda_cli.explanation.page.report import MOST_MAPS, drawing_numbers
from coda_cli.explanation.page.templates import page_of
from coda_cli.explanation.record import network_part
from coda_cli.explanation.request import Request
from coda_cli.media.files import utf8
from coda_cli.schema.clips import ClipRecord
from coda_cli.video.reading import Selection, Source

FEWEST = 10  # frames of a clip that a page must have room for; with fewer, its plot chooses among next to nothing


class ClipReport:
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
        files = [Path(source) for source in sources if not isinstance(source, int)]
        self._where = PagePath(path, "overwrite" if force else "error", files)
        self._net, self._alpha, self._kept = net, alpha, Kept(path)
        self._clips, self._failures = list[list[int]](), list[str]()

    def __enter__(self) -> Self:
        self._kept.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._kept.__exit__()

    def begin(self) -> ClipEntry:
        """Begin the part about the next clip.

        Returns:
            What its frames are given to.
        """
        return ClipEntry(self._kept, self._most, self._alpha)

    def add_clip(self, entry: ClipEntry, summary: ClipRecord) -> None:
        """Take in a clip that is explained.

        Args:
            entry: what its frames were given to.
            summary: its record.

        Raises:
            MediaError: the disk is full.
        """
        self._clips.append(list(entry.parts(summary)))

    def fail(self, error: CodaError) -> None:
        """Note a clip that could not be explained.

        Args:
            error: why.
        """
        self._failures.append(utf8(str(error)))

    def finish(self) -> Path | None:
        """Write the file.

        Returns:
            Its path; None where a file exists and is kept.

        Raises:
            CodaError: a file of this name came in the meantime and may not be replaced, or the disk is full.
        """
        return self._where.write(self._fill)

    def _fill(self, stream: IO[bytes]) -> None:
        """Write the page into a stream."""
        count = len(self._clips)
        page_of(
            "page.html",
            stream,
            scripts=("maps.js", "pointing.js", "sheet.js", "page.js", "clip.js"),
            styles=("page.css", "clip.css"),
            config=drawing_numbers(self._alpha),
            noun="clip",
            count=f"{count} {'clip' if count == 1 else 'clips'}",
            pager=None,
            network=network_part(self._net),
            entries=(Markup(self._kept[number]) for parts in self._clips for number in parts),
            failures=self._failures,
        )


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
