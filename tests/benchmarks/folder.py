"""``coda explain`` over a folder of photographs' size, against what its network alone takes; a large picture whole."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from PIL import Image

from coda_cli.checkpoints.loading import load
from coda_cli.checkpoints.manifest import DEFAULT
from coda_cli.explanation.naming import Naming
from coda_cli.explanation.picture import Explanation, explain_batch
from coda_cli.explanation.record import Drawing
from coda_cli.explanation.request import Request
from coda_cli.explanation.run import explain_items
from coda_cli.explanation.writer import Output
from coda_cli.machine.ahead import ahead
from coda_cli.machine.lanes import batch_pool
from coda_cli.media.sources import resolve
from coda_cli.media.stills import read_image
from coda_cli.media.view import View, fit
from coda_cli.vocabulary import Precision

LARGE = (1500, 1000)
# Not the parent's count of its children's memory: a child's starts at what its parent had.
AND_ITS_PEAK = """
from coda_cli.cli.app import main
try: main()
except SystemExit as end: assert not end.code
print([line for line in open("/proc/self/status") if line.startswith("VmHWM")][0].split()[1])
"""
SIZE, BATCH = (640, 480), 16  # BATCH: what a run takes at the default network's size
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")


def folder_table(quick: bool) -> None:
    """Wall time of the whole program and of its network alone, in float32 and in bfloat16."""
    count = 96 if quick else 1000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "pictures")
        folder.mkdir()
        for n in range(count):
            scene(n).save(folder / f"{n:04d}.jpg", quality=90)
        print(f"\ncoda explain, {count} JPEG of {SIZE[0]} x {SIZE[1]}, network {DEFAULT}; overlays and records written")
        for precision in PRECISIONS:
            options = ["-o", str(Path(name, precision)), "--precision", precision, "-qq", "--device", "cpu"]
            start = time.perf_counter()
            subprocess.run(
                [sys.executable, "-m", "coda_cli", "explain", str(folder), *options],
                check=True,
                stdout=subprocess.DEVNULL,
            )
            whole, network = time.perf_counter() - start, network_alone(folder, precision)
            print(f"coda, the whole process, {precision:<17}{whole:>7.1f} s, {count / whole:.1f} pictures/s")
            print(f"  its network alone, the same batches     {network:>7.1f} s, ratio {whole / network:.2f}")
        print(f"  everything but its network and start    {rest_alone(folder, Path(name, 'again')):>7.1f} s")


def native_table() -> None:
    """Time and peak memory of the whole program for one large picture at its own size."""
    with tempfile.TemporaryDirectory() as name:
        scene(0).resize(LARGE, Image.Resampling.BICUBIC).save(Path(name, "large.jpg"), quality=90)
        sources = [str(Path(name, "large.jpg")), "-o", str(Path(name, "out"))]
        arguments = ["explain", *sources, "--fit", "native", "-qq", "--device", "cpu"]
        start = time.perf_counter()
        child = subprocess.run(
            [sys.executable, "-c", AND_ITS_PEAK, *arguments], check=True, capture_output=True, text=True
        )
        seconds = time.perf_counter() - start
    gigabytes = 1024 * int(child.stdout.splitlines()[-1]) / 1e9
    print(f"\ncoda explain, one JPEG of {LARGE[0]} x {LARGE[1]} at its own size, network {DEFAULT}")
    print(f"coda, the whole process                   {seconds:>7.1f} s, {gigabytes:.2f} GB at its peak")


def scene(seed: int) -> Image.Image:
    """A picture with large and small structure, so that coding and drawing it cost what a photograph's do."""
    rng = np.random.default_rng(seed)
    coarse, fine = (
        Image.fromarray(rng.integers(0, 256, (n * 3, n * 4, 3), dtype=np.uint8)).resize(SIZE, Image.Resampling.BICUBIC)
        for n in (3, 40)
    )
    return Image.blend(coarse, fine, 0.3)


def network_alone(folder: Path, precision: Precision) -> float:
    """Seconds for the decompositions of all pictures, on views that are ready."""
    net, request = load(DEFAULT), Request(precision=precision)
    p, targets = net.checkpoint.preprocessing, request.targets(net)
    views: list[View] = [fit(read_image(path).rgb, p.resize, p.crop) for path in sorted(folder.glob("*.jpg"))]
    explain_batch(views[:BATCH], net, request, targets)
    groups = (views[first : first + BATCH] for first in range(0, len(views), BATCH))
    calls = ((None, partial(explain_batch, group, net, request, targets)) for group in groups)
    start = time.perf_counter()
    with batch_pool(net.device.type) as pool:
        deque(ahead(pool, calls, 1), maxlen=0)
    return time.perf_counter() - start


def rest_alone(folder: Path, out: Path) -> float:
    """Seconds for reading, drawing and writing as in a run, every picture with the explanation of the first."""
    net, request = load(DEFAULT), Request()
    first: list[Explanation] = []

    def explained(views: Sequence[View], **of: Any) -> list[Explanation]:
        if not first:
            first.extend(e for e in explain_batch(views[:1], **of) if isinstance(e, Explanation))
        return [replace(first[0], view=view) for view in views]

    with mock.patch("coda_cli.explanation.run.explain_batch", explained):
        start = time.perf_counter()
        for _ in explain_items(net, resolve([str(folder)]), request, Output(Naming(out, DEFAULT), Drawing())):
            pass
        return time.perf_counter() - start
