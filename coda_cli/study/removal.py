"""Pixel removal: does the network's confidence follow a map's order of pixels? Source: CVPR 2021, section 4.

Pixels are removed from the least or the most important on, up to a share of the picture, and the probability of the
true class is measured on the way. A faithful map keeps it high while the least important pixels go, and lets it drop
fast while the most important ones go.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from coda_cli.core.abilities import probabilities
from coda_cli.core.networks import encode, forward
from coda_cli.errors import CodaError
from coda_cli.machine import budget
from coda_cli.study.methods import Method
from coda_cli.vocabulary import Baseline, Direction

SHARE, POINTS = 0.25, 128  # of the pixels, and how often on the way: as published
BLUR = 11  # window of the blurred baseline in pixels


@dataclass(frozen=True)
class Removal:
    """The curves of some pictures.

    Attributes:
        curves: float64 [pictures, points + 1] in [0, 1]: probability of the true class.
        removed: float64 [points + 1]: share of the pixels that are gone at each point, from 0 on.
    """

    curves: NDArray[np.float64]
    removed: NDArray[np.float64]

    @property
    def mean(self) -> NDArray[np.float64]:
        """The mean curve [points + 1]."""
        return np.asarray(self.curves.mean(0))

    @property
    def area(self) -> float:
        """The area under the mean curve, as a share of what a constant 1 has."""
        return float(np.trapezoid(self.mean, self.removed) / (self.removed[-1] - self.removed[0]))


def counts(pixels: int, share: float = SHARE, points: int = POINTS) -> NDArray[np.int64]:
    """Compute how many pixels are gone at each point, evenly spaced; tiny pictures have fewer points.

    Args:
        pixels: of a picture.
        share: of the pixels that are gone at the last point, in (0, 1].
        points: how many points follow the first, at which nothing is gone.

    Returns:
        int64 [points + 1], from 0 on.
    """
    most = max(1, int(share * pixels))
    return np.unique(np.linspace(0, most, min(points, most) + 1).round().astype(np.int64))


def ranks(pixels: Tensor, direction: Direction) -> Tensor:
    """Find the place of every pixel in the order of removal: by signed value, equal ones in reading order.

    Args:
        pixels: [h, w], a map.
        direction: which pixels go first.

    Returns:
        int64 [h, w], from 0 on.
    """
    flat = pixels.flatten()
    order = torch.argsort(flat, stable=True, descending=direction == "most")
    places = torch.empty_like(order)
    places[order] = torch.arange(len(order), device=order.device)
    return places.view_as(pixels)


def replacement(x: Tensor, baseline: Baseline) -> Tensor:
    """Make what stands in the place of removed pixels.

    Args:
        x: float [1, 6, h, w], an encoded picture.
        baseline: "zero" in all six channels is no colour, contributes exactly nothing (except in the backbone of a
            hybrid, where it is black), and is what was published; "mean" is the picture's mean colour, "blurred" the
            picture without its details.

    Returns:
        float [1, 6, h, w].
    """
    if baseline == "zero":
        return torch.zeros_like(x)
    if baseline == "mean":
        return x.mean((2, 3), keepdim=True).expand_as(x)
    return F.avg_pool2d(F.pad(x, [BLUR // 2] * 4, mode="replicate"), BLUR, 1)


def remove(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    method: Method,
    direction: Direction = "least",
    baseline: Baseline = "zero",
    share: float = SHARE,
    points: int = POINTS,
    before: int = 0,
) -> Iterator[NDArray[np.float64]]:
    """Remove pixels of one picture after the other.

    Args:
        model: the network.
        images: uint8 [N, 3, h, w] as the network sees them.
        labels: int64 [N], the true classes.
        method: whose maps order the pixels.
        direction: which pixels go first.
        baseline: what takes their place.
        share: of the pixels that are gone at the last point, in (0, 1].
        points: how many points follow the first, at which nothing is gone.
        before: how many pictures were measured in an earlier call; messages count from there.

    Yields:
        The next picture's curve, float64 [points + 1] in [0, 1].

    Raises:
        CodaError: of the method; the message names the picture.
    """
    device = next(model.parameters()).device
    steps = torch.from_numpy(counts(images.shape[2] * images.shape[3], share, points)).to(device)
    at_once = budget.removed_at_once(device.type, images.shape[2] * images.shape[3])
    for number, (image, label) in enumerate(zip(images, labels.tolist(), strict=True), before + 1):
        x = encode(image[None].to(device))
        try:
            places = ranks(method(model, x, [label])[0], direction)
        except CodaError as error:
            raise error.about(f"picture {number}")  # noqa: B904 (it is the same error)
        other = replacement(x, baseline)
        curve = []
        with torch.no_grad():
            for part in steps.split(at_once):
                gone = places[None, None] < part[:, None, None, None]
                logits = forward(model, torch.where(gone, other, x)).cpu().double()
                curve.append(probabilities(model, logits)[:, label])
        yield torch.cat(curve).numpy()
