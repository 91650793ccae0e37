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
from torch.overrides import TorchFunctionMode

from coda_cli.core.attention import held_attention
from coda_cli.core.held import Held

# ruff: noqa: ARG001 (every rule gets the function that it stands for)


class Linearised(TorchFunctionMode):
    """Inside it, torch's functions are differentiated as linear maps, and what they add is reported.

    Args:
        reported: where constants and held gates are reported.
        layer: tells the name of the layer that is being computed.
    """

    def __init__(self, reported: Held, layer: Callable[[], str]) -> None:
        super().__init__()
        self.reported, self.layer = reported, layer

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
        if name in _ONLY_LOOK or (not _live(args) and not _live(kwargs.values())):
            return func(*args, **kwargs)
        if name in _RULES:
            return _RULES[name](self, func, *args, **kwargs)
        if name not in _LINEAR:
            self.reported.unknown.add(name)
        return func(*args, **kwargs)

    def note(self, y: Tensor, value: Tensor, kind: str) -> None:
        """Report what the layer that is being computed has added to its output.

        Args:
            y: the output.
            value: what was added.
            kind: what it is.
        """
        self.reported.note(y, value, kind, self.layer())

    def hold_gate(self) -> None:
        """Report that the layer that is being computed has a gate, which is held."""
        self.reported.gates.add(self.layer())


def _live(values: Any) -> bool:
    """Whether a gradient can pass through one of the values, or of the tensors in a list of them."""
    for value in values:
        if isinstance(value, Tensor):
            if value.requires_grad:
                return True
        elif isinstance(value, list | tuple) and _live(value):
            return True
    return False


# ---- rules: each gets the mode, the function and its arguments -------------------------------------------------------


