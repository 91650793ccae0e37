"""Batch norms folded into convolutions: the same numbers, only where nothing is learned, and never out of date."""

from __future__ import annotations

import copy
import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import program
import pytest
import torch
from test_bcos import SMALL, small
from torch import Tensor, nn

import coda_cli
from coda_cli.core.backbones import backbone
from coda_cli.core.bcos import BcosConv2d, BcosLinear, UncentredBatchNorm2d
from coda_cli.core.bcos_nets import BcosNet
from coda_cli.core.decompose import decompose
from coda_cli.core.efficientnet_lite import SameConv2d
from coda_cli.core.folding import Folded, as_defined, watching
from coda_cli.core.gradients import held_pass
from coda_cli.core.held import held
from coda_cli.core.hybrid import HybridNet
from coda_cli.core.networks import build, encode, hybrid_table
from coda_cli.machine.lanes import each


class Crossed(nn.Sequential):
    """Layers in another order than they are defined in."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self[1](self[2](self[0](x)))
        return y


def gradient_leaves(y: Tensor) -> set[object]:
    """The leaves that gradients of y would be gathered in."""
    nodes, found = [y.grad_fn], set[object]()
    while nodes:
        node = nodes.pop()
        if node is not None and hasattr(node, "variable"):
            found.add(node)
        nodes += [n for n, _ in node.next_functions] if node is not None else []
    return found


BACKBONES = [
    ("cifar-resnet20", "layer3", False),
    ("resnet18", "layer4", True),
    ("resnext50_32x4d", "layer3", False),
    ("efficientnet-lite0", "head", True),
]


def settled(module: nn.Module) -> nn.Module:
    """As after training: batch norms that do something, and have shifts."""
    generator = torch.Generator().manual_seed(0)
    for norm in (m for m in module.modules() if isinstance(m, nn.BatchNorm2d)):
        for t, low in ((norm.weight, 0.5), (norm.bias, -0.5), (norm.running_mean, -0.5), (norm.running_var, 0.5)):
            assert t is not None
            with torch.no_grad():
                t.copy_(low + torch.rand(t.shape, generator=generator))
    return module.eval()


def hybrid() -> HybridNet:
    torch.manual_seed(0)
    table = {**hybrid_table("cifar-resnet20", "layer2", 3.0), "ranks": [4, 4, 4]}
    table["channels"] = [table["channels"][0], 8, 8, 3]
    model = build("hybrid", table).double()
    assert isinstance(settled(model), HybridNet)
    return model


def picture() -> Tensor:
    return encode(torch.rand(2, 3, 32, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize(("name", "cut", "dilated"), BACKBONES)
def test_a_backbone_computes_the_same(name: str, cut: str, dilated: bool) -> None:
    torch.manual_seed(0)
    layers = settled(backbone(name, cut, dilated=dilated)[0].double())
    x = torch.rand(1, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        plain, folded = layers(x), Folded().of(layers)
        assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
        torch.testing.assert_close(folded(x), plain, rtol=1e-10, atol=1e-10)
    assert any(isinstance(m, nn.BatchNorm2d) for m in layers.modules())  # the backbone itself stays as it is


def test_a_hybrid_is_as_exact_and_says_the_same() -> None:
    model, x = hybrid(), picture()
    with torch.enable_grad():
        plain = model(x).detach()  # nothing is folded where gradients can be asked for
    with torch.no_grad():
        assert model._folded
        assert model._folded.of(model.below) is not model.below
    d = decompose(model, x, [0, 1])
    torch.testing.assert_close(d.logits, plain, rtol=1e-10, atol=1e-10)
    assert bool(d.exact.all())
    assert model.state_dict().keys() == hybrid().state_dict().keys()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("kernel", "stride", "groups"), [(1, 1, 1), (5, 1, 8), (3, 2, 8)])
def test_a_convolution_that_clips_gives_what_relu6_would(
    kernel: int, stride: int, groups: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    conv, x = SameConv2d(8, 8, kernel, stride, groups).to(dtype), 9 * torch.randn(2, 8, 12, 10)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        plain = conv(x).relu()  # it has a graph: autograd could not pass through the library's own clipping
        conv.clips = True
        with torch.no_grad():
            clipped = conv(x)
        assert torch.equal(clipped, plain.clamp_max(6))
        assert torch.equal(conv(x.requires_grad_()), clipped)
    assert 0 < (clipped == 6).sum() < clipped.numel() / 2 < (clipped == 0).sum() * 2
    assert torch.autograd.grad(conv(x.to(dtype)).sum(), x)[0].any()


@torch.no_grad()
def test_in_bfloat16_folded_biases_keep_their_bits() -> None:
    layers = nn.Sequential(SameConv2d(1, 1, 1), nn.BatchNorm2d(1)).eval()
    layers[0].weight.fill_(-1.0)  # type: ignore[operator]
    layers[1].bias.fill_(2.005)  # type: ignore[operator]  # bfloat16 has 2 and 2.015625
    with torch.autocast("cpu", torch.bfloat16):
        y = Folded().of(layers)(torch.full((1, 1, 1, 1), 2.0))
    assert float(y) == pytest.approx(0.005, rel=0.02)


@torch.no_grad()
def test_the_relu6_of_a_folded_backbone_is_done_by_its_convolutions() -> None:
    torch.manual_seed(0)
    layers = settled(backbone("efficientnet-lite0", "stage3")[0])
    x, folded = torch.randn(1, 3, 64, 64), Folded().of(layers)
    assert not any(isinstance(m, nn.ReLU6) for m in folded.modules())
    torch.testing.assert_close(folded(x), layers(x), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_changed_tensor_is_noticed() -> None:
    model, x = hybrid(), picture()
    before = model.to_cut(x)
    norm = next(m for m in model.below.modules() if isinstance(m, nn.BatchNorm2d))
    norm.bias += 1.0
    after = model.to_cut(x)
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, model.below(x), rtol=1e-10, atol=1e-10)
    model.load_state_dict(hybrid().state_dict(), assign=True)  # other tensors, none of which was ever changed
    torch.testing.assert_close(model.to_cut(x), before)


@torch.no_grad()
def test_in_training_mode_batches_are_normalised_by_themselves() -> None:
    model, x = hybrid().train(), picture()
    seen = [m.clone() for m in model.below.buffers()]
    cut = model.to_cut(x)
    assert any(not torch.equal(a, b) for a, b in zip(seen, model.below.buffers(), strict=True))
    assert not torch.allclose(cut, model.eval().to_cut(x))


@torch.no_grad()
def test_copies_and_files_of_a_network_have_a_folding_of_their_own() -> None:
    model, x = hybrid(), picture()
    before = model.to_cut(x)
    other = copy.deepcopy(model)
    next(other.below.parameters()).zero_()
    assert not torch.allclose(other.to_cut(x), before)
    torch.testing.assert_close(model.to_cut(x), before)
    file = io.BytesIO()
    torch.save(model, file)
    small = file.tell()
    again = torch.load(io.BytesIO(file.getvalue()), weights_only=False)
    torch.testing.assert_close(again.to_cut(x), before)
    fresh = io.BytesIO()
    torch.save(hybrid(), fresh)
    assert small <= 1.01 * fresh.tell()  # the folded copy is not in the file


@pytest.mark.parametrize("name", SMALL)
@torch.no_grad()
def test_a_bcos_network_computes_the_same(name: str) -> None:
    model, x = small(name)
    for norm in (m for m in model.modules() if isinstance(m, UncentredBatchNorm2d)):
        norm.weight[0] = -norm.weight[0]  # trained ones can be negative
    assert isinstance(model, BcosNet)
    folded = Folded().of(model.backbone)
    assert folded is not model.backbone
    torch.testing.assert_close(folded(x), model.backbone(x), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(model(x), model.logits_of(model.backbone(x)), rtol=1e-10, atol=1e-10)
    left = sum(isinstance(m, UncentredBatchNorm2d) for m in folded.modules())
    # Those before a convolution stay: of each layer of a DenseNet, before its pools and its classifier.
    assert left == {"densenet": 5, "convnext, bnu": 2}.get(name, 0)
    assert not any(m.unit for m in folded.modules() if isinstance(m, BcosConv2d | BcosLinear))


@pytest.mark.parametrize("b", [1.0, 1.5, 2.0])
@pytest.mark.parametrize("groups", [1, 2])
def test_the_larger_of_two_responses_is_the_same_without_a_choice(groups: int, b: float) -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(BcosConv2d(4, 6, 3, stride=2, padding=1, groups=groups, b=b, max_out=2, scale=0.3))
    layers.double().eval().requires_grad_(False)
    x = torch.randn(2, 4, 9, 7, dtype=torch.float64, requires_grad=True)
    found = list[tuple[Tensor, Tensor]]()
    with held():
        folded = Folded().of(layers)
        assert folded[0].halved == (groups == 1)  # type: ignore[index]
        for module in (layers, folded):
            y = module(x)
            found.append(
                (y.detach(), torch.autograd.grad((y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum(), x)[0])
            )
    for plain, other in zip(*found, strict=True):
        torch.testing.assert_close(other, plain, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", [nn.Sequential, Crossed])
@torch.no_grad()
def test_a_norm_that_is_defined_behind_another_layer_stays(kind: type[nn.Sequential]) -> None:
    layers = kind(BcosConv2d(4, 4, 1), BcosConv2d(4, 4, 1), UncentredBatchNorm2d(4)).double().eval()
    layers[2].weight.copy_(torch.tensor([0.5, 2.0, -1.0, 3.0]))  # type: ignore[operator]
    x = torch.rand(1, 4, 3, 3, dtype=torch.float64)
    torch.testing.assert_close(Folded().of(layers)(x), layers(x))


@torch.no_grad()
def test_watched_layers_compute_themselves() -> None:
    model, x = small("resnet, basic")
    seen = list[nn.Module]()
    layer = model.get_submodule("backbone.layer1.0.bn1")
    handle = layer.register_forward_hook(lambda module, *_: seen.append(module))
    model(x)
    assert seen == [layer]
    handle.remove()
    model(x)
    assert seen == [layer]


def test_what_one_thread_looks_at_changes_nothing_in_another() -> None:
    model, _ = small("resnet, basic")
    assert isinstance(model, BcosNet)

    @torch.no_grad()
    def is_folded(_: object = None) -> bool:
        return model._folded.of(model.backbone) is not model.backbone

    with watching(lambda *_: None), ThreadPoolExecutor(1) as pool:
        assert not is_folded()
        assert not any(each(is_folded, "abcd"))  # lanes compute for the thread that looks
        assert pool.submit(is_folded).result()
        with as_defined(False):
            assert not is_folded()
    assert is_folded()
    assert all(each(is_folded, "abcd"))


def test_only_what_its_own_thread_computes_is_looked_at() -> None:
    layer, seen = nn.Linear(2, 2), list[nn.Module]()
    with watching(lambda module, _: seen.append(module)), ThreadPoolExecutor(1) as pool:
        pool.submit(layer, torch.rand(2)).result()
        assert not seen
        layer(torch.rand(2))
        assert not layer._forward_hooks
    layer(torch.rand(2))
    assert seen == [layer]


def test_a_decomposition_takes_the_folded_layers_and_gives_no_parameter_a_gradient() -> None:
    model, x = small("resnet, basic")
    assert isinstance(model, BcosNet)
    model.requires_grad_(True)
    leaves = gradient_leaves(held_pass(model, x).logits)
    assert len(leaves) == 1
    with held():
        assert model._folded.of(model.backbone) is not model.backbone
    assert model._folded.of(model.backbone) is model.backbone  # gradients can be asked for


@pytest.mark.parametrize("name", ["resnet, basic", "vit", "densenet"])
@torch.no_grad()
def test_in_bfloat16_the_layer_that_sees_the_picture_loses_nothing_of_it(name: str) -> None:
    model, _ = small(name, torch.float32)
    layers = [m for m in model.modules() if isinstance(m, BcosConv2d | BcosLinear)]
    assert [layer.full for layer in layers] == [True] + [False] * (len(layers) - 1)
    for layer in layers[:2]:
        shape = (1, layer.linear.weight.shape[1], 9, 9) if isinstance(layer, BcosConv2d) else layer.linear.weight.shape
        x = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        expected = layer(x).bfloat16()
        with torch.autocast("cpu", torch.bfloat16):
            found = layer(x)
        assert found.dtype == torch.bfloat16
        assert torch.equal(found, expected) == layer.full


@pytest.mark.parametrize("name", ["resnet, basic", "vit", "densenet"])
def test_bfloat16_stays_bfloat16_and_near(name: str) -> None:
    model, x = small(name, torch.float32)
    exact = decompose(model, x, 0)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = decompose(model, x, 0)
        assert model._folded.of(model.backbone) is model._folded.of(model.backbone)  # type: ignore[operator, union-attr]
    error = (exact.pixels - rounded.pixels).abs().sum() / exact.contributions.abs().sum()
    assert 0 < float(error) < 0.05
    assert bool(rounded.exact.all())


@pytest.mark.parametrize(("name", "folder"), [("cifar10-bcos", "cifar10/pictures"), ("imagenet", "pictures")])
def test_in_bfloat16_maps_of_trained_networks_are_one_percent_off_at_most(name: str, folder: str) -> None:
    wide, net = coda_cli.load(name, dtype=torch.float64), coda_cli.load(name)
    for path in sorted((Path(__file__).parents[1] / "examples" / folder).glob("*.png"))[:4]:
        exact = coda_cli.explain(path, wide, precision="float64")
        rounded = coda_cli.explain(path, net, classes=[exact.targets[0].index], precision="bfloat16")
        assert np.abs(rounded.maps[0] - exact.maps[0]).sum() <= 0.01 * np.abs(exact.maps[0]).sum()


def test_a_processor_without_products_in_bfloat16_explains_in_it_too(tmp_path: Path) -> None:
    picture_path, options = (
        program.photo(tmp_path / "a.png"),
        ("-m", "imagenet", "--precision", "bfloat16", "--json", "-o"),
    )
    (usual,) = program.run_process("explain", picture_path, *options, tmp_path / "usual").records
    without = {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    said = program.run_process("explain", picture_path, *options, tmp_path / "plain", env=without)
    (plain,) = said.records
    assert plain["explained"][0]["exact"]
    assert "coda: this processor only emulates bfloat16, slowly; --precision float32 is faster" in said.err
    assert plain["top"][0]["name"] == usual["top"][0]["name"]
    assert plain["top"][0]["logit"] == pytest.approx(usual["top"][0]["logit"], rel=0.02)


def test_everything_works_inside_inference_mode() -> None:
    x = picture()
    with torch.inference_mode():
        model = hybrid()
        inside = model.to_cut(x)
    torch.testing.assert_close(inside, hybrid().to_cut(x).detach(), rtol=1e-10, atol=1e-10)
