"""A trained classifier of one's own: whatever wraps its weights, it loads, computes what torch does, or is refused."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import safetensors.torch
import torch
import torchvision
from program import run
from small_files import refusal
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from coda_cli import encode, explain, load, save
from coda_cli.checkpoints.unpickling import AVERAGE_TAKEN, WEIGHTS_TAKEN
from coda_cli.cli.said import said_of_network
from coda_cli.core import standard_nets
from coda_cli.core.abilities import probabilities
from coda_cli.errors import CheckpointError, CodaError, ExitCode, UsageError
from coda_cli.explanation.phrases import standing

PICTURE = Path(__file__).resolve().parent.parent / "examples" / "pictures" / "church.png"
CLASSES = ("ant", "bee", "cat", "dog")
ARCH = "torchvision:resnet18"
SMALL = "torchvision:shufflenet_v2_x0_5"  # a thirtieth of its numbers: it is for what holds of any network
MEAN, DEVIATION = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
MODULE = """
import torch
from torch import nn

def small(num_classes=7, width=4):
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(width, num_classes))

def fixed():
    return small(3)

def strict(num_classes):
    return small(num_classes)

def fails():
    raise RuntimeError("no\\nluck")

def leaves():
    raise SystemExit(3)

def number():
    return 3

def maps():
    return nn.Conv2d(3, 4, 3)

constant = 5
"""


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    """A ResNet-18 with a head of its own for four classes."""
    torch.manual_seed(0)
    return torchvision.models.resnet18(num_classes=4).eval()


@pytest.fixture(scope="module")
def shufflenet() -> nn.Module:
    """A small network with a head of its own for four classes, its statistics such that pictures tell in its logits."""
    torch.manual_seed(0)
    model = torchvision.models.shufflenet_v2_x0_5(num_classes=4)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None  # the mean of what was seen
    with torch.no_grad():
        model(torch.randn(8, 3, 64, 64))
    return model.eval()


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a user's module in the current folder, a new one for each test."""
    name = f"nets_of_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield name
    sys.modules.pop(name, None)


def pictures(side: int = 64) -> Tensor:
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))


def logits_of_torch(model: nn.Module, mean: Tensor = MEAN, deviation: Tensor = DEVIATION, side: int = 64) -> Tensor:
    with torch.no_grad():
        return model((pictures(side) - mean[:, None, None]) / deviation[:, None, None])


def under(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in state.items()}


def doubled(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value * 2 for key, value in state.items()}


WRAPPINGS: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "bare": lambda s: s,
    "model": lambda s: {"model": s, "epoch": 3, "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}}},
    "net": lambda s: {"net": s, "acc": torch.tensor(0.5)},
    "lightning": lambda s: {"state_dict": under("model.module.", s), "hyper_parameters": {"lr": 0.1}},
    "twice": lambda s: under("module._orig_mod.module.", s),
    "mixed": lambda s: {("module." if n % 2 else "") + key: value for n, (key, value) in enumerate(s.items())},
    "features alone": lambda s: {key.replace("stage2.", "stage2.module."): value for key, value in s.items()},
    "with a loss": lambda s: {"state_dict": {**under("backbone.", s), "loss.weight": torch.ones(4)}},
    "average alone": lambda s: {"n_averaged": torch.tensor(3), **under("module.", s)},
    "average beside": lambda s: {"model": doubled(s), "model_ema": WRAPPINGS["average alone"](s)},
    "average within": lambda s: {"state_dict": {**under("net.", doubled(s)), **under("net_ema.", s)}},
    "dropout first": lambda s: {key.replace("fc.", "fc.1."): value for key, value in s.items()},
    "older": lambda s: {key: value for key, value in s.items() if "num_batches" not in key},
    "averaged by hand": lambda s: {"ema": {key: value.float() for key, value in s.items()}},
    "an entry of any name": lambda s: {"my_resnet": s, "epoch": 3, "losses": [0.5]},
    "entries in entries": lambda s: {"run": {"student": {"weights": s}}, "loss": 0.5},
    "beside an optimiser": lambda s: {"mine": s, "steps": {"state": {0: {"mean": torch.ones(3)}}}},
    "a pair": lambda s: (s, 3),
    "average of any name": lambda s: {"model": doubled(s), "ema_state": s},
    "average beside any name": lambda s: {"online": doubled(s), "ema-weights": s},
    "average in an entry": lambda s: {"model": doubled(s), "ema": {"decay": 0.9, "shadow": s}},
    "average in a wrapping": lambda s: {"state_dict": {"model": doubled(s), "ema": s}},
}  # fmt: skip


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_a_file_in_any_wrapping_gives_the_logits_of_torch(shufflenet: nn.Module, tmp_path: Path, wrapping: str) -> None:
    torch.save(WRAPPINGS[wrapping](shufflenet.state_dict()), tmp_path / "net.pth")
    net = load(tmp_path / "net.pth", arch=SMALL, cut=None)
    torch.testing.assert_close(net.model(encode(pictures())), logits_of_torch(shufflenet))
    assert net.checkpoint.classes == ("class 0", "class 1", "class 2", "class 3")
    assert any("--classes" in sentence for sentence in net.assumed)


