"""``--log FILE``: what happens to each item, a line of JSON for each, while a run goes on."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Literal

import typer

from coda_cli.errors import CodaError, MediaError, UsageError

if TYPE_CHECKING:
    from coda_cli.explanation.writer import Outcome

_BEGINS = b'{"schema":"coda.log"'

LogFile = Annotated[
    Path | None,
    typer.Option(
        "--log",
        metavar="FILE",
        show_default=False,
        help="Append a line of JSON to this file for each item as it is done: what happened to it, its files, its "
        "error.",
    ),
]


class RunLog:
    """The log of a run, in a ``with`` block. Without a file it does nothing.

    Each line is written at once and in one piece, so several runs may share a file, and a run that is killed has told
    all that it did. The file is made by the first line: a run that is refused leaves none.

    Args:
        path: the file; None for no log.
        command: the command's words, for the lines.
        others: the files and folders that the command writes besides, by their options.

    Raises:
        UsageError: before any work: the file cannot be written, is no log, or is one of the others.
    """

    _stream: IO[bytes] | None

    def __init__(self, path: Path | None, command: str, others: Mapping[str, Path | str | None]) -> None:
        self._path, self._command, self._stream = path, command, None
        if path is not None:
            _refuse(path, others)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *_: object) -> None:
        if self._stream:
            self._stream.close()

    def add(
        self,
        item: str,
        what: Literal["explained", "skipped", "summarised", "failed"],
        *,
        seconds: float | None = None,
        outputs: Sequence[Path | str] = (),
        error: CodaError | None = None,
    ) -> None:
        """Write the line of one item. Raises MediaError where the disk is full."""
        if self._path is None:
            return
        from coda_cli.media.files import utf8
        from coda_cli.schema.logs import LogLine
        from coda_cli.schema.parts import ErrorPart, to_json

        line = LogLine(
            time=datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            command=self._command,
            item=utf8(item),
            what=what,
            seconds=seconds,
            outputs=tuple(utf8(str(path)) for path in outputs),
            error=error and ErrorPart(kind=type(error).__name__, message=utf8(str(error))),
        )
        try:
            self._stream = self._stream or _opened(self._path)
            left = memoryview(to_json(line).encode() + b"\n")
            while left:  # in one call of the system, but where a disk is nearly full: then the next one says so
                left = left[self._stream.write(left) :]
        except OSError as full:
            raise MediaError(f"cannot be written ({full.strerror or full})", item=self._path) from full

    def outcome(self, outcome: Outcome) -> None:
        """Write the line of one picture. Raises MediaError."""
        what: Literal["explained", "skipped", "failed"]
        what = "failed" if outcome.error else "skipped" if outcome.skipped else "explained"
        seconds = outcome.record.seconds if outcome.record and not outcome.skipped else None
        self.add(
            outcome.item.name, what, seconds=seconds, outputs=outcome.addresses or outcome.written, error=outcome.error
        )


def _refuse(path: Path, others: Mapping[str, Path | str | None]) -> None:
    """Refuse what cannot be a log, and open nothing: who reads a pipe takes its end for that of the run.

    Raises UsageError.
    """
    if str(path) == "-":
        raise UsageError("--log: names a file, and stdout is for results; a file of this name is ./-", item=path)
    for option, other in others.items():
        if other is not None and os.path.realpath(path) == os.path.realpath(other):
            raise UsageError(f"--log: {option} names the same; name another file", item=path)
    try:
        status = path.stat() if path.exists() else None
        if status is None and not stat.S_ISDIR(path.parent.stat().st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if status and stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not os.access(path if status else path.parent, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        if status and stat.S_ISREG(status.st_mode) and status.st_size:
            with path.open("rb") as stream:
                if stream.read(len(_BEGINS)) != _BEGINS:  # a slip must not add lines to a picture
                    raise UsageError("exists, and is no log of coda; --log appends to a log", item=path)
    except OSError as error:
        raise UsageError(f"--log: cannot be written ({error.strerror or error})", item=path) from error


def _opened(path: Path) -> IO[bytes]:
    """Open a log to append to it, without a buffer. Raises OSError."""
    if path.is_file() and path.stat().st_size:
        with path.open("rb") as stream:
            stream.seek(-1, os.SEEK_END)
            ends = stream.read() == b"\n"
        if not ends:  # a machine stopped while it was written
            with path.open("ab") as stream:
                stream.write(b"\n")
    return path.open("ab", buffering=0)
