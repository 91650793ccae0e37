"""What decides a training run: one frozen description, and the recipes of the bundled networks."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch

from coda_cli.checkpoints.manifest import SUMMED
from coda_cli.checkpoints.published import PUBLISHED, PUBLISHED_BIAS
from coda_cli.checkpoints.published_bcos import BCOS
from coda_cli.core.networks import build, one_layer_table
from coda_cli.errors import UsageError
from coda_cli.vocabulary import TrainingPrecision


@dataclass(frozen=True)
class Recipe:
    """Everything but the data that decides the weights a run ends with. All fields can be written as JSON.

    Training in ``stages`` shows smaller pictures first: a step's cost falls with the area. The temperature rises
    geometrically from ``first_temperature`` to that of the arguments: a high one aligns the dynamic weights with their
    input, but a network that starts with it hardly learns.

    Attributes:
        arguments: of the architecture; the number of classes is set from the data.
        size: side of the pictures in pixels.
        architecture: a builder of ``core.networks``.
        epochs: how often every picture is shown.
        batch: pictures in a step.
        learning_rate: its peak; the optimiser is Adam.
        warmup: share of all steps over which the learning rate rises linearly; then it falls by half a cosine to 0.
        clip: gradients are scaled down to this global norm.
        first_temperature: temperature at the beginning; None is that of the arguments throughout.
        rise: share of all steps over which the temperature rises.
        stages: [share of all steps, share of ``size``], smaller sizes first.
        flip: mirror half of the pictures.
        smallest_crop: random crops show at least this share of a picture's area; 1 is no crops.
        room: pictures are kept at ``room`` x ``size``, so that a crop of them still has size x size real pixels.
        jitter: brightness and contrast vary at random by up to this share.
        matrix_l1: weight in the loss of the mean |W(x)| of two classes; CoDA-Nets only.
        precision: of the convolutions while training.
        seed: of the first weights and of all that is drawn at random.
        origin: the network that it starts from, by name and hash; "" is none.
        frozen: of a hybrid, leave the backbone as it is.
        views: so many epochs have crops of their own, those after them see the same again, whose maps are kept in
            memory; 0 is all. Only with ``frozen``.
        distil: learn the probabilities of the ordinary network it starts from, and keep its classes; labels are not
            looked at.
        alignment: weight in the loss of how far the directions of the maps are from those of the ordinary network that
            it is converted from, see ``conversion.misalignment``; converted networks only.
        false_evidence: weight in the loss of what positions add to the logits of classes that the picture is not of;
            CoDA-Nets and hybrids only, and not with ``matrix_l1``.

    Source:
        CVPR 2021, section 3.3 (temperature) and 3.4 (``matrix_l1``).
    """

    arguments: dict[str, Any]
    size: int
    architecture: str = "coda_net"
    epochs: int = 10
    batch: int = 64
    learning_rate: float = 1e-3
    warmup: float = 0.05
    clip: float = 1.0
    first_temperature: float | None = None
    rise: float = 1.0
    stages: list[list[float]] = field(default_factory=list)
    flip: bool = True
    smallest_crop: float = 1.0
    room: float = 1.0
    jitter: float = 0.0
    matrix_l1: float = 0.0
    precision: TrainingPrecision = "bfloat16"
    seed: int = 0
    origin: str = ""
    frozen: bool = False
    views: int = 0
    distil: bool = False
    alignment: float = 0.0
    false_evidence: float = 0.0

    def with_classes(self, count: int) -> dict[str, Any]:
        """Make the architecture's arguments for a number of classes.

        Args:
            count: how many classes the data have.

        Returns:
            Arguments for ``core.networks.build``.
        """
        if "channels" not in self.arguments:
            return {**self.arguments, "classes": count}
        return {**self.arguments, "channels": [*self.arguments["channels"][:-1], count]}

    def check(self) -> None:
        """Find out whether this can be trained at all.

        Raises:
            UsageError: it cannot; the message says which option to change.
        """
        if self.matrix_l1 and self.architecture != "coda_net":
            raise UsageError("--matrix-l1 is for CoDA-Nets only: other networks here give no gradients of their W(x)")
        if self.false_evidence and (self.matrix_l1 or self.architecture not in ("coda_net", "hybrid")):
            raise UsageError("a loss on false evidence is for CoDA-Nets and hybrids, without --matrix-l1")
        for side in sorted({self.size, *(round(part * self.size) for _, part in self.stages)}):
            try:
                with torch.no_grad():
                    build(self.architecture, self.with_classes(2)).eval()(torch.zeros(1, 6, side, side))
            except (ValueError, RuntimeError) as error:
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                raise UsageError(
                    f"--size {self.size}: pictures of {side} x {side}, which the run shows, do not go through this "
                    f"network ({reason}); choose another size"
                ) from error

    @property
    def kept_size(self) -> int:
        """Side in pixels at which training pictures are kept in memory."""
        return round(self.room * self.size)

    def side(self, progress: float) -> int:
        """Tell how large the pictures of a step are.

        Args:
            progress: share of all steps that are done, in [0, 1).

        Returns:
            Their side in pixels.
        """
        for share, part in self.stages:
            if progress < share:
                return round(part * self.size)
            progress -= share
        return self.size

    def temperature(self, progress: float) -> float:
        """Compute the temperature of a step; where logits are sums over pixels, it follows the area of the pictures.

        Args:
            progress: share of all steps that are done, in [0, 1).

        Returns:
            By what the logits of this step are divided.
        """
        last = float(self.arguments.get("temperature", 1.0))
        first = last if self.first_temperature is None else min(self.first_temperature, last)  # it never falls
        risen = min(1.0, progress / self.rise) if self.rise else 1.0
        now = first * math.exp(risen * math.log(last / first))
        area = (self.side(progress) / self.size) ** 2 if self.architecture in SUMMED else 1.0
        return now * area


RECIPES: dict[str, Recipe] = {
    # The published rank-16 variant of the S network, at a higher temperature than any published one.
    "cifar10": Recipe(
        arguments={**PUBLISHED["9L-S-CoDA-SQ-rank-16"], "temperature": 20_000.0},
        size=32,
        epochs=15,
        learning_rate=2e-3,
        first_temperature=64.0,
        rise=0.7,
        stages=[[0.4, 0.625], [0.4, 0.75]],
        smallest_crop=0.65,
    ),
    # The published B-cos network 9L-M2-B2 at three quarters of its width.
    "cifar10-bcos": Recipe(
        architecture="bcos_chain",
        arguments={**BCOS["9L-M2-B2"].arguments, "channels": [6, 48, 48, 96, 96, 96, 192, 192, 192, 10]},
        size=32,
        epochs=12,
        learning_rate=7e-4,
        stages=[[0.3, 0.625], [0.35, 0.75]],
        smallest_crop=0.65,
    ),
    # A network of our own for photographs, with antialiased strides.
    "imagenette": Recipe(
        arguments={
            "channels": [6, 16, 32, 32, 64, 64, 64, 64, 64, 10],
            "kernels": [4, 4, 3, 4, 3, 4, 3, 3, 1],
            "strides": [2, 2, 1, 2, 1, 2, 1, 1, 1],
            "ranks": [8, 8, 8, 8, 8, 16, 32, 32, 32],
            "norm": "SQ",
            "temperature": 1024.0,
            "bias": PUBLISHED_BIAS,
            "antialias": True,
        },
        size=128,
        epochs=40,
        batch=32,
        first_temperature=128.0,
        stages=[[0.6, 0.5], [0.2, 0.75]],
        smallest_crop=0.35,
        room=1.25,
        jitter=0.2,
    ),
    # A layer that starts as EfficientNet-Lite0's classifier, on maps of 14 x 14 positions, which learns its
    # probabilities on any photographs; these need not be larger than the room says. The rate is low: what the layer
    # starts as is good for all 1,000 classes, and pictures of few of them would spoil it for the others.
    "imagenet": Recipe(
        architecture="hybrid",
        arguments=one_layer_table("efficientnet-lite0", "head", 1000, 49.0, rank=4, dilated=True),
        size=224,
        epochs=1,
        batch=32,
        learning_rate=2e-5,
        smallest_crop=0.35,
        room=5 / 7,
        jitter=0.2,
        origin="efficientnet-lite0",
        frozen=True,
        distil=True,
    ),
}
