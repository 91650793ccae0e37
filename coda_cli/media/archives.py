"""Pictures in ZIP and tar archives and Parquet files: listed once, each read where it lies, nothing is unpacked.

An archive may come from a stranger. Its list is read in bounded memory and time; links, devices, and names that lead
out of the archive are left out; of several entries with one name the last counts, as it does when they are unpacked.
"""

from __future__ import annotations

import bz2
import gzip
import stat
import struct
import tarfile
import threading
import zipfile
import zlib
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any, NoReturn, cast

from coda_cli.errors import MediaError, UsageError
from coda_cli.machine import budget
from coda_cli.media import parquet
from coda_cli.media.kinds import why_no_archive
from coda_cli.media.stills import SUFFIXES
from coda_cli.media.stored import Stored, refuse_size
from coda_cli.media.tar_samples import begins, members

_COMPRESSED: dict[str, Callable[..., Any]] = {
    ".tar.gz": gzip.open,
    ".tgz": gzip.open,
    ".tar.bz2": bz2.open,
    ".tbz2": bz2.open,
}
ARCHIVES = (".zip", ".tar", parquet.SUFFIX, *_COMPRESSED)

_LOCAL = struct.Struct("<4s22xHH")  # of a ZIP entry: what it begins with, and the lengths of its name and extra field


@dataclass
class Listing:
    """What is in an archive.

    Attributes:
        pictures: the entries that are pictures by their names, by these names, in the archive's order.
        left_out: how many entries are left out, for which reason.
        others: how many files have which other suffix.
        ends: whether it has the mark at its end that archives have. Without it, something may have followed.
    """

    pictures: dict[PurePosixPath, Stored] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)
    others: Counter[str] = field(default_factory=Counter)
    ends: bool = True

    def place(self, name: str) -> PurePosixPath | None:
        """Find out where a file lies in the archive, and count it where it is left out.

        Args:
            name: as the archive has it.

        Returns:
            Its path; None unless it is to be read.
        """
        inside = PurePosixPath(name)
        if inside.is_absolute() or ".." in inside.parts or "\0" in name:
            self.left_out["their names lead out of the archive"] += 1
        elif not any(part.startswith(".") for part in inside.parts):  # hidden files, as in a folder
            if inside.suffix.lower() in SUFFIXES:
                return inside
            self.others[inside.suffix.lower() or "no suffix"] += 1
        return None

    def add(self, inside: PurePosixPath, entry: Stored) -> None:
        """Take a picture; it replaces an earlier one of its name.

        Args:
            inside: its path in the archive.
            entry: where its bytes are.
        """
        if self.pictures.pop(inside, None):
            self.left_out["later ones have their names"] += 1
        self.pictures[inside] = entry


def is_archive(name: str) -> bool:
    """Say whether a file is an archive, by its name.

    Args:
        name: the file's name.

    Returns:
        Whether ``list_archive`` reads it.
    """
    return name.lower().endswith(ARCHIVES)


def list_archive(path: Path) -> Listing:
    """List the pictures in an archive.

    Args:
        path: a file whose name ends as one of ARCHIVES.

    Returns:
        What is in it.

    Raises:
        MediaError: it cannot be read, is broken or cut off, or has too many entries.
    """
    opened = _expander(path)
    try:
        if path.suffix.lower() == parquet.SUFFIX:
            return Listing(dict(parquet.list_rows(path)))
        with path.open("rb") as stream:
            if path.suffix.lower() == ".zip":
                return _list_zip(path, stream)
            if opened is None:
                return _list_tar(path, _Bounded(stream, path))
        with cast("IO[bytes]", opened(path, "rb")) as expanded:
            most = max(budget.EXPANDED_BYTES, budget.EXPANDED_TIMES * path.stat().st_size)
            return _list_tar(path, _Bounded(expanded, path, most), _InOrder(path))
    except MediaError as error:
        raise error.about(path)  # noqa: B904 (it is the same error)
    except MemoryError:
        raise
    except Exception as error:  # of broken archives the libraries raise errors of a dozen classes
        raise MediaError(why_no_archive(path, error), item=path) from error


