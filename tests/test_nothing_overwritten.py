"""Nothing is overwritten unasked: not by any command that writes a file, nor by several runs at the same moment."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import program
import pytest
from conftest import Coda
from program import moving, photo, tree
from squares import TINY, folders

from coda_cli.checkpoints import proof
from coda_cli.checkpoints.loading import load
from coda_cli.errors import UsageError
from coda_cli.explanation import compare, files
from coda_cli.explanation.clip.files import ClipOutputs, Sink
from coda_cli.explanation.run import explain_many
from coda_cli.media import files as media_files
from coda_cli.media.files import TakenError, alone, give_name, write_with
from coda_cli.schema.pictures import from_json
from coda_cli.training.recipes import RECIPES
from coda_cli.training.state import LOG_FIELDS, LOG_FILE, STATE_FILE, Log
from coda_cli.video import writing

THEIRS = b"somebody else's\n"


# ---- one file --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
def test_a_new_file_takes_no_name_that_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    if not links:  # as on a memory card
        monkeypatch.setattr(os, "link", refused)
    taken, free, hanging = (tmp_path / name for name in ("taken", "free", "hanging"))
    taken.write_bytes(THEIRS)
    hanging.symlink_to("nowhere")
    for path in (taken, hanging):
        with pytest.raises(TakenError, match="exists, and is not replaced"):
            write_with(path, lambda stream: stream.write(b"ours"), replace=False)
    write_with(free, lambda stream: stream.write(b"ours"), replace=False)
    assert (taken.read_bytes(), free.read_bytes()) == (THEIRS, b"ours")
    assert sorted(os.listdir(tmp_path)) == ["free", "hanging", "taken"]
    assert os.readlink(hanging) == "nowhere"


def test_a_name_that_cannot_be_given_is_not_left_to_an_empty_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refused)
    monkeypatch.setattr(os, "replace", refused)
    (tmp_path / "made").write_bytes(b"ours")
    with pytest.raises(PermissionError):
        give_name(tmp_path / "made", tmp_path / "new", replace=False)
    assert os.listdir(tmp_path) == ["made"]


def test_a_lock_is_no_file_of_somebody_else(tmp_path: Path) -> None:
    (tmp_path / "poetry.lock").write_bytes(THEIRS)
    with alone(tmp_path / "poetry", "wait"):
        assert (tmp_path / "poetry.lock").read_bytes() == THEIRS
    assert os.listdir(tmp_path) == ["poetry.lock"]


# ---- several runs at once --------------------------------------------------------------------------------------------


def test_eight_runs_at_once_with_rename_keep_all_their_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them finds the same name free before any of them has written: the barrier sees to it."""
    photo(tmp_path / "a.png")
    together, honest, first = threading.Barrier(8), files.free_neighbour, threading.local()

    def found_by_all(path: Path) -> Path:
        found = honest(path)
        if not getattr(first, "done", False):
            first.done = True
            together.wait(program.PATIENCE)
        return found

    monkeypatch.setattr(files, "free_neighbour", found_by_all)
    net = load("cifar10")

    def explained(_: int) -> list[Path]:
        (outcome,) = explain_many([tmp_path / "a.png"], net, "cat", output=tmp_path / "out", if_exists="rename")
        assert outcome.error is None
        return list(outcome.written)

    with ThreadPoolExecutor(8) as pool:
        written = list(pool.map(explained, range(8)))
    assert len({path for paths in written for path in paths}) == len(tree(tmp_path / "out")) == 16
    for overlay, record in written:
        named = from_json(record.read_text()).explained[0].files["overlay"]
        assert tmp_path / "out" / named == overlay


