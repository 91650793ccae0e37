"""Hybrids: exact from the cut up and nowhere below, said wherever it is shown, trained and used as any network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
import torch
import torchvision
from conftest import Coda
from PIL import Image
from program import photo
from squares import folders
from torch import Tensor, nn

from coda_cli.checkpoints.loading import load
from coda_cli.core.backbones import backbone
from coda_cli.core.decompose import decompose
from coda_cli.core.depth import shares_by_layer
from coda_cli.core.hybrid import HybridNet, spread
from coda_cli.core.networks import CodaNet, build, encode, hybrid_table
from coda_cli.core.standard_nets import DEVIATION, MEAN
from coda_cli.explanation import drawing
from coda_cli.explanation.picture import explain
from coda_cli.explanation.record import Drawing
from coda_cli.media.sources import RECORD_KEY

ARCHITECTURES = [("cifar-resnet20", "layer1"), ("cifar-resnet20", "layer3"), ("resnet18", "layer2")]


def hybrid(name: str = "cifar-resnet20", cut: str = "layer2", **changes: Any) -> HybridNet:
    torch.manual_seed(0)
    table = {**hybrid_table(name, cut, 3.0), "ranks": [4, 4, 4], **changes}
    table["channels"] = [table["channels"][0], 8, 8, 3]
    model = build("hybrid", table).double().eval()
    assert isinstance(model, HybridNet)
    with torch.no_grad():  # as after training: batch norms that do something, and have biases
        for module in model.below.modules():
            if isinstance(module, nn.BatchNorm2d):
                for t in (module.weight, module.bias, module.running_mean):
                    assert t is not None
                    t += 0.2 * torch.randn(t.shape, dtype=torch.float64)
    return model


def pictures(batch: int = 2) -> Tensor:
    return encode(torch.rand(batch, 3, 24, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))


# ---- the mathematics -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "cut"), ARCHITECTURES)
def test_contributions_are_those_of_the_definition_at_the_cut(name: str, cut: str) -> None:
    # The definition writes out a matrix for all pairs of positions: at layer1 there are four times as many.
    model, x = hybrid(name, cut), pictures()[..., ::2, ::2] if cut == "layer1" else pictures()
    assert isinstance(model.above, CodaNet)
    d = decompose(model, x, [0, 1, 2])
    with torch.no_grad():
        at_cut = model.below(x)
    torch.testing.assert_close(d.inputs, at_cut)
    logits, maps = oracle.network_maps(model.above, at_cut)
    torch.testing.assert_close(d.logits, logits, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(d.contributions, maps, rtol=1e-6, atol=1e-10)
    assert d.exact.all()


def test_below_the_cut_the_identity_fails_and_says_by_how_much() -> None:
    model, x = hybrid(), pictures(1)
    weighting = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    below, *above = shares_by_layer(model, x, weighting)
    assert (below.name, below.approximate, below.exact) == ("input", True, False)
    logit = float(model(x)[0, 0].detach())
    assert below.residual == pytest.approx(logit - model.bias - float(below.pixels.double().sum()), rel=1e-6)
    assert abs(below.residual) > 1e3 * below.tolerance
    assert [s.name for s in above] == ["layer2", "layers.0", "layers.1", "layers.2"]
    assert all(s.exact and not s.approximate for s in above)
    torch.testing.assert_close(above[0].pixels.double(), decompose(model, x, 0).pixels[0, 0], rtol=1e-5, atol=1e-7)


def test_below_the_cut_it_is_input_times_gradient_with_the_dynamic_weights_held() -> None:
    model, x = hybrid(), pictures(1)
    W = decompose(model, x, 1).dynamic_weights[0, 0]
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad((model.below(leaf)[0] * W).sum(), leaf)
    share = shares_by_layer(model, x, torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64))[0]
    torch.testing.assert_close(share.pixels.double(), (x * gradient)[0].sum(0), rtol=1e-5, atol=1e-7)


def test_a_position_s_share_is_spread_evenly_over_its_pixels() -> None:
    maps = torch.tensor([[4.0, 8.0], [12.0, -16.0]])
    expected = [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, -4, -4], [3, 3, -4, -4]]
    assert spread(maps, (4, 4)).tolist() == expected
    assert spread(maps, (2, 2)) is maps
    uneven = torch.rand(5, 3, 4, dtype=torch.float64)
    wide = spread(uneven, (10, 30))
    torch.testing.assert_close(wide.sum((1, 2)), uneven.sum((1, 2)))
    assert len(wide[0].unique()) == 12


def test_an_approximation_is_never_called_exact() -> None:
    shares = shares_by_layer(hybrid(), pictures(1), torch.tensor([1.0, 0.0, 0.0]), relative_tolerance=1e3)
    assert [s.exact for s in shares] == [False, True, True, True, True]


def test_a_backbone_in_training_mode_is_refused_and_stays_as_it_is() -> None:
    model, x = hybrid().train(), pictures()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match="eval mode"):
        decompose(model, x)
    with pytest.raises(ValueError, match="eval mode"):
        shares_by_layer(model, x[:1], torch.tensor([1.0, 0.0, 0.0]))
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)
    assert model(x).shape == (2, 3)  # as training does


# ---- the networks ----------------------------------------------------------------------------------------------------


def test_the_cifar_resnets_have_the_published_sizes() -> None:
    """0.27, 0.46, 0.66 and 0.85 million parameters with the classifier of 64 x 10 + 10 (CVPR 2016, table 6)."""
    for depth, expected in ((20, 269_722), (32, 464_154), (44, 658_586), (56, 853_018)):
        layers, width = backbone(f"cifar-resnet{depth}", "layer3")
        assert sum(p.numel() for p in layers.parameters()) + 650 == expected
        assert width == 64
        assert layers(torch.rand(1, 3, 32, 32)).shape == (1, 64, 8, 8)


def test_a_backbone_of_torchvision_computes_what_torchvision_does() -> None:
    torch.manual_seed(0)
    layers, width = backbone("resnet18", "layer3")
    whole = torchvision.models.resnet18(weights=None)
    layers.load_state_dict({k: v for k, v in whole.state_dict().items() if not k.startswith(("layer4", "fc"))})
    layers, whole, x = layers.eval(), whole.eval(), torch.rand(1, 3, 64, 64)
    y = whole.maxpool(whole.relu(whole.bn1(whole.conv1(x))))
    torch.testing.assert_close(layers(x), whole.layer3(whole.layer2(whole.layer1(y))))
    assert width == 256


def test_the_backbone_sees_standardised_colours() -> None:
    model, x = hybrid(), pictures()
    mean, deviation = (torch.tensor(t, dtype=torch.float64)[:, None, None] for t in (MEAN, DEVIATION))
    layers = model.below.backbone
    assert isinstance(layers, nn.Module)
    torch.testing.assert_close(model.below(x), layers((x[:, :3] - mean) / deviation))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": "cifar-resnet21"}, "cifar-resnet20, cifar-resnet32"),
        ({"cut": "layer4"}, "cut at layer1, layer2, layer3"),
        ({"backbone": "vgg11"}, "a ResNet of torchvision"),
        ({"backbone": "resnet19"}, "torchvision has no 'resnet19'"),
        ({"channels": [31, 8, 8, 3]}, "has 32 channels at layer2"),
        ({"channels": []}, "channels: expected 1 to"),
        ({"backbone": 5}, "backbone: expected a word"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build("hybrid", {**hybrid_table("cifar-resnet20", "layer2", 3.0), **changes})


# ---- the program -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hybrid that ``coda train`` made in two epochs of tiny pictures."""
    from program import run

    folder = tmp_path_factory.mktemp("hybrid")
    folders(folder / "data", 30)
    args = ("--arch", "hybrid:cifar-resnet20:layer2", "--size", "16", "--epochs", "2", "--batch", "16", "--no-compile")
    result = run("train", folder / "data", *args, "-o", folder / "run", "--name", "tiny", "--temperature", "20")
    assert result.lines == [str(folder / "run" / "tiny.safetensors")]
    return folder / "run" / "tiny.safetensors"


