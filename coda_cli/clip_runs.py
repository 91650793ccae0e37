"""The verb for a clip: explain it frame by frame, and write it as a clip. Prints nothing, exits nowhere.

Frames stream through decoding, the network, drawing and encoding, each in threads of its own with bounded queues
between them: memory does not depend on the length. What has to be known of the whole clip before the first frame is
drawn, the class predicted most often, the curve of its logits and the colour scale, comes from one plain forward pass.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import platform
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from coda_cli.accounts import TOP, class_part, sigmoid, to_source
from coda_cli.checkpoints.loading import Net, file_sha256
from coda_cli.checkpoints.targets import Target, Targets
from coda_cli.core.networks import encode
from coda_cli.errors import CodaError, MediaError
from coda_cli.explain import Explanation, Request, explain_views
from coda_cli.media.clips import ClipWriter, Frame, Kind, Reader, Selection, probe, uninterrupted
from coda_cli.media.clips import name_of as name_of_source
from coda_cli.media.sources import utf8
from coda_cli.media.spans import pixel_box
from coda_cli.media.stills import atomic
from coda_cli.media.view import View, fit, paste_back
from coda_cli.render.clip import Curve, Sheet, marked, resized
from coda_cli.render.colour import robust_scale
from coda_cli.render.overlay import heatmap, overlay
from coda_cli.report.clip_records import (
    ClipRecord,
    ClipSource,
    ExplainedClip,
    ExplainedFrame,
    FrameRecord,
    PredictedShare,
    to_json,
)
from coda_cli.report.evidence import measure
from coda_cli.report.records import Network, ScoredClass, ViewPart

Policy = Literal["clip", "frame"]  # whose prediction is explained
Layout = Literal["side", "overlay", "heatmap", "panel"]
LAYOUTS: dict[str, tuple[str, ...]] = {
    "side": ("picture", "overlay"), "overlay": ("overlay",), "heatmap": ("heatmap",),
    "panel": ("picture", "overlay", "heatmap"),
}  # fmt: skip
SCALE_FRAMES = 48  # of a clip, evenly spaced: what its colour scale is found from
HIGHEST, LOWEST = 720, 240  # pictures are drawn at the source's height within these bounds
UNDER_WAY = 24  # frames drawn or encoded at once, at most: they hold memory
T = TypeVar("T")
RGB = NDArray[np.uint8]


@dataclass(frozen=True)
class ClipDrawing:
    """How a clip is drawn. ``scale``: contribution in full colour, in logit units; "clip" or "frame" find it."""

    layout: Layout = "side"
    scale: float | Literal["clip", "frame"] = "clip"
    percentile: float = 99.5
    alpha: float = 0.85
    strip: bool = True
    centroid: bool = False
    height: int | None = None


@dataclass
class Survey:
    """What one forward pass over a clip found: logits [n, classes] of its frames at ``times`` [n], and some views."""

    times: list[float] = field(default_factory=list)
    logits: list[NDArray[np.float64]] = field(default_factory=list)
    views: list[View] = field(default_factory=list)  # at most 2 SCALE_FRAMES, evenly spaced
    every: int = 1  # the spacing
    seen: int = 0

    def add(self, time: float, logits: NDArray[np.float64], view: View) -> None:
        """Take note of the next frame."""
        self.times.append(time)
        self.logits.append(logits)
        if self.seen % self.every == 0:
            self.views.append(view)
            if len(self.views) >= 2 * SCALE_FRAMES:  # every other one goes: the rest stays evenly spaced
                self.views, self.every = self.views[::2], self.every * 2
        self.seen += 1

    def predicted(self) -> int:
        """The class predicted most often; of equals the one with the higher mean logit."""
        logits = np.array(self.logits)
        votes = np.bincount(logits.argmax(1), minlength=logits.shape[1])
        return int(np.lexsort((-logits.mean(0), -votes))[0])

    def curves(self, targets: Sequence[Target], net: Net) -> list[Curve]:
        """The logits of targets over time."""
        logits, times = np.array(self.logits), np.array(self.times)
        return [
            Curve(name_of(t, net), times, logits[:, t.index] - (0 if t.versus is None else logits[:, t.versus]))
            for t in targets
        ]


def name_of(target: Target, net: Net) -> str:
    """How a target is called in captions."""
    names = net.checkpoint.classes
    return names[target.index] if target.versus is None else f"{names[target.index]} − {names[target.versus]}"


def survey(
    net: Net, frames: Iterable[Frame], request: Request, on_frame: Callable[[int], None] | None = None
) -> Survey:
    """Classify every frame of a clip, without decomposing any."""
    found = Survey()
    for group in _grouped(_ahead(frames, lambda frame: (frame, _view(net, request, frame.rgb)))):
        logits = _classified(net, [view for _, view in group], request)
        for (frame, view), row in zip(group, logits, strict=True):
            found.add(frame.time, row, view)
        if on_frame:
            on_frame(found.seen)
    if not found.seen:
        raise MediaError("no frame is left to explain")
    return found


def clip_scale(net: Net, found: Survey, request: Request, targets: Targets, percentile: float) -> tuple[float, int]:
    """The ``percentile`` of |contribution| over evenly spaced frames of a clip, and of how many."""
    sample = found.views[:: max(1, len(found.views) // SCALE_FRAMES)]
    maps = [e.maps.ravel() for view in sample for e in explain_views([view], net, request, targets)]
    return float(f"{robust_scale(np.concatenate(maps), percentile):.6g}"), len(sample)


def fixed_targets(net: Net, request: Request, found: Survey | None) -> Targets:
    """The classes of a request for a whole clip: what is asked for; "top" and the prediction from all its frames."""
    if found is None:
        return request.targets(net)
    # The vote decides who is predicted; "top:K" goes by the mean over time.
    mean = np.array(found.logits).mean(0)
    mean[found.predicted()] = mean.max() + 1
    chosen = request.targets(net).of(mean)
    return replace(request, classes=tuple(str(t.index) for t in chosen)).targets(net)


def _view(net: Net, request: Request, rgb: RGB) -> View:
    p = net.checkpoint.preprocessing
    return fit(rgb, p.resize, p.crop, request.fit)


@torch.no_grad()
def _classified(net: Net, views: Sequence[View], request: Request) -> NDArray[np.float64]:
    parameter = next(net.model.parameters())
    rgb = torch.from_numpy(np.stack([v.rgb for v in views])).permute(0, 3, 1, 2)
    x = encode(rgb.to(parameter.device)).to(parameter.dtype)
    with torch.autocast(parameter.device.type, torch.bfloat16, enabled=request.precision == "bfloat16"):
        logits: NDArray[np.float64] = net.model(x).double().cpu().numpy()
    return logits


def _ahead(items: Iterable[T], prepare: Callable[[T], tuple[T, View]], depth: int = 12) -> Iterator[tuple[T, View]]:
    """Read ``items`` in a thread of their own, ``depth`` ahead, each prepared there."""
    source = iter(items)
    nothing = object()

    def following() -> object:
        item = next(source, nothing)
        return nothing if item is nothing else prepare(item)  # type: ignore[arg-type]

    with ThreadPoolExecutor(1) as pool:
        waiting: deque[Future[object]] = deque(pool.submit(following) for _ in range(depth))
        try:
            while (result := waiting.popleft().result()) is not nothing:
                waiting.append(pool.submit(following))
                yield result  # type: ignore[misc]
        finally:
            pool.shutdown(cancel_futures=True)


def _grouped(pairs: Iterator[tuple[T, View]], batch: int | None = None) -> Iterator[list[tuple[T, View]]]:
    """Batches that fit in the cache of a processor: all views of a clip have one size."""
    group: list[tuple[T, View]] = []
    for pair in pairs:
        group.append(pair)
        h, w = pair[1].rgb.shape[:2]
        if len(group) >= (batch or max(1, min(16, (1 << 17) // (h * w)))):
            yield group
            group = []
    if group:
        yield group


# ---- the account -----------------------------------------------------------------------------------------------------


@dataclass
class _Tally:
    """Sums over the frames in which one target was explained."""

    first: ExplainedFrame
    frames: int = 0
    logit: float = 0.0
    positive: float = 0.0
    negative: float = 0.0
    similarity: float = 0.0
    similar: int = 0
    length: float = 0.0
    evidence: float = 0.0  # positive times duration

    def add(self, part: ExplainedFrame, duration: float) -> None:
        self.frames += 1
        self.logit += part.logit
        self.positive += part.positive
        self.negative += part.negative
        self.length += duration
        self.evidence += part.positive * duration
        if part.similarity is not None:
            self.similarity += part.similarity
            self.similar += 1


class Account:
    """What is counted over the frames of a clip while they pass."""

    def __init__(self, net: Net, path: str, origin: tuple[int, int] = (0, 0)) -> None:
        self.net, self.path, self.origin = net, path, origin
        self.frames, self.worst, self.exact, self.no_tolerance = 0, 0.0, True, False
        self._predicted: Counter[int] = Counter()
        self._tallies: dict[Target, _Tally] = {}
        self._spans: list[tuple[float, float, int]] = []  # from, to, the class that leads
        self._before: dict[Target, NDArray[np.float32]] = {}

    def add(self, frame: Frame, explanation: Explanation, scales: Sequence[float]) -> FrameRecord:
        """Count one frame and make its record."""
        checkpoint = self.net.checkpoint
        logits = explanation.decomposition.logits[0].double().cpu().numpy()
        best = [int(i) for i in np.argsort(-logits, kind="stable")[:TOP]]
        parts = tuple(
            self._explained(explanation, k, target, scales[k]) for k, target in enumerate(explanation.targets)
        )
        self.frames += 1
        self._predicted[best[0]] += 1
        duration = frame.duration or 0.0
        self._lead(frame.time, frame.time + duration, best[0])
        for target, part in zip(explanation.targets, parts, strict=True):
            self._tallies.setdefault(target, _Tally(part)).add(part, duration)
            self.exact &= part.exact
            if part.tolerance:
                self.worst = max(self.worst, abs(part.residual) / part.tolerance)
            elif part.residual:
                self.no_tolerance = True
        self._before = dict(zip(explanation.targets, explanation.maps, strict=True))
        return FrameRecord(
            path=self.path, frame=frame.index, time=frame.time, pts=frame.pts, explained=parts,
            top=tuple(
                ScoredClass(**class_part(checkpoint, i).model_dump(), logit=float(logits[i]),
                            probability=sigmoid(float(logits[i])))
                for i in best
            ),
        )  # fmt: skip

    def _explained(self, explanation: Explanation, k: int, target: Target, scale: float) -> ExplainedFrame:
        d, pixels, checkpoint = explanation.decomposition, explanation.maps[k], self.net.checkpoint
        evidence, logit = measure(pixels), float(d.logit[0, k])
        return ExplainedFrame(
            **class_part(checkpoint, target.index).model_dump(),
            versus=None if target.versus is None else class_part(checkpoint, target.versus),
            logit=logit,
            probability=sigmoid(logit) if target.versus is None else None,
            bias=float(d.bias[0, k]) + 0.0,
            positive=evidence.positive,
            negative=evidence.negative,
            residual=float(d.residual[0, k]),
            tolerance=float(d.tolerance[0, k]),
            exact=bool(d.exact[0, k]),
            centroid=None if evidence.centroid is None else self._place(explanation.view, *evidence.centroid),
            half_share=evidence.half_share,
            similarity=_cosine(self._before.get(target), pixels),
            scale=scale,
        )

    def _place(self, view: View, x: float, y: float) -> tuple[float, float]:
        """A point of the view in the source's pixels."""
        u, v = to_source(view, x, y)
        return u + self.origin[0], v + self.origin[1]

    def _lead(self, start: float, end: float, leader: int) -> None:
        if self._spans and self._spans[-1][2] == leader:
            start = self._spans.pop()[0]
        self._spans.append((start, end, leader))

    def explained(self) -> tuple[ExplainedClip, ...]:
        """The summary of every target."""
        return tuple(
            ExplainedClip(
                index=t.first.index, name=t.first.name, wnid=t.first.wnid, versus=t.first.versus, frames=t.frames,
                mean_logit=t.logit / t.frames, mean_positive=t.positive / t.frames,
                mean_negative=t.negative / t.frames, stability=t.similarity / t.similar if t.similar else None,
                leads=tuple((start, end) for start, end, leader in self._spans if leader == t.first.index),
                evidence_per_second=t.evidence / t.length if t.length else 0.0,
            )
            for t in self._tallies.values()
        )  # fmt: skip

    def shares(self) -> tuple[PredictedShare, ...]:
        """Predicted classes, the most frequent first."""
        return tuple(
            PredictedShare(**class_part(self.net.checkpoint, i).model_dump(), share=n / self.frames)
            for i, n in self._predicted.most_common()
        )


