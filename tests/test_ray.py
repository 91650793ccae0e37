"""A cluster of two machines, each of them some processes here: what its workers make, and what happens to lost ones."""

from __future__ import annotations

import itertools
import os
import pickle
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import program
import pytest
from conftest import Coda
from program import EXAMPLES, finish, names_of, photo, started, wait_for_records
from test_shards import POISONED, content, make_pictures

from coda_cli.checkpoints.loading import load
from coda_cli.checkpoints.reference import Reference
from coda_cli.errors import CheckpointError, UsageError
from coda_cli.media import addresses
from coda_cli.media.sources import Item, find, resolve

COUNT = 60
ON_RAY = ("--engine", "ray", "--batch-size", "1", "--ray-address")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two machines with a core each."""
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}.items():
            patch.setenv(name, value)
        cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        try:
            cluster.add_node(num_cpus=1)
            yield cluster
        finally:
            cluster.shutdown()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pictures, and in ``one`` what a single process makes of them."""
    folder = tmp_path_factory.mktemp("whole")
    make_pictures(folder, COUNT)
    program.run_process("explain", "photos", "-r", "-o", "one", "-q", cwd=folder, status=1)
    return folder


def workers_of(cluster: Any) -> list[int]:
    """The processes of workers that are explaining; between two calls of theirs, none is."""
    until = time.monotonic() + program.PATIENCE
    while time.monotonic() < until:
        raylets = [raylet for node in cluster.list_all_nodes() for raylet in node.all_processes["raylet"]]
        found = [pid for r in raylets for pid in program.children_of(r.process.pid, b"ClusterWorker.explain")]
        if found:
            return found
    raise AssertionError("no worker explains")


def test_a_killed_worker_is_replaced_and_the_results_are_those_of_one_process(cluster: Any, whole: Path) -> None:
    arguments = ("explain", "photos", "-r", "-o", "lost", "--json", *ON_RAY, cluster.address)
    with started(*arguments, cwd=whole) as child:
        wait_for_records(whole / "lost", 5, child)
        os.kill(workers_of(cluster)[0], signal.SIGKILL)
        result = finish(child, 1)
    assert "coda: a worker was lost; " in result.err
    assert len(result.errors) == 1
    assert result.errors[0].startswith(f"{POISONED}: not a picture")
    assert len(names_of(result)) == len(set(names_of(result))) == COUNT + 1
    assert content(whole / "lost") == content(whole / "one")


def test_a_run_whose_driver_was_killed_goes_on_where_it_stopped(cluster: Any, whole: Path) -> None:
    arguments = ("explain", "photos", "-r", "-o", "again", *ON_RAY, cluster.address)
    with started(*arguments, cwd=whole) as child:
        wait_for_records(whole / "again", 5, child)
        child.send_signal(signal.SIGKILL)
        child.wait()
    made = {path: path.stat().st_mtime_ns for path in (whole / "again").rglob("*.coda.json")}
    result = program.run_process(*arguments, cwd=whole, status=1)
    explained, skipped = (int(part.split()[0]) for part in result.err.splitlines()[-1][6:].split(", ")[:2])
    assert explained + skipped == COUNT
    assert skipped >= len(made), "workers of the killed run may have written some more"
    assert {path: path.stat().st_mtime_ns for path in made} == made, "something was done twice"
    assert content(whole / "again") == content(whole / "one")


def test_an_interrupted_run_ends_at_once_and_leaves_nothing_half_written(cluster: Any, whole: Path) -> None:
    arguments = ("explain", "photos", "-r", "-o", "stopped", *ON_RAY, cluster.address)
    with started(*arguments, cwd=whole) as child:
        wait_for_records(whole / "stopped", 5, child)
        child.send_signal(signal.SIGINT)
        result = finish(child, 130)
    assert "coda: interrupted: " in result.err
    assert result.err.endswith("the same command continues from here\n")
    program.check_whole(whole / "stopped")
    assert len(list((whole / "stopped").rglob("*.coda.json"))) < COUNT


def test_a_dataset_gets_records_and_maps(cluster: Any, whole: Path) -> None:
    environment = program.environment({"RAY_ADDRESS": cluster.address})
    command = [sys.executable, str(EXAMPLES / "dataset_of_ray.py"), str(whole / "photos/a")]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=program.PATIENCE)
    assert run.returncode == 0, run.stderr
    lines = {name: rest for name, *rest in map(str.split, run.stdout.splitlines())}
    one = content(whole / "one")
    assert len(lines) == COUNT // 3
    for name, (label, logit, total) in lines.items():
        (part,) = one[f"a/{Path(name).stem}.coda.json"]["explained"]
        assert (label, logit) == (part["name"], f"{part['logit']:.4f}")
        assert float(total) == pytest.approx(part["positive"] + part["negative"], abs=1e-3)


# ---- without a cluster -----------------------------------------------------------------------------------------------


