"""A logit shared out over the pixels of a picture, with coda.

    python examples/decompose.py [PICTURE]

decompose_by_hand.py prints the same numbers without coda.
"""

from __future__ import annotations

import sys
from pathlib import Path

import coda_cli

picture = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "pictures" / "golf-ball.png"
net = coda_cli.load("imagenette")
explanation = coda_cli.explain(picture, net)

d = explanation.decomposition
pixels = explanation.maps[0]  # [128, 128], the share of every pixel in the logit
y, x = divmod(int(pixels.argmax()), pixels.shape[1])
print(f"class     {net.checkpoint.classes[explanation.targets[0].index]}")
print(f"logit     {float(d.logit[0, 0]):.4f}")
print(f"bias      {float(d.bias[0, 0]):.4f}")
print(f"for       {float(pixels[pixels > 0].sum()):.4f}")
print(f"against   {float(pixels[pixels < 0].sum()):.4f}")
print(f"strongest {float(pixels.max()):.4f} at row {y}, column {x}")
print(f"exact     {bool(d.exact[0, 0])}")
