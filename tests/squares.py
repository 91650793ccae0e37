"""Training at the size of a test: squares of three colours, a tiny recipe, and runs of it."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from coda_cli.training import loop
from coda_cli.training.datasets import Split
from coda_cli.training.recipes import Recipe
from coda_cli.training.state import LOG_FILE

CLASSES = ("blue", "green", "red")
CPU = torch.device("cpu")
ARGUMENTS: dict[str, Any] = {
    "channels": [6, 6, 6, 10],
    "kernels": [3, 3, 1],
    "strides": [2, 2, 1],
    "ranks": [3, 3, 3],
    "norm": "SQ",
    "temperature": 1.0,
    "bias": math.log(1 / 9),
}
TINY = Recipe(
    arguments=ARGUMENTS,
    size=12,
    epochs=4,
    batch=24,
    learning_rate=2e-2,
    precision="float32",
    seed=3,
)


def square(label: int, rng: np.random.Generator, width: int = 12, height: int = 12) -> NDArray[np.uint8]:
    """A square of one of three colours somewhere on grey noise, uint8 [height, width, 3]."""
    picture = rng.integers(90, 166, (height, width, 3), np.uint8)
    y, x = rng.integers(0, height - 5), rng.integers(0, width - 5)
    picture[y : y + 6, x : x + 6] = [230 if channel == 2 - label else 30 for channel in range(3)]
    return picture


def squares(count: int, seed: int) -> Split:
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % len(CLASSES)
    images = np.stack([square(int(label), rng) for label in labels]).transpose(0, 3, 1, 2)
    return Split(torch.from_numpy(images.copy()), torch.from_numpy(labels), CLASSES)


def folders(root: Path, per_class: int, seed: int = 0, classes: tuple[str, ...] = CLASSES) -> Path:
    """A folder for each class with pictures 00.png, 01.png, ..."""
    rng = np.random.default_rng(seed)
    for label, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for n in range(per_class):
            colour = CLASSES.index(name) if name in CLASSES else label
            Image.fromarray(square(colour, rng)).save(root / name / f"{n:02}.png")
    return root


def numbered(count: int) -> Split:
    """Pictures that are their own number, with labels that follow from it."""
    images = torch.arange(count).to(torch.uint8)[:, None, None, None].repeat(1, 3, 2, 2)
    return Split(images, torch.arange(count) * 7 % 10, tuple("abcdefghij"))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def run(recipe: Recipe, data: tuple[Split, Split], folder: Path, **options: Any) -> loop.Result:
    folder.mkdir(exist_ok=True)
    return loop.train(recipe, data, folder, device=CPU, compiled=False, **options)


def log_of(folder: Path) -> list[dict[str, str]]:
    with (folder / LOG_FILE).open(newline="") as stream:
        return list(csv.DictReader(stream))


def weights(result: loop.Result) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in result.model.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
