"""What one picture costs outside the network, step by step, and what other PNG encoders take for the same picture."""

from __future__ import annotations

import io
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from folder import SIZE, scene
from numpy.typing import NDArray
from PIL import Image

from coda_cli.accounts import Drawing, make_record, source_part
from coda_cli.checkpoints.loading import load
from coda_cli.checkpoints.manifest import DEFAULT
from coda_cli.explain import Request, explain_views
from coda_cli.media import png
from coda_cli.media.sources import resolve
from coda_cli.media.stills import read_image
from coda_cli.media.view import fit
from coda_cli.report.pictures import draw
from coda_cli.report.records import to_json

REPETITIONS = 30


def stages_table() -> None:
    """Median times of the steps, each alone and on one thread."""
    threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    net, request, drawing = load(DEFAULT), Request(), Drawing()
    p = net.checkpoint.preprocessing
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "picture.jpg")
        scene(0).save(path, quality=90)
        picture = read_image(path)
        view = fit(picture.rgb, p.resize, p.crop)
        (explanation,) = explain_views([view], net, request, request.targets(net))
        source = source_part(resolve([name], recursive=False)[0], picture, view)
        record = make_record(explanation, net, request, drawing, source, "")
        part = record.explained[0]
        drawn = draw("overlay", picture.rgb, explanation.maps[0], view, part, record, drawing.alpha)
        steps: dict[str, Callable[[], object]] = {
            "reading": lambda: read_image(path),
            "scaling": lambda: fit(picture.rgb, p.resize, p.crop),
            "record": lambda: to_json(make_record(explanation, net, request, drawing, source, "")),
            "drawing": lambda: draw("overlay", picture.rgb, explanation.maps[0], view, part, record, drawing.alpha),
            "PNG": lambda: png.encode(drawn),
        }
        taken = {step: milliseconds(run) for step, run in steps.items()}
    print(f"\noutside the network, a JPEG of {SIZE[0]} x {SIZE[1]}, each step alone on one thread")
    print(", ".join(f"{step} {ms:.1f} ms" for step, ms in taken.items()))
    encoders: dict[str, Callable[[], int]] = {"coda": lambda: len(png.encode(drawn))}
    for level in (1, 3, 6):
        encoders[f"Pillow, level {level}"] = partial(by_pillow, drawn, level)
    fastest = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP]
    encoders["OpenCV, level 1"] = lambda: len(cv2.imencode(".png", drawn, fastest)[1])
    sizes = [f"{who} {milliseconds(run):.1f} ms {run() / 1e3:.0f} kB" for who, run in encoders.items()]
    print(f"PNG of {drawn.shape[1]} x {drawn.shape[0]}: {'; '.join(sizes)}", flush=True)
    torch.set_num_threads(threads[0])
    cv2.setNumThreads(threads[1])


def by_pillow(rgb: NDArray[np.uint8], level: int) -> int:
    """Bytes of a picture as Pillow writes it."""
    stream = io.BytesIO()
    Image.fromarray(rgb).save(stream, "PNG", compress_level=level)
    return stream.tell()


def milliseconds(run: Callable[[], object]) -> float:
    """The median time of a call."""
    times = []
    for _ in range(REPETITIONS):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)
