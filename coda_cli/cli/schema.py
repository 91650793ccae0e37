"""``coda schema``: the JSON Schemas of the records that commands write."""

from __future__ import annotations

import json
from typing import Annotated, Literal

import typer

from coda_cli.cli.console import console

# Those that write records.
Command = Literal[
    "explain", "video", "compare", "evaluate", "summary", "merge", "diff", "verify", "rerun", "log", "dry-run"
]


def schema(
    command: Annotated[Command, typer.Argument(help="The command or option that writes the records.")] = "explain",
) -> None:
    """Print the JSON Schema of the records that a command writes.

    \b
    coda schema > record.schema.json
    coda schema video
    """
    from coda_cli.schema import clips, comparisons, logs, measurements, pictures, plans, runs, summaries

    schemas = {
        "explain": pictures.json_schema,
        "video": clips.json_schema,
        "compare": comparisons.json_schema,
        "evaluate": measurements.json_schema,
        "summary": summaries.json_schema,
        "merge": summaries.json_schema,
        "diff": runs.json_schema_of_differences,
        "verify": runs.json_schema_of_proofs,
        "rerun": runs.json_schema_of_proofs,
        "log": logs.json_schema,
        "dry-run": plans.json_schema,
    }
    console.result(json.dumps(schemas[command](), indent=2))
