"""The pages of coda summary and coda compare without a browser: what is in them, and that they are whole or missing."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Coda
from program import FullDisk, photo, photos, tree
from test_page import HOSTILE, THEIRS, Parsed, parsed, unpacked

from coda_cli.explanation.page import comparison
from coda_cli.explanation.page import summary as summaries
from coda_cli.media import files as media_files

METHODS = ("--method", "ours", "--method", "occlusion:window=8,stride=8", "--method", "rise:masks=20")


def reaches_nothing(page: Parsed) -> None:
    """The policy allows the page's own style and script alone, and the script holds no address."""
    (policy,) = [m["content"] for m in page.of("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert rules["img-src"] == "data:"
    for kind, tag in (("style-src", "style"), ("script-src", "script")):
        (text,) = [t for name, t in page.texts if name == tag and (tag == "style" or t.startswith('"use strict"'))]
        assert rules[kind] == f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
        assert not re.search(r"url\(|@import|https?:|fetch\(|XMLHttp", text)
    data = [t for name, t in page.texts if name == "script" and not t.startswith('"use strict"')]
    assert data
    assert not any("<" in text for text in data)  # nothing in it can end the element or begin a comment
    assert not any(name.startswith("on") or name == "style" for _, a in page.elements for name in a)
    assert all((a["src"] or "").startswith("data:image/") for a in page.of("img"))


def words(page: Parsed) -> str:
    """All text that is shown, with one space between words."""
    return re.sub(r"\s+", " ", " ".join(text for tag, text in page.texts if tag not in ("script", "style")))


# ---- a summary -------------------------------------------------------------------------------------------------------


@pytest.fixture
def explained(coda: Coda, tmp_path: Path) -> Path:
    """Nine pictures in three folders, one with HTML in its name, explained with a box."""
    names = ["a.png", "b.png", f"{HOSTILE}.png"]
    for seed, folder in enumerate(("cat", "ship", "frog")):
        for n, name in enumerate(names):
            photo(tmp_path / "in" / folder / name, 50, 40, 10 * seed + n)
    coda("explain", "in", "-r", "-o", "out", "--box", "0,0,0.5,0.5")
    return tmp_path


def rows(page: Parsed) -> list[list[Any]]:
    """What the table of all pictures has."""
    (text,) = [text for tag, text in page.texts if tag == "script" and text.startswith("[")]
    found: list[list[Any]] = json.loads(text)
    return found


def test_the_page_of_a_summary_has_the_numbers_of_the_terminal_and_of_the_json(coda: Coda, explained: Path) -> None:
    result = coda("summary", "out", "-r", "-o", "numbers", "--html", "report/s.html")
    assert "written: report/s.html" in result.err
    page = parsed(explained / "report/s.html")
    reaches_nothing(page)
    said, found = words(page), json.loads((explained / "numbers/summary.json").read_text())
    table = [line for line in result.lines if re.match(r"(cat|ship|frog|all) ", line)]
    assert len(table) == 4
    for line in table:
        assert re.sub(r"\s+", " ", line) in said
    for line in result.lines:
        if line.startswith("  in/"):  # an outlier
            path, why = line.strip().split(": ", 1)
            assert f"{path} {why}" in said
    every = found["overall"]
    assert f"calibration error {found['calibration']['error']:.3f}" in said
    assert f"evidence for {every['mean_positive']:+.3f} evidence against {every['mean_negative']:+.3f}" in said
    lines = {row[0]: row for row in rows(page)}
    assert len(lines) == 9
    for path in (explained / "out").rglob("*.coda.json"):
        record = json.loads(path.read_text())
        best, line = record["explained"][0], lines[record["source"]["path"]]
        wanted = (best["probability"], best["logit"], best["positive"], best["negative"])
        assert line[4:8] == pytest.approx(list(wanted), rel=1e-4)
        assert line[2] == record["top"][0]["name"]
        assert line[9] == pytest.approx(1 - best["regions"]["rest"]["share"], rel=1e-4)


def test_the_pictures_worth_a_look_are_in_the_page_and_linked(
    coda: Coda, explained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coda("summary", "out", "-r", "--html", "report/s.html")
    page = parsed(explained / "report/s.html")
    links = [a["href"] or "" for a in page.of("a")]
    assert len(links) == len(page.of("img")) >= 9
    assert all(link.startswith("../out/") and link.endswith(".overlay.png") for link in links)
    assert any("%3Cimg%20src%3Dx" in link for link in links)
    assert len(page.of("script")) == 3  # nothing in a name became an element
    for overlay in (explained / "out/cat").glob("*.png"):
        overlay.unlink()
    assert len(parsed_again(coda, explained).of("a")) == sum("/cat/" not in link for link in links)
    monkeypatch.setattr(summaries, "MOST_SHOWN", 1)
    page = parsed_again(coda, explained)
    assert len(page.of("img")) == 1  # the others are links
    assert len(page.of("a")) == sum("/cat/" not in link for link in links)


def parsed_again(coda: Coda, folder: Path, **more: Any) -> Parsed:
    coda("summary", "out", "-r", "--html", "report/s.html", "--force", **more)
    return parsed(folder / "report/s.html")


def test_a_record_leads_to_no_other_folder(coda: Coda, explained: Path) -> None:
    record_path = next((explained / "out/ship").glob("a*.json"))
    record = json.loads(record_path.read_text())
    photo(explained / "secret.png")
    record["explained"][0]["files"]["overlay"] = "../../secret.png"
    record_path.write_text(json.dumps(record))
    page = parsed_again(coda, explained)
    assert page.of("a")
    assert not [a for a in page.of("a") if "secret" in (a["href"] or "")]
    lines = "".join(json.dumps(json.loads(path.read_text())) + "\n" for path in (explained / "out").rglob("*.json"))
    coda("summary", "-", "--html", "t.html", input=lines.encode())  # of records on lines, nobody knows the folder
    assert not parsed(explained / "t.html").of("a")


def test_beyond_a_stated_number_a_page_lists_no_pictures(
    coda: Coda, explained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(summaries, "MOST_PICTURES", 8)
    page = parsed_again(coda, explained)
    assert "A page lists at most 8 pictures. coda summary with -o writes all of them into summary.csv." in words(page)
    assert rows(page) == []
    assert page.of("img")


def test_a_page_of_a_summary_that_is_there_is_kept_unless_asked(coda: Coda, explained: Path) -> None:
    (explained / "s.html").write_bytes(THEIRS)
    before = tree(explained)
    asked = ("summary", "out", "-r", "-o", "numbers", "--html")
    assert coda(*asked, "s.html", status=2).error == "s.html: exists; --force replaces it, --html names another file"
    assert coda(*asked, "s.png", status=2).error == "s.png: --html names a file that ends in .html"
    assert {name: content for name, content in tree(explained).items() if "numbers" not in name} == before
    coda(*asked, "s.html", "--force")
    assert len(rows(parsed(explained / "s.html"))) == 9


def test_a_full_disk_leaves_no_half_of_a_summary(coda: Coda, explained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = tree(explained)
    monkeypatch.setattr(media_files, "os", FullDisk(room=0))
    error = coda("summary", "out", "-r", "--html", "s.html", status=1).error
    assert error == "s.html: cannot be written (No space left on device)"
    assert tree(explained) == before


def test_without_labels_and_regions_the_page_leaves_out_what_is_not_known(coda: Coda, tmp_path: Path) -> None:
    photos(tmp_path / "in", "a.png", "b.png")
    coda("explain", "in", "-o", "out")
    page = parsed_again(coda, tmp_path)
    assert not page.of("svg")
    said = words(page)
    assert "accuracy" not in said
    assert "inside" not in said
    assert "2 pictures in numbers" in said


# ---- a comparison ----------------------------------------------------------------------------------------------------


def test_the_page_of_a_comparison_holds_every_map(coda: Coda, tmp_path: Path) -> None:
    photos(tmp_path / "in", "a.png", f"{HOSTILE}.png")
    result = coda("compare", "in", *METHODS, "-c", "cat", "-c", "dog", "--html", "c.html")
    assert result.lines[-1] == "c.html"
    page = parsed(tmp_path / "c.html")
    reaches_nothing(page)
    entries = [json.loads(text) for tag, text in page.texts if tag == "script" and text.startswith('{"size"')]
    assert [entry["record"]["explained"]["name"] for entry in entries] == ["cat", "dog", "cat", "dog"]
    assert len(page.of("script")) == 6
    for entry in entries:
        assert [unit["pixel"] for unit in entry["units"]] == ["logit", "logit", ""]
        assert [unit["sum"] for unit in entry["units"]] == ["logit", "", ""]
        stored = np.load(tmp_path / "coda-out" / entry["record"]["files"]["npz"])
        assert json.loads(str(stored["record"])) == entry["record"]
        for packed, pixels in zip(entry["maps"], stored["maps"], strict=True):
            assert np.abs(unpacked(packed) - pixels).max() <= packed["step"] / 2 * (1 + 1e-6)
    said = words(page)
    for part in entries[0]["record"]["methods"]:
        claims = f"sum {part['sum']:.3f} of " if part["complete"] else "no sum claimed"
        assert f"{part['method']} {claims}" in said
        assert f"{part['seconds']:.2g} s for each of 2 classes" in said


def test_the_page_of_a_comparison_is_refused_before_any_work(
    coda: Coda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos(tmp_path / "in", "a.png", "b.png")
    (tmp_path / "c.html").write_bytes(THEIRS)
    before = tree(tmp_path)
    asked = ("compare", "in", *METHODS, "--html")
    assert coda(*asked, "c.html", status=2).error == "c.html: exists; --force replaces it, --html names another file"
    assert coda(*asked, "c", status=2).error == "c: --html names a file that ends in .html"
    monkeypatch.setattr(comparison, "MOST_MAPS", 5)
    assert coda(*asked, "d.html", status=2).error.startswith("--html: 6 maps are more than the 5 that one page holds")
    assert tree(tmp_path) == before
    monkeypatch.setattr(comparison, "MOST_MAPS", 6)
    coda(*asked, "c.html", "--force", "--json")
    assert len(parsed(tmp_path / "c.html").of("section")) == 2


def test_what_cannot_be_compared_is_in_no_page(coda: Coda, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    coda("compare", "broken.png", *METHODS, "--html", "c.html", status=1)
    assert sorted(tree(tmp_path)) == ["broken.png"]
    photo(tmp_path / "a.png")
    coda("compare", "broken.png", "a.png", *METHODS, "--html", "c.html", status=1)
    assert len(parsed(tmp_path / "c.html").of("section")) == 1
