"""Clips in, one frame at a time, in the order of showing, each with its true time. Callers use ``Reader``.

Video is decoded in ``decoding``, animations in ``animations``, and sequences of pictures in ``sequences``; cameras are
read here. The colours of a frame are computed only when start, end, every and fps have kept it. Writing is in
``writing``; what callers need of it can be imported from here.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coda_cli.errors import MediaError, UsageError
from coda_cli.video.animations import animation_frames, animation_info, is_animation
from coda_cli.video.decoding import ClipInfo, CodedFrame, DecodingLog, opening_of, video_frames
from coda_cli.video.encoders import Kind
from coda_cli.video.sequences import SEQUENCE_RATE, is_sequence, sequence_frames, sequence_info
from coda_cli.video.spans import TOLERANCE, Box, parse_box, parse_time, pixel_box
from coda_cli.video.writing import KINDS, ClipWriter, kind_of, uninterrupted

__all__ = [
    "KINDS",
    "Box",
    "ClipInfo",
    "ClipWriter",
    "Frame",
    "Kind",
    "Reader",
    "Selection",
    "Source",
    "kind_of",
    "parse_box",
    "parse_time",
    "probe",
    "read_frames",
    "source_name",
    "uninterrupted",
]

Source = str | Path | int  # a file, a folder or printf pattern of pictures, the index of a camera


LONGEST_HELD = 600.0  # seconds that a last frame is believed to last where only the header of the file says so


@dataclass(frozen=True)
class Frame:
    """One frame, and when it is shown.

    Attributes:
        index: number of the frame in the source, from 0; lost frames are counted too.
        pts: presentation time stamp in the stream's units; None where there is none.
        time: seconds from the clip's first frame.
        duration: seconds as the file states them, or None; the time of the next frame is more reliable.
        damaged: whether it was decoded from broken data, or from a frame that was.
        rgb: uint8 [H, W, 3] sRGB.
    """

    index: int
    pts: int | None
    time: float
    duration: float | None
    damaged: bool
    rgb: NDArray[np.uint8]


@dataclass(frozen=True)
class Selection:
    """Which frames of a clip are asked for, and which part of them.

    Making one raises UsageError for values that make no sense.

    Attributes:
        start: seconds from the clip's first frame; frames with start <= time < end are taken. Frames that lie far
            before it are skipped without being decoded.
        end: seconds from the clip's first frame; None for the end of the clip.
        every: take every N-th frame, counted from the first one in range.
        fps: at most this many frames a second. Of the moments start + k / fps each takes the frame that is nearest in
            time; no frame is taken twice or invented, and frames keep their own times. For a sequence of pictures,
            which has no times, it is the sequence's rate (25 unless given).
        box: (x0, y0, x1, y1) to cut out, as in ``parse_box``.
        max_frames: stop after this many.
    """

    start: float = 0.0
    end: float | None = None
    every: int = 1
    fps: float | None = None
    box: Box | None = None
    max_frames: int | None = None

    def __post_init__(self) -> None:
        if self.start < 0 or (self.end is not None and self.end <= self.start):
            end = "the end" if self.end is None else f"{self.end:g} s"
            raise UsageError(
                f"no frame lies between {self.start:g} s and {end}: the start must be 0 or more, and before the end"
            )
        if self.every < 1 or (self.max_frames is not None and self.max_frames < 1):
            raise UsageError("every and max-frames must be 1 or more")
        if self.fps is not None and not 0 < self.fps < float("inf"):
            raise UsageError(f"fps is {self.fps:g}; it must be more than 0, and finite")


class Reader(DecodingLog):
    """The selected frames of a clip, to be read once, and the log of what was lost on the way.

    At the end of the reading ``notes`` says in words what was lost, damaged or changed. Iterating raises MediaError
    when there is no frame in range that can be read.

    Example:
        for frame in Reader("clip.mp4"):
            print(frame.time, frame.rgb.mean())

    Attributes:
        source: what is read.
        selection: which frames are asked for.
        fps: at most this many frames a second are taken; None where they are not thinned by time.
        until: seconds from the clip's first frame at which the last chosen frame ends: the end of the range, however
            few of its frames were chosen; None after ``max_frames``.
    """

    def __init__(self, source: Source, selection: Selection | None = None) -> None:
        """Prepare the reading; nothing is opened yet.

        Args:
            source: a file, a folder or printf pattern of pictures, or the number of a camera.
            selection: which frames are asked for; all of them unless given.

        Raises:
            UsageError: when both ``every`` and ``fps`` choose frames.
        """
        selection = selection or Selection()
        super().__init__(selection.start, selection.end)
        self.source, self.selection = source, selection
        self._is_sequence = not isinstance(source, int) and is_sequence(source)
        self.fps = None if self._is_sequence else selection.fps
        self.until: float | None = None
        if selection.every > 1 and self.fps:
            raise UsageError("every and fps both choose frames: give one of them")

    def __iter__(self) -> Generator[Frame]:
        """Read the clip once, frame by frame."""
        window: tuple[slice, slice] | None = None
        yielded = 0
        with contextlib.closing(self._decode()) as coded, contextlib.closing(self._chosen(coded)) as chosen:
            for frame in itertools.islice(chosen, self.selection.max_frames):
                rgb = frame.colours()
                if self.selection.box and window is None:
                    x0, y0, x1, y1 = pixel_box(self.selection.box, (rgb.shape[1], rgb.shape[0]))
                    window = slice(y0, y1), slice(x0, x1)
                rgb = np.ascontiguousarray(rgb[window]) if window else rgb
                self.damaged += frame.damaged
                yielded += 1
                if yielded == self.selection.max_frames:
                    self.until = None
                yield Frame(frame.index, frame.pts, frame.time, frame.duration, frame.damaged, rgb)
        if not yielded:
            span = f"from {self.start:g} s" + (f" to {self.end:g} s" if self.end is not None else "")
            why = "; ".join(self.notes) or "look at the length of the clip"
            raise MediaError(f"{source_name(self.source)}: no frame {span}; {why}")
        if self.lost:
            self.note(f"{self.lost} frame{'s' * (self.lost > 1)} could not be decoded")
        if self.damaged:
            self.note(f"{self.damaged} frame{'s' * (self.damaged > 1)} decoded from damaged data")

    def _decode(self) -> Generator[CodedFrame]:
        """All frames of the source, or at least those in range."""
        if isinstance(self.source, int):
            return _camera_frames(self.source, self)
        if self._is_sequence:
            return sequence_frames(self.source, self.selection.fps or SEQUENCE_RATE, self)
        path = Path(self.source)
        return animation_frames(path, self) if is_animation(path) else video_frames(path, self)

    def _chosen(self, coded: Iterator[CodedFrame]) -> Generator[CodedFrame]:
        """The frames in range that ``every`` or ``fps`` keeps."""
        inside = self._inside(coded)
        if self.fps:
            yield from _nearest(inside, self.start, self.fps)
            return
        first: int | None = None
        for frame in inside:
            first = frame.index if first is None else first
            if (frame.index - first) % self.selection.every == 0:
                yield frame

    def _inside(self, coded: Iterator[CodedFrame]) -> Iterator[CodedFrame]:
        """The frames in range."""
        for frame in coded:
            if self.end is not None and frame.time >= self.end - TOLERANCE:
                return
            if frame.time >= self.start - TOLERANCE:
                if frame.duration is not None:
                    self.until = min(frame.time + frame.duration, np.inf if self.end is None else self.end)
                yield frame
        if self.until is not None and self.until < self.shown_until < self.until + LONGEST_HELD:
            self.until = min(self.shown_until, np.inf if self.end is None else self.end)


def _nearest(frames: Iterator[CodedFrame], start: float, fps: float) -> Iterator[CodedFrame]:
    """The frames that are nearest in time to one of the moments start + k / fps.

    A frame is nearest to the moments between two middles: the one between it and the frame before, and the one
    between it and the frame after.
    """

    def ticks_before(moment: float) -> float:
        return max(0.0, float(np.ceil((moment - start) * fps)))

    low = -np.inf
    for frame, after in _pairs(frames):
        # After the last frame, as much time belongs to it as before it.
        high = (frame.time + after.time) / 2 if after else 2 * frame.time - low
        if ticks_before(high) > ticks_before(low):
            yield frame
        low = high


def _pairs(frames: Iterator[CodedFrame]) -> Iterator[tuple[CodedFrame, CodedFrame | None]]:
    """Each frame with the one after it."""
    before: CodedFrame | None = None
    for frame in frames:
        if before:
            yield before, frame
        before = frame
    if before:
        yield before, None


def read_frames(
    source: Source,
    *,
    start: float = 0.0,
    end: float | None = None,
    every: int = 1,
    fps: float | None = None,
    box: Box | None = None,
    max_frames: int | None = None,
) -> Generator[Frame]:
    """Read the frames of a clip in the order of showing, without a log; the arguments are those of ``Selection``.

    Args:
        source: a file, a folder or printf pattern of pictures, or the number of a camera.
        start: seconds from the clip's first frame.
        end: seconds from the clip's first frame; None for its end.
        every: take every N-th frame.
        fps: take at most this many frames a second.
        box: (x0, y0, x1, y1) to cut out.
        max_frames: stop after this many.

    Yields:
        The frames.

    Raises:
        UsageError: for a selection that makes no sense.
        MediaError: when there is no frame in range that can be read.
    """
    return iter(Reader(source, Selection(start, end, every, fps, box, max_frames)))


def probe(source: Source, fps: float | None = None) -> ClipInfo:
    """Find out what a clip is, from its header and its first frame.

    Args:
        source: a file, a folder or printf pattern of pictures, or the number of a camera.
        fps: pictures a second of a sequence of pictures.

    Returns:
        Its size, rate, length and number of frames.

    Raises:
        MediaError: when it has no frame that can be read.
    """
    if isinstance(source, int):
        first = next(iter(Reader(source, Selection(max_frames=1))))
        return ClipInfo(source_name(source), first.rgb.shape[1], first.rgb.shape[0], None, None, None, "camera", False)
    if is_sequence(source):
        return sequence_info(source, fps or SEQUENCE_RATE)
    path = Path(source)
    return animation_info(path) if is_animation(path) else opening_of(path).info


def source_name(source: Source) -> str:
    """Say how messages name a source.

    Args:
        source: a file, a folder or printf pattern of pictures, or the number of a camera.

    Returns:
        The path, or the camera with its number.
    """
    return f"camera {source}" if isinstance(source, int) else str(source)


def _camera_frames(number: int, log: DecodingLog) -> Generator[CodedFrame]:
    """Frames of a camera as they come, until the reader stops; their times are those at which they came."""
    from coda_cli.opencv import cv2

    with contextlib.suppress(AttributeError):  # for a missing camera OpenCV prints ten lines, and one error says enough
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    capture = cv2.VideoCapture(number)
    try:
        if not capture.isOpened():
            raise MediaError(f"camera {number}: cannot be opened; is it plugged in, allowed, and free?")
        began = None
        for index in itertools.count():
            got, bgr = capture.read()
            now = monotonic()
            if not got:
                log.note("the camera stopped sending frames")
                return
            began = now if began is None else began

            def colours(bgr: Any = bgr) -> NDArray[np.uint8]:
                return np.ascontiguousarray(bgr[..., ::-1])

            yield CodedFrame(index, None, now - began, None, False, colours)
    finally:
        capture.release()
