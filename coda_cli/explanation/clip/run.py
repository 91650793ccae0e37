"""Explain one clip, from its frames to its files. Nothing is printed.

Frames stream through decoding, the network, drawing and encoding, each in threads of its own with bounded queues
between them; only its logits stay in memory of each frame. What has to be known of the whole clip before the first
frame is drawn comes from a first pass: a plain forward pass gives the class predicted most often and the curve of its
logits, and some evenly spaced frames are decomposed to find the colour scale.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path
from typing import Literal

from coda_cli.checkpoints.loading import Net, file_sha256
from coda_cli.errors import CodaError, UsageError
from coda_cli.explanation.clip.drawing import ClipDrawing, Painter
from coda_cli.explanation.clip.files import ClipOutputs, Sink
from coda_cli.explanation.clip.neurons import neuron_parts, neurons_of
from coda_cli.explanation.clip.record import ClipTally
from coda_cli.explanation.clip.survey import Survey, explained, grouped_views, survey
from coda_cli.explanation.drawing import refuse_style
from coda_cli.explanation.files import FORCE_REPLACES, FilePolicy
from coda_cli.explanation.picture import Explanation
from coda_cli.explanation.record import network_part, settings_hash, versions
from coda_cli.explanation.regions.annotations import Place
from coda_cli.explanation.regions.asked import Regions
from coda_cli.explanation.regions.shapes import Region
from coda_cli.explanation.request import Request, network_of, refuse_unknown
from coda_cli.media.files import prepare, utf8
from coda_cli.media.view import View
from coda_cli.schema.clips import ClipRecord, ClipSource, FrameRecord, SelectionPart
from coda_cli.schema.neurons import NeuronPart
from coda_cli.schema.parts import ViewPart
from coda_cli.video.reading import Frame, Reader, Selection, Source, kind_of, probe, source_name, uninterrupted
from coda_cli.video.spans import pixel_box
from coda_cli.vocabulary import ClassPolicy, Fit, Precision


class ClipExplanation:
    """A clip that will be explained: iterate over it for the records of its frames, or save it as a clip.

    Args:
        source: a file, a folder or printf pattern of pictures, or the number of a camera.
        net: the network.
        request: what is asked.
        selection: which frames, and which part of them.
        policy: the predicted class is that of the whole clip ("clip") or each frame's own ("frame").
        batch: how many frames to compute together; decided by their size unless given.
        spans: of time that are summed up, (start, end) in seconds.

    Raises:
        UsageError: the network has no such class, or strongest channels are asked for.
    """

    def __init__(
        self,
        source: Source,
        net: Net,
        request: Request,
        selection: Selection | None = None,
        *,
        policy: ClassPolicy = "clip",
        batch: int | None = None,
        spans: Sequence[tuple[float, float]] = (),
    ) -> None:
        self.spans = tuple(spans)
        self.source, self.net, self.request = source, net, request
        self.selection, self.policy, self.batch = selection or Selection(), policy, batch
        refuse_unknown("policy", policy, ClassPolicy)
        neurons_of(request)
        self.targets = request.targets(net)

    def __iter__(self) -> Iterator[FrameRecord]:
        for record in self.records(ClipDrawing(strip=False), ClipOutputs()):
            if isinstance(record, FrameRecord):
                yield record

    def __repr__(self) -> str:
        return f"<ClipExplanation of {source_name(self.source)} by {self.net.checkpoint.name}>"

    def settings(self, drawing: ClipDrawing) -> str:
        """Compute a hash of everything that decides the result, except the clip and the weights.

        Args:
            drawing: how frames are drawn.

        Returns:
            sha256 as hex digits, as the clip's record has it.
        """
        more = {"spans": self.spans} if self.spans else {}
        return settings_hash(self.net, self.request, self.selection, drawing, policy=self.policy, **more)

    def save(
        self, path: str | Path, *, drawing: ClipDrawing | None = None, audio: bool = True, force: bool = False
    ) -> ClipRecord:
        """Explain the clip and write it: pictures beside their evidence, and the records beside the clip.

        Args:
            path: the clip to write: .mp4, .webm, .gif or .webp, or a name without a suffix for a folder of pictures.
                The records are written beside it, as .coda.jsonl.
            drawing: how frames are drawn.
            audio: whether the sound is kept, in mp4 and webm.
            force: whether files that exist are replaced.

        Returns:
            The record of the whole clip.

        Raises:
            UsageError: a file exists already, or the suffix is none of these.
            MediaError: the clip cannot be read or written.
            ExactnessError: logits are not finite.
        """
        path = Path(path)
        record = path.with_suffix(".coda.jsonl")
        inputs = [] if isinstance(self.source, int) else [Path(self.source)]
        policy = FilePolicy("overwrite" if force else "error", inputs, advice=FORCE_REPLACES, error=UsageError)
        for file in (path, record):
            policy.place(file)
        prepare(path.parent)
        outputs = ClipOutputs({kind_of(path): path}, record, audio, replace=force)
        *_, summary = self.records(drawing or ClipDrawing(), outputs)
        assert isinstance(summary, ClipRecord)
        return summary

    def records(
        self,
        drawing: ClipDrawing,
        outputs: ClipOutputs,
        *,
        on_survey: Callable[[int], None] | None = None,
        on_interrupt: Callable[[ClipRecord], None] | None = None,
    ) -> Generator[FrameRecord | ClipRecord, None, None]:
        """Explain the clip frame by frame, and write what is asked for.

        When it is interrupted, by Ctrl-C or because the generator is closed, the frames so far become a valid, shorter
        clip.

        Args:
            drawing: how frames are drawn.
            outputs: what is written.
            on_survey: called during the first pass with the number of frames seen so far.
            on_interrupt: called after an interruption with the record of the shorter clip.

        Yields:
            A record for every frame as it is done, then, after the files are complete, one for the whole clip.

        Raises:
            UsageError: the network cannot be drawn in this style, or another run writes the same files.
            MediaError: the clip cannot be read or written, or a file exists that may not be replaced.
            ExactnessError: logits are not finite.
        """
        with outputs.held():
            yield from self._records(drawing, outputs, on_survey, on_interrupt)

    def _records(
        self,
        drawing: ClipDrawing,
        outputs: ClipOutputs,
        on_survey: Callable[[int], None] | None,
        on_interrupt: Callable[[ClipRecord], None] | None,
    ) -> Generator[FrameRecord | ClipRecord, None, None]:
        """Explain the clip frame by frame, when no other run writes its files."""
        run = _ClipRun(self, drawing, outputs, on_survey)
        with Sink(run.painter(), outputs, *run.rate_and_sound()) as sink:
            try:
                for group, explanations in run.explained():
                    for frame, explanation in zip(group, explanations, strict=True):
                        sink.wait()
                        with uninterrupted():
                            regions = run.regions(frame, explanation.view)
                            scales, neurons = sink.painter.scales(explanation), run.neurons(explanation, regions)
                            record = run.tally.add(frame, explanation, scales, regions, neurons)
                            sink.put(frame, explanation, record, regions)
                        yield record
            except BaseException as error:
                # After Ctrl-C, or when the generator is closed or the process ends, the frames so far become a clip. An
                # error in doing so must not hide what ended the run.
                if not isinstance(error, Exception) and run.tally.frames:
                    with contextlib.suppress(CodaError), uninterrupted():
                        summary = sink.finish(run.summary("interrupted"))
                        if on_interrupt:
                            on_interrupt(summary)
                raise
            with uninterrupted():
                summary = sink.finish(run.summary("ok"))
        yield summary


def explain_clip(
    source: Source,
    net: Net | str | Path | None = None,
    classes: Sequence[str | int] | str | int = (),
    *,
    versus: str | None = None,
    fit: Fit = "crop",
    precision: Precision = "float32",
    tolerance: float | None = None,
    selection: Selection | None = None,
    policy: ClassPolicy = "clip",
    regions: Regions | None = None,
    spans: Sequence[tuple[float, float]] = (),
    neurons: Sequence[str] = (),
) -> ClipExplanation:
    """Explain a clip frame by frame.

    Nothing is computed until the result is iterated over or saved.

    Args:
        source: a file, a folder or printf pattern of pictures, or the number of a camera.
        net: a network from ``load``, or its name or file; the default network unless given.
        classes: class names, WordNet ids, indices, "top:K" or "all"; the predicted class unless given.
        versus: a class that is subtracted from each of ``classes``.
        fit: how frames are shown to the network: "crop", "pad" or "native".
        precision: what is computed in; "float64" needs a network that was loaded with that dtype.
        tolerance: replaces the relative tolerance of the residual.
        selection: which frames, and which part of them.
        policy: the predicted class is that of the whole clip ("clip") or each frame's own ("frame").
        regions: boxes, masks or annotations: contributions inside them are summed in the records, and they are drawn.
        spans: of time that are summed up, (start, end) in seconds.
        neurons: activations that are explained in every frame, each written as for ``inside.asked``; they are drawn in
            the place of the classes.

    Returns:
        The explanation of the clip.

    Raises:
        UsageError: the network has no such class, or strongest channels are asked for.
        CheckpointError: the network cannot be loaded.

    Example:
        >>> coda.explain_clip("clip.mp4", classes=["parachute"]).save("clip.gif")
    """
    request = Request(classes, versus, fit, precision, tolerance, None, regions, neurons)  # type: ignore[arg-type]
    net = network_of(net, precision)
    return ClipExplanation(source, net, request, selection, policy=policy, spans=spans)


class _ClipRun:
    """One pass of a clip through the network, after the first pass that it may need."""

    def __init__(
        self,
        clip: ClipExplanation,
        drawing: ClipDrawing,
        outputs: ClipOutputs,
        on_survey: Callable[[int], None] | None,
    ) -> None:
        refuse_style(clip.net, drawing.style)
        neurons_of(clip.request, centroid=drawing.centroid)
        self.clip, self.drawing, self.outputs = clip, drawing, outputs
        self.start, self.targets = time.perf_counter(), clip.targets
        source, selection = clip.source, clip.selection
        self.settings = clip.settings(drawing)
        self.info = probe(source, selection.fps)
        path = None if isinstance(source, int) else Path(source)
        self.sha256 = file_sha256(path) if path and path.is_file() else None
        self.reader = Reader(source, selection)
        corner = pixel_box(selection.box, (self.info.width, self.info.height)) if selection.box else (0, 0)
        self.origin = corner[0], corner[1]  # of the frames, in the source's pixels
        self.tally = ClipTally(clip.net, utf8(source_name(source)), self.origin, clip.spans, clip.request.regions)
        self.region_files: dict[str, str] = {}
        self._regions: tuple[object, tuple[Region, ...]] = (None, ())
        self.found: Survey | None = None
        self.scale_frames: int | None = None
        number = None if isinstance(drawing.scale, str) else float(drawing.scale)
        self.neuron_scales = None if number is None else (number,) * len(clip.request.neurons)
        self.view: View | None = None
        self._make_first_pass(on_survey)

    def _make_first_pass(self, on_survey: Callable[[int], None] | None) -> None:
        """Make the first pass, if anything has to be known of the whole clip."""
        clip, camera = self.clip, isinstance(self.clip.source, int)
        self.drawing = drawing = self.drawing.settled(clip.net, clip.request, once=camera)
        if camera:
            return
        voted = clip.policy == "clip" and self.targets.depend_on_logits
        if not voted and drawing.scale != "clip" and not drawing.strip:
            return
        self.found = survey(clip.net, Reader(clip.source, clip.selection), clip.request, clip.batch, on_survey)
        if voted:
            self.targets = self.found.targets(clip.net, clip.request)
        if drawing.scale == "clip":
            found = self.found.scale(clip.net, clip.request, self.targets, drawing.percentile)
            self.drawing, self.scale_frames = replace(drawing, scale=found.logit), found.frames
            self.neuron_scales = found.neurons

    def painter(self) -> Painter:
        """Make the painter that draws the frames."""
        clip, lasting = self.clip, self.targets
        if clip.policy == "frame" and self.found and self.targets.depend_on_logits:
            lasting = self.found.targets_of_frames(clip.net, clip.request)
        neurons = neurons_of(clip.request)
        return Painter(clip.net, self.drawing, self.found, lasting, self.targets, self.origin, neurons)

    def rate_and_sound(self) -> tuple[Fraction | None, Path | None]:
        """The clip's rate, if every frame is taken, and the file with its sound, if there is one."""
        source = self.clip.source
        every_frame = self.clip.selection.every == 1 and not self.reader.fps
        file = Path(source) if isinstance(source, str | Path) and self.info.has_audio else None
        return self.info.rate if every_frame else None, file

    def explained(self) -> Iterator[tuple[tuple[Frame, ...], list[Explanation]]]:
        """Explain groups of frames, in order."""
        clip, kept = self.clip, self.found.kept if self.found else ()
        frames = _with_durations(self.reader)
        with contextlib.closing(grouped_views(frames, clip.net, clip.request, clip.batch)) as groups:
            for group, explanations in explained(groups, clip.net, clip.request, self.targets, kept):
                self.view = group.views[0]
                yield group.frames, explanations

    def neurons(self, explanation: Explanation, regions: Sequence[Region]) -> tuple[NeuronPart, ...]:
        """Make the parts of a frame's record about its neurons."""
        return neuron_parts(explanation, self.neuron_scales, self.drawing.percentile, regions)

    def regions(self, frame: Frame, view: View) -> tuple[Region, ...]:
        """Find the regions of a frame; those of the frame before are taken where they are the same."""
        if (asked := self.clip.request.regions) is None:
            return ()
        source = self.clip.source
        place = Place(Path(source_name(source)), frame=frame.index, time=frame.time)
        key = asked.key(place), view.box
        if self._regions[0] != key:
            shown = View(view.rgb, self._box(view), (self.info.width, self.info.height))
            found = asked.found(place, shown)
            self.region_files |= found.files
            self._regions = key, found.regions
        return self._regions[1]

    def _box(self, view: View) -> tuple[float, float, float, float]:
        """What a view covers, in pixels of the source."""
        (x0, y0, x1, y1), (dx, dy) = view.box, self.origin
        return x0 + dx, y0 + dy, x1 + dx, y1 + dy

    def summary(self, status: Literal["ok", "interrupted"]) -> ClipRecord:
        """Make the record of the clip, as far as it was explained."""
        clip, tally, drawing = self.clip, self.tally, self.drawing
        return ClipRecord(
            status=status,
            source=self._source_part(),
            network=network_part(clip.net),
            view=self._view_part(),
            selection=SelectionPart(**asdict(clip.selection)),
            frames=tally.frames,
            lost=self.reader.lost,
            predicted=tally.shares(),
            explained=tally.explained(),
            neurons=tally.neurons(),
            exact=tally.exact,
            worst_residual=None if tally.no_tolerance else tally.worst,
            scale="frame" if isinstance(drawing.scale, str) else drawing.scale,
            scale_frames=self.scale_frames,
            files={kind: utf8(path.as_posix()) for kind, path in self.outputs.clips.items()},
            region_files=self.region_files,
            notes=tuple(map(utf8, tally.notes())),
            settings=self.settings,
            device=str(clip.net.device),
            precision=clip.request.precision,
            versions=versions(),
            seconds=time.perf_counter() - self.start,
        )

    def _source_part(self) -> ClipSource:
        """Make the part of the record that describes the clip's file or camera."""
        info = self.info
        return ClipSource(
            path=self.tally.path,
            sha256=self.sha256,
            width=info.width,
            height=info.height,
            duration=info.duration,
            time_base=info.time_base,
            notes=tuple(utf8(note) for note in dict.fromkeys((*info.notes, *self.reader.notes))),
        )

    def _view_part(self) -> ViewPart:
        """Make the part of the record that says what the network saw, in pixels of the source."""
        assert self.view is not None
        width, height = self.view.resolution
        return ViewPart(fit=self.clip.request.fit, width=width, height=height, box=self._box(self.view))


def _with_durations(reader: Reader) -> Iterator[Frame]:
    """Give frames their durations: until the next frame; for the last one, until the end that was asked for."""
    before, usual = None, None
    for frame in reader:
        if before is not None:
            usual = frame.time - before.time
            yield replace(before, duration=usual)
        before = frame
    if before is not None:
        left = reader.until - before.time if reader.until is not None else 0.0
        thinned = reader.selection.every > 1 or reader.fps
        own = usual or before.duration if thinned else before.duration or usual
        yield replace(before, duration=left if left > 0 else own)
