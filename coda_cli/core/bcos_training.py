"""Steps of B-cos networks, above all for training, with their gradients written out; ``bcos`` has the definitions.

A step of training is mostly numbers that are read and written. Taken apart by autograd, a B-cos unit and its norm read
and write them about three times as often, and in float32 also where the convolutions are in bfloat16.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_TINY = 1e-12  # added to variances, so that a channel without numbers has one


def squared(a: Tensor, n: Tensor) -> Tensor:
    """Compute the outputs of B-cos units with B = 2: ``a |a| / n``.

    Args:
        a: linear responses [B, O, H, W].
        n: norms of their patches, float32 or float64 [B, 1 or O, H, W], positive.

    Returns:
        The type and shape of ``a``.
    """
    y: Tensor = _Squared.apply(a, n)
    return y


def by_deviation(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Divide the channels of a batch by their deviation, and multiply them by weights.

    Args:
        x: [B, C, H, W].
        weight: [C], of at least float32.
        eps: added to the variance.

    Returns:
        The outputs, of the type and shape of ``x``; mean and variance [C] of the batch, without gradients.
    """
    found: tuple[Tensor, Tensor, Tensor] = _ByDeviation.apply(x, weight, eps)
    return found


def centred(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Subtract the mean over some axes.

    Autograd would spread the gradient of the mean over a map of its own, in another order of memory than the rest.

    Args:
        x: of any shape.
        axes: what means are taken over.

    Returns:
        The same shape.
    """
    y: Tensor = _Centred.apply(x, axes)
    return y


class _Centred(torch.autograd.Function):
    """See ``centred``. It is a symmetric map."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, axes: tuple[int, ...]) -> Tensor:
        """Subtract the mean.

        Args:
            ctx: keeps the axes.
            x: of any shape.
            axes: what means are taken over.

        Returns:
            y = x - mean(x), of the shape of ``x``.
        """
        ctx.axes = axes
        return x - x.mean(axes, keepdim=True)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Compute the gradient, by the same map.

        Args:
            ctx: holds the axes.
            gradient: of the outputs.

        Returns:
            d/dx = gradient - mean(gradient), of the shape of ``x``; None for the axes.
        """
        return gradient - gradient.mean(ctx.axes, keepdim=True), None


def unit_filters(w: Tensor) -> Tensor:
    """Divide every filter by its norm.

    Args:
        w: [O, ...].

    Returns:
        The same shape.
    """
    unit: Tensor = _UnitFilters.apply(w)
    return unit


class _UnitFilters(torch.autograd.Function):
    """See ``unit_filters``. In the gradient, what points along the filter is taken away."""

    @staticmethod
    def forward(ctx: Any, w: Tensor) -> Tensor:
        """Divide every filter by its norm.

        Args:
            ctx: keeps the unit filters and the norms.
            w: filters [O, ...].

        Returns:
            u = w / |w|, of the shape of ``w``.
        """
        norm = torch.linalg.vector_norm(w.flatten(1), dim=1).view(-1, *[1] * (w.ndim - 1))
        unit: Tensor = w / norm
        ctx.save_for_backward(unit, norm)
        return unit

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Compute the gradient in the filters.

        Args:
            ctx: holds the unit filters and the norms.
            gradient: of the unit filters, [O, ...].

        Returns:
            d/dw = (gradient - u (u . gradient)) / |w|, of the shape of ``w``.
        """
        unit, norm = ctx.saved_tensors
        along = torch.einsum("oi,oi->o", gradient.flatten(1), unit.flatten(1)).view_as(norm)
        across: Tensor = torch.addcmul(gradient, unit, along, value=-1)
        return across.div_(norm)


class _Squared(torch.autograd.Function):
    """See ``squared``."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, n: Tensor) -> Tensor:
        """Multiply every number by its share of a norm.

        Args:
            ctx: keeps ``a``, its share |a| / n and ``n``.
            a: [B, O, H', W'].
            n: norms, [B, 1, H', W'] or of the shape of ``a``; positive.

        Returns:
            a |a| / n, of the shape of ``a``.

        Source:
            Böhle, Fritz and Schiele, CVPR 2022, with B = 2: ``a`` is w . x for a unit filter, ``n`` is |x|.
        """
        share = a.abs().mul_(n.reciprocal().to(a.dtype))
        ctx.save_for_backward(a, share, n)
        return a * share

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the gradients.

        Args:
            ctx: holds what ``forward`` kept.
            gradient: of the outputs, of the shape of ``a``.

        Returns:
            d/da = 2 gradient |a| / n, of the shape of ``a``; d/dn = -gradient a |a| / n^2, of that of ``n``.
        """
        a, share, n = ctx.saved_tensors
        rest = gradient * share
        of_norm = rest * a
        if n.shape[1] == 1:
            of_norm = of_norm.sum(1, keepdim=True)
        return rest.mul_(2), of_norm.to(n.dtype).neg().div_(n)


class _ByDeviation(torch.autograd.Function):
    """See ``by_deviation``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        """Divide every channel by its deviation in the batch.

        Args:
            ctx: keeps what the gradient needs.
            x: [B, C, H, W].
            weight: [C].
            eps: is added to the variance.

        Returns:
            x weight / sqrt(variance + eps), of the shape of ``x``; mean and variance [C], which have no gradients.
        """
        mean, variance = _moments(x, weight.dtype)
        inverse = (variance + eps).rsqrt()
        ctx.save_for_backward(x, weight, mean, inverse)
        ctx.mark_non_differentiable(mean, variance)
        return x * _wide(weight * inverse, x), mean, variance

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, None]:
        """Compute the gradients, also through the variance; the mean is not subtracted, so none leads through it alone.

        Args:
            ctx: holds what ``forward`` kept.
            gradient: of the outputs, [B, C, H, W]; those of mean and variance do not count.

        Returns:
            d/dx = gradient weight i - weight i^3 p (x - mean) / N, [B, C, H, W]; d/dweight = i p, [C]; None for eps.
            Here i = 1 / sqrt(variance + eps), N is the count of numbers in a channel, and p = sum(gradient x).
        """
        x, weight, mean, inverse = ctx.saved_tensors
        products = (gradient * x).sum((0, 2, 3)).to(weight.dtype)  # converted before it takes seven times as long
        back = -weight * inverse**3 * products * (x.shape[1] / x.numel())  # through the variance
        of_x = gradient * _wide(weight * inverse, x)
        of_x.addcmul_(x, _wide(back, x)).sub_(_wide(back * mean, x))
        return of_x, inverse * products, None


def _wide(t: Tensor, x: Tensor) -> Tensor:
    """Numbers [C] in the shape and type to multiply channels by."""
    return t.to(x.dtype)[:, None, None]


def _moments(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Mean and variance of every channel. Those of a batch norm cost a quarter of ``torch.var_mean``."""
    one = torch.ones(x.shape[1], dtype=dtype, device=x.device)
    _, mean, inverse = torch.native_batch_norm(x, one, torch.zeros_like(one), None, None, True, 0.0, _TINY)
    return mean, (inverse**-2 - _TINY).clamp_min_(0)
