"""``coda verify`` and ``coda rerun``: records proven again from their pictures and networks, or repeated."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import program
import pytest
from conftest import Coda
from PIL import Image
from program import looked_at, photo, photos, tree, woollen

from coda_cli.explanation.files import stored_record
from coda_cli.schema import runs

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a picture and a record of two of its classes."""
    folder = tmp_path_factory.mktemp("made")
    photo(folder / "a.png")
    program.run("explain", "a.png", "--class", "cat", "--class", "ship", "--write", "npz,json", cwd=folder)
    return folder


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """That record, in a folder of its own."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path / "coda-out" / "a.coda.json"


def tampered(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change a record where it lies."""
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


def proof_of(coda: Coda, *args: str, command: str = "verify", status: int = 0) -> dict[str, Any]:
    """The only line of a command."""
    line = coda(command, *args, "--json", status=status).record
    jsonschema.validate(line, runs.json_schema_of_proofs())
    return line


def test_a_record_is_proven_in_float64(coda: Coda, run: Path) -> None:
    proof = proof_of(coda, "coda-out")
    record = json.loads(run.read_text())
    assert proof["proven"]
    assert (proof["recorded_precision"], proof["precision"]) == ("float32", "float64")
    wide = looked_at(coda, "a.png", "--class", "cat", "--class", "ship", "--precision", "float64").record
    for target, part in zip(proof["targets"], record["explained"], strict=True):
        assert target["recorded"] == part["logit"]
        double = next(e for e in wide["explained"] if e["index"] == part["index"])
        assert target["again"] == double["logit"] != part["logit"]
        assert abs(double["logit"] - part["logit"]) <= target["difference"] <= target["allowed"]
        assert abs(target["residual"]) <= target["tolerance"] < 1e-8
        assert 0 < target["map_difference"] < 1e-5
    assert coda("verify", run).lines[0].endswith(": proven")


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("network", ["cifar10", "cifar10-bcos"])
def test_every_precision_and_kind_of_record_is_proven_and_repeated(
    coda: Coda, tmp_path: Path, precision: str, network: str
) -> None:
    photo(tmp_path / "in" / "a.png", 60, 40)
    photo(tmp_path / "in" / "b.png", 32, 32, seed=1)
    every = ("--precision", precision, "-m", network, "--write", "npz,json", "-q")
    neurons = ("--neurons", "1:top:3", "--neuron", "1:2", "--neuron", "1:0:sum")
    coda("explain", "in", *every, "-o", "out", "--class", "top:3", "--layer", "all", *neurons)
    coda("explain", "in/a.png", *every, "--versus", "cat", "--fit", "pad", "-o", "difference")
    coda("explain", "in/a.png", *every, "--box", "left=0,0,0.5,1", "--fit", "native", "-o", "native")
    for command in ("verify", "rerun"):
        result = coda(command, "out", "difference", "native", "--json")
        assert len(result.records) == 4
        assert all(proof["proven"] for proof in result.records)
        assert {proof["precision"] for proof in result.records} == {"float64" if command == "verify" else precision}
        assert [len(proof["neurons"]) for proof in result.records] == [2, 2, 0, 0]
        assert all(neuron["proven"] for proof in result.records for neuron in proof["neurons"])
    assert not any("regions" in note for proof in result.records for note in proof["notes"])
    used = [t["difference"] / t["allowed"] for proof in result.records for t in proof["targets"]]
    assert max(used) < 0.5  # the same machine gives the same numbers, but for the order in which lanes add


