"""Results at an address: the files, rules and records of a folder on a disk; every object is put whole."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest
from PIL import Image
from program import Result, photo, scene, tree

import coda_cli
from coda_cli.errors import MediaError, UsageError
from coda_cli.media import http
from coda_cli.media.remote_folder import RemoteFolder

Coda = Callable[..., Result]


@pytest.fixture
def asked(store: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What the store is asked for, in order: what is done, and with which object."""
    asked: list[tuple[str, str]] = []

    def spy(name: str, call: Callable[..., object]) -> Callable[..., object]:
        def asks(path: str, *args: object) -> object:
            asked.append((name, path))
            return call(path, *args)

        return asks

    for name in ("cat_file", "pipe_file", "rm_file", "find"):
        monkeypatch.setattr(store, name, spy(name, getattr(store, name)))
    return asked


def content(store: fsspec.AbstractFileSystem) -> dict[str, bytes]:
    return {name: store.cat_file(name) for name in sorted(store.store)}


def without_times(data: bytes) -> dict[str, object]:
    """A record, without what differs between two runs."""
    return {key: value for key, value in json.loads(data).items() if key not in ("created", "seconds")}


def test_the_files_are_those_of_a_folder(coda: Coda, tmp_path: Path, store: fsspec.AbstractFileSystem) -> None:
    (tmp_path / "in" / "sub").mkdir(parents=True)
    photo(tmp_path / "in" / "a.png")
    photo(tmp_path / "in" / "sub" / "b.png", seed=1)
    there = coda("explain", "in", "-r", "--write", "overlay,npz,json", "-o", "memory://bucket/out/")
    here = coda("explain", "in", "-r", "--write", "overlay,npz,json", "-o", "out")
    names = [line.removeprefix("memory://bucket/") for line in there.out.splitlines()]
    assert names == [Path(line).as_posix() for line in here.out.splitlines()]
    assert all(line.startswith("memory://bucket/out/") for line in there.out.splitlines())
    lost = "coda: --output memory://bucket/out/: is gone when this command ends; such addresses are for Python\n"
    assert lost in there.err
    assert "is gone" not in here.err
    files = {name.removeprefix("/bucket/out/"): data for name, data in content(store).items()}
    assert set(files) == set(tree(tmp_path / "out"))  # also no probe, and nothing temporary
    for name, data in files.items():
        if name.endswith(".png"):
            with Image.open(io.BytesIO(data)) as one, Image.open(tmp_path / "out" / name) as other:
                assert one.tobytes() == other.tobytes()
        if name.endswith(".json"):
            assert without_times(data) == without_times((tmp_path / "out" / name).read_bytes())


def test_what_has_a_record_is_done_once(
    coda: Coda, tmp_path: Path, store: fsspec.AbstractFileSystem, asked: list[tuple[str, str]]
) -> None:
    for n in range(3):
        photo(tmp_path / "in" / f"{n}.png", seed=n)
    run = ("explain", "in", "-o", "memory://out", "--write", "json", "--class", "0")
    coda(*run)
    assert [what for what, _ in asked if what in ("find", "cat_file")] == ["find"]  # nothing is there, nothing is read
    store.rm_file("/out/1.coda.json")
    before = content(store)
    asked.clear()
    result = coda(*run)
    assert "1 explained, 2 skipped" in result.err
    assert [where for what, where in asked if what == "pipe_file" and "json" in where] == ["/out/1.coda.json"]
    assert before.items() <= content(store).items()


def test_skip_asks_for_one_list_and_reads_neither_pictures_nor_records(
    coda: Coda, tmp_path: Path, asked: list[tuple[str, str]]
) -> None:
    for n in range(3):
        photo(tmp_path / "in" / f"{n}.png", seed=n)
    run = ("explain", "in", "-o", "memory://out", "--write", "json", "--class", "0")
    coda(*run)
    asked.clear()
    for path in (tmp_path / "in").iterdir():
        path.write_bytes(b"not looked at")
    result = coda(*run, "--if-exists", "skip")
    assert "3 skipped" in result.err
    assert [what for what, _ in asked if what in ("find", "cat_file")] == ["find"]
    assert result.out.splitlines() == [f"memory://out/{n}.coda.json" for n in range(3)]


@pytest.mark.parametrize("output", ["memory://out", "out.tar", "out"])
def test_what_is_skipped_has_its_line_of_json_wherever_it_is(coda: Coda, tmp_path: Path, output: str) -> None:
    for n in range(3):
        photo(tmp_path / "in" / f"{n}.png", seed=n)
    run = ("explain", "in", "-o", output, "--write", "overlay,json", "--class", "0", "--json")
    first = coda(*run).records
    again = coda(*run, "--if-exists", "skip")
    assert "3 skipped" in again.err
    assert again.records == first


