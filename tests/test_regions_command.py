"""Regions on the command line: ``--box``, ``--mask``, ``--regions`` and ``--span``, for pictures and for clips."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from conftest import Coda
from PIL import Image
from program import looked_at, photo, photos, strict_json, tree
from test_video_command import clip, lines_of

from coda_cli.schema import clips, pictures


def mask(path: Path, columns: int, width: int = 50, height: int = 40) -> Path:
    """A mask that is 255 in its first columns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.zeros((height, width), np.uint8)
    values[:, :columns] = 255
    Image.fromarray(values).save(path)
    return path


def regions_of(record: dict[str, Any], k: int = 0) -> dict[str, dict[str, Any]]:
    """The sums of a record, by the names of the regions."""
    sums = record["explained"][k]["regions"]
    return {region["name"]: region for region in (*sums["regions"], sums["rest"])}


# ---- pictures --------------------------------------------------------------------------------------------------------


def test_boxes_are_summed_said_and_recorded(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png", 40, 40)
    boxes = ("--box", "left=0,0,0.5,1", "--box", "20,0,40,40", "--box", "low=0%,50%,100%,100%")
    result = coda("explain", "a.png", *boxes, "--class", "cat", "--class", "ship", "--json")
    jsonschema.validate(result.record, pictures.json_schema())
    for k in (0, 1):  # every target has its own
        part, found = result.record["explained"][k], regions_of(result.record, k)
        assert list(found) == ["left", "box 2", "low", "rest"]
        halves = found["left"], found["box 2"]
        assert sum(r["positive"] for r in halves) == pytest.approx(part["positive"], rel=1e-5)
        assert sum(r["negative"] for r in halves) == pytest.approx(part["negative"], rel=1e-5)
        assert [r["area"] for r in found.values()] == pytest.approx([0.5, 0.5, 0.5, 0])
        assert part["regions"]["overlap"] == pytest.approx(found["low"]["positive"] + found["low"]["negative"])
        assert part["regions"]["exact"]
    assert "left: " in result.err
    assert "% of the evidence for it on 50% of the area" in result.err


def test_a_relative_box_and_the_same_in_pixels_give_the_same(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png", 40, 40)
    same = [regions_of(looked_at(coda, "a.png", "--box", f"a={box}").record)["a"] for box in
            ("0,10,20,40", "0,0.25,0.5,1", "0%,25%,50%,100%")]  # fmt: skip
    assert same[0] == same[1] == same[2]


def test_what_the_crop_does_not_show_is_said(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png", 80, 40)  # the crop has the 40 columns of the middle
    mask(tmp_path / "m.png", 40, 80)
    result = coda("explain", "a.png", "--mask", "m.png", "--box", "corner=0,0,10,10", "--write", "none", "--class", "0")
    assert "50% of it is outside the view" in result.err
    assert "corner is wholly outside the view" in result.err


def test_a_folder_of_masks_and_one_that_is_missing(coda: Coda, tmp_path: Path) -> None:
    photos(tmp_path / "in", "a.png", "b.png", "c.png")
    mask(tmp_path / "masks" / "a.png", 10)
    mask(tmp_path / "masks" / "c.png", 20)
    result = looked_at(coda, "in", "--mask", "masks", status=1)
    done = [record for record in result.records if record["status"] == "ok"]
    assert [record["source"]["path"] for record in done] == ["in/a.png", "in/c.png"]
    assert result.error == "in/b.png: the folder masks has no mask named b.png"
    assert list(done[0]["region_files"]) == ["masks/a.png"]


@pytest.mark.parametrize("option", ["--mask m.png", "--regions r.txt", "--regions labelme.json"])
def test_regions_of_one_picture_that_are_laid_on_all_are_said(coda: Coda, tmp_path: Path, option: str) -> None:
    photos(tmp_path / "in", "a.png", "b.png")
    mask(tmp_path / "m.png", 16)
    (tmp_path / "r.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    shape = {"label": "a", "points": [[0, 0], [16, 0], [16, 16]]}
    (tmp_path / "labelme.json").write_text(json.dumps({"imageWidth": 50, "imageHeight": 40, "shapes": [shape]}))
    said = (
        f"coda: {option.split()[1]}: its regions are laid on every picture; a folder has a file for each, with its name"
    )
    assert coda("explain", "in", *option.split(), "--write", "none").err.splitlines().count(said) == 1
    assert said not in coda("explain", "in/a.png", *option.split(), "--write", "none").err
    (tmp_path / "parts").mkdir()
    for name in ("a", "b"):
        shutil.copy(tmp_path / option.split()[1], tmp_path / "parts" / f"{name}{Path(option).suffix}")
    assert "laid on every" not in coda("explain", "in", option.split()[0], "parts", "--write", "none").err


def test_a_mask_of_other_proportions_is_refused(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    mask(tmp_path / "m.png", 10, 40, 50)
    result = looked_at(coda, "a.png", "--mask", "m.png", status=1)
    assert "a.png: the region mask is for a picture of 40 x 50 pixels, and this one has 50 x 40" in result.error


@pytest.mark.parametrize(
    ("args", "status", "part"),
    [
        (("--box", "1,2,3"), 2, "--box 1,2,3: expected left,top,right,bottom"),
        (("--box", "0,0,90,10"), 1, "a.png: the box 0,0,90,10 reaches beyond the picture of 50 x 40 pixels"),
        (("--box", "-5,0,9,10"), 1, "a.png: the box -5,0,9,10 reaches beyond"),
        (("--box", "9,0,3,10"), 1, "a.png: the box 9,0,3,10 is empty"),
        (("--box", "0,0,1,1@1-2"), 2, "--box: times after @ are for clips"),
        (("--mask", "none.png"), 2, "none.png: no such file or folder"),
        (("--mask", ""), 2, "no such file or folder"),
        (("--mask", "a.png", "--labels", "dog"), 2, "--labels dog: expected all, or values"),
        (("--labels", "all"), 2, "--labels chooses among the parts"),
        (("--regions", "none.json"), 2, "none.json: no such file or folder"),
        (("--regions", "a.png"), 1, "a.png: expected .json (COCO or labelme)"),
    ],
)
def test_bad_input_is_one_line(coda: Coda, tmp_path: Path, args: tuple[str, ...], status: int, part: str) -> None:
    photo(tmp_path / "a.png")
    result = coda("explain", "a.png", *args, status=status)
    assert part in result.error
    assert not (tmp_path / "coda-out").exists() or not tree(tmp_path / "coda-out")


def test_results_of_a_mask_that_changed_live_beside_those_before(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    mask(tmp_path / "m.png", 10)
    command = ("explain", "a.png", "--class", "0", "--mask", "m.png")
    first = coda(*command).lines
    assert "(already there)" in coda(*command).err
    mask(tmp_path / "m.png", 11)
    second = coda(*command)
    assert "(already there)" not in second.err
    assert not set(first) & set(second.lines)


def test_results_of_a_panoptic_mask_that_changed_live_beside_those_before(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")  # 50 x 40
    mask(tmp_path / "c" / "a.png", 10)
    image = {"id": 1, "file_name": "a.png", "width": 50, "height": 40}
    entry = {"image_id": 1, "file_name": "a.png", "segments_info": [{"id": 255, "category_id": 1}]}
    content = {"images": [image], "categories": [{"id": 1, "name": "dog"}], "annotations": [entry]}
    (tmp_path / "c.json").write_text(json.dumps(content))
    command = ("explain", "a.png", "--class", "0", "--regions", "c.json")
    first = coda(*command).lines
    assert "(already there)" in coda(*command).err
    assert ": proven" in coda("verify", "coda-out").out
    mask(tmp_path / "c" / "a.png", 30)
    (proof,) = coda("verify", "coda-out", "--json").records
    assert proof["notes"] == ["of its regions only the sum was checked: c/a.png was changed"]
    second = coda(*command)
    assert "(already there)" not in second.err
    assert not set(first) & set(second.lines)


def test_the_record_in_the_picture_has_the_regions(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png", 64, 64)
    coda("explain", "a.png", "--class", "0", "--box", "dog=0,0,32,64", "--write", "overlay,panel,heatmap,json")
    record = json.loads((tmp_path / "coda-out" / "a.coda.json").read_text())
    for kind in ("overlay", "panel", "heatmap"):
        with Image.open(tmp_path / "coda-out" / record["explained"][0]["files"][kind]) as drawn:
            assert regions_of(strict_json(drawn.info["coda"])) == regions_of(record)


# ---- clips -----------------------------------------------------------------------------------------------------------


def video(coda: Coda, *args: str | Path, **more: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The records of the frames of a clip, and that of the clip."""
    result = coda(
        "video", "c.mkv", "--class", "cat", "--format", "none", "-o", "out", "--force", "--json", *args, **more
    )
    for record in result.records:
        jsonschema.validate(record, clips.json_schema())
    return result.records[:-1], result.records[-1]


def test_spans_and_boxes_with_times_are_summed_over_their_frames(coda: Coda, tmp_path: Path) -> None:
    clip(tmp_path / "c.mkv")  # ten frames, a second
    frames, whole = video(coda, "--region", "always=0,0,0.5,1", "--region", "late=0.5,0,1,1@0.5-1", "--span", "0.2-0.6")
    assert [list(regions_of(f)) for f in frames] == [["always", "rest"]] * 5 + [["always", "late", "rest"]] * 5
    all_of_it, span = whole["explained"][0]["spans"]
    assert (all_of_it["frames"], span["frames"]) == (10, 4)
    chosen = [f["explained"][0] for f in frames[2:6]]
    positive = [part["positive"] for part in chosen]
    assert span["mean_logit"] == pytest.approx(np.mean([part["logit"] for part in chosen]))
    assert span["mean_positive"] == pytest.approx(np.mean(positive))
    terms = span["mean_positive"] + span["mean_negative"] + span["mean_constants"] + span["mean_residual"]
    assert span["mean_logit"] == pytest.approx(terms, abs=1e-5)
    assert span["share"] == pytest.approx(sum(positive) / sum(f["explained"][0]["positive"] for f in frames))
    always, late, rest = span["regions"]
    assert (always["frames"], late["frames"], rest["frames"]) == (4, 1, 4)
    found = [regions_of(f) for f in frames[2:6]]
    assert always["share"] == pytest.approx(sum(f["always"]["positive"] for f in found) / sum(positive))
    assert late["mean_positive"] == pytest.approx(found[3]["late"]["positive"])
    assert late["share"] == pytest.approx(found[3]["late"]["positive"] / positive[3])


def test_spans_and_boxes_without_a_frame_are_said(coda: Coda, tmp_path: Path) -> None:
    clip(tmp_path / "c.mkv")  # ten frames, a second
    there = ("--region", "b=0,0,1,0.5@0.5-9", "--span", "0.5-9")
    _, whole = video(coda, *there)
    assert whole["notes"] == []
    result = coda("video", "c.mkv", *there, "--region", "c=0,0,1,0.5@7-9", "--span", "5-9", "--span", "0.11-0.12")
    for what in ("the span 5-9", "the span 0.11-0.12", "the times of the box c=0,0,1,0.5@7-9"):
        assert f"c.mkv: no frame lies in {what}; the frames' times are 0 to 0.9 s" in result.err
    record = json.loads((tmp_path / "coda-out" / "c.coda.jsonl").read_text().splitlines()[-1])
    assert len(record["notes"]) == 3


def test_a_region_of_a_clip_is_in_pixels_of_the_clip_even_where_it_is_cut(coda: Coda, tmp_path: Path) -> None:
    clip(tmp_path / "c.mkv")  # 64 x 48
    frames, _ = video(coda, "--box", "16,0,64,48", "--region", "a=16,0,40,48")  # the cut's left half
    assert regions_of(frames[0])["a"]["area"] == pytest.approx(0.5)
    assert regions_of(frames[0])["a"]["outside"] == 0


def test_every_frame_has_a_mask(coda: Coda, tmp_path: Path) -> None:
    clip(tmp_path / "c.mkv", frames=3)
    for n in range(3):
        mask(tmp_path / "masks" / f"frame_{n:04}.png", 10 + 10 * n, 64, 48)
    frames, whole = video(coda, "--mask", "masks")
    left, _, right, _ = whole["view"]["box"]  # of 64 columns the crop has about those from 8 to 56
    expected = [(columns - left) / (right - left) for columns in (10, 20, 30)]
    assert [regions_of(f)["mask"]["area"] for f in frames] == pytest.approx(expected)
    assert len(whole["region_files"]) == 3
    (tmp_path / "masks" / "frame_0001.png").unlink()
    result = coda("video", "c.mkv", "--class", "cat", "--mask", "masks", "-o", "other", status=1)
    assert result.error == "c.mkv: the folder masks has no mask whose name ends in 1; frames are counted from 0"
    assert not tree(tmp_path / "other")


def test_regions_are_drawn_on_the_frames(coda: Coda, tmp_path: Path) -> None:
    clip(tmp_path / "c.mkv", frames=2)
    command = ("video", "c.mkv", "--class", "cat", "--format", "png", "--layout", "overlay", "--no-strip")
    coda(*command, "-o", "plain")
    coda(*command, "-o", "marked", "--region", "dog=8,8,40,40")
    plain, marked = (
        np.asarray(Image.open(sorted((tmp_path / folder / "c.coda").glob("*.png"))[0])).astype(int)
        for folder in ("plain", "marked")
    )
    changed = np.argwhere(np.abs(plain - marked).sum(2) > 60)
    factor = 240 / 48
    assert changed[:, 1].min() == pytest.approx(8 * factor, abs=4)
    assert changed[:, 0].max() == pytest.approx(40 * factor, abs=4)
    assert lines_of(tmp_path / "marked" / "c.coda.jsonl")[-1]["explained"][0]["spans"]


@pytest.mark.parametrize(
    ("args", "part"),
    [
        (("--span", "4"), "'4' is not a span of time"),
        (("--span", "4-2"), "does not end after it starts"),
        (("--span", "a-b"), "is not a time"),
        (("--region", "0,0,1,1@x"), "is not a span of time"),
    ],
)
def test_bad_times_are_one_line(coda: Coda, tmp_path: Path, args: tuple[str, ...], part: str) -> None:
    clip(tmp_path / "c.mkv", frames=2)
    assert part in coda("video", "c.mkv", *args, status=2).error
