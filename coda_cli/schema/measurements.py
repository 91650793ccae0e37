"""What ``coda evaluate --json`` prints about one measurement."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from coda_cli.schema.pictures import Network, _Part, schema_of


class LocalisationRecord(_Part):
    """Grid localisation by one method; see ``study.localisation``."""

    schema_name: Literal["coda.localisation"] = Field("coda.localisation", alias="schema")
    schema_version: Literal[1] = 1
    network: Network
    pictures: int  # that grids could be made of
    data: str  # sha256 over all pictures and labels
    method: str  # as it was asked for
    parameters: dict[str, float]  # all of them
    grid: Literal["2x2", "3x3"]
    protocol: Literal["corrected", "published"]
    threshold: float
    rescale: bool
    smooth: int
    seed: int
    grids: int
    mean: float
    interval_95: tuple[float, float]
    uniform: float  # what evenly spread evidence scores
    scores: tuple[tuple[float, ...], ...]  # of every grid, of each of its pictures
    device: str
    versions: dict[str, str]


class RemovalRecord(_Part):
    """Pixel removal in the order of one method's maps; see ``study.removal``."""

    schema_name: Literal["coda.removal"] = Field("coda.removal", alias="schema")
    schema_version: Literal[1] = 1
    network: Network
    pictures: int
    data: str  # sha256 over all pictures and labels of the data set
    method: str  # as it was asked for
    parameters: dict[str, float]  # all of them
    direction: Literal["least", "most"]
    baseline: Literal["zero", "mean", "blurred"]
    points: int
    share: float
    first: bool = False  # the first pictures of the data set, not some all over it
    area: float
    removed: tuple[float, ...]  # shares of the pixels, from 0 on
    mean: tuple[float, ...]  # probability of the true class at each
    curves: tuple[tuple[float, ...], ...]  # of every picture
    device: str
    versions: dict[str, str]


def to_json(record: LocalisationRecord | RemovalRecord) -> str:
    """One line of JSON."""
    return record.model_dump_json(by_alias=True, exclude_none=True)


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a line of output."""
    return schema_of(LocalisationRecord | RemovalRecord, "coda.localisation and coda.removal version 1")
