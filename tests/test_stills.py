"""Stills in: what every kind of file becomes, and what is wrong with broken ones."""

from __future__ import annotations

import contextlib
import hashlib
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from coda_cli.errors import ExitCode, MediaError
from coda_cli.media import stills
from coda_cli.media.carried import read_png_text
from coda_cli.media.stills import read_image

WHITE, BLACK = [255, 255, 255], [0, 0, 0]


LAID, SCALED, TURNED = "transparency laid on white", "scaled to 8 bits", "turned as its EXIF orientation says"


def saved(folder: Path, image: Image.Image, name: str = "picture.png", **options: Any) -> Path:
    path = folder / name
    image.save(path, **options)
    return path


def row(path: Path) -> list[list[int]]:
    """The first row of a picture as lists of r, g, b."""
    colours: list[list[int]] = read_image(path).rgb[0].tolist()
    return colours


def grey(*values: int) -> list[list[int]]:
    return [[v, v, v] for v in values]


def of(values: Any, dtype: Any) -> Image.Image:
    """A picture of one row in the mode that belongs to ``dtype``."""
    return Image.fromarray(np.array([values], dtype))


# ---- what every mode becomes -----------------------------------------------------------------------------------------


def test_rgb_comes_through_unchanged(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    picture = read_image(saved(tmp_path, Image.fromarray(values)))
    np.testing.assert_array_equal(picture.rgb, values)
    assert picture.rgb.dtype == np.uint8
    assert picture.notes == ()


def test_one_bit_becomes_black_and_white(tmp_path: Path) -> None:
    image = Image.new("1", (3, 1))
    image.putpixel((1, 0), 1)
    assert row(saved(tmp_path, image)) == [BLACK, WHITE, BLACK]


def test_grey_becomes_three_equal_channels(tmp_path: Path) -> None:
    path = saved(tmp_path, of([0, 100, 255], np.uint8))
    assert row(path) == grey(0, 100, 255)
    assert read_image(path).notes == ()


def palette(*indices: int) -> Image.Image:
    image = Image.new("P", (len(indices), 1))
    image.putpalette([10, 20, 30, 200, 100, 50, 0, 0, 255])
    for x, index in enumerate(indices):
        image.putpixel((x, 0), index)
    return image


@pytest.mark.parametrize("name", ["p.png", "p.gif", "p.tif", "p.bmp"])
def test_a_palette_picture_becomes_its_colours_not_its_indices(tmp_path: Path, name: str) -> None:
    path = saved(tmp_path, palette(2, 0, 1), name)
    assert row(path) == [[0, 0, 255], [10, 20, 30], [200, 100, 50]]
    assert read_image(path).notes == ()


def test_a_transparent_palette_entry_becomes_white(tmp_path: Path) -> None:
    path = saved(tmp_path, palette(0, 1, 2), transparency=1)
    assert row(path) == [[10, 20, 30], WHITE, [0, 0, 255]]
    assert read_image(path).notes == (LAID,)


def test_half_transparent_palette_entries_are_laid_on_white(tmp_path: Path) -> None:
    path = saved(tmp_path, palette(0, 1, 2), transparency=bytes([255, 0, 128]))
    colours = row(path)
    assert colours[:2] == [[10, 20, 30], WHITE]
    assert colours[2] == pytest.approx([127, 127, 255], abs=1)


def test_half_transparent_rgba_is_laid_on_white(tmp_path: Path) -> None:
    image = Image.new("RGBA", (4, 1))
    for x, colour in enumerate([(255, 0, 0, 255), (255, 0, 0, 0), (0, 0, 0, 128), (0, 200, 0, 51)]):
        image.putpixel((x, 0), colour)
    colours = row(saved(tmp_path, image))
    assert colours[:2] == [[255, 0, 0], WHITE]
    assert colours[2] == pytest.approx([127] * 3, abs=1)
    assert colours[3] == pytest.approx([204, 244, 204], abs=1)  # a fifth of the colour, four fifths of white
    assert read_image(tmp_path / "picture.png").notes == (LAID,)


def test_grey_with_alpha_is_laid_on_white(tmp_path: Path) -> None:
    image = Image.new("LA", (3, 1))
    for x, colour in enumerate([(80, 255), (80, 0), (0, 128)]):
        image.putpixel((x, 0), colour)
    colours = row(saved(tmp_path, image))
    assert colours[:2] == [[80] * 3, WHITE]
    assert colours[2] == pytest.approx([127] * 3, abs=1)
    assert read_image(tmp_path / "picture.png").notes == (LAID,)


@pytest.mark.parametrize(("image", "key"), [(Image.new("RGB", (1, 1), (9, 8, 7)), (9, 8, 7)), (of([50], np.uint8), 50)])
def test_a_transparent_colour_of_an_opaque_mode_becomes_white(tmp_path: Path, image: Image.Image, key: Any) -> None:
    path = saved(tmp_path, image, transparency=key)
    assert row(path) == [WHITE]
    assert read_image(path).notes == (LAID,)


@pytest.mark.parametrize("name", ["deep.png", "deep.tif"])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path, name: str) -> None:
    path = saved(tmp_path, of([0, 256, 32768, 40000, 65535], np.uint16), name)
    assert row(path) == grey(0, 1, 128, 156, 255)
    assert read_image(path).notes == (SCALED,)


