"""Explain one picture, or a batch of pictures. Nothing is printed, and nothing is written unless it is asked for."""

from __future__ import annotations

import base64
import html
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coda_cli.checkpoints.loading import Net
from coda_cli.checkpoints.targets import Target, Targets
from coda_cli.core.decompose import Decomposition, decompose
from coda_cli.core.depth import LayerShare
from coda_cli.core.folding import as_defined
from coda_cli.core.hybrid import per_pixel, spread
from coda_cli.core.networks import forward
from coda_cli.errors import CodaError, UsageError
from coda_cli.explanation.inside import Inside, logits_without_concepts, look_inside
from coda_cli.explanation.refusals import refusal, too_small
from coda_cli.explanation.request import Input, Request, computing, encoded, input_of, network_of, with_regions
from coda_cli.machine.memory import as_many_as_fit
from coda_cli.media.pictures import Image, PictureSource, as_image, as_picture
from coda_cli.media.png import encode as as_png
from coda_cli.media.sources import named
from coda_cli.media.view import View
from coda_cli.vocabulary import Fit, IfExists, Precision, Style

if TYPE_CHECKING:
    from coda_cli.explanation.record import Drawing
    from coda_cli.explanation.regions.asked import Regions
    from coda_cli.media.view import Box
    from coda_cli.schema.pictures import Record
    from coda_cli.schema.regions import RegionSums


