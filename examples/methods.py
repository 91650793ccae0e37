"""Measures every method on a network, by coda's own commands, and prints a table beside the published numbers.

python examples/methods.py cifar10-data/ out/                          the network cifar10, every method: hours
python examples/methods.py cifar10-data/ out/ -m cifar10-bcos ours grad-cam
python examples/methods.py imagenette/ out/ -m imagenette --grids 100 --pictures 256 ours input-x-gradient

Data as for coda train. Every score is kept in out/: the same command goes on where it was stopped. Each cell is one
coda evaluate, which --verbose prints. With matplotlib two figures of all methods are drawn into out/ as well.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from coda_cli.study import plots

# Mean localisation over 500 grids and mean removal over 1,024 pictures of the published 9L-S-CoDA-SQ-1000, from the
# result files in the authors' repository (CoDA-Nets, resources/results). Their Occ5 and Occ9 hide 4 and 8 pixels, at
# every second pixel; here windows lie side by side, which asks the network 4 and 16 times less often.
PUBLISHED = {
    "ours": (0.9115, 0.9642),
    "occlusion:window=8,stride=8": (0.8422, 0.9571),
    "grad-cam": (0.7257, 0.8768),
    "occlusion:window=4,stride=4": (0.5635, 0.9593),
    "integrated-gradients": (0.1545, 0.5735),
    "deeplift": (0.1441, 0.5616),
    "input-x-gradient": (0.1441, 0.5616),
    "gradient": (0.1437, 0.8613),
}
METHODS = (*PUBLISHED, "gradient:absolute=1", "gradient:channels=6", "guided-backprop",
           "lime:samples=128", "rise:masks=250")  # fmt: skip


def main() -> None:
    """Reads the command line and prints the table, a line as soon as it is measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("methods", nargs="*", default=METHODS)
    parser.add_argument("-m", "--model", default="cifar10")
    parser.add_argument("--grids", type=int, default=100)
    parser.add_argument("--pictures", type=int, default=256)
    parser.add_argument("--points", type=int, default=32, help="of a removal curve; published: 128")
    parser.add_argument("-v", "--verbose", action="store_true")
    options = parser.parse_intermixed_args()
    if not options.data.is_dir():
        parser.error(f"{options.data}: no such folder")
    options.output.mkdir(parents=True, exist_ok=True)
    published = options.model == "cifar10"  # whose configuration is that of the published one at half its rank
    heads = ["method", "localisation", *["published"] * published, "removal", *["published"] * published]
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}", flush=True)
    boxes, curves = {}, {}
    for method in options.methods:
        found = measured("localisation", method, options, "--grids", str(options.grids))
        removed = measured("removal", method, options, "--pictures", str(options.pictures),
                           "--points", str(options.points))  # fmt: skip
        localisation, removal = "–", "–"
        if found:
            low, high = found["interval_95"]
            localisation = f"{found['mean']:.3f} ({low:.3f} to {high:.3f})"
            boxes[method] = np.array(found["scores"])
        if removed:
            removal = f"{removed['area']:.3f}"
            curves[method] = np.array(removed["removed"]), np.array(removed["mean"])
        theirs = [f"{number:.3f}" for number in PUBLISHED.get(method, ())] or ["–", "–"]
        cells = [localisation, theirs[0], removal, theirs[1]] if published else [localisation, removal]
        print(f"| {method} | {' | '.join(cells)} |", flush=True)
    if not boxes and not curves:
        raise SystemExit("nothing could be measured")
    if published:
        print(
            f"\nPublished: stride 2 for occlusion, 6000 masks for RISE, 128 points of removal; here {options.points}."
        )
    if boxes and curves and importlib.util.find_spec("matplotlib"):
        stem = options.output / name_of(options.model)
        title = f"{options.model}, {min(map(len, boxes.values()))} grids 3x3"
        plots.save(plots.localisation_figure(boxes, 1 / 9, title), stem.with_name(f"{stem.name}.localisation.png"))
        title = f"{options.model}, {options.pictures} pictures, least important first"
        plots.save(plots.removal_figure(curves, title), stem.with_name(f"{stem.name}.removal.png"))


def name_of(model: str) -> str:
    """A network's name or path as the beginning of a file's name."""
    return model.replace("/", "-")


def measured(what: str, method: str, options: argparse.Namespace, *more: str) -> dict[str, Any] | None:
    """What one coda evaluate says, or None where a method does not work with the network: the reason is on stderr."""
    kind = what if what == "localisation" else f"{what}-{options.pictures}x{options.points}"
    name = f"{name_of(options.model)}.{kind}.{method.replace(':', '-').replace(',', '-')}.jsonl"
    command = ["evaluate", what, str(options.data), "-m", options.model, "--method", method, *more]
    command += ["--scores", str(options.output / name), "--json"]
    if options.verbose:
        print("coda", *command, file=sys.stderr)
    result = subprocess.run([sys.executable, "-m", "coda_cli", *command], stdout=subprocess.PIPE)
    if result.returncode not in (0, 1):  # of the data, the network, or Ctrl-C: no other method will fare better
        raise SystemExit(result.returncode)
    line: dict[str, Any] | None = json.loads(result.stdout) if result.returncode == 0 else None
    return line


if __name__ == "__main__":
    main()
