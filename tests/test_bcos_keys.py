"""The keys of the published B-cos files, as listed by hand: every key of ours is one of these, and all occur."""

from __future__ import annotations

import re

import pytest
import torch

from coda_cli.checkpoints.published_bcos import BCOS
from coda_cli.core.networks import build

W = r"\.linear\.weight"
NORM = r"(weight|running_mean|running_var|num_batches_tracked)"

# Patterns of whole keys, without the "0." before those of version 1 and the transformers.
RESNET = [rf"(conv1|fc){W}", rf"bn1\.{NORM}", rf"layer[1-4]\.\d+\.conv[123]{W}", rf"layer[1-4]\.\d+\.bn[123]\.{NORM}",
          rf"layer[1-4]\.0\.downsample\.0{W}", rf"layer[1-4]\.0\.downsample\.1\.{NORM}"]  # fmt: skip
DENSENET = [rf"features\.conv0{W}", rf"features\.norm[05]\.{NORM}",
            rf"features\.denseblock[1-4]\.denselayer\d+\.norm[12]\.{NORM}",
            rf"features\.denseblock[1-4]\.denselayer\d+\.conv[12]{W}", rf"features\.transition[123]\.norm\.{NORM}",
            rf"features\.transition[123]\.conv{W}", rf"classifier{W}"]  # fmt: skip


def convnext(norm: str) -> list[str]:
    return [rf"features\.0{W}", rf"features\.1\.{norm}", r"features\.[2468]\.\d+\.layer_scale",
            rf"features\.[2468]\.\d+\.block\.[023]{W}", rf"features\.[2468]\.\d+\.block\.1\.{norm}",
            rf"features\.[357]\.0\.{norm}", rf"features\.[357]\.1{W}", rf"classifier\.0\.{norm}",
            rf"classifier\.1{W}"]  # fmt: skip


def transformer(embedding: list[str]) -> list[str]:
    layer = r"transformer\.encoder_\d+\."
    return [*embedding, rf"to_patch_embedding\.linear{W}", rf"{layer}attn\.norm\.weight",
            rf"{layer}attn\.to_qkv\.weight", rf"{layer}attn\.to_out{W}",
            rf"{layer}ff\.net\.norm\.weight", rf"{layer}ff\.net\.linear[12]{W}",
            r"linear_head\.norm\.weight", rf"linear_head\.linear{W}"]  # fmt: skip


STEM = [
    rf"to_patch_embedding\.conv_stem\.(0|3|6|9|12|15){W}",
    r"to_patch_embedding\.conv_stem\.(1|4|7|10|13|16)\.weight",
]
# Version 1 has neither norms nor biases.
V1 = {
    "9L-M2": [rf"[0-8]{W}"],
    "bcos-v1-densenet": [p for p in DENSENET if NORM not in p],
    "bcos-v1-resnet": [p.replace("conv[123]", "conv[12]") for p in RESNET if NORM not in p],
    "bcos-v1-vgg": [rf"features\.(0|2|4|5|7|8|10|11){W}", rf"classifier\.[012]{W}"],
    "bcos-v1-inception": [rf"Conv2d_(1a|2a|2b|3b|4a)_\dx\d\.conv{W}", rf"Mixed_(5[bcd]|6[abcde]|7[abc])\.\w+\.conv{W}",
                          rf"fc{W}"],
}  # fmt: skip
V2 = {
    "bcos-resn": RESNET,
    "bcos-densenet": DENSENET,
    "bcos-vgg": [rf"features\.(0|3|6|8|11|13|16|18){W}", rf"features\.(1|4|7|9|12|14|17|19)\.{NORM}",
                 rf"classifier\.[012]{W}"],
    "bcos-simple_vit": transformer([]),
    "bcos-vitc": transformer(STEM),
}  # fmt: skip


def patterns(name: str) -> list[str]:
    if name.startswith("bcos-convnext"):
        return convnext(NORM if name.endswith("bnu") else "weight")
    return next(found for start, found in {**V1, **V2}.items() if name.startswith(start))


@pytest.mark.parametrize("name", [name for name in BCOS if not name.startswith(("standard", "bcosified"))])
def test_the_keys_are_those_of_the_published_file(name: str) -> None:
    with torch.device("meta"):
        model = build(BCOS[name].architecture, BCOS[name].arguments)
    keys = [key.removeprefix("backbone.") for key in model.state_dict()]
    expected = patterns(name)
    assert not [key for key in keys if not any(re.fullmatch(p, key) for p in expected)]
    assert not [p for p in expected if not any(re.fullmatch(p, key) for key in keys)]
