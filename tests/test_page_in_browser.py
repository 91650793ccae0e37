"""The page of ``coda explain --html`` in a real browser without a window: what it shows, reads and adds up."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import program
import pytest
from browsing import browser, needs_browser, sync_api, watched
from PIL import Image

from coda_cli.explanation.regions.shapes import box_ring
from coda_cli.media.coverage import of_rings
from coda_cli.media.view import View, paste_back
from coda_cli.render.overlay import enlarged, overlay

__all__ = ["browser"]  # a fixture
pytestmark = needs_browser
HOSTILE = "<img src=x onerror=alert(1)>.png"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page about four pictures with two classes and a region each, its npz files, and a name with HTML in it."""
    root = tmp_path_factory.mktemp("page")
    for seed, (truth, name, width, height) in enumerate(
        [("dog", "b.png", 50, 40), ("cat", "a.png", 300, 200), ("ship", "c.jpg", 90, 200), ("frog", HOSTILE, 40, 40)]
    ):
        program.photo(root / "in" / truth / name, width, height, seed)
    program.run("explain", "in", "-r", "-c", "top:2", "--write", "npz,json", "--box", "0.2,0.2,0.7,0.6",
                "--html", "r.html", cwd=root)  # fmt: skip
    return root


@pytest.fixture
def page(browser: Any, folder: Path) -> Iterator[Any]:
    """The page, drawn."""
    with watched(browser, folder / "r.html", ready="html[data-painted=all]") as tab:
        yield tab


def opened(page: Any, name: str) -> dict[str, float]:
    """Open a picture; gives where it is on the screen."""
    page.locator(f".card[data-name$={json.dumps('/' + name)}] .open").click()
    page.wait_for_selector("dialog[open]")
    box: dict[str, float] = page.locator("#original").bounding_box()
    return box


def names(page: Any) -> list[str]:
    """The names of the pictures that are shown, in their order."""
    found: list[str] = page.locator(".card:visible h2").all_inner_texts()
    return found


def dataset(page: Any, name: str) -> dict[str, str]:
    """The numbers of a readout, in full."""
    found: dict[str, str] = page.eval_on_selector(f"#{name}", "element => ({...element.dataset})")
    return found


def arrays(folder: Path, truth: str, stem: str) -> tuple[Any, View]:
    """The maps of a picture, and where they lie in it."""
    stored = np.load(folder / f"coda-out/{truth}/{stem}.coda.npz")
    record = json.loads(str(stored["record"]))
    size = record["source"]["width"], record["source"]["height"]
    return stored["pixels"], View(stored["view"], tuple(stored["box"]), size)


def test_it_loads_without_a_message_and_asks_for_nothing(page: Any) -> None:
    assert len(names(page)) == 4
    assert page.locator("#shown").inner_text() == "4 shown"


@pytest.mark.parametrize(("truth", "stem"), [("dog", "b"), ("cat", "a")])
def test_pointing_reads_the_contribution_of_a_pixel(page: Any, folder: Path, truth: str, stem: str) -> None:
    box = opened(page, f"{stem}.png")
    maps, view = arrays(folder, truth, stem)
    for x, y in ((0.31, 0.42), (0.5, 0.9), (0.66, 0.13)):
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
        read = dataset(page, "pixel")
        (x0, y0, x1, y1), (w, h) = view.box, view.resolution
        column, row = (x * view.size[0] - x0) / (x1 - x0) * w, (y * view.size[1] - y0) / (y1 - y0) * h
        assert (int(read["column"]), int(read["row"])) == (int(column), int(row))
        exact = float(maps[0, int(row), int(column)])
        assert abs(float(read["value"]) - exact) <= float(read["off"]) * (1 + 1e-6)
        assert float(read["off"]) <= np.abs(maps[0]).max() / 16_000
    page.mouse.move(box["x"] + 1, box["y"] + 1)
    assert ("value" in dataset(page, "pixel")) == (view.box[0] <= 0)  # the crop leaves the sides of a wide one out


@pytest.mark.parametrize(("truth", "stem"), [("dog", "b"), ("cat", "a")])
def test_dragging_adds_up_a_rectangle_as_a_box_does(page: Any, folder: Path, truth: str, stem: str) -> None:
    box = opened(page, f"{stem}.png")
    maps, view = arrays(folder, truth, stem)
    page.mouse.move(box["x"] + 0.21 * box["width"], box["y"] + 0.77 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.63 * box["width"], box["y"] + 0.12 * box["height"], steps=3)
    page.mouse.up()
    read = dataset(page, "rectangle")
    corners = [int(text) for text in read["box"].split(",")]
    wide, tall = view.size
    assert corners == [int(0.21 * wide), int(0.12 * tall), math.ceil(0.63 * wide), math.ceil(0.77 * tall)]
    coverage = of_rings([box_ring(*corners)], view)
    values = maps[0].astype(np.float64)[coverage.part] * coverage.shares
    sums = values[values > 0].sum(), values[values < 0].sum(), values.sum()
    shown = float(read["plus"]), float(read["minus"]), float(read["plus"]) + float(read["minus"])
    for exact, one, off in zip(sums, shown, map(float, read["off"].split(",")), strict=True):
        assert abs(one - exact) <= off + 1e-9
        assert off < 1e-3
    assert f"--box {read['box']}" in page.locator("#rectangle").inner_text()
    page.keyboard.press("Escape")  # removes the rectangle, and only then closes
    assert "box" not in dataset(page, "rectangle")
    assert page.locator("dialog[open]").count() == 1
    page.keyboard.press("Escape")
    assert page.locator("dialog[open]").count() == 0


