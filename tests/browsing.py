"""Pages in a real browser without a window: any message on the console, any error, and any request fails a test."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import program
import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")

BROWSER = os.environ.get("CODA_TEST_BROWSER") or shutil.which("chromium") or shutil.which("google-chrome")
# A page that is drawn works from then on as on a busy machine: what it waits for comes late. A test that looks before
# the page has done what it was asked for fails each time, and not only where the processor has much to do.
LATE = """
  const { setTimeout } = window;  // whatever a test makes of it
  const late = (promise) => document.documentElement.dataset.painted !== "all" ? promise
    : promise.then((value) => new Promise((resume) => setTimeout(() => resume(value), 60)));
  for (const [kind, name] of [[HTMLImageElement, "decode"], [Response, "arrayBuffer"]]) {
    const plain = kind.prototype[name];
    kind.prototype[name] = function () { return late(plain.call(this)); };
  }
"""
PATIENCE = 1000 * program.PATIENCE  # milliseconds for the browser, and for all that a page does
sync_api.expect.set_options(timeout=PATIENCE)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="needs Chromium; CODA_TEST_BROWSER names it")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A browser for all tests of a file."""
    with sync_api.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"], timeout=PATIENCE)
        yield chromium
        chromium.close()


@contextmanager
def watched(browser: Any, path: Path, *, ready: str, within: Path | None = None) -> Iterator[Any]:
    """Open a file and wait for ``ready``. Nothing may be said, and only itself asked for, or files below ``within``."""
    context = browser.new_context(viewport={"width": 1100, "height": 900})
    context.set_default_timeout(PATIENCE)
    context.add_init_script(LATE)
    tab, heard = context.new_page(), list[str]()
    allowed = ("data:", f"{within.as_uri()}/" if within else path.as_uri())
    tab.on("console", lambda message: heard.append(message.text))
    tab.on("pageerror", lambda error: heard.append(str(error)))
    tab.on("dialog", lambda dialog: (heard.append("a dialog"), dialog.dismiss()))
    tab.on("request", lambda r: None if r.url.startswith(allowed) else heard.append(r.url))
    tab.goto(path.as_uri())
    tab.wait_for_selector(ready, state="attached")  # not a function: the page's policy allows no eval
    yield tab
    assert heard == []
    context.close()


def dataset(element: Any) -> dict[str, str]:
    """The numbers of a readout, in full."""
    found: dict[str, str] = element.evaluate("element => ({...element.dataset})")
    return found
