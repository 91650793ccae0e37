"""What the site has beside docs/: the README as a page, and no link to a file that is no page of it."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent
START = "start.md"  # the page that the README becomes
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the README as a page."""
    files.append(File.generated(config, START, content=(ROOT / "README.md").read_text("utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, files: Files, **_: object) -> str:
    """Lead links to the pages of the site, and pictures to themselves, at the size that they have.

    What is no page of it, such as a program, is named without a link.
    """
    folder = "" if page.file.src_uri == START else posixpath.dirname(f"docs/{page.file.src_uri}")
    return LINK.sub(lambda found: _link(found, folder, page.file.src_uri, files), markdown)


def _link(found: re.Match[str], folder: str, source: str, files: Files) -> str:
    """One link, as the page ``source`` of the site has it; ``folder`` is where its text lies in the source code."""
    picture, text, target, anchor = found.groups()
    if re.match(r"[a-z]+:", target):
        return found[0]
    path = posixpath.normpath(posixpath.join(folder, target))
    place = START if path == "README.md" else path.removeprefix("docs/")
    if (path == "README.md" or path.startswith("docs/")) and files.get_file_from_path(place):
        place = posixpath.relpath(place, posixpath.dirname(source) or ".")
        if picture:
            return f"[![{text}]({place})]({place})"
        if text in (path, target):  # the pages of the site are no files
            text = text.removeprefix("docs/").removesuffix(".md")
        return f"[{text}]({place}{anchor or ''})"
    return text if text.startswith("`") or text == path else f"{text} (`{path}`)"
