"""What the trained part of a network sees in every step, and how often it is right meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coda_cli.core.bcos_nets import BcosNet
from coda_cli.core.bcosified import CentredNet
from coda_cli.core.hybrid import HybridNet
from coda_cli.core.networks import CodaNet, classify, encode
from coda_cli.core.standard_nets import StandardNet
from coda_cli.training.batches import batch_of_step, resized
from coda_cli.training.conversion import ordinary_layers, ordinary_maps
from coda_cli.training.datasets import Split
from coda_cli.training.features import at_cut, many_at_cut, teacher_logits
from coda_cli.training.origins import Origin
from coda_cli.training.recipes import Recipe

QUICK_TEST, QUICK_FROM = 2000, 500  # held-out pictures looked at after every epoch; the final accuracy is of all
ANSWERED = 100  # held-out pictures whose maps are in memory together while the ordinary network answers

Trainable = CodaNet | BcosNet | HybridNet | CentredNet


class Batch(NamedTuple):
    """What one step sees.

    Attributes:
        x: what the trained part sees, float [B, C, h, w].
        labels: of the pictures, int64 [B].
        targets: the probabilities that it should give, float [B, classes].
        maps: what ``conversion.maps_of`` gives of the ordinary network, where its directions are learned too.
    """

    x: Tensor
    labels: Tensor
    targets: Tensor
    maps: list[Tensor] | None = None


class Feed:
    """What the trained part of a network sees: encoded pictures, or what a frozen backbone gives for them.

    Attributes:
        recipe: of the run.
        held_out: the held-out pictures; where the ordinary network is learned from, its answers are their labels.
    """

    def __init__(
        self, model: Trainable, recipe: Recipe, train_split: Split, test_split: Split, origin: Origin | None
    ) -> None:
        """Prepare it; nothing is computed yet but the answers of the ordinary network.

        Args:
            model: the network.
            recipe: of the run.
            train_split: training pictures, on the device of the network.
            test_split: held-out pictures.
            origin: the network that it starts from.
        """
        self.recipe, self.held_out = recipe, test_split
        self._model, self._data, self._origin = model, train_split, origin
        self._views: dict[int, tuple[Tensor, Tensor]] = {}  # maps and targets of steps that come again
        self._to_cut = _ordinary_part(model, recipe, origin)
        self._sample: tuple[int, Tensor] | None = None  # side of the held-out sample, and its maps
        if recipe.distil:
            assert origin
            assert self._to_cut
            parts = test_split.images.split(ANSWERED)
            maps = (many_at_cut(self._to_cut, part, autocast=self._autocast) for part in parts)
            answers = [teacher_logits(origin, recipe, a).argmax(1) for a in maps]
            self.held_out = replace(test_split, labels=torch.cat(answers))

    @property
    def sampled(self) -> int:
        """How many held-out pictures are looked at after every epoch, at most."""
        return QUICK_FROM if self.recipe.origin else QUICK_TEST

    @property
    def _autocast(self) -> bool:
        return self.recipe.precision == "bfloat16"

    def train(self) -> None:
        """Set the network to training mode, but for a backbone that stays as it is."""
        self._model.train()
        if isinstance(self._model, HybridNet) and self.recipe.frozen:
            self._model.below.eval()

    def batch(self, step: int, steps: int, per_epoch: int) -> Batch:
        """Make the batch of one step.

        Args:
            step: from 0 on.
            steps: in the whole run.
            per_epoch: in an epoch.

        Returns:
            The pictures, or what the frozen part gives for them, and what they should give.
        """
        r = self.recipe
        again = step % (r.views * per_epoch) if r.views else step
        images, labels = (None, None) if again in self._views else batch_of_step(
            self._data, r, again, per_epoch, r.side(step / steps)
        )  # fmt: skip
        if images is None:
            x, targets = self._views[again]
            return Batch(x, targets.argmax(1), targets)
        assert labels is not None
        targets = F.one_hot(labels, len(self._data.classes)).float()
        a, maps = self._ordinary_answers(images)
        if r.distil:
            assert self._origin
            assert a is not None
            targets = teacher_logits(self._origin, r, a).softmax(1)
        if not r.frozen:
            x = encode(images).contiguous(memory_format=torch.channels_last)
            return Batch(x, labels, targets, maps)
        assert a is not None
        if r.views:
            self._views[again] = a, targets
        return Batch(a, labels, targets)

    def _ordinary_answers(self, images: Tensor) -> tuple[Tensor | None, list[Tensor] | None]:
        """The ordinary network's last map of some pictures, and those of its blocks; None where nothing needs them."""
        if self._to_cut is None:
            return None, None
        if not self.recipe.alignment:
            return at_cut(self._to_cut, images, autocast=self._autocast), None
        assert isinstance(self._to_cut, StandardNet)
        maps = ordinary_maps(self._to_cut, images, autocast=self._autocast)
        return maps[-1], maps

    def quick_accuracy(self, progress: float) -> float:
        """Measure the accuracy on a sample of held-out pictures, of the size that is trained at the moment.

        Args:
            progress: share of all steps that are done, in [0, 1).

        Returns:
            A share in [0, 1].
        """
        sample = resized(self.held_out, self.recipe.side(progress), limit=self.sampled)
        if not self.recipe.frozen:
            quick = accuracy(self._model, sample, autocast=self._autocast)
        else:
            assert isinstance(self._model, HybridNet)
            assert self._to_cut
            side = sample.images.shape[-1]
            if self._sample is None or self._sample[0] != side:
                self._sample = side, many_at_cut(self._to_cut, sample.images, autocast=self._autocast)
            maps = self._sample[1]
            with torch.no_grad(), torch.autocast(maps.device.type, torch.bfloat16, enabled=self._autocast):
                logits = torch.cat([self._model.above(a.float()) for a in maps.split(50)])
            quick = int((logits.argmax(1) == sample.labels).sum()) / len(sample)
        self.train()
        return quick


def _ordinary_part(model: Trainable, recipe: Recipe, origin: Origin | None) -> Callable[[Tensor], Tensor] | None:
    """What makes the map that the run takes from an ordinary network, where it takes one."""
    if isinstance(model, HybridNet):
        return model.to_cut if recipe.frozen else None
    if not (recipe.distil or recipe.alignment):
        return None
    assert origin
    return ordinary_layers(origin).to(next(model.parameters()).device)


def accuracy(model: nn.Module, split: Split, *, autocast: bool = False) -> float:
    """Measure the share of pictures whose highest logit is their label's.

    Args:
        model: the network; it is set to eval mode.
        split: the pictures, on the device of the network.
        autocast: compute in bfloat16 where that is faster.

    Returns:
        A share in [0, 1].
    """
    model.eval()
    with torch.autocast(split.images.device.type, torch.bfloat16, enabled=autocast):
        right = classify(model, split.images).argmax(1) == split.labels
    return int(right.sum()) / len(split)


def finite(model: nn.Module) -> bool:
    """Whether all weights of a network are finite.

    Args:
        model: the network.

    Returns:
        The answer.
    """
    return all(bool(torch.isfinite(p).all()) for p in model.parameters())
