"""Where an ordinary network is cut: how far down its positions, and not its constants, make up the logit.

Every layer of an ordinary network has an exact split. Near the input it says nothing: the contributions of a
position are many times the logit, with both signs, and the constants of the layers are the rest. Near the logits the
positions carry all but the classifier's bias. The cut is the layer nearest to the input of which both can be said, for
nearly every picture: the positions carry the logit, and they do not cancel each other.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import quantiles

import torch
from torch import Tensor, nn

from coda_cli.core.depth import LayerShare, shares_of_best
from coda_cli.core.ordinary import INPUT, map_layers

AUTO = "auto"  # the word for a cut that is to be found
CARRIED = 0.1  # the positions' sum differs from the logit, less the classifier's bias, by at most this share of it
CANCELLING = 3.0  # their magnitudes are at most so many times it: the last maps of ordinary networks have 1 to 2
NEARLY_ALL = 0.9  # of the pictures and classes that were looked at; a few odd ones must neither make nor spoil a cut
# Noise excites a network less than photographs do, and fewer units saturate: of EfficientNet-Lite0's last map before
# its ReLU6 the positions carry 0.95 of a logit with noise, and 0.77 with photographs. So more is asked for with noise.
CARRIED_OF_NOISE = 0.02
PROBES, CLASSES = 3, 2  # pictures of noise, and classes of each: the ones with the highest logits


Spread = tuple[float | None, float | None, float | None]  # the 10th, 50th and 90th percentile


@dataclass(frozen=True)
class LayerDepth:
    """How much of the logits the positions of one layer carry, over some pictures.

    Attributes:
        name: of the layer, or "input".
        height: of its output, in positions.
        width: of its output, in positions.
        carried: the 10th, 50th and 90th percentile of sum over (logit - classifier's bias); None where that is 0 for
            every picture.
        ratio: the same three of sum of magnitudes over |logit - classifier's bias|.
        constants: the same three of the constants above the layer, the classifier's bias left out, over that.
        interpretable: whether the positions carry the logit and do not cancel, for nearly all pictures.
    """

    name: str
    height: int
    width: int
    carried: Spread
    ratio: Spread
    constants: Spread
    interpretable: bool


def measure_depth(shares: Iterable[Sequence[LayerShare]], most: float = CARRIED) -> list[LayerDepth]:
    """Measure how far down the positions of a network's layers carry its logits.

    Args:
        shares: of several pictures and classes what ``shares_by_layer`` gives; layers that not all have are left out,
            and those whose split is not exact, since something above them is not known.
        most: by what share of the logit, less the classifier's bias, the sum of an interpretable layer may differ.

    Returns:
        One entry for each layer, the input first.
    """
    by_name: dict[str, list[LayerShare]] = {}
    for layers in shares:
        for layer in layers:
            if layer.exact or layer.approximate:
                by_name.setdefault(layer.name, []).append(layer)
    count = max(map(len, by_name.values()), default=0)
    return [_depth(name, found, most) for name, found in by_name.items() if len(found) == count]


def _depth(name: str, found: Sequence[LayerShare], most: float) -> LayerDepth:
    carrying = sum(abs(s.carried - 1) <= most and s.ratio <= CANCELLING for s in found)
    h, w = found[0].pixels.shape
    carried, ratio = _spread([s.carried for s in found]), _spread([s.ratio for s in found])
    constants = _spread([1 - s.carried for s in found])
    return LayerDepth(name, h, w, carried, ratio, constants, carrying >= NEARLY_ALL * len(found) and h * w > 1)


def _spread(values: Sequence[float]) -> Spread:
    """The percentiles of those that are finite: a logit that is just the classifier's bias has no shares."""
    finite = [value for value in values if math.isfinite(value)]
    if len(finite) < 2:
        return tuple(finite * 3) if finite else (None, None, None)  # type: ignore[return-value]
    tenths = quantiles(finite, n=10, method="inclusive")
    return tenths[0], tenths[4], tenths[8]


def find_cut(model: nn.Module, side: int) -> str:
    """Find the layer at which an ordinary network is explained unless another one is named.

    It is found with pictures that are made here and are always the same, so that a network has one cut, whatever is
    explained by it, in whatever order, on whichever machine. Where no layer carries the logits it is the last map.

    Args:
        model: an ordinary network, in eval mode.
        side: of the pictures, in pixels.

    Returns:
        The layer's name; "input" where none of its layers gives a map that can be split exactly.
    """
    parameter = next(model.parameters(), torch.zeros(1))
    found = list[list[LayerShare]]()
    for probe in probes(side).to(parameter.device, parameter.dtype).split(1):
        found += shares_of_best(model, probe, CLASSES)
    maps = {INPUT, *map_layers(model, probe)}
    depths = [
        layer
        for layer in measure_depth(found, CARRIED_OF_NOISE)
        if layer.name in maps and layer.height * layer.width > 1
    ]
    interpretable = [layer.name for layer in depths if layer.interpretable]
    return next(iter(interpretable + [layer.name for layer in depths[-1:]]), INPUT)


def probes(side: int, count: int = PROBES) -> Tensor:
    """Make pictures with the statistics of photographs: noise whose amplitude falls as one over the frequency.

    Args:
        side: in pixels.
        count: how many.

    Returns:
        Encoded pictures, float32 [count, 6, side, side] in [0, 1]; always the same.
    """
    generator = torch.Generator().manual_seed(0)
    frequency = (torch.fft.fftfreq(side)[:, None] ** 2 + torch.fft.rfftfreq(side)[None] ** 2).sqrt()
    size = (count, 4, side, side // 2 + 1)
    waves = torch.complex(torch.randn(size, generator=generator), torch.randn(size, generator=generator))
    noise = torch.fft.irfft2(waves / frequency.clamp(min=1 / side), s=(side, side))
    rgb = noise[:, :1] + 0.5 * noise[:, 1:]  # colours of photographs have most of their light and shade in common
    rgb = (rgb - rgb.mean((1, 2, 3), keepdim=True)) / rgb.std((1, 2, 3), keepdim=True)
    rgb = (0.45 + 0.25 * rgb).clamp(0, 1)
    return torch.cat([rgb, 1 - rgb], 1)
