"""B-cos networks, versions 1 and 2, as builder functions. Submodules are called as in the published files' keys.

bcos_inception holds Inception v3, vit the transformers.

All take the six-channel encoding and return logits [B, classes]. They share one form: a backbone, a classifier that is
one more B-cos layer applied at every position, then the mean over positions, ``/ temperature + bias``. A vision
transformer takes the mean over its tokens first. No layer has an activation or an additive bias.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from coda_cli.core.bcos import BcosConv2d, BcosLinear, PositionNorm2d, UncentredBatchNorm2d, v1_scale
from coda_cli.core.folding import Folded

Conv = Callable[..., BcosConv2d]  # (in_channels, out_channels, kernel_size, stride=, padding=, groups=)
Norm = Callable[[int], nn.Module]
NORMS: dict[str, Callable[..., nn.Module]] = {"bnu": UncentredBatchNorm2d, "pn": PositionNorm2d, "none": nn.Identity}


def conv_of(b: float = 2.0, max_out: int = 1, scale_factor: float | None = None) -> Conv:
    """Choose the convolution of a network.

    Args:
        b: the exponent B.
        max_out: filters that compete for an output; 2 in version 1, 1 in version 2.
        scale_factor: see ``v1_scale``; version 2 has none.

    Returns:
        A function that makes a convolution of its sizes.
    """

    def conv(C: int, O: int, k: int | tuple[int, int], **geometry: int | tuple[int, int]) -> BcosConv2d:
        scale = 1.0 if scale_factor is None else v1_scale(k, C, scale_factor)
        return BcosConv2d(C, O, k, b=b, max_out=max_out, scale=scale, **geometry)  # type: ignore[arg-type]

    return conv


class BcosNet(nn.Module):
    """A B-cos network: a backbone, the mean over positions, a temperature and a bias.

    Args:
        backbone: gives a map of each class [B, classes, H', W'], or logits [B, classes].
        temperature: what the logits are divided by, positive.
        bias: the constant of every logit.

    Attributes:
        averages_class_maps: True, see ``abilities.averages_class_maps``.

    Raises:
        ValueError: the temperature is not positive, or it or the bias is not finite.
    """

    averages_class_maps = True

    def __init__(self, backbone: nn.Module, *, temperature: float, bias: float) -> None:
        super().__init__()
        if not (math.isfinite(temperature) and temperature > 0 and math.isfinite(bias)):
            raise ValueError(f"expected a finite bias and a positive, finite temperature, got {bias} and {temperature}")
        self.backbone = backbone
        first = next((m for m in backbone.modules() if isinstance(m, BcosConv2d | BcosLinear)), None)
        if first:
            first.full = True  # in bfloat16 the picture's own numbers make a third of all that maps are wrong by
        self.temperature, self.bias = temperature, bias
        self._folded = Folded()

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits.

        Args:
            x: encoded pictures, float [B, 6, H, W] in [0, 1].

        Returns:
            logits [B, classes].
        """
        return self.logits_of(self._folded.of(self.backbone)(x))

    def logits_of(self, y: Tensor) -> Tensor:
        """Compute the logits of what the backbone gives.

        Args:
            y: a map of each class [B, classes, H', W'], or logits [B, classes].

        Returns:
            logits [B, classes].
        """
        y = y.to(torch.promote_types(y.dtype, torch.float32))  # the bias takes bits that the rest needs
        return (y.mean((2, 3)) if y.ndim == 4 else y) / self.temperature + self.bias


