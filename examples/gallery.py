"""Makes the pictures of the gallery and of the tutorial: runs the commands of their pages.

    python examples/gallery.py               docs/gallery.md and docs/tutorial.md
    python examples/gallery.py tutorial      one of them

A page says in a comment behind a picture which file of its commands the picture shows:

    ![What to see](images/tutorial/why.jpg)<!-- why/*.panel.png -->

The commands and the Python of a page run in their order in one folder, which holds examples/ and is thrown away.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = ("gallery", "tutorial")
WIDEST = 1000  # pixels of a picture on a page
SHOWN = re.compile(r"!\[[^\]]*\]\((images/[^)]+)\)<!-- (\S+) -->")
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def shown(page: str) -> Iterator[tuple[Path, str]]:
    """The pictures of a page: the file below docs/, and a pattern for the one file of the page's commands."""
    for picture, made in SHOWN.findall((DOCS / f"{page}.md").read_text("utf-8")):
        yield DOCS / picture, made


def the_one(folder: Path, pattern: str) -> Path:
    """The file of a pattern. Another number of files than one is an error."""
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise SystemExit(f"{len(found)} files are called {pattern}: {', '.join(map(str, found))}")
    return found[0]


def small(made: Path) -> Image.Image:
    """What is kept of a picture that a command made."""
    with Image.open(made) as picture:
        kept = picture.convert("RGB")
    kept.thumbnail((WIDEST, 10 * WIDEST))
    return kept


def run(page: str, folder: Path) -> None:
    """Run all that a page shows, in a folder."""
    (folder / "examples").symlink_to(ROOT / "examples")
    environment = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    for language, block in BLOCK.findall((DOCS / f"{page}.md").read_text("utf-8")):
        typed = 'coda() { "$PYTHON" -m coda_cli "$@"; }\n' + block
        command = [sys.executable, "-c", block] if language == "python" else ["bash", "-ec", typed]
        subprocess.run(command, cwd=folder, env=environment, check=True)


def main(*pages: str) -> None:
    """Make the pictures of pages, all of them by default."""
    for page in pages or PAGES:
        shutil.rmtree(DOCS / "images" / page, ignore_errors=True)
        (DOCS / "images" / page).mkdir(parents=True)
        with tempfile.TemporaryDirectory() as folder:
            run(page, Path(folder))
            for picture, pattern in shown(page):
                made = the_one(Path(folder), pattern)
                if picture.suffix == ".gif":
                    shutil.copy(made, picture)
                else:
                    small(made).save(picture, quality=85, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
