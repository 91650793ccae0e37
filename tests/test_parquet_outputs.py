"""Results in one Parquet file: a row for each picture; whole under its name, and gone on with like a tar."""

from __future__ import annotations

import json
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import fsspec
import pytest
from conftest import Coda
from program import photo, tree

from coda_cli.machine import budget
from coda_cli.media import parquet_rows, tar_output
from coda_cli.media.parquet_rows import write_table
from coda_cli.media.tar_samples import samples

pq = pytest.importorskip("pyarrow.parquet")

RUN = ("explain", "in", "-r", "-o", "out.parquet", "-m", "cifar10", "--class", "0", "--write", "overlay,json")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("in/a.png", "in/b.png", "in/sub/c.v2.png")):
        photo(Path(name), seed=seed)


def rows(path: str | Path = "out.parquet") -> list[dict[str, Any]]:
    """The rows of pictures in a table in the order of their names, of which none stands twice."""
    read = [row for row in pq.ParquetFile(path).read().to_pylist() if row["error"] is None]
    found: list[dict[str, Any]] = sorted(read, key=lambda row: row["record_name"])
    assert len({row["record_name"] for row in found}) == len(found)
    return found


def failures(path: str | Path = "out.parquet") -> dict[str, dict[str, Any]]:
    """The rows of inputs that failed, by their names, of which none stands twice; those of pictures come first."""
    read: list[dict[str, Any]] = pq.ParquetFile(path).read().to_pylist()
    failed = [row for row in read if row["error"] is not None]
    assert read[len(read) - len(failed) :] == failed
    assert len({row["path"] for row in failed}) == len(failed)
    return {row["path"]: row for row in failed}


def files_of(row: dict[str, Any]) -> dict[str, bytes]:
    """The files in a row by their names."""
    cells = [cell for value in row.values() for cell in (value if isinstance(value, list) else [value])]
    return {cell["path"]: cell["bytes"] for cell in cells if isinstance(cell, dict)}


def test_a_row_holds_what_a_folder_has_of_a_picture(coda: Coda) -> None:
    several = ("--class", "1", "--write", "overlay,npz,json")
    coda(*RUN[:-2], *several)
    coda(*RUN[:4], "out", *RUN[5:-2], *several)
    here, found = tree(Path("out")), rows()
    names = set[str]()
    for row in found:
        record, files = json.loads(row["record"]), files_of(row)
        of_folder = json.loads(here[row["record_name"]])
        assert record | {"seconds": 0} == of_folder | {"seconds": 0}
        assert (row["path"], row["sha256"]) == (record["source"]["path"], record["source"]["sha256"])
        assert (row["predicted"], row["probability"]) == (record["top"][0]["name"], record["top"][0]["probability"])
        first = record["explained"][0]
        assert (row["explained"], row["logit"], row["residual"]) == (first["name"], first["logit"], first["residual"])
        assert row["exact"] is True
        assert [cell["path"] for cell in row["overlay"]] == [part["files"]["overlay"] for part in record["explained"]]
        assert all(content[:4] == b"\x89PNG" for name, content in files.items() if name.endswith(".png"))
        names |= {row["record_name"], *files}
    assert names == set(here)
    assert {path.name for path in Path().iterdir()} == {"in", "out", "out.parquet"}


def test_one_picture_of_a_kind_is_a_cell_and_not_a_list(coda: Coda) -> None:
    coda(*RUN)
    assert all(set(row["overlay"]) == {"bytes", "path"} for row in rows())
    coda(*RUN[:7], "--class", "1", "--versus", "0", "--write", "overlay,json")
    assert len(rows()) == 6  # other settings stand beside
    assert {row["explained"] for row in rows()} == {"airplane", "automobile − airplane"}


