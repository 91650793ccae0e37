"""Load the network that a command works with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from coda_cli.cli.console import console
from coda_cli.cli.said import said_of_network
from coda_cli.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from coda_cli.checkpoints.loading import Net
    from coda_cli.explanation.request import Request


def say_assumed(net: Net) -> None:
    """Say what the network's file could not tell; with -q only which of two sets of weights was taken."""
    from coda_cli.checkpoints.unpickling import AVERAGE_TAKEN, WEIGHTS_TAKEN

    for assumption in net.assumed:
        say = console.warn if assumption in (AVERAGE_TAKEN, WEIGHTS_TAKEN) else console.say
        say(f"{net.path.name}: {assumption}")


def _about_cut(net: Net) -> str:
    """What a cut means for the maps."""
    from coda_cli.core.abilities import is_ordinary

    if not is_ordinary(net.model):
        return (
            f"a hybrid; contributions are exact at {net.cut}, the output of its backbone, and spread over the pixels "
            "from there; nothing below it is exact"
        )
    if net.cut == "input":
        return "an ordinary network, split over its input: what its layers add can be most of a logit, see each line"
    return (
        f"an ordinary network; logits are split at {net.cut} and spread over the pixels from there (--cut names "
        "another layer, --layer all shows how much each layer carries)"
    )


def load_network(
    model: str,
    arch: str | None,
    device: str,
    request: Request,
    *,
    explained: bool | None = True,
    ema: bool | None = None,
    said: bool = True,
    weights: bool = True,
) -> Net:
    """Load the network and say what was assumed; what can be checked without it is checked first.

    ``explained`` says whether its logits are to be split: only then the cut of an ordinary network is looked for. None
    is where that can be done; else the network is there without a cut, for methods that need none. Without ``said``,
    what options say of the network does not count. Without ``weights`` they are read only where nothing else tells what
    the network is: it can explain nothing then.
    """
    from coda_cli.checkpoints.manifest import known
    from coda_cli.checkpoints.targets import Targets

    of_network = said_of_network()
    if model in known() and not of_network.get("text"):  # a wrong class name is found before the network is loaded
        Targets(request.classes, request.versus, known()[model].checkpoint)
    from coda_cli.checkpoints.loading import load, with_cut
    from coda_cli.core.abilities import is_ordinary
    from coda_cli.core.cuts import AUTO
    from coda_cli.explanation.record import view_notes
    from coda_cli.machine.devices import emulated, pick
    from coda_cli.machine.precision import DTYPES

    where, dtype = pick(device, request.precision), DTYPES[request.precision]
    if not weights and arch is None and ema is None and not any(of_network.get(key) for key in _OF_BARE):
        from coda_cli.checkpoints.outline import outline

        if found := outline(model):
            return found
    if emulated(request.precision, where):
        console.say(f"this processor only emulates {request.precision}, slowly; --precision float32 is faster")
    own = {**(of_network if said else {}), "cut": None}
    net = load(model, arch=arch, device=where, dtype=dtype, ema=ema, **own)
    say_assumed(net)
    if explained is not False:
        cut = of_network.get("cut", AUTO) if said or is_ordinary(net.model) else AUTO
        try:
            net = with_cut(net, cut)
        except CheckpointError:
            if explained or cut != AUTO:
                raise
    if net.cut:
        console.say(f"{net.checkpoint.name}: {_about_cut(net)}")
    for note in view_notes(net, request.fit):
        console.say(f"--fit {request.fit}: {note}")
    console.detail(f"network {net.checkpoint.name}, sha256 {net.sha256[:12]}")
    return net


_OF_BARE = ("classes", "mean", "std", "size", "text")  # what is said of a file of bare weights


def load_networks(
    models: Sequence[str], arch: str | None, device: str, request: Request, *, explained: bool | None, ema: bool | None
) -> list[Net]:
    """Load several networks; what options say of a network is for those whose files do not describe themselves.

    Raises UsageError for a network that is named twice.
    """
    if twice := [model for model in models if list(models).count(model) > 1]:
        raise UsageError(f"--model {twice[0]}: is given twice")
    several, nets = len(models) > 1, []
    for model in models:
        bare = not (several and _describes_itself(model))
        own_arch, own_ema = (arch, ema) if bare else (None, None)
        nets.append(load_network(model, own_arch, device, request, explained=explained, ema=own_ema, said=bare))
    return nets


def _describes_itself(model: str) -> bool:
    """Whether a network is one that coda knows by name, or coda's own file, which holds its description."""
    from coda_cli.checkpoints.headers import read_metadata
    from coda_cli.checkpoints.manifest import METADATA_KEY, known

    path = Path(model)
    return model in known() or (
        path.suffix == ".safetensors" and path.is_file() and METADATA_KEY in read_metadata(path)
    )
