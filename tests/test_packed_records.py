"""Records in a tar or a Parquet file of results are found wherever records are looked for."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
from conftest import Coda
from program import photo, tree

from coda_cli.media.packed import samples

pytest.importorskip("pyarrow")

RUN = ("explain", "in", "-r", "-m", "cifar10", "--write", "overlay,npz,json", "-o")
PLACES = ("out", "out.tar", "out.parquet")
NUMBERS = ("pictures", "overall", "classes", "confusion", "calibration", "outliers", "networks", "settings")


@pytest.fixture
def explained(coda: Coda, tmp_path: Path) -> Path:
    """Three pictures, with their results in a folder, a tar and a Parquet file."""
    for seed, name in enumerate(("in/dog/a.png", "in/dog/b.png", "in/cat/c.png")):
        photo(tmp_path / name, seed=seed)
    for place in PLACES:
        coda(*RUN, place, "-q")
    return tmp_path


def test_commands_find_in_a_file_what_they_find_in_a_folder(explained: Path, coda: Coda) -> None:
    summaries, pages = [], []
    for place in PLACES:
        assert coda("verify", place).err.endswith("coda: records: 3 proven\n")
        assert "maps differ by" in coda("verify", place).out
        assert coda("rerun", place, "-o", f"again-{Path(place).suffix[1:]}").err.endswith("coda: records: 3 the same\n")
        assert sorted(tree(explained / f"again-{Path(place).suffix[1:]}")) == sorted(tree(explained / "out"))
        summaries.append(coda("summary", place, "-r", "--json").record)
        coda("summary", place, "-r", "-o", "report", "--mean-map", "--html", "page.html", "--force")
        pages.append((explained / "page.html").read_text("utf-8").count("data:image/jpeg"))
        assert (explained / "report/mean-maps/dog.npz").stat().st_size > 1000
    assert summaries[0]["pictures"] == 3
    assert all({n: one[n] for n in NUMBERS} == {n: summaries[0][n] for n in NUMBERS} for one in summaries)
    assert pages[0] > 0
    assert pages == [pages[0]] * 3
    changed = coda("diff", "out.tar", "out.parquet").lines[-1]
    assert "3 pictures in both" in changed
    assert "3 of 3 differences of maps add up" in changed


def test_a_record_is_called_by_the_file_and_its_name_in_it(explained: Path, coda: Coda) -> None:
    (explained / "in/cat/c.png").unlink()
    for place in PLACES:
        result = coda("verify", place, status=1)
        assert result.error.startswith(f"{place}/cat/c.coda.json: its picture in/cat/c.png is not here")


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_shards_in_files_are_put_together(kind: str, explained: Path, coda: Coda) -> None:
    for n in (1, 2):
        coda(*RUN, f"run/part-{{shard}}.{kind}", "--shard", f"{n}/2")
    parts = [f"run/part-{n}-of-2.{kind}" for n in (1, 2)]
    for places in (["run"], parts):
        merged = coda("merge", *places, "--json").record
        assert merged["pictures"] == 3
        assert merged["missing"]["absent"] == 0
    assert coda("verify", "run").err.endswith("coda: records: 3 proven\n")
    result = coda("merge", parts[0], "--json", status=1)
    assert result.record["missing"]["absent"] == 3 - result.record["pictures"] > 0
    (explained / "run/shard-2-of-2.json").unlink()
    assert coda("merge", "run", status=1).errors[0].startswith("not ended: shard 2/2;")


def test_other_files_of_these_kinds_in_a_folder_are_left_alone(explained: Path, coda: Coda) -> None:
    with tarfile.open(explained / "out/photos.tar", "w") as archive:
        archive.add(explained / "in/dog/a.png", "a.png")
    with tarfile.open(explained / "out/set.tar", "w") as archive:
        archive.add(explained / "in/dog/a.png", "a.png")
        info = tarfile.TarInfo("a.json")
        info.size = 2
        archive.addfile(info, io.BytesIO(b"{}"))
    coda("summary", "out", "-r", "-o", "out", "--parquet")
    (explained / "out/text.parquet").write_bytes(b"none")
    result = coda("summary", "out", "-r")
    assert not result.errors
    assert coda("verify", "out").err.endswith("coda: records: 3 proven\n")


def test_a_tar_that_is_cut_off_between_two_pictures_is_a_line(explained: Path, coda: Coda) -> None:
    path = explained / "out.tar"
    second = list(samples(path))[1].place
    path.write_bytes(path.read_bytes()[:second])
    result = coda("summary", "out.tar", "--json", status=1)
    assert result.record["pictures"] == 1
    assert result.error == "out.tar: is no tar of coda's results, or is cut off"


@pytest.mark.parametrize("cut", [0.4, 0.9])
def test_a_file_that_is_cut_off_is_a_line(cut: float, explained: Path, coda: Coda) -> None:
    for name in ("out.tar", "out.parquet"):
        path = explained / name
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * cut)])
        result = coda("verify", name, status=1)
        assert [line for line in result.errors if line.startswith(f"{name}: ")]
        coda("summary", name, status=1)


def test_a_broken_record_is_told_by_its_name(explained: Path, coda: Coda) -> None:
    with tarfile.open(explained / "out.tar") as archive:
        files = {info.name: archive.extractfile(info).read() for info in archive}  # type: ignore[union-attr]
    record = json.loads(files["dog/b.coda.json"])
    del record["top"]
    files["dog/b.coda.json"] = json.dumps(record).encode()
    with tarfile.open(explained / "bad.tar", "w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    assert coda("verify", "bad.tar", status=1).errors[0].startswith("bad.tar/dog/b.coda.json: is no valid record (top")
    assert (
        coda("summary", "bad.tar", "-r", status=1).errors[0].startswith("bad.tar: dog/b.coda.json is no valid record")
    )


def test_a_record_names_no_file_outside_its_picture(explained: Path, coda: Coda) -> None:
    """A stranger's tar: its names lead out of the folder, and its record names the maps of another picture."""
    (first, second) = list(samples(explained / "out.tar"))[:2]
    stem = Path(json.loads(first.record)["source"]["path"]).stem
    other = json.loads(second.record)["files"]["npz"]
    assert first.file(other) is None
    assert second.file(other)
    with tarfile.open(explained / "bad.tar", "w") as archive:
        info = tarfile.TarInfo("../../out-there/a.coda.json")
        info.size = len(first.record)
        archive.addfile(info, io.BytesIO(first.record))
    coda("rerun", "bad.tar", "-o", "again")
    assert [name for name in tree(explained / "again") if name.endswith(".json")] == [f"{stem}.coda.json"]
    assert not (explained.parent / "out-there").exists()
    assert not (explained / "out-there").exists()
