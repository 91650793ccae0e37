"""The tables that other programs read: a line for each picture as CSV, and the same as Parquet, which needs pyarrow.

Both are written as the lines come, so that memory does not grow with the number of pictures.
"""

from __future__ import annotations

import contextlib
import csv
import importlib.util
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any

from coda_cli.errors import UsageError
from coda_cli.schema.summaries import PictureLine

GROUP_ROWS = 10_000  # lines of a row group of a Parquet file; they are held until it is written
OF_REGIONS = ("share", "area", "ratio", "outside")

_PLAIN = tuple(name for name in PictureLine.model_fields if name != "regions")
_TEXTS = ("path", "label", "predicted", "runner_up", "explained")
_TRUTHS = ("right", "exact")

Add = Callable[[PictureLine], None]


def columns(regions: Sequence[str]) -> list[str]:
    """Name the columns of the tables.

    Args:
        regions: the names of all regions.

    Returns:
        The fields of ``PictureLine``, then four for each region, such as ``share:dog``.
    """
    return [*_PLAIN, *(f"{what}:{name}" for name in regions for what in OF_REGIONS)]


def cells(line: PictureLine, regions: Sequence[str]) -> list[Any]:
    """Lay out the line of a picture.

    Args:
        line: of the picture.
        regions: the names of all regions.

    Returns:
        A value for each column; None where the picture has none.
    """
    own = {region.name: region for region in line.regions}
    plain = [getattr(line, name) for name in _PLAIN]
    return [*plain, *(getattr(own.get(name), what, None) for name in regions for what in OF_REGIONS)]


@contextmanager
def csv_table(stream: IO[bytes], regions: Sequence[str]) -> Iterator[Add]:
    """Write a CSV table: UTF-8, commas, numbers in full, ``true`` and ``false``, nothing for what is not known.

    Args:
        stream: that it is written to.
        regions: the names of all regions.

    Yields:
        A function that takes the line of a picture.
    """
    text = io.TextIOWrapper(stream, encoding="utf-8", newline="")
    writer = csv.writer(text, lineterminator="\n")
    try:
        writer.writerow(columns(regions))
        yield lambda line: writer.writerow(
            str(cell).lower() if isinstance(cell, bool) else cell for cell in cells(line, regions)
        )
        text.flush()
    finally:
        with contextlib.suppress(OSError):  # of a full disk, which the flush has told
            text.detach()  # the stream is closed by whoever opened it


def require_parquet() -> None:
    """Find out before any work whether Parquet can be written.

    Raises:
        UsageError: pyarrow is not installed.
    """
    if importlib.util.find_spec("pyarrow") is None:
        raise UsageError("--parquet needs pyarrow, the extra parquet: pip install 'coda-cli[parquet]'")


@contextmanager
def parquet_table(stream: IO[bytes], regions: Sequence[str]) -> Iterator[Add]:
    """Write a Parquet table, a row group at a time.

    Args:
        stream: that it is written to.
        regions: the names of all regions.

    Yields:
        A function that takes the line of a picture.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = columns(regions)
    kinds = {**dict.fromkeys(_TEXTS, pa.string()), **dict.fromkeys(_TRUTHS, pa.bool_())}
    schema = pa.schema([(name, kinds.get(name, pa.float64())) for name in names])
    held: list[list[Any]] = []

    def write_group() -> None:
        """Write the lines that are held."""
        if held:
            writer.write_table(pa.table([list(column) for column in zip(*held, strict=True)], schema=schema))
            held.clear()

    def add(line: PictureLine) -> None:
        """Hold a line until there are enough for a group."""
        held.append(cells(line, regions))
        if len(held) == GROUP_ROWS:
            write_group()

    with pq.ParquetWriter(stream, schema) as writer:
        yield add
        write_group()
