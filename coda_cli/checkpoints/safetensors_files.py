"""Safetensors files: their tensors, and as a state dict where no description is in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from coda_cli.checkpoints.class_lists import names_in
from coda_cli.checkpoints.descriptions import read_json
from coda_cli.checkpoints.headers import read_header
from coda_cli.checkpoints.unpickling import StateDict, Weights
from coda_cli.errors import CheckpointError


@contextmanager
def open_safetensors(path: Path) -> Iterator[Weights]:
    """Open a safetensors file without a description for its state dict.

    Args:
        path: of the file.

    Yields:
        What the file tells.

    Raises:
        CheckpointError: the file is damaged.
    """
    header = read_header(path)
    shapes = {key: torch.empty(shape, dtype=_TYPES[header.types[key]], device="meta")
              for key, shape in header.shapes.items()}  # fmt: skip
    yield Weights(StateDict(shapes, (), lambda: read_safetensors(path)), path, classes=_classes_of(header.metadata))


def _classes_of(metadata: Mapping[str, str]) -> tuple[str, ...] | None:
    """The names of classes that another program put into the metadata of a safetensors file, as JSON."""
    content: dict[str, object] = {}
    for key, text in metadata.items():
        with suppress(ValueError):
            content[key] = read_json(text)
    return names_in(content)


_TYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file.

    Args:
        path: of the file.

    Returns:
        Tensors by name.

    Raises:
        CheckpointError: the file is damaged, or cannot be read.
    """
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"damaged or truncated ({error})", item=path) from error
