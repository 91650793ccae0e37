"""Time and memory of the decomposition against the textbook formulation, of the whole program, and of starting it.

    python tests/benchmarks                     everything
    python tests/benchmarks --quick             one repetition, fewer pictures
    python tests/benchmarks decomposition clip  only these tables; see --help
    python tests/benchmarks --device cuda       the tables about the decomposition, on an NVIDIA GPU

Formulations that are compared run in turn in one process with the same weights and inputs; the table has the median of
each and of the ratios pair by pair. Peak memory is measured in a process of its own for each: the highest resident size
while decomposing, less what was resident with the network loaded. "of peak" is the time that the matrix products alone
would take at the machine's own rate, which is measured first, as a share of the time taken.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))

from bcos_table import TWINS, bcos_methods, bcos_table
from clip import clip_table
from costs import costs_table
from folder import folder_table, native_table
from ordinary import ordinary_table
from sources import sources_table
from speed import classes_table, decomposition_table, extra_memory, methods, precision_table
from stages import stages_table
from startup import startup_table
from training import training_table
from where import profile_table
from zeros import zeros_table

ON_A_DEVICE: dict[str, Callable[[int, torch.device], None]] = {
    "decomposition": decomposition_table,
    "precision": precision_table,
    "classes": classes_table,
    "bcos": bcos_table,
}
PROGRAM: dict[str, Callable[[bool], None]] = {
    "ordinary": lambda quick: ordinary_table(1 if quick else 7),
    "training": lambda quick: training_table(1 if quick else 5),
    "profile": lambda _: profile_table(),
    "startup": lambda quick: startup_table(1 if quick else 7),
    "folder": folder_table,
    "stages": lambda _: stages_table(),
    "zeros": lambda quick: zeros_table(1 if quick else 7),
    "sources": sources_table,
    "costs": costs_table,
    "native": lambda _: native_table(),
    "clip": clip_table,
}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=f"one of {', '.join([*ON_A_DEVICE, *PROGRAM])}")
    parser.add_argument("--quick", action="store_true", help="one repetition")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--memory", nargs=2, metavar=("CASE", "METHOD"), help=argparse.SUPPRESS)  # the child process
    arguments = parser.parse_args()
    if arguments.device.type not in ("cpu", "cuda"):
        parser.error("--device: cpu or cuda; times and memory of others are not known here")
    if arguments.memory:
        case, method = arguments.memory
        runs = bcos_methods(case) if case.split()[0] in TWINS else methods(case, arguments.device)
        print(json.dumps(extra_memory(runs, method, arguments.device)))
        return
    every = [*ON_A_DEVICE, *PROGRAM] if arguments.device.type == "cpu" else [*ON_A_DEVICE]
    if unknown := set(arguments.tables) - set(every):
        parser.error(f"no such table on this device: {', '.join(sorted(unknown))}; there are {', '.join(every)}")
    for table in arguments.tables or every:
        if table in ON_A_DEVICE:
            ON_A_DEVICE[table](1 if arguments.quick else 7, arguments.device)
        else:
            PROGRAM[table](arguments.quick)


if __name__ == "__main__":
    main()
