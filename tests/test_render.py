"""The pictures: what is drawn is what was computed. Zero is neutral, the sign has a colour, the scale is one number."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from coda_cli.explanation import drawing
from coda_cli.explanation.drawing import STYLES, draw
from coda_cli.explanation.request import Input
from coda_cli.media.sources import Item
from coda_cli.media.stills import Picture
from coda_cli.media.view import View, fit, paste_back
from coda_cli.render import colour, overlay, text
from coda_cli.render.colour import NEGATIVE, OUTSIDE, POSITIVE, TABLE, coloured, robust_scale, strength
from coda_cli.render.overlay import (
    DIMMED,
    FADED,
    drawing_size,
    enlarged,
    framed,
    heatmap,
    margin,
    of_heatmap,
    of_overlay,
    side_by_side,
)
from coda_cli.schema.parts import ClassPart, Network, ScoredClass, Source, ViewPart
from coda_cli.schema.pictures import EvidencePart, Explained, Record

RGB = NDArray[np.uint8]
Map = NDArray[np.float32]
WHITE = [255, 255, 255]


def of(*values: float) -> Map:
    return np.array([values], np.float32)


def random_map(height: int, width: int, seed: int = 0) -> Map:
    return np.random.default_rng(seed).normal(size=(height, width)).astype(np.float32)


def random_picture(width: int, height: int, seed: int = 0) -> RGB:
    return np.random.default_rng([seed, width, height]).integers(0, 256, (height, width, 3), np.uint8)


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


# ---- frame, bar and caption ------------------------------------------------------------------------------------------

PICTURE_SIZES = [(1, 1), (5, 3), (320, 320), (640, 200), (200, 640), (1500, 12), (12, 1500)]


@pytest.mark.parametrize(("width", "height"), PICTURE_SIZES)
def test_the_framed_picture_contains_the_picture_unchanged(width: int, height: int) -> None:
    picture = random_picture(width, height)
    before = picture.copy()
    result = framed(picture, 0.0123, "cat · logit 4.2", ["a line " * 20, "unbroken" * 40])
    m = margin(picture)
    np.testing.assert_array_equal(result[m : m + height, m : m + width], picture)
    np.testing.assert_array_equal(picture, before)
    assert result.dtype == np.uint8
    assert (result[:m] == 255).all()
    assert (result[:, :m] == 255).all(), "the caption starts at the picture's left edge"
    assert (result[:, -1] == 255).all(), "nothing is cut off at the right"
    assert (result[-1] == 255).all(), "nor at the bottom"


def bar_of(picture: RGB, scale: float) -> NDArray[np.int64]:
    """The colours down the middle of the colour bar, without its outline: int [rows, 3]."""
    height, width = picture.shape[:2]
    result, m, unit = framed(picture, scale, "title", []), margin(picture), overlay._unit(picture)
    column = result[m : m + height, m + width + m + unit // 2].astype(np.int64)
    top, bottom = np.flatnonzero((column == column[-1]).all(1))[[0, -1]]  # the outline; the bar ends with the picture
    return column[top + 1 : bottom]


def check_bar() -> None:
    for height in (320, 600):
        bar = bar_of(np.zeros((height, 400, 3), np.uint8), 0.5)
        assert len(bar) > 0.8 * height
        step = 2 / len(bar) * (len(TABLE) // 2)  # entries of the table from row to row
        near = int(np.ceil(2 * step)) + 1
        assert np.abs(TABLE[-near:].astype(int) - bar[0]).sum(1).min() <= 3, "the top is what +scale looks like"
        assert np.abs(TABLE[:near].astype(int) - bar[-1]).sum(1).min() <= 3, "the bottom is what -scale looks like"
        assert bar[len(bar) // 2].tolist() == pytest.approx(WHITE, abs=4), "the middle is zero"


def test_the_ends_of_the_colour_bar_have_the_end_colours() -> None:
    check_bar()


def test_a_bar_upside_down_or_of_other_colours_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in (
        lambda values, scale: coloured(-values, scale),
        lambda values, scale: coloured(values, 2 * scale),
        lambda values, scale: coloured(values + 1, scale),
    ):
        monkeypatch.setattr(overlay, "coloured", wrong)
        with pytest.raises(AssertionError):
            check_bar()


def test_the_bar_of_an_overlay_has_the_colours_that_an_overlay_has() -> None:
    """A grey picture with evidence of every strength, and the bar beside it, are one and the same colours."""
    grey, strengths = np.full((321, 400, 3), 128, np.uint8), np.linspace(1, -1, 321, dtype=np.float32)
    drawn = overlay.overlay(grey, np.repeat(strengths[:, None] * 0.5, 400, 1), 0.5, 0.7)
    result = framed(drawn, 0.5, "t", [], bars=[of_overlay(0.7), of_heatmap])
    m, unit = margin(drawn), overlay._unit(drawn)
    left = m + 400 + m
    first, second = (result[m : m + 321, left + x].astype(int) for x in (unit // 4, 3 * unit // 4))
    top = m + round(unit * 1.4) - m  # below the unit's name
    rows = np.linspace(0, 320, 321 - top).round().astype(int)
    assert np.abs(first[top + 1 : -1] - drawn[rows, 0][1:-1]).max() <= 4
    assert np.abs(second[top + 1 : -1] - heatmap(strengths[rows, None], 1.0)[1:-1, 0]).max() <= 8


def test_labels_of_a_bar_that_is_too_short_for_three_do_not_lie_on_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[int, str]] = []
    monkeypatch.setattr(overlay.text, "draw", lambda _, text, at, *_more: written.append((at[1], text)))
    for height in range(1, 200):
        written.clear()
        framed(np.zeros((height, 900, 3), np.uint8), 0.5, "", [])
        tops = [y for y, text in written if text in overlay._bar_labels(0.5)]
        assert tops
        assert all(later - earlier >= 10 for earlier, later in pairwise(tops)), f"{height}: {tops}"


def test_the_bar_states_the_scale_and_its_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    original = text.draw

    def listening(picture: RGB, line: str, *args: Any) -> None:
        said.append(line)
        original(picture, line, *args)

    monkeypatch.setattr(text, "draw", listening)
    framed(np.zeros((320, 320, 3), np.uint8), 0.0123, "the title", ["first line", "second line"])
    assert said == ["logit", "+0.012", "0", "−0.012", "the title", "first line", "second line"]


def test_without_evidence_the_bar_claims_no_ends() -> None:
    assert overlay._bar_labels(0.0) == ("", "0", "")


@pytest.mark.parametrize("size", [10, 13, 44])
def test_letters_lie_where_they_are_put_and_are_as_wide_as_said(size: int) -> None:
    canvas = np.full((120, 900, 3), 255, np.uint8)
    text.draw(canvas, "Heimat", (30, 40), size, (0, 0, 0))
    rows, columns = np.nonzero(canvas.min(2) < 128)
    assert 0 <= rows.min() - 40 <= 2 + size // 10
    assert abs(rows.max() + 1 - (40 + text.ascent(size))) <= 2
    assert abs(columns.min() - 30) <= 2 + size // 8
    assert abs(columns.max() - (30 + text.width("Heimat", size))) <= 2 + size // 8


@pytest.mark.parametrize("size", [10, 13, 44])
@pytest.mark.parametrize("width", [80, 130, 400])
def test_wrapped_text_is_never_wider_than_asked(size: int, width: int) -> None:
    line = "a caption with ordinary words, Donaudampfschifffahrtsgesellschaftskapitän and WWWWWWWWWWWWWWWWWWWWWW ... …x"
    lines = text.wrapped(line, size, width)
    assert len(lines) > 1
    assert all(text.width(part, size) <= width for part in lines)


def test_words_are_kept_in_order_and_a_word_that_is_too_long_is_cut_with_an_ellipsis() -> None:
    assert text.wrapped("one two  three\nfour", 13, 10_000) == ["one two three four"]
    words = ["alpha", "beta", "gamma", "delta", "epsilon"]
    lines = text.wrapped(" ".join(words), 13, 90)
    assert len(lines) > 1
    assert " ".join(lines).split() == words
    short, cut = text.wrapped("x " + "unbroken" * 30, 13, 100)
    assert short == "x"
    assert cut.endswith("…")
    assert "unbroken".startswith(cut[:8])
    assert text.width(cut, 13) > 60, "no more is cut off than needed"
    assert text.wrapped("", 13, 100) == []


def test_threads_draw_the_same_letters() -> None:
    def drawn(_: int) -> bytes:
        canvas = np.full((60, 600, 3), 255, np.uint8)
        for size in (13, 20, 30):
            text.draw(canvas, "golf ball, p 0.987, Ж中é", (5, 5), size, (0, 0, 0))
        return canvas.tobytes()

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(drawn, range(64)))) == 1


def test_a_caption_makes_the_picture_taller_not_wider() -> None:
    picture = random_picture(200, 300)
    short, long = framed(picture, 1.0, "t", ["x"]), framed(picture, 1.0, "t", ["many words " * 30])
    assert short.shape[1] == long.shape[1]
    assert long.shape[0] > short.shape[0]


# ---- the pictures of a record ----------------------------------------------------------------------------------------


def explained(**changes: Any) -> Explained:
    values: dict[str, Any] = {
        "index": 3, "name": "cat", "logit": -12.345, "probability": 0.0123456789, "bias": -2.1972,
        "positive": 1.5, "negative": -11.6478, "residual": -1.2e-7, "tolerance": 1e-4, "exact": True,
        "evidence": EvidencePart(centroid=None, half_share=None, regions=(), grid=()), "scale": 0.5,
    }  # fmt: skip
    return Explained(**(values | changes))


def record(*parts: Explained, view: View, precision: str = "float32") -> Record:
    return Record(
        source=Source(path="a.png", sha256="0", bytes=1, width=view.size[0], height=view.size[1]),
        network=Network(name="cifar10", sha256="0", architecture="coda_net", temperature=64),
        view=ViewPart(fit="crop", width=view.rgb.shape[1], height=view.rgb.shape[0], box=view.box),
        explained=parts,
        top=(ScoredClass(index=3, name="cat", logit=1.0, probability=0.7),),
        settings="0",
        device="cpu",
        precision=precision,
        versions={},
        seconds=0.1,
    )


PARTS = [
    explained(),
    explained(versus=ClassPart(index=5, name="dog"), probability=None, logit=3.0, bias=0.0),
    explained(exact=False, residual=0.5),
    explained(name="golf-ball, a_b", logit=1e-9, positive=1e9, negative=0.0, scale=0.0),
]


def missing_characters(line: str) -> set[str]:
    """Those that are drawn as characters are that no font has."""

    def drawn(c: str) -> bytes:
        canvas = np.full((40, 60, 3), 255, np.uint8)
        text.draw(canvas, c, (10, 10), 20, (0, 0, 0))
        return canvas.tobytes()

    return {c for c in line if not c.isspace() and drawn(c) in (drawn("\ue123"), drawn(" "))}


@pytest.mark.parametrize("part", PARTS)
def test_captions_hold_only_characters_that_the_font_has(part: Explained) -> None:
    view = fit(random_picture(32, 32), 32, 32)
    title, lines = drawing._caption(part, record(part, view=view))
    assert missing_characters(title + "".join(lines) + "".join(overlay._bar_labels(part.scale)) + "logit…") == set()


def test_class_names_of_many_languages_can_be_read() -> None:
    assert missing_characters("äéßñøłčπЖ中文−×±·…–") == set()
    assert missing_characters("a \ue124 b") == {"\ue124"}


@pytest.mark.parametrize(
    ("part", "says"),
    [
        (PARTS[0], ["cat", "logit -12.35", "p 0.012", "1.50 for − 11.65 against − 2.20 bias", "residual -1.2e-07",
                    "cifar10", "float32", "full colour ±0.5 logit a pixel"]),
        (PARTS[1], ["cat − dog", "difference of logits 3.00", "+ 0.00 bias"]),
        (PARTS[2], ["residual 5.0e-01 ABOVE ITS TOLERANCE"]),
    ],
)  # fmt: skip
def test_the_caption_states_class_sum_proof_and_scale(part: Explained, says: list[str]) -> None:
    title, lines = drawing._caption(part, record(part, view=fit(random_picture(8, 8), 8, 8)))
    whole = " ".join([title, *lines])
    assert [phrase for phrase in says if phrase not in whole] == []
    assert ("ABOVE" in whole) == (not part.exact)
    assert (" p 0." in title) == (part.probability is not None)


def source(rgb: NDArray[np.uint8], view: View) -> Input:
    return Input(Item(Path("picture.png")), Picture(rgb, "0", 0, ()), view)


@pytest.mark.parametrize("kind", STYLES)
@pytest.mark.parametrize(("width", "height"), [(40, 30), (30, 40), (500, 400)])
def test_every_kind_of_picture_shows_the_map_at_its_place_at_the_records_scale(
    kind: str, width: int, height: int
) -> None:
    rgb = random_picture(width, height)
    view = fit(rgb, 24, 20)
    values, part = random_map(20, 20), explained(scale=0.7)
    whole = record(part, view=view)
    drawn = draw(kind, source(rgb, view), values, part, whole, 0.6)
    size = drawing_size((width, height))
    large, pasted = enlarged(rgb, size), paste_back(values, view, size)
    covered, alone = overlay.overlay(large, pasted, 0.7, 0.6), heatmap(pasted, 0.7)
    body = {"overlay": covered, "heatmap": alone, "panel": side_by_side([large, covered, alone])}[kind]
    m = margin(body)
    np.testing.assert_array_equal(drawn[m : m + body.shape[0], m : m + body.shape[1]], body)
    bars = {"overlay": [of_overlay(0.6)], "heatmap": [of_heatmap], "panel": [of_overlay(0.6), of_heatmap]}[kind]
    np.testing.assert_array_equal(drawn, framed(body, 0.7, *drawing._caption(part, whole), bars=bars))
    assert np.isnan(pasted).any()
    assert not np.isnan(pasted).all()


def test_a_picture_without_evidence_is_drawn_without_colour() -> None:
    rgb = random_picture(32, 32)
    view = fit(rgb, 32, 32)
    part = explained(positive=0.0, negative=0.0, scale=0.0)
    drawn = draw("heatmap", source(rgb, view), np.zeros((32, 32), np.float32), part, record(part, view=view), 0.85)
    m = margin(np.zeros((320, 320, 3), np.uint8))
    assert (drawn[m : m + 320, m : m + 320] == 255).all()


def test_drawing_the_same_twice_gives_the_same_bytes() -> None:
    rgb = random_picture(32, 32)
    view, part = fit(rgb, 32, 32), explained()
    first, second = (
        draw("panel", source(rgb, view), random_map(32, 32), part, record(part, view=view), 0.85) for _ in "ab"
    )
    np.testing.assert_array_equal(first, second)
    assert Image.fromarray(first).mode == "RGB"
