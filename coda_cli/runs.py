"""The verb for many pictures: explain them, write their files, and keep the account. Prints nothing, exits nowhere."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias, TypeVar

import numpy as np

from coda_cli.accounts import (
    Drawing,
    colour_explanation_of,
    described,
    make_record,
    refuse_style,
    source_part,
    versions,
)
from coda_cli.ahead import ahead
from coda_cli.checkpoints.loading import Net
from coda_cli.checkpoints.targets import Targets
from coda_cli.core.memory import out_of_memory
from coda_cli.errors import CodaError, MediaError, UsageError
from coda_cli.explain import Explanation, Request, arrays, explain_views, together
from coda_cli.media.sources import RECORD_KEY, Item, identity
from coda_cli.media.stills import Picture, read_image, write_gif, write_png, write_with
from coda_cli.media.view import View, fit
from coda_cli.render.colour import Magnitudes
from coda_cli.report.files import (
    Naming,
    free_neighbour,
    prepare,
    refuse_collisions,
    refuse_inputs,
    stored_record,
    sweep,
    withdraw,
)
from coda_cli.report.pictures import STYLES, draw, draw_layers
from coda_cli.report.records import Explained, Record, core_json, to_json

READ_AHEAD = 6  # pictures
DRAWN = (*STYLES, "layers", "depth")  # kinds of files that are about one class
LAYER_SECONDS = 0.65  # of the animation over depth, as the authors show it
GROUP_BYTES = 128e6  # of pictures that are computed together; three such groups are on their way at a time
IfExists = Literal["match", "error", "skip", "overwrite", "rename"]
T = TypeVar("T")


@dataclass(frozen=True)
class Outcome:
    """How one input ended: explained (``record``), skipped because its output is there already, or failed."""

    item: Item
    record: Record | None = None
    error: CodaError | None = None
    skipped: bool = False
    written: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Output:
    """Where and how results are written. "match" skips an input whose results are there from equal settings."""

    naming: Naming
    drawing: Drawing
    if_exists: IfExists = "match"


@dataclass(frozen=True)
class _Loaded:
    item: Item
    picture: Picture
    view: View


_Read: TypeAlias = _Loaded | Outcome  # an outcome where reading has ended it


class _Run:
    """One run over many inputs: reading, computing and writing overlap; memory is bounded; order is kept."""

    def __init__(self, net: Net, items: Sequence[Item], request: Request, output: Output, batch: int | None) -> None:
        self.net, self.request, self.output, self.batch = net, request, output, batch
        self.targets = request.targets(net)
        self.items = items
        self.inputs = {identity(item.path): item for item in items}
        self.settings = _settings_hash(request, output.drawing, net)

    def outcomes(self) -> Generator[Outcome, None, None]:
        """Outcomes in the order of the inputs; closing the generator ends the run."""
        workers = max(2, min(8, os.cpu_count() or 2))
        reading, writing = ThreadPoolExecutor(workers), ThreadPoolExecutor(workers)
        try:
            finishing: deque[Future[Outcome]] = deque()
            for outcomes in self._computed(reading, writing):
                finishing += outcomes
                # Two batches may wait to be written; more would pile up pictures in memory.
                while len(finishing) > 2 * workers or (finishing and finishing[0].done()):
                    yield finishing.popleft().result()
            while finishing:
                yield finishing.popleft().result()
        finally:
            # Also when the caller stops early or Ctrl-C arrives: what runs ends cleanly, what waits is dropped.
            reading.shutdown(cancel_futures=True)
            writing.shutdown(cancel_futures=True)

    def _computed(self, reading: ThreadPoolExecutor, writing: ThreadPoolExecutor) -> Iterator[list[Future[Outcome]]]:
        """Read ahead, compute batch after batch, and hand every result to the writers."""
        groups = _batches(ahead(reading, self._read, self.items, READ_AHEAD), self.net, self.batch)
        with ThreadPoolExecutor(1) as computing:
            for results in ahead(computing, self._explained, groups, 1):
                yield [writing.submit(self._end, *result) for result in results]

    def _explained(self, group: Sequence[_Read]) -> list[tuple[_Read, Explanation | CodaError | None]]:
        """Every member of a group with its explanation, or why there is none; None for what has ended already."""
        views = [x.view for x in group if isinstance(x, _Loaded)]
        results = iter(_explain_each(views, self.net, self.request, self.targets))
        return [(x, next(results) if isinstance(x, _Loaded) else None) for x in group]

    def _read(self, item: Item) -> _Read:
        try:
            _refuse_no_file(item.path)
            picture = read_image(item.path)
            if (stored := self._stored(item, picture)) is not None:
                return stored
            p = self.net.checkpoint.preprocessing
            return _Loaded(item, picture, fit(picture.rgb, p.resize, p.crop, self.request.fit))
        except Exception as error:
            return _failed(item, _told(error))

    # -- what is there already --

    def _stored(self, item: Item, picture: Picture) -> Outcome | None:
        """The outcome for an input whose results exist, or None when it has to be explained."""
        policy, path = self.output.if_exists, self.output.naming.record_path(item)
        if policy in ("overwrite", "rename") or "json" not in self.output.drawing.kinds or not path.exists():
            return None
        record = stored_record(path)
        if policy == "skip":
            return Outcome(item, record, skipped=True)
        if policy == "match" and record and self._matches(record, picture):
            # Somebody may have deleted a picture since: then it is drawn again.
            return Outcome(item, record, skipped=True) if self._complete(record) else None
        raise self._in_the_way(path)

    def _in_the_way(self, path: Path) -> MediaError:
        why = "exists" if self.output.if_exists == "error" else "exists from another picture, network or settings"
        return MediaError(f"{path}: {why}; use --if-exists overwrite, skip or rename, or another --output")

    def _matches(self, record: Record, picture: Picture) -> bool:
        """Whether a stored record is of this picture, network and settings."""
        return (record.source.sha256, record.network.sha256, record.settings) == (
            picture.sha256, self.net.sha256, self.settings)  # fmt: skip

    def _complete(self, record: Record) -> bool:
        """Whether everything that a stored record names is there."""
        files = [*record.files.values(), *(f for e in record.explained for f in e.files.values())]
        return all((self.output.naming.folder / f).exists() for f in files)

    # -- writing --

    def _end(self, x: _Read, result: Explanation | CodaError | None) -> Outcome:
        """Write what was explained; what ended before stays as it is."""
        if isinstance(x, Outcome):
            return x
        if isinstance(result, CodaError):
            return _failed(x.item, result)
        assert result is not None
        try:
            record = self._record(x, result)
            written, record = self._write_files(x, result, record)
            return Outcome(x.item, record, written=written)
        except Exception as error:
            return _failed(x.item, _told(error))

    def _record(self, loaded: _Loaded, explanation: Explanation) -> Record:
        source = source_part(loaded.item, loaded.picture, explanation.view)
        return make_record(explanation, self.net, self.request, self.output.drawing, source, self.settings)

    def _write_files(
        self, loaded: _Loaded, explanation: Explanation, record: Record
    ) -> tuple[tuple[Path, ...], Record]:
        kinds, naming = self.output.drawing.kinds, self.output.naming
        if kinds:
            prepare(naming.folder / loaded.item.subfolder)
        if self.output.if_exists == "overwrite" and "json" in kinds:  # else one that stays is nobody's to remove
            refuse_inputs(naming.record_path(loaded.item), self.inputs)
            withdraw(naming.record_path(loaded.item))
        written: list[Path] = []
        explained = []
        taken: set[Path] = set()
        drawing, maps = self.output.drawing, explanation.maps
        for k, part in enumerate(record.explained):
            hues = colour_explanation_of(explanation, k, drawing.smooth) if drawing.style == "colour" else None
            name = part.name if part.versus is None else f"{part.name} vs {part.versus.name}"
            index = str(part.index) if part.versus is None else f"{part.index}-{part.versus.index}"
            files = {}
            for kind in (kind for kind in kinds if kind in STYLES):
                path = self._target(self._free(loaded.item, kind, (name, index), taken), loaded)
                if path is None:
                    continue
                picture = draw(kind, loaded.picture.rgb, maps[k], explanation.view, part, record,
                               drawing.alpha, hues)  # fmt: skip
                write_png(path, picture, {RECORD_KEY: core_json(record, part)})
                written.append(path)
                files[kind] = path.relative_to(naming.folder).as_posix()
            if part.layers:
                for kind, path in self._write_layers(loaded, explanation, k, part, record, (name, index), taken):
                    written.append(path)
                    files[kind] = path.relative_to(naming.folder).as_posix()
            explained.append(part.model_copy(update={"files": files}))
        shared = {}
        if "npz" in kinds:
            path = self._target(naming.array_path(loaded.item), loaded)
            if path is not None:
                content = {**arrays(explanation), "record": np.array(to_json(record))}
                write_with(path, lambda stream: np.savez_compressed(stream, allow_pickle=False, **content))
                written.append(path)
                shared["npz"] = path.relative_to(naming.folder).as_posix()
        record = record.model_copy(update={"explained": tuple(explained), "files": shared})
        if "json" in kinds:  # last: its presence says that everything else is there
            path = self._target(naming.record_path(loaded.item), loaded)
            if path is not None:
                write_with(path, lambda stream: stream.write(to_json(record).encode() + b"\n"))
                written.append(path)
        return tuple(written), record

    def _write_layers(
        self, loaded: _Loaded, explanation: Explanation, k: int, part: Explained, record: Record,
        names: tuple[str, str], taken: set[Path],
    ) -> Iterator[tuple[str, Path]]:  # fmt: skip
        """The layers of one class as a sheet, and as an animation from the last layer down to the input."""
        kinds = self.output.drawing.kinds
        shares = [share.pixels.cpu().numpy() for share in explanation.layers[k]]
        for kind in (kind for kind in ("layers", "depth") if kind in kinds):
            path = self._target(self._free(loaded.item, kind, names, taken), loaded)
            if path is None:
                continue
            frames = draw_layers(kind, loaded.picture.rgb, shares, explanation.view, part, record)
            if kind == "layers":
                write_png(path, frames[0], {RECORD_KEY: core_json(record, part)})
            else:
                write_gif(path, frames, LAYER_SECONDS, core_json(record, part))
            yield kind, path

    def _free(self, item: Item, kind: str, names: tuple[str, str], taken: set[Path]) -> Path:
        """The path of a file about the class of these names, added to those that are ``taken``."""
        name, index = names
        path = self.output.naming.path(item, kind, name, index)
        if path in taken:  # names that differ in nothing that a file's name keeps: Cardigan and cardigan
            path = self.output.naming.path(item, kind, f"{name} {index}", index)
        if path in taken:
            raise MediaError(f"{path}: two classes would get this name; add {{index}} to --name")
        taken.add(path)
        return path

    def _target(self, path: Path, loaded: _Loaded) -> Path | None:
        """Where a file is really written; None when one is there that stays."""
        policy = self.output.if_exists
        if policy == "rename":
            return free_neighbour(path)
        if policy == "skip" and path.exists():
            return None
        refuse_inputs(path, self.inputs)
        if policy == "overwrite" or not path.exists():
            return path
        # A run that was stopped leaves pictures without their record: those are replaced by the same again.
        stored = stored_record(path) if policy == "match" else None
        if stored is None or not self._matches(stored, loaded.picture):
            raise self._in_the_way(path)
        return path


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
        example = "'{name}.{class_slug}.{kind}.{ext}' for one"
        refuse_collisions(items, naming.record_path,
                          f"give them different names with --name, {example}, or explain them in two runs")  # fmt: skip
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
        for group in _batches(ahead(reading, read, items, READ_AHEAD), net, batch):
            views = [v for v in group if v is not None]
            for e in _explain_each(views, net, request, targets):
                if isinstance(e, Explanation):
                    magnitudes.add(e.maps)
            done += len(group)
            if on_step:
                on_step(done, len(items))
    return magnitudes.percentile(percentile)


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


def _batches(results: Iterator[T], net: Net, batch: int | None) -> Iterator[list[T]]:
    """Group what was read so that the views of a group share one size and the pictures fit in memory together."""
    group: list[T] = []
    size: tuple[int, ...] | None = None
    held = views = 0
    for result in results:
        view = result.view if isinstance(result, _Loaded) else result if isinstance(result, View) else None
        if view is not None:
            limit = batch or together(net, view)
            if size is not None and (view.rgb.shape != size or views >= limit or held > GROUP_BYTES):
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


def _settings_hash(request: Request, drawing: Drawing, net: Net) -> str:
    everything = {**asdict(request), **asdict(drawing), "network": described(net), "coda": versions()["coda"]}
    return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()
