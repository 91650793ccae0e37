"""The pictures coda writes about one explained class: overlay, heat map and panel, with colour bar and caption."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from coda_cli.media.view import View, paste_back
from coda_cli.render.overlay import drawing_size, enlarged, framed, heatmap, overlay, side_by_side
from coda_cli.report.records import Explained, Record

RGB = NDArray[np.uint8]
Map = NDArray[np.float32]


def _drawn(rgb: RGB, pixels: Map, view: View) -> tuple[RGB, Map]:
    """The picture and the map [H, W] at its place in it, both at the size they are drawn at."""
    size = drawing_size((rgb.shape[1], rgb.shape[0]))
    return enlarged(rgb, size), paste_back(pixels, view, size)


def _overlay(rgb: RGB, values: Map, scale: float, alpha: float) -> RGB:
    return overlay(rgb, values, scale, alpha)


def _heatmap(rgb: RGB, values: Map, scale: float, alpha: float) -> RGB:
    del rgb, alpha  # the map alone
    return heatmap(values, scale)


def _panel(rgb: RGB, values: Map, scale: float, alpha: float) -> RGB:
    return side_by_side([rgb, overlay(rgb, values, scale, alpha), heatmap(values, scale)])


STYLES: dict[str, Callable[[RGB, Map, float, float], RGB]] = {"overlay": _overlay, "heatmap": _heatmap, "panel": _panel}


def draw(kind: str, rgb: RGB, pixels: Map, view: View, part: Explained, record: Record, alpha: float) -> RGB:
    """One of STYLES: the picture ``rgb`` uint8 [H, W, 3] and a map [h, w] of its ``view``, framed; uint8 [H', W', 3].

    ``part`` of ``record`` is the class that the map belongs to; scale and caption are taken from there.
    """
    picture, values = _drawn(rgb, pixels, view)
    return framed(STYLES[kind](picture, values, part.scale, alpha), part.scale, *_caption(part, record))


def _caption(part: Explained, record: Record) -> tuple[str, list[str]]:
    name = part.name if part.versus is None else f"{part.name} − {part.versus.name}"
    title = f"{name} · logit {part.logit:.2f}"
    if part.probability is not None:
        title += f" · p {part.probability:.3f}"
    sums = f"logit = {part.positive:.2f} for − {-part.negative:.2f} against {part.bias:+.2f} bias"
    if part.positional:
        sums += f" {part.positional:+.2f} positional"
    proof = f"residual {part.residual:.1e}" + ("" if part.exact else " ABOVE ITS TOLERANCE")
    scale = f"full colour ±{part.scale:.2g} logit a pixel"
    return title, [f"{sums}, {proof}", f"{record.network.name}, {record.precision}, {scale}"]
