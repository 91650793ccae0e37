"""Batches: crops, colours and order of pictures, stages, and the temperature of each step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from squares import ARGUMENTS, TINY, generator, numbered, run, squares
from torch import Tensor

from coda_cli.training import feed, loop
from coda_cli.training.batches import MOST_STRETCH, augment, batch_of_step
from coda_cli.training.datasets import Split
from coda_cli.training.recipes import Recipe

pytestmark = pytest.mark.usefixtures("one_thread")


def ramps(count: int, s: int = 40) -> Tensor:
    """Pictures uint8 [count, 3, s, s] that say where one looks: red rises to the right, green downwards, 4 a pixel."""
    at = (torch.arange(s) * 4 + 20).to(torch.uint8)
    return torch.stack([at.expand(s, s), at[:, None].expand(s, s), torch.zeros(s, s, dtype=torch.uint8)]).repeat(
        count, 1, 1, 1
    )


@dataclass(frozen=True)
class Crop:
    """The part of a picture of ``ramps`` that is shown, in pixels: centre and size; width < 0: mirrored."""

    x: float
    y: float
    width: float
    height: float


def crop_of(result: Tensor) -> Crop:
    """Found from the inner half of the picture, where no edge is near."""
    side = result.shape[-1]
    inner = slice(side // 4, side - side // 4)
    values = (result * 255 - 20) / 4 + 0.5  # pixels from the left, from the top
    x, y = values[0, inner, inner].mean(0).double(), values[1, inner, inner].mean(1).double()
    steps = [float(torch.diff(v).mean()) for v in (x, y)]
    assert float((torch.diff(x) - steps[0]).abs().max()) < 0.05, "columns are evenly spaced"
    assert float((torch.diff(y) - steps[1]).abs().max()) < 0.05, "rows are evenly spaced"
    return Crop(float(x.mean()), float(y.mean()), steps[0] * side, steps[1] * side)


def check_crops(augmented: Callable[..., Tensor], smallest: float, side: int, *, flip: bool = True) -> None:
    recipe = replace(TINY, smallest_crop=smallest, flip=flip)
    images = ramps(300)
    before = images.clone()
    results = augmented(images, recipe, generator(1), side)
    assert torch.equal(images, before)
    assert results.shape == (300, 3, side, side)
    crops = [crop_of(result) for result in results]
    areas = [abs(c.width) * c.height / 1600 for c in crops]
    assert min(areas) >= smallest * 0.93
    assert max(areas) <= 1.03
    for c in crops:
        assert c.height > 0, "never upside down"
        assert abs(c.width) / 2 - 0.8 <= c.x <= 40.8 - abs(c.width) / 2, "inside the picture"
        assert c.height / 2 - 0.8 <= c.y <= 40.8 - c.height / 2
    mirrored = sum(c.width < 0 for c in crops)
    assert mirrored == pytest.approx(150, abs=40) if flip else mirrored == 0
    if smallest < 1:
        assert min(areas) < smallest + 0.1
        assert max(areas) > 0.9
        shapes = [abs(c.width) / c.height for c in crops]
        assert 1 / (MOST_STRETCH + 0.05) < min(shapes) < 0.9
        assert 1.1 < max(shapes) < MOST_STRETCH + 0.05
        assert np.std([c.x for c in crops]) > 1, "every picture goes its own way"
        assert np.std([c.y for c in crops]) > 1


@pytest.mark.parametrize("side", [40, 30, 20, 16])
@pytest.mark.parametrize(("smallest", "flip"), [(1.0, False), (1.0, True), (0.5, True), (0.35, False)])
def test_crops_lie_inside_the_picture_and_have_the_sizes_asked_for(side: int, smallest: float, flip: bool) -> None:
    check_crops(augment, smallest, side, flip=flip)


def test_pictures_that_wrap_around_or_turn_are_caught() -> None:
    def wrapped(images: Tensor, recipe: Recipe, g: torch.Generator, side: int) -> Tensor:
        return augment(images.roll(15, 3), recipe, g, side)

    def upside_down(images: Tensor, recipe: Recipe, g: torch.Generator, side: int) -> Tensor:
        return augment(images.flip(2), recipe, g, side)

    def all_the_same(images: Tensor, recipe: Recipe, _: torch.Generator, side: int) -> Tensor:
        return torch.cat([augment(image[None], recipe, generator(), side) for image in images])

    for wrong in (wrapped, upside_down, all_the_same):
        with pytest.raises(AssertionError):
            check_crops(wrong, 0.5, 40)


def test_without_crops_a_picture_of_the_right_size_is_only_mirrored() -> None:
    images = torch.randint(0, 256, (200, 3, 9, 9), generator=generator()).to(torch.uint8)
    for result, image in zip(augment(images, TINY, generator(), 9), images.float() / 255, strict=True):
        assert min(float((result - image).abs().max()), float((result - image.flip(2)).abs().max())) < 1e-5


def test_smaller_pictures_are_averaged_not_thinned_out() -> None:
    checkers = (torch.arange(32)[:, None] + torch.arange(32)).remainder(2).mul(255).to(torch.uint8)
    small = augment(checkers.expand(4, 3, 32, 32), TINY, generator(), 16)
    torch.testing.assert_close(small, torch.full_like(small, 0.5))


def test_jitter_changes_brightness_and_contrast_within_its_bounds() -> None:
    images = torch.tensor([100, 150], dtype=torch.uint8).repeat(8, 4).expand(400, 3, 8, 8)
    results = augment(images, replace(TINY, flip=False, jitter=0.2), generator(), 8)
    means = results.mean((1, 2, 3)) - 125 / 255
    contrasts = (results.amax((1, 2, 3)) - results.amin((1, 2, 3))) / (50 / 255)
    for values, middle, bound in ((means, 0.0, 0.1), (contrasts, 1.0, 0.2)):
        assert float((values - middle).abs().max()) <= bound + 1e-4
        assert float(values.min()) < middle - 0.8 * bound
        assert float(values.max()) > middle + 0.8 * bound


@pytest.mark.parametrize("count", [40, 43])
def test_an_epoch_shows_every_picture_once_with_its_label_and_leaves_out_less_than_a_batch(count: int) -> None:
    split, recipe = numbered(count), replace(TINY, batch=8, flip=False)
    epochs = []
    for epoch in range(3):
        seen: list[int] = []
        for step in range(epoch * 5, epoch * 5 + 5):
            images, labels = batch_of_step(split, recipe, step, 5, 2)
            numbers = (images[:, 0, 0, 0] * 255).round().long()
            assert images.shape == (8, 3, 2, 2)
            assert labels.tolist() == (numbers * 7 % 10).tolist()
            seen += numbers.tolist()
        assert len(set(seen)) == len(seen) == 40
        epochs.append(seen)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0], "every epoch has an order of its own"
    assert epochs[0] != sorted(epochs[0])


def test_a_step_is_the_same_whenever_it_is_asked_for_and_differs_from_others() -> None:
    split, recipe = squares(30, 0), replace(TINY, batch=5, smallest_crop=0.5, jitter=0.1)
    first = [batch_of_step(split, recipe, step, 6, 12)[0] for step in range(12)]
    again = [batch_of_step(split, recipe, step, 6, 12)[0] for step in reversed(range(12))][::-1]
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one, other)
    equal = replace(split, images=split.images[:1].repeat(30, 1, 1, 1))  # so that only the augmentation can differ
    assert len({batch_of_step(equal, recipe, step, 6, 12)[0].numpy().tobytes() for step in range(12)}) == 12
    reseeded = replace(recipe, seed=4)
    assert not torch.equal(batch_of_step(equal, recipe, 0, 6, 12)[0], batch_of_step(equal, reseeded, 0, 6, 12)[0])
    still, still_reseeded = (replace(TINY, batch=5, flip=False, seed=seed) for seed in (3, 4))
    assert not torch.equal(batch_of_step(split, still, 0, 6, 12)[0], batch_of_step(split, still_reseeded, 0, 6, 12)[0])


def test_stages_show_smaller_pictures_first(data: tuple[Split, Split], tmp_path: Path) -> None:
    sizes: list[int] = []

    def listening(*args: Any) -> tuple[Tensor, Tensor]:
        images, labels = batch_of_step(*args)
        sizes.append(images.shape[-1])
        return images, labels

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feed, "batch_of_step", listening)
        run(replace(TINY, epochs=2, stages=[[0.3, 0.5], [0.2, 0.75]]), data, tmp_path)
    assert sizes == [6] * 3 + [9] * 2 + [12] * 5


def test_the_temperature_rises_geometrically_and_follows_the_area() -> None:
    recipe = replace(TINY, arguments={**ARGUMENTS, "temperature": 400.0}, first_temperature=100.0, rise=0.5)
    assert [recipe.temperature(p) for p in (0.0, 0.25, 0.5, 0.9)] == pytest.approx([100, 200, 400, 400])
    half = replace(recipe, stages=[[0.3, 0.5]])
    assert [half.temperature(p) for p in (0.0, 0.25, 0.5)] == pytest.approx([25, 50, 400])
    assert [TINY.temperature(p) for p in (0.0, 1.0)] == [1.0, 1.0]
    assert replace(recipe, rise=0.0).temperature(0.0) == pytest.approx(400)
    assert replace(recipe, first_temperature=1000.0).temperature(0.0) == pytest.approx(400)  # it never falls


def test_a_rising_temperature_ends_in_the_network_s_own(data: tuple[Split, Split], tmp_path: Path) -> None:
    seen: list[Tensor] = []
    original = F.binary_cross_entropy_with_logits

    def listening(logits: Tensor, target: Tensor) -> Tensor:
        seen.append(logits.detach().clone())
        return original(logits, target)

    recipe = replace(
        TINY, epochs=1, batch=60, learning_rate=0.0, arguments={**ARGUMENTS, "temperature": 8.0}, flip=False
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.F, "binary_cross_entropy_with_logits", listening)
        for first in (8.0, 2.0):
            run(replace(recipe, first_temperature=first), data, tmp_path / str(first))
    (own, *_), (sharper, *_) = seen[: len(seen) // 2], seen[len(seen) // 2 :]
    bias = ARGUMENTS["bias"]
    torch.testing.assert_close(sharper - bias, 4 * (own - bias))
