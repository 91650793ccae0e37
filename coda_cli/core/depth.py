"""Contributions of every layer's output to a logit: the same identity, at any depth (CVPR 2021, section 5).

    logit = sum(a_k * d logit / d a_k) + constants above k + residual      a_k: the output of layer k; all above is held

It holds for every layer that all ways from the input to the logit pass through. Those are read off the graph of the
computation: one branch of a residual block is none of them. In a hybrid it holds from the cut up. In an ordinary
network it holds everywhere, but the deeper the layer, the less its positions have of the logit, and the more the
constants of the layers above it: how far down they carry it is the interpretable depth of the network.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from coda_cli.core import abilities
from coda_cli.core.decompose import tolerance_for
from coda_cli.core.folding import watching
from coda_cli.core.gradients import constant_sums, differentiable
from coda_cli.core.graph import node_of, reached, shortest_way
from coda_cli.core.held import Held, held
from coda_cli.core.ordinary import INPUT, is_channels_last, with_cut
from coda_cli.machine.precision import true_float32


@dataclass(frozen=True)
class LayerShare:
    """A logit shared out over the positions of one layer's output.

    Attributes:
        name: the module's name, or "input".
        pixels: float32 [h, w] on the CPU, summed over channels; signed, logit units.
        residual: logit - sum of pixels - ``bias`` - ``positional``.
        tolerance: what the residual's magnitude may be.
        exact: whether it is within that; False below the cut of a hybrid.
        positional: the share of positional embeddings that are added above this layer, which belongs to no position.
        approximate: whether this lies below the cut of a hybrid: input times gradient, which nothing makes exact.
        bias: all other constants of the layers above: the network's bias, and of ordinary networks what their layers
            add.
        of_classifier: the last of these alone, which every input has.
        magnitude: sum of the magnitudes of all positions' contributions.
        logit: the weighted logit.
    """

    name: str
    pixels: Tensor
    residual: float
    tolerance: float
    exact: bool
    positional: float = 0.0
    approximate: bool = False
    bias: float = 0.0
    of_classifier: float = 0.0
    magnitude: float = 0.0
    logit: float = 0.0

    @property
    def carried(self) -> float:
        """The share of the logit, less the classifier's bias, that the positions have; 1 is all of it."""
        rest = self.logit - self.of_classifier
        return float(self.pixels.double().sum()) / rest if rest else math.nan

    @property
    def ratio(self) -> float:
        """The positions' magnitudes over the same: 1 where nothing cancels."""
        rest = self.logit - self.of_classifier
        return self.magnitude / abs(rest) if rest else math.inf


