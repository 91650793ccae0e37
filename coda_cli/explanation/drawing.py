"""The pictures coda writes about one explained class: overlay, heat map and panel, with colour bar and caption."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from coda_cli.media.view import View, paste_back
from coda_cli.render.colour import OUTSIDE
from coda_cli.render.overlay import (
    PAPER,
    Colours,
    drawing_size,
    enlarged,
    framed,
    heatmap,
    in_rows,
    of_heatmap,
    of_overlay,
    overlay,
    side_by_side,
)
from coda_cli.render.weights import on_paper
from coda_cli.schema.pictures import Explained, Record

RGB = NDArray[np.uint8]
Map = NDArray[np.float32]


def _drawn(rgb: RGB, pixels: Map, view: View) -> tuple[RGB, Map]:
    """The picture and the map [H, W] at its place in it, both at the size they are drawn at."""
    size = drawing_size((rgb.shape[1], rgb.shape[0]))
    return enlarged(rgb, size), paste_back(pixels, view, size)


STYLES = ("overlay", "heatmap", "panel")  # the kinds of files that are pictures


def draw(
    kind: str, rgb: RGB, pixels: Map, view: View, part: Explained, record: Record, alpha: float, hues: Map | None = None
) -> RGB:
    """One of STYLES: the picture ``rgb`` uint8 [H, W, 3] and a map [h, w] of its ``view``, framed; uint8 [H', W', 3].

    ``part`` of ``record`` is the class that the map belongs to; scale and caption are taken from there. ``hues``
    [h, w, 4], a colour explanation, is drawn in the place of the overlay and the heat map.
    """
    picture, values = _drawn(rgb, pixels, view)
    row, bars = [picture] if kind == "panel" else [], list[Colours]()
    if hues is not None:
        row.append(coloured_weights(hues, view, (picture.shape[1], picture.shape[0])))
    elif kind != "heatmap":
        row.append(overlay(picture, values, part.scale, alpha))
        bars.append(of_overlay(alpha))
    if kind == "panel" or (kind == "heatmap" and hues is None):
        row.append(heatmap(values, part.scale))
        bars.append(of_heatmap)
    title, lines = _caption(part, record, hues is not None, bool(bars))
    return framed(side_by_side(row), part.scale if bars else None, title, lines, bars=bars)


def draw_layers(kind: str, rgb: RGB, shares: Sequence[Map], view: View, part: Explained, record: Record) -> list[RGB]:
    """The layers of ``part``, the last one first; ``shares`` are their maps [h', w'].

    "layers": one sheet, the input and then every map. "depth": the frames of an animation, all of one size, the input
    beside each map. Positions of a layer are drawn as even blocks, for nothing is known within them.
    """
    size = drawing_size((rgb.shape[1], rgb.shape[0]))
    picture = enlarged(rgb, size)
    title = _caption(part, record)[0]
    tiles = []
    for k, (values, layer) in reversed(list(enumerate(zip(shares, part.layers, strict=True)))):
        drawn = heatmap(paste_back(values, view, size, blocks=True), layer.scale)
        proof = f"residual {layer.residual:.1e}" + ("" if layer.exact else " ABOVE ITS TOLERANCE")
        if layer.approximate:
            proof = f"APPROXIMATE: input x gradient, off by {0 - layer.residual:+.2g}"  # as in compare: sum less logit
        whose = layer.name if layer.name == "input" else f"output of {layer.name}"
        lines = [f"{whose}, {layer.height} x {layer.width}: sum {layer.sum:.2f}, {proof}"]
        depth = {"input": "input", record.network.cut: "the cut"}.get(layer.name, f"layer {k} of {len(shares) - 1}")
        label = depth if len(shares) > 1 else layer.name
        if kind == "layers":
            tiles.append(framed(drawn, layer.scale, label, lines))
        else:
            tiles.append(framed(side_by_side([picture, drawn]), layer.scale, f"{label} · {title}", lines))
    if kind == "layers":
        return [in_rows([framed(picture, None, title, [record.network.title]), *tiles], 4)]
    height, width = max(t.shape[0] for t in tiles), max(t.shape[1] for t in tiles)
    pads = [((0, height - t.shape[0]), (0, width - t.shape[1]), (0, 0)) for t in tiles]
    return [np.pad(t, pad, constant_values=PAPER) for t, pad in zip(tiles, pads, strict=True)]


def coloured_weights(hues: Map, view: View, size: tuple[int, int]) -> RGB:
    """A colour explanation [h, w, 4] at its place in a picture of ``size`` (width, height), on white; grey outside."""
    width, height = size
    channels = [hues[..., c] * hues[..., 3] for c in range(3)] + [hues[..., 3]]  # premultiplied, or edges would darken
    placed = [paste_back(np.ascontiguousarray(c), view, (width, height)) for c in channels]
    opacity = placed[3]
    with np.errstate(invalid="ignore"):
        straight = [np.where(opacity > 0, c / np.maximum(opacity, 1e-12), 0) for c in placed[:3]]
    paper = np.full((height, width, 3), PAPER, np.uint8)
    paper[np.isnan(opacity)] = OUTSIDE
    return on_paper(np.stack([*straight, opacity], 2).astype(np.float32), paper)


def _caption(part: Explained, record: Record, hues: bool = False, bar: bool = True) -> tuple[str, list[str]]:
    name = part.name if part.versus is None else f"{part.name} − {part.versus.name}"
    what = "logit" if part.versus is None else "difference of logits"
    title = f"{name} · {what} {part.logit:.2f}"
    if part.probability is not None:
        title += f" · p {part.probability:.3f}"
    sums = f"{what} = {part.positive:.2f} for − {abs(part.negative):.2f} against{_added(part.bias)} bias"
    if part.positional:
        sums += f"{_added(part.positional)} positional"
    proof = f"residual {part.residual:.1e}" + ("" if part.exact else " ABOVE ITS TOLERANCE")
    scale = f", full colour ±{part.scale:.2g} logit a pixel" if bar else ""
    lines = [f"{sums}, {proof}", f"{record.network.title}, {record.precision}{scale}"]
    if hues:
        lines.append("hue: which colour the weights ask for, opacity: their norm, smoothed; evidence against is hidden")
    return title, lines


def _added(term: float) -> str:
    """A term of a sum, its sign set apart from the number."""
    return f" {'−' if term < 0 else '+'} {abs(term):.2f}"
