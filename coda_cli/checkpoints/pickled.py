"""What is kept of a pickle: data, names, and of a tensor where its numbers lie. Imports neither torch nor pickle."""

from __future__ import annotations

import math
from dataclasses import dataclass

MAX_DIMENSIONS = 8

# The types of numbers that a storage can have, by the name of its class: torch's name of the type, and its bytes.
STORAGES = {
    "DoubleStorage": ("float64", 8),
    "FloatStorage": ("float32", 4),
    "HalfStorage": ("float16", 2),
    "BFloat16Storage": ("bfloat16", 2),
    "LongStorage": ("int64", 8),
    "IntStorage": ("int32", 4),
    "ShortStorage": ("int16", 2),
    "CharStorage": ("int8", 1),
    "ByteStorage": ("uint8", 1),
    "BoolStorage": ("bool", 1),
}


class PickleError(ValueError):
    """A pickle is damaged, or larger than a checkpoint's can be."""


class PickleRefusedError(PickleError):
    """A pickle asks for something that no data need, such as calling the result of a call."""


@dataclass(frozen=True, slots=True)
class Named:
    """What a pickle would import; it is not imported.

    Attributes:
        module: the module's name.
        name: of the object in it.
    """

    module: str
    name: str


@dataclass(eq=False, slots=True)
class Opaque:
    """What a pickle would make with a class or function; nothing is made.

    Attributes:
        made_by: the name of the class or function.
    """

    made_by: str


@dataclass(frozen=True, slots=True)
class Storage:
    """Where the numbers of tensors lie in the file.

    Attributes:
        key: under which the file has them.
        type: a key of STORAGES, or the name of another class.
        count: how many numbers there are.
    """

    key: str
    type: str
    count: int


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor that has not been read yet; all its numbers lie inside its storage.

    Attributes:
        storage: holds its numbers.
        offset: the place of its first number there.
        shape: its sides.
        stride: steps in the storage from one entry to the next, for each side.
    """

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def tensor_of(storage: object, offset: object, shape: object, stride: object) -> StoredTensor | Opaque:
    """Check that all numbers of a tensor lie in its storage.

    Args:
        storage: where they lie, as are the others: values of any type.
        offset: the place of the first number in the storage.
        shape: the tensor's sides.
        stride: steps in the storage from one entry to the next, for each side.

    Returns:
        The tensor; ``Opaque`` where its numbers are of a type that no network has.

    Raises:
        PickleError: they are no tensor, or reach beyond the storage.
    """
    if not isinstance(storage, Storage):
        raise PickleError("it has a tensor without a storage")
    if storage.type not in STORAGES:
        return Opaque(storage.type)
    sides, steps = _integers(shape), _integers(stride)
    if type(offset) is not int or sides is None or steps is None or len(sides) != len(steps) or offset < 0:
        raise PickleError("it has a tensor without a shape")
    last = offset + sum((n - 1) * step for n, step in zip(sides, steps, strict=True))
    if math.prod(sides) and last >= storage.count:
        raise PickleError("it has a tensor that is larger than its storage")
    return StoredTensor(storage, offset, sides, steps)


def _integers(values: object) -> tuple[int, ...] | None:
    """Sides or strides; None for what is none."""
    if not isinstance(values, tuple | list) or len(values) > MAX_DIMENSIONS:
        return None
    return tuple(values) if all(type(v) is int and 0 <= v < 1 << 40 for v in values) else None
