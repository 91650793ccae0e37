"""Animated pictures, GIF, APNG and WebP, frame by frame with their delays: imageio's Pillow plugin is the door.

Not PyAV, as for video: libav 8 cannot decode animated WebP, and PyAV drops the transparency of all three.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coda_cli.errors import MediaError
from coda_cli.media.stills import _PILLOW_SILENT, BACKGROUND, _refuse_bombs
from coda_cli.video.decoding import Account, ClipInfo, Coded

_MAGIC = (b"GIF8", b"\x89PNG", b"RIFF")


def is_animation(path: Path) -> bool:
    """Whether a file is a GIF, a PNG or a WebP, whatever its name."""
    try:
        with path.open("rb") as stream:
            head = stream.read(12)
    except (OSError, ValueError):
        return False
    return head.startswith(_MAGIC) and (head[:4] != b"RIFF" or head[8:] == b"WEBP")


def animation(path: Path, account: Account) -> Generator[Coded]:
    """All frames of an animated picture; of a still, the one. Raises MediaError."""
    import imageio.v3 as iio

    index, time, count, hidden = 0, 0.0, 0, 0
    try:
        # From an open file: imageio reads meaning into names.
        with path.open("rb") as stream, iio.imopen(stream, "r", plugin="pillow") as opened_file:
            file: Any = opened_file  # with arguments that are the Pillow plugin's own
            with _PILLOW_SILENT:
                _refuse_bombs(path, file.metadata(index=0)["shape"])
                count = file.properties(index=...).n_images
                pictures = file.iter(mode="RGBA")
                if count > 1 and file.metadata(index=0).get("default_image"):  # shown only where APNG is unknown
                    next(pictures)
                    hidden = 1
                    count -= hidden
            while True:
                with _PILLOW_SILENT:
                    rgba = next(pictures, None)
                    if rgba is None:
                        return
                    # Of the frame just read, so nothing is rewound; WebP knows its delay only now.
                    delay = file.metadata(index=index + hidden).get("duration")
                duration = _as_shown(delay, account) if count > 1 else None

                def colours(rgba: NDArray[np.uint8] = rgba) -> NDArray[np.uint8]:
                    return _on_background(rgba, account)

                yield Coded(index, None, time / 1000, duration and duration / 1000, False, colours)
                index, time = index + 1, time + (duration or 0.0)
    except MediaError:
        raise
    except Exception as error:  # decoders raise whatever they like for broken files
        reason = str(error).strip() or type(error).__name__
        if not index:
            raise MediaError(f"{path}: broken or truncated animation ({reason}); does a browser show it?") from error
        account.lose(count - index, time / 1000)
        account.note(f"broken inside ({reason}): read up to there")


def _as_shown(delay: float | None, account: Account) -> float:
    """The delay of an animation's frame in ms as every browser takes it: 10 ms or less means "no idea", so 100."""
    if delay is not None and delay > 10:
        return float(delay)
    account.note("delays of 10 ms or less taken as 100 ms, as browsers do")
    return 100.0


def _on_background(rgba: NDArray[np.uint8], account: Account) -> NDArray[np.uint8]:
    """uint8 [H, W, 4] laid on the background that stills are laid on too."""
    if np.min(rgba[..., 3]) == 255:
        return np.ascontiguousarray(rgba[..., :3])
    account.note("transparency laid on white")
    alpha = rgba[..., 3:].astype(np.uint16)
    laid = (rgba[..., :3] * alpha + np.array(BACKGROUND, np.uint16) * (255 - alpha) + 127) // 255
    return laid.astype(np.uint8)


def animation_info(path: Path) -> ClipInfo:
    """Read through the file: delays lie with the frames."""
    account = Account()
    seconds, count, shape = 0.0, 0, (0, 0, 0)
    with contextlib.closing(animation(path, account)) as frames:
        for count, frame in enumerate(frames, 1):
            shape = frame.colours().shape if count == 1 else shape
            seconds += frame.duration or 0.0
    rate = (count / Fraction(seconds).limit_denominator(1000)).limit_denominator(1000) if seconds else None
    with path.open("rb") as stream:
        codec = {b"G": "gif", b"R": "webp"}.get(stream.read(1), "apng" if count > 1 else "png")
    return ClipInfo(
        str(path), shape[1], shape[0], rate, seconds or None, count, codec, False, None, tuple(account.notes)
    )
