"""Colours: what is drawn is what was computed. Zero is neutral, the sign has a colour, the scale is one number."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
from maps import RGB, WHITE, Map, random_map, random_picture

from coda_cli.render import colour, overlay
from coda_cli.render.colour import NEGATIVE, OUTSIDE, POSITIVE, TABLE, coloured, robust_scale, strength
from coda_cli.render.overlay import (
    DIMMED,
    FADED,
    drawing_size,
    enlarged,
    heatmap,
    side_by_side,
)


def of(*values: float) -> Map:
    return np.array([values], np.float32)


def grey_of(value: float) -> int:
    """What a grey pixel becomes under an overlay without evidence."""
    return round(FADED + value * (255 - FADED) / 255)


# ---- colours ---------------------------------------------------------------------------------------------------------


def test_white_belongs_to_zero_alone() -> None:
    white = np.flatnonzero((TABLE == 255).all(1))
    assert white.tolist() == [len(TABLE) // 2]
    assert len(TABLE) % 2 == 1


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1.0, 1e30])
@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_a_map_of_zeros_is_neutral_whatever_the_scale(scale: float, zero: float) -> None:
    values = np.full((3, 4), zero, np.float32)
    assert (heatmap(values, scale) == 255).all()
    grey = np.full((3, 4, 3), 100, np.uint8)
    np.testing.assert_array_equal(overlay.overlay(grey, values, scale), np.full_like(grey, grey_of(100)))


def test_without_a_scale_nothing_has_a_colour() -> None:
    assert (heatmap(of(-1, 0, 5), 0.0) == 255).all()


def check_sign_has_a_colour(colours: Callable[[Map, float], RGB]) -> None:
    red, blue = colours(of(0.1, 0.5, 1, 7), 1)[0].astype(int), colours(of(-0.1, -0.5, -1, -7), 1)[0].astype(int)
    assert (red[:, 0] > red[:, 2]).all(), "for is red"
    assert (blue[:, 2] > blue[:, 0]).all(), "against is blue"


def test_evidence_for_is_red_and_evidence_against_is_blue() -> None:
    check_sign_has_a_colour(coloured)
    grey = np.full((1, 4, 3), 128, np.uint8)
    check_sign_has_a_colour(lambda values, scale: overlay.overlay(grey, values, scale))


def test_swapped_signs_are_caught() -> None:
    with pytest.raises(AssertionError):
        check_sign_has_a_colour(lambda values, scale: coloured(-values, scale))


def test_the_scale_is_symmetric_and_full_colour_stands_at_its_ends() -> None:
    values = np.linspace(-2, 2, 41, dtype=np.float32)
    index = np.argmax((coloured(values, 2.0)[:, None] == TABLE[None]).all(2), 1)
    middle = len(TABLE) // 2
    np.testing.assert_array_equal(index - middle, -(index[::-1] - middle))
    assert (index[0], index[20], index[-1]) == (0, middle, len(TABLE) - 1)
    assert (np.diff(index) > 0).all()
    np.testing.assert_allclose(index - middle, values / 2 * middle, atol=0.5)


def test_stronger_evidence_is_darker_in_both_directions() -> None:
    """So that strength shows in print too."""
    luma = TABLE @ np.array([0.299, 0.587, 0.114])
    middle = len(TABLE) // 2
    assert (np.diff(luma[middle:]) < 0.5).all()
    assert (np.diff(luma[: middle + 1]) > -0.5).all()


def test_beyond_the_scale_colours_are_clipped() -> None:
    np.testing.assert_array_equal(coloured(of(3, 1e30, np.inf), 1)[0], [TABLE[-1]] * 3)
    np.testing.assert_array_equal(coloured(of(-3, -1e30, -np.inf), 1)[0], [TABLE[0]] * 3)
    np.testing.assert_array_equal(strength(of(-2, -1, -0.25, 0, 0.25, 1, 2), 1), of(-1, -1, -0.25, 0, 0.25, 1, 1))


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_what_was_not_seen_is_grey_a_colour_that_no_evidence_has(scale: float) -> None:
    assert coloured(of(np.nan, 0), scale)[0].tolist() == [list(OUTSIDE), WHITE]
    assert not (TABLE == OUTSIDE).all(1).any()
    assert strength(of(np.nan), scale)[0, 0] == 0


def test_the_map_that_is_drawn_is_left_as_it_was() -> None:
    values = of(np.nan, -1, 0, 3)
    before = values.copy()
    heatmap(values, 1)
    overlay.overlay(np.zeros((1, 4, 3), np.uint8), values, 1)
    np.testing.assert_array_equal(values, before)


def test_the_robust_scale_is_a_percentile_of_sizes() -> None:
    values = of(*range(-50, 51))
    assert robust_scale(values, 100) == 50
    assert robust_scale(values, 0) == 0
    assert robust_scale(-values, 50) == robust_scale(values, 50) == np.percentile(np.abs(values), 50)
    assert robust_scale(of(np.nan, 1, -3, np.nan), 100) == 3
    assert robust_scale(of(np.nan), 99) == robust_scale(np.zeros((2, 2), np.float32), 99) == 0.0
    assert robust_scale(np.zeros((0, 3), np.float32), 50) == 0.0


# ---- one scale for all -----------------------------------------------------------------------------------------------


def check_one_scale() -> None:
    """Equal numbers get equal colours, whatever else is in their map."""
    weak, strong = of(0.5, -0.25, 0), of(0.5, -0.25, 8)
    grey = np.full((1, 3, 3), 90, np.uint8)
    np.testing.assert_array_equal(heatmap(weak, 2.0)[:, :2], heatmap(strong, 2.0)[:, :2])
    np.testing.assert_array_equal(overlay.overlay(grey, weak, 2.0)[:, :2], overlay.overlay(grey, strong, 2.0)[:, :2])
    np.testing.assert_array_equal(heatmap(weak, 2.0), heatmap(3 * weak, 6.0))
    assert (heatmap(weak, 2.0) != heatmap(weak, 0.5)).any()


def test_equal_numbers_get_equal_colours_whatever_else_is_in_their_map() -> None:
    check_one_scale()


def test_a_rescale_of_every_image_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def rescaled(values: Map, scale: float) -> Map:
        return strength(values / np.float32(np.nanmax(np.abs(values)) or 1), min(scale, 1.0))

    for module in (colour, overlay):
        with monkeypatch.context() as patch:
            patch.setattr(module, "strength", rescaled)
            with pytest.raises(AssertionError):
                check_one_scale()


# ---- overlay ---------------------------------------------------------------------------------------------------------


def test_where_the_map_is_zero_the_grey_picture_shows() -> None:
    rgb = np.array([[[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)
    drawn = overlay.overlay(rgb, np.zeros((1, 5), np.float32), 1.0)
    assert drawn[0].tolist() == [[grey_of(v)] * 3 for v in (0, 255, 76, 150, 29)]


@pytest.mark.parametrize(("sign", "full"), [(1, POSITIVE), (-1, NEGATIVE)])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.85, 1.0])
@pytest.mark.parametrize("grey", [0, 120, 255])
def test_opacity_grows_linearly_up_to_alpha(sign: int, full: tuple[int, ...], alpha: float, grey: int) -> None:
    shares = np.linspace(0, 1, 11)
    rgb = np.full((1, 11, 3), grey, np.uint8)
    drawn = overlay.overlay(rgb, of(*(sign * 3 * shares)), 3.0, alpha)[0]
    base = FADED + grey * (255 - FADED) / 255
    expected = base + (np.array(full) - base) * (alpha * shares)[:, None]
    np.testing.assert_allclose(drawn, expected, atol=1.01)  # the grey and the mixture are both rounded to whole levels


def test_beyond_the_scale_the_colour_is_as_at_the_scale() -> None:
    rgb = random_picture(3, 1)[:, [0, 0, 0]]
    at, beyond, far = overlay.overlay(rgb, of(2, 3, 1e9), 2.0)[0]
    assert at.tolist() == beyond.tolist() == far.tolist()


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_what_was_not_seen_is_dimmed_and_grey(scale: float) -> None:
    rgb = np.full((1, 2, 3), 200, np.uint8)
    seen, outside = overlay.overlay(rgb, of(0, np.nan), scale)[0]
    base = FADED + 200 * (255 - FADED) / 255
    assert seen.tolist() == [round(base)] * 3
    assert outside.tolist() == [round(base * DIMMED)] * 3


def test_every_pixel_is_drawn_by_itself() -> None:
    rgb, values = random_picture(7, 5), random_map(5, 7)
    whole = overlay.overlay(rgb, values, 1.0)
    for y, x in product(range(5), range(7)):
        single = overlay.overlay(rgb[y : y + 1, x : x + 1], values[y : y + 1, x : x + 1], 1.0)
        assert single[0, 0].tolist() == whole[y, x].tolist()


def test_pictures_side_by_side_are_unchanged_and_apart() -> None:
    first, second, third = (random_picture(w, 6) for w in (4, 5, 3))
    row = side_by_side([first, second, third], gap=2)
    assert row.shape == (6, 4 + 2 + 5 + 2 + 3, 3)
    for part, at in ((first, 0), (second, 6), (third, 13)):
        np.testing.assert_array_equal(row[:, at : at + part.shape[1]], part)
    assert (row[:, [4, 5, 11, 12]] == 255).all()
    np.testing.assert_array_equal(side_by_side([first]), first)


# ---- sizes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "drawn"),
    [
        ((32, 32), (320, 320)),
        ((1, 1), (320, 320)),
        ((33, 40), (330, 400)),
        ((40, 33), (400, 330)),
        ((319, 319), (638, 638)),
        ((320, 320), (320, 320)),
        ((640, 480), (640, 480)),
        ((4000, 3000), (4000, 3000)),
        ((1, 2000), (1, 2000)),
        ((2000, 1), (2000, 1)),
        ((5000, 10), (5000, 10)),
        ((300, 2), (1800, 12)),
    ],
)
def test_small_pictures_are_enlarged_by_a_whole_factor_and_strips_are_not_blown_up(
    size: tuple[int, int], drawn: tuple[int, int]
) -> None:
    assert drawing_size(size) == drawn


def test_a_drawing_is_always_a_whole_multiple_and_never_grows_beyond_bounds() -> None:
    sides = (1, 2, 7, 31, 100, 319, 320, 321, 1023, 1024, 1025, 2047, 2049, 5000)
    for size in product(sides, sides):
        width, height = drawing_size(size)
        factor = width // size[0]
        assert (width, height) == (factor * size[0], factor * size[1])
        assert factor >= 1
        assert max(width, height) <= max(2048, *size)


@pytest.mark.parametrize("factor", [1, 2, 5])
def test_enlarging_repeats_pixels(factor: int) -> None:
    rgb = random_picture(4, 3)
    large = enlarged(rgb, (4 * factor, 3 * factor))
    assert large.shape == (3 * factor, 4 * factor, 3)
    for dy, dx in product(range(factor), repeat=2):
        np.testing.assert_array_equal(large[dy::factor, dx::factor], rgb)
    assert enlarged(rgb, (8, 9)).shape == (9, 8, 3)