def _expander(path: Path) -> Callable[..., Any] | None:
    """What opens a compressed tar; None for an archive that is not compressed as a whole."""
    return next((opened for suffix, opened in _COMPRESSED.items() if path.name.lower().endswith(suffix)), None)


class _Bounded:
    """A stream for the libraries that read lists of archives; it refuses what only a hostile archive asks for.

    Args:
        stream: what is read.
        path: the archive.
        most: bytes that the stream may have; an archive that expands to more is taken for a bomb.
    """

    def __init__(self, stream: IO[bytes], path: Path, most: int | None = None) -> None:
        self._stream, self._path, self._most = stream, path, most
        self.tell = stream.tell

    def read(self, size: int = -1) -> bytes:
        """Read on.

        Args:
            size: bytes, at most; all that follow where it is negative.

        Returns:
            The bytes.

        Raises:
            MediaError: more are asked for than a list of files has, or the archive expands to too many.
        """
        if size > budget.DIRECTORY_BYTES:
            raise _too_many(self._path)
        self._refuse_bomb(self._stream.tell())
        return self._stream.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to another place.

        Args:
            offset: bytes from there.
            whence: where they are counted from, as ``io`` has it.

        Returns:
            The place, in bytes from the beginning.

        Raises:
            MediaError: the archive expands to too many bytes.
        """
        self._refuse_bomb(offset if whence == 0 else 0)
        return self._stream.seek(offset, whence)

    def _refuse_bomb(self, position: int) -> None:
        if self._most is not None and position > self._most:
            raise MediaError(
                f"expands to more than {self._most / 1e6:.0f} MB; if you trust it, unpack it first", item=self._path
            )


def _too_many(path: Path) -> MediaError:
    return MediaError(f"has more than {budget.ENTRIES} entries; split it, or unpack it first", item=path)


# ---- ZIP -------------------------------------------------------------------------------------------------------------


def _list_zip(path: Path, stream: IO[bytes]) -> Listing:
    """What is in a ZIP archive; the libraries' errors are passed on."""
    found = Listing()
    with zipfile.ZipFile(cast("IO[bytes]", _Bounded(stream, path))) as archive:
        infos = archive.infolist()
    if len(infos) > budget.ENTRIES:
        raise _too_many(path)
    for info in infos:
        mode = info.external_attr >> 16
        if info.is_dir():
            continue
        if stat.S_IFMT(mode) and not stat.S_ISREG(mode):
            found.left_out["links or devices"] += 1
        elif inside := found.place(info.filename.replace("\\", "/")):  # as some programs of Windows write it
            found.add(inside, _InZip(f"{path.as_posix()}/{inside}", info.file_size + info.compress_size, path, info))
    return found


@dataclass(frozen=True, slots=True)
class _InZip(Stored):
    """A file in a ZIP archive."""

    name: str
    size: int
    archive: Path
    info: zipfile.ZipInfo

    def read(self) -> bytes:
        """Read the file, and check its length and checksum.

        Returns:
            Its bytes.

        Raises:
            MediaError: it has too many, is encrypted, compressed in another way than ZIPs mostly are, or broken.
        """
        info = self.info
        refuse_size(info.file_size, self.name)
        refuse_size(info.compress_size, self.name)
        if info.flag_bits & 1:
            raise MediaError("is encrypted; unpack the archive first", item=self.name)
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            how = f"is compressed in a way that coda does not read (method {info.compress_type})"
            raise MediaError(f"{how}; unpack the archive first", item=self.name)
        try:
            content = self._content()
        except (OSError, zlib.error, struct.error) as error:
            raise MediaError(f"is broken in its archive ({error})", item=self.name) from error
        if len(content) != info.file_size or zlib.crc32(content) != info.CRC:
            raise MediaError("is broken in its archive (its length or checksum is wrong)", item=self.name)
        return content

    def _content(self) -> bytes:
        """The bytes, and at most one more than there should be. Not by ``zipfile``: it would keep the archive open."""
        with self.archive.open("rb") as stream:
            stream.seek(self.info.header_offset)
            mark, name, extra = _LOCAL.unpack(stream.read(_LOCAL.size))
            if mark != b"PK\3\4":
                raise zlib.error("no entry begins where the list says")
            stream.seek(name + extra, 1)
            packed = stream.read(self.info.compress_size)
        if self.info.compress_type == zipfile.ZIP_STORED:
            return packed
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, self.info.file_size + 1)


