"""``coda evaluate``: measure explanations as the papers do, on pictures of the user. Each command has its own file."""

from __future__ import annotations

import typer

from coda_cli.cli import depth, localisation, removal

app = typer.Typer(help="Measure explanations over many pictures.", no_args_is_help=True)
app.command()(localisation.localisation)
app.command()(removal.removal)
app.command()(depth.depth)
