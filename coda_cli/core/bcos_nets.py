"""B-cos networks, versions 1 and 2, as builder functions. Submodules are called as in the published files' keys.

All take the six-channel encoding and return logits [B, classes]. They share one form: a backbone, a classifier that is
one more B-cos layer applied at every position, then the mean over positions, ``/ temperature + bias``. A vision
transformer takes the mean over its tokens first. No layer has an activation or an additive bias.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from coda_cli.core.bcos import (
    Attention,
    BcosConv2d,
    BcosLinear,
    ImageNorm2d,
    PositionNorm2d,
    TokenNorm,
    UncentredBatchNorm2d,
    v1_scale,
)
from coda_cli.core.held import add_constant

Conv = Callable[..., BcosConv2d]  # (in_channels, out_channels, kernel_size, stride=, padding=, groups=)
Norm = Callable[[int], nn.Module]
NORMS: dict[str, Callable[..., nn.Module]] = {"bnu": UncentredBatchNorm2d, "pn": PositionNorm2d, "none": nn.Identity}


def conv_of(b: float = 2.0, max_out: int = 1, scale_factor: float | None = None) -> Conv:
    """The convolution of a network: version 1 has ``max_out`` 2 and a ``scale_factor``, version 2 neither."""

    def conv(C: int, O: int, k: int | tuple[int, int], **geometry: int | tuple[int, int]) -> BcosConv2d:
        scale = 1.0 if scale_factor is None else v1_scale(k, C, scale_factor)
        return BcosConv2d(C, O, k, b=b, max_out=max_out, scale=scale, **geometry)  # type: ignore[arg-type]

    return conv


class BcosNet(nn.Module):
    """A backbone that gives a map [B, classes, H', W'] or logits [B, classes]; then mean, temperature and bias."""

    def __init__(self, backbone: nn.Module, *, temperature: float, bias: float) -> None:
        super().__init__()
        if not (math.isfinite(temperature) and temperature > 0 and math.isfinite(bias)):
            raise ValueError(f"expected a finite bias and a positive, finite temperature, got {bias} and {temperature}")
        self.backbone = backbone
        self.temperature, self.bias = temperature, bias

    def forward(self, x: Tensor) -> Tensor:
        """x float [B, 6, H, W] -> logits [B, classes]."""
        y: Tensor = self.backbone(x)
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
    """One layer after the other: the version 1 networks for CIFAR-10. The lists are those of ``networks.coda_net``."""
    if len(kernels) != len(strides) or len(kernels) + 1 != len(channels):
        raise ValueError(f"{len(kernels)} kernels need {len(kernels) + 1} channels and {len(kernels)} strides")
    table = zip(channels[:-1], channels[1:], kernels, strides, strict=True)
    layers = [
        BcosConv2d(C, O, k, stride=s, padding=(k - 1) // 2, b=b, max_out=max_out, scale=scale) for C, O, k, s in table
    ]
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
    """ResNet with ``blocks`` per stage; ``groups`` 32 makes it ResNeXt 32 x 4d."""
    net = _ResNet(blocks, classes, conv_of(b, max_out, scale_factor), NORMS[norm], bottleneck, groups)
    return BcosNet(net, temperature=temperature, bias=bias)


# ---- DenseNet --------------------------------------------------------------------------------------------------------


class _DenseLayer(nn.Module):
    def __init__(self, C: int, growth: int, conv: Conv, norm: Norm) -> None:
        super().__init__()
        self.norm1, self.conv1 = norm(C), conv(C, 4 * growth, 1)
        self.norm2, self.conv2 = norm(4 * growth), conv(4 * growth, growth, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.norm2(self.conv1(self.norm1(x))))
        return torch.cat([x, y], 1)


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
    """DenseNet with ``blocks`` layers per block, each adding ``growth`` channels to what it sees."""
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
            transition = nn.Sequential()
            transition.add_module("norm", normed(C))
            transition.add_module("conv", conv(C, C // 2, 1))
            transition.add_module("pool", nn.AvgPool2d(2))
            features.add_module(f"transition{i}", transition)
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
    """VGG-11, its fully connected layers as convolutions."""
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


# ---- Inception v3 ----------------------------------------------------------------------------------------------------


class _Named(nn.Module):
    """A convolution under the name ``conv``, as the published keys have it."""

    def __init__(self, conv: BcosConv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return y


class _Mixed(nn.Module):
    """Branches side by side. A branch is a list of steps: the names of convolutions, None for a pool, or a fork."""

    def __init__(self, branches: Sequence[Sequence[object]], pool: nn.Module) -> None:
        super().__init__()
        self.branches, self.pool = branches, pool

    def _run(self, x: Tensor, step: object) -> Tensor:
        if step is None:
            y: Tensor = self.pool(x)
            return y
        if isinstance(step, tuple):
            return torch.cat([self._run(x, part) for part in step], 1)
        y = self.get_submodule(str(step))(x)
        return y

    def forward(self, x: Tensor) -> Tensor:
        outputs = []
        for branch in self.branches:
            y = x
            for step in branch:
                y = self._run(y, step)
            outputs.append(y)
        return torch.cat(outputs, 1)


def bcos_inception(
    *,
    classes: int,
    bias: float,
    b: float = 2.0,
    max_out: int = 2,
    scale_factor: float | None = 200.0,
    temperature: float = 1.0,
) -> BcosNet:
    """Inception v3 without its auxiliary head, which only training uses."""
    conv = conv_of(b, max_out, scale_factor)
    net = nn.Sequential()

    def add(
        to: nn.Module, name: str, C: int, O: int, k: int | tuple[int, int], stride: int = 1, pad: bool = True
    ) -> None:
        kh, kw = (k, k) if isinstance(k, int) else k
        padding = (kh // 2, kw // 2) if pad else (0, 0)
        to.add_module(name, _Named(conv(C, O, k, stride=stride, padding=padding)))

    def mixed(name: str, convolutions: dict[str, tuple[int, int, int | tuple[int, int]]],
              branches: Sequence[Sequence[object]], strided: Sequence[str] = ()) -> None:  # fmt: skip
        pool = nn.AvgPool2d(3, 2) if strided else nn.AvgPool2d(3, 1, 1)
        module = _Mixed(branches, pool)
        for key, (C, O, k) in convolutions.items():
            add(module, key, C, O, k, 2 if key in strided else 1, key not in strided)
        net.add_module(name, module)

    add(net, "Conv2d_1a_3x3", 6, 32, 3, 2, False)
    add(net, "Conv2d_2a_3x3", 32, 32, 3, 1, False)
    add(net, "Conv2d_2b_3x3", 32, 64, 3)
    net.add_module("pool1", nn.AvgPool2d(3, 2))
    add(net, "Conv2d_3b_1x1", 64, 80, 1)
    add(net, "Conv2d_4a_3x3", 80, 192, 3, 1, False)
    net.add_module("pool2", nn.AvgPool2d(3, 2))
    C = 192
    for name, pooled in (("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64)):
        mixed(name, {
            "branch1x1": (C, 64, 1), "branch5x5_1": (C, 48, 1), "branch5x5_2": (48, 64, 5),
            "branch3x3dbl_1": (C, 64, 1), "branch3x3dbl_2": (64, 96, 3), "branch3x3dbl_3": (96, 96, 3),
            "branch_pool": (C, pooled, 1),
        }, [["branch1x1"], ["branch5x5_1", "branch5x5_2"], ["branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"],
            [None, "branch_pool"]])  # fmt: skip
        C = 224 + pooled
    mixed("Mixed_6a", {
        "branch3x3": (C, 384, 3), "branch3x3dbl_1": (C, 64, 1), "branch3x3dbl_2": (64, 96, 3),
        "branch3x3dbl_3": (96, 96, 3),
    }, [["branch3x3"], ["branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"], [None]],
        ("branch3x3", "branch3x3dbl_3"))  # fmt: skip
    C = 768
    for name, c in (("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)):
        mixed(name, {
            "branch1x1": (C, 192, 1), "branch7x7_1": (C, c, 1), "branch7x7_2": (c, c, (1, 7)),
            "branch7x7_3": (c, 192, (7, 1)), "branch7x7dbl_1": (C, c, 1), "branch7x7dbl_2": (c, c, (7, 1)),
            "branch7x7dbl_3": (c, c, (1, 7)), "branch7x7dbl_4": (c, c, (7, 1)), "branch7x7dbl_5": (c, 192, (1, 7)),
            "branch_pool": (C, 192, 1),
        }, [["branch1x1"], [f"branch7x7_{i}" for i in (1, 2, 3)], [f"branch7x7dbl_{i}" for i in (1, 2, 3, 4, 5)],
            [None, "branch_pool"]])  # fmt: skip
    mixed("Mixed_7a", {
        "branch3x3_1": (C, 192, 1), "branch3x3_2": (192, 320, 3), "branch7x7x3_1": (C, 192, 1),
        "branch7x7x3_2": (192, 192, (1, 7)), "branch7x7x3_3": (192, 192, (7, 1)), "branch7x7x3_4": (192, 192, 3),
    }, [["branch3x3_1", "branch3x3_2"], [f"branch7x7x3_{i}" for i in (1, 2, 3, 4)], [None]],
        ("branch3x3_2", "branch7x7x3_4"))  # fmt: skip
    C = 1280
    for name in ("Mixed_7b", "Mixed_7c"):
        mixed(name, {
            "branch1x1": (C, 320, 1), "branch3x3_1": (C, 384, 1), "branch3x3_2a": (384, 384, (1, 3)),
            "branch3x3_2b": (384, 384, (3, 1)), "branch3x3dbl_1": (C, 448, 1), "branch3x3dbl_2": (448, 384, 3),
            "branch3x3dbl_3a": (384, 384, (1, 3)), "branch3x3dbl_3b": (384, 384, (3, 1)), "branch_pool": (C, 192, 1),
        }, [["branch1x1"], ["branch3x3_1", ("branch3x3_2a", "branch3x3_2b")],
            ["branch3x3dbl_1", "branch3x3dbl_2", ("branch3x3dbl_3a", "branch3x3dbl_3b")],
            [None, "branch_pool"]])  # fmt: skip
        C = 2048
    net.add_module("fc", conv(C, classes, 1))
    return BcosNet(net, temperature=temperature, bias=bias)


# ---- ConvNeXt --------------------------------------------------------------------------------------------------------


class _ConvNeXtBlock(nn.Module):
    def __init__(self, dim: int, conv: Conv, norm: Norm) -> None:
        super().__init__()
        self.layer_scale = nn.Parameter(torch.full((dim, 1, 1), 1e-6))
        self.block = nn.Sequential(
            conv(dim, dim, 7, padding=3, groups=dim), norm(dim), conv(dim, 4 * dim, 1), conv(4 * dim, dim, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.layer_scale * self.block(x)
        return y


def bcos_convnext(
    *, dims: Sequence[int], blocks: Sequence[int], classes: int, bias: float, norm: str = "pn", b: float = 2.0,
    temperature: float = 1.0,
) -> BcosNet:  # fmt: skip
    """ConvNeXt with ``blocks`` of width ``dims`` per stage."""
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


# ---- vision transformers ---------------------------------------------------------------------------------------------


def positional_embedding(rows: int, columns: int, dim: int, like: Tensor) -> Tensor:
    """Sines and cosines of a token's column and row, [rows * columns, dim]; tokens row by row."""
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    omega = 10000 ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim // 4 - 1))
    xs, ys = (t.flatten()[:, None].double() * omega for t in (x, y))
    return torch.cat([xs.sin(), xs.cos(), ys.sin(), ys.cos()], 1).to(like)


