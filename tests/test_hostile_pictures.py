"""Pictures that are not what they say, giant ones, and colours that mean something else than sRGB."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import program
import pytest
import tiffs
from numpy.typing import NDArray
from PIL import Image, ImageCms

from coda_cli.errors import MediaError
from coda_cli.machine import budget
from coda_cli.machine import gate as gates
from coda_cli.machine.gate import Gate
from coda_cli.media import files, profiles, stills
from coda_cli.media.carried import read_gif_text, read_png_text
from coda_cli.media.files import read_whole
from coda_cli.media.pictures import for_drawing
from coda_cli.media.stills import Picture, read_image
from coda_cli.media.view import fit
from coda_cli.render.overlay import drawing_size, enlarged, heatmap, overlay

CONVERTED = "colours converted from"
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n%%EndComments\n0 0 16 16 rectfill\nshowpage\n%%EOF\n"


def patches() -> Image.Image:
    """Squares of many colours."""
    small = np.random.default_rng(0).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(np.kron(small, np.ones((8, 8, 1), np.uint8)))


def refusal(path: Path) -> str:
    with pytest.raises(MediaError) as caught:
        read_image(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


# ---- formats ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.gif", "a.eps", "a.tga"])
def test_no_program_is_started_for_a_file_of_another_format(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a program is started")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    (tmp_path / name).write_bytes(EPS)
    assert refusal(tmp_path / name)
    assert read_png_text(tmp_path / name, "coda") is None
    assert read_gif_text(tmp_path / name) is None


@pytest.mark.parametrize("kind", ["PCX", "ICO", "SGI", "PPM", "TGA", "QOI", "DDS", "PDF"])
def test_only_formats_that_are_named_are_opened(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.png"
    patches().save(path, kind)
    if kind == "PPM":
        assert read_image(path).rgb.shape == (48, 48, 3)
    else:
        assert "not a picture in a format coda can read" in refusal(path)


@pytest.mark.parametrize("name", ["a.jfif", "a.jpe", "a.mpo", "a.tga"])
def test_further_names_of_known_formats_are_scanned_and_read(tmp_path: Path, name: str) -> None:
    assert Path(name).suffix in stills.SUFFIXES
    patches().save(tmp_path / name)
    assert read_image(tmp_path / name).rgb.shape == (48, 48, 3)


def test_text_of_a_png_is_looked_for_in_pngs_only(tmp_path: Path) -> None:
    image = patches()
    image.info["coda"] = "no"
    image.save(tmp_path / "a.png", "GIF", comment=b"said")
    assert read_png_text(tmp_path / "a.png", "comment") is None


def test_the_comment_of_a_gif_is_looked_for_in_gifs_only(tmp_path: Path) -> None:
    patches().save(tmp_path / "a.gif", "JPEG", comment=b"said")
    assert read_gif_text(tmp_path / "a.gif") is None
    patches().save(tmp_path / "a.gif", comment=b"said")
    assert read_gif_text(tmp_path / "a.gif") == "said"


# ---- files that are none ---------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with names are POSIX")
def test_pipes_devices_and_giant_files_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with (tmp_path / "sparse.png").open("wb") as stream:
        stream.truncate(20_000_000_000)
    (tmp_path / "link.png").symlink_to("pipe.png")
    start = time.process_time()  # a pipe that was read would wait for ever
    for path in (tmp_path / "pipe.png", tmp_path / "link.png", Path("/dev/zero")):
        assert "is a pipe or a device" in refusal(path)
    assert "has 20000 MB, more than the 512 MB" in refusal(tmp_path / "sparse.png")
    assert time.process_time() - start < 5


def test_a_file_that_is_read_whole_has_a_limit(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    assert read_whole(tmp_path / "a", 5) == b"12345"
    with pytest.raises(MediaError, match="more than"):
        read_whole(tmp_path / "a", 4)
    with pytest.raises(MediaError, match="cannot be read"):
        read_whole(tmp_path, 4)


def test_a_file_that_grows_while_it_is_read_does_not_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(b"x" * 1000)
    monkeypatch.setattr(files, "regular_size", lambda *_: 3)  # so long it was when it was looked at
    assert len(read_whole(tmp_path / "a", 4)) <= 5


# ---- memory ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "options"), [("a.webp", {}), ("a.jpg", {"progressive": True}), ("a.gif", {})])
def test_what_would_take_too_much_memory_is_refused_by_its_header(
    tmp_path: Path, name: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    patches().save(tmp_path / name, **options)
    assert read_image(tmp_path / name)
    monkeypatch.setattr(budget, "DECODED_BYTES", 48 * 48 * 9)
    monkeypatch.setattr(stills, "_decoded", lambda _: pytest.fail("decoded"))
    assert "48 x 48 pixels, more than the" in refusal(tmp_path / name)


def test_a_picture_has_a_number_of_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever they take: those of two colours need little memory until they are drawn."""
    patches().convert("1").save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png")
    monkeypatch.setattr(stills, "MAX_PIXELS", 48 * 48 - 1)
    assert "48 x 48 pixels, more than 0 million" in refusal(tmp_path / "a.png")
    with pytest.raises(MediaError, match="more than 0 million"):
        stills.memory_of(tmp_path / "a.png")  # before anything is decoded


