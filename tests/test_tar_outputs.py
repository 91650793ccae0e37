"""Results in one tar: what a folder holds, each picture's files side by side; whole under its name, or not there."""

from __future__ import annotations

import json
import os
import tarfile
from itertools import groupby
from pathlib import Path
from typing import Any

import fsspec
import pytest
from conftest import Coda
from program import photo, tree

import coda_cli
from coda_cli.media import tar_output
from coda_cli.media.tar_output import TarOutput

RUN = ("explain", "in", "-r", "-o", "out.tar", "--class", "0", "--write", "json")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("in/a.png", "in/b.png", "in/sub/c.v2.png")):
        photo(Path(name), seed=seed)


def unpacked(path: str) -> dict[str, bytes]:
    """The files of a tar in its order; none of its names stands twice."""
    with tarfile.open(path) as archive:
        found = {info.name: archive.extractfile(info).read() for info in archive}  # type: ignore[union-attr]
        assert len(found) == len(archive.getnames())
    return found


def without_seconds(data: bytes) -> Any:
    record = json.loads(data)
    del record["seconds"]
    return record


def test_a_tar_holds_what_a_folder_holds_and_samples_stand_together(coda: Coda) -> None:
    write = ("--write", "overlay,npz,json", "--class", "0", "--class", "1")
    printed = coda("explain", "in", "-r", "-o", "out.tar", *write).lines
    Path("in/sub/c.v2.png").rename("in/sub/c_v2.png")  # a dot would end the key of a sample
    coda("explain", "in", "-r", "-o", "out", *write)
    there, here = unpacked("out.tar"), tree(Path("out"))
    assert sorted(there) == sorted(here)
    assert sorted(printed) == sorted(f"out.tar/{name}" for name in there)
    for name in (name for name in there if name.endswith(".json")):
        one, other = without_seconds(there[name]), without_seconds(here[name])
        assert one["explained"] == other["explained"]
        assert all(file in there for part in one["explained"] for file in part["files"].values())
    keys = [name.rpartition("/")[0] + "/" + name.rpartition("/")[2].partition(".")[0] for name in there]  # webdataset's
    assert sorted(key for key, _ in groupby(keys)) == ["/a", "/b", "sub/c_v2"]
    assert [name.endswith(".json") for name in there] == [False, False, False, True] * 3
    assert os.path.getsize("out.tar") % 10_240 == 0
    assert {path.name for path in Path().iterdir()} == {"in", "out", "out.tar"}


def test_a_run_goes_on_with_a_tar_and_does_nothing_twice(coda: Coda) -> None:
    coda(*RUN)
    first = Path("out.tar").read_bytes()
    assert "3 skipped" in coda(*RUN).err
    assert Path("out.tar").read_bytes() == first
    photo(Path("in/d.png"), seed=9)
    assert "1 explained, 3 skipped" in coda(*RUN).err
    names = list(unpacked("out.tar"))
    assert sorted(names) == ["a.coda.json", "b.coda.json", "d.coda.json", "sub/c_v2.coda.json"]
    assert names[-1] == "d.coda.json"  # behind what was there
    assert "4 skipped" in coda(*RUN, "--if-exists", "skip").err
    coda(*RUN[:-4], "--class", "1", "--write", "json")  # other settings: beside
    assert len(unpacked("out.tar")) == 8
    photo(Path("in/a.png"), seed=10)
    before = Path("out.tar").read_bytes()
    assert coda(*RUN, status=1).error.startswith("out.tar/a.coda.json: exists from another picture")
    assert Path("out.tar").read_bytes() == before
    coda(*RUN, "--force")
    assert len(unpacked("out.tar")) == 4


@pytest.mark.parametrize("whole", [2, 0])
def test_what_a_broken_run_left_whole_is_kept(coda: Coda, whole: int) -> None:
    """Cut at every kind of place: in a picture, in a header, in a record, behind it."""
    write = (*RUN[:-1], "overlay,json")
    coda(*write)
    expected, content = unpacked("out.tar"), Path("out.tar").read_bytes()
    with tarfile.open("out.tar") as archive:
        infos = archive.getmembers()
    first = infos[2 * whole]
    places = [first.offset, first.offset + 200, first.offset_data + 7, infos[2 * whole + 1].offset_data + 100]
    Path("out.tar").unlink()
    for cut in places:
        Path("out.tar.part").write_bytes(content[:cut])
        said = coda(*write).err
        assert f"{3 - whole} explained" + (f", {whole} skipped" if whole else "") in said
        again = unpacked("out.tar")
        assert sorted(again) == sorted(expected)
        assert list(again.items())[: 2 * whole] == list(expected.items())[: 2 * whole]
        assert not Path("out.tar.part").exists()
        Path("out.tar").unlink()


def test_an_unfinished_tar_that_lacks_what_the_whole_one_has_is_not_taken(coda: Coda) -> None:
    coda(*RUN)
    content = Path("out.tar").read_bytes()
    Path("out.tar.part").write_bytes(content[:3000])
    assert "3 skipped" in coda(*RUN).err
    assert Path("out.tar").read_bytes() == content


def test_a_tar_has_its_name_when_the_run_has_come_to_its_end(coda: Coda) -> None:
    Path("in/b.png").write_bytes(b"no picture")
    coda(*RUN, "--fail-fast", status=1)
    assert not Path("out.tar").exists()
    assert ", 1 failed in" in coda(*RUN, status=1).err
    assert sorted(unpacked("out.tar")) == ["a.coda.json", "sub/c_v2.coda.json"]
    whole = Path("out.tar").read_bytes()
    coda(*RUN[:1], "in/b.png", *RUN[3:], "--force", status=1)  # begins anew, and has nothing
    assert Path("out.tar").read_bytes() == whole
    photo(Path("in/b.png"), seed=1)
    assert "1 explained, 2 skipped" in coda(*RUN).err


