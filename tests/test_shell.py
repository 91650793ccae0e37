"""The program in a hostile shell: signals while it leaves, no working folder, names that are commands for terminals."""

from __future__ import annotations

import io
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import program
import pytest
from program import photo
from rich.console import Console as RichConsole

from coda_cli.cli import console as voice
from coda_cli.schema.parts import without_controls

Coda = Callable[..., program.Result]


@pytest.mark.parametrize(
    ("second", "wait"), [(signal.SIGINT, 0.0), (signal.SIGTERM, 0.3), (signal.SIGHUP, 0.0), (signal.SIGINT, 0.3)]
)
def test_signals_while_it_leaves_do_not_disturb(tmp_path: Path, second: signal.Signals, wait: float) -> None:
    for n in range(40):
        photo(tmp_path / "in" / f"{n}.png", seed=n)
    with program.started("explain", "in", "-o", "out", "--batch-size", "1", cwd=tmp_path) as child:
        while child.poll() is None and not list((tmp_path / "out").glob("*.png")):
            time.sleep(0.01)  # until it is at work
        time.sleep(wait)
        child.send_signal(signal.SIGINT)
        while child.poll() is None:
            child.send_signal(second)
            time.sleep(0.002)
        # Of two signals that arrive together Python handles that of the lower number first: SIGHUP ends with 143.
        ends = (130, 143) if second == signal.SIGHUP else (130,)
        result = program.finish(child, child.returncode if child.returncode in ends else 0)
    assert sum("interrupted" in line for line in result.err.splitlines()) <= 1
    assert not list((tmp_path / "out").glob(".coda-*"))


def test_a_signal_while_python_ends_is_ignored() -> None:
    """What runs at exit, as torch's own functions do, is not interrupted with a traceback."""
    code = (
        "import atexit, os, signal, sys, time\n"
        "def slow(): os.kill(os.getpid(), signal.SIGINT); os.kill(os.getpid(), signal.SIGTERM); time.sleep(0.05)\n"
        "atexit.register(slow); sys.argv = ['coda', '--version']\n"
        "from coda_cli.cli.app import process; process()"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=program.environment())
    assert (child.returncode, child.stderr) == (0, "")


@pytest.mark.parametrize(("number", "status"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 143)])
@pytest.mark.parametrize("where", ["error", "say"])
def test_a_signal_while_an_error_is_printed_is_no_traceback(number: str, status: int, where: str) -> None:
    """The second time, while "terminated" is printed."""
    code = (
        "import os, signal, sys\nfrom coda_cli.cli import app\n"
        f"def printed(text): os.kill(os.getpid(), signal.{number}); os.write(1, b'not reached')\n"
        "def broken(*_, **__):\n"
        f"    if {where!r} == 'say': os.kill(os.getpid(), signal.SIGTERM)\n"
        "    raise app.UsageError('no')\n"
        f"app.app, app.console.{where} = broken, printed\n"
        "sys.argv = ['coda']; app.process()"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=program.environment())
    expected = (status, "") if where == "error" else (143, "not reached")
    assert (child.returncode, child.stdout, child.stderr) == (*expected, "")


def test_nohup_keeps_a_run_from_ending_with_its_terminal() -> None:
    code = (
        "import os, signal, sys, time\nfrom coda_cli.cli import app\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "app.app = lambda **_: os.kill(os.getpid(), signal.SIGHUP)\n"
        "sys.argv = ['coda']; app.process()"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=program.environment())
    assert (child.returncode, child.stderr) == (0, "")


