"""What one picture costs outside the network, step by step, and what other PNG encoders take for the same picture.

In processor time, so that other programs count little.
"""

from __future__ import annotations

import io
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import torch
from folder import SIZE, scene
from numpy.typing import NDArray
from PIL import Image

from coda_cli.checkpoints.loading import load
from coda_cli.checkpoints.manifest import DEFAULT
from coda_cli.explanation.drawing import draw
from coda_cli.explanation.picture import Explanation, explain_batch
from coda_cli.explanation.record import Drawing, make_record
from coda_cli.explanation.request import Input, Request
from coda_cli.media import png
from coda_cli.media.files import atomic
from coda_cli.media.sources import RECORD_KEY, resolve
from coda_cli.media.stills import read_image
from coda_cli.media.view import fit
from coda_cli.schema.parts import to_json
from coda_cli.schema.pictures import core_json

REPETITIONS = 30
T = TypeVar("T")


def stages_table() -> None:
    """Median times of the steps over different pictures, one step after the other, on one thread."""
    threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    net, request, drawing = load(DEFAULT), Request(), Drawing()
    p, taken = net.checkpoint.preprocessing, Stopwatch()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for n in range(REPETITIONS):
            scene(n).save(folder / f"{n}.jpg", quality=90)
        for item in resolve([name]):
            picture = taken.by("reading", partial(read_image, item.path))
            view = taken.by("scaling", partial(fit, picture.rgb, p.resize, p.crop))
            (explanation,) = explain_batch([view], net, request, request.targets(net))
            assert isinstance(explanation, Explanation)
            source = Input(item, picture, view)
            record = taken.by("record", partial(make_record, explanation, source, drawing, "settings"))
            part, pixels = record.explained[0], explanation.maps[0]
            drawing_of = partial(draw, "overlay", source, pixels, part, record, drawing.alpha)
            drawn = taken.by("drawing", drawing_of)
            data = taken.by("PNG", partial(png.encode, drawn, {RECORD_KEY: core_json(record, part)}))
            taken.by("writing", partial(write, item.path, data, to_json(record).encode()))
    print(f"\noutside the network, {REPETITIONS} JPEG of {SIZE[0]} x {SIZE[1]}, one step after the other on one thread")
    print(", ".join(f"{step} {ms:.1f} ms" for step, ms in taken.medians().items()))
    encoders: dict[str, Callable[[], int]] = {"coda": lambda: len(png.encode(drawn))}
    for level in (1, 3, 6):
        encoders[f"Pillow, level {level}"] = partial(by_pillow, drawn, level)
    fastest = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP]
    encoders["OpenCV, level 1"] = lambda: len(cv2.imencode(".png", drawn, fastest)[1])
    sizes = [f"{who} {milliseconds(run):.1f} ms {run() / 1e3:.0f} kB" for who, run in encoders.items()]
    print(f"PNG of {drawn.shape[1]} x {drawn.shape[0]}: {'; '.join(sizes)}", flush=True)
    torch.set_num_threads(threads[0])
    cv2.setNumThreads(threads[1])


class Stopwatch:
    """The times of steps, by their names."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, list[float]] = defaultdict(list)

    def by(self, step: str, run: Callable[[], T]) -> T:
        """What a step gives, its time taken."""
        start = time.process_time()
        result = run()
        self.seconds[step].append(time.process_time() - start)
        return result

    def medians(self) -> dict[str, float]:
        """Milliseconds."""
        return {step: 1e3 * statistics.median(seconds) for step, seconds in self.seconds.items()}


def write(picture: Path, drawn: bytes, record: bytes) -> None:
    """Write both files about a picture."""
    for suffix, data in ((".png", drawn), (".json", record)):
        with atomic(picture.with_suffix(suffix)) as stream:
            stream.write(data)


def by_pillow(rgb: NDArray[np.uint8], level: int) -> int:
    """Bytes of a picture as Pillow writes it."""
    stream = io.BytesIO()
    Image.fromarray(rgb).save(stream, "PNG", compress_level=level)
    return stream.tell()


def milliseconds(run: Callable[[], object]) -> float:
    """The median time of a call."""
    taken = Stopwatch()
    for _ in range(REPETITIONS):
        taken.by("", run)
    return taken.medians()[""]