class _Patches(nn.Module):
    """Square patches [B, C, H, W] -> [B, tokens, dim]: within a patch by row, column, channel."""

    def __init__(self, patch: int, dim: int, b: float) -> None:
        super().__init__()
        self.patch = patch
        self.linear = BcosLinear(6 * patch * patch, dim, b=b)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        p = self.patch
        rows, columns = x.shape[2] // p, x.shape[3] // p
        if x.shape[2] % p or x.shape[3] % p or not rows or not columns:
            raise ValueError(f"{x.shape[2]} x {x.shape[3]} pixels are not whole patches of {p} x {p}")
        cut = x.unflatten(3, (columns, p)).unflatten(2, (rows, p))  # [B, C, rows, p, columns, p]
        return self.linear(cut.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)), (rows, columns)


class _Stem(nn.Module):
    """Convolutions down to the tokens' grid, of stride 2 wherever the channels grow; one token per position."""

    def __init__(self, channels: Sequence[int], dim: int, b: float) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for C, O in zip([6, *channels[:-1]], channels, strict=True):
            layers += [BcosConv2d(C, O, 3, stride=2 if O > C else 1, padding=1, b=b), ImageNorm2d(O), nn.Identity()]
        self.conv_stem = nn.Sequential(*layers)
        self.linear = BcosLinear(channels[-1], dim, b=b)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        y = self.conv_stem(x)
        return self.linear(y.flatten(2).transpose(1, 2)), (y.shape[2], y.shape[3])


