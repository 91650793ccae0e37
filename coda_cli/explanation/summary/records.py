"""Find and read the records of explained pictures. What is read is not trusted: it may be anybody's file."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, TypeVar

from pydantic import ValidationError

from coda_cli.errors import MediaError, UsageError
from coda_cli.machine import budget
from coda_cli.media.files import regular_size
from coda_cli.schema.pictures import SCHEMA, FailedRecord, Record

SUFFIX = ".coda.json"  # of the records that are looked for in folders
STDIN = "-"
MOST_ERRORS = 20  # lines of one file that are complained about one by one
T = TypeVar("T")
_RECORD_LINE = re.compile(rb'^[ \t]*\{"schema"', re.MULTILINE)


def find_records(sources: Sequence[str], *, recursive: bool = False) -> list[str]:
    """Find the files that sources stand for.

    Args:
        sources: files, folders (their ``*.coda.json``, in the order of their names), and "-" for the stream that is
            read from.
        recursive: whether sub-folders are looked into, too. Links to folders are not followed.

    Returns:
        The files; texts instead of paths, which take several times the memory.

    Raises:
        UsageError: a source does not exist or cannot be read, or a folder holds no record.
    """
    found = list[str]()
    for source in sources:
        if source == STDIN or not os.path.isdir(source):
            if source != STDIN and not os.path.exists(source):
                raise UsageError("no such file or folder", item=source)
            found.append(source)
            continue
        inside = _inside(source, recursive)
        if not inside:
            more = "" if recursive else "; -r looks into its sub-folders"
            raise UsageError(
                f"no records (*{SUFFIX}) in this folder{more}; coda explain PICTURES -o {source} writes them",
                item=source,
            )
        found += inside
    return list(dict.fromkeys(found))


def _inside(folder: str, recursive: bool) -> list[str]:
    """The records in a folder, those of sub-folders after its own. Raises UsageError."""

    def refuse(error: OSError) -> None:
        """Say which folder cannot be read."""
        raise UsageError(f"cannot be read ({error.strerror or error})", item=error.filename) from error

    found = list[str]()
    for current, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if recursive else []
        found += (
            os.path.join(current, n) for n in sorted(names) if n.endswith(SUFFIX) and not n.startswith(".")
        )  # fmt: skip
    return found


def read_records(source: str, stdin: IO[bytes]) -> Iterator[Record | FailedRecord | MediaError]:
    """Read the records in a file, one at a time: a single one, or one on each line as ``coda explain --json`` prints.

    Args:
        source: the file, or "-".
        stdin: what "-" is read from.

    Yields:
        The records, and an error for everything that is none.
    """
    if source == STDIN:
        yield from _of_lines("stdin", stdin, stdin.readline(budget.RECORD_FILE + 1))
        return
    path = Path(source)
    try:
        regular_size(path, sys.maxsize)  # of lines, it may be of any size; a pipe would wait for somebody to write
        with path.open("rb") as stream:
            yield from _of_file(path, stream)
    except MediaError as error:
        yield error
    except OSError as error:
        yield MediaError(f"cannot be read ({error.strerror or error})", item=path)


def _of_file(path: Path, stream: IO[bytes]) -> Iterator[Record | FailedRecord | MediaError]:
    """What a file holds: lines where the first one is JSON by itself, else one object over several lines."""
    most = budget.RECORD_FILE
    first = stream.readline(most + 1)
    if not first:
        yield MediaError(f"is empty, and no record of coda explain ({SCHEMA})", item=path)
        return
    if not first.endswith(b"\n") or len(first) > most or not isinstance(parse_record(first), str):
        yield from _of_lines(str(path), stream, first)
        return
    rest = stream.read(most + 1 - len(first))
    whole = parse_record(first + rest) if len(first) + len(rest) <= most else "too large"
    if not isinstance(whole, str):
        yield whole
    elif _RECORD_LINE.search(rest):  # of lines, the first of which is broken
        stream.seek(0)
        yield from _of_lines(str(path), stream, stream.readline(most + 1))
    else:
        yield MediaError(_no_record(whole), item=path)


def _of_lines(name: str, stream: IO[bytes], line: bytes) -> Iterator[Record | FailedRecord | MediaError]:
    """What each line holds, the first of which is ``line``; empty lines are left out."""
    most, number = budget.RECORD_FILE, 1
    while line:
        if len(line) > most and not line.endswith(b"\n"):
            yield MediaError(f"line {number} has more than the {most / 1e6:.0f} MB that are read", item=name)
            while line and not line.endswith(b"\n"):
                line = stream.readline(1 << 20)
        elif line.strip():
            found = parse_record(line)
            yield MediaError(f"line {number}: {_no_record(found)}", item=name) if isinstance(found, str) else found
        line = stream.readline(most + 1)
        number += 1


def limited(found: Iterable[T | MediaError], name: str) -> Iterator[T | MediaError]:
    """Pass on what a file holds, with at most MOST_ERRORS errors, and then one that says how many more there are.

    Args:
        found: what it holds.
        name: of the file.

    Yields:
        The same.
    """
    errors = 0
    for one in found:
        errors += isinstance(one, MediaError)
        if not isinstance(one, MediaError) or errors <= MOST_ERRORS:
            yield one
    if errors > MOST_ERRORS:
        yield MediaError(f"{errors - MOST_ERRORS} more lines are no records", item=name)


def _no_record(why: str) -> str:
    """The message about something that is no record."""
    return f"is no record of coda explain ({why}); leave it out, or explain its picture again"


def parse_record(content: bytes) -> Record | FailedRecord | str:
    """Read one record.

    Args:
        content: JSON.

    Returns:
        The record of a picture that was explained, or of one that failed; a text says why it is neither.
    """
    try:
        return Record.model_validate_json(content)
    except ValidationError as error:
        try:
            return FailedRecord.model_validate_json(content)
        except ValidationError:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(map(str, first["loc"]))
    return " ".join(f"{where + ': ' if where else ''}{first['msg']}".split())
