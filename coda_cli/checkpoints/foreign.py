"""The authors' files: bare weights, in pickles. The only place that reads pickles, and no code in them can run.

A state dict does not say everything about its network (strides, temperature, preprocessing ...). What it cannot tell
is taken from the published configuration that somebody or something names, and said; nothing is guessed in silence.
"""

from __future__ import annotations

import pickle
import re
import struct
import types
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from coda_cli.checkpoints.manifest import STANDARD, TORCHVISION, Checkpoint, parse_checkpoint, published_checkpoint
from coda_cli.checkpoints.published import PUBLISHED, published_name
from coda_cli.checkpoints.published_bcos import BCOS, bcos_named_in
from coda_cli.core.networks import build
from coda_cli.errors import CheckpointError, UsageError

State = Mapping[str, Tensor]


def described(
    path: Path, sha256: str, arch: str | None, checkpoint: Checkpoint | None
) -> tuple[dict[str, Tensor], Checkpoint, tuple[str, ...]]:
    """The tensors of an authors' file under our names, what network they are, and what had to be assumed about it.

    ``checkpoint`` is the description where it is known already. Raises CheckpointError and UsageError as
    ``loading.load`` does.
    """
    state, assumed = _state_dict(path)
    family = next((f for f in FAMILIES if f.fits(state)), None)
    if arch is not None and arch.startswith(TORCHVISION):
        family = ORDINARY
    if family is None:
        raise CheckpointError(f"{path}: {_stranger(state)}; coda explains CoDA-Nets and B-cos networks")
    if checkpoint is None:
        checkpoint, said = _configuration(path, sha256, arch, state, family)
        assumed += said
    try:
        tensors, left_out = family.converted(state, checkpoint, path)
    except ValueError as error:  # of an architecture that cannot be built
        if arch is None:
            raise CheckpointError(f"{path}: what its description says cannot be built: {error}") from error
        raise UsageError(f"--arch {arch}: {error}") from error
    return tensors, checkpoint, assumed + left_out


# ---- reading ---------------------------------------------------------------------------------------------------------

# What torch.load was seen to raise for files with bytes cut off or changed.
_RAISED_FOR_DAMAGE = (
    RuntimeError, EOFError, OSError, ValueError, LookupError, AttributeError, TypeError, AssertionError,
    ArithmeticError, MemoryError, struct.error,
)  # fmt: skip


class _Inert:
    """Stands for every class of a pickle that is not a tensor: takes whatever it is given and does nothing."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __new__(cls, *_: Any, **__: Any) -> _Inert:
        return super().__new__(cls)

    def __setstate__(self, _: Any) -> None: ...

    def __setitem__(self, *_: Any) -> None: ...

    def append(self, _: Any) -> None:
        """Items of a list's subclass."""

    def extend(self, _: Any) -> None:
        """Items of a list's subclass."""


# All that a state dict needs. What these functions do is rebuild tensors and dictionaries.
_HARMLESS = {
    ("collections", "OrderedDict"), ("torch._utils", "_rebuild_tensor_v2"), ("torch._utils", "_rebuild_parameter"),
    ("torch", "Size"), ("torch", "device"),
}  # fmt: skip


