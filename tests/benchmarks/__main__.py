"""Time and memory of the decomposition against the textbook formulation, and of starting the program.

    python tests/benchmarks            everything, about five minutes on two cores
    python tests/benchmarks --quick    one repetition
    python tests/benchmarks --clip     only the table about clips

Both formulations run in turn in one process with the same weights and inputs; the table has the median of each and of
the ratios pair by pair. Peak memory is measured in a process of its own for each: the highest resident size while
decomposing, less what was resident with the network loaded.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

CASES = {"S": ("9L-S-CoDA-SQ-1000", 32, 16), "L": ("9L-L-CoDA-SQ-100000", 240, 1)}  # configuration, pixels, batch


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one repetition")
    parser.add_argument("--clip", action="store_true", help="only the table about clips")
    parser.add_argument("--memory", nargs=2, metavar=("CASE", "METHOD"), help=argparse.SUPPRESS)  # the child process
    arguments = parser.parse_args()
    if arguments.memory:
        print(json.dumps(extra_memory(*arguments.memory)))
        return
    repetitions = 1 if arguments.quick else 7
    if not arguments.clip:
        decomposition_table(repetitions)
        forward_table(repetitions)
        startup_table(repetitions)
    from clip import clip_table

    clip_table(arguments.quick)


# ---- decomposition ---------------------------------------------------------------------------------------------------


def methods(case: str) -> dict[str, Callable[[], tuple[object, object]]]:
    """Both formulations as functions that return logits and contributions of the predicted classes."""
    import torch
    from textbook import decompose_textbook, textbook

    from coda_cli.core.decompose import decompose
    from coda_cli.core.networks import CodaNet, build, encode
    from coda_cli.core.published import PUBLISHED

    name, size, batch = CASES[case]
    torch.manual_seed(0)
    net = build("coda_net", PUBLISHED[name]).eval().requires_grad_(False)
    assert isinstance(net, CodaNet)
    x = encode(torch.rand(batch, 3, size, size))
    layers = textbook(net)

    def coda() -> tuple[object, object]:
        d = decompose(net, x)
        return d.logits, d.contributions[:, 0]

    for layer in net.layers:
        layer.norm_factors()  # once per checkpoint
    return {"coda": coda, "textbook": lambda: decompose_textbook(net, layers, x)}


def decomposition_table(repetitions: int) -> None:
    """Time, ratio, memory and agreement for every case."""
    import torch

    print(f"float32 on {torch.get_num_threads()} threads, torch {torch.__version__}; forward and decomposition of the")
    print("predicted class, median of", repetitions)
    print(f"{'network':26}{'batch':>6}{'textbook':>11}{'coda':>10}{'ratio':>8}{'memory':>18}{'agreement':>12}")
    for case, (name, size, batch) in CASES.items():
        both = methods(case)
        results = {method: run() for method, run in both.items()}  # also the warm-up
        times: dict[str, list[float]] = {method: [] for method in both}
        for _ in range(repetitions):
            for method, run in both.items():
                start = time.perf_counter()
                run()
                times[method].append(time.perf_counter() - start)
        ratio = statistics.median(b / a for a, b in zip(times["coda"], times["textbook"], strict=True))
        ours, theirs = (torch.as_tensor(results[m][1]) for m in ("coda", "textbook"))
        agreement = float((ours - theirs).abs().sum() / theirs.abs().sum())
        memory = {method: child_memory(case, method) for method in both}
        print(
            f"{name + f' {size} px':26}{batch:>6}{statistics.median(times['textbook']) * 1e3:>8.0f} ms"
            f"{statistics.median(times['coda']) * 1e3:>7.0f} ms{ratio:>7.2f}x"
            f"{memory['coda'] / 1e6:>6.0f} of {memory['textbook'] / 1e6:>4.0f} MB{agreement:>12.1e}"
        )


BCOS = ("bcos-resnet50", "bcos-simple_vit_s_patch16_224")


def bcos_methods(name: str) -> dict[str, Callable[[], object]]:
    """A plain forward pass of a published B-cos network on one picture of 224 px, and its decomposition."""
    import torch

    from coda_cli.core.decompose import decompose
    from coda_cli.core.networks import build, encode
    from coda_cli.core.published_bcos import BCOS

    torch.manual_seed(0)
    net = build(BCOS[name].architecture, BCOS[name].arguments).eval().requires_grad_(False)
    x = encode(torch.rand(1, 3, 224, 224))

    def forward() -> object:
        with torch.no_grad():
            return net(x)

    return {"forward": forward, "coda": lambda: decompose(net, x)}


def forward_table(repetitions: int) -> None:
    """What proving a B-cos network's prediction costs on top of making it."""
    print("\nB-cos networks, one picture of 224 px: a plain forward pass, and the decomposition")
    print(f"{'network':34}{'forward':>10}{'coda':>11}{'ratio':>8}{'memory':>17}")
    for name in BCOS:
        both = bcos_methods(name)
        times: dict[str, list[float]] = {method: [] for method in both}
        for n in range(repetitions + 1):
            for method, run in both.items():
                start = time.perf_counter()
                run()
                if n:
                    times[method].append(time.perf_counter() - start)
        ratio = statistics.median(b / a for a, b in zip(times["forward"], times["coda"], strict=True))
        forward, coda = (statistics.median(times[method]) * 1e3 for method in ("forward", "coda"))
        memory = [child_memory(name, method) / 1e6 for method in both]
        print(f"{name:34}{forward:>7.0f} ms{coda:>8.0f} ms{ratio:>7.2f}x{memory[0]:>6.0f}, {memory[1]:>4.0f} MB")


def child_memory(case: str, method: str) -> float:
    """``extra_memory`` in a process of its own."""
    command = [sys.executable, str(Path(__file__)), "--memory", case, method]
    return float(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def extra_memory(case: str, method: str) -> float:
    """Bytes that a decomposition needs at its peak on top of the process with the network loaded. Linux only."""
    run = (bcos_methods if case in BCOS else methods)(case)[method]
    before = status_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    run()
    return status_bytes("VmHWM") - before


def status_bytes(key: str) -> float:
    """A line of this process's status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return float(line.split()[1]) * 1024
    raise KeyError(key)


# ---- starting the program --------------------------------------------------------------------------------------------


def startup_table(repetitions: int) -> None:
    """Wall time of whole processes, in turn."""
    from PIL import Image

    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder, "picture.png")
        Image.effect_mandelbrot((320, 240), (-2, -1.5, 1, 1.5), 60).convert("RGB").save(picture)
        coda = [sys.executable, "-m", "coda_cli"]
        commands = {
            "coda --help": [*coda, "--help"],
            "coda models list": [*coda, "models", "list"],
            'python -c "import torch, torchvision"': [sys.executable, "-c", "import torch, torchvision"],
            "coda explain picture.png": [*coda, "explain", str(picture), "-o", str(Path(folder, "out")), "--force"],
        }
        times: dict[str, list[float]] = {name: [] for name in commands}
        for n in range(repetitions + 1):
            for name, command in commands.items():
                start = time.perf_counter()
                subprocess.run(command, check=True, capture_output=True, env={**os.environ, "CI": "1"})
                if n:  # the first round fills the file cache
                    times[name].append(time.perf_counter() - start)
    print("\nwhole processes, median of", repetitions)
    for name, values in times.items():
        print(f"{name:42}{statistics.median(values):>7.2f} s")


if __name__ == "__main__":
    main()
