"""Time and memory of the decomposition: against the textbook form, in bfloat16, and for several classes."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from machine import machine_line, product_rate, products, synchronised
from textbook import decompose_textbook, textbook
from torch import Tensor

from coda_cli.checkpoints.loading import load
from coda_cli.checkpoints.published import PUBLISHED
from coda_cli.core.decompose import Decomposition, decompose
from coda_cli.core.networks import CodaNet, build, encode

# Configuration, pixels, batch; how many of a batch the textbook form takes at once: more do not fit in memory.
CASES = {
    "S 16": ("9L-S-CoDA-SQ-1000", 32, 16), "S 256": ("9L-S-CoDA-SQ-1000", 32, 256),
    "L 1": ("9L-L-CoDA-SQ-100000", 240, 1), "L 4": ("9L-L-CoDA-SQ-100000", 240, 4),
    "L 16": ("9L-L-CoDA-SQ-100000", 240, 16),  # on GPUs only
}  # fmt: skip
AT_ONCE = {"S 16": 16, "S 256": 64, "L 1": 1, "L 4": 4, "L 16": 16}
TRAINED = {"imagenette": 8, "cifar10": 64}  # with the batch
Map = tuple[Tensor, Tensor]  # logits and contributions [B, 6, h, w]


def case_of(name: str, device: torch.device) -> tuple[CodaNet, Tensor]:
    """A published configuration with random weights, and random pictures."""
    configuration, size, batch = CASES[name]
    torch.manual_seed(0)
    net = build("coda_net", PUBLISHED[configuration]).eval().requires_grad_(False).to(device)
    assert isinstance(net, CodaNet)
    for layer in net.layers:
        getattr(layer, "norm_factors", lambda: None)()  # once per checkpoint
    return net, encode(torch.rand(batch, 3, size, size)).to(device)


def methods(name: str, device: torch.device) -> dict[str, Callable[[], Map]]:
    """Both formulations as functions that return logits and contributions of the predicted classes."""
    net, x = case_of(name, device)
    layers = textbook(net)

    def coda() -> Map:
        d = decompose(net, x)
        return d.logits, d.contributions[:, 0]

    def theirs() -> Map:
        columns = zip(*(decompose_textbook(net, layers, part) for part in x.split(AT_ONCE[name])), strict=True)
        return tuple(torch.cat(column) for column in columns)  # type: ignore[return-value]

    return {"coda": coda, "textbook": theirs}


PATIENCE = 60  # seconds of rounds after which three are enough


def in_turn(runs: dict[str, Callable[[], object]], repetitions: int, device: torch.device) -> dict[str, list[float]]:
    """Times of all, in turn, since a machine's speed changes; the first round does not count."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    began = time.perf_counter()
    for n in range(repetitions + 1):
        if n > 3 and time.perf_counter() - began > PATIENCE:
            break
        for name, run in runs.items():
            synchronised(device)
            start = time.perf_counter()
            run()
            synchronised(device)
            if n:
                times[name].append(time.perf_counter() - start)
    return times


def ratio_of(times: dict[str, list[float]], slow: str, fast: str) -> float:
    """The median of the ratios pair by pair."""
    return statistics.median(b / a for a, b in zip(times[fast], times[slow], strict=True))


def ms(times: list[float]) -> float:
    """Their median in milliseconds."""
    return statistics.median(times) * 1e3


def decomposition_table(repetitions: int, device: torch.device) -> None:
    """Time, ratio, share of the machine's rate, memory and agreement for every case."""
    print(f"{device_name(device)}, torch {torch.__version__}, float32; {machine_line(device)}")
    print(f"forward and decomposition of the predicted class, median of {repetitions} (3 of long rounds)")
    heads = f"{'network':26}{'batch':>6}{'textbook':>11}{'coda':>10}{'ratio':>8}"
    print(f"{heads}{'of peak':>9}{'memory':>18}{'agreement':>12}")
    rate = product_rate(torch.float32, device)
    for case, (name, size, batch) in CASES.items():
        if case == "L 16" and device.type == "cpu":
            continue
        both = methods(case, device)
        times = in_turn(both, repetitions, device)  # type: ignore[arg-type]
        ours, theirs = (both[method]()[1] for method in ("coda", "textbook"))
        agreement = float((ours - theirs).abs().sum() / theirs.abs().sum())
        share = products(*case_of(case, device)) / rate / statistics.median(times["coda"])
        del both, ours, theirs
        memory = [child_memory(case, method, device) / 1e6 for method in ("coda", "textbook")]
        print(
            f"{name + f' {size} px':26}{batch:>6}{ms(times['textbook']):>8.0f} ms{ms(times['coda']):>7.0f} ms"
            f"{ratio_of(times, 'textbook', 'coda'):>7.2f}x{share:>9.0%}{memory[0]:>6.0f} of {memory[1]:>5.0f} MB"
            f"{agreement:>11.1e}",
            flush=True,
        )


