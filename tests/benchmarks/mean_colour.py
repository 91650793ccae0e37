"""What a map of a B-cosified network misses that takes the picture, and not the picture less the mean, times W.

    PYTHONPATH=tests python tests/benchmarks/mean_colour.py

Random weights, batch norms with the variances of two pictures of noise; logit 3 of the first of them.
"""

from __future__ import annotations

import torch
from test_bcosified import NETWORKS, settled

from coda_cli.core.decompose import decompose
from coda_cli.core.networks import build, encode

ROWS = (("resnet18", 64, torch.float64), ("densenet121", 64, torch.float64), ("simple_vit_ti", 224, torch.float64),
        ("vitc_ti", 224, torch.float64), ("resnet18", 224, torch.float32))  # fmt: skip


def main() -> None:
    """Print a row of the table in docs/networks.md for each network."""
    for name, side, dtype in ROWS:
        torch.manual_seed(0)
        architecture, arguments, *_ = NETWORKS[name]
        model, x = build(architecture, arguments).to(dtype), encode(torch.rand(2, 3, side, side, dtype=dtype))
        d = decompose(settled(model, x), x[:1], 3)
        deviation = torch.tensor((0.229, 0.224, 0.225) * 2, dtype=dtype)[:, None, None]
        raw = float((x[:1] * d.dynamic_weights[:, 0] / deviation).double().sum())
        centred, size = float(d.contributions.double().sum()), float(d.contributions.double().abs().sum())
        rest, embedding = float(d.logit - d.bias), float(d.positional)
        print(
            f"{name} {side} {dtype}: logit - bias {rest:.6f}, picture times W {raw:.6f}, less the mean {centred:.6f}, "
            f"embedding {embedding:.6f}, residual {float(d.residual):.1e}; the picture times W misses "
            f"{abs(raw + embedding - rest) / size:.1%} of the sum of magnitudes {size:.6f}"
        )


if __name__ == "__main__":
    main()
