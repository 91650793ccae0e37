"""Tries other layers, finer maps and other training for the network imagenet, each with the same number of pictures.

python examples/imagenet_ways.py DATA out/              every way: an hour on two cores
python examples/imagenet_ways.py DATA out/ finer label  those whose names begin with one of these words
python examples/imagenet_ways.py --list

DATA holds the same archives as for imagenet.py. All ways stand on EfficientNet-Lite0 as it was published and are fitted
to the probabilities that it gives, on the same 3,000 photographs; those that are trained see each of them once more, in
a random crop. Each is then measured on photographs that neither has seen: one of each class, Imagenette's of ILSVRC's
validation set, and 20 grids of 2 x 2 of these, the same for all.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from imagenet import Bench, share
from torch import Tensor, nn

from coda_cli.core.backbones import backbone, dilate, normalisation
from coda_cli.core.dau_layer import DAUConv2d
from coda_cli.core.hybrid import HybridNet
from coda_cli.core.networks import build, classify, coda_net
from coda_cli.core.standard_nets import StandardNet
from coda_cli.study.localisation import Localisation, choose_grids, score_grids
from coda_cli.training.batches import batch_of_step
from coda_cli.training.datasets import Split
from coda_cli.training.features import at_cut, begin_as, fitted_classifier
from coda_cli.training.origins import BELOW, Origin, find_origin
from coda_cli.training.recipes import RECIPES, Recipe

CLASSES = 1000
GRIDS = 20
# Every so-manieth photograph of each archive is learned from, 3,000 in all.
ARCHIVES = {
    "mini-imagenet84-train.tar": 40,
    "imagenette160-train.tar": 12,
    "caltech101-128.tar": 13,
    "animals-144.tar": 4,
}
ALONE = 16  # the same of mini-ImageNet, where all are of that
UNKNOWN = -1  # the label of photographs whose class is none of ImageNet's


@dataclass(frozen=True)
class Way:
    """One way to make the network.

    Attributes:
        about: what is different, for the table.
        strides: how many of the last strides are taken away, and what follows them dilated.
        cut: stage of the backbone that the layers stand on.
        rank: of the dynamic weights.
        rate: peak of the learning rate; 0 is fitted only, not trained.
        sides: of the pictures in training, one after the other, in pixels.
        labels: how much a known class counts in the targets, beside the ordinary network's probabilities.
        tuned: what of the backbone is trained: nothing, its last convolution ("head"), or its last block as well.
        teacher: the ordinary network whose probabilities are learned.
        kinds: archives of the photographs that are learned from.
    """

    about: str
    strides: int = 1
    cut: str = "head"
    rank: int = 4
    rate: float = 0.0
    sides: tuple[int, ...] = (224,)
    labels: float = 0.0
    tuned: str = ""
    teacher: str = "efficientnet-lite0"
    kinds: tuple[str, ...] = tuple(ARCHIVES)


WAYS = {
    "coarse-fitted": Way("7 x 7 positions, fitted", strides=0),
    "fitted": Way("14 x 14 positions, fitted"),
    "finer-fitted": Way("28 x 28 positions, two stages dilated, fitted", strides=2),
    "trained": Way("7 x 7, trained", strides=0, rate=2e-5),
    "finer-trained": Way("14 x 14, trained", rate=2e-5),
    "rank-16": Way("7 x 7, trained, rank 16", strides=0, rank=16, rate=2e-5),
    "rank-1": Way("7 x 7, trained, rank 1", strides=0, rank=1, rate=2e-5),
    "labels": Way("7 x 7, trained, known labels count half", strides=0, labels=0.5, rate=2e-5),
    "growing": Way("7 x 7, trained at 160 and then at 224 pixels", strides=0, sides=(160, 224), rate=2e-5),
    "tuned-head": Way("7 x 7, trained with the backbone's last convolution", strides=0, tuned="head", rate=2e-5),
    "tuned-block": Way("7 x 7, the same and its last block", strides=0, tuned="block", rate=2e-5),
    "lower": Way("7 x 7, two layers on the last block's 320 channels, the first begins as the last convolution",
                 strides=0, cut="stage7", rank=16, rate=1e-3),
    "lite2-teaches": Way("7 x 7, EfficientNet-Lite2 teaches, at its 260 pixels", strides=0, rate=2e-5,
                         teacher="efficientnet-lite2"),
    "one-kind": Way("7 x 7, trained on mini-ImageNet alone", strides=0, rate=2e-5,
                    kinds=("mini-imagenet84-train.tar",)),
}  # fmt: skip


def photographs(bench: Bench, side: int, kinds: Sequence[str]) -> Split:
    """The photographs that are learned from, with the index of their class where it is one of ImageNet's."""
    wnids = list(bench.net.checkpoint.wnids or ())
    chosen: list[tuple[Path, int]] = []
    for archive in kinds:
        every = ARCHIVES[archive] if len(kinds) > 1 else ALONE
        files = [path for path in bench.files(archive) if not path.name.startswith("ILSVRC2012_val")]
        if archive.startswith("caltech"):  # every tenth is held out
            files = [path for n, path in enumerate(files) if n % 10]
        for path in files[::every]:
            folder = path.parent.name
            label = wnids.index(folder) if folder in wnids else UNKNOWN
            if archive.startswith("imagenette"):
                label = bench.classes.index(folder)
            chosen.append((path, label))
    pictures = bench.read(chosen, side)
    return Split(pictures.images, pictures.labels, tuple(bench.classes))


