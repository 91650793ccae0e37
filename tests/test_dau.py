"""The DAU layer: on every path its output is what the definition in ``oracle`` says."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from dau_paths import (
    FACTORS,
    GEOMETRIES,
    PATHS,
    PRECISION,
    Path,
    assert_equal_to,
    by_definition,
    by_eval,
    by_held,
    by_training,
)
from oracle import layer_matrix
from torch import Tensor, nn

from coda_cli.core import dau_kernels
from coda_cli.core.dau import NORMS
from coda_cli.core.dau_layer import DAUConv2d
from coda_cli.core.held import held

pytestmark = [pytest.mark.filterwarnings("error"), pytest.mark.usefixtures("seeded", "both_ways")]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("kernel", "stride", "padding"), GEOMETRIES)
def test_output_equals_the_definition(path: Path, norm: str, kernel: int, stride: int, padding: int | None) -> None:
    dtype, rtol = PRECISION[path]
    layer = DAUConv2d(2, 3, kernel, 4, stride=stride, padding=padding, norm=norm).to(dtype)
    x = torch.rand(2, 2, 9, 8, dtype=dtype)
    assert_equal_to(path(layer, x), by_definition(layer, x), rtol)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("rank", "groups", "bias"), FACTORS)
def test_output_equals_the_definition_for_any_rank_and_grouping(
    path: Path, norm: str, rank: int, groups: int, bias: bool
) -> None:
    dtype, rtol = PRECISION[path]
    layer = DAUConv2d(2, 2, 3, rank, norm=norm, groups=groups, bias=bias).to(dtype)
    x = torch.rand(2, 2, 4, 5, dtype=dtype)
    assert_equal_to(path(layer, x), by_definition(layer, x), rtol)


def test_the_three_paths_agree() -> None:
    layer, x = DAUConv2d(3, 5, 3, 7, stride=2), torch.rand(2, 3, 11, 8)
    expected = by_eval(layer, x)
    assert_equal_to(by_training(layer, x), expected, 1e-5)
    assert_equal_to(by_held(layer, x), expected, 1e-6)


def test_held_layers_whose_input_needs_no_gradient_give_the_same_output() -> None:
    layer, x = DAUConv2d(3, 5, 3, 7), torch.rand(2, 3, 6, 8)
    with held():
        assert_equal_to(layer(x), by_eval(layer, x), 1e-5)


@pytest.mark.parametrize(("kernel", "stride", "padding"), [*GEOMETRIES, (2, 1, None), (4, 2, None)])
def test_output_has_the_size_of_an_ordinary_convolution(kernel: int, stride: int, padding: int | None) -> None:
    layer = DAUConv2d(2, 3, kernel, 4, stride=stride, padding=padding)
    usual = (kernel - 1) // 2 if padding is None else padding
    x = torch.rand(2, 2, 9, 13)
    expected = nn.Conv2d(2, 3, kernel, stride=stride, padding=usual)(x).shape
    assert {path(layer, x).shape for path in PATHS} == {expected}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("path", [by_eval, by_held])
def test_output_has_the_type_of_the_input(path: Path, dtype: torch.dtype) -> None:
    layer, x = DAUConv2d(2, 3, 3, 4), torch.rand(1, 2, 5, 6)
    expected = by_definition(layer, x)
    y = path(layer.to(dtype), x.to(dtype))
    assert y.dtype == dtype
    assert (y.double() - expected).abs().max() < 16 * torch.finfo(dtype).eps * expected.abs().max() + 1e-12


@pytest.mark.parametrize("path", PATHS)
def test_an_empty_batch_gives_an_empty_output(path: Path) -> None:
    assert path(DAUConv2d(2, 3, 3, 4, stride=2), torch.rand(0, 2, 5, 6)).shape == (0, 3, 3, 3)


@pytest.mark.parametrize("path", [by_eval, by_held])
def test_output_is_the_same_in_any_memory_layout(path: Path) -> None:
    layer, x = DAUConv2d(3, 4, 3, 5), torch.rand(2, 3, 6, 7)
    expected = path(layer, x)
    for other in (x.to(memory_format=torch.channels_last), x.transpose(2, 3).contiguous().transpose(2, 3)):
        assert_equal_to(path(layer, other), expected, 1e-6)


# ---- blocks ---------------------------------------------------------------------------------------------------------


def _tiny_blocks(positions: int, outputs: int, _width: int, *_: object) -> Iterator[tuple[slice, slice]]:
    for p in range(0, positions, 7):
        for o in range(0, outputs, 2):
            yield slice(p, min(p + 7, positions)), slice(o, min(o + 2, outputs))


@pytest.mark.parametrize("path", [by_eval, by_held])
def test_the_size_of_the_blocks_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dau_kernels, "blocks", _tiny_blocks)
    layer, x = DAUConv2d(2, 5, 3, 4).double(), torch.rand(2, 2, 5, 6, dtype=torch.float64)
    assert_equal_to(path(layer, x), by_definition(layer, x), 1e-10)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("positions", [1, 1024, 2500, 40000])
@pytest.mark.parametrize(("outputs", "width"), [(1, 1), (10, 64), (64, 257), (7, 100000)])
def test_blocks_cover_every_output_at_every_position_once(
    positions: int, outputs: int, width: int, device: str
) -> None:
    covered = torch.zeros(positions, outputs, dtype=torch.int8)
    for p, o in dau_kernels.blocks(positions, outputs, width, torch.device(device)):
        covered[p, o] += 1
        largest = covered[p, o].numel() * width * 4
        assert largest <= (1 << 21 if device == "cpu" else 1 << 28) or o.stop - o.start == 1
    assert (covered == 1).all()


def test_a_layer_of_many_blocks_equals_the_definition_position_by_position() -> None:
    # 2500 positions of rank 100: two blocks of positions, four of outputs; on the way back two parts, of 40 and of 10
    # rows of 50. With kernel 1 every position is a layer of its own, so the definition can be asked about the positions
    # beside the borders alone.
    layer = DAUConv2d(2, 7, 1, 100, bias=False).double()
    x = torch.rand(1, 2, 50, 50, dtype=torch.float64)
    blocks = list(dau_kernels.blocks(2500, 7, 100, x.device))
    assert len(blocks) == 8
    x.requires_grad_()
    with held():
        y = layer(x)
        (rows,) = torch.autograd.grad(y.sum(), x)
    for position in (0, 500, 1999, 2000, 2047, 2048, 2049, 2499):
        row, column = divmod(position, 50)
        pixel = x.detach()[0, :, row, column, None, None]
        matrix, _ = layer_matrix(layer, pixel)
        assert_equal_to(y[0, :, row, column], matrix @ pixel.flatten(), 1e-10)
        assert_equal_to(rows[0, :, row, column], matrix.sum(0), 1e-10)


# ---- nothing to see -------------------------------------------------------------------------------------------------


def _no_input(_layer: DAUConv2d, x: Tensor) -> None:
    x.zero_()


def _no_weights(layer: DAUConv2d, _x: Tensor) -> None:
    for parameter in layer.parameters():
        parameter.data.zero_()


def _no_dynamic_weights(layer: DAUConv2d, _x: Tensor) -> None:
    layer.V.data.zero_()
    if layer.b is not None:
        layer.b.data.zero_()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("empty", [_no_input, _no_weights, _no_dynamic_weights])
def test_nothing_gives_zero_and_finite_gradients(
    path: Path, norm: str, bias: bool, empty: Callable[[DAUConv2d, Tensor], None]
) -> None:
    layer, x = DAUConv2d(2, 3, 3, 4, norm=norm, bias=bias), torch.rand(1, 2, 5, 4)
    empty(layer, x)
    y = path(layer, x)
    assert torch.equal(y, torch.zeros(1, 3, 5, 4))
    if y.requires_grad:
        y.sum().backward()
    gradients = [parameter.grad for parameter in layer.parameters() if parameter.grad is not None]
    assert len(gradients) == (len(list(layer.parameters())) if path is by_training else 0)
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("norm", NORMS)
def test_held_gradient_of_nothing_is_zero(norm: str) -> None:
    layer, x = DAUConv2d(2, 3, 3, 4, norm=norm, bias=False), torch.zeros(1, 2, 5, 4, requires_grad=True)
    with held():
        (gradient,) = torch.autograd.grad(layer(x).sum(), x)
    assert torch.equal(gradient, torch.zeros_like(x))


@pytest.mark.parametrize("norm", NORMS)
def test_an_output_without_weights_is_zero_beside_others_that_are_not(norm: str) -> None:
    layer, x = DAUConv2d(2, 3, 3, 4, norm=norm).double(), torch.rand(1, 2, 5, 4, dtype=torch.float64)
    assert layer.b is not None
    layer.U.data[4:8], layer.b.data[1] = 0, 0
    y = by_eval(layer, x)
    assert torch.equal(y[:, 1], torch.zeros(1, 5, 4, dtype=torch.float64))
    assert_equal_to(y, by_definition(layer, x), 1e-10)
