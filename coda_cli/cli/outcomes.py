"""What ``coda explain`` says of each input: results on stdout, lines for people on stderr, and the exit code."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from coda_cli.cli.console import console
from coda_cli.errors import ExitCode

if TYPE_CHECKING:
    from coda_cli.explanation.writer import Outcome
    from coda_cli.schema.neurons import NeuronPart
    from coda_cli.schema.pictures import Explained, Record
    from coda_cli.schema.shards import ShardRecord


def _proven(part: Explained) -> bool:
    """Whether the contributions of the pixels add up, also those of regions, and at every layer that was asked for."""
    regions = part.regions is None or part.regions.exact
    channels = all(c.exact and all(map(_neuron_proven, c.strongest)) for c in part.channels)
    return part.exact and regions and channels and all(layer.exact or layer.approximate for layer in part.layers)


def _neuron_proven(neuron: NeuronPart) -> bool:
    """Whether the contributions to a neuron add up, also those of regions."""
    return neuron.exact and (neuron.regions is None or neuron.regions.exact)


def _share_of_tolerance(part: Explained) -> float:
    """The residual as a share of its tolerance."""
    return abs(part.residual) / part.tolerance if part.tolerance else (0.0 if part.exact else float("inf"))


class ResultPrinter:
    """Prints what happened to each input, on stdout and stderr, and counts it."""

    def __init__(self, json: bool, many: bool) -> None:
        self.json, self.many = json, many
        self.counts: Counter[str] = Counter()
        self.worst, self.start = 0.0, time.monotonic()
        self.only_first = 0  # pictures of which only the first page or frame was explained

    @property
    def failed(self) -> bool:
        """Whether an input failed or is not exact."""
        return bool(self.counts["failed"] or self.counts["inexact"])

    def add(self, outcome: Outcome) -> None:
        """Print the results of one input on stdout, and a line for people on stderr."""
        from coda_cli.media.frames import FIRST
        from coda_cli.schema.parts import to_json
        from coda_cli.schema.pictures import FailedRecord

        if outcome.error:
            console.error(str(outcome.error))
            if self.json:
                console.result(to_json(FailedRecord.of(outcome.item.name, outcome.error)))
            self.counts["inexact" if outcome.error.exit_code == ExitCode.INEXACT else "failed"] += 1
            return
        self.counts["skipped" if outcome.skipped else "explained"] += 1
        if record := outcome.record:
            self.counts["inexact"] += sum(not _proven(e) for e in record.explained)
            self.counts["inexact"] += sum(not _neuron_proven(neuron) for neuron in record.neurons)
            self.worst = max([self.worst, *(_share_of_tolerance(e) for e in record.explained)])
            if self.json:
                console.result(to_json(record))
        if not self.json:
            for path in outcome.addresses or outcome.written:
                console.result(str(path))
        if record:
            _describe(record, outcome.skipped, self.many)
            self.only_first += any(note.startswith(FIRST) for note in record.source.notes)

    def lose(self, why: str, count: int) -> None:
        """Say that a process was lost, and how many inputs it had that have no outcome."""
        console.error(why)
        self.counts["lost"] += max(count, 1)

    def page(self, path: Path | None) -> None:
        """Print the page's path."""
        print_page(path, self.json)

    def shard(self, record: ShardRecord) -> None:
        """Print how a shard of the run ended, as the last of the records."""
        from coda_cli.schema.parts import to_json

        if self.json:
            console.result(to_json(record))

    def summary(self) -> str:
        """What happened to all inputs, in one line."""
        counts = self.counts
        parts = [f"{counts['explained']} explained"]
        parts += [f"{counts[k]} {k}" for k in ("skipped", "failed", "lost") if counts[k]]
        text = f"{', '.join(parts)} in {time.monotonic() - self.start:.1f} s"
        if counts["explained"] or counts["skipped"]:
            text += f"; largest residual {self.worst:.1%} of its tolerance"
        if counts["inexact"]:
            text += f"; {counts['inexact']} NOT EXACT"
        return text

    def end(self, total: int) -> None:
        """Print the summary where there was more than one input or a failure, and exit with the right code."""
        if self.only_first:
            have = "1 picture has" if self.only_first == 1 else f"{self.only_first} pictures have"
            console.say(f"{have} more pages or frames than the first; --page all explains each of them")
        failed = self.counts["failed"] + self.counts["lost"]
        if total > 1 or failed:
            console.say(self.summary())
        if self.counts["inexact"]:
            raise typer.Exit(ExitCode.INEXACT)
        if failed:
            raise typer.Exit(ExitCode.FAILED)


def print_page(path: Path | None, json: bool) -> None:
    """Print a page's path: on stdout, or for people where stdout is for records."""
    if path and json:
        console.say(f"{path}: the page")
    elif path:
        console.result(str(path))


def _describe(record: Record, skipped: bool, many: bool) -> None:
    """Print for people what a record says; with ``many`` inputs only errors, unless -v is given."""
    from coda_cli.explanation.phrases import (
        activation_text,
        channels_text,
        equation,
        neuron_name,
        regions_text,
        standing,
        title_of,
    )

    say = console.detail if many else console.say
    for note in record.source.notes:
        say(f"{record.source.path}: {note}")
    for e in record.explained:
        name = title_of(e)
        chosen = standing(record.network, record.top, e.index, record.confident)
        say(f"{record.source.path}: {equation(e)}; {chosen}{' (already there)' if skipped else ''}")
        if e.regions:
            say(f"  {regions_text(e.regions)}; residual {e.regions.residual:.1e}")
        for layer in e.layers if e.carried is not None else ():
            share = "" if layer.carried is None else f"positions carry {layer.carried:.0%} of the logit"
            say(f"  {layer.name}, {layer.height} x {layer.width}: {share}, magnitudes {layer.ratio or 0:.1f} times it")
        for channels in e.channels:
            say(f"  {channels_text(channels, e)}; residual {channels.residual:.1e}")
            if not (channels.exact and all(map(_neuron_proven, channels.strongest))):
                console.error(f"{record.source.path}: NOT EXACT: the channels of {channels.layer} do not add up")
        for layer in (layer for layer in e.layers if not (layer.exact or layer.approximate)):
            console.error(
                f"{record.source.path}: NOT EXACT at {layer.name}: residual {layer.residual:.1e} of {name} is above "
                f"its tolerance {layer.tolerance:.1e}"
            )
        if e.regions and not e.regions.exact:
            console.error(f"{record.source.path}: NOT EXACT: regions and rest of {name} do not add up to its logit")
        if not e.exact:
            console.error(
                f"{record.source.path}: NOT EXACT: residual {e.residual:.1e} of {name} is above its tolerance "
                f"{e.tolerance:.1e}; do not trust this map"
            )
    for neuron in record.neurons:
        say(f"  {activation_text(neuron)}")
        if neuron.regions:
            say(f"    {regions_text(neuron.regions)}; residual {neuron.regions.residual:.1e}")
        if not _neuron_proven(neuron):
            console.error(f"{record.source.path}: NOT EXACT: {neuron_name(neuron)} does not add up")
