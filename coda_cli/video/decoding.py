"""Video out of its files: frames in the order of showing, with true times, whose colours are still to be computed.

PyAV and not imageio, whose frames come without times and unturned. ``Coded`` and ``Account`` are what every kind of
clip gives: a generator of frames, and what was lost or changed. Nothing here depends on the length of the clip.
``clips`` is the door; it chooses among the frames.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from coda_cli.errors import MediaError
from coda_cli.media.stills import _refuse_bombs
from coda_cli.video.containers import as_fraction, open_container, reason_of, seconds_of, stated_duration, video_stream
from coda_cli.video.spans import TOLERANCE

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.reformatter import VideoReformatter
    from av.video.stream import VideoStream

MARGIN = 0.5  # seconds that a seek lands early: containers index the decoding order, which runs ahead of the showing


@dataclass(frozen=True)
class ClipInfo:
    """What a clip is, as far as its header and first frame tell.

    ``width`` and ``height`` are pixels as shown, after rotation; ``rate`` the average number of frames a second;
    ``duration`` seconds; ``frames`` an estimate. None where the source does not say.
    """

    path: str
    width: int
    height: int
    rate: Fraction | None
    duration: float | None
    frames: int | None
    codec: str
    has_audio: bool
    time_base: str | None = None  # seconds of one pts, as a fraction
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Coded:
    """A frame whose colours are still to be computed: of ``--every 10`` nine in ten never are."""

    index: int
    pts: int | None
    time: float
    duration: float | None
    damaged: bool
    colours: Callable[[], NDArray[np.uint8]]


class Account:
    """What became of a clip's frames between ``start`` and ``end`` (seconds from its first one; None is its end).

    ``lost``: could not be decoded. ``damaged``: decoded, but with faults. ``notes``: in words, what was wrong and what
    was changed on the way.
    """

    def __init__(self, start: float = 0.0, end: float | None = None) -> None:
        self.start, self.end = start, end
        self.lost, self.damaged, self.notes = 0, 0, list[str]()
        self.passed = 0  # frames of the source dealt with so far, decoded or lost, in range or not

    def note(self, text: str) -> None:
        """Add to ``notes``, once."""
        if text not in self.notes:
            self.notes.append(text)

    def lose(self, count: int, time: float) -> None:
        """Count frames about ``time`` as lost, if they were asked for."""
        if count > 0 and time >= self.start - TOLERANCE and (self.end is None or time < self.end):
            self.lost += count


@dataclass(frozen=True)
class Opening:
    """What has to be known before the first frame: ``zero``, its presentation time in seconds, begins the clip."""

    info: ClipInfo
    zero: Fraction
    size: tuple[int, int]  # as coded, before rotation


def opening_of(path: Path) -> Opening:
    """Decode a video up to its first frame. Raises MediaError where there is none."""
    with open_container(path) as container:
        stream = video_stream(path, container)
        frame, _ = next(_decoded(stream, Account()), (None, False))
        if frame is None:
            raise MediaError(f"{path}: none of its video can be decoded; the file is broken or cut off too early")
        turned = _quarter_turns(frame) % 2
        width, height = (frame.height, frame.width) if turned else (frame.width, frame.height)
        _refuse_bombs(path, (width, height))
        rate = as_fraction(stream.average_rate) or None
        duration = stated_duration(container, stream)
        frames = stream.frames or (round(duration * rate) if duration and rate else None)
        sound = bool(container.streams.audio)
        codec, time_base = stream.codec_context.name, str(as_fraction(stream.time_base)) if stream.time_base else None
        notes = _notes_on(frame)
        if (shape := as_fraction(stream.sample_aspect_ratio)) not in (0, 1):
            notes += (f"its pixels are not square ({shape.numerator}:{shape.denominator}): shown as they are stored",)
        info = ClipInfo(str(path), width, height, rate, duration, frames, codec, sound, time_base, notes)
        return Opening(info, seconds_of(frame.pts, stream), (frame.width, frame.height))


def _notes_on(frame: VideoFrame) -> tuple[str, ...]:
    """What the decoding changes, or cannot mend, in frames such as this one."""
    from av.video.reformatter import ColorTrc

    notes = []
    if _quarter_turns(frame):
        notes.append("turned by its rotation metadata")
    bits = max(component.bits for component in frame.format.components)
    if bits > 8:
        notes.append(f"{bits}-bit converted to 8")
    if frame.color_trc in (ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67):
        notes.append("high dynamic range shown without tone mapping: its colours look pale")
    if frame.interlaced_frame:
        notes.append("interlaced: its fields are not separated")
    return tuple(notes)


def _quarter_turns(frame: VideoFrame) -> int:
    """How often a frame is to be turned by 90 degrees, counter-clockwise. PyAV and imageio leave it lying."""
    return round(frame.rotation / 90) % 4


def _colours(frame: VideoFrame, size: tuple[int, int], reformatter: VideoReformatter) -> NDArray[np.uint8]:
    """sRGB uint8 [H, W, 3], turned: matrix and range are those the frame states.

    A frame that states no matrix is taken as players take it, BT.709 from HD on and BT.601 below. Frames whose size
    changes within a clip are scaled to ``size`` (width, height), the first one's.
    """
    from av.video.reformatter import Colorspace

    unstated = frame.colorspace == 2 and (frame.width >= 1280 or frame.height > 576)
    matrix = Colorspace.ITU709 if unstated else None
    # One thread: the others have a network to run. The reformatter is kept, as its tables are made once.
    plain = reformatter.reformat(frame, *size, "rgb24", src_colorspace=matrix, threads=1)
    rgb = plain.to_ndarray()
    return np.ascontiguousarray(np.rot90(rgb, _quarter_turns(frame))).astype(np.uint8, copy=False)


def video(path: Path, account: Account) -> Generator[Coded]:
    """The frames of a video from ``account.start`` on, a few earlier ones included. Raises MediaError."""
    from av.video.reformatter import VideoReformatter

    opening = opening_of(path)
    for note in opening.info.notes:
        account.note(note)
    reformatter = VideoReformatter()
    rate = opening.info.rate or Fraction(25)
    key = _key_frame_before(path, opening.zero + Fraction(account.start - MARGIN)) if account.start > MARGIN else None
    with open_container(path) as container:
        stream = video_stream(path, container)
        # Not thread_type "AUTO": with frame threads libav drops good frames beside a broken one (measured).
        if key:
            container.seek(key.pts, stream=stream)
            account.passed = key.index
        end = 0.0
        for frame, damaged in _decoded(stream, account, opening.zero, key):
            number = account.passed - 1
            time = float(seconds_of(frame.pts, stream) - opening.zero)
            if frame.pts is None:  # a bare stream of H.264 has no times
                time = float(number / rate)
                account.note(f"no time stamps in it: taken as {float(rate):g} frames a second")
            duration = float(seconds_of(frame.duration, stream)) or None
            end = time + (duration or 0.0)

            def colours(frame: VideoFrame = frame) -> NDArray[np.uint8]:
                return _colours(frame, opening.size, reformatter)

            yield Coded(number, frame.pts, time, duration, damaged, colours)
        missing = _missing_at_the_end(container, stream, account.passed, end, float(rate))
        if missing > 0:
            account.lose(missing, end)
            account.note(f"cut off after {end:.2f} s; frames missing at the end: {missing}")


def _missing_at_the_end(container: InputContainer, stream: VideoStream, passed: int, end: float, rate: float) -> int:
    """How many frames fewer than its header promises a file held that was read to its end."""
    if container.format.name.startswith("mov"):
        # The index is whole even where the data are cut off. It marks frames that an edit list hides; the header's
        # count does not.
        return sum(not entry.is_discard for entry in stream.index_entries) - passed
    # Other formats only state a length, and the file's as a whole may be that of its sound.
    own = stream.duration or "DURATION" in stream.metadata
    short = (stated_duration(container, stream) or 0.0) - end if own else 0.0
    return round(short * rate) if short > 0.5 else 0


def _decoded(
    stream: VideoStream, account: Account, zero: Fraction = Fraction(0), key: _Key | None = None
) -> Iterator[tuple[VideoFrame, bool]]:
    """Frames, and whether they are damaged; frames that never come are counted in ``account``.

    A packet's frame comes out later, in the order of showing. So the stamps of packets without a frame are kept
    (a dozen at most), and one that is older than a frame that came out is a frame lost, whether or not libav said so:
    often it does not. After a seek, what is shown before the key frame is not ours.
    """
    import av

    shown = key.pts - 1 if key else None  # the stamp of the last frame
    waiting: list[int] = []
    mending = False  # since something was lost, until the next key frame, what is decoded refers to it
    for packet in _until_broken(stream, account):
        if packet.pts is not None and packet.size and _shows(packet, stream) and not (key and packet.pts < key.pts):
            waiting.append(packet.pts)
        try:
            frames = packet.decode()
        except av.FFmpegError:
            if packet.pts is None:  # otherwise it is missed when its turn has passed
                mending = True
                account.lose(1, account.start)
                account.passed += 1
            continue
        for frame in frames:
            if shown is not None and frame.pts is not None and frame.pts <= shown:
                continue  # leads up to the key frame; or came out of order after damage, and counts as lost
            shown = frame.pts
            gone = _overtaken(waiting, frame.pts)
            for pts in gone:
                account.lose(1, float(seconds_of(pts, stream) - zero))
            intact = frame.key_frame and not frame.is_corrupt
            mending = not intact and (mending or bool(gone) or frame.is_corrupt)
            account.passed += len(gone) + 1
            yield frame, mending
    for pts in waiting:
        account.lose(1, float(seconds_of(pts, stream) - zero))
    account.passed += len(waiting)


def _until_broken(stream: VideoStream, account: Account) -> Iterator[Packet[VideoStream]]:
    import av

    packets = stream.container.demux(stream)  # type: ignore[attr-defined]
    while True:
        try:
            packet = next(packets, None)
        except av.FFmpegError as error:
            account.note(f"broken inside ({reason_of(error)}): read up to there")
            return
        if packet is None:
            return
        yield packet


def _shows(packet: Packet[VideoStream], stream: VideoStream) -> bool:
    """Whether a frame is to come of a packet: not of one that an edit list hides, nor of VP8's hidden references."""
    return not packet.is_discard and not (stream.codec_context.name == "vp8" and not bytes(packet)[0] & 0x10)


def _overtaken(waiting: list[int], pts: int | None) -> list[int]:
    """Take the stamp of a frame that came out from those waiting, and the older ones; the latter are returned."""
    if pts is None or pts not in waiting:  # a decoder with stamps of its own: count nothing
        del waiting[:1]
        return []
    waiting.remove(pts)
    gone = sorted(stamp for stamp in waiting if stamp < pts)
    waiting[:] = [stamp for stamp in waiting if stamp >= pts]
    return gone


@dataclass(frozen=True)
class _Key:
    """A key frame to start from: how many frames are shown before it, and its stamp."""

    index: int
    pts: int


def _key_frame_before(path: Path, target: Fraction) -> _Key | None:
    """The key frame that a seek to ``target`` (seconds, the file's own) finds; None to decode from the beginning.

    Its index is counted from the packets before it, which costs reading but no decoding. Where stamps are missing or
    the format cannot seek, there is no such frame.
    """
    import av

    with open_container(path) as container:
        stream = video_stream(path, container)
        if not stream.time_base:
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
