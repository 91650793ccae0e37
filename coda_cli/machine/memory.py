"""When memory runs out, on any device."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from coda_cli.errors import CodaError, MediaError
from coda_cli.machine import budget

S = TypeVar("S", Sequence[Any], Tensor)
T = TypeVar("T")
_LOG = logging.getLogger(__name__)
_MESSAGES = (
    "can't allocate memory", "not enough memory", "out of memory", "Insufficient memory", "ALLOC_FAILED",
    # What cuBLAS and cuDNN say when there is none left for their handles and workspaces.
    "ALLOCATION_FAILED", "CUBLAS_STATUS_NOT_INITIALIZED", "unable to find an engine", "No valid execution plan",
)  # fmt: skip
# What oneDNN says, word for word: a primitive "descriptor" that it could not create is no matter of memory.
_OF_ONEDNN = ("could not create a primitive", "could not execute a primitive", "could not create a memory object")
_LOCK = threading.Lock()  # several batches may be under way
_RAN_OUT_WITH: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()  # the fewest pixels of a batch that did not fit


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: torch has no class of its own for a CPU's memory, OpenCV none at all.

    Args:
        error: any exception.

    Returns:
        The answer.
    """
    said = str(error)
    known = said in _OF_ONEDNN or any(text in said for text in _MESSAGES)
    return known or isinstance(error, MemoryError | torch.OutOfMemoryError)


def memory_left() -> float:
    """Tell how many bytes more a limit on memory, ``ulimit -v``, lets the process take.

    Returns:
        Bytes, not negative; infinity where there is no limit, or where it is not known.
    """
    with contextlib.suppress(ImportError, OSError):  # Windows has no such limits, and only Linux tells what is used
        import resource

        most, _ = resource.getrlimit(resource.RLIMIT_AS)
        with open("/proc/self/statm", encoding="ascii") as stream:
            used = int(stream.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        if most != resource.RLIM_INFINITY:
            return max(0.0, most - used)
    return math.inf


def refuse_little_memory() -> None:
    """Refuse to begin work under a limit on memory that leaves too little for it.

    Where nothing at all is left, the C library ends a process as a thread starts, with a line of its own and no way
    out on which temporary files are removed.

    Raises:
        CodaError: that is so.
    """
    if (left := memory_left()) < budget.WORKING_MEMORY:
        raise CodaError(
            f"the limit on memory (ulimit -v) leaves {left / 1e6:.0f} MB to work with; allow "
            f"{budget.WORKING_MEMORY // 10**6} MB or more"
        )


def as_many_as_fit(
    model: nn.Module, pictures: S, size: tuple[int, int], compute: Callable[[S], list[T]]
) -> list[T | MediaError]:
    """Compute something of pictures, all at once, or in halves when memory runs out.

    A warning of ``logging`` says so, and later batches of this model are as small.

    Args:
        model: the network, by which is remembered how many pixels were too many.
        pictures: what ``compute`` takes, one entry for each picture.
        size: (width, height) of each, in pixels.
        compute: gives one result for each picture.

    Returns:
        The results in order; for a picture that does not fit alone, an error.
    """
    w, h = size
    half = -(-len(pictures) // 2)
    if len(pictures) == 1 or len(pictures) * h * w < _RAN_OUT_WITH.get(model, 1 << 62):
        try:
            return [*compute(pictures)]
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
        # Outside the handler: the error keeps everything alive that was computed before it.
        if len(pictures) == 1:
            return [MediaError(f"not enough memory for {w} x {h} pixels; use --fit crop, or make it smaller")]
        with _LOCK:
            if (pixels := len(pictures) * h * w) < _RAN_OUT_WITH.get(model, 1 << 62):  # else another batch has said it
                _RAN_OUT_WITH[model] = pixels
                said = "memory ran out with %d pictures of %d x %d at once; going on with %d"
                _LOG.warning(said, len(pictures), w, h, half)
    return [
        result for part in (pictures[:half], pictures[half:]) for result in as_many_as_fit(model, part, size, compute)
    ]
