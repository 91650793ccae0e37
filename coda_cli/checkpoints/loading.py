"""Files to networks and back. The only place that reads pickles, and only with ``weights_only``."""

from __future__ import annotations

import hashlib
import pickle
import struct
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from coda_cli.checkpoints.manifest import (
    METADATA_KEY,
    Checkpoint,
    Known,
    known,
    parse_checkpoint,
    published_checkpoint,
    read_metadata,
)
from coda_cli.core.networks import build
from coda_cli.core.published import PUBLISHED, published_name
from coda_cli.errors import CheckpointError, UsageError
from coda_cli.media.stills import write_with

SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Net:
    """A network ready to use: the model in eval mode, its description, and where it came from."""

    model: nn.Module
    checkpoint: Checkpoint
    path: Path
    sha256: str
    assumed: tuple[str, ...] = ()  # what the file could not tell and where it was taken from instead


def load(
    name_or_path: str | Path,
    *,
    arch: str | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Net:
    """Load a network by its name in the manifest or from a file: our safetensors, or the authors' pickles.

    The authors' files hold bare weights. Stride, padding, norm, temperature, bias and classes are those of the
    published configuration that ``arch``, a sidecar ``FILE.json`` or the path names, in that order; ``Net.assumed``
    says which. Raises CheckpointError for a file that is missing, damaged, of another family, or whose configuration
    nothing names; UsageError for an ``arch`` that does not exist.
    """
    entry = known().get(str(name_or_path))
    path = entry.path if entry else Path(name_or_path)
    if not path.is_file():
        raise CheckpointError(_missing(str(name_or_path), entry))
    sha256 = file_sha256(path)
    if entry and entry.sha256 not in (None, sha256):
        mend = f"coda models pull {name_or_path} --force" if entry.url else "reinstall coda-cli"
        raise CheckpointError(f"{path}: sha256 is {sha256}, the manifest says {entry.sha256}; {mend}")
    if arch and (entry or path.suffix == SUFFIX):
        raise UsageError(f"--arch is for files without a description; {name_or_path} has its own")
    assumed: tuple[str, ...] = ()
    if path.suffix == SUFFIX:
        model, checkpoint = _load_own(path)
    else:
        model, checkpoint, assumed = _load_foreign(path, arch, entry.checkpoint if entry else None)
    _refuse_non_finite(model, path)
    model.requires_grad_(False)
    return Net(model.eval().to(device, dtype), checkpoint, path, sha256, assumed)


def save(model: nn.Module, checkpoint: Checkpoint, path: Path) -> None:
    """Write a self-describing safetensors file, atomically. Raises MediaError when it cannot be written."""
    tensors = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    metadata = {METADATA_KEY: checkpoint.model_dump_json(), "format": "pt"}
    data = safetensors.torch.save(tensors, metadata)
    write_with(path, lambda stream: stream.write(data))


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file. Raises CheckpointError when it cannot be read."""
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error


def _missing(name: str, entry: Known | None) -> str:
    if entry and entry.url:
        return f"{name!r} is not on this machine; get it with: coda models pull {name}"
    if entry:
        return f"{entry.path}: the bundled weights are missing; reinstall coda-cli"
    names = ", ".join(known())
    return f"{name}: no such file, and no network has that name; known: {names}"


def _refuse_non_finite(model: nn.Module, path: Path) -> None:
    for key, value in model.state_dict().items():
        bad = int((~torch.isfinite(value)).sum())
        if bad:
            raise CheckpointError(f"{path}: {bad} of {value.numel()} values of {key} are not finite; get a sound copy")


# ---- our own files ---------------------------------------------------------------------------------------------------


def _load_own(path: Path) -> tuple[nn.Module, Checkpoint]:
    metadata = read_metadata(path)
    if METADATA_KEY not in metadata:
        raise CheckpointError(f"{path}: a safetensors file without coda's description; coda did not write it")
    checkpoint = parse_checkpoint(metadata[METADATA_KEY], str(path))
    try:
        tensors = safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: damaged or truncated ({error})") from error
    model = _build(checkpoint, path)
    # Files may store half precision; everything is computed in float32.
    _fill(model, {key: value.float() for key, value in tensors.items()}, path)
    return model, checkpoint


def _build(checkpoint: Checkpoint, path: Path) -> nn.Module:
    """The network without memory for its weights: ``_fill`` gives it some once the file is known to fit."""
    try:
        with torch.device("meta"):
            model = build(checkpoint.architecture, checkpoint.arguments)
    except (ValueError, RuntimeError) as error:  # RuntimeError: sizes that overflow
        raise CheckpointError(f"{path}: {error}") from error
    outputs = checkpoint.arguments["channels"][-1]
    if len(checkpoint.classes) != outputs:
        raise CheckpointError(f"{path}: described with {len(checkpoint.classes)} classes and {outputs} outputs")
    return model


def _fill(model: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    wanted = model.state_dict()
    if missing := sorted(wanted.keys() - tensors.keys()):
        raise CheckpointError(f"{path}: lacks {len(missing)} tensors of its architecture, {missing[0]} among them")
    if extra := sorted(tensors.keys() - wanted.keys()):
        raise CheckpointError(f"{path}: holds {len(extra)} tensors its architecture has not, {extra[0]} among them")
    for key, tensor in wanted.items():
        if tensors[key].shape != tensor.shape:
            raise CheckpointError(f"{path}: {key}: expected {list(tensor.shape)}, got {list(tensors[key].shape)}")
    model.to_empty(device="cpu").load_state_dict(tensors)


# ---- the authors' files ----------------------------------------------------------------------------------------------

_DAU_KEY = "weight_mod.weighting_f"


def _load_foreign(
    path: Path, arch: str | None, checkpoint: Checkpoint | None
) -> tuple[nn.Module, Checkpoint, tuple[str, ...]]:
    state = _unpickle(path)
    if not any(_DAU_KEY in key for key in state):
        raise CheckpointError(f"{path}: {_family(state)}; coda explains CoDA-Nets (keys like 0.{_DAU_KEY}.0.weight)")
    assumed: tuple[str, ...] = ()
    if checkpoint is None:
        checkpoint, assumed = _configuration(path, arch, state)
    model = _build(checkpoint, path)
    _fill(model, _converted(state, checkpoint, path), path)
    return model, checkpoint, assumed


# What torch.load was seen to raise for files with bytes cut off or changed.
_RAISED_FOR_DAMAGE = (
    RuntimeError, EOFError, OSError, ValueError, LookupError, AttributeError, TypeError, AssertionError,
    ArithmeticError, MemoryError, struct.error,
)  # fmt: skip


def _unpickle(path: Path) -> dict[str, Tensor]:
    """The state dict in a torch file, zip or legacy, without the wrappings that trainers put around it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about the protocol of the pickle
            content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: not a torch file of plain tensors; it was not opened further, since that could run code in it"
        ) from error
    except _RAISED_FOR_DAMAGE as error:
        ends = "it ends too early" if isinstance(error, EOFError) else type(error).__name__
        reason = (str(error).strip() or ends).splitlines()[0][:120]
        raise CheckpointError(f"{path}: damaged, or not a torch file ({reason})") from error
    for wrapping in ("the_model", "model_state_dict", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(wrapping), dict):
            content = content[wrapping]
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()) or not content:
        raise CheckpointError(f"{path}: holds no state dict (a dictionary of tensors)")
    return {str(key).removeprefix("module."): value for key, value in content.items()}


