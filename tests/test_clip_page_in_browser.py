"""The page of ``coda video --html`` in a real browser without a window: its plot, and the frame that it chooses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import program
import pytest
from browsing import browser, needs_browser, sync_api, watched
from numpy.typing import NDArray
from test_page_in_browser import dataset
from test_video_command import clip, frame, lines_of

import coda_cli

__all__ = ["browser"]  # a fixture
pytestmark = needs_browser
FRAMES = 20  # of the first clip, at ten a second
NAME = "<img src=x onerror=alert(1)>.mkv"
LEFT = 16  # pixels that --box cuts off


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page about two clips with two classes and a region each, of which the right part alone is looked at."""
    root = tmp_path_factory.mktemp("clips")
    clip(root / NAME, frames=FRAMES)
    clip(root / "b.mkv", frames=12, seed=5)
    program.run("video", NAME, "b.mkv", "-c", "cat", "-c", "dog", "--box", f"{LEFT},0,64,48", "--region",
                "<b>part</b>=20,10,40,30", "--format", "none", "--html", "r.html", cwd=root)  # fmt: skip
    return root


@pytest.fixture
def page(browser: Any, folder: Path) -> Iterator[Any]:
    """The page, drawn. Any message on its console, any error, and any request but for itself fails the test."""
    with watched(browser, folder / "r.html", ready="html[data-painted=all]") as tab:
        yield tab


def opened(page: Any, clip_number: int = 0) -> None:
    """Open a clip."""
    page.locator(".open").nth(clip_number).click()
    page.wait_for_selector("dialog[open]")


def at_frame(page: Any, number: int) -> None:
    """Wait until a frame is shown."""
    page.wait_for_selector(f"#moment[data-frame='{number}']")


def place(page: Any, share: float) -> tuple[float, float]:
    """Where a share of the time is on the plot, on the screen."""
    box = page.locator("#plot").bounding_box()
    return box["x"] + share * box["width"], box["y"] + 40


def records(folder: Path, stem: str = NAME.removesuffix(".mkv")) -> list[dict[str, Any]]:
    return lines_of(folder / f"coda-out/{stem}.coda.jsonl")[:-1]


def maps(number: int) -> NDArray[np.float32]:
    """The maps of a frame of the first clip, both classes."""
    return coda_cli.explain(np.ascontiguousarray(frame(3, number)[:, LEFT:]), "cifar10", ["cat", "dog"]).maps


def pixel(page: Any) -> tuple[int, int, float, float]:
    """Point at a place of the picture; row, column, contribution and how far it can be off."""
    box = page.locator("#original").bounding_box()
    page.mouse.move(box["x"] + 0.2 * box["width"], box["y"] + 0.2 * box["height"])
    page.mouse.move(box["x"] + 0.61 * box["width"], box["y"] + 0.37 * box["height"])
    read = dataset(page, "pixel")
    return int(read["row"]), int(read["column"]), float(read["value"]), float(read["off"])


def test_a_place_on_the_plot_chooses_the_frame_and_its_numbers(page: Any, folder: Path) -> None:
    opened(page)
    at_frame(page, 0)
    pictures = set()
    for number in (13, 4, FRAMES - 1):
        page.mouse.click(*place(page, (number + 0.6) / FRAMES))
        at_frame(page, number)
        pictures.add(page.locator("#original").get_attribute("src"))
        record = records(folder)[number]["explained"][0]
        words = page.locator("#moment").inner_text()
        assert f"{number / 10:.2f} s, frame {number}: {records(folder)[number]['top'][0]['name']}, p " in words
        assert words.endswith(f"logit of cat {record['logit']:.2f}".replace("-", "−"))
        assert f"{record['positive']:+.3f}" in page.locator("#equation").inner_text()
        row, column, value, off = pixel(page)
        assert abs(value - maps(number)[0][row, column]) <= off + 1e-6
        assert off < 1e-4
    assert len(pictures) == 3


