"""B-cos networks: layer counts and keys as published, layers as defined, maps exact pixel by pixel.

The definition of a map is the network itself with its dynamic quantities replayed. ``frozen`` notes what every ``hold``
got for one input and gives just that for every other: what remains must be affine in the input, and its matrix, column
by column from the pictures of a basis, is W(x). No gradient is involved.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coda_cli.core import bcos, held, vit
from coda_cli.core.bcos import BcosConv2d, BcosLinear, UncentredBatchNorm2d
from coda_cli.core.decompose import decompose
from coda_cli.core.networks import ARCHITECTURES, build
from coda_cli.core.vit import positional_embedding

BIAS = -math.log(999)


def patch_hold(patch: pytest.MonkeyPatch, hold: Callable[[Tensor], Tensor]) -> None:
    """Another ``hold`` wherever there is one."""
    for module in (bcos, vit):
        patch.setattr(module, "hold", hold)


V1 = {"norm": "none", "max_out": 2, "classes": 1000, "bias": math.log(0.01 / 0.99)}

# Architecture, arguments, parameters and tensors in its file, as the published networks have them.
PUBLISHED: dict[str, tuple[str, dict[str, Any], int, int]] = {
    "v1 9L-M2": ("bcos_chain", {"channels": [6, 64, 64, 128, 128, 128, 256, 256, 256, 10], "kernels": [3] * 8 + [1],
                                "strides": [1, 1, 2, 1, 1, 2, 1, 1, 1], "b": 2, "max_out": 2, "scale": 0.056,
                                "temperature": 100, "bias": math.log(0.1 / 0.9)}, 3772160, 9),
    "v1 densenet_121": ("bcos_densenet", {**V1, "blocks": [6, 12, 24, 16], "growth": 32, "first": 64,
                                          "scale_factor": 100, "temperature": 1e-3}, 15807232, 121),
    "v1 resnet_34": ("bcos_resnet", {**V1, "blocks": [3, 4, 6, 3], "bottleneck": False, "scale_factor": 100}, 43578112,
                     37),
    "v1 vgg_11": ("bcos_vgg", {**V1, "scale_factor": 1000}, 265706240, 11),
    # 6,647,808 parameters and three tensors fewer than in the file: the auxiliary head, which only training uses.
    "v1 inception_v3": ("bcos_inception", {"classes": 1000, "bias": 0.0}, 54247808 - 6647808, 98 - 3),
    "resnet18": ("bcos_resnet", {"blocks": [2, 2, 2, 2], "bottleneck": False}, 11693120, 0),
    "resnet34": ("bcos_resnet", {"blocks": [3, 4, 6, 3], "bottleneck": False}, 21797568, 0),
    "resnet50": ("bcos_resnet", {"blocks": [3, 4, 6, 3], "bottleneck": True}, 25538880, 0),
    "resnet101": ("bcos_resnet", {"blocks": [3, 4, 23, 3], "bottleneck": True}, 44504896, 0),
    "resnet152": ("bcos_resnet", {"blocks": [3, 8, 36, 3], "bottleneck": True}, 60125504, 0),
    "resnext50": ("bcos_resnet", {"blocks": [3, 4, 6, 3], "bottleneck": True, "groups": 32}, 25003200, 0),
    "densenet121": ("bcos_densenet", {"blocks": [6, 12, 24, 16], "growth": 32, "first": 64}, 7945440, 0),
    "densenet161": ("bcos_densenet", {"blocks": [6, 12, 36, 24], "growth": 48, "first": 96}, 28584144, 0),
    "densenet169": ("bcos_densenet", {"blocks": [6, 12, 32, 32], "growth": 32, "first": 64}, 14078688, 0),
    "densenet201": ("bcos_densenet", {"blocks": [6, 12, 48, 32], "growth": 32, "first": 64}, 19907808, 0),
    "vgg11_bnu": ("bcos_vgg", {}, 132855872, 0),
    "convnext_tiny": ("bcos_convnext", {"dims": [96, 192, 384, 768], "blocks": [3, 3, 9, 3]}, 28543392, 0),
    "convnext_tiny_bnu": ("bcos_convnext", {"dims": [96, 192, 384, 768], "blocks": [3, 3, 9, 3], "norm": "bnu"},
                          28543392, 0),
    "convnext_base": ("bcos_convnext", {"dims": [128, 256, 512, 1024], "blocks": [3, 3, 27, 3]}, 88466304, 0),
    "simple_vit_ti": ("bcos_vit", {"dim": 192, "depth": 12, "patch": 16}, 5800128, 0),
    "simple_vit_s": ("bcos_vit", {"dim": 384, "depth": 12, "patch": 16}, 22217088, 0),
    "simple_vit_b": ("bcos_vit", {"dim": 768, "depth": 12, "patch": 16}, 86901504, 0),
    "simple_vit_l": ("bcos_vit", {"dim": 1024, "depth": 14, "patch": 16}, 178787328, 0),
    "vitc_ti": ("bcos_vit", {"dim": 192, "depth": 11, "stem": [24, 48, 96, 192]}, 5318712, 0),
    "vitc_s": ("bcos_vit", {"dim": 384, "depth": 11, "stem": [48, 96, 192, 384]}, 20878704, 0),
    "vitc_b": ("bcos_vit", {"dim": 768, "depth": 11, "stem": [64, 128, 128, 256, 256, 512]}, 81326016, 0),
    "vitc_l": ("bcos_vit", {"dim": 1024, "depth": 13, "stem": [64, 128, 128, 256, 256, 512]}, 167444160, 0),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_architecture_has_its_published_size(name: str) -> None:
    architecture, arguments, parameters, tensors = PUBLISHED[name]
    with torch.device("meta"):
        model = build(architecture, {"classes": 1000, "bias": BIAS, **arguments} if tensors == 0 else arguments)
    assert sum(p.numel() for p in model.parameters()) == parameters
    if tensors:
        assert len(model.state_dict()) == tensors


# Small networks of every kind, on inputs small enough for a basis.
SMALL: dict[str, tuple[str, dict[str, Any], int]] = {
    **{f"chain, B = {b:g}": ("bcos_chain", {
        "channels": [6, 4, 4, 3], "kernels": [3, 3, 1], "strides": [1, 2, 1], "b": b, "max_out": 2, "scale": 0.7,
        "temperature": 0.5, "bias": -2.0,
    }, 6) for b in (1, 1.25, 1.5, 2, 2.5)},
    "resnet, basic": ("bcos_resnet", {"blocks": [1, 1], "bottleneck": False}, 9),
    "resnet, v1": ("bcos_resnet", {"blocks": [1, 1], "bottleneck": False, "norm": "none", "max_out": 2,
                                   "scale_factor": 100, "temperature": 10.0}, 9),
    "resnext": ("bcos_resnet", {"blocks": [1, 1], "bottleneck": True, "groups": 32}, 9),
    "densenet": ("bcos_densenet", {"blocks": [2, 1], "growth": 4, "first": 8}, 9),
    "convnext, pn": ("bcos_convnext", {"dims": [8, 16], "blocks": [1, 1]}, 8),
    "convnext, bnu": ("bcos_convnext", {"dims": [8, 16], "blocks": [1, 1], "norm": "bnu"}, 8),
    "vit": ("bcos_vit", {"dim": 64, "depth": 2, "patch": 4, "hidden": 32}, 8),
    "vit-c": ("bcos_vit", {"dim": 64, "depth": 1, "stem": [8, 16], "hidden": 32}, 8),
}  # fmt: skip


def small(name: str, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, Tensor]:
    """A network with drawn weights, running variances and layer scales, and two inputs [2, 6, s, s]."""
    torch.manual_seed(3)
    architecture, arguments, size = SMALL[name]
    model = build(architecture, arguments if "channels" in arguments else {"classes": 3, "bias": -1.0, **arguments})
    for module in model.modules():
        if isinstance(module, UncentredBatchNorm2d):
            module.running_var.uniform_(0.01, 0.1)  # type: ignore[operator]
        for key in ("weight", "layer_scale"):
            parameter = getattr(module, key, None)
            if isinstance(parameter, nn.Parameter) and parameter.shape[1:].numel() == 1:
                nn.init.uniform_(parameter, 0.5, 1.5)
    half = torch.rand(2, 3, size, size)
    return model.to(dtype).eval().requires_grad_(False), torch.cat([half, 1 - half], 1).to(dtype)


@contextmanager
def frozen(model: nn.Module, x: Tensor, patch: pytest.MonkeyPatch) -> Iterator[Callable[[Tensor], Tensor]]:
    """The network as a function of other inputs [n, ...], with every dynamic quantity as x [1, ...] had it."""
    noted: list[Tensor] = []
    with patch.context() as p, torch.no_grad():
        patch_hold(p, lambda t: noted.append(t.clone()) or t)  # layers may go on in its place
        model(x)

        def replayed(other: Tensor) -> Tensor:
            left = iter(noted)
            with patch.context() as q, torch.no_grad():
                patch_hold(q, lambda t: (h := next(left)).expand(len(t), *h.shape[1:]))
                y: Tensor = model(other)
            assert next(left, None) is None
            return y

        yield replayed


def by_definition(model: nn.Module, x: Tensor, patch: pytest.MonkeyPatch) -> tuple[Tensor, Tensor]:
    """Contributions [classes, 6, s, s] of x [1, 6, s, s], and what the network gives for nothing at all [classes]."""
    with frozen(model, x, patch) as network:
        constant = network(torch.zeros_like(x))[0]
        basis = torch.eye(x.numel(), dtype=x.dtype).view(-1, *x.shape[1:])
        matrix = network(basis) - constant  # [inputs, classes]
        torch.testing.assert_close(network(x), model(x))
    return (matrix.t() * x.flatten()).view(-1, *x.shape[1:]), constant


@pytest.mark.parametrize("name", SMALL)
def test_a_network_in_training_is_decomposed_as_it_is_and_not_changed(name: str) -> None:
    model, x = small(name)
    expected = decompose(model, x, [1])
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found = decompose(model.train(), x, [1])
    torch.testing.assert_close(found.contributions, expected.contributions)
    assert found.exact.all()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", SMALL)
def test_contributions_equal_the_definition(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = small(name)
    d = decompose(model, x, range(3))
    for i in range(2):
        expected, constant = by_definition(model, x[i : i + 1], monkeypatch)
        scale = float(expected.abs().sum())
        assert float((d.contributions[i] - expected).abs().sum()) < 1e-9 * scale
        torch.testing.assert_close(d.positional[i] + d.bias[i], constant.double(), rtol=1e-9, atol=1e-9)
    assert d.exact.all()
    assert bool((d.positional != 0).all()) == name.startswith("vit")


@pytest.mark.parametrize("name", SMALL)
def test_invariants(name: str) -> None:
    model, x = small(name, torch.float32)
    both, parameters = decompose(model, x, range(3)), [p.clone() for p in model.parameters()]
    assert both.exact.all()
    with torch.no_grad():
        torch.testing.assert_close(both.logits, model(x), rtol=1e-5, atol=1e-5)
    one = decompose(model, x[1:], range(3))
    scale = both.contributions.abs().max()
    torch.testing.assert_close(both[1].contributions, one.contributions, rtol=0, atol=1e-5 * float(scale))
    versus = decompose(model, x, torch.tensor([[1.0, -1.0, 0.0]]))
    difference = both.contributions[:, 0] - both.contributions[:, 1]
    torch.testing.assert_close(versus.contributions[:, 0], difference, rtol=0, atol=1e-5 * float(scale))
    assert versus.exact.all()
    assert all(torch.equal(a, b) for a, b in zip(parameters, model.parameters(), strict=True))


@pytest.mark.parametrize("name", [n for n in SMALL if n != "chain, B = 1"])
def test_a_network_that_holds_nothing_adds_up_all_the_same_and_is_wrong(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x = small(name)
    expected, _ = by_definition(model, x[:1], monkeypatch)
    patch_hold(monkeypatch, lambda t: t)
    d = decompose(model, x[:1], range(3))
    assert float((d.contributions[0] - expected).abs().sum() / expected.abs().sum()) > 0.01


@pytest.mark.parametrize("name", ["chain, B = 2", "chain, B = 1.5", "convnext, pn", "vit", "vit-c", "resnext"])
def test_every_single_hold_is_needed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = small(name)
    expected, _ = by_definition(model, x[:1], monkeypatch)
    calls = 0

    def counting(t: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return held.hold(t)

    patch_hold(monkeypatch, counting)
    decompose(model, x[:1], range(3))
    total, harmless = calls, 0
    for k in range(min(total, 24)):
        turn = iter(range(total))
        patch_hold(monkeypatch, lambda t, k=k, turn=turn: t if next(turn) == k else held.hold(t))
        d = decompose(model, x[:1], range(3))
        harmless += float((d.contributions[0] - expected).abs().sum() / expected.abs().sum()) < 1e-6
    # The choice of a MaxOut has no gradient, and a patch's norm stands inside a quantity that is held again.
    assert harmless < total
    assert harmless <= 2 * sum(isinstance(m, BcosConv2d | BcosLinear) for m in model.modules())


# ---- layers by their formulas ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("b", [1.0, 1.5, 2.0, 2.5])
@pytest.mark.parametrize(("groups", "max_out"), [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2)])
def test_a_convolution_is_its_formula_position_by_position(b: float, groups: int, max_out: int) -> None:
    torch.manual_seed(0)
    layer = BcosConv2d(4, 6, 3, stride=2, padding=1, groups=groups, b=b, max_out=max_out, scale=0.3).double()
    x = torch.randn(1, 4, 7, 5, dtype=torch.float64)
    with torch.no_grad():
        y = layer(x)
    patches = F.unfold(x, 3, padding=1, stride=2)[0].t().view(-1, 4, 9)  # [positions, channels, entries]
    w = layer.linear.weight.detach().view(6, max_out, 4 // groups, 9)
    for p in range(len(patches)):
        for o in range(6):
            group = o * groups // 6
            patch = patches[p, group * 4 // groups : (group + 1) * 4 // groups]
            response = max(float((f / f.norm() * patch).sum()) for f in w[o])
            n = math.sqrt(float((patch**2).sum()) + 1e-6)
            factor = {1.0: 1.0, 2.0: abs(response / n)}.get(b, (abs(response / n) + 1e-6) ** (b - 1))
            expected = response * factor / 0.3
            assert float(y[0].flatten(1)[o, p]) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("broken", [0, 1])
def test_a_filter_without_a_number_is_not_hidden_by_its_neighbour(broken: int) -> None:
    layer = BcosConv2d(4, 1, 1, max_out=2)
    with torch.no_grad():
        layer.linear.weight[broken, 0] = torch.nan
        assert layer(torch.rand(1, 4, 2, 2)).isnan().all()


def test_the_positional_embedding_is_its_formula() -> None:
    pe = positional_embedding(2, 3, 8, torch.zeros(1, dtype=torch.float64))
    for row in range(2):
        for column in range(3):
            omega = [10000 ** -(i / 1) for i in range(2)]
            expected = [
                f(t * o)
                for f, t in ((math.sin, column), (math.cos, column), (math.sin, row), (math.cos, row))
                for o in omega
            ]
            assert pe[3 * row + column].tolist() == pytest.approx(expected)


def test_every_architecture_has_a_small_network_here() -> None:
    untested = set(ARCHITECTURES) - {architecture for architecture, _, _ in SMALL.values()} - {"coda_net"}
    assert untested == {
        "bcos_vgg",
        "bcos_inception",  # too large for a basis: the same layers in the same form
        "hybrid",  # see test_hybrid.py
        "bcosified",  # see test_bcosified.py, as the next two
        "bcosified_vit",
        "bcosified_clip",
        "bias_free",  # see test_bias_free.py
        "standard_vit",
        "torchvision",
        "timm",
        "efficientnet_lite",  # ordinary: see test_ordinary.py
    }


@pytest.mark.parametrize(("name", "size"), [("bcos_inception", 75), ("bcos_vgg", 32)])
def test_networks_too_large_for_a_basis_are_exact(name: str, size: int) -> None:
    torch.manual_seed(0)
    model = build(name, {"classes": 3, "bias": -1.0}).eval().requires_grad_(False)
    for module in model.modules():
        if isinstance(module, UncentredBatchNorm2d):
            module.running_var.fill_(1e-3)  # type: ignore[operator]  # else random layers fade to nothing
    x = torch.rand(1, 6, size, size)
    d = decompose(model, x, 0)
    assert d.exact.all()
    assert float(d.contributions.abs().sum()) > 0
