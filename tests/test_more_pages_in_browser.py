"""The sheet of many pages, the page of a summary and that of a comparison in a real browser without a window."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import program
import pytest
from browsing import browser, dataset, needs_browser, sync_api, watched

from coda_cli.explanation.page import report
from coda_cli.explanation.regions.shapes import box_ring
from coda_cli.media.coverage import of_rings
from coda_cli.media.view import View

__all__ = ["browser"]  # a fixture
pytestmark = needs_browser
HOSTILE = "<img src=x onerror=alert(1)>.png"
METHODS = ("ours", "gradient", "occlusion:window=8,stride=8", "rise:masks=40")


def fits_a_phone(tab: Any) -> None:
    tab.set_viewport_size({"width": 360, "height": 640})
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360


# ---- the sheet of many pages -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sheet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of three pages about seven pictures, and a name with HTML in it."""
    root = tmp_path_factory.mktemp("sheet")
    folders = {"dog": ("b.png", "f.png"), "cat": ("a.png", "e.png"), "ship": ("c.jpg", "g.png"), "frog": (HOSTILE,)}
    for seed, (truth, name) in enumerate((truth, name) for truth, names in folders.items() for name in names):
        program.photo(root / "in" / truth / name, 50, 40, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "MOST_MAPS", 3)
        program.run("explain", "in", "-r", "--write", "json", "--box", "0.2,0.2,0.7,0.6", "--html", "r.html", cwd=root)
    return root


@pytest.fixture
def tab(browser: Any, sheet: Path) -> Iterator[Any]:
    with watched(browser, sheet / "r.html", ready=".card", within=sheet) as opened:
        yield opened


def names(tab: Any) -> list[str]:
    found: list[str] = tab.locator(".card .name").all_inner_texts()
    return found


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((folder / "coda-out").rglob("*.json"))]


def name_of(record: dict[str, Any]) -> str:
    return Path(record["source"]["path"]).name


def test_the_sheet_sorts_and_filters_over_all_pages(tab: Any, sheet: Path) -> None:
    p = {name_of(record): record["top"][0]["probability"] for record in records(sheet)}
    assert {*names(tab)} == {*p}
    assert tab.locator("#shown").inner_text() == "7 shown"
    tab.select_option("#sort", "p")
    assert names(tab) == sorted(p, key=lambda name: p[name])
    tab.check("#falling")
    assert names(tab) == sorted(p, key=lambda name: -p[name])
    outside = {name_of(r): r["explained"][0]["regions"]["rest"]["share"] for r in records(sheet)}
    tab.select_option("#sort", "outside")
    assert names(tab) == sorted(outside, key=lambda name: -outside[name])
    tab.check("#wrong")
    wrong = {name_of(r) for r in records(sheet) if r["top"][0]["name"] != Path(r["source"]["path"]).parts[1]}
    assert {*names(tab)} == wrong
    tab.uncheck("#wrong")
    tab.fill("#name", "onerror")
    assert names(tab) == [HOSTILE]
    assert tab.locator("img[src=x]").count() == 0


@pytest.mark.parametrize("name", ["b.png", HOSTILE])
def test_a_picture_of_the_sheet_opens_in_its_page_and_the_page_leads_back(tab: Any, name: str) -> None:
    tab.locator(".card", has_text=name).click()
    tab.wait_for_selector("dialog[open]")
    assert tab.locator("#title").inner_text() == name
    tab.locator("#close").click()
    numbered = tab.locator("h1").inner_text()
    tab.locator(".pager [rel=next], .pager [rel=prev]").first.click()
    assert tab.locator("h1").inner_text() != numbered
    tab.locator(".pager a").first.click()
    assert len(names(tab)) == 7


def test_of_many_pictures_those_are_drawn_that_one_comes_to(tab: Any, browser: Any, sheet: Path) -> None:
    fits_a_phone(tab)
    text = (sheet / "r.html").read_text("utf-8")
    start, end = text.index('id="pictures">[') + len('id="pictures">['), text.index("]</script>")
    lines = text[start:end].strip()
    many = sheet / "many.html"
    many.write_text(f"{text[:start]}{','.join([lines] * 200)}{text[end:]}", encoding="utf-8")  # 1400
    with watched(browser, many, ready=".card") as opened:
        assert opened.locator("#shown").inner_text() == "1400 shown"
        first = opened.locator(".card").count()
        assert first < 1000
        opened.keyboard.press("End")
        opened.wait_for_selector(f".card:nth-child({first + 1})", state="attached")


