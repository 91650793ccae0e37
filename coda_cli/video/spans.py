"""Times and boxes as people write them."""

from __future__ import annotations

import re

from coda_cli.errors import UsageError

Box = tuple[float, float, float, float]
TOLERANCE = 1e-6  # seconds: times are fractions in a file and floats here


def parse_time(text: str) -> float:
    """Seconds from "10", "2.5", "1:20" or "00:02:53.6". Raises UsageError for anything else."""
    parts = text.strip().split(":")
    plain = len(parts) <= 3 and all(re.fullmatch(r"\d+", part) for part in parts[:-1])
    if not plain or not re.fullmatch(r"\d+(\.\d*)?|\.\d+", parts[-1]):
        raise UsageError(f"{text!r} is no time: write seconds (2.5) or a time code (00:02:53.6)")
    values = [float(part) for part in parts]
    if any(value >= 60 for value in values[1:]):
        raise UsageError(f"{text!r} is no time: minutes and seconds of a time code end at 60")
    return sum(value * 60.0**power for power, value in enumerate(reversed(values)))


def parse_box(text: str, size: tuple[int, int] | None = None) -> Box:
    """(x0, y0, x1, y1) from "0,0,0.5,1": left, top, right, bottom, in pixels, or relative where none is above 1.

    With ``size`` (width, height) the result is in whole pixels inside it. Raises UsageError for what is no box.
    """
    try:
        x0, y0, x1, y1 = (float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{text!r} is no box: write left,top,right,bottom, as in 0,0,0.5,1") from None
    box = (x0, y0, x1, y1)
    return pixel_box(box, size) if size else _checked(box)


def pixel_box(box: Box, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """A box as in ``parse_box`` in whole pixels of a picture of ``size`` (width, height). Raises UsageError."""
    width, height = size
    relative = max(_checked(box)) <= 1
    kx, ky = (width, height) if relative else (1, 1)
    x0, y0, x1, y1 = round(box[0] * kx), round(box[1] * ky), round(box[2] * kx), round(box[3] * ky)
    if x1 > width or y1 > height:
        raise UsageError(f"the box {_spelled(box)} reaches beyond the picture of {width} x {height} pixels")
    if x0 >= x1 or y0 >= y1:
        raise UsageError(f"the box {_spelled(box)} holds no pixel of a picture of {width} x {height}")
    return x0, y0, x1, y1


def _checked(box: Box) -> Box:
    x0, y0, x1, y1 = box
    if not (0 <= x0 < x1 < float("inf") and 0 <= y0 < y1 < float("inf")):
        raise UsageError(f"the box {_spelled(box)} is empty or outside: left < right and top < bottom, from 0 on")
    return box


def _spelled(box: Box) -> str:
    return ",".join(f"{value:g}" for value in box)
