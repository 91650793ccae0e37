"""Load the network that a command works with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from coda_cli.cli.console import console

if TYPE_CHECKING:
    from coda_cli.checkpoints.loading import Net
    from coda_cli.explanation.request import Request


def say_assumed(net: Net) -> None:
    """Say what the network's file could not tell; with -q only which of two sets of weights was taken."""
    from coda_cli.checkpoints.unpickling import AVERAGE_TAKEN, WEIGHTS_TAKEN

    for assumption in net.assumed:
        say = console.warn if assumption in (AVERAGE_TAKEN, WEIGHTS_TAKEN) else console.say
        say(f"{net.path.name}: {assumption}")


def load_network(
    model: str,
    arch: str | None,
    device: str,
    request: Request,
    *,
    exact: bool = True,
    ema: bool | None = None,
    text: Path | None = None,
) -> Net:
    """Load the network and say what was assumed; what can be checked without it is checked first."""
    from coda_cli.checkpoints.manifest import SUMMED, known
    from coda_cli.checkpoints.targets import Targets

    if model in known() and text is None:  # a wrong class name is found before the network is loaded
        Targets(request.classes, request.versus, known()[model].checkpoint)
    from coda_cli.checkpoints.loading import load
    from coda_cli.machine.devices import pick
    from coda_cli.machine.precision import DTYPES

    where, dtype = pick(device, request.precision), DTYPES[request.precision]
    net = load(model, arch=arch, device=where, dtype=dtype, exact=exact, ema=ema, text=text)
    say_assumed(net)
    if net.cut:
        console.say(
            f"{net.checkpoint.name}: a hybrid; contributions are exact at {net.cut}, the output of its backbone, and "
            "spread over the pixels from there; nothing below it is exact"
        )
    if request.fit == "native" and net.checkpoint.architecture in SUMMED:
        console.say(
            f"--fit native: logits of {net.checkpoint.name} are sums over the picture and grow with its area; its "
            "classes and probabilities were not trained at this size"
        )
    console.detail(f"network {net.checkpoint.name}, sha256 {net.sha256[:12]}")
    return net
