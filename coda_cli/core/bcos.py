"""The layers of B-cos networks (Böhle, Fritz and Schiele, CVPR 2022; Böhle, Singh, Fritz and Schiele, TPAMI 2024).

A B-cos unit multiplies an ordinary linear response by a power of the cosine between its input and its weights:

    y = |cos(x, w)|^(B-1)  ŵ . x        ŵ = w / |w|

B-cosified networks (Arya et al., NeurIPS 2024; see ``bcosified``) have the same units with w in the place of ŵ, also
inside the factor, which then is |w| |cos|: a filter keeps the norm that an ordinary network had given it.

For one input the factor is a number, so the layer is linear, and so are the norms beside it once their variance is a
number, too. Held mode (see ``held``) is exactly that: ``hold`` makes these numbers constants, and nothing else changes.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coda_cli.core.bcos_training import by_deviation, centred, squared, unit_filters
from coda_cli.core.held import hold, is_held
from coda_cli.machine.precision import in_full, product_type

PATCH_EPSILON = 1e-6  # inside the root of a patch's norm, as published
POWER_EPSILON = 1e-6  # added to the cosine where B is neither 1 nor 2


def _bcos(a: Tensor, n: Tensor, b: float) -> Tensor:
    """Responses ``a`` = ŵ . x times |cos|^(b - 1), with n = |x|; of any shapes that broadcast. ``a`` is used up."""
    if b == 1:
        return a
    if b != 2:
        return a * hold(((a / n).abs() + POWER_EPSILON) ** (b - 1))
    if a.requires_grad and a.ndim == 4 and not is_held():
        return squared(a, n)
    size = hold(a).abs()
    if size.requires_grad or n.requires_grad:
        return a * (size / n)
    # In their places, and in the type of ``a`` all along: memory that is new costs more than what is done with it.
    size.mul_(n.reciprocal().to(a.dtype))
    return a * size if a._is_view() else a.mul_(size)  # of a change to a view, autograd would keep copies


class BcosConv2d(nn.Module):
    """A B-cos convolution: input [B, C, H, W], output [B, O, H', W'] with the geometry of ``torch.nn.Conv2d``.

    The parameter is ``linear.weight`` [O max_out, C / groups, kh, kw]. There is no bias.

    Args:
        in_channels: C.
        out_channels: O.
        kernel_size: side of the kernel in pixels, or its height and width.
        stride: pixels from one patch to the next.
        padding: pixels of zeros around the input.
        groups: groups of channels, as of ``torch.nn.Conv2d``.
        b: the exponent B, at least 1; 1 is an ordinary convolution.
        max_out: how many neighbouring filters compete for an output; the largest response wins.
        scale: what outputs are divided by.
        unit: whether filters are divided by their norm; False in B-cosified networks.

    Attributes:
        full: whether autocast does not concern the layer where it is not trained.
        keeps: whether what it gives then keeps all its bits, for a layer behind it that is ``full`` as well.
        halved: whether the filters are half sums and half differences of competitors, see ``halves``.

    Source:
        Böhle, Fritz and Schiele, CVPR 2022.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        *,
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
        groups: int = 1,
        b: float = 2.0,
        max_out: int = 1,
        scale: float = 1.0,
        unit: bool = True,
    ) -> None:
        super().__init__()
        self.out_channels, self.b, self.max_out, self.scale = out_channels, float(b), max_out, scale
        self.padding, self.unit = padding, unit
        self.full = self.keeps = self.halved = False
        self.linear = nn.Conv2d(
            in_channels, out_channels * max_out, kernel_size, stride, padding, groups=groups, bias=False
        )

    def extra_repr(self) -> str:
        """The line of ``print(model)``."""
        return f"b={self.b:g}, max_out={self.max_out}, scale={self.scale:g}, unit={self.unit}"

    def filters(self) -> Tensor:
        """ŵ [O max_out, C / groups, kh, kw]: every filter divided by its norm; w itself where they are not ``unit``."""
        w = self.linear.weight
        return unit_filters(w) if self.unit else w

    def patch_norm(self, x: Tensor) -> Tensor:
        """Compute |x| of every patch, of each group's channels; zeros of the padding included.

        Args:
            x: [B, C, H, W].

        Returns:
            [B, groups, H', W'].
        """
        conv, groups, wide = self.linear, self.linear.groups, torch.promote_types(x.dtype, torch.float32)
        if groups == x.shape[1] > 1:  # a sum for every channel: as a convolution a quarter of the time of a pool
            one = x.new_ones(groups, 1, *conv.kernel_size)
            total = F.conv2d(x * x, one, stride=conv.stride, padding=self.padding, groups=groups)
        else:
            squares = _squares(x, groups).to(wide)  # before small numbers are added
            total = F.avg_pool2d(squares, conv.kernel_size, conv.stride, self.padding, divisor_override=1)  # their sum
        return total.add_(PATCH_EPSILON).sqrt_()

    def _responses(self, x: Tensor, w: Tensor) -> Tensor:
        """ŵ . x of every patch; as a matrix product where patches are rows of memory: its gradient is faster."""
        conv = self.linear
        rows = (conv.kernel_size, conv.stride, conv.padding, conv.groups) == ((1, 1), (1, 1), (0, 0), 1)
        if rows and x.is_contiguous(memory_format=torch.channels_last):
            return F.linear(x.permute(0, 2, 3, 1), w[:, :, 0, 0]).permute(0, 3, 1, 2)
        return F.conv2d(x, w, stride=conv.stride, padding=conv.padding, groups=conv.groups)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the outputs, as one linear map when they are held (see ``held``).

        Args:
            x: [B, C, H, W].

        Returns:
            [B, O, H', W'].
        """
        if not self.full or self.training:
            return self._outputs(x)
        y = in_full(self._outputs, x.to(self.linear.weight.dtype))
        return y if self.keeps else y.to(product_type(x))

    def _outputs(self, x: Tensor) -> Tensor:
        conv, x = self.linear, x.to(product_type(x))  # once, for responses and norms
        a = self._responses(x, self.filters())
        if self.halved:
            middle, half = a.chunk(2, 1)
            a = torch.addcmul(middle, half, hold(half.sign()))
        elif self.max_out > 1:
            a, *others = a.unflatten(1, (self.out_channels, self.max_out)).unbind(2)
            for other in others:  # an argmax over so few neighbours would take four times as long as the convolution
                a = torch.where(hold((a >= other) | a.isnan()), a, other)
        if self.b == 1:
            return a if self.scale == 1 else a / self.scale
        n = self.patch_norm(hold(x))
        if 1 < conv.groups < self.out_channels:
            n = n.repeat_interleave(self.out_channels // conv.groups, 1)
        if self.b == 2:
            return _bcos(a, n * self.scale, self.b)
        y = _bcos(a, n, self.b)
        return y if self.scale == 1 else y / self.scale


def halves(w: Tensor) -> Tensor:
    """Compute filters with which the larger of two responses is ``(u + v) / 2 + |u - v| / 2``, without a choice.

    It takes four fifths of the time, and in bfloat16 the sign of a small difference is that of exact numbers.

    Args:
        w: filters [2 O, ...], the two that compete for an output side by side.

    Returns:
        The same shape: half sums of all pairs, then half differences.
    """
    u, v = w.unflatten(0, (-1, 2)).unbind(1)
    return torch.cat([u + v, u - v]) / 2


def _squares(x: Tensor, groups: int) -> Tensor:
    """Sums of squares [B, groups, H, W] of each group's channels of [B, C, H, W]."""
    if groups == 1 and x.is_contiguous(memory_format=torch.channels_last):  # read once, and nothing is written
        sizes: Tensor = torch.linalg.vector_norm(x, dim=1, keepdim=True)
        return sizes.square()
    sums: Tensor = (x * x).unflatten(1, (groups, -1)).sum(2)
    return sums