@pytest.mark.parametrize(("wrapping", "said"), [
    ("lightning", "the names of its tensors were read without module. and model."),
    ("twice", "the names of its tensors were read without module. and _orig_mod."),
    ("with a loss", "tensors that are not below backbone. were left out: 1"),
    ("average beside", AVERAGE_TAKEN),
    ("dropout first", "its last layer, fc.1, was taken as fc"),
])  # fmt: skip
def test_what_was_taken_off_is_said(shufflenet: nn.Module, tmp_path: Path, wrapping: str, said: str) -> None:
    torch.save(WRAPPINGS[wrapping](shufflenet.state_dict()), tmp_path / "net.pth")
    assert said in load(tmp_path / "net.pth", arch=SMALL, cut=None).assumed


AVERAGES = [name for name in WRAPPINGS if name.startswith("average ") and name != "average alone"]


@pytest.mark.parametrize("wrapping", AVERAGES)
def test_the_last_weights_are_taken_on_demand(shufflenet: nn.Module, tmp_path: Path, wrapping: str) -> None:
    torch.save(WRAPPINGS[wrapping](shufflenet.state_dict()), tmp_path / "net.pth")
    net = load(tmp_path / "net.pth", arch=SMALL, cut=None, ema=False)
    assert torch.equal(net.model.state_dict()["backbone.fc.weight"], 2 * shufflenet.state_dict()["fc.weight"])
    assert WEIGHTS_TAKEN in net.assumed


def test_an_average_whose_tensors_have_no_names_is_said(shufflenet: nn.Module, tmp_path: Path) -> None:
    state = shufflenet.state_dict()
    torch.save({"model": state, "ema": {"decay": 0.9, "shadow_params": [*state.values()]}}, tmp_path / "net.pth")
    net = load(tmp_path / "net.pth", arch=SMALL, cut=None)
    torch.testing.assert_close(net.model(encode(pictures())), logits_of_torch(shufflenet))
    assert any("a list of tensors without names" in sentence for sentence in net.assumed)
    assert "--ema" in refusal(tmp_path / "net.pth", UsageError, arch=SMALL, cut=None, ema=True)


def test_torch_s_own_averaged_model_loads(shufflenet: nn.Module, tmp_path: Path) -> None:
    torch.save(AveragedModel(shufflenet).state_dict(), tmp_path / "net.pth")
    net = load(tmp_path / "net.pth", arch=SMALL, cut=None, ema=True)
    torch.testing.assert_close(net.model(encode(pictures())), logits_of_torch(shufflenet))
    assert "--no-ema" in refusal(tmp_path / "net.pth", UsageError, arch=SMALL, cut=None, ema=False)


def test_another_program_s_safetensors_loads_with_its_class_names(shufflenet: nn.Module, tmp_path: Path) -> None:
    state = under("model.", {key: value.contiguous() for key, value in shufflenet.state_dict().items()})
    safetensors.torch.save_file(state, tmp_path / "net.safetensors", {"class_names": json.dumps(CLASSES)})
    net = load(tmp_path / "net.safetensors", arch=SMALL, cut=None)
    torch.testing.assert_close(net.model(encode(pictures())), logits_of_torch(shufflenet))
    assert net.checkpoint.classes == CLASSES


# ---- classes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beside", [
    {"classes": list(CLASSES)},
    {"class_names": CLASSES},
    {"class_to_idx": {"dog": 3, "ant": 0, "cat": 2, "bee": 1}},
    {"idx_to_class": {3: "dog", 2: "cat", 1: "bee", 0: "ant"}},
    {"config": {"id2label": {0: "ant", 1: "bee", 2: "cat", 3: "dog"}}},
    {"hyper_parameters": {"num_classes": 4, "classes": list(CLASSES)}},
])  # fmt: skip
def test_class_names_in_the_file_are_used(shufflenet: nn.Module, tmp_path: Path, beside: dict[str, Any]) -> None:
    torch.save({"model": shufflenet.state_dict(), **beside}, tmp_path / "net.pth")
    assert load(tmp_path / "net.pth", arch=SMALL, cut=None).checkpoint.classes == CLASSES