@pytest.mark.parametrize("policy", ["match", "error", "skip"])
def test_a_file_that_came_while_a_picture_was_drawn_is_kept(
    coda: Coda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    from coda_cli.explanation import writer

    photo(tmp_path / "a.png")
    overlay, honest = tmp_path / "coda-out/a.cat.overlay.png", writer.draw

    def slow(*args: Any) -> Any:
        overlay.write_bytes(THEIRS)
        return honest(*args)

    monkeypatch.setattr(writer, "draw", slow)
    status = 0 if policy == "skip" else 1
    result = coda("explain", "a.png", "--class", "cat", "--if-exists", policy, status=status)
    assert overlay.read_bytes() == THEIRS
    assert bool(result.errors) == (policy != "skip")
    assert not list(overlay.parent.glob(".coda-*"))


@pytest.mark.parametrize("kind", ["overlay", "layers", "depth", "npz", "json"])
def test_a_file_that_came_at_the_last_moment_is_kept(
    coda: Coda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """After its name was found free, and before it is given."""
    photo(tmp_path / "a.png")

    def late(temporary: Path, path: Path, *, replace: bool) -> None:
        path.write_bytes(THEIRS)
        give_name(temporary, path, replace=replace)

    for home in (media_files, writing):
        monkeypatch.setattr(home, "give_name", late)
    error = coda("explain", "a.png", "--class", "cat", "--write", kind, status=1).error
    assert "exists from another picture, or is not coda's" in error
    assert [path.read_bytes() for path in (tmp_path / "coda-out").iterdir()] == [THEIRS]


@pytest.mark.parametrize("policy", ["match", "error", "skip", "rename"])
def test_a_link_to_nothing_is_there(coda: Coda, tmp_path: Path, policy: str) -> None:
    photo(tmp_path / "a.png")
    overlay = tmp_path / "coda-out/a.cat.overlay.png"
    overlay.parent.mkdir()
    overlay.symlink_to("nowhere")
    status = 1 if policy in ("match", "error") else 0
    result = coda("explain", "a.png", "--class", "cat", "--if-exists", policy, status=status)
    assert os.readlink(overlay) == "nowhere"
    assert ("coda-out/a.cat.overlay-2.png" in result.lines) == (policy == "rename")


def test_of_runs_that_want_the_same_clip_one_goes_on(coda: Coda, tmp_path: Path) -> None:
    moving(tmp_path / "a.gif")
    (tmp_path / "coda-out").mkdir()
    for name in ("a.coda.mp4", "a.coda.jsonl"):
        with alone(tmp_path / "coda-out" / name, "wait"):
            error = coda("video", "a.gif", "--class", "0", status=2).error
        assert error == f"coda-out/{name}: another run writes to it; wait for its end, or name another --output"
        assert tree(tmp_path / "coda-out") == {}


@pytest.mark.parametrize(("form", "late"), [("mp4", "a.coda.mp4"), ("gif", "a.coda.jsonl"), ("png", "a.coda/x")])
def test_a_file_that_came_while_a_clip_was_made_is_kept(
    coda: Coda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, late: str
) -> None:
    moving(tmp_path / "a.gif")
    honest = Sink.finish

    def slow(*args: Any) -> Any:
        (tmp_path / "coda-out" / late).parent.mkdir(exist_ok=True)
        (tmp_path / "coda-out" / late).write_bytes(THEIRS)
        return honest(*args)

    monkeypatch.setattr(Sink, "finish", slow)
    error = coda("video", "a.gif", "--class", "0", "--format", form, status=1).error
    assert error.endswith("exists, and is not replaced")
    assert (tmp_path / "coda-out" / late).read_bytes() == THEIRS
    assert not list((tmp_path / "coda-out").glob(".coda-*"))


def test_numbered_frames_are_replaced_only_when_asked_and_only_they(tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames" / "000000.png").write_bytes(THEIRS)
    for name, replaced in (("new", True), ("new-2", False)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(b"ours")
        if replaced:
            (tmp_path / "frames" / "notes.txt").write_bytes(THEIRS)
        with pytest.raises(TakenError):
            writing._put_in_place(tmp_path / name, tmp_path / "frames", replace=replaced)
        (tmp_path / "frames" / "notes.txt").unlink(missing_ok=True)
    writing._put_in_place(tmp_path / "new", tmp_path / "frames", replace=True)
    assert (tmp_path / "frames" / "1.png").read_bytes() == b"ours"


def test_a_clip_that_was_written_since_its_name_was_looked_for_is_kept(tmp_path: Path) -> None:
    """Two runs find the name free; the first ends before the second takes the lock."""
    (tmp_path / "a.mp4").write_bytes(THEIRS)
    for outputs in (ClipOutputs({"mp4": tmp_path / "a.mp4"}), ClipOutputs(record=tmp_path / "a.mp4")):
        with pytest.raises(Exception, match="exists; --force replaces it"), outputs.held():
            pass
    with ClipOutputs({"mp4": tmp_path / "a.mp4"}, replace=True).held():
        pass
    assert os.listdir(tmp_path) == ["a.mp4"]


@pytest.mark.parametrize("kind", ["png", "npz", "json"])
def test_a_file_that_came_while_methods_were_compared_is_kept(
    coda: Coda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    photo(tmp_path / "a.png")
    late, honest = tmp_path / f"coda-out/a.cat.compare.{kind}", compare.sheet

    def slow(*args: Any) -> Any:
        late.write_bytes(THEIRS)
        return honest(*args)

    monkeypatch.setattr(compare, "sheet", slow)
    command = ("compare", "a.png", "--method", "ours", "--class", "cat")
    assert coda(*command, status=1).error == f"coda-out/{late.name}: exists, and is not replaced"
    assert late.read_bytes() == THEIRS
    coda(*command, "--force")
    assert late.read_bytes() != THEIRS


# ---- commands that write one file ------------------------------------------------------------------------------------


def test_a_converted_network_replaces_nothing_unasked(
    coda: Coda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.safetensors").write_bytes(load("cifar10").path.read_bytes())
    honest = proof._difference

    def slow(*args: Any) -> float:
        (tmp_path / "b.safetensors").write_bytes(THEIRS)
        return honest(*args)

    with monkeypatch.context() as patch:
        patch.setattr(proof, "_difference", slow)
        late = coda("models", "convert", "a.safetensors", "-o", "b.safetensors", status=1).error
    assert late == "b.safetensors: exists, and is not replaced"
    early = coda("models", "convert", "a.safetensors", "-o", "b.safetensors", status=2).error
    assert early == "b.safetensors: exists; --force replaces it, --output names another file"
    assert (tmp_path / "b.safetensors").read_bytes() == THEIRS
    itself = coda("models", "convert", "a.safetensors", "-f", status=2).error
    assert itself == "a.safetensors: is one of the inputs and is not overwritten; choose another --output"
    coda("models", "convert", "a.safetensors", "-o", "b.safetensors", "-f")
    assert load(tmp_path / "b.safetensors").checkpoint.name == "cifar10"
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == ["a.safetensors", "b.safetensors"]


MEASURE = ("evaluate", "localisation", "--grid", "2x2", "--grids", "2", "--threshold", "0", "--plot", "theirs.png")
REMOVE = ("evaluate", "removal", "--pictures", "2", "--points", "2", "--plot", "theirs.png")
VERIFY = ("models", "verify", "cifar10", "--logits", "theirs.npz", "--accuracy")


DEPTH = ("evaluate", "depth", "-m", "cifar10", "--pictures", "1", "--plot", "theirs.png")
ALL = pytest.mark.parametrize(
    "command", [MEASURE, REMOVE, DEPTH, VERIFY], ids=["localisation", "removal", "depth", "logits"]
)


@ALL
def test_figures_and_logits_replace_nothing_unasked(
    coda: Coda, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    option = command[-3] if "--logits" in command else command[-2]
    path = tmp_path / next(word for word in command if word.startswith("theirs"))
    path.write_bytes(THEIRS)
    refused = coda(*command, scenes, status=2)
    assert refused.error == f"{path.name}: exists; --force replaces it, {option} names another file"
    assert path.read_bytes() == THEIRS
    with monkeypatch.context() as patch:  # it comes after the name was looked for
        patch.setattr("coda_cli.explanation.files.refuse_taken", lambda *_, **__: None)
        assert coda(*command, scenes, status=1).error == f"{path.name}: exists, and is not replaced"
    assert path.read_bytes() == THEIRS
    coda(*command, scenes, "--force")
    assert path.read_bytes() != THEIRS


@ALL
def test_a_network_is_never_replaced_by_what_is_measured_of_it(
    coda: Coda, scenes: Path, tmp_path: Path, command: tuple[str, ...]
) -> None:
    path = next(word for word in command if word.startswith("theirs"))
    (tmp_path / path).write_bytes(THEIRS)
    named = [path if word == "cifar10" else word for word in command]
    named[2:2] = [] if path in named[2:3] or "-m" in named else ["-m", path]
    assert f"{path}: is one of the inputs" in coda(*named, scenes, "--force", status=2).error
    assert (tmp_path / path).read_bytes() == THEIRS


# ---- training --------------------------------------------------------------------------------------------------------


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., program.Result]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(RECIPES, "tiny", replace(TINY, epochs=1))
    data = folders(tmp_path / "data", 40)

    def run(*more: str, status: int = 0) -> program.Result:
        fixed = ("--recipe", "tiny", "--no-compile", "--device", "cpu", "-o", "run")
        return program.run("train", data, *fixed, *more, status=status)

    return run


@pytest.mark.usefixtures("one_thread")
def test_a_log_of_something_else_is_kept(train: Callable[..., program.Result], tmp_path: Path) -> None:
    log = tmp_path / "run" / LOG_FILE
    log.parent.mkdir()
    header = ",".join(LOG_FIELDS) + "\r\n"
    row = ",".join("1" for _ in LOG_FIELDS) + "\r\n"
    for content in (THEIRS, (header + row).encode(), b""):
        log.write_bytes(content)
        refused = train(status=2)
        said = "run/log.csv: exists, and is not replaced; move it away, or -o DIR starts in another folder"
        assert refused.error == said
        assert tree(tmp_path / "run") == {LOG_FILE: content}
    log.unlink()
    log.symlink_to("nowhere")
    train(status=2)
    assert os.readlink(log) == "nowhere"
    log.unlink()
    log.write_text(header, newline="")  # of a run that was stopped in its first epoch: nothing is lost
    train()


def test_a_run_from_python_begins_no_log_over_another(tmp_path: Path) -> None:
    (tmp_path / LOG_FILE).write_bytes(THEIRS)
    with pytest.raises(UsageError, match="exists, and is not replaced"):
        Log(tmp_path / LOG_FILE, keep_until=0)
    assert (tmp_path / LOG_FILE).read_bytes() == THEIRS


@pytest.mark.usefixtures("one_thread")
def test_a_resumed_run_replaces_its_own_network_only(train: Callable[..., program.Result], tmp_path: Path) -> None:
    train("--time-budget", "0")
    theirs = tmp_path / "run" / "theirs.safetensors"
    theirs.write_bytes(THEIRS)
    refused = train("--resume", "--name", "theirs", status=2)
    assert refused.error == "run/theirs.safetensors: exists; choose another --name or -o DIR"
    theirs.write_bytes(load("cifar10").path.read_bytes())  # a network, of another recipe
    train("--resume", "--name", "theirs", status=2)
    train("--resume")
    own = tmp_path / "run" / "data.safetensors"
    os.utime(own, (0, 0))
    train("--resume")
    assert own.stat().st_mtime > 0


def test_a_network_that_came_while_it_was_trained_is_kept(
    train: Callable[..., program.Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from coda_cli.training import loop

    honest = loop._final_accuracy

    def slow(*args: Any) -> float:
        (tmp_path / "run" / "data.safetensors").write_bytes(THEIRS)
        return honest(*args)

    monkeypatch.setattr(loop, "_final_accuracy", slow)
    assert train(status=1).error == "run/data.safetensors: exists, and is not replaced"
    assert (tmp_path / "run" / "data.safetensors").read_bytes() == THEIRS


def test_an_output_is_no_input(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is one of the inputs"):
        files.refuse_taken(tmp_path / "a", "--plot", force=True, inputs=[tmp_path / "b" / ".." / "a"])


def test_scores_replace_no_link_to_nothing(coda: Coda, scenes: Path, tmp_path: Path) -> None:
    (tmp_path / "s.jsonl").symlink_to("nowhere")
    error = coda(*MEASURE[:-2], scenes, "--scores", "s.jsonl", status=1).error
    assert error == "s.jsonl: is no file that scores can be kept in; name another one"
    assert os.readlink(tmp_path / "s.jsonl") == "nowhere"


def test_a_state_that_is_a_link_to_nothing_is_there(train: Callable[..., program.Result], tmp_path: Path) -> None:
    state = tmp_path / "run" / STATE_FILE
    state.parent.mkdir()
    state.symlink_to("nowhere")
    assert train(status=2).error.startswith("run: holds a run already")
    assert os.readlink(state) == "nowhere"
    assert [path.name for path in state.parent.iterdir()] == [STATE_FILE]


def test_a_log_of_something_else_is_found_before_any_picture_is_read(
    train: Callable[..., program.Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*_: Any, **__: Any) -> None:
        raise AssertionError

    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOG_FILE).write_bytes(THEIRS)
    monkeypatch.setattr("coda_cli.training.datasets.load", read)
    assert "run/log.csv: exists" in train(status=2).error


def test_two_runs_train_in_no_folder_at_once(train: Callable[..., program.Result], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with alone(tmp_path / "run" / STATE_FILE, "-"):
        said = train(status=2).error
    assert "-o DIR starts another" in said
    assert not list((tmp_path / "run").glob("*.safetensors"))
