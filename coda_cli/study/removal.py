"""Pixel removal: does the network's confidence follow the order that a map puts the pixels in? (CVPR 2021, section 4)

Pixels are removed from the least or the most important on, up to a share of the picture, and the probability of the
true class is looked at on the way. A faithful map keeps it high for the least important and drops it fast for the most.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

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

Direction = Literal["least", "most"]
Baseline = Literal["zero", "mean", "blurred"]
SHARE, POINTS = 0.25, 128  # of the pixels, and how often on the way: as published
BLUR = 11  # window of the blurred baseline in pixels


@dataclass(frozen=True)
class Removal:
    """``curves`` float64 [pictures, points + 1] in [0, 1]: the probability once ``removed`` [points + 1] are gone."""

    curves: NDArray[np.float64]
    removed: NDArray[np.float64]  # shares, from 0 on

    @property
    def mean(self) -> NDArray[np.float64]:
        """The mean curve [points + 1]."""
        return np.asarray(self.curves.mean(0))

    @property
    def area(self) -> float:
        """Under the mean curve, as a share of what a constant 1 has."""
        return float(np.trapezoid(self.mean, self.removed) / (self.removed[-1] - self.removed[0]))


def counts(pixels: int, share: float = SHARE, points: int = POINTS) -> NDArray[np.int64]:
    """How many of ``pixels`` are removed at each point, evenly from 0 to ``share``; fewer points for tiny pictures."""
    most = max(1, int(share * pixels))
    return np.unique(np.linspace(0, most, min(points, most) + 1).round().astype(np.int64))


def ranks(pixels: Tensor, direction: Direction) -> Tensor:
    """The place [h, w] of every pixel in the order of removal: by value, signed, ties in reading order."""
    flat = pixels.flatten()
    order = torch.argsort(flat, stable=True, descending=direction == "most")
    places = torch.empty_like(order)
    places[order] = torch.arange(len(order), device=order.device)
    return places.view_as(pixels)


def replacement(x: Tensor, baseline: Baseline) -> Tensor:
    """What stands in the place of removed pixels of an encoded picture x [1, 6, h, w].

    "zero" in all six channels is no colour, contributes exactly nothing (but to the backbone of a hybrid, where it is
    black), and is what was published; "mean" is the picture's mean colour, "blurred" the picture without its details.
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
    """The curve [points + 1] of each picture of uint8 [N, 3, h, w] with true classes int64 [N], one after the other.

    ``before`` is how many pictures were done in an earlier call. A CodaError of the method names its picture.
    """
    device = next(model.parameters()).device
    steps = torch.from_numpy(counts(images.shape[2] * images.shape[3], share, points)).to(device)
    together = budget.removed_at_once(device.type, images.shape[2] * images.shape[3])
    for number, (image, label) in enumerate(zip(images, labels.tolist(), strict=True), before + 1):
        x = encode(image[None].to(device))
        try:
            places = ranks(method(model, x, [label])[0], direction)
        except CodaError as error:
            raise type(error)(f"picture {number}: {error}") from error
        other = replacement(x, baseline)
        curve = []
        with torch.no_grad():
            for part in steps.split(together):
                gone = places[None, None] < part[:, None, None, None]
                logits = forward(model, torch.where(gone, other, x)).cpu().double()
                curve.append(probabilities(model, logits)[:, label])
        yield torch.cat(curve).numpy()
