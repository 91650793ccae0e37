"""Names, WordNet ids and synonyms of the classes of ImageNet and CIFAR-10."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any


def name_of_wnid(text: str) -> str:
    """Translate the WordNet id of an ImageNet class.

    Args:
        text: a WordNet id, or anything else.

    Returns:
        The name of the class; ``text`` itself where it is no WordNet id that coda knows.
    """
    return next((entry["name"] for entry in _imagenet_classes() if entry["wnid"] == text), text)


def wnids_and_synonyms(
    classes: tuple[str, ...],
) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]] | tuple[None, None]:
    """Find WordNet ids and synonyms of classes.

    Args:
        classes: their names.

    Returns:
        The ids, and the synonyms of each; (None, None) unless every name is that of an ImageNet class.
    """
    entries = {entry["name"]: entry for entry in _imagenet_classes()}
    if not set(classes) <= set(entries):
        return None, None
    found = [entries[name] for name in classes]
    return tuple(e["wnid"] for e in found), tuple(tuple(e["synonyms"]) for e in found)


def _imagenet_classes() -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = class_data()["imagenet"]
    return entries


@cache
def class_data() -> dict[str, Any]:
    """Read the class names of data sets.

    Returns:
        Under "cifar10" and "imagenet" the classes in order, each with its "name". ImageNet's also have a "wnid" and the
        "synonyms" of its synset (WordNet 3.0).
    """
    data: dict[str, Any] = json.loads(Path(__file__).with_name("classes.json").read_text(encoding="utf-8"))
    return data
