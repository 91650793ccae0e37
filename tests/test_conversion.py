"""``coda train --from NETWORK --as bcos``: an ordinary network as a B-cos network, exact down to the pixels."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import program
import pytest
import torch
import torch.nn.functional as F
import torchvision
from squares import CPU, folders, run, squares, weights
from torch import Tensor, nn

from coda_cli.checkpoints.loading import load
from coda_cli.core.bcos_training import by_deviation, squared, unit_filters
from coda_cli.core.bcosified import CentredNet, bcosify
from coda_cli.core.decompose import decompose
from coda_cli.core.efficientnet_lite import lite_classifier
from coda_cli.core.networks import build, encode
from coda_cli.errors import UsageError
from coda_cli.training import choice, features, loop
from coda_cli.training.conversion import BLOCKS, logits_and_maps, misalignment, ordinary_layers, ordinary_maps
from coda_cli.training.datasets import Counted, Split
from coda_cli.training.features import teacher_logits
from coda_cli.training.feed import Feed
from coda_cli.training.origins import Origin, find_origin
from coda_cli.training.recipes import Recipe

pytestmark = pytest.mark.usefixtures("one_thread")

LITE = {"name": "efficientnet-lite0", "classes": 3, "depthwise": False, "mean": [0.5] * 3, "deviation": [0.5] * 3}


def recipe_of(origin: Origin, *, distil: bool = False, **changes: Any) -> Recipe:
    chosen = choice.from_origin(origin, Counted(3, 32, 64), size=32, distil=distil, becomes="bcos")
    return replace(chosen, **{"epochs": 2, "batch": 16, "precision": "float32", "room": 1.0, **changes})


def small(count: int, seed: int, classes: tuple[str, ...] | None = None) -> Split:
    """The squares at 32 x 32 pixels."""
    split = squares(count, seed)
    images = F.interpolate(split.images.float(), size=32).to(torch.uint8)
    return Split(images, split.labels, classes or split.classes)


# ---- EfficientNet-Lite, written out ----------------------------------------------------------------------------------


def windows(x: Tensor, k: int, stride: int) -> Tensor:
    """[B, C, k k, h, w]: TensorFlow's rule, one window at a time; what hangs over is 0, an odd zero goes behind."""
    H, W = x.shape[2:]
    h, w = math.ceil(H / stride), math.ceil(W / stride)
    y0, x0 = (max(0, (n - 1) * stride + k - length) // 2 for n, length in ((h, H), (w, W)))
    wide = F.pad(x, (x0, k + stride, y0, k + stride))
    columns = [
        wide[:, :, i * stride : i * stride + k, j * stride : j * stride + k].flatten(2)
        for i in range(h)
        for j in range(w)
    ]
    return torch.stack(columns, -1).unflatten(-1, (h, w))


def unit(x: Tensor, w: Tensor, stride: int = 1) -> Tensor:
    """A B-cos unit with B = 2 that keeps the norm of its filter, its factor held."""
    seen = windows(x, w.shape[-1], stride).flatten(1, 2)
    a = torch.einsum("oc,bchw->bohw", w.flatten(1), seen)
    n = (seen.square().sum(1, keepdim=True) + 1e-6).sqrt()
    return a * (a.abs() / n).detach()


def by_definition(W: dict[str, Tensor], n: Tensor) -> Tensor:
    """The logits less the bias of centred pictures."""

    def normed(x: Tensor, key: str) -> Tensor:
        return x * (W[key + ".weight"] / (W[key + ".running_var"] + 1e-3).sqrt())[:, None, None]

    x = normed(unit(n, W["_conv_stem.linear.weight"], 2), "_bn0").clamp(min=0)
    strides, kernels = {1, 3, 5, 11}, {3, 4, 8, 9, 10, 11, 12, 13, 14}
    for i in range(16):
        place, y = f"_blocks.{i}.", x
        if i:
            y = normed(unit(y, W[place + "_expand_conv.linear.weight"]), place + "_bn0").clamp(min=0)
        w = W[place + "_depthwise_conv.linear.weight"]
        assert w.shape[-1] == (5 if i in kernels else 3)
        y = torch.einsum("cd,bcdhw->bchw", w.flatten(1), windows(y, w.shape[-1], 2 if i in strides else 1))
        y = normed(unit(normed(y, place + "_bn1").clamp(min=0), W[place + "_project_conv.linear.weight"]),
                   place + "_bn2")  # fmt: skip
        x = x + y if x.shape == y.shape else y
    x = normed(unit(x, W["_conv_head.linear.weight"]), "_bn1").clamp(min=0)
    return unit(x, W["_fc.linear.weight"]).mean((2, 3))


def settled(model: nn.Module, x: Tensor) -> nn.Module:
    """Batch norms as after training, with weights of their own, so that numbers do not fade from layer to layer."""
    for module in model.modules():
        if hasattr(module, "running_var"):
            nn.init.uniform_(module.weight, 0.5, 1.5)  # type: ignore[arg-type]
            module.momentum = 1.0  # type: ignore[assignment]
    with torch.no_grad():
        model.train()(x)
    return model.eval().requires_grad_(False)


def test_a_converted_lite_network_equals_its_definition_and_is_exact() -> None:
    torch.manual_seed(3)
    x = encode(torch.rand(2, 3, 37, 44, dtype=torch.float64))
    model = settled(build("bcosified", {**LITE, "temperature": 2.0}).double(), x)
    state = {key.removeprefix("above.backbone."): value for key, value in model.state_dict().items()}
    n = (2 * x - 1).requires_grad_()
    logits = by_definition(state, n) / 2
    products = (n * torch.autograd.grad(logits[:, 1].sum(), n)[0]).detach()
    d = decompose(model, x, 1)
    torch.testing.assert_close(d.logits, logits.detach() - math.log(2), rtol=1e-9, atol=1e-12)
    size = products.abs().sum((1, 2, 3))
    assert float(size.min()) > 1e-6, "the network gives nothing, and so nothing is compared"
    assert float(((d.contributions[:, 0] - products).abs().sum((1, 2, 3)) / size).max()) < 1e-9
    assert float((d.residual[:, 0].abs() / size).max()) < 1e-12
    assert [(c.layer, c.kind) for c in d.constants] == [("logits", "bias")]


def test_a_lite_network_keeps_its_weights() -> None:
    torch.manual_seed(3)
    ordinary = lite_classifier("efficientnet-lite0", 3)
    model = build("bcosified", LITE)
    model.load_state_dict(bcosify(ordinary, depthwise=False).state_dict())
    state, w = model.state_dict(), ordinary.get_submodule("_conv_stem").weight
    assert isinstance(w, Tensor)
    assert torch.equal(state["above.backbone._conv_stem.linear.weight"], torch.cat([w, -w], 1) / 2)
    for place in ("_blocks.3._depthwise_conv", "_blocks.15._project_conv"):
        kept = ordinary.get_submodule(place).weight
        assert torch.equal(state[f"above.backbone.{place}.linear.weight"], kept)  # type: ignore[arg-type]
    assert not [key for key in state if key.endswith("bias")]


# ---- gradients that are written out ----------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 4])
def test_the_gradient_of_units_is_that_of_their_definition(channels: int) -> None:
    torch.manual_seed(0)
    a = torch.randn(2, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    n = torch.rand(2, channels, 3, 3, dtype=torch.float64).add_(0.5).requires_grad_()
    cotangent = torch.randn(2, 4, 3, 3, dtype=torch.float64)
    found = torch.autograd.grad((squared(a, n) * cotangent).sum(), (a, n))
    expected = torch.autograd.grad((a * a.abs() / n * cotangent).sum(), (a, n))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("shape", [(5, 3, 2, 2), (5, 7)])
def test_the_gradient_of_unit_filters_is_that_of_their_definition(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    w = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    cotangent = torch.randn(shape, dtype=torch.float64)
    expected = w / w.flatten(1).norm(dim=1).view(-1, *[1] * (w.ndim - 1))
    torch.testing.assert_close(unit_filters(w), expected, rtol=0, atol=0)
    torch.testing.assert_close(
        torch.autograd.grad((unit_filters(w) * cotangent).sum(), w),
        torch.autograd.grad((expected * cotangent).sum(), w),
    )


def test_the_gradient_of_the_norm_is_that_of_its_definition() -> None:
    torch.manual_seed(0)
    x = (torch.randn(3, 4, 5, 2, dtype=torch.float64) + 1).requires_grad_()
    w = torch.rand(4, dtype=torch.float64, requires_grad=True)
    cotangent = torch.randn(3, 4, 5, 2, dtype=torch.float64)
    y, mean, variance = by_deviation(x, w, 1e-3)
    spread = x.var((0, 2, 3), correction=0)
    expected = x * (w / (spread + 1e-3).sqrt())[:, None, None]
    torch.testing.assert_close((y, mean, variance), (expected, x.mean((0, 2, 3)), spread), rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(
        torch.autograd.grad((y * cotangent).sum(), (x, w)), torch.autograd.grad((expected * cotangent).sum(), (x, w))
    )


def test_a_step_in_bfloat16_goes_about_where_one_in_float32_goes() -> None:
    torch.manual_seed(0)
    model = build("bcosified", {**LITE, "name": "resnet18"}).train()
    x, steps = encode(torch.rand(8, 3, 32, 32)), []
    for enabled in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            logits = model(x).float()
        F.binary_cross_entropy_with_logits(logits, torch.eye(3)[torch.arange(8) % 3]).backward()
        steps.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert float(F.cosine_similarity(*steps, dim=0)) > 0.85


# ---- what it begins as, and learns -----------------------------------------------------------------------------------


def test_kept_classes_begin_with_the_ordinary_network_s_classifier(
    origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "fitted_classifier", lambda _pooled, _targets, _bias, before: before)
    recipe, data = recipe_of(origin, distil=True), small(16, 0, origin.classes)
    model = loop._new_model(recipe, data, CPU, origin)
    assert isinstance(model, CentredNet)
    assert origin.classifier
    state = model.state_dict()
    assert torch.equal(state["above.backbone.fc.linear.weight"][..., 0, 0], origin.classifier[0])
    assert torch.equal(
        state["above.backbone.layer2.0.conv1.linear.weight"], origin.weights["below.backbone.layer2.0.conv1.weight"]
    )
    given = Feed(model, recipe, data, data, origin)
    batch = given.batch(0, 2, 1)
    a = ordinary_layers(origin)(batch.x)
    assert batch.maps
    assert [tuple(m.shape[1:]) for m in batch.maps] == [(64, 8, 8)] * 2 + [(128, 4, 4)] * 2 + [(256, 2, 2)] * 2 + [
        (512, 1, 1)
    ] * 3
    torch.testing.assert_close(batch.maps[-1], a)
    torch.testing.assert_close(batch.targets, teacher_logits(origin, recipe, a).softmax(1))
    whole = torchvision.models.resnet18(weights=None)
    whole.load_state_dict(
        {key.removeprefix("below.backbone."): value for key, value in origin.weights.items()}, strict=False
    )
    whole.fc.weight.data, whole.fc.bias.data = origin.classifier
    normal = torchvision.transforms.functional.normalize(batch.x[:, :3], (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    torch.testing.assert_close(batch.targets, whole.eval()(normal).softmax(1).detach(), rtol=1e-4, atol=1e-6)


def test_new_classes_begin_with_a_classifier_of_the_maps_that_are_learned(origin: Origin) -> None:
    data, recipe = small(60, 0), recipe_of(origin)
    model = loop._new_model(recipe, data, CPU, origin)
    W = model.state_dict()["above.backbone.fc.linear.weight"][..., 0, 0]
    pooled = ordinary_layers(origin)(encode(data.images)).mean((2, 3))
    assert ((pooled @ W.t()).argmax(1) == data.labels).float().mean() > 0.8


def test_logits_and_maps_are_those_of_the_network() -> None:
    torch.manual_seed(0)
    model, x = build("bcosified", {**LITE, "temperature": 3.0}), encode(torch.rand(2, 3, 40, 40))
    settled(model, x)
    assert isinstance(model, CentredNet)
    with torch.no_grad():
        logits, maps = logits_and_maps(model, x)
        torch.testing.assert_close(logits, model(x))
    assert len(maps) == 16 + 1
    assert maps[-1].shape == (2, 1280, 2, 2)


def test_misalignment_is_of_directions_and_of_blocks_less_the_means_of_their_channels() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b, last = (torch.randn(2, 5, 3, 3, generator=generator) for _ in range(3))
    constant = torch.randn(5, 1, 1, generator=generator)
    assert float(misalignment([a, last], [3 * a + constant, 2 * last])) == pytest.approx(0, abs=1e-6)
    assert float(misalignment([a, last], [a, -last])) == pytest.approx(2, abs=1e-6)
    centred = [m - m.mean((0, 2, 3), keepdim=True) for m in (a, b)]
    apart = 1 - F.cosine_similarity(*centred, dim=1).mean()
    assert float(misalignment([a, a, last], [a, b, last])) == pytest.approx(float(apart) * BLOCKS / 2, rel=1e-5)
    assert float(misalignment([last], [last + constant])) > 0.1, "of the last map they count"


def test_its_maps_come_nearer_to_the_ordinary_network_s(origin: Origin, tmp_path: Path) -> None:
    data, recipe = (small(32, 0), small(12, 1)), recipe_of(origin, epochs=12, learning_rate=1e-3)
    apart = []
    for result in (loop._new_model(recipe, data[0], CPU, origin), run(recipe, data, tmp_path, origin=origin).model):
        assert isinstance(result, CentredNet)
        with torch.no_grad():
            x = encode(data[0].images)
            wanted = ordinary_maps(ordinary_layers(origin), data[0].images, autocast=False)
            apart.append(float(misalignment(logits_and_maps(result.train(), x)[1], wanted)))
    assert apart[1] < 0.7 * apart[0]


def test_a_run_goes_on_to_the_very_same_weights(origin: Origin, tmp_path: Path) -> None:
    data, recipe = (small(32, 0), small(6, 1)), recipe_of(origin)
    whole = run(recipe, data, tmp_path / "whole", origin=origin)
    run(recipe, data, tmp_path / "parts", origin=origin, time_budget=0.0)
    run(recipe, data, tmp_path / "parts", origin=origin, time_budget=0.0, resume=True)
    result = run(recipe, data, tmp_path / "parts", origin=origin, resume=True)
    assert result.finished
    for key, value in weights(whole).items():
        assert torch.equal(weights(result)[key], value), key


# ---- the command -----------------------------------------------------------------------------------------------------


def coda_train(*args: str | Path, status: int = 0) -> program.Result:
    return program.run("train", *args, "--device", "cpu", status=status)


def test_the_command_leaves_an_exact_network_whenever_it_ends(ordinary: Path, tmp_path: Path) -> None:
    folders(tmp_path / "data", 20)
    start = ["--from", "torchvision:resnet18", "--weights", str(ordinary), "--as", "bcos", "--size", "32"]
    more = [*start, "--batch", "16", "--epochs", "1", "-o", str(tmp_path / "run")]
    stopped = coda_train(tmp_path / "data", *more, "--time-budget", "0")
    assert "the time budget is spent after step 1" in stopped.err
    assert load(stopped.lines[0]).checkpoint.training["finished"] is False
    result = coda_train(tmp_path / "data", *more, "--resume")
    assert "held-out pictures classified correctly" in result.err
    net = load(result.lines[0])
    c = net.checkpoint
    assert (c.architecture, c.arguments["name"], c.arguments["classes"]) == ("bcosified", "resnet18", 3)
    assert c.training["recipe"]["origin"].startswith("torchvision:resnet18, sha256 ")
    d = decompose(net.model, encode(torch.rand(1, 3, 32, 32)), [0, 1, 2])
    assert d.exact.all()
    assert d.exactness == "by construction"
    assert [(s.layer, s.kind) for s in d.constants] == [("logits", "bias")]
    assert float(net.model.bias) == pytest.approx(-math.log(2))  # type: ignore[arg-type]
    again = find_origin(result.lines[0])
    goes_on = loop._new_model(choice.from_origin(again, Counted(2, 36, 32)), small(4, 0, ("a", "b")), CPU, again)
    state = goes_on.state_dict()
    assert state["above.backbone.fc.linear.weight"].shape == (2, 512, 1, 1)
    assert torch.equal(state["above.backbone.conv1.linear.weight"], again.weights["above.backbone.conv1.linear.weight"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--from", "cifar10", "--as", "bcos"], "--as bcos converts ordinary networks, and this is one of coda's"),
        (["--from", "R", "--as", "bcos", "--dilated"], "--dilated and --no-dilated are for hybrids; leave them out"),
        (["--from", "R", "--as", "bcos", "--no-dilated"], "--dilated and --no-dilated are for hybrids"),
        (["--as", "bcos"], "--as bcos is what an ordinary network becomes that --from names; add --from"),
        (["--recipe", "imagenet", "--from", "R", "--as", "bcos"], "has a recipe of its own; leave out --recipe"),
        (["--from", "torchvision:vgg11", "--as", "bcos"], "expected a ResNet of torchvision"),
        (["--from", "R", "--as", "b-cos"], "'b-cos' is not one of 'hybrid', 'bcos'"),
        (["--from", "R", "--as", "bcos", "--matrix-l1", "1"], "--matrix-l1 is for CoDA-Nets only"),
    ],
)  # fmt: skip
def test_what_cannot_be_converted_is_one_line(
    ordinary: Path, tmp_path: Path, options: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folders(tmp_path / "data", 10)
    words = ["torchvision:resnet18" if word == "R" else word for word in options]
    file = ["--weights", str(ordinary)] if "R" in options else []
    assert said in coda_train("data", *words, *file, status=2).error
    assert not (tmp_path / "coda-train").exists()


def test_a_network_without_a_converted_form_is_named(origin: Origin) -> None:
    with pytest.raises(UsageError, match=r"--as bcos: expected a ResNet or DenseNet.*; --as hybrid takes it"):
        choice.from_origin(replace(origin, backbone="vgg11"), Counted(3, 90, 64), becomes="bcos")


def test_the_recipe_of_a_converted_network_follows_from_the_pictures(origin: Origin) -> None:
    chosen = choice.from_origin(origin, Counted(20, 600, 300), becomes="bcos")
    assert (chosen.size, chosen.batch, chosen.frozen, chosen.views) == (128, 32, False, 0)
    assert chosen.alignment > 0
    assert choice.from_origin(origin, Counted(20, 600, 70), becomes="bcos").size == 64
    assert chosen.arguments["depthwise"] is False
    lite = choice.from_origin(replace(origin, backbone="efficientnet-lite1"), Counted(20, 600, 300), becomes="bcos")
    assert (lite.arguments["mean"], lite.arguments["deviation"]) == ([0.5] * 3, [0.5] * 3)
