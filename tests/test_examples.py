"""The examples and the documents say what the program does."""

from __future__ import annotations

import json
import re
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import program
import pytest
import squares
import torch
from PIL import Image

import coda_cli
from coda_cli.checkpoints.loading import Net
from coda_cli.schema.pictures import from_json
from coda_cli.study.localisation import Localisation
from coda_cli.training.datasets import Split
from coda_cli.video.reading import Reader, Selection

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
PICTURES = sorted((EXAMPLES / "pictures").glob("*.png"))


@pytest.fixture(scope="module")
def net() -> Net:
    return coda_cli.load("imagenet")


def printed(script: str, *arguments: str) -> dict[str, str]:
    """The ``key value`` lines an example prints."""
    out, err = program.example_run(script, *arguments)
    assert err == ""
    return dict(line.split(maxsplit=1) for line in out.splitlines())


@pytest.mark.parametrize("name", ["church"])
def test_the_decomposition_by_hand_gives_the_numbers_that_coda_gives(name: str) -> None:
    picture = str(EXAMPLES / "pictures" / f"{name}.png")
    ours, by_hand = printed("decompose.py", picture), printed("decompose_by_hand.py", picture)
    assert ours.keys() == by_hand.keys() == {"class", "logit", "bias", "for", "against", "strongest", "exact"}
    assert ours["exact"] == by_hand["exact"] == "True"
    for key in ("class", "bias"):
        assert ours[key] == by_hand[key]
    for key in ("logit", "for", "against"):
        assert float(ours[key]) == pytest.approx(float(by_hand[key]), abs=2e-4)
    assert ours["strongest"].split(" at ")[1] == by_hand["strongest"].split(" at ")[1]


@pytest.mark.parametrize("picture", PICTURES, ids=lambda p: p.stem)
def test_an_example_picture_gives_its_expected_record(picture: Path, net: Net) -> None:
    expected = from_json((EXAMPLES / "expected" / f"{picture.stem}.coda.json").read_text())
    assert expected.network.sha256 == net.sha256, "the weights changed: write examples/expected anew"
    explanation = coda_cli.explain(picture, net)
    part, d = expected.explained[0], explanation.decomposition
    assert [t.index for t in explanation.targets] == [part.index]
    assert part.name == picture.stem.replace("-", " ")  # the network gets its own examples right
    size = part.positive - part.negative
    pixels = explanation.maps[0].astype(float)
    assert float(d.logit[0, 0]) == pytest.approx(part.logit, abs=1e-4 * size)
    assert pixels[pixels > 0].sum() == pytest.approx(part.positive, abs=1e-4 * size)
    assert pixels[pixels < 0].sum() == pytest.approx(part.negative, abs=1e-4 * size)
    grid = [[cell.sum() for cell in np.array_split(row, 3, 1)] for row in np.array_split(pixels, 3, 0)]
    np.testing.assert_allclose(grid, part.evidence.grid, atol=1e-4 * size)


def test_every_picture_has_a_mask_of_its_size() -> None:
    assert len(PICTURES) >= 4
    for picture in PICTURES:
        with Image.open(EXAMPLES / "masks" / picture.name) as mask, Image.open(picture) as original:
            assert mask.size == original.size
            assert 0.05 < np.asarray(mask.convert("L"), float).mean() / 255 < 0.6


def test_the_table_of_evidence_on_the_object_in_the_readme_is_what_its_command_prints() -> None:
    lines = program.example_run("inside.py")[0].splitlines()
    text = (EXAMPLES / "README.md").read_text()
    for line in lines[1:]:
        name, *numbers = line.split()
        # A share may differ in its last digit between processors.
        shown = next((row.split() for row in text.splitlines() if row.split()[:1] == [name]), None)
        assert shown is not None, line
        for a, b in zip(shown[1:], numbers, strict=True):
            if a.rstrip("%").replace(".", "").isdigit():
                assert float(a.rstrip("%")) == pytest.approx(float(b.rstrip("%")), abs=0.11)
            else:
                assert a == b


COMMANDS = [
    *(
        (),
        ("explain",),
        ("video",),
        ("train",),
        ("compare",),
        ("summary",),
        ("merge",),
        ("schema",),
        ("diff",),
        ("verify",),
        ("rerun",),
        ("demo",),
    ),
    *(("evaluate", name) for name in ("localisation", "removal", "depth")),
    *(("models", name) for name in ("list", "show", "pull", "push", "convert", "verify")),
    *(("config", name) for name in ("show", "path")),
]


