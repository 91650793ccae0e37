"""What a step of training a B-cos or converted network costs beside that of its ordinary twin."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from coda_cli.checkpoints.published_bcos import BCOS
from coda_cli.core.networks import build, encode

CLASSES, BATCH, SIDE = 20, 32, 128
LITE = "efficientnet-lite0"
# Of each ordinary network what comes of it: how it is called, its architecture and arguments.
FAMILIES: dict[str, list[tuple[str, str, dict[str, Any]]]] = {
    "resnet18": [
        ("ordinary", "torchvision", {"name": "resnet18", "classes": CLASSES}),
        ("converted", "bcosified", {"name": "resnet18", "classes": CLASSES}),
        ("B-cos", BCOS["bcos-resnet18"].architecture, BCOS["bcos-resnet18"].arguments),
    ],
    LITE: [
        ("ordinary", "efficientnet_lite", {"name": LITE, "classes": CLASSES}),
        ("converted", "bcosified", {"name": LITE, "classes": CLASSES, "depthwise": False}),
    ],
}


def training_table(repetitions: int) -> None:
    """Processor time of a step on one thread, where nothing is waited for; random weights, all in turn."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    print(f"\na step of training, {BATCH} pictures of {SIDE} px, Adam, one thread, processor time")
    print(f"{'network':20}{'':12}{'float32':>10}{'of ordinary':>13}{'bfloat16':>11}{'of ordinary':>13}")
    for name, networks in FAMILIES.items():
        steps = {
            (kind, dtype): step_of(architecture, arguments, dtype)
            for kind, architecture, arguments in networks
            for dtype in (torch.float32, torch.bfloat16)
        }
        times: dict[Any, list[float]] = {key: [] for key in steps}
        for n in range(repetitions + 1):
            for key, step in steps.items():
                start = time.process_time()
                step()
                if n:
                    times[key].append(time.process_time() - start)
        for kind, *_ in networks:
            print(f"{name:20}{kind:12}", end="")
            for dtype in (torch.float32, torch.bfloat16):
                taken, ordinary = (statistics.median(times[k, dtype]) for k in (kind, "ordinary"))
                print(f"{taken * 1e3:>7.0f} ms{taken / ordinary:>12.2f}x", end=" ")
            print(flush=True)
    torch.set_num_threads(threads)


def step_of(architecture: str, arguments: dict[str, Any], dtype: torch.dtype) -> Callable[[], object]:
    """A step of a network with random weights, always the same."""
    torch.manual_seed(0)
    net: nn.Module = build(architecture, arguments).train().to(memory_format=torch.channels_last)
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-4)
    x = encode(torch.rand(BATCH, 3, SIDE, SIDE)).contiguous(memory_format=torch.channels_last)

    def step() -> object:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            logits = net(x).float()
        loss = F.binary_cross_entropy_with_logits(logits, torch.zeros_like(logits))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return loss

    return step
