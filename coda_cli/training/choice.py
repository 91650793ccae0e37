"""Recipes chosen from the data: how large its pictures are, how many, of how many classes, and what is started from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from coda_cli.core.backbones import backbone, normalisation
from coda_cli.core.networks import build, one_layer_table
from coda_cli.errors import UsageError
from coda_cli.training.datasets import Counted
from coda_cli.training.features import views_kept
from coda_cli.training.origins import Origin
from coda_cli.training.recipes import RECIPES, Recipe
from coda_cli.vocabulary import Conversion

SMALL_PICTURES = 48  # pixels of the shorter side up to which a network for CIFAR-10 is the right one
SHOWN, FEWEST, MOST = 8000, 4, 40  # pictures that a run from trained weights shows, and epochs at least and at most
SHOWN_WHOLE = 80_000  # the same where the whole network is trained
SHOWN_CONVERTED, CONVERTED_SIDE = 20_000, 128  # and where it is converted: a core shows 20 of 128 pixels a second
ALIGNMENT, CONVERTED_RATE = 1.0, 3e-3  # weight of the directions of the ordinary network's maps; learning rate
LEAST_SIDE = 160  # pixels of what a trained backbone is shown of smaller pictures
# Weight of false evidence in the loss, where labels are learned: 2 x 2 localisation rises, accuracy stays.
FALSE_EVIDENCE = 5.0
RANK = 8  # of the one layer on a trained backbone
# Where probabilities are learned, a higher temperature lets units saturate from the start; with labels 4, 2 and 1 are
# about equally good, and 1/3 localises worse.
POSITIONS_BY_TEMPERATURE = {"distilled": 4.0, "labelled": 1.0}


def from_nothing(side: int) -> Recipe:
    """Choose the recipe of a network that starts from random weights.

    Args:
        side: the median of the shorter sides of the pictures, in pixels.

    Returns:
        That of `cifar10` for small pictures, that of `imagenette` for photographs, at a size not above theirs.
    """
    if side <= SMALL_PICTURES:
        return RECIPES["cifar10"]
    whole = RECIPES["imagenette"]
    return replace(whole, size=min(whole.size, side // 32 * 32)) if side >= 64 else replace(whole, size=64)


def from_origin(
    origin: Origin,
    data: Counted,
    *,
    distil: bool = False,
    dilated: bool | None = None,
    size: int | None = None,
    becomes: Conversion = "hybrid",
) -> Recipe:
    """Choose the recipe of a network that starts from a trained one.

    Args:
        origin: the trained network.
        data: what there is to train on.
        distil: learn the probabilities of an ordinary network and keep its classes.
        dilated: give the maps of an ordinary network twice as many positions in each direction; None does.
        size: side of the pictures in pixels; chosen by theirs unless given.
        becomes: what an ordinary network becomes.

    Returns:
        The recipe.

    Raises:
        UsageError: the network has no classes to keep, is coda's own, which can be neither distilled nor dilated nor
            converted, or cannot be converted.
    """
    about = f"--from {origin.name}"
    common = Recipe(
        origin.arguments,
        origin.side,
        architecture=origin.architecture or "hybrid",
        batch=32 if data.pictures >= 320 else max(2, min(16, data.pictures)),  # a batch has to fill
        learning_rate=5e-4,
        smallest_crop=0.35,
        room=1.15,
        jitter=0.2,
        origin=origin.named,
        frozen=origin.architecture in (None, "hybrid"),
        distil=distil,
    )
    common = replace(common, epochs=_epochs(SHOWN if common.frozen else SHOWN_WHOLE, data.pictures))
    if origin.architecture:
        if distil or dilated is not None:
            raise UsageError(f"{about}: --distil and --dilated are for ordinary networks")
        if becomes == "bcos":
            raise UsageError(f"{about}: --as bcos converts ordinary networks, and this is one of coda's; leave it out")
        return common
    if distil and not (origin.classes and origin.classifier):
        raise UsageError(f"{about}: --distil needs a network whose classes are ImageNet's")
    if becomes == "bcos":
        return _converted(origin, data, common, dilated, size)
    size = size or min(origin.side, max(LEAST_SIDE, round(data.side / 32) * 32))
    dilated = dilated is not False  # twice the work, the same accuracy and localisation, four times as many positions
    channels, positions = positions_of(origin, size, dilated=dilated)
    classes = len(origin.classes or ()) if distil else data.classes
    temperature = positions / POSITIONS_BY_TEMPERATURE["distilled" if distil else "labelled"]
    table = one_layer_table(origin.backbone, origin.cut, classes, temperature, rank=RANK, dilated=dilated)
    views = views_kept(channels * positions, data.pictures, common.epochs)
    quiet = 0.0 if distil else FALSE_EVIDENCE
    return replace(common, size=size, arguments=table, views=views, false_evidence=quiet)


def _converted(origin: Origin, data: Counted, common: Recipe, dilated: bool | None, size: int | None) -> Recipe:
    """The recipe of a network that is converted to a B-cos network. Raises UsageError where it cannot be."""
    about = f"--from {origin.name} --as bcos"
    if dilated is not None:
        raise UsageError(f"{about}: --dilated and --no-dilated are for hybrids; leave them out")
    classes = len(origin.classes or ()) if common.distil else data.classes
    arguments: dict[str, Any] = {"name": origin.backbone, "classes": classes, "depthwise": False}
    if found := normalisation(origin.backbone):
        arguments["mean"], arguments["deviation"] = map(list, found)
    try:
        with torch.device("meta"):
            build("bcosified", arguments | {"classes": 2})
    except ValueError as error:
        raise UsageError(f"{about}: {error}; --as hybrid takes it") from error
    return replace(
        common,
        architecture="bcosified",
        arguments={**arguments, "temperature": 1.0},
        size=size or min(CONVERTED_SIDE, origin.side, max(SMALL_PICTURES, round(data.side / 32) * 32)),
        epochs=_epochs(SHOWN_CONVERTED, data.pictures),
        learning_rate=CONVERTED_RATE,
        frozen=False,
        alignment=ALIGNMENT,
    )


def positions_of(origin: Origin, size: int, *, dilated: bool) -> tuple[int, int]:
    """Count what an ordinary network's last map has.

    Args:
        origin: the network.
        size: side of the pictures in pixels.
        dilated: whether it is dilated.

    Returns:
        Channels and positions.
    """
    with torch.device("meta"), torch.no_grad():
        layers = backbone(origin.backbone, origin.cut, dilated=dilated)[0].eval()
        _, C, h, w = layers(torch.empty(1, 3, size, size)).shape
    return C, h * w


def _epochs(shown: int, pictures: int) -> int:
    return max(FEWEST, min(MOST, math.ceil(shown / pictures)))


def expected_accuracy(shares: Sequence[float], epochs: int) -> float | None:
    """Estimate the accuracy at the end of a run: errors mostly fall as a power of the number of epochs.

    Args:
        shares: the accuracies after the first epochs, in [0, 1].
        epochs: in the whole run.

    Returns:
        A share in [0, 1]; None where there are fewer than three to go by.
    """
    if len(shares) < 3:
        return None
    first = max(0, len(shares) - 8)
    points = [(math.log(n), math.log(max(1 - share, 1e-3))) for n, share in enumerate(shares, 1) if n > first]
    x, y = (sum(column) / len(points) for column in zip(*points, strict=True))
    slope = sum((a - x) * (b - y) for a, b in points) / sum((a - x) ** 2 for a, _ in points)
    return 1 - math.exp(min(0.0, y + min(0.0, slope) * (math.log(epochs) - x)))
