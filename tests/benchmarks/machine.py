"""What this machine can do at most: matrix products and copies. What the decomposition needs at least, counted."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from coda_cli.core.dau_layer import DAUConv2d
from coda_cli.core.networks import CodaNet
from coda_cli.machine.precision import true_float32

SIDES = {"cpu": 2048, "cuda": 8192}  # of the matrices: large enough for the full rate


def synchronised(device: torch.device) -> None:
    """Wait until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(run: Callable[[], object], repetitions: int, device: torch.device) -> float:
    """The median time of a call, after one that does not count."""
    times = []
    for n in range(repetitions + 1):
        synchronised(device)
        start = time.perf_counter()
        run()
        synchronised(device)
        if n:
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def product_rate(dtype: torch.dtype, device: torch.device) -> float:
    """Multiply-adds a second of a matrix product, the best of a few."""
    side = SIDES[device.type]
    a, b = (torch.rand(side, side, device=device).to(dtype) for _ in range(2))
    with true_float32():
        return max(side**3 / seconds(lambda: a @ b, 1, device) for _ in range(5))


def copy_rate(device: torch.device) -> float:
    """Bytes a second that a copy reads and writes."""
    a = torch.rand(1 << 26, device=device)
    b = torch.empty_like(a)
    return max(2 * a.nbytes / seconds(lambda: b.copy_(a), 1, device) for _ in range(5))


def machine_line(device: torch.device) -> str:
    """What the fractions in the tables refer to."""
    rates = {str(t).removeprefix("torch."): product_rate(t, device) for t in (torch.float32, torch.bfloat16)}
    side = SIDES[device.type]
    said = ", ".join(f"{name} {2 * rate / 1e9:.0f} GFLOP/s" for name, rate in rates.items())
    return f"matrix products of {side} x {side}: {said}; copies: {copy_rate(device) / 1e9:.1f} GB/s"


def products(net: CodaNet, x: Tensor) -> float:
    """Multiply-adds of the matrix products that forward and decomposition of one class cannot do without.

    For every layer of P positions: z (P r d), U^T x and b.x (P O (r + 1) d), the norms (P O m r), and back through the
    same weights (P O (r + 1) d; one output in the last layer).
    """
    total = 0.0

    def count(layer: DAUConv2d, _: tuple[Tensor], y: Tensor) -> None:
        nonlocal total
        P, O, r, d = y.shape[0] * y.shape[2] * y.shape[3], layer.out_channels, layer.rank, layer.V[0].numel()
        last = layer is net.layers[-1]
        total += P * (r * d + O * (r + 1) * d + O * min(r, d) * r + (1 if last else O) * (r + 1) * d)

    hooks = [m.register_forward_hook(count) for m in net.layers if isinstance(m, DAUConv2d)]
    with torch.no_grad():
        net(x)
    for hook in hooks:
        hook.remove()
    return total
