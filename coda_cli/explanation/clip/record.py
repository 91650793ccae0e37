"""Make the record of each frame of a clip, and count over the frames for the record of the clip."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coda_cli.checkpoints.loading import Net
from coda_cli.checkpoints.targets import Target
from coda_cli.explanation.clip.neurons import NeuronTally
from coda_cli.explanation.clip.over_time import WHOLE, Span, SpanTally, Unmet, span_parts
from coda_cli.explanation.evidence import measure
from coda_cli.explanation.picture import Explanation
from coda_cli.explanation.record import class_part, sums, to_source, top_classes
from coda_cli.explanation.regions.asked import Regions
from coda_cli.explanation.regions.shapes import Region
from coda_cli.explanation.regions.sums import region_sums
from coda_cli.media.view import View
from coda_cli.schema.clips import ClipNeuron, ExplainedClip, ExplainedFrame, FrameRecord, PredictedShare
from coda_cli.schema.neurons import NeuronPart
from coda_cli.video.reading import Frame


@dataclass
class _TargetSums:
    """Sums over the frames in which one target was explained."""

    first: ExplainedFrame
    frames: int = 0
    logit: float = 0.0
    positive: float = 0.0
    negative: float = 0.0
    positional: float = 0.0
    bias: float = 0.0
    without_concepts: float | None = None
    similarity: float = 0.0
    similar: int = 0
    length: float = 0.0
    evidence: float = 0.0  # sum of positive times duration

    def add(self, part: ExplainedFrame, duration: float) -> None:
        """Count a frame.

        Args:
            part: the target's part of its record.
            duration: how long it is shown, in seconds.
        """
        self.frames += 1
        self.logit += part.logit
        self.positive += part.positive
        self.negative += part.negative
        self.positional += part.positional
        self.bias += part.bias
        if part.logit_without_concepts is not None:
            self.without_concepts = (self.without_concepts or 0.0) + part.logit_without_concepts
        self.length += duration
        self.evidence += part.positive * duration
        if part.similarity is not None:
            self.similarity += part.similarity
            self.similar += 1


class ClipTally:
    """Counts over the frames of a clip, one after the other.

    Attributes:
        frames: how many were counted.
        exact: whether all were within their tolerance.
        worst: |residual| / tolerance, the largest of all.
        no_tolerance: whether a residual had a tolerance of 0, so that ``worst`` does not exist.

    Args:
        net: the network.
        path: what the records call the clip.
        origin: (x, y) of the frames' corner in the source, in its pixels.
        spans: of time that are summed, in seconds.
        regions: that are asked for; with these or with spans, the whole clip is summed up first.
    """

    def __init__(
        self,
        net: Net,
        path: str,
        origin: tuple[int, int] = (0, 0),
        spans: Sequence[Span] = (),
        regions: Regions | None = None,
    ) -> None:
        self.net, self.path, self.origin = net, path, origin
        self.spans = (WHOLE, *spans) if spans or regions else ()
        self._unmet = Unmet(spans, regions.times if regions else {})
        self.frames, self.worst, self.exact, self.no_tolerance = 0, 0.0, True, False
        self._predicted: Counter[int] = Counter()
        self._tallies: dict[Target, _TargetSums] = {}
        self._over_time: dict[Target, list[SpanTally]] = {}
        self._spans: list[tuple[float, float, int]] = []  # from, to, the class with the highest logit
        self._before: dict[Target, NDArray[np.float32]] = {}
        self._neurons: list[NeuronTally] = []

    def add(
        self,
        frame: Frame,
        explanation: Explanation,
        scales: Sequence[float],
        regions: Sequence[Region] = (),
        neurons: Sequence[NeuronPart] = (),
    ) -> FrameRecord:
        """Count one frame.

        Args:
            frame: the frame, with its duration.
            explanation: its explanation.
            scales: the contribution in full colour of each target.
            regions: laid on what the network saw of the frame.
            neurons: what is recorded of its neurons.

        Returns:
            The frame's record.
        """
        top = top_classes(self.net, explanation.decomposition.logits[0])
        parts = tuple(self._explained(explanation, k, scales[k], regions) for k in range(len(explanation.targets)))
        self.frames += 1
        self._unmet.add(frame.time)
        self._predicted[top[0].index] += 1
        duration = frame.duration or 0.0
        self._add_span(frame.time, frame.time + duration, top[0].index)
        for target, part in zip(explanation.targets, parts, strict=True):
            self._tallies.setdefault(target, _TargetSums(part)).add(part, duration)
            for tally in self._over_time.setdefault(target, [SpanTally(span) for span in self.spans]):
                tally.add(frame.time, part)
            self._prove(part)
        for n, neuron in enumerate(neurons):
            if n == len(self._neurons):
                self._neurons.append(NeuronTally(neuron.layer, neuron.channel))
            self._neurons[n].add(neuron)
            self._prove(neuron)
        self._before = dict(zip(explanation.targets, explanation.maps, strict=True))
        return FrameRecord(
            path=self.path,
            frame=frame.index,
            time=frame.time,
            pts=frame.pts,
            damaged=frame.damaged,
            explained=parts,
            top=top,
            neurons=tuple(neurons),
        )

    def _prove(self, part: ExplainedFrame | NeuronPart) -> None:
        """Count whether the contributions add up."""
        self.exact &= part.exact and (part.regions is None or part.regions.exact)
        if part.tolerance:
            self.worst = max(self.worst, abs(part.residual) / part.tolerance)
        elif part.residual:
            self.no_tolerance = True

    def _explained(self, explanation: Explanation, k: int, scale: float, regions: Sequence[Region]) -> ExplainedFrame:
        """Make the part of a frame's record about target ``k``."""
        pixels, target = explanation.maps[k], explanation.targets[k]
        evidence = measure(pixels, parts=False)
        return ExplainedFrame(
            **sums(explanation, k, evidence).model_dump(),
            centroid=None if evidence.centroid is None else self._to_source(explanation.view, *evidence.centroid),
            half_share=evidence.half_share,
            similarity=_cosine(self._before.get(target), pixels),
            scale=scale,
            regions=region_sums(explanation, k, regions) if explanation.request.regions else None,
        )

    def _to_source(self, view: View, x: float, y: float) -> tuple[float, float]:
        """Convert a point of the view to pixels of the source."""
        u, v = to_source(view, x, y)
        return u + self.origin[0], v + self.origin[1]

    def _add_span(self, start: float, end: float, leader: int) -> None:
        """Note which class has the highest logit from ``start`` to ``end``; spans of one class are joined."""
        if self._spans and self._spans[-1][2] == leader:
            start = self._spans.pop()[0]
        self._spans.append((start, end, leader))

    def explained(self) -> tuple[ExplainedClip, ...]:
        """Sum up every target that was explained.

        Returns:
            Its means over the frames, and over the spans of time; targets in the order in which they were met.
        """
        return tuple(
            ExplainedClip(
                index=t.first.index,
                name=t.first.name,
                wnid=t.first.wnid,
                versus=t.first.versus,
                frames=t.frames,
                mean_logit=t.logit / t.frames,
                mean_positive=t.positive / t.frames,
                mean_negative=t.negative / t.frames,
                mean_positional=t.positional / t.frames,
                mean_bias=t.bias / t.frames,
                mean_logit_without_concepts=None if t.without_concepts is None else t.without_concepts / t.frames,
                stability=t.similarity / t.similar if t.similar else None,
                leads=tuple((start, end) for start, end, leader in self._spans if leader == t.first.index),
                evidence_per_second=t.evidence / t.length if t.length else None,
                spans=span_parts(self._over_time[target]),
            )
            for target, t in self._tallies.items()
        )

    def neurons(self) -> tuple[ClipNeuron, ...]:
        """Sum up every neuron.

        Returns:
            Its means over the frames, in the order in which neurons were asked for.
        """
        return tuple(tally.part() for tally in self._neurons)

    def notes(self) -> tuple[str, ...]:
        """Say of which spans and boxes there are no sums.

        Returns:
            A phrase each.
        """
        return self._unmet.notes()

    def shares(self) -> tuple[PredictedShare, ...]:
        """Count which classes were predicted.

        Returns:
            Each with its share of the frames, in [0, 1], the most frequent first.
        """
        return tuple(
            PredictedShare(**class_part(self.net.checkpoint, i).model_dump(), share=n / self.frames)
            for i, n in self._predicted.most_common()
        )


def _cosine(before: NDArray[np.float32] | None, now: NDArray[np.float32]) -> float | None:
    """The cosine similarity of two maps; None where there is no map before, or one is 0 everywhere."""
    if before is None:
        return None
    a, b = before.astype(np.float64).ravel(), now.astype(np.float64).ravel()
    # Not a @ b: for arrays of this size BLAS wakes threads that then get in the way of the network's (10 ms a frame).
    size = math.sqrt(float((a * a).sum()) * float((b * b).sum()))
    return float((a * b).sum()) / size if size else None
