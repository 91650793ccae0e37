"""Every command that a document shows: the program takes its options and their values. Nothing is run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
import typer.main
from typer.exceptions import TyperException

from coda_cli.cli.app import app

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted(path for pattern in ("*.md", "docs/*.md", "examples/*.md") for path in ROOT.glob(pattern))
COMMAND = typer.main.get_command(app)
ENDS = {"|", "||", "&&", "&", ";", "<", ">", "\n"}


def commands(text: str) -> Iterator[list[str]]:
    """The arguments of every ``coda`` in a document's blocks for a shell."""
    for block in re.findall(r"^ *```(?:sh|console)\n(.*?)^ *```$", text, re.DOTALL | re.MULTILINE):
        for line in block.replace("\\\n", " ").splitlines():
            reader = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
            reader.whitespace_split = True
            found: list[str] | None = None
            for word in [*reader, "\n"]:
                if found is None:
                    found = [] if word == "coda" or word.endswith("/coda") else None
                elif word in ENDS:
                    yield found
                    found = None
                else:
                    found.append(word)


def refusal(arguments: list[str]) -> str | None:
    """What the program says against the arguments of a command; None where it takes them."""
    command, context, rest = COMMAND, None, arguments
    try:
        while True:
            context = command.make_context("coda", list(rest), parent=context)
            if not hasattr(command, "resolve_command"):
                return None
            rest = [*context._protected_args, *context.args]
            _, command, rest = command.resolve_command(context, rest)
    except typer.Exit:  # an option such as --version, which is carried out at once
        return None
    except TyperException as error:
        return error.format_message()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_program_takes_the_commands_of(document: Path) -> None:
    refused = {shlex.join(c): r for c in commands(document.read_text("utf-8")) if (r := refusal(c))}
    assert not refused


def test_a_command_that_is_wrong_is_seen() -> None:
    text = "```sh\npip install x && coda explain a.png --fromat png | jq  # coda no\ncoda explan a.png\n```\n"
    first, second = map(refusal, commands(text))
    assert first
    assert "--fromat" in first
    assert second
    assert "explan" in second
    assert list(commands("```sh\na | coda explain - -o x/ < y &\n```")) == [["explain", "-", "-o", "x/"]]
