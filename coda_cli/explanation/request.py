"""What is asked of which network about which input."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from coda_cli.checkpoints.loading import Net, load
from coda_cli.checkpoints.manifest import DEFAULT
from coda_cli.checkpoints.targets import Targets
from coda_cli.core.networks import encode
from coda_cli.errors import UsageError
from coda_cli.explanation.inside import asked
from coda_cli.explanation.regions.annotations import Place
from coda_cli.explanation.regions.asked import Found, Regions
from coda_cli.machine.precision import DTYPES
from coda_cli.media.pictures import for_drawing
from coda_cli.media.sources import Item
from coda_cli.media.stills import Picture
from coda_cli.media.view import View, fit
from coda_cli.vocabulary import Fit, Precision, one_of


@dataclass(frozen=True)
class Request:
    """What is asked about a picture, whichever picture and network it is.

    Attributes:
        classes: class names, WordNet ids, indices, "top:K" or "all"; none means the predicted class. A single one
            needs no tuple around it.
        versus: a class that is subtracted from each of ``classes``: the exact difference of two logits is explained.
        fit: how the picture is shown to the network.
        precision: what is computed in; float64 needs a network that was loaded with that dtype.
        tolerance: replaces the relative tolerance of the residual.
        layer: also split the logit over the outputs of layers: "all", a number counted from the input (0), or a
            name.
        regions: parts of the picture whose contributions are also summed.
        neurons: activations, and layers' strongest channels, that are also explained; each a text for ``inside.asked``.
    """

    classes: tuple[str, ...] = ()
    versus: str | None = None
    fit: Fit = "crop"
    precision: Precision = "float32"
    tolerance: float | None = None
    layer: str | None = None
    regions: Regions | None = None
    neurons: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # A text is a sequence as well, of letters.
        one = isinstance(self.classes, str) or not isinstance(self.classes, Iterable)
        classes = (self.classes,) if one else self.classes
        object.__setattr__(self, "classes", tuple(str(name) for name in classes))
        object.__setattr__(self, "neurons", (self.neurons,) if isinstance(self.neurons, str) else tuple(self.neurons))
        for text in self.neurons:
            asked(text)
        refuse_unknown("fit", self.fit, Fit)
        refuse_unknown("precision", self.precision, Precision)

    def targets(self, net: Net) -> Targets:
        """Find the classes that are asked for in a network.

        Args:
            net: the network.

        Returns:
            The targets; those that depend on the logits, such as "top:K", are chosen once the logits are known.

        Raises:
            UsageError: the network has no such class.
        """
        return Targets(self.classes, self.versus, net.checkpoint)


@dataclass(frozen=True)
class Input:
    """One input that has been read.

    Attributes:
        item: the input's file, and the folder for its outputs.
        picture: its pixels, fewer of a picture that is too large to be drawn, and what was done to get them.
        view: what the network sees of it.
        found: the regions that are asked for, laid on the view.
    """

    item: Item
    picture: Picture
    view: View
    found: Found = field(default_factory=Found)


def refuse_unknown(option: str, value: object, vocabulary: object) -> None:
    """Refuse a word that an option of the library does not have.

    Args:
        option: what the option is called.
        value: what somebody wrote.
        vocabulary: the ``Literal`` type of the option, of ``vocabulary``.

    Raises:
        UsageError: it is none of the words.
    """
    if not one_of(value, vocabulary):
        raise UsageError(f"{option} is {value!r}; expected one of {', '.join(get_args(vocabulary))}")


def network_of(net: Net | str | Path | None, precision: Precision = "float32") -> Net:
    """Find or load the network that is meant by the argument ``net`` of the library's functions.

    Args:
        net: a network, or its name or file; None is the default network.
        precision: what is computed in; it decides the type of weights that are loaded here.

    Returns:
        The network.

    Raises:
        CheckpointError: the network cannot be loaded.
        UsageError: the network was loaded with weights of another type than the precision needs.
    """
    dtype = DTYPES[precision]
    if not isinstance(net, Net):
        return load(DEFAULT if net is None else net, dtype=dtype)
    if (own := next(net.model.parameters()).dtype) != dtype:
        raise UsageError(
            f"precision {precision} needs a network in {dtype}; this one is in {own}: load(..., dtype={dtype})"
        )
    return net


def input_of(item: Item, picture: Picture, net: Net, mode: Fit) -> Input:
    """Join a picture that has been read with what a network sees of it.

    Args:
        item: the file that the picture is from.
        picture: the picture.
        net: the network.
        mode: how the picture is shown to the network.

    Returns:
        The three together.

    Raises:
        MediaError: the picture is too narrow for a crop, or too large to be shown at its own size.
    """
    p = net.checkpoint.preprocessing
    view = fit(picture.rgb, p.resize, p.crop, mode, p.interpolation)
    view = view.of_picture(picture.full_size) if picture.full_size else view
    return Input(item, for_drawing(picture), view)


def with_regions(source: Input, request: Request) -> Input:
    """Find the regions of a picture, where there are any.

    Args:
        source: the picture, and what the network sees of it.
        request: what is asked.

    Returns:
        The same with its regions.

    Raises:
        MediaError: the regions of this picture cannot be read, or do not fit it.
    """
    if request.regions is None:
        return source
    item = source.item
    return replace(source, found=request.regions.found(Place(item.path, item.subfolder), source.view))


def encoded(views: Sequence[View], net: Net) -> Tensor:
    """Turn pictures of one size into the input of a network.

    Args:
        views: what the network sees of B pictures, of one size [h, w].
        net: the network.

    Returns:
        [B, 6, h, w] in [0, 1], of the network's type and on its device.
    """
    parameter = next(net.model.parameters())
    rgb = torch.from_numpy(np.stack([v.rgb for v in views]))
    if parameter.is_cuda:
        rgb = rgb.pin_memory()  # from pinned memory, the copy goes on while the next pictures are read
    return encode(rgb.to(parameter.device, non_blocking=True).permute(0, 3, 1, 2)).to(parameter.dtype)


def computing(x: Tensor, request: Request) -> torch.autocast:
    """Make the context in which a request is computed.

    Args:
        x: the input, on the device on which it is computed.
        request: what is asked, and in which precision.

    Returns:
        The context.
    """
    return torch.autocast(x.device.type, torch.bfloat16, enabled=request.precision == "bfloat16")
