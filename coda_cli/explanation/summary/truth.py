"""What pictures are known to show: by the folders that they lie in, or by a file of labels."""

from __future__ import annotations

import contextlib
import csv
import io
import re
from collections import defaultdict
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from coda_cli.checkpoints import manifest
from coda_cli.errors import CodaError, MediaError, UsageError
from coda_cli.explanation.summary.rows import Key
from coda_cli.machine import budget
from coda_cli.media.files import read_whole
from coda_cli.schema.parts import ClassPart, Network
from coda_cli.vocabulary import LabelSource

MOST_CLASSES = 50_000  # different ones in all records; the largest networks in use have 22,000


class Classes:
    """The classes that records show: those that they explain or have at the top, and all of a network coda knows.

    Attributes:
        wnids: WordNet ids by index and name; None where a class has none.
    """

    def __init__(self) -> None:
        self.wnids: dict[Key, str | None] = {}
        self._synonyms: dict[Key, tuple[str, ...]] = {}
        self._networks: set[str] = set()

    def add(self, parts: Iterable[ClassPart], network: Network) -> None:
        """Remember the classes of one record.

        Args:
            parts: that it names.
            network: that has them.

        Raises:
            UsageError: there are too many.
        """
        for part in parts:
            self.wnids.setdefault((part.index, part.name), part.wnid)
        if len(self.wnids) > MOST_CLASSES:
            raise UsageError(f"the records name more than {MOST_CLASSES} classes; summarise fewer networks together")
        if network.sha256 not in self._networks:
            self._networks.add(network.sha256)
            self._add_all_of(network)

    def _add_all_of(self, network: Network) -> None:
        """Remember all classes of a network that coda knows: one that is never at the top can be a label, too."""
        with contextlib.suppress(CodaError):
            entry = manifest.known().get(network.name)
            if entry and network.classes in (None, len(entry.checkpoint.classes)) and entry.sha256 == network.sha256:
                classes = entry.checkpoint.classes
                wnids = entry.checkpoint.wnids or [None] * len(classes)
                synonyms = entry.checkpoint.synonyms or [()] * len(classes)
                for index, (name, wnid, more) in enumerate(zip(classes, wnids, synonyms, strict=True)):
                    self.wnids.setdefault((index, name), wnid)
                    self._synonyms[index, name] = tuple(more)

    def title(self, key: Key) -> str:
        """Name a class so that no other has the same name.

        Args:
            key: its index and name.

        Returns:
            Its name, with its index where another class has this name.
        """
        return f"{key[1]} ({key[0]})" if len(self._by_name[key[1]]) > 1 else key[1]

    def find(self, text: str, *, by_index: bool) -> frozenset[Key]:
        """Find the classes that a label means: by name, WordNet id, name with other punctuation and case, or synonym.

        Synonyms are known of networks that coda knows.

        Args:
            text: the label.
            by_index: whether it may be an index, if it is nothing else.

        Returns:
            The classes, several where they have one name; none where no class fits.
        """
        ways = [(self._by_name, text), (self._by_wnid, text), (self._by_words, _words(text))]
        ways += [(self._by_synonym, _words(text))]
        ways += [(self._by_index, text)] if by_index else []
        return next((frozenset(way[name]) for way, name in ways if name in way), frozenset())

    @cached_property
    def _by_name(self) -> dict[str, set[Key]]:
        return _grouped((key[1], key) for key in self.wnids)

    @cached_property
    def _by_wnid(self) -> dict[str, set[Key]]:
        return _grouped((wnid, key) for key, wnid in self.wnids.items() if wnid)

    @cached_property
    def _by_words(self) -> dict[str, set[Key]]:
        return _grouped((words, key) for key in self.wnids if (words := _words(key[1])))

    @cached_property
    def _by_synonym(self) -> dict[str, set[Key]]:
        pairs = ((_words(synonym), key) for key, synonyms in self._synonyms.items() for synonym in synonyms)
        return _grouped((words, key) for words, key in pairs if words)

    @cached_property
    def _by_index(self) -> dict[str, set[Key]]:
        return _grouped((str(key[0]), key) for key in self.wnids)


