"""Results in one Parquet file: a row for each picture, with its record, the main numbers of it, and its pictures.

A Parquet file without its end cannot be read, and nothing can be added to one. So the results of a run that goes on are
in a tar called ``out.parquet.part``, which keeps what is whole whatever ends the run. When the run has come to its end,
the table is made of it, a group of rows at a time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from coda_cli.errors import CodaError, MediaError, UsageError
from coda_cli.machine import budget
from coda_cli.media import tar_output
from coda_cli.media.elsewhere import Sample
from coda_cli.media.files import atomic, utf8
from coda_cli.media.parquet import Rows, opened
from coda_cli.media.remote_folder import RemoteFolder
from coda_cli.media.tar_output import MOST_FILES, Members, TarOutput

SUFFIX = ".parquet"
MARK = b"coda.results"  # in the file's own description: that its rows are results
_TEXTS = ("path", "sha256", "model", "predicted", "explained", "record_name", "record")
_NUMBERS = ("probability", "logit", "residual")
_REPEATED = ["model", "predicted", "explained"]
_FOOTER = 64_000_000  # bytes of a file's description that are looked into


class ParquetOutput(TarOutput):
    """A Parquet file that takes results.

    Args:
        path: the file.
        name: what messages call it.
        anew: whether nothing is kept that is there already.
        written: whether files will be written.
        parent: the folder at an address to which the file goes when it is whole.

    Raises:
        UsageError: pyarrow is missing, the file cannot be written, another run writes it, or one of its name is not
            coda's.
    """

    keyed = False

    def __init__(
        self, path: Path, name: str, *, anew: bool = False, written: bool = True, parent: RemoteFolder | None = None
    ) -> None:
        try:
            import pyarrow.parquet  # noqa: F401 (before any work)
        except ImportError:
            raise UsageError("needs pyarrow: pip install 'coda-cli[parquet]'", item=f"--output {name}") from None
        self._table: _Table | None = None
        super().__init__(path, name, anew=anew, written=written, parent=parent)

    def _whole(self) -> tuple[Members, int]:
        if not holds_results(self.path):
            raise self._foreign()
        found = Members()
        try:
            self._table = _Table(self.path)
            for row, names in enumerate(self._table.names()):
                found |= {name: (row, place) for name, place in names.items()}
        except MediaError:
            raise self._foreign() from None
        return found, 0

    def _bytes(self, path: Path, start: int, size: int) -> bytes:
        if path != self.path:
            return super()._bytes(path, start, size)
        assert self._table
        return self._table.file(start, size) or b""

    def _copy_whole(self) -> tuple[Members, int]:
        """Begin an unfinished tar with what the table holds."""
        assert self._table
        found = Members()
        with self._part.open("wb") as stream:
            for row, names in enumerate(self._table.names()):
                for name, place in names.items():
                    content = self._table.file(row, place) or b""
                    found[name] = (tar_output.add(stream, content, name), len(content))
            return found, stream.tell()

    def _give_name(self) -> None:
        self._table = None
        write_table(self._part, self.path)
        self._part.unlink()

    def _inside(self, path: Path) -> str:
        return utf8(super()._inside(path))  # Parquet has no other texts


def write_table(tar: Path, path: Path) -> None:
    """Make the table of the results in a tar; in memory is a group of rows at a time.

    Args:
        tar: with the files about each picture side by side, its record last.
        path: of the table, which gets its name when it is whole.

    Raises:
        MediaError: the tar cannot be read, or the table not written.
        OSError: the tar cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    several = dict[str, bool]()  # kind of file -> whether a picture has several of it
    for sample in tar_output.samples(tar):
        for kind, names in _files(json.loads(sample.record)).items():
            several[kind] = several.get(kind, False) or len(names) > 1
    picture = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    kinds = {kind: pa.list_(picture) if many else picture for kind, many in several.items()}
    columns = {"path": pa.string(), "sha256": pa.string(), "model": pa.string(), "predicted": pa.string()}
    columns |= {"probability": pa.float64(), "explained": pa.string(), "logit": pa.float64()}
    columns |= {"residual": pa.float64(), "exact": pa.bool_(), **kinds}
    columns |= {"record_name": pa.string(), "record": pa.string()}
    schema = pa.schema(list(columns.items()), metadata={MARK: b"1"})
    with (
        atomic(path) as stream,
        pq.ParquetWriter(
            stream,
            schema,
            compression=dict.fromkeys([*_TEXTS, *_NUMBERS, "exact"], "zstd"),  # pictures are compressed already
            use_dictionary=_REPEATED,
            write_statistics=[*_TEXTS[:-1], *_NUMBERS],
        ) as writer,
    ):
        held, size = list[dict[str, Any]](), 0
        for sample in tar_output.samples(tar):
            row, more = _row(sample, several)
            held.append(row)
            size += more
            if size > budget.PARQUET_GROUP or len(held) == budget.PARQUET_ROWS:
                writer.write_table(pa.Table.from_pylist(held, schema=schema))
                held, size = [], 0
        if held:
            writer.write_table(pa.Table.from_pylist(held, schema=schema))


