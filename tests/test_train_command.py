"""``coda train``: networks, options, what is there already, and what is refused."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import filelock
import program
import pytest
import torch
from squares import CLASSES, CPU, TINY, folders, same

from coda_cli.checkpoints.loading import load
from coda_cli.errors import ExitCode
from coda_cli.training import datasets, full_colour, loop
from coda_cli.training.recipes import RECIPES, Recipe
from coda_cli.training.state import LOG_FILE, STATE_FILE

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set in ./data, a recipe "tiny", and ./ as the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(RECIPES, "tiny", replace(TINY, epochs=3))
    return folders(tmp_path / "data", 40)


def coda_train(*args: str | Path, status: int = 0) -> program.Result:
    return program.run("train", *args, "--recipe", "tiny", "--no-compile", "--device", "cpu", status=status)


def test_the_command_trains_writes_a_network_and_prints_its_path(pictures: Path) -> None:
    result = coda_train(pictures, "-o", "run")
    assert result.lines == [str(Path("run/data.safetensors"))]
    assert "108 training and 12 held-out pictures of 3 classes" in result.err
    assert "epoch 3 of 3: " in result.err
    net = load("run/data.safetensors")
    assert net.checkpoint.classes == CLASSES
    assert net.checkpoint.name == "data", "after the folder of pictures"
    assert net.checkpoint.training["data"] == "data"
    assert sorted(p.name for p in Path("run").iterdir()) == ["data.safetensors", LOG_FILE, STATE_FILE]


def test_options_change_the_recipe(pictures: Path) -> None:
    options = [
        "--name",
        "mine",
        "--data-note",
        "squares, ours",
        "--size",
        "16",
        "--epochs",
        "1",
        "--batch",
        "30",
        "--lr",
        "0.01",
        "--warmup",
        "0.5",
        "--temperature",
        "2",
        "--seed",
        "7",
        "--precision",
        "bfloat16",
    ]
    coda_train(pictures, "-o", "run", *options)
    checkpoint = load("run/mine.safetensors").checkpoint
    recipe = checkpoint.training["recipe"]
    assert checkpoint.arguments["temperature"] == 2
    assert (checkpoint.name, checkpoint.training["data"]) == ("mine", "squares, ours")
    assert checkpoint.preprocessing.crop == 16
    expected = {"size": 16, "epochs": 1, "batch": 30, "learning_rate": 0.01, "warmup": 0.5, "seed": 7}
    assert {key: recipe[key] for key in expected} == expected
    assert recipe["precision"] == "bfloat16"
    assert checkpoint.training["steps"] == 108 // 30


def test_stopped_by_its_time_budget_the_command_goes_on_to_the_same_file(pictures: Path) -> None:
    coda_train(pictures, "-o", "whole", "-q")
    stopped = coda_train(pictures, "-o", "parts", "--time-budget", "0")
    assert stopped.lines == [str(Path("parts/data.safetensors"))]
    assert "after step 1; the network so far is on disk, the same command with --resume continues" in stopped.err
    sofar = load("parts/data.safetensors").checkpoint
    assert (sofar.training["steps"], sofar.training["finished"]) == (1, False)
    coda_train(pictures, "-o", "parts", "--resume", "--time-budget", "0")
    assert coda_train(pictures, "-o", "parts", "--resume").lines == [str(Path("parts/data.safetensors"))]
    whole, parts = (load(f"{name}/data.safetensors") for name in ("whole", "parts"))
    assert same(whole.model.state_dict(), parts.model.state_dict())
    assert whole.checkpoint.accuracy == parts.checkpoint.accuracy


def test_the_commands_time_budget_is_in_minutes(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    budgets: list[float] = []

    def stopped(*_: Any, time_budget: float, **__: Any) -> loop.Result:
        budgets.append(time_budget)
        return loop.Result(torch.nn.Identity(), False, 1, 0.0)

    monkeypatch.setattr(loop, "train", stopped)
    coda_train(pictures, "-o", "run", "--time-budget", "1.5")
    coda_train(pictures, "-o", "run")
    assert budgets == [90, math.inf]


def test_a_run_that_is_there_is_not_overwritten(pictures: Path) -> None:
    coda_train(pictures, "-o", "run", "--time-budget", "0")
    before = program.tree(Path("run"))
    refused = coda_train(pictures, "-o", "run", status=ExitCode.USAGE)
    assert refused.error == "run: holds a run already; --resume continues it, -o DIR starts another"
    with filelock.FileLock("run/.coda-training-state.pt.lock"):
        beside = coda_train(pictures, "-o", "run", "--resume", status=ExitCode.USAGE)
    said = "run/training-state.pt: another run writes to it; wait for its end, or -o DIR starts another"
    assert beside.error == said
    other = coda_train(pictures, "-o", "run", "--resume", "--lr", "0.5", status=ExitCode.FAILED)
    assert "belongs to a run with another recipe" in other.error
    assert program.tree(Path("run"))[STATE_FILE] == before[STATE_FILE]


def test_a_network_that_is_there_is_not_replaced(pictures: Path) -> None:
    Path("run").mkdir()
    Path("run/data.safetensors").write_bytes(b"hours of work")
    refused = coda_train(pictures, "-o", "run", status=ExitCode.USAGE)
    assert refused.error == "run/data.safetensors: exists; choose another --name or -o DIR"
    assert Path("run/data.safetensors").read_bytes() == b"hours of work"


def test_sizes_that_do_not_go_through_a_network_are_refused_before_pictures_are_read(
    pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "load", lambda *_, **__: pytest.fail("read"))
    for arch, size, recipe, side in (
        ("bcos-simple_vit_ti_patch16_224", 224, "imagenette", 168),
        ("bcos-vgg11_bnu", 16, "cifar10", 10),
    ):
        options = ("--arch", arch, "--size", str(size), "--recipe", recipe)
        refused = program.run("train", pictures, *options, status=ExitCode.USAGE)
        assert refused.error.startswith(f"--size {size}: pictures of {side} x {side}, which the run shows, do not go")


@pytest.mark.parametrize("content", [b"", b"no state", b"PK\3\4 cut off"])
def test_a_damaged_state_is_one_line(pictures: Path, content: bytes) -> None:
    coda_train(pictures, "-o", "run", "--time-budget", "0")
    Path("run", STATE_FILE).write_bytes(content)
    result = coda_train(pictures, "-o", "run", "--resume", status=ExitCode.FAILED)
    assert result.error == f"run/{STATE_FILE}: damaged, or not the state of a run; start anew in another folder"


def test_resuming_what_was_never_started_fails(pictures: Path) -> None:
    assert "no state to resume from" in coda_train(pictures, "-o", "run", "--resume", status=ExitCode.FAILED).error


def test_a_diverging_run_fails_and_writes_no_network(pictures: Path) -> None:
    result = coda_train(pictures, "-o", "run", "--lr", "1e30", status=ExitCode.FAILED)
    assert "diverged at step 1 of 12" in result.error
    assert "No checkpoint was written" in result.error
    assert not list(Path("run").glob("*.safetensors"))


def test_unknown_recipes_configurations_and_precisions_are_refused_before_anything_is_made(pictures: Path) -> None:
    refused = program.run("train", pictures, "--recipe", "cifar11", status=ExitCode.USAGE)
    assert (
        refused.error == "--recipe cifar11: no such recipe; there are cifar10, cifar10-bcos, imagenette, imagenet, tiny"
    )
    refused = coda_train(pictures, "--arch", "9L-S-CoDA-SQ-3", status=ExitCode.USAGE)
    assert refused.error.startswith("--arch 9L-S-CoDA-SQ-3: no such configuration; known: 9L-S-CoDA-SQ-10, ")
    for name in ("a/b", "../b", "/"):
        assert coda_train(pictures, "--name", name, status=ExitCode.USAGE).error.startswith(f"--name {name}: ")
    refused = coda_train(pictures, "--precision", "float8", status=ExitCode.USAGE)
    assert refused.error == "--precision: 'float8' is not one of 'float32', 'bfloat16'; see coda train --help"
    for option in (["--epochs", "0"], ["--lr", "-1"], ["--seed", "-1"], ["--warmup", "2"], ["--size", "7"]):
        coda_train(pictures, *option, status=ExitCode.USAGE)
    assert not Path("coda-train").exists()


@pytest.mark.parametrize("options", [["--temperature", "0"], ["--temperature", "inf"], ["--lr", "inf"]])
def test_numbers_that_train_nothing_are_usage_errors(pictures: Path, options: list[str]) -> None:
    assert "expected a " in coda_train(pictures, *options, status=ExitCode.USAGE).error


def test_folders_that_are_no_data_set_fail_with_a_line_that_says_why(pictures: Path) -> None:
    Path("empty").mkdir()
    assert "holds 0 folders" in coda_train("empty", status=ExitCode.USAGE).error
    folders(Path("one"), 3, classes=("red",))
    assert "holds 1 folders" in coda_train("one", status=ExitCode.USAGE).error
    assert "no such folder" in coda_train("missing", status=ExitCode.USAGE).error
    (pictures / "red" / "05.png").write_bytes(b"broken")
    assert str(Path("red/05.png")) in coda_train(pictures, status=ExitCode.FAILED).error


def test_a_network_that_was_trained_explains_pictures(pictures: Path) -> None:
    coda_train(pictures, "-o", "run", "-q")
    picture = pictures / "red" / "03.png"
    explained = program.run("explain", picture, "-m", "run/data.safetensors", "--json", "--write", "none", "-q")
    (part,) = explained.record["explained"]
    assert part["name"] in CLASSES
    assert part["exact"] is True
    assert part["scale_of"] == "network"
    found = program.run(
        "explain", pictures, "-r", "-m", "run/data.safetensors", "--scale", "run", "--json", "-q", "--write", "none"
    )
    assert part["scale"] == pytest.approx(found.records[0]["explained"][0]["scale"], rel=0.5)


def test_a_finished_network_is_there_whatever_measuring_its_full_colour_does(
    pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(full_colour, "measure", interrupted)
    coda_train(pictures, "-o", "run", "-q", status=130)
    checkpoint = load(Path("run/data.safetensors")).checkpoint
    assert "finished" not in checkpoint.training
    assert checkpoint.full_colour is None


def test_pictures_go_to_the_network_s_device_to_measure_its_full_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    def seen(_: torch.nn.Module, x: torch.Tensor, __: None) -> SimpleNamespace:
        devices.append(x.device.type)
        return SimpleNamespace(pixels=torch.ones(len(x), 1, 8, 8))

    devices: list[str] = []
    monkeypatch.setattr(full_colour, "decompose", seen)
    split = datasets.Split(torch.zeros(9, 3, 8, 8, dtype=torch.uint8), torch.zeros(9, dtype=torch.int64), ("a", "b"))
    assert full_colour.measure(torch.nn.Linear(1, 1, device="meta"), split) == pytest.approx(1, rel=0.003)
    assert set(devices) == {"meta"}


@pytest.mark.parametrize(("device", "unit"), [("cuda", "GPU"), ("cpu", "processor")])
def test_what_only_emulates_bfloat16_trains_in_float32(
    pictures: Path, monkeypatch: pytest.MonkeyPatch, device: str, unit: str
) -> None:
    trained: list[Recipe] = []
    monkeypatch.setitem(RECIPES, "tiny", replace(TINY, precision="bfloat16"))
    monkeypatch.setattr("coda_cli.machine.devices.pick", lambda *_: torch.device(device))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    monkeypatch.setattr("coda_cli.machine.devices.processor_has_bfloat16", lambda: False)
    monkeypatch.setattr("coda_cli.cli.train._run", lambda recipe, *_, **__: trained.append(recipe))
    result = coda_train(pictures)
    assert [recipe.precision for recipe in trained] == ["float32"]
    assert f"this {unit} only emulates bfloat16, slowly; training in float32" in result.err


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_nothing_is_compiled_where_a_compiler_that_is_found_may_not_be_torchs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, platform: str
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path))
    monkeypatch.setattr("sys.platform", "linux")
    assert not loop.can_compile(CPU)  # without Python's headers
    (tmp_path / "Python.h").touch()
    assert loop.can_compile(CPU)
    assert loop.can_compile(torch.device("cuda"))
    monkeypatch.setattr("sys.platform", platform)
    assert not loop.can_compile(CPU)
    assert not loop.can_compile(torch.device("cuda"))
