"""Draws a contact sheet: pictures, and under each the evidence for its predicted class.

    python examples/sheet.py examples/pictures sheet.jpg

Every map has its own scale, as in coda explain.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

import coda_cli
from coda_cli.media.view import paste_back
from coda_cli.render.colour import robust_scale
from coda_cli.render.overlay import overlay

TILE, GAP = 256, 8


def main(folder: str, output: str) -> None:
    net = coda_cli.load("imagenette")
    columns = []
    for path in sorted(Path(folder).glob("*.png")):
        explanation = coda_cli.explain(path, net)
        rgb = np.asarray(Image.open(path).convert("RGB"))
        values = explanation.maps[0]
        placed = paste_back(values, explanation.view, (rgb.shape[1], rgb.shape[0]))
        drawn = overlay(rgb, placed, robust_scale(values, 99.5))
        columns.append(np.concatenate([tile(rgb), tile(drawn)]))
    Image.fromarray(np.concatenate(columns, 1)[:-GAP, :-GAP]).save(output, quality=90)


def tile(rgb: np.ndarray) -> np.ndarray:
    """A picture's middle square, TILE pixels wide, with a white gap to its right and below."""
    side = min(rgb.shape[:2])
    y, x = (rgb.shape[0] - side) // 2, (rgb.shape[1] - side) // 2
    square = Image.fromarray(rgb[y : y + side, x : x + side]).resize((TILE, TILE), Image.Resampling.LANCZOS)
    paper = np.full((TILE + GAP, TILE + GAP, 3), 255, np.uint8)
    paper[:TILE, :TILE] = square
    return paper


if __name__ == "__main__":
    main(*sys.argv[1:])
