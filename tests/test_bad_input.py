"""What goes wrong: one line that says what, which file and what to do, the right exit code, and nothing half done."""

from __future__ import annotations

import errno
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import program
import pytest
import safetensors.torch
import torch
from numpy.typing import NDArray
from PIL import Image
from program import photo, photos, scene, tree

from coda_cli.checkpoints import loading
from coda_cli.checkpoints.manifest import Checkpoint, Preprocessing, weights_folder
from coda_cli.core.decompose import decompose
from coda_cli.core.networks import build
from coda_cli.errors import UsageError
from coda_cli.explanation import picture as pictures
from coda_cli.explanation import run as runs
from coda_cli.explanation import writer
from coda_cli.explanation.naming import Naming
from coda_cli.explanation.record import Drawing
from coda_cli.machine import budget
from coda_cli.media import files as media_files
from coda_cli.media.sources import resolve
from coda_cli.schema.pictures import from_json

Coda = Callable[..., program.Result]


def looked_at(coda: Coda, *args: str | Path, **more: Any) -> program.Result:
    """A run that writes nothing and explains class 0, its records on stdout."""
    return coda("explain", *args, "--class", "0", "--write", "none", "--json", **more)


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


def moving(path: Path) -> Path:
    frames = [Image.fromarray(scene(seed=seed)) for seed in range(3)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
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


# ---- every kind of picture -------------------------------------------------------------------------------------------


def check_equal(result: program.Result) -> None:
    """Two inputs of a run were explained as the same picture."""
    one, two = (record["explained"][0] for record in result.records)
    assert one["logit"] == pytest.approx(two["logit"], abs=1e-5)
    assert one["positive"] == pytest.approx(two["positive"], rel=1e-5)
    assert one["evidence"]["half_share"] == two["evidence"]["half_share"]


def as_mode(mode: str) -> tuple[Image.Image, NDArray[np.uint8]]:
    """A picture in a mode of its own, and what the network should see of it."""
    rgb = scene()
    image = Image.fromarray(rgb)
    if mode == "16-bit":
        values = (
            np.random.default_rng(0).integers(0, 65536, (40, 50), dtype=np.uint16) // 4
        )  # dark: clipping would show
        return Image.fromarray(values), np.repeat(np.round(values / 257).astype(np.uint8)[..., None], 3, 2)
    if mode == "RGBA":
        hole = np.zeros((40, 50), np.uint8)
        hole[10:30, 10:30] = 255
        on_white = np.where(hole[..., None] == 255, rgb, 255).astype(np.uint8)
        return Image.fromarray(np.dstack([rgb, hole])), on_white
    image = image.quantize(16) if mode == "P" else image.convert(mode)
    return image, np.asarray(image.convert("RGB"))


@pytest.mark.parametrize(
    ("mode", "suffix", "notes"),
    [
        ("1", "png", []),
        ("P", "png", []),
        ("P", "gif", []),
        ("L", "png", []),
        ("CMYK", "tif", []),
        ("16-bit", "png", ["scaled to 8 bits"]),
        ("16-bit", "tif", ["scaled to 8 bits"]),
        ("RGBA", "png", ["transparency laid on white"]),
    ],
)
def test_every_kind_of_picture_is_explained_as_what_a_person_sees(
    coda: Coda, tmp_path: Path, mode: str, suffix: str, notes: list[str]
) -> None:
    image, seen = as_mode(mode)
    image.save(tmp_path / f"a.{suffix}")
    Image.fromarray(seen).save(tmp_path / "b.png")
    result = looked_at(coda, f"a.{suffix}", "b.png")
    assert result.records[0]["source"]["notes"] == notes
    assert [f"coda: a.{suffix}: {note}" for note in notes] == result.err.splitlines()[: len(notes)]
    check_equal(result)


TURNED_BACK = {
    1: (), 2: ("FLIP_LEFT_RIGHT",), 3: ("ROTATE_180",), 4: ("FLIP_TOP_BOTTOM",), 5: ("TRANSPOSE",),
    6: ("ROTATE_90",), 7: ("TRANSVERSE",), 8: ("ROTATE_270",),
}  # fmt: skip


@pytest.mark.parametrize("orientation", TURNED_BACK)
def test_a_picture_that_exif_turns_is_explained_upright(coda: Coda, tmp_path: Path, orientation: int) -> None:
    upright = Image.fromarray(scene())
    upright.save(tmp_path / "upright.png")
    stored = upright
    for turn in TURNED_BACK[orientation]:
        stored = stored.transpose(Image.Transpose[turn])
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "turned.png", exif=exif)
    result = looked_at(coda, "turned.png", "upright.png", "--fit", "native")
    turned = result.records[0]
    assert (turned["source"]["width"], turned["source"]["height"]) == (50, 40)
    assert turned["view"]["box"] == [0, 0, 50, 40]
    assert turned["source"]["notes"] == (["turned as its EXIF orientation says"] if orientation > 1 else [])
    check_equal(result)


