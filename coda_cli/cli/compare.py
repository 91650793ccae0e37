"""``coda compare``: compare many methods on one picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coda_cli.checkpoints.manifest import DEFAULT
from coda_cli.cli.console import Advance, console
from coda_cli.cli.network import load_network
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
    Model,
    OutputFolder,
    Quiet,
    Recursive,
    Size,
    Std,
    Text,
    Verbose,
)
from coda_cli.errors import CodaError, ExitCode

if TYPE_CHECKING:
    from coda_cli.media.sources import Item
    from coda_cli.schema.comparisons import Comparison


def compare(
    sources: Annotated[
        list[str], typer.Argument(metavar="IMAGES...", help="Pictures, folders, or patterns in quotes.")
    ],
    model: Model = DEFAULT,
    classes: Classes = None,
    methods: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            metavar="NAME[:KEY=N,...]",
            help="Use this method, with parameters if wanted; can be repeated. The methods are listed above [default: "
            "all; occlusion and RISE in quicker forms].",
        ),
    ] = None,
    output: OutputFolder = Path("coda-out"),
    json: Json = False,
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
    """Compare the exact contributions with post-hoc methods.

    Writes a sheet with the maps of all methods for the same network, class and picture, and the same as arrays and
    JSON. Each map has its own scale, which is stated. Of methods whose maps are to sum to logit − bias, the sum is
    stated, and how far it is from that. Where no method is named, those that do not work with the network are left
    out, and a line says why: ours of a network whose logits cannot be split. Ours, occlusion and RISE come with coda;
    the others need captum, and LIME also scikit-learn and scikit-image.

    \b
    coda compare photo.jpg
    coda compare photo.jpg --method ours --method grad-cam --method occlusion:window=16,stride=8
    coda compare photo.jpg -m resnet50-11ad3fa6.pth --arch torchvision:resnet50

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
    from coda_cli.explanation.files import prepare, sweep
    from coda_cli.explanation.naming import Naming, refuse_collisions
    from coda_cli.explanation.request import Request
    from coda_cli.media.sources import resolve
    from coda_cli.study.by_name import METHODS, is_exact, method_of, require

    items = resolve(sources, recursive=recursive, leave_out=output, on_left_out=console.say)
    for method in methods or ():
        method_of(method)
    require(methods or METHODS)
    request = Request(tuple(classes or ()), fit=fit)
    explained = any(map(is_exact, methods)) if methods else None
    net = load_network(model, arch, device, request, explained=explained, ema=ema)
    request.targets(net)
    naming = Naming(output, net.checkpoint.name)
    refuse_collisions(
        items,
        lambda item: naming.path(item, "compare", "class", "0"),
        lambda *_: "compare them in two runs, with an --output each",
    )
    inputs = [item.path for item in items]
    prepare(output)
    sweep(*{output / item.subfolder for item in items})
    compare_one = partial(
        compare_file, net=net, request=request, methods=methods or (), naming=naming, force=force, inputs=inputs
    )
    if failures := _compare_all(items, compare_one, output, json):
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
    say(f"{item.name}: {record.explained.name}: {len(record.methods)} methods in {seconds:.1f} s{shared}")
    for name, reason in record.left_out.items():
        console.say(f"{item.name}: without {name}: {reason}")
    for m in record.methods:
        off = f"sum {m.sum:.4g}, off by {m.off:+.2g}" if m.complete else "its sum is no logit"
        console.detail(f"{item.name}: {m.method}: {off}")
