"""Measures the interpretable depth of several networks on the same pictures, and prints a table.

python examples/depth.py photos/                                  ordinary networks, and the bundled ones
python examples/depth.py photos/ imagenette torchvision:resnet18 --pictures 8

The bundled networks are shown the example pictures, whose classes they know. A network is whatever coda's -m takes. Of torchvision:NAME no trained weights come with coda: they are drawn at random.
Each row is one coda evaluate depth. "Interpretable from": the layer nearest to the input from which on maps can be
trusted, and how many positions it has. Shares of the logit less the last bias: the median over the pictures.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import torchvision

NETWORKS = (
    "efficientnet-lite0",
    *(f"torchvision:{name}" for name in ("resnet50", "vgg16", "densenet121")),
    *("imagenet", "imagenette", "cifar10", "cifar10-bcos"),
)
HERE = Path(__file__).parent
KNOWN = {  # pictures of each bundled network's classes
    "imagenet": HERE / "pictures",
    "imagenette": HERE / "pictures",
    "cifar10": HERE / "cifar10" / "pictures",
    "cifar10-bcos": HERE / "cifar10" / "pictures",
}
HEADS = (
    "network",
    "layers",
    "interpretable from",
    "positions carry there",
    "at the input",
    "constants above it",
    "magnitudes : logit",
)


def main() -> None:
    """Reads the command line and prints the table, a line as soon as it is measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("networks", nargs="*", default=NETWORKS)
    parser.add_argument("--pictures", type=int, default=32)
    options = parser.parse_intermixed_args()
    print(f"| {' | '.join(HEADS)} |\n|{'---|' * len(HEADS)}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in options.networks:
            record = measured(KNOWN.get(name, options.data), name, options.pictures, Path(folder) / "drawn.pth")
            if record is not None:
                print(f"| {' | '.join(row(name, record['layers']))} |", flush=True)


def measured(data: Path, name: str, pictures: int, drawn: Path) -> dict[str, Any] | None:
    """What coda evaluate depth says; None where it has a reason not to, which is on stderr."""
    network = ["-m", name]
    if name.startswith("torchvision:"):
        torch.manual_seed(0)
        torch.save(torchvision.models.get_model(name.partition(":")[2], weights=None).state_dict(), drawn)
        network = ["-m", str(drawn), "--arch", name]
    command = ["evaluate", "depth", str(data), *network, "--pictures", str(pictures), "--json", "-q"]
    result = subprocess.run([sys.executable, "-m", "coda_cli", *command], stdout=subprocess.PIPE)
    record: dict[str, Any] | None = json.loads(result.stdout) if result.returncode == 0 else None
    return record


def row(name: str, layers: list[dict[str, Any]]) -> list[str]:
    """The cells of a network."""
    first = next((layer for layer in layers if layer["interpretable"]), None)
    where = f"{first['name']}, {first['height']} x {first['width']}" if first else "nowhere"
    whole, there = layers[0], first["carried"][1] if first else None
    drawn = ", weights drawn at random" if name.startswith("torchvision:") else ""
    ratio = "–" if whole["ratio"][1] is None else f"{whole['ratio'][1]:.1f}"
    shares = [percent(whole["carried"][1]), percent(whole["constants"][1]), ratio]
    return [name + drawn, str(len(layers)), where, percent(there), *shares]


def percent(share: float | None) -> str:
    """A share as text; a dash where there is none."""
    return "–" if share is None else f"{round(share, 2) + 0.0:.0%}"  # not "-0%"


if __name__ == "__main__":
    main()
