"""``coda video``: explain clips frame by frame."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from coda_cli.checkpoints.manifest import DEFAULT
from coda_cli.cli import complete
from coda_cli.cli import dry_run as dry
from coda_cli.cli.clip_files import plans, settle
from coda_cli.cli.clip_summary import describe
from coda_cli.cli.console import console, counted
from coda_cli.cli.dry_run import DryRun
from coda_cli.cli.network import load_network
from coda_cli.cli.options import (
    Alpha,
    Arch,
    BatchSize,
    Check,
    Classes,
    ClassNames,
    Cut,
    Device,
    Ema,
    FitOption,
    Force,
    Json,
    Mean,
    Model,
    Percentile,
    PrecisionOption,
    Quiet,
    Size,
    Smooth,
    Std,
    StyleOption,
    Text,
    Verbose,
    Versus,
    full_colour,
    pictures_of_batch,
)
from coda_cli.cli.outcomes import print_page
from coda_cli.cli.regions import Labels, Masks, RegionBoxes, RegionFile, regions_of
from coda_cli.cli.run_log import LogFile, RunLog
from coda_cli.errors import CodaError, ExitCode, UsageError
from coda_cli.vocabulary import ClassPolicy, Layout

if TYPE_CHECKING:
    from coda_cli.explanation.clip.drawing import ClipDrawing
    from coda_cli.explanation.clip.files import ClipOutputs
    from coda_cli.explanation.clip.run import ClipExplanation
    from coda_cli.explanation.page.clip_report import ClipReport
    from coda_cli.schema.clips import ClipRecord, FrameRecord

EPILOG = """
\b
Sources
  clip.mp4                    MP4, MOV, MKV, WebM, AVI, GIF, APNG, WebP and whatever else libav reads
  frames/, frame%04d.png      pictures as frames, 25 a second unless --fps is given
  camera:0                    a camera, for --seconds N or until Ctrl-C; each frame has its own class and scale
\b
Outputs
  -o out.mp4                  one clip for one source, .mp4, .webm, .gif or .webp, and its records, out.coda.jsonl
  -o out/ --format mp4,gif    a folder for any number of sources: STEM.coda.mp4, STEM.coda.gif, STEM.coda.jsonl;
                              png makes a folder of frames, STEM.coda
