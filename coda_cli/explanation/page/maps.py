"""Maps as 16-bit integers, with a proven limit on what rounding does to any sum of them."""

from __future__ import annotations

import base64
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEVELS = 32767  # the greatest integer: a map's largest |contribution|
_MOST_EXACT = 512  # rows or columns of a map for which every rectangle is looked at
Errors = NDArray[np.float64]


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
    """Round a map to 16-bit integers and compress them.

    The low bytes of all integers follow the high bytes: few values are large, so high bytes compress well and low
    bytes hardly, which together is a third less than the integers as they are.

    Args:
        values: contribution map [h, w], signed, in logit units.

    Returns:
        The integers, base64 of a zlib stream, with their step and what rounding can do to sums.
    """
    exact = values.astype(np.float64)
    step = float(np.abs(exact).max(initial=0.0)) / LEVELS
    integers = np.rint(exact / step).astype(np.int16) if step else np.zeros(exact.shape, np.int16)
    planes = integers.astype("<i2").view(np.uint8).reshape(-1, 2).T[::-1]
    error = integers * step - exact
    gain = np.where(exact > 0, error, 0)
    return Packed(
        rows=values.shape[0],
        columns=values.shape[1],
        step=step,
        off=(largest_sum(gain), largest_sum(error - gain), largest_sum(error)),
        data=base64.b64encode(zlib.compress(planes.tobytes(), 6)).decode(),
    )


def largest_sum(errors: Errors) -> float:
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
