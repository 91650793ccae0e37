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
    """One input: its file, and the folder below which its output goes (its place in a scanned tree)."""

    path: Path
    subfolder: Path = Path()


def resolve(
    sources: Sequence[str], *, recursive: bool = False, listed: Iterable[str] = (), leave_out: Path | None = None
) -> list[Item]:
    """The files that ``sources`` name, in order and each once; then those ``listed`` one path each, taken as they are.

    A source is a file, a folder (its pictures in natural order, sub-folders with ``recursive``) or a pattern with
    ``*``, ``?`` or ``[``. ``leave_out`` is the output folder: nothing inside it is scanned, and what coda explain, coda
    compare and coda evaluate drew is skipped everywhere. Raises UsageError for a source that does not exist or holds no
    picture.
    """
    items: dict[Path, Item] = {}
    for source in sources:
        for item in _expand(source, recursive, identity(leave_out) if leave_out else None):
            items.setdefault(identity(item.path), item)
    for text in listed:
        items.setdefault(identity(Path(text)), Item(Path(text)))
    return list(items.values())


def identity(path: Path) -> Path:
    """What is the same for all paths of one file. Of what can be no file, the path itself."""
    try:
        return path.resolve()
    except (OSError, ValueError, RuntimeError):  # too long; with a NUL; a link to itself
        return path


def _expand(source: str, recursive: bool, leave_out: Path | None) -> Iterator[Item]:
    try:
        yield from _expanded(source, recursive, leave_out)
    except (OSError, ValueError) as error:  # a name that is too long or none at all, a folder that may not be read
        raise UsageError(f"cannot be read ({getattr(error, 'strerror', None) or error})", item=source) from error


def _expanded(source: str, recursive: bool, leave_out: Path | None) -> Iterator[Item]:
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
    """Whether a file is a picture that coda drew, which nobody wants explained by a second run over the folder."""
    suffix = path.suffix.lower()
    if suffix == ".gif":
        return (read_gif_text(path) or "").startswith('{"schema":"coda.')
    return suffix == ".png" and read_png_text(path, RECORD_KEY) is not None


def _natural(text: str) -> list[tuple[int, int, str]]:
    """Sort key under which img2 comes before img10."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part.casefold()) for part in re.split(r"(\d+)", text)]


def _nearest(path: Path) -> str:
    try:
        names = [p.name for p in path.parent.iterdir()]
    except OSError:
        return ""
    close = difflib.get_close_matches(path.name, names, n=1)
    return f"; did you mean {path.parent / close[0]}?" if close else ""
