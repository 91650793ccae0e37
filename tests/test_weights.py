"""The colour explanation: hue of the weights, opacity of their norm, as published but for its faults at the border."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import Coda
from numpy.typing import NDArray
from PIL import Image
from program import photo

from coda_cli.render.weights import colour_explanation, on_paper

Floats = NDArray[np.float32]


def published(w: Floats, contributions: Floats, smooth: int, percentile: float) -> Floats:
    """``gradient_to_image``, step by step and pixel by pixel, zeros beyond the border counted as it does."""
    _, h, width = w.shape
    alpha = np.empty((h, width))
    rgb = np.empty((h, width, 3))
    for y in range(h):
        for x in range(width):
            g = np.maximum(w[:, y, x] / (np.abs(w[:, y, x]).max() + 1e-12), 0)
            rgb[y, x] = [g[c] / (g[c] + g[c + 3] + 1e-12) for c in range(3)]
            alpha[y, x] = 1e-12 if contributions[:, y, x].sum() < 0 else np.sqrt((w[:, y, x].astype(float) ** 2).sum())
    r = smooth // 2
    padded = np.pad(alpha, r)
    smoothed = np.array([[padded[y : y + smooth, x : x + smooth].mean() for x in range(width)] for y in range(h)])
    return np.dstack([rgb, np.clip(smoothed / np.percentile(smoothed, percentile), 0, 1)]).astype(np.float32)


def drawn_weights(seed: int = 0) -> tuple[Floats, Floats]:
    w = np.random.default_rng(seed).standard_normal((6, 12, 15)).astype(np.float32)
    x = np.random.default_rng(seed + 1).random((3, 12, 15)).astype(np.float32)
    return w, w * np.concatenate([x, 1 - x])


def test_without_smoothing_it_is_the_published_picture() -> None:
    w, c = drawn_weights()
    np.testing.assert_allclose(colour_explanation(w, c, 1, 99.5), published(w, c, 1, 99.5), atol=1e-5)


def test_with_smoothing_it_is_the_published_one_inside_and_does_not_fade_at_the_border() -> None:
    w, c = drawn_weights()
    ours, theirs = colour_explanation(w, c, 5, 100), published(w, c, 5, 100)
    ratio = ours[2:-2, 2:-2, 3] / theirs[2:-2, 2:-2, 3]
    np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-5)  # but for the maximum, which may lie at the border
    even = colour_explanation(np.ones_like(w), np.ones_like(c), 5, 100)
    np.testing.assert_allclose(even[..., 3], 1, rtol=1e-6)
    assert published(np.ones_like(w), np.ones_like(c), 5, 100)[0, 0, 3] < 0.5


def test_evidence_against_is_hidden_even_where_there_is_nothing_else() -> None:
    w, c = drawn_weights()
    assert (colour_explanation(w, -np.abs(c), 1)[..., 3] == 0).all()
    some = colour_explanation(w, c, 1)
    assert (some[c.sum(0) < 0, 3] == 0).all()
    assert not (colour_explanation(np.zeros_like(w), np.zeros_like(c)) != 0).any()


@pytest.mark.parametrize(
    ("weight", "colour"),
    [
        ([1, 0, 0, 0, 1, 1], (1, 0, 0)),
        ([1, 1, 1, 0, 0, 0], (1, 1, 1)),
        ([0, 0, 0, 1, 1, 1], (0, 0, 0)),
        ([1, 1, 1, 1, 1, 1], (0.5, 0.5, 0.5)),
        ([-1, -1, -1, -1, -1, -1], (0, 0, 0)),
    ],
)
def test_the_hue_is_the_colour_that_the_weights_ask_for(weight: list[float], colour: tuple[float, ...]) -> None:
    w = np.tile(np.array(weight, np.float32)[:, None, None], (1, 4, 4))
    np.testing.assert_allclose(colour_explanation(w, np.abs(w))[..., :3], np.tile(colour, (4, 4, 1)), atol=1e-6)


def test_paper_shows_through() -> None:
    paper = np.full((1, 3, 3), 200, np.uint8)
    rgba = np.array([[[1, 0, 0, 1], [1, 0, 0, 0.5], [np.nan] * 4]], np.float32)
    assert on_paper(rgba, paper)[0].tolist() == [[255, 0, 0], [228, 100, 100], [200, 200, 200]]


def test_an_even_window_has_no_centre(coda: Coda, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="odd"):
        colour_explanation(*drawn_weights(), smooth=4)
    photo(tmp_path / "a.png")
    assert "--smooth 4: expected an odd number" in coda("explain", "a.png", "--smooth", "4", status=2).error


def test_the_program_draws_it_and_the_record_stays_the_same(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png", 400, 330)
    signed = coda("explain", "a.png", "--json", "-o", "s", "--write", "overlay,panel,json").records[0]
    colour = coda(
        "explain", "a.png", "--json", "-o", "c", "--write", "overlay,panel,json", "--style", "colour"
    ).records[0]
    for part in ("logit", "positive", "negative", "residual", "scale"):
        assert colour["explained"][0][part] == signed["explained"][0][part]
    for kind in ("overlay", "panel"):
        a, b = (Image.open(next((tmp_path / d).glob(f"*.{kind}.png"))).convert("RGB") for d in "sc")
        assert a.tobytes() != b.tobytes()
    assert colour["settings"] != signed["settings"]
