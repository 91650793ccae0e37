"""What full colour stands for in pictures of a network that was just trained, measured on its held-out pictures."""

from __future__ import annotations

import torch
from torch import nn

from coda_cli.core.decompose import decompose
from coda_cli.core.hybrid import spread
from coda_cli.core.networks import encode
from coda_cli.render.colour import Magnitudes
from coda_cli.training.batches import resized
from coda_cli.training.datasets import Split

PERCENTILE = 99.5  # as ``coda explain --scale run`` takes unless told otherwise
PICTURES, TOGETHER = 100, 4  # enough for two digits; few at a time, for the largest networks


def measure(model: nn.Module, held_out: Split) -> float | None:
    """Find the contribution of a pixel that pictures of a network should show in full colour.

    Args:
        model: the network, in eval mode.
        held_out: pictures of the size that it sees, on any device.

    Returns:
        The percentile of the |contributions| to the predicted classes of a sample, in logit units; None where all are
        0, or where nothing can be decomposed.
    """
    size, device, magnitudes = held_out.images.shape[-2:], next(model.parameters()).device, Magnitudes()
    for images in resized(held_out, size[-1], limit=PICTURES).images.split(TOGETHER):
        pixels = decompose(model, encode(images.to(device)), None).pixels
        if not torch.isfinite(pixels).all():
            return None
        magnitudes.add(spread(pixels.float(), size).cpu().numpy())
    return magnitudes.percentile(PERCENTILE) or None
