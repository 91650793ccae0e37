"""What is written about one picture and class under several methods."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from coda_cli.schema.pictures import ClassPart, Failed, Network, Source, ViewPart, _Part, schema_of

SCHEMA: Literal["coda.comparison"] = "coda.comparison"


class MethodPart(_Part):
    """One method's map [h, w] of the view.

    ``off`` is how far its sum is from what it should share out, logit - bias (of ours: the residual, with the
    positional share); it says little of methods whose maps are not in logit units.
    ``scale`` is drawn in full colour. ``seconds`` is its time, of which classes that are asked for together take equal
    shares.
    """

    method: str  # as it was asked for
    parameters: dict[str, float]  # all of them
    sum: float
    off: float
    scale: float
    seconds: float


class Comparison(_Part):
    """One picture and class: the logit, and every method's account of it."""

    schema_name: Literal["coda.comparison"] = Field(SCHEMA, alias="schema")
    schema_version: Literal[1] = 1
    status: Literal["ok"] = "ok"
    source: Source
    network: Network
    view: ViewPart
    explained: ClassPart
    logit: float
    bias: float
    methods: tuple[MethodPart, ...]
    together: int  # classes that were asked for together
    left_out: dict[str, str] = Field(default={})  # methods that do not work with this network, and why
    files: dict[str, str] = Field(default={})
    device: str
    versions: dict[str, str]


class FailedComparison(Failed):
    """One input that could not be compared."""

    schema_name: Literal["coda.comparison"] = Field(SCHEMA, alias="schema")


def to_json(record: Comparison | FailedComparison) -> str:
    """One line of JSON."""
    return record.model_dump_json(by_alias=True)


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a line of output."""
    return schema_of(Comparison | FailedComparison, f"{SCHEMA} version 1")
