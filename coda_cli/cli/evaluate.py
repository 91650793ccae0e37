"""``coda evaluate``: the papers' measurements on pictures of one's own."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coda_cli.checkpoints.manifest import DEFAULT
from coda_cli.cli.console import console
from coda_cli.cli.network import load_network
from coda_cli.cli.options import WIDEST, Arch, Device, Json, Model, Quiet, Verbose, odd

if TYPE_CHECKING:
    from coda_cli.checkpoints.loading import Net
    from coda_cli.training.datasets import Split

app = typer.Typer(help="Measure explanations on labelled pictures: localisation, removal.", no_args_is_help=True)

Data = Annotated[Path, typer.Argument(metavar="DATA", help="A folder per class, below test/ or val/ if wanted.")]
MethodOption = Annotated[
    str, typer.Option("--method", metavar="NAME[:KEY=N,...]", help="Whose maps: see coda compare --help.")
]
ScoresFile = Annotated[
    Path | None,
    typer.Option("--scores", metavar="FILE", help="Keep every score; the same command then goes on where it stopped."),
]
Plot = Annotated[
    Path | None, typer.Option("--plot", metavar="FILE", help="Draw the figure of the paper (needs matplotlib).")
]


class Grid(StrEnum):
    """Cells of a grid."""

    two = "2x2"
    three = "3x3"


class Protocol(StrEnum):
    """How pictures are put into grids."""

    corrected = "corrected"
    published = "published"


class DirectionName(StrEnum):
    """Which pixels are removed first."""

    least = "least"
    most = "most"


class BaselineName(StrEnum):
    """What stands in the place of removed pixels."""

    zero = "zero"
    mean = "mean"
    blurred = "blurred"


@app.command()
def localisation(
    data: Data,
    model: Model = DEFAULT,
    method: MethodOption = "ours",
    grid: Annotated[Grid, typer.Option(help="Pictures in a grid.")] = Grid.three,
    grids: Annotated[int, typer.Option(min=1, help="How many grids, at most.")] = 500,
    protocol: Annotated[
        Protocol,
        typer.Option(help="published repeats an off-by-one of the original code, which uses up more pictures."),
    ] = Protocol.corrected,
    threshold: Annotated[
        float,
        typer.Option(min=0, max=1, help="Probability above which a picture is confident enough."),
    ] = 0.5,
    rescale: Annotated[
        bool, typer.Option("--rescale", help="Shrink pictures until a grid is as wide as one (B-cos, version 2).")
    ] = False,
    smooth: Annotated[
        int, typer.Option(min=1, max=WIDEST, metavar="N", callback=odd, help="Average maps over an odd window first.")
    ] = 1,
    scores: ScoresFile = None,
    plot: Plot = None,
    arch: Arch = None,
    device: Device = "auto",
    as_json: Json = False,
    quiet: Quiet = 0,
    verbose: Verbose = 0,
) -> None:
    """Measure which share of the positive evidence for a class lies on its picture in a grid of pictures.

    Grids are made of held-out pictures that the network classifies correctly and with a probability above the
    threshold. Evenly spread evidence scores 1/9 (3x3) or 1/4 (2x2), a perfect map 1.

    \b
    coda evaluate localisation cifar10-data/ -m cifar10
    coda evaluate localisation imagenette/ --grid 2x2 --grids 100 --json
    coda evaluate localisation imagenette/ --method grad-cam --scores grad-cam.jsonl --plot grad-cam.png
    """
    from coda_cli.core.networks import classify
    from coda_cli.explanation.record import network_part
    from coda_cli.schema.measurements import LocalisationRecord
    from coda_cli.schema.parts import to_json
    from coda_cli.study.by_name import method_of
    from coda_cli.study.localisation import SEED, localise
    from coda_cli.study.scores import Scores

    function, (net, split) = method_of(method), _prepared(data, model, method, arch, device, plot)
    side = int(grid.value[0])
    measured = {
        "schema": "coda.localisation", "schema_version": 1,
        **_decided_by(net, method), "pictures": len(split), "data": split.sha256(),
        "grid": grid.value, "protocol": protocol.value, "threshold": threshold, "rescale": rescale, "smooth": smooth,
        "seed": SEED,
    }  # fmt: skip
    with Scores(scores, {**measured, **_besides(net)}) as kept:
        with console.progress("classifying", " pictures") as classified:
            logits = classify(net.model, split.images, on_step=classified)
        with console.progress("explaining grids", " grids") as advance:

            def on_grid(row: list[float], done: int, total: int) -> None:
                kept.add(row)
                advance(done, total)

            found = localise(
                net.model, split.images, split.labels, side=side, count=grids, protocol=protocol.value,
                threshold=threshold, rescale=rescale, smooth=smooth, method=function, logits=logits, before=kept.rows,
                on_grid=on_grid,
            )  # fmt: skip
    low, high = found.interval()
    if as_json:
        record = LocalisationRecord.model_validate({
            **measured, "grids": len(found.scores), "mean": found.mean, "interval_95": (low, high),
            "uniform": 1 / side**2, "scores": found.scores.tolist(), **_computed_by(net, method),
        })  # fmt: skip
        console.result(to_json(record))
    else:
        by = "" if method == "ours" else f" by {method}"
        console.result(
            f"{network_part(net).title}{by}: {found.mean:.3f} of the positive evidence in the right cell "
            f"({low:.3f} to {high:.3f}, 95 %); {len(found.scores)} {grid.value} grids, {protocol.value} protocol; "
            f"evenly spread evidence: {1 / side**2:.3f}"
        )
    if plot:
        from coda_cli.study import plots

        title = f"{network_part(net).title}, {len(found.scores)} grids {grid.value}"
        plots.save(plots.localisation_figure({method: found.scores}, 1 / side**2, title), plot)
    if len(found.scores) < grids:
        console.say(f"{len(found.scores)} grids instead of {grids}: a class has no more confident pictures")


@app.command()
def removal(
    data: Data,
    model: Model = DEFAULT,
    method: MethodOption = "ours",
    pictures: Annotated[
        int, typer.Option(min=1, help="How many, evenly over the data set (published: 1024, the first).")
    ] = 256,
    first: Annotated[bool, typer.Option("--first", help="The first pictures of the data set instead.")] = False,
    direction: Annotated[DirectionName, typer.Option(help="Which pixels are removed first.")] = DirectionName.least,
    baseline: Annotated[
        BaselineName,
        typer.Option(help="What takes their place: nothing in all six channels (published), or a real colour."),
    ] = BaselineName.zero,
    points: Annotated[int, typer.Option(min=1, help="How often the network is asked on the way.")] = 128,
    share: Annotated[float, typer.Option(min=0.001, max=1, help="Of the pixels, removed at the end.")] = 0.25,
    scores: ScoresFile = None,
    plot: Plot = None,
    arch: Arch = None,
    device: Device = "auto",
    as_json: Json = False,
    quiet: Quiet = 0,
    verbose: Verbose = 0,
) -> None:
    """Measure how the probability of the true class changes while pixels are removed in the order of a map.

    A faithful map keeps it high when the least important pixels, which speak against the class, go first, and drops it
    fast when the most important go first. All pictures count, right or wrong.

    \b
    coda evaluate removal cifar10-data/ -m cifar10
    coda evaluate removal cifar10-data/ -m cifar10 --direction most --baseline blurred --plot most.png
    """
    import numpy as np

    from coda_cli.explanation.record import network_part
    from coda_cli.schema.measurements import RemovalRecord
    from coda_cli.schema.parts import to_json
    from coda_cli.study.by_name import method_of
    from coda_cli.study.removal import Removal, counts, remove
    from coda_cli.study.scores import Scores

    function, (net, split) = method_of(method), _prepared(data, model, method, arch, device, plot)
    size = split.images.shape[2] * split.images.shape[3]
    last = min(pictures, len(split)) - 1 if first else len(split) - 1
    chosen = np.unique(np.linspace(0, last, min(pictures, len(split))).round().astype(int))
    measured = {
        "schema": "coda.removal", "schema_version": 1,
        **_decided_by(net, method), "pictures": len(chosen), "data": split.sha256(),
        "direction": direction.value, "baseline": baseline.value, "points": points, "share": share,
        **({"first": True} if first else {}),
    }  # fmt: skip
    with Scores(scores, {**measured, **_besides(net)}) as kept:
        rest = chosen[len(kept.rows) :]
        with console.progress("removing pixels", " pictures") as advance:
            curves = remove(
                net.model, split.images[rest], split.labels[rest], method=function, direction=direction.value,
                baseline=baseline.value, share=share, points=points, before=len(kept.rows),
            )  # fmt: skip
            for curve in curves:
                kept.add(curve.tolist())
                advance(len(kept.rows), len(chosen))
    found = Removal(np.array(kept.rows[: len(chosen)]), counts(size, share, points) / size)
    if as_json:
        record = RemovalRecord.model_validate({
            **measured, "area": found.area, "removed": found.removed.tolist(), "mean": found.mean.tolist(),
            "curves": found.curves.tolist(), **_computed_by(net, method),
        })  # fmt: skip
        console.result(to_json(record))
    else:
        by = "" if method == "ours" else f" by {method}"
        console.result(
            f"{network_part(net).title}{by}: probability {found.mean[0]:.3f} to {found.mean[-1]:.3f} while {share:.0%} "
            f"of the pixels are removed, {direction.value} important first; area {found.area:.3f}; "
            f"{len(chosen)} pictures"
        )
    if plot:
        from coda_cli.study import plots

        title = f"{network_part(net).title}, {len(chosen)} pictures, {direction.value} important first"
        plots.save(plots.removal_figure({method: (found.removed, found.mean)}, title), plot)


def _decided_by(net: Net, method: str) -> dict[str, Any]:
    """What records say of the network and the method that are measured."""
    from coda_cli.explanation.record import network_part
    from coda_cli.study.by_name import parameters_of

    network = network_part(net).model_dump(mode="json", exclude_none=True)
    return {"network": network, "method": method, "parameters": parameters_of(method)}


def _besides(net: Net) -> dict[str, Any]:
    """What else scores depend on: numbers that need not be in the network's file, and the program's version."""
    from coda_cli.explanation.record import described, versions

    return {"described": described(net), "coda": versions()["coda"]}


def _computed_by(net: Net, method: str) -> dict[str, Any]:
    """Where and by which libraries it was measured; a measurement may go on elsewhere."""
    from coda_cli.explanation.record import versions
    from coda_cli.study.by_name import libraries_of

    device = next(net.model.parameters()).device
    return {"device": str(device), "versions": versions(libraries_of([method]))}


def _prepared(
    data: Path, model: str, method: str, arch: str | None, device: str, plot: Path | None
) -> tuple[Net, Split]:
    """The network and the held-out pictures, after everything that can be wrong without them."""
    from coda_cli.explanation.picture import Request
    from coda_cli.study import plots
    from coda_cli.study.by_name import is_exact, require
    from coda_cli.training.datasets import load_held_out

    require([method])
    if plot:
        plots.refuse(plot)
    net = load_network(model, arch, device, Request(), exact=is_exact(method))
    with console.progress("reading pictures") as advance:
        split, note = load_held_out(data, net.checkpoint, advance)
    if note:
        console.say(note)
    return net, split
