"""``coda evaluate``: measure explanations as the papers do, on pictures of the user."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coda_cli.checkpoints.manifest import DEFAULT
from coda_cli.cli.console import console
from coda_cli.cli.measured import also_decided_by, computed_by, decided_by, title
from coda_cli.cli.network import load_network
from coda_cli.cli.options import (
    Arch,
    ClassNames,
    Cut,
    Device,
    Ema,
    Force,
    Json,
    Mean,
    MethodOption,
    Model,
    Plot,
    Quiet,
    ScoresFile,
    Size,
    Std,
    Text,
    Verbose,
    Window,
)
from coda_cli.vocabulary import Baseline, Direction, Grid, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from coda_cli.checkpoints.loading import Net
    from coda_cli.study.localisation import Localisation
    from coda_cli.study.methods import Method
    from coda_cli.study.removal import Removal
    from coda_cli.study.scores import Scores
    from coda_cli.training.datasets import Split

app = typer.Typer(help="Measure explanations over many pictures.", no_args_is_help=True)

Data = Annotated[
    Path,
    typer.Argument(metavar="DATA", help="A folder with one folder for each class; these may lie in test/ or val/."),
]


@app.command()
def localisation(
    data: Data,
    model: Model = DEFAULT,
    method: MethodOption = "ours",
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
    """
    from coda_cli.explanation.record import network_part
    from coda_cli.study.by_name import method_of
    from coda_cli.study.localisation import SEED
    from coda_cli.study.scores import Scores

    function, (net, split) = method_of(method), _prepare(data, model, method, arch, device, plot, ema=ema, force=force)
    uniform = 1 / _side(grid) ** 2
    measured = {
        "schema": "coda.localisation",
        "schema_version": 1,
        **decided_by(net, method),
        "pictures": len(split),
        "data": split.sha256(),
        "grid": grid,
        "protocol": protocol,
        "threshold": threshold,
        "rescale": rescale,
        "smooth": smooth,
        "seed": SEED,
    }
    decided = {**measured, **also_decided_by(net), **({"shrunk": "originals"} if rescale else {})}
    with Scores(scores, decided, _side(grid) ** 2) as kept:
        small = _shrunk(net, data, _side(grid)) if rescale else None
        found = _measure_localisation(
            net, split, small, function, kept, grid, grids, protocol, threshold, smooth=smooth
        )
    if as_json:
        console.result(_localisation_json({**measured, **computed_by(net, method)}, found, uniform))
    else:
        low, high = found.interval()
        console.result(
            f"{title(net, method)}: {found.mean:.3f} of the positive evidence in the right cell "
            f"({low:.3f} to {high:.3f}, 95 %); {len(found.scores)} {grid} grids, {protocol} protocol; "
            f"evenly spread evidence: {uniform:.3f}"
        )
    if plot:
        from coda_cli.study import plots

        heading = f"{network_part(net).title}, {len(found.scores)} grids {grid}"
        plots.save(plots.localisation_figure({method: found.scores}, uniform, heading), plot, replace=force)
    if len(found.scores) < grids:
        console.say(f"{len(found.scores)} grids instead of {grids}: a class has no more confident pictures")


def _localisation_json(measured: dict[str, object], found: Localisation, uniform: float) -> str:
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


