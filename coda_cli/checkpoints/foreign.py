"""The authors' files, which hold bare weights: which network they are of.

A state dict does not say everything about its network (strides, temperature, preprocessing ...). What it cannot tell
is taken from the published configuration that the user, a file beside it, its hash or its path names, and the user is
told so. Nothing is guessed in silence.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from coda_cli.checkpoints.families import FAMILIES, ORDINARY, Family, State, has_shapes_of
from coda_cli.checkpoints.manifest import STANDARD, TORCHVISION, Checkpoint, parse_checkpoint, published_checkpoint
from coda_cli.checkpoints.published import published_name
from coda_cli.checkpoints.published_bcos import BCOS, bcos_named_in
from coda_cli.checkpoints.unpickling import read_state_dict
from coda_cli.errors import CheckpointError, UsageError


def read_foreign(
    path: Path, sha256: str, arch: str | None, checkpoint: Checkpoint | None
) -> tuple[dict[str, Tensor], Checkpoint, tuple[str, ...]]:
    """Read an authors' file, and find out what network it is.

    Args:
        path: of the file.
        sha256: hex digest of its bytes.
        arch: name of the published configuration, where the user gave one.
        checkpoint: the network's description, where it is known already.

    Returns:
        The tensors under coda's names, the network's description, and a sentence for each thing that was assumed.

    Raises:
        CheckpointError: the file is damaged, is of no network that coda knows, or nothing tells which one it is.
        UsageError: there is no configuration ``arch``, or it cannot be built.
    """
    state, assumed = read_state_dict(path)
    family = next((f for f in FAMILIES if f.fits(state)), None)
    if arch is not None and arch.startswith(TORCHVISION):
        family = ORDINARY
    if family is None:
        raise CheckpointError(f"{_what_it_looks_like(state)}; coda explains CoDA-Nets and B-cos networks", item=path)
    if checkpoint is None:
        checkpoint, said = _description(path, sha256, arch, state, family)
        assumed += said
    try:
        tensors, left_out = family.convert(state, checkpoint, path)
    except ValueError as error:  # of an architecture that cannot be built
        if arch is None:
            raise CheckpointError(f"what its description says cannot be built: {error}", item=path) from error
        raise UsageError(f"--arch {arch}: {error}") from error
    return tensors, checkpoint, assumed + left_out


def _description(
    path: Path, sha256: str, arch: str | None, state: State, family: Family
) -> tuple[Checkpoint, tuple[str, ...]]:
    """The network's description, and a sentence about where it comes from."""
    sidecar = path.with_name(path.name + ".json")
    if arch is None and sidecar.is_file():
        try:
            text = sidecar.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f"cannot be read as text ({error})", item=sidecar) from error
        return parse_checkpoint(text, str(sidecar)), (f"everything but the weights from {sidecar.name}",)
    if arch is not None:
        _refuse_arch(arch, path, family)
        name, source = arch, "--arch"
    else:
        name, source = _recognised(path, sha256, state, family)
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


def _refuse_arch(arch: str, path: Path, family: Family) -> None:
    """Raise UsageError where no configuration is called ``arch``, CheckpointError where the file is of another kind."""
    if arch.startswith(TORCHVISION) or arch in family.published:
        return
    if not any(arch in f.published for f in FAMILIES):
        raise UsageError(f"--arch {arch}: no such configuration; known: {', '.join(family.published)}")
    raise CheckpointError(f"the weights of a {family.name}, which --arch {arch} is not", item=path)


def _recognised(path: Path, sha256: str, state: State, family: Family) -> tuple[str, str]:
    """The published configuration that the file's hash or path names, and which of the two. Raises CheckpointError."""
    if found := next((n for n in family.published if n in BCOS and _is_file_of(n, sha256)), None):
        return found, "the file's hash"
    if found := _named_by_path(path, family):
        return found, "the file's path"
    if family is ORDINARY:
        raise CheckpointError(
            f"the weights of an ordinary vision transformer, which has no exact decomposition; if it is one "
            f"of those published beside B-cos networks, say which with --arch: {', '.join(family.published)}",
            item=path,
        )
    candidates = [n for n in family.published if has_shapes_of(n, state)]
    fitting = f"its shapes fit {', '.join(candidates)}" if candidates else "its shapes fit no published network"
    raise CheckpointError(
        f"weights alone do not tell stride, norm, temperature, bias and classes; {fitting}; say which "
        f"with --arch NAME, or describe it in {path.name}.json",
        item=path,
    )


def _is_file_of(name: str, sha256: str) -> bool:
    """Whether a hash begins as that of the published file of a configuration."""
    prefix = BCOS[name].sha256_prefix
    return bool(prefix) and sha256.startswith(prefix)


def _named_by_path(path: Path, family: Family) -> str | None:
    """The one configuration of the family whose name stands in the path, else None."""
    whole = str(path.resolve())
    found = published_name(whole) if family.name == "CoDA-Net" else bcos_named_in(whole, family.published)
    return found if found in family.published else None


def _what_it_looks_like(state: State) -> str:
    """What a state dict of none of the families seems to be, in words."""
    if any("conv1" in key or "features." in key for key in state):
        return (
            "the weights of an ordinary convolutional network, which has no exact decomposition (if it is one of "
            "torchvision's, coda compare takes it with --arch torchvision:NAME)"
        )
    return "the weights of no network that coda knows"
