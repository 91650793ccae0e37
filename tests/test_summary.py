"""What a summary says: its numbers against plain sums over the records, labels, and what is no record."""

from __future__ import annotations

import copy
import csv
import io
import json
import random
import shlex
import shutil
from collections import Counter
from pathlib import Path
from statistics import fmean
from typing import Any

import jsonschema
import program
import pytest
from conftest import Coda
from documents import blocks
from many_records import records
from program import Result, photo, tree

from coda_cli.checkpoints import manifest
from coda_cli.checkpoints.labels import class_of_folder
from coda_cli.explanation.summary.tally import BINS, bin_of, line_of
from coda_cli.explanation.summary.truth import Classes
from coda_cli.machine import budget
from coda_cli.media import files
from coda_cli.schema.parts import Network

ROOT = Path(__file__).resolve().parent.parent
SUMS = ("positive", "negative")


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The record of a picture with two regions."""
    folder = tmp_path_factory.mktemp("real")
    photo(folder / "cat" / "a.png")
    boxes = ("--box", "dog=10,10,30,30", "--box", "sky=0,0,50,10")
    return program.run("explain", "cat/a.png", *boxes, "--write", "none", "--json", cwd=folder).record


@pytest.fixture
def many(real: dict[str, Any]) -> list[dict[str, Any]]:
    """Ninety records of it with other classes and numbers."""
    return list(records(real, 90))


def lines(many: list[dict[str, Any]]) -> str:
    """Records as ``coda explain --json`` prints them."""
    return "".join(json.dumps(record) + "\n" for record in many)


def label_of(record: dict[str, Any]) -> str:
    return str(record["source"]["path"].split("/")[-2])


def is_right(record: dict[str, Any]) -> bool:
    return bool(label_of(record) == record["top"][0]["name"])


def summed(coda: Coda, many: list[dict[str, Any]], *args: str | Path, status: int = 0) -> dict[str, Any]:
    """The summary of records that come through a pipe."""
    return coda("summary", "-", "--json", *args, input=lines(many), status=status).record


# ---- numbers ---------------------------------------------------------------------------------------------------------


def check_group(found: dict[str, Any], own: list[dict[str, Any]]) -> None:
    """One group against plain means over its records."""
    parts = [record["explained"][0] for record in own]
    assert found["pictures"] == found["labelled"] == len(own)
    assert found["right"] == sum(map(is_right, own))
    assert found["accuracy"] == pytest.approx(fmean(map(is_right, own)))
    assert found["mean_probability"] == pytest.approx(fmean(record["top"][0]["probability"] for record in own))
    for name in ("logit", "positive", "negative", "residual"):
        assert found[f"mean_{name}"] == pytest.approx(fmean(part[name] for part in parts)), name
    assert found["mean_constants"] == pytest.approx(fmean(part["bias"] + part["positional"] for part in parts))
    assert found["mean_half_share"] == pytest.approx(fmean(part["evidence"]["half_share"] for part in parts))
    rests = [part["regions"]["rest"] for part in parts]
    assert found["mean_inside"] == pytest.approx(1 - fmean(rest["share"] for rest in rests))
    assert found["mean_inside_area"] == pytest.approx(1 - fmean(rest["area"] for rest in rests))
    assert found["inside_ratio"] == pytest.approx(found["mean_inside"] / found["mean_inside_area"])
    adds_up = sum(found[f"mean_{name}"] for name in ("positive", "negative", "constants", "residual"))
    assert adds_up == pytest.approx(found["mean_logit"], abs=1e-6)
    assert [region["name"] for region in found["regions"]] == ["dog", "sky", "rest"]
    for n, region in enumerate(found["regions"][:-1]):
        given = [part["regions"]["regions"][n] for part in parts]
        assert region["pictures"] == len(given)
        assert region["mean_share"] == pytest.approx(fmean(one["share"] for one in given))
        assert region["mean_area"] == pytest.approx(fmean(one["area"] for one in given))


def test_means_and_pairs_are_those_of_plain_sums(coda: Coda, many: list[dict[str, Any]]) -> None:
    found = summed(coda, many)
    jsonschema.validate(found, json.loads(coda("schema", "summary").out))
    check_group(found["overall"], many)
    labels = sorted(set(map(label_of, many)))
    assert [group["name"] for group in found["classes"]] == labels
    for group in found["classes"]:
        check_group(group, [record for record in many if label_of(record) == group["name"]])
    pairs = Counter((label_of(record), record["top"][0]["name"]) for record in many)
    assert {(c["label"], c["predicted"]): c["pictures"] for c in found["confusion"]} == pairs
    counts = [c["pictures"] for c in found["confusion"]]
    assert counts == sorted(counts, reverse=True)
    assert (found["labels"], found["grouped_by"], found["no_classes"]) == ("folders", "label", {})


def test_outliers_are_the_first_of_all_that_are_sorted(coda: Coda, many: list[dict[str, Any]]) -> None:
    random.Random(1).shuffle(many)
    for record in many[:30]:  # equal values: the first path comes first
        record["explained"][0]["regions"]["rest"]["share"] = 0.999
    found = summed(coda, many, "--top", "7")["outliers"]

    def expected(kept: Any, value: Any) -> list[str]:
        chosen = sorted(filter(kept, many), key=lambda record: (-value(record), record["source"]["path"]))
        return [record["source"]["path"] for record in chosen[:7]]

    def surplus(record: dict[str, Any]) -> float:
        return float(-sum(record["explained"][0][name] for name in SUMS))

    paths = {kind: [line["path"] for line in kept] for kind, kept in found.items()}
    assert paths["outside"] == expected(lambda _: True, lambda r: r["explained"][0]["regions"]["rest"]["share"])
    assert paths["wrong"] == expected(lambda r: not is_right(r), lambda r: r["top"][0]["probability"])
    assert paths["against"] == expected(lambda r: surplus(r) > 0, surplus)
    assert all(len(kept) == 7 for kept in paths.values())


def test_the_calibration_error_is_that_of_its_definition(coda: Coda, many: list[dict[str, Any]]) -> None:
    for record, p in zip(many, (0.0, 1.0, 1 / 15, 2 / 15, 14 / 15), strict=False):  # borders of bins
        record["top"][0]["probability"] = p
    found, error = summed(coda, many)["calibration"], 0.0
    assert len(found["bins"]) == 15
    for n, one in enumerate(found["bins"]):
        start, end = n / 15, (n + 1) / 15
        inside = [
            r for r in many if start < r["top"][0]["probability"] <= end or (n == r["top"][0]["probability"] == 0)
        ]
        assert (one["start"], one["end"], one["pictures"]) == (start, end, len(inside))
        if inside:
            accuracy, p = fmean(map(is_right, inside)), fmean(r["top"][0]["probability"] for r in inside)
            assert (one["accuracy"], one["mean_probability"]) == pytest.approx((accuracy, p))
            error += len(inside) / len(many) * abs(accuracy - p)
    assert found["error"] == pytest.approx(error)
    assert [bin_of(n / BINS) for n in range(1, BINS + 1)] == list(range(BINS))


def test_the_numbers_are_of_the_predicted_class_else_of_the_first(coda: Coda, real: dict[str, Any]) -> None:
    one = json.loads(json.dumps(real))
    other = json.loads(json.dumps(real["explained"][0])) | {"index": 9, "name": "truck", "logit": -7.0}
    one["explained"] = [other, real["explained"][0]]
    assert summed(coda, [one])["overall"]["mean_logit"] == real["explained"][0]["logit"]
    one["explained"] = [other]
    assert summed(coda, [one])["overall"]["mean_logit"] == -7


def test_without_regions_and_labels_what_is_not_known_is_null(coda: Coda, many: list[dict[str, Any]]) -> None:
    for record in many:
        record["explained"][0]["regions"] = None
    found = summed(coda, many, "--no-labels")
    every = found["overall"]
    assert (every["accuracy"], every["mean_inside"], every["inside_ratio"], every["regions"]) == (None, None, None, [])
    assert (found["calibration"], found["confusion"], found["outliers"]["outside"]) == (None, [], [])
    assert (found["labels"], found["grouped_by"]) == ("none", "predicted")
    predicted = Counter(record["top"][0]["name"] for record in many)
    assert {group["name"]: group["pictures"] for group in found["classes"]} == predicted
    table = coda("summary", "-", "--no-labels", input=lines(many)).out
    assert "predicted" in table
    assert not {"inside", "right", "ratio"} & set(table.split("confident")[0].split())


# ---- tables ----------------------------------------------------------------------------------------------------------


def check_rows(rows: list[dict[str, Any]], many: list[dict[str, Any]]) -> None:
    """A table with numbers against the records."""
    assert [row["path"] for row in rows] == [record["source"]["path"] for record in many]
    for row, record in zip(rows, many, strict=True):
        part, rest = record["explained"][0], record["explained"][0]["regions"]["rest"]
        assert (row["label"], row["predicted"]) == (label_of(record), record["top"][0]["name"])
        assert (row["probability"], row["runner_up_probability"]) == tuple(t["probability"] for t in record["top"][:2])
        assert (row["right"], row["exact"]) == (is_right(record), True)
        assert row["runner_up"] == record["top"][1]["name"]
        assert [row[name] for name in SUMS] == [part[name] for name in SUMS]
        assert row["logit"] == pytest.approx(row["positive"] + row["negative"] + row["constants"] + row["residual"])
        assert row["inside"] == pytest.approx(1 - rest["share"])
        assert row["inside_ratio"] == pytest.approx(row["inside"] / row["inside_area"])
        assert [row[f"{what}:rest"] for what in ("share", "area", "ratio")] == [
            rest[w] for w in ("share", "area", "ratio")
        ]
        assert row["share:sky"] == part["regions"]["regions"][1]["share"]
        assert (row["centroid_x"], row["centroid_y"]) == tuple(part["evidence"]["centroid"])


def test_the_tables_have_a_line_for_each_picture(coda: Coda, many: list[dict[str, Any]], tmp_path: Path) -> None:
    result = coda("summary", "-", "-o", "report", input=lines(many))
    assert sorted(tree(tmp_path / "report")) == ["summary.csv", "summary.json"]
    with (tmp_path / "report" / "summary.csv").open(encoding="utf-8", newline="") as stream:
        texts = list(csv.DictReader(stream))
    numbers = {"true": True, "false": False, "": None}

    def value(name: str, cell: str) -> Any:
        return cell if name in ("path", "label", "predicted", "runner_up", "explained") else numbers.get(cell, cell)

    rows = [{name: value(name, cell) for name, cell in row.items()} for row in texts]
    check_rows([{n: float(c) if isinstance(c, str) and n not in ("path", "label", "predicted", "runner_up", "explained")
                 else c for n, c in row.items()} for row in rows], many)  # fmt: skip
    written = json.loads((tmp_path / "report" / "summary.json").read_text("utf-8"))
    assert written == summed(coda, many) | {"files": {"csv": "summary.csv", "json": "summary.json"}}
    assert "confident and wrong" in result.out


def test_the_parquet_table_has_the_same(coda: Coda, many: list[dict[str, Any]], tmp_path: Path,
                                        monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    pq = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr("coda_cli.explanation.summary.tables.GROUP_ROWS", 40)
    coda("summary", "-", "-o", "report", "--parquet", input=lines(many))
    table = pq.ParquetFile(tmp_path / "report" / "summary.parquet")
    assert table.num_row_groups == 3
    check_rows(table.read().to_pylist(), many)


def test_without_pyarrow_the_extra_is_named(coda: Coda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    (tmp_path / "a.jsonl").write_text("")
    result = coda("summary", "a.jsonl", "-o", "report", "--parquet", status=2)
    assert "pip install 'coda-cli[parquet]'" in result.err
    assert not (tmp_path / "report").exists()
    assert "--output" in coda("summary", "a.jsonl", "--parquet", status=2).err


# ---- labels ----------------------------------------------------------------------------------------------------------


def labelled(
    coda: Coda, real: dict[str, Any], path: str, text: str, *args: str | Path
) -> tuple[str | None, bool | None]:
    """Label and rightness of one picture whose predicted class has the name ``text``."""
    record = json.loads(json.dumps(real))
    record["source"]["path"] = path
    record["network"]["name"] = "of-mine"
    for part in (record["top"][0], record["explained"][0]):
        part |= {"index": 33, "name": text, "wnid": "n03445777"}
    coda("summary", "-", "-o", "r", "-f", *args, input=lines([record]))
    with Path("r/summary.csv").open(encoding="utf-8", newline="") as stream:
        (row,) = csv.DictReader(stream)
    return row["label"] or None, {"true": True, "false": False, "": None}[row["right"]]


@pytest.mark.parametrize("folder", ["golf ball", "golf-ball", "Golf_Ball", "n03445777"])
def test_a_folder_is_a_class_by_name_slug_or_wordnet_id(coda: Coda, real: dict[str, Any], folder: str) -> None:
    assert labelled(coda, real, f"data/{folder}/a.png", "golf ball") == ("golf ball", True)


def test_a_folder_that_is_no_class_is_no_label(coda: Coda, real: dict[str, Any], many: list[dict[str, Any]]) -> None:
    for path in ("photos/a.png", "a.png", "/a.png", "33/a.png", "golf ball/other/a.png"):
        assert labelled(coda, real, path, "golf ball") == (None, None)
    many[0]["source"]["path"] = "data/nonsense/a.png"
    result = coda("summary", "-", "--json", input=lines(many))
    assert result.record["no_classes"] == {"nonsense": 1}
    assert result.record["overall"]["labelled"] == len(many) - 1
    assert "nonsense (1)" in result.err


def test_a_class_that_is_never_at_the_top_is_known_of_a_known_network(coda: Coda, real: dict[str, Any]) -> None:
    record = json.loads(json.dumps(real))
    record["source"]["path"] = "data/truck/a.png"
    assert "truck" not in [part["name"] for part in record["top"]]
    assert summed(coda, [record])["confusion"] == [
        {"label": "truck", "predicted": record["top"][0]["name"], "pictures": 1}
    ]


def test_folders_mean_the_classes_that_they_mean_on_a_page() -> None:
    entry = manifest.known()["imagenette"]
    net = entry.checkpoint
    assert entry.sha256
    classes = Classes()
    part = {"name": net.name, "sha256": entry.sha256, "classes": len(net.classes)}
    classes.add((), Network.model_construct(**part))
    named = [*net.classes, *(net.wnids or ()), *(text for group in net.synonyms or () for text in group)]
    assert len(named) > 2.5 * len(net.classes)
    for text in named:
        index = class_of_folder(text, net)
        assert index is not None
        for folder in (text, text.upper() if " " in text else text, text.replace(" ", "_")):
            assert classes.find(folder, by_index=False) == {(index, net.classes[index])}, folder
    assert class_of_folder("zebra", net) is None
    assert not classes.find("zebra", by_index=False)


def test_classes_of_one_name_are_told_apart(coda: Coda, real: dict[str, Any]) -> None:
    both = []
    for index in (134, 517):
        record = json.loads(json.dumps(real))
        record["source"]["path"] = "crane/a.png"
        for part in (record["top"][0], record["explained"][0]):
            part |= {"index": index, "name": "crane"}
        both.append(record)
    found = summed(coda, both)
    assert {c["predicted"] for c in found["confusion"]} == {"crane (134)", "crane (517)"}
    assert found["overall"]["accuracy"] == 1  # the folder's name is that of both


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("data/x/a.png,golf-ball", ("golf ball", True)),
        ("a.png,33", ("golf ball", True)),
        ("x/a.png,zebra", ("zebra", False)),
        ("other.png,zebra", (None, None)),
        ("a.png,zebra\nx/a.png,golf ball", ("golf ball", True)),  # the longer end of the path
        ('path,label\n"a.png","golf ball"', ("golf ball", True)),
    ],
)
def test_labels_are_read_from_a_file(
    coda: Coda, real: dict[str, Any], tmp_path: Path, line: str, expected: tuple[str | None, bool | None]
) -> None:
    (tmp_path / "labels.csv").write_text(line + "\n", encoding="utf-8-sig")
    assert labelled(coda, real, "data/x/a.png", "golf ball", "--labels", "labels.csv") == expected


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a.png", "line 1 is not path,label"),
        (b"a.png,x,y", "line 1 is not path,label"),
        (b"a.png,x\na.png,y", "two labels for a.png"),
        (b"\xff\xfe", "is no CSV file"),
        (b'a.png,"x', "is no CSV file"),
        (None, "cannot be read"),
    ],
)
def test_a_file_of_labels_that_is_none_is_refused(coda: Coda, tmp_path: Path, content: bytes | None, said: str) -> None:
    if content is not None:
        (tmp_path / "labels.csv").write_bytes(content)
    assert said in coda("summary", "-", "--labels", "labels.csv", status=2).err
    assert "exclude each other" in coda("summary", "-", "--labels", "labels.csv", "--no-labels", status=2).err


# ---- what is no record -----------------------------------------------------------------------------------------------


def bad_ones(real: dict[str, Any]) -> dict[str, str]:
    """Texts that are no record of an explained picture."""
    part = real["explained"][0]
    return {
        "nothing": "",
        "no JSON": "{",
        "another program's": '{"name": "x", "version": 3}',
        "a list": "[1, 2]",
        "deep": "[" * 100_000,
        "a clip's": json.dumps(real | {"schema": "coda.clip"}),
        "with something more": json.dumps(real | {"surprise": 1}),
        "without a class": json.dumps(real | {"top": []}),
        "infinite": json.dumps(real).replace(repr(part["positive"]), "1e999"),
        "huge": json.dumps(real | {"explained": [part | {"positive": 1e300}]}),
        "not a share": json.dumps(real | {"top": [real["top"][0] | {"probability": 5.0}]}),
        "half a letter": json.dumps(real | {"source": real["source"] | {"path": "\ud800"}}),
    }


def test_what_is_no_record_is_one_line_and_the_rest_goes_on(
    coda: Coda, real: dict[str, Any], many: list[dict[str, Any]], tmp_path: Path
) -> None:
    folder, bad = tmp_path / "out", bad_ones(real)
    (folder / "sub").mkdir(parents=True)
    for n, text in enumerate(bad.values()):
        (folder / f"{n}.coda.json").write_text(text, encoding="utf-8")
    for n, record in enumerate(many):  # as files are written, and as people print them
        text = json.dumps(record, indent=2 * (n % 2) or None)
        (folder / "sub" / f"{n}.coda.json").write_text(text + "\n" * (n % 3), encoding="utf-8")
    (folder / "other.json").write_text("{}")
    (folder / "9.coda.json.d").mkdir()
    result = coda("summary", "out", "-r", "--json", status=1)
    assert result.record["pictures"] == len(many)
    assert result.record["unreadable"] == len(bad)
    assert len(result.errors) == len(bad)
    check_group(result.record["overall"], many)


def test_the_same_holds_for_lines_and_at_most_twenty_are_told(
    coda: Coda, real: dict[str, Any], many: list[dict[str, Any]], tmp_path: Path
) -> None:
    bad = [text for text in bad_ones(real).values() if text]
    mixed = [*bad * 3, *lines(many).splitlines(), "", "  "]
    (tmp_path / "a.jsonl").write_text("\n".join(mixed) + "\n", encoding="utf-8")
    for args, more in ((("-",), {"input": "\n".join(mixed)}), (("a.jsonl",), {})):
        result = coda("summary", *args, "--json", status=1, **more)
        check_group(result.record["overall"], many)
        assert len(result.errors) == 21
        assert "more lines are no records" in result.err


def test_a_line_without_end_is_not_read_whole(
    coda: Coda, many: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "RECORD_FILE", 20_000)
    result = coda("summary", "-", "--json", input=f"{'x' * 50_000}\n{lines(many)}", status=1)
    assert result.record["pictures"] == len(many)
    assert "line 1 has more than the" in result.err


def test_pictures_that_failed_are_counted(coda: Coda, many: list[dict[str, Any]]) -> None:
    failed = {"schema": "coda.record", "schema_version": 1, "status": "error", "source": {"path": "b.png"}}
    failed["error"] = {"kind": "MediaError", "message": "b.png: is no picture"}
    result = coda("summary", "-", "--json", input=lines([*many, failed]))
    assert (result.record["failed"], result.record["pictures"]) == (1, len(many))
    assert "1 picture could not be explained" in result.err
    assert "no record of an explained picture" in coda("summary", "-", "-o", "x", input=lines([failed]), status=1).err
    assert not list(Path("x").iterdir())


def test_records_that_are_not_exact_are_an_error_of_their_own(coda: Coda, many: list[dict[str, Any]]) -> None:
    many[5]["explained"][0]["exact"] = False
    many[6]["explained"][0]["regions"]["exact"] = False
    assert summed(coda, many, status=4)["overall"]["inexact"] == 2


def test_records_of_two_networks_are_told(coda: Coda, many: list[dict[str, Any]]) -> None:
    many[0]["network"]["sha256"] = "0" * 64
    many[0]["settings"] = "1" * 64
    result = coda("summary", "-", "--json", input=lines(many))
    assert [network["pictures"] for network in result.record["networks"]] == [len(many) - 1, 1]
    assert "of 2 networks" in result.err
    assert "2 different settings" in result.err


def test_pictures_that_are_counted_more_than_once_are_told(coda: Coda, many: list[dict[str, Any]]) -> None:
    found = coda("summary", "-", "--json", input=lines(many))
    assert found.record["repeated"] == 0
    assert "more than once" not in found.err
    again = [copy.deepcopy(many[n]) for n in (0, 0, 3)]  # as after --class cat, --class dog into the same folder
    again[0]["settings"] = "1" * 64
    found = coda("summary", "-", "--json", input=lines([*many, *again]))
    assert found.record["repeated"] == 3
    assert found.record["pictures"] == len(many) + 3
    assert f"3 of the {len(many) + 3} records are of a picture that another record is of" in found.err


# ---- sources and files -----------------------------------------------------------------------------------------------


def test_a_folder_without_records_says_what_to_do(coda: Coda, tmp_path: Path) -> None:
    (tmp_path / "out" / "sub").mkdir(parents=True)
    (tmp_path / "out" / "sub" / "a.txt").write_text("x")
    result = coda("summary", "out", "-o", "report", status=2)
    assert "no records (*.coda.json)" in result.err
    assert "-r looks into its sub-folders" in result.err
    assert "coda explain" in result.err
    assert "-r looks" not in coda("summary", "out", "-r", status=2).err
    assert "no such file" in coda("summary", "none.json", status=2).err
    assert not (tmp_path / "report").exists()


def test_nothing_is_overwritten_unasked(coda: Coda, many: list[dict[str, Any]], tmp_path: Path) -> None:
    report = tmp_path / "report"
    report.mkdir()
    (report / "summary.csv").write_text("mine")
    result = coda("summary", "-", "-o", "report", input=lines(many), status=2)
    assert "summary.csv: exists; --force replaces it" in result.err
    assert tree(report) == {"summary.csv": b"mine"}
    coda("summary", "-", "-o", "report", "--force", input=lines(many))
    assert len((report / "summary.csv").read_text("utf-8").splitlines()) == 1 + len(many)


def test_a_file_that_comes_meanwhile_is_kept(
    coda: Coda, many: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def line_while_another_run_writes(*args: Any) -> Any:
        (tmp_path / "report" / "summary.csv").write_text("another's")
        return line_of(*args)

    monkeypatch.setattr("coda_cli.explanation.summary.run.line_of", line_while_another_run_writes)
    result = coda("summary", "-", "-o", "report", input=lines(many), status=1)
    assert "summary.csv: exists, and is not replaced" in result.err
    assert tree(tmp_path / "report") == {"summary.csv": b"another's"}


def test_a_reader_that_goes_away_is_no_error_message(many: list[dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(lines(many))
    with program.started("summary", "a.jsonl", "-q", cwd=tmp_path) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.close()
        assert child.stderr.read() == b""
        assert child.wait(program.PATIENCE) == 1


def test_torch_is_not_imported(many: list[dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(lines(many))
    command = ("summary", "a.jsonl", "-o", "report")
    said = program.run_process(*command, cwd=tmp_path, python=("-X", "importtime")).err
    imported = {line.split("|")[-1].strip() for line in said.splitlines() if line.startswith("import time:")}
    assert "coda_cli.explanation.summary.run" in imported
    assert "torch" not in imported


def test_a_full_disk_leaves_nothing(
    coda: Coda, many: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "os", program.FullDisk(0))
    result = coda("summary", "-", "-o", "report", input=lines(many), status=1)
    assert "cannot be written" in result.err
    assert tree(tmp_path / "report") == {}


def test_names_are_no_commands_to_a_terminal(coda: Coda, many: list[dict[str, Any]]) -> None:
    for record in many:
        record["source"]["path"] = f'\x1b[2J\n{label_of(record)}/a,"b.png'
    result: Result = coda("summary", "-", "-o", "report", input=lines(many))
    assert "\x1b" not in result.out + result.err
    assert "\\x1b[2J\\x0a" in result.out
    (row, *_) = csv.DictReader(io.StringIO(Path("report/summary.csv").read_bytes().decode(), newline=""))
    assert row["path"] == many[0]["source"]["path"]


def test_what_explain_wrote_is_summarised(coda: Coda, scenes: Path, tmp_path: Path) -> None:
    coda("explain", scenes / "test", "-r", "-o", "out", "--write", "json", "--box", "middle=0.25,0.25,0.75,0.75")
    found = coda("summary", "out", "-r", "--json").record
    written = [json.loads(path.read_text("utf-8")) for path in sorted((tmp_path / "out").rglob("*.coda.json"))]
    assert found["pictures"] == len(written) >= 10
    assert found["overall"]["accuracy"] == 1  # they lie where the network sorts them
    assert found["overall"]["mean_inside"] == pytest.approx(
        fmean(r["explained"][0]["regions"]["regions"][0]["share"] for r in written), rel=1e-6
    )
    assert found["networks"] == [
        {"name": "cifar10", "sha256": written[0]["network"]["sha256"], "pictures": len(written)}
    ]


def test_memory_does_not_grow_with_the_records(real: dict[str, Any], tmp_path: Path) -> None:
    sizes = {}
    for count in (100, 5000):  # as objects, 5000 records have 100 MB
        (tmp_path / f"{count}.jsonl").write_text(lines(list(records(real, count))))
        sizes[count] = program.peak_memory("summary", f"{count}.jsonl", "--json", cwd=tmp_path)
    assert sizes[5000] - sizes[100] < 15e6


def test_the_story_of_the_document_runs(coda: Coda, tmp_path: Path) -> None:
    document = ROOT / "docs" / "summary.md"
    for folder in ("pictures", "masks"):
        shutil.copytree(program.EXAMPLES / folder, tmp_path / "examples" / folder)
    (listed,) = blocks(document, "csv")
    (tmp_path / "labels.csv").write_text(listed)
    (story,) = blocks(document, "sh")
    for line in story.splitlines():
        result = coda(*shlex.split(line)[1:], env={"CODA_MODEL": "imagenette"})
    shown = blocks(document, "text")[0].replace("imagenet", "imagenette")  # the smaller network
    assert result.lines[:1] == shown.splitlines()
    assert sorted(tree(tmp_path / "report")) == ["summary.csv", "summary.json"]
    found = json.loads((tmp_path / "report" / "summary.json").read_text("utf-8"))
    assert found["overall"]["mean_inside"] > found["overall"]["mean_inside_area"]  # what the story asks
