"""Draw what coda shows of one explained class: overlay, heat map and panel, with colour bar and caption."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from coda_cli.checkpoints.loading import Net
from coda_cli.errors import UsageError
from coda_cli.explanation.phrases import (
    activation_text,
    carried_text,
    name_of_bias,
    neuron_name,
    regions_text,
    standing,
    title_of,
    without_concepts_text,
)
from coda_cli.explanation.picture import Explanation
from coda_cli.explanation.record import Drawing, make_record
from coda_cli.explanation.request import Input
from coda_cli.machine import budget
from coda_cli.media.view import View, paste_back
from coda_cli.render.colour import OUTSIDE
from coda_cli.render.outlines import outlined
from coda_cli.render.overlay import (
    PAPER,
    Colours,
    drawing_size,
    enlarged,
    framed,
    heatmap,
    in_rows,
    in_strips,
    of_heatmap,
    of_overlay,
    overlay,
    side_by_side,
)
from coda_cli.render.weights import colour_explanation, on_paper
from coda_cli.schema.neurons import NeuronPart
from coda_cli.schema.pictures import Explained, Record
from coda_cli.vocabulary import Style

RGB = NDArray[np.uint8]
Map = NDArray[np.float32]


STYLES = ("overlay", "heatmap", "panel")  # the kinds of files that are pictures


def draw_explanation(kind: str, explanation: Explanation, source: Input, k: int, drawing: Drawing) -> RGB:
    """Draw one target of an explanation.

    Args:
        kind: one of STYLES.
        explanation: the explanation of a picture.
        source: the picture as it was read.
        k: which target.
        drawing: how it is drawn.

    Returns:
        The picture with colour bar and caption, uint8 [H', W', 3].

    Raises:
        UsageError: there is no such target, or the network has no weights of pixels to colour.
    """
    if not -len(explanation.targets) <= k < len(explanation.targets):
        raise UsageError(f"there is no target {k}; this explanation has {len(explanation.targets)}, from 0 on")
    refuse_style(explanation.net, drawing.style)
    record = make_record(explanation, source, drawing)
    hues = colour_explanation_of(explanation, k, drawing.smooth) if drawing.style == "colour" else None
    return draw(kind, source, explanation.drawn_map(k), record.explained[k], record, drawing.alpha, hues)


def draw(
    kind: str, source: Input, pixels: Map, part: Explained, record: Record, alpha: float, hues: Map | None = None
) -> RGB:
    """Draw a map over its picture, or beside it, with colour bar and caption.

    Args:
        kind: one of STYLES.
        source: the picture as it was read, and what the network saw of it.
        pixels: the map [h, w] of the view, or [h', w'] of a hybrid's cut, in logit units for each pixel of the view.
        part: the class that the map belongs to, with its scale.
        record: the record that ``part`` is of.
        alpha: opacity of full colour in an overlay, from 0 to 1.
        hues: a colour explanation [h, w, 4], drawn in the place of the overlay and the heat map.

    Returns:
        uint8 [H', W', 3].
    """
    title, lines = _caption(part, record, hues is not None, hues is None or kind == "panel")
    if hues is None:
        lines[1] += _resolution(pixels, source.view)
    if source.found.regions:
        lines.append(regions_text(part.regions))
    return _laid_over(kind, source, pixels, part.scale, alpha, (title, lines), hues)


def draw_neuron(
    kind: str, source: Input, pixels: Map, neuron: NeuronPart, record: Record, alpha: float, part: Explained | None
) -> RGB:
    """Draw the map of a neuron over its picture, or beside it, with colour bar and caption.

    Args:
        kind: one of STYLES.
        source: the picture as it was read, and what the network saw of it.
        pixels: the map as ``draw`` takes it, in units of the activation, or in logit units.
        neuron: what the map is of, with its scale.
        record: the record that ``neuron`` is of.
        alpha: opacity of full colour in an overlay, from 0 to 1.
        part: the class whose logit the neuron has a share of; None for an activation.

    Returns:
        uint8 [H', W', 3].
    """
    unit = "activation" if part is None else "logit"
    proof = f"residual {neuron.residual:.1e}" + ("" if neuron.exact else " ABOVE ITS TOLERANCE")
    if part is None:
        title = activation_text(neuron).split(" = ")[0]
        value = "activation" if neuron.position else "sum"
    else:
        what = "logit" if part.versus is None else "difference of logits"
        title = f"{title_of(part)} · {neuron.share:+.2f} of {what} {part.logit:.2f} by {neuron_name(neuron)}"
        value = "share"
    constants = f"{_added(neuron.constants)} constants" if neuron.constants else ""
    sums = f"{value} = {neuron.positive:.3g} for − {abs(neuron.negative):.3g} against{constants}, {proof}"
    network = f"{record.network.title}, {record.precision}, full colour ±{neuron.scale:.2g} {unit} a pixel"
    lines = [sums, network + _resolution(pixels, source.view), *record.view.notes]
    if source.found.regions:
        lines.append(regions_text(neuron.regions))
    return _laid_over(kind, source, pixels, neuron.scale, alpha, (title, lines), measured_in=unit)


def _resolution(pixels: Map, view: View) -> str:
    """The end of a line about a map that is coarser than the view."""
    if pixels.shape == view.rgb.shape[:2]:
        return ""
    return f", {pixels.shape[1]} x {pixels.shape[0]} positions, drawn smoothly"


def _laid_over(
    kind: str,
    source: Input,
    pixels: Map,
    scale: float,
    alpha: float,
    caption: tuple[str, list[str]],
    hues: Map | None = None,
    measured_in: str = "logit",
) -> RGB:
    """A map in one of STYLES, with the outlines of regions, a colour bar, and title and lines of a caption."""
    rgb, view = source.picture.rgb, source.view
    size = drawing_size((rgb.shape[1], rgb.shape[0]), budget.SHEET_PIXELS // 3)
    picture, values = enlarged(rgb, size), paste_back(pixels, view, size)
    row, bars = [picture] if kind == "panel" else [], list[Colours]()
    if hues is not None:
        row.append(coloured_weights(hues, view, size))
    elif kind != "heatmap":
        row.append(overlay(picture, values, scale, alpha))
        bars.append(of_overlay(alpha))
    if kind == "panel" or (kind == "heatmap" and hues is None):
        row.append(heatmap(values, scale))
        bars.append(of_heatmap)
    if regions := [(region.name, region.outlines) for region in source.found.regions]:
        factor = size[0] / view.size[0], size[1] / view.size[1]
        row = [tile if tile is picture else outlined(tile, regions, factor) for tile in row]
    return framed(side_by_side(row), scale if bars else None, *caption, measured_in=measured_in, bars=bars)


def draw_layers(kind: str, source: Input, shares: Sequence[Map], part: Explained, record: Record) -> list[RGB]:
    """Draw the contributions of layers, the last layer first.

    Each position of a layer is drawn as an even block, because a layer says nothing about what lies inside it.

    Args:
        kind: "layers" for one sheet, the input and then every map; "depth" for the frames of an animation, all of one
            size, the input beside each map.
        source: the picture as it was read, and what the network saw of it.
        shares: the contribution maps [h', w'] of the layers of ``part``, in logit units.
        part: the class that the maps belong to.
        record: the record that ``part`` is of.

    Returns:
        Pictures uint8 [H', W', 3].
    """
    rgb, view = source.picture.rgb, source.view
    size = drawing_size((rgb.shape[1], rgb.shape[0]), _most_pixels(kind, len(shares)))
    picture = enlarged(rgb, size)
    title = _caption(part, record)[0]
    if size[0] < rgb.shape[1]:
        title += f" · drawn at {size[0]} x {size[1]} pixels"
    tiles = []
    for k, (values, layer) in reversed(list(enumerate(zip(shares, part.layers, strict=True)))):
        drawn = heatmap(paste_back(values, view, size, blocks=True), layer.scale)
        proof = f"residual {layer.residual:.1e}" + ("" if layer.exact else " ABOVE ITS TOLERANCE")
        if layer.approximate:
            proof = f"APPROXIMATE: input x gradient, off by {0 - layer.residual:+.2g}"  # sum minus logit
        if part.carried is not None and layer.carried is not None:
            proof += f", carries {layer.carried:.0%}, magnitudes {layer.ratio:.1f} times that"
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
    for n, t in enumerate(tiles):  # one after the other: all at once would take twice the memory
        if t.shape[:2] != (height, width):
            pad = ((0, height - t.shape[0]), (0, width - t.shape[1]), (0, 0))
            tiles[n] = np.pad(t, pad, constant_values=PAPER)
    return tiles


def _most_pixels(kind: str, layers: int) -> int:
    """How many pixels a picture may have in a drawing of layers, by its kind."""
    return budget.SHEET_PIXELS // (layers + 1) if kind == "layers" else budget.ANIMATION_PIXELS // (2 * layers)


def memory_of(kind: str, source: Input, layers: int = 0, *, hues: bool = False) -> int:
    """How many bytes a drawing takes while it is made and encoded.

    Args:
        kind: one of STYLES, or "layers" or "depth".
        source: the picture as it was read.
        layers: how many layers are drawn.
        hues: whether it is a colour explanation.

    Returns:
        Bytes, about.
    """
    rgb = source.picture.rgb
    own = {"panel": 3, "layers": layers + 1, "depth": 2 * layers}.get(kind, 1)
    most = _most_pixels(kind, layers) if layers else budget.SHEET_PIXELS // 3
    width, height = drawing_size((rgb.shape[1], rgb.shape[0]), most)
    return width * height * (own + 2 * hues) * budget.DRAWING_BYTES


def coloured_weights(hues: Map, view: View, size: tuple[int, int]) -> RGB:
    """Draw a colour explanation at its place in a picture.

    Args:
        hues: r g b opacity [h, w, 4] in [0, 1].
        view: what the network saw.
        size: (width, height) of the picture in pixels.

    Returns:
        uint8 [H, W, 3], on white; grey outside the view.
    """
    width, height = size
    channels = [hues[..., c] * hues[..., 3] for c in range(3)] + [hues[..., 3]]  # premultiplied, or edges would darken
    placed = [paste_back(np.ascontiguousarray(c), view, (width, height)) for c in channels]
    return in_strips(_on_white, *placed)


def _on_white(*premultiplied: Map) -> RGB:
    """Red, green, blue, each times the opacity, and the opacity [H, W] on white; grey where they are NaN."""
    opacity = premultiplied[3]
    with np.errstate(invalid="ignore"):
        straight = [np.where(opacity > 0, c / np.maximum(opacity, 1e-12), 0) for c in premultiplied[:3]]
    paper = np.full((*opacity.shape, 3), PAPER, np.uint8)
    paper[np.isnan(opacity)] = OUTSIDE
    return on_paper(np.stack([*straight, opacity], 2).astype(np.float32), paper)


# Whose the scale is, in words; one that the user gave needs none.
_WHOSE = {"network": " (the network's)", "run": " (the run's)", "image": " (this map's)", "given": "", None: ""}


def _caption(part: Explained, record: Record, hues: bool = False, bar: bool = True) -> tuple[str, list[str]]:
    """The title of a drawing, and the lines below it: the equation, the network, and what the colours mean."""
    what = "logit" if part.versus is None else "difference of logits"
    title = f"{title_of(part)} · {what} {part.logit:.2f}"
    if part.probability is not None:
        title += f" · p {part.probability:.3f}"
    sums = (
        f"{what} = {part.positive:.2f} for − {abs(part.negative):.2f} against{_added(part.bias)} {name_of_bias(part)}"
    )
    if part.positional:
        sums += f"{_added(part.positional)} positional"
    proof = f"residual {part.residual:.1e}" + ("" if part.exact else " ABOVE ITS TOLERANCE")
    scale = f", full colour ±{part.scale:.2g} logit a pixel{_WHOSE[part.scale_of]}" if bar else ""
    lines = [f"{sums}, {proof}", f"{record.network.title}, {record.precision}{scale}"]
    lines.append(standing(record.network, record.top, part.index, record.confident))
    if part.carried is not None:
        lines[-1] += f"; {part.exactness}{carried_text(part)}"
    lines[-1] += without_concepts_text(part)
    lines += record.view.notes
    if hues:
        lines.append("hue: which colour the weights ask for, opacity: their norm, smoothed; evidence against is hidden")
    return title, lines


def _added(term: float) -> str:
    """A term of a sum as text, with a space between its sign and its number."""
    return f" {'−' if term < 0 else '+'} {abs(term):.2f}"


# ---- the colour explanation ------------------------------------------------------------------------------------------


def refuse_style(net: Net, style: Style) -> None:
    """Refuse a style that a network's decomposition does not have.

    Args:
        net: the network.
        style: how maps are to be drawn.

    Raises:
        UsageError: the colour explanation is asked for, and the network has no weights of pixels to colour.
    """
    if style == "colour" and net.cut:
        raise UsageError(
            f"--style colour shows weights of pixels; those of {net.checkpoint.name} end at {net.cut}; choose another "
            "style, or a network that is exact down to the pixels, such as -m imagenette"
        )


def colour_explanation_of(explanation: Explanation, k: int, smooth: int, percentile: float = 99.5) -> Map:
    """Compute the colour explanation of one target.

    Args:
        explanation: the explanation of a picture.
        k: which target.
        smooth: odd window over which the opacity is averaged, in the network's pixels.
        percentile: of the opacity, from 0 to 100: what is drawn opaque.

    Returns:
        r g b opacity [h, w, 4] in [0, 1]; see ``render.weights``.
    """
    d = explanation.decomposition
    w, c = (t[0, k].to("cpu", torch.float32).numpy() for t in (d.dynamic_weights, d.contributions))
    return colour_explanation(w, c, smooth, percentile)
