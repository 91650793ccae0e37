"""The program as a process: help at once, no slow imports, little memory, and an end without delay."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import program
import pytest
from conftest import Coda
from PIL import Image
from program import photo, strict_json


@pytest.mark.parametrize("args", [("--help",), ("explain", "-h"), ("schema",), ("--version",)])
def test_help_schema_and_version_do_not_import_torch(coda_process: Coda, args: tuple[str, ...]) -> None:
    result = coda_process(*args, python=("-X", "importtime"))
    imported = {line.rpartition("|")[2].strip() for line in result.err.splitlines()}
    assert "coda_cli.cli.app" in imported
    assert not imported & {"torch", "numpy", "PIL", "cv2", "ray"}
    assert result.out


def test_a_picture_takes_none_of_torchs_slow_imports(coda_process: Coda, tmp_path: Path) -> None:
    """Sympy and what goes with it take a third of a second, and torch asks for them where it hardly needs them."""
    photo(tmp_path / "a.png")
    result = coda_process("explain", "a.png", "-q", python=("-X", "importtime"))
    imported = {line.rpartition("|")[2].strip() for line in result.err.splitlines()}
    assert "torch" in imported
    assert not imported & {"sympy", "torchvision", "matplotlib", "captum", "fsspec", "requests", "urllib3", "ray"}
    assert not imported & {"s3fs", "gcsfs", "adlfs", "pyarrow", "pillow_heif"}


LAST_WORDS = """
import atexit, sys
from coda_cli.cli.app import process
class Kept:
    def __del__(self): print("taken apart")
kept = Kept()
atexit.register(print, "at exit")
process()
"""


@pytest.mark.parametrize(("argument", "status", "result"), [("--version", 0, "coda "), ("--versio", 2, "at exit")])
def test_the_process_ends_at_once_but_for_what_asked_to_be_done(argument: str, status: int, result: str) -> None:
    ended = subprocess.run([sys.executable, "-c", LAST_WORDS, argument], capture_output=True, text=True)
    assert ended.returncode == status
    assert ended.stdout.startswith(result)
    assert ended.stdout.endswith("at exit\n")


def test_help_comes_at_once(coda_process: Coda) -> None:
    """By the time that the libraries that print it need by themselves: half a second where they take an eighth."""

    def seconds(run: Callable[[], str]) -> float:
        """Of computing, so that other programs on this machine do not count."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert "coda explain photos/" in run()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    libraries = [sys.executable, "-c", "import typer, rich.console, rich.markdown; print('coda explain photos/')"]
    alone = min(seconds(lambda: subprocess.check_output(libraries, text=True)) for _ in range(3))
    assert min(seconds(lambda: coda_process("explain", "--help").out) for _ in range(3)) < 4 * alone


def test_help_says_the_exit_codes_and_how_classes_are_named(coda: Coda) -> None:
    text = coda("--help").out
    for code in (0, 1, 2, 3, 4, 5, 130):
        assert f"\n    {code} " in text or f"\n  {code} " in text
    assert "--class top:5" in coda("explain", "-h").out


@pytest.mark.parametrize("args", [("--version", "-v"), ("-v", "--version"), ("--version", "-vv")])
def test_more_of_it_is_said_with_v(coda: Coda, args: tuple[str, ...]) -> None:
    from coda_cli.checkpoints.manifest import DEFAULT, find

    first, device, network, file = coda(*args).lines
    assert first == coda("--version").out.removesuffix("\n")
    assert device == "device: cpu" or device.startswith("device: cuda (")
    assert network == f"default network: {DEFAULT}, sha256 {find(DEFAULT).sha256}"
    assert file == f"its file: {find(DEFAULT).path}"


def test_version_names_what_a_bug_report_needs(coda: Coda) -> None:
    from importlib.metadata import version

    line = coda("--version").out
    assert line == f"coda {version('coda-cli')} (torch {version('torch')}, Python {sys.version.split()[0]})\n"


def test_the_program_runs_as_a_process_of_its_own(coda_process: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    result = coda_process("explain", "a.png", "--class", "cat")
    assert result.lines == ["coda-out/a.cat.overlay.png", "coda-out/a.coda.json"]
    assert result.err.startswith("coda: a.png: cat, p 0.")


def test_a_large_picture_at_its_own_size_needs_less_than_two_gigabytes(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (100, 150, 3), np.uint8)
    Image.fromarray(noise).resize((1500, 1000), Image.Resampling.BICUBIC).save(tmp_path / "large.png")
    command = ("explain", "large.png", "--fit", "native", "-m", "imagenette", "-o", "out")
    assert program.peak_memory(*command, cwd=tmp_path) < 2e9
    record = strict_json((tmp_path / "out" / "large.coda.json").read_text())
    assert (record["view"]["width"], record["view"]["height"]) == (1500, 1000)
    assert record["explained"][0]["exact"]
