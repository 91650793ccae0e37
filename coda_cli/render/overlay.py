"""Contribution maps as pictures: arrays in, arrays out, nothing touches a file."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from coda_cli.render.colour import NEGATIVE, POSITIVE, coloured, strength

Picture = NDArray[np.uint8]
Map = NDArray[np.float32]

INK, QUIET_INK, PAPER = (28, 28, 30), (110, 110, 116), (255, 255, 255)
FADED = 72  # what black becomes under an overlay
DIMMED = 0.5  # brightness of what the network did not see
SMALLEST = 320  # pictures with a shorter side below this are enlarged by a whole factor, or nobody could read them


def drawing_size(size: tuple[int, int]) -> tuple[int, int]:
    """(width, height) a picture of ``size`` is drawn at: its own, or a whole multiple of it for small pictures."""
    factor = -(-SMALLEST // min(size)) if min(size) * max(size) < SMALLEST**2 else 1
    factor = min(factor, max(1, 2048 // max(size)))  # a 1 x 2000 strip is not blown up
    return size[0] * factor, size[1] * factor


def enlarged(rgb: Picture, size: tuple[int, int]) -> Picture:
    """A picture uint8 [H, W, 3] with its pixels repeated to ``size`` (width, height), a whole multiple of its own."""
    fy, fx = size[1] // rgb.shape[0], size[0] // rgb.shape[1]
    return rgb if fy == fx == 1 else np.repeat(np.repeat(rgb, fy, 0), fx, 1)


def overlay(rgb: Picture, values: Map, scale: float, alpha: float = 0.85) -> Picture:
    """A map [H, W] over its picture uint8 [H, W, 3]: red for, blue against, as opaque as the evidence is strong.

    The picture turns grey, so that every colour is evidence; where the map is 0 the grey picture shows unchanged, at
    ``scale`` and beyond the colour covers it with opacity ``alpha``. Pixels with NaN (not seen) are dimmed.
    """
    luma = rgb.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    luma = FADED + luma * ((255 - FADED) / 255)  # colours, blue above all, would drown in black
    luma = np.where(np.isnan(values), luma * DIMMED, luma)[..., None]
    s = strength(values, scale)[..., None]
    colour = np.where(s > 0, np.array(POSITIVE, np.float32), np.array(NEGATIVE, np.float32))
    opacity = alpha * np.abs(s)
    return np.round(luma * (1 - opacity) + colour * opacity).astype(np.uint8)


def heatmap(values: Map, scale: float) -> Picture:
    """A map [H, W] alone, uint8 [H, W, 3]: white is 0, grey was not seen."""
    return coloured(values, scale)


def side_by_side(pictures: Sequence[Picture], gap: int = 12) -> Picture:
    """Pictures of one height in a row on white paper."""
    spacer = np.full((pictures[0].shape[0], gap, 3), 255, np.uint8)
    row = [pictures[0]]
    for picture in pictures[1:]:
        row += [spacer, picture]
    return np.concatenate(row, 1)


def framed(picture: Picture, scale: float, title: str, lines: Sequence[str]) -> Picture:
    """A drawn picture uint8 [H, W, 3] with a colour bar in logit units at its right and a caption below.

    The picture itself is in the result unchanged, at row and column ``margin(picture)``.
    """
    height, width = picture.shape[:2]
    unit = _unit(picture)
    m = margin(picture)
    body, small = _font(unit), _font(max(10, round(unit * 0.8)))
    bar = _bar_width(scale, small, unit)
    inner = width + m + bar
    title_lines = _wrapped(title, body, inner)
    text_lines = [part for line in lines for part in _wrapped(line, small, inner)]
    leading, small_leading = round(unit * 1.45), round(unit * 1.2)
    below = m // 2 + leading * len(title_lines) + small_leading * len(text_lines) + m // 2
    canvas = Image.new("RGB", (m + inner + m, m + height + below), PAPER)
    canvas.paste(Image.fromarray(picture), (m, m))
    draw = ImageDraw.Draw(canvas)
    _draw_bar(canvas, draw, (m + width + m, m, height), scale, small, unit)
    y = m + height + m // 2
    for line in title_lines:
        draw.text((m, y), line, fill=INK, font=body)
        y += leading
    for line in text_lines:
        draw.text((m, y), line, fill=QUIET_INK, font=small)
        y += small_leading
    return np.asarray(canvas)


def margin(picture: Picture) -> int:
    """Width of the white frame in pixels."""
    return round(_unit(picture) * 0.9)


def _unit(picture: Picture) -> int:
    """Font size that reads well beside a picture: a 24th of its smaller side, within bounds."""
    return int(np.clip(min(picture.shape[:2]) / 24, 13, 44))


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _bar_labels(scale: float) -> tuple[str, str, str]:
    return (f"+{scale:.2g}", "0", f"-{scale:.2g}")


def _bar_width(scale: float, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, unit: int) -> int:
    widest = max(font.getlength(label) for label in (*_bar_labels(scale), "logit"))
    return round(unit + unit * 0.5 + widest)


def _draw_bar(
    canvas: Image.Image,
    draw: ImageDraw.ImageDraw,
    at: tuple[int, int, int],
    scale: float,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    unit: int,
) -> None:
    """The colour bar with its unit above, full height of the picture; ``at`` is left, top, height."""
    left, top, height = at
    head = round(unit * 1.4)
    draw.text((left, top), "logit", fill=QUIET_INK, font=font)
    tall = max(1, height - head)
    ramp = np.linspace(1, -1, tall, dtype=np.float32)[:, None].repeat(unit, 1)
    canvas.paste(Image.fromarray(coloured(ramp, 1.0)), (left, top + head))
    draw.rectangle((left, top + head, left + unit - 1, top + head + tall - 1), outline=(170, 170, 176))
    x = left + round(unit * 1.5)
    for label, share, anchor in zip(_bar_labels(scale), (0.0, 0.5, 1.0), ("lt", "lm", "lb"), strict=True):
        draw.text((x, top + head + round(share * (tall - 1))), label, fill=INK, font=font, anchor=anchor)


def _wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    """Lines of at most ``width`` pixels, broken between words; a word that is too long is cut with an ellipsis."""
    lines, line = [], ""
    for word in text.split():
        while font.getlength(word) > width and len(word) > 2:
            word = word[:-2].rstrip("…") + "…"
        longer = f"{line} {word}".strip()
        if line and font.getlength(longer) > width:
            lines.append(line)
            line = word
        else:
            line = longer
    return [*lines, line] if line else lines
