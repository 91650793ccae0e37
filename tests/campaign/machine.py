"""Scarce machines and odd streams: little memory, a full disk, few open files, no home, closed streams; and signals."""

from __future__ import annotations

import random
import signal
from pathlib import Path

from campaign.case import USED_WRONGLY, Case
from campaign.checkpoints import description, own
from campaign.clips import clip
from campaign.own_files import MEASURE, TRAIN, scenes, squares
from campaign.pictures import whole

MB = 1_000_000
STOPPED = (0, 130, 143, -signal.SIGINT, -signal.SIGTERM, -signal.SIGHUP)
ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
WRITES = ("explain", "compare", "video", "train", "convert", "scores", "logits", "plot")


def command(folder: Path, rng: random.Random, kinds: tuple[str, ...] = WRITES) -> tuple[str, list[str]]:
    """Inputs of a sound run in a folder, and the run."""
    kind = rng.choice(kinds)
    (folder / "a.png").write_bytes(whole("png", "RGB"))
    if kind == "explain":
        for n in range(8):
            (folder / f"b{n}.jpg").write_bytes(whole("jpg", "RGB"))
        return kind, ["explain", ".", "-o", "out", "--write", rng.choice(("overlay,json", "npz,json,panel,heatmap"))]
    if kind == "compare":
        return kind, ["compare", "a.png", "-o", "out", "--method", "ours"]
    if kind == "video":
        form = rng.choice(("mp4", "webm", "gif", "png", "webp"))
        (folder / "a.mp4").write_bytes(clip("mp4", "libx264", "yuv420p", "aac", 16))
        return f"video, {form}", [
            "video",
            "a.mp4",
            "-o",
            "out",
            "--format",
            form,
            *rng.choice(([], ["--height", "200"])),
        ]
    if kind == "convert":
        (folder / "m.safetensors").write_bytes(own("coda_net", {"coda": json_of("coda_net")}))
        return kind, ["models", "convert", "m.safetensors", "-o", "new.safetensors"]
    if kind == "train":
        squares(folder / "data")
        return kind, list(TRAIN)
    scenes(folder / "data")
    if kind == "scores":
        return kind, list(MEASURE)
    if kind == "plot":
        return kind, [*MEASURE[:-2], "--plot", "p.png"]
    return kind, ["models", "verify", "cifar10", "--accuracy", "data", "--logits", "l.npz"]


def json_of(architecture: str) -> str:
    """The description of a small network as JSON."""
    import json

    return json.dumps(description(architecture))


def scarce(folder: Path, rng: random.Random) -> Case:
    """A sound run on a machine that lacks something, or with streams that nobody reads."""
    kinds = (
        "disk",
        "disk",
        "memory",
        "memory from the start",
        "open files",
        "home",
        "stdout",
        "stderr",
        "folder gone",
        "there",
    )
    kind = rng.choice(kinds)
    if kind == "folder gone":
        (folder / "gone").mkdir()
        path = folder / "gone"
        path.rmdir()
        args = rng.choice(
            (["models", "list"], ["explain", "a.png"], ["models", "verify", "cifar10"], ["video", "a.mp4"])
        )
        return Case("no working folder", args, USED_WRONGLY, folder_gone=True, fresh=rng.random() < 0.5)
    name, args = command(folder, rng)
    # torch compiles with a compiler; matplotlib asks a program for the fonts of the system
    case = Case(f"{kind}, {name}", args, USED_WRONGLY, may_start=name in ("train", "plot"))
    if kind == "disk":
        case.largest_file = rng.choice((0, 1, 100, 3_000, 20_000, 200_000))
    elif kind == "memory":
        case.memory_more = rng.choice((1, 20, 60, 120, 250, 500)) * MB
    elif kind == "memory from the start":
        case.memory_more, case.fresh = rng.choice((300, 1000, 2000, 2600, 3000, 3400)) * MB, True
    elif kind == "open files":
        case.files_open = rng.choice((7, 9, 12, 20))
    elif kind == "home":
        home = rng.choice(("/dev/null", "/nowhere/at/all", "/proc", ""))
        case.env = {"HOME": home, "CODA_CACHE_DIR": rng.choice((home, "")), "XDG_CACHE_HOME": rng.choice((home, ""))}
    elif kind == "stdout":
        case.stdout, case.args = (
            rng.choice(("closed", "full", "broken")),
            [*args, *(["--json"] if "explain" in args else [])],
        )
        case.codes = (*USED_WRONGLY, -signal.SIGPIPE, 141)
    elif kind == "stderr":
        case.stderr = rng.choice(("closed", "full", "broken"))
        case.codes = (*USED_WRONGLY, -signal.SIGPIPE, 141)
    else:
        _there(folder, name, case, rng)
    return case


def _there(folder: Path, name: str, case: Case, rng: random.Random) -> None:
    """Somebody else's files lie where the run writes; nobody has said that they may be replaced."""
    theirs = {
        "compare": "out/a.compare.png", "convert": "new.safetensors", "scores": "s.jsonl", "logits": "l.npz",
        "plot": "p.png",
        "train": rng.choice(("run/log.csv", "run/model.safetensors", "run/training-state.pt")),
    }.get(name, rng.choice(("out/a.coda.mp4", "out/a.coda.jsonl", "out/a.coda.gif", "out/a.json")))  # fmt: skip
    (folder / theirs).parent.mkdir(exist_ok=True)
    if rng.random() < 0.2:
        (folder / theirs).symlink_to("nowhere")
    else:
        (folder / theirs).write_bytes(b"somebody else's\n")
    case.what = f"{Path(theirs).name} of somebody else"


def stopped(folder: Path, rng: random.Random) -> Case:
    """A signal at any moment, and another one while the program leaves."""
    name, args = command(folder, rng)
    number = rng.choice((signal.SIGINT, *ENDS))
    at = rng.choice((0.0, 0.02, 0.1, 0.3, 0.6, 1.0, 1.5, 2.5)) * rng.uniform(0.6, 1.4)
    signals = [(at, int(number))]
    if rng.random() < 0.5:
        signals.append((at + rng.choice((0.0, 0.01, 0.05, 0.2)), int(rng.choice(ENDS))))
    what = f"{name}, {'two signals' if len(signals) > 1 else 'a signal'}"
    return Case(
        what, args, STOPPED, signals=signals, may_start=name in ("train", "plot"), fresh=at > 0.5 and rng.random() < 0.2
    )
