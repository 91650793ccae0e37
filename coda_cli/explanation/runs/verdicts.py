"""Hold a record against the same computed again: proven in float64, or repeated in the record's own precision."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from coda_cli.checkpoints.loading import Net
from coda_cli.checkpoints.proof import MAP_TOLERANCE
from coda_cli.core.decompose import RELATIVE_TOLERANCE
from coda_cli.errors import CodaError, MediaError
from coda_cli.explanation.evidence import Evidence, measure
from coda_cli.explanation.naming import KINDS, Naming
from coda_cli.explanation.picture import Explanation
from coda_cli.explanation.record import Drawing, probabilities_of, sums, versions
from coda_cli.explanation.regions.sums import region_sums
from coda_cli.explanation.request import Input, Request
from coda_cli.explanation.runs.again import (
    Networks,
    explained_again,
    input_again,
    parts_with,
    precision_of,
    request_of,
)
from coda_cli.explanation.runs.maps import ROUNDING, folder_of, kept_maps
from coda_cli.explanation.runs.neurons import Allowed, Held, hold_activations, hold_channels, missed_by
from coda_cli.explanation.runs.pictures import Pictures
from coda_cli.explanation.runs.regions import asked_again, hold_regions, laid_again
from coda_cli.explanation.runs.stored import Stored
from coda_cli.explanation.writer import Output, Writer
from coda_cli.media.files import utf8
from coda_cli.schema.neurons import NeuronPart
from coda_cli.schema.parts import Sums
from coda_cli.schema.pictures import Explained, Record
from coda_cli.schema.runs import NeuronProof, Proof, TargetProof
from coda_cli.vocabulary import Precision

# How far a map, and every sum over a part of it, may lie from the one computed again, as a share of the sum of
# |contributions|. More than the logit: where two numbers are nearly equal, rounding decides which of them a ReLU or a
# maximum lets pass. That changes no logit, but moves contributions; 7e-6 of them with a ResNet-18 in float32.
MAP_ALLOWED: dict[Precision, float] = {"float64": 1e-6, "float32": MAP_TOLERANCE, "bfloat16": 5e-2}
OWN_SUM = 2e-6  # of the sum of |contributions|: what a record's own terms may miss its logit by; its map is float32


@dataclass(frozen=True)
class Rerun:
    """What a repetition writes.

    Attributes:
        folder: for the new results.
        run: the folder or file of the record as it was named; results go to the same sub-folders.
        force: whether files that exist are replaced.
    """

    folder: Path
    run: str
    force: bool = False


def verify(stored: Stored, networks: Networks, pictures: Pictures | None = None) -> Proof:
    """Prove a record again in float64, from its picture and its network.

    Args:
        stored: the record.
        networks: finds its network.
        pictures: finds its picture; None looks where the record says.

    Returns:
        What was found, for each target.

    Raises:
        MediaError: the picture or the network is not here, or the picture was changed.
        CheckpointError: the network cannot be loaded, or is another one.
        ExactnessError: the record says other classes, or another view, than there are.
    """
    return _held_against(stored, networks, pictures, "float64", None)


def rerun(stored: Stored, networks: Networks, pictures: Pictures | None = None, written: Rerun | None = None) -> Proof:
    """Repeat a record in its own precision, and hold the new numbers against the old.

    Args:
        stored: the record.
        networks: finds its network.
        pictures: finds its picture; None looks where the record says.
        written: where the new results are written; None writes nothing.

    Returns:
        What was found, for each target.

    Raises:
        MediaError: the picture or the network is not here, the picture was changed, or a file cannot be written.
        CheckpointError: the network cannot be loaded, or is another one.
        ExactnessError: the record says other classes, or another view, than there are.
    """
    return _held_against(stored, networks, pictures, precision_of(stored.record), written)


def _held_against(
    stored: Stored, networks: Networks, pictures: Pictures | None, precision: Precision, written: Rerun | None
) -> Proof:
    """Compute a record again, and compare."""
    record = stored.record
    recorded = precision_of(record)
    net = networks.of(record, precision)
    request = request_of(record, net, precision)
    subfolder = folder_of(stored.where, written.run) if written else Path()
    source = input_again(record, net, pictures or Pictures(), subfolder)
    request, source, unheld = asked_again(record, request, source)
    maps, notes = _kept(stored)
    of_inside, neurons = _allowed_inside(recorded, precision), tuple[NeuronProof, ...]()
    proofs, reasons, files, largest = list[TargetProof](), list[str](), tuple[str, ...](), 0.0
    explanations = explained_again(source, net, request, len(record.explained) if written else None)
    last: Explanation | None = None
    for k, (part, explanation, j) in enumerate(parts_with(explanations, record)):
        last, own = explanation, None if maps is None else maps[k]
        proof, why = _target_proof(part, explanation, j, recorded, own, hold_channels(part, explanation, j, of_inside))
        proofs.append(proof)
        reasons += why
        largest = max(largest, _magnitude(explanation, j))
    assert last
    for one, held in hold_activations(record, last, of_inside):
        neurons = (*neurons, proof_of_neuron := _neuron_proof(one, held))
        reasons += [f"{_called(one)}: {reason}" for reason in (*_off(proof_of_neuron), *held.reasons)]
    reasons += _about_picture(record, source)
    reasons += _about_top(record, last, largest, RELATIVE_TOLERANCE[_type_of(recorded)])
    if written:
        files = _write(written, source, last, net, request, record)
    return Proof(
        record=utf8(str(stored.where)),
        path=utf8(source.item.name),
        network=net.checkpoint.name,
        recorded_precision=recorded,
        precision=precision,
        targets=tuple(proofs),
        neurons=neurons,
        proven=not reasons,
        reasons=tuple(reasons),
        notes=(*notes, *_notes(record, unheld)),
        files=files,
    )


def _kept(stored: Stored) -> tuple[NDArray[np.float32] | None, tuple[str, ...]]:
    """The maps beside a record; or none, and why."""
    try:
        kept = kept_maps(stored)
    except MediaError as error:
        return None, (f"its maps were not held against anything: {error}",)
    return None if kept is None else kept.maps, ()


def _type_of(precision: Precision) -> torch.dtype:
    """What the convolutions are computed in."""
    found: torch.dtype = getattr(torch, precision)
    return found


def _magnitude(explanation: Explanation, j: int) -> float:
    """The sum of |contributions| and |constants| of a target, of which rounding is a share."""
    d = explanation.decomposition
    return float(d.contributions[0, j].double().abs().sum()) + float(d.constant_shares[0, j].abs().sum())


def _target_proof(
    part: Explained,
    explanation: Explanation,
    j: int,
    recorded: Precision,
    kept: NDArray[np.float32] | None,
    channels: Held,
) -> tuple[TargetProof, list[str]]:
    """What was found about a target and its channels, and why it is not proven."""
    d, magnitude = explanation.decomposition, _magnitude(explanation, j)
    of_logit = (RELATIVE_TOLERANCE[_type_of(recorded)] + ROUNDING) * magnitude
    evidence = measure(explanation.maps[j])
    now = _numbers_now(explanation, j, evidence)
    before = {**_numbers(part), **{f"sum at {layer.name}": layer.sum for layer in part.layers}}
    reasons = [] if before.keys() == now.keys() else ["its layers are not those of the network"]
    sizes = _sizes(explanation, j, magnitude)
    allowed = {name: of_logit if name == "logit" else MAP_ALLOWED[recorded] * sizes[name] for name in before}
    own = {name: (before[name], now[name], allowed[name]) for name in before if name in now}
    laid = laid_again(explanation)
    sums_now = None if laid is None else region_sums(explanation, j, laid)
    of_regions, why = hold_regions(part.regions, sums_now, MAP_ALLOWED[recorded] * magnitude)
    number, difference, most = Held(own | of_regions | channels.numbers).farthest()
    away = (
        None if kept is None else float(np.abs(kept.astype(np.float64) - explanation.maps[j]).sum()) / (magnitude or 1)
    )
    proof = TargetProof(
        **{name: getattr(part, name) for name in ("index", "name", "wnid", "versus")},
        recorded=part.logit,
        again=now["logit"],
        difference=difference,
        number=number,
        allowed=most,
        residual=float(d.residual[0, j]),
        tolerance=float(d.tolerance[0, j]),
        map_difference=away,
        map_allowed=None if away is None else MAP_ALLOWED[recorded],
        proven=False,
    )
    reasons += [*why, *_off(proof), *channels.reasons, *_reasons(part, proof, sizes)]
    return proof.model_copy(update={"proven": not reasons}), [f"{part.name}: {reason}" for reason in reasons]


def _sizes(explanation: Explanation, j: int, magnitude: float) -> defaultdict[str, float]:
    """Of what rounding is a share: for sums at a layer its own contributions, which can be larger than the map's."""
    layers = explanation.layers[j] if explanation.layers else ()
    return defaultdict(lambda: magnitude, {f"sum at {s.name}": max(magnitude, s.magnitude) for s in layers})


