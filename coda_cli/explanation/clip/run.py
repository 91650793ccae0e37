"""One clip, from its frames to its files. Prints nothing, exits nowhere.

Frames stream through decoding, the network, drawing and encoding, each in threads of its own with bounded queues
between them: of each only its logits stay in memory. What has to be known of the whole clip before the first frame is
drawn comes from a first look: the class predicted most often and the curve of its logits from a plain forward pass, the
colour scale from some evenly spaced frames that are decomposed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path
from typing import Literal

from coda_cli.checkpoints.loading import Net, file_sha256
from coda_cli.errors import CodaError
from coda_cli.explanation.clip.drawing import ClipDrawing, Painter
from coda_cli.explanation.clip.files import ClipOutputs, Sink
from coda_cli.explanation.clip.record import Account
from coda_cli.explanation.clip.survey import Survey, grouped_views, survey
from coda_cli.explanation.picture import Explanation, Request, explain_views
from coda_cli.explanation.record import described, network_part, refuse_style, versions
from coda_cli.machine.ahead import ahead
from coda_cli.machine.lanes import batch_pool
from coda_cli.media.files import utf8
from coda_cli.media.view import View
from coda_cli.schema.clips import ClipRecord, ClipSource, FrameRecord, SelectionPart
from coda_cli.schema.pictures import ViewPart
from coda_cli.video.reading import Frame, Reader, Selection, Source, probe, source_name, uninterrupted
from coda_cli.video.spans import pixel_box

Policy = Literal["clip", "frame"]  # whose prediction is explained


def explain_clip(
    net: Net,
    source: Source,
    selection: Selection,
    request: Request,
    drawing: ClipDrawing,
    outputs: ClipOutputs,
    *,
    policy: Policy = "clip",
    batch: int | None = None,
    on_survey: Callable[[int], None] | None = None,
    on_interrupt: Callable[[ClipRecord], None] | None = None,
) -> Generator[FrameRecord | ClipRecord, None, None]:
    """Explain a clip: yields a record for every frame as it is done, then one for the whole, after the files are there.

    ``policy``: the predicted class is that of the whole clip, or each frame's own. ``on_survey`` hears how many frames
    the first pass has seen. Interrupted (Ctrl-C, or the generator closed) what is done becomes a valid, shorter clip,
    and ``on_interrupt`` gets its record. Raises UsageError, MediaError, ExactnessError.
    """
    run = _Run(net, source, selection, request, drawing, outputs, batch)
    run.look(policy, on_survey)
    with Sink(run.painter(policy), outputs, *run.rate_and_sound()) as sink:
        try:
            for frame, explanation in run.explained():
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
                    summary = sink.finish(run.summary("interrupted"))
                    if on_interrupt:
                        on_interrupt(summary)
            raise
        with uninterrupted():
            summary = sink.finish(run.summary("ok"))
    yield summary


class _Run:
    """One clip on its way through the network."""

    def __init__(
        self,
        net: Net,
        source: Source,
        selection: Selection,
        request: Request,
        drawing: ClipDrawing,
        outputs: ClipOutputs,
        batch: int | None,
    ) -> None:
        self.net, self.source, self.selection, self.request = net, source, selection, request
        self.drawing, self.outputs, self.batch = drawing, outputs, batch
        self.start = time.perf_counter()
        self.targets = request.targets(net)
        refuse_style(net, drawing.style)
        self.info = probe(source, selection.fps)
        path = None if isinstance(source, int) else Path(source)
        self.sha256 = file_sha256(path) if path and path.is_file() else None
        self.reader = Reader(source, selection)
        corner = pixel_box(selection.box, (self.info.width, self.info.height)) if selection.box else (0, 0)
        self.origin = corner[0], corner[1]  # of the frames, in the source's pixels
        self.account = Account(net, utf8(source_name(source)), self.origin)
        self.found: Survey | None = None
        self.scale_frames: int | None = None
        self.view: View | None = None

    def look(self, policy: Policy, on_survey: Callable[[int], None] | None) -> None:
        """The first pass, if anything has to be known of the whole clip."""
        self.settings = settings_of(self.net, self.request, self.selection, self.drawing, policy)
        if isinstance(self.source, int):  # a camera cannot be looked at twice: every frame stands for itself
            scale = "frame" if self.drawing.scale == "clip" else self.drawing.scale
            self.drawing = replace(self.drawing, scale=scale, strip=False)
            return
        voted = policy == "clip" and self.targets.depend_on_logits
        if not voted and self.drawing.scale != "clip" and not self.drawing.strip:
            return
        self.found = survey(self.net, Reader(self.source, self.selection), self.request, self.batch, on_survey)
        if voted:
            self.targets = self.found.targets(self.net, self.request)
        if self.drawing.scale == "clip":
            scale, self.scale_frames = self.found.scale(self.net, self.request, self.targets, self.drawing.percentile)
            self.drawing = replace(self.drawing, scale=scale)

    def painter(self, policy: Policy) -> Painter:
        """What draws the frames."""
        lasting = self.targets
        if policy == "frame" and self.found and self.targets.depend_on_logits:
            lasting = self.found.targets(self.net, self.request)
        return Painter(self.net, self.drawing, self.found, lasting, self.targets, self.origin)

    def rate_and_sound(self) -> tuple[Fraction | None, Path | None]:
        """What a writer of the clip should know: its rate, while every frame is taken, and where its sound is."""
        every_frame = self.selection.every == 1 and not self.reader.fps
        file = Path(self.source) if isinstance(self.source, str | Path) and self.info.has_audio else None
        return self.info.rate if every_frame else None, file

    def explained(self) -> Iterator[tuple[Frame, Explanation]]:
        """Every frame with its explanation, in order; the network is ahead of what is done with them."""

        def explain(group: list[tuple[Frame, View]]) -> list[tuple[Frame, Explanation]]:
            explanations = explain_views([view for _, view in group], self.net, self.request, self.targets)
            return [(frame, e) for (frame, _), e in zip(group, explanations, strict=True)]

        groups = grouped_views(_with_durations(self.reader), self.net, self.request, self.batch)
        with batch_pool(self.net.device.type) as pool, contextlib.closing(groups):
            for group in ahead(pool, explain, groups, 1):
                self.view = group[0][1].view
                yield from group

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
                time_base=self.info.time_base,
                notes=tuple(utf8(n) for n in dict.fromkeys((*self.info.notes, *self.reader.notes))),
            ),
            network=network_part(net),
            view=ViewPart(fit=self.request.fit, width=width, height=height, box=(x0 + dx, y0 + dy, x1 + dx, y1 + dy)),
            selection=SelectionPart(**asdict(self.selection)),
            frames=account.frames, lost=self.reader.lost, predicted=account.shares(), explained=account.explained(),
            exact=account.exact, worst_residual=None if account.no_tolerance else account.worst,
            scale="frame" if isinstance(drawing.scale, str) else drawing.scale, scale_frames=self.scale_frames,
            files={kind: utf8(clip.as_posix()) for kind, clip in self.outputs.clips.items()},
            settings=self.settings,
            device=str(net.device), precision=self.request.precision,
            versions=versions(),
            seconds=time.perf_counter() - self.start,
        )  # fmt: skip


def settings_of(net: Net, request: Request, selection: Selection, drawing: ClipDrawing, policy: Policy) -> str:
    """A hash of everything that decides the result but the source and the weights."""
    asked = {**asdict(request), **asdict(selection), **asdict(drawing), "network": described(net)}
    everything = {**asked, "policy": policy, "coda": versions()["coda"]}
    return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()


def _with_durations(reader: Reader) -> Iterator[Frame]:
    """Frames that last until the next one; the last until the end of what was asked for."""
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
