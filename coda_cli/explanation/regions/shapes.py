"""A region as it is given, in the original's pixels, and laid on what the network saw of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from coda_cli.errors import MediaError
from coda_cli.media.coverage import Coverage, Ring, of_mask, of_rings
from coda_cli.media.masks import outlines_of
from coda_cli.media.view import View

MOST_REGIONS = 200  # of one picture
MOST_POINTS = 100_000  # of all polygons of one picture
NO_AREA = 1e-6  # pixels of the original: what rounding leaves of a polygon whose corners lie on one line


@dataclass(frozen=True)
class Shape:
    """A region as a file or an option gives it: polygons or a mask.

    Attributes:
        name: what it is called.
        rings: polygons [n, 2] of (x, y) in pixels; none where there is a mask.
        mask: bool [H, W].
        size: (width, height) in pixels of the picture that it was made for; None for the picture itself.
        relative: whether the polygons are relative to the picture: (1, 1) is its lower right corner.
    """

    name: str
    rings: tuple[Ring, ...] = ()
    mask: NDArray[np.bool_] | None = None
    size: tuple[float, float] | None = None
    relative: bool = False


@dataclass(frozen=True)
class Region:
    """A region laid on a view.

    Attributes:
        name: what it is called.
        coverage: how far it covers the pixels of the view.
        outlines: closed lines [n, 2] of (x, y) in pixels of the original, for drawing.
    """

    name: str
    coverage: Coverage
    outlines: tuple[Ring, ...]


def box_ring(x0: float, y0: float, x1: float, y1: float) -> Ring:
    """Make the polygon of a box.

    Args:
        x0: left edge, in pixels.
        y0: top edge, in pixels.
        x1: right edge, in pixels.
        y1: bottom edge, in pixels.

    Returns:
        Its corners [4, 2].
    """
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], np.float64)


def polygon(numbers: Sequence[object]) -> Ring:
    """Make a polygon from numbers in a file.

    Args:
        numbers: x0, y0, x1, y1, ...; at least six.

    Returns:
        [n, 2].

    Raises:
        MediaError: these are not the numbers of a polygon.
    """
    if len(numbers) < 6 or len(numbers) % 2 or len(numbers) > 2 * MOST_POINTS:
        raise MediaError(f"a polygon of {len(numbers)} numbers; expected x, y of three points or more")
    try:
        values = np.array(numbers, np.float64).reshape(-1, 2)
    except (TypeError, ValueError, OverflowError) as error:
        raise MediaError("a polygon holds something that is no number") from error
    if not (np.abs(values) < 1e7).all():  # also NaN
        raise MediaError("a polygon holds a number that is no place in a picture")
    return values


def shape_of(name: str, given: Sequence[float] | NDArray[np.generic]) -> Shape:
    """Make a shape of what somebody gives in Python.

    Args:
        name: what it is called.
        given: a box (x0, y0, x1, y1) in pixels, or a mask [H, W] that is inside where it is not 0.

    Returns:
        The shape.

    Raises:
        MediaError: it is neither.
    """
    values = np.asarray(given)
    if values.ndim == 2 and values.size:
        return Shape(name, mask=values != 0, size=(values.shape[1], values.shape[0]))
    if values.shape != (4,) or not (np.isfinite(values).all() and values[0] < values[2] and values[1] < values[3]):
        raise MediaError(f"the region {name} is neither a box (x0, y0, x1, y1) nor a mask [H, W]")
    return Shape(name, (box_ring(*map(float, values)),))


def with_own_names(shapes: Iterable[Shape]) -> list[Shape]:
    """Number the shapes whose name others have: "dog", "dog 2"; there may be no more than can be laid on a view.

    Args:
        shapes: the regions of one picture.

    Returns:
        The same with a name each.

    Raises:
        MediaError: there are too many, or too many points of polygons.
    """
    seen, named, points = Counter[str](), list[Shape](), 0
    for shape in shapes:
        points += sum(map(len, shape.rings))
        if points > MOST_POINTS:
            raise MediaError(f"polygons of more than {MOST_POINTS:,} points for one picture; choose some with --labels")
        seen[shape.name] += 1
        named.append(shape if seen[shape.name] == 1 else replace(shape, name=f"{shape.name} {seen[shape.name]}"))
        if len(named) > MOST_REGIONS:
            raise MediaError(f"more than {MOST_REGIONS} regions for one picture; choose some with --labels")
    return named


def laid(shape: Shape, view: View) -> Region:
    """Lay a shape on what the network saw of its picture.

    Args:
        shape: the shape.
        view: the view; its ``size`` is that of the picture.

    Returns:
        The region.

    Raises:
        MediaError: the shape is empty, lies beside the picture, or was made for a picture of another shape.
    """
    width, height = view.size
    own = shape.size or (float(width), float(height))
    if not _same_shape(own, view.size):
        raise MediaError(
            f"the region {shape.name} is for a picture of {own[0]:g} x {own[1]:g} pixels, and this one has {width} x "
            f"{height}; make it for this size, or for one of the same proportions"
        )
    scale = view.size if shape.relative else (width / own[0], height / own[1])
    if shape.mask is not None:
        if not shape.mask.any():
            raise MediaError(f"the region {shape.name} is empty: no pixel of its mask is other than 0")
        scale = width / shape.mask.shape[1], height / shape.mask.shape[0]
        return Region(shape.name, of_mask(shape.mask, view), outlines_of(shape.mask, scale))
    rings = tuple(ring * scale for ring in shape.rings)
    coverage = of_rings(rings, view)
    if coverage.whole <= NO_AREA:  # a line, or beside the picture
        x0, y0 = np.min([ring.min(0) for ring in rings], 0)
        x1, y1 = np.max([ring.max(0) for ring in rings], 0)
        raise MediaError(
            f"the region {shape.name} from {x0:g},{y0:g} to {x1:g},{y1:g} holds nothing of a picture of {width} x "
            f"{height} pixels"
        )
    return Region(shape.name, coverage, rings)


def _same_shape(own: tuple[float, float], size: tuple[int, int]) -> bool:
    """Whether two pictures have the same proportions, up to the rounding of a side to whole pixels."""
    if not (own[0] > 0 and own[1] > 0):
        return False
    small, large = sorted((own, (float(size[0]), float(size[1]))))
    return abs(small[1] - large[1] * small[0] / large[0]) <= 1 or abs(small[0] - large[0] * small[1] / large[1]) <= 1
