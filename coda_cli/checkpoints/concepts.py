"""Dictionaries of concepts, from the files of those who learned them, put behind a layer of a network.

A file holds ``encoder.weight`` [n, C] and ``decoder.weight`` [C, n], and often ``k``, how many concepts are active.
Files of ``torch.save`` are read without unpickling. Names of published files tell the layer and ``k``, too.
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from coda_cli.checkpoints.loading import SUFFIX, Net
from coda_cli.checkpoints.pickled import StoredTensor
from coda_cli.checkpoints.proof import picture
from coda_cli.checkpoints.safetensors_files import read_safetensors
from coda_cli.checkpoints.torch_files import TorchFile
from coda_cli.core.abilities import above
from coda_cli.core.arguments import check_concepts
from coda_cli.core.concepts import insert, layer_of
from coda_cli.errors import CheckpointError, UsageError

_ENCODER, _DECODER = "encoder.weight", "decoder.weight"
_DEEPEST = 4  # dictionaries around the state dict
_BIAS = re.compile(r"(bias|b_dec|b_enc|b_pre)$")
# v0.1-ARCH-LAYER-BiasFreeTopK-Kn-Sk-LRrate.pt
_PUBLISHED = re.compile(r"-(?P<layer>[\w.]+)-BiasFreeTopK-K\d+-S(?P<active>\d+)-")


@dataclass(frozen=True)
class Dictionary:
    """What a file tells.

    Attributes:
        encoder: float32 [n, C].
        decoder: float32 [C, n].
        layer: the layer whose output it was learned from, where the file's name tells.
        active: how many concepts are active at a position, where the file or its name tells.
    """

    encoder: Tensor
    decoder: Tensor
    layer: str | None
    active: int | None


def read_dictionary(path: Path) -> Dictionary:
    """Read a dictionary of concepts.

    Args:
        path: a file of ``torch.save``, or a safetensors file.

    Returns:
        What it tells.

    Raises:
        CheckpointError: it cannot be read, holds no dictionary, or one with biases or numbers that are not finite.
    """
    if not path.is_file():
        raise CheckpointError("no such file", item=path)
    found = read_safetensors(path) if path.suffix == SUFFIX else _of_torch(path)
    begin = next((key.removesuffix(_ENCODER) for key in found if key.endswith(_ENCODER)), None)
    if begin is None or begin + _DECODER not in found:
        raise CheckpointError(f"holds no dictionary of concepts: expected {_ENCODER} and {_DECODER}", item=path)
    encoder, decoder = found[begin + _ENCODER], found[begin + _DECODER]
    if not (encoder.ndim == 2 and encoder.shape == decoder.T.shape and encoder.is_floating_point()):
        shapes = f"{list(encoder.shape)} and {list(decoder.shape)}"
        raise CheckpointError(f"expected floats {_ENCODER} [n, C] and {_DECODER} [C, n], got {shapes}", item=path)
    for key, value in found.items():
        if _BIAS.search(key) and bool(value.any()):
            raise CheckpointError(f"its {key} is not 0; a bias is no concept's, and coda takes none", item=path)
    encoder, decoder = encoder.float(), decoder.float()
    for key, value in ((_ENCODER, encoder), (_DECODER, decoder)):
        if bad := int((~torch.isfinite(value)).sum()):
            raise CheckpointError(f"{bad} values of its {key} are not finite; get a sound copy", item=path)
    named = _PUBLISHED.search(path.name)
    active = _whole(found.get(f"{begin}k"), int(named["active"]) if named else None)
    return Dictionary(encoder, decoder, named and named["layer"], active)


def _whole(value: Tensor | None, otherwise: int | None) -> int | None:
    """The whole number that a tensor holds; something else where it holds none."""
    known = value is not None and value.numel() == 1 and float(value).is_integer()
    return int(value) if known and value is not None else otherwise


def _of_torch(path: Path) -> dict[str, Tensor]:
    """The tensors and numbers of the state dict in a file of ``torch.save``. Raises CheckpointError."""
    with TorchFile(path) as file:
        state = _state(file.content, _DEEPEST) or {}
        tensors = {key: file.tensor(value) for key, value in state.items() if isinstance(value, StoredTensor)}
        numbers = {key: torch.tensor(v) for key, v in state.items() if type(v) is int and 0 <= v < 1 << 31}
    return {str(key): value for key, value in (tensors | numbers).items()}


def _state(content: object, depth: int) -> dict[object, object] | None:
    """The dictionary in a file, or in those inside it, that has an encoder."""
    if not isinstance(content, dict) or not depth:
        return None
    if any(isinstance(key, str) and key.endswith(_ENCODER) for key in content):
        return content
    return next((found for value in content.values() if (found := _state(value, depth - 1))), None)


def with_concepts(net: Net, path: Path, at: str | None = None, active: int | None = None) -> tuple[Net, str]:
    """Put a dictionary behind a layer of a network, whose output it then replaces.

    Args:
        net: the network, on the CPU; not changed.
        path: the file of the dictionary.
        at: the layer, or the end of its name; what the file's name tells unless given.
        active: how many concepts are active at a position; what the file or its name tells unless given.

    Returns:
        The network with concepts, and the name of the layer whose channels they are. Its description states no
        accuracy and no full colour, since nobody has measured these with the concepts.

    Raises:
        CheckpointError: the file is not sound, or its dictionary is of another width than the layer.
        UsageError: neither file nor options tell the layer or the number, or the network has no such place.
    """
    found = read_dictionary(path)
    number, width = found.encoder.shape
    if (layer := at or found.layer) is None:
        raise UsageError("does not tell the layer that it was learned from; say which with --at LAYER", item=path)
    if (count := active or found.active) is None:
        raise UsageError("does not tell how many concepts are active; say how many with --active K", item=path)
    if not active and not 1 <= count <= number:
        raise CheckpointError(
            f"says that {count} of its {number} concepts are active; say how many with --active K", item=path
        )
    model = copy.deepcopy(net.model)
    try:
        described: dict[str, Any] = {"layer": layer_of(model, layer), "width": width, "number": number, "active": count}
        check_concepts(described)
        with torch.device("meta"):
            name = insert(model, **described)
    except ValueError as error:
        raise UsageError(f"{net.checkpoint.name}: {error}", item=path) from error
    tensors = {_ENCODER: found.encoder, _DECODER: found.decoder}
    above(model).get_submodule(name).load_state_dict(tensors, assign=True)
    changed = {"name": f"{net.checkpoint.name}-concepts", "concepts": described, "accuracy": None, "full_colour": None}
    net = replace(net, model=model.eval().requires_grad_(False), checkpoint=net.checkpoint.model_copy(update=changed))
    try:
        with torch.inference_mode():
            model(picture(net))
    except CheckpointError as error:  # of another width than the layer
        raise error.about(path)  # noqa: B904 (it is the same error)
    return net, f"{name}.encoder"
