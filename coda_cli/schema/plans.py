"""What a run would do, as ``--dry-run`` says it: a line for each item, and one for the run."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from coda_cli.schema.parts import ErrorPart, Part, schema_of

ITEM: Literal["coda.planned"] = "coda.planned"
RUN: Literal["coda.plan"] = "coda.plan"
What = Literal["explain", "skip", "summarise", "fail"]


class Planned(Part):
    """What would be done with one item.

    Attributes:
        schema_name: "coda.planned"; "schema" in the JSON.
        schema_version: 1.
        item: the picture, clip or file of records, as messages call it.
        what: what would be done; "skip" where its results are there already.
        outputs: files that would be written, as far as their names are known before a class is; those that are there
            already where it would be skipped.
        frames: of a clip, where its file says how many it has.
        error: why it would fail.
    """

    schema_name: Literal["coda.planned"] = Field(ITEM, alias="schema")
    schema_version: Literal[1] = 1
    item: str
    what: What
    outputs: tuple[str, ...] = ()
    frames: int | None = None
    error: ErrorPart | None = None


class Plan(Part):
    """What would be done in all.

    Attributes:
        schema_name: "coda.plan"; "schema" in the JSON.
        schema_version: 1.
        command: which command: explain, video or summary.
        counts: how many items each of these would happen to.
        outputs: files about the whole run that would be written.
        network: the name of the network; None of a summary.
        network_sha256: hex digest of its file.
        loaded: whether its weights had to be read to know this.
        settings: the hash that records would have.
    """

    schema_name: Literal["coda.plan"] = Field(RUN, alias="schema")
    schema_version: Literal[1] = 1
    command: str
    counts: dict[str, int]
    outputs: tuple[str, ...] = ()
    network: str | None = None
    network_sha256: str | None = None
    loaded: bool = False
    settings: str | None = None


def json_schema() -> dict[str, Any]:
    """Describe a line of ``--dry-run --json``.

    Returns:
        The JSON Schema.
    """
    return schema_of(Planned | Plan, f"{RUN} version 1")