def _documents() -> str:
    """The text of the documents that tell users what to type."""
    text = ""
    for document in [ROOT / "README.md", EXAMPLES / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        said = document.read_text("utf-8")
        if document.name == "from-the-papers-code.md":  # the first column has the options of others
            said = "\n".join(line.split(" | ", 1)[-1] for line in said.splitlines())
        text += said
    return text


def test_the_documents_name_only_options_and_commands_that_exist() -> None:
    text = re.sub(r"`python [^`]*`", "", _documents())  # programs of examples/ and tests/ have options of their own
    text = re.sub(r"^(?:docker|pip) .*$", "", text, flags=re.MULTILINE)  # and so have other people's
    assert "@" not in re.sub(r"`[^`]*`", "", text).replace("@media", ""), "a placeholder was left"
    options = {}
    for command in COMMANDS:
        options[command] = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", program.run(*command, "--help").out))
    every = set.union(*options.values())
    for option in set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", text)):
        assert option in every, option
    typed = re.findall(r"(?<![\w/])coda ((?:[a-z]+ )+[^`\n#|]*)", text)  # commands, up to a comment or a pipe
    seen = set()
    for line in typed:
        words = line.split()
        command = next((c for n in (2, 1) if (c := tuple(words[:n])) in options), None)
        seen.add(command)
        for option in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", line) if command else ():
            assert option in options[command], f"coda {line}"
    assert len(seen) > 8


def test_the_two_commands_of_the_readme_stand_first_and_need_only_python() -> None:
    text = (ROOT / "README.md").read_text()
    start, test = re.findall(r"<!-- (?:start|test) command -->\n```sh\n(.*?)\n```", text, re.DOTALL)
    assert start.startswith("python3 -m venv .venv && ")
    assert start.endswith("coda explain examples/pictures")
    assert test.startswith("python3 -m venv .venv && ")
    assert test.endswith("-m pytest")


def test_the_story_of_a_network_of_one_s_own_can_be_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docs" / "own-network.md").read_text("utf-8")
    story = text.partition("\n## From beginning to end\n")[2].partition("\n## ")[0]
    monkeypatch.chdir(tmp_path)
    squares.folders(tmp_path / "photos", 10, classes=("ant", "bee", "cat", "dog"))
    program.photo(tmp_path / "photo.jpg")
    torch.manual_seed(0)
    typed = 0
    for language, block in re.findall(r"```(\w+)\n(.*?)```", story, re.DOTALL):
        if language == "python":
            exec(block, {})
        for line in block.splitlines() if language == "sh" else ():
            name, *words = shlex.split(line, comments=True)
            assert name == "coda", line
            program.run(*words)
            typed += 1
    records = {path.parent.name: json.loads(path.read_text()) for path in tmp_path.glob("*/photo.coda.json")}
    assert typed == len(records) + 2  # one converts, one trains
    parts = {name: record["explained"][0] for name, record in records.items()}
    assert parts["bare"]["name"] in ("ant", "bee", "cat", "dog")
    for name in ("trainer", "other", "ordinary"):
        assert {**parts[name], "files": None} == {**parts["bare"], "files": None}
    networks = {name: record["network"] for name, record in records.items()}
    assert {name: network["cut"] for name, network in networks.items()} == dict.fromkeys(records, "layer4")
    assert networks["hybrid"]["architecture"] == "hybrid"


@pytest.mark.parametrize(
    ("name", "pictures", "least"), [("imagenet", 1_000, 0.75), ("imagenette", 3_925, 0.78), ("cifar10", 10_000, 0.80)]
)
def test_the_card_and_the_documents_state_the_accuracy_in_the_weights(name: str, pictures: int, least: float) -> None:
    accuracy = coda_cli.load(name).checkpoint.accuracy
    assert accuracy is not None
    assert accuracy.pictures == pictures
    assert accuracy.value >= least
    for document in (ROOT / "docs" / "networks.md", ROOT / "weights" / f"{name}.md"):
        assert f"{accuracy.value:.2%}".replace("%", " %") in document.read_text(), document


@pytest.mark.parametrize("picture", PICTURES, ids=lambda p: p.stem)
def test_the_network_names_the_object_and_finds_more_evidence_on_it_than_beside_it(picture: Path, net: Net) -> None:
    explanation = coda_cli.explain(picture, net)
    assert net.checkpoint.classes[explanation.targets[0].index] == picture.stem.replace("-", " ")
    pixels = np.maximum(explanation.maps[0].astype(float), 0)
    with Image.open(EXAMPLES / "masks" / picture.name) as mask:
        small = mask.convert("L").resize(pixels.shape[::-1], Image.Resampling.BOX, box=explanation.view.box)
    covered = np.asarray(small, float) / 255
    assert (pixels * covered).sum() / pixels.sum() > 1.2 * covered.mean()


@pytest.mark.parametrize("name", ["airplane", "automobile", "ship", "truck"])
def test_the_small_network_names_its_pictures(name: str) -> None:
    small = coda_cli.load("cifar10")
    explanation = coda_cli.explain(EXAMPLES / "cifar10" / "pictures" / f"{name}.png", small)
    assert small.checkpoint.classes[explanation.targets[0].index] == name


def test_the_clip_shows_a_golf_ball_that_leaves(net: Net) -> None:
    frames = list(Reader(EXAMPLES / "clip.mp4", Selection(every=8)))
    ball = net.checkpoint.classes.index("golf ball")
    logits = [float(coda_cli.explain(f.rgb, net, "golf ball").logits[ball]) for f in frames]
    assert max(logits[:6]) > 2
    assert logits[-1] < max(logits) - 2


def test_the_sheet_has_two_tiles_for_every_picture(tmp_path: Path) -> None:
    program.example_run("sheet.py", EXAMPLES / "pictures", tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (len(PICTURES) * 264 - 8, 2 * 264 - 8)


def test_every_network_has_a_row_of_a_sheet_with_its_words(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "church.png").symlink_to(EXAMPLES / "pictures" / "church.png")
    script = program.example("sheet")
    script.main(str(tmp_path / "pictures"), str(tmp_path / "sheet.png"), "cifar10", "cifar10-bcos")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (256, 264 + 2 * (24 + 32 + 264 + 32) - 8)
        heading = np.asarray(sheet)[264 : 264 + 24 + 32]
    assert heading[:24].min() == 255
    assert heading[24:].min() < 80  # letters


def test_the_training_curve_is_drawn(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    log.write_text("epoch,loss,accuracy\n1,0.3,0.4\n2,0.2,0.6\n3,0.1,0.7\n")
    program.example_run("curve.py", log, tmp_path / "curve.png")
    with Image.open(tmp_path / "curve.png") as picture:
        assert picture.size == (864, 432)


def test_the_index_of_the_weights_names_every_file_in_the_folder() -> None:
    index = json.loads((ROOT / "weights" / "index.json").read_text())
    assert set(index) == {p.name for p in (ROOT / "weights").glob("*.safetensors")}


# ---- studies: hours of measuring, here on a handful of pictures ------------------------------------------------------


def table(script: str, *arguments: str | Path) -> tuple[list[list[str]], str]:
    """The rows of the table that an example prints, and what it and its children write to stderr."""
    out, err = program.example_run(script, *arguments)
    lines = [line for line in out.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert {len(row) for row in rows} == {len(rows[0])}
    assert set("".join(rows[1])) == {"-"}
    return [rows[0], *rows[2:]], err


def test_the_table_of_methods_is_measured_by_the_commands(scenes: Path, tmp_path: Path) -> None:
    wanted = ("--grids", "1", scenes, "--pictures", "2", tmp_path, "ours")
    (heads, *rows), said = table("methods.py", *wanted)
    assert heads == ["method", "localisation", "published", "removal", "published"]
    ((method, localisation, *published),) = rows
    assert method == "ours"
    assert published[::2] == ["0.911", "0.964"]
    assert localisation == "–"  # too few pictures for a grid of nine classes
    assert "no 3 x 3 grid can be made" in said
    again = ("evaluate", "removal", scenes, "-m", "cifar10", "--pictures", "2", "--points", "32", "--json")
    assert float(published[1]) == pytest.approx(program.run(*again).record["area"], abs=6e-4)
    assert (tmp_path / "cifar10.removal-2x32.ours.jsonl").exists()


def test_the_table_of_methods_holds_what_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = program.example("methods")

    def measured(what: str, method: str, *_: object) -> dict[str, Any] | None:
        if method == "lime":
            return None
        if what == "removal":
            return {"area": 0.75, "removed": [0, 0.1, 0.25], "mean": [1, 0.8, 0.4]}
        return {"mean": 0.5, "interval_95": [0.4, 0.6], "scores": [[0.4] * 9, [0.6] * 9]}

    monkeypatch.setattr(script, "measured", measured)
    monkeypatch.setattr(sys, "argv", ["methods.py", ".", str(tmp_path), "ours", "lime", "-m", "imagenette"])
    script.main()
    rows = capsys.readouterr().out.splitlines()[2:]
    assert rows == ["| ours | 0.500 (0.400 to 0.600) | 0.750 |", "| lime | – | – |"]
    assert {path.name for path in tmp_path.iterdir()} == {"imagenette.localisation.png", "imagenette.removal.png"}


def test_the_table_of_depths_is_measured_by_the_commands() -> None:
    (heads, *rows), _ = table("depth.py", EXAMPLES / "cifar10" / "pictures", "cifar10", "--pictures", "2")
    assert heads[:3] == ["network", "layers", "interpretable from"]
    ((name, layers, *shares),) = rows
    command = [
        "evaluate",
        "depth",
        str(EXAMPLES / "cifar10" / "pictures"),
        "-m",
        "cifar10",
        "--pictures",
        "2",
        "--json",
    ]
    found = program.run(*command).record["layers"]
    assert (name, int(layers)) == ("cifar10", len(found))
    assert shares[-1] == f"{found[0]['ratio'][1]:.1f}"


def test_every_nth_class_is_chosen_and_all_but_its_first_pictures_are_held_out(tmp_path: Path) -> None:
    squares.folders(tmp_path / "all", 5, classes=tuple("abcdefg"))
    links = program.example("own_network").chosen(tmp_path / "all", tmp_path / "links", 3, 2)
    found = {path.relative_to(links).as_posix(): path.read_bytes() for path in sorted(links.rglob("*.png"))}
    assert {name.rpartition("/")[0] for name in found} == {f"{part}/{c}" for part in ("train", "test") for c in "ace"}
    assert [name for name in found if name.startswith("train/c/")] == ["train/c/00000.png", "train/c/00001.png"]
    assert found["test/c/00004.png"] == (tmp_path / "all" / "c" / "04.png").read_bytes()


def test_the_table_of_temperatures_goes_on_where_it_stopped(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = program.example("temperature")
    small = {"channels": [6, 4, 10], "kernels": [3, 1], "strides": [4, 2], "ranks": [2, 2]}
    monkeypatch.setitem(script.PUBLISHED, script.CONFIGURATION, {**script.PUBLISHED[script.CONFIGURATION], **small})
    monkeypatch.setattr(script, "train", partial(script.train, compiled=False))  # compiling would take most time
    wanted = (scenes, tmp_path, "10", "100", "--matrix-l1", "0", "0.5", "--epochs", "1", "--grids", "1")
    monkeypatch.setattr(sys, "argv", ["temperature.py", *map(str, wanted)])

    def printed_rows() -> list[list[str]]:
        script.main()
        return [[cell.strip() for cell in line.strip("|").split("|")] for line in capsys.readouterr().out.splitlines()]

    heads, _, *rows = first = printed_rows()
    assert heads == ["T", "matrix L1", "accuracy", "3 x 3 localisation, 1 grids"]
    assert [row[:2] for row in rows] == [["10", "0"], ["10", "0.5"], ["100", "0"], ["100", "0.5"]]
    assert all(row[3].startswith("none: no 3 x 3 grid can be made") for row in rows)
    networks = sorted(tmp_path.glob("*/network.safetensors"))
    checkpoints = [coda_cli.load(str(path)).checkpoint for path in networks]
    assert [(c.arguments["temperature"], c.training["recipe"]["matrix_l1"]) for c in checkpoints] == [
        (10.0, 0.0),
        (10.0, 0.5),
        (100.0, 0.0),
        (100.0, 0.5),
    ]
    networks[0].unlink()  # this one is made again, from its last state; the other is taken as it is
    kept = networks[1].stat().st_mtime_ns
    assert printed_rows() == first
    assert networks[1].stat().st_mtime_ns == kept
    assert networks[0].exists()


def test_the_table_of_temperatures_has_the_mean_and_its_interval(monkeypatch: pytest.MonkeyPatch, net: Net) -> None:
    script = program.example("temperature")
    scores = np.array([[0.4] * 9, [0.6] * 9])
    monkeypatch.setattr(script, "localise", lambda *_, count: Localisation(scores[:count]))
    pictures = Split(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64), ("a", "b"))
    text = script.localised(net, pictures, 2)
    assert text.startswith("0.500 (0.4")
    assert script.localised(net, pictures, 1) == "0.400 (0.400 to 0.400)"


def test_the_shards_of_webdataset_are_explained(tmp_path: Path) -> None:
    names = ("airplane", "ship", "automobile", "truck")
    expected = {f"pictures/{name}.coda.json": name for name in names}
    assert printed("webdataset_shards.py", str(EXAMPLES / "cifar10/pictures"), str(tmp_path / "out")) == expected
    assert (tmp_path / "out/shards/photos-001.tar").exists()
