"""Hybrids on a backbone that stays as it is: what the backbone gives, and the layer that starts on it."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from coda_cli.core.backbones import with_stride
from coda_cli.core.dau_layer import DAUConv2d
from coda_cli.core.hybrid import HybridNet
from coda_cli.core.networks import CodaNet, encode
from coda_cli.machine import budget
from coda_cli.machine.lanes import each, parts
from coda_cli.training.datasets import Split
from coda_cli.training.origins import Origin
from coda_cli.training.recipes import Recipe

SMALL = 0.01  # by this the dynamic part of weights begins smaller than it is drawn
PENALTY, ROUNDS = 1e-3, 60  # of the linear classifier: weight of its squared norm in the loss, steps of the solver
FITTED = 8000  # pictures that the classifier is fitted to, where the ordinary network is learned from
FULLEST = 0.9  # of what a unit can give at most: as far as it is driven at the start

ToCut = Callable[[Tensor], Tensor]  # the map of encoded pictures


@torch.no_grad()
def at_cut(to_cut: ToCut, pictures: Tensor, *, autocast: bool) -> Tensor:
    """Compute what the backbone gives; every core takes a part of the batch.

    Args:
        to_cut: makes the map of encoded pictures; its layers are in eval mode.
        pictures: uint8 or floats in [0, 1], [B, 3, H, W], on the layers' device.
        autocast: compute in bfloat16.

    Returns:
        [B, C, h, w], in bfloat16 where it was computed in that: half the memory.
    """
    x = encode(pictures).contiguous(memory_format=torch.channels_last)
    with torch.autocast(x.device.type, torch.bfloat16, enabled=autocast):
        a = torch.cat(each(to_cut, parts(x)))
    return a.to(torch.bfloat16) if autocast else a


def many_at_cut(to_cut: ToCut, pictures: Tensor, *, autocast: bool) -> Tensor:
    """Compute what the backbone gives for many pictures, some at a time.

    Args:
        to_cut: makes the map of encoded pictures; its layers are in eval mode.
        pictures: uint8 [N, 3, H, W], on the layers' device.
        autocast: compute in bfloat16.

    Returns:
        [N, C, h, w], see ``at_cut``.
    """
    at_once = budget.classified_at_once(pictures.shape[2] * pictures.shape[3])
    return torch.cat([at_cut(to_cut, some, autocast=autocast) for some in pictures.split(at_once)])


def views_kept(numbers: int, pictures: int, epochs: int) -> int:
    """Choose how many epochs have pictures of their own; those after them see the same again, out of memory.

    Args:
        numbers: that the backbone gives for one picture.
        pictures: of an epoch.
        epochs: of the run.

    Returns:
        How many; 0 where memory does not hold enough of them, and the backbone computes each picture anew.
    """
    views = min(epochs, budget.FEATURE_BYTES // (2 * numbers * pictures), budget.MOST_VIEWS)
    return views if views >= min(epochs, budget.LEAST_VIEWS) else 0


def teacher_logits(origin: Origin, recipe: Recipe, a: Tensor) -> Tensor:
    """Compute the logits of the ordinary network from what its layers give.

    Args:
        origin: the ordinary network.
        recipe: whether its layers are dilated.
        a: the map at the cut [B, C, h, w].

    Returns:
        float32 [B, classes].
    """
    assert origin.classifier is not None
    if recipe.arguments.get("dilated"):
        a = with_stride(origin.backbone, a)
    W, constants = (t.to(a.device, torch.float32) for t in origin.classifier)
    return a.float().mean((2, 3)) @ W.t() + constants


def start(model: HybridNet, origin: Origin, recipe: Recipe, data: Split) -> None:
    """Fill a new hybrid: the backbone from its origin, the layer on it as a linear classifier.

    That classifier is fitted to the means of the training pictures' maps. Where the ordinary network's classes are
    kept it begins as that network's own: with one constant for all classes and a sigmoid for each, evidence for a class
    can no longer be anything that all classes share, and lies more often where the class is.

    Args:
        model: the network, freshly drawn; it is changed.
        origin: what it starts from.
        recipe: of the run.
        data: the training pictures, on the model's device.
    """
    drawn = origin.fill(model)
    above = model.above
    assert isinstance(above, CodaNet)
    layer = above.layers[0]
    if not any(key.startswith("above.") for key in drawn):
        return  # a head that was trained already
    if len(above.layers) > 1 or not isinstance(layer, DAUConv2d) or layer.kernel_size > 1 or layer.groups > 1:
        return
    one = F.interpolate(data.images[:1].float() / 255, (recipe.size, recipe.size))
    positions = at_cut(model.to_cut, one, autocast=False)[0, 0].numel()
    W = classifier_to_start_with(model.to_cut, origin, recipe, data, above.bias)
    begin_as(layer, W, positions / above.temperature)


def classifier_to_start_with(to_cut: ToCut, origin: Origin, recipe: Recipe, data: Split, bias: float) -> Tensor:
    """Fit a linear classifier to the means of the training pictures' maps.

    Args:
        to_cut: makes the map of encoded pictures; its layers are in eval mode.
        origin: the ordinary network, whose own classifier it begins as where its classes are kept.
        recipe: of the run.
        data: the training pictures, on the layers' device.
        bias: the constant of every logit.

    Returns:
        float32 [classes, C].
    """
    pooled, taught = _pooled(to_cut, origin, recipe, data)
    targets = taught.softmax(1) if recipe.distil else F.one_hot(data.labels, len(data.classes)).float()
    before = origin.classifier[0].to(pooled) if recipe.distil and origin.classifier else None
    return fitted_classifier(pooled, targets, bias, before)


def _pooled(to_cut: ToCut, origin: Origin, recipe: Recipe, data: Split) -> tuple[Tensor, Tensor]:
    """Means of the maps of training pictures, float32 [N, C], and, of those that it learns from, the logits.

    Where the ordinary network is learned from, some of the pictures are enough.
    """
    side = recipe.size
    images = data.images[:: max(1, len(data) // FITTED)] if recipe.distil else data.images
    # Filled in place: small results kept between the large maps would hold on to the memory of all of them.
    pooled = taught = torch.empty(0)
    at_once = budget.classified_at_once(side * side)
    for n, some in enumerate(images.split(at_once)):
        seen = F.interpolate(some.float() / 255, (side, side), mode="bilinear", antialias=True)
        a = at_cut(to_cut, seen, autocast=recipe.precision == "bfloat16")
        if not n:
            pooled = torch.empty(len(images), a.shape[1], device=a.device)
            taught = torch.empty(len(images), len(data.classes), device=a.device) if recipe.distil else pooled
        part = slice(n * at_once, n * at_once + len(some))
        pooled[part] = a.float().mean((2, 3))
        if recipe.distil:
            taught[part] = teacher_logits(origin, recipe, a)
    return pooled, taught


def fitted_classifier(pooled: Tensor, targets: Tensor, bias: float, before: Tensor | None = None) -> Tensor:
    """Fit a linear classifier whose constant is the same for all classes, by the loss that networks are trained with.

    Args:
        pooled: float32 [N, C].
        targets: probabilities, float32 [N, classes].
        bias: the constant of every logit.
        before: [classes, C], what it may not go far from; 0 unless given.

    Returns:
        float32 [classes, C].
    """
    start = pooled.new_zeros(targets.shape[1], pooled.shape[1]) if before is None else before
    W = start.clone(memory_format=torch.contiguous_format).requires_grad_()  # the solver asks for it
    solver = torch.optim.LBFGS([W], max_iter=ROUNDS, history_size=10, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        fit = F.binary_cross_entropy_with_logits(pooled @ W.t() + bias, targets, reduction="sum") / len(pooled)
        value: Tensor = fit + PENALTY * (W - start).square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        solver.step(loss)
    return W.detach()


@torch.no_grad()
def begin_as(layer: DAUConv2d, W: Tensor, gain: float) -> None:
    """Make a DAU layer of 1 x 1 kernels compute a linear classifier, but for a small dynamic part.

    A unit with the constant weights b gives g(|b|) b.x, with "SQ" n^2 / (1 + n^2) |x| cos: the length of b is chosen
    so that ``gain`` times this is W.x, as far as a unit can give that.

    Args:
        layer: it is changed.
        W: [O, C].
        gain: positions of a map, by the temperature: what a sum over positions is more than a mean.
    """
    assert layer.b is not None
    n = W.norm(dim=1).clamp_min(1e-12)
    if layer.norm == "SQ":
        asked = (n / gain).clamp(max=FULLEST)
        length = (asked / (1 - asked)).sqrt()
    else:
        length = n  # the direction is all that counts
    layer.b.copy_((W * (length / n)[:, None])[:, :, None, None])
    layer.U.mul_(SMALL)
