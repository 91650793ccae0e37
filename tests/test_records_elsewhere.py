"""Records of pictures that are no files of their own are proven and repeated: in archives, at addresses, pages."""

from __future__ import annotations

import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest
from conftest import Coda
from local_server import FileServer
from PIL import Image
from program import photo, scene, tree

EXPLAIN = ("--class", "0", "--write", "json", "-o", "out", "-q")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def paths_of(coda: Coda, *args: str, status: int = 0) -> list[str]:
    """The pictures whose records were proven."""
    return [proof["path"] for proof in coda(*args, "--json", status=status).records if proof.get("proven")]


@pytest.fixture
def packed() -> None:
    """Two archives and a scan of two pages, and nothing else."""
    photo(Path("a.png"))
    photo(Path("b.png"), seed=1)
    with zipfile.ZipFile("one.zip", "w") as archive:
        archive.write("a.png", "sub/a.png")
    with tarfile.open("two.tar.gz", "w:gz") as packed:
        packed.add("b.png")
    first, second = (Image.fromarray(scene(seed=seed)) for seed in (2, 3))
    first.save("scan.tif", save_all=True, append_images=[second])
    for name in ("a.png", "b.png"):
        Path(name).unlink()


@pytest.mark.usefixtures("packed")
def test_records_of_archives_and_pages(coda: Coda) -> None:
    coda("explain", "one.zip", "two.tar.gz", "scan.tif#page=2", *EXPLAIN)
    every = ["two.tar.gz/b.png", "scan.tif#page=2", "one.zip/sub/a.png"]
    assert paths_of(coda, "verify", "out") == every
    assert paths_of(coda, "rerun", "out", "-o", "again") == every
    assert sorted(tree(Path("again"))) == sorted(tree(Path("out")))
    assert not paths_of(coda, "verify", "out/sub", "--pictures", "again", status=1)
    Path("moved").mkdir()
    for name in ("one.zip", "two.tar.gz", "scan.tif"):
        shutil.move(name, "moved")
    result = coda("verify", "out", status=1)
    assert [error.partition(": ")[2] for error in result.errors] == [
        f"its picture {name} is not here; --pictures DIR says where it lies" for name in every
    ]
    assert len(paths_of(coda, "verify", "out", "--pictures", "moved")) == 3
    with zipfile.ZipFile("moved/one.zip", "w") as archive:
        archive.writestr("sub/a.png", Path("moved/scan.tif").read_bytes())
    assert "another picture" in coda("verify", "out/sub", "--pictures", "moved", status=1).error


def test_records_of_addresses(coda: Coda) -> None:
    photo(Path("a.png"))
    with FileServer() as server:
        server.files["/a.png?key=SECRET"] = server.files["/a.png"] = Path("a.png").read_bytes()
        coda("explain", f"{server.url}/a.png?key=SECRET", *EXPLAIN)
        assert "which is private; --allow-private" in coda("verify", "out", status=1).error
        assert paths_of(coda, "verify", "out", "--allow-private") == [f"{server.url}/a.png"]
        assert paths_of(coda, "verify", "out", "--pictures", ".") == ["a.png"]
        server.files.clear()
        assert "nothing is at this address (HTTP 404)" in coda("verify", "out", "--allow-private", status=1).error
