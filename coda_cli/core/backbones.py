"""Conventional networks up to one of their stages: what hybrid CoDA-Nets stand on. No weights come with them."""

from __future__ import annotations

import difflib

import torch.nn.functional as F
from torch import Tensor, nn

from coda_cli.core import efficientnet_lite as lite

CUTS = ("layer1", "layer2", "layer3", "layer4")  # the stages of a ResNet; those for CIFAR end at layer3
CIFAR_DEPTHS = (20, 32, 44, 56)


def backbone(name: str, cut: str, *, dilated: bool = False) -> tuple[nn.Sequential, int]:
    """Build the layers of a network up to and with one of its stages, without trained weights.

    Args:
        name: cifar-resnet20, 32, 44 or 56, for small pictures, a ResNet of torchvision, or an EfficientNet-Lite.
        cut: the stage, one of CUTS, or of ``efficientnet_lite.LITE_CUTS``.
        dilated: take the last stride away and dilate what follows it: twice as many positions in each direction, and
            at every second of them the numbers that the network has with its stride.

    Returns:
        The layers, and how many channels they give.

    Raises:
        ValueError: there is no such network or stage, or it cannot be dilated.
    """
    if name in lite.SIZES:
        layers = lite.lite_layers(name, cut)
    else:
        layers = (_cifar_resnet if name.startswith("cifar-resnet") else _torchvision_resnet)(name, cut)
    if dilated:
        if name.startswith("cifar-resnet"):
            raise ValueError(f"{name} cannot be dilated: its shortcuts leave out every other position")
        dilate(layers)
    widths = [m.num_features for m in layers.modules() if isinstance(m, nn.BatchNorm2d)]
    return layers, widths[-1]


def normalisation(name: str) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Tell what a network's colours are normalised by.

    Args:
        name: of the network, as for ``backbone``.

    Returns:
        Mean and deviation of r, g and b; None stands for ImageNet's.
    """
    return (lite.MEAN, lite.DEVIATION) if name in lite.SIZES else None


def with_stride(name: str, a: Tensor) -> Tensor:
    """Pick the positions of a dilated backbone's map that the network has with its stride.

    Args:
        name: of the network, as for ``backbone``.
        a: its map [B, C, h, w] where it is dilated.

    Returns:
        [B, C, ceil(h / 2), ceil(w / 2)].
    """
    # "Same" padding puts the first window of an even length one further than that of an odd one.
    first, second = (1 - length % 2 if name in lite.SIZES else 0 for length in a.shape[2:])
    return a[:, :, first::2, second::2]


def dilate(layers: nn.Module) -> None:
    """Take the last stride away, and dilate the convolutions behind it.

    Args:
        layers: of a network; they are changed. Once more takes the stride before that away, too.
    """
    convolutions = [m for m in layers.modules() if isinstance(m, nn.Conv2d)]
    last = max(n for n, m in enumerate(convolutions) if m.stride[0] > 1 and m.kernel_size[0] > 1)
    for n, m in enumerate(convolutions[last:]):
        m.stride = (1, 1)  # of shortcuts too, which follow their block's convolutions
        if n and m.kernel_size[0] > 1:
            m.dilation = (2 * m.dilation[0], 2 * m.dilation[1])
            # A SameConv2d has no padding here: it finds it itself.
            m.padding = (2 * int(m.padding[0]), 2 * int(m.padding[1]))


class _CifarBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut without parameters: every other pixel, and zeros for new channels."""

    def __init__(self, C: int, O: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(C, O, 3, stride, 1, bias=False), nn.BatchNorm2d(O)
        self.conv2, self.bn2 = nn.Conv2d(O, O, 3, 1, 1, bias=False), nn.BatchNorm2d(O)
        # Modules, one for each use: DeepLIFT and guided backpropagation know them by their type and place.
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()
        self.stride, self.new = stride, O - C

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> [B, O, H', W']."""
        y = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        shortcut = x[:, :, :: self.stride, :: self.stride]
        out: Tensor = self.relu2(y + F.pad(shortcut, (0, 0, 0, 0, self.new // 2, self.new - self.new // 2)))
        return out


def _cifar_resnet(name: str, cut: str) -> nn.Sequential:
    """ResNets for 32 x 32 pixels, of three stages 16, 32 and 64 wide (He et al., CVPR 2016, section 4.2)."""
    known = {f"cifar-resnet{depth}": (depth - 2) // 6 for depth in CIFAR_DEPTHS}
    if name not in known or cut not in CUTS[:3]:
        raise ValueError(f"expected one of {', '.join(known)}, cut at {', '.join(CUTS[:3])}; got {name} at {cut}")
    layers = nn.Sequential()
    layers.add_module("conv1", nn.Conv2d(3, 16, 3, 1, 1, bias=False))
    layers.add_module("bn1", nn.BatchNorm2d(16))
    layers.add_module("relu", nn.ReLU())
    C = 16
    for stage in CUTS[: CUTS.index(cut) + 1]:
        O = 16 if stage == CUTS[0] else 2 * C
        blocks = [_CifarBlock(C, O, O // C)] + [_CifarBlock(O, O, 1) for _ in range(known[name] - 1)]
        layers.add_module(stage, nn.Sequential(*blocks))
        C = O
    return layers


def _torchvision_resnet(name: str, cut: str) -> nn.Sequential:
    """The same of torchvision's ResNets."""
    import torchvision

    if not name.startswith(("resnet", "resnext", "wide_resnet")) or cut not in CUTS:
        raise ValueError(f"expected a ResNet of torchvision, cut at {', '.join(CUTS)}; got {name} at {cut}")
    try:
        whole = torchvision.models.get_model(name, weights=None)
    except ValueError as error:
        known = [n for n in torchvision.models.list_models(torchvision.models) if "resne" in n]
        near = " or ".join(map(repr, difflib.get_close_matches(name, known, n=3))) or ", ".join(known)
        raise ValueError(f"torchvision has no {name!r}; did you mean {near}?") from error
    children = dict(whole.named_children())
    layers = nn.Sequential()
    for key in list(children)[: list(children).index(cut) + 1]:
        layers.add_module(key, children[key])
    return layers
