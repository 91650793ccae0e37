"""Networks as builder functions out of layers. The published configurations are data: see published.py.

A network takes the six-channel encoding ``[x, 1 - x]`` (see ``encode``) and returns logits. Architectures are data:
``build(name, arguments)`` makes a network from what a checkpoint's metadata holds, all of it JSON.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from coda_cli.core import bcos_nets, standard_nets
from coda_cli.core.arguments import MAX_PARAMETERS, check_arguments, check_concepts
from coda_cli.core.backbones import backbone as conventional
from coda_cli.core.backbones import normalisation
from coda_cli.core.bcos_inception import bcos_inception
from coda_cli.core.bcosified import bcosified_net, bcosified_vit
from coda_cli.core.bcosified_clip import bcosified_clip
from coda_cli.core.bias_free import bias_free_net
from coda_cli.core.blur import Blur
from coda_cli.core.concepts import insert
from coda_cli.core.dau_layer import DAUConv2d
from coda_cli.core.hybrid import HybridNet
from coda_cli.core.vit import bcos_vit
from coda_cli.machine import budget
from coda_cli.machine.batches import rows

BIAS = math.log(0.1 / 0.9)  # unless told otherwise: a class has probability 0.1 where a picture holds no evidence


def encode(rgb: Tensor) -> Tensor:
    """Encode colours in six channels, r g b 1-r 1-g 1-b, as the networks take them.

    With ``1 - x`` beside ``x`` a dark pixel can carry as much evidence as a bright one.

    Args:
        rgb: sRGB [B, 3, H, W]: uint8, or floats in [0, 1].

    Returns:
        [B, 6, H, W] in [0, 1]: float32 of uint8, floats of their own type.

    Raises:
        ValueError: integers of another type.

    Source:
        CVPR 2021, section 4.
    """
    if rgb.dtype != torch.uint8 and not rgb.is_floating_point():
        raise ValueError(f"expected uint8 or floating pixels, got {rgb.dtype}")
    x = rgb.to(torch.float32) / 255 if rgb.dtype == torch.uint8 else rgb
    return torch.cat([x, 1 - x], 1)


@torch.no_grad()
def classify(
    model: nn.Module, pictures: Tensor, batch: int | None = None, on_step: Callable[[int, int], None] | None = None
) -> Tensor:
    """Compute the logits of many pictures, some at a time, on the model's device.

    Args:
        model: the network.
        pictures: uint8 [N, 3, H, W].
        batch: how many at a time; by their size unless given.
        on_step: called after each batch with how many are done, and of how many.

    Returns:
        logits [N, classes].
    """
    device, logits = next(model.parameters(), pictures).device, []
    batch = batch or budget.classified_at_once(pictures.shape[2] * pictures.shape[3])
    for n, part in enumerate(pictures.split(batch)):
        logits.append(forward(model, encode(part.to(device)).contiguous(memory_format=torch.channels_last)))
        if on_step:
            on_step(n * batch + len(part), len(pictures))
    return torch.cat(logits)


def forward(model: nn.Module, x: Tensor) -> Tensor:
    """Compute the logits of one batch; see ``machine.batches.rows``.

    Args:
        model: the network.
        x: encoded pictures, float [B, C, h, w].

    Returns:
        logits [B, classes].
    """
    return torch.stack(rows(model, x, model))


class CodaNet(nn.Module):
    """A CoDA-Net: DAU layers one after the other, the sum over positions, divided by the temperature, plus the bias.

    Input float [B, C, H, W], any H and W; output logits [B, classes]. The logits grow with the picture's area, since
    the pooling is a sum.

    Args:
        layers: DAU layers, and filters between them.
        temperature: what the sum is divided by.
        bias: the constant of every logit, one number for all classes.
    """

    def __init__(self, layers: Sequence[nn.Module], *, temperature: float, bias: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.temperature, self.bias = temperature, bias

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits.

        Args:
            x: encoded pictures, float [B, C, H, W] in [0, 1].

        Returns:
            logits [B, classes].
        """
        y: Tensor = self.layers(x)
        return y.sum((2, 3)) / self.temperature + self.bias

    def only(self, classes: Tensor) -> CodaNet:
        """Leave the other classes away: the work of the last layer is the less.

        Args:
            classes: int64 [K], the classes that stay, in the order in which their logits come.

        Returns:
            A network of these classes, with the same parameters.
        """
        *lower, last = self.layers
        assert isinstance(last, DAUConv2d)
        return CodaNet([*lower, last.only(classes)], temperature=self.temperature, bias=self.bias)

    def logits_and_rows(self, x: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Compute logits and rows of W(x), both with a graph: for losses on W(x), in training.

        Gradients of the rows reach the parameters; they are second derivatives.

        Args:
            x: encoded pictures, float [B, C, h, w].
            classes: int64 [B, K], the classes whose rows are asked for.

        Returns:
            logits [B, classes], and W(x) [B, K, C, h, w].
        """
        a, b = x, x.detach().clone().requires_grad_()
        b0 = b
        for layer in self.layers:
            b = layer.with_weights_of(a, b) if isinstance(layer, DAUConv2d) else layer(b)
            a = layer(a)
        chosen = (b.sum((2, 3)) / self.temperature).gather(1, classes)
        rows = [torch.autograd.grad(c.sum(), b0, create_graph=True)[0] for c in chosen.unbind(1)]
        return a.sum((2, 3)) / self.temperature + self.bias, torch.stack(rows, 1)


def coda_net(
    *,
    channels: Sequence[int],
    kernels: Sequence[int],
    strides: Sequence[int],
    ranks: Sequence[int],
    norm: str,
    temperature: float,
    bias: float = BIAS,
    paddings: Sequence[int] | None = None,
    groups: Sequence[int] | None = None,
    antialias: bool = False,
) -> CodaNet:
    """Build a CoDA-Net from its table.

    Args:
        channels: of the input and of every layer's output, one entry more than the other lists; the last is the number
            of classes.
        kernels: sides of the kernels in pixels.
        strides: strides in pixels.
        ranks: ranks of the dynamic weights.
        norm: "SQ" or "L2", see ``dau.scale_of_norm``.
        temperature: what the logits are divided by, positive.
        bias: the constant of every logit.
        paddings: pixels of zeros; (k - 1) // 2 unless given.
        groups: groups of the second convolution, see ``DAUConv2d``; 1 unless given.
        antialias: put a ``Blur`` before every strided layer, which keeps the grid of the stride out of the maps; no
            published network has it.

    Returns:
        The network, with freshly drawn weights.

    Raises:
        ValueError: the lists' lengths disagree, the temperature is not positive, or it or the bias is not finite.
    """
    if not (math.isfinite(temperature) and temperature > 0 and math.isfinite(bias)):
        raise ValueError(f"expected a finite bias and a positive, finite temperature, got {bias} and {temperature}")
    n = len(kernels)
    paddings = [(k - 1) // 2 for k in kernels] if paddings is None else paddings
    groups = [1] * n if groups is None else groups
    _check_lengths(n, channels, strides, ranks, paddings, groups)
    layers: list[nn.Module] = []
    for i in range(n):
        if antialias and strides[i] > 1:
            layers.append(Blur(channels[i]))
        layer = DAUConv2d(
            channels[i],
            channels[i + 1],
            kernels[i],
            ranks[i],
            stride=strides[i],
            padding=paddings[i],
            norm=norm,
            groups=groups[i],
        )
        layers.append(layer)
    return CodaNet(layers, temperature=temperature, bias=bias)


def _check_lengths(n: int, channels: Sequence[int], *others: Sequence[int]) -> None:
    """Raise ValueError when the lists of a table do not describe the same n layers."""
    lengths = [len(channels) - 1, *map(len, others)]
    if any(length != n for length in lengths):
        raise ValueError(
            f"{n} kernels need {n + 1} channels and {n} strides, ranks, paddings and groups; got "
            f"{len(channels)}, {', '.join(map(str, lengths[1:]))}"
        )


def hybrid_net(*, backbone: str, cut: str, channels: Sequence[int], dilated: bool = False, **table: Any) -> HybridNet:
    """Build CoDA layers on a conventional network up to and with one of its stages.

    Args:
        backbone: the network's name, see ``backbones.backbone``.
        cut: the stage.
        channels: of the CoDA layers, as of ``coda_net``; the first is the backbone's last.
        dilated: whether the backbone's last stride is taken away, see ``backbones.backbone``.
        table: the other arguments of ``coda_net``.

    Returns:
        The network, with freshly drawn weights.

    Raises:
        ValueError: they do not fit each other.
    """
    below, width = conventional(backbone, cut, dilated=dilated)
    if channels[0] != width:
        raise ValueError(f"{backbone} has {width} channels at {cut}; the CoDA layers expect {channels[0]}")
    seen = standard_nets.StandardNet(below, *(normalisation(backbone) or ()), splits=False)
    return HybridNet(seen, coda_net(channels=channels, **table), cut, folds=True)


def hybrid_table(name: str, cut: str, temperature: float = 512.0) -> dict[str, Any]:
    """Choose arguments of ``hybrid_net``: three CoDA layers, 64 channels wide.

    Args:
        name: the network's name, see ``backbones.backbone``.
        cut: its last stage.
        temperature: what the logits are divided by.

    Returns:
        The arguments; the last of "channels", the number of classes, is still to be set.

    Raises:
        ValueError: there is no such network or stage.
    """
    return _hybrid_table(name, cut, temperature) | {
        "channels": [width_at(name, cut), 64, 64, 10],
        "kernels": [3, 3, 1],
        "strides": [1, 1, 1],
        "ranks": [32, 32, 32],
        "bias": BIAS,
    }


def one_layer_table(
    name: str, cut: str, classes: int, temperature: float, *, rank: int, dilated: bool
) -> dict[str, Any]:
    """Choose arguments of ``hybrid_net``: a single CoDA layer that can start as the network's own linear classifier.

    Args:
        name: the network's name, see ``backbones.backbone``.
        cut: its last stage, before the pooling.
        classes: how many.
        temperature: what the logits are divided by.
        rank: of the dynamic weights.
        dilated: see ``hybrid_net``.

    Returns:
        The arguments. Where a picture holds no evidence, the probabilities of all classes sum to 1.

    Raises:
        ValueError: there is no such network or stage.
    """
    return _hybrid_table(name, cut, temperature) | {
        "channels": [width_at(name, cut), classes],
        "kernels": [1],
        "strides": [1],
        "ranks": [rank],
        "bias": -math.log(max(1, classes - 1)),
        "dilated": dilated,
    }


def _hybrid_table(name: str, cut: str, temperature: float) -> dict[str, Any]:
    return {"backbone": name, "cut": cut, "norm": "SQ", "temperature": temperature}


def width_at(name: str, cut: str) -> int:
    """Count the channels of a conventional network's stage.

    Args:
        name: the network's name, see ``backbones.backbone``.
        cut: the stage.

    Returns:
        The count.

    Raises:
        ValueError: there is no such network or stage.
    """
    with torch.device("meta"):  # only the width is asked for
        return conventional(name, cut)[1]


ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    "coda_net": coda_net,
    "hybrid": hybrid_net,
    "bcos_chain": bcos_nets.bcos_chain,
    "bcos_resnet": bcos_nets.bcos_resnet,
    "bcos_densenet": bcos_nets.bcos_densenet,
    "bcos_vgg": bcos_nets.bcos_vgg,
    "bcos_inception": bcos_inception,
    "bcos_convnext": bcos_nets.bcos_convnext,
    "bcos_vit": bcos_vit,
    "bcosified": bcosified_net,
    "bcosified_vit": bcosified_vit,
    "bcosified_clip": bcosified_clip,
    "bias_free": bias_free_net,
    "standard_vit": standard_nets.standard_vit,
    "torchvision": standard_nets.torchvision_net,
    "timm": standard_nets.timm_net,
    "efficientnet_lite": standard_nets.efficientnet_lite,
}


def build(architecture: str, arguments: Mapping[str, Any], concepts: Mapping[str, Any] | None = None) -> nn.Module:
    """Build the network that a checkpoint's metadata describes.

    Args:
        architecture: a key of ARCHITECTURES.
        arguments: of the function there.
        concepts: of ``concepts.insert``; None for a network without concepts.

    Returns:
        The network, with freshly drawn weights.

    Raises:
        ValueError: this version does not know the architecture, or the arguments do not fit it.
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(f"architecture {architecture!r} is not known; known: {', '.join(ARCHITECTURES)}")
    check_arguments(architecture, arguments)
    try:
        model = ARCHITECTURES[architecture](**arguments)
    except (TypeError, AttributeError, LookupError) as error:  # arguments that it has not, or lacks, ...
        raise ValueError(f"arguments do not fit architecture {architecture!r}: {error}") from error
    if concepts is not None:
        check_concepts(concepts)
        insert(model, **concepts)
    count = sum(parameter.numel() for parameter in model.parameters())
    if count > MAX_PARAMETERS:
        raise ValueError(f"arguments ask for {count} parameters; the limit is {MAX_PARAMETERS}")
    return model
