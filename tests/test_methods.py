"""Post-hoc methods: each against its definition on small networks, and how they are asked for."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence

import pytest
import torch
from captum._utils.models.linear_model import SkLearnRidge
from captum.attr import Lime
from conftest import Coda
from skimage.segmentation import quickshift
from torch import Tensor, nn

from coda_cli.core.bcos_nets import bcos_chain, bcos_resnet
from coda_cli.core.decompose import decompose
from coda_cli.core.networks import CodaNet, coda_net, encode
from coda_cli.core.standard_nets import StandardNet
from coda_cli.core.vit import bcos_vit
from coda_cli.errors import MediaError, UsageError
from coda_cli.machine import budget
from coda_cli.study import methods
from coda_cli.study.by_name import METHODS, KnownMethod, is_exact, method_of, require, usual
from coda_cli.study.masks import lime, occlusion, rise
from coda_cli.study.methods import _last_map, grad_cam

FAST = {"rise": "rise:masks=16", "lime": "lime:samples=32", "occlusion": "occlusion:window=3,stride=2"}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def small_net() -> CodaNet:
    return coda_net(channels=[6, 4, 3], kernels=[3, 3], strides=[1, 2], ranks=[3, 3], norm="SQ", temperature=2.0).eval()


def picture(h: int = 8, w: int = 6) -> Tensor:
    return encode(torch.rand(1, 3, h, w))


class Linear(nn.Module):
    """Logits that are a known linear function of the six channels, and a bias: every method's answer can be told."""

    def __init__(self, weights: Tensor, bias: float = -1.0) -> None:
        super().__init__()
        self.weights, self.bias = nn.Parameter(weights), bias

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bchw,kchw->bk", x, self.weights) + self.bias


def of_colours(model: Linear) -> Tensor:
    """The gradient with respect to r, g and b [K, 3, h, w]: 1 - r falls as r rises."""
    return (model.weights[:, :3] - model.weights[:, 3:]).detach()


@pytest.mark.parametrize("name", METHODS)
def test_classes_asked_for_together_get_the_maps_they_get_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, method = small_net(), picture(12, 10), method_of(FAST.get(name, name))
    alone = [method(model, x, [c])[0] for c in (2, 0, 2)]
    torch.testing.assert_close(method(model, x, [2, 0, 2]), torch.stack(alone))
    assert not alone[0].equal(alone[1])
    monkeypatch.setattr(budget, "GRAPH_NUMBERS", 1)  # one at a time
    torch.testing.assert_close(method(model, x, [2, 0, 2]), torch.stack(alone))


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("kind", ["coda", "bcos"])
def test_every_method_gives_maps_of_the_picture_s_size_and_leaves_the_network_alone(name: str, kind: str) -> None:
    model: nn.Module = small_net()
    if kind == "bcos":
        model = bcos_chain(
            channels=[6, 4, 3], kernels=[3, 1], strides=[1, 2], b=2.0, max_out=2, scale=0.5, temperature=2.0, bias=-1.0
        ).eval()
    x = picture(12, 10)
    before, hooks = (
        {k: v.clone() for k, v in model.state_dict().items()},
        [len(m._forward_hooks) for m in model.modules()],
    )
    kept = x.clone()
    maps = method_of(FAST.get(name, name))(model, x, [2, 0])
    assert maps.shape == (2, 12, 10)
    assert not maps.requires_grad
    assert torch.isfinite(maps).all()
    assert torch.equal(x, kept)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert [len(m._forward_hooks) for m in model.modules()] == hooks
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(method_of(FAST.get(name, name))(model, x, [2, 0]), maps)  # seeded where it is random


def test_the_methods_by_gradients_are_their_formulas() -> None:
    model, x = Linear(torch.randn(3, 6, 4, 5)), picture(4, 5)
    g = of_colours(model)[[2, 0]]
    rgb = x[:, :3]
    for name, expected in {
        "gradient": g.sum(1),
        "gradient:absolute=1": g.abs().sum(1),
        "guided-backprop": g.sum(1),
        "input-x-gradient": (rgb * g).sum(1),
        "deeplift": (rgb * g).sum(1),
        "integrated-gradients": (rgb * g).sum(1),  # on a straight line
        "gradient:channels=6": model.weights[[2, 0]].sum(1),
        "gradient:absolute=1,channels=6": model.weights[[2, 0]].abs().sum(1),
        "guided-backprop:channels=6": model.weights[[2, 0]].sum(1),
        **{
            f"{name}:channels=6": (x * model.weights[[2, 0]]).sum(1)
            for name in ("input-x-gradient", "deeplift", "integrated-gradients")
        },
        "ours": (x * model.weights[[2, 0]]).sum(1).detach(),
    }.items():
        torch.testing.assert_close(method_of(name)(model, x, [2, 0]), expected.detach(), rtol=1e-4, atol=1e-5, msg=name)