@pytest.mark.parametrize("text", [
    "ant\nbee\n\ncat \ndog\n",
    '["ant", "bee", "cat", "dog"]',
    '{"ant": 0, "dog": 3, "cat": 2, "bee": 1}',
    '{"3": "dog", "2": "cat", "1": "bee", "0": "ant"}',
    '{"class_to_idx": {"ant": 0, "dog": 3, "cat": 2, "bee": 1}}',
])  # fmt: skip
def test_class_names_come_from_a_file_and_beat_those_inside(shufflenet: nn.Module, tmp_path: Path, text: str) -> None:
    torch.save({"model": shufflenet.state_dict(), "classes": ["w", "x", "y", "z"]}, tmp_path / "net.pth")
    (tmp_path / "names").write_text(text, encoding="utf-8")
    net = load(tmp_path / "net.pth", arch=SMALL, cut=None, classes=tmp_path / "names")
    assert net.checkpoint.classes == CLASSES


@pytest.mark.parametrize("train", ["", "train"])
def test_class_names_come_from_a_folder_of_classes(shufflenet: nn.Module, tmp_path: Path, train: str) -> None:
    for name in ("dog", "n01440764", "ant", "bee"):
        (tmp_path / "data" / train / name).mkdir(parents=True)
    (tmp_path / "data" / "val").mkdir() if train else (tmp_path / "data" / "note.txt").touch()
    torch.save(shufflenet.state_dict(), tmp_path / "net.pth")
    net = load(tmp_path / "net.pth", arch=SMALL, cut=None, classes=tmp_path / "data")
    assert net.checkpoint.classes == ("ant", "bee", "dog", "tench")


def test_a_thousand_classes_are_imagenet_s(tmp_path: Path) -> None:
    torch.save(torchvision.models.squeezenet1_1().state_dict(), tmp_path / "net.pth")
    checkpoint = load(tmp_path / "net.pth", arch="torchvision:squeezenet1_1", cut=None).checkpoint
    assert checkpoint.classes[0] == "tench"
    assert checkpoint.wnids is not None


