"""What is said of a summary, in the terminal and on its page: the same numbers, rounded in the same way."""

from __future__ import annotations

from typing import Literal

from coda_cli.media.files import shown_name
from coda_cli.schema.summaries import Group, PictureLine

Kind = Literal["wrong", "outside", "against"]

HEADINGS = ("pictures", "right", "p", "logit", "for", "against", "half in", "inside", "area", "ratio")
OUTLIERS: dict[Kind, str] = {
    "wrong": "confident and wrong",
    "outside": "most evidence outside of the regions",
    "against": "more evidence against the class than for it",
}


def numbers(group: Group) -> tuple[str, ...]:
    """Write the numbers of one class, or of all pictures.

    Args:
        group: the class, or all pictures.

    Returns:
        A text for each of HEADINGS; an empty one where there is no number.
    """
    return (
        str(group.pictures),
        share(group.accuracy, 1),
        f"{group.mean_probability:.3f}",
        f"{group.mean_logit:.2f}",
        f"{group.mean_positive:.2f}",
        f"{group.mean_negative:.2f}",
        share(group.mean_half_share, 1),
        share(group.mean_inside, 0),
        share(group.mean_inside_area, 0),
        "" if group.inside_ratio is None else f"{group.inside_ratio:.1f}",
    )


def share(value: float | None, digits: int) -> str:
    """Write a share in per cent.

    Args:
        value: in [0, 1].
        digits: after the point.

    Returns:
        Such as "12.5%"; an empty text where there is none.
    """
    return "" if value is None else f"{value:.{digits}%}"


def reason(kind: Kind, line: PictureLine) -> str:
    """Say why a picture is worth a look.

    Args:
        kind: one of OUTLIERS.
        line: of the picture.

    Returns:
        A few words.
    """
    if kind == "wrong":
        return f"p {line.probability:.3f}: {shown_name(line.label or '')} taken for {shown_name(line.predicted)}"
    if kind == "outside":
        return f"{1 - (line.inside or 0):.0%} outside, for {shown_name(line.explained)}"
    return f"{line.positive:.2f} {line.negative:+.2f} for {shown_name(line.explained)}, p {line.probability:.3f}"
