"""What ``coda summary`` prints for people: numbers of all pictures and of each class, and pictures worth a look."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.cells import cell_len, set_cell_size

from coda_cli.media.files import shown_name
from coda_cli.schema.summaries import Group, PictureLine, Summary

MOST_CLASSES = 30  # lines of the table; the JSON has all
MOST_PAIRS = 10  # of classes that were mistaken for each other
WIDEST = 28  # columns of a class's name

_HEADINGS = ("pictures", "right", "p", "logit", "for", "against", "half in", "inside", "area", "ratio")


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
        *_pictures("confident and wrong", found.outliers.wrong, _wrong),
        *_pictures("most evidence outside of the regions", found.outliers.outside, _outside),
        *_pictures("more evidence against the class than for it", found.outliers.against, _against),
    ]


def _head(found: Summary) -> list[str]:
    """What holds for all pictures."""
    every = found.overall
    names = ", ".join(shown_name(network.name) for network in found.networks[:3])
    labelled = f", {every.labelled} with a label" if every.labelled else ""
    result = [f"{every.pictures} pictures{labelled}; network {names}"]
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
    for region in every.regions if len(every.regions) > 2 else ():
        share = "no evidence" if region.mean_share is None else f"{region.mean_share:.0%}"
        result.append(f"  {shown_name(region.name)}: {share} on {region.mean_area:.0%}, in {region.pictures} pictures")
    return result


def _classes(found: Summary) -> list[str]:
    """A table of the classes; of many, those with the most wrong pictures, else the most pictures."""
    groups = sorted(found.classes, key=lambda g: (g.right - g.labelled, -g.pictures))[:MOST_CLASSES]
    groups.sort(key=lambda group: group.name or "")
    first = "label" if found.grouped_by == "label" else "predicted"
    table = [(first, *_HEADINGS), *(_numbers(group) for group in (*groups, found.overall))]
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
    return (
        "all" if group.name is None else shown_name(group.name),
        str(group.pictures),
        _share(group.accuracy, 1),
        f"{group.mean_probability:.3f}",
        f"{group.mean_logit:.2f}",
        f"{group.mean_positive:.2f}",
        f"{group.mean_negative:.2f}",
        _share(group.mean_half_share, 1),
        _share(group.mean_inside, 0),
        _share(group.mean_inside_area, 0),
        "" if group.inside_ratio is None else f"{group.inside_ratio:.1f}",
    )


def _share(value: float | None, digits: int) -> str:
    """A share in per cent."""
    return "" if value is None else f"{value:.{digits}%}"


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


def _pictures(title: str, outliers: Sequence[PictureLine], say: Callable[[PictureLine], str]) -> list[str]:
    """Pictures that are worth a look, each with what is to be said of it."""
    return ["", title, *(f"  {shown_name(line.path)}: {say(line)}" for line in outliers)] if outliers else []


def _wrong(line: PictureLine) -> str:
    """Why a picture is confident and wrong."""
    return f"p {line.probability:.3f}: {shown_name(line.label or '')} taken for {shown_name(line.predicted)}"


def _outside(line: PictureLine) -> str:
    """How much of a picture's evidence lies outside."""
    return f"{1 - (line.inside or 0):.0%} outside, for {shown_name(line.explained)}"


def _against(line: PictureLine) -> str:
    """How much more lies against a class."""
    return f"{line.positive:.2f} {line.negative:+.2f} for {shown_name(line.explained)}, p {line.probability:.3f}"
