"""The kinds of authors' files: how to tell them apart, and their tensors under coda's names."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from coda_cli.checkpoints import text_vectors
from coda_cli.checkpoints.manifest import STANDARD, Checkpoint
from coda_cli.checkpoints.published import BIAS_FREE, PUBLISHED
from coda_cli.checkpoints.published_bcos import BCOS, twin, version_of_experiment
from coda_cli.checkpoints.published_descriptions import published_checkpoint
from coda_cli.checkpoints.unpickling import StateDict
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
    checkpoint = published_checkpoint(name)
    return {key: value.shape for key, value in _renamed(state, checkpoint).items()} == _shapes_in_file(checkpoint)


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


def _renamed(state: State, checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The authors' tensors under coda's names. (Version 1 and the transformers call their backbone "0".)"""
    if checkpoint.architecture == "bias_free":
        return {f"above.backbone.{key}": value for key, value in state.items()}
    if checkpoint.architecture.startswith("bcosified"):
        return {"above.backbone." + _of_bcosified(key): value for key, value in state.items()}
    chain = any(key.startswith("1.") for key in state)
    return {
        "backbone." + newer_name(key if chain else key.removeprefix("0.")): value
        for key, value in state.items()
        if ".AuxLogits." not in key  # only training uses this head
    }


# The parts of a B-cosified DenseNet are numbered, as the layers of its transitions are.
_PARTS = {"0": "conv0", "1": "norm0", "4": "denseblock1", "5": "transition1", "6": "denseblock2", "7": "transition2",
          "8": "denseblock3", "9": "transition3", "10": "denseblock4", "11": "norm5"}  # fmt: skip
_NUMBERED = re.compile(r"features\.(\d+)\.(?:([02])\.)?")


def _of_bcosified(key: str) -> str:
    """The name of a tensor as torchvision has it."""

    def named(found: re.Match[str]) -> str:
        part, layer = found.groups()
        inner = {None: "", "0": "norm.", "2": "conv."}[layer]
        return f"features.{_PARTS.get(part, part)}.{inner}"

    return _NUMBERED.sub(named, key, count=1)


def _shapes_in_file(checkpoint: Checkpoint) -> dict[str, torch.Size]:
    """The shapes of the tensors that a file of bare weights holds, under coda's names: all but texts."""
    return {key: shape for key, shape in own_shapes(checkpoint).items() if key != text_vectors.KEY}


def _bcos_converted(state: State, checkpoint: Checkpoint, path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The authors' tensors under coda's names, each with the shape that the network needs."""
    tensors, wanted = _renamed(state, checkpoint), _shapes_in_file(checkpoint)
    for key in wanted:
        if key.endswith("num_batches_tracked"):  # counts of training, which older files lack
            tensors.setdefault(key, torch.tensor(0))
    theirs = {key: key.removeprefix("above.").removeprefix("backbone.") for key in {**tensors, **wanted}}
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

VERSION_2_OR_3 = Family(
    "B-cos network (version 2) or a B-cosified one",
    lambda state: _has_bcos(state) and _has_norms(state),
    (*_bcos_names(2), *_bcos_names(3)),
    _bcos_converted,
)

FAMILIES = (
    Family("CoDA-Net", lambda state: any(_DAU_KEY in key for key in state), tuple(PUBLISHED), _dau_converted),
    Family("B-cos network (version 1)", lambda s: _has_bcos(s) and not _has_norms(s), _bcos_names(1), _bcos_converted),
    VERSION_2_OR_3,
    Family(
        "ReLU network without biases",
        lambda state: (
            all(key.endswith(".weight") and value.ndim in (2, 4) for key, value in state.items())
            and not _has_bcos(state)
            and bool(state.keys() & {"conv1.weight", "features.0.weight"})
            and any(key.startswith(("fc.", "classifier.")) for key in state)
        ),
        tuple(BIAS_FREE),
        _bcos_converted,
    ),
    ORDINARY,
)


# ---- B-cos networks of version 2, or B-cosified ones? ----------------------------------------------------------------

_WORDS = {2: "B-cos networks of version 2", 3: "B-cosified networks"}
# Filters of version 2 are divided by their norm, so training leaves all norms of a layer alike; those of ordinary
# networks, from which B-cosified ones start, differ. Of the first layer, deviation / mean: 0.08 in the bundled B-cos
# network, 0.65 in the pretrained EfficientNet-Lite0.
_UNEQUAL = 0.3


def narrowed(family: Family, state: StateDict, arch: str | None, path: Path) -> tuple[Family, StateDict]:
    """Leave only the configurations of a family that a file's names allow; the names decide between two versions.

    A B-cosified network can have the names and shapes of a B-cos network of version 2, and is another network. Its
    trainer's files have a second prefix, its DenseNets numbers, its transformers no "0.", and both trainers' files name
    their experiment.

    Args:
        family: of the file.
        state: its state dict.
        arch: the configuration that the user named.
        path: of the file, for messages.

    Returns:
        The family, and the state dict without a second prefix.

    Raises:
        CheckpointError: the file is of another version than ``arch``.
    """
    if family is not VERSION_2_OR_3:
        return family, state
    twice = all(key.startswith("model.") for key in state.shapes)
    if twice:
        state = state.named({key.removeprefix("model."): key for key in state.shapes}, ())
    version, evidence = _told(state)
    if arch in BCOS and version not in (None, BCOS[arch].version) and arch in family.published:
        here, asked = _WORDS[version or 2], _WORDS[BCOS[arch].version]
        raise CheckpointError(f"{evidence}, as in files of {here}; --arch {arch} is one of {asked}", item=path)
    version = version or (3 if twice and arch is None else None)
    names = tuple(n for n in family.published if version in (None, BCOS[n].version))
    return replace(family, published=names), state


def _told(state: StateDict) -> tuple[int | None, str]:
    """The version that a file tells by itself, and by what; None where it could be both."""
    if version := version_of_experiment(state.experiment):
        return version, f"its experiment is {state.experiment}"
    names = state.shapes
    if any(_NUMBERED.match(key) and ".denselayer" in key for key in names):
        return 3, "its dense blocks are numbered"
    if any("attnpool." in key for key in names):
        return 3, "it has an attention pool"
    if _is_transformer(names):
        first = any(key.startswith("0.") for key in names)
        return (2, 'its names begin with "0."') if first else (3, 'its names do not begin with "0."')
    return (2, "its dense blocks have names") if any(".denseblock" in key for key in names) else (None, "")


def twin_hint(name: str, tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Compare the filters of a network with what those of its version are like, where the names tell nothing.

    Args:
        name: of the configuration.
        tensors: the network's tensors under coda's names.

    Returns:
        A sentence where they rather look like those of the other version; this is a hint and no proof.
    """
    other = twin(name)
    first = next((value for key, value in tensors.items() if key.endswith("backbone.conv1.linear.weight")), None)
    if other is None or first is None:
        return ()
    norms = first.flatten(1).norm(dim=1)
    unequal = float(norms.std() / norms.mean())
    if (unequal > _UNEQUAL) == (BCOS[name].version == 3) or norms.numel() < 2:
        return ()
    return (
        f"the norms of its first filters differ by {unequal:.0%} of their mean, which is {_LIKE[BCOS[name].version]}; "
        f"if it is one, --arch {other} computes it, and {name} another network with the same weights",
    )


_LIKE = {2: "usual for a B-cosified network", 3: "little for a B-cosified network and usual for a B-cos v2 one"}