# ---- tar -------------------------------------------------------------------------------------------------------------


def _list_tar(path: Path, stream: _Bounded, in_order: _InOrder | None = None) -> Listing:
    """What is in a tar archive; the library's errors are passed on."""
    found = Listing()
    with tarfile.open(fileobj=cast("IO[bytes]", stream), mode="r:") as archive:
        for number, info in enumerate(members(archive)):
            if number >= budget.ENTRIES:
                raise _too_many(path)
            if info.isdir():
                continue
            if not info.isreg() or info.issparse():
                found.left_out["links or devices"] += 1
            elif inside := found.place(info.name):
                name = f"{path.as_posix()}/{inside}"
                found.add(inside, _InTar(name, info.size, path, info.offset_data, in_order))
        found.ends = bool(begins(archive, archive.offset))
    if in_order:
        in_order.parts = [(entry.start, entry.size) for entry in found.pictures.values() if isinstance(entry, _InTar)]
    return found


@dataclass(frozen=True, slots=True)
class _InTar(Stored):
    """A file in a tar archive, which may be compressed as a whole."""

    name: str
    size: int
    archive: Path
    start: int
    in_order: _InOrder | None

    def read(self) -> bytes:
        """Read the file.

        Returns:
            Its bytes.

        Raises:
            MediaError: it has too many, is broken or cut off.
        """
        refuse_size(self.size, self.name)
        try:
            if self.in_order:
                content = self.in_order.read(self.start, self.size)
            else:
                with self.archive.open("rb") as stream:
                    stream.seek(self.start)
                    content = stream.read(self.size)
        except (OSError, EOFError, zlib.error) as error:
            raise MediaError(f"is broken in its archive ({error})", item=self.name) from error
        if len(content) != self.size:
            raise MediaError("is cut off in its archive", item=self.name)
        return content


class _InOrder:
    """Reads the files of a compressed archive, which can only be read from its beginning on.

    Several threads ask, nearly in the archive's order. What one of them skips is kept for the others, up to
    budget.SKIPPED_BYTES; what lies further back is read again from the beginning.

    Args:
        path: the archive.

    Attributes:
        parts: (start, size) of all files, in bytes, in the archive's order.
    """

    def __init__(self, path: Path) -> None:
        self.parts: list[tuple[int, int]] = []
        self._path, self._lock = path, threading.Lock()
        self._stream: IO[bytes] | None = None
        self._kept: dict[int, bytes] = {}
        self._following: deque[tuple[int, int]] = deque()

    def read(self, start: int, size: int) -> bytes:
        """Read a part of what the archive expands to.

        Args:
            start: where the file begins, in bytes.
            size: of the file, in bytes.

        Returns:
            The bytes; fewer where the archive ends before.

        Raises:
            OSError: the archive cannot be read.
            EOFError: it is cut off.
        """
        with self._lock:
            if (kept := self._kept.pop(start, None)) is not None:
                return kept
            if self._stream is None or start < self._stream.tell():
                self._begin(start)
            stream = self._stream
            assert stream is not None
            while self._following and self._following[0][0] < start:
                self._keep(stream, *self._following.popleft())
            stream.seek(start)
            content = stream.read(size)
            if self._following:
                self._following.popleft()
            if not self._following:
                self._end()
            return content

    def __reduce__(self) -> NoReturn:
        raise UsageError(
            "is compressed as a whole, so that one process has to read it from its beginning; decompress it first",
            item=self._path,
        )

    def _begin(self, start: int) -> None:
        self._end()
        opened = _expander(self._path)
        assert opened is not None
        self._stream = cast("IO[bytes]", opened(self._path, "rb"))
        self._following = deque(part for part in self.parts if part[0] >= start)

    def _keep(self, stream: IO[bytes], start: int, size: int) -> None:
        if size > budget.SKIPPED_BYTES:
            return
        while self._kept and sum(map(len, self._kept.values())) + size > budget.SKIPPED_BYTES:
            del self._kept[next(iter(self._kept))]
        stream.seek(start)
        self._kept[start] = stream.read(size)

    def _end(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def __del__(self) -> None:
        self._end()
