"""Several processes do one run together: shards, each of them started for itself, and what coda merge says of them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tarfile
import time
import zipfile
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import program
import pytest
from conftest import Coda
from PIL import Image
from program import Result, finish, names_of, photo, started

import coda_cli
from coda_cli.errors import UsageError
from coda_cli.explanation.naming import Naming
from coda_cli.explanation.shards import Shard, ShardRun
from coda_cli.media.sources import Item, resolve
from coda_cli.schema import pictures, summaries

COUNT = 18
POISONED = "photos/b/bad.png"
ADDED_UP = ("pictures", "overall", "classes", "confusion", "calibration", "outliers", "networks", "settings")


def make_pictures(folder: Path, count: int = COUNT) -> None:
    """Small pictures in three folders, one of which is none."""
    for n in range(count):
        photo(folder / "photos" / "abc"[n % 3] / f"{n:03}.png", seed=n)
    (folder / POISONED).write_bytes(b"poison")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pictures, and in ``one`` what a single run makes of them."""
    folder = tmp_path_factory.mktemp("whole")
    make_pictures(folder)
    program.run("explain", "photos", "-r", "-o", "one", "-q", cwd=folder, status=1)
    return folder


def content(output: Path) -> dict[str, Any]:
    """All that an output folder holds, without times, temporary files and what shards say of themselves."""
    found: dict[str, Any] = {}
    for path in sorted(path for path in output.rglob("*") if path.is_file()):
        name = path.relative_to(output).as_posix()
        if name.startswith("shard-") or path.suffix == ".part":
            continue
        text: str = path.read_text("utf-8") if path.suffix == ".json" else ""
        if path.suffix == ".png":
            with Image.open(path) as picture:
                found[f"pixels of {name}"] = np.asarray(picture).tobytes()
                text = picture.info["coda"]
        record = json.loads(text)
        assert record.pop("seconds") > 0
        found[name] = record
    return found


def part_of(shard: str, items: Sequence[Item], naming: Naming | None = None) -> list[str]:
    part = ShardRun(Shard.parse(shard), items, naming or Naming(Path("out"), "cifar10"))
    return [item.name for item in part.items]


def shard_records(result: Result) -> list[dict[str, Any]]:
    return [record for record in result.records if record["schema"] == "coda.shard"]


# ---- processes -------------------------------------------------------------------------------------------------------


def test_three_shards_at_once_make_what_one_run_makes(whole: Path) -> None:
    with ExitStack() as stack:
        arguments = ("explain", "photos", "-r", "-o", "three", "--json", "-q", "--shard")
        children = [stack.enter_context(started(*arguments, f"{n}/3", cwd=whole)) for n in (1, 2, 3)]
        poisoned = next(n for n in (1, 2, 3) if POISONED in part_of(f"{n}/3", resolve_in(whole)))
        results = [finish(child, 1 if n == poisoned else 0) for n, child in enumerate(children, 1)]
    assert [len(result.errors) for result in results] == [int(n == poisoned) for n in (1, 2, 3)]
    assert content(whole / "three") == content(whole / "one")
    assert len(content(whole / "three")) == 3 * COUNT
    told = Counter(
        record["source"]["path"] for r in results for record in r.records if record["schema"] != "coda.shard"
    )
    assert len(told) == COUNT + 1
    assert set(told.values()) == {1}, "something was done twice"
    for n, result in enumerate(results, 1):
        (record,) = shard_records(result)
        assert result.records[-1] == record == json.loads((whole / f"three/shard-{n}-of-3.json").read_text("utf-8"))
        jsonschema.validate(record, pictures.json_schema())
        assert (record["shard"], record["of"], record["listed"]) == (n, 3, COUNT + 1)
        assert record["explained"] + record["failed"] == record["pictures"] == len(result.records) - 1
        assert [f["source"]["path"] for f in record["failures"]] == ([POISONED] if n == poisoned else [])


