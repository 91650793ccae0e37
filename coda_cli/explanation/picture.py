"""The verb for one picture: explain it. Prints nothing and exits nowhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coda_cli.checkpoints.loading import Net, load
from coda_cli.checkpoints.manifest import DEFAULT
from coda_cli.checkpoints.targets import Target, Targets
from coda_cli.core.decompose import Decomposition, decompose
from coda_cli.core.depth import LayerShare, shares_by_layer
from coda_cli.core.hybrid import spread
from coda_cli.core.networks import encode, forward
from coda_cli.errors import ExactnessError, MediaError, UsageError
from coda_cli.machine.memory import as_many_as_fit, out_of_memory
from coda_cli.media.stills import read_image
from coda_cli.media.view import Fit, View, fit

T = TypeVar("T")
Precision = Literal["float32", "float64", "bfloat16"]
# What the weights and the input are held in; bfloat16 is for the large matrix products only.
DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.float32}


@dataclass(frozen=True)
class Request:
    """What is asked about a picture.

    ``classes`` (one name may stand alone) and ``versus``: see ``Targets``. ``precision``: float64 needs a network
    loaded with that dtype.
    ``tolerance`` replaces the relative tolerance of the residual. ``layer`` asks for the contributions of layers'
    outputs as well: "all", a number counted from the input (0), or a name.
    """

    classes: tuple[str, ...] = ()
    versus: str | None = None
    fit: Fit = "crop"
    precision: Precision = "float32"
    tolerance: float | None = None
    layer: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.classes, str):  # which is a sequence, of letters
            object.__setattr__(self, "classes", (self.classes,))

    def targets(self, net: Net) -> Targets:
        """The classes asked for, resolved for a network; raises UsageError for one it does not have."""
        return Targets(self.classes, self.versus, net.checkpoint)


@dataclass(frozen=True)
class Explanation:
    """One explained picture: K targets shared out over what the network saw of it.

    ``decomposition`` has a batch of one; its ``pixels`` [1, K, h, w] belong to the pixels of ``view``, or to the
    positions of a hybrid's cut. ``layers``: for every target the shares of the layers asked for, those next to the
    input first.
    """

    view: View
    targets: tuple[Target, ...]
    decomposition: Decomposition
    seconds: float
    layers: tuple[tuple[LayerShare, ...], ...] = ()

    @cached_property
    def maps(self) -> NDArray[np.float32]:
        """Contribution maps float32 [K, h, w], signed, logit units; see ``spread`` for hybrids."""
        pixels = self.decomposition.pixels[0].to("cpu", torch.float32)
        return spread(pixels, self.view.rgb.shape[:2]).numpy()


def explain_image(
    picture: str | Path | NDArray[np.uint8], net: Net | None = None, request: Request | None = None
) -> Explanation:
    """Explain one picture, a file or uint8 [H, W, 3] sRGB, by a network (default: the bundled one)."""
    net, request = net or load(DEFAULT), request or Request()
    rgb = picture if isinstance(picture, np.ndarray) else read_image(Path(picture)).rgb
    p = net.checkpoint.preprocessing
    view = fit(rgb, p.resize, p.crop, request.fit)
    return explain_views([view], net, request, request.targets(net))[0]


def explain_views(views: Sequence[View], net: Net, request: Request, targets: Targets) -> list[Explanation]:
    """Explain pictures of one size together. Raises ExactnessError when a logit is not finite.

    When memory runs out the batch is halved, which a warning of ``logging`` says, and later ones are as small; a single
    picture that does not fit raises MediaError, as one does that is smaller than the network's kernels.
    """

    def explained(views: Sequence[View], x: Tensor) -> list[Explanation]:
        """The views whose encoding is x [B, 6, h, w]."""
        start = time.perf_counter()
        d = decompose(net.model, x, targets.weightings, relative_tolerance=request.tolerance)
        if not bool(torch.isfinite(d.logits).all() and torch.isfinite(d.residual).all()):
            raise ExactnessError("the network's logits are not finite; nothing can be explained")
        d = _at_hand(d)
        seconds = (time.perf_counter() - start) / len(views)
        rows = d.logits.double().numpy()
        chosen = [tuple(targets.of(row)) for row in rows]
        layers = [_layers(net, x[b : b + 1], d.weights[b, : len(chosen[b])], request) for b in range(len(views))]
        return [
            Explanation(v, chosen[b], _first(d[b], len(chosen[b])), seconds, layers[b]) for b, v in enumerate(views)
        ]

    return _computed(views, net, request, explained)


@torch.no_grad()
def classify_views(views: Sequence[View], net: Net, request: Request) -> list[NDArray[np.float32]]:
    """The logits [classes] of pictures of one size, nothing decomposed. Raises MediaError as ``explain_views`` does."""
    return _computed(views, net, request, lambda _, x: list(forward(net.model, x).float().cpu().numpy()))


def encoded(views: Sequence[View], net: Net) -> Tensor:
    """Pictures of one size as the input of a network, [B, 6, h, w], of its type and on its device."""
    parameter = next(net.model.parameters())
    rgb = torch.from_numpy(np.stack([v.rgb for v in views]))
    if parameter.is_cuda:
        rgb = rgb.pin_memory()  # from there the copy goes on while the next pictures are read
    return encode(rgb.to(parameter.device, non_blocking=True).permute(0, 3, 1, 2)).to(parameter.dtype)


def _computed(
    views: Sequence[View], net: Net, request: Request, compute: Callable[[Sequence[View], Tensor], list[T]]
) -> list[T]:
    """``compute`` of views and their encoding, in halves when memory runs out. Raises MediaError for their size."""
    h, w = views[0].rgb.shape[:2]

    def computed(views: Sequence[View]) -> list[T]:
        x = encoded(views, net)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=request.precision == "bfloat16"):
            return compute(views, x)

    try:
        return as_many_as_fit(net.model, views, (w, h), computed)
    except ValueError as error:  # a picture smaller than a kernel
        raise MediaError(f"{error}; use --fit crop") from error
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            if min(h, w) >= net.checkpoint.preprocessing.crop:
                raise
            reason = str(error).splitlines()[0]  # torch's own, of a picture smaller than a kernel
            raise MediaError(f"too small for this network ({reason}); use --fit crop") from error
    # Not in the handler: the error holds on to everything that was computed before it.
    raise MediaError(f"not enough memory for {w} x {h} pixels; use --fit crop, or make it smaller")


def _layers(net: Net, x: Tensor, weights: Tensor, request: Request) -> tuple[tuple[LayerShare, ...], ...]:
    """The shares of the layers asked for, for each weighting [K, classes] of one input's logits."""
    layer = request.layer
    if layer is None:
        return ()
    every = [shares_by_layer(net.model, x, w, relative_tolerance=request.tolerance) for w in weights]
    chosen = [tuple(s for k, s in enumerate(shares) if layer in ("all", str(k), s.name)) for shares in every]
    if not all(chosen):
        names = ", ".join(f"{k} ({s.name})" for k, s in enumerate(every[0]))
        raise UsageError(f"--layer {layer}: the whole logit passes through no such layer; there are {names}")
    return tuple(chosen)