def _cosine(before: NDArray[np.float32] | None, now: NDArray[np.float32]) -> float | None:
    if before is None:
        return None
    a, b = before.astype(np.float64).ravel(), now.astype(np.float64).ravel()
    size = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / size if size else None


# ---- the clip --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ClipOutputs:
    """What is written about a clip: ``clips`` by their kind, and the ``record`` of lines."""

    clips: Mapping[Kind, Path] = field(default_factory=dict)
    record: Path | None = None
    audio: bool = True


def explain_clip(
    net: Net,
    source: str | Path | int,
    selection: Selection,
    request: Request,
    drawing: ClipDrawing,
    outputs: ClipOutputs,
    *,
    policy: Policy = "clip",
    batch: int | None = None,
    on_survey: Callable[[int], None] | None = None,
) -> Generator[FrameRecord | ClipRecord, None, None]:
    """Explain a clip: yields a record for every frame as it is done, then one for the whole, after the files are there.

    ``policy``: the predicted class is that of the whole clip, or each frame's own. ``on_survey`` hears how many frames
    the first pass has seen. Interrupted (Ctrl-C, or the generator closed) what is done becomes a valid, shorter clip.
    Raises UsageError, MediaError, ExactnessError.
    """
    run = _Run(net, source, selection, request, drawing, outputs)
    run.look(policy, on_survey)
    with _Sink(run.painter(policy), outputs, source, selection) as sink:
        try:
            for frame, explanation in run.explained(batch):
                sink.wait()
                with uninterrupted():
                    record = run.account.add(frame, explanation, sink.painter.scales(explanation))
                    sink.put(frame, explanation, record)
                yield record
        except BaseException as error:
            # Ctrl-C, the end of the consumer or of the process: the frames so far become a clip. That must not fail in
            # place of what ended the run.
            if not isinstance(error, Exception) and run.account.frames:
                with contextlib.suppress(CodaError), uninterrupted():
                    sink.finish(run.summary("interrupted"))
            raise
        with uninterrupted():
            sink.finish(summary := run.summary("ok"))
    yield summary