def test_the_transparent_grey_of_sixteen_bits_becomes_white(tmp_path: Path) -> None:
    path = saved(tmp_path, of([0, 40000, 65535], np.uint16), transparency=40000)
    assert row(path) == [grey(0)[0], WHITE, grey(255)[0]]
    assert read_image(path).notes == (SCALED, LAID)


def test_dark_sixteen_bits_stay_dark(tmp_path: Path) -> None:
    """The scale belongs to the format, not to the picture: nothing is brightened to its own maximum."""
    assert row(saved(tmp_path, of([0, 1000, 2570], np.uint16))) == grey(0, 4, 10)


def test_big_endian_sixteen_bits_are_scaled(tmp_path: Path) -> None:
    path = tmp_path / "deep.tif"
    Image.frombytes("I;16B", (2, 1), struct.pack(">2H", 40000, 65535)).save(path)
    assert row(path) == grey(156, 255)


def test_sixteen_bit_pgm_is_scaled(tmp_path: Path) -> None:
    path = tmp_path / "deep.pgm"
    path.write_bytes(b"P5 3 1 65535\n" + struct.pack(">3H", 0, 40000, 65535))
    assert row(path) == grey(0, 156, 255)


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0, 40000, 65535], [0, 156, 255]), ([0, 70000, 140000], [0, 128, 255]), ([-5, 0, 257], [0, 0, 1])],
)
def test_thirty_two_bit_integers_are_scaled(tmp_path: Path, values: list[int], expected: list[int]) -> None:
    path = saved(tmp_path, of(values, np.int32), "i.tif")
    assert row(path) == grey(*expected)
    assert read_image(path).notes == (SCALED,)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 0.5, 1], [0, 128, 255]),
        ([0, 1, 4], [0, 64, 255]),
        ([-1, 0, 2], [0, 0, 255]),
        ([0, 0, 0], [0, 0, 0]),
        ([-3, -2, -1], [0, 0, 0]),
    ],
)
def test_floats_are_scaled_to_their_maximum(tmp_path: Path, values: list[float], expected: list[int]) -> None:
    path = saved(tmp_path, of(values, np.float32), "f.tif")
    assert row(path) == grey(*expected)
    assert read_image(path).notes == (SCALED,)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_floats_that_are_no_numbers_are_refused(tmp_path: Path, value: float) -> None:
    path = saved(tmp_path, of([0, 1, value], np.float32), "f.tif")
    with pytest.raises(MediaError, match=r"f\.tif"):
        read_image(path)


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    image = Image.new("CMYK", (4, 1))
    for x, colour in enumerate([(0, 0, 0, 0), (0, 0, 0, 255), (255, 0, 0, 0), (0, 255, 255, 0)]):
        image.putpixel((x, 0), colour)
    assert row(saved(tmp_path, image, "print.tif")) == [WHITE, BLACK, [0, 255, 255], [255, 0, 0]]


