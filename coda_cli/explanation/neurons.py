"""Neurons in the record: what one is made of, and what a layer's channels have of a logit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from coda_cli.core.hybrid import per_pixel, spread
from coda_cli.core.neurons import ChannelShares, NeuronMap
from coda_cli.explanation.regions.shapes import Region
from coda_cli.explanation.regions.sums import sums_inside
from coda_cli.media.view import View
from coda_cli.render.colour import robust_scale
from coda_cli.schema.neurons import ChannelsPart, NeuronPart
from coda_cli.schema.pictures import Record
from coda_cli.schema.regions import RegionSums


def activation_part(
    neuron: NeuronMap, view: View, percentile: float, regions: Sequence[Region] | None = None
) -> NeuronPart:
    """Make the part of a record about an activation.

    Args:
        neuron: the activation.
        view: what the network saw.
        percentile: of its |contributions|, from 0 to 100: what full colour stands for.
        regions: those that its contributions are summed in, laid on the view; None where none were asked for.

    Returns:
        The part.
    """
    return _part(neuron, view, "image", percentile, regions, activation=neuron.value)


def channels_part(
    shares: ChannelShares,
    view: View,
    scale: float | str,
    percentile: float,
    regions: Sequence[Region] | None = None,
) -> ChannelsPart:
    """Make the part of a record about the channels of a layer.

    Args:
        shares: what each channel has of a logit.
        view: what the network saw.
        scale: the contribution in full colour, in logit units; a word takes the percentile of each map.
        percentile: from 0 to 100.
        regions: as for ``activation_part``.

    Returns:
        The part.
    """
    return ChannelsPart(
        layer=shares.layer,
        channels=len(shares.shares),
        sum=float(shares.shares.sum()),
        constants=shares.constants + 0.0,
        residual=shares.residual,
        tolerance=shares.tolerance,
        exact=shares.exact,
        strongest=tuple(
            _part(neuron, view, scale, percentile, regions, share=neuron.value) for neuron in shares.strongest
        ),
    )


def drawn_map(neuron: NeuronMap, view: View) -> NDArray[np.float32]:
    """Give the map of a neuron as it is drawn.

    Args:
        neuron: the neuron.
        view: what the network saw.

    Returns:
        float32 [h', w'], for each pixel of the view, whatever the resolution.
    """
    return per_pixel(neuron.pixels, view.rgb.shape[:2]).float().numpy()


def _part(
    neuron: NeuronMap,
    view: View,
    scale: float | str,
    percentile: float,
    regions: Sequence[Region] | None,
    **value: float,
) -> NeuronPart:
    """The part about one neuron, whose value is its activation or its share."""
    pixels = neuron.pixels
    drawn = spread(pixels, view.rgb.shape[:2]).numpy().astype(np.float32)
    return NeuronPart(
        layer=neuron.layer,
        channel=neuron.channel,
        position=neuron.position,
        positive=float(pixels.clamp(min=0).sum()),
        negative=float(pixels.clamp(max=0).sum()) + 0.0,
        constants=neuron.constants + 0.0,
        residual=neuron.residual,
        tolerance=neuron.tolerance,
        exact=neuron.exact,
        scale=robust_scale(drawn, percentile) if isinstance(scale, str) else scale,
        regions=None if regions is None else regions_of_neuron(neuron, view, regions),
        **value,
    )


def regions_of_neuron(neuron: NeuronMap, view: View, regions: Sequence[Region]) -> RegionSums:
    """Sum the contributions to a neuron inside regions.

    Args:
        neuron: the neuron.
        view: what the network saw.
        regions: laid on the view.

    Returns:
        The sums, in units of the activation or share.
    """
    values = spread(neuron.pixels, view.rgb.shape[:2]).numpy()
    return sums_inside(values, neuron.value - neuron.constants, neuron.tolerance, regions)


def all_neurons(record: Record) -> list[NeuronPart]:
    """Collect all neurons of a record.

    Args:
        record: of a picture.

    Returns:
        Those that are explained themselves, then the strongest of each layer's channels.
    """
    return [*record.neurons, *(n for e in record.explained for c in e.channels for n in c.strongest)]
