"""Explain the pictures of a folder as a dataset of Ray: their bytes go in, records and maps come out.

    pip install 'coda-cli[ray]'
    python examples/dataset_of_ray.py [FOLDER]

It starts Ray on this machine, or uses the cluster that RAY_ADDRESS names. Prints for each picture its name, its class,
the logit, and the sum of its map.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import ray

import coda_cli as coda

HERE = Path(__file__).resolve().parent


def main(folder: Path) -> None:
    ray.init(log_to_driver=False, logging_level=logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    pictures = ray.data.read_binary_files(str(folder), include_paths=True)
    explained = coda.ray.explain(pictures, "cifar10", name="path")
    for row in sorted(explained.iter_rows(), key=lambda row: row["path"]):
        part = json.loads(row["record"])["explained"][0]
        print(Path(row["path"]).name, part["name"], f"{part['logit']:.4f}", f"{row['maps'].sum():.4f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "cifar10/pictures")
