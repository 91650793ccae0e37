"""The authors' files, which hold bare weights: which network they are of.

A state dict does not say everything about its network (strides, temperature, preprocessing ...). What it cannot tell
is taken from the published configuration that the user, a file beside it, its hash or its path names, and the user is
told so. Nothing is guessed in silence.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from coda_cli.checkpoints.families import (
    FAMILIES,
    ORDINARY,
    Family,
    State,
    has_shapes_of,
    narrowed,
    own_shapes,
    twin_hint,
)
from coda_cli.checkpoints.fitting import classifiers_of_its_size
from coda_cli.checkpoints.headers import MAX_HEADER
from coda_cli.checkpoints.manifest import STANDARD, Checkpoint, parse_checkpoint
from coda_cli.checkpoints.pickled import PickleError
from coda_cli.checkpoints.published import published_name
from coda_cli.checkpoints.published_bcos import BCOS, bcos_named_in, twin
from coda_cli.checkpoints.published_descriptions import published_checkpoint
from coda_cli.checkpoints.unpickling import StateDict
from coda_cli.errors import CheckpointError, UsageError


def read_foreign(
    state: StateDict, path: Path, sha256: Callable[[], str], arch: str | None, checkpoint: Checkpoint | None
) -> tuple[dict[str, Tensor], Checkpoint, tuple[str, ...]]:
    """Find out what network an authors' file is of, and read its tensors once their shapes fit that network.

    Args:
        state: its state dict.
        path: of the file.
        sha256: gives the hex digest of its bytes.
        arch: name of the published configuration, where the user gave one.
        checkpoint: the network's description, where it is known already.

    Returns:
        The tensors under coda's names, the network's description, and a sentence for each thing that was assumed.

    Raises:
        CheckpointError: the file is damaged, is of no network that coda knows, or nothing tells which one it is.
        UsageError: there is no configuration ``arch``, or it cannot be built.
    """
    assumed = state.assumed
    if arch is not None and (found := _in_coda_s_names(state.shapes, arch)):
        return state.read(), found, (*assumed, f"configuration {arch} from --arch")
    family = next((f for f in FAMILIES if f.fits(state.shapes)), None)
    if family is None:
        own = "a safetensors file without coda's description, " if path.suffix == ".safetensors" else ""
        not_it = f"--arch {arch} is no network that this can be; " if arch else ""
        raise CheckpointError(f"{not_it}{own}{_what_it_looks_like(state.shapes)}", item=path)
    family, state = narrowed(family, state, arch, path)
    if checkpoint is None:
        checkpoint, said = _description(path, sha256, arch, state, family)
        assumed += said
    try:
        family.convert(state.shapes, checkpoint, path)  # of shapes alone: nothing that does not fit is read
        tensors, left_out = family.convert(state.read(), checkpoint, path)
    except PickleError:
        raise
    except ValueError as error:  # of an architecture that cannot be built
        if arch is None:
            raise CheckpointError(f"what its description says cannot be built: {error}", item=path) from error
        raise UsageError(f"--arch {arch}: {error}") from error
    return tensors, checkpoint, assumed + left_out + twin_hint(checkpoint.name, tensors)


def _in_coda_s_names(state: State, arch: str) -> Checkpoint | None:
    """The description of ``arch`` where a state dict has coda's names for it, as its files without a description."""
    if not all(key.startswith(("layers.", "backbone.", "above.")) for key in state):
        return None
    if not any(arch in family.published for family in FAMILIES):
        return None
    checkpoint = published_checkpoint(arch)
    same = own_shapes(checkpoint) == {key: value.shape for key, value in state.items()}
    return checkpoint if same else None


def _description(
    path: Path, sha256: Callable[[], str], arch: str | None, state: StateDict, family: Family
) -> tuple[Checkpoint, tuple[str, ...]]:
    """The network's description, and a sentence about where it comes from."""
    if arch is None and (described := beside(path)):
        return described, (beside_sentence(path),)
    if arch is not None:
        _refuse_arch(arch, path, family)
        name, source = arch, "--arch"
    else:
        name, source = _recognised(path, sha256, state, family)
    checkpoint = published_checkpoint(name)
    a, view = checkpoint.arguments, checkpoint.preprocessing
    if checkpoint.architecture in (*STANDARD, "bias_free"):
        seen = f"ImageNet's mean, deviation and {len(checkpoint.classes)} class names, shorter side to {view.resize}"
        return checkpoint, (f"configuration {name} from {source}: {seen}",)
    b = f"B {a.get('b', 2):g}" if name in BCOS else f"norm {a['norm']}"
    told = f"configuration {name} from {source}: strides, padding, {b}"
    count = f"{len(checkpoint.classes)} class names"
    if checkpoint.architecture.startswith("bcosified"):
        constant = f", bias {a['bias']:.4f}, {count}" if "bias" in a else ""
        return checkpoint, (f"{told}, filters that keep their norm, a mean and a deviation{constant}",)
    return checkpoint, (f"{told}, temperature {a['temperature']:g}, bias {a['bias']:.4f}, {count}",)


