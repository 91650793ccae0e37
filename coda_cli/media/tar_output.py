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
from pathlib import Path
from typing import IO

from coda_cli.errors import MediaError, UsageError
from coda_cli.media.addresses import is_address
from coda_cli.media.archives import members
from coda_cli.media.elsewhere import Elsewhere
from coda_cli.media.files import alone, prepare
from coda_cli.media.remote_folder import RemoteFolder
from coda_cli.vocabulary import IfExists

SUFFIX, PART = ".tar", ".part"
_PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".tar.zst")
_OF_RECORD, _BEGINNING = ".json", b'{"schema":"coda.'  # the last file of a picture, and how it begins
_BLOCK, _RECORD = 512, 10_240  # bytes of a tar's blocks; what its length is a multiple of

Members = dict[str, tuple[int, int]]  # by name: where the bytes of a file begin, and how many they are


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

    keyed = True

    def __init__(
        self, path: Path, name: str, *, anew: bool = False, written: bool = True, parent: RemoteFolder | None = None
    ) -> None:
        super().__init__(name)
        self.path, self.resumes = path, parent is None
        self._parent, self._part = parent, path.with_name(path.name + PART)
        self._lock, self._held = threading.Lock(), contextlib.ExitStack()
        self._stream: IO[bytes] | None = None
        weakref.finalize(self, self._held.close)
        if written:
            prepare(path.parent)
            self._held.enter_context(alone(self._part, "choose another --output"))
        self._source: Path | None = None
        self._members, self._end = Members(), 0
        if not anew:
            self._find()

    def _find(self) -> None:
        """Find what is there already: in an unfinished tar, unless a whole one has what it lacks."""
        whole, end = self._whole() if self.path.exists() else (Members(), 0)
        if self._part.exists():
            begun, length = _kept(self._part)
            if whole.keys() <= begun.keys():
                self._source, self._members, self._end = self._part, begun, length
                return
        if self.path.exists():
            self._source, self._members, self._end = self.path, whole, end

    def _whole(self) -> tuple[Members, int]:
        """What the tar holds. Raises UsageError where it is not coda's."""
        try:
            found, end = _kept(self.path)
            record = next((place for name, place in found.items() if name.endswith(_OF_RECORD)), None)
            if not found and any(self._bytes(self.path, 0, _BLOCK)):
                raise tarfile.ReadError
            if record and not self._bytes(self.path, record[0], len(_BEGINNING)) == _BEGINNING:
                raise tarfile.ReadError
        except (OSError, tarfile.TarError):
            raise UsageError(
                "is there, and is no tar of coda's results; choose another --output, or --force to replace it",
                item=self.name,
            ) from None
        return found, end

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
        place = self._members.get(self._inside(path))
        if place is None or path.exists():
            return
        source = self._part if self._stream else self._source
        try:
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
                for path in paths:
                    if (name := self._inside(path)) not in self._members:
                        start = _add(stream, path, name)
                        added[name] = (start, stream.tell() - start)
                        stream.write(bytes(-stream.tell() % _BLOCK))
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

    def finish(self) -> None:
        """Give the tar its end and its name, and put it at its address.

        Raises:
            MediaError: it cannot be written.
        """
        with self._lock:
            there = self.path.exists() or (self._parent is not None and self.path in self._parent)
            try:
                if self._stream or self._source == self._part or not there:  # else nothing is new
                    stream = self._stream or self._begin()
                    stream.write(bytes(2 * _BLOCK))
                    stream.write(bytes(-stream.tell() % _RECORD))
                    stream.flush()
                    os.fsync(stream.fileno())
                    stream.close()
                    self._stream, self._source = None, self.path
                    os.replace(self._part, self.path)
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
            shutil.copyfile(self._source, self._part)
        self._stream = self._part.open("r+b")
        self._stream.truncate(self._end)
        self._stream.seek(self._end)
        return self._stream

    @staticmethod
    def _bytes(path: Path, start: int, size: int) -> bytes:
        with path.open("rb") as stream:
            stream.seek(start)
            return stream.read(size)


def tar_output(output: str, if_exists: IfExists, *, written: bool = True) -> TarOutput:
    """Open a tar for results.

    Args:
        output: its path, or its address.
        if_exists: what happens to one that exists: "overwrite" begins anew, "error" refuses it, the others go on with
            it.
        written: whether files will be written.

    Returns:
        The tar.

    Raises:
        UsageError: it exists and may not be replaced, cannot be written, or is not coda's.
    """
    anew, parent, path, name = if_exists == "overwrite", None, Path(output), output
    if is_address(output):
        parent = RemoteFolder(output.rpartition("/")[0], written=written)
        path = parent.folder / output.rpartition("/")[2]
        name = parent.shown(path)
        if not anew:
            parent.fetch_large(path)
    if if_exists == "error" and (path.exists() or path.with_name(path.name + PART).exists()):
        raise UsageError("exists; --if-exists match goes on with it, overwrite replaces it", item=name)
    return TarOutput(path, name, anew=anew, written=written, parent=parent)


def elsewhere(output: str, if_exists: IfExists, *, written: bool = True) -> Elsewhere | None:
    """Open what a user names for results, where it is no folder on this disk.

    Args:
        output: a folder, a tar, or the address of one of them.
        if_exists: what happens to a tar that exists; see ``tar_output``.
        written: whether files will be written, which is tried at once.

    Returns:
        The tar, or the folder at an address; None for a folder on this disk.

    Raises:
        UsageError: nothing can be written there.
    """
    if is_tar(output):
        return tar_output(output, if_exists, written=written)
    return RemoteFolder(output, written=written) if is_address(output) else None


def is_tar(output: str) -> bool:
    """Say whether results go into a tar, by the name that a user gives.

    Args:
        output: what --output says.

    Returns:
        Whether it names a tar; a folder of such a name that is there already stays a folder.

    Raises:
        UsageError: it names a compressed tar.
    """
    if output.lower().endswith(_PACKED) and not os.path.isdir(output):
        raise UsageError(
            f"--output {output}: a tar for results is not compressed, or it could not be continued; name it "
            f"{Path(output).name.partition('.t')[0]}{SUFFIX}"
        )
    return output.lower().endswith(SUFFIX) and not os.path.isdir(output)


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
                    if info.name.endswith(_OF_RECORD):
                        kept.update(since)
                        since, end = Members(), archive.offset
        except tarfile.ReadError:  # cut off in what says where a file begins
            pass
    return kept, end


def _add(stream: IO[bytes], path: Path, name: str) -> int:
    """Write a file with its header; returns where its bytes begin. Raises OSError."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = path.stat().st_size, 0o644
    stream.write(info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))
    start = stream.tell()
    with path.open("rb") as content:
        shutil.copyfileobj(content, stream)
    return start
