"""The geometry: what the network sees is the published transform's to the byte, and maps land where they came from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from torchvision import transforms

from coda_cli.errors import MediaError
from coda_cli.media import view as view_module
from coda_cli.media.view import View, fit, paste_back

RGB = NDArray[np.uint8]
Map = NDArray[np.float32]
Paste = Callable[..., Map]

# (width, height): portrait, landscape, square, long strips, smaller than the crops below, single pixels.
SIZES = [(40, 30), (30, 40), (31, 31), (64, 33), (33, 64), (97, 20), (20, 97), (7, 5), (5, 7), (3, 3), (1, 1), (1, 9),
         (9, 1), (2, 1), (29, 30), (58, 35), (41, 23), (23, 41), (32, 32), (200, 3)]  # fmt: skip
# (resize, crop): equal, smaller, much smaller, and larger than what is left to crop from, by even and odd numbers.
TRANSFORMS = [(32, 32), (16, 15), (16, 14), (20, 8), (9, 9), (18, 37), (18, 36), (18, 35), (10, 13), (5, 12), (1, 1),
              (1, 4), (3, 1)]  # fmt: skip


def picture(width: int, height: int, seed: int = 0) -> RGB:
    return np.random.default_rng([seed, width, height]).integers(0, 256, (height, width, 3), np.uint8)


def published(rgb: RGB, resize: int, crop: int) -> RGB:
    both = transforms.Compose([transforms.Resize(resize), transforms.CenterCrop(crop)])
    return np.asarray(both(Image.fromarray(rgb)))


def check_all_crops() -> None:
    for resize, crop in TRANSFORMS:
        check_crop(resize, crop)


def check_crop(resize: int, crop: int) -> None:
    for size in SIZES:
        rgb = picture(*size)
        view = fit(rgb, resize, crop)
        assert view.rgb.dtype == np.uint8
        assert view.size == size
        np.testing.assert_array_equal(view.rgb, published(rgb, resize, crop), err_msg=f"{size} -> {resize}, {crop}")


# ---- what the network sees -------------------------------------------------------------------------------------------


def test_a_strip_that_would_be_enlarged_beyond_reason_is_refused_before() -> None:
    strip = np.zeros((20_000, 1, 3), np.uint8)
    with pytest.raises(MediaError, match=r"too narrow for a centre crop \(1 x 20000 pixels\); use --fit pad"):
        fit(strip, 256, 240)
    assert fit(strip, 256, 240, "pad").rgb.shape == (240, 1, 3)
    assert fit(strip, 32, 32).rgb.shape == (32, 32, 3)


@pytest.mark.parametrize(("resize", "crop"), TRANSFORMS)
def test_crop_equals_torchvisions_resize_and_centre_crop_to_the_byte(resize: int, crop: int) -> None:
    check_crop(resize, crop)


def test_a_network_can_ask_for_bicubic_pictures() -> None:
    rgb = picture(50, 40)
    resized = Image.fromarray(rgb).resize((20, 16), Image.Resampling.BICUBIC)
    bicubic = np.asarray(resized)[1:15, 3:17]
    np.testing.assert_array_equal(fit(rgb, 16, 14, interpolation="bicubic").rgb, bicubic)
    assert not np.array_equal(fit(rgb, 16, 14).rgb, bicubic)


def test_crop_equals_torchvision_for_many_random_sizes() -> None:
    rng = np.random.default_rng(1)
    for _ in range(300):
        width, height, resize, crop = (int(n) for n in rng.integers(1, 60, 4))
        rgb = picture(width, height)
        np.testing.assert_array_equal(
            fit(rgb, resize, crop).rgb, published(rgb, resize, crop), err_msg=f"{width} x {height} -> {resize}, {crop}"
        )


def test_crop_equals_torchvision_at_the_published_sizes() -> None:
    for size in [(500, 375), (375, 500), (257, 256), (120, 301)]:
        rgb = picture(*size)
        np.testing.assert_array_equal(fit(rgb, 256, 240).rgb, published(rgb, 256, 240))
        np.testing.assert_array_equal(fit(rgb, 32, 32).rgb, published(rgb, 32, 32))


def test_another_rounding_of_the_centre_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in (
        lambda length, crop: round((length - crop) / 2),  # to even also where CenterCrop pads
        lambda length, crop: (length - crop) // 2,
        lambda length, crop: -((crop - length) // 2),
    ):
        monkeypatch.setattr(view_module, "_first_of_centre", wrong)
        with pytest.raises(AssertionError):
            check_all_crops()


@pytest.mark.parametrize("filter_", [Image.Resampling.BICUBIC, Image.Resampling.BOX, Image.Resampling.NEAREST])
def test_another_filter_is_caught(monkeypatch: pytest.MonkeyPatch, filter_: Image.Resampling) -> None:
    def other(rgb: RGB, w: int, h: int, _: str) -> RGB:
        return np.asarray(Image.fromarray(rgb).resize((w, h), filter_))

    monkeypatch.setattr(view_module, "_resized", other)
    with pytest.raises(AssertionError):
        check_crop(16, 14)


def test_without_a_resize_the_shorter_side_becomes_the_crop() -> None:
    rgb = picture(50, 31)
    np.testing.assert_array_equal(fit(rgb, None, 16).rgb, published(rgb, 16, 16))


def test_a_picture_of_the_right_size_is_seen_as_it_is() -> None:
    rgb = picture(32, 32)
    for view in (fit(rgb, 32, 32), fit(rgb, 32, 32, "pad"), fit(rgb, 32, 32, "native")):
        np.testing.assert_array_equal(view.rgb, rgb)
        assert view.box == (0, 0, 32, 32)


@pytest.mark.parametrize(
    ("size", "crop", "seen"),
    [((64, 32), 16, (16, 8)), ((32, 64), 16, (8, 16)), ((10, 5), 40, (40, 20)), ((9, 9), 4, (4, 4)),
     ((300, 2), 30, (30, 1)), ((2, 300), 30, (1, 30)), ((100, 31), 10, (10, 3)), ((1, 1), 7, (7, 7))],
)  # fmt: skip
def test_pad_shows_the_whole_picture_with_its_longer_side_as_the_crop(
    size: tuple[int, int], crop: int, seen: tuple[int, int]
) -> None:
    rgb = picture(*size)
    view = fit(rgb, 256, crop, "pad")
    assert (view.rgb.shape[1], view.rgb.shape[0]) == seen
    assert view.box == (0, 0, *size)
    assert view.size == size
    np.testing.assert_array_equal(view.rgb, np.asarray(Image.fromarray(rgb).resize(seen, Image.Resampling.BILINEAR)))


@pytest.mark.parametrize(("crop", "mode"), [(16, "native"), (None, "native"), (None, "crop"), (None, "pad")])
def test_native_and_networks_without_a_crop_see_the_picture_at_its_own_size(crop: int | None, mode: Any) -> None:
    rgb = picture(23, 11)
    view = fit(rgb, 32, crop, mode)
    np.testing.assert_array_equal(view.rgb, rgb)
    assert view.box == (0, 0, 23, 11)
    assert view.size == (23, 11)


# ---- the box ---------------------------------------------------------------------------------------------------------


def centre_in_source(view: View, i: int, j: int) -> tuple[float, float]:
    """Where the view's pixel in row i and column j lies, in pixels of the original: what View says, written out."""
    x0, y0, x1, y1 = view.box
    h, w = view.rgb.shape[:2]
    return x0 + (j + 0.5) * (x1 - x0) / w, y0 + (i + 0.5) * (y1 - y0) / h


