"""The DAU layer of the default network, with and without the entries of its input that are 0 in many positions."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from folder import scene
from numpy.typing import NDArray
from torch import Tensor

from coda_cli.checkpoints.loading import Net, load
from coda_cli.checkpoints.manifest import DEFAULT
from coda_cli.core.hybrid import HybridNet
from coda_cli.core.networks import encode
from coda_cli.machine import budget
from coda_cli.media.stills import read_image
from coda_cli.media.view import fit

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "pictures"
ROWS = (49, 98, 196, 392)  # positions that are looked at together
ALL = 2.0  # a share of zeros that no input has: all products are made


def zeros_table(repetitions: int) -> None:
    """Median processor time of the layer for one picture, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    net = load(DEFAULT)
    examples = [read_image(path).rgb for path in sorted(EXAMPLES.glob("*.png"))]
    scenes = [np.asarray(scene(n)) for n in range(len(examples))]
    print(f"\nthe DAU layer of {DEFAULT}, one thread, ms of processor time a picture; positions looked at together")
    print(f"{'pictures':14}{'':10}{'zeros':>7}{'all':>7}" + "".join(f"{rows:>7}" for rows in ROWS))
    for title, pictures in (("example", examples), ("made of noise", scenes)):
        for kind, narrow in (("float32", False), ("bfloat16", True)):
            a = _at_cut(net, pictures, narrow)
            times = [_milliseconds(net, a, narrow, ALL, budget.LIVE_ROWS, repetitions)]
            times += [_milliseconds(net, a, narrow, 0.0, rows, repetitions) for rows in ROWS]
            zeros = float((a == 0).float().mean())
            print(f"{title:14}{kind:10}{zeros:>7.1%}" + "".join(f"{t:>7.1f}" for t in times))
    torch.set_num_threads(threads)


def _at_cut(net: Net, pictures: Sequence[NDArray[np.uint8]], narrow: bool) -> Tensor:
    """What the layer sees of the pictures."""
    assert isinstance(net.model, HybridNet)
    p = net.checkpoint.preprocessing
    views = np.stack([fit(rgb, p.resize, p.crop, interpolation=p.interpolation).rgb for rgb in pictures])
    x = encode(torch.from_numpy(views).permute(0, 3, 1, 2))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=narrow):
        return net.model.to_cut(x)


def _milliseconds(net: Net, a: Tensor, narrow: bool, share: float, rows: int, repetitions: int) -> float:
    """Of the layer, for one picture."""
    assert isinstance(net.model, HybridNet)
    times = []
    with (
        mock.patch.multiple(budget, MOSTLY_ZERO=share, LIVE_ROWS=rows),
        torch.no_grad(),
        torch.autocast("cpu", torch.bfloat16, enabled=narrow),
    ):
        for _ in range(repetitions + 1):  # the first one arranges the parameters
            start = time.process_time()
            net.model.above(a)
            times.append(time.process_time() - start)
    return 1000 * statistics.median(times[1:]) / len(a)