def test_cielab_becomes_srgb(tmp_path: Path) -> None:
    """Without a profile, the white of D50 is meant, which is white in sRGB, too."""
    Image.merge("LAB", [Image.new("L", (8, 8), v) for v in (255, 128, 128)]).save(tmp_path / "white.tif")
    picture = read_image(tmp_path / "white.tif")
    assert picture.rgb.min() >= 254
    assert picture.notes == ("colours converted from CIELAB to sRGB",)


def test_pillow_s_log_is_no_line_on_stderr() -> None:
    code = "import coda_cli.media.quiet, logging; logging.getLogger('PIL.TiffImagePlugin').error('More samples')"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stderr == b""


@pytest.mark.parametrize(("mode", "own"), [("L", 1), ("I;16", 2), ("RGB", 4), ("RGBA", 4)])
def test_the_memory_of_a_picture_is_counted_by_its_mode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, own: int
) -> None:
    Image.new(mode, (10, 10)).save(tmp_path / "a.png")
    held: list[int] = []

    class Counting(Gate):
        def holding(self, amount: int) -> contextlib.AbstractContextManager[None]:
            held.append(amount)
            return super().holding(amount)

    monkeypatch.setattr(gates, "PICTURES", Counting(1))
    read_image(tmp_path / "a.png")
    assert held == [(tmp_path / "a.png").stat().st_size + 100 * (own + 3)]


