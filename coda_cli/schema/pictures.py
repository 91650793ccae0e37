"""What is written about one input: one JSON object, one schema with a version. Changes within a version only add."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from coda_cli.errors import CodaError
from coda_cli.media.files import utf8

SCHEMA: Literal["coda.record"] = "coda.record"
VERSION: Literal[1] = 1


class _Part(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, validate_by_name=True, validate_by_alias=True
    )


class Source(_Part):
    """The input file. ``notes`` says what decoding changed (EXIF turn, transparency laid on white, ...)."""

    path: str
    sha256: str
    bytes: int
    width: int
    height: int
    notes: tuple[str, ...] = ()


class Network(_Part):
    """The network and the sha256 of its file. ``assumed``: what the file could not tell and where it was taken from.

    ``cut`` is there for hybrids: contributions are exact at this layer's output, and a position's is spread evenly over
    the pixels it stands for.
    """

    name: str
    sha256: str
    architecture: str
    temperature: float
    assumed: tuple[str, ...] = ()
    cut: str | None = None

    @property
    def title(self) -> str:
        """The name, and for a hybrid how far down its contributions are exact."""
        return self.name if self.cut is None else f"{self.name}, exact down to {self.cut}, not to the pixels"


class ViewPart(_Part):
    """What the network saw: ``width`` x ``height`` pixels covering ``box`` (x0, y0, x1, y1) of the source's pixels."""

    fit: Literal["crop", "pad", "native"]
    width: int
    height: int
    box: tuple[float, float, float, float]


class ClassPart(_Part):
    """A class of the network."""

    index: int
    name: str
    wnid: str | None = None


class ScoredClass(ClassPart):
    """A class with its logit and probability (sigmoid of the logit)."""

    logit: float
    probability: float


class RegionPart(_Part):
    """A connected region of the strongest evidence: box in the source's pixels, its share of the positive sum."""

    box: tuple[float, float, float, float]
    share: float
    view_pixels: int


class EvidencePart(_Part):
    """Where the positive evidence lies. ``centroid`` in the source's pixels; ``half_share`` is the smallest share of
    the view's pixels that holds half of it, ``regions`` the connected parts of just those pixels; ``grid`` holds the
    signed sums over 3 x 3 cells of the view, which add up to the sum of all contributions."""

    centroid: tuple[float, float] | None
    half_share: float | None
    regions: tuple[RegionPart, ...]
    grid: tuple[tuple[float, ...], ...]


class Sums(ClassPart):
    """An explained class, or a difference, and what its logit is made of.

    logit == positive + negative + positional + bias + residual
    """

    versus: ClassPart | None = None
    logit: float
    probability: float | None  # None for a difference
    bias: float
    positional: float = 0.0  # the share of a positional embedding, of no pixel
    positive: float
    negative: float
    residual: float
    tolerance: float
    exact: bool


class LayerPart(_Part):
    """A logit shared out over ``height`` x ``width`` positions of a layer's output: ``sum`` of them, and the proof.

    logit == sum + positional + bias + residual, where positional embeddings added below the layer are in its sum.

    ``approximate``: input times gradient below the cut of a hybrid, where the residual says how far off it is.
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
    scale: float


class Explained(Sums):
    """One explained class of a picture."""

    layers: tuple[LayerPart, ...] = ()

    evidence: EvidencePart
    scale: float  # the contribution of one view pixel, in logit units, that is drawn in full colour
    files: dict[str, str] = {}  # what was written: kind -> path relative to the output folder, with /


class Record(_Part):
    """One explained input."""

    schema_name: Literal["coda.record"] = Field(SCHEMA, alias="schema")
    schema_version: Literal[1] = VERSION
    status: Literal["ok"] = "ok"
    source: Source
    network: Network
    view: ViewPart
    explained: tuple[Explained, ...]
    top: tuple[ScoredClass, ...]
    files: dict[str, str] = {}  # written once for the input, whatever the number of classes
    settings: str  # sha256 over everything that decides the result but the source and the weights
    device: str
    precision: str
    versions: dict[str, str]
    seconds: float  # of the decomposition; a share of its batch, beside which another may have been computed


class ErrorPart(_Part):
    """Why an input failed."""

    kind: str
    message: str


class FailedSource(_Part):
    """The input that failed."""

    path: str


class Failed(_Part):
    """One input that nothing could be made of, in the stream of records of some command."""

    schema_name: str = Field(alias="schema")
    schema_version: Literal[1] = VERSION
    status: Literal["error"] = "error"
    source: FailedSource
    error: ErrorPart

    @classmethod
    def of(cls, path: str, error: CodaError) -> Self:
        """The record of an input by its name, and what was raised."""
        part = ErrorPart(kind=type(error).__name__, message=utf8(str(error)))
        return cls(source=FailedSource(path=utf8(path)), error=part)  # type: ignore[call-arg]


class FailedRecord(Failed):
    """One input that could not be explained."""

    schema_name: Literal["coda.record"] = Field(SCHEMA, alias="schema")


def to_json(record: Record | FailedRecord) -> str:
    """One line of JSON: UTF-8, no NaN, floats in full."""
    return record.model_dump_json(by_alias=True)


def from_json(text: str) -> Record:
    """A Record from its JSON; raises ValueError when it is not one of this version."""
    return Record.model_validate_json(text)


def core_json(record: Record, part: Explained) -> str:
    """The record with only the class a picture shows: what its PNG carries."""
    alone = part.model_copy(update={"files": {}})
    return to_json(record.model_copy(update={"explained": (alone,), "files": {}}))


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a line of output: an explained input, or one that failed."""
    return schema_of(Record | FailedRecord, f"{SCHEMA} version {VERSION}")


def schema_of(lines: Any, title: str) -> dict[str, Any]:
    """The JSON Schema of a type, or a union of them, that lines of output have."""
    schema = TypeAdapter(lines).json_schema(mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title, **schema}
