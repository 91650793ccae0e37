"""B-cosified networks: equal to their formulas written out, exact with the mean subtracted, converted as published."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import oracle_bcosified as oracle
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from coda_cli.core import abilities
from coda_cli.core.bcos import BcosConv2d, HeldGELU, UncentredBatchNorm2d
from coda_cli.core.bcosified import bcosify
from coda_cli.core.decompose import decompose
from coda_cli.core.depth import shares_by_layer
from coda_cli.core.networks import build, encode
from coda_cli.core.vit import positional_embedding

BIAS = -math.log(999)
IMAGENET = {"classes": 1000, "bias": BIAS}

# Architecture, arguments, parameters, tensors in the authors' file, side of the test's pictures.
NETWORKS: dict[str, tuple[str, dict[str, Any], int, int, int]] = {
    "resnet18": ("bcosified", {**IMAGENET, "name": "resnet18"}, 11693120, 101, 64),
    "resnet50": ("bcosified", {**IMAGENET, "name": "resnet50"}, 25538880, 266, 64),
    "densenet121": ("bcosified", {**IMAGENET, "name": "densenet121"}, 7945440, 605, 64),
    "simple_vit_ti": ("bcosified_vit", {**IMAGENET, "dim": 192, "depth": 12, "patch": 16}, 5800128, 75, 64),
    "vitc_ti": ("bcosified_vit", {**IMAGENET, "dim": 192, "depth": 11, "stem": [24, 48, 96, 192]}, 5318712, 77, 64),
    "clip": ("bcosified_clip", {"blocks": [3, 4, 6, 3], "width": 64, "embedding": 1024, "classes": 5}, 38181568, 279,
             64),
}  # fmt: skip


def settled(model: nn.Module, x: Tensor) -> nn.Module:
    """A drawn network whose batch norms have seen x, so that its numbers do not fade from layer to layer."""
    for module in model.modules():
        if isinstance(module, UncentredBatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(x)
    return model.eval().requires_grad_(False)


def network(name: str) -> tuple[nn.Module, Tensor]:
    """A drawn network in float64, and two pictures [2, 6, side, side]."""
    torch.manual_seed(5)
    architecture, arguments, _, _, side = NETWORKS[name]
    model, x = build(architecture, arguments).double(), encode(torch.rand(2, 3, side, side, dtype=torch.float64))
    if name == "clip":
        model.above.text = F.normalize(torch.randn(5, 1024, dtype=torch.float64))  # type: ignore[union-attr]
    return settled(model, x), x


_DENSE = {"conv0": 0, "norm0": 1, "denseblock1": 4, "transition1": 5, "denseblock2": 6, "transition2": 7,
          "denseblock3": 8, "transition3": 9, "denseblock4": 10, "norm5": 11}  # fmt: skip


def authors_names(model: nn.Module) -> dict[str, Tensor]:
    """A network's tensors under the names of the authors' files."""
    state = {}
    for key, value in model.state_dict().items():
        parts = key.removeprefix("above.backbone.").split(".")
        if parts[0] == "features":
            parts[1] = str(_DENSE[parts[1]])
            if parts[1] in ("5", "7", "9"):
                parts[2] = {"norm": "0", "conv": "2"}[parts[2]]
        if key != "above.text":
            state[".".join(parts)] = value
    return state


def by_formulas(model: nn.Module, name: str, n: Tensor, hold: Callable[[Tensor], Tensor]) -> Tensor:
    """The logits less the bias, of centred pictures, by the formulas."""
    W = authors_names(model)
    if name == "clip":
        return oracle.clip(W, n, hold, model.above.text)  # type: ignore[union-attr, arg-type]
    if "vit" in name:
        tokens = NETWORKS[name][4] // 16
        return oracle.vit(W, n, hold, positional_embedding(tokens, tokens, 192, n))
    return (oracle.densenet if name.startswith("densenet") else oracle.resnet)(W, n, hold)


def expected(model: nn.Module, name: str, x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Logits less the bias [B, classes], and the contributions [B, 6, h, w] to logit k, by the formulas."""
    n = oracle.centred(x, oracle.CLIP if name == "clip" else oracle.IMAGENET).requires_grad_()
    logits = by_formulas(model, name, n, Tensor.detach)
    (gradient,) = torch.autograd.grad(logits[:, k].sum(), n)
    return logits.detach(), (n * gradient).detach()