def _measure_localisation(
    net: Net,
    split: Split,
    small: Tensor | None,
    method: Method,
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

    with console.progress("classifying", " pictures") as advance:
        logits = classify(net.model, split.images, on_step=advance).cpu()
    p = probabilities(net.model, logits.double())
    wanted = choose_grids(
        logits, split.labels, side=_side(grid), count=grids, protocol=protocol, threshold=threshold, p=p
    )
    with console.progress("explaining grids", " grids") as advance:
        data, before = (split.images, split.labels), len(kept.rows)
        scores = score_grids(net.model, *data, wanted, small=small, smooth=smooth, method=method, before=before)
        for row in scores:
            kept.add(row)
            advance(len(kept.rows), len(wanted))
    return Localisation(np.array(kept.rows[: len(wanted)]))


def _shrunk(net: Net, data: Path, side: int) -> Tensor:
    """The held-out pictures again, scaled and cut so that ``side`` of them are about as wide as one."""
    from coda_cli.training.datasets import load_held_out

    with console.progress("reading small pictures") as advance:
        return load_held_out(data, net.checkpoint, advance, parts=side)[0].images


def _side(grid: Grid) -> int:
    """How many pictures lie side by side in a grid."""
    return int(grid[0])


@app.command()
def removal(
    data: Data,
    model: Model = DEFAULT,
    method: MethodOption = "ours",
    pictures: Annotated[
        int,
        typer.Option(min=1, help="Measure this many pictures, evenly over the data set (published: the first 1024)."),
    ] = 256,
    first: Annotated[bool, typer.Option("--first", help="Take the first pictures of the data set instead.")] = False,
    direction: Annotated[
        Direction, typer.Option(help="Remove the least or the most important pixels first.")
    ] = "least",
    baseline: Annotated[
        Baseline,
        typer.Option(
            help="Put this in their place: 0 in all six channels (published), the mean colour, or a blurred picture."
        ),
    ] = "zero",
    points: Annotated[
        int, typer.Option(min=1, help="Measure the probability this many times during the removal.")
    ] = 128,
    share: Annotated[float, typer.Option(min=0.001, max=1, help="Remove this share of the pixels in the end.")] = 0.25,
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
    """Measure how the probability changes while pixels are removed.

    Pixels are removed in the order of a map. With a faithful map the probability of the true class stays high when the
    least important pixels, which speak against the class, are removed first, and falls fast when the most important
    ones are removed first. All pictures count, whether they are classified correctly or not.

    \b
    coda evaluate removal cifar10-data/ -m cifar10
    coda evaluate removal cifar10-data/ -m cifar10 --direction most --baseline blurred --plot most.png
    """
    from coda_cli.explanation.record import network_part
    from coda_cli.study.by_name import method_of
    from coda_cli.study.removal import counts
    from coda_cli.study.scores import Scores

    function, (net, split) = method_of(method), _prepare(data, model, method, arch, device, plot, ema=ema, force=force)
    chosen = _chosen_pictures(len(split), pictures, first=first)
    measured = {
        "schema": "coda.removal",
        "schema_version": 1,
        **decided_by(net, method),
        "pictures": len(chosen),
        "data": split.sha256(),
        "direction": direction,
        "baseline": baseline,
        "points": points,
        "share": share,
        **({"first": True} if first else {}),
    }
    columns = len(counts(split.images[0, 0].numel(), share, points))
    with Scores(scores, {**measured, **also_decided_by(net)}, columns) as kept:
        found = _measure_removal(net, split, chosen, function, kept, direction, baseline, points=points, share=share)
    if as_json:
        console.result(_removal_json({**measured, **computed_by(net, method)}, found))
    else:
        console.result(
            f"{title(net, method)}: probability {found.mean[0]:.3f} to {found.mean[-1]:.3f} while {share:.0%} "
            f"of the pixels are removed, {direction} important first; area {found.area:.3f}; {len(chosen)} pictures"
        )
    if plot:
        from coda_cli.study import plots

        heading = f"{network_part(net).title}, {len(chosen)} pictures, {direction} important first"
        plots.save(plots.removal_figure({method: (found.removed, found.mean)}, heading), plot, replace=force)


def _removal_json(measured: dict[str, object], found: Removal) -> str:
    """The record of a removal, as one line of JSON."""
    from coda_cli.schema.measurements import RemovalRecord
    from coda_cli.schema.parts import to_json

    answers = {
        "area": found.area,
        "removed": found.removed.tolist(),
        "mean": found.mean.tolist(),
        "curves": found.curves.tolist(),
    }
    return to_json(RemovalRecord.model_validate({**measured, **answers}))


def _chosen_pictures(available: int, wanted: int, *, first: bool) -> NDArray[np.int64]:
    """Indices of the pictures that are measured: the first ones, or evenly over the data set."""
    import numpy as np

    number = min(wanted, available)
    last = (number if first else available) - 1
    return np.unique(np.linspace(0, last, number).round().astype(np.int64))


def _measure_removal(
    net: Net,
    split: Split,
    chosen: NDArray[np.int64],
    method: Method,
    kept: Scores,
    direction: Direction,
    baseline: Baseline,
    *,
    points: int,
    share: float,
) -> Removal:
    """Remove pixels from all pictures whose curves are not in the file yet, with progress on stderr."""
    import numpy as np

    from coda_cli.study.removal import Removal, counts, remove

    rest = chosen[len(kept.rows) :]
    with console.progress("removing pixels", " pictures") as advance:
        curves = remove(
            net.model,
            split.images[rest],
            split.labels[rest],
            method=method,
            direction=direction,
            baseline=baseline,
            share=share,
            points=points,
            before=len(kept.rows),
        )
        for curve in curves:
            kept.add(curve.tolist())
            advance(len(kept.rows), len(chosen))
    size = split.images.shape[2] * split.images.shape[3]
    return Removal(np.array(kept.rows[: len(chosen)]), counts(size, share, points) / size)


def _prepare(
    data: Path,
    model: str,
    method: str,
    arch: str | None,
    device: str,
    plot: Path | None,
    *,
    ema: bool | None,
    force: bool,
) -> tuple[Net, Split]:
    """Load the network and the held-out pictures; what can be checked without them is checked first."""
    from coda_cli.explanation.files import refuse_taken
    from coda_cli.explanation.request import Request
    from coda_cli.study import plots
    from coda_cli.study.by_name import is_exact, require
    from coda_cli.training.datasets import load_held_out

    require([method])
    if plot:
        plots.check_path(plot)
        refuse_taken(plot, "--plot", force=force, inputs=[Path(model)])
    net = load_network(model, arch, device, Request(), explained=is_exact(method), ema=ema)
    with console.progress("reading pictures") as advance:
        split, note = load_held_out(data, net.checkpoint, advance)
    if note:
        console.say(note)
    return net, split
