"""Hybrid CoDA-Nets: CoDA layers on top of a conventional backbone (Böhle, Fritz and Schiele, TPAMI 2023).

    a = backbone(x)        logit = sum over positions of CoDA layers(a) / T + bias

The CoDA layers are dynamic linear, so a logit is shared out exactly over ``a``, the cut, and over the output of every
layer above it. Below the cut there is no such identity: input times gradient is an approximation there, and is called
so wherever it is shown.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from coda_cli.core.folding import Folded
from coda_cli.core.held import is_held


class HybridNet(nn.Module):
    """CoDA layers on a conventional backbone: exact down to the cut between them.

    Args:
        below: the backbone; it makes the cut float [B, C, h, w] of an encoded picture [B, 6, H, W].
        above: the CoDA layers, which make logits of the cut; it has a ``bias`` and a ``temperature``.
        cut: the name of the backbone's last layer.
        folds: whether every batch norm of the backbone that is defined right behind a convolution takes its output, so
            that it can be made a part of it where nothing is learned; see ``folding``.
    """

    def __init__(self, below: nn.Module, above: nn.Module, cut: str, *, folds: bool = False) -> None:
        super().__init__()
        self.below, self.above, self.cut = below, above, cut
        self._folded = Folded() if folds else None

    @property
    def temperature(self) -> float:
        """What the CoDA layers divide by."""
        return float(self.above.temperature)  # type: ignore[arg-type]

    @property
    def bias(self) -> float:
        """The constant of every logit."""
        return float(self.above.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits.

        Args:
            x: encoded pictures, float [B, 6, H, W] in [0, 1].

        Returns:
            logits [B, classes].
        """
        logits: Tensor = self.above(self.to_cut(x))
        return logits

    def to_cut(self, x: Tensor) -> Tensor:
        """Compute the cut, of the input's type also under autocast: the norms above need all its bits.

        Args:
            x: encoded pictures, float [B, 6, H, W] in [0, 1].

        Returns:
            [B, C, h, w] of the type of ``x``.

        Raises:
            ValueError: weights are held and the backbone is in training mode. Its batch norms would make a picture's
                logits depend on its batch, and keep what they saw.
        """
        if is_held() and self.below.training:
            raise ValueError("the backbone of a hybrid is decomposed in eval mode only: call model.eval() first")
        a: Tensor = (self._folded.of(self.below) if self._folded else self.below)(x)
        return a.to(x.dtype)


def per_pixel(positions: Tensor, size: Sequence[int]) -> Tensor:
    """Say what each pixel has of the contribution of its position, at the resolution of the positions.

    Args:
        positions: a map [h, w].
        size: (H, W) of the view.

    Returns:
        [h, w]: each position's contribution over the number of pixels that it stands for.
    """
    return positions * (positions.numel() / (size[0] * size[1]))


def spread(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Spread each position's contribution in equal shares over the pixels it stands for; sums are kept.

    Args:
        maps: [..., h, w].
        size: (H, W).

    Returns:
        [..., H, W]; ``maps`` itself where it has that size.
    """
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    for axis, length in ((-2, size[0]), (-1, size[1])):
        n = maps.shape[axis]
        owner = torch.arange(length, device=maps.device) * n // length
        share = torch.bincount(owner, minlength=n).to(maps)
        maps = (maps / share.reshape(-1, *[1] * (-axis - 1))).index_select(axis, owner)
    return maps
