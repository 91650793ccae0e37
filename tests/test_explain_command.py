"""``coda explain`` as a user meets it: the inputs and classes it takes, what it writes, draws and says."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Coda
from PIL import Image
from program import CIFAR10, names_of, photo, photos, strict_json, tree
from small_files import small_file

from coda_cli.checkpoints.loading import load
from coda_cli.errors import UsageError
from coda_cli.explanation import drawing
from coda_cli.explanation.request import Request
from coda_cli.machine import devices
from coda_cli.render.overlay import margin
from coda_cli.schema.pictures import from_json

# ---- sources ---------------------------------------------------------------------------------------------------------


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


def test_one_class_may_stand_alone_in_a_request() -> None:
    assert Request("cat").classes == ("cat",)  # type: ignore[arg-type]


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


# ---- the view --------------------------------------------------------------------------------------------------------


def test_a_picture_at_its_own_size_is_warned_of_where_logits_are_sums(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    assert "grow with its area" in coda("explain", "a.png", "--fit", "native").err
    assert "grow with its area" in coda("compare", "a.png", "--fit", "native", "--method", "ours").err
    assert "grow with its area" not in coda("explain", "a.png", "--fit", "pad", "-o", "p").err
    assert "grow with its area" not in coda("explain", "a.png", "--fit", "native", "-m", "cifar10-bcos", "-o", "b").err


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
    notes = record["view"].pop("notes")
    assert record["view"] == {"fit": fit, "width": size[0], "height": size[1], "box": box}
    assert ["grow with its area" in note for note in notes] == [True] * (fit == "native")
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
    for percentile, extra in (
        (99.5, ("--scale", "image")),
        (50.0, ("--percentile", "50")),
        (100.0, ("--scale", "image", "--percentile", "100")),
    ):
        args = ("--class", "all", "--json", "--write", "npz", "--force")
        record = coda("explain", "a.png", *args, *extra).record
        maps = np.load(tmp_path / "coda-out/a.coda.npz")["pixels"]
        for explained, values in zip(record["explained"], maps, strict=True):
            assert explained["scale"] == pytest.approx(np.percentile(np.abs(values), percentile), rel=1e-6)
            assert explained["scale_of"] == "image"


def test_the_scale_is_the_network_s_own_unless_told_otherwise(coda: Coda, tmp_path: Path) -> None:
    """So that a picture with little evidence looks like one, and two runs can be laid side by side."""
    photos(tmp_path / "in", "a.png", "b.png", "c.png")
    own = load("cifar10").checkpoint.full_colour
    records = coda("explain", "in", "--class", "all", "--json", "--write", "none").records
    assert {(e["scale"], e["scale_of"]) for r in records for e in r["explained"]} == {(own, "network")}
    again = coda("explain", "in", "--scale", "network", "--percentile", "50", "--json", "--write", "none").records
    assert {e["scale"] for r in again for e in r["explained"]} == {own}


def test_where_a_network_states_no_full_colour_for_a_view_each_map_has_its_own(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "large.png", 80, 48)
    small_file(tmp_path / "small.safetensors")
    for options in (("--fit", "native"), ("-m", "small.safetensors")):
        record = coda("explain", "large.png", *options, "--json", "--write", "npz", "--force").record
        (explained,), (values,) = record["explained"], np.load(tmp_path / "coda-out/large.coda.npz")["pixels"]
        assert explained["scale_of"] == "image", options
        assert explained["scale"] == pytest.approx(np.percentile(np.abs(values), 99.5), rel=1e-6)


def test_a_picture_says_whose_scale_it_is_drawn_with(
    coda: Coda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    honest = drawing.framed
    monkeypatch.setattr(drawing, "framed", lambda *a, **k: said.append(a[3][1]) or honest(*a, **k))
    photo(tmp_path / "a.png")
    for scale, whose in (("network", "the network's"), ("image", "this map's"), ("run", "the run's"), ("0.1", None)):
        said.clear()
        coda("explain", "a.png", "--scale", scale, "--write", "overlay", "--force")
        assert said
        assert said[0].endswith(f" logit a pixel ({whose})" if whose else " logit a pixel"), said


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
    assert result.error == f"--scale {scale}: expected network, image, run or a positive number of logit units"


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


def test_the_rate_of_a_run_is_its_own(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Four hundred of five hundred were there when it began; this one needs ten seconds for each."""
    from coda_cli.cli import console

    clock = itertools.count(0.0, 10.5)
    monkeypatch.setattr(console, "PLAIN_EVERY", 10.0)
    monkeypatch.setattr(console.time, "monotonic", lambda: next(clock))
    with console.Console().progress("explaining", " grids") as advance:
        for done in range(401, 404):
            advance(done, 500)
    assert capsys.readouterr().err.splitlines() == [
        "coda: explaining: 401/500 grids",  # from one alone nothing is foretold
        *(f"coda: explaining: {done}/500 grids, 10 s each, {(500 - done) * 10.5:.0f} s left" for done in (402, 403)),
    ]


def test_the_time_before_the_first_of_many_does_not_count(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from coda_cli.cli import console

    clock = iter([0.0, 30.0, 41.0])  # it starts, then the network is loaded; a hundred a second from then on
    monkeypatch.setattr(console, "PLAIN_EVERY", 10.0)
    monkeypatch.setattr(console.time, "monotonic", lambda: next(clock))
    with console.Console().progress("reading", " pictures") as advance:
        advance(1, 5000)
        advance(1101, 5000)
    assert capsys.readouterr().err.splitlines() == [
        "coda: reading: 1/5000 pictures",
        "coda: reading: 1101/5000 pictures, 100.0/s, 39 s left",
    ]


def test_numbers_beyond_all_sense_are_refused(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    for option, value in (("--smooth", "99999999999"), ("--check", "1e308")):
        assert option in coda("explain", "a.png", option, value, status=2).err
