"""What is counted over the frames of a clip while they pass, and the record of each."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coda_cli.checkpoints.loading import Net
from coda_cli.checkpoints.targets import Target
from coda_cli.explanation.evidence import measure
from coda_cli.explanation.picture import Explanation
from coda_cli.explanation.record import TOP, class_part, sigmoid, sums, to_source
from coda_cli.media.view import View
from coda_cli.schema.clips import ExplainedClip, ExplainedFrame, FrameRecord, PredictedShare
from coda_cli.schema.parts import ScoredClass
from coda_cli.video.reading import Frame


@dataclass
class _Tally:
    """Sums over the frames in which one target was explained."""

    first: ExplainedFrame
    frames: int = 0
    logit: float = 0.0
    positive: float = 0.0
    negative: float = 0.0
    positional: float = 0.0
    similarity: float = 0.0
    similar: int = 0
    length: float = 0.0
    evidence: float = 0.0  # positive times duration

    def add(self, part: ExplainedFrame, duration: float) -> None:
        """Count a frame that is shown for ``duration`` seconds."""
        self.frames += 1
        self.logit += part.logit
        self.positive += part.positive
        self.negative += part.negative
        self.positional += part.positional
        self.length += duration
        self.evidence += part.positive * duration
        if part.similarity is not None:
            self.similarity += part.similarity
            self.similar += 1


class Account:
    """What is counted over the frames of a clip while they pass."""

    def __init__(self, net: Net, path: str, origin: tuple[int, int] = (0, 0)) -> None:
        self.net, self.path, self.origin = net, path, origin
        self.frames, self.worst, self.exact, self.no_tolerance = 0, 0.0, True, False
        self._predicted: Counter[int] = Counter()
        self._tallies: dict[Target, _Tally] = {}
        self._spans: list[tuple[float, float, int]] = []  # from, to, the class that leads
        self._before: dict[Target, NDArray[np.float32]] = {}

    def add(self, frame: Frame, explanation: Explanation, scales: Sequence[float]) -> FrameRecord:
        """Count one frame and make its record."""
        checkpoint = self.net.checkpoint
        logits = explanation.decomposition.logits[0].double().cpu().numpy()
        best = [int(i) for i in np.argsort(-logits, kind="stable")[:TOP]]
        parts = tuple(
            self._explained(explanation, k, target, scales[k]) for k, target in enumerate(explanation.targets)
        )
        self.frames += 1
        self._predicted[best[0]] += 1
        duration = frame.duration or 0.0
        self._lead(frame.time, frame.time + duration, best[0])
        for target, part in zip(explanation.targets, parts, strict=True):
            self._tallies.setdefault(target, _Tally(part)).add(part, duration)
            self.exact &= part.exact
            if part.tolerance:
                self.worst = max(self.worst, abs(part.residual) / part.tolerance)
            elif part.residual:
                self.no_tolerance = True
        self._before = dict(zip(explanation.targets, explanation.maps, strict=True))
        return FrameRecord(
            path=self.path, frame=frame.index, time=frame.time, pts=frame.pts, damaged=frame.damaged,
            explained=parts,
            top=tuple(
                ScoredClass(**class_part(checkpoint, i).model_dump(), logit=float(logits[i]),
                            probability=sigmoid(float(logits[i])))
                for i in best
            ),
        )  # fmt: skip

    def _explained(self, explanation: Explanation, k: int, target: Target, scale: float) -> ExplainedFrame:
        pixels = explanation.maps[k]
        evidence = measure(pixels, parts=False)
        return ExplainedFrame(
            **sums(explanation, k, evidence, self.net.checkpoint).model_dump(),
            centroid=None if evidence.centroid is None else self._place(explanation.view, *evidence.centroid),
            half_share=evidence.half_share,
            similarity=_cosine(self._before.get(target), pixels),
            scale=scale,
        )

    def _place(self, view: View, x: float, y: float) -> tuple[float, float]:
        """A point of the view in the source's pixels."""
        u, v = to_source(view, x, y)
        return u + self.origin[0], v + self.origin[1]

    def _lead(self, start: float, end: float, leader: int) -> None:
        if self._spans and self._spans[-1][2] == leader:
            start = self._spans.pop()[0]
        self._spans.append((start, end, leader))

    def explained(self) -> tuple[ExplainedClip, ...]:
        """The summary of every target."""
        return tuple(
            ExplainedClip(
                index=t.first.index, name=t.first.name, wnid=t.first.wnid, versus=t.first.versus, frames=t.frames,
                mean_logit=t.logit / t.frames, mean_positive=t.positive / t.frames,
                mean_negative=t.negative / t.frames, mean_positional=t.positional / t.frames,
                stability=t.similarity / t.similar if t.similar else None,
                leads=tuple((start, end) for start, end, leader in self._spans if leader == t.first.index),
                evidence_per_second=t.evidence / t.length if t.length else None,
            )
            for t in self._tallies.values()
        )  # fmt: skip

    def shares(self) -> tuple[PredictedShare, ...]:
        """Predicted classes, the most frequent first."""
        return tuple(
            PredictedShare(**class_part(self.net.checkpoint, i).model_dump(), share=n / self.frames)
            for i, n in self._predicted.most_common()
        )


def _cosine(before: NDArray[np.float32] | None, now: NDArray[np.float32]) -> float | None:
    if before is None:
        return None
    a, b = before.astype(np.float64).ravel(), now.astype(np.float64).ravel()
    # Not a @ b: for arrays of this size BLAS wakes threads that then get in the way of the network's (10 ms a frame).
    size = math.sqrt(float((a * a).sum()) * float((b * b).sum()))
    return float((a * b).sum()) / size if size else None
