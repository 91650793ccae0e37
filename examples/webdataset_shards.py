"""Explain pictures in shards as webdataset lays them out: tar files in which KEY.jpg and KEY.cls belong together.

    python examples/webdataset_shards.py [FOLDER [OUTPUT]]

Packs the pictures of a folder into two shards below OUTPUT, explains the shards, and prints for each picture the name
that its results have, and its class. On the command line it is

    coda explain 'shards/photos-{000..001}.tar' -o out/
"""

from __future__ import annotations

import sys
import tarfile
from pathlib import Path

import coda_cli as coda

HERE = Path(__file__).resolve().parent


def pack(pictures: list[Path], shard: Path) -> None:
    """Write a shard; webdataset itself does it with ``wds.TarWriter``."""
    with tarfile.open(shard, "w") as archive:
        for picture in pictures:
            archive.add(picture, f"{picture.parent.name}/{picture.name}")


def main(folder: Path, output: Path) -> None:
    pictures = sorted(path for path in folder.iterdir() if path.suffix in (".png", ".jpg"))
    (output / "shards").mkdir(parents=True)
    for n in range(2):
        pack(pictures[n::2], output / f"shards/photos-{n:03}.tar")
    for outcome in coda.explain_many([str(output / "shards/photos-{000..001}.tar")], "cifar10", output=output / "out"):
        if outcome.record is None:
            raise SystemExit(str(outcome.error))
        print(outcome.written[-1].relative_to(output / "out").as_posix(), outcome.record.explained[0].name)


if __name__ == "__main__":
    arguments = [Path(text) for text in sys.argv[1:]]
    main(*(arguments + [HERE / "cifar10/pictures", Path("webdataset-out")][len(arguments) :]))
