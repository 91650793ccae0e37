"""What is asked of the layers inside a network, and what they say about one input: layers, neurons, channels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from coda_cli.checkpoints.loading import Net
from coda_cli.core.concepts import concepts_left_out
from coda_cli.core.depth import LayerShare, shares_by_layer
from coda_cli.core.networks import forward
from coda_cli.core.neurons import ChannelShares, Neuron, NeuronMap, decompose_neurons, strongest_channels
from coda_cli.core.ordinary import layer_named
from coda_cli.errors import UsageError

if TYPE_CHECKING:
    from coda_cli.explanation.request import Request

LayerShares = tuple[tuple[LayerShare, ...], ...]  # for every target, a share for each layer
FORMS = "LAYER:CHANNEL, LAYER:CHANNEL:Y,X, LAYER:CHANNEL:sum or LAYER:top:K"


@dataclass(frozen=True)
class Asked:
    """One neuron, or the strongest channels of a layer, as somebody has written them.

    Attributes:
        text: what was written.
        layer: name or number of the layer.
        neuron: the neuron; None for the strongest channels.
        count: how many of the strongest channels; 0 for a neuron.
    """

    text: str
    layer: str
    neuron: Neuron | None
    count: int


@dataclass(frozen=True)
class Inside:
    """What neurons say about one input.

    Attributes:
        activations: of the neurons that were asked for.
        channels: for every target, the shares of the logit that the channels of layers have, a layer each.
    """

    activations: tuple[NeuronMap, ...] = ()
    channels: tuple[tuple[ChannelShares, ...], ...] = ()


def asked(text: str) -> Asked:
    """Read what a user writes for a neuron.

    Args:
        text: in one of FORMS; a channel alone means the position where it is strongest.

    Returns:
        The same in parts.

    Raises:
        UsageError: it is in none of them.
    """
    try:
        layer, channel, *where = text.split(":")
        if channel == "top":
            (count,) = where
            if layer and int(count) > 0:
                return Asked(text, layer, None, int(count))
        elif layer and len(where) < 2:
            return Asked(text, layer, _neuron(int(channel), *where), 0)
    except ValueError:
        pass
    raise UsageError(f"--neuron {text}: expected {FORMS}")


def _neuron(channel: int, where: str = "max") -> Neuron:
    """A neuron of a channel. Raises ValueError."""
    if where in ("max", "sum"):
        return Neuron(channel, where)  # type: ignore[arg-type]
    y, x = where.split(",")
    return Neuron(channel, (int(y), int(x)))


def look_inside(net: Net, x: Tensor, weights: Tensor, request: Request) -> tuple[LayerShares, Inside]:
    """Ask the layers inside a network what a request wants to know of them.

    Args:
        net: the network.
        x: one input, [1, 6, h, w].
        weights: [K, classes], the weightings of the logits that are explained.
        request: what is asked.

    Returns:
        What ``layer_shares`` gives, and what ``find`` gives.

    Raises:
        UsageError: there is no such layer or neuron.
    """
    tolerance = request.tolerance
    return layer_shares(net, x, weights, request.layer, tolerance), find(net, x, weights, request.neurons, tolerance)


@torch.no_grad()
def logits_without_concepts(net: Net, x: Tensor) -> list[Tensor | None]:
    """Compute the logits that a network with concepts has without them.

    Args:
        net: the network.
        x: encoded pictures, [B, 6, h, w].

    Returns:
        For each picture float64 [classes] on the CPU; None of a network that has no concepts.
    """
    if net.checkpoint.concepts is None:
        return [None] * len(x)
    with concepts_left_out():
        return [*forward(net.model, x).double().cpu()]


def find(net: Net, x: Tensor, weights: Tensor, texts: Sequence[str], tolerance: float | None) -> Inside:
    """Share out the neurons that are asked for, and the channels of the layers.

    Args:
        net: the network.
        x: one input, [1, 6, h, w].
        weights: [K, classes], the weightings of the logits that are explained.
        texts: what is asked for, each a text for ``asked``.
        tolerance: replaces the relative tolerance of the residuals.

    Returns:
        Everything once, also where it was asked for in two ways.

    Raises:
        UsageError: there is no such layer, channel or position, or the layer lies below the cut.
    """
    activations = dict[tuple[object, ...], NeuronMap]()
    channels = [dict[str, ChannelShares]() for _ in weights]
    for one in map(asked, texts):
        try:
            if one.neuron is not None:
                (found,) = decompose_neurons(net.model, x, one.layer, [one.neuron], relative_tolerance=tolerance)
                activations[found.layer, found.channel, found.position] = found
                continue
            for weighting, known in zip(weights, channels, strict=True):
                shares = strongest_channels(net.model, x, one.layer, weighting, one.count, relative_tolerance=tolerance)
                if shares.layer not in known or len(known[shares.layer].strongest) < one.count:
                    known[shares.layer] = shares
        except ValueError as error:
            raise UsageError(f"--neuron {one.text}: {error}") from error
    return Inside(tuple(activations.values()), tuple(tuple(known.values()) for known in channels))


def layer_shares(net: Net, x: Tensor, weights: Tensor, layer: str | None, tolerance: float | None) -> LayerShares:
    """Share out logits over the positions of the layers that are asked for.

    Args:
        net: the network.
        x: one input, [1, 6, h, w].
        weights: [K, classes], the weightings of the logits that are explained.
        layer: "all", a number counted from the input (0), or a name as for ``decompose_neurons``; None for nothing.
        tolerance: replaces the relative tolerance of the residuals.

    Returns:
        For each weighting its shares, from the input on; nothing for nothing.

    Raises:
        UsageError: there is no such layer that the whole logit passes through.
    """
    if layer is None:
        return ()
    every = [shares_by_layer(net.model, x, w, relative_tolerance=tolerance) for w in weights]
    meant = layer_named(layer, [s.name for s in every[0]]) if every else None
    chosen = [tuple(s for k, s in enumerate(e) if layer in ("all", str(k)) or s.name == meant) for e in every]
    if not all(chosen):
        names = ", ".join(f"{k} ({s.name})" for k, s in enumerate(every[0]))
        raise UsageError(f"--layer {layer}: no such layer that the whole logit passes through; there are {names}")
    return tuple(chosen)
