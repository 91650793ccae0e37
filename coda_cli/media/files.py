"""Files on disk: written whole or not at all, by one run at a time, and their names as text."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from coda_cli.errors import MediaError, UsageError

TEMPORARY_PREFIX = ".coda-"  # temporary files that a killed run left behind are recognised by it


def utf8(text: str) -> str:
    """A path as text for records and for names of outputs: bytes that are not UTF-8 are written as \\xff."""
    return text.encode(errors="surrogateescape").decode(errors="backslashreplace")


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that appears under its name only when the block ends well; nothing is left behind otherwise.

    Raises MediaError when the folder cannot be written or the disk is full.
    """
    # Not mkstemp: its files are private, and the umask that says what others may do cannot be asked for in a thread.
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}.part")
    try:
        with temporary.open("xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise MediaError(f"cannot be written ({error.strerror or error})", item=path) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def write_with(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Let ``write`` fill a binary stream that becomes ``path`` when it succeeds. Raises MediaError."""
    with atomic(path) as stream:
        write(stream)


@contextlib.contextmanager
def alone(path: Path, otherwise: str) -> Iterator[None]:
    """Nobody else between these: lines of two runs would follow each other as if they were of one.

    Raises UsageError where another run is there, with what to do ``otherwise``.
    """
    import filelock

    beside = path.with_name(path.name + ".lock")
    lock = filelock.FileLock(beside, timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise UsageError(f"another run writes to it; wait for its end, or {otherwise}", item=path) from None
    except OSError:  # where nothing can be written, nobody writes
        yield
        return
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows keeps it while it is open
            beside.unlink()
        lock.release()
