"""What records say of neurons: activations and shares of a logit, each split over the input and proven."""

from __future__ import annotations

from pydantic import Field

from coda_cli.schema.parts import Part
from coda_cli.schema.regions import RegionSums


class NeuronPart(Part):
    """An activation, or what one channel has of a logit, split over the input as a logit is.

    activation or share == positive + negative + constants + residual

    Attributes:
        layer: the layer's name.
        channel: counted from 0.
        position: (y, x) in the layer's output, counted from 0; None where it is of all positions together.
        activation: of the neuron, or the sum over all positions of the channel, in its own units; None for a share.
        share: what the channel has of the logit, in logit units; None for an activation.
        positive: sum of all positive contributions, in units of the activation or the share.
        negative: sum of all negative contributions, at most 0.
        constants: what the layers up to this one add, which belongs to no pixel.
        residual: what rounding left over.
        tolerance: the largest |residual| that counts as exact.
        exact: whether |residual| is at most the tolerance.
        scale: the contribution of one view pixel that is drawn in full colour.
        regions: the sums inside regions that the user gave, in units of the activation or the share; None where none
            were asked for.
        files: what was written: kind -> path relative to the output folder, with /.
    """

    layer: str
    channel: int
    position: tuple[int, int] | None
    activation: float | None = None
    share: float | None = None
    positive: float
    negative: float
    constants: float
    residual: float
    tolerance: float
    exact: bool
    scale: float
    regions: RegionSums | None = None
    files: dict[str, str] = Field(default={})


class ChannelsPart(Part):
    """A logit split over the channels of one layer.

    logit == sum + constants + residual

    Attributes:
        layer: the layer's name.
        channels: how many it has.
        sum: of the shares of all channels, in logit units.
        constants: what the layers above add to the logit.
        residual: what rounding left over.
        tolerance: the largest |residual| that counts as exact.
        exact: whether |residual| is at most the tolerance.
        strongest: the channels with the largest |share|, the largest first.
    """

    layer: str
    channels: int
    sum: float
    constants: float
    residual: float
    tolerance: float
    exact: bool
    strongest: tuple[NeuronPart, ...]
