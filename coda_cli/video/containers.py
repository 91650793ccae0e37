"""Files of sound and video, opened in libav: their stream of pictures, and what their header says."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol, TypeVar, cast

from coda_cli.errors import MediaError, UsageError
from coda_cli.video.spans import parse_time

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.stream import Stream
    from av.video.codeccontext import VideoCodecContext
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

S = TypeVar("S", bound="Stream")
_FILES_ONLY = {"protocol_whitelist": "file"}  # a playlist that calls itself clip.mp4 opens no connection


class Rational(Protocol):
    """A rational number of PyAV: version 18 has Python's fractions, version 19 its own."""

    @property
    def numerator(self) -> int:
        """The number above the line."""

    @property
    def denominator(self) -> int:
        """The number below the line."""


@contextlib.contextmanager
def open_container(path: Path) -> Iterator[InputContainer]:
    """Open a file of sound or video in libav for the length of a block.

    Args:
        path: the file.

    Yields:
        The open container.

    Raises:
        MediaError: when the file cannot be opened, or cannot be read inside the block.
    """
    import av

    _refuse_non_files(path)
    # PyAV 18 must be told to accept a title that is not UTF-8; PyAV 19 accepts it, and does not know the option.
    lenient: Any = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
    try:
        # With "file:" in front, "pipe:0" or "a:b.mp4" is the name of a file.
        with av.open(f"file:{path}", "r", options=_FILES_ONLY, **lenient) as container:
            yield container
    except (av.FFmpegError, OSError) as error:
        raise MediaError(
            f"not a clip that can be read, or broken ({reason_of(error)}); does a player show it?", item=path
        ) from error


def _refuse_non_files(path: Path) -> None:
    """Raise MediaError for what cannot be read or is empty."""
    try:
        with path.open("rb") as stream:
            empty = not stream.read(1)
    except (OSError, ValueError) as error:
        raise MediaError(f"cannot be read ({reason_of(error)})", item=path) from error
    if empty:
        raise MediaError("the file is empty", item=path)


def reason_of(error: Exception) -> str:
    """Say why libav or the operating system refused, in their words.

    Args:
        error: what they raised.

    Returns:
        The reason without numbers and names of files, where the error has one.
    """
    return str(getattr(error, "strerror", None) or error)


def as_fraction(rational: Rational | None) -> Fraction:
    """Convert a rational number of PyAV.

    Args:
        rational: the number, or None where a file does not state it.

    Returns:
        Python's fraction; 0 for None.
    """
    return Fraction(rational.numerator, rational.denominator) if rational else Fraction(0)


def seconds_of(stamp: int | None, stream: VideoStream) -> Fraction:
    """Convert a time stamp of a stream.

    Args:
        stamp: the time stamp in the stream's units, or None where it is missing.
        stream: the stream that it is from.

    Returns:
        Seconds; 0 for a stamp that is missing.
    """
    return (stamp or 0) * as_fraction(stream.time_base)


def stated_duration(container: InputContainer, stream: VideoStream, zero: Fraction = Fraction(0)) -> float | None:
    """Read from the header how long a video is.

    Args:
        container: the open file.
        stream: its stream of pictures.
        zero: the file's own time of the first frame, in seconds.

    Returns:
        Seconds of video that the header promises; None where it promises nothing.
    """
    with contextlib.suppress(KeyError, UsageError):
        stated = parse_time(stream.metadata["DURATION"])  # of Matroska, for this stream alone
        # libav writes when the last frame ends; mkvmerge, which leaves this mark, how long the stream is.
        late = 0.0 if "_STATISTICS_TAGS" in stream.metadata else float(zero)
        return max(0.0, stated - late) or None
    if stream.duration and stream.time_base:
        return float(seconds_of(stream.duration, stream))
    return container.duration / 1e6 if container.duration else None


def stated_end(path: Path, container: InputContainer, stream: VideoStream, zero: Fraction) -> float:
    """Read from the header of a Matroska when its last frame ends, which nothing else in the file says.

    Args:
        path: the file.
        container: the same file, open.
        stream: its stream of pictures.
        zero: the file's own time of the first frame, in seconds.

    Returns:
        Seconds from the first frame; 0 where the header does not say so, or the file is cut off.
    """
    if "matroska" not in container.format.name or "DURATION" not in stream.metadata or is_cut_off(path):
        return 0.0
    return stated_duration(container, stream, zero) or 0.0


def video_stream(path: Path, container: InputContainer) -> VideoStream:
    """Find the stream of moving pictures that players show: the one marked as default, or else the first.

    Args:
        path: the file, for messages.
        container: the same file, open.

    Returns:
        The stream.

    Raises:
        MediaError: when there is no such stream, or none that can be decoded.
    """
    streams = _moving(container)
    if not streams:
        raise MediaError(f"no video in it, only {_held(container)}; give a file with moving pictures", item=path)
    # PyAV's way of saying that there is no decoder is that there is no codec_context.
    decoded = [stream for stream in streams if stream.codec_context is not None]
    if not decoded:
        raise MediaError(
            f"no decoder for its codec, {_codec_named_by_libav(path)}; convert it to H.264 with another program",
            item=path,
        )
    return default_of(decoded)


