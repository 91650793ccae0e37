"""The decomposition: equal to the definition pixel by pixel, complete, and leaving everything as it was."""

from __future__ import annotations

import contextlib
import itertools
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from oracle import bcos_matrix, network_maps, written_out
from torch import Tensor, nn

import coda_cli.core.decompose as decompose_module
from coda_cli.checkpoints.published import PUBLISHED
from coda_cli.core import dau, dau_kernels, gradients
from coda_cli.core.blur import Blur
from coda_cli.core.dau import NORMS, DAUConv2d
from coda_cli.core.decompose import RELATIVE_TOLERANCE, Decomposition, decompose
from coda_cli.core.held import held, is_held
from coda_cli.core.networks import CodaNet, build, coda_net, encode
from coda_cli.core.patches import Patches
from coda_cli.machine import budget

pytestmark = pytest.mark.filterwarnings("error")

CLASSES = 4


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _one_lane(monkeypatch: pytest.MonkeyPatch) -> None:
    # The inputs of a batch meet in every layer, on whatever machine this runs; for the lanes see test_lanes.py.
    monkeypatch.setattr(decompose_module, "parts", lambda x: (x,))


def small_net(dtype: torch.dtype = torch.float64, **changes: Any) -> CodaNet:
    """Two layers, two channels in, four classes; any argument of ``coda_net`` may be changed."""
    arguments: dict[str, Any] = {
        "channels": [2, 3, CLASSES],
        "kernels": [3, 3],
        "strides": [1, 1],
        "ranks": [4, 5],
        "norm": "SQ",
        "temperature": 3.0,
        "bias": -2.0,
    }
    return coda_net(**(arguments | changes)).to(dtype)


def picture(*size: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(size or (2, 2, 6, 5), dtype=dtype)


def explained(model: CodaNet, x: Tensor) -> Decomposition:
    """All classes."""
    return decompose(model, x, range(CLASSES))


def error_against_definition(model: CodaNet, x: Tensor, d: Decomposition) -> float:
    """The largest error of a pixel, relative to the sum of absolute contributions; all classes must be explained."""
    _, expected = network_maps(model, x)
    error = (d.contributions.double() - expected).abs().amax((2, 3, 4))
    return float((error / expected.abs().sum((2, 3, 4))).max())


def assert_equals_definition(model: CodaNet, x: Tensor) -> None:
    """Float64: every logit and every contribution agrees to 1e-10 relative, and adds up."""
    d = explained(model, x)
    logits, expected = network_maps(model, x)
    torch.testing.assert_close(d.logits, logits, rtol=1e-12, atol=0)
    # What cancelled to nearly 0 is compared with the size of its map instead.
    torch.testing.assert_close(d.contributions, expected, rtol=1e-10, atol=1e-13 * float(expected.abs().max()))
    assert d.exact.all()


def assert_same(a: Decomposition, b: Decomposition, rtol: float = 1e-12) -> None:
    """Two decompositions tell the same numbers, up to the rounding that another batch size brings."""
    for name in ("contributions", "logits", "weights", "logit", "bias", "tolerance"):
        first, second = getattr(a, name), getattr(b, name)
        scale = float(second.abs().max())
        torch.testing.assert_close(first, second, rtol=rtol, atol=rtol * scale, msg=lambda m, n=name: f"{n}: {m}")


# ---- 1. against the definition --------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), list(itertools.product((1, 3, 7), (1, 2, 3), ("default", 0, 2)))
)
def test_contributions_equal_the_definition(kernel: int, stride: int, padding: int | str, norm: str) -> None:
    paddings = None if padding == "default" else [padding, 1]
    model = small_net(kernels=[kernel, 3], strides=[stride, 1], paddings=paddings, norm=norm)
    assert_equals_definition(model, picture(2, 2, 9, 8))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    ("ranks", "groups"),
    # d is 18 and 27 here. Groups that cut between entries of the patch (3 of d, with 3 outputs) and through one (4).
    [([1, 1], None), ([18, 27], None), ([40, 60], None), ([6, 10], [3, 2]), ([8, 8], [2, 4]), ([36, 60], [2, 4])],
)
def test_contributions_equal_the_definition_for_any_rank_and_grouping(
    ranks: list[int], groups: list[int] | None, norm: str
) -> None:
    assert_equals_definition(small_net(ranks=ranks, groups=groups, norm=norm), picture())


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("groups", [1, 2])
def test_contributions_equal_the_definition_without_a_bias_in_the_layers(norm: str, groups: int) -> None:
    layers = [DAUConv2d(2, 3, 3, 4, norm=norm, bias=False, groups=groups), DAUConv2d(3, 4, 3, 6, norm=norm, bias=False)]
    assert_equals_definition(CodaNet(layers, temperature=0.5, bias=1.0).double(), picture())


