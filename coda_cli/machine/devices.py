"""Choosing where to compute."""

from __future__ import annotations

import re

import torch

from coda_cli.errors import UsageError
from coda_cli.machine.precision import processor_has_bfloat16


def pick(name: str, precision: str = "float32") -> torch.device:
    """Choose the device to compute on.

    Args:
        name: "cpu", "cuda", "cuda:N", "mps", or "auto", which takes an NVIDIA GPU where there is one.
        precision: "float32", "float64" or "bfloat16".

    Returns:
        The device.

    Raises:
        UsageError: it does not exist here, or cannot compute in that precision.
    """
    if name == "auto":
        usable = torch.cuda.is_available() and not _refusal(torch.device("cuda"))
        return torch.device("cuda" if usable and not emulated(precision, torch.device("cuda")) else "cpu")
    if "," in name:
        raise UsageError(f"--device {name}: several devices are for coda explain; name one")
    refuse_unknown(name)
    device = torch.device(name)
    if device.type == "cuda" and (why := _refusal(device)):
        raise UsageError(f"--device {name}: this GPU cannot be used ({why}); use --device cpu")
    if device.type == "cuda" and emulated(precision, device):
        raise UsageError(f"--device {name}: this GPU only emulates bfloat16, slowly; use --precision float32")
    if device.type == "mps":
        if not torch.backends.mps.is_available():
            raise UsageError("--device mps: torch finds no Apple GPU here")
        if precision == "float64":
            raise UsageError("--device mps: Apple GPUs have no float64; use --device cpu")
    return device


def refuse_unknown(name: str, one_of: str = "") -> None:
    """Refuse a device that is not here, by its name alone; nothing is computed on it.

    Args:
        name: "cpu", "cuda", "cuda:N" or "mps".
        one_of: the list of devices in which it is named, for the message.

    Raises:
        UsageError: there is no such device.
    """
    given = f"--device {one_of or name}"
    if not re.fullmatch(r"cpu|mps|cuda(:(0|[1-9]\d?))?", name):
        wrong, auto = (f" ({name!r})", "") if one_of else ("", "auto, ")
        raise UsageError(f"{given}: expected {auto}cpu, cuda, cuda:N or mps{wrong}")
    if name.startswith("cuda") and int(name[5:] or 0) >= torch.cuda.device_count():
        raise UsageError(f"{given}: torch finds {torch.cuda.device_count()} NVIDIA GPUs here")


def described(device: torch.device) -> str:
    """Say which device one is.

    Args:
        device: from ``pick``.

    Returns:
        Its name in torch, and that of an NVIDIA GPU.
    """
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def emulated(precision: str, device: torch.device) -> bool:
    """Whether a device has no products in a precision, and is slow in it.

    On NVIDIA GPUs bfloat16 came with compute capability 8.0, on x86 with AVX-512.

    Args:
        precision: "float32", "float64" or "bfloat16".
        device: from ``pick``.

    Returns:
        The answer.
    """
    if precision != "bfloat16" or device.type == "mps":
        return False
    if device.type == "cuda":
        return not torch.cuda.is_bf16_supported(including_emulation=False)
    return not processor_has_bfloat16()


def _refusal(device: torch.device) -> str:
    """Why a GPU that is there cannot be used: another program has it, or this torch is not built for it."""
    try:
        torch.zeros(1, device=device).add_(1).item()
    except RuntimeError as error:
        return str(error).strip().splitlines()[0]
    return ""
