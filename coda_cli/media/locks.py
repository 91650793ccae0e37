"""Files that one run at a time may write to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from coda_cli.errors import UsageError


@contextmanager
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
        raise UsageError(f"{path}: another run writes to it; wait for its end, or {otherwise}") from None
    except OSError:  # where nothing can be written, nobody writes
        yield
        return
    try:
        yield
    finally:
        with suppress(OSError):  # Windows keeps it while it is open
            beside.unlink()
        lock.release()
