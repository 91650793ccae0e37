"""``coda compare``: compare many methods on one picture."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coda_cli.checkpoints.manifest import DEFAULT
from coda_cli.cli import complete
from coda_cli.cli.console import Advance, console, counted
from coda_cli.cli.network import load_networks
from coda_cli.cli.options import (
    FEW,
    Arch,
    Classes,
    ClassNames,
    Cut,
    Device,
    Ema,
    FitOption,
    Force,
    Json,
    Mean,
    OutputFolder,
    Quiet,
    Recursive,
    Size,
    Std,
    Text,
    Verbose,
)
from coda_cli.cli.regions import Boxes, Labels, Masks, RegionFile, regions_of_pictures
from coda_cli.errors import CodaError, ExitCode, UsageError

if TYPE_CHECKING:
    from coda_cli.media.sources import Item
    from coda_cli.schema.comparisons import Comparison

DEFAULTS, OURS = [Path(DEFAULT)], ["ours"]


def compare(
    sources: Annotated[
        list[str], typer.Argument(metavar="IMAGES...", help="Pictures, folders, or patterns in quotes.")
    ],
    models: Annotated[
        list[Path],
        typer.Option(
            "--model",
            "-m",
            metavar="NAME|FILE",
            autocompletion=complete.networks,
            help="Use this network: its name (see coda models list) or its file; several are compared.",
        ),
    ] = DEFAULTS,
    classes: Classes = None,
    methods: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            metavar="NAME[:KEY=N,...]",
            help="Use this method, with parameters if wanted; can be repeated. The methods are listed above [default: "
            "all; occlusion and RISE in quicker forms; of several networks, ours].",
        ),
    ] = None,
    output: OutputFolder = Path("coda-out"),
    json: Json = False,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html",
            metavar="FILE",
            show_default=False,
            help="Also write all maps into one page for a browser, where they can be read and summed.",
        ),
    ] = None,
    boxes: Boxes = None,
    masks: Masks = None,
    labels: Labels = None,
    annotations: RegionFile = None,
    fit: FitOption = "crop",
    recursive: Recursive = False,
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
    quiet: Quiet = 0,
    verbose: Verbose = 0,
) -> None:
    """Compare the exact contributions with post-hoc methods, or several networks.

    Writes a sheet with the maps of all methods for the same network, class and picture, and the same as arrays and
    JSON. Each map has its own scale, which is stated. Of methods whose maps are to sum to logit − bias, the sum is
    stated, and how far it is from that. Where no method is named, those that do not work with the network are left
    out, and a line says why: ours of a network whose logits cannot be split. Ours, occlusion and RISE come with coda;
    the others need captum, and LIME also scikit-learn and scikit-image.

    With several networks the sheet has a row for each: its own prediction, the sum that makes its logit, and its map;
    with several methods, all maps of all networks. Without a class, each is explained for its own prediction. Where the
    first and another network have the class, by name, their maps are subtracted: the difference adds up to the
    difference of the logits less that of the constants. A network that does not have a class is left out for it. What
    lies in a region is said for each network.

    \b
    coda compare photo.jpg
    coda compare photo.jpg --method ours --method grad-cam --method occlusion:window=16,stride=8
    coda compare photo.jpg -m resnet50-11ad3fa6.pth --arch torchvision:resnet50
    coda compare photo.jpg --html methods.html
    coda compare photo.jpg -m imagenette -m imagenet --class church
    coda compare photo.jpg -m imagenette -m imagenet --class church --box tower=200,10,280,200

    \b
    Methods, with their parameters and defaults. These are the published values, except for occlusion, where the
    published 5, 9 and 50 are window=4,stride=2, window=8,stride=2 and window=80,stride=20. Where no method is named,
    occlusion and RISE are used in quicker forms.
      ours
      gradient:absolute=0,channels=3
      input-x-gradient:channels=3
      integrated-gradients:steps=20,channels=3
      deeplift:channels=3
      grad-cam
      guided-backprop:channels=3
      occlusion:window=32,stride=32
      rise:masks=6000,cells=6,kept=0.1,seed=42
      lime:samples=256,features=3,kernel=1.0,seed=42
    """
    from coda_cli.explanation.compare import compare as compare_file
    from coda_cli.explanation.files import sweep
    from coda_cli.explanation.naming import Naming, refuse_collisions
    from coda_cli.explanation.networks import compare_networks, most_shown, notes_on_classes
    from coda_cli.explanation.request import Request
    from coda_cli.media.files import prepare
    from coda_cli.media.sources import resolve
    from coda_cli.study.by_name import METHODS, is_exact, method_of, require

    items = resolve(sources, recursive=recursive, leave_out=output, on_left_out=console.say)
    for method in methods or ():
        method_of(method)
    if len(models) > 1:
        methods = methods or OURS
    require(methods or METHODS)
    regions = regions_of_pictures(boxes, masks, labels, annotations, len(items))
    if regions and (len(models) == 1 or not any(map(is_exact, methods or ()))):
        raise UsageError("regions are summed in our maps of several networks; coda explain sums those of one")
    request = Request(tuple(classes or ()), fit=fit, regions=regions)
    explained = any(map(is_exact, methods)) if methods else None
    first = request if len(models) == 1 else Request(fit=fit)
    nets = load_networks(list(map(str, models)), arch, device, first, explained=explained, ema=ema)
    if len(nets) == 1:
        request.targets(nets[0])
    for sentence in notes_on_classes(nets, request) if len(nets) > 1 else ():
        console.warn(sentence)
    naming = Naming(output, nets[0].checkpoint.name)
    refuse_collisions(
        items,
        lambda item: naming.path(item, "compare", "class", "0"),
        lambda *_: "compare them in two runs, with an --output each",
    )
    inputs = [item.path for item in items]
    page = None
    if html is not None:
        from coda_cli.explanation.page.comparison import ComparisonPage

        maps = len(items) * most_shown(nets, request) * len(methods or METHODS)
        page = ComparisonPage(html, maps, force=force, inputs=inputs)
    prepare(output)
    sweep(*{output / item.subfolder for item in items})
    networks = partial(compare_file, net=nets[0]) if len(nets) == 1 else partial(compare_networks, nets=nets)
    compare_one = partial(
        networks,
        request=request,
        methods=methods or (),
        naming=naming,
        force=force,
        inputs=inputs,
        on_result=page.add if page else None,
    )
    with page or contextlib.nullcontext():
        failures = _compare_all(items, compare_one, output, json)
        if page and (written := page.finish()):
            (console.say if json else console.result)(f"{written}: the page" if json else str(written))
    if failures:
        raise typer.Exit(max(failures))


def _compare_all(
    items: Sequence[Item], compare_one: Callable[..., Iterator[Comparison]], output: Path, json: bool
) -> set[ExitCode]:
    """Compare the methods on every input, and print what happens; returns the exit codes of failures."""
    from coda_cli.schema.comparisons import FailedComparison
    from coda_cli.schema.parts import to_json

    failures: set[ExitCode] = set()
    with console.progress("comparing", " pictures") as advance:

        def of_picture(n: int) -> Advance:
            """Progress within one picture, as a share of it."""
            return lambda done, of: advance(n + done / of, len(items))

        for n, item in enumerate(items):
            try:
                for record in compare_one(item, on_method=of_picture(n)):
                    console.result(to_json(record) if json else str(output / record.files["png"]))
                    _describe(item, record, many=len(items) > FEW)
                    if not all(_adds_up(one) and _regions_add_up(one) for one in (record, *record.others)):
                        failures.add(ExitCode.INEXACT)
            except CodaError as error:
                console.error(str(error))
                if json:
                    console.result(to_json(FailedComparison.of(item.name, error)))
                advance(n + 1, len(items))
                failures.add(ExitCode.INEXACT if error.exit_code == ExitCode.INEXACT else ExitCode.FAILED)
    return failures


def _describe(item: Item, record: Comparison, many: bool) -> None:
    """Print for people what a record says; with ``many`` inputs little, unless -v is given."""
    seconds = sum(m.seconds for m in record.methods) * record.together
    shared = f" for {record.together} classes together" if record.together > 1 else ""
    say = console.detail if many else console.say
    say(f"{item.name}: {record.explained.name}: {counted(len(record.methods), 'method')} in {seconds:.1f} s{shared}")
    for name, reason in record.left_out.items():
        console.say(f"{item.name}: without {name}: {reason}")
    for m in record.methods:
        off = f"sum {m.sum:.4g}, off by {m.off:+.2g}" if m.complete else "its sum is no logit"
        console.detail(f"{item.name}: {m.method}: {off}")
    if record.others:
        _describe_networks(item, record, say)


def _adds_up(record: Comparison) -> bool:
    """Whether the difference to the first network's map, where there is one, adds up."""
    changes = record.difference.targets if record.difference else ()
    return all(target.map is None or target.map.exact for target in changes)


