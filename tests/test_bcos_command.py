"""The shipped B-cos network behind the same commands as every other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import Coda
from PIL import Image
from program import photo, photos
from test_video_command import clip, decoded

import coda_cli

MODEL = ("-m", "cifar10-bcos")


def test_pictures_in_a_batch_equal_pictures_alone(coda: Coda, tmp_path: Path) -> None:
    photos(tmp_path / "in", "a.png", "b.png", "c.png")
    together = coda("explain", "in", *MODEL, "--json", "--write", "none").records
    for record in together:
        assert record["network"]["architecture"] == "bcos_chain"
        alone = coda("explain", record["source"]["path"], *MODEL, "--json", "--write", "none").record
        for a, b in zip(record["explained"], alone["explained"], strict=True):
            assert a["exact"]
            assert a["name"] == b["name"]
            assert a["logit"] == pytest.approx(b["logit"], abs=1e-4)


def test_a_picture_at_its_own_size(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png", 90, 70)
    record = coda("explain", "a.png", *MODEL, "--fit", "native", "--json", "--write", "npz").record
    assert (record["view"]["width"], record["view"]["height"]) == (90, 70)
    assert record["explained"][0]["exact"]
    with np.load(tmp_path / "coda-out" / record["files"]["npz"]) as arrays:
        assert arrays["pixels"].shape == (1, 70, 90)
    # Their pooling is a mean: logits do not grow with the area as a CoDA-Net's do.
    small = coda("explain", "a.png", *MODEL, "--json", "--write", "none").record
    assert abs(record["top"][0]["logit"]) < 5 * max(1.0, abs(small["top"][0]["logit"]))


def test_a_clip_in_both_styles(coda: Coda, tmp_path: Path) -> None:
    clip(tmp_path / "a.mkv", frames=4)
    signed = coda("video", "a.mkv", *MODEL, "-c", "cat", "--json", "-o", "signed.webp").records
    coloured = coda("video", "a.mkv", *MODEL, "-c", "cat", "--json", "--style", "colour", "-o", "hues.webp").records
    for a, b in zip(signed[:-1], coloured[:-1], strict=True):
        assert a["explained"][0]["exact"]
        assert a["explained"][0]["logit"] == b["explained"][0]["logit"]  # a style changes no number
    frames = {name: decoded(tmp_path / f"{name}.webp") for name in ("signed", "hues")}
    assert len(frames["signed"]) == len(frames["hues"]) == 4
    for signed_frame, hues in zip(frames["signed"], frames["hues"], strict=True):
        assert np.abs(signed_frame.astype(int) - hues).mean() > 5


def test_nothing_is_looked_at_twice_that_need_not_be(
    coda: Coda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip(tmp_path / "a.mkv", frames=4)
    monkeypatch.setattr(
        "coda_cli.explanation.clip.run.survey", lambda *_: pytest.fail("a first pass, and nothing to find out")
    )
    *frames, whole = coda("video", "a.mkv", *MODEL, "-c", "cat", "--scale", "0.02", "--no-strip", "--json").records
    assert {f["explained"][0]["scale"] for f in frames} == {0.02}
    assert (whole["scale"], whole["scale_frames"]) == (0.02, None)


def test_every_layer_of_it_is_exact(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    (part,) = coda("explain", "a.png", *MODEL, "--layer", "all", "--json", "--write", "none").record["explained"]
    assert len(part["layers"]) == 10
    assert all(layer["exact"] for layer in part["layers"])


def test_it_stands_beside_other_methods(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    record = coda("compare", "a.png", *MODEL, "--method", "ours", "--method", "grad-cam", "--json").record
    assert abs(record["methods"][0]["off"]) < 1e-4
    with Image.open(tmp_path / "coda-out" / record["files"]["png"]) as sheet:
        sheet.verify()


def test_from_python(tmp_path: Path) -> None:
    explanation = coda_cli.explain(photo(tmp_path / "a.png"), coda_cli.load("cifar10-bcos"))
    d = explanation.decomposition
    assert bool(d.exact.all())
    assert float(d.positional.abs().max()) == 0
