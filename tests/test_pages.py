"""Pages of a TIFF, and frames of an animation: each is an input with a name, outputs and a record of its own."""

from __future__ import annotations

import gc
import pickle
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conftest import Coda
from local_server import FileServer
from PIL import Image
from program import looked_at, moving, names_of, photo, scene, tree

import coda_cli
from coda_cli.errors import MediaError, UsageError
from coda_cli.machine import budget
from coda_cli.media.pages import split
from coda_cli.media.sources import resolve
from coda_cli.media.stills import reading
from coda_cli.media.stored import Document, Given


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def scan(name: str = "scan.tif", pages: int = 3, **options: object) -> Path:
    """A TIFF whose pages differ in size and content; the second is turned by its EXIF."""
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    frames = [Image.fromarray(scene(40 + 10 * n, 40, seed=n)) for n in range(pages)]
    for n, frame in enumerate(frames):
        frame.encoderinfo = {"tiffinfo": {0x0112: 6 if n == 1 else 1}}  # type: ignore[attr-defined]
    frames[0].save(name, save_all=True, append_images=frames[1:], **options)
    return Path(name)


def test_each_page_is_an_input_with_files_of_its_own(coda: Coda) -> None:
    scan("in/sub/scan.tif")
    photo(Path("in/photo.png"))
    result = coda("explain", "in", "-r", "--page", "all", "--class", "0", "--json")
    pages = [f"in/sub/scan.tif#page={n}" for n in (1, 2, 3)]
    assert names_of(result) == ["in/photo.png", *pages]
    assert len({record["source"]["sha256"] for record in result.records}) == 2
    first, second, third = (record["source"] for record in result.records[1:])
    assert first["notes"] == ["page 1 of 3"]
    assert second["notes"] == ["page 2 of 3"]
    assert [(s["width"], s["height"]) for s in (first, second, third)] == [(40, 40), (40, 50), (60, 40)]
    assert "more pages" not in result.err
    names = [name for name in tree(Path("coda-out")) if name.endswith(".json")]
    assert names == ["photo.coda.json", *(f"sub/scan-page-{n}.coda.json" for n in (1, 2, 3))]
    assert "4 skipped" in coda("explain", "in", "-r", "--page", "all", "--class", "0").err


def test_a_page_gives_what_a_file_of_it_alone_gives(coda: Coda) -> None:
    scan()
    with Image.open("scan.tif") as whole:
        whole.seek(2)
        whole.save("third.png")
    page, alone = (looked_at(coda, *of).record for of in (("scan.tif", "--page", "3"), ("third.png",)))
    assert page["explained"][0]["logit"] == alone["explained"][0]["logit"]
    assert page["explained"][0]["evidence"] == alone["explained"][0]["evidence"]


def test_without_the_option_it_is_the_first_and_one_line_says_so(coda: Coda) -> None:
    scan()
    result = looked_at(coda, "scan.tif")
    assert result.record["source"]["path"] == "scan.tif"
    assert result.record["source"]["notes"] == ["first of 3 pages"]
    assert "coda: 1 picture has more pages or frames than the first; --page all explains each of them" in result.err
    assert "more pages" not in looked_at(coda, photo(Path("a.png"))).err


def test_pages_that_are_not_there_are_a_line(coda: Coda) -> None:
    scan()
    photo(Path("a.png"))
    result = looked_at(coda, "scan.tif", "a.png", "--page", "4", status=1)
    assert result.errors == ["scan.tif: has 3 pages, and no page 4", "a.png: has 1 page, and no page 4"]
    assert names_of(looked_at(coda, "scan.tif", "--page", "2-9")) == ["scan.tif#page=2", "scan.tif#page=3"]
    for wrong in ("0", "3-2", "x", "1-", "1,2"):
        assert coda("explain", "scan.tif", "--page", wrong, status=2).error.startswith(
            f"--page {wrong}: expected a page"
        )
    Path("broken.tif").write_bytes(b"II*\0 no picture")
    assert looked_at(coda, "broken.tif", "--page", "all", status=1).error.startswith("broken.tif: not a picture")


def test_a_page_that_is_not_there_is_not_taken_for_the_picture(coda: Coda) -> None:
    photo(Path("a.png"))
    result = looked_at(coda, "-", input="a.png\na.png#page=2\na.png#page=3\n", status=1)
    assert names_of(result)[:1] == ["a.png"]
    assert result.errors == [f"a.png: has 1 page, and no page {n}" for n in (2, 3)]


def test_pages_in_names_of_sources(coda: Coda) -> None:
    scan()
    result = looked_at(coda, "scan.tif#page=3", "-", input="scan.tif#page=1\nscan.tif#page=0\n", status=1)
    assert names_of(result)[:2] == ["scan.tif#page=3", "scan.tif#page=1"]
    assert result.error.startswith("scan.tif#page=0: no such file")
    found = [item.name for item in resolve(["scan.tif#page=2", "./scan.tif#page=all"])]
    assert found == [f"scan.tif#page={n}" for n in (2, 1, 3)]  # each of them once
    Path("a#page=2").write_bytes(b"a file of that name")
    assert split("a#page=2") == ("a#page=2", None)
    one = coda_cli.explain("scan.tif#page=3", "cifar10", 0)
    assert one.record().source.width == 60
    assert one.record().source.path == "scan.tif#page=3"
    with pytest.raises(UsageError, match="names several pages"):
        coda_cli.explain("scan.tif#page=all", "cifar10", 0)
    with pytest.raises(MediaError, match="has 3 pages, and no page 7"):
        coda_cli.explain("scan.tif#page=7", "cifar10", 0)