def precision_table(repetitions: int, device: torch.device) -> None:
    """What matrix products in bfloat16 gain, and what they cost on trained networks."""
    print("\nbfloat16 matrix products: time beside the textbook form in float32; error of the map and residual, of the")
    print("sum of absolute contributions")
    print(f"{'network':26}{'batch':>6}{'textbook':>11}{'coda':>10}{'ratio':>8}{'map error':>12}{'residual':>10}")
    for name, batch in TRAINED.items():
        net = load(name, device=device)
        assert isinstance(net.model, CodaNet)
        model, side = net.model, net.checkpoint.preprocessing.crop
        layers, x = textbook(model), encode(pictures(batch, side)).to(device)

        targets = decompose(model, x).logits.argmax(1, keepdim=True)
        exact, rounded = decompose(model, x, targets), in_bfloat16(model, x, targets)
        size = exact.contributions.abs().sum((1, 2, 3, 4))
        error = ((exact.pixels - rounded.pixels).abs().sum((1, 2, 3)) / size).max()
        residual = (rounded.residual.abs()[:, 0] / size.cpu()).max()
        runs = {
            "textbook": partial(decompose_textbook, model, layers, x),
            "coda": partial(in_bfloat16, model, x, targets),
        }
        times = in_turn(runs, repetitions, device)  # type: ignore[arg-type]
        print(
            f"{name:26}{batch:>6}{ms(times['textbook']):>8.0f} ms{ms(times['coda']):>7.0f} ms"
            f"{ratio_of(times, 'textbook', 'coda'):>7.2f}x{error:>12.2%}{residual:>10.2%}",
            flush=True,
        )


def in_bfloat16(model: CodaNet, x: Tensor, targets: Tensor) -> Decomposition:
    """A decomposition with matrix products in bfloat16, as coda's --precision bfloat16 asks for it."""
    with torch.autocast(x.device.type, torch.bfloat16):
        return decompose(model, x, targets)


def pictures(batch: int, side: int) -> Tensor:
    """The rendered example pictures, over and over, as float [batch, 3, side, side]."""
    from coda_cli.media.stills import read_image
    from coda_cli.media.view import fit

    folder = Path(__file__).resolve().parents[2] / "examples" / "pictures"
    views = [fit(read_image(p).rgb, side, side).rgb for p in sorted(folder.glob("*.png"))]
    every = torch.stack([torch.from_numpy(v.copy()).permute(2, 0, 1) for v in views]).float() / 255
    return every[torch.arange(batch) % len(every)]


def classes_table(repetitions: int, device: torch.device) -> None:
    """What more classes cost than one."""
    print("\nseveral classes of one picture or batch, beside one class")
    print(f"{'network':26}{'batch':>6}{'1 class':>11}{'10 classes':>12}{'ratio':>8}")
    for name, batch in (("imagenette", 1), ("imagenette", 8), ("cifar10", 16), ("L 1", 1)):
        if name in CASES:
            model, x = case_of(name, device)
        else:
            net = load(name, device=device)
            assert isinstance(net.model, CodaNet)
            model, x = net.model, encode(pictures(batch, net.checkpoint.preprocessing.crop)).to(device)
        runs = {"one": partial(decompose, model, x, 0), "ten": partial(decompose, model, x, range(10))}
        times = in_turn(runs, repetitions, device)  # type: ignore[arg-type]
        title = name if name != "L 1" else "9L-L-CoDA-SQ-100000 240 px"
        one, ten = ms(times["one"]), ms(times["ten"])
        print(f"{title:26}{batch:>6}{one:>8.0f} ms{ten:>9.0f} ms{ratio_of(times, 'ten', 'one'):>7.2f}x", flush=True)


# ---- memory ----------------------------------------------------------------------------------------------------------


def child_memory(case: str, method: str, device: torch.device) -> float:
    """``extra_memory`` in a process of its own."""
    if device.type == "cuda":
        torch.cuda.empty_cache()  # the child needs room beside this process
    command = [sys.executable, str(Path(__file__).parent), "--memory", case, method, "--device", str(device)]
    return float(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def extra_memory(
    runs: dict[str, Callable[[], object]] | dict[str, Callable[[], Map]], method: str, device: torch.device
) -> float:
    """Bytes that a decomposition needs at its peak on top of the loaded network. On CPUs of Linux only."""
    run = runs[method]
    if device.type == "cuda":
        run()  # what the libraries allocate once is not the method's
        synchronised(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        return float(torch.cuda.max_memory_allocated(device) - before)
    resident = status_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    run()
    return status_bytes("VmHWM") - resident


def status_bytes(key: str) -> float:
    """A line of this process's status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return float(line.split()[1]) * 1024
    raise KeyError(key)


def device_name(device: torch.device) -> str:
    """What the figures were measured on."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{torch.get_num_threads()} threads"
