"""What a B-cos network costs beside its ordinary twin, and beside its decomposition in plain steps; its profile."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from speed import child_memory
from torch import Tensor
from where import shares_of_time

import coda_cli
from coda_cli.checkpoints.published_bcos import BCOS
from coda_cli.core.bcos import BcosConv2d, BcosLinear, UncentredBatchNorm2d
from coda_cli.core.bcos_nets import BcosNet
from coda_cli.core.decompose import decompose
from coda_cli.core.held import held
from coda_cli.core.networks import build, encode
from coda_cli.vocabulary import Precision

# With the ordinary network of the same layers.
TWINS: dict[str, tuple[str, dict[str, Any]]] = {
    "bcos-resnet50": ("torchvision", {"name": "resnet50"}),
    "bcos-densenet121": ("torchvision", {"name": "densenet121"}),
    "bcos-convnext_tiny": ("torchvision", {"name": "convnext_tiny"}),
    "bcos-simple_vit_s_patch16_224": ("standard_vit", {"dim": 384, "depth": 12, "patch": 16, "classes": 1000}),
    "bcos-v1-resnet_34": ("torchvision", {"name": "resnet34"}),
}
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
Run = Callable[[], object]


def bcos_net(name: str) -> BcosNet:
    """A published network with random weights, always the same, and norms that keep its numbers near 1."""
    torch.manual_seed(0)
    net = build(BCOS[name].architecture, BCOS[name].arguments).eval().requires_grad_(False)
    for norm in (m for m in net.modules() if isinstance(m, UncentredBatchNorm2d)):
        norm.running_var.uniform_(1e-3, 2e-3)  # type: ignore[operator]
    assert isinstance(net, BcosNet)
    return net


def in_plain_steps(net: BcosNet) -> Callable[[Tensor], Tensor]:
    """The map [B, 6, h, w] of class 0 as the authors' code takes it: layer by layer, by autograd, nothing folded."""
    plain = copy.deepcopy(net)
    for layer in plain.modules():
        if isinstance(layer, BcosConv2d):
            layer.forward = partial(_plain_convolution, layer)  # type: ignore[method-assign]
        elif isinstance(layer, BcosLinear):
            layer.forward = partial(_plain_rows, layer)  # type: ignore[method-assign]
        elif hasattr(layer, "to_qkv"):
            layer.forward = partial(_plain_attention, layer)

    def map_of(x: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        with held(), torch.enable_grad():
            logits = plain.logits_of(plain.backbone(x))
            return x.detach() * torch.autograd.grad(logits[:, 0].sum(), x)[0]

    return map_of


def _plain_convolution(layer: BcosConv2d, x: Tensor) -> Tensor:
    """The layer by its definition."""
    conv, w = layer.linear, layer.linear.weight
    w = w / w.flatten(1).norm(dim=1)[:, None, None, None]
    a = F.conv2d(x, w, None, conv.stride, conv.padding, groups=conv.groups)
    if layer.max_out > 1:
        a = a.unflatten(1, (layer.out_channels, layer.max_out)).amax(2)
    squares = (x.detach() ** 2).unflatten(1, (conv.groups, -1)).sum(2)
    sums = F.avg_pool2d(squares, conv.kernel_size, conv.stride, layer.padding, divisor_override=1)
    n = (sums + 1e-6).sqrt().repeat_interleave(layer.out_channels // conv.groups, 1)
    return a * (a.abs() / n).detach() / layer.scale


def _plain_rows(layer: BcosLinear, x: Tensor) -> Tensor:
    """The layer of vectors by its definition."""
    w = layer.linear.weight
    a = F.linear(x, w / w.norm(dim=1, keepdim=True))
    y: Tensor = a * (a.abs() / (x.norm(dim=-1, keepdim=True) + 1e-12)).detach()
    return y


def _plain_attention(layer: Any, x: Tensor) -> Tensor:
    """Attention with its weights written out, and held."""
    q, k, v = (t.unflatten(-1, (layer.heads, -1)).transpose(1, 2) for t in layer.to_qkv(layer.norm(x)).chunk(3, -1))
    weights = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1).detach()
    mixed: Tensor = layer.to_out((weights @ v).transpose(1, 2).flatten(2))
    return mixed


def bcos_methods(case: str) -> dict[str, Run]:
    """What is compared, of a case "name batch type"."""
    name, batch, kind = case.split()
    architecture, arguments = TWINS[name]
    torch.manual_seed(1)
    twin, net = build(architecture, arguments).eval().requires_grad_(False), bcos_net(name)
    x = encode(torch.rand(int(batch), 3, 224, 224))
    plain = in_plain_steps(net)

    def in_type(run: Run) -> Run:
        def call() -> object:
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=kind == "bfloat16"):
                return run()

        return call

    runs: dict[str, Run] = {
        "ordinary": lambda: twin(x),
        "forward": lambda: net(x),
        "coda": lambda: decompose(net, x, 0),
        "plain": lambda: plain(x),
    }
    return {key: in_type(run) for key, run in runs.items()}


