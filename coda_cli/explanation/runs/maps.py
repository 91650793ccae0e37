"""The maps that two runs kept: read, laid on one grid, subtracted, drawn."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

from coda_cli.errors import MediaError
from coda_cli.explanation.files import BROKEN, MAX_READ
from coda_cli.explanation.runs.stored import Stored, Where
from coda_cli.machine import budget
from coda_cli.media.files import regular_size, shown_name
from coda_cli.media.packed import sample_at
from coda_cli.media.stored import Given
from coda_cli.media.view import Box
from coda_cli.render.colour import robust_scale
from coda_cli.render.overlay import drawing_size, enlarged, framed, heatmap, side_by_side
from coda_cli.schema.pictures import from_json
from coda_cli.schema.runs import Difference, MapChange, TargetChange

Map = NDArray[np.float64]
RGB = NDArray[np.uint8]
PERCENTILE = 99.5  # of the |differences| of a map: what is drawn in full colour
LARGEST = 1e30  # of a contribution: anything above is no map, and NaN is none either
ROUNDING = 2.0**-23  # of a number of float32, which is what maps are kept in


@dataclass(frozen=True)
class Kept:
    """What a run kept of a picture.

    Attributes:
        maps: float32 [K, h, w], of the record's targets in their order, in logit units.
        view: what the network saw, uint8 [h, w, 3].
    """

    maps: NDArray[np.float32]
    view: RGB


def kept_maps(stored: Stored) -> Kept | None:
    """Read the maps that a record names.

    Args:
        stored: the record.

    Returns:
        The maps; None where the record names none, or the file is not there.

    Raises:
        MediaError: the file cannot be read, or is of another picture, network or settings than the record.
    """
    if (file := _npz_of(stored)) is None:
        return None
    record, view, path = stored.record, stored.record.view, file if isinstance(file, Path) else file.name
    try:
        with _opened(file) as stream, np.load(stream, allow_pickle=False) as content:
            own = from_json(str(_array(content, "record", budget.RECORD_FILE)))
            if (own.source.sha256, own.network.sha256, own.settings) != (
                record.source.sha256,
                record.network.sha256,
                record.settings,
            ):
                raise MediaError("is of another picture, network or settings than its record", item=path)
            maps, rgb = _array(content, "pixels"), _array(content, "view")
    except BROKEN as error:
        raise MediaError(f"cannot be read ({' '.join(str(error).split())[:200]})", item=path) from error
    size = (view.height, view.width)
    if maps.shape != (len(record.explained), *size) or maps.dtype != np.float32 or not (np.abs(maps) < LARGEST).all():
        raise MediaError("its maps are not those of its record", item=path)
    if rgb.shape != (*size, 3) or rgb.dtype != np.uint8:
        raise MediaError("its view is not that of its record", item=path)
    return Kept(maps, rgb)


def _opened(file: Path | Given) -> IO[bytes]:
    """The file of the maps, to be read. Raises MediaError, and OSError."""
    if isinstance(file, Given):
        return io.BytesIO(file.content)
    regular_size(file, MAX_READ)
    return file.open("rb")


def _npz_of(stored: Stored) -> Path | Given | None:
    """The file of the maps. A record of others names only files beside it, or below the folder of its lines."""
    if not (name := stored.record.files.get("npz")):
        return None
    if stored.where.inside:
        content = sample_at(Path(stored.where.file), stored.where.offset).file(name)
        return None if content is None else Given(f"{stored.where.file}/{name}", content)
    relative, folder = PurePosixPath(name), Path(stored.where.file).parent
    if relative.is_absolute() or ".." in relative.parts or "\0" in name or not relative.name:
        return None
    there = [path for path in (folder / relative.name, folder / relative) if path.is_file()]
    return there[0] if there else None


def _array(content: Any, name: str, most: int = MAX_READ) -> NDArray[Any]:
    """An array of an npz file, once its header is known to say no more than the file holds. Raises ValueError."""
    entry = content.zip.getinfo(f"{name}.npy")
    with content.zip.open(entry) as stream:
        version = np.lib.format.read_magic(stream)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = header(stream)
    if dtype.hasobject or math.prod(shape) * dtype.itemsize > min(most, entry.file_size):
        raise ValueError(f"its {name} are too large")
    return np.asarray(content[name])


# ---- one grid --------------------------------------------------------------------------------------------------------


def on_common_grid(maps: tuple[Map, Map], boxes: tuple[Box, Box]) -> tuple[Map, Map]:
    """Spread two maps over one grid that covers both; every sum is kept.

    A pixel of a map is spread evenly over the cells that it covers, in proportion to the covered area. The cells are as
    large as the smaller of both maps' pixels, unless that would be more than a picture at its own size may have.

    Args:
        maps: contributions [h, w] each, in logit units.
        boxes: (x0, y0, x1, y1) of each, in pixels of the original.

    Returns:
        Both maps [H, W].
    """
    edges = []
    for axis in (0, 1):
        lo, hi = min(box[axis] for box in boxes), max(box[axis + 2] for box in boxes)
        pixels = [(b[axis + 2] - b[axis]) / m.shape[1 - axis] for b, m in zip(boxes, maps, strict=True)]
        most = math.isqrt(budget.NATIVE_PIXELS)
        count = max(1, min(most, math.ceil((hi - lo) / min(pixels) - 1e-9)))
        edges.append(np.linspace(lo, hi, count + 1))
    first, second = (
        _spread_over(_spread_over(m, edges[1], box[1], box[3]).T, edges[0], box[0], box[2]).T
        for m, box in zip(maps, boxes, strict=True)
    )
    return first, second


def _spread_over(values: Map, edges: Map, start: float, end: float) -> Map:
    """Rows [n, ...] that lie evenly between ``start`` and ``end``, spread over the cells between edges."""
    n = len(values)
    cumulated = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values, 0)])
    at = np.clip((edges - start) / (end - start) * n, 0, n)
    at[0], at[-1] = 0, n  # the grid covers the map; rounding of its outer edges must not cut anything off
    whole = np.minimum(at.astype(np.int64), n - 1)
    upto = cumulated[whole] + (at - whole)[:, None] * values[whole]
    return np.diff(upto, axis=0)


@dataclass(frozen=True)
class Subtracted:
    """The difference of two maps.

    Attributes:
        values: RUN2 minus RUN1, float64 [h, w], in logit units.
        grid: what the pixels are; see ``schema.runs.MapChange``.
        rounding: how far the sum may be off, since maps are kept in float32; in logit units.
    """

    values: Map
    grid: Literal["view", "common"]
    rounding: float


def subtracted(maps: tuple[NDArray[np.float32], NDArray[np.float32]], boxes: tuple[Box, Box]) -> Subtracted:
    """Subtract the map of RUN1 from that of RUN2.

    Args:
        maps: of RUN1 and RUN2 [h, w] each, in logit units.
        boxes: (x0, y0, x1, y1) of each, in pixels of the original.

    Returns:
        The difference, on the view's own grid where both maps have one box and one size.
    """
    first, second = (m.astype(np.float64) for m in maps)
    rounding = ROUNDING * float(np.abs(first).sum() + np.abs(second).sum())
    if first.shape == second.shape and np.allclose(*boxes, rtol=0, atol=1e-6):
        return Subtracted(second - first, "view", rounding)
    first, second = on_common_grid((first, second), boxes)
    return Subtracted(second - first, "common", rounding)


def map_change(found: Subtracted, target: TargetChange, tolerance: float) -> MapChange:
    """Say what a difference of maps adds up to.

    Args:
        found: the difference.
        target: the numbers of both runs.
        tolerance: what the residuals of both runs may be together, in logit units.

    Returns:
        The sums, with their residual.
    """
    total = float(found.values.sum())
    residual = target.logit.change - target.constants.change - total
    allowed = tolerance + found.rounding
    return MapChange(
        grid=found.grid,
        width=found.values.shape[1],
        height=found.values.shape[0],
        sum=total,
        magnitude=float(np.abs(found.values).sum()),
        residual=residual,
        tolerance=allowed,
        exact=abs(residual) <= allowed,
        scale=robust_scale(found.values.astype(np.float32), PERCENTILE),
    )


def draw_difference(found: Subtracted, pair: Difference, target: TargetChange, view: RGB) -> RGB:
    """Draw a difference as a heat map, on the view's own grid beside what the network saw.

    Args:
        found: the difference.
        pair: the record of the picture.
        target: its part about this target, with its map.
        view: what the network of RUN2 saw, uint8 [h, w, 3].

    Returns:
        The picture with colour bar and caption, uint8 [H', W', 3].
    """
    assert target.map
    m, height, width = target.map, *found.values.shape
    size = drawing_size((width, height), budget.SHEET_PIXELS // 3)
    row = [heatmap(enlarged(found.values.astype(np.float32), size), m.scale)]
    if found.grid == "view":
        row.insert(0, enlarged(view, size))
    terms = {"for": target.positive, "against": target.negative, "constants": target.constants}
    sums = " ".join(f"{change.change:+.3g} {name}" for name, change in terms.items())
    proof = f"residual {target.residual.change:.1e}" + ("" if m.exact else " ABOVE ITS TOLERANCE")
    lines = [
        f"change {target.logit.change:+.4g} = {sums}, {proof}",
        f"first: {pair.first.network.name}, {pair.first.precision}, predicted {pair.first.predicted.name}",
        f"second: {pair.second.network.name}, {pair.second.precision}, predicted {pair.second.predicted.name}",
        f"the map of the second run minus that of the first, full colour ±{m.scale:.2g} logit a pixel",
    ]
    if found.grid == "common":
        lines.append(f"the runs saw different views: a common grid of {width} x {height} cells, which keeps the sums")
    title = f"{name_of(target)} · logit {target.logit.first:.2f} → {target.logit.second:.2f}"
    return framed(side_by_side(row), m.scale, shown_name(title), [shown_name(line) for line in lines])


def name_of(target: TargetChange) -> str:
    """Name a target.

    Args:
        target: a class or a difference of two.

    Returns:
        The class's name, or "A − B".
    """
    return target.name if target.versus is None else f"{target.name} − {target.versus.name}"


def folder_of(where: Where, run: str) -> Path:
    """Say where in a run a record stands, for a drawing that goes to the same place.

    Args:
        where: the record's place.
        run: the folder or file that was named.

    Returns:
        The folder, relative to the run; . for a file that was named itself.
    """
    folder, inside = Path(where.file).parent, PurePosixPath(where.inside).parent
    place = folder.relative_to(run) if run and folder.is_relative_to(run) else Path()
    if not inside.is_absolute() and ".." not in inside.parts:  # it may be a stranger's
        place /= inside
    return Path(shown_name(str(place)))