@pytest.mark.parametrize(
    ("size", "resize", "crop", "box"),
    [
        ((40, 30), 30, 30, (5, 0, 35, 30)),  # landscape: columns are cut off
        ((30, 40), 30, 30, (0, 5, 30, 35)),  # portrait: rows are
        ((80, 60), 30, 20, (20, 10, 60, 50)),  # shrunk to half: 40 x 30, of which columns 10..30 and rows 5..25
        ((20, 16), 32, 16, (6, 4, 14, 12)),  # enlarged to 40 x 32, of which columns 12..28 and rows 8..24
        ((16, 20), 16, 24, (-4, -2, 20, 22)),  # smaller than the crop: the box reaches beyond the picture
        ((31, 30), 30, 30, (0, 0, 30, 30)),  # half a pixel to cut off: to even
        ((33, 30), 30, 30, (2, 0, 32, 30)),
        ((31, 30), 10, 10, (0, 0, 31, 30)),  # the longer side is truncated: 31 columns become 10
        ((30, 31), 10, 10, (0, 0, 30, 31)),
    ],
)
def test_the_box_says_which_part_of_the_picture_is_seen(
    size: tuple[int, int], resize: int, crop: int, box: tuple[float, ...]
) -> None:
    assert fit(picture(*size), resize, crop).box == pytest.approx(box)