def test_a_record_that_cannot_be_fetched_for_its_line_fails_alone(
    coda: Coda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: fsspec.AbstractFileSystem
) -> None:
    for n in range(2):
        photo(tmp_path / "in" / f"{n}.png", seed=n)
    run = ("explain", "in", "-o", "memory://out", "--write", "json", "--class", "0")
    coda(*run)
    given = store.cat_file

    def forbidden(path: str, *args: object) -> object:
        if path.endswith("1.coda.json"):
            raise PermissionError
        return given(path, *args)

    monkeypatch.setattr(store, "cat_file", forbidden)
    result = coda(*run, "--if-exists", "skip", "--json", status=1)
    assert [record.get("status") for record in result.records] == ["ok", "error"]
    assert result.error.startswith("memory://out/1.coda.json: is forbidden")
    assert "2 skipped" in coda(*run, "--if-exists", "skip").err  # nobody asks for it


def test_another_picture_of_the_name_is_an_error_and_other_settings_go_beside(
    coda: Coda, tmp_path: Path, store: fsspec.AbstractFileSystem
) -> None:
    path = photo(tmp_path / "a.png")
    coda("explain", path, "-o", "memory://out", "--class", "0")
    before = content(store)
    coda("explain", path, "-o", "memory://out", "--class", "1")
    assert len([name for name in content(store) if name.endswith(".json")]) == 2
    assert before.items() <= content(store).items()
    before = content(store)
    photo(path, seed=5)
    result = coda("explain", path, "-o", "memory://out", "--class", "0", status=1)
    assert result.error.startswith("memory://out/a.coda.json: exists from another picture, or is not coda's")
    assert content(store) == before
    coda("explain", path, "-o", "memory://out", "--class", "0", "--force")
    assert content(store)["/out/a.coda.json"] != before["/out/a.coda.json"]
    result = coda("explain", path, "-o", "memory://out", "--class", "0", "--if-exists", "error", status=1)
    assert result.error.startswith("memory://out/a.coda.json: exists")


def test_an_object_that_is_not_codas_is_not_replaced(
    coda: Coda, tmp_path: Path, store: fsspec.AbstractFileSystem
) -> None:
    store.pipe_file("/out/a.coda.json", b"somebody's")
    result = coda("explain", photo(tmp_path / "a.png"), "-o", "memory://out", "--class", "0", status=1)
    assert result.error.startswith("memory://out/a.coda.json: exists from another picture, or is not coda's")
    assert content(store) == {"/out/a.coda.json": b"somebody's"}


def test_a_record_comes_last_and_not_at_all_where_a_picture_cannot_be_put(
    coda: Coda, tmp_path: Path, store: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "PAUSE", 0.001)
    put = store.pipe_file

    def failing(path: str, data: bytes) -> None:
        if path.endswith(".png"):
            raise OSError(28, "No space left on device")
        put(path, data)

    monkeypatch.setattr(store, "pipe_file", failing)
    result = coda("explain", photo(tmp_path / "a.png"), "-o", "memory://out", "--class", "0", status=1)
    assert result.error.startswith("memory://out/a.")
    assert "No space left on device" in result.error
    assert not [name for name in content(store) if name.endswith(".json")]


def test_shards_say_there_how_they_ended(coda: Coda, tmp_path: Path, store: fsspec.AbstractFileSystem) -> None:
    for n in range(4):
        photo(tmp_path / "in" / f"{n}.png", seed=n)
    for shard in ("1/2", "2/2", "1/2"):
        coda("explain", "in", "-o", "memory://out", "--write", "json", "--class", "0", "--shard", shard)
    names = [name.removeprefix("/out/") for name in content(store)]
    assert names == [*(f"{n}.coda.json" for n in range(4)), "shard-1-of-2.json", "shard-2-of-2.json"]


def test_results_are_left_out_where_they_lie_inside_the_source(coda: Coda, store: fsspec.AbstractFileSystem) -> None:
    stream = io.BytesIO()
    Image.fromarray(scene()).save(stream, "PNG")
    store.pipe_file("/b/a.png", stream.getvalue())
    run = ("explain", "memory://b/", "-r", "-o", "memory://b/out", "--class", "0")
    coda(*run)
    names = set(content(store))
    coda(*run)
    assert set(content(store)) == names


def test_a_folder_for_results_around_the_source_leaves_nothing_out(
    coda: Coda, store: fsspec.AbstractFileSystem
) -> None:
    stream = io.BytesIO()
    Image.fromarray(scene()).save(stream, "PNG")
    store.pipe_file("/b/p/a.png", stream.getvalue())
    for source in ("memory://b/p/a.png", "memory://b/p/", "memory://b/p", "memory://b/p/*.png"):
        result = coda("explain", source, "-o", "memory://b", "--write", "json", "--class", "0", "--force")
        assert result.lines == ["memory://b/a.coda.json"], source
    for source in ("memory://b/p/", "memory://b/p", "memory://b/p/*.png", "MEMORY://b/p/"):
        error = coda("explain", source, "-o", "memory://b/p", status=2).error
        assert error.endswith("is where results go, and cannot be a source, too; choose another --output"), source
    error = coda("explain", "memory://b/", "-r", "-o", "memory://b/p", status=2).error
    assert error == "memory://b/: no pictures at this address but those where results go"


