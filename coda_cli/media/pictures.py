"""Anything that a person has as a picture, in memory or on disk, as one Picture."""

from __future__ import annotations

import hashlib
import io
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Union, cast

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from PIL.Image import Image

from coda_cli.errors import UsageError
from coda_cli.machine.budget import within_drawings
from coda_cli.media import png
from coda_cli.media.sources import named
from coda_cli.media.stills import Picture, reading, to_rgb

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Image", "PictureSource", "as_image", "as_picture"]

_AS_THEY_ARE = 128  # pixels; of pictures up to this size JPEG would show more of itself than of the picture
_QUALITY = 75  # of JPEG

PictureSource: TypeAlias = Union[str, Path, Image, NDArray[Any], "Tensor"]  # what as_picture takes

ACCEPTED = "a path, a PIL image, an array [H, W], [H, W, 3] or [H, W, 4], or a tensor [3, H, W]"


def as_picture(source: PictureSource) -> Picture:
    """Read a picture from wherever it is.

    Args:
        source: the path or the address of a file, with ``#page=2`` for one of several pages; a PIL image; an array,
            grey [H, W], RGB [H, W, 3] or RGBA [H, W, 4], of uint8, uint16 or floats in [0, 1]; or a tensor of such
            numbers with its channels first, [H, W], [1, H, W], [3, H, W] or [4, H, W], on any device.

    Returns:
        The picture as sRGB uint8 [H, W, 3], transparency laid on white. Its hash is that of the file, or of the pixels
        where there is no file.

    Raises:
        MediaError: a file cannot be read, or is not at its address.
        UsageError: an object, shape, type or range that is none of the above.
    """
    if isinstance(source, str | Path):
        with reading(named(source).content) as picture:
            return picture
    if isinstance(source, Image):
        rgb, notes = to_rgb(source)
        return _in_memory(rgb, notes)
    if hasattr(source, "detach"):  # a tensor of torch, which need not be imported to find that out
        return _of_array(_channels_last(cast("Tensor", source)))
    if isinstance(source, np.ndarray):
        return _of_array(source)
    raise UsageError(f"{type(source).__name__} is not a picture; expected {ACCEPTED}")


def _channels_last(tensor: Tensor) -> NDArray[Any]:
    """A tensor [H, W] or [C, H, W] as an array [H, W] or [H, W, C]."""
    if tensor.ndim not in (2, 3) or (tensor.ndim == 3 and tensor.shape[0] not in (1, 3, 4)):
        hint = "; explain_many takes batches" if tensor.ndim == 4 else ""
        raise UsageError(f"a tensor {list(tensor.shape)} is not one picture; expected [3, H, W], channels first{hint}")
    tensor = tensor.detach().cpu()
    values: NDArray[Any] = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    return values if values.ndim == 2 else np.moveaxis(values, 0, 2)


def _of_array(values: NDArray[Any]) -> Picture:
    """An array of a shape and type that ``as_picture`` names."""
    shape = list(values.shape)
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[..., 0]
    if not values.size or values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[2] not in (3, 4)):
        raise UsageError(f"an array {shape} is not one picture; expected [H, W], [H, W, 3] or [H, W, 4]")
    pixels = _as_bytes(values)
    mode = {2: "L", 3: "RGB", 4: "RGBA"}[2 if pixels.ndim == 2 else pixels.shape[2]]
    rgb, notes = to_rgb(PIL.Image.fromarray(np.ascontiguousarray(pixels), mode))
    return _in_memory(rgb, notes if values.dtype == np.uint8 else ("scaled to 8 bits", *notes))


def _as_bytes(values: NDArray[Any]) -> NDArray[np.uint8]:
    """uint8 of any shape from uint8, uint16 or floats in [0, 1]."""
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.uint16:
        return np.round(values / 257.0).astype(np.uint8)
    if not np.issubdtype(values.dtype, np.floating):
        raise UsageError(f"pixels of type {values.dtype}; expected uint8, uint16, or floats in [0, 1]")
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 1):  # also NaN
        raise UsageError(
            f"pixels from {low:g} to {high:g}; floats must lie in [0, 1]: divide by 255, or undo mean and std"
        )
    return np.round(values.astype(np.float64) * 255).astype(np.uint8)


def _in_memory(rgb: NDArray[np.uint8], notes: tuple[str, ...]) -> Picture:
    sha256 = hashlib.sha256(f"{rgb.shape[0]} x {rgb.shape[1]} ".encode() + np.ascontiguousarray(rgb).tobytes())
    return Picture(rgb, sha256.hexdigest(), rgb.nbytes, notes)


def for_drawing(picture: Picture) -> Picture:
    """Make a picture smaller that is too large to be drawn on.

    Args:
        picture: as it was read.

    Returns:
        A picture of at most 25 million pixels, with a note on its size; the same one where it has no more.
    """
    from coda_cli.opencv import cv2

    height, width = picture.rgb.shape[:2]
    size = within_drawings((width, height))
    if size == (width, height):
        return picture
    rgb = np.asarray(cv2.resize(picture.rgb, size, interpolation=cv2.INTER_AREA), np.uint8)
    note = f"drawn smaller, at {size[0]} x {size[1]} pixels"
    return replace(picture, rgb=rgb, notes=(*picture.notes, note), full_size=picture.full_size or (width, height))


def as_image(rgb: NDArray[np.uint8]) -> Image:
    """A picture as a PIL image.

    Args:
        rgb: uint8 [H, W, 3], sRGB.

    Returns:
        The image, which shows itself in a notebook.
    """
    return PIL.Image.fromarray(rgb)


def shrunk(rgb: NDArray[np.uint8], longest: int) -> NDArray[np.uint8]:
    """Make a picture smaller that is too large.

    Args:
        rgb: uint8 [H, W, 3] sRGB.
        longest: pixels that the longer side may have.

    Returns:
        uint8 [h, w, 3] of the same shape as far as whole pixels allow; the same array where it is small enough.
    """
    from coda_cli.opencv import cv2

    height, width = rgb.shape[:2]
    if max(width, height) <= longest:
        return rgb
    factor = longest / max(width, height)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)


def jpeg(rgb: NDArray[np.uint8], quality: int = _QUALITY) -> bytes:
    """Write a picture as JPEG.

    Args:
        rgb: uint8 [H, W, 3] sRGB.
        quality: from 1 to 95, as Pillow counts it.

    Returns:
        The file's bytes.
    """
    stream = io.BytesIO()
    as_image(rgb).save(stream, "JPEG", quality=quality, optimize=True)
    return stream.getvalue()


def small_copy(rgb: NDArray[np.uint8], longest: int) -> tuple[str, bytes, tuple[int, int]]:
    """Make a copy of a picture that takes few bytes, to be looked at.

    Args:
        rgb: uint8 [H, W, 3] sRGB.
        longest: pixels that the longer side may have.

    Returns:
        "jpeg", or "png" for a very small picture, which is kept as it is; the file's bytes; (width, height) in pixels.
    """
    height, width = rgb.shape[:2]
    if max(width, height) <= _AS_THEY_ARE:
        return "png", png.encode(rgb), (width, height)
    small = shrunk(rgb, longest)
    return "jpeg", jpeg(small), (small.shape[1], small.shape[0])
