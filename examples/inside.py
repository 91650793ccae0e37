"""Which share of the positive evidence for the predicted class lies on the object, for every example picture.

    python examples/inside.py

Contributions add up, so the share is exact: the sum over the mask divided by the sum over the picture. The share of the
picture that the object covers is what evidence spread evenly would give.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

import coda_cli

here = Path(__file__).parent
net = coda_cli.load("imagenet")
print(f"{'picture':17}{'class':17}{'p':>6}{'on the object':>15}{'object covers':>15}")
for path in sorted((here / "pictures").glob("*.png")):
    explanation = coda_cli.explain(path, net)
    pixels = np.maximum(explanation.maps[0].astype(float), 0)
    # The share of every pixel of the map that the object covers: the mask where the network saw the picture.
    mask = Image.open(here / "masks" / path.name).convert("L")
    mask = mask.resize(pixels.shape[::-1], Image.Resampling.BOX, box=explanation.view.box)
    covered = np.asarray(mask, float) / 255
    target = explanation.targets[0]
    probability = 1 / (1 + np.exp(-float(explanation.decomposition.logit[0, 0])))
    print(
        f"{path.stem:17}{net.checkpoint.classes[target.index]:17}{probability:>6.3f}"
        f"{(pixels * covered).sum() / pixels.sum():>15.1%}{covered.mean():>15.1%}"
    )
