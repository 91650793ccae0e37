"""``coda summary``: many records in numbers; ``coda merge``: those of the shards of one run, and what is missing.

They read what ``coda explain`` wrote instead of explaining first: ``coda explain photos/ -o out/ && coda summary
out/`` does both, a second summary costs nothing, and neither the pictures nor the network are needed for it.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coda_cli.cli import dry_run as dry
from coda_cli.cli.console import console, counted
from coda_cli.cli.dry_run import DryRun
from coda_cli.cli.options import Force, Json, Quiet, Recursive, Verbose
from coda_cli.cli.run_log import LogFile, RunLog
from coda_cli.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from coda_cli.explanation.summary.run import Asked
    from coda_cli.schema.shards import Missing
    from coda_cli.schema.summaries import Summary

MOST_NAMED = 10  # classes that a line names
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
MeanMap = Annotated[
    bool,
    typer.Option(
        "--mean-map",
        help="Write the mean of the maps of each class, too, as mean-maps/CLASS.png and .npz: by label, else by "
        "predicted class. They are read beside the records (coda explain --write npz,json).",
    ),
]
Html = Annotated[
    Path | None,
    typer.Option(
        "--html",
        metavar="FILE",
        show_default=False,
        help="Also write a page for a browser: the numbers, tables to sort, and the pictures worth a look.",
    ),
]


def summary(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="RECORDS...",
            help="Folders and files that coda explain wrote (*.coda.json, tar, Parquet), or lines of coda explain "
            "--json; - reads those from stdin.",
        ),
    ],
    output: Output = None,
    parquet: Parquet = False,
    mean_map: MeanMap = False,
    html: Html = None,
    labels: LabelFile = None,
    no_labels: NoLabels = False,
    top: Top = 10,
    json: Json = False,
    recursive: Recursive = False,
    force: Force = False,
    dry_run: DryRun = False,
    log: LogFile = None,
    quiet: Quiet = 0,
    verbose: Verbose = 0,
) -> None:
    """Summarise what coda explain wrote: accuracy, evidence inside regions, and pictures worth a look.

    \b
    coda explain photos/ -r -o out/ --mask masks/ && coda summary out/ -r
    coda summary out/ -r -o report/ --parquet
    coda summary out/ -r --html report.html
    coda explain photos/ -r --json --write none | coda summary - --json | jq .overall.accuracy
    coda summary out/ --labels labels.csv --top 20
    coda explain photos/ -r -o out/ --write npz,json && coda summary out/ -r -o report/ --mean-map
    """
    from coda_cli.explanation.summary.run import Asked

    asked = Asked(sources, recursive, labels, not no_labels, top, output, parquet, force, mean_map, html)
    _refuse_combinations(asked, no_labels)
    run_log = RunLog(log, "summary", {"--output": output, "--html": html})
    if dry_run:
        dry.summary(asked, json)
        return
    _summarise(asked, json, run_log)


def merge(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="OUTPUTS...",
            help="The output folders of the shards of one run, sub-folders included, their tar or Parquet files, or "
            "their lines of coda explain --json.",
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
    _refuse_combinations(asked, no_labels)
    _summarise(asked, json, RunLog(None, "merge", {}))


def _refuse_combinations(asked: Asked, no_labels: bool) -> None:
    """Refuse options that exclude or need others. Raises UsageError."""
    if asked.parquet and asked.output is None:
        raise UsageError("--parquet writes a file; add --output DIR")
    if asked.mean_maps and asked.output is None:
        raise UsageError("--mean-map writes files; add --output DIR")
    if asked.mean_maps and "-" in asked.sources:
        raise UsageError("--mean-map reads the maps that lie beside records; name their folder instead of -")
    if asked.labels is not None and no_labels:
        raise UsageError("--labels and --no-labels exclude each other; choose one")
    if "-" in asked.sources and sys.stdin is None:  # closed by the shell
        raise UsageError("- reads records from stdin, which is closed; pipe them in, or name the files")
    if "-" in asked.sources and sys.stdin.isatty():
        raise UsageError("- reads records from stdin, which is a terminal; pipe them in, or name the files")


def _summarise(asked: Asked, json: bool, run_log: RunLog) -> None:
    """Print a summary, and exit with the right code. Raises CodaError."""
    from coda_cli.cli.summary_table import lines
    from coda_cli.errors import MediaError
    from coda_cli.explanation.summary.run import summarise
    from coda_cli.schema.parts import to_json

    def say_error(error: MediaError) -> None:
        """Print what is no record."""
        console.error(str(error))
        run_log.add(error.item or "", "failed", error=error)

    start = time.monotonic()
    with run_log, console.progress("reading records", " files") as advance:
        found = summarise(asked, sys.stdin.buffer, say_error, advance)
        files = [(asked.output or Path()) / name for name in found.files.values()] + [p for p in [asked.html] if p]
        name = ", ".join(asked.sources)
        run_log.add(name, "summarised", seconds=round(time.monotonic() - start, 3), outputs=files)
    for line in [to_json(found)] if json else lines(found):
        console.result(line)
    _tell(found, asked.output, asked.labels, asked.html)


def _tell(found: Summary, output: Path | None, labels: Path | None, html: Path | None) -> None:
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
    if found.repeated:
        records = f"{found.repeated} of the {found.pictures} records"
        console.warn(
            f"counted more than once: {records} are of a picture that another record is of; give those of one run"
        )
    if found.failed:
        console.say(f"{counted(found.failed, 'picture')} could not be explained, as their records say")
    for name in found.files.values():
        console.say(f"written: {(output or Path()) / name}")
    if found.missing:
        _tell_missing(found.missing)
    unproven, broken = _tell_mean_maps(found, output)
    if html is not None:
        console.say(f"written: {html}")
    if found.overall.inexact:
        console.error(f"NOT EXACT: {counted(found.overall.inexact, 'record')} with a residual above its tolerance")
    if found.overall.inexact or unproven:
        raise typer.Exit(ExitCode.INEXACT)
    if found.unreadable or broken or (found.missing and not found.missing.nothing):
        raise typer.Exit(ExitCode.FAILED)


def _tell_mean_maps(found: Summary, output: Path | None) -> tuple[int, int]:
    """Say on stderr what became of the mean maps; how many are not exact, and how many maps could not be read."""
    if (means := found.mean_maps) is None:
        return 0, 0
    from coda_cli.explanation.summary.mean_maps import FOLDER

    if means.maps:
        whose = "label" if found.grouped_by == "label" else "predicted class"
        classes = counted(len(means.maps), "class", "es")
        console.say(f"written: {(output or Path()) / FOLDER}, the mean map of {classes}, by {whose}")
    if means.without_map:
        advice = "coda explain --write npz,json keeps it"
        console.warn(
            f"{counted(means.without_map, 'picture')} without a map beside the record, in no mean map; {advice}"
        )
    if others := sum(one.other_classes for one in means.maps):
        console.say(f"{counted(others, 'map')} about another class than the mean map of the same pictures, in none")
    if names := means.different_sizes:
        shown = ", ".join(names[:MOST_NAMED]) + (", ..." if len(names) > MOST_NAMED else "")
        advice = "coda explain --fit crop gives views of one size"
        console.warn(f"no mean map, since the views have different sizes: {shown}; {advice}")
    unproven = [one.name for one in means.maps if not one.exact]
    if unproven:
        console.error(f"NOT EXACT: the mean maps of {', '.join(unproven[:MOST_NAMED])} have a residual above tolerance")
    return len(unproven), means.unreadable


def _tell_missing(missing: Missing) -> None:
    """Say what the shards did not do, each failed picture in a line."""
    for failure in missing.failures:
        console.error(failure.error.message)
    if more := missing.failed - len(missing.failures):
        console.error(f"{counted(more, 'more picture')} failed")
    if missing.shards:
        numbers = ", ".join(f"{n}/{missing.of}" for n in missing.shards[:MOST_TOLD])
        more_shards = f" and {len(missing.shards) - MOST_TOLD} more" if len(missing.shards) > MOST_TOLD else ""
        console.error(f"not ended: shard {numbers}{more_shards}; run them again, they go on where they stopped")
    if missing.absent:
        console.error(
            f"{missing.absent} of {counted(missing.listed, 'picture')} without a record of this run's network and "
            "settings; run their shards again"
        )
    if missing.twice:
        console.error(
            f"{counted(missing.twice, 'record')} more than the {counted(missing.listed, 'picture')} of this run: some "
            "count twice; name the output of each shard once, without copies"
        )
    if missing.nothing:
        console.say(f"complete: {counted(missing.of, 'shard')}, {counted(missing.listed, 'picture')}")
