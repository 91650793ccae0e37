"""Pictures in the rows of a Parquet file, as sets of pictures are published: listed once, each read where it lies."""

from __future__ import annotations

import re
import threading
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
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
    file = opened(path)
    try:
        if file.metadata.num_rows > budget.ENTRIES:
            raise MediaError(f"has more than {budget.ENTRIES} rows; split it first", item=path)
        column, nested, named = _column(file.schema_arrow, path)
        groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
        rows = Rows(path, f"{column}.bytes" if nested else column, [group.num_rows for group in groups])
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


def opened(path: Path) -> Any:
    """Open a Parquet file, so that its columns are read piece by piece.

    Args:
        path: the file.

    Returns:
        pyarrow's object.

    Raises:
        MediaError: pyarrow is missing.
        Exception: whatever pyarrow raises for a broken file.
    """
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise MediaError("needs pyarrow: pip install 'coda-cli[parquet]'", item=path) from None
    return ParquetFile(path, pre_buffer=False, buffer_size=1 << 20)


def _column(schema: Any, path: Path) -> tuple[str, bool, bool]:
    """The column with pictures, whether they are a field "bytes" in it, and whether it has a field "path"."""
    import pyarrow.types as kinds

    def holds_bytes(kind: Any) -> bool:
        if kind is not None and kinds.is_dictionary(kind):  # as columns with few values are often written
            kind = kind.value_type
        holding = (kinds.is_binary, kinds.is_large_binary, kinds.is_binary_view)
        return kind is not None and any(holds(kind) for holds in holding)

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
    own = PurePosixPath(f"row-{row:06d}")
    like_another = re.fullmatch("row-[0-9]{6,}", str(inside)) and inside != own  # which may have no path
    if not inside.name or inside.is_absolute() or ".." in inside.parts or inside in taken or like_another:
        inside = own
    taken.add(inside)
    return inside


@dataclass(frozen=True, slots=True)
class _InRow(Stored):
    """The picture in a row."""

    name: str
    size: int
    row: int
    rows: Rows

    def read(self) -> bytes:
        """Read the picture.

        Returns:
            Its bytes.

        Raises:
            MediaError: the row holds none or too many, or the file is broken.
        """
        try:
            found = self.rows.read(self.row)
        except (MediaError, MemoryError):
            raise
        except Exception as error:  # pyarrow has a dozen classes
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise MediaError(f"is broken in its file ({reason})", item=self.name) from error
        content: bytes | None = found.get("bytes") if isinstance(found, dict) else found
        if content is None:
            raise MediaError(f"row {self.row} holds no bytes", item=self.name)
        refuse_size(len(content), self.name)
        return content


class Rows:
    """Reads the rows of a file, a few at a time, for several threads that ask nearly in order.

    What one of them skips is kept for the others, up to budget.SKIPPED_BYTES; what lies further back is read again from
    the beginning of its row group.

    Args:
        path: the file.
        column: which is read.
        lengths: how many rows each row group has.
        at_once: rows that are read together.

    Attributes:
        starts: the first row of each row group.
    """

    def __init__(self, path: Path, column: str, lengths: list[int], at_once: int = _AT_ONCE) -> None:
        self.starts = [0, *accumulate(lengths)][:-1]
        self._path, self._column, self._last, self._at_once = path, column, sum(lengths) - 1, at_once
        self._lock, self._kept = threading.Lock(), dict[int, Any]()
        self._following: Iterator[tuple[int, Any]] = iter(())
        self._next = -1

    def read(self, row: int) -> Any:
        """Read a row.

        Args:
            row: its number, from 0 on.

        Returns:
            What the column holds there; None where it is empty.

        Raises:
            Exception: whatever pyarrow raises for a broken file.
        """
        with self._lock:
            if row in self._kept:
                return self._kept.pop(row)
            group = self.starts[bisect_right(self.starts, row) - 1]
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

    def _from(self, start: int) -> Iterator[tuple[int, Any]]:
        """The rows from a row group on, with their numbers."""
        file = opened(self._path)
        try:
            groups = list(range(bisect_left(self.starts, start), len(self.starts)))
            row = start
            for batch in file.iter_batches(self._at_once, row_groups=groups, columns=[self._column], use_threads=False):
                for value in batch.column(0):
                    yield row, value.as_py()
                    row += 1
        finally:
            file.close()

    def _keep(self, row: int, content: object) -> None:
        self._kept[row] = content
        while sum(map(_bytes_in, self._kept.values())) > budget.SKIPPED_BYTES:
            del self._kept[next(iter(self._kept))]


def _bytes_in(content: object) -> int:
    """How many bytes a row holds, about."""
    if isinstance(content, dict | list):
        return sum(map(_bytes_in, content.values() if isinstance(content, dict) else content))
    return len(content) if isinstance(content, bytes | str) else 0
