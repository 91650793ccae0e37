"""What the header of a safetensors file tells, read without torch and checked before anything is made of it."""

from __future__ import annotations

import json
import math
import struct
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from coda_cli.errors import CheckpointError

MAX_HEADER = 4 << 20  # bytes; that of the bundled ImageNet network has 0.1 MB, most of it synonyms of classes
MAX_NAME = 500  # characters
MAX_SIDES = 8
BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


@dataclass(frozen=True)
class Header:
    """What a header tells.

    Attributes:
        metadata: texts by name.
        shapes: of the tensors, by name.
        types: of the tensors' numbers, by name: keys of BYTES.
    """

    metadata: dict[str, str]
    shapes: dict[str, tuple[int, ...]]
    types: dict[str, str]


def count_parameters(path: Path) -> int:
    """Count the numbers in the tensors of a safetensors file, without running statistics; only its header is read.

    Args:
        path: of the file.

    Returns:
        The count.

    Raises:
        CheckpointError: the file cannot be read, or is no safetensors file.
    """
    shapes = read_header(path).shapes
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
    return read_header(path).metadata


def read_header(path: Path) -> Header:
    """Read the header of a safetensors file, and check that it describes the rest of the file.

    Args:
        path: of the file.

    Returns:
        What it tells.

    Raises:
        CheckpointError: the file cannot be read, is cut off, or is no safetensors file.
    """
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, 2)
            stream.seek(0)
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > MAX_HEADER:
                raise ValueError("header too long")
            content = json.loads(stream.read(length), parse_constant=_refuse_constant)
        header, end = _checked(content)
    except CheckpointError as error:
        raise error.about(path)  # noqa: B904 (it is the same error)
    except OSError as error:
        raise CheckpointError(f"cannot be read ({error.strerror or error})", item=path) from error
    except (ValueError, struct.error, RecursionError) as error:
        raise CheckpointError("not a safetensors file", item=path) from error
    if 8 + length + end != size:
        raise CheckpointError(f"damaged or truncated: {size} bytes, its header says {8 + length + end}", item=path)
    return header


def odd_name(text: str) -> bool:
    """Tell whether a text is none that can be a name: empty, too long, or with characters that cannot be shown.

    Args:
        text: perhaps a name.

    Returns:
        Whether it is no name.
    """
    return not 0 < len(text) <= MAX_NAME or has_odd_characters(text)


def has_odd_characters(text: str) -> bool:
    """Tell whether a text has characters that cannot be shown.

    Args:
        text: any text.

    Returns:
        Whether it has control characters, line ends, or halves of characters.
    """
    return not text.isprintable() and any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in text)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


def _checked(content: object) -> tuple[Header, int]:
    """The header, and where the tensors end. Raises ValueError."""
    if not isinstance(content, dict):
        raise ValueError("no header")
    metadata = content.pop("__metadata__", None)
    metadata = {} if metadata is None else metadata
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("no metadata")
    header, end = Header(metadata, {}, {}), 0
    for key, entry in content.items():
        header.types[key], header.shapes[key], last = _entry(key, entry)
        end = max(end, last)
    return header, end


def _entry(key: str, entry: Any) -> tuple[str, tuple[int, ...], int]:
    """Type, shape and end of a tensor. Raises ValueError."""
    if odd_name(key) or not isinstance(entry, dict):
        raise ValueError("no tensor")
    kind, shape, offsets = (entry.get(field) for field in ("dtype", "shape", "data_offsets"))
    if isinstance(kind, str) and kind not in BYTES:
        raise CheckpointError(f"holds numbers of a type that no network here has, {ascii(kind)[:40]}")
    if not isinstance(kind, str) or not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
        raise ValueError("no tensor")
    if offsets[1] - offsets[0] != math.prod(shape) * BYTES[kind]:
        raise ValueError("no tensor")
    return kind, tuple(shape), offsets[1]


def _are_sizes(values: object) -> TypeGuard[list[int]]:
    """Whether a value is a short list of whole numbers from 0 on."""
    return (
        isinstance(values, list)
        and len(values) <= MAX_SIDES
        and all(type(value) is int and 0 <= value < 1 << 48 for value in values)
    )
