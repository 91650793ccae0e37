"""``--dry-run`` says what the run then does, and writes nothing; ``--log`` says what it did, a line for each item."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import program
import pytest
from films import film
from program import photo, photos, tree

from coda_cli.checkpoints.loading import load
from coda_cli.checkpoints.outline import outline
from coda_cli.cli import run_log
from coda_cli.errors import MediaError
from coda_cli.schema import logs, plans

Coda = Callable[..., program.Result]
BUNDLED = ("imagenet", "imagenette", "cifar10", "cifar10-bcos")


def lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a log; every one is what its schema says."""
    found = [program.strict_json(line) for line in path.read_text().splitlines()]
    for line in found:
        jsonschema.validate(line, logs.json_schema())
    return found


def planned(result: program.Result) -> tuple[list[tuple[str, str]], dict[str, Any]]:
    """What a dry run says of the items, and of the whole run."""
    for record in result.records:
        jsonschema.validate(record, plans.json_schema())
    *items, whole = result.records
    return [(one["item"], one["what"]) for one in items], whole


# ---- a dry run -------------------------------------------------------------------------------------------------------


def test_what_would_be_done_is_what_is_done_then(coda: Coda, tmp_path: Path) -> None:
    photos(tmp_path / "in", "a.png", "b.png", "c.png", "d.png")
    (tmp_path / "in" / "e.png").write_bytes(b"none")
    coda("explain", "in/a.png", "in/b.png", "-o", "out")
    photo(tmp_path / "in" / "b.png", seed=9)  # another picture of the same name: its results may not be replaced
    before = tree(tmp_path)
    foreseen = coda("explain", "in", "-o", "out", "--dry-run", "--json", status=1)
    assert tree(tmp_path) == before
    items, whole = planned(foreseen)
    assert items == [
        ("in/a.png", "skip"), ("in/b.png", "fail"), ("in/c.png", "explain"), ("in/d.png", "explain"),
        ("in/e.png", "fail"),
    ]  # fmt: skip
    assert whole["counts"] == {"skip": 1, "fail": 2, "explain": 2}
    done = coda("explain", "in", "-o", "out", "--json", "--log", "l.jsonl", status=1)
    words = {"skipped": "skip", "explained": "explain", "failed": "fail"}
    assert [(line["item"], words[line["what"]]) for line in lines(tmp_path / "l.jsonl")] == items
    assert foreseen.errors == done.errors
    record = next(one for one in done.records if one["source"]["path"] == "in/c.png")
    assert whole["settings"] == record["settings"]
    assert (whole["network"], whole["network_sha256"]) == (record["network"]["name"], record["network"]["sha256"])
    assert whole["loaded"] is False
    again = coda("explain", "in/a.png", "in/c.png", "-o", "out", "--dry-run", "--json")
    assert planned(again)[1]["counts"] == {"skip": 2}