def test_pictures_that_need_much_memory_are_read_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gates, "PICTURES", Gate(1))
    patches().save(tmp_path / "a.png")
    inside, most, lock = 0, 0, threading.Lock()

    def read() -> None:
        nonlocal inside, most
        with stills.reading(tmp_path / "a.png"):
            with lock:
                inside += 1
                most = max(most, inside)
            time.sleep(0.02)
            with lock:
                inside -= 1

    workers = [threading.Thread(target=read) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(program.PATIENCE)
    assert most == 1


def test_a_large_jpeg_is_decoded_smaller_and_its_view_keeps_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    patches().resize((4096, 2048)).save(tmp_path / "a.jpg", exif=exif)
    whole = read_image(tmp_path / "a.jpg")
    monkeypatch.setattr(budget, "DRAFTED_PIXELS", 8_000_000)
    small = read_image(tmp_path / "a.jpg")
    assert whole.full_size is None
    assert small.rgb.shape == (2048, 1024, 3)
    assert small.full_size == (2048, 4096)
    assert small.notes[0] == "a large JPEG, decoded at 1024 x 2048 pixels"
    of_whole, of_small = (fit(p.rgb, 40, 32) for p in (whole, small))
    of_small = of_small.of_picture(small.full_size)
    assert of_small.size == of_whole.size
    assert of_small.box == pytest.approx(of_whole.box, abs=4)
    assert np.abs(of_small.rgb.astype(float) - of_whole.rgb).mean() < 2
    patches().resize((8192, 1024)).save(tmp_path / "narrow.jpg")
    assert read_image(tmp_path / "narrow.jpg").full_size is None  # its shorter side has no pixel to spare


def test_strips_give_the_same_pixels_as_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    paths = []
    for name, values, mode in (
        ("a.png", rng.integers(0, 256, (31, 9, 4), np.uint8), "RGBA"),
        ("b.png", rng.integers(0, 256, (31, 9, 2), np.uint8), "LA"),
        ("c.tif", rng.integers(0, 256, (31, 9, 4), np.uint8), "CMYK"),
        ("d.png", rng.integers(0, 65536, (31, 9), np.uint16), None),
        ("e.tif", rng.random((31, 9), np.float32), None),
    ):
        (Image.fromarray(values) if mode is None else Image.frombytes(mode, (9, 31), values.tobytes())).save(
            tmp_path / name
        )
        paths.append(tmp_path / name)
    patches().quantize(7).save(tmp_path / "f.png", transparency=2)
    paths.append(tmp_path / "f.png")
    whole = [read_image(path) for path in paths]
    monkeypatch.setattr(budget, "CONVERTED_PIXELS", 40)
    for path, before in zip(paths, whole, strict=True):
        np.testing.assert_array_equal(read_image(path).rgb, before.rgb, err_msg=path.name)
        assert read_image(path).notes == before.notes


def test_drawing_in_strips_gives_the_same_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (50, 30, 3), np.uint8)
    values = rng.standard_normal((50, 30)).astype(np.float32)
    values[:20, :7] = np.nan
    before = overlay(rgb, values, 0.5), heatmap(values, 0.5)
    monkeypatch.setattr(budget, "CONVERTED_PIXELS", 100)
    for one, other in zip(before, (overlay(rgb, values, 0.5), heatmap(values, 0.5)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_no_more_is_in_use_than_the_gate_lets_in_and_nobody_waits_for_ever() -> None:
    gate, most, used, lock = Gate(10), 0, 0, threading.Lock()

    def use(amount: int) -> None:
        nonlocal most, used
        with gate.holding(amount):
            with lock:
                used += amount
                most = max(most, used if amount <= 10 else 0)
                assert amount <= 10 or used == amount  # too much for the gate: alone
            time.sleep(0.001)
            with lock:
                used -= amount

    workers = [threading.Thread(target=use, args=(amount,)) for amount in (4, 4, 4, 25, 9, 1, 1, 10, 3) * 5]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(program.PATIENCE)
        assert not worker.is_alive()
    assert 4 < most <= 10


def test_who_needs_much_is_not_overtaken_for_ever_by_those_who_need_little() -> None:
    gate, came = Gate(10), list[int]()

    def use(amount: int) -> None:
        with gate.holding(amount):
            came.append(amount)

    workers = [threading.Thread(target=use, args=(amount,)) for amount in (8, 2)]
    with gate.holding(6):
        for number, worker in enumerate(workers, start=1):
            worker.start()
            while len(gate._queue) < number and worker.is_alive():
                time.sleep(0.001)
        assert came == []  # 2 would have room at once
    for worker in workers:
        worker.join(program.PATIENCE)
    assert came == [8, 2]


def test_the_frames_that_wait_are_bounded_by_their_size() -> None:
    assert budget.frames_held(12, 1000) == 12
    assert budget.frames_held(12, budget.FRAME_BYTES // 3) == 3
    assert budget.frames_held(12, 2 * budget.FRAME_BYTES) == 1


def test_a_picture_that_fails_to_decode_leaves_the_gate_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates, "PICTURES", Gate(1))  # one at a time
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + struct.pack(">I4s", 13, b"IHDR"))
    patches().save(tmp_path / "b.png")
    data = (tmp_path / "b.png").read_bytes()
    (tmp_path / "c.png").write_bytes(data[: len(data) // 2])
    for name in ("a.png", "c.png", "a.png", "c.png"):
        refusal(tmp_path / name)
    assert read_image(tmp_path / "b.png")


def test_a_giant_picture_is_drawn_smaller_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    rgb = np.asarray(patches())
    picture = Picture(rgb, "", 0, ("first",))
    assert for_drawing(picture) is picture
    monkeypatch.setattr(budget, "DRAWN_SIDE", 24)
    small = for_drawing(picture)
    assert small.rgb.shape == (24, 24, 3)
    assert small.full_size == (48, 48)
    assert small.notes == ("first", "drawn smaller, at 24 x 24 pixels")


@pytest.mark.parametrize("size", [(9000, 9000), (1, 100_000_000), (100_000_000, 1), (70_000, 500), (12_000, 10_000)])
def test_no_drawing_is_larger_than_its_budget(size: tuple[int, int]) -> None:
    width, height = drawing_size(size)
    assert width * height <= budget.DRAWN_PIXELS
    assert 1 <= min(width, height) <= max(width, height) <= budget.DRAWN_SIDE
    width, height = drawing_size(size, budget.SHEET_PIXELS // 3)
    assert 3 * (width * height) < Image.MAX_IMAGE_PIXELS  # type: ignore[operator]


def test_pictures_and_maps_can_be_made_smaller_for_a_drawing() -> None:
    rgb = np.asarray(patches())
    assert enlarged(rgb, (24, 12)).shape == (12, 24, 3)
    values: NDArray[np.float32] = np.ones((48, 48), np.float32)
    np.testing.assert_allclose(enlarged(values, (20, 20)), np.ones((20, 20), np.float32), rtol=1e-6)


def test_a_giant_picture_at_its_own_size_is_refused_before_the_network_runs() -> None:
    rgb = np.zeros((2000, 4000, 3), np.uint8)
    with pytest.raises(MediaError, match="4000 x 2000 pixels, more than the 6 million of --fit native; use --fit crop"):
        fit(rgb, 40, 32, "native")
    assert fit(rgb, 40, 32).resolution == (32, 32)


def test_a_few_kilobytes_do_not_fill_the_memory(tmp_path: Path) -> None:
    Image.new("RGBA", (10_000, 10_000), (3, 200, 4, 100)).save(tmp_path / "a.png", compress_level=1)
    assert program.peak_memory("explain", "a.png", "-m", "cifar10", "-o", "out", cwd=tmp_path) < 2.5e9
    with Image.open(next((tmp_path / "out").glob("*.png"))) as image:
        assert image.width * image.height < Image.MAX_IMAGE_PIXELS  # type: ignore[operator]


# ---- colours ---------------------------------------------------------------------------------------------------------


def profile_with_gamma(gamma: float) -> bytes:
    """A profile with the primaries of sRGB and another curve, made from the bytes of LittleCMS's own."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = struct.unpack(">I", data[128:132])[0]
    for n in range(count):
        name, start, _ = struct.unpack(">4sII", data[132 + 12 * n : 144 + 12 * n])
        if name in (b"rTRC", b"gTRC", b"bTRC"):  # one parametric curve: Y = X ^ gamma
            data[start : start + 16] = struct.pack(">4sIHHi", b"para", 0, 0, 0, round(gamma * 65536))
    return bytes(data)


LINEAR, LIKE_SRGB = profile_with_gamma(1.0), ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def to_linear(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The numbers that mean the same colours where brightness grows evenly with them."""
    x = rgb / 255
    y = np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)
    return np.round(255 * y).astype(np.uint8)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.webp", "a.jpg", "a.avif"])
def test_a_colour_profile_is_converted_in_every_format_that_carries_one(tmp_path: Path, name: str) -> None:
    bright = np.clip(np.asarray(patches()), 90, 255).astype(np.uint8)  # dark ones have few levels where it is linear
    options: dict[str, Any] = {"lossless": True} if name == "a.webp" else {}
    if name in ("a.jpg", "a.avif"):
        options = {"quality": 98, "subsampling": "4:4:4"}
    Image.fromarray(to_linear(bright)).save(tmp_path / name, icc_profile=LINEAR, **options)
    picture = read_image(tmp_path / name)
    assert len(picture.notes) == 1
    assert picture.notes[0].startswith(CONVERTED)
    assert np.abs(picture.rgb.astype(int) - bright).mean() < 3


def test_a_profile_that_is_srgb_changes_nothing_and_is_not_spoken_of(tmp_path: Path) -> None:
    patches().save(tmp_path / "a.png", icc_profile=LIKE_SRGB)
    picture = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(picture.rgb, np.asarray(patches()))
    assert picture.notes == ()


@pytest.mark.parametrize("mode", ["RGBA", "P", "L", "LA"])
def test_a_profile_is_used_in_every_mode(tmp_path: Path, mode: str) -> None:
    image = patches().convert(mode)
    if "A" in mode:
        image.putalpha(255)
    image.save(tmp_path / "a.png", icc_profile=LINEAR)
    picture = read_image(tmp_path / "a.png")
    assert picture.notes[0].startswith(CONVERTED)
    assert picture.rgb.mean() > np.asarray(image.convert("RGB")).mean() + 20


def test_what_is_transparent_stays_so_beside_a_profile(tmp_path: Path) -> None:
    image = patches().convert("RGBA")
    image.putalpha(0)
    image.save(tmp_path / "a.png", icc_profile=LINEAR)
    picture = read_image(tmp_path / "a.png")
    assert picture.rgb.min() == 255
    assert picture.notes[-1] == "transparency laid on white"


@pytest.mark.parametrize("damage", ["cut", "noise", "empty header", "zero size"])
def test_a_broken_profile_is_left_out_of_account_with_a_note(tmp_path: Path, damage: str) -> None:
    broken = {
        "cut": LINEAR[:200], "noise": bytes(range(256)) * 3, "empty header": bytes(128) + LINEAR[128:],
        "zero size": bytes(4) + LINEAR[4:100],
    }[damage]  # fmt: skip
    patches().save(tmp_path / "a.png", icc_profile=broken)
    picture = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(picture.rgb, np.asarray(patches()))
    assert picture.notes == (profiles.BROKEN,)


def test_a_profile_of_another_kind_of_colours_is_left_out_of_account_with_a_note(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (10, 20, 30, 0)).save(tmp_path / "a.tif", icc_profile=LINEAR)
    assert "its colour profile is for RGB" in read_image(tmp_path / "a.tif").notes[0]


def test_a_profile_has_a_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiles, "LARGEST", len(LINEAR) - 1)
    patches().save(tmp_path / "a.png", icc_profile=LINEAR)
    assert read_image(tmp_path / "a.png").notes == (profiles.BROKEN,)


def test_white_stays_white_whatever_the_profile_asks_for(tmp_path: Path) -> None:
    """An absolute intent would show the colour of the paper."""
    data = bytearray(LINEAR)
    data[64:68] = struct.pack(">I", ImageCms.Intent.ABSOLUTE_COLORIMETRIC)
    for n in range(struct.unpack(">I", data[128:132])[0]):
        name, start, _ = struct.unpack(">4sII", data[132 + 12 * n : 144 + 12 * n])
        if name == b"wtpt":  # a yellow paper
            data[start + 8 : start + 20] = struct.pack(">3i", *(round(v * 65536) for v in (0.8, 0.8, 0.3)))
    Image.new("RGB", (8, 8), (255, 255, 255)).save(tmp_path / "a.png", icc_profile=bytes(data))
    picture = read_image(tmp_path / "a.png")
    assert picture.notes[0].startswith(CONVERTED)
    assert picture.rgb.min() > 250


def test_the_name_of_a_profile_is_no_command_for_a_terminal(tmp_path: Path) -> None:
    name = "built-in".encode("utf-16-be")
    assert name in LINEAR
    data = LINEAR.replace(name, "b\x1b[31m\x9b".encode("utf-16-be").ljust(len(name), b"\0")[: len(name)])
    patches().save(tmp_path / "a.png", icc_profile=data)
    (note,) = read_image(tmp_path / "a.png").notes
    assert note.startswith(CONVERTED)
    assert note.isprintable()


def test_profiles_that_pillow_does_not_hand_on_are_used(tmp_path: Path) -> None:
    rgb = np.asarray(patches())
    height, width = rgb.shape[:2]
    masks = struct.pack("<4I", 0, 0, 0, 0)
    info = struct.pack("<IiiHHIIiiII", 124, width, height, 1, 24, 0, rgb.nbytes, 0, 0, 0, 0) + masks
    info += b"DEBM" + bytes(36 + 12) + struct.pack("<4I", 4, 124 + rgb.nbytes, len(LINEAR), 0)  # PROFILE_EMBEDDED
    head = struct.pack("<2sIHHI", b"BM", 14 + len(info) + rgb.nbytes + len(LINEAR), 0, 0, 14 + len(info))
    (tmp_path / "a.bmp").write_bytes(head + info + rgb[::-1, :, ::-1].tobytes() + LINEAR)
    patches().quantize(32).save(tmp_path / "a.gif")
    gif = (tmp_path / "a.gif").read_bytes()
    parts = b"".join(bytes([len(p)]) + p for p in (LINEAR[i : i + 255] for i in range(0, len(LINEAR), 255)))
    palette = 13 + (3 << (gif[10] & 7) + 1)
    block = b"\x21\xff\x0bICCRGBG1012" + parts + b"\0"
    (tmp_path / "a.gif").write_bytes(gif[:palette] + block + gif[palette:])
    for name in ("a.bmp", "a.gif"):
        picture = read_image(tmp_path / name)
        assert picture.notes[0].startswith(CONVERTED)
        assert picture.rgb.mean() > rgb.mean() + 20


def test_the_profile_of_a_gif_is_found() -> None:
    parts = b"".join(bytes([len(p)]) + p for p in (LINEAR[i : i + 255] for i in range(0, len(LINEAR), 255)))
    data = b"GIF89a" + bytes(7) + b"\x21\xff\x0bICCRGBG1012" + parts + b"\0;"
    assert profiles.embedded_profile("GIF", data) == LINEAR
    assert profiles.embedded_profile("GIF", data[:60]) is not None
    assert profiles.embedded_profile("GIF", b"GIF89a;") is None


def test_the_profile_of_a_jpeg_2000_is_found() -> None:
    colour = struct.pack(">I4s3s", 11 + len(LINEAR), b"colr", b"\x02\0\0") + LINEAR
    header = struct.pack(">I4s", 22, b"ihdr") + bytes(14) + colour
    data = struct.pack(">I4s", 12, b"jP  ") + bytes(4) + struct.pack(">I4s", 8 + len(header), b"jp2h") + header
    assert profiles.embedded_profile("JPEG2000", data) == LINEAR
    for end in range(len(data)):
        profiles.embedded_profile("JPEG2000", data[:end])


# ---- TIFF ------------------------------------------------------------------------------------------------------------

GREY16 = np.random.default_rng(0).integers(0, 256, (5, 7)).astype(np.uint16) * 257


@pytest.mark.parametrize("deflated", [False, True])
def test_a_tiff_of_16_bits_in_which_0_is_white_is_no_negative(tmp_path: Path, deflated: bool) -> None:
    path = tiffs.write_tiff(tmp_path / "a.tif", GREY16, tiffs.MIN_IS_WHITE, deflated=deflated)
    np.testing.assert_array_equal(read_image(path).rgb[..., 0], 255 - GREY16 // 257)


@pytest.mark.parametrize("deflated", [False, True])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("big_endian", [False, True])
def test_planes_are_read_as_the_picture_or_refused(tmp_path: Path, deflated: bool, kind: Any, big_endian: bool) -> None:
    small = np.random.default_rng(0).integers(0, 256, (11, 7, 3))
    values = (small * (257 if kind == np.uint16 else 1)).astype(kind)
    path = tiffs.write_tiff(
        tmp_path / "a.tif", values, tiffs.RGB, planar=True, deflated=deflated, big_endian=big_endian
    )
    if kind == np.uint16 and not deflated:
        assert "in planes without compression is not read" in refusal(path)
    else:
        np.testing.assert_array_equal(read_image(path).rgb, small)


def test_numbers_that_pillow_turns_around_are_refused(tmp_path: Path) -> None:
    floats = np.random.default_rng(0).random((5, 7)).astype(np.float32)
    path = tmp_path / "a.tif"
    for deflated, big_endian in ((False, False), (True, False), (False, True)):
        read_image(tiffs.write_tiff(path, floats, tiffs.MIN_IS_BLACK, deflated=deflated, big_endian=big_endian))
    assert "big-endian" in refusal(tiffs.write_tiff(path, floats, tiffs.MIN_IS_BLACK, deflated=True, big_endian=True))
    assert "0 is white" in refusal(tiffs.write_tiff(path, floats, tiffs.MIN_IS_WHITE))
    large = np.array([[0, 2**32 - 1]], np.uint32)
    assert "unsigned numbers" in refusal(tiffs.write_tiff(path, large, tiffs.MIN_IS_BLACK))


def test_signed_numbers_of_16_bits_are_as_bright_as_they_can_be(tmp_path: Path) -> None:
    values = np.array([[0, 16384, 32767]], np.int16)
    path = tiffs.write_tiff(tmp_path / "a.tif", values, tiffs.MIN_IS_BLACK)
    assert read_image(path).rgb[0, :, 0].tolist() == [0, 128, 255]


def test_libraries_say_nothing_on_stderr(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name, options in (("a.tif", {"compression": "tiff_lzw"}), ("b.tif", {"compression": "jpeg"}), ("c.jpg", {})):
        patches().save(tmp_path / name, **options)
        data = bytearray((tmp_path / name).read_bytes())
        rng = np.random.default_rng(0)
        for _ in range(60):
            damaged = bytearray(data)
            for at in rng.integers(0, len(data), 4):
                damaged[at] = rng.integers(0, 256)
            (tmp_path / name).write_bytes(damaged)
            with contextlib.suppress(MediaError):
                read_image(tmp_path / name)
    assert capfd.readouterr() == ("", "")


def test_libtiff_would_speak_if_it_were_let(tmp_path: Path) -> None:
    """In processes of their own, because its functions are taken away for good."""
    stream = io.BytesIO()
    patches().save(stream, "TIFF", compression="tiff_lzw")
    data = bytearray(stream.getvalue())
    data[20:60] = bytes([255]) * 40
    (tmp_path / "a.tif").write_bytes(data)
    imports = "import contextlib; from pathlib import Path; from coda_cli.media import quiet, stills"
    read = "with contextlib.suppress(Exception): stills.read_image(Path('a.tif'))"
    assert _stderr(f"{imports}\nquiet._quieten_libtiff = lambda: None\n{read}", tmp_path)
    assert not _stderr(f"{imports}\n{read}", tmp_path)


def _stderr(code: str, folder: Path) -> str:
    """What a Python process of its own writes to stderr."""
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True).stderr
