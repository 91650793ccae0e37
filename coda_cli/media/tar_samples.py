"""Read the results in a tar, one picture after the other. numpy is not imported: reading records costs little."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO, cast

from coda_cli.errors import MediaError
from coda_cli.machine import budget
from coda_cli.media.elsewhere import Sample

SUFFIX = ".tar"
OF_RECORD, BEGINNING = ".json", b'{"schema":"coda.'  # the last file of a picture, and how it begins
MOST_FILES = 100_000  # that one picture has; all classes of ImageNet have 6,000
LARGEST = 1 << 30  # bytes of a file about a picture that are read

Members = dict[str, tuple[int, int]]  # by name: where the bytes of a file begin, and how many they are


def members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """List the entries of a tar archive, which are forgotten one by one: the library would keep them all.

    Args:
        archive: opened to be read.

    Yields:
        The entries, in order; ``archive.offset`` is where the next one begins.

    Raises:
        tarfile.ReadError: it is broken or cut off.
    """
    last = -1
    while (info := archive.next()) is not None:
        if info.offset <= last or info.size < 0:  # a length below zero leads back, again and again
            raise tarfile.ReadError("an entry leads back")
        last = info.offset
        archive.members.clear()  # type: ignore[attr-defined]
        yield info
    # Behind the first entry the library takes whatever is no header for the end.
    if begins(archive, archive.offset).strip(b"\0"):
        raise tarfile.ReadError("what stands behind an entry is none")


def begins(archive: tarfile.TarFile, offset: int) -> bytes:
    """Read the block in which an entry of a tar archive, or its end, begins.

    Args:
        archive: opened to be read.
        offset: where the block begins, in bytes.

    Returns:
        512 bytes, zeros at the archive's end; fewer where it is cut off, none where it has no mark of its end.
    """
    stream = cast("IO[bytes]", archive.fileobj)
    stream.seek(offset)
    return stream.read(tarfile.BLOCKSIZE)


def samples(path: Path, start: int = 0) -> Iterator[Sample]:
    """Read the records in a tar, one after the other; only one of them is held.

    Args:
        path: the tar.
        start: where the first file of a picture begins, in bytes.

    Yields:
        The record of each picture, with the other files about it, which stand before it.

    Raises:
        MediaError: it is no tar, or is cut off; what was whole came before.
        OSError: it cannot be read.
    """
    with path.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        stream.seek(start)
        try:
            with tarfile.open(fileobj=stream, mode="r:") as archive:
                since, first = Members(), -1
                for info in members(archive):
                    if archive.offset > size or len(since) == MOST_FILES:
                        raise tarfile.ReadError
                    first = info.offset if first < 0 else first
                    if not info.isreg() or info.issparse():
                        continue
                    since[info.name] = (info.offset_data, info.size)
                    if info.name.endswith(OF_RECORD):
                        stream.seek(info.offset_data)
                        content = stream.read(min(info.size, budget.RECORD_FILE + 1))
                        yield Sample(info.name, first, content, partial(_of_sample, path, since))
                        since, first = Members(), -1
                if since or not begins(archive, archive.offset):
                    raise tarfile.ReadError
        except tarfile.TarError as error:
            raise MediaError("is no tar of coda's results, or is cut off", item=path) from error


def _of_sample(path: Path, files: Members, name: str) -> bytes | None:
    """The content of a file about one picture. Raises MediaError."""
    if name not in files:
        return None
    if files[name][1] > LARGEST:
        raise MediaError(f"has more than the {LARGEST / 1e6:.0f} MB that are read", item=f"{path}/{name}")
    try:
        return bytes_at(path, *files[name])
    except OSError as error:
        raise MediaError(f"cannot be read ({error.strerror or error})", item=path) from error


def bytes_at(path: Path, start: int, size: int) -> bytes:
    """Read a part of a file.

    Args:
        path: the file.
        start: where it begins.
        size: how many bytes it has.

    Returns:
        The bytes.

    Raises:
        OSError: they cannot be read.
    """
    with path.open("rb") as stream:
        stream.seek(start)
        return stream.read(size)
