"""The regions of a record: asked for again, and their sums held against the same now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from coda_cli.errors import CodaError
from coda_cli.explanation.picture import Explanation
from coda_cli.explanation.regions.annotations import SUFFIXES_OF_ANNOTATIONS, Place
from coda_cli.explanation.regions.asked import Regions
from coda_cli.explanation.regions.shapes import Region
from coda_cli.explanation.request import Input, Request, with_regions
from coda_cli.schema.pictures import Record
from coda_cli.schema.regions import RegionSum, RegionSums

OWN_SHARE = 1e-6  # by how much an area, a part outside of the view, or share / area may be off; they are float64
ONLY_THE_SUM = "of its regions only the sum was checked: "


def have_regions(record: Record) -> bool:
    """Say whether a record has sums inside regions.

    Args:
        record: the record.

    Returns:
        Whether it has any.
    """
    return any(part.regions for part in record.explained)


def asked_again(record: Record, request: Request, source: Input) -> tuple[Request, Input, str]:
    """Ask for the regions of a record again.

    Args:
        record: the record.
        request: what else was asked.
        source: its picture.

    Returns:
        The request and the picture with the regions, as far as they can be found; and why they cannot, a sentence for
        the proof's notes. It is empty where they were found, and where the record has none.
    """
    if not have_regions(record):
        return request, source, ""
    if record.region_boxes is None:
        return request, source, f"{ONLY_THE_SUM}the record is of a version that did not say how they were given"
    try:
        place = Place(source.item.path, source.item.subfolder)
        regions = _asked(record, record.region_boxes, place)
        now = regions.files(place)
        if changed := [path for path, sha256 in record.region_files.items() if now.get(path) != sha256]:
            return request, source, f"{ONLY_THE_SUM}{', '.join(changed)} was changed"
        request = replace(request, regions=regions)
        return request, with_regions(source, request), ""
    except CodaError as error:
        return request, source, f"{ONLY_THE_SUM}{error}"


def _asked(record: Record, boxes: tuple[str, ...], place: Place) -> Regions:
    """What the options asked for, with the very files that were taken. Raises CodaError where one is not here."""
    given = record.region_files
    annotations = next((path for path in given if Path(path).suffix.lower() in SUFFIXES_OF_ANNOTATIONS), None)
    theirs = {} if annotations is None else Regions(annotations=annotations).files(place)  # also the files beside it
    mask = next((path for path in given if path not in theirs), None)
    return Regions(boxes, mask, record.region_labels, annotations)


def laid_again(explanation: Explanation) -> Sequence[Region] | None:
    """Give the regions that ``asked_again`` found.

    Args:
        explanation: of the picture with its regions.

    Returns:
        The regions, laid on the view; None where there are none to hold.
    """
    return explanation.input.found.regions if explanation.input and explanation.request.regions else None


def hold_regions(
    before: RegionSums | None, now: RegionSums | None, most: float, what: str = ""
) -> tuple[dict[str, tuple[float, float, float]], list[str]]:
    """Hold the sums inside regions against the same now.

    Args:
        before: in the record; None where it has none.
        now: the same computed again; None where the regions were not found.
        most: what a sum of contributions may be off by.
        what: is written before the name of each number.

    Returns:
        The numbers, as ``runs.neurons.Held`` has them, and what else does not hold.
    """
    if before is None or now is None:
        return {}, []
    pairs = list(zip((*before.regions, before.rest), (*now.regions, now.rest), strict=False))
    if len(before.regions) != len(now.regions) or any(a.name != b.name for a, b in pairs):
        return {}, [f"{what}its regions are not those that were asked for"]
    total = max(sum(one.positive for one in (*now.regions, now.rest)) - max(now.overlap, 0), most)
    numbers = {f"{what}overlap of its regions": (before.overlap, now.overlap, most)}
    for a, b in pairs:
        called = f"{what}{{}} of the region {a.name}"
        numbers[called.format("positive")] = a.positive, b.positive, most
        numbers[called.format("negative")] = a.negative, b.negative, most
        numbers[called.format("area")] = a.area, b.area, OWN_SHARE
        if a.outside is not None and b.outside is not None:
            numbers[called.format("part outside")] = a.outside, b.outside, OWN_SHARE
        if a.share is not None and b.share is not None:
            numbers[called.format("share")] = a.share, b.share, most / total + OWN_SHARE
    wrong = [a for a, b in pairs if not _same_kind(a, b) or not _own_ratio(a)]
    return numbers, [f"{what}the ratio of the region {a.name} is not its share / area" for a in wrong]


def _same_kind(a: RegionSum, b: RegionSum) -> bool:
    """Whether the same numbers are there."""
    return all((getattr(a, name) is None) == (getattr(b, name) is None) for name in ("share", "ratio", "outside"))


def _own_ratio(one: RegionSum) -> bool:
    """Whether the ratio is that of share and area."""
    if one.ratio is None or one.share is None:
        return True
    return abs(one.ratio * one.area - one.share) <= OWN_SHARE
