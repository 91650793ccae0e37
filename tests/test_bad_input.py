"""What a broken file, network, class or option costs: one line that says what and which, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from conftest import Coda
from PIL import Image
from program import looked_at, moving, photo, photos, scene, tree

from coda_cli.checkpoints import loading, saving, targets
from coda_cli.checkpoints.manifest import Checkpoint, Preprocessing, known, weights_folder
from coda_cli.core.decompose import decompose
from coda_cli.core.networks import build
from coda_cli.errors import UsageError
from coda_cli.explanation import picture as pictures

# ---- files that are no pictures --------------------------------------------------------------------------------------


def test_a_missing_file_stops_the_run_and_the_nearest_name_is_suggested(coda: Coda, tmp_path: Path) -> None:
    photos(tmp_path, "kitten.png", "other.png")
    result = coda("explain", "other.png", "kiten.png", status=2)
    assert result.error == "kiten.png: no such file or folder; did you mean kitten.png?"
    assert not (tmp_path / "coda-out").exists()


@pytest.mark.parametrize("name", ["x" * 300 + ".png", "a\nb.png", ":cat:.png", "[bold]a[/bold].png", "no/where.png"])
def test_a_missing_file_is_named_as_it_was_written(coda: Coda, name: str) -> None:
    result = coda("explain", name, status=2)
    assert result.error.startswith(name.replace("\n", " ") + ": ")


def test_a_link_to_itself_is_no_file(coda: Coda, tmp_path: Path) -> None:
    (tmp_path / "loop.png").symlink_to("loop.png")
    photo(tmp_path / "a.png")
    assert "loop.png" in coda("explain", "loop.png", status=2).error
    result = looked_at(coda, "-", input="loop.png\na.png\n", status=1)
    assert [r["status"] for r in result.records] == ["error", "ok"]


def broken(path: Path, kind: str) -> Path:
    """A file that looks like a picture from outside."""
    if kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("this is no picture")
    elif kind == "zeros":
        path.write_bytes(bytes(1000))
    else:
        photo(path, 200, 150)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("a.jpg", "empty", "a.jpg: the file is empty"),
        ("a.jpg", "text", "a.jpg: not a picture in a format coda can read"),
        ("a.tif", "zeros", "a.tif: not a picture in a format coda can read"),
        ("a.jpg", "truncated", "a.jpg: broken or truncated picture ("),
        ("a.png", "truncated", "a.png: broken or truncated picture ("),
        ("a.webp", "truncated", "a.webp: "),
        ("a.avif", "truncated", "a.avif: "),
        ("a.tif", "truncated", "a.tif: broken or truncated picture ("),
    ],
)
def test_a_file_that_cannot_be_decoded_fails_with_its_reason(
    coda: Coda, tmp_path: Path, name: str, kind: str, message: str
) -> None:
    broken(tmp_path / name, kind)
    result = coda("explain", name, "--json", status=1)
    assert result.error.startswith(message)
    assert result.err.splitlines()[-1].startswith("coda: 0 explained, 1 failed in")
    assert result.record == {
        "schema": "coda.record",
        "schema_version": 1,
        "status": "error",
        "source": {"path": name},
        "error": {"kind": "MediaError", "message": result.error},
    }
    assert tree(tmp_path / "coda-out") == {}


def test_whatever_is_cut_off_a_file_it_is_an_error_of_that_file_alone(coda: Coda, tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg", "a.gif", "a.tif", "a.webp", "a.avif", "a.bmp"):
        whole = moving(tmp_path / name) if name.endswith(("gif", "webp")) else photo(tmp_path / name)
        data = whole.read_bytes()
        for share in range(1, 16):
            (tmp_path / f"{share}-{name}").write_bytes(data[: len(data) * share // 16])
    result = looked_at(coda, ".", "-qq", status=1)
    assert len(result.records) == 7 * 16
    assert len(result.errors) == sum(r["status"] == "error" for r in result.records) >= 7 * 10


def test_exif_data_that_is_broken_is_left_alone(coda: Coda, tmp_path: Path) -> None:
    exif = b"Exif\0\0II*\0\x08\0\0\0\xff\x00broken"
    Image.fromarray(scene()).save(tmp_path / "a.jpg", exif=exif)
    result = looked_at(coda, "a.jpg")
    assert result.record["source"]["notes"] == []


def test_one_bad_file_among_many_costs_only_itself(coda: Coda, tmp_path: Path) -> None:
    photos(tmp_path / "in", *(f"{i}.png" for i in range(6)))
    broken(tmp_path / "in/3.png", "text")
    result = coda("explain", "in", "--json", status=1)
    assert [r["status"] for r in result.records] == ["ok"] * 3 + ["error"] + ["ok"] * 2
    assert [r["source"]["path"] for r in result.records] == [f"in/{i}.png" for i in range(6)]
    assert result.error == "in/3.png: not a picture in a format coda can read"
    assert result.records[3]["error"] == {"kind": "MediaError", "message": result.error}
    assert "coda: 5 explained, 1 failed in" in result.err
    assert len([name for name in tree(tmp_path / "coda-out") if name.endswith(".json")]) == 5


# ---- pictures that do not fit ----------------------------------------------------------------------------------------


def test_a_picture_smaller_than_the_network_s_kernels_fails_alone(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "in/a.png", 9, 2)
    photo(tmp_path / "in/b.png", 40, 40)
    arguments = {
        "channels": [6, 2, 3],
        "kernels": [5, 3],
        "strides": [1, 1],
        "ranks": [2, 2],
        "norm": "SQ",
        "temperature": 1.0,
        "paddings": [0, 0],
    }
    checkpoint = Checkpoint(
        name="k",
        architecture="coda_net",
        arguments=arguments,
        classes=("x", "y", "z"),
        preprocessing=Preprocessing(resize=16, crop=16),
    )
    saving.save(build("coda_net", arguments), checkpoint, tmp_path / "k.safetensors")
    result = coda("explain", "in", "-m", "k.safetensors", "--fit", "native", "--json", status=1)
    assert result.error == "in/a.png: 2 x 9 positions are too few for a 5-wide kernel; use --fit crop"
    assert [r["status"] for r in result.records] == ["error", "ok"]


def bomb(path: Path, side: int) -> Path:
    """A PNG of a few kilobytes with ``side`` x ``side`` pixels of one bit."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("1", (side, side)).save(path)
    assert path.stat().st_size < 100_000
    return path


