"""Pictures in the rows of a Parquet file, as sets of pictures are published: listed once, each read where it lies."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from coda_cli.errors import MediaError
from coda_cli.machine import budget
from coda_cli.media.stored import Stored, refuse_size

SUFFIX = ".parquet"
_AT_ONCE = 16  # rows that are read together


def list_rows(path: Path) -> Iterator[tuple[PurePosixPath, Stored]]:
    """List the pictures in a Parquet file.

    A picture is the bytes of a row: in the one column that holds bytes, alone or with a path, as the ``Image`` of
    huggingface's datasets does; of several in the one that is called ``image``.

    Args:
        path: the file.

    Yields:
        The path that the row states, or its number where it states none that is a name of its own, and the picture.

    Raises:
        MediaError: pyarrow is missing, no column holds pictures, or there are too many rows.
        Exception: whatever pyarrow raises for a broken file.
    """
    file = _opened(path)
    try:
        if file.metadata.num_rows > budget.ENTRIES:
            raise MediaError(f"has more than {budget.ENTRIES} rows; split it first", item=path)
        column, nested, named = _column(file.schema_arrow, path)
        groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
        rows = _Rows(path, f"{column}.bytes" if nested else column, [group.num_rows for group in groups])
        taken = set[PurePosixPath]()
        for number, group in enumerate(groups):
            size = min(group.total_byte_size, budget.ADDRESS_BYTES)
            stated = file.read_row_group(number, columns=[f"{column}.path"]).column(0).to_pylist() if named else []
            for n in range(group.num_rows):
                row = rows.starts[number] + n
                inside = _name((stated[n] or {}).get("path") if stated else None, row, taken)
                yield inside, _InRow(f"{path.as_posix()}/{inside}", size, row, rows)
    finally:
        file.close()


def _opened(path: Path) -> Any:
    """The file, whose columns are read piece by piece. Raises MediaError."""
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise MediaError("needs pyarrow: pip install 'coda-cli[parquet]'", item=path) from None
    return ParquetFile(path, pre_buffer=False, buffer_size=1 << 20)


def _column(schema: Any, path: Path) -> tuple[str, bool, bool]:
    """The column with pictures, whether they are a field "bytes" in it, and whether it has a field "path"."""
    import pyarrow.types as kinds

    def holds_bytes(kind: Any) -> bool:
        return kind is not None and bool(kinds.is_binary(kind) or kinds.is_large_binary(kind))

    found = {}
    for field in schema:
        inner = {each.name: each.type for each in field.type} if kinds.is_struct(field.type) else {}
        if holds_bytes(field.type) or holds_bytes(inner.get("bytes")):
            found[field.name] = bool(inner), "path" in inner
    if not found:
        raise MediaError("no column holds the bytes of pictures", item=path)
    name = next(iter(found)) if len(found) == 1 else "image"
    if name not in found:
        raise MediaError(f"several columns hold bytes ({', '.join(found)}), and none is called image", item=path)
    return name, *found[name]


def _name(stated: object, row: int, taken: set[PurePosixPath]) -> PurePosixPath:
    """The path that a row states, if it is one below a folder and no other row's; else one with the row's number."""
    inside = PurePosixPath(stated) if isinstance(stated, str) and "\0" not in stated else PurePosixPath()
    if not inside.name or inside.is_absolute() or ".." in inside.parts or inside in taken:
        inside = PurePosixPath(f"row-{row:06d}")
    taken.add(inside)
    return inside


@dataclass(frozen=True, slots=True)
class _InRow(Stored):
    """The picture in a row."""

    name: str
    size: int
    row: int
    rows: _Rows

    def read(self) -> bytes:
        try:
            content = self.rows.read(self.row)
        except (MediaError, MemoryError):
            raise
        except Exception as error:  # pyarrow has a dozen classes
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise MediaError(f"is broken in its file ({reason})", item=self.name) from error
        if content is None:
            raise MediaError(f"row {self.row} holds no bytes", item=self.name)
        refuse_size(len(content), self.name)
        return content


class _Rows:
    """Reads the rows of a file, a few at a time, for several threads that ask nearly in order.

    What one of them skips is kept for the others, up to budget.SKIPPED_BYTES; what lies further back is read again from
    the beginning of its row group.

    Args:
        path: the file.
        column: which is read.
        lengths: how many rows each row group has.

    Attributes:
        starts: the first row of each row group.
    """

    def __init__(self, path: Path, column: str, lengths: list[int]) -> None:
        self.starts = [sum(lengths[:number]) for number in range(len(lengths))]
        self._path, self._column, self._last = path, column, sum(lengths) - 1
        self._lock, self._kept = threading.Lock(), dict[int, bytes | None]()
        self._following: Iterator[tuple[int, bytes | None]] = iter(())
        self._next = -1

    def read(self, row: int) -> bytes | None:
        """The bytes of a row; None where it has none."""
        with self._lock:
            if row in self._kept:
                return self._kept.pop(row)
            group = max(start for start in self.starts if start <= row)
            if not 0 <= self._next <= row or self._next < group:
                self._following, self._next = self._from(group), group
            for number, content in self._following:
                self._next = number + 1
                if number == row:
                    if row == self._last:
                        self._following, self._next = iter(()), -1
                    return content
                self._keep(number, content)
            raise EOFError("the row is missing")

    def _from(self, start: int) -> Iterator[tuple[int, bytes | None]]:
        """The rows from a row group on, with their numbers."""
        file = _opened(self._path)
        try:
            groups = list(range(self.starts.index(start), len(self.starts)))
            row = start
            for batch in file.iter_batches(_AT_ONCE, row_groups=groups, columns=[self._column], use_threads=False):
                for value in batch.column(0):
                    content = value.as_py()
                    yield row, content.get("bytes") if isinstance(content, dict) else content
                    row += 1
        finally:
            file.close()

    def _keep(self, row: int, content: bytes | None) -> None:
        self._kept[row] = content
        while sum(len(kept or b"") for kept in self._kept.values()) > budget.SKIPPED_BYTES:
            del self._kept[next(iter(self._kept))]
