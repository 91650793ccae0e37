"""From what a person writes for "these pictures" to a list of them: files, folders, patterns, archives, lists."""

from __future__ import annotations

import difflib
import glob
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from coda_cli.errors import CodaError, MediaError, UsageError
from coda_cli.media import dicom, heif
from coda_cli.media.addresses import at, find_at, is_address, links_of, natural, shown, without_results
from coda_cli.media.archives import is_archive, list_archive
from coda_cli.media.braces import braced
from coda_cli.media.carried import read_gif_text, read_png_text
from coda_cli.media.elsewhere import Elsewhere
from coda_cli.media.files import shown_folder
from coda_cli.media.http import Private
from coda_cli.media.pages import Pages, by_page, page_of, split
from coda_cli.media.stills import SUFFIXES
from coda_cli.media.stored import Refused, Stored

RECORD_KEY = "coda"  # PNG text chunk in which coda's own pictures carry their record


@dataclass(frozen=True)
class Item:
    """One input.

    Attributes:
        path: its file; of a picture that is not one, the path that names its outputs.
        subfolder: its place in a scanned tree of folders; its output goes to the same place below the output folder.
        stored: where its bytes are, when it is not a file.
    """

    path: Path
    subfolder: Path = Path()
    stored: Stored | None = None

    @property
    def name(self) -> str:
        """What messages and records call it."""
        return self.stored.name if self.stored else self.path.as_posix()

    @property
    def key(self) -> Path | str:
        """What is equal for all names of one input."""
        return self.stored.key if self.stored else identity(self.path)

    @property
    def content(self) -> Path | Stored:
        """What ``stills.reading`` reads."""
        return self.stored or self.path


def resolve(
    sources: Sequence[str], *, recursive: bool = False, listed: Iterable[str] = (),
    leave_out: Path | Elsewhere | None = None, on_left_out: Callable[[str], None] | None = None,
    allow_private: bool = False,
) -> list[Item]:  # fmt: skip
    """Find the pictures that a person named, in order, each of them once.

    Pictures that coda drew are left out wherever a folder or a pattern is scanned. Links to folders are followed where
    sub-folders are scanned; each folder is looked into once, so that links in a circle come to an end.

    Args:
        sources: files, folders (their pictures in natural order; FOLDER/** with those of its sub-folders), archives
            (theirs in the archive's order), addresses, and patterns with ``*``, ``?`` or ``[``; ``{000..099}`` and
            ``{a,b}`` stand for several sources. ``#page=2``, ``#page=2-5`` or ``#page=all`` at the end of one takes
            these pages of its pictures.
        recursive: whether sub-folders are scanned too.
        listed: further paths and addresses, taken as they are. One that cannot be read fails later, alone.
        leave_out: the output folder, inside which nothing is scanned; it may be at an address. Or the output tar, which
            is no source.
        on_left_out: hears, in a line for each folder, what in it is not taken: links that lead nowhere, folders that
            cannot be read, and files that are not pictures by their names.
        allow_private: whether addresses of the list, and redirects, may lead into a private network.

    Returns:
        The inputs.

    Raises:
        UsageError: for a source that does not exist, cannot be read, or holds no picture.
    """
    return list(
        find(
            sources,
            recursive=recursive,
            listed=listed,
            leave_out=leave_out,
            on_left_out=on_left_out,
            allow_private=allow_private,
        )
    )


def find(
    sources: Sequence[str], *, recursive: bool = False, listed: Iterable[str] = (),
    leave_out: Path | Elsewhere | None = None, on_left_out: Callable[[str], None] | None = None,
    allow_private: bool = False, by_folder: bool = False, pages: Pages | None = None,
) -> Iterator[Item]:  # fmt: skip
    """Find the pictures as ``resolve`` does, one source after the other, while the first of them are used already.

    Args:
        sources: see ``resolve``, as are all others.
        recursive: whether sub-folders are scanned too.
        listed: further paths and addresses.
        leave_out: the output folder.
        on_left_out: hears what is not taken.
        allow_private: whether addresses may lead into a private network.
        by_folder: whether a store is listed folder by folder, in its own order, too; see ``addresses.find_at``.
        pages: which pages of pictures that have several, where a source does not say so itself; None takes the first,
            as a part of the picture that has no name of its own.

    Yields:
        The inputs, in order.

    Raises:
        UsageError: in the turn of a source that does not exist, cannot be read, or holds no picture.
    """
    seen = set[Path | str]()
    left_out = identity(leave_out) if isinstance(leave_out, Path) else None
    holds = leave_out.holds if isinstance(leave_out, Elsewhere) else None
    for source, own in (split(one) for text in sources for one in braced(text)):
        if is_address(source):
            private: Private = "always" if allow_private else "named"
            found = find_at(source, recursive=recursive, private=private, by_folder=by_folder)
            found = without_results(source, found, holds) if holds else found
            expanded: Iterator[Item] = (_at_address(stored, place) for place, stored in found)
        else:
            expanded = _expand(source, recursive, left_out, on_left_out)
        yield from _new(by_page(expanded, own or pages), seen)
    for text, own in map(split, listed):
        yield from _new(by_page(_of_list(text, allow_private, on_left_out), own or pages), seen)


