"""What ``coda video`` says at the end about a clip."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coda_cli.cli.console import console, counted

if TYPE_CHECKING:
    from coda_cli.schema.clips import ClipRecord


def describe(name: str, summary: ClipRecord) -> None:
    """Print for people what the record of a clip says."""
    from coda_cli.explanation.phrases import clip_text, span_text

    for note in (*summary.source.notes, *summary.notes):
        console.say(f"{name}: {note}")
    for e in summary.explained:
        console.say(f"{name}: {clip_text(e)}")
        for span in e.spans:
            console.say(f"{name}:   {span_text(span)}")
    for n in summary.neurons:
        constants = f" {n.mean_constants:+.3g} constants" if n.mean_constants else ""
        console.say(
            f"{name}: {n.layer}, channel {n.channel}: {counted(n.frames, 'frame')}, mean activation "
            f"{n.mean_activation:.3g} = {n.mean_positive:.3g} {n.mean_negative:+.3g}{constants}"
        )
    console.say(
        f"{name}: {counted(summary.frames, 'frame')} in {summary.seconds:.1f} s, "
        f"{summary.frames / max(summary.seconds, 1e-9):.1f} a second{_residual(summary)}"
    )
    if not summary.exact:
        console.error(f"{name}: NOT EXACT: a residual is above its tolerance; do not trust these maps")


def _residual(summary: ClipRecord) -> str:
    """The largest residual in words; nothing where there is no such ratio."""
    worst = summary.worst_residual
    return "" if worst is None else f"; largest residual {worst:.1%} of its tolerance"
