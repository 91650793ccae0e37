"""What is asked of which network about which input."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from coda_cli.checkpoints.loading import Net, load
from coda_cli.checkpoints.manifest import DEFAULT
from coda_cli.checkpoints.targets import Targets
from coda_cli.errors import UsageError
from coda_cli.machine.precision import DTYPES
from coda_cli.media.pictures import for_drawing
from coda_cli.media.sources import Item
from coda_cli.media.stills import Picture
from coda_cli.media.view import View, fit
from coda_cli.vocabulary import Fit, Precision


@dataclass(frozen=True)
class Request:
    """What is asked about a picture, whichever picture and network it is.

    Attributes:
        classes: class names, WordNet ids, indices, "top:K" or "all"; none means the predicted class. One name may stand
            alone.
        versus: a class that is subtracted from each of ``classes``: the exact difference of two logits is explained.
        fit: how the picture is shown to the network.
        precision: what is computed in; float64 needs a network that was loaded with that dtype.
        tolerance: replaces the relative tolerance of the residual.
        layer: also share the logit out over the outputs of layers: "all", a number counted from the input (0), or a
            name.
    """

    classes: tuple[str, ...] = ()
    versus: str | None = None
    fit: Fit = "crop"
    precision: Precision = "float32"
    tolerance: float | None = None
    layer: str | None = None

    def __post_init__(self) -> None:
        one = isinstance(self.classes, str | int)  # a text is a sequence, too: of letters
        classes = (self.classes,) if one else self.classes
        object.__setattr__(self, "classes", tuple(str(name) for name in classes))

    def targets(self, net: Net) -> Targets:
        """Find the classes asked for in a network.

        Args:
            net: the network.

        Returns:
            The targets; what depends on the logits is filled in once they are known.

        Raises:
            UsageError: the network has no such class.
        """
        return Targets(self.classes, self.versus, net.checkpoint)


@dataclass(frozen=True)
class Input:
    """One input that has been read.

    Attributes:
        item: its file, and where its outputs go.
        picture: its pixels, fewer of a picture that is too large to be drawn, and what was done to get them.
        view: what the network sees of it.
    """

    item: Item
    picture: Picture
    view: View


def network_of(net: Net | str | Path | None, precision: Precision = "float32") -> Net:
    """The network that an argument ``net`` of the library's functions means.

    Args:
        net: a network, or its name or file; None is the default network.
        precision: what is computed in, which decides the type of the weights of one that is loaded here.

    Returns:
        The network.

    Raises:
        CheckpointError: it cannot be loaded.
        UsageError: it was loaded in another type than the precision asks for.
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
    """A picture that has been read, with what a network sees of it.

    Args:
        item: where the picture is from.
        picture: its pixels.
        net: the network.
        mode: how the picture is shown to the network.

    Returns:
        The three together.

    Raises:
        MediaError: the picture is too narrow for a crop, or too large to be shown at its own size.
    """
    p = net.checkpoint.preprocessing
    view = fit(picture.rgb, p.resize, p.crop, mode)
    view = view.of_picture(picture.full_size) if picture.full_size else view
    return Input(item, for_drawing(picture), view)
