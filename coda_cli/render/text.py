"""Text in pictures, in the letters of any language: OpenCV's built-in fonts have them, Pillow's has only ASCII."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from coda_cli.opencv import cv2

_FONT = "sans"
_WEIGHT = 400
_free: list[cv2.FontFace] = []  # font faces that no thread uses just now; to unpack the font takes 30 ms


@contextmanager
def _face() -> Iterator[cv2.FontFace]:
    """A font face for the length of a block: one may not be used by two threads at a time."""
    try:
        face = _free.pop()
    except IndexError:
        face = cv2.FontFace(_FONT)
    try:
        yield face
    finally:
        _free.append(face)


@lru_cache(4096)  # the captions of a run have most words in common
def width(text: str, size: int) -> int:
    """Measure a line of text.

    Args:
        text: one line.
        size: of the letters, in pixels.

    Returns:
        Its width in pixels.
    """
    if not text:
        return 0
    with _face() as face:
        return int(cv2.getTextSize((0, 0), text, (0, 0), face, size, _WEIGHT)[2])


def draw(picture: NDArray[np.uint8], text: str, at: tuple[int, int], size: int, ink: tuple[int, int, int]) -> None:
    """Write a line of text into a picture.

    Args:
        picture: uint8 [H, W, 3] sRGB, which is changed.
        text: one line.
        at: (x, y) in pixels of its left end and of the top of its tallest letters.
        size: of the letters, in pixels.
        ink: red, green and blue, 0 to 255.
    """
    x, y = at
    with _face() as face:
        cv2.putText(picture, text, (x, y + ascent(size)), ink, face, size, _WEIGHT)


def ascent(size: int) -> int:
    """Say how high the tallest letters reach above the line that they stand on.

    Args:
        size: of the letters, in pixels.

    Returns:
        Pixels.
    """
    return math.ceil(size * 0.8)


def wrapped(text: str, size: int, limit: int) -> list[str]:
    """Break text into lines between words; a word that is longer than a line is cut and ends in an ellipsis.

    Args:
        text: the text; its own line breaks count as spaces.
        size: of the letters, in pixels.
        limit: the longest a line may be, in pixels.

    Returns:
        The lines; none for an empty text.
    """
    words = text.split()
    if width(whole := " ".join(words), size) <= limit:  # most texts are one line, and measuring takes time
        return [whole] if words else []
    lines, line = [], ""
    for word in words:
        while width(word, size) > limit and len(word) > 2:
            word = word[:-2].rstrip("…") + "…"
        longer = f"{line} {word}".strip()
        if line and width(longer, size) > limit:
            lines.append(line)
            line = word
        else:
            line = longer
    return [*lines, line] if line else lines
