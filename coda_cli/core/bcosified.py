"""B-cosified networks: ordinary ones whose layers were made B-cos layers in place (Arya et al., NeurIPS 2024).

    n = (x - mean) / deviation        logit = sum(n * W(n)) + bias        y = |w . n| / |n|  w . n in every layer

Four things differ from a B-cos network of version 2, and the weights alone show none of them: filters keep their norms,
ReLU stays, the mean of the training pictures is subtracted first, and transformers take their mean after the last
layer. What is decomposed is the picture less the mean: the step before it is affine, and without it the contributions
do not sum to the logit. So a pixel of the mean colour contributes nothing.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from coda_cli.core import abilities
from coda_cli.core import efficientnet_lite as lite
from coda_cli.core.bcos import BcosConv2d, BcosLinear, HeldGELU, ImageNorm2d, TokenNorm, UncentredBatchNorm2d
from coda_cli.core.bcos_nets import BcosNet
from coda_cli.core.standard_nets import DEVIATION, MEAN
from coda_cli.core.vit import Kit, Transformer


class CentredNet(nn.Module):
    """A dynamic-linear network behind a step that subtracts a mean colour and divides by a deviation.

    Args:
        above: makes logits of the centred picture; it has a ``bias``.
        mean: r, g and b in [0, 1]; of the three channels ``1 - x`` it is ``1 - mean``.
        deviation: of r, g and b, positive; the same of ``1 - x``.

    Attributes:
        zero: the mean, see ``abilities.zero``.
    """

    def __init__(self, above: nn.Module, mean: Sequence[float], deviation: Sequence[float]) -> None:
        super().__init__()
        self.above, self.deviation = above, tuple(deviation)
        self.zero = tuple(mean)

    @property
    def bias(self) -> float:
        """The constant of every logit."""
        return abilities.bias_of(self.above)

    @property
    def temperature(self) -> float:
        """What the logits of the network above the step are divided by."""
        return float(self.above.temperature)  # type: ignore[arg-type]

    @property
    def averages_class_maps(self) -> bool:
        """See ``abilities.averages_class_maps``."""
        return abilities.averages_class_maps(self.above)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits.

        Args:
            x: encoded pictures, float [B, 6, H, W] in [0, 1].

        Returns:
            logits [B, classes].
        """
        logits: Tensor = self.above(self.to_cut(x))
        return logits

    def to_cut(self, x: Tensor) -> Tensor:
        """Subtract the mean and divide by the deviation: what comes after it is decomposed.

        Args:
            x: encoded pictures, float [B, 6, H, W] in [0, 1].

        Returns:
            [B, 6, H, W] of the type of ``x``.
        """
        mean = x.new_tensor([*self.zero, *(1 - m for m in self.zero)])[:, None, None]
        return (x - mean) / x.new_tensor(self.deviation * 2)[:, None, None]

    def probabilities(self, logits: Tensor) -> Tensor:
        """Turn logits into probabilities as the network above the step does.

        Args:
            logits: [B, classes].

        Returns:
            [B, classes] in [0, 1].
        """
        return abilities.probabilities(self.above, logits)


# ---- from ordinary networks ------------------------------------------------------------------------------------------


def bcosify(
    model: nn.Module,
    *,
    mean: Sequence[float] = MEAN,
    deviation: Sequence[float] = DEVIATION,
    bias: float | None = None,
    b: float = 2.0,
    depthwise: bool = True,
) -> CentredNet:
    """Convert an ordinary network into a B-cos network that starts from its weights.

    The first layer sees six channels and gives the same, for it is ``(W, -W) / 2`` and sees ``(n, -n)``. All biases are
    left out, those of batch norms with the means that they subtract. Max pools become average pools. The classifier
    becomes a convolution at every position, and the mean is taken after it. With the factor of the B-cos units, which
    is there from the first step on, the network computes something else than before: it has to be tuned.

    Args:
        model: a ResNet or DenseNet of torchvision, or a Sequential of convolutions, batch norms, ReLU, ReLU6, pools and
            blocks of these, that ends in a linear classifier; not modified. A convolution of another class, with zeros
            of its own around the input, needs a method ``padded`` that gives its input with the zeros.
        mean: r, g and b that its pictures are less of, in [0, 1].
        deviation: what they are divided by.
        bias: the constant of every logit; -ln(classes - 1) unless given, a probability of one among the classes.
        b: the exponent B; 1 makes every unit an ordinary linear one.
        depthwise: False leaves convolutions of each channel by itself ordinary ones, without a factor: nothing of
            exactness is lost, and a network that consists of them is some times faster.

    Returns:
        The network, with copies of the weights.

    Raises:
        ValueError: the network has a layer without a counterpart, or another form.

    Source:
        Arya, Rao, Böhle and Schiele, B-cosification, NeurIPS 2024, section 3.
    """
    backbone, count = _of_layers(copy.deepcopy(_layers(model)), b, depthwise)
    return _with_mean(backbone, count, mean, deviation, bias)