@dataclass(frozen=True)
class LayerPass:
    """A held forward pass of one input with the outputs of its layers, all with their graph.

    Attributes:
        layers: name and output, the input first.
        logits: [1, classes].
        reported: what layers added that is no function of the input.
        ordinary: whether its layers may give maps [1, h, w, C], as those of Swin transformers do.
    """

    layers: list[tuple[str, Tensor]]
    logits: Tensor
    reported: Held
    ordinary: bool = False

    def arranged(self, t: Tensor) -> Tensor:
        """Put what belongs to a layer's output in the order of maps.

        Args:
            t: [C, h, w], or [h, w, C]; or tokens [N, C], row by row in a grid of the input's shape.

        Returns:
            [C, h, w], without a copy where that can be.
        """
        if t.ndim == 3:
            return t.permute(2, 0, 1) if self.ordinary and is_channels_last(t[None]) else t
        n, (H, W) = len(t), self.layers[0][1].shape[2:]
        rows = max(1, round((n * H / W) ** 0.5))
        rows = next(r for r in range(rows, 0, -1) if n % r == 0)
        return t.T.reshape(-1, rows, n // rows)


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
    (found,) = _shares(model, x, lambda _: [weighting.detach().clone()], relative_tolerance)  # see ``decompose``
    return found


def shares_of_best(model: nn.Module, x: Tensor, count: int = 1) -> list[list[LayerShare]]:
    """Share out the highest logits of one input at every depth, from one forward pass.

    Args:
        model: as for ``shares_by_layer``.
        x: the input, float [1, C, h, w].
        count: of how many classes; all where there are fewer.

    Returns:
        For each of these classes, the most probable first, what ``shares_by_layer`` gives.

    Raises:
        ValueError: as ``shares_by_layer``.
    """

    def best(logits: Tensor) -> list[Tensor]:
        of = logits.topk(min(count, len(logits))).indices
        return [*nn.functional.one_hot(of, len(logits)).to(logits)]

    return _shares(model, x, best, None)


def _shares(
    model: nn.Module, x: Tensor, chosen: Callable[[Tensor], list[Tensor]], relative_tolerance: float | None
) -> list[list[LayerShare]]:
    """Share out every weighting that is chosen by the logits [classes] of one input."""
    with torch.inference_mode(False), torch.no_grad(), true_float32():
        p = held_layers(with_cut(differentiable(model), None, x), x)
        layers, weightings = passed_by_all(p), chosen(p.logits[0].detach())
        rtol = tolerance_for(x) if relative_tolerance is None else relative_tolerance
        last = len(weightings) - 1
        return [_of_one(model, p, layers, w, rtol, further=n < last) for n, w in enumerate(weightings)]


def passed_by_all(p: LayerPass) -> list[tuple[int, set[Any]]]:
    """Find the layers that all ways from the input to the logits pass through.

    Args:
        p: the pass.

    Returns:
        For each its place in ``p.layers``, and the nodes of the graph above it.
    """
    start, bottom = node_of(p.logits), node_of(p.layers[0][1])
    way, found = shortest_way(start, bottom), list[tuple[int, set[Any]]]()
    for n, (name, a) in enumerate(p.layers):
        if not way or node_of(a) in way:
            around = reached(start, without=node_of(a))
            if name == INPUT or bottom not in around:
                found.append((n, around))
    return found


def _of_one(
    model: nn.Module,
    p: LayerPass,
    layers: Sequence[tuple[int, set[Any]]],
    weighting: Tensor,
    rtol: float,
    *,
    further: bool,
) -> list[LayerShare]:
    """Share out one weighting of the logits; with ``further`` the graph stays for another one."""
    dynamic_linear = abilities.is_dynamic_linear(model)
    gradients, constants = _gradients(p, weighting, further=further)
    wide = weighting.cpu().double()
    logit = float((wide * p.logits[0].cpu().double()).sum())
    if dynamic_linear:
        share = abilities.bias_of(model) * float(wide.sum())
        constants.append(_Added(None, "bias", share, abs(abilities.bias_of(model)) * float(wide.abs().sum())))
    found = []
    for n, around in layers:
        (name, a), g = p.layers[n], gradients[n]
        if g is None:
            continue
        products = products_of(a, g)
        above = [c for c in constants if c.node is None or c.node in around]
        positional = sum(c.share for c in above if c.kind == "positional")
        bias = sum(c.share for c in above if c.kind != "positional")
        residual = logit - float(products.sum()) - positional - bias
        tolerance = rtol * (float(products.abs().sum()) + sum(c.size for c in above))
        pixels = p.arranged(products).sum(0).float()
        approximate = name == INPUT and abilities.cut(model) is not None and dynamic_linear
        found.append(
            LayerShare(
                name,
                pixels,
                residual,
                tolerance,
                exact=not approximate and abs(residual) <= tolerance,
                positional=positional,
                approximate=approximate,
                bias=bias,
                of_classifier=constants[-1].share if constants else 0.0,
                magnitude=float(pixels.double().abs().sum()),
                logit=logit,
            )
        )
    return found


def held_layers(model: nn.Module, x: Tensor) -> LayerPass:
    """Compute the logits of one input, and note what its layers give on the way.

    Args:
        model: the network.
        x: the input, float [1, C, H, W]; not modified.

    Returns:
        The pass, as long as which its graph is kept.
    """
    if abilities.is_ordinary(model):
        with held() as reported:
            found = model.pass_from(x, INPUT, layers=True)  # type: ignore[operator]
        return LayerPass([(INPUT, found.leaf), *found.layers], found.logits, reported, ordinary=True)
    upper, cut = abilities.above(model), abilities.cut(model)
    names = {module: name for name, module in upper.named_modules()}
    outputs: dict[int, tuple[str, Tensor]] = {}

    def note(module: nn.Module, y: Any) -> None:
        # A Sequential and its last module give one tensor: the innermost name comes first and stays.
        if module in names and isinstance(y, Tensor) and y.requires_grad and y.ndim in (3, 4):
            outputs.setdefault(id(y), (names[module], y))

    with held() as reported, torch.enable_grad():
        x = x.detach() if cut else abilities.to_cut(model, x.detach())  # less the mean, where one is subtracted
        x = x.clone().requires_grad_()
        a = abilities.to_cut(model, x) if cut else x
        if cut:
            outputs[id(a)] = (cut, a)
        with watching(note):
            logits: Tensor = upper(a)
    return LayerPass([("input", x), *outputs.values()], logits, reported)


class _Added(NamedTuple):
    """A constant, and its share of the logit."""

    node: Any  # of the graph, where it is added; None for what is added after everything else
    kind: str
    share: float
    size: float  # sum of magnitudes


def _gradients(p: LayerPass, weighting: Tensor, *, further: bool) -> tuple[Sequence[Tensor | None], list[_Added]]:
    """The gradients of a weighted logit in the layers, and the shares of the constants."""
    constants = p.reported.constants
    with torch.enable_grad():
        logit = (weighting.to(p.logits) * p.logits[0]).sum()
        leaves: list[Any] = [*(a for _, a in p.layers), *(c.edge for c in constants)]
        gradients = torch.autograd.grad(logit, leaves, retain_graph=further, allow_unused=True)
    added = []
    for c, g in zip(constants, gradients[len(p.layers) :], strict=True):
        share, size = constant_sums(c.value, None if g is None else g[None], 1, 1)[0, 0].tolist()
        added.append(_Added(c.edge.node, c.kind, share, size))
    return gradients[: len(p.layers)], added


def products_of(a: Tensor, gradient: Tensor) -> Tensor:
    """Multiply a layer's output of the only input by its gradient.

    Args:
        a: [1, ...].
        gradient: of the same shape.

    Returns:
        [...] float64 on the CPU.
    """
    return (a.detach() * gradient)[0].cpu().double()
