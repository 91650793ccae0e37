"""The rows of a Parquet file of results: written from a tar, and read. numpy is not imported, as in ``tar_samples``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from coda_cli.errors import CodaError, MediaError
from coda_cli.machine import budget
from coda_cli.media import tar_samples
from coda_cli.media.elsewhere import Sample
from coda_cli.media.files import atomic
from coda_cli.media.parquet import Rows, opened
from coda_cli.media.tar_samples import MOST_FILES

SUFFIX = ".parquet"
MARK = b"coda.results"  # in the file's own description: that its rows are results
_TEXTS = ("path", "sha256", "model", "predicted", "explained", "error", "record_name", "record")
_NUMBERS = ("probability", "logit", "residual")
_REPEATED = ["model", "predicted", "explained"]
_FOOTER = 64_000_000  # bytes of a file's description that are looked into


def write_table(
    tar: Path, path: Path, failed: Sequence[str] = (), on_step: Callable[[int, int], object] | None = None
) -> None:
    """Make the table of the results in a tar; in memory is a group of rows at a time.

    Args:
        tar: with the files about each picture side by side, its record last.
        path: of the table, which gets its name when it is whole.
        failed: the records of inputs that failed, as JSON; their rows are the last.
        on_step: hears after each row how many are done, and of how many.

    Raises:
        MediaError: the tar cannot be read, or the table not written.
        OSError: the tar cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    several, total = dict[str, bool](), len(failed)  # kind of file -> whether a picture has several of it
    for sample in tar_samples.samples(tar):
        total += 1
        for kind, names in _files(json.loads(sample.record)).items():
            several[kind] = several.get(kind, False) or len(names) > 1
    picture = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    kinds = {kind: pa.list_(picture) if many else picture for kind, many in several.items()}
    columns = {"path": pa.string(), "sha256": pa.string(), "model": pa.string(), "predicted": pa.string()}
    columns |= {"probability": pa.float64(), "explained": pa.string(), "logit": pa.float64()}
    columns |= {"residual": pa.float64(), "exact": pa.bool_(), **kinds}
    columns |= {"error": pa.string(), "record_name": pa.string(), "record": pa.string()}
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
        made = (_row(sample, several) for sample in tar_samples.samples(tar))
        for done, (row, more) in enumerate(chain(made, map(_failed_row, failed)), 1):
            held.append(row)
            size += more
            if size > budget.PARQUET_GROUP or len(held) == budget.PARQUET_ROWS:
                writer.write_table(pa.Table.from_pylist(held, schema=schema))
                held, size = [], 0
            if on_step:
                on_step(done, total)
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


def _failed_row(text: str) -> tuple[dict[str, Any], int]:
    """The row of an input that failed, and how many bytes it has; it has no name, as no file about it has one."""
    record = json.loads(text)
    return {"path": record["source"]["path"], "error": record["error"]["message"], "record": text}, len(text)


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
    table = Table(path)
    for row in range(start, table.rows):
        name, record = table.record(row)
        yield Sample(
            name or f"row-{row:06d}", row, record.encode()[: budget.RECORD_FILE + 1], partial(table.named, row)
        )


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


class Table:
    """Reads a Parquet file of results, row by row.

    Args:
        path: the file.

    Attributes:
        rows: how many there are.

    Raises:
        MediaError: pyarrow is missing, or it is no file of results, or is broken.
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
        """Say which files each row has.

        Yields:
            Their names, that of the record last, each with its number in the row; none for an input that failed.

        Raises:
            MediaError: the file is broken.
        """
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
                        yield {} if row["record_name"] is None else {**places, row["record_name"]: -1}
            finally:
                file.close()

    def record(self, row: int) -> tuple[str, str]:
        """Read the record of a row.

        Args:
            row: its number, from 0 on.

        Returns:
            The record's name, "" for that of an input that failed, and the record.

        Raises:
            MediaError: the file is broken.
        """
        with _readable(self._path):
            return self._columns["record_name"].read(row) or "", self._columns["record"].read(row) or ""

    def file(self, row: int, number: int) -> bytes | None:
        """Read a file of a row.

        Args:
            row: its number, from 0 on.
            number: of the file, as ``names`` gives it.

        Returns:
            Its content; None where it has none.

        Raises:
            MediaError: the file is broken.
        """
        if number < 0:
            return f"{self.record(row)[1]}\n".encode()
        with _readable(self._path):
            found = _listed(self._columns[self._kinds[number // MOST_FILES]].read(row))
        content: bytes | None = found[number % MOST_FILES]["bytes"]
        return content

    def named(self, row: int, name: str) -> bytes | None:
        """Read a file of a row by its name.

        Args:
            row: its number, from 0 on.
            name: of the file.

        Returns:
            Its content; None where the row has none of that name.

        Raises:
            MediaError: the file is broken.
        """
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
