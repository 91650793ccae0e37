"""The records of coda's commands, held against those kept from an earlier version: a change of structure changes none.

    python tests/records.py            compare with tests/data/records.json; prints what differs, exit code 1 if it does
    python tests/records.py --keep     write that file anew, from the version that is checked out

Left out is what no two runs have in common: times, versions of libraries, and the device. Numbers are equal where they
differ by at most TOLERANCE of the largest number of their list or object: other processors round differently.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / "tests" / "data" / "records.json"
TOLERANCE = 2e-4
NETWORK = "imagenette"  # where a command names no other: the default may change
LEFT_OUT = {"seconds", "versions", "device"}
NOISE = {
    "residual",
    "worst_residual",
    "off",
    "residual_float32",
    "residual_float64",
    "map_difference",
}  # what rounding left over: no two machines have the same
EVERY = "overlay,heatmap,panel,layers,depth,npz,json"

# What is run, in one folder, one after the other; a line that begins with "!" is expected to fail.
COMMANDS = (
    "explain pictures -o plain --json",
    "explain pictures -o plain --json",  # all of it is there
    f"explain pictures/church.png pictures/tench.png -o every --write {EVERY} --class church --class top:2 --json",
    "explain pictures/golf-ball.png --versus church --class golf_ball --scale 0.02 -o apart --json",
    "explain pictures/golf-ball.png --fit pad --precision float64 --scale run -o pad --json",
    "explain pictures/gas-pump.png --fit native --style colour --name {name}.{index}.{kind}.{ext} -o native --json",
    "explain small -m cifar10 --layer all -o layers --json",
    "explain small/ship.png -m cifar10-bcos --layer input --class all -o bcos --json",
    "explain pictures/church.png -o plain --if-exists rename --json",
    "explain pictures/church.png -o plain --class tench --json",  # beside the other
    "! explain pictures/broken.jpg pictures/church.png --write none --json",
    "! explain pictures --class nothing",
    "! explain missing.png",
    "video clip.mp4 --end 0.5 -o clips --format mp4,gif,png --json",
    "video clip.mp4 --every 5 --class parachute --versus church --scale frame --no-strip -o clip.gif --json",
    "! video clip.mp4 -o clip.gif",
    "compare small/ship.png small/truck.png -m cifar10 --method ours --method occlusion:window=8,stride=8 "
    "--method gradient --class ship --class top:1 -o compared --json",
    "! compare small/ship.png -m cifar10 --method nothing",
    "evaluate localisation labelled --grid 2x2 --grids 2 --threshold 0 --scores scores.jsonl --json",
    "evaluate removal labelled --pictures 3 --points 4 --direction most --baseline mean --json",
    "models list --json",
    "models show cifar10-bcos --json",
    "models verify cifar10 --json",
    "schema explain",
    "schema video",
    "schema compare",
    "schema evaluate",
)


def prepare(folder: Path) -> None:
    """The inputs: the examples' pictures and clip, and the pictures in a folder for each class."""
    examples = ROOT / "examples"
    shutil.copytree(examples / "pictures", folder / "pictures", ignore=lambda *_: {"lorikeet.png"})
    shutil.copy(examples / "pictures" / "parachute.png", folder / "pictures" / "tench.png")
    shutil.copytree(examples / "cifar10" / "pictures", folder / "small")
    shutil.copy(examples / "clip.mp4", folder / "clip.mp4")
    for picture in (folder / "pictures").glob("[!t]*.png"):  # all but the "tench"
        target = folder / "labelled" / "test" / picture.stem.replace("-", " ") / picture.name
        target.parent.mkdir(parents=True)
        shutil.copy(picture, target)


def ran(line: str, folder: Path) -> dict[str, Any]:
    """One command: its exit code, what it says on both streams, and the files that are there afterwards."""
    arguments = line.removeprefix("! ").split()
    before = set(folder.rglob("*"))
    environment = {k: v for k, v in os.environ.items() if not k.startswith("CODA_")}
    environment |= {"CODA_CACHE_DIR": "cache", "CODA_MODEL": NETWORK, "COLUMNS": "100", "PYTHONPATH": str(ROOT)}
    child = subprocess.run(
        [sys.executable, "-m", "coda_cli", *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )
    if (child.returncode == 0) == line.startswith("!"):
        raise SystemExit(f"coda {line}: exit code {child.returncode}\n{child.stderr}")
    texts = [child.stdout] if arguments[0] == "schema" else child.stdout.splitlines()
    out = [_without(json.loads(text), arguments[0] == "schema") for text in texts if text.startswith("{")]
    files = sorted(p.relative_to(folder).as_posix() for p in set(folder.rglob("*")) - before if p.is_file())
    errors = [text for text in child.stderr.splitlines() if text.startswith("coda: error:")]
    return {"exit": child.returncode, "out": out, "errors": errors, "new files": files}


def _without(value: Any, schema: bool = False) -> Any:
    """JSON without what is LEFT_OUT, and without the places of this machine; of a schema, without its words."""
    if isinstance(value, dict):
        return {
            k: _without(v, schema)
            for k, v in value.items()
            if k not in (("title", "description") if schema else LEFT_OUT)
        }
    if isinstance(value, list):
        return [_without(v, schema) for v in value]
    return re.sub(r"^/.*/", "…/", value) if isinstance(value, str) else value


def differences(old: Any, new: Any, where: str = "", size: float = 0.0) -> list[str]:
    """A line for every place where two JSON values differ; ``size``: of the numbers beside them, the largest."""
    if isinstance(old, dict) and isinstance(new, dict):
        size = max([abs(v) for v in old.values() if isinstance(v, float | int)], default=0.0)
        lines = [f"{where}.{key}: only {'before' if key in old else 'now'}" for key in sorted(old.keys() ^ new.keys())]
        for key in sorted(old.keys() & new.keys() - NOISE):
            lines += differences(old[key], new[key], f"{where}.{key}", size)
        return lines
    if isinstance(old, list) and isinstance(new, list):
        if len(old) != len(new):
            return [f"{where}: {len(old)} entries before, {len(new)} now"]
        size = max([abs(v) for v in old if isinstance(v, float | int)], default=0.0)
        return [
            line
            for n, (a, b) in enumerate(zip(old, new, strict=True))
            for line in differences(a, b, f"{where}[{n}]", size)
        ]
    numbers = isinstance(old, float | int) and isinstance(new, float | int)
    if numbers and abs(old - new) <= TOLERANCE * max(abs(old), size):
        return []
    return [] if old == new else [f"{where}: {old!r} before, {new!r} now"]


def main() -> None:
    """Run every command, and compare or keep."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        (folder / "pictures" / "broken.jpg").write_bytes(b"no picture")
        (folder / "pictures" / "broken.jpg").rename(folder / "broken.jpg")
        found = {}
        for n, line in enumerate(COMMANDS):
            found[f"{n} {line}"] = ran(line.replace("pictures/broken.jpg", "broken.jpg"), folder)
            print(f"coda {line}", file=sys.stderr)
    if "--keep" in sys.argv:
        KEPT.write_text(json.dumps(found, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
        return
    lines = differences(json.loads(KEPT.read_text(encoding="utf-8")), found)
    print("\n".join(lines) or f"{len(found)} commands: no difference")
    raise SystemExit(bool(lines))


if __name__ == "__main__":
    main()