@pytest.mark.parametrize(("classes", "said"), [
    (["ant", "bee"], "number of class names: 2, of the network's outputs: 4"),
    ("gone.txt", "--classes gone.txt: cannot be read"),
    ("odd.json", r"no list of names \(.*\); expected a name on each line"),
    ("gaps.json", "no list of names; expected"),
    (["a", "", "b", "c"], "expected a list of names"),
])  # fmt: skip
def test_bad_class_names_are_named(
    shufflenet: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, classes: Any, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("odd.json").write_text("{", encoding="utf-8")
    Path("gaps.json").write_text('{"ant": 0, "bee": 2}', encoding="utf-8")
    torch.save(shufflenet.state_dict(), "net.pth")
    with pytest.raises(UsageError, match=said):
        load("net.pth", arch=SMALL, cut=None, classes=classes)


def test_a_wrong_list_in_the_file_is_no_guess(shufflenet: nn.Module, tmp_path: Path) -> None:
    torch.save({"model": shufflenet.state_dict(), "classes": ["ant"]}, tmp_path / "net.pth")
    message = refusal(tmp_path / "net.pth", UsageError, arch=SMALL, cut=None)
    assert "number of class names: 1, of the network's outputs: 4" in message
    assert load(tmp_path / "net.pth", arch=SMALL, cut=None, classes=CLASSES).checkpoint.classes == CLASSES


# ---- libraries -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [
    "mobilenet_v3_small", "efficientnet_b0", "alexnet", "densenet121", "regnet_y_400mf", "mnasnet0_5",
    "swin_t", "squeezenet1_0", "shufflenet_v2_x0_5",
])  # fmt: skip
def test_classifiers_of_torchvision_load_with_any_number_of_classes(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.get_model(name, num_classes=3).eval()
    torch.save(theirs.state_dict(), tmp_path / "net.pth")
    net = load(tmp_path / "net.pth", arch=f"torchvision:{name}", cut=None)
    assert len(net.checkpoint.classes) == 3
    torch.testing.assert_close(net.model(encode(pictures())), logits_of_torch(theirs))


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_networks_with_auxiliary_heads_are_normalised_as_with_their_weights(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    # With published weights torchvision itself brings ImageNet's normalisation to [-1, 1], inside the network.
    theirs = torchvision.models.get_model(name, num_classes=3, init_weights=False, transform_input=True).eval()
    for layer in theirs.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.train().momentum = None
    with torch.no_grad():
        theirs(pictures(96))  # statistics that let the input through
    theirs.eval()
    torch.save(theirs.state_dict(), tmp_path / "net.pth")
    net = load(tmp_path / "net.pth", arch=f"torchvision:{name}", cut=None, size=96)
    assert "its auxiliary heads, which only training uses, are left out" in net.assumed
    expected = logits_of_torch(theirs, side=96)
    torch.testing.assert_close(net.model(encode(pictures(96))), expected, rtol=1e-3, atol=1e-4)
    plain = load(
        tmp_path / "net.pth",
        arch=f"torchvision:{name}",
        cut=None,
        size=96,
        mean=MEAN.tolist(),
        std=DEVIATION.tolist(),
    )
    assert (plain.model(encode(pictures(96))) - expected).abs().max() > 1e-2


def test_sizes_mean_and_deviation_are_the_library_s_or_as_said(shufflenet: nn.Module, tmp_path: Path) -> None:
    torch.save(shufflenet.state_dict(), tmp_path / "net.pth")
    net = load(tmp_path / "net.pth", arch=SMALL, cut=None)
    usual = torchvision.models.ShuffleNet_V2_X0_5_Weights.DEFAULT.transforms()
    view = net.checkpoint.preprocessing
    assert ([view.resize], [view.crop]) == (usual.resize_size, usual.crop_size)
    assert net.checkpoint.arguments["mean"] == usual.mean
    net = load(tmp_path / "net.pth", arch=SMALL, cut=None, mean=0.5, std=(0.1, 0.2, 0.3), size=(80, 64))
    view = net.checkpoint.preprocessing
    assert (view.resize, view.crop) == (80, 64)
    expected = logits_of_torch(shufflenet, torch.full((3,), 0.5), torch.tensor([0.1, 0.2, 0.3]))
    torch.testing.assert_close(net.model(encode(pictures())), expected)
    assert any("but for --size, --mean, --std" in sentence for sentence in net.assumed)


def test_a_network_of_timm_loads_with_its_preprocessing(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    theirs = timm.create_model("resnet18", num_classes=4).eval()
    torch.save({"state_dict": theirs.state_dict(), "arch": "resnet18"}, tmp_path / "net.pth")
    net = load(tmp_path / "net.pth", arch="timm:resnet18", cut=None)
    torch.testing.assert_close(net.model(encode(pictures())), logits_of_torch(theirs))
    usual = timm.data.resolve_model_data_config(theirs)
    view = net.checkpoint.preprocessing
    assert (view.crop, view.resize) == (224, int(224 / usual["crop_pct"]))
    assert net.checkpoint.arguments["mean"] == list(usual["mean"])
    message = refusal(tmp_path / "net.pth", UsageError, arch="timm:resnet19")
    assert "timm has no classifier 'resnet19'; did you mean 'resnet18'" in message
    assert "'fb' of 'resnet18', but" in refusal(tmp_path / "net.pth", UsageError, arch="timm:resnet18.fb")
    assert "has no classifier 'hf-hub:a/b'" in refusal(tmp_path / "net.pth", UsageError, arch="timm:hf-hub:a/b")


def stand_in_for_timm() -> SimpleNamespace:
    """What coda uses of timm: it is not installed everywhere."""
    usual = SimpleNamespace(
        input_size=(3, 96, 96), crop_pct=0.95, mean=(0.5,) * 3, std=(0.25,) * 3, interpolation="bicubic"
    )
    return SimpleNamespace(
        list_models=lambda *_, **__: ["resnet18"],
        get_pretrained_cfg=lambda _: usual,
        create_model=lambda _, num_classes, **__: torchvision.models.resnet18(num_classes=num_classes),
    )


def test_timm_is_asked_for_sizes_mean_and_deviation(
    resnet: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "timm", stand_in_for_timm())
    torch.save(resnet.state_dict(), tmp_path / "net.pth")
    net = load(tmp_path / "net.pth", arch="timm:resnet18", cut=None)
    view = net.checkpoint.preprocessing
    assert (view.resize, view.crop) == (101, 96)  # 96 / 0.95 = 101.05
    assert view.interpolation == "bicubic"
    assert any("resized bicubically, mean 0.5 0.5 0.5" in sentence for sentence in net.assumed)
    expected = logits_of_torch(resnet, torch.full((3,), 0.5), torch.full((3,), 0.25))
    torch.testing.assert_close(net.model(encode(pictures())), expected)
    sys.modules["timm"].get_pretrained_cfg(None).interpolation = "lanczos"
    odd = load(tmp_path / "net.pth", arch="timm:resnet18", cut=None)
    assert odd.checkpoint.preprocessing.interpolation == "bilinear"
    assert any("resized bilinearly and not by lanczos" in sentence for sentence in odd.assumed)


def test_without_timm_the_extra_is_named(
    shufflenet: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    torch.save(shufflenet.state_dict(), tmp_path / "net.pth")
    assert "pip install 'coda-cli[timm]'" in refusal(tmp_path / "net.pth", UsageError, arch="timm:resnet18")


def test_a_network_that_is_too_large_is_not_built(
    shufflenet: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standard_nets, "MAX_PARAMETERS", 10_000)
    torch.save(shufflenet.state_dict(), tmp_path / "net.pth")
    assert "more than 10000 parameters" in refusal(tmp_path / "net.pth", UsageError, arch=SMALL)
    nn.Linear(200, 200)  # the limit is for networks of libraries, and is gone


# ---- functions and modules -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("function", "count"), [("small", 4), ("fixed", 3), ("strict", 5)])
def test_a_function_of_the_user_s_makes_the_network(nets: str, function: str, count: int) -> None:
    sys.path.insert(0, "")
    module = __import__(nets)
    theirs = module.small(count).eval()
    torch.save({"model": under("module.", theirs.state_dict())}, "net.pth")
    for arch in (f"{nets}:{function}", getattr(module, function)):
        net = load("net.pth", arch=arch, cut=None)
        torch.testing.assert_close(net.model(encode(pictures())), logits_of_torch(theirs))
        assert len(net.checkpoint.classes) == count
        assert net.checkpoint.arguments["function"] == f"{nets}:{function}"


@pytest.mark.parametrize(("function", "said"), [
    ("smal", "has no 'smal'; did you mean 'small'"),
    ("zebra", "has no 'zebra'; it has small, fixed, strict, fails"),
    ("constant", "a int, not a function"),
    ("fails", r"called as fails\(\), it failed: RuntimeError: no luck"),
    ("leaves", "it failed: SystemExit: 3"),
    ("number", "gave a int, not a torch.nn.Module"),
    ("maps", r"gives \[1, 4, 222, 222\] for one picture; expected logits"),
    ("small:more", "expected package.module:function"),
])  # fmt: skip
def test_a_bad_function_is_one_line(nets: str, function: str, said: str) -> None:
    sys.path.insert(0, "")
    state = __import__(nets).maps().state_dict() if function == "maps" else __import__(nets).small(3).state_dict()
    torch.save(state, "net.pth")
    with pytest.raises(UsageError, match=said) as caught:
        load("net.pth", arch=f"{nets}:{function}", cut=None)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("nets")
@pytest.mark.parametrize(("arch", "said"), [
    ("no_such_nets:small", "there is no module 'no_such_nets' here"),
    ("torchvison:resnet18", "there is no module 'torchvison' .* did you mean torchvision:"),
    ("brokn_nets:small", "there is no module 'brokn_nets' .* did you mean broken_nets:"),
    ("nets.py:small", "there is no module 'nets'|expected package.module:function"),
    ("./nets:small", "expected package.module:function"),
    ("broken_nets:small", "broken_nets cannot be imported: ZeroDivisionError"),
    ("lacking_nets:small", "lacking_nets cannot be imported: ModuleNotFoundError: No module named 'no_such_library'"),
])  # fmt: skip
def test_a_bad_module_is_one_line(shufflenet: nn.Module, arch: str, said: str) -> None:
    Path("broken_nets.py").write_text("1 / 0\n", encoding="utf-8")
    Path("lacking_nets.py").write_text("import no_such_library\n", encoding="utf-8")
    torch.save(shufflenet.state_dict(), "net.pth")
    with pytest.raises(UsageError, match=said):
        load("net.pth", arch=arch, cut=None)


def test_a_module_that_is_there_is_a_network(shufflenet: nn.Module) -> None:
    training = torchvision.models.shufflenet_v2_x0_5(num_classes=4).train()
    training.load_state_dict(shufflenet.state_dict())
    net = load(training, classes=CLASSES, size=64, cut=None)
    torch.testing.assert_close(net.model(encode(pictures())), logits_of_torch(shufflenet))
    assert (net.checkpoint.classes, net.checkpoint.preprocessing.crop) == (CLASSES, 64)
    assert training.training
    assert all(parameter.requires_grad for parameter in training.parameters())
    other = load(shufflenet, classes=CLASSES, size=64, cut=None)
    assert net.sha256 == other.sha256
    with torch.no_grad():
        training.fc.bias[0] += 1  # type: ignore[operator, union-attr]
    assert load(training, size=64, cut=None).sha256 != net.sha256


@pytest.mark.parametrize("wrapped", [nn.DataParallel, torch.compile])
def test_what_is_around_a_module_is_taken_off(wrapped: Callable[[nn.Module], nn.Module]) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).eval()
    net = load(wrapped(model), size=64, cut="1")
    assert net.cut == "1"  # as its user calls it
    torch.testing.assert_close(net.model(encode(pictures())), logits_of_torch(model))


class Odd(nn.Module):
    """A network that no picture can be explained by."""

    def __init__(self, forward: Callable[..., Tensor], channels: int = 3) -> None:
        super().__init__()
        self.conv, self.with_maps = nn.Conv2d(channels, 4, 3), forward

    def forward(self, x: Tensor, *more: Tensor) -> Tensor:
        return self.with_maps(self.conv(x).mean((2, 3)), *more)


@pytest.mark.parametrize(("odd", "said"), [
    (Odd(lambda x, y: x + y), r"missing 1 required .*; it gets one tensor of colours, \[1, 3, 64, 64\]"),
    (Odd(lambda x: x, channels=1), r"to have 1 channels, but got 3 .*; it gets one tensor of colours"),
    (Odd(lambda x: nn.functional.dropout(x.repeat(1, 99))), "gives other logits each time that it sees"),
    (Odd(lambda x: x[:, :0]), r"gives \[1, 0\] for one picture; expected logits"),
])  # fmt: skip
def test_a_network_that_takes_something_else_or_is_never_the_same_is_refused(odd: nn.Module, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        load(odd, size=64, cut=None)


def test_nothing_is_cut_where_no_gradient_passes() -> None:
    """Also where the cut is said, and has not to be found."""
    with pytest.raises(CheckpointError, match="does the network end with a softmax"):
        load(Odd(lambda x: x.softmax(1)), size=64, cut="input")


def test_the_probability_of_one_logit_alone_is_its_sigmoid() -> None:
    net = load(Odd(lambda x: x[:, :1]), size=64)
    logits = net.model(encode(pictures()))
    assert torch.equal(probabilities(net.model, logits), logits.sigmoid())
    record = explain(PICTURE, net).record()
    assert record.top[0].probability == pytest.approx(1 / (1 + math.exp(-record.top[0].logit)))
    assert standing(record.network, record.top, 0, confident=True) == "the only class"


def test_a_module_of_coda_s_own_is_not_normalised() -> None:
    model = load("cifar10").model
    net = load(model, size=32, cut=None)
    assert torch.equal(net.model(encode(pictures())), model(encode(pictures())))
    assert any("r g b 1-r 1-g 1-b as they are" in sentence for sentence in net.assumed)


@pytest.mark.parametrize("name", ["bias", "to_cut", "cut"])
def test_a_network_may_have_attributes_of_coda_s_names(name: str) -> None:
    model = Odd(lambda x: x).eval()
    setattr(model, name, 0.5)
    net = load(model, size=64)
    assert net.cut == "conv"
    torch.testing.assert_close(net.model(encode(pictures())), logits_of_torch(model))


def test_what_a_function_prints_is_no_result(nets: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("talking_nets.py").write_text(f"from {nets} import fixed\nprint('hello')\n", encoding="utf-8")
    sys.path.insert(0, "")
    torch.save(__import__(nets).fixed().state_dict(), "net.pth")
    load("net.pth", arch="talking_nets:fixed", cut=None)
    assert capsys.readouterr() == ("", "hello\n")


def test_what_a_function_made_cannot_be_a_file(resnet: nn.Module, tmp_path: Path) -> None:
    net = load(resnet, size=64, cut=None)
    with pytest.raises(UsageError, match="ResNet is made by code of yours, which no file can hold"):
        save(net.model, net.checkpoint, tmp_path / "net.safetensors")
    assert not list(tmp_path.iterdir())


# ---- files of something else -----------------------------------------------------------------------------------------


def test_weights_of_another_network_are_compared(resnet: nn.Module, tmp_path: Path) -> None:
    torch.save(resnet.state_dict(), tmp_path / "net.pth")
    message = refusal(tmp_path / "net.pth", arch="torchvision:resnet34")
    assert (
        "not the weights of torchvision:resnet34: 80 of its 218 tensors are missing, layer1.2.conv1.weight" in message
    )
    message = refusal(tmp_path / "net.pth", arch="torchvision:resnet50")
    assert "layer1.0.conv1.weight: expected [64, 64, 1, 1], got [64, 64, 3, 3]" in message


def test_a_head_of_two_layers_is_not_taken_for_one(resnet: nn.Module, tmp_path: Path) -> None:
    state = {key: value for key, value in resnet.state_dict().items() if not key.startswith("fc.")}
    state |= under("fc.", nn.Sequential(nn.Linear(512, 8), nn.ReLU(), nn.Linear(8, 4)).state_dict())
    torch.save(state, tmp_path / "net.pth")
    message = refusal(tmp_path / "net.pth", arch=ARCH)
    assert "fc.weight the first; 4 others are there, fc.0.weight the first" in message
    assert "--arch module:function" in message


def test_two_networks_in_one_file_are_not_chosen_between(shufflenet: nn.Module, tmp_path: Path) -> None:
    state = shufflenet.state_dict()
    torch.save(under("student.", state) | under("teacher.", state), tmp_path / "net.pth")
    assert "holds 2 networks with such tensors, below student. and teacher." in refusal(
        tmp_path / "net.pth", arch=SMALL
    )


def test_two_state_dicts_beside_each_other_are_named(tmp_path: Path) -> None:
    state = {"weight": torch.ones(2)}
    torch.save({"encoder": state, "decoder": state, "epoch": 3}, tmp_path / "net.pth")
    assert "but 2 of them, encoder and decoder the first; save one" in refusal(tmp_path / "net.pth", arch=ARCH)


@pytest.mark.parametrize("name", ["torchvision:resnet18", "timm:resnet18"])
def test_a_network_of_a_library_is_asked_for_its_weights(name: str) -> None:
    assert f"FILE --arch {name}" in refusal(name)


def test_a_file_that_nothing_is_said_of_is_recognised_by_its_size(resnet: nn.Module, tmp_path: Path) -> None:
    torch.save({"model": under("module.", resnet.state_dict())}, tmp_path / "net.pth")
    assert "as large as torchvision:resnet18, one of torchvision's" in refusal(tmp_path / "net.pth")
    assert "as large as torchvision:resnet18, one" in refusal(tmp_path / "net.pth", classes=list("abcd"))
    assert "--arch resnet18 is no network that this can be" in refusal(tmp_path / "net.pth", arch="resnet18")


def whole(model: nn.Module, path: Path) -> None:
    torch.save(model, path)


def whole_inside(model: nn.Module, path: Path) -> None:
    torch.save({"model": model, "epoch": 3}, path)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
def script(model: nn.Module, path: Path) -> None:
    torch.jit.trace(model, pictures()).save(path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("write", "said"), [
    (whole, r"a whole object \(torchvision.models.resnet.ResNet\).*torch.save\(model.state_dict\(\), FILE\)"),
    (whole_inside, r"a whole object \(torchvision.models.resnet.ResNet\).*torch.save\(model.state_dict\(\), FILE\)"),
    (script, r"a TorchScript program; torch.save\(torch.jit.load\(FILE\).state_dict\(\), OTHER\)"),
])  # fmt: skip
def test_code_is_refused_with_the_way_to_save_its_weights(
    resnet: nn.Module, tmp_path: Path, write: Callable[[nn.Module, Path], None], said: str
) -> None:
    write(resnet, tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match=said):
        load(tmp_path / "net.pth", arch=ARCH)


def test_weights_that_are_no_numbers_and_half_a_file_are_refused(resnet: nn.Module, tmp_path: Path) -> None:
    state = {key: value.clone() for key, value in resnet.state_dict().items()}
    state["layer2.0.bn1.bias"][3] = float("nan")
    torch.save(state, tmp_path / "net.pth")
    assert "1 of 128 values of layer2.0.bn1.bias are not finite" in refusal(tmp_path / "net.pth", arch=ARCH, cut=None)
    content = (tmp_path / "net.pth").read_bytes()
    (tmp_path / "net.pth").write_bytes(content[: len(content) // 2])
    assert "damaged" in refusal(tmp_path / "net.pth", arch=ARCH)


@pytest.mark.parametrize("options", [{"size": 0}, {"size": (64, 80)}, {"size": 9999}, {"mean": (0.5, 0.5)}, {"std": 0}])
def test_impossible_preprocessing_is_refused(shufflenet: nn.Module, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="expected"):
        load(shufflenet, cut=None, **options)


def test_a_size_that_the_network_cannot_take_is_refused(tmp_path: Path) -> None:
    torch.save(torchvision.models.vit_b_32(num_classes=2).state_dict(), tmp_path / "net.pth")
    message = refusal(tmp_path / "net.pth", UsageError, arch="torchvision:vit_b_32", size=100, cut=None)
    assert "cannot take a picture of 100 x 100 pixels" in message


# ---- as a program ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("saved", ["bare", "model", "lightning"])
def test_a_trained_classifier_is_the_beginning(resnet: nn.Module, tmp_path: Path, saved: str) -> None:
    """Saved three ways: shown, converted to a file that describes itself, and compared on a picture."""
    content = WRAPPINGS[saved](resnet.state_dict())
    if saved == "model":
        content["classes"] = list(CLASSES)
    else:
        for name in CLASSES:
            (tmp_path / "photos" / name).mkdir(parents=True)
    torch.save(content, tmp_path / "net.pth")
    network = ["net.pth", "--arch", ARCH, *([] if saved == "model" else ["--classes", "photos"])]
    shown = run("models", "show", *network, "--json", cwd=tmp_path).record
    assert [entry["name"] for entry in shown["classes"]] == list(CLASSES)
    assert shown["parameters"] == sum(p.numel() for p in resnet.parameters())
    done = run("models", "convert", *network, "-o", "mine.safetensors", cwd=tmp_path)
    assert "largest difference 0" in done.err
    net = load(tmp_path / "mine.safetensors", cut=None)
    torch.testing.assert_close(net.model(encode(pictures())), logits_of_torch(resnet))
    assert net.checkpoint.classes == CLASSES
    done = run(
        "compare", PICTURE, "-m", *network, "--method", "occlusion:window=112,stride=112", "--json", "-o", "out",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.record["explained"]["name"] in CLASSES
    assert f"network {ARCH}; its pictures as torchvision shows them" in done.err


def test_a_function_works_as_a_program(nets: str) -> None:
    sys.path.insert(0, "")
    torch.save(__import__(nets).small(4).state_dict(), "net.pth")
    Path("names.txt").write_text("\n".join(CLASSES), encoding="utf-8")
    network = (
        "net.pth",
        "--arch",
        f"{nets}:small",
        "--classes",
        "names.txt",
        "--size",
        "80:64",
        "--mean",
        "0.5",
        "--std",
        "0.2",
    )
    del sys.modules[nets]
    shown = run("models", "show", *network, "--json").record  # what the module prints is not in it
    assert shown["preprocessing"] == {"resize": 80, "crop": 64}
    assert shown["arguments"]["mean"] == [0.5, 0.5, 0.5]
    done = run("models", "convert", *network, "-o", "mine.safetensors", status=ExitCode.USAGE)
    assert "made by code of yours" in done.error
    assert not Path("mine.safetensors").exists()
    assert "it failed: RuntimeError: no luck" in run(
        "models", "show", "net.pth", "--arch", f"{nets}:fails", status=ExitCode.USAGE
    ).error  # fmt: skip


@pytest.mark.parametrize("options", [("--size", "a"), ("--size", "1:2:3"), ("--mean", "x"), ("--std", "1,2")])
def test_options_that_cannot_be_are_refused(shufflenet: nn.Module, tmp_path: Path, options: tuple[str, str]) -> None:
    torch.save(shufflenet.state_dict(), tmp_path / "net.pth")
    done = run("models", "show", tmp_path / "net.pth", "--arch", SMALL, *options, status=ExitCode.USAGE)
    assert options[0] in done.error


def test_the_folder_of_a_run_is_a_model(tmp_path: Path) -> None:
    net = load("cifar10")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "log.csv").touch()
    message = refusal(tmp_path / "run")
    assert "no such file in it as coda train writes" in message
    save(net.model, net.checkpoint, tmp_path / "run" / "photos.safetensors")
    assert load(tmp_path / "run").path == tmp_path / "run" / "photos.safetensors"
    assert run("models", "show", "run", "--json", cwd=tmp_path).record["class_count"] == 10
    save(net.model, net.checkpoint, tmp_path / "run" / "other.safetensors")
    with pytest.raises(CodaError, match="holds 2 networks; name one of them"):
        load(tmp_path / "run")


def test_a_description_beside_the_weights_says_it_all(shufflenet: nn.Module, tmp_path: Path) -> None:
    torch.save(shufflenet.state_dict(), tmp_path / "net.pth")
    described = load(tmp_path / "net.pth", arch=SMALL, classes=CLASSES, size=(80, 64), mean=0.5, cut=None).checkpoint
    (tmp_path / "net.pth.json").write_text(described.model_dump_json(), encoding="utf-8")
    net = load(tmp_path / "net.pth", cut=None)
    assert net.checkpoint == described
    assert net.assumed == ("everything but the weights from net.pth.json",)
    torch.testing.assert_close(net.model(encode(pictures())), logits_of_torch(shufflenet, torch.full((3,), 0.5)))


def test_what_is_said_of_a_network_is_gone_with_the_call() -> None:
    """Two calls in one process, as notebooks make them: the second has no such options, and nothing was said."""
    said = ("--mean", "0.3", "--size", "64", "--cut", "layer3")
    run("explain", "missing.png", "-m", "missing.pth", *said, status=2)
    assert said_of_network() | {"mean": (0.3,) * 3, "size": (64, 64), "cut": "layer3"} == said_of_network()
    run("explain", "missing.png", status=2)
    assert {key: value for key, value in said_of_network().items() if value is not None} == {"cut": "auto"}
    run("explain", "missing.png", "-m", "missing.pth", *said, status=2)
    run("summary", "missing", status=2)
    assert said_of_network() == {}
