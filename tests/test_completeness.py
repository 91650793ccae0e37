"""The parts of a logit add up to it, within the tolerance promised, and what does not add up is not called exact."""

from __future__ import annotations

import pytest
import torch
from small_nets import CLASSES, error_against_definition, explained, picture, small_net
from torch import Tensor, nn

from coda_cli.checkpoints.published import PUBLISHED
from coda_cli.core import dau_kernels
from coda_cli.core.dau import NORMS
from coda_cli.core.dau_layer import DAUConv2d
from coda_cli.core.decompose import RELATIVE_TOLERANCE, decompose
from coda_cli.core.networks import CodaNet, build, encode

pytestmark = [pytest.mark.filterwarnings("error"), pytest.mark.usefixtures("seeded", "one_lane")]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("norm", NORMS)
def test_the_parts_add_up_to_the_logit(dtype: torch.dtype, norm: str) -> None:
    model, x = small_net(dtype, norm=norm), picture(dtype=dtype)
    d = explained(model, x)
    total = d.contributions.double().sum((2, 3, 4)) + d.bias + d.residual
    torch.testing.assert_close(total, d.logit, rtol=1e-14, atol=1e-14)
    assert d.exact.all()
    assert error_against_definition(model, x, d) < 10 * torch.finfo(dtype).eps


