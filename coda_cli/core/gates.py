"""Functions that multiply by a function of the input, as ``y = gate(x) x`` with the gate held: ``piecewise``'s rules.

``RULES`` has them by the names of torch's functions. Each gets the mode to report to, the function and its arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from coda_cli.core.attention import held_attention
from coda_cli.core.reporting import Reporting

# ruff: noqa: ARG001 (every rule gets the function that it stands for)


def _activation(mode: Reporting, func: Callable[..., Tensor], input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """A function with f(0) = 0 as ``f(x) / x`` times x, the quotient held."""
    mode.hold_gate()
    x = input.detach()
    y = func(x.clone(), *args, **kwargs)  # a copy: some change what they are given
    return input * (y / x).masked_fill(x == 0, 0)


def _gate(mode: Reporting, func: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
    """A function whose values are weights of something else: a sigmoid, a softmax."""
    mode.hold_gate()
    return func(*_detached(args), **kwargs).detach()


def _detached(args: Sequence[Any]) -> list[Any]:
    return [a.detach() if isinstance(a, Tensor) else a for a in args]


def _layer_norm(
    mode: Reporting,
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
    mode: Reporting,
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


def _instance_norm(
    mode: Reporting,
    func: Callable[..., Tensor],
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """A group norm of single channels; with the statistics of training it is a batch norm."""
    with mode:
        if not use_input_stats:
            return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
        return F.group_norm(input, input.shape[1], weight, bias, eps)


def _glu(mode: Reporting, func: Callable[..., Tensor], input: Tensor, dim: int = -1) -> Tensor:
    """One half of the channels times a sigmoid of the other half."""
    mode.hold_gate()
    value, gate = input.chunk(2, dim)
    return value * gate.detach().sigmoid()


def _standardised(x: Tensor, dims: tuple[int, ...], eps: float) -> Tensor:
    deviation = (x.detach().var(dims, unbiased=False, keepdim=True) + eps).sqrt()
    return (x - x.mean(dims, keepdim=True)) / deviation


def _attention(
    mode: Reporting, func: Callable[..., Tensor], query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any
) -> Tensor:
    """Scaled dot products: who looks at whom is held, what is seen there is not."""
    mode.hold_gate()
    if args or kwargs:
        return func(query.detach(), key.detach(), value, *args, **kwargs)
    return held_attention(query.detach(), key.detach(), value)


def _multi_head_attention(
    mode: Reporting, func: Callable[..., Any], query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any
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


RULES: dict[str, Callable[..., Any]] = {
    # scaled by a function of what they are given; the last three of all channels together
    **dict.fromkeys(("gelu", "silu", "silu_", "hardswish", "mish", "tanh", "tanh_", "elu", "elu_"), _activation),
    **dict.fromkeys(("celu", "selu", "softsign", "normalize", "local_response_norm", "rms_norm"), _activation),
    **dict.fromkeys(("sigmoid", "sigmoid_", "hardsigmoid", "softmax"), _gate),
    "layer_norm": _layer_norm,
    "group_norm": _group_norm,
    "instance_norm": _instance_norm,
    "glu": _glu,
    "scaled_dot_product_attention": _attention,
    "multi_head_attention_forward": _multi_head_attention,
}
