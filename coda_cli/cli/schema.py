"""``coda schema``."""

from __future__ import annotations

import json

from coda_cli.cli.console import console


def schema() -> None:
    """Print the JSON Schema of the records that explain writes."""
    from coda_cli.report.records import json_schema

    console.result(json.dumps(json_schema(), indent=2))