# ---- the page of a summary -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def summed(sheet: Path) -> Path:
    """The page of a summary of the same pictures, in another folder than their records."""
    program.run("explain", "in", "-r", "-o", "out", "--box", "0.2,0.2,0.7,0.6", cwd=sheet)
    program.run("summary", "out", "-r", "-o", "numbers", "--html", "a page/s.html", cwd=sheet)
    return sheet


@pytest.fixture
def summary(browser: Any, summed: Path) -> Iterator[Any]:
    with watched(browser, summed / "a page/s.html", ready="#pictures td", within=summed) as opened:
        yield opened


def column(table: Any, number: int) -> list[str]:
    found: list[str] = table.locator(f"tbody tr > :nth-child({number})").all_inner_texts()
    return found


def test_the_tables_of_a_summary_are_sorted_and_filtered(summary: Any, summed: Path) -> None:
    found = json.loads((summed / "numbers/summary.json").read_text())
    classes, pictures = summary.locator("#classes"), summary.locator("#pictures")
    assert column(classes, 1) == [group["name"] for group in found["classes"]]
    classes.locator("thead button", has_text="logit").click()
    logits = {group["name"]: group["mean_logit"] for group in found["classes"]}
    assert column(classes, 1) == sorted(logits, key=lambda name: -logits[name])
    assert classes.locator("th[aria-sort=descending]").inner_text().strip() == "logit"
    classes.locator("thead button", has_text="logit").click()
    assert column(classes, 1) == sorted(logits, key=lambda name: logits[name])
    p = {record["source"]["path"]: record["top"][0]["probability"] for record in records(summed)}
    assert {*column(pictures, 1)} == {*p}
    pictures.locator("thead button", has_text="p").nth(2).click()  # after path and predicted
    assert column(pictures, 1) == sorted(p, key=lambda path: -p[path])
    summary.check("#wrong")
    assert {*column(pictures, 1)} == {path for path in p if Path(path).parts[1] != top(summed, path)}
    summary.uncheck("#wrong")
    summary.select_option("#label", "dog")
    assert {*column(pictures, 1)} == {path for path in p if path.startswith("in/dog/")}
    summary.select_option("#label", "")
    summary.fill("#path", "onerror")
    assert column(pictures, 1) == [f"in/frog/{HOSTILE}"]
    assert summary.locator("img[src=x]").count() == 0
    fits_a_phone(summary)


def top(folder: Path, path: str) -> str:
    return next(str(r["top"][0]["name"]) for r in records(folder) if r["source"]["path"] == path)


def test_the_pictures_worth_a_look_are_shown_and_linked(summary: Any, summed: Path) -> None:
    looks = summary.locator(".looks").first
    assert looks.locator("h2").inner_text() == "Confident and wrong"
    shown = summary.evaluate("[...document.querySelectorAll('.looks img')].every((image) => image.naturalWidth > 100)")
    assert shown
    link = looks.locator("a").first
    name = link.inner_text()
    with summary.expect_navigation():
        link.click()
    assert summary.url.endswith(".overlay.png")
    stored = next(path for path in (summed / "out").rglob("*.png") if path.as_uri() == summary.url)
    assert Path(name).stem == stored.name.split(".")[0]


# ---- the page of a comparison ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page about two pictures under four methods, one of them with HTML in its name."""
    root = tmp_path_factory.mktemp("compared")
    program.photo(root / "in/a.png", 90, 60, 1)
    program.photo(root / f"in/{HOSTILE}", 40, 40, 2)
    named = [text for method in METHODS for text in ("--method", method)]
    program.run("compare", "in", *named, "--html", "c.html", cwd=root)
    return root


@pytest.fixture
def maps(browser: Any, compared: Path) -> Iterator[Any]:
    with watched(browser, compared / "c.html", ready="html[data-painted=all]") as opened:
        yield opened


def arrays(folder: Path) -> tuple[Any, dict[str, Any], View]:
    """The maps of the picture a.png, its record, and where they lie in it."""
    (path,) = (folder / "coda-out").glob("a.*.compare.npz")
    stored = np.load(path)
    record = json.loads(str(stored["record"]))
    view, size = record["view"], (record["source"]["width"], record["source"]["height"])
    return (
        stored["maps"],
        record,
        View(np.zeros((view["height"], view["width"], 3), np.uint8), tuple(view["box"]), size),
    )


