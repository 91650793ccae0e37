"""B-cos networks that start as ordinary ones: what they start with, and what they learn from the ordinary network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coda_cli.core.backbones import backbone, normalisation
from coda_cli.core.bcos_nets import BcosNet
from coda_cli.core.bcosified import CentredNet, bcosify
from coda_cli.core.networks import encode
from coda_cli.core.standard_nets import StandardNet
from coda_cli.training.datasets import Split
from coda_cli.training.features import classifier_to_start_with
from coda_cli.training.origins import BELOW, Origin
from coda_cli.training.recipes import Recipe

BLOCKS = 3.0  # how much the maps of all blocks count in training, where the last map counts 1


def ordinary_layers(origin: Origin) -> StandardNet:
    """Build the layers of an ordinary network up to its last map, with their trained weights.

    Args:
        origin: the ordinary network.

    Returns:
        The layers in eval mode: of encoded pictures [B, 6, H, W] the map [B, C, h, w].
    """
    layers, _ = backbone(origin.backbone, origin.cut)
    layers.load_state_dict({key.removeprefix(BELOW): value for key, value in origin.weights.items()})
    layers.to(memory_format=torch.channels_last)
    return StandardNet(layers, *(normalisation(origin.backbone) or ())).eval().requires_grad_(False)


def start_converted(model: CentredNet, origin: Origin, recipe: Recipe, data: Split) -> None:
    """Give a new B-cos network the weights of an ordinary one.

    Those of its last layer are the ordinary network's own where its classes are kept. For new classes they are those of
    a linear classifier that is fitted to the means of the ordinary network's maps, which the B-cos network learns to
    give.

    Args:
        model: the network, freshly drawn; it is changed.
        origin: what it starts from.
        recipe: of the run.
        data: the training pictures, on the model's device.
    """
    ordinary = ordinary_layers(origin).to(data.images.device)
    bias = float(model.bias)
    W = classifier_to_start_with(ordinary, origin, recipe, data, bias)
    last = nn.Linear(W.shape[1], W.shape[0])
    last.weight = nn.Parameter(W)
    layers = ordinary.backbone
    assert isinstance(layers, nn.Sequential)
    layers.add_module(list(_layers(model)._modules)[-1], last)
    model.load_state_dict(bcosify(layers, depthwise=recipe.arguments["depthwise"]).state_dict())


def maps_of(layers: nn.Sequential, x: Tensor) -> list[Tensor]:
    """Compute what the blocks of a network give, and its last layer.

    Args:
        layers: of an ordinary network or a converted one, which have the same blocks.
        x: what they take, float [B, C, h, w].

    Returns:
        The output of each module that has several parts, in order, and that of all layers.
    """
    found: list[Tensor] = []
    last = _through(layers, x, found)
    return [*found, last]


def _through(layers: nn.Sequential, x: Tensor, found: list[Tensor]) -> Tensor:
    """The output of layers; that of each block is also put into ``found``."""
    for layer in layers:
        if type(layer) is nn.Sequential:
            x = _through(layer, x, found)
        else:
            x = layer(x)
            if len(layer._modules) > 1:  # a B-cos convolution has one part, an ordinary one has none
                found.append(x)
    return x


def ordinary_maps(ordinary: StandardNet, pictures: Tensor, *, autocast: bool) -> list[Tensor]:
    """Compute what the blocks of the ordinary network give, and its last layer.

    Args:
        ordinary: see ``ordinary_layers``.
        pictures: uint8 or floats in [0, 1], [B, 3, H, W], on the layers' device.
        autocast: compute in bfloat16.

    Returns:
        See ``maps_of``.
    """
    layers = ordinary.backbone
    assert isinstance(layers, nn.Sequential)
    x = ordinary.normalised(encode(pictures)).contiguous(memory_format=torch.channels_last)
    with torch.no_grad(), torch.autocast(x.device.type, torch.bfloat16, enabled=autocast):
        return maps_of(layers, x)


def logits_and_maps(model: CentredNet, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Compute logits, and the maps before them.

    Args:
        model: a converted network.
        x: encoded pictures, float [B, 6, H, W].

    Returns:
        Logits [B, classes], and what ``maps_of`` gives.
    """
    layers, net = _layers(model), model.above
    assert isinstance(net, BcosNet)
    maps = maps_of(layers[:-1], model.to_cut(x))
    return net.logits_of(layers[-1](maps[-1])), maps


def misalignment(maps: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """Measure how far the directions of a network's maps are from those of another network.

    Of blocks the means of the channels do not count: without biases they are others. That is what the network is mostly
    trained by: of all blocks it takes a tenth of the pictures that it takes with the last map alone.

    Args:
        maps: what ``maps_of`` gives, each [B, C, h, w].
        wanted: of the same shapes.

    Returns:
        1 less the cosine at every position, the mean of all: that of the last map plus BLOCKS times that of the others.
    """
    last = _apart(maps[-1], wanted[-1])
    blocks = [_apart(_centred(a), _centred(b)) for a, b in zip(maps[:-1], wanted[:-1], strict=True)]
    return last + BLOCKS * torch.stack(blocks).mean() if blocks else last


def _apart(a: Tensor, b: Tensor) -> Tensor:
    return 1 - F.cosine_similarity(a.float(), b.float(), dim=1).mean()


def _centred(a: Tensor) -> Tensor:
    return a - a.mean((0, 2, 3), keepdim=True)


def _layers(model: CentredNet) -> nn.Sequential:
    layers = model.above.backbone
    assert isinstance(layers, nn.Sequential)
    return layers
