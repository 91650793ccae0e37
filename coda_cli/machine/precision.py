"""In which precision something is computed."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from coda_cli.vocabulary import Precision

# What weights and input are held in, by the precision that is computed in: bfloat16 is for large matrix products only.
DTYPES: dict[Precision, torch.dtype] = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.float32,
}


def processor_has_bfloat16() -> bool:
    """Say whether the processor has products in bfloat16, for torch's convolutions; else they are made of float32.

    Returns:
        True for x86 with AVX-512 or later, and what oneDNN finds elsewhere; many processors have AVX2 alone.
    """
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported"):
        return False
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


_TF32 = threading.Lock()
_inside: list[list[str]] = []  # what the switches were, once for every thread that computes


@contextmanager
def true_float32() -> Iterator[None]:
    """Compute float32 convolutions and products in float32 on NVIDIA GPUs too; TF32 keeps 10 bits of the mantissa.

    The switches are the process's: the last of several threads to leave sets them back.

    Yields:
        Nothing.
    """
    if not torch.cuda.is_available():
        yield
        return
    # Not the older allow_tf32: reading it fails where somebody has used these.
    switches = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)  # type: ignore[attr-defined]
    with _TF32:
        _inside.append(_inside[0] if _inside else [switch.fp32_precision for switch in switches])
        for switch in switches:
            switch.fp32_precision = "ieee"
    try:
        yield
    finally:
        with _TF32:
            before = _inside.pop()
            if not _inside:
                for switch, value in zip(switches, before, strict=True):
                    switch.fp32_precision = value


@contextmanager
def denormals_flushed() -> Iterator[None]:
    """Take numbers below 1e-38 as 0: where training makes them, CPUs take many times as long for them.

    Measured in float32: a convolution's gradients of such numbers take 100 times as long, a step of Adam 6 times. What
    belongs to this thread, and to the threads that torch starts for it in the block: those that it has started before
    keep their own setting.

    Yields:
        Nothing.
    """
    before = sys.float_info.min / 2 == 0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def product_type(x: Tensor) -> torch.dtype:
    """Say in which type large matrix products are computed.

    Args:
        x: an input.

    Returns:
        The type that autocast asks for, else that of ``x``.
    """
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def in_full(compute: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Compute something as if there were no autocast.

    Args:
        compute: takes the input.
        x: an input.

    Returns:
        What it gives.
    """
    if not torch.amp.is_autocast_available(x.device.type):  # of tensors without numbers, say
        return compute(x)
    with torch.autocast(x.device.type, enabled=False):
        return compute(x)
