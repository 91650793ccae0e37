"""Pictures that are no files of their own: inside an archive, at an address, on a stream. Each gives its bytes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from coda_cli.errors import CodaError, MediaError
from coda_cli.machine import budget


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
