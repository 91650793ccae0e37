"""``coda video`` against the straightforward loop: decode everything, decompose frame by frame with the weights written
out, colour with numpy as matplotlib does, write with OpenCV."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import imageio.v3 as iio
import numpy as np
import torch
from textbook import decompose_textbook, textbook

from coda_cli.checkpoints.loading import Net, load
from coda_cli.checkpoints.manifest import DEFAULT
from coda_cli.core.networks import CodaNet, encode
from coda_cli.explanation.clip.drawing import ClipDrawing
from coda_cli.explanation.clip.files import ClipOutputs
from coda_cli.explanation.clip.run import ClipExplanation
from coda_cli.explanation.clip.survey import Survey, _look, explained, grouped_views
from coda_cli.explanation.request import Request
from coda_cli.machine.ahead import ahead
from coda_cli.machine.lanes import batch_pool
from coda_cli.media.view import fit
from coda_cli.video.reading import ClipWriter, Reader, Selection
from coda_cli.vocabulary import Precision

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "clip.mp4"


CASES: tuple[tuple[str, Precision], ...] = ((DEFAULT, "float32"), (DEFAULT, "bfloat16"), ("imagenette", "float32"))


def clip_table(quick: bool) -> None:
    """Frames per second, and the share of the time that is not the network's; of a CoDA-Net those of the loop, too."""
    print("\ncoda video, frames of 640 x 360, class and scale found over the clip")
    for name, precision in CASES:
        _clip_rows(name, Request(precision=precision), quick)


def _clip_rows(name: str, request: Request, quick: bool) -> None:
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        source, frames = _source(folder / "source.mp4", 24 if quick else 96)
        net = load(name)
        for layer in net.model.modules():
            getattr(layer, "norm_factors", lambda: None)()  # once per checkpoint
        runs: list[Callable[[], float]] = [
            lambda: _timed(lambda: _ours(net, source, folder / "ours.mp4", request)),
            lambda: _network_alone(net, source, request),
        ]
        if isinstance(net.model, CodaNet):
            runs.append(lambda: _timed(lambda: _straightforward(net, source, folder / "theirs.mp4")))
        rounds = [[run() for run in runs] for _ in range(1 if quick else 3)]  # in turn: the machine's speed changes
        ours, network, *theirs = (statistics.median(column) for column in zip(*rounds, strict=True))
    print(f"{name}, {request.precision}, {frames} frames")
    print(f"  coda                                    {frames / ours:>7.1f} frames/s")
    print(f"  its network alone, the same batches     {frames / network:>7.1f} frames/s, ratio {ours / network:.2f}")
    for loop in theirs:
        print(
            f"  straightforward loop                    {frames / loop:>7.1f} frames/s, {loop / ours:.1f} times slower"
        )


def _timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _source(path: Path, count: int) -> tuple[Path, int]:
    """The example clip at 640 x 360."""
    written = 0
    with ClipWriter(path) as writer:
        for frame in Reader(EXAMPLE, Selection(max_frames=count)):
            writer.write(cv2.resize(frame.rgb[45:315], (640, 360)), frame.time)
            written += 1
    return path, written


def _ours(net: Net, source: Path, target: Path, request: Request) -> None:
    deque(
        ClipExplanation(source, net, request).records(ClipDrawing(), ClipOutputs({"mp4": target}, replace=True)),
        maxlen=0,
    )


def _network_alone(net: Net, source: Path, request: Request) -> float:
    """Seconds for everything that the network computes for a clip, on views that are ready."""
    groups = list(grouped_views(Reader(source), net, request))
    start = time.perf_counter()
    found = Survey()
    with batch_pool(net.device.type) as pool:
        for group, rows in ahead(pool, ((g, partial(_look, g.views, net, request)) for g in groups), 1):
            for frame, view, (seen, _) in zip(group.frames, group.views, rows, strict=True):
                found.add(frame.time, seen, view)
    targets = found.targets(net, request)
    found.scale(net, request, targets, 99.5)
    deque(explained(groups, net, request, targets, found.kept), maxlen=0)
    return time.perf_counter() - start


def _straightforward(net: Net, source: Path, target: Path) -> None:
    model = net.model
    assert isinstance(model, CodaNet)
    layers, p = textbook(model), net.checkpoint.preprocessing
    frames = list(iio.imiter(source, plugin="pyav"))
    maps, pictures = [], []
    for frame in frames:
        view = fit(frame, p.resize, p.crop)
        x = encode(torch.from_numpy(view.rgb.copy()).permute(2, 0, 1)[None])
        _, contributions = decompose_textbook(model, layers, x)
        maps.append(contributions[0].sum(0).numpy())
        pictures.append(view.rgb)
    limit = np.percentile(np.abs(np.stack(maps)), 99.5)
    side = 360
    writer = cv2.VideoWriter(str(target), cv2.VideoWriter.fourcc(*"mp4v"), 24.0, (2 * side, side))
    for picture, values in zip(pictures, maps, strict=True):
        u = (np.clip(values / limit, -1, 1) + 1) / 2
        u = cv2.resize(u, (side, side))[..., None]
        low = np.concatenate([2 * u, 2 * u, np.ones_like(u)], 2)
        high = np.concatenate([np.ones_like(u), 2 - 2 * u, 2 - 2 * u], 2)
        colour = (np.where(u <= 0.5, low, high) * 255).astype(np.uint8)
        writer.write(np.concatenate([cv2.resize(picture, (side, side)), colour], 1)[..., ::-1])
    writer.release()