def test_a_full_disk_is_a_line_and_leaves_what_is_whole(coda: Coda, monkeypatch: pytest.MonkeyPatch) -> None:
    honest, calls = tar_output._add, list[str]()

    def full(stream: Any, path: Path, name: str) -> int:
        calls.append(name)
        if name.startswith("b."):
            stream.write(b"half a header")
            raise OSError(28, "No space left on device")
        return honest(stream, path, name)

    monkeypatch.setattr(tar_output, "_add", full)
    assert coda(*RUN, status=1).error == "out.tar: cannot be written (No space left on device)"
    assert sorted(unpacked("out.tar")) == ["a.coda.json", "sub/c_v2.coda.json"]


def test_what_cannot_be_continued_is_refused(coda: Coda) -> None:
    Path("foreign.tar").write_bytes(b"somebody's")
    with tarfile.open("pictures.tar", "w") as archive:
        archive.add("in/a.png", "a.png")
        archive.add("in/a.png", "a.json")
    for name in ("foreign.tar", "pictures.tar"):
        before = Path(name).read_bytes()
        assert "is no tar of coda's results" in coda("explain", "in/a.png", "-o", name, status=2).error
        assert Path(name).read_bytes() == before
    said = coda("explain", "pictures.tar", "-o", "pictures.tar", "--force", status=2).error
    assert said == "pictures.tar: is where results go, and cannot be a source, too; choose another --output"
    assert "is not compressed" in coda("explain", "in", "-o", "out.tar.gz", status=2).error
    assert "add json to --write" in coda("explain", "in", "-o", "out.tar", "--write", "overlay", status=2).error
    assert "is for folders on a disk" in coda(*RUN, "--if-exists", "rename", status=2).error
    Path("out.tar.part").write_bytes(b"")
    assert "out.tar: exists; --if-exists match" in coda(*RUN, "--if-exists", "error", status=2).error
    Path("out.tar.part").unlink()
    held = TarOutput(Path("out.tar"), "out.tar")
    assert "another run writes to it" in coda(*RUN, status=2).error
    held.release()
    Path("old.tar").mkdir()
    coda(*RUN[:3], "-o", "old.tar", *RUN[5:])  # a folder of such a name stays one
    assert len(tree(Path("old.tar"))) == 3


def test_an_unfinished_tar_that_cannot_be_read_is_a_line_before_any_work(coda: Coda) -> None:
    photo(Path("a.png"))
    Path("out.tar.part").mkdir()
    error = coda("explain", "a.png", "-o", "out.tar", status=2).error
    assert error == "out.tar.part: cannot be gone on with (Is a directory); remove it, or choose another --output"


def test_each_shard_writes_a_tar_of_its_own(coda: Coda) -> None:
    run = (*RUN[:4], "run/part-{shard}.tar", *RUN[5:])
    assert "put {shard} into the name" in coda(*RUN, "--shard", "1/2", status=2).error
    assert "{shard} needs --shard" in coda(*run, status=2).error
    for shard in ("1/2", "2/2"):
        coda(*run, "--shard", shard)
    files = [f"part-{n}-of-2.tar" for n in (1, 2)]
    assert sorted(tree(Path("run"))) == [*files, "shard-1-of-2.json", "shard-2-of-2.json"]
    both = [set(unpacked(f"run/{file}")) for file in files]
    assert both[0] | both[1] == {"a.coda.json", "b.coda.json", "sub/c_v2.coda.json"}
    assert not both[0] & both[1]
    assert json.loads(coda("merge", "run", "--json").out)["pictures"] == 3


def test_a_dry_run_writes_nothing(coda: Coda) -> None:
    assert coda(*RUN, "--dry-run").lines[0] == "explain in/a.png: out.tar/a.coda.json"
    assert {path.name for path in Path().iterdir()} == {"in"}
    coda(*RUN)
    assert coda(*RUN, "--dry-run").lines[0] == "skip in/a.png: out.tar/a.coda.json"


def test_a_tar_at_an_address_is_put_there_whole(coda: Coda, store: fsspec.AbstractFileSystem) -> None:
    run = (*RUN[:4], "memory://bucket/run/out.tar", *RUN[5:])
    coda(*run, "--fail-fast")
    assert list(store.store) == ["/bucket/run/out.tar"]
    photo(Path("in/d.png"), seed=9)
    result = coda(*run)
    assert "1 explained, 3 skipped" in result.err
    assert result.lines[-1] == "memory://bucket/run/out.tar/sub/c_v2.coda.json"
    Path("copy.tar").write_bytes(store.cat_file("/bucket/run/out.tar"))
    assert len(unpacked("copy.tar")) == 4
    assert list(store.store) == ["/bucket/run/out.tar"]


def test_a_large_tar_at_an_address_goes_in_pieces(
    coda: Coda, store: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coda_cli.media.remote_folder.LARGE", 1000)
    coda(*RUN[:4], "memory://bucket/out.tar", *RUN[5:])
    Path("copy.tar").write_bytes(store.cat_file("/bucket/out.tar"))
    assert len(unpacked("copy.tar")) == 3


def test_from_python() -> None:
    outcomes = coda_cli.explain_many("in/**", "cifar10", 0, output="out.tar")
    assert next(outcomes).addresses[-1] == "out.tar/a.coda.json"
    assert not Path("out.tar").exists()
    assert len(list(outcomes)) == 2
    assert len(unpacked("out.tar")) == 6
