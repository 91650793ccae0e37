"""What descriptions of networks may hold: they come with files of others, and are checked before anything is built."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any, TypeVar

from coda_cli.checkpoints.headers import MAX_NAME, has_odd_characters, odd_name

MAX_TEXT = 20_000  # characters of a licence, or of what is said of the training
MAX_NESTING = 10
MAX_ENTRIES = 10_000  # of a list or dictionary

Value = TypeVar("Value")


def read_json(text: str) -> object:
    """Read JSON in which every number is finite.

    Args:
        text: the JSON.

    Returns:
        What it holds.

    Raises:
        ValueError: it is no JSON, or nested too deeply.
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


def short_text(path: Path) -> str | None:
    """Read a small file that coda keeps beside a download.

    Args:
        path: of the file.

    Returns:
        At most its first 1000 bytes as text; None where it is no file, or lies in a folder that cannot be read.
    """
    if not os.path.isfile(path):
        return None
    with path.open("rb") as stream:
        return stream.read(1000).decode(errors="replace")


def plain_name(text: str) -> str:
    """Check a name, such as that of a class: it is printed, drawn, and put into names of files.

    Args:
        text: the name.

    Returns:
        The name.

    Raises:
        ValueError: it is empty, too long, or has characters that cannot be shown.
    """
    if odd_name(text):
        raise ValueError(f"expected a name of 1 to {MAX_NAME} characters without control characters")
    return text


def plain_data(value: Value) -> Value:
    """Check data without a fixed form: arguments, and what is said of the training.

    Args:
        value: dictionaries, lists, texts, numbers.

    Returns:
        The value.

    Raises:
        ValueError: it is nested too deeply, too long, or holds numbers or characters that cannot be shown.
    """
    _check(value, 0)
    return value


def _check(value: Any, depth: int) -> None:
    if depth > MAX_NESTING:
        raise ValueError("nested too deeply")
    if isinstance(value, dict | list | tuple):
        if len(value) > MAX_ENTRIES:
            raise ValueError(f"more than {MAX_ENTRIES} entries")
        for item in value.values() if isinstance(value, dict) else value:
            _check(item, depth + 1)
        if isinstance(value, dict) and any(odd_name(str(key)) for key in value):
            raise ValueError("a key is no name")
    elif isinstance(value, str):
        if len(value) > MAX_TEXT or has_odd_characters(value.replace("\n", "").replace("\t", "")):
            raise ValueError("a text is too long, or has characters that cannot be shown")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError("a number is not finite")
    elif isinstance(value, int) and abs(value) >= 1 << 63:
        raise ValueError("a number is too large")
