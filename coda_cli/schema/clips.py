"""What is written about a clip: one record for every explained frame, then one about the whole."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, TypeAdapter

from coda_cli.schema.pictures import ClassPart, Failed, Network, ScoredClass, Sums, ViewPart, _Part

FRAME_SCHEMA: Literal["coda.frame"] = "coda.frame"
CLIP_SCHEMA: Literal["coda.clip"] = "coda.clip"


class ExplainedFrame(Sums):
    """One explained class of a frame."""

    centroid: tuple[float, float] | None  # of the positive evidence, in the source's pixels
    half_share: float | None  # smallest share of the view's pixels that holds half of the positive evidence
    similarity: float | None  # cosine of this map and the previous frame's of the same class; None for the first
    scale: float  # the contribution of one view pixel, in logit units, that is drawn in full colour


class FrameRecord(_Part):
    """One frame. ``frame`` counts the source's frames, ``time`` is in seconds from its first one."""

    schema_name: Literal["coda.frame"] = Field(FRAME_SCHEMA, alias="schema")
    schema_version: Literal[1] = 1
    path: str
    frame: int
    time: float
    pts: int | None  # in units of the source's time_base
    damaged: bool  # decoded from broken data
    explained: tuple[ExplainedFrame, ...]
    top: tuple[ScoredClass, ...]


class ClipSource(_Part):
    """The clip. ``sha256`` is None for what is no single file; ``notes`` says what decoding changed or lost."""

    path: str
    sha256: str | None
    width: int
    height: int
    duration: float | None
    time_base: str | None  # seconds of one pts, as a fraction
    notes: tuple[str, ...] = ()


class SelectionPart(_Part):
    """Which frames were asked for, and which part of them; see ``media.clips.Selection``."""

    start: float
    end: float | None
    every: int
    fps: float | None
    box: tuple[float, float, float, float] | None
    max_frames: int | None


class PredictedShare(ClassPart):
    """A class and the share of the explained frames in which it has the highest logit."""

    share: float


class ExplainedClip(ClassPart):
    """One explained class, or a difference, over all frames in which it was explained."""

    versus: ClassPart | None = None
    frames: int
    mean_logit: float
    mean_positive: float
    mean_negative: float
    mean_positional: float = 0.0  # of no pixel; see ``Sums``
    stability: float | None  # mean similarity of neighbouring maps; None with fewer than two
    leads: tuple[tuple[float, float], ...]  # spans of time, in seconds, in which the class has the highest logit
    evidence_per_second: float | None  # positive evidence integrated over time, over the time; None without times


class ClipRecord(_Part):
    """The whole clip, after its frames."""

    schema_name: Literal["coda.clip"] = Field(CLIP_SCHEMA, alias="schema")
    schema_version: Literal[1] = 1
    status: Literal["ok", "interrupted"]
    source: ClipSource
    network: Network
    view: ViewPart
    selection: SelectionPart
    frames: int
    lost: int  # frames of the source that could not be decoded
    predicted: tuple[PredictedShare, ...]
    explained: tuple[ExplainedClip, ...]
    exact: bool
    worst_residual: float | None  # |residual| / tolerance, the largest of all frames; None where a tolerance is 0
    scale: float | Literal["frame"]
    scale_frames: int | None  # from how many frames the scale was found
    files: dict[str, str]
    notes: tuple[str, ...] = ()  # what the outputs lack
    settings: str
    device: str
    precision: str
    versions: dict[str, str]
    seconds: float


class FailedClip(Failed):
    """A clip that could not be explained."""

    schema_name: Literal["coda.clip"] = Field(CLIP_SCHEMA, alias="schema")


def to_json(record: FrameRecord | ClipRecord | FailedClip) -> str:
    """One line of JSON: UTF-8, no NaN, floats in full."""
    return record.model_dump_json(by_alias=True)


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a line of ``coda video --json`` or of a .coda.jsonl file."""
    schema = TypeAdapter(FrameRecord | ClipRecord | FailedClip).json_schema(mode="serialization")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"{FRAME_SCHEMA} and {CLIP_SCHEMA} version 1",
        **schema,
    }
