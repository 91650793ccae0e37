"""``coda evaluate``: the papers' measurements on pictures of one's own."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from coda_cli.checkpoints.manifest import DEFAULT
from coda_cli.cli.console import console
from coda_cli.cli.options import Arch, Device, Json, Model, Quiet, Verbose

app = typer.Typer(help="Measure explanations on labelled pictures: localisation.", no_args_is_help=True)


class Grid(StrEnum):
    """Cells of a grid."""

    two = "2x2"
    three = "3x3"


class Protocol(StrEnum):
    """How pictures are put into grids."""

    corrected = "corrected"
    published = "published"


@app.callback()
def evaluate() -> None:
    """Measure explanations on labelled pictures."""


@app.command()
def localisation(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Labelled pictures, as for coda train.")],
    model: Model = DEFAULT,
    grid: Annotated[Grid, typer.Option(help="Pictures in a grid.")] = Grid.three,
    grids: Annotated[int, typer.Option(min=1, help="How many grids, at most.")] = 500,
    protocol: Annotated[
        Protocol,
        typer.Option(help="published repeats an off-by-one of the original code, which uses up more pictures."),
    ] = Protocol.corrected,
    arch: Arch = None,
    device: Device = "auto",
    as_json: Json = False,
    quiet: Quiet = 0,
    verbose: Verbose = 0,
) -> None:
    """Measure which share of the positive evidence for a class lies on its picture in a grid of pictures.

    Grids are made of held-out pictures that the network classifies correctly and with a probability above 0.5. Evenly
    spread evidence scores 1/9 (3x3) or 1/4 (2x2), a perfect map 1.

    \b
    coda evaluate localisation cifar10-data/ -m cifar10
    coda evaluate localisation imagenette/ --grid 2x2 --grids 100 --json
    """
    from coda_cli.checkpoints.loading import load
    from coda_cli.devices import pick
    from coda_cli.study.localisation import SEED, localise
    from coda_cli.training.datasets import load_held_out

    net = load(model, arch=arch, device=pick(device))
    for assumption in net.assumed:
        console.say(f"{net.path.name}: {assumption}")
    with console.progress("reading pictures") as advance:
        split = load_held_out(data, net.checkpoint, advance)
    side = int(grid.value[0])
    with console.progress("explaining grids") as advance:
        found = localise(
            net.model, split.images, split.labels, side=side, count=grids, protocol=protocol.value, progress=advance
        )
    low, high = found.interval()
    if as_json:
        result = {
            "schema": "coda.localisation", "schema_version": 1,
            "network": {"name": net.checkpoint.name, "sha256": net.sha256}, "pictures": len(split),
            "grid": grid.value, "grids": len(found.scores), "protocol": protocol.value, "seed": SEED,
            "mean": found.mean, "interval_95": [low, high], "uniform": 1 / side**2, "scores": found.scores.tolist(),
        }  # fmt: skip
        console.result(json.dumps(result, ensure_ascii=False, allow_nan=False))
    else:
        console.result(
            f"{net.checkpoint.name}: {found.mean:.3f} of the positive evidence in the right cell "
            f"({low:.3f} to {high:.3f}, 95 %); {len(found.scores)} {grid.value} grids, {protocol.value} protocol; "
            f"evenly spread evidence: {1 / side**2:.3f}"
        )
    if len(found.scores) < grids:
        console.say(f"{len(found.scores)} grids instead of {grids}: a class has no more confident pictures")
