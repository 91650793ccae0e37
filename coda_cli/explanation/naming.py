"""Give output files their names."""

from __future__ import annotations

import os
import re
import string
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from coda_cli.errors import UsageError
from coda_cli.media.elsewhere import Elsewhere
from coda_cli.media.files import LONGEST, refuse_file_name, shown_name
from coda_cli.media.packed import is_packed
from coda_cli.media.sources import Item

KINDS = {
    "overlay": "png",
    "heatmap": "png",
    "panel": "png",
    "layers": "png",
    "depth": "gif",
    "npz": "npz",
    "json": "json",
}
EXTENSIONS = {**KINDS, "compare": "png", "difference": "png"}  # also what coda compare and coda diff write
DEFAULT_NAME = "{stem}.{class_slug}.{kind}.{ext}"
FIELDS = ("stem", "name", "suffix", "parent", "class", "class_slug", "index", "model", "kind", "ext")
_NO_CLASS = "\0"  # stands for the class in the name of a record; no file name holds it


@dataclass(frozen=True)
class Naming:
    """The template that names output files, and where they go.

    Attributes:
        folder: the output folder.
        model: the network's name.
        template: a format string with the fields of FIELDS.
        remote: where files go from ``folder``, if it is not the place for results itself.

    Raises:
        UsageError: the template is not valid, or would give several files one name; the folder has a file's name.
    """

    folder: Path
    model: str
    template: str = DEFAULT_NAME
    remote: Elsewhere | None = None

    def __post_init__(self) -> None:
        if not is_packed(str(self.folder)):
            refuse_file_name(self.folder)
        try:
            fields = {name for _, name, _, _ in string.Formatter().parse(self.template) if name is not None}
        except ValueError as error:
            raise UsageError(f"--name {self.template!r}: {error}") from error
        if "/" in self.template or os.sep in self.template:
            raise UsageError(f"--name {self.template!r}: names files, not folders; --output names the folder")
        if unknown := sorted(fields - set(FIELDS)):
            raise UsageError(f"--name: no field {{{unknown[0]}}}; there are {', '.join(f'{{{f}}}' for f in FIELDS)}")
        if not fields & {"stem", "name"}:
            raise UsageError("--name: needs {stem} or {name}, or every picture would get the same name")
        if "kind" not in fields or not self.template.endswith(".{ext}"):
            raise UsageError(
                "--name: needs {kind} and ends in .{ext}, or a picture and its record would get the same name"
            )
        try:
            self._render(Item(Path("stem.png")), "overlay", "png", "class", "0")
        except (ValueError, TypeError, LookupError) as error:  # a format that texts cannot have
            raise UsageError(f"--name {self.template!r}: {error}") from error

    def shown(self, path: Path) -> str:
        """Write the path of an output as messages have it.

        Args:
            path: below the output folder.

        Returns:
            The path, or where it goes from there.
        """
        return self.remote.shown(path) if self.remote else str(path)

    @property
    def tells_classes_apart(self) -> bool:
        """Whether files about different classes of one input get different names."""
        return "{class" in self.template or "{index" in self.template

    def path(self, item: Item, kind: str, class_name: str, class_index: str) -> Path:
        """The path of an output about one class of an input.

        Args:
            item: the input.
            kind: one of EXTENSIONS.
            class_name: what the class is called.
            class_index: its index as text; for a difference, both indices joined by a hyphen.

        Returns:
            The path, below the output folder.

        Raises:
            UsageError: the name is too long.
        """
        return self.folder / item.subfolder / self._render(item, kind, EXTENSIONS[kind], class_name, class_index)

    def record_path(self, item: Item) -> Path:
        """The path of an input's record. It is looked for before the class is known, so its name holds no class.

        Args:
            item: the input.

        Returns:
            The path, below the output folder.
        """
        return self.folder / item.subfolder / self.record_name(item)

    def record_name(self, item: Item) -> str:
        """The name of an input's record.

        Args:
            item: the input.

        Returns:
            The last part of its path.
        """
        name = self._render(item, "coda", "json", _NO_CLASS, _NO_CLASS)
        # The separator before the class is removed with it, or the name would be "a..coda.json". Those that belong to
        # the input's own name stay.
        return re.sub(rf"^(?:{_NO_CLASS}[ ._-]?)+|[ ._-]?{_NO_CLASS}", "", name)

    def array_path(self, item: Item) -> Path:
        """The path of the arrays of an input, beside its record.

        Args:
            item: the input.

        Returns:
            The path, below the output folder.
        """
        return self.record_path(item).with_suffix(".npz")

    def _key(self, text: str) -> str:
        """The part of an input's name that stands in a file name; without dots where those end a key."""
        return text.replace(".", "_") if self.remote and self.remote.keyed else text

    def _render(self, item: Item, kind: str, ext: str, class_name: str, class_index: str) -> str:
        """Fill the template in, and shorten a name that is too long for a file."""
        folder, last = os.path.split(shown_name(os.path.abspath(item.path)))
        source = PurePath(last)  # of the name alone: a run over a million pictures names each of them
        values = {
            "stem": self._key(source.stem),
            "name": self._key(source.name),
            "suffix": source.suffix.lstrip("."),
            "parent": os.path.basename(folder),
            "class": class_name.replace("/", "-"),
            "class_slug": class_name if class_name == _NO_CLASS else slug(class_name),
            "index": class_index,
            "model": slug(self.model),
            "kind": kind,
            "ext": ext,
        }
        name = self.template.format_map(values)
        if len(name.encode()) <= LONGEST:
            return name
        # The stem is cut, and a hash of the whole name keeps the short one unique.
        import hashlib

        mark = hashlib.sha256(source.name.encode()).hexdigest()[:8]
        excess = len(name.encode()) - LONGEST + len(mark) + 1
        for key in ("stem", "name"):
            kept = values[key].encode()[: max(8, len(values[key].encode()) - excess)].decode(errors="ignore")
            values[key] = f"{kept}~{mark}"
        name = self.template.format_map(values)
        if len(name.encode()) > LONGEST + 40:
            raise UsageError(f"--name: makes file names of {len(name.encode())} bytes, which is too long")
        return name


