"""What the exact split of an ordinary network costs: beside a plain forward pass, and beside one with its gradient."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial

import torch

from coda_cli.core.decompose import decompose
from coda_cli.core.networks import encode
from coda_cli.core.standard_nets import StandardNet, torchvision_net

# With a layer near the end of each, where it is cut by itself; the input is the dearest cut.
NETWORKS = {"resnet50": "layer4", "vgg16": "features", "densenet121": "features", "mobilenet_v2": "features"}


def ordinary_table(repetitions: int) -> None:
    """Processor time on one thread, where nothing is waited for, of one picture; random weights."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    print("\nordinary networks, one picture of 224 px, one thread, processor time: a plain forward pass, one with its")
    print("gradient down to the pixels as torch takes it, and the split at the pixels and at the last map")
    print(f"{'network':16}{'forward':>10}{'gradient':>10}{'split':>10}", end="")
    print(f"{'of forward':>12}{'of gradient':>13}{'last map':>11}{'of forward':>12}")
    for name, last in NETWORKS.items():
        runs = runs_of(name, last)
        times: dict[str, list[float]] = {key: [] for key in runs}
        for n in range(repetitions + 1):
            for key, run in runs.items():
                start = time.process_time()
                run()
                if n:
                    times[key].append(time.process_time() - start)
        forward, gradient, split, near = (statistics.median(times[key]) for key in runs)
        print(
            f"{name:16}{forward * 1e3:>7.0f} ms{gradient * 1e3:>7.0f} ms{split * 1e3:>7.0f} ms{split / forward:>11.2f}x"
            f"{split / gradient:>12.2f}x{near * 1e3:>8.0f} ms{near / forward:>11.2f}x",
            flush=True,
        )
    torch.set_num_threads(threads)


def runs_of(name: str, last: str) -> dict[str, Callable[[], object]]:
    """What is compared, of one network."""
    net, x = network(name, "input"), encode(torch.rand(1, 3, 224, 224))

    def forward() -> object:
        with torch.no_grad():
            return net(x)

    def gradient() -> object:
        leaf = x.clone().requires_grad_()
        return torch.autograd.grad(net(leaf).max(), leaf)

    near = network(name, last)
    return {
        "forward": forward,
        "gradient": gradient,
        "split": partial(decompose, net, x),
        "near": partial(decompose, near, x),
    }


def network(name: str, cut: str) -> StandardNet:
    """A classifier of torchvision with random weights, always the same."""
    torch.manual_seed(0)
    return torchvision_net(name=name, cut=cut).eval().requires_grad_(False)