"""


SCALES: tuple[Literal["network", "clip", "frame"], ...] = ("network", "clip", "frame")


def video(
    sources: Annotated[
        list[str], typer.Argument(metavar="SOURCES...", help="Clips, folders of pictures, or cameras; see below.")
    ],
    model: Model = DEFAULT,
    classes: Classes = None,
    versus: Versus = None,
    policy: Annotated[
        ClassPolicy,
        typer.Option(
            "--class-policy",
            help="Without --class, explain the class predicted most often in the clip, or each frame's own.",
        ),
    ] = "clip",
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE|DIR", help="Write this clip, or all clips into this folder.")
    ] = Path("coda-out"),
    formats: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="KINDS",
            help="Write these kinds into a folder: mp4,webm,gif,webp,png or none [default: mp4].",
        ),
    ] = None,
    json: Json = False,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html",
            metavar="FILE",
            show_default=False,
            help="Also write frames, maps and logits over time into one page for a browser, to be read and summed.",
        ),
    ] = None,
    start: Annotated[
        str, typer.Option(metavar="TIME", help="Start at this time, in seconds or as a time code: 2.5, 00:02:53.6.")
    ] = "0",
    end: Annotated[str | None, typer.Option("--end", metavar="TIME", help="Stop at this time.")] = None,
    seconds: Annotated[
        str | None, typer.Option("--seconds", metavar="TIME", help="Stop this long after the start, instead of --end.")
    ] = None,
    every: Annotated[int, typer.Option(min=1, metavar="N", help="Explain every N-th frame.")] = 1,
    fps: Annotated[float | None, typer.Option(help="Explain at most this many frames a second, more than 0.")] = None,
    box: Annotated[
        str | None,
        typer.Option(metavar="X0,Y0,X1,Y1", help="Explain only this part, in pixels or in shares such as 0,0,0.5,1."),
    ] = None,
    boxes: RegionBoxes = None,
    masks: Masks = None,
    labels: Labels = None,
    annotations: RegionFile = None,
    spans: Annotated[
        list[str] | None,
        typer.Option("--span", metavar="FROM-TO", help="Sum up this span of time, as in 2.5-4; can be repeated."),
    ] = None,
    neurons: Annotated[
        list[str] | None,
        typer.Option(
            "--neuron",
            "--neurons",
            metavar="LAYER:CHANNEL[:Y,X]",
            autocompletion=complete.neurons,
            help="Show an activation in the place of the class, where its channel is strongest or at Y,X (:sum for all "
            "positions). Can be repeated.",
        ),
    ] = None,
    max_frames: Annotated[int | None, typer.Option(min=1, help="Stop after this many frames.")] = None,
    layout: Annotated[
        Layout,
        typer.Option(help="Show picture and overlay (side), the overlay, the heat map, or all three in a row (panel)."),
    ] = "side",
    strip: Annotated[
        bool, typer.Option("--strip/--no-strip", help="Draw the logits over time below the picture.")
    ] = True,
    centroid: Annotated[bool, typer.Option("--centroid", help="Mark the centroid of the positive evidence.")] = False,
    height: Annotated[
        int | None,
        typer.Option(
            min=32, max=4320, help="Draw each picture this high, in pixels [default: as the source, from 240 to 720]."
        ),
    ] = None,
    scale: Annotated[
        str,
        typer.Option(
            metavar="clip|frame|network|NUMBER",
            help="Draw this contribution in full colour: one for all frames (clip), found for each (frame), the "
            "network's own, or a number of logit units.",
        ),
    ] = "clip",
    percentile: Percentile = 99.5,
    alpha: Alpha = 0.85,
    style: StyleOption = "signed",
    smooth: Smooth = 5,
    audio: Annotated[bool, typer.Option("--audio/--no-audio", help="Keep the sound, in mp4 and webm.")] = True,
    fit: FitOption = "crop",
    force: Force = False,
    check: Check = None,
    device: Device = "auto",
    precision: PrecisionOption = "float32",
    batch_size: BatchSize = "auto",
    arch: Arch = None,
    ema: Ema = None,
    class_names: ClassNames = None,
    mean: Mean = None,
    std: Std = None,
    cut: Cut = None,
    size: Size = None,
    text: Text = None,
    dry_run: DryRun = False,
    log: LogFile = None,
    quiet: Quiet = 0,
    verbose: Verbose = 0,
) -> None:
    """Explain a clip frame by frame, and write it as a clip.

    The new clip shows the evidence beside the picture; a file beside it holds a record of every frame.

    \b
    coda video clip.mp4
    coda video clip.mp4 --class parachute --start 10 --end 00:00:20 -o parachute.gif
    coda video *.mp4 --format mp4,gif -o out/ --json -q | jq 'select(.schema == "coda.clip")'
    coda video clip.mp4 --html report.html
    """
    batch, run_log = pictures_of_batch(batch_size), RunLog(log, "video", {"--output": output, "--html": html})
    from coda_cli.explanation.clip.drawing import ClipDrawing
    from coda_cli.explanation.clip.neurons import neurons_of
    from coda_cli.explanation.clip.run import ClipExplanation
    from coda_cli.explanation.drawing import refuse_style
    from coda_cli.explanation.request import Request
    from coda_cli.video.reading import Selection, parse_box
    from coda_cli.video.spans import parse_span

    regions = regions_of(boxes, masks, labels, annotations)
    request = Request(tuple(classes or ()), versus, fit, precision, check, None, regions, tuple(neurons or ()))
    neurons_of(request, centroid=centroid)
    summed = tuple(map(parse_span, spans or ()))
    begins, stops = _span(start, end, seconds)
    selection = Selection(begins, stops, every, fps, None if box is None else parse_box(box), max_frames)
    drawing = ClipDrawing(layout, full_colour(scale, SCALES), percentile, alpha, strip, centroid, height, style, smooth)
    planned = plans(sources, output, formats, audio, force, dry=dry_run)
    net = load_network(model, arch, device, request, ema=ema, weights=not dry_run)
    refuse_style(net, style)
    clip_of = partial(
        ClipExplanation, net=net, request=request, selection=selection, policy=policy, batch=batch, spans=summed
    )
    if dry_run:
        dry.video(planned, clip_of, drawing, html, json)
        return
    settled = [(source, settle(clip_of(source), drawing, outputs)) for source, outputs in planned]
    report = None
    if html is not None:
        from coda_cli.explanation.page.clip_report import ClipReport

        report = ClipReport(html, force, [source for source, _ in settled], net, request, selection, alpha)
    with report or contextlib.nullcontext(), run_log:
        counts = _explain_all(settled, clip_of, drawing, json, report, run_log)
        print_page(report.finish() if report else None, json)
    if counts["inexact"]:
        raise typer.Exit(ExitCode.INEXACT)
    if counts["failed"]:
        raise typer.Exit(ExitCode.FAILED)


def _explain_all(
    plans: Sequence[tuple[str | int, ClipOutputs]],
    clip_of: Callable[[str | int], ClipExplanation],
    drawing: ClipDrawing,
    json: bool,
    report: ClipReport | None,
    run_log: RunLog,
) -> Counter[str]:
    """Explain every clip, and print what happens; returns how many are explained, failed and inexact."""
    from coda_cli.video.reading import source_name

    counts: Counter[str] = Counter()
    start_time = time.monotonic()
    for source, outputs in plans:
        try:
            entry = report.begin() if report else None
            summary = _explain_one(clip_of(source), drawing, replace(outputs, entry=entry), json)
            files = [*outputs.clips.values(), *([outputs.record] if outputs.record else [])]
            run_log.add(source_name(source), "explained", seconds=summary.seconds, outputs=files)
            if report and entry:
                report.add_clip(entry, summary)
            counts["explained"] += 1
            counts["inexact"] += not summary.exact
        except CodaError as error:
            if isinstance(error, UsageError) and len(plans) == 1:
                raise
            console.error(str(error))
            run_log.add(source_name(source), "failed", error=error)
            if report:
                report.fail(error)
            if json:
                console.result(_failure(source, error))
            counts["inexact" if error.exit_code == ExitCode.INEXACT else "failed"] += 1
    if len(plans) > 1:
        failed = f", {counts['failed']} failed" if counts["failed"] else ""
        console.say(f"{counts['explained']} clips explained{failed} in {time.monotonic() - start_time:.1f} s")
    return counts


def _span(start: str, end: str | None, seconds: str | None) -> tuple[float, float | None]:
    """The times to start and to stop at, in seconds. Raises UsageError."""
    from coda_cli.video.reading import parse_time

    if end is not None and seconds is not None:
        raise UsageError("--end and --seconds both say where to stop; give one of them")
    begins = parse_time(start)
    if end is not None:
        return begins, parse_time(end)
    return begins, None if seconds is None else begins + parse_time(seconds)


def _failure(source: str | int, error: CodaError) -> str:
    """The record of a clip that failed, as JSON."""
    from coda_cli.schema.clips import FailedClip
    from coda_cli.schema.parts import to_json
    from coda_cli.video.reading import source_name

    return to_json(FailedClip.of(source_name(source), error))


def _explain_one(clip: ClipExplanation, drawing: ClipDrawing, outputs: ClipOutputs, json: bool) -> ClipRecord:
    """Explain one clip, and print what happens; returns its record."""
    from coda_cli.schema.parts import to_json
    from coda_cli.video.reading import probe, source_name

    def interrupted(summary: ClipRecord) -> None:
        """Print how many frames were explained, and where they are."""
        are = "is" if summary.frames == 1 else "are"
        kept = [str(path) for path in (*outputs.clips.values(), outputs.record)]
        console.interrupted(
            f"{name}: interrupted: its first {counted(summary.frames, 'frame')} {are} in {', '.join(kept)}"
        )
        if json:
            console.result(to_json(summary))

    name = source_name(clip.source)
    frames = None if isinstance(clip.source, int) else probe(clip.source).frames
    begun = False
    with console.progress(f"{name}: first pass", " frames") as surveyed:
        records = clip.records(
            drawing, outputs, on_survey=lambda done: surveyed(done, max(done, frames or 0)), on_interrupt=interrupted
        )
        try:
            with contextlib.closing(records):
                first = next(records)
                begun = True
                summary = _print_records(name, itertools.chain([first], records), frames, json)
        except KeyboardInterrupt:
            if not begun:
                console.interrupted(f"{name}: interrupted before its first frame was written; nothing is kept")
            raise
        except CodaError as error:
            raise error.about(name)  # noqa: B904 (it is the same error)
    if not json:
        for path in (*outputs.clips.values(), outputs.record):
            console.result(str(path))
    describe(name, summary)
    return summary


def _print_records(
    name: str, records: Iterable[FrameRecord | ClipRecord], frames: int | None, json: bool
) -> ClipRecord:
    """Print the records of a clip as JSON if asked for, with progress on stderr; returns the record of the clip."""
    from coda_cli.schema.clips import ClipRecord
    from coda_cli.schema.parts import to_json

    summary: ClipRecord | None = None
    with console.progress(f"{name}: explaining", " frames") as advance:
        for n, record in enumerate(records, 1):
            if json:
                console.result(to_json(record))
            if isinstance(record, ClipRecord):
                summary = record
            else:
                advance(n, max(n, frames or 0))
    assert summary is not None
    return summary