def v1_scale(kernel_size: int | tuple[int, int], in_channels: int, factor: float) -> float:
    """Compute what version 1 divides by: the kernel's side (of an oblong one the geometric mean) times sqrt(C).

    Args:
        kernel_size: side of the kernel in pixels, or its height and width.
        in_channels: C.
        factor: what the product is divided by in turn.

    Returns:
        The scale.
    """
    kh, kw = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
    return math.sqrt(kh * kw) * math.sqrt(in_channels) / factor


class BcosLinear(nn.Module):
    """A B-cos layer of vectors: input [..., C], output [..., O]; the parameter is ``linear.weight`` [O, C].

    Args:
        in_features: C.
        out_features: O.
        b: the exponent B, at least 1.
        unit: whether rows are divided by their norm; False in B-cosified networks.

    Attributes:
        full: whether autocast does not concern the layer where it is not trained.
    """

    def __init__(self, in_features: int, out_features: int, *, b: float = 2.0, unit: bool = True) -> None:
        super().__init__()
        self.b, self.unit, self.full = float(b), unit, False
        self.linear = nn.Linear(in_features, out_features, bias=False)

    def extra_repr(self) -> str:
        """The line of ``print(model)``."""
        return f"b={self.b:g}, unit={self.unit}"

    def filters(self) -> Tensor:
        """ŵ [O, C]: every row divided by its norm; w itself where they are not ``unit``."""
        w = self.linear.weight
        return unit_filters(w) if self.unit else w

    def forward(self, x: Tensor) -> Tensor:
        """Compute the outputs, as one linear map when they are held (see ``held``).

        Args:
            x: [..., C].

        Returns:
            [..., O].
        """
        if not self.full or self.training:
            return self._outputs(x)
        return in_full(self._outputs, x).to(product_type(x))

    def _outputs(self, x: Tensor) -> Tensor:
        a = F.linear(x, self.filters())
        return _bcos(a, hold(x).norm(dim=-1, keepdim=True) + 1e-12, self.b)