def _grouped(pairs: Iterable[tuple[str, Key]]) -> dict[str, set[Key]]:
    """Classes by what names them."""
    found: dict[str, set[Key]] = defaultdict(set)
    for name, key in pairs:
        found[name].add(key)
    return dict(found)


def _words(text: str) -> str:
    """The words of a name, as ``naming.slug`` joins them too: golf-ball, golf_ball and "Golf ball" have the same."""
    return re.sub(r"[\W_]+", " ", text.casefold()).strip()


class Label(NamedTuple):
    """What a picture is known to show.

    Attributes:
        title: the class's title, or the label as it was given.
        keys: the classes that are right.
    """

    title: str
    keys: frozenset[Key]


class Truth:
    """Says what each picture is known to show.

    Args:
        classes: of all records; complete before the first question.
        given: labels by path; None takes the names of folders, as far as they are classes.
        folders: whether folders count.
    """

    def __init__(self, classes: Classes, given: dict[str, str] | None, *, folders: bool) -> None:
        self._classes, self._given, self._folders = classes, given, folders
        self._labels: dict[str, Label | None] = {}

    @property
    def source(self) -> LabelSource:
        """Where the labels are from."""
        return "file" if self._given is not None else "folders" if self._folders else "none"

    def of(self, path: str) -> Label | None:
        """Say what a picture is known to show.

        Args:
            path: as its record has it.

        Returns:
            Its label; None where it is not known. A label from a file that fits no class is right for none.
        """
        if self._given is not None:
            text = _longest_end(path, self._given)
        else:
            text = folder_of(path) if self._folders else None
        if text is None:
            return None
        if text not in self._labels:
            if len(self._labels) == MOST_CLASSES:  # folders are not counted, and memory stays bounded
                self._labels.clear()
            self._labels[text] = self._label(text)
        return self._labels[text]

    def _label(self, text: str) -> Label | None:
        """What a label means."""
        keys = self._classes.find(text, by_index=self._given is not None)
        if not keys:
            return None if self._given is None else Label(text, keys)
        return Label(self._classes.title(next(iter(keys))) if len(keys) == 1 else text, keys)


def folder_of(path: str) -> str | None:
    """Name the folder that a picture lies in.

    Args:
        path: of the picture.

    Returns:
        The folder's name; None where the path has none.
    """
    return PurePosixPath(path).parent.name or None


def _longest_end(path: str, given: dict[str, str]) -> str | None:
    """The label of the longest end of a path that a file of labels names."""
    parts = PurePosixPath(path).parts
    ends = ("/".join(parts[n:]) for n in range(len(parts)))
    return next((given[end] for end in (path, *ends) if end in given), None)


def read_labels(path: Path) -> dict[str, str]:
    """Read a file of labels: a line for each picture with its path and its class; the first may be their headings.

    Args:
        path: a CSV file.

    Returns:
        The labels by path.

    Raises:
        UsageError: it cannot be read, or holds something else.
    """
    try:
        content = read_whole(path, budget.ANNOTATIONS_FILE).decode("utf-8-sig")
        rows = list(csv.reader(io.StringIO(content, newline=""), strict=True))
    except (MediaError, UnicodeDecodeError, csv.Error) as error:
        said = error.message if isinstance(error, MediaError) else f"is no CSV file ({error})"
        raise UsageError(f"--labels: {said}", item=path) from error
    labels: dict[str, str] = {}
    for number, cells in enumerate(rows, 1):
        texts = [cell.strip() for cell in cells]
        if not any(texts) or (number == 1 and [text.casefold() for text in texts] == ["path", "label"]):
            continue
        if len(texts) != 2 or not all(texts):
            raise UsageError(f"--labels: line {number} is not path,label", item=path)
        name = PurePosixPath(texts[0]).as_posix()
        if labels.setdefault(name, texts[1]) != texts[1]:
            raise UsageError(f"--labels: has two labels for {name}", item=path)
    return labels
