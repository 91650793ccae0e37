"""The norms of dynamic weights: the definition's, and never those of weights that have changed since."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from dau_paths import FACTORS, assert_equal_to
from oracle import dynamic_weights, patch_entries
from torch import Tensor, nn

from coda_cli.core.dau import NORMS, scale_of_norm
from coda_cli.core.dau_layer import DAUConv2d

pytestmark = [pytest.mark.filterwarnings("error"), pytest.mark.usefixtures("seeded", "both_ways")]


def test_the_scale_of_a_norm_is_its_definition() -> None:
    n = torch.tensor([0.0, 0.5, 1.0, 3.0])
    torch.testing.assert_close(scale_of_norm(n, "SQ"), torch.tensor([0.0, 0.4, 0.5, 0.3]))
    torch.testing.assert_close(scale_of_norm(n, "L2"), torch.tensor([0.0, 2.0, 1.0, 1 / 3]))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("n", "dtype"), [(300.0, torch.float16), (1e25, torch.float32), (1e200, torch.float64)])
def test_the_scale_of_a_norm_whose_square_overflows_is_not_lost(n: float, dtype: torch.dtype, norm: str) -> None:
    # With g = 0 the layer is dark, its map empty and the residual 0: nothing would tell.
    g = scale_of_norm(torch.tensor([n], dtype=dtype), norm)
    assert float(g) == pytest.approx(1 / n, rel=1e-2, abs=0)  # for such n both norms' g


@pytest.mark.parametrize("norm", NORMS)
def test_an_overflown_norm_is_not_taken_for_no_evidence(norm: str) -> None:
    assert scale_of_norm(torch.tensor([torch.inf, torch.nan]), norm).isnan().all()


def test_a_norm_without_a_formula_is_an_error() -> None:
    with pytest.raises(ValueError, match="no formula"):
        scale_of_norm(torch.ones(2), "L1")


def _norms_by_factors(layer: DAUConv2d, x: Tensor) -> Tensor:
    """|w_o| [O, P] of one image x [C, H, W] from ``norm_factors``."""
    z = layer.V.flatten(1) @ F.unfold(x[None], layer.kernel_size, padding=layer.padding, stride=layer.stride)[0]
    R, c, e = layer.norm_factors()
    return (R @ z + c[..., None]).norm(dim=1).hypot(e[:, None]).detach()


def _norms_by_definition(layer: DAUConv2d, x: Tensor) -> Tensor:
    _, entries = patch_entries(x.shape, layer.kernel_size, layer.stride, layer.padding)
    values = torch.cat([x.double().flatten(), torch.zeros(1, dtype=torch.float64)])
    return torch.stack([dynamic_weights(layer, values[index]).norm(dim=1) for index in entries], 1)


@pytest.mark.parametrize(("rank", "groups", "bias"), FACTORS)
def test_norm_factors_give_the_norms_of_the_definition(rank: int, groups: int, bias: bool) -> None:
    layer, x = DAUConv2d(2, 2, 3, rank, groups=groups, bias=bias).double(), torch.rand(2, 4, 5, dtype=torch.float64)
    assert layer.norm_factors().R.shape == (2, min(18, rank), rank)
    assert_equal_to(_norms_by_factors(layer, x), _norms_by_definition(layer, x), 1e-12)


def test_norm_factors_are_computed_once() -> None:
    layer = DAUConv2d(2, 3, 3, 4)
    assert layer.norm_factors() is layer.norm_factors()


def _optimiser_step(layer: DAUConv2d) -> None:
    optimiser = torch.optim.SGD(layer.parameters(), lr=10.0)
    layer(torch.rand(1, 2, 5, 5)).sum().backward()
    optimiser.step()


def _fused_step(layer: DAUConv2d) -> None:  # which torch does not count as a change
    optimiser = torch.optim.Adam(layer.parameters(), lr=1.0, fused=True)
    layer(torch.rand(1, 2, 5, 5)).sum().backward()
    optimiser.step()


def _load_state(layer: DAUConv2d) -> None:
    layer.load_state_dict(DAUConv2d(2, 3, 3, 4).state_dict())


def _copy_b(layer: DAUConv2d) -> None:
    assert layer.b is not None
    with torch.no_grad():
        layer.b.copy_(torch.randn_like(layer.b))


def _scale_u(layer: DAUConv2d) -> None:
    with torch.no_grad():
        layer.U.mul_(3)


def _new_parameter(layer: DAUConv2d) -> None:
    layer.U = nn.Parameter(torch.randn_like(layer.U))


def _to_double_and_scaled(layer: DAUConv2d) -> None:
    layer.double()
    _scale_u(layer)


@pytest.mark.parametrize(
    "change", [_optimiser_step, _fused_step, _load_state, _copy_b, _scale_u, _new_parameter, _to_double_and_scaled]
)
def test_norms_follow_a_change_of_the_weights(change: Callable[[DAUConv2d], None]) -> None:
    layer, x = DAUConv2d(2, 3, 3, 4), torch.rand(2, 5, 5)
    before = _norms_by_factors(layer, x)
    change(layer)
    after = _norms_by_factors(layer, x.to(layer.U.dtype))
    assert (after - before).abs().max() > 1e-3
    assert_equal_to(after, _norms_by_definition(layer, x), 1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_norm_factors_follow_a_move_to_another_type(dtype: torch.dtype) -> None:
    layer = DAUConv2d(2, 3, 3, 4)
    layer.norm_factors()
    layer.to(dtype)
    assert layer.norm_factors().R.dtype == dtype
    x = torch.rand(2, 5, 5).to(dtype)
    assert_equal_to(_norms_by_factors(layer, x), _norms_by_definition(layer, x), 8 * torch.finfo(dtype).eps)


def test_norms_follow_weights_that_were_replaced_in_memory_used_before() -> None:
    # Two replacements: the second may land at the address that the first one freed.
    layer, x = DAUConv2d(2, 3, 3, 4), torch.rand(2, 5, 5)
    for _ in range(100):
        layer.norm_factors()
        for _ in range(2):
            layer.U.data = torch.randn(layer.U.shape)
        assert_equal_to(_norms_by_factors(layer, x), _norms_by_definition(layer, x), 1e-5)


def test_a_copy_of_a_layer_has_norms_of_its_own() -> None:
    layer, x = DAUConv2d(2, 3, 3, 4), torch.rand(2, 5, 5)
    before = _norms_by_factors(layer, x)
    other = copy.deepcopy(layer)
    _scale_u(other)
    assert_equal_to(_norms_by_factors(other, x), _norms_by_definition(other, x), 1e-5)
    assert torch.equal(_norms_by_factors(layer, x), before)
