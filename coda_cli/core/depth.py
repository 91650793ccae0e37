"""Contributions of every layer's output to a logit: the same identity, at any depth (CVPR 2021, section 5).

    logit = sum(a_k * d logit / d a_k) + bias + residual      a_k: the output of layer k; all above it is held

It holds for every layer that all ways from the input to the logit pass through. Those are read off the graph of the
computation: one branch of a residual block is none of them. In a hybrid it holds from the cut up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from coda_cli.core.decompose import tolerance_for
from coda_cli.core.held import held
from coda_cli.core.hybrid import HybridNet
from coda_cli.machine.precision import true_float32


@dataclass(frozen=True)
class LayerShare:
    """A logit shared out over the positions of one layer's output."""

    name: str  # the module's, or "input"
    pixels: Tensor  # [h, w], summed over channels; signed, logit units
    residual: float  # logit - sum of pixels - bias - the share of positional embeddings that are added above
    tolerance: float  # what |residual| may be
    exact: bool
    positional: float = 0.0  # that share, of no position
    approximate: bool = False  # below the cut of a hybrid: input times gradient, which nothing makes exact


def shares_by_layer(
    model: nn.Module, x: Tensor, weighting: Tensor, *, relative_tolerance: float | None = None
) -> list[LayerShare]:
    """How a weighting [classes] of the logits of one input x [1, C, h, w] is shared out at every depth, input first.

    Of a hybrid's backbone only the input, as an approximation, and the cut are among them. Tokens of a transformer
    stand at their place in its grid. The model must have a ``bias``, as for ``decompose``.
    """
    outputs: dict[int, tuple[str, Tensor]] = {}
    names = {module: name for name, module in model.named_modules()}
    if hybrid := isinstance(model, HybridNet):
        names = {model.below: model.cut, **{module: name for name, module in model.above.named_modules()}}

    def note(module: nn.Module, _: Any, y: Any) -> None:
        # A Sequential and its last module give one tensor: the innermost name comes first and stays.
        if isinstance(y, Tensor) and y.requires_grad and y.ndim in (3, 4):
            outputs.setdefault(id(y), (names[module], y))

    hooks = [module.register_forward_hook(note) for module in names]
    try:
        with true_float32(), torch.inference_mode(False), held() as added, torch.enable_grad():
            x = x.detach().clone().requires_grad_()
            logits: Tensor = model(x)
            logit = (weighting.to(logits) * logits[0]).sum()
            every = [("input", x), *outputs.values()]
            gradients = torch.autograd.grad(logit, [a for _, a in every] + added, allow_unused=True)
    finally:
        for hook in hooks:
            hook.remove()
    constant = float(model.bias)  # type: ignore[arg-type]
    wide = weighting.cpu().double()
    rest = float((wide * logits.detach()[0].cpu().double()).sum() - constant * wide.sum())
    embeddings = {
        _node(t): _products(t, g) for t, g in zip(added, gradients[len(every) :], strict=True) if g is not None
    }
    found = []
    for (name, a), g in zip(every, gradients, strict=False):
        around = _reached(_node(logit), without=_node(a))
        if g is None or (name != "input" and _node(x) in around):
            continue
        products = _products(a, g)
        aside = [p for node, p in embeddings.items() if node in around]  # positional embeddings added above
        positional = sum(float(p.sum()) for p in aside)
        residual = rest - float(products.sum()) - positional
        size = float(products.abs().sum() + abs(constant) * wide.abs().sum()) + sum(float(p.abs().sum()) for p in aside)
        tolerance = (tolerance_for(x) if relative_tolerance is None else relative_tolerance) * size
        approximate = hybrid and name == "input"
        exact = not approximate and abs(residual) <= tolerance
        found.append(LayerShare(name, _placed(products, x), residual, tolerance, exact, positional, approximate))
    return found


def _node(t: Tensor) -> Any:
    return torch.autograd.graph.get_gradient_edge(t).node


def _reached(start: Any, without: Any) -> set[Any]:
    """All nodes of the graph from ``start`` down, on ways that avoid one node."""
    seen, waiting = {start}, [start]
    while waiting:
        for node, _ in waiting.pop().next_functions:
            if node is not None and node is not without and node not in seen:
                seen.add(node)
                waiting.append(node)
    return seen


def _products(a: Tensor, gradient: Tensor) -> Tensor:
    """a * gradient of the only input, [...] float64 on the CPU."""
    return (a.detach() * gradient)[0].cpu().double()


def _placed(products: Tensor, x: Tensor) -> Tensor:
    """[C, h, w], or tokens [N, C] row by row in a grid of the input's shape, summed over channels: float32 [h, w]."""
    if products.ndim == 3:
        return products.sum(0).float()
    n, (H, W) = len(products), x.shape[2:]
    rows = max(1, round((n * H / W) ** 0.5))
    rows = next(r for r in range(rows, 0, -1) if n % r == 0)
    return products.sum(1).float().reshape(rows, n // rows)
