"""Explain many pictures: reading, explaining and writing overlap. Nothing is printed."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TypeVar

import numpy as np

from coda_cli.checkpoints.loading import Net
from coda_cli.checkpoints.targets import Targets
from coda_cli.core.hybrid import HybridNet
from coda_cli.errors import CodaError, UsageError
from coda_cli.explanation.drawing import refuse_style
from coda_cli.explanation.files import sweep
from coda_cli.explanation.naming import advice_on_names, refuse_collisions
from coda_cli.explanation.picture import Explanation, explain_batch
from coda_cli.explanation.reading import ReadOrDone, error_of_item, items_of, read_item
from coda_cli.explanation.record import Drawing
from coda_cli.explanation.regions.asked import Regions
from coda_cli.explanation.remote_writer import RemoteWriter
from coda_cli.explanation.request import Input, Request, network_of
from coda_cli.explanation.shards import Sharded, ShardRun
from coda_cli.explanation.writer import DRAWN, Outcome, Output, Writer
from coda_cli.machine import budget
from coda_cli.machine.ahead import Behind, ahead, threads
from coda_cli.machine.lanes import batch_pool, divides
from coda_cli.machine.memory import as_many_as_fit
from coda_cli.media.destination import elsewhere
from coda_cli.media.elsewhere import Elsewhere
from coda_cli.media.files import prepare, utf8
from coda_cli.media.sources import Item
from coda_cli.media.view import View
from coda_cli.render.colour import Magnitudes
from coda_cli.schema.parts import to_json
from coda_cli.schema.pictures import FailedRecord
from coda_cli.vocabulary import Fit, IfExists, Precision

T = TypeVar("T")


@dataclass(frozen=True)
class Batch:
    """Inputs that were read, in order; the views of those that will be explained have one size."""

    members: list[ReadOrDone] = field(default_factory=list)

    @property
    def views(self) -> list[View]:
        """The views that the network will see."""
        return [member.view for member in self.members if isinstance(member, Input)]


def explain_many(
    sources: str | Path | Iterable[object] | Sharded,
    net: Net | str | Path | None = None,
    classes: Sequence[str | int] | str | int = (),
    *,
    versus: str | None = None,
    fit: Fit = "crop",
    precision: Precision = "float32",
    tolerance: float | None = None,
    layer: str | None = None,
    regions: Regions | None = None,
    output: str | Path | Output | None = None,
    drawing: Drawing | None = None,
    if_exists: IfExists = "match",
) -> Generator[Outcome, None, None]:
    """Explain many pictures; reading, computing and writing overlap, and memory does not grow with their number.

    Args:
        sources: files, folders ("photos/**" with their sub-folders) and patterns, as a list or one alone; or an
            iterable of pictures in memory, or of batches of them, such as a DataLoader gives: tensors [B, 3, H, W], or
            tuples that begin with one; or a ``shard`` of files.
        net: a network from ``load``, or its name or file; the default network unless given.
        classes: class names, WordNet ids, indices, "top:K" or "all"; the predicted class unless given.
        versus: a class that is subtracted from each of ``classes``.
        fit: how pictures are shown to the network: "crop", "pad" or "native".
        precision: what is computed in; "float64" needs a network that was loaded with that dtype.
        tolerance: replaces the relative tolerance of the residual.
        layer: also split the logits over the outputs of layers: "all", a number counted from the input (0), or a name.
        regions: boxes, masks or annotations: contributions inside them are summed in the records, and they are drawn. A
            folder of masks or annotations has a file for each picture, and ``boxes`` can say which picture has which.
        output: the folder for files, its address ("s3://bucket/out/"), or one file ("out.tar", "out.parquet") that gets
            its name when all outcomes were taken; nothing is written unless it is given.
        drawing: which files, and how they are drawn; an overlay and the record unless given.
        if_exists: what happens to files that exist: "match", "error", "skip", "overwrite" or "rename".

    Yields:
        An outcome for each picture, in order, as it is done: its record and files, or its error.

    Raises:
        UsageError: before any work: a source does not exist, outputs would get the same name, the folder cannot be
            written, or the network does not have a class.
        CheckpointError: the network cannot be loaded.

    Example:
        >>> for outcome in coda.explain_many("photos/", output="out/"):
        ...     print(outcome.item.path, outcome.error or outcome.record.explained[0].name)
    """
    from coda_cli.explanation.naming import Naming

    if drawing and layer is None and {"layers", "depth"} & {*drawing.kinds}:
        layer = "all"
    request = Request(classes, versus, fit, precision, tolerance, layer, regions)  # type: ignore[arg-type]
    net = network_of(net, precision)
    if not isinstance(output, Output):
        remote = None if output is None else elsewhere(str(output), if_exists)
        folder = remote.folder if remote else Path(output or "")
        drawing = drawing or Drawing()
        drawing = replace(drawing, kinds=()) if output is None else drawing
        output = Output(Naming(folder, net.checkpoint.name, remote=remote), drawing, if_exists)
    if not isinstance(sources, Sharded):
        return explain_items(net, items_of(sources, output), request, output)
    if output.drawing.scale == "run":
        raise UsageError("one scale for a run: each shard would find another one; give a number")
    items = list(items_of(sources.sources, output))
    part = ShardRun(sources.shard, items, output.naming)
    return part.told(explain_items(net, part.items, request, output, inputs=items), net, request, output)


def explain_items(
    net: Net,
    items: Iterable[Item],
    request: Request,
    output: Output,
    *,
    batch: int | None = None,
    on_scale: Callable[[int, int], None] | None = None,
    on_table: Callable[[int, int], None] | None = None,
    inputs: Sequence[Item] | None = None,
) -> Generator[Outcome, None, None]:
    """Explain inputs and write their files.

    With the scale "run", all inputs are decomposed twice: the first time to find that scale.

    Args:
        net: the network.
        items: the inputs; a sequence, or an iterable that is read as the run goes on.
        request: what is asked.
        output: what is written, and where.
        batch: how many pictures to compute together; decided by their size unless given.
        on_scale: called after each input of the first pass that the scale "run" needs, with the number done and the
            number of all.
        on_table: called after each row of the table that is made at the end for a Parquet file, with the number done
            and the number of all.
        inputs: what is never written over: ``items``, unless others explain further ones into the same folder.

    Yields:
        An outcome for each input, in order, as it is done.

    Raises:
        UsageError: before any work: outputs would get the same name or cannot be written, or the network does not have
            a class or the style.
    """
    known = items if isinstance(items, Sequence) else ()
    targets = prepare_run(net, known, request, output)
    if output.drawing.scale == "run":
        if known is not items:
            raise UsageError("the scale of a run reads every picture twice; give a list, or another scale")
        scale = run_scale(net, known, request, output.drawing.percentile, batch=batch, on_step=on_scale)
        output = replace(output, drawing=replace(output.drawing, of_run=scale))
    writer = _writer(net, known if inputs is None else inputs, request, output)
    read = partial(read_item, net=net, request=request, writer=writer)
    outcomes = _outcomes(items, read, partial(_write, writer), net, request, targets, batch)
    return _to_the_end(outcomes, output.naming.remote, on_table) if output.naming.remote else outcomes


def _to_the_end(
    outcomes: Generator[Outcome, None, None], place: Elsewhere, on_step: Callable[[int, int], None] | None
) -> Generator[Outcome, None, None]:
    """Pass outcomes on; when all of them were taken, the place that they went to is finished."""
    try:
        with closing(outcomes):  # what is being written ends before the place is released
            for outcome in outcomes:
                failed = FailedRecord.of(outcome.item.name, outcome.error) if outcome.error else None
                place.note(utf8(outcome.item.name), to_json(failed) if failed else None)
                yield outcome
        place.finish(on_step)
    finally:
        place.release()


def _writer(net: Net, inputs: Sequence[Item], request: Request, output: Output) -> Writer:
    """What writes the files, in a folder on this disk or elsewhere."""
    if output.naming.remote is None or not output.drawing.kinds:
        return Writer(net, inputs, request, output)
    return RemoteWriter(net, inputs, request, output, output.naming.remote)


def foresee_items(
    net: Net, items: Sequence[Item], request: Request, output: Output, inputs: Sequence[Item] | None = None
) -> Iterator[Outcome]:
    """Say what ``explain_items`` would do, from the pictures and from what is there; nothing is explained or written.

    Args:
        net: the network; its weights are not needed.
        items: the inputs.
        request: what is asked.
        output: what would be written, and where.
        inputs: what is never written over: ``items`` unless given.

    Yields:
        An outcome for each input, in order: skipped, failed, or without a record where it would be explained.

    Raises:
        UsageError: the run would not begin.
    """
    request.targets(net)
    refuse_style(net, output.drawing.style)
    if output.drawing.kinds:
        _refuse_names(output, net, items, request)
        if output.naming.remote is None:
            prepare(output.naming.folder, dry=True)
    read = partial(read_item, net=net, request=request, writer=_writer(net, inputs or items, request, output))
    with threads(budget.readers()) as reading:
        for _, one in ahead(reading, ((item, partial(read, item)) for item in items), budget.READ_AHEAD):
            yield one if isinstance(one, Outcome) else Outcome(one.item)


def prepare_run(net: Net, items: Sequence[Item], request: Request, output: Output) -> Targets:
    """Refuse before any work what cannot be done, and make the output folder ready.

    Args:
        net: the network.
        items: the inputs, those that are known already.
        request: what is asked.
        output: what is written, and where.

    Returns:
        What is asked for, in the network.

    Raises:
        UsageError: outputs would get the same name or cannot be written, or the network does not have a class or the
            style.
    """
    targets = request.targets(net)
    refuse_style(net, output.drawing.style)
    if output.drawing.kinds:
        _refuse_names(output, net, items, request)
        prepare(output.naming.folder)
        sweep(*{output.naming.folder / item.subfolder for item in items})
    return targets


def _refuse_names(output: Output, net: Net, items: Sequence[Item], request: Request) -> None:
    """Refuse names that would be given twice."""
    naming, several = output.naming, _may_explain_several(net, request) or bool(request.neurons)
    if several and not naming.tells_classes_apart and any(kind in DRAWN for kind in output.drawing.kinds):
        raise UsageError("--name: needs {class_slug} or {index}, or all classes and neurons would get the same name")
    refuse_collisions(items, naming.record_path, advice_on_names, naming.shown)


def run_scale(
    net: Net,
    items: Sequence[Item],
    request: Request,
    percentile: float,
    *,
    batch: int | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> float:
    """Find one scale for all maps of a run, without keeping the maps.

    Args:
        net: the network.
        items: the inputs.
        request: what is asked.
        percentile: of the |contributions| of all maps, from 0 to 100.
        batch: how many pictures to compute together; decided by their size unless given.
        on_step: called after each input with the number done and the number of all.

    Returns:
        The percentile in logit units, within 0.3 %.
    """
    magnitudes, counting, request = Magnitudes(), Lock(), replace(request, layer=None, neurons=())

    def count(_: ReadOrDone, result: Explanation | CodaError | None) -> None:
        if isinstance(result, Explanation):  # the second pass reports what cannot be explained
            with counting:
                magnitudes.add(result.maps)

    read = partial(read_item, net=net, request=request, writer=None)
    passed = _outcomes(items, read, count, net, request, request.targets(net), batch)
    for done, _ in enumerate(passed, 1):
        if on_step:
            on_step(done, len(items))
    return magnitudes.percentile(percentile)


def _outcomes(
    items: Iterable[Item],
    read: Callable[[Item], ReadOrDone],
    write: Callable[[ReadOrDone, Explanation | CodaError | None], T],
    net: Net,
    request: Request,
    targets: Targets,
    batch: int | None,
) -> Generator[T, None, None]:
    """Read inputs ahead, explain them in batches, and write them behind; yields what ``write`` gives, in order."""
    explain, workers = partial(explain_batch, net=net, request=request, targets=targets), budget.readers()
    with threads(workers) as reading, batch_pool(net.device.type) as computing, threads(workers) as writing:
        written = Behind[T](writing, budget.WAITING_FOR_A_WRITER * workers)
        inputs = (x for _, x in ahead(reading, ((i, partial(read, i)) for i in items), budget.READ_AHEAD))
        batches = _batches(inputs, net, targets.most, batch)
        calls = ((b, _explain_call(b.views, net, explain)) for b in batches)
        for group, results in ahead(computing, calls, 1, alone=_has_too_few_for_lanes):
            for member, result in _with_results(group, results):
                yield from written.add(partial(write, member, result))
        yield from written.rest()


def _explain_call(
    views: Sequence[View], net: Net, explain: Callable[[Sequence[View]], list[Explanation | CodaError]]
) -> Callable[[], list[Explanation | CodaError]]:
    """The call that explains a batch, and explains halves of it when memory runs out."""
    if not views:
        return list
    return partial(as_many_as_fit, net.model, views, views[0].resolution, explain)


def _has_too_few_for_lanes(batch: Batch) -> bool:
    """Whether a batch uses all cores by itself: two at once would need twice the memory and would not be faster."""
    views = batch.views
    return bool(views) and not divides(len(views))


def _with_results(
    batch: Batch, results: Iterable[Explanation | CodaError]
) -> Iterator[tuple[ReadOrDone, Explanation | CodaError | None]]:
    """Every member of a batch with its result; None for a member that has an outcome already."""
    following = iter(results)
    for member in batch.members:
        yield member, next(following) if isinstance(member, Input) else None


def _batches(read: Iterable[ReadOrDone], net: Net, targets: int, batch: int | None) -> Iterator[Batch]:
    """Group what was read so that the views of a batch have one size and the pictures fit in memory together."""
    current, size, hybrid = Batch(), (0, 0), isinstance(net.model, HybridNet)
    pixels = views = 0
    for one in read:
        if isinstance(one, Input):
            limit = batch or budget.pictures_at_once(net.device.type, one.view.pixels, targets, hybrid=hybrid)
            full = views >= limit or pixels > budget.GROUP_BYTES / 3
            if views and (one.view.resolution != size or full):
                yield current
                current, pixels, views = Batch(), 0, 0
            size = one.view.resolution
            pixels += one.picture.rgb.shape[0] * one.picture.rgb.shape[1]
            views += 1
        current.members.append(one)
        if not views:  # failed and skipped inputs are reported at once, with no wait for a full batch
            yield current
            current = Batch()
    if current.members:
        yield current


# ---- the two ends ----------------------------------------------------------------------------------------------------


def _write(writer: Writer, member: ReadOrDone, result: Explanation | CodaError | None) -> Outcome:
    """Write the files about one input that was explained; one that has an outcome already keeps it."""
    if isinstance(member, Outcome):
        return member
    if not isinstance(result, Explanation):
        assert result is not None
        return Outcome(member.item, error=result.about(member.item.name))
    try:
        return writer.write(member, result)
    except Exception as error:
        return Outcome(member.item, error=error_of_item(error, member.item))


# ---- names -----------------------------------------------------------------------------------------------------------


def _may_explain_several(net: Net, request: Request) -> bool:
    """Whether more than one class of each picture can be explained."""
    return len(request.classes) > 1 or len(request.targets(net).of(np.zeros(len(net.checkpoint.classes)))) > 1
