"""The numbers of decompose.py from the definition, without coda: torch, Pillow and the weights file.

    python examples/decompose_by_hand.py [PICTURE]

Every layer of a CoDA-Net computes, for each patch x, z = V x, then for each output o a weight vector
w_o = U_o z + b_o and y_o = w_o . x times |w_o| / (1 + |w_o|^2). Held at the values of this picture, the weights make
the network a linear map; its row for a class, multiplied with the input, is the contribution map. Before a layer with a
stride stands a fixed low-pass filter, which is linear, too.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import safe_open

here = Path(__file__).parent
picture = Path(sys.argv[1]) if len(sys.argv) > 1 else here / "pictures" / "golf-ball.png"
with safe_open(here.parent / "weights" / "imagenette.safetensors", "pt") as file:
    description = json.loads(file.metadata()["coda"])
    weights = {key: file.get_tensor(key).double() for key in file.keys()}
arguments = description["arguments"]

# The picture as the network sees it: shorter side scaled, centre crop, then r g b and 1-r 1-g 1-b.
image = Image.open(picture).convert("RGB")
size = description["preprocessing"]["crop"]
short = min(image.size)
image = image.resize((int(size * image.width / short), int(size * image.height / short)), Image.Resampling.BILINEAR)
left, top = round((image.width - size) / 2), round((image.height - size) / 2)
image = image.crop((left, top, left + size, top + size))
rgb = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].double() / 255
x = torch.cat([rgb, 1 - rgb], 1).requires_grad_()

a, i = x, 0  # i counts the network's modules, of which a filter is one
for stride, rank, outputs in zip(arguments["strides"], arguments["ranks"], arguments["channels"][1:]):
    if arguments.get("antialias") and stride > 1:
        taps = torch.tensor([0.25, 0.5, 0.25], dtype=a.dtype)
        filters = torch.outer(taps, taps).expand(a.shape[1], 1, 3, 3)
        a, i = F.conv2d(a, filters, padding=1, groups=a.shape[1]), i + 1
    V, U, b = (weights[f"layers.{i}.{name}"] for name in "VUb")
    kernel, i = V.shape[-1], i + 1
    patches = F.unfold(a, kernel, padding=(kernel - 1) // 2, stride=stride)[0].T  # [positions, d]
    with torch.no_grad():  # held: what follows is a number for this picture, not a function of it
        z = patches @ V.flatten(1).T
        w = torch.einsum("ord,pr->pod", U.reshape(outputs, rank, -1), z) + b.flatten(1)  # [positions, outputs, d]
        n = w.norm(dim=2)
        w = w * (n / (1 + n * n))[..., None]
    y = torch.einsum("pod,pd->po", w, patches)
    side = (a.shape[-1] + 2 * ((kernel - 1) // 2) - kernel) // stride + 1
    a = y.T.reshape(1, outputs, side, side)

logits = a.sum((2, 3))[0] / arguments["temperature"] + arguments["bias"]
best = int(logits.argmax())
(row,) = torch.autograd.grad(logits[best], x)
pixels = (x * row).detach()[0].sum(0)
y, x = divmod(int(pixels.argmax()), size)
print(f"class     {description['classes'][best]}")
print(f"logit     {logits[best]:.4f}")
print(f"bias      {arguments['bias']:.4f}")
print(f"for       {pixels[pixels > 0].sum():.4f}")
print(f"against   {pixels[pixels < 0].sum():.4f}")
print(f"strongest {pixels.max():.4f} at row {y}, column {x}")
print(f"exact     {abs(float(logits[best].detach() - pixels.sum()) - arguments['bias']) < 1e-10}")
