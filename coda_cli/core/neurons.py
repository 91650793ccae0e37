"""Neurons: one activation of a layer shared out over the input as a logit is, and the channels a logit is made of.

    activation = sum(x * d activation / d x) + constants below the layer + residual
    logit      = sum over channels of their shares + constants above the layer + residual
    share of c = sum over positions p of a[c, p] * d logit / d a[c, p]
               = sum(x * d share of c / d x) + constants below the layer + residual

All gradients are taken with everything dynamic held, so each line is the identity of ``decompose`` with another end.
``x`` is the input, or the output of the cut where a network has one: below the cut of a hybrid nothing is linear, so it
has no neurons that could be shared out. In the last line the map of a channel is the sum of the maps of its positions,
each times the gradient of the logit there: it is in logit units.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from coda_cli.core import abilities
from coda_cli.core.decompose import tolerance_for
from coda_cli.core.depth import LayerPass, held_layers, passed_by_all, products_of
from coda_cli.core.gradients import constant_sums, differentiable
from coda_cli.core.graph import node_of, reached
from coda_cli.core.held import Constant
from coda_cli.core.ordinary import layer_named, with_cut
from coda_cli.machine.precision import true_float32


class Neuron(NamedTuple):
    """What is asked for in a layer.

    Attributes:
        channel: counted from 0.
        where: a position (y, x) of the layer's output, counted from 0; "max" for the position at which the channel is
            strongest; "sum" for all positions of the channel together.
    """

    channel: int
    where: tuple[int, int] | Literal["max", "sum"] = "max"


@dataclass(frozen=True)
class NeuronMap:
    """An activation, or a channel's share of a logit, shared out over the input.

    value == sum of pixels + constants + residual

    Attributes:
        layer: the layer's name.
        channel: counted from 0.
        position: (y, x) in the layer's output; None where it is of all positions together.
        value: the activation, in its own units, or the share, in logit units.
        pixels: float64 [h, w] on the CPU, of the input or of the cut, summed over channels; signed, in units of value.
        constants: what the layers up to this one add, which belongs to no pixel; signed, in units of value.
        residual: what rounding left over.
        tolerance: what the residual's magnitude may be.
    """

    layer: str
    channel: int
    position: tuple[int, int] | None
    value: float
    pixels: Tensor
    constants: float
    residual: float
    tolerance: float

    @property
    def exact(self) -> bool:
        """Whether the residual is within its tolerance."""
        return abs(self.residual) <= self.tolerance


@dataclass(frozen=True)
class ChannelShares:
    """A logit shared out over the channels of one layer.

    logit == sum of shares + constants + residual

    Attributes:
        layer: the layer's name.
        shares: float64 [C], what each channel's positions have of the logit together; signed, logit units.
        logit: the weighted logit.
        constants: what the layers above add to the logit, the network's bias among it.
        residual: what rounding left over.
        tolerance: what the residual's magnitude may be.
        strongest: the channels with the largest |share|, the largest first, each with its map.
    """

    layer: str
    shares: Tensor
    logit: float
    constants: float
    residual: float
    tolerance: float
    strongest: tuple[NeuronMap, ...]

    @property
    def exact(self) -> bool:
        """Whether the residual is within its tolerance."""
        return abs(self.residual) <= self.tolerance


def decompose_neurons(
    model: nn.Module,
    x: Tensor,
    layer: str | int,
    neurons: Sequence[Neuron | tuple[Any, ...] | int],
    *,
    cut: str | None = None,
    relative_tolerance: float | None = None,
) -> list[NeuronMap]:
    """Share out activations of one layer over the input, exactly; of a network with a cut over the output of its cut.

        decompose_neurons(net.model, encode(picture), "layers.6", [(17, (4, 9)), (3, "sum"), 5])

    Args:
        model: any network, as for ``decompose``; not modified, but it has hooks meanwhile.
        x: the input, float [1, C, H, W].
        layer: its name, with or without "backbone." before it, or its number as ``shares_by_layer`` counts from the
            input (0); "=7" is the layer whose name is 7.
        neurons: each a ``Neuron`` or the same as a tuple; a channel alone means the position where it is strongest.
        cut: as for ``decompose``.
        relative_tolerance: what the residuals may be, in place of those of ``decompose.RELATIVE_TOLERANCE``.

    Returns:
        A map for each neuron, in their order.

    Raises:
        ValueError: there is no such layer, channel or position, or the layer lies below the cut.

    Source:
        Böhle, Fritz and Schiele, CVPR 2021, equation 8, with an inner layer in the place of the last.
    """
    asked = [Neuron(n) if isinstance(n, int) else Neuron(*n) for n in neurons]
    with _layer_of(model, x, layer, cut, relative_tolerance, whole=False) as at:
        return [_shared_out(at, n.channel, *_chosen(at, n)) for n in asked]


def neuron_value(model: nn.Module, x: Tensor, layer: str | int, neuron: Neuron) -> tuple[str, float]:
    """Compute an activation without sharing it out, which is quicker.

    Args:
        model: any network, as for ``decompose``; not modified, but it has hooks meanwhile.
        x: the input, float [1, C, H, W].
        layer: as for ``decompose_neurons``.
        neuron: the neuron.

    Returns:
        The layer's name, and what ``decompose_neurons`` gives as the value.

    Raises:
        ValueError: as ``decompose_neurons``.
    """
    with _layer_of(model, x, layer, None, None, whole=False) as at:
        return at.name, _chosen(at, neuron)[2]


def strongest_channels(
    model: nn.Module,
    x: Tensor,
    layer: str | int,
    weighting: Tensor,
    count: int = 5,
    *,
    cut: str | None = None,
    relative_tolerance: float | None = None,
) -> ChannelShares:
    """Share out a weighting of the logits over the channels of a layer, and the strongest channels over the input.

    Args:
        model: any network, as for ``decompose``; not modified, but it has hooks meanwhile.
        x: the input, float [1, C, H, W].
        layer: as for ``decompose_neurons``, but one that the whole logit passes through.
        weighting: float [classes]: 1 for a class, +1 and -1 for the difference of two.
        count: of how many channels maps are made, from 1 to the number of channels.
        cut: as for ``decompose``.
        relative_tolerance: what the residuals may be, in place of those of ``decompose.RELATIVE_TOLERANCE``.

    Returns:
        The shares of all channels, and the maps of the strongest.

    Raises:
        ValueError: there is no such layer that the whole logit passes through, it has fewer channels, or it lies below
            the cut.

    Source:
        Böhle, Fritz and Schiele, CVPR 2021, section 5.
    """
    with _layer_of(model, x, layer, cut, relative_tolerance, whole=True) as at:
        wide, logits = weighting.detach().cpu().double(), at.held.logits[0]
        value = (weighting.detach().to(logits, copy=True) * logits).sum()
        g, constants, size = _gradient(value, at.output, at.above)
        products = products_of(at.output, g)
        shares = at.held.arranged(products).sum((1, 2))
        if not 1 <= count <= len(shares):
            raise ValueError(f"{at.name} has {len(shares)} channels; {count} were asked for")
        bias = abilities.bias_of(model)
        constants += bias * float(wide.sum())
        size += abs(bias) * float(wide.abs().sum())
        logit = float((wide * logits.detach().cpu().double()).sum())
        best = shares.abs().argsort(descending=True, stable=True)[:count].tolist()
        weighted = at.held.arranged(at.output[0] * g[0])  # the gradient is a number here, the output has its graph
        return ChannelShares(
            at.name,
            shares,
            logit,
            constants,
            logit - float(shares.sum()) - constants,
            at.rtol * (float(products.abs().sum()) + size),
            tuple(_shared_out(at, c, None, weighted[c].sum(), float(shares[c])) for c in best),
        )


class _Layer(NamedTuple):
    """One layer of a held pass, and what lies around it."""

    name: str
    output: Tensor  # [1, ...]
    input: Tensor  # of the network, or the output of its cut
    below: list[Constant]  # added from there up to this layer
    above: list[Constant]  # added above this layer
    rtol: float
    held: LayerPass


@contextmanager
def _layer_of(
    model: nn.Module, x: Tensor, layer: str | int, cut: str | None, rtol: float | None, *, whole: bool
) -> Iterator[_Layer]:
    """A layer of a held pass, while gradients of it are taken; ``whole``: one that all ways pass through.

    Raises ValueError.
    """
    if x.ndim != 4 or len(x) != 1 or not x.is_floating_point():
        raise ValueError(f"expected one input, a floating tensor [1, C, H, W], got {x.dtype} {list(x.shape)}")
    with torch.inference_mode(False), torch.no_grad(), true_float32():
        model = with_cut(differentiable(model), cut, x)
        p = held_layers(model, x)
        name, output = p.layers[_find(model, p, str(layer), whole=whole)]
        leaf = p.layers[_names(p).index(bottom) if (bottom := abilities.cut(model)) else 0]
        inside = reached(node_of(output), without=node_of(leaf[1]))
        if leaf[1] is output:
            inside = set()
        elif node_of(leaf[1]) not in reached(node_of(output), without=None):
            raise ValueError(_below(name, leaf[0]))
        over = reached(node_of(p.logits), without=node_of(output))
        below = [c for c in p.reported.constants if c.edge.node in inside]
        above = [c for c in p.reported.constants if c.edge.node in over]
        with torch.enable_grad():
            yield _Layer(name, output, leaf[1], below, above, tolerance_for(x) if rtol is None else rtol, p)


def _find(model: nn.Module, p: LayerPass, layer: str, *, whole: bool) -> int:
    """The place in the pass of the layer that is meant. Raises ValueError."""
    passed = [n for n, _ in passed_by_all(p)]
    names = _names(p)
    if layer.isdecimal() and int(layer) < len(passed):
        return passed[int(layer)]
    layer = layer.removeprefix("=")
    if (meant := layer_named(layer, names)) and (not whole or names.index(meant) in passed):
        return names.index(meant)
    if (cut := abilities.cut(model)) and _is_in(model, layer) and not _is_in(abilities.above(model), layer):
        raise ValueError(_below(layer, cut))
    raise ValueError(_no_layer(layer, [names[n] for n in passed], [] if whole else names, whole=whole))


def _is_in(model: nn.Module, layer: str) -> bool:
    """Whether a network has a layer of this name, whatever it is a part of."""
    return any(name == layer or name.endswith(f".{layer}") for name, _ in model.named_modules())


def _names(p: LayerPass) -> list[str]:
    return [name for name, _ in p.layers]


def _below(layer: str, cut: str) -> str:
    """Why a layer below a cut has no neurons that can be shared out."""
    return f"{layer} lies below {cut}, the cut; activations are shared out over the output of the cut, from there up"


def _no_layer(layer: str, passed: Sequence[str], names: Sequence[str], *, whole: bool) -> str:
    """What there is in the place of a layer that there is not."""
    close = difflib.get_close_matches(layer, names or passed, n=3)
    listed = ", ".join(close) if close else ", ".join(f"{k} ({name})" for k, name in enumerate(passed))
    which = "no such layer that the whole logit passes through" if whole else "no such layer that gives maps"
    return f"{which}; there are {listed}"


def _chosen(at: _Layer, neuron: Neuron) -> tuple[tuple[int, int] | None, Tensor, float]:
    """Where a neuron is, its activation with its graph, and the activation. Raises ValueError."""
    maps = at.held.arranged(at.output[0])
    position = _position(neuron, maps, at.name)
    values = maps[neuron.channel] if position is None else maps[neuron.channel][position]
    return position, values.sum(), float(values.detach().double().sum())


def _position(neuron: Neuron, maps: Tensor, layer: str) -> tuple[int, int] | None:
    """Where a neuron is in the maps [C, h, w] of its layer; None for all positions. Raises ValueError."""
    C, h, w = maps.shape
    if not 0 <= neuron.channel < C:
        raise ValueError(f"no channel {neuron.channel}; {layer} has {C} channels, from 0 on, at {h} x {w} positions")
    if neuron.where == "sum":
        return None
    if neuron.where == "max":
        y, x = divmod(int(maps[neuron.channel].detach().reshape(-1).argmax()), w)
    else:
        y, x = neuron.where
    if not (0 <= y < h and 0 <= x < w):
        raise ValueError(f"no position {y},{x}; {layer} has {h} x {w} positions (y,x from 0 on) of {C} channels")
    return y, x


def _shared_out(at: _Layer, channel: int, position: tuple[int, int] | None, graph: Tensor, value: float) -> NeuronMap:
    """Share out a value over the input; ``graph`` is the same with its graph."""
    g, constants, size = _gradient(graph, at.input, at.below)
    products = products_of(at.input, g)
    tolerance = at.rtol * (float(products.abs().sum()) + size)
    residual = value - float(products.sum()) - constants
    pixels = at.held.arranged(products).sum(0)
    return NeuronMap(at.name, channel, position, value, pixels, constants, residual, tolerance)


def _gradient(value: Tensor, leaf: Tensor, constants: Sequence[Constant]) -> tuple[Tensor, float, float]:
    """The gradient of a value in one tensor, and the sum and the size of the shares of constants."""
    leaves: list[Any] = [leaf, *(c.edge for c in constants)]
    g, *of_constants = torch.autograd.grad(value, leaves, retain_graph=True, allow_unused=True)
    sums = torch.zeros(2, dtype=torch.float64)
    for c, gradient in zip(constants, of_constants, strict=True):
        sums += constant_sums(c.value, None if gradient is None else gradient[None], 1, 1)[0, 0].cpu()
    return torch.zeros_like(leaf) if g is None else g, *sums.tolist()
