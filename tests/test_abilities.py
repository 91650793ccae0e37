"""Networks are asked what they can do; nobody looks at their class, and a call does not climb back."""

from __future__ import annotations

import ast
import inspect
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import coda_cli.core
from coda_cli.core import abilities
from coda_cli.core.decompose import decompose
from coda_cli.core.depth import shares_by_layer
from coda_cli.core.networks import build, coda_net, encode, hybrid_table
from coda_cli.machine import lanes

ROOT = Path(coda_cli.core.__file__).parent.parent
ASKING = [
    ROOT / "core/decompose.py",
    ROOT / "core/depth.py",
    ROOT / "core/gradients.py",
    ROOT / "checkpoints/loading.py",
    *(ROOT / "study").glob("*.py"),
]
CODA = {"channels": [6, 4, 3], "kernels": [3, 3], "strides": [1, 1], "ranks": [4, 4], "norm": "SQ", "temperature": 3.0}


class Plain(nn.Module):
    bias = 0.5

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)) + self.bias


def hybrid() -> nn.Module:
    return build("hybrid", hybrid_table("cifar-resnet20", "layer1")).eval()


def classes_of_core() -> set[str]:
    """The names of all networks and layers of the package."""
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in (ROOT / "core").glob("*.py")]
    return {node.name for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)}


@pytest.mark.parametrize("file", ASKING, ids=lambda path: path.name)
def test_nobody_asks_for_the_class_of_a_network(file: Path) -> None:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
            asked = {n.id for n in ast.walk(node.args[1]) if isinstance(n, ast.Name)}
            asked |= {n.attr for n in ast.walk(node.args[1]) if isinstance(n, ast.Attribute)}
            assert not asked & classes_of_core(), f"{file.name}:{node.lineno}"


def test_the_classes_that_nobody_may_ask_for_are_found() -> None:
    assert {"HybridNet", "DAUConv2d", "BcosNet", "StandardNet"} <= classes_of_core()


def test_a_plain_module_has_the_answers_of_an_ordinary_network() -> None:
    model, x, logits = Plain(), torch.rand(1, 6, 4, 4), torch.tensor([[0.0, 3.0]])
    assert (abilities.cut(model), abilities.above(model), abilities.to_cut(model, x)) == (None, model, x)
    assert torch.equal(abilities.probabilities(model, logits), logits.sigmoid())
    assert not abilities.shares_gradients(model)
    assert not abilities.averages_class_maps(model)
    assert abilities.bias_of(model) == 0.5
    assert decompose(model, x, 2).exact.all()


def test_words_that_another_module_uses_for_something_else_do_not_matter() -> None:
    model = Plain()
    model.above = "the clouds"  # type: ignore[assignment]
    assert abilities.cut(model) is None
    assert abilities.above(model) is model


@pytest.mark.parametrize("ask", [lambda m, x: decompose(m, x), lambda m, x: shares_by_layer(m, x, torch.ones(3))])
def test_a_network_without_logits_is_refused(ask: object) -> None:
    with pytest.raises(ValueError, match="gives no tensor of logits"):
        ask(nn.Identity(), torch.rand(1, 6, 4, 4))  # type: ignore[operator]


def test_networks_say_what_they_can() -> None:
    net, bcos = hybrid(), build("bcos_resnet", {"blocks": [1], "bottleneck": False, "classes": 3, "bias": -1.0})
    standard = build("standard_vit", {"dim": 64, "depth": 1, "classes": 3, "patch": 4})
    x = encode(torch.rand(1, 3, 8, 8))
    assert abilities.cut(net) == "layer1"
    assert abilities.above(net) is net.above
    with torch.no_grad():
        torch.testing.assert_close(net.above(abilities.to_cut(net, x)), net(x))  # type: ignore[operator]
    assert abilities.shares_gradients(abilities.above(net))
    assert abilities.shares_gradients(coda_net(**CODA))
    assert not abilities.shares_gradients(bcos)
    assert abilities.averages_class_maps(bcos)
    logits = torch.randn(2, 3)
    assert torch.equal(abilities.probabilities(standard, logits), logits.softmax(1))
    assert torch.equal(abilities.probabilities(bcos, logits), logits.sigmoid())


@pytest.mark.parametrize("model", [coda_net(**CODA), hybrid(), Plain()], ids=["coda", "hybrid", "plain"])
def test_from_decompose_to_the_gradient_no_call_climbs_back(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coda_cli.core.decompose.parts", lambda x: (x,))
    stacks: list[list[tuple[str, str]]] = []
    grad = torch.autograd.grad

    def recorded(*args: object, **more: object) -> object:
        frames = [(Path(f.filename).name, f.function) for f in inspect.stack() if "coda_cli" in f.filename]
        stacks.append(frames[::-1])
        return grad(*args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(torch.autograd, "grad", recorded)
    decompose(model, torch.rand(1, 6, 8, 8), [0, 1, 2])
    assert {tuple(stack) for stack in stacks} == {
        (("decompose.py", "decompose"), ("lanes.py", "each"), ("gradients.py", "held_gradients"))
    }
    assert lanes.each in (sys.modules["coda_cli.core.decompose"].each,)
