"""What a run keeps on disk while it lasts: the state that it resumes from, and its log."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from coda_cli.checkpoints.torch_files import TorchFile
from coda_cli.errors import CheckpointError, MediaError, TrainingError, UsageError
from coda_cli.media.files import write_with
from coda_cli.training.datasets import Split
from coda_cli.training.recipes import Recipe

STATE_FILE, LOG_FILE = "training-state.pt", "log.csv"
MAX_LOG = 16 << 20  # bytes; a line has about 70, and there is one for each epoch
LOG_FIELDS = ("step", "epoch", "seconds", "learning_rate", "loss", "accuracy", "images_per_second")


def save_state(
    path: Path,
    recipe: Recipe,
    data: Split,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    step: int,
    seconds: float,
) -> None:
    """Save everything that the rest of a run needs. The file is replaced whole, or stays as it was.

    Args:
        path: of the file.
        recipe: of the run.
        data: the training pictures, of which only number and classes are kept.
        model: its weights are kept.
        optimiser: its state is kept.
        step: how many steps are done.
        seconds: spent on the run so far.

    Raises:
        MediaError: the file cannot be written.
    """
    state = {
        "recipe": _identity(recipe),
        "data": _summary_of(data),
        "model": model.state_dict(),
        "optimiser": optimiser.state_dict(),
        "step": step,
        "seconds": seconds,
    }
    whole = io.BytesIO()  # torch's own writer, on a disk that is full, ends with an error that hides the reason
    torch.save(state, whole)
    write_with(path, lambda stream: stream.write(whole.getbuffer()))


def is_state_of(path: Path, recipe: Recipe) -> bool:
    """Tell whether a state is there and of a recipe.

    Args:
        path: of the state.
        recipe: of the run that is to go on.

    Returns:
        The answer.

    Raises:
        TrainingError: the file is damaged.
    """
    return path.exists() and bool(_read_state(path)["recipe"] == _identity(recipe))


def load_state(
    path: Path, recipe: Recipe, data: Split, model: nn.Module, optimiser: torch.optim.Optimizer
) -> tuple[int, float]:
    """Put a saved state into the model and the optimiser.

    Args:
        path: of the file.
        recipe: of the run that is to go on.
        data: its training pictures.
        model: gets the saved weights.
        optimiser: gets its saved state.

    Returns:
        How many steps are done, and the seconds spent on them.

    Raises:
        TrainingError: the file is not there, is damaged, or is of another recipe or other data.
    """
    if not path.exists():
        raise TrainingError("no state to resume from; start without --resume", item=path)
    state = _read_state(path)
    if state["recipe"] != _identity(recipe):
        raise TrainingError(
            "belongs to a run with another recipe; resume with the options it was started with", item=path
        )
    theirs, ours = state.get("data", _summary_of(data)), _summary_of(data)
    if theirs != ours:
        raise TrainingError(f"belongs to a run on other data: {str(theirs)[:500]}; this is {ours}", item=path)
    if not _fits(state, model, optimiser):
        raise _damaged(path)
    try:
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
    except Exception as error:  # whatever torch meets in a file that somebody changed
        raise _damaged(path) from error
    return state["step"], float(state["seconds"])


def _damaged(path: Path) -> TrainingError:
    return TrainingError("damaged, or not the state of a run; start anew in another folder", item=path)


def _read_state(path: Path) -> dict[str, Any]:
    """What the file holds, read without torch's unpickler; the parts that ``save_state`` writes are there."""
    try:
        if not path.is_file():
            raise _damaged(path)
        with TorchFile(path) as file:
            state = file.everything()
    except CheckpointError as error:
        raise _damaged(path) from error
    if not isinstance(state, dict) or not {"recipe", "model", "optimiser", "step", "seconds"} <= state.keys():
        raise _damaged(path)
    return state


