"""Neurons of a clip: the same ones in every frame, over time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from coda_cli.checkpoints.loading import Net
from coda_cli.core.neurons import Neuron, neuron_value
from coda_cli.errors import UsageError
from coda_cli.explanation.inside import asked
from coda_cli.explanation.neurons import activation_part
from coda_cli.explanation.picture import Explanation
from coda_cli.explanation.regions.shapes import Region
from coda_cli.explanation.request import Request, computing, encoded
from coda_cli.media.view import View
from coda_cli.schema.clips import ClipNeuron
from coda_cli.schema.neurons import NeuronPart


def neurons_of(request: Request, *, centroid: bool = False) -> tuple[Neuron, ...]:
    """List the neurons that are asked for; every frame has the same.

    Args:
        request: what is asked.
        centroid: whether the centroid of the positive evidence is to be marked.

    Returns:
        The neurons, in the order in which they were given.

    Raises:
        UsageError: strongest channels are asked for, one channel is asked for in two ways, or the centroid of neurons.
    """
    every = [asked(text) for text in request.neurons]
    if strongest := [one for one in every if one.neuron is None]:
        raise UsageError(
            f"--neurons {strongest[0].text}: the strongest channels change from frame to frame; coda explain finds "
            "those of a frame that is saved as a picture, and --neuron LAYER:CHANNEL names them here"
        )
    neurons = [one.neuron for one in every if one.neuron is not None]
    channels = [neuron.channel for neuron in neurons]
    for one, neuron in zip(every, neurons, strict=True):
        # At a position where the channel is strongest in some frames, the two would be one neuron in these.
        if channels.count(neuron.channel) > 1 and neuron.where == "max":
            raise UsageError(
                f"--neuron {one.text}: channel {neuron.channel} is asked for in two ways; explain them in two runs"
            )
    if neurons and centroid:
        raise UsageError("--centroid: marks the evidence for a class, and --neuron shows neurons")
    return tuple(neurons)


def neuron_title(layer: str, neuron: Neuron) -> str:
    """Name a neuron of a clip, whatever its position in a frame is.

    Args:
        layer: the layer's name.
        neuron: what was asked for.

    Returns:
        A phrase such as "layers.6, channel 17", or "layers.6, channel 17 at 4,9", y before x.
    """
    where = {"max": "", "sum": ", all positions"}.get(str(neuron.where))
    return f"{layer}, channel {neuron.channel}" + (
        f" at {neuron.where[0]},{neuron.where[1]}" if where is None else where
    )


def values_of(views: Sequence[View], net: Net, request: Request) -> list[list[tuple[str, float]]]:
    """Compute the activations that are asked for in some frames, without sharing them out.

    Args:
        views: what the network sees of B frames, of one size.
        net: the network.
        request: what is asked.

    Returns:
        For each frame the title and the activation of every neuron.

    Raises:
        UsageError: there is no such layer, channel or position, or the layer lies below the cut.
    """
    if not request.neurons:
        return [[] for _ in views]
    x, rows = encoded(views, net), []
    with computing(x, request):
        for b in range(len(views)):
            row = []
            for one, neuron in zip(map(asked, request.neurons), neurons_of(request), strict=True):
                try:
                    layer, value = neuron_value(net.model, x[b : b + 1], one.layer, neuron)
                except ValueError as error:
                    raise UsageError(f"--neuron {one.text}: {error}") from error
                row.append((neuron_title(layer, neuron), value))
            rows.append(row)
    return rows


def neuron_parts(
    explanation: Explanation, scales: Sequence[float] | None, percentile: float, regions: Sequence[Region]
) -> tuple[NeuronPart, ...]:
    """Make the parts of a frame's record about its neurons.

    Args:
        explanation: the explanation of the frame.
        scales: what is drawn in full colour of each; None takes the percentile of each map.
        percentile: of the |contributions|, from 0 to 100.
        regions: laid on what the network saw of the frame.

    Returns:
        A part for each neuron.
    """
    inside = regions if explanation.request.regions else None
    found = explanation.inside.activations
    parts = tuple(activation_part(neuron, explanation.view, percentile, inside) for neuron in found)
    if scales is None:
        return parts
    return tuple(part.model_copy(update={"scale": scale}) for part, scale in zip(parts, scales, strict=True))


@dataclass
class NeuronTally:
    """Sums over the frames of a clip, of one neuron.

    Attributes:
        layer: the layer's name.
        channel: counted from 0.
        frames: how many were counted.
        sums: of activations, positive and negative contributions, and constants.
    """

    layer: str
    channel: int
    frames: int = 0
    sums: list[float] = field(default_factory=lambda: [0.0] * 4)

    def add(self, part: NeuronPart) -> None:
        """Count a frame.

        Args:
            part: the neuron's part of its record.
        """
        self.frames += 1
        terms = part.activation or 0.0, part.positive, part.negative, part.constants
        self.sums = [total + term for total, term in zip(self.sums, terms, strict=True)]

    def part(self) -> ClipNeuron:
        """Make the part of the clip's record.

        Returns:
            The means over the frames.
        """
        activation, positive, negative, constants = (total / self.frames for total in self.sums)
        return ClipNeuron(
            layer=self.layer,
            channel=self.channel,
            frames=self.frames,
            mean_activation=activation,
            mean_positive=positive,
            mean_negative=negative,
            mean_constants=constants,
        )
