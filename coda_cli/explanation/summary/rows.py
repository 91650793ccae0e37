"""From a record to the few numbers that a summary needs, kept on disk until all records were seen."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from coda_cli.errors import MediaError
from coda_cli.explanation.phrases import title_of
from coda_cli.explanation.summary.records import SUFFIX
from coda_cli.schema.parts import ScoredClass
from coda_cli.schema.pictures import Explained, Record
from coda_cli.schema.regions import RegionSum

LARGEST = 1e40  # in logit units; float32, in which networks compute, ends at 3.4e38
ROUNDING = 1e-6  # by which a share may leave [0, 1]

REST = "rest"  # what no region covers is called so; a region of a user is not

Key = tuple[int, str]  # index and name: some networks have two classes of one name


class RegionRow(NamedTuple):
    """One region of one picture; the names are those of ``RegionShare``."""

    name: str
    share: float | None
    area: float
    ratio: float | None
    outside: float | None


class Place(NamedTuple):
    """Where a record stands: ``offset``, ``line`` and ``inside`` as those of ``Read``."""

    file: str
    offset: int
    line: int
    inside: str = ""


class Overlay(NamedTuple):
    """A file that shows a map, with the width and height of the picture; there need not be such a file.

    ``name`` is its name in a file of results, where its picture has the place ``offset``; "" elsewhere.
    """

    path: str
    width: int
    height: int
    name: str = ""
    offset: int = -1


class Row(NamedTuple):
    """One picture; the names are those of ``PictureLine``.

    ``part`` is the explained class's number in the record, and ``place`` where that stands; None if no map
    was kept.
    """

    path: str
    predicted: Key
    probability: float
    runner_up: Key | None
    runner_up_probability: float | None
    explained: str
    logit: float
    positive: float
    negative: float
    constants: float
    residual: float
    exact: bool
    half_share: float | None
    centroid: tuple[float, float] | None
    regions: tuple[RegionRow, ...]
    overlay: Overlay | None
    part: int = 0
    place: Place | None = None
    logit_without_concepts: float | None = None


def row_of(record: Record, where: Place) -> Row:
    """Take from a record what a summary needs.

    Args:
        record: of one picture.
        where: it was read.

    Returns:
        Its row. The evidence is that for the predicted class if the record explains it, else for the first class that
        it explains.

    Raises:
        MediaError: the record has no classes, or numbers that no explanation has.
    """
    if not record.top or not record.explained:
        raise MediaError(f"the record of {record.source.path} names no class; explain it again")
    best = record.top[0]
    runner = record.top[1] if len(record.top) > 1 else None
    own = (n for n, e in enumerate(record.explained) if e.versus is None and e.index == best.index)
    number = next(own, 0)
    part = record.explained[number]
    row = Row(
        path=record.source.path,
        predicted=_key(best),
        probability=best.probability,
        runner_up=_key(runner) if runner else None,
        runner_up_probability=runner.probability if runner else None,
        explained=title_of(part),
        logit=part.logit,
        positive=part.positive,
        negative=part.negative,
        constants=part.bias + part.positional,
        residual=part.residual,
        exact=part.exact and (part.regions is None or part.regions.exact),
        half_share=part.evidence.half_share,
        centroid=part.evidence.centroid,
        regions=_regions(part),
        part=number,
        overlay=_overlay(record, part, where),
        place=where if "npz" in record.files else None,
        logit_without_concepts=part.logit_without_concepts,
    )
    if not _is_possible(row):
        raise MediaError(f"the record of {row.path} has numbers that no explanation has; explain it again")
    return row


def _overlay(record: Record, part: Explained, where: Place) -> Overlay | None:
    """The overlay in the folder of the record: whatever name the record has for it, no other folder is meant."""
    if (name := part.files.get("overlay")) is None:
        return None
    size = record.source.width, record.source.height
    if where.inside:
        return Overlay(where.file, *size, name, where.offset)
    if not where.file.endswith(SUFFIX):  # of records on lines, nobody knows the folder
        return None
    return Overlay(os.path.join(os.path.dirname(where.file), PurePosixPath(name).name), *size)


def _key(part: ScoredClass) -> Key:
    """What tells a class from the others of its network."""
    return part.index, part.name


def _regions(part: Explained) -> tuple[RegionRow, ...]:
    """The regions of an explained class, the rest last."""
    if part.regions is None:
        return ()
    named = [
        _region(region, f"{REST} (region)" if region.name == REST else region.name) for region in part.regions.regions
    ]
    return (*named, _region(part.regions.rest, REST))


def _region(region: RegionSum, name: str) -> RegionRow:
    """One region."""
    return RegionRow(name, region.share, region.area, region.ratio, region.outside)


def _is_possible(row: Row) -> bool:
    """Whether the numbers can be those of an explanation, so that their sums are finite and shares are shares."""
    sizes = (row.logit, row.positive, row.negative, row.constants, row.residual, *(row.centroid or ()))
    sizes += (row.logit_without_concepts or 0.0,)
    shares = [row.probability, row.runner_up_probability, row.half_share]
    shares += [value for region in row.regions for value in (region.share, region.area, region.outside)]
    ratios = (region.ratio or 0 for region in row.regions)
    return (
        all(abs(value) < LARGEST for value in (*sizes, *ratios))
        and row.positive >= 0 >= row.negative
        and all(share is None or -ROUNDING <= share <= 1 + ROUNDING for share in shares)
    )


class Spool:
    """Rows in a temporary file: they are written once and read several times, however many there are.

    Whether a folder's name is a class, and which regions there are, is known when all records were seen; and records
    that come through a pipe cannot be read again. Used in a ``with`` block, after which the file is gone.

    Args:
        folder: where the file is; None for the system's folder for temporary files.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._file = tempfile.TemporaryFile("w+", encoding="utf-8", dir=folder)  # noqa: SIM115 (closed by __exit__)
        self.rows = 0

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, row: Row) -> None:
        """Keep one row.

        Args:
            row: of one picture.
        """
        self._file.write(json.dumps(row) + "\n")
        self.rows += 1

    def __iter__(self) -> Iterator[Row]:
        self._file.seek(0)
        for line in self._file:
            values: dict[str, Any] = dict(zip(Row._fields, json.loads(line), strict=True))
            for name in ("predicted", "runner_up", "centroid"):  # JSON has lists only
                values[name] = tuple(values[name]) if values[name] else None
            values["regions"] = tuple(map(RegionRow._make, values["regions"]))
            values["overlay"] = Overlay._make(values["overlay"]) if values["overlay"] else None
            values["place"] = Place._make(values["place"]) if values["place"] else None
            yield Row(**values)


def ratio_of(share: float | None, area: float | None) -> float | None:
    """Divide a share of the evidence by that of the area.

    Args:
        share: of the evidence.
        area: of the view.

    Returns:
        The ratio; None where one of them is not known, or there is no area.
    """
    ratio = share / area if share is not None and area else math.inf
    return ratio if math.isfinite(ratio) else None
