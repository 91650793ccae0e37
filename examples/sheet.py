"""Draws a contact sheet: pictures, and under each the evidence for its predicted class.

    python examples/sheet.py examples/pictures sheet.jpg
    python examples/sheet.py examples/pictures sheet.jpg efficientnet-lite0 run/ imagenette

Several networks have a row each, with their names and what each of them says of each picture. Full colour is as in
coda explain: the network's own, or where it states none, found for each map.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

import coda_cli
from coda_cli.media.view import paste_back
from coda_cli.render import text
from coda_cli.render.overlay import INK, overlay

TILE, GAP = 256, 8
LETTERS, LINE = 18, 32  # pixels of the letters, and of the line that they stand in
APART = 24  # pixels more above a network's name, which else seems to belong to the row above it


def main(folder: str, output: str, *networks: str) -> None:
    paths = sorted(Path(folder).glob("*.png"))
    rows = [np.concatenate([tile(np.asarray(Image.open(path).convert("RGB"))) for path in paths], 1)]
    for name in networks or ("imagenet",):
        net = coda_cli.load(name)
        tiles, said = zip(*(explained(path, net) for path in paths), strict=True)
        rows.append(np.concatenate(tiles, 1))
        if len(networks) > 1:
            heading = line(f"{name}: exact down to {net.cut or 'the pixels'}", len(paths), APART)
            rows[-1:] = [heading, rows[-1], np.concatenate([line(words) for words in said], 1)]
    Image.fromarray(np.concatenate(rows)[:-GAP, :-GAP]).save(output, quality=90)


def explained(path: Path, net: coda_cli.Net) -> tuple[np.ndarray, str]:
    """The tile of a picture's overlay, and what the network says of the picture."""
    explanation = coda_cli.explain(path, net)
    rgb, values = np.asarray(Image.open(path).convert("RGB")), explanation.drawn_map(0)
    placed = paste_back(values, explanation.view, (rgb.shape[1], rgb.shape[0]))
    part = explanation.record().explained[0]
    return tile(overlay(rgb, placed, part.scale)), f"{part.name}, p {part.probability:.2f}"


def tile(rgb: np.ndarray) -> np.ndarray:
    """A picture's middle square, TILE pixels wide, with a white gap to its right and below."""
    side = min(rgb.shape[:2])
    y, x = (rgb.shape[0] - side) // 2, (rgb.shape[1] - side) // 2
    square = Image.fromarray(rgb[y : y + side, x : x + side]).resize((TILE, TILE), Image.Resampling.LANCZOS)
    paper = np.full((TILE + GAP, TILE + GAP, 3), 255, np.uint8)
    paper[:TILE, :TILE] = square
    return paper


def line(words: str, tiles: int = 1, above: int = 0) -> np.ndarray:
    """Words on white, as wide as some tiles, with so many pixels more above them."""
    paper = np.full((above + LINE, tiles * (TILE + GAP), 3), 255, np.uint8)
    text.draw(paper, words, (0, above + 4), LETTERS, INK)
    return paper


if __name__ == "__main__":
    main(*sys.argv[1:])
