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


@pytest.mark.parametrize("name", ["BMW.png", "GIF89a.png", "P6 1.png", "MM.png", "II.png", "RIFF.png", "\ufffd.png"])
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


def test_a_picture_that_is_cut_off_or_too_large_is_a_line(coda: Coda, monkeypatch: pytest.MonkeyPatch) -> None:
    content = encoded("PNG")
    assert coda("explain", "-", input=content[:900], status=1).error.startswith("stdin: broken or truncated picture")
    monkeypatch.setattr(budget, "PICTURE_FILE", 1000)
    error = coda("explain", "-", input=content, status=1).error
    assert error == "stdin: has more than the 0 MB that are read"
