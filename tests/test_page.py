"""The page of ``coda explain --html`` without a browser: what is in the file, and that it is whole or not there."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import signal
import zlib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import program
import pytest
from conftest import Coda
from numpy.typing import NDArray
from program import FullDisk, photo, photos, tree

from coda_cli.checkpoints.labels import class_of_folder
from coda_cli.checkpoints.loading import load
from coda_cli.checkpoints.saving import save
from coda_cli.explanation.page import pages, report
from coda_cli.explanation.page.entry import LONGEST
from coda_cli.explanation.page.maps import LEVELS, Packed, largest_sum, pack
from coda_cli.media import files as media_files
from coda_cli.media.pictures import small_copy

THEIRS = b"somebody else's\n"


class Parsed(HTMLParser):
    """The elements of a page with their attributes, and the text of each kind of element."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements, self.texts = list[tuple[str, dict[str, str | None]]](), list[tuple[str, str]]()
        self._open = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open = tag

    def handle_endtag(self, tag: str) -> None:
        del tag
        self._open = ""

    def handle_data(self, data: str) -> None:
        self.texts.append((self._open, data))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        """The attributes of all elements of one kind."""
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def entries(self) -> list[dict[str, Any]]:
        """What the script reads of every picture."""
        texts = [text for tag, text in self.texts if tag == "script" and '"maps":' in text and text.startswith("{")]
        return [json.loads(text) for text in texts]


def parsed(path: Path) -> Parsed:
    return Parsed(path.read_text("utf-8"))


