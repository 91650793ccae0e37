"""What the header of a safetensors file tells, read without torch."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

from coda_cli.errors import CheckpointError


def count_parameters(path: Path) -> int:
    """Count the numbers in the tensors of a safetensors file, without running statistics; only its header is read.

    Args:
        path: of the file.

    Returns:
        The count.

    Raises:
        CheckpointError: the file cannot be read, or is no safetensors file.
    """
    shapes = {key: entry["shape"] for key, entry in _header(path).items() if key != "__metadata__"}
    return sum(math.prod(shape) for key, shape in shapes.items() if not key.endswith(_STATISTICS))


_STATISTICS = (".running_mean", ".running_var", ".num_batches_tracked")


def read_metadata(path: Path) -> dict[str, str]:
    """Read the metadata of a safetensors file, without its tensors.

    Args:
        path: of the file.

    Returns:
        Texts by name.

    Raises:
        CheckpointError: the file cannot be read, or is no safetensors file.
    """
    return dict(_header(path).get("__metadata__") or {})


def _header(path: Path) -> dict[str, Any]:
    """The header of a safetensors file: its metadata, and type and shape of each tensor."""
    try:
        with path.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > 100_000_000:  # the format's own limit
                raise ValueError("header too long")
            header = json.loads(stream.read(length))
            if not isinstance(header, dict):
                raise ValueError("no header")
            return header
    except OSError as error:
        raise CheckpointError(f"cannot be read ({error.strerror or error})", item=path) from error
    except (ValueError, struct.error) as error:
        raise CheckpointError("not a safetensors file", item=path) from error
