"""Names of output files, and writing them."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import string
import sys
import time
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from coda_cli.errors import MediaError, UsageError
from coda_cli.media.files import TEMPORARY_PREFIX, utf8
from coda_cli.media.sources import RECORD_KEY, Item
from coda_cli.media.stills import read_gif_text, read_png_text
from coda_cli.schema.pictures import Record, from_json

KINDS = {
    "overlay": "png", "heatmap": "png", "panel": "png", "layers": "png", "depth": "gif", "npz": "npz", "json": "json",
}  # fmt: skip
EXTENSIONS = {**KINDS, "compare": "png"}  # what coda compare writes, too
DEFAULT_NAME = "{stem}.{class_slug}.{kind}.{ext}"
FIELDS = ("stem", "name", "suffix", "parent", "class", "class_slug", "index", "model", "kind", "ext")
LONGEST = 200  # bytes of a file name beyond which it is shortened; file systems allow 255
ABANDONED_AFTER = 3600.0  # seconds without a byte written to a temporary file
_NO_CLASS = "\0"  # stands for the class in the name of a record; no file name holds it


@dataclass(frozen=True)
class Naming:
    """The template that names output files, and where they go. ``model`` is the network's name."""

    folder: Path
    model: str
    template: str = DEFAULT_NAME

    def __post_init__(self) -> None:
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
        except (ValueError, TypeError, LookupError) as error:  # a format that is not for texts
            raise UsageError(f"--name {self.template!r}: {error}") from error

    @property
    def tells_classes_apart(self) -> bool:
        """Whether the files about several classes of one input get names of their own."""
        return "{class" in self.template or "{index" in self.template

    def path(self, item: Item, kind: str, class_name: str, class_index: str) -> Path:
        """Where the output ``kind`` about one class of an input goes."""
        return self.folder / item.subfolder / self._render(item, kind, EXTENSIONS[kind], class_name, class_index)

    def record_path(self, item: Item) -> Path:
        """Where the record of an input goes. It is found again before the class is known, so its name has none."""
        name = self._render(item, "coda", "json", _NO_CLASS, _NO_CLASS)
        # A separator goes with the class: "a..coda.json" would be odd. Those of the input's own name stay.
        name = re.sub(rf"^(?:{_NO_CLASS}[ ._-]?)+|[ ._-]?{_NO_CLASS}", "", name)
        return self.folder / item.subfolder / name

    def array_path(self, item: Item) -> Path:
        """Where the arrays of an input go, beside its record."""
        return self.record_path(item).with_suffix(".npz")

    def _render(self, item: Item, kind: str, ext: str, class_name: str, class_index: str) -> str:
        source = Path(utf8(os.path.abspath(item.path)))
        values = {
            "stem": source.stem,
            "name": source.name,
            "suffix": source.suffix.lstrip("."),
            "parent": source.parent.name,
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
        # Too long for a file name: the stem gives way, a hash of the whole name keeps it unique.
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


def slug(text: str) -> str:
    """A class name as part of a file name: lower case, words joined by hyphens."""
    return re.sub(r"[^\w]+", "-", text.casefold()).strip("-_") or "class"


def refuse_collisions(
    items: Sequence[Item], written: Callable[[Item], Path], advice: Callable[[Item, Item], str]
) -> None:
    """Raise UsageError, with ``advice``, when two inputs are ``written`` to one path; before any work."""
    taken: dict[str, Item] = {}
    for item in items:
        path = written(item)
        if (key := one_file(path)) in taken:
            both = f"{taken[key].path} and {item.path} would both be written as {path}"
            raise UsageError(f"{both}; {advice(taken[key], item)}")
        taken[key] = item


def one_file(path: Path) -> str:
    """The same text for all paths that are one file: macOS and Windows do not tell cases apart."""
    blind = sys.platform in ("darwin", "win32")
    return unicodedata.normalize("NFC", str(path)).casefold() if blind else str(path)


def refuse_inputs(path: Path, inputs: Mapping[Path, Item], other: str = "--output or --name") -> None:
    """Raise MediaError when ``path`` is one of the files that are being explained (by resolved path)."""
    if path.resolve() in inputs:
        raise MediaError(f"{path}: is one of the inputs and is not overwritten; choose another {other}")


def prepare(folder: Path) -> None:
    """Make the output folder and see that it can be written; raises UsageError, before any work."""
    import tempfile

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(f"{folder}: cannot write into this folder ({error.strerror or error})") from error


def sweep(*folders: Path) -> None:
    """Remove the temporary files of runs that were killed. A fresh one may belong to a run that is writing it now."""
    ends = (".part", ".part.spool")  # the second is of a clip, of which the first may be a folder, too
    for path in (p for folder in folders for end in ends for p in folder.glob(f"{TEMPORARY_PREFIX}*{end}")):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime <= ABANDONED_AFTER:
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def withdraw(record: Path) -> None:
    """Remove a record whose files are about to be replaced: its being there says that they are whole."""
    try:
        record.unlink(missing_ok=True)
    except OSError as error:
        raise MediaError(f"{record}: cannot be replaced ({error.strerror or error})") from error


def stored_record(path: Path) -> Record | None:
    """The record that an output file holds, be it JSON, PNG, GIF or npz; None when it holds none of this version."""
    try:
        if path.suffix == ".png":
            return from_json(read_png_text(path, RECORD_KEY) or "")
        if path.suffix == ".gif":
            return from_json(read_gif_text(path) or "")
        if path.suffix == ".npz":  # opened here: numpy would leave a broken one open
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as content:
                return from_json(str(content["record"]))
        return from_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error):
        return None


def free_neighbour(path: Path) -> Path:
    """``path`` when nothing is there, else the first of ``name-2``, ``name-3``, ... that is free."""
    candidate, n = path, 2
    while candidate.exists():
        candidate = path.with_name(f"{path.stem}-{n}{path.suffix}")
        n += 1
    return candidate
