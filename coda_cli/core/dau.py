"""The Dynamic Alignment Unit (Böhle, Fritz and Schiele, CVPR 2021, section 3).

For one patch ``x`` (length d = C k k) a layer with outputs o = 1..O and rank r computes

    z   = V x                 V [r, d], shared by all outputs of the layer
    w_o = U_o z + b_o         U_o [d, r], b_o [d]: the dynamic weight vector
    y_o = g(|w_o|) (w_o . x)  g(n) = n / (1 + n^2) ("SQ") or 1 / n ("L2"), and 0 at n = 0

and nothing else: no other nonlinearity exists in the network. ``aligned`` is this formula, word for word.
``dau_kernels`` has fast forms of it, which tests hold against it, and ``dau_layer`` the layer that uses them.
"""

from __future__ import annotations

import torch
from torch import Tensor

NORMS = ("SQ", "L2")


def aligned(x: Tensor, V: Tensor, U: Tensor, b: Tensor, norm: str) -> Tensor:
    """Compute the outputs of a layer as the paper defines them, with every dynamic weight vector written out.

    Args:
        x: patches [P, d].
        V: [r, d].
        U: [O, d, r].
        b: [O, d].
        norm: "SQ" or "L2".

    Returns:
        y [P, O].

    Source:
        Böhle, Fritz and Schiele, CVPR 2021, section 3.
    """
    z = torch.einsum("rd,pd->pr", V, x)
    w = torch.einsum("odr,pr->pod", U, z) + b
    return scale_of_norm(w.norm(dim=2), norm) * torch.einsum("pod,pd->po", w, x)


def scale_of_norm(n: Tensor, norm: str) -> Tensor:
    """Compute the factor g(n) that multiplies ``w . x``.

    An infinite norm gives NaN, which no residual hides, rather than the 0 of its limit: it is an overflow.

    Args:
        n: norms of dynamic weight vectors, of any shape, not negative.
        norm: "SQ" or "L2"; a new one gets its formula here and its name in NORMS.

    Returns:
        g, of the shape of ``n``; 0 where n is 0.

    Raises:
        ValueError: a norm that has no formula here.
    """
    n = n + (n - n)  # NaN of an infinite one
    if norm == "SQ":
        return 1 / (n + 1 / n)  # n / (1 + n^2) without the square, which overflows half precision from n = 256
    if norm == "L2":
        return torch.where(n > 0, 1 / n.clamp_min(torch.finfo(n.dtype).tiny), n)  # n itself: 0, or NaN
    raise ValueError(f"norm is {norm!r}, which has no formula")
