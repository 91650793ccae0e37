"""What is said about a record in words: on a line, below a picture."""

from __future__ import annotations

from collections.abc import Sequence

from coda_cli.schema.clips import ExplainedClip
from coda_cli.schema.comparisons import Comparison
from coda_cli.schema.neurons import ChannelsPart, NeuronPart
from coda_cli.schema.parts import Network, ScoredClass, Sums
from coda_cli.schema.regions import RegionSum, RegionSums, SpanPart
from coda_cli.schema.runs import MapChange, TargetChange

MOST_TOLD = 4  # regions on a line
CONFIDENT = 0.5  # a probability below this is said to be unsure


def title_of(part: Sums) -> str:
    """Name an explained class, or difference of classes.

    Args:
        part: its part of a record.

    Returns:
        The class's name, or "A − B".
    """
    return part.name if part.versus is None else f"{part.name} − {part.versus.name}"


def equation(part: Sums) -> str:
    """Write in one line what the logit of a class is made of, and what rounding left over.

    Of an ordinary network also how much of it the positions of its cut carry, of one with concepts what it is without.

    Args:
        part: the class's part of a record.

    Returns:
        A line such as "church, p 0.999: logit 7.267 = 10.025 -0.561 -2.197 bias, residual 2.5e-07".
    """
    p = "" if part.probability is None else f", p {part.probability:.3f}"
    what = "logit" if part.versus is None else "difference of logits"
    embedding = f" {part.positional:+.3f} positional" if part.positional else ""
    return (
        f"{title_of(part)}{p}: {what} {part.logit:.3f} = {part.positive:.3f} {part.negative:+.3f} "
        f"{part.bias:+.3f} {name_of_bias(part)}{embedding}, residual {part.residual:.1e}{carried_text(part)}"
        f"{without_concepts_text(part)}"
    )


def name_of_bias(part: Sums) -> str:
    """Name what ``part.bias`` is: one bias, or constants of several layers.

    Args:
        part: the class's part of a record.

    Returns:
        A word.
    """
    return "constants" if sum(c.kind != "positional" for c in part.constants) > 1 else "bias"


def regions_text(sums: RegionSums | None) -> str:
    """Say in one line how much of the positive evidence lies in which region.

    Args:
        sums: of a record.

    Returns:
        A line such as "dog: 61% of the evidence for it on 20% of the area (3.1 times); rest: 39% on 80% (0.5 times)";
        nothing without regions.
    """
    if sums is None:
        return ""
    parts = [_region_text(region, first=n == 0) for n, region in enumerate(sums.regions[:MOST_TOLD])]
    if len(sums.regions) > MOST_TOLD:
        parts.append(f"{len(sums.regions) - MOST_TOLD} more regions in the record")
    return "; ".join([*parts, _region_text(sums.rest, first=not parts)])


def _region_text(region: RegionSum, *, first: bool) -> str:
    """How much of the evidence lies in one region; the words are written out for the first one."""
    if region.outside is not None and region.outside >= 1:
        return f"{region.name} is wholly outside the view"
    share = "no evidence" if region.share is None else f"{region.share:.0%}"
    share += " of the evidence for it" if first and region.share is not None else ""
    ratio = "" if region.ratio is None else f" ({region.ratio:.1f} times)"
    text = f"{region.name}: {share} on {region.area:.0%}{' of the area' if first else ''}{ratio}"
    return text + (f", {region.outside:.0%} of it is outside the view" if region.outside else "")


def clip_text(part: ExplainedClip) -> str:
    """Say in one line what a class has over all frames of a clip.

    Args:
        part: the class's part of the clip's record.

    Returns:
        A line such as "church: 301 frames, mean logit 5.20 = 9.10 -1.70 -2.20 bias, highest logit for 9.6 s".
    """
    title = part.name if part.versus is None else f"{part.name} − {part.versus.name}"
    embedding = f" {part.mean_positional:+.2f} positional" if part.mean_positional else ""
    bias = "+ bias" if part.mean_bias is None else f"{part.mean_bias:+.2f} bias"
    leads = sum(end - start for start, end in part.leads)
    plain = part.mean_logit_without_concepts
    without = "" if plain is None else f"; mean logit {plain:.2f} without the concepts"
    return (
        f"{title}: {part.frames} {'frame' if part.frames == 1 else 'frames'}, mean logit {part.mean_logit:.2f} = "
        f"{part.mean_positive:.2f} {part.mean_negative:+.2f} {bias}{embedding}, highest logit for {leads:.1f} s"
        f"{without}"
    )


def span_text(span: SpanPart) -> str:
    """Say in one line what a class has in a span of time, and in the regions in it.

    Args:
        span: of a record.

    Returns:
        A line such as "2.5 to 4 s, 36 frames: mean logit 3.20, 41% of the evidence for it; ball: 30% on 4%".
    """
    when = "the whole clip" if span.end is None else f"{span.start:g} to {span.end:g} s"
    share = "" if span.share is None or span.end is None else f", {span.share:.0%} of the evidence of all frames"
    frames = f"{span.frames} {'frame' if span.frames == 1 else 'frames'}"
    parts = [f"{when}, {frames}: mean logit {span.mean_logit:.2f}{share}"]
    shown = (*span.regions[:-1][:MOST_TOLD], *span.regions[-1:])
    parts += [
        f"{r.name}: {'no evidence' if r.share is None else f'{r.share:.0%}'} on {r.mean_area:.0%}"
        + ("" if r.ratio is None else f" ({r.ratio:.1f} times)")
        + (f" in {r.frames} of them" if r.frames != span.frames else "")
        for r in shown
    ]
    return "; ".join(parts)


