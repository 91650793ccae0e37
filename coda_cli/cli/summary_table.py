"""What ``coda summary`` prints for people: numbers of all pictures and of each class, and pictures worth a look."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len, set_cell_size

from coda_cli.cli.console import counted
from coda_cli.explanation.summary.words import HEADINGS, OUTLIERS, Kind, numbers, reason
from coda_cli.media.files import shown_name
from coda_cli.schema.summaries import Group, PictureLine, Summary

MOST_CLASSES = 30  # lines of the table; the JSON has all
MOST_PAIRS = 10  # of classes that were mistaken for each other
WIDEST = 28  # columns of a class's name


def lines(found: Summary) -> list[str]:
    """Make the lines of a summary.

    Args:
        found: the summary.

    Returns:
        Plain lines. A section without content is left out.
    """
    return [
        *_head(found),
        *_classes(found),
        *_pairs(found),
        *(line for kind in OUTLIERS for line in _pictures(kind, getattr(found.outliers, kind))),
    ]


def _head(found: Summary) -> list[str]:
    """What holds for all pictures."""
    every = found.overall
    names = ", ".join(shown_name(network.name) for network in found.networks[:3])
    labelled = f", {every.labelled} with a label" if every.labelled else ""
    result = [f"{counted(every.pictures, 'picture')}{labelled}; network {names}"]
    if every.accuracy is not None and found.calibration is not None:
        result.append(
            f"accuracy {every.accuracy:.1%}; calibration error {found.calibration.error:.3f} "
            f"({len(found.calibration.bins)} bins)"
        )
    if every.mean_inside is not None and every.mean_inside_area is not None:
        ratio = "" if every.inside_ratio is None else f" ({every.inside_ratio:.1f} times)"
        result.append(
            f"inside the regions: {every.mean_inside:.0%} of the evidence on {every.mean_inside_area:.0%} of the "
            f"area{ratio}"
        )
    if (plain := every.mean_logit_without_concepts) is not None:
        result.append(f"mean logit {every.mean_logit:.2f}; {plain:.2f} without the concepts")
    for region in every.regions if len(every.regions) > 2 else ():
        inside = "no evidence" if region.mean_share is None else f"{region.mean_share:.0%}"
        where = f"{region.mean_area:.0%}, in {counted(region.pictures, 'picture')}"
        result.append(f"  {shown_name(region.name)}: {inside} on {where}")
    return result


def _classes(found: Summary) -> list[str]:
    """A table of the classes; of many, those with the most wrong pictures, else the most pictures."""
    groups = sorted(found.classes, key=lambda g: (g.right - g.labelled, -g.pictures))[:MOST_CLASSES]
    groups.sort(key=lambda group: group.name or "")
    first = "label" if found.grouped_by == "label" else "predicted"
    table = [(first, *HEADINGS), *(_numbers(group) for group in (*groups, found.overall))]
    kept = [n for n in range(len(table[0])) if n == 0 or any(row[n] for row in table[1:])]
    widths = [min(WIDEST, max(cell_len(row[n]) for row in table)) for n in kept]
    result = [""]
    for row in table:
        name, *numbers = (row[n] for n in kept)
        result.append(
            "  ".join([_fit(name, widths[0]), *(c.rjust(w) for c, w in zip(numbers, widths[1:], strict=True))])
        )
    if more := len(found.classes) - len(groups):
        result.append(f"and {more} more classes; --json and summary.json have all")
    return result


def _numbers(group: Group) -> tuple[str, ...]:
    """The cells of one class, or of all pictures; empty where there is no number."""
    return "all" if group.name is None else shown_name(group.name), *numbers(group)


def _fit(name: str, width: int) -> str:
    """A name in so many columns of a terminal, where some letters take two."""
    return set_cell_size(name, width) if cell_len(name) <= width else f"{set_cell_size(name, width - 1)}…"


def _pairs(found: Summary) -> list[str]:
    """The classes that were mistaken for each other most often."""
    wrong = [pair for pair in found.confusion if pair.label != pair.predicted]
    shown = [
        f"  {p.pictures:>6}  {shown_name(p.label)} taken for {shown_name(p.predicted)}" for p in wrong[:MOST_PAIRS]
    ]
    more = [f"  and {len(wrong) - MOST_PAIRS} more pairs"] if len(wrong) > MOST_PAIRS else []
    return ["", "mistaken most often", *shown, *more] if shown else []


def _pictures(kind: Kind, outliers: Sequence[PictureLine]) -> list[str]:
    """Pictures that are worth a look, each with what is to be said of it."""
    told = (f"  {shown_name(line.path)}: {reason(kind, line)}" for line in outliers)
    return ["", OUTLIERS[kind], *told] if outliers else []
