"""From an explanation to its record: the numbers that are written about it."""

from __future__ import annotations

import math
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from coda_cli.checkpoints.loading import Net
from coda_cli.checkpoints.manifest import Checkpoint
from coda_cli.core.depth import LayerShare
from coda_cli.errors import UsageError
from coda_cli.explanation.evidence import Evidence, measure
from coda_cli.explanation.picture import Explanation, Request
from coda_cli.media.files import utf8
from coda_cli.media.sources import Item
from coda_cli.media.stills import Picture
from coda_cli.media.view import View
from coda_cli.render.colour import robust_scale
from coda_cli.render.weights import colour_explanation
from coda_cli.schema.parts import ClassPart, Network, ScoredClass, Source, Sums, ViewPart
from coda_cli.schema.pictures import EvidencePart, Explained, LayerPart, Record, RegionPart

TOP = 5  # classes with the highest logits in every record


@dataclass(frozen=True)
class Drawing:
    """What is written about a picture and how it is drawn.

    ``scale``: the contribution in full colour, in logit units; "image" takes the ``percentile`` of each map's
    |contributions|, "run" the same percentile over all maps of a run.
    """

    kinds: tuple[str, ...] = ("overlay", "json")
    scale: float | Literal["image", "run"] = "image"
    percentile: float = 99.5
    alpha: float = 0.85
    style: Literal["signed", "colour"] = "signed"  # colour: the colour explanation of the B-cos papers
    smooth: int = 15  # its window in the network's pixels


def make_record(
    explanation: Explanation, net: Net, request: Request, drawing: Drawing, source: Source, settings: str
) -> Record:
    """The record of an explained picture, without the files written about it."""
    d, view, checkpoint = explanation.decomposition, explanation.view, net.checkpoint
    logits = d.logits[0].double().cpu().numpy()
    height, width = view.rgb.shape[:2]
    explained = tuple(_explained(explanation, k, checkpoint, drawing) for k in range(len(explanation.targets)))
    best = np.argsort(-logits, kind="stable")[:TOP]
    parameter = next(net.model.parameters())
    return Record(
        source=source,
        network=network_part(net),
        view=ViewPart(fit=request.fit, width=width, height=height, box=view.box),
        explained=explained,
        top=tuple(
            ScoredClass(**class_part(checkpoint, int(i)).model_dump(), logit=float(logits[i]),
                        probability=sigmoid(float(logits[i])))
            for i in best
        ),
        settings=settings,
        device=str(parameter.device),
        precision=request.precision,
        versions=versions(),
        seconds=explanation.seconds,
    )  # fmt: skip


def versions(libraries: Iterable[str] = ()) -> dict[str, str]:
    """What computes a record; ``libraries`` are further distributions that have a part in it."""
    own = {"coda": _version("coda-cli"), "torch": torch.__version__, "python": platform.python_version()}
    return own | {library: _version(library) for library in libraries}


@cache  # it reads a file
def _version(distribution: str) -> str:
    return version(distribution)


def network_part(net: Net) -> Network:
    """What records say of a network."""
    checkpoint = net.checkpoint
    return Network(
        name=checkpoint.name, sha256=net.sha256, architecture=checkpoint.architecture,
        temperature=float(checkpoint.arguments.get("temperature", 1.0)), assumed=net.assumed,
        cut=net.cut,
    )  # fmt: skip


def described(net: Net) -> dict[str, Any]:
    """What decides a network's results beside its weights: of the authors' files, it is not in the file."""
    return net.checkpoint.model_dump(mode="json", include={"architecture", "arguments", "preprocessing", "classes"})


def source_part(item: Item, picture: Picture, view: View) -> Source:
    """What records say of an input file."""
    return Source(
        path=utf8(item.path.as_posix()), sha256=picture.sha256, bytes=picture.bytes,
        width=view.size[0], height=view.size[1], notes=picture.notes,
    )  # fmt: skip


def _explained(explanation: Explanation, k: int, checkpoint: Checkpoint, drawing: Drawing) -> Explained:
    view, pixels = explanation.view, explanation.maps[k]
    evidence = measure(pixels)
    regions = tuple(
        RegionPart(box=(*to_source(view, *r.box[:2]), *to_source(view, *r.box[2:])), share=r.share,
                   view_pixels=r.pixels)
        for r in evidence.regions
    )  # fmt: skip
    return Explained(
        **sums(explanation, k, evidence, checkpoint).model_dump(),
        evidence=EvidencePart(
            centroid=None if evidence.centroid is None else to_source(view, *evidence.centroid),
            half_share=evidence.half_share,
            regions=regions,
            grid=evidence.grid,
        ),
        scale=robust_scale(pixels, drawing.percentile) if isinstance(drawing.scale, str) else drawing.scale,
        layers=tuple(_layer(share, drawing.percentile) for share in explanation.layers[k])
        if explanation.layers
        else (),
    )


def _layer(share: LayerShare, percentile: float) -> LayerPart:
    h, w = share.pixels.shape
    return LayerPart(
        name=share.name, height=h, width=w, sum=float(share.pixels.double().sum()), positional=share.positional,
        residual=share.residual, tolerance=share.tolerance, exact=share.exact, approximate=share.approximate,
        scale=robust_scale(share.pixels.cpu().numpy(), percentile),
    )  # fmt: skip


def sums(explanation: Explanation, k: int, evidence: Evidence, checkpoint: Checkpoint) -> Sums:
    """What the logit of target ``k`` is made of; ``evidence`` is its map's."""
    d, target = explanation.decomposition, explanation.targets[k]
    logit = float(d.logit[0, k])
    return Sums(
        **class_part(checkpoint, target.index).model_dump(),
        versus=None if target.versus is None else class_part(checkpoint, target.versus),
        logit=logit,
        probability=sigmoid(logit) if target.versus is None else None,
        bias=float(d.bias[0, k]) + 0.0,  # no -0.0 for a difference
        positional=float(d.positional[0, k]) + 0.0,
        positive=evidence.positive,
        negative=evidence.negative,
        residual=float(d.residual[0, k]),
        tolerance=float(d.tolerance[0, k]),
        exact=bool(d.exact[0, k]),
    )


def refuse_style(net: Net, style: str) -> None:
    """Raises UsageError for a style that a network's decomposition does not have."""
    if style == "colour" and net.cut:
        raise UsageError(f"--style colour shows weights of pixels; those of {net.checkpoint.name} end at {net.cut}")


def colour_explanation_of(
    explanation: Explanation, k: int, smooth: int, percentile: float = 99.5
) -> NDArray[np.float32]:
    """The colour explanation [h, w, 4] of one target; see ``render.weights``."""
    d = explanation.decomposition
    w, c = (t[0, k].to("cpu", torch.float32).numpy() for t in (d.dynamic_weights, d.contributions))
    return colour_explanation(w, c, smooth, percentile)


def class_part(checkpoint: Checkpoint, index: int) -> ClassPart:
    """A class as records name it."""
    wnid = checkpoint.wnids[index] if checkpoint.wnids else None
    return ClassPart(index=index, name=checkpoint.classes[index], wnid=wnid)


def sigmoid(x: float) -> float:
    """The probability of a logit; overflows for none."""
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def to_source(view: View, x: float, y: float) -> tuple[float, float]:
    """A point of the view in the source's pixels."""
    h, w = view.rgb.shape[:2]
    x0, y0, x1, y1 = view.box
    return x0 + x * (x1 - x0) / w, y0 + y * (y1 - y0) / h