def neuron_name(neuron: NeuronPart) -> str:
    """Name a neuron.

    Args:
        neuron: its part of a record.

    Returns:
        A phrase such as "layers.6, channel 17 at 4,9", y before x.
    """
    where = "" if neuron.position is None else f" at {neuron.position[0]},{neuron.position[1]}"
    return f"{neuron.layer}, channel {neuron.channel}{where}"


def activation_text(neuron: NeuronPart) -> str:
    """Write in one line what an activation is made of.

    Args:
        neuron: its part of a record.

    Returns:
        A line such as "activation 3.21 of layers.6, channel 17 at 4,9 = 3.9 -0.69, residual 2.5e-07".
    """
    what = "activation" if neuron.position else "sum of activations"
    constants = f" {neuron.constants:+.3g} constants" if neuron.constants else ""
    return (
        f"{what} {neuron.activation:.3g} of {neuron_name(neuron)} = {neuron.positive:.3g} {neuron.negative:+.3g}"
        f"{constants}, residual {neuron.residual:.1e}"
    )


def channels_text(part: ChannelsPart, of: Sums) -> str:
    """Say in one line what the channels of a layer have of a logit, and the strongest of them.

    Args:
        part: of a record.
        of: the class or the difference that the logit is of.

    Returns:
        A line such as "layers.6: its 64 channels have 9.464 of the logit; 17: +1.200 (13%), 3: -0.800 (-8%)".
        Percentages are of what all channels have together.
    """
    shown = ", ".join(f"{n.channel}: {n.share:+.3f}{_percent(n.share, part.sum)}" for n in part.strongest)
    whole = "logit" if of.versus is None else "difference of logits"
    return f"{part.layer}: its {part.channels} channels have {part.sum:.3f} of the {whole}; {shown}"


def _percent(share: float | None, whole: float) -> str:
    return f" ({share / whole:.0%})" if share is not None and whole else ""


def told_apart(names: Sequence[str]) -> list[str]:
    """Call networks by their names, and with their numbers where two have one name.

    Args:
        names: of the networks, in the order in which they were given.

    Returns:
        The same, each once: "mine (1)", "mine (2)", "other".
    """
    return [f"{name} ({n})" if names.count(name) > 1 else name for n, name in enumerate(names, 1)]


def predicted_text(record: Comparison) -> str:
    """Say what a network predicts.

    Args:
        record: of a network that is compared with others.

    Returns:
        A phrase such as "predicted church, p 0.998"; nothing where one network was asked for.
    """
    top = record.predicted
    return "" if top is None else f"predicted {top.name}, p {top.probability:.3f}"


def map_change_text(target: TargetChange, change: MapChange) -> str:
    """Write in one line what the difference of two maps adds up to.

    Args:
        target: what changed of the class.
        change: of its map.

    Returns:
        A line such as "difference +1.2 = +0.9 of the logit − (-0.3) of the constants, residual 2.0e-07".
    """
    grid = "" if change.grid == "view" else f", on a common grid of {change.width} x {change.height}"
    return (
        f"difference {change.sum:+.4g} = {target.logit.change:+.4g} of the logit − ({target.constants.change:+.4g}) of "
        f"the constants, residual {change.residual:.1e}{'' if change.exact else ' ABOVE ITS TOLERANCE'}{grid}"
    )


def regions_change_text(target: TargetChange) -> str:
    """Write in one line how the share of the evidence in each region changed.

    Args:
        target: what changed of the class.

    Returns:
        A line such as "dog 61% → 43%; rest 39% → 57%"; nothing without regions.
    """
    return "; ".join(f"{r.name} {r.share.first:.0%} → {r.share.second:.0%}" for r in target.regions if r.share)


def carried_text(part: Sums) -> str:
    """Say how much of the logit the positions of an ordinary network's cut have.

    Args:
        part: the class's part of a record.

    Returns:
        The end of a line; nothing for networks that are exact by construction.
    """
    if part.carried is None:
        return ""
    gates = ", by definition (gates are held)" if part.exactness == "held gates" else ""
    return f"; the positions carry {part.carried:.0%} of it less the last bias{gates}"


def without_concepts_text(part: Sums) -> str:
    """Say what the logit of a network with concepts is without them.

    Args:
        part: the class's part of a record.

    Returns:
        The end of a line such as "; logit 7.310 without the concepts"; nothing for networks that have none.
    """
    if part.logit_without_concepts is None:
        return ""
    what = "logit" if part.versus is None else "difference of logits"
    return f"; {what} {part.logit_without_concepts:.3f} without the concepts"


def standing(network: Network, top: Sequence[ScoredClass], index: int, confident: bool | None) -> str:
    """Say among how many classes a network has chosen, and how sure it is.

    Args:
        network: the record's part about the network.
        top: the classes with the highest logits.
        index: the class that is explained.
        confident: as in the record.

    Returns:
        A phrase such as "one of 10 classes, next is golf ball, p 0.001".
    """
    count = {None: "one class", 1: "the only class"}.get(network.classes, f"one of {network.classes} classes")
    unsure = f"; unsure, p below {CONFIDENT:g}" if confident is False else ""
    if top[0].index != index:
        return f"{count}, predicted is {top[0].name}, p {top[0].probability:.3f}{unsure}"
    return count + (f", next is {top[1].name}, p {top[1].probability:.3f}" if len(top) > 1 else "") + unsure
