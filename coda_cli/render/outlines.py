"""Outlines of regions over a picture, with their names where there is room."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from coda_cli.opencv import cv2
from coda_cli.render import text

Picture = NDArray[np.uint8]
Ring = NDArray[np.float64]

LINE, CASING, PLATE = (255, 255, 255), (0, 0, 0), (38, 38, 40)  # no hue: in a map every colour is evidence
_SHIFT = 4  # binary places of the fractions of a pixel that OpenCV draws at
_FARTHEST = 1e6  # pixels; beyond it OpenCV's whole numbers overflow


def outlined(
    picture: Picture,
    regions: Sequence[tuple[str, Sequence[Ring]]],
    scale: tuple[float, float],
    origin: tuple[float, float] = (0, 0),
) -> Picture:
    """Draw the outlines of regions over a picture.

    A white line with a black one at both sides can be seen on light and dark, and has no colour of the map. A name
    stands in white on a dark plate at the upper left of its region, above it, below it, or inside; it is left out
    where it would cover another name or leave the picture.

    Args:
        picture: uint8 [H, W, 3] sRGB.
        regions: for each its name and its closed lines [n, 2] of (x, y) in pixels of the original.
        scale: pixels of the drawing for one pixel of the original, across and down.
        origin: (x, y) of the picture's corner in the original, in its pixels.

    Returns:
        A copy, uint8 [H, W, 3] sRGB.
    """
    result = picture.copy()
    unit = min(picture.shape[:2])
    thin = max(1, round(unit / 400))
    drawn = [(name, [_placed(ring, scale, origin) for ring in rings]) for name, rings in regions]
    for ink, thickness in ((CASING, 3 * thin), (LINE, thin)):
        for _, rings in drawn:
            points = [np.round(ring * (1 << _SHIFT)).astype(np.int32) for ring in rings]
            cv2.polylines(result, points, True, ink, thickness, cv2.LINE_AA, _SHIFT)
    letters, taken = int(np.clip(unit / 30, 11, 32)), list[tuple[int, int, int, int]]()
    for name, rings in drawn:
        if (place := _room_for(name, rings, letters, result, taken)) is not None:
            taken.append(place)
            x0, y0, x1, y1 = place
            result[y0:y1, x0:x1] = PLATE
            text.draw(result, name, (x0 + letters // 3, y0 + letters // 5), letters, LINE)
    return result


def _placed(ring: Ring, scale: tuple[float, float], origin: tuple[float, float]) -> Ring:
    """A line in the coordinates of OpenCV, whose whole numbers are the middles of pixels."""
    return ((ring - origin) * scale - 0.5).clip(-_FARTHEST, _FARTHEST)


def _room_for(
    name: str, rings: Sequence[Ring], letters: int, picture: Picture, taken: Sequence[tuple[int, int, int, int]]
) -> tuple[int, int, int, int] | None:
    """Where the plate of a name fits: left, top, right, bottom; None where it does not."""
    height, width = picture.shape[:2]
    if not rings:
        return None
    points = np.concatenate(rings).clip(0, (width, height))
    (x0, y0), (x1, y1) = points.min(0), points.max(0)
    wide, tall = text.width(name, letters) + 2 * (letters // 3), round(letters * 1.45)
    gap = max(2, letters // 5)
    roomy = x1 - x0 > 3 * wide and y1 - y0 > 4 * tall  # a name inside hides little of a large region
    inside = x0 + gap, y0 + gap
    for x, y in (
        (x0, y0 - tall - gap),
        inside if roomy else (x0, y1 + gap),
        (x0, y1 + gap),
        inside,
        (x1 - wide - gap, y1 - tall - gap),
        (x1 - wide, y0 - tall - gap),
    ):
        left, top = round(min(max(x, 0), max(0, width - wide))), round(y)
        place = left, top, left + wide, top + tall
        fits = top >= 0 and place[3] <= height and place[2] <= width
        if fits and not any(_meet(place, other) for other in taken):
            return place
    return None


def _meet(one: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> bool:
    """Whether two rectangles have a pixel in common."""
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
