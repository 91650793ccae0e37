"""Every fast form of the unit gives what ``dau.aligned``, the paper's formula, gives."""

from __future__ import annotations

import itertools
from functools import partial

import pytest
import torch
from oracle import layer_matrix
from torch import Tensor

from coda_cli.core import dau_kernels as kernels
from coda_cli.core.dau import NORMS, aligned, scale_of_norm
from coda_cli.core.dau_layer import DAUConv2d
from coda_cli.core.dau_sparse import add_live, columns_of, is_mostly_zero
from coda_cli.core.dau_training import contracted
from coda_cli.machine import budget

pytestmark = pytest.mark.filterwarnings("error")

# Positions, outputs, rank, patch: rank below and above the patch, one of everything.
SIZES = [(7, 3, 4, 18), (5, 2, 30, 12), (1, 1, 1, 1), (300, 5, 8, 6)]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True, params=[budget.BLOCK_NUMBERS, 1], ids=["one block", "a block for every output"])
def _blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "BLOCK_NUMBERS", request.param)


def drawn(P: int, O: int, r: int, d: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Patches X [P, d], V [r, d], U [O, r, d], b [O, d], float64."""
    return tuple(torch.randn(*size, dtype=torch.float64) for size in ((P, d), (r, d), (O, r, d), (O, d)))  # type: ignore[return-value]


def by_definition(X: Tensor, V: Tensor, U: Tensor, b: Tensor, norm: str) -> Tensor:
    return aligned(X, V, U.transpose(1, 2), b, norm)


def dynamic_weights(X: Tensor, V: Tensor, U: Tensor, b: Tensor) -> Tensor:
    """w [P, O, d], one position and one output after the other."""
    return torch.stack([torch.stack([U[o].t() @ (V @ x) + b[o] for o in range(len(U))]) for x in X])


def close(actual: Tensor, expected: Tensor, rtol: float = 1e-10) -> None:
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=rtol * float(expected.abs().max()))


@pytest.mark.parametrize("norm", NORMS)
def test_the_definition_is_the_paper_s_formula_number_by_number(norm: str) -> None:
    X, V, U, b = drawn(4, 3, 2, 5)
    y = by_definition(X, V, U, b, norm)
    for p, o in itertools.product(range(4), range(3)):
        z = [sum(float(V[j, i] * X[p, i]) for i in range(5)) for j in range(2)]
        w = [sum(float(U[o, j, i]) * z[j] for j in range(2)) + float(b[o, i]) for i in range(5)]
        n = sum(entry * entry for entry in w) ** 0.5
        g = n / (1 + n * n) if norm == "SQ" else 1 / n
        assert float(y[p, o]) == pytest.approx(g * sum(w[i] * float(X[p, i]) for i in range(5)), rel=1e-12)


@pytest.mark.parametrize("norm", NORMS)
def test_the_definition_agrees_with_the_matrix_that_the_oracle_writes_out(norm: str) -> None:
    layer, x = DAUConv2d(2, 3, 3, 4, norm=norm).double(), torch.rand(2, 5, 4, dtype=torch.float64)
    matrix, size = layer_matrix(layer, x)
    U = kernels.rows(layer.dense_U()).unflatten(0, (3, 4))
    y = by_definition(layer.patches.rows(x[None]), kernels.rows(layer.V), U, kernels.rows(layer.bias_or_zeros()), norm)
    close(y.detach().t().reshape(size), (matrix @ x.flatten()).reshape(size))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("size", SIZES)
def test_outputs_by_weights_written_out(size: tuple[int, int, int, int], norm: str) -> None:
    given = drawn(*size)
    y, w, g = kernels.written_out(*given, partial(scale_of_norm, norm=norm))
    close(y, by_definition(*given, norm))
    close(w, dynamic_weights(*given))
    close(g, scale_of_norm(dynamic_weights(*given).norm(dim=2), norm))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("size", SIZES)
def test_outputs_without_the_weights(size: tuple[int, int, int, int], norm: str) -> None:
    X, V, U, b = drawn(*size)
    factors = kernels.norm_factors(torch.cat([U, b[:, None]], 1))
    y, z, g = kernels.factored(X, V, U, b, factors, partial(scale_of_norm, norm=norm))
    close(y, by_definition(X, V, U, b, norm))
    close(z, X @ V.t())
    close(g, scale_of_norm(dynamic_weights(X, V, U, b).norm(dim=2), norm))


def with_zeros(X: Tensor, share: float) -> Tensor:
    """Patches of which some entries are 0 by chance, and the first two entries of all."""
    X = X * (torch.rand(X.shape, dtype=X.dtype) > share)
    X[:, :2] = 0
    return X


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("share", "rows"), [(0.9, 1), (0.9, 3), (0.5, 100), (1.0, 100)])
def test_outputs_of_patches_whose_zeros_are_left_out(
    share: float, rows: int, size: tuple[int, int, int, int], norm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "LIVE_ROWS", rows)
    X, V, U, b = drawn(*size)
    X = with_zeros(X, share)
    factors, scale = kernels.norm_factors(torch.cat([U, b[:, None]], 1)), partial(scale_of_norm, norm=norm)
    found = kernels.factored(X, V, U, b, factors, scale, columns_of(U, b))
    close(found[0], by_definition(X, V, U, b, norm))
    for one, other in zip(found, kernels.factored(X, V, U, b, factors, scale), strict=True):
        close(one, other)


def test_what_is_not_a_number_is_never_left_out() -> None:
    X, V, U, b = drawn(7, 3, 4, 18)
    X = with_zeros(X, 1.0)
    X[5, 7] = torch.nan
    factors = kernels.norm_factors(torch.cat([U, b[:, None]], 1))
    y, *_ = kernels.factored(X, V, U, b, factors, partial(scale_of_norm, norm="SQ"), columns_of(U, b))
    assert y[5].isnan().all()


def test_zeros_are_left_out_where_there_are_many() -> None:
    assert is_mostly_zero(with_zeros(torch.rand(1000, 30), 0.9))
    assert not is_mostly_zero(with_zeros(torch.rand(1000, 30), 0.5))
    assert not is_mostly_zero(torch.rand(3, 30))


@pytest.mark.parametrize("kind", [torch.float64, torch.float32, torch.bfloat16])
def test_a_layer_behind_a_relu_leaves_zeros_out_and_follows_its_parameters(
    kind: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    layer = DAUConv2d(40, 7, 1, 3).to(torch.float64 if kind == torch.float64 else torch.float32)
    x = with_zeros(torch.rand(2 * 25, 40, dtype=layer.V.dtype), 0.9).view(2, 5, 5, 40).permute(0, 3, 1, 2)
    used = list[torch.dtype]()
    monkeypatch.setattr(kernels, "add_live", lambda *given: (used.append(given[3].dtype), add_live(*given)))
    for _ in range(2):  # the second time with other parameters
        used.clear()
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=kind == torch.bfloat16):
            found = layer(x)
        assert used
        assert set(used) == {kind}
        rows, U = layer.patches.rows(x), kernels.rows(layer.dense_U()).unflatten(0, (7, 3))
        expected = by_definition(rows, kernels.rows(layer.V), U, kernels.rows(layer.bias_or_zeros()), "SQ")
        found = found.permute(0, 2, 3, 1).flatten(0, 2)
        torch.testing.assert_close(found, expected, rtol=1e-2 if kind == torch.bfloat16 else 1e-5, atol=1e-3)
        with torch.no_grad():
            layer.U.mul_(1.5)


def test_outputs_of_factors_that_leave_out_the_bias_are_others() -> None:
    X, V, U, b = drawn(7, 3, 4, 18)
    factors = kernels.norm_factors(torch.cat([U, 0 * b[:, None]], 1))
    y, *_ = kernels.factored(X, V, U, b, factors, partial(scale_of_norm, norm="SQ"))
    assert (y - by_definition(X, V, U, b, "SQ")).abs().max() > 1e-3


@pytest.mark.parametrize("size", SIZES)
def test_factors_give_the_norms(size: tuple[int, int, int, int]) -> None:
    X, V, U, b = drawn(*size)
    R, c, e = kernels.norm_factors(torch.cat([U, b[:, None]], 1))
    assert R.shape == (size[1], min(size[2], size[3]), size[2])
    norms = torch.einsum("omr,pr->pom", R, X @ V.t()).add(c).norm(dim=2).hypot(e)
    close(norms, dynamic_weights(X, V, U, b).norm(dim=2))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("size", SIZES)
def test_outputs_from_convolutions_for_training(size: tuple[int, int, int, int], norm: str) -> None:
    X, V, U, b = drawn(*size)
    h = torch.cat([X @ V.t(), X @ b.t(), X @ U.flatten(0, 1).t()], 1)  # one position a picture
    A = torch.cat([U, b[:, None]], 1)
    y = contracted(h[..., None, None], A @ A.transpose(1, 2), partial(scale_of_norm, norm=norm))
    close(y[..., 0, 0], by_definition(X, V, U, b, norm), 1e-7)


@pytest.mark.parametrize("pulled", [kernels.pulled_one_by_one, kernels.pulled_together])
@pytest.mark.parametrize("K", [1, 3])
@pytest.mark.parametrize("size", SIZES)
def test_weighted_sums_of_dynamic_weights(pulled: object, K: int, size: tuple[int, int, int, int]) -> None:
    X, V, U, b = drawn(*size)
    q = torch.randn(K, size[0], size[1], dtype=torch.float64)
    found = pulled(q, X @ V.t(), U, b, X.new_empty(0), X.new_empty(0))  # type: ignore[operator]
    close(found, torch.einsum("kpo,pod->kpd", q, dynamic_weights(X, V, U, b)))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("written_rank", [1, 1000], ids=["written out", "factored"])
@pytest.mark.parametrize("one_by_one", [0, 1000], ids=["together", "one by one"])
@pytest.mark.parametrize("groups", [1, 2])
def test_pulling_back_is_the_transposed_matrix(
    groups: int, one_by_one: int, written_rank: int, norm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "WRITTEN_RANK", written_rank)
    monkeypatch.setattr(budget, "ONE_BY_ONE", one_by_one)
    layer = DAUConv2d(2, 3, 3, 4, stride=2, norm=norm, groups=groups).double()
    x = torch.rand(2, 2, 7, 6, dtype=torch.float64)
    y, held_map = layer.as_linear_map(x, x.dtype)
    assert held_map.z.ndim == (3 if written_rank == 1 else 2)
    c = torch.randn(2, *y.shape, dtype=torch.float64)
    back = kernels.pull_back(c, held_map)
    for b in range(2):
        matrix, size = layer_matrix(layer, x[b])
        close(y[b], (matrix @ x[b].flatten()).reshape(size))
        close(back[:, b].flatten(1), c[:, b].flatten(1) @ matrix)


def test_groups_are_zeros_that_can_be_written_out() -> None:
    layer = DAUConv2d(1, 2, 3, 4, groups=2)
    dense = kernels.without_groups(layer.U, 2, 4, 2).detach().view(2, 4, 9)
    for o, entry in itertools.product(range(2), range(9)):
        first, second = dense[o, :2, entry], dense[o, 2:, entry]
        seen, unseen = (first, second) if entry * 2 + o < 9 else (second, first)
        assert torch.equal(seen, layer.U.detach().view(2, 2, 9)[o, :, entry])
        assert not unseen.any()