@pytest.mark.parametrize(("size", "resize", "crop"), [((64, 40), 20, 16), ((40, 64), 20, 16), ((12, 9), 27, 21)])
@pytest.mark.parametrize(("row", "column"), [(0, 0), (0, -1), (-1, 0), (-1, -1)])
def test_a_corner_of_the_view_is_found_in_the_picture_and_back(
    size: tuple[int, int], resize: int, crop: int, row: int, column: int
) -> None:
    width, height = size
    empty = fit(np.zeros((height, width, 3), np.uint8), resize, crop)
    i, j = row % crop, column % crop
    x, y = centre_in_source(empty, i, j)
    rgb = np.zeros((height, width, 3), np.uint8)
    rgb[max(0, round(y) - 1) : round(y) + 1, max(0, round(x) - 1) : round(x) + 1] = 255  # a spot around that point
    seen = fit(rgb, resize, crop).rgb[..., 0].astype(int)
    assert seen[i, j] == seen.max() > 0
    hot = np.zeros((crop, crop), np.float32)
    hot[i, j] = 1
    drawn = np.nan_to_num(paste_back(hot, empty, (6 * width, 6 * height)))
    Y, X = np.nonzero(drawn > 0.9 * drawn.max())
    assert abs((X.mean() + 0.5) / 6 - x) <= abs(empty.box[2] - empty.box[0]) / crop / 2
    assert abs((Y.mean() + 0.5) / 6 - y) <= abs(empty.box[3] - empty.box[1]) / crop / 2


# ---- a map back in its place -----------------------------------------------------------------------------------------


def pasted_slowly(values: Map, view: View, size: tuple[int, int] | None = None) -> Map:
    """The definition, pixel by pixel: linear between the centres of the map's pixels, level beyond the outermost."""
    h, w = values.shape
    width, height = size or view.size
    x0, y0, x1, y1 = view.box
    result = np.full((height, width), np.nan, np.float32)
    for Y in range(height):
        for X in range(width):
            x, y = (X + 0.5) * view.size[0] / width, (Y + 0.5) * view.size[1] / height  # in the original
            if x0 <= x <= x1 and y0 <= y <= y1:
                j = min(max((x - x0) / (x1 - x0) * w - 0.5, 0), w - 1)
                i = min(max((y - y0) / (y1 - y0) * h - 0.5, 0), h - 1)
                near = [(a, b) for a in (int(i), min(int(i) + 1, h - 1)) for b in (int(j), min(int(j) + 1, w - 1))]
                share = [(1 - i % 1) * (1 - j % 1), (1 - i % 1) * (j % 1), (i % 1) * (1 - j % 1), (i % 1) * (j % 1)]
                result[Y, X] = sum(s * float(values[a, b]) for s, (a, b) in zip(share, near, strict=True))
    return result


# OpenCV 4 rounds positions to 1/32 of a pixel of the map, OpenCV 5 does not: 1/64 in both directions.
POSITION = 2 / 64


