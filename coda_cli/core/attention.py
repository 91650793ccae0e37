"""Attention whose weights are held: with queries and keys as constants, mixed values are a linear function of values.

Torch's own gradient of attention computes those of queries and keys as well, for which here nobody asks: two fifths of
a transformer's decomposition. That of the values is one product with the attention weights.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from coda_cli.machine import budget


def held_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Mix values by the softmax of scaled products of queries and keys, of which no gradient is taken.

    Args:
        q: queries [B, heads, N, d].
        k: keys [B, heads, M, d].
        v: values [B, heads, M, e].

    Returns:
        [B, heads, N, e].

    Source:
        Böhle, Singh, Fritz and Schiele, TPAMI 2024: attention as a dynamic-linear map of the values.
    """
    y: Tensor = _HeldAttention.apply(q, k, v)
    return y


class _HeldAttention(torch.autograd.Function):
    """See ``held_attention``. Weights are computed again for the gradient: those of all layers take much memory."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Compute the outputs, and keep queries and keys.

        Args:
            ctx: keeps them for the gradient.
            q: queries [B, heads, N, d].
            k: keys [B, heads, M, d].
            v: values [B, heads, M, e].

        Returns:
            softmax(q k^T / sqrt(d)) v, [B, heads, N, e].
        """
        ctx.save_for_backward(q, k)
        return F.scaled_dot_product_attention(q, k, v)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, Tensor]:
        """Compute the gradient of the values: the weights, transposed, times that of the outputs.

        Args:
            ctx: holds queries and keys.
            gradient: of the outputs, [B, heads, N, e].

        Returns:
            None for queries and keys, which are held; for the values softmax(q k^T / sqrt(d))^T gradient,
            [B, heads, M, e].
        """
        # Products of the type of queries and keys would change weights by some percent where that is bfloat16.
        q, k = (t.to(torch.promote_types(t.dtype, torch.float32)) for t in ctx.saved_tensors)
        keys, found = k.transpose(-2, -1) / math.sqrt(q.shape[-1]), q.new_zeros(*k.shape[:-1], gradient.shape[-1])
        count = budget.queries_at_once(q.shape[0] * q.shape[1] * k.shape[2])
        for asked, g in zip(q.split(count, -2), gradient.split(count, -2), strict=True):
            weights = (asked @ keys).softmax(-1).to(g.dtype)
            found += weights.transpose(-2, -1) @ g
        return None, None, found.to(gradient.dtype)