def test_a_record_of_an_ordinary_network_is_proven_at_its_cut(coda: Coda, tmp_path: Path, ordinary: Path) -> None:
    photo(tmp_path / "a.png", 90, 70)
    own = ("-m", ordinary, "--arch", "torchvision:resnet18")
    coda("explain", "a.png", *own, "--cut", "layer3", "--class", "7", "--write", "npz,json", "--layer", "all")
    record = json.loads((tmp_path / "coda-out" / "a.coda.json").read_text())
    assert record["network"]["cut"] == "layer3"
    for command in ("verify", "rerun"):
        assert proof_of(coda, "coda-out", *map(str, own), command=command)["proven"]
    tampered(tmp_path / "coda-out" / "a.coda.json", lambda r: r["network"].update(cut="layer4"))
    assert "is off by" in coda("verify", "coda-out", *own, status=4).error


def scaled(*keys: str | int, by: float = 1.01) -> Callable[[dict[str, Any]], None]:
    """A change of one number of a record."""

    def change(record: dict[str, Any]) -> None:
        place: Any = record
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] *= by

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (scaled("explained", 0, "logit"), "logit is off by"),
        (scaled("explained", 1, "logit"), "ship: logit is off by"),
        (scaled("explained", 0, "positive"), "positive is off by"),
        (scaled("explained", 0, "negative", by=1.5), "negative is off by"),
        (scaled("explained", 0, "negative"), "grid: the terms of the record do not add up"),
        (scaled("explained", 0, "bias"), "bias is off by"),
        (scaled("explained", 0, "evidence", "grid", 1, 1, by=-1), "cell 2,2 of its grid is off by"),
        (scaled("explained", 0, "probability", by=0.5), "p of cat is"),
        (scaled("top", 0, "logit"), "the logit of"),
        (scaled("top", 1, "probability", by=0), "p of"),
        (lambda r: r["top"].reverse(), "its highest class is not the first one"),
        (lambda r: r["source"].update(width=0), "its picture has "),
        (lambda r: r["explained"][0].update(residual=0.5), "logit: the terms of the record do not add up"),
        (lambda r: r["explained"][0].update(exact=False), "the record itself says that it is not exact"),
        (lambda r: r["explained"][0].update(name="dog"), "class 3 is 'dog' in the record, 'cat' in the network"),
        (lambda r: r["explained"][0].update(index=5000), "class 5000 is 'cat' in the record, none in the network"),
        (lambda r: r["explained"][0].update(index=-7), "class -7 is 'cat' in the record, none"),
        (lambda r: r["view"].update(box=[0, 0, 50, 40]), "sees another part of the picture"),
        (lambda r: r["view"].update(fit="pad"), "sees another part of the picture"),
    ],
)
def test_a_tampered_record_is_not_proven(
    coda: Coda, run: Path, change: Callable[[dict[str, Any]], Any], reason: str
) -> None:
    run.with_suffix(".npz").unlink()
    tampered(run, change)
    assert reason in coda("verify", run, status=4).error


