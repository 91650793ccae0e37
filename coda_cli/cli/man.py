"""Manual pages from the commands' own help: ``python -m coda_cli.cli.man FOLDER VERSION``, as a wheel's build does."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import typer
import typer.main
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

PREFORMATTED = "\b"  # a line of it: the lines up to the next empty one stay as they are


def pages(version: str) -> dict[str, str]:
    """Every manual page by the name of its file: coda.1, coda-explain.1, coda-evaluate-depth.1, ..."""
    from coda_cli.cli.app import app

    program = typer.main.get_command(app)
    assert isinstance(program, TyperGroup)
    commands = _commands(program, "coda")
    return {
        f"{name.replace(' ', '-')}.1": _page(name, command, version, program.context_settings)
        for name, command in commands
    }


def _commands(command: TyperCommand | TyperGroup, name: str) -> Iterator[tuple[str, TyperCommand | TyperGroup]]:
    """A command and all below it, by their words."""
    yield name, command
    for word, below in command.commands.items() if isinstance(command, TyperGroup) else ():
        assert isinstance(below, TyperCommand | TyperGroup)
        yield from _commands(below, f"{name} {word}")


def _page(name: str, command: TyperCommand | TyperGroup, version: str, settings: Mapping[str, Any]) -> str:
    """The page of one command, in the language of man; ``settings`` are those that it has from the program."""
    title, help_text = name.replace(" ", "-"), (command.help or "").strip()
    first = re.split(r"\n\s*\n", help_text)[0].replace("\n", " ").rstrip(".")
    context = typer.Context(command, info_name=name, **settings)
    lines = [f'.TH "{_quoted(title.upper())}" "1" "" "coda {_quoted(version)}" "coda"', ".SH NAME"]
    lines += [f"{_text(title)} \\- {_text(first[:1].lower() + first[1:])}", ".SH SYNOPSIS"]
    lines += [f"\\fB{_text(name)}\\fR {_text(_usage(command))}", ".SH DESCRIPTION"]
    lines += _paragraphs(help_text)
    if arguments := [(_metavar(p), p.help or "") for p in command.params if isinstance(p, TyperArgument)]:
        lines += [".SH ARGUMENTS", *(line for argument in arguments for line in _tagged(*argument))]
    records = [p.get_help_record(context) for p in command.get_params(context) if isinstance(p, TyperOption)]
    lines += [".SH OPTIONS", *(line for record in records if record for line in _tagged(*record))]
    if isinstance(command, TyperGroup):
        lines += [".SH COMMANDS"]
        for word, below in command.commands.items():
            lines += _tagged(f"{name} {word}", below.get_short_help_str(200))
    if command.epilog:
        lines += [".SH MORE", *_paragraphs(command.epilog.strip("\n"))]
    if name != "coda":
        lines += [".SH SEE ALSO", "\\fBcoda\\fR(1)"]
    return "\n".join(lines) + "\n"


def _usage(command: TyperCommand | TyperGroup) -> str:
    """What stands behind the command's name."""
    arguments = [_metavar(p) for p in command.params if isinstance(p, TyperArgument)]
    return " ".join(["[OPTIONS]", *arguments, *(["COMMAND"] if isinstance(command, TyperGroup) else [])])


def _metavar(argument: TyperArgument) -> str:
    """How an argument is called; in brackets where it can be left out."""
    name = argument.metavar or argument.name.upper()
    return name if argument.required or name.startswith("[") else f"[{name}]"


def _tagged(tag: str, text: str) -> list[str]:
    """A word in bold, and what it means."""
    return [".TP", f"\\fB{_text(tag)}\\fR", _text(" ".join(text.split()))]


def _paragraphs(text: str) -> Iterator[str]:
    """The paragraphs of a help text; those that are marked keep their lines."""
    for paragraph in re.split(rf"\n\s*\n|\n(?={PREFORMATTED})", text):
        lines = paragraph.strip("\n").splitlines()
        if lines and lines[0].strip(" ") == PREFORMATTED:
            yield from (".PP", ".nf", *map(_text, lines[1:]), ".fi")
        elif lines:
            yield from (".PP", _text(" ".join(line.strip() for line in lines)))


def _text(text: str) -> str:
    """A line of text in which nothing is a request of roff; hyphens are those that can be copied."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped


def _quoted(text: str) -> str:
    return text.replace('"', "")


def write(folder: Path, version: str) -> None:
    """Write all pages into a folder that is there."""
    for name, text in pages(version).items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]), sys.argv[2])
