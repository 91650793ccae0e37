"""Ordinary layers as the linear maps with constants that they are for one input, whatever module computes them.

    y = W x + b        convolution, linear layer: W is linear, b the constant
    y = s x + t        batch norm: t = beta - gamma mean / deviation is the constant
    y = 6              where ReLU6 saturates: a constant; a ReLU, a maximum and an average have none

So for ReLU networks every logit is a sum over the positions of any layer, plus the constants of the layers above it: a
theorem (full gradients; Srinivas and Fleuret, NeurIPS 2019). Layers that multiply by a function of the input (GELU,
attention, layer norm) have no such theorem. They are taken as ``y = gate(x) x`` with the gate held, as the layers of
B-cos networks are, and it is reported which they were.

The functions of torch are watched, not the modules: a bias is seen wherever it is added. What a function does that is
not known here leaves a residual, which ``decompose`` computes in any case.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Concatenate

import torch
import torch.nn.functional as F
from torch import Tensor

from coda_cli.core import gates
from coda_cli.core.reporting import Reporting, live

# ruff: noqa: ARG001 (every rule gets the function that it stands for)


class Linearised(Reporting):
    """Inside it, torch's functions are differentiated as linear maps, and what they add is reported."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Compute one function, by its rule where there is one and a gradient can pass through what it is given.

        Args:
            func: the function of torch.
            types: not used.
            args: its arguments.
            kwargs: its named arguments.

        Returns:
            What the function returns.
        """
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        if name in _ONLY_LOOK or (not live(args) and not live(kwargs.values())):
            return func(*args, **kwargs)
        if name in _RULES:
            return _RULES[name](self, func, *args, **kwargs)
        y = func(*args, **kwargs)
        if name not in _LINEAR and not _chooses(y):
            self.note_unknown(name)
        return y


def _chooses(y: Any) -> bool:
    """Whether a result says which, how many or whether, and not how much: of a comparison, a place, a size."""
    if isinstance(y, Tensor):
        return not y.is_floating_point() and not y.is_complex()
    return isinstance(y, int | torch.Size | torch.dtype | torch.device)


# ---- rules: each gets the mode, the function and its arguments -------------------------------------------------------


def _affine(
    mode: Reporting,
    func: Callable[..., Tensor],
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *args: Any,
    **kwargs: Any,
) -> Tensor:
    """Convolutions and linear layers."""
    y = func(input, weight, bias, *args, **kwargs)
    if bias is not None:
        channel_first = func is not F.linear
        mode.note(y, bias.view(-1, *[1] * (y.ndim - 2)) if channel_first else bias, "bias")
    return y


def _batch_norm(
    mode: Reporting,
    func: Callable[..., Tensor],
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if training or running_mean is None or running_var is None:
        raise ValueError(
            f"{mode.layer()}: a batch norm that takes its statistics from the batch makes the logits of one picture "
            "depend on others; call model.eval(), and use running statistics"
        )
    y = func(input, running_mean, running_var, weight, bias, training, momentum, eps)
    # What it makes of zeros: all that it adds, as it adds it.
    zeros = running_mean.new_zeros(1, len(running_mean), *[1] * (y.ndim - 2))
    shift = func(zeros, running_mean, running_var, weight, bias, training, momentum, eps)
    mode.note(y, shift, "batch norm")
    return y


def _hardtanh(
    mode: Reporting,
    func: Callable[..., Tensor],
    input: Tensor,
    min_val: float = -1.0,
    max_val: float = 1.0,
    inplace: bool = False,
) -> Tensor:
    y = func(input, min_val, max_val, inplace)
    out = y.detach()  # where it is the most or the least, torch's gradient is 0
    value = F.threshold(out, _before(out, max_val), 0.0)
    if min_val:
        value = value - F.threshold(-out, _before(out, -min_val), 0.0)
    mode.note(y, value, "saturation")
    return y


def _before(y: Tensor, number: float) -> float:
    """The last number before another, of y's type. ``threshold`` after it is one pass, comparing and choosing three."""
    return float(torch.nextafter(y.new_tensor(number), y.new_tensor(-math.inf)))


def _relu6(mode: Reporting, func: Callable[..., Tensor], input: Tensor, inplace: bool = False) -> Tensor:
    return _hardtanh(mode, F.hardtanh, input, 0.0, 6.0, inplace)


def _clamp(mode: Reporting, func: Callable[..., Tensor], input: Tensor, min: Any = None, max: Any = None) -> Tensor:
    x = input.detach()
    saturated = torch.zeros_like(x, dtype=torch.bool)
    if min is not None:
        saturated |= x < min
    if max is not None:
        saturated |= x > max
    y = func(input, min, max)
    mode.note(y, y.detach().masked_fill(~saturated, 0), "saturation")
    return y


