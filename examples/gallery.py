"""Makes the gallery of the documentation: runs the commands below and writes docs/gallery.md with their pictures.

    python examples/gallery.py

Run it in the folder of the source code. Commands can be left out by the names of their pictures:

    python examples/gallery.py church layers
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "gallery.md"
PICTURES = ROOT / "docs" / "images" / "gallery"
WIDEST = 1000  # pixels of a picture on the page
INTRODUCTION = """# Gallery

Each picture here was made by the command below it, in the folder of the source code. `python examples/gallery.py` makes
them all again. What they show is rendered and free to use.
"""


@dataclass(frozen=True)
class Shown:
    """One picture of the gallery.

    Attributes:
        name: of the picture's file.
        title: the heading above it.
        words: what to see in it.
        command: what makes it; all it writes goes to a folder OUT.
        made: a pattern for the one file that is shown.
    """

    name: str
    title: str
    words: str
    command: str
    made: str


GALLERY = (
    Shown(
        "church",
        "A picture, its overlay and its map",
        "Red speaks for church, blue against it. Most of it lies on the tower; sky and meadow have nearly none.",
        "coda explain examples/pictures/church.png --write panel -o OUT",
        "*.panel.png",
    ),
    Shown(
        "pixels",
        "Exact down to the pixels",
        "A CoDA-Net of ten classes has no conventional part, so its map has a value for every pixel of its view.",
        "coda explain examples/pictures/parachute.png -m imagenette --write panel -o OUT",
        "*.panel.png",
    ),
    Shown(
        "difference",
        "Why this class and not that one",
        "The exact difference of two logits: what speaks for garbage truck is red, what speaks for gas pump is blue.",
        "coda explain examples/pictures/garbage-truck.png -m imagenette --class 'garbage truck' --versus 'gas pump' "
        "--write panel -o OUT",
        "*.panel.png",
    ),
    Shown(
        "regions",
        "How much of the evidence lies on the object",
        "The mask of the object is outlined. The share of the evidence inside of it is a sum, with a residual.",
        "coda explain examples/pictures/golf-ball.png --mask examples/masks/golf-ball.png --write overlay -o OUT",
        "*.overlay.png",
    ),
    Shown(
        "layers",
        "The same logit at every layer",
        "From the last layer down to the pixels, each map and its constants add up to the same logit.",
        "coda explain examples/pictures/golf-ball.png -m imagenette --layer all --write layers -o OUT",
        "*.layers.png",
    ),
    Shown(
        "neurons",
        "What a channel inside the network saw",
        "The channel of a layer that has the most of the logit, split over the pixels.",
        "coda explain examples/pictures/church.png -m imagenette --neurons 3:top:1 --write overlay -o OUT",
        "*-layers-*.overlay.png",
    ),
    Shown(
        "methods",
        "Beside another method",
        "The first map adds up to the logit. Occlusion hides a window at a time, and its numbers are on another scale.",
        "coda compare examples/pictures/cassette-player.png -m imagenette --method ours "
        "--method occlusion:window=16,stride=8 -o OUT",
        "*.compare.png",
    ),
    Shown(
        "networks",
        "Two networks, one picture",
        "Both see the same ship; the last map is what changed between them.",
        "coda compare examples/cifar10/pictures/ship.png -m cifar10 -m cifar10-bcos --class ship -o OUT",
        "*.compare.png",
    ),
)


def page() -> str:
    """The text of the page."""
    parts = [INTRODUCTION]
    for shown in GALLERY:
        command = shown.command.replace("OUT", f"{shown.name}/")
        parts.append(
            f"## {shown.title}\n\n{shown.words}\n\n![{shown.title}](images/gallery/{shown.name}.jpg)\n\n"
            f"```sh\n{command}\n```\n"
        )
    return "\n".join(parts)


def make(shown: Shown) -> None:
    """Run the command of a picture and keep what it made, as JPEG."""
    with tempfile.TemporaryDirectory() as folder:
        words = [folder if word == "OUT" else word for word in shlex.split(shown.command)]
        subprocess.run([sys.executable, "-m", "coda_cli", *words[1:], "-q"], cwd=ROOT, check=True)
        made = sorted(Path(folder).glob(shown.made))
        if len(made) != 1:
            raise SystemExit(f"{shown.name}: {len(made)} files are called {shown.made}: {list(Path(folder).iterdir())}")
        picture = Image.open(made[0]).convert("RGB")
        picture.thumbnail((WIDEST, 10 * WIDEST))
        picture.save(PICTURES / f"{shown.name}.jpg", quality=85, optimize=True)


def main(*without: str) -> None:
    """Make the pictures and the page."""
    if not without:
        shutil.rmtree(PICTURES, ignore_errors=True)
    PICTURES.mkdir(parents=True, exist_ok=True)
    for shown in GALLERY:
        if shown.name not in without:
            make(shown)
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
