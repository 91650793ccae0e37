"""The parts that several records share, and how every record becomes JSON."""

from __future__ import annotations

import re
from types import UnionType
from typing import Any, ClassVar, Literal, Self, cast

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, TypeAdapter, model_serializer

from coda_cli.errors import CodaError
from coda_cli.media.files import utf8
from coda_cli.vocabulary import Exactness, Fit


class Part(BaseModel):
    """The base of all records and their parts: they do not change, know all their fields, and hold finite numbers.

    Attributes:
        leaves_out_none: whether ``to_json`` leaves out fields that are None instead of writing null.
    """

    leaves_out_none: ClassVar[bool] = False

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, validate_by_name=True, validate_by_alias=True
    )


class Source(Part):
    """The input file.

    Attributes:
        path: as the user named it, or its folder and its name in it.
        sha256: hex digest of the file's bytes.
        bytes: size of the file.
        width: in pixels, after an EXIF turn.
        height: in pixels, after an EXIF turn.
        notes: what decoding changed (an EXIF turn, transparency laid on white, ...), a phrase each.
    """

    path: str
    sha256: str
    bytes: int
    width: int
    height: int
    notes: tuple[str, ...] = ()


class Network(Part):
    """The network that was explained.

    Attributes:
        name: as in ``coda models list``, or as its file says.
        sha256: hex digest of its file.
        architecture: which builder of ``core.networks`` made it.
        temperature: by which its logits are divided.
        assumed: what its file could not tell, and where it was taken from instead; a sentence each.
        cut: only for hybrids and ordinary networks: the layer at whose output contributions are exact. Those of a
            position there are spread evenly over the pixels that it stands for.
        classes: among how many classes it chooses.
        zero: the colour (r, g, b in [0, 1]) whose pixels contribute nothing, where the network subtracts one first.
    """

    name: str
    sha256: str
    architecture: str
    temperature: float
    assumed: tuple[str, ...] = ()
    cut: str | None = None
    classes: int | None = None
    zero: tuple[float, ...] | None = None

    @property
    def title(self) -> str:
        """The name, and for a network with a cut how far down its contributions are exact."""
        if self.cut in (None, "input"):
            return self.name
        return f"{self.name}, exact down to {self.cut}, not to the pixels"


class ViewPart(Part):
    """What the network saw of the source.

    Attributes:
        fit: how the source was made to fit: a centre crop, padded as a whole, or at its own size.
        width: of the view, in pixels.
        height: of the view, in pixels.
        box: (x0, y0, x1, y1), the part of the source that the view covers, in the source's pixels.
        notes: what the way it was made to fit means for the network's logits, a sentence each.
    """

    fit: Fit
    width: int
    height: int
    box: tuple[float, float, float, float]
    notes: tuple[str, ...] = ()


class ClassPart(Part):
    """A class of the network.

    Attributes:
        index: of its logit, from 0 on.
        name: as the network's description has it.
        wnid: its WordNet id, where the network's description has one.
    """

    index: int
    name: str
    wnid: str | None = None


class ScoredClass(ClassPart):
    """A class with what the network says about it.

    Attributes:
        logit: the network's output for the class.
        probability: in [0, 1], the sigmoid of the logit; of ordinary networks the softmax of all logits.
    """

    logit: float
    probability: float


class ConstantPart(Part):
    """A share of a logit that belongs to no pixel.

    Attributes:
        layer: which adds it; "logits" for the network's own bias.
        kind: "bias", "positional", "batch norm", "saturation" (of a ReLU6), "norm", "token" or "added".
        share: in logit units.
    """

    layer: str
    kind: str
    share: float


class Sums(ClassPart):
    """An explained class, or a difference of two, and what its logit is made of.

    logit == positive + negative + positional + bias + residual

    Attributes:
        versus: the class that is subtracted, where a difference is explained.
        logit: of the class, or the difference of the two logits.
        logit_without_concepts: the same of the network without its concepts; not there for a network that has none.
        probability: in [0, 1]; None for a difference.
        bias: all constants but the positional share; of CoDA-Nets and B-cos networks their bias.
        constants: one by one, ``bias`` and ``positional``, in the order in which the network adds them.
        exactness: why the shares add up: by construction of the network, since it is piecewise linear, or because gates
            were held, which is a definition and no theorem.
        carried: of ordinary networks, the share of the logit, less its last constant (the classifier's bias), that the
            contributions have; 1 is all of it. None where it is all by construction.
        positional: the share of a positional embedding, which belongs to no pixel.
        positive: sum of all positive contributions.
        negative: sum of all negative contributions, at most 0.
        residual: what rounding left over.
        tolerance: the largest |residual| that counts as exact.
        exact: whether |residual| is at most the tolerance.
    """

    versus: ClassPart | None = None
    logit: float
    logit_without_concepts: float | None = None
    probability: float | None
    bias: float
    constants: tuple[ConstantPart, ...] = ()
    exactness: Exactness = "by construction"
    carried: float | None = None
    positional: float = 0.0
    positive: float
    negative: float
    residual: float
    tolerance: float
    exact: bool

    @model_serializer(mode="wrap")
    def _leave_out(self, whole: SerializerFunctionWrapHandler):  # type: ignore[no-untyped-def]  # or the schema is lost
        """Leave out what only networks with concepts have."""
        fields = whole(self)
        if self.logit_without_concepts is None:
            fields.pop("logit_without_concepts", None)
        return fields


class ErrorPart(Part):
    """Why an input failed.

    Attributes:
        kind: the class of the error, such as MediaError.
        message: the line that was printed about it.
    """

    kind: str
    message: str


class FailedSource(Part):
    """The input that failed.

    Attributes:
        path: as the user named it.
    """

    path: str


class Failed(Part):
    """One input that nothing could be made of; it stands in the same stream as the records of the others.

    Attributes:
        schema_name: of the records in whose stream it stands; "schema" in the JSON.
        schema_version: 1.
        status: "error".
        source: the input.
        error: why it failed.
    """

    schema_name: str = Field(alias="schema")
    schema_version: Literal[1] = 1
    status: Literal["error"] = "error"
    source: FailedSource
    error: ErrorPart

    @classmethod
    def of(cls, path: str, error: CodaError) -> Self:
        """Make the record of an input that failed.

        Args:
            path: the input's name; bytes in it that are not UTF-8 are written as \\xff.
            error: what was raised.

        Returns:
            A record of this class.
        """
        part = ErrorPart(kind=type(error).__name__, message=utf8(str(error)))
        return cls(source=FailedSource(path=utf8(path)), error=part)  # type: ignore[call-arg]


def to_json(record: Part) -> str:
    """Write any record as one line of JSON: UTF-8, no NaN, floats in full.

    Args:
        record: of whatever class.

    Returns:
        The JSON, without a line end.
    """
    return without_controls(record.model_dump_json(by_alias=True, exclude_none=record.leaves_out_none))


def without_controls(text: str) -> str:
    """Escape the characters that JSON may hold as they are, and that a terminal takes for commands: DEL and C1.

    Args:
        text: JSON.

    Returns:
        JSON of the same value.
    """
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


_CONTROLS = re.compile("[\x7f-\x9f]")


def schema_of(lines: type[Part] | UnionType, title: str) -> dict[str, Any]:
    """Describe the lines of some output.

    Args:
        lines: the class of every line, or a union of the classes that lines can have.
        title: of the schema.

    Returns:
        The JSON Schema (draft 2020-12) as an object for ``json.dumps``.
    """
    adapter = TypeAdapter[Part](cast("type[Part]", lines))  # a union is no type to mypy
    schema = adapter.json_schema(mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title, **schema}