@pytest.mark.parametrize("norm", NORMS)
def test_contributions_of_a_deep_network_equal_the_definition(norm: str) -> None:
    model = small_net(
        channels=[6, 4, 5, 3, 4, CLASSES],
        kernels=[7, 3, 3, 3, 1],
        strides=[3, 1, 2, 1, 1],
        ranks=[3, 7, 30, 4, 2],
        norm=norm,
        temperature=0.01,
    )
    assert_equals_definition(model, encode(picture(2, 3, 14, 11)))


@pytest.mark.parametrize("size", [(2, 2), (2, 5), (9, 8)])
def test_contributions_of_an_antialiased_network_equal_the_definition(size: tuple[int, int]) -> None:
    model = small_net(
        channels=[6, 4, 5, CLASSES],
        kernels=[4, 3, 1],
        strides=[2, 1, 2],
        ranks=[3, 7, 2],
        paddings=[1, 1, 0],
        antialias=True,
    )
    assert_equals_definition(model, encode(picture(2, 3, *size)))


def test_a_blur_that_is_another_than_the_definition_s_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = small_net(strides=[2, 1], antialias=True), picture(1, 2, 7, 6)
    original = Blur.forward
    monkeypatch.setattr(Blur, "forward", lambda self, x: original(self, x.roll(1, 3)))
    with pytest.raises(AssertionError):
        assert_equals_definition(model, x)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (8, 1), (2, 3), (13, 4)])
def test_contributions_equal_the_definition_at_any_size(size: tuple[int, int]) -> None:
    assert_equals_definition(small_net(strides=[2, 1]), picture(1, 2, *size))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"kernels": [7, 1], "strides": [2, 1]},
        {"ranks": [40, 60]},
        {"groups": [4, 1], "channels": [2, 2, 4]},
        {"temperature": 1e5},
        {"temperature": 1e-3},
    ],
)
def test_contributions_equal_the_definition_in_float32(changes: dict[str, Any], norm: str) -> None:
    model, x = small_net(torch.float32, norm=norm, **changes), picture(dtype=torch.float32)
    d = explained(model, x)
    assert d.contributions.dtype == torch.float32
    assert error_against_definition(model, x, d) < 1e-5
    assert d.exact.all()


def test_small_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[int] = []

    def one_by_one(
        positions: int, outputs: int, width: int, _device: torch.device, *_: int
    ) -> Iterator[tuple[slice, slice]]:
        used.append(width)
        for p, o in itertools.product(range(positions), range(outputs)):
            yield slice(p, p + 1), slice(o, o + 1)

    monkeypatch.setattr(dau_kernels, "blocks", one_by_one)
    assert_equals_definition(small_net(strides=[2, 1]), picture())
    assert len(used) == 2 + 2 * CLASSES  # both layers forward, and backward for each class


def test_weights_written_out_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = small_net(strides=[2, 1], groups=[2, 1]), picture()
    factored = explained(model, x)
    monkeypatch.setattr(budget, "WRITTEN_RANK", 1)
    assert_equals_definition(model, x)
    torch.testing.assert_close(explained(model, x).contributions, factored.contributions, rtol=0, atol=1e-12)
    monkeypatch.setattr(dau_kernels, "pull_back", lambda _, held_map: pytest.fail(f"{held_map.z.ndim} axes"))
    with pytest.raises(pytest.fail.Exception, match="3 axes"):  # it was the weights that came back
        explained(model, x)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("changes", [{}, {"strides": [2, 1]}, {"groups": [2, 1]}])
