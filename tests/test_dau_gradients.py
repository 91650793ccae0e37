"""The gradients of the DAU layer: held ones are the definition's matrix, those of training the definition's own."""

from __future__ import annotations

import pytest
import torch
from dau_paths import Path, assert_equal_to, by_eval, by_held, by_training
from oracle import layer_matrix, written_out
from torch import Tensor

from coda_cli.core.dau import NORMS
from coda_cli.core.dau_layer import DAUConv2d
from coda_cli.core.held import held

pytestmark = [pytest.mark.filterwarnings("error"), pytest.mark.usefixtures("seeded", "both_ways")]


# ---- held -----------------------------------------------------------------------------------------------------------


def _cotangents() -> dict[str, Tensor]:
    shape = (2, 4, 5, 3)
    one_output, one_position, mixed = (torch.zeros(shape, dtype=torch.float64) for _ in range(3))
    one_output[:, 2] = torch.randn(2, 5, 3, dtype=torch.float64)
    one_position[1, 3, 4, 0] = -2.0
    mixed[0, 0], mixed[1, 3] = 1.0, -1.0  # the images ask for different outputs
    return {
        "all": torch.randn(shape, dtype=torch.float64),
        "one output": one_output,
        "one position": one_position,
        "different outputs": mixed,
        "none": torch.zeros(shape, dtype=torch.float64),
    }


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("cotangent", ["all", "one output", "one position", "different outputs", "none"])
def test_held_gradient_is_the_definition_s_matrix_transposed(norm: str, cotangent: str) -> None:
    layer = DAUConv2d(2, 4, 3, 5, stride=2, norm=norm).double()
    x = torch.rand(2, 2, 9, 6, dtype=torch.float64, requires_grad=True)
    c = _cotangents()[cotangent]
    with held():
        (gradient,) = torch.autograd.grad(layer(x), x, c)
    for b in range(2):
        matrix, _ = layer_matrix(layer, x.detach()[b])
        assert_equal_to(gradient[b].flatten(), c[b].flatten() @ matrix, 1e-10)


def test_held_gradient_can_be_taken_after_the_block_is_left() -> None:
    layer, x = DAUConv2d(2, 3, 3, 4), torch.rand(1, 2, 5, 5, requires_grad=True)
    with held():
        y = layer(x)
        (inside,) = torch.autograd.grad(y.sum(), x, retain_graph=True)
    (outside,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(inside, outside)
    (ordinary,) = torch.autograd.grad(layer(x).sum(), x)
    assert not torch.allclose(ordinary, inside, rtol=0.1)


def test_a_nan_in_one_image_does_not_touch_the_gradient_of_another() -> None:
    layer, x = DAUConv2d(2, 3, 3, 4), torch.rand(2, 2, 5, 5)
    x[0, 0, 2, 2] = torch.nan
    x.requires_grad_()
    with held():
        (together,) = torch.autograd.grad(layer(x).sum(), x)
        (alone,) = torch.autograd.grad(layer(x[1:]).sum(), x)
    assert together[0].isnan().any()
    assert_equal_to(together[1], alone[1], 1e-6)


# ---- training -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    ("rank", "groups", "bias", "stride"),
    [(4, 1, True, 1), (4, 1, False, 2), (4, 2, True, 1), (40, 1, True, 1)],
)
def test_training_gradients_are_those_of_the_definition(
    norm: str, rank: int, groups: int, bias: bool, stride: int
) -> None:
    layer = DAUConv2d(2, 2, 3, rank, norm=norm, groups=groups, bias=bias, stride=stride)
    x = torch.rand(2, 2, 6, 5, requires_grad=True)
    wide = x.detach().double().requires_grad_()
    expected_y = written_out(layer, wide)
    c = torch.randn(expected_y.shape, dtype=torch.float64)
    parameters = list(layer.parameters())
    fast = torch.autograd.grad(layer(x), [x, *parameters], c.float())
    slow = torch.autograd.grad(expected_y, [wide, *parameters], c)
    for a, b in zip(fast, slow, strict=True):
        torch.testing.assert_close(a.double(), b.double(), rtol=1e-3, atol=1e-4 * float(b.abs().max()))


def test_training_in_float64_is_computed_in_float64() -> None:
    first, second = DAUConv2d(2, 3, 3, 4).double(), DAUConv2d(3, 2, 3, 4).double()
    x = torch.rand(1, 2, 5, 6, dtype=torch.float64, requires_grad=True)
    y = second(first(x))
    assert y.dtype == torch.float64
    parameters = [x, *first.parameters(), *second.parameters()]
    fast = torch.autograd.grad(y.sum(), parameters)
    slow = torch.autograd.grad(written_out(second, written_out(first, x)).sum(), parameters)
    for a, b in zip(fast, slow, strict=True):
        assert_equal_to(a, b, 1e-8)


def test_a_held_pass_gives_the_parameters_no_gradient() -> None:
    layer = DAUConv2d(2, 3, 3, 4)
    by_held(layer, torch.rand(1, 2, 5, 5)).sum().backward()
    assert all(parameter.grad is None for parameter in layer.parameters())


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("path", "share"), [(by_eval, 0.01), (by_held, 0.01), (by_training, 0.03)])
def test_bf16_autocast_stays_near_float32(path: Path, share: float, norm: str) -> None:
    layer, x = DAUConv2d(6, 8, 3, 16, norm=norm), torch.rand(1, 6, 9, 9)
    expected = by_eval(layer, x)
    with torch.autocast("cpu", torch.bfloat16):
        y = path(layer, x)
    error = (y.float() - expected).abs().max()
    assert 0 < error < share * expected.abs().max()


def test_inputs_that_take_no_gradient_give_the_same_outputs_and_the_same_gradients_of_the_parameters() -> None:
    """The form for a frozen backbone, against the convolutions that an input with a gradient goes through."""
    torch.manual_seed(0)
    layer, x = DAUConv2d(6, 5, 1, 3).double(), torch.randn(2, 6, 3, 4, dtype=torch.float64)
    q, found = torch.randn(2, 5, 3, 4, dtype=torch.float64), []
    for takes in (False, True):
        y = layer(x.clone().requires_grad_(takes))
        found.append((y, *torch.autograd.grad((y * q).sum(), [layer.V, layer.U, layer.b])))
    for fixed, usual in zip(*found, strict=True):
        torch.testing.assert_close(fixed, usual, rtol=1e-9, atol=1e-10)