def _fits(state: Mapping[str, Any], model: nn.Module, optimiser: torch.optim.Optimizer) -> bool:
    """Whether a state has numbers where numbers are needed, and tensors in the shapes of the model's."""
    step, seconds = state["step"], state["seconds"]
    if type(step) is not int or not 0 <= step < 1 << 48 or type(seconds) not in (int, float):
        return False
    if not 0 <= seconds < 1e12 or not _like(state["model"], model.state_dict()):
        return False
    ours, theirs = optimiser.state_dict(), state["optimiser"]
    if not isinstance(theirs, dict) or theirs.keys() != ours.keys() or not isinstance(theirs["state"], dict):
        return False
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    settings = [
        [{key: value for key, value in group.items() if key not in ("lr", "initial_lr")} for group in groups]
        for groups in (ours["param_groups"], theirs["param_groups"])
        if isinstance(groups, list) and all(isinstance(group, dict) for group in groups)
    ]
    if len(settings) < 2 or settings[0] != settings[1]:
        return False
    return all(
        type(index) is int and 0 <= index < len(parameters) and isinstance(moments, dict)
        and all(
            isinstance(value, Tensor) and value.is_floating_point()
            and (value.shape == parameters[index].shape or value.ndim == 0)
            for value in moments.values()
        )
        for index, moments in theirs["state"].items()
    )  # fmt: skip


def _like(theirs: object, ours: Mapping[str, Tensor]) -> bool:
    """Whether tensors have the names, shapes and types of others."""
    return (
        isinstance(theirs, dict)
        and theirs.keys() == ours.keys()
        and all(
            isinstance(v, Tensor) and (v.shape, v.dtype) == (ours[k].shape, ours[k].dtype) for k, v in theirs.items()
        )
    )


def _summary_of(data: Split) -> str:
    return f"{len(data)} pictures of the classes {', '.join(data.classes)}"


def _identity(recipe: Recipe) -> str:
    return json.dumps(asdict(recipe), sort_keys=True)


def refuse_log_of_another(path: Path) -> None:
    """Refuse to begin a log where there is a file: it is of another run, or of another program.

    Args:
        path: of the log.

    Raises:
        UsageError: there is a file, and it holds more than the first line of a log, with which a run begins.
    """
    if os.path.lexists(path) and not _only_begun(path):
        raise UsageError("exists, and is not replaced; move it away, or -o DIR starts in another folder", item=path)


def _only_begun(path: Path) -> bool:
    """Whether a file is the log of a run that was stopped before the end of its first epoch: nothing is lost."""
    try:
        return _rows_of_log(path, sys.maxsize) == []
    except TrainingError:
        return False


class Log:
    """A CSV file with one line for every epoch.

    Attributes:
        path: of the file.
    """

    def __init__(self, path: Path, keep_until: int) -> None:
        """Begin the file anew, or go on with it.

        Args:
            path: of the file.
            keep_until: the step that a resumed run goes on from: lines after it are dropped; 0 begins the file.

        Raises:
            UsageError: the log begins, and there is a file of this name that holds something.
            MediaError: the file cannot be written.
            TrainingError: the run goes on, and the file is not its log.
        """
        self.path = path
        if not keep_until:
            refuse_log_of_another(path)
        rows = _rows_of_log(path, keep_until) if keep_until and path.exists() else []
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerows([LOG_FIELDS, *rows])
        write_with(path, lambda stream: stream.write(text.getvalue().encode()))  # whole, or as it was

    def write(self, *values: float) -> None:
        """Append one line.

        Args:
            values: in the order of LOG_FIELDS.

        Raises:
            MediaError: the file cannot be written.
        """
        try:
            with self.path.open("a", newline="") as stream:
                csv.writer(stream).writerow(f"{v:.6g}" if isinstance(v, float) else v for v in values)
        except OSError as error:
            raise MediaError(f"cannot be written ({error.strerror or error})", item=self.path) from error


def _rows_of_log(path: Path, keep_until: int) -> list[list[str]]:
    """The lines of a log up to a step. A last line that was cut off is dropped. Raises TrainingError."""
    wrong = TrainingError("not the log of this run; move it away, and resume again", item=path)
    try:
        if not path.is_file() or path.stat().st_size > MAX_LOG:
            raise wrong
        with path.open(newline="", encoding="utf-8") as stream:
            header, *rows = list(csv.reader(stream)) or [[]]
    except (OSError, ValueError, csv.Error) as error:
        raise wrong from error
    if tuple(header) != LOG_FIELDS:
        raise wrong
    if rows and not _is_row_of_log(rows[-1]):
        rows.pop()
    if not all(map(_is_row_of_log, rows)):
        raise wrong
    return [row for row in rows if int(row[0]) <= keep_until]


def _is_row_of_log(row: list[str]) -> bool:
    """Whether a line of a log has a number in each field."""
    if len(row) != len(LOG_FIELDS) or not row[0].isdecimal() or len(row[0]) > 18:
        return False
    try:
        return [float(value) for value in row] != []
    except ValueError:
        return False
