"""``coda schema``."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated

import typer

from coda_cli.cli.console import console


class Command(StrEnum):
    """A command that writes records."""

    explain = "explain"
    video = "video"
    compare = "compare"
    evaluate = "evaluate"


def schema(
    command: Annotated[Command, typer.Argument(help="Whose records.")] = Command.explain,
) -> None:
    """Print the JSON Schema of the records that a command writes.

    \b
    coda schema > record.schema.json
    coda schema video
    """
    from coda_cli.report import clip_records, comparison, measurements, records

    kinds = {
        Command.explain: records, Command.video: clip_records, Command.compare: comparison,
        Command.evaluate: measurements,
    }  # fmt: skip
    console.result(json.dumps(kinds[command].json_schema(), indent=2))
