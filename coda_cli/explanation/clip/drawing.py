"""Draw the frames of an explained clip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from coda_cli.checkpoints.loading import Net
from coda_cli.checkpoints.targets import Target, Targets
from coda_cli.core.neurons import Neuron
from coda_cli.explanation.clip.survey import Survey, target_name
from coda_cli.explanation.drawing import colour_explanation_of, coloured_weights
from coda_cli.explanation.neurons import drawn_map
from coda_cli.explanation.phrases import neuron_name
from coda_cli.explanation.picture import Explanation
from coda_cli.explanation.refusals import refuse_bad_drawing
from coda_cli.explanation.regions.shapes import Region
from coda_cli.explanation.request import Request, refuse_unknown
from coda_cli.media.view import View, paste_back
from coda_cli.render.clip import GAP, Curve, Sheet, Tile, marked, places, resized
from coda_cli.render.colour import robust_scale
from coda_cli.render.outlines import outlined
from coda_cli.render.overlay import heatmap, overlay
from coda_cli.schema.clips import ExplainedFrame, FrameRecord
from coda_cli.schema.neurons import NeuronPart
from coda_cli.video.reading import Frame
from coda_cli.vocabulary import Layout, Style

LAYOUTS: dict[Layout, tuple[str, ...]] = {
    "side": ("picture", "overlay"),
    "overlay": ("overlay",),
    "heatmap": ("heatmap",),
    "panel": ("picture", "overlay", "heatmap"),
}
HIGHEST, LOWEST = 720, 240  # pictures are drawn at the source's height within these bounds
WIDEST = 4096  # a sheet's greatest width, and about its greatest height: what hardware decoders of H.264 accept
RGB = NDArray[np.uint8]

SCALES = ("network", "clip", "frame")  # ways to find what full colour stands for


@dataclass(frozen=True)
class ClipDrawing:
    """How a clip is drawn.

    Attributes:
        layout: which pictures stand in a frame.
        scale: the contribution in full colour, in logit units; "clip" finds one for all frames, "frame" one for each,
            "network" takes the network's own.
        percentile: of |contribution|, from 0 to 100: what "clip" and "frame" use as the scale.
        alpha: opacity of full colour in an overlay, from 0 to 1.
        strip: whether the logits over time are drawn below.
        centroid: whether the centroid of the positive evidence is marked.
        height: of each picture in the sheet, in pixels; the source's, within LOWEST and HIGHEST, unless given.
        style: signed contributions, or the colour explanation of the B-cos papers.
        smooth: the odd window of the colour explanation, in the network's pixels.
    """

    layout: Layout = "side"
    scale: float | Literal["network", "clip", "frame"] = "clip"
    percentile: float = 99.5
    alpha: float = 0.85
    strip: bool = True
    centroid: bool = False
    height: int | None = None
    style: Style = "signed"
    smooth: int = 5

    def __post_init__(self) -> None:
        refuse_bad_drawing(self.scale, SCALES, self.percentile, self.alpha, self.smooth)
        refuse_unknown("layout", self.layout, Layout)
        refuse_unknown("style", self.style, Style)

    def settled(self, net: Net, request: Request, *, once: bool) -> ClipDrawing:
        """Put the network's own full colour in the place of "network", and leave out what needs a first pass.

        Args:
            net: the network; it states a full colour for its classes and for pictures of the size that it sees.
            request: what is asked.
            once: whether the frames can be seen only once, as those of a camera.

        Returns:
            The same, with a scale that is a number, "clip" or "frame". Of what is seen once it is the network's number,
            where there is one, else each frame's own.
        """
        stated = None if request.fit == "native" or request.neurons else net.checkpoint.full_colour
        scale = self.scale
        if scale == "network" or (once and scale == "clip"):
            scale = stated or "clip"
        if not once:
            return replace(self, scale=scale)
        return replace(self, scale="frame" if scale == "clip" else scale, strip=False)


LOGIT, ACTIVATION = "logit", "activation"  # the units of maps
FAINTEST = 0.3  # opacity of a colour explanation at its maximum, however unlikely its class is


class Painter:
    """Draws the frames of one clip.

    Args:
        net: the network.
        drawing: how frames are drawn, with a scale that is a number or "frame".
        found: what the first pass found; the curves of the strip come from it.
        lasting: the targets of the curves, which are the same over the whole clip even where each frame explains its
            own class.
        targets: what is explained.
        origin: (x, y) of the frames' corner in the source, in its pixels.
        neurons: those that are drawn, in the place of the targets.
    """

    def __init__(
        self,
        net: Net,
        drawing: ClipDrawing,
        found: Survey | None,
        lasting: Targets,
        targets: Targets,
        origin: tuple[int, int],
        neurons: Sequence[Neuron] = (),
    ) -> None:
        self.net, self.drawing, self.origin = net, drawing, origin
        self._neurons = neurons
        self._names = [""] * len(neurons) if neurons else self._longest_names(targets)
        self._columns = [
            k for kind in LAYOUTS[drawing.layout] for k in ([None] if kind == "picture" else range(len(self._names)))
        ]  # of the sheet: None for the picture, else the number of a class
        self._curves: list[Curve] = found.curves(lasting, net) if drawing.strip and found else []
        self._sheet: Sheet | None = None

    def scales(self, explanation: Explanation) -> list[float]:
        """Find the contribution in full colour for each target's map.

        Args:
            explanation: the explanation of a frame.

        Returns:
            K numbers in logit units.
        """
        if self.drawing.scale == "frame":
            return [robust_scale(pixels, self.drawing.percentile) for pixels in explanation.maps]
        return [float(self.drawing.scale)] * len(explanation.maps)

    def prepare(self, frame: Frame, record: FrameRecord) -> None:
        """Decide the layout of the sheet at the first frame; all frames have one size.

        Args:
            frame: any frame of the clip.
            record: its record.
        """
        if self._sheet is not None:
            return
        if self._neurons:
            widest = [f"{neuron_name(part)} at 888,888 -8.88e-08" for part in record.neurons]
            labels, scales, unit = (
                ["" if k is None else widest[k] for k in self._columns],
                [-8.8e-08] * len(widest),
                ACTIVATION,
            )
        else:
            labels = ["" if k is None else _label(self._names[k], -88.88, 0.888) for k in self._columns]
            scales = [-8.8e-08] * len(self._names) if self.drawing.scale == "frame" else [float(self.drawing.scale)]
            unit = LOGIT
        self._sheet = Sheet(labels, self._size(frame), self._curves, _note(888.88, scales, self.net.cut, unit))

    def _longest_names(self, targets: Targets) -> list[str]:
        """The longest names, as many as a frame has classes: every frame must have room for its labels."""
        count = len(self.net.checkpoint.classes)
        if targets.depend_on_logits:
            chosen = [Target(i, targets.versus) for i in range(count)]
        else:
            chosen = targets.of(np.zeros(count))
        return sorted((target_name(t, self.net) for t in chosen), key=len)[-targets.most :]

    def _size(self, frame: Frame) -> tuple[int, int]:
        """The (width, height) at which each picture is drawn."""
        height, width = frame.rgb.shape[:2]
        across, rows = places(len(self._columns))
        drawn = self.drawing.height or min(max(height, LOWEST), max(LOWEST, HIGHEST // rows))
        drawn = min(drawn, WIDEST // (rows + 1))  # leaves room for the words
        room = (WIDEST - GAP * (across - 1)) / across
        factor = min(drawn / height, room / width)
        return max(1, round(width * factor)), max(1, round(height * factor))

    def draw(self, frame: Frame, explanation: Explanation, record: FrameRecord, regions: Sequence[Region] = ()) -> RGB:
        """Draw one frame of the clip.

        Args:
            frame: the frame.
            explanation: its explanation.
            record: its record, with the scales.
            regions: those that are outlined.

        Returns:
            uint8 [H, W, 3], of the same size for every frame.
        """
        assert self._sheet is not None
        size = self._size(frame)
        factor = size[1] / frame.rgb.shape[0]
        picture = resized(frame.rgb, size)
        lines = [(region.name, region.outlines) for region in regions]
        tiles = []
        for kind in LAYOUTS[self.drawing.layout]:
            if kind == "picture":
                tiles.append(Tile(picture))
                continue
            for k, (part, name, label) in enumerate(self._labelled(explanation, record)):
                if isinstance(part, NeuronPart):
                    values = drawn_map(explanation.inside.activations[k], explanation.view)
                    shown = self._laid_over(kind, values, explanation.view, picture, part.scale)
                else:
                    shown = self._draw_map(kind, explanation, k, picture, part)
                if lines:
                    shown = outlined(shown, lines, (size[0] / frame.rgb.shape[1], factor), self.origin)
                if isinstance(part, ExplainedFrame) and self.drawing.centroid and part.centroid:
                    x, y = part.centroid[0] - self.origin[0], part.centroid[1] - self.origin[1]
                    shown = marked(shown, (x * factor, y * factor))
                tiles.append(Tile(shown, label, name))
        drawn: Sequence[ExplainedFrame | NeuronPart] = record.neurons or record.explained
        scales = {} if self._hues_only else dict.fromkeys(part.scale for part in drawn)
        exact = all(part.exact for part in record.explained) and all(neuron.exact for neuron in record.neurons)
        note = _note(frame.time, list(scales), self.net.cut, ACTIVATION if record.neurons else LOGIT)
        return self._sheet.frame(tiles, frame.time, note, "" if exact else "NOT EXACT")

    def _labelled(
        self, explanation: Explanation, record: FrameRecord
    ) -> list[tuple[ExplainedFrame | NeuronPart, str, str]]:
        """What is drawn of a frame, the classes or the neurons: its part of the record, its curve, and the words."""
        if self._neurons:
            curves = [curve.name for curve in self._curves] or [""] * len(self._neurons)
            return [
                (part, curve, f"{neuron_name(part)} {part.activation:+.3g}")
                for part, curve in zip(record.neurons, curves, strict=True)
            ]
        names = [target_name(target, self.net) for target in explanation.targets]
        return [
            (part, name, _label(name, part.logit, part.probability))
            for part, name in zip(record.explained, names, strict=True)
        ]

    @property
    def _hues_only(self) -> bool:
        """Whether frames show no signed map, so that there is no scale to state."""
        return not self._neurons and self.drawing.style == "colour" and self.drawing.layout != "panel"

    def _draw_map(self, kind: str, explanation: Explanation, k: int, picture: RGB, part: ExplainedFrame) -> RGB:
        """Draw the map of one target at the size of ``picture``."""
        size = picture.shape[1], picture.shape[0]
        if self.drawing.style == "colour" and (kind == "overlay" or self.drawing.layout == "heatmap"):
            # Not as in a single picture: full opacity is at the frame's own maximum, times the probability, so that a
            # clip shows when the network is sure. The original leaves frames blank where another class leads.
            hues = colour_explanation_of(explanation, k, self.drawing.smooth, 100.0)
            p = part.probability
            p = torch.tensor(part.logit, dtype=torch.float64).sigmoid().item() if p is None else p
            hues[..., 3] *= max(FAINTEST, p)
            return coloured_weights(hues, explanation.view, size)
        return self._laid_over(kind, explanation.drawn_map(k), explanation.view, picture, part.scale)

    def _laid_over(self, kind: str, values: NDArray[np.float32], view: View, picture: RGB, scale: float) -> RGB:
        """Draw a map over a picture, or alone."""
        values = paste_back(values, view, (picture.shape[1], picture.shape[0]))
        if kind == "heatmap":
            return heatmap(values, scale)
        return overlay(picture, values, scale, self.drawing.alpha)


def _label(name: str, logit: float, probability: float | None) -> str:
    """The words below a map."""
    return f"{name} {logit:+.2f}" + ("" if probability is None else f" · p {probability:.3f}")


def _note(seconds: float, scales: list[float], cut: str | None, unit: str) -> str:
    """The words below a sheet: the time, and what the colours mean."""
    stated = f" · full colour {' '.join(f'±{scale:.2g}' for scale in scales)} {unit} a pixel" if scales else ""
    down_to = f" · exact down to {cut}, not to the pixels" if cut else ""
    return f"{seconds:.2f} s{down_to}{stated}"