def test_classes_pulled_back_together_equal_the_definition(
    norm: str, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "ONE_BY_ONE", 0)
    monkeypatch.setattr(dau_kernels, "pulled_one_by_one", lambda *_: pytest.fail("one by one"))
    assert_equals_definition(small_net(norm=norm, **changes), torch.rand(2, 2, 5, 4, dtype=torch.float64))
    together = dau_kernels.pulled_together
    monkeypatch.setattr(dau_kernels, "pulled_together", lambda q, *rest: together(q.roll(1, 0), *rest))
    model, x = small_net(norm=norm, **changes), picture()
    assert error_against_definition(model, x, explained(model, x)) > 1e-3


@pytest.mark.parametrize("most", [1, 7, 20, 45])
@pytest.mark.parametrize("one_by_one", [0, 1000])
@pytest.mark.parametrize("kernel", [3, 4])
def test_parts_of_any_size_equal_the_definition(
    kernel: int, one_by_one: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "ONE_BY_ONE", one_by_one)
    original = Patches.parts
    monkeypatch.setattr(Patches, "parts", lambda self, size, _: original(self, size, most))
    assert_equals_definition(small_net(kernels=[kernel, 3], strides=[2, 1]), picture(2, 2, 9, 8))


@pytest.mark.parametrize("one_by_one", [0, 1000])
def test_nothing_asked_for_gives_nothing(one_by_one: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "ONE_BY_ONE", one_by_one)
    torch.use_deterministic_algorithms(True)  # fills fresh memory with NaN
    try:
        d = decompose(small_net(), picture(), torch.zeros(2, CLASSES, dtype=torch.float64))
    finally:
        torch.use_deterministic_algorithms(False)
    assert not d.dynamic_weights.any()
    assert bool(d.exact.all())


@pytest.mark.parametrize("together", [1, 2, 3])
def test_many_classes_go_through_in_groups(together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = small_net(), torch.rand(2, 2, 5, 4, dtype=torch.float64)
    weights = torch.randn(2, 5, CLASSES, dtype=torch.float64)
    alone = [decompose(model, x, weights[:, k : k + 1]) for k in range(5)]
    monkeypatch.setattr(budget, "SHARED_GRADIENTS", together)
    monkeypatch.setattr(budget, "ONE_BY_ONE", 0)
    d = decompose(model, x, weights)
    torch.testing.assert_close(d.dynamic_weights, torch.cat([a.dynamic_weights for a in alone], 1), rtol=0, atol=1e-12)
    torch.testing.assert_close(d.logit, torch.cat([a.logit for a in alone], 1))
    assert d.exact.all()


# ---- planted bugs: the comparison above must see every one of them, also where completeness does not -----------------


Forward = Callable[..., Tensor]


def _not_held(**holds: bool) -> Callable[[pytest.MonkeyPatch], None]:
    """Replace the layer's forward pass by the written-out definition that holds only some dynamic quantities."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(DAUConv2d, "forward", lambda layer, x: written_out(layer, x, **holds))

    return plant


def _swapped_patch_axes(patch: pytest.MonkeyPatch) -> None:
    honest = DAUConv2d.dense_U
    patch.setattr(DAUConv2d, "dense_U", lambda layer: honest(layer).transpose(2, 3))


def _swapped_patch_axes_in_the_forward_pass(patch: pytest.MonkeyPatch) -> None:
    honest = Patches.rows

    def swapped(patches: Patches, x: Tensor) -> Tensor:
        rows = honest(patches, x).unflatten(1, (patches.kernel_size, patches.kernel_size, patches.channels))
        return rows.transpose(1, 2).flatten(1)

    patch.setattr(Patches, "rows", swapped)


def _channel_last_patches(patch: pytest.MonkeyPatch) -> None:
    honest = DAUConv2d.dense_U
    patch.setattr(DAUConv2d, "dense_U", lambda layer: honest(layer).flatten(2).mT.reshape(honest(layer).shape))


def _groups_of_outputs(patch: pytest.MonkeyPatch) -> None:
    """Number the second convolution's outputs o * d + entry instead of entry * O + o: groups then own outputs."""

    def dense_U(layer: DAUConv2d) -> Tensor:
        O, j, d = layer.out_channels, layer.rank // layer.groups, layer.U[0].numel()
        member = F.one_hot(torch.arange(O * d) * layer.groups // (O * d), layer.groups).to(layer.U)
        dense = torch.einsum("odg,ojd->ogjd", member.view(O, d, -1), layer.U.reshape(O, j, d))
        return dense.reshape(O * layer.rank, *layer.U.shape[1:])

    patch.setattr(DAUConv2d, "dense_U", dense_U)


def _other_norm(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(dau, "scale_of_norm", lambda n, _norm: n / (1 + n))


def _norm_without_the_bias(patch: pytest.MonkeyPatch) -> None:
    honest = DAUConv2d.norm_factors

    def factors(layer: DAUConv2d) -> dau_kernels.NormFactors:
        R, c, e = honest(layer)
        return dau_kernels.NormFactors(R, torch.zeros_like(c), torch.zeros_like(e))

    patch.setattr(DAUConv2d, "norm_factors", factors)


def _no_scale_in_the_backward_pass(patch: pytest.MonkeyPatch) -> None:
    honest = dau_kernels.pull_back
    patch.setattr(dau_kernels, "pull_back", lambda c, m: honest(c, replace(m, g=torch.ones_like(m.g))))


def _one_class_for_all_images(patch: pytest.MonkeyPatch) -> None:
    honest = dau_kernels.pull_back
    patch.setattr(dau_kernels, "pull_back", lambda c, held_map: honest(c.flip(1), held_map))


# The bug, and whether the contributions still sum to the logit in spite of it.
PLANTED: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], bool]] = {
    "nothing held": (_not_held(), False),
    "norms not held": (_not_held(hold_weights=True), False),
    "weights, that is z, not held": (_not_held(hold_norms=True), False),
    "patch axes swapped in the forward pass": (_swapped_patch_axes_in_the_forward_pass, False),
    "backward pass without the norms": (_no_scale_in_the_backward_pass, False),
    "images mixed up in the backward pass": (_one_class_for_all_images, False),
    "patch axes of U swapped": (_swapped_patch_axes, True),
    "patches read position first": (_channel_last_patches, True),
    "groups of outputs, not of patch entries": (_groups_of_outputs, True),
    "another norm": (_other_norm, True),
    "norms without the bias": (_norm_without_the_bias, True),
}


