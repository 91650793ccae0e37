"""PNG, encoded fast: beside the network, encoding is most of what a folder of pictures costs."""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray
from PIL import PngImagePlugin

SIGNATURE = b"\x89PNG\r\n\x1a\n"
RGB_8_BITS = (8, 2, 0, 0, 0)  # depth, colour type, and the only compression, filter method and interlacing there is
UP = 2  # the filter: every row less the one above

# Measured on drawn photographs of 640 x 480: 3 ms, where Pillow's encoder takes 32 ms at zlib's level 3 for 8 % fewer
# bytes, and OpenCV's 11 ms at best for as many.
LEVEL = 1


def encode(rgb: NDArray[np.uint8], text: Mapping[str, str] | None = None) -> bytes:
    """The PNG file of uint8 [H, W, 3]; ``text`` becomes UTF-8 text chunks."""
    height, width = rgb.shape[:2]
    values = rgb.reshape(height, 3 * width)
    rows = np.empty((height, 1 + 3 * width), np.uint8)
    rows[:, 0] = UP
    rows[0, 1:] = values[0]
    np.subtract(values[1:], values[:-1], out=rows[1:, 1:])  # modulo 256, as the format wants it
    info = PngImagePlugin.PngInfo()
    for key, value in (text or {}).items():
        info.add_itxt(key, value)
    stream = io.BytesIO()
    stream.write(SIGNATURE)
    PngImagePlugin.putchunk(stream, b"IHDR", struct.pack(">II5B", width, height, *RGB_8_BITS))
    for kind, data, *_ in info.chunks:
        PngImagePlugin.putchunk(stream, kind, data)
    PngImagePlugin.putchunk(stream, b"IDAT", isal_zlib.compress(rows, LEVEL))
    PngImagePlugin.putchunk(stream, b"IEND", b"")
    return stream.getvalue()
