"""Make the record of an explanation: the numbers that are written about it."""

from __future__ import annotations

import hashlib
import json
import math
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coda_cli.checkpoints.loading import Net
from coda_cli.checkpoints.manifest import SUMMED, Checkpoint
from coda_cli.core import abilities
from coda_cli.core.decompose import Decomposition
from coda_cli.core.depth import LayerShare
from coda_cli.errors import UsageError
from coda_cli.explanation.evidence import Evidence, measure
from coda_cli.explanation.naming import KINDS
from coda_cli.explanation.neurons import activation_part, channels_part
from coda_cli.explanation.phrases import CONFIDENT
from coda_cli.explanation.picture import Explanation
from coda_cli.explanation.refusals import refuse_bad_drawing
from coda_cli.explanation.regions.shapes import Region
from coda_cli.explanation.regions.sums import region_sums
from coda_cli.explanation.request import Input, refuse_unknown
from coda_cli.media.files import utf8
from coda_cli.media.view import View
from coda_cli.render.colour import robust_scale
from coda_cli.schema.parts import ClassPart, ConstantPart, Network, ScoredClass, Source, Sums, ViewPart
from coda_cli.schema.pictures import EvidencePart, Explained, LayerPart, Record, RegionPart
from coda_cli.vocabulary import Fit, ScaleOf, Style

SCALES = ("network", "image", "run")  # ways to find what full colour stands for
TOP = 5  # classes with the highest logits in every record


@dataclass(frozen=True)
class Drawing:
    """What is written about a picture and how it is drawn.

    Attributes:
        kinds: the kinds of files, of ``naming.KINDS``.
        scale: the contribution in full colour, in logit units; "network" takes the network's own, "image" the
            ``percentile`` of each map's |contributions|, "run" the same percentile over all maps of a run.
        percentile: from 0 to 100. The "network" scale needs it where the network states no full colour for its view.
        alpha: opacity of full colour in an overlay, from 0 to 1.
        style: signed contributions, or the colour explanation of the B-cos papers.
        smooth: the odd window of the colour explanation, in the network's pixels.
        of_run: what was found for the scale "run".
    """

    kinds: tuple[str, ...] = ("overlay", "json")
    scale: float | Literal["network", "image", "run"] = "network"
    percentile: float = 99.5
    alpha: float = 0.85
    style: Style = "signed"
    smooth: int = 15
    of_run: float | None = None

    def __post_init__(self) -> None:
        if unknown := [kind for kind in self.kinds if kind not in KINDS]:
            raise UsageError(f"kinds: there is no {unknown[0]!r}; there are {', '.join(KINDS)}")
        refuse_bad_drawing(self.scale, SCALES, self.percentile, self.alpha, self.smooth)
        refuse_unknown("style", self.style, Style)

    def full_colour(self, net: Net, view: View, pixels: NDArray[np.float32]) -> tuple[float, ScaleOf]:
        """Find what full colour stands for in one map.

        Args:
            net: the network.
            view: what it saw.
            pixels: the map, float32 [h, w], logit units.

        Returns:
            The contribution of a pixel in logit units, and what decided it.
        """
        described, side = net.checkpoint, net.checkpoint.preprocessing.crop
        if self.scale == "network" and described.full_colour and view.resolution == (side, side):
            return described.full_colour, "network"
        if self.scale == "run" and self.of_run is not None:
            return self.of_run, "run"
        if not isinstance(self.scale, str):
            return self.scale, "given"
        return robust_scale(pixels, self.percentile), "image"


def make_record(explanation: Explanation, source: Input, drawing: Drawing, settings: str | None = None) -> Record:
    """Make the record of an explained picture.

    Args:
        explanation: the explanation.
        source: the picture as it was read.
        drawing: how it is drawn, which decides the scale.
        settings: what ``settings_hash`` gives, where it has been computed already.

    Returns:
        The record, without the names of files.
    """
    net, request, view = explanation.net, explanation.request, explanation.view
    regions = source.found.regions if request.regions else None
    width, height = view.resolution
    top = top_classes(net, explanation.decomposition.logits[0])
    return Record(
        source=source_part(source),
        network=network_part(net),
        view=ViewPart(fit=request.fit, width=width, height=height, box=view.box, notes=view_notes(net, request.fit)),
        explained=tuple(_explained(explanation, k, drawing, regions) for k in range(len(explanation.targets))),
        neurons=tuple(activation_part(n, view, drawing.percentile, regions) for n in explanation.inside.activations),
        region_files=dict(source.found.files),
        region_boxes=source.found.boxes,
        region_labels=source.found.labels,
        top=top,
        confident=top[0].probability >= CONFIDENT,
        settings=settings or settings_hash(net, request, drawing),
        device=str(net.device),
        precision=request.precision,
        versions=versions(),
        seconds=explanation.seconds,
    )


