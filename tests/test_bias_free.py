"""ReLU networks without biases: exact down to the pixels, and read from the authors' files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import torchvision
from conftest import Coda
from oracle_bcosified import IMAGENET, centred
from program import photo
from torch import Tensor, nn

from coda_cli.checkpoints.loading import load
from coda_cli.checkpoints.published import BIAS_FREE, FILES
from coda_cli.checkpoints.published_descriptions import published_checkpoint
from coda_cli.core import abilities
from coda_cli.core.decompose import decompose
from coda_cli.core.depth import shares_by_layer
from coda_cli.core.networks import build, encode
from coda_cli.errors import CheckpointError, UsageError


def resnet50(W: dict[str, Tensor], n: Tensor) -> Tensor:
    """Its logits, written out."""
    y = F.max_pool2d(F.relu(F.conv2d(n, W["conv1.weight"], None, 2, 3)), 3, 2, 1)
    for key in [k for k in W if k.endswith(".conv1.weight")]:
        block = key.removesuffix("conv1.weight")
        stride = 2 if block.endswith(".0.") and block[5] != "1" else 1
        z = F.relu(F.conv2d(y, W[key]))
        z = F.relu(F.conv2d(z, W[block + "conv2.weight"], None, stride, 1))
        z = F.conv2d(z, W[block + "conv3.weight"])
        shortcut = W.get(block + "downsample.weight")
        y = F.relu(z + (y if shortcut is None else F.conv2d(y, shortcut, None, stride)))
    return y.mean((2, 3)) @ W["fc.weight"].t()


def alexnet(W: dict[str, Tensor], n: Tensor) -> Tensor:
    """torchvision's, with biases of 0."""
    with torch.device("meta"):
        model = torchvision.models.alexnet(weights=None, num_classes=len(W["classifier.6.weight"]))
    biases = {key: torch.zeros(v.shape, dtype=n.dtype) for key, v in model.state_dict().items() if key.endswith("bias")}
    model.load_state_dict(W | biases, assign=True)
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    logits: Tensor = model.eval()(n)
    return logits


WRITTEN = {"xfixup_resnet50": resnet50, "xalexnet": alexnet}


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    return build("bias_free", {"name": name, "classes": 7}).eval().requires_grad_(False)


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return {key.removeprefix("above.backbone."): value for key, value in model.state_dict().items()}


@pytest.mark.parametrize("name", WRITTEN)
def test_contributions_are_the_input_times_its_plain_gradient_and_nothing_is_left(name: str) -> None:
    model, x = network(name).double(), encode(torch.rand(1, 3, 96, 96, dtype=torch.float64))
    n = centred(x, IMAGENET)[:, :3].requires_grad_()
    logits = WRITTEN[name](state_of(model), n)
    (gradient,) = torch.autograd.grad(logits[0, 2], n)
    d = decompose(model, x, 2)
    torch.testing.assert_close(d.logits, logits.detach(), rtol=1e-9, atol=1e-14)
    torch.testing.assert_close(d.contributions[:, 0, :3], (n * gradient).detach(), rtol=1e-7, atol=1e-15)
    assert not d.contributions[:, :, 3:].any()
    assert float(d.residual.abs() / d.contributions.abs().sum()) < 1e-12
    assert float(d.bias) == 0
    one = torch.zeros(7, dtype=torch.float64)
    one[2] = 1
    shares = shares_by_layer(model, x, one)
    assert len(shares) > 8
    assert all(s.exact for s in shares)
    assert torch.equal(abilities.probabilities(model, d.logits), d.logits.softmax(1))


def test_it_has_no_cut_but_the_pixels_less_their_mean() -> None:
    net = load(network("xfixup_resnet50"), size=64)
    assert net.cut is None
    with pytest.raises(UsageError, match="is exact down to the pixels by construction"):
        load(network("xfixup_resnet50"), size=64, cut="layer4")


@pytest.mark.parametrize("name", BIAS_FREE)
def test_a_network_has_its_published_size_and_no_bias(name: str) -> None:
    checkpoint = published_checkpoint(name)
    with torch.device("meta"):
        model = build(checkpoint.architecture, checkpoint.arguments)
    assert sum(p.numel() for p in model.parameters()) == BIAS_FREE[name][1]
    assert all(key.endswith(".weight") for key in model.state_dict())


def test_a_name_without_a_network_is_an_error() -> None:
    with pytest.raises(ValueError, match="expected one of xalexnet, xvgg16, xfixup_resnet50"):
        build("bias_free", {"name": "xvgg11", "classes": 3})


def test_an_authors_file_loads_by_name_and_by_path(coda: Coda, tmp_path: Path) -> None:
    checkpoint = published_checkpoint("x-resnet50")
    torch.manual_seed(0)
    model = build(checkpoint.architecture, checkpoint.arguments).eval()
    content = {"epoch": 90, "state_dict": {f"module.{key}": value for key, value in state_of(model).items()}}
    torch.save(content, tmp_path / FILES["x-resnet50"][0])
    torch.save(content, tmp_path / "renamed.pth")
    by_path = load(tmp_path / FILES["x-resnet50"][0])
    assert by_path.checkpoint == checkpoint
    assert "from the file's path" in " ".join(by_path.assumed)
    with pytest.raises(CheckpointError, match="its shapes fit x-resnet50; say which"):
        load(tmp_path / "renamed.pth")
    x = torch.rand(1, 6, 64, 64)
    with torch.no_grad():
        assert torch.equal(load(tmp_path / "renamed.pth", arch="x-resnet50").model(x), model(x))
    photo(tmp_path / "a.png", 64, 64)
    record = coda("explain", "a.png", "-m", "renamed.pth", "--arch", "x-resnet50", "--fit", "native", "--json").record
    (part,) = record["explained"]
    assert part["exact"]
    assert part["bias"] == 0
    assert part["positive"] + part["negative"] == pytest.approx(part["logit"], abs=1e-6)
    assert "bias-free ReLU" in coda("models", "show", "x-resnet50").out
