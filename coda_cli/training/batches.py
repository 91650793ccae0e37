"""The pictures of every step of a run: which ones, how they are changed, and which classes they are compared with.

All of it follows from the seed and the number of the step, so that a resumed run repeats what it would have done.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from coda_cli.training.datasets import Split
from coda_cli.training.recipes import Recipe

MOST_STRETCH = 1.2  # crops are up to this much wider or higher than square ones


def batch_of_step(split: Split, recipe: Recipe, step: int, per_epoch: int, side: int) -> tuple[Tensor, Tensor]:
    """Make the batch of one step of a run.

    Args:
        split: the training pictures.
        recipe: the size of a batch, the seed, and how pictures are changed.
        step: from 0 on.
        per_epoch: steps in an epoch.
        side: of the pictures, in pixels.

    Returns:
        Augmented pictures, float32 [batch, 3, side, side] in [0, 1], and their labels, int64 [batch].
    """
    # One permutation per epoch, made anew for each step: cheap, and nothing has to be remembered for a resume.
    order = torch.randperm(len(split), generator=_generator(recipe.seed, step // per_epoch, 0))
    first = (step % per_epoch) * recipe.batch
    chosen = order[first : first + recipe.batch].to(split.labels.device)
    return augment(split.images[chosen], recipe, _generator(recipe.seed, step, 1), side), split.labels[chosen]


def augment(images: Tensor, recipe: Recipe, generator: torch.Generator, side: int) -> Tensor:
    """Change pictures at random, each in its own way, all in one go.

    Each is cropped, scaled, mirrored, and changed in brightness and contrast, as far as the recipe asks for it.

    Args:
        images: uint8 [B, 3, s, s].
        recipe: how much each change may be.
        generator: on the CPU; it decides all changes.
        side: of the results, in pixels.

    Returns:
        float32 [B, 3, side, side] in [0, 1].
    """
    x = images.float() / 255
    while x.shape[-1] >= 2 * side:  # bilinear sampling alone would alias
        x = F.avg_pool2d(x, 2)
    B = len(x)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(B, generator=generator)

    stretch = MOST_STRETCH if recipe.smallest_crop < 1 else 1.0
    area, aspect = uniform(recipe.smallest_crop, 1), uniform(-1, 1).mul(math.log(stretch)).exp()
    width, height = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    mirrored = uniform(0, 1) < (0.5 if recipe.flip else 0)
    theta = torch.zeros(B, 2, 3)  # in grid_sample's coordinates the picture reaches from -1 to 1
    theta[:, 0, 0], theta[:, 1, 1] = torch.where(mirrored, -width, width), height
    theta[:, 0, 2], theta[:, 1, 2] = uniform(-1, 1) * (1 - width), uniform(-1, 1) * (1 - height)
    grid = F.affine_grid(theta.to(x.device), [B, 3, side, side], align_corners=False)
    x = F.grid_sample(x, grid, padding_mode="border", align_corners=False)
    contrast = uniform(1 - recipe.jitter, 1 + recipe.jitter).to(x.device)[:, None, None, None]
    brightness = uniform(-recipe.jitter / 2, recipe.jitter / 2).to(x.device)[:, None, None, None]
    mean = x.mean((1, 2, 3), keepdim=True)
    return ((x - mean) * contrast + mean + brightness).clamp(0, 1)


def two_classes(labels: Tensor, count: int, recipe: Recipe, step: int) -> Tensor:
    """Draw one other class for every picture, each of the others with the same probability.

    Args:
        labels: int64 [B], the classes of the pictures.
        count: how many classes there are.
        recipe: its seed decides.
        step: from 0 on.

    Returns:
        int64 [B, 2]: the picture's class and the other one.
    """
    generator = _generator(recipe.seed + 7_919, step, 1)  # not the one that augments
    others = torch.randint(count - 1, (len(labels),), generator=generator).to(labels.device)
    return torch.stack([labels, (labels + 1 + others) % count], 1)


def _generator(seed: int, n: int, stream: int) -> torch.Generator:
    # Odd multipliers keep (seed, n, stream) apart; the generator hashes its seed itself.
    return torch.Generator().manual_seed((seed * 1_000_003 + n) * 2 + stream)


def resized(split: Split, side: int, limit: int) -> Split:
    """Take a fixed sample of a split, scaled.

    Args:
        split: uint8 pictures.
        side: of the results, in pixels.
        limit: at most so many pictures are taken.

    Returns:
        The sample, always the same for the same split.
    """
    chosen = torch.randperm(len(split), generator=torch.Generator().manual_seed(0))[:limit].to(split.labels.device)
    images = split.images[chosen]
    if images.shape[-1] != side:
        scaled = F.interpolate(images.float(), size=(side, side), mode="bilinear", antialias=True)
        images = scaled.round().to(torch.uint8)
    return Split(images, split.labels[chosen], split.classes)