def test_a_cmyk_jpeg_is_not_inverted(tmp_path: Path) -> None:
    path = saved(tmp_path, Image.new("CMYK", (16, 16), (0, 0, 0, 0)), "print.jpg", quality=95)
    assert row(path)[0] == pytest.approx(WHITE, abs=2)


def test_the_format_is_what_the_bytes_say_not_the_suffix(tmp_path: Path) -> None:
    saved(tmp_path, of([7, 8], np.uint8), "a.png").rename(tmp_path / "a.txt")
    assert row(tmp_path / "a.txt") == grey(7, 8)


@pytest.mark.parametrize("name", ["s.jpg", "s.webp", "s.bmp", "s.gif", "s.ppm", "s.avif", "s.tiff"])
def test_every_format_that_a_folder_scan_takes_can_be_read(tmp_path: Path, name: str) -> None:
    picture = read_image(saved(tmp_path, Image.new("RGB", (24, 16), (200, 60, 30)), name))
    assert picture.rgb.shape == (16, 24, 3)
    assert picture.rgb[8, 12].tolist() == pytest.approx([200, 60, 30], abs=6)
    assert Path(name).suffix in stills.SUFFIXES


# ---- turns, animations, identity -------------------------------------------------------------------------------------


TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def labelled() -> Image.Image:
    """Six pixels of six colours, so that every turn and every mirroring shows."""
    return Image.fromarray(np.arange(18, dtype=np.uint8).reshape(2, 3, 3) * 14)


def oriented(folder: Path, orientation: int, name: str = "turned.png") -> Path:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(folder, labelled(), name, exif=exif)


def check_turns(folder: Path) -> None:
    for orientation in range(1, 9):
        picture = read_image(oriented(folder, orientation))
        expected = labelled() if orientation == 1 else labelled().transpose(TURNS[orientation])
        np.testing.assert_array_equal(picture.rgb, np.asarray(expected), err_msg=str(orientation))
        assert picture.notes == (() if orientation == 1 else (TURNED,))


def test_every_exif_orientation_is_undone(tmp_path: Path) -> None:
    check_turns(tmp_path)
    for name in ("turned.tif", "turned.webp"):  # the tag is found in other containers too
        lossless = {"lossless": True} if name.endswith("webp") else {}
        exif = Image.Exif()
        exif[0x0112] = 6
        path = saved(tmp_path, labelled(), name, exif=exif, **lossless)
        np.testing.assert_array_equal(read_image(path).rgb, np.asarray(labelled().transpose(TURNS[6])))


def test_a_reader_that_forgets_the_turn_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageOps, "exif_transpose", lambda image: image)
    with pytest.raises(AssertionError):
        check_turns(tmp_path)


def test_a_jpeg_on_its_side_gets_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = saved(tmp_path, Image.new("RGB", (40, 20)), "phone.jpg", exif=exif)
    assert read_image(path).rgb.shape == (40, 20, 3)


@pytest.mark.parametrize("orientation", [0, 9])
def test_an_orientation_that_does_not_exist_turns_nothing_and_says_nothing(tmp_path: Path, orientation: int) -> None:
    picture = read_image(oriented(tmp_path, orientation))
    np.testing.assert_array_equal(picture.rgb, np.asarray(labelled()))
    assert picture.notes == ()


@pytest.mark.parametrize("name", ["moving.gif", "moving.png", "moving.webp", "moving.tif"])
def test_of_an_animation_the_first_frame_is_taken(tmp_path: Path, name: str) -> None:
    frames = [Image.new("RGB", (4, 3), colour) for colour in ((250, 0, 0), (0, 250, 0), (0, 0, 250))]
    path = saved(tmp_path, frames[0], name, save_all=True, append_images=frames[1:])
    picture = read_image(path)
    assert picture.rgb[0, 0].tolist() == pytest.approx([250, 0, 0], abs=4)
    assert picture.notes == ("first of 3 pages" if name.endswith(".tif") else "first of 3 frames",)


