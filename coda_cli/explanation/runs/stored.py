"""Find and read records of ``coda explain``, one after the other: in folders, in files, and in lines of ``--json``."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from coda_cli.errors import CodaError, MediaError, UsageError
from coda_cli.explanation.files import stored_record
from coda_cli.explanation.json_records import NoRecordError, is_place, parse, read_place
from coda_cli.machine import budget
from coda_cli.media.addresses import refuse_missing
from coda_cli.media.files import read_whole, regular_size
from coda_cli.media.packed import sample_at
from coda_cli.schema.pictures import FailedRecord, Record
from coda_cli.schema.shards import ShardRecord

WITH_RECORD = (".png", ".gif", ".npz")  # files that carry their record
OWN_NAME = ".coda.json"  # how coda calls records: one of this name that cannot be read is worth an error
MOST_BAD = 20  # lines of a file that are no records, after which the rest of it is not read
SUPPORTED = "expected a record of coda explain"


@dataclass(frozen=True, slots=True)
class Where:
    """Where a record stands; small, since a run has many.

    Attributes:
        file: its path.
        offset: of its line in the file, in bytes; -1 where the whole file is the record.
        line: number of that line, from 1 on; 0 where the whole file is the record.
        inside: its name in a file of results, in which ``offset`` is its place; "" elsewhere.
    """

    file: str
    offset: int = -1
    line: int = 0
    inside: str = ""

    def __str__(self) -> str:
        if self.inside:
            return f"{self.file}/{self.inside}"
        return f"{self.file}, line {self.line}" if self.line else self.file


@dataclass(frozen=True)
class Stored:
    """A record and where it stands."""

    record: Record
    where: Where


@dataclass
class Tally:
    """What was met besides records.

    Attributes:
        on_error: hears of every record that cannot be read.
        unreadable: how many cannot be read.
        failed: inputs that the run could not explain.
        others: JSON files in folders that are no records of ``coda explain``.
    """

    on_error: Callable[[CodaError], None]
    unreadable: int = 0
    failed: int = 0
    others: int = 0

    def bad(self, error: CodaError) -> None:
        """Count and report a record that cannot be read.

        Args:
            error: why.
        """
        self.unreadable += 1
        self.on_error(error)


def records(sources: Sequence[str], tally: Tally) -> Iterator[Stored]:
    """Read records one after the other; only one of them is held.

    Args:
        sources: folders, which are looked through with their sub-folders; files of one record, also PNG, GIF and npz
            that carry theirs; files of lines of JSON; files of results (tar, Parquet).
        tally: counts and reports what is no record.

    Yields:
        The records, those of a folder in the order of the names.

    Raises:
        UsageError: a source does not exist, or there is no record in any of them.
    """
    for source in sources:
        refuse_missing(source, "records")
    count = 0
    for source in sources:
        for one in _in_folder(source, tally) if os.path.isdir(source) else _in_file(source, tally, named=True):
            count += 1
            yield one
    if not count and not tally.unreadable and not tally.failed:
        raise UsageError("there is no record of coda explain here", item=", ".join(sources))


def read(where: Where) -> Record:
    """Read a record again whose place is known.

    Args:
        where: its place.

    Returns:
        The record.

    Raises:
        MediaError: it cannot be read any more.
    """
    path = Path(where.file)
    try:
        if where.inside:
            found: object = parse(sample_at(path, where.offset).record)
        elif where.offset >= 0:
            with path.open("rb") as stream:
                stream.seek(where.offset)
                found = parse(stream.readline(budget.RECORD_FILE))
        elif path.suffix.lower() in WITH_RECORD:
            found = stored_record(path)
        else:
            found = parse(read_whole(path, budget.RECORD_FILE))
    except (OSError, NoRecordError) as error:
        raise MediaError("changed while it was read", item=str(where)) from error
    if not isinstance(found, Record):
        raise MediaError("changed while it was read", item=str(where))
    return found


def _in_folder(folder: str, tally: Tally) -> Iterator[Stored]:
    """The records of a folder and those inside it; hidden files are left out."""
    for at, inside, names in os.walk(folder, onerror=lambda error: tally.bad(_unreadable(error))):
        inside[:] = sorted(name for name in inside if not name.startswith("."))
        for name in sorted(names):
            if is_place(at, name, ".json"):
                yield from _in_file(os.path.join(at, name), tally, named=False)


def _unreadable(error: OSError) -> MediaError:
    return MediaError(f"cannot be read ({error.strerror or error})", item=error.filename)


def _in_file(file: str, tally: Tally, *, named: bool) -> Iterator[Stored]:
    """The records of a file; of one that the user did not name, what is no record is left out without an error."""
    path, carries = Path(file), Path(file).suffix.lower() in WITH_RECORD
    try:
        regular_size(path, budget.PICTURE_FILE if carries else sys.maxsize)
        if not carries:
            yield from _in_place(path, file, tally, named=named)
        elif (record := stored_record(path)) is None:
            raise MediaError(f"carries no record that can be read; {SUPPORTED}", item=path)
        else:
            yield Stored(record, Where(file))
    except OSError as error:
        tally.bad(_unreadable(error))
    except MediaError as error:
        tally.bad(error.about(file))


def _in_place(path: Path, file: str, tally: Tally, *, named: bool) -> Iterator[Stored]:
    """The records in JSON or in a file of results. Raises MediaError where too much of it is none, and OSError."""
    bad = 0
    for what, line, offset, inside in read_place(path):
        where = Where(file, offset, line, inside)
        if isinstance(what, Record):
            yield Stored(what, where)
        elif isinstance(what, FailedRecord):
            tally.failed += 1
        elif isinstance(what, ShardRecord):
            continue
        elif line < 2 and not named and not inside and _is_of_something_else(what, file):
            tally.others += 1
            return
        else:
            expected = "" if what.kind == "broken" else f"; {SUPPORTED}"
            tally.bad(MediaError(f"{what.why}{expected}", item=str(where)))
            bad += 1
            if bad > MOST_BAD:
                parts = "entries" if inside else "lines"
                raise MediaError(f"too many of its {parts} are no records; the rest is not read", item=file)


def _is_of_something_else(what: NoRecordError, file: str) -> bool:
    """Whether a file in a folder is none of coda's: it does not say so, and has not its name or is whole."""
    return what.kind == "other JSON" or (what.kind == "no JSON" and not file.endswith(OWN_NAME))
