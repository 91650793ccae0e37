"""``coda demo``: a page on which a picture or a clip is dropped and explained."""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coda_cli.cli import complete
from coda_cli.cli.console import console
from coda_cli.cli.network import load_network, load_networks
from coda_cli.cli.options import Arch, ClassNames, Cut, Device, Ema, Mean, Quiet, Size, Std, Text, Verbose
from coda_cli.cli.said import said_of_network
from coda_cli.errors import UsageError

if TYPE_CHECKING:
    from coda_cli.checkpoints.loading import Net
    from coda_cli.explanation.demo.networks import Networks

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def demo(
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            metavar="NAME|FILE",
            autocompletion=complete.networks,
            show_default=False,
            help="Offer this network: its name (see coda models list) or its file; can be repeated [default: all that "
            "are here].",
        ),
    ] = None,
    host: Annotated[
        str, typer.Option("--host", metavar="ADDRESS", help="Serve at this address; 0.0.0.0 is for the whole network.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Serve at this port; 0 takes a free one.")
    ] = 7860,
    upload_limit: Annotated[
        int, typer.Option("--upload-limit", min=1, max=512, metavar="MB", help="Take files of at most so many MB.")
    ] = 50,
    share: Annotated[
        bool,
        typer.Option("--share", help="Also make a public link, by Gradio's service: everyone who has it can use it."),
    ] = False,
    device: Device = "auto",
    arch: Arch = None,
    ema: Ema = None,
    class_names: ClassNames = None,
    mean: Mean = None,
    std: Std = None,
    cut: Cut = None,
    size: Size = None,
    text: Text = None,
    quiet: Quiet = 0,
    verbose: Verbose = 0,
) -> None:
    """Serve a page for a browser: drop a picture or a clip, and read what each pixel contributes.

    Needs Gradio (pip install 'coda-cli[demo]'). Only this machine reaches the page, unless --host or --share says
    otherwise. Files of visitors are removed when they leave, and all of them when the page ends, with Ctrl-C.

    \b
    coda demo
    coda demo -m imagenet -m run/photos.safetensors --port 8000
    """
    if find_spec("gradio") is None:
        raise UsageError("the demo needs Gradio: pip install 'coda-cli[demo]'")
    from coda_cli.explanation.demo.server import bound, serve

    with bound(host, port) as listening:
        networks = _offered(models, device, arch, ema)
        if host not in LOOPBACK:
            console.warn(f"--host {host}: whoever reaches this address can have pictures and clips explained here")
        serve(networks, listening, host, upload_limit * 1_000_000, share, console.result)


def _offered(models: list[str] | None, device: str, arch: str | None, ema: bool | None) -> Networks:
    """The networks that are offered: those that were named, which are loaded now, or all that are here."""
    from coda_cli.checkpoints.manifest import DEFAULT, known
    from coda_cli.checkpoints.packages import PACKAGED, packaged_file
    from coda_cli.explanation.demo.networks import Networks
    from coda_cli.explanation.request import Request

    if models:
        shown = [Path(model).name if Path(model).exists() else model for model in models]
        if twice := [name for name in shown if shown.count(name) > 1]:
            raise UsageError(f"--model: two networks are called {twice[0]}; visitors see no folders, so rename one")
        nets = load_networks(models, arch, device, Request(), explained=True, ema=ema)
        loaded: dict[str, Net] = dict(zip(shown, nets, strict=True))
        return Networks(shown, loaded.__getitem__, len(shown))
    said = {**said_of_network(), "arch": arch, "ema": ema}
    if any(value is not None and (name, value) != ("cut", "auto") for name, value in said.items()):
        raise UsageError("--arch, --classes and their like say what a file is; name the file with -m")
    here = [name for name, entry in known().items() if entry.here and name != DEFAULT]
    packaged = [name for name in PACKAGED if packaged_file(name)]
    networks = Networks(
        [DEFAULT, *here, *packaged], partial(load_network, arch=None, device=device, request=Request(), said=False)
    )
    networks[DEFAULT]  # so that the first visitor need not wait for it
    return networks
