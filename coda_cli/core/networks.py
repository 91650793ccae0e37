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
from coda_cli.core.backbones import backbone as resnet
from coda_cli.core.bcos_inception import bcos_inception
from coda_cli.core.blur import Blur
from coda_cli.core.dau import DAUConv2d
from coda_cli.core.hybrid import HybridNet
from coda_cli.machine import budget
from coda_cli.machine.lanes import each, parts
from coda_cli.machine.memory import as_many_as_fit
from coda_cli.machine.precision import true_float32

BIAS = math.log(0.1 / 0.9)  # unless told otherwise: a class has probability 0.1 where a picture holds no evidence


def encode(rgb: Tensor) -> Tensor:
    """Six-channel encoding of sRGB: uint8 or float [B, 3, H, W] -> float32 [B, 6, H, W] in [0, 1], r g b 1-r 1-g 1-b.

    uint8 is divided by 255; floats must already lie in [0, 1] and keep their type. With ``1 - x`` beside ``x`` a dark
    pixel can carry as much evidence as a bright one (CVPR 2021, section 4). Raises ValueError for other integer types.
    """
    if rgb.dtype != torch.uint8 and not rgb.is_floating_point():
        raise ValueError(f"expected uint8 or floating pixels, got {rgb.dtype}")
    x = rgb.to(torch.float32) / 255 if rgb.dtype == torch.uint8 else rgb
    return torch.cat([x, 1 - x], 1)


@torch.no_grad()
def classify(
    model: nn.Module, pictures: Tensor, batch: int | None = None, on_step: Callable[[int, int], None] | None = None
) -> Tensor:
    """Logits [N, classes] of pictures uint8 [N, 3, H, W], ``batch`` at a time, else by size; on the model's device.

    ``on_step`` hears how many are done, and of how many.
    """
    device, logits = next(model.parameters(), pictures).device, []
    batch = batch or budget.classified_at_once(pictures.shape[2] * pictures.shape[3])
    for n, part in enumerate(pictures.split(batch)):
        logits.append(forward(model, encode(part.to(device)).contiguous(memory_format=torch.channels_last)))
        if on_step:
            on_step(n * batch + len(part), len(pictures))
    return torch.cat(logits)


def forward(model: nn.Module, x: Tensor) -> Tensor:
    """Logits [B, classes] of encoded pictures x float [B, C, h, w]; a part of the batch for every core.

    Where memory does not hold the batch it is computed in halves; see ``as_many_as_fit``.
    """
    size = x.shape[3], x.shape[2]
    with true_float32():
        return torch.cat(as_many_as_fit(model, x, size, lambda some: each(model, parts(some))))


class CodaNet(nn.Module):
    """A CoDA-Net: DAU layers one after the other, the sum over positions, divided by the temperature, plus the bias.

    Input float [B, C, H, W], any H and W; output logits [B, classes]. The logits grow with the picture's area, since
    the pooling is a sum. ``bias`` is one number for all classes.
    """

    def __init__(self, layers: Sequence[nn.Module], *, temperature: float, bias: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.temperature, self.bias = temperature, bias

    def forward(self, x: Tensor) -> Tensor:
        """x float [B, C, H, W] -> logits [B, classes]."""
        y: Tensor = self.layers(x)
        return y.sum((2, 3)) / self.temperature + self.bias

    def logits_and_rows(self, x: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, classes], and the dynamic weights W(x) [B, K, C, h, w] of ``classes`` int64 [B, K], with a graph.

        Gradients of the latter reach the parameters, second derivatives: for losses on W(x), in training.
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
    """A CoDA-Net from its table: ``channels`` has one entry more than the others, the last is the class count.

    ``paddings`` default to (k - 1) // 2, ``groups`` (of the second convolution) to 1. ``antialias`` puts a ``Blur``
    before every strided layer, which keeps the grid of the stride out of the maps; no published network has it. Raises
    ValueError when the lists' lengths disagree, the temperature is not positive, or it or the bias is not finite.
    """
    if not (math.isfinite(temperature) and temperature > 0 and math.isfinite(bias)):
        raise ValueError(f"expected a finite bias and a positive, finite temperature, got {bias} and {temperature}")
    n = len(kernels)
    paddings = [(k - 1) // 2 for k in kernels] if paddings is None else paddings
    groups = [1] * n if groups is None else groups
    lengths = [len(channels) - 1, len(strides), len(ranks), len(paddings), len(groups)]
    if any(length != n for length in lengths):
        raise ValueError(
            f"{n} kernels need {n + 1} channels and {n} strides, ranks, paddings and groups; got "
            f"{len(channels)}, {', '.join(map(str, lengths[1:]))}"
        )
    layers: list[nn.Module] = []
    for i in range(n):
        if antialias and strides[i] > 1:
            layers.append(Blur(channels[i]))
        layer = DAUConv2d(channels[i], channels[i + 1], kernels[i], ranks[i], stride=strides[i], padding=paddings[i],
                          norm=norm, groups=groups[i])  # fmt: skip
        layers.append(layer)
    return CodaNet(layers, temperature=temperature, bias=bias)


def hybrid_net(*, backbone: str, cut: str, channels: Sequence[int], **table: Any) -> HybridNet:
    """CoDA layers on a ResNet up to and with its stage ``cut``; see ``backbones.backbone`` for its names.

    ``channels`` and ``table`` are the CoDA layers', as of ``coda_net``; the first of ``channels`` is the backbone's
    last. Raises ValueError when they do not fit.
    """
    below, width = resnet(backbone, cut)
    if channels[0] != width:
        raise ValueError(f"{backbone} has {width} channels at {cut}; the CoDA layers expect {channels[0]}")
    return HybridNet(standard_nets.StandardNet(below), coda_net(channels=channels, **table), cut)


def hybrid_table(name: str, cut: str, temperature: float = 512.0) -> dict[str, Any]:
    """Arguments of a ``hybrid_net`` with three CoDA layers, 64 wide, but for the class count; ValueError as there."""
    with torch.device("meta"):  # only its width is asked for
        width = resnet(name, cut)[1]
    return {
        "backbone": name, "cut": cut, "channels": [width, 64, 64, 10], "kernels": [3, 3, 1], "strides": [1, 1, 1],
        "ranks": [32, 32, 32], "norm": "SQ", "temperature": temperature, "bias": BIAS,
    }  # fmt: skip


ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    "coda_net": coda_net,
    "hybrid": hybrid_net,
    "bcos_chain": bcos_nets.bcos_chain,
    "bcos_resnet": bcos_nets.bcos_resnet,
    "bcos_densenet": bcos_nets.bcos_densenet,
    "bcos_vgg": bcos_nets.bcos_vgg,
    "bcos_inception": bcos_inception,
    "bcos_convnext": bcos_nets.bcos_convnext,
    "bcos_vit": bcos_nets.bcos_vit,
    "standard_vit": standard_nets.standard_vit,
    "torchvision": standard_nets.torchvision_net,
}


def build(architecture: str, arguments: Mapping[str, Any]) -> nn.Module:
    """The network that a checkpoint's metadata describes, with freshly drawn weights.

    Raises ValueError for an architecture this version does not know or arguments that do not fit it.
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(f"architecture {architecture!r} is not known; known: {', '.join(ARCHITECTURES)}")
    try:
        return ARCHITECTURES[architecture](**arguments)
    except (TypeError, AttributeError, LookupError) as error:  # lists that are empty, numbers that are text, ...
        raise ValueError(f"arguments do not fit architecture {architecture!r}: {error}") from error
