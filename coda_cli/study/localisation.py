"""Grid localisation: does the evidence for a class lie on the picture of that class? Source: CVPR 2021, section 4.

Pictures of n different classes, each classified correctly and with confidence, make one grid. Of each class the
positive contributions are summed: the share of them inside the class's own cell is its score. Evidence spread evenly
scores 1/n, a perfect map 1.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
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
from coda_cli.vocabulary import Protocol

SEED = 42  # of the published protocol
THRESHOLD = 0.5  # a picture's probability must lie above it


@dataclass(frozen=True)
class Localisation:
    """The scores of some grids.

    Attributes:
        scores: float64 [grids, n] in [0, 1], of each of the n classes of each grid.
    """

    scores: NDArray[np.float64]

    @property
    def mean(self) -> float:
        """The mean over all scores."""
        return float(self.scores.mean())

    def interval(self, draws: int = 2000) -> tuple[float, float]:
        """Estimate the 95 % confidence interval of the mean: percentiles over bootstrap samples of grids.

        Args:
            draws: how many samples are drawn, always the same ones.

        Returns:
            The lower and the upper end.
        """
        rng = np.random.default_rng(0)
        of_grid = self.scores.mean(1)
        means = of_grid[rng.integers(len(of_grid), size=(draws, len(of_grid)))].mean(1)
        low, high = np.percentile(means, [2.5, 97.5])
        return float(low), float(high)


def chosen_pictures(
    logits: Tensor, labels: Tensor, n: int, threshold: float = THRESHOLD, p: Tensor | None = None
) -> list[int]:
    """Choose confident, correctly classified pictures, in the order in which the published protocol uses them.

    While more than n classes have an unused picture with a probability above the threshold, n of these classes are
    drawn, and each gives its most confident unused picture.

    Args:
        logits: float [N, classes] of a whole test set.
        labels: int64 [N], the true classes.
        n: pictures in a grid.
        threshold: probability in [0, 1] above which a picture is confident enough.
        p: probabilities [N, classes], where these are not the sigmoids of the logits.

    Returns:
        Indices of the pictures.
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


