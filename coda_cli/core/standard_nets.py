"""Ordinary networks: their logits are no linear function of the pixels, but one of a layer near the logits, its cut.

They take the six-channel encoding as all networks here do, and see its first half: r g b, less a mean, divided by a
deviation. torchvision and timm have the layers; no weights come with them and nothing is downloaded.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from threading import get_ident
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from coda_cli.core import efficientnet_lite as lite
from coda_cli.core.arguments import MAX_PARAMETERS
from coda_cli.core.ordinary import PassFrom, pass_from, watched
from coda_cli.core.vit import Kit, Transformer

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class StandardNet(nn.Module):
    """A backbone of three channels in the place of a network of six: dynamic linear nowhere, explained at a cut.

    Args:
        backbone: takes normalised colours [B, 3, H, W] and gives logits [B, classes].
        mean: of r, g and b in [0, 1], which is subtracted.
        deviation: of r, g and b, positive, by which the rest is divided.
        cut: the layer of the backbone at whose output logits are split; None or "input" is the normalised colours.
        splits: whether ``pass_from`` will be asked for: its layers tell then which of them is computed. Those of a
            hybrid do not, and can be folded.
    """

    def __init__(
        self,
        backbone: nn.Module,
        mean: Sequence[float] = MEAN,
        deviation: Sequence[float] = DEVIATION,
        cut: str | None = None,
        *,
        splits: bool = True,
    ) -> None:
        super().__init__()
        self.backbone, self.cut = watched(backbone) if splits else backbone, cut
        self.mean, self.deviation = tuple(mean), tuple(deviation)

    @property
    def zero(self) -> tuple[float, ...]:
        """The colour that contributes nothing: the mean."""
        return self.mean

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits.

        Args:
            x: encoded pictures, float [B, 6, H, W] in [0, 1].

        Returns:
            logits [B, classes].
        """
        logits: Tensor = self.backbone(self.normalised(x))
        return logits

    def normalised(self, x: Tensor) -> Tensor:
        """Compute what the backbone takes: the colours less their mean, divided by their deviation.

        Args:
            x: encoded pictures, float [B, 6, H, W] in [0, 1].

        Returns:
            [B, 3, H, W]; a pixel of the mean colour is 0.
        """
        mean, deviation = (x.new_tensor(t)[:, None, None] for t in (self.mean, self.deviation))
        return (x[:, :3] - mean) / deviation

    def pass_from(self, x: Tensor, cut: str | None, *, layers: bool = False) -> PassFrom:
        """Compute logits so that gradients can be taken down to a layer, or to the normalised colours.

        Args:
            x: encoded pictures, float [B, 6, H, W].
            cut: the layer; None is the normalised colours.
            layers: also keep the outputs of all layers.

        Returns:
            The pass.

        Raises:
            ValueError: as ``ordinary.pass_from``.
        """
        return pass_from(self.backbone, self.normalised(x), cut, layers=layers)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Take the softmax: these networks were trained with it. One logit alone was trained with a sigmoid.

        Args:
            logits: [B, classes].

        Returns:
            [B, classes] in [0, 1]; each row of several sums to 1.
        """
        return logits.softmax(1) if logits.shape[1] > 1 else logits.sigmoid()


def standard_vit(
    *,
    dim: int,
    depth: int,
    classes: int,
    patch: int | None = None,
    stem: Sequence[int] | None = None,
    hidden: int | None = None,
    cut: str | None = None,
) -> StandardNet:
    """Build a transformer as those that were published beside the B-cos ones.

    Args:
        dim: features of a token, a multiple of 64.
        depth: encoder blocks.
        classes: classes.
        patch: side of a patch in pixels; either this or a stem.
        stem: channels of a convolutional stem.
        hidden: features inside a block; 4 dim unless given.
        cut: see ``StandardNet``.

    Returns:
        The network, with freshly drawn weights.

    Raises:
        ValueError: sizes that make no transformer, see ``vit.Transformer``.
    """
    mixer, norm2d = partial(nn.Linear, bias=False), partial(nn.GroupNorm, 1)
    kit = Kit(3, nn.Linear, mixer, nn.Conv2d, nn.LayerNorm, norm2d, nn.GELU)
    backbone = Transformer(kit, dim=dim, depth=depth, classes=classes, patch=patch, stem=stem, hidden=hidden)
    return StandardNet(backbone, cut=cut)


# ---- torchvision and timm --------------------------------------------------------------------------------------------


class View(NamedTuple):
    """How pictures are shown to a network.

    Attributes:
        resize: shorter side of the picture in pixels, first.
        crop: side in pixels of the centre square.
        mean: of r, g and b in [0, 1].
        deviation: of r, g and b, positive.
        interpolation: by which its authors resize, such as "bilinear".
    """

    resize: int
    crop: int
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    interpolation: str


def torchvision_net(
    *,
    name: str,
    classes: int = 1000,
    mean: Sequence[float] = MEAN,
    deviation: Sequence[float] = DEVIATION,
    cut: str | None = None,
) -> StandardNet:
    """Build a classifier of torchvision, without its trained weights and the heads that only training uses.

    Args:
        name: its name in torchvision.
        classes: classes.
        mean: of r, g and b in [0, 1], see ``StandardNet``.
        deviation: of r, g and b, positive.
        cut: see ``StandardNet``.

    Returns:
        The network, with freshly drawn weights.

    Raises:
        ValueError: torchvision has no classifier of that name.
    """
    import torchvision

    _refuse_unknown(name, torchvision.models.list_models(module=torchvision.models), "torchvision")
    more = {"aux_logits": False, "init_weights": False} if name in _WITH_AUXILIARY else {}
    with _few_parameters():
        backbone = torchvision.models.get_model(name, weights=None, num_classes=classes, **more)
    return StandardNet(backbone, mean, deviation, cut)


_WITH_AUXILIARY = ("googlenet", "inception_v3")


def torchvision_view(name: str) -> View:
    """Look up how torchvision shows pictures to one of its classifiers, by the newest weights that it has for it.

    Args:
        name: its name in torchvision.

    Returns:
        Sizes, mean and deviation.

    Raises:
        ValueError: torchvision has no classifier of that name.
    """
    import torchvision

    _refuse_unknown(name, torchvision.models.list_models(module=torchvision.models), "torchvision")
    usual = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    mean, deviation = tuple(usual.mean), tuple(usual.std)
    if name in _WITH_AUXILIARY:  # trained in [-1, 1]: with weights torchvision undoes ImageNet's normalisation inside
        mean = deviation = (0.5, 0.5, 0.5)
    return View(usual.resize_size[0], usual.crop_size[0], mean, deviation, usual.interpolation.value)


def torchvision_sizes() -> dict[str, int]:
    """List how many parameters the classifiers of torchvision have, with ImageNet's 1,000 classes.

    Returns:
        The counts by name.
    """
    import torchvision

    names = torchvision.models.list_models(module=torchvision.models)
    return {name: torchvision.models.get_model_weights(name).DEFAULT.meta["num_params"] for name in names}


def efficientnet_lite(
    *,
    name: str,
    classes: int = 1000,
    mean: Sequence[float] = lite.MEAN,
    deviation: Sequence[float] = lite.DEVIATION,
    cut: str | None = None,
) -> StandardNet:
    """Build an ordinary EfficientNet-Lite, without its trained weights.

    Args:
        name: efficientnet-lite0, 1 or 2.
        classes: classes.
        mean: of r, g and b in [0, 1], see ``StandardNet``.
        deviation: of r, g and b, positive.
        cut: see ``StandardNet``.

    Returns:
        The network, with freshly drawn weights.

    Raises:
        ValueError: there is no such network.
    """
    return StandardNet(lite.lite_classifier(name, classes), mean, deviation, cut)


def lite_view(name: str) -> View:
    """Look up how pictures are shown to an EfficientNet-Lite, as TensorFlow does it for its whole family.

    Args:
        name: efficientnet-lite0, 1 or 2.

    Returns:
        Sizes, mean and deviation.

    Raises:
        ValueError: there is no such network.
    """
    if name not in lite.SIZES:
        raise ValueError(f"expected one of {', '.join(lite.SIZES)}; got {name}")
    side = lite.SIZES[name][2]
    return View(side + 32, side, lite.MEAN, lite.DEVIATION, "bicubic")


def timm_net(
    *,
    name: str,
    classes: int = 1000,
    mean: Sequence[float] = MEAN,
    deviation: Sequence[float] = DEVIATION,
    cut: str | None = None,
) -> StandardNet:
    """Build a classifier of timm, without its trained weights.

    Args:
        name: its name in timm, with or without the tag of its weights.
        classes: classes.
        mean: of r, g and b in [0, 1], see ``StandardNet``.
        deviation: of r, g and b, positive.
        cut: see ``StandardNet``.

    Returns:
        The network, with freshly drawn weights.

    Raises:
        ValueError: timm is not installed, has no classifier of that name, or cannot build it.
    """
    timm = _timm_with(name)
    try:
        with _few_parameters():
            backbone = timm.create_model(name, pretrained=False, num_classes=classes)
    except (ImportError, RuntimeError, TypeError) as error:
        raise ValueError(f"timm cannot build {name!r} ({error})") from error
    return StandardNet(backbone, mean, deviation, cut)


def timm_view(name: str) -> View:
    """Look up how timm shows pictures to one of its classifiers.

    Args:
        name: its name in timm; the tag of its weights, where it has one, decides.

    Returns:
        Sizes, mean and deviation.

    Raises:
        ValueError: timm is not installed, or has no classifier of that name.
    """
    usual = _timm_with(name).get_pretrained_cfg(name)
    if usual is None:  # an architecture without weights
        return View(256, 224, MEAN, DEVIATION, "bilinear")
    crop = usual.input_size[-1]
    return View(math.floor(crop / usual.crop_pct), crop, usual.mean, usual.std, usual.interpolation)


def _timm_with(name: str) -> Any:
    """The library timm, which has a classifier of this name. Raises ValueError."""
    try:
        import timm
    except ImportError as error:
        raise ValueError(f"timm is not here ({error}); get it with: pip install 'coda-cli[timm]'") from error
    plain, _, tag = name.partition(".")
    # Asked of a list and never of ``create_model``, to which "hf-hub:..." is a thing to download.
    _refuse_unknown(plain, timm.list_models(), "timm")
    tags = [known.partition(".")[2] for known in timm.list_models(plain, pretrained=True)]
    if tag and tag not in tags:
        raise ValueError(f"timm has no weights {tag!r} of {plain!r}, but {', '.join(tags) or 'none'}")
    return timm


def _refuse_unknown(name: str, known: Iterable[str], library: str) -> None:
    """Raise ValueError where a library has no classifier of a name, with those of similar names."""
    if name not in (names := list(known)):
        folded = {known.casefold(): known for known in names}
        close = [folded[c] for c in difflib.get_close_matches(name.casefold(), folded, n=3)]
        near = f"did you mean {' or '.join(map(repr, close))}?" if close else f"it has {len(names)} others"
        raise ValueError(f"{library} has no classifier {name!r}; {near}")


@contextmanager
def _few_parameters() -> Iterator[None]:
    """Stop the building of a network that is too large, before it has all its memory: names come with files of others.

    (On the device "meta" nothing would need memory, but some of these networks cannot be built there.)
    """
    thread, count = get_ident(), 0

    def add(_module: nn.Module, _name: str, parameter: nn.Parameter | None) -> None:
        nonlocal count
        count += parameter.numel() if parameter is not None and get_ident() == thread else 0
        if count > MAX_PARAMETERS:
            raise ValueError(f"it has more than {MAX_PARAMETERS} parameters, which is the limit")

    handle = register_module_parameter_registration_hook(add)  # of the modules of all threads
    try:
        yield
    finally:
        handle.remove()
