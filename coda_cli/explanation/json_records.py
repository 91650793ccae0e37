"""Read the JSON of records: a file with one object, or with one on each line, or one file of results (tar, Parquet).

It may be anybody's file.

torch is not imported, so that reading many records costs little.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Literal, NamedTuple

from pydantic import ValidationError

from coda_cli.checkpoints.descriptions import read_json
from coda_cli.machine import budget
from coda_cli.media.elsewhere import Sample
from coda_cli.media.packed import holds_results, is_packed, samples
from coda_cli.schema.pictures import SCHEMA, FailedRecord, Record
from coda_cli.schema.shards import SCHEMA as SHARD
from coda_cli.schema.shards import ShardRecord

_RECORD_LINE = re.compile(rb'^[ \t]*\{"schema"', re.MULTILINE)


class NoRecordError(Exception):
    """What was read is no record.

    Args:
        why: in words that go on a sentence about it.
        kind: "no JSON", "other JSON" that does not say that it is a record, or "broken" where it does, or is too large.
    """

    def __init__(self, why: str, kind: Literal["no JSON", "other JSON", "broken"]) -> None:
        super().__init__(why)
        self.why, self.kind = why, kind


class Found(NamedTuple):
    """What was read at one place.

    Attributes:
        what: a record, that of a picture which failed or of a shard of a run, or why it is none of them.
        line: its number from 1 on; 0 where the whole file is one object.
        offset: of its line in the file, in bytes; -1 where the whole file is one object. In a file of results, the
            place by which ``media.packed.sample_at`` finds it.
        inside: its name in a file of results; "" elsewhere.
    """

    what: Record | FailedRecord | ShardRecord | NoRecordError
    line: int = 0
    offset: int = -1
    inside: str = ""


def parse(content: bytes) -> Record | FailedRecord | ShardRecord:
    """Read one record.

    Args:
        content: JSON.

    Returns:
        The record of a picture that was explained, of one that failed, or of a shard of a run.

    Raises:
        NoRecordError: it is none of them.
    """
    try:
        record = Record.model_validate_json(content)
    except ValidationError as error:
        return _other_record(content, error)
    if not record.top:
        raise NoRecordError("is no valid record (top: it lists no class)", "broken")
    return record


def _other_record(content: bytes, error: ValidationError) -> FailedRecord | ShardRecord:
    """A record of another kind. Raises NoRecordError, with the error of the record that it is not."""
    try:
        read = read_json(content.decode())
    except ValueError as none:
        raise NoRecordError("is no JSON", "no JSON") from none
    if not isinstance(read, dict) or read.get("schema") not in (SCHEMA, SHARD):
        schema = read.get("schema") if isinstance(read, dict) else None
        raise NoRecordError(f"is of {schema[:60]}" if isinstance(schema, str) else "is other JSON", "other JSON")
    kind = ShardRecord if read["schema"] == SHARD else FailedRecord if read.get("status") == "error" else None
    if kind:
        try:
            return kind.model_validate(read)
        except ValidationError as other:
            error = other
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    place = ascii(".".join(map(str, first["loc"])))[1:-1][:80] or "record"
    raise NoRecordError(f"is no valid record ({place}: {first['msg'].removeprefix('Value error, ')})", "broken")


def is_place(folder: str, name: str, suffix: str) -> bool:
    """Say whether a file in a folder is one in which records are looked for.

    Args:
        folder: the folder.
        name: of the file.
        suffix: how the names of single records end.

    Returns:
        Whether it is called as a record, or is a file of results.
    """
    if name.startswith("."):
        return False
    return name.endswith(suffix) or (is_packed(name) and holds_results(Path(folder, name)))


def read_place(path: Path) -> Iterator[Found]:
    """Read what a place of records holds: a file of results, or one of JSON.

    Args:
        path: the file.

    Yields:
        What was found, in order.

    Raises:
        MediaError: it is named as a file of results, and is none, or is broken; or pyarrow is missing.
        OSError: it cannot be read.
    """
    if not is_packed(path):
        with path.open("rb") as stream:
            yield from read_file(stream)
        return
    for sample in samples(path):
        try:
            yield Found(_parsed(sample), 0, sample.place, sample.name)
        except NoRecordError as error:
            yield Found(error, 0, sample.place, sample.name)


def _parsed(sample: Sample) -> Record | FailedRecord | ShardRecord:
    """The record of a sample. Raises NoRecordError."""
    if len(sample.record) > budget.RECORD_FILE:
        raise NoRecordError(f"has more than the {budget.RECORD_FILE / 1e6:.0f} MB that are read", "broken")
    return parse(sample.record)


def read_file(stream: IO[bytes]) -> Iterator[Found]:
    """Read what a file holds: lines where the first is an object by itself and others follow, else one object.

    Args:
        stream: the file, at its beginning.

    Yields:
        What was found, in order.
    """
    most = budget.RECORD_FILE
    first = stream.readline(most + 1)
    if stream.read(1) and _is_object(first):
        yield from _again_as_lines(stream)
        return
    stream.seek(0)
    content = stream.read(most + 1)
    try:
        if len(content) > most:
            raise NoRecordError(f"has more than the {most / 1e6:.0f} MB that are read", "no JSON")
        yield Found(parse(content))
    except NoRecordError as error:
        if error.kind == "no JSON" and _RECORD_LINE.search(content, len(first)):  # the first of the lines is broken
            yield from _again_as_lines(stream)
        else:
            yield Found(error)


def _is_object(line: bytes) -> bool:
    """Whether a line is an object by itself, and not the beginning of a longer one."""
    try:
        return isinstance(read_json(line.decode()), dict)
    except ValueError:
        return False


def _again_as_lines(stream: IO[bytes]) -> Iterator[Found]:
    stream.seek(0)
    yield from read_lines(stream)


def read_lines(stream: IO[bytes]) -> Iterator[Found]:
    """Read what each line holds, as ``coda explain --json`` prints them; empty lines are left out.

    Args:
        stream: the lines; it need not be able to go back.

    Yields:
        What was found, in order. A line that is too long is passed over without being read whole.
    """
    most, number, offset = budget.RECORD_FILE, 0, 0
    while line := stream.readline(most + 1):
        at, number, offset = offset, number + 1, offset + len(line)
        try:
            if len(line) > most and not line.endswith(b"\n"):
                while line and not line.endswith(b"\n"):
                    line = stream.readline(1 << 20)
                    offset += len(line)
                raise NoRecordError(f"has more than the {most / 1e6:.0f} MB that are read", "broken")
            if line.strip():
                yield Found(parse(line), number, at)
        except NoRecordError as error:
            yield Found(error, number, at)
