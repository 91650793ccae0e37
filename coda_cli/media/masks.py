"""Masks: PNGs (and other pictures) whose numbers, not colours, say which pixels belong to a region."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coda_cli.errors import MediaError
from coda_cli.machine import gate
from coda_cli.media.coverage import Ring
from coda_cli.media.quiet import pillow_silent
from coda_cli.media.stills import decoder_errors, memory_of, open_image

MOST_OUTLINES = 300  # of one mask; those of the smallest parts are left out


def read_mask(path: Path) -> NDArray[np.int32]:
    """Read a mask file.

    Args:
        path: the file. Of a palette the numbers count, not their colours.

    Returns:
        int32 [H, W]: the grey value or the number in the palette; of colours red + 256 green + 65536 blue, as COCO
        writes its panoptic masks; 0 where a pixel is wholly transparent. Fractions are rounded away from 0, so that
        what is not 0 does not become it.

    Raises:
        MediaError: it cannot be read, is broken, is too large, or has numbers that would be lost.
    """
    from PIL import ImageOps

    needed = 2 * memory_of(path)
    with gate.PICTURES.holding(needed), decoder_errors(path), pillow_silent, open_image(path, path) as image:
        if getattr(image, "n_frames", 1) > 1:
            raise MediaError(f"has {getattr(image, 'n_frames')} frames; a mask is one picture")  # noqa: B009
        if image.mode in ("RGB", "RGBA", "LA") and any(";16" in str(tile[3]) for tile in getattr(image, "tile", ())):
            raise MediaError("has colours of 16 bits, of which 8 would be lost; a mask of 16 bits is grey")
        image.load()
        turned = ImageOps.exif_transpose(image) if image.getexif().get(0x0112, 1) != 1 else image
        if turned.mode in ("1", "L", "P", "I", "I;16", "I;16B", "I;16L"):
            return _without_transparent(np.asarray(turned).astype(np.int32), turned.info.get("transparency"))
        if turned.mode == "F":
            return _whole(np.asarray(turned))
        channels = np.asarray(turned.convert("RGBA"))
        colour = channels[..., 0].astype(np.int32)
        if turned.mode not in ("LA", "PA"):  # grey is the same in all three
            colour += 256 * channels[..., 1].astype(np.int32) + 65536 * channels[..., 2].astype(np.int32)
        colour[channels[..., 3] == 0] = 0
        return colour


def _without_transparent(numbers: NDArray[np.int32], transparency: object) -> NDArray[np.int32]:
    """Numbers, 0 where they are transparent: a PNG or GIF names the one that is, or gives each of a palette its own."""
    if isinstance(transparency, int):
        numbers[numbers == transparency] = 0
    elif isinstance(transparency, bytes):
        opacity = np.full(max(int(numbers.max()) + 1, len(transparency)), 255, np.uint8)
        opacity[: len(transparency)] = np.frombuffer(transparency, np.uint8)
        numbers[opacity[numbers] == 0] = 0
    return numbers


def _whole(values: NDArray[np.float32]) -> NDArray[np.int32]:
    """Fractions as whole numbers, rounded away from 0. Raises MediaError."""
    if not (np.abs(values) < 2**31 - 1).all():  # also NaN
        raise MediaError("has a number that is no label, such as NaN")
    return np.copysign(np.ceil(np.abs(values)), values).astype(np.int32)


def outlines_of(mask: NDArray[np.bool_], scale: tuple[float, float]) -> tuple[Ring, ...]:
    """Find the outlines of a mask, for drawing.

    Args:
        mask: bool [H, W].
        scale: pixels of the original for one pixel of the mask, across and down.

    Returns:
        Closed lines [n, 2] of (x, y) in pixels of the original, along the middles of the pixels at the border.
    """
    from coda_cli.opencv import cv2

    found, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    largest = sorted(found, key=lambda line: -len(line))[:MOST_OUTLINES]
    fine = max(mask.shape) / 1500
    lines = [cv2.approxPolyDP(line, fine, True) if len(line) > 4 else line for line in largest]
    return tuple((line[:, 0].astype(np.float64) + 0.5) * scale for line in lines)