def grids(chosen: Sequence[int], labels: Tensor, n: int, protocol: Protocol) -> Iterator[list[int]]:
    """Make groups of n pictures of n different classes.

    Args:
        chosen: indices of pictures, from ``chosen_pictures``.
        labels: int64 [N], the true classes of the whole test set.
        n: pictures in a grid.
        protocol: "corrected" takes n at a time. "published" does what the original code did: after each grid it went
            one picture too far, so that the groups of n no longer line up, and it skipped pictures of a class that the
            grid already had.

    Yields:
        The indices of the n pictures of the next grid.
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
    """Lay pictures side by side, as a square of s x s, s = sqrt(n).

    Args:
        images: [n, C, h, w].

    Returns:
        [C, s h, s w]; picture j lies in row j % s, column j // s.
    """
    s = math.isqrt(len(images))
    columns = [torch.cat(list(images[a * s : (a + 1) * s]), 1) for a in range(s)]
    return torch.cat(columns, 2)


def grid_scores(maps: Tensor) -> list[float]:
    """Measure for each class of a grid which share of its positive contributions lies in its own cell.

    Args:
        maps: [n, H, W], of the n classes in the order of ``grid_picture``. They are summed in float64.

    Returns:
        n shares in [0, 1]; 0 for a map without positive contributions.
    """
    s = math.isqrt(len(maps))
    positive = maps.cpu().double().clamp_min(0)
    cells = positive.unflatten(1, (s, -1)).unflatten(3, (s, -1)).sum((2, 4))  # [n, row, column]
    totals = cells.sum((1, 2))
    return [float(cells[j, j % s, j // s] / totals[j]) if totals[j] > 0 else 0.0 for j in range(len(maps))]


def choose_grids(
    logits: Tensor,
    labels: Tensor,
    *,
    side: int = 3,
    count: int = 500,
    protocol: Protocol = "corrected",
    threshold: float = THRESHOLD,
    p: Tensor | None = None,
) -> list[list[int]]:
    """Choose the pictures of all grids of a measurement.

    Args:
        logits: float [N, classes] of a whole test set, on the CPU.
        labels: int64 [N], the true classes, on the CPU.
        side: of a grid, in pictures.
        count: how many grids are wanted; there can be fewer.
        protocol: how pictures are put into grids; see ``grids``.
        threshold: probability in [0, 1] above which a picture is confident enough.
        p: probabilities [N, classes], where these are not the sigmoids of the logits.

    Returns:
        For each grid the indices of its side x side pictures.

    Raises:
        MediaError: the test set has too few confident pictures for one grid.
    """
    n = side * side
    chosen = chosen_pictures(logits, labels, n, threshold, p)
    wanted = list(itertools.islice(grids(chosen, labels, n, protocol), count))
    if not wanted:
        smaller = "--grid 2x2, " if side > 2 else ""
        raise MediaError(
            f"no {side} x {side} grid can be made: more than {n} classes need a picture that is classified correctly "
            f"with a probability above {threshold:g}; try {smaller}a lower --threshold, or more pictures"
        )
    return wanted


def score_grids(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    wanted: Sequence[Sequence[int]],
    *,
    small: Tensor | None = None,
    smooth: int = 1,
    method: Method = ours,
    before: int = 0,
) -> Iterator[list[float]]:
    """Measure one grid after the other.

    Args:
        model: the network.
        images: uint8 [N, 3, h, w] as the network sees them, on the CPU.
        labels: int64 [N], the true classes, on the CPU.
        wanted: the pictures of each grid, from ``choose_grids``.
        small: uint8 [N, 3, h', w'], the same pictures, shrunk from their originals until a grid is about as wide as
            one picture: grids are made of these (B-cos networks, version 2).
        smooth: odd side in pixels of the window over which maps are averaged first (both B-cos papers); 1 is not at
            all.
        method: whose maps are measured.
        before: how many grids are left out because an earlier call measured them.

    Yields:
        The scores of the next grid, in [0, 1], one for each of its classes.

    Raises:
        CodaError: of the method; the message names the grid.
    """
    device = next(model.parameters()).device
    for number, grid in enumerate(wanted[before:], before + 1):
        chosen = list(grid)
        pictures = (images if small is None else small)[chosen]
        try:
            maps = method(model, encode(grid_picture(pictures)[None].to(device)), labels[chosen].tolist())
        except CodaError as error:
            raise error.about(f"grid {number}")  # noqa: B904 (it is the same error)
        if smooth > 1:
            maps = F.avg_pool2d(maps[None], smooth, 1, (smooth - 1) // 2)[0]
        yield grid_scores(maps)


def localise(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    side: int = 3,
    count: int = 500,
    protocol: Protocol = "corrected",
    threshold: float = THRESHOLD,
    small: Tensor | None = None,
    smooth: int = 1,
    method: Method = ours,
) -> Localisation:
    """Measure grid localisation on a test set, from the choice of pictures to the scores.

    Args:
        model: the network.
        images: uint8 [N, 3, h, w] as the network sees them, on the CPU.
        labels: int64 [N], the true classes, on the CPU.
        side: of a grid, in pictures.
        count: how many grids are wanted; there can be fewer.
        protocol: how pictures are put into grids; see ``grids``.
        threshold: probability in [0, 1] above which a picture is confident enough.
        small: see ``score_grids``.
        smooth: see ``score_grids``.
        method: whose maps are measured.

    Returns:
        The scores.

    Raises:
        MediaError: the test set has too few confident pictures for one grid.
        CodaError: of the method; the message names the grid.
    """
    logits = classify(model, images).cpu()
    p = probabilities(model, logits.double())
    wanted = choose_grids(logits, labels, side=side, count=count, protocol=protocol, threshold=threshold, p=p)
    scores = score_grids(model, images, labels, wanted, small=small, smooth=smooth, method=method)
    return Localisation(np.array(list(scores)))
