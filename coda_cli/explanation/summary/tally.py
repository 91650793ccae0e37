"""Add up pictures: by class and over all, which was taken for which, calibration, and those that are worth a look."""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from coda_cli.explanation.summary.rows import REST, Row, ratio_of
from coda_cli.explanation.summary.truth import Classes, Truth
from coda_cli.schema.summaries import (
    Bin,
    Calibration,
    Confusion,
    Group,
    Outliers,
    PictureLine,
    RegionMean,
    RegionShare,
)

BINS = 15  # of equal width; Guo et al., "On Calibration of Modern Neural Networks", 2017
MOST_REGIONS = 200  # names of regions that are summed up, in the order of their appearance


def line_of(row: Row, classes: Classes, truth: Truth) -> PictureLine:
    """Make the line of a picture.

    Args:
        row: its numbers.
        classes: of all records.
        truth: what pictures are known to show.

    Returns:
        The line.
    """
    label = truth.of(row.path)
    inside, area = None, None
    if row.regions:
        rest = row.regions[-1]
        inside = None if rest.share is None else _within(1 - rest.share)
        area = _within(1 - rest.area)
    return PictureLine(
        path=row.path,
        label=None if label is None else label.title,
        predicted=classes.title(row.predicted),
        right=None if label is None else row.predicted in label.keys,
        probability=row.probability,
        runner_up=None if row.runner_up is None else classes.title(row.runner_up),
        runner_up_probability=row.runner_up_probability,
        explained=row.explained,
        logit=row.logit,
        positive=row.positive,
        negative=row.negative,
        constants=row.constants,
        residual=row.residual,
        exact=row.exact,
        half_share=row.half_share,
        centroid_x=None if row.centroid is None else row.centroid[0],
        centroid_y=None if row.centroid is None else row.centroid[1],
        inside=inside,
        inside_area=area,
        inside_ratio=ratio_of(inside, area),
        logit_without_concepts=row.logit_without_concepts,
        regions=tuple(RegionShare(**region._asdict()) for region in row.regions),
    )


def _within(share: float) -> float:
    """A share without what rounding left below 0 or above 1."""
    return min(1.0, max(0.0, share))


class Mean:
    """The mean of the values that exist."""

    def __init__(self) -> None:
        self.sum, self.count = 0.0, 0

    def add(self, value: float | None) -> None:
        """Count one value.

        Args:
            value: None is not counted.
        """
        if value is not None:
            self.sum += value
            self.count += 1

    @property
    def value(self) -> float | None:
        """The mean; None of nothing."""
        return self.sum / self.count if self.count else None


MEANS = (
    "probability", "logit", "positive", "negative", "constants", "residual", "half_share", "inside", "inside_area",
    "logit_without_concepts",
)  # fmt: skip


@dataclass
class Sums:
    """Sums over a group of pictures."""

    pictures: int = 0
    labelled: int = 0
    right: int = 0
    inexact: int = 0
    means: dict[str, Mean] = field(default_factory=lambda: {name: Mean() for name in MEANS})
    regions: dict[str, tuple[Mean, Mean]] = field(default_factory=dict)  # share and area

    def add(self, line: PictureLine, regions: frozenset[str]) -> None:
        """Count one picture.

        Args:
            line: of the picture.
            regions: the names of those that are counted.
        """
        self.pictures += 1
        self.labelled += line.right is not None
        self.right += bool(line.right)
        self.inexact += not line.exact
        for name, mean in self.means.items():
            mean.add(getattr(line, name))
        for region in line.regions:
            if region.name in regions:
                share, area = self.regions.setdefault(region.name, (Mean(), Mean()))
                share.add(region.share)
                area.add(region.area)

    def group(self, name: str | None) -> Group:
        """Divide the sums by how many there are.

        Args:
            name: of the class; None for all pictures.

        Returns:
            The means.
        """
        means = {name: mean.value for name, mean in self.means.items()}
        if self.means["logit_without_concepts"].count < self.pictures:
            means["logit_without_concepts"] = None  # a mean over some could not be set beside that of the logits
        return Group(
            name=name,
            pictures=self.pictures,
            labelled=self.labelled,
            right=self.right,
            accuracy=self.right / self.labelled if self.labelled else None,
            inexact=self.inexact,
            **{f"mean_{name}": means[name] for name in MEANS},
            inside_ratio=ratio_of(means["inside"], means["inside_area"]),
            regions=tuple(
                RegionMean(
                    name=region,
                    pictures=area.count,
                    mean_share=share.value,
                    mean_area=area.value or 0.0,
                    ratio=ratio_of(share.value, area.value),
                )
                for region, (share, area) in sorted(self.regions.items(), key=lambda item: item[0] == REST)
            ),
        )