def test_a_run_goes_on_with_a_table_and_does_nothing_twice(coda: Coda) -> None:
    coda(*RUN)
    first = Path("out.parquet").read_bytes()
    assert "3 skipped" in coda(*RUN).err
    assert Path("out.parquet").read_bytes() == first
    before = rows()
    photo(Path("in/d.png"), seed=9)
    assert "1 explained, 3 skipped" in coda(*RUN).err
    assert [row for row in rows() if row["path"] != "in/d.png"] == before
    assert "4 skipped" in coda(*RUN, "--if-exists", "skip").err
    photo(Path("in/a.png"), seed=10)
    whole = rows()
    for _ in range(2):
        assert coda(*RUN, status=1).error.startswith("out.parquet/a.coda.json: exists from another picture")
        assert rows() == whole
        assert list(failures()) == ["in/a.png"]
    coda(*RUN, "--force")
    assert len(rows()) == 4
    assert not failures()


def test_what_a_broken_run_left_whole_is_kept(coda: Coda) -> None:
    Path("in/bad.png").write_bytes(b"no picture")
    coda(*RUN, "--fail-fast", status=1)
    assert not Path("out.parquet").exists()
    part = Path("out.parquet.part")
    part.write_bytes(part.read_bytes() + bytes(1024))  # the end, without which it is no whole tar
    places = [sample.place for sample in samples(part)]
    assert len(places) == 3
    part.write_bytes(part.read_bytes()[: places[2] + 700])  # in the middle of the third
    assert "1 explained, 2 skipped, 1 failed" in coda(*RUN, status=1).err
    assert [row["record_name"] for row in rows()] == ["a.coda.json", "b.coda.json", "sub/c.v2.coda.json"]
    assert not part.exists()


