"""Where a page goes: whether it may be written there, and what is kept of it until it is."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Self

from coda_cli.errors import MediaError, UsageError
from coda_cli.explanation.files import FilePolicy, sweep
from coda_cli.media.files import prepare, write_with
from coda_cli.vocabulary import IfExists

ADVICE = "--force replaces it, --html names another file"


class PagePath:
    """The path of a page that is going to be made. Nothing is there before ``write``.

    Args:
        path: the file.
        if_exists: what happens to a file that exists; "match" refuses it, since a page does not say what it was made
            from.
        inputs: the files that are read; they are never written over.
        dry: whether nothing will be written, so that its folder is not made.

    Raises:
        UsageError: before any work: the file exists and may not be replaced, is no HTML file by its name, or its
            folder cannot be written.
    """

    def __init__(self, path: Path, if_exists: IfExists, inputs: Iterable[Path], *, dry: bool = False) -> None:
        self.path = path
        self.policy = FilePolicy(
            "error" if if_exists == "match" else if_exists, inputs, advice=ADVICE, other="--html", error=UsageError
        )
        if path.is_dir() or path.suffix.lower() not in (".html", ".htm"):
            raise UsageError("--html names a file that ends in .html", item=path)
        self.policy.place(path)
        prepare(path.parent, dry=dry)
        if not dry:
            sweep(path.parent)

    def write(self, fill: Callable[[IO[bytes]], object]) -> Path | None:
        """Write the file, whole or not at all.

        Args:
            fill: writes the page into a stream.

        Returns:
            Its path; None where a file exists and is kept.

        Raises:
            CodaError: a file of this name came in the meantime and may not be replaced, or the disk is full.
        """
        return self.policy.write(self.path, partial(write_with, write=fill))


class Kept:
    """Parts of a page in a file without a name, in a ``with`` block: not even a killed run leaves them.

    Args:
        path: of the page; the parts are kept on its disk.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._places = path, list[tuple[int, int]]()

    def __enter__(self) -> Self:
        self._file: IO[bytes] = tempfile.TemporaryFile(dir=self._path.parent)
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._places)

    def add(self, part: bytes) -> int:
        """Keep a part.

        Args:
            part: HTML or JSON, UTF-8.

        Returns:
            Its number, from 0 on.

        Raises:
            MediaError: the disk is full.
        """
        start = self._file.seek(0, os.SEEK_END)
        try:
            self._file.write(part)
        except OSError as error:
            raise MediaError(f"cannot be written ({error.strerror or error})", item=self._path) from error
        self._places.append((start, len(part)))
        return len(self._places) - 1

    def __getitem__(self, number: int) -> str:
        start, length = self._places[number]
        self._file.seek(start)
        return self._file.read(length).decode()

    def __iter__(self) -> Iterator[str]:
        """The parts in their order, one at a time."""
        yield from (self[number] for number in range(len(self)))

    def clear(self) -> None:
        """Forget all parts."""
        self._file.seek(0)
        self._file.truncate()
        self._places.clear()
