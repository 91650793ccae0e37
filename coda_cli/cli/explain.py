"""``coda explain``: split logits into the contributions of the pixels."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated, Literal

import typer

from coda_cli.checkpoints.manifest import DEFAULT
from coda_cli.cli import complete
from coda_cli.cli import dry_run as dry
from coda_cli.cli.cluster import Loaded, explain_by_workers, refuse_on_cluster
from coda_cli.cli.console import Later, console
from coda_cli.cli.devices import Devices, explain_by_devices, several_devices
from coda_cli.cli.dry_run import DryRun
from coda_cli.cli.network import load_network
from coda_cli.cli.options import (
    FEW,
    Alpha,
    Arch,
    BatchSize,
    Check,
    Classes,
    ClassNames,
    Cut,
    Ema,
    FitOption,
    Json,
    Mean,
    Model,
    PrecisionOption,
    Quiet,
    Recursive,
    Size,
    Smooth,
    Std,
    StyleOption,
    Text,
    Verbose,
    Versus,
    full_colour,
    pictures_of_batch,
)
from coda_cli.cli.outcomes import ResultPrinter
from coda_cli.cli.places import find_items, output_folder
from coda_cli.cli.regions import Boxes, Labels, Masks, RegionFile, regions_of_pictures
from coda_cli.cli.run_log import LogFile, RunLog
from coda_cli.cli.shards import chosen_shard, part_of_run
from coda_cli.errors import UsageError
from coda_cli.vocabulary import Engine, IfExists

EPILOG = """
\b
Classes
  --class church              a name, or the unique beginning of one; synonyms and WordNet ids where a network has them
  --class 3                   an index
  --class top:5, --class all  several, from one forward pass; the option can be repeated
  --class church --versus tench
                              the exact difference of two logits

\b
File names (--name)
  {stem} {name} {suffix} {parent} of the picture, {class} {class_slug} {index} of the class, {model}, {kind} and {ext};
  needs {stem} or {name}, and {kind}, and ends in .{ext}
