"""Pages: of a picture with several, such as a scan in a TIFF, each that is asked for is an input of its own.

What Pillow counts as frames are pages: those of a TIFF, an animation, a DICOM file. A page is called
``scan.tif#page=2`` in messages, in records, and where a user names one; its outputs are named as those of
``scan-page-2.tif`` would be.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from coda_cli.errors import CodaError, MediaError, UsageError
from coda_cli.machine import budget
from coda_cli.media.files import regular_size
from coda_cli.media.frames import frames_of
from coda_cli.media.quiet import pillow_silent
from coda_cli.media.stills import decoder_errors, open_image
from coda_cli.media.stored import Document, Page, Refused, Stored

if TYPE_CHECKING:
    from coda_cli.media.sources import Item

MOST_PAGES = 100_000  # of one picture
_MARK = "#page="


@dataclass(frozen=True)
class Pages:
    """Which pages of a picture are asked for.

    Attributes:
        first: the first of them, from 1 on.
        last: the last of them; None for the picture's last.
    """

    first: int = 1
    last: int | None = None

    @classmethod
    def parse(cls, text: str) -> Pages:
        """Read what a user writes for pages.

        Args:
            text: "2", "2-5" or "all".

        Returns:
            The pages.

        Raises:
            UsageError: it is none of these.
        """
        if (pages := _parsed(text)) is None:
            raise UsageError(f"--page {text}: expected a page counted from 1, such as 2, several as 2-5, or all")
        return pages

    def __str__(self) -> str:
        if self.last == self.first:
            return str(self.first)
        return f"{self.first}-{self.last or ''}"


def _parsed(text: str) -> Pages | None:
    """The pages that a text stands for; None where it stands for none."""
    if text == "all":
        return Pages()
    found = re.fullmatch(r"([0-9]{1,6})(?:-([0-9]{1,6}))?", text)
    first, last = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    return Pages(first, last) if 1 <= first <= last else None


def split(source: str) -> tuple[str, Pages | None]:
    """Take the pages off the end of a source.

    Args:
        source: what a user wrote, or a record says, such as ``scan.tif#page=2``.

    Returns:
        The source without ``#page=...``, and the pages; the source itself and None where it has none, or where there is
        a file of that very name.
    """
    whole, mark, text = source.rpartition(_MARK)
    if not mark or not whole or (pages := _parsed(text)) is None or os.path.lexists(source):
        return source, None
    return whole, pages


def page_in(name: str) -> str:
    """Find the page in the name of an input, as records have it.

    Args:
        name: the name.

    Returns:
        Its number; "" for a picture as a whole.
    """
    return text if _parsed(text := name.rpartition(_MARK)[2]) else ""


def page_of(item: Item, number: int, document: Document | None = None) -> Item:
    """Make the input that is one page of another.

    Args:
        item: the picture as a whole.
        number: of the page, from 1 on.
        document: what reads the whole, where it reads for other pages, too.

    Returns:
        The page.
    """
    whole = item.content
    size = whole.size if isinstance(whole, Stored) else os.path.getsize(whole) if whole.is_file() else 0
    page = Page(f"{item.name}{_MARK}{number}", size, number, document or Document(whole), item.key)
    return replace(item, path=item.path.with_name(f"{item.path.stem}-page-{number}{item.path.suffix}"), stored=page)


def by_page(items: Iterable[Item], pages: Pages | None) -> Iterator[Item]:
    """Make an input of each page that is asked for.

    Args:
        items: the inputs as a whole.
        pages: which pages of each; None leaves the inputs as they are.

    Yields:
        The pages in order. A picture with a single page keeps its name. One that has none of the pages becomes an input
        that fails and says so; one that cannot be read says why in its own turn. What is at an address comes once.
    """
    if pages is None:
        yield from items
        return
    for item in items:
        document = Document(content := item.content)
        try:
            count = _counted(content, document)
        except CodaError as error:
            yield item if isinstance(content, Path) else replace(item, stored=Refused(item.name, error))
            continue
        if count == 1 == pages.first:
            whole = content if isinstance(content, Path) else Page(item.name, content.size, None, document, item.key)
            yield item if isinstance(whole, Path) else replace(item, stored=whole)
            continue
        numbers = range(pages.first, min(pages.last or count, count, MOST_PAGES) + 1)
        if not numbers:
            has = f"has {count} page{'s' if count > 1 else ''}, and no page {pages}"
            missing = page_of(item, pages.first, document)  # its name: the whole may be another input
            yield replace(missing, stored=Refused(missing.name, MediaError(has, item=item.name)))
        for number in numbers:
            yield page_of(item, number, document)


def _counted(content: Path | Stored, document: Document) -> int:
    """How many pages a picture has. Raises MediaError."""
    name: Path | str = content if isinstance(content, Path) else content.name
    header = content if isinstance(content, Path) else io.BytesIO(document.read(ahead=True))
    if isinstance(content, Path):
        regular_size(content, budget.PICTURE_FILE)
    with decoder_errors(name), pillow_silent, open_image(header, name) as image:
        return frames_of(image)
