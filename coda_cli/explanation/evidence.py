"""Measure where the evidence lies: exact sums over parts of a contribution map."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

GRID = 3
MOST_REGIONS = 5


@dataclass(frozen=True)
class Region:
    """A connected part of the strongest evidence."""

    box: tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels of the map: the outer edges of pixels, not centres
    share: float  # of the map's positive sum
    pixels: int


@dataclass(frozen=True)
class Evidence:
    """A contribution map [h, w] in numbers; sums are taken in float64, and shares are of the positive sum."""

    positive: float  # sum of the contributions above 0
    negative: float  # sum of those below
    centroid: tuple[float, float] | None  # x, y of the positive evidence, pixels of the map; None without any
    half_share: float | None  # smallest share of the pixels that holds half of the positive evidence
    regions: tuple[Region, ...]  # connected components of these pixels, the greatest share first
    # Signed sums over GRID x GRID cells, rows from the top; they add up to the sum of the map.
    grid: tuple[tuple[float, ...], ...]


def measure(pixels: NDArray[np.float32], parts: bool = True) -> Evidence:
    """Measure where the evidence in a contribution map lies.

    Args:
        pixels: the map [h, w], signed, in logit units.
        parts: whether regions and grid are measured; without it they stay empty.

    Returns:
        The map in numbers.
    """
    values = pixels.astype(np.float64)
    gain = np.maximum(values, 0)
    total = float(gain.sum())
    negative = float(np.minimum(values, 0).sum())
    if not total > 0:  # also NaN
        return Evidence(total, negative, None, None, (), _grid(values) if parts else ())
    h, w = values.shape
    centroid = (float(gain.sum(0) @ (np.arange(w) + 0.5)) / total, float(gain.sum(1) @ (np.arange(h) + 0.5)) / total)
    mask = _mask_of_half(gain, total)
    regions, grid = (_regions(mask, gain, total), _grid(values)) if parts else ((), ())
    return Evidence(total, negative, centroid, float(mask.mean()), regions, grid)


def _mask_of_half(gain: NDArray[np.float64], total: float) -> NDArray[np.bool_]:
    """The fewest pixels that hold half of the positive evidence; of equal pixels the first in the map are taken."""
    # Sorting is slow. Pixels above the mean usually hold half of the sum: all are sorted only where those do not.
    flat = gain.ravel()
    chosen = flat[flat > total / flat.size]
    if not float(chosen.sum()) > total / 2:
        chosen = flat
    falling = np.sort(chosen)[::-1]
    count = int(np.searchsorted(np.cumsum(falling), total / 2)) + 1
    least = falling[min(count, len(falling)) - 1]
    mask: NDArray[np.bool_] = flat > least
    equal = np.flatnonzero(flat == least)
    mask[equal[: count - int(mask.sum())]] = True
    return mask.reshape(gain.shape)


def _regions(mask: NDArray[np.bool_], gain: NDArray[np.float64], total: float) -> tuple[Region, ...]:
    """The connected parts of a mask, those with the greatest sums first, at most MOST_REGIONS."""
    from coda_cli.opencv import cv2

    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    sums = np.bincount(labels.ravel(), weights=gain.ravel(), minlength=count)
    best = sorted(range(1, count), key=lambda i: -sums[i])[:MOST_REGIONS]
    return tuple(
        Region((int(x), int(y), int(x + w), int(y + h)), float(sums[i] / total), int(area))
        for i in best
        for x, y, w, h, area in [stats[i]]
    )


def _grid(values: NDArray[np.float64]) -> tuple[tuple[float, ...], ...]:
    """The sums over GRID x GRID cells of a map."""
    # Where a map is smaller than the grid, a cell can be empty; its sum is 0.
    rows = np.array_split(values, GRID, 0)
    return tuple(tuple(float(cell.sum()) for cell in np.array_split(row, GRID, 1)) for row in rows)
