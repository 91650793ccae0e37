"""A user's own ordinary network, explained by the program: the cut, the record, the lines, and what is refused."""

from __future__ import annotations

import importlib
import math
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from local_server import FileServer
from program import run
from torch import Tensor, nn

from coda_cli import decompose, explain, load
from coda_cli.core.cuts import find_cut, measure_depth, probes
from coda_cli.core.depth import LayerShare, shares_by_layer
from coda_cli.core.standard_nets import StandardNet
from coda_cli.errors import UsageError

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
PICTURE = EXAMPLES / "pictures" / "church.png"
CLASSES = ("ant", "bee", "cat", "dog")


def excited(model: nn.Module) -> nn.Module:
    """Statistics and shifts as training leaves them, so that the layers have constants to add."""
    generator = torch.Generator().manual_seed(3)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2, generator=generator)  # type: ignore[union-attr]
            module.bias.data.normal_(0.1, 0.2, generator=generator)
    return model.eval()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ResNet-18 with a head of four classes, as a file that describes itself, for pictures of 64 pixels."""
    folder = tmp_path_factory.mktemp("own")
    torch.manual_seed(0)
    state = excited(torchvision.models.resnet18(num_classes=4)).state_dict()
    torch.save({"model": state, "epoch": 3, "classes": list(CLASSES)}, folder / "net.pth")
    own = folder / "net.safetensors"
    run("models", "convert", folder / "net.pth", "--arch", "torchvision:resnet18", "--size", "64", "-o", own)
    return own


def test_it_is_explained_at_its_last_map(file: Path, tmp_path: Path) -> None:
    done = run("explain", PICTURE, "-m", file, "-o", tmp_path, "--json", "--class", "all")
    network = done.record["network"]
    assert (network["cut"], network["classes"]) == ("layer4", 4)
    assert network["zero"] == [0.485, 0.456, 0.406]
    for part in done.record["explained"]:
        assert part["exactness"] == "piecewise linear"
        assert part["carried"] == pytest.approx(1, abs=1e-5)
        (constant,) = part["constants"]
        assert (constant["layer"], constant["kind"], constant["share"]) == ("fc", "bias", part["bias"])
    assert sum(part["probability"] for part in done.record["explained"]) == pytest.approx(1)  # a softmax
    assert "split at layer4" in done.err
    assert "positions carry 100%" in done.err
    assert "one of 4 classes" in done.err


def test_the_input_is_a_cut_with_many_constants(file: Path, tmp_path: Path) -> None:
    done = run("explain", PICTURE, "-m", file, "-o", tmp_path, "--json", "--cut", "input")
    (part,) = done.record["explained"]
    assert len(part["constants"]) == 21  # 20 batch norms and the classifier
    total = part["positive"] + part["negative"] + part["bias"]
    assert total == pytest.approx(part["logit"], abs=part["tolerance"])
    assert " constants, residual" in done.err
    other = run("explain", PICTURE, "-m", file, "-o", tmp_path, "--json", "-f")
    assert done.record["settings"] != other.record["settings"]


def test_every_layer_says_what_it_carries(file: Path, tmp_path: Path) -> None:
    done = run("explain", PICTURE, "-m", file, "-o", tmp_path, "--json", "--layer", "all")
    (part,) = done.record["explained"]
    for layer in part["layers"]:
        assert layer["exact"]
        assert layer["sum"] + layer["bias"] + layer["residual"] == pytest.approx(part["logit"], abs=1e-5)
        assert layer["carried"] == pytest.approx(layer["sum"] / (part["logit"] - part["bias"]), rel=1e-4)
    names = [layer["name"] for layer in part["layers"]]
    assert names[0] == "input"
    assert {"layer1", "layer2", "layer3", "layer4"} <= set(names)
    assert "layer4, 2 x 2: positions carry 100%" in done.err


def test_its_layers_have_the_names_of_its_user_and_the_longer_ones_are_understood(file: Path, tmp_path: Path) -> None:
    asked = ("explain", PICTURE, "-m", file, "-o", tmp_path, "--write", "json", "--class", "0", "--json", "-f")
    short = ("--cut", "layer3", "--layer", "layer4", "--neuron", "layer4:3", "--neuron", "layer4:top:2")
    long = tuple(text.replace("layer", "backbone.layer") if text.startswith("layer") else text for text in short)
    first, second = (run(*asked, *names).record for names in (short, long))
    assert "backbone" not in str(first)
    for record in (first, second):
        assert record["network"]["cut"] == "layer3"
        (part,) = record["explained"]
        assert [layer["name"] for layer in part["layers"]] == ["layer4"]
        assert [neuron["layer"] for neuron in record["neurons"]] == ["layer4"]
        assert [channels["layer"] for channels in part["channels"]] == ["layer4"]
    run("verify", tmp_path, "-m", file)
    found = load(file)
    assert "backbone" not in str([layer.name for layer in shares_by_layer(found.model, probes(64, 1), torch.eye(4)[0])])
    maps = [decompose(found.model, probes(64, 1), [0], cut=cut).contributions for cut in ("layer3", "backbone.layer3")]
    assert torch.equal(*maps)


def test_a_clip_and_a_comparison_take_it(file: Path, tmp_path: Path) -> None:
    clip = run("video", EXAMPLES / "clip.mp4", "-m", file, "-o", tmp_path / "c.mp4", "--max-frames", "3", "--json")
    assert clip.records[-1]["exact"]
    assert clip.records[-1]["network"]["cut"] == "layer4"
    (part,) = clip.records[-1]["explained"]
    assert part["mean_positive"] + part["mean_negative"] + part["mean_bias"] == pytest.approx(part["mean_logit"])
    compared = run("compare", PICTURE, "-m", file, "-o", tmp_path, "--method", "ours", "--json").record
    assert compared["methods"][0]["off"] == pytest.approx(0, abs=1e-4)


def test_depth_over_a_folder(file: Path, tmp_path: Path) -> None:
    arguments = ["evaluate", "depth", EXAMPLES / "pictures", "-m", file, "--pictures", "3"]
    layers = run(*arguments, "--json").record["layers"]
    (last,) = [layer for layer in layers if layer["name"] == "layer4"]
    assert last["carried"] == pytest.approx([1, 1, 1], abs=1e-4)
    assert layers[0]["name"] == "input"
    done = run(*arguments, "--plot", tmp_path / "depth.png")
    assert [line.strip("* ").split()[:4] for line in done.lines if " layer4 " in line] == [["layer4", "2", "x", "2"]]
    assert (tmp_path / "depth.png").stat().st_size > 10_000


ODD = """
import torch
from torch import nn

