"""B-cosified networks as their formulas say, in plain torch: tensors under the authors' names, and nothing of coda's.

Each function gives the logits [B, classes], less the bias, of centred pictures n [B, 6, H, W]. ``hold`` is applied to
all that is a number once the input is known: ``Tensor.detach`` makes the gradient the dynamic weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

State = Mapping[str, Tensor]
Hold = Callable[[Tensor], Tensor]
IMAGENET = ((0.485, 0.456, 0.406, 0.515, 0.544, 0.594), (0.229, 0.224, 0.225) * 2)
CLIP = (
    (0.48145466, 0.4578275, 0.40821073, 0.51854534, 0.5421725, 0.59178927),
    (0.26862954, 0.26130258, 0.27577711) * 2,
)


def centred(x: Tensor, statistics: tuple[tuple[float, ...], tuple[float, ...]]) -> Tensor:
    mean, deviation = (torch.tensor(t, dtype=x.dtype)[None, :, None, None] for t in statistics)
    return (x - mean) / deviation


def conv(x: Tensor, w: Tensor, stride: int, padding: int, hold: Hold) -> Tensor:
    a = F.conv2d(x, w, None, stride, padding)
    n = (F.conv2d(x * x, torch.ones_like(w[:1]), None, stride, padding) + 1e-6).sqrt()
    return a * hold(a.abs() / n)


def linear(x: Tensor, w: Tensor, hold: Hold) -> Tensor:
    a = x @ w.t()
    return a * hold(a.abs() / ((x * x).sum(-1, keepdim=True).sqrt() + 1e-12))


def bn(x: Tensor, W: State, key: str) -> Tensor:
    return x * (W[key + ".weight"] / (W[key + ".running_var"] + 1e-5).sqrt())[:, None, None]


def norm(x: Tensor, weight: Tensor, axes: tuple[int, ...], hold: Hold) -> Tensor:
    c = x - x.mean(axes, keepdim=True)
    return c / hold((c * c).mean(axes, keepdim=True) + 1e-5).sqrt() * weight


def resnet(W: State, n: Tensor, hold: Hold) -> Tensor:
    def unit(x: Tensor, place: str, i: int, stride: int = 1) -> Tensor:
        w = W[f"{place}conv{i}.linear.weight"]
        return bn(conv(x, w, stride, w.shape[-1] // 2, hold), W, f"{place}bn{i}")

    y = F.avg_pool2d(F.relu(unit(n, "", 1, 2)), 3, 2, 1)
    for key in [k for k in W if k.startswith("layer") and k.endswith(".conv1.linear.weight")]:
        block = key.removesuffix("conv1.linear.weight")
        stride = 2 if block.endswith(".0.") and block[5] != "1" else 1
        x, last = y, 3 if block + "conv3.linear.weight" in W else 2
        for i in range(1, last + 1):
            y = unit(y, block, i, stride if i == last - 1 else 1)  # basic: the first; bottleneck: the 3 x 3
            y = F.relu(y) if i < last else y
        if block + "downsample.0.linear.weight" in W:
            x = bn(conv(x, W[block + "downsample.0.linear.weight"], stride, 0, hold), W, block + "downsample.1")
        y = F.relu(y + x)
    return conv(y, W["fc.linear.weight"], 1, 0, hold).mean((2, 3))


def densenet(W: State, n: Tensor, hold: Hold) -> Tensor:
    y = F.relu(bn(conv(n, W["features.0.linear.weight"], 2, 3, hold), W, "features.1"))
    y = F.avg_pool2d(y, 3, 2, 1)
    for i in range(4, 11):
        if i % 2:  # between two blocks
            y = F.relu(bn(y, W, f"features.{i}.0"))
            y = F.avg_pool2d(conv(y, W[f"features.{i}.2.linear.weight"], 1, 0, hold), 2)
            continue
        for key in [k for k in W if k.startswith(f"features.{i}.") and k.endswith(".conv1.linear.weight")]:
            place = key.removesuffix("conv1.linear.weight")
            z = conv(F.relu(bn(y, W, place + "norm1")), W[key], 1, 0, hold)
            z = conv(F.relu(bn(z, W, place + "norm2")), W[place + "conv2.linear.weight"], 1, 1, hold)
            y = torch.cat([y, z], 1)
    return conv(F.relu(bn(y, W, "features.11")), W["classifier.linear.weight"], 1, 0, hold).mean((2, 3))


def gelu(x: Tensor, hold: Hold) -> Tensor:
    return x * hold(torch.special.ndtr(x))


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int, hold: Hold) -> Tensor:
    q, k, v = (t.unflatten(-1, (heads, 64)).transpose(1, 2) for t in (hold(q), hold(k), v))
    return ((q @ k.transpose(-1, -2) / 8).softmax(-1) @ v).transpose(1, 2).flatten(2)


def vit(W: State, n: Tensor, hold: Hold, positions: Tensor) -> Tensor:
    stem = [k for k in W if "conv_stem" in k and k.endswith(".linear.weight")]
    if stem:
        y = n
        for key in stem:
            w, i = W[key], int(key.split(".")[2])
            y = conv(y, w, 2 if w.shape[0] > w.shape[1] else 1, 1, hold)
            y = norm(y, W[f"to_patch_embedding.conv_stem.{i + 1}.weight"][:, None, None], (1, 2, 3), hold)
            y = gelu(y, hold)
        y = y.flatten(2).transpose(1, 2)
    else:  # entries of a patch by row, column, channel
        y = n.unfold(2, 16, 16).unfold(3, 16, 16).permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)
    y = linear(y, W["to_patch_embedding.linear.linear.weight"], hold) + positions
    heads = y.shape[-1] // 64
    for place in [k.removesuffix("attn.norm.weight") for k in W if k.endswith("attn.norm.weight")]:
        z = norm(y, W[place + "attn.norm.weight"], (-1,), hold) @ W[place + "attn.to_qkv.weight"].t()
        z = attention(*z.chunk(3, -1), heads, hold)
        y = y + linear(z, W[place + "attn.to_out.linear.weight"], hold)
        z = norm(y, W[place + "ff.net.norm.weight"], (-1,), hold)
        z = gelu(linear(z, W[place + "ff.net.linear1.linear.weight"], hold), hold)
        y = y + linear(z, W[place + "ff.net.linear2.linear.weight"], hold)
    y = norm(y, W["linear_head.norm.weight"], (-1,), hold)
    return linear(y, W["linear_head.linear.linear.weight"], hold).mean(1)  # the mean comes last


def clip(W: State, n: Tensor, hold: Hold, text: Tensor) -> Tensor:
    y = n
    for i in (1, 2, 3):
        y = F.relu(bn(conv(y, W[f"conv{i}.linear.weight"], 2 if i == 1 else 1, 1, hold), W, f"bn{i}"))
    y = F.avg_pool2d(y, 2)
    for key in [k for k in W if k.startswith("layer") and k.endswith(".conv1.linear.weight")]:
        block = key.removesuffix("conv1.linear.weight")
        x, halved = y, block.endswith(".0.") and block[5] != "1"
        for i in (1, 2, 3):
            if i == 3 and halved:
                y = F.avg_pool2d(y, 2)
            w = W[f"{block}conv{i}.linear.weight"]
            y = bn(conv(y, w, 1, w.shape[-1] // 2, hold), W, f"{block}bn{i}")
            y = F.relu(y) if i < 3 else y
        if block + "downsample.1.linear.weight" in W:
            x = F.avg_pool2d(x, 2) if halved else x
            x = bn(conv(x, W[block + "downsample.1.linear.weight"], 1, 0, hold), W, block + "downsample.2")
        y = F.relu(y + x)
    y = y.flatten(2).transpose(1, 2)
    y = torch.cat([y.mean(1, keepdim=True), y], 1)
    q, k, v = (t @ W[f"attnpool.{name}_proj.weight"].t() for name, t in (("q", y[:, :1]), ("k", y), ("v", y)))
    e = attention(q, k, v, y.shape[-1] // 64, hold)[:, 0] @ W["attnpool.c_proj.linear.weight"].t()
    return e @ text.t() / hold(e.norm(dim=1, keepdim=True))
