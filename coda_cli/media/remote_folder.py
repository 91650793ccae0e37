"""An output folder at an address: files are made on this disk, and put there whole, one after the other.

It is listed once. What is there is fetched only when a file of its name is to be written, so that the rules about files
that exist are those of a folder on a disk.
"""

from __future__ import annotations

import posixpath
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from coda_cli.errors import MediaError, UsageError
from coda_cli.machine.ahead import in_time
from coda_cli.media.addresses import SCHEMES, driver_errors, shown, system_of
from coda_cli.media.elsewhere import Elsewhere
from coda_cli.media.files import TEMPORARY_PREFIX
from coda_cli.media.http import with_tries

T = TypeVar("T")

WRITABLE = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory")  # where an object appears whole or not at all
LISTING = 900.0  # seconds for the list of a folder; a server gives about a thousand names at a time
LARGE, LONG = 64_000_000, 6 * 3600.0  # bytes from which on a file goes in pieces; seconds that it may take
_PROBE = f"{TEMPORARY_PREFIX}writable"


class RemoteFolder(Elsewhere):
    """A folder at an address.

    Args:
        url: the address, such as ``s3://bucket/out/``.
        written: whether files will be written, which is tried at once.

    Raises:
        UsageError: it is not an address where files can be written.
    """

    def __init__(self, url: str, *, written: bool = True) -> None:
        super().__init__(shown(url).rstrip("/"))
        scheme = url.partition("://")[0].lower()
        if scheme not in SCHEMES or scheme not in WRITABLE or "::" in url:
            raise UsageError(f"files are not written there, but to {', '.join(f'{s}://' for s in WRITABLE)}", item=url)
        if scheme != "memory" and not url.partition("://")[2].strip("/"):
            raise UsageError("names no bucket", item=url)
        try:
            with driver_errors():
                self._system, path = system_of(url)
                self._path = path.rstrip("/")
                self._names = in_time(self._listed, LISTING)
            if written:
                self._try(lambda: self._system.pipe_file(self._at(_PROBE), b""), self.name)
        except TimeoutError:
            raise UsageError("the server does not answer", item=self.name) from None
        except MediaError as error:
            raise UsageError(f"cannot write there: {error.message}", item=self.name) from None
        if written:
            self._forget(_PROBE)

    def __contains__(self, path: Path) -> bool:
        return self._inside(path) in self._names

    def holds(self, url: str) -> bool:
        """Say whether an address lies in this folder.

        Args:
            url: the address, as messages have it.

        Returns:
            Whether it does.
        """
        return _one_spelling(url).startswith(f"{_one_spelling(self.name)}/")

    def fetch(self, path: Path) -> None:
        """Bring a file that is there to this disk; nothing is done where none is there, or it is here already.

        Args:
            path: where it belongs on this disk.

        Raises:
            MediaError: it cannot be read.
        """
        if path not in self or path.exists():
            return
        content = self._try(lambda: self._system.cat_file(self._at(self._inside(path))), self.shown(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def fetch_large(self, path: Path) -> None:
        """Bring a file to this disk piece by piece, as ``fetch`` does a small one.

        Args:
            path: where it belongs on this disk.

        Raises:
            MediaError: it cannot be read.
        """
        if path in self:
            self._at_length(lambda: self._system.get_file(self._at(self._inside(path)), str(path)), path)

    def put(self, *paths: Path) -> None:
        """Move files there, one after the other, each whole or not at all.

        Args:
            paths: where they were made on this disk.

        Raises:
            MediaError: they cannot be written.
        """
        for path in paths:
            where = self._at(name := self._inside(path))
            if path.stat().st_size > LARGE:
                self._at_length(partial(self._system.put_file, str(path), where), path)
            else:
                self._try(partial(self._system.pipe_file, where, path.read_bytes()), self.shown(path))
            self._names.add(name)
            path.unlink()

    def remove(self, path: Path) -> None:
        """Remove a file, there and on this disk.

        Args:
            path: where it belongs on this disk.

        Raises:
            MediaError: it cannot be removed.
        """
        if path in self:
            self._try(lambda: self._system.rm_file(self._at(self._inside(path))), self.shown(path))
            self._names.discard(self._inside(path))
        path.unlink(missing_ok=True)

    def _at_length(self, call: Callable[[], object], path: Path) -> None:
        """Ask for something that may take hours. Raises MediaError."""
        try:
            with driver_errors():
                in_time(call, LONG)
        except (MediaError, TimeoutError) as error:
            message = error.message if isinstance(error, MediaError) else "the server does not answer"
            raise MediaError(message, item=self.shown(path)) from None

    def _at(self, name: str) -> str:
        return f"{self._path}/{name}"

    def _listed(self) -> set[str]:
        """The names that are there; none where the folder does not exist yet."""
        self._system.invalidate_cache()  # an earlier run of this process may have listed it
        try:
            names = self._system.find(self._path)
        except FileNotFoundError:
            names = []
        self._system.invalidate_cache()  # the driver keeps more of each name than is needed
        return {posixpath.relpath(name, self._path or "/") for name in names}

    def _forget(self, name: str) -> None:
        """Remove a file; it stays where the user may write and not remove."""
        try:
            self._try(lambda: self._system.rm_file(self._at(name)), name)
        except MediaError:
            return

    @staticmethod
    def _try(call: Callable[[], T], name: str) -> T:
        """Ask for something, a few times where that may help. Raises MediaError."""

        def once(until: float) -> T:
            with driver_errors():
                return in_time(call, until - time.monotonic())

        return with_tries(once, name)


def _one_spelling(url: str) -> str:
    """The same text for addresses that differ in how their schemes are written."""
    scheme, _, rest = url.partition("://")
    return f"{SCHEMES.get(scheme.lower()) or scheme.lower()}://{rest.lstrip('/')}"