def decoder_of(stream: VideoStream) -> Callable[[Packet[VideoStream]], Iterable[VideoFrame]]:
    """Find what makes frames of a stream's packets.

    Args:
        stream: of an open file.

    Returns:
        libav's own decoder, or libvpx for VP8 and VP9 that state transparency, which libav's own does not decode.
    """
    import av

    name = {"vp8": "libvpx", "vp9": "libvpx-vp9"}.get(stream.codec_context.name)
    stated = {key.lower(): value for key, value in stream.metadata.items()}
    if name and stated.get("alpha_mode", "0") != "0" and name in av.codecs_available:
        return cast("VideoCodecContext", av.CodecContext.create(name, "r")).decode
    return lambda packet: packet.decode()


def has_guessed_stamps(stream: VideoStream) -> bool:
    """Tell whether the time stamps of frames are in disorder, so that only the order of decoding is right.

    Args:
        stream: of an open file.

    Returns:
        Whether it is H.264 or H.265 in AVI, which holds no time stamps: libav's guesses are wrong beside B-frames.
    """
    return stream.container.format.name == "avi" and stream.codec_context.name in ("h264", "hevc")


def default_of(streams: Sequence[S]) -> S:
    """Choose among streams of one kind as players do.

    Args:
        streams: at least one.

    Returns:
        The first that is marked as default, or else the first.
    """
    from av.stream import Disposition

    return next((stream for stream in streams if stream.disposition & Disposition.default), streams[0])


def track_note(container: InputContainer, chosen: VideoStream) -> tuple[str, ...]:
    """Say which stream of moving pictures was taken, where there are several.

    Args:
        container: the open file.
        chosen: the stream that was taken.

    Returns:
        A sentence, or nothing.
    """
    from av.stream import Disposition

    streams = _moving(container)
    if len(streams) < 2:
        return ()
    number = 1 + [stream.index for stream in streams].index(chosen.index)
    default = ", its default," if chosen.disposition & Disposition.default else ""
    return (f"{len(streams)} tracks of video in it: number {number}{default} is shown",)


def _moving(container: InputContainer) -> list[VideoStream]:
    """The streams of moving pictures: the cover of a song is a video stream, too, with one picture."""
    from av.stream import Disposition

    return [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]


def _held(container: InputContainer) -> str:
    """What a file without moving pictures holds, in words."""
    kinds = sorted({stream.type for stream in container.streams if stream.type != "video"})
    return " and ".join([", ".join(kinds)] * bool(kinds) + ["a cover picture"] * bool(container.streams.video)) or (
        "nothing that can be decoded"
    )


def is_cut_off(path: Path) -> bool:
    """Tell whether a Matroska, WebM or AVI is shorter than its own header says.

    Args:
        path: the file.

    Returns:
        Whether bytes are missing at its end; False where the header does not say how many there should be.
    """
    length = path.stat().st_size
    with path.open("rb") as stream:
        head = stream.read(8)
        if head.startswith(b"RIFF"):
            place = 0
            while len(head) == 8 and head.startswith(b"RIFF"):  # a long AVI has several such parts
                size = int.from_bytes(head[4:], "little")
                place += 8 + size
                if size in (0, 0xFFFFFFFF):
                    return False
                stream.seek(place + place % 2)
                head = stream.read(8)
            return place > length
        if not head.startswith(b"\x1a\x45\xdf\xa3"):
            return False
        stream.seek(4)
        header = _ebml_size(stream)
        if header is None:
            return False
        stream.seek(header, 1)
        if stream.read(4) != b"\x18\x53\x80\x67":  # the segment, which holds everything else
            return False
        segment = _ebml_size(stream)
        return segment is not None and stream.tell() + segment > length


def _ebml_size(stream: IO[bytes]) -> int | None:
    """Read the size of an element of Matroska; None where it is not stated."""
    first = stream.read(1)
    if not first or not first[0]:
        return None
    more = 8 - first[0].bit_length()
    size = int.from_bytes(bytes([first[0] & (1 << 7 - more) - 1]) + stream.read(more), "big")
    return None if size == (1 << 7 * (more + 1)) - 1 else size


def _codec_named_by_libav(path: Path) -> str:
    """The codec of a stream without a decoder, which libav names in its log and nowhere else."""
    import av
    import av.logging

    level, skipping = av.logging.get_level(), av.logging.get_skip_repeated()
    av.logging.set_level(av.logging.WARNING)
    av.logging.set_skip_repeated(False)
    try:
        with av.logging.Capture(local=True) as lines, av.open(f"file:{path}", options=_FILES_ONLY):
            pass
    finally:
        av.logging.set_level(level)
        av.logging.set_skip_repeated(skipping)
    found = re.search(r"Video: (\w+)(?: \((\w+))?", " ".join(line[2] for line in lines))
    if not found:
        return "unknown"
    return found[1] if found[1] != "none" else f"unknown, marked {found[2]}"
