"""Names of results, and what happens to files that are there: a template names them, a policy says which stay."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Coda
from foreign import authors_state
from program import names_of, photo, photos, tree, woollen

from coda_cli.checkpoints.manifest import Checkpoint, Preprocessing
from coda_cli.errors import MediaError
from coda_cli.explanation import files, writer
from coda_cli.machine import budget
from coda_cli.schema.pictures import from_json

# ---- names -----------------------------------------------------------------------------------------------------------


def test_a_template_names_the_files(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "holiday" / "My Cat.jpeg")
    template = "{parent}+{stem}+{name}+{suffix}+{class}+{class_slug}+{index}+{model}+{kind}.{ext}"
    result = coda("explain", "holiday/My Cat.jpeg", "--class", "3", "--name", template, "--write", "overlay")
    assert result.lines == ["coda-out/holiday+My Cat+My Cat.jpeg+jpeg+cat+cat+3+cifar10+overlay.png"]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{stem}.{colour}.{kind}.{ext}", "no field {colour}; there are {stem}, {name}, {suffix}"),
        ("{class_slug}.{kind}.{ext}", "needs {stem} or {name}"),
        ("{stem}.{ext}", "needs {kind}"),
        ("{stem}.{kind}", "ends in .{ext}"),
        ("{stem}.{ext}.{kind}", "ends in .{ext}"),
        ("{stem.{kind}.{ext}", "--name"),
        ("{}.{stem}.{kind}.{ext}", "no field {}"),
        ("{stem}.{index:03d}.{kind}.{ext}", "--name"),
        ("{stem:{foo}}.{kind}.{ext}", "--name"),
        ("{class}/{stem}.{kind}.{ext}", "--output"),
        ("/{stem}.{kind}.{ext}", "--output"),
        ("z" * 300 + "{stem}.{kind}.{ext}", "too long"),
    ],
)
def test_a_template_that_cannot_work_is_refused(coda: Coda, tmp_path: Path, template: str, message: str) -> None:
    photo(tmp_path / "a.png")
    result = coda("explain", "a.png", "--name", template, status=2)
    assert message in result.error
    assert result.out == ""
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == ["a.png"]


@pytest.mark.parametrize("classes", [("0", "1"), ("top:2",), ("all",)])
def test_a_template_without_the_class_is_refused_for_several_classes(
    coda: Coda, tmp_path: Path, classes: tuple[str, ...]
) -> None:
    photo(tmp_path / "a.png")
    args = [word for c in classes for word in ("--class", c)]
    result = coda("explain", "a.png", *args, "--name", "{stem}.{kind}.{ext}", status=2)
    assert "{class_slug}" in result.error
    assert not (tmp_path / "coda-out").exists()


def test_names_that_differ_only_in_their_separators_do_not_collide(coda: Coda, tmp_path: Path) -> None:
    photos(tmp_path / "in", "a_b.png", "a__b.png", "_a.png", "a.png", "a-.png", "a..png")
    result = coda("explain", "in", "--class", "0")
    assert len(set(result.lines)) == 12
    assert len(tree(tmp_path / "coda-out")) == 12


def test_the_record_is_found_again_under_every_template(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    for i, template in enumerate(("{class}_{index}-{stem}.{kind}.{ext}", "{kind}.{name}.{class_slug}.{ext}")):
        args = ("explain", "a.png", "--name", template, "-o", f"out{i}")
        written = coda(*args).lines
        assert coda(*args).lines == written
        assert len(tree(tmp_path / f"out{i}")) == len(written) == 2


def test_classes_of_one_file_name_are_told_apart_by_their_index(coda: Coda, tmp_path: Path) -> None:
    woollen(tmp_path / "net.safetensors")
    photo(tmp_path / "a.png")
    record = coda("explain", "a.png", "-m", "net.safetensors", "--class", "all", "--json").record
    names = [part["files"]["overlay"] for part in record["explained"]]
    assert sorted(names) == ["a.cardigan-1.overlay.png", "a.cardigan.overlay.png"]
    assert all((tmp_path / "coda-out" / name).exists() for name in names)


# ---- what is there already -------------------------------------------------------------------------------------------


def test_running_again_skips_what_is_there_and_touches_nothing(coda: Coda, tmp_path: Path) -> None:
    photos(tmp_path / "in", "a.png", "b.png")
    first = coda("explain", "in", "--json", "--write", "overlay,npz,json")

    def state() -> dict[str, tuple[int, int, int]]:  # not the time of the last look
        stats = {p.name: p.stat() for p in (tmp_path / "coda-out").iterdir()}
        return {name: (s.st_ino, s.st_mtime_ns, s.st_size) for name, s in stats.items()}

    before = state()
    again = coda("explain", "in", "--json", "--write", "overlay,npz,json")
    assert again.out == first.out
    assert "coda: 0 explained, 2 skipped in" in again.err
    assert state() == before
    there = coda("explain", "in", "--write", "overlay,npz,json").lines  # as if they had been written now
    files = [
        [r["explained"][0]["files"]["overlay"], r["files"]["npz"], f"{name}.coda.json"]
        for name, r in zip("ab", first.records, strict=True)
    ]
    assert there == [f"coda-out/{file}" for group in files for file in group]


def test_results_of_another_picture_are_not_replaced_by_default(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    coda("explain", "a.png", "--class", "cat")
    before = tree(tmp_path / "coda-out")
    photo(tmp_path / "a.png", seed=9)
    result = coda("explain", "a.png", "--class", "cat", status=1)
    assert result.error.startswith("coda-out/a.coda.json: exists from another picture, or is not coda's; use ")
    assert tree(tmp_path / "coda-out") == before


@pytest.mark.parametrize(
    ("change", "same_overlay"),
    [
        (("--class", "dog"), False),
        (("--class", "cat", "--alpha", "0.1"), True),
        (("--class", "cat", "--precision", "bfloat16"), True),
        (("--class", "cat", "--style", "colour"), True),
        (("--class", "cat", "-m", "cifar10-bcos"), True),
    ],
)
def test_results_of_other_settings_live_side_by_side(
    coda: Coda, tmp_path: Path, change: tuple[str, ...], same_overlay: bool
) -> None:
    photo(tmp_path / "a.png")
    kinds = ("--write", "overlay,npz,json")
    coda("explain", "a.png", "--class", "cat", *kinds)
    before = tree(tmp_path / "coda-out")
    overlay, arrays, record = coda("explain", "a.png", *change, *kinds).lines
    after = tree(tmp_path / "coda-out")
    assert before.items() <= after.items()
    assert {f"coda-out/{name}" for name in after.keys() - before.keys()} == {overlay, arrays, record}
    mark = re.fullmatch(r"coda-out/a\.([0-9a-f]{8})\.coda\.json", record)
    assert mark
    assert arrays == f"coda-out/a.{mark[1]}.coda.npz"
    assert overlay == (f"coda-out/a.cat.{mark[1]}.overlay.png" if same_overlay else "coda-out/a.dog.overlay.png")
    named = from_json((tmp_path / record).read_text())
    assert [named.explained[0].files["overlay"], named.files["npz"]] == [Path(p).name for p in (overlay, arrays)]
    # Both are found again, and a third has a name of its own.
    assert "already there" in coda("explain", "a.png", *change, *kinds).err
    assert "already there" in coda("explain", "a.png", "--class", "cat", *kinds).err
    assert tree(tmp_path / "coda-out") == after
    coda("explain", "a.png", "--class", "ship", *kinds)
    assert len(tree(tmp_path / "coda-out")) == 9


def test_error_refuses_even_the_same(coda: Coda, tmp_path: Path) -> None:
    photos(tmp_path, "a.png", "b.png")
    coda("explain", "a.png")
    before = tree(tmp_path / "coda-out")
    result = coda("explain", "a.png", "b.png", "--if-exists", "error", status=1)
    assert result.error.startswith("coda-out/a.coda.json: exists; use --if-exists")
    assert before.items() <= tree(tmp_path / "coda-out").items()
    assert (tmp_path / "coda-out/b.coda.json").exists()


def test_skip_leaves_whatever_is_there(coda: Coda, tmp_path: Path) -> None:
    photos(tmp_path, "a.png", "b.png")
    coda("explain", "a.png", "--class", "cat")
    (tmp_path / "coda-out/b.coda.json").write_text("mine")
    before = tree(tmp_path / "coda-out")
    result = coda("explain", "a.png", "b.png", "--class", "dog", "--if-exists", "skip", "--json")
    assert names_of(result) == ["a.png"]
    assert "0 explained, 2 skipped" in result.err
    assert tree(tmp_path / "coda-out") == before


def test_skip_without_a_record_leaves_single_files(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    out = tmp_path / "coda-out"
    out.mkdir()
    (out / "a.cat.overlay.png").write_text("mine")
    result = coda("explain", "a.png", "--class", "cat", "--if-exists", "skip", "--write", "overlay,heatmap")
    assert result.lines == ["coda-out/a.cat.heatmap.png"]
    assert (out / "a.cat.overlay.png").read_text() == "mine"


def test_a_description_that_changed_is_another_network(coda: Coda, tmp_path: Path) -> None:
    """Of bare weights the file beside them decides, and the sha256 is of the weights alone."""
    arguments = {
        "channels": [6, 4, 2],
        "kernels": [3, 1],
        "strides": [2, 1],
        "ranks": [3, 3],
        "norm": "SQ",
        "temperature": 1.0,
    }
    torch.save(authors_state(arguments), tmp_path / "bare.pkl")
    photo(tmp_path / "a.png")
    for temperature in (1.0, 1.0, 2.0):
        checkpoint = Checkpoint(
            name="bare",
            architecture="coda_net",
            classes=("a", "b"),
            arguments={**arguments, "temperature": temperature},
            preprocessing=Preprocessing(resize=16, crop=16),
        )
        (tmp_path / "bare.pkl.json").write_text(checkpoint.model_dump_json())
        result = coda("explain", "a.png", "-m", "bare.pkl")
    assert "(already there)" not in result.err
    assert len(result.lines) == 2  # beside the results of the other


@pytest.mark.parametrize("option", ["--force", "--if-exists=overwrite"])
def test_overwrite_replaces(coda: Coda, tmp_path: Path, option: str) -> None:
    photo(tmp_path / "a.png")
    coda("explain", "a.png", "--class", "cat")
    before = tree(tmp_path / "coda-out")
    result = coda("explain", "a.png", "--class", "cat", "--alpha", "0.1", option)
    after = tree(tmp_path / "coda-out")
    assert result.lines == ["coda-out/a.cat.overlay.png", "coda-out/a.coda.json"]
    assert sorted(after) == sorted(before)
    assert all(after[name] != before[name] for name in after)


def test_rename_takes_numbered_neighbours(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    for _ in range(3):
        record = coda("explain", "a.png", "--class", "cat", "--if-exists", "rename", "--json").record
    assert sorted(tree(tmp_path / "coda-out")) == [
        "a.cat.overlay-2.png",
        "a.cat.overlay-3.png",
        "a.cat.overlay.png",
        "a.coda-2.json",
        "a.coda-3.json",
        "a.coda.json",
    ]
    assert record["explained"][0]["files"] == {"overlay": "a.cat.overlay-3.png"}


def test_a_run_that_stopped_half_way_is_taken_up_where_it_stopped(coda: Coda, tmp_path: Path) -> None:
    photos(tmp_path / "in", "a.png", "b.png", "c.png")
    args = ("explain", "in", "--class", "cat", "--class", "dog", "--write", "overlay,npz,json")
    coda(*args)
    whole = tree(tmp_path / "coda-out")
    # As if the second picture was being written, and the third not yet begun. The record comes last.
    (tmp_path / "coda-out/b.coda.json").unlink()
    (tmp_path / "coda-out/b.dog.overlay.png").unlink()
    for path in (tmp_path / "coda-out").glob("c.*"):
        path.unlink()
    left = (tmp_path / "coda-out/b.cat.overlay.png").stat().st_ino
    result = coda(*args)
    assert "2 explained, 1 skipped" in result.err
    assert sorted(tree(tmp_path / "coda-out")) == sorted(whole)
    assert (tmp_path / "coda-out/b.cat.overlay.png").stat().st_ino != left
    assert "3 skipped" in coda(*args).err


def test_a_picture_that_was_deleted_is_drawn_again(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    coda("explain", "a.png", "--class", "cat")
    whole = tree(tmp_path / "coda-out")
    (tmp_path / "coda-out/a.cat.overlay.png").unlink()
    assert coda("explain", "a.png", "--class", "cat").lines == ["coda-out/a.cat.overlay.png", "coda-out/a.coda.json"]
    assert sorted(tree(tmp_path / "coda-out")) == sorted(whole)


def test_a_picture_of_somebody_else_is_not_replaced_by_default(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    photo(tmp_path / "coda-out/a.cat.overlay.png", seed=5)
    before = tree(tmp_path / "coda-out")
    result = coda("explain", "a.png", "--class", "cat", status=1)
    assert result.error.startswith("coda-out/a.cat.overlay.png: exists from")
    assert tree(tmp_path / "coda-out") == before


def test_pictures_that_are_replaced_have_no_old_record_beside_them(
    coda: Coda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo(tmp_path / "a.png")
    coda("explain", "a.png")

    def full(*_: object, **__: object) -> None:
        raise MediaError("disk full")

    monkeypatch.setattr(writer, "write_png", full)
    assert coda("explain", "a.png", "--alpha", "0.1", "--force", status=1).error == "a.png: disk full"
    assert not (tmp_path / "coda-out" / "a.coda.json").exists()


@pytest.mark.parametrize("kinds", ["heatmap", "npz", "none"])
def test_a_record_that_is_not_written_anew_is_not_removed(coda: Coda, tmp_path: Path, kinds: str) -> None:
    photo(tmp_path / "a.png")
    coda("explain", "a.png")
    before = (tmp_path / "coda-out" / "a.coda.json").read_bytes()
    coda("explain", "a.png", "--write", kinds, "--force")
    assert (tmp_path / "coda-out" / "a.coda.json").read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"PK\3\4", b"\x93NUMPY\1\0v\0{'descr': '<f4', 'fortran_order': False}"])
def test_a_broken_file_of_the_same_name_is_in_the_way_of_one_picture(
    coda: Coda, tmp_path: Path, content: bytes
) -> None:
    photos(tmp_path, "a.png", "b.png")
    (tmp_path / "coda-out").mkdir()
    (tmp_path / "coda-out" / "a.coda.npz").write_bytes(content)
    result = coda("explain", "a.png", "b.png", "--write", "npz", "--json", status=1)
    assert [r["status"] for r in result.records] == ["error", "ok"]
    assert "a.coda.npz: exists from another picture" in result.error


def test_a_whole_array_of_the_same_name_is_in_the_way(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    (tmp_path / "coda-out").mkdir()
    with (tmp_path / "coda-out" / "a.coda.npz").open("wb") as stream:
        np.save(stream, np.zeros(3))
    assert "a.coda.npz: exists" in coda("explain", "a.png", "--write", "npz", status=1).error


@pytest.mark.parametrize("ending", [".json", ".npz", ".png"])
def test_a_record_of_any_length_is_not_read(
    coda: Coda, tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo(tmp_path / "a.png")
    coda("explain", "a.png", "--write", "overlay,npz,json")
    (path,) = (tmp_path / "coda-out").glob(f"*{ending}")
    assert files.stored_record(path) is not None
    if ending == ".png":
        monkeypatch.setattr(files, "MAX_READ", path.stat().st_size - 1)
    else:
        monkeypatch.setattr(budget, "RECORD_FILE", 100)
    assert files.stored_record(path) is None


@pytest.mark.parametrize("command", ["explain a.png", "compare a.png", "summary run", "merge run", "diff run run",
                                     "rerun run", "train of"])  # fmt: skip
def test_the_name_of_a_file_is_none_of_a_folder(coda: Coda, tmp_path: Path, command: str) -> None:
    photo(tmp_path / "a.png")
    for name in ("cat", "dog"):
        photo(tmp_path / "of" / name / "a.png")
    coda("explain", "a.png", "--write", "json", "-o", "run")
    before = sorted(tmp_path.rglob("*"))
    for name in ("result.PNG", "result.csv"):
        said = coda(*command.split(), "-o", name, status=2).error
        assert said.startswith(f"--output {name}: is the name of a file, and results go into a folder; -o DIR names it")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("command", ["explain", "rerun"])
def test_a_folder_that_is_there_may_have_such_a_name(coda: Coda, tmp_path: Path, command: str) -> None:
    photo(tmp_path / "a.png")
    coda("explain", "a.png", "-o", "run")
    (tmp_path / "of.png").mkdir()
    coda(command, "a.png" if command == "explain" else "run", "-o", "of.png")
    assert len(list((tmp_path / "of.png").iterdir())) == 2
