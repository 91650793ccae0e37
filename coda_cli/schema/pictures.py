"""The record of one picture: one JSON object, one schema with a version. Changes within a version only add fields."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from coda_cli.schema.neurons import ChannelsPart, NeuronPart
from coda_cli.schema.parts import Failed, Network, Part, ScoredClass, Source, Sums, ViewPart, schema_of, to_json
from coda_cli.schema.regions import RegionSums
from coda_cli.vocabulary import ScaleOf

SCHEMA: Literal["coda.record"] = "coda.record"
VERSION: Literal[1] = 1


class RegionPart(Part):
    """A connected region of the strongest evidence.

    Attributes:
        box: (x0, y0, x1, y1) in the source's pixels.
        share: of the sum of all positive contributions, in [0, 1].
        view_pixels: how many of the view's pixels it has.
    """

    box: tuple[float, float, float, float]
    share: float
    view_pixels: int


class EvidencePart(Part):
    """Where the positive evidence lies.

    Attributes:
        centroid: (x, y) of the positive contributions, in the source's pixels; None where there are none.
        half_share: the smallest share of the view's pixels that holds half of the positive evidence, in [0, 1].
        regions: the connected parts of just those pixels.
        grid: the signed sums over 3 x 3 cells of the view, row by row, in logit units; they add up to the sum of all
            contributions.
    """

    centroid: tuple[float, float] | None
    half_share: float | None
    regions: tuple[RegionPart, ...]
    grid: tuple[tuple[float, ...], ...]


class LayerPart(Part):
    """A logit shared out over the positions of one layer's output, with its proof.

    logit == sum + positional + bias + residual, where what layers below this one add is in its sum.

    Attributes:
        name: of the layer.
        height: of the layer's output, in positions.
        width: of the layer's output, in positions.
        sum: of the contributions of all positions, in logit units.
        positional: the share of a positional embedding above the layer, which belongs to no position.
        residual: what rounding left over.
        tolerance: the largest |residual| that counts as exact.
        exact: whether |residual| is at most the tolerance.
        approximate: whether this is input times gradient below the cut of a hybrid; the residual then says how far off
            it is.
        bias: all other constants of the layers above; None in records of version 0.1, where it is the logit's.
        carried: the share of the logit, less the classifier's bias, that the positions have: sum / (logit - bias).
        ratio: the sum of their magnitudes over the same: 1 where nothing cancels.
        scale: the contribution of one position, in logit units, that is drawn in full colour.
    """

    name: str
    height: int
    width: int
    sum: float
    positional: float = 0.0
    residual: float
    tolerance: float
    exact: bool
    approximate: bool = False
    bias: float | None = None
    carried: float | None = None
    ratio: float | None = None
    scale: float


class Explained(Sums):
    """One explained class of a picture.

    Attributes:
        layers: the same at every layer, where it was asked for.
        channels: the same over the channels of layers, and their strongest channels, where it was asked for.
        evidence: where the positive evidence lies.
        scale: the contribution of one view pixel, in logit units, that is drawn in full colour.
        scale_of: what decided it; None in records of older versions.
        files: what was written for the class: kind -> path relative to the output folder, with /.
        regions: the sums inside regions that the user gave; None where none were asked for.
    """

    layers: tuple[LayerPart, ...] = ()
    channels: tuple[ChannelsPart, ...] = ()
    regions: RegionSums | None = None
    evidence: EvidencePart
    scale: float
    scale_of: ScaleOf | None = None
    files: dict[str, str] = Field(default={})


class Record(Part):
    """One explained picture.

    Attributes:
        schema_name: "coda.record"; "schema" in the JSON.
        schema_version: 1.
        status: "ok".
        source: the file.
        network: by which it was explained.
        view: what the network saw of the file.
        explained: the explained classes or differences.
        top: the classes with the highest logits, the highest first; the second is the runner-up.
        confident: whether the highest probability is at least 0.5. A network knows its own classes only, and says one
            of them of every picture.
        neurons: activations that were asked for, each split over the input.
        region_files: the files that say what the regions are: path -> sha256.
        region_boxes: the boxes as they were given; None where no regions were, and in records of earlier versions.
        region_labels: of masks and annotations, as they were given.
        files: what was written once for the picture, whatever the number of classes: kind -> path as in ``explained``.
        settings: sha256 over everything that decides the result but the source and the weights.
        device: on which it was computed.
        precision: in which it was computed.
        versions: of coda and the libraries that had a part in it.
        seconds: of the decomposition; a share of its batch, beside which another may have been computed.
    """

    schema_name: Literal["coda.record"] = Field(SCHEMA, alias="schema")
    schema_version: Literal[1] = VERSION
    status: Literal["ok"] = "ok"
    source: Source
    network: Network
    view: ViewPart
    explained: tuple[Explained, ...]
    top: tuple[ScoredClass, ...]
    confident: bool | None = None
    neurons: tuple[NeuronPart, ...] = ()
    region_files: dict[str, str] = Field(default={})
    region_boxes: tuple[str, ...] | None = None
    region_labels: tuple[str, ...] = ()
    files: dict[str, str] = Field(default={})
    settings: str
    device: str
    precision: str
    versions: dict[str, str]
    seconds: float


class FailedRecord(Failed):
    """One picture that could not be explained.

    Attributes:
        schema_name: "coda.record"; "schema" in the JSON.
    """

    schema_name: Literal["coda.record"] = Field(SCHEMA, alias="schema")


def from_json(text: str) -> Record:
    """Read a record from its JSON.

    Args:
        text: one JSON object.

    Returns:
        The record.

    Raises:
        ValueError: it is not a record of this version.
    """
    return Record.model_validate_json(text)


def core_json(record: Record, part: Explained) -> str:
    """Write a record with only the class that one drawing shows: this is what its PNG carries.

    Args:
        record: of the whole picture.
        part: the class of the drawing, one of ``record.explained``.

    Returns:
        One line of JSON, without names of files.
    """
    alone = part.model_copy(update={"files": {}, "channels": ()})
    return to_json(record.model_copy(update={"explained": (alone,), "neurons": (), "files": {}}))


def neuron_json(record: Record, neuron: NeuronPart, part: Explained | None) -> str:
    """Write a record with only the neuron that one drawing shows.

    Args:
        record: of the whole picture.
        neuron: the neuron of the drawing.
        part: the class whose logit the neuron has a share of; None for an activation.

    Returns:
        One line of JSON, without names of files.
    """
    if part is None:
        return to_json(record.model_copy(update={"explained": (), "neurons": (neuron,), "files": {}}))
    channels = tuple(c.model_copy(update={"strongest": (neuron,)}) for c in part.channels if c.layer == neuron.layer)
    alone = part.model_copy(update={"files": {}, "channels": channels})
    return to_json(record.model_copy(update={"explained": (alone,), "neurons": (), "files": {}}))


def json_schema() -> dict[str, Any]:
    """Describe a line of ``coda explain --json``: a picture that was explained, one that failed, or a shard that ended.

    Returns:
        The JSON Schema.
    """
    from coda_cli.schema.shards import ShardRecord  # it holds records of pictures that failed

    return schema_of(Record | FailedRecord | ShardRecord, f"{SCHEMA} version {VERSION}")
