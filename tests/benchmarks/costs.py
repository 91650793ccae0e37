"""What a picture costs beside computing: its place in a list of names, and the bytes that are written about it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

from folder import scene

from coda_cli.checkpoints.manifest import DEFAULT
from coda_cli.explanation.naming import Naming
from coda_cli.explanation.shards import hash_of
from coda_cli.media.sources import resolve

FOLDERS, SHARDS = 100, 100


def costs_table(quick: bool) -> None:
    """Processor time and memory of each name that is listed on a disk; the bytes that are written of each picture."""
    _names(2_000 if quick else 100_000)
    _written(16 if quick else 100)


def _names(count: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        for n in range(count):
            path = Path(name, f"{n % FOLDERS:03}", f"img{n}.jpg")
            path.parent.mkdir(exist_ok=True)
            path.touch()
        naming = Naming(Path("out"), DEFAULT)
        start = time.process_time()
        items = resolve([name], recursive=True)
        mine = sum(hash_of(item, naming) % SHARDS == 0 for item in items)
        used = time.process_time() - start
        assert len(items) == count
        assert 0 < mine < count
        del items
        tracemalloc.start()
        items = resolve([name], recursive=True)  # held while the memory is counted
        memory, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(items) == count
    print(f"\n{count} names in {FOLDERS} folders of a disk")
    print(
        f"listing them, and finding those of one shard   {1e6 * used / count:>6.0f} µs of processor time for each name"
    )
    print(f"the list in memory                             {memory / count / 1e3:>6.1f} kB for each name")


def _written(count: int) -> None:
    print(f"\ncoda explain, {count} JPEG of 640 x 480, network {DEFAULT}: written for each picture")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "pictures")
        folder.mkdir()
        for n in range(count):
            scene(n).save(folder / f"{n:04d}.jpg", quality=90)
        for kinds in ("overlay,json", "json"):
            out = Path(name, kinds)
            command = ["explain", str(folder), "-o", str(out), "--write", kinds, "--precision", "bfloat16", "-qq"]
            subprocess.run([sys.executable, "-m", "coda_cli", *command], check=True, stdout=subprocess.DEVNULL)
            sizes = [path.stat().st_size for path in out.iterdir()]
            print(f"--write {kinds:<14}{sum(sizes) / count / 1e3:>8.1f} kB in {len(sizes) / count:.0f} files")
