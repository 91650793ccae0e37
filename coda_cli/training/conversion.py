"""B-cos networks that start as ordinary ones: what they start with, and what they learn from the ordinary network."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coda_cli.core.backbones import backbone, normalisation
from coda_cli.core.bcos_nets import BcosNet
from coda_cli.core.bcosified import CentredNet, bcosify
from coda_cli.core.standard_nets import StandardNet
from coda_cli.training.datasets import Split
from coda_cli.training.features import classifier_to_start_with
from coda_cli.training.origins import BELOW, Origin
from coda_cli.training.recipes import Recipe


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


def logits_and_map(model: CentredNet, x: Tensor) -> tuple[Tensor, Tensor]:
    """Compute logits, and the last map before them.

    Args:
        model: a converted network.
        x: encoded pictures, float [B, 6, H, W].

    Returns:
        Logits [B, classes], and the map [B, C, h, w].
    """
    layers, net = _layers(model), model.above
    assert isinstance(net, BcosNet)
    a: Tensor = layers[:-1](model.to_cut(x))
    return net.logits_of(layers[-1](a)), a


def misalignment(a: Tensor, b: Tensor) -> Tensor:
    """Measure how far the directions of two maps are apart.

    Args:
        a: [B, C, h, w].
        b: of the same shape.

    Returns:
        1 less the cosine at every position, the mean of all; in [0, 2].
    """
    return 1 - F.cosine_similarity(a.float(), b.float(), dim=1).mean()


def _layers(model: CentredNet) -> nn.Sequential:
    layers = model.above.backbone
    assert isinstance(layers, nn.Sequential)
    return layers
