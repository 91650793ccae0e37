"""What Ctrl-C, a signal or a killed run leaves: whole results, no temporary files, and the same command goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import program
import pytest
from conftest import Coda
from program import FullDisk, check_whole, photo, photos, tree

from coda_cli.checkpoints import loading
from coda_cli.explanation import picture as pictures
from coda_cli.explanation import run as runs
from coda_cli.explanation import writer
from coda_cli.explanation.naming import Naming
from coda_cli.explanation.record import Drawing
from coda_cli.media import files as media_files
from coda_cli.media.sources import resolve


def test_nothing_more_is_computed_after_ctrl_c(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos(tmp_path / "in", *(f"{i}.png" for i in range(8)))
    begun, counting = [], threading.Lock()

    def explain_batch(views: Any, **more: Any) -> Any:
        with counting:
            begun.append(views)
            first = len(begun) == 1
        time.sleep(0.2)  # for the next one to wait for this
        if first:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        time.sleep(0.2)
        return pictures.explain_batch(views, **more)

    monkeypatch.setattr("coda_cli.explanation.run.explain_batch", explain_batch)
    net, output = loading.load("cifar10"), writer.Output(Naming(tmp_path / "out", "cifar10"), Drawing())
    run = runs.explain_items(net, resolve([str(tmp_path / "in")]), pictures.Request(), output, batch=1)
    with pytest.raises(KeyboardInterrupt):
        next(run)
    assert len(begun) <= 2  # on CPUs two batches are computed at a time


def wait_for(there: Callable[[], bool], child: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + program.PATIENCE
    while not there():
        assert child.poll() is None, f"ended too early: {child.communicate()}"
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.005)


def test_what_a_killed_run_left_is_removed_by_the_next(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "in/sub/a.png")
    left, fresh = (tmp_path / "coda-out/sub" / f".coda-{name}.part" for name in ("left", "fresh"))
    left.parent.mkdir(parents=True)
    for path in (left, fresh):
        path.write_bytes(b"half")
    spool, frames = left.with_name(".coda-left.part.spool"), left.with_name(".coda-frames.part")
    spool.write_bytes(b"frames")
    frames.mkdir()
    (frames / "0.png").write_bytes(b"a frame")
    for path in (left, spool, frames):
        os.utime(path, (time.time() - 7200,) * 2)
    coda("explain", "in", "-r")
    assert list(left.parent.glob(".*")) == [fresh]  # it may belong to a run that goes on at this moment
    for verb in ("compare", "video"):
        os.utime(fresh, (time.time() - 7200,) * 2)
        coda(
            verb,
            "in/sub/a.png",
            "-o",
            fresh.parent,
            *(("--method", "ours") if verb == "compare" else ("--max-frames", "1")),
        )
        assert not fresh.exists()
        fresh.write_bytes(b"half")


@pytest.mark.parametrize(
    ("number", "status", "said"),
    [(signal.SIGINT, 130, "interrupted: "), (signal.SIGTERM, 143, "terminated"), (signal.SIGHUP, 143, "terminated")],
)
def test_a_run_that_is_stopped_leaves_whole_results_and_the_same_command_goes_on(
    coda: Coda, tmp_path: Path, number: signal.Signals, status: int, said: str
) -> None:
    photos(tmp_path / "in", *(f"{i:02}.png" for i in range(20)))
    args = ("explain", "in", "--class", "0", "--batch-size", "1", "--write", "overlay,json")
    out = tmp_path / "coda-out"
    with program.started(*args, cwd=tmp_path, stdout=subprocess.DEVNULL, most=3) as child:
        wait_for(lambda: len(list(out.glob("*.json"))) > 0, child)
        child.send_signal(number)
        stopped = program.finish(child, status)
    assert stopped.err.splitlines()[-1].startswith(f"coda: {said}")
    assert not stopped.errors
    check_whole(out)
    done = len(list(out.glob("*.json")))
    assert 0 < done < 20
    again = coda(*args)
    assert f"coda: {20 - done} explained, {done} skipped in" in again.err
    check_whole(out)
    assert len(tree(out)) == 40


@pytest.mark.parametrize(
    ("more", "goes_on"),
    [((), True), (("--if-exists", "skip"), True), (("--force",), False), (("--write", "overlay"), False)],
)
def test_only_a_run_that_would_go_on_says_so(
    coda: Coda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...], goes_on: bool
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    photo(tmp_path / "a.png")
    monkeypatch.setattr("coda_cli.cli.outcomes.ResultPrinter.add", interrupted)
    said = coda("explain", "a.png", *more, status=130).err
    assert ("the same command continues from here" in said) == goes_on


def test_ctrl_c_before_anything_was_done_leaves_quietly(coda: Coda, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("coda_cli.media.sources.find", interrupted)
    result = coda("explain", "a.png", status=130)
    assert (result.out, result.err) == ("", "coda: interrupted\n")


def test_ctrl_c_while_the_program_is_imported_is_no_traceback(tmp_path: Path) -> None:
    code = """
import sys
class Interrupted:
    def find_spec(self, name, *_):
        if name == "typer": raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupted())
from coda_cli.__main__ import run
run()
"""
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert (child.returncode, child.stdout, child.stderr) == (130, "", "")


def test_ctrl_c_while_a_file_is_written_leaves_no_temporary_file(
    coda: Coda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos(tmp_path / "in", "a.png", "b.png")
    disk = FullDisk(1)

    def interrupted(handle: int) -> None:
        del handle
        raise KeyboardInterrupt

    monkeypatch.setattr(disk, "fsync", interrupted, raising=False)
    monkeypatch.setattr(media_files, "os", disk)
    result = coda("explain", "in", status=130)
    assert "interrupted: 0 explained" in result.err
    assert tree(tmp_path / "coda-out") == {}
