"""What a training run is made of: one frozen description, and the recipes behind the shipped weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from coda_cli.core.published import PUBLISHED


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights a run ends with, given the data. All of it JSON."""

    arguments: dict[str, Any]  # of coda_net; the class count is set from the data
    size: int  # pictures are size x size
    epochs: int = 10
    batch: int = 64
    learning_rate: float = 2e-3  # peak of the schedule; Adam
    warmup: float = 0.05  # share of all steps over which the learning rate rises linearly; then half a cosine to 0
    clip: float = 1.0  # gradients are scaled down to this global norm
    flip: bool = True  # mirror half of the pictures
    shift: int = 4  # random translation by up to this many pixels, zeros outside
    early_size: int | None = None  # the first steps see random crops of this size: fewer positions, faster steps
    early_share: float = 0.0  # share of all steps that do
    precision: str = "bfloat16"  # of the convolutions while training
    seed: int = 0

    def with_classes(self, count: int) -> dict[str, Any]:
        """The architecture's arguments for ``count`` classes."""
        return {**self.arguments, "channels": [*self.arguments["channels"][:-1], count]}


RECIPES: dict[str, Recipe] = {
    # The published rank-16 variant of the S network. The temperature decides how far the weights align and how hard
    # the first steps are.
    "cifar10": Recipe(
        arguments={**PUBLISHED["9L-S-CoDA-SQ-rank-16"], "temperature": 64.0},
        size=32,
        epochs=8,
        early_size=24,
        early_share=0.6,
    ),
}
