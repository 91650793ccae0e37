"""Ordinary networks, built and loaded; they are explained at a cut."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import torchvision
from program import run
from torch import nn

from coda_cli.checkpoints.loading import load
from coda_cli.checkpoints.manifest import STANDARD, known
from coda_cli.checkpoints.published_bcos import BCOS
from coda_cli.core.abilities import probabilities
from coda_cli.core.decompose import decompose
from coda_cli.core.networks import build, coda_net, encode
from coda_cli.core.standard_nets import StandardNet, standard_vit
from coda_cli.errors import CheckpointError, UsageError

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "examples" / "pictures" / "church.png"

# As in the reference tables of the authors' files.
VITS = {name: entry for name, entry in BCOS.items() if entry.architecture in STANDARD}


@pytest.fixture
def resnet(tmp_path: Path) -> Path:
    """A ResNet-18 with weights of no worth, as torchvision's users save it."""
    torch.manual_seed(0)
    path = tmp_path / "resnet18.pth"
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), path)
    return path


@pytest.mark.parametrize("name", VITS)
def test_a_published_transformer_has_its_published_size(name: str) -> None:
    with torch.device("meta"):
        model = build("standard_vit", VITS[name].arguments)
    assert sum(p.numel() for p in model.parameters()) == VITS[name].parameters


def test_eight_are_published() -> None:
    assert len(VITS) == 8
    assert all(known()[name].checkpoint.accuracy for name in VITS)


def test_a_transformer_is_its_formula() -> None:
    """Against torch's own encoder layer, which is the same but for the names."""
    torch.manual_seed(0)
    model = standard_vit(dim=64, depth=1, classes=5, patch=4, hidden=32).eval()
    x = encode(torch.rand(2, 3, 8, 12))
    body = model.backbone
    mine = body.state_dict()
    layer = nn.TransformerEncoderLayer(64, 1, 32, 0.0, "gelu", batch_first=True, norm_first=True).eval()
    attention = "transformer.encoder_0.attn"
    feed = "transformer.encoder_0.ff.net"
    layer.load_state_dict({
        "self_attn.in_proj_weight": mine[f"{attention}.to_qkv.weight"], "self_attn.in_proj_bias": torch.zeros(192),
        "self_attn.out_proj.weight": mine[f"{attention}.to_out.weight"], "self_attn.out_proj.bias": torch.zeros(64),
        "norm1.weight": mine[f"{attention}.norm.weight"], "norm1.bias": mine[f"{attention}.norm.bias"],
        "norm2.weight": mine[f"{feed}.norm.weight"], "norm2.bias": mine[f"{feed}.norm.bias"],
        "linear1.weight": mine[f"{feed}.linear1.weight"], "linear1.bias": mine[f"{feed}.linear1.bias"],
        "linear2.weight": mine[f"{feed}.linear2.weight"], "linear2.bias": mine[f"{feed}.linear2.bias"],
    })  # fmt: skip
    seen: list[torch.Tensor] = []
    body.transformer.register_forward_hook(lambda _, given, made: seen.extend((given[0], made)))
    with torch.no_grad():
        model(x)
        torch.testing.assert_close(layer(seen[0]), seen[1])


def test_its_input_is_normalised_as_torchvision_does() -> None:
    seen: list[torch.Tensor] = []

    class Look(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x)
            return x.mean((2, 3))

    picture = torch.randint(256, (1, 3, 256, 256), dtype=torch.uint8)
    StandardNet(Look())(encode(picture))
    usual = torchvision.transforms._presets.ImageClassification(crop_size=256, resize_size=256)
    torch.testing.assert_close(seen[0], usual(picture))


def test_its_probabilities_are_a_softmax() -> None:
    model, logits = standard_vit(dim=64, depth=1, classes=5, patch=4), torch.randn(3, 5)
    torch.testing.assert_close(probabilities(model, logits).sum(1), torch.ones(3))
    coda = coda_net(channels=[6, 5], kernels=[3], strides=[1], ranks=[3], norm="SQ", temperature=1.0)
    assert torch.equal(probabilities(coda, logits), logits.sigmoid())


def test_its_positional_embedding_is_one_constant_among_others() -> None:
    model = standard_vit(dim=64, depth=1, classes=5, patch=4).double()
    d = decompose(model, torch.rand(2, 6, 8, 8).double(), [1])
    assert d.exact.all()
    assert d.exactness == "held gates"
    assert [c.kind for c in d.constants].count("positional") == 1
    assert (d.positional != 0).all()


@pytest.mark.parametrize("name", ["standard_vitc_ti_patch1_14", "standard_simple_vit_ti_patch16_224"])
def test_a_published_transformer_loads_by_its_name_only(name: str, tmp_path: Path) -> None:
    """Its layers are called "linear", as B-cos ones are."""
    model = build(BCOS[name].architecture, BCOS[name].arguments)
    state = {f"0.{key.removeprefix('backbone.')}": value for key, value in model.state_dict().items()}
    path = tmp_path / "weights.pkl"
    torch.save(state, path)
    x = torch.rand(1, 6, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(load(path, arch=name, cut=None).model(x), model.eval()(x))
    with pytest.raises(CheckpointError, match="an ordinary vision transformer"):
        load(path, cut=None)
    with pytest.raises(CheckpointError, match=r"the weights of a vision transformer without B-cos layers, which"):
        load(path, arch=name.replace("standard_", "bcos-"))


def test_a_network_of_torchvision_loads(resnet: Path) -> None:
    net = load(resnet, arch="torchvision:resnet18", cut=None)
    assert len(net.checkpoint.classes) == 1000
    theirs = torchvision.models.resnet18(weights=None)
    theirs.load_state_dict(torch.load(resnet, weights_only=True))
    rgb = torch.rand(1, 3, 64, 64)
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = theirs.eval()((rgb - mean[:, None, None]) / deviation[:, None, None])
    torch.testing.assert_close(net.model(encode(rgb)), expected)
    with pytest.raises(UsageError, match="no classifier 'resnet19'"):
        load(resnet, arch="torchvision:resnet19", cut=None)
    with pytest.raises(CheckpointError, match="one of torchvision's"):
        load(resnet, cut=None)


def test_densenets_load_from_torchvisions_older_files(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.densenet121(weights=None).eval()
    old = {re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", k): v for k, v in theirs.state_dict().items()}
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    torch.save(old, tmp_path / "old.pth")
    net = load(tmp_path / "old.pth", arch="torchvision:densenet121", cut=None)
    for key, value in theirs.state_dict().items():
        torch.testing.assert_close(net.model.state_dict()[f"backbone.{key}"], value)


def test_converting_keeps_its_logits(resnet: Path, tmp_path: Path) -> None:
    target = tmp_path / "mine.safetensors"
    done = run("models", "convert", resnet, "--arch", "torchvision:resnet18", "-o", target)
    assert "largest difference 0" in done.err
    shown = run("models", "show", target, "--json").record
    assert (shown["family"], shown["architecture"]) == ("standard", "torchvision")
    done = run("explain", PICTURE, "-m", target, "-o", tmp_path / "out", "--json")
    (part,) = done.record["explained"]
    assert done.record["network"]["cut"] == load(target).cut  # it is kept in the file
    assert part["exactness"] == "piecewise linear"
    total = part["positive"] + part["negative"] + part["bias"] + part["residual"]
    assert total == pytest.approx(part["logit"], abs=1e-5)
    assert sum(c["share"] for c in part["constants"]) == pytest.approx(part["bias"], abs=1e-9)