def test_a_drag_over_the_plot_ends_at_its_last_place(page: Any) -> None:
    opened(page)
    page.mouse.move(*place(page, 0.1))
    page.mouse.down()
    page.mouse.move(*place(page, 0.93), steps=25)
    page.mouse.move(*place(page, 7.4 / FRAMES), steps=9)
    page.mouse.up()
    at_frame(page, 7)
    page.mouse.move(*place(page, 0.9))
    page.wait_for_timeout(100)
    at_frame(page, 7)


def test_the_keyboard_chooses_frames_and_a_screen_reader_is_told(page: Any, folder: Path) -> None:
    opened(page)
    plot = page.locator("#plot")
    plot.focus()
    for key, number in [("ArrowRight", 1), ("PageDown", 11), ("ArrowLeft", 10), ("End", 19), ("ArrowRight", 19),
                        ("PageUp", 9), ("Home", 0), ("ArrowLeft", 0)]:  # fmt: skip
        page.keyboard.press(key)
        at_frame(page, number)
        assert plot.get_attribute("aria-valuenow") == str(number + 1)
    press = "event => document.getElementById('plot').dispatchEvent(new KeyboardEvent('keydown', event))"
    page.evaluate(f"[1, 2, 3, 4, 5].forEach(() => ({press})({{key: 'ArrowRight', bubbles: true}}))")  # all at once
    at_frame(page, 5)
    assert (plot.get_attribute("role"), plot.get_attribute("aria-valuemax")) == ("slider", str(FRAMES))
    leader = records(folder)[5]["top"][0]
    assert f"0.50 s, frame 5: {leader['name']}, p {leader['probability']:.3f}" in plot.get_attribute("aria-valuetext")
    page.locator("#stage").focus()
    page.keyboard.press("ArrowRight")  # on the picture it moves the pointer
    assert "column" in dataset(page, "pixel")
    at_frame(page, 5)


def test_a_rectangle_stays_and_says_of_each_frame_what_the_program_says(page: Any, folder: Path) -> None:
    opened(page)
    box = page.locator("#original").bounding_box()
    page.mouse.move(box["x"] + 0.23 * box["width"], box["y"] + 0.18 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.71 * box["width"], box["y"] + 0.64 * box["height"], steps=3)
    page.mouse.up()
    region = dataset(page, "rectangle")["box"]
    assert f"--region {region}" in page.locator("#rectangle").inner_text()
    said = program.run("video", NAME, "-c", "cat", "--box", f"{LEFT},0,64,48", "--region", region, "--format", "none",
                       "-o", "again", "--json", "-q", "-f", cwd=folder).records  # fmt: skip
    for number in (0, 12, 3):
        page.mouse.click(*place(page, (number + 0.5) / FRAMES))
        at_frame(page, number)
        read = dataset(page, "rectangle")
        exact = said[number]["explained"][0]["regions"]["regions"][0]
        plus, minus, _ = map(float, read["off"].split(","))
        assert abs(float(read["plus"]) - exact["positive"]) <= plus + 1e-5
        assert abs(float(read["minus"]) - exact["negative"]) <= minus + 1e-5
        assert float(read["area"]) == pytest.approx(exact["area"], abs=1e-6)
        assert plus < 1e-3


def test_the_class_and_the_scale_stay_when_the_frame_changes(page: Any) -> None:
    opened(page)
    page.locator("#targets label").nth(1).click()
    sync_api.expect(page.locator("#plot .curve.k1.chosen")).to_have_count(1)
    sync_api.expect(page.locator("#plot .chosen")).to_have_count(1)
    recorded = page.locator("#scale-said").inner_text()
    page.locator("#scale").focus()
    page.keyboard.press("Home")
    changed = page.locator("#scale-said").inner_text()
    assert changed != recorded
    page.mouse.click(*place(page, 9.5 / FRAMES))
    at_frame(page, 9)
    assert page.locator("#scale-said").inner_text() == changed
    row, column, value, off = pixel(page)
    assert abs(value - maps(9)[1][row, column]) <= off + 1e-6
    page.locator("#reset").click()
    page.mouse.click(*place(page, 2.5 / FRAMES))
    at_frame(page, 2)
    assert page.locator("#scale-said").inner_text() == recorded