def _affine(
    mode: Linearised,
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
    mode: Linearised,
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
    mode: Linearised,
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


def _relu6(mode: Linearised, func: Callable[..., Tensor], input: Tensor, inplace: bool = False) -> Tensor:
    return _hardtanh(mode, F.hardtanh, input, 0.0, 6.0, inplace)


def _clamp(mode: Linearised, func: Callable[..., Tensor], input: Tensor, min: Any = None, max: Any = None) -> Tensor:
    x = input.detach()
    saturated = torch.zeros_like(x, dtype=torch.bool)
    if min is not None:
        saturated |= x < min
    if max is not None:
        saturated |= x > max
    y = func(input, min, max)
    mode.note(y, y.detach().masked_fill(~saturated, 0), "saturation")
    return y


def _activation(mode: Linearised, func: Callable[..., Tensor], input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """A function with f(0) = 0 as ``f(x) / x`` times x, the quotient held."""
    mode.hold_gate()
    x = input.detach()
    y = func(x.clone(), *args, **kwargs)  # a copy: some change what they are given
    return input * (y / x).masked_fill(x == 0, 0)


def _gate(mode: Linearised, func: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
    """A function whose values are weights of something else: a sigmoid, a softmax."""
    mode.hold_gate()
    return func(*_detached(args), **kwargs).detach()


def _detached(args: Sequence[Any]) -> list[Any]:
    return [a.detach() if isinstance(a, Tensor) else a for a in args]


def _layer_norm(
    mode: Linearised,
    func: Callable[..., Tensor],
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """The mean is a linear function of the input; the deviation is held."""
    mode.hold_gate()
    dims = tuple(range(-len(normalized_shape), 0))
    y = _standardised(input, dims, eps)
    y = y if weight is None else y * weight
    if bias is not None:
        y = y + bias
        mode.note(y, bias, "norm")
    return y


def _group_norm(
    mode: Linearised,
    func: Callable[..., Tensor],
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    mode.hold_gate()
    grouped = input.reshape(len(input), num_groups, -1)
    y = _standardised(grouped, (2,), eps).reshape(input.shape)
    of_channel = [-1, *[1] * (input.ndim - 2)]
    y = y if weight is None else y * weight.view(of_channel)
    if bias is not None:
        y = y + bias.view(of_channel)
        mode.note(y, bias.view(of_channel), "norm")
    return y


def _standardised(x: Tensor, dims: tuple[int, ...], eps: float) -> Tensor:
    deviation = (x.detach().var(dims, unbiased=False, keepdim=True) + eps).sqrt()
    return (x - x.mean(dims, keepdim=True)) / deviation


def _attention(
    mode: Linearised, func: Callable[..., Tensor], query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any
) -> Tensor:
    """Scaled dot products: who looks at whom is held, what is seen there is not."""
    mode.hold_gate()
    if args or kwargs:
        return func(query.detach(), key.detach(), value, *args, **kwargs)
    return held_attention(query.detach(), key.detach(), value)


def _multi_head_attention(
    mode: Linearised, func: Callable[..., Any], query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any
) -> tuple[Tensor, None]:
    """``nn.MultiheadAttention``: [length, B, dim]; without masks and added keys, as classifiers use it."""
    names = ("embed_dim_to_check", "num_heads", "in_proj_weight", "in_proj_bias", "bias_k", "bias_v", "add_zero_attn",
             "dropout_p", "out_proj_weight", "out_proj_bias")  # fmt: skip
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    masks = ("bias_k", "bias_v", "add_zero_attn", "key_padding_mask", "attn_mask", "static_k", "static_v")
    if any(given.get(name) is not None and given.get(name) is not False for name in masks):
        raise ValueError(f"{mode.layer()}: attention with masks or added keys is not known to coda")
    if given.get("use_separate_proj_weight"):
        weights = [given[name] for name in ("q_proj_weight", "k_proj_weight", "v_proj_weight")]
    else:
        weights = list(given["in_proj_weight"].chunk(3))
    biases = [None] * 3 if given["in_proj_bias"] is None else given["in_proj_bias"].chunk(3)
    heads = given["num_heads"]

    def split(x: Tensor) -> Tensor:  # [L, B, dim] -> [B, heads, L, dim of a head]
        return x.reshape(len(x), x.shape[1], heads, -1).permute(1, 2, 0, 3)

    with mode:  # so that the biases are seen
        # The batch comes first, as everywhere: what a layer adds is counted for each input by itself.
        q, k, v = (
            split(F.linear(x.transpose(0, 1), w, b).transpose(0, 1))
            for x, w, b in zip((query.detach(), key.detach(), value), weights, biases, strict=True)
        )
        y = F.scaled_dot_product_attention(q, k, v).permute(0, 2, 1, 3).flatten(2)
        return F.linear(y, given["out_proj_weight"], given["out_proj_bias"]).transpose(0, 1), None


def _sum(mode: Linearised, func: Callable[..., Tensor], input: Any, other: Any, *, alpha: float = 1) -> Tensor:
    """a + b: where only one of the two depends on the input, the other is a constant."""
    y = func(input, other) if alpha == 1 else func(input, other, alpha=alpha)
    if not _live([input]):
        mode.note(y, torch.as_tensor(input), "added")
    elif not _live([other]):
        mode.note(y, alpha * torch.as_tensor(other), "added")
    return y


def _difference(mode: Linearised, func: Callable[..., Tensor], input: Any, other: Any, *, alpha: float = 1) -> Tensor:
    y = func(input, other) if alpha == 1 else func(input, other, alpha=alpha)
    reverse = getattr(func, "__name__", "") in ("__rsub__", "rsub")
    first, second = (other, input) if reverse else (input, other)
    if not _live([first]):
        mode.note(y, torch.as_tensor(first), "added")
    elif not _live([second]):
        mode.note(y, -alpha * torch.as_tensor(second), "added")
    return y


def _quotient(mode: Linearised, func: Callable[..., Tensor], input: Any, other: Any, *args: Any, **kwargs: Any) -> Any:
    """a / b: a denominator that depends on the input is held."""
    if _live([other]):
        mode.hold_gate()
        other = other.detach()
    return func(input, other, *args, **kwargs)


def _product(mode: Linearised, func: Callable[..., Tensor], input: Any, other: Any, *args: Any, **kwargs: Any) -> Any:
    """a b: nothing tells which of two that depend on the input is the weight of the other."""
    if _live([input]) and _live([other]):
        mode.reported.unknown.add("a product of two functions of the input")
    return func(input, other, *args, **kwargs)


def _joined(mode: Linearised, func: Callable[..., Tensor], tensors: Sequence[Tensor], *args: Any, **kwargs: Any) -> Any:
    """Concatenation: a part that does not depend on the input, a class token, is a constant at its place."""
    y = func(tensors, *args, **kwargs)
    if not all(t.requires_grad for t in tensors):
        alone = [torch.zeros_like(t) if t.requires_grad else t for t in tensors]
        mode.note(y, func(alone, *args, **kwargs), "token")
    return y


_Rule = Callable[Concatenate[Linearised, Callable[..., Any], ...], Any]
_RULES: dict[str, _Rule] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d", "linear"), _affine),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _affine),
    "batch_norm": _batch_norm,
    **dict.fromkeys(("hardtanh", "hardtanh_"), _hardtanh),
    **dict.fromkeys(("relu6", "relu6_"), _relu6),
    **dict.fromkeys(("clamp", "clamp_", "clip", "clip_"), _clamp),
    # scaled by a function of what they are given; the last three of all channels together
    **dict.fromkeys(("gelu", "silu", "silu_", "hardswish", "mish", "tanh", "tanh_", "elu", "elu_"), _activation),
    **dict.fromkeys(("celu", "selu", "softsign", "normalize", "local_response_norm", "rms_norm"), _activation),
    **dict.fromkeys(("sigmoid", "sigmoid_", "hardsigmoid", "softmax"), _gate),
    "layer_norm": _layer_norm,
    "group_norm": _group_norm,
    "scaled_dot_product_attention": _attention,
    "multi_head_attention_forward": _multi_head_attention,
    **dict.fromkeys(("add", "add_", "__add__", "__radd__", "__iadd__"), _sum),
    **dict.fromkeys(("sub", "sub_", "__sub__", "__rsub__", "__isub__", "rsub", "subtract"), _difference),
    **dict.fromkeys(("div", "div_", "true_divide", "divide", "__truediv__", "__itruediv__"), _quotient),
    **dict.fromkeys(("mul", "mul_", "multiply", "__mul__", "__rmul__", "__imul__"), _product),
    **dict.fromkeys(("cat", "concat", "concatenate", "stack"), _joined),
}  # fmt: skip
_ONLY_LOOK = frozenset(("__get__", "dim", "size", "numel", "is_floating_point", "_assert", "__len__", "stride"))
_LINEAR = frozenset((
    # linear, or the choice of one of several linear functions: nothing is added, and no gate has to be held
    "relu", "relu_", "leaky_relu", "leaky_relu_", "prelu", "max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d",
    "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d",
    "adaptive_max_pool2d", "boolean_dispatch", "fn", "dropout", "dropout1d", "dropout2d", "dropout3d", "mean", "sum",
    "max", "amax", "maximum", "neg", "matmul", "__matmul__", "bmm", "mm", "einsum", "view", "reshape", "flatten",
    "unflatten", "permute", "transpose", "swapaxes", "movedim", "t", "contiguous", "clone", "unsqueeze", "squeeze",
    "expand", "expand_as", "repeat", "chunk", "split", "unbind", "narrow", "__getitem__", "index_select", "gather",
    "pad", "roll", "flip", "interpolate", "upsample", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "unfold",
    "to", "type", "float", "double", "half", "bfloat16", "type_as", "detach", "zeros_like", "new_zeros", "ones_like",
    "masked_fill", "select", "view_as", "reshape_as",
))  # fmt: skip
