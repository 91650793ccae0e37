"""The interfaces of captum and Quantus: exact contributions come through them unchanged, and their metrics run."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

import captum.attr
import numpy as np
import pytest
import torch
from captum.attr import NoiseTunnel
from captum.metrics import infidelity, infidelity_perturb_func_decorator, sensitivity_max
from torch import Tensor, nn

from coda_cli.checkpoints.loading import load
from coda_cli.core.bcos_nets import BcosNet, bcos_chain
from coda_cli.core.decompose import RELATIVE_TOLERANCE, decompose
from coda_cli.core.hybrid import HybridNet
from coda_cli.core.networks import CodaNet, coda_net, encode
from coda_cli.core.standard_nets import StandardNet
from coda_cli.core.vit import bcos_vit
from coda_cli.errors import ExactnessError, UsageError
from coda_cli.study import attribution as module
from coda_cli.study.attribution import Attribution, EncodingNet, quantus_explain
from coda_cli.study.methods import ours


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def coda() -> CodaNet:
    return coda_net(channels=[6, 4, 3], kernels=[3, 3], strides=[1, 2], ranks=[3, 3], norm="SQ", temperature=2.0).eval()


def bcos(b: float = 2.0, max_out: int = 2) -> BcosNet:
    return bcos_chain(
        channels=[6, 4, 3], kernels=[3, 1], strides=[1, 2], b=b, max_out=max_out, scale=0.5, temperature=2.0, bias=-1.0
    ).eval()


def hybrid(width: int = 5, stride: int = 3) -> HybridNet:
    below = nn.Sequential(nn.Conv2d(6, width, stride, stride=stride), nn.ReLU())
    above = coda_net(channels=[width, 4, 3], kernels=[3, 1], strides=[1, 1], ranks=[3, 3], norm="SQ", temperature=2.0)
    return HybridNet(below, above, "0").eval()


class Linear(nn.Module):
    """Logits that are sums over parts of the picture: noise is enough to change the predicted class."""

    bias = 0.0

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([part.sum((1, 2, 3)) for part in x[:, :3].tensor_split(3, 2)], 1)


def colours(count: int = 3, h: int = 9, w: int = 6) -> Tensor:
    return torch.rand(count, 3, h, w)


@pytest.mark.parametrize("build", [coda, bcos])
def test_contributions_are_the_decomposition_s(build: Callable[[], nn.Module]) -> None:
    net, x = build(), colours()
    exact = decompose(net, encode(x), torch.tensor([[2], [0], [1]]))
    target = torch.tensor([2, 0, 1])
    six = Attribution(net).attribute(encode(x), target)
    assert six.equal(exact.contributions[:, 0])
    three = Attribution(net).attribute(x, target)
    assert three.equal(six[:, :3] + six[:, 3:])
    for contributions in (six, three):
        sums = contributions.flatten(1).double().sum(1) + net.bias
        torch.testing.assert_close(sums, exact.logit[:, 0], rtol=1e-5, atol=1e-5)
        assert not contributions.requires_grad


def test_a_target_is_one_class_for_all_or_one_for_each_input_or_the_predicted_one() -> None:
    net, x = coda(), encode(colours())
    alone = [Attribution(net).attribute(one[None], 1) for one in x]
    for target in (1, [1, 1, 1], torch.tensor(1), torch.tensor([1]), torch.tensor([1, 1, 1], dtype=torch.int32)):
        torch.testing.assert_close(Attribution(net).attribute(x, target), torch.cat(alone))
    net = Linear()
    predicted = net(x).argmax(1)
    assert len(set(predicted.tolist())) > 1
    assert Attribution(net).attribute(x).equal(Attribution(net).attribute(x, predicted))
    assert Attribution(net).attribute(x, predicted.tolist()).equal(Attribution(net).attribute(x, predicted))


@pytest.mark.parametrize(
    "target",
    [[1], [0, 1], (1,), torch.tensor([0, 1]), torch.tensor([[0], [1], [2]]), torch.tensor([0.0, 1.0, 2.0]), True, 1.0],
    ids=str,
)
def test_a_target_that_is_not_one_of_these_is_an_error(target: Any) -> None:
    with pytest.raises(ValueError, match=r"expected one class index or .*3.* one for each input"):
        Attribution(coda()).attribute(colours(), target)


def test_bad_inputs_are_errors_that_say_what_was_expected() -> None:
    attribution = Attribution(coda())
    for x in (torch.rand(2, 4, 8, 8), torch.rand(3, 8, 8), torch.rand(0, 3, 8, 8), torch.zeros(1, 3, 8, 8).byte()):
        with pytest.raises(ValueError, match=r"expected a floating tensor \[B, 3, H, W\] or \[B, 6, H, W\]"):
            attribution.attribute(x)
    with pytest.raises(ValueError, match=r"class indices must lie in 0\.\.2"):
        attribution.attribute(colours(), 3)
    with pytest.raises(ValueError, match="tuple of 2"):
        attribution.attribute((colours(), colours()))
    with pytest.raises(ValueError, match="additional_forward_args must be None"):
        attribution.attribute(colours(), 0, torch.zeros(3))  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="start_point must be None"):
        attribution.compute_convergence_delta(colours(), 0, colours())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"inputs' shape \[3, 3, 9, 6\], got \[3, 6, 9, 6\]"):
        attribution.compute_convergence_delta(encode(colours()), None, colours())
    with pytest.raises(ValueError, match="gives no tensor of logits"):
        Attribution(StandardNet(nn.Conv2d(3, 3, 1))).attribute(colours())


def test_it_is_one_of_captum_s() -> None:
    attribution = Attribution(coda())
    assert isinstance(attribution, captum.attr.Attribution)
    assert attribution.get_name() == "Attribution"  # type: ignore[attr-defined]
    assert attribution.multiplies_by_inputs
    assert attribution.has_convergence_delta()

    class Own(Attribution):
        pass

    assert isinstance(Own(coda()), captum.attr.Attribution)


def test_copies_and_pickles_are_captum_s_too() -> None:
    attribution, x = Attribution(coda()), colours()
    for twin in (copy.deepcopy(attribution), pickle.loads(pickle.dumps(attribution))):
        assert isinstance(twin, captum.attr.Attribution)
        assert twin.forward_func.model is not attribution.forward_func.model
        assert twin.attribute(x, 1).equal(attribution.attribute(x, 1))


def test_a_network_with_its_description_is_taken_as_its_module_is() -> None:
    net, x = load("cifar10"), torch.rand(1, 3, 32, 32)
    maps = Attribution(net).attribute(x, 3)
    assert maps.equal(Attribution(net.model).attribute(x, 3))
    assert maps.equal(Attribution(EncodingNet(net)).attribute(x, 3))
    assert not EncodingNet(net).training
    assert EncodingNet(net)(x).equal(net.model(encode(x)))


@pytest.mark.parametrize("channels", [3, 6])
@pytest.mark.parametrize("kind", ["coda", "bcos", "hybrid", "transformer"])
def test_the_convergence_delta_is_the_residual(kind: str, channels: int) -> None:
    transformer = {"patch": 4, "dim": 64, "depth": 1, "classes": 3, "bias": -1.0}
    builders = {"coda": coda, "bcos": bcos, "hybrid": hybrid, "transformer": lambda: bcos_vit(**transformer).eval()}
    net, x = builders[kind](), colours(2, 16, 16)
    x = encode(x) if channels == 6 else x
    attribution = Attribution(net)
    contributions, delta = attribution.attribute(x, [2, 0], return_convergence_delta=True)
    exact = decompose(net, x if channels == 6 else encode(x), torch.tensor([[2], [0]]))
    assert delta.shape == (2,)
    assert delta.dtype == torch.float64
    assert bool((delta.abs() <= exact.tolerance[:, 0]).all())
    if channels == 6 and kind != "hybrid":  # nothing was added or shared out once more
        torch.testing.assert_close(delta, exact.residual[:, 0], rtol=0, atol=1e-12)
    assert attribution.compute_convergence_delta(contributions, None, x, [2, 0]).equal(delta)
    contributions[1, 0, 0, 0] += 0.25
    changed = attribution.compute_convergence_delta(contributions, None, x, [2, 0])
    torch.testing.assert_close(changed, delta - torch.tensor([0, 0.25]).double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("channels", [3, 6])
@pytest.mark.parametrize(("width", "stride"), [(5, 3), (6, 1)])  # the second cut has the shape of the input
def test_of_a_hybrid_each_position_of_the_cut_is_spread_over_its_pixels_and_their_channels(
    width: int, stride: int, channels: int
) -> None:
    net, x = hybrid(width, stride), colours(2, 10, 9)
    contributions = Attribution(net).attribute(x if channels == 3 else encode(x), [1, 2])
    assert contributions.shape == (2, channels, 10, 9)
    assert bool((contributions == contributions[:, :1]).all())
    for one, picture, index in zip(contributions, x, [1, 2], strict=True):
        torch.testing.assert_close(one.sum(0), ours(net, encode(picture[None]), [index])[0])


def test_a_residual_above_its_tolerance_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RELATIVE_TOLERANCE, torch.float32, -1.0)
    with pytest.raises(ExactnessError, match="NOT EXACT"):
        Attribution(coda()).attribute(colours())


def test_a_batch_that_does_not_fit_is_explained_in_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x, seen = coda(), colours(5), []

    def scarce(model: nn.Module, x: Tensor, targets: Tensor) -> Any:
        if len(x) > 2:
            raise torch.OutOfMemoryError
        seen.append(len(x))
        return decompose(model, x, targets)

    whole = Attribution(net).attribute(x, [0, 1, 2, 1, 0])
    monkeypatch.setattr(module, "decompose", scarce)
    torch.testing.assert_close(Attribution(net).attribute(x, [0, 1, 2, 1, 0]), whole)
    assert seen == [2, 1, 2]


# ---- captum's metrics and tools --------------------------------------------------------------------------------------


@infidelity_perturb_func_decorator(True)
def a_little_less(inputs: Tensor | tuple[Tensor]) -> Tensor:
    """Perturbed inputs; the same ones at each call."""
    x = inputs[0] if isinstance(inputs, tuple) else inputs
    return x - 0.01 * torch.rand(x.shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("build", [coda, bcos])
@pytest.mark.parametrize("channels", [3, 6])
def test_captum_s_infidelity_is_its_definition(build: Callable[[], nn.Module], channels: int) -> None:
    x, target = colours(), torch.tensor([2, 0, 1])
    x = encode(x) if channels == 6 else x
    attribution = Attribution(build())
    contributions = attribution.attribute(x, target)
    scores = infidelity(attribution.forward_func, a_little_less, x, contributions, target=target, n_perturb_samples=1)
    (relative,), (less,) = a_little_less(x)
    expected = (relative * contributions).flatten(1).sum(1)
    with torch.no_grad():
        drop = (attribution.forward_func(x) - attribution.forward_func(less)).gather(1, target[:, None])[:, 0]
    torch.testing.assert_close(scores, (expected - drop) ** 2, rtol=1e-4, atol=1e-10)
    assert float(scores.max()) < 1e-2


def test_captum_finds_no_infidelity_in_a_linear_network() -> None:
    net, x = bcos(b=1.0, max_out=1), encode(colours())
    attribution = Attribution(net)
    contributions = attribution.attribute(x, 1)
    scores = infidelity(attribution.forward_func, a_little_less, x, contributions, target=1, n_perturb_samples=4)
    assert float(scores.max()) < 1e-12
    wrong = infidelity(attribution.forward_func, a_little_less, x, 2 * contributions, target=1, n_perturb_samples=4)
    assert float(wrong.min()) > 1e-9


@pytest.mark.parametrize("build", [coda, bcos])
@pytest.mark.parametrize("target", [1, [2, 0, 1], torch.tensor([2, 0, 1])], ids=["one", "list", "tensor"])
def test_captum_s_sensitivity_is_its_definition(
    build: Callable[[], nn.Module], target: int | list[int] | Tensor
) -> None:
    x, attribution = colours(), Attribution(build())

    def perturbed(inputs: Tensor) -> Tensor:
        return inputs + 0.02

    scores = sensitivity_max(attribution.attribute, x, perturbed, target=target, n_perturb_samples=2)
    before, after = (attribution.attribute(t, target).flatten(1) for t in (x, x + 0.02))
    torch.testing.assert_close(scores, (after - before).norm(dim=1) / before.norm(dim=1))
    assert 0 < float(scores.max()) < 1
    assert torch.isfinite(sensitivity_max(attribution.attribute, x, target=target)).all()  # random noise, as it comes


def test_captum_s_noise_tunnel_runs_on_it() -> None:
    x, attribution = colours(2), Attribution(coda())
    found, delta = NoiseTunnel(attribution).attribute(
        x, nt_samples=3, stdevs=0.01, target=[1, 0], return_convergence_delta=True
    )
    torch.testing.assert_close(found, attribution.attribute(x, [1, 0]), rtol=0.5, atol=0.05)
    assert delta.shape == (6,)
    assert float(delta.abs().max()) < 1e-4


def test_captum_is_asked_for_when_it_is_used_and_not_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    module._joined_with_captum.cache_clear()
    with pytest.raises(UsageError, match=r"Attribution needs captum, .* pip install captum"):
        Attribution(coda())
    program = "import sys, coda_cli.study.attribution; sys.exit('captum' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


# ---- Quantus ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_quantus_gets_pixels_contributions(dtype: type[np.floating]) -> None:
    net, x, y = coda(), colours(), np.array([2, 0, 1])
    expected = Attribution(net).attribute(x, torch.from_numpy(y)).sum(1, keepdim=True).numpy()
    for model in (net, EncodingNet(net)):
        for inputs in (x, encode(x)):
            found = quantus_explain(model, inputs.numpy().astype(dtype), y, device="cpu")
            assert found.shape == (3, 1, 9, 6)
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
            channels = quantus_explain(model, inputs.numpy().astype(dtype), y, per_channel=True)
            np.testing.assert_allclose(channels, Attribution(net).attribute(inputs, torch.from_numpy(y)), atol=1e-6)
    assert quantus_explain(net.double(), x.numpy(), np.array([1])).dtype == np.float64


@pytest.fixture
def quantus() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found: ModuleType = pytest.importorskip("quantus", reason="quantus is not installed: pip install quantus")
    return found


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("build", [coda, bcos])
@pytest.mark.parametrize("channels", [3, 6])
def test_metrics_of_quantus_run(quantus: ModuleType, build: Callable[[], nn.Module], channels: int) -> None:
    net, x, y = build(), colours(4, 12, 12), np.array([0, 1, 2, 1])
    model, inputs = (EncodingNet(net), x.numpy()) if channels == 3 else (net, encode(x).numpy())

    def scores(metric: Any) -> Any:
        return metric(
            model, inputs, y, None, channel_first=True, explain_func=quantus_explain, softmax=False, device="cpu"
        )

    # Faithfulness: the logits after the 12 strongest pixels are black, after 24, and so on.
    flipping = quantus.PixelFlipping(features_in_step=12 * channels, perturb_baseline=0.0, disable_warnings=True)
    flipped = np.array(scores(flipping))
    order = torch.from_numpy(quantus_explain(model, inputs, y)).flatten(1).argsort(1, descending=True)
    for step in range(12):
        black = torch.from_numpy(inputs).flatten(2).clone()
        for picture, pixels in zip(black, order, strict=True):
            picture[:, pixels[: 12 * (step + 1)]] = 0.0
        with torch.no_grad():
            logits = model(black.reshape(inputs.shape)).numpy()[np.arange(4), y]
        np.testing.assert_allclose(flipped[:, step], logits, rtol=1e-4, atol=1e-5)

    # Randomisation: the explanation of the network itself, and of networks with drawn weights.
    similar = scores(quantus.MPRT(disable_warnings=True, display_progressbar=False))
    np.testing.assert_allclose(similar.pop("original"), 1)
    assert similar
    assert all(value < 0.999 for values in similar.values() for value in values)
