"""What happens to files that are there: one policy for pictures, clips and comparisons."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from coda_cli.errors import CodaError, MediaError, UsageError
from coda_cli.machine import budget
from coda_cli.media.files import TEMPORARY_PREFIX, read_whole
from coda_cli.media.sources import RECORD_KEY, identity
from coda_cli.media.stills import read_gif_text, read_png_text
from coda_cli.schema.pictures import Record, from_json
from coda_cli.vocabulary import IfExists

ABANDONED_AFTER = 3600.0  # seconds without a byte written to a temporary file


class FilePolicy:
    """Decides where a file may be written when something may be there already.

    Args:
        if_exists: what happens to a file that is there. "match" replaces what the same run would write again, as a run
            that was stopped leaves pictures without their record.
        inputs: the files that are being explained; they are never written over.
        advice: what to do about a file that is in the way, for the error.
        other: the options that name another place, for the error.
        error: the class of that error: UsageError where nothing has begun.
    """

    def __init__(
        self, if_exists: IfExists, inputs: Iterable[Path], *, advice: str, other: str = "--output",
        error: type[CodaError] = MediaError,
    ) -> None:  # fmt: skip
        self.if_exists, self._advice, self._other, self._error = if_exists, advice, other, error
        self._inputs = {identity(path) for path in inputs}

    def place(self, path: Path, is_the_same: Callable[[], bool] = lambda: False) -> Path | None:
        """Decide where a file is really written.

        Args:
            path: where it would go.
            is_the_same: whether what is there is of the same picture, network and settings.

        Returns:
            The path, or that of a free neighbour; None when a file is there that stays.

        Raises:
            CodaError: a file is there that may not be replaced, or that is one of the inputs.
        """
        if self.if_exists == "rename":
            return free_neighbour(path)
        if self.if_exists == "skip" and path.exists():
            return None
        self.refuse_input(path)
        if self.if_exists == "overwrite" or not path.exists() or (self.if_exists == "match" and is_the_same()):
            return path
        raise self.in_the_way(path)

    def refuse_input(self, path: Path) -> None:
        """Refuse to write over an input.

        Args:
            path: where something would be written.

        Raises:
            CodaError: it is one of the inputs.
        """
        if identity(path) in self._inputs:
            raise self._error(f"is one of the inputs and is not overwritten; choose another {self._other}", item=path)

    def in_the_way(self, path: Path) -> CodaError:
        """The error about a file that may not be replaced.

        Args:
            path: the file.

        Returns:
            The error, which says what to do.
        """
        why = "exists from another picture, network or settings" if self.if_exists == "match" else "exists"
        return self._error(f"{why}; {self._advice}", item=path)


def prepare(folder: Path) -> None:
    """Make an output folder and see that it can be written, before any work.

    Args:
        folder: the folder.

    Raises:
        UsageError: it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(f"cannot write into this folder ({error.strerror or error})", item=folder) from error


def sweep(*folders: Path) -> None:
    """Remove the temporary files of runs that were killed. A fresh one may belong to a run that is writing it now.

    Args:
        folders: where they are looked for.
    """
    ends = (".part", ".part.spool")  # the second is of a clip, of which the first may be a folder, too
    for path in (p for folder in folders for end in ends for p in folder.glob(f"{TEMPORARY_PREFIX}*{end}")):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime <= ABANDONED_AFTER:
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def withdraw(record: Path) -> None:
    """Remove a record whose files are about to be replaced: while it is there, it says that they are whole.

    Args:
        record: its path.

    Raises:
        MediaError: it cannot be removed.
    """
    try:
        record.unlink(missing_ok=True)
    except OSError as error:
        raise MediaError(f"cannot be replaced ({error.strerror or error})", item=record) from error


def stored_record(path: Path) -> Record | None:
    """The record that an output file holds.

    Args:
        path: a JSON, PNG, GIF or npz file.

    Returns:
        The record; None when the file holds none of this version.
    """
    try:
        if path.suffix == ".png":
            return from_json(read_png_text(path, RECORD_KEY) or "")
        if path.suffix == ".gif":
            return from_json(read_gif_text(path) or "")
        if path.suffix == ".npz":  # opened here: numpy would leave a broken one open
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as content:
                return from_json(str(content["record"]))
        return from_json(read_whole(path, budget.RECORD_FILE).decode())
    except (MediaError, OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error):
        return None


def free_neighbour(path: Path) -> Path:
    """A path at which nothing is yet.

    Args:
        path: the path that is wanted.

    Returns:
        It, or the first of ``name-2``, ``name-3``, ... that is free.
    """
    candidate, n = path, 2
    while candidate.exists():
        candidate = path.with_name(f"{path.stem}-{n}{path.suffix}")
        n += 1
    return candidate