def check(name: str) -> None:
    """A network, its maps and their magnitudes equal the formulas, and nothing is left over. Raises AssertionError."""
    model, x = network(name)
    logits, contributions = expected(model, name, x, 3)
    d = decompose(model, x, 3)
    torch.testing.assert_close(d.logits - abilities.bias_of(model), logits, rtol=1e-9, atol=1e-12)
    size = contributions.abs().sum((1, 2, 3))
    assert float(size.min()) > 1e-6, "the network gives nothing, and so nothing is compared"
    assert float(((d.contributions[:, 0] - contributions).abs().sum((1, 2, 3)) / size).max()) < 1e-9
    torch.testing.assert_close(d.contributions[:, 0].abs().sum((1, 2, 3)), size, rtol=1e-9, atol=0)
    assert float((d.residual[:, 0].abs() / size).max()) < 1e-10


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_equals_its_formulas(name: str) -> None:
    check(name)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_has_its_published_size(name: str) -> None:
    architecture, arguments, parameters, tensors, _ = NETWORKS[name]
    with torch.device("meta"):
        model = build(architecture, arguments)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert len([key for key in model.state_dict() if key != "above.text"]) == tensors


@pytest.mark.parametrize("name", ["resnet18", "vitc_ti", "clip"])
def test_filters_of_norm_one_are_another_network(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def unit(self: BcosConv2d) -> Tensor:
        w = self.linear.weight
        norm: Tensor = w / w.flatten(1).norm(dim=1)[:, None, None, None]
        return norm

    monkeypatch.setattr(BcosConv2d, "filters", unit)
    with pytest.raises(AssertionError):
        check(name)


def off(products: Tensor, d: Any) -> float:
    """How far contributions [B, 6, h, w] miss the logit, as a share of the sum of their magnitudes; the mean of all."""
    rest = (d.logit - d.bias - d.positional)[:, 0]
    return float(((products.sum((1, 2, 3)) - rest).abs() / products.abs().sum((1, 2, 3))).mean())


@pytest.mark.parametrize("name", ["resnet18", "densenet121"])
def test_the_picture_times_the_gradient_misses_what_the_mean_takes_away(name: str) -> None:
    model, x = network(name)
    d = decompose(model, x, 3)
    assert off(d.contributions[:, 0], d) < 1e-12
    deviation = torch.tensor((0.229, 0.224, 0.225) * 2, dtype=torch.float64)[:, None, None]
    assert off(x * d.dynamic_weights[:, 0] / deviation, d) > 1e-3


@pytest.mark.parametrize("name", ["resnet18", "clip"])
def test_a_pixel_of_the_mean_colour_contributes_nothing(name: str) -> None:
    model, x = network(name)
    zero = torch.tensor(abilities.zero(model), dtype=torch.float64)
    x[:, :, :20, :20] = encode(zero[None, :, None, None]).expand(2, 6, 20, 20)
    d = decompose(model, x, 3)
    assert float(d.pixels[..., :20, :20].abs().max()) < 1e-12 * float(d.pixels.abs().max())
    assert abilities.cut(model) is None


def test_a_cosine_with_a_norm_that_is_not_held_sums_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = network("clip")
    d = decompose(model, x, 3)
    assert (d.logit.abs() > 1e-3).all()
    torch.testing.assert_close(d.contributions.sum((2, 3, 4)), d.logit, rtol=1e-9, atol=1e-12)
    monkeypatch.setattr("coda_cli.core.bcosified_clip.hold", lambda t: t if t.ndim == 2 else t.detach())
    d = decompose(model, x, 3)
    assert float((d.contributions.sum((2, 3, 4)) / d.contributions.abs().sum((2, 3, 4))).abs().max()) < 1e-12


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "vitc_ti", "clip"])
def test_every_layer_is_exact(name: str) -> None:
    model, x = network(name)
    one = torch.zeros(len(model(x[:1])[0]), dtype=torch.float64)
    one[3] = 1
    shares = shares_by_layer(model, x[:1], one)
    assert shares[0].name == "input"
    assert len(shares) > 4
    assert all(s.exact and not s.approximate for s in shares)
    torch.testing.assert_close(shares[0].pixels, decompose(model, x[:1], 3).pixels[0, 0].float())


def test_probabilities_are_those_of_the_network_above() -> None:
    logits = torch.tensor([[0.2, 0.1, 0.0, 0.0, 0.0]])
    clip, _ = network("clip")
    assert torch.equal(abilities.probabilities(clip, logits), (100 * logits).softmax(1))
    resnet, _ = network("resnet18")
    assert torch.equal(abilities.probabilities(resnet, logits), logits.sigmoid())
    assert abilities.averages_class_maps(resnet)
    assert not abilities.averages_class_maps(clip)


def test_gelu_keeps_its_values_and_is_linear_when_held() -> None:
    x = torch.linspace(-3, 3, 7, dtype=torch.float64)
    torch.testing.assert_close(HeldGELU()(x), F.gelu(x))


# ---- conversion ------------------------------------------------------------------------------------------------------


