"""Networks that a user has trained: torchvision's and timm's, EfficientNet-Lites, and those that a function makes.

A file of weights does not say which network it is of; ``--arch`` does. How many classes there are is read from the
file, what they are called from it or from ``--classes``, and what the pictures are like that it was trained on from
what its library says, unless the user says something else. ``Net.assumed`` repeats all of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from coda_cli.checkpoints import factories
from coda_cli.checkpoints.class_lists import read_class_names, unnamed
from coda_cli.checkpoints.class_names import wnids_and_synonyms
from coda_cli.checkpoints.fitting import COUNTS, count_in, last_width, mended, misfit
from coda_cli.checkpoints.manifest import LIBRARIES, MAX_SIDE, OWN, Checkpoint, Preprocessing
from coda_cli.checkpoints.packages import LITE, PACKAGED
from coda_cli.checkpoints.unpickling import StateDict, Weights
from coda_cli.core.cuts import probes
from coda_cli.core.networks import build
from coda_cli.core.standard_nets import DEVIATION, MEAN, StandardNet, View, lite_view, timm_view, torchvision_view
from coda_cli.errors import CheckpointError, UsageError
from coda_cli.vocabulary import Interpolation

Arch = str | Callable[..., nn.Module]


@dataclass(frozen=True)
class Said:
    """What a user says about a network because its file cannot.

    Attributes:
        arch: which network it is.
        classes: their names.
        mean: of r, g and b in [0, 1], which is subtracted.
        deviation: of r, g and b, by which the rest is divided.
        size: shorter side of the picture in pixels, and that of the square in its centre.
    """

    arch: Arch | None = None
    classes: tuple[str, ...] | None = None
    mean: tuple[float, ...] | None = None
    deviation: tuple[float, ...] | None = None
    size: tuple[int, int] | None = None

    @classmethod
    def checked(
        cls,
        arch: Arch | None,
        classes: Sequence[str] | str | Path | None,
        mean: Sequence[float] | float | None,
        deviation: Sequence[float] | float | None,
        size: int | tuple[int, int] | None,
    ) -> Said:
        """Check what a user says.

        Args:
            arch: as the attribute.
            classes: their names, or a file or folder that has them, see ``read_class_names``.
            mean: as the attribute; one number is that of all three colours.
            deviation: as ``mean``, but positive.
            size: as the attribute; one number is both.

        Returns:
            What was said.

        Raises:
            UsageError: it cannot be.
        """
        sides = (size, size) if isinstance(size, int) else size
        if sides is not None and not (len(sides) == 2 and 1 <= sides[1] <= sides[0] <= MAX_SIDE):
            raise UsageError(f"--size: expected a side, or RESIZE:CROP with CROP the smaller, from 1 to {MAX_SIDE}")
        names = None if classes is None else read_class_names(classes)
        return cls(arch, names, _colours(mean, "--mean", 0), _colours(deviation, "--std", 1e-6), sides)

    @property
    def anything(self) -> bool:
        """Whether anything is said but the network."""
        return any(v is not None for v in (self.classes, self.mean, self.deviation, self.size))

    def view(self, usual: View) -> View:
        """How pictures are shown to the network.

        Args:
            usual: what counts where nothing is said.

        Returns:
            Sizes, mean and deviation.
        """
        resize, crop = self.size or (usual.resize, usual.crop)
        return View(resize, crop, self.mean or usual.mean, self.deviation or usual.deviation, usual.interpolation)


def _colours(given: Sequence[float] | float | None, option: str, least: float) -> tuple[float, ...] | None:
    """Three numbers, of three or of one. Raises UsageError."""
    if given is None:
        return None
    values = (given,) * 3 if isinstance(given, int | float) else tuple(given)
    if len(values) != 3 or not all(math.isfinite(v) and least <= v <= 1000 for v in values):
        raise UsageError(f"{option}: expected one number or three, for pixels from 0 to 1, such as 0.485,0.456,0.406")
    return values


class Found(NamedTuple):
    """A network that was found out.

    Attributes:
        model: the network, with weights of no worth where ``tensors`` has others.
        tensors: reads its weights, under its own names.
        checkpoint: its description.
        assumed: a sentence for each thing that no file told.
    """

    model: nn.Module
    tensors: Callable[[], dict[str, Tensor]]
    checkpoint: Checkpoint
    assumed: tuple[str, ...]


def is_own(arch: Arch | None) -> bool:
    """Tell whether ``--arch`` names an ordinary network of a library, or a function, and no published configuration.

    Args:
        arch: what the user gave.

    Returns:
        The answer.
    """
    return arch is not None and (not isinstance(arch, str) or ":" in arch or arch in PACKAGED)


def arch_of(checkpoint: Checkpoint) -> str | None:
    """Tell how ``--arch`` names the ordinary network of a description.

    Args:
        checkpoint: the description.

    Returns:
        The text; None for networks that ``is_own`` denies, and for those that a function made.
    """
    name = str(checkpoint.arguments.get("name"))
    if checkpoint.architecture == LITE:
        return name
    return f"{checkpoint.architecture}:{name}" if checkpoint.architecture in LIBRARIES else None


def read_own(weights: Weights, said: Said) -> Found:
    """Make the network that weights are of; they are read once their names and shapes fit it.

    Args:
        weights: of an open file.
        said: what the user says; ``arch`` is not None.

    Returns:
        The network.

    Raises:
        CheckpointError: the file is of another network.
        UsageError: there is no such network, it cannot be made, or the user says something else than the file.
    """
    kind = _kind(said)
    model, state, count = _fitted(kind, weights, said.classes or weights.classes)
    outputs = _outputs(model, kind)
    names, whence = _class_names(said, weights.classes, outputs, weights.path)
    counts = {key: value for key, value in _inner(model).state_dict().items() if key.endswith(COUNTS)}
    prefix = "backbone." if isinstance(model, StandardNet) else ""

    def tensors() -> dict[str, Tensor]:
        # Counts of steps are for training alone: older files lack them, and averages of weights have fractions.
        return {prefix + key: value for key, value in {**state.read(), **counts}.items()}

    checkpoint = _checkpoint(kind, names, count)
    return Found(model, tensors, checkpoint, (*state.assumed, _seen(kind, said, model), whence))


def of_module(model: nn.Module, said: Said) -> Found:
    """Take a network that is there already.

    Args:
        model: takes normalised colours [B, 3, H, W] and gives logits [B, classes]; or one of coda's own.
        said: what the user says; ``arch`` does not count.

    Returns:
        The network.

    Raises:
        UsageError: it cannot take a picture, gives no logits, or has another number of classes.
    """
    model, view = _unwrapped(model), said.view(_USUAL)
    arguments = {"function": type(model).__qualname__, "mean": list(view.mean), "deviation": list(view.deviation)}
    kind = _Kind(type(model).__name__, OWN, arguments, view, lambda _: model, False)
    whole = _whole(model, view)
    names, whence = _class_names(said, None, _outputs(whole, kind), Path(kind.title))
    return Found(whole, lambda: {}, _checkpoint(kind, names, None), (_seen(kind, said, whole), whence))


# ---- which network ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Kind:
    """A kind of network: its name for people, what its description says, and how it is made for a count of classes."""

    title: str
    architecture: str
    arguments: dict[str, Any]
    view: View
    make: Callable[[int | None], nn.Module]
    counted: bool  # whether ``make`` takes the count


_USUAL = View(256, 224, MEAN, DEVIATION, "bilinear")
_VIEWS = {"torchvision": torchvision_view, "timm": timm_view, LITE: lite_view}


def _kind(said: Said) -> _Kind:
    """The kind of network that ``--arch`` names. Raises UsageError."""
    arch = said.arch
    library, _, name = arch.partition(":") if isinstance(arch, str) else ("", "", "")
    if isinstance(arch, str) and arch in PACKAGED:
        library, name = LITE, arch
    if isinstance(arch, str) and library in _VIEWS:
        try:
            view = said.view(_VIEWS[library](name))
        except ValueError as error:
            raise UsageError(f"--arch {arch}: {error}") from error
        arguments = {"name": name, "mean": list(view.mean), "deviation": list(view.deviation)}

        def published(count: int | None) -> nn.Module:
            try:
                return build(library, {**arguments, "classes": count}).eval()
            except ValueError as error:
                raise UsageError(f"--arch {arch}: {error}") from error

        return _Kind(arch, library, arguments, view, published, True)
    factory = factories.find_factory(arch) if isinstance(arch, str) else arch
    assert factory is not None
    title, view = arch if isinstance(arch, str) else factories.name_of(factory), said.view(_USUAL)

    def own(count: int | None) -> nn.Module:
        return _whole(_unwrapped(factories.make(factory, title, count)), view)

    arguments = {"function": title, "mean": list(view.mean), "deviation": list(view.deviation)}
    return _Kind(title, OWN, arguments, view, own, factories.takes_classes(factory))


def _whole(model: nn.Module, view: View) -> nn.Module:
    """A network that takes the six channels: one that takes three normalised ones is put behind their normalisation."""
    takes_six = isinstance(model, StandardNet) or hasattr(model, "to_cut")
    dynamic_linear = isinstance(getattr(model, "bias", None), float)
    # Networks of others can have attributes of these names, too: then they say what they take by taking it.
    if (takes_six or dynamic_linear) and (_takes(model, 6, view.crop) or not _takes(model, 3, view.crop)):
        return model
    return StandardNet(model, view.mean, view.deviation).eval()


def _takes(model: nn.Module, channels: int, side: int) -> bool:
    """Whether a network takes pictures of so many channels."""
    try:
        with torch.no_grad():
            model(torch.zeros(1, channels, side, side))
    except Exception:  # whatever the code of others raises
        return False
    return True


def _unwrapped(model: nn.Module) -> nn.Module:
    """A network without what DataParallel and torch.compile put around it: so its layers can be watched by name."""
    inner = model
    while isinstance(inner, nn.DataParallel | nn.parallel.DistributedDataParallel) or hasattr(inner, "_orig_mod"):
        inner = inner.module if hasattr(inner, "module") else inner._orig_mod  # type: ignore[assignment]
    return inner


def _inner(model: nn.Module) -> nn.Module:
    """The network as its user knows it."""
    return model.backbone if isinstance(model, StandardNet) else model


def _outputs(model: nn.Module, kind: _Kind) -> int:
    """How many logits a network gives for a picture of the size that it is shown. Raises UsageError."""
    crop = kind.view.crop
    picture = probes(crop, 1)
    try:
        with torch.no_grad():
            logits, again = model(picture), model(picture)
    except Exception as error:  # whatever the code of others raises
        said = " ".join(str(error).split())[:200] or type(error).__name__
        gets = f", [1, 3, {crop}, {crop}]" if isinstance(model, StandardNet) else ""
        raise UsageError(
            f"{kind.title} cannot take a picture of {crop} x {crop} pixels ({said}); it gets one tensor of colours"
            f"{gets}, and --size says another side"
        ) from error
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != 1 or not logits.numel():
        shape = list(logits.shape) if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        raise UsageError(f"{kind.title} gives {shape} for one picture; expected logits [1, classes]")
    if not torch.allclose(logits, again, rtol=1e-3, atol=1e-3 * float(logits.nan_to_num().abs().max()), equal_nan=True):
        raise UsageError(
            f"{kind.title} gives other logits each time that it sees the same picture, so none can be explained; does "
            "its forward drop at random in evaluation, too (F.dropout without training=self.training)?"
        )
    return logits.shape[1]


# ---- whether a file fits ---------------------------------------------------------------------------------------------


def _fitted(kind: _Kind, weights: Weights, names: tuple[str, ...] | None) -> tuple[nn.Module, StateDict, int | None]:
    """The network that a file's tensors fit, these under the network's names, and the count of classes that it took.

    The count stands in the shapes alone. Often the last tensor is the classifier's bias, so the first guess is right.
    """
    count = (len(names) if names else last_width(weights.state.shapes)) if kind.counted else None
    model = kind.make(count)
    state = mended(weights.named_as(_inner(model).state_dict().keys()), _inner(model))
    other = None if count is None else count_in(state, _inner(model), count)
    if other is not None and names:
        raise UsageError(_wrong_count(len(names), other), item=weights.path)
    if other is not None:
        count = other
        model = kind.make(count)
        state = mended(weights.named_as(_inner(model).state_dict().keys()), _inner(model))
    if complaint := misfit(_inner(model).state_dict(), state.shapes):
        raise CheckpointError(f"not the weights of {kind.title}: {complaint}", item=weights.path)
    return model, state, count


# ---- what is said of it ----------------------------------------------------------------------------------------------


def _class_names(said: Said, in_file: tuple[str, ...] | None, outputs: int, path: Path) -> tuple[tuple[str, ...], str]:
    """The names of the classes, and a sentence about where they come from. Raises UsageError."""
    if names := said.classes or in_file:
        if len(names) != outputs:
            raise UsageError(_wrong_count(len(names), outputs), item=path)
        return names, f"{len(names)} class names {'as given' if said.classes else 'from the file itself'}"
    return unnamed(outputs)


def _wrong_count(names: int, outputs: int) -> str:
    return f"number of class names: {names}, of the network's outputs: {outputs}; --classes FILE names each of them"


def _checkpoint(kind: _Kind, names: tuple[str, ...], count: int | None) -> Checkpoint:
    """The description of a network."""
    wnids, synonyms = wnids_and_synonyms(names)
    counted = {} if count is None else {"classes": count}
    how: Interpolation = "bicubic" if kind.view.interpolation == "bicubic" else "bilinear"
    view = Preprocessing(resize=kind.view.resize, crop=kind.view.crop, interpolation=how)
    return Checkpoint(
        name=kind.title, architecture=kind.architecture, arguments={**kind.arguments, **counted}, classes=names,
        wnids=wnids, synonyms=synonyms, preprocessing=view,
    )  # fmt: skip


def _seen(kind: _Kind, said: Said, model: nn.Module) -> str:
    """What was assumed of the network, and of the pictures that it takes."""
    view = kind.view
    mean, deviation = (" ".join(f"{v:g}" for v in values) for values in (view.mean, view.deviation))
    whose = {OWN: "as usual for ImageNet", LITE: "as those it was trained on"}.get(kind.architecture)
    whose = whose or f"as {kind.architecture} shows them"
    given = [o for o, v in (("--size", said.size), ("--mean", said.mean), ("--std", said.deviation)) if v is not None]
    how = f"{whose}, but for {', '.join(given)}" if given else whose
    resized = {"bilinear": "", "bicubic": ", resized bicubically"}.get(
        view.interpolation, f", resized bilinearly and not by {view.interpolation}"
    )
    colours = (
        f"mean {mean}, deviation {deviation}" if isinstance(model, StandardNet) else "r g b 1-r 1-g 1-b as they are"
    )
    return (
        f"network {kind.title}; its pictures {how}: shorter side to {view.resize}, centre {view.crop} x {view.crop}"
        f"{resized}, {colours}"
    )
