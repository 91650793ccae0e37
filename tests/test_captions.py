"""What stands around a map: frame, colour bar, letters and captions say scale, unit, sums and proof."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from maps import RGB, WHITE, random_map, random_picture
from numpy.typing import NDArray
from PIL import Image

from coda_cli.explanation import drawing
from coda_cli.explanation.drawing import STYLES, draw
from coda_cli.explanation.request import Input
from coda_cli.media.sources import Item
from coda_cli.media.stills import Picture
from coda_cli.media.view import View, fit, paste_back
from coda_cli.render import overlay, text
from coda_cli.render.colour import TABLE, coloured
from coda_cli.render.overlay import (
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


def test_threads_that_follow_each_other_unpack_no_font_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    text.width.cache_clear()
    text.width("once", 17)
    monkeypatch.setattr(text.cv2, "FontFace", None)  # it would have to be unpacked again
    for n in range(2):
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(text.width, f"thread {n}", 17).result()


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
        "index": 3,
        "name": "cat",
        "logit": -12.345,
        "probability": 0.0123456789,
        "bias": -2.1972,
        "positive": 1.5,
        "negative": -11.6478,
        "residual": -1.2e-7,
        "tolerance": 1e-4,
        "exact": True,
        "evidence": EvidencePart(centroid=None, half_share=None, regions=(), grid=()),
        "scale": 0.5,
    }
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
        (
            PARTS[0],
            [
                "cat",
                "logit -12.35",
                "p 0.012",
                "1.50 for − 11.65 against − 2.20 bias",
                "residual -1.2e-07",
                "cifar10",
                "float32",
                "full colour ±0.5 logit a pixel",
            ],
        ),
        (PARTS[1], ["cat − dog", "difference of logits 3.00", "+ 0.00 bias"]),
        (PARTS[2], ["residual 5.0e-01 ABOVE ITS TOLERANCE"]),
    ],
)
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