def hybrid(way: Way, origin: Origin, side: int) -> HybridNet:
    """The network of a way: the backbone with its weights, and layers as they are drawn."""
    layers, width = backbone(origin.backbone, way.cut)
    weights = {key.removeprefix(BELOW): value for key, value in origin.weights.items()}
    layers.load_state_dict({key: weights[key] for key in layers.state_dict()})
    for _ in range(way.strides):
        dilate(layers)
    below = StandardNet(layers, *(normalisation(origin.backbone) or ()), splits=False)
    below.eval().requires_grad_(False)
    with torch.no_grad():
        positions = below(torch.zeros(1, 6, side, side))[0, 0].numel()
    channels = [width, CLASSES] if way.cut == "head" else [width, 1280, CLASSES]
    ones = [1] * (len(channels) - 1)
    above = coda_net(
        channels=channels, kernels=ones, strides=ones, ranks=[way.rank] * len(ones), norm="SQ",
        temperature=positions / 4, bias=-math.log(CLASSES - 1),
    )  # fmt: skip
    return HybridNet(below, above, way.cut, folds=True).to(memory_format=torch.channels_last)  # type: ignore[return-value]


@torch.no_grad()
def begin(model: HybridNet, origin: Origin, data: Split, taught: Tensor) -> None:
    """Let the layers begin as linear ones: the last one as a classifier that is fitted to what the network teaches."""
    *first, last = (layer for layer in model.above.layers if isinstance(layer, DAUConv2d))  # type: ignore[union-attr]
    for layer in first:
        scale = origin.weights[BELOW + "_bn1.weight"] / (origin.weights[BELOW + "_bn1.running_var"] + 1e-3).sqrt()
        W = origin.weights[BELOW + "_conv_head.weight"][:, :, 0, 0] * scale[:, None]
        begin_as(layer, W, float(W.norm(dim=1).max()) / 0.9)
    pooled, positions = [], 1
    for some in data.images.split(16):
        a = at_cut(model.to_cut, some.float() / 255, autocast=True).float()
        for layer in first:
            a = layer(a)
        pooled.append(a.mean((2, 3)))
        positions = a[0, 0].numel()
    before = origin.classifier[0] if origin.classifier and not first else None
    W = fitted_classifier(torch.cat(pooled), taught.softmax(1), float(model.bias), before)
    begin_as(last, W, positions / model.temperature)


def targets_of(way: Way, probabilities: Tensor, labels: Tensor) -> Tensor:
    """What is learned: the ordinary network's probabilities, and the class as far as it is known and counts."""
    known = (labels != UNKNOWN).float()[:, None] * way.labels
    return (1 - known) * probabilities + known * F.one_hot(labels.clamp_min(0), CLASSES).float()


class Teacher:
    """An ordinary network that is learned from, at its own size."""

    def __init__(self, name: str) -> None:
        origin = find_origin(name)
        assert origin.classifier
        weights = {key.removeprefix(BELOW): value for key, value in origin.weights.items()}
        weights |= {"_fc.weight": origin.classifier[0], "_fc.bias": origin.classifier[1]}
        self.model, self.side = build("efficientnet_lite", {"name": name, "cut": "relu1"}), origin.side
        self.model.backbone.load_state_dict(weights)  # type: ignore[union-attr]
        self.model.eval().requires_grad_(False).to(memory_format=torch.channels_last)

    def logits(self, images: Tensor) -> Tensor:
        """Of uint8 pictures [N, 3, s, s]; float32 [N, classes]."""
        if images.shape[-1] == 224 != self.side:
            larger = F.interpolate(images.float(), (self.side, self.side), mode="bilinear", antialias=True)
            images = larger.round().clamp(0, 255).to(torch.uint8)
        return classify(self.model, images)


