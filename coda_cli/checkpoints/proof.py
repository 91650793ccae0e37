"""Proofs about a network that need no data: its decomposition is exact, and a converted file computes the same."""

from __future__ import annotations

import copy
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from coda_cli.checkpoints.loading import Net, load, save
from coda_cli.core.decompose import Decomposition, decompose
from coda_cli.core.networks import encode
from coda_cli.errors import ExactnessError, MediaError
from coda_cli.media.files import TEMPORARY_PREFIX

# How far float32's map may lie from float64's. A sum that comes out right proves little: where norms overflow, outputs
# drop out of logit and contributions alike, and only the comparison sees it. Sound networks are at about 1e-6.
MAP_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Proof:
    """What decomposing ``picture`` in float32 and in float64 showed; NaN where a network is broken."""

    index: int  # the class that was explained, float32's highest logit
    logit: float  # in float64
    residual_float32: float  # |residual| / tolerance: above 1 is inexact
    residual_float64: float
    map_difference: float  # sum |float32 map - float64 map| / sum |contributions|
    exact: bool  # both residuals within their tolerances, and the maps within MAP_TOLERANCE of each other


def prove(net: Net) -> Proof:
    """Decompose one fixed picture with a float32 network, on the CPU, in float32 and in float64; it is not changed."""
    x = picture(net)
    single = decompose(net.model, x)
    index = int(single.weights.argmax())
    # The same class in both: rounding must not be able to change the subject.
    double = decompose(copy.deepcopy(net.model).double(), x.double(), index)
    difference = float((single.pixels - double.pixels).abs().sum() / double.contributions.abs().sum())
    exact = bool(single.exact.all() and double.exact.all()) and difference <= MAP_TOLERANCE
    return Proof(index, float(double.logit), _share(single), _share(double), difference, exact)


def _share(d: Decomposition) -> float:
    return float((d.residual.abs() / d.tolerance).max())


def convert(net: Net, output: Path) -> float:
    """Write a network as our safetensors, but only once a copy loaded back gives the very same logits.

    Returns the largest difference of the logits for one fixed picture, which is 0. Raises ExactnessError when it is not
    (and leaves ``output`` as it was), MediaError when the file cannot be written.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=TEMPORARY_PREFIX, dir=output.parent) as folder:
            written = Path(folder) / output.name
            save(net.model, net.checkpoint, written)
            difference = _difference(net, load(written, exact=False))
            if difference != 0:
                raise ExactnessError(f"{output}: not written, the copy's logits differ by {difference:g}; report this")
            written.replace(output)
    except OSError as error:
        raise MediaError(f"{output}: cannot be written ({error.strerror or error})") from error
    return difference


def _difference(a: Net, b: Net) -> float:
    x = picture(a)
    with torch.inference_mode():
        return float((a.model(x) - b.model(x)).abs().max())


def picture(net: Net) -> Tensor:
    """A fixed picture-like input for a network, float32 [1, 6, crop, crop]: smooth coloured shapes and some grain."""
    size, generator = net.checkpoint.preprocessing.crop, torch.Generator().manual_seed(0)
    shapes = torch.rand(1, 3, 5, 5, generator=generator)
    smooth = torch.nn.functional.interpolate(shapes, (size, size), mode="bicubic", align_corners=False)
    grain = torch.rand(1, 3, size, size, generator=generator) - 0.5
    return encode(((smooth + 0.1 * grain).clamp(0, 1) * 255).to(torch.uint8))
