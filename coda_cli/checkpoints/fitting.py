"""Whether the tensors of a file are those of a network, and of which one they could be."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from coda_cli.checkpoints.families import newer_name
from coda_cli.checkpoints.manifest import MAX_CLASSES
from coda_cli.checkpoints.unpickling import StateDict
from coda_cli.core.standard_nets import torchvision_sizes

COUNTS = ".num_batches_tracked"  # of training steps, which older files lack
_AUXILIARY = ("AuxLogits.", "aux1.", "aux2.")  # heads of Inception and GoogLeNet that only training uses
_STATISTICS = (".running_mean", ".running_var", COUNTS)


def last_width(shapes: Mapping[str, Tensor]) -> int:
    """Guess the count of classes of a file: the first side of its last tensor, often the classifier's bias.

    Args:
        shapes: tensors by name, in the order of the file.

    Returns:
        The guess; 1000 where there is none.
    """
    widths = [value.shape[0] for value in shapes.values() if value.ndim and 0 < value.shape[0] <= MAX_CLASSES]
    return widths[-1] if widths else 1000


def count_in(state: StateDict, model: nn.Module, count: int) -> int | None:
    """Read the count of classes off a file whose tensors differ in nothing but this from a network's.

    Args:
        state: the file's tensors, under the network's names.
        model: the network.
        count: the count of classes that it was made for.

    Returns:
        The file's count; None where it is the same, or where other things differ as well.
    """
    wanted, found = model.state_dict(), set[int]()
    if {key for key in wanted if not key.endswith(COUNTS)} - state.shapes.keys() or state.shapes.keys() - wanted.keys():
        return None
    for key, value in state.shapes.items():
        ours, theirs = tuple(wanted[key].shape), tuple(value.shape)
        if len(ours) != len(theirs) or any(a not in (b, count) for a, b in zip(ours, theirs, strict=True)):
            return None
        found |= {b for a, b in zip(ours, theirs, strict=True) if a != b}
    return found.pop() if len(found) == 1 else None


def mended(state: StateDict, model: nn.Module) -> StateDict:
    """Bring a state dict under the names of today, without heads for training, with a classifier where it belongs.

    Args:
        state: the file's tensors.
        model: the network that they should be of.

    Returns:
        The state dict.
    """
    wanted = model.state_dict()
    names = {key if key in wanted else newer_name(key): key for key in state.shapes}
    auxiliary = [key for key in names if key.startswith(_AUXILIARY) and key not in wanted]
    names = {new: old for new, old in names.items() if new not in auxiliary}
    said = ["its auxiliary heads, which only training uses, are left out"] if auxiliary else []
    missing, extra = [key for key in wanted if key not in names], [key for key in names if key not in wanted]
    moved = _moved(missing, extra)
    if moved and state.shapes[names[f"{moved[1]}.weight"]].ndim == 2 == wanted[f"{moved[0]}.weight"].ndim:
        now, then = moved
        for part in ("weight", "bias"):
            if f"{then}.{part}" in names:
                names[f"{now}.{part}"] = names.pop(f"{then}.{part}")
        said.append(f"its last layer, {then}, was taken as {now}")
    return state.named(names, tuple(said))


def _moved(missing: Sequence[str], extra: Sequence[str]) -> tuple[str, str] | None:
    """The one layer that a file has in another place: "fc.1" for "fc", a classifier with a dropout before it.

    Only where no other tensor is at stake: two layers in the place of one compute something else.
    """
    layers = [{key.rpartition(".")[0] for key in keys if not key.endswith(COUNTS)} for keys in (missing, extra)]
    parts = [{key.rpartition(".")[2] for key in keys if not key.endswith(COUNTS)} for keys in (missing, extra)]
    if parts[0] != parts[1] or not {"weight"} <= parts[0] <= {"weight", "bias"} or [len(n) for n in layers] != [1, 1]:
        return None
    (now,), (then,) = layers
    return (now, then) if now.split(".")[0] == then.split(".")[0] else None


def misfit(wanted: Mapping[str, Tensor], shapes: Mapping[str, Tensor]) -> str:
    """Say how the tensors of a file differ from those of a network.

    Args:
        wanted: tensors of the network.
        shapes: of the file, under the same names.

    Returns:
        A part of a message; nothing where they do not differ.
    """
    missing = [key for key in wanted if key not in shapes and not key.endswith(COUNTS)]
    extra = [key for key in shapes if key not in wanted]
    other = [key for key in wanted if key in shapes and wanted[key].shape != shapes[key].shape]
    said = []
    if missing:
        said.append(f"{len(missing)} of its {len(wanted)} tensors are missing, {missing[0]} the first")
    if extra:
        said.append(f"{len(extra)} others are there, {extra[0]} the first")
    if other:
        expected, got = list(wanted[other[0]].shape), list(shapes[other[0]].shape)
        said.append(f"{len(other)} have other shapes, {other[0]}: expected {expected}, got {got}")
    if not said:
        return ""
    return f"{'; '.join(said)}; if it is another network say so with --arch, for one of your own --arch module:function"


def classifiers_of_its_size(shapes: Mapping[str, Tensor]) -> list[str]:
    """Find the classifiers of torchvision that have as many parameters as a file, whatever its count of classes.

    Args:
        shapes: tensors of the file, by name.

    Returns:
        Their names, as ``--arch`` takes them.
    """
    count = sum(value.numel() for key, value in shapes.items() if not key.endswith(_STATISTICS))
    sizes = set()
    for key, value in shapes.items():
        bias = shapes.get(key.removesuffix("weight") + "bias")
        if key.endswith("weight") and value.ndim >= 2 and bias is not None and bias.shape == value.shape[:1]:
            sizes.add(count + (1000 - len(value)) * (math.prod(value.shape[1:]) + 1))  # were this the classifier
    return [f"torchvision:{name}" for name, size in torchvision_sizes().items() if size in sizes]
