"""From files to networks and back. The authors' files are read in ``foreign``."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from coda_cli.checkpoints import text_vectors
from coda_cli.checkpoints.foreign import read_foreign
from coda_cli.checkpoints.headers import read_header, read_metadata
from coda_cli.checkpoints.manifest import (
    METADATA_KEY,
    STANDARD,
    Checkpoint,
    KnownCheckpoint,
    known,
    names_near,
    parse_checkpoint,
)
from coda_cli.checkpoints.text_vectors import Texts, read_texts
from coda_cli.checkpoints.torch_files import MAX_FILE
from coda_cli.checkpoints.unpickling import StateDict, open_state_dict
from coda_cli.core import abilities
from coda_cli.core.arguments import check_side
from coda_cli.core.networks import build
from coda_cli.errors import CheckpointError, UsageError
from coda_cli.media.files import write_with

SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Net:
    """A network ready to use.

    Attributes:
        model: in eval mode; its weights take no gradients.
        checkpoint: its description.
        path: the file it was loaded from.
        sha256: hex digest of the file's bytes.
        assumed: what the file could not tell and where it was taken from instead, a sentence each.
    """

    model: nn.Module
    checkpoint: Checkpoint
    path: Path
    sha256: str
    assumed: tuple[str, ...] = ()

    @property
    def device(self) -> torch.device:
        """The device of its weights, on which it computes."""
        return next(self.model.parameters()).device

    @property
    def cut(self) -> str | None:
        """Of a hybrid, the layer down to which its decomposition is exact; None where it is down to the pixels."""
        return abilities.cut(self.model)


@torch.inference_mode(False)  # what is made inside that mode can have no gradients
def load(
    name_or_path: str | Path,
    *,
    arch: str | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    exact: bool = True,
    ema: bool | None = None,
    text: str | Path | None = None,
) -> Net:
    """Load a network by its name or from a file: coda's safetensors, or the authors' weights.

    The authors' files hold bare weights. Stride, padding, norm, temperature, bias and classes are those of the
    published configuration that ``arch``, a file ``FILE.json`` beside it, the file's hash or its path names, in that
    order; ``Net.assumed`` says which. Everything is checked before anything is built, and no code in a file runs.

    Args:
        name_or_path: a name from ``coda models list``, or a file.
        arch: name of a published configuration, for files of bare weights.
        device: where the network is to compute.
        dtype: of its weights.
        exact: refuse networks that are not dynamic linear.
        ema: for files of trainers that hold both: True takes the moving average of the weights, False the weights of
            the last step; None takes the average. ``Net.assumed`` says what was taken.
        text: for networks that compare pictures with texts: an ``.npz`` with ``names`` [K] and their ``vectors``
            float [K, E], which become the classes. Files of bare weights need it; others hold some already.

    Returns:
        The network.

    Raises:
        CheckpointError: the file is missing, damaged, of another kind, or nothing names its configuration.
        UsageError: there is no configuration ``arch``, the file has its own description, it does not hold what
            ``ema`` asks for, or the network takes no texts.

    Example:
        >>> net = load("imagenette")
        >>> net.checkpoint.classes[0]
    """
    entry = known().get(str(name_or_path))
    path = entry.path if entry else Path(name_or_path)
    if exact and entry:
        _refuse_inexact(entry.checkpoint, entry.checkpoint.name)
    if not path.is_file():
        raise CheckpointError(_why_missing(str(name_or_path), entry))
    if path.stat().st_size > MAX_FILE:
        raise CheckpointError(f"too large: {path.stat().st_size} bytes; the limit is {MAX_FILE}", item=path)
    own = path.suffix == SUFFIX and METADATA_KEY in read_metadata(path)
    if arch and (entry or own):
        raise UsageError(f"--arch is for files without a description; {name_or_path} has its own")
    if ema is not None and path.suffix == SUFFIX:
        raise UsageError(f"--ema and --no-ema are for files of trainers; {name_or_path} holds one set of weights")
    if entry:
        _check_sha256(entry, str(name_or_path))
    texts = None if text is None else read_texts(Path(text))
    net = _load_own(path, texts) if own else _load_foreign(path, arch, entry.checkpoint if entry else None, ema, texts)
    if exact:
        _refuse_inexact(net.checkpoint, str(path))
    _refuse_non_finite(net.model, path)
    net.model.requires_grad_(False)
    return replace(net, model=net.model.eval().to(device, dtype))


def _check_sha256(entry: KnownCheckpoint, name: str) -> None:
    """Raise CheckpointError where the file of a known network is another than it should be."""
    sha256 = file_sha256(entry.path)
    if entry.sha256 not in (None, sha256):
        mend = f"coda models pull {name} --force" if entry.url else "reinstall coda-cli"
        raise CheckpointError(f"sha256 is {sha256}, the manifest says {entry.sha256}; {mend}", item=entry.path)
    if not sha256.startswith(entry.sha256_prefix):
        raise CheckpointError(
            f"sha256 is {sha256}, the published one begins with {entry.sha256_prefix}; coda models pull {name} --force",
            item=entry.path,
        )


def save(model: nn.Module, checkpoint: Checkpoint, path: Path) -> None:
    """Write a self-describing safetensors file, whole or not at all.

    Args:
        model: whose weights are written.
        checkpoint: its description.
        path: of the file.

    Raises:
        MediaError: the file cannot be written.
    """
    tensors = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    metadata = {METADATA_KEY: checkpoint.model_dump_json(), "format": "pt"}
    data = safetensors.torch.save(tensors, metadata)
    write_with(path, lambda stream: stream.write(data))


def file_sha256(path: Path) -> str:
    """Hash the bytes of a file.

    Args:
        path: of the file.

    Returns:
        sha256 as 64 hex digits.

    Raises:
        CheckpointError: the file cannot be read.
    """
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"cannot be read ({error.strerror or error})", item=path) from error


def _why_missing(name: str, entry: KnownCheckpoint | None) -> str:
    if entry and entry.page:
        return f"{name!r} is not on this machine; download it from {entry.page}, and use --model FILE --arch {name}"
    if entry and entry.url:
        return f"{name!r} is not on this machine; get it with: coda models pull {name}"
    if entry:
        return f"{entry.path}: the bundled weights are missing; reinstall coda-cli"
    return f"{name}: no such file, and no network has that name; {names_near(name)}"


def _refuse_inexact(checkpoint: Checkpoint, name: str) -> None:
    """Raise CheckpointError for a network that is not dynamic linear."""
    if checkpoint.architecture in STANDARD:
        raise CheckpointError(
            "not a dynamic linear network: its logits have no exact decomposition into pixels; coda compare "
            "shows what other methods say about it",
            item=name,
        )


def _refuse_non_finite(model: nn.Module, path: Path) -> None:
    """Raise CheckpointError for weights that are infinite or NaN."""
    for key, value in model.state_dict().items():
        bad = int((~torch.isfinite(value)).sum())
        if bad:
            raise CheckpointError(
                f"{bad} of {value.numel()} values of {key} are not finite; get a sound copy", item=path
            )


# ---- from descriptions to networks -----------------------------------------------------------------------------------


def _load_own(path: Path, texts: Texts | None) -> Net:
    """The network of a safetensors file that coda wrote. Its header must fit before anything else is read."""
    header = read_header(path)
    checkpoint = parse_checkpoint(header.metadata[METADATA_KEY], str(path))
    model = _build(checkpoint, path)
    _compare(model, header.shapes, path)
    sha256, tensors = file_sha256(path), _read_safetensors(path)
    assumed: tuple[str, ...] = ()
    if texts:
        checkpoint, assumed = _with_texts(texts, checkpoint, tensors)
        model = _build(checkpoint, path)
    _fill(model, tensors, path)
    return Net(model, checkpoint, path, sha256, assumed)


def _with_texts(texts: Texts, checkpoint: Checkpoint, tensors: dict[str, Tensor]) -> tuple[Checkpoint, tuple[str, ...]]:
    """Put texts in the place of a network's classes: into its tensors, and into its description, which is returned."""
    checkpoint = texts.describe(checkpoint)
    tensors[text_vectors.KEY] = texts.vectors
    return checkpoint, (f"its {len(texts.names)} classes are the texts of {texts.path.name}",)


