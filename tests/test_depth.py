"""Contributions of layers' outputs: complete at every depth, as defined, and only where the whole logit passes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Coda
from PIL import Image
from program import photo
from torch import nn

import coda_cli.explanation.inside as explain_module
from coda_cli.core.bcos_nets import bcos_convnext, bcos_densenet, bcos_resnet
from coda_cli.core.decompose import decompose
from coda_cli.core.depth import LayerShare, shares_by_layer
from coda_cli.core.networks import CodaNet, coda_net, encode
from coda_cli.core.vit import bcos_vit
from coda_cli.media.sources import RECORD_KEY


def network(kind: str) -> nn.Module:
    torch.manual_seed(0)
    shared = {"classes": 3, "bias": -1.0}
    coda = {"norm": "SQ", "temperature": 2.0}
    makers = {
        "coda": lambda: coda_net(channels=[6, 5, 4, 3], kernels=[3, 3, 1], strides=[1, 2, 1], ranks=[3, 4, 3], **coda),
        "coda, antialiased": lambda: coda_net(
            channels=[6, 5, 3], kernels=[4, 3], strides=[2, 1], ranks=[3, 3], antialias=True, **coda
        ),
        "resnet": lambda: bcos_resnet(blocks=[1, 2], bottleneck=False, **shared),
        "densenet": lambda: bcos_densenet(blocks=[2, 1], growth=4, first=8, **shared),
        "convnext": lambda: bcos_convnext(dims=[8, 16], blocks=[1, 1], **shared),
        "vit": lambda: bcos_vit(dim=64, depth=2, patch=4, hidden=32, **shared),
    }
    model = makers[kind]().double().eval()
    for parameter in model.parameters():  # fresh B-cos networks give logits of next to nothing
        parameter.data.mul_(1.5)
    return model


KINDS = ["coda", "coda, antialiased", "resnet", "densenet", "convnext", "vit"]
# Where the whole logit passes, by hand.
PASSES = {
    "coda": ["input", "layers.0", "layers.1", "layers.2"],
    "coda, antialiased": ["input", "layers.0", "layers.1", "layers.2"],
    "resnet": ["input", "backbone.conv1", "backbone.bn1", "backbone.pool", "backbone.layer1.0", "backbone.layer2.0",
               "backbone.layer2.1", "backbone.fc"],
    # A dense layer's output is what it saw and its own beside it.
    "densenet": ["input", *(f"backbone.features.{name}" for name in (
        "conv0", "norm0", "pool0", "denseblock1.denselayer1", "denseblock1.denselayer2", "transition1.norm",
        "transition1.conv", "transition1.pool", "denseblock2.denselayer1", "norm5")), "backbone.classifier"],
    "convnext": ["input", *(f"backbone.features.{name}" for name in ("0", "1", "2.0", "3.0", "3.1", "4.0")),
                 "backbone.classifier.0", "backbone.classifier.1"],
    "vit": ["input", "backbone.to_patch_embedding.linear", "backbone.transformer.encoder_0",
            "backbone.transformer.encoder_1"],
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_the_shares_add_up_at_every_depth(kind: str) -> None:
    model, x = network(kind), encode(torch.rand(1, 3, 16, 24, dtype=torch.float64))
    weighting = torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64)
    shares = shares_by_layer(model, x, weighting)
    assert all(s.exact for s in shares)
    assert all(abs(s.residual) <= s.tolerance for s in shares)
    assert [s.name for s in shares] == PASSES[kind]
    assert len(shares) > 3
    d = decompose(model, x, weighting[None])
    torch.testing.assert_close(shares[0].pixels.double(), d.pixels[0, 0], rtol=1e-5, atol=1e-7)
    if kind != "vit":  # there, what is added in between has a share of its own
        for share in shares:
            assert float(share.pixels.double().sum()) == pytest.approx(float(d.pixels.sum()), rel=1e-5, abs=1e-6)


def test_a_share_is_the_rest_of_the_network_s_decomposition() -> None:
    """Of the output of layer k as the input of the layers above it."""
    model = network("coda")
    x = encode(torch.rand(1, 3, 8, 8, dtype=torch.float64))
    shares = {s.name: s for s in shares_by_layer(model, x, torch.tensor([0.0, 1.0, 0.0]))}
    assert isinstance(model, CodaNet)
    for k in range(2):
        above = CodaNet(list(model.layers)[k + 1 :], temperature=model.temperature, bias=model.bias)
        with torch.no_grad():
            below = model.layers[: k + 1](x)
        expected = decompose(above, below, 1).pixels[0, 0].float()
        torch.testing.assert_close(shares[f"layers.{k}"].pixels, expected)


def test_magnitudes_are_those_of_the_map_that_is_shown() -> None:
    """What cancels between the channels of one position cannot be seen, and does not count."""
    model = coda_net(
        channels=[6, 8, 3], kernels=[3, 3], strides=[1, 1], ranks=[2, 2], norm="SQ", temperature=8.0, bias=-1.0
    ).eval()
    x = encode(torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(0)))
    for share in shares_by_layer(model, x, torch.tensor([1.0, 0.0, 0.0])):
        assert share.magnitude == pytest.approx(float(share.pixels.double().abs().sum()))
    d = decompose(model, x, 0)
    channels = float(d.contributions.abs().sum())
    assert channels > 1.05 * float(d.pixels.abs().sum())  # else this would say nothing


def test_a_branch_of_a_residual_block_is_not_among_them() -> None:
    names = [
        s.name for s in shares_by_layer(network("resnet"), encode(torch.rand(1, 3, 32, 32).double()), torch.ones(3))
    ]
    assert "backbone.layer1.0" in names
    assert not [n for n in names if "layer1.0." in n]


def test_the_program_writes_sheet_animation_and_record(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    result = coda("explain", "a.png", "--layer", "all", "--json", "-c", "cat", "-c", "dog")
    explained = result.records[0]["explained"]
    for part in explained:
        assert [layer["name"] for layer in part["layers"]] == ["input", *(f"layers.{k}" for k in range(9))]
        for layer in part["layers"]:
            assert layer["exact"]
            assert layer["sum"] == pytest.approx(part["logit"] - part["bias"], abs=1e-3)
        sheet, depth = (tmp_path / "coda-out" / part["files"][kind] for kind in ("layers", "depth"))
        with Image.open(sheet) as image:
            carried = json.loads(image.info[RECORD_KEY])
            assert carried["explained"][0]["name"] == part["name"]
        with Image.open(depth) as animation:
            assert animation.n_frames == 10
            assert animation.info["duration"] == 650
    # A file that is there is kept or completed as for all other kinds.
    again = coda("explain", "a.png", "--layer", "all", "-c", "cat", "-c", "dog")
    assert "already there" in again.err
    depth = tmp_path / "coda-out" / explained[0]["files"]["depth"]
    depth.unlink()
    coda("explain", "a.png", "--layer", "all", "-c", "cat", "-c", "dog")
    assert depth.exists()
    # Without a record beside it, it is known by what it carries; another file of its name stays.
    alone = ("explain", "a.png", "-c", "cat", "--write", "depth", "-o", "alone")
    coda(*alone)
    coda(*alone)
    (strange,) = (tmp_path / "alone").glob("*.gif")
    Image.new("RGB", (9, 9)).save(strange)
    kept = strange.read_bytes()
    assert "exists from another picture" in coda(*alone, status=1).err
    assert strange.read_bytes() == kept
    # Nor is it a picture to explain.
    (tmp_path / "films").mkdir()
    shutil.copy(depth, tmp_path / "films" / "a.gif")
    assert "no picture" in coda("explain", "films", status=2).error


def test_one_layer_by_number_or_name(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    for layer in ("3", "layers.2"):
        record = coda("explain", "a.png", "--layer", layer, "--json", "--write", "none").records[0]
        (part,) = record["explained"][0]["layers"]
        assert (part["name"], part["height"], part["width"]) == ("layers.2", 16, 16)
    files = coda("explain", "a.png", "--layer", "3").lines
    assert len([f for f in files if f.endswith(".layers.png")]) == 1
    assert not [f for f in files if f.endswith(".gif")]
    refused = coda("explain", "a.png", "--layer", "17", "--write", "none", status=2)
    assert (
        "--layer 17: no such layer that the whole logit passes through; there are 0 (input), 1 (layers.0)"
        in refused.err
    )


def test_an_inexact_layer_has_its_exit_code(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    honest = explain_module.shares_by_layer

    def one_off(*given: object, **more: object) -> list[LayerShare]:
        first, second, *rest = honest(*given, **more)  # type: ignore[arg-type]
        return [first, replace(second, exact=False), *rest]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(explain_module, "shares_by_layer", one_off)
        result = coda("explain", "a.png", "--layer", "all", "--write", "none", status=4)
    assert "a.png: NOT EXACT at layers.0: residual" in result.err
    strict = coda("explain", "a.png", "--layer", "3", "--write", "none", "--check", "0", status=4)
    assert "NOT EXACT at layers.2" in strict.err


def test_layers_are_there_from_python(tmp_path: Path) -> None:
    import coda_cli

    net = coda_cli.load("cifar10")
    explanation = coda_cli.explain(photo(tmp_path / "a.png"), net, layer="all")
    ((first, *_),) = explanation.layers
    np.testing.assert_allclose(first.pixels.numpy(), explanation.maps[0], atol=1e-6)
