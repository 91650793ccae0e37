"""The record of one picture and class under several methods."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from coda_cli.schema.parts import ClassPart, Failed, Network, Part, ScoredClass, Source, Sums, ViewPart, schema_of
from coda_cli.schema.regions import RegionSums
from coda_cli.schema.runs import Difference

SCHEMA: Literal["coda.comparison"] = "coda.comparison"


class MethodPart(Part):
    """One method's map [h, w] of the view.

    Attributes:
        method: as it was asked for.
        parameters: all of them, by name.
        sum: of the map's values.
        off: how far the sum is from what the map should share out, logit - bias (for coda's own map: the residual, with
            the positional share). It says little of methods whose maps are not in logit units.
        complete: whether the method claims that the map sums to logit - bias.
        scale: the value of one pixel that is drawn in full colour.
        white: the value of one pixel that is drawn white: 0, or the least of a map whose values are all positive.
        seconds: the time of the method. Classes that are asked for in one call take equal shares of it.
    """

    method: str
    parameters: dict[str, float]
    sum: float
    off: float
    complete: bool = False
    scale: float
    white: float = 0.0
    seconds: float


class Comparison(Part):
    """One picture and class: its logit, and the map of every method; and the same of further networks.

    Attributes:
        schema_name: "coda.comparison"; "schema" in the JSON.
        schema_version: 1.
        status: "ok".
        source: the file.
        network: whose logit it is.
        view: what the network saw of the file.
        explained: the class; each network has its own, unless one was asked for.
        logit: the network's output for the class.
        bias: the network's constant share of the logit.
        methods: one part for each map.
        together: how many classes were asked for in one call; see ``MethodPart.seconds``.
        left_out: methods that do not work with this network, and why.
        predicted: the class with the highest logit; None, as the next fields, where one network was asked for.
        sums: what the logit is made of; None where the network's logits cannot be split.
        regions: sums of the exact contributions inside regions; None where none were asked for.
        difference: only in ``others``: what changed from the first network to this one, with the difference of the
            maps where both were explained for the same class.
        others: the further networks on the same picture, a record each.
        files: what was written: kind -> path relative to the output folder, with /.
        device: on which it was computed.
        versions: of coda and the libraries that had a part in it.
    """

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
    together: int
    left_out: dict[str, str] = Field(default={})
    predicted: ScoredClass | None = None
    sums: Sums | None = None
    regions: RegionSums | None = None
    difference: Difference | None = None
    others: tuple[Comparison, ...] = ()
    files: dict[str, str] = Field(default={})
    device: str
    versions: dict[str, str]


class FailedComparison(Failed):
    """One input that could not be compared.

    Attributes:
        schema_name: "coda.comparison"; "schema" in the JSON.
    """

    schema_name: Literal["coda.comparison"] = Field(SCHEMA, alias="schema")


def json_schema() -> dict[str, Any]:
    """Describe a line of ``coda compare --json``.

    Returns:
        The JSON Schema.
    """
    return schema_of(Comparison | FailedComparison, f"{SCHEMA} version 1")
