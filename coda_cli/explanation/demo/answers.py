"""One upload explained: the files that ``coda explain`` or ``coda video`` would write, and the page about them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from coda_cli.checkpoints.loading import Net
from coda_cli.errors import MediaError
from coda_cli.explanation.clip.drawing import ClipDrawing
from coda_cli.explanation.clip.files import ClipOutputs
from coda_cli.explanation.clip.run import ClipExplanation
from coda_cli.explanation.naming import Naming
from coda_cli.explanation.page.clip_report import ClipReport
from coda_cli.explanation.page.entry import entry_of
from coda_cli.explanation.page.report import Report
from coda_cli.explanation.phrases import clip_text, equation
from coda_cli.explanation.reading import error_of_item
from coda_cli.explanation.record import Drawing
from coda_cli.explanation.request import Request
from coda_cli.explanation.run import explain_items
from coda_cli.explanation.writer import Output
from coda_cli.machine import budget
from coda_cli.media.files import read_whole
from coda_cli.media.sources import Item
from coda_cli.media.stills import SUFFIXES, begins_as_picture
from coda_cli.media.stored import Given
from coda_cli.schema.clips import ClipRecord
from coda_cli.video.animations import animation_info, is_animation
from coda_cli.video.reading import Kind, Selection

PAGE = "report.html"
MOST_CLASSES = 5  # that are explained together
CLIP_KINDS: tuple[Kind, ...] = ("mp4", "gif")
KINDS = ("overlay", "heatmap", "json", "npz")
CLIP_SECONDS, CLIP_RATE = 10, 10  # of a clip its beginning, and so many frames a second
CLIP_HEIGHT = 320  # pixels of each picture in the clips that are written
_UPLOADS = "uploads"  # the folder that a picture is said to be in, whatever folder it is in here


class Answer(NamedTuple):
    """What a visitor gets.

    Attributes:
        said: a line for each class.
        page: the page about it, an HTML file.
        files: what can be downloaded, the page among it.
    """

    said: tuple[str, ...]
    page: Path
    files: tuple[Path, ...]


def answer_of(upload: Path, net: Net, classes: Sequence[int], folder: Path, on_frame: Callable[[int], None]) -> Answer:
    """Explain one picture or clip.

    Args:
        upload: the file as it was sent; its name is the sender's.
        net: the network.
        classes: indices of the classes to explain; none is the predicted class.
        folder: an empty folder for the answer.
        on_frame: called with the number of frames of a clip that are explained; what it raises ends the work.

    Returns:
        The answer, whose files are in the folder.

    Raises:
        CodaError: the file cannot be read or explained; the message has no path of this machine.
    """
    request = Request(tuple(classes[:MOST_CLASSES]))  # type: ignore[arg-type]
    try:
        if moves(upload):
            return _of_clip(upload, net, request, folder, on_frame)
        return _of_picture(upload, net, request, folder)
    except Exception as error:
        found = error_of_item(error, Item(upload))
        raise type(found)(found.message, item=upload.name) from error


def moves(upload: Path) -> bool:
    """Say whether a file is a clip, from its beginning and its name.

    Args:
        upload: the file.

    Returns:
        Whether it is no picture, or one of several frames.
    """
    if is_animation(upload):
        with contextlib.suppress(MediaError):  # too large for a frame of a clip, or broken: as a picture, that is said
            return animation_info(upload).frames not in (None, 1)
        return False
    with upload.open("rb") as stream:
        return upload.suffix.lower() not in SUFFIXES and not begins_as_picture(stream.read(4096))


def _of_picture(upload: Path, net: Net, request: Request, folder: Path) -> Answer:
    """Explain a picture. Raises CodaError."""
    given = Given(upload.name, read_whole(upload, budget.PICTURE_FILE))
    item, drawing = Item(Path(_UPLOADS, upload.name), stored=given), Drawing(KINDS)
    output = Output(Naming(folder, net.checkpoint.name), drawing, "error", entry=entry_of)
    with Report(folder / PAGE, "error", [item], net, request, drawing.alpha) as report:
        (outcome,) = explain_items(net, [item], request, output)
        if outcome.error:
            raise outcome.error
        report.add(outcome)
        report.finish()
    assert outcome.record
    said = tuple(equation(part) for part in outcome.record.explained)
    return Answer(said, folder / PAGE, (*outcome.written, folder / PAGE))


def _of_clip(upload: Path, net: Net, request: Request, folder: Path, on_frame: Callable[[int], None]) -> Answer:
    """Explain the beginning of a clip. Raises CodaError."""
    selection = Selection(end=CLIP_SECONDS, fps=CLIP_RATE, max_frames=CLIP_SECONDS * CLIP_RATE)
    clip, drawing = ClipExplanation(upload, net, request, selection), ClipDrawing(height=CLIP_HEIGHT)
    named = folder / f"{upload.stem}.coda"
    files: dict[Kind, Path] = {kind: named.with_name(f"{named.name}.{kind}") for kind in CLIP_KINDS}
    record = named.with_name(f"{named.name}.jsonl")
    with ClipReport(folder / PAGE, False, [upload], net, request, selection, drawing.alpha) as report:
        entry, summary = report.begin(), None
        with contextlib.closing(clip.records(drawing, ClipOutputs(files, record, entry=entry))) as records:
            for number, one in enumerate(records, 1):
                on_frame(number)
                summary = one
        assert isinstance(summary, ClipRecord)
        report.add_clip(entry, summary)
        report.finish()
    return Answer(tuple(map(clip_text, summary.explained)), folder / PAGE, (*files.values(), record, folder / PAGE))
