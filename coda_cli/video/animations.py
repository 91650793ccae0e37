"""Animated pictures, GIF, APNG and WebP, frame by frame with their delays.

APNG and WebP are read by imageio's Pillow plugin, GIF by ``media.gif_pictures``. PyAV, which reads video, is not used
here: libav 8 cannot decode animated WebP, and PyAV drops the transparency of all three.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Generator, Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from coda_cli.errors import MediaError
from coda_cli.media.gif_pictures import gif_lengths, gif_pictures
from coda_cli.media.quiet import pillow_silent
from coda_cli.video.colours import ON_WHITE, on_white, refuse_large_frames
from coda_cli.video.decoding import ClipInfo, CodedFrame, DecodingLog

_MAGIC = (b"GIF8", b"\x89PNG", b"RIFF")


def is_animation(path: Path) -> bool:
    """Look into a file whether it is a GIF, a PNG or a WebP, whatever its name.

    Args:
        path: the file, which need not exist.

    Returns:
        Whether it is one of these.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(12)
    except (OSError, ValueError):
        return False
    return head.startswith(_MAGIC) and (head[:4] != b"RIFF" or head[8:] == b"WEBP")


def animation_frames(path: Path, log: DecodingLog) -> Generator[CodedFrame]:
    """Decode an animated picture, or a still, which has one frame.

    Args:
        path: the file.
        log: what is lost or changed is added to it.

    Yields:
        All frames, in the order of showing.

    Raises:
        MediaError: when the file cannot be read, or has no frame that can be decoded.
    """
    index, time, count = 0, 0.0, 0
    try:
        # The file is opened here, because imageio takes some names for addresses or for files inside archives.
        with path.open("rb") as stream, _opened(path, stream) as (count, pictures):
            for rgba, delay in pictures:
                duration = _as_shown(delay, log) if count > 1 else None
                colours = partial(_on_background, rgba, log)
                yield CodedFrame(index, None, time / 1000, duration and duration / 1000, False, colours)
                index, time = index + 1, time + (duration or 0.0)
    except MediaError:
        raise
    except Exception as error:  # decoders raise errors of any class for broken files
        reason = str(error).strip() or type(error).__name__
        if not index:
            raise MediaError(f"broken or truncated animation ({reason}); does a browser show it?", item=path) from error
        log.lose(count - index, time / 1000)
        log.note(f"broken inside ({reason}): read up to there")


@contextlib.contextmanager
def _opened(path: Path, stream: BinaryIO) -> Iterator[tuple[int, Iterator[tuple[NDArray[np.uint8], float | None]]]]:
    """How many frames there are, and each uint8 [H, W, 4] with its delay in ms, while the block lasts."""
    if stream.read(4) == b"GIF8":
        yield len(gif_lengths(stream)), gif_pictures(stream, partial(refuse_large_frames, path))
        return
    import imageio.v3 as iio

    stream.seek(0)
    with iio.imopen(stream, "r", plugin="pillow") as opened_file:
        file: Any = opened_file  # the Pillow plugin has arguments that imageio's types do not know
        with pillow_silent:
            refuse_large_frames(path, file.metadata(index=0)["shape"])
            count, hidden = _count_frames(file)
        yield count, _pictures(file, hidden)


def _count_frames(file: Any) -> tuple[int, int]:
    """How many frames are shown, and how many come before them: an APNG can begin with a picture for old programs."""
    count = file.properties(index=...).n_images
    hidden = int(count > 1 and bool(file.metadata(index=0).get("default_image")))
    return count - hidden, hidden


def _pictures(file: Any, hidden: int) -> Iterator[tuple[NDArray[np.uint8], float | None]]:
    """Every picture uint8 [H, W, 4] after the ``hidden`` ones, with its delay in ms."""
    pictures = file.iter(mode="RGBA")
    for index in itertools.count():
        with pillow_silent:
            rgba = next(pictures, None)
            if rgba is None:
                return
            # Asked for the frame just read, so that nothing is rewound; WebP knows its delay only now.
            delay = file.metadata(index=index).get("duration")
        if index >= hidden:
            yield rgba, delay


def _as_shown(delay: float | None, log: DecodingLog) -> float:
    """The delay of a frame in ms as every browser reads it: 10 ms or less means that it is unknown, and becomes 100."""
    if delay is not None and delay > 10:
        return float(delay)
    log.note("delays of 10 ms or less taken as 100 ms, as browsers do")
    return 100.0


def _on_background(rgba: NDArray[np.uint8], log: DecodingLog) -> NDArray[np.uint8]:
    """Lay uint8 [H, W, 4] on the same background as stills."""
    rgb, transparent = on_white(rgba)
    if transparent:
        log.note(ON_WHITE)
    return rgb


def animation_info(path: Path) -> ClipInfo:
    """Find out what an animated picture is; the whole file is read, because delays are stored with the frames.

    Args:
        path: the file.

    Returns:
        Its size, rate, length and number of frames.

    Raises:
        MediaError: when the file cannot be read, or has no frame that can be decoded.
    """
    log = DecodingLog()
    seconds, count, shape = 0.0, 0, (0, 0, 0)
    with contextlib.closing(animation_frames(path, log)) as frames:
        for count, frame in enumerate(frames, 1):
            shape = frame.colours().shape if count == 1 else shape
            seconds += frame.duration or 0.0
    rate = (count / Fraction(seconds).limit_denominator(1000)).limit_denominator(1000) if seconds else None
    with path.open("rb") as stream:
        codec = {b"G": "gif", b"R": "webp"}.get(stream.read(1), "apng" if count > 1 else "png")
    return ClipInfo(str(path), shape[1], shape[0], rate, seconds or None, count, codec, False, None, tuple(log.notes))
