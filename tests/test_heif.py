"""HEIC, as phones write it: read where pillow-heif is installed, and said to be readable where it is not."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from program import Result, looked_at, photo, scene

from coda_cli.errors import MediaError
from coda_cli.media.heif import is_heif
from coda_cli.media.sources import resolve
from coda_cli.media.stills import begins_as_picture, read_image

Coda = Callable[..., Result]
HEAD = b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic"
installed = importlib.util.find_spec("pillow_heif") is not None


def heic(path: Path, **options: object) -> Path:
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(scene()).save(path, "HEIF", quality=95, **options)
    return path


def test_without_its_library_a_picture_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "a.heic").write_bytes(HEAD)
    with pytest.raises(MediaError) as caught:
        read_image(tmp_path / "a.heic")
    assert str(caught.value) == f"{tmp_path}/a.heic: is a HEIC picture, and pip install 'coda-cli[heic]' reads HEIC"


@pytest.mark.skipif(installed, reason="pillow-heif is installed")
def test_a_scan_says_how_to_read_what_it_leaves_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    photo(Path("p/a.png"))
    for name in ("b.heic", "c.HEIC", "d.txt"):
        Path("p", name).write_bytes(HEAD)
    said: list[str] = []
    assert [item.name for item in resolve(["p"], on_left_out=said.append)] == ["p/a.png"]
    assert said == ["p: left out 3 files of other kinds (2 .heic, 1 .txt; pip install 'coda-cli[heic]' reads HEIC)"]


def test_it_is_known_by_its_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(HEAD)
    assert is_heif(tmp_path / "a")
    assert begins_as_picture(HEAD)
    Image.fromarray(scene()).save(tmp_path / "b", "AVIF")
    assert not is_heif(tmp_path / "b")


def test_it_is_read_as_other_pictures_are(coda: Coda, tmp_path: Path) -> None:
    path = heic(tmp_path / "p" / "a.heic")
    assert np.abs(read_image(path).rgb.astype(int) - scene()).mean() < 8  # it has grain
    assert looked_at(coda, tmp_path / "p").record["source"]["path"].endswith("/a.heic")
    piped = looked_at(coda, "-", input=path.read_bytes()).record
    assert piped["source"]["path"] == "stdin"


def test_it_is_turned_once(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = heic(tmp_path / "a.heic", exif=exif.tobytes())
    assert np.abs(read_image(path).rgb.astype(int) - np.rot90(scene(), -1)).mean() < 8  # it has grain


def test_a_broken_one_is_a_line(tmp_path: Path) -> None:
    data = heic(tmp_path / "a.heic").read_bytes()
    for size in (60, len(data) // 2, len(data) - 5):
        (tmp_path / "b.heic").write_bytes(data[:size])
        with pytest.raises(MediaError, match=r"b\.heic: (broken or truncated|not a) picture"):
            read_image(tmp_path / "b.heic")
