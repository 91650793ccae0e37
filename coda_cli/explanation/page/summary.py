"""The page of a summary: its numbers, tables to sort, and the pictures that are worth a look."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

from coda_cli.errors import MediaError
from coda_cli.explanation.page.output import PagePath
from coda_cli.explanation.page.templates import json_list, page_of
from coda_cli.explanation.summary.rows import Overlay
from coda_cli.explanation.summary.words import HEADINGS, OUTLIERS, Kind, numbers, reason, share
from coda_cli.machine import budget
from coda_cli.media.files import shown_name
from coda_cli.media.packed import sample_at
from coda_cli.media.pictures import jpeg, shrunk
from coda_cli.media.stills import reading
from coda_cli.media.stored import Given
from coda_cli.render.overlay import drawing_size, unframed
from coda_cli.schema.summaries import Bin, Group, PictureLine, Summary

MOST_PICTURES = 10_000  # lines of the table; they take 1.5 MB
MOST_CLASSES = 12  # of the table that shows every pair; of more, the pairs are listed
MOST_PAIRS = 100  # that are listed
MOST_SHOWN = 8_000_000  # bytes of all pictures in the page; the others are linked to
LONGEST = 420  # pixels of the longer side of a picture in the page
SHADES = 5  # of the table that shows every pair
PLOT = 100  # units of the plot of calibration, along each axis

Pictures = Callable[[], Iterable[tuple[PictureLine, Overlay | None]]]


class SummaryPage:
    """The page of a summary that is going to be made.

    Args:
        path: the file.
        force: whether a file that exists is replaced.
        inputs: the files that are summarised; they are never written over.

    Raises:
        UsageError: before any work: the file exists and may not be replaced, is no HTML file by its name, or its
            folder cannot be written.
    """

    def __init__(self, path: Path, *, force: bool, inputs: Iterable[Path]) -> None:
        self._where = PagePath(path, "overwrite" if force else "error", inputs)

    def write(self, summary: Summary, pictures: Pictures) -> None:
        """Write the page.

        Args:
            summary: the numbers.
            pictures: gives the line of every picture and the overlay of its row; called twice.

        Raises:
            CodaError: a file of this name came in the meantime and may not be replaced, or the disk is full.
        """
        self._where.write(partial(self._fill, summary, pictures))

    def _fill(self, summary: Summary, pictures: Pictures, stream: IO[bytes]) -> None:
        """Write the page into a stream."""
        every = summary.overall
        listed = summary.pictures <= MOST_PICTURES
        page_of(
            "summary.html",
            stream,
            scripts=("sheet.js", "summary.js"),
            styles=("page.css", "summary.css"),
            config={},
            found=summary,
            every=every,
            networks=[shown_name(network.name) for network in summary.networks],
            headings=_kept(HEADINGS, every),
            classes=[(shown_name(group.name or ""), _kept(numbers(group), every)) for group in summary.classes],
            all_numbers=_kept(numbers(every), every),
            share=share,
            plot=[_bar(one) for one in summary.calibration.bins] if summary.calibration else [],
            pairs=_matrix(summary),
            mistaken=[pair for pair in summary.confusion if pair.label != pair.predicted],
            most_pairs=MOST_PAIRS,
            outliers=_Looks(self._where.path.parent, summary, pictures).sections(),
            most_pictures=MOST_PICTURES,
            listed=listed,
            lines=json_list(_lines(pictures)) if listed else (),
        )


class _Looks:
    """Shows the pictures that are worth a look, as long as there is room for their overlays, and links to these."""

    def __init__(self, folder: Path, summary: Summary, pictures: Pictures) -> None:
        self._folder, self._outliers = folder, summary.outliers
        paths = {line.path for kind in OUTLIERS for line in getattr(summary.outliers, kind)}
        self._overlays = dict[str, Overlay]()
        for line, overlay in pictures() if paths else ():
            if overlay and line.path in paths:
                self._overlays.setdefault(line.path, overlay)  # of two records of one picture, the first one's
        self._left = MOST_SHOWN

    def sections(self) -> list[tuple[str, list[dict[str, Any]]]]:
        """For each kind its title and its pictures; kinds without any are left out."""
        found = (
            (OUTLIERS[kind], [self._look(kind, line) for line in getattr(self._outliers, kind)]) for kind in OUTLIERS
        )
        return [(title, looks) for title, looks in found if looks]

    def _look(self, kind: Kind, line: PictureLine) -> dict[str, Any]:
        """What is shown of one picture."""
        overlay = self._overlays.get(line.path)
        there = overlay is not None and not overlay.name and os.path.isfile(overlay.path)
        return {
            "path": shown_name(line.path),
            "reason": reason(kind, line),
            "link": _relative(Path(overlay.path), self._folder) if overlay and there else None,
            "image": self._copy(overlay) if overlay and (there or overlay.name) else None,
        }

    def _copy(self, overlay: Overlay) -> str | None:
        """A small copy of an overlay, as an address that holds it; None where it cannot be read or there is no room."""
        if self._left <= 0:
            return None
        try:
            with reading(_content(overlay)) as picture:
                drawn = picture.rgb
        except MediaError:
            return None
        if min(overlay.width, overlay.height) > 0:
            drawn = unframed(drawn, drawing_size((overlay.width, overlay.height), budget.SHEET_PIXELS // 3))
        content = jpeg(shrunk(drawn, LONGEST))
        self._left -= len(content)
        return f"data:image/jpeg;base64,{base64.b64encode(content).decode()}"


def _content(overlay: Overlay) -> Path | Given:
    """What ``reading`` reads: a file on this disk, or one in a file of results. Raises MediaError."""
    path = Path(overlay.path)
    if not overlay.name:
        return path
    content = sample_at(path, overlay.offset).file(overlay.name)
    if content is None:
        raise MediaError("is not there", item=f"{path}/{overlay.name}")
    return Given(overlay.name, content)


def _kept(cells: tuple[str, ...], every: Group) -> list[str]:
    """The cells of a class that are numbers over all pictures, too: others are in no class."""
    return [cell for cell, over_all in zip(cells, numbers(every), strict=True) if over_all]


def _relative(path: Path, folder: Path) -> str | None:
    """The address of a file from a page in a folder; None where no relative one exists, on another drive of Windows."""
    try:
        return quote(os.fsencode(Path(os.path.relpath(path, folder)).as_posix()))
    except ValueError:
        return None


def _lines(pictures: Pictures) -> Iterator[list[Any]]:
    """What the table has of every picture, in the order of its columns; summary.js has their names."""
    for line, _ in pictures():
        yield [
            shown_name(line.path),
            None if line.label is None else shown_name(line.label),
            shown_name(line.predicted),
            line.right,
            *(
                None if value is None else float(f"{value:.5g}")
                for value in (
                    line.probability,
                    line.logit,
                    line.positive,
                    line.negative,
                    line.half_share,
                    line.inside,
                    line.inside_ratio,
                )
            ),
        ]


def _bar(one: Bin) -> dict[str, Any]:
    """One bar of the plot of calibration, in units of the plot."""
    return {
        "x": one.start * PLOT,
        "width": (one.end - one.start) * PLOT,
        "height": (one.accuracy or 0) * PLOT,
        "mean": None if one.mean_probability is None else PLOT - one.mean_probability * PLOT,
        "bin": one,
    }


def _matrix(summary: Summary) -> tuple[list[str], list[tuple[str, list[tuple[int, int]]]]] | None:
    """Every pair of classes that occur: the columns, and of each row its label, and counts with their shades.

    None where there is no label, or more classes than a table can show.
    """
    labels = sorted({pair.label for pair in summary.confusion})
    columns = sorted({*labels, *(pair.predicted for pair in summary.confusion)})
    if not labels or len(columns) > MOST_CLASSES:
        return None
    counts = {(pair.label, pair.predicted): pair.pictures for pair in summary.confusion}
    rows = []
    for label in labels:
        own = [counts.get((label, predicted), 0) for predicted in columns]
        rows.append((shown_name(label), [(n, -(-SHADES * n // sum(own))) for n in own]))
    return [shown_name(name) for name in columns], rows