def picture(maps: Any) -> dict[str, float]:
    """Where the picture a.png is on the screen, once it is in sight."""
    image = maps.locator(".compared", has_text="a.png").first.locator("img")
    image.scroll_into_view_if_needed()
    box: dict[str, float] = image.bounding_box()
    return box


def readings(maps: Any, kind: str) -> list[dict[str, str]]:
    found = maps.locator(".compared", has_text="a.png").first.locator(f".method output.{kind}")
    return [dataset(found.nth(n)) for n in range(found.count())]


def test_pointing_reads_the_same_pixel_in_every_map(maps: Any, compared: Path) -> None:
    stored, record, view = arrays(compared)
    box, (x, y) = picture(maps), (0.52, 0.4)
    maps.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
    (x0, y0, x1, y1), (w, h) = view.box, view.resolution
    column, row = int((x * view.size[0] - x0) / (x1 - x0) * w), int((y * view.size[1] - y0) / (y1 - y0) * h)
    read = readings(maps, "pixel")
    assert len(read) == len(METHODS) == len(record["methods"])
    for one, pixels in zip(read, stored, strict=True):
        assert abs(float(one["value"]) - float(pixels[row, column])) <= float(one["off"]) * (1 + 1e-6)
        assert float(one["off"]) <= np.abs(pixels).max() / 16_000
    section = maps.locator(".compared", has_text="a.png").first
    said = section.locator(".method figcaption").all_inner_texts()
    assert [" logit (" in text for text in said] == [True, False, True, False]  # the units of their pixels
    assert f"Pixel {column}, {row}." in section.locator(".where").inner_text()


def test_dragging_adds_up_the_same_rectangle_in_every_map(maps: Any, compared: Path) -> None:
    stored, record, view = arrays(compared)
    box, (wide, tall) = picture(maps), view.size
    maps.mouse.move(box["x"] + 0.31 * box["width"], box["y"] + 0.77 * box["height"])
    maps.mouse.down()
    maps.mouse.move(box["x"] + 0.63 * box["width"], box["y"] + 0.12 * box["height"], steps=3)
    maps.mouse.up()
    maps.mouse.move(5, 5)
    corners = int(0.31 * wide), int(0.12 * tall), math.ceil(0.63 * wide), math.ceil(0.77 * tall)
    coverage = of_rings([box_ring(*corners)], view)
    for one, pixels in zip(readings(maps, "sum"), stored, strict=True):
        exact = float((pixels.astype(np.float64)[coverage.part] * coverage.shares).sum())
        assert abs(float(one["value"]) - exact) <= float(one["off"]) + 1e-9
        assert float(one["off"]) < 1e-3 * np.abs(pixels).sum()
    section = maps.locator(".compared", has_text="a.png").first
    assert f"Rectangle {','.join(map(str, corners))}" in section.locator(".where").inner_text()
    said = section.locator(".method output.sum").all_inner_texts()
    assert [" logit (" in text for text in said] == [True, False, False, False]  # the one that claims it
    claimed = section.locator(".method figcaption").all_inner_texts()
    expected = record["logit"] - record["bias"]
    assert f"of {expected:.3f} logit" in claimed[0]
    assert ["no sum claimed" in text for text in claimed] == [False, True, True, True]
    section.locator(".stage").first.focus()
    maps.keyboard.press("Escape")
    assert all("value" not in one for one in readings(maps, "sum"))
    maps.keyboard.press("ArrowDown")
    maps.keyboard.press("Shift+ArrowRight")
    assert all("value" in one for one in readings(maps, "sum"))


def test_a_comparison_shows_names_as_they_are_and_fits_a_phone(maps: Any) -> None:
    assert maps.locator("h2").all_inner_texts()[0].startswith(HOSTILE)
    assert maps.locator("img[src=x]").count() == 0
    painted = maps.evaluate(
        "[...document.querySelectorAll('.over')].every((c) => c.getContext('2d').getImageData(0, 0, c.width, c.height)"
        ".data.some((red, n, all) => n % 4 === 0 && red !== all[n + 2]))"
    )
    assert painted  # every map has a colour somewhere
    fits_a_phone(maps)
    sync_api.expect(maps.locator(".panel").first).to_be_visible()