def test_integrated_gradients_add_up_to_the_distance_from_black() -> None:
    model, x = small_net(), picture()
    maps = method_of("integrated-gradients:steps=200")(model, x, [0, 1, 2])
    black = encode(torch.zeros(1, 3, 8, 6))
    expected = (model(x) - model(black))[0].detach()
    torch.testing.assert_close(maps.sum((1, 2)), expected, rtol=2e-2, atol=2e-3)


def test_grad_cam_is_the_positive_part_of_weighted_channels_of_the_last_map() -> None:
    model, x = small_net(), picture()
    last = model.layers(x).detach().requires_grad_()
    logits = last.sum((2, 3)) / model.temperature
    (gradient,) = torch.autograd.grad(logits[0, 1], last)
    expected = (last * gradient.mean((2, 3), keepdim=True)).sum(1).relu()[0]
    blocks = expected.detach().repeat_interleave(2, 0).repeat_interleave(2, 1)
    torch.testing.assert_close(grad_cam(model, x, [1])[0], blocks)


def test_grad_cam_looks_at_what_the_classifier_of_a_b_cos_network_sees() -> None:
    model = bcos_resnet(blocks=[1, 1], bottleneck=False, classes=3, bias=-1.0).eval()
    assert _last_map(model, encode(torch.rand(1, 3, 32, 32))) is model.backbone.layer2[0]
    for embedding in ({"patch": 8}, {"stem": [8, 16]}):  # the maps of a stem are not what the classifier sees
        with pytest.raises(MediaError, match="last layers give maps"):
            grad_cam(bcos_vit(dim=64, depth=1, classes=3, bias=-1.0, **embedding).eval(), picture(16, 16), [0])  # type: ignore[arg-type]