def _clamp_min(mode: Reporting, func: Callable[..., Tensor], input: Tensor, min: Any) -> Tensor:
    return _clamp(mode, lambda x, least, _: func(x, least), input, min)


def _clamp_max(mode: Reporting, func: Callable[..., Tensor], input: Tensor, max: Any) -> Tensor:
    return _clamp(mode, lambda x, _, most: func(x, most), input, None, max)


def _threshold(
    mode: Reporting, func: Callable[..., Tensor], input: Tensor, threshold: float, value: float, *args: Any, **kw: Any
) -> Tensor:
    """What is not above the threshold becomes one number."""
    below = input.detach() <= threshold
    y = func(input, threshold, value, *args, **kw)
    mode.note(y, below * y.new_tensor(value), "saturation")
    return y


def _extreme(mode: Reporting, func: Callable[..., Any], /, input: Tensor, *args: Any, **kwargs: Any) -> Any:
    """The larger or smaller of two: one that does not depend on the input is a constant where it is chosen."""
    other = args[0] if args else kwargs.get("other")
    y = func(input, *args, **kwargs)
    if isinstance(other, Tensor) and not (live([input]) and live([other])):
        passes, constant = (input, other) if live([input]) else (other, input)
        passes, constant = passes.detach(), constant.detach()
        chosen = (y.detach() != passes) + (passes == constant).to(y) / 2  # of equal ones each gets half of a gradient
        mode.note(y, chosen * constant, "saturation")
    return y


