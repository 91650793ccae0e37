"""Files of sound and video, opened in libav: their stream of pictures, and what their header says."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from coda_cli.errors import MediaError, UsageError
from coda_cli.video.spans import parse_time

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream


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
        # With "file:" in front, "pipe:0" or "a:b.mp4" is the name of a file. As no other protocol is allowed, a
        # playlist that calls itself clip.mp4 opens no connection.
        with av.open(f"file:{path}", "r", options={"protocol_whitelist": "file"}, **lenient) as container:
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


def stated_duration(container: InputContainer, stream: VideoStream) -> float | None:
    """Read from the header how long a video is.

    Args:
        container: the open file.
        stream: its stream of pictures.

    Returns:
        Seconds of video that the header promises; None where it promises nothing.
    """
    if stream.duration and stream.time_base:
        return float(seconds_of(stream.duration, stream))
    with contextlib.suppress(KeyError, UsageError):
        return parse_time(stream.metadata["DURATION"]) or None  # of Matroska, for this stream alone
    return container.duration / 1e6 if container.duration else None


def video_stream(path: Path, container: InputContainer) -> VideoStream:
    """Find the first stream of moving pictures.

    Args:
        path: the file, for messages.
        container: the same file, open.

    Returns:
        The stream.

    Raises:
        MediaError: when there is no such stream, or none that can be decoded.
    """
    from av.stream import Disposition

    # The cover of a song is a video stream with one picture.
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not streams:
        held = ", ".join(sorted({s.type for s in container.streams})) or "nothing that can be decoded"
        raise MediaError(f"no video in it, only {held}; give a file with pictures", item=path)
    if streams[0].codec_context is None:  # PyAV's way of saying that there is no decoder
        raise MediaError(
            f"no decoder for its codec, {_codec_named_by_libav(path)}; convert it to H.264 with another program",
            item=path,
        )
    return streams[0]


def _codec_named_by_libav(path: Path) -> str:
    """The codec of a stream without a decoder, which libav names in its log and nowhere else."""
    import av
    import av.logging

    level, skipping = av.logging.get_level(), av.logging.get_skip_repeated()
    av.logging.set_level(av.logging.WARNING)
    av.logging.set_skip_repeated(False)
    try:
        with av.logging.Capture(local=True) as lines, av.open(f"file:{path}"):
            pass
    finally:
        av.logging.set_level(level)
        av.logging.set_skip_repeated(skipping)
    found = re.search(r"Video: (\w+)(?: \((\w+))?", " ".join(line[2] for line in lines))
    if not found:
        return "unknown"
    return found[1] if found[1] != "none" else f"unknown, marked {found[2]}"
