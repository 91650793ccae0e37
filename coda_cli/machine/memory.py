"""When memory runs out, on any device."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

S = TypeVar("S", Sequence[Any], Tensor)
T = TypeVar("T")
_LOG = logging.getLogger(__name__)
_MESSAGES = (
    "can't allocate memory", "not enough memory", "out of memory", "Insufficient memory", "ALLOC_FAILED",
    # What cuBLAS and cuDNN say when there is none left for their handles and workspaces.
    "ALLOCATION_FAILED", "CUBLAS_STATUS_NOT_INITIALIZED", "unable to find an engine", "No valid execution plan",
)  # fmt: skip
_LOCK = threading.Lock()  # several batches may be under way
_RAN_OUT_WITH: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()  # the fewest pixels of a batch that did not fit


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: torch has no class of its own for a CPU's memory, OpenCV none at all.

    Args:
        error: any exception.

    Returns:
        The answer.
    """
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(text in str(error) for text in _MESSAGES)


def as_many_as_fit(model: nn.Module, pictures: S, size: tuple[int, int], compute: Callable[[S], list[T]]) -> list[T]:
    """Compute something of pictures, of all at once, or in halves when memory runs out.

    A warning of ``logging`` says so, and later batches of this model are as small. The error of a single picture that
    does not fit is raised as it is.

    Args:
        model: the network that is used.
        pictures: a sequence or a tensor [B, ...].
        size: (width, height) of a picture as the network sees it.
        compute: takes some of the pictures and returns one result for each of them.

    Returns:
        The results, in order.
    """
    w, h = size
    half = -(-len(pictures) // 2)
    if len(pictures) == 1 or len(pictures) * h * w < _RAN_OUT_WITH.get(model, 1 << 62):
        try:
            return compute(pictures)
        except (RuntimeError, MemoryError) as error:
            if len(pictures) == 1 or not out_of_memory(error):
                raise
        # Outside the handler: the error keeps everything alive that was computed before it.
        with _LOCK:
            if (pixels := len(pictures) * h * w) < _RAN_OUT_WITH.get(model, 1 << 62):  # else another batch has said it
                _RAN_OUT_WITH[model] = pixels
                said = "memory ran out with %d pictures of %d x %d at once; going on with %d"
                _LOG.warning(said, len(pictures), w, h, half)
    return [
        result for part in (pictures[:half], pictures[half:]) for result in as_many_as_fit(model, part, size, compute)
    ]
