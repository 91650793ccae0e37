"""Proofs about a network that need no data: its decomposition is exact, and a converted file computes the same."""

from __future__ import annotations

import copy
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from coda_cli.checkpoints.loading import Net, load
from coda_cli.checkpoints.saving import save
from coda_cli.core.decompose import Decomposition, decompose
from coda_cli.core.networks import encode
from coda_cli.errors import CheckpointError, ExactnessError, MediaError
from coda_cli.media.files import TEMPORARY_PREFIX, give_name

# How far float32's map may lie from float64's. A sum that comes out right proves little: where norms overflow, outputs
# drop out of logit and contributions alike, and only the comparison sees it. Sound networks are at about 1e-6.
MAP_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Proof:
    """What decomposing one picture in float32 and in float64 showed; numbers are NaN where a network is broken.

    Attributes:
        index: the class that was explained: the one with the highest logit in float32.
        logit: of that class, in float64.
        residual_float32: |residual| / tolerance in float32; above 1 is inexact.
        residual_float64: the same in float64.
        map_difference: sum |float32 map - float64 map| / sum |contributions|.
        exact: whether both residuals are within their tolerances, and the maps within MAP_TOLERANCE of each other.
    """

    index: int
    logit: float
    residual_float32: float
    residual_float64: float
    map_difference: float
    exact: bool


def prove(net: Net) -> Proof:
    """Decompose one fixed picture in float32 and in float64, and compare.

    Args:
        net: in float32, on the CPU; it is not changed.

    Returns:
        What was found.
    """
    x = picture(net)
    single = decompose(net.model, x)
    index = int(single.weights.argmax())
    # The same class in both: rounding must not choose another one.
    double = decompose(copy.deepcopy(net.model).double(), x.double(), index)
    difference = float((single.pixels - double.pixels).abs().sum() / double.contributions.abs().sum())
    exact = bool(single.exact.all() and double.exact.all()) and difference <= MAP_TOLERANCE
    return Proof(index, float(double.logit), _used_tolerance(single), _used_tolerance(double), difference, exact)


def _used_tolerance(d: Decomposition) -> float:
    """The largest |residual| / tolerance."""
    return float((d.residual.abs() / d.tolerance).max())


def convert(net: Net, output: Path, *, replace: bool = True, half: bool = False) -> float:
    """Write a network as coda's safetensors, but only once a copy that is loaded back gives the very same logits.

    Args:
        net: the network.
        output: the file; it stays as it was where something fails.
        replace: whether a file of this name may be replaced.
        half: round the weights to float16, for a file of half the size; see ``save``.

    Returns:
        The largest difference of the logits for one fixed picture: 0 unless the weights were rounded.

    Raises:
        ExactnessError: the difference is not 0.
        CheckpointError: a weight is larger than float16 holds.
        TakenError: there is a file of this name that may not be replaced.
        MediaError: the file cannot be written.
    """
    try:
        with tempfile.TemporaryDirectory(".part", TEMPORARY_PREFIX, output.parent) as folder:
            written = Path(folder) / output.name
            save(net.model, net.checkpoint, written, half=half)
            difference = _difference(net, load(written, cut=None))
            if difference != 0 and not half:
                raise ExactnessError(
                    f"not written, the copy's logits differ by {difference:g}; report this", item=output
                )
            give_name(written, output, replace=replace)
    except (MediaError, CheckpointError) as error:  # about the copy
        raise type(error)(error.message, item=output) from error
    except OSError as error:
        raise MediaError(f"cannot be written ({error.strerror or error})", item=output) from error
    return difference


def _difference(a: Net, b: Net) -> float:
    """The largest difference of the logits of two networks for one fixed picture."""
    x = picture(a)
    with torch.inference_mode():
        return float((a.model(x) - b.model(x)).abs().max())


def picture(net: Net) -> Tensor:
    """Make a fixed input that resembles a photograph: smooth coloured shapes and some grain.

    Args:
        net: the network, which decides the size.

    Returns:
        float32 [1, 6, crop, crop] in [0, 1], encoded.
    """
    size, generator = net.checkpoint.preprocessing.crop, torch.Generator().manual_seed(0)
    shapes = torch.rand(1, 3, 5, 5, generator=generator)
    smooth = torch.nn.functional.interpolate(shapes, (size, size), mode="bicubic", align_corners=False)
    grain = torch.rand(1, 3, size, size, generator=generator) - 0.5
    return encode(((smooth + 0.1 * grain).clamp(0, 1) * 255).to(torch.uint8))