@pytest.fixture(scope="module")
def with_neurons(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a picture, and a record of a class, two of its channels, an activation, and a region of each."""
    folder = tmp_path_factory.mktemp("neurons")
    photo(folder / "a.png")
    neurons = ("--neurons", "1:top:2", "--neuron", "1:3", "--box", "left=0,0,0.5,1")
    program.run("explain", "a.png", "--class", "cat", *neurons, "--write", "json", cwd=folder)
    return folder


CHANNELS = ("explained", 0, "channels", 0)
STRONGEST = (*CHANNELS, "strongest", 1)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (scaled("neurons", 0, "activation"), "layers.0:3: value is off by"),
        (scaled("neurons", 0, "positive"), "layers.0:3: positive is off by"),
        (lambda r: r["neurons"][0].update(constants=1), "layers.0:3: constants is off by"),
        (lambda r: r["neurons"][0].update(residual=0.5), "layers.0:3: the terms of the record do not add up"),
        (lambda r: r["neurons"][0].update(exact=False), "layers.0:3: the record itself says that it is not exact"),
        (scaled("neurons", 0, "regions", "rest", "positive"), "layers.0:3: the terms of the record do not add up"),
        (lambda r: r["neurons"][0].update(position=[0, 0]), "layers.0:3: "),
        (lambda r: r["neurons"][0].update(position=[900, 0]), "does not have what the record names"),
        (lambda r: r["neurons"][0].update(layer="layers.99"), "does not have what the record names"),
        (lambda r: r["neurons"][0].update(layer="a:b"), "does not have what the record names"),
        (lambda r: r["neurons"][0].update(layer="1"), "does not have what the record names"),
        (scaled(*CHANNELS, "sum"), "cat: sum of the channels of layers.0 is off by"),
        (scaled(*CHANNELS, "constants"), "cat: constants above layers.0 is off by"),
        (lambda r: r["explained"][0]["channels"][0].update(residual=1), "cat: layers.0: the terms of the record"),
        (lambda r: r["explained"][0]["channels"][0].update(exact=False), "the channels of layers.0 are not exact"),
        (lambda r: r["explained"][0]["channels"][0].update(channels=7), "channels, 7 in the record"),
        (scaled(*STRONGEST, "share"), "of layers.0: value is off by"),
        (scaled(*STRONGEST, "negative", by=1.5), "of layers.0: negative is off by"),
        (scaled(*STRONGEST, "channel", by=-1), "it is none of the strongest"),
    ],
)
def test_a_record_with_other_neurons_is_not_proven(
    coda: Coda, with_neurons: Path, tmp_path: Path, change: Callable[[dict[str, Any]], Any], reason: str
) -> None:
    shutil.copytree(with_neurons, tmp_path, dirs_exist_ok=True)
    assert "layers.0, channel 3" in coda("verify", "coda-out").lines[1]
    tampered(tmp_path / "coda-out" / "a.coda.json", change)
    assert reason in coda("verify", "coda-out", status=4).error


def test_a_tampered_record_is_not_repeated_either(coda: Coda, run: Path) -> None:
    tampered(run, scaled("explained", 0, "logit"))
    assert "NOT THE SAME: cat: logit is off by" in coda("rerun", run, status=4).error


def test_a_tampered_record_of_low_precision_is_not_proven(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    coda("explain", "a.png", "--class", "cat", "--write", "json", "--precision", "bfloat16")
    path = tmp_path / "coda-out" / "a.coda.json"
    tampered(path, scaled("explained", 0, "logit"))
    assert "cat: logit: the terms of the record do not add up" in coda("verify", path, status=4).error


def test_a_tampered_map_is_not_proven(coda: Coda, run: Path) -> None:
    path = run.with_suffix(".npz")
    content = dict(np.load(path))
    content["pixels"][0] = content["pixels"][0][::-1]  # the sum is the same
    np.savez(path, **content)
    assert "cat: its map is off by" in coda("verify", run, status=4).error


def test_regions_that_do_not_add_up_are_not_proven(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    coda("explain", "a.png", "--class", "cat", "--box", "left=0,0,0.5,1", "--write", "json")
    path = tmp_path / "coda-out" / "a.coda.json"
    assert proof_of(coda, str(path))["proven"]
    tampered(path, scaled("explained", 0, "regions", "regions", 0, "positive"))
    assert "cat: regions: the terms of the record do not add up" in coda("verify", path, status=4).error


def test_a_picture_that_was_changed_or_is_missing(coda: Coda, run: Path, tmp_path: Path) -> None:
    photo(tmp_path / "elsewhere" / "pictures" / "a.png")
    photo(tmp_path / "a.png", seed=9)
    result = coda("verify", run, "--json", status=1)
    jsonschema.validate(result.record, runs.json_schema_of_proofs())
    assert "another picture" in result.error
    (tmp_path / "a.png").unlink()
    assert "its picture a.png is not here; --pictures DIR" in coda("verify", run, status=1).error
    assert "is not here" in coda("verify", run, "--pictures", "elsewhere", status=1).error
    assert proof_of(coda, str(run), "--pictures", "elsewhere/pictures")["proven"]
    tampered(run, lambda r: r["source"].update(path="/somewhere/else/pictures/a.png"))
    assert proof_of(coda, str(run), "--pictures", "elsewhere")["proven"]


@pytest.mark.parametrize("name", ["x\0y.png", "n" * 5000, "", "..", "coda-out"])
def test_a_picture_whose_name_is_none_is_missing(coda: Coda, run: Path, name: str) -> None:
    tampered(run, lambda r: r["source"].update(path=name))
    assert "is not here" in coda("verify", run, status=1).error


def test_another_network_is_told_from_the_right_one_elsewhere(coda: Coda, run: Path, tmp_path: Path) -> None:
    result = coda("verify", run, "-m", "cifar10-bcos", status=3)
    assert "another network" in result.error
    other = woollen(tmp_path / "net.safetensors")
    coda("explain", "a.png", "-m", other, "-o", "own", "--write", "json")
    record = tmp_path / "own" / "a.coda.json"
    assert "its network 'woollen' is not on this machine; -m FILE" in coda("verify", record, status=1).error
    assert proof_of(coda, str(record), "-m", str(other))["proven"]
    tampered(record, lambda r: r["network"].update(sha256="0" * 64))
    assert "another network" in coda("verify", record, "-m", other, status=3).error


def test_a_run_goes_on_after_what_cannot_be_proven(coda: Coda, tmp_path: Path) -> None:
    pictures = photos(tmp_path / "in", "a.png", "b.png", "c.png", "d.png")
    coda("explain", "in", "--class", "cat", "--write", "json", "-q")
    pictures[1].unlink()
    tampered(tmp_path / "coda-out" / "c.coda.json", scaled("explained", 0, "logit"))
    (tmp_path / "coda-out" / "d.coda.json").write_text("{")
    (tmp_path / "coda-out" / "foreign.json").write_text("[1, 2]")
    result = coda("verify", "coda-out", "--json", status=4)
    found = {Path(r.get("record") or r["source"]["path"]).name[0]: r.get("proven") for r in result.records}
    assert found == {"a": True, "b": None, "c": False, "d": None}
    assert len(result.errors) == 3
    assert "left out 1 JSON file without a record" in result.err
    assert "records: 1 proven, 2 could not be held against anything, 1 NOT PROVEN" in result.err


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda r: r.update(precision="float8"), "'float8', which is no precision"),
        (lambda r: r["explained"].append(r["explained"][0]), "its targets are not those of one run"),
        (lambda r: r.update(explained=[]), "its targets are not those of one run"),
        (lambda r: r["network"].update(name="../../net"), "is not on this machine"),
        (lambda r: r.update(surprise=1), "is no valid record (surprise"),
    ],
)
def test_a_record_that_no_run_wrote_is_one_line(
    coda: Coda, run: Path, change: Callable[[dict[str, Any]], Any], part: str
) -> None:
    tampered(run, change)
    assert part in coda("verify", run, status=1).error


def test_names_of_others_are_no_commands_to_a_terminal(coda: Coda, run: Path) -> None:
    tampered(run, lambda r: r["source"].update(path="\x1b[2Ja\nb.png"))
    result = coda("verify", run, status=1)
    assert "\x1b" not in result.err
    assert len(result.errors) == 1


def test_a_run_is_repeated_and_written(coda: Coda, tmp_path: Path) -> None:
    photos(tmp_path / "in" / "sub", "a.png")
    coda("explain", "in", "-r", "--class", "cat", "--write", "overlay,npz,json")
    proof = proof_of(coda, "coda-out", "-o", "again", command="rerun")
    assert proof["proven"]
    assert proof["files"] == ["sub/a.cat.overlay.png", "sub/a.coda.npz", "sub/a.coda.json"]
    assert sorted(tree(tmp_path / "again")) == sorted(tree(tmp_path / "coda-out"))
    old, new = (stored_record(tmp_path / folder / "sub" / "a.coda.json") for folder in ("coda-out", "again"))
    assert old
    assert new
    assert old.explained[0].logit == pytest.approx(new.explained[0].logit, abs=1e-6)
    assert old.explained[0].files == new.explained[0].files
    assert proof_of(coda, "again")["proven"]
    assert coda("rerun", "coda-out/sub/a.cat.overlay.png").lines[0].endswith(": the same")


def test_lines_of_json_are_proven_and_what_failed_is_told(coda: Coda, tmp_path: Path) -> None:
    photos(tmp_path / "in", "a.png", "b.png")
    (tmp_path / "in" / "c.png").write_bytes(b"")
    lines = coda("explain", "in", "--class", "cat", "--write", "none", "--json", status=1).out
    (tmp_path / "run.jsonl").write_text(lines)
    result = coda("verify", "run.jsonl", "--json")
    assert [proof["record"] for proof in result.records] == ["run.jsonl, line 1", "run.jsonl, line 2"]
    assert "1 picture could not be explained then" in result.err


def test_a_broken_first_line_costs_only_itself(coda: Coda, tmp_path: Path) -> None:
    photos(tmp_path / "in", "a.png", "b.png")
    lines = coda("explain", "in", "--class", "cat", "--write", "none", "--json").out
    (tmp_path / "run.jsonl").write_text(lines[40:])
    for command in ("verify", "rerun"):
        result = coda(command, "run.jsonl", "--json", status=1)
        assert [r.get("record") for r in result.records] == [None, "run.jsonl, line 2"]
        assert result.error == "run.jsonl, line 1: is no JSON; expected a record of coda explain"
    summed = coda("summary", "run.jsonl", "--json", status=1)
    assert (summed.record["pictures"], summed.record["unreadable"]) == (1, 1)
    assert summed.error.startswith("run.jsonl: line 1 is no JSON; ")


def test_nothing_to_prove_is_wrong_usage(coda: Coda, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "no record of coda explain" in coda("verify", "empty", status=2).error
    assert "no such file or folder" in coda("verify", "nothing", status=2).error
    for command in ("verify", "rerun"):
        assert "'no-pictures' does not exist" in coda(command, "empty", "--pictures", "no-pictures", status=2).error


def test_the_commands_of_the_document_can_be_typed(coda: Coda, tmp_path: Path) -> None:
    text = (ROOT / "docs" / "two-runs.md").read_text("utf-8")
    photos(tmp_path / "photos", "a.png", "b.png")
    (block,) = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    lines = [shlex.split(line, comments=True) for line in block.splitlines()]
    assert {words[1] for words in lines} == {"explain", "diff", "verify", "rerun"}
    for name, *words in lines:
        assert name == "coda"
        coda(*words)
    assert len(tree(tmp_path / "changes")) > 0
    assert sorted(tree(tmp_path / "again")) == sorted(tree(tmp_path / "first"))


def test_where_nothing_can_be_written_is_said_once_and_before_any_work(coda: Coda, tmp_path: Path) -> None:
    photos(tmp_path / "in", "a.png", "b.png")
    coda("explain", "in", "--write", "json")
    (tmp_path / "file").touch()
    said = coda("rerun", "coda-out", "-o", "file/out", status=2)
    assert said.lines == []
    assert said.error.startswith("file/out: cannot write into this folder")


REGIONS = ("--box", "left=0,0,20.5,24", "--mask", "masks", "--labels", "all", "--neuron", "1:2", "--neurons", "1:top:2")


@pytest.fixture(scope="module")
def divided(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a picture, its masks, and a record of its regions."""
    folder = tmp_path_factory.mktemp("divided")
    photo(folder / "in" / "a.png")
    (folder / "masks").mkdir()
    values = np.zeros((40, 50), np.uint8)
    values[10:25, 12:40], values[30:, :] = 1, 2
    Image.fromarray(values).save(folder / "masks" / "a.png")
    program.run("explain", "in", *REGIONS, "--class", "cat", "--write", "overlay,json", cwd=folder)
    return folder


@pytest.fixture
def regions(divided: Path, tmp_path: Path) -> Path:
    """That record, in a folder of its own."""
    shutil.copytree(divided, tmp_path, dirs_exist_ok=True)
    return tmp_path / "coda-out" / "a.coda.json"


@pytest.mark.parametrize("command", ["verify", "rerun"])
@pytest.mark.usefixtures("regions")
def test_regions_are_held_and_repeated(coda: Coda, tmp_path: Path, command: str) -> None:
    assert proof_of(coda, "coda-out", command=command)["notes"] == []
    if command == "rerun":
        coda("rerun", "coda-out", "-o", "again")
        old, new = (json.loads((tmp_path / run / "a.coda.json").read_text()) for run in ("coda-out", "again"))
        for record in (old, new):
            assert len(record["explained"][0]["regions"]["regions"]) == 3
        for key in ("region_files", "region_boxes", "region_labels"):
            assert old[key] == new[key]
        drawn = [next((tmp_path / run).glob("*cat.overlay.png")) for run in ("coda-out", "again")]
        assert np.array_equal(*map(np.asarray, map(Image.open, drawn)))  # the outlines, too


SUMS = ("explained", 0, "regions", "regions")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (scaled(*SUMS, 0, "share"), "share of the region left"),
        (scaled(*SUMS, 1, "area"), "area of the region 1"),
        (scaled(*SUMS, 2, "ratio"), "the ratio of the region 2 is not its share / area"),
        (scaled(*SUMS, 2, "outside"), "part outside of the region 2"),
        (scaled("explained", 0, "regions", "overlap", by=2), "overlap of its regions"),
        (lambda r: r["explained"][0]["regions"]["regions"].pop(), "its regions are not those that were asked for"),
        (lambda r: r.update(region_boxes=[]), "its regions are not those that were asked for"),
        (lambda r: r["explained"][0]["regions"]["rest"].update(share=None), "the region rest"),
        (lambda r: moved(r["explained"][0]["regions"]), "positive of the region"),
        (lambda r: r["neurons"][0]["regions"]["regions"][0].update(share=0.9), "share of the region left"),
        (scaled("explained", 0, "channels", 0, "strongest", 1, "regions", "rest", "area"), "area of the region rest"),
    ],
)
def test_regions_that_were_tampered_with_are_not_proven(
    coda: Coda, regions: Path, change: Callable[[dict[str, Any]], Any], said: str
) -> None:
    tampered(regions, change)
    assert said in coda("verify", regions, status=4).error


def moved(sums: dict[str, Any]) -> None:
    """Evidence taken from the rest and given to a region: the sums still add up."""
    sums["regions"][0]["positive"] += 0.1
    sums["rest"]["positive"] -= 0.1


@pytest.mark.parametrize("fate", ["gone", "changed", "of an earlier version"])
def test_of_regions_whose_files_are_not_there_only_the_sum_is_checked(
    coda: Coda, regions: Path, tmp_path: Path, fate: str
) -> None:
    if fate == "gone":
        shutil.rmtree(tmp_path / "masks")
    elif fate == "changed":
        Image.new("L", (50, 40), 1).save(tmp_path / "masks" / "a.png")
    else:
        tampered(regions, lambda r: (r.pop("region_boxes"), r.pop("region_labels")))
    assert "of its regions only the sum" in coda("verify", regions).lines[0]
    (note,) = proof_of(coda, str(regions))["notes"]
    assert note.startswith("of its regions only the sum was checked: ")
    tampered(regions, scaled(*SUMS, 0, "positive"))
    assert "cat: regions: the terms of the record do not add up" in coda("verify", regions, status=4).error