# While a clip plays, each next frame waits until ``due`` is called, instead of a tenth of a second: however long a busy
# machine needs to press a key, the clip is still where it was.
HOLD = """
  () => { const waiting = []; window.due = () => waiting.splice(0).forEach((show) => show());
          window.setTimeout = (show) => waiting.push(show); }
"""


def test_it_plays_to_the_end(page: Any) -> None:
    opened(page, 1)
    page.evaluate("window.said = []; new MutationObserver(() => said.push(document.getElementById('play').textContent))"
                  ".observe(document.getElementById('play'), {childList: true})")  # fmt: skip
    assert page.evaluate("document.activeElement.id") == "plot"
    page.locator("#play").click()
    at_frame(page, 11)
    sync_api.expect(page.locator("#play")).to_have_text("Play")
    assert page.evaluate("said") == ["Pause", "Play"]


def test_it_can_be_stopped_while_it_plays(page: Any) -> None:
    opened(page, 1)
    page.evaluate(HOLD)
    play = page.locator("#play")
    page.keyboard.press("Space")
    sync_api.expect(play).to_have_text("Pause")
    page.evaluate("due()")
    page.wait_for_selector("#moment:not([data-frame='0'])")
    reached = page.locator("#moment").get_attribute("data-frame")
    page.keyboard.press("Space")
    sync_api.expect(play).to_have_text("Play")
    page.evaluate("due()")
    page.wait_for_timeout(300)
    assert page.locator("#moment").get_attribute("data-frame") == reached
    page.locator("#plot").focus()
    page.keyboard.press("Home")
    at_frame(page, 0)
    page.keyboard.press("Space")
    sync_api.expect(play).to_have_text("Pause")
    page.keyboard.press("Escape")  # closes, and nothing opens it again
    page.evaluate("due()")
    page.wait_for_timeout(300)
    assert page.locator("dialog[open]").count() == 0


def test_the_plot_on_the_sheet_opens_its_clip_at_that_time(page: Any) -> None:
    box = page.locator(".card .curves").nth(1).bounding_box()
    page.mouse.click(box["x"] + 8.5 / 12 * box["width"], box["y"] + 40)
    page.wait_for_selector("dialog[open]")
    at_frame(page, 8)
    assert page.locator("#title").inner_text() == "b.mkv"
    assert '"path": "b.mkv"' in page.locator("#clip-record").text_content()
    page.locator("#before").click()
    at_frame(page, 0)
    assert page.locator("#title").inner_text() == NAME
    assert page.locator("#clip-record").text_content().count(NAME) >= 1


def test_regions_are_outlined_and_their_names_are_text(page: Any) -> None:
    opened(page)
    assert page.locator("#regions").inner_text().startswith("<b>part</b>: ")
    assert page.locator("dialog b").filter(has_text="part").count() == 0
    assert page.locator("img[src=x]").count() == 0
    light = page.evaluate(
        "() => { const c = document.getElementById('marks'), t = c.getContext('2d'); "
        "return Array.from(t.getImageData(Math.round(c.width * 14 / 48), 0, 1, c.height).data); }"
    )
    assert any(light)  # the line of the region's upper edge, from 4 to 24 of 48 pixels


def test_it_fits_a_phone(page: Any) -> None:
    page.set_viewport_size({"width": 360, "height": 640})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    opened(page)
    assert page.evaluate("document.getElementById('viewer').scrollWidth") <= 360


def test_without_a_script_frame_plot_and_equation_can_be_read(browser: Any, folder: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto((folder / "r.html").as_uri())
    for kind in (".frame img", ".curves", ".strip img"):
        assert tab.locator(kind).first.is_visible()
    assert tab.locator(".said").first.is_visible()
    assert "First frame: cat, p " in tab.locator(".said").first.inner_text()
    context.close()
