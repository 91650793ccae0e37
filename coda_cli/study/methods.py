"""Ways to share a logit out over the pixels, all behind one signature: ours, and the post-hoc ones it is held against.

A method takes a network, one encoded picture x float [1, 6, h, w] and K class indices, and gives maps [K, h, w], signed
unless it says otherwise. Its parameters are keyword arguments with the published values as defaults. A new one is one
more function, with its line in ``by_name.METHODS``.

All but ours act on the three colours, unless six ``channels`` are asked for, the encoding being part of what they
differentiate or mask (as published for CoDA-Nets and B-cos networks of version 1), on the logit with temperature and
bias, and on the network as it is, with nothing held.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coda_cli.core.abilities import averages_class_maps, probabilities
from coda_cli.core.decompose import decompose
from coda_cli.core.hybrid import spread
from coda_cli.core.networks import encode, forward
from coda_cli.errors import ExactnessError, MediaError
from coda_cli.machine import budget

Method = Callable[[nn.Module, Tensor, Sequence[int]], Tensor]
MASKS_DRAWN = 32  # masks of RISE that are drawn at a time, however many are computed together: it decides which come


class _OfColours(nn.Module):
    """A network as a function of r g b [B, 3, h, w]."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, rgb: Tensor) -> Tensor:
        logits: Tensor = self.model(encode(rgb))
        return logits


def ours(model: nn.Module, x: Tensor, classes: Sequence[int]) -> Tensor:
    """Exact contributions, summed over the channels; see ``spread`` for hybrids. Raises ExactnessError."""
    d = decompose(model, x, list(classes))
    if not bool(d.exact.all()):
        used = float((d.residual.abs() / d.tolerance).max())
        raise ExactnessError(f"NOT EXACT: a residual is {used:.2g} times its tolerance; no map can be trusted")
    return spread(d.pixels[0], x.shape[2:])


# ---- by gradients, from captum ---------------------------------------------------------------------------------------


def gradient(model: nn.Module, x: Tensor, classes: Sequence[int], *, absolute: int = 0, channels: int = 3) -> Tensor:
    """The gradient of the logit, signed; with ``absolute`` 1 its size in each channel instead, as captum's default."""
    return _captum("Saliency", model, x, classes, channels, abs=bool(absolute))


def input_x_gradient(model: nn.Module, x: Tensor, classes: Sequence[int], *, channels: int = 3) -> Tensor:
    """Colours times the gradient of the logit."""
    return _captum("InputXGradient", model, x, classes, channels)


def guided_backprop(model: nn.Module, x: Tensor, classes: Sequence[int], *, channels: int = 3) -> Tensor:
    """The gradient without what ReLUs would pass back negatively; in a network without ReLUs the gradient."""
    return _captum("GuidedBackprop", model, x, classes, channels)


def integrated_gradients(
    model: nn.Module, x: Tensor, classes: Sequence[int], *, steps: int = 20, channels: int = 3
) -> Tensor:
    """The gradient's mean on the way from 0, times the input (Gauss-Legendre in ``steps`` points)."""
    batch = _copies(model, x)
    return _captum("IntegratedGradients", model, x, classes, channels, n_steps=steps, internal_batch_size=batch)


def deeplift(model: nn.Module, x: Tensor, classes: Sequence[int], *, channels: int = 3) -> Tensor:
    """DeepLIFT's rescale rule against 0; no rule applies in a network without ReLUs."""
    return _captum("DeepLift", model, x, classes, channels, baselines=0)


def grad_cam(model: nn.Module, x: Tensor, classes: Sequence[int]) -> Tensor:
    """Grad-CAM of the last map: channels weighted by their mean gradient, positive part; not negative.

    Enlarged without interpolation. The last map is the output of the last CoDA layer; of B-cos networks, and others,
    what their classifier sees. Raises MediaError for networks without one.
    """
    from captum.attr import LayerGradCam

    def attribute(copies: Tensor, targets: list[int]) -> Tensor:
        maps = method.attribute(copies, target=targets)
        assert isinstance(maps, Tensor)
        return F.interpolate(maps.relu(), x.shape[2:], mode="nearest")

    method = LayerGradCam(_OfColours(model), _last_map(model, x))
    return _for_classes(attribute, model, x, classes, 3)


