"""A short, seeded part of the campaign, and proof that it sees each kind of fault that it looks for."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from campaign import checkpoints, clips, own_files, pictures
from campaign.case import Case, Run
from campaign.runner import Runner
from campaign.verdict import faults, snapshot
from filelock import FileLock

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, and forks")


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    runner = Runner(tmp_path_factory.mktemp("nursery"))
    yield runner
    runner.close()


@pytest.mark.parametrize(
    ("make", "numbers"),
    [(pictures.make, range(100, 105)), (clips.make, range(100, 103)), (checkpoints.make, range(100, 108)),
     (own_files.make, range(100, 102))],
    ids=["pictures", "clips", "checkpoints", "own"],
)  # fmt: skip
def test_a_few_hostile_inputs_of_each_kind(runner: Runner, tmp_path: Path, make: object, numbers: range) -> None:
    wrong = {}
    for number in numbers:
        folder = tmp_path / str(number)
        folder.mkdir()
        case = make(folder, random.Random(number))  # type: ignore[operator]
        before = snapshot(folder)
        if found := faults(case, runner.run(case, folder), folder, before):
            wrong[f"{number}, {case.what}"] = found
    assert not wrong


def test_the_same_seed_makes_the_same_inputs(tmp_path: Path) -> None:
    def files(name: str) -> dict[str, bytes]:
        (folder := tmp_path / name).mkdir()
        case = checkpoints._description(folder, random.Random("0/checkpoints/7"))
        return {"command": str(case.args).encode(), **{p.name: p.read_bytes() for p in folder.iterdir()}}

    assert files("first") == files("second")


GOOD = Run(code=0, killed="", seconds=1.0, peak=500_000_000, out=b"", err=b"coda: 1 explained\n")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, None),
        ({"code": 2, "err": b"coda: error: no\n"}, "exit code 2"),
        ({"code": 1, "err": b"coda: 0 explained\n"}, "no error said"),
        ({"code": -11}, "ended by SIGSEGV"),
        ({"code": -9, "killed": "time"}, "took too much time"),
        ({"peak": 3_100_000_000}, "took too much memory"),
        ({"err": b"Traceback (most recent call last):\n  x\nValueError: no\n"}, "traceback on stderr: ValueError: no"),
        ({"err": b"libpng warning: no\n"}, "foreign line on stderr"),
        ({"err": b"coda: \x1b[2J\n"}, "control character '\\x1b' on stderr"),
        ({"err": "coda: \x9b2J\n".encode()}, "control character '\\x9b' on stderr"),
        ({"err": b"coda: " + b"x" * 5000 + b"\n"}, "line too long"),
        ({"out": b'{"schema": "x", "a": NaN}\n'}, "stdout is not JSON"),
        ({"seen": ("subprocess.Popen ('gs',)",)}, "did what it may not: subprocess.Popen"),
    ],
)  # fmt: skip
def test_every_kind_of_fault_is_seen(tmp_path: Path, change: dict[str, object], said: str | None) -> None:
    found = faults(Case("a", ["explain", "a.png", "--json"], (0, 1)), Run(**{**vars(GOOD), **change}), tmp_path, {})
    assert [fault for fault in found if said is None or not fault.startswith(said)] == []
    assert len(found) == (said is not None)


def test_files_that_are_changed_broken_or_left_behind_are_seen(tmp_path: Path) -> None:
    for name in ("input.png", "theirs.csv"):
        (tmp_path / name).write_bytes(b"before")
    case, before = Case("a", ["train"], (0,), own_files=("theirs.csv",)), snapshot(tmp_path)
    assert faults(case, GOOD, tmp_path, before) == []
    for name in ("input.png", "theirs.csv", "out.png", "out.json", ".coda-1.part", "canary"):
        (tmp_path / name).write_bytes(b"{")
    found = {fault.split(":")[0] for fault in faults(case, GOOD, tmp_path, before)}
    assert found == {"input changed", "half-written .png", "half-written .json", "left behind", "code of an input ran"}


def test_a_run_is_watched(runner: Runner, tmp_path: Path) -> None:
    weights = tmp_path / "held" / "9L-S-CoDA-SQ-10" / "model_epoch_200.pkl"
    weights.parent.mkdir(parents=True)
    with FileLock(f"{weights}.lock"):  # as another pull has it: this one waits
        case = Case("a", ["models", "pull", weights.parent.name], (0,), env={"CODA_CACHE_DIR": str(tmp_path / "held")})
        slow = runner.run(case, tmp_path, time=0.05)
    assert (slow.code, slow.killed) == (-signal.SIGKILL, "time")
    good = runner.run(Case("a", ["models", "list"], (0,)), tmp_path)
    assert (good.code, good.killed, good.seen) == (0, "", ())
    assert b"cifar10" in good.out
    assert 100_000_000 < good.peak < 3_000_000_000
    env = {"CODA_MIRROR": "http://127.0.0.1:1", "CODA_CACHE_DIR": str(tmp_path / "cache")}
    pull = runner.run(Case("a", ["models", "pull", "9L-S-CoDA-SQ-10"], (5,), env=env), tmp_path)
    assert pull.code == 5
    assert any(event.startswith("socket.") for event in pull.seen)


def test_the_campaign_runs_from_the_shell_and_keeps_what_failed(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parent.parent
    command = [sys.executable, str(root / "tests" / "campaign"), "--count", "2", "--only", "pictures", "--workers", "1"]
    ended = subprocess.run(
        [*command, "--keep", str(tmp_path / "kept"), "--time", "0"], cwd=tmp_path, capture_output=True, text=True
    )
    assert ended.returncode == 1, ended.stderr
    assert "seed 0: 2 inputs" in ended.stdout
    assert {p.name for p in (tmp_path / "kept").iterdir()} == {"pictures-0-0", "pictures-0-1"}
    assert "took too much time" in (tmp_path / "kept" / "pictures-0-0" / "faults.txt").read_text()
    assert (tmp_path / "kept" / "pictures-0-0" / "command.txt").read_text().startswith("coda explain")
