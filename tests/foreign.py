"""State dicts as the authors of CoDA-Nets write them, built from the published shapes and not from coda's converter."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from coda_cli.checkpoints.published import PUBLISHED

RANK_4 = "9L-S-CoDA-SQ-rank-4"  # the smallest published configuration


def authors_shapes(arguments: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes in the file of a network with the given table (models' section 3, steps 1 and 2)."""
    shapes: dict[str, tuple[int, ...]] = {}
    for i, kernel in enumerate(arguments["kernels"]):
        C, O, rank = *arguments["channels"][i : i + 2], arguments["ranks"][i]
        groups = arguments["groups"][i] if "groups" in arguments else 1
        rows = O * C * kernel**2
        shapes[f"{i}.weight_mod.weighting_f.0.weight"] = (rank, C, kernel, kernel)
        shapes[f"{i}.weight_mod.weighting_f.1.weight"] = (rows, rank // groups, 1, 1)
        shapes[f"{i}.weight_mod.weighting_f.1.bias"] = (rows,)
    return shapes


def authors_state(arguments: Mapping[str, Any], seed: int = 0) -> dict[str, Tensor]:
    """Random weights under the authors' names and in their shapes."""
    generator = torch.Generator().manual_seed(seed)
    return {key: 0.3 * torch.randn(shape, generator=generator) for key, shape in authors_shapes(arguments).items()}


def rank_4_state(seed: int = 0) -> dict[str, Tensor]:
    """Random weights of the smallest published configuration."""
    return authors_state(PUBLISHED[RANK_4], seed)


def flat_file(name: str, value: float = 0.01) -> bytes:
    """A whole checkpoint of a published network in a few kilobytes: every tensor repeats one stored number."""
    stream = io.BytesIO()
    shapes = authors_shapes(PUBLISHED[name])
    torch.save({key: torch.tensor([value]).expand(shape) for key, shape in shapes.items()}, stream)
    return stream.getvalue()