def _row(sample: Sample, several: dict[str, bool]) -> tuple[dict[str, Any], int]:
    """The row of a picture, and how many bytes it has."""
    record, size = json.loads(sample.record), len(sample.record)
    first, best = (*record["explained"], None)[0], (*record["top"], None)[0]
    row: dict[str, Any] = {"path": record["source"]["path"], "sha256": record["source"]["sha256"]}
    row |= {"model": record["network"]["name"], "record_name": sample.name, "record": sample.record.decode().strip()}
    if best:
        row |= {"predicted": best["name"], "probability": best["probability"]}
    if first:
        subtracted = f" − {first['versus']['name']}" if first["versus"] else ""
        row |= {"explained": first["name"] + subtracted, "logit": first["logit"], "residual": first["residual"]}
    row["exact"] = all(part["exact"] for part in record["explained"])
    for kind, names in _files(record).items():
        files = [{"bytes": content, "path": name} for name in names if (content := sample.file(name)) is not None]
        size += sum(len(file["bytes"]) for file in files)
        row[kind] = files if several[kind] else files[0] if files else None
    return row, size


def _files(record: dict[str, Any]) -> dict[str, list[str]]:
    """The names of the files that a record has, by kind."""
    neurons = [*record["neurons"], *(n for e in record["explained"] for c in e["channels"] for n in c["strongest"])]
    found = dict[str, list[str]]()
    for part in (*record["explained"], *neurons, record):
        for kind, name in part["files"].items():
            found.setdefault(kind, []).append(name)
    return found


def samples(path: Path, start: int = 0) -> Iterator[Sample]:
    """Read the records in a Parquet file of results, one after the other.

    Args:
        path: the file.
        start: the first row.

    Yields:
        The record of each row, with the files in it.

    Raises:
        MediaError: pyarrow is missing, or it is no such file, or is broken.
    """
    table = _Table(path)
    for row in range(start, table.rows):
        name, record = table.record(row)
        yield Sample(name, row, record.encode()[: budget.RECORD_FILE + 1], partial(table.named, row))


def holds_results(path: Path) -> bool:
    """Say whether a Parquet file holds results; pyarrow is not needed.

    Args:
        path: the file.

    Returns:
        Whether it says so of itself.
    """
    try:
        with path.open("rb") as stream:
            size = stream.seek(-8, 2)
            end = stream.read()
            length = int.from_bytes(end[:4], "little")
            if end[4:] != b"PAR1" or not length <= min(size, _FOOTER):
                return False
            stream.seek(size - length)
            return MARK in stream.read(length)
    except OSError:
        return False


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Raise MediaError for whatever is raised by a file that is broken."""
    try:
        yield
    except (CodaError, MemoryError):
        raise
    except Exception as error:  # pyarrow has a dozen classes
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise MediaError(f"cannot be read ({reason})", item=path) from error


class _Table:
    """Reads a Parquet file of results, row by row.

    Args:
        path: the file.

    Attributes:
        rows: how many there are.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with _readable(path):
            file = opened(path)
            try:
                self._lengths = [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
                self.rows, self._kinds = sum(self._lengths), list(_kinds(file.schema_arrow))
                texts = {field.name: str(field.type) for field in file.schema_arrow}
            finally:
                file.close()
        if not {texts.get("record_name"), texts.get("record")} <= {"string", "large_string"}:
            raise MediaError("holds no results of coda explain", item=path)
        self._columns = {name: Rows(path, name, self._lengths) for name in ("record_name", "record")}
        self._columns |= {name: Rows(path, name, self._lengths, at_once=1) for name in self._kinds}

    def names(self) -> Iterator[dict[str, int]]:
        """For each row the names of its files, the record last, each with its number in the row. Raises MediaError."""
        with _readable(self._path):
            file = opened(self._path)
            paths = [f"{kind}.{inner}path" for kind in self._kinds for inner in ("", "list.element.")]
            try:
                for batch in file.iter_batches(columns=["record_name", *paths], use_threads=False):
                    for row in batch.to_pylist():
                        places = {
                            each["path"]: number * MOST_FILES + n
                            for number, kind in enumerate(self._kinds)
                            for n, each in enumerate(_listed(row.get(kind)))
                        }
                        yield {**places, row["record_name"]: -1}
            finally:
                file.close()

    def record(self, row: int) -> tuple[str, str]:
        """The name of a row's record, and the record. Raises MediaError."""
        with _readable(self._path):
            return self._columns["record_name"].read(row) or "", self._columns["record"].read(row) or ""

    def file(self, row: int, number: int) -> bytes | None:
        """A file of a row by its number, as ``names`` gives it. Raises MediaError."""
        if number < 0:
            return f"{self.record(row)[1]}\n".encode()
        with _readable(self._path):
            found = _listed(self._columns[self._kinds[number // MOST_FILES]].read(row))
        content: bytes | None = found[number % MOST_FILES]["bytes"]
        return content

    def named(self, row: int, name: str) -> bytes | None:
        """A file of a row by its name; None where it has none of it. Raises MediaError."""
        with _readable(self._path):
            for kind in self._kinds:
                for each in _listed(self._columns[kind].read(row)):
                    if each["path"] == name:
                        content: bytes | None = each["bytes"]
                        return content
        return None


def _kinds(schema: Any) -> Iterator[str]:
    """The columns that hold files."""
    import pyarrow.types as kinds

    for field in schema:
        inner = field.type.value_type if kinds.is_list(field.type) else field.type
        if kinds.is_struct(inner) and [(each.name, str(each.type)) for each in inner] == [
            ("bytes", "binary"),
            ("path", "string"),
        ]:
            yield field.name


def _listed(value: Any) -> Sequence[Any]:
    """The files in a cell, of which a picture has none, one or several."""
    return value if isinstance(value, list) else [] if value is None else [value]
