"""A report of several pages: a sheet of all pictures, and beside it a folder with the pages that it links to.

``report.html`` is the sheet, ``report/page-001.html`` the first page. Pages are made in a hidden folder. They get their
names at the end, and the sheet comes last: if it is there, all pages are.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import IO, Self
from urllib.parse import quote

from coda_cli.errors import MediaError, UsageError
from coda_cli.explanation.files import withdraw
from coda_cli.explanation.page.output import PagePath
from coda_cli.explanation.page.templates import MARK
from coda_cli.media.files import TEMPORARY_PREFIX, give_name, write_with

_HEAD = 2048  # bytes of a file in which the mark of a page of coda stands
_PAGE = re.compile(r"page-\d{3,}\.html")


class Pages:
    """The pages of a report, in a ``with`` block. Nothing is at their paths before ``finish``.

    Args:
        where: the path of the sheet.

    Raises:
        UsageError: before any work: pages exist that may not be replaced, or the folder's name is that of a file.
    """

    def __init__(self, where: PagePath) -> None:
        self._where, self._made = where, 0
        self._place = where.policy.place(where.path)
        self.folder = folder_of(self._place.path if self._place else where.path)
        if self.folder.exists() and not self.folder.is_dir():
            raise UsageError(
                f"--html: more pictures than one page holds go into the folder {self.folder}, and that is a file",
                item=where.path,
            )
        self._refuse_others()

    def __enter__(self) -> Self:
        self._hidden = self.folder.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}.part")
        try:
            self._hidden.mkdir()
        except OSError as error:
            raise self._unwritable(error) from error
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._hidden, ignore_errors=True)

    @property
    def back(self) -> str:
        """The sheet's address, as a page links to it."""
        return f"../{_address((self._place or self._where).path)}"

    def name(self, number: int) -> str:
        """Name a page.

        Args:
            number: of the page, from 1 on.

        Returns:
            The name of its file, which is its address from another page, too.
        """
        return f"page-{number:03}.html"

    def address(self, number: int) -> str:
        """Say how the sheet links to a page.

        Args:
            number: of the page, from 1 on.

        Returns:
            Its relative address.
        """
        return f"{_address(self.folder)}/{self.name(number)}"

    def add(self, fill: Callable[[IO[bytes]], object]) -> None:
        """Make the next page.

        Args:
            fill: writes it into a stream.

        Raises:
            MediaError: the disk is full.
        """
        self._made += 1
        write_with(self._hidden / self.name(self._made), fill)

    def keep_alive(self) -> None:
        """Tell other runs, which remove what killed ones left, that this one goes on."""
        with contextlib.suppress(OSError):
            os.utime(self._hidden)

    def finish(self, fill: Callable[[IO[bytes]], object]) -> Path | None:
        """Give the pages their names, and then write the sheet.

        Args:
            fill: writes the sheet into a stream.

        Returns:
            The sheet's path; None where one exists and is kept.

        Raises:
            CodaError: files came in the meantime that may not be replaced, or the disk is full.
        """
        if self._place is None:
            return None
        path, replace = self._place
        sheet = self._hidden / path.name
        write_with(sheet, fill)  # where the disk is full, what was there stays
        self._where.policy.place(self._where.path)
        self._refuse_others()
        if replace:
            withdraw(path)
            remove_pages(path)
        named = list[Path]()
        try:
            self.folder.mkdir(exist_ok=True)
            for number in range(1, self._made + 1):
                page = self.folder / self.name(number)
                give_name(self._hidden / page.name, page, replace=replace)
                named.append(page)
            give_name(sheet, path, replace=replace)
        except BaseException as error:
            for page in named:
                page.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # it may hold something else
                self.folder.rmdir()
            if isinstance(error, OSError):
                raise self._unwritable(error) from error
            raise
        return path

    def _refuse_others(self) -> None:
        """Refuse to write among pages that may not be replaced. Raises UsageError."""
        if self._place is not None and not self._place.replace:
            for page in _pages_in(self.folder):
                raise self._where.policy.in_the_way(page)

    def _unwritable(self, error: OSError) -> MediaError:
        """Say why the folder cannot be written."""
        return MediaError(f"cannot be written ({error.strerror or error})", item=self.folder)


def folder_of(path: Path) -> Path:
    """Name the folder of the pages that a sheet links to.

    Args:
        path: of the sheet.

    Returns:
        The same path without the ending.
    """
    return path.with_suffix("")


def remove_pages(path: Path) -> None:
    """Remove the pages of an earlier report. Files that coda did not make stay, whatever they are called.

    Args:
        path: of the report's sheet.

    Raises:
        MediaError: one of them cannot be removed.
    """
    folder = folder_of(path)
    for page in _pages_in(folder):
        if _is_ours(page):
            withdraw(page)
    with contextlib.suppress(OSError):  # it may hold something else
        folder.rmdir()


def _pages_in(folder: Path) -> list[Path]:
    """What is in a folder under the name of a page."""
    return sorted(page for page in folder.glob("page-*.html") if _PAGE.fullmatch(page.name))


def _is_ours(page: Path) -> bool:
    """Whether coda made a page."""
    try:
        with page.open("rb") as stream:
            return MARK.encode() in stream.read(_HEAD)
    except OSError:
        return False


def _address(path: Path) -> str:
    """The relative address of a file beside another one."""
    return quote(os.fsencode(path.name))