def _family(state: Mapping[str, Tensor]) -> str:
    """What a state dict that is no CoDA-Net's looks like, for the error message."""
    if any("to_qkv" in key for key in state):
        return "the weights of a vision transformer"
    if any(key.endswith(".linear.weight") for key in state):
        return "the weights of a B-cos network"
    if any("conv1" in key or "features." in key for key in state):
        return "the weights of an ordinary convolutional network, which has no exact decomposition"
    return "not the weights of a CoDA-Net"


def _configuration(path: Path, arch: str | None, state: Mapping[str, Tensor]) -> tuple[Checkpoint, tuple[str, ...]]:
    sidecar = path.with_name(path.name + ".json")
    if arch is not None:
        if arch not in PUBLISHED:
            raise UsageError(f"--arch {arch}: no such configuration; known: {', '.join(PUBLISHED)}")
        name, source = arch, "--arch"
    elif sidecar.is_file():
        try:
            text = sidecar.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{sidecar}: cannot be read as text ({error})") from error
        checkpoint = parse_checkpoint(text, str(sidecar))
        return checkpoint, (f"everything but the weights from {sidecar.name}",)
    elif found := published_name(str(path.resolve())):
        name, source = found, "the file's path"
    else:
        candidates = [n for n in PUBLISHED if _shapes(n) == {k: tuple(v.shape) for k, v in state.items()}]
        fitting = f"its shapes fit {', '.join(candidates)}" if candidates else "its shapes fit no published network"
        raise CheckpointError(
            f"{path}: weights alone do not tell stride, norm, temperature, bias and classes; {fitting}; say which "
            f"with --arch NAME, or describe it in {sidecar.name}"
        )
    checkpoint = published_checkpoint(name)
    t = checkpoint.arguments["temperature"]
    return checkpoint, (
        f"configuration {name} from {source}: strides, padding, norm {checkpoint.arguments['norm']}, temperature "
        f"{t:g}, bias {checkpoint.arguments['bias']:.4f}, {len(checkpoint.classes)} class names",
    )


