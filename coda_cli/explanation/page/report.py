"""A page about many pictures: entries are kept on disk as they come, and the file appears whole at the end."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import IO, Any, Self

from markupsafe import Markup

from coda_cli.checkpoints.loading import Net
from coda_cli.errors import UsageError
from coda_cli.explanation.page.output import Kept, PagePath
from coda_cli.explanation.page.pages import Pages, remove_pages
from coda_cli.explanation.page.templates import json_list, page_of
from coda_cli.explanation.record import network_part
from coda_cli.explanation.request import Request
from coda_cli.explanation.writer import Outcome
from coda_cli.media.files import utf8
from coda_cli.media.sources import Item
from coda_cli.render.colour import NEGATIVE, POSITIVE
from coda_cli.render.overlay import DIMMED, FADED
from coda_cli.vocabulary import IfExists

MOST_MAPS = 300  # of one page: 24 MB of photographs and maps of 128 x 128; more is badly taken by browsers and mail


class Report:
    """A page that is being made, in a ``with`` block, or a sheet with a folder of pages where one would hold too much.

    Nothing is at its path before ``finish``.

    Args:
        path: the file.
        if_exists: what happens to a file that exists; "match" refuses it, since a page does not say what it was made
            from.
        inputs: the files that are explained; they are never written over.
        net: the network.
        request: what is asked.
        alpha: opacity of full colour in overlays, from 0 to 1.
        part: which part of a run the page is about; "" for a whole one.

    Raises:
        UsageError: before any work: there are too many maps of each picture for one page, the file or pages exist and
            may not be replaced, or its folder cannot be written.

    Attributes:
        pages: the folder of pages; None where one file holds all.
    """

    def __init__(
        self,
        path: Path,
        if_exists: IfExists,
        inputs: Sequence[Item],
        net: Net,
        request: Request,
        alpha: float,
        part: str = "",
    ) -> None:
        self._net, self._alpha, self._part = net, alpha, part
        targets = request.targets(net).most
        if targets > MOST_MAPS:
            raise UsageError(
                f"--html: {targets} classes of each picture are more than the {MOST_MAPS} maps that one page holds; "
                "name fewer classes with --class"
            )
        self._most = MOST_MAPS // targets  # pictures of one page
        self._where = PagePath(path, if_exists, (item.path for item in inputs))
        self.pages = Pages(self._where) if len(inputs) > self._most else None
        self._kept, self._lines, self._stack = Kept(path), Kept(path), ExitStack()
        self._failures, self._before = list[str](), 0

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for part in (self._kept, self._lines, self.pages):
                if part is not None:
                    stack.enter_context(part)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add(self, outcome: Outcome) -> None:
        """Keep what the page will say of one input.

        Args:
            outcome: how it ended.

        Raises:
            MediaError: the disk is full.
        """
        if outcome.error:
            self._failures.append(str(outcome.error))
        if not outcome.entry:
            return
        if self.pages:
            if len(self._kept) == self._most:  # the one before is full, and not the last one
                self._end_page(self.pages, last=False)
            self._lines.add(outcome.entry.line)
            self.pages.keep_alive()
        self._kept.add(outcome.entry.html)

    def finish(self) -> Path | None:
        """Write the file; of several pages, those first.

        Returns:
            Its path; None where a file exists and is kept.

        Raises:
            CodaError: a file of this name came in the meantime and may not be replaced, or the disk is full.
        """
        if self.pages:
            if len(self._kept):
                self._end_page(self.pages, last=True)
            return self.pages.finish(partial(self._fill_sheet, self.pages))
        path = self._where.write(partial(self._fill, self._pictures(len(self._kept)), None))
        if path and self._where.policy.if_exists == "overwrite":
            remove_pages(path)  # of a larger report that was here
        return path

    def _end_page(self, pages: Pages, *, last: bool) -> None:
        """Write the entries that are kept into a page of their own. Raises MediaError."""
        first, count, number = self._before + 1, len(self._kept), self._before // self._most + 1
        pager = {
            "back": pages.back,
            "before": pages.name(number - 1) if number > 1 else None,
            "after": None if last else pages.name(number + 1),
        }
        pages.add(partial(self._fill, _range(first, count), pager))
        self._before += count
        self._kept.clear()

    def _fill(self, count: str, pager: dict[str, str | None] | None, stream: IO[bytes]) -> None:
        """Write a page of the entries that are kept into a stream."""
        page_of(
            "page.html",
            stream,
            scripts=("maps.js", "pointing.js", "sheet.js", "page.js"),
            config=drawing_numbers(self._alpha),
            noun="picture",
            count=count,
            pager=pager,
            network=network_part(self._net),
            entries=map(Markup, self._kept),
            failures=[] if pager else self._told_failures(),
        )

    def _fill_sheet(self, pages: Pages, stream: IO[bytes]) -> None:
        """Write the sheet of all pictures into a stream."""
        total, most = len(self._lines), self._most
        starts = range(0, total, most)
        page_of(
            "index.html",
            stream,
            scripts=("sheet.js", "index.js"),
            config={"addresses": [pages.address(n) for n in range(1, len(starts) + 1)], "most": most},
            count=self._pictures(total),
            network=network_part(self._net),
            pages=[(pages.address(n), _range(at + 1, min(most, total - at))) for n, at in enumerate(starts, 1)],
            lines=json_list(map(Markup, self._lines)),
            failures=self._told_failures(),
        )

    def _pictures(self, count: int) -> str:
        """How many pictures there are, and of which part of a run."""
        return f"{count} {'picture' if count == 1 else 'pictures'}" + (f" ({self._part})" if self._part else "")

    def _told_failures(self) -> list[str]:
        return [utf8(text) for text in self._failures]


def drawing_numbers(alpha: float) -> dict[str, Any]:
    """Give the numbers of ``render`` that scripts draw with.

    Args:
        alpha: opacity of full colour, from 0 to 1.

    Returns:
        The numbers by name.
    """
    return {"positive": POSITIVE, "negative": NEGATIVE, "faded": FADED, "dimmed": DIMMED, "alpha": alpha}


def _range(first: int, count: int) -> str:
    return f"Picture {first}" if count == 1 else f"Pictures {first}\N{EN DASH}{first + count - 1}"
