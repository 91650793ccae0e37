"""How far a region of the original covers the pixels of a view: areas of polygons and boxes, averages of masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coda_cli.machine import budget
from coda_cli.media.view import Box, View

EDGES = 2000  # of a polygon that are cut at a time: each may cross the whole grid, and its pieces take memory
Ring = NDArray[np.float64]
Shares = NDArray[np.float64]


@dataclass(frozen=True)
class Coverage:
    """How far one region covers the pixels of a view.

    Attributes:
        shares: float64 [h', w'] in [0, 1], the covered share of each pixel in the part of the view that is touched.
        top: the first row of that part.
        left: its first column.
        outside: the share of the region's own area that the view does not show, in [0, 1].
        whole: the region's own area in the picture, in its pixels (of a mask in the mask's); 0 where there is none.
    """

    shares: Shares
    top: int
    left: int
    outside: float
    whole: float

    @property
    def part(self) -> tuple[slice, slice]:
        """The rows and columns of the view that ``shares`` are of."""
        h, w = self.shares.shape
        return slice(self.top, self.top + h), slice(self.left, self.left + w)


def of_rings(rings: Sequence[Ring], view: View) -> Coverage:
    """Find how far polygons cover the pixels of a view, as exact areas; a pixel that a border cuts has a share.

    Args:
        rings: closed polygons [n, 2] of (x, y) in pixels of the original; together they are one region. Where two
            overlap, a pixel counts once. A polygon that crosses itself is taken by its winding.
        view: what the network saw.

    Returns:
        The coverage; what reaches beyond the picture does not count.
    """
    width, height = view.size
    picture = (0.0, 0.0, float(width), float(height))
    inside = [_clipped(ring, picture) for ring in rings]
    (w, h), (pixel_width, pixel_height) = view.resolution, _pixel(view.box, view.resolution)
    shares = _of_rings(inside, view.box, (w, h))
    # The same on a grid of the whole picture, so that parts that overlap count once here as well.
    grid = min(w, width), min(h, height)
    whole = float(_of_rings(inside, picture, grid).sum()) * np.prod(_pixel(picture, grid))
    return _trimmed(shares, float(shares.sum()) * pixel_width * pixel_height, float(whole))


def of_mask(mask: NDArray[np.bool_], view: View) -> Coverage:
    """Find how far a mask covers the pixels of a view: the average over the area that each of them stands for.

    Args:
        mask: bool [H, W], of the original, at its size or any other of the same shape.
        view: what the network saw.

    Returns:
        The coverage.
    """
    (w, h), size, scale = view.resolution, view.size, (mask.shape[1] / view.size[0], mask.shape[0] / view.size[1])
    x0, y0, x1, y1 = view.box
    columns = np.linspace(x0, x1, w + 1).clip(0, size[0]) * scale[0]
    rows = np.linspace(y0, y1, h + 1).clip(0, size[1]) * scale[1]
    across = np.empty((mask.shape[0], w))
    step = max(1, budget.CONVERTED_PIXELS // mask.shape[1])
    for top in range(0, mask.shape[0], step):  # in strips: their running sums take eight bytes a pixel
        across[top : top + step] = _between(mask[top : top + step], columns)
    sums = _between(across.T, rows).T
    pixel_width, pixel_height = _pixel(view.box, (w, h))
    shares = (sums / (pixel_width * pixel_height * scale[0] * scale[1])).clip(0, 1)
    return _trimmed(shares, float(sums.sum()), float(np.count_nonzero(mask)))


def _between(values: NDArray[np.generic], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """The sums of each row of [n, m] between neighbouring edges, fractions of a cell in proportion: [n, edges - 1]."""
    running = np.zeros((values.shape[0], values.shape[1] + 1))
    np.cumsum(values, axis=1, out=running[:, 1:], dtype=np.float64)
    first = np.floor(edges).astype(int).clip(0, values.shape[1] - 1)
    part = edges - first
    at_edges = running[:, first] * (1 - part) + running[:, first + 1] * part
    return np.diff(at_edges, axis=1)


def _pixel(box: Box, size: tuple[int, int]) -> tuple[float, float]:
    """Width and height of one of ``size`` pixels that make up a box."""
    return (box[2] - box[0]) / size[0], (box[3] - box[1]) / size[1]


def _trimmed(shares: Shares, inside: float, whole: float) -> Coverage:
    """The coverage without the rows and columns that it does not touch."""
    rows, columns = np.flatnonzero(shares.any(1)), np.flatnonzero(shares.any(0))
    outside = min(1.0, max(0.0, 1 - inside / whole)) if whole > 0 else 0.0
    outside = outside if outside > 1e-9 else 0.0  # rounding
    if not len(rows):
        return Coverage(np.zeros((0, 0)), 0, 0, 1.0, whole)
    top, left = int(rows[0]), int(columns[0])
    return Coverage(shares[top : rows[-1] + 1, left : columns[-1] + 1].copy(), top, left, outside, whole)


# ---- polygons --------------------------------------------------------------------------------------------------------


def _of_rings(rings: Sequence[Ring], box: Box, size: tuple[int, int]) -> Shares:
    """The covered share of each of ``size`` pixels that make up a box."""
    total = np.zeros((size[1], size[0]))
    for ring in rings:
        total += np.abs(_areas(_clipped(ring, box), box, size))
    return total.clip(0, 1)


def _areas(ring: Ring, box: Box, size: tuple[int, int]) -> Shares:
    """The signed areas that one polygon, which lies inside the box, has in each of ``size`` pixels of it.

    Every edge is cut where it crosses the grid. A piece adds the area at its right to its own pixel, and its height to
    all pixels further right: a running sum along the rows.
    """
    w, h = size
    running = np.zeros((h, w + 1))
    points = ((ring - (box[0], box[1])) / _pixel(box, size)).clip(0, (w, h)) if len(ring) >= 3 else np.zeros((0, 2))
    following = np.roll(points, -1, 0)
    for first in range(0, len(points), EDGES):
        starts, ends = _pieces(points[first : first + EDGES], following[first : first + EDGES])
        middle = (starts + ends) / 2
        column = np.floor(middle[:, 0]).astype(int).clip(0, w - 1)
        row = np.floor(middle[:, 1]).astype(int).clip(0, h - 1)
        rise, beside = ends[:, 1] - starts[:, 1], middle[:, 0] - column
        np.add.at(running, (row, column), rise * (1 - beside))
        np.add.at(running, (row, column + 1), rise * beside)
    return running.cumsum(1)[:, :w]


def _pieces(points: Ring, following: Ring) -> tuple[Ring, Ring]:
    """Edges of a polygon, from points to those that follow, cut at all whole numbers: starts and ends [m, 2]."""
    starts, ends = [], []
    for a, b in zip(points, following, strict=True):
        if a[1] == b[1]:
            continue  # a level edge adds nothing
        cuts = [np.array([0.0, 1.0])]
        for axis in (0, 1):
            low, high = sorted((a[axis], b[axis]))
            whole = np.arange(np.floor(low) + 1, np.ceil(high))
            if len(whole):
                cuts.append((whole - a[axis]) / (b[axis] - a[axis]))
        t = np.sort(np.concatenate(cuts))[:, None]
        along = a + t * (b - a)
        starts.append(along[:-1])
        ends.append(along[1:])
    if not starts:
        return np.zeros((0, 2)), np.zeros((0, 2))
    return np.concatenate(starts), np.concatenate(ends)


def _clipped(ring: Ring, box: Box) -> Ring:
    """The part of a polygon inside a box (Sutherland and Hodgman, Communications of the ACM 17, 1974)."""
    for axis, limit, sign in ((0, box[0], 1), (0, box[2], -1), (1, box[1], 1), (1, box[3], -1)):
        if not len(ring):
            break
        inside = sign * (ring[:, axis] - limit) >= 0
        if inside.all():
            continue
        kept = []
        for k in range(len(ring)):
            before, here = ring[k - 1], ring[k]
            if inside[k] != inside[k - 1]:
                t = (limit - before[axis]) / (here[axis] - before[axis])
                kept.append(before + t * (here - before))
            if inside[k]:
                kept.append(here)
        ring = np.array(kept) if kept else np.zeros((0, 2))
    return ring
