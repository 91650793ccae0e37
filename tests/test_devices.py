"""A process for each device: the results of one, one account of all, and what happens to a process that is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import program
import pytest
from conftest import Coda
from program import finish, names_of, photo, started, wait_for_records
from test_shards import COUNT, POISONED, content, make_pictures

from coda_cli.explanation.devices import shares
from coda_cli.explanation.naming import Naming
from coda_cli.explanation.shards import Shard, ShardRun
from coda_cli.media.sources import Item

TWO = ("-m", "cifar10", "--device", "cpu,cpu")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pictures, and in ``one`` what a single process makes of them."""
    folder = tmp_path_factory.mktemp("whole")
    make_pictures(folder)
    program.run("explain", "photos", "-r", "-m", "cifar10", "-o", "one", "-q", cwd=folder, status=1)
    return folder


def children_of(process: subprocess.Popen[bytes]) -> list[int]:
    """The processes that explain for one."""
    return program.children_of(process.pid, b"spawn_main")


def test_two_processes_make_what_one_makes(whole: Path) -> None:
    result = program.run_process("explain", "photos", "-r", "-o", "two", "--json", *TWO, cwd=whole, status=1)
    assert content(whole / "two") == content(whole / "one")
    assert len(names_of(result)) == len(set(names_of(result))) == COUNT + 1
    assert len(result.errors) == 1
    assert result.errors[0].startswith(f"{POISONED}: not a picture")
    assert result.err.splitlines()[-1].startswith(f"coda: {COUNT} explained, 1 failed in ")
    result = program.run_process("explain", "photos", "-r", "-o", "two", *TWO, cwd=whole, status=1)
    assert result.err.splitlines()[-1].startswith(f"coda: 0 explained, {COUNT} skipped, 1 failed in ")


def test_a_lost_process_is_a_line_and_the_rest_is_done_by_the_next_run(tmp_path: Path) -> None:
    make_pictures(tmp_path, 60)
    (tmp_path / POISONED).unlink()
    arguments = ("explain", "photos", "-r", "-o", "out", "--batch-size", "1", *TWO)
    with started(*arguments, cwd=tmp_path, most=5) as child:
        wait_for_records(tmp_path / "out", 5, child)
        os.kill(children_of(child)[0], signal.SIGKILL)
        result = finish(child, 1)
    (error,) = result.errors
    assert error.startswith("cpu: its process was ended by signal 9; pictures that it had and did not explain: ")
    lost = int(error.partition("explain: ")[2].partition(";")[0])
    assert lost > 0
    assert f" {60 - lost} explained, {lost} lost in " in result.err.splitlines()[-1]
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.coda.json")}
    assert 60 - lost <= len(made) < 60
    result = program.run_process(*arguments, cwd=tmp_path)
    assert f"{60 - len(made)} explained, {len(made)} skipped" in result.err
    assert {path: path.stat().st_mtime_ns for path in made} == made, "something was done twice"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_ends_all_processes(number: signal.Signals, tmp_path: Path) -> None:
    make_pictures(tmp_path, 60)
    arguments = ("explain", "photos", "-r", "-o", "out", "--batch-size", "1", *TWO)
    with started(*arguments, cwd=tmp_path, group=True, most=5) as child:
        wait_for_records(tmp_path / "out", 5, child)
        children = children_of(child)
        assert len(children) == 2
        if number == signal.SIGINT:
            os.killpg(child.pid, number)  # as a terminal sends it: to all processes
        else:
            child.send_signal(number)
        result = finish(child, 128 + number)
    assert len(result.err.splitlines()) == 1, "a line for the interruption, and none of the processes"
    if number == signal.SIGINT:
        assert result.err.endswith("; the same command continues from here\n")
    program.wait_for_the_end(children)
    for path in (tmp_path / "out").rglob("*.coda.json"):
        record = json.loads(path.read_bytes())
        assert all(
            (tmp_path / "out" / name).exists() for part in record["explained"] for name in part["files"].values()
        )
    assert not list((tmp_path / "out").rglob("*.part"))


def test_processes_end_with_the_one_that_was_killed(tmp_path: Path) -> None:
    make_pictures(tmp_path, 60)
    with started("explain", "photos", "-r", "-o", "out", "--batch-size", "1", *TWO, cwd=tmp_path, most=5) as child:
        wait_for_records(tmp_path / "out", 5, child)
        children = children_of(child)
        child.send_signal(signal.SIGKILL)
        child.wait()
    program.wait_for_the_end(children)
    assert len(list((tmp_path / "out").rglob("*.coda.json"))) < 60


def test_a_shard_is_shared_out_among_all_devices() -> None:
    items = [Item(Path(f"photos/{n}.jpg")) for n in range(1000)]
    naming = Naming(Path("out"), "cifar10")
    parts = shares(items, naming, 2)
    assert [part for n in (1, 2) for part in [ShardRun(Shard(n, 2), items, naming).items]] == parts
    for of in (2, 3, 4):
        part = ShardRun(Shard(1, of), items, naming).items
        several = shares(part, naming, 4, of)
        assert sorted(item.name for one in several for item in one) == sorted(item.name for item in part)
        assert min(map(len, several)) > len(part) / 8


def test_a_shard_on_two_devices_says_how_it_ended(coda: Coda, tmp_path: Path) -> None:
    for n in range(4):
        photo(tmp_path / f"photos/{n}.png", seed=n)
    result = coda("explain", "photos", "-o", "out", "--json", "--shard", "1/1", *TWO)
    assert result.records[-1]["explained"] == 4
    assert len(result.records) == 5
    assert coda("merge", "out").err.endswith("complete: 1 shard, 4 pictures\n")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--device", "cpu,cuda:99"), "--device cpu,cuda:99: torch finds "),
        (("--device", "cpu,auto"), "--device cpu,auto: expected cpu, cuda, cuda:N or mps ('auto')"),
        (("--device", "cpu,"), "--device cpu,: expected cpu, cuda, cuda:N or mps ('')"),
        ((*TWO, "--html", "page.html"), "--html with --device cpu,cpu: "),
        ((*TWO, "--scale", "run"), "--scale run with --device cpu,cpu: "),
        ((*TWO, "-o", "out.tar"), "--output at an address or one file with --device cpu,cpu: "),
        ((*TWO, "--engine", "ray"), "--device cpu,cpu with --engine ray: "),
    ],
)
def test_what_needs_one_process_is_refused(options: tuple[str, ...], message: str, coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    assert coda("explain", "a.png", *options, status=2).error.startswith(message)
    assert {path.name for path in tmp_path.iterdir()} <= {"a.png", ".cache"}


def test_other_commands_take_one_device(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    coda("explain", "a.png", "-m", "cifar10", "-o", "out")
    for command in (("compare", "a.png"), ("verify", "out"), ("video", "a.png")):
        result = coda(*command, "--device", "cpu,cpu", status=1 if command[0] == "verify" else 2)
        assert "--device cpu,cpu: several devices are for coda explain; name one" in result.errors[0]