def top_classes(net: Net, logits: Tensor) -> tuple[ScoredClass, ...]:
    """List the classes with the highest logits.

    Args:
        net: the network.
        logits: [classes].

    Returns:
        TOP of them, the highest first, each with its logit and probability.
    """
    values, p = logits.double().cpu().numpy(), probabilities_of(net, logits)
    best = [int(i) for i in np.argsort(-values, kind="stable")[:TOP]]
    return tuple(
        ScoredClass(**class_part(net.checkpoint, i).model_dump(), logit=float(values[i]), probability=float(p[i]))
        for i in best
    )


def probabilities_of(net: Net, logits: Tensor) -> NDArray[np.float64]:
    """Compute the probabilities of all classes, as the network was trained to mean them.

    Args:
        net: the network.
        logits: [classes].

    Returns:
        [classes] in [0, 1]: a sigmoid for each class by itself, or the softmax of an ordinary network.
    """
    return abilities.probabilities(net.model, logits.double().cpu()[None])[0].numpy()


def view_notes(net: Net, fitted: Fit) -> tuple[str, ...]:
    """Say what the way in which a picture is made to fit means for the logits.

    Args:
        net: the network.
        fitted: how pictures are made to fit.

    Returns:
        Sentences, for record, picture and console.
    """
    if fitted == "native" and net.checkpoint.architecture in SUMMED:
        return (
            f"logits of {net.checkpoint.name} are sums over the picture and grow with its area; its classes and "
            "probabilities were not trained at this size",
        )
    return ()


def settings_hash(net: Net, *asked: Any, **more: Any) -> str:
    """Compute a hash of everything that decides a result, except the source and the weights.

    Args:
        net: the network; the hash covers its description.
        asked: dataclasses of settings: a request, a drawing.
        more: further settings.

    Returns:
        sha256 as hex digits.
    """
    everything = {key: value for part in asked for key, value in asdict(part).items()}
    for key in ("regions", "neurons", "of_run"):
        if not everything.get(key, ...):
            del everything[key]  # without them the hash is that of versions which knew none
    everything |= {**more, "network": described(net), "coda": versions()["coda"]}
    return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()


def versions(libraries: Iterable[str] = ()) -> dict[str, str]:
    """List the versions of the software that computes a record.

    Args:
        libraries: further distributions that take part.

    Returns:
        The version of each, by name.
    """
    own = {"coda": _version("coda-cli"), "torch": torch.__version__, "python": platform.python_version()}
    return own | {library: _version(library) for library in libraries}


@cache  # it reads a file
def _version(distribution: str) -> str:
    return version(distribution)


def network_part(net: Net) -> Network:
    """Make the part of a record that describes a network.

    Args:
        net: the network.

    Returns:
        The part.
    """
    checkpoint = net.checkpoint
    return Network(
        name=checkpoint.name,
        sha256=net.sha256,
        architecture=checkpoint.architecture,
        temperature=float(checkpoint.arguments.get("temperature", 1.0)),
        assumed=net.assumed,
        cut=net.cut,
        classes=len(checkpoint.classes),
        zero=abilities.zero(net.model),
    )


def described(net: Net) -> dict[str, Any]:
    """Describe everything about a network, except its weights, that decides its results.

    Files of the authors do not hold it, so that the hash of such a file does not cover it.

    Args:
        net: the network.

    Returns:
        Architecture, arguments, preprocessing, classes and, where there are some, concepts, as JSON.
    """
    decisive = {"architecture", "arguments", "preprocessing", "classes", "concepts"}
    return net.checkpoint.model_dump(mode="json", include=decisive)


def source_part(source: Input) -> Source:
    """Make the part of a record that describes an input file.

    Args:
        source: the picture as it was read.

    Returns:
        The part.
    """
    picture, (width, height) = source.picture, source.view.size
    return Source(
        path=utf8(source.item.name),
        sha256=picture.sha256,
        bytes=picture.bytes,
        width=width,
        height=height,
        notes=picture.notes,
    )