def check_placement(paste: Paste) -> None:
    cases: list[tuple[tuple[int, int], int | None, int | None, Any, int]] = [
        ((24, 16), 8, 6, "crop", 1),
        ((16, 24), 8, 6, "crop", 1),
        ((21, 13), 9, 7, "crop", 1),
        ((13, 21), 9, 7, "crop", 2),
        ((11, 8), 6, 10, "crop", 1),
        ((9, 14), 32, 5, "pad", 1),
        ((14, 9), 32, 28, "pad", 3),
        ((6, 9), None, None, "native", 4),
        ((5, 1), 4, 4, "crop", 2),
    ]
    for size, resize, crop, mode, times in cases:
        view = fit(picture(*size), resize, crop, mode)
        values = np.random.default_rng(3).uniform(-1, 1, view.rgb.shape[:2]).astype(np.float32)
        drawn_size = (size[0] * times, size[1] * times)
        drawn = paste(values, view, drawn_size)
        assert drawn.dtype == np.float32
        assert drawn.shape == drawn_size[::-1]
        expected = pasted_slowly(values, view, drawn_size)
        np.testing.assert_array_equal(np.isnan(drawn), np.isnan(expected), err_msg=f"{size} {mode}")
        np.testing.assert_allclose(drawn, expected, atol=2 * POSITION, err_msg=f"{size} {mode}")


def test_a_pasted_map_equals_its_slow_definition() -> None:
    check_placement(paste_back)


def _swapped(values: Map, view: View, size: tuple[int, int] | None = None) -> Map:
    x0, y0, x1, y1 = view.box
    return paste_back(values, replace(view, box=(y0, x0, y1, x1)), size)


def _swapped_size(values: Map, view: View, size: tuple[int, int] | None = None) -> Map:
    width, height = size or view.size
    return paste_back(values, view, (height, width))


def _transposed(values: Map, view: View, size: tuple[int, int] | None = None) -> Map:
    return paste_back(values.T.copy(), view, size)


def _shifted(dx: float, dy: float) -> Paste:
    def shifted(values: Map, view: View, size: tuple[int, int] | None = None) -> Map:
        """Half a pixel of the map aside, the view where it was."""
        x0, y0, x1, y1 = view.box
        ux, uy = dx * (x1 - x0) / values.shape[1], dy * (y1 - y0) / values.shape[0]
        moved = paste_back(values, replace(view, box=(x0 + ux, y0 + uy, x1 + ux, y1 + uy)), size)
        honest = paste_back(values, view, size)
        return np.where(np.isnan(moved) | np.isnan(honest), honest, moved)

    return shifted


def _moved(dx: float, dy: float) -> Paste:
    def moved(values: Map, view: View, size: tuple[int, int] | None = None) -> Map:
        """Half a pixel of the drawing aside, as when corners are taken for centres."""
        width, height = size or view.size
        ux, uy = dx * view.size[0] / width, dy * view.size[1] / height
        x0, y0, x1, y1 = view.box
        return paste_back(values, replace(view, box=(x0 + ux, y0 + uy, x1 + ux, y1 + uy)), size)

    return moved


@pytest.mark.parametrize(
    "wrong",
    [
        _swapped,
        _swapped_size,
        _transposed,
        _shifted(0.5, 0),
        _shifted(0, 0.5),
        _shifted(-0.5, -0.5),
        _moved(0.5, 0),
        _moved(0, -0.5),
    ],
    ids=[
        "box swapped",
        "size swapped",
        "transposed",
        "half a map pixel right",
        "half a map pixel down",
        "half a map pixel up and left",
        "half a drawn pixel right",
        "half a drawn pixel up",
    ],
)
def test_a_swapped_axis_or_half_a_pixel_is_caught(wrong: Paste) -> None:
    with pytest.raises(AssertionError):
        check_placement(wrong)


