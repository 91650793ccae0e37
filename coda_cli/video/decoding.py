"""Video out of its files: frames in the order of showing, with true times, whose colours are still to be computed.

PyAV is used, not imageio, whose frames come without times and not turned. ``CodedFrame`` and ``DecodingLog`` are what
every kind of clip gives: a generator of frames, and what was lost or changed. Memory does not grow with the length of
the clip. ``reading`` is the module for callers; it chooses among the frames.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from coda_cli.errors import MediaError
from coda_cli.video.colours import orientation_of, refuse_large_frames, shown
from coda_cli.video.containers import (
    as_fraction,
    decoder_of,
    has_guessed_stamps,
    is_cut_off,
    open_container,
    reason_of,
    seconds_of,
    stated_duration,
    stated_end,
    track_note,
    video_stream,
)
from coda_cli.video.spans import TOLERANCE

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

# Seconds by which a seek aims too early: containers index the order of decoding, which is ahead of that of showing.
MARGIN = 0.5


@dataclass(frozen=True)
class ClipInfo:
    """What a clip is, as far as its header and first frame tell; None where the source does not say.

    Attributes:
        path: the source, as messages name it.
        width: pixels as shown, after rotation.
        height: pixels as shown, after rotation.
        rate: average number of frames a second.
        duration: seconds.
        frames: how many there are, an estimate.
        codec: what the frames are coded in, by libav's name; "camera" for a camera.
        has_audio: whether there is sound in it.
        time_base: seconds of one unit of ``pts``, written as a fraction.
        notes: in words, what decoding changes or cannot correct.
    """

    path: str
    width: int
    height: int
    rate: Fraction | None
    duration: float | None
    frames: int | None
    codec: str
    has_audio: bool
    time_base: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class CodedFrame:
    """A frame whose colours are computed only when they are asked for: with ``--every 10``, nine in ten never are.

    Attributes:
        index: number of the frame in the source, from 0.
        pts: presentation time stamp in the stream's units; None where there is none.
        time: seconds from the clip's first frame.
        duration: seconds as the file states them; None where it does not.
        damaged: whether it was decoded from broken data.
        colours: computes uint8 [H, W, 3] sRGB.
    """

    index: int
    pts: int | None
    time: float
    duration: float | None
    damaged: bool
    colours: Callable[[], NDArray[np.uint8]]


class DecodingLog:
    """What was lost and what was changed while the frames of a clip were decoded.

    Attributes:
        start: seconds from the clip's first frame at which the part begins that was asked for.
        end: seconds at which that part ends; None for the end of the clip.
        lost: frames of that part that could not be decoded.
        damaged: frames of that part that were decoded with faults.
        notes: in words, what was wrong and what was changed.
        passed: frames of the source dealt with so far, decoded or lost, in that part or not.
        broken: whether the file could not be read to its end.
        shown_until: seconds to the end of the last frame, as the header alone says; 0 where it does not.
    """

    def __init__(self, start: float = 0.0, end: float | None = None) -> None:
        """Begin an empty log.

        Args:
            start: seconds from the clip's first frame.
            end: seconds from the clip's first frame, or None for its end.
        """
        self.start, self.end = start, end
        self.lost, self.damaged, self.notes = 0, 0, list[str]()
        self.passed, self.broken, self.shown_until = 0, False, 0.0

    def note(self, text: str) -> None:
        """Add a line to ``notes``, unless it is there already.

        Args:
            text: the line.
        """
        if text not in self.notes:
            self.notes.append(text)

    def lose(self, count: int, time: float) -> None:
        """Count frames as lost, if they are in the part that was asked for.

        Args:
            count: how many frames.
            time: about when they would have been shown, in seconds from the clip's first frame.
        """
        if count > 0 and time >= self.start - TOLERANCE and (self.end is None or time < self.end):
            self.lost += count


@dataclass(frozen=True)
class Opening:
    """What has to be known before the first frame is given.

    Attributes:
        info: what the clip is.
        zero: presentation time of the first frame in seconds; the clip's own time begins there.
    """

    info: ClipInfo
    zero: Fraction


def opening_of(path: Path) -> Opening:
    """Decode a video up to its first frame.

    Args:
        path: the file.

    Returns:
        What the header and the first frame tell.

    Raises:
        MediaError: when the file cannot be read, or has no frame that can be decoded.
    """
    with open_container(path) as container:
        stream = video_stream(path, container)
        frame, _ = next(_decoded(stream, DecodingLog()), (None, False))
        if frame is None:
            raise MediaError("none of its video can be decoded; the file is broken or cut off too early", item=path)
        turned = orientation_of(frame).turns % 2
        width, height = (frame.height, frame.width) if turned else (frame.width, frame.height)
        refuse_large_frames(path, (width, height))
        rate = as_fraction(stream.average_rate) or None
        zero = seconds_of(frame.pts, stream)
        duration = stated_duration(container, stream, zero)
        frames = stream.frames or (round(duration * rate) if duration and rate else None)
        sound = bool(container.streams.audio)
        codec, time_base = stream.codec_context.name, str(as_fraction(stream.time_base)) if stream.time_base else None
        notes = track_note(container, stream) + _notes_on(frame)
        if (shape := as_fraction(stream.sample_aspect_ratio)) not in (0, 1):
            notes += (f"its pixels are not square ({shape.numerator}:{shape.denominator}): shown as they are stored",)
        info = ClipInfo(str(path), width, height, rate, duration, frames, codec, sound, time_base, notes)
        return Opening(info, zero)


def _notes_on(frame: VideoFrame) -> tuple[str, ...]:
    """What decoding changes or cannot correct in frames such as this one."""
    from av.video.reformatter import ColorTrc

    notes = []
    if note := orientation_of(frame).note:
        notes.append(note)
    bits = max(component.bits for component in frame.format.components)
    if bits > 8:
        notes.append(f"{bits}-bit converted to 8")
    if frame.color_trc in (ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67):
        notes.append("high dynamic range shown without tone mapping: its colours look pale")
    if frame.interlaced_frame:
        notes.append("interlaced: its fields are not separated")
    return tuple(notes)


def video_frames(path: Path, log: DecodingLog) -> Generator[CodedFrame]:
    """Decode a video from the part on that was asked for.

    Args:
        path: the file.
        log: where that part begins; what is lost or changed is added to it.

    Yields:
        The frames from ``log.start`` on, in the order of showing, a few earlier ones included.

    Raises:
        MediaError: when the file cannot be read, or has no frame that can be decoded.
    """
    from av.video.reformatter import VideoReformatter

    opening = opening_of(path)
    for note in opening.info.notes:
        log.note(note)
    reformatter, size = VideoReformatter(), (opening.info.width, opening.info.height)
    rate = opening.info.rate or Fraction(25)
    key = _key_frame_before(path, opening.zero + Fraction(log.start - MARGIN)) if log.start > MARGIN else None
    with open_container(path) as container:
        stream = video_stream(path, container)
        # Not thread_type "AUTO": with frame threads libav drops good frames beside a broken one (measured).
        if key:
            container.seek(key.pts, stream=stream)
            log.passed = key.index
        end = 0.0
        for frame, damaged in _decoded(stream, log, opening.zero, key):
            number = log.passed - 1
            time = float(seconds_of(frame.pts, stream) - opening.zero)
            if frame.pts is None:  # a bare stream of H.264 has no times
                time = float(number / rate)
                log.note(f"no time stamps in it: taken as {float(rate):g} frames a second")
            duration = float(seconds_of(frame.duration, stream)) or None
            end = time + (duration or 0.0)

            def colours(frame: VideoFrame = frame) -> NDArray[np.uint8]:
                refuse_large_frames(path, (frame.width, frame.height))
                rgb, changes = shown(frame, size, reformatter)
                for change in changes:
                    log.note(change)
                return rgb

            yield CodedFrame(number, frame.pts, time, duration, damaged, colours)
        log.shown_until = 0.0 if log.broken else stated_end(path, container, stream, opening.zero)
        ends = _Ends(path, log.passed, end, opening.zero, float(rate), log.broken)
        missing = _missing_at_the_end(container, stream, ends)
        if missing > 0:
            log.lose(missing, end)
            log.note(f"cut off after {end:.2f} s; frames missing at the end: {missing}")


class _Ends(NamedTuple):
    """How far the reading of a file came: what frames that are missing at its end are counted from."""

    path: Path
    passed: int  # frames
    end: float  # seconds from the first frame
    zero: Fraction  # the file's own time of the first frame, in seconds
    rate: float  # frames a second
    broken: bool  # whether the file could not be read on


def _missing_at_the_end(container: InputContainer, stream: VideoStream, ends: _Ends) -> int:
    """How many of the frames that its header promises a file did not hold, once it has been read to its end."""
    if container.format.name.startswith("mov"):
        # The index is whole even where the data are cut off. It marks frames that an edit list hides; the header's
        # count does not.
        return sum(not entry.is_discard for entry in stream.index_entries) - ends.passed
    # Other formats only state a length. Of a file that is whole, it may count from before the first frame, or to the
    # end of a last frame that is shown for long: only where bytes are missing are frames missing.
    if not (ends.broken or is_cut_off(ends.path)):
        return 0
    # That of a whole Matroska may be the length of its sound.
    own = "DURATION" in stream.metadata or (container.format.name == "avi" and stream.duration)
    short = (stated_duration(container, stream, ends.zero) or 0.0) - ends.end if own else 0.0
    return round(short * ends.rate) if short > 0.5 else 0


def _decoded(
    stream: VideoStream, log: DecodingLog, zero: Fraction = Fraction(0), key: _Key | None = None
) -> Iterator[tuple[VideoFrame, bool]]:
    """Frames, and whether they are damaged; frames that never come are counted in ``log``.

    A packet's frame comes out later, in the order of showing. The stamps of packets whose frame has not come out are
    therefore kept (a dozen at most). When a frame comes out and an older stamp is still kept, that stamp's frame is
    lost; libav often does not report it. After a seek, what is shown before the key frame is left out.
    """
    import av

    shown = key.pts - 1 if key else None  # the stamp of the last frame
    waiting, decode, guessed = list[int](), decoder_of(stream), has_guessed_stamps(stream)
    mending = False  # after a loss, frames refer to what was lost, until the next key frame
    for packet in _until_broken(stream, log):
        if packet.pts is not None and packet.size and _shows(packet, stream) and not (key and packet.pts < key.pts):
            waiting.append(packet.pts)
        try:
            frames = decode(packet)
        except av.error.BlockingIOError as error:  # when the decoder is made; the file may be whole
            name = stream.container.name.removeprefix("file:")
            raise MediaError("the system allows no more threads to decode it with; see ulimit -u", item=name) from error
        except av.FFmpegError:
            if packet.pts is None:  # one with a stamp is counted when its turn has passed
                mending = True
                log.lose(1, log.start)
                log.passed += 1
            continue
        for frame in frames:
            if guessed and waiting:
                frame.pts = min(waiting)
            if shown is not None and frame.pts is not None and frame.pts <= shown:
                continue  # it belongs before the key frame, or came out of order after damage and counts as lost
            shown = frame.pts
            gone = _overtaken(waiting, frame.pts)
            for pts in gone:
                log.lose(1, float(seconds_of(pts, stream) - zero))
            intact = frame.key_frame and not frame.is_corrupt
            mending = not intact and (mending or bool(gone) or frame.is_corrupt)
            log.passed += len(gone) + 1
            yield frame, mending
    for pts in waiting:
        log.lose(1, float(seconds_of(pts, stream) - zero))
    log.passed += len(waiting)


def _until_broken(stream: VideoStream, log: DecodingLog) -> Iterator[Packet[VideoStream]]:
    """The packets of a stream up to its end, or up to where the file is broken."""
    import av

    packets = stream.container.demux(stream)  # type: ignore[attr-defined]
    while True:
        try:
            packet = next(packets, None)
        except av.FFmpegError as error:
            log.note(f"broken inside ({reason_of(error)}): read up to there")
            log.broken = True
            return
        if packet is None:
            return
        yield packet


def _shows(packet: Packet[VideoStream], stream: VideoStream) -> bool:
    """Whether a packet has a frame to show: one that an edit list hides has none, nor has a hidden VP8 frame."""
    return not packet.is_discard and not (stream.codec_context.name == "vp8" and not bytes(packet)[0] & 0x10)


def _overtaken(waiting: list[int], pts: int | None) -> list[int]:
    """Remove the stamp of a frame that came out from those waiting, and the older ones, which are returned."""
    if pts is None or pts not in waiting:  # the decoder makes its own stamps, so nothing can be counted
        del waiting[:1]
        return []
    waiting.remove(pts)
    gone = sorted(stamp for stamp in waiting if stamp < pts)
    waiting[:] = [stamp for stamp in waiting if stamp >= pts]
    return gone


@dataclass(frozen=True)
class _Key:
    """A key frame to start from: how many frames are shown before it, and its time stamp."""

    index: int
    pts: int


def _key_frame_before(path: Path, target: Fraction) -> _Key | None:
    """The key frame that a seek to ``target`` (seconds of the file's own time) finds.

    Its index is counted from the packets before it, which takes reading but no decoding. None means to decode from the
    beginning: stamps are missing, or the format cannot seek.
    """
    import av

    with open_container(path) as container:
        stream = video_stream(path, container)
        if not stream.time_base or has_guessed_stamps(stream):
            return None
        goal = int(target / as_fraction(stream.time_base))
        try:
            container.seek(goal, stream=stream)
            key = next(container.demux(stream))
        except (av.FFmpegError, StopIteration):
            return None
        if key.pts is None or not key.is_keyframe or key.pts > goal:
            return None
        found = key.pts
    with open_container(path) as container:
        stream, index = video_stream(path, container), 0
        for packet in container.demux(stream):
            if packet.dts is not None and packet.dts >= found:  # nothing later in the file is shown earlier
                return _Key(index, found)
            if packet.pts is None:
                return None
            index += packet.pts < found and _shows(packet, stream)
    return None
