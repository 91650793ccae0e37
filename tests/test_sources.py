"""From what a person writes to a list of files: all that was meant, each once, in an order they expect."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coda_cli.errors import ExitCode, UsageError
from coda_cli.media import sources
from coda_cli.media.sources import RECORD_KEY, Item, resolve
from coda_cli.media.stills import write_png


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def make(*names: str) -> None:
    """Pictures under these names; what is in them does not matter here."""
    for name in names:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".png":
            Image.new("RGB", (1, 1)).save(path)
        else:
            path.write_bytes(b"as good as a picture")


def drawn_by_coda(name: str) -> None:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    write_png(Path(name), np.zeros((1, 1, 3), np.uint8), {RECORD_KEY: "{}"})


def names(items: list[Item]) -> list[str]:
    return [item.path.as_posix() for item in items]


def refusal(*given: str, recursive: bool = False, leave_out: Path | None = None) -> str:
    with pytest.raises(UsageError) as caught:
        resolve(given, recursive=recursive, leave_out=leave_out)
    assert caught.value.exit_code == ExitCode.USAGE
    message = str(caught.value)
    assert "\n" not in message
    return message


# ---- files and folders -----------------------------------------------------------------------------------------------


def test_files_come_in_the_order_given() -> None:
    make("b.jpg", "a.jpg", "c.png")
    assert resolve(["b.jpg", "c.png", "a.jpg"]) == [Item(Path("b.jpg")), Item(Path("c.png")), Item(Path("a.jpg"))]


def test_a_file_named_outright_may_have_any_suffix() -> None:
    make("picture.dat", "picture")
    assert names(resolve(["picture.dat", "picture"])) == ["picture.dat", "picture"]


def test_every_file_comes_once_at_its_first_place_however_it_is_written(tmp_path: Path) -> None:
    make("p/a.jpg", "p/b.jpg", "c.jpg")
    Path("link.jpg").symlink_to("p/b.jpg")
    given = ["p/b.jpg", "c.jpg", "p", "./p/a.jpg", str(tmp_path / "c.jpg"), "p/*.jpg", "link.jpg"]
    assert names(resolve(given, listed=["p/../c.jpg"])) == ["p/b.jpg", "c.jpg", "p/a.jpg"]


def test_of_a_folder_the_pictures_are_taken_and_nothing_else() -> None:
    make("p/a.jpg", "p/b.JPEG", "p/c.png", "p/d.webp", "p/e.avif", "p/notes.txt", "p/film.mp4", "p/sub/f.jpg")
    Path("p/folder.jpg").mkdir()
    assert names(resolve(["p"])) == ["p/a.jpg", "p/b.JPEG", "p/c.png", "p/d.webp", "p/e.avif"]


def test_numbers_in_names_are_ordered_as_numbers_and_letters_without_case() -> None:
    there = ("img10", "img9", "IMG2", "a", "img1b", "img1", "2", "10", "B", "img007")
    make(*(f"p/{name}.jpg" for name in there))
    expected = ["2", "10", "a", "B", "img1", "img1b", "IMG2", "img007", "img9", "img10"]
    assert [item.path.stem for item in resolve(["p"])] == expected


def test_an_alphabetic_order_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "natural", str)
    with pytest.raises(AssertionError):
        test_numbers_in_names_are_ordered_as_numbers_and_letters_without_case()


def test_digits_of_any_script_do_not_stop_a_scan() -> None:
    make("p/1²3.jpg", "p/٣.jpg", "p/①.jpg", "p/x½.jpg")
    assert len(resolve(["p"])) == 4


def test_sub_folders_are_looked_into_only_when_asked_and_their_place_is_kept() -> None:
    make("p/b.jpg", "p/a/2.jpg", "p/a/10.jpg", "p/a/deep/x.jpg")
    assert names(resolve(["p"])) == ["p/b.jpg"]
    items = resolve(["p"], recursive=True)
    assert names(items) == ["p/a/2.jpg", "p/a/10.jpg", "p/a/deep/x.jpg", "p/b.jpg"]
    assert [item.subfolder.as_posix() for item in items] == ["a", "a", "a/deep", "."]
    assert resolve(["p/**"]) == items
    Path("p/a/notes.txt").write_text("no picture")
    assert resolve(["p/**"]) == items


def test_the_current_folder_is_a_folder_like_others() -> None:
    make("b.jpg", "sub/a.jpg")
    assert resolve(["."]) == [Item(Path("b.jpg"))]
    assert resolve(["."], recursive=True) == [Item(Path("b.jpg")), Item(Path("sub/a.jpg"), Path("sub"))]


def test_hidden_files_and_folders_are_left_alone_unless_named() -> None:
    make("p/.hidden.jpg", "p/.cache/a.jpg", "p/b.jpg", ".pictures/c.jpg")
    assert names(resolve(["p"], recursive=True)) == ["p/b.jpg"]
    assert names(resolve([".pictures", "p/.hidden.jpg"])) == [".pictures/c.jpg", "p/.hidden.jpg"]


# ---- what coda wrote itself ------------------------------------------------------------------------------------------


def test_pictures_that_coda_drew_are_skipped_in_folders_and_patterns() -> None:
    make("p/a.png", "p/b.png")
    drawn_by_coda("p/a.cat.overlay.png")
    drawn_by_coda("p/sub/c.PNG")
    assert names(resolve(["p"], recursive=True)) == ["p/a.png", "p/b.png"]
    assert names(resolve(["p/*.png"])) == ["p/a.png", "p/b.png"]


def test_a_picture_that_coda_drew_is_taken_when_it_is_named_or_listed() -> None:
    drawn_by_coda("a.png")
    drawn_by_coda("b.png")
    assert names(resolve(["a.png"], listed=["b.png"])) == ["a.png", "b.png"]


def test_a_folder_of_nothing_but_own_pictures_holds_no_pictures() -> None:
    drawn_by_coda("out/a.png")
    assert "no pictures in this folder" in refusal("out")


def test_a_scan_that_takes_own_pictures_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "RECORD_KEY", "another key")
    with pytest.raises(AssertionError):
        test_pictures_that_coda_drew_are_skipped_in_folders_and_patterns()


def test_broken_png_files_are_pictures_whose_failure_is_reported_later() -> None:
    make("p/a.png")
    Path("p/b.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    assert names(resolve(["p"])) == ["p/a.png", "p/b.png"]


def test_an_output_folder_inside_the_source_is_not_scanned() -> None:
    make("p/a.jpg", "p/out/b.jpg", "p/out/deep/c.jpg", "p/outer/d.jpg")
    found = names(resolve(["p"], recursive=True, leave_out=Path("p/out")))
    assert found == ["p/a.jpg", "p/outer/d.jpg"]
    assert len(resolve(["p"], recursive=True)) == 4


def test_an_output_folder_that_is_the_source_itself_is_scanned() -> None:
    make("p/a.jpg", "p/sub/b.jpg")
    drawn_by_coda("p/a.cat.overlay.png")
    assert names(resolve(["p"], leave_out=Path("p"))) == ["p/a.jpg"]
    assert names(resolve(["p"], recursive=True, leave_out=Path("p/../p"))) == ["p/a.jpg", "p/sub/b.jpg"]


@pytest.mark.parametrize("output", [".", "..", "p"])
def test_an_output_folder_around_the_source_leaves_nothing_out(output: str) -> None:
    make("p/sub/a.jpg", "p/sub/deep/b.jpg")
    found = names(resolve(["p/sub"], recursive=True, leave_out=Path(output)))
    assert found == ["p/sub/a.jpg", "p/sub/deep/b.jpg"]


def test_an_output_folder_that_does_not_exist_yet_leaves_nothing_out() -> None:
    make("p/a.jpg")
    assert names(resolve(["p"], leave_out=Path("p/new"))) == ["p/a.jpg"]


# ---- patterns and lists ----------------------------------------------------------------------------------------------


def test_patterns_are_expanded_in_natural_order() -> None:
    make("p/img10.jpg", "p/img2.jpg", "p/img3.png", "p/other.jpg", "p/sub/img1.jpg")
    assert names(resolve(["p/img*"])) == ["p/img2.jpg", "p/img3.png", "p/img10.jpg"]
    assert names(resolve(["p/img?.jpg"])) == ["p/img2.jpg"]
    assert names(resolve(["p/img[0-3]*"])) == ["p/img2.jpg", "p/img3.png", "p/img10.jpg"]
    assert names(resolve(["p/**/img*.jpg"])) == ["p/img2.jpg", "p/img10.jpg", "p/sub/img1.jpg"]
    assert names(resolve(["*/img2.jpg", "p/o*"])) == ["p/img2.jpg", "p/other.jpg"]


def test_a_file_whose_name_looks_like_a_pattern_is_that_file() -> None:
    make("img[1].jpg", "img1.jpg")
    assert names(resolve(["img[1].jpg"])) == ["img[1].jpg"]


def test_a_pattern_takes_no_folders() -> None:
    make("p/a.jpg", "q.jpg/b.jpg")
    assert refusal("q.*") == "q.*: the pattern matches no file"


def test_listed_paths_are_taken_as_they_are_after_the_sources() -> None:
    make("a.jpg", "b [1].jpg", "p/c.jpg")
    listed = ["b [1].jpg", "missing.jpg", "p", "*.jpg", "a.jpg"]
    assert names(resolve(["a.jpg"], listed=listed)) == ["a.jpg", "b [1].jpg", "missing.jpg", "p", "*.jpg"]


def test_nothing_given_is_nothing() -> None:
    assert resolve([]) == []


# ---- errors ----------------------------------------------------------------------------------------------------------


def test_a_source_that_does_not_exist_is_refused_with_the_nearest_name() -> None:
    make("photos/holiday.jpg", "photos/work.jpg")
    assert refusal("photos/holday.jpg") == (
        f"photos/holday.jpg: no such file or folder; did you mean photos{os.sep}holiday.jpg?"
    )
    assert refusal("photo") == "photo: no such file or folder; did you mean photos?"
    assert refusal("photos/xyz") == "photos/xyz: no such file or folder"
    assert refusal("nowhere/xyz.jpg") == "nowhere/xyz.jpg: no such file or folder"


def test_a_folder_without_pictures_is_refused_and_told_about_its_sub_folders() -> None:
    make("p/sub/a.jpg", "p/notes.txt")
    Path("empty").mkdir()
    assert refusal("p") == "p: no pictures in this folder (-r looks into its sub-folders)"
    assert refusal("empty", recursive=True) == "empty: no pictures in this folder"


def test_one_bad_source_refuses_the_whole_request() -> None:
    make("a.jpg")
    assert "missing.jpg" in refusal("a.jpg", "missing.jpg")
    assert refusal("a.jpg", "x*.jpg") == "x*.jpg: the pattern matches no file"
