"""The kinds of authors' files: how to tell them apart, and their tensors under coda's names."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from coda_cli.checkpoints.manifest import STANDARD, Checkpoint, published_checkpoint
from coda_cli.checkpoints.published import PUBLISHED
from coda_cli.checkpoints.published_bcos import BCOS
from coda_cli.core.networks import build
from coda_cli.errors import CheckpointError

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Family:
    """A kind of authors' files.

    Attributes:
        name: in words.
        fits: tells whether a state dict is of this kind.
        published: names of the published configurations that such a file can be of.
        convert: gives the tensors under coda's names, and a sentence for each part that was left out. It takes the
            state dict, the network's description and the file's path for messages, and raises CheckpointError.
    """

    name: str
    fits: Callable[[State], bool]
    published: tuple[str, ...]
    convert: Callable[[State, Checkpoint, Path], tuple[dict[str, Tensor], tuple[str, ...]]]


def has_shapes_of(name: str, state: State) -> bool:
    """Tell whether a state dict has just the tensors of a published configuration, in their shapes.

    Args:
        name: of the configuration.
        state: the authors' tensors.

    Returns:
        Whether names and shapes are the same.
    """
    if name in PUBLISHED:
        return _dau_shapes(PUBLISHED[name]) == {key: tuple(value.shape) for key, value in state.items()}
    wanted = own_shapes(published_checkpoint(name))
    return {key: value.shape for key, value in _renamed(state).items()} == wanted


def own_shapes(checkpoint: Checkpoint) -> dict[str, torch.Size]:
    """List the shapes of coda's tensors of a network.

    Args:
        checkpoint: the network's description.

    Returns:
        Shapes by name.

    Raises:
        ValueError: the network cannot be built.
    """
    with torch.device("meta"):
        return {k: v.shape for k, v in build(checkpoint.architecture, checkpoint.arguments).state_dict().items()}


# ---- CoDA-Nets -------------------------------------------------------------------------------------------------------

_DAU_KEY = "weight_mod.weighting_f"


def _layer_shapes(arguments: Mapping[str, Any]) -> list[tuple[int, int, int, int, int]]:
    """(C, O, k, rank, groups) of every layer."""
    a, groups = arguments, arguments.get("groups") or [1] * len(arguments["kernels"])
    return list(zip(a["channels"][:-1], a["channels"][1:], a["kernels"], a["ranks"], groups, strict=True))


def _dau_shapes(arguments: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The shapes of the authors' tensors of a CoDA-Net, by name."""
    shapes: dict[str, tuple[int, ...]] = {}
    for i, (C, O, k, r, groups) in enumerate(_layer_shapes(arguments)):
        shapes[f"{i}.{_DAU_KEY}.0.weight"] = (r, C, k, k)
        shapes[f"{i}.{_DAU_KEY}.1.weight"] = (O * C * k * k, r // groups, 1, 1)
        shapes[f"{i}.{_DAU_KEY}.1.bias"] = (O * C * k * k,)
    return shapes


def _dau_converted(state: State, checkpoint: Checkpoint, path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The authors' tensors under coda's names and in its order; their row n is (patch entry) * O + (output)."""
    tensors: dict[str, Tensor] = {}
    used = set()
    for i, (C, O, k, r, groups) in enumerate(_layer_shapes(checkpoint.arguments)):
        d, j = C * k * k, r // groups
        expected = {".0.weight": (r, C, k, k), ".1.weight": (O * d, j, 1, 1), ".1.bias": (O * d,)}
        found: dict[str, Tensor] = {}
        for suffix, shape in expected.items():
            key = f"{i}.{_DAU_KEY}{suffix}"
            if key not in state:
                raise CheckpointError(f"lacks {key}, which {checkpoint.name} has", item=path)
            if tuple(state[key].shape) != shape:
                raise CheckpointError(
                    f"{key}: {checkpoint.name} expects {list(shape)}, got {list(state[key].shape)}; is it "
                    "another configuration? name it with --arch",
                    item=path,
                )
            found[suffix] = state[key].float()
            used.add(key)
        tensors[f"layers.{i}.V"] = found[".0.weight"]
        U = found[".1.weight"].reshape(d, O, j).permute(1, 2, 0)  # [O, j, d]
        tensors[f"layers.{i}.U"] = U.reshape(O * j, C, k, k)
        tensors[f"layers.{i}.b"] = found[".1.bias"].reshape(d, O).t().reshape(O, C, k, k)
    if extra := sorted(state.keys() - used):
        raise CheckpointError(
            f"holds {len(extra)} tensors that {checkpoint.name} has not, {extra[0]} among them", item=path
        )
    return tensors, ()


# ---- B-cos networks --------------------------------------------------------------------------------------------------


# Files of torchvision's DenseNets can be older than the names of their layers: norm.1 is norm1 now.
_DENSE = re.compile(r"(\.denselayer\d+\.(?:norm|conv))\.([12]\.)")


def newer_name(name: str) -> str:
    """Translate the name of a tensor of torchvision's older DenseNets.

    Args:
        name: of a tensor of any network.

    Returns:
        What it is called today.
    """
    return _DENSE.sub(r"\1\2", name)


def _renamed(state: State) -> dict[str, Tensor]:
    """The authors' tensors under coda's names. (Version 1 and the transformers call their backbone "0".)"""
    chain = any(key.startswith("1.") for key in state)
    return {
        "backbone." + newer_name(key if chain else key.removeprefix("0.")): value
        for key, value in state.items()
        if ".AuxLogits." not in key  # only training uses this head
    }


def _bcos_converted(state: State, checkpoint: Checkpoint, path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The authors' tensors under coda's names, each with the shape that the network needs."""
    tensors, wanted = _renamed(state), own_shapes(checkpoint)
    for key in wanted:
        if key.endswith("num_batches_tracked"):  # counts of training, which older files lack
            tensors.setdefault(key, torch.tensor(0))
    theirs = {key: key.removeprefix("backbone.") for key in {**tensors, **wanted}}
    if missing := sorted(wanted.keys() - tensors.keys()):
        raise CheckpointError(f"lacks {theirs[missing[0]]}, which {checkpoint.name} has; {_OTHER}", item=path)
    if extra := sorted(tensors.keys() - wanted.keys()):
        raise CheckpointError(
            f"holds {len(extra)} tensors that {checkpoint.name} has not, {theirs[extra[0]]} among them; {_OTHER}",
            item=path,
        )
    for key, shape in wanted.items():
        if tensors[key].shape != shape:
            raise CheckpointError(
                f"{theirs[key]}: {checkpoint.name} expects {list(shape)}, got {list(tensors[key].shape)}; {_OTHER}",
                item=path,
            )
    auxiliary = any(".AuxLogits." in key for key in state)
    return (
        {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()},
        ("its auxiliary head, which only training uses, is left out",) if auxiliary else (),
    )


_OTHER = "is it another configuration? name it with --arch"


def _is_transformer(state: State) -> bool:
    return any("to_qkv" in key for key in state)


def _has_bcos(state: State) -> bool:
    # The layers of transformers are called "linear" anyway: a B-cos one has a linear in its linear.
    ending = ".linear.linear.weight" if _is_transformer(state) else ".linear.weight"
    return any(key.endswith(ending) for key in state)


def _has_norms(state: State) -> bool:
    return any(key.endswith(".weight") and value.ndim == 1 for key, value in state.items())


def _bcos_names(version: int) -> tuple[str, ...]:
    return tuple(n for n, entry in BCOS.items() if entry.version == version and entry.architecture not in STANDARD)


ORDINARY = Family(
    "vision transformer without B-cos layers",
    lambda state: _is_transformer(state) and not _has_bcos(state),
    tuple(name for name, entry in BCOS.items() if entry.architecture in STANDARD),
    _bcos_converted,
)

FAMILIES = (
    Family("CoDA-Net", lambda state: any(_DAU_KEY in key for key in state), tuple(PUBLISHED), _dau_converted),
    Family("B-cos network (version 1)", lambda s: _has_bcos(s) and not _has_norms(s), _bcos_names(1), _bcos_converted),
    Family("B-cos network (version 2)", lambda s: _has_bcos(s) and _has_norms(s), _bcos_names(2), _bcos_converted),
    ORDINARY,
)