class Worst:
    """The lines with the greatest values, a given number of them.

    Args:
        most: how many are kept.
    """

    def __init__(self, most: int) -> None:
        self._most, self._heap, self._n = most, list[tuple[float, "_Backwards", int, PictureLine]](), 0

    def add(self, value: float, line: PictureLine) -> None:
        """Keep a line if its value is among the greatest; of equal values the first path is.

        Args:
            value: by which lines are ranked.
            line: the line.
        """
        self._n += 1
        push = heapq.heappush if len(self._heap) < self._most else heapq.heappushpop
        push(self._heap, (value, _Backwards(line.path), -self._n, line))

    def lines(self) -> tuple[PictureLine, ...]:
        """Give the lines that were kept.

        Returns:
            The greatest value first.
        """
        return tuple(line for *_, line in sorted(self._heap, key=lambda kept: kept[:3], reverse=True))


class _Backwards(str):
    """A text that comes before those it would follow, so that the first of equal ones is the greatest."""

    __slots__ = ()

    def __lt__(self, other: str) -> bool:
        return str.__gt__(self, other)

    def __gt__(self, other: str) -> bool:
        return str.__lt__(self, other)


class Tally:
    """Adds up the lines of pictures. What it holds grows with the classes, not with the pictures.

    Args:
        top: how many pictures of each kind are kept as worth a look.
        regions: the names of the regions that are summed up.
    """

    def __init__(self, top: int, regions: frozenset[str]) -> None:
        self.overall = Sums()
        self._regions, self._by_label, self._by_predicted = regions, dict[str, Sums](), dict[str, Sums]()
        self._pairs = Counter[tuple[str, str]]()
        self._bins = [(Mean(), Mean()) for _ in range(BINS)]  # whether right, and the probability
        self._outside, self._wrong, self._against = Worst(top), Worst(top), Worst(top)

    def add(self, line: PictureLine) -> None:
        """Count one picture.

        Args:
            line: of the picture.
        """
        self.overall.add(line, self._regions)
        self._by_predicted.setdefault(line.predicted, Sums()).add(line, self._regions)
        if line.label is not None:
            self._by_label.setdefault(line.label, Sums()).add(line, self._regions)
            self._pairs[line.label, line.predicted] += 1
            right, probability = self._bins[bin_of(line.probability)]
            right.add(bool(line.right))
            probability.add(line.probability)
        if line.right is False:
            self._wrong.add(line.probability, line)
        if line.inside is not None:
            self._outside.add(1 - line.inside, line)
        if line.positive + line.negative < 0:
            self._against.add(-line.negative - line.positive, line)

    @property
    def has_labels(self) -> bool:
        """Whether the label of any picture is known."""
        return bool(self._by_label)

    def groups(self) -> Iterator[Group]:
        """Give the classes in the order of their names: by label, or by predicted class where no label is known.

        Yields:
            A group for each class.
        """
        groups = self._by_label or self._by_predicted
        for name in sorted(groups):
            yield groups[name].group(name)

    def confusion(self) -> tuple[Confusion, ...]:
        """Give the pairs of label and predicted class that occur.

        Returns:
            The most frequent first.
        """
        pairs = sorted(self._pairs.items(), key=lambda pair: (-pair[1], pair[0]))
        return tuple(Confusion(label=a, predicted=b, pictures=n) for (a, b), n in pairs)

    def calibration(self) -> Calibration | None:
        """Measure whether the probabilities are as high as the accuracy.

        Returns:
            The expected calibration error and its bins; None where no label is known.

        Source:
            Guo et al., "On Calibration of Modern Neural Networks", 2017, equation 5.
        """
        if not self._by_label:
            return None
        total = sum(right.count for right, _ in self._bins)
        error = math.fsum(abs(right.sum - probability.sum) for right, probability in self._bins) / total
        return Calibration(
            error=error,
            bins=tuple(
                Bin(
                    start=n / BINS,
                    end=(n + 1) / BINS,
                    pictures=right.count,
                    accuracy=right.value,
                    mean_probability=probability.value,
                )
                for n, (right, probability) in enumerate(self._bins)
            ),
        )

    def outliers(self) -> Outliers:
        """Give the pictures that are worth a look.

        Returns:
            Those of each kind.
        """
        return Outliers(outside=self._outside.lines(), wrong=self._wrong.lines(), against=self._against.lines())


def bin_of(probability: float) -> int:
    """Find the bin of a probability: the n-th holds those in (n / BINS, (n + 1) / BINS], the first 0 as well.

    Args:
        probability: in [0, 1].

    Returns:
        The number of the bin, from 0 on.
    """
    # Compared with the borders as they are stated, since probability * BINS is rounded.
    return next((n for n in range(BINS) if probability <= (n + 1) / BINS), BINS - 1)