def unpacked(packed: dict[str, Any]) -> NDArray[np.float64]:
    """The map in a page, as its script reads it."""
    planes = np.frombuffer(zlib.decompress(base64.b64decode(packed["data"])), np.uint8).reshape(2, -1).astype(int)
    folded = planes[0] * 256 + planes[1]
    change = np.where(folded % 2, -(folded + 1) // 2, folded // 2).reshape(packed["rows"], packed["columns"])
    return change.cumsum(0).cumsum(1) * packed["step"]


# ---- maps ------------------------------------------------------------------------------------------------------------


def fields(packed: Packed) -> dict[str, Any]:
    return {name: getattr(packed, name) for name in ("rows", "columns", "step", "data")}


def test_a_packed_map_is_off_by_half_a_step_at_most() -> None:
    values = (np.random.default_rng(0).standard_t(2, (13, 17)) * 1e-3).astype(np.float32)
    packed = pack(values)
    assert np.abs(unpacked(fields(packed)) - values).max() <= packed.step / 2 * (1 + 1e-9)
    assert packed.step == pytest.approx(float(np.abs(values).max()) / LEVELS)


def test_a_map_that_jumps_from_end_to_end_is_packed_as_well() -> None:
    values = np.where(np.indices((6, 7)).sum(0) % 2, 1, -1).astype(np.float32)
    assert np.array_equal(unpacked(fields(pack(values))), values * np.float64(pack(values).step * LEVELS))


@pytest.mark.parametrize("values", [np.zeros((3, 4)), np.full((2, 2), 1e-44), np.array([[-5.0]])])
def test_maps_of_nothing_and_of_one_number_can_be_packed(values: NDArray[np.float64]) -> None:
    packed = pack(values.astype(np.float32))
    assert np.allclose(unpacked(fields(packed)), values, atol=1e-44)
    assert max(packed.off) <= packed.step * values.size


def test_no_rectangle_is_further_off_than_is_said_and_one_is_as_far() -> None:
    errors = np.random.default_rng(1).normal(size=(6, 7))
    sums = [
        abs(errors[a:b, c:d].sum())
        for a in range(6)
        for b in range(a + 1, 7)
        for c in range(7)
        for d in range(c + 1, 8)
    ]
    assert largest_sum(errors) == pytest.approx(max(sums))
    wide = np.random.default_rng(2).normal(size=(2, 600))
    assert largest_sum(wide) >= max(abs(wide[:, a:b].sum()) for a in range(600) for b in range(a + 1, 601))


def test_what_is_said_of_sums_holds_for_borders_that_cut_pixels() -> None:
    generator = np.random.default_rng(3)
    values = (generator.standard_t(2, (9, 11)) * 1e-2).astype(np.float32)
    packed = pack(values)
    error = unpacked(fields(packed)) - values.astype(np.float64)
    for _ in range(300):
        (y0, y1), (x0, x1) = np.sort(generator.uniform(0, 9, 2)), np.sort(generator.uniform(0, 11, 2))
        down = np.clip(np.minimum(y1, np.arange(1, 10)) - np.maximum(y0, np.arange(9)), 0, 1)
        across = np.clip(np.minimum(x1, np.arange(1, 12)) - np.maximum(x0, np.arange(11)), 0, 1)
        for part, most in zip((values > 0, values < 0, values == values), packed.off, strict=True):
            assert abs(float(down @ (error * part) @ across)) <= most * (1 + 1e-9)


def test_three_hundred_maps_of_noise_fit_in_a_page() -> None:
    noise = (np.random.default_rng(4).standard_t(3, (224, 224)) * 1e-3).astype(np.float32)
    packed = pack(noise)  # the worst that there is: no neighbours are alike
    assert np.abs(unpacked(fields(packed)) - noise).max() <= packed.step / 2 * (1 + 1e-9)
    assert report.MOST_MAPS * len(packed.data) < 23e6
    photograph = program.scene(1500, 1000)
    kind, content, size = small_copy(photograph, LONGEST)
    assert (kind, size) == ("jpeg", (480, 320))
    assert report.MOST_MAPS * len(content) * 4 / 3 < 15e6


# ---- the file --------------------------------------------------------------------------------------------------------


def test_a_page_holds_every_picture_with_its_maps_and_record(coda: Coda, tmp_path: Path) -> None:
    photos(tmp_path / "in", "a.png", "b.jpg", "c.png")
    result = coda("explain", "in", "--class", "top:2", "--write", "npz,json", "--html", "out/report.html")
    assert result.lines[-1] == "out/report.html"
    entries = parsed(tmp_path / "out/report.html").entries
    assert [Path(e["record"]["source"]["path"]).name for e in entries] == ["a.png", "b.jpg", "c.png"]
    for entry in entries:
        stem = Path(entry["record"]["source"]["path"]).stem
        stored = np.load(tmp_path / f"coda-out/{stem}.coda.npz")["pixels"]
        assert len(entry["maps"]) == len(stored) == 2
        for packed, pixels in zip(entry["maps"], stored, strict=True):
            assert np.abs(unpacked(packed) - pixels).max() <= packed["step"] / 2 * (1 + 1e-6)
        record = json.loads((tmp_path / f"coda-out/{stem}.coda.json").read_text())
        assert entry["record"]["source"]["sha256"] == record["source"]["sha256"]
        assert entry["record"]["explained"][0]["logit"] == record["explained"][0]["logit"]


def test_the_page_reaches_nothing_outside_itself(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    coda("explain", "a.png", "--html", "r.html")
    page = parsed(tmp_path / "r.html")
    (policy,) = [m["content"] for m in page.of("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules.pop("default-src") == rules.pop("base-uri") == rules.pop("form-action") == "'none'"
    assert rules.pop("img-src") == "data:"
    for kind, tag in (("style-src", "style"), ("script-src", "script")):
        (text,) = [t for name, t in page.texts if name == tag and (tag == "style" or t.startswith('"use strict"'))]
        assert rules.pop(kind) == f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
        assert not re.search(r"url\(|@import|https?:|fetch\(|XMLHttp", text)
    assert not rules
    sources = [
        value for _, attributes in page.elements for name, value in attributes.items() if name in ("src", "href")
    ]
    assert sources
    assert all(value and value.startswith("data:image/") for value in sources)
    assert not any(name.startswith("on") or name == "style" for _, a in page.elements for name in a)


HOSTILE = "<img src=x onerror=alert(1)>&\"'"


def test_names_with_html_in_them_stay_text(coda: Coda, tmp_path: Path) -> None:
    names = "\n".join(["<b>bold</b>", "</script><script>alert(1)</script>", "<!--", *(f"c{n}" for n in range(7))])
    (tmp_path / "names.txt").write_text(names + "\n")
    photo(tmp_path / f"in/{HOSTILE}.png")
    (tmp_path / "in/<script>.jpg").write_bytes(b"no picture")
    net = load("cifar10")
    hostile = net.checkpoint.model_copy(update={"classes": (*names.splitlines(), "last")[:10]})
    save(net.model, hostile, tmp_path / "net.safetensors")
    coda("explain", "in", "-m", "net.safetensors", "--class", "all", "--html", "r.html", "--write", "none", status=1)
    page = parsed(tmp_path / "r.html")
    assert not page.of("b")
    assert len(page.of("script")) == 3  # the data of one picture, the numbers of drawing, the script
    (entry,) = page.entries
    assert Path(entry["record"]["source"]["path"]).name == f"{HOSTILE}.png"
    assert {e["name"] for e in entry["record"]["explained"]} >= {"<b>bold</b>", "<!--"}
    assert any("<script>.jpg" in text for tag, text in page.texts if tag == "li")


def test_wrong_is_what_the_folder_says_and_the_network_does_not(coda: Coda, tmp_path: Path, scenes: Path) -> None:
    folder = next(path for path in sorted((scenes / "test").iterdir()) if list(path.iterdir()))
    name = next(iter(sorted(folder.iterdir())))
    for truth in (folder.name, "no class", next(n for n in program.CIFAR10 if n != folder.name)):
        (tmp_path / "in" / truth).mkdir(parents=True)
        (tmp_path / "in" / truth / name.name).write_bytes(name.read_bytes())
    coda("explain", "in", "-r", "--write", "none", "--html", "r.html")
    cards = parsed(tmp_path / "r.html").of("article")
    said = {Path(a["data-name"] or "").parent.name: ("data-truth" in a, "data-wrong" in a) for a in cards}
    assert said.pop("no class") == (False, False)
    assert said.pop(folder.name) == (True, False)
    assert list(said.values()) == [(True, True)]


def test_a_map_of_another_class_than_the_predicted_one_says_so(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    best, other = coda("explain", "a.png", "-c", "top:2", "--write", "none", "--json").record["explained"]
    said = []
    for name in (best["name"], other["name"]):
        coda("explain", "a.png", "--class", name, "--write", "none", "--html", f"{name}.html")
        said.append("map of " in (tmp_path / f"{name}.html").read_text("utf-8"))
    assert said == [False, True]


def test_a_folder_names_a_class_by_its_whole_name_only() -> None:
    checkpoint = load("cifar10").checkpoint
    assert class_of_folder("Dog", checkpoint) == program.CIFAR10.index("dog")
    assert class_of_folder("do", checkpoint) is None
    assert class_of_folder("3", checkpoint) is None
    both = checkpoint.model_copy(update={"classes": ("Dog", "dog", *checkpoint.classes[2:])})
    assert class_of_folder("dog", both) is None


def test_regions_are_in_the_page(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    coda("explain", "a.png", "--box", "part=5,5,20,30", "--html", "r.html", "--write", "none")
    page = parsed(tmp_path / "r.html")
    (entry,) = page.entries
    assert entry["regions"] == [["part", [[[5, 5], [20, 5], [20, 30], [5, 30]]]]]
    (card,) = page.of("article")
    rest = entry["record"]["explained"][0]["regions"]["rest"]["share"]
    assert float(card["data-outside"] or "nan") == pytest.approx(rest)


# ---- files that are there, disks and signals -------------------------------------------------------------------------


def test_a_page_that_is_there_is_kept_unless_asked(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    (tmp_path / "r.html").write_bytes(THEIRS)
    asked = ("explain", "a.png", "--write", "none", "--html", "r.html")
    assert coda(*asked, status=2).error == "r.html: exists; --force replaces it, --html names another file"
    coda(*asked, "--if-exists", "skip")
    assert (tmp_path / "r.html").read_bytes() == THEIRS
    assert coda(*asked, "--if-exists", "rename").lines == ["r-2.html"]
    coda(*asked, "--force")
    assert [len(parsed(tmp_path / name).entries) for name in ("r.html", "r-2.html")] == [1, 1]


@pytest.mark.parametrize("name", ["folder.html", "report", "report.png"])
def test_what_no_page_can_be_written_to_is_refused_before_any_work(coda: Coda, tmp_path: Path, name: str) -> None:
    photo(tmp_path / "a.png")
    (tmp_path / "folder.html").mkdir()
    error = coda("explain", "a.png", "--html", name, status=2).error
    assert error == f"{name}: --html names a file that ends in .html"
    assert not (tmp_path / "coda-out").exists()


def test_more_classes_than_a_page_holds_maps_are_refused_before_any_work(
    coda: Coda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos(tmp_path / "in", "a.png", "b.png")
    monkeypatch.setattr(report, "MOST_MAPS", 5)
    error = coda("explain", "in", "--class", "top:6", "--html", "s.html", status=2).error
    assert error.startswith("--html: 6 classes of each picture are more than the 5 maps that one page holds")
    assert sorted(tree(tmp_path)) == ["in/a.png", "in/b.png"]


def test_results_that_are_there_are_explained_again_for_a_page(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    coda("explain", "a.png")
    coda("explain", "a.png", "--html", "r.html")
    assert len(parsed(tmp_path / "r.html").entries) == 1
    photo(tmp_path / "a.png", seed=1)  # another picture of the same name: its files are not replaced, page or not
    before = tree(tmp_path / "coda-out")
    coda("explain", "a.png", "--html", "s.html", status=1)
    assert tree(tmp_path / "coda-out") == before


def test_a_full_disk_leaves_no_half_of_a_page(coda: Coda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photo(tmp_path / "a.png")
    monkeypatch.setattr(media_files, "os", FullDisk(room=0))
    error = coda("explain", "a.png", "--write", "none", "--html", "r.html", status=1).error
    assert error == "r.html: cannot be written (No space left on device)"
    assert sorted(tree(tmp_path)) == ["a.png"]


def test_of_two_runs_one_gets_the_name(coda: Coda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photo(tmp_path / "a.png")
    add = report.Report.add

    def late(self: report.Report, outcome: Any) -> None:
        (tmp_path / "r.html").write_bytes(THEIRS)  # the other run ends first
        add(self, outcome)

    monkeypatch.setattr(report.Report, "add", late)
    error = coda("explain", "a.png", "--write", "none", "--html", "r.html", status=2).error
    assert "exists" in error
    assert tree(tmp_path) == {"a.png": (tmp_path / "a.png").read_bytes(), "r.html": THEIRS}


def test_ctrl_c_leaves_no_page(tmp_path: Path) -> None:
    photos(tmp_path / "in", *(f"{n}.png" for n in range(40)))
    arguments = ("explain", "in", "--html", "r.html", "--batch-size", "1")
    with program.started(*arguments, cwd=tmp_path, most=20) as child:
        assert child.stdout is not None
        child.stdout.readline()  # the first picture is done
        child.send_signal(signal.SIGINT)
        program.finish(child, 130)
    assert not [name for name in os.listdir(tmp_path) if name not in ("in", "coda-out")]


# ---- more pictures than one page holds -------------------------------------------------------------------------------


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page holds five maps."""
    monkeypatch.setattr(report, "MOST_MAPS", 5)


def listed(path: Path) -> list[dict[str, Any]]:
    """What the sheet of many pages has of every picture."""
    (text,) = [text for tag, text in parsed(path).texts if tag == "script" and text.startswith("[")]
    found: list[dict[str, Any]] = json.loads(text)
    return found


ASKED = ("explain", "in", "-r", "--class", "top:2", "--write", "none")


@pytest.mark.usefixtures("few")
def test_more_maps_than_one_page_holds_become_a_sheet_and_a_folder_of_pages(coda: Coda, tmp_path: Path) -> None:
    photos(tmp_path / "in/cat", "a.png", f"{HOSTILE}.png", "c.png", "d.png", "e.png")
    (tmp_path / "in/cat/broken.png").write_bytes(b"no picture")
    result = coda(*ASKED, "--json", "--box", "0,0,0.5,0.5", "--html", "my report#1.html", status=1)
    folder = tmp_path / "my report#1"
    assert sorted(tree(folder)) == ["page-001.html", "page-002.html", "page-003.html"]  # two maps of each picture
    found = sorted(folder.iterdir())
    per_page = [[Path(e["record"]["source"]["path"]).name for e in parsed(page).entries] for page in found]
    lines = listed(tmp_path / "my report#1.html")
    assert [len(names) for names in per_page] == [2, 2, 1]
    assert [line["name"] for line in lines] == [f"cat/{name}" for names in per_page for name in names]
    for line, record in zip(lines, (r for r in result.records if r["status"] == "ok"), strict=True):
        best = record["explained"][0]
        assert (line["class"], line["p"]) == (record["top"][0]["name"], record["top"][0]["probability"])
        assert line["outside"] == pytest.approx(best["regions"]["rest"]["share"])
        assert line["against"] == pytest.approx(-best["negative"] / best["positive"])
        assert ("wrong" in line) == (line["class"] != "cat")
        thumbnail = base64.b64decode(line["thumbnail"])
        assert thumbnail.startswith(b"\xff\xd8")
        assert len(thumbnail) < 4000
    sheet, first, last = (parsed(p) for p in (tmp_path / "my report#1.html", *found[::2]))
    assert [a["href"] for a in sheet.of("a")] == [f"my%20report%231/page-00{n}.html" for n in (1, 2, 3)]
    assert [a["href"] for a in first.of("a")] == ["../my%20report%231.html", "page-002.html"]
    assert [a["href"] for a in last.of("a")] == ["../my%20report%231.html", "page-002.html"]
    assert any("broken.png" in text for tag, text in sheet.texts if tag == "li")
    for page in (sheet, first, last):
        (policy,) = [m["content"] for m in page.of("meta") if m.get("http-equiv") == "Content-Security-Policy"]
        (script,) = [t for tag, t in page.texts if tag == "script" and t.startswith('"use strict"')]
        assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() in (policy or "")
        assert not any("<" in t for tag, t in page.texts if tag == "script" and not t.startswith('"use strict"'))


@pytest.mark.usefixtures("few")
def test_pages_that_are_there_are_kept_unless_asked_and_go_where_no_longer_needed(coda: Coda, tmp_path: Path) -> None:
    photos(tmp_path / "in", *(f"{name}.png" for name in "abcde"))
    coda(*ASKED, "--html", "r.html")
    before = tree(tmp_path)
    assert coda(*ASKED, "--html", "r.html", status=2).error.startswith("r.html: exists; --force replaces it")
    (tmp_path / "r.html").unlink()  # without its sheet, too
    assert coda(*ASKED, "--html", "r.html", status=2).error.startswith("r/page-001.html: exists; --force replaces it")
    assert coda(*ASKED, "--html", "r.html", "--if-exists", "rename", status=2).error.startswith(
        "r/page-001.html: exists"
    )
    assert tree(tmp_path) == {name: content for name, content in before.items() if name != "r.html"}
    (tmp_path / "r/page-004.html").write_bytes(THEIRS)  # of nobody's report, and no page of coda
    (tmp_path / "r/notes.txt").write_bytes(THEIRS)
    coda("explain", "in/a.png", "in/b.png", "in/c.png", "--class", "top:2", "--write", "none", "--html", "r.html", "-f")
    assert sorted(tree(tmp_path / "r")) == ["notes.txt", "page-001.html", "page-002.html", "page-004.html"]
    assert len(listed(tmp_path / "r.html")) == 3
    coda("explain", "in/a.png", "--write", "none", "--html", "r.html", "--force")  # one file holds this
    assert sorted(tree(tmp_path / "r")) == ["notes.txt", "page-004.html"]
    assert len(parsed(tmp_path / "r.html").entries) == 1
    assert coda(*ASKED, "--html", "r.html", "--if-exists", "rename").lines == ["r-2.html"]
    assert len(tree(tmp_path / "r-2")) == 3
    (tmp_path / "s").write_bytes(THEIRS)
    assert "the folder s, and that is a file" in coda(*ASKED, "--html", "s.html", status=2).error


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("force", [False, True])
def test_a_run_that_ends_early_leaves_no_pages_and_what_was_there(
    coda: Coda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, force: bool
) -> None:
    photos(tmp_path / "in", "a.png", "b.png", "c.png", "d.png")
    if force:
        coda(*ASKED, "--html", "r.html")
    before = tree(tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(report.Report, "_fill_sheet", full)
        error = coda(*ASKED, "--html", "r.html", *(["--force"] if force else []), status=1).error
        assert "cannot be written (No space left on device)" in error
    assert tree(tmp_path) == before
    add = report.Report.add

    def late(self: report.Report, outcome: Any) -> None:
        add(self, outcome)
        (tmp_path / "r/page-002.html").parent.mkdir(exist_ok=True)
        (tmp_path / "r/page-002.html").write_bytes(THEIRS)  # another run ends first

    if not force:
        monkeypatch.setattr(report.Report, "add", late)
        assert "exists" in coda(*ASKED, "--html", "r.html", status=2).error
        assert tree(tmp_path) == before | {"r/page-002.html": THEIRS}


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("failure", [OSError(30, "Read-only file system"), KeyboardInterrupt()], ids=["disk", "Ctrl-C"])
def test_pages_that_cannot_all_get_their_names_go(
    coda: Coda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    photos(tmp_path / "in", "a.png", "b.png", "c.png", "d.png")
    before, give_name = tree(tmp_path), pages.give_name

    def failing(temporary: Path, path: Path, *, replace: bool) -> None:
        if path.name == "page-002.html":
            raise failure
        give_name(temporary, path, replace=replace)

    monkeypatch.setattr(pages, "give_name", failing)
    said = coda(*ASKED, "--html", "r.html", status=1 if isinstance(failure, OSError) else 130)
    if isinstance(failure, OSError):
        assert said.error == "r: cannot be written (Read-only file system)"
    assert tree(tmp_path) == before
    assert not (tmp_path / "r").exists()
