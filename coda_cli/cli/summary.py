"""``coda summary``: many records in numbers; ``coda merge``: those of the shards of one run, and what is missing.

They read what ``coda explain`` wrote instead of explaining first: ``coda explain photos/ -o out/ && coda summary
out/`` does both, a second summary costs nothing, and neither the pictures nor the network are needed for it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coda_cli.cli.console import console
from coda_cli.cli.options import Force, Json, Quiet, Recursive, Verbose
from coda_cli.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from coda_cli.explanation.summary.run import Asked
    from coda_cli.schema.shards import Missing
    from coda_cli.schema.summaries import Summary

MOST_TOLD = 20  # shards that are named one by one


Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="DIR",
        show_default=False,
        help="Write summary.csv, a line for each picture, and summary.json into this folder [default: write nothing].",
    ),
]
Parquet = Annotated[bool, typer.Option("--parquet", help="Write summary.parquet, too (needs the extra parquet).")]
LabelFile = Annotated[
    Path | None,
    typer.Option(
        "--labels",
        metavar="FILE.csv",
        show_default=False,
        help="Take what the pictures show from this file of lines path,label [default: the names of their folders, "
        "where those are classes].",
    ),
]
NoLabels = Annotated[bool, typer.Option("--no-labels", help="Do not take folders for classes.")]
Top = Annotated[int, typer.Option("--top", min=0, max=10_000, help="Show so many pictures of each kind.")]


def summary(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="RECORDS...",
            help="Folders and files that coda explain wrote (*.coda.json), or lines of coda explain --json; - reads "
            "those from stdin.",
        ),
    ],
    output: Output = None,
    parquet: Parquet = False,
    labels: LabelFile = None,
    no_labels: NoLabels = False,
    top: Top = 10,
    json: Json = False,
    recursive: Recursive = False,
    force: Force = False,
    quiet: Quiet = 0,
    verbose: Verbose = 0,
) -> None:
    """Summarise what coda explain wrote: accuracy, evidence inside regions, and pictures worth a look.

    \b
    coda explain photos/ -r -o out/ --mask masks/ && coda summary out/ -r
    coda summary out/ -r -o report/ --parquet
    coda explain photos/ -r --json --write none | coda summary - --json | jq .overall.accuracy
    coda summary out/ --labels labels.csv --top 20
    """
    from coda_cli.explanation.summary.run import Asked

    _summarise(Asked(sources, recursive, labels, not no_labels, top, output, parquet, force), no_labels, json)


def merge(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="OUTPUTS...",
            help="The output folders of the shards of one run, sub-folders included, or their lines of coda explain "
            "--json.",
        ),
    ],
    output: Output = None,
    parquet: Parquet = False,
    labels: LabelFile = None,
    no_labels: NoLabels = False,
    top: Top = 10,
    json: Json = False,
    force: Force = False,
    quiet: Quiet = 0,
    verbose: Verbose = 0,
) -> None:
    """Summarise what the shards of one run wrote, and say what is missing of it.

    The numbers are those of coda summary -r. The exit code is 1 where a shard has not ended, or pictures failed or have
    no record.

    \b
    for i in 1 2 3; do coda explain photos/ -r -o out/ --shard $i/3; done; coda merge out/ -o report/
    coda merge shard-*.jsonl --json | jq .missing
    """
    from coda_cli.explanation.summary.run import Asked

    asked = Asked(sources, True, labels, not no_labels, top, output, parquet, force, shards=True)
    _summarise(asked, no_labels, json)


def _summarise(asked: Asked, no_labels: bool, json: bool) -> None:
    """Print a summary, and exit with the right code. Raises CodaError."""
    from coda_cli.cli.summary_table import lines
    from coda_cli.errors import MediaError
    from coda_cli.explanation.summary.run import summarise
    from coda_cli.schema.parts import to_json

    if asked.parquet and asked.output is None:
        raise UsageError("--parquet writes a file; add --output DIR")
    if asked.labels is not None and no_labels:
        raise UsageError("--labels and --no-labels exclude each other; choose one")
    if "-" in asked.sources and sys.stdin is None:  # closed by the shell
        raise UsageError("- reads records from stdin, which is closed; pipe them in, or name the files")
    if "-" in asked.sources and sys.stdin.isatty():
        raise UsageError("- reads records from stdin, which is a terminal; pipe them in, or name the files")

    def say_error(error: MediaError) -> None:
        """Print what is no record."""
        console.error(str(error))

    with console.progress("reading records", " files") as advance:
        found = summarise(asked, sys.stdin.buffer, say_error, advance)
    for line in [to_json(found)] if json else lines(found):
        console.result(line)
    _tell(found, asked.output, asked.labels)


def _tell(found: Summary, output: Path | None, labels: Path | None) -> None:
    """Say on stderr what the numbers do not show, and exit with the right code."""
    if labels is not None and not found.overall.labelled:
        console.warn(f"{labels}: names none of the pictures; their paths are in the records, under source")
    if found.no_classes and found.labels == "folders":
        names = ", ".join(f"{name} ({n})" for name, n in found.no_classes.items())
        console.warn(f"no label: the records show no class that is called as these folders: {names}; see --labels")
    if len(found.networks) > 1:
        console.warn(f"the records are of {len(found.networks)} networks, {found.networks[0].name} among them")
    if found.settings > 1:
        console.say(f"the records are of {found.settings} different settings")
    if found.failed:
        console.say(f"{found.failed} pictures could not be explained, as their records say")
    for name in found.files.values():
        console.say(f"written: {(output or Path()) / name}")
    if found.missing:
        _tell_missing(found.missing)
    if found.overall.inexact:
        console.error(f"NOT EXACT: {found.overall.inexact} records have a residual above its tolerance")
        raise typer.Exit(ExitCode.INEXACT)
    if found.unreadable or (found.missing and not found.missing.nothing):
        raise typer.Exit(ExitCode.FAILED)


def _tell_missing(missing: Missing) -> None:
    """Say what the shards did not do, each failed picture in a line."""
    for failure in missing.failures:
        console.error(failure.error.message)
    if more := missing.failed - len(missing.failures):
        console.error(f"{more} more pictures failed")
    if missing.shards:
        numbers = ", ".join(f"{n}/{missing.of}" for n in missing.shards[:MOST_TOLD])
        more_shards = f" and {len(missing.shards) - MOST_TOLD} more" if len(missing.shards) > MOST_TOLD else ""
        console.error(f"not ended: shard {numbers}{more_shards}; run them again, they go on where they stopped")
    if missing.absent:
        console.error(
            f"{missing.absent} of {missing.listed} pictures have no record of this run's network and settings; "
            "run their shards again"
        )
    if missing.nothing:
        console.say(f"complete: {missing.of} shards, {missing.listed} pictures")
