"""Frames of an explained clip: pictures in a row, the classes' logits over time below. Arrays in, arrays out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from coda_cli.render import text
from coda_cli.render.overlay import INK, PAPER, QUIET_INK

Picture = NDArray[np.uint8]

# Told apart by all common forms of colour blindness; the first is the red of positive evidence.
LINES = ((205, 42, 48), (33, 96, 190), (30, 130, 90), (150, 90, 190), (200, 130, 20))
GAP = 8  # pixels between pictures


@dataclass(frozen=True)
class Curve:
    """A class's logits over time: ``times`` [n] in seconds, rising, and ``values`` [n]; NaN where there is none."""

    name: str
    times: NDArray[np.float64]
    values: NDArray[np.float64]


class Sheet:
    """What all frames of a clip share: where the pictures stand, and the strip with its axes and curves.

    ``pictures``: how many stand in a row, each ``size`` (width, height). Without ``curves`` there is only the
    line of text. All frames have the same ``shape`` [height, width], both even, as video formats ask.
    """

    def __init__(self, pictures: int, size: tuple[int, int], curves: Sequence[Curve], scale: str) -> None:
        self.size, self.scale = size, scale
        width, height = size
        self.unit = int(np.clip(min(size) / 22, 12, 26))
        line = round(self.unit * 1.6)
        plot = round(self.unit * 4.2) if curves else 0
        total = pictures * width + (pictures - 1) * GAP
        self.shape = (height + line + plot + (height + line + plot) % 2, total + total % 2)
        self._line_top, self._plot_top, self._plot_height = height, height + line, plot
        self._paper = np.full((*self.shape, 3), PAPER, np.uint8)
        self._curves = list(curves)
        if curves:
            self._draw_curves()

    def frame(self, row: Sequence[Picture], time: float, caption: str) -> Picture:
        """One frame uint8 [H, W, 3]: pictures uint8 [h, w, 3] of the sheet's size, at ``time`` in seconds."""
        sheet = self._paper.copy()
        x = 0
        for picture in row:
            sheet[: self.size[1], x : x + self.size[0]] = picture
            x += self.size[0] + GAP
        pad = self.unit // 2
        y = self._line_top + round(self.unit * 0.4)
        right = self.scale
        room = self.shape[1] - 3 * pad - text.width(right, self.unit)
        if room < text.width(caption, self.unit):
            right, room = "", self.shape[1] - 2 * pad
        lines = text.wrapped(caption, self.unit, room)
        text.draw(sheet, lines[0] if lines else "", (pad, y), self.unit, INK)
        if right:
            text.draw(sheet, right, (self.shape[1] - pad - text.width(right, self.unit), y), self.unit, QUIET_INK)
        if self._curves:
            at = self._x(time)
            bottom = self._plot_top + self._plot_height - 1
            cv2.line(sheet, (at, self._plot_top), (at, bottom), INK, 1, cv2.LINE_AA)
            for curve, colour in zip(self._curves, LINES, strict=False):
                value = np.interp(time, curve.times, curve.values)
                if np.isfinite(value):
                    cv2.circle(sheet, (at, self._y(float(value))), max(3, self.unit // 5), colour, -1, cv2.LINE_AA)
        return sheet

    # ---- the strip ----

    def _draw_curves(self) -> None:
        values = np.concatenate([c.values for c in self._curves])
        finite = values[np.isfinite(values)]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
        low, high = min(low, 0.0), max(high, 0.0)  # a logit of 0, a probability of a half, is always in sight
        room = 0.08 * (high - low) or 1.0
        self._range = low - room, high + room
        times = np.concatenate([c.times for c in self._curves])
        self._span = float(times.min()), max(float(times.max()), float(times.min()) + 1e-9)
        labels = [f"{high:.0f}", "0"] if high - low >= 2 else [f"{high:.1f}", "0"]
        self._left = self.unit + max(text.width(label, self._small) for label in labels)
        zero = self._y(0.0)
        cv2.line(self._paper, (self._left, zero), (self.shape[1] - 1, zero), (200, 200, 206), 1)
        text.draw(self._paper, "0", (self.unit // 2, zero - text.ascent(self._small) // 2), self._small, QUIET_INK)
        top = self._y(high)
        if zero - top > text.ascent(self._small) * 1.5:
            text.draw(self._paper, labels[0], (self.unit // 2, top), self._small, QUIET_INK)
        x = self._left + self.unit // 2
        for curve, colour in list(zip(self._curves, LINES, strict=False))[::-1]:
            known = np.isfinite(curve.values)
            points = [(self._x(t), self._y(v)) for t, v in zip(curve.times[known], curve.values[known], strict=True)]
            if points:
                cv2.polylines(self._paper, [np.array(points, np.int32)], False, colour, 2, cv2.LINE_AA)
        for curve, colour in zip(self._curves, LINES, strict=False):
            label = f"logit of {curve.name}" if len(self._curves) == 1 else curve.name
            text.draw(self._paper, label, (x, self._plot_top + 1), self._small, colour)
            x += text.width(label, self._small) + self.unit

    @property
    def _small(self) -> int:
        return max(10, round(self.unit * 0.75))

    def _x(self, time: float) -> int:
        first, last = self._span
        share = min(1.0, max(0.0, (time - first) / (last - first)))
        return round(self._left + share * (self.shape[1] - 1 - self._left - self.unit // 2))

    def _y(self, value: float) -> int:
        low, high = self._range
        inner = self._plot_height - self.unit // 2
        return round(self._plot_top + (high - value) / (high - low) * (inner - 1))


def resized(picture: Picture, size: tuple[int, int]) -> Picture:
    """A picture at ``size`` (width, height), for drawing."""
    if size == (picture.shape[1], picture.shape[0]):
        return picture
    how = cv2.INTER_AREA if size[1] < picture.shape[0] else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(picture, size, interpolation=how), np.uint8)


def marked(picture: Picture, at: tuple[float, float]) -> Picture:
    """The picture with a ring around ``at`` (x, y): the centroid of the positive evidence."""
    result = picture.copy()
    radius = max(4, min(picture.shape[:2]) // 40)
    centre = (round(at[0]), round(at[1]))
    cv2.circle(result, centre, radius + 1, (255, 255, 255), 3, cv2.LINE_AA)
    cv2.circle(result, centre, radius, (20, 20, 20), 2, cv2.LINE_AA)
    return result
