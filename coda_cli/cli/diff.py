"""``coda diff``: what changed between two runs over the same pictures."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coda_cli.cli.console import console, counted
from coda_cli.cli.options import Force, Json, Quiet, Verbose
from coda_cli.errors import CodaError, ExitCode

if TYPE_CHECKING:
    from coda_cli.explanation.runs.stored import Tally
    from coda_cli.schema.runs import Alone, Change, Difference, Totals

HEADINGS = ("PICTURE", "PREDICTED", "P", "TARGET", "LOGIT", "CHANGE", "FOR", "AGAINST", "SHARE OF REGIONS")
MOST_NAMED = 3  # pictures that only one run has, in the line about them
RUN = "A folder of coda explain, a record, or lines of --json."


def diff(
    run1: Annotated[str, typer.Argument(metavar="RUN1", help=RUN)],
    run2: Annotated[str, typer.Argument(metavar="RUN2", help="The same pictures, explained otherwise.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="DIR", help="Draw the differences of the maps into this folder [default: none]."
        ),
    ] = None,
    rows: Annotated[
        int, typer.Option("--rows", min=0, metavar="N", help="Show this many pictures in the table, at most.")
    ] = 20,
    json: Json = False,
    force: Force = False,
    quiet: Quiet = 0,
    verbose: Verbose = 0,
) -> None:
    """Say what changed between two runs over the same pictures.

    The runs are of two networks, settings or precisions. Pictures are matched by their hash, and by their path where a
    picture was changed. The table begins with the predictions that changed, then come the largest changes of a logit.
    Where both runs kept their maps (coda explain --write npz,json), the maps are subtracted: where both saw the same
    view this is exact for every pixel, and the sum of the difference is the change of the logit less its constants.

    \b
    coda diff first/ second/
    coda diff first/ second/ -o changes/
    coda diff first.jsonl second.jsonl --json | jq 'select(.changed)'
    """
    from coda_cli.explanation.runs.differences import Compared, DifferenceWriter, compare_runs
    from coda_cli.explanation.runs.stored import Tally
    from coda_cli.media.files import refuse_file_name
    from coda_cli.schema.parts import to_json

    if output is not None:
        refuse_file_name(output)
    tallies = tuple(Tally(on_error=lambda error: console.error(str(error))) for _ in range(2))
    shown = _Shown(rows)
    compared = compare_runs(run1, run2, (tallies[0], tallies[1]))
    writer: DifferenceWriter | None = None
    for one in compared:
        if isinstance(one, CodaError):
            console.error(str(one))
            shown.failed += 1
            continue
        if not isinstance(one, Compared):
            shown.alone(one)
            if json:
                console.result(to_json(one))
            continue
        record = one.difference
        if output is not None:
            writer = writer or DifferenceWriter(output, run2, force=force)
            try:
                record, written = writer.write(one)
            except CodaError as error:
                console.error(str(error))
                shown.failed, written = shown.failed + 1, ()
            for path in written:
                console.detail(f"wrote {path}")
        shown.pair(record)
        if json:
            console.result(to_json(record))
    _end(shown, tallies, json, runs=(run1, run2))


def _end(shown: _Shown, tallies: Sequence[Tally], json: bool, runs: tuple[str, str]) -> None:
    """Print the table and the totals, and exit with the right code."""
    from coda_cli.schema.parts import to_json

    totals = shown.totals(tallies)
    if json:
        console.result(to_json(totals))
    else:
        for line in shown.table():
            console.result(line)
        console.result(_totals_text(totals))
    for run, tally in zip(runs, tallies, strict=True):
        if tally.others:
            console.say(f"{run}: left out {counted(tally.others, 'JSON file')} without a record of coda explain")
    for text in shown.alone_texts(runs):
        console.say(text)
    if totals.inexact_maps:
        console.error(f"NOT EXACT: {totals.inexact_maps} differences of maps do not add up; do not trust these maps")
        raise typer.Exit(ExitCode.INEXACT)
    if totals.unreadable or shown.failed:
        raise typer.Exit(ExitCode.FAILED)


class _Shown:
    """What was found so far: a bounded number of rows, and sums."""

    def __init__(self, rows: int) -> None:
        self.most, self.failed = rows, 0
        self._rows: list[tuple[bool, float, int, tuple[str, ...]]] = []
        self._counts: dict[str, int] = {}
        self._sum = self._largest = 0.0
        self._names: tuple[list[str], list[str]] = ([], [])

    def _count(self, **more: int) -> None:
        for name, n in more.items():
            self._counts[name] = self._counts.get(name, 0) + n

    def alone(self, one: Alone) -> None:
        """Count a picture that only one run has."""
        self._count(**{"only_first" if one.run == 1 else "only_second": 1})
        if len(names := self._names[one.run - 1]) < MOST_NAMED:
            names.append(one.path)

    def pair(self, record: Difference) -> None:
        """Count a picture that both runs have, and keep its row where it is among the first."""
        from coda_cli.explanation.runs.differences import largest_change

        maps = [target.map for target in record.targets if target.map]
        self._count(
            pairs=1,
            by_path=record.matched == "path",
            changed=record.changed,
            targets=len(record.targets),
            exact_maps=sum(m.exact for m in maps),
            inexact_maps=sum(not m.exact for m in maps),
        )
        for change in (target.logit.change for target in record.targets):
            self._sum += change
            self._largest = max(self._largest, change, key=abs)
        for note in record.notes:
            console.detail(f"{record.second.path}: {note}")
        row = (record.changed, largest_change(record), -self._counts["pairs"], _row(record))
        heapq.heappush(self._rows, row)
        if len(self._rows) > self.most:
            heapq.heappop(self._rows)

    def totals(self, tallies: Sequence[Tally]) -> Totals:
        """The sums over all pictures."""
        from coda_cli.schema.runs import Totals

        found: dict[str, Any] = dict(self._counts)
        if n := found.get("targets"):
            found |= {"mean_change": self._sum / n, "largest_change": self._largest}
        failed = {"failed_first": tallies[0].failed, "failed_second": tallies[1].failed}
        return Totals(**found, **failed, unreadable=sum(t.unreadable for t in tallies))

    def table(self) -> list[str]:
        """The rows, changed predictions first, then the largest changes."""
        rows = [row for *_, row in sorted(self._rows, reverse=True)]
        if not rows:
            return []
        widths = [max(len(row[c]) for row in [HEADINGS, *rows]) for c in range(len(HEADINGS))]
        lines = ["  ".join(cell.ljust(n) for cell, n in zip(row, widths, strict=True)) for row in [HEADINGS, *rows]]
        if (more := self._counts["pairs"] - len(rows)) > 0:
            lines.append(f"... and {more} more; --rows {self._counts['pairs']} shows all")
        return [line.rstrip() for line in lines]

    def alone_texts(self, runs: tuple[str, str]) -> list[str]:
        """A line for each run that has pictures of its own."""
        texts = []
        for run, names, key in zip(runs, self._names, ("only_first", "only_second"), strict=True):
            if count := self._counts.get(key, 0):
                texts.append(
                    f"only in {run}: {', '.join(names)}" + (f" and {count - len(names)} more" * (count > len(names)))
                )
        return texts


def _row(record: Difference) -> tuple[str, ...]:
    """The cells about one picture: its first target that both explained, or the class that RUN1 predicted."""
    from coda_cli.explanation.phrases import regions_change_text
    from coda_cli.explanation.runs.maps import name_of
    from coda_cli.media.files import shown_name

    a, b = record.first.predicted, record.second.predicted
    predicted = f"{a.name} → {b.name}" if record.changed else a.name
    p = f"{a.probability:.3f} → {b.probability:.3f}"
    cells = [record.second.path, predicted, p]
    if record.targets:
        t = record.targets[0]
        cells += [name_of(t), *_logit(t.logit), f"{t.positive.change:+.3f}", f"{t.negative.change:+.3f}"]
        cells.append(regions_change_text(t))
    elif scores := [s for s in record.scores if s.name == a.name]:
        cells += [scores[0].name, *_logit(scores[0].logit), "", "", ""]
    else:
        cells += [""] * 6
    return tuple(shown_name(cell) for cell in cells)


def _logit(change: Change) -> tuple[str, str]:
    return f"{change.first:.3f} → {change.second:.3f}", f"{change.change:+.3f}"


def _totals_text(totals: Totals) -> str:
    """The sums in one line."""
    by_path = f" ({totals.by_path} matched by path, with another content)" if totals.by_path else ""
    changed = f"{counted(totals.changed, 'prediction')} changed"
    parts = [f"{counted(totals.pairs, 'picture')} in both{by_path}, {changed}"]
    if totals.mean_change is not None:
        parts.append(f"logits changed by {totals.mean_change:+.3g} on average, by {totals.largest_change:+.3g} at most")
    if maps := totals.exact_maps + totals.inexact_maps:
        parts.append(f"{totals.exact_maps} of {counted(maps, 'difference')} of maps add up")
    parts.append(f"{totals.only_first} only in the first run, {totals.only_second} only in the second")
    if failed := totals.failed_first + totals.failed_second:
        parts.append(f"{failed} could not be explained")
    if totals.unreadable:
        parts.append(counted(totals.unreadable, "unreadable record"))
    return "; ".join(parts)
