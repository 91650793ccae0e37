"""``coda models``: list, show, download, convert and verify networks."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coda_cli.checkpoints import manifest
from coda_cli.checkpoints.packages import PACKAGED
from coda_cli.cli import catalogue, complete, transfers
from coda_cli.cli.console import console, stdout_is_terminal
from coda_cli.cli.network import say_assumed
from coda_cli.cli.options import (
    Arch,
    ClassNames,
    Cut,
    Ema,
    Force,
    Json,
    Mean,
    Quiet,
    Size,
    Std,
    Text,
    Verbose,
)
from coda_cli.cli.said import said_of_network
from coda_cli.errors import CodaError, ExactnessError, ExitCode, UsageError

if TYPE_CHECKING:
    from coda_cli.checkpoints.loading import Net

app = typer.Typer(help="List, show, download, convert and verify networks.", no_args_is_help=True)


# ---- list and show ---------------------------------------------------------------------------------------------------


@app.command("list")
def list_models(as_json: Json = False) -> None:
    """List the networks and where they are.

    \b
    coda models list
    coda models list --json | jq -r 'select(.where != "not here") | .name'
    """
    entries = manifest.known().values()
    if as_json:
        for entry in entries:
            console.result(_json(catalogue.summary(entry)))
    else:
        # Output into a pipe has no width.
        width = shutil.get_terminal_size().columns if stdout_is_terminal() else None
        for line in catalogue.table(entries, width):
            console.result(line)


@app.command()
def show(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME|FILE",
            autocompletion=complete.networks,
            help="A network's name, a file, or the folder of a run.",
        ),
    ],
    arch: Arch = None,
    ema: Ema = None,
    class_names: ClassNames = None,
    mean: Mean = None,
    std: Std = None,
    size: Size = None,
    text: Text = None,
    as_json: Json = False,
) -> None:
    """Show everything about a network.

    \b
    coda models show cifar10
    coda models show run/ --json
    coda models show photos.pth --arch torchvision:resnet18
    """
    said = name in PACKAGED or any((arch, class_names, mean, std, size, text))
    details = _read(name, arch, ema) if said else catalogue.details(catalogue.entry_of(name))
    if as_json:
        console.result(_json(details))
    else:
        for line in catalogue.lines(details):
            console.result(line)


def _read(name: str, arch: str | None, ema: bool | None) -> dict[str, Any]:
    """Everything about a network that has to be loaded with what was said of it. Raises CheckpointError, UsageError."""
    from coda_cli.checkpoints.loading import load

    net = load(name, arch=arch, ema=ema, **{**said_of_network(), "cut": None})
    say_assumed(net)
    entry = manifest.KnownCheckpoint(checkpoint=net.checkpoint, path=net.path)
    return catalogue.details(entry, sum(p.numel() for p in net.model.parameters()))


def _json(value: dict[str, Any]) -> str:
    """Write an object as one line of JSON with schema and version."""
    from coda_cli.schema.parts import without_controls

    text = json.dumps({"schema": "coda.model", "schema_version": 1, **value}, ensure_ascii=False, allow_nan=False)
    return without_controls(text)


# ---- pull and push ---------------------------------------------------------------------------------------------------

app.command()(transfers.pull)
app.command()(transfers.push)


# ---- convert ---------------------------------------------------------------------------------------------------------


def _positive(value: float | None) -> float | None:
    """Check --full-colour. Raises UsageError."""
    if value is not None and not 0 < value < math.inf:
        raise UsageError(f"--full-colour {value:g}: expected a positive number of logit units")
    return value


@app.command()
def convert(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Weights of the authors (.pkl), of your own network, or of coda.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write this file [default: FILE.safetensors beside FILE]."),
    ] = None,
    arch: Arch = None,
    ema: Ema = None,
    class_names: ClassNames = None,
    mean: Mean = None,
    std: Std = None,
    cut: Cut = None,
    size: Size = None,
    text: Text = None,
    half: Annotated[
        bool, typer.Option("--half", help="Round the weights to float16: a file of half the size.")
    ] = False,
    concepts: Annotated[
        Path | None,
        typer.Option(
            "--concepts",
            metavar="FILE",
            help="Put this dictionary of concepts behind a layer, whose output it replaces; FILE may then be the name "
            "of a network, too.",
        ),
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(
            "--at", metavar="LAYER", help="Put the concepts behind this layer [default: what their file's name says]."
        ),
    ] = None,
    active: Annotated[
        int | None,
        typer.Option(
            "--active",
            min=1,
            metavar="K",
            show_default=False,
            help="Keep so many concepts at each position [default: what their file says].",
        ),
    ] = None,
    full_colour: Annotated[
        float | None,
        typer.Option(
            "--full-colour",
            metavar="NUMBER",
            show_default=False,
            callback=_positive,
            help="State what full colour stands for in all pictures of this network, in logit units a pixel: what "
            "coda explain PHOTOS --scale run found.",
        ),
    ] = None,
    force: Force = False,
    quiet: Quiet = 0,
    verbose: Verbose = 0,
) -> None:
    """Convert weights to coda's own file format.

    Such a file holds its own description, so that nothing else is needed to use it. The new file is loaded again, and
    gets its name only if it gives exactly the same logits. With --half it says how much they differ.

    \b
    coda models convert model_epoch_200.pkl --arch 9L-S-CoDA-SQ-1000
    coda models convert CIFAR10/final/9L-S-CoDA-SQ-rank-4/model_epoch_200.pkl -o rank-4.safetensors
    coda models convert photos.pth --arch torchvision:resnet18 --classes photos/ -o photos.safetensors
    coda models convert bcos.safetensors --concepts dictionary.pt --at layer4 -o concepts.safetensors
    """
    from coda_cli.checkpoints import loading, proof
    from coda_cli.explanation.files import refuse_taken

    if not file.is_file() and not (concepts and str(file) in manifest.known()):
        raise UsageError("no such file", item=file)
    output = output or file.with_suffix(loading.SUFFIX)
    if output.suffix != loading.SUFFIX:
        raise UsageError(f"coda knows its files by the suffix; name it {output.stem}{loading.SUFFIX}", item=output)
    if concepts is None and (at or active):
        raise UsageError("--at and --active are for --concepts FILE")
    refuse_taken(output, "--output", force=force, inputs=[file, *([concepts] if concepts else [])])
    net = loading.load(file, arch=arch, ema=ema, **said_of_network())
    say_assumed(net)
    if concepts:
        net = _put_concepts(net, concepts, at, active)
    if full_colour is not None:
        net = replace(net, checkpoint=net.checkpoint.model_copy(update={"full_colour": full_colour}))
    difference = proof.convert(net, output, replace=force, half=half)
    whose = f"{file.name}{' with the concepts' if concepts else ''}"
    console.say(f"{output.name} gives the logits of {whose}: largest difference {difference:g}")
    console.result(output.as_posix())


def _put_concepts(net: Net, file: Path, at: str | None, active: int | None) -> Net:
    """Put a dictionary of concepts into a network, and say where. Raises CheckpointError, UsageError."""
    from coda_cli.checkpoints.concepts import with_concepts

    net, layer = with_concepts(net, file, at, active)
    c = net.checkpoint.concepts or {}
    console.say(
        f"{c['number']} concepts, {c['active']} at each position, in the place of the output of {c['layer']}; they are "
        f"the channels of {layer}: coda explain --neurons {layer}:top:5"
    )
    return net


# ---- verify ----------------------------------------------------------------------------------------------------------


@app.command()
def verify(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME|FILE]", help="One network [default: all on this machine].")
    ] = None,
    accuracy: Annotated[
        Path | None,
        typer.Option(
            "--accuracy",
            metavar="DATA",
            help="Also classify the held-out pictures of this folder, which is laid out as for coda train.",
        ),
    ] = None,
    logits: Annotated[
        Path | None,
        typer.Option("--logits", metavar="FILE.npz", help="Write the logits and labels of --accuracy to this file."),
    ] = None,
    force: Force = False,
    arch: Arch = None,
    ema: Ema = None,
    class_names: ClassNames = None,
    mean: Mean = None,
    std: Std = None,
    size: Size = None,
    text: Text = None,
    as_json: Json = False,
    quiet: Quiet = 0,
    verbose: Verbose = 0,
) -> None:
    """Prove that networks are intact and exact.

    The sha256 of each file is compared with the one that is recorded, then a fixed picture is decomposed in float32 and
    in float64. Two numbers are shown. Each residual is divided by its tolerance: above 1 the network is not exact. The
    difference between the two maps is divided by the sum of absolute contributions: above 0.001 the network is not
    exact either, because a correct sum alone proves little. Exit code 3 means that a file is not what it should be,
    and 4 that a decomposition is not exact.

    \b
    coda models verify
    coda models verify 9L-S-CoDA-SQ-1000 --json
    coda models verify cifar10 --accuracy cifar10-data/
    """
    from coda_cli.explanation.files import refuse_taken

    if logits and not (accuracy and name):
        raise UsageError(f"--logits {logits}: needs --accuracy DATA and the name of one network")
    if logits:
        refuse_taken(logits, "--logits", force=force, inputs=[Path(name or "")])
    here = [n for n, e in manifest.known().items() if e.here and e.checkpoint.architecture not in manifest.STANDARD]
    names = [name] if name else here
    if not names:
        raise UsageError("no network is on this machine; coda models list shows which can be pulled")
    codes: set[ExitCode] = set()
    for item in names:
        console.detail(f"{item}: loading and decomposing")
        try:
            _print_verdict(_verify_one(item, arch, ema, accuracy, logits, replace=force), as_json)
        except CodaError as error:
            console.error(str(error))
            codes.add(error.exit_code)
    if codes:
        raise typer.Exit(ExitCode.CHECKPOINT if ExitCode.CHECKPOINT in codes else max(codes))


def _print_verdict(found: dict[str, Any], as_json: bool) -> None:
    """Print what was found about a network. Raises ExactnessError where it is not exact."""
    console.result(_json(found) if as_json else _verdict(found))
    if not found["exact"]:
        message = "not exact, or not the same in float32 and float64; do not rely on it"
        raise ExactnessError(message, item=found["name"])


def _verify_one(
    name: str, arch: str | None, ema: bool | None, data: Path | None, keep: Path | None, *, replace: bool
) -> dict[str, Any]:
    """Load a network, which checks its sha256, and decompose a picture. Raises CheckpointError, UsageError."""
    from coda_cli.checkpoints.loading import load
    from coda_cli.checkpoints.proof import prove

    entry = manifest.known().get(name)
    net = load(name, arch=arch, ema=ema, **{**said_of_network(), "cut": None})
    say_assumed(net)
    proof = prove(net)
    return {
        "name": name,
        "sha256": net.sha256,
        "sha256_known": bool(entry and entry.sha256),
        "class": net.checkpoint.classes[proof.index],
        "logit": _finite(proof.logit),
        "residual_float32": _finite(proof.residual_float32),
        "residual_float64": _finite(proof.residual_float64),
        "map_difference": _finite(proof.map_difference),
        "exact": proof.exact,
        "accuracy": None if data is None else _measured(net, data, keep, replace=replace),
    }


def _measured(net: Net, data: Path, keep: Path | None, *, replace: bool) -> dict[str, Any]:
    """Measure accuracy and calibration on held-out pictures. Raises TrainingError, UsageError, MediaError."""
    import numpy as np

    from coda_cli.core.networks import classify
    from coda_cli.media.files import write_with
    from coda_cli.study.accuracy import performance
    from coda_cli.training.datasets import load_held_out

    with console.progress("reading pictures") as advance:
        split, note = load_held_out(data, net.checkpoint, advance)
    if note:
        console.say(note)
    with console.progress("classifying", " pictures") as advance:
        logits, labels = classify(net.model, split.images, on_step=advance).numpy(), split.labels.numpy()
    if keep:
        save = partial(np.savez_compressed, logits=logits, labels=labels)
        write_with(keep, save, replace=replace)
    found = performance(logits, labels)
    return {
        "value": found.value,
        "pictures": found.pictures,
        "by_class": {name: _finite(share) for name, share in zip(split.classes, found.by_class, strict=True)},
        "mean_probability": found.mean_probability,
        "calibration_error": found.calibration_error,
    }


def _finite(value: float) -> float | None:
    """The value; None instead of NaN and infinity, which JSON does not have."""
    return value if math.isfinite(value) else None


def _verdict(found: dict[str, Any]) -> str:
    """What was found about a network, in one line."""

    def number(key: str) -> str:
        return "not a number" if found[key] is None else f"{found[key]:.2g}"

    measured = ""
    if found["accuracy"]:
        accuracy = found["accuracy"]
        measured = (
            f"; {accuracy['value']:.2%} of {accuracy['pictures']} held-out pictures right, "
            f"calibration error {accuracy['calibration_error']:.1%}"
        )
    return (
        f"{found['name']}: {'exact' if found['exact'] else 'NOT EXACT'}; "
        f"sha256 {'as it should be' if found['sha256_known'] else found['sha256'] + ' (none to compare with)'}; "
        f"residual / tolerance {number('residual_float32')} in float32, {number('residual_float64')} in float64; "
        f"maps differ by {number('map_difference')} of the sum of absolute contributions{measured}"
    )
