"""``coda explain`` as a user meets it: what it takes, what it says, what it writes, and that every number is true."""

from __future__ import annotations

import itertools
import json
import math
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import program
import pytest
import torch
from foreign import authors_state
from PIL import Image
from program import CIFAR10, photo, photos, strict_json, tree, woollen

from coda_cli.checkpoints.manifest import Checkpoint, Preprocessing
from coda_cli.errors import MediaError, UsageError
from coda_cli.explanation import files
from coda_cli.explanation.request import Request
from coda_cli.machine import devices
from coda_cli.render.overlay import margin
from coda_cli.schema.pictures import from_json

Coda = Callable[..., program.Result]
Json = dict[str, Any]


# ---- sources ---------------------------------------------------------------------------------------------------------


def names_of(result: program.Result) -> list[str]:
    """The inputs of a run with --json, in order."""
    return [record["source"]["path"] for record in result.records]


def listing(coda: Coda, *args: str, **more: Any) -> list[str]:
    """Which inputs a command takes, in order; nothing is written."""
    return names_of(coda("explain", *args, "--json", "--write", "none", "-q", **more))


def test_one_file_is_explained_into_the_default_folder(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    result = coda("explain", "a.png", "--class", "cat")
    assert result.lines == ["coda-out/a.cat.overlay.png", "coda-out/a.coda.json"]
    assert sorted(tree(tmp_path / "coda-out")) == ["a.cat.overlay.png", "a.coda.json"]


def test_a_folder_gives_its_own_pictures_in_natural_order(coda: Coda, tmp_path: Path) -> None:
    photos(tmp_path / "in", "img10.png", "img2.PNG", "Img1.jpg", "deep/img3.png")
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    assert listing(coda, "in") == ["in/Img1.jpg", "in/img2.PNG", "in/img10.png"]


def test_names_with_digits_of_other_scripts_are_sorted_too(coda: Coda, tmp_path: Path) -> None:
    photos(tmp_path / "in", "3²4.png", "٣.png", "x½.png")
    assert len(listing(coda, "in")) == 3


def test_recursion_mirrors_the_tree(coda: Coda, tmp_path: Path) -> None:
    photos(tmp_path / "in", "a.png", "one/a.png", "one/two/b.png")
    coda("explain", "in", "-r", "-o", "out", "--class", "0")
    assert [name for name in tree(tmp_path / "out") if name.endswith(".json")] == [
        "a.coda.json",
        "one/a.coda.json",
        "one/two/b.coda.json",
    ]
    record = json.loads((tmp_path / "out" / "one" / "two" / "b.coda.json").read_text())
    assert record["source"]["path"] == "in/one/two/b.png"
    assert record["explained"][0]["files"] == {"overlay": "one/two/b.airplane.overlay.png"}


def test_a_pattern_the_shell_did_not_expand_is_expanded(coda: Coda, tmp_path: Path) -> None:
    photos(tmp_path, "b10.png", "b9.png", "a.jpg", "deep/b1.png")
    assert listing(coda, "b*.png") == ["b9.png", "b10.png"]
    assert listing(coda, "**/b?.png") == ["b9.png", "deep/b1.png"]


def test_a_file_whose_name_looks_like_a_pattern_is_a_file(coda: Coda, tmp_path: Path) -> None:
    photos(tmp_path, "[ab].png", "a.png")
    assert listing(coda, "[ab].png") == ["[ab].png"]


def test_a_list_on_stdin_is_taken_line_by_line(coda: Coda, tmp_path: Path) -> None:
    photos(tmp_path, "b.png", "a b.png", "x\u2028y.png")
    assert listing(coda, "-", input="b.png\n\na b.png\nx\u2028y.png") == ["b.png", "a b.png", "x\u2028y.png"]
    assert listing(coda, "-", input="b.png\r\na b.png\r\n") == ["b.png", "a b.png"]


def test_a_list_on_stdin_separated_by_nul_may_hold_line_breaks(coda: Coda, tmp_path: Path) -> None:
    photos(tmp_path, "b.png", "line\nbreak.png")
    assert listing(coda, "-0", "-", input="line\nbreak.png\0b.png\0") == ["line\nbreak.png", "b.png"]


def test_sources_keep_their_order_and_the_same_file_is_explained_once(coda: Coda, tmp_path: Path) -> None:
    photos(tmp_path, "c.png", "b.png", "a.png")
    (tmp_path / "link.png").symlink_to("b.png")
    taken = listing(coda, "b.png", "-", "c.png", "./b.png", "link.png", "*.png", input="a.png\nb.png\n")
    assert taken == ["b.png", "c.png", "a.png"]


# ---- classes ---------------------------------------------------------------------------------------------------------


def test_classes_are_named_by_name_index_or_beginning_and_keep_their_order(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    args = [word for c in ("Ship", "3", "air", "ship") for word in ("--class", c)]
    result = coda("explain", "a.png", *args)
    assert [Path(line).name for line in result.lines] == [
        "a.ship.overlay.png",
        "a.cat.overlay.png",
        "a.airplane.overlay.png",
        "a.coda.json",
    ]
    record = json.loads((tmp_path / "coda-out/a.coda.json").read_text())
    assert [(e["index"], e["name"]) for e in record["explained"]] == [(8, "ship"), (3, "cat"), (0, "airplane")]


def test_without_a_class_the_predicted_one_is_explained(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    record = coda("explain", "a.png", "--json").record
    assert [e["index"] for e in record["explained"]] == [record["top"][0]["index"]]


def test_top_gives_the_highest_logits_and_all_gives_every_class(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    top = coda("explain", "a.png", "--json", "--write", "none", "--class", "top:4").record
    assert [e["index"] for e in top["explained"]] == [t["index"] for t in top["top"][:4]]
    every = coda("explain", "a.png", "--json", "--write", "none", "--class", "all").record
    assert [e["name"] for e in every["explained"]] == list(CIFAR10)


def test_a_class_that_is_among_the_top_ones_of_some_pictures_is_explained_once_in_each(
    coda: Coda, tmp_path: Path
) -> None:
    photos(tmp_path, *(f"{i}.png" for i in range(6)))
    tops = coda("explain", "*.png", "--json", "--write", "none").records
    common = tops[-1]["top"][0]["index"]
    assert any(common != record["top"][0]["index"] for record in tops), "choose other pictures"
    for args in (["--class", "top:1", "--class", str(common)], ["--class", str(common), "--class", "top:1"]):
        records = coda("explain", "*.png", "--json", "--write", "npz", *args, "-o", args[1]).records
        for record in records:
            wanted = list(dict.fromkeys([record["top"][0]["index"], common]))
            assert [e["index"] for e in record["explained"]] == wanted
            assert len(np.load(tmp_path / args[1] / record["files"]["npz"])["pixels"]) == len(wanted)


def test_versus_explains_the_exact_difference_of_two_logits(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    both = coda("explain", "a.png", "--class", "cat", "--class", "dog", "--write", "npz", "-o", "both", "--json").record
    difference = coda(
        "explain", "a.png", "--class", "cat", "--versus", "dog", "--write", "npz,overlay", "--json"
    ).record
    (explained,) = difference["explained"]
    cat, dog = both["explained"]
    assert (explained["index"], explained["versus"]["index"]) == (3, 5)
    assert explained["probability"] is None
    assert explained["bias"] == 0
    assert math.copysign(1, explained["bias"]) == 1
    assert explained["logit"] == pytest.approx(cat["logit"] - dog["logit"], rel=1e-6)
    maps = np.load("both/a.coda.npz")["pixels"].astype(np.float64)
    contrast = np.load("coda-out/a.coda.npz")["pixels"]
    assert np.abs(contrast[0] - (maps[0] - maps[1])).max() < 1e-5 * np.abs(maps).max()
    assert explained["files"] == {"overlay": "a.cat-vs-dog.overlay.png"}


def test_the_predicted_class_held_against_itself_is_held_against_by_the_runner_up(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    first, second = coda("explain", "a.png", "--json", "--write", "none").record["top"][:2]
    record = coda("explain", "a.png", "--json", "--write", "none", "--versus", first["name"]).record
    assert [(e["index"], e["versus"]["index"]) for e in record["explained"]] == [(second["index"], first["index"])]


# ---- what is written -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kinds", "files"),
    [
        ("overlay", ["a.cat.overlay.png"]),
        ("heatmap", ["a.cat.heatmap.png"]),
        ("panel", ["a.cat.panel.png"]),
        ("npz", ["a.coda.npz"]),
        ("json", ["a.coda.json"]),
        ("overlay, heatmap,json,json", ["a.cat.heatmap.png", "a.cat.overlay.png", "a.coda.json"]),
    ],
)
def test_each_kind_of_output_is_written_alone_and_named_on_stdout(
    coda: Coda, tmp_path: Path, kinds: str, files: list[str]
) -> None:
    photo(tmp_path / "a.png")
    result = coda("explain", "a.png", "--class", "cat", "--write", kinds, "-o", "out/here")
    assert sorted(tree(tmp_path / "out/here")) == files
    assert sorted(result.lines) == [f"out/here/{name}" for name in files]
    for name in files:
        if name.endswith(".png"):
            with Image.open(tmp_path / "out/here" / name) as picture:
                assert min(picture.size) > 200


def test_none_writes_nothing_and_makes_no_folder(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    result = coda("explain", "a.png", "--write", "none")
    assert result.out == ""
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_pictures_of_one_name_are_no_collision_when_nothing_is_written(coda: Coda, tmp_path: Path) -> None:
    photos(tmp_path, "x/a.png", "y/a.png")
    assert listing(coda, "x/a.png", "y/a.png") == ["x/a.png", "y/a.png"]


def test_an_unknown_kind_is_refused_with_the_list(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    result = coda("explain", "a.png", "--write", "overlay,gif", status=2)
    assert result.error == "--write gif: choose from overlay, heatmap, panel, layers, depth, npz, json, or none"


def test_the_arrays_hold_the_numbers_of_the_record(coda: Coda, tmp_path: Path) -> None:
    path = photo(tmp_path / "a.png")
    record = coda("explain", "a.png", "--class", "top:3", "--write", "npz,json", "--json", "--fit", "native").record
    assert record["files"] == {"npz": "a.coda.npz"}
    content = np.load(tmp_path / "coda-out/a.coda.npz")
    contributions, pixels = content["contributions"].astype(np.float64), content["pixels"].astype(np.float64)
    assert contributions.shape == (3, 6, 40, 50)
    assert np.abs(contributions.sum(1) - pixels).max() < 1e-6 * np.abs(contributions).max() * 6
    for k, explained in enumerate(record["explained"]):
        total = contributions[k].sum() + explained["bias"] + explained["residual"]
        assert total == pytest.approx(explained["logit"], abs=1e-9)
        assert content["logits"][explained["index"]] == pytest.approx(explained["logit"], rel=1e-6)
        assert content["weights"][k].tolist() == [float(i == explained["index"]) for i in range(10)]
        assert pixels[k][pixels[k] > 0].sum() == pytest.approx(explained["positive"], rel=1e-12)
    assert content["box"].tolist() == record["view"]["box"]
    assert (content["view"] == np.asarray(Image.open(path))).all()
    assert from_json(str(content["record"])).source.sha256 == record["source"]["sha256"]


@pytest.mark.parametrize("kind", ["overlay", "heatmap", "panel"])
def test_a_picture_carries_the_record_of_its_class(coda: Coda, tmp_path: Path, kind: str) -> None:
    photo(tmp_path / "a.png")
    record = coda("explain", "a.png", "--class", "dog", "--class", "cat", "--write", kind, "--json").record
    for explained in record["explained"]:
        with Image.open(tmp_path / "coda-out" / explained["files"][kind]) as picture:
            carried = strict_json(picture.info["coda"])
        assert from_json(json.dumps(carried)).explained[0].index == explained["index"]
        assert carried == record | {"explained": [explained | {"files": {}}], "files": {}}


def test_json_on_stdout_is_the_record_that_is_written(coda: Coda, tmp_path: Path) -> None:
    photos(tmp_path / "in", "a.png", "b.png")
    result = coda("explain", "in", "--json")
    for line, name in zip(result.lines, ("a", "b"), strict=True):
        assert (tmp_path / f"coda-out/{name}.coda.json").read_text(encoding="utf-8") == line + "\n"


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


def test_a_picture_at_its_own_size_is_warned_of_where_logits_are_sums(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    assert "grow with its area" in coda("explain", "a.png", "--fit", "native").err
    assert "grow with its area" in coda("compare", "a.png", "--fit", "native", "--method", "ours").err
    assert "grow with its area" not in coda("explain", "a.png", "--fit", "pad", "-o", "p").err
    assert "grow with its area" not in coda("explain", "a.png", "--fit", "native", "-m", "cifar10-bcos", "-o", "b").err


def test_one_class_may_stand_alone_in_a_request() -> None:
    assert Request("cat").classes == ("cat",)  # type: ignore[arg-type]


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


@pytest.mark.parametrize("change", ["settings", "picture"])
def test_results_of_other_settings_or_another_picture_are_not_replaced_by_default(
    coda: Coda, tmp_path: Path, change: str
) -> None:
    photo(tmp_path / "a.png")
    coda("explain", "a.png", "--class", "cat")
    before = tree(tmp_path / "coda-out")
    if change == "picture":
        photo(tmp_path / "a.png", seed=9)
    result = coda("explain", "a.png", "--class", "dog" if change == "settings" else "cat", status=1)
    assert result.error.startswith("coda-out/a.coda.json: exists from another picture, network or settings; use ")
    assert tree(tmp_path / "coda-out") == before


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
    for temperature, status in ((1.0, 0), (1.0, 0), (2.0, 1)):
        checkpoint = Checkpoint(
            name="bare",
            architecture="coda_net",
            classes=("a", "b"),
            arguments={**arguments, "temperature": temperature},
            preprocessing=Preprocessing(resize=16, crop=16),
        )
        (tmp_path / "bare.pkl.json").write_text(checkpoint.model_dump_json())
        result = coda("explain", "a.png", "-m", "bare.pkl", status=status)
    assert "exists from another picture, network or settings" in result.error


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


# ---- the view --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fit", "size", "box"),
    [
        ("crop", (32, 32), [5, 0, 45, 40]),
        ("pad", (32, 26), [0, 0, 50, 40]),
        ("native", (50, 40), [0, 0, 50, 40]),
    ],
)
def test_the_record_says_what_the_network_saw(
    coda: Coda, tmp_path: Path, fit: str, size: tuple[int, int], box: list[float]
) -> None:
    photo(tmp_path / "a.png", 50, 40)
    record = coda("explain", "a.png", "--fit", fit, "--json", "--write", "npz,overlay").record
    assert (record["source"]["width"], record["source"]["height"]) == (50, 40)
    assert record["view"] == {"fit": fit, "width": size[0], "height": size[1], "box": box}
    assert np.load(tmp_path / "coda-out/a.coda.npz")["pixels"].shape == (1, size[1], size[0])


def test_the_crop_of_a_tall_picture_is_its_middle(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png", 64, 160)
    record = coda("explain", "a.png", "--json", "--write", "none").record
    assert record["view"]["box"] == [0, 48, 64, 112]


def test_pictures_of_mixed_sizes_share_a_run_and_keep_their_order(coda: Coda, tmp_path: Path) -> None:
    sizes = [(30, 20), (30, 20), (20, 30), (30, 20), (1, 1), (45, 45), (20, 30)]
    for i, (width, height) in enumerate(sizes):
        photo(tmp_path / f"in/{i}.png", width, height, seed=i)
    args = ("--class", "0", "--fit", "native", "--json", "--write", "none")
    together = coda("explain", "in", *args).records
    assert names_of(coda("explain", "in", *args)) == [f"in/{i}.png" for i in range(len(sizes))]
    assert [(r["view"]["width"], r["view"]["height"]) for r in together] == sizes
    for i in (2, 3):
        alone = coda("explain", f"in/{i}.png", *args).record
        assert alone["explained"][0]["logit"] == pytest.approx(together[i]["explained"][0]["logit"], abs=1e-4)


def test_the_batch_size_changes_no_number(coda: Coda, tmp_path: Path) -> None:
    photos(tmp_path / "in", *(f"{i}.png" for i in range(5)))
    args = ("explain", "in", "--class", "top:2", "--json", "--write", "none", "--batch-size")
    one, *others = (coda(*args, size).records for size in ("1", "3", "64", "auto"))
    for records in others:
        for a, b in zip(one, records, strict=True):
            assert [e["index"] for e in a["explained"]] == [e["index"] for e in b["explained"]]
            for x, y in zip(a["explained"], b["explained"], strict=True):
                size = 1e-5 * (x["positive"] - x["negative"])
                for key in ("logit", "positive", "negative"):
                    assert x[key] == pytest.approx(y[key], abs=size)


# ---- drawing ---------------------------------------------------------------------------------------------------------


def test_the_scale_of_a_picture_is_the_percentile_of_its_own_contributions(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    for percentile, extra in ((99.5, ()), (50.0, ("--percentile", "50")), (100.0, ("--percentile", "100"))):
        args = ("--class", "all", "--json", "--write", "npz", "--force")
        record = coda("explain", "a.png", *args, *extra).record
        maps = np.load(tmp_path / "coda-out/a.coda.npz")["pixels"]
        for explained, values in zip(record["explained"], maps, strict=True):
            assert explained["scale"] == pytest.approx(np.percentile(np.abs(values), percentile), rel=1e-6)


def test_the_scale_of_a_run_is_one_number_for_all_its_pictures(coda: Coda, tmp_path: Path) -> None:
    photos(tmp_path / "in", *(f"{i}.png" for i in range(4)))
    (tmp_path / "in" / "broken.png").write_text("nothing")
    args = ("explain", "in", "--scale", "run", "--json", "--write", "npz,overlay,json", "--class", "cat")
    records = [r for r in coda(*args, status=1).records if r["status"] == "ok"]
    scales = {e["scale"] for r in records for e in r["explained"]}
    assert len(records) == 4
    assert len(scales) == 1
    maps = np.concatenate([np.load(tmp_path / "coda-out" / r["files"]["npz"])["pixels"].ravel() for r in records])
    assert scales.pop() == pytest.approx(np.percentile(np.abs(maps), 99.5), rel=0.02)
    assert "4 skipped" in coda(*args, status=1).err


def test_a_scale_that_is_given_is_taken_and_recorded(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    record = coda("explain", "a.png", "--scale", "0.125", "--class", "all", "--json", "--write", "none").record
    assert {e["scale"] for e in record["explained"]} == {0.125}


@pytest.mark.parametrize("scale", ["0", "-1", "nan", "inf", "1e999", "picture", ""])
def test_a_scale_that_is_none_is_refused(coda: Coda, tmp_path: Path, scale: str) -> None:
    photo(tmp_path / "a.png")
    result = coda("explain", "a.png", f"--scale={scale}", status=2)
    assert result.error == f"--scale {scale}: expected image, run or a positive number of logit units"


def test_alpha_is_the_opacity_of_full_colour(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png", 400, 330)

    def colourfulness(alpha: str) -> int:
        coda("explain", "a.png", "--alpha", alpha, "--class", "0", "--write", "overlay", "-o", f"alpha{alpha}")
        drawn = np.asarray(Image.open(tmp_path / f"alpha{alpha}" / "a.airplane.overlay.png")).astype(int)
        edge = margin(np.zeros((330, 400, 3), np.uint8))
        inside = drawn[edge : edge + 330, edge : edge + 400]
        return int((inside.max(2) - inside.min(2)).max())

    assert colourfulness("0") == 0
    assert 0 < colourfulness("0.4") < colourfulness("1")


# ---- every number in every record ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tour:
    """Runs with all kinds of options over the same pictures, and the schema they are held to."""

    folder: Path
    records: dict[str, list[Json]]
    schema: Json

    @property
    def explained(self) -> list[tuple[str, Json, Json]]:
        """(run, record, explained class) of everything."""
        return [(name, r, e) for name, records in self.records.items() for r in records for e in r["explained"]]


TOUR = {
    "default": (),
    "all": ("--class", "all"),
    "difference": ("--class", "all", "--versus", "dog"),
    "native": ("--fit", "native", "--class", "top:3"),
    "pad": ("--fit", "pad", "--class", "0"),
    "run": ("--scale", "run", "--class", "cat"),
    "float64": ("--precision", "float64", "--class", "top:2"),
    "bfloat16": ("--precision", "bfloat16", "--class", "top:2"),
}
RELATIVE = {"float32": 1e-5, "float64": 1e-10, "bfloat16": 5e-2}  # the tolerances that the help states


@pytest.fixture(scope="module")
def tour(tmp_path_factory: pytest.TempPathFactory) -> Tour:
    folder = tmp_path_factory.mktemp("tour")
    for i, (width, height) in enumerate([(50, 40), (33, 70), (32, 32), (3, 90)]):
        photo(folder / "in" / f"{i}.png", width, height, seed=i)
    records = {
        name: program.run("explain", "in", "--json", "--write", "overlay,json", "-o", name, *args, cwd=folder).records
        for name, args in TOUR.items()
    }
    return Tour(folder, records, strict_json(program.run("schema").out))


def test_every_record_is_valid_by_the_published_schema(tour: Tour) -> None:
    jsonschema.Draft202012Validator.check_schema(tour.schema)
    validator = jsonschema.Draft202012Validator(tour.schema)
    for name, records in tour.records.items():
        assert len(records) == 4
        for record in records:
            validator.validate(record)
            assert (record["schema"], record["schema_version"]) == ("coda.record", 1), name


def test_the_schema_refuses_what_is_no_record(tour: Tour) -> None:
    validator = jsonschema.Draft202012Validator(tour.schema)
    record = tour.records["default"][0]
    for wrong in ({**record, "explained": 3}, {**record, "surprise": 1}, {**record, "schema": "other"}, {}):
        with pytest.raises(jsonschema.ValidationError):
            validator.validate(wrong)


def test_every_logit_is_the_sum_of_its_parts(tour: Tour) -> None:
    for name, record, e in tour.explained:
        # The sum of |contributions| and |bias|, which rounding is relative to; the maps are kept in float32.
        size = e["tolerance"] / RELATIVE[record["precision"]]
        assert e["positive"] >= 0 >= e["negative"]
        assert e["positive"] - e["negative"] <= size * 1.000001
        total = e["positive"] + e["negative"] + e["bias"] + e["residual"]
        assert e["logit"] == pytest.approx(total, abs=1e-6 * size), name


def test_every_residual_is_within_its_tolerance_and_said_to_be(tour: Tour) -> None:
    for name, _, e in tour.explained:
        assert abs(e["residual"]) <= e["tolerance"], name
        assert e["exact"] is True


def test_every_grid_adds_up(tour: Tour) -> None:
    for name, _, e in tour.explained:
        grid = np.array(e["evidence"]["grid"])
        assert grid.shape == (3, 3)
        size = e["positive"] - e["negative"]
        assert grid.sum() == pytest.approx(e["positive"] + e["negative"], abs=1e-12 * size), name


def test_all_evidence_lies_inside_the_view_in_pixels_of_the_original(tour: Tour) -> None:
    seen = 0
    for name, record, e in tour.explained:
        x0, y0, x1, y1 = record["view"]["box"]
        evidence, pixels = e["evidence"], record["view"]["width"] * record["view"]["height"]
        if e["positive"] == 0:  # nothing speaks for the class
            assert (evidence["centroid"], evidence["half_share"], evidence["regions"]) == (None, None, []), name
            continue
        seen += 1
        x, y = evidence["centroid"]
        assert x0 < x < x1, name
        assert y0 < y < y1, name
        assert 0 < evidence["half_share"] <= 0.5
        assert 1 <= len(evidence["regions"]) <= 5
        assert sum(r["view_pixels"] for r in evidence["regions"]) <= round(evidence["half_share"] * pixels)
        shares = [r["share"] for r in evidence["regions"]]
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) <= 0.5 + max(shares)
        for region in evidence["regions"]:
            left, top, right, bottom = region["box"]
            assert x0 <= left < right <= x1, name
            assert y0 <= top < bottom <= y1, name
            area = (right - left) / (x1 - x0) * (bottom - top) / (y1 - y0) * pixels
            assert 1 <= region["view_pixels"] <= round(area)
    assert seen > len(tour.records) * 2


def test_every_probability_is_the_sigmoid_of_its_logit(tour: Tour) -> None:
    for name, record, e in tour.explained:
        for scored in [*record["top"], *([e] if e["versus"] is None else [])]:
            assert scored["probability"] == pytest.approx(1 / (1 + math.exp(-scored["logit"])), rel=1e-12), name
        if e["versus"] is not None:
            assert e["probability"] is None


def test_the_top_classes_are_sorted_and_agree_with_what_is_explained(tour: Tour) -> None:
    for name, record, e in tour.explained:
        top = record["top"]
        assert len({t["index"] for t in top}) == 5
        assert [t["logit"] for t in top] == sorted((t["logit"] for t in top), reverse=True)
        assert all(t["name"] == CIFAR10[t["index"]] for t in [*top, e])
        logits = {t["index"]: t["logit"] for t in top}
        if e["versus"] is None and e["index"] in logits:
            assert e["logit"] == pytest.approx(logits[e["index"]], rel=1e-12), name
        if e["versus"] is None:
            assert e["logit"] <= top[0]["logit"]


def test_paths_are_relative_with_slashes_and_name_files_that_are_there(tour: Tour) -> None:
    for name, record, e in tour.explained:
        assert record["source"]["path"].startswith("in/")
        assert e["files"].keys() == {"overlay"}
        for path in e["files"].values():
            assert not path.startswith(("/", ".", name))
            assert (tour.folder / name / path).is_file()
    assert str(tour.folder) not in json.dumps(tour.records)


def test_records_say_where_they_come_from(tour: Tour) -> None:
    import hashlib
    import platform

    for records in tour.records.values():
        for i, record in enumerate(records):
            data = (tour.folder / f"in/{i}.png").read_bytes()
            assert record["source"]["sha256"] == hashlib.sha256(data).hexdigest()
            assert record["source"]["bytes"] == len(data)
            assert record["network"]["name"] == "cifar10"
            assert record["versions"].keys() == {"coda", "torch", "python"}
            assert record["versions"]["python"] == platform.python_version()
            assert record["device"].split(":")[0] in ("cpu", "cuda")
            assert record["seconds"] > 0
    assert {r["precision"] for r in tour.records["float64"]} == {"float64"}


def test_settings_tell_runs_apart(tour: Tour) -> None:
    settings = {name: {record["settings"] for record in records} for name, records in tour.records.items()}
    assert all(len(values) == 1 for values in settings.values())
    assert len(set.union(*settings.values())) == len(settings)


def test_double_precision_leaves_next_to_no_residual(tour: Tour) -> None:
    for (_, _, e), (_, _, single) in zip(
        [x for x in tour.explained if x[0] == "float64"],
        [x for x in tour.explained if x[0] == "default"] * 2,
        strict=True,
    ):
        assert abs(e["residual"]) < 1e-9
        assert single["tolerance"] > 1e-6
    doubles, singles = tour.records["float64"], tour.records["all"]
    for double, single in zip(doubles, singles, strict=True):
        for e in double["explained"]:
            assert e["logit"] == pytest.approx(single["explained"][e["index"]]["logit"], abs=e["tolerance"] * 1e6)


def test_half_precision_is_another_computation_and_says_so(tour: Tour) -> None:
    for half, single in zip(tour.records["bfloat16"], tour.records["all"], strict=True):
        assert half["precision"] == "bfloat16"
        for e in half["explained"]:
            same = single["explained"][e["index"]]
            assert e["logit"] != same["logit"]
            assert e["tolerance"] > 1000 * same["tolerance"]


# ---- the check -------------------------------------------------------------------------------------------------------


def test_a_residual_above_the_tolerance_is_said_and_exits_4(coda: Coda, tmp_path: Path) -> None:
    photos(tmp_path, "a.png", "b.png")
    result = coda("explain", "a.png", "b.png", "--class", "all", "--check", "0", "--json", "--write", "none", status=4)
    wrong = [(r["source"]["path"], e) for r in result.records for e in r["explained"] if not e["exact"]]
    assert all(e["tolerance"] == 0 for r in result.records for e in r["explained"])
    assert len(wrong) > 10  # a residual of exactly 0 is possible, but not a habit
    assert len(result.errors) == len(wrong)
    for message, (path, e) in zip(result.errors, wrong, strict=True):
        assert message.startswith(f"{path}: NOT EXACT: residual {e['residual']:.1e} of {e['name']} is above its toler")
    assert f"{len(wrong)} NOT EXACT" in result.err


def test_a_failed_check_outweighs_a_file_that_cannot_be_read(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("nothing")
    result = coda("explain", "a.png", "b.png", "--class", "all", "--check", "0", "--write", "none", status=4)
    assert any("b.png: not a picture" in message for message in result.errors)


def test_an_inexact_result_that_is_there_already_still_exits_4(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    args = ("explain", "a.png", "--class", "all", "--check", "0", "--write", "json")
    coda(*args, status=4)
    assert "already there" in coda(*args, status=4).err


def test_the_tolerance_can_be_set(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    args = ("explain", "a.png", "--class", "0", "--json", "--write", "none")
    (usual,), (wide,) = (coda(*args, *more).record["explained"] for more in ((), ("--check", "1e-3")))
    assert wide["tolerance"] == pytest.approx(100 * usual["tolerance"], rel=1e-6)


# ---- what is said ----------------------------------------------------------------------------------------------------


def test_each_picture_gets_a_line_and_several_a_summary(coda: Coda, tmp_path: Path) -> None:
    photos(tmp_path / "in", "a.png", "b.png")
    result = coda("explain", "in", "--class", "cat", "--json")
    lines = result.err.splitlines()
    for line, record in zip(lines[:2], result.records, strict=True):
        e = record["explained"][0]
        said = f"cat, p {e['probability']:.3f}: logit {e['logit']:.3f} = {e['positive']:.3f} {e['negative']:+.3f}"
        assert line.startswith(f"coda: {record['source']['path']}: {said}")
    worst = max(abs(r["explained"][0]["residual"]) / r["explained"][0]["tolerance"] for r in result.records)
    assert len(lines) == 3
    assert lines[2].startswith("coda: 2 explained in ")
    assert lines[2].endswith(f" s; largest residual {worst:.1%} of its tolerance")


def test_one_picture_gets_no_summary(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    assert len(coda("explain", "a.png").err.splitlines()) == 1


def test_many_pictures_get_the_summary_only(coda: Coda, tmp_path: Path) -> None:
    photos(tmp_path / "in", *(f"{i}.png" for i in range(21)))
    args = ("explain", "in", "--class", "0", "--write", "none")
    (summary,) = coda(*args).err.splitlines()
    assert summary.startswith("coda: 21 explained in")
    assert len([line for line in coda(*args, "-v").err.splitlines() if "in/" in line]) == 21


def test_quiet_leaves_errors_and_verbose_says_more(coda: Coda, tmp_path: Path) -> None:
    photos(tmp_path, "a.png", "b.png")
    (tmp_path / "c.png").write_text("nothing")
    args = ("explain", "a.png", "b.png", "--write", "none")
    assert coda(*args, "-q").err == ""
    assert coda(*args, "-qq").err == ""
    verbose, usual = coda(*args, "-v").err, coda(*args).err
    assert "coda: network cifar10, sha256 " in verbose
    assert "network" not in usual
    assert coda(*args, "c.png", "-qq", status=1).err.splitlines() == [
        "coda: error: c.png: not a picture in a format coda can read"
    ]


def test_fail_fast_stops_at_the_first_failure(coda: Coda, tmp_path: Path) -> None:
    photos(tmp_path / "in", *(f"{i:02}.png" for i in range(30)))
    (tmp_path / "in/01.png").write_text("nothing")
    result = coda("explain", "in", "--fail-fast", "--json", "--batch-size", "1", status=1)
    assert names_of(result) == ["in/00.png", "in/01.png"]
    assert "1 explained, 1 failed" in result.err
    assert len(result.errors) == 1


def test_an_option_that_is_none_is_a_usage_error(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    assert coda("explain", "a.png", "--check", "inf", status=2).error == "--check inf: expected a number up to 1e6"
    for args in (
        ["--fit", "stretch"],
        ["--nonsense"],
        ["--batch-size", "0"],
        ["--batch-size", "many"],
        ["--alpha", "2"],
        ["--check", "-1"],
        ["--percentile", "nan"],
        ["--alpha", "nan"],
        ["--check", "nan"],
    ):
        result = coda("explain", "a.png", *args, status=2)
        assert result.out == ""
        assert args[0] in result.err
    assert coda("explain", status=2).out == ""


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("nonsense", "expected auto, cpu, cuda, cuda:N or mps"),
        ("cuda:99", "NVIDIA GPUs here"),
        ("cuda:00", "expected"),
        ("cuda:200", "expected"),
        ("cpu:0", "expected"),
    ],
)
def test_a_device_that_does_not_exist_is_refused(coda: Coda, tmp_path: Path, device: str, message: str) -> None:
    photo(tmp_path / "a.png")
    result = coda("explain", "a.png", "--device", device, status=2)
    assert result.error.startswith(f"--device {device}: ")
    assert message in result.error


def test_a_gpu_that_only_emulates_bfloat16_is_not_used_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    monkeypatch.setattr(devices, "_refusal", lambda _: "")
    assert (devices.pick("auto").type, devices.pick("auto", "bfloat16").type) == ("cuda", "cpu")
    assert devices.pick("cuda").type == "cuda"
    with pytest.raises(UsageError, match="emulates bfloat16, slowly; use --precision float32"):
        devices.pick("cuda", "bfloat16")


# ---- the process -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("args", [("--help",), ("explain", "-h"), ("schema",), ("--version",)])
def test_help_schema_and_version_do_not_import_torch(coda_process: Coda, args: tuple[str, ...]) -> None:
    result = coda_process(*args, python=("-X", "importtime"))
    imported = {line.rpartition("|")[2].strip() for line in result.err.splitlines()}
    assert "coda_cli.cli.app" in imported
    assert not imported & {"torch", "numpy", "PIL", "cv2"}
    assert result.out


def test_a_picture_takes_none_of_torchs_slow_imports(coda_process: Coda, tmp_path: Path) -> None:
    """Sympy and what goes with it take a third of a second, and torch asks for them where it hardly needs them."""
    photo(tmp_path / "a.png")
    result = coda_process("explain", "a.png", "-q", python=("-X", "importtime"))
    imported = {line.rpartition("|")[2].strip() for line in result.err.splitlines()}
    assert "torch" in imported
    assert not imported & {"sympy", "torchvision", "matplotlib", "captum"}


LAST_WORDS = """
import atexit, sys
from coda_cli.cli.app import process
class Kept:
    def __del__(self): print("taken apart")
kept = Kept()
atexit.register(print, "at exit")
process()
"""


@pytest.mark.parametrize(("argument", "status", "result"), [("--version", 0, "coda "), ("--versio", 2, "at exit")])
def test_the_process_ends_at_once_but_for_what_asked_to_be_done(argument: str, status: int, result: str) -> None:
    ended = subprocess.run([sys.executable, "-c", LAST_WORDS, argument], capture_output=True, text=True)
    assert ended.returncode == status
    assert ended.stdout.startswith(result)
    assert ended.stdout.endswith("at exit\n")


def test_help_comes_at_once(coda_process: Coda) -> None:
    def seconds() -> float:
        """Of computing, so that other programs on this machine do not count."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert "coda explain photos/" in coda_process("explain", "--help").out
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(3)) < 0.5


def test_help_says_the_exit_codes_and_how_classes_are_named(coda: Coda) -> None:
    text = coda("--help").out
    for code in (0, 1, 2, 3, 4, 5, 130):
        assert f"\n    {code} " in text or f"\n  {code} " in text
    assert "--class top:5" in coda("explain", "-h").out


def test_version_names_what_a_bug_report_needs(coda: Coda) -> None:
    from importlib.metadata import version

    line = coda("--version").out
    assert line == f"coda {version('coda-cli')} (torch {version('torch')}, Python {sys.version.split()[0]})\n"


def test_the_program_runs_as_a_process_of_its_own(coda_process: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    result = coda_process("explain", "a.png", "--class", "cat")
    assert result.lines == ["coda-out/a.cat.overlay.png", "coda-out/a.coda.json"]
    assert result.err.startswith("coda: a.png: cat, p 0.")


def test_a_large_picture_at_its_own_size_needs_less_than_two_gigabytes(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (100, 150, 3), np.uint8)
    Image.fromarray(noise).resize((1500, 1000), Image.Resampling.BICUBIC).save(tmp_path / "large.png")
    command = ("explain", "large.png", "--fit", "native", "-m", "imagenette", "-o", "out")
    assert program.peak_memory(*command, cwd=tmp_path) < 2e9
    record = strict_json((tmp_path / "out" / "large.coda.json").read_text())
    assert (record["view"]["width"], record["view"]["height"]) == (1500, 1000)
    assert record["explained"][0]["exact"]


def test_the_rate_of_a_run_is_its_own(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Four hundred of five hundred were there when it began; this one needs ten seconds for each."""
    from coda_cli.cli import console

    clock = itertools.count(0.0, 10.5)
    monkeypatch.setattr(console.time, "monotonic", lambda: next(clock))
    with console.Console().progress("explaining", " grids") as advance:
        for done in range(401, 404):
            advance(done, 500)
    assert capsys.readouterr().err.splitlines() == [
        f"coda: explaining: {done}/500 grids, 10 s each, {(500 - done) * 10.5:.0f} s left" for done in (401, 402, 403)
    ]


def test_pictures_that_are_replaced_have_no_old_record_beside_them(
    coda: Coda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo(tmp_path / "a.png")
    coda("explain", "a.png")

    def full(*_: object, **__: object) -> None:
        raise MediaError("disk full")

    monkeypatch.setattr(files, "write_png", full)
    assert coda("explain", "a.png", "--alpha", "0.1", "--force", status=1).error == "a.png: disk full"
    assert not (tmp_path / "coda-out" / "a.coda.json").exists()


@pytest.mark.parametrize("kinds", ["heatmap", "npz", "none"])
def test_a_record_that_is_not_written_anew_is_not_removed(coda: Coda, tmp_path: Path, kinds: str) -> None:
    photo(tmp_path / "a.png")
    coda("explain", "a.png")
    before = (tmp_path / "coda-out" / "a.coda.json").read_bytes()
    coda("explain", "a.png", "--write", kinds, "--force")
    assert (tmp_path / "coda-out" / "a.coda.json").read_bytes() == before


def test_classes_of_one_file_name_are_told_apart_by_their_index(coda: Coda, tmp_path: Path) -> None:
    woollen(tmp_path / "net.safetensors")
    photo(tmp_path / "a.png")
    record = coda("explain", "a.png", "-m", "net.safetensors", "--class", "all", "--json").record
    names = [part["files"]["overlay"] for part in record["explained"]]
    assert sorted(names) == ["a.cardigan-1.overlay.png", "a.cardigan.overlay.png"]
    assert all((tmp_path / "coda-out" / name).exists() for name in names)


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


def test_numbers_beyond_all_sense_are_refused(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    for option, value in (("--smooth", "99999999999"), ("--check", "1e308")):
        assert option in coda("explain", "a.png", option, value, status=2).err
