"""coda's own files, damaged before the program reads them back: records, scores, training state, log."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from campaign.case import USED_WRONGLY, Case
from campaign.mutations import deep, spoiled, spoiled_json
from campaign.pictures import FORMS, whole
from campaign.runner import NETWORK, environment

TRAIN = [
    "train",
    "data",
    "-o",
    "run",
    "--recipe",
    "cifar10",
    "--size",
    "8",
    "--batch",
    "4",
    "--no-compile",
    "--epochs",
    "2",
]
MEASURE = [
    "evaluate",
    "localisation",
    "data",
    "--grid",
    "2x2",
    "--grids",
    "2",
    "--threshold",
    "0",
    "--scores",
    "s.jsonl",
]
# A run of an earlier network, clip or recipe is asked about with the options it may be resumed with.
STATE, LOG = "training-state.pt", "log.csv"


def make(folder: Path, rng: random.Random) -> Case:
    """A file that coda wrote, and that something else wrote to."""
    return rng.choices((_record, _scores, _state, _list), (45, 20, 25, 10))[0](folder, rng)


def sound_run(args: Sequence[str], folder: Path) -> None:
    """Run the program, to make sound files."""
    command = [sys.executable, "-m", "coda_cli", *args]
    subprocess.run(command, cwd=folder, env=environment(folder), check=True, capture_output=True)


def squares(folder: Path) -> None:
    """Two classes of eight pictures."""
    generator = np.random.default_rng(0)
    for label, name in enumerate(("cat", "dog")):
        (folder / name).mkdir(parents=True)
        for n in range(10):
            pixels = generator.integers(0, 60, (12, 12, 3), dtype=np.uint8)
            pixels[3:9, 3:9, label] = 250
            Image.fromarray(pixels).save(folder / name / f"{n}.png")


_MAKING = threading.RLock()


def made(kind: str) -> dict[str, bytes]:
    """The files of a sound run, by name; made once."""
    with _MAKING:
        return _made(kind)


@cache
def _made(kind: str) -> dict[str, bytes]:
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "a.png").write_bytes(whole("png", "RGB"))
        if kind == "pictures":
            sound_run(["explain", "a.png", "-o", "out", "--write", "overlay,npz,json,panel", "-q"], folder)
        elif kind == "scores":
            scenes(folder / "data")
            sound_run(MEASURE, folder)
        else:
            squares(folder / "data")
            sound_run([*TRAIN, "--time-budget", "0.001", "-q"], folder)  # it stops before its end
        return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@cache
def classified() -> dict[str, list[bytes]]:
    """Pictures as PNG by the class that the bundled network gives them."""
    import torch

    from coda_cli.checkpoints.loading import load
    from coda_cli.core.networks import classify

    net = load(NETWORK)
    colours = np.random.default_rng(0).integers(0, 256, (200, 4, 4, 3), dtype=np.uint8)
    pictures = [Image.fromarray(c).resize((32, 32), Image.Resampling.BICUBIC) for c in colours]
    logits = classify(net.model, torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2))
    found: dict[str, list[bytes]] = {}
    for picture, index in zip(pictures, logits.argmax(1).tolist(), strict=True):
        stream = io.BytesIO()
        picture.save(stream, "PNG")
        found.setdefault(net.checkpoint.classes[index], []).append(stream.getvalue())
    return found


def scenes(folder: Path) -> None:
    """Held-out pictures that lie where the bundled network sorts them, and some to train on."""
    with _MAKING:
        found = classified()
    for name, pictures in found.items():
        for part, kept in (("test", pictures[:2]), ("train", pictures[:1])):
            laid(folder / part / name, {f"{n}.png": data for n, data in enumerate(kept)})


def laid(folder: Path, files: dict[str, bytes]) -> None:
    """Write files into a folder."""
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def _other(data: bytes, text: bool, rng: random.Random) -> tuple[str, bytes]:
    """Another content for a file that has this one."""
    kind = rng.random()
    if kind < 0.1:
        return "deep", deep(rng)
    if kind < 0.2:
        return "foreign", rng.choice(
            (whole(*rng.choice(FORMS)), b"", b"null", b"[]", b"{}", b"\xff\xfe\0", b"1" * 5000)
        )
    if kind < 0.25:
        return "long", data + b"\n" + b" " * 30_000_000
    if text and kind < 0.7:
        with contextlib.suppress(ValueError):
            return "another value", json.dumps(spoiled_json(json.loads(data), rng)[1]).encode()
    return spoiled(data, rng)


def _record(folder: Path, rng: random.Random) -> Case:
    """A record, overlay or array in the output folder: a second run asks it whether it is of the same picture."""
    files = dict(made("pictures"))
    written = [name for name in files if name.startswith("out/")]
    name = rng.choice(written)
    how, files[name] = _other(files[name], name.endswith(".json"), rng)
    laid(folder, files)
    if rng.random() < 0.12:
        (folder / name).unlink()
        os.mkfifo(folder / name) if rng.random() < 0.5 else (folder / name).symlink_to("/dev/zero")
        how = "no file"
    policy = rng.choice(("match", "skip", "error", "overwrite", "rename"))
    args = ["explain", "a.png", "-o", "out", "--write", "overlay,npz,json,panel", "--if-exists", policy]
    return Case(f"{Path(name).suffix} of an earlier run, {how}", args, USED_WRONGLY, own_files=tuple(written))


def _scores(folder: Path, rng: random.Random) -> Case:
    """The scores that a measurement goes on from."""
    files = dict(made("scores"))
    head, _, rest = files["s.jsonl"].partition(b"\n")
    if rng.random() < 0.5:  # the head as it was, or all would be scores of another measurement
        how, rest = _other(rest, False, rng)
    else:
        how, head = _other(head, True, rng)
    laid(folder, {**files, "s.jsonl": head + b"\n" + rest})
    return Case(f"scores, {how}", MEASURE, USED_WRONGLY, own_files=("s.jsonl",))


def _state(folder: Path, rng: random.Random) -> Case:
    """The state and the log that a training run goes on from."""
    files = dict(made("training"))
    name = rng.choice((f"run/{STATE}", f"run/{STATE}", f"run/{LOG}"))
    how = "there was none"
    if name in files:
        how, files[name] = _other(files[name], False, rng)
    laid(folder, files)
    own_files = tuple(n for n in files if n.startswith("run/"))
    args = [*TRAIN[:-2], "--epochs", rng.choice(("1", "2")), "--resume"]
    return Case(f"{Path(name).name}, {how}", args, USED_WRONGLY, own_files=own_files, may_start=True)


def _list(folder: Path, rng: random.Random) -> Case:
    """A list of pictures on stdin."""
    (folder / "a.png").write_bytes(whole("png", "RGB"))
    data = rng.choice((
        b"\0" * 100, b"a.png\n" * 2000, b"\xff\xfe.png\n", b"a.png\0a.png", b"x" * 1_000_000 + b"\n", b"\x1b[2J.png\n",
        b"\n\n\n", b"", rng.randbytes(300), "\x9b31m.png\na.png\n".encode(), b"a.png\r\n",
    ))  # fmt: skip
    null = rng.choice(([], ["-0"]))
    return Case(
        "list on stdin", ["explain", "-", "-o", "out", *null, *rng.choice(([], ["--json"]))], USED_WRONGLY, stdin=data
    )