def bcos_chain(
    *,
    channels: Sequence[int],
    kernels: Sequence[int],
    strides: Sequence[int],
    b: float,
    max_out: int,
    scale: float,
    temperature: float,
    bias: float,
) -> BcosNet:
    """Build one layer after the other: the version 1 networks for CIFAR-10.

    Args:
        channels: of the input and of every layer's output, one entry more than the other lists.
        kernels: sides of the kernels in pixels.
        strides: strides in pixels.
        b: the exponent B.
        max_out: filters that compete for an output; 2 in version 1.
        scale: what the outputs of each layer are divided by.
        temperature: what the logits are divided by, positive.
        bias: the constant of every logit.

    Returns:
        The network, with freshly drawn weights.

    Raises:
        ValueError: the lengths of the lists do not fit.
    """
    if len(kernels) != len(strides) or len(kernels) + 1 != len(channels):
        raise ValueError(f"{len(kernels)} kernels need {len(kernels) + 1} channels and {len(kernels)} strides")
    table = zip(channels[:-1], channels[1:], kernels, strides, strict=True)
    layers = [
        BcosConv2d(C, O, k, stride=s, padding=(k - 1) // 2, b=b, max_out=max_out, scale=scale) for C, O, k, s in table
    ]
    for n, layer in enumerate(layers[:3]):  # what the first ones lose is lost for all others
        layer.full, layer.keeps = True, n < 2
    return BcosNet(nn.Sequential(*layers), temperature=temperature, bias=bias)


# ---- ResNet ----------------------------------------------------------------------------------------------------------


class _Block(nn.Module):
    """A residual block, basic or bottleneck; the stride is on the (first) 3 x 3 convolution."""

    def __init__(self, C: int, planes: int, stride: int, conv: Conv, norm: Norm, bottleneck: bool, groups: int) -> None:
        super().__init__()
        out = planes * (4 if bottleneck else 1)
        if bottleneck:
            width = planes * (2 if groups > 1 else 1)
            shapes = [(C, width, 1, 1, 1), (width, width, 3, stride, groups), (width, out, 1, 1, 1)]
        else:
            shapes = [(C, planes, 3, stride, 1), (planes, planes, 3, 1, 1)]
        for i, (c, o, k, s, g) in enumerate(shapes, 1):
            self.add_module(f"conv{i}", conv(c, o, k, stride=s, padding=k // 2, groups=g))
            self.add_module(f"bn{i}", norm(o))
        self.count = len(shapes)
        self.downsample: nn.Module | None = None
        if stride > 1 or out != C:
            self.downsample = nn.Sequential(conv(C, out, 1, stride=stride), norm(out))

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for i in range(1, self.count + 1):
            y = self.get_submodule(f"bn{i}")(self.get_submodule(f"conv{i}")(y))
        return y + (x if self.downsample is None else self.downsample(x))


class _ResNet(nn.Sequential):
    """Stem, four stages, and the classifier ``fc``."""

    def __init__(
        self, blocks: Sequence[int], classes: int, conv: Conv, norm: Norm, bottleneck: bool, groups: int
    ) -> None:
        super().__init__()
        self.add_module("conv1", conv(6, 64, 7, stride=2, padding=3))
        self.add_module("bn1", norm(64))
        self.add_module("pool", nn.AvgPool2d(3, 2, 1))
        C = 64
        for stage, count in enumerate(blocks):
            planes, layers = 64 * 2**stage, []
            for j in range(count):
                stride = 2 if stage and j == 0 else 1
                layers.append(_Block(C, planes, stride, conv, norm, bottleneck, groups))
                C = planes * (4 if bottleneck else 1)
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
        self.add_module("fc", conv(C, classes, 1))


def bcos_resnet(
    *,
    blocks: Sequence[int],
    classes: int,
    bottleneck: bool,
    bias: float,
    groups: int = 1,
    norm: str = "bnu",
    b: float = 2.0,
    max_out: int = 1,
    scale_factor: float | None = None,
    temperature: float = 1.0,
) -> BcosNet:
    """Build a ResNet, or a ResNeXt.

    Args:
        blocks: residual blocks of each stage.
        classes: classes.
        bottleneck: whether blocks are bottlenecks of three convolutions, or basic ones of two.
        bias: the constant of every logit.
        groups: groups of channels; 32 makes it ResNeXt 32 x 4d.
        norm: the layers between: "bnu", "pn" or "none", see NORMS.
        b: the exponent B.
        max_out: filters that compete for an output; 2 in version 1.
        scale_factor: see ``v1_scale``; None in version 2.
        temperature: what the logits are divided by, positive.

    Returns:
        The network, with freshly drawn weights.
    """
    net = _ResNet(blocks, classes, conv_of(b, max_out, scale_factor), NORMS[norm], bottleneck, groups)
    return BcosNet(net, temperature=temperature, bias=bias)


# ---- DenseNet --------------------------------------------------------------------------------------------------------


class _DenseLayer(nn.Module):
    """Two convolutions whose output is put beside their input."""

    def __init__(self, C: int, growth: int, conv: Conv, norm: Norm) -> None:
        super().__init__()
        self.norm1, self.conv1 = norm(C), conv(C, 4 * growth, 1)
        self.norm2, self.conv2 = norm(4 * growth), conv(4 * growth, growth, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.norm2(self.conv1(self.norm1(x))))
        return torch.cat([x, y], 1)


def _transition(C: int, conv: Conv, norm: Norm) -> nn.Sequential:
    """What lies between two blocks: half of the channels and half of the size."""
    layers = nn.Sequential()
    layers.add_module("norm", norm(C))
    layers.add_module("conv", conv(C, C // 2, 1))
    layers.add_module("pool", nn.AvgPool2d(2))
    return layers


def bcos_densenet(
    *,
    blocks: Sequence[int],
    growth: int,
    first: int,
    classes: int,
    bias: float,
    norm: str = "bnu",
    b: float = 2.0,
    max_out: int = 1,
    scale_factor: float | None = None,
    temperature: float = 1.0,
) -> BcosNet:
    """Build a DenseNet.

    Args:
        blocks: layers of each block.
        growth: channels that a layer adds to what it sees.
        first: channels of the stem.
        classes: classes.
        bias: the constant of every logit.
        norm: the layers between: "bnu", "pn" or "none", see NORMS.
        b: the exponent B.
        max_out: filters that compete for an output; 2 in version 1.
        scale_factor: see ``v1_scale``; None in version 2.
        temperature: what the logits are divided by, positive.

    Returns:
        The network, with freshly drawn weights.
    """
    conv, normed = conv_of(b, max_out, scale_factor), NORMS[norm]
    features = nn.Sequential()
    features.add_module("conv0", conv(6, first, 7, stride=2, padding=3))
    features.add_module("norm0", normed(first))
    features.add_module("pool0", nn.AvgPool2d(3, 2, 1))
    C = first
    for i, count in enumerate(blocks, 1):
        block = nn.Sequential()
        for j in range(1, count + 1):
            block.add_module(f"denselayer{j}", _DenseLayer(C, growth, conv, normed))
            C += growth
        features.add_module(f"denseblock{i}", block)
        if i < len(blocks):
            features.add_module(f"transition{i}", _transition(C, conv, normed))
            C //= 2
    features.add_module("norm5", normed(C))
    net = nn.Sequential()
    net.add_module("features", features)
    net.add_module("classifier", conv(C, classes, 1))
    return BcosNet(net, temperature=temperature, bias=bias)


# ---- VGG -------------------------------------------------------------------------------------------------------------


def bcos_vgg(
    *,
    classes: int,
    bias: float,
    norm: str = "bnu",
    b: float = 2.0,
    max_out: int = 1,
    scale_factor: float | None = None,
    temperature: float = 1.0,
) -> BcosNet:
    """Build VGG-11, its fully connected layers as convolutions.

    Args:
        classes: classes.
        bias: the constant of every logit.
        norm: the layers between: "bnu", "pn" or "none", see NORMS.
        b: the exponent B.
        max_out: filters that compete for an output; 2 in version 1.
        scale_factor: see ``v1_scale``; None in version 2.
        temperature: what the logits are divided by, positive.

    Returns:
        The network, with freshly drawn weights.
    """
    conv, features = conv_of(b, max_out, scale_factor), nn.Sequential()
    C = 6
    for entry in (64, None, 128, None, 256, 256, None, 512, 512, None, 512, 512, None):
        if entry is None:
            features.append(nn.AvgPool2d(2))
            continue
        features.append(conv(C, entry, 3, padding=1))
        if norm != "none":
            features.append(NORMS[norm](entry))
        C = entry
    net = nn.Sequential()
    net.add_module("features", features)
    net.add_module(
        "classifier", nn.Sequential(conv(C, 4096, 7, padding=3), conv(4096, 4096, 1), conv(4096, classes, 1))
    )
    return BcosNet(net, temperature=temperature, bias=bias)


# ---- ConvNeXt --------------------------------------------------------------------------------------------------------


class _ConvNeXtBlock(nn.Module):
    """A residual block: each channel by itself in space, then channels among each other at every position."""

    def __init__(self, dim: int, conv: Conv, norm: Norm) -> None:
        super().__init__()
        self.layer_scale: nn.Parameter | None = nn.Parameter(torch.full((dim, 1, 1), 1e-6))  # None where it is folded
        self.block = nn.Sequential(
            conv(dim, dim, 7, padding=3, groups=dim), norm(dim), conv(dim, 4 * dim, 1), conv(4 * dim, dim, 1)
        )

    def take_scale(self) -> tuple[nn.Module, Tensor]:
        """The last layer, and what its outputs are multiplied by [dim], which from now on is done elsewhere."""
        assert self.layer_scale is not None
        scale, self.layer_scale = self.layer_scale.flatten(), None
        return self.block[-1], scale

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block(x)
        return x + (y.to(x.dtype) if self.layer_scale is None else self.layer_scale * y)


def bcos_convnext(
    *,
    dims: Sequence[int],
    blocks: Sequence[int],
    classes: int,
    bias: float,
    norm: str = "pn",
    b: float = 2.0,
    temperature: float = 1.0,
) -> BcosNet:
    """Build a ConvNeXt.

    Args:
        dims: channels of each stage.
        blocks: blocks of each stage.
        classes: classes.
        bias: the constant of every logit.
        norm: the layers between: "bnu", "pn" or "none", see NORMS.
        b: the exponent B.
        temperature: what the logits are divided by, positive.

    Returns:
        The network, with freshly drawn weights.
    """
    conv, normed = conv_of(b), NORMS[norm]
    features = nn.Sequential(conv(6, dims[0], 4, stride=4), normed(dims[0]))
    for stage, (dim, count) in enumerate(zip(dims, blocks, strict=True)):
        if stage:
            features.append(nn.Sequential(normed(dims[stage - 1]), conv(dims[stage - 1], dim, 2, stride=2)))
        features.append(nn.Sequential(*(_ConvNeXtBlock(dim, conv, normed) for _ in range(count))))
    net = nn.Sequential()
    net.add_module("features", features)
    net.add_module("classifier", nn.Sequential(normed(dims[-1]), conv(dims[-1], classes, 1)))
    return BcosNet(net, temperature=temperature, bias=bias)
