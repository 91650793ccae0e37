"""Clips in, one frame at a time, in the order of showing, each with its true time. ``Reader`` is the door.

Video is decoded in ``clip_decoding``, animations in ``clip_animations``; picture sequences and cameras are read here.
The colours of a frame are computed only when start, end, every and fps have kept it. Writing is in ``clip_writers``.
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coda_cli.errors import MediaError, UsageError
from coda_cli.media.sources import resolve
from coda_cli.media.stills import read_image
from coda_cli.video.animations import animation, animation_info, is_animation
from coda_cli.video.decoding import Account, ClipInfo, Coded, opening_of, video
from coda_cli.video.encoders import Kind
from coda_cli.video.spans import TOLERANCE, Box, parse_box, parse_time, pixel_box
from coda_cli.video.writing import KINDS, ClipWriter, kind_of, uninterrupted

__all__ = ["KINDS", "Box", "ClipInfo", "ClipWriter", "Frame", "Kind", "Reader", "Selection", "Source",
           "kind_of", "name_of", "parse_box", "parse_time", "probe", "read_frames", "uninterrupted"]  # fmt: skip

Source = str | Path | int  # a file, a folder or printf pattern of pictures, the index of a camera

SEQUENCE_RATE = 25.0  # pictures a second in a sequence whose rate nobody states


@dataclass(frozen=True)
class Frame:
    """One frame: ``rgb`` uint8 [H, W, 3] sRGB, and when it is shown.

    ``index`` counts the source's frames from 0, lost ones included; ``pts`` is the presentation time stamp in the
    stream's own units (None where there is none); ``time`` is seconds from the clip's first frame; ``duration`` seconds
    as the file states it, or None (the next frame's time is the better witness). ``damaged``: decoded, but from data
    that was broken, or from a frame that was.
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

    start, end   seconds from the clip's first frame; frames with start <= time < end. Exact; a far start is sought.
    every        every N-th frame, counted from the first one in range
    fps          at most this many frames a second: of the moments start + k / fps each takes the frame nearest in
                 time, and no frame is taken twice or invented. Frames keep their own times. For a picture sequence,
                 which has no times, it is the sequence's rate (25 unless given).
    box          (x0, y0, x1, y1) to cut out, as in ``parse_box``
    max_frames   stop after so many

    Raises UsageError for what cannot be meant.
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
                f"no frame lies between {self.start:g} s and {end}: the start must be 0 or more, and first"
            )
        if self.every < 1 or (self.max_frames is not None and self.max_frames < 1):
            raise UsageError("every and max-frames must be 1 or more")
        if self.fps is not None and not 0 < self.fps < float("inf"):
            raise UsageError(f"fps is {self.fps:g}; it must be more than 0, and finite")


class Reader(Account):
    """The selected frames of a clip, for one pass: ``for frame in Reader("clip.mp4"): ...``.

    ``until`` is when the last of them ends: where the range does, however few of its frames were chosen; None after
    ``max_frames``. During and after it ``lost`` is the number of frames in range that could not be decoded, ``damaged``
    of those that were with faults; at its end ``notes`` says both, and whatever else was done or found, in words.
    Raises UsageError for an impossible request; iterating raises MediaError for a clip without a readable frame in it.
    """

    def __init__(self, source: Source, selection: Selection | None = None) -> None:
        selection = selection or Selection()
        super().__init__(selection.start, selection.end)
        self.source, self.selection = source, selection
        self.sequence = not isinstance(source, int) and _is_sequence(source)
        self.fps = None if self.sequence else selection.fps
        self.until: float | None = None
        if selection.every > 1 and self.fps:
            raise UsageError("every and fps both choose frames: give one of them")

    def __iter__(self) -> Generator[Frame]:
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
            raise MediaError(f"{name_of(self.source)}: no frame {span}; {why}")
        if self.lost:
            self.note(f"{self.lost} frame{'s' * (self.lost > 1)} could not be decoded")
        if self.damaged:
            self.note(f"{self.damaged} frame{'s' * (self.damaged > 1)} decoded from damaged data")

    def _decode(self) -> Generator[Coded]:
        if isinstance(self.source, int):
            return _camera(self.source, self)
        if self.sequence:
            return _sequence(self.source, self.selection.fps or SEQUENCE_RATE, self)
        path = Path(self.source)
        return animation(path, self) if is_animation(path) else video(path, self)

    def _chosen(self, coded: Iterator[Coded]) -> Generator[Coded]:
        """The frames in range, thinned out."""
        inside = self._inside(coded)
        if self.fps:
            yield from _nearest(inside, self.start, self.fps)
            return
        first: int | None = None
        for frame in inside:
            first = frame.index if first is None else first
            if (frame.index - first) % self.selection.every == 0:
                yield frame

    def _inside(self, coded: Iterator[Coded]) -> Iterator[Coded]:
        for frame in coded:
            if self.end is not None and frame.time >= self.end - TOLERANCE:
                return
            if frame.time >= self.start - TOLERANCE:
                if frame.duration is not None:
                    self.until = min(frame.time + frame.duration, np.inf if self.end is None else self.end)
                yield frame


