"""The verb for many pictures: reading, computing and writing overlap. Prints nothing, exits nowhere."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias, TypeVar

import numpy as np

from coda_cli.checkpoints.loading import Net
from coda_cli.checkpoints.targets import Targets
from coda_cli.errors import CodaError, MediaError, UsageError
from coda_cli.explanation.files import DRAWN, Loaded, Outcome, Output, Writer
from coda_cli.explanation.naming import prepare, refuse_collisions, sweep
from coda_cli.explanation.picture import Explanation, Request, explain_views
from coda_cli.explanation.record import refuse_style
from coda_cli.machine import budget
from coda_cli.machine.ahead import ahead
from coda_cli.machine.lanes import batch_pool, divides
from coda_cli.machine.memory import out_of_memory
from coda_cli.media.sources import Item
from coda_cli.media.stills import read_image
from coda_cli.media.view import View, fit
from coda_cli.render.colour import Magnitudes

T = TypeVar("T")
_Read: TypeAlias = Loaded | Outcome  # an outcome where reading has ended it


class _Run:
    """One run over many inputs: reading, computing and writing overlap; memory is bounded; order is kept."""

    def __init__(self, net: Net, items: Sequence[Item], request: Request, output: Output, batch: int | None) -> None:
        self.net, self.items, self.request, self.batch = net, items, request, batch
        self.targets = request.targets(net)
        self.writer = Writer(net, items, request, output)
        self.alone = threading.Lock()  # for batches that take all cores: two of them would take twice the memory
        self.ended = threading.Event()

    def outcomes(self) -> Generator[Outcome, None, None]:
        """Outcomes in the order of the inputs; closing the generator ends the run."""
        workers = budget.readers()
        reading, writing = ThreadPoolExecutor(workers), ThreadPoolExecutor(workers)
        try:
            finishing: deque[Future[Outcome]] = deque()
            with contextlib.closing(self._computed(reading, writing)) as computed:
                for outcomes in computed:
                    finishing += outcomes
                    # Two pictures for each writer may wait; more would pile up in memory.
                    while len(finishing) > budget.WAITING_FOR_A_WRITER * workers or (finishing and finishing[0].done()):
                        yield finishing.popleft().result()
            while finishing:
                yield finishing.popleft().result()
        finally:
            # Also when the caller stops early or Ctrl-C arrives: what runs ends cleanly, what waits is dropped.
            reading.shutdown(cancel_futures=True)
            writing.shutdown(cancel_futures=True)

    def _computed(
        self, reading: ThreadPoolExecutor, writing: ThreadPoolExecutor
    ) -> Generator[list[Future[Outcome]], None, None]:
        """Read ahead, compute batch after batch, and hand every result to the writers."""
        groups = _batches(ahead(reading, self._read, self.items, budget.READ_AHEAD), self.net, self.targets, self.batch)
        with batch_pool(self.net.device.type) as pool:
            try:
                for results in ahead(pool, self._explained, groups, 1):
                    yield [writing.submit(self._end, *result) for result in results]
            finally:
                self.ended.set()  # before the pool waits for its threads

    def _explained(self, group: Sequence[_Read]) -> list[tuple[_Read, Explanation | CodaError | None]]:
        """Every member of a group with its explanation, or why there is none; None for what has ended already."""
        views = [x.view for x in group if isinstance(x, Loaded)]
        with self.alone if views and not divides(len(views)) else contextlib.nullcontext():
            if self.ended.is_set():  # while this one waited
                return []
            results = iter(_explain_each(views, self.net, self.request, self.targets))
        return [(x, next(results) if isinstance(x, Loaded) else None) for x in group]

    def _read(self, item: Item) -> _Read:
        try:
            _refuse_no_file(item.path)
            picture = read_image(item.path)
            if (stored := self.writer.stored(item, picture)) is not None:
                return stored
            p = self.net.checkpoint.preprocessing
            return Loaded(item, picture, fit(picture.rgb, p.resize, p.crop, self.request.fit))
        except Exception as error:
            return _failed(item, _told(error))

    def _end(self, x: _Read, result: Explanation | CodaError | None) -> Outcome:
        """Write what was explained; what ended before stays as it is."""
        if isinstance(x, Outcome):
            return x
        if isinstance(result, CodaError):
            return _failed(x.item, result)
        assert result is not None
        try:
            return self.writer.write(x, result)
        except Exception as error:
            return _failed(x.item, _told(error))


def explain_many(
    net: Net,
    items: Sequence[Item],
    request: Request,
    output: Output,
    *,
    batch: int | None = None,
    on_scale: Callable[[int, int], None] | None = None,
) -> Generator[Outcome, None, None]:
    """Explain many inputs and write their files; yields an Outcome for each, in order, as they are done.

    Decoding, computing and drawing overlap; memory does not grow with the number of inputs. A failed input is an
    Outcome with its error, the rest goes on. With the scale "run" all inputs are decomposed twice: ``on_scale``
    reports the first pass (done, total). Raises UsageError, before any work, for outputs that collide or cannot be
    written, for classes the network does not have and a style it cannot be drawn in.
    """
    kinds = output.drawing.kinds
    refuse_style(net, output.drawing.style)
    if kinds:
        naming = output.naming
        if not naming.tells_classes_apart and _several(net, request) and any(kind in DRAWN for kind in kinds):
            raise UsageError("--name: needs {class_slug} or {index}, or all classes would get the same name")
        refuse_collisions(items, naming.record_path, _other_names)
        prepare(naming.folder)
        sweep(*{naming.folder / item.subfolder for item in items})
    if output.drawing.scale == "run":
        scale = run_scale(net, items, request, output.drawing.percentile, batch=batch, on_step=on_scale)
        output = replace(output, drawing=replace(output.drawing, scale=scale))
    return _Run(net, items, request, output, batch).outcomes()


def run_scale(
    net: Net,
    items: Sequence[Item],
    request: Request,
    percentile: float,
    *,
    batch: int | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> float:
    """The ``percentile`` of |contribution| over all maps of a run, within 0.3 %, without keeping a map."""
    magnitudes = Magnitudes()
    request = replace(request, layer=None)
    targets, p = request.targets(net), net.checkpoint.preprocessing
    done = 0

    def read(item: Item) -> View | None:
        with contextlib.suppress(CodaError):  # the second pass reports what cannot be read
            return fit(read_image(item.path).rgb, p.resize, p.crop, request.fit)
        return None

    with ThreadPoolExecutor(2) as reading:
        for group in _batches(ahead(reading, read, items, budget.READ_AHEAD), net, targets, batch):
            views = [v for v in group if v is not None]
            for e in _explain_each(views, net, request, targets):
                if isinstance(e, Explanation):
                    magnitudes.add(e.maps)
            done += len(group)
            if on_step:
                on_step(done, len(items))
    return magnitudes.percentile(percentile)


def _other_names(one: Item, other: Item) -> str:
    """A --name that tells two inputs apart, where one can."""
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


def _explain_each(
    views: Sequence[View], net: Net, request: Request, targets: Targets
) -> Sequence[Explanation | CodaError]:
    """The explanation of every view, or why there is none: the others of a batch shall not suffer for one."""
    try:
        return explain_views(views, net, request, targets) if views else []
    except UsageError:  # a layer that no picture has
        raise
    except CodaError as error:
        if len(views) == 1:
            return [error.with_traceback(None)]  # which holds on to what was computed
    return [result for view in views for result in _explain_each([view], net, request, targets)]


def _refuse_no_file(path: Path) -> None:
    try:
        if not path.exists():
            raise MediaError(f"{path}: no such file")
        if path.is_dir():
            raise MediaError(f"{path}: is a folder; name it as a source, or list its files")
    except (OSError, ValueError) as error:  # too long for a name, or not one at all
        raise MediaError(f"{path}: no such file ({getattr(error, 'strerror', None) or error})") from error


def _batches(results: Iterator[T], net: Net, targets: Targets, batch: int | None) -> Iterator[list[T]]:
    """Group what was read so that the views of a group share one size and the pictures fit in memory together."""
    group: list[T] = []
    size: tuple[int, ...] | None = None
    held = views = 0
    for result in results:
        view = result.view if isinstance(result, Loaded) else result if isinstance(result, View) else None
        if view is not None:
            limit = batch or budget.pictures_at_once(net.device.type, view.pixels, targets.most)
            if size is not None and (view.rgb.shape != size or views >= limit or held > budget.GROUP_BYTES):
                yield group
                group, held, views = [], 0, 0
            size = view.rgb.shape
            held += 3 * view.size[0] * view.size[1]
            views += 1
        group.append(result)
        if not views:  # nothing to wait for: failures and skipped inputs are reported at once
            yield group
            group = []
    if group:
        yield group


def _told(error: Exception) -> CodaError:
    """An error of one input, which shall not end the run; raises what is none."""
    if isinstance(error, CodaError):
        return error
    if not out_of_memory(error):
        raise error
    return MediaError("not enough memory to read or draw it; make it smaller first")


def _failed(item: Item, error: CodaError) -> Outcome:
    if not str(error).startswith(str(item.path)) and "/" not in str(error).split(":")[0]:
        error = type(error)(f"{item.path}: {error}")
    return Outcome(item, error=error)
