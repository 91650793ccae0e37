"""Batch norms folded into convolutions: the same numbers, only where nothing is learned, and never out of date."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import Tensor, nn

from coda_cli.core.backbones import backbone
from coda_cli.core.decompose import decompose
from coda_cli.core.folding import Folded
from coda_cli.core.hybrid import HybridNet
from coda_cli.core.networks import build, encode, hybrid_table

BACKBONES = [
    ("cifar-resnet20", "layer3", False),
    ("resnet18", "layer4", True),
    ("resnext50_32x4d", "layer3", False),
    ("efficientnet-lite0", "head", True),
]


def settled(module: nn.Module) -> nn.Module:
    """As after training: batch norms that do something, and have shifts."""
    generator = torch.Generator().manual_seed(0)
    for norm in (m for m in module.modules() if isinstance(m, nn.BatchNorm2d)):
        for t, low in ((norm.weight, 0.5), (norm.bias, -0.5), (norm.running_mean, -0.5), (norm.running_var, 0.5)):
            assert t is not None
            with torch.no_grad():
                t.copy_(low + torch.rand(t.shape, generator=generator))
    return module.eval()


def hybrid() -> HybridNet:
    torch.manual_seed(0)
    table = {**hybrid_table("cifar-resnet20", "layer2", 3.0), "ranks": [4, 4, 4]}
    table["channels"] = [table["channels"][0], 8, 8, 3]
    model = build("hybrid", table).double()
    assert isinstance(settled(model), HybridNet)
    return model


def picture() -> Tensor:
    return encode(torch.rand(2, 3, 32, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize(("name", "cut", "dilated"), BACKBONES)
def test_a_backbone_computes_the_same(name: str, cut: str, dilated: bool) -> None:
    torch.manual_seed(0)
    layers = settled(backbone(name, cut, dilated=dilated)[0].double())
    x = torch.rand(1, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        plain, folded = layers(x), Folded().of(layers)
        assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
        torch.testing.assert_close(folded(x), plain, rtol=1e-10, atol=1e-10)
    assert any(isinstance(m, nn.BatchNorm2d) for m in layers.modules())  # the backbone itself stays as it is


def test_a_hybrid_is_as_exact_and_says_the_same() -> None:
    model, x = hybrid(), picture()
    with torch.enable_grad():
        plain = model(x).detach()  # nothing is folded where gradients can be asked for
    d = decompose(model, x, [0, 1])
    torch.testing.assert_close(d.logits, plain, rtol=1e-10, atol=1e-10)
    assert bool(d.exact.all())
    assert model.state_dict().keys() == hybrid().state_dict().keys()


@torch.no_grad()
def test_a_changed_tensor_is_noticed() -> None:
    model, x = hybrid(), picture()
    before = model.to_cut(x)
    norm = next(m for m in model.below.modules() if isinstance(m, nn.BatchNorm2d))
    norm.bias += 1.0
    after = model.to_cut(x)
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, model.below(x), rtol=1e-10, atol=1e-10)
    model.load_state_dict(hybrid().state_dict(), assign=True)  # other tensors, none of which was ever changed
    torch.testing.assert_close(model.to_cut(x), before)


@torch.no_grad()
def test_in_training_mode_batches_are_normalised_by_themselves() -> None:
    model, x = hybrid().train(), picture()
    seen = [m.clone() for m in model.below.buffers()]
    cut = model.to_cut(x)
    assert any(not torch.equal(a, b) for a, b in zip(seen, model.below.buffers(), strict=True))
    assert not torch.allclose(cut, model.eval().to_cut(x))


@torch.no_grad()
def test_copies_and_files_of_a_network_have_a_folding_of_their_own() -> None:
    model, x = hybrid(), picture()
    before = model.to_cut(x)
    other = copy.deepcopy(model)
    next(other.below.parameters()).zero_()
    assert not torch.allclose(other.to_cut(x), before)
    torch.testing.assert_close(model.to_cut(x), before)
    file = io.BytesIO()
    torch.save(model, file)
    small = file.tell()
    again = torch.load(io.BytesIO(file.getvalue()), weights_only=False)
    torch.testing.assert_close(again.to_cut(x), before)
    fresh = io.BytesIO()
    torch.save(hybrid(), fresh)
    assert small <= 1.01 * fresh.tell()  # the folded copy is not in the file


def test_everything_works_inside_inference_mode() -> None:
    x = picture()
    with torch.inference_mode():
        model = hybrid()
        inside = model.to_cut(x)
    torch.testing.assert_close(inside, hybrid().to_cut(x).detach(), rtol=1e-10, atol=1e-10)
