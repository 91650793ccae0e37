"""Pictures in the rows of Parquet files."""

from __future__ import annotations

import io
import random
import sys
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from program import Result, looked_at, names_of, scene, tree

from coda_cli.errors import MediaError
from coda_cli.machine import budget
from coda_cli.media.archives import list_archive

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
Coda = Callable[..., Result]


def png(seed: int = 0) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(scene(seed=seed)).save(stream, "PNG")
    return stream.getvalue()


def written(path: Path, columns: dict[str, list[Any]], rows: int = 1000) -> Path:
    pq.write_table(pa.table(columns), path, row_group_size=rows)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(MediaError) as caught:
        list_archive(path)
    return str(caught.value)


def test_pictures_with_paths_as_published_sets_have_them(coda: Coda, tmp_path: Path) -> None:
    images = [
        {"bytes": png(n), "path": path} for n, path in enumerate(("sub/a.png", "b.png", None, "../c.png", "b.png"))
    ]
    path = written(tmp_path / "train.parquet", {"image": images, "label": [0, 1, 2, 3, 4]}, rows=2)
    names = ["sub/a.png", "b.png", "row-000002", "row-000003", "row-000004"]
    result = looked_at(coda, path)
    assert names_of(result) == [f"{path.as_posix()}/{name}" for name in names]
    coda("explain", path, "--write", "json", "--class", "0")
    assert list(tree(tmp_path / "coda-out"))[:2] == ["b.coda.json", "row-000002.coda.json"]
    assert "5 skipped" in coda("explain", path, "--write", "json", "--class", "0").err
    for n, entry in enumerate(list_archive(path).pictures.values()):
        assert entry.read() == png(n)


def test_the_column_is_found_by_what_it_holds(tmp_path: Path) -> None:
    path = written(tmp_path / "a.parquet", {"label": ["x"], "jpg": [b"picture"]})
    (entry,) = list_archive(path).pictures.values()
    assert entry.read() == b"picture"
    path = written(tmp_path / "b.parquet", {"other": [b"x"], "image": [b"picture"]})
    (entry,) = list_archive(path).pictures.values()
    assert entry.read() == b"picture"
    assert "several columns hold bytes (one, two)" in refusal(
        written(tmp_path / "c.parquet", {"one": [b"x"], "two": [b"y"]})
    )
    assert "no column holds the bytes" in refusal(written(tmp_path / "d.parquet", {"image": ["a.png"]}))


def test_every_kind_of_column_of_bytes_is_read(tmp_path: Path) -> None:
    for n, kind in enumerate([pa.large_binary(), pa.binary_view(), pa.dictionary(pa.int32(), pa.binary())]):
        plain = pa.array([b"picture", b"picture"])
        column = plain.dictionary_encode() if pa.types.is_dictionary(kind) else plain.cast(kind)
        path = written(tmp_path / f"{n}.parquet", {"image": column})
        assert [entry.read() for entry in list_archive(path).pictures.values()] == [b"picture"] * 2, kind


def test_a_path_like_the_number_of_another_row_hides_no_row(tmp_path: Path) -> None:
    images = [{"bytes": f"{n}".encode(), "path": path} for n, path in enumerate(["row-000001", None, "row-000002"])]
    listed = list_archive(written(tmp_path / "a.parquet", {"image": images})).pictures
    assert [(str(name), entry.read()) for name, entry in listed.items()] == [
        (f"row-00000{n}", f"{n}".encode()) for n in range(3)
    ]


@pytest.mark.parametrize("order", ["forwards", "backwards", "mixed", "threads"])
def test_rows_are_read_in_any_order(tmp_path: Path, order: str) -> None:
    content = [f"{n}".encode() * 50 for n in range(200)]
    entries = list(list_archive(written(tmp_path / "a.parquet", {"image": content}, rows=30)).pictures.values())
    numbers = list(range(200))
    if order == "backwards":
        numbers.reverse()
    elif order == "mixed":
        random.Random(0).shuffle(numbers)
    if order == "threads":
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(lambda entry: entry.read(), entries)) == content
    for number in numbers:
        assert entries[number].read() == content[number]


def test_rows_are_read_a_few_at_a_time(tmp_path: Path) -> None:
    content = [random.Random(n).randbytes(1_000_000) for n in range(60)]
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"image": content}), path, write_batch_size=4)  # a page has to be read as a whole
    listing = list_archive(path)
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    most = 0
    for entry in listing.pictures.values():
        entry.read()
        most = max(most, pa.total_allocated_bytes() - before)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 40_000_000
    assert peak < 10_000_000


def test_what_cannot_be_read_is_a_line(coda: Coda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "a.parquet", {"image": [png(), None, b"no picture"]})
    result = looked_at(coda, path, status=1)
    assert [line.partition(": ")[2] for line in result.errors] == [
        "row 1 holds no bytes",
        "not a picture in a format coda can read",
    ]
    (tmp_path / "b.parquet").write_bytes(b"PAR1 and nothing else")
    assert "is no Parquet file, or is broken or cut off" in coda("explain", "b.parquet", status=2).error
    (tmp_path / "c.parquet").write_bytes(path.read_bytes()[:-20])
    assert "is no Parquet file, or is broken or cut off" in coda("explain", "c.parquet", status=2).error
    monkeypatch.setattr(budget, "ENTRIES", 2)
    assert "has more than 2 rows" in refusal(path)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    assert refusal(path).endswith("needs pyarrow: pip install 'coda-cli[parquet]'")


def test_a_row_that_was_lost_since_is_an_error(tmp_path: Path) -> None:
    path = written(tmp_path / "a.parquet", {"image": [b"a", b"b"]})
    entries = list(list_archive(path).pictures.values())
    written(path, {"image": [b"a"]})
    with pytest.raises(MediaError, match="is broken in its file"):
        entries[1].read()