def test_a_page_is_not_taken_for_a_picture_of_its_name(coda: Coda) -> None:
    scan()
    coda("explain", "scan.tif", "--page", "2", "--class", "0", "--write", "json")
    scan("other/scan-page-2.tif")  # the same bytes
    result = coda("explain", "other/scan-page-2.tif", "--class", "0", "--write", "json", status=1)
    assert "scan-page-2.coda.json: exists from another picture" in result.error


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png"])
def test_frames_of_animations_are_pages(coda: Coda, name: str) -> None:
    result = looked_at(coda, moving(Path(name)), "--page", "2-3")
    assert names_of(result) == [f"{name}#page=2", f"{name}#page=3"]
    assert [record["source"]["notes"] for record in result.records] == [["frame 2 of 3"], ["frame 3 of 3"]]
    with reading(resolve([f"{name}#page=3"])[0].content) as picture:
        far = 30 if name == "a.gif" else 8 if name == "a.webp" else 0
        assert np.abs(picture.rgb.astype(int) - scene(seed=2)).mean() <= far


def test_pages_in_archives_at_addresses_and_on_stdin(coda: Coda) -> None:
    content = scan().read_bytes()
    with zipfile.ZipFile("p.zip", "w") as archive:
        archive.writestr("sub/scan.tif", content)
    run = ("explain", "p.zip", "--page", "2-3", "--class", "0", "--write", "json")
    assert names_of(coda(*run, "--json")) == ["p.zip/sub/scan.tif#page=2", "p.zip/sub/scan.tif#page=3"]
    assert [*tree(Path("coda-out"))] == ["sub/scan-page-2.coda.json", "sub/scan-page-3.coda.json"]

    with FileServer() as server:
        address = f"{server.url}/scan.tif"
        server.files["/scan.tif?key=SECRET"] = content
        found = names_of(looked_at(coda, f"{address}?key=SECRET", "--page", "all"))
    assert found == [f"{address}#page={n}" for n in (1, 2, 3)]
    assert len(server.asked) == 1  # to count the pages and to read all of them
    assert names_of(looked_at(coda, "-", "--page", "2", input=content)) == ["stdin#page=2"]


def test_what_is_at_an_address_comes_once(coda: Coda, monkeypatch: pytest.MonkeyPatch) -> None:
    with FileServer() as server:
        server.files = {"/scan.tif": scan().read_bytes(), "/one.png": photo(Path("one.png")).read_bytes()}
        server.files["/text.png"] = b"no picture"
        names = [f"{server.url}/{name}" for name in ("scan.tif", "one.png", "text.png", "missing.png")]

        def gets() -> dict[str, int]:
            found = Counter(path.removeprefix("/") for path, _ in server.asked)
            server.asked.clear()
            return found

        for pages in ("all", "1", "1-2"):
            assert len(coda("explain", *names, "--page", pages, "--if-exists", "overwrite", status=1).errors) == 2
            assert gets() == {"scan.tif": 1, "one.png": 1, "text.png": 1, "missing.png": 1}
        assert coda("explain", names[1], "--page", "2", status=1).error == f"{names[1]}: has 1 page, and no page 2"
        assert gets() == {"one.png": 1}
        coda("verify", "coda-out", "--allow-private")
        assert gets() == {"scan.tif": 1, "one.png": 1}
        gc.collect()  # what earlier runs in this process kept
        monkeypatch.setattr(budget, "DOCUMENT_BYTES", len(server.files["/one.png"]))  # no room for the scan
        coda("explain", *names[:2], "--page", "all", "--if-exists", "overwrite")
        assert gets() == {"scan.tif": 4, "one.png": 1}


def test_documents_share_one_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "DOCUMENT_BYTES", 100)
    reads = list[str]()

    class Counted(Given):
        def read(self) -> bytes:
            reads.append(self.name)
            return super().read()

    first, second, third = (Document(Counted(name, bytes([n]) * 40)) for n, name in enumerate("abc", 1))
    for document in (first, second, third):
        assert len(document.read(ahead=True)) == 40
    assert reads == ["a", "b", "c"]
    for document in (first, second, third, third, second):  # the third, not kept ahead, takes the place of the first
        document.read()
    assert reads == ["a", "b", "c", "c"]
    first.read()
    assert reads == ["a", "b", "c", "c", "a"]
    del second, document  # its room is free again
    for one in (third, first, third):
        one.read()
    assert reads == ["a", "b", "c", "c", "a", "c"]


def test_pages_travel_to_other_processes() -> None:
    scan()
    item = resolve(["scan.tif#page=2"])[0]
    copy = pickle.loads(pickle.dumps(item))
    with reading(item.content) as one, reading(copy.content) as other:
        assert (one.rgb == other.rgb).all()
