"""Stills out: a file is there whole or not at all, and a PNG keeps every pixel and its text."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from coda_cli.errors import MediaError
from coda_cli.machine import budget
from coda_cli.media import files
from coda_cli.media.carried import read_png_text
from coda_cli.media.files import atomic, write_with
from coda_cli.media.stills import read_image, write_png

# ---- writing ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def _umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


class _Stop(BaseException):
    """As Ctrl-C: no Exception."""


def write_half(path: Path, error: BaseException) -> None:
    with atomic(path) as stream:
        stream.write(b"half of it")
        raise error


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, _Stop])
def test_nothing_is_left_when_the_block_raises(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error):
        write_half(tmp_path / "out.png", error())
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_stays_when_the_block_raises(tmp_path: Path) -> None:
    path = tmp_path / "out.png"
    path.write_bytes(b"before")
    with pytest.raises(ValueError, match="stop"):
        write_half(path, ValueError("stop"))
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_disk_that_is_full_is_an_error_with_the_name_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "out.png"
    with pytest.raises(MediaError, match=r"out\.png: cannot be written \(No space left on device\)"):
        write_half(path, OSError(28, "No space left on device"))
    assert list(tmp_path.iterdir()) == []


def test_while_it_is_written_nothing_has_the_final_name(tmp_path: Path) -> None:
    path = tmp_path / "out.png"
    with atomic(path) as stream:
        stream.write(b"all")
        assert not path.exists()
        (temporary,) = tmp_path.iterdir()
        assert temporary.name.startswith(files.TEMPORARY_PREFIX)
    assert path.read_bytes() == b"all"
    assert list(tmp_path.iterdir()) == [path]


def test_an_existing_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "out.png"
    path.write_bytes(b"before, and longer")
    write_with(path, lambda stream: stream.write(b"after"))
    assert path.read_bytes() == b"after"


@pytest.mark.skipif(os.name == "nt", reason="permission bits are POSIX")
@pytest.mark.usefixtures("_umask")
@pytest.mark.parametrize(("umask", "bits"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600), (0o000, 0o666)])
def test_permission_bits_follow_the_umask(tmp_path: Path, umask: int, bits: int) -> None:
    os.umask(umask)
    write_with(tmp_path / "out.png", lambda stream: stream.write(b"x"))
    assert stat.S_IMODE((tmp_path / "out.png").stat().st_mode) == bits
    assert os.umask(umask) == umask  # and the umask itself is as it was


def test_a_folder_that_is_not_there_or_in_the_way_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="cannot be written"):
        write_with(tmp_path / "none" / "out.png", lambda stream: stream.write(b"x"))
    (tmp_path / "out.png").mkdir()
    with pytest.raises(MediaError, match="cannot be written"):
        write_with(tmp_path / "out.png", lambda stream: stream.write(b"x"))
    assert list(tmp_path.iterdir()) == [tmp_path / "out.png"]


def test_a_writer_that_writes_in_place_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def in_place(path: Path) -> Any:
        return path.open("wb")

    monkeypatch.setitem(globals(), "atomic", in_place)
    with pytest.raises(AssertionError):
        test_nothing_is_left_when_the_block_raises(tmp_path, ValueError)
    (tmp_path / "out.png").unlink()
    with pytest.raises(AssertionError):
        test_while_it_is_written_nothing_has_the_final_name(tmp_path)


# ---- PNG -------------------------------------------------------------------------------------------------------------


def test_png_keeps_every_pixel_and_text_in_any_language(tmp_path: Path) -> None:
    values: NDArray[np.uint8] = np.random.default_rng(0).integers(0, 256, (9, 14, 3), np.uint8)
    path = tmp_path / "größe.png"
    text = {"coda": '{"name": "Größe − 猫 🐈", "n": 1}', "other": "x" * 100_000}
    write_png(path, values, text)
    np.testing.assert_array_equal(read_image(path).rgb, values)
    assert {key: read_png_text(path, key) for key in text} == text
    assert read_png_text(path, "third") is None


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (64, 48)])
@pytest.mark.parametrize("kind", ["noise", "flat", "turned"])
@pytest.mark.parametrize("block", [budget.PNG_BLOCK, 1000])
def test_png_holds_pictures_of_any_shape_for_any_reader(
    shape: tuple[int, int], kind: str, block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "PNG_BLOCK", block)
    values: NDArray[np.uint8] = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    if kind == "flat":
        values[:] = values[0, 0]
    if kind == "turned":  # not contiguous in memory
        values = np.random.default_rng(0).integers(0, 256, (*shape[::-1], 3), np.uint8).transpose(1, 0, 2)[::-1]
    write_png(tmp_path / "a.png", values, {"coda": "x"})
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), values)  # by Pillow
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED)[..., ::-1], values)
    with Image.open(tmp_path / "a.png") as image:
        image.verify()  # all checksums


def test_png_without_text_has_none(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", np.zeros((2, 2, 3), np.uint8))
    assert read_png_text(tmp_path / "a.png", "coda") is None


def test_the_same_picture_is_written_as_the_same_bytes(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (9, 14, 3), np.uint8)
    for name in ("a.png", "b.png"):
        write_png(tmp_path / name, values, {"coda": "x"})
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_text_is_read_without_decoding_the_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_png(tmp_path / "a.png", np.zeros((2, 2, 3), np.uint8), {"coda": "record"})

    def refuse(_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", refuse)
    assert read_png_text(tmp_path / "a.png", "coda") == "record"


def test_broken_files_have_no_text(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", np.zeros((40, 40, 3), np.uint8), {"coda": "record"})
    sound = (tmp_path / "a.png").read_bytes()
    path = tmp_path / "b.png"
    assert read_png_text(path, "coda") is None  # missing
    assert read_png_text(tmp_path, "coda") is None  # a folder
    for length in range(len(sound)):  # cut off anywhere
        path.write_bytes(sound[:length])
        assert read_png_text(path, "coda") in (None, "record")
    path.write_text("no picture")
    assert read_png_text(path, "coda") is None
