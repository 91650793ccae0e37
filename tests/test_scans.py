"""What a scan of a folder takes and leaves: links, circles of links, other kinds of files, what coda drew."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import program
import pytest
from PIL import Image

from coda_cli.errors import UsageError
from coda_cli.explanation.clip.files import OWN
from coda_cli.media.sources import resolve
from coda_cli.video.writing import ClipWriter

Coda = Callable[..., program.Result]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def picture(name: str) -> None:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (200, 10, 10)).save(path)


def scanned(folder: str, *, recursive: bool = True, leave_out: str | None = None) -> tuple[list[str], list[str]]:
    """The pictures of a folder, and what is said of the rest."""
    said: list[str] = []
    items = resolve(
        [folder], recursive=recursive, leave_out=Path(leave_out) if leave_out else None, on_left_out=said.append
    )
    return [item.path.as_posix() for item in items], said


def link(name: str, target: str) -> None:
    Path(name).symlink_to(os.path.relpath(target, Path(name).parent), target_is_directory=True)


def test_links_to_folders_are_followed_and_their_pictures_have_a_place() -> None:
    picture("p/a.png")
    picture("elsewhere/b.png")
    link("p/more", "elsewhere")
    assert scanned("p") == (["p/a.png", "p/more/b.png"], [])
    assert [item.subfolder.as_posix() for item in resolve(["p"], recursive=True)] == [".", "more"]
    assert scanned("p", recursive=False) == (["p/a.png"], [])


def test_links_in_a_circle_come_to_an_end() -> None:
    picture("p/a.png")
    picture("p/sub/b.png")
    link("p/sub/up", "p")
    link("p/itself", "p/sub")
    link("p/around", ".")
    Path("p/loop").symlink_to("loop")
    for n in range(20):  # two ways each: all ways together would be a million
        Path(f"deep/{n}").mkdir(parents=True)
    for n in range(19):
        link(f"deep/{n}/one", f"deep/{n + 1}")
        link(f"deep/{n}/two", f"deep/{n + 1}")
    picture("deep/19/c.png")
    link("p/deep", "deep")
    found, said = scanned("p")
    assert found == ["p/a.png", "p/deep/19/c.png", "p/sub/b.png"]
    assert said == ["p: left out 1 link to nothing (loop)"]


def test_a_folder_has_its_own_place_and_not_that_of_a_link_to_it() -> None:
    picture("p/z/a.png")
    link("p/a", "p/z")
    assert scanned("p") == (["p/z/a.png"], [])


def test_a_link_to_the_output_folder_is_not_followed() -> None:
    picture("p/a.png")
    picture("p/out/b.png")
    link("p/again", "p/out")
    assert scanned("p", leave_out="p/out") == (["p/a.png"], [])


def test_what_is_left_out_is_said_in_a_line() -> None:
    picture("p/a.png")
    for name in ("film.mp4", "notes.txt", "more.txt", "README", "a.coda.json", ".hidden.txt"):
        Path("p", name).write_bytes(b"x")
    for n in range(5):
        Path(f"p/gone{n}.png").symlink_to("nothing.png")
    found, said = scanned("p")
    assert found == ["p/a.png"]
    assert said == [
        "p: left out 5 links to nothing (gone0.png, gone1.png, gone2.png, ...), "
        "4 files of other kinds (2 .txt, 1 .mp4, 1 no suffix)"
    ]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with names are POSIX")
def test_a_pipe_with_the_name_of_a_picture_stops_no_scan() -> None:
    picture("p/a.png")
    os.mkfifo("p/b.png")
    assert scanned("p") == (["p/a.png"], ["p: left out 1 file of other kinds (1 .png)"])


def test_a_folder_of_dangling_links_holds_no_pictures_and_says_why() -> None:
    Path("p").mkdir()
    Path("p/a.png").symlink_to("nothing.png")
    said: list[str] = []
    with pytest.raises(UsageError, match="no pictures in this folder"):
        resolve(["p"], on_left_out=said.append)
    assert said == ["p: left out 1 link to nothing (a.png)"]


def test_a_gif_of_a_clip_that_coda_drew_is_known_as_its_own() -> None:
    picture("p/a.png")
    Image.new("P", (8, 8)).save("p/foreign.gif", comment=b"made by somebody")
    with ClipWriter(Path("p/clip.gif"), "gif", comment=OWN) as clip:
        for n in range(3):
            clip.write(np.full((16, 16, 3), 40 * n, np.uint8), n / 10)
    assert scanned("p") == (["p/a.png", "p/foreign.gif"], [])


def test_the_command_says_what_it_leaves_out(coda: Coda, tmp_path: Path) -> None:
    picture("p/a.png")
    Path("p/film.mp4").write_bytes(b"x")
    Path("p/gone.png").symlink_to("nothing.png")
    result = coda("explain", "p", "--write", "none", cwd=tmp_path)
    line = "coda: p: left out 1 link to nothing (gone.png), 1 file of other kinds (1 .mp4)"
    assert line in result.err.splitlines()
    assert line not in coda("explain", "p", "--write", "none", "-q", cwd=tmp_path).err


def test_a_deep_folder_has_its_own_place_before_a_link_to_it_that_lies_nearer() -> None:
    picture("p/b/c/x.png")
    Path("p/a").mkdir()
    link("p/a/link", "p/b/c")
    assert scanned("p") == (["p/b/c/x.png"], [])


def test_nothing_in_the_output_folder_is_looked_at() -> None:
    picture("p/a.png")
    Path("p/out/deep").mkdir(parents=True)
    Path("p/out/deep/b.png").symlink_to("nowhere")
    assert scanned("p", leave_out="p/out") == (["p/a.png"], [])


def test_a_gif_of_a_clip_is_none_of_the_pictures_beside_it(coda: Coda) -> None:
    picture("p/a.png")
    for n in range(2):
        picture(f"frames/{n}.png")
    coda("video", "frames", "--fps", "5", "-o", "p/clip.gif")
    assert scanned("p")[0] == ["p/a.png"]


def test_folders_that_cannot_be_read_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    picture("p/a.png")
    picture("p/locked/b.png")
    honest = Path.iterdir

    def refused(path: Path) -> object:
        if path.name == "locked":
            raise PermissionError(13, "Permission denied")
        return honest(path)

    monkeypatch.setattr(Path, "iterdir", refused)  # for root, every folder can be read
    assert scanned("p") == (["p/a.png"], ["p: left out 1 folder that cannot be read (locked)"])