@dataclass(frozen=True, repr=False)
class Explanation:
    """One explained picture: the logits of K targets, split into contributions of the pixels that the network saw.

    Attributes:
        view: what the network saw, and where that lies in the picture.
        targets: the K classes, or differences of classes, that are explained.
        decomposition: of a batch of one; ``pixels`` [1, K, h, w] are of ``view``, or of a hybrid's cut.
        seconds: time of the decomposition; for a batch, its time divided by its number of pictures.
        layers: for every target, the contributions at each layer asked for, from the input on.
        net: the network that is explained.
        request: what was asked.
        inside: the neurons that were asked for.
        without_concepts: float64 [classes], the logits without the concepts of a network that has some.
        input: the picture as it was read; None for a frame of a clip.
    """

    view: View
    targets: tuple[Target, ...]
    decomposition: Decomposition
    seconds: float
    layers: tuple[tuple[LayerShare, ...], ...]
    net: Net
    request: Request
    inside: Inside = field(default_factory=Inside)
    without_concepts: Tensor | None = None
    input: Input | None = field(default=None, compare=False)

    @cached_property
    def maps(self) -> NDArray[np.float32]:
        """Contribution maps float32 [K, h, w], signed, in logit units; see ``spread`` for hybrids."""
        return spread(self.positions, self.view.rgb.shape[:2]).numpy()

    @cached_property
    def positions(self) -> Tensor:
        """Contribution maps float32 [K, h', w'] at the resolution of the cut, where the network has one; on the CPU."""
        return self.decomposition.pixels[0].to("cpu", torch.float32)

    def drawn_map(self, target: int) -> NDArray[np.float32]:
        """Give the map of one target as it is drawn: of a hybrid at the resolution of its cut, which is all there is.

        Args:
            target: which of the K targets.

        Returns:
            float32 [h', w'], in logit units for each pixel of the view, whatever the resolution.
        """
        return per_pixel(self.positions[target], self.view.rgb.shape[:2]).numpy()

    @property
    def logits(self) -> NDArray[np.float32]:
        """The logits of all classes, float32 [classes]."""
        return self.decomposition.logits[0].float().cpu().numpy()

    @property
    def residual(self) -> NDArray[np.float64]:
        """What rounding left over of each target's logit, float64 [K]."""
        return self.decomposition.residual[0].numpy()

    def record(self, drawing: Drawing | None = None) -> Record:
        """Make the record that ``coda explain`` writes, without the names of files.

        Args:
            drawing: how the picture is drawn, which decides the scale in the record.

        Returns:
            The record; ``record().model_dump_json(by_alias=True)`` is its JSON.

        Raises:
            UsageError: this is a frame of a clip, whose record is made with its clip.
        """
        from coda_cli.explanation.record import Drawing, make_record

        return make_record(self, self._own_input, drawing or Drawing())

    def overlay(
        self,
        target: int = 0,
        *,
        scale: float | None = None,
        percentile: float | None = None,
        alpha: float = 0.85,
        style: Style = "signed",
    ) -> Image:
        """Draw the map of one target over the picture, with its colour bar and caption.

        Args:
            target: which of the K targets.
            scale: the contribution of a pixel in full colour, in logit units; by default the network's own.
            percentile: of the map's |contributions|, from 0 to 100: full colour of this map, where it is given.
            alpha: opacity of full colour, from 0 to 1.
            style: signed contributions, or the colour explanation of the B-cos papers.

        Returns:
            A PIL image, red for and blue against the class.

        Raises:
            UsageError: no such target, or the colour style of a hybrid, which has no weights of pixels.
        """
        return self._drawn("overlay", target, scale, percentile, alpha, style)

    def heatmap(self, target: int = 0, *, scale: float | None = None, percentile: float | None = None) -> Image:
        """Draw the map of one target alone, with its colour bar and caption.

        Args:
            target: which of the K targets.
            scale: the contribution of a pixel in full colour, in logit units; by default the network's own.
            percentile: of the map's |contributions|, from 0 to 100: full colour of this map, where it is given.

        Returns:
            A PIL image; white is 0, and grey is what the network did not see.

        Raises:
            UsageError: there is no such target.
        """
        return self._drawn("heatmap", target, scale, percentile, 0.85, "signed")

    def panel(
        self,
        target: int = 0,
        *,
        scale: float | None = None,
        percentile: float | None = None,
        alpha: float = 0.85,
        style: Style = "signed",
    ) -> Image:
        """Draw picture, overlay and heat map of one target in a row.

        Args:
            target: which of the K targets.
            scale: the contribution of a pixel in full colour, in logit units; by default the network's own.
            percentile: of the map's |contributions|, from 0 to 100: full colour of this map, where it is given.
            alpha: opacity of full colour, from 0 to 1.
            style: signed contributions, or the colour explanation of the B-cos papers.

        Returns:
            A PIL image.

        Raises:
            UsageError: as for ``overlay``.
        """
        return self._drawn("panel", target, scale, percentile, alpha, style)

    def regions(self, **given: Box | NDArray[np.generic]) -> tuple[RegionSums, ...]:
        """Sum the contributions inside regions of the picture, exactly.

        Args:
            given: for each region its name and a box (x0, y0, x1, y1) or a mask [H, W], in pixels of the original; a
                mask is inside where it is not 0, and may have another size of the same proportions.

        Returns:
            For each of the K targets the sums inside every region and in the rest; see ``schema.regions``.

        Raises:
            MediaError: a region is empty or lies beside the picture, or a mask has other proportions.
        """
        from coda_cli.explanation.regions.shapes import laid, shape_of
        from coda_cli.explanation.regions.sums import region_sums

        found = [laid(shape_of(name, region), self.view) for name, region in given.items()]
        return tuple(region_sums(self, k, found) for k in range(len(self.targets)))

    def save(
        self,
        folder: str | Path = "coda-out",
        *,
        drawing: Drawing | None = None,
        name: str | None = None,
        if_exists: IfExists = "match",
    ) -> tuple[Path, ...]:
        """Write the files that ``coda explain`` writes, under the same names and by the same rules.

        Args:
            folder: the folder for them; it is made if needed.
            drawing: which files, and how they are drawn; an overlay and the record unless given.
            name: the template of the files' names; see ``coda explain --help``.
            if_exists: what happens to a file that exists.

        Returns:
            The files, the record last.

        Raises:
            UsageError: the folder cannot be written, or the template is not valid.
            MediaError: a file exists that may not be replaced.
        """
        from coda_cli.explanation.naming import DEFAULT_NAME, Naming
        from coda_cli.explanation.record import Drawing
        from coda_cli.explanation.writer import Output, Writer

        if drawing and {"layers", "depth"} & {*drawing.kinds} and not self.layers:
            raise UsageError("no layers were asked for; write explain(..., layer='all')")
        source = self._own_input
        naming = Naming(Path(folder), self.net.checkpoint.name, name or DEFAULT_NAME)
        writer = Writer(self.net, [source.item], self.request, Output(naming, drawing or Drawing(), if_exists))
        if (there := writer.stored(source.item, source.picture, source.found.files)) is not None:
            return there.written
        return writer.write(source, self).written

    def _drawn(
        self, kind: str, target: int, scale: float | None, percentile: float | None, alpha: float, style: Style
    ) -> Image:
        from coda_cli.explanation.drawing import draw_explanation
        from coda_cli.explanation.record import Drawing

        drawing = Drawing(scale="network" if scale is None else scale, alpha=alpha, style=style)
        if percentile is not None:
            drawing = replace(drawing, scale="image" if scale is None else scale, percentile=percentile)
        return as_image(draw_explanation(kind, self, self._own_input, target, drawing))

    @property
    def _own_input(self) -> Input:
        """The picture as it was read. Raises UsageError for a frame of a clip."""
        if self.input is None:
            raise UsageError("a frame of a clip is drawn and recorded with its clip; see explain_clip")
        return self.input

    def __repr__(self) -> str:
        from coda_cli.explanation.phrases import equation

        if self.input is None:
            return f"<Explanation of a frame, {len(self.targets)} targets>"
        record = self.record()
        return f"<Explanation {record.source.path}: {'; '.join(map(equation, record.explained))}>"

    def _repr_png_(self) -> bytes:
        return as_png(np.asarray(self.panel()))

    def _repr_html_(self) -> str:
        from coda_cli.explanation.phrases import equation

        lines = "".join(f"<div>{html.escape(equation(part))}</div>" for part in self.record().explained)
        panel = base64.b64encode(self._repr_png_()).decode()
        return f'<div><img alt="picture, overlay and heat map" src="data:image/png;base64,{panel}"/>{lines}</div>'


