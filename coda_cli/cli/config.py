"""``coda config``: which defaults are in force, and where they are from."""

from __future__ import annotations

import json as json_module
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption

from coda_cli.cli import configured
from coda_cli.cli.console import console
from coda_cli.cli.options import Json
from coda_cli.errors import UsageError
from coda_cli.media.files import shown_name, utf8

app = typer.Typer(help="Show the defaults that files and variables set.", no_args_is_help=True)

# What coda reads of the environment that is no option of a command.
OTHERS = {
    "CODA_CONFIG": "a file to read settings from, in the place of all others",
    "CODA_CACHE_DIR": "the folder of downloaded networks",
    "CODA_MIRROR": "another address to download networks from",
    "CODA_NO_COLOR": "print without colours",
    "CODA_DEBUG": "show the Python traceback of an error",
}


@app.command()
def show(
    context: typer.Context,
    command: Annotated[
        list[str] | None, typer.Argument(metavar="COMMAND", help="Only of this command, such as evaluate depth.")
    ] = None,
    json: Json = False,
) -> None:
    """Show the default of every option, and where it is from; without --json as a coda.toml has it.

    \b
    coda config show explain
    coda config show --json | jq -r 'select(.from != "default") | .where'
    """
    root = context.find_root()
    group = root.command
    assert isinstance(group, TyperGroup)
    configured.read(group, root.params["config"])
    commands = configured.commands_of(group)
    wanted = " ".join(command or [])
    chosen = {words: one for words, one in commands.items() if not wanted or f"{words} ".startswith(f"{wanted} ")}
    if not chosen:
        raise UsageError(f"no command is called {wanted!r}; there are {', '.join(commands)}")
    for words, one in chosen.items():
        lines = map(_json, _settings(words, one)) if json else _toml(words, one)
        for line in lines:
            console.result(line)
    for name in configured.unread(commands, frozenset(OTHERS)):
        console.warn(f"{name}: nothing reads this variable; --json shows the names of options")


@app.command()
def path(context: typer.Context) -> None:
    """Print the files that settings are read from, the strongest last.

    A file need not be there. The user's own may set every option. One in the working folder may not set what names
    files, networks or code, replaces files, or hides something, since it may have come with somebody's pictures.
    """
    for file in configured.files(context.find_root().params["config"]):
        console.result(str(file))
        console.say(f"{file}: {'is read' if os.path.exists(file) else 'is not there'}")


def _settings(words: str, command: TyperCommand) -> Iterator[dict[str, Any]]:
    """The default of every option of a command."""
    for option in dict.fromkeys(configured.options_of(command).values()):
        setting = configured.SETTINGS.found.get((words, option.name))
        value = configured.parsed(setting.value, option) if setting else option.default
        kind = "default" if setting is None else "variable" if setting.variable else "file"
        yield {
            "command": words,
            "option": configured.key_of(option),
            "value": _plain(value, option),
            "from": kind,
            "where": shown_name(setting.where) if setting else None,
            "variables": configured.variables_of(words, option),
        }


def _plain(value: Any, option: TyperOption) -> Any:
    """A value as JSON and TOML have it; None where an option has none, or a program decides."""
    if option.multiple:
        return [utf8(str(one)) for one in value or ()] or None
    return utf8(str(value)) if isinstance(value, str | Path) else value


def _json(setting: dict[str, Any]) -> str:
    """One object on one line."""
    from coda_cli.schema.parts import without_controls

    whole = {"schema": "coda.setting", "schema_version": 1, **setting}
    return without_controls(json_module.dumps(whole, ensure_ascii=False))


def _toml(words: str, command: TyperCommand) -> Iterator[str]:
    """The table of a command in a coda.toml; what has no value is a comment."""
    yield f"[{words.replace(' ', '.')}]"
    for setting in _settings(words, command):
        value = setting["value"]
        text = f"# {setting['option']}" if value is None else f"{setting['option']} = {_toml_value(value)}"
        yield f"{text}  # {setting['where'] or 'default'}"
    yield ""


def _toml_value(value: Any) -> str:
    """A value as TOML writes it, which is as JSON does but for a character that TOML must escape."""
    return json_module.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
