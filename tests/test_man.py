"""The manual pages: one for each command, with all of its options, in a language that man reads without a complaint."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import program
import pytest
import typer.main

from coda_cli.cli import configured
from coda_cli.cli.app import app
from coda_cli.cli.man import pages

PAGES = pages("1.2.3")
COMMANDS = configured.commands_of(typer.main.get_command(app))  # type: ignore[arg-type]


def test_every_command_has_a_page_with_all_its_options() -> None:
    assert {f"coda-{words.replace(' ', '-')}.1" for words in COMMANDS} < set(PAGES)
    assert {"coda.1", "coda-models.1", "coda-evaluate.1"} < set(PAGES)
    for words, command in COMMANDS.items():
        page = PAGES[f"coda-{words.replace(' ', '-')}.1"].replace("\\-", "-")
        for name in configured.options_of(command):
            assert re.search(rf"^\\fB.*--{name}\b", page, re.MULTILINE), f"{words}: {name}"
        assert r"\fB-h, --help\fR" in page, words


def test_a_page_says_what_the_help_says() -> None:
    page = PAGES["coda-explain.1"]
    assert page.startswith('.TH "CODA-EXPLAIN" "1" "" "coda 1.2.3" "coda"\n.SH NAME\ncoda\\-explain \\- split logits')
    assert "\n\\fBcoda explain\\fR [OPTIONS] SOURCES...\n" in page
    assert "\n.nf\ncoda explain photo.jpg\ncoda explain photos/ \\-r" in page
    assert "\n\\-\\-class 3                   an index\n" in page.replace("\n  ", "\n")
    assert "\n130  interrupted" in PAGES["coda.1"].replace("\n  ", "\n")
    assert "[COMMAND]" in PAGES["coda-config-show.1"]


@pytest.mark.skipif(not shutil.which("groff"), reason="needs groff")
@pytest.mark.parametrize("name", sorted(PAGES))
def test_man_reads_it_without_a_complaint(name: str) -> None:
    read = subprocess.run(
        ["groff", "-man", "-ww", "-K", "utf8", "-T", "utf8"], input=PAGES[name].encode(), capture_output=True
    )
    assert (read.returncode, read.stderr.decode()) == (0, "")
    assert f"{name[:-2].upper()}(1)" in read.stdout.decode()


def test_what_looks_like_a_request_is_text() -> None:
    from coda_cli.cli.man import _paragraphs

    assert list(_paragraphs("a\\b\nc\n\n\b\n.so x\n'y -z\n\nend.")) == [
        ".PP", "a\\eb c", ".PP", ".nf", "\\&.so x", "\\&'y \\-z", ".fi", ".PP", "end.",
    ]  # fmt: skip


def test_it_is_made_without_torch_as_in_the_environment_of_a_build(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from coda_cli.cli.man import write; write(Path(sys.argv[1]), '0');"
        "print(sorted({'torch', 'numpy', 'PIL', 'av', 'requests'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, env=program.environment(), check=True)
    assert run.stdout == "[]\n"
    assert {path.name for path in tmp_path.iterdir()} == set(PAGES)
