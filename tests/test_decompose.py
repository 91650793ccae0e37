"""The decomposition equals the definition pixel by pixel, and bugs that are planted are seen."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from oracle import bcos_matrix, written_out
from small_nets import CLASSES, assert_equals_definition, error_against_definition, explained, picture, small_net
from torch import Tensor, nn

from coda_cli.core import dau_kernels, dau_layer, gradients
from coda_cli.core.blur import Blur
from coda_cli.core.dau import NORMS
from coda_cli.core.dau_layer import DAUConv2d
from coda_cli.core.decompose import decompose
from coda_cli.core.held import Held, is_held
from coda_cli.core.networks import CodaNet, encode
from coda_cli.core.patches import Patches
from coda_cli.machine import budget

pytestmark = [pytest.mark.filterwarnings("error"), pytest.mark.usefixtures("seeded", "one_lane")]


# ---- 1. against the definition ---------------------------------------------------------------------------------------


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
    patch.setattr(dau_layer, "scale_of_norm", lambda n, _norm: n / (1 + n))


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
    monkeypatch.setattr(
        gradients, "held", lambda: contextlib.nullcontext(Held())
    )  # the layers' own, training forward pass
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
