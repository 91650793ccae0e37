"""Options that several commands share, each defined once."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from coda_cli.cli import complete, said
from coda_cli.cli.console import console
from coda_cli.errors import UsageError
from coda_cli.vocabulary import Fit, Precision, Style

Word = TypeVar("Word", bound=str)
FEW = 20  # up to this many inputs, each gets a line of its own without -v
WIDEST = 9999  # greatest width of a window that maps are averaged over, in pixels


def pictures_of_batch(batch_size: str) -> int | None:
    """The number that --batch-size gives; None for auto. Raises UsageError."""
    if batch_size == "auto":
        return None
    if not batch_size.isdecimal() or int(batch_size) < 1:
        raise UsageError(f"--batch-size {batch_size}: expected auto, or a number from 1 on")
    return int(batch_size)


def full_colour(scale: str, words: tuple[Word, ...]) -> Word | float:
    """What --scale gives: one of ``words``, or a number of logit units. Raises UsageError."""
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
    """Check --smooth: a window has a middle only where it is odd. Raises UsageError."""
    if smooth % 2 == 0:
        raise UsageError(f"--smooth {smooth}: expected an odd number of pixels")
    return smooth


def _check_tolerance(check: float | None) -> float | None:
    """Check --check: a number that is not too large. Raises UsageError."""
    if check is not None and not check <= 1e6:  # also NaN
        raise UsageError(f"--check {check}: expected a number up to 1e6")
    return check


def _set_quiet(value: int) -> int:
    """Make the console print less."""
    if value:
        console.verbosity = -value
    return value


def set_verbose(value: int) -> int:
    """Make the console print more."""
    if value:
        console.verbosity = value
    return value


Quiet = Annotated[
    int,
    typer.Option(
        "--quiet",
        "-q",
        count=True,
        callback=_set_quiet,
        show_default=False,
        help="Print no progress and no summary; -qq prints errors only.",
    ),
]
Verbose = Annotated[
    int,
    typer.Option("--verbose", "-v", count=True, callback=set_verbose, show_default=False, help="Print more details."),
]
Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        metavar="NAME|FILE",
        autocompletion=complete.networks,
        help="Use this network: its name (see coda models list) or its file; efficientnet-lite0 (or 1, 2) where the "
        "extra lite is installed.",
    ),
]
Models = Annotated[
    list[str],
    typer.Option(
        "--model", "-m", metavar="NAME|FILE", autocompletion=complete.networks, help="Measure this network; repeatable."
    ),
]
Arch = Annotated[
    str | None,
    typer.Option(
        "--arch",
        metavar="NAME",
        help="Say which network a file of bare weights is of: a published configuration, torchvision:NAME, timm:NAME, "
        "efficientnet-lite0 (or 1, 2), or package.module:function, a function of yours that makes it and whose code is "
        "run.",
    ),
]
ClassNames = Annotated[
    Path | None,
    typer.Option(
        "--classes",
        metavar="FILE|FOLDER",
        callback=said.keep_classes,
        show_default=False,
        help="Name the classes of such a network: a file with a name on each line or JSON, or a folder of one folder "
        "a class [default: the names in its file].",
    ),
]
Mean = Annotated[
    str | None,
    typer.Option(
        "--mean",
        metavar="R,G,B",
        callback=said.keep_mean,
        show_default=False,
        help="Subtract this from pixels in [0, 1] for such a network [default: the library's, else ImageNet's].",
    ),
]
Std = Annotated[
    str | None,
    typer.Option(
        "--std",
        metavar="R,G,B",
        callback=said.keep_std,
        show_default=False,
        help="Divide by this deviation, then [default: as for --mean].",
    ),
]
Size = Annotated[
    str | None,
    typer.Option(
        "--size",
        metavar="CROP|RESIZE:CROP",
        callback=said.keep_size,
        show_default=False,
        help="Show such a network the centre of CROP pixels, of a picture whose shorter side was made RESIZE [default: "
        "the library's, else 256:224].",
    ),
]
Cut = Annotated[
    str | None,
    typer.Option(
        "--cut",
        metavar="LAYER|input",
        callback=said.keep_cut,
        show_default=False,
        help="Split the logits of an ordinary network at the output of this layer [default: the lowest that carries "
        "them].",
    ),
]
Text = Annotated[
    Path | None,
    typer.Option(
        "--text",
        metavar="FILE.npz",
        callback=said.keep_text,
        show_default=False,
        help="Take these texts as classes: names and vectors of CLIP's text encoder. The logit is the cosine.",
    ),
]
Device = Annotated[str, typer.Option("--device", metavar="auto|cpu|cuda[:n]|mps", help="Choose where to compute.")]
Ema = Annotated[
    bool | None,
    typer.Option(
        "--ema/--no-ema",
        show_default=False,
        help="Take the moving average of a trainer's weights [default], or the last weights, of a file with both.",
    ),
]
BatchSize = Annotated[
    str,
    typer.Option(
        "--batch-size", metavar="auto|N", help="Compute so many pictures together; fewer when memory runs out."
    ),
]
Classes = Annotated[
    list[str] | None,
    typer.Option(
        "--class",
        "-c",
        metavar="CLASS",
        autocompletion=complete.classes,
        help="Explain this class; can be repeated [default: the predicted class].",
    ),
]
Versus = Annotated[
    str | None,
    typer.Option(
        "--versus",
        metavar="CLASS",
        autocompletion=complete.one_class,
        help="Explain the logit of the class minus the logit of this class.",
    ),
]
PrecisionOption = Annotated[
    Precision,
    typer.Option("--precision", help="Compute in this precision; in bfloat16 only the large matrix products."),
]
Check = Annotated[
    float | None,
    typer.Option(
        "--check",
        min=0,
        metavar="TOLERANCE",
        callback=_check_tolerance,
        show_default=False,
        help="Tolerate a |residual| of this share of the sum of |contributions| and |bias|; above it the exit code is "
        "4 [default: 1e-5, float64 1e-10, bfloat16 5e-2].",
    ),
]
Percentile = Annotated[
    float,
    typer.Option(
        "--percentile",
        min=0,
        max=100,
        help="Take this percentile of |contribution| as full colour, where --scale is not a number.",
    ),
]
Alpha = Annotated[
    float, typer.Option("--alpha", min=0, max=1, help="Draw full colour in an overlay with this opacity.")
]
StyleOption = Annotated[
    Style, typer.Option("--style", help="Draw signed contributions, or the colour explanation of the B-cos papers.")
]
Smooth = Annotated[
    int,
    typer.Option(
        "--smooth",
        min=1,
        max=WIDEST,
        metavar="N",
        callback=odd,
        help="Smooth the colour explanation over N x N pixels of the network; N is odd.",
    ),
]
Window = Annotated[
    int,
    typer.Option(
        "--smooth",
        min=1,
        max=WIDEST,
        metavar="N",
        callback=odd,
        help="Average maps over a window of N x N pixels first; N is odd.",
    ),
]
Recursive = Annotated[bool, typer.Option("--recursive", "-r", help="Look into sub-folders, too.")]
FitOption = Annotated[
    Fit,
    typer.Option(
        "--fit",
        help="Show the network the centre, as in training (crop), the whole picture made small (pad), or the whole "
        "picture at its own size (native).",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print results as JSON on stdout, one object on each line.")]
OutputFolder = Annotated[
    Path, typer.Option("--output", "-o", metavar="DIR", help="Write into this folder; it is made if needed.")
]
Offline = Annotated[bool, typer.Option("--offline", help="Do not use the internet connection.")]
Force = Annotated[bool, typer.Option("--force", "-f", help="Replace files that exist.")]
Methods = Annotated[
    list[str],
    typer.Option(
        "--method", metavar="NAME[:KEY=N,...]", help="Make maps by this method; repeatable; see coda compare --help."
    ),
]
AllPictures = Annotated[
    bool, typer.Option("--all", help="Use all pictures of a folder without test/ or val/, not every tenth.")
]
ScoresFile = Annotated[
    Path | None,
    typer.Option(
        "--scores",
        metavar="FILE",
        help="Write every score to this file; the same command, run again, continues where it stopped.",
    ),
]
Plot = Annotated[
    Path | None, typer.Option("--plot", metavar="FILE", help="Draw the figure of the paper (needs matplotlib).")
]