def _allowed_inside(recorded: Precision, now: Precision) -> Allowed:
    """What numbers of neurons may be off by, as a share of what they are the sum of."""
    rounding = RELATIVE_TOLERANCE[_type_of(recorded)] + ROUNDING
    return Allowed(rounding, MAP_ALLOWED[recorded], OWN_SUM, RELATIVE_TOLERANCE[_type_of(now)])


def _neuron_proof(part: NeuronPart, held: Held) -> NeuronProof:
    """What was found about an activation."""
    number, difference, allowed = held.farthest()
    return NeuronProof(
        layer=part.layer,
        channel=part.channel,
        position=part.position,
        recorded=held.numbers["value"][0],
        again=held.numbers["value"][1],
        difference=difference,
        number=number,
        allowed=allowed,
        proven=difference <= allowed and not held.reasons,
    )


def _called(neuron: NeuronPart) -> str:
    """What a neuron is called in a reason."""
    return f"{neuron.layer}:{neuron.channel}"


def _off(proof: TargetProof | NeuronProof) -> list[str]:
    """That the number which is farthest off is too far off; nothing where it is not."""
    if proof.difference <= proof.allowed:
        return []
    return [f"{proof.number} is off by {proof.difference:.2g}, more than {proof.allowed:.2g}"]