class HeldGELU(nn.Module):
    """GELU as a gate, x Φ(x): Φ, the share of a normal distribution below x, is a constant when it is held."""

    def forward(self, x: Tensor) -> Tensor:
        """Compute the outputs, as one linear map when the gate is held (see ``held``).

        Args:
            x: of any shape.

        Returns:
            The same shape.
        """
        return x * hold(0.5 * (1 + torch.erf(x / math.sqrt(2))))


# ---- norms: no additive bias anywhere, for it would belong to no pixel -----------------------------------------------


class UncentredBatchNorm2d(nn.Module):
    """Batch norm without centring and bias ("bnu"): [B, C, H, W] divided by the running deviation, times ``weight``.

    In training it is the batch's deviation, which is also counted; not while it is held, for a decomposition is of one
    input alone. ``running_mean`` is kept, since the published files hold it, and used for nothing.

    Args:
        channels: C.
        eps: added to the variance.
        momentum: the share of the newest batch in the running numbers.
    """

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight = nn.Parameter(torch.ones(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise; the deviation is a constant when it is held (see ``held``).

        Args:
            x: [B, C, H, W].

        Returns:
            The same shape.
        """
        if self.training and not is_held():
            y, mean, found = by_deviation(x, self.weight, self.eps)
            with torch.no_grad():
                count = x.numel() / x.shape[1]
                self.running_var.lerp_(found * (count / max(1, count - 1)), self.momentum)  # type: ignore[operator]
                self.running_mean.lerp_(mean, self.momentum)  # type: ignore[operator]
                self.num_batches_tracked.add_(1)  # type: ignore[operator]
            return y
        return x * self.factors().to(x.dtype)[:, None, None]

    def factors(self) -> Tensor:
        """[C]: what the channels are multiplied by where nothing is counted."""
        variance: Tensor = self.running_var  # type: ignore[assignment]
        return self.weight / (variance + self.eps).sqrt()


class _MomentNorm(nn.Module):
    """Centred, divided by the deviation over some axes, times ``weight``; the deviation is held, the mean is linear.

    Args:
        channels: C, the length of ``weight``.
        eps: added to the variance.
    """

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))

    def _normed(self, x: Tensor, axes: tuple[int, ...], weight: Tensor) -> Tensor:
        """Centred, divided, and multiplied by ``weight`` in the type of ``x``: that of what is behind it, too."""
        y = centred(x, axes)
        size: Tensor = torch.linalg.vector_norm(hold(y), dim=axes, keepdim=True)  # read once, nothing is written
        deviation = (size.square() / math.prod(x.shape[axis] for axis in axes) + self.eps).sqrt()
        y = y / deviation if deviation.requires_grad else y.mul_(deviation.reciprocal())
        return y * weight.to(y.dtype)


class PositionNorm2d(_MomentNorm):
    """A norm over the channels at each position of [B, C, H, W] ("pn").

    Args:
        channels: C.
        eps: added to the variance.
    """

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__(channels, eps)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise; the deviation is a constant when it is held (see ``held``).

        Args:
            x: [B, C, H, W].

        Returns:
            The same shape.
        """
        return self._normed(x, (1,), self.weight[:, None, None])


class ImageNorm2d(_MomentNorm):
    """A norm over channels and positions of each picture of [B, C, H, W]: group norm with one group.

    Args:
        channels: C.
        eps: added to the variance.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__(channels, eps)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise; the deviation is a constant when it is held (see ``held``).

        Args:
            x: [B, C, H, W].

        Returns:
            The same shape.
        """
        return self._normed(x, (1, 2, 3), self.weight[:, None, None])


class TokenNorm(_MomentNorm):
    """A norm over the features of each token of [..., C]: layer norm.

    Args:
        channels: C.
        eps: added to the variance.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__(channels, eps)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise; the deviation is a constant when it is held (see ``held``).

        Args:
            x: [..., C].

        Returns:
            The same shape.
        """
        return self._normed(x, (-1,), self.weight)
