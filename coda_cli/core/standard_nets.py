"""Ordinary networks, whose logits are no linear function of the pixels: they are here for post-hoc methods only.

They take the six-channel encoding as all networks here do, and see its first half: r g b, less a mean, divided by a
deviation; those of ImageNet unless told otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from coda_cli.core import efficientnet_lite as lite
from coda_cli.core.vit import Kit, Transformer

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class StandardNet(nn.Module):
    """A backbone of three channels in the place of a network of six; it has no exact decomposition.

    Args:
        backbone: takes normalised colours [B, 3, H, W] and gives logits [B, classes].
        mean: of r, g and b in [0, 1], which is subtracted.
        deviation: of r, g and b, which is divided by.
    """

    def __init__(
        self, backbone: nn.Module, mean: Sequence[float] = MEAN, deviation: Sequence[float] = DEVIATION
    ) -> None:
        super().__init__()
        self.backbone, self.mean, self.deviation = backbone, tuple(mean), tuple(deviation)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits.

        Args:
            x: encoded pictures, float [B, 6, H, W] in [0, 1].

        Returns:
            logits [B, classes].
        """
        mean, deviation = (x.new_tensor(t)[:, None, None] for t in (self.mean, self.deviation))
        logits: Tensor = self.backbone((x[:, :3] - mean) / deviation)
        return logits

    def probabilities(self, logits: Tensor) -> Tensor:
        """Take the softmax: these networks were trained with it.

        Args:
            logits: [B, classes].

        Returns:
            [B, classes] in [0, 1]; each row sums to 1.
        """
        return logits.softmax(1)


def standard_vit(
    *,
    dim: int,
    depth: int,
    classes: int,
    patch: int | None = None,
    stem: Sequence[int] | None = None,
    hidden: int | None = None,
) -> StandardNet:
    """Build a transformer as those that were published beside the B-cos ones.

    Args:
        dim: features of a token, a multiple of 64.
        depth: encoder blocks.
        classes: classes.
        patch: side of a patch in pixels; either this or a stem.
        stem: channels of a convolutional stem.
        hidden: features inside a block; 4 dim unless given.

    Returns:
        The network, with freshly drawn weights.

    Raises:
        ValueError: sizes that make no transformer, see ``vit.Transformer``.
    """
    mixer, norm2d = partial(nn.Linear, bias=False), partial(nn.GroupNorm, 1)
    kit = Kit(3, nn.Linear, mixer, nn.Conv2d, nn.LayerNorm, norm2d, nn.GELU)
    return StandardNet(Transformer(kit, dim=dim, depth=depth, classes=classes, patch=patch, stem=stem, hidden=hidden))


def torchvision_net(*, name: str, classes: int = 1000) -> StandardNet:
    """Build a classifier of torchvision, without its trained weights.

    Args:
        name: its name in torchvision.
        classes: classes.

    Returns:
        The network, with freshly drawn weights.

    Raises:
        ValueError: torchvision has no classifier of that name.
    """
    import torchvision

    if name not in torchvision.models.list_models(module=torchvision.models):
        raise ValueError(f"torchvision has no classifier {name!r}")
    try:
        backbone = torchvision.models.get_model(name, weights=None, num_classes=classes)
    except (ValueError, TypeError) as error:
        raise ValueError(f"torchvision has no classifier {name!r} ({error})") from error
    return StandardNet(backbone)


def efficientnet_lite(*, name: str, classes: int = 1000) -> StandardNet:
    """Build an ordinary EfficientNet-Lite, without its trained weights.

    Args:
        name: efficientnet-lite0, 1 or 2.
        classes: classes.

    Returns:
        The network, with freshly drawn weights.

    Raises:
        ValueError: there is no such network.
    """
    return StandardNet(lite.lite_classifier(name, classes), lite.MEAN, lite.DEVIATION)
