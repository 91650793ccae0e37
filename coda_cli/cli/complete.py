"""What the Tab key completes: networks, the classes of the network on the line, and its layers. Imports no torch.

Whatever goes wrong, nothing is completed: a message would stand in the middle of the line that is being typed. Where a
path is typed nothing is completed either, and the shell completes files.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer
from typer.core import TyperGroup

from coda_cli.checkpoints.packages import PACKAGED
from coda_cli.cli import configured

if TYPE_CHECKING:
    from coda_cli.checkpoints.manifest import Checkpoint

_MANY = {"top:5": "the five highest", "all": "all classes"}
_TYPED = re.compile(r"[\w.:+-]+")  # what shells leave as it is
Found = TypeVar("Found")


def _quiet(find: Callable[[typer.Context, str], list[Found]]) -> Callable[[typer.Context, str], list[Found]]:
    """Complete nothing where anything fails: the line is half-written, and an error would be printed into it."""

    @wraps(find)
    def found(context: typer.Context, incomplete: str) -> list[Found]:
        try:
            return find(context, incomplete)
        except Exception:
            return []

    return found


@_quiet
def networks(context: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """The names of networks that are on this machine."""
    from coda_cli.checkpoints.manifest import known

    found = {name: entry.checkpoint.architecture for name, entry in known().items() if entry.here}
    return [*found.items(), *((name, "needs the extra lite") for name in PACKAGED)]


@_quiet
def published(context: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """The names of all networks that coda knows."""
    from coda_cli.checkpoints.manifest import known

    return [(name, entry.checkpoint.architecture) for name, entry in known().items()]


@_quiet
def classes(context: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """The classes of the network on the line, written as ``--class`` takes them: spaces as hyphens."""
    checkpoint = _checkpoint(context)
    names = [(re.sub(r"\s+", "-", name), str(n)) for n, name in enumerate(checkpoint.classes)]
    found = [(name, n) for name, n in names if name.startswith(incomplete)]
    # Shells replace what was typed only by what begins with it: Golf is completed to Golf-ball.
    folded = [(incomplete + name[len(incomplete) :], n) for name, n in names if _begins(name, incomplete)]
    found = found or folded
    return [*((name, n) for name, n in found if _TYPED.fullmatch(name)), *_MANY.items()]


def _begins(name: str, typed: str) -> bool:
    """Whether a name begins with what was typed, in capitals or not."""
    return name.casefold().startswith(typed.casefold())


def one_class(context: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """The same where there can be only one."""
    return [found for found in classes(context, incomplete) if found[0] not in _MANY]


@_quiet
def layers(context: typer.Context, incomplete: str) -> list[str]:
    """The layers of the network on the line."""
    return ["all", "input", *_layers(context)]


@_quiet
def neurons(context: typer.Context, incomplete: str) -> list[str]:
    """The same, as a neuron begins."""
    return [form for name in _layers(context) for form in (f"{name}:", f"{name}:top:5")]


def _layers(context: typer.Context) -> list[str]:
    """The layers that a network's file has tensors of, and those between them, in their order."""
    from coda_cli.checkpoints.headers import read_header
    from coda_cli.checkpoints.manifest import STANDARD

    checkpoint, found = _checkpoint(context), dict[str, None]()
    around = "backbone." if checkpoint.architecture in STANDARD else "above."  # the layers have no names for that
    keys = read_header(_file(context)).shapes
    above = [key.removeprefix(around) for key in keys if not key.startswith("below.")]
    paths = sorted({re.sub(r"(.*\.\d+)?\..*$", r"\1", key) or key for key in above}, key=_natural)
    for path in paths:
        before, dot, number = path.rpartition(".")
        # A layer without weights, such as a pooling, has no tensors.
        for n in range(int(number) + 1) if dot and number.isdecimal() else ():
            found.setdefault(f"{before}.{n}")
        found.setdefault(path)
    cut = checkpoint.arguments.get("cut")
    return [*([cut] if isinstance(cut, str) else []), *found]


def _natural(text: str) -> list[tuple[bool, int, str]]:
    """A key by which layers.10 comes after layers.9."""
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in text.split(".")]


def _checkpoint(context: typer.Context) -> Checkpoint:
    """The description of the network on the line. Raises an error where its file has none."""
    from coda_cli.checkpoints.headers import read_metadata
    from coda_cli.checkpoints.manifest import METADATA_KEY, known, parse_checkpoint

    name = _network(context)
    if name in (entries := known()):
        return entries[name].checkpoint
    return parse_checkpoint(read_metadata(path := _file(context))[METADATA_KEY], str(path))


def _file(context: typer.Context) -> Path:
    """The file of the network on the line."""
    from coda_cli.checkpoints.folders import trained_in
    from coda_cli.checkpoints.manifest import known

    name = _network(context)
    return entries[name].path if name in (entries := known()) else trained_in(Path(name))


def _network(context: typer.Context) -> str:
    """The network on the line, else the one that a file or a variable sets, else the default; of several the first."""
    option = configured.options_of(context.command)["model"]  # type: ignore[arg-type]
    source = context.get_parameter_source(option.name)
    value: Any = context.params.get(option.name)
    if source is None or source.name == "DEFAULT":
        root = context.find_root()
        assert isinstance(root.command, TyperGroup)
        configured.read(root.command, root.params.get("config"))
        setting = configured.SETTINGS.found.get((configured.words_of(context), option.name))
        value = setting.value if setting else value
    # The shell replaces ~ and $HOME only when the line is run.
    return os.path.expanduser(os.path.expandvars(str(value[0] if isinstance(value, list | tuple) else value)))
