"""ReLU networks without any bias: exact down to the pixels as they are (Hesse, Schaub-Meyer and Roth, NeurIPS 2021).

    n = (x - mean) / deviation        logit = n . d logit / d n

Convolutions, ReLU, max and average pools scale with their input, so for one input the network is a linear map, and no
constant is left. Nothing has to be held. Networks are those of the authors: AlexNet and VGG without biases, and ResNets
without batch norms, which their initialisation (Fixup) made trainable.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from coda_cli.core.bcosified import CentredNet
from coda_cli.core.standard_nets import DEVIATION, MEAN


class _BiasFree(nn.Module):
    """A network of three channels, which sees r g b of the six; no constant, and the softmax as it was trained with."""

    bias = 0.0

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits.

        Args:
            x: encoded pictures less their mean, float [B, 6, H, W]; the last three channels are not seen.

        Returns:
            logits [B, classes].
        """
        logits: Tensor = self.backbone(x[:, :3])
        return logits

    def probabilities(self, logits: Tensor) -> Tensor:
        """Take the softmax.

        Args:
            logits: [B, classes].

        Returns:
            [B, classes] in [0, 1]; each row sums to 1.
        """
        return logits.softmax(1)


class _Bottleneck(nn.Module):
    """A residual block of three convolutions without norms; the stride is on the second."""

    def __init__(self, C: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(C, planes, 1, bias=False)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, 1, bias=False)
        self.conv3 = nn.Conv2d(planes, 4 * planes, 1, bias=False)
        self.downsample: nn.Module | None = None
        if stride > 1 or 4 * planes != C:
            self.downsample = nn.Conv2d(C, 4 * planes, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> [B, O, H', W']."""
        y = self.conv3(F.relu(self.conv2(F.relu(self.conv1(x)))))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


def _resnet(blocks: Sequence[int], classes: int) -> nn.Sequential:
    """Stem, four stages, the mean over positions and the classifier."""
    net = nn.Sequential()
    net.add_module("conv1", nn.Conv2d(3, 64, 7, 2, 3, bias=False))
    net.add_module("relu", nn.ReLU())
    net.add_module("maxpool", nn.MaxPool2d(3, 2, 1))
    C = 64
    for stage, count in enumerate(blocks):
        planes, layers = 64 * 2**stage, []
        for j in range(count):
            layers.append(_Bottleneck(C, planes, 2 if stage and j == 0 else 1))
            C = 4 * planes
        net.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
    net.add_module("avgpool", nn.AdaptiveAvgPool2d(1))
    net.add_module("flatten", nn.Flatten())
    net.add_module("fc", nn.Linear(C, classes, bias=False))
    return net


def _without_biases(model: nn.Module) -> nn.Module:
    """A network of torchvision without its biases, and with activations that keep what they are given."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.bias = None
        elif isinstance(module, nn.ReLU):
            module.inplace = False
    return model


NAMES = ("xalexnet", "xvgg16", "xfixup_resnet50")


def bias_free_net(*, name: str, classes: int) -> CentredNet:
    """Build a ReLU network without any bias.

    Args:
        name: one of NAMES, as the authors call them.
        classes: classes.

    Returns:
        The network, with freshly drawn weights.

    Raises:
        ValueError: there is no such network.

    Source:
        Hesse, Schaub-Meyer and Roth, Fast Axiomatic Attribution for Neural Networks, NeurIPS 2021.
    """
    if name not in NAMES:
        raise ValueError(f"expected one of {', '.join(NAMES)}, got {name!r}")
    if name == "xfixup_resnet50":
        backbone: nn.Module = _resnet([3, 4, 6, 3], classes)
    else:
        import torchvision

        backbone = _without_biases(
            torchvision.models.get_model(name.removeprefix("x"), weights=None, num_classes=classes)
        )
    return CentredNet(_BiasFree(backbone), MEAN, DEVIATION)
