"""Every number in every record is true, and a result that is not exact is said and has an exit code of its own."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import program
import pytest
from conftest import Coda
from program import CIFAR10, photo, photos, strict_json

Json = dict[str, Any]


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
