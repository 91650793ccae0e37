"""What a run leaves: how it ended, and the network as a self-describing file, at its end and on the way."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from coda_cli.checkpoints.class_names import wnids_and_synonyms
from coda_cli.checkpoints.headers import read_metadata
from coda_cli.checkpoints.manifest import METADATA_KEY, Accuracy, Checkpoint, Preprocessing
from coda_cli.checkpoints.saving import save
from coda_cli.errors import CheckpointError
from coda_cli.training import full_colour
from coda_cli.training.datasets import Split
from coda_cli.training.feed import Feed, finite
from coda_cli.training.recipes import Recipe

HELD_OUT, AGREEMENT = "held out", "held out, agreement with the network it comes from"
WORSE = 0.02  # a network that is worse by more than this does not replace that on disk before the end


@dataclass
class Result:
    """How a run ended.

    Attributes:
        model: the network, in eval mode where the run is finished.
        finished: False where the time budget ended the run early.
        steps: how many steps are done.
        seconds: spent on the run, earlier parts included.
        accuracy: of the whole held-out split, in [0, 1]; None where the run was ended early.
    """

    model: nn.Module
    finished: bool
    steps: int
    seconds: float
    accuracy: float | None = None


@dataclass(frozen=True)
class Destination:
    """The file that a network is written to, and what it says that the run does not know.

    Attributes:
        path: of the file, with the suffix .safetensors.
        name: of the network.
        about: what the file says about the data.
        licence: under which terms the file may be used.
    """

    path: Path
    name: str
    about: str
    licence: str = ""

    def write(
        self,
        result: Result,
        recipe: Recipe,
        data: Split,
        measured: Accuracy,
        progress: float = 1.0,
        full_colour: float | None = None,
    ) -> None:
        """Write the network, whole or not at all.

        Args:
            result: the network, and how far the run is.
            recipe: that it is trained by.
            data: the training pictures.
            measured: its accuracy.
            progress: share of all steps that are done. Before the end the file has the size and the temperature that
                the network was last trained with.
            full_colour: what full colour stands for in its pictures, in logit units a pixel, where that was measured.

        Raises:
            TakenError: there is a file of this name, which is no network of this run.
            MediaError: the file cannot be written.
        """
        arguments, side = recipe.with_classes(len(data.classes)), recipe.size
        training: dict[str, Any] = {
            "data": self.about,
            "recipe": _told(recipe),
            "pictures": len(data),
            "steps": result.steps,
            "seconds": round(result.seconds),
        }
        if progress < 1:
            arguments, side = {**arguments, "temperature": recipe.temperature(progress)}, recipe.side(progress)
            training["finished"] = False
        wnids, synonyms = wnids_and_synonyms(data.classes)
        checkpoint = Checkpoint(
            name=self.name,
            architecture=recipe.architecture,
            arguments=arguments,
            classes=data.classes,
            wnids=wnids,
            synonyms=synonyms,
            preprocessing=Preprocessing(resize=side, crop=side),
            accuracy=measured,
            full_colour=full_colour,
            training=training,
            licence=self.licence,
        )
        save(result.model, checkpoint, self.path, replace=is_of_run(self.path, recipe))


class Kept:
    """The network on disk while a run lasts, replaced unless the new one is clearly worse."""

    def __init__(self, destination: Destination | None, recipe: Recipe, data: Split, feed: Feed) -> None:
        """Nothing is written yet.

        Args:
            destination: the file; None writes none.
            recipe: of the run.
            data: the training pictures.
            feed: of the run, which can measure how often the network is right.
        """
        self._destination, self._recipe, self._data, self._feed = destination, recipe, data, feed
        self._best = -1.0

    def offer(self, result: Result, progress: float, quick: float | None) -> None:
        """Write the network as it is now, unless it is clearly worse than one before, or not finite.

        Args:
            result: the network, and how far the run is.
            progress: share of all steps that are done.
            quick: its accuracy on the sample; None measures it first.

        Raises:
            MediaError: the file cannot be written.
        """
        if self._destination is None or not finite(result.model):
            return
        quick = self._feed.quick_accuracy(progress) if quick is None else quick
        if quick < self._best - WORSE:
            return
        self._best = max(quick, self._best)
        split = f"{AGREEMENT if self._recipe.distil else HELD_OUT}, a sample, before the end of the run"
        count = min(len(self._feed.held_out), self._feed.sampled)
        measured = Accuracy(value=quick, pictures=count, split=split)
        self._destination.write(result, self._recipe, self._data, measured, progress)


def finish(
    result: Result, recipe: Recipe, data: tuple[Split, Split], path: Path, name: str, *, about: str, licence: str = ""
) -> Path:
    """Write the network of a finished run as a self-describing file.

    Args:
        result: of ``train``, finished.
        recipe: that it was trained by.
        data: training split and held-out split.
        path: of the file, with the suffix .safetensors.
        name: of the network.
        about: what the file says about the data.
        licence: under which terms the file may be used.

    Returns:
        ``path``.

    Raises:
        TakenError: there is a file of this name, which is no network of this run.
        MediaError: the file cannot be written.
    """
    assert result.accuracy is not None
    split = AGREEMENT if recipe.distil else HELD_OUT
    measured = Accuracy(value=result.accuracy, pictures=len(data[1]), split=split)
    destination = Destination(path, name, about, licence)
    destination.write(result, recipe, data[0], measured)  # first of all: hours of training are in it
    if found := full_colour.measure(result.model, data[1]):
        destination.write(result, recipe, data[0], measured, full_colour=found)
    return path


def is_of_run(path: Path, recipe: Recipe) -> bool:
    """Tell whether a file is a network that a run of this recipe has written: its next one replaces it.

    Args:
        path: of the file.
        recipe: of the run.

    Returns:
        The answer.
    """
    try:
        described = json.loads(read_metadata(path).get(METADATA_KEY, "{}"))
        return bool(described["training"]["recipe"] == json.loads(json.dumps(_told(recipe))))
    except (CheckpointError, KeyError, TypeError, ValueError, RecursionError):
        return False


def _told(recipe: Recipe) -> dict[str, Any]:
    """What a network's file says about its recipe, beyond what describes the network."""
    return {key: value for key, value in asdict(recipe).items() if key not in ("arguments", "architecture")}
