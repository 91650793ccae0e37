"""Find and read the records of explained pictures. What is read is not trusted: it may be anybody's file."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple, TypeVar

from coda_cli.errors import MediaError, UsageError
from coda_cli.explanation.json_records import Found, NoRecordError, is_place, read_lines, read_place
from coda_cli.media.files import regular_size
from coda_cli.schema.pictures import FailedRecord, Record
from coda_cli.schema.shards import ShardRecord

SUFFIX = ".coda.json"  # of the records that are looked for in folders
STDIN = "-"
MOST_ERRORS = 20  # lines of one file that are complained about one by one
T = TypeVar("T")


class Read(NamedTuple):
    """A record that was read, and where it stands in its file.

    Attributes:
        record: of a picture that was explained, of one that failed, or of a shard of a run.
        line: its number from 1 on; 0 where the whole file is one record.
        offset: of its line in the file, in bytes; -1 where the whole file is one record. In a file of results, its
            place.
        inside: its name in a file of results; "" elsewhere.
    """

    record: Record | FailedRecord | ShardRecord
    line: int
    offset: int
    inside: str = ""


def find_records(sources: Sequence[str], *, recursive: bool = False) -> list[str]:
    """Find the files that sources stand for.

    Args:
        sources: files, folders (their ``*.coda.json``, and the tar and Parquet files of results in them, in the order
            of their names), and "-" for the stream that is read from.
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
                from coda_cli.media.addresses import refuse_missing  # which takes half of the time of a small summary

                refuse_missing(source, "records")
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
        found += (os.path.join(current, n) for n in sorted(names) if is_place(current, n, SUFFIX))
    return found


def read_records(source: str, stdin: IO[bytes]) -> Iterator[Read | MediaError]:
    """Read the records in a file, one at a time: a single one, one on each line as ``coda explain --json`` prints, or
    those in a file of results.

    Args:
        source: the file, or "-".
        stdin: what "-" is read from.

    Yields:
        The records, and an error for everything that is none.
    """
    if source == STDIN:
        yield from _told(read_lines(stdin), "stdin")
        return
    path = Path(source)
    try:
        regular_size(path, sys.maxsize)  # of lines, it may be of any size; a pipe would wait for somebody to write
        yield from _told(read_place(path), source)
    except MediaError as error:
        yield error
    except OSError as error:
        yield MediaError(f"cannot be read ({error.strerror or error})", item=path)


def _told(found: Iterable[Found], name: str) -> Iterator[Read | MediaError]:
    """The records that were found, and an error about each place where there is none."""
    for what, line, offset, inside in found:
        if isinstance(what, NoRecordError):
            where = f"line {line} " if line else f"{inside} " if inside else ""
            yield MediaError(f"{where}{what.why}; leave it out, or explain its picture again", item=name)
        else:
            yield Read(what, line, offset, inside)


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
