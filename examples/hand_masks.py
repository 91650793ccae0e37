"""Holds the sums inside regions against plain numpy, on twenty photographs with masks that were drawn by hand.

python examples/hand_masks.py DATA out/                 DATA: the folder with imagenet-one-each-160.tar
python examples/hand_masks.py --check out/run out/masks  the same check of records that are there

``hand_masks.json`` has the outlines, relative to the pictures' sides, and no picture. The pictures are unpacked, the
outlines filled, and the command line program explains and summarises them. Then every number of a region is computed
again from the map that the run kept, by the few lines of numpy below and nothing of coda.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

OUTLINES = Path(__file__).with_name("hand_masks.json")
Map = NDArray[np.float64]


@dataclass(frozen=True)
class Checked:
    """One record with one region, and the same numbers by numpy.

    Attributes:
        name: of the picture.
        predicted: its class, as the network says.
        share: of the positive evidence inside the mask, by numpy, in [0, 1].
        area: share of the view that the mask covers.
        difference: the largest between a sum of the record and that of numpy, as a part of the map's magnitudes.
    """

    name: str
    predicted: str
    share: float
    area: float
    difference: float


def overlaps(start: float, end: float, pixels: int, cells: int, size: float) -> Map:
    """Say which part of each of ``pixels`` between start and end lies in each of ``cells`` that make up a side.

    Args:
        start: where the first pixel begins, in the picture's pixels.
        end: where the last pixel ends.
        pixels: how many there are.
        cells: pixels of the mask along this side.
        size: of the picture along this side.

    Returns:
        The parts, in [0, 1], [pixels, cells].
    """
    edges, borders = np.linspace(start, end, pixels + 1), np.linspace(0, size, cells + 1)
    lower = np.maximum(edges[:-1, None], borders[None, :-1])
    upper = np.minimum(edges[1:, None], borders[None, 1:])
    parts: Map = np.maximum(upper - lower, 0) / ((end - start) / pixels)
    return parts


def check(record_file: Path, masks: Path) -> Checked:
    """Compute the numbers of a record's only region again, from the kept map and the mask.

    Args:
        record_file: a record of ``coda explain --mask --write npz,json``.
        masks: the folder with a mask of the picture's name.

    Returns:
        The numbers, and how far the record's are from them.
    """
    record: dict[str, Any] = json.loads(record_file.read_text("utf-8"))
    part, source = record["explained"][0], record["source"]
    (region,) = part["regions"]["regions"]
    with np.load(record_file.with_suffix(".npz")) as kept:
        pixels, (x0, y0, x1, y1) = kept["pixels"][0].astype(np.float64), kept["box"].tolist()
    name = Path(source["path"]).stem
    mask = (np.asarray(Image.open(masks / f"{name}.png").convert("L")) > 0).astype(np.float64)
    rows = overlaps(y0, y1, pixels.shape[0], mask.shape[0], source["height"])
    columns = overlaps(x0, x1, pixels.shape[1], mask.shape[1], source["width"])
    covered = rows @ mask @ columns.T
    gain, loss, magnitude = np.maximum(pixels, 0), np.minimum(pixels, 0), np.abs(pixels).sum()
    pairs = [
        (region["positive"], (gain * covered).sum()),
        (region["negative"], (loss * covered).sum()),
        (part["regions"]["rest"]["positive"], (gain * (1 - covered)).sum()),
        (part["regions"]["rest"]["negative"], (loss * (1 - covered)).sum()),
    ]
    differences = [abs(said - by_numpy) / magnitude for said, by_numpy in pairs]
    differences += [abs(region["area"] - covered.mean())]
    share = float((gain * covered).sum() / gain.sum())
    return Checked(name, record["top"][0]["name"], share, float(covered.mean()), float(max(differences)))


def print_table(run: Path, masks: Path) -> None:
    """Print a line for every record of a run, and the largest difference.

    Args:
        run: the folder with the records.
        masks: the folder with the masks.
    """
    found = [check(path, masks) for path in sorted(run.glob("*.coda.json"))]
    print(f"{'picture':26}{'predicted':22}{'inside':>8}{'area':>8}{'ratio':>7}")
    for one in found:
        ratio = one.share / one.area
        print(f"{one.name[:25]:26}{one.predicted[:21]:22}{one.share:>8.1%}{one.area:>8.1%}{ratio:>7.2f}")
    inside, area = (float(np.mean([getattr(one, what) for one in found])) for what in ("share", "area"))
    print(f"{'mean':48}{inside:>8.1%}{area:>8.1%}{inside / area:>7.2f}")
    print(f"largest difference from numpy: {max(one.difference for one in found):.1e} of the magnitudes")


def prepare(data: Path, out: Path) -> None:
    """Unpack the pictures and write a mask for each.

    Args:
        data: the folder with the archive.
        out: gets ``pictures`` and ``masks``.
    """
    outlines = json.loads(OUTLINES.read_text("utf-8"))
    for folder in ("pictures", "masks"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    with tarfile.open(data / outlines["archive"]) as archive:
        for name, polygons in outlines["pictures"].items():
            stream = archive.extractfile(name)
            assert stream, name
            content = stream.read()
            (out / "pictures" / name).write_bytes(content)
            size = Image.open(io.BytesIO(content)).size
            mask = Image.new("L", size)
            for polygon in polygons:
                ImageDraw.Draw(mask).polygon([(x * size[0], y * size[1]) for x, y in polygon], fill=255)
            mask.save(out / "masks" / f"{Path(name).stem}.png")


def main() -> None:
    """Run the program on all pictures, and check what it wrote."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with the archive; with --check: of the records")
    parser.add_argument("out", type=Path, help="new folder for everything; with --check: of the masks")
    parser.add_argument("--check", action="store_true", help="only check records that are there")
    asked = parser.parse_args()
    if asked.check:
        print_table(asked.data, asked.out)
        return
    prepare(asked.data, asked.out)
    coda = [sys.executable, "-m", "coda_cli"]
    explain = ["explain", asked.out / "pictures", "--mask", asked.out / "masks", "--write", "npz,json"]
    subprocess.run([*coda, *map(str, explain), "-q", "-o", str(asked.out / "run")], check=True, stdout=sys.stderr)
    subprocess.run([*coda, "summary", str(asked.out / "run")], check=True)
    print()
    print_table(asked.out / "run", asked.out / "masks")


if __name__ == "__main__":
    main()