def beside(path: Path) -> Checkpoint | None:
    """Read the description that a file ``FILE.json`` beside a file of weights holds.

    Args:
        path: of the weights.

    Returns:
        The description, or None where there is no such file.

    Raises:
        CheckpointError: it holds no valid description.
    """
    sidecar = path.with_name(path.name + ".json")
    if not sidecar.is_file():
        return None
    try:
        if sidecar.stat().st_size > MAX_HEADER:
            raise CheckpointError(f"too large for a description; the limit is {MAX_HEADER} bytes", item=sidecar)
        text = sidecar.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"cannot be read as text ({error})", item=sidecar) from error
    return parse_checkpoint(text, str(sidecar))


def beside_sentence(path: Path) -> str:
    """Say that a description came from the file beside the weights.

    Args:
        path: of the weights.

    Returns:
        The sentence, for ``Net.assumed``.
    """
    return f"everything but the weights from {path.name}.json"


def _refuse_arch(arch: str, path: Path, family: Family) -> None:
    """Raise UsageError where no configuration is called ``arch``, CheckpointError where the file is of another kind."""
    if arch in family.published:
        return
    if not any(arch in f.published for f in FAMILIES):
        raise UsageError(f"--arch {arch}: no such configuration; known: {', '.join(family.published)}")
    raise CheckpointError(f"the weights of a {family.name}, which --arch {arch} is not", item=path)


def _recognised(path: Path, sha256: Callable[[], str], state: StateDict, family: Family) -> tuple[str, str]:
    """The published configuration that the file's hash, experiment or path names, and which. Raises CheckpointError."""
    if found := next((n for n in family.published if n in BCOS and _is_file_of(n, sha256())), None):
        return found, "the file's hash"
    if found := bcos_named_in(state.experiment, [n for n in family.published if n in BCOS]):
        return found, "its experiment"
    if found := _named_by_path(path, family):
        return found, "the file's path"
    if family is ORDINARY:
        raise CheckpointError(
            f"the weights of an ordinary vision transformer; if it is one "
            f"of those published beside B-cos networks, say which with --arch: {', '.join(family.published)}",
            item=path,
        )
    candidates = [n for n in family.published if has_shapes_of(n, state.shapes)]
    fitting = f"its shapes fit {', '.join(candidates)}" if candidates else "its shapes fit no published network"
    if both := [n for n in candidates if twin(n) in candidates and BCOS[n].version == 3]:
        fitting += (
            f" ({both[0]} was an ordinary pretrained network and keeps the norms of its filters, {twin(both[0])} was "
            "trained as a B-cos network; with the same weights they compute different things)"
        )
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
    """The one configuration of the family whose name stands in the path, or in that of the file it links to.

    A link is often named by a person, and often it is the target that has no name (the caches of hubs name files by
    their hash), so both are read. Raises CheckpointError where they name two.
    """
    found: dict[str, str] = {}
    for step in _links(path):
        of_bcos = [n for n in family.published if n in BCOS]
        name = bcos_named_in(step, of_bcos) if of_bcos else published_name(step)
        if name is not None and name in family.published:
            found.setdefault(name, step)
    if len(found) > 1:
        (first, _), (second, target) = list(found.items())[:2]
        raise CheckpointError(
            f"its name says {first}, the file that it links to ({target}) says {second}; say which with --arch",
            item=path,
        )
    return next(iter(found), None)


def _links(path: Path) -> list[str]:
    """The path as it was given, those that its links lead over, and where they end."""
    steps = [os.path.abspath(path)]
    for _ in range(40):  # as many as Linux follows
        if not os.path.islink(steps[-1]):
            break
        steps.append(os.path.abspath(os.path.join(os.path.dirname(steps[-1]), os.readlink(steps[-1]))))
    return list(dict.fromkeys([*steps, os.path.realpath(path)]))


def _what_it_looks_like(state: State) -> str:
    """What a state dict of none of the families seems to be, in words."""
    say = "say which network it is with --arch torchvision:NAME, timm:NAME, or module:function for one of your own"
    if names := classifiers_of_its_size(state):
        return f"the weights of an ordinary network, as large as {' and '.join(names)}, one of torchvision's; {say}"
    if any("conv1" in key or "features." in key for key in state):
        return f"the weights of an ordinary convolutional network; {say}"
    return f"the weights of no network that coda knows; {say}"