def _of_layers(layers: nn.Sequential, b: float, depthwise: bool) -> tuple[nn.Sequential, int]:
    """The B-cos layers in the place of others, which are used up, and the number of classes. Raises ValueError."""
    *names, last = layers._modules
    classifier = layers._modules[last]
    if not names or not isinstance(classifier, nn.Linear):
        raise ValueError("the network does not end in a linear classifier, and cannot be converted")
    backbone = nn.Sequential()
    for name in names:
        backbone.add_module(name, _converted(layers.get_submodule(name), b, depthwise))
    head = BcosConv2d(classifier.in_features, classifier.out_features, 1, b=b, unit=False)
    head.linear.weight = nn.Parameter(classifier.weight.detach()[:, :, None, None])
    backbone.add_module(last, head)
    return backbone, classifier.out_features


def _with_mean(
    backbone: nn.Sequential,
    count: int,
    mean: Sequence[float],
    deviation: Sequence[float],
    bias: float | None,
    temperature: float = 1.0,
) -> CentredNet:
    """The network whose B-cos layers these are."""
    constant = -math.log(max(1, count - 1)) if bias is None else bias
    return CentredNet(BcosNet(backbone, temperature=temperature, bias=constant), mean, deviation)


def _layers(model: nn.Module) -> nn.Sequential:
    """A network's layers one after the other, without the mean before the classifier. Raises ValueError."""
    kind = type(model).__name__
    if not isinstance(model, nn.Sequential) and kind not in ("ResNet", "DenseNet"):
        raise ValueError(f"a {kind} cannot be converted: expected a ResNet, a DenseNet or a Sequential")
    layers = nn.Sequential()
    for name, layer in model.named_children():
        if isinstance(layer, nn.Linear) and kind == "DenseNet":
            layers.add_module("relu", nn.ReLU())  # its own is a function, and no module
        if not isinstance(layer, nn.AdaptiveAvgPool2d | nn.Flatten | nn.Dropout):
            layers.add_module(name, layer)
    return layers


_KEPT = (nn.Identity, nn.Dropout, nn.AvgPool2d, nn.ZeroPad2d)  # linear as they are


def _converted(layer: nn.Module, b: float, depthwise: bool) -> nn.Module:
    """The counterpart of a layer, or the block with those of its layers. Raises ValueError where there is none."""
    if isinstance(layer, nn.Conv2d):
        return _converted_convolution(layer, b, depthwise)
    if isinstance(layer, nn.BatchNorm2d):
        return _converted_norm(layer)
    if isinstance(layer, nn.MaxPool2d):
        return nn.AvgPool2d(layer.kernel_size, layer.stride, layer.padding, layer.ceil_mode)
    if isinstance(layer, nn.ReLU | nn.ReLU6):  # where ReLU6 saturates it would add a constant
        return nn.ReLU()
    if isinstance(layer, _KEPT):
        return layer
    children = dict(layer.named_children())
    if not children or layer._parameters:
        raise ValueError(f"a layer {type(layer).__name__} has no counterpart in a B-cos network")
    for name, child in children.items():
        setattr(layer, name, _converted(child, b, depthwise))
    return layer


def _converted_convolution(conv: nn.Conv2d, b: float, depthwise: bool) -> nn.Module:
    """A B-cos convolution with the same weights; the first one for six channels. Raises ValueError."""
    w = conv.weight.detach()
    if conv.in_channels == 3 and conv.groups == 1:
        w = torch.cat([w, -w], 1) / 2
    if not depthwise and conv.groups == conv.in_channels:
        conv.bias = None
        return _Depthwise(conv)
    pad = getattr(conv, "padded", None)
    if isinstance(conv.padding, str) or conv.dilation != (1, 1) or (type(conv) is not nn.Conv2d and pad is None):
        raise ValueError(f"a convolution {conv} has no counterpart in a B-cos network")
    if conv.stride[0] != conv.stride[1]:
        raise ValueError(f"a convolution {conv} has no counterpart in a B-cos network")
    geometry: dict[str, Any] = {"stride": conv.stride[0], "padding": conv.padding, "groups": conv.groups}
    make = BcosConv2d if pad is None else partial(_PaddedConv2d, pad)
    kernel = (conv.kernel_size[0], conv.kernel_size[1])
    new = make(w.shape[1] * conv.groups, len(w), kernel, b=b, unit=False, **geometry)
    new.linear.weight = nn.Parameter(w)
    return new