def test_only_what_a_lost_worker_had_not_given_back_is_done_again(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    from coda_cli.explanation import cluster
    from coda_cli.explanation.writer import Outcome

    def result(answer: Any) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(cluster, "_result", result)
    said: list[str] = []
    run = cluster._Run(None, iter(()), said.append)  # type: ignore[arg-type]
    items = [Item(Path(f"{n}.png")) for n in range(4)]
    outcomes = [Outcome(item) for item in items]
    stream = iter([outcomes[:2], [], outcomes[2:3], ray.exceptions.ActorDiedError()])
    run._at_work[stream] = ("the worker", cluster._Part([*items]))
    found = [outcome for _ in range(4) for outcome in run._collect(stream)]
    assert found == outcomes[:3]
    assert [(part.items, part.tries) for part in run._again] == [(items[3:], 2)]
    assert said == ["a worker was lost; 1 picture that it had is given to another"]
    assert not run._at_work


def test_an_input_that_ends_one_worker_after_the_other_has_failed_and_the_others_have_not() -> None:
    pytest.importorskip("ray")
    from coda_cli.explanation.cluster import TRIES, _Part, _Run

    run = _Run(None, iter(()), lambda _: None)  # type: ignore[arg-type]
    items, failed, ended = [Item(Path(f"{n}.png")) for n in range(4)], [], 0
    assert not list(run._lost(_Part(items)))
    while run._again:
        part = run._again.popleft()
        if items[2] in part.items:
            ended += 1
            failed += run._lost(part)
    assert [outcome.item for outcome in failed] == [items[2]]
    assert str(failed[0].error).startswith("2.png: its processes were ended")
    assert ended == TRIES


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--engine", "ray", "--shard", "1/2"), "--shard with --engine ray"),
        (("--engine", "ray", "--html", "page.html"), "--html with --engine ray"),
        (("--engine", "ray", "--scale", "run"), "--scale run with --engine ray"),
        (("--engine", "ray", "--device", "cuda:1"), "--device cuda:1 with --engine ray"),
        (("--ray-address", "auto"), "--ray-address needs --engine ray"),
        (("--engine", "ray", "no.png"), "no.png: no such file"),
    ],
)
def test_what_a_cluster_cannot_do_is_refused(options: tuple[str, ...], said: str, coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    source = () if options[-1] == "no.png" else ("a.png",)
    assert coda("explain", *source, *options, status=2).error.startswith(said)
    assert not (tmp_path / "coda-out").exists()


def test_a_policy_that_needs_one_attempt_is_refused(coda: Coda, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    photo(tmp_path / "a.png")
    result = coda("explain", "a.png", "--engine", "ray", "--if-exists", "rename", status=2)
    assert result.error.startswith("--if-exists rename on a cluster")


def test_without_ray_a_line_says_what_to_install(coda: Coda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "coda_cli.explanation.cluster", raising=False)
    photo(tmp_path / "a.png")
    result = coda("explain", "a.png", "--engine", "ray", status=2)
    assert result.error == "Ray is not installed: pip install 'coda-cli[ray]'"


def test_a_network_travels_by_its_name_and_hash() -> None:
    net = load("cifar10")
    reference = Reference.to(net)
    assert reference.source == "cifar10"
    again = reference.load("cpu", "float32")
    assert (again.sha256, again.checkpoint) == (net.sha256, net.checkpoint)
    with pytest.raises(CheckpointError, match="another network where it was loaded again"):
        replace(reference, sha256="0" * 64).load("cpu", "float32")
    with pytest.raises(UsageError, match="in no file"):
        Reference.to(replace(net, path=Path("Module")))


def test_sources_are_listed_while_the_first_of_them_are_used(tmp_path: Path) -> None:
    first = photo(tmp_path / "a/1.png")
    found = find([str(first.parent), str(tmp_path / "gone")])
    assert next(found).path == first
    with pytest.raises(UsageError, match="no such file or folder"):
        next(found)


def test_a_store_is_listed_folder_by_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    class Store:
        def walk(self, path: str, maxdepth: int | None) -> Iterator[tuple[str, list[str], list[str]]]:
            assert (path, maxdepth) == ("bucket/photos", None)
            yield "bucket/photos", ["a", ".b"], ["2.png", "1.png", ".hidden.png", "notes.txt"]
            yield "bucket/photos/.b", [], ["3.png"]
            raise FileNotFoundError

    monkeypatch.setattr(addresses, "system_of", lambda url: (Store(), url.removeprefix("s3://").rstrip("/")))
    found = find(["s3://bucket/photos/"], recursive=True, by_folder=True)
    assert [next(found).name for _ in range(2)] == ["s3://bucket/photos/2.png", "s3://bucket/photos/1.png"]
    with pytest.raises(UsageError, match="nothing is at this address"):
        next(found)


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_compressed_tar_travels_to_no_other_process(mode: str, tmp_path: Path) -> None:
    path = tmp_path / ("photos.tar" if mode == "w" else "photos.tar.gz")
    with tarfile.open(path, mode) as archive:
        archive.add(photo(tmp_path / "1.png"), "1.png")
    (item,) = resolve([str(path)])
    if mode == "w":
        assert pickle.loads(pickle.dumps(item)).stored.read() == (tmp_path / "1.png").read_bytes()
    else:
        with pytest.raises(UsageError, match="is compressed as a whole"):
            pickle.dumps(item)


def test_progress_with_an_unknown_end_names_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from coda_cli.cli import console

    clock = itertools.count(0.0, 10.5)
    monkeypatch.setattr(console, "PLAIN_EVERY", 10.0)
    monkeypatch.setattr(console.time, "monotonic", lambda: next(clock))
    with console.Console().progress("explaining", " pictures") as advance:
        advance(1, 0)
        advance(2, 0)
    assert capsys.readouterr().err == "coda: explaining: 1 pictures\ncoda: explaining: 2 pictures, 10 s each\n"
