"""Maps as small integers, with a proven limit on what rounding does to any sum of them."""

from __future__ import annotations

import base64
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# The integer of a map's largest |contribution|. Of a map of 128 x 128, sums are then known to 0.0002 logit. Its second
# differences fit in 16 bits. Four times as many levels would take a quarter more bytes.
LEVELS = 8191
FEWEST_LEVELS = 255
MOST_LETTERS = 75_000  # of a packed map: 300 of them and their pictures have at most 40 MB
_MOST_EXACT = 512  # rows or columns of a map for which every rectangle is looked at
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Packed:
    """A map as it stands in a page.

    Attributes:
        rows: of the map.
        columns: of the map.
        step: logit units that the integer 1 stands for.
        off: how far the sum over any rectangle can be from that of the map, in logit units: of positive, of negative
            and of all contributions.
        data: the integers, as ``pack`` writes them.
    """

    rows: int
    columns: int
    step: float
    off: tuple[float, float, float]
    data: str


def pack(values: NDArray[np.float32]) -> Packed:
    """Round a map to integers and compress them.

    Neighbours are alike, so what is kept of each integer is how it differs from those at its left and above: the
    difference along rows of the difference along columns. It is kept as twice its size, less 1 where it is negative,
    and all high bytes come before all low bytes, since most high bytes are 0. Of maps of 128 x 128 this takes 1.35
    letters a pixel, where the integers as they are take 1.75. A map that takes too many is rounded more coarsely.

    Args:
        values: contribution map [h, w], signed, in logit units.

    Returns:
        The integers, base64 of a zlib stream, with their step and what rounding can do to sums.
    """
    exact = values.astype(np.float64)
    levels, peak = LEVELS, float(np.abs(values).max(initial=0.0))
    integers, data = _rounded(exact, peak, levels)
    while len(data) > MOST_LETTERS and levels > FEWEST_LEVELS:  # a very large map, or noise
        levels //= 2
        integers, data = _rounded(exact, peak, levels)
    error = integers * (peak / levels) - exact
    gain = np.where(exact > 0, error, 0)
    return Packed(
        rows=values.shape[0],
        columns=values.shape[1],
        step=peak / levels,
        off=(largest_sum(gain), largest_sum(error - gain), largest_sum(error)),
        data=data,
    )


def _rounded(values: Values, peak: float, levels: int) -> tuple[NDArray[np.int32], str]:
    """A map as integers up to ``levels``, and the same compressed."""
    step = peak / levels
    integers = np.rint(values / step).astype(np.int32) if step else np.zeros(values.shape, np.int32)
    change = np.diff(np.diff(integers, axis=0, prepend=0), axis=1, prepend=0)
    folded = ((change << 1) ^ (change >> 31)).astype(np.uint16).ravel()
    planes = np.stack([folded >> 8, folded & 255]).astype(np.uint8)
    return integers, base64.b64encode(zlib.compress(planes.tobytes(), 6)).decode()


def largest_sum(errors: Values) -> float:
    """Find how far from 0 the sum over a rectangle can be.

    It holds for rectangles with any borders: where a border cuts an element in proportion to its covered area, the sum
    is linear in the place of each border, so it is largest where all borders are between elements.

    Args:
        errors: [h, w], in whatever unit.

    Returns:
        The largest |sum| over all rectangles; of a very large array a greater number, which is found faster.
    """
    if max(errors.shape) > _MOST_EXACT:
        return float(max(errors[errors > 0].sum(), -errors[errors < 0].sum()))
    corner = np.zeros((errors.shape[0] + 1, errors.shape[1] + 1))
    corner[1:, 1:] = errors.cumsum(0).cumsum(1)
    most = 0.0
    for top in range(errors.shape[0]):
        strips = corner[top + 1 :] - corner[top]  # sums from the left edge to each column, down to each row
        most = max(most, float((strips.max(1) - strips.min(1)).max()))
    return most
