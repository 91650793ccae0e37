"""Options that several commands share, each defined once."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from coda_cli.cli.console import console
from coda_cli.errors import UsageError
from coda_cli.vocabulary import Fit, Precision, Style

Word = TypeVar("Word", bound=str)
FEW = 20  # up to this many inputs, each gets a line of its own without -v
WIDEST = 9999  # of windows that maps are averaged over, in pixels


def pictures_of_batch(batch_size: str) -> int | None:
    """What --batch-size asks for; None for auto. Raises UsageError."""
    if batch_size == "auto":
        return None
    if not batch_size.isdecimal() or int(batch_size) < 1:
        raise UsageError(f"--batch-size {batch_size}: expected auto, or a number from 1 on")
    return int(batch_size)


def full_colour(scale: str, words: tuple[Word, ...]) -> Word | float:
    """What --scale asks for: one of ``words``, or a number of logit units. Raises UsageError."""
    for word in words:
        if scale == word:
            return word
    try:
        value = float(scale)
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        raise UsageError(f"--scale {scale}: expected {', '.join(words)} or a positive number of logit units")
    return value


def odd(smooth: int) -> int:
    """The callback of --smooth: a window has a middle. Raises UsageError."""
    if smooth % 2 == 0:
        raise UsageError(f"--smooth {smooth}: expected an odd number of pixels")
    return smooth


def _sensible(check: float | None) -> float | None:
    if check is not None and not check <= 1e6:  # also NaN
        raise UsageError(f"--check {check}: expected a number up to 1e6")
    return check


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
Ema = Annotated[
    bool | None,
    typer.Option("--ema/--no-ema", show_default=False,
                 help="Of a trainer's file with both: the moving average of the weights [default], or the last ones."),
]  # fmt: skip
Device = Annotated[str, typer.Option("--device", metavar="auto|cpu|cuda[:n]|mps", help="Where to compute.")]
BatchSize = Annotated[
    str,
    typer.Option("--batch-size", metavar="auto|N", help="How many are computed together; less when memory runs out."),
]
Classes = Annotated[
    list[str] | None,
    typer.Option("--class", "-c", metavar="CLASS", help="What to explain [default: the predicted]."),
]
Versus = Annotated[
    str | None, typer.Option("--versus", metavar="CLASS", help="Explain the difference from this class.")
]
PrecisionOption = Annotated[
    Precision, typer.Option("--precision", help="bfloat16 is for the large matrix products only.")
]
Check = Annotated[
    float | None,
    typer.Option("--check", min=0, metavar="TOLERANCE", callback=_sensible, show_default=False,
                 help="Tolerated |residual| relative to the sum of |contributions| and |bias| [default: 1e-5, "
                 "float64 1e-10, bfloat16 5e-2]; beyond it the exit code is 4."),
]  # fmt: skip
Percentile = Annotated[
    float,
    typer.Option("--percentile", min=0, max=100, help="Of |contribution|: what --scale takes where it is no number."),
]
Alpha = Annotated[float, typer.Option("--alpha", min=0, max=1, help="Opacity of full colour in an overlay.")]
StyleOption = Annotated[
    Style, typer.Option("--style", help="Signed contributions, or the colour explanation of the B-cos papers.")
]
Smooth = Annotated[
    int,
    typer.Option("--smooth", min=1, max=WIDEST, metavar="N", callback=odd,
                 help="Odd window of the colour explanation, in the network's pixels."),
]  # fmt: skip
Recursive = Annotated[bool, typer.Option("--recursive", "-r", help="Look into sub-folders.")]
FitOption = Annotated[
    Fit,
    typer.Option("--fit", help="Centre crop as trained, the whole picture small, or the whole at its own size."),
]
Json = Annotated[bool, typer.Option("--json", help="Results as JSON on stdout, one object per line.")]
OutputFolder = Annotated[
    Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for what is written; made if needed.")
]
Offline = Annotated[bool, typer.Option("--offline", envvar="CODA_OFFLINE", help="Do not use the internet connection.")]