def _layer_shapes(arguments: Mapping[str, Any]) -> list[tuple[int, int, int, int, int]]:
    """(C, O, k, rank, groups) of every layer."""
    a, groups = arguments, arguments.get("groups") or [1] * len(arguments["kernels"])
    return list(zip(a["channels"][:-1], a["channels"][1:], a["kernels"], a["ranks"], groups, strict=True))


def _shapes(name: str) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for i, (C, O, k, r, groups) in enumerate(_layer_shapes(PUBLISHED[name])):
        shapes[f"{i}.{_DAU_KEY}.0.weight"] = (r, C, k, k)
        shapes[f"{i}.{_DAU_KEY}.1.weight"] = (O * C * k * k, r // groups, 1, 1)
        shapes[f"{i}.{_DAU_KEY}.1.bias"] = (O * C * k * k,)
    return shapes


def _converted(state: Mapping[str, Tensor], checkpoint: Checkpoint, path: Path) -> dict[str, Tensor]:
    """The authors' tensors under our names, in our order (models' section 3: row n = patch entry * O + output)."""
    tensors: dict[str, Tensor] = {}
    used = set()
    for i, (C, O, k, r, groups) in enumerate(_layer_shapes(checkpoint.arguments)):
        d, j = C * k * k, r // groups
        expected = {".0.weight": (r, C, k, k), ".1.weight": (O * d, j, 1, 1), ".1.bias": (O * d,)}
        found: dict[str, Tensor] = {}
        for suffix, shape in expected.items():
            key = f"{i}.{_DAU_KEY}{suffix}"
            if key not in state:
                raise CheckpointError(f"{path}: lacks {key}, which {checkpoint.name} has")
            if tuple(state[key].shape) != shape:
                raise CheckpointError(
                    f"{path}: {key}: {checkpoint.name} expects {list(shape)}, got {list(state[key].shape)}; is it "
                    "another configuration? name it with --arch"
                )
            found[suffix] = state[key].float()
            used.add(key)
        tensors[f"layers.{i}.V"] = found[".0.weight"]
        U = found[".1.weight"].reshape(d, O, j).permute(1, 2, 0)  # [O, j, d]
        tensors[f"layers.{i}.U"] = U.reshape(O * j, C, k, k)
        tensors[f"layers.{i}.b"] = found[".1.bias"].reshape(d, O).t().reshape(O, C, k, k)
    if extra := sorted(state.keys() - used):
        raise CheckpointError(
            f"{path}: holds {len(extra)} tensors that {checkpoint.name} has not, {extra[0]} among them"
        )
    return tensors
