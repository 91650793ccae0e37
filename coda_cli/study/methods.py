"""Ways to attribute a logit to the pixels, all with one signature: coda's own, and those it is compared with.

A method takes a network, one encoded picture x float [1, 6, h, w] and K class indices, and gives maps float [K, h, w],
signed unless it says otherwise. Its parameters are keyword arguments with the published values as defaults. A new one
is one more function, with its line in ``by_name.METHODS``.

All but ``ours`` act on the three colours unless six ``channels`` are asked for: the encoding is then part of what they
differentiate or mask (as published for CoDA-Nets and B-cos networks of version 1). They explain the logit with its
temperature and bias, and the network as it is, with nothing held.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coda_cli.core.abilities import averages_class_maps
from coda_cli.core.decompose import Decomposition, decompose
from coda_cli.core.folding import watching
from coda_cli.core.hybrid import spread
from coda_cli.core.networks import encode
from coda_cli.errors import ExactnessError, MediaError
from coda_cli.machine import budget

Method = Callable[[nn.Module, Tensor, Sequence[int]], Tensor]


class _OfColours(nn.Module):
    """A network as a function of r g b [B, 3, h, w]."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, rgb: Tensor) -> Tensor:
        """Compute the logits.

        Args:
            rgb: float [B, 3, h, w] in [0, 1].

        Returns:
            logits [B, classes].
        """
        logits: Tensor = self.model(encode(rgb))
        return logits


def ours(model: nn.Module, x: Tensor, classes: Sequence[int]) -> Tensor:
    """Compute the exact contributions, summed over the channels; for hybrids spread over pixels (see ``spread``).

    Args:
        model: a dynamic linear network.
        x: float [1, 6, h, w], an encoded picture.
        classes: K class indices.

    Returns:
        float [K, h, w], signed, in logit units.

    Raises:
        ExactnessError: a residual is above its tolerance.
    """
    d = decompose(model, x, list(classes))
    refuse_inexact(d)
    return spread(d.pixels[0], x.shape[2:])


def refuse_inexact(d: Decomposition) -> None:
    """Refuse a decomposition that does not add up.

    Args:
        d: the decomposition.

    Raises:
        ExactnessError: a residual is above its tolerance; what coda does not know of the network is named.
    """
    if not bool(d.exact.all()):
        used = float((d.residual.abs() / d.tolerance).max())
        why = f"; not known to coda: {', '.join(d.unknown)}" if d.unknown else ""
        raise ExactnessError(f"NOT EXACT: a residual is {used:.2g} times its tolerance; no map can be trusted{why}")


# ---- by gradients, from captum ---------------------------------------------------------------------------------------


def gradient(model: nn.Module, x: Tensor, classes: Sequence[int], *, absolute: int = 0, channels: int = 3) -> Tensor:
    """Compute the gradient of the logit, summed over the channels.

    Args:
        model: any network.
        x: float [1, 6, h, w], an encoded picture.
        classes: K class indices.
        absolute: 1 sums the absolute values, as captum does by default; 0 keeps the signs.
        channels: 3 is by r, g and b, 6 by all channels of the encoding.

    Returns:
        float [K, h, w], logit units for each unit of colour.
    """
    return _captum("Saliency", model, x, classes, channels, abs=bool(absolute))


def input_x_gradient(model: nn.Module, x: Tensor, classes: Sequence[int], *, channels: int = 3) -> Tensor:
    """Multiply the input by the gradient of the logit.

    Args:
        model: any network.
        x: float [1, 6, h, w], an encoded picture.
        classes: K class indices.
        channels: 3 is by r, g and b, 6 by all channels of the encoding.

    Returns:
        float [K, h, w], signed, in logit units.
    """
    return _captum("InputXGradient", model, x, classes, channels)


def guided_backprop(model: nn.Module, x: Tensor, classes: Sequence[int], *, channels: int = 3) -> Tensor:
    """Compute the gradient, in which no ReLU passes negative values back; without ReLUs this is the gradient.

    Args:
        model: any network.
        x: float [1, 6, h, w], an encoded picture.
        classes: K class indices.
        channels: 3 is by r, g and b, 6 by all channels of the encoding.

    Returns:
        float [K, h, w], signed.
    """
    return _captum("GuidedBackprop", model, x, classes, channels)


def integrated_gradients(
    model: nn.Module, x: Tensor, classes: Sequence[int], *, steps: int = 20, channels: int = 3
) -> Tensor:
    """Multiply the input by the gradient's mean on the straight line from 0 to the input.

    Args:
        model: any network.
        x: float [1, 6, h, w], an encoded picture.
        classes: K class indices.
        steps: points of the Gauss-Legendre quadrature.
        channels: 3 is by r, g and b (0 is black), 6 by all channels of the encoding (0 is no colour at all).

    Returns:
        float [K, h, w], signed, in logit units.
    """
    batch = _copies(model, x)
    return _captum("IntegratedGradients", model, x, classes, channels, n_steps=steps, internal_batch_size=batch)


