"""Compute something of each picture of a batch: on all cores, and in halves where memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from torch import Tensor, nn

from coda_cli.errors import MediaError
from coda_cli.machine.lanes import each, parts
from coda_cli.machine.memory import as_many_as_fit
from coda_cli.machine.precision import true_float32

T = TypeVar("T")


def rows(model: nn.Module, x: Tensor, compute: Callable[[Tensor], Iterable[T]]) -> list[T]:
    """Compute something of each picture of a batch; every core takes a part of it.

    Where memory does not hold the batch it is computed in halves; see ``as_many_as_fit``.

    Args:
        model: the network.
        x: encoded pictures, float [B, C, h, w].
        compute: gives something for each picture of a part of the batch.

    Returns:
        What it gives, for all B.

    Raises:
        MediaError: memory does not hold one picture.
    """

    def in_parts(some: Tensor) -> list[T]:
        return [row for part in each(compute, parts(some)) for row in part]

    found: list[T] = []
    with true_float32():
        for row in as_many_as_fit(model, x, (x.shape[3], x.shape[2]), in_parts):
            if isinstance(row, MediaError):
                raise row
            found.append(row)
    return found