@pytest.mark.parametrize("size", [(1, 1), (5, 3), (3, 5), (17, 4)])
def test_a_map_of_the_pictures_own_size_comes_back_unchanged(size: tuple[int, int]) -> None:
    view = fit(picture(*size), None, None, "native")
    values = np.random.default_rng(4).normal(size=size[::-1]).astype(np.float32)
    before = values.copy()
    np.testing.assert_array_equal(paste_back(values, view), values)
    np.testing.assert_array_equal(values, before)


@pytest.mark.parametrize("times", [3, 5])
def test_in_a_whole_enlargement_the_centres_carry_the_maps_own_values(times: int) -> None:
    values = np.random.default_rng(5).normal(size=(4, 6)).astype(np.float32)
    view = View(np.zeros((4, 6, 3), np.uint8), (0, 0, 6 * times, 4 * times), (6 * times, 4 * times))
    drawn = paste_back(values, view)
    np.testing.assert_allclose(drawn[times // 2 :: times, times // 2 :: times], values, atol=1e-6)


def test_an_enlargement_by_two_mixes_three_quarters_with_one() -> None:
    view = View(np.zeros((1, 3, 3), np.uint8), (0, 0, 6, 2), (6, 2))
    drawn = paste_back(np.array([[0, 8, 4]], np.float32), view)
    np.testing.assert_allclose(drawn, [[0, 2, 6, 7, 5, 4]] * 2, atol=1e-6)


def test_a_crop_that_is_not_resized_is_pasted_exactly_where_it_was_cut_out() -> None:
    rgb = picture(17, 12)
    view = fit(rgb, 12, 8)
    drawn = paste_back(view.rgb[..., 0].astype(np.float32), view)
    assert view.box == (4, 2, 12, 10)
    np.testing.assert_array_equal(drawn[2:10, 4:12], rgb[2:10, 4:12, 0])
    drawn[2:10, 4:12] = np.nan
    assert np.isnan(drawn).all()


def test_what_lies_beyond_a_picture_smaller_than_the_crop_is_left_out() -> None:
    rgb = picture(6, 4)
    view = fit(rgb, 4, 10)
    assert view.box == (-2, -3, 8, 7)
    drawn = paste_back(np.arange(100, dtype=np.float32).reshape(10, 10), view)
    np.testing.assert_array_equal(drawn, np.arange(100).reshape(10, 10)[3:7, 2:8])


@pytest.mark.parametrize("times", [2, 3])
def test_drawn_at_a_multiple_of_its_size_a_crop_covers_the_same_part(times: int) -> None:
    view = fit(picture(17, 12), 12, 8)
    drawn = paste_back(np.ones((8, 8), np.float32), view, (17 * times, 12 * times))
    expected = np.full((12 * times, 17 * times), np.nan)
    expected[2 * times : 10 * times, 4 * times : 12 * times] = 1
    np.testing.assert_array_equal(drawn, expected)


def test_pixels_whose_centre_lies_outside_the_view_are_not_seen_and_no_others() -> None:
    view = fit(picture(50, 31), 16, 12)
    drawn = paste_back(np.ones((12, 12), np.float32), view)
    x0, y0, x1, y1 = view.box
    X, Y = np.arange(50) + 0.5, np.arange(31) + 0.5
    seen = ((x0 <= X) & (x1 >= X))[None, :] & ((y0 <= Y) & (y1 >= Y))[:, None]
    np.testing.assert_array_equal(~np.isnan(drawn), seen)
    assert 0 < seen.sum() < seen.size


def test_blocks_fill_their_pixels_evenly() -> None:
    """What is known of a layer's positions: nothing within them, so that nothing may look like more."""
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    view = View(np.zeros((32, 48, 3), np.uint8), (0.0, 0.0, 90.0, 60.0), (90, 60))
    drawn = paste_back(values, view, blocks=True)
    np.testing.assert_array_equal(drawn, np.kron(values, np.ones((30, 30))))
    assert len(np.unique(paste_back(values, view))) > 6
