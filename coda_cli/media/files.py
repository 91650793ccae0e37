"""Files on disk: written whole or not at all, by one run at a time, and their names as text."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath
from typing import IO

from coda_cli.errors import MediaError, UsageError

TEMPORARY_PREFIX = ".coda-"  # temporary files that a killed run left behind are recognised by it
LONGEST = 200  # bytes of a name beyond which it is shortened; file systems allow 255
DEEPEST = 2000  # bytes of a folder below the output folder beyond which it is shortened; a whole path has 4,096
_OF_FILES = r"\.(png|gif|jpe?g|webp|tif|mp4|webm|csv|html|jsonl?|npz|tar|parquet|pt|safetensors)"


def utf8(text: str) -> str:
    r"""Write a path as text for records and for names of outputs.

    Args:
        text: the path, as Python holds it.

    Returns:
        The same text; bytes that are not UTF-8 are written out, as in \xff.
    """
    return text.encode(errors="surrogateescape").decode(errors="backslashreplace")


def shown_name(text: str) -> str:
    r"""Write a path as the names of outputs have it: on one line, without commands to a terminal.

    Args:
        text: the path, as Python holds it.

    Returns:
        The same text; bytes that are not UTF-8 and control characters are written out, as in \xff and \x1b.
    """
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", utf8(text))


def shown_folder(folder: PurePath) -> Path:
    """Write a folder, as a source has it, as one below an output folder.

    Args:
        folder: its place in the source: in a folder, an archive or a store.

    Returns:
        The same folders, each as ``shown_name`` has it, and cut where a name, or all together, is longer than a disk
        takes; a hash of what was cut keeps it unique.
    """
    parts = [_shortened(shown_name(part), LONGEST) for part in folder.parts]
    whole = "/".join(parts)
    return Path(_shortened(whole, LONGEST, folder.as_posix()) if len(whole.encode()) > DEEPEST else whole)


def _shortened(name: str, most: int, whole: str | None = None) -> str:
    """A name of at most so many bytes, with a hash of what it was cut from where it was."""
    if len(name.encode()) <= most:
        return name
    import hashlib

    mark = hashlib.sha256((whole or name).encode(errors="surrogateescape")).hexdigest()[:8]
    return f"{name.encode()[: most - len(mark) - 1].decode(errors='ignore')}~{mark}"


_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


def regular_size(path: Path, most: int) -> int:
    """Say how large a file is that is to be read whole, without opening it: a pipe would wait for somebody to write.

    Args:
        path: the file, or a link to it.
        most: bytes that it may have.

    Returns:
        Its size in bytes.

    Raises:
        MediaError: when it cannot be read, is a folder, a pipe or a device, or is larger.
    """
    try:
        status = path.stat()
    except (OSError, ValueError) as error:  # a name with a NUL in it is a ValueError
        raise MediaError(f"cannot be read ({getattr(error, 'strerror', None) or error})", item=path) from error
    if stat.S_ISDIR(status.st_mode):
        raise MediaError(f"cannot be read ({os.strerror(errno.EISDIR)})", item=path)
    if not stat.S_ISREG(status.st_mode):
        raise MediaError("is a pipe or a device and not a file; save what it holds in a file first", item=path)
    if status.st_size > most:
        raise MediaError(
            f"has {status.st_size / 1e6:.0f} MB, more than the {most / 1e6:.0f} MB that are read", item=path
        )
    return status.st_size


def read_whole(path: Path, most: int) -> bytes:
    """Read a file whole.

    Args:
        path: the file.
        most: bytes that it may have.

    Returns:
        Its content.

    Raises:
        MediaError: when it cannot be read, is a folder, a pipe or a device, or is larger.
    """
    regular_size(path, most)
    try:
        with path.open("rb") as stream:
            return stream.read(most + 1)
    except OSError as error:
        raise MediaError(f"cannot be read ({error.strerror or error})", item=path) from error


class TakenError(MediaError):
    """A file was to be new, and there is one of this name: it was there, or came while this one was made."""


@contextlib.contextmanager
def atomic(path: Path, *, replace: bool = True) -> Iterator[IO[bytes]]:
    """Open a file that appears under its name only when the block ends well; otherwise nothing is left behind.

    Args:
        path: the file to write.
        replace: whether a file of this name may be replaced.

    Yields:
        A binary stream.

    Raises:
        TakenError: when there is a file of this name that may not be replaced.
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
        give_name(temporary, path, replace=replace)
    except OSError as error:
        raise MediaError(f"cannot be written ({error.strerror or error})", item=path) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def write_with(path: Path, write: Callable[[IO[bytes]], object], *, replace: bool = True) -> None:
    """Write a file, whole or not at all, with a function that fills a binary stream.

    Args:
        path: the file to write.
        write: fills the stream; the file gets its name when it returns.
        replace: whether a file of this name may be replaced.

    Raises:
        TakenError: when there is a file of this name that may not be replaced.
        MediaError: when the folder cannot be written or the disk is full.
    """
    with atomic(path, replace=replace) as stream:
        write(stream)


def give_name(temporary: Path, path: Path, *, replace: bool) -> None:
    """Give a finished file its name, in one step: of several runs that want the same new name, one gets it.

    Args:
        temporary: the finished file, on the same disk.
        path: its name.
        replace: whether a file of this name may be replaced.

    Raises:
        TakenError: when there is a file of this name that may not be replaced.
        OSError: when the file cannot get this name.
    """
    if replace:
        os.replace(temporary, path)
        return
    try:
        _link(temporary, path)
    except FileExistsError as error:
        raise TakenError("exists, and is not replaced", item=path) from error


def _link(temporary: Path, path: Path) -> None:
    """Rename a file to a name that no file has. Raises FileExistsError, and OSError as the system does."""
    try:
        os.link(temporary, path)  # unlike a rename, it never replaces
    except FileExistsError:
        raise
    except OSError:  # a disk without links, such as a memory card: an empty file holds the name for a moment
        path.open("xb").close()
        try:
            os.replace(temporary, path)
        except OSError:
            path.unlink()
            raise
    else:
        os.unlink(temporary)


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

    # Hidden and of our own name: "NAME.lock" could be somebody's file.
    beside = path.with_name(f"{TEMPORARY_PREFIX}{path.name}.lock")
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


def refuse_file_name(folder: Path) -> None:
    """Refuse an output folder with the name of a file, unless it is there: whoever writes ``-o a.png`` wants a file.

    Args:
        folder: the folder.

    Raises:
        UsageError: it has the name of a file.
    """
    if re.fullmatch(_OF_FILES, folder.suffix, re.IGNORECASE) and not folder.is_dir():
        raise UsageError(f"--output {folder}: is the name of a file, and results go into a folder; -o DIR names it")


def prepare(folder: Path, *, dry: bool = False) -> None:
    """Make an output folder and check that files can be written into it, before any work.

    Args:
        folder: the folder; those above it are made, too.
        dry: whether nothing is made: only what the system allows is asked for.

    Raises:
        UsageError: no file can be written into it.
    """
    try:
        if dry:
            _refuse_folder(folder)
            return
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(f"cannot write into this folder ({error.strerror or error})", item=folder) from error


def _refuse_folder(folder: Path) -> None:
    """Refuse a folder that could not be made or written, as the system would. Raises OSError."""
    there = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not there.is_dir():
        number = errno.EEXIST if there == folder else errno.ENOTDIR
    elif not os.access(there, os.W_OK):
        number = errno.EACCES
    else:
        return
    raise OSError(number, os.strerror(number))