def without_constants(model: nn.Module) -> nn.Module:
    """An ordinary network without biases, means and max pools."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.zeros_(module.bias)
            module.running_mean.zero_()  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
            nn.init.uniform_(module.weight, 0.5, 1.5)
        elif isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
            nn.init.zeros_(module.bias)
        for name, child in module.named_children():
            if isinstance(child, nn.MaxPool2d):
                setattr(module, name, nn.AvgPool2d(3, 2, 1))
    return model.double().eval().requires_grad_(False)


class Depthwise(nn.Module):
    """A block with a shortcut, as a network of one's own could have it."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.norm, self.activation = nn.BatchNorm2d(8), nn.ReLU6()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.activation(self.norm(self.wide(x)) / 100)  # nothing saturates
        return y


class Same(nn.Conv2d):
    """A convolution that puts its zeros right and below, as TensorFlow's do."""

    def padded(self, x: Tensor) -> Tensor:
        return F.pad(x, (0, 1, 0, 1))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.padded(x))


def chain() -> nn.Module:
    first = nn.Sequential(Same(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), Depthwise())
    return nn.Sequential(*first, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(8, 5))


ORDINARY: dict[str, Callable[[], nn.Module]] = {
    "resnet18": lambda: torchvision.models.resnet18(weights=None, num_classes=5),
    "resnet50": lambda: torchvision.models.resnet50(weights=None, num_classes=5),
    "densenet121": lambda: torchvision.models.densenet121(weights=None, num_classes=5),
    "a chain": chain,
}


@pytest.mark.parametrize("name", ORDINARY)
def test_without_factor_and_constants_a_converted_network_is_the_ordinary_one(name: str) -> None:
    torch.manual_seed(2)
    ordinary = without_constants(ORDINARY[name]())
    before = {key: value.clone() for key, value in ordinary.state_dict().items()}
    model = bcosify(ordinary, b=1).eval()
    rgb = torch.rand(2, 3, 64, 64, dtype=torch.float64)
    wanted = ordinary(torchvision.transforms.functional.normalize(rgb, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        torch.testing.assert_close(model(encode(rgb)) + math.log(4), wanted, rtol=1e-9, atol=1e-12)
    assert all(torch.equal(value, before[key]) for key, value in ordinary.state_dict().items())


def test_the_first_layer_sees_six_channels_and_no_bias_is_left() -> None:
    ordinary = torchvision.models.resnet18(weights=None, num_classes=5)
    state = bcosify(ordinary).state_dict()
    w = ordinary.conv1.weight
    assert torch.equal(state["above.backbone.conv1.linear.weight"], torch.cat([w, -w], 1) / 2)
    assert torch.equal(state["above.backbone.fc.linear.weight"][..., 0, 0], ordinary.fc.weight)
    assert not [key for key in state if key.endswith("bias")]


@pytest.mark.parametrize("depthwise", [True, False])
def test_a_converted_network_is_exact_also_with_ordinary_depthwise_layers(depthwise: bool) -> None:
    torch.manual_seed(2)
    model = bcosify(chain().double(), mean=(0.5,) * 3, deviation=(0.5,) * 3, depthwise=depthwise)
    x = encode(torch.rand(2, 3, 16, 16, dtype=torch.float64))
    settled(model, x)
    d = decompose(model, x, 1)
    assert float((d.residual / d.contributions.abs().sum((2, 3, 4))).abs().max()) < 1e-12
    kinds = [type(m) for m in model.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    factors = [m for m in model.modules() if isinstance(m, BcosConv2d) and m.linear.groups > 1]
    assert (len(kinds), len(factors)) == (1, int(depthwise))


def test_a_converted_network_can_be_trained() -> None:
    model, x = bcosify(torchvision.models.resnet18(weights=None, num_classes=5)).train(), torch.rand(2, 3, 32, 32)
    model(encode(x)).sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (lambda: torchvision.models.mobilenet_v3_small(weights=None), "MobileNetV3 cannot be converted"),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sigmoid(), nn.Linear(4, 2)), "Sigmoid has no counterpart"),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 3, dilation=2), nn.Linear(4, 2)), "dilation"),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), "does not end in a linear classifier"),
        (lambda: nn.Sequential(nn.Linear(3, 2)), "does not end in a linear classifier"),
    ],
)
def test_what_cannot_be_converted_is_named(model: Callable[[], nn.Module], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        bcosify(model())


@pytest.mark.parametrize("name", ["vgg16", "resnet1"])
def test_a_name_without_a_converted_network_is_an_error(name: str) -> None:
    with pytest.raises(ValueError, match="torchvision"):
        build("bcosified", {"name": name, "classes": 3})


def test_a_tower_of_a_width_that_heads_do_not_divide_is_an_error() -> None:
    with pytest.raises(ValueError, match="heads of 64"):
        build("bcosified_clip", {"blocks": [1], "width": 6, "embedding": 8, "classes": 2})
