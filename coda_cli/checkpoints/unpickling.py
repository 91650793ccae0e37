"""The only place that reads pickles of others. No code in them can run.

Training keeps its own state in ``training/state.py``, which torch reads as tensors only.
"""

from __future__ import annotations

import pickle
import struct
import types
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from coda_cli.errors import CheckpointError

# What torch.load was seen to raise for files with bytes cut off or changed.
_RAISED_FOR_DAMAGE = (
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    LookupError,
    AttributeError,
    TypeError,
    AssertionError,
    ArithmeticError,
    MemoryError,
    struct.error,
)


class _Inert:
    """Takes the place of every class that tensors do not need: accepts everything and does nothing."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __new__(cls, *_: Any, **__: Any) -> _Inert:
        return super().__new__(cls)

    def __setstate__(self, _: Any) -> None: ...

    def __setitem__(self, *_: Any) -> None: ...

    def append(self, _: Any) -> None:
        """Accept the items of a subclass of list."""

    def extend(self, _: Any) -> None:
        """Accept the items of a subclass of list."""


# All that a state dict needs. These functions only rebuild tensors and dictionaries.
_HARMLESS = {
    ("collections", "OrderedDict"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"),
    ("torch", "Size"),
    ("torch", "device"),
}


class _TensorsOnly(pickle.Unpickler):
    """Knows tensors and dictionaries; every other name is ``_Inert``, so that a pickle cannot choose code to run."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _HARMLESS or (module == "torch" and name.endswith("Storage")):
            return super().find_class(module, name)
        return _Inert


# What torch.load takes for the pickle module.
_PICKLE = types.ModuleType("tensors_only")
_PICKLE.__dict__.update(Unpickler=_TensorsOnly, load=lambda file, **more: _TensorsOnly(file, **more).load())

# The wrappings that trainers put around a state dict, and the prefixes inside.
_WRAPPINGS = ("the_model", "model_state_dict", "state_dict")


def read_state_dict(path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Read the state dict of a torch file, zip or legacy, without what trainers wrap around it.

    Args:
        path: of the file.

    Returns:
        Tensors by name, without the prefixes of wrappers, and a sentence for each choice that was made on the way.

    Raises:
        CheckpointError: the file is damaged, or holds something else.
    """
    content = _unpickled(path)
    assumed: tuple[str, ...] = ()
    for wrapping in _WRAPPINGS:
        if isinstance(content, dict) and isinstance(content.get(wrapping), dict):
            content = content[wrapping]
    if not isinstance(content, dict) or not content:
        raise CheckpointError("holds no state dict (a dictionary of tensors)", item=path)
    state = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if len(state) < len(content):
        raise CheckpointError("holds no state dict (a dictionary of tensors)", item=path)
    for prefix, said in (("ema.module.", "the moving average of the weights that it holds was taken"), ("model.", "")):
        if any(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
            assumed = (said,) if said else ()
            break
    return {key.removeprefix("module."): value for key, value in state.items()}, assumed


def _unpickled(path: Path) -> object:
    """What the file holds; of objects that are no tensors or dictionaries nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about the protocol of the pickle
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            pass  # it holds more than tensors, as trainers leave it: read it again, and only the tensors
        except _RAISED_FOR_DAMAGE as error:
            raise _damaged(path, error) from error
        try:
            return torch.load(path, map_location="cpu", weights_only=False, pickle_module=_PICKLE)
        except (*_RAISED_FOR_DAMAGE, pickle.UnpicklingError) as error:
            raise CheckpointError(
                "not a torch file of tensors; it was not opened further, since that could run code in it", item=path
            ) from error


def _damaged(path: Path, error: Exception) -> CheckpointError:
    """The error of a file that torch could not read, with torch's reason in one line."""
    ends = "it ends too early" if isinstance(error, EOFError) else type(error).__name__
    reason = (str(error).strip() or ends).splitlines()[0][:120]
    return CheckpointError(f"damaged, or not a torch file ({reason})", item=path)
