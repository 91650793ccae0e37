"""Results in one Parquet file: a row for each picture, with its record, the main numbers of it, and its pictures.

A Parquet file without its end cannot be read, and nothing can be added to one. So the results of a run that goes on are
in a tar called ``out.parquet.part``, which keeps what is whole whatever ends the run. When the run has come to its end,
the table is made of it, a group of rows at a time. Inputs that failed get their rows then: a run that is broken off
tries them again.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from coda_cli.errors import MediaError, UsageError
from coda_cli.media import tar_output
from coda_cli.media.files import utf8
from coda_cli.media.parquet_rows import Table, holds_results, write_table
from coda_cli.media.remote_folder import RemoteFolder
from coda_cli.media.tar_output import TarOutput
from coda_cli.media.tar_samples import Members


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
        self._table: Table | None = None
        self._failed, self._said = dict[str, str](), dict[str, str]()  # records of inputs by name: now, in the table
        super().__init__(path, name, anew=anew, written=written, parent=parent)

    def _whole(self) -> tuple[Members, int]:
        if not holds_results(self.path):
            raise self._foreign()
        found = Members()
        try:
            self._table = Table(self.path)
            for row, names in enumerate(self._table.names()):
                found |= {name: (row, place) for name, place in names.items()}
                if not names:
                    record = self._table.record(row)[1]
                    self._said[json.loads(record)["source"]["path"]] = record
        except (MediaError, ValueError, LookupError, TypeError):
            raise self._foreign() from None
        self._failed = self._said.copy()
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

    def note(self, name: str, failed: str | None) -> None:
        """Take note of how an input ended: the table has a row for it where it failed, until it does not any more.

        Args:
            name: of the input, as records have it.
            failed: the record of an input that failed, as JSON; None for one that did not.
        """
        self._failed.pop(name, None)
        if failed is not None:
            self._failed[name] = failed

    def _has_news(self) -> bool:
        return self._failed != self._said

    def _give_name(self, on_step: Callable[[int, int], object] | None) -> None:
        self._table = None
        write_table(self._part, self.path, tuple(self._failed.values()), on_step)
        self._said = self._failed.copy()
        self._part.unlink()

    def _inside(self, path: Path) -> str:
        return utf8(super()._inside(path))  # Parquet has no other texts
