"""The state dict of an authors' file, without what trainers wrap around it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from coda_cli.checkpoints.headers import odd_name
from coda_cli.checkpoints.pickled import STORAGES, Opaque, StoredTensor
from coda_cli.checkpoints.torch_files import TorchFile
from coda_cli.errors import CheckpointError, UsageError

# The wrappings that trainers put around a state dict, and the prefixes inside.
_WRAPPINGS = ("the_model", "model_state_dict", "state_dict")
_AVERAGE, _WEIGHTS = "ema.module.", "model."

AVERAGE_TAKEN = "the moving average of the weights that it holds was taken"
WEIGHTS_TAKEN = "the weights of the last step were taken, not the moving average that it also holds"


@dataclass(frozen=True)
class StateDict:
    """The state dict of a file that is open; its tensors are not read yet.

    Attributes:
        shapes: tensors without memory, by name: their shapes and types.
        assumed: a sentence for each choice that was made.
        read: reads the tensors, by name.
        experiment: which experiment a file of the authors' trainers says that it is of, as DATASET/NETWORKS/NAME.
    """

    shapes: dict[str, Tensor]
    assumed: tuple[str, ...]
    read: Callable[[], dict[str, Tensor]]
    experiment: str = ""


@contextmanager
def open_state_dict(path: Path, *, ema: bool | None = None) -> Iterator[StateDict]:
    """Open a torch file, zip or legacy, for its state dict.

    Args:
        path: of the file.
        ema: whether the moving average of the weights is taken, or the weights of the last step, where the file holds
            both; None takes the average.

    Yields:
        The state dict, under names without the prefixes of wrappers.

    Raises:
        CheckpointError: the file is damaged, or holds something else.
        UsageError: the file does not hold what ``ema`` asks for.
    """
    with TorchFile(path) as file:
        stored, assumed = _without_prefixes(_tensors(file.content, path), ema, path)
        shapes = {key: _shape(value) for key, value in stored.items()}
        yield StateDict(
            shapes,
            assumed,
            lambda: {key: file.tensor(value) for key, value in stored.items()},
            _experiment(file.content),
        )


def _experiment(content: object) -> str:
    """The experiment that a file of the authors' trainers names among its hyperparameters; "" where there is none."""
    told = content.get("hyper_parameters") if isinstance(content, dict) else None
    if not isinstance(told, dict):
        return ""
    parts = [told.get(key) for key in ("dataset", "base_network", "experiment_name")]
    return "/".join(map(str, parts)) if all(isinstance(p, str) and not odd_name(p) for p in parts) else ""


def _tensors(content: object, path: Path) -> dict[str, StoredTensor]:
    """The tensors of a state dict, with the names that they have in the file."""
    for wrapping in _WRAPPINGS:
        if isinstance(content, dict) and isinstance(content.get(wrapping), dict):
            content = content[wrapping]
    if not isinstance(content, dict) or not content:
        raise CheckpointError("holds no state dict (a dictionary of tensors)", item=path)
    found: dict[str, StoredTensor] = {}
    for key, value in content.items():
        if not isinstance(key, str) or odd_name(key):
            raise CheckpointError("holds no state dict: a tensor has a name that is none", item=path)
        if isinstance(value, Opaque) and ("tensor" in value.made_by or value.made_by.endswith("Storage")):
            raise CheckpointError(
                f"holds no state dict of plain tensors: {key} needs {ascii(value.made_by)[1:-1][:80]}", item=path
            )
        if not isinstance(value, StoredTensor):
            raise CheckpointError("holds no state dict (a dictionary of tensors)", item=path)
        found[key] = value
    return found


def _without_prefixes(
    tensors: dict[str, StoredTensor], ema: bool | None, path: Path
) -> tuple[dict[str, StoredTensor], tuple[str, ...]]:
    """The average or the weights of a trainer's file, without prefixes, and what is said of the choice."""
    averages, weights = (any(key.startswith(prefix) for key in tensors) for prefix in (_AVERAGE, _WEIGHTS))
    if ema and not averages:
        raise UsageError("--ema: holds no moving average of the weights", item=path)
    if ema is False and averages and not weights:
        raise UsageError("--no-ema: holds only the moving average of the weights", item=path)
    taken, said = "", ""
    if averages and ema is not False:
        taken, said = _AVERAGE, AVERAGE_TAKEN
    elif weights:
        taken, said = _WEIGHTS, WEIGHTS_TAKEN if averages else ""
    chosen = {key.removeprefix(taken): value for key, value in tensors.items() if key.startswith(taken)}
    return {key.removeprefix("module."): value for key, value in chosen.items()}, (said,) if said else ()


def _shape(stored: StoredTensor) -> Tensor:
    """A tensor without memory."""
    dtype = getattr(torch, STORAGES[stored.storage.type][0])
    return torch.empty_strided(stored.shape, stored.stride, dtype=dtype, device="meta")
