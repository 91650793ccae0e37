"""The paths through a DAU layer, the layers that they are tried on, and what ``oracle`` says of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from oracle import layer_matrix
from torch import Tensor

from coda_cli.core.dau_layer import DAUConv2d
from coda_cli.core.held import held

GEOMETRIES = list(itertools.product((1, 3, 7), (1, 2, 3), (None, 0, 2)))  # kernel, stride, padding

# rank, groups and bias for layers with d = 18 and two outputs: below and above d, groups that cut between patch
# entries (3) and through the middle of one (4: blocks of nine of the numbers entry * 2 + o).
FACTORS = [(1, 1, True), (5, 1, True), (17, 1, True), (18, 1, False), (40, 1, True), (40, 1, False), (6, 3, True),
           (8, 4, True), (8, 4, False), (36, 4, True)]  # fmt: skip


def by_eval(layer: DAUConv2d, x: Tensor) -> Tensor:
    with torch.no_grad():
        return layer(x)


def by_training(layer: DAUConv2d, x: Tensor) -> Tensor:
    return layer(x)


def by_held(layer: DAUConv2d, x: Tensor) -> Tensor:
    with held():
        return layer(x.detach().requires_grad_())


Path = Callable[[DAUConv2d, Tensor], Tensor]
PATHS: list[Path] = [by_eval, by_training, by_held]
# The differentiable path takes norms from the Gram form, which cancels: it is compared in float32.
PRECISION: dict[Path, tuple[torch.dtype, float]] = {
    by_eval: (torch.float64, 1e-10),
    by_training: (torch.float32, 1e-4),
    by_held: (torch.float64, 1e-10),
}


def by_definition(layer: DAUConv2d, x: Tensor) -> Tensor:
    """The layer's output [B, O, H', W'] in float64 from its dynamic matrix."""
    outputs = []
    for item in x.detach().double():
        matrix, size = layer_matrix(layer, item)
        outputs.append((matrix @ item.flatten()).reshape(size))
    return torch.stack(outputs)


def assert_equal_to(actual: Tensor, expected: Tensor, rtol: float) -> None:
    """Elementwise relative agreement; numbers that cancelled to nearly 0 may miss by rtol of the largest."""
    actual, expected = actual.detach().double(), expected.detach().double()
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=rtol * float(expected.abs().max()))