def test_a_bucket_without_a_name_is_a_line(coda: Coda, tmp_path: Path) -> None:
    assert coda("explain", photo(tmp_path / "a.png"), "-o", "s3://", status=2).error == "s3://: names no bucket"


def test_from_python(tmp_path: Path, store: fsspec.AbstractFileSystem) -> None:
    (outcome,) = coda_cli.explain_many([photo(tmp_path / "a.png")], "cifar10", 0, output="memory://out/")
    assert outcome.addresses == tuple(f"memory://out/{name.removeprefix('/out/')}" for name in content(store))[
        ::-1
    ] or (set(outcome.addresses) == {f"memory:/{name}" for name in content(store)})
    assert outcome.written == ()


def test_one_picture_at_an_address_from_python(tmp_path: Path, store: fsspec.AbstractFileSystem) -> None:
    store.pipe_file("/b/a.png", photo(tmp_path / "a.png").read_bytes())
    there, here = (coda_cli.explain(one, "cifar10", 0) for one in ("memory://b/a.png", tmp_path / "a.png"))
    assert there.record().source.path == "memory://b/a.png"
    assert there.record().source.sha256 == here.record().source.sha256
    assert (there.maps == here.maps).all()
    assert {path.name.partition(".")[0] for path in there.save(tmp_path / "out")} == {"a"}
    with pytest.raises(MediaError, match=r"memory://b/gone\.png: nothing is at this address"):
        coda_cli.explain("memory://b/gone.png", "cifar10", 0)
    with pytest.raises(UsageError, match="nothing:// is not read"):
        coda_cli.explain("nothing://b/gone.png", "cifar10", 0)


@pytest.mark.parametrize("url", ["https://host/out/", "hf://datasets/a/b", "zip://a::memory://b.zip", "nothing://a"])
def test_an_address_where_nothing_can_be_written_is_a_line(coda: Coda, tmp_path: Path, url: str) -> None:
    assert "files are not written there" in coda("explain", photo(tmp_path / "a.png"), "-o", url, status=2).error


def test_rename_needs_a_disk(coda: Coda, tmp_path: Path) -> None:
    run = ("explain", photo(tmp_path / "a.png"), "-o", "memory://out", "--if-exists", "rename")
    assert "is for folders on a disk" in coda(*run, status=2).error


def test_arguments_that_are_files_refuse_an_address(coda: Coda, tmp_path: Path) -> None:
    for run in (("models", "convert", "s3://b/SECRET.pth", "-o", "n.safetensors"), ("train", "-o", "run", "s3://b/p/")):
        assert coda(*run, status=2).error == "s3://...: is an address, and a path is needed here"
    result = coda("video", "https://user:SECRET@host/a.mp4?SECRET", "-o", "out", status=2)
    assert result.error == "https://host/a.mp4: is an address, and clips are read from a disk; download it first"
    assert not list(tmp_path.iterdir())


def test_other_options_refuse_an_address(coda: Coda, tmp_path: Path) -> None:
    path = photo(tmp_path / "a.png")
    for run in (
        ("explain", path, "--html", "s3://b/a.html"),
        ("compare", path, "-o", "s3://b/"),
        ("compare", path, "-os3://b/"),
    ):
        assert "is an address, and a path is needed here" in coda(*run, status=2).error
    assert not [name for name in tree(tmp_path) if "s3" in name]


def test_a_folder_that_cannot_be_written_is_found_out_before_any_work(
    store: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(path: str, data: bytes) -> None:
        raise PermissionError(f"user:password may not write {path}, {len(data)} bytes")

    monkeypatch.setattr(store, "pipe_file", forbidden)
    with pytest.raises(UsageError, match="memory://out: cannot write there: is forbidden") as caught:
        RemoteFolder("memory://out/")
    assert "password" not in str(caught.value)


def test_the_folder_on_this_disk_is_removed(store: fsspec.AbstractFileSystem) -> None:
    remote = RemoteFolder("memory://out/")
    folder = remote.folder
    assert folder.is_dir()
    del remote
    assert not folder.exists()
    assert not store.store


def test_a_dry_run_and_a_log_name_addresses_and_a_dry_run_writes_nothing(
    coda: Coda, tmp_path: Path, store: fsspec.AbstractFileSystem, asked: list[tuple[str, str]]
) -> None:
    photo(tmp_path / "a.png")
    run = ("explain", "a.png", "-o", "memory://out", "--write", "json", "--class", "0")
    foreseen = coda(*run, "--dry-run").lines
    assert foreseen == ["explain a.png: memory://out/a.coda.json"]
    assert not content(store)
    assert not [what for what, _ in asked if what in ("pipe_file", "rm_file")]
    coda(*run, "--log", "log.jsonl")
    (line,) = (tmp_path / "log.jsonl").read_text("utf-8").splitlines()
    assert json.loads(line)["outputs"] == ["memory://out/a.coda.json"]
    assert coda(*run, "--dry-run").lines == ["skip a.png: memory://out/a.coda.json"]