def _filled(mode: Reporting, func: Callable[..., Tensor], /, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """A border, or places, that get one number: all that is added is what becomes of zeros."""
    y = func(input, *args, **kwargs)
    if not live(args) and not live(kwargs.values()):
        _note_if_any(mode, y, func(torch.zeros_like(input), *args, **kwargs))
    return y


def _note_if_any(mode: Reporting, y: Tensor, added: Tensor) -> None:
    if added.any():  # mostly a border of zeros
        mode.note(y, added, "added")


def _where(mode: Reporting, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """A choice between two at every place: one that does not depend on the input is a constant where it is chosen."""
    y = func(*args, **kwargs)
    if isinstance(y, Tensor):
        alone = [torch.zeros_like(a) if isinstance(a, Tensor) and a.requires_grad else a for a in args]
        named = {k: torch.zeros_like(a) if isinstance(a, Tensor) and a.requires_grad else a for k, a in kwargs.items()}
        _note_if_any(mode, y, func(*alone, **named))
    return y


def _sum(mode: Reporting, func: Callable[..., Tensor], input: Any, other: Any, *, alpha: float = 1) -> Tensor:
    """a + b: where only one of the two depends on the input, the other is a constant."""
    y = func(input, other) if alpha == 1 else func(input, other, alpha=alpha)
    if not live([input]):
        mode.note(y, torch.as_tensor(input), "added")
    elif not live([other]):
        mode.note(y, alpha * torch.as_tensor(other), "added")
    return y


def _difference(mode: Reporting, func: Callable[..., Tensor], input: Any, other: Any, *, alpha: float = 1) -> Tensor:
    y = func(input, other) if alpha == 1 else func(input, other, alpha=alpha)
    reverse = getattr(func, "__name__", "") in ("__rsub__", "rsub")
    first, second = (other, input) if reverse else (input, other)
    if not live([first]):
        mode.note(y, torch.as_tensor(first), "added")
    elif not live([second]):
        mode.note(y, -alpha * torch.as_tensor(second), "added")
    return y


def _quotient(mode: Reporting, func: Callable[..., Tensor], input: Any, other: Any, *args: Any, **kwargs: Any) -> Any:
    """a / b: a denominator that depends on the input is held."""
    if live([other]):
        mode.hold_gate()
        other = other.detach()
    return func(input, other, *args, **kwargs)


def _product(mode: Reporting, func: Callable[..., Tensor], input: Any, other: Any, *args: Any, **kwargs: Any) -> Any:
    """a b: nothing tells which of two that depend on the input is the weight of the other."""
    if live([input]) and live([other]):
        mode.note_unknown("a product of two functions of the input")
    return func(input, other, *args, **kwargs)


def _matrix_product(mode: Reporting, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """a b of matrices, as ``_product``. (What a softmax makes of it is held, whatever it is a function of.)"""
    factors = [f for a in args for f in (a if isinstance(a, list | tuple) else [a])]
    if sum(live([f]) for f in factors) > 1:
        mode.note_unknown("a product of two functions of the input")
    return func(*args, **kwargs)


def _sum_and_product(
    mode: Reporting,
    func: Callable[..., Tensor],
    input: Tensor,
    a: Tensor,
    b: Tensor,
    *,
    beta: float = 1,
    alpha: float = 1,
) -> Tensor:
    """beta c + alpha a b, of matrices."""
    y = func(input, a, b, beta=beta, alpha=alpha)
    if live([a]) and live([b]):
        mode.note_unknown("a product of two functions of the input")
    if not live([input]):
        mode.note(y, beta * input, "bias")
    elif not live([a, b]):
        mode.note(y, alpha * torch.matmul(a, b), "added")
    return y


def _joined(mode: Reporting, func: Callable[..., Tensor], tensors: Sequence[Tensor], *args: Any, **kwargs: Any) -> Any:
    """Concatenation: a part that does not depend on the input, a class token, is a constant at its place."""
    y = func(tensors, *args, **kwargs)
    if not all(t.requires_grad for t in tensors):
        alone = [torch.zeros_like(t) if t.requires_grad else t for t in tensors]
        mode.note(y, func(alone, *args, **kwargs), "token")
    return y


_Rule = Callable[Concatenate[Reporting, Callable[..., Any], ...], Any]
_RULES: dict[str, _Rule] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d", "linear"), _affine),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _affine),
    "batch_norm": _batch_norm,
    **dict.fromkeys(("hardtanh", "hardtanh_"), _hardtanh),
    **dict.fromkeys(("relu6", "relu6_"), _relu6),
    **dict.fromkeys(("clamp", "clamp_", "clip", "clip_"), _clamp),
    **dict.fromkeys(("clamp_min", "clamp_min_"), _clamp_min),
    **dict.fromkeys(("clamp_max", "clamp_max_"), _clamp_max),
    **dict.fromkeys(("threshold", "threshold_", "_threshold"), _threshold),
    **dict.fromkeys(("max", "maximum", "min", "minimum"), _extreme),
    **dict.fromkeys(("pad", "masked_fill", "masked_fill_"), _filled),
    "where": _where,
    **gates.RULES,
    **dict.fromkeys(("add", "add_", "__add__", "__radd__", "__iadd__"), _sum),
    **dict.fromkeys(("sub", "sub_", "__sub__", "__rsub__", "__isub__", "rsub", "subtract"), _difference),
    **dict.fromkeys(("div", "div_", "true_divide", "divide", "__truediv__", "__itruediv__"), _quotient),
    **dict.fromkeys(("mul", "mul_", "multiply", "__mul__", "__rmul__", "__imul__"), _product),
    **dict.fromkeys(("matmul", "__matmul__", "__rmatmul__", "bmm", "mm", "einsum"), _matrix_product),
    **dict.fromkeys(("addmm", "baddbmm"), _sum_and_product),
    **dict.fromkeys(("cat", "concat", "concatenate", "stack"), _joined),
}  # fmt: skip
_ONLY_LOOK = frozenset((
    "__get__", "dim", "size", "numel", "is_floating_point", "_assert", "__len__", "stride", "zeros_like", "ones_like",
    "full_like", "empty_like", "new_zeros", "new_ones", "new_full", "new_empty", "new_tensor", "detach", "__repr__",
))  # fmt: skip
_LINEAR = frozenset((
    # linear, or the choice of one of several linear functions: nothing is added, and no gate has to be held
    "relu", "relu_", "leaky_relu", "leaky_relu_", "prelu", "rrelu", "rrelu_", "abs", "abs_", "absolute", "max_pool1d",
    "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d",
    "adaptive_avg_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d", "boolean_dispatch",
    "fn", "dropout", "dropout1d", "dropout2d", "dropout3d", "mean", "sum", "cumsum", "amax", "amin", "aminmax", "topk",
    "sort", "median", "neg", "__neg__", "view", "reshape", "ravel", "flatten", "unflatten", "permute", "transpose",
    "swapaxes", "swapdims", "movedim", "moveaxis", "t", "contiguous", "clone", "unsqueeze", "squeeze", "expand",
    "expand_as", "broadcast_to", "repeat", "repeat_interleave", "tile", "chunk", "split", "tensor_split", "unbind",
    "narrow", "__getitem__", "index_select", "gather", "take_along_dim", "roll", "flip", "rot90", "interpolate",
    "upsample", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "fold", "unfold", "to", "type", "float",
    "double", "half", "bfloat16", "type_as", "select", "view_as", "reshape_as",
))  # fmt: skip
