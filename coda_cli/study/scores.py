"""Scores on disk while they are measured, so that a long measurement goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from coda_cli.errors import MediaError, UsageError
from coda_cli.media.files import alone, write_with


class Scores:
    """A file of JSON lines: what is measured, then one line of numbers for every grid or picture.

    In a ``with`` block, at whose end another run may write to the file again.
    """

    def __init__(self, path: Path | None, measured: dict[str, Any]) -> None:
        """``measured`` is everything that decides the scores. Without a path nothing is kept.

        Raises UsageError for a file of another measurement, or one that another run writes to; MediaError where it
        cannot be read or written.
        """
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

    def _read(self, path: Path, measured: dict[str, Any]) -> None:
        head = json.dumps(measured, sort_keys=True)
        try:
            text = path.read_text(encoding="utf-8") if path.exists() else ""
        except (OSError, UnicodeDecodeError) as error:
            raise MediaError(f"{path}: cannot be read ({error})") from error
        lines = text.splitlines()
        if lines and lines[0] != head:
            raise UsageError(f"{path}: holds the scores of another measurement; name another file, or remove it")
        for line in lines[1:]:
            try:
                self.rows.append([float(value) for value in json.loads(line)])
            except (ValueError, TypeError):  # cut off in the middle of a line
                break
        if len(lines) != 1 + len(self.rows) or not text.endswith("\n"):  # new, or cut off: never the only copy in place
            whole = "\n".join([head, *(json.dumps(row) for row in self.rows)]) + "\n"
            write_with(path, lambda stream: stream.write(whole.encode()))

    def add(self, row: Sequence[float]) -> None:
        """Keep the next line."""
        self.rows.append(list(row))
        if self.path is None:
            return
        try:
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(self.rows[-1]) + "\n")
        except OSError as error:
            raise MediaError(f"{self.path}: cannot be written ({error.strerror or error})") from error
