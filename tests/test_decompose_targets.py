"""Which classes and weightings of logits can be explained, in every way to write them, and what is refused."""

from __future__ import annotations

import itertools
import re
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from oracle import network_maps
from small_nets import CLASSES, assert_same, explained, picture, small_net
from torch import Tensor, nn

from coda_cli.core.decompose import decompose

pytestmark = [pytest.mark.filterwarnings("error"), pytest.mark.usefixtures("seeded", "one_lane")]


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
