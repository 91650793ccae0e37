"""From what a person writes for "these pictures" to a list of files: files, folders, patterns, lists on a stream."""

from __future__ import annotations

import difflib
import glob
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from coda_cli.errors import UsageError
from coda_cli.media.files import utf8
from coda_cli.media.stills import SUFFIXES, read_gif_text, read_png_text

RECORD_KEY = "coda"  # PNG text chunk in which coda's own pictures carry their record


@dataclass(frozen=True)
class Item:
    """One input.

    Attributes:
        path: its file.
        subfolder: its place in a scanned tree of folders; its output goes to the same place below the output folder.
    """

    path: Path
    subfolder: Path = Path()


def resolve(
    sources: Sequence[str], *, recursive: bool = False, listed: Iterable[str] = (), leave_out: Path | None = None
) -> list[Item]:
    """Find the files that a person named, in order, each of them once.

    Pictures that coda explain, coda compare and coda evaluate drew are left out wherever a folder or a pattern is
    scanned.

    Args:
        sources: files, folders (their pictures in natural order) and patterns with ``*``, ``?`` or ``[``.
        recursive: whether sub-folders are scanned too.
        listed: further paths, one file each, taken as they are.
        leave_out: the output folder, inside which nothing is scanned.

    Returns:
        The inputs.

    Raises:
        UsageError: for a source that does not exist, cannot be read, or holds no picture.
    """
    items: dict[Path, Item] = {}
    for source in sources:
        for item in _expand(source, recursive, identity(leave_out) if leave_out else None):
            items.setdefault(identity(item.path), item)
    for text in listed:
        items.setdefault(identity(Path(text)), Item(Path(text)))
    return list(items.values())


def identity(path: Path) -> Path:
    """Find a path that is the same for all paths of one file.

    Args:
        path: any path.

    Returns:
        The absolute path without links; the path itself where it cannot name a file.
    """
    try:
        return path.resolve()
    except (OSError, ValueError, RuntimeError):  # the path is too long, has a NUL in it, or is a link to itself
        return path


def _expand(source: str, recursive: bool, leave_out: Path | None) -> Iterator[Item]:
    """The inputs that one source names; every failure to read it is a UsageError."""
    try:
        yield from _expand_readable(source, recursive, leave_out)
    except (OSError, ValueError) as error:  # the name is too long or not a name, or the folder may not be read
        raise UsageError(f"cannot be read ({getattr(error, 'strerror', None) or error})", item=source) from error


def _expand_readable(source: str, recursive: bool, leave_out: Path | None) -> Iterator[Item]:
    """The inputs that one source names; what the system raises is passed on."""
    if not source:
        raise UsageError("a source is an empty name; . is this folder")
    path = Path(source)
    if path.is_dir():
        found = _pictures_in(path, recursive, leave_out)
        files = [Item(f, Path(utf8(str(f.parent.relative_to(path))))) for f in found]
        if not files:
            hint = "" if recursive else " (-r looks into its sub-folders)"
            raise UsageError(f"no pictures in this folder{hint}", item=source)
        yield from files
    elif path.exists():
        yield Item(path)
    elif glob.has_magic(source):
        matches = sorted(glob.glob(source, recursive=True), key=_natural)
        files = [Item(Path(f)) for f in matches if Path(f).is_file() and not _drawn_by_coda(Path(f))]
        if not files:
            raise UsageError("the pattern matches no file", item=source)
        yield from files
    else:
        raise UsageError(f"no such file or folder{_nearest(path)}", item=source)


def _pictures_in(folder: Path, recursive: bool, leave_out: Path | None) -> list[Path]:
    """The pictures of a folder in natural order, without hidden ones and without those that coda drew."""
    found = []
    if leave_out and folder.resolve() not in leave_out.parents:
        leave_out = None  # only an output folder inside this one is in the way
    for path in folder.rglob("*") if recursive else folder.iterdir():
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if hidden or path.suffix.lower() not in SUFFIXES or not path.is_file():
            continue
        if leave_out and path.resolve().is_relative_to(leave_out):
            continue
        if not _drawn_by_coda(path):
            found.append(path)
    return sorted(found, key=lambda p: _natural(str(p)))


def _drawn_by_coda(path: Path) -> bool:
    """Whether a file is a picture that coda drew, which a second run over the folder should not explain."""
    suffix = path.suffix.lower()
    if suffix == ".gif":
        return (read_gif_text(path) or "").startswith('{"schema":"coda.')
    return suffix == ".png" and read_png_text(path, RECORD_KEY) is not None


def _natural(text: str) -> list[tuple[int, int, str]]:
    """Sort key under which img2 comes before img10."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part.casefold()) for part in re.split(r"(\d+)", text)]


def _nearest(path: Path) -> str:
    """A hint at the file that was probably meant, for the end of a message; "" where none is similar."""
    try:
        names = [p.name for p in path.parent.iterdir()]
    except OSError:
        return ""
    close = difflib.get_close_matches(path.name, names, n=1)
    return f"; did you mean {path.parent / close[0]}?" if close else ""
