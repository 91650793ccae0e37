"""Patches against torch's own, and the way back against the way there."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from coda_cli.core.blur import Blur
from coda_cli.core.patches import Patches

GEOMETRIES = [
    (k, s, p, size)
    for (k, s, p), size in itertools.product(
        [(1, 1, 0), (3, 1, 1), (3, 2, 1), (4, 2, 1), (2, 3, 0), (5, 2, 2), (7, 3, 3), (1, 2, 0)], [(8, 8), (9, 7)]
    )
]


@pytest.mark.parametrize(("k", "s", "p", "size"), GEOMETRIES)
def test_rows_are_the_patches_that_torch_sees(k: int, s: int, p: int, size: tuple[int, int]) -> None:
    x = torch.rand(2, 3, *size)
    theirs = F.unfold(x, k, padding=p, stride=s).unflatten(1, (3, k, k)).permute(0, 4, 2, 3, 1).flatten(0, 1).flatten(1)
    assert torch.equal(Patches(3, k, s, p).rows(x), theirs)


@pytest.mark.parametrize("most", [1, 5, 13, 40, 1000])
@pytest.mark.parametrize(("k", "s", "p", "size"), GEOMETRIES)
def test_patches_are_added_up_where_they_came_from(k: int, s: int, p: int, size: tuple[int, int], most: int) -> None:
    patches, x = Patches(3, k, s, p), torch.empty(3, 3, *size)
    h, w = patches.grid(x.shape)
    rows = torch.rand(2, 3 * h * w, 3 * k * k)
    maps, seen = patches.nothing(2, x.shape, rows), 0
    for part, pictures, lines in patches.parts(x.shape, most):
        assert part.start == seen
        assert part.stop - part.start <= max(most, w)
        patches.add(maps[:, pictures], rows[:, part].contiguous(), lines)
        seen = part.stop
    assert seen == 3 * h * w
    columns = rows.view(6, h * w, k, k, 3).permute(0, 4, 2, 3, 1).flatten(1, 3)
    theirs = F.fold(columns, size, k, padding=p, stride=s).view(2, 3, 3, *size)
    torch.testing.assert_close(patches.finished(maps, x.shape), theirs)


def test_a_blur_s_gradient_is_the_ordinary_one_for_one_and_for_many() -> None:
    x = torch.rand(2, 3, 6, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(Blur(3), x)
    assert torch.autograd.gradgradcheck(Blur(3), x)
    cotangents = torch.rand(4, 2, 3, 6, 5, dtype=torch.float64)
    y = Blur(3)(x)

    def gradient(c: Tensor) -> Tensor:
        return torch.autograd.grad(y, x, c, retain_graph=True)[0]

    every = torch.stack([gradient(c) for c in cotangents])
    torch.testing.assert_close(torch.vmap(gradient)(cotangents), every)


def test_a_blur_and_its_gradient_keep_their_precision() -> None:
    x = torch.rand(2, 3, 6, 5, requires_grad=True)
    y = Blur(3)(x)
    cotangents = torch.rand(4, *y.shape)

    def gradient(c: Tensor) -> Tensor:
        return torch.autograd.grad(y, x, c, retain_graph=True)[0]

    outside = torch.vmap(gradient)(cotangents)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(Blur(3)(x), y)
        assert torch.equal(torch.vmap(gradient)(cotangents), outside)
        assert torch.equal(gradient(cotangents[1]), outside[1])
    with pytest.raises(ValueError, match="expected"):
        Blur(2)(x)
