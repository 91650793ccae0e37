"""A line of the log of a run: what happened to one item."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from coda_cli.schema.parts import ErrorPart, Part, schema_of

SCHEMA: Literal["coda.log"] = "coda.log"


class LogLine(Part):
    """What happened to one item of a run.

    Attributes:
        schema_name: "coda.log"; "schema" in the JSON.
        schema_version: 1.
        time: when it was done, in UTC, as 2026-01-31T12:00:00.000Z.
        command: which command: explain, video or summary.
        item: the picture or clip, as messages call it; of a summary the records that were asked for, or one that cannot
            be read.
        what: what happened to it.
        seconds: how long it took: of a picture its decomposition (a share of its batch), of a clip or a summary all of
            it; None where nothing was computed.
        outputs: its files; those that were there already where it was skipped.
        error: why it failed.
    """

    schema_name: Literal["coda.log"] = Field(SCHEMA, alias="schema")
    schema_version: Literal[1] = 1
    time: str
    command: str
    item: str
    what: Literal["explained", "skipped", "summarised", "failed"]
    seconds: float | None = Field(None, ge=0)
    outputs: tuple[str, ...] = ()
    error: ErrorPart | None = None


def json_schema() -> dict[str, Any]:
    """Describe a line of the file that ``--log`` names.

    Returns:
        The JSON Schema.
    """
    return schema_of(LogLine, f"{SCHEMA} version 1")