def _new(items: Iterable[Item], seen: set[Path | str]) -> Iterator[Item]:
    """The inputs that were not ``seen`` before under any name, which then are."""
    for item in items:
        if (key := item.key) not in seen:
            seen.add(key)
            yield item


def _of_list(text: str, allow_private: bool, on_left_out: Callable[[str], None] | None) -> Iterator[Item]:
    """The inputs that a line of a list names; where it cannot be read, one that says so in its turn."""
    if is_address(text):
        try:
            yield _at_address(at(text, private="always" if allow_private else "never", chains=False))
        except UsageError as error:
            yield _at_address(Refused(shown(text), error))
        return
    path = Path(text)
    if not is_archive(path.name) or not path.is_file():
        yield Item(path)
        return
    try:
        yield from _of_archive(path, text, on_left_out)
    except CodaError as error:
        yield Item(path, stored=Refused(text, error))


def named(source: str | Path) -> Item:
    """Make the input that a path or an address names, without looking whether anything is there.

    Args:
        source: the path or the address; ``#page=2`` at its end is one page of it.

    Returns:
        The input.

    Raises:
        UsageError: no such addresses are read, or several pages are named.
    """
    text, pages = split(str(source))
    address = isinstance(source, str) and is_address(text)
    item = _at_address(at(text, private="named")) if address else Item(Path(text))
    if pages is None:
        return item
    if pages.first != pages.last:
        raise UsageError("names several pages, and one picture is explained here", item=str(source))
    return page_of(item, pages.first)


def _at_address(stored: Stored, place: PurePath | None = None) -> Item:
    """The input at an address; its outputs are named by the last part of it."""
    return Item(Path(links_of(stored.name)[0]), shown_folder(place or PurePath()), stored)


def _of_archive(path: Path, source: str, on_left_out: Callable[[str], None] | None) -> Iterator[Item]:
    """The pictures in an archive, each at the place that it has there. Raises CodaError."""
    listing = list_archive(path)
    parts = [f"{n} {'entry' if n == 1 else 'entries'} ({why})" for why, n in listing.left_out.items()]
    parts += _of_other_kinds(listing.others)
    if left_out := ", ".join(parts if listing.ends else [*parts, "what may follow: the mark of its end is missing"]):
        _say_left_out(on_left_out, source, left_out)
    if not listing.pictures:
        raise UsageError("no pictures in this archive", item=source)
    for inside, stored in listing.pictures.items():
        yield Item(path / inside, shown_folder(inside.parent), stored)


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


def _expand(
    source: str, recursive: bool, leave_out: Path | None, on_left_out: Callable[[str], None] | None
) -> Iterator[Item]:
    """The inputs that one source names; every failure to read it is a UsageError."""
    try:
        yield from _expand_readable(source, recursive, leave_out, on_left_out)
    except (OSError, ValueError) as error:  # the name is too long or not a name, or the folder may not be read
        raise UsageError(f"cannot be read ({getattr(error, 'strerror', None) or error})", item=source) from error


def _expand_readable(
    source: str, recursive: bool, leave_out: Path | None, on_left_out: Callable[[str], None] | None
) -> Iterator[Item]:
    """The inputs that one source names; what the system raises is passed on."""
    if not source:
        raise UsageError("a source is an empty name; . is this folder")
    path = Path(source)
    if path.name == "**" and path.parent.is_dir():
        path, recursive = path.parent, True
    if path.is_dir():
        scan = _Scan(path, recursive, leave_out)
        files = [Item(f, shown_folder(f.parent.relative_to(path))) for f in scan.pictures]
        if scan.left_out:
            _say_left_out(on_left_out, source, scan.left_out)
        if not files:
            hint = "" if recursive else " (-r looks into its sub-folders)"
            raise UsageError(f"no pictures in this folder{hint}", item=source)
        yield from files
    elif path.exists():
        if identity(path) == leave_out:
            raise UsageError("is where results go, and cannot be a source, too; choose another --output", item=source)
        yield from _of_file(path, on_left_out)
    elif glob.has_magic(source):
        matches = sorted(glob.glob(source, recursive=True), key=natural)
        there = [Path(f) for f in matches if Path(f).is_file()]
        found = [file for file in there if identity(file) != leave_out and not _drawn_by_coda(file)]
        if not found:
            raise UsageError("the pattern matches no file", item=source)
        for path in found:
            yield from _of_file(path, on_left_out)
    else:
        raise UsageError(f"no such file or folder{_nearest(path)}", item=source)


