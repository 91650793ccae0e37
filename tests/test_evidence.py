"""Where the evidence lies: known answers, the smallest half by brute force, and sums that add up."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import combinations, product

import numpy as np
import pytest
from numpy.typing import NDArray

from coda_cli.explanation import evidence
from coda_cli.explanation.evidence import MOST_REGIONS, Evidence, Region, measure
from coda_cli.explanation.record import to_source
from coda_cli.media.view import fit

Map = NDArray[np.float32]


def zeros(height: int, width: int, **spots: float) -> Map:
    """A map of zeros but for ``spots``: r2c5=3.0 is the value 3 in row 2, column 5."""
    values = np.zeros((height, width), np.float32)
    for place, value in spots.items():
        row, column = place[1:].split("c")
        values[int(row), int(column)] = value
    return values


# ---- known answers ---------------------------------------------------------------------------------------------------


def test_one_hot_pixel_holds_everything() -> None:
    result = measure(zeros(6, 9, r1c7=2.5))
    assert result == Evidence(
        positive=2.5,
        negative=0.0,
        centroid=(7.5, 1.5),
        half_share=1 / 54,
        regions=(Region((7, 1, 8, 2), 1.0, 1),),
        grid=((0, 0, 2.5), (0, 0, 0), (0, 0, 0)),
    )


def test_uniform_evidence_is_held_by_half_of_the_pixels_around_the_middle() -> None:
    result = measure(np.full((6, 8), 0.25, np.float32))
    assert result.positive == 12
    assert result.negative == 0
    assert result.centroid == pytest.approx((4, 3))
    assert result.half_share == 0.5
    assert sum(r.share for r in result.regions) == pytest.approx(0.5)
    assert sum(r.pixels for r in result.regions) == 24


def test_an_odd_number_of_equal_pixels_needs_one_more_than_half() -> None:
    assert measure(np.ones((3, 3), np.float32)).half_share == 5 / 9


def test_evidence_against_is_summed_and_lies_nowhere() -> None:
    result = measure(-np.ones((4, 5), np.float32))
    assert result == Evidence(0.0, -20.0, None, None, (), ((-4, -4, -2), (-2, -2, -1), (-2, -2, -1)))


def test_a_map_of_zeros_holds_no_evidence() -> None:
    assert measure(np.zeros((3, 3), np.float32)) == Evidence(0.0, 0.0, None, None, (), ((0, 0, 0),) * 3)


def test_evidence_against_moves_nothing_that_is_for() -> None:
    alone, beside = zeros(9, 9, r2c3=4.0, r6c7=1.0), zeros(9, 9, r2c3=4.0, r6c7=1.0, r8c0=-100.0)
    one, other = measure(alone), measure(beside)
    assert (one.positive, one.centroid, one.half_share, one.regions) == (
        other.positive,
        other.centroid,
        other.half_share,
        other.regions,
    )
    assert (one.negative, other.negative) == (0, -100)


def test_two_blobs_have_exact_shares_the_greater_first() -> None:
    values = zeros(10, 12, r1c1=1.0, r1c2=1.0, r2c1=1.0, r7c8=2.0, r7c9=2.0, r8c8=2.0, r4c5=0.5, r9c0=-3.0)
    values[0, 11] = 6.5  # 16 in all: half of it is in the corner and one pixel of the lower blob
    result = measure(values)
    assert result.positive == 16
    assert result.half_share == 2 / 120
    assert result.regions == (Region((11, 0, 12, 1), 6.5 / 16, 1), Region((8, 7, 9, 8), 2 / 16, 1))
    values[0, 11] = 0  # 9.5 in all: the lower blob holds 6 of it
    assert measure(values).regions == (Region((8, 7, 10, 9), 6 / 9.5, 3),)
    values[7:9, 8:10] = 0  # 3.5 in all
    assert measure(values).regions == (Region((1, 1, 3, 2), 2 / 3.5, 2),)


def test_two_apart_that_are_both_needed_are_two_regions() -> None:
    values = zeros(8, 8, r1c1=2.0, r1c2=2.0, r6c5=3.0, r6c6=3.0)
    values[3, :] = 1.0  # 18 in all, 9 of it in the smallest half: 3 + 3 + 2 + 2
    result = measure(values)
    assert result.regions == (Region((5, 6, 7, 7), 6 / 18, 2), Region((1, 1, 3, 2), 4 / 18, 2))


def test_pixels_that_touch_at_a_corner_are_connected() -> None:
    assert measure(zeros(5, 5, r0c0=1.0, r1c1=1.0, r2c2=1.0, r1c3=1.0)).regions[0].pixels == 2
    assert measure(zeros(5, 5, r0c0=4.0, r1c1=4.0, r4c4=1.0)).regions == (Region((0, 0, 2, 2), 8 / 9, 2),)


def test_only_the_greatest_regions_are_kept() -> None:
    values = np.zeros((3, 40), np.float32)
    values[1, ::2] = np.arange(20, 40)  # 590 in all; the greatest eight hold 284, so nine are needed
    result = measure(values)
    assert result.half_share == 9 / 120
    assert [r.share for r in result.regions] == [v / 590 for v in (39, 38, 37, 36, 35)]
    assert len(result.regions) == MOST_REGIONS


def test_the_centroid_is_the_mean_of_the_pixels_centres() -> None:
    assert measure(zeros(4, 10, r0c0=1.0, r3c9=1.0)).centroid == (5, 2)
    assert measure(zeros(4, 10, r0c0=3.0, r0c8=1.0)).centroid == (2.5, 0.5)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (2, 2)])
def test_the_smallest_maps_can_be_measured(size: tuple[int, int]) -> None:
    result = measure(np.ones(size, np.float32))
    assert result.positive == size[0] * size[1]
    assert result.centroid == (size[1] / 2, size[0] / 2)


def test_sums_do_not_lose_what_float32_would() -> None:
    values = np.full((1000, 1000), 1e-3, np.float32)
    values[0, 0] = 1e5
    result = measure(values)
    assert result.positive == pytest.approx(1e5 + 999_999 * float(np.float32(1e-3)), rel=1e-12)


def test_a_map_is_left_as_it_was() -> None:
    values = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
    before = values.copy()
    measure(values)
    np.testing.assert_array_equal(values, before)


# ---- against the definition ------------------------------------------------------------------------------------------


def smallest_half(values: Map) -> int:
    """The least number of pixels whose positive evidence is half of all, by trying every set of pixels."""
    gain = [max(float(v), 0.0) for v in values.ravel()]
    for count in range(1, len(gain) + 1):
        if any(2 * sum(chosen) >= sum(gain) for chosen in combinations(gain, count)):
            return count
    raise AssertionError("unreachable")


def small_maps() -> list[Map]:
    rng = np.random.default_rng(0)
    sizes = [(1, 1), (1, 2), (2, 2), (2, 3), (3, 2), (1, 9), (3, 3), (2, 5), (3, 4)]
    maps = [rng.integers(-4, 5, size).astype(np.float32) for size in sizes for _ in range(12)]
    return [m for m in maps if (m > 0).any()]


def check_half() -> None:
    for values in small_maps():
        share = measure(values).half_share
        assert share == smallest_half(values) / values.size, f"{values}"


def test_no_smaller_set_of_pixels_holds_half_of_the_evidence() -> None:
    check_half()


def test_one_pixel_too_many_or_too_few_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    original = evidence._mask_of_half

    def more(gain: NDArray[np.float64], total: float) -> NDArray[np.bool_]:
        return original(gain, total * 1.3)

    def fewer(gain: NDArray[np.float64], total: float) -> NDArray[np.bool_]:
        return original(gain, total * 0.8)

    def above_the_mean(gain: NDArray[np.float64], total: float) -> NDArray[np.bool_]:
        return gain >= total / gain.size

    for wrong in (more, fewer, above_the_mean):
        monkeypatch.setattr(evidence, "_mask_of_half", wrong)
        with pytest.raises(AssertionError):
            check_half()


def slow_regions(values: Map) -> list[tuple[tuple[int, int, int, int], float, int]]:
    """Connected parts of the smallest half by flooding, with their box, sum and size; for maps without equal values."""
    gain = np.maximum(values.astype(np.float64), 0)
    order = sorted(product(range(gain.shape[0]), range(gain.shape[1])), key=lambda at: -gain[at])
    half: set[tuple[int, int]] = set()
    while 2 * sum(gain[at] for at in half) < gain.sum():
        half.add(order[len(half)])
    found = []
    while half:
        part, todo = [], deque([half.pop()])
        while todo:
            y, x = todo.popleft()
            part.append((y, x))
            near = {(y + dy, x + dx) for dy, dx in product((-1, 0, 1), repeat=2)} & half
            half -= near
            todo.extend(near)
        ys, xs = [y for y, _ in part], [x for _, x in part]
        box = (min(xs), min(ys), max(xs) + 1, max(ys) + 1)
        found.append((box, float(sum(gain[at] for at in part) / gain.sum()), len(part)))
    return sorted(found, key=lambda region: -region[1])


def check_regions(measured: Callable[[Map], Evidence]) -> None:
    rng = np.random.default_rng(2)
    for height, width in [(4, 7), (7, 4), (9, 9), (1, 12), (12, 1), (16, 11)]:
        values = rng.normal(size=(height, width)).astype(np.float32)
        regions, expected = measured(values).regions, slow_regions(values)
        assert len(regions) == min(len(expected), MOST_REGIONS)
        for region, (box, share, pixels) in zip(regions, expected, strict=False):
            assert region.share == pytest.approx(share, rel=1e-12)
            assert (region.box, region.pixels) == (box, pixels)


def test_regions_equal_their_slow_definition() -> None:
    check_regions(measure)


def test_regions_of_a_transposed_map_are_caught() -> None:
    with pytest.raises(AssertionError):
        check_regions(lambda values: measure(values.T.copy()))


@pytest.mark.parametrize("size", [(9, 9), (10, 9), (9, 11), (32, 32), (240, 240), (7, 5), (4, 4), (3, 3)])
def test_the_grid_holds_signed_sums_over_neighbouring_cells(size: tuple[int, int]) -> None:
    values = np.random.default_rng(3).normal(size=size).astype(np.float32)
    result = measure(values)
    # numpy's rule: what does not divide goes to the first cells.
    edges = [[sum(n // 3 + (i < n % 3) for i in range(k)) for k in range(4)] for n in size]
    for i, j in product(range(3), repeat=2):
        cell = values[edges[0][i] : edges[0][i + 1], edges[1][j] : edges[1][j + 1]].astype(np.float64)
        assert result.grid[i][j] == pytest.approx(cell.sum(), abs=1e-12)


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 1), (2, 2), (2, 7), (1, 100), (5, 4), (8, 10), (31, 32)])
def test_the_grid_adds_up_to_the_sum_of_all_contributions(size: tuple[int, int]) -> None:
    values = np.random.default_rng(4).normal(size=size).astype(np.float32)
    result = measure(values)
    assert [len(row) for row in result.grid] == [3, 3, 3]
    assert sum(map(sum, result.grid)) == pytest.approx(result.positive + result.negative, abs=1e-10)
    assert result.positive + result.negative == pytest.approx(values.astype(np.float64).sum(), abs=1e-10)


# ---- from the view to the picture ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "resize", "crop"), [((80, 60), 30, 20), ((60, 80), 30, 20), ((16, 20), 16, 24)])
def test_a_place_in_the_map_is_found_in_the_picture(size: tuple[int, int], resize: int, crop: int) -> None:
    view = fit(np.zeros((size[1], size[0], 3), np.uint8), resize, crop)
    x0, y0, x1, y1 = view.box
    assert to_source(view, 0, 0) == pytest.approx((x0, y0))
    assert to_source(view, crop, crop) == pytest.approx((x1, y1))
    assert to_source(view, crop, 0) == pytest.approx((x1, y0))
    assert to_source(view, crop / 2, crop / 2) == pytest.approx((size[0] / 2, size[1] / 2))
