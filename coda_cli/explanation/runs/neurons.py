"""The neurons of a record held against the same computed again: both steps, from logit to channels and to pixels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from coda_cli.core.neurons import ChannelShares, NeuronMap
from coda_cli.explanation.neurons import regions_of_neuron
from coda_cli.explanation.picture import Explanation
from coda_cli.explanation.runs.regions import hold_regions, laid_again
from coda_cli.schema.neurons import NeuronPart
from coda_cli.schema.pictures import Explained, Record
from coda_cli.schema.regions import RegionSums


@dataclass(frozen=True)
class Allowed:
    """What a record may be off by, as a share of the magnitudes that a number is the sum of.

    Attributes:
        value: of a number that rounding alone moves.
        part: of a sum over a part of the contributions, which also moves where rounding lets another ReLU pass.
        own: of the record's own sums.
        now: the relative tolerance of what was computed again, of which a tolerance is the multiple.
    """

    value: float
    part: float
    own: float
    now: float


@dataclass
class Held:
    """Numbers of a record, each with the same number now and the largest difference that rounding explains.

    Attributes:
        numbers: what each is called -> in the record, now, and what is allowed.
        reasons: what else does not hold, a phrase each.
    """

    numbers: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)

    def farthest(self) -> tuple[str, float, float]:
        """Find the number that is farthest off.

        Returns:
            Its name, its difference, and what is allowed.
        """
        off = {name: (abs(before - now), most) for name, (before, now, most) in self.numbers.items()}
        name = max(off, key=lambda one: off[one][0] / (off[one][1] or 1e-300))
        return name, *off[name]


def texts_of(record: Record) -> tuple[str, ...]:
    """Say which neurons a record is about, as somebody would ask for them.

    Args:
        record: the record.

    Returns:
        A text for ``inside.asked`` each, at the position that the record names; layers by their names alone, since a
        number would count from the input.
    """
    activations = [f"={n.layer}:{n.channel}:{_where(n)}" for n in record.neurons]
    most = {c.layer: len(c.strongest) for part in record.explained for c in part.channels}
    return (*activations, *(f"={layer}:top:{max(1, count)}" for layer, count in most.items()))


def hold_activations(record: Record, explanation: Explanation, allowed: Allowed) -> Iterator[tuple[NeuronPart, Held]]:
    """Hold every activation of a record against the same now.

    Args:
        record: the record.
        explanation: of the same picture, with the same neurons.
        allowed: what they may be off by.

    Yields:
        The part of the record, and what was found.
    """
    now = {(n.layer, n.channel, n.position): n for n in explanation.inside.activations}
    for part in record.neurons:
        if (found := now.get((part.layer, part.channel, part.position))) is not None:
            held = Held()
            _hold(part, part.activation, found, allowed, "", held, explanation)
            yield part, held


def hold_channels(part: Explained, explanation: Explanation, j: int, allowed: Allowed) -> Held:
    """Hold the channels that make up the logit of a target against the same now.

    Args:
        part: the target in the record.
        explanation: of the same picture, with the same neurons.
        j: which of its targets it is.
        allowed: what they may be off by.

    Returns:
        What was found; nothing where the record has no channels.
    """
    inside, held = explanation.inside.channels, Held()
    now = {shares.layer: shares for shares in inside[j]} if inside else {}
    for layer in part.channels:
        if (shares := now.get(layer.layer)) is None:
            continue
        size, name = shares.tolerance / allowed.now, layer.layer
        most = allowed.part * size
        held.numbers[f"sum of the channels of {name}"] = layer.sum, float(shares.shares.sum()), most
        held.numbers[f"constants above {name}"] = layer.constants, shares.constants, most
        if layer.channels != len(shares.shares):
            held.reasons.append(f"{name} has {len(shares.shares)} channels, {layer.channels} in the record")
        if not shares.exact:
            held.reasons.append(f"the channels of {name} do not add up to the logit now")
        if not layer.exact:
            held.reasons.append(f"the record itself says that the channels of {name} are not exact")
        if abs(part.logit - layer.sum - layer.constants - layer.residual) > allowed.own * size:
            held.reasons.append(f"{name}: the terms of the record do not add up")
        _hold_strongest(layer.strongest, shares, most, allowed, held, explanation)
    return held


def _hold_strongest(
    strongest: Iterable[NeuronPart],
    shares: ChannelShares,
    most: float,
    allowed: Allowed,
    held: Held,
    explanation: Explanation,
) -> None:
    """Hold the strongest channels of a layer, and whether they are the strongest."""
    now, least = {neuron.channel: neuron for neuron in shares.strongest}, abs(shares.strongest[-1].value)
    for one in strongest:
        what = f"channel {one.channel} of {shares.layer}: "
        if (found := now.get(one.channel)) is not None:
            _hold(one, one.share, found, allowed, what, held, explanation)
        # Rounding decides which of two equal channels is the last of the strongest.
        elif not 0 <= one.channel < len(shares.shares) or abs(float(shares.shares[one.channel])) < least - most:
            held.reasons.append(f"{what}it is none of the strongest")
        else:
            held.numbers[f"{what}value"] = one.share or 0.0, float(shares.shares[one.channel]), most


def _hold(
    part: NeuronPart,
    value: float | None,
    now: NeuronMap,
    allowed: Allowed,
    what: str,
    held: Held,
    explanation: Explanation,
) -> None:
    """Hold one neuron: its value, what it is made of, its own sums, and those inside regions."""
    size, before = now.tolerance / allowed.now, value or 0.0
    most = allowed.part * size
    # An activation moves by rounding alone; a share is a sum over a part of what the logit is made of.
    held.numbers[f"{what}value"] = before, now.value, (allowed.value if part.share is None else allowed.part) * size
    held.numbers[f"{what}positive"] = part.positive, float(now.pixels.clamp(min=0).sum()), most
    held.numbers[f"{what}negative"] = part.negative, float(now.pixels.clamp(max=0).sum()), most
    held.numbers[f"{what}constants"] = part.constants, now.constants, most
    regions = laid_again(explanation)
    sums_now = None if regions is None else regions_of_neuron(now, explanation.view, regions)
    numbers, reasons = hold_regions(part.regions, sums_now, most, what)
    held.numbers |= numbers
    held.reasons += reasons
    found = {
        f"{what}it does not add up now": now.exact,
        f"{what}the record itself says that it is not exact": part.exact,
        f"{what}the terms of the record do not add up": max(map(abs, _own_sums(part, before))) <= allowed.own * size,
    }
    held.reasons += [reason for reason, holds in found.items() if not holds]


def _own_sums(part: NeuronPart, value: float) -> Iterator[float]:
    """By how much the sums of a neuron's record miss what they should be."""
    yield value - part.positive - part.negative - part.constants - part.residual
    if part.regions is not None:
        yield missed_by(part.regions, value - part.constants)


def missed_by(found: RegionSums, value: float) -> float:
    """Say by how much regions and rest of a record miss what they should add up to.

    Args:
        found: the sums in the record.
        value: the logit, share or activation, less its constants.

    Returns:
        The difference, in units of the value.
    """
    parts = sum(region.positive + region.negative for region in (*found.regions, found.rest))
    return value - (parts - found.overlap) - found.residual


def _where(neuron: NeuronPart) -> str:
    """The position of a neuron, as somebody would ask for it."""
    return "sum" if neuron.position is None else "{},{}".format(*neuron.position)
