"""A small network as a file of ours or of the authors, and what loading a bad one is refused with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign import rank_4_state
from torch import Tensor

from coda_cli.checkpoints.loading import load
from coda_cli.checkpoints.manifest import Accuracy, Checkpoint, Preprocessing
from coda_cli.checkpoints.saving import save
from coda_cli.core.networks import build, encode
from coda_cli.errors import CheckpointError, CodaError, UsageError

SMALL: dict[str, Any] = {
    "channels": [6, 4, 3],
    "kernels": [3, 1],
    "strides": [2, 1],
    "ranks": [2, 4],
    "norm": "L2",
    "temperature": 7.0,
    "bias": -0.5,
    "paddings": [1, 0],
    "groups": [2, 1],
}


def small_checkpoint(**changes: Any) -> Checkpoint:
    fields = {
        "name": "small",
        "architecture": "coda_net",
        "arguments": SMALL,
        "classes": ("cat", "dog", "Ähre"),
        "wnids": ("n1", "n2", "n3"),
        "synonyms": (("tom",), (), ("ear", "spike")),
        "preprocessing": Preprocessing(resize=20, crop=16),
        "accuracy": Accuracy(value=0.25, pictures=8, split="test"),
        "training": {"data": "none", "seconds": 1.5},
        "licence": "none",
    }
    return Checkpoint.model_validate(fields | changes)


def small_file(path: Path, **changes: Any) -> Path:
    torch.manual_seed(0)
    save(build("coda_net", SMALL), small_checkpoint(**changes), path)
    return path


def picture(size: int = 32) -> Tensor:
    """A fixed input, float32 [2, 6, size, size]."""
    return encode(torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1)))


def refusal(path: Path | str, error: type[CodaError] = CheckpointError, **options: Any) -> str:
    """What loading is refused with: one line, which names the file unless an option is wrong."""
    with pytest.raises(error) as caught:
        load(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert error is UsageError or Path(path).name in message
    return message


def authors_file(path: Path, state: Mapping[str, Any] | None = None, *, legacy: bool = False) -> Path:
    """A file as the authors' ``torch.save`` writes it; ``legacy`` is the container of torch before 1.6."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(rank_4_state() if state is None else state, path, _use_new_zipfile_serialization=not legacy)
    return path