def test_coda_train_makes_a_hybrid_that_loads(trained: Path, coda: Coda) -> None:
    net = load(trained)
    assert net.cut == "layer2"
    assert net.checkpoint.arguments["channels"] == [32, 64, 64, 3]
    shown = coda("models", "show", trained, "--json").record
    assert (shown["family"], shown["architecture"], shown["temperature"]) == ("hybrid CoDA", "hybrid", 20.0)
    assert "in float64; maps differ by" in coda("models", "verify", trained).out


def test_explain_says_how_far_down_it_is_exact(trained: Path, coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png", 16, 16)
    result = coda("explain", "a.png", "-m", trained, "--layer", "all", "--write", "overlay,layers,npz,json", "--json")
    assert "tiny: a hybrid; contributions are exact at layer2" in result.err
    assert "NOT EXACT" not in result.err
    (part,) = result.record["explained"]
    assert result.record["network"]["cut"] == "layer2"
    assert part["exact"]
    assert part["positive"] + part["negative"] + part["bias"] + part["residual"] == pytest.approx(part["logit"], 1e-4)
    assert [(s["name"], s["approximate"]) for s in part["layers"]] == [
        ("input", True),
        ("layer2", False),
        ("layers.0", False),
        ("layers.1", False),
        ("layers.2", False),
    ]
    with np.load(tmp_path / "coda-out" / result.record["files"]["npz"]) as arrays:
        assert arrays["contributions"].shape == (1, 32, 8, 8)
        blocks = arrays["pixels"].reshape(1, 8, 2, 8, 2)
        np.testing.assert_allclose(blocks.sum((2, 4)), arrays["contributions"].sum(1), atol=1e-5)
        assert (blocks == blocks[:, :, :1, :, :1]).all()
    with Image.open(tmp_path / "coda-out" / part["files"]["overlay"]) as image:
        assert json.loads(image.info[RECORD_KEY])["network"]["cut"] == "layer2"


def test_the_caption_says_it_too(trained: Path) -> None:
    from coda_cli.explanation.record import network_part

    assert network_part(load(trained)).title == "tiny, exact down to layer2, not to the pixels"
    assert network_part(load("cifar10")).title == "cifar10"


def test_a_map_is_drawn_smoothly_and_no_finer_than_the_cut_is(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    explanation = explain(photo(trained.parent / "smooth.png", 64, 64), load(trained))
    drawn, (height, width) = explanation.drawn_map(0), explanation.view.rgb.shape[:2]
    positions = explanation.decomposition.pixels[0, 0]
    assert drawn.shape == tuple(positions.shape)
    # What is drawn is a density: times the pixels that a position stands for it is the position's contribution.
    np.testing.assert_allclose(drawn * (height * width / drawn.size), positions.numpy(), rtol=1e-6)
    seen: list[Any] = []

    def kept(body: Any, _scale: Any, _title: str, lines: list[str], **_: Any) -> Any:
        seen.append(" ".join(lines))
        return body

    monkeypatch.setattr(drawing, "framed", kept)
    monkeypatch.setattr(drawing, "heatmap", lambda values, _: values)
    values = drawing.draw_explanation("heatmap", explanation, explanation._own_input, 0, Drawing())
    assert "8 x 8 positions, drawn smoothly" in seen[0]
    assert np.abs(np.diff(values, axis=1)).max() < 0.6 * np.abs(np.diff(drawn, axis=1)).max()  # no edges of positions


def test_an_exact_network_says_nothing_of_a_cut(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    result = coda("explain", "a.png", "--write", "none", "--json")
    assert result.record["network"]["cut"] is None
    assert "hybrid" not in result.err


def test_the_colour_style_is_refused(trained: Path, coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png", 16, 16)
    refused = coda("explain", "a.png", "-m", trained, "--style", "colour", status=2)
    assert refused.error.startswith("--style colour shows weights of pixels; those of tiny end at layer2; choose")
    assert not (tmp_path / "coda-out").exists()


def test_plain_gradients_at_the_cut_would_not_pass(trained: Path) -> None:
    """The residual guards the cut as it guards pixels everywhere else."""
    model, x = load(trained).model, encode(torch.rand(1, 3, 16, 16))
    assert isinstance(model, HybridNet)
    a = model.to_cut(x).detach().requires_grad_()
    logit = model.above(a)[0, 0]
    (gradient,) = torch.autograd.grad(logit, a)
    residual = logit.detach() - model.bias - (a.detach() * gradient).sum()
    assert residual.abs() > 100 * decompose(model, x, 0).tolerance


@pytest.mark.parametrize("arch", ["hybrid:cifar-resnet20", "hybrid:vgg11:layer2", "hybrid:resnet18:layer2:more"])
def test_an_arch_that_does_not_exist_is_refused(arch: str, coda: Coda, tmp_path: Path) -> None:
    folders(tmp_path / "data", 10)
    assert f"--arch {arch}: expected" in coda("train", "data", "--arch", arch, status=2).error


def test_the_regulariser_is_refused(coda: Coda) -> None:
    args = (
        "train",
        "data",
        "--arch",
        "hybrid:cifar-resnet20:layer1",
        "--size",
        "16",
        "--matrix-l1",
        "1",
        "--recipe",
        "cifar10",
    )
    assert "--matrix-l1 is for CoDA-Nets" in coda(*args, "--batch", "16", status=2).error


def test_methods_by_module_reach_every_layer_of_a_backbone(trained: Path) -> None:
    """Guided backpropagation and DeepLIFT find rectifiers by their modules: none may be a function."""
    net, x = load(trained), encode(torch.rand(1, 3, 16, 16))
    assert isinstance(net.model, HybridNet)
    leaf = x[:, :3].clone().requires_grad_()
    seen: list[Tensor] = []
    hooks = [
        m.register_forward_hook(lambda _m, _x, y: seen.append(y))
        for m in net.model.below.modules()
        if isinstance(m, nn.ReLU)
    ]
    net.model.to_cut(encode(leaf))
    for hook in hooks:
        hook.remove()
    assert len(seen) == 1 + 2 * 6  # the stem's, and two in each of three blocks of two stages
    assert len({id(m) for m in net.model.below.modules() if isinstance(m, nn.ReLU)}) == len(seen)
    from coda_cli.study.by_name import method_of

    guided, plain = (method_of(name)(net.model, x, [0]) for name in ("guided-backprop", "gradient"))
    assert not torch.allclose(guided, plain, rtol=0.1)


def test_measurements_and_clips_say_it(trained: Path, coda: Coda, tmp_path: Path) -> None:
    data = trained.parents[1] / "data"
    found = coda("evaluate", "removal", data, "-m", trained, "--pictures", "2", "--points", "2", "--json").record
    assert found["network"]["cut"] == "layer2"
    said = coda("evaluate", "removal", data, "-m", trained, "--pictures", "2", "--points", "2").out
    assert said.startswith("tiny, exact down to layer2, not to the pixels: probability")
    for n in range(3):
        photo(tmp_path / "clip" / f"{n}.png", 64, 48, seed=n)
    records = coda("video", "clip", "-m", trained, "--format", "gif", "--json").records
    assert [record["network"]["cut"] for record in records if "network" in record] == ["layer2"]
    assert records[-1]["exact"]
    refused = coda("video", "clip", "-m", trained, "--style", "colour", "-o", "other", status=2)
    assert "--style colour" in refused.error


def test_comparisons_say_it(trained: Path, coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png", 16, 16)
    result = coda("compare", "a.png", "-m", trained, "--method", "ours", "--json")
    assert result.record["network"]["cut"] == "layer2"
    assert abs(result.record["methods"][0]["off"]) < 1e-4
    assert "exact at layer2" in result.err


def test_the_exact_map_of_methods_is_that_of_the_cut(trained: Path, tmp_path: Path) -> None:
    from coda_cli.study.by_name import method_of

    net, x = load(trained), encode(torch.rand(1, 3, 16, 16))
    ours = method_of("ours")(net.model, x, [1])
    d = decompose(net.model, x, 1)
    assert ours.shape == (1, 16, 16)
    assert float(ours.sum()) == pytest.approx(float(d.logit - d.bias), rel=1e-4)
    explained = explain(photo(tmp_path / "a.png", 16, 16), net, "red")
    assert explained.maps.shape == (1, 16, 16)