class Odd(nn.Module):
    def forward(self, x):
        return x + 0.1 * x.exp()

def layers(*middle):
    return nn.Sequential(nn.Conv2d(3, 4, 3), *middle, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))

def unknown():
    return layers(Odd())

def last():
    return nn.Sequential(layers(nn.ReLU()), Odd())

def soft():
    return nn.Sequential(layers(nn.ReLU()), nn.Softmax(1))

def batch():
    return layers(nn.BatchNorm2d(4, track_running_stats=False))

def dead():
    return layers(nn.Threshold(1e9, 0.0))
"""


@pytest.fixture
def odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[str]]:
    """Saves a network of ODD, and gives the options that load it."""
    (tmp_path / "odd_nets.py").write_text(ODD)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("odd_nets")

    def options(name: str) -> list[str]:
        torch.save(getattr(module, name)().state_dict(), "net.pth")
        return ["-m", "net.pth", "--arch", f"odd_nets:{name}", "--size", "32"]

    return options


def test_depth_over_an_archive_and_an_address(file: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
        archive.write(PICTURE, PICTURE.name)
    arguments = ("evaluate", "depth", tmp_path / "p.zip", "-m", file, "--json")
    expected = run(*arguments).record["layers"]
    with FileServer() as server:
        server.files["/a.png"] = PICTURE.read_bytes()
        assert run("evaluate", "depth", f"{server.url}/a.png", *arguments[3:]).record["layers"] == expected


def test_depth_of_networks_that_nothing_can_be_said_of(odd: Callable[[str], list[str]]) -> None:
    depth = ["evaluate", "depth", EXAMPLES / "pictures", "--pictures", "2"]
    assert "cannot be explained: nothing linear leads" in run(*depth, *odd("soft"), status=3).err
    assert "takes its statistics from the batch" in run(*depth, *odd("batch"), status=3).err
    dead = run(*depth, *odd("dead"), "--json").record["layers"]
    assert {tuple(layer["carried"]) for layer in dead} == {(None, None, None)}
    assert not any(layer["interpretable"] for layer in dead)
    assert " - to -" in run(*depth, *odd("dead"), "--plot", "dead.png").out


def test_what_is_not_known_is_named_by_every_command(odd: Callable[[str], list[str]]) -> None:
    options = odd("last")
    named = "not known to coda: exp in Odd"
    assert named in run("explain", PICTURE, *options, "-o", "a", status=4).err
    assert named in run("compare", PICTURE, *options, "--method", "ours", "-o", "b", status=4).err
    assert named in run("evaluate", "depth", PICTURE.parent, "--pictures", "2", *options, status=4).err
    assert named in run("video", EXAMPLES / "clip.mp4", *options, "-o", "c", "--max-frames", "2", status=4).err
    assert not [file for place in "abc" for file in Path(place).glob("*")]


def test_a_comparison_leaves_ours_out_where_nothing_can_be_split(odd: Callable[[str], list[str]]) -> None:
    options = odd("soft")
    done = run("compare", PICTURE, *options, "--json")
    assert "without ours: ours does not work here: nothing linear leads from the input to the logits" in done.err
    assert list(done.record["left_out"]) == ["ours"]
    assert done.record["network"]["cut"] is None
    assert {"gradient", "grad-cam", "occlusion:window=4,stride=2"} <= {m["method"] for m in done.record["methods"]}
    asked = run("compare", PICTURE, *options, "--method", "ours", "-o", "other", status=3)
    assert "cannot be explained: nothing linear leads" in asked.err
    assert not Path("other").exists()
    run("compare", PICTURE, *options, "--cut", "0.0", "-o", "other", status=3)


def test_layers_below_what_is_not_understood_are_no_part_of_the_depth_and_no_cut(
    odd: Callable[[str], list[str]],
) -> None:
    options = odd("unknown")
    layers = run("evaluate", "depth", EXAMPLES / "pictures", "--pictures", "2", *options, "--json").record["layers"]
    assert [layer["name"] for layer in layers] == ["1", "2"]
    assert run("explain", PICTURE, *options, "--json").record["network"]["cut"] == "1"
    refused = run("explain", PICTURE, *options, "--cut", "input", "-o", "out", status=4)
    assert "not known to coda: exp" in refused.err
    assert not list(Path("out").glob("*"))


def test_a_picture_that_cannot_be_read_is_said_and_the_others_measured(file: Path, tmp_path: Path) -> None:
    shutil.copy(PICTURE, tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no picture")
    done = run("evaluate", "depth", tmp_path, "-m", file, "--json", status=1)
    assert done.record["pictures"] == 1
    assert "b.png" in done.err


def test_a_cut_that_is_none(file: Path, tmp_path: Path) -> None:
    done = run("explain", PICTURE, "-m", file, "-o", tmp_path, "--cut", "layer5", status=2)
    assert "--cut layer5" in done.err
    assert "layer4" in done.err
    done = run("explain", PICTURE, "-m", "cifar10", "-o", tmp_path, "--cut", "layer1", status=2)
    assert "exact down to the pixels by construction" in done.err
    with pytest.raises(UsageError, match=r"layer4.0.conv1: .* cannot be cut there"):
        load(file, cut="layer4.0.conv1")  # one branch beside a shortcut


def test_the_library_takes_a_module_as_it_is(file: Path) -> None:
    net = load(file)
    model: StandardNet = net.model  # type: ignore[assignment]
    e = explain(PICTURE, net, classes=["cat"])
    assert e.maps.shape == (1, 64, 64)
    assert float(e.maps.sum()) == pytest.approx(float(e.logits[2] - model.backbone.fc.bias[2]), abs=1e-4)  # type: ignore[union-attr, index]
    x = torch.randn(2, 3, 64, 64)
    inside = decompose(model.backbone, x, [2], cut="layer4")
    assert inside.inputs.shape == (2, 512, 2, 2)


# ---- the rule of the cut ---------------------------------------------------------------------------------------------


class Saturating(nn.Module):
    """Two maps: what the first carries is turned into constants above it."""

    def __init__(self, shift: float) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
        self.second.bias.data.fill_(shift)  # type: ignore[union-attr]
        self.last = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(self.second(self.first(x)).mean((2, 3)))
        return y


@pytest.mark.parametrize(("shift", "cut"), [(0.0, "first"), (30.0, "second")])
def test_the_cut_is_the_lowest_layer_that_carries_the_logit(shift: float, cut: str) -> None:
    torch.manual_seed(1)
    model = StandardNet(Saturating(shift)).eval()
    with torch.no_grad():  # positive weights: nothing cancels above the first layer
        for parameter in (model.backbone.second.weight, model.backbone.last.weight):  # type: ignore[union-attr]
            parameter.abs_()  # type: ignore[union-attr, operator]
        model.backbone.first.bias.fill_(5)  # type: ignore[union-attr, operator]
    assert find_cut(model, 24) == cut


def share(name: str, carried: float, ratio: float) -> LayerShare:
    """Of a logit of 2, no bias: a layer of 2 x 2 positions that carries so much of it."""
    return LayerShare(name, torch.full((2, 2), carried / 2), 0.0, 1.0, True, magnitude=2 * ratio, logit=2.0)


@pytest.mark.parametrize(("odd", "interpretable"), [(0, True), (1, True), (2, False), (9, False)])
@pytest.mark.parametrize("oddness", [(0.8, 1.0), (1.2, 1.0), (1.0, 4.0), (math.nan, 1.0)])
def test_a_few_odd_pictures_neither_make_nor_spoil_a_cut(
    odd: int, interpretable: bool, oddness: tuple[float, float]
) -> None:
    shares = [[share("low", *(oddness if n < odd else (1.0, 1.5)))] for n in range(10)]
    (depth,) = measure_depth(shares)
    assert depth.interpretable is interpretable


def test_a_layer_that_one_picture_has_not_is_left_out() -> None:
    both = [share("low", 1, 1), share("high", 1, 1)]
    assert [depth.name for depth in measure_depth([both, both[:1]])] == ["low"]


def test_the_probes_are_always_the_same() -> None:
    assert torch.equal(probes(32), probes(32))
    assert probes(32).shape[1:] == (6, 32, 32)
    assert float(probes(32).min()) >= 0
    assert float(probes(32).max()) <= 1