def bcos_table(repetitions: int, device: torch.device) -> None:
    """Processor time on one thread of an ordinary forward pass, a B-cos one, and decompositions; then profiles."""
    if device.type != "cpu":
        print("\nB-cos networks: this table is of processor time, and of CPUs only")
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    print(
        "\nB-cos networks of random weights, 224 px, one thread, processor time, in turn: forward pass of the ordinary"
    )
    print(
        "network and of the B-cos network, decomposition, and that in plain steps; ratios to the first (median, least)"
    )
    heads = f"{'network':30}{'batch':>6} {'type':9}{'ordinary':>10}{'forward':>10}{'coda':>10}{'plain':>10}"
    print(f"{heads}{'coda/ordinary':>16}{'plain/coda':>12}{'memory':>17}")
    for case in (f"{name} {batch} {kind}" for name in TWINS for batch in (1, 8) for kind in TYPES):
        name, batch, kind = case.split()
        times = _in_turn(bcos_methods(case), repetitions)
        ordinary, forward, coda, plain = (statistics.median(times[key]) * 1e3 for key in times)
        ratio = statistics.median(a / b for a, b in zip(times["coda"], times["ordinary"], strict=True))
        least = min(times["coda"]) / min(times["ordinary"])
        memory = [child_memory(case, method, device) / 1e6 for method in ("coda", "plain")]
        print(
            f"{name:30}{batch:>6} {kind:9}{ordinary:>7.0f} ms{forward:>7.0f} ms{coda:>7.0f} ms{plain:>7.0f} ms"
            f"{ratio:>9.2f}, {least:.2f}{plain / coda:>11.2f}x{memory[0]:>6.0f}, {memory[1]:>4.0f} MB",
            flush=True,
        )
    _agreement_and_profile()
    torch.set_num_threads(threads)


def _in_turn(runs: dict[str, Run], repetitions: int) -> dict[str, list[float]]:
    """Processor times of all, in turn; the first round does not count."""
    times: dict[str, list[float]] = {key: [] for key in runs}
    for n in range(repetitions + 1):
        for key, run in runs.items():
            start = time.process_time()
            run()
            if n:
                times[key].append(time.process_time() - start)
    return times


def _agreement_and_profile() -> None:
    """How far maps are from those in plain steps in float64, of the sum of magnitudes; where the time goes."""
    print(f"\n{'network':30}{'float64 map from plain steps':>30}", end="")
    for n, name in enumerate(TWINS):
        net, x = bcos_net(name), encode(torch.rand(1, 3, 224, 224))
        shares = shares_of_time(partial(decompose, net, x, 0))
        if n == 0:
            print("".join(f"{kind:>20}" for kind in shares))
        net, x = net.double(), x.double()
        expected, found = in_plain_steps(net)(x), decompose(net, x, 0).contributions[:, 0]
        error = float((found - expected).abs().sum() / expected.abs().sum())
        print(f"{name:30}{error:>30.1e}" + "".join(f"{share:>20.0%}" for share in shares.values()), flush=True)
    _of_trained_networks()


def _of_trained_networks() -> None:
    """How far maps of predicted classes are from those in float64, of their sums of magnitudes, and their residuals."""
    heads = f"{'float32: map':>14}{'residual':>10}{'bfloat16: map':>15}{'residual':>10}"
    print(f"\n{'trained, the example pictures':30}{heads}")
    for name, folder in (("cifar10-bcos", "cifar10/pictures"), ("imagenet", "pictures")):
        row = f"{name:30}"
        pictures = sorted((Path(__file__).parents[2] / "examples" / folder).glob("*.png"))
        wide, net = coda_cli.load(name, dtype=torch.float64), coda_cli.load(name)
        exact = [coda_cli.explain(path, wide, precision="float64") for path in pictures]
        kinds: list[tuple[Precision, int]] = [("float32", 14), ("bfloat16", 15)]
        for kind, width in kinds:
            errors, residuals = [0.0], [0.0]
            for path, e in zip(pictures, exact, strict=True):
                found = coda_cli.explain(path, net, classes=[e.targets[0].index], precision=kind)
                size = np.abs(e.maps[0]).sum(dtype=np.float64)
                errors.append(float(np.abs(found.maps[0] - e.maps[0]).sum(dtype=np.float64) / size))
                residuals.append(float(np.abs(found.residual).max() / size))
            row += f"{max(errors):>{width}.1e}{max(residuals):>10.1e}"
        print(row, flush=True)