class _Run:
    """One clip on its way through the network."""

    def __init__(
        self,
        net: Net,
        source: str | Path | int,
        selection: Selection,
        request: Request,
        drawing: ClipDrawing,
        outputs: ClipOutputs,
    ) -> None:
        self.net, self.source, self.selection, self.request = net, source, selection, request
        self.drawing, self.outputs = drawing, outputs
        self.start = time.perf_counter()
        self.targets = request.targets(net)
        self.info = probe(source)
        path = None if isinstance(source, int) else Path(source)
        self.sha256 = file_sha256(path) if path and path.is_file() else None
        self.reader = Reader(source, selection)
        corner = pixel_box(selection.box, (self.info.width, self.info.height)) if selection.box else (0, 0)
        self.origin = corner[0], corner[1]  # of the frames, in the source's pixels
        self.account = Account(net, utf8(name_of_source(source)), self.origin)
        self.found: Survey | None = None
        self.scale_frames: int | None = None
        self.view: View | None = None

    def look(self, policy: Policy, on_survey: Callable[[int], None] | None) -> None:
        """The first pass, if anything has to be known of the whole clip."""
        self.settings = settings_of(self.request, self.selection, self.drawing, policy)
        if isinstance(self.source, int):  # a camera cannot be looked at twice: every frame stands for itself
            scale = "frame" if self.drawing.scale == "clip" else self.drawing.scale
            self.drawing = replace(self.drawing, scale=scale, strip=False)
            return
        if policy != "clip" and self.drawing.scale != "clip" and not self.drawing.strip:
            return
        self.found = survey(self.net, Reader(self.source, self.selection), self.request, on_survey)
        if policy == "clip":
            self.targets = fixed_targets(self.net, self.request, self.found)
        if self.drawing.scale == "clip":
            scale, self.scale_frames = clip_scale(
                self.net, self.found, self.request, self.targets, self.drawing.percentile
            )
            self.drawing = replace(self.drawing, scale=scale)

    def painter(self, policy: Policy) -> _Painter:
        """What draws the frames. The curves are of classes that stay the same over the clip, whatever is explained."""
        lasting = self.targets if policy == "clip" or not self.found else (
            fixed_targets(self.net, self.request, self.found))  # fmt: skip
        return _Painter(self.net, self.drawing, self.found, lasting, self.targets.most, self.origin)

    def explained(self, batch: int | None) -> Iterator[tuple[Frame, Explanation]]:
        """Every frame with its explanation, in order."""
        frames = _with_durations(self.reader)
        for group in _grouped(_ahead(frames, lambda frame: (frame, _view(self.net, self.request, frame.rgb))), batch):
            self.view = group[0][1]
            explanations = explain_views([view for _, view in group], self.net, self.request, self.targets)
            yield from ((frame, e) for (frame, _), e in zip(group, explanations, strict=True))

    def summary(self, status: Literal["ok", "interrupted"]) -> ClipRecord:
        """The record of the clip as far as it was explained."""
        net, account, drawing = self.net, self.account, self.drawing
        assert self.view is not None
        (x0, y0, x1, y1), (dx, dy) = self.view.box, self.origin
        height, width = self.view.rgb.shape[:2]
        return ClipRecord(
            status=status,
            source=ClipSource(
                path=account.path, sha256=self.sha256,
                width=self.info.width, height=self.info.height, duration=self.info.duration,
                notes=tuple(utf8(n) for n in dict.fromkeys((*self.info.notes, *self.reader.notes))),
            ),
            network=Network(
                name=net.checkpoint.name, sha256=net.sha256, architecture=net.checkpoint.architecture,
                temperature=float(net.checkpoint.arguments["temperature"]), assumed=net.assumed,
            ),
            view=ViewPart(fit=self.request.fit, width=width, height=height, box=(x0 + dx, y0 + dy, x1 + dx, y1 + dy)),
            frames=account.frames, lost=self.reader.lost, predicted=account.shares(), explained=account.explained(),
            exact=account.exact, worst_residual=None if account.no_tolerance else account.worst,
            scale="frame" if isinstance(drawing.scale, str) else drawing.scale, scale_frames=self.scale_frames,
            files={kind: utf8(clip.as_posix()) for kind, clip in self.outputs.clips.items()},
            settings=self.settings,
            device=str(next(net.model.parameters()).device), precision=self.request.precision,
            versions={"coda": version("coda-cli"), "torch": torch.__version__, "python": platform.python_version()},
            seconds=time.perf_counter() - self.start,
        )  # fmt: skip