def _explained(explanation: Explanation, k: int, drawing: Drawing, inside: Sequence[Region] | None) -> Explained:
    """Make the part of a record about target ``k``."""
    view, pixels = explanation.view, explanation.maps[k]
    evidence = measure(pixels)
    regions = tuple(
        RegionPart(
            box=(*to_source(view, *r.box[:2]), *to_source(view, *r.box[2:])), share=r.share, view_pixels=r.pixels
        )
        for r in evidence.regions
    )
    layers = explanation.layers[k] if explanation.layers else ()
    channels = explanation.inside.channels[k] if explanation.inside.channels else ()
    scale, scale_of = drawing.full_colour(explanation.net, view, pixels)
    given = scale if scale_of in ("given", "run") else "image"  # a network's own is not for the maps of its parts
    return Explained(
        **sums(explanation, k, evidence).model_dump(),
        evidence=EvidencePart(
            centroid=None if evidence.centroid is None else to_source(view, *evidence.centroid),
            half_share=evidence.half_share,
            regions=regions,
            grid=evidence.grid,
        ),
        scale=scale,
        scale_of=scale_of,
        layers=tuple(_layer(share, drawing.percentile) for share in layers),
        channels=tuple(channels_part(shares, view, given, drawing.percentile, inside) for shares in channels),
        regions=None if inside is None else region_sums(explanation, k, inside),
    )


def _layer(share: LayerShare, percentile: float) -> LayerPart:
    """Make the part of a record about the contributions at one layer."""
    h, w = share.pixels.shape
    return LayerPart(
        name=share.name,
        height=h,
        width=w,
        sum=float(share.pixels.double().sum()),
        positional=share.positional,
        residual=share.residual,
        tolerance=share.tolerance,
        exact=share.exact,
        approximate=share.approximate,
        bias=share.bias,
        carried=_finite(share.carried),
        ratio=_finite(share.ratio),
        scale=robust_scale(share.pixels.cpu().numpy(), percentile),
    )


def sums(explanation: Explanation, k: int, evidence: Evidence) -> Sums:
    """Make the part of a record that says what the logit of one target is made of.

    Args:
        explanation: the explanation.
        k: which target.
        evidence: the target's map in numbers.

    Returns:
        The part.
    """
    d, target, net = explanation.decomposition, explanation.targets[k], explanation.net
    checkpoint, logit, plain = net.checkpoint, float(d.logit[0, k]), explanation.without_concepts
    constants = tuple(ConstantPart(layer=c.layer, kind=c.kind, share=float(c.share[0, k]) + 0.0) for c in d.constants)
    p = None if target.versus is not None else float(probabilities_of(net, d.logits[0])[target.index])
    return Sums(
        **class_part(checkpoint, target.index).model_dump(),
        versus=None if target.versus is None else class_part(checkpoint, target.versus),
        logit=logit,
        logit_without_concepts=None if plain is None else float(d.weights[0, k].double() @ plain),
        probability=p,
        bias=float(d.bias[0, k]) + 0.0,  # a difference can be -0.0, which becomes 0.0
        constants=constants,
        exactness=d.exactness,
        carried=_carried(d, k),
        positional=float(d.positional[0, k]) + 0.0,
        positive=evidence.positive,
        negative=evidence.negative,
        residual=float(d.residual[0, k]),
        tolerance=float(d.tolerance[0, k]),
        exact=bool(d.exact[0, k]),
    )


def class_part(checkpoint: Checkpoint, index: int) -> ClassPart:
    """Make the part of a record that names a class.

    Args:
        checkpoint: the network's description.
        index: the class's index.

    Returns:
        The part.
    """
    wnid = checkpoint.wnids[index] if checkpoint.wnids else None
    return ClassPart(index=index, name=checkpoint.classes[index], wnid=wnid)


def _carried(d: Decomposition, k: int) -> float | None:
    """The share of a logit less its last constant that contributions have; None where it is all by construction."""
    if d.exactness == "by construction":
        return None
    shares = d.constant_shares[0, k]
    rest = float(d.logit[0, k]) - (float(shares[-1]) if len(shares) else 0.0)
    return _finite(float(d.logit[0, k] - d.residual[0, k] - shares.sum()) / rest) if rest else None


def _finite(value: float) -> float | None:
    """A number that JSON can hold."""
    return value if math.isfinite(value) else None


def to_source(view: View, x: float, y: float) -> tuple[float, float]:
    """Find where a point of the view lies in the picture.

    Args:
        view: what the network saw.
        x: distance from the view's left edge, in pixels of the view.
        y: distance from its top edge, in pixels of the view.

    Returns:
        x and y in pixels of the picture.
    """
    h, w = view.rgb.shape[:2]
    x0, y0, x1, y1 = view.box
    return x0 + x * (x1 - x0) / w, y0 + y * (y1 - y0) / h
