"""Every kind of picture, turned, transparent, tiny or thin, is explained as what a person sees."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import program
import pytest
from conftest import Coda
from numpy.typing import NDArray
from PIL import Image
from program import looked_at, moving, photo, scene


def check_equal(result: program.Result) -> None:
    """Two inputs of a run were explained as the same picture."""
    one, two = (record["explained"][0] for record in result.records)
    assert one["logit"] == pytest.approx(two["logit"], abs=1e-5)
    assert one["positive"] == pytest.approx(two["positive"], rel=1e-5)
    assert one["evidence"]["half_share"] == two["evidence"]["half_share"]


def as_mode(mode: str) -> tuple[Image.Image, NDArray[np.uint8]]:
    """A picture in a mode of its own, and what the network should see of it."""
    rgb = scene()
    image = Image.fromarray(rgb)
    if mode == "16-bit":
        values = (
            np.random.default_rng(0).integers(0, 65536, (40, 50), dtype=np.uint16) // 4
        )  # dark: clipping would show
        return Image.fromarray(values), np.repeat(np.round(values / 257).astype(np.uint8)[..., None], 3, 2)
    if mode == "RGBA":
        hole = np.zeros((40, 50), np.uint8)
        hole[10:30, 10:30] = 255
        on_white = np.where(hole[..., None] == 255, rgb, 255).astype(np.uint8)
        return Image.fromarray(np.dstack([rgb, hole])), on_white
    image = image.quantize(16) if mode == "P" else image.convert(mode)
    return image, np.asarray(image.convert("RGB"))


@pytest.mark.parametrize(
    ("mode", "suffix", "notes"),
    [
        ("1", "png", []),
        ("P", "png", []),
        ("P", "gif", []),
        ("L", "png", []),
        ("CMYK", "tif", []),
        ("16-bit", "png", ["scaled to 8 bits"]),
        ("16-bit", "tif", ["scaled to 8 bits"]),
        ("RGBA", "png", ["transparency laid on white"]),
    ],
)
def test_every_kind_of_picture_is_explained_as_what_a_person_sees(
    coda: Coda, tmp_path: Path, mode: str, suffix: str, notes: list[str]
) -> None:
    image, seen = as_mode(mode)
    image.save(tmp_path / f"a.{suffix}")
    Image.fromarray(seen).save(tmp_path / "b.png")
    result = looked_at(coda, f"a.{suffix}", "b.png")
    assert result.records[0]["source"]["notes"] == notes
    assert [f"coda: a.{suffix}: {note}" for note in notes] == result.err.splitlines()[: len(notes)]
    check_equal(result)


TURNED_BACK = {
    1: (), 2: ("FLIP_LEFT_RIGHT",), 3: ("ROTATE_180",), 4: ("FLIP_TOP_BOTTOM",), 5: ("TRANSPOSE",),
    6: ("ROTATE_90",), 7: ("TRANSVERSE",), 8: ("ROTATE_270",),
}  # fmt: skip


@pytest.mark.parametrize("orientation", TURNED_BACK)
def test_a_picture_that_exif_turns_is_explained_upright(coda: Coda, tmp_path: Path, orientation: int) -> None:
    upright = Image.fromarray(scene())
    upright.save(tmp_path / "upright.png")
    stored = upright
    for turn in TURNED_BACK[orientation]:
        stored = stored.transpose(Image.Transpose[turn])
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "turned.png", exif=exif)
    result = looked_at(coda, "turned.png", "upright.png", "--fit", "native")
    turned = result.records[0]
    assert (turned["source"]["width"], turned["source"]["height"]) == (50, 40)
    assert turned["view"]["box"] == [0, 0, 50, 40]
    assert turned["source"]["notes"] == (["turned as its EXIF orientation says"] if orientation > 1 else [])
    check_equal(result)


def test_of_an_animation_the_first_frame_is_explained_and_that_is_said(coda: Coda, tmp_path: Path) -> None:
    moving(tmp_path / "a.gif")
    with Image.open(tmp_path / "a.gif") as first:
        first.convert("RGB").save(tmp_path / "b.png")
    result = looked_at(coda, "a.gif", "b.png")
    assert result.records[0]["source"]["notes"] == ["first of 3 frames"]
    assert "coda: a.gif: first of 3 frames" in result.err
    check_equal(result)


@pytest.mark.parametrize("fit", ["crop", "pad", "native"])
@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 2)])
def test_the_smallest_and_the_thinnest_pictures_are_explained(
    coda: Coda, tmp_path: Path, fit: str, size: tuple[int, int]
) -> None:
    photo(tmp_path / "a.png", *size)
    record = coda("explain", "a.png", "--fit", fit, "--json", "--write", "overlay,heatmap,panel").record
    assert record["explained"][0]["exact"]
    if fit != "crop":
        assert record["view"]["box"] == [0, 0, *size]