def test_grad_cam_looks_at_what_a_convolution_as_classifier_sees() -> None:
    """SqueezeNet's last maps are the classes' own; ones of as many channels before a linear layer are not."""
    features, classifier = nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(5, 3, 1)
    pooled = nn.Sequential(
        features, nn.ReLU(), classifier, nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    assert _last_map(StandardNet(pooled), picture()) is pooled[1]
    linear = nn.Sequential(nn.Conv2d(3, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3))
    assert _last_map(StandardNet(linear), picture()) is linear[0]


def occlusion_by_definition(model: nn.Module, x: Tensor, classes: Sequence[int], window: int, stride: int) -> Tensor:
    H, W = x.shape[2:]
    maps = torch.zeros(len(classes), H, W)
    for cy in range(0, H + 1, stride):
        for cx in range(0, W + 1, stride):
            hidden = torch.zeros(H, W, dtype=torch.bool)
            for y in range(H):
                for z in range(W):
                    hidden[y, z] = -(window // 2) <= y - cy < window - window // 2 and (
                        -(window // 2) <= z - cx < window - window // 2
                    )
            if hidden.any():
                drop = (model(x) - model(encode(x[:, :3] * ~hidden)))[0, list(classes)]
                maps += drop[:, None, None] * hidden / hidden.sum()
    return maps.detach()


@pytest.mark.parametrize(("window", "stride"), [(4, 2), (3, 2), (1, 1), (5, 4)])
def test_occlusion_is_its_definition(window: int, stride: int) -> None:
    model, x = small_net(), picture(9, 7)
    expected = occlusion_by_definition(model, x, [2, 0], window, stride)
    torch.testing.assert_close(occlusion(model, x, [2, 0], window=window, stride=stride), expected, rtol=0, atol=1e-5)


def test_a_seed_s_maps_are_the_same_however_many_pictures_go_together(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = small_net(), picture(12, 10)
    for name in ("rise:masks=40", "lime:samples=40", "occlusion:window=3,stride=2"):
        together = method_of(name)(model, x, [2])
        with monkeypatch.context() as patch:
            patch.setattr(budget, "MASKED_PIXELS", 7 * 12 * 10)
            torch.testing.assert_close(method_of(name)(model, x, [2]), together)


def test_rise_is_its_definition() -> None:
    """Every mask weighted by the probability that it leaves: cells drawn, enlarged by one more, shifted, cut."""
    model, x, generator = small_net(), picture(12, 9), torch.Generator().manual_seed(7)
    drawn = (torch.rand(20, 1, 4, 4, generator=generator) < 0.3).float()
    down, right = torch.randint(0, 3, (20,), generator=generator), torch.randint(0, 3, (20,), generator=generator)
    expected = torch.zeros(2, 12, 9)
    for cells, y, z in zip(drawn, down.tolist(), right.tolist(), strict=True):
        fine = nn.functional.interpolate(cells[None], (15, 15), mode="bilinear", align_corners=False)[0, 0]
        mask = fine[y : y + 12, z : z + 9]
        p = model(encode(x[:, :3] * mask))[0].sigmoid()
        expected += p[[2, 0], None, None] * mask
    found = rise(model, x, [2, 0], masks=20, cells=4, kept=0.3, seed=7)
    torch.testing.assert_close(found, expected.detach() / (20 * 0.3))


def test_rise_finds_the_pixels_that_matter() -> None:
    weights = torch.zeros(1, 6, 24, 24)
    weights[:, :3, 4:12, 12:20] = 0.05
    found = rise(Linear(weights), encode(torch.full((1, 3, 24, 24), 0.9)), [0], masks=600)[0]
    inside = torch.zeros(24, 24, dtype=torch.bool)
    inside[4:12, 12:20] = True
    assert found[inside].mean() > 1.2 * found[~inside].mean()
    assert found.min() >= 0


def test_lime_is_captum_s_over_superpixels_that_hide_behind_their_mean() -> None:
    model, x = small_net(), picture(24, 20)
    rgb = x[0, :3]
    segments = torch.from_numpy(
        quickshift(rgb.permute(1, 2, 0).double().numpy(), kernel_size=1.0, max_dist=200, ratio=0.2)
    )
    assert segments.max() > 4
    means = torch.stack([torch.stack([c[segments == s].mean() for c in rgb]) for s in range(int(segments.max()) + 1)])
    baseline = means[segments].permute(2, 0, 1)
    torch.manual_seed(7)
    weights = Lime(lambda p: model(encode(p))[:, 1].sigmoid(), interpretable_model=SkLearnRidge(alpha=1.0)).attribute(
        rgb[None], baselines=baseline[None], feature_mask=segments[None, None].expand(1, 3, -1, -1), n_samples=64
    )[0, 0]
    best = weights.unique().sort(descending=True).values[:2]
    assert (best > 0).all()
    assert lime(model, x, [1], samples=64, features=2, seed=7)[0].bool().equal(torch.isin(weights, best))


def test_lime_marks_the_superpixel_that_speaks_for_the_class() -> None:
    rgb = torch.zeros(1, 3, 24, 24)
    rgb[:, 0, 4:12, 12:20] = 1.0
    rgb[:, 2, 14:22, 2:10] = 1.0
    weights = torch.zeros(2, 6, 24, 24)
    weights[0, 0, 4:12, 12:20] = 0.2  # red there speaks for class 0
    weights[1, 2, 14:22, 2:10] = 0.2  # blue there for class 1
    # A mean colour in the place of an even superpixel changes nothing, so the picture gets some grain.
    grain = 0.15 * torch.rand(1, 1, 24, 24)
    weights = weights * (1 + 8 * (grain - grain.mean()))
    found = lime(Linear(weights, bias=-3.0), encode((rgb + grain).clamp(0, 1)), [0, 1], samples=400, features=1)
    assert set(found.unique().tolist()) <= {0.0, 1.0}
    assert found[0, 4:12, 12:20].sum() > 0.5 * found[0].sum() > 0
    assert found[1, 14:22, 2:10].sum() > 0.5 * found[1].sum() > 0


def test_fewer_copies_of_a_picture_go_together_where_their_graph_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = small_net(), picture(12, 10)
    kept = 12 * 10 * 4 * 3 + 5 * 4 * 3 * 3  # positions, outputs and rank of both layers
    for times, copies in ((1, 1), (3.5, 3), (1000, budget.MASKED_PICTURES)):
        monkeypatch.setattr(budget, "GRAPH_NUMBERS", int(times * kept))
        assert methods._copies(model, x) == copies
    monkeypatch.setattr(budget, "GRAPH_NUMBERS", 1)
    assert methods._copies(nn.Conv2d(6, 3, 1), x) == budget.MASKED_PICTURES  # no such layers


def test_ours_alone_adds_up_on_a_network_of_ours() -> None:
    model, x = small_net(), picture()
    owed = (model(x)[0, 1] - model.bias).detach()
    off = {}
    for name in METHODS:
        maps = method_of(FAST.get(name, name))(model, x, [1])
        off[name] = float((maps.sum() - owed).abs() / owed.abs())
    assert off.pop("ours") < 1e-5
    assert min(off.values()) > 1e-3
    torch.testing.assert_close(method_of("ours")(model, x, [1]), decompose(model, x, [1]).pixels[0])


def test_ordinary_networks_have_every_method() -> None:
    backbone = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    model, x = StandardNet(backbone).eval(), picture(12, 12)
    for name in METHODS:
        assert method_of(FAST.get(name, name))(model, x, [0]).shape == (1, 12, 12)
    assert not torch.equal(method_of("gradient")(model, x, [0]), method_of("guided-backprop")(model, x, [0]))


@pytest.mark.parametrize(
    ("text", "said"),
    [("saliency", "no such method"), ("gradient:steps=3", "no parameter steps; it has absolute"),
     ("grad-cam:steps=3", "no parameter steps; it has none"),
     ("occlusion:size=3", "no parameter size; it has window, stride"), ("occlusion:window=x", "expected a number"),
     ("occlusion:window=0", "must be positive"), ("occlusion:window=2.5", "expected a number"),
     ("rise:masks", "expected a number"), ("gradient:absolute=2", "must be 0 or 1"),
     ("deeplift:channels=4", "must be 3 or 6"), ("rise:kept=1.5", "kept is a share, at most 1"),
     ("rise:kept=inf", "must be positive")],
)  # fmt: skip
def test_a_method_that_cannot_be_is_refused(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        method_of(text)


def test_the_help_says_every_parameter_and_its_default(coda: Coda) -> None:
    said = {line.strip() for line in coda("compare", "--help").lines}
    for name, known in METHODS.items():
        parameters = [p for p in inspect.signature(known.function).parameters.values() if p.kind is p.KEYWORD_ONLY]
        if parameters:
            assert f"{name}:{','.join(f'{p.name}={p.default}' for p in parameters)}" in said


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("captum.attr", "sklearn.linear_model", "skimage.segmentation"):
        monkeypatch.setitem(sys.modules, name, None)
    require(["ours", "occlusion:window=3", "rise"])
    with pytest.raises(UsageError, match="captum not installed; get it with: pip install captum"):
        require(["grad-cam"])
    with pytest.raises(
        UsageError,
        match=r"captum, scikit-image, scikit-learn not installed; .* scikit-learn, or .* ours, occlusion, rise",
    ):
        require(["lime"])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_maps_that_are_not_finite_are_nobody_s_result(value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A share of them would be a score like any other."""

    def spoilt(_: object, x: Tensor, classes: list[int]) -> Tensor:
        maps = torch.ones(len(classes), *x.shape[2:])
        maps[-1, 0, 0] = value
        return maps

    monkeypatch.setitem(METHODS, "gradient", KnownMethod(spoilt))
    with pytest.raises(MediaError, match="gradient gives numbers that are not finite"):
        method_of("gradient")(small_net(), picture(), [0, 1])


def test_memory_that_runs_out_in_a_method_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def huge(*_: object) -> Tensor:
        raise MemoryError("Unable to allocate 29 TiB")

    monkeypatch.setitem(METHODS, "gradient", KnownMethod(huge))
    with pytest.raises(MediaError, match="gradient does not work here: Unable to allocate 29 TiB"):
        method_of("gradient")(small_net(), picture(), [0])


def test_quick_forms_are_for_the_size_of_what_is_shown() -> None:
    assert usual(["ours", "occlusion"], 32) == ("ours", "occlusion:window=4,stride=2")
    assert usual(["occlusion", "rise"], 1000) == ("occlusion:window=125,stride=62", "rise:masks=1000")


def test_a_name_with_empty_parameters_is_the_same_method() -> None:
    assert is_exact("ours")
    assert is_exact("ours:")
    assert not is_exact("gradient:absolute=1")