def test_of_an_animation_the_first_frame_is_explained_and_that_is_said(coda: Coda, tmp_path: Path) -> None:
    moving(tmp_path / "a.gif")
    with Image.open(tmp_path / "a.gif") as first:
        first.convert("RGB").save(tmp_path / "b.png")
    result = looked_at(coda, "a.gif", "b.png")
    assert result.records[0]["source"]["notes"] == ["first of 3 frames"]
    assert "coda: a.gif: first of 3 frames" in result.err
    check_equal(result)


@pytest.mark.parametrize("fit", ["crop", "pad", "native"])
@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 2)])
def test_the_smallest_and_the_thinnest_pictures_are_explained(
    coda: Coda, tmp_path: Path, fit: str, size: tuple[int, int]
) -> None:
    photo(tmp_path / "a.png", *size)
    record = coda("explain", "a.png", "--fit", fit, "--json", "--write", "overlay,heatmap,panel").record
    assert record["explained"][0]["exact"]
    if fit != "crop":
        assert record["view"]["box"] == [0, 0, *size]


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
    loading.save(build("coda_net", arguments), checkpoint, tmp_path / "k.safetensors")
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


def test_a_class_of_another_network_is_pointed_to(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    result = coda("explain", "a.png", "--class", "lorikeet", status=2)
    assert "'9L-L-CoDA-SQ-100000' has: add --model 9L-L-CoDA-SQ-100000" in result.error
    assert "get it with: coda models pull 9L-L-CoDA-SQ-100000" in result.error


def test_a_class_of_a_network_in_a_file_is_refused_too(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    weights_with(tmp_path / "own.safetensors", lambda _: None)
    assert "no class 'caat'" in coda("explain", "a.png", "-m", "own.safetensors", "--class", "caat", status=2).error


# ---- outputs that cannot be written ----------------------------------------------------------------------------------


@pytest.mark.parametrize("output", ["file", "file/out"])
def test_an_output_folder_that_cannot_be_is_refused_before_any_work(
    coda: Coda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    photo(tmp_path / "a.png")
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr("coda_cli.explanation.run.explain_batch", lambda *_: pytest.fail("something was computed"))
    result = coda("explain", "a.png", "-o", output, "--scale", "run", status=2)
    assert result.error.startswith(f"{output}: cannot write into this folder (")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_sub_folder_that_cannot_be_fails_its_pictures_only(coda: Coda, tmp_path: Path) -> None:
    photos(tmp_path / "in", "a.png", "sub/b.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/sub").write_text("mine")
    result = coda("explain", "in", "-r", "-o", "out", "--json", status=1)
    assert [r["status"] for r in result.records] == ["ok", "error"]
    assert "out/sub" in result.error


class FullDisk:
    """``os`` as the writer of files sees it, on a disk that is full after a number of files."""

    def __init__(self, room: int) -> None:
        self.room = room

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def fsync(self, handle: int) -> None:
        os.fsync(handle)
        self.room -= 1
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


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


@pytest.mark.parametrize("option", ["--force", "--if-exists=match", "--if-exists=skip", "--if-exists=rename"])
@pytest.mark.parametrize("name", ["a.overlay.png", "a.coda.json"])
def test_an_input_is_never_overwritten(coda: Coda, tmp_path: Path, option: str, name: str) -> None:
    photo(tmp_path / "a.png")
    photo(tmp_path / "b.png", seed=5).rename(tmp_path / name)
    before = (tmp_path / name).read_bytes()
    args = ("--name", "{stem}.{kind}.{ext}", "-o", ".", option)
    status = 0 if option in ("--if-exists=skip", "--if-exists=rename") else 1
    result = coda("explain", "a.png", name, *args, status=status)
    assert (tmp_path / name).read_bytes() == before
    if status:
        assert f"{name}: " in result.error
        assert (tmp_path / f"{Path(name).stem}.overlay.png").exists()  # the other is done


def test_two_inputs_with_one_output_are_refused_before_any_work(
    coda: Coda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos(tmp_path, "x/a.png", "y/a.png", "a.jpg")
    monkeypatch.setattr("coda_cli.explanation.run.explain_batch", lambda *_: pytest.fail("something was computed"))
    for pair in (("x/a.png", "y/a.png"), ("x/a.png", "a.jpg")):
        result = coda("explain", *pair, status=2)
        assert result.error.startswith(f"{pair[0]} and {pair[1]} would both be written as coda-out/a.coda.json; ")
        assert not (tmp_path / "coda-out").exists()
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    coda("explain", "x/a.png", "a.jpg", "--name", "{name}.{class_slug}.{kind}.{ext}")  # as the message says


# ---- some of many ----------------------------------------------------------------------------------------------------


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
    counting, inside, most = threading.Lock(), 0, 0

    def explain_batch(views: Any, **more: Any) -> Any:
        nonlocal inside, most
        with counting:
            inside += 1
            most = max(most, inside)
        time.sleep(0.2)
        with counting:
            inside -= 1
        return pictures.explain_batch(views, **more)

    monkeypatch.setattr("coda_cli.explanation.run.explain_batch", explain_batch)
    for size, together in ((2, 2), (1, 1)):
        most = 0
        looked_at(coda, "in", "--batch-size", str(size))
        assert most == together


def test_an_output_folder_that_disappears_is_made_again(tmp_path: Path) -> None:
    photos(tmp_path / "in", "a.png", "b.png")
    net, output = loading.load("cifar10"), writer.Output(Naming(tmp_path / "out", "cifar10"), Drawing())
    written = writer.Writer(net, items := resolve([str(tmp_path / "in")]), pictures.Request(), output)
    for item in items:
        explanation = pictures.explain(item.path, net)
        assert explanation.input
        written.write(explanation.input, explanation)
        assert len(tree(tmp_path / "out")) == 2
        shutil.rmtree(tmp_path / "out")


def test_nothing_more_is_computed_after_ctrl_c(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos(tmp_path / "in", *(f"{i}.png" for i in range(8)))
    begun = []

    def explain_batch(views: Any, **more: Any) -> Any:
        begun.append(views)
        time.sleep(0.2)  # for the next one to wait for this
        if len(begun) == 1:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        time.sleep(0.2)
        return pictures.explain_batch(views, **more)

    monkeypatch.setattr("coda_cli.explanation.run.explain_batch", explain_batch)
    net, output = loading.load("cifar10"), writer.Output(Naming(tmp_path / "out", "cifar10"), Drawing())
    run = runs.explain_items(net, resolve([str(tmp_path / "in")]), pictures.Request(), output, batch=1)
    with pytest.raises(KeyboardInterrupt):
        next(run)
    assert len(begun) == 1


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
    for home, name, error, place in ((pictures, "fit", MemoryError(), 0), (writer, "draw", RuntimeError(said), 1)):
        with monkeypatch.context() as patch:
            patch.setattr(home, name, scarce(getattr(home, name), error, place))
            result = coda("explain", "in", "--json", "-o", f"out-{name}", status=1)
        assert [r["status"] for r in result.records] == ["ok", "error", "ok"]
        assert result.error == "in/b.png: not enough memory to read or draw it; make it smaller first"


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


def test_an_empty_name_is_not_this_folder(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    for command in ("explain", "video"):
        assert "empty name" in coda(command, "", status=2).error


def test_missing_files_and_folders_in_a_list_fail_alone(coda: Coda, tmp_path: Path) -> None:
    photos(tmp_path, "a.png", "folder/b.png")
    listed = ["missing.png", "a.png", "folder", "x" * 300 + ".png", "bad\0name.png"]
    result = looked_at(coda, "-0", "-", input="\0".join(listed[:4]), status=1)
    assert [r["status"] for r in result.records] == ["error", "ok", "error", "error"]
    assert result.errors[:2] == [
        "missing.png: no such file",
        "folder: is a folder; name it as a source, or list its files",
    ]
    assert result.errors[2].startswith("x" * 300 + ".png: ")


def test_a_list_separated_by_nul_without_the_option_is_recognised(coda: Coda, tmp_path: Path) -> None:
    photos(tmp_path, "a.png", "b.png")
    assert looked_at(coda, "-", input="a.png\0b.png\0", status=2).error.endswith("; add -0")
    assert "add -" in coda("explain", "a.png", "--null", status=2).error


def test_an_empty_list_is_no_failure(coda: Coda, tmp_path: Path) -> None:
    for text in ("", "\n\n"):
        result = coda("explain", "-", "--json", input=text)
        assert result.out == ""
        assert result.err == "coda: nothing to explain: the list on stdin is empty\n"
    assert list(tmp_path.iterdir()) == []


def test_a_folder_or_a_pattern_without_pictures_is_refused(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "in/deep/a.png")
    (tmp_path / "in/notes.txt").write_text("no picture")
    (tmp_path / "empty").mkdir()
    assert coda("explain", "in", status=2).error == ("in: no pictures in this folder (-r looks into its sub-folders)")
    assert coda("explain", "empty", "-r", status=2).error == "empty: no pictures in this folder"
    assert coda("explain", "in/*.jpg", status=2).error == "in/*.jpg: the pattern matches no file"
    assert not (tmp_path / "coda-out").exists()


def test_a_scan_leaves_out_what_coda_drew_what_is_hidden_and_the_output_folder(coda: Coda, tmp_path: Path) -> None:
    photos(tmp_path / "in", "a.png", ".hidden.png", ".cache/b.png", "sub/.c.png", "out/mine.png")
    args = ("explain", "in", "-r", "--class", "cat", "--write", "overlay,heatmap,panel,json")
    first = coda(*args, "-o", "in/out", "--json")
    assert [r["source"]["path"] for r in first.records] == ["in/a.png"]
    photo(tmp_path / "in/sub/d.png")
    again = coda(*args, "-o", "in/out", "--json")
    assert [r["source"]["path"] for r in again.records] == ["in/a.png", "in/sub/d.png"]
    elsewhere = coda(*args, "-o", "in/other", "--json")  # now in/out is a folder like others, with coda's pictures
    assert [r["source"]["path"] for r in elsewhere.records] == ["in/a.png", "in/out/mine.png", "in/sub/d.png"]
    beside = coda("explain", "in/*.png", "-o", "in", "--json", "--class", "dog")
    assert [r["source"]["path"] for r in beside.records] == ["in/a.png"]
    within = coda("explain", "in", "-o", "in", "--json", "--class", "dog")
    assert within.out == beside.out


@pytest.mark.parametrize("output", [".", "in", "../elsewhere"])
def test_an_output_folder_around_the_pictures_hides_none(coda: Coda, tmp_path: Path, output: str) -> None:
    photos(tmp_path / "here/in/sub", "a.png", "b.png")
    result = coda("explain", "in/sub", "-o", output, "--json", cwd=tmp_path / "here")
    assert len(result.records) == 2


# ---- names -----------------------------------------------------------------------------------------------------------

NAMES = [
    "Zürich – Bahnhof.png", "写真.png", "två  mellanslag.png", "🦜.png", "100%.png", "{stem}.png",
    "a'b\"c.png", "$HOME.png", "[0-9].png", "line\nbreak.png", "tab\there.png", ":dog:.png", "a\u2028b.png",
    "ends .png", "x" * 246 + ".png", "é" * 123 + ".png", ".hidden.png", "no suffix", "a.b.c.png", "\x1b[31mred.png",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_any_name_will_do(coda: Coda, tmp_path: Path, name: str) -> None:
    (tmp_path / "in").mkdir()
    Image.fromarray(scene()).save(tmp_path / "in" / name, "PNG")
    args = ("--class", "cat", "--write", "overlay,npz,json")
    record = coda("explain", f"in/{name}", "--json", *args).record
    assert record["source"]["path"] == f"in/{name}"
    written = {*record["files"].values(), *record["explained"][0]["files"].values()}
    assert len(written) == 2
    assert written < tree(tmp_path / "coda-out").keys()
    (stored,) = (tmp_path / "coda-out").glob("*.json")
    assert json.loads(stored.read_text(encoding="utf-8")) == record
    again = coda("explain", f"in/{name}", *args)  # found again
    assert "0 explained" not in again.err
    assert "(already there)" in again.err


def test_a_file_that_begins_with_a_hyphen_is_named_after_two_hyphens(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "-c.png")
    assert coda("explain", "--json", "--write", "none", "--", "-c.png").record["source"]["path"] == "-c.png"


def test_long_names_that_begin_alike_get_outputs_of_their_own(coda: Coda, tmp_path: Path) -> None:
    photos(tmp_path / "in", "x" * 240 + "1.png", "x" * 240 + "2.png", "x" * 240 + "1.jpg")
    result = coda("explain", "in", "--class", "cat")
    assert len(tree(tmp_path / "coda-out")) == len(set(result.lines)) == 6


def test_names_that_are_no_utf8_are_explained_and_recorded_readably(coda: Coda, tmp_path: Path) -> None:
    names = [os.fsdecode(b"caf\xe9.png"), os.fsdecode(b"caf\xe8.png")]
    for name in names:
        Image.fromarray(scene()).save(tmp_path / name, "PNG")
    (tmp_path / os.fsdecode(b"bro\xffken.png")).write_text("nothing")
    result = coda("explain", ".", "--json", "-o", "out", status=1)
    assert [r["source"]["path"] for r in result.records] == ["bro\\xffken.png", "caf\\xe8.png", "caf\\xe9.png"]
    assert len(tree(tmp_path / "out")) == 4
    assert len(coda("explain", names[0], "-o", "other").lines) == 2
    assert "2 skipped" in coda("explain", ".", "-o", "out", status=1).err


# ---- streams and signals ---------------------------------------------------------------------------------------------


def wait_for(there: Callable[[], bool], child: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + program.PATIENCE
    while not there():
        assert child.poll() is None, f"ended too early: {child.communicate()}"
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.005)


def check_whole(folder: Path) -> None:
    """Everything in an output folder is whole: no temporary files, and records whose files are there."""
    assert not [name for name in tree(folder) if name.endswith(".part")]
    for path in folder.rglob("*.png"):
        with Image.open(path) as picture:
            picture.load()
            from_json(picture.info["coda"])
    for path in folder.rglob("*.json"):
        record = from_json(path.read_text(encoding="utf-8"))
        assert all((folder / name).exists() for e in record.explained for name in e.files.values())


def test_a_list_from_a_terminal_is_asked_for_in_words(tmp_path: Path) -> None:
    outer, inner = os.openpty()
    try:
        child = subprocess.run(
            program.command("explain", "-"), stdin=inner, capture_output=True, cwd=tmp_path, text=True
        )
    finally:
        os.close(outer)
        os.close(inner)
    assert child.returncode == 2
    assert child.stderr.startswith("coda: error: - reads a list of paths from stdin, which is a terminal; ")


def test_results_go_to_the_pipe_beside_a_progress_bar_on_the_terminal(tmp_path: Path) -> None:
    photos(tmp_path / "in", "a.png", "b.png")
    outer, inner = os.openpty()
    try:
        child = subprocess.run(
            program.command("explain", "in", "--json"),
            stdout=subprocess.PIPE,
            stderr=inner,
            cwd=tmp_path,
            env={**program.environment(), "TERM": "xterm"},
            text=True,
        )
        shown = os.read(outer, 1 << 16).decode(errors="replace")  # may end in the middle of a letter
    finally:
        os.close(outer)
        os.close(inner)
    assert child.returncode == 0
    assert [json.loads(line)["source"]["path"] for line in child.stdout.splitlines()] == ["in/a.png", "in/b.png"]
    assert "explaining" in shown
    assert '"schema"' not in shown


def test_the_traceback_is_shown_to_who_asks(coda: Coda) -> None:
    with pytest.raises(UsageError, match="no such file"):
        coda("--traceback", "explain", "a.png")
    with pytest.raises(UsageError, match="no such file"):
        coda("explain", "a.png", env={"CODA_DEBUG": "1"})
    assert "no such file" in coda("explain", "a.png", status=2).error


def test_what_a_killed_run_left_is_removed_by_the_next(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "in/sub/a.png")
    left, fresh = (tmp_path / "coda-out/sub" / f".coda-{name}.part" for name in ("left", "fresh"))
    left.parent.mkdir(parents=True)
    for path in (left, fresh):
        path.write_bytes(b"half")
    spool, frames = left.with_name(".coda-left.part.spool"), left.with_name(".coda-frames.part")
    spool.write_bytes(b"frames")
    frames.mkdir()
    (frames / "0.png").write_bytes(b"a frame")
    for path in (left, spool, frames):
        os.utime(path, (time.time() - 7200,) * 2)
    coda("explain", "in", "-r")
    assert list(left.parent.glob(".*")) == [fresh]  # it may belong to a run that goes on at this moment
    for verb in ("compare", "video"):
        os.utime(fresh, (time.time() - 7200,) * 2)
        coda(
            verb,
            "in/sub/a.png",
            "-o",
            fresh.parent,
            *(("--method", "ours") if verb == "compare" else ("--max-frames", "1")),
        )
        assert not fresh.exists()
        fresh.write_bytes(b"half")


@pytest.mark.parametrize(
    ("number", "status", "said"), [(signal.SIGINT, 130, "interrupted: "), (signal.SIGTERM, 143, "terminated")]
)
def test_a_run_that_is_stopped_leaves_whole_results_and_the_same_command_goes_on(
    coda: Coda, tmp_path: Path, number: signal.Signals, status: int, said: str
) -> None:
    photos(tmp_path / "in", *(f"{i:02}.png" for i in range(20)))
    args = ("explain", "in", "--class", "0", "--batch-size", "1", "--write", "overlay,json")
    out = tmp_path / "coda-out"
    with program.started(*args, cwd=tmp_path, stdout=subprocess.DEVNULL) as child:
        wait_for(lambda: len(list(out.glob("*.json"))) > 0, child)
        child.send_signal(number)
        stopped = program.finish(child, status)
    assert stopped.err.splitlines()[-1].startswith(f"coda: {said}")
    assert not stopped.errors
    check_whole(out)
    done = len(list(out.glob("*.json")))
    assert 0 < done < 20
    again = coda(*args)
    assert f"coda: {20 - done} explained, {done} skipped in" in again.err
    check_whole(out)
    assert len(tree(out)) == 40


@pytest.mark.parametrize(
    ("more", "goes_on"),
    [((), True), (("--if-exists", "skip"), True), (("--force",), False), (("--write", "overlay"), False)],
)
def test_only_a_run_that_would_go_on_says_so(
    coda: Coda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...], goes_on: bool
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    photo(tmp_path / "a.png")
    monkeypatch.setattr("coda_cli.cli.explain._Announcer.add", interrupted)
    said = coda("explain", "a.png", *more, status=130).err
    assert ("the same command goes on here" in said) == goes_on


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="asks Linux for a full disk")
@pytest.mark.parametrize(
    "args", [("--help",), ("--version",), ("models", "list"), ("explain", "a.png", "--json", "-q")]
)
def test_results_that_cannot_be_written_are_one_line(tmp_path: Path, args: tuple[str, ...]) -> None:
    photo(tmp_path / "a.png")
    with open("/dev/full", "wb") as full:
        ended = subprocess.run(
            program.command(*args),
            cwd=tmp_path,
            env=program.environment(),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert (ended.returncode, ended.stderr) == (1, "coda: error: output: No space left on device\n")


def test_closed_streams_are_no_traceback(tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    said = {}
    for closed, more in ((">&-", "a.png --class 0"), ("<&-", "-")):
        line = f"{shlex.join(program.command('explain'))} {more} {closed}"
        ended = subprocess.run(
            ["sh", "-c", line], cwd=tmp_path, env=program.environment(), capture_output=True, text=True
        )
        said[closed] = ended.returncode, ended.stderr
    assert said[">&-"][0] == 0
    assert len(said[">&-"][1].splitlines()) == 1
    assert said["<&-"][0] == 2
    assert "stdin, which is closed" in said["<&-"][1]
    assert (tmp_path / "coda-out" / "a.airplane.overlay.png").exists()


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8:strict"])
def test_a_name_that_the_locale_does_not_have_is_printed_as_it_is(tmp_path: Path, encoding: str) -> None:
    name = "猫\udce9.png"  # and a byte that is no UTF-8
    photo(tmp_path / name)
    line = [*program.command("explain", "--class", "0", "--write", "overlay"), "."]
    ended = subprocess.run(
        line, cwd=tmp_path, env={**program.environment(), "PYTHONIOENCODING": encoding}, capture_output=True
    )
    assert ended.returncode == 0, ended.stderr
    printed = os.fsdecode(ended.stdout.strip())
    assert (tmp_path / printed).exists()
    assert "猫" in printed


def test_names_that_differ_in_case_alone_are_one_where_the_disk_says_so(
    coda: Coda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos(tmp_path, "x/Cat.png", "cat.png")
    coda("explain", "x/Cat.png", "cat.png", "--class", "0")
    monkeypatch.setattr(sys, "platform", "darwin")
    said = coda("explain", "x/Cat.png", "cat.png", "--class", "0", "-o", "other", status=2).error
    assert said.startswith("x/Cat.png and cat.png would both be written as")


def test_ctrl_c_before_anything_was_done_leaves_quietly(coda: Coda, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("coda_cli.media.sources.resolve", interrupted)
    result = coda("explain", "a.png", status=130)
    assert (result.out, result.err) == ("", "coda: interrupted\n")


def test_ctrl_c_while_the_program_is_imported_is_no_traceback(tmp_path: Path) -> None:
    code = """
import sys
class Interrupted:
    def find_spec(self, name, *_):
        if name == "typer": raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupted())
from coda_cli.__main__ import run
run()
"""
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert (child.returncode, child.stdout, child.stderr) == (130, "", "")


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
        (["explain", "a.png", "--write", "none,overlay"], "--write none,overlay: none stands alone"),
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


@pytest.mark.parametrize(
    ("paths", "name"), [(["x/a.png", "y/a.png"], "{parent}-{name}"), (["a.png", "a.jpg"], "{name}")]
)
def test_the_names_that_are_advised_do_tell_the_inputs_apart(
    coda: Coda, tmp_path: Path, paths: list[str], name: str
) -> None:
    photos(tmp_path, *paths)
    said = coda("explain", *paths, "-c", "cat", status=2).error
    advised = said.split("--name ")[1].strip("'")
    assert advised == name + ".{class_slug}.{kind}.{ext}"
    assert len(coda("explain", *paths, "-c", "cat", "--name", advised).lines) == 4


def test_inputs_that_no_name_tells_apart_are_for_two_runs(coda: Coda, tmp_path: Path) -> None:
    photos(tmp_path, "1/x/a.png", "2/x/a.png")
    assert "in two runs, with an --output each" in coda("explain", "1/x/a.png", "2/x/a.png", status=2).error


def test_a_record_that_another_run_wrote_meanwhile_stops_a_picture_before_its_files(
    coda: Coda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo(tmp_path / "a.png")
    coda("explain", "a.png", "-c", "cat")
    record = tmp_path / "coda-out" / "a.coda.json"
    text = record.read_bytes()
    (tmp_path / "coda-out" / "a.cat.overlay.png").unlink()
    record.unlink()

    def explain_batch(*args: Any, **more: Any) -> Any:
        record.write_bytes(text)
        return pictures.explain_batch(*args, **more)

    monkeypatch.setattr("coda_cli.explanation.run.explain_batch", explain_batch)
    assert "exists from another picture" in coda("explain", "a.png", "-c", "dog", status=1).error
    assert tree(tmp_path / "coda-out").keys() == {"a.coda.json"}
    assert record.read_bytes() == text


def test_ctrl_c_while_a_file_is_written_leaves_no_temporary_file(
    coda: Coda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos(tmp_path / "in", "a.png", "b.png")
    disk = FullDisk(1)

    def interrupted(handle: int) -> None:
        del handle
        raise KeyboardInterrupt

    monkeypatch.setattr(disk, "fsync", interrupted, raising=False)
    monkeypatch.setattr(media_files, "os", disk)
    result = coda("explain", "in", status=130)
    assert "interrupted: 0 explained" in result.err
    assert tree(tmp_path / "coda-out") == {}


def test_a_reader_that_goes_away_is_no_error_message(tmp_path: Path) -> None:
    photos(tmp_path / "in", *(f"{i:02}.png" for i in range(12)))
    with program.started("explain", "in", "--json", "--class", "0", "--batch-size", "1", cwd=tmp_path) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        assert child.stdout.readline().startswith(b'{"schema"')
        child.stdout.close()
        said = child.stderr.read().decode()
        assert child.wait(program.PATIENCE) == 1
    assert all(line.startswith("coda: in/") for line in said.splitlines()), said
    check_whole(tmp_path / "coda-out")


def test_two_runs_into_one_folder_at_the_same_time_both_end_well(tmp_path: Path) -> None:
    photos(tmp_path / "in", *(f"{i}.png" for i in range(6)))
    args = ("explain", "in", "--class", "0", "--write", "overlay,npz,json")
    with program.started(*args, cwd=tmp_path) as one, program.started(*args, cwd=tmp_path) as two:
        for child in (one, two):
            program.finish(child, 0)
    out = tmp_path / "coda-out"
    assert len(tree(out)) == 18
    check_whole(out)
    for path in out.glob("*.npz"):
        np.load(path)["contributions"]


def test_files_get_the_rights_of_any_new_file_and_the_umask_is_left_alone(
    coda: Coda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo(tmp_path / "a.png")
    before = os.umask(0o027)
    try:
        # Who asks for the umask sets it, and several threads write at once.
        with monkeypatch.context() as patch:
            patch.setattr(os, "umask", lambda _: pytest.fail("the umask was changed"))
            coda("explain", "a.png", "--class", "0", "--write", "overlay,json,npz")
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "coda-out").iterdir()} == {0o640}
