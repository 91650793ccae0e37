"""``coda summary --mean-map``: the mean of the kept maps of each class, against plain numpy over the npz files."""

from __future__ import annotations

import json
import shutil
import tracemalloc
from collections import defaultdict
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import program
import pytest
from conftest import Coda
from PIL import Image
from program import strict_json, tree

from coda_cli.explanation.summary import mean_maps
from coda_cli.media import files

WITH_MAPS = ("--write", "npz,json", "-q")


@pytest.fixture(scope="module")
def run(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with kept maps over pictures that lie where the network sorts them, but for one."""
    folder = tmp_path_factory.mktemp("mean")
    shutil.copytree(scenes / "test", folder / "in")
    first, second = sorted(path for path in (folder / "in").iterdir() if any(path.iterdir()))[:2]
    (wrong,) = sorted(first.iterdir())[:1]
    shutil.copy(wrong, second / "wrong.png")
    program.run("explain", "in", "-r", "-o", "out", *WITH_MAPS, cwd=folder)
    return folder / "out"


@pytest.fixture
def out(run: Path, tmp_path: Path) -> Path:
    """A copy of the run, which a test may change."""
    return Path(shutil.copytree(run, tmp_path / "out"))


def summed(coda: Coda, *args: str | Path, status: int = 0) -> dict[str, Any]:
    """The part of the summary about mean maps."""
    found = coda("summary", "out", "-r", "-o", "report", "--mean-map", "--json", *args, status=status).record
    jsonschema.validate(found, json.loads(coda("schema", "summary").out))
    assert strict_json(Path("report/summary.json").read_text("utf-8")) == found
    assert isinstance(found["mean_maps"], dict)
    return found["mean_maps"]


def kept(out: Path) -> dict[str, list[tuple[dict[str, Any], Any]]]:
    """Record and content of the npz of every picture, by the name of its folder."""
    found = defaultdict(list)
    for path in sorted(out.rglob("*.coda.json")):
        record = json.loads(path.read_text("utf-8"))
        with np.load(path.with_suffix(".npz")) as content:
            found[path.parent.name].append((record, {name: content[name] for name in ("pixels", "view")}))
    return found


def check(report: Path, one: dict[str, Any], own: list[tuple[dict[str, Any], Any]]) -> None:
    """One mean map against the mean of the maps of its pictures."""
    expected = np.mean([content["pixels"][0].astype(np.float64) for _, content in own], axis=0)
    with np.load(report / one["files"]["npz"]) as content:
        assert content["mean"].dtype == np.float64
        assert np.abs(content["mean"] - expected).max() < 1e-15
        assert np.abs(content["view"] - np.mean([c["view"].astype(float) for _, c in own], axis=0)).max() < 1e-12
        assert json.loads(str(content["record"])) == one
    parts = [record["explained"][0] for record, _ in own]
    assert (one["pictures"], one["height"], one["width"]) == (len(own), *expected.shape)
    assert one["logit"] == pytest.approx(np.mean([part["logit"] for part in parts]))
    assert one["constants"] == pytest.approx(np.mean([part["bias"] + part["positional"] for part in parts]))
    assert one["sum"] == pytest.approx(np.mean([part["positive"] + part["negative"] for part in parts]), abs=1e-6)
    assert one["sum"] + one["constants"] + one["residual"] == pytest.approx(one["logit"], abs=1e-12)
    assert one["magnitude"] == pytest.approx(np.abs(expected).sum())
    assert abs(one["residual"]) <= one["tolerance"] < 1e-3
    assert one["exact"]
    with Image.open(report / one["files"]["png"]) as drawing:
        assert (drawing.width > 640, drawing.height > 320) == (True, True)


def test_the_mean_map_of_a_label_is_the_mean_of_its_maps(coda: Coda, out: Path) -> None:
    found, by_folder = summed(coda), kept(out)
    assert [one["name"] for one in found["maps"]] == sorted(by_folder)
    assert (found["without_map"], found["unreadable"], found["different_sizes"]) == (0, 0, [])
    for one in found["maps"]:
        own = by_folder[one["name"]]
        right = [pair for pair in own if pair[0]["top"][0]["name"] == one["name"]]
        assert (one["explained"], one["other_classes"]) == (one["name"], len(own) - len(right))
        check(Path("report"), one, right)
    assert sum(one["other_classes"] for one in found["maps"]) == 1  # the picture that lies in a wrong folder
    stems = {path.split("/")[-1] for one in found["maps"] for path in one["files"].values()}
    assert stems == set(tree(Path("report/mean-maps")))


def test_without_labels_it_is_that_of_the_predicted_class(coda: Coda, out: Path) -> None:
    found, by_class = summed(coda, "--no-labels"), defaultdict(list)
    for pair in (pair for own in kept(out).values() for pair in own):
        by_class[pair[0]["top"][0]["name"]].append(pair)
    assert [one["name"] for one in found["maps"]] == sorted(by_class)
    for one in found["maps"]:
        check(Path("report"), one, by_class[one["name"]])
    said = coda("summary", "out", "-r", "-o", "other", "--mean-map", "--no-labels").err
    assert f"the mean map of {len(by_class)} classes, by predicted class" in said
    one = min(path.parent for path in out.rglob("*.coda.json"))
    assert "the mean map of 1 class, by label" in coda("summary", one, "-o", "one", "--mean-map").err


def test_a_label_that_no_map_is_about_takes_what_most_are_about(coda: Coda, run: Path, tmp_path: Path) -> None:
    coda("explain", run.parent / "in", "-r", "-o", "out", *WITH_MAPS, "--class", "cat")
    for one in summed(coda)["maps"]:
        assert (one["explained"], one["other_classes"]) == ("cat", 0)
        check(Path("report"), one, kept(tmp_path / "out")[one["name"]])


def test_views_of_different_size_have_no_mean(coda: Coda, run: Path, out: Path, tmp_path: Path) -> None:
    name = min(path.parent.name for path in out.rglob("*.coda.json"))
    source = min((run.parent / "in" / name).iterdir())
    (tmp_path / "large" / name).mkdir(parents=True)
    with Image.open(source) as picture:
        picture.resize((64, 48)).save(tmp_path / "large" / name / "large.png")
    coda("explain", "large", "-r", "-o", "out", *WITH_MAPS, "--fit", "native", "--class", name)
    result = coda("summary", "out", "-r", "-o", "report", "--mean-map", "--json")
    found = result.record["mean_maps"]
    assert found["different_sizes"] == [name]
    assert name not in [one["name"] for one in found["maps"]]
    assert len(found["maps"]) >= 4
    assert f"different sizes: {name}; coda explain --fit crop" in result.err


def test_pictures_without_a_map_are_counted_and_said_once(coda: Coda, out: Path) -> None:
    first, second, third, *_ = sorted(out.rglob("*.coda.json"))
    first.with_suffix(".npz").unlink()
    for path in (second, third):
        record = json.loads(path.read_text("utf-8"))
        path.write_text(json.dumps(record | {"files": {}}))
    result = coda("summary", "out", "-r", "-o", "report", "--mean-map", "--json")
    assert result.record["mean_maps"]["without_map"] == 3
    assert result.err.count("without a map beside the record") == 1
    assert "3 pictures without a map" in result.err
    assert "coda explain --write npz,json keeps it" in result.err


def test_a_map_that_cannot_be_read_is_one_line_and_the_rest_goes_on(coda: Coda, out: Path) -> None:
    first, second, *_, last = sorted(out.rglob("*.coda.npz"))
    for path in (last.with_suffix(".json"), sorted(out.rglob("*.coda.json"))[-2]):  # together they are infinite
        record = json.loads(path.read_text("utf-8"))
        record["explained"][0]["tolerance"] = 1e308
        path.write_text(json.dumps(record))
    first.write_bytes(b"broken")
    second.write_bytes(sorted(out.rglob("*.coda.npz"))[-1].read_bytes())
    result = coda("summary", "out", "-r", "-o", "report", "--mean-map", "--json", status=1)
    assert result.record["mean_maps"]["unreadable"] == len(result.errors) == 4
    assert "a tolerance that no explanation has" in result.err
    assert "is of another picture" in result.err
    assert len(result.record["mean_maps"]["maps"]) >= 4


def test_a_map_that_does_not_add_up_is_not_exact(coda: Coda, out: Path) -> None:
    path = sorted(out.rglob("*.coda.npz"))[-1]
    with np.load(path) as content:
        arrays = dict(content)
    arrays["pixels"][0, 3, 3] += 0.01
    np.savez(path, **arrays)
    result = coda("summary", "out", "-r", "-o", "report", "--mean-map", "--json", status=4)
    wrong = [one["name"] for one in result.record["mean_maps"]["maps"] if not one["exact"]]
    assert wrong == [path.parent.name]
    assert f"NOT EXACT: the mean maps of {path.parent.name}" in result.err


def test_records_on_lines_are_followed_to_their_maps(coda: Coda, out: Path) -> None:
    lines = [path.read_text("utf-8") for path in sorted(out.rglob("*.coda.json"))]
    (out / "all.jsonl").write_text("".join(lines))
    found = coda("summary", "out/all.jsonl", "-o", "report", "--mean-map", "--json").record["mean_maps"]
    assert found["without_map"] == 0
    by_folder = kept(out)
    for one in found["maps"]:
        check(Path("report"), one, [p for p in by_folder[one["name"]] if p[0]["top"][0]["name"] == one["name"]])


def test_who_asks_for_no_maps_does_not_wait_for_numpy(out: Path) -> None:
    said = program.run_process("summary", "out", "-r", cwd=out.parent, python=("-X", "importtime")).err
    imported = {line.split("|")[-1].strip() for line in said.splitlines() if line.startswith("import time:")}
    assert "coda_cli.explanation.summary.run" in imported
    assert "numpy" not in imported


def test_what_cannot_be_is_refused_before_any_work(coda: Coda, out: Path) -> None:
    assert "add --output DIR" in coda("summary", "out", "-r", "--mean-map", status=2).err
    assert "instead of -" in coda("summary", "-", "-o", "report", "--mean-map", status=2).err
    (out.parent / "report" / "mean-maps").mkdir(parents=True)
    result = coda("summary", "out", "-r", "-o", "report", "--mean-map", status=2)
    assert "mean-maps: exists; --force replaces it" in result.err
    assert tree(out.parent / "report") == {}
    assert len(summed(coda, "--force")["maps"]) >= 5


def test_maps_of_an_earlier_summary_go_and_files_of_others_stay(coda: Coda, out: Path) -> None:
    first = summed(coda)["maps"]
    folder = Path("report/mean-maps")
    for name in ("notes.npz", "notes.png", "list.txt"):
        (folder / name).write_bytes(b"mine")
    np.savez(folder / "own.npz", record=np.array("{}"))
    shutil.rmtree(out / min(path.parent.name for path in out.rglob("*.coda.json")))
    second = summed(coda, "--force")["maps"]
    assert len(second) == len(first) - 1
    ours = {path.split("/")[-1] for one in second for path in one["files"].values()}
    assert set(tree(folder)) == ours | {"notes.npz", "notes.png", "list.txt", "own.npz"}


def test_full_colour_is_the_same_in_all_mean_maps(coda: Coda, out: Path) -> None:
    assert out.is_dir()
    found = summed(coda)["maps"]
    means = [np.load(Path("report") / one["files"]["npz"])["mean"] for one in found]
    assert {(one["scale"], one["scale_of"]) for one in found} == {(found[0]["scale"], "run")}
    expected = np.percentile(np.abs(np.concatenate([mean.ravel() for mean in means])), 99.5)
    assert found[0]["scale"] == pytest.approx(expected, rel=0.02)
    assert len({float(np.percentile(np.abs(mean), 99.5)) for mean in means}) == len(means)  # each alone has another


def test_a_full_disk_leaves_nothing(coda: Coda, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "os", program.FullDisk(3))
    result = coda("summary", "out", "-r", "-o", "report", "--mean-map", status=1)
    assert "cannot be written" in result.err
    assert list((out.parent / "report").iterdir()) == []


def test_files_of_classes_do_not_meet(tmp_path: Path) -> None:
    with mean_maps.MeanMapFolder(tmp_path, replace=False) as folder:
        names = [folder._stem(name) for name in ("a b", "A-b", "a_b", "a b", "x" * 300, "x" * 301)]
    assert len(set(names)) == len(names)
    assert max(map(len, names)) < 70


def test_memory_does_not_grow_with_the_classes(tmp_path: Path) -> None:
    shape, names = (256, 256), [f"class {n}" for n in range(40)]
    values, view = np.full(shape, 0.25, np.float32), np.full((*shape, 3), 200, np.uint8)
    tracemalloc.start()
    with mean_maps.MapSums(tmp_path) as sums:
        for name in names * 2:  # each class comes again after all others
            sums.add(name, name, True, values * int(name.split()[1]), view)
        held = tracemalloc.get_traced_memory()[1]
        for n, (group, more) in enumerate(sorted(sums.chosen(), key=lambda found: found[0].place)):
            total, colours = sums.sums(group)
            assert (total == 0.5 * n).all()
            assert (colours == 400).all()
            assert (group.pictures, more) == (2, 0)
    tracemalloc.stop()
    assert held < 5e6  # all of them have 52 MB
