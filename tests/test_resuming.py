"""A stopped run goes on to the very same weights, and only with what it was started with."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from squares import CLASSES, TINY, log_of, run, same, squares, weights

from coda_cli.errors import TrainingError
from coda_cli.training import batches, feed, loop
from coda_cli.training.batches import batch_of_step
from coda_cli.training.datasets import Split
from coda_cli.training.loop import Tick
from coda_cli.training.recipes import Recipe
from coda_cli.training.state import LOG_FILE, STATE_FILE, load_state

pytestmark = pytest.mark.usefixtures("one_thread")


# ---- runs ------------------------------------------------------------------------------------------------------------


# ---- stopping and going on -------------------------------------------------------------------------------------------


class _Killed(BaseException):
    """As when the machine goes down."""


def killed_after(step: int) -> Callable[[Tick], None]:
    def kill(tick: Tick) -> None:
        if tick.step == step:
            raise _Killed

    return kill


def check_resume(data: tuple[Split, Split], folder: Path) -> None:
    """A run stopped in many ways ends with the weights of one that was not."""
    whole = run(TINY, data, folder / "whole")
    parts = folder / "parts"
    result = run(TINY, data, parts, time_budget=0.0)
    assert (result.finished, result.steps, result.accuracy) == (False, 1, None)
    for n in range(2, 8):  # a step at a time, across the end of the first epoch
        result = run(TINY, data, parts, resume=True, time_budget=0.0)
        assert (result.finished, result.steps) == (False, n)
    with pytest.raises(_Killed):  # in the third epoch: the state is that of the end of the second
        run(TINY, data, parts, resume=True, on_step=killed_after(13))
    result = run(TINY, data, parts, resume=True)
    assert result.finished
    assert result.steps == whole.steps
    assert same(weights(whole), weights(result))
    assert result.accuracy == whole.accuracy
    once_more = run(TINY, data, parts, resume=True)  # of a finished run: nothing is left to do
    assert once_more.finished
    assert same(weights(whole), weights(once_more))


def test_a_stopped_and_resumed_run_ends_with_the_very_same_weights(data: tuple[Split, Split], tmp_path: Path) -> None:
    check_resume(data, tmp_path)


def test_a_run_whose_time_is_up_with_its_last_step_is_finished(data: tuple[Split, Split], tmp_path: Path) -> None:
    result = run(replace(TINY, epochs=1, batch=120), data, tmp_path, time_budget=0.0)
    assert (result.finished, result.steps) == (True, 1)
    assert result.accuracy is not None


def test_after_a_resume_the_log_has_no_line_twice(data: tuple[Split, Split], tmp_path: Path) -> None:
    check_resume(data, tmp_path)
    whole, parts = log_of(tmp_path / "whole"), log_of(tmp_path / "parts")
    kept = ("step", "epoch", "learning_rate", "accuracy")
    assert [[row[k] for k in kept] for row in parts] == [[row[k] for k in kept] for row in whole]
    seconds = [float(row["seconds"]) for row in parts]
    assert seconds == sorted(seconds)


def test_lines_of_epochs_that_are_done_again_are_dropped(data: tuple[Split, Split], tmp_path: Path) -> None:
    """Killed between the log's line and the state: the line is there, the step is repeated."""
    with pytest.raises(_Killed):
        run(TINY, data, tmp_path, on_step=killed_after(7))
    with (tmp_path / LOG_FILE).open("a", newline="") as stream:
        csv.writer(stream).writerow([10, 2, 1.0, 0.1, 0.5, 0.5, 100])
    run(TINY, data, tmp_path, resume=True)
    assert [row["step"] for row in log_of(tmp_path)] == ["5", "10", "15", "20"]


def _reseeding(patch: pytest.MonkeyPatch) -> None:
    """Batches counted from the start of the call instead of the run."""
    counts = Counter[str]()
    train = loop.train

    def counting(*args: Any, **options: Any) -> Any:
        counts.clear()
        return train(*args, **options)

    def wrong(split: Split, recipe: Recipe, step: int, per_epoch: int, crop: int | None = None) -> Any:
        del step
        counts["step"] += 1
        return batch_of_step(split, recipe, counts["step"] - 1, per_epoch, crop)

    patch.setattr(loop, "train", counting)
    patch.setattr(feed, "batch_of_step", wrong)


def _forgetting_the_optimiser(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(torch.optim.Adam, "load_state_dict", lambda *_: None)


def _drawing_from_the_global_generator(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(batches, "_generator", lambda *_: None)


def _counting_the_last_step_twice(patch: pytest.MonkeyPatch) -> None:
    def wrong(*args: Any) -> tuple[int, float]:
        step, seconds = load_state(*args)
        return max(0, step - 1) if step == 10 else step, seconds

    patch.setattr(loop, "load_state", wrong)


@pytest.mark.parametrize(
    "plant", [_reseeding, _forgetting_the_optimiser, _drawing_from_the_global_generator, _counting_the_last_step_twice]
)
def test_a_resume_that_forgets_something_is_caught(
    data: tuple[Split, Split], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plant: Callable[..., None]
) -> None:
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        check_resume(data, tmp_path)


def test_resuming_without_a_state_or_with_another_recipe_or_other_data_is_refused(
    data: tuple[Split, Split], tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match="no state to resume from; start without --resume"):
        run(TINY, data, tmp_path, resume=True)
    run(TINY, data, tmp_path, time_budget=0.0)
    before = (tmp_path / STATE_FILE).read_bytes()
    for other in (replace(TINY, learning_rate=1e-3), replace(TINY, epochs=5), replace(TINY, seed=0)):
        with pytest.raises(TrainingError, match="belongs to a run with another recipe"):
            run(other, data, tmp_path, resume=True)
    fewer = squares(90, 0)
    renamed = replace(data[0], classes=("a", "b", "c"))
    more_classes = replace(data[0], classes=(*CLASSES, "yellow"))
    for train_split in (fewer, renamed, more_classes):
        with pytest.raises(TrainingError, match="belongs to a run on other data"):
            run(TINY, (train_split, data[1]), tmp_path, resume=True)
    assert (tmp_path / STATE_FILE).read_bytes() == before
    assert run(TINY, data, tmp_path, resume=True).finished


def test_fewer_pictures_than_a_batch_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="23 training pictures do not fill one batch of 24"):
        run(TINY, (squares(23, 0), squares(9, 1)), tmp_path)
