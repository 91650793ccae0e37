"""``coda evaluate removal``: does the probability follow, when pixels are removed in the order of a map?"""

from __future__ import annotations

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
)
from coda_cli.vocabulary import Baseline, Direction

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from coda_cli.cli.measured import Measurement
    from coda_cli.study.removal import Removal
    from coda_cli.study.scores import Scores

COLUMNS = ("network", "method", "before", "after", "area", "pictures")


def removal(
    data: Data,
    models: Models = DEFAULTS,
    methods: Methods = OURS,
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
    everything: AllPictures = False,
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
    coda evaluate removal cifar10-data/ -m cifar10 -m cifar10-bcos --plot both.png
    """
    from coda_cli.explanation.record import network_part
    from coda_cli.study.removal import counts

    asked = Asked(data, models, methods, arch, device, ema, everything, scores, plot, force)
    decides = {
        "direction": direction,
        "baseline": baseline,
        "points": points,
        "share": share,
        **({"first": True} if first else {}),
    }
    curves = {}
    with in_table(COLUMNS) as rows:
        for one in each_of(asked, "coda.removal", decides, at_most=pictures):
            chosen = _chosen_pictures(len(one.split), pictures, first=first)
            with one.scores(len(counts(one.split.images[0, 0].numel(), share, points))) as kept:
                found = _measure(one, chosen, kept, direction, baseline, points=points, share=share)
            curves[one.label] = found.removed, found.mean
            if as_json:
                console.result(_json(one.record, found))
            elif asked.several:
                numbers = (f"{found.mean[0]:.3f}", f"{found.mean[-1]:.3f}", f"{found.area:.3f}", f"{len(chosen)}")
                rows.append((one.model, one.method, *numbers))
            else:
                console.result(
                    f"{title(one.net, one.method)}: probability {found.mean[0]:.3f} to {found.mean[-1]:.3f} while "
                    f"{share:.0%} of the pixels are removed, {direction} important first; area {found.area:.3f}; "
                    f"{len(chosen)} pictures"
                )
    if plot:
        from coda_cli.study import plots

        heading = f"{asked.heading(network_part(one.net).title)}, {len(chosen)} pictures, {direction} important first"
        plots.save(plots.removal_figure(curves, heading), plot, replace=force)


def _json(measured: dict[str, object], found: Removal) -> str:
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


def _measure(
    one: Measurement,
    chosen: NDArray[np.int64],
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

    net, split, rest = one.net, one.split, chosen[len(kept.rows) :]
    with console.progress("removing pixels", " pictures") as advance:
        curves = remove(
            net.model,
            split.images[rest],
            split.labels[rest],
            method=one.function,
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
