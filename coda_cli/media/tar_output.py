"""Results in one tar: the files of a folder, those of one picture side by side, as webdataset reads them.

A tar that is cut off cannot be told from a whole one by those who read it. So it is written under the name
``out.tar.part``, and gets its own when the run has come to its end. What an unfinished one holds whole is kept:
pictures whose record, which is last, is there.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tarfile
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import IO

from coda_cli.errors import MediaError, UsageError
from coda_cli.media.elsewhere import Elsewhere
from coda_cli.media.files import alone, prepare
from coda_cli.media.remote_folder import RemoteFolder
from coda_cli.media.tar_samples import BEGINNING, OF_RECORD, Members, bytes_at, members

PART = ".part"
_BLOCK, _RECORD = 512, 10_240  # bytes of a tar's blocks; what its length is a multiple of


class TarOutput(Elsewhere):
    """A tar that takes results.

    Args:
        path: the tar.
        name: what messages call it.
        anew: whether nothing is kept that is there already.
        written: whether files will be written.
        parent: the folder at an address to which the tar goes when it is whole.

    Attributes:
        path: the tar.

    Raises:
        UsageError: it cannot be written, another run writes it, or there is a file of its name that is not coda's.
    """

    packed, keyed = True, True

    def __init__(
        self, path: Path, name: str, *, anew: bool = False, written: bool = True, parent: RemoteFolder | None = None
    ) -> None:
        super().__init__(name)
        self.path, self.resumes = path, parent is None
        self._parent, self._part = parent, path.with_name(path.name + PART)
        self._lock, self._held = threading.Lock(), contextlib.ExitStack()
        self._stream: IO[bytes] | None = None
        weakref.finalize(self, self._held.close)
        prepare(path.parent, dry=not written)
        if written:
            self._held.enter_context(alone(self._part, "choose another --output"))
        self._source: Path | None = None
        self._members, self._end = Members(), 0
        if not anew:
            self._find()

    def _find(self) -> None:
        """Find what is there already: in an unfinished tar, unless a whole one has what it lacks."""
        whole, end = self._whole() if self.path.exists() else (Members(), 0)
        if self._part.exists():
            try:
                begun, length = _kept(self._part)
            except OSError as error:
                why = f"cannot be gone on with ({error.strerror or error}); remove it, or choose another --output"
                raise UsageError(why, item=self._part) from error
            if whole.keys() <= begun.keys():
                self._source, self._members, self._end = self._part, begun, length
                return
        if self.path.exists():
            self._source, self._members, self._end = self.path, whole, end

    def _whole(self) -> tuple[Members, int]:
        """What the tar holds. Raises UsageError where it is not coda's."""
        try:
            found, end = _kept(self.path)
            record = next((place for name, place in found.items() if name.endswith(OF_RECORD)), None)
            if not found and any(self._bytes(self.path, 0, _BLOCK)):
                raise tarfile.ReadError
            if record and not self._bytes(self.path, record[0], len(BEGINNING)) == BEGINNING:
                raise tarfile.ReadError
        except (OSError, tarfile.TarError):
            raise self._foreign() from None
        return found, end

    def _foreign(self) -> UsageError:
        return UsageError(
            f"is there, and is no {self.path.suffix[1:]} of coda's results; choose another --output, or --force to "
            "replace it",
            item=self.name,
        )

    def __contains__(self, path: Path) -> bool:
        return self._inside(path) in self._members

    @property
    def around(self) -> tuple[Path, Elsewhere | None]:
        """The folder of the tar, and where its files go from there."""
        return self.path.parent, self._parent

    def fetch(self, path: Path) -> None:
        """Bring a file that is in the tar to this disk; nothing is done where none is there, or it is here already.

        Args:
            path: where it belongs on this disk.

        Raises:
            MediaError: it cannot be read.
        """
        try:
            with self._lock:  # where a file lies changes when the first one is added
                place = self._members.get(self._inside(path))
                if place is None or path.exists():
                    return
                source = self._part if self._stream else self._source
                assert source
                content = self._bytes(source, *place)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        except OSError as error:
            raise MediaError(f"cannot be read ({error.strerror or error})", item=self.shown(path)) from error

    def put(self, *paths: Path) -> None:
        """Add the files about one picture, in order; those that are there already, of the same picture, stay.

        Args:
            paths: where they were made on this disk.

        Raises:
            MediaError: they cannot be written; none of them is there then.
        """
        with self._lock:
            added, end = Members(), self._end
            try:
                stream = self._stream or self._begin()
                end = self._end
                for path in paths:
                    if (name := self._inside(path)) not in self._members:
                        added[name] = (_add(stream, path, name), path.stat().st_size)
                stream.flush()
            except OSError as error:
                if self._stream:
                    with contextlib.suppress(OSError):
                        self._stream.seek(end)
                        self._stream.truncate()
                raise MediaError(f"cannot be written ({error.strerror or error})", item=self.name) from error
            self._members |= added
            self._end = stream.tell()
        for path in paths:
            path.unlink()

    def remove(self, path: Path) -> None:
        """Remove a file on this disk. Only a run that begins anew asks for it: none of its name is in the tar.

        Args:
            path: where it belongs on this disk.

        Raises:
            MediaError: never.
        """
        path.unlink(missing_ok=True)

    def finish(self, on_step: Callable[[int, int], object] | None = None) -> None:
        """Give the tar its end and its name, and put it at its address.

        Args:
            on_step: hears how much of what is made of the tar is done, and of how much.

        Raises:
            MediaError: it cannot be written.
        """
        with self._lock:
            there = self.path.exists() or (self._parent is not None and self.path in self._parent)
            try:
                if self._stream or self._source == self._part or not there or self._has_news():
                    stream = self._stream or self._begin()
                    stream.write(bytes(2 * _BLOCK))
                    stream.write(bytes(-stream.tell() % _RECORD))
                    stream.flush()
                    os.fsync(stream.fileno())
                    stream.close()
                    self._stream = None
                    self._give_name(on_step)
                    self._source = self.path
                    if self._parent:
                        self._parent.put(self.path)
            except OSError as error:
                raise MediaError(f"cannot be written ({error.strerror or error})", item=self.name) from error

    def release(self) -> None:
        """Let other runs write the tar; what is unfinished stays for one that goes on with it."""
        with self._lock:
            if self._stream:
                self._stream.close()
            self._held.close()

    def _begin(self) -> IO[bytes]:
        """Open the unfinished tar behind what is kept. Raises OSError."""
        if self._source is None:
            self._stream = self._part.open("w+b")
            return self._stream
        if self._source != self._part:
            self._members, self._end = self._copy_whole()
        self._stream = self._part.open("r+b")
        self._stream.truncate(self._end)
        self._stream.seek(self._end)
        return self._stream

    def _copy_whole(self) -> tuple[Members, int]:
        """Begin an unfinished tar with what the whole one holds; where that is in it, and its end. Raises OSError."""
        shutil.copyfile(self.path, self._part)
        return self._members, self._end

    def _has_news(self) -> bool:
        """Whether something is to be said besides the files that were put here."""
        return False

    def _give_name(self, on_step: Callable[[int, int], object] | None) -> None:  # noqa: ARG002 (nothing takes long)
        """Give the unfinished tar, which has come to its end, its name. Raises OSError."""
        os.replace(self._part, self.path)

    def _bytes(self, path: Path, start: int, size: int) -> bytes:
        return bytes_at(path, start, size)


