"""``coda demo`` in a real browser without a window, with real uploads. Without Gradio, it is skipped."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import program
import pytest
from browsing import PATIENCE, browser, dataset, needs_browser
from program import moving, photo

from coda_cli.schema.pictures import from_json

__all__ = ["browser"]  # a fixture
pytestmark = [needs_browser, pytest.mark.skipif(find_spec("gradio") is None, reason="needs Gradio")]


class Running(NamedTuple):
    """A page that is served: its address, its process, and the folder that holds its temporary files."""

    address: str
    child: program.Child
    folder: Path

    @property
    def kept(self) -> list[str]:
        """The files of visitors: all that have a content."""
        return [path.name for path in self.folder.glob("coda-demo-*/**/*") if path.is_file() and path.stat().st_size]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A page with two networks that takes files of at most 1 MB."""
    folder = tmp_path_factory.mktemp("temporary")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder))
        options = ("-m", "cifar10", "-m", "imagenette", "--port", "0", "--upload-limit", "1", "-q")
        with program.started("demo", *options, cwd=folder.parent) as child:
            assert child.stdout
            yield Running(child.stdout.readline().decode().strip(), child, folder)


@pytest.fixture
def tab(browser: Any, demo: Running) -> Iterator[Any]:
    """The page as a visitor sees it; nothing may be asked of any other address."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    tab, wrong = context.new_page(), list[str]()
    tab.set_default_timeout(PATIENCE)
    own = (demo.address, "data:", "blob:")
    tab.on("request", lambda r: None if r.url.startswith(own) else wrong.append(r.url))
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("dialog", lambda dialog: (wrong.append("a dialog"), dialog.dismiss()))
    tab.goto(demo.address)
    tab.wait_for_selector("input[type=file]", state="attached")
    yield tab
    context.close()
    assert wrong == []


def send(tab: Any, path: Path) -> None:
    """Drop a file, in the place of one that is there."""
    if tab.locator("button[aria-label='Clear']").count():
        tab.locator("button[aria-label='Clear']").click()
    tab.locator("input[type=file]").first.set_input_files(path)


def said(tab: Any, pattern: str) -> str:
    """Wait for a line about the upload that fits a pattern; gives the whole."""
    line = tab.locator(".coda-said").filter(has_text=re.compile(pattern)).first
    line.wait_for()
    text: str = line.inner_text()
    return text


def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds."""
    end = time.monotonic() + program.PATIENCE
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.1)


def download(tab: Any, ending: str) -> bytes:
    """The content of a file that is offered."""
    address = tab.locator(f"a[download$='{ending}']").last.get_attribute("href")  # the upload is offered, too
    content: bytes = tab.request.get(address).body()
    return content


def test_a_picture_is_dropped_read_and_downloaded_and_another_class_chosen(
    tab: Any, demo: Running, tmp_path: Path
) -> None:
    send(tab, photo(tmp_path / "a picture.png"))
    first = said(tab, "residual").split(",")[0]
    report = tab.frame_locator("iframe.coda-report")
    report.locator("dialog[open]").wait_for()
    report.locator("#stage").hover()
    report.locator("#pixel[data-value]").wait_for()
    assert re.match(r"Pixel \d+, \d+: [+−]?[\d.e−]+ logit", report.locator("#pixel").inner_text())
    record = from_json(download(tab, ".json").decode())
    assert record.source.path == "a picture.png"
    assert record.explained[0].name == first
    pixel, arrays = dataset(report.locator("#pixel")), download(tab, ".npz")
    assert float(pixel["off"]) >= 0
    assert arrays.startswith(b"PK")
    assert download(tab, ".overlay.png").startswith(b"\x89PNG")

    tab.get_by_label("Network").click()
    tab.get_by_role("option", name="imagenette").click()
    tab.get_by_label("Classes").click()
    tab.get_by_role("option", name="church").click()
    tab.get_by_role("button", name="Explain").click()
    said(tab, "^church, ")
    assert len(demo.kept) == 6  # the upload and five files about it: the answer before is gone


def test_a_clip_is_dropped_and_its_frames_are_read(tab: Any, tmp_path: Path) -> None:
    send(tab, moving(tmp_path / "walk.gif"))
    said(tab, "3 frames")
    report = tab.frame_locator("iframe.coda-report")
    report.locator("dialog[open]").wait_for()
    assert report.locator("#film").is_visible()
    assert b"ftyp" in download(tab, ".mp4")[:16]
    assert download(tab, ".gif").startswith(b"GIF8")
    *_, summary = download(tab, ".jsonl").decode().splitlines()
    assert json.loads(summary)["schema"] == "coda.clip"


def test_what_cannot_be_taken_is_a_sentence_and_the_page_goes_on(tab: Any, demo: Running, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    send(tab, tmp_path / "notes.txt")
    assert said(tab, "^notes.txt: ").count("\n") == 0
    assert tab.locator("iframe.coda-report").count() == 0
    large = {"files": {"name": "a.png", "mimeType": "image/png", "buffer": os.urandom(1_200_000)}}
    assert tab.request.post(f"{demo.address}/gradio_api/upload", multipart=large).status == 413
    assert tab.request.get(f"{demo.address}/gradio_api/file=/etc/hostname").status == 403
    assert tab.request.get(f"{demo.address}/answers/..%2f/report.html").status == 404
    send(tab, photo(tmp_path / "<img src=x onerror=alert(1)>.png"))
    said(tab, "residual")
    tab.frame_locator("iframe.coda-report").locator("dialog[open]").wait_for()


def test_nothing_is_left_of_visitors_who_leave_and_nothing_at_all_after_ctrl_c(
    tab: Any, demo: Running, tmp_path: Path
) -> None:
    send(tab, photo(tmp_path / "a.png"))
    said(tab, "residual")
    tab.close()
    until(lambda: demo.kept == [])
    assert list(demo.folder.glob("coda-demo-*"))
    demo.child.send_signal(signal.SIGINT)
    program.finish(demo.child, 130)
    assert list(demo.folder.glob("coda-demo-*")) == []
