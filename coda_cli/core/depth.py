"""Contributions of every layer's output to a logit: the same identity, at any depth (CVPR 2021, section 5).

    logit = sum(a_k * d logit / d a_k) + bias + residual      a_k: the output of layer k; all above it is held

It holds for every layer that all ways from the input to the logit pass through. Those are read off the graph of the
computation: one branch of a residual block is none of them. In a hybrid it holds from the cut up.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from coda_cli.core import abilities
from coda_cli.core.decompose import tolerance_for
from coda_cli.core.gradients import differentiable
from coda_cli.core.held import held
from coda_cli.machine.precision import true_float32


@dataclass(frozen=True)
class LayerShare:
    """A logit shared out over the positions of one layer's output.

    Attributes:
        name: the module's name, or "input".
        pixels: float32 [h, w] on the CPU, summed over channels; signed, logit units.
        residual: logit - sum of pixels - bias - ``positional``.
        tolerance: what the residual's magnitude may be.
        exact: whether it is within that; False below the cut of a hybrid.
        positional: the share of positional embeddings that are added above this layer, which belongs to no position.
        approximate: whether this lies below the cut of a hybrid: input times gradient, which nothing makes exact.
    """

    name: str
    pixels: Tensor
    residual: float
    tolerance: float
    exact: bool
    positional: float = 0.0
    approximate: bool = False


@dataclass(frozen=True)
class _Pass:
    """A held forward pass of one input with the outputs of its layers, all with their graph."""

    layers: list[tuple[str, Tensor]]  # name and output, the input first
    logits: Tensor  # [1, classes]
    constants: list[Tensor]  # see ``held.add_constant``


def shares_by_layer(
    model: nn.Module, x: Tensor, weighting: Tensor, *, relative_tolerance: float | None = None
) -> list[LayerShare]:
    """Share out a weighting of the logits of one input at every depth.

    Of a hybrid's backbone only the input, as an approximation, and the cut are among them. Tokens of a transformer
    stand at their place in its grid. Like ``decompose`` it can be called in any mode.

    Args:
        model: a dynamic-linear network with a ``bias``, as for ``decompose``; not modified, but it has hooks meanwhile.
        x: the input, float [1, C, h, w].
        weighting: float [classes]: 1 for a class, +1 and -1 for the difference of two.
        relative_tolerance: what the residuals may be, in place of those of ``decompose.RELATIVE_TOLERANCE``.

    Returns:
        One share for each layer that all ways pass through, the input first.

    Raises:
        ValueError: the model has no ``bias``, or takes no such input.

    Source:
        Böhle, Fritz and Schiele, CVPR 2021, section 5.
    """
    bias = abilities.bias_of(model)
    with torch.inference_mode(False), torch.no_grad(), true_float32():
        p = _held_pass(differentiable(model), x)
        weighting = weighting.detach().clone()  # it may have been made inside torch.inference_mode()
        logit, gradients, embeddings = _gradients(p, weighting)
        wide = weighting.cpu().double()
        rest = float((wide * p.logits[0].cpu().double()).sum() - bias * wide.sum())
        bias_size = float(abs(bias) * wide.abs().sum())
        rtol = tolerance_for(x) if relative_tolerance is None else relative_tolerance
        found = []
        for (name, a), g in zip(p.layers, gradients, strict=True):
            around = _reached(logit, without=_node(a))
            if g is None or (name != "input" and _node(p.layers[0][1]) in around):
                continue
            products = _products(a, g)
            aside = [t for node, t in embeddings.items() if node in around]  # positional embeddings added above
            positional = sum(float(t.sum()) for t in aside)
            residual = rest - float(products.sum()) - positional
            tolerance = rtol * (float(products.abs().sum()) + bias_size + sum(float(t.abs().sum()) for t in aside))
            approximate = name == "input" and abilities.cut(model) is not None
            exact = not approximate and abs(residual) <= tolerance
            found.append(LayerShare(name, _placed(products, x), residual, tolerance, exact, positional, approximate))
        return found


def _held_pass(model: nn.Module, x: Tensor) -> _Pass:
    """Compute the logits of one input, and note what its layers give on the way."""
    upper, cut, caller = abilities.above(model), abilities.cut(model), threading.get_ident()
    names = {module: name for name, module in upper.named_modules()}
    outputs: dict[int, tuple[str, Tensor]] = {}

    def note(module: nn.Module, _: Any, y: Any) -> None:
        # A Sequential and its last module give one tensor: the innermost name comes first and stays. Another thread
        # may use the model at the same time.
        if isinstance(y, Tensor) and y.requires_grad and y.ndim in (3, 4) and threading.get_ident() == caller:
            outputs.setdefault(id(y), (names[module], y))

    with held() as constants, torch.enable_grad():
        x = x.detach() if cut else abilities.to_cut(model, x.detach())  # less the mean, where one is subtracted
        x = x.clone().requires_grad_()
        a = abilities.to_cut(model, x) if cut else x
        if cut:
            outputs[id(a)] = (cut, a)
        hooks = [module.register_forward_hook(note) for module in names]
        try:
            logits: Tensor = upper(a)
        finally:
            for hook in hooks:
                hook.remove()
    return _Pass([("input", x), *outputs.values()], logits, constants)


def _gradients(p: _Pass, weighting: Tensor) -> tuple[Any, Sequence[Tensor | None], dict[Any, Tensor]]:
    """The node of the weighted logit, its gradients in the layers, and the products of constants by their nodes."""
    with torch.enable_grad():
        logit = (weighting.to(p.logits) * p.logits[0]).sum()
        leaves = [a for _, a in p.layers] + p.constants
        gradients = torch.autograd.grad(logit, leaves, allow_unused=True)
    of_constants = zip(p.constants, gradients[len(p.layers) :], strict=True)
    embeddings = {_node(t): _products(t, g) for t, g in of_constants if g is not None}
    return _node(logit), gradients[: len(p.layers)], embeddings


def _node(t: Tensor) -> Any:
    """The node of the graph that made a tensor."""
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
