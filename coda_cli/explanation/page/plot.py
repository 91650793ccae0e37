"""The plot of a clip: its logits over time, how sure the network is, and which class leads when, as one SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Self

from coda_cli.explanation.page.templates import rendered
from coda_cli.explanation.phrases import title_of
from coda_cli.schema.clips import FrameRecord

MOST_BINS = 1000  # of a curve, each with its lowest and highest value: about one for each pixel of a wide screen
NARROWEST = 0.002  # share of the time that a drawn change of class is away from the one before
LABELLED = 0.03  # share of the time that a class leads without a break before its name is written
WIDE, TALL = 1000, 100  # units of the SVG's inner drawing, which is stretched over the whole width


@dataclass(frozen=True)
class Moment:
    """What the plot shows of one frame.

    Attributes:
        time: in seconds from the source's first frame.
        titles: what is explained, in the order of the record.
        logits: of each of these.
        leader: the name of the class with the highest logit.
        p: of the leader, in [0, 1].
    """

    time: float
    titles: tuple[str, ...]
    logits: tuple[float, ...]
    leader: str
    p: float

    @classmethod
    def of(cls, record: FrameRecord) -> Self:
        """Take what the plot needs from a record.

        Args:
            record: of a frame.

        Returns:
            The moment.
        """
        parts = record.explained
        titles, logits = tuple(map(title_of, parts)), tuple(part.logit for part in parts)
        return cls(record.time, titles, logits, record.top[0].name, record.top[0].probability)


@dataclass(frozen=True)
class _Span:
    """A part of the time in which one class leads; left and width are shares of the whole width in percent."""

    name: str
    start: float
    end: float
    left: float
    width: float


def curve_names(moments: Sequence[Moment]) -> list[str]:
    """Name the curves of a plot.

    Args:
        moments: one for each frame.

    Returns:
        A name for each class that a frame explains: the class's own, or what it is where it changes over time.
    """
    most, names = _most(moments), list[str]()
    for k in range(most):
        titles = {moment.titles[k] for moment in moments if k < len(moment.titles)}
        own = "the class of each frame" if most == 1 else f"class {k + 1} of each frame"
        names.append(titles.pop() if len(titles) == 1 else own)
    return names


def plot_of(moments: Sequence[Moment], end: float) -> str:
    """Draw the logits of all frames of a clip.

    Of many frames the curve keeps the lowest and the highest of every few, so that no peak is lost.

    Args:
        moments: one for each frame, in order.
        end: when the last frame ends, in seconds.

    Returns:
        An SVG element.
    """
    start = moments[0].time
    length = max(end, moments[-1].time) - start or 1.0
    low, high = _range([logit for moment in moments for logit in moment.logits])
    places = [WIDE * (moment.time - start) / length for moment in moments]
    spans = list(_spans(moments, start, length))
    return rendered(
        "plot.html",
        start=start,
        end=start + length,
        low=low,
        high=high,
        zero=_height(0, low, high) if low < 0 < high else None,
        curves=[_curve(moments, places, k, low, high) for k in range(_most(moments))],
        sure=_steps([moment.p for moment in moments], places),
        spans=spans,
        changes=_apart([span.left for span in spans[1:]]),
        labelled=100 * LABELLED,
    )


def _most(moments: Sequence[Moment]) -> int:
    """The largest number of classes that a frame explains."""
    return max(len(moment.titles) for moment in moments)


def _range(logits: Sequence[float]) -> tuple[float, float]:
    """The lowest and the highest logit, with a little room."""
    low, high = min(logits), max(logits)
    room = 0.05 * (high - low) or 1.0
    return low - room, high + room


def _height(logit: float, low: float, high: float) -> float:
    """Where a logit is drawn, from the top."""
    return round(TALL * (high - logit) / (high - low), 2)


def _curve(moments: Sequence[Moment], places: Sequence[float], k: int, low: float, high: float) -> str:
    """The path of one curve; it is broken where what is explained changes."""
    there = [n for n, moment in enumerate(moments) if k < len(moment.titles)]
    path, title = list[str](), None
    for n in _kept(there, [moments[n].logits[k] for n in there]):
        x, y = round(places[n], 2), _height(moments[n].logits[k], low, high)
        if moments[n].titles[k] != title:
            path.append(f"H{x:g}M{x:g} {y:g}" if path else f"M{x:g} {y:g}")
            title = moments[n].titles[k]
        else:
            path.append(f"L{x:g} {y:g}")
    return "".join([*path, f"H{WIDE}"])


def _kept(numbers: Sequence[int], values: Sequence[float]) -> list[int]:
    """Of many frames the first, and those with the lowest and the highest value of every few; else all."""
    each = math.ceil(len(numbers) / MOST_BINS)
    if each <= 2:
        return list(numbers)
    kept = {0}
    for first in range(0, len(numbers), each):
        few = range(first, min(first + each, len(numbers)))
        kept |= {min(few, key=values.__getitem__), max(few, key=values.__getitem__)}
    return [numbers[n] for n in sorted(kept)]


def _steps(shares: Sequence[float], places: Sequence[float]) -> str:
    """The path of an area that is as high as the share of each frame for as long as the frame is shown."""
    kept = _kept(range(len(shares)), shares)
    steps = "".join(f"H{places[n]:.4g}V{TALL * (1 - shares[n]):.3g}" for n in kept)
    return f"M0 {TALL}{steps}H{WIDE}V{TALL}Z"


def _spans(moments: Sequence[Moment], start: float, length: float) -> list[_Span]:
    """The parts of the time in which one class leads."""
    begins = [(name, next(group).time) for name, group in groupby(moments, key=lambda moment: moment.leader)]
    ends = [time for _, time in begins[1:]] + [start + length]
    return [
        _Span(name, time, end, 100 * (time - start) / length, 100 * (end - time) / length)
        for (name, time), end in zip(begins, ends, strict=True)
    ]


def _apart(places: Sequence[float]) -> list[float]:
    """Places in percent, without those that cannot be told from the one before."""
    kept = list[float]()
    for place in places:
        if not kept or place - kept[-1] >= 100 * NARROWEST:
            kept.append(place)
    return kept
