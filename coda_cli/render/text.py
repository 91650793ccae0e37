"""Text in pictures, in the letters of any language: OpenCV's built-in fonts have the characters, Pillow's has ASCII."""

from __future__ import annotations

import math
import threading

import cv2
import numpy as np
from numpy.typing import NDArray

_FONT = "sans"
_WEIGHT = 400
_state = threading.local()  # a font face is used by one thread at a time


def _face() -> cv2.FontFace:
    if not hasattr(_state, "face"):
        _state.face = cv2.FontFace(_FONT)
    return _state.face  # type: ignore[no-any-return]


def width(text: str, size: int) -> int:
    """Width in pixels of one line of ``text`` at a letter size of ``size`` pixels."""
    return int(cv2.getTextSize((0, 0), text, (0, 0), _face(), size, _WEIGHT)[2]) if text else 0


def draw(picture: NDArray[np.uint8], text: str, at: tuple[int, int], size: int, ink: tuple[int, int, int]) -> None:
    """Write one line of ``text`` into ``picture`` uint8 [H, W, 3]; its tallest letters begin ``at`` (x, y)."""
    x, y = at
    cv2.putText(picture, text, (x, y + ascent(size)), ink, _face(), size, _WEIGHT)


def ascent(size: int) -> int:
    """Height in pixels of the tallest letters above the line they stand on, at ``size``."""
    return math.ceil(size * 0.8)


def wrapped(text: str, size: int, limit: int) -> list[str]:
    """Lines of at most ``limit`` pixels, broken between words; a word that is too long is cut with an ellipsis."""
    words = text.split()
    if width(whole := " ".join(words), size) <= limit:  # as most are; every question costs
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