def _reasons(part: Explained, proof: TargetProof, sizes: defaultdict[str, float]) -> list[str]:
    """Why a target is not proven; none where it is."""
    share = proof.map_difference
    found = {
        f"its residual now is {proof.residual:.2g}, above its tolerance {proof.tolerance:.2g}": abs(proof.residual)
        <= proof.tolerance,
        "the record itself says that it is not exact": part.exact,
        **{
            f"{what}: the terms of the record do not add up": abs(off) <= OWN_SUM * sizes[what]
            for what, off in _own_sums(part)
        },
        f"its map is off by {share or 0:.2g} of the sum of all contributions": share is None
        or share <= (proof.map_allowed or 0),
    }
    return [reason for reason, holds in found.items() if not holds]


def _own_sums(part: Explained) -> Iterator[tuple[str, float]]:
    """By how much the sums of a record miss what they should be, without anything that was computed again."""
    inside, constants = part.positive + part.negative, part.bias + part.positional
    yield "logit", part.logit - inside - constants - part.residual
    yield "grid", inside - sum(map(sum, part.evidence.grid))
    for layer in part.layers:
        if layer.bias is not None:
            yield f"sum at {layer.name}", part.logit - layer.sum - layer.positional - layer.bias - layer.residual
    if part.regions:
        yield "regions", missed_by(part.regions, part.logit - constants)


def _numbers(part: Explained) -> dict[str, float]:
    """The numbers of a record that are held against those computed again."""
    cells = {
        f"cell {r},{c} of its grid": value
        for r, row in enumerate(part.evidence.grid, 1)
        for c, value in enumerate(row, 1)
    }
    return {**_own_numbers(part), **cells}