@pytest.mark.parametrize("side", [11_500, 20_000])
def test_a_decompression_bomb_is_refused(coda: Coda, tmp_path: Path, side: int) -> None:
    photo(tmp_path / "in/a.png")
    bomb(tmp_path / "in/b.png", side)
    result = looked_at(coda, "in", status=1)
    assert result.error.startswith("in/b.png: ")
    assert "million" in result.error
    assert [r["status"] for r in result.records] == ["ok", "error"]


def test_a_picture_too_small_for_a_network_costs_only_itself(
    coda: Coda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Layers of torch's own say it as a RuntimeError."""
    photo(tmp_path / "in/a.png", 16, 16)
    photo(tmp_path / "in/b.png", 32, 32)

    def picky(model: Any, x: Any, *args: Any, **more: Any) -> Any:
        if x.shape[2] < 32:
            raise RuntimeError("Kernel size can't be greater than actual input size")
        return decompose(model, x, *args, **more)

    monkeypatch.setattr(pictures, "decompose", picky)
    result = looked_at(coda, "in", "--fit", "native", status=1)
    assert [r["status"] for r in result.records] == ["error", "ok"]
    assert result.error == (
        "in/a.png: too small for this network (Kernel size can't be greater than actual input size); use --fit crop"
    )


# ---- checkpoints -----------------------------------------------------------------------------------------------------


def weights_with(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    """The bundled weights, changed."""
    bundled = weights_folder() / "cifar10.safetensors"
    tensors = safetensors.torch.load_file(bundled)
    change(tensors)
    with safetensors.safe_open(bundled, "pt") as file:
        safetensors.torch.save_file(tensors, path, file.metadata())
    return path


def test_weights_that_are_no_numbers_are_refused(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")

    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        first = sorted(tensors)[0]
        tensors[first].view(-1)[3] = float("nan")

    weights_with(tmp_path / "nan.safetensors", spoil)
    result = coda("explain", "a.png", "-m", "nan.safetensors", status=3)
    assert result.error.startswith("nan.safetensors: 1 of ")
    assert "not finite" in result.error
    assert not (tmp_path / "coda-out").exists()


def test_logits_that_overflow_are_an_inexact_result_and_no_numbers_are_written(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")

    def enlarge(tensors: dict[str, torch.Tensor]) -> None:
        for tensor in tensors.values():
            tensor *= 1e30

    weights_with(tmp_path / "huge.safetensors", enlarge)
    result = coda("explain", "a.png", "-m", "huge.safetensors", "--json", status=4)
    assert result.error == "a.png: the network's logits are not finite; nothing can be explained"
    assert result.record["error"]["kind"] == "ExactnessError"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (("conv1.weight", "layer1.0.conv1.weight"), "ordinary convolutional network"),
        (("transformer.0.to_qkv.weight",), "vision transformer"),
        (("layer1.0.conv1.linear.weight",), "its shapes fit no published network"),
    ],
)
def test_a_checkpoint_of_another_family_is_refused(
    coda: Coda, tmp_path: Path, keys: tuple[str, ...], message: str
) -> None:
    photo(tmp_path / "a.png")
    torch.save({key: torch.zeros(2, 2) for key in keys}, tmp_path / "other.pth")
    result = coda("explain", "a.png", "-m", "other.pth", status=3)
    assert result.error.startswith("other.pth: ")
    assert message in result.error


def test_a_damaged_or_missing_checkpoint_is_refused(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    data = (weights_folder() / "cifar10.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(data[: len(data) // 2])
    assert coda("explain", "a.png", "-m", "cut.safetensors", status=3).error.startswith("cut.safetensors: damaged")
    (tmp_path / "text.pth").write_text("no weights")
    assert coda("explain", "a.png", "-m", "text.pth", status=3).error.startswith("text.pth: ")
    assert "did you mean 'cifar10'" in coda("explain", "a.png", "-m", "cifra10", status=3).error
    missing = coda("explain", "a.png", "-m", "9L-S-CoDA-SQ-1000", status=3).error
    assert missing.endswith("get it with: coda models pull 9L-S-CoDA-SQ-1000")


# ---- classes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "text", "message"),
    [
        ("--class", "10", "class 10 is out of range: 'cifar10' has classes 0..9"),
        ("--class", "-1", "class -1 is out of range: 'cifar10' has classes 0..9"),
        ("--versus", "99", "class 99 is out of range: 'cifar10' has classes 0..9"),
        ("--class", "caat", "'cifar10' has no class 'caat'; did you mean 'cat'?"),
        ("--class", "zebu", "'cifar10' has no class 'zebu'; its classes are: airplane, automobile, bird, cat, deer,"),
        ("--class", "d", "'d' fits 2 classes of 'cifar10': 4 (deer), 5 (dog); use an index"),
        ("--class", "", "'cifar10' has no class ''"),
        ("--class", "top:0", "--class top:0: top:K takes K from 1 to 10"),
        ("--class", "top:11", "--class top:11: top:K takes K from 1 to 10"),
        ("--class", "top:x", "--class top:x: top:K takes K from 1 to 10"),
        ("--versus", "top:2", "'cifar10' has no class 'top:2'"),
    ],
)
def test_a_slip_in_a_class_costs_no_model_load(
    coda: Coda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str, text: str, message: str
) -> None:
    photo(tmp_path / "a.png")
    monkeypatch.setattr(loading, "load", lambda *_, **__: pytest.fail("the network was loaded"))
    result = coda("explain", "a.png", option, text, status=2)
    assert result.error.startswith(message)
    assert result.out == ""


def test_a_class_of_another_network_is_pointed_to(coda: Coda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photo(tmp_path / "a.png")
    result = coda("explain", "a.png", "--class", "lorikeet", status=2)
    assert result.error.endswith("'imagenet' has: add --model imagenet")
    others = {name: entry for name, entry in known().items() if name != "imagenet"}
    monkeypatch.setattr(targets, "known", lambda: others)
    result = coda("explain", "a.png", "--class", "lorikeet", status=2)
    assert "'9L-L-CoDA-SQ-100000' has: add --model 9L-L-CoDA-SQ-100000" in result.error
    assert "get it with: coda models pull 9L-L-CoDA-SQ-100000" in result.error


def test_a_class_of_a_network_in_a_file_is_refused_too(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    weights_with(tmp_path / "own.safetensors", lambda _: None)
    assert "no class 'caat'" in coda("explain", "a.png", "-m", "own.safetensors", "--class", "caat", status=2).error


# ---- options ---------------------------------------------------------------------------------------------------------


def test_the_traceback_is_shown_to_who_asks(coda: Coda) -> None:
    with pytest.raises(UsageError, match="no such file"):
        coda("--traceback", "explain", "a.png")
    with pytest.raises(UsageError, match="no such file"):
        coda("explain", "a.png", env={"CODA_DEBUG": "1"})
    assert "no such file" in coda("explain", "a.png", status=2).error


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["explain", "a.png", "--fit", "stretch"], "--fit: 'stretch' is not one of 'crop', 'pad', 'native'; see coda"),
        (["explain"], "missing argument 'SOURCES...'; see coda explain --help"),
        (["explain", "a.png", "--alpha", "2"], "--alpha: "),
        (["explain", "a.png", "--percentil", "2"], "no such option: --percentil"),
        (["expalin"], "no such command 'expalin'. Did you mean 'explain'?"),
        (["explain", "a.png", "--model"], "option '--model' requires an argument"),
        (["video", "a.png", "--fps", "0"], "fps is 0; it must be more than 0"),
        (["explain", "a.png", "--force", "--if-exists", "skip"], "--force overwrites, and --if-exists skip does not"),
        (
            ["explain", "a.png", "--write", "none,overlay"],
            "--write none,overlay: none cannot be combined with other kinds",
        ),
        (
            ["models", "show", "cifar10", "Holiday.jpg"],
            "got unexpected extra argument(s) (Holiday.jpg); see ",
        ),
        (["Foo: Bar"], "no such command 'Foo: Bar'"),
    ],
)
def test_wrong_usage_is_one_line_of_codas_own(coda: Coda, tmp_path: Path, arguments: list[str], says: str) -> None:
    photo(tmp_path / "a.png")
    result = coda(*arguments, status=2)
    assert result.error.startswith(says)
    assert len(result.err.splitlines()) == 1
    assert result.out == ""
