"""Where a decomposition's time goes: the profiler's operations, by what they are for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial

import torch
from speed import case_of, pictures
from torch.profiler import ProfilerActivity, profile

from coda_cli.checkpoints.loading import load
from coda_cli.core.decompose import decompose
from coda_cli.core.networks import encode

# By the operation, not by what it is for: an outer product is elementwise here, a sum of products a sum.
KINDS = {
    "matrix products": (
        "mm",
        "addmm",
        "bmm",
        "baddbmm",
        "mkldnn_convolution",
        "convolution_backward",
        "_slow_conv2d_forward",
        "_slow_conv2d_backward",
        "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_flash_attention_for_cpu_backward",
    ),
    "copies and sums": ("copy_", "cat", "fill_", "zero_", "add_", "add"),
    "norms, elementwise": ("linalg_vector_norm", "hypot", "reciprocal", "where", "mul", "abs", "eq", "isinf", "div"),
}


def shares_of_time(run: Callable[[], object]) -> dict[str, float]:
    """The share of each kind of work in a call, the second one."""
    run()
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        run()
    spent: Counter[str] = Counter()
    for event in profiled.key_averages():
        operation = event.key.removeprefix("aten::").rstrip("_")
        kind = next((k for k, names in KINDS.items() if operation in [n.rstrip("_") for n in names]), "all else")
        spent[kind] += event.self_cpu_time_total
    return {kind: spent[kind] / spent.total() for kind in (*KINDS, "all else")}


def profile_table() -> None:
    """Shares of the time of a decomposition, on one thread: between several it is also spent waiting."""
    threads, device = torch.get_num_threads(), torch.device("cpu")
    torch.set_num_threads(1)
    print("\nwhere the time of a decomposition goes, on one thread")
    print(f"{'network':26}{'batch':>6}" + "".join(f"{kind:>28}" for kind in (*KINDS, "all else")))
    for name, batch in {"L 1": 1, "imagenette": 8, "cifar10": 64}.items():
        if name == "L 1":
            model, x = case_of(name, device)
        else:
            net = load(name)
            model, x = net.model, encode(pictures(batch, net.checkpoint.preprocessing.crop))  # type: ignore[assignment]
        shares = shares_of_time(partial(decompose, model, x)).values()
        title = "9L-L-CoDA-SQ-100000 240 px" if name == "L 1" else name
        print(f"{title:26}{batch:>6}" + "".join(f"{share:>28.0%}" for share in shares), flush=True)
    torch.set_num_threads(threads)
