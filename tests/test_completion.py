"""The Tab key: networks, classes of the network on the line, layers; without torch, and without a message ever."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import program
import pytest
import torch

from coda_cli.checkpoints.loading import load
from coda_cli.checkpoints.manifest import known
from coda_cli.checkpoints.saving import save
from coda_cli.cli import complete
from coda_cli.core.depth import held_layers
from coda_cli.core.networks import build, encode


def completed(line: str, cwd: Path, env: dict[str, str] | None = None, python: tuple[str, ...] = ()) -> list[str]:
    """What bash is given for a line whose last word is being typed; nothing is on stderr."""
    words = line.split(" ")
    said = {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1), "_CODA_COMPLETE": "complete_bash", **(env or {})}
    command = [sys.executable, *python, "-m", "coda_cli"]
    child = subprocess.run(command, cwd=cwd, env=program.environment(said), capture_output=True, text=True)
    assert python or child.stderr == ""
    return (child.stderr if python else child.stdout).split("\n")[:-1] if child.stdout.strip() else []


def test_networks(tmp_path: Path) -> None:
    assert completed("coda explain -m cifar", tmp_path) == ["cifar10", "cifar10-bcos"]
    assert "9L-S-CoDA-SQ-1000" in completed("coda models pull 9L-S-CoDA", tmp_path)
    assert completed("coda models show imagenett", tmp_path) == ["imagenette"]
    assert completed("coda compare -m cifar10 -m cifar10-", tmp_path) == ["cifar10-bcos"]


def test_classes_are_those_of_the_network_on_the_line(tmp_path: Path) -> None:
    unset = {"CODA_MODEL": ""}
    assert completed("coda explain --class golf", tmp_path, unset) == ["golf-ball", "golfcart"]
    assert completed("coda explain -m imagenette -c go", tmp_path, unset) == ["golf-ball"]
    assert completed("coda explain -c a", tmp_path, {"CODA_MODEL": "cifar10"}) == ["airplane", "automobile", "all"]
    assert completed("coda video --versus a", tmp_path, {"CODA_MODEL": "cifar10"}) == ["airplane", "automobile"]
    (tmp_path / "own.toml").write_text('[explain]\nmodel = "cifar10"')
    assert completed("coda --config own.toml explain -c tr", tmp_path, unset) == ["truck"]


def test_a_file_and_a_folder_have_classes_too(tmp_path: Path) -> None:
    program.woollen(tmp_path / "woollen.safetensors")
    assert completed("coda explain -m woollen.safetensors -c C", tmp_path) == ["Cardigan"]
    assert completed("coda explain -m . -c card", tmp_path) == ["cardigan"]
    assert completed("coda explain -m cifar10 -c Tr", tmp_path) == ["Truck"]


def test_a_file_in_the_home_folder_is_found_as_it_is_typed(tmp_path: Path) -> None:
    """The shell replaces ~ and $HOME when the line is run, and gives them as they are to what completes it."""
    (tmp_path / "me").mkdir()
    program.woollen(tmp_path / "me" / "woollen.safetensors")
    home = {"HOME": str(tmp_path / "me"), "USERPROFILE": str(tmp_path / "me")}
    for typed in ("~/woollen.safetensors", "$HOME/woollen.safetensors", '"$HOME/woollen.safetensors"'):
        assert completed(f"coda explain -m {typed} -c C", tmp_path, home) == ["Cardigan"], typed


@pytest.mark.parametrize(
    "line",
    ["coda explain -m none.pth -c a", "coda explain -m broken.safetensors -c a", "coda explain -m photos/",
     "coda explain -m broken.safetensors --neuron ", "coda explain -m none --neuron ", "coda explain --neuron "],
)  # fmt: skip
def test_what_is_wrong_completes_nothing_and_says_nothing(tmp_path: Path, line: str) -> None:
    (tmp_path / "broken.safetensors").write_bytes(b"no")
    (tmp_path / "coda.toml").write_text("[nothing]\n")
    assert completed(line, tmp_path) == []


@pytest.mark.parametrize("name", ["imagenet", "imagenette", "cifar10", "cifar10-bcos"])
def test_layers_are_those_that_the_network_has(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net = load(name)
    side = net.checkpoint.preprocessing.crop
    view = torch.from_numpy(program.scene(side, side)).permute(2, 0, 1)
    real = [layer for layer, _ in held_layers(net.model, encode(view[None])).layers]
    monkeypatch.setattr(complete, "_network", lambda _: name)
    assert complete.layers(None, "") == ["all", *real]  # type: ignore[arg-type]
    assert {text.split(":")[0] for text in complete.neurons(None, "")} == set(real[1:])  # type: ignore[arg-type]


def test_layers_of_an_ordinary_network_have_the_names_that_its_user_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build("torchvision", {"name": "resnet18", "classes": 2, "cut": "layer4"}).eval()
    names = [layer for layer, _ in held_layers(model, torch.rand(1, 6, 64, 64)).layers]
    checkpoint = known()["cifar10"].checkpoint.model_copy(
        update={"architecture": "torchvision", "arguments": {"name": "resnet18", "classes": 2, "cut": "layer4"}}
    )
    save(model, checkpoint.model_copy(update={"classes": ("a", "b")}), tmp_path / "own.safetensors")
    monkeypatch.setattr(complete, "_network", lambda _: str(tmp_path / "own.safetensors"))
    found = complete.layers(None, "")  # type: ignore[arg-type]
    assert found[:3] == ["all", "input", "layer4"]
    assert {"conv1", "layer1.0", "layer4.0"} <= {*found} & {*names}
    assert not [name for name in found if "backbone" in name]


def test_every_class_that_is_completed_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    from coda_cli.checkpoints.labels import resolve_class

    monkeypatch.setattr(complete, "_network", lambda _: "imagenet")
    checkpoint = known()["imagenet"].checkpoint
    found = complete.one_class(None, "")  # type: ignore[arg-type]
    assert len(found) > 950
    for name, index in found:
        assert resolve_class(name, checkpoint) == int(index), name


def test_it_imports_no_torch(tmp_path: Path) -> None:
    imported = completed("coda explain -m cifar10 -c a", tmp_path, python=("-X", "importtime"))
    names = {line.split("|")[-1].strip() for line in imported}
    assert "coda_cli.cli.complete" in names
    assert not names & {"torch", "numpy", "av", "cv2"}
