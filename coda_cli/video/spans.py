"""Times and boxes as people write them on the command line."""

from __future__ import annotations

import re

from coda_cli.errors import UsageError

Box = tuple[float, float, float, float]
TOLERANCE = 1e-6  # seconds; times are fractions in a file and rounded to floats here


def parse_time(text: str) -> float:
    """Read a time.

    Args:
        text: seconds or a time code: "10", "2.5", "1:20" or "00:02:53.6".

    Returns:
        Seconds.

    Raises:
        UsageError: for anything else.
    """
    parts = text.strip().split(":")
    plain = len(parts) <= 3 and all(re.fullmatch(r"\d+", part) for part in parts[:-1])
    if not plain or not re.fullmatch(r"\d+(\.\d*)?|\.\d+", parts[-1]):
        raise UsageError(f"{text!r} is not a time: write seconds (2.5) or a time code (00:02:53.6)")
    values = [float(part) for part in parts]
    if any(value >= 60 for value in values[1:]):
        raise UsageError(f"{text!r} is not a time: minutes and seconds of a time code are below 60")
    return sum(value * 60.0**power for power, value in enumerate(reversed(values)))


def parse_span(text: str) -> tuple[float, float]:
    """Read a span of time.

    Args:
        text: two times with a dash between them: "2.5-4", "1:20-1:30".

    Returns:
        Start and end in seconds.

    Raises:
        UsageError: for anything else, and for a span that does not end after it starts.
    """
    first, dash, last = text.partition("-")
    if not dash:
        raise UsageError(f"{text!r} is not a span of time: write two times with a dash between them, as in 2.5-4")
    start, end = parse_time(first), parse_time(last)
    if end <= start:
        raise UsageError(f"the span {text!r} does not end after it starts")
    return start, end


def parse_box(text: str, size: tuple[int, int] | None = None) -> Box:
    """Read a box.

    Args:
        text: left, top, right and bottom, as in "0,0,0.5,1": in pixels, or relative to the picture where none is
            above 1.
        size: (width, height) of the picture in pixels, where it is known.

    Returns:
        (x0, y0, x1, y1), as written; with ``size`` in whole pixels inside the picture.

    Raises:
        UsageError: for text that is not a box, and for a box that is empty or reaches beyond the picture.
    """
    try:
        x0, y0, x1, y1 = (float(part) for part in text.split(","))
    except ValueError:
        sums = "; --region sums inside a box that has a name" if "=" in text else ""
        raise UsageError(f"{text!r} is not a box: write left,top,right,bottom, as in 0,0,0.5,1{sums}") from None
    box = (x0, y0, x1, y1)
    return pixel_box(box, size) if size else _checked(box)


def pixel_box(box: Box, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Convert a box to whole pixels of a picture.

    Args:
        box: (x0, y0, x1, y1) in pixels, or relative to the picture where none is above 1.
        size: (width, height) of the picture in pixels.

    Returns:
        (x0, y0, x1, y1) in pixels.

    Raises:
        UsageError: for a box that is empty or reaches beyond the picture.
    """
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
    """The same box; raises UsageError for one that is empty or begins before 0."""
    x0, y0, x1, y1 = box
    if not (0 <= x0 < x1 < float("inf") and 0 <= y0 < y1 < float("inf")):
        raise UsageError(f"the box {_spelled(box)} is empty or outside: left < right and top < bottom, from 0 on")
    return box


def _spelled(box: Box) -> str:
    """A box as people write it."""
    return ",".join(f"{value:g}" for value in box)