def test_the_overlay_has_the_colours_of_the_program(page: Any, folder: Path) -> None:
    opened(page, "b.png")
    maps, view = arrays(folder, "dog", "b")
    drawn = np.array(
        page.evaluate(
            "() => { const c = document.getElementById('over'); return [c.height, c.width, "
            "...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]; }"
        )
    )
    height, width = drawn[:2]
    found = drawn[2:].reshape(height, width, 4)[..., :3]
    with Image.open(folder / "in/dog/b.png") as image:
        rgb = enlarged(np.asarray(image), (width, height))
    scale = json.loads((folder / "coda-out/dog/b.coda.json").read_text())["explained"][0]["scale"]
    wanted = overlay(rgb, paste_back(maps[0], view, (width, height)), scale)
    assert np.abs(found - wanted.astype(int)).max() <= 12  # OpenCV interpolates in 32 steps
    assert np.abs(found - wanted.astype(int)).mean() < 0.8


def test_another_class_and_another_scale_change_the_map(page: Any, folder: Path) -> None:
    box = opened(page, "b.png")
    maps, _ = arrays(folder, "dog", "b")
    place = box["x"] + 0.5 * box["width"], box["y"] + 0.5 * box["height"]
    page.mouse.move(*place)
    first = float(dataset(page, "pixel")["value"])
    page.locator("#targets label").nth(1).click()
    record = json.loads((folder / "coda-out/dog/b.coda.json").read_text())["explained"][1]
    sync_api.expect(page.locator("#equation")).to_contain_text(f"{record['logit']:.3f}".lstrip("-"))
    page.mouse.move(place[0] + 0.2, place[1])
    second = dataset(page, "pixel")
    at = int(second["row"]), int(second["column"])
    assert first == pytest.approx(maps[0][at], abs=1e-6)
    assert float(second["value"]) == pytest.approx(maps[1][at], abs=1e-6)
    before = page.locator("#scale-said").inner_text()
    page.locator("#scale").focus()
    page.keyboard.press("Home")
    assert page.locator("#scale-said").inner_text() != before
    page.locator("#reset").click()
    assert page.locator("#scale-said").inner_text() == before


def test_sorting_and_filters(page: Any, folder: Path) -> None:
    records = [json.loads(path.read_text()) for path in (folder / "coda-out").rglob("*.json")]
    p = {Path(r["source"]["path"]).name: r["top"][0]["probability"] for r in records}
    page.select_option("#sort", "p")
    assert names(page) == sorted(p, key=lambda name: p[name])
    page.check("#falling")
    assert names(page) == sorted(p, key=lambda name: -p[name])
    outside = {Path(r["source"]["path"]).name: r["explained"][0]["regions"]["rest"]["share"] for r in records}
    page.select_option("#sort", "outside")
    assert names(page) == sorted(outside, key=lambda name: -outside[name])
    middle = sorted(p.values())[1]
    page.fill("#most", f"{middle + 0.005:.2f}")
    assert {*names(page)} == {name for name in p if p[name] <= round(middle + 0.005, 2)}
    page.fill("#most", "1")
    page.fill("#least", f"{sorted(outside.values())[2]:.2f}")
    assert {*names(page)} == {name for name in p if outside[name] >= round(sorted(outside.values())[2], 2)}
    page.fill("#least", "0")
    chosen = records[0]["top"][0]["name"]
    page.select_option("#class", chosen)
    assert {*names(page)} == {Path(r["source"]["path"]).name for r in records if r["top"][0]["name"] == chosen}
    page.select_option("#class", "")
    page.check("#wrong")
    wrong = {
        Path(r["source"]["path"]).name for r in records if r["top"][0]["name"] != Path(r["source"]["path"]).parts[1]
    }
    assert {*names(page)} == wrong
    page.uncheck("#wrong")
    page.fill("#name", "onerror")
    assert names(page) == [HOSTILE]


def test_the_keyboard_is_enough(page: Any) -> None:
    page.locator(".open").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog[open]")
    assert page.locator("#place").inner_text() == "2 of 4"
    page.locator("#close").focus()
    page.keyboard.press("ArrowRight")
    sync_api.expect(page.locator("#place")).to_have_text("3 of 4")
    page.keyboard.press("ArrowLeft")
    sync_api.expect(page.locator("#place")).to_have_text("2 of 4")
    page.locator("#stage").focus()
    page.keyboard.press("ArrowDown")
    start = dataset(page, "pixel")
    page.keyboard.press("Shift+Control+ArrowRight")
    page.keyboard.press("Shift+ArrowDown")
    assert int(dataset(page, "pixel")["column"]) == int(start["column"]) + 10
    assert "box" in dataset(page, "rectangle")
    assert page.locator("#place").inner_text() == "2 of 4"
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.className") == "open"


def test_names_with_html_in_them_are_shown_as_they_are(page: Any) -> None:
    opened(page, HOSTILE)
    assert page.locator("#title").inner_text() == HOSTILE
    assert HOSTILE in page.locator("#record").text_content()
    assert page.locator("img[src=x]").count() == 0


def test_it_fits_a_phone(page: Any) -> None:
    page.set_viewport_size({"width": 360, "height": 640})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    opened(page, "a.png")
    assert page.evaluate("document.getElementById('viewer').scrollWidth") <= 360