def _load_foreign(
    path: Path, arch: str | None, checkpoint: Checkpoint | None, ema: bool | None, texts: Texts | None
) -> Net:
    """The network of a file of bare weights."""
    if path.suffix == SUFFIX:
        opened: AbstractContextManager[StateDict] = _open_safetensors(path)
    else:
        opened = open_state_dict(path, ema=ema)
    hashed = cache(lambda: file_sha256(path))
    with opened as state:
        tensors, checkpoint, assumed = read_foreign(state, path, hashed, arch, checkpoint)
        if texts:
            checkpoint, said = _with_texts(texts, checkpoint, tensors)
            assumed += said
        elif checkpoint.architecture == text_vectors.ARCHITECTURE:
            raise CheckpointError(
                "it compares pictures with texts, and does not hold their vectors; say which with --text FILE.npz, "
                "which holds names and vectors",
                item=path,
            )
        model = _build(checkpoint, path)
        _compare(model, {key: tuple(value.shape) for key, value in tensors.items()}, path)
        _fill(model, tensors, path)
    return Net(model, checkpoint, path, hashed(), assumed)


@contextmanager
def _open_safetensors(path: Path) -> Iterator[StateDict]:
    """A safetensors file without a description, as a state dict."""
    header = read_header(path)
    shapes = {key: torch.empty(shape, dtype=_TYPES[header.types[key]], device="meta")
              for key, shape in header.shapes.items()}  # fmt: skip
    yield StateDict(shapes, (), lambda: _read_safetensors(path))


_TYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file."""
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"damaged or truncated ({error})", item=path) from error


def _build(checkpoint: Checkpoint, path: Path) -> nn.Module:
    """The network without memory for its weights: ``_fill`` gives it some once the file is known to fit."""
    try:
        with torch.device("meta"):
            model = build(checkpoint.architecture, checkpoint.arguments)
        check_side(checkpoint.architecture, checkpoint.arguments, checkpoint.preprocessing.crop)
        return model
    except (ValueError, RuntimeError) as error:  # RuntimeError: sizes that overflow
        raise CheckpointError(f"{error}", item=path) from error


def _compare(model: nn.Module, shapes: Mapping[str, Sequence[int]], path: Path) -> None:
    """Raise CheckpointError where a file's tensors have other names or shapes than the network's."""
    wanted = model.state_dict()
    if missing := sorted(wanted.keys() - shapes.keys()):
        raise CheckpointError(f"lacks {len(missing)} tensors of its architecture, {missing[0]} among them", item=path)
    if extra := sorted(shapes.keys() - wanted.keys()):
        raise CheckpointError(f"holds {len(extra)} tensors its architecture has not, {extra[0]} among them", item=path)
    for key, tensor in wanted.items():
        if tuple(shapes[key]) != tuple(tensor.shape):
            raise CheckpointError(f"{key}: expected {list(tensor.shape)}, got {list(shapes[key])}", item=path)


def _fill(model: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Give a network copies of its tensors. Raises CheckpointError where they are of another kind of number."""
    wanted = model.state_dict()
    for key, like in wanted.items():
        if key not in tensors or tensors[key].shape != like.shape:
            raise CheckpointError("changed while it was read", item=path)
        if tensors[key].is_floating_point() != like.is_floating_point():
            raise CheckpointError(f"{key}: expected numbers like {like.dtype}, got {tensors[key].dtype}", item=path)
    # Copies, so that a file that changes while the program runs does no harm. They have the network's types and memory
    # orders: files may hold half precision, and know nothing of channels-last kernels. Not to_empty: it imports 0.3 s.
    try:
        copies = {
            key: torch.empty_strided(like.shape, like.stride(), dtype=like.dtype).copy_(tensors[key])
            for key, like in wanted.items()
        }
    except (MemoryError, RuntimeError) as error:  # torch raises RuntimeError where there is no memory
        raise CheckpointError("its weights do not fit into memory", item=path) from error
    model.load_state_dict(copies, assign=True)
