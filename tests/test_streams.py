"""Terminals, pipes and readers that go away: results and messages keep to their streams, without a traceback."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from pathlib import Path

import program
import pytest
from program import check_whole, photo, photos


def test_a_list_from_a_terminal_is_asked_for_in_words(tmp_path: Path) -> None:
    outer, inner = os.openpty()
    try:
        child = subprocess.run(
            program.command("explain", "-"), stdin=inner, capture_output=True, cwd=tmp_path, text=True
        )
    finally:
        os.close(outer)
        os.close(inner)
    assert child.returncode == 2
    assert child.stderr.startswith("coda: error: - reads a list of paths from stdin, which is a terminal; ")


def test_results_go_to_the_pipe_beside_a_progress_bar_on_the_terminal(tmp_path: Path) -> None:
    photos(tmp_path / "in", "a.png", "b.png")
    outer, inner = os.openpty()
    try:
        child = subprocess.run(
            program.command("explain", "in", "--json"),
            stdout=subprocess.PIPE,
            stderr=inner,
            cwd=tmp_path,
            env={**program.environment(), "TERM": "xterm"},
            text=True,
        )
        shown = os.read(outer, 1 << 16).decode(errors="replace")  # may end in the middle of a letter
    finally:
        os.close(outer)
        os.close(inner)
    assert child.returncode == 0
    assert [json.loads(line)["source"]["path"] for line in child.stdout.splitlines()] == ["in/a.png", "in/b.png"]
    assert "explaining" in shown
    assert '"schema"' not in shown


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="asks Linux for a full disk")
@pytest.mark.parametrize(
    "args", [("--help",), ("--version",), ("models", "list"), ("explain", "a.png", "--json", "-q")]
)
def test_results_that_cannot_be_written_are_one_line(tmp_path: Path, args: tuple[str, ...]) -> None:
    photo(tmp_path / "a.png")
    with open("/dev/full", "wb") as full:
        ended = subprocess.run(
            program.command(*args),
            cwd=tmp_path,
            env=program.environment(),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert (ended.returncode, ended.stderr) == (1, "coda: error: output: No space left on device\n")


def test_closed_streams_are_no_traceback(tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    said = {}
    for closed, more in ((">&-", "a.png --class 0"), ("<&-", "-")):
        line = f"{shlex.join(program.command('explain'))} {more} {closed}"
        ended = subprocess.run(
            ["sh", "-c", line], cwd=tmp_path, env=program.environment(), capture_output=True, text=True
        )
        said[closed] = ended.returncode, ended.stderr
    assert said[">&-"][0] == 0
    assert len(said[">&-"][1].splitlines()) == 1
    assert said["<&-"][0] == 2
    assert "stdin, which is closed" in said["<&-"][1]
    assert (tmp_path / "coda-out" / "a.airplane.overlay.png").exists()


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8:strict"])
def test_a_name_that_the_locale_does_not_have_is_printed_as_it_is(tmp_path: Path, encoding: str) -> None:
    name = "猫\udce9.png"  # and a byte that is no UTF-8
    photo(tmp_path / name)
    line = [*program.command("explain", "--class", "0", "--write", "overlay"), "."]
    ended = subprocess.run(
        line, cwd=tmp_path, env={**program.environment(), "PYTHONIOENCODING": encoding}, capture_output=True
    )
    assert ended.returncode == 0, ended.stderr
    printed = os.fsdecode(ended.stdout.strip())
    assert (tmp_path / printed).exists()
    assert "猫" in printed


def test_a_reader_that_goes_away_is_no_error_message(tmp_path: Path) -> None:
    photos(tmp_path / "in", *(f"{i:02}.png" for i in range(60)))  # more records than a pipe holds, and its reader
    with program.started("explain", "in", "--json", "--class", "0", "--batch-size", "1", cwd=tmp_path) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        assert child.stdout.readline().startswith(b'{"schema"')
        child.stdout.close()
        said = child.stderr.read().decode()
        assert child.wait(program.PATIENCE) == 1
    assert all(line.startswith("coda: in/") for line in said.splitlines()), said
    check_whole(tmp_path / "coda-out")
