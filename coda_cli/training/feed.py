"""What the trained part of a network sees in every step, and how often it is right meanwhile."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coda_cli.core.bcos_nets import BcosNet
from coda_cli.core.hybrid import HybridNet
from coda_cli.core.networks import CodaNet, classify, encode
from coda_cli.training.batches import batch_of_step, resized
from coda_cli.training.datasets import Split
from coda_cli.training.features import at_cut, many_at_cut, teacher_logits
from coda_cli.training.origins import Origin
from coda_cli.training.recipes import Recipe

QUICK_TEST, QUICK_FROZEN = 2000, 500  # held-out pictures looked at after every epoch; the final accuracy is of all
ANSWERED = 100  # held-out pictures whose maps are in memory together while the ordinary network answers

Trainable = CodaNet | BcosNet | HybridNet


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
        self._sample: tuple[int, Tensor] | None = None  # side of the held-out sample, and its maps
        if recipe.distil:
            assert isinstance(model, HybridNet)
            assert origin
            parts = test_split.images.split(ANSWERED)
            maps = (many_at_cut(model, part, autocast=self._autocast) for part in parts)
            answers = [teacher_logits(origin, recipe, a).argmax(1) for a in maps]
            self.held_out = replace(test_split, labels=torch.cat(answers))

    @property
    def _autocast(self) -> bool:
        return self.recipe.precision == "bfloat16"

    def train(self) -> None:
        """Set the network to training mode, but for a backbone that stays as it is."""
        self._model.train()
        if isinstance(self._model, HybridNet) and self.recipe.frozen:
            self._model.below.eval()

    def batch(self, step: int, steps: int, per_epoch: int) -> tuple[Tensor, Tensor, Tensor]:
        """Make the batch of one step.

        Args:
            step: from 0 on.
            steps: in the whole run.
            per_epoch: in an epoch.

        Returns:
            What the trained part sees, float [B, C, h, w]; the pictures' labels, int64 [B]; and the probabilities
            that it should give, float [B, classes].
        """
        r = self.recipe
        again = step % (r.views * per_epoch) if r.views else step
        images, labels = (None, None) if again in self._views else batch_of_step(
            self._data, r, again, per_epoch, r.side(step / steps)
        )  # fmt: skip
        if images is None:
            x, targets = self._views[again]
            return x, targets.argmax(1), targets
        assert labels is not None
        targets = F.one_hot(labels, len(self._data.classes)).float()
        if not r.frozen:
            return encode(images).contiguous(memory_format=torch.channels_last), labels, targets
        assert isinstance(self._model, HybridNet)
        x = at_cut(self._model, images, autocast=self._autocast)
        if r.distil:
            assert self._origin
            targets = teacher_logits(self._origin, r, x).softmax(1)
        if r.views:
            self._views[again] = x, targets
        return x, labels, targets

    def quick_accuracy(self, progress: float) -> float:
        """Measure the accuracy on a sample of held-out pictures, of the size that is trained at the moment.

        Args:
            progress: share of all steps that are done, in [0, 1).

        Returns:
            A share in [0, 1].
        """
        limit = QUICK_FROZEN if self.recipe.frozen else QUICK_TEST
        sample = resized(self.held_out, self.recipe.side(progress), limit=limit)
        if not self.recipe.frozen:
            quick = accuracy(self._model, sample, autocast=self._autocast)
        else:
            assert isinstance(self._model, HybridNet)
            side = sample.images.shape[-1]
            if self._sample is None or self._sample[0] != side:
                self._sample = side, many_at_cut(self._model, sample.images, autocast=self._autocast)
            maps = self._sample[1]
            with torch.no_grad(), torch.autocast(maps.device.type, torch.bfloat16, enabled=self._autocast):
                logits = torch.cat([self._model.above(a.float()) for a in maps.split(50)])
            quick = int((logits.argmax(1) == sample.labels).sum()) / len(sample)
        self.train()
        return quick


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