def settings_of(request: Request, selection: Selection, drawing: ClipDrawing, policy: Policy) -> str:
    """A hash of everything that decides the result but the source and the weights."""
    asked = {**asdict(request), **asdict(selection), **asdict(drawing)}
    everything = {**asked, "policy": policy, "coda": version("coda-cli")}
    return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()


def _with_durations(frames: Iterable[Frame]) -> Iterator[Frame]:
    """Frames that last until the next one; the last as long as its file says, or as long as the one before."""
    before, usual = None, 0.0
    for frame in frames:
        if before is not None:
            usual = frame.time - before.time
            yield replace(before, duration=usual)
        before = frame
    if before is not None:
        yield replace(before, duration=before.duration or usual)


class _Painter:
    """Draws the frames of one clip."""

    def __init__(
        self,
        net: Net,
        drawing: ClipDrawing,
        found: Survey | None,
        targets: Targets,
        most: int,
        origin: tuple[int, int],
    ) -> None:
        self.net, self.drawing, self.origin = net, drawing, origin
        maps = sum(kind != "picture" for kind in LAYOUTS[drawing.layout])
        self._places = len(LAYOUTS[drawing.layout]) - maps + maps * most
        self._curves: list[Curve] = []
        if drawing.strip and found is not None:
            logits = np.array(found.logits)
            self._curves = found.curves(targets.of(logits.mean(0)), net)
        self._sheet: Sheet | None = None

    def scales(self, explanation: Explanation) -> list[float]:
        """The contribution in full colour of each target's map."""
        if self.drawing.scale == "frame":
            return [robust_scale(pixels, self.drawing.percentile) for pixels in explanation.maps]
        return [float(self.drawing.scale)] * len(explanation.maps)

    def prepare(self, frame: Frame) -> None:
        """Lay the sheet out for the first frame; all have one size."""
        if self._sheet is None:
            scale = self.drawing.scale
            stated = "" if scale == "frame" else f"full colour ±{scale:.2g} logit a pixel"
            self._sheet = Sheet(self._places, self._size(frame), self._curves, stated)

    def _size(self, frame: Frame) -> tuple[int, int]:
        """(width, height) a picture is drawn at."""
        height, width = frame.rgb.shape[:2]
        drawn = self.drawing.height or min(max(height, LOWEST), HIGHEST)
        return max(1, round(width * drawn / height)), drawn

    def draw(self, frame: Frame, explanation: Explanation, record: FrameRecord) -> RGB:
        """One frame of the clip."""
        assert self._sheet is not None
        size = self._size(frame)
        factor = size[1] / frame.rgb.shape[0]
        picture = resized(frame.rgb, size)
        row = []
        for kind in LAYOUTS[self.drawing.layout]:
            if kind == "picture":
                row.append(picture)
                continue
            for pixels, part in zip(explanation.maps, record.explained, strict=True):
                values = paste_back(pixels, explanation.view, size)
                if kind == "heatmap":
                    shown = heatmap(values, part.scale)
                else:
                    shown = overlay(picture, values, part.scale, self.drawing.alpha)
                if self.drawing.centroid and part.centroid:
                    x, y = part.centroid[0] - self.origin[0], part.centroid[1] - self.origin[1]
                    shown = marked(shown, (x * factor, y * factor))
                row.append(shown)
        return self._sheet.frame(row, frame.time, _caption(explanation, record, self.net, frame.time))


