"""TIFF files written by hand, in the layouts that decoders get wrong: 0 as white, planes one after the other."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

MIN_IS_WHITE, MIN_IS_BLACK, RGB, CMYK = 0, 1, 2, 5
CHUNKY, PLANAR = 1, 2


def write_tiff(
    path: Path, values: NDArray[Any], photometric: int, *, planar: bool = False, deflated: bool = False,
    big_endian: bool = False,
) -> Path:  # fmt: skip
    """Write values [H, W] or [H, W, C] of any type as a TIFF of one strip a plane."""
    order = ">" if big_endian else "<"
    values = values if values.ndim == 3 else values[..., None]
    height, width, channels = values.shape
    values = values.astype(values.dtype.newbyteorder(order))
    planes = [values[..., c] for c in range(channels)] if planar else [values]
    strips = [zlib.compress(p.tobytes()) if deflated else p.tobytes() for p in planes]
    offsets = [8 + sum(map(len, strips[:n])) for n in range(len(strips))]
    kind = {"f": 3, "i": 2}.get(values.dtype.kind, 1)
    tags: dict[int, tuple[str, list[int]]] = {
        256: ("I", [width]), 257: ("I", [height]), 258: ("H", [8 * values.dtype.itemsize] * channels),
        259: ("H", [8 if deflated else 1]), 262: ("H", [photometric]), 273: ("I", offsets), 277: ("H", [channels]),
        278: ("I", [height]), 279: ("I", [*map(len, strips)]), 284: ("H", [PLANAR if planar else CHUNKY]),
        339: ("H", [kind] * channels),
    }  # fmt: skip
    if photometric == RGB and channels == 4:
        tags[338] = ("H", [2])  # the fourth is opacity
    body = b"".join(strips)
    body += b"\0" * (len(body) % 2)
    directory, spilled, after = b"", b"", 8 + len(body) + 2 + 12 * len(tags) + 4
    for tag, (code, numbers) in sorted(tags.items()):
        content = struct.pack(f"{order}{len(numbers)}{code}", *numbers)
        if len(content) > 4:
            content, spilled = (
                struct.pack(f"{order}I", after + len(spilled)),
                spilled + content + b"\0" * (len(content) % 2),
            )
        directory += struct.pack(f"{order}HHI", tag, 3 if code == "H" else 4, len(numbers)) + content.ljust(4, b"\0")
    start = struct.pack(f"{order}2sHI", b"MM" if big_endian else b"II", 42, 8 + len(body))
    path.write_bytes(start + body + struct.pack(f"{order}H", len(tags)) + directory + bytes(4) + spilled)
    return path