def _numbers_now(explanation: Explanation, j: int, evidence: Evidence) -> dict[str, float]:
    """The same numbers of what was computed again."""
    now = sums(explanation, j, evidence)
    cells = {f"cell {r},{c} of its grid": v for r, row in enumerate(evidence.grid, 1) for c, v in enumerate(row, 1)}
    layers = explanation.layers[j] if explanation.layers else ()
    of_layers = {f"sum at {share.name}": float(share.pixels.double().sum()) for share in layers}
    return {**_own_numbers(now), **cells, **of_layers}


def _own_numbers(part: Sums) -> dict[str, float]:
    """What a logit is made of, and what it is without concepts."""
    own = {name: getattr(part, name) for name in ("logit", "positive", "negative", "bias", "positional")}
    plain = part.logit_without_concepts
    return own if plain is None else {**own, "logit without the concepts": plain}


def _about_picture(record: Record, source: Input) -> Iterator[str]:
    """What does not hold of the picture, whose hash is that of the record."""
    said, own = (record.source.width, record.source.height), source.view.size
    if said != own:
        yield f"its picture has {own[0]} x {own[1]} pixels, and {said[0]} x {said[1]} in the record"


def _about_top(record: Record, explanation: Explanation, magnitude: float, rtol: float) -> Iterator[str]:
    """What does not hold of the probabilities and of the classes with the highest logits.

    ``magnitude`` is the largest sum of |contributions| of a target; that of the other classes is not known.
    """
    logits = explanation.decomposition.logits[0].double().cpu()
    p = probabilities_of(explanation.net, logits)
    for one in record.top:
        room = rtol * (magnitude + abs(one.logit))
        if abs(one.logit - float(logits[one.index])) > room:
            yield f"the logit of {one.name} is {one.logit:.4g} in the record, {float(logits[one.index]):.4g} now"
    said = [(one.name, one.index, one.probability) for one in record.top]
    said += [(e.name, e.index, e.probability) for e in record.explained if e.probability is not None and not e.versus]
    for name, index, probability in said:
        if abs(probability - float(p[index])) > rtol * (magnitude + 1):  # it changes less than its logit
            yield f"p of {name} is {probability:.4f} in the record, {float(p[index]):.4f} now"
    if record.top[0].logit < max(one.logit for one in record.top):
        yield "its highest class is not the first one"


def _notes(record: Record, unheld: str) -> Iterator[str]:
    """What was not held against anything, and what else is different."""
    if unheld:
        yield unheld
    now = versions()
    other = [
        f"{name} {text} (now {now[name]})" for name, text in record.versions.items() if now.get(name, text) != text
    ]
    if other:
        yield f"it was made with {', '.join(other)}"


def _write(
    written: Rerun, source: Input, explanation: Explanation, net: Net, request: Request, record: Record
) -> tuple[str, ...]:
    """Write the kinds of files that the record names, and a new record."""
    named = {kind for part in record.explained for kind in part.files} | {*record.files, "json"}
    kinds, first = tuple(kind for kind in KINDS if kind in named), record.explained[0]
    one = len({part.scale for part in record.explained}) == 1
    drawing = Drawing(kinds, first.scale if one else "image")
    if first.scale_of == "run":
        drawing = Drawing(kinds, "run", of_run=first.scale)
    elif first.scale_of in ("network", "image"):
        drawing = Drawing(kinds, first.scale_of)
    output = Output(Naming(written.folder, net.checkpoint.name), drawing, "overwrite" if written.force else "match")
    writer = Writer(net, [source.item], request, output)
    try:
        there = writer.stored(source.item, source.picture, source.found.files)
        paths = (there or writer.write(source, explanation)).written
    except CodaError as error:
        raise error.about(source.item.name)  # noqa: B904 (it is the same error)
    return tuple(path.relative_to(written.folder).as_posix() for path in paths)