def _regions_add_up(record: Comparison) -> bool:
    """Whether regions and rest, where there are any, add up."""
    return record.regions is None or record.regions.exact


def _describe_networks(item: Item, record: Comparison, say: Callable[[str], None]) -> None:
    """Print for people what every network says of a picture, and what changes from the first to the others."""
    from coda_cli.explanation.phrases import (
        equation,
        map_change_text,
        predicted_text,
        regions_change_text,
        regions_text,
        told_apart,
    )

    every = (record, *record.others)
    labels = told_apart([one.network.name for one in every])
    for label, one in zip(labels, every, strict=True):
        made_of = equation(one.sums) if one.sums else f"{one.explained.name}: logit {one.logit:.3f}"
        say(f"  {label}: {predicted_text(one)}; {made_of}")
        if one.regions:
            say(f"    {regions_text(one.regions)}; residual {one.regions.residual:.1e}")
        for target in one.difference.targets if one.difference else ():
            if target.map:
                say(f"  {label} minus {labels[0]}: {map_change_text(target, target.map)}")
            if target.regions:
                say(f"    {regions_change_text(target)}")
        if not _adds_up(one):
            console.error(f"{item.name}: NOT EXACT: the difference of {label} and {labels[0]} does not add up")
        if not _regions_add_up(one):
            console.error(f"{item.name}: NOT EXACT: regions and rest of {label} do not add up to its logit")
        if one.difference and not one.difference.targets:
            say(f"  {label} is explained for another class than {labels[0]}: the maps are not subtracted")
