"""The low-pass filter before a strided layer: linear and fixed, so it belongs to W(x) and costs no exactness.

A strided layer treats neighbouring pixels differently, by their phase within the stride, and its transpose, which
carries a logit back to the pixels, writes that phase into the contribution map as a grid of alternating signs. The
filter 1 2 1 has a zero at the highest frequency, the period of a stride of two, and takes the grid out of the map as it
takes the aliasing out of the signal (Zhang, Making Convolutional Networks Shift-Invariant Again, ICML 2019).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Blur(nn.Module):
    """Each channel of [B, C, H, W] convolved with the binomial filter 1 2 1 / 4 along both axes, zeros outside.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def extra_repr(self) -> str:
        """The line of ``print(model)``."""
        return str(self.channels)

    def forward(self, x: Tensor) -> Tensor:
        """Blur every channel.

        Args:
            x: [B, C, H, W].

        Returns:
            The same shape.

        Raises:
            ValueError: another number of channels.
        """
        if x.shape[1] != self.channels:
            raise ValueError(f"expected [B, {self.channels}, H, W], got {list(x.shape)}")
        y: Tensor = _Blurred.apply(x)
        return y


class _Blurred(torch.autograd.Function):
    """The filter, and its gradient, which is the filter again.

    Channels last: on CPUs up to 15 times as fast. Without autocast: it costs nothing to keep its precision.
    """

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        """x [B, C, H, W] -> [B, C, H, W]."""
        taps = x.new_full((3,), 0.25)
        taps[1] = 0.5
        kernel = torch.outer(taps, taps).expand(x.shape[1], 1, 3, 3)
        with torch.autocast(x.device.type, enabled=False):
            return F.conv2d(x.contiguous(memory_format=torch.channels_last), kernel, padding=1, groups=x.shape[1])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        """Nothing is kept."""

    @staticmethod
    def backward(_: Any, c: Tensor) -> Tensor:
        """Compute the gradient: the filter again, as it is symmetric and reaches over the border in the same way.

        Args:
            c: gradient of the outputs, [B, C, H, W].

        Returns:
            The gradient of the inputs, [B, C, H, W].
        """
        y: Tensor = _Blurred.apply(c)
        return y

    @staticmethod
    def vmap(_: Any, in_dims: tuple[int], x: Tensor) -> tuple[Tensor, int]:
        """Filter several batches in one call.

        Args:
            in_dims: at which axis of ``x`` they are counted.
            x: of five axes, that one among [B, C, H, W].

        Returns:
            The outputs, [N, B, C, H, W], and 0, the axis at which they are counted.
        """
        x = x.movedim(in_dims[0], 0)
        return _Blurred.apply(x.flatten(0, 1)).unflatten(0, x.shape[:2]), 0
