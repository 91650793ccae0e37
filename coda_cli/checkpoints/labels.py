"""From what a person writes for a class to its index: an index, a WordNet id, a name, a synonym or a part of one."""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Callable, Mapping

from coda_cli.checkpoints.manifest import Checkpoint, KnownCheckpoint
from coda_cli.errors import UsageError


def resolve_class(text: str, checkpoint: Checkpoint, others: Mapping[str, KnownCheckpoint] | None = None) -> int:
    """Find the class of a network that a text names.

    These are tried in turn: index or WordNet id, exact name, exact synonym, unique beginning, unique whole words. Upper
    case, ``_``, hyphens and repeated spaces do not matter. A slip is never silently corrected.

    Args:
        text: what a person wrote; "name:7" asks for a class whose name is a number.
        checkpoint: the network's description.
        others: further networks; a message names one of them that has the class.

    Returns:
        The index of the class.

    Raises:
        UsageError: the index is out of range, or the name fits several classes, or none; the message has suggestions.
    """
    index = _find(text, checkpoint)
    if index is None:
        raise UsageError(_unknown(text, checkpoint, others or {}))
    return index


def class_of_folder(name: str, checkpoint: Checkpoint) -> int | None:
    """Find the class that a folder of labelled pictures is named after.

    Args:
        name: of the folder.
        checkpoint: the network's description.

    Returns:
        The index of the class with this WordNet id or whole name, or else synonym; None where there is none, or where
        there are several.
    """
    wanted = _folded(name)
    if checkpoint.wnids and wanted in checkpoint.wnids:
        return checkpoint.wnids.index(wanted)
    own = [{_folded(text)} for text in checkpoint.classes]
    others = [{_folded(text) for text in group} for group in checkpoint.synonyms or ()]
    for names in (own, others):
        if found := [i for i, group in enumerate(names) if wanted in group]:
            return found[0] if len(found) == 1 else None
    return None


def _find(text: str, checkpoint: Checkpoint) -> int | None:
    """The class that ``text`` names, None where it names none. Raises UsageError where it could be several."""
    wanted = _folded(text.removeprefix("name:"))
    if re.fullmatch(r"-?\d+", text.strip()):
        index = int(text)
        if not 0 <= index < len(checkpoint.classes):
            raise UsageError(
                f"class {index} is out of range: {checkpoint.name!r} has classes 0..{len(checkpoint.classes) - 1}"
            )
        return index
    if not wanted:
        return None
    if checkpoint.wnids and wanted in checkpoint.wnids:
        return checkpoint.wnids.index(wanted)
    exact = text.removeprefix("name:").strip()
    if checkpoint.classes.count(exact) == 1:
        return checkpoint.classes.index(exact)
    return _find_by_words(text, wanted, checkpoint)


def _find_by_words(text: str, wanted: str, checkpoint: Checkpoint) -> int | None:
    """The class with a name or synonym that ``wanted`` fits; whole names come first, then beginnings, then words."""
    names = [[_folded(name)] for name in checkpoint.classes]
    synonyms = [[_folded(s) for s in group] for group in checkpoint.synonyms or [()] * len(names)]
    everything = [name + more for name, more in zip(names, synonyms, strict=True)]
    words = re.compile(rf"(?<!\w){re.escape(wanted)}(?!\w)")
    tests: tuple[tuple[list[list[str]], Callable[[str], bool]], ...] = (
        (names, lambda s: s == wanted),
        (synonyms, lambda s: s == wanted),
        (everything, lambda s: s.startswith(wanted)),
        (everything, lambda s: bool(words.search(s))),
    )
    for groups, fits in tests:
        found = [i for i, group in enumerate(groups) if any(map(fits, group))]
        if len(found) == 1:
            return found[0]
        if found:
            candidates = ", ".join(_as_found(i, groups[i], fits, checkpoint) for i in found[:8])
            more = f" and {len(found) - 8} more" if len(found) > 8 else ""
            raise UsageError(
                f"{text!r} fits {len(found)} classes of {checkpoint.name!r}: {candidates}{more}; use an index"
            )
    return None


def _named_in(text: str, checkpoint: Checkpoint) -> list[str]:
    """The names of the classes that the parts of a text with commas ask for."""
    found = []
    for part in text.split(","):
        with contextlib.suppress(UsageError):
            if (index := _find(part, checkpoint)) is not None:
                found.append(checkpoint.classes[index])
    return list(dict.fromkeys(found))


def _as_found(i: int, group: list[str], fits: Callable[[str], bool], checkpoint: Checkpoint) -> str:
    """A class by index and name, and the synonym by which it was found, if it was one."""
    name = checkpoint.classes[i]
    other = "" if fits(_folded(name)) else next((f", {s}" for s in group if fits(s)), "")
    return f"{i} ({name}{other})"


def _unknown(text: str, checkpoint: Checkpoint, others: Mapping[str, KnownCheckpoint]) -> str:
    """The message about a name that no class has, with all the help that can be given."""
    message = f"{checkpoint.name!r} has no class {text!r}"
    names = {_folded(name): name for name in checkpoint.classes}
    for name, group in zip(checkpoint.classes, checkpoint.synonyms or (), strict=False):
        names.update({_folded(s): name for s in group})
    close = difflib.get_close_matches(_folded(text), names, n=3)
    meant = list(dict.fromkeys(names[c] for c in close))
    parts = _named_in(text, checkpoint) if "," in text else []  # "tench, Tinca tinca", or two classes
    if len(parts) > 1:
        hints = ["several are asked for by repeating the option"]
    elif parts or meant:
        hints = [f"did you mean {' or '.join(map(repr, parts or meant))}?"]
    else:
        hints = [f"its classes are: {', '.join(checkpoint.classes)}"] if len(names) <= 20 else []
    hints += _network_that_has(text, others)
    if hints:
        return f"{message}; {'; '.join(hints).replace('?; ', '? ')}"
    return f"{message}; coda models show {checkpoint.name} lists its {len(checkpoint.classes)} classes"


def _network_that_has(text: str, others: Mapping[str, KnownCheckpoint]) -> list[str]:
    """A hint at the first network where ``text`` names one class, if there is one."""
    for known in others.values():
        name = known.checkpoint.name
        try:
            if _find(text, known.checkpoint) is None:
                continue
        except UsageError:
            continue
        get = "" if known.here else f" (get it with: coda models pull {name})"
        return [f"{name!r} has: add --model {name}{get}"]
    return []


def _folded(text: str) -> str:
    """The text in lower case, with single spaces for hyphens, underscores and runs of spaces."""
    return re.sub(r"[\s_]+|(?<=\w)-+(?=\w)", " ", text).strip().casefold()  # a minus before a number is its sign
