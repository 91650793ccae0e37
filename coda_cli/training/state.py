"""What a run keeps on disk while it lasts: the state that it resumes from, and its log."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from coda_cli.errors import TrainingError
from coda_cli.media.files import write_with
from coda_cli.training.datasets import Split
from coda_cli.training.recipes import Recipe

STATE_FILE, LOG_FILE = "training-state.pt", "log.csv"
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
    write_with(path, lambda stream: torch.save(state, stream))


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
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        belongs = state["recipe"]
    except Exception as error:  # whatever torch meets in a file that is cut off, or is another
        raise TrainingError("damaged, or not the state of a run; start anew in another folder", item=path) from error
    if belongs != _identity(recipe):
        raise TrainingError(
            "belongs to a run with another recipe; resume with the options it was started with", item=path
        )
    theirs, ours = state.get("data", _summary_of(data)), _summary_of(data)
    if theirs != ours:
        raise TrainingError(f"belongs to a run on other data: {theirs}; this is {ours}", item=path)
    model.load_state_dict(state["model"])
    optimiser.load_state_dict(state["optimiser"])
    return state["step"], state["seconds"]


def _summary_of(data: Split) -> str:
    return f"{len(data)} pictures of the classes {', '.join(data.classes)}"


def _identity(recipe: Recipe) -> str:
    return json.dumps(asdict(recipe), sort_keys=True)


class Log:
    """A CSV file with one line for every epoch.

    Attributes:
        path: of the file.
    """

    def __init__(self, path: Path, keep_until: int) -> None:
        """Begin the file anew, or go on with it.

        Args:
            path: of the file.
            keep_until: the step that a resumed run goes on from: lines after it are dropped; 0 drops all.

        Raises:
            MediaError: the file cannot be written.
        """
        self.path = path
        rows = []
        if keep_until and path.exists():
            with path.open(newline="") as stream:
                rows = [row for row in csv.DictReader(stream) if int(row["step"]) <= keep_until]
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, LOG_FIELDS)
        writer.writeheader()
        writer.writerows(rows)
        write_with(path, lambda stream: stream.write(text.getvalue().encode()))  # whole, or as it was

    def write(self, *values: float) -> None:
        """Append one line.

        Args:
            values: in the order of LOG_FIELDS.
        """
        with self.path.open("a", newline="") as stream:
            csv.writer(stream).writerow(f"{v:.6g}" if isinstance(v, float) else v for v in values)
