"""Shows what sharpens maps, the temperature and a loss on the matrices: trains small CoDA-Nets and prints a table.

python examples/temperature.py cifar10-data/ out/                    T = 10, 100, 1000, 10000: about an hour
python examples/temperature.py cifar10-data/ out/ --epochs 1 --grids 20 10 1000
python examples/temperature.py cifar10-data/ out/ 64 --matrix-l1 0 1 10     as coda train --matrix-l1

Data as for coda train. Every network is kept in out/, and a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import itertools
from dataclasses import replace
from pathlib import Path

import torch

from coda_cli.checkpoints.loading import Net, load
from coda_cli.checkpoints.published import PUBLISHED
from coda_cli.errors import CodaError
from coda_cli.study.localisation import localise
from coda_cli.training import datasets
from coda_cli.training.loop import train
from coda_cli.training.recipes import RECIPES
from coda_cli.training.results import finish
from coda_cli.training.state import STATE_FILE

CONFIGURATION = "9L-S-CoDA-SQ-rank-4"


def main() -> None:
    """Reads the command line and prints the table, a line as soon as it is measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("temperatures", type=float, nargs="*", default=[10, 100, 1000, 10_000])
    parser.add_argument("--matrix-l1", type=float, nargs="+", default=[0.0], metavar="WEIGHT")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--grids", type=int, default=100)
    options = parser.parse_intermixed_args()
    splits = datasets.load(options.data, 32)
    print(f"| T | matrix L1 | accuracy | 3 x 3 localisation, {options.grids} grids |\n|---|---|---|---|")
    for temperature, weight in itertools.product(options.temperatures, options.matrix_l1):
        name = f"T{temperature:g}-{options.epochs}-epochs" + (f"-l1-{weight:g}" if weight else "")
        folder = options.output / name
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "network.safetensors"
        if not path.exists():
            arguments = {**PUBLISHED[CONFIGURATION], "temperature": float(temperature)}
            recipe = replace(RECIPES["cifar10"], arguments=arguments, epochs=options.epochs, matrix_l1=weight)
            torch.compiler.reset()  # or the fourth network would not be compiled any more, and take three times as long
            resume = (folder / STATE_FILE).exists()
            result = train(recipe, splits, folder, device=torch.device("cpu"), resume=resume)
            finish(result, recipe, splits, path, "network", about=str(options.data))
        net = load(path)
        accuracy = net.checkpoint.accuracy
        assert accuracy is not None
        found = localised(net, splits[1], options.grids)
        print(f"| {temperature:g} | {weight:g} | {accuracy.value:.1%} | {found} |", flush=True)


def localised(net: Net, pictures: datasets.Split, grids: int) -> str:
    """Mean localisation and its 95 % interval, or why there is none: few epochs may leave no class it is sure of."""
    try:
        found = localise(net.model, pictures.images, pictures.labels, count=grids)
    except CodaError as error:
        return f"none: {error}"
    low, high = found.interval()
    return f"{found.mean:.3f} ({low:.3f} to {high:.3f})"


if __name__ == "__main__":
    main()
