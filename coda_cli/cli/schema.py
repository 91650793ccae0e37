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
    from coda_cli.schema import clips, comparisons, measurements, pictures

    kinds = {
        Command.explain: pictures, Command.video: clips, Command.compare: comparisons,
        Command.evaluate: measurements,
    }  # fmt: skip
    console.result(json.dumps(kinds[command].json_schema(), indent=2))
