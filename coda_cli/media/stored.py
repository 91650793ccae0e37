"""Pictures that are no files of their own: inside an archive, at an address, on a stream. Each gives its bytes."""

from __future__ import annotations

import threading
import weakref
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
    """Bytes of a picture that are asked for more than once: to count its pages, and for each of them.

    They are kept, so that they come once, as long as all documents together keep at most budget.DOCUMENT_BYTES.

    Args:
        source: where they are: a file, or what is stored elsewhere.
    """

    def __init__(self, source: Path | Stored) -> None:
        self._source, self._lock, self._kept = source, threading.Lock(), b""

    def read(self, *, ahead: bool = False) -> bytes:
        """Read the bytes, or give those that were kept.

        Args:
            ahead: whether pages of other documents will be read before those of this one: then these are kept in
                preference, as they are wanted first.

        Returns:
            The whole content.

        Raises:
            MediaError: they cannot be read, or are too many.
        """
        if isinstance(self._source, Path):
            return read_whole(self._source, budget.PICTURE_FILE)
        with self._lock:
            content = self._kept or self._source.read()
            _ROOM.keep(self, content, displace=not ahead)
            return content

    def __reduce__(self) -> tuple[Any, ...]:
        return Document, (self._source,)


class _Room:
    """The room that all documents share; of those that are not in use any more nothing is kept."""

    def __init__(self) -> None:
        self._lock, self._sizes, self._total = threading.RLock(), dict[weakref.ref[Document], int](), 0

    def keep(self, document: Document, content: bytes, *, displace: bool) -> None:
        """Keep what a document holds where there is room; with ``displace``, what was not read for longest gives way.

        Raises nothing.
        """
        with self._lock:
            self._forget(weakref.ref(document))
            displace = displace and len(content) <= budget.DOCUMENT_BYTES  # else nothing is gained
            while displace and self._sizes and self._total + len(content) > budget.DOCUMENT_BYTES:
                self._forget(next(iter(self._sizes)))
            if self._total + len(content) <= budget.DOCUMENT_BYTES:
                document._kept = content
                self._sizes[weakref.ref(document, self._forget)] = len(content)
                self._total += len(content)

    def _forget(self, reference: weakref.ref[Document]) -> None:
        with self._lock:  # entered again where the last use of a document ends inside it
            self._total -= self._sizes.pop(reference, 0)
            if (document := reference()) is not None:
                document._kept = b""


_ROOM = _Room()


@dataclass(frozen=True)
class Page(Stored):
    """One page of a picture that has several, or one frame; or a picture whose pages were counted, as a whole.

    Attributes:
        name: what the page is called: that of the whole, and ``#page=2``.
        size: bytes of the whole.
        number: of the page, from 1 on; None for the whole.
        document: the whole.
        whole: what is equal for all names of the whole.
    """

    name: str
    size: int
    number: int | None
    document: Document
    whole: Path | str

    @property
    def key(self) -> str:
        """What is equal for all names of this page."""
        return str(self.whole) if self.number is None else f"{self.whole}#page={self.number}"

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
