"""Forms of the Dynamic Alignment Unit for training, differentiable in its parameters; ``dau`` has the definition."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def of_fixed_inputs(X: Tensor, V: Tensor, A: Tensor, scale: Callable[[Tensor], Tensor]) -> Tensor:
    """Compute the outputs from products of z with the input, differentiably in the parameters.

    ``w_o . x = sum_j z_j (U_oj . x) + b_o . x`` is one matrix product of all ``z_j x_d`` with the parameters. No number
    for each of O r pairs is kept, which with a thousand outputs take most of a step's time: 1.7 times as fast.

    Args:
        X: the input at each position, [P, d]; its type is that of the large matrix products.
        V: [r, d].
        A: [U_o b_o] transposed, [O, r + 1, d].
        scale: the function g.

    Returns:
        y [P, O], at least in float32.
    """
    wide = torch.promote_types(X.dtype, torch.float32)
    with torch.autocast(X.device.type, enabled=False):
        z1 = F.pad(X.to(V.dtype) @ V.t(), (0, 1), value=1.0)
        products = (z1.to(X.dtype)[:, :, None] * X[:, None, :]).flatten(1)
        dot = (products @ A.flatten(1).t().to(X.dtype)).to(wide)
        gram = (A @ A.transpose(1, 2)).flatten(1)
        n2 = ((z1[:, :, None] * z1[:, None, :]).flatten(1) @ gram.t()).to(wide)
        return dot * scale(n2.clamp_min(1e-12).sqrt())  # rounding can make it negative; sqrt has no gradient at 0


def contracted(h: Tensor, gram: Tensor, scale: Callable[[Tensor], Tensor]) -> Tensor:
    """Compute the outputs from convolutions, differentiably: for training.

    Args:
        h: [B, r + O + O r, H', W'], the channels z, b.x and U^T x.
        gram: Gram matrices [O, r + 1, r + 1] of [U_o b_o].
        scale: the function g.

    Returns:
        [B, O, H', W'], at least in float32.
    """
    O, r = len(gram), gram.shape[1] - 1
    h = h.permute(0, 2, 3, 1)  # positions first: the sums over r run over neighbouring numbers
    z, bx, u = torch.split(h, [r, O, O * r], -1)
    z1 = F.pad(z, (0, 1), value=1.0)
    # |w_o|^2 = [z; 1]^T G_o [z; 1] for all o at once: the products z_i z_j against the entries of G_o.
    n2 = (z1[..., :, None] * z1[..., None, :]).flatten(-2) @ gram.flatten(1).t().to(z1.dtype)
    wide = torch.promote_types(n2.dtype, torch.float32)
    n = n2.to(wide).clamp_min(1e-12).sqrt()  # rounding can make the Gram form negative; sqrt has no gradient at 0
    dot = (u.unflatten(-1, (O, r)).to(wide) * z.to(wide)[..., None, :]).sum(-1) + bx.to(wide)
    y: Tensor = dot * scale(n)
    return y.permute(0, 3, 1, 2)
