"""Wall time of whole processes."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image


def startup_table(repetitions: int) -> None:
    """Wall time of whole processes, in turn."""
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
