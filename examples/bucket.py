"""Explain the pictures in a bucket, and put records and maps into the bucket: one tar, as webdataset reads it.

    pip install 'coda-cli[s3]'
    python examples/bucket.py s3://BUCKET/photos/ s3://BUCKET/explained.tar

Both are addresses of any kind that coda writes to (gs://, az://). The drivers find credentials where they always do.
Prints for each picture its address, its class, and the sum of its map as the tar has it. The same command does nothing
twice: what the tar holds already is skipped. On the command line it is

    coda explain s3://BUCKET/photos/ -o s3://BUCKET/explained.tar --write npz,json
"""

from __future__ import annotations

import io
import json
import sys
import tarfile

import fsspec
import numpy as np

import coda_cli as coda


def main(pictures: str, output: str) -> None:
    drawing = coda.Drawing(kinds=("npz", "json"))
    for outcome in coda.explain_many(pictures, "cifar10", output=output, drawing=drawing):
        if outcome.error:
            print(outcome.error, file=sys.stderr)
    with fsspec.open(output) as stream:
        content = io.BytesIO(stream.read())
    with tarfile.open(fileobj=content) as archive:
        samples: dict[str, dict[str, bytes]] = {}
        for entry in archive:
            key, _, field = entry.name.partition(".")
            samples.setdefault(key, {})[field] = archive.extractfile(entry).read()
    for sample in samples.values():
        record = json.loads(sample["coda.json"])
        maps = np.load(io.BytesIO(sample["coda.npz"]), allow_pickle=False)["pixels"]
        print(record["source"]["path"], record["explained"][0]["name"], f"{maps.sum():.4f}")


if __name__ == "__main__":
    main(*sys.argv[1:3])