def marked(path: Path, mark: str) -> Path:
    """Put a mark into the name of an output file, before what says which kind of file it is.

    Args:
        path: the path that its name gives.
        mark: letters and digits.

    Returns:
        The path with the mark, for one ``a.cat.1f2e3d4c.overlay.png``.
    """
    stem, _, ext = path.name.rpartition(".")
    before, dot, kind = stem.rpartition(".")
    name = f"{before}.{mark}.{kind}.{ext}" if dot and kind in (*EXTENSIONS, "coda") else f"{stem}.{mark}.{ext}"
    return path.with_name(name)


def slug(text: str) -> str:
    """Write a class name as it stands in a file name.

    Args:
        text: the class name.

    Returns:
        The name in lower case, its words joined by hyphens; "class" where nothing is left.
    """
    return re.sub(r"[^\w]+", "-", text.casefold()).strip("-_") or "class"


def refuse_collisions(
    items: Sequence[Item],
    written: Callable[[Item], Path],
    advice: Callable[[Item, Item], str],
    shown: Callable[[Path], str] = str,
) -> None:
    """Refuse inputs whose outputs would have the same name, before any work.

    Args:
        items: the inputs.
        written: gives the path of an input's output.
        advice: says what to do about two inputs with one path.
        shown: writes a path as messages have it.

    Raises:
        UsageError: two inputs would be written to one path.
    """
    for _ in without_collisions(items, written, advice, shown):
        pass


def without_collisions(
    items: Iterable[Item],
    written: Callable[[Item], Path],
    advice: Callable[[Item, Item], str],
    shown: Callable[[Path], str] = str,
) -> Iterator[Item]:
    """Pass inputs on, up to one whose output would have the name of another's.

    Args:
        items: the inputs.
        written: gives the path of an input's output.
        advice: says what to do about two inputs with one path.
        shown: writes a path as messages have it.

    Yields:
        The inputs.

    Raises:
        UsageError: two inputs would be written to one path.
    """
    taken: dict[str, Item] = {}
    for item in items:
        path = written(item)
        if (key := one_file(path)) in taken:
            both = f"{taken[key].name} and {item.name} would both be written as {shown(path)}"
            raise UsageError(f"{both}; {advice(taken[key], item)}")
        taken[key] = item
        yield item


def advice_on_names(one: Item, other: Item) -> str:
    """Advise what to do about two inputs whose outputs would have one name.

    Args:
        one: the first of them.
        other: the second.

    Returns:
        A --name that tells them apart, if there is one.
    """
    if one.path.name != other.path.name:
        differ = "{name}"
    elif one.path.absolute().parent.name != other.path.absolute().parent.name:
        differ = "{parent}-{name}"  # not {stem}: other inputs may differ in nothing but their format
    else:
        return "explain them in two runs, with an --output each"
    return f"give them different names, for one with --name '{differ}.{{class_slug}}.{{kind}}.{{ext}}'"


def one_file(path: Path) -> str:
    """Make a text that is equal for all paths of one file: macOS and Windows ignore upper and lower case in names.

    Args:
        path: the path.

    Returns:
        The text.
    """
    ignores_case = sys.platform in ("darwin", "win32")
    return unicodedata.normalize("NFC", str(path)).casefold() if ignores_case else str(path)
