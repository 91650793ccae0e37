"""PNG, encoded fast: with Pillow's encoder it would take most of the time that a folder needs besides the network."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Mapping

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray
from PIL import PngImagePlugin

from coda_cli.machine import budget

SIGNATURE = b"\x89PNG\r\n\x1a\n"
RGB_8_BITS = (8, 2, 0, 0, 0)  # depth, colour type, and the only compression, filter method and interlacing there is
UP = 2  # the filter: every row less the one above

# Measured on drawn photographs of 640 x 480: 3 ms, where Pillow's encoder takes 37 ms at zlib's level 3, for 7 % fewer
# bytes, and OpenCV's 14 ms at best, for as many.
LEVEL = 1


def encode(rgb: NDArray[np.uint8], text: Mapping[str, str] | None = None) -> bytes:
    """Encode a picture as PNG.

    Args:
        rgb: uint8 [H, W, 3] sRGB.
        text: what the file carries as UTF-8 text chunks, by their keys.

    Returns:
        The file's bytes.
    """
    height, width = rgb.shape[:2]
    info = PngImagePlugin.PngInfo()
    for key, value in (text or {}).items():
        info.add_itxt(key, value)
    stream = io.BytesIO()
    stream.write(SIGNATURE)
    PngImagePlugin.putchunk(stream, b"IHDR", struct.pack(">II5B", width, height, *RGB_8_BITS))
    for kind, data, *_ in info.chunks:
        PngImagePlugin.putchunk(stream, kind, data)
    compressor = isal_zlib.compressobj(LEVEL)
    for rows in _filtered(rgb.reshape(height, 3 * width)):
        PngImagePlugin.putchunk(stream, b"IDAT", compressor.compress(rows))
    PngImagePlugin.putchunk(stream, b"IDAT", compressor.flush())
    PngImagePlugin.putchunk(stream, b"IEND", b"")
    return stream.getvalue()


def _filtered(values: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    """Rows of bytes [H, 3 W] as the format stores them, [n, 1 + 3 W] at a time: the filter's number, then the row."""
    height, width = values.shape
    step = max(1, budget.PNG_BLOCK // width)
    for top in range(0, height, step):
        block = values[top : top + step]
        rows = np.empty((len(block), 1 + width), np.uint8)
        rows[:, 0] = UP
        rows[0, 1:] = block[0] - values[top - 1] if top else block[0]
        np.subtract(block[1:], block[:-1], out=rows[1:, 1:])  # bytes overflow on purpose, modulo 256
        yield rows
