"""``coda diff``: two runs over the same pictures, matched, compared and drawn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from conftest import Coda
from PIL import Image
from program import Result, photo, photos, strict_json, tree

from coda_cli.explanation.runs.maps import on_common_grid
from coda_cli.explanation.runs.pairs import Key, pairs
from coda_cli.explanation.runs.stored import Where
from coda_cli.schema import runs


def explained(coda: Coda, out: str, *args: str) -> None:
    """A run over the folder ``in``."""
    coda("explain", "in", "-o", out, "-q", *args)


def compared(coda: Coda, *args: str, status: int = 0) -> tuple[list[dict[str, Any]], dict[str, Any], Result]:
    """The lines of ``coda diff first second``, the totals and the whole result."""
    result = coda("diff", "first", "second", "--json", *args, status=status)
    schema = runs.json_schema_of_differences()
    for line in result.records:
        jsonschema.validate(line, schema)
    *lines, totals = result.records
    assert totals["status"] == "totals"
    return lines, totals, result


def changed(folder: Path, name: str, change: Any) -> None:
    """Change a record that lies in a folder."""
    path = folder / name
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


BOTH = ("--class", "cat", "--class", "ship", "--write", "npz,json")


def test_two_precisions_are_compared_number_by_number(coda: Coda, tmp_path: Path) -> None:
    photos(tmp_path / "in", "a.png", "b.png")
    explained(coda, "first", *BOTH, "--box", "left=0,0,0.5,1")
    explained(coda, "second", *BOTH, "--box", "left=0,0,0.5,1", "--precision", "bfloat16")
    lines, totals, _ = compared(coda)
    assert (totals["pairs"], totals["targets"], totals["exact_maps"], totals["by_path"]) == (2, 4, 4, 0)
    for line, name in zip(lines, ("a", "b"), strict=True):
        assert (line["first"]["precision"], line["second"]["precision"]) == ("float32", "bfloat16")
        old, new = (json.loads((tmp_path / run / f"{name}.coda.json").read_text()) for run in ("first", "second"))
        arrays = [np.load(tmp_path / run / f"{name}.coda.npz")["pixels"] for run in ("first", "second")]
        for k, target in enumerate(line["targets"]):
            was, now = old["explained"][k], new["explained"][k]
            assert target["logit"] == {
                "first": was["logit"], "second": now["logit"], "change": now["logit"] - was["logit"]
            }  # fmt: skip
            assert target["logit"]["change"] != 0
            terms = sum(target[term]["change"] for term in ("positive", "negative", "constants", "residual"))
            assert target["logit"]["change"] == pytest.approx(terms, abs=1e-5)
            difference = arrays[1][k].astype(np.float64) - arrays[0][k].astype(np.float64)
            assert target["map"]["grid"] == "view"
            assert target["map"]["sum"] == pytest.approx(difference.sum(), abs=1e-12)
            assert target["map"]["magnitude"] == pytest.approx(np.abs(difference).sum())
            rest = target["logit"]["change"] - target["constants"]["change"] - difference.sum()
            assert target["map"]["residual"] == pytest.approx(rest, abs=1e-12)
            left, other = target["regions"]
            assert (left["name"], other["name"]) == ("left", "rest")
            shares = [part["regions"]["regions"][0]["share"] for part in (was, now)]
            assert left["share"] == {"first": shares[0], "second": shares[1], "change": shares[1] - shares[0]}
    changes = [target["logit"]["change"] for line in lines for target in line["targets"]]
    assert totals["mean_change"] == pytest.approx(np.mean(changes))
    assert totals["largest_change"] == max(changes, key=abs)


def test_the_same_run_twice_has_no_difference(coda: Coda, tmp_path: Path) -> None:
    photos(tmp_path / "in", "a.png")
    explained(coda, "first", *BOTH)
    (line,), totals, _ = (found := coda("diff", "first", "first", "--json")).records[:-1], found.records[-1], found
    assert not line["changed"]
    assert totals["largest_change"] == 0
    assert all(target["map"]["magnitude"] == target["map"]["sum"] == 0 for target in line["targets"])


def test_other_views_are_laid_on_a_common_grid_that_keeps_the_sums(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "in" / "a.png", 64, 40)
    explained(coda, "first", *BOTH)
    explained(coda, "second", *BOTH, "--fit", "pad")
    lines, totals, _ = compared(coda, "-o", "drawn")
    maps = [np.load(tmp_path / run / "a.coda.npz")["pixels"].astype(np.float64) for run in ("first", "second")]
    assert maps[0].shape != maps[1].shape
    for k, target in enumerate(lines[0]["targets"]):
        assert target["map"]["grid"] == "common"
        assert target["map"]["sum"] == pytest.approx(maps[1][k].sum() - maps[0][k].sum(), abs=1e-9)
        assert target["map"]["exact"]
    assert totals["exact_maps"] == 2
    assert any("common grid" in note for note in lines[0]["notes"])
    assert sorted(tree(tmp_path / "drawn")) == ["a.cat.difference.png", "a.ship.difference.png"]


def test_a_map_is_spread_in_proportion_to_the_covered_area() -> None:
    one, four = np.array([[8.0]]), np.array([[1.0, 2.0], [3.0, 4.0]])
    first, second = on_common_grid((one, four), ((0, 0, 2, 2), (1, 0, 3, 2)))  # columns 0-2 and 1-3, pixels of 1
    assert first.tolist() == [[2, 2, 0], [2, 2, 0]]
    assert second.tolist() == [[0, 1, 2], [0, 3, 4]]
    first, second = on_common_grid((one, four), ((0, 0, 3, 3), (0, 0, 4, 4)))  # 3 of 4, in pixels of 2
    assert first == pytest.approx(np.array([[4, 2], [2, 1]]) * 8 / 9)
    assert second.tolist() == four.tolist()


def test_drawings_carry_their_numbers_and_are_not_replaced_unasked(coda: Coda, tmp_path: Path) -> None:
    photos(tmp_path / "in" / "sub", "a.png")
    photos(tmp_path / "in", "b.png")
    for out, precision in (("first", "float32"), ("second", "bfloat16")):
        explained(coda, out, "-r", "--class", "cat", "--write", "npz,json", "--precision", precision)
    lines, _, _ = compared(coda, "-o", "drawn")
    files = [line["targets"][0]["map"]["file"] for line in lines]
    assert sorted(files) == sorted(tree(tmp_path / "drawn")) == ["b.cat.difference.png", "sub/a.cat.difference.png"]
    with Image.open(tmp_path / "drawn" / files[0]) as drawn:
        inside = strict_json(drawn.info["coda"])
        drawn.load()
    assert inside["targets"][0]["logit"] == lines[0]["targets"][0]["logit"]
    _, _, again = compared(coda, "-o", "drawn", status=1)
    assert len(again.errors) == 2
    assert "exists" in again.errors[0]
    compared(coda, "-o", "drawn", "--force")


def test_two_networks_the_table_begins_with_what_changed_most(coda: Coda, tmp_path: Path) -> None:
    names = [f"in/{n}.png" for n in range(8)]
    photos(tmp_path, *names)
    explained(coda, "first", "--write", "json")
    coda("explain", *names[:3], "-o", "second", "--write", "json", "--precision", "bfloat16")
    coda("explain", *names[3:], "-o", "second", "--write", "json", "-m", "cifar10-bcos")
    lines, totals, _ = compared(coda)
    assert [line["second"]["network"]["name"] for line in lines] == ["cifar10"] * 3 + ["cifar10-bcos"] * 5
    tops = [
        [json.loads((tmp_path / run / f"{n}.coda.json").read_text())["top"][0]["name"] for n in range(8)]
        for run in ("first", "second")
    ]
    expected = [a != b for a, b in zip(*tops, strict=True)]
    assert [line["changed"] for line in lines] == expected
    assert 0 < totals["changed"] == sum(expected) < 8

    def standing(line: dict[str, Any]) -> tuple[bool, float]:
        changes = [abs(part["logit"]["change"]) for part in line["targets"] or line["scores"]]
        return line["changed"], max(changes, default=0)

    best = [line["second"]["path"] for line in sorted(lines, key=standing, reverse=True)]
    heading, *rows, last = coda("diff", "first", "second").lines
    assert heading.split()[:3] == ["PICTURE", "PREDICTED", "P"]
    assert [row.split()[0] for row in rows] == best
    assert f"{totals['changed']} predictions changed" in last
    few = coda("diff", "first", "second", "--rows", "2").lines
    assert [row.split()[0] for row in few[1:3]] == best[:2]
    assert few[3] == "... and 6 more; --rows 8 shows all"


def test_pictures_are_matched_by_hash_then_by_path(coda: Coda, tmp_path: Path) -> None:
    photos(tmp_path / "in", "same.png", "edited.png", "gone.png", "old-name.png")
    explained(coda, "first", "--class", "cat", "--write", "json")
    photo(tmp_path / "in" / "edited.png", seed=77)
    (tmp_path / "in" / "gone.png").unlink()
    (tmp_path / "in" / "old-name.png").rename(tmp_path / "in" / "new-name.png")
    photo(tmp_path / "in" / "only.png", seed=78)
    explained(coda, "second", "--class", "cat", "--write", "json")
    lines, totals, result = compared(coda)
    found = {line["first"]["path"]: (line["matched"], line["second"]["path"]) for line in lines if "first" in line}
    assert found == {
        "in/same.png": ("sha256", "in/same.png"),
        "in/edited.png": ("path", "in/edited.png"),
        "in/old-name.png": ("sha256", "in/new-name.png"),
    }
    alone = {(line["run"], line["path"]) for line in lines if line["status"] == "alone"}
    assert alone == {(1, "in/gone.png"), (2, "in/only.png")}
    assert (totals["pairs"], totals["by_path"], totals["only_first"], totals["only_second"]) == (3, 1, 1, 1)
    assert "only in first: in/gone.png" in result.err
    assert "only in second: in/only.png" in result.err


def test_a_hash_goes_before_a_path_whatever_the_order() -> None:
    def key(sha256: str, path: str) -> Key:
        return Key(sha256, path, Where(path))

    first, second = [key("1", "a"), key("2", "b")], [key("2", "a")]  # b was renamed to a, and a is gone
    assert [(p.first, p.second) for p in pairs(first, second)] == [(first[0], None), (first[1], second[0])]
    twins = [key("1", "x"), key("1", "y")]
    assert [p.second for p in pairs(twins, twins[::-1])] == twins


def test_lines_of_json_are_a_run_and_what_failed_is_counted(coda: Coda, tmp_path: Path) -> None:
    photos(tmp_path / "in", "a.png", "b.png")
    (tmp_path / "in" / "c.png").write_bytes(b"no picture")
    lines = coda("explain", "in", "--class", "cat", "--write", "none", "--json", status=1).out
    (tmp_path / "first").write_text(lines)
    (tmp_path / "second").write_text(lines + "\n")
    _, totals, _ = compared(coda)
    assert (totals["pairs"], totals["failed_first"], totals["failed_second"], totals["unreadable"]) == (2, 1, 1, 0)


def test_foreign_and_broken_files_are_left_out_or_said(coda: Coda, tmp_path: Path) -> None:
    photos(tmp_path / "in", "a.png", "b.png", "c.png", "d.png")
    explained(coda, "first", "--class", "cat", "--write", "json")
    explained(coda, "second", "--class", "cat", "--write", "json")
    (tmp_path / "second" / "coco.json").write_text('{"images": []}')
    (tmp_path / "second" / "deep.json").write_text("[" * 100_000)
    (tmp_path / "second" / "a.coda.json").write_text('{"schema": "coda.record"')
    changed(tmp_path / "second", "b.coda.json", lambda record: record.update(settings=3))
    changed(tmp_path / "second", "c.coda.json", lambda record: record.update(top=[]))
    changed(tmp_path / "second", "d.coda.json", lambda r: r["explained"][0].update(logit=-1.7e308))
    changed(tmp_path / "first", "d.coda.json", lambda r: r["explained"][0].update(logit=1.7e308))
    _, totals, result = compared(coda, status=1)
    assert (totals["pairs"], totals["only_first"], totals["unreadable"]) == (0, 3, 3)
    assert "second/a.coda.json: is no JSON; expected a record of coda explain" in result.errors
    assert any("second/b.coda.json: is no valid record (settings:" in error for error in result.errors)
    assert "second/c.coda.json: is no valid record (top: it lists no class)" in result.errors
    assert "first/d.coda.json: its numbers are too large to be compared" in result.errors
    assert "second: left out 2 JSON files" in result.err


def test_lines_of_something_else_are_given_up(coda: Coda, tmp_path: Path) -> None:
    (tmp_path / "first").write_text('{"a": 1}\n' * 5000)
    (tmp_path / "second").write_text('{"a": 1}\n{"a": 2}\n')
    _, totals, result = compared(coda, status=1)
    assert totals["unreadable"] == 21 + 1 + 2
    assert "first, line 1: is other JSON; expected a record of coda explain" in result.errors
    assert "first: too many of its lines are no records; the rest is not read" in result.errors


@pytest.mark.parametrize(
    "damage", ["of another picture", "shape", "huge", "header", "truncated", "not finite", "outside", "missing"]
)
def test_maps_that_are_not_those_of_their_record_are_not_used(coda: Coda, tmp_path: Path, damage: str) -> None:
    photos(tmp_path / "in", "a.png", "b.png")
    for out in ("first", "second"):
        explained(coda, out, "--class", "cat", "--write", "npz,json")
    path = tmp_path / "second" / "a.coda.npz"
    content = dict(np.load(path))
    if damage == "of another picture":
        path.write_bytes((tmp_path / "second" / "b.coda.npz").read_bytes())
    elif damage == "shape":
        np.savez(path, **content | {"pixels": content["pixels"][:, 1:]})
    elif damage == "not finite":
        content["pixels"][0, 0, 0] = np.nan
        np.savez(path, **content)
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:-500])
    elif damage == "huge":  # a header that says more than there is
        np.savez(path, **content)
        path.write_bytes(path.read_bytes().replace(b"(1, 32, 32), }     ", b"(999999, 32, 32), }"))
    elif damage == "header":
        np.savez(path, **content)
        path.write_bytes(path.read_bytes().replace(b"(1, 32, 32), }", b"(1, 32, 32),  "))
    elif damage == "outside":
        changed(tmp_path / "second", "a.coda.json", lambda r: r.update(files={"npz": "../second/../first/a.coda.npz"}))
    else:
        path.unlink()
    lines, totals, _ = compared(coda)
    assert lines[0]["targets"][0]["map"] is None
    (note,) = lines[0]["notes"]
    assert "no difference of the maps" in note
    assert ("its pixels are too large" in note) == (damage == "huge")
    assert totals["exact_maps"] == 1


def test_a_map_that_does_not_add_up_is_said(coda: Coda, tmp_path: Path) -> None:
    photos(tmp_path / "in", "a.png")
    for out in ("first", "second"):
        explained(coda, out, "--class", "cat", "--write", "npz,json")
    path = tmp_path / "second" / "a.coda.npz"
    content = dict(np.load(path))
    content["pixels"][0, 3, 3] += 0.5
    np.savez(path, **content)
    _, totals, result = compared(coda, status=4)
    assert totals["inexact_maps"] == 1
    assert "NOT EXACT" in result.error


@pytest.mark.parametrize(("run", "part"), [("none", "none: no such file or folder"), ("empty", "no record")])
def test_a_run_that_is_none_is_wrong_usage(coda: Coda, tmp_path: Path, run: str, part: str) -> None:
    (tmp_path / "empty").mkdir()
    assert part in coda("diff", run, "empty", status=2).error