def test_the_fields_say_what_they_are() -> None:
    model, x = small_net(torch.float32), picture(3, 2, 6, 5, dtype=torch.float32)
    weights = torch.tensor([[1.0, -1.0, 0.0, 0.0], [0.25, 0.25, 0.5, 0.0]])
    d = decompose(model, x, weights)
    assert (d.contributions.shape, d.pixels.shape) == ((3, 2, 2, 6, 5), (3, 2, 6, 5))
    assert torch.equal(d.pixels, d.contributions.sum(2))
    with torch.no_grad():
        torch.testing.assert_close(d.logits, model(x))
    assert torch.equal(d.weights, weights.expand(3, -1, -1))
    torch.testing.assert_close(d.logit, d.logits.double() @ weights.double().t())
    torch.testing.assert_close(d.bias, torch.tensor([0.0, -2.0], dtype=torch.float64).expand(3, -1))
    # Rounding of the bias counts where A minus B cancels the bias itself: |bias| times the sum of |weights|.
    size = d.contributions.abs().double().sum((2, 3, 4)) + 2.0 * torch.tensor([2.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(d.tolerance, RELATIVE_TOLERANCE[torch.float32] * size)
    assert {t.dtype for t in (d.logit, d.bias, d.residual, d.tolerance)} == {torch.float64}
    assert {t.shape for t in (d.logit, d.bias, d.residual, d.tolerance, d.exact)} == {(3, 2)}


def test_the_tolerances_are_those_the_design_promises() -> None:
    assert RELATIVE_TOLERANCE[torch.float64] == 1e-10
    assert RELATIVE_TOLERANCE[torch.float32] == 1e-5


def test_another_tolerance_can_be_asked_for() -> None:
    model, x = small_net(torch.float32), picture(dtype=torch.float32)
    usual, strict, loose = (decompose(model, x, [0, 1], relative_tolerance=t) for t in (None, 1e-12, 0.5))
    torch.testing.assert_close(strict.tolerance, usual.tolerance * 1e-7)
    torch.testing.assert_close(loose.tolerance, usual.tolerance * 5e4)
    assert usual.exact.all()
    assert not strict.exact.any()
    assert torch.equal(strict.contributions, usual.contributions)


@pytest.mark.parametrize(("dtype", "wrong_by"), [(torch.float64, 1e-8), (torch.float32, 1e-3)])
def test_a_map_that_is_slightly_too_large_is_not_exact(
    dtype: torch.dtype, wrong_by: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x = small_net(dtype, bias=0.0), picture(dtype=dtype)
    honest = dau_kernels.pull_back
    monkeypatch.setattr(dau_kernels, "pull_back", lambda *arguments: honest(*arguments) * (1 + wrong_by))
    assert not explained(model, x).exact.any()


def test_a_constant_that_is_not_the_bias_is_not_exact() -> None:
    class Offset(CodaNet):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + 0.01

    honest = small_net()
    model = Offset(honest.layers, temperature=3.0, bias=-2.0)  # type: ignore[arg-type]
    d = explained(model, picture())
    assert not d.exact.any()
    torch.testing.assert_close(d.residual, torch.full((2, CLASSES), 0.01, dtype=torch.float64))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_an_input_that_is_not_a_number_is_not_exact(bad: float) -> None:
    model, x = small_net(), picture()
    x[:, 0, 0, 0] = bad
    for targets in (None, range(CLASSES), torch.randn(3, CLASSES)):
        d = decompose(model, x, targets)
        assert d.exact.dtype == torch.bool
        assert not d.exact.any()


def test_weights_that_are_not_numbers_are_not_exact() -> None:
    model = small_net()
    with torch.no_grad():
        model.layers[0].V[0, 0, 0, 0] = torch.nan
    assert not explained(model, picture()).exact.any()


def test_one_bad_image_does_not_spoil_the_others_of_its_batch() -> None:
    model, x = small_net(), picture(3, 2, 6, 5)
    x[1, 0, 2, 2] = torch.nan
    d = explained(model, x)
    assert d.exact.tolist() == [[True] * CLASSES, [False] * CLASSES, [True] * CLASSES]
    torch.testing.assert_close(d.contributions[2:], explained(model, x[2:]).contributions)


@pytest.mark.parametrize("norm", NORMS)
def test_an_empty_picture_has_an_empty_exact_map(norm: str) -> None:
    d = explained(small_net(norm=norm), torch.zeros(2, 2, 6, 5, dtype=torch.float64))
    assert torch.equal(d.contributions, torch.zeros_like(d.contributions))
    assert torch.equal(d.logit, torch.full_like(d.logit, -2.0))
    assert d.exact.all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ["V", "U", "all"])
def test_a_network_without_weights_has_an_empty_exact_map(name: str, norm: str) -> None:
    layers = [DAUConv2d(2, 3, 3, 4, norm=norm, bias=False), DAUConv2d(3, 4, 3, 4, norm=norm, bias=False)]
    for layer in layers:
        for parameter in layer.parameters() if name == "all" else [getattr(layer, name)]:
            nn.init.zeros_(parameter)
    d = explained(CodaNet(layers, temperature=1.0, bias=0.0).double(), picture())
    assert torch.equal(d.contributions, torch.zeros_like(d.contributions))
    assert d.exact.all()


@pytest.mark.parametrize("name", ["9L-S-CoDA-SQ-rank-4", "9L-S-CoDA-L2-1000"])
def test_a_published_architecture_is_exact_in_float32(name: str) -> None:
    model = build("coda_net", PUBLISHED[name] | {"temperature": 1.0, "bias": 0.0})
    x = encode(picture(2, 3, 16, 12, dtype=torch.float32))
    d = decompose(model, x, [3, 7])
    assert d.exact.all()
    assert float(d.contributions.abs().max()) > 0


@pytest.mark.parametrize("norm", NORMS)
def test_bf16_autocast_states_its_residual_and_stays_near_float32(norm: str) -> None:
    model, x = (
        small_net(torch.float32, channels=[6, 8, 4], ranks=[16, 16], norm=norm),
        encode(picture(2, 3, 8, 9, dtype=torch.float32)),
    )
    expected = explained(model, x)
    with torch.autocast("cpu", torch.bfloat16):
        d = explained(model, x)
    assert d.exact.all()
    assert float(d.residual.abs().max()) > 1e-6  # it was computed in bf16 indeed
    torch.testing.assert_close(d.tolerance, expected.tolerance * 5000, rtol=0.02, atol=0)  # 5e-2, not 1e-5
    error = (d.contributions - expected.contributions).abs().sum((2, 3, 4))
    assert float((error / expected.contributions.abs().sum((2, 3, 4))).max()) < 0.03