def train(model: HybridNet, way: Way, recipe: Recipe, teacher: Teacher, data: Split) -> None:
    """Shows every photograph once: Adam, 5 % warm-up then half a cosine, as the recipe of imagenet has it."""
    layers = list(model.below.backbone)  # type: ignore[arg-type,call-overload]
    tuned = [*layers[-3:], layers[-4][-1]] if way.tuned == "block" else layers[-3:] if way.tuned else []
    for layer in tuned:
        layer.requires_grad_(True)
    learned = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.Adam(learned, lr=way.rate)
    steps = len(data) // recipe.batch
    for step in range(steps):
        side = way.sides[step * len(way.sides) // steps]
        images, labels = batch_of_step(data, recipe, step, steps, side)
        pixels = (images * 255).round().to(torch.uint8)
        targets = targets_of(way, teacher.logits(pixels).softmax(1), labels)
        # A sum over fewer positions is divided by less.
        sharpness = (max(way.sides) / side) ** 2
        with torch.autocast("cpu", torch.bfloat16):
            if way.tuned:
                logits = model(torch.cat([images, 1 - images], 1))
            else:
                logits = model.above(at_cut(model.to_cut, images, autocast=True))
        logits = (logits.float() - model.bias) * sharpness + model.bias
        for group in optimiser.param_groups:
            warm = (step + 1) / max(1, round(0.05 * steps))
            group["lr"] = way.rate * min(warm, 0.5 * (1 + math.cos(math.pi * step / steps)))
        optimiser.zero_grad()
        F.binary_cross_entropy_with_logits(logits, targets).backward()
        nn.utils.clip_grad_norm_(learned, recipe.clip)
        optimiser.step()
    model.eval().requires_grad_(False)


class Measured:
    """The photographs to measure on, the same grids for all ways."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        logits = classify(bench.net.model, bench.imagenette.images)
        self.grids = choose_grids(logits, bench.imagenette.labels, side=2, count=GRIDS)

    def row(self, model: nn.Module, about: str, shown: int | str) -> str:
        each, nette = self.bench.one_of_each, self.bench.imagenette
        with torch.autocast("cpu", torch.bfloat16):
            found, ten = classify(model, each.images), classify(model, nette.images)
        right = found.topk(5, 1).indices == each.labels[:, None]
        scores = Localisation(np.array(list(score_grids(model, nette.images, nette.labels, self.grids))))
        accuracy = f"{share(right[:, 0])} / {share(right.any(1))} | {share(ten.argmax(1) == nette.labels)}"
        return f"| {about} | {shown} | {accuracy} | {scores.mean:.3f} |"


def main() -> None:
    """Reads the command line, makes the networks and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("output", type=Path, nargs="?")
    parser.add_argument("words", nargs="*", default=[])
    parser.add_argument("--list", action="store_true", help="print the names of the ways")
    options = parser.parse_intermixed_args()
    if options.list:
        print("\n".join(f"{name:<14} {way.about}" for name, way in WAYS.items()))
        return
    if options.output is None:
        parser.error("name the folder of the archives and one for what is unpacked")
    chosen = {name: way for name, way in WAYS.items() if name.startswith(tuple(options.words or [name]))}
    bench = Bench("imagenet", options.data, options.output)
    origin, recipe = find_origin("efficientnet-lite0"), RECIPES["imagenet"]
    measured = Measured(bench)
    print("| the layer | pictures shown | one of each, top-1 / top-5 | Imagenette | 2 x 2 localisation | time |")
    print("|---|---|---|---|---|---|")
    for name, way in chosen.items():
        begun = time.monotonic()
        torch.manual_seed(0)
        teacher, data = Teacher(way.teacher), photographs(bench, bench.side, way.kinds)
        model = hybrid(way, origin, bench.side)
        begin(model, origin, data, teacher.logits(data.images))
        if way.rate:
            train(model, way, recipe, teacher, data)
        row = measured.row(model.eval(), way.about, len(data) if way.rate else 0)
        print(f"{row} {time.monotonic() - begun:.0f} s |", flush=True)
        print(f"{name} is done", file=sys.stderr)


if __name__ == "__main__":
    main()
