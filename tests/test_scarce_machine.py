"""What a full disk or little memory does to a run: it costs as few pictures as can be, and is said once."""

from __future__ import annotations

import errno
import os
import re
import shutil
import sys
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import program
import pytest
import torch
from conftest import Coda
from films import counted, largest_file, write
from program import FullDisk, looked_at, photo, photos, scene, tree
from squares import folders

from coda_cli.checkpoints.loading import load
from coda_cli.checkpoints.proof import convert
from coda_cli.core.decompose import decompose
from coda_cli.errors import MediaError
from coda_cli.explanation import picture as pictures
from coda_cli.explanation import request, writer
from coda_cli.machine import budget, gate
from coda_cli.machine.memory import refuse_little_memory
from coda_cli.media import files as media_files
from coda_cli.study.scores import Scores

TRAINING = ("train", "data", "-o", "run", "--recipe", "cifar10", "--no-compile")

# ---- disk ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("room", [0, 1, 2])
def test_a_full_disk_leaves_nothing_half_written(
    coda: Coda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    photo(tmp_path / "a.png")
    monkeypatch.setattr(media_files, "os", FullDisk(room))
    args = ("explain", "a.png", "--class", "cat", "--write", "overlay,npz,json")
    result = coda(*args, status=1)
    name = ["a.cat.overlay.png", "a.coda.npz", "a.coda.json"][room]
    assert result.error == f"coda-out/{name}: cannot be written (No space left on device)"
    assert sorted(tree(tmp_path / "coda-out")) == ["a.cat.overlay.png", "a.coda.npz"][:room]
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert len(coda(*args).lines) == 3  # once there is room, the same command goes on


# ---- memory ----------------------------------------------------------------------------------------------------------


def test_a_picture_too_large_for_the_memory_costs_only_itself(
    coda: Coda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos(tmp_path / "in", "a.png", "b.png", "c.png")
    dark = int(scene(seed=1).sum())

    def explain_batch(views: Any, **more: Any) -> Any:
        if any(int(view.rgb.sum()) == dark for view in views):
            raise MemoryError
        return pictures.explain_batch(views, **more)

    monkeypatch.setattr("coda_cli.explanation.run.explain_batch", explain_batch)
    for scale in ("image", "run"):
        result = looked_at(coda, "in", "--fit", "native", "--scale", scale, status=1)
        assert [r["status"] for r in result.records] == ["ok", "error", "ok"]
        assert result.error == "in/b.png: not enough memory for 50 x 40 pixels; use --fit crop, or make it smaller"


def test_batches_are_computed_two_at_a_time_and_pictures_that_fill_one_alone(
    coda: Coda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos(tmp_path / "in", *(f"{i}.png" for i in range(8)))
    counting, inside, most, meeting = threading.Lock(), 0, 0, threading.Barrier(1)

    def explain_batch(views: Any, **more: Any) -> Any:
        nonlocal inside, most
        with counting:
            inside += 1
            most = max(most, inside)
        meeting.wait(program.PATIENCE)  # for the other one, if there is to be one
        time.sleep(0.1)  # for one that is not to be
        with counting:
            inside -= 1
        return pictures.explain_batch(views, **more)

    monkeypatch.setattr("coda_cli.explanation.run.explain_batch", explain_batch)
    # As with two threads, whatever this process has:
    monkeypatch.setattr("coda_cli.explanation.run.divides", lambda count: count >= 2)
    for size, together in ((2, 2), (1, 1)):
        most, meeting = 0, threading.Barrier(together)
        looked_at(coda, "in", "--batch-size", str(size))
        assert most == together


@pytest.mark.parametrize("at_a_time", [1, 2])  # batches: as on a GPU, as on a CPU
def test_a_batch_too_large_for_the_memory_is_halved_said_once_and_remembered(
    coda: Coda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_a_time: int
) -> None:
    photos(tmp_path / "in", *(f"{i}.png" for i in range(10)))
    alone = [r["explained"] for r in looked_at(coda, "in", "--batch-size", "1").records]
    asked: list[int] = []

    def scarce(model: Any, x: Any, *args: Any, **more: Any) -> Any:
        asked.append(len(x))
        if len(x) > 2:
            time.sleep(0.05)  # for a batch beside this one to come as far
            raise MemoryError
        return decompose(model, x, *args, **more)

    monkeypatch.setattr(pictures, "decompose", scarce)
    monkeypatch.setattr(budget, "batches_at_once", lambda _: at_a_time)
    result = looked_at(coda, "in", "--batch-size", "5")
    if at_a_time == 1:
        assert asked == [5, 3, 2, 1, 2, 2, 1, 2]  # the second five are not tried at once again
    said = [line for line in result.err.splitlines() if "memory" in line]
    assert said == [
        "coda: warning: memory ran out with 5 pictures of 32 x 32 at once; going on with 3",
        "coda: warning: memory ran out with 3 pictures of 32 x 32 at once; going on with 2",
    ]
    for one, other in zip(alone, (r["explained"] for r in result.records), strict=True):
        assert other[0]["logit"] == pytest.approx(one[0]["logit"], abs=1e-5)


def test_a_picture_that_does_not_fit_leaves_nothing_behind(
    coda: Coda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU, what an error holds on to is missing for the next pictures."""
    photos(tmp_path / "in", *(f"{i}.png" for i in range(4)))
    computed: list[weakref.ref[torch.Tensor]] = []

    def scarce(model: Any, x: Any, *_: Any, **__: Any) -> Any:
        assert not [ref for ref in computed if ref() is not None]
        graph = model(x)
        computed.append(weakref.ref(graph))
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(pictures, "decompose", scarce)
    result = looked_at(coda, "in", "--batch-size", "4", status=1)
    assert len(computed) == 6  # four, two, and each alone
    expected = "not enough memory for 32 x 32 pixels; use --fit crop, or make it smaller"
    assert result.errors == [f"in/{i}.png: {expected}" for i in range(4)]


def test_memory_that_runs_out_while_reading_or_drawing_costs_one_picture(
    coda: Coda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos(tmp_path / "in", "a.png", "b.png", "c.png")
    dark = int(scene(seed=1).sum())

    def scarce(function: Callable[..., Any], error: Exception, place: int) -> Callable[..., Any]:
        def tried(*args: Any) -> Any:
            given = args[place]
            if int((given.picture.rgb if isinstance(given, pictures.Input) else given).sum()) == dark:
                raise error
            return function(*args)

        return tried

    said = "OpenCV(5.0.0) alloc.cpp:73: error: (-4:Insufficient memory) Failed to allocate 9 bytes in function 'f'"
    for home, name, error, place in ((request, "fit", MemoryError(), 0), (writer, "draw", RuntimeError(said), 1)):
        with monkeypatch.context() as patch:
            patch.setattr(home, name, scarce(getattr(home, name), error, place))
            result = coda("explain", "in", "--json", "-o", f"out-{name}", status=1)
        assert [r["status"] for r in result.records] == ["ok", "error", "ok"]
        assert result.error == "in/b.png: not enough memory to read or draw it; make it smaller first"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    "command", [("explain", "a.png"), ("video", "a.mp4"), ("models", "verify", "cifar10"), TRAINING]
)
def test_a_limit_that_leaves_too_little_memory_is_said_before_any_work(
    coda: Coda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    import resource

    photo(tmp_path / "a.png")
    write(tmp_path / "a.mp4", counted(2), [0, 0.1])
    folders(tmp_path / "data", 2)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = set(tmp_path.rglob("*"))
    monkeypatch.setattr(resource, "getrlimit", lambda _: (used + 10_000_000_000,) * 2)
    refuse_little_memory()
    monkeypatch.setattr(resource, "getrlimit", lambda _: (used + 100_000_000,) * 2)
    said = coda(*command, status=1).error
    assert re.fullmatch(r"the limit on memory \(ulimit -v\) leaves \d+ MB to work with; allow 400 MB or more", said)
    assert not [path for path in tmp_path.rglob("*") if path not in before and path.is_file()]


@pytest.mark.parametrize(("draws", "kind"), [("draw", "overlay"), ("draw_layers", "layers"), ("draw_layers", "depth")])
def test_drawings_count_their_memory_while_they_are_drawn(
    coda: Coda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, draws: str, kind: str
) -> None:
    photo(tmp_path / "a.png")
    honest, held = getattr(writer, draws), list[int]()

    def watched(*args: Any) -> Any:
        held.append(gate.PICTURES._used)
        return honest(*args)

    monkeypatch.setattr(writer, draws, watched)
    coda("explain", "a.png", "--class", "cat", "--write", kind)
    assert len(held) == 1
    assert held[0] > 0


# ---- training, converting, measuring ---------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="limits of files as Linux has them")
@pytest.mark.parametrize(("size", "converts"), [(3_000, True), (60_000, False)])
def test_a_full_disk_ends_training_and_converting_with_one_line(tmp_path: Path, size: int, converts: bool) -> None:
    """torch's own writer would end with an error that hides the reason."""
    folders(tmp_path / "data", 4)
    shutil.copy(load("cifar10").path, tmp_path / "a.safetensors")
    fixed = ["--size", "8", "--batch", "4", "--no-compile", "--epochs", "1"]
    training = (["train", "data", "-o", "run", *fixed], "run/training-state.pt")
    converting = (["models", "convert", "a.safetensors", "-o", "b.safetensors"], "b.safetensors")
    for args, name in (training, converting) if converts else (training,):
        with largest_file(size):
            result = program.run(*args, cwd=tmp_path, status=1)
        assert result.error == f"{name}: cannot be written (File too large)"
    left = {path.name for path in tmp_path.rglob("*") if path.is_file() and "data" not in path.parts}
    assert left <= {"a.safetensors", "log.csv"}


def test_scores_and_networks_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    with Scores(tmp_path / "kept.jsonl", {"grid": "2x2"}, 2) as kept:
        assert kept.path
        kept.path.unlink()
        kept.path.mkdir()
        with pytest.raises(MediaError, match=r"kept\.jsonl: cannot be written"):
            kept.add([0.5, 0.5])
    with pytest.raises(MediaError, match=r"b\.safetensors: cannot be written"):
        convert(load("cifar10"), tmp_path / "gone" / "b.safetensors")


def test_a_decoder_without_threads_is_no_broken_file(
    coda: Coda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import av

    def none_left(*_: object) -> None:
        raise av.error.BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN), "avcodec_open2")

    write(tmp_path / "a.mp4", [scene(64, 48)] * 3, [0.0, 0.04, 0.08])
    monkeypatch.setattr("coda_cli.video.decoding.decoder_of", lambda _: none_left)
    error = coda("video", "a.mp4", status=1).error
    assert error == "a.mp4: the system allows no more threads to decode it with; see ulimit -u"


def test_a_home_that_cannot_be_read_hides_only_the_networks_in_it(
    coda: Coda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo(tmp_path / "a.png")
    hidden, honest = tmp_path / "home", os.stat
    monkeypatch.setenv("CODA_CACHE_DIR", str(hidden))

    def refused(path: Any, *args: Any, **more: Any) -> Any:
        if str(path).startswith(str(hidden)):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return honest(path, *args, **more)

    monkeypatch.setattr(os, "stat", refused)
    env = {"CODA_CACHE_DIR": str(hidden)}
    assert coda("explain", "a.png", "-m", "cifar10", env=env).lines
    assert any(line.startswith("bcos-resnet18 ") for line in coda("models", "list", env=env).lines)
    assert "cifar10" in coda("explain", "a.png", "-m", "cifar", status=3, env=env).error
    for name in ("bcos-resnet18", str(hidden / "a.pkl")):
        assert coda("explain", "a.png", "-m", name, status=3, env=env).error.endswith("(Permission denied)")


def test_a_figure_without_a_home_is_drawn_without_lines_of_its_library(coda_process: Coda, scenes: Path) -> None:
    args = ("evaluate", "removal", scenes, "--pictures", "1", "--points", "2", "--plot", "a.png", "-q")
    assert coda_process(*args, env={"HOME": "/dev/null", "MPLCONFIGDIR": "/dev/null/x"}).err == ""


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        SystemError("error return without exception set"),
        SystemError("<method 'get' of 'dict' objects> returned NULL without setting an exception"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        OSError(12, "Cannot allocate memory"),
    ],
    ids=repr,
)
def test_memory_that_runs_out_anywhere_is_one_line(
    coda: Coda, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Also while Python reads the program's own options, or has no memory left for its own error."""

    def full(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("coda_cli.cli.app.app", full)
    assert coda("explain", "a.png", status=1).error.startswith("memory ran out; use smaller pictures")
