"""B-cos Inception v3 (version 1): torchvision's blocks and names, of B-cos convolutions and average pools."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from coda_cli.core.bcos import BcosConv2d
from coda_cli.core.bcos_nets import BcosNet, Conv, conv_of

Side = int | tuple[int, int]
Shape = tuple[int, int, Side]  # input channels, output channels, kernel
Step = str | None | tuple[str, ...]  # a convolution by its name, the pool, or several convolutions side by side
Block = tuple[Mapping[str, Shape], Sequence[Sequence[Step]]]  # convolutions by name, and branches of steps


class _Named(nn.Module):
    """A convolution under the name ``conv``, as the published keys have it."""

    def __init__(self, conv: BcosConv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> [B, O, H', W']."""
        y: Tensor = self.conv(x)
        return y


def _named(conv: Conv, shape: Shape, stride: int = 1, padded: bool = True) -> _Named:
    """A convolution under that name, padded to keep the size or not at all."""
    C, O, k = shape
    kh, kw = (k, k) if isinstance(k, int) else k
    return _Named(conv(C, O, k, stride=stride, padding=(kh // 2, kw // 2) if padded else (0, 0)))


class _Mixed(nn.Module):
    """Branches side by side. The convolutions ``strided`` have stride 2 and no padding, and so has the pool then."""

    def __init__(self, conv: Conv, block: Block, strided: Sequence[str] = ()) -> None:
        super().__init__()
        convolutions, self.branches = block
        self.pool = nn.AvgPool2d(3, 2) if strided else nn.AvgPool2d(3, 1, 1)
        for name, shape in convolutions.items():
            self.add_module(name, _named(conv, shape, 2 if name in strided else 1, name not in strided))

    def _step(self, x: Tensor, step: Step) -> Tensor:
        """One step of a branch."""
        if isinstance(step, tuple):
            return torch.cat([self._step(x, part) for part in step], 1)
        y: Tensor = self.pool(x) if step is None else self.get_submodule(step)(x)
        return y

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> [B, O, H', W'], the branches' channels one after the other."""
        outputs = []
        for branch in self.branches:
            y = x
            for step in branch:
                y = self._step(y, step)
            outputs.append(y)
        return torch.cat(outputs, 1)


def _a(C: int, pooled: int) -> Block:
    """A block of the first size, on 35 x 35 positions in the original."""
    return {
        "branch1x1": (C, 64, 1), "branch5x5_1": (C, 48, 1), "branch5x5_2": (48, 64, 5),
        "branch3x3dbl_1": (C, 64, 1), "branch3x3dbl_2": (64, 96, 3), "branch3x3dbl_3": (96, 96, 3),
        "branch_pool": (C, pooled, 1),
    }, [["branch1x1"], ["branch5x5_1", "branch5x5_2"], ["branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"],
        [None, "branch_pool"]]  # fmt: skip


_B: Block = ({
    "branch3x3": (288, 384, 3), "branch3x3dbl_1": (288, 64, 1), "branch3x3dbl_2": (64, 96, 3),
    "branch3x3dbl_3": (96, 96, 3),
}, [["branch3x3"], ["branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"], [None]])  # fmt: skip


def _c(c: int) -> Block:
    """A block of the second size, with oblong kernels."""
    return {
        "branch1x1": (768, 192, 1), "branch7x7_1": (768, c, 1), "branch7x7_2": (c, c, (1, 7)),
        "branch7x7_3": (c, 192, (7, 1)), "branch7x7dbl_1": (768, c, 1), "branch7x7dbl_2": (c, c, (7, 1)),
        "branch7x7dbl_3": (c, c, (1, 7)), "branch7x7dbl_4": (c, c, (7, 1)), "branch7x7dbl_5": (c, 192, (1, 7)),
        "branch_pool": (768, 192, 1),
    }, [["branch1x1"], [f"branch7x7_{i}" for i in (1, 2, 3)], [f"branch7x7dbl_{i}" for i in (1, 2, 3, 4, 5)],
        [None, "branch_pool"]]  # fmt: skip


_D: Block = ({
    "branch3x3_1": (768, 192, 1), "branch3x3_2": (192, 320, 3), "branch7x7x3_1": (768, 192, 1),
    "branch7x7x3_2": (192, 192, (1, 7)), "branch7x7x3_3": (192, 192, (7, 1)), "branch7x7x3_4": (192, 192, 3),
}, [["branch3x3_1", "branch3x3_2"], [f"branch7x7x3_{i}" for i in (1, 2, 3, 4)], [None]])  # fmt: skip


def _e(C: int) -> Block:
    """A block of the last size, whose branches split once more."""
    return {
        "branch1x1": (C, 320, 1), "branch3x3_1": (C, 384, 1), "branch3x3_2a": (384, 384, (1, 3)),
        "branch3x3_2b": (384, 384, (3, 1)), "branch3x3dbl_1": (C, 448, 1), "branch3x3dbl_2": (448, 384, 3),
        "branch3x3dbl_3a": (384, 384, (1, 3)), "branch3x3dbl_3b": (384, 384, (3, 1)), "branch_pool": (C, 192, 1),
    }, [["branch1x1"], ["branch3x3_1", ("branch3x3_2a", "branch3x3_2b")],
        ["branch3x3dbl_1", "branch3x3dbl_2", ("branch3x3dbl_3a", "branch3x3dbl_3b")],
        [None, "branch_pool"]]  # fmt: skip


def bcos_inception(
    *,
    classes: int,
    bias: float,
    b: float = 2.0,
    max_out: int = 2,
    scale_factor: float | None = 200.0,
    temperature: float = 1.0,
) -> BcosNet:
    """Build Inception v3 without its auxiliary head, which only training uses.

    Args:
        classes: classes.
        bias: the constant of every logit.
        b: the exponent B.
        max_out: filters that compete for an output; 2 in version 1.
        scale_factor: see ``v1_scale``; None in version 2.
        temperature: what the logits are divided by, positive.

    Returns:
        The network, with freshly drawn weights.
    """
    conv = conv_of(b, max_out, scale_factor)
    layers: dict[str, nn.Module] = {
        "Conv2d_1a_3x3": _named(conv, (6, 32, 3), 2, False),
        "Conv2d_2a_3x3": _named(conv, (32, 32, 3), 1, False),
        "Conv2d_2b_3x3": _named(conv, (32, 64, 3)),
        "pool1": nn.AvgPool2d(3, 2),
        "Conv2d_3b_1x1": _named(conv, (64, 80, 1)),
        "Conv2d_4a_3x3": _named(conv, (80, 192, 3), 1, False),
        "pool2": nn.AvgPool2d(3, 2),
        "Mixed_5b": _Mixed(conv, _a(192, 32)),
        "Mixed_5c": _Mixed(conv, _a(256, 64)),
        "Mixed_5d": _Mixed(conv, _a(288, 64)),
        "Mixed_6a": _Mixed(conv, _B, ("branch3x3", "branch3x3dbl_3")),
        "Mixed_6b": _Mixed(conv, _c(128)),
        "Mixed_6c": _Mixed(conv, _c(160)),
        "Mixed_6d": _Mixed(conv, _c(160)),
        "Mixed_6e": _Mixed(conv, _c(192)),
        "Mixed_7a": _Mixed(conv, _D, ("branch3x3_2", "branch7x7x3_4")),
        "Mixed_7b": _Mixed(conv, _e(1280)),
        "Mixed_7c": _Mixed(conv, _e(2048)),
        "fc": conv(2048, classes, 1),
    }
    net = nn.Sequential()
    for name, layer in layers.items():
        net.add_module(name, layer)
    return BcosNet(net, temperature=temperature, bias=bias)
