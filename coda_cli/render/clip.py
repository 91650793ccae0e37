"""Frames of an explained clip: pictures in rows, and below them the classes' logits over time."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coda_cli.opencv import cv2
from coda_cli.render import text
from coda_cli.render.overlay import INK, PAPER, QUIET_INK

Picture = NDArray[np.uint8]

# The first is the red of positive evidence. People with any common form of colour blindness can tell the first five
# apart.
CURVE_COLOURS = ((205, 42, 48), (33, 96, 190), (30, 130, 90), (150, 90, 190), (200, 130, 20),
         (70, 175, 215), (120, 75, 50), (225, 115, 165), (125, 150, 30), (100, 100, 108))  # fmt: skip
GAP = 8  # pixels between two pictures
IN_A_ROW = 4  # pictures in a row, unless there are so many that a square of them is wider


@dataclass(frozen=True)
class Curve:
    """A class's logits over time, the difference of two classes' logits, or an activation.

    Attributes:
        name: of the class, of both classes, or of the neuron.
        times: float64 [n], seconds, rising.
        values: float64 [n], logits or activations; NaN where there is none.
        difference: whether the values are differences.
        what: the words before the name, where the values are no differences.
    """

    name: str
    times: NDArray[np.float64]
    values: NDArray[np.float64]
    difference: bool = False
    what: str = "logit of"


@dataclass(frozen=True)
class Tile:
    """One of the pictures of a sheet.

    Attributes:
        picture: uint8 [h, w, 3] sRGB.
        label: the words below it.
        curve: name of the curve whose colour the words have; "" for none.
    """

    picture: Picture
    label: str = ""
    curve: str = ""


def places(count: int) -> tuple[int, int]:
    """Choose how the pictures of a sheet are arranged.

    Args:
        count: number of pictures.

    Returns:
        How many stand in a row, and how many rows there are.
    """
    across = min(count, max(IN_A_ROW, math.isqrt(count - 1) + 1))
    return across, -(-count // across)


class Sheet:
    """What all frames of a clip share: where the pictures stand, and the strip with its axes and curves.

    Attributes:
        size: (width, height) of each picture in pixels.
        unit: size of the letters in pixels.
        shape: (height, width) of every frame in pixels, both even, as video formats demand.
    """

    def __init__(self, labels: Sequence[str], size: tuple[int, int], curves: Sequence[Curve], note: str) -> None:
        """Arrange the pictures, and draw the axes and curves.

        Args:
            labels: for each picture, the widest words that can stand below it; every frame has room for them.
            size: (width, height) of each picture in pixels.
            curves: what the strip shows over time; without them there is no strip.
            note: the widest text that can stand below the pictures.
        """
        self.size = size
        width, height = size
        self.unit = int(np.clip(min(size) / 22, 12, 26))
        self._across, rows = places(len(labels))
        total = self._across * width + (self._across - 1) * GAP
        total += total % 2
        self._pad, self._line = self.unit // 2, round(self.unit * 1.35)
        self._label_lines = max(len(self._wrapped(label, width)) for label in labels)
        self._note_lines = len(self._wrapped(note, total))
        self._row = height + self._line * self._label_lines + round(self.unit * 0.4)
        self._words_top = rows * self._row
        words = self._words_top + self._line * self._note_lines
        plot = round(self.unit * 4.2) + self._small if curves else 0
        full = words + plot
        self.shape = (full + full % 2, total)
        self._plot_top, self._plot_height = words + self._small, plot - self._small
        self._paper = np.full((*self.shape, 3), PAPER, np.uint8)
        self._curves = list(curves)
        several = zip(curves, itertools.cycle(CURVE_COLOURS), strict=False) if len(curves) > 1 else ()
        self._colours = {curve.name: colour for curve, colour in several}  # of the labels
        if curves:
            self._range, self._span = self._ranges()
            self._draw_axis()
            self._draw_curves()
            self._draw_names_of_curves()

    def frame(self, tiles: Sequence[Tile], time: float, note: str, warning: str = "") -> Picture:
        """Draw one frame.

        Args:
            tiles: the pictures, as many as there were labels at most.
            time: seconds; a line in the strip marks it.
            note: the text below the pictures.
            warning: written in front of the note; both are red then.

        Returns:
            uint8 [H, W, 3] sRGB.
        """
        sheet = self._paper.copy()
        width, height = self.size
        for n, tile in enumerate(tiles):
            y, x = n // self._across * self._row, n % self._across * (width + GAP)
            sheet[y : y + height, x : x + width] = tile.picture
            lines = self._wrapped(tile.label, width)[: self._label_lines]
            corner = x + (self._pad if x == 0 else 0), y + height
            self._write(sheet, lines, corner, self._colours.get(tile.curve, INK))
        y = self._words_top - round(self.unit * 0.4)
        words = self._wrapped(f"{warning} · {note}" if warning else note, self.shape[1])[: self._note_lines]
        self._write(sheet, words, (self._pad, y), CURVE_COLOURS[0] if warning else QUIET_INK)
        if self._curves:
            at = self._x(time)
            bottom = self._plot_top + self._plot_height - 1
            cv2.line(sheet, (at, self._plot_top), (at, bottom), INK, 1, cv2.LINE_AA)
            for curve, colour in zip(self._curves, itertools.cycle(CURVE_COLOURS), strict=False):
                value = np.interp(time, curve.times, curve.values)
                if np.isfinite(value):
                    cv2.circle(sheet, (at, self._y(float(value))), max(3, self.unit // 5), colour, -1, cv2.LINE_AA)
        return sheet

    def _wrapped(self, words: str, width: int) -> list[str]:
        """The lines of a text at the sheet's size of letters."""
        return text.wrapped(words, self.unit, width - self._pad)

    def _write(self, sheet: Picture, lines: Sequence[str], at: tuple[int, int], ink: tuple[int, int, int]) -> None:
        """Write lines below each other."""
        for i, line in enumerate(lines):
            text.draw(sheet, line, (at[0], at[1] + round(self.unit * 0.4) + i * self._line), self.unit, ink)

    def _ranges(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """The lowest and highest logit of the strip, and its first and last moment."""
        low, high = self._lowest_and_highest()
        room = 0.08 * (high - low) or 1.0
        times = np.concatenate([c.times for c in self._curves])
        first = float(times.min())
        return (low - room, high + room), (first, max(float(times.max()), first + 1e-9))

    def _lowest_and_highest(self) -> tuple[float, float]:
        """The lowest and highest logit of the curves; 0, where the probability is a half, is always between them."""
        values = np.concatenate([c.values for c in self._curves])
        finite = values[np.isfinite(values)]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
        return min(low, 0.0), max(high, 0.0)

    def _draw_axis(self) -> None:
        """Draw the line of logit 0, and write the lowest and highest logit where there is room."""
        low, high = self._lowest_and_highest()
        span = high - low
        digits = 0 if span >= 2 else 1 if span >= 0.2 or not span else 1 - math.floor(math.log10(span))
        ends = [f"{end:.{digits}f}".replace("-", "−") for end in (high, low)]
        self._left = self.unit + max(text.width(label, self._small) for label in (*ends, "0"))
        zero = self._y(0.0)
        cv2.line(self._paper, (self._left, zero), (self.shape[1] - 1, zero), (200, 200, 206), 1)
        text.draw(self._paper, "0", (self.unit // 2, zero - text.ascent(self._small) // 2), self._small, QUIET_INK)
        letters = text.ascent(self._small)
        top, bottom = self._y(high), self._y(low)
        if zero - top > letters * 1.5:
            text.draw(self._paper, ends[0], (self.unit // 2, top), self._small, QUIET_INK)
        if bottom - zero > letters * 1.5:
            text.draw(self._paper, ends[1], (self.unit // 2, bottom - letters), self._small, QUIET_INK)

    def _draw_curves(self) -> None:
        """Draw the curves, the first one last, so that it lies above the others."""
        for curve, colour in reversed(list(zip(self._curves, itertools.cycle(CURVE_COLOURS), strict=False))):
            known = np.isfinite(curve.values)
            points = [(self._x(t), self._y(v)) for t, v in zip(curve.times[known], curve.values[known], strict=True)]
            if points:
                cv2.polylines(self._paper, [np.array(points, np.int32)], False, colour, 2, cv2.LINE_AA)

    def _draw_names_of_curves(self) -> None:
        """Write the curves' names above the strip, in their colours, as many as there is room for."""
        x = self._left + self.unit // 2
        for curve, colour in zip(self._curves, itertools.cycle(CURVE_COLOURS), strict=False):
            what = "difference of logits" if curve.difference else curve.what
            label = f"{what} {curve.name}" if len(self._curves) == 1 else curve.name
            if x + text.width(label, self._small) > self.shape[1]:
                break
            text.draw(self._paper, label, (x, self._plot_top - self._small), self._small, colour)
            x += text.width(label, self._small) + self.unit

    @property
    def _small(self) -> int:
        """Size of the strip's letters in pixels."""
        return max(10, round(self.unit * 0.75))

    def _x(self, time: float) -> int:
        """The column of a moment in the strip."""
        first, last = self._span
        share = min(1.0, max(0.0, (time - first) / (last - first)))
        return round(self._left + share * (self.shape[1] - 1 - self._left - self.unit // 2))

    def _y(self, value: float) -> int:
        """The row of a logit in the strip."""
        low, high = self._range
        inner = self._plot_height - self.unit // 2
        return round(self._plot_top + (high - value) / (high - low) * (inner - 1))


def resized(picture: Picture, size: tuple[int, int]) -> Picture:
    """Scale a picture for drawing.

    Args:
        picture: uint8 [H, W, 3] sRGB.
        size: (width, height) in pixels.

    Returns:
        uint8 [height, width, 3] sRGB.
    """
    if size == (picture.shape[1], picture.shape[0]):
        return picture
    how = cv2.INTER_AREA if size[1] < picture.shape[0] else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(picture, size, interpolation=how), np.uint8)


def marked(picture: Picture, at: tuple[float, float]) -> Picture:
    """Draw a ring around a point, such as the centroid of the positive evidence.

    Args:
        picture: uint8 [H, W, 3] sRGB.
        at: (x, y) in pixels.

    Returns:
        A copy with the ring, uint8 [H, W, 3] sRGB.
    """
    result = picture.copy()
    radius = max(4, min(picture.shape[:2]) // 40)
    centre = (round(at[0]), round(at[1]))
    cv2.circle(result, centre, radius + 1, (255, 255, 255), 3, cv2.LINE_AA)
    cv2.circle(result, centre, radius, (20, 20, 20), 2, cv2.LINE_AA)
    return result
