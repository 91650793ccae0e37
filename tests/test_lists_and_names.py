"""Lists, folders and names of inputs: any name will do, and nothing is taken that was not meant."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from conftest import Coda
from PIL import Image
from program import looked_at, photo, photos, scene, tree

import coda_cli
from coda_cli.checkpoints import class_lists
from coda_cli.errors import UsageError

# ---- lists -----------------------------------------------------------------------------------------------------------


def test_an_empty_source_is_not_this_folder() -> None:
    with pytest.raises(UsageError, match="a source is an empty name"):
        list(coda_cli.explain_many([""], coda_cli.load("cifar10")))


def test_missing_files_and_folders_in_a_list_fail_alone(coda: Coda, tmp_path: Path) -> None:
    photos(tmp_path, "a.png", "folder/b.png")
    listed = ["missing.png", "a.png", "folder", "x" * 300 + ".png", "bad\0name.png"]
    result = looked_at(coda, "-0", "-", input="\0".join(listed[:4]), status=1)
    assert [r["status"] for r in result.records] == ["error", "ok", "error", "error"]
    assert result.errors[:2] == [
        "missing.png: no such file",
        "folder: is a folder; name it as a source, or list its files",
    ]
    assert result.errors[2].startswith("x" * 300 + ".png: ")


def test_a_list_separated_by_nul_without_the_option_is_recognised(coda: Coda, tmp_path: Path) -> None:
    photos(tmp_path, "a.png", "b.png")
    assert looked_at(coda, "-", input="a.png\0b.png\0", status=2).error.endswith("; add -0")
    assert "add -" in coda("explain", "a.png", "--null", status=2).error


def test_an_empty_list_is_no_failure(coda: Coda, tmp_path: Path) -> None:
    for text in ("", "\n\n"):
        result = coda("explain", "-", "--json", input=text)
        assert result.out == ""
        assert result.err == "coda: nothing to explain: the list on stdin is empty\n"
    assert list(tmp_path.iterdir()) == []


def test_a_folder_or_a_pattern_without_pictures_is_refused(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "in/deep/a.png")
    (tmp_path / "in/notes.txt").write_text("no picture")
    (tmp_path / "empty").mkdir()
    assert coda("explain", "in", status=2).error == ("in: no pictures in this folder (-r looks into its sub-folders)")
    assert coda("explain", "empty", "-r", status=2).error == "empty: no pictures in this folder"
    assert coda("explain", "in/*.jpg", status=2).error == "in/*.jpg: the pattern matches no file"
    assert not (tmp_path / "coda-out").exists()


def test_a_scan_leaves_out_what_coda_drew_what_is_hidden_and_the_output_folder(coda: Coda, tmp_path: Path) -> None:
    photos(tmp_path / "in", "a.png", ".hidden.png", ".cache/b.png", "sub/.c.png", "out/mine.png")
    args = ("explain", "in", "-r", "--class", "cat", "--write", "overlay,heatmap,panel,json")
    first = coda(*args, "-o", "in/out", "--json")
    assert [r["source"]["path"] for r in first.records] == ["in/a.png"]
    photo(tmp_path / "in/sub/d.png")
    again = coda(*args, "-o", "in/out", "--json")
    assert [r["source"]["path"] for r in again.records] == ["in/a.png", "in/sub/d.png"]
    elsewhere = coda(*args, "-o", "in/other", "--json")  # now in/out is a folder like others, with coda's pictures
    assert [r["source"]["path"] for r in elsewhere.records] == ["in/a.png", "in/out/mine.png", "in/sub/d.png"]
    beside = coda("explain", "in/*.png", "-o", "in", "--json", "--class", "dog")
    assert [r["source"]["path"] for r in beside.records] == ["in/a.png"]
    within = coda("explain", "in", "-o", "in", "--json", "--class", "dog")
    assert within.out == beside.out


@pytest.mark.parametrize("output", [".", "in", "../elsewhere"])
def test_an_output_folder_around_the_pictures_hides_none(coda: Coda, tmp_path: Path, output: str) -> None:
    photos(tmp_path / "here/in/sub", "a.png", "b.png")
    result = coda("explain", "in/sub", "-o", output, "--json", cwd=tmp_path / "here")
    assert len(result.records) == 2


# ---- names -----------------------------------------------------------------------------------------------------------


NAMES = [
    "Zürich – Bahnhof.png", "写真.png", "två  mellanslag.png", "🦜.png", "100%.png", "{stem}.png",
    "a'b\"c.png", "$HOME.png", "[0-9].png", "line\nbreak.png", "tab\there.png", ":dog:.png", "a\u2028b.png",
    "ends .png", "x" * 246 + ".png", "é" * 123 + ".png", ".hidden.png", "no suffix", "a.b.c.png", "\x1b[31mred.png",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_any_name_will_do(coda: Coda, tmp_path: Path, name: str) -> None:
    (tmp_path / "in").mkdir()
    Image.fromarray(scene()).save(tmp_path / "in" / name, "PNG")
    args = ("--class", "cat", "--write", "overlay,npz,json")
    record = coda("explain", f"in/{name}", "--json", *args).record
    assert record["source"]["path"] == f"in/{name}"
    written = {*record["files"].values(), *record["explained"][0]["files"].values()}
    assert len(written) == 2
    assert written < tree(tmp_path / "coda-out").keys()
    (stored,) = (tmp_path / "coda-out").glob("*.json")
    assert json.loads(stored.read_text(encoding="utf-8")) == record
    again = coda("explain", f"in/{name}", *args)  # found again
    assert "0 explained" not in again.err
    assert "(already there)" in again.err


def test_a_file_that_begins_with_a_hyphen_is_named_after_two_hyphens(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "-c.png")
    assert coda("explain", "--json", "--write", "none", "--", "-c.png").record["source"]["path"] == "-c.png"


def test_long_names_that_begin_alike_get_outputs_of_their_own(coda: Coda, tmp_path: Path) -> None:
    photos(tmp_path / "in", "x" * 240 + "1.png", "x" * 240 + "2.png", "x" * 240 + "1.jpg")
    result = coda("explain", "in", "--class", "cat")
    assert len(tree(tmp_path / "coda-out")) == len(set(result.lines)) == 6


def test_names_that_are_no_utf8_are_explained_and_recorded_readably(coda: Coda, tmp_path: Path) -> None:
    names = [os.fsdecode(b"caf\xe9.png"), os.fsdecode(b"caf\xe8.png")]
    for name in names:
        Image.fromarray(scene()).save(tmp_path / name, "PNG")
    (tmp_path / os.fsdecode(b"bro\xffken.png")).write_text("nothing")
    result = coda("explain", ".", "--json", "-o", "out", status=1)
    assert [r["source"]["path"] for r in result.records] == ["bro\\xffken.png", "caf\\xe8.png", "caf\\xe9.png"]
    assert len(tree(tmp_path / "out")) == 4
    assert len(coda("explain", names[0], "-o", "other").lines) == 2
    assert "2 skipped" in coda("explain", ".", "-o", "out", status=1).err


def test_names_that_differ_in_case_alone_are_one_where_the_disk_says_so(
    coda: Coda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos(tmp_path, "x/Cat.png", "cat.png")
    coda("explain", "x/Cat.png", "cat.png", "--class", "0")
    monkeypatch.setattr(sys, "platform", "darwin")
    said = coda("explain", "x/Cat.png", "cat.png", "--class", "0", "-o", "other", status=2).error
    assert said.startswith("x/Cat.png and cat.png would both be written as")


@pytest.mark.parametrize(
    ("paths", "name"), [(["x/a.png", "y/a.png"], "{parent}-{name}"), (["a.png", "a.jpg"], "{name}")]
)
def test_the_names_that_are_advised_do_tell_the_inputs_apart(
    coda: Coda, tmp_path: Path, paths: list[str], name: str
) -> None:
    photos(tmp_path, *paths)
    said = coda("explain", *paths, "-c", "cat", status=2).error
    advised = said.split("--name ")[1].strip("'")
    assert advised == name + ".{class_slug}.{kind}.{ext}"
    assert len(coda("explain", *paths, "-c", "cat", "--name", advised).lines) == 4


def test_inputs_that_no_name_tells_apart_are_for_two_runs(coda: Coda, tmp_path: Path) -> None:
    photos(tmp_path, "1/x/a.png", "2/x/a.png")
    assert "in two runs, with an --output each" in coda("explain", "1/x/a.png", "2/x/a.png", status=2).error


def test_a_list_of_names_has_a_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "names.txt"
    path.write_text("hen\ntench\n")
    assert class_lists.read_class_names(path) == ("hen", "tench")
    monkeypatch.setattr(class_lists, "MAX_HEADER", 9)
    with pytest.raises(UsageError, match="too large for a list of names; the limit is 9 bytes"):
        class_lists.read_class_names(path)
