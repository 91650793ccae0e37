"""Files of sound and video, opened in libav: their stream of pictures, and what its header says."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coda_cli.errors import MediaError, UsageError
from coda_cli.video.spans import parse_time

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream


@contextlib.contextmanager
def opened(path: Path) -> Iterator[InputContainer]:
    """A file of sound or video, open in libav; raises MediaError for what goes wrong in opening it or in the block."""
    import av

    _refuse_non_files(path)
    # PyAV 18 has to be told to bear with a title that is no UTF-8; 19 does, and does not know the option.
    lenient: Any = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
    try:
        # With "file:" a name such as "pipe:0" or "a:b.mp4" is a name; without other protocols, a playlist that calls
        # itself clip.mp4 opens no connection.
        with av.open(f"file:{path}", "r", options={"protocol_whitelist": "file"}, **lenient) as container:
            yield container
    except (av.FFmpegError, OSError) as error:
        raise MediaError(
            f"{path}: not a clip that can be read, or broken ({reason(error)}); does a player show it?"
        ) from error


def _refuse_non_files(path: Path) -> None:
    try:
        with path.open("rb") as stream:
            empty = not stream.read(1)
    except (OSError, ValueError) as error:
        raise MediaError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if empty:
        raise MediaError(f"{path}: the file is empty")


def reason(error: Exception) -> str:
    """Why libav or the system refused, in their words."""
    return str(getattr(error, "strerror", None) or error)


def exact(rational: Any) -> Fraction:
    """A rational number of PyAV: 18 has Python's fractions, 19 its own; 0 for none."""
    return Fraction(rational.numerator, rational.denominator) if rational else Fraction(0)


def seconds(pts: int | None, stream: VideoStream) -> Fraction:
    """A time stamp of a stream in seconds; one that is missing is 0."""
    return (pts or 0) * exact(stream.time_base)


def stated_duration(container: InputContainer, stream: VideoStream) -> float | None:
    """Seconds of video that the header promises."""
    if stream.duration and stream.time_base:
        return float(seconds(stream.duration, stream))
    with contextlib.suppress(KeyError, UsageError):
        return parse_time(stream.metadata["DURATION"]) or None  # Matroska's, of this stream alone
    return container.duration / 1e6 if container.duration else None


def video_stream(path: Path, container: InputContainer) -> VideoStream:
    """The first stream of moving pictures; raises MediaError where there is none, or none that can be decoded."""
    from av.stream import Disposition

    # The cover of a song is a video stream with one picture.
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not streams:
        held = ", ".join(sorted({s.type for s in container.streams})) or "nothing that can be decoded"
        raise MediaError(f"{path}: no video in it, only {held}; give a file with pictures")
    if streams[0].codec_context is None:  # PyAV's way of saying that there is no decoder
        raise MediaError(
            f"{path}: no decoder for its codec, {_codec_named_by_libav(path)}; convert it to H.264 with another program"
        )
    return streams[0]


def _codec_named_by_libav(path: Path) -> str:
    """What a stream without a decoder is coded in: libav says it in its log and nowhere else."""
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
