"""Sums over spans of time of a clip, of the whole frame and of the regions in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from coda_cli.schema.clips import ExplainedFrame
from coda_cli.schema.regions import RegionMean, RegionSum, SpanPart

Span = tuple[float, float | None]  # start and end in seconds; None is to the end
WHOLE: Span = (0.0, None)


@dataclass
class _RegionTally:
    """Sums over the frames that have one region."""

    frames: int = 0
    positive: float = 0.0
    negative: float = 0.0
    area: float = 0.0
    evidence: float = 0.0  # positive, of the whole view in these frames

    def add(self, region: RegionSum, evidence: float) -> None:
        """Count the region in one frame."""
        self.frames += 1
        self.positive += region.positive
        self.negative += region.negative
        self.area += region.area
        self.evidence += evidence

    def mean(self, name: str) -> RegionMean:
        """What the record says of the region."""
        share, area = self.positive / self.evidence if self.evidence > 0 else None, self.area / self.frames
        return RegionMean(
            name=name,
            frames=self.frames,
            mean_positive=self.positive / self.frames,
            mean_negative=self.negative / self.frames,
            share=share,
            mean_area=area,
            ratio=share / area if share is not None and area > 1e-12 else None,
        )


@dataclass
class SpanTally:
    """Sums one target over the frames of a span of time.

    Attributes:
        span: start and end in seconds; frames with start <= time < end count.
        frames: how many were counted.
        sums: of logits, positive and negative contributions, constants and residuals.
        regions: by name.
        rest: what no region covers.
    """

    span: Span
    frames: int = 0
    sums: list[float] = field(default_factory=lambda: [0.0] * 5)
    regions: dict[str, _RegionTally] = field(default_factory=dict)
    rest: _RegionTally = field(default_factory=_RegionTally)

    def add(self, time: float, part: ExplainedFrame) -> None:
        """Count a frame, if its time is in the span.

        Args:
            time: of the frame, in seconds.
            part: the target's part of its record.
        """
        if not is_in(self.span, time):
            return
        self.frames += 1
        terms = part.logit, part.positive, part.negative, part.bias + part.positional, part.residual
        self.sums = [total + term for total, term in zip(self.sums, terms, strict=True)]
        if part.regions is None:
            return
        for region in part.regions.regions:
            self.regions.setdefault(region.name, _RegionTally()).add(region, part.positive)
        self.rest.add(part.regions.rest, part.positive)

    def part(self, evidence: float) -> SpanPart | None:
        """Make the part of a record about the span.

        Args:
            evidence: the sum of positive contributions of all frames.

        Returns:
            The part; None where no frame lies in the span.
        """
        if not self.frames:
            return None
        logit, positive, negative, constants, residual = (total / self.frames for total in self.sums)
        regions = [tally.mean(name) for name, tally in self.regions.items()]
        regions += [self.rest.mean("rest")] if self.rest.frames else []
        return SpanPart(
            start=self.span[0],
            end=self.span[1],
            frames=self.frames,
            mean_logit=logit,
            mean_positive=positive,
            mean_negative=negative,
            mean_constants=constants,
            mean_residual=residual,
            share=self.sums[1] / evidence if evidence > 0 else None,
            regions=tuple(regions),
        )


class Unmet:
    """Finds the spans, and the boxes with times, in which no frame lies: of them the record has no sums.

    Args:
        spans: that are summed up, (start, end) in seconds.
        boxes: as they were given, with the times that each has.
    """

    def __init__(self, spans: Sequence[Span], boxes: Mapping[str, Span]) -> None:
        self._left: dict[str, Span] = {
            f"the span {start:g}-{end:g}": (start, end) for start, end in spans if end is not None
        }
        self._left |= {f"the times of the box {text}": span for text, span in boxes.items()}
        self._times: tuple[float, float] | None = None  # of the first and the last frame

    def add(self, time: float) -> None:
        """Take note of a frame.

        Args:
            time: of the frame, in seconds.
        """
        self._times = (self._times[0] if self._times else time), time
        self._left = {name: span for name, span in self._left.items() if not is_in(span, time)}

    def notes(self) -> tuple[str, ...]:
        """Say what no frame lies in.

        Returns:
            A phrase each.
        """
        if self._times is None:
            return ()
        first, last = self._times
        return tuple(
            f"no frame lies in {name}; the frames' times are {first:.4g} to {last:.4g} s" for name in self._left
        )


def is_in(span: Span, time: float) -> bool:
    """Say whether a time lies in a span: its start does, its end does not.

    Args:
        span: start and end in seconds.
        time: in seconds.

    Returns:
        Whether it does.
    """
    return span[0] <= time and (span[1] is None or time < span[1])


def span_parts(tallies: Sequence[SpanTally]) -> tuple[SpanPart, ...]:
    """Make the parts of a record about the spans of one target.

    Args:
        tallies: that of the whole clip first.

    Returns:
        A part for each span that has a frame.
    """
    parts = (tally.part(tallies[0].sums[1]) for tally in tallies)
    return tuple(part for part in parts if part is not None)
