"""Ordinary networks: the split at every layer is the textbook's, and bugs that are planted in it are seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from textbook import PIECEWISE_LINEAR, WITH_GATES, classifier, layers_and_constants
from torch import Tensor, nn

from coda_cli.core import piecewise
from coda_cli.core.decompose import Decomposition, decompose
from coda_cli.core.depth import LayerShare, shares_by_layer
from coda_cli.core.ordinary import Uncut, map_layers

pytestmark = pytest.mark.usefixtures("seeded")
CLASSES = 5


def picture(side: int, count: int = 1) -> Tensor:
    return torch.randn(count, 3, side, side, dtype=torch.float64)


def shares(model: nn.Module, x: Tensor, target: int) -> list[LayerShare]:
    return shares_by_layer(model, x, F.one_hot(torch.tensor(target), CLASSES).double())


def sums_of(d: Decomposition) -> dict[tuple[str, str], float]:
    found: dict[tuple[str, str], float] = {}
    for c in d.constants:
        found[c.layer, c.kind] = found.get((c.layer, c.kind), 0) + float(c.share)
    return found


def small(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(CLASSES)).double().eval()


def made(*layers: nn.Module, side: int = 9) -> tuple[nn.Sequential, Tensor]:
    model, x = small(*layers), picture(side, 2)
    model(x)
    return model, x


# ---- every family of torchvision's -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PIECEWISE_LINEAR)
def test_the_split_at_every_layer_is_the_textbook_s(name: str) -> None:
    model, x = classifier(name), picture(PIECEWISE_LINEAR[name])
    layers, constants = layers_and_constants(model, x, 2)
    d, of_layers = decompose(model, x, 2), shares(model, x, 2)
    assert d.exactness == "piecewise linear"
    assert not d.unknown
    size = float(d.tolerance) / 1e-10  # sum of all magnitudes
    assert abs(float(d.residual)) <= 1e-12 * size
    torch.testing.assert_close(d.contributions[0, 0], layers[0].products, rtol=1e-9, atol=1e-13 * size)
    found = sums_of(d)
    assert found.keys() == constants.keys()
    assert found == pytest.approx(constants, rel=1e-9, abs=1e-13 * size)
    by_name = {layer.name: layer.products for layer in layers}
    for share in of_layers:
        # The textbook's sums stand for each layer, and none of them leaves more than rounding.
        assert float(share.pixels.double().sum()) == pytest.approx(float(by_name[share.name].sum()), abs=1e-6 * size)
        assert abs(share.residual) <= 1e-12 * share.tolerance / 1e-10
        assert share.exact
    assert len(of_layers) > 3


@pytest.mark.parametrize("name", WITH_GATES)
def test_with_held_gates_it_adds_up_at_every_layer_and_is_called_a_definition(name: str) -> None:
    model, x = classifier(name), picture(WITH_GATES[name])
    d = decompose(model, x, 2)
    assert d.exactness == "held gates"
    assert abs(float(d.residual)) <= float(d.tolerance) / 100
    with torch.no_grad():
        torch.testing.assert_close(d.logits, model(x), rtol=1e-10, atol=1e-10)
    assert all(share.exact for share in shares(model, x, 2))


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "swin_t", "densenet121"])
def test_a_cut_is_what_the_layer_has(name: str) -> None:
    """Also in batches, where each input has its own constants, and with several classes."""
    side = (PIECEWISE_LINEAR | WITH_GATES)[name]
    model, x = classifier(name), picture(side, 2)
    names = map_layers(Uncut(model, None), x[:1])
    for cut in names[:: max(1, len(names) // 2)]:
        d = decompose(model, x, [2, 4], cut=cut)
        assert d.exact.all()
        for b in range(2):
            expected = next(s for s in shares(model, x[b : b + 1], 4) if s.name == cut)
            torch.testing.assert_close(d.pixels[b, 1].float(), expected.pixels, rtol=1e-5, atol=1e-7)
            assert float(d.bias[b, 1]) == pytest.approx(expected.bias, rel=1e-8, abs=1e-10)


def test_at_the_last_map_only_the_classifier_s_bias_is_constant() -> None:
    model, x = classifier("resnet18"), picture(64)
    d = decompose(model, x, [1, 3], cut="layer4")
    assert [(c.layer, c.kind) for c in d.constants] == [("fc", "bias")]
    torch.testing.assert_close(d.bias[0], model.fc.bias[[1, 3]].detach())  # type: ignore[union-attr, index]
    assert d.inputs.shape == (1, 512, 2, 2)


# ---- one function after the other ------------------------------------------------------------------------------------


LAYERS: dict[str, nn.Module] = {
    "conv": nn.Conv2d(3, 4, 3), "conv transpose": nn.ConvTranspose2d(3, 4, 3), "grouped": nn.Conv2d(3, 6, 3, groups=3),
    "batch norm": nn.BatchNorm2d(3), "batch norm without parameters": nn.BatchNorm2d(3, affine=False),
    "relu": nn.ReLU(), "relu6": nn.ReLU6(), "leaky": nn.LeakyReLU(0.2), "prelu": nn.PReLU(3),
    "hardtanh": nn.Hardtanh(-0.3, 0.4), "relu6 in place": nn.ReLU6(inplace=True), "max": nn.MaxPool2d(2),
    "average": nn.AvgPool2d(3, 2, 1), "adaptive max": nn.AdaptiveMaxPool2d(3), "dropout": nn.Dropout(), "up":
    nn.Upsample(scale_factor=2), "gelu": nn.GELU(), "gelu tanh": nn.GELU("tanh"), "silu": nn.SiLU(inplace=True),
    "hardswish": nn.Hardswish(), "mish": nn.Mish(), "elu": nn.ELU(), "tanh": nn.Tanh(), "layer norm":
    nn.LayerNorm([3, 9, 9]), "group norm": nn.GroupNorm(1, 3), "local response": nn.LocalResponseNorm(2),
    "threshold": nn.Threshold(0.1, -0.7), "border": nn.ConstantPad2d(1, 0.7), "random slope": nn.RReLU(),
    "instance norm": nn.InstanceNorm2d(3, affine=True), "instance norm of training":
    nn.InstanceNorm2d(3, affine=True, track_running_stats=True), "halves": nn.Sequential(nn.Conv2d(3, 8, 1), nn.GLU(1)),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_that_is_known_adds_up(name: str) -> None:
    first = nn.Conv2d(3, 3, 1)
    model, x = made(
        first, LAYERS[name], nn.Conv2d(6 if name == "grouped" else 4 if "conv" in name or name == "halves" else 3, 3, 1)
    )
    for module in model.modules():  # all constants away from 0
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()  # type: ignore[union-attr]
    x = 3 * x
    d = decompose(model, x, range(CLASSES))
    assert d.exact.all()
    assert not d.unknown
    with torch.no_grad():
        torch.testing.assert_close(d.logits, model(x))


class Written(nn.Module):
    """A network written with functions, operators and constants of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.shift, self.token = nn.Parameter(torch.randn(3, 1, 1)), nn.Parameter(torch.randn(1, 3, 1))
        self.linear = nn.Linear(3, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = 2 - F.relu6(x * 3 + self.shift) / 1.5
        x = x * torch.sigmoid(x.mean((2, 3), keepdim=True))
        tokens = torch.cat([self.token.expand(len(x), -1, -1), x.flatten(2)], 2).transpose(1, 2)
        tokens = tokens + F.scaled_dot_product_attention(tokens, tokens, tokens)
        y: Tensor = self.linear(tokens.mean(1) + 1)
        return y


def test_constants_of_functions_and_operators_are_seen() -> None:
    model = Written().double()
    d = decompose(model, picture(4, 3), [0, 1])
    assert d.exact.all()
    assert {c.kind for c in d.constants} == {"added", "saturation", "token", "bias"}
    assert d.exactness == "held gates"


class Function(nn.Module):
    """A function as a layer."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


_EDGE = torch.tensor(0.1, dtype=torch.float64)
PIECEWISE: dict[str, Callable[[Tensor], Tensor]] = {
    "larger of two": lambda x: torch.maximum(x, _EDGE),
    "larger, the constant first": lambda x: torch.maximum(_EDGE, x),
    "larger of equal ones": lambda x: torch.maximum(x, torch.where(x.detach() > 0, x.detach(), _EDGE)),
    "smaller of two": lambda x: torch.min(x, _EDGE),
    "smaller of two that are live": lambda x: torch.minimum(x, x.flip(3)),
    "bounded below": lambda x: x.clamp_min(0.1),
    "bounded above": lambda x: torch.clamp_max(x, 0.1),
    "places filled": lambda x: x.masked_fill(x < 0, 0.7),
    "chosen": lambda x: torch.where(x > 0, x, torch.full_like(x, 0.7)),
    "chosen by a method": lambda x: x.where(x > 0, _EDGE),
    "strongest": lambda x: x * (x >= x.flatten(2).topk(9).values[..., -1:, None]),
    "magnitude": lambda x: x.abs(),
    "matrices": lambda x: torch.baddbmm(
        torch.ones(3, 9, 9).double().repeat(2, 1, 1), x.flatten(0, 1), x.new_ones(6, 9, 9)
    ).view_as(x),
}


@pytest.mark.parametrize("name", PIECEWISE)
def test_choices_that_functions_make_are_piecewise_linear_with_constants(name: str) -> None:
    model, x = made(nn.Conv2d(3, 3, 1), Function(PIECEWISE[name]), nn.Conv2d(3, 3, 1))
    d = decompose(model, 3 * x, range(CLASSES))
    assert d.exact.all()
    assert not d.unknown
    assert d.exactness == "piecewise linear"


def test_what_adds_up_by_chance_is_no_theorem() -> None:
    """A deviation is homogeneous: its input times its gradient is it, though nothing about it is linear."""
    model, x = made(nn.Conv2d(3, 3, 1, bias=False), Function(lambda x: x.std((2, 3), keepdim=True)))
    d = decompose(model, x, 0)
    assert d.exact.all()
    assert d.unknown == ("std in Function",)
    assert d.exactness == "held gates"


def test_a_product_of_matrices_that_both_see_the_input_is_named() -> None:
    model, x = made(nn.Conv2d(3, 4, 3), Function(lambda x: x @ x.transpose(2, 3)))
    d = decompose(model, x, 0)
    assert not d.exact.any()
    assert d.unknown == ("a product of two functions of the input in Function",)


class Unknown(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.exp(x) + x


def test_what_is_not_known_leaves_a_residual_and_a_name() -> None:
    model, x = made(nn.Conv2d(3, 4, 3), Unknown())
    d = decompose(model, x, 0)
    assert not d.exact.any()
    assert d.unknown == ("exp in Unknown",)


def test_a_product_of_two_functions_of_the_input_is_not_exact() -> None:
    class Squared(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * x

    model, x = made(nn.Conv2d(3, 4, 3), Squared())
    d = decompose(model, x, 0)
    assert not d.exact.any()
    assert d.unknown == ("a product of two functions of the input in Squared",)


def test_what_a_cut_would_not_see_cannot_be_cut() -> None:
    model, x = classifier("resnet18"), picture(32)
    with pytest.raises(ValueError, match=r"cannot be cut at 'layer4.0.conv1'; it can be cut at layer4.0"):
        decompose(model, x, 0, cut="layer4.0.conv1")
    with pytest.raises(ValueError, match="cannot be cut at 'layer5'"):
        decompose(model, x, 0, cut="layer5")
    with pytest.raises(ValueError, match="cannot be cut at 'fc'"):
        decompose(model, x, 0, cut="fc")


def test_batch_statistics_and_a_softmax_at_the_end_are_refused() -> None:
    model, x = made(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    with pytest.raises(ValueError, match="takes its statistics from the batch"):
        decompose(model.train(), x, 0)
    with pytest.raises(ValueError, match="nothing linear leads from the input to the logits"):
        decompose(nn.Sequential(model.eval(), nn.Softmax(1)), x, 0)


def test_the_model_is_not_modified() -> None:
    model, x = classifier("resnet18"), picture(32)
    hooks = sum(len(m._forward_hooks) for m in model.modules())
    before = {key: value.clone() for key, value in model.state_dict().items()}
    decompose(model, x, 0, cut="layer3")
    assert sum(len(m._forward_hooks) for m in model.modules()) == hooks == 0
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


# ---- planted bugs ----------------------------------------------------------------------------------------------------


def _without(rule: str) -> Any:
    return lambda patch: patch.setitem(piecewise._RULES, rule, lambda _, func, *args, **kw: func(*args, **kw))


def _folded(patch: pytest.MonkeyPatch) -> None:
    """Constants are not reported: what they add would have to be the positions'."""
    patch.setattr(piecewise.Linearised, "note", lambda *_: None)


PLANTED = {
    "borders unseen": _without("pad"),
    "choices unseen": _without("maximum"),
    "biases unseen": _without("conv2d"),
    "batch norms unseen": _without("batch_norm"),
    "saturations unseen": _without("hardtanh"),
    "constants folded into positions": _folded,
}


@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_bug_leaves_a_residual(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    larger, border = Function(PIECEWISE["larger of two"]), nn.ConstantPad2d(1, 0.7)
    model, x = made(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU6(), nn.Conv2d(4, 4, 1), larger, border)
    model[1].running_mean.normal_()  # type: ignore[operator]
    x = 10 * x
    assert decompose(model, x, 0).exact.all()
    PLANTED[bug](monkeypatch)
    assert not decompose(model, x, 0).exact.any()


def test_completeness_is_not_enough_gates_that_are_not_held_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    """An attention whose queries and keys are differentiated too gives other maps."""
    model, x = Written().double(), picture(4, 2)
    honest = decompose(model, x, 0)
    monkeypatch.setitem(piecewise._RULES, "scaled_dot_product_attention", lambda _, func, *a, **k: func(*a, **k))
    assert not torch.allclose(decompose(model, x, 0).contributions, honest.contributions)
