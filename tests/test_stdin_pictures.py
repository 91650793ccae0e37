"""A picture's bytes on stdin are a picture; a list of names stays a list, whatever its names begin with."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from program import Result, looked_at, names_of, photo, scene, tree

from coda_cli.machine import budget
from coda_cli.media.stills import FORMATS, begins_as_picture

Coda = Callable[..., Result]


def encoded(kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(scene()).save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize("kind", FORMATS)
def test_a_picture_on_stdin_is_explained_as_its_file_is(coda: Coda, tmp_path: Path, kind: str) -> None:
    content = encoded(kind)
    (tmp_path / "file").write_bytes(content)
    piped = looked_at(coda, "-", input=content).record
    named = looked_at(coda, tmp_path / "file").record
    assert piped["source"] == named["source"] | {"path": "stdin"}
    assert piped["explained"] == named["explained"]


def test_its_files_have_a_name_and_are_not_made_twice(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    coda("explain", "-", "a.png", "--class", "0", input=encoded("PNG"), cwd=tmp_path)
    assert {name.partition(".")[0] for name in tree(tmp_path / "coda-out")} == {"a", "stdin"}
    again = coda("explain", "-", "--class", "0", input=encoded("PNG"), cwd=tmp_path)
    assert again.lines == ["coda-out/stdin.airplane.overlay.png", "coda-out/stdin.coda.json"]
    assert "already there" in again.err
    other = coda("explain", "-", "--class", "0", input=encoded("JPEG"), cwd=tmp_path, status=1)
    assert "exists from another picture" in other.error


@pytest.mark.parametrize("head", [b"P5 # grey\n# more\n 4 3\n255\n", b"P1\n4 3\n1 0", encoded("TIFF", big_tiff=True)])
def test_beginnings_of_other_kinds_are_known(head: bytes) -> None:
    assert begins_as_picture(head)


@pytest.mark.parametrize(
    "name",
    [
        "BMW.png",
        "PK.png",
        "BZh9.png",
        "PAR1.png",
        "7z.png",
        "<html.png",
        "GIF89a.png",
        "P6 1.png",
        "MM.png",
        "II.png",
        "RIFF.png",
        "\ufffd.png",
    ],
)
def test_a_list_stays_a_list(coda: Coda, tmp_path: Path, name: str) -> None:
    photo(tmp_path / name)
    assert names_of(looked_at(coda, "-", input=f"{name}\n" * 3000, cwd=tmp_path)) == [name]


def test_a_list_with_nul_is_a_list_however_it_begins(coda: Coda, tmp_path: Path) -> None:
    name = "BM\n\n\n\n"
    photo(tmp_path / (name + ".png"))
    result = looked_at(coda, "-0", "-", input=f"{name}.png\0", cwd=tmp_path)
    assert names_of(result) == [f"{name}.png"]


def test_what_is_neither_is_a_line(coda: Coda) -> None:
    result = coda("explain", "-", input=b"\0\0\1\0\1\0 an icon", status=2)
    assert result.error == (
        "stdin is no picture in a format coda can read, and as a list it is separated by NUL, not lines; add -0"
    )


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"PK\3\4\0\0", "a ZIP archive, which is read from a file whose name ends in .zip"),
        (b"a.png".ljust(257, b"\0") + b"ustar\0", "a tar archive, which is read from a file whose name ends in .tar"),
        (b"PAR1\x15\0", "a Parquet file, which is read where its name ends in .parquet"),
        (b"\x1f\x8b\x08\0", "compressed with gzip; decompress it first"),
        (b"\xfd7zXZ\0\0", "compressed with xz; decompress it first"),
        (b"\x28\xb5\x2f\xfd\0", "compressed with zstd; decompress it first"),
        (b"7z\xbc\xaf\x27\x1c\0", "a 7z archive; unpack it first"),
        (b"%PDF-1.7\n\0", "a PDF; save its pages as pictures first"),
        (b"\0\0\0\x18ftypmp42\0\0", "a clip; coda video explains it"),
        (b"\n<!DOCTYPE html>\n<html>\n", "a web page"),
        (b'<?xml version="1.0"?>\n<svg xmlns="x"></svg>\n', "a drawing in SVG; save it as PNG first"),
        ("a.png\n".encode("utf-16"), "a text in UTF-16; save it in UTF-8 first"),
    ],
)
def test_what_else_comes_on_stdin_or_from_a_server_is_said(
    coda: Coda, tmp_path: Path, content: bytes, says: str
) -> None:
    result = coda("explain", "-", input=content, status=2)
    assert result.error == f"stdin is no list and no picture in a format coda can read: it is {says}"
    (tmp_path / "a.png").write_bytes(content)
    error = coda("explain", "a.png", status=1).error
    assert error == f"a.png: not a picture in a format coda can read: it is {says}"


def test_a_list_of_windows_begins_with_a_mark(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    assert names_of(looked_at(coda, "-", input="\ufeffa.png\r\n", cwd=tmp_path)) == ["a.png"]


def test_a_picture_that_is_cut_off_or_too_large_is_a_line(coda: Coda, monkeypatch: pytest.MonkeyPatch) -> None:
    content = encoded("PNG")
    assert coda("explain", "-", input=content[:900], status=1).error.startswith("stdin: broken or truncated picture")
    monkeypatch.setattr(budget, "PICTURE_FILE", 1000)
    error = coda("explain", "-", input=content, status=1).error
    assert error == "stdin: has more than the 0 MB that are read"
