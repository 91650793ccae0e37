"""Grid localisation: does the evidence for a class lie on the picture of that class? (CVPR 2021, section 4)

Pictures of n different classes, each classified correctly and with confidence, make one grid. Of each class the
positive contributions are summed: the share of them inside the class's own cell is its score. Evidence spread evenly
scores 1/n, a perfect map 1.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from coda_cli.core.abilities import probabilities
from coda_cli.core.networks import classify, encode
from coda_cli.errors import CodaError, MediaError
from coda_cli.study.methods import Method, ours

SEED = 42  # of the published protocol
THRESHOLD = 0.5  # a picture's probability must lie above it


@dataclass(frozen=True)
class Localisation:
    """``scores`` float64 [grids, n] in [0, 1]: of each class of each grid."""

    scores: NDArray[np.float64]

    @property
    def mean(self) -> float:
        """Mean over all scores."""
        return float(self.scores.mean())

    def interval(self, draws: int = 2000) -> tuple[float, float]:
        """The 95 % confidence interval of the mean: percentiles over bootstrap samples of grids."""
        rng = np.random.default_rng(0)
        of_grid = self.scores.mean(1)
        means = of_grid[rng.integers(len(of_grid), size=(draws, len(of_grid)))].mean(1)
        low, high = np.percentile(means, [2.5, 97.5])
        return float(low), float(high)


def chosen_pictures(
    logits: Tensor, labels: Tensor, n: int, threshold: float = THRESHOLD, p: Tensor | None = None
) -> list[int]:
    """Indices of confident, correctly classified pictures: the order in which the published protocol uses them.

    ``logits`` [N, classes] and ``labels`` [N] of a whole test set, ``p`` their probabilities if these are no sigmoids.
    While more than n classes have an unused picture with probability above ``threshold``, n of them are drawn, and each
    gives its most confident unused one.
    """
    order: dict[int, list[int]] = {}
    own = logits.gather(1, labels[:, None])[:, 0].double()
    confidence = own.sigmoid() if p is None else p.gather(1, labels[:, None])[:, 0]
    right = (logits.argmax(1) == labels) & (confidence > threshold)
    for c in range(logits.shape[1]):
        members = (right & (labels == c)).nonzero().flatten()
        # Where probabilities round to the same, to 1 above all, logits still tell pictures apart.
        for by in (own, confidence):
            members = members[by[members].argsort(descending=True, stable=True)]
        order[c] = members.tolist()
    draw = np.random.RandomState(SEED)  # the legacy generator, as published
    chosen: list[int] = []
    while len(available := [c for c in order if order[c]]) > n:
        chosen += [order[int(c)].pop(0) for c in draw.choice(available, n, replace=False)]
    return chosen


def grids(chosen: Sequence[int], labels: Tensor, n: int, protocol: str) -> Iterator[list[int]]:
    """The pictures of one grid after the other, n each, of n classes.

    "corrected" takes n at a time. "published" does what the original code did: after each grid it went one picture too
    far, so that the groups of n no longer line up, and it skipped pictures of a class it already had.
    """
    at = 0
    while True:
        grid: list[int] = []
        while len(grid) < n:
            if at >= len(chosen):
                return
            if int(labels[chosen[at]]) not in {int(labels[i]) for i in grid}:
                grid.append(chosen[at])
            at += 1
        yield grid
        at += protocol == "published"


def grid_picture(images: Tensor) -> Tensor:
    """n pictures [n, C, h, w] as one [C, s h, s w], s = sqrt(n); picture j lies in row j % s, column j // s."""
    s = math.isqrt(len(images))
    columns = [torch.cat(list(images[a * s : (a + 1) * s]), 1) for a in range(s)]
    return torch.cat(columns, 2)


def grid_scores(maps: Tensor) -> list[float]:
    """For maps [n, H, W] of the n classes of a grid: the share of positive contributions in each one's own cell.

    0 for a map without any. Sums in float64.
    """
    s = math.isqrt(len(maps))
    positive = maps.cpu().double().clamp_min(0)
    cells = positive.unflatten(1, (s, -1)).unflatten(3, (s, -1)).sum((2, 4))  # [n, row, column]
    totals = cells.sum((1, 2))
    return [float(cells[j, j % s, j // s] / totals[j]) if totals[j] > 0 else 0.0 for j in range(len(maps))]


def localise(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    side: int = 3,
    count: int = 500,
    protocol: str = "corrected",
    threshold: float = THRESHOLD,
    rescale: bool = False,
    smooth: int = 1,
    method: Method = ours,
    logits: Tensor | None = None,
    before: Sequence[Sequence[float]] = (),
    on_grid: Callable[[list[float], int, int], None] | None = None,
) -> Localisation:
    """Grid localisation of ``count`` grids of ``side`` x ``side`` pictures from a test set.

    ``images`` uint8 [N, 3, h, w] as the network sees them, ``labels`` int64 [N], both on the CPU. ``rescale`` shrinks
    the pictures of a grid so that all of it is about as wide as one (B-cos networks, version 2), ``smooth`` is an odd
    window over which maps are averaged first (both B-cos papers). ``logits`` [N, classes] of ``images``, where they are
    known already. ``before`` holds the scores of the first grids, from an earlier call; ``on_grid`` hears the scores of
    every further one, how many are done, and of how many. Raises MediaError when the test set has too few confident
    pictures for one grid.
    """
    n, device = side * side, next(model.parameters()).device
    logits = (classify(model, images) if logits is None else logits).cpu()
    chosen = chosen_pictures(logits, labels, n, threshold, probabilities(model, logits.double()))
    wanted = list(itertools.islice(grids(chosen, labels, n, protocol), count))
    if not wanted:
        raise MediaError(
            f"no {side} x {side} grid can be made: more than {n} classes need a picture that is classified correctly "
            f"with a probability above {threshold:g}; try --grid 2x2, a lower --threshold, or more pictures"
        )
    scores = [list(row) for row in before][: len(wanted)]
    for number, grid in enumerate(wanted[len(scores) :], len(scores) + 1):
        pictures = images[grid]
        if rescale:
            size = [length // side for length in images.shape[2:]]
            small = F.interpolate(pictures.float(), size=size, mode="bilinear", antialias=True)
            pictures = small.round().clamp(0, 255).to(torch.uint8)
        try:
            maps = method(model, encode(grid_picture(pictures)[None].to(device)), labels[grid].tolist())
        except CodaError as error:
            raise type(error)(f"grid {number}: {error}") from error
        if smooth > 1:
            maps = F.avg_pool2d(maps[None], smooth, 1, (smooth - 1) // 2)[0]
        scores.append(grid_scores(maps))
        if on_grid:
            on_grid(scores[-1], len(scores), len(wanted))
    return Localisation(np.array(scores))
