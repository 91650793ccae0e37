"""The records of a clip: one for every explained frame, then one about the whole."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from coda_cli.schema.neurons import NeuronPart
from coda_cli.schema.parts import ClassPart, Failed, Network, Part, ScoredClass, Sums, ViewPart, schema_of
from coda_cli.schema.regions import RegionSums, SpanPart

FRAME_SCHEMA: Literal["coda.frame"] = "coda.frame"
CLIP_SCHEMA: Literal["coda.clip"] = "coda.clip"


class ExplainedFrame(Sums):
    """One explained class of a frame.

    Attributes:
        centroid: (x, y) of the positive contributions, in the source's pixels; None where there are none.
        half_share: the smallest share of the view's pixels that holds half of the positive evidence, in [0, 1].
        similarity: cosine of this map and the previous frame's of the same class; None for the first.
        scale: the contribution of one view pixel, in logit units, that is drawn in full colour.
        regions: the sums inside regions that the user gave; None where none were asked for.
    """

    centroid: tuple[float, float] | None
    half_share: float | None
    similarity: float | None
    scale: float
    regions: RegionSums | None = None


class FrameRecord(Part):
    """One explained frame.

    Attributes:
        schema_name: "coda.frame"; "schema" in the JSON.
        schema_version: 1.
        path: the clip.
        frame: number of the frame among all of the source, from 0 on.
        time: in seconds from the source's first frame.
        pts: presentation time in units of the source's time_base; None where it has none.
        damaged: whether it was decoded from broken data.
        explained: the explained classes or differences.
        top: the classes with the highest logits, the highest first.
        neurons: the activations that were asked for.
    """

    schema_name: Literal["coda.frame"] = Field(FRAME_SCHEMA, alias="schema")
    schema_version: Literal[1] = 1
    path: str
    frame: int
    time: float
    pts: int | None
    damaged: bool
    explained: tuple[ExplainedFrame, ...]
    top: tuple[ScoredClass, ...]
    neurons: tuple[NeuronPart, ...] = ()


class ClipSource(Part):
    """The clip that was read.

    Attributes:
        path: as the user named it.
        sha256: hex digest of the file; None for what is no single file.
        width: in pixels, as shown.
        height: in pixels, as shown.
        duration: in seconds, where it is known.
        time_base: seconds of one pts, as a fraction; None where frames have no pts.
        notes: what decoding changed or lost, a phrase each.
    """

    path: str
    sha256: str | None
    width: int
    height: int
    duration: float | None
    time_base: str | None
    notes: tuple[str, ...] = ()


class SelectionPart(Part):
    """Which frames were asked for, and which part of them; see ``video.reading.Selection``.

    Attributes:
        start: in seconds from the first frame.
        end: in seconds from the first frame; None is to the end.
        every: every n-th frame.
        fps: at most so many frames a second; None is all.
        box: (x0, y0, x1, y1), the part of every frame that was looked at; None is the whole.
        max_frames: at most so many frames; None is all.
    """

    start: float
    end: float | None
    every: int
    fps: float | None
    box: tuple[float, float, float, float] | None
    max_frames: int | None


class PredictedShare(ClassPart):
    """A class that was predicted in some frames.

    Attributes:
        share: of the explained frames in which it has the highest logit, in [0, 1].
    """

    share: float


class ExplainedClip(ClassPart):
    """One explained class, or a difference, over all frames in which it was explained.

    Attributes:
        versus: the class that is subtracted, where a difference is explained.
        frames: in how many it was explained.
        mean_logit: over these frames.
        mean_positive: over these frames, of the sum of positive contributions.
        mean_negative: over these frames, of the sum of negative contributions.
        mean_positional: over these frames, of the share that belongs to no pixel; see ``Sums``.
        mean_bias: over these frames, of what the network's constants add; None in records of earlier versions.
        mean_logit_without_concepts: over these frames; None for a network without concepts.
        stability: mean similarity of neighbouring maps; None with fewer than two.
        leads: spans of time (start, end), in seconds, in which the class has the highest logit.
        evidence_per_second: positive evidence integrated over time, divided by the time; None without times.
        spans: the same for spans of time, that of the whole clip first, with sums inside regions; none where neither
            spans nor regions were asked for.
    """

    versus: ClassPart | None = None
    frames: int
    mean_logit: float
    mean_positive: float
    mean_negative: float
    mean_positional: float = 0.0
    mean_bias: float | None = None
    mean_logit_without_concepts: float | None = None
    stability: float | None
    leads: tuple[tuple[float, float], ...]
    evidence_per_second: float | None
    spans: tuple[SpanPart, ...] = ()


class ClipNeuron(Part):
    """One neuron over all frames.

    mean_activation == mean_positive + mean_negative + mean_constants, but for what rounding left over

    Attributes:
        layer: the layer's name.
        channel: counted from 0; where no position was asked for, each frame's is that where the channel is strongest.
        frames: how many.
        mean_activation: over these frames.
        mean_positive: over these, of the sum of positive contributions.
        mean_negative: over these, of the sum of negative contributions.
        mean_constants: over these, of what belongs to no pixel.
    """

    layer: str
    channel: int
    frames: int
    mean_activation: float
    mean_positive: float
    mean_negative: float
    mean_constants: float


class ClipRecord(Part):
    """The whole clip, after its frames.

    Attributes:
        schema_name: "coda.clip"; "schema" in the JSON.
        schema_version: 1.
        status: "ok", or "interrupted" where the user stopped it.
        source: the clip.
        network: by which it was explained.
        view: what the network saw of every frame.
        selection: which frames were asked for.
        frames: how many were explained.
        lost: frames of the source that could not be decoded.
        predicted: the classes that have the highest logit in some frame, the most frequent first.
        explained: the explained classes or differences over all frames.
        neurons: the activations that were asked for, over all frames.
        exact: whether every residual is within its tolerance.
        worst_residual: |residual| / tolerance, the largest of all frames; None where a tolerance is 0.
        scale: the contribution of one view pixel, in logit units, that is drawn in full colour in all frames; "frame"
            where every frame has its own.
        scale_frames: from how many frames the scale was found.
        files: what was written: kind -> path relative to the output folder, with /.
        region_files: the files that say what the regions are: path -> sha256.
        notes: what the outputs and the sums lack, a phrase each.
        settings: sha256 over everything that decides the result but the source and the weights.
        device: on which it was computed.
        precision: in which it was computed.
        versions: of coda and the libraries that had a part in it.
        seconds: of the whole run.
    """

    schema_name: Literal["coda.clip"] = Field(CLIP_SCHEMA, alias="schema")
    schema_version: Literal[1] = 1
    status: Literal["ok", "interrupted"]
    source: ClipSource
    network: Network
    view: ViewPart
    selection: SelectionPart
    frames: int
    lost: int
    predicted: tuple[PredictedShare, ...]
    explained: tuple[ExplainedClip, ...]
    neurons: tuple[ClipNeuron, ...] = ()
    exact: bool
    worst_residual: float | None
    scale: float | Literal["frame"]
    scale_frames: int | None
    files: dict[str, str]
    region_files: dict[str, str] = Field(default={})
    notes: tuple[str, ...] = ()
    settings: str
    device: str
    precision: str
    versions: dict[str, str]
    seconds: float


class FailedClip(Failed):
    """A clip that could not be explained.

    Attributes:
        schema_name: "coda.clip"; "schema" in the JSON.
    """

    schema_name: Literal["coda.clip"] = Field(CLIP_SCHEMA, alias="schema")


def json_schema() -> dict[str, Any]:
    """Describe a line of ``coda video --json`` or of a .coda.jsonl file.

    Returns:
        The JSON Schema.
    """
    return schema_of(FrameRecord | ClipRecord | FailedClip, f"{FRAME_SCHEMA} and {CLIP_SCHEMA} version 1")
