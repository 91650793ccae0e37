"""Files of ``torch.save``, zip or legacy, read without torch's unpickler: no code in them runs.

What is read is bounded before it is read: by the pickle's limits, by the directory of the zip, and by the file's size.
"""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import torch
from torch import Tensor

from coda_cli.checkpoints.pickled import (
    STORAGES,
    PickleError,
    PickleRefusedError,
    Storage,
    StoredTensor,
)
from coda_cli.checkpoints.pickles import MAX_BYTES, PickleReader
from coda_cli.errors import CheckpointError

MAX_FILE = 8 << 30  # bytes; the largest published file has 1.0 GiB, a trainer's file of that network about 4.2
MAX_DIRECTORY = 4 << 20  # bytes of a zip's directory; torch writes about 70 for each tensor
MAX_NESTING = 20  # of lists and dictionaries in ``everything``

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # that torch.save writes first in its legacy form


@dataclass(frozen=True, slots=True)
class _Place:
    """Where some bytes lie in the file; ``crc`` is their checksum where the file has one."""

    start: int
    size: int
    crc: int | None = None


class TorchFile:
    """A file of ``torch.save``; its tensors are read when they are asked for. Used in a ``with`` block.

    Attributes:
        path: of the file.
        content: what it holds, with ``StoredTensor`` for tensors.
    """

    def __init__(self, path: Path) -> None:
        """Open a file, and read everything but the numbers of its tensors.

        Args:
            path: of the file.

        Raises:
            CheckpointError: it cannot be read, is damaged, too large, or no file of ``torch.save``.
        """
        self.path = path
        self._read = dict[str, bytearray]()
        self._places = dict[str, _Place]()
        self._kinds = dict[str, Storage]()  # what a legacy file says about each storage
        try:
            self._stream: IO[bytes] = path.open("rb")
        except OSError as error:
            raise CheckpointError(f"cannot be read ({error.strerror or error})", item=path) from error
        try:
            self._size = os.fstat(self._stream.fileno()).st_size
            if self._size > MAX_FILE:
                raise PickleError(f"it has {self._size} bytes; the limit is {MAX_FILE}")
            self.content = self._zip_content() if self._part(0, 4) == b"PK\x03\x04" else self._legacy_content()
        except BaseException as error:
            self._stream.close()
            _raise_as_checkpoint_error(error, path)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._stream.close()
        _raise_as_checkpoint_error(error, self.path)

    def tensor(self, stored: StoredTensor) -> Tensor:
        """Read a tensor.

        Args:
            stored: from ``content``.

        Returns:
            The tensor; those of one storage share its memory.

        Raises:
            PickleError: the file does not hold its numbers, or not whole.
        """
        storage = stored.storage
        name, size = STORAGES[storage.type]
        dtype = getattr(torch, name)
        if storage.key not in self._read:
            self._read[storage.key] = self._numbers(storage, storage.count * size)
        content = self._read[storage.key]
        if len(content) != storage.count * size:
            raise PickleError("it has two descriptions of one storage")
        base = torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)
        return base.as_strided(stored.shape, stored.stride, stored.offset)

    def everything(self) -> object:
        """Read all that the file holds, for files of coda's own.

        Returns:
            ``content`` with tensors in the place of ``StoredTensor``.

        Raises:
            PickleError: the file holds more than data, or does not hold the numbers of a tensor.
        """
        return self._whole(self.content, 0)

    def _whole(self, value: object, depth: int) -> object:
        """A value with its tensors read."""
        if depth > MAX_NESTING:
            raise PickleError("it is nested too deeply")
        if isinstance(value, StoredTensor):
            return self.tensor(value)
        if isinstance(value, dict):
            return {key: self._whole(item, depth + 1) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)([self._whole(item, depth + 1) for item in value])
        if not isinstance(value, str | int | float | None):
            raise PickleRefusedError("it holds more than data")
        return value

    # ---- bytes -------------------------------------------------------------------------------------------------------

    def _part(self, start: int, length: int) -> bytes:
        """Bytes of the file; fewer at its end."""
        self._stream.seek(start)
        return self._stream.read(min(length, max(0, self._size - start)))

    def _numbers(self, storage: Storage, size: int) -> bytearray:
        """The bytes of a storage. All that are read together are not more than the file has."""
        place = self._place(storage)
        if place.size != size or sum(map(len, self._read.values())) + size > self._size:
            raise PickleError("it has a storage of another size than it says")
        content = bytearray(size)
        self._stream.seek(place.start)
        if self._stream.readinto(content) != size:  # type: ignore[attr-defined]
            raise PickleError("it ends too early")
        if place.crc is not None and zlib.crc32(content) != place.crc:
            raise PickleError("the checksum of its numbers is another")
        return content

    def _place(self, storage: Storage) -> _Place:
        """Where the bytes of a storage lie."""
        entry = self._places.get(storage.key)
        if entry is None:
            raise PickleError("it lacks the numbers of a tensor")
        return entry if self._kinds else self._of_entry(entry)

    # ---- zip ---------------------------------------------------------------------------------------------------------

    def _zip_content(self) -> object:
        """The content of a zip file, as torch has written since version 1.6."""
        entries = self._directory()
        names = [name for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(names) != 1:
            raise PickleError("it has no data.pkl")
        folder = names[0].removesuffix("data.pkl")
        order = entries.get(f"{folder}byteorder")
        if order and self._entry(order, 16) != b"little":
            raise PickleError("its numbers are in the byte order of another machine")
        content = PickleReader(self._entry(entries[names[0]], MAX_BYTES)).load()
        prefix = f"{folder}data/"
        self._places = {name.removeprefix(prefix): entry for name, entry in entries.items() if name.startswith(prefix)}
        return content

    def _entry(self, entry: _Place, limit: int) -> bytes:
        """The bytes of an entry of the zip."""
        if entry.size > limit:
            raise PickleError(f"it has {entry.size} bytes of description; the limit is {limit}")
        place = self._of_entry(entry)
        content = self._part(place.start, place.size)
        if len(content) != place.size or zlib.crc32(content) != place.crc:
            raise PickleError("the checksum of its description is another")
        return content

    def _of_entry(self, entry: _Place) -> _Place:
        """Where the bytes of an entry lie, behind its header."""
        header = self._part(entry.start, 30)
        if len(header) < 30 or header[:4] != b"PK\x03\x04":
            raise PickleError("its zip directory is damaged")
        name, extra = struct.unpack("<HH", header[26:30])
        start = entry.start + 30 + name + extra
        if start + entry.size > self._size:
            raise PickleError("it ends too early")
        return _Place(start, entry.size, entry.crc)

    def _directory(self) -> dict[str, _Place]:
        """The entries of the zip by name, at their headers; only what torch writes, which is never compressed."""
        tail_start = max(0, self._size - 65557)
        tail = self._part(tail_start, 65557)
        at = tail.rfind(b"PK\x05\x06")
        if at < 0 or len(tail) < at + 22:
            raise PickleError("it ends too early, or its zip directory is damaged")
        length, start = struct.unpack("<LL", tail[at + 12 : at + 20])
        if 0xFFFFFFFF in (length, start):  # a file beyond 4 GB
            if at < 20 or tail[at - 20 : at - 16] != b"PK\x06\x07":
                raise PickleError("its zip directory is damaged")
            record = self._part(struct.unpack("<Q", tail[at - 12 : at - 4])[0], 56)
            if len(record) < 56 or record[:4] != b"PK\x06\x06":
                raise PickleError("its zip directory is damaged")
            length, start = struct.unpack("<QQ", record[40:56])
        if length > MAX_DIRECTORY or start + length > self._size:
            raise PickleError(f"its zip directory has {length} bytes")
        return _entries(self._part(start, length))

    # ---- legacy ------------------------------------------------------------------------------------------------------

    def _legacy_content(self) -> object:
        """The content of a file in the form before torch 1.6: pickles, then each storage with its length."""
        data = self._part(0, MAX_BYTES)
        reader = PickleReader(data)
        if data[:1] != b"\x80":
            raise PickleError("it begins as no file of torch")
        if reader.load() != _MAGIC:
            raise PickleRefusedError("another pickle than torch's")
        protocol, system = reader.load(), reader.load()
        if protocol != _PROTOCOL or not isinstance(system, dict) or system.get("little_endian") is not True:
            raise PickleError("its numbers are in the byte order of another machine")
        content, keys = reader.load(), reader.load()
        self._kinds = {storage.key: storage for storage in reader.storages}
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
            raise PickleError("it has no list of storages")
        at = reader.at
        for key in keys:
            storage = self._kinds.get(key)
            if storage is None or storage.type not in STORAGES:
                raise PickleError("it has a storage of numbers that no network has")
            size = storage.count * STORAGES[storage.type][1]
            if self._part(at, 8) != struct.pack("<q", storage.count) or at + 8 + size > self._size:
                raise PickleError("it ends too early, or is damaged")
            self._places[key] = _Place(at + 8, size)
            at += 8 + size
        return content


def _entries(directory: bytes) -> dict[str, _Place]:
    """What a zip's directory lists."""
    found: dict[str, _Place] = {}
    at = 0
    while at < len(directory):
        if len(directory) < at + 46 or directory[at : at + 4] != b"PK\x01\x02":
            raise PickleError("its zip directory is damaged")
        flags, method = struct.unpack("<HH", directory[at + 8 : at + 12])
        crc, packed, size, name_length, extra_length, comment_length = struct.unpack(
            "<LLLHHH", directory[at + 16 : at + 34]
        )
        start = struct.unpack("<L", directory[at + 42 : at + 46])[0]
        extra = directory[at + 46 + name_length : at + 46 + name_length + extra_length]
        size, packed, start = _beyond_4_gb(extra, size, packed, start)
        name = directory[at + 46 : at + 46 + name_length].decode(errors="replace")
        if "/code/" in name:
            raise PickleRefusedError(
                "a TorchScript program; torch.save(torch.jit.load(FILE).state_dict(), OTHER) keeps its weights"
            )
        if flags & 1 or method or packed != size or name in found:
            raise PickleError("its zip is compressed, locked, or has an entry twice, which torch does not write")
        found[name] = _Place(start, size, crc)
        at += 46 + name_length + extra_length + comment_length
    return found


def _beyond_4_gb(extra: bytes, *values: int) -> list[int]:
    """Size, packed size and start of an entry; those that do not fit 32 bits stand in its extra field."""
    if 0xFFFFFFFF not in values:
        return list(values)
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack("<HH", extra[at : at + 4])
        if kind == 1:
            part = extra[at + 4 : at + 4 + length]
            wide = list(struct.unpack(f"<{len(part) // 8}Q", part[: len(part) // 8 * 8]))[::-1]
            if len(wide) >= values.count(0xFFFFFFFF):
                return [wide.pop() if value == 0xFFFFFFFF else value for value in values]
        at += 4 + length
    raise PickleError("its zip directory is damaged")


def _raise_as_checkpoint_error(error: BaseException | None, path: Path) -> None:
    """Raise what went wrong with a file as an error for the user; do nothing for other errors."""
    if isinstance(error, PickleRefusedError):
        raise CheckpointError(
            f"not a torch file of tensors ({error}); it was not opened further, since that could run code in it",
            item=path,
        ) from error
    if isinstance(error, PickleError):
        raise CheckpointError(f"damaged, or not a torch file ({error})", item=path) from error
    if isinstance(error, MemoryError):
        raise CheckpointError("does not fit into memory", item=path) from error
    if isinstance(error, OSError):
        raise CheckpointError(f"cannot be read ({error.strerror or error})", item=path) from error