class _Depthwise(nn.Module):
    """An ordinary convolution of each channel by itself, in float32 at least.

    In bfloat16 CPUs take up to eight times as long for its gradients; they were half the time of a step.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.linear = conv

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> [B, C, H', W'], of its type."""
        with torch.autocast(x.device.type, enabled=False):
            y: Tensor = self.linear(x.to(torch.promote_types(x.dtype, torch.float32)))
        return y.to(x.dtype)


class _PaddedConv2d(BcosConv2d):
    """A B-cos convolution that puts zeros of its own around its input."""

    def __init__(self, pad: Any, *sizes: Any, **geometry: Any) -> None:
        super().__init__(*sizes, **geometry)
        self.pad = pad

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> [B, O, H', W']."""
        return super().forward(self.pad(x))


def _converted_norm(norm: nn.BatchNorm2d) -> UncentredBatchNorm2d:
    """A batch norm without its mean and its bias. Raises ValueError where it counts no running numbers."""
    if norm.running_var is None or norm.weight is None:
        raise ValueError("a batch norm without running numbers or weights has no counterpart in a B-cos network")
    new = UncentredBatchNorm2d(norm.num_features, norm.eps)  # running numbers of their own: the network changes fast
    new.load_state_dict({key: value for key, value in norm.state_dict().items() if key != "bias"}, assign=True)
    return new


def bcosified_net(
    *,
    name: str,
    classes: int,
    bias: float | None = None,
    b: float = 2.0,
    depthwise: bool = True,
    mean: Sequence[float] = MEAN,
    deviation: Sequence[float] = DEVIATION,
    temperature: float = 1.0,
) -> CentredNet:
    """Build the B-cosified form of a ResNet or DenseNet of torchvision, or of an EfficientNet-Lite.

    Args:
        name: of the ordinary network in torchvision, or efficientnet-lite0, 1 or 2.
        classes: classes.
        bias: the constant of every logit; -ln(classes - 1) unless given.
        b: the exponent B.
        depthwise: see ``bcosify``.
        mean: r, g and b in [0, 1], see ``CentredNet``.
        deviation: of r, g and b, positive.
        temperature: what the logits are divided by, positive.

    Returns:
        The network, with freshly drawn weights.

    Raises:
        ValueError: there is no such network, or the temperature is not positive.
    """
    backbone, count = _of_layers(_layers(_ordinary(name, classes)), b, depthwise)
    return _with_mean(backbone, count, mean, deviation, bias, temperature)


def _ordinary(name: str, classes: int) -> nn.Module:
    """An ordinary network with freshly drawn weights. Raises ValueError."""
    if name in lite.SIZES:
        return lite.lite_classifier(name, classes)
    import torchvision

    if not name.startswith(("resnet", "resnext", "wide_resnet", "densenet")):
        raise ValueError(f"expected a ResNet or DenseNet of torchvision, or an EfficientNet-Lite, got {name!r}")
    try:
        model: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=classes)
    except ValueError as error:
        raise ValueError(f"torchvision has no {name!r}") from error
    return model


def bcosified_vit(
    *,
    dim: int,
    depth: int,
    classes: int,
    bias: float,
    patch: int | None = None,
    stem: Sequence[int] | None = None,
    hidden: int | None = None,
    b: float = 2.0,
    mean: Sequence[float] = MEAN,
    deviation: Sequence[float] = DEVIATION,
) -> CentredNet:
    """Build a B-cosified SimpleViT on square patches, or ViT-C behind a convolutional stem.

    GELU stays, with its gate held, and the last layer is applied to every token before the mean is taken.

    Args:
        dim: features of a token, a multiple of 64.
        depth: encoder blocks.
        classes: classes.
        bias: the constant of every logit.
        patch: side of a patch in pixels; either this or a stem.
        stem: channels of the convolutions of a stem.
        hidden: features inside a block; 4 dim unless given.
        b: the exponent B.
        mean: r, g and b in [0, 1], see ``CentredNet``.
        deviation: of r, g and b, positive.

    Returns:
        The network, with freshly drawn weights.

    Raises:
        ValueError: sizes that make no transformer, see ``vit.Transformer``.
    """
    linear = partial(BcosLinear, b=b, unit=False)
    kit = Kit(6, linear, linear, partial(BcosConv2d, b=b, unit=False), TokenNorm, ImageNorm2d, HeldGELU)
    backbone = Transformer(
        kit, dim=dim, depth=depth, classes=classes, patch=patch, stem=stem, hidden=hidden, head_first=True
    )
    return CentredNet(BcosNet(backbone, temperature=1.0, bias=bias), mean, deviation)
