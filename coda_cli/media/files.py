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
    r"""Write a path as text for records and for names of outputs.

    Args:
        text: the path, as Python holds it.

    Returns:
        The same text; bytes that are not UTF-8 are written out, as in \xff.
    """
    return text.encode(errors="surrogateescape").decode(errors="backslashreplace")


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that appears under its name only when the block ends well; otherwise nothing is left behind.

    Args:
        path: the file to write.

    Yields:
        A binary stream.

    Raises:
        MediaError: when the folder cannot be written or the disk is full.
    """
    # mkstemp is not used: its files are private, and the umask, which says what others may read, cannot be read safely
    # while other threads run.
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
    """Write a file, whole or not at all, with a function that fills a binary stream.

    Args:
        path: the file to write.
        write: fills the stream; the file gets its name when it returns.

    Raises:
        MediaError: when the folder cannot be written or the disk is full.
    """
    with atomic(path) as stream:
        write(stream)


@contextlib.contextmanager
def alone(path: Path, otherwise: str) -> Iterator[None]:
    """Let only one run at a time write to a file, so that the lines of two runs are not mixed.

    Args:
        path: the file that the block writes to.
        otherwise: what the user can do instead of waiting, for the error's message.

    Yields:
        Nothing; a lock beside the file is held during the block.

    Raises:
        UsageError: when another run writes to the file.
    """
    import filelock

    beside = path.with_name(path.name + ".lock")
    lock = filelock.FileLock(beside, timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise UsageError(f"another run writes to it; wait for its end, or {otherwise}", item=path) from None
    except OSError:  # where no lock can be written, no other run can write either
        yield
        return
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows does not remove a file that is open
            beside.unlink()
        lock.release()
