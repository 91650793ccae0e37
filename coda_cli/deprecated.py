"""What version 0.1 called differently. It works for one more version, with a warning that says what to write now."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator
from functools import wraps
from importlib import import_module
from typing import Any

from coda_cli.checkpoints.loading import Net
from coda_cli.explanation.clip import run as clip_run
from coda_cli.explanation.clip.drawing import ClipDrawing
from coda_cli.explanation.clip.files import ClipOutputs
from coda_cli.explanation.picture import Explanation, explain
from coda_cli.explanation.request import Request
from coda_cli.explanation.run import explain_items
from coda_cli.explanation.run import explain_many as _explain_many
from coda_cli.media.pictures import PictureSource
from coda_cli.schema.clips import ClipRecord, FrameRecord
from coda_cli.video.reading import Selection, Source
from coda_cli.vocabulary import ClassPolicy

# Old names: where they are, and what takes their place.
NAMES = {
    "explain_image": ("deprecated", "explain(source, net, classes)"),
    "Request": ("explanation.request", "the keywords of explain, explain_many and explain_clip"),
    "Output": ("explanation.writer", "explain_many(..., output=FOLDER, drawing=Drawing(...), if_exists=...)"),
    "Naming": ("explanation.naming", "explain_many(..., output=FOLDER)"),
    "resolve": ("media.sources", "explain_many(['photos/'], ...)"),
    "ClipOutputs": ("explanation.clip.files", "explain_clip(...).save(FILE)"),
}


def old_name(name: str) -> object:
    """Look up a name of version 0.1.

    Args:
        name: one of NAMES.

    Returns:
        What it means, after a DeprecationWarning.
    """
    home, now = NAMES[name]
    _warn(f"coda_cli.{name}", now, 4)
    return globals()[name] if home == "deprecated" else getattr(import_module(f"coda_cli.{home}"), name)


def explain_image(picture: PictureSource, net: Net | None = None, request: Request | None = None) -> Explanation:
    """Explain one picture, as version 0.1 did.

    Args:
        picture: a file, or uint8 [H, W, 3] sRGB.
        net: the network; the default one unless given.
        request: what is asked.

    Returns:
        The explanation.
    """
    asked = request or Request()
    return explain(
        picture, net, asked.classes, versus=asked.versus, fit=asked.fit, precision=asked.precision,
        tolerance=asked.tolerance, layer=asked.layer,
    )  # fmt: skip


@wraps(_explain_many)
def explain_many(*args: Any, **options: Any) -> Any:
    """``explanation.run.explain_many``, which also takes (net, items, request, output) as version 0.1 did.

    Args:
        args: those of either version, by position.
        options: those of either version, by keyword.

    Returns:
        The outcomes.
    """
    if args and isinstance(args[0], Net):
        _warn("explain_many(net, items, request, output)", "explain_many(sources, net, classes, output=FOLDER)", 3)
        return explain_items(*args, **options)
    return _explain_many(*args, **options)


@wraps(clip_run.explain_clip)
def explain_clip(*args: Any, **options: Any) -> Any:
    """``explanation.clip.run.explain_clip``, which also takes the arguments of version 0.1.

    Args:
        args: those of either version, by position.
        options: those of either version, by keyword.

    Returns:
        The clip's explanation; with the arguments of version 0.1, the records.
    """
    if args and isinstance(args[0], Net):
        _warn("explain_clip(net, source, ...)", "explain_clip(source, net, classes).save(FILE)", 3)
        return _old_explain_clip(*args, **options)
    return clip_run.explain_clip(*args, **options)


def _old_explain_clip(
    net: Net, source: Source, selection: Selection, request: Request, drawing: ClipDrawing, outputs: ClipOutputs, *,
    policy: ClassPolicy = "clip", batch: int | None = None, on_survey: Callable[[int], None] | None = None,
    on_interrupt: Callable[[ClipRecord], None] | None = None,
) -> Generator[FrameRecord | ClipRecord, None, None]:  # fmt: skip
    clip = clip_run.ClipExplanation(source, net, request, selection, policy=policy, batch=batch)
    return clip.records(drawing, outputs, on_survey=on_survey, on_interrupt=on_interrupt)


def _warn(old: str, now: str, level: int) -> None:
    warnings.warn(f"{old} goes with coda 0.3; write {now}", DeprecationWarning, stacklevel=level)