class _TensorsOnly(pickle.Unpickler):
    """Knows tensors and dictionaries; every other name is ``_Inert``, so that no code of the pickle's choosing runs."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _HARMLESS or (module == "torch" and name.endswith("Storage")):
            return super().find_class(module, name)
        return _Inert


# What torch.load takes for the pickle module.
_PICKLE = types.ModuleType("tensors_only")
_PICKLE.__dict__.update(Unpickler=_TensorsOnly, load=lambda file, **more: _TensorsOnly(file, **more).load())

# The wrappings that trainers put around a state dict, and the prefixes inside.
_WRAPPINGS = ("the_model", "model_state_dict", "state_dict")


def _state_dict(path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The state dict in a torch file, zip or legacy, unwrapped; and what was chosen on the way."""
    content = _unpickled(path)
    assumed: tuple[str, ...] = ()
    for wrapping in _WRAPPINGS:
        if isinstance(content, dict) and isinstance(content.get(wrapping), dict):
            content = content[wrapping]
    if not isinstance(content, dict) or not content:
        raise CheckpointError(f"{path}: holds no state dict (a dictionary of tensors)")
    state = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if len(state) < len(content):
        raise CheckpointError(f"{path}: holds no state dict (a dictionary of tensors)")
    for prefix, said in (("ema.module.", "the moving average of the weights that it holds was taken"), ("model.", "")):
        if any(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
            assumed = (said,) if said else ()
            break
    return {key.removeprefix("module."): value for key, value in state.items()}, assumed


def _unpickled(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about the protocol of the pickle
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            pass  # more than tensors in it, as trainers leave it: once more, blind for everything but tensors
        except _RAISED_FOR_DAMAGE as error:
            raise _damaged(path, error) from error
        try:
            return torch.load(path, map_location="cpu", weights_only=False, pickle_module=_PICKLE)
        except (*_RAISED_FOR_DAMAGE, pickle.UnpicklingError) as error:
            raise CheckpointError(
                f"{path}: not a torch file of tensors; it was not opened further, since that could run code in it"
            ) from error


def _damaged(path: Path, error: Exception) -> CheckpointError:
    ends = "it ends too early" if isinstance(error, EOFError) else type(error).__name__
    reason = (str(error).strip() or ends).splitlines()[0][:120]
    return CheckpointError(f"{path}: damaged, or not a torch file ({reason})")


# ---- which network ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Family:
    """A kind of file: how to tell it, which published configurations it can be, and its tensors under our names."""

    name: str
    fits: Callable[[State], bool]
    published: tuple[str, ...]
    converted: Callable[[State, Checkpoint, Path], tuple[dict[str, Tensor], tuple[str, ...]]]


def _configuration(
    path: Path, sha256: str, arch: str | None, state: State, family: Family
) -> tuple[Checkpoint, tuple[str, ...]]:
    sidecar = path.with_name(path.name + ".json")
    if arch is not None and arch.startswith(TORCHVISION):
        name, source = arch, "--arch"
    elif arch is not None:
        if not any(arch in f.published for f in FAMILIES):
            raise UsageError(f"--arch {arch}: no such configuration; known: {', '.join(family.published)}")
        if arch not in family.published:
            raise CheckpointError(f"{path}: the weights of a {family.name}, which --arch {arch} is not")
        name, source = arch, "--arch"
    elif sidecar.is_file():
        try:
            text = sidecar.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{sidecar}: cannot be read as text ({error})") from error
        checkpoint = parse_checkpoint(text, str(sidecar))
        return checkpoint, (f"everything but the weights from {sidecar.name}",)
    elif found := next((n for n in family.published if n in BCOS and _is_file_of(n, sha256)), None):
        name, source = found, "the file's hash"
    elif found := _named(path, family):
        name, source = found, "the file's path"
    elif family is ORDINARY:
        raise CheckpointError(
            f"{path}: the weights of an ordinary vision transformer, which has no exact decomposition; if it is one "
            f"of those published beside B-cos networks, say which with --arch: {', '.join(family.published)}"
        )
    else:
        candidates = [n for n in family.published if _fitting(n, state)]
        fitting = f"its shapes fit {', '.join(candidates)}" if candidates else "its shapes fit no published network"
        raise CheckpointError(
            f"{path}: weights alone do not tell stride, norm, temperature, bias and classes; {fitting}; say which "
            f"with --arch NAME, or describe it in {sidecar.name}"
        )
    checkpoint = published_checkpoint(name)
    a, view = checkpoint.arguments, checkpoint.preprocessing
    if checkpoint.architecture in STANDARD:
        seen = f"ImageNet's mean, deviation and {len(checkpoint.classes)} class names, shorter side to {view.resize}"
        return checkpoint, (f"configuration {name} from {source}: {seen}",)
    b = f"B {a.get('b', 2):g}" if name in BCOS else f"norm {a['norm']}"
    return checkpoint, (
        f"configuration {name} from {source}: strides, padding, {b}, temperature {a['temperature']:g}, bias "
        f"{a['bias']:.4f}, {len(checkpoint.classes)} class names",
    )


def _is_file_of(name: str, sha256: str) -> bool:
    prefix = BCOS[name].sha256_prefix
    return bool(prefix) and sha256.startswith(prefix)


def _named(path: Path, family: Family) -> str | None:
    whole = str(path.resolve())
    found = published_name(whole) if family.name == "CoDA-Net" else bcos_named_in(whole, family.published)
    return found if found in family.published else None


def _fitting(name: str, state: State) -> bool:
    """Whether the shapes of a published configuration are those of ``state``."""
    if name in PUBLISHED:
        return _dau_shapes(PUBLISHED[name]) == {key: tuple(value.shape) for key, value in state.items()}
    wanted = _wanted(published_checkpoint(name))
    return {key: value.shape for key, value in _renamed(state).items()} == wanted


def _wanted(checkpoint: Checkpoint) -> dict[str, torch.Size]:
    with torch.device("meta"):
        return {k: v.shape for k, v in build(checkpoint.architecture, checkpoint.arguments).state_dict().items()}


def _stranger(state: State) -> str:
    """What a state dict of no family looks like."""
    if any("conv1" in key or "features." in key for key in state):
        return (
            "the weights of an ordinary convolutional network, which has no exact decomposition (if it is one of "
            "torchvision's, coda compare takes it with --arch torchvision:NAME)"
        )
    return "the weights of no network that coda knows"


# ---- CoDA-Nets -------------------------------------------------------------------------------------------------------

_DAU_KEY = "weight_mod.weighting_f"


def _layer_shapes(arguments: Mapping[str, Any]) -> list[tuple[int, int, int, int, int]]:
    """(C, O, k, rank, groups) of every layer."""
    a, groups = arguments, arguments.get("groups") or [1] * len(arguments["kernels"])
    return list(zip(a["channels"][:-1], a["channels"][1:], a["kernels"], a["ranks"], groups, strict=True))


def _dau_shapes(arguments: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for i, (C, O, k, r, groups) in enumerate(_layer_shapes(arguments)):
        shapes[f"{i}.{_DAU_KEY}.0.weight"] = (r, C, k, k)
        shapes[f"{i}.{_DAU_KEY}.1.weight"] = (O * C * k * k, r // groups, 1, 1)
        shapes[f"{i}.{_DAU_KEY}.1.bias"] = (O * C * k * k,)
    return shapes


def _dau_converted(state: State, checkpoint: Checkpoint, path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
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
    return tensors, ()


# ---- B-cos networks --------------------------------------------------------------------------------------------------


# torchvision's DenseNets come in files from before their layers were renamed: norm.1 is norm1 now.
_DENSE = re.compile(r"(\.denselayer\d+\.(?:norm|conv))\.([12]\.)")


def _renamed(state: State) -> dict[str, Tensor]:
    """The authors' tensors under our names: version 1 and the transformers number their backbone 0."""
    chain = any(key.startswith("1.") for key in state)
    return {
        "backbone." + _DENSE.sub(r"\1\2", key if chain else key.removeprefix("0.")): value
        for key, value in state.items()
        if ".AuxLogits." not in key  # only training uses this head
    }


def _bcos_converted(state: State, checkpoint: Checkpoint, path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    tensors, wanted = _renamed(state), _wanted(checkpoint)
    for key in wanted:
        if key.endswith("num_batches_tracked"):  # counts of training, which older files lack
            tensors.setdefault(key, torch.tensor(0))
    theirs = {key: key.removeprefix("backbone.") for key in {**tensors, **wanted}}
    if missing := sorted(wanted.keys() - tensors.keys()):
        raise CheckpointError(f"{path}: lacks {theirs[missing[0]]}, which {checkpoint.name} has; {_OTHER}")
    if extra := sorted(tensors.keys() - wanted.keys()):
        raise CheckpointError(
            f"{path}: holds {len(extra)} tensors that {checkpoint.name} has not, {theirs[extra[0]]} among them; "
            f"{_OTHER}"
        )
    for key, shape in wanted.items():
        if tensors[key].shape != shape:
            raise CheckpointError(
                f"{path}: {theirs[key]}: {checkpoint.name} expects {list(shape)}, got {list(tensors[key].shape)}; "
                f"{_OTHER}"
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
