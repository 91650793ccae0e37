"""``coda evaluate depth``: how far down the layers of a network its positions carry the logits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coda_cli.cli.console import console
from coda_cli.cli.network import load_network
from coda_cli.cli.options import (
    Arch,
    ClassNames,
    Device,
    Ema,
    Force,
    Json,
    Mean,
    Model,
    Plot,
    Quiet,
    Size,
    Std,
    Text,
    Verbose,
)
from coda_cli.errors import CheckpointError, CodaError, ExactnessError, ExitCode, UsageError

if TYPE_CHECKING:
    from coda_cli.checkpoints.loading import Net
    from coda_cli.core.cuts import LayerDepth
    from coda_cli.core.depth import LayerShare
    from coda_cli.media.sources import Item


def depth(
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA", help="A folder of pictures, an archive or an address; sub-folders are looked into."
        ),
    ],
    model: Model,
    pictures: Annotated[int, typer.Option(min=1, help="Measure this many pictures, evenly over the folder.")] = 32,
    plot: Plot = None,
    force: Force = False,
    arch: Arch = None,
    ema: Ema = None,
    class_names: ClassNames = None,
    mean: Mean = None,
    std: Std = None,
    size: Size = None,
    text: Text = None,
    device: Device = "auto",
    as_json: Json = False,
    quiet: Quiet = 0,
    verbose: Verbose = 0,
) -> None:
    """Measure how much of the logits the positions of each layer carry: the interpretable depth of a network.

    For the predicted class of every picture the logit is split, exactly, at every layer that all of it passes through.
    "carried" is the sum over the layer's positions divided by the logit less the classifier's bias; "constants" is what
    the layers above add. "ratio" is the sum of magnitudes over the same: where it is large, contributions cancel each
    other, and a map says little. A star marks layers of which a map can be trusted for nearly all pictures.

    \b
    coda evaluate depth photos/ -m resnet50.pth --arch torchvision:resnet50
    coda evaluate depth photos/ -m imagenette --plot depth.png
    """
    from coda_cli.core.cuts import measure_depth, probes
    from coda_cli.core.decompose import decompose
    from coda_cli.explanation.files import refuse_taken
    from coda_cli.explanation.request import Request
    from coda_cli.media.sources import resolve
    from coda_cli.study import plots

    if plot:
        plots.check_path(plot)
        refuse_taken(plot, "--plot", force=force, inputs=[Path(model)])
    items = resolve([data], recursive=True, on_left_out=console.detail)
    chosen = [items[round(k)] for k in _evenly(len(items), pictures)]
    net = load_network(model, arch, device, Request(), explained=False, ema=ema)
    found = list(_shares(net, chosen))
    if not found:
        raise UsageError("no picture could be read", item=data)
    layers = measure_depth(found)
    if not layers:
        probe = probes(net.checkpoint.preprocessing.crop, 1).to(net.device)
        unknown = ", ".join(decompose(net.model, probe, 0).unknown)
        why = f"; not known to coda: {unknown}" if unknown else ""
        raise ExactnessError(f"no layer of the network can be split exactly{why}", item=net.path)
    if as_json:
        console.result(_json(net, layers, len(found)))
    else:
        for line in _table(layers):
            console.result(line)
    if plot:
        title = f"{net.checkpoint.name}, {len(found)} pictures"
        plots.save(plots.depth_figure([(d.name, d.carried, d.ratio) for d in layers], title), plot, replace=force)
    if len(found) < len(chosen):
        raise typer.Exit(ExitCode.FAILED)


def _evenly(available: int, wanted: int) -> Sequence[float]:
    """Indices of pictures evenly over a folder."""
    number = min(available, wanted)
    return [k * (available - 1) / max(1, number - 1) for k in range(number)]


def _shares(net: Net, items: Sequence[Item]) -> Iterator[list[LayerShare]]:
    """The shares at every layer, of the predicted class of every picture; those that cannot be read are said."""
    from coda_cli.core.depth import shares_of_best
    from coda_cli.explanation.request import encoded, input_of
    from coda_cli.media.stills import reading

    with console.progress("splitting", " pictures") as advance:
        for n, item in enumerate(items, 1):
            try:
                with reading(item.content) as picture:
                    view = input_of(item, picture, net, "crop").view
            except CodaError as error:
                console.error(str(error.about(item.name)))
                continue
            x = encoded([view], net)
            try:
                yield from shares_of_best(net.model, x)
            except ValueError as error:  # of a layer that no split is known for
                raise CheckpointError(f"cannot be explained: {error}", item=net.path) from error
            advance(n, len(items))


def _table(layers: Sequence[LayerDepth]) -> Iterator[str]:
    """The layers, from the input up, in columns; medians, and the 10th and 90th percentile of what is carried."""
    width = max(len("layer"), *(len(layer.name) for layer in layers))
    yield f"  {'layer':<{width}}  {'map':>9}  {'carried':>8}  {'10 % to 90 %':>18}  {'constants':>9}  {'ratio':>7}"
    for d in layers:
        low, middle, high = map(_percent, d.carried)
        ratio = "-" if d.ratio[1] is None else f"{d.ratio[1]:.1f}"
        yield (
            f"{'*' if d.interpretable else ' '} {d.name:<{width}}  {f'{d.height} x {d.width}':>9}  {middle:>8}  "
            f"{f'{low} to {high}':>18}  {_percent(d.constants[1]):>9}  {ratio:>7}"
        )


def _percent(share: float | None) -> str:
    """A share as text; a dash where there is none."""
    return "-" if share is None else f"{share:.0%}"


def _json(net: Net, layers: Sequence[LayerDepth], pictures: int) -> str:
    """The record of the measurement, as one line of JSON."""
    from dataclasses import asdict

    from coda_cli.explanation.record import network_part, versions
    from coda_cli.schema.measurements import DepthPart, DepthRecord
    from coda_cli.schema.parts import to_json

    return to_json(
        DepthRecord(
            network=network_part(net),
            pictures=pictures,
            layers=tuple(DepthPart.model_validate(asdict(layer)) for layer in layers),
            device=str(net.device),
            versions=versions(),
        )
    )