def _of_file(path: Path, on_left_out: Callable[[str], None] | None) -> Iterator[Item]:
    """The input that a file is, or those in an archive. Raises UsageError for an archive that cannot be read."""
    if not is_archive(path.name) or not path.is_file():
        yield Item(path)
        return
    try:
        yield from _of_archive(path, str(path), on_left_out)
    except MediaError as error:
        raise UsageError(error.message, item=error.item) from error


def _say_left_out(on_left_out: Callable[[str], None] | None, source: str, left_out: str) -> None:
    if on_left_out:
        on_left_out(f"{source}: left out {left_out}")


def _of_other_kinds(suffixes: Counter[str]) -> list[str]:
    """How many files are no pictures by their names, in words; none where there are none."""
    if not (kinds := [(suffix, n) for suffix, n in suffixes.most_common() if n]):
        return []
    names = ", ".join(f"{n} {suffix}" for suffix, n in kinds[:5]) + (", ..." if len(kinds) > 5 else "")
    here = {suffix for suffix, _ in kinds}
    advice = "".join(f"; {module.ADVICE}" for module in (heif, dicom) if here & {*module.NAMES})
    return [f"{_count(sum(n for _, n in kinds), 'file')} of other kinds ({names}{advice})"]


class _Scan:
    """What is in a folder, without hidden files, coda's own, and those of the output folder inside it.

    Attributes:
        pictures: files that are pictures by their names, in natural order.
        dangling: links that lead nowhere.
        unread: sub-folders that cannot be read.
        others: how many files have which other suffix.
    """

    def __init__(self, folder: Path, recursive: bool, leave_out: Path | None) -> None:
        self.pictures, self.dangling, self.unread = list[Path](), list[Path](), list[Path]()
        self.others = Counter[str]()
        root = identity(folder)
        self._leave_out = leave_out if leave_out and root in leave_out.parents else None  # only where it is in the way
        self._seen = {root, *root.parents}  # a link to a folder around this one would lead back here
        folders = deque([folder])  # those that lie here, before links to others: each has its own place
        links = deque[Path]()
        while folders or links:
            current = folders.popleft() if folders else links.popleft()
            if current.is_symlink() and current != folder and not self._is_new(current):
                continue
            inside = self._look_into(current, current == folder)
            if recursive:
                folders += [path for path in inside if not path.is_symlink() and self._is_new(path)]
                links += [path for path in inside if path.is_symlink()]
        self.pictures.sort(key=lambda path: natural(str(path)))

    def _is_new(self, folder: Path) -> bool:
        """Whether a folder was not seen before, under any name, nor is the one that is left out."""
        own = identity(folder)
        if own in self._seen or (self._leave_out and own.is_relative_to(self._leave_out)):
            return False
        self._seen.add(own)
        return True

    def _look_into(self, folder: Path, first: bool) -> list[Path]:
        """Sort what is in a folder, and give its sub-folders and links to folders in natural order."""
        try:
            entries = sorted(folder.iterdir(), key=lambda path: natural(path.name))
        except OSError:
            if first:
                raise
            self.unread.append(folder)
            return []
        inside = []
        for path in entries:
            if path.name.startswith("."):
                continue
            if path.is_dir():
                inside.append(path)
            elif path.is_symlink() and not path.exists():
                self.dangling.append(path)
            else:
                self._sort_file(path)
        return inside

    def _sort_file(self, path: Path) -> None:
        if self._leave_out and identity(path).is_relative_to(self._leave_out):
            return
        if path.suffix.lower() not in SUFFIXES or not path.is_file():
            ours = path.name.endswith((".coda.json", ".coda.npz", ".coda.jsonl"))
            self.others[path.suffix.lower() or "no suffix"] += not ours
        elif not _drawn_by_coda(path):
            self.pictures.append(path)

    @property
    def left_out(self) -> str:
        """What is not taken, in words; "" where there is nothing."""
        parts = []
        if self.dangling:
            names = ", ".join(path.name for path in self.dangling[:3]) + (", ..." if len(self.dangling) > 3 else "")
            parts.append(f"{_count(len(self.dangling), 'link')} to nothing ({names})")
        if self.unread:
            parts.append(f"{_count(len(self.unread), 'folder')} that cannot be read ({self.unread[0].name})")
        return ", ".join([*parts, *_of_other_kinds(self.others)])


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"


def _drawn_by_coda(path: Path) -> bool:
    """Whether a file is a picture that coda drew, which a second run over the folder should not explain."""
    suffix = path.suffix.lower()
    if suffix == ".gif":
        return (read_gif_text(path) or "").startswith('{"schema":"coda.')
    return suffix == ".png" and read_png_text(path, RECORD_KEY) is not None


def _nearest(path: Path) -> str:
    """A hint at the file that was probably meant, for the end of a message; "" where none is similar."""
    try:
        names = [p.name for p in path.parent.iterdir()]
    except OSError:
        return ""
    close = difflib.get_close_matches(path.name, names, n=1)
    return f"; did you mean {path.parent / close[0]}?" if close else ""
