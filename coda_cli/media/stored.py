"""Pictures that are no files of their own: inside an archive, at an address, on a stream. Each gives its bytes."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coda_cli.errors import CodaError, MediaError
from coda_cli.machine import budget
from coda_cli.media.files import read_whole


class Stored(ABC):
    """Where the bytes of one input are, when it is not a file on a disk.

    Attributes:
        name: what the input is called in messages and records; it holds no passwords.
        size: how many bytes reading it takes, at most.
    """

    __slots__ = ()

    name: str
    size: int

    @property
    def key(self) -> str:
        """What is equal for all names of one input."""
        return self.name

    @abstractmethod
    def read(self) -> bytes:
        """Read the bytes.

        Returns:
            The whole content, as it would stand in a file.

        Raises:
            MediaError: they cannot be read, or are too many.
        """


@dataclass(frozen=True)
class Given(Stored):
    """Bytes that are here already.

    Attributes:
        name: what the input is called.
        content: its bytes.
    """

    name: str
    content: bytes

    @property
    def size(self) -> int:  # type: ignore[override]
        """How many bytes there are."""
        return len(self.content)

    def read(self) -> bytes:
        """Give the bytes.

        Returns:
            The content.

        Raises:
            MediaError: there are more than a picture may have.
        """
        refuse_size(self.size, self.name)
        return self.content


@dataclass(frozen=True)
class Refused(Stored):
    """A line of a list that names nothing that can be read: it fails in its turn, and the others go on.

    Attributes:
        name: what the list says.
        error: why it is not read.
        size: no byte.
    """

    name: str
    error: CodaError
    size: int = 0

    def read(self) -> bytes:
        """Say why there is nothing.

        Returns:
            Never.

        Raises:
            MediaError: always.
        """
        raise MediaError(self.error.message, item=self.error.item)


class Document:
    """Bytes of which several pages are read, one soon after the other: they are kept, so that they come once.

    Args:
        source: where they are: a file, or what is stored elsewhere.
    """

    def __init__(self, source: Path | Stored) -> None:
        self._source, self._lock, self._kept = source, threading.Lock(), b""

    def read(self) -> bytes:
        """Read the bytes, or give those that were kept.

        Returns:
            The whole content; it is kept where it is not on this disk and has at most budget.SKIPPED_BYTES.

        Raises:
            MediaError: they cannot be read, or are too many.
        """
        if isinstance(self._source, Path):
            return read_whole(self._source, budget.PICTURE_FILE)
        with self._lock:
            content = self._kept or self._source.read()
            self._kept = content if len(content) <= budget.SKIPPED_BYTES else b""
            return content

    def forget(self) -> None:
        """Keep nothing any more: further pages are read anew."""
        with self._lock:
            self._kept = b""

    def __reduce__(self) -> tuple[Any, ...]:
        return Document, (self._source,)


@dataclass(frozen=True)
class Page(Stored):
    """One page of a picture that has several, or one frame.

    Attributes:
        name: what the page is called: that of the whole, and ``#page=2``.
        size: bytes of the whole.
        number: of the page, from 1 on.
        document: the whole.
        whole: what is equal for all names of the whole.
    """

    name: str
    size: int
    number: int
    document: Document
    whole: Path | str

    @property
    def key(self) -> str:
        """What is equal for all names of this page."""
        return f"{self.whole}#page={self.number}"

    def read(self) -> bytes:
        """Read the whole, in which the page is.

        Returns:
            Its bytes.

        Raises:
            MediaError: they cannot be read, or are too many.
        """
        return self.document.read()


def refuse_size(size: int, name: str) -> None:
    """Refuse a picture with more bytes than are read.

    Args:
        size: bytes that it has, or says it has.
        name: what it is called.

    Raises:
        MediaError: they are too many.
    """
    if size > budget.PICTURE_FILE:
        raise MediaError(f"has more than the {budget.PICTURE_FILE / 1e6:.0f} MB that are read", item=name)
