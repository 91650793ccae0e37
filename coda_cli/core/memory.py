"""When memory ran out, on any device."""

from __future__ import annotations

import torch


def out_of_memory(error: BaseException) -> bool:
    """Whether that is what an error says: torch has no class of its own for a CPU's memory."""
    said = ("can't allocate memory", "out of memory", "_STATUS_ALLOC_FAILED")  # CPUs; CUDA; its libraries
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(text in str(error) for text in said)
