"""EfficientNet-Lite: the published sizes and names, TensorFlow's padding, and the same network with finer maps."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coda_cli.core.backbones import backbone, with_stride
from coda_cli.core.efficientnet_lite import LITE_CUTS, SIZES, SameConv2d, lite_classifier, lite_layers
from coda_cli.core.networks import build, encode, one_layer_table


def randomised(layers: nn.Module) -> nn.Module:
    """Batch norms as after training: they have means, and biases."""
    generator = torch.Generator().manual_seed(0)
    for module in layers.modules():
        if isinstance(module, nn.BatchNorm2d):
            for t in (module.weight, module.bias, module.running_mean):
                assert t is not None
                t.data += 0.2 * torch.randn(t.shape, generator=generator)
    return layers.eval()


@pytest.mark.parametrize(("name", "millions"), [("efficientnet-lite0", 4.652), ("efficientnet-lite1", 5.417),
                                                ("efficientnet-lite2", 6.092)])  # fmt: skip
def test_they_have_the_published_numbers_of_parameters(name: str, millions: float) -> None:
    """4.7, 5.4 and 6.1 million, as published; the decimals are those of the packages' files."""
    with torch.device("meta"):
        whole = lite_classifier(name, 1000)
    assert sum(p.numel() for p in whole.parameters()) / 1e6 == pytest.approx(millions, abs=5e-4)


def test_tensors_are_called_as_in_the_package() -> None:
    with torch.device("meta"):
        keys = {k: tuple(v.shape) for k, v in lite_classifier("efficientnet-lite0", 1000).state_dict().items()}
    assert len(keys) == 296
    assert keys["_conv_stem.weight"] == (32, 3, 3, 3)
    assert "_blocks.0._expand_conv.weight" not in keys
    assert keys["_blocks.11._depthwise_conv.weight"] == (672, 1, 5, 5)
    assert keys["_blocks.15._project_conv.weight"] == (320, 1152, 1, 1)
    assert keys["_conv_head.weight"] == (1280, 320, 1, 1)
    assert keys["_fc.weight"] == (1000, 1280)


@pytest.mark.parametrize("length", [7, 8, 13, 20])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 2)])
def test_padding_is_tensorflow_s(length: int, kernel: int, stride: int) -> None:
    """Their rule, one window at a time: what hangs over is split evenly, an odd zero goes behind."""
    layer = SameConv2d(1, 1, kernel, stride)
    x, w = torch.rand(length, length), layer.weight.detach()[0, 0]
    count = math.ceil(length / stride)
    before = max(0, (count - 1) * stride + kernel - length) // 2
    wide = F.pad(x, (before, kernel, before, kernel))
    y = layer(x[None, None]).detach()[0, 0]
    assert y.shape == (count, count)
    for i in range(count):
        for j in range(count):
            seen = wide[i * stride : i * stride + kernel, j * stride : j * stride + kernel]
            assert float(y[i, j]) == pytest.approx(float((seen * w).sum()), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("cut", LITE_CUTS)
def test_up_to_a_cut_it_is_the_whole_network_s_beginning(cut: str) -> None:
    torch.manual_seed(0)
    whole, part = lite_classifier("efficientnet-lite0", 3), lite_layers("efficientnet-lite0", cut)
    part.load_state_dict({k: v for k, v in whole.state_dict().items() if k in part.state_dict()})
    whole, part, x = whole.eval(), part.eval(), torch.rand(1, 3, 64, 96)
    y, found = x, part(x)
    for layer in list(whole)[: len(part) - (cut != "head")]:
        y = layer(y)
    if cut != "head":
        for block in list(whole._blocks)[: len(part._blocks)]:  # type: ignore[arg-type]
            y = block(y)
    torch.testing.assert_close(found, y)
    stride = 2 ** (1 + sum(n > 1 for n in (1, 2, 2, 2, 1, 2, 1)[: LITE_CUTS.index(cut) + 1]))
    assert found.shape[2:] == (64 // stride, 96 // stride)


@pytest.mark.parametrize(("name", "cut"), [("efficientnet-lite0", "head"), ("resnet18", "layer4"),
                                           ("resnet50", "layer4")])  # fmt: skip
@pytest.mark.parametrize("side", [64, 96, 72])
def test_a_dilated_backbone_has_the_ordinary_numbers_at_every_second_position(name: str, cut: str, side: int) -> None:
    torch.manual_seed(0)
    plain, fine = backbone(name, cut)[0], backbone(name, cut, dilated=True)[0]
    randomised(plain)
    fine.load_state_dict(plain.state_dict())
    x = torch.rand(1, 3, side, 64)
    with torch.no_grad():
        small, large = plain(x), fine.eval()(x)
    assert large.shape[2:] == (math.ceil(side / 16), 4)
    torch.testing.assert_close(with_stride(name, large), small, rtol=1e-4, atol=1e-4)
    others = large[:, :, 1::2] if name.startswith("resnet") else large[:, :, ::2]
    assert not torch.allclose(others[:, :, : small.shape[2], : small.shape[3]], small[:, :, : others.shape[2]])


def test_what_cannot_be_dilated_is_refused() -> None:
    with pytest.raises(ValueError, match="cifar-resnet20 cannot be dilated"):
        backbone("cifar-resnet20", "layer3", dilated=True)
    with pytest.raises(ValueError, match="cut at stage1"):
        backbone("efficientnet-lite0", "layer4")


def test_a_hybrid_on_it_sees_colours_from_minus_one_to_one() -> None:
    table = one_layer_table("efficientnet-lite0", "head", 3, 12.0, rank=2, dilated=True)
    torch.manual_seed(0)
    model = build("hybrid", table).eval()
    seen: list[Tensor] = []
    model.below.backbone.register_forward_pre_hook(lambda _, x: seen.append(x[0]))  # type: ignore[union-attr]
    rgb = torch.rand(1, 3, 64, 64)
    assert model(encode(rgb)).shape == (1, 3)
    torch.testing.assert_close(seen[0], 2 * rgb - 1)
    assert model.bias == pytest.approx(-math.log(2))


def test_the_ordinary_network_is_an_architecture_too() -> None:
    model = build("efficientnet_lite", {"name": "efficientnet-lite1", "classes": 4}).eval()
    assert model(encode(torch.rand(1, 3, 40, 64))).shape == (1, 4)
    with pytest.raises(ValueError, match="expected one of efficientnet-lite0"):
        build("efficientnet_lite", {"name": "efficientnet-lite9"})
    assert set(SIZES) == {"efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2"}
