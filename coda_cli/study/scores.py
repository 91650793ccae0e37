"""Scores on disk while they are measured, so that a long measurement goes on where it stopped."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from coda_cli.errors import MediaError, UsageError
from coda_cli.media.files import alone, write_with

MAX_BYTES = 64 << 20  # of a file of scores; the published measurements have at most 3 MB


class Scores:
    """A file of JSON lines: what is measured, then one line of numbers for every grid or picture.

    It is used in a ``with`` block; until its end no other run may write to the file.

    Attributes:
        path: of the file; None where nothing is kept on disk.
        rows: the numbers so far, of earlier runs and of this one.
    """

    def __init__(self, path: Path | None, measured: Mapping[str, object], columns: int | None = None) -> None:
        """Read what earlier runs kept, or begin the file.

        Args:
            path: of the file; None keeps nothing on disk.
            measured: everything that decides the scores, as can be written as JSON.
            columns: how many numbers a line has; as many as the first unless given.

        Raises:
            UsageError: the file is of another measurement, or another run writes to it.
            MediaError: the file cannot be read or written, or holds lines that are no scores.
        """
        self._columns = columns
        self.path, self.rows, self._lock = path, list[list[float]](), ExitStack()
        if path is None:
            return
        with ExitStack() as lock:
            lock.enter_context(alone(path, "name another file"))
            self._read(path, measured)
            self._lock = lock.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()

    def _read(self, path: Path, measured: Mapping[str, object]) -> None:
        """Read the rows of the file, and write it anew where it is new or its last line was cut off."""
        head = json.dumps(measured, sort_keys=True)
        text = _text(path)
        lines = text.splitlines()
        if lines and lines[0] != head:
            if len(lines) > 1 or not head.startswith(lines[0]):  # otherwise a full disk cut off the first line
                raise UsageError("holds the scores of another measurement; name another file, or remove it", item=path)
            lines = []
        for number, line in enumerate(lines[1:], 2):
            row = _row(line)
            if row is None and number == len(lines):  # cut off in the middle of a line
                break
            columns = self._columns or (len(self.rows[0]) if self.rows else None)
            if row is None or (columns is not None and len(row) != columns):
                raise MediaError(f"line {number} holds no scores; name another file, or remove this one", item=path)
            self.rows.append(row)
        if len(lines) != 1 + len(self.rows) or not text.endswith("\n"):
            # Written beside it and then put in its place: at no time is the only copy of the scores incomplete.
            whole = "\n".join([head, *(json.dumps(row) for row in self.rows)]) + "\n"
            write_with(path, lambda stream: stream.write(whole.encode()))

    def add(self, row: Sequence[float]) -> None:
        """Keep the numbers of the next grid or picture.

        Args:
            row: its numbers.

        Raises:
            MediaError: the file cannot be written.
        """
        self.rows.append(list(row))
        if self.path is None:
            return
        try:
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(self.rows[-1]) + "\n")
        except OSError as error:
            raise MediaError(f"cannot be written ({error.strerror or error})", item=self.path) from error


def _text(path: Path) -> str:
    """What the file holds; nothing where it is not there. Raises MediaError."""
    if not os.path.lexists(path):
        return ""
    if not path.is_file():
        raise MediaError("is no file that scores can be kept in; name another one", item=path)
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise MediaError(f"is too large for scores; the limit is {MAX_BYTES} bytes; name another file", item=path)
        return content.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise MediaError(f"cannot be read ({error}); name another file", item=path) from error


def _row(line: str) -> list[float] | None:
    """The numbers of a line; None where it holds none."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(values, list) or not values or not all(type(value) in (int, float) for value in values):
        return None
    try:
        return [float(value) for value in values]
    except OverflowError:
        return None
