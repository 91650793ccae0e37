"""Decide what happens to files that exist already: one policy for pictures, clips and comparisons."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from coda_cli.errors import CodaError, MediaError, UsageError
from coda_cli.machine import budget
from coda_cli.media.carried import read_gif_text, read_png_text
from coda_cli.media.files import TEMPORARY_PREFIX, TakenError, read_whole
from coda_cli.media.pages import page_in
from coda_cli.media.sources import RECORD_KEY, identity
from coda_cli.media.stills import Picture
from coda_cli.schema.pictures import Record, from_json
from coda_cli.vocabulary import IfExists, one_of

FORCE_REPLACES = "--force replaces it, --output names another place"  # advice of commands with that option
ABANDONED_AFTER = 3600.0  # seconds without a byte written to a temporary file

MAX_READ = 1 << 30  # bytes of an output that is there; a map of 64 megapixels in an npz file has about 0.25 GB

# What reading an npz raises where it is broken; numpy has headers parsed as Python.
BROKEN = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    EOFError,
    MemoryError,
    RuntimeError,  # of zip files: encrypted, or compressed in a way that Python does not know; RecursionError is one
    SyntaxError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


class Place(NamedTuple):
    """Where a file is written.

    Attributes:
        path: its path.
        replace: whether a file that is there at that moment is replaced.
    """

    path: Path
    replace: bool


class FilePolicy:
    """Decides where a file may be written when one may exist there already.

    Args:
        if_exists: what happens to a file that exists. "match" replaces files of the same picture, network and settings:
            a run that was stopped can leave them without their record.
        inputs: the files that are being explained; they are never written over.
        advice: what the error about a file that exists says to do.
        other: the options that name another place, for the error about an input.
        error: the class of these errors; UsageError where no work has begun yet.
    """

    def __init__(
        self,
        if_exists: IfExists,
        inputs: Iterable[Path],
        *,
        advice: str,
        other: str = "--output",
        error: type[CodaError] = MediaError,
    ) -> None:
        if not one_of(if_exists, IfExists):
            from coda_cli.explanation.request import refuse_unknown  # needs torch, which coda summary does without

            refuse_unknown("if_exists", if_exists, IfExists)
        self.if_exists, self._advice, self._other, self._error = if_exists, advice, other, error
        self._inputs = {identity(path) for path in inputs}

    def place(self, path: Path, is_the_same: Callable[[], bool] = lambda: False) -> Place | None:
        """Decide at which path a file is written.

        Args:
            path: the path that its name gives.
            is_the_same: tells whether the file that exists is about the same picture, network and settings.

        Returns:
            The path, or a free one beside it, and whether it is free; None when a file exists and is kept.

        Raises:
            CodaError: a file exists that may not be replaced, or the path is one of the inputs.
        """
        if self.if_exists == "rename":
            return Place(free_neighbour(path), replace=False)
        there = os.path.lexists(path)  # a link to nothing is there, too
        if self.if_exists == "skip" and there:
            return None
        self.refuse_input(path)
        if self.if_exists == "overwrite" or (there and self.if_exists == "match" and is_the_same()):
            return Place(path, replace=True)
        if there:
            raise self.in_the_way(path)
        return Place(path, replace=False)

    def write(
        self, path: Path, write: Callable[..., object], is_the_same: Callable[[], bool] = lambda: False
    ) -> Path | None:
        """Write a file where the policy puts it, also when several runs write files of the same name at once.

        Args:
            path: the path that its name gives.
            write: takes a path and ``replace``, and raises TakenError where a file is there that it may not replace.
            is_the_same: tells whether the file that exists is about the same picture, network and settings.

        Returns:
            Where it was written; None when a file exists and is kept.

        Raises:
            CodaError: a file exists that may not be replaced, the path is one of the inputs, or it cannot be written.
        """
        while place := self.place(path, is_the_same):
            try:
                write(place.path, replace=place.replace)
            except TakenError:  # by another run, since the place was looked for
                continue
            return place.path
        return None

    def refuse_input(self, path: Path) -> None:
        """Refuse to write over an input.

        Args:
            path: where a file would be written.

        Raises:
            CodaError: the path is one of the inputs.
        """
        if identity(path) in self._inputs:
            raise self._error(f"is one of the inputs and is not overwritten; choose another {self._other}", item=path)

    def in_the_way(self, path: Path) -> CodaError:
        """Make the error about a file that exists and may not be replaced.

        Args:
            path: the file.

        Returns:
            The error, which says what to do.
        """
        why = "exists from another picture, or is not coda's" if self.if_exists == "match" else "exists"
        return self._error(f"{why}; {self._advice}", item=path)


def refuse_taken(path: Path, option: str, *, force: bool, inputs: Iterable[Path] = ()) -> None:
    """Find out before any work whether a command may write the one file that an option names.

    Args:
        path: the file.
        option: the option.
        force: whether a file that exists may be replaced.
        inputs: the files that the command reads; they are never written over.

    Raises:
        UsageError: the file exists and may not be replaced, or is one of the inputs.
    """
    advice = f"--force replaces it, {option} names another file"
    if_exists: IfExists = "overwrite" if force else "error"
    FilePolicy(if_exists, inputs, advice=advice, other=option, error=UsageError).place(path)


def sweep(*folders: Path) -> None:
    """Remove the temporary files of runs that were killed. Recent ones stay: a run may be writing them now.

    Args:
        folders: the folders to look in.
    """
    ends = (".part", ".part.spool")  # clips have both, and the first of them can be a folder
    left: list[Path] = []
    for folder in folders:
        with contextlib.suppress(OSError):  # its name is too long for this disk: writing into it says so
            left += (path for end in ends for path in folder.glob(f"{TEMPORARY_PREFIX}*{end}"))
    for path in left:
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime <= ABANDONED_AFTER:
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def withdraw(record: Path) -> None:
    """Remove a record before its files are replaced: as long as it exists, it says that they are complete.

    Args:
        record: the path of the record.

    Raises:
        MediaError: it cannot be removed.
    """
    try:
        record.unlink(missing_ok=True)
    except OSError as error:
        raise MediaError(f"cannot be replaced ({error.strerror or error})", item=record) from error


def stored_record(path: Path) -> Record | None:
    """Read the record that an output file holds.

    Args:
        path: a JSON, PNG, GIF or npz file.

    Returns:
        The record; None when the file holds no record that this version of coda can read.
    """
    try:
        if not path.is_file() or path.stat().st_size > MAX_READ:
            return None
        if path.suffix == ".png":
            return from_json(read_png_text(path, RECORD_KEY) or "")
        if path.suffix == ".gif":
            return from_json(read_gif_text(path) or "")
        if path.suffix == ".npz":  # opened here, because numpy does not close a broken file
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as content:
                if content.zip.getinfo("record.npy").file_size > budget.RECORD_FILE:
                    return None
                return from_json(str(content["record"]))
        return from_json(read_whole(path, budget.RECORD_FILE).decode())
    except (MediaError, *BROKEN):
        return None


def is_about(record: Record, picture: Picture) -> bool:
    """Say whether a record is about a picture, and about this page of it.

    Args:
        record: the record.
        picture: the picture as it was read.

    Returns:
        The answer, by the hash of the picture's file.
    """
    page = "" if picture.page is None else str(picture.page)
    return (record.source.sha256, page_in(record.source.path)) == (picture.sha256, page)


def free_neighbour(path: Path) -> Path:
    """Find a path at which no file exists.

    Args:
        path: the path that is wanted.

    Returns:
        This path, or the first of ``name-2``, ``name-3``, ... that is free.
    """
    candidate, n = path, 2
    while os.path.lexists(candidate):
        candidate = path.with_name(f"{path.stem}-{n}{path.suffix}")
        n += 1
    return candidate
