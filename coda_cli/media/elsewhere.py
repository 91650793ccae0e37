"""Where results go that is no folder on this disk: files are made in a folder on it, and then put there."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple


class Sample(NamedTuple):
    """What one file of results holds about one picture.

    Attributes:
        name: of the record.
        place: by which it is found again: of a tar the byte where its first file begins, of Parquet the row.
        record: its JSON, cut off where it is larger than a record can be.
        file: gives the content of another file about the picture by its name; None where there is none.
    """

    name: str
    place: int
    record: bytes
    file: Callable[[str], bytes | None]


class Elsewhere(ABC):
    """A place for results, with a folder on this disk in which its files are made.

    Args:
        name: what messages call it.

    Attributes:
        name: what messages call it.
        folder: the folder on this disk; it is removed with the object.
        resumes: whether a run that was broken off goes on from what is there.
        packed: whether it is one file, which is gone on with by the records in it.
        keyed: whether the part of a name before its first dot is a key, which tells one picture's files from another's.
    """

    resumes, packed, keyed = True, False, False

    def __init__(self, name: str) -> None:
        self.name, self.folder = name, Path(tempfile.mkdtemp(prefix="coda-"))
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)

    def shown(self, path: Path) -> str:
        """Write where a file is as messages have it.

        Args:
            path: where it is made on this disk.

        Returns:
            The name of the place, and the file's in it.
        """
        return f"{self.name}/{self._inside(path)}"

    def holds(self, url: str) -> bool:  # noqa: ARG002 (for those that have addresses)
        """Say whether an address lies in this place.

        Args:
            url: the address, as messages have it.

        Returns:
            Whether it does.
        """
        return False

    @property
    def around(self) -> tuple[Path, Elsewhere | None]:
        """The folder for what is said of a whole run, and the place where its files go from there, if it is one."""
        return self.folder, self

    @abstractmethod
    def __contains__(self, path: Path) -> bool: ...

    @abstractmethod
    def fetch(self, path: Path) -> None:
        """Bring a file that is there to this disk; nothing is done where none is there, or it is here already.

        Args:
            path: where it belongs on this disk.

        Raises:
            MediaError: it cannot be read.
        """

    @abstractmethod
    def put(self, *paths: Path) -> None:
        """Move the files about one picture there, in order, each whole or not at all.

        Args:
            paths: where they were made on this disk.

        Raises:
            MediaError: they cannot be written.
        """

    @abstractmethod
    def remove(self, path: Path) -> None:
        """Remove a file, there and on this disk.

        Args:
            path: where it belongs on this disk.

        Raises:
            MediaError: it cannot be removed.
        """

    def note(self, name: str, failed: str | None) -> None:  # noqa: B027 (most places keep results alone)
        """Take note of how an input ended.

        Args:
            name: of the input, as records have it.
            failed: the record of an input that failed, as JSON; None for one that did not.
        """

    def finish(self, on_step: Callable[[int, int], object] | None = None) -> None:  # noqa: B027 (most need nothing)
        """Say that a run has come to its end.

        Args:
            on_step: hears how much of what is left to be made is done, and of how much.

        Raises:
            MediaError: what it made cannot be put where it belongs.
        """

    def release(self) -> None:  # noqa: B027 (most places need nothing)
        """Say that a run is over, also one that has not come to its end."""

    def _inside(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()