"""


SCALES: tuple[Literal["network", "image", "run"], ...] = ("network", "image", "run")


def explain(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCES...",
            help="Pictures, folders, archives (ZIP, tar), addresses (https, s3, ...), or patterns in quotes; - "
            "reads a list, or a picture, from stdin.",
        ),
    ],
    model: Model = DEFAULT,
    classes: Classes = None,
    versus: Versus = None,
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR|TAR|PARQUET",
            help="Write into this folder, which is made if needed, to an address (s3://bucket/out/), or into one file "
            "(out.tar, out.parquet, part-{shard}.tar). It has its name when it is whole; until then NAME.part keeps "
            "what is done, and the same command goes on from there.",
        ),
    ] = "coda-out",
    write: Annotated[
        str,
        typer.Option(
            "--write", metavar="KINDS", help="Write these files: overlay,heatmap,panel,layers,depth,npz,json or none."
        ),
    ] = "overlay,json",
    json: Json = False,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html",
            metavar="FILE",
            show_default=False,
            help="Also write all pictures and maps into one page for a browser, where they can be read and summed; "
            "of more than 300 maps a sheet, and a folder with pages beside it.",
        ),
    ] = None,
    recursive: Recursive = False,
    null: Annotated[
        bool, typer.Option("--null", "-0", help="Read a list on stdin that is separated by NUL, not by lines.")
    ] = False,
    page: Annotated[
        str | None,
        typer.Option(
            "--page",
            metavar="N|A-B|all",
            show_default=False,
            help="Explain these pages of a TIFF, or frames of an animation, each as a picture of its own [default: the "
            "first].",
        ),
    ] = None,
    allow_private: Annotated[
        bool,
        typer.Option(
            "--allow-private",
            help="Also read addresses in a list on stdin, and follow redirects, that lead into a private network.",
        ),
    ] = False,
    fit: FitOption = "crop",
    scale: Annotated[
        str | None,
        typer.Option(
            metavar="network|image|run|NUMBER",
            show_default=False,
            help="Draw this contribution in full colour: the network's own, as far as it states one, found for each "
            "map (image), one for all maps (run), or a number of logit units [default: network; with --percentile "
            "image].",
        ),
    ] = None,
    percentile: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=100,
            show_default=False,
            help="Take this percentile of |contribution| as full colour, where it is found [default: 99.5].",
        ),
    ] = None,
    alpha: Alpha = 0.85,
    style: StyleOption = "signed",
    smooth: Smooth = 15,
    boxes: Boxes = None,
    masks: Masks = None,
    labels: Labels = None,
    annotations: RegionFile = None,
    layer: Annotated[
        str | None,
        typer.Option(
            metavar="all|N|NAME",
            autocompletion=complete.layers,
            help="Also draw the contributions of layers' outputs: a sheet, and for all an animation.",
        ),
    ] = None,
    neurons: Annotated[
        list[str] | None,
        typer.Option(
            "--neuron",
            "--neurons",
            metavar="LAYER:CHANNEL[:Y,X]",
            autocompletion=complete.neurons,
            help="Also explain an activation, where its channel is strongest or at Y,X (:sum for all positions); "
            "LAYER:top:K the K channels with the largest shares of the logit. Can be repeated.",
        ),
    ] = None,
    name: Annotated[
        str, typer.Option("--name", metavar="TEMPLATE", help="Name the files by this template; see below.")
    ] = ("{stem}.{class_slug}.{kind}.{ext}"),
    if_exists: Annotated[
        IfExists,
        typer.Option(
            help="Decide about files that exist; match keeps those of the same picture, puts results of another "
            "network or of other settings beside them, and fails for another picture."
        ),
    ] = "match",
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Replace files that exist, as --if-exists overwrite does.")
    ] = False,
    check: Check = None,
    device: Devices = "auto",
    precision: PrecisionOption = "float32",
    batch_size: BatchSize = "auto",
    arch: Arch = None,
    ema: Ema = None,
    class_names: ClassNames = None,
    mean: Mean = None,
    std: Std = None,
    cut: Cut = None,
    size: Size = None,
    text: Text = None,
    shard: Annotated[
        str | None,
        typer.Option(
            "--shard",
            metavar="I/N",
            show_default=False,
            help="Explain the I-th of N parts of the pictures, chosen by their names; N processes with one --output "
            "make what one makes, and coda merge adds up.",
        ),
    ] = None,
    engine: Annotated[
        Engine,
        typer.Option(help="Explain in this process, or on a cluster with Ray (pip install 'coda-cli[ray]')."),
    ] = "local",
    ray_address: Annotated[
        str | None,
        typer.Option(
            "--ray-address",
            metavar="auto|HOST:PORT",
            show_default=False,
            help="Use this cluster; auto is the one of this machine. Without it, one is started on this machine alone.",
        ),
    ] = None,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="Stop at the first failure.")] = False,
    dry_run: DryRun = False,
    log: LogFile = None,
    quiet: Quiet = 0,
    verbose: Verbose = 0,
) -> None:
    """Split logits exactly into contributions of the pixels.

    Writes pictures, and a record that proves that the contributions add up to the logit.

    \b
    coda explain photo.jpg
    coda explain photos/ -r -o out/ --class top:3
    coda explain photos/ --json -q | jq '.explained[0].name'
    coda explain photos/ -r --write none --html report.html
    find . -name '*.jpg' -print0 | coda explain -0 - --versus tench
    """
    kinds, layer = _kinds_and_layer(write, layer)
    if force and if_exists not in ("match", "overwrite"):
        raise UsageError(f"--force overwrites, and --if-exists {if_exists} does not; choose one")
    batch = pictures_of_batch(batch_size)
    chosen = chosen_shard(shard, scale)
    if_exists = "overwrite" if force else if_exists
    remote, folder = output_folder(output, kinds, if_exists, chosen, written=not dry_run)
    run_log, several = RunLog(log, "explain", {"--output": output, "--html": html}), tuple[str, ...]()
    if cluster := engine == "ray":
        refuse_on_cluster(shard=shard, html=html, scale=scale, device=device, remote=remote is not None)
    elif ray_address is not None:
        raise UsageError("--ray-address needs --engine ray")
    else:
        several = several_devices(device, html=html, scale=scale, remote=remote is not None)
    listed = find_items(sources, recursive, null, remote or folder, allow_private, by_folder=cluster, page=page)
    # A cluster begins with the first; only what may replace files has to know first which of them are inputs.
    items = list(islice(listed, 1 if cluster and not dry_run and if_exists != "overwrite" else None))
    if not items:
        console.say("nothing to explain: the list on stdin is empty")
        return

    from coda_cli.explanation.naming import Naming
    from coda_cli.explanation.record import Drawing
    from coda_cli.explanation.request import Request
    from coda_cli.explanation.run import explain_items
    from coda_cli.explanation.writer import Output

    regions = regions_of_pictures(boxes, masks, labels, annotations, len(items))
    request = Request(tuple(classes or ()), versus, fit, precision, check, layer, regions, tuple(neurons or ()))
    found = full_colour(("network" if percentile is None else "image") if scale is None else scale, SCALES)
    drawing = Drawing(kinds, found, 99.5 if percentile is None else percentile, alpha, style, smooth)
    net = load_network(model, arch, "cpu" if cluster or several else device, request, ema=ema, weights=not dry_run)
    out = Output(
        Naming(folder, net.checkpoint.name, name, remote), drawing, if_exists, tells_skipped=json and not dry_run
    )
    part = part_of_run(chosen, items, out)
    inputs = items if out.if_exists == "overwrite" else None  # other files of a shard are not replaced
    items = part.items if part else items
    if dry_run:
        dry.explain(net, items, inputs, request, out, html and chosen.mark(html) if chosen else html, json)
        return
    total = 0 if cluster else len(items)
    report = None
    if html is not None:
        from coda_cli.explanation.page.entry import entry_of
        from coda_cli.explanation.page.report import Report

        html = chosen.mark(html) if chosen else html
        report = Report(html, out.if_exists, items, net, request, alpha, f"shard {chosen} of a run" if chosen else "")
        out = replace(out, entry=partial(entry_of, thumbnail=alpha if report.pages else None))
    printer = ResultPrinter(json, many=cluster or total > FEW)
    table = Later("making the table", " rows")
    loaded = Loaded(net, model, arch, ema, device)
    if cluster:
        outcomes = explain_by_workers(loaded, items, listed, request, out, batch, ray_address)
    elif several:
        outcomes = explain_by_devices(loaded, several, items, request, out, batch, chosen, inputs, printer.lose)
    else:
        with console.progress("finding the scale") as on_scale:
            outcomes = explain_items(
                net, items, request, out, batch=batch, on_scale=on_scale, on_table=table, inputs=inputs
            )
    if part and kinds:
        part.begin()  # after all that can be refused
    try:
        with (
            console.progress("explaining", " pictures") as advance,
            table,
            contextlib.closing(outcomes),
            report or contextlib.nullcontext(),
            run_log,
        ):
            for n, outcome in enumerate(outcomes, 1):
                printer.add(outcome)
                run_log.outcome(outcome)
                if report:
                    report.add(outcome)
                if part:
                    part.add(outcome)
                advance(n, total)
                if fail_fast and printer.failed:
                    break
            else:  # not where a failure stopped it
                if part and not printer.counts["lost"]:
                    printer.shard(part.end(net, request, out))
            printer.page(report.finish() if report else None)
    except KeyboardInterrupt:
        resumes = out.if_exists in ("match", "skip") and "json" in kinds and report is None
        resumes = resumes and (remote is None or remote.resumes)
        console.interrupted(
            f"interrupted: {printer.summary()}" + ("; the same command continues from here" if resumes else "")
        )
        raise
    printer.end(total or printer.counts.total())


def _kinds_and_layer(write: str, layer: str | None) -> tuple[tuple[str, ...], str | None]:
    """What --write and --layer give: pictures of layers imply --layer all, and --layer implies pictures of layers."""
    kinds = _parse_kinds(write)
    of_layers = {"layers", "depth"} & {*kinds}
    if layer is None:
        return kinds, "all" if of_layers else None
    if kinds and not of_layers:
        kinds += ("layers", "depth") if layer == "all" else ("layers",)
    return kinds, layer


def _parse_kinds(write: str) -> tuple[str, ...]:
    """The kinds of files that --write names. Raises UsageError."""
    from coda_cli.explanation.naming import KINDS

    kinds = tuple(dict.fromkeys(k.strip() for k in write.split(",") if k.strip()))
    if kinds == ("none",):
        return ()
    if "none" in kinds:
        raise UsageError(f"--write {write}: none cannot be combined with other kinds")
    if unknown := [k for k in kinds if k not in KINDS]:
        raise UsageError(f"--write {unknown[0]}: choose from {', '.join(KINDS)}, or none")
    return kinds
