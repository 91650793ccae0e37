"""Draws the training curve of a network from the log that coda train keeps: loss, and accuracy on held-out pictures.

python examples/curve.py run/log.csv curve.png          needs matplotlib (pip install '.[figures]')
"""

from __future__ import annotations

import csv
import sys

import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot as plt


def main(log: str, output: str) -> None:
    with open(log, newline="") as stream:
        rows = list(csv.DictReader(stream))
    epochs = [int(row["epoch"]) for row in rows]
    figure, left = plt.subplots(figsize=(7.2, 3.6), layout="constrained")
    right = left.twinx()
    left.plot(epochs, [float(row["loss"]) for row in rows], color="#5b6770", label="training loss")
    right.plot(epochs, [100 * float(row["accuracy"]) for row in rows], color="#cd2a30", label="accuracy")
    left.set(xlabel="epoch", ylabel="training loss (binary cross entropy)", xlim=(0, epochs[-1]), ylim=(0, None))
    right.set(ylabel="accuracy on a held-out sample, %", ylim=(0, 100))
    for axis in (left, right):
        axis.spines["top"].set_visible(False)
    lines = [*left.lines, *right.lines]
    left.legend(lines, [str(line.get_label()) for line in lines], frameon=False, loc="center right")
    left.grid(alpha=0.25)
    figure.savefig(output, dpi=120)


if __name__ == "__main__":
    main(*sys.argv[1:])