def _captum(name: str, model: nn.Module, x: Tensor, classes: Sequence[int], channels: int, **options: Any) -> Tensor:
    """A method of captum's, of r g b (``channels`` 3, CoDA-Nets and version 1 of B-cos) or of all six (version 2).

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
    """What captum attributes, summed over channels: as many copies of the picture at a time as fit, one per class."""
    maps, size = [], _copies(model, x) if len(classes) > 1 else 1
    for i in range(0, len(classes), size):
        targets = list(classes[i : i + size])
        with quiet():
            copies = x[:, :channels].detach().repeat(len(targets), 1, 1, 1).requires_grad_()
            maps.append(attribute(copies, targets).detach().sum(1))
    return torch.cat(maps)


def _together(x: Tensor) -> int:
    return budget.masked_at_once(x.device.type, x.shape[2] * x.shape[3], torch.get_num_threads())


@torch.no_grad()
def _copies(model: nn.Module, x: Tensor) -> int:
    """How many copies of a picture gradients are taken of at a time."""
    layers = [m for m in model.modules() if hasattr(m, "graph_numbers")]  # those that say how much their graph keeps
    if not layers:
        return _together(x)
    numbers = 0

    def count(layer: nn.Module, _: Any, y: Tensor) -> None:
        nonlocal numbers
        numbers += layer.graph_numbers(y)  # type: ignore[operator]

    hooks = [layer.register_forward_hook(count) for layer in layers]
    try:
        model(x)
    finally:
        for hook in hooks:
            hook.remove()
    return min(_together(x), budget.copies_at_once(x.device.type, numbers))


@contextmanager
def quiet() -> Iterator[None]:
    """Captum warns of what it does to inputs and modules, which here are its own."""
    with warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")
        yield


@torch.no_grad()
def _last_map(model: nn.Module, x: Tensor) -> nn.Module:
    """The module whose output is the last one of more than one position, a classifier's own output left out."""
    found: list[tuple[nn.Module, Tensor]] = []

    def note(module: nn.Module, _: Any, y: Any) -> None:
        tokens = isinstance(y, Tensor) and y.ndim == 3 and y.shape[1] > 1
        if tokens or (isinstance(y, Tensor) and y.ndim == 4 and y.shape[2] * y.shape[3] > 1):
            found.append((module, y))

    hooks = [m.register_forward_hook(note) for m in model.modules() if not isinstance(m, nn.Sequential)]
    try:
        logits = model(x)
    finally:
        for hook in hooks:
            hook.remove()
    if found and _is_of_classes(model, found[-1][1], logits):
        last = found[-1][1]  # of the classifier, and of all that only pass it on
        found = [(module, y) for module, y in found if y is not last]
    if not found or found[-1][1].ndim != 4:
        raise MediaError("Grad-CAM needs a network whose last layers give maps; this one has none")
    return found[-1][0]


def _is_of_classes(model: nn.Module, y: Tensor, logits: Tensor) -> bool:
    """Whether a map [1, C, h, w] holds the classes' responses, of which only the mean is taken any more.

    The last layer's of a CoDA-Net are, too; there the papers take them.
    """
    if y.ndim != 4 or y.shape[1] != logits.shape[1]:
        return False
    return averages_class_maps(model) or torch.allclose(y.mean((2, 3)), logits, rtol=1e-4, atol=1e-5)