def test_too_few_threads_are_told_from_too_little_memory(coda: Coda, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("coda_cli.media.sources.find", none_left)
    assert coda("explain", "a.png", status=1).error == (
        "the system allows no more threads; end other programs, or see ulimit -u"
    )


@pytest.mark.parametrize("args", [["models", "list"], ["explain", "a.png"], ["models", "verify", "cifar10"]])
def test_without_a_working_folder_one_line_says_so(tmp_path: Path, args: list[str]) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    code = f"import os, shutil, sys; os.chdir({str(folder)!r}); os.rmdir({str(folder)!r}); " + (
        f"os.execv(sys.executable, [sys.executable, '-m', 'coda_cli', *{args!r}])"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=program.environment())
    result = program.checked(program.Result(tuple(args), child.returncode, child.stdout, child.stderr), 2)
    assert result.error == "the working folder no longer exists; change to another one (cd) and try again"
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("character", ["\x1b", "\x07", "\x7f", "\x9b", "\x85"])
def test_what_is_a_command_for_a_terminal_is_written_out(coda: Coda, tmp_path: Path, character: str) -> None:
    name = f"a{character}[31mb.png"
    (tmp_path / name).write_bytes(b"no picture")
    result = coda("explain", name, "--json", status=1)
    assert character not in result.err.replace("\n", "")
    assert character not in result.out
    if character != "\x85":  # a line end for Python
        assert f"a\\x{ord(character):02x}[31mb.png: not a picture" in result.error
    assert result.record["source"]["path"] == name


def test_records_on_disk_hold_no_such_character_either(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a\x9bb.png")
    coda("explain", "a\x9bb.png", "-o", "out")
    (written,) = (tmp_path / "out").glob("*.json")
    assert "\x9b" not in written.read_text("utf-8")
    assert json.loads(written.read_text("utf-8"))["source"]["path"] == "a\x9bb.png"


def test_escaped_json_is_the_same_value() -> None:
    value = {"a\x7f": "\x9b\x80ü\\", "b": ["\x1b"]}
    text = json.dumps(value, ensure_ascii=False)
    assert "\x9b" in text
    assert json.loads(without_controls(text)) == value
    assert not any(c in without_controls(text) for c in "\x7f\x80\x9b")


LOSES = """
import os, sys
from coda_cli.checkpoints import loading
from coda_cli.cli import app
from coda_cli.errors import CheckpointError

def load(*_, **__):
    try:  # as libraries do that call Python from C: the exception is forgotten
        os.kill(os.getpid(), number)
    except BaseException as error:
        assert type(error).__name__ in ("KeyboardInterrupt", "_Terminated")
    try:
        os.kill(os.getpid(), number)
    except BaseException:
        assert app.LONGEST_WAY_OUT < 0
        raise
    assert app.LONGEST_WAY_OUT > 0
    raise CheckpointError("no shape", item="m.pt")

number, app.LONGEST_WAY_OUT = int(sys.argv.pop()), float(sys.argv.pop())
loading.load = load
app.process()
"""


@pytest.mark.parametrize(
    ("number", "status", "said"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
@pytest.mark.parametrize("patience", ["20", "-1"])
def test_a_signal_that_a_library_loses_ends_the_program_even_so(
    tmp_path: Path, number: signal.Signals, status: int, said: str, patience: str
) -> None:
    """With an error that is none, or at the next signal, where the way out takes so long that there cannot be one."""
    photo(tmp_path / "a.png")
    command = [sys.executable, "-c", LOSES, "explain", "a.png", patience, str(int(number))]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=program.PATIENCE)
    assert (ended.returncode, ended.stderr) == (status, f"coda: {said}\n")


def test_results_on_a_terminal_are_written_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(voice, "stdout_is_terminal", lambda: True)
    voice.Console().result("out/a\x1b]0;b.png")
    assert capsys.readouterr().out == "out/a\\x1b]0;b.png\n"
    monkeypatch.setattr(voice, "stdout_is_terminal", lambda: False)
    voice.Console().result("out/a\x1b]0;b.png")
    assert capsys.readouterr().out == "out/a\x1b]0;b.png\n"  # a script needs the name


def test_a_progress_bar_is_no_command_either() -> None:
    shown = voice.Console()
    shown._rich = RichConsole(file=io.StringIO(), force_terminal=True, width=120)
    with shown.progress("[red]a\x1b]0;b\x9b.mp4: first pass") as advance:
        advance(1, 2)
    said = shown._rich.file.getvalue()  # type: ignore[attr-defined]
    assert "[red]a\\x1b]0;b\\x9b.mp4" in said
    assert "\x1b]0;" not in said
    assert "\x9b" not in said


def test_a_line_of_a_million_characters_is_cut(coda: Coda) -> None:
    result = coda("explain", "-", input="x" * 1_000_000 + "\n", status=1)
    assert all(len(line) < 2000 for line in result.err.splitlines())
    assert result.errors[0].startswith("xxx")
    assert " [...] " in result.errors[0]
    assert result.errors[0].endswith(coda("explain", "-", input="y" * 300 + "\n", status=1).errors[0].split(": ", 1)[1])


@pytest.mark.skipif(sys.platform != "linux", reason="ulimit -v")
def test_too_little_memory_to_start_is_one_line(tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    code = (
        "import os, resource, sys; resource.setrlimit(resource.RLIMIT_AS, (1_000_000_000,) * 2); "
        "os.execv(sys.executable, [sys.executable, '-m', 'coda_cli', 'explain', 'a.png'])"
    )
    env = program.environment()
    child = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=env)
    result = program.checked(program.Result(("explain", "a.png"), child.returncode, child.stdout, child.stderr), 1)
    assert result.error.startswith("memory ran out")


@pytest.mark.parametrize("character", ["\x1b", "\n", "\r", "\x7f", "\x9b"])
def test_outputs_are_named_on_one_line_without_commands_to_a_terminal(
    coda: Coda, tmp_path: Path, character: str
) -> None:
    photo(tmp_path / f"in{character}" / f"a{character}b.png")
    code = f"\\x{ord(character):02x}"
    written = f"coda-out/in{code}/a{code}b"
    result = coda("explain", ".", "-r", "--class", "cat")
    assert result.lines == [f"{written}.cat.overlay.png", f"{written}.coda.json"]
    assert all((tmp_path / name).is_file() for name in result.lines)
    clip = coda("video", f"in{character}/a{character}b.png", "--class", "cat", "--format", "none")
    assert clip.lines == [f"coda-out/a{code}b.coda.jsonl"]