def explain(
    source: PictureSource,
    net: Net | str | Path | None = None,
    classes: Sequence[str | int] | str | int = (),
    *,
    versus: str | None = None,
    fit: Fit = "crop",
    precision: Precision = "float32",
    tolerance: float | None = None,
    layer: str | None = None,
    regions: Regions | None = None,
    neurons: Sequence[str] = (),
) -> Explanation:
    """Explain one picture: split logits of a network exactly into the contributions of its pixels.

    Args:
        source: a path, an address, a PIL image, an array (grey [H, W], RGB [H, W, 3] or RGBA [H, W, 4]; uint8, uint16,
            or floats in [0, 1]) or a tensor with its channels first.
        net: a network from ``load``, or its name or file; the default network unless given.
        classes: class names, WordNet ids, indices, "top:K" or "all"; the predicted class unless given.
        versus: a class that is subtracted from each of ``classes``.
        fit: how the picture is shown to the network: "crop", "pad" or "native".
        precision: what is computed in; "float64" needs a network that was loaded with that dtype.
        tolerance: replaces the relative tolerance of the residual.
        layer: also split the logits over the outputs of layers: "all", a number counted from the input (0), or a name.
        regions: boxes, masks or annotations: contributions inside them are summed in the record, and they are drawn.
        neurons: also explain activations, or a layer's strongest channels, each written as for ``inside.asked``.

    Returns:
        The explanation, which gives maps, drawings and the record.

    Raises:
        MediaError: the picture cannot be read, or is too small for the network.
        UsageError: there is no such class, layer or neuron, or the source is not a picture.
        CheckpointError: the network cannot be loaded.
        ExactnessError: the logits are not finite.

    Source:
        Böhle, Fritz and Schiele, CVPR 2021, equation 8.

    Example:
        >>> e = coda.explain("photo.jpg", classes=["church"])
        >>> e.overlay().save("overlay.png")
    """
    request = Request(classes, versus, fit, precision, tolerance, layer, regions, neurons)  # type: ignore[arg-type]
    net = network_of(net, precision)
    targets = request.targets(net)
    item = named(source if isinstance(source, str | Path) else "picture")
    read = with_regions(input_of(item, as_picture(source), net, fit), request)
    (result,) = as_many_as_fit(
        net.model, [read.view], read.view.resolution, partial(explain_batch, net=net, request=request, targets=targets)
    )
    if isinstance(result, CodaError):
        raise result.about(item.name)
    return replace(result, input=read)


def explain_batch(views: Sequence[View], net: Net, request: Request, targets: Targets) -> list[Explanation | CodaError]:
    """Explain pictures of one size together.

    Args:
        views: what the network sees of B pictures, of one size.
        net: the network.
        request: what is asked.
        targets: the classes of the request, found in the network.

    Returns:
        For each view its explanation, or why there is none: a logit that is not finite, or a picture that is smaller
        than a kernel of the network.

    Raises:
        UsageError: the network has no such layer or neuron.
        RuntimeError, MemoryError: memory ran out; ``machine.memory`` tries again with fewer pictures.
    """
    try:
        x = encoded(views, net)
        with computing(x, request), as_defined(bool(request.layer or request.neurons)):
            start = time.perf_counter()
            d = decompose(net.model, x, targets.weightings, relative_tolerance=request.tolerance).cpu()
            seconds = (time.perf_counter() - start) / len(views)
            chosen = [tuple(targets.of(row)) for row in d.logits.double().numpy()]
            found = [look_inside(net, x[b : b + 1], d.weights[b, : len(c)], request) for b, c in enumerate(chosen)]
            plain = logits_without_concepts(net, x)
    except (ValueError, RuntimeError) as error:
        if (why := too_small(error, views[0], net)) is None:
            raise
        return [why for _ in views]
    return [
        refusal(d[b], net)
        or Explanation(view, c, d[b].first(len(c)), seconds, found[b][0], net, request, found[b][1], plain[b])
        for b, (view, c) in enumerate(zip(views, chosen, strict=True))
    ]


@torch.no_grad()
def classify_batch(views: Sequence[View], net: Net, request: Request) -> list[NDArray[np.float32]]:
    """Classify pictures of one size together, without decomposing anything.

    Args:
        views: what the network sees of B pictures, of one size.
        net: the network.
        request: what is asked; only its precision is used here.

    Returns:
        The logits [classes] of each.

    Raises:
        MediaError: a picture is smaller than a kernel of the network, or memory does not hold even one.
    """
    try:
        x = encoded(views, net)
        with computing(x, request):
            return list(forward(net.model, x).float().cpu().numpy())
    except (ValueError, RuntimeError) as error:
        if (why := too_small(error, views[0], net)) is None:
            raise
        raise why from error
