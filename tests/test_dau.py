"""The DAU layer: every path through it computes what the definition in ``oracle`` says."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from oracle import dynamic_weights, layer_matrix, patch_entries, written_out
from torch import Tensor, nn

from coda_cli.core import dau_kernels
from coda_cli.core.dau import NORMS, DAUConv2d, scale_of_norm
from coda_cli.core.held import held
from coda_cli.machine import budget

pytestmark = pytest.mark.filterwarnings("error")

GEOMETRIES = list(itertools.product((1, 3, 7), (1, 2, 3), (None, 0, 2)))  # kernel, stride, padding

# rank, groups and bias for layers with d = 18 and two outputs: below and above d, groups that cut between patch
# entries (3) and through the middle of one (4: blocks of nine of the numbers entry * 2 + o).
FACTORS = [(1, 1, True), (5, 1, True), (17, 1, True), (18, 1, False), (40, 1, True), (40, 1, False), (6, 3, True),
           (8, 4, True), (8, 4, False), (36, 4, True)]  # fmt: skip


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True, params=[budget.WRITTEN_RANK, 1], ids=["factored", "written"])
def _ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test here holds for weights that are written out and for those that are not."""
    monkeypatch.setattr(budget, "WRITTEN_RANK", request.param)


def by_eval(layer: DAUConv2d, x: Tensor) -> Tensor:
    with torch.no_grad():
        return layer(x)


def by_training(layer: DAUConv2d, x: Tensor) -> Tensor:
    return layer(x)


def by_held(layer: DAUConv2d, x: Tensor) -> Tensor:
    with held():
        return layer(x.detach().requires_grad_())


Path = Callable[[DAUConv2d, Tensor], Tensor]
PATHS: list[Path] = [by_eval, by_training, by_held]
# The differentiable path takes norms from the Gram form, which cancels: it is compared in float32.
PRECISION: dict[Path, tuple[torch.dtype, float]] = {
    by_eval: (torch.float64, 1e-10),
    by_training: (torch.float32, 1e-4),
    by_held: (torch.float64, 1e-10),
}


def by_definition(layer: DAUConv2d, x: Tensor) -> Tensor:
    """The layer's output [B, O, H', W'] in float64 from its dynamic matrix."""
    outputs = []
    for item in x.detach().double():
        matrix, size = layer_matrix(layer, item)
        outputs.append((matrix @ item.flatten()).reshape(size))
    return torch.stack(outputs)


def assert_equal_to(actual: Tensor, expected: Tensor, rtol: float) -> None:
    """Elementwise relative agreement; numbers that cancelled to nearly 0 may miss by rtol of the largest."""
    actual, expected = actual.detach().double(), expected.detach().double()
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=rtol * float(expected.abs().max()))


# ---- forward --------------------------------------------------------------------------------------------------------


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


# ---- held backward --------------------------------------------------------------------------------------------------


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


# ---- norms ----------------------------------------------------------------------------------------------------------


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


# ---- construction ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"norm": "L1"}, "'L1'"), ({"norm": "sq"}, "SQ, L2"), ({"groups": 3}, "groups=3"), ({"groups": 4}, "groups=4")],
)
def test_arguments_that_make_no_layer_are_refused(arguments: dict[str, object], message: str) -> None:
    # Rank 4 is no multiple of 3; 3 outputs of 9 entries are no multiple of 4.
    with pytest.raises(ValueError, match=message):
        DAUConv2d(1, 3, 3, 4, **arguments)  # type: ignore[arg-type]


def test_a_layer_says_what_it_is() -> None:
    text = repr(DAUConv2d(2, 3, 7, 4, stride=2, norm="L2"))
    assert text == "DAUConv2d(2, 3, kernel_size=7, rank=4, stride=2, padding=3, norm=L2, groups=1)"


@pytest.mark.parametrize(("groups", "bias"), [(1, True), (2, True), (1, False)])
def test_a_layer_holds_its_parameters_and_nothing_else(groups: int, bias: bool) -> None:
    layer = DAUConv2d(2, 3, 3, 4, groups=groups, bias=bias)
    layer.norm_factors()
    shapes = {"V": (4, 2, 3, 3), "U": (3 * 4 // groups, 2, 3, 3)} | ({"b": (3, 2, 3, 3)} if bias else {})
    assert {name: tuple(value.shape) for name, value in layer.state_dict().items()} == shapes


def test_fresh_parameters_are_drawn_as_the_original_s_convolutions_draw_theirs() -> None:
    layer = DAUConv2d(6, 16, 3, 32, groups=2)
    first, second = nn.Conv2d(6, 32, 3), nn.Conv2d(32, 16 * 54, 1, groups=2)
    assert second.bias is not None
    assert layer.b is not None
    for pair in ((layer.V, first.weight), (layer.U, second.weight), (layer.b, second.bias)):
        ours, theirs = (parameter.detach() for parameter in pair)
        assert ours.numel() == theirs.numel()
        assert float(ours.abs().max()) == pytest.approx(float(theirs.abs().max()), rel=0.02)
        assert float(ours.std()) == pytest.approx(float(theirs.std()), rel=0.1)
        assert abs(float(ours.mean())) < 0.1 * float(ours.abs().max())


def test_a_norm_without_a_formula_is_an_error() -> None:
    with pytest.raises(ValueError, match="no formula"):
        scale_of_norm(torch.ones(2), "L1")


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
