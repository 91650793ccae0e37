"""``coda evaluate localisation``: does the evidence for a class lie on its picture, in a grid of several?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coda_cli.cli.console import console
from coda_cli.cli.measured import DEFAULTS, OURS, Asked, Data, each_of, in_table, title
from coda_cli.cli.options import (
    AllPictures,
    Arch,
    ClassNames,
    Cut,
    Device,
    Ema,
    Force,
    Json,
    Mean,
    Methods,
    Models,
    Plot,
    Quiet,
    ScoresFile,
    Size,
    Std,
    Text,
    Verbose,
    Window,
)
from coda_cli.vocabulary import Grid, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from coda_cli.checkpoints.loading import Net
    from coda_cli.cli.measured import Measurement
    from coda_cli.study.localisation import Localisation
    from coda_cli.study.scores import Scores

COLUMNS = ("network", "method", "mean", "95 %", "grids")


def localisation(
    data: Data,
    models: Models = DEFAULTS,
    methods: Methods = OURS,
    grid: Annotated[Grid, typer.Option(help="Make grids of so many pictures.")] = "3x3",
    grids: Annotated[int, typer.Option(min=1, help="Measure at most this many grids.")] = 500,
    protocol: Annotated[
        Protocol,
        typer.Option(
            help="Choose how grids are filled; published repeats an off-by-one error of the original code, which uses "
            "up more pictures."
        ),
    ] = "corrected",
    threshold: Annotated[
        float,
        typer.Option(min=0, max=1, help="Use only pictures whose probability is above this number."),
    ] = 0.5,
    rescale: Annotated[
        bool,
        typer.Option(
            "--rescale", help="Shrink the originals until a grid is as wide as one picture (B-cos, version 2)."
        ),
    ] = False,
    smooth: Window = 1,
    everything: AllPictures = False,
    scores: ScoresFile = None,
    plot: Plot = None,
    force: Force = False,
    arch: Arch = None,
    ema: Ema = None,
    class_names: ClassNames = None,
    mean: Mean = None,
    std: Std = None,
    cut: Cut = None,
    size: Size = None,
    text: Text = None,
    device: Device = "auto",
    as_json: Json = False,
    quiet: Quiet = 0,
    verbose: Verbose = 0,
) -> None:
    """Measure how much of the evidence lies in the right picture of a grid.

    The score is the share of the positive evidence for a class that lies on the picture of that class, in a grid of
    pictures of different classes. Grids are made of held-out pictures that the network classifies correctly and with a
    probability above the threshold. Evidence that is spread evenly scores 1/9 (3x3) or 1/4 (2x2), a perfect map 1.

    \b
    coda evaluate localisation cifar10-data/ -m cifar10
    coda evaluate localisation imagenette/ --grid 2x2 --grids 100 --json
    coda evaluate localisation imagenette/ --method grad-cam --scores grad-cam.jsonl --plot grad-cam.png
    coda evaluate localisation photos/ -m imagenet --method ours --method grad-cam --plot both.png
    """
    from coda_cli.explanation.record import network_part
    from coda_cli.study.localisation import SEED

    asked = Asked(data, models, methods, arch, device, ema, everything, scores, plot, force)
    decides = {
        "grid": grid,
        "protocol": protocol,
        "threshold": threshold,
        "rescale": rescale,
        "smooth": smooth,
        "seed": SEED,
    }
    uniform, series = 1 / _side(grid) ** 2, {}
    with in_table(COLUMNS) as rows:
        for one in each_of(asked, "coda.localisation", decides):
            small = _shrunk(one.net, data, _side(grid), everything=everything) if rescale else None
            with one.scores(_side(grid) ** 2, {"shrunk": "originals"} if rescale else {}) as kept:
                found = _measure(one, small, kept, grid, grids, protocol, threshold, smooth=smooth)
            series[one.label] = found.scores
            low, high = found.interval()
            if as_json:
                console.result(_json(one.record, found, uniform))
            elif asked.several:
                numbers = (f"{found.mean:.3f}", f"{low:.3f} to {high:.3f}", f"{len(found.scores)}")
                rows.append((one.model, one.method, *numbers))
            else:
                console.result(
                    f"{title(one.net, one.method)}: {found.mean:.3f} of the positive evidence in the right cell "
                    f"({low:.3f} to {high:.3f}, 95 %); {len(found.scores)} {grid} grids, {protocol} protocol; "
                    f"evenly spread evidence: {uniform:.3f}"
                )
            if len(found.scores) < grids:
                console.say(f"{len(found.scores)} grids instead of {grids}: a class has no more confident pictures")
    if plot:
        from coda_cli.study import plots

        heading = f"{asked.heading(network_part(one.net).title)}, {len(found.scores)} grids {grid}"
        plots.save(plots.localisation_figure(series, uniform, heading), plot, replace=force)


def _json(measured: dict[str, object], found: Localisation, uniform: float) -> str:
    """The record of a localisation, as one line of JSON."""
    from coda_cli.schema.measurements import LocalisationRecord
    from coda_cli.schema.parts import to_json

    answers = {
        "grids": len(found.scores),
        "mean": found.mean,
        "interval_95": found.interval(),
        "uniform": uniform,
        "scores": found.scores.tolist(),
    }
    return to_json(LocalisationRecord.model_validate({**measured, **answers}))


def _measure(
    one: Measurement,
    small: Tensor | None,
    kept: Scores,
    grid: Grid,
    grids: int,
    protocol: Protocol,
    threshold: float,
    *,
    smooth: int,
) -> Localisation:
    """Measure all grids whose scores are not in the file yet, with progress on stderr."""
    import numpy as np

    from coda_cli.core.abilities import probabilities
    from coda_cli.core.networks import classify
    from coda_cli.study.localisation import Localisation, choose_grids, score_grids

    net, split = one.net, one.split
    with console.progress("classifying", " pictures") as advance:
        logits = classify(net.model, split.images, on_step=advance).cpu()
    p = probabilities(net.model, logits.double())
    wanted = choose_grids(
        logits, split.labels, side=_side(grid), count=grids, protocol=protocol, threshold=threshold, p=p
    )
    with console.progress("explaining grids", " grids") as advance:
        data, before = (split.images, split.labels), len(kept.rows)
        scores = score_grids(net.model, *data, wanted, small=small, smooth=smooth, method=one.function, before=before)
        for row in scores:
            kept.add(row)
            advance(len(kept.rows), len(wanted))
    return Localisation(np.array(kept.rows[: len(wanted)]))


def _shrunk(net: Net, data: Path, side: int, *, everything: bool) -> Tensor:
    """The held-out pictures again, scaled and cut so that ``side`` of them are about as wide as one."""
    from coda_cli.training.datasets import load_held_out

    with console.progress("reading small pictures") as advance:
        return load_held_out(data, net.checkpoint, advance, parts=side, everything=everything)[0].images


def _side(grid: Grid) -> int:
    """How many pictures lie side by side in a grid."""
    return int(grid[0])