def _kept(path: Path) -> tuple[Members, int]:
    """The files of a tar up to the last record, and where the next one would begin. Raises OSError, TarError."""
    kept, since, end = Members(), Members(), 0
    with path.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        try:
            with tarfile.open(fileobj=stream, mode="r:") as archive:
                for info in members(archive):
                    if archive.offset > size:
                        break  # it is cut off in this file
                    since[info.name] = (info.offset_data, info.size)
                    if info.name.endswith(OF_RECORD):
                        kept.update(since)
                        since, end = Members(), archive.offset
        except tarfile.ReadError:  # cut off in what says where a file begins
            pass
    return kept, end


def add(stream: IO[bytes], content: bytes | IO[bytes], name: str, size: int = -1) -> int:
    """Add a file to a tar.

    Args:
        stream: the tar, at its end.
        content: of the file; or a stream that is copied.
        name: of the file.
        size: of what the stream holds, in bytes.

    Returns:
        Where its bytes begin.

    Raises:
        OSError: it cannot be written.
    """
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(content) if isinstance(content, bytes) else size, 0o644
    stream.write(info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))
    start = stream.tell()
    if isinstance(content, bytes):
        stream.write(content)
    else:
        shutil.copyfileobj(content, stream)
    stream.write(bytes(-stream.tell() % _BLOCK))
    return start


def _add(stream: IO[bytes], path: Path, name: str) -> int:
    """Add a file that lies on this disk; returns where its bytes begin. Raises OSError."""
    with path.open("rb") as content:
        return add(stream, content, name, path.stat().st_size)
