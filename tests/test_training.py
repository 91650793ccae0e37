"""Training: runs learn, equal the same steps written out, and give a true file or an error."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from squares import ARGUMENTS, CLASSES, CPU, TINY, generator, log_of, numbered, run, same, squares, weights
from torch import Tensor

import coda_cli
from coda_cli.checkpoints.loading import load
from coda_cli.core.networks import build, encode
from coda_cli.errors import TrainingError
from coda_cli.training import batches, loop
from coda_cli.training.batches import batch_of_step
from coda_cli.training.datasets import Split
from coda_cli.training.loop import Tick, learning_rate
from coda_cli.training.recipes import Recipe
from coda_cli.training.results import finish
from coda_cli.training.state import LOG_FIELDS

pytestmark = pytest.mark.usefixtures("one_thread")


# ---- the schedule ----------------------------------------------------------------------------------------------------


def test_the_learning_rate_rises_linearly_and_falls_along_half_a_cosine() -> None:
    recipe = replace(TINY, learning_rate=2.0, warmup=0.1)
    rates = [learning_rate(recipe, step, 100) for step in range(101)]
    assert rates[:10] == pytest.approx([0.2 * n for n in range(1, 11)])
    assert rates[10] == 2.0
    assert rates[40] == pytest.approx(2 * 0.75)  # a third of the way down: cos(pi / 3) = 1 / 2
    assert rates[55] == pytest.approx(1.0)
    assert rates[70] == pytest.approx(2 * 0.25)
    assert rates[100] == pytest.approx(0, abs=1e-12)
    assert all(a > b > 0 for a, b in pairwise(rates[10:100]))


@pytest.mark.parametrize(("warmup", "steps"), [(0.0, 10), (1.0, 10), (0.5, 1), (0.05, 3)])
def test_a_schedule_without_a_rise_or_fall_stays_within_its_bounds(warmup: float, steps: int) -> None:
    rates = [learning_rate(replace(TINY, learning_rate=2.0, warmup=warmup), step, steps) for step in range(steps)]
    assert max(rates) == 2.0
    assert min(rates) > 0


# ---- runs ------------------------------------------------------------------------------------------------------------


def test_a_run_learns(data: tuple[Split, Split], tmp_path: Path) -> None:
    ticks: list[Tick] = []
    epochs: list[tuple[int, float]] = []
    flushed = list[bool]()

    def note(tick: Tick) -> None:
        ticks.append(tick)
        flushed.append(sys.float_info.min / 2 == 0)

    result = run(TINY, data, tmp_path, on_step=note, on_epoch=lambda *said: epochs.append(said))
    assert all(flushed), "denormal numbers take up to a hundred times as long"
    assert sys.float_info.min / 2 > 0
    losses = [tick.loss for tick in ticks]
    assert result.finished
    assert (result.steps, len(ticks), ticks[-1].steps) == (20, 20, 20)
    assert losses[0] > 0.6
    assert np.mean(losses[-3:]) < 0.3
    assert result.accuracy is not None
    assert result.accuracy > 0.9
    assert [n for n, _ in epochs] == [1, 2, 3, 4]
    assert epochs[-1][1] == result.accuracy, "fewer held-out pictures than the sample: the same number"
    assert not result.model.training
    assert [t.step for t in ticks] == list(range(1, 21))
    assert all(a.seconds < b.seconds for a, b in pairwise(ticks))


def test_without_labels_that_mean_something_nothing_is_learned(data: tuple[Split, Split], tmp_path: Path) -> None:
    """So that the test above is about learning: with shuffled labels held-out accuracy stays near chance."""
    shuffled = data[0].labels[torch.randperm(len(data[0]), generator=generator())]
    result = run(TINY, (replace(data[0], labels=shuffled), data[1]), tmp_path)
    assert result.accuracy is not None
    assert result.accuracy < 0.8


def test_bfloat16_learns_too(data: tuple[Split, Split], tmp_path: Path) -> None:
    result = run(replace(TINY, precision="bfloat16"), data, tmp_path)
    assert result.accuracy is not None
    assert result.accuracy > 0.9
    assert {p.dtype for p in result.model.parameters()} == {torch.float32}


def test_two_runs_give_the_same_weights_and_another_seed_gives_others(
    data: tuple[Split, Split], tmp_path: Path
) -> None:
    short = replace(TINY, epochs=1)
    first, second, other = (
        weights(run(recipe, data, tmp_path / str(n))) for n, recipe in enumerate((short, short, replace(short, seed=4)))
    )
    assert same(first, second)
    assert not same(first, other)


def test_the_log_has_one_line_for_every_epoch(data: tuple[Split, Split], tmp_path: Path) -> None:
    ticks: list[Tick] = []
    result = run(TINY, data, tmp_path, on_step=ticks.append)
    rows = log_of(tmp_path)
    assert tuple(rows[0]) == LOG_FIELDS
    assert [(row["step"], row["epoch"]) for row in rows] == [("5", "1"), ("10", "2"), ("15", "3"), ("20", "4")]
    for n, row in enumerate(rows):
        mean = np.mean([tick.loss for tick in ticks[5 * n : 5 * n + 5]])
        assert float(row["loss"]) == pytest.approx(mean, rel=1e-4)
        assert float(row["learning_rate"]) == pytest.approx(learning_rate(TINY, 5 * n + 4, 20), rel=1e-4)
        assert float(row["images_per_second"]) > 0
    assert float(rows[-1]["accuracy"]) == pytest.approx(result.accuracy, rel=1e-4)


def test_the_loss_is_binary_cross_entropy_averaged_over_batch_and_classes(
    data: tuple[Split, Split], tmp_path: Path
) -> None:
    """Of the first step, by its formula: -log p of the right class and -log (1 - p) of the others, p the sigmoid."""
    ticks: list[Tick] = []
    run(replace(TINY, epochs=1), data, tmp_path, on_step=ticks.append)
    torch.manual_seed(TINY.seed)
    model = build("coda_net", TINY.with_classes(3))
    images, labels = batch_of_step(data[0], TINY, 0, 5, 12)
    p = torch.sigmoid(model(encode(images)).detach().double())
    right = torch.nn.functional.one_hot(labels, 3).bool()
    expected = -torch.where(right, p.log(), (1 - p).log()).mean()
    assert ticks[0].loss == pytest.approx(float(expected), rel=1e-5)


def test_a_run_equals_the_same_steps_written_out(data: tuple[Split, Split], tmp_path: Path) -> None:
    """Adam, schedules, stages, the gradient held down, and nothing carried over from one gradient to the next."""
    recipe = replace(TINY, epochs=2, clip=0.05, first_temperature=0.5, stages=[[0.4, 0.5]], smallest_crop=0.6)
    result = run(recipe, data, tmp_path)
    torch.manual_seed(recipe.seed)
    model = build("coda_net", recipe.with_classes(3))
    parameters = list(model.parameters())
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in parameters]
    for step in range(10):
        images, labels = batch_of_step(data[0], recipe, step, 5, 6 if step < 4 else 12)
        temperature = 0.5 * 2 ** (step / 10) / (4 if step < 4 else 1)
        logits = (model(encode(images)).double() - ARGUMENTS["bias"]) / temperature + ARGUMENTS["bias"]
        p = torch.sigmoid(logits)
        right = torch.nn.functional.one_hot(labels, 3).bool()
        gradients = torch.autograd.grad(-torch.where(right, p.log(), (1 - p).log()).mean(), parameters)
        norm = float(torch.cat([g.flatten() for g in gradients]).norm())
        for w, g, (first, second) in zip(parameters, gradients, moments, strict=True):
            g = g * min(1.0, recipe.clip / norm)
            first.mul_(0.9).add_(g, alpha=0.1)
            second.mul_(0.999).add_(g * g, alpha=0.001)
            n = step + 1
            change = (first / (1 - 0.9**n)) / ((second / (1 - 0.999**n)).sqrt() + 1e-8)
            with torch.no_grad():
                w.sub_(change, alpha=learning_rate(recipe, step, 10))
    for key, value in result.model.state_dict().items():
        torch.testing.assert_close(value, model.state_dict()[key], rtol=1e-3, atol=2e-4)


# ---- runs that go wrong ----------------------------------------------------------------------------------------------


def test_a_run_whose_learning_rate_is_too_high_ends_with_an_error(data: tuple[Split, Split], tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="diverged at step 1 of 20: the gradient is not finite; lower the learning"):
        run(replace(TINY, learning_rate=math.inf), data, tmp_path)


def test_pictures_that_are_no_numbers_end_a_run_with_an_error(data: tuple[Split, Split], tmp_path: Path) -> None:
    images = data[0].images.float() / 255
    images[50, 1, 3, 3] = math.nan
    with pytest.raises(TrainingError, match=r"diverged at step \d of 20"):
        run(TINY, (replace(data[0], images=images), data[1]), tmp_path)


def test_weights_that_the_last_step_ruined_are_not_taken_for_a_result(
    data: tuple[Split, Split], tmp_path: Path
) -> None:
    one_step = replace(TINY, epochs=1, batch=120, learning_rate=math.inf)
    for resume in (False, True):
        with pytest.raises(TrainingError, match="diverged at step 1 of 1: the weights are not finite"):
            run(one_step, data, tmp_path, resume=resume)


# ---- the file --------------------------------------------------------------------------------------------------------


def test_a_finished_run_becomes_a_file_that_gives_the_same_logits_and_tells_the_truth(
    data: tuple[Split, Split], tmp_path: Path
) -> None:
    labels = data[1].labels.clone()
    labels[:7] = (labels[:7] + 1) % 3  # nobody can get all of them right
    data = data[0], replace(data[1], labels=labels)
    result = run(TINY, data, tmp_path)
    path = finish(
        result, TINY, data, tmp_path / "squares.safetensors", "squares", about="coloured squares", licence="ours"
    )
    net = load(path)
    x = encode(data[1].images)
    with torch.no_grad():
        torch.testing.assert_close(net.model(x), result.model(x), rtol=1e-6, atol=1e-6)
    assert not net.assumed
    checkpoint = net.checkpoint
    assert (checkpoint.name, checkpoint.architecture, checkpoint.classes) == ("squares", "coda_net", CLASSES)
    assert checkpoint.arguments == {**ARGUMENTS, "channels": [6, 6, 6, 3]}
    assert (checkpoint.preprocessing.resize, checkpoint.preprocessing.crop) == (12, 12)
    hits = [int(net.model(encode(image[None])).argmax()) for image in data[1].images]
    measured = float(np.mean(np.array(hits) == data[1].labels.numpy()))
    assert checkpoint.accuracy is not None
    assert checkpoint.accuracy.value == pytest.approx(measured) == loop.accuracy(net.model, data[1])
    assert 0.7 < measured < 1
    assert (checkpoint.accuracy.pictures, checkpoint.accuracy.split) == (45, "held out")
    assert checkpoint.licence == "ours"
    assert checkpoint.training["data"] == "coloured squares"
    assert (checkpoint.training["pictures"], checkpoint.training["steps"]) == (120, 20)
    assert checkpoint.training["recipe"]["learning_rate"] == TINY.learning_rate
    again = Recipe(arguments=checkpoint.arguments, **checkpoint.training["recipe"])
    assert replace(again, arguments=ARGUMENTS) == TINY, "the file holds what it takes to repeat the run"


def test_a_b_cos_network_learns_and_its_file_explains(data: tuple[Split, Split], tmp_path: Path) -> None:
    arguments = {
        "channels": [6, 8, 8, 10],
        "kernels": [3, 3, 1],
        "strides": [2, 2, 1],
        "b": 2.0,
        "max_out": 2,
        "scale": 0.1,
        "temperature": 1.0,
        "bias": math.log(1 / 9),
    }
    recipe = replace(TINY, architecture="bcos_chain", arguments=arguments, epochs=12, stages=[[0.5, 0.5]])
    assert recipe.temperature(0) == recipe.temperature(0.9) == 1.0  # a mean over positions knows no area
    result = loop.train(recipe, data, tmp_path, device=CPU, compiled=False)
    assert result.accuracy is not None
    assert result.accuracy > 0.8
    net = load(finish(result, recipe, data, tmp_path / "b.safetensors", "b", about="colours"))
    assert net.checkpoint.architecture == "bcos_chain"
    explanation = coda_cli.explain(np.asarray(data[1].images[0].permute(1, 2, 0)), net)
    assert bool(explanation.decomposition.exact.all())


def test_accuracy_counts_hits() -> None:
    class Reader(torch.nn.Module):
        """Reads a picture's number and predicts its label, but for every fourth picture."""

        def forward(self, x: Tensor) -> Tensor:
            number = (x[:, 0, 0, 0] * 255).round().long()
            return torch.nn.functional.one_hot((number * 7 + (number % 4 == 0)) % 10, 10).float()

    split = numbered(250)
    assert loop.accuracy(Reader(), split) == pytest.approx(1 - 63 / 250)
    assert loop.accuracy(Reader(), batches.resized(split, 2, limit=250)) == pytest.approx(1 - 63 / 250)


def test_a_sample_is_always_the_same_and_scaled() -> None:
    split = numbered(250)
    some, again = (batches.resized(split, side, limit=40) for side in (2, 2))
    assert torch.equal(some.images, again.images)
    assert len(set(some.images[:, 0, 0, 0].tolist())) == len(some) == 40
    assert some.labels.tolist() == (some.images[:, 0, 0, 0].long() * 7 % 10).tolist()
    large = batches.resized(split, 5, limit=40)
    assert large.images.shape == (40, 3, 5, 5)
    assert torch.equal(large.images[:, :, 2, 2], some.images[:, :, 0, 0])
    checkers = Split(squares(9, 0).images, torch.zeros(9, dtype=torch.int64), CLASSES)
    exact = F.adaptive_avg_pool2d(checkers.images.float(), 6)
    assert float((batches.resized(checkers, 6, limit=9).images.float().mean() - exact.mean()).abs()) < 1