def _caption(explanation: Explanation, record: FrameRecord, net: Net, seconds: float) -> str:
    parts = []
    for target, part in zip(explanation.targets, record.explained, strict=True):
        p = "" if part.probability is None or len(record.explained) > 1 else f" · p {part.probability:.3f}"
        warning = "" if part.exact else " · NOT EXACT"
        parts.append(f"{name_of(target, net)} {part.logit:+.2f}{p}{warning}")
    return f"{seconds:.2f} s · {' · '.join(parts)}"


class _Sink:
    """Draws and encodes behind the network: frames are drawn in a pool and encoded in order in a thread of its own."""

    def __init__(self, painter: _Painter, outputs: ClipOutputs, source: str | Path | int, selection: Selection) -> None:
        self.painter = painter
        whole = selection.every == 1 and not selection.fps
        path = None if isinstance(source, int) or not Path(source).is_file() else Path(source)
        self._stack = ExitStack()
        try:
            # Entered first, it is closed last: the record's presence says that the clips are there.
            self._lines = self._stack.enter_context(atomic(outputs.record)) if outputs.record else None
            self._writers = [
                self._stack.enter_context(
                    ClipWriter(clip, kind, rate=None if path is None or not whole else probe(path).rate,
                               audio=path if outputs.audio else None)
                )
                for kind, clip in outputs.clips.items()
            ]  # fmt: skip
        except BaseException:
            self._stack.__exit__(*sys.exc_info())
            raise
        self._drawing = ThreadPoolExecutor(max(1, min(4, (os.cpu_count() or 2) - 1)))
        self._encoding = ThreadPoolExecutor(1)
        self._pending: deque[Future[None]] = deque()

    def __enter__(self) -> _Sink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._drawing.shutdown(cancel_futures=True)
        self._encoding.shutdown(cancel_futures=True)
        if kind is not None and not issubclass(kind, Exception):
            kind, error = RuntimeError, RuntimeError()  # the writers would keep what they have; finish() decides that
        self._stack.__exit__(kind, error, trace)

    def put(self, frame: Frame, explanation: Explanation, record: FrameRecord) -> None:
        """Draw and encode one frame."""
        if self._writers:
            self.painter.prepare(frame)
            drawn = self._drawing.submit(self.painter.draw, frame, explanation, record)
            self._pending.append(self._encoding.submit(self._write, drawn, frame))
        if self._lines:
            self._lines.write(to_json(record).encode() + b"\n")

    def wait(self) -> None:
        """Wait while too many frames are under way. Raises what drawing or encoding one raised."""
        while len(self._pending) > UNDER_WAY:
            self._pending.popleft().result()

    def _write(self, drawn: Future[RGB], frame: Frame) -> None:
        for writer in self._writers:
            writer.write(drawn.result(), frame.time, frame.duration)

    def finish(self, summary: ClipRecord) -> None:
        """End the files: with this they get their names."""
        while self._pending:
            self._pending.popleft().result()
        if self._lines:
            self._lines.write(to_json(summary).encode() + b"\n")
        self._stack.close()
