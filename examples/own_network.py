"""Compares ways to a network for your own pictures in the same time, and prints a table.

python examples/own_network.py photos/ out/                                ten minutes each, from EfficientNet-Lite0
python examples/own_network.py photos/ out/ --minutes 2 --ways hybrid tuned
python examples/own_network.py photos/ out/ --from torchvision:resnet18 --weights resnet18.pth
python examples/own_network.py caltech101/ out/ --classes 20 --train 30    of every fifth class 30 pictures; others test

hybrid   what coda train --from makes: one CoDA layer on the network, which stays as it is
bcos     what coda train --from --as bcos makes: all layers B-cos layers that start as the network's, exact per pixel
tuned    plain fine-tuning: the same network with a new classifier, all of it trained; its maps are class activation maps
scratch  a CoDA-Net that starts from random weights

Data as for coda train. The 2 x 2 localisation of all ways is measured on the same grids, the first way's.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coda_cli.core.backbones import backbone, normalisation
from coda_cli.core.hybrid import spread
from coda_cli.core.networks import classify
from coda_cli.core.standard_nets import StandardNet
from coda_cli.errors import CodaError
from coda_cli.study.localisation import Localisation, choose_grids, score_grids
from coda_cli.study.methods import Method, ours
from coda_cli.training import choice, datasets
from coda_cli.training.batches import batch_of_step
from coda_cli.training.loop import learning_rate, train
from coda_cli.training.origins import BELOW, Origin, find_origin
from coda_cli.training.recipes import Recipe

CPU = torch.device("cpu")
WAYS = ["hybrid", "bcos", "tuned", "scratch"]
TUNED_RATE = 3e-4  # peak learning rate of Adam, for all layers


@dataclass
class Way:
    """What a way ended with."""

    model: nn.Module
    shown: int
    seconds: float
    method: Method


class ClassMaps(nn.Module):
    """An ordinary network whose classifier comes before the pooling: class activation maps, and their means as logits."""

    def __init__(self, below: nn.Module, width: int, classes: int) -> None:
        super().__init__()
        self.below, self.classifier = below, nn.Conv2d(width, classes, 1)

    def maps(self, x: Tensor) -> Tensor:
        return self.classifier(self.below(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.maps(x).mean((2, 3))

    def probabilities(self, logits: Tensor) -> Tensor:
        return logits.softmax(1)


def class_activation(model: nn.Module, x: Tensor, classes: Sequence[int]) -> Tensor:
    """Class activation maps (Zhou et al., CVPR 2016) without the classifier's constant."""
    with torch.no_grad():
        maps = (model.maps(x) - model.classifier.bias[:, None, None])[0, list(classes)]
    return spread(maps, x.shape[2:])


