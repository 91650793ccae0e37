"""Products of a DAU layer with patches that are mostly 0: what is 0 is not multiplied.

Behind the ReLU6 of a hybrid's backbone nine entries of ten are 0. Which of them are not differs from patch to patch,
but half of the entries are 0 in all of about a hundred neighbouring patches, and a product with the others is a dense
one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from coda_cli.machine import budget


def is_mostly_zero(X: Tensor) -> bool:
    """Tell whether so many entries are 0 that leaving them out pays; some patches of all are looked at.

    Args:
        X: patches [P, d].

    Returns:
        The answer; False on GPUs, which would have to be waited for.
    """
    some = X[:: max(1, len(X) // budget.LIVE_ROWS)]
    return X.device.type == "cpu" and float((some == 0).float().mean()) > budget.MOSTLY_ZERO


def columns_of(U: Tensor, b: Tensor) -> Tensor:
    """Arrange U and b so that what belongs to one entry of the patches lies together.

    Args:
        U: [O, r, d].
        b: [O, d].

    Returns:
        [d, r + 1, O], b last.
    """
    return torch.cat([U, b[:, None]], 1).permute(2, 1, 0).contiguous()


def add_live(dot: Tensor, X: Tensor, z: Tensor, columns: Tensor) -> None:
    """Add ``w_o . x``, the products with the dynamic weights before these get their norm.

    Args:
        dot: [n, O], to which they are added.
        X: patches [n, d], of the type of ``columns``.
        z: [n, r].
        columns: [d, r + 1, O], see ``columns_of``.
    """
    live = X.any(0).nonzero()[:, 0]  # NaN counts as live
    u = X.index_select(1, live) @ columns.index_select(0, live).flatten(1)  # U_o^T x, and b_o . x
    *with_z, with_1 = u.view(len(X), -1, dot.shape[1]).unbind(1)
    for part, factor in zip(with_z, z.unbind(1), strict=True):
        dot.addcmul_(part.to(dot.dtype), factor[:, None])
    dot += with_1
