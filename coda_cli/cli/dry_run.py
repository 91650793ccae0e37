"""``--dry-run``: what a command would do, from what is there already; nothing is written or decomposed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coda_cli.cli.console import console
from coda_cli.errors import CodaError, ExitCode, UsageError

if TYPE_CHECKING:
    from coda_cli.checkpoints.loading import Net
    from coda_cli.explanation.clip.drawing import ClipDrawing
    from coda_cli.explanation.clip.files import ClipOutputs
    from coda_cli.explanation.clip.run import ClipExplanation
    from coda_cli.explanation.request import Request
    from coda_cli.explanation.summary.run import Asked
    from coda_cli.explanation.writer import Output
    from coda_cli.media.sources import Item
    from coda_cli.schema.plans import Plan, Planned, What
    from coda_cli.vocabulary import IfExists

DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Say what would be done, and what is there already; compute and write nothing."),
]


def explain(
    net: Net, items: Sequence[Item], inputs: Sequence[Item] | None, request: Request, out: Output, page: Path | None,
    json: bool,
) -> None:  # fmt: skip
    """Say what ``coda explain`` would do, and exit with the code that it is sure to have. Raises UsageError."""
    from coda_cli.explanation.record import settings_hash
    from coda_cli.explanation.run import foresee_items

    if out.drawing.scale == "run":
        raise UsageError("--dry-run: with --scale run nobody knows the scale before all pictures were explained")
    if page is not None:
        _refuse_page(page, out.if_exists, (item.path for item in items))

    def planned(outcome: Any) -> Planned:
        """One picture."""
        naming, kinds, item = out.naming, out.drawing.kinds, outcome.item
        known = [naming.record_path(item)] * ("json" in kinds) + [naming.array_path(item)] * ("npz" in kinds)
        what: What = "fail" if outcome.error else "skip" if outcome.skipped else "explain"
        there: Sequence[Path | str] = outcome.addresses or outcome.written
        if what == "explain":
            there = [naming.shown(path) for path in known]
        return _planned(item.name, what, there, outcome.error)

    every = foresee_items(net, items, request, replace(out, entry=out.entry if page is None else _unmade), inputs)
    _say(map(planned, every), _of_network(net, "explain", settings_hash(net, request, out.drawing), page), json)


def _unmade(*_: object) -> Any:
    """Stand for the part of a page: with one, pictures whose files are there are explained even so."""


def video(
    planned: Sequence[tuple[str | int, ClipOutputs]],
    clip_of: Callable[[str | int], ClipExplanation],
    drawing: ClipDrawing,
    page: Path | None,
    json: bool,
) -> None:
    """Say what ``coda video`` would do, and exit with the code that it is sure to have. Raises UsageError."""
    from coda_cli.cli.clip_files import settle
    from coda_cli.video.reading import probe, source_name

    plans, settings, net = list[Any](), "", None
    for source, outputs in planned:
        clip = clip_of(source)
        net, settings, name = clip.net, clip.settings(drawing), source_name(source)
        try:
            files = settle(clip, drawing, outputs)
            frames = None if isinstance(source, int) else probe(source, clip.selection.fps).frames
        except CodaError as error:
            if isinstance(error, UsageError) and len(planned) == 1:
                raise
            plans.append(_planned(name, "fail", (), error.about(name)))
            continue
        written = [*files.clips.values(), *([files.record] if files.record else [])]
        plans.append(_planned(name, "explain", written).model_copy(update={"frames": frames}))
    if page is not None:
        replaces = any(outputs.replace for _, outputs in planned)
        _refuse_page(page, "overwrite" if replaces else "error", (Path(str(source)) for source, _ in planned))
    assert net
    _say(plans, _of_network(net, "video", settings, page), json)


def summary(asked: Asked, json: bool) -> None:
    """Say what ``coda summary`` would do. Raises UsageError."""
    from coda_cli.explanation.summary.run import foresee
    from coda_cli.schema.plans import Plan

    records, files = foresee(asked)
    if asked.html is not None:
        _refuse_page(asked.html, "overwrite" if asked.force else "error", map(Path, asked.sources))
    outputs = [*files, *([asked.html] if asked.html else [])]
    plan = Plan(command="summary", counts={}, outputs=tuple(map(str, outputs)))
    _say((_planned(record, "summarise") for record in records), plan, json)


def _of_network(net: Net, command: str, settings: str, page: Path | None) -> Plan:
    """The plan of a run with a network, without its counts."""
    from coda_cli.schema.plans import Plan

    return Plan(
        command=command,
        counts={},
        outputs=() if page is None else (str(page),),
        network=net.checkpoint.name,
        network_sha256=net.sha256,
        loaded=not any(p.is_meta for p in net.model.parameters()),
        settings=settings,
    )


def _planned(name: str, what: What, outputs: Iterable[Path | str] = (), error: CodaError | None = None) -> Planned:
    """What would be done with one item."""
    from coda_cli.media.files import utf8
    from coda_cli.schema.parts import ErrorPart
    from coda_cli.schema.plans import Planned

    part = error and ErrorPart(kind=type(error).__name__, message=utf8(str(error)))
    return Planned(item=utf8(name), what=what, outputs=tuple(utf8(str(path)) for path in outputs), error=part)


def _refuse_page(path: Path, if_exists: IfExists, inputs: Iterable[Path]) -> None:
    """Refuse a page that the run would refuse. Raises UsageError."""
    from coda_cli.explanation.page.output import PagePath

    PagePath(path, if_exists, inputs, dry=True)


def _say(planned: Iterable[Planned], plan: Plan, json: bool) -> None:
    """Print a plan, and exit with FAILED where items are sure to fail."""
    from coda_cli.media.files import shown_name
    from coda_cli.schema.parts import to_json

    counts = Counter[str]()
    for one in planned:
        counts[one.what] += 1
        if one.error:
            console.error(one.error.message)
        if json:
            console.result(to_json(one))
        elif not one.error:
            frames = f" ({one.frames} frame{'s' * (one.frames > 1)})" if one.frames else ""
            files = f": {', '.join(one.outputs)}" if one.outputs else ""
            console.result(f"{one.what} {shown_name(one.item)}{frames}{files}")
    plan = plan.model_copy(update={"counts": dict(counts)})
    if json:
        console.result(to_json(plan))
    else:
        for path in plan.outputs:
            console.result(f"write {path}")
    said = ", ".join(f"{n} to {what}" for what, n in counts.items()) or "nothing to do"
    network = f"; network {plan.network}, sha256 {(plan.network_sha256 or '')[:12]}" if plan.network else ""
    console.say(f"dry run: {said}{network}; nothing was written")
    if counts["fail"]:
        raise typer.Exit(ExitCode.FAILED)