def _at_hand(d: Decomposition) -> Decomposition:
    """Everything in the CPU's memory: what waits to be drawn shall not fill the GPU's."""
    return replace(
        d, inputs=d.inputs.cpu(), dynamic_weights=d.dynamic_weights.cpu(), logits=d.logits.cpu(),
        weights=d.weights.cpu(),
    )  # fmt: skip


def _first(d: Decomposition, count: int) -> Decomposition:
    """The first ``count`` weightings: in a batch, pictures with fewer targets than others carry rows of zeros."""
    return replace(
        d, dynamic_weights=d.dynamic_weights[:, :count], weights=d.weights[:, :count], logit=d.logit[:, :count],
        bias=d.bias[:, :count], positional=d.positional[:, :count], residual=d.residual[:, :count],
        tolerance=d.tolerance[:, :count],
    )  # fmt: skip


def arrays(explanation: Explanation) -> dict[str, NDArray[np.generic]]:
    """What the .npz holds: contributions and dynamic weights [K, 6, h, w], pixels [K, h, w], logits, targets, view.

    Of a hybrid the first two are those of its cut, [K, C, h', w'].
    """
    d = explanation.decomposition
    return {
        "dynamic_weights": d.dynamic_weights[0].float().cpu().numpy(),
        "contributions": d.contributions[0].float().cpu().numpy(),
        "pixels": explanation.maps,
        "logits": d.logits[0].float().cpu().numpy(),
        "weights": d.weights[0].float().cpu().numpy(),
        "box": np.array(explanation.view.box),
        "view": explanation.view.rgb,
    }
