"""The verb for many pictures: reading, explaining and writing overlap. Nothing is printed."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

import numpy as np

from coda_cli.checkpoints.loading import Net
from coda_cli.checkpoints.targets import Targets
from coda_cli.errors import CodaError, MediaError, UsageError
from coda_cli.explanation.drawing import refuse_style
from coda_cli.explanation.files import prepare, sweep
from coda_cli.explanation.naming import refuse_collisions
from coda_cli.explanation.picture import Explanation, explain_batch
from coda_cli.explanation.record import Drawing
from coda_cli.explanation.request import Input, Request, input_of, network_of
from coda_cli.explanation.writer import DRAWN, Outcome, Output, Writer
from coda_cli.machine import budget
from coda_cli.machine.ahead import Behind, ahead, threads
from coda_cli.machine.lanes import batch_pool, divides
from coda_cli.machine.memory import as_many_as_fit, out_of_memory
from coda_cli.media.pictures import as_picture
from coda_cli.media.sources import Item, resolve
from coda_cli.media.stills import reading
from coda_cli.media.view import View
from coda_cli.render.colour import Magnitudes
from coda_cli.vocabulary import Fit, IfExists, Precision

T = TypeVar("T")
Read = Input | Outcome  # an outcome where nothing is left to do: it cannot be read, or its results are there


@dataclass(frozen=True)
class InMemory(Item):
    """A picture that is no file: ``path`` gives its outputs their names, ``pixels`` is what ``as_picture`` takes."""

    pixels: Any = None


@dataclass(frozen=True)
class Batch:
    """What was read, in order; the views of those that are to be explained have one size."""

    members: list[Read] = field(default_factory=list)

    @property
    def views(self) -> list[View]:
        """What the network is to see."""
        return [member.view for member in self.members if isinstance(member, Input)]


def explain_many(
    sources: Any, net: Net | str | Path | None = None, classes: Sequence[str | int] | str | int = (), *,
    versus: str | None = None, fit: Fit = "crop", precision: Precision = "float32", tolerance: float | None = None,
    layer: str | None = None, output: str | Path | Output | None = None, drawing: Drawing | None = None,
    if_exists: IfExists = "match", recursive: bool = False,
) -> Generator[Outcome, None, None]:  # fmt: skip
    """Explain many pictures; reading, computing and writing overlap, and memory does not grow with their number.

    Args:
        sources: files, folders and patterns, as a list or one alone; or an iterable of pictures in memory, or of
            batches of them, such as a DataLoader gives: tensors [B, 3, H, W], or tuples that begin with one.
        net: a network from ``load``, or its name or file; the default network unless given.
        classes: class names, WordNet ids, indices, "top:K" or "all"; the predicted class unless given.
        versus: a class that is subtracted from each of ``classes``.
        fit: how pictures are shown to the network: "crop", "pad" or "native".
        precision: what is computed in; "float64" needs a network that was loaded with that dtype.
        tolerance: replaces the relative tolerance of the residual.
        layer: also share the logits out over layers' outputs: "all", a number counted from the input (0), or a name.
        output: the folder that files go to; nothing is written unless it is given.
        drawing: which files, and how they are drawn; an overlay and the record unless given.
        if_exists: what happens to files that are there: "match", "error", "skip", "overwrite" or "rename".
        recursive: look into the folders of folders.

    Yields:
        An outcome for each picture, in order, as it is done: its record and files, or its error.

    Raises:
        UsageError: before any work: a source that does not exist, outputs that would get one name, a folder that cannot
            be written, a class that the network does not have.
        CheckpointError: the network cannot be loaded.

    Example:
        >>> for outcome in coda.explain_many("photos/", output="out/"):
        ...     print(outcome.item.path, outcome.error or outcome.record.explained[0].name)
    """
    from coda_cli.explanation.naming import Naming

    request = Request(classes, versus, fit, precision, tolerance, layer)  # type: ignore[arg-type]
    net = network_of(net, precision)
    if not isinstance(output, Output):
        folder = Path() if output is None else Path(output)
        drawing = drawing or Drawing()
        drawing = replace(drawing, kinds=()) if output is None else drawing
        output = Output(Naming(folder, net.checkpoint.name), drawing, if_exists)
    leave_out = output.naming.folder if output.drawing.kinds else None
    return explain_items(net, _items(sources, recursive, leave_out), request, output)


def explain_items(
    net: Net, items: Iterable[Item], request: Request, output: Output, *, batch: int | None = None,
    on_scale: Callable[[int, int], None] | None = None,
) -> Generator[Outcome, None, None]:  # fmt: skip
    """Explain inputs and write their files.

    With the scale "run" all inputs are decomposed twice: the first time to find it.

    Args:
        net: the network.
        items: the inputs; a sequence, or an iterable that is taken as it comes.
        request: what is asked.
        output: what is written, and where.
        batch: how many pictures to compute together; decided by their size unless given.
        on_scale: hears of the first pass of the scale "run": how many are done, and of how many.

    Yields:
        An outcome for each input, in order, as it is done.

    Raises:
        UsageError: before any work: outputs that would get one name or cannot be written, a class that the network does
            not have, a style that it cannot be drawn in.
    """
    targets, kinds, naming = request.targets(net), output.drawing.kinds, output.naming
    refuse_style(net, output.drawing.style)
    known = items if isinstance(items, Sequence) else ()
    if kinds:
        if not naming.tells_classes_apart and _several(net, request) and any(kind in DRAWN for kind in kinds):
            raise UsageError("--name: needs {class_slug} or {index}, or all classes would get the same name")
        refuse_collisions(known, naming.record_path, _other_names)
        prepare(naming.folder)
        sweep(*{naming.folder / item.subfolder for item in known})
    if output.drawing.scale == "run":
        if known is not items:
            raise UsageError("the scale of a run needs pictures that can be read twice; give a list, or another scale")
        scale = run_scale(net, known, request, output.drawing.percentile, batch=batch, on_step=on_scale)
        output = replace(output, drawing=replace(output.drawing, scale=scale))
    writer = Writer(net, known, request, output)
    return _outcomes(
        items, partial(_read, net=net, request=request, writer=writer), partial(_written, writer), net, request,
        targets, batch,
    )  # fmt: skip


def run_scale(
    net: Net, items: Sequence[Item], request: Request, percentile: float, *, batch: int | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> float:  # fmt: skip
    """Find the scale that is common to all maps of a run, without keeping a map.

    Args:
        net: the network.
        items: the inputs.
        request: what is asked.
        percentile: of the |contributions| of all maps, from 0 to 100.
        batch: how many pictures to compute together; decided by their size unless given.
        on_step: hears how many inputs are done, and of how many.

    Returns:
        The percentile in logit units, within 0.3 %.
    """
    magnitudes, counting, request = Magnitudes(), Lock(), replace(request, layer=None)

    def count(_: Read, result: Explanation | CodaError | None) -> None:
        if isinstance(result, Explanation):  # the second pass reports what cannot be explained
            with counting:
                magnitudes.add(result.maps)

    read = partial(_read, net=net, request=request, writer=None)
    passed = _outcomes(items, read, count, net, request, request.targets(net), batch)
    for done, _ in enumerate(passed, 1):
        if on_step:
            on_step(done, len(items))
    return magnitudes.percentile(percentile)


def _outcomes(
    items: Iterable[Item], read: Callable[[Item], Read],
    write: Callable[[Read, Explanation | CodaError | None], T], net: Net, request: Request, targets: Targets,
    batch: int | None,
) -> Generator[T, None, None]:  # fmt: skip
    """The way of every input: read ahead, explained in batches, written behind; what ``write`` gives, in order."""
    explain, workers = partial(explain_batch, net=net, request=request, targets=targets), budget.readers()
    with threads(workers) as reading, batch_pool(net.device.type) as computing, threads(workers) as writing:
        written = Behind[T](writing, budget.WAITING_FOR_A_WRITER * workers)
        inputs = (x for _, x in ahead(reading, ((i, partial(read, i)) for i in items), budget.READ_AHEAD))
        batches = _batches(inputs, net.device.type, targets.most, batch)
        calls = ((b, _call(b.views, net, explain)) for b in batches)
        for group, results in ahead(computing, calls, 1, alone=_fills_the_machine):
            for member, result in _paired(group, results):
                yield from written.add(partial(write, member, result))
        yield from written.rest()


def _call(
    views: Sequence[View], net: Net, explain: Callable[[Sequence[View]], list[Explanation | CodaError]]
) -> Callable[[], list[Explanation | CodaError]]:
    """The call that explains a batch, in halves when memory runs out."""
    if not views:
        return list
    return partial(as_many_as_fit, net.model, views, views[0].resolution, explain)


def _fills_the_machine(batch: Batch) -> bool:
    """Whether a batch takes all cores by itself: two such batches would take twice the memory and be no faster."""
    views = batch.views
    return bool(views) and not divides(len(views))


def _paired(
    batch: Batch, results: Iterable[Explanation | CodaError]
) -> Iterator[tuple[Read, Explanation | CodaError | None]]:
    """Every member of a batch with its result; None for what has an outcome already."""
    following = iter(results)
    for member in batch.members:
        yield member, next(following) if isinstance(member, Input) else None


def _batches(read: Iterable[Read], device: str, targets: int, batch: int | None) -> Iterator[Batch]:
    """Group what was read so that the views of a batch have one size and the pictures fit in memory together."""
    current, size = Batch(), (0, 0)
    pixels = views = 0
    for one in read:
        if isinstance(one, Input):
            limit = batch or budget.pictures_at_once(device, one.view.pixels, targets)
            full = views >= limit or pixels > budget.GROUP_BYTES / 3
            if views and (one.view.resolution != size or full):
                yield current
                current, pixels, views = Batch(), 0, 0
            size = one.view.resolution
            pixels += one.picture.rgb.shape[0] * one.picture.rgb.shape[1]
            views += 1
        current.members.append(one)
        if not views:  # nothing to wait for: failures and skipped inputs are reported at once
            yield current
            current = Batch()
    if current.members:
        yield current


# ---- the two ends ----------------------------------------------------------------------------------------------------


def _read(item: Item, *, net: Net, request: Request, writer: Writer | None) -> Read:
    """Read one input; an outcome where it cannot be read, or where ``writer`` finds its results."""
    try:
        if not isinstance(item, InMemory):
            _refuse_no_file(item.path)
        opened = nullcontext(as_picture(item.pixels)) if isinstance(item, InMemory) else reading(item.path)
        with opened as picture:
            if writer and (stored := writer.stored(item, picture)) is not None:
                return stored
            return input_of(item, picture, net, request.fit)
    except Exception as error:
        return Outcome(item, error=_error_of_item(error, item))


def _written(writer: Writer, member: Read, result: Explanation | CodaError | None) -> Outcome:
    """Write the files about one input that was explained; what has an outcome already keeps it."""
    if isinstance(member, Outcome):
        return member
    if not isinstance(result, Explanation):
        assert result is not None
        return Outcome(member.item, error=result.about(member.item.path))
    try:
        return writer.write(member, result)
    except Exception as error:
        return Outcome(member.item, error=_error_of_item(error, member.item))


def _error_of_item(error: Exception, item: Item) -> CodaError:
    """An error of one input, which must not end the run; raises again what is a fault of the program."""
    if isinstance(error, CodaError):
        return error.about(item.path)
    if not out_of_memory(error):
        raise error
    return MediaError("not enough memory to read or draw it; make it smaller first", item=item.path)


def _refuse_no_file(path: Path) -> None:
    try:
        if not path.exists():
            raise MediaError("no such file", item=path)
        if path.is_dir():
            raise MediaError("is a folder; name it as a source, or list its files", item=path)
    except (OSError, ValueError) as error:  # too long for a name, or not one at all
        raise MediaError(f"no such file ({getattr(error, 'strerror', None) or error})", item=path) from error


# ---- sources and names -----------------------------------------------------------------------------------------------


def _items(sources: Any, recursive: bool, leave_out: Path | None) -> Iterable[Item]:
    """The inputs that ``sources`` mean: paths as a list, pictures in memory one after the other."""
    if isinstance(sources, str | Path):
        sources = [sources]
    if isinstance(sources, Sequence) and all(isinstance(source, str | Path) for source in sources):
        return resolve([str(source) for source in sources], recursive=recursive, leave_out=leave_out)
    if isinstance(sources, Sequence) and all(isinstance(source, Item) for source in sources):
        return sources
    return _in_memory(sources)


def _in_memory(pictures: Iterable[Any]) -> Iterator[InMemory]:
    """Pictures of an iterable, or of the batches in it, numbered from 0."""
    number = 0
    for entry in pictures:
        first = entry[0] if isinstance(entry, tuple | list) else entry  # (pictures, labels), as data loaders give
        batch = list(first) if getattr(first, "ndim", 0) == 4 else [first]
        for pixels in batch:
            yield InMemory(Path(f"picture-{number:06d}"), pixels=pixels)
            number += 1


def _other_names(one: Item, other: Item) -> str:
    """A --name that tells two inputs apart, where there is one."""
    if one.path.name != other.path.name:
        differ = "{name}"
    elif one.path.absolute().parent.name != other.path.absolute().parent.name:
        differ = "{parent}-{name}"  # not {stem}: there may be others of two formats
    else:
        return "explain them in two runs, with an --output each"
    return f"give them different names, for one with --name '{differ}.{{class_slug}}.{{kind}}.{{ext}}'"


def _several(net: Net, request: Request) -> bool:
    """Whether more than one class of a picture may be explained."""
    return len(request.classes) > 1 or len(request.targets(net).of(np.zeros(len(net.checkpoint.classes)))) > 1
