"""Find and read records of ``coda explain``, one after the other: in folders, in files, and in lines of ``--json``."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from coda_cli.checkpoints.descriptions import read_json
from coda_cli.errors import CodaError, MediaError, UsageError
from coda_cli.explanation.files import stored_record
from coda_cli.machine import budget
from coda_cli.media.files import read_whole, regular_size
from coda_cli.schema.pictures import SCHEMA, FailedRecord, Record, from_json

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
    """

    file: str
    offset: int = -1
    line: int = 0

    def __str__(self) -> str:
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


class _NoRecordError(Exception):
    """JSON, or not even that, which does not say that it is a record."""


def records(sources: Sequence[str], tally: Tally) -> Iterator[Stored]:
    """Read records one after the other; only one of them is held.

    Args:
        sources: folders, which are looked through with their sub-folders; files of one record, also PNG, GIF and npz
            that carry theirs; files of lines of JSON.
        tally: counts and reports what is no record.

    Yields:
        The records, those of a folder in the order of the names.

    Raises:
        UsageError: a source does not exist, or there is no record in any of them.
    """
    for source in sources:
        if not source or not os.path.exists(source):
            raise UsageError("no such file or folder", item=source or '""')
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
        if where.offset < 0:
            found = stored_record(path) if path.suffix.lower() in WITH_RECORD else _parsed(_whole(path))
        else:
            with path.open("rb") as stream:
                stream.seek(where.offset)
                found = _parsed(stream.readline(budget.RECORD_FILE))
    except (OSError, _NoRecordError) as error:
        raise MediaError("changed while it was read", item=str(where)) from error
    if not isinstance(found, Record):
        raise MediaError("changed while it was read", item=str(where))
    return found


def _in_folder(folder: str, tally: Tally) -> Iterator[Stored]:
    """The records of a folder and those inside it; hidden files are left out."""
    for at, inside, names in os.walk(folder, onerror=lambda error: tally.bad(_unreadable(error))):
        inside[:] = sorted(name for name in inside if not name.startswith("."))
        for name in sorted(names):
            if name.endswith(".json") and not name.startswith("."):
                yield from _in_file(os.path.join(at, name), tally, named=False)


def _unreadable(error: OSError) -> MediaError:
    return MediaError(f"cannot be read ({error.strerror or error})", item=error.filename)


def _in_file(file: str, tally: Tally, *, named: bool) -> Iterator[Stored]:
    """The records of a file; of one that the user did not name, what is no record is left out without an error."""
    path, carries = Path(file), Path(file).suffix.lower() in WITH_RECORD
    try:
        regular_size(path, budget.PICTURE_FILE if carries else sys.maxsize)
        if carries:
            if (record := stored_record(path)) is None:
                raise MediaError(f"carries no record that can be read; {SUPPORTED}", item=path)
            yield Stored(record, Where(file))
        elif _begins_with_a_line_of_json(path):
            yield from _of_lines(file, tally, named=named)
        else:
            yield from _of_whole(file, tally)
    except _NoRecordError as error:
        if named or (file.endswith(OWN_NAME) and not error.args):
            tally.bad(MediaError(f"{error.args[0] if error.args else 'is no JSON'}; {SUPPORTED}", item=file))
        else:
            tally.others += 1
    except OSError as error:
        tally.bad(_unreadable(error))
    except MediaError as error:
        tally.bad(error.about(file))


def _begins_with_a_line_of_json(path: Path) -> bool:
    """Whether there are several lines, and the first is an object by itself: not the beginning of a longer one."""
    with path.open("rb") as stream:
        line = stream.readline(budget.RECORD_FILE + 1)
        if not stream.read(1):
            return False
    try:
        return isinstance(read_json(line.decode()), dict)
    except ValueError:
        return False


def _of_whole(file: str, tally: Tally) -> Iterator[Stored]:
    """The one record of a file."""
    if os.path.getsize(file) > budget.RECORD_FILE:
        raise _NoRecordError("is too large for a record")
    found = _parsed(_whole(Path(file)))
    if isinstance(found, Record):
        yield Stored(found, Where(file))
    else:
        tally.failed += 1


def _whole(path: Path) -> bytes:
    return read_whole(path, budget.RECORD_FILE)


def _of_lines(file: str, tally: Tally, *, named: bool) -> Iterator[Stored]:
    """The records of a file that has one on each line."""
    bad = number = 0
    with Path(file).open("rb") as stream:
        while True:
            offset, number = stream.tell(), number + 1
            text = stream.readline(budget.RECORD_FILE + 1)
            if not text:
                return
            where = Where(file, offset, number)
            try:
                if len(text) > budget.RECORD_FILE:
                    raise MediaError(f"has more than {budget.RECORD_FILE // 10**6} MB on a line", item=file)
                found = _parsed(text) if text.strip() else None
            except _NoRecordError as error:
                if number == 1 and not named:
                    raise  # a file of something else
                found, problem = None, error.args[0] if error.args else "is no JSON"
                bad += 1
                tally.bad(MediaError(f"{problem}; {SUPPORTED}", item=str(where)))
            except MediaError as error:
                found, bad = None, bad + 1
                tally.bad(error.about(str(where)))
            if isinstance(found, Record):
                yield Stored(found, where)
            tally.failed += isinstance(found, FailedRecord)
            if bad > MOST_BAD or len(text) > budget.RECORD_FILE:
                raise MediaError("too many of its lines are no records; the rest is not read", item=file)


def _parsed(text: bytes) -> Record | FailedRecord:
    """What a text holds. Raises MediaError for a broken record, _NoRecordError for what is none."""
    try:
        record = from_json(text.decode())
        if not record.top:
            raise MediaError("is no valid record (top: it lists no class)")
        return record
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
    except ValueError as error:
        raise _NoRecordError from error
    try:
        content = read_json(text.decode())
    except ValueError as error:
        raise _NoRecordError from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        schema = content.get("schema") if isinstance(content, dict) else None
        raise _NoRecordError(f"is of {schema[:60]}" if isinstance(schema, str) else "is other JSON")
    if content.get("status") == "error":
        try:
            return FailedRecord.model_validate(content)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
    place = ascii(".".join(map(str, first["loc"])))[1:-1][:80] or "record"
    raise MediaError(f"is no valid record ({place}: {first['msg'].removeprefix('Value error, ')})")
