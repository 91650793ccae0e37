"""Options that several commands share, each defined once."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from coda_cli.cli.console import console
from coda_cli.errors import UsageError


class Fit(StrEnum):
    """How a picture is shown to the network."""

    crop = "crop"
    pad = "pad"
    native = "native"


def number_together(batch_size: str) -> int | None:
    """What --batch-size asks for; None for auto. Raises UsageError."""
    if batch_size == "auto":
        return None
    if not batch_size.isdecimal() or int(batch_size) < 1:
        raise UsageError(f"--batch-size {batch_size}: expected auto, or a number from 1 on")
    return int(batch_size)


def _set_quiet(value: int) -> int:
    if value:
        console.verbosity = -value
    return value


def _set_verbose(value: int) -> int:
    if value:
        console.verbosity = value
    return value


Quiet = Annotated[
    int,
    typer.Option("--quiet", "-q", count=True, callback=_set_quiet, show_default=False,
                 help="No progress and no summary; twice: errors only."),
]  # fmt: skip
Verbose = Annotated[
    int,
    typer.Option("--verbose", "-v", count=True, callback=_set_verbose, show_default=False, help="Say more."),
]
Model = Annotated[
    str,
    typer.Option("--model", "-m", envvar="CODA_MODEL", metavar="NAME|FILE",
                 help="A network's name (see: coda models list) or its file."),
]  # fmt: skip
Arch = Annotated[
    str | None,
    typer.Option("--arch", metavar="NAME", help="The published configuration that a file of bare weights belongs to."),
]
Device = Annotated[str, typer.Option("--device", metavar="auto|cpu|cuda[:n]|mps", help="Where to compute.")]
BatchSize = Annotated[
    str,
    typer.Option("--batch-size", metavar="auto|N", help="How many are computed together; less when memory runs out."),
]
FitOption = Annotated[
    Fit,
    typer.Option("--fit", help="Centre crop as trained, the whole picture small, or the whole at its own size."),
]
Json = Annotated[bool, typer.Option("--json", help="Results as JSON on stdout, one object per line.")]
OutputFolder = Annotated[
    Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for what is written; made if needed.")
]
Offline = Annotated[bool, typer.Option("--offline", envvar="CODA_OFFLINE", help="Never touch the network.")]