def resolve_in(folder: Path) -> list[Item]:
    """The pictures of ``photos``, as a run in this folder names them."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        return resolve(["photos"], recursive=True)
    finally:
        os.chdir(before)


def test_a_shard_that_was_killed_goes_on_where_it_stopped(tmp_path: Path) -> None:
    make_pictures(tmp_path, 24)
    (tmp_path / POISONED).unlink()
    shards = [("explain", "photos", "-r", "-o", "two", "--batch-size", "1", "--shard", f"{n}/2") for n in (1, 2)]
    program.run(*shards[1], cwd=tmp_path)
    others = content(tmp_path / "two")
    with started(*shards[0], cwd=tmp_path, most=3) as child:
        until = time.monotonic() + program.PATIENCE
        while len(list((tmp_path / "two").rglob("*.coda.json"))) < len(others) // 3 + 2:
            assert time.monotonic() < until
            assert child.poll() is None, "it ended before it was killed"
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
        child.wait()
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "two").rglob("*.coda.json")}
    assert len(others) // 3 < len(made) < 24
    result = program.run("merge", "two", cwd=tmp_path, status=1)
    assert result.errors[0].startswith("not ended: shard 1/2; ")
    assert result.errors[1].startswith(f"{24 - len(made)} of 24 pictures without a record ")
    result = program.run(*shards[0], "--json", "-q", cwd=tmp_path)
    (record,) = shard_records(result)
    assert record["skipped"] == len(made) - len(others) // 3
    assert record["explained"] == 24 - len(made)
    assert {path: path.stat().st_mtime_ns for path in made} == made, "something was done twice"
    program.run("explain", "photos", "-r", "-o", "one", "-q", cwd=tmp_path)
    assert content(tmp_path / "two") == content(tmp_path / "one")
    assert program.run("merge", "two", cwd=tmp_path).err == "coda: complete: 2 shards, 24 pictures\n"


def test_from_python_it_is_what_the_command_does(whole: Path, monkeypatch: pytest.MonkeyPatch, coda: Coda) -> None:
    monkeypatch.chdir(whole)
    told = list[str]()
    for which in ("1/3", (2, 3), "3/3"):
        told += [
            o.item.name for o in coda_cli.explain_many(coda_cli.shard("photos/**", which), "cifar10", output="python")
        ]
    assert Counter(told) == Counter(item.name for item in resolve(["photos"], recursive=True))
    assert content(whole / "python") == content(whole / "one")
    result = coda("merge", whole / "python", status=1)
    assert len(result.errors) == 1
    assert result.error.startswith(f"{POISONED}: not a picture")
    stopped = coda_cli.explain_many(coda_cli.shard("photos/**", "1/3"), "cifar10", output="python")
    next(stopped)
    stopped.close()
    assert coda("merge", whole / "python", status=1).errors[-1].startswith("not ended: shard 1/3;")


def test_from_python_what_is_no_shard_is_refused() -> None:
    with pytest.raises(UsageError, match="expected I/N"):
        coda_cli.shard("photos/", (0, 3))
    with pytest.raises(UsageError, match="names of files"):
        coda_cli.shard([np.zeros((8, 8, 3), np.uint8)], "1/2")  # type: ignore[list-item]
    with pytest.raises(UsageError, match="one scale for a run"):
        coda_cli.explain_many(coda_cli.shard("photos/", "1/2"), drawing=coda_cli.Drawing(scale="run"), output="out")


# ---- which pictures --------------------------------------------------------------------------------------------------


def test_every_picture_is_in_one_shard_whatever_the_order() -> None:
    items = [Item(Path(f"photos/{n % 7}/{n}.jpg"), Path(str(n % 7))) for n in range(1000)]
    parts = [part_of(f"{n}/10", items) for n in range(1, 11)]
    assert sorted(name for part in parts for name in part) == sorted(item.name for item in items)
    assert all(60 < len(part) < 140 for part in parts)
    assert [sorted(part_of(f"{n}/10", items[::-1])) for n in range(1, 11)] == [sorted(part) for part in parts]
    assert part_of("1/1", items) == [item.name for item in items]


def test_the_shards_of_these_names_are_these_in_every_version() -> None:
    items = [Item(Path("p/a.jpg")), Item(Path("p/b.jpg")), Item(Path("p/c.jpg"), Path("c")), Item(Path("p/Ä.jpg"))]
    assert [[Path(name).name for name in part_of(f"{n}/3", items)] for n in (1, 2, 3)] == [
        ["Ä.jpg"],
        ["a.jpg", "b.jpg"],
        ["c.jpg"],
    ]
    assert part_of("1/3", [Item(Path("A\u0308.jpg")), Item(Path("ä.jpg"))]) == ["A\u0308.jpg", "ä.jpg"]


def test_outputs_of_one_name_meet_in_one_shard(coda: Coda, tmp_path: Path) -> None:
    for name in ("1.png", "2.png", "3.png", "3.jpg"):
        photo(tmp_path / "photos" / name)
    for n in (1, 2):
        refused = bool(part_of(f"{n}/2", [Item(Path("photos/3.png"))]))
        result = coda("explain", "photos", "--shard", f"{n}/2", status=2 if refused else 0)
        assert ("would both be written as" in result.err) == refused
    several = [Item(Path(f"{n}.{suffix}")) for n in range(20) for suffix in ("png", "jpg")]
    for n in range(1, 11):
        assert all(count == 2 for count in Counter(Path(name).stem for name in part_of(f"{n}/10", several)).values())
    by_suffix = Naming(Path("out"), "cifar10", "{name}.{kind}.{ext}")
    assert any(len(part_of(f"{n}/10", several, by_suffix)) % 2 for n in range(1, 11))


@pytest.mark.parametrize("source", ["folder", "zip", "tar", "list", "address"])
def test_shards_of_every_kind_of_source(source: str, coda: Coda, tmp_path: Path) -> None:
    paths = [photo(tmp_path / "photos" / f"{n}.png", seed=n) for n in range(8)]
    named, listed = "photos", ""
    if source == "zip":
        named = "p.zip"
        with zipfile.ZipFile(tmp_path / named, "w") as archive:
            for path in paths:
                archive.write(path, path.name)
    elif source == "tar":
        named = "p.tar"
        with tarfile.open(tmp_path / named, "w") as archive:
            for path in paths:
                archive.add(path, path.name)
    elif source == "list":
        named, listed = "-", "".join(f"photos/{path.name}\n" for path in paths[::-1])
    elif source == "address":
        import fsspec

        named, memory = "memory://photos/", fsspec.filesystem("memory")
        for path in paths:
            memory.pipe(f"/photos/{path.name}", path.read_bytes())
    arguments = ("explain", named, "-c", "0", "--write", "none", "--json", "--shard")
    found = [
        {Path(record["source"]["path"]).name for record in coda(*arguments, f"{n}/2", input=listed).records[:-1]}
        for n in (1, 2)
    ]
    expected = [set(part_of(f"{n}/2", [Item(Path(path.name)) for path in paths])) for n in (1, 2)]
    assert found == expected
    assert all(expected)
    assert not (tmp_path / "coda-out").exists()


# ---- what else a run writes ------------------------------------------------------------------------------------------


def test_pages_say_which_shard_they_are(coda: Coda, tmp_path: Path) -> None:
    for n in range(6):
        photo(tmp_path / f"photos/{n}.png", seed=n)
    for n in (1, 2):
        result = coda("explain", "photos", "--write", "none", "--html", "page.html", "--shard", f"{n}/2")
        assert result.lines == [f"page.shard-{n}-of-2.html"]
        assert f"(shard {n}/2 of a run), explained by" in (tmp_path / result.lines[0]).read_text("utf-8")
    assert not (tmp_path / "page.html").exists()


def test_a_shard_never_writes_over_the_picture_of_another(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    (written,) = coda("explain", "a.png", "-o", ".", "--write", "overlay").lines
    (tmp_path / written).unlink()
    kept = photo(tmp_path / written, seed=1).read_bytes()
    shard = next(n for n in range(1, 9) if part_of(f"{n}/8", [Item(Path("a.png"))]))
    assert not part_of(f"{shard}/8", [Item(Path(written))])
    result = coda("explain", "a.png", written, "-o", ".", "--force", "--shard", f"{shard}/8", status=1)
    assert "is one of the inputs" in result.error
    assert (tmp_path / written).read_bytes() == kept


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "1/0", "1/2/3", "-1/3", "a/b", "1/ 3", "", "1/99999999"])
def test_what_is_no_shard_is_refused(text: str, coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    assert coda("explain", "a.png", f"--shard={text}", status=2).error.startswith(f"--shard {text}: expected I/N")
    assert not (tmp_path / "coda-out").exists()


def test_one_scale_for_a_run_is_refused(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    result = coda("explain", "a.png", "--shard", "1/2", "--scale", "run", status=2)
    assert "--scale NUMBER" in result.error
    assert not (tmp_path / "coda-out").exists()


def test_each_shard_may_have_a_folder_of_its_own(coda: Coda, tmp_path: Path) -> None:
    for n in range(4):
        photo(tmp_path / f"photos/{n}.png", seed=n)
    for n in (1, 2):
        coda("explain", "photos", "-o", "out-{shard}", "--shard", f"{n}/2", "--write", "json")
    assert {path.name for path in tmp_path.glob("out*")} == {"out-1-of-2", "out-2-of-2"}
    assert coda("merge", "out-1-of-2", "out-2-of-2", "--json").record["pictures"] == 4
    assert coda("explain", "photos", "-o", "out-{shard}", status=2).error.endswith("{shard} needs --shard I/N")


def test_a_file_that_is_not_codas_is_left_alone(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/shard-1-of-1.json").write_text("mine")
    assert "is not coda's" in coda("explain", "a.png", "-o", "out", "--shard", "1/1", status=2).error
    assert program.tree(tmp_path / "out") == {"shard-1-of-1.json": b"mine"}


def test_a_shard_that_is_stopped_has_not_ended_any_more(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "photos/a.png")
    coda("explain", "photos", "-o", "out", "--shard", "1/1")
    assert (tmp_path / "out/shard-1-of-1.json").exists()
    (tmp_path / "photos/b.png").write_bytes(b"poison")
    coda("explain", "photos", "-o", "out", "--shard", "1/1", "--fail-fast", status=1)
    assert not (tmp_path / "out/shard-1-of-1.json").exists()


def test_a_shard_that_is_refused_has_still_ended(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    coda("explain", "a.png", "-o", "out", "--shard", "1/1")
    coda("explain", "a.png", "-o", "out", "--shard", "1/1", "--class", "no such class", status=2)
    assert (tmp_path / "out/shard-1-of-1.json").exists()


# ---- merge -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def ended(coda: Coda, tmp_path: Path) -> Path:
    """A folder in which three shards of seven pictures have ended; their lines are in ``1.jsonl`` to ``3.jsonl``."""
    for n in range(7):
        photo(tmp_path / f"photos/{'cat' if n % 2 else 'dog'}/{n}.png", seed=n)
    for n in (1, 2, 3):
        result = coda("explain", "photos", "-r", "-o", "out", "--box", "10,10,30,30", "--json", "--shard", f"{n}/3")
        (tmp_path / f"{n}.jsonl").write_text(result.out, encoding="utf-8")
    return tmp_path


def test_merge_is_the_summary_of_all_records(ended: Path, coda: Coda) -> None:
    merged = coda("merge", "out", "--json", "-o", "report").record
    summary = coda("summary", "out", "-r", "--json").record
    assert {name: merged[name] for name in ADDED_UP} == {name: summary[name] for name in ADDED_UP}
    assert merged["overall"]["accuracy"] is not None
    assert merged["missing"] == {
        "of": 3,
        "shards": [],
        "listed": 7,
        "failed": 0,
        "absent": 0,
        "twice": 0,
        "failures": [],
    }
    assert summary["missing"] is None
    assert json.loads((ended / "report/summary.json").read_text("utf-8")) == merged
    jsonschema.validate(merged, summaries.json_schema())


def test_merge_reads_the_lines_of_shards(ended: Path, coda: Coda) -> None:
    lines = coda("merge", *(f"{n}.jsonl" for n in (1, 2, 3)), "--json").record
    assert lines["missing"] == coda("merge", "out", "--json").record["missing"]
    assert lines["overall"]["pictures"] == 7
    text = "".join((ended / f"{n}.jsonl").read_text("utf-8") for n in (1, 2))
    result = coda("merge", "-", "--json", input=text, status=1)
    assert result.record["missing"]["shards"] == [3]
    assert coda("summary", "-", "--json", input=text).record["unreadable"] == 0


def test_merge_says_which_records_are_gone(ended: Path, coda: Coda) -> None:
    next((ended / "out").rglob("*.coda.json")).unlink()
    result = coda("merge", "out", status=1)
    assert result.error.startswith("1 of 7 pictures without a record of this run's network and settings; ")


def test_merge_says_that_records_are_there_twice(ended: Path, coda: Coda) -> None:
    shutil.copytree(ended / "out", ended / "copy")
    result = coda("merge", "out", "copy", "--json", status=1)
    assert result.record["missing"]["twice"] == 7
    assert result.error.startswith("7 records more than the 7 pictures of this run: some count twice; ")


def test_records_of_other_settings_do_not_count(ended: Path, coda: Coda) -> None:
    next((ended / "out").rglob("*.coda.json")).unlink()
    coda("explain", "photos", "-r", "-o", "out", "--class", "bird")
    assert coda("merge", "out", "--json", status=1).record["missing"]["absent"] == 1


def test_shards_of_two_runs_are_not_added_up(ended: Path, coda: Coda) -> None:
    photo(ended / "photos/dog/more.png", seed=9)
    coda("explain", "photos", "-r", "-o", "out", "--box", "10,10,30,30", "--shard", "2/3")
    result = coda("merge", "out", status=2)
    assert "shard 2/3 (8 pictures, cifar10, " in result.error
    assert "is of another run than shard 1/3 (7 pictures, cifar10, " in result.error


def test_merge_needs_shards(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    coda("explain", "a.png", "-o", "out")
    assert "no shard has ended here" in coda("merge", "out", status=2).error


@pytest.mark.usefixtures("ended")
def test_other_commands_pass_over_what_shards_say(coda: Coda) -> None:
    assert coda("verify", "out").err.endswith("coda: records: 7 proven\n")
    assert coda("summary", "1.jsonl").err == ""
    assert len(names_of(coda("explain", "photos", "-r", "--write", "none", "--json"))) == 7