def test_a_name_is_on_one_line_and_gives_a_terminal_no_commands(coda: Coda, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
        archive.writestr("new\nline.png", photo(tmp_path / "a.png").read_bytes())
        archive.writestr("\x1b[31mred.png", photo(tmp_path / "a.png").read_bytes())
    assert coda("explain", "p.zip", "--write", "json", "--dry-run").lines == [
        r"explain p.zip/new\x0aline.png: coda-out/new\x0aline.coda.json",
        r"explain p.zip/\x1b[31mred.png: coda-out/\x1b[31mred.coda.json",
    ]


def test_a_dry_run_makes_no_folder(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    film(tmp_path / "a.mp4", [program.scene(64, 64, seed) for seed in range(3)])
    before = tree(tmp_path)
    for args in (
        ("explain", "a.png", "-o", "new/out", "--html", "page/a.html", "--shard", "1/1"),
        ("video", "a.mp4", "-o", "new/out", "--html", "page/a.html"),
    ):
        said = coda(*args, "--dry-run", "--log", "l.jsonl").err
        assert "nothing was written" in said
    assert tree(tmp_path) == before
    assert not (tmp_path / "new").exists()
    assert not (tmp_path / "page").exists()


@pytest.mark.parametrize(
    ("args", "status", "said"),
    [
        (("--class", "cow"), 2, "has no class 'cow'"),
        (("--name", "{stem}.{kind}.{ext}", "--class", "all"), 2, "--name: needs {class_slug}"),
        (("--scale", "run"), 2, "nobody knows the scale before"),
        (("--html", "a.txt"), 2, "--html names a file that ends in .html"),
        (("--html", "there.html"), 2, "there.html: exists"),
        (("-m", "none.pth"), 3, "no such file"),
        (("-o", "a.png/x"), 2, "a.png/x: cannot write into this folder (Not a directory)"),
        (("-o", "a.png/x.tar"), 2, "a.png: cannot write into this folder (File exists)"),
        (("--html", "a.png/x/y.html"), 2, "a.png/x: cannot write into this folder (Not a directory)"),
        (("--device", "none"), 2, "--device none: "),
        (("--log", "none/l.jsonl"), 2, "none/l.jsonl: --log: cannot be written (No such file or directory)"),
        (("--log", "a.png"), 2, "a.png: exists, and is no log of coda"),
        (("--log", "."), 2, "--log: cannot be written (Is a directory)"),
        (("--log", "-"), 2, "--log: names a file, and stdout is for results"),
        (("--log", "out", "-o", "./out"), 2, "out: --log: --output names the same"),
        (("--log", "o.tar", "-o", "o.tar"), 2, "o.tar: --log: --output names the same"),
        (("--log", "page.html", "--html", "page.html"), 2, "page.html: --log: --html names the same"),
    ],
)
def test_what_a_run_refuses_a_dry_run_refuses(
    coda: Coda, tmp_path: Path, args: tuple[str, ...], status: int, said: str
) -> None:
    photo(tmp_path / "a.png")
    (tmp_path / "there.html").touch()
    if "run" not in args:
        refused = coda("explain", "a.png", *args, status=status).error
        assert coda("explain", "a.png", *args, "--dry-run", status=status).error == refused
        assert sorted(path.name for path in tmp_path.iterdir() if path.name != ".cache") == ["a.png", "there.html"]
    assert said in coda("explain", "a.png", *args, "--dry-run", status=status).error


@pytest.mark.parametrize("at", ["-o", "--html"])
def test_a_place_that_a_run_refuses_a_dry_run_refuses(coda: Coda, tmp_path: Path, at: str) -> None:
    photo(tmp_path / "a.png")
    film(tmp_path / "a.mp4", [program.scene(64, 64, seed) for seed in range(3)])
    coda("explain", "a.png", "-o", "out")
    for command in (("video", "a.mp4"), ("summary", "out"), ("video", ".")):
        refused = coda(*command, at, "a.png/x/y.html" if at == "--html" else "a.png/x/", status=2).error
        again = coda(*command, at, "a.png/x/y.html" if at == "--html" else "a.png/x/", "--dry-run", status=2).error
        assert again == refused, command


def test_a_clip_of_one_frame_has_one(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    assert coda("video", "a.png", "--dry-run").lines[0].startswith("explain a.png (1 frame): ")


def test_a_clip_that_is_there_is_refused_and_another_is_not(coda: Coda, tmp_path: Path) -> None:
    frames = [program.scene(64, 64, seed) for seed in range(4)]
    film(tmp_path / "a.mp4", frames)
    film(tmp_path / "b.mp4", frames[:2])
    coda("video", "a.mp4", "--class", "cat")
    before = tree(tmp_path)
    foreseen = coda("video", "a.mp4", "b.mp4", "--class", "cat", "--dry-run", "--json", status=1)
    assert planned(foreseen)[0] == [("a.mp4", "fail"), ("b.mp4", "explain")]
    assert foreseen.records[1]["outputs"] == ["coda-out/b.coda.mp4", "coda-out/b.coda.jsonl"]
    assert foreseen.records[1]["frames"] == 2
    other = coda("video", "a.mp4", "--class", "dog", "--dry-run").lines
    assert other[0].startswith("explain a.mp4 (4 frames): coda-out/a.")  # beside those of the other class
    assert tree(tmp_path) == before


def test_a_summary_says_its_records_and_files(coda: Coda, tmp_path: Path) -> None:
    photos(tmp_path / "in", "a.png", "b.png")
    coda("explain", "in", "-o", "out", "--write", "json")
    before = tree(tmp_path)
    items, whole = planned(coda("summary", "out", "-o", "s", "--html", "s/s.html", "--dry-run", "--json"))
    assert items == [("out/a.coda.json", "summarise"), ("out/b.coda.json", "summarise")]
    assert whole["outputs"] == ["s/summary.json", "s/summary.csv", "s/s.html"]
    assert tree(tmp_path) == before
    done = coda("summary", "out", "-o", "s", "--html", "s/s.html", "--log", "l.jsonl")
    (line,) = lines(tmp_path / "l.jsonl")
    assert (line["what"], line["outputs"]) == ("summarised", whole["outputs"]), done
    assert "exists" in coda("summary", "out", "-o", "s", "--dry-run", status=2).error


@pytest.mark.parametrize("name", BUNDLED)
def test_an_outline_is_the_network_without_its_numbers(name: str) -> None:
    found, net = outline(name), load(name)
    assert found is not None
    assert (found.checkpoint, found.path, found.sha256, found.cut) == (net.checkpoint, net.path, net.sha256, net.cut)
    assert all(p.is_meta for p in found.model.parameters())
    assert {k: v.shape for k, v in found.model.state_dict().items()} == {
        k: v.shape for k, v in net.model.state_dict().items()
    }


def test_only_what_describes_itself_has_an_outline(tmp_path: Path, ordinary: Path) -> None:
    (tmp_path / "broken.safetensors").write_bytes(b"no")
    for source in (ordinary, tmp_path / "broken.safetensors", tmp_path / "none.safetensors", tmp_path):
        assert outline(str(source)) is None


def test_an_ordinary_network_is_loaded_for_a_dry_run(coda: Coda, tmp_path: Path, ordinary: Path) -> None:
    photo(tmp_path / "a.png")
    result = coda("explain", "a.png", "-m", ordinary, "--arch", "torchvision:resnet18", "--dry-run", "--json")
    assert planned(result)[1]["loaded"] is True


# ---- a log -----------------------------------------------------------------------------------------------------------


def test_a_log_has_a_line_for_each_item_and_grows(coda: Coda, tmp_path: Path) -> None:
    photos(tmp_path, "a.png", "b.png")
    (tmp_path / "c.png").write_bytes(b"none")
    coda("explain", "a.png", "c.png", "--class", "cat", "--log", "l.jsonl", status=1)
    coda("explain", "a.png", "b.png", "--class", "cat", "--log", "l.jsonl", "--force")
    found = lines(tmp_path / "l.jsonl")
    assert [(one["item"], one["what"]) for one in found] == [
        ("a.png", "explained"), ("c.png", "failed"), ("a.png", "explained"), ("b.png", "explained"),
    ]  # fmt: skip
    assert found[0]["outputs"] == ["coda-out/a.cat.overlay.png", "coda-out/a.coda.json"]
    assert found[0]["seconds"] > 0
    assert found[1]["error"]["kind"] == "MediaError"
    assert found[1]["error"]["message"].startswith("c.png: ")
    assert found[1]["seconds"] is None
    assert [one["time"] for one in found] == sorted(one["time"] for one in found)


def test_a_log_of_clips(coda: Coda, tmp_path: Path) -> None:
    film(tmp_path / "a.mp4", [program.scene(64, 64, seed) for seed in range(3)])
    (tmp_path / "b.mp4").write_bytes(b"none")
    coda("video", "a.mp4", "b.mp4", "--log", "l.jsonl", status=1)
    done, failed = lines(tmp_path / "l.jsonl")
    assert (done["command"], done["item"], done["what"]) == ("video", "a.mp4", "explained")
    assert done["outputs"] == ["coda-out/a.coda.mp4", "coda-out/a.coda.jsonl"]
    assert (failed["item"], failed["what"], failed["error"]["kind"]) == ("b.mp4", "failed", "MediaError")


def test_a_log_names_what_is_no_record(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    coda("explain", "a.png", "-o", "out", "--write", "json")
    (tmp_path / "out" / "b.coda.json").write_text("{}")
    coda("summary", "out", "--log", "l.jsonl", status=1)
    failed, done = lines(tmp_path / "l.jsonl")
    assert (failed["item"], failed["what"]) == ("out/b.coda.json", "failed")
    assert (done["item"], done["what"]) == ("out", "summarised")


def test_a_log_never_adds_to_what_is_no_log(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    photo(tmp_path / "b.png")
    before = tree(tmp_path)
    refused = coda("explain", "a.png", "--log", "b.png", status=2).error
    assert refused == "b.png: exists, and is no log of coda; --log appends to a log"
    assert "cannot be written" in coda("explain", "a.png", "--log", "none/l.jsonl", status=2).error
    assert {name: held for name, held in tree(tmp_path).items() if "coda-out" not in name} == before


def test_a_run_that_is_refused_leaves_no_log(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    film(tmp_path / "a.mp4", [program.scene(64, 64, seed) for seed in range(3)])
    for args in (("summary", "none"), ("explain", "a.png", "-o", "a.png/b"), ("video", "a.mp4", "--html", "a.mp4")):
        coda(*args, "--log", "l.jsonl", status=2)
        assert not (tmp_path / "l.jsonl").exists(), args
    for command in ("video", "summary"):
        refused = coda(command, "a.mp4", "-o", "l.jsonl", "--log", "l.jsonl", status=2).error
        assert refused == "l.jsonl: --log: --output names the same; name another file"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")
def test_a_pipe_is_opened_once(coda: Coda, tmp_path: Path) -> None:
    """Who reads it takes its end for that of the run."""
    photos(tmp_path, "a.png", "b.png")
    os.mkfifo(tmp_path / "pipe")
    read = list[str]()
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_text()), daemon=True)
    reader.start()
    coda("explain", "a.png", "b.png", "--log", "pipe", "--write", "none")
    reader.join(program.PATIENCE)
    assert [json.loads(line)["item"] for line in read[0].splitlines()] == ["a.png", "b.png"]


def test_a_disk_that_takes_half_a_line_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        """The rest of a disk: a system writes what fits, and says so only of the next call."""

        left = 20

        def write(self, data: memoryview) -> int:
            """Take what fits."""
            if not self.left:
                raise OSError(errno.ENOSPC, "No space left on device")
            taken, self.left = min(self.left, len(data)), 0
            return taken

        def close(self) -> None:
            """Nothing."""

    monkeypatch.setattr(run_log, "_opened", lambda _: Full())
    with run_log.RunLog(tmp_path / "l.jsonl", "explain", {}) as log, pytest.raises(MediaError, match="No space left"):
        log.add("a.png", "explained")


def test_a_line_that_a_crash_cut_off_does_not_join_the_next(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    cut = '{"schema":"coda.log","schema_ver'
    (tmp_path / "l.jsonl").write_text(cut)
    coda("explain", "a.png", "--log", "l.jsonl")
    first, second = (tmp_path / "l.jsonl").read_text().splitlines()
    assert first == cut
    assert json.loads(second)["what"] == "explained"


def test_a_run_that_is_killed_has_told_what_it_did(tmp_path: Path) -> None:
    for n in range(30):
        photo(tmp_path / "in" / f"{n}.png", seed=n)
    args = ("explain", "in", "-o", "out", "--batch-size", "1", "--log", "l.jsonl")
    with program.started(*args, cwd=tmp_path, stdout=subprocess.DEVNULL, most=15) as child:
        log = tmp_path / "l.jsonl"
        while child.poll() is None and not (log.exists() and log.stat().st_size):
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL  # it had not ended by itself, when all lines are there anyway
    found = lines(log)
    assert found
    for one in found:
        assert all((tmp_path / name).exists() for name in one["outputs"])