def _nearest(frames: Iterator[Coded], start: float, fps: float) -> Iterator[Coded]:
    """The frames that are nearest in time to one of start + k / fps: those whose share of the time holds a tick."""

    def ticks_before(moment: float) -> float:
        return max(0.0, float(np.ceil((moment - start) * fps)))

    low = -np.inf
    for frame, after in _pairs(frames):
        # The last frame's share is as long on its far side as on its near one.
        high = (frame.time + after.time) / 2 if after else 2 * frame.time - low
        if ticks_before(high) > ticks_before(low):
            yield frame
        low = high


def _pairs(frames: Iterator[Coded]) -> Iterator[tuple[Coded, Coded | None]]:
    """Each frame with the next one."""
    before: Coded | None = None
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
    """The frames of a clip in the order of showing: ``Reader`` with a ``Selection``, without the account."""
    return iter(Reader(source, Selection(start, end, every, fps, box, max_frames)))


def probe(source: Source, fps: float | None = None) -> ClipInfo:
    """What a clip is, from its header and its first frame; ``fps`` is the rate of a picture sequence.

    Raises MediaError for what holds no readable frame.
    """
    if isinstance(source, int):
        first = next(iter(Reader(source, Selection(max_frames=1))))
        return ClipInfo(name_of(source), first.rgb.shape[1], first.rgb.shape[0], None, None, None, "camera", False)
    if _is_sequence(source):
        files = _pictures(source)
        height, width = _first_readable(files).shape[:2]
        rate = Fraction(fps or SEQUENCE_RATE).limit_denominator(1001)
        suffix = files[0].suffix.lstrip(".")
        return ClipInfo(name_of(source), width, height, rate, float(len(files) / rate), len(files), suffix, False)
    path = Path(source)
    return animation_info(path) if is_animation(path) else opening_of(path).info


def name_of(source: Source) -> str:
    """How messages call a source."""
    return f"camera {source}" if isinstance(source, int) else str(source)


# ---- picture sequences and cameras -----------------------------------------------------------------------------------

_NUMBER = re.compile(r"%0?(\d*)d")


def _is_sequence(source: str | Path) -> bool:
    path = Path(source)
    return path.is_dir() or bool(_NUMBER.search(path.name) and not path.exists())


def _pictures(source: str | Path) -> list[Path]:
    """The files of a folder, or of a printf pattern, in the order of their numbers. Raises UsageError for none."""
    path = Path(source)
    if path.is_dir():
        return [item.path for item in resolve([str(source)])]
    before, digits, after = _NUMBER.split(path.name, maxsplit=1)
    name = re.compile(rf"{re.escape(before)}(\d{{{digits or 1},}}){re.escape(after)}")
    try:
        found = [(match, file) for file in path.parent.iterdir() if (match := name.fullmatch(file.name))]
    except OSError as error:
        raise UsageError(f"{source}: cannot be read ({error.strerror})") from error
    if not found:
        raise UsageError(f"{source}: no file's name fits this pattern")
    return [file for _, file in sorted(found, key=lambda pair: int(pair[0][1]))]


def _first_readable(files: Sequence[Path]) -> NDArray[np.uint8]:
    """The first picture of a sequence that is one. Raises MediaError, of the first file, where none is."""
    first: MediaError | None = None
    for file in files:
        try:
            return read_image(file).rgb
        except MediaError as error:
            first = first or error
    assert first is not None
    raise first


def _sequence(source: str | Path, rate: float, account: Account) -> Generator[Coded]:
    """A picture that cannot be read, or is of another size, is a frame lost: its moment passes without it."""
    shape: tuple[int, ...] = ()
    for index, file in enumerate(_pictures(source)):
        time = index / rate
        try:
            picture = read_image(file)
        except MediaError as error:
            account.lose(1, time)
            account.note(str(error))
            continue
        shape = shape or picture.rgb.shape
        if picture.rgb.shape != shape:
            height, width, _ = picture.rgb.shape
            account.lose(1, time)
            account.note(f"{file}: {width} x {height} pixels, not {shape[1]} x {shape[0]} as the first: left out")
            continue
        for note in picture.notes:
            account.note(note)

        def colours(rgb: NDArray[np.uint8] = picture.rgb) -> NDArray[np.uint8]:
            return rgb

        yield Coded(index, None, time, 1 / rate, False, colours)


def _camera(number: int, account: Account) -> Generator[Coded]:
    """Frames as they come, until ``end``, ``max_frames`` or the end of the reading; times are when they were got."""
    import cv2

    with contextlib.suppress(AttributeError):  # a missing camera is ten lines of OpenCV's on stderr, and one of ours
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
                account.note("the camera stopped sending frames")
                return
            began = now if began is None else began

            def colours(bgr: Any = bgr) -> NDArray[np.uint8]:
                return np.ascontiguousarray(bgr[..., ::-1])

            yield Coded(index, None, now - began, None, False, colours)
    finally:
        capture.release()
