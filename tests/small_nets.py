"""Networks small enough to be written out, and decompositions of them held against the definition."""

from __future__ import annotations

from typing import Any

import torch
from oracle import network_maps
from torch import Tensor

from coda_cli.core.decompose import Decomposition, decompose
from coda_cli.core.networks import CodaNet, coda_net

CLASSES = 4


def small_net(dtype: torch.dtype = torch.float64, **changes: Any) -> CodaNet:
    """Two layers, two channels in, four classes; any argument of ``coda_net`` may be changed."""
    arguments: dict[str, Any] = {
        "channels": [2, 3, CLASSES],
        "kernels": [3, 3],
        "strides": [1, 1],
        "ranks": [4, 5],
        "norm": "SQ",
        "temperature": 3.0,
        "bias": -2.0,
    }
    return coda_net(**(arguments | changes)).to(dtype)


def picture(*size: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(size or (2, 2, 6, 5), dtype=dtype)


def explained(model: CodaNet, x: Tensor) -> Decomposition:
    """All classes."""
    return decompose(model, x, range(CLASSES))


def error_against_definition(model: CodaNet, x: Tensor, d: Decomposition) -> float:
    """The largest error of a pixel, relative to the sum of absolute contributions; all classes must be explained."""
    _, expected = network_maps(model, x)
    error = (d.contributions.double() - expected).abs().amax((2, 3, 4))
    return float((error / expected.abs().sum((2, 3, 4))).max())


def assert_equals_definition(model: CodaNet, x: Tensor) -> None:
    """Float64: every logit and every contribution agrees to 1e-10 relative, and adds up."""
    d = explained(model, x)
    logits, expected = network_maps(model, x)
    torch.testing.assert_close(d.logits, logits, rtol=1e-12, atol=0)
    # What cancelled to nearly 0 is compared with the size of its map instead.
    torch.testing.assert_close(d.contributions, expected, rtol=1e-10, atol=1e-13 * float(expected.abs().max()))
    assert d.exact.all()


def assert_same(a: Decomposition, b: Decomposition, rtol: float = 1e-12) -> None:
    """Two decompositions tell the same numbers, up to the rounding that another batch size brings."""
    for name in ("contributions", "logits", "weights", "logit", "bias", "tolerance"):
        first, second = getattr(a, name), getattr(b, name)
        scale = float(second.abs().max())
        torch.testing.assert_close(first, second, rtol=rtol, atol=rtol * scale, msg=lambda m, n=name: f"{n}: {m}")
