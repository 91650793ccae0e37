"""Write explained frames: they are drawn in a pool of threads, and encoded in order in one more thread."""

from __future__ import annotations

import hashlib
import os
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np
from numpy.typing import NDArray

from coda_cli.checkpoints.loading import Net
from coda_cli.errors import CodaError
from coda_cli.explanation.clip.drawing import Painter
from coda_cli.explanation.files import FORCE_REPLACES, FilePolicy
from coda_cli.explanation.naming import marked
from coda_cli.explanation.page.clip_entry import ClipEntry
from coda_cli.explanation.picture import Explanation
from coda_cli.explanation.regions.shapes import Region
from coda_cli.machine import budget
from coda_cli.media.files import alone, atomic, regular_size, utf8
from coda_cli.schema.clips import ClipRecord, FrameRecord
from coda_cli.schema.parts import to_json
from coda_cli.video.reading import ClipWriter, Frame, Kind

RGB = NDArray[np.uint8]


@dataclass(frozen=True)
class ClipOutputs:
    """What is written about a clip.

    Attributes:
        clips: the files, or folders of pictures, by their kind.
        record: the file of records, one line for each frame and one for the clip.
        audio: whether the sound is kept, where a kind can hold it.
        replace: whether files that exist are replaced.
        entry: the clip's part of a page, where there is to be one.
    """

    clips: Mapping[Kind, Path] = field(default_factory=dict)
    record: Path | None = None
    audio: bool = True
    replace: bool = False
    entry: ClipEntry | None = None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let no other run write these files while the block runs.

        Of several runs that want the same files, one goes on; the others need not compute a clip to find out.

        Yields:
            Nothing.

        Raises:
            UsageError: another run writes one of the files.
            MediaError: a file exists that may not be replaced: another run may have ended since it was looked for.
        """
        policy = FilePolicy("overwrite" if self.replace else "error", (), advice=FORCE_REPLACES)
        paths = [*self.clips.values(), *([self.record] if self.record else [])]
        with ExitStack() as locks:
            for path in paths:
                locks.enter_context(alone(path, "name another --output"))
            for path in paths:
                policy.place(path)
            yield


def stored_clip(path: Path) -> ClipRecord | None:
    """Read the record of a clip from a file of records, of which it is the last line.

    Args:
        path: a .coda.jsonl file.

    Returns:
        The record; None where there is no such file, or it does not end in a record of a clip.
    """
    try:
        with path.open("rb") as stream:
            stream.seek(-min(regular_size(path, sys.maxsize), budget.RECORD_FILE), os.SEEK_END)
            return ClipRecord.model_validate_json(stream.read(budget.RECORD_FILE).rstrip().rpartition(b"\n")[2])
    except (CodaError, OSError, ValueError):
        return None


def beside(outputs: ClipOutputs, stored: ClipRecord, sha256: str | None, net: Net, settings: str) -> ClipOutputs:
    """Choose names beside those of the same clip that another network, other settings or another format made.

    Args:
        outputs: the files as their names say.
        stored: the record that is there.
        sha256: of the clip that is to be explained.
        net: the network.
        settings: the hash of what is asked.

    Returns:
        The same with a mark in all names. The names themselves where these results are there already, or those of
        another clip.
    """
    there = (stored.network.sha256, stored.settings) == (net.sha256, settings) and {*outputs.clips} <= {*stored.files}
    if there or sha256 is None or stored.source.sha256 != sha256:
        return outputs
    mark = hashlib.sha256(repr((settings, net.sha256, sorted(outputs.clips))).encode()).hexdigest()[:8]
    clips = {kind: marked(path, mark) for kind, path in outputs.clips.items()}
    return replace(outputs, clips=clips, record=outputs.record and marked(outputs.record, mark))


OWN = '{"schema":"coda.clip"}'  # the comment of a GIF, by which a scan of its folder knows that coda drew it


class Sink:
    """Writes frames into clips and a file of records; these files get their names in ``finish``.

    Args:
        painter: draws the frames.
        outputs: what is written.
        rate: frames a second, if constant.
        audio: the clip whose sound is kept.
    """

    def __init__(self, painter: Painter, outputs: ClipOutputs, rate: Fraction | None, audio: Path | None) -> None:
        self.painter, self._entry = painter, outputs.entry
        with ExitStack() as stack:
            # Opened first, it is closed last: the record's presence says that the clips are complete.
            self._lines: IO[bytes] | None = None
            if outputs.record:
                self._lines = stack.enter_context(atomic(outputs.record, replace=outputs.replace))
            self._writers = [
                stack.enter_context(
                    ClipWriter(
                        clip,
                        kind,
                        rate=rate,
                        audio=audio if outputs.audio else None,
                        comment=OWN,
                        replace=outputs.replace,
                    )
                )
                for kind, clip in outputs.clips.items()
            ]
            self._stack = stack.pop_all()
        self._drawing = ThreadPoolExecutor(budget.painters())
        self._encoding = ThreadPoolExecutor(1)
        self._pending: deque[Future[None]] = deque()
        self._most = budget.FRAMES_UNDER_WAY

    def __enter__(self) -> Sink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._drawing.shutdown(cancel_futures=True)
        self._encoding.shutdown(cancel_futures=True)
        if kind is not None and not issubclass(kind, Exception):
            # Told of Ctrl-C, the writers would keep a partial clip; only finish() decides about that.
            kind, error = RuntimeError, RuntimeError()
        self._stack.__exit__(kind, error, trace)

    def put(self, frame: Frame, explanation: Explanation, record: FrameRecord, regions: Sequence[Region] = ()) -> None:
        """Draw and encode one frame, in threads.

        Args:
            frame: the frame.
            explanation: its explanation.
            record: its record.
            regions: those that are outlined.
        """
        if self._writers or self._entry:
            self._most = budget.frames_held(budget.FRAMES_UNDER_WAY, frame.rgb.nbytes)
        if self._writers:
            self.painter.prepare(frame, record)
            drawn = self._drawing.submit(self.painter.draw, frame, explanation, record, regions)
            self._pending.append(self._encoding.submit(self._write, drawn, frame))
        if self._entry and (number := self._entry.count(frame, record)) is not None:
            made = self._drawing.submit(self._entry.made, frame, explanation, record, regions, self.painter.origin)
            self._pending.append(self._encoding.submit(self._entry.put, number, made))
        if self._lines:
            self._lines.write(to_json(record).encode() + b"\n")

    def wait(self) -> None:
        """Wait while too many frames are not written yet. Errors of drawing and encoding are raised here."""
        while len(self._pending) > self._most:
            self._pending.popleft().result()

    def _write(self, drawn: Future[RGB], frame: Frame) -> None:
        """Write one frame into every clip, when it has been drawn."""
        for writer in self._writers:
            writer.write(drawn.result(), frame.time, frame.duration)

    def finish(self, summary: ClipRecord) -> ClipRecord:
        """Complete the files and give them their names.

        Args:
            summary: the clip's record.

        Returns:
            The record, with the notes of the writers.

        Raises:
            MediaError: a file cannot be written.
        """
        while self._pending:
            self._pending.popleft().result()
        for writer in self._writers:
            writer.finish()
        notes = dict.fromkeys(utf8(note) for writer in self._writers for note in writer.notes)
        summary = summary.model_copy(update={"notes": (*summary.notes, *notes)})
        if self._lines:
            self._lines.write(to_json(summary).encode() + b"\n")
        self._stack.close()
        return summary