def main() -> None:
    """Reads the command line and prints the table, a line as soon as it is measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--classes", type=int, help="of a folder of classes so many, evenly over their names")
    parser.add_argument("--train", type=int, help="train on so many pictures of each class, hold out all others")
    parser.add_argument("--from", dest="start", default="efficientnet-lite0", metavar="NETWORK")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--no-dilated", action="store_true", help="maps of the hybrid half as fine")
    parser.add_argument(
        "--false-evidence", type=float, metavar="WEIGHT", help="of the hybrid's loss on it; 0 is without"
    )
    parser.add_argument("--grids", type=int, default=60)
    options = parser.parse_args()
    links = tempfile.TemporaryDirectory()  # is gone when the program ends
    if options.classes or options.train:
        options.data = chosen(options.data, Path(links.name), options.classes, options.train or 30)
    origin, found = find_origin(options.start, options.weights), datasets.count(options.data)
    hybrid = choice.from_origin(origin, found, dilated=not options.no_dilated)
    if options.false_evidence is not None:
        hybrid = replace(hybrid, false_evidence=options.false_evidence)
    bcos = choice.from_origin(origin, found, size=hybrid.size, becomes="bcos")
    scratch = replace(choice.from_nothing(found.side), size=hybrid.size, room=hybrid.room, stages=[])
    data = datasets.load(options.data, hybrid.size, kept_size=hybrid.kept_size)
    print(f"{len(data[0])} training and {len(data[1])} held-out pictures of {found.classes} classes, {hybrid.size} px")
    print("| way | pictures shown | minutes | held out | 2 x 2 localisation |\n|---|---|---|---|---|")
    grids: list[list[int]] = []
    for name in options.ways:
        if name == "tuned":
            way = tuned(origin, hybrid, data[0], options.minutes * 60)
        else:
            recipe, start = {"hybrid": (hybrid, origin), "bcos": (bcos, origin), "scratch": (scratch, None)}[name]
            way = trained(recipe, data, options.output / name, options.minutes * 60, start)
        grids = report(name, way, data[1], grids, options.grids)


def chosen(data: Path, folder: Path, classes: int | None, train: int) -> Path:
    """A folder of links, train/CLASS/ and test/CLASS/: the first pictures of each class by name, and all others."""
    names = sorted(path for path in data.iterdir() if path.is_dir())
    for label in names[:: len(names) // classes][:classes] if classes else names:
        pictures = sorted(path for path in label.rglob("*") if path.is_file())
        for n, path in enumerate(pictures):
            place = folder / ("train" if n < train else "test") / label.name
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{n:05}{path.suffix}").symlink_to(path.resolve())
    return folder


def trained(
    recipe: Recipe, data: tuple[datasets.Split, datasets.Split], folder: Path, seconds: float, origin: Origin | None
) -> Way:
    """A network as ``coda train --time-budget`` makes it."""
    folder.mkdir(parents=True, exist_ok=True)
    result = train(recipe, data, folder, device=CPU, time_budget=seconds, origin=origin, compiled=origin is None)
    return Way(result.model.eval(), result.steps * recipe.batch, result.seconds, ours)


def tuned(origin: Origin, recipe: Recipe, data: datasets.Split, seconds: float) -> Way:
    """The ordinary network, all of it trained on the same crops as the hybrid, with softmax and cross entropy."""
    torch.manual_seed(recipe.seed)
    below, width = backbone(origin.backbone, origin.cut)
    below.load_state_dict({key.removeprefix(BELOW): value for key, value in origin.weights.items()})
    model = ClassMaps(StandardNet(below, *(normalisation(origin.backbone) or ())), width, len(data.classes))
    model.to(memory_format=torch.channels_last).train()
    optimiser = torch.optim.Adam(model.parameters(), lr=TUNED_RATE)
    per_epoch, start, step = len(data) // recipe.batch, time.monotonic(), 0
    steps = recipe.epochs * per_epoch
    while step < steps and time.monotonic() - start < seconds:
        images, labels = batch_of_step(data, recipe, step, per_epoch, recipe.size)
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(replace(recipe, learning_rate=TUNED_RATE), step, steps)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(images.contiguous(memory_format=torch.channels_last)).float()
        optimiser.zero_grad()
        F.cross_entropy(logits, labels).backward()
        optimiser.step()
        step += 1
    return Way(model.eval(), step * recipe.batch, time.monotonic() - start, class_activation)


def report(name: str, way: Way, held_out: datasets.Split, grids: list[list[int]], count: int) -> list[list[int]]:
    """Prints the line of a way; gives the grids, which are the first way's for all."""
    logits = classify(way.model, held_out.images)
    share = float((logits.argmax(1) == held_out.labels).float().mean())
    try:
        grids = grids or choose_grids(logits, held_out.labels, side=2, count=count)
        scores = score_grids(way.model, held_out.images, held_out.labels, grids, method=way.method)
        low, high = (found := Localisation(torch.tensor(list(scores), dtype=torch.float64).numpy())).interval()
        localised = f"{found.mean:.3f} ({low:.3f} to {high:.3f}, {len(grids)} grids)"
    except CodaError as error:
        localised = f"none: {error}"
    print(f"| {name} | {way.shown:,} | {way.seconds / 60:.1f} | {share:.1%} | {localised} |", flush=True)
    return grids


if __name__ == "__main__":
    main()