def test_several_changes_are_all_noted_in_the_order_they_were_made(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    frames = [Image.new("RGBA", (4, 3), (250, 0, 0, n)) for n in (0, 255)]
    path = saved(tmp_path, frames[0], "all.webp", save_all=True, append_images=frames[1:], exif=exif, lossless=True)
    assert read_image(path).notes == ("first of 2 frames", TURNED, LAID)


def test_sha256_and_size_are_those_of_the_file(tmp_path: Path) -> None:
    path = saved(tmp_path, labelled())
    picture = read_image(path)
    assert picture.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert picture.bytes == path.stat().st_size


# ---- what cannot be read ---------------------------------------------------------------------------------------------


def refusal(path: Path) -> str:
    """The message for a file that cannot be read: one line that names it."""
    with pytest.raises(MediaError) as caught:
        read_image(path)
    message = str(caught.value)
    assert caught.value.exit_code == ExitCode.FAILED
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


def test_missing_files_folders_empty_files_and_texts_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("no picture")
    assert "cannot be read (No such file" in refusal(tmp_path / "missing.png")
    assert "cannot be read (Is a directory" in refusal(tmp_path)
    assert "is empty" in refusal(tmp_path / "empty.png")
    assert "not a picture in a format coda can read" in refusal(tmp_path / "text.png")


@pytest.mark.parametrize("name", ["cut.png", "cut.jpg", "cut.webp", "cut.gif", "cut.bmp", "cut.tif", "cut.avif"])
def test_truncated_pictures_are_refused(tmp_path: Path, name: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    path = saved(tmp_path, noise, name)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    # Half an AVIF is not even opened.
    expected = "not a picture in a format" if name == "cut.avif" else "broken or truncated picture"
    assert expected in refusal(path)


@pytest.mark.parametrize("name", ["bad.png", "bad.jpg", "bad.webp", "bad.gif", "bad.bmp", "bad.tif", "bad.avif"])
def test_damaged_pictures_are_read_or_refused_but_never_crash(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stills, "MAX_PIXELS", 1_000_000)  # a damaged size is cheap to refuse and slow to decode
    rng = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    options = {} if name.endswith(("gif", "bmp")) else {"exif": exif}
    path = saved(tmp_path, Image.fromarray(rng.integers(0, 256, (12, 9, 3), np.uint8)), name, **options)
    sound = np.frombuffer(path.read_bytes(), np.uint8)
    for _ in range(120):
        damaged = sound[: rng.integers(1, len(sound) + 1)].copy() if rng.random() < 0.3 else sound.copy()
        damaged[rng.integers(0, len(damaged), 3)] = rng.integers(0, 256, 3)
        path.write_bytes(damaged.tobytes())
        with contextlib.suppress(MediaError):
            read_image(path)
        assert read_png_text(path, "coda") is None


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def bomb(path: Path, width: int, height: int) -> Path:
    """A PNG of a hundred bytes that claims to be very large."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(b"")) + png_chunk(b"IEND", b""))
    return path


@pytest.mark.parametrize("side", [12_000, 20_000, 100_000])  # Pillow would warn of the first and refuse the others
def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path: Path, side: int) -> None:
    assert "million" in refusal(bomb(tmp_path / "bomb.png", side, side))


def test_below_the_limit_a_large_picture_is_not_taken_for_a_bomb(tmp_path: Path) -> None:
    """100 million pixels: beyond the size at which Pillow warns. The file holds no pixels, so that is what is wrong."""
    assert "truncated" in refusal(bomb(tmp_path / "large.png", 10_000, 10_000))


def test_the_limit_counts_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stills, "MAX_PIXELS", 12)
    read_image(saved(tmp_path, Image.new("RGB", (4, 3))))
    assert "13 x 1 pixels, more than" in refusal(saved(tmp_path, Image.new("RGB", (13, 1))))


@pytest.mark.parametrize("side", [10_000, 12_000, 20_000])
def test_a_bomb_has_no_text_and_stops_no_scan(tmp_path: Path, side: int) -> None:
    assert read_png_text(bomb(tmp_path / "bomb.png", side, side), "coda") is None
