"""Lists of class names, as users and their programs write them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from coda_cli.checkpoints.class_names import class_data, name_of_wnid
from coda_cli.checkpoints.descriptions import read_json
from coda_cli.checkpoints.headers import MAX_HEADER, odd_name
from coda_cli.errors import UsageError

_KEYS = ("classes", "class_names", "class_to_idx", "idx_to_class", "id2label", "label2id")
_AROUND = ("hyper_parameters", "hparams", "config", "args", "meta")  # entries of trainers' files
_IMAGENET = 1000

FORMS = "a name on each line, a JSON list or dictionary (class_to_idx, idx_to_class), or a folder of one folder a class"


def names_in(content: object) -> tuple[str, ...] | None:
    """Find the names of classes in what a trainer's file holds.

    Args:
        content: the file's content, of which nothing but plain dictionaries, lists and texts is looked at.

    Returns:
        The names in the order of the logits, or None.
    """
    if not isinstance(content, dict):
        return None
    for place in (content, *(content.get(key) for key in _AROUND)):
        if not isinstance(place, dict):
            continue
        for key in _KEYS:
            if names := _names(place.get(key)):
                return names
    return None


def _names(value: object) -> tuple[str, ...] | None:
    """The names in a list, or in a dictionary of names and places in either direction; None where it is neither."""
    if isinstance(value, dict):
        pairs = [(place, name) if isinstance(name, str) else (name, place) for place, name in value.items()]
        by_place = {str(place): name for place, name in pairs if isinstance(place, str | int)}
        places = list(map(str, range(len(value))))
        value = [by_place[place] for place in places] if by_place.keys() == set(places) else None
    if not isinstance(value, list | tuple) or not value:
        return None
    names = tuple(name for name in value if isinstance(name, str) and not odd_name(name))
    return tuple(map(name_of_wnid, names)) if len(names) == len(value) else None


def read_class_names(given: Sequence[str] | str | Path) -> tuple[str, ...]:
    """Read the names of classes that a user gives.

    Args:
        given: the names, a file of them, or a folder with a folder for each class, in the order of their names as
            torchvision's ImageFolder has it. Where that folder has a folder ``train``, it is the one that counts.

    Returns:
        The names in the order of the logits; WordNet ids of ImageNet's classes become names.

    Raises:
        UsageError: there is no such file or folder, or it holds no names.
    """
    if not isinstance(given, str | Path):
        names = _names(list(given))
        if names is None:
            raise UsageError("classes: expected a list of names, each of printable characters")
        return names
    path = Path(given)
    try:
        if path.is_dir():
            root = path / "train" if (path / "train").is_dir() else path
            found: object = sorted(entry.name for entry in root.iterdir() if entry.is_dir())
        else:
            if path.stat().st_size > MAX_HEADER:
                raise UsageError(f"--classes {path}: too large for a list of names; the limit is {MAX_HEADER} bytes")
            found = _listed(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UsageError(f"--classes {path}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:  # of JSON, and of bytes that are no text
        raise UsageError(f"--classes {path}: no list of names ({error}); expected {FORMS}") from error
    names = _names(found) or names_in(found)
    if names is None:
        raise UsageError(f"--classes {path}: no list of names; expected {FORMS}")
    return names


def _listed(text: str) -> object:
    """What a text file holds: JSON, or a name on each line. Raises ValueError."""
    if text.lstrip()[:1] in ("[", "{"):
        return read_json(text)
    return [line.strip() for line in text.splitlines() if line.strip()]


def unnamed(count: int) -> tuple[tuple[str, ...], str]:
    """Name classes that nobody named.

    Args:
        count: how many there are.

    Returns:
        The names, and a sentence that says where they come from.
    """
    if count == _IMAGENET:
        return tuple(entry["name"] for entry in class_data()["imagenet"]), "1000 outputs: the classes of ImageNet"
    last = f"class {count - 1}"
    return tuple(f"class {n}" for n in range(count)), (
        f"nothing names its classes: they are called class 0 to {last}; --classes FILE names them"
    )