@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_bug_is_seen(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant, complete = PLANTED[bug]
    model, x = small_net(groups=[2, 1], bias=0.0), picture()
    assert error_against_definition(model, x, explained(model, x)) < 1e-12
    plant(monkeypatch)
    d = explained(model, x)
    assert error_against_definition(model, x, d) > 1e-3
    assert bool(d.exact.all()) == complete  # where True, the residual alone would have let the bug pass


def test_the_definition_with_everything_held_is_the_decomposition(monkeypatch: pytest.MonkeyPatch) -> None:
    # The control of the three "not held" bugs above: they differ from an honest layer in nothing else.
    _not_held(hold_weights=True, hold_norms=True)(monkeypatch)
    assert_equals_definition(small_net(groups=[2, 1]), picture())


@pytest.mark.parametrize("norm", NORMS)
def test_plain_input_times_gradient_is_neither_complete_nor_right(norm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = small_net(torch.float32, norm=norm), picture(dtype=torch.float32)
    assert explained(model, x).exact.all()
    monkeypatch.setattr(gradients, "held", lambda: contextlib.nullcontext([]))  # the layers' own, training forward pass
    d = explained(model, x)
    assert not d.exact.any()
    assert error_against_definition(model, x, d) > 0.01


class BcosNet(nn.Module):
    """Two B-cos convolutions, y = |cos(x, w)| (w . x) with unit w, and a mean: homogeneous of degree one in x."""

    def __init__(self, holds: bool) -> None:
        super().__init__()
        self.kernels = nn.ParameterList([torch.randn(4, 2, 3, 3), torch.randn(3, 4, 3, 3)]).double()
        self.bias, self.holds = -2.0, holds

    def forward(self, x: Tensor) -> Tensor:
        for kernel in self.kernels:
            unit = F.normalize(kernel.flatten(1)).view_as(kernel)
            length = F.conv2d(x * x, torch.ones_like(unit[:1])).sqrt()
            linear = F.conv2d(x, unit)
            cosine = (linear / length).abs()
            x = linear * (cosine.detach() if self.holds and is_held() else cosine)
        return x.mean((2, 3)) + self.bias


def _bcos_map(model: BcosNet, x: Tensor) -> Tensor:
    """Contributions [classes, C, H, W] of x [C, H, W] by the definition."""
    with torch.no_grad():
        total, y = torch.eye(x.numel(), dtype=x.dtype), x
        for kernel in model.kernels:
            matrix, size = bcos_matrix(kernel, y)
            total, y = matrix @ total, (matrix @ y.flatten()).reshape(size)
        return (total.reshape(len(y), -1, x.numel()).mean(1) * x.flatten()).reshape(-1, *x.shape)


def test_completeness_alone_does_not_see_that_nothing_is_held() -> None:
    x = picture(1, 2, 7, 6)
    torch.manual_seed(1)
    honest = BcosNet(holds=True)
    torch.manual_seed(1)
    mutant = BcosNet(holds=False)
    expected = _bcos_map(honest, x[0])
    right, wrong = (decompose(model, x, range(3)) for model in (honest, mutant))
    torch.testing.assert_close(right.contributions[0], expected, rtol=1e-10, atol=1e-14)
    # Euler's theorem: of a function of degree one, input times gradient is the function, whatever is held.
    assert right.exact.all()
    assert wrong.exact.all()
    assert float(wrong.residual.abs().max()) < 1e-13
    error = (wrong.contributions[0] - expected).abs().sum((1, 2, 3)) / expected.abs().sum((1, 2, 3))
    assert float(error.min()) > 0.1


# ---- 2. completeness ------------------------------------------------------------------------------------------------


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


# ---- 3. what may be asked -------------------------------------------------------------------------------------------


def test_without_targets_the_predicted_class_of_each_image_is_explained() -> None:
    model, x = small_net(), torch.randn(8, 2, 6, 5, dtype=torch.float64) * 3
    with torch.no_grad():
        predicted = model(x).argmax(1)
    assert len(predicted.unique()) > 1
    d = decompose(model, x)
    assert torch.equal(d.weights, F.one_hot(predicted[:, None], CLASSES).double())
    assert_same(d, decompose(model, x, predicted[:, None]))


@pytest.mark.parametrize(
    "targets",
    [2, [2], (2,), range(2, 3), torch.tensor(2), torch.tensor([2, 2]), torch.tensor([[2], [2]]), torch.tensor([[2]]),
     torch.tensor([2, 2], dtype=torch.int32), torch.tensor([[0.0, 0.0, 1.0, 0.0]]), [torch.tensor(2)], np.int64(2),
     [np.int64(2)], np.array([2, 2]), np.array([[2], [2]], np.uint8), np.array([[0.0, 0.0, 1.0, 0.0]])],
    ids=str,
)  # fmt: skip
def test_one_class_can_be_named_in_many_ways(targets: Any) -> None:
    model, x = small_net(), picture()
    d = decompose(model, x, targets)
    assert d.contributions.shape == (2, 1, 2, 6, 5)
    _, expected = network_maps(model, x)
    torch.testing.assert_close(d.contributions[:, 0], expected[:, 2], rtol=1e-10, atol=1e-14)


def test_several_classes_equal_one_by_one() -> None:
    model, x = small_net(), picture()
    together = decompose(model, x, [3, 0, 0, 1])
    assert together.contributions.shape[1] == 4
    for k, target in enumerate([3, 0, 0, 1]):
        alone = decompose(model, x, target)
        torch.testing.assert_close(together.contributions[:, k], alone.contributions[:, 0], rtol=1e-12, atol=1e-16)
        torch.testing.assert_close(together.logit[:, k], alone.logit[:, 0])
        torch.testing.assert_close(together.residual[:, k], alone.residual[:, 0], rtol=0, atol=1e-15)


def test_each_image_can_have_classes_of_its_own() -> None:
    model, x = small_net(), picture(3, 2, 6, 5)
    indices = torch.tensor([[0, 1], [3, 3], [2, 0]])
    d = decompose(model, x, indices)
    full = explained(model, x)
    for b, k in itertools.product(range(3), range(2)):
        torch.testing.assert_close(d.contributions[b, k], full.contributions[b, indices[b, k]], rtol=1e-12, atol=1e-16)
        assert d.logit[b, k] == d.logits[b, indices[b, k]]


def test_an_integer_tensor_is_one_class_for_each_image() -> None:
    model, x, y = small_net(), picture(3, 2, 6, 5), torch.tensor([3, 0, 2])
    full = explained(model, x)
    for targets in (y, y.int(), y.numpy(), lambda _: y):
        d = decompose(model, x, targets)
        assert d.contributions.shape == (3, 1, 2, 6, 5)
        for b in range(3):
            torch.testing.assert_close(d.contributions[b, 0], full.contributions[b, y[b]], rtol=1e-12, atol=1e-16)


def test_a_list_is_several_classes_for_all_images_however_many_there_are() -> None:
    model, x = small_net(), picture(3, 2, 6, 5)
    d = decompose(model, x, [3, 0, 2])
    assert d.contributions.shape == (3, 3, 2, 6, 5)
    assert_same(d, decompose(model, x, torch.tensor([[3, 0, 2]] * 3)))


def test_class_indices_that_fit_neither_way_say_how_to_write_both() -> None:
    with pytest.raises(ValueError, match=r"one class for each input.*all inputs pass a list.*a tensor \[2, K\]"):
        decompose(small_net(), picture(), torch.tensor([0, 1, 2]))
    with pytest.raises(ValueError, match="2 class indices for 1 inputs"):
        decompose(small_net(), picture(1, 2, 6, 5), torch.tensor([0, 1]))


def test_a_minus_b_is_the_difference_of_the_maps() -> None:
    model, x = small_net(), picture()
    d = decompose(model, x, torch.tensor([[0.0, 1.0, 0.0, -1.0]]))
    a, b = decompose(model, x, 1), decompose(model, x, 3)
    torch.testing.assert_close(d.contributions, a.contributions - b.contributions, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(d.logit, a.logit - b.logit)
    assert torch.equal(d.bias, torch.zeros(2, 1, dtype=torch.float64))
    assert d.exact.all()
    assert (d.tolerance > 0).all()


def test_any_weighting_is_linear_in_the_maps() -> None:
    model, x = small_net(), picture(3, 2, 6, 5)
    weights = torch.randn(3, 5, CLASSES, dtype=torch.float64)
    d = decompose(model, x, weights)
    expected = torch.einsum("bkn,bnchw->bkchw", weights, explained(model, x).contributions)
    torch.testing.assert_close(d.contributions, expected, rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(d.bias, -2.0 * weights.sum(2))
    assert d.exact.all()


def test_a_function_of_the_logits_can_choose_the_targets() -> None:
    model, x = small_net(), torch.randn(6, 2, 6, 5, dtype=torch.float64) * 3
    seen: list[Tensor] = []

    def worst_two(logits: Tensor) -> Tensor:
        seen.append(logits.clone())
        return logits.argsort(1)[:, :2]

    d = decompose(model, x, worst_two)
    assert len(seen) == 1
    assert torch.equal(seen[0], d.logits)
    assert_same(d, decompose(model, x, d.logits.argsort(1)[:, :2]))

    def best_minus_worst(logits: Tensor) -> Tensor:
        best, worst = F.one_hot(logits.argmax(1), CLASSES), F.one_hot(logits.argmin(1), CLASSES)
        return (best - worst)[:, None].double()

    d = decompose(model, x, best_minus_worst)
    assert (d.logit > 0).all()
    torch.testing.assert_close(d.logit[:, 0], d.logits.amax(1) - d.logits.amin(1))


@pytest.mark.parametrize(
    "targets",
    [-1, CLASSES, [0, CLASSES], [0, -1], [], torch.tensor([[0], [1], [2]]), torch.tensor([[[0]]]), torch.tensor([0]),
     torch.tensor([0, 1, 2]), torch.tensor([True, False]), torch.zeros(2, 0, dtype=torch.long), [True], True, "ab",
     [[0, 1], [2, 3]], {0, 1}, np.array([0, 1, 2]), np.array([0.5, 0.5]),
     torch.zeros(CLASSES), torch.zeros(1, CLASSES + 1), torch.zeros(3, 1, CLASSES), torch.zeros(2, 1, 1, CLASSES),
     torch.zeros(0, CLASSES), [0.7]],
    ids=lambda t: f"{t.dtype} {list(t.shape)}" if isinstance(t, Tensor) else str(t),
)  # fmt: skip
def test_targets_that_do_not_fit_are_refused(targets: Any) -> None:
    with pytest.raises(ValueError, match=r"class|index|indices|weight"):
        decompose(small_net(), picture(), targets)


@pytest.mark.parametrize(
    "x",
    [torch.rand(2, 6, 5), torch.rand(1, 1, 2, 6, 5), torch.ones(1, 2, 6, 5, dtype=torch.uint8)],
    ids=["no batch", "5-D", "uint8"],
)
def test_an_input_that_is_no_batch_of_floating_pictures_is_refused(x: Tensor) -> None:
    class TakesAnything(nn.Module):
        bias = 0.0

        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)[:, :CLASSES]

    with pytest.raises(ValueError, match=re.escape(str(list(x.shape)))):
        decompose(TakesAnything(), x)


def test_an_input_of_other_channels_than_the_network_s_is_refused() -> None:
    with pytest.raises(ValueError, match="expected"):
        decompose(small_net(torch.float32), torch.rand(1, 3, 6, 5))


# ---- 4. what must stay as it was ------------------------------------------------------------------------------------


def _state_of(model: nn.Module) -> dict[str, Any]:
    """All that a call could leave behind in a model, comparable with ==."""
    modules = dict(model.named_modules())
    return {
        "parameters": {
            n: (p.tolist(), p._version, p.requires_grad, p.grad is None, id(p)) for n, p in model.named_parameters()
        },
        "state": list(model.state_dict()),
        "training": {n: m.training for n, m in modules.items()},
        "hooks": {n: [len(getattr(m, h)) for h in sorted(vars(m)) if "hooks" in h] for n, m in modules.items()},
        "types": {n: type(m) for n, m in modules.items()},
        "methods": {n: [k for k, v in vars(m).items() if callable(v)] for n, m in modules.items()},
    }


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("requires_grad", [True, False])
def test_the_model_is_not_modified(training: bool, requires_grad: bool) -> None:
    model = small_net().train(training).requires_grad_(requires_grad)
    before = _state_of(model)
    explained(model, picture())
    assert _state_of(model) == before
    assert len(before["hooks"]["layers.0"]) > 3  # torch's dictionaries of hooks were found
    assert not any(before["hooks"]["layers.0"])


@pytest.mark.parametrize("requires_grad", [True, False])
def test_the_input_is_not_modified(requires_grad: bool) -> None:
    x = picture().requires_grad_(requires_grad)
    before, version = x.detach().clone(), x._version
    explained(small_net(), x)
    assert torch.equal(x, before)
    assert (x._version, x.requires_grad, x.is_leaf, x.grad) == (version, requires_grad, True, None)


def test_an_input_with_a_history_keeps_it_and_gives_none_to_the_result() -> None:
    source = picture().requires_grad_()
    x = source * 2
    d = explained(small_net(), x)
    assert x.requires_grad
    assert x.grad_fn is not None
    assert source.grad is None
    assert not any(t.requires_grad for t in (d.contributions, d.logits, d.weights, d.logit, d.residual))


def test_the_result_does_not_share_memory_with_the_input() -> None:
    x = picture()
    d = explained(small_net(), x)
    before = d.contributions.clone()
    x.zero_()
    assert torch.equal(d.contributions, before)


def test_the_callers_gradient_mode_does_not_matter_and_is_kept() -> None:
    model, x = small_net(), picture()
    expected = explained(model, x)
    for mode in (torch.no_grad, torch.enable_grad):
        with mode():
            before = torch.is_grad_enabled()
            d = explained(model, x)
            assert torch.is_grad_enabled() == before
        assert torch.equal(d.contributions, expected.contributions)


def test_two_runs_are_equal() -> None:
    model, x = small_net(torch.float32), picture(dtype=torch.float32)
    first, second = explained(model, x), explained(model, x)
    assert torch.equal(first.contributions, second.contributions)
    assert torch.equal(first.residual, second.residual)


def test_the_map_of_new_weights_does_not_remember_the_old_ones() -> None:
    model, x = small_net(), picture()
    explained(model, x)
    model.load_state_dict(small_net().state_dict())
    assert_equals_definition(model, x)


def test_a_model_moved_to_another_type_explains_in_it() -> None:
    model, x = small_net(torch.float32), picture()
    explained(model, x.float())
    assert_equals_definition(model.double(), x)


@pytest.mark.parametrize("norm", NORMS)
def test_a_batch_equals_its_items_alone(norm: str) -> None:
    model, x = small_net(norm=norm, strides=[2, 1]), picture(5, 2, 7, 6)
    together = explained(model, x)
    for b in range(5):
        assert_same(together[b], explained(model, x[b : b + 1]))


def test_an_item_of_a_decomposition_is_a_batch_of_one() -> None:
    d = explained(small_net(), picture(3, 2, 6, 5))
    for b in range(3):
        assert d[b].contributions.shape == (1, CLASSES, 2, 6, 5)
        assert torch.equal(d[b].contributions[0], d.contributions[b])
        assert torch.equal(d[b].residual[0], d.residual[b])


@pytest.mark.parametrize("b", [3, -4])
def test_an_item_that_is_not_there_is_an_index_error(b: int) -> None:
    # Python's for loop over an object with __getitem__ ends at the first IndexError, and nowhere else.
    d = explained(small_net(), picture(3, 2, 6, 5))
    with pytest.raises(IndexError):
        d[b]


def test_items_are_counted_from_the_end_as_python_counts_them() -> None:
    d = explained(small_net(), picture(3, 2, 6, 5))
    assert_same(d[-1], d[2])


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "transposed": lambda x: x.mT.contiguous().mT,
    "batch innermost": lambda x: x.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
    "every second pixel of a larger one": lambda x: x.repeat_interleave(2, 3).repeat_interleave(2, 2)[:, :, ::2, ::2],
    "a window of a larger one": lambda x: F.pad(x, (2, 3, 1, 4), value=9.0)[:, :, 1:-4, 2:-3],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_memory_layout_changes_nothing(layout: str) -> None:
    model, x = small_net(), picture(3, 2, 6, 5)
    other = LAYOUTS[layout](x)
    assert torch.equal(other, x)
    assert not other.is_contiguous()
    assert_same(explained(model, other), explained(model, x))


def test_an_expanded_input_can_be_explained() -> None:
    model, x = small_net(), picture(1, 1, 6, 5)
    assert_same(explained(model, x.expand(3, 2, 6, 5)), explained(model, x.repeat(3, 2, 1, 1)))


# ---- 5. the held mode -----------------------------------------------------------------------------------------------


def test_the_held_mode_ends_with_its_block_and_nests() -> None:
    assert not is_held()
    with held():
        with held():
            assert is_held()
        assert is_held()
    assert not is_held()


def test_the_held_mode_does_not_survive_an_exception() -> None:
    class Broken(CodaNet):
        def forward(self, _x: Tensor) -> Tensor:
            assert is_held()
            raise RuntimeError("broken on purpose")

    with pytest.raises(RuntimeError, match="on purpose"), torch.no_grad():
        decompose(Broken([], temperature=1.0, bias=0.0), picture())
    assert not is_held()
    assert torch.is_grad_enabled()


def test_explaining_inside_a_held_block_leaves_it_held() -> None:
    model, x = small_net(), picture()
    with held():
        d = explained(model, x)
        assert is_held()
    assert torch.equal(d.contributions, explained(model, x).contributions)


def test_threads_do_not_see_each_other_s_mode() -> None:
    entered, looked = threading.Event(), threading.Event()
    seen: list[bool] = []

    def other() -> None:
        seen.append(is_held())
        with held():
            entered.set()
            looked.wait(10)

    thread = threading.Thread(target=other)
    with held():
        thread.start()
        assert entered.wait(10)
    seen.append(is_held())  # the other thread is still inside
    looked.set()
    thread.join(10)
    assert seen == [False, False]


def test_threads_can_explain_with_one_model_at_the_same_time() -> None:
    model, pictures = small_net(), [picture() for _ in range(4)]
    expected = [explained(model, x).contributions for x in pictures]
    results: dict[int, Tensor] = {}

    def work(i: int) -> None:
        for _ in range(5):
            results[i] = explained(model, pictures[i]).contributions

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert all(torch.equal(results[i], expected[i]) for i in range(4))