def test_a_full_disk_at_the_end_is_a_line_and_nothing_is_lost(coda: Coda, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(parquet_rows, "_row", full)
        result = coda(*RUN, status=1)
    assert result.error == "out.parquet: cannot be written (No space left on device)"
    assert {path.name for path in Path().iterdir()} == {"in", "out.parquet.part"}
    assert "3 skipped" in coda(*RUN).err
    assert len(rows()) == 3


def test_what_is_not_codas_is_refused(coda: Coda) -> None:
    Path("foreign.parquet").write_bytes(b"somebody's")
    import pyarrow as pa

    pq.write_table(pa.table({"record": ["{}"], "record_name": ["a"]}), "table.parquet")
    for name in ("foreign.parquet", "table.parquet"):
        before = Path(name).read_bytes()
        assert "is no parquet of coda's results" in coda("explain", "in/a.png", "-o", name, status=2).error
        assert Path(name).read_bytes() == before
    assert "add json to --write" in coda(*RUN[:-1], "overlay", status=2).error
    assert "each shard writes a file of its own" in coda(*RUN, "--shard", "1/2", status=2).error
    Path("old.parquet").mkdir()
    coda(*RUN[:4], "old.parquet", *RUN[5:])  # a folder of such a name stays one
    assert len(tree(Path("old.parquet"))) == 6


def test_without_pyarrow_it_says_what_to_install(coda: Coda, monkeypatch: pytest.MonkeyPatch) -> None:
    coda(*RUN)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    assert coda(*RUN, status=2).error == "--output out.parquet: needs pyarrow: pip install 'coda-cli[parquet]'"
    assert "needs pyarrow: pip install" in coda("verify", "out.parquet", status=1).error
    Path("run").mkdir()
    Path("out.parquet").rename("run/out.parquet")
    assert "needs pyarrow: pip install" in coda("summary", "run", status=1).errors[0]


def test_a_table_at_an_address_is_put_there_whole(coda: Coda, store: fsspec.AbstractFileSystem) -> None:
    run = (*RUN[:4], "memory://bucket/run/part-{shard}.parquet", *RUN[5:], "--shard", "1/1")
    coda(*run)
    assert sorted(store.store) == ["/bucket/run/part-1-of-1.parquet", "/bucket/run/shard-1-of-1.json"]
    photo(Path("in/d.png"), seed=9)
    assert "1 explained, 3 skipped" in coda(*run).err
    Path("copy.parquet").write_bytes(store.cat_file("/bucket/run/part-1-of-1.parquet"))
    assert len(rows("copy.parquet")) == 4


def test_where_all_fail_the_table_says_so(coda: Coda) -> None:
    Path("in/a.png").write_bytes(b"no picture")
    coda("explain", "in/a.png", "-m", "cifar10", "-o", "out.parquet", status=1)
    assert rows() == []
    assert list(failures()) == ["in/a.png"]
    photo(Path("in/a.png"))
    coda("explain", "in/a.png", "-m", "cifar10", "-o", "out.parquet")
    assert len(rows()) == 1
    assert not failures()


def test_an_input_that_failed_has_a_row_until_it_does_not_fail(coda: Coda) -> None:
    for name in ("in/bad.png", "in/sub/worse.png"):
        Path(name).write_bytes(b"no picture")
    told = coda(*RUN, "--json", status=1)
    lines = {line["source"]["path"]: line for line in told.records if line.get("status") == "error"}
    found = failures()
    assert set(found) == set(lines) == {"in/bad.png", "in/sub/worse.png"}
    for name, row in found.items():
        assert json.loads(row["record"]) == lines[name]
        assert row["error"] == lines[name]["error"]["message"]
        assert {column for column, value in row.items() if value is not None} == {"path", "error", "record"}
    before = Path("out.parquet").read_bytes()
    assert "3 skipped, 2 failed" in coda(*RUN, status=1).err
    assert Path("out.parquet").read_bytes() == before  # nothing is new
    photo(Path("in/bad.png"), seed=9)
    coda("explain", "in/bad.png", *RUN[3:])
    assert len(rows()) == 4
    assert failures() == {"in/sub/worse.png": found["in/sub/worse.png"]}  # this run did not look at it


def test_rows_of_failed_inputs_are_read_as_lines_about_them_are(coda: Coda) -> None:
    Path("in/bad.png").write_bytes(b"no picture")
    Path("lines.jsonl").write_text(coda(*RUN, "--json", status=1).out)
    coda(*RUN[:3], "-o", "part-{shard}.parquet", *RUN[5:], "--shard", "1/1", status=1)
    for command in (("summary",), ("verify", "-m", "cifar10"), ("rerun", "-m", "cifar10"), ("diff", "out.parquet")):
        table, lines = (coda(*command, name) for name in ("out.parquet", "lines.jsonl"))
        said, expected = (one.err.replace("lines.jsonl", "out.parquet") or one.out for one in (table, lines))
        assert ("2 could" if command[0] == "diff" else "1 picture could") + " not be explained" in said
        assert [line for line in said.splitlines() if "not be" in line] == [
            line for line in expected.splitlines() if "not be" in line
        ]
    summary = coda("merge", "part-1-of-1.parquet", "--json", status=1).record
    assert (summary["pictures"], summary["failed"], summary["missing"]["failed"]) == (3, 1, 1)
    assert summary["missing"]["absent"] == 0


def test_making_the_table_shows_how_far_it_is(coda: Coda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coda_cli.cli.console.PLAIN_EVERY", 0.0)
    Path("in/bad.png").write_bytes(b"no picture")
    said = [line for line in coda(*RUN, status=1).err.splitlines() if "making the table" in line]
    assert [line.split(",")[0] for line in said] == [f"coda: making the table: {n}/4 rows" for n in (1, 2, 3, 4)]
    assert not [line for line in coda(*RUN, status=1).err.splitlines() if "making the table" in line]


def test_memory_does_not_grow_with_the_rows(tmp_path: Path, coda: Coda, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand pictures of 100 kB: one group of rows is held, whatever their number."""
    monkeypatch.setattr(budget, "PARQUET_GROUP", 2_000_000)
    coda("explain", "in/a.png", "-o", "one", "--write", "overlay,json", "--class", "0")
    record = json.loads((tmp_path / "one/a.coda.json").read_bytes())
    peaks = []
    for count in (100, 1000):
        with Path(f"{count}.tar").open("wb") as stream:
            for n in range(count):
                record["explained"][0]["files"] = {"overlay": f"{n}.png"}
                tar_output.add(stream, bytes([n % 256]) * 100_000, f"{n}.png")
                tar_output.add(stream, json.dumps(record).encode(), f"{n}.coda.json")
            stream.write(bytes(1024))
        tracemalloc.start()
        write_table(Path(f"{count}.tar"), Path(f"{count}.parquet"))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        file = pq.ParquetFile(f"{count}.parquet")
        assert file.metadata.num_rows == count
        assert file.num_row_groups >= count / 21
    assert peaks[1] < 1.5 * peaks[0] < 15_000_000
