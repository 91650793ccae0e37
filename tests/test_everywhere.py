"""Decompositions are the same wherever they are asked for: in any mode of torch, thread or event loop, of any copy."""

from __future__ import annotations

import asyncio
import copy
import pickle
import threading
from collections.abc import Callable

import pytest
import torch
from program import PATIENCE
from test_bcos import SMALL, small
from torch import Tensor, nn

from coda_cli.checkpoints.loading import load
from coda_cli.core.dau_layer import DAUConv2d
from coda_cli.core.decompose import Decomposition, decompose
from coda_cli.core.depth import LayerShare, shares_by_layer
from coda_cli.core.networks import build, coda_net, encode, forward, hybrid_table

pytestmark = pytest.mark.filterwarnings("error")

CLASSES = 3
TABLE = {
    "channels": [6, 4, CLASSES],
    "kernels": [3, 3],
    "strides": [2, 1],
    "ranks": [4, 5],
    "norm": "SQ",
    "temperature": 3.0,
    "bias": -2.0,
}


class Foreign(nn.Module):
    """Nobody's network: linear, with parameters that are being trained, and a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bias = nn.Conv2d(6, CLASSES, 3, bias=False), 0.5

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).mean((2, 3)) + self.bias


def hybrid() -> nn.Module:
    table = {**hybrid_table("cifar-resnet20", "layer1", 3.0), "ranks": [4, 4, 4]}
    return build("hybrid", {**table, "channels": [table["channels"][0], 8, 8, CLASSES]})


def bcos(name: str) -> Callable[[], nn.Module]:
    return lambda: small(name, torch.float32)[0]


FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "coda": lambda: coda_net(**TABLE),
    "coda, antialiased": lambda: coda_net(**TABLE, antialias=True),
    "hybrid": hybrid,
    **{name: bcos(name) for name in SMALL if name not in ("vit-c", "convnext, bnu") and "B = 1." not in name},
    "a module of somebody else's": Foreign,
}


def made(family: str) -> nn.Module:
    torch.manual_seed(0)
    return FAMILIES[family]().eval()


def colours() -> Tensor:
    return torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(1))


Answer = tuple[Decomposition, list[LayerShare]]


def answer(model: nn.Module) -> Answer:
    """Everything that can be asked, all of it made here and now: the input, the targets and the weighting, too."""
    x, weights = encode(colours()), torch.eye(CLASSES)[:2]
    return decompose(model, x, weights), shares_by_layer(model, x[:1], weights[0])


def assert_same(found: Answer, expected: Answer, digits: float = 1e-6) -> None:
    (d, shares), (e, others) = found, expected
    for name in ("inputs", "dynamic_weights", "logits", "logit", "bias", "positional", "tolerance"):
        a, b = getattr(d, name), getattr(e, name)
        assert not a.is_inference()
        assert not a.requires_grad
        torch.testing.assert_close(a, b, rtol=digits, atol=digits * float(b.abs().max()))
    assert torch.equal(d.exact, e.exact)
    assert [s.name for s in shares] == [s.name for s in others]
    for s, t in zip(shares, others, strict=True):
        torch.testing.assert_close(s.pixels, t.pixels, rtol=digits, atol=digits * float(t.pixels.abs().max()))


def in_inference_mode(ask: Callable[[], Answer]) -> Answer:
    with torch.inference_mode():
        found = ask()
        assert torch.is_inference_mode_enabled()
        return found


def in_no_grad(ask: Callable[[], Answer]) -> Answer:
    with torch.no_grad():
        found = ask()
        assert not torch.is_grad_enabled()
        return found


def in_threads(ask: Callable[[], Answer]) -> Answer:
    """Three at the same time, one of them in inference mode."""
    found: list[Answer] = []
    targets = [lambda: found.append(ask()), lambda: found.append(ask()), lambda: found.append(in_inference_mode(ask))]
    threads = [threading.Thread(target=target) for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(found) == 3
    for one in found[1:]:
        assert_same(one, found[0])
    return found[0]


def in_a_running_loop(ask: Callable[[], Answer]) -> Answer:
    async def task() -> Answer:
        return ask()

    async def both() -> Answer:
        directly, in_thread = await asyncio.gather(task(), asyncio.to_thread(ask))
        assert_same(in_thread, directly)
        return directly

    return asyncio.run(both())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("ask_in", [in_inference_mode, in_no_grad, in_threads, in_a_running_loop])
def test_the_answer_is_the_same_in_any_mode_and_thread(family: str, ask_in: Callable[..., Answer]) -> None:
    model = made(family)
    expected = answer(model)
    assert expected[0].exact.all()
    assert_same(ask_in(lambda: answer(model)), expected)
    assert_same(answer(model), expected)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("ask_in", [in_inference_mode, in_no_grad])
def test_a_mode_that_comes_before_everything_leaves_nothing_behind(family: str, ask_in: Callable[..., Answer]) -> None:
    model, other = made(family), made(family)  # what layers keep is made inside the mode
    found = ask_in(lambda: answer(model))
    assert_same(found, answer(other))
    assert_same(answer(model), found)


@pytest.mark.parametrize("family", FAMILIES)
def test_autocast_is_the_same_inside_and_outside_inference_mode(family: str) -> None:
    model = made(family)
    with torch.autocast("cpu", torch.bfloat16):
        expected = answer(model)
        with torch.inference_mode():
            model(encode(colours()))  # autocast keeps what it casts
            found = answer(model)
        again = answer(model)
    assert_same(found, expected)
    assert_same(again, expected)
    assert expected[0].exact.all()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_network_made_inside_inference_mode_can_be_decomposed_anywhere(family: str) -> None:
    expected = answer(made(family))
    with torch.inference_mode():
        model = made(family)
        assert any(p.is_inference() for p in model.parameters())
        assert_same(answer(model), expected)
    assert_same(answer(model), expected)
    assert any(p.is_inference() for p in model.parameters())  # it was left alone
    with torch.no_grad():
        torch.testing.assert_close(forward(model, encode(colours())), expected[0].logits)


def test_weights_changed_inside_inference_mode_are_seen() -> None:
    with torch.inference_mode():
        layer, x = DAUConv2d(6, 3, 3, 4).requires_grad_(False), encode(colours())
        before = layer(x)
        layer.U.mul_(3)
        after = layer(x)
        expected = copy.deepcopy(layer)(x)
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, expected)


def test_weights_of_an_ordinary_network_changed_inside_inference_mode_are_seen() -> None:
    model = made("coda")
    before = answer(model)
    with torch.inference_mode():
        for p in model.parameters():
            p.mul_(1.5)
        after = answer(model)
    assert not torch.allclose(after[0].logits, before[0].logits)
    assert after[0].exact.all()
    assert_same(after, answer(copy.deepcopy(model)))


def test_a_copy_of_a_layer_takes_no_cache_with_it() -> None:
    layer = DAUConv2d(6, 3, 3, 4)
    kept = layer.norm_factors()
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert not other._forms
    assert layer.norm_factors() is kept


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_gives_the_same_and_follows_its_own_weights(
    family: str, copied: Callable[[nn.Module], nn.Module]
) -> None:
    model = made(family)
    expected = answer(model)  # which fills what layers keep
    other = copied(model)
    assert_same(answer(other), expected)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(0.3 * torch.rand_like(p))
    changed = copied(other)  # it has nothing of before
    assert_same(answer(other), answer(changed))
    assert not torch.allclose(answer(other)[0].pixels, expected[0].pixels, rtol=0.01)
    assert_same(answer(model), expected)


def test_a_decomposition_can_be_copied_and_pickled() -> None:
    found = answer(made("coda"))
    for other in (copy.deepcopy(found), pickle.loads(pickle.dumps(found))):
        assert_same(other, found)


@pytest.mark.parametrize("network", ["cifar10", "an ordinary one"])
def test_a_network_that_is_loaded_without_gradients_can_have_them_later(network: str) -> None:
    plain = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )
    with torch.inference_mode():
        net = load("cifar10") if network == "cifar10" else load(plain, size=8)
    assert not any(t.is_inference() for t in [*net.model.parameters(), *net.model.buffers()])
    x = (encode(colours()) if network == "cifar10" else colours()).requires_grad_()
    net.model(x).sum().backward()
    assert x.grad is not None