def deeplift(model: nn.Module, x: Tensor, classes: Sequence[int], *, channels: int = 3) -> Tensor:
    """Apply DeepLIFT's rescale rule with 0 as reference; in a network without ReLUs no rule applies.

    Args:
        model: any network.
        x: float [1, 6, h, w], an encoded picture.
        classes: K class indices.
        channels: 3 is by r, g and b, 6 by all channels of the encoding.

    Returns:
        float [K, h, w], signed, in logit units.
    """
    return _captum("DeepLift", model, x, classes, channels, baselines=0)


def grad_cam(model: nn.Module, x: Tensor, classes: Sequence[int]) -> Tensor:
    """Compute Grad-CAM of the last map: channels weighted by their mean gradient, of which the positive part is kept.

    The last map is the output of the last CoDA layer; of B-cos and other networks it is what their classifier sees. It
    is enlarged without interpolation.

    Args:
        model: a network whose last layers give maps.
        x: float [1, 6, h, w], an encoded picture.
        classes: K class indices.

    Returns:
        float [K, h, w], not negative.

    Raises:
        MediaError: the network has no such map.
    """
    from captum.attr import LayerGradCam

    def attribute(copies: Tensor, targets: list[int]) -> Tensor:
        maps = method.attribute(copies, target=targets)
        assert isinstance(maps, Tensor)
        return F.interpolate(maps.relu(), x.shape[2:], mode="nearest")

    method = LayerGradCam(_OfColours(model), _last_map(model, x))
    return _for_classes(attribute, model, x, classes, 3)


def _captum(name: str, model: nn.Module, x: Tensor, classes: Sequence[int], channels: int, **options: Any) -> Tensor:
    """Attribute by a method of captum's, to r g b (published for CoDA-Nets and version 1 of B-cos) or to all six.

    0 is black in three channels; in six it is no colour at all.
    """
    import captum.attr

    attribution = getattr(captum.attr, name)(_OfColours(model) if channels == 3 else model)

    def attribute(copies: Tensor, targets: list[int]) -> Tensor:
        maps: Tensor = attribution.attribute(copies, target=targets, **options)
        return maps

    return _for_classes(attribute, model, x, classes, channels)


def _for_classes(
    attribute: Callable[[Tensor, list[int]], Tensor], model: nn.Module, x: Tensor, classes: Sequence[int], channels: int
) -> Tensor:
    """Maps of all classes, summed over channels. Each class has a copy of the picture; as many as fit go together."""
    maps, size = [], _copies(model, x) if len(classes) > 1 else 1
    for i in range(0, len(classes), size):
        targets = list(classes[i : i + size])
        with quiet():
            copies = x[:, :channels].detach().repeat(len(targets), 1, 1, 1).requires_grad_()
            maps.append(attribute(copies, targets).detach().sum(1))
    return torch.cat(maps)


def masked_at_once(x: Tensor) -> int:
    """How many masked copies of a picture go through the network together.

    Args:
        x: one encoded picture, float [1, C, h, w].

    Returns:
        At least 1.
    """
    return budget.masked_at_once(x.device.type, x.shape[2] * x.shape[3], torch.get_num_threads())


@torch.no_grad()
def _copies(model: nn.Module, x: Tensor) -> int:
    """How many copies of a picture gradients are taken of at a time."""
    layers = {m for m in model.modules() if hasattr(m, "graph_numbers")}  # those that say how much their graph keeps
    if not layers:
        return masked_at_once(x)
    numbers = 0

    def count(layer: nn.Module, y: Any) -> None:
        nonlocal numbers
        numbers += layer.graph_numbers(y) if layer in layers else 0  # type: ignore[operator]

    with watching(count):
        model(x)
    return min(masked_at_once(x), budget.copies_at_once(x.device.type, numbers))


@contextmanager
def quiet() -> Iterator[None]:
    """Silence captum's warnings of what it does to inputs and modules (here they are copies), and allow gradients.

    Yields:
        Nothing.
    """
    with warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")
        yield


@torch.no_grad()
def _last_map(model: nn.Module, x: Tensor) -> nn.Module:
    """The module whose output is the last one of more than one position, a classifier's own output left out."""
    found: list[tuple[nn.Module, Tensor]] = []

    layers = {m for m in model.modules() if not isinstance(m, nn.Sequential)}

    def note(module: nn.Module, y: Any) -> None:
        tokens = isinstance(y, Tensor) and y.ndim == 3 and y.shape[1] > 1
        if module in layers and (tokens or (isinstance(y, Tensor) and y.ndim == 4 and y.shape[2] * y.shape[3] > 1)):
            found.append((module, y))

    with watching(note):
        logits = model(x)
    if found and _is_of_classes(model, found[-1][1], logits):
        last = found[-1][1]  # of the classifier, and of all that only pass it on
        found = [(module, y) for module, y in found if y is not last]
    if not found or found[-1][1].ndim != 4:
        raise MediaError("Grad-CAM needs a network whose last layers give maps; this one has none")
    return found[-1][0]


def _is_of_classes(model: nn.Module, y: Tensor, logits: Tensor) -> bool:
    """Whether a map [1, C, h, w] holds the responses of the classes, of which only the mean is still taken.

    The last layer of a CoDA-Net gives such a map as well; the papers take it for Grad-CAM all the same.
    """
    if y.ndim != 4 or y.shape[1] != logits.shape[1]:
        return False
    return averages_class_maps(model) or torch.allclose(y.mean((2, 3)), logits, rtol=1e-4, atol=1e-5)
