"""Ordinary networks, whose logits are no linear function of the pixels: subjects of post-hoc methods, nothing else.

They take the six-channel encoding as all networks here do, and see its first half: r g b, less ImageNet's mean, divided
by its deviation.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from coda_cli.core.vit import Kit, Transformer

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class StandardNet(nn.Module):
    """A backbone of three channels in the place of a network of six; it has no exact decomposition."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, x: Tensor) -> Tensor:
        """x float [B, 6, H, W] -> logits [B, classes]."""
        mean, deviation = (x.new_tensor(t)[:, None, None] for t in (MEAN, DEVIATION))
        logits: Tensor = self.backbone((x[:, :3] - mean) / deviation)
        return logits


def standard_vit(
    *, dim: int, depth: int, classes: int, patch: int | None = None, stem: Sequence[int] | None = None,
    hidden: int | None = None,
) -> StandardNet:  # fmt: skip
    """The transformers that were published beside the B-cos ones; arguments as of ``bcos_nets.bcos_vit``."""
    mixer, norm2d = partial(nn.Linear, bias=False), partial(nn.GroupNorm, 1)
    kit = Kit(3, nn.Linear, mixer, nn.Conv2d, nn.LayerNorm, norm2d, nn.GELU)
    return StandardNet(Transformer(kit, dim=dim, depth=depth, classes=classes, patch=patch, stem=stem, hidden=hidden))


def torchvision_net(*, name: str, classes: int = 1000) -> StandardNet:
    """A classifier of torchvision by its name there, without weights. Raises ValueError for a name it does not have."""
    import torchvision

    try:
        backbone = torchvision.models.get_model(name, weights=None, num_classes=classes)
    except (ValueError, TypeError) as error:
        raise ValueError(f"torchvision has no classifier {name!r} ({error})") from error
    return StandardNet(backbone)
