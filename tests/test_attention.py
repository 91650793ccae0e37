"""Held attention: values mix as torch mixes them, and their gradient is that of attention weights taken as numbers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from coda_cli.core.attention import held_attention
from coda_cli.machine import budget


def parts(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Queries, keys and values: 5 ask 7, and values have a width of their own."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 3, 5, 4), (2, 3, 7, 4), (2, 3, 7, 6)]
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def written_out(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(-1)
    return weights.detach() @ v


@pytest.mark.parametrize("at_once", [1 << 24, 6 * 7 * 2, 1])
def test_it_is_attention_written_out(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "ATTENTION_WEIGHTS", at_once)  # all queries, two, and one at a time
    q, k, v = parts()
    found, expected = v.clone().requires_grad_(), v.clone().requires_grad_()
    y, z = held_attention(q.requires_grad_(), k.requires_grad_(), found), written_out(q, k, expected)
    torch.testing.assert_close(y, z, rtol=1e-12, atol=1e-12)
    g = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(1))
    (a, *others), (b,) = (
        torch.autograd.grad(y, [found, q, k], g, allow_unused=True),
        torch.autograd.grad(z, expected, g),
    )
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    assert others == [None, None]  # who looks at whom is held


def test_in_bfloat16_its_weights_have_more_bits() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 3, 50, 4), (2, 3, 70, 4), (2, 3, 70, 6), (2, 3, 50, 6)]
    q, k, v, g = (torch.randn(shape, generator=generator).bfloat16() for shape in shapes)
    q = q * 8  # large products, of which bfloat16 would lose whole numbers
    (found,) = torch.autograd.grad(held_attention(q, k, v.requires_grad_()), v, g)
    wide = v.detach().double().requires_grad_()
    (expected,) = torch.autograd.grad(written_out(q.double(), k.double(), wide), wide, g.double())
    assert found.dtype == torch.bfloat16
    assert float((found.double() - expected).norm()) < 0.004 * float(expected.norm())  # 0.0083 with rounded products
