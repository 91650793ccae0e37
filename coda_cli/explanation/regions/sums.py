"""Exact sums of contributions inside regions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from coda_cli.core.hybrid import spread
from coda_cli.explanation.regions.shapes import Region
from coda_cli.schema.regions import RegionSum, RegionSums

if TYPE_CHECKING:
    from coda_cli.explanation.picture import Explanation

REST = "rest"
Values = NDArray[np.float64]


def region_sums(explanation: Explanation, k: int, regions: Sequence[Region]) -> RegionSums:
    """Sum the contributions to one target inside regions, and in what none of them covers.

    Sums are taken in float64 of what the network computed, not of the rounded map.

    Args:
        explanation: the explanation of a picture or frame.
        k: which target.
        regions: laid on the explanation's view.

    Returns:
        The sums; without a region everything is in the rest.
    """
    d = explanation.decomposition
    contributions = (d.inputs[0] * d.dynamic_weights[0, k]).to("cpu", torch.float64).sum(0)
    values = spread(contributions, explanation.view.rgb.shape[:2]).numpy()
    constants = float(d.bias[0, k]) + float(d.positional[0, k])
    return sums_inside(values, float(d.logit[0, k]) - constants, float(d.tolerance[0, k]), regions)


def sums_inside(values: Values, expected: float, tolerance: float, regions: Sequence[Region]) -> RegionSums:
    """Sum a map inside regions, and in what none of them covers.

    Args:
        values: the contribution of every pixel of the view, float64 [h, w], signed.
        expected: what all of them should add up to, in the same unit: a logit or an activation less its constants.
        tolerance: the largest |residual| that counts as exact.
        regions: laid on the view.

    Returns:
        The sums; without a region everything is in the rest.
    """
    gain, loss = np.maximum(values, 0), np.minimum(values, 0)
    total, pixels = float(gain.sum()), values.size
    covered, inside = np.zeros_like(values), list[RegionSum]()
    counted = 0.0  # over all regions, what lies in two of them twice
    for region in regions:
        part, shares = region.coverage.part, region.coverage.shares
        covered[part] += shares
        positive, negative = float((shares * gain[part]).sum()), float((shares * loss[part]).sum())
        counted += positive + negative
        area = float(shares.sum()) / pixels
        inside.append(_sum(region.name, positive, negative, total, area, region.coverage.outside))
    once = np.minimum(covered, 1)
    rest = _sum(
        REST, float(((1 - once) * gain).sum()), float(((1 - once) * loss).sum()), total, 1 - float(once.sum()) / pixels
    )
    overlap = float(((covered - once) * values).sum())
    residual = expected - (counted + rest.positive + rest.negative - overlap)
    return RegionSums(
        regions=tuple(inside),
        rest=rest,
        overlap=overlap,
        residual=residual,
        tolerance=tolerance,
        exact=abs(residual) <= tolerance,
    )


def _sum(
    name: str, positive: float, negative: float, total: float, area: float, outside: float | None = None
) -> RegionSum:
    """The sums of one region, with its share of the evidence."""
    share = positive / total if total > 0 else None
    ratio = share / area if share is not None and area > 1e-12 else None
    return RegionSum(
        name=name,
        positive=positive,
        negative=negative + 0.0,
        share=share,
        area=max(0.0, area),
        ratio=ratio,
        outside=outside,
    )