# ---- by masks --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def occlusion(model: nn.Module, x: Tensor, classes: Sequence[int], *, window: int = 32, stride: int = 32) -> Tensor:
    """How much a logit drops when a window turns black, spread evenly over the window, summed over all windows.

    Windows of ``window`` pixels are centred on multiples of ``stride`` and cut off at the border. (The original code's
    windows have another size than it says: its 5 is 4 here, its 9 is 8, its 50 at stride 20 is 80.)
    """
    colours, chosen = x[:, :3], list(classes)
    H, W = x.shape[2:]
    whole = forward(model, x)[0, chosen]
    maps = x.new_zeros(len(chosen), H, W)
    places = [
        (slice(max(0, cy - window // 2), min(H, cy - window // 2 + window)),
         slice(max(0, cx - window // 2), min(W, cx - window // 2 + window)))
        for cy, cx in itertools.product(range(0, H + 1, stride), range(0, W + 1, stride))
    ]  # fmt: skip
    places = [(rows, columns) for rows, columns in places if rows.start < rows.stop and columns.start < columns.stop]
    for i in range(0, len(places), size := _together(x)):
        batch = places[i : i + size]
        masked = colours.repeat(len(batch), 1, 1, 1)
        for picture, (rows, columns) in zip(masked, batch, strict=True):
            picture[:, rows, columns] = 0
        drops = whole - forward(model, encode(masked))[:, chosen]
        for drop, (rows, columns) in zip(drops, batch, strict=True):
            area = (rows.stop - rows.start) * (columns.stop - columns.start)
            maps[:, rows, columns] += drop[:, None, None] / area
    return maps


@torch.no_grad()
def rise(
    model: nn.Module, x: Tensor, classes: Sequence[int], *, masks: int = 6000, cells: int = 6, kept: float = 0.1,
    seed: int = 42,
) -> Tensor:  # fmt: skip
    """RISE: random soft masks weighted by the probability they leave; not negative, not in logit units.

    Each of ``masks`` keeps a share ``kept`` of ``cells`` x ``cells`` cells, enlarged and shifted at random.
    """
    chosen, (H, W) = list(classes), x.shape[2:]
    generator = torch.Generator().manual_seed(seed)
    ch, cw = -(-H // cells), -(-W // cells)
    total = x.new_zeros(len(chosen), H, W)
    for start in range(0, masks, MASKS_DRAWN):
        n = min(MASKS_DRAWN, masks - start)
        coarse = (torch.rand(n, 1, cells, cells, generator=generator) < kept).to(x)
        fine = F.interpolate(coarse, ((cells + 1) * ch, (cells + 1) * cw), mode="bilinear", align_corners=False)
        dy, dx = (torch.randint(0, c, (n,), generator=generator).tolist() for c in (ch, cw))
        soft = torch.stack([m[:, y : y + H, z : z + W] for m, y, z in zip(fine, dy, dx, strict=True)])
        for part in soft.split(_together(x)):
            p = probabilities(model, forward(model, encode(x[:, :3] * part)))[:, chosen]
            total += torch.einsum("nk,nhw->khw", p, part[:, 0])
    return total / (masks * kept)


def lime(
    model: nn.Module, x: Tensor, classes: Sequence[int], *, samples: int = 256, features: int = 3, kernel: float = 1.0,
    seed: int = 42,
) -> Tensor:  # fmt: skip
    """LIME: the ``features`` superpixels that speak most for the class in a linear fit of its probability, as 1 and 0.

    Superpixels by quickshift (``kernel``, at most 200 away, ratio 0.2); hidden ones take their mean colour. How near a
    masked picture is to the whole one, and so how much it counts, is captum's default, not that of the lime package.
    """
    from captum._utils.models.linear_model import SkLearnRidge
    from captum.attr import LimeBase
    from captum.attr._core.lime import get_exp_kernel_similarity_function
    from skimage.segmentation import quickshift

    rgb = x[0, :3].detach()
    picture = rgb.permute(1, 2, 0).cpu().double().numpy()  # Apple GPUs have no float64
    segments = quickshift(picture, kernel_size=kernel, max_dist=200, ratio=0.2)  # type: ignore[no-untyped-call]
    index = torch.from_numpy(segments).unique(return_inverse=True)[1].to(x.device)  # numbered from 0, [h, w]
    sizes = index.flatten().bincount()
    means = (rgb.new_zeros(3, len(sizes)).index_add(1, index.flatten(), rgb.flatten(1)) / sizes)[:, index]

    def masked(shown: Tensor, whole: Tensor, **_: Any) -> Tensor:
        return torch.where(shown[0, index] == 1, whole, means)

    maps, kept = [], list[Tensor]()  # probabilities [n, K] of each batch of masked pictures, as captum asks for them
    for k in range(len(classes)):
        batches, generator = itertools.count(), torch.Generator().manual_seed(seed)  # the same pictures for every class

        def drawn(_: Tensor, generator: torch.Generator = generator, **__: Any) -> Tensor:
            return torch.full((1, len(sizes)), 0.5).bernoulli(generator=generator).to(x.device)

        def probability(pictures: Tensor, k: int = k, batches: Iterator[int] = batches) -> Tensor:
            if (i := next(batches)) == len(kept):
                with torch.no_grad():
                    kept.append(probabilities(model, forward(model, encode(pictures)))[:, list(classes)])
            return kept[i][:, k]

        fit, near = SkLearnRidge(alpha=1.0), get_exp_kernel_similarity_function()
        with quiet():
            weights = LimeBase(probability, fit, near, drawn, True, masked, None).attribute(
                rgb[None], n_samples=samples, perturbations_per_eval=_together(x)
            )[0]
        best, which = weights.topk(min(features, len(sizes)))
        maps.append(torch.isin(index, which[best > 0].to(index.device)).to(x.dtype))
    return torch.stack(maps)
