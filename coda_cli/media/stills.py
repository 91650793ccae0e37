"""Still pictures in and out: every format is read by one function, which says what it converted; writes are atomic."""

from __future__ import annotations

import hashlib
import io
import logging
import threading
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from coda_cli.errors import MediaError
from coda_cli.media import png
from coda_cli.media.files import write_with

# Suffixes that a folder scan takes for pictures; a file named on the command line may have any.
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".avif", ".jp2")
MAX_PIXELS = 128_000_000  # beyond this a file is taken for a decompression bomb
BACKGROUND = (255, 255, 255)  # what shows through transparent pixels


@dataclass(frozen=True)
class Picture:
    """A decoded still.

    Attributes:
        rgb: uint8 [H, W, 3] sRGB, turned as its EXIF orientation says.
        sha256: hex sha256 of the file.
        bytes: size of the file.
        notes: in words, what decoding changed.
    """

    rgb: NDArray[np.uint8]
    sha256: str
    bytes: int
    notes: tuple[str, ...]


def read_image(path: Path) -> Picture:
    """Decode a picture file.

    Palette, 1-bit, grey and CMYK become RGB; 16 bits are scaled to 8; transparency is laid on white; the picture is
    turned as its EXIF orientation says; of an animation the first frame is taken.

    Args:
        path: the file, in any format that Pillow reads.

    Returns:
        The picture, with notes on what was changed.

    Raises:
        MediaError: when the file cannot be read, is no picture, is broken, or has more than 128 million pixels.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise MediaError(f"cannot be read ({error.strerror or error})", item=path) from error
    if not data:
        raise MediaError("the file is empty", item=path)
    try:
        with pillow_silent, Image.open(io.BytesIO(data)) as image:
            refuse_bombs(path, image.size)
            rgb, notes = to_rgb(image)
    except (MediaError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise MediaError("not a picture in a format coda can read", item=path) from error
    except Image.DecompressionBombError as error:
        raise MediaError(f"more than {MAX_PIXELS // 10**6} million pixels; make it smaller first", item=path) from error
    except Exception as error:  # decoders raise IndexError, RuntimeError and errors of other classes for broken files
        raise MediaError(
            f"broken or truncated picture ({str(error).strip() or type(error).__name__})", item=path
        ) from error
    return Picture(rgb, hashlib.sha256(data).hexdigest(), len(data), notes)


# Our own error says what is wrong with a file; a library's log without a handler would be printed on stderr as well.
logging.getLogger("PIL").addHandler(logging.NullHandler())


class _Silence:
    """Inside ``with``, Pillow's warnings are not shown, neither those about odd files nor that about many pixels.

    ``warnings.catch_warnings`` alone is not safe in threads. Here the first thread that enters sets the filter, and the
    last one that leaves restores what was there before.
    """

    def __init__(self) -> None:
        self.lock, self.users, self.caught = threading.Lock(), 0, warnings.catch_warnings()

    def __enter__(self) -> None:
        with self.lock:
            self.users += 1
            if self.users == 1:
                self.caught = warnings.catch_warnings()
                self.caught.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.users -= 1
            if not self.users:
                self.caught.__exit__(None, None, None)


pillow_silent = _Silence()


def refuse_bombs(path: Path, size: tuple[int, int]) -> None:
    """Refuse a file that is so large that it would fill the memory.

    Args:
        path: the file, for the message.
        size: (width, height) that its header states.

    Raises:
        MediaError: when it has more than 128 million pixels.
    """
    if size[0] * size[1] > MAX_PIXELS:
        raise MediaError(
            f"{size[0]} x {size[1]} pixels, more than {MAX_PIXELS // 10**6} million; make it smaller first", item=path
        )


def to_rgb(image: Image.Image) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """Convert an image of any mode.

    Args:
        image: as Pillow opened it.

    Returns:
        sRGB uint8 [H, W, 3], and what changed the picture on the way, in words.
    """
    notes = []
    if getattr(image, "n_frames", 1) > 1:
        notes.append(f"first of {getattr(image, 'n_frames')} frames")  # noqa: B009 (not an attribute of every Image)
        image.seek(0)
    image.load()
    if image.getexif().get(0x0112) in range(2, 9):
        image = ImageOps.exif_transpose(image)
        notes.append("turned as its EXIF orientation says")
    if image.mode.startswith("I") or image.mode == "F":  # 16-bit and 32-bit: convert("RGB") would clip
        clear = image.info.get("transparency")  # of a grey PNG: the one grey that is transparent
        opaque = np.asarray(image) != clear if isinstance(clear, int) else None
        image = _scaled_to_8_bits(image)
        if opaque is not None:
            image.putalpha(Image.fromarray(np.where(opaque, 255, 0).astype(np.uint8)))
        notes.append("scaled to 8 bits")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        if np.asarray(rgba)[..., 3].min() < 255:  # screenshots have an alpha channel that hides nothing
            notes.append("transparency laid on white")
        background = Image.new("RGBA", rgba.size, (*BACKGROUND, 255))
        image = Image.alpha_composite(background, rgba)
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB")), tuple(notes)


def _scaled_to_8_bits(image: Image.Image) -> Image.Image:
    """A grey picture of 16 or 32 bits, scaled so that its full white, or its largest value, becomes 255."""
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("some of its values are no numbers")
    top = 65535.0 if image.mode != "F" and values.max(initial=0) <= 65535 else float(values.max(initial=1)) or 1.0
    return Image.fromarray(np.clip(np.round(values / top * 255), 0, 255).astype(np.uint8))


# ---- out ------------------------------------------------------------------------------------------------------------


def write_png(path: Path, rgb: NDArray[np.uint8], text: Mapping[str, str] | None = None) -> None:
    """Write a picture as PNG, whole or not at all.

    Args:
        path: the file to write.
        rgb: uint8 [H, W, 3] sRGB.
        text: what the file carries as UTF-8 text chunks, by their keys.

    Raises:
        MediaError: when the file cannot be written.
    """
    write_with(path, lambda stream: stream.write(png.encode(rgb, text)))


def read_gif_text(path: Path) -> str | None:
    """Read the comment of a GIF.

    Args:
        path: the file.

    Returns:
        The comment; None where there is none or the file is broken.
    """
    try:
        with pillow_silent, Image.open(path) as image:
            comment = image.info.get("comment")
    except Exception:  # see read_image
        return None
    return comment.decode(errors="replace") if isinstance(comment, bytes) else None


def read_png_text(path: Path, key: str) -> str | None:
    """Read a text chunk of a PNG without decoding the picture.

    Args:
        path: the file.
        key: the chunk's key.

    Returns:
        The text; None where there is none or the file is broken.
    """
    try:
        with pillow_silent, Image.open(path) as image:
            value = image.info.get(key)
    except Exception:  # see read_image
        return None
    return str(value) if value is not None else None
