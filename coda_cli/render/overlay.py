"""Contribution maps as pictures. Functions here take arrays and return arrays; no file is touched."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from coda_cli.machine import budget
from coda_cli.opencv import cv2
from coda_cli.render import text
from coda_cli.render.colour import NEGATIVE, POSITIVE, coloured, strength

Picture = NDArray[np.uint8]
Map = NDArray[np.float32]
Values = TypeVar("Values", Picture, Map)
Colours = Callable[[Map], Picture]

INK, QUIET_INK, OUTLINE = (28, 28, 30), (110, 110, 116), (170, 170, 176)
PAPER = 255  # white; filling an array with one number is ten times as fast as with a colour
FADED = 72  # what black becomes under an overlay
DIMMED = 0.5  # brightness of what the network did not see
SMALLEST = 320  # pixels; pictures with a shorter side are enlarged by a whole factor, so that captions can be read


def drawing_size(size: tuple[int, int], most: int = budget.DRAWN_PIXELS) -> tuple[int, int]:
    """Choose the size at which a picture is drawn: its own, a whole multiple of it for small ones, less for giant ones.

    Args:
        size: (width, height) of the picture in pixels.
        most: pixels that the drawing may have; small pictures are enlarged even so.

    Returns:
        (width, height) of the drawing in pixels.
    """
    factor = -(-SMALLEST // min(size)) if min(size) * max(size) < SMALLEST**2 else 1
    factor = min(factor, max(1, 2048 // max(size)))  # a strip of 1 x 2000 pixels is not enlarged
    return (size[0] * factor, size[1] * factor) if factor > 1 else budget.within_drawings(size, most)


def enlarged(values: Values, size: tuple[int, int]) -> Values:
    """Enlarge a picture or a map by repeating its pixels, or make one smaller by averaging them.

    Args:
        values: picture or map [H, W, ...].
        size: (width, height) in pixels, a whole multiple of its own, or less.

    Returns:
        The same at that size.
    """
    if size[1] < values.shape[0] or size[0] < values.shape[1]:
        return cast("Values", cv2.resize(values, size, interpolation=cv2.INTER_AREA))
    fy, fx = size[1] // values.shape[0], size[0] // values.shape[1]
    return values if fy == fx == 1 else np.repeat(np.repeat(values, fy, 0), fx, 1)


def overlay(rgb: Picture, values: Map, scale: float, alpha: float = 0.85) -> Picture:
    """Draw a map over its picture: red counts for the class, blue against it, and opacity says how much.

    The picture turns grey, so that every colour is evidence. Where the map is 0 the grey picture shows unchanged; at
    ``scale`` and beyond, the colour covers it with opacity ``alpha``.

    Args:
        rgb: the picture, uint8 [H, W, 3] sRGB.
        values: contribution map, float32 [H, W], logit units; pixels with NaN were not seen and are drawn darker.
        scale: the contribution in full colour, in logit units.
        alpha: opacity of full colour, 0 to 1.

    Returns:
        uint8 [H, W, 3] sRGB.
    """
    return in_strips(lambda part, of_map: _overlaid(part, of_map, scale, alpha), rgb, values)


def _overlaid(rgb: Picture, values: Map, scale: float, alpha: float) -> Picture:
    """Some rows of an overlay."""
    # Colours, blue above all, could not be seen on black, so black becomes FADED. This is done with OpenCV's operations
    # on bytes, and only where the map is: for clips, it takes most of the time of drawing.
    faded = np.asarray(cv2.LUT(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), _FADING), np.uint8)
    result = np.asarray(cv2.cvtColor(cv2.LUT(faded, _DIMMING), cv2.COLOR_GRAY2RGB), np.uint8)
    known = ~np.isnan(values)
    rows, columns = np.flatnonzero(known.any(1)), np.flatnonzero(known.any(0))
    if not len(rows):
        return result
    seen = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    grey = cv2.cvtColor(np.ascontiguousarray(faded[seen]), cv2.COLOR_GRAY2RGB)
    s = strength(values[seen], scale)
    colour = cv2.applyColorMap((s > 0).view(np.uint8), _SIGNS)
    opacity = np.float32(alpha) * np.abs(s)
    blended = cv2.blendLinear(grey, colour, 1 - opacity, opacity)
    if known[seen].all():  # copying with a mask takes longer than all the rest
        result[seen] = blended
    else:
        np.copyto(result[seen], blended, where=known[seen][..., None])
    return result


def in_strips(draw: Callable[..., Picture], *arrays: Picture | Map) -> Picture:
    """Draw a large picture in strips of rows: whole, every step on the way would take memory of its own.

    Args:
        draw: draws rows of the arrays as uint8 [h, W, 3]; every pixel depends on its own numbers alone.
        arrays: [H, W, ...], all of one height and width.

    Returns:
        uint8 [H, W, 3].
    """
    height, width = arrays[0].shape[:2]
    step = max(1, budget.CONVERTED_PIXELS // width)
    if height <= step:
        return draw(*arrays)
    result = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, step):
        result[top : top + step] = draw(*(array[top : top + step] for array in arrays))
    return result


_BYTES = np.arange(256)
_FADING = (FADED + _BYTES * ((255 - FADED) / 255)).round().astype(np.uint8)  # of a brightness
_DIMMING = (DIMMED * _BYTES).round().astype(np.uint8)
_SIGNS = np.where(_BYTES[:, None] > 0, POSITIVE, NEGATIVE).astype(np.uint8)[:, None]  # 0 counts against


def heatmap(values: Map, scale: float) -> Picture:
    """Draw a map alone: white is 0, grey was not seen.

    Args:
        values: contribution map, float32 [H, W], logit units.
        scale: the contribution in full colour, in logit units.

    Returns:
        uint8 [H, W, 3] sRGB.
    """
    return in_strips(lambda part: coloured(part, scale), values)


def side_by_side(pictures: Sequence[Picture], gap: int = 12) -> Picture:
    """Put pictures beside each other on white.

    Args:
        pictures: uint8 [H, W, 3], all of one height.
        gap: pixels between two of them.

    Returns:
        One picture, uint8 [H, W', 3].
    """
    spacer = np.full((pictures[0].shape[0], gap, 3), PAPER, np.uint8)
    row = [pictures[0]]
    for picture in pictures[1:]:
        row += [spacer, picture]
    return np.concatenate(row, 1)


def in_rows(tiles: Sequence[Picture], columns: int, gap: int = 10) -> Picture:
    """Put pictures of any size in rows on white, each in the upper left of a cell that holds the largest.

    Args:
        tiles: uint8 [h, w, 3].
        columns: how many stand in a row, at most.
        gap: pixels between two cells.

    Returns:
        One picture, uint8 [H, W, 3].
    """
    height, width = max(t.shape[0] for t in tiles) + gap, max(t.shape[1] for t in tiles) + gap
    columns = min(columns, len(tiles))
    canvas = np.full((-(-len(tiles) // columns) * height, columns * width, 3), PAPER, np.uint8)
    for n, tile in enumerate(tiles):
        y, x = n // columns * height, n % columns * width
        canvas[y : y + tile.shape[0], x : x + tile.shape[1]] = tile
    return canvas


def of_heatmap(values: Map) -> Picture:
    """Draw strengths in the colours of a heat map, for a colour bar.

    Args:
        values: strengths, float32 of any shape [...], -1 to 1.

    Returns:
        uint8 [..., 3] sRGB.
    """
    return coloured(values, 1.0)


def of_overlay(alpha: float) -> Colours:
    """Choose the colours of an overlay, for a colour bar: those over a grey that is half as bright as white.

    Args:
        alpha: opacity of full colour, 0 to 1.

    Returns:
        A function that draws strengths, float32 [h, w] from -1 to 1, as uint8 [h, w, 3].
    """
    return lambda values: overlay(np.full((*values.shape, 3), 128, np.uint8), values, 1.0, alpha)


def framed(
    picture: Picture,
    scale: float | None,
    title: str,
    lines: Sequence[str],
    measured_in: str = "logit",
    bars: Sequence[Colours] = (of_heatmap,),
) -> Picture:
    """Put a colour bar at the right of a picture, and a caption below it.

    The picture itself is unchanged in the result, at row and column ``margin(picture)``.

    Args:
        picture: a drawing, uint8 [H, W, 3] sRGB.
        scale: the value in full colour, at the ends of the bar; None for no bar.
        title: first line of the caption.
        lines: further lines, in smaller letters.
        measured_in: the unit that is written above the bar.
        bars: the colours of the bar; it has a strip for each of them.

    Returns:
        uint8 [H', W', 3] sRGB.
    """
    height, width = picture.shape[:2]
    unit = _unit(picture)
    m, small = margin(picture), max(10, round(unit * 0.8))
    inner = width + (0 if scale is None else m + _bar_width(scale, small, unit, measured_in))
    title_lines = text.wrapped(title, unit, inner)
    small_lines = [part for line in lines for part in text.wrapped(line, small, inner)]
    leading, small_leading = round(unit * 1.45), round(unit * 1.2)
    below = m // 2 + leading * len(title_lines) + small_leading * len(small_lines) + m // 2
    canvas = np.full((m + height + below, m + inner + m, 3), PAPER, np.uint8)
    canvas[m : m + height, m : m + width] = picture
    if scale is not None:
        _draw_bar(canvas, (m + width + m, m, height), scale, small, unit, measured_in, bars)
    y = m + height + m // 2
    for line in title_lines:
        text.draw(canvas, line, (m, y), unit, INK)
        y += leading
    for line in small_lines:
        text.draw(canvas, line, (m, y), small, QUIET_INK)
        y += small_leading
    return canvas


def unframed(sheet: Picture, size: tuple[int, int]) -> Picture:
    """Take the drawing out of what ``framed`` made of it.

    Args:
        sheet: the drawing with its frame, uint8 [H', W', 3].
        size: (width, height) of the drawing in pixels.

    Returns:
        The drawing, uint8 [H, W, 3]; the whole sheet where it is too small to hold one of this size.
    """
    width, height = size
    m = margin(np.broadcast_to(sheet[:1, :1], (height, width, 3)))
    return sheet[m : m + height, m : m + width] if min(sheet.shape[0] - height, sheet.shape[1] - width) >= m else sheet


def margin(picture: Picture) -> int:
    """Say how wide the white frame around a picture is.

    Args:
        picture: a drawing, uint8 [H, W, 3].

    Returns:
        Pixels.
    """
    return round(_unit(picture) * 0.9)


def _unit(picture: Picture) -> int:
    """Size of letters that fits a picture: a 24th of its smaller side, within bounds, in pixels."""
    return int(np.clip(min(picture.shape[:2]) / 24, 13, 44))


def _bar_labels(scale: float) -> tuple[str, str, str]:
    """What stands beside the top, the middle and the foot of a colour bar."""
    return (
        (f"+{scale:.2g}", "0", f"−{scale:.2g}") if scale > 0 else ("", "0", "")
    )  # without evidence the ends have no value


def _bar_width(scale: float, letters: int, unit: int, measured_in: str) -> int:
    """Width in pixels of a colour bar with its labels, and with its unit, which stands above both."""
    labels = max(text.width(label, letters) for label in (*_bar_labels(scale), "logit"))
    return max(round(unit + unit * 0.5 + labels), text.width(measured_in, letters))


def _draw_bar(
    canvas: Picture,
    at: tuple[int, int, int],
    scale: float,
    letters: int,
    unit: int,
    measured_in: str,
    bars: Sequence[Colours],
) -> None:
    """Draw a colour bar as high as the picture, with its unit above; ``at`` is left, top and height."""
    left, top, height = at
    text.draw(canvas, measured_in, (left, top), letters, QUIET_INK)
    top, tall = top + round(unit * 1.4), max(1, height - round(unit * 1.4))
    bar = canvas[top : top + tall, left : left + unit]
    bar[:] = OUTLINE
    inside = np.linspace(1, -1, tall, dtype=np.float32)[1:-1, None]
    edges = np.linspace(1, unit - 1, len(bars) + 1).round().astype(int)
    for colours, first, end in zip(bars, edges, edges[1:], strict=False):
        bar[1:-1, first:end] = colours(inside) if len(inside) else OUTLINE
    room = tall - text.ascent(letters)  # the first label ends at the bar's top, the last one at its foot
    labels = list(zip(_bar_labels(scale), (0.0, 0.5, 1.0), strict=True))
    if room < 2.5 * letters:  # all three labels would overlap
        labels = labels[::2] if room > 1.2 * letters else labels[:1]
    for label, share in labels:
        text.draw(canvas, label, (left + round(unit * 1.5), top + round(share * room)), letters, INK)