class _Feed(nn.Module):
    def __init__(self, dim: int, hidden: int, b: float) -> None:
        super().__init__()
        self.net = nn.Sequential()
        self.net.add_module("norm", TokenNorm(dim))
        self.net.add_module("linear1", BcosLinear(dim, hidden, b=b))
        self.net.add_module("linear2", BcosLinear(hidden, dim, b=b))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.net(x)
        return y


class _Encoder(nn.Module):
    def __init__(self, dim: int, heads: int, hidden: int, b: float) -> None:
        super().__init__()
        self.attn, self.ff = Attention(dim, heads, b=b), _Feed(dim, hidden, b)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(x)
        y: Tensor = x + self.ff(x)
        return y


class _Transformer(nn.Module):
    def __init__(self, embedding: nn.Module, dim: int, depth: int, hidden: int, classes: int, b: float) -> None:
        super().__init__()
        self.dim = dim
        self.to_patch_embedding = embedding
        self.transformer = nn.Sequential()
        for i in range(depth):
            self.transformer.add_module(f"encoder_{i}", _Encoder(dim, dim // 64, hidden, b))
        self.linear_head = nn.Sequential()
        self.linear_head.add_module("norm", TokenNorm(dim))
        self.linear_head.add_module("linear", BcosLinear(dim, classes, b=b))

    def forward(self, x: Tensor) -> Tensor:
        tokens, grid = self.to_patch_embedding(x)
        tokens = add_constant(tokens, positional_embedding(grid[0], grid[1], self.dim, tokens))
        y: Tensor = self.linear_head(self.transformer(tokens).mean(1))
        return y


def bcos_vit(
    *, dim: int, depth: int, classes: int, bias: float, patch: int | None = None, stem: Sequence[int] | None = None,
    hidden: int | None = None, b: float = 2.0, temperature: float = 1.0,
) -> BcosNet:  # fmt: skip
    """SimpleViT on square patches of ``patch`` pixels, or ViT-C behind a convolutional ``stem`` (its channels)."""
    if (patch is None) == (stem is None) or dim % 64:
        raise ValueError("expected a patch size or a stem, and a width that is a multiple of 64")
    embedding: nn.Module = _Patches(patch, dim, b) if patch else _Stem(list(stem or ()), dim, b)
    return BcosNet(
        _Transformer(embedding, dim, depth, hidden or 4 * dim, classes, b), temperature=temperature, bias=bias
    )
