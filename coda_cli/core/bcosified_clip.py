"""The B-cosified visual tower of CLIP's ResNet-50, and its likeness to texts, exactly (Arya et al., NeurIPS 2024).

    score = e . t / |e|        e: the embedding of a picture, t: the unit embedding of a text

A class is a text here, and its logit the cosine of both embeddings. The norm of the picture's embedding is held: a
cosine does not change when its input is scaled, so its plain gradient map sums to 0, whatever the score. With the norm
held it sums to the score, and no constant is left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coda_cli.core.attention import held_attention
from coda_cli.core.bcos import BcosConv2d, UncentredBatchNorm2d
from coda_cli.core.bcosified import CentredNet
from coda_cli.core.folding import Folded
from coda_cli.core.held import hold, is_held

MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of CLIP's pictures
SHARPNESS = 100.0  # CLIP takes the softmax of 100 cosines


def _unit(C: int, O: int, k: int, stride: int = 1) -> list[tuple[str, nn.Module]]:
    """A B-cos convolution whose filters keep their norm, and its batch norm."""
    conv = BcosConv2d(C, O, k, stride=stride, padding=k // 2, unit=False)
    return [("conv", conv), ("bn", UncentredBatchNorm2d(O))]


class _Block(nn.Module):
    """A bottleneck whose stride is a mean before its last convolution, and before that of its shortcut."""

    def __init__(self, C: int, planes: int, stride: int) -> None:
        super().__init__()
        for i, (c, o, k) in enumerate([(C, planes, 1), (planes, planes, 3), (planes, 4 * planes, 1)], 1):
            for name, layer in _unit(c, o, k):
                self.add_module(f"{name}{i}", layer)
        self.pool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.downsample: nn.Module | None = None
        if stride > 1 or 4 * planes != C:
            self.downsample = nn.Sequential(nn.AvgPool2d(stride), *(layer for _, layer in _unit(C, 4 * planes, 1)))

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> [B, O, H', W']."""
        y = F.relu(self.bn1(self.conv1(x)))  # type: ignore[operator]
        y = self.pool(F.relu(self.bn2(self.conv2(y))))  # type: ignore[operator]
        y = self.bn3(self.conv3(y))  # type: ignore[operator]
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class _AttentionPool(nn.Module):
    """The mean position asks all positions, itself among them; [B, C, H, W] -> [B, O]. Queries and keys are held."""

    def __init__(self, C: int, heads: int, O: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(C, C, bias=False) for _ in range(3))
        # As published it is an ordinary matrix, though its key is that of a B-cos layer.
        self.c_proj = nn.Sequential()
        self.c_proj.add_module("linear", nn.Linear(C, O, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> [B, O]."""
        tokens = x.flatten(2).transpose(1, 2)
        tokens = torch.cat([tokens.mean(1, keepdim=True), tokens], 1)
        q, k, v = (
            layer(t).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, t in ((self.q_proj, tokens[:, :1]), (self.k_proj, tokens), (self.v_proj, tokens))
        )
        mixed = (held_attention if is_held() else F.scaled_dot_product_attention)(hold(q), hold(k), v)
        y: Tensor = self.c_proj(mixed.transpose(1, 2).flatten(1))
        return y


class _Tower(nn.Sequential):
    """Three convolutions, four stages, and the pool that makes the embedding."""

    def __init__(self, blocks: Sequence[int], width: int, embedding: int) -> None:
        super().__init__()
        for i, (c, o) in enumerate([(6, width // 2), (width // 2, width // 2), (width // 2, width)], 1):
            for name, layer in _unit(c, o, 3, stride=2 if i == 1 else 1):
                self.add_module(f"{name}{i}", layer)
            self.add_module(f"relu{i}", nn.ReLU())
        self.add_module("avgpool", nn.AvgPool2d(2))
        C = width
        for stage, count in enumerate(blocks):
            planes, layers = width * 2**stage, []
            for j in range(count):
                layers.append(_Block(C, planes, 2 if stage and j == 0 else 1))
                C = 4 * planes
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
        self.add_module("attnpool", _AttentionPool(C, C // 64, embedding))


class TextScores(nn.Module):
    """The cosine of a picture's embedding and each text's.

    Args:
        backbone: makes embeddings [B, E].
        texts: how many.
        embedding: E.
        origin: the hash of their vectors, or "".

    Attributes:
        bias: 0: a cosine has no constant.
        text: [texts, E], rows of length 1.
    """

    bias = 0.0
    text: Tensor

    def __init__(self, backbone: nn.Module, texts: int, embedding: int, origin: str = "") -> None:
        super().__init__()
        self.backbone, self.origin = backbone, origin
        self._folded = Folded()
        self.register_buffer("text", torch.eye(1, embedding).repeat(texts, 1))

    def extra_repr(self) -> str:
        """The line of ``print(model)``."""
        return f"texts={len(self.text)}, origin={self.origin[:12]}"

    def forward(self, x: Tensor) -> Tensor:
        """Compute the cosines; the embedding's norm is a constant when it is held (see ``held``).

        Args:
            x: centred pictures, float [B, 6, H, W].

        Returns:
            [B, texts], in [-1, 1].
        """
        e: Tensor = self._folded.of(self.backbone)(x)
        scores: Tensor = e @ self.text.t() / hold(e).norm(dim=1, keepdim=True)
        return scores

    def probabilities(self, logits: Tensor) -> Tensor:
        """Take the softmax of 100 cosines, as CLIP does.

        Args:
            logits: the cosines, [B, texts].

        Returns:
            [B, texts] in [0, 1]; each row sums to 1.
        """
        return (SHARPNESS * logits).softmax(1)


def bcosified_clip(
    *,
    blocks: Sequence[int],
    width: int,
    embedding: int,
    classes: int,
    texts: str = "",
    mean: Sequence[float] = MEAN,
    deviation: Sequence[float] = DEVIATION,
) -> CentredNet:
    """Build the B-cosified visual tower of a ResNet of CLIP, with texts as classes.

    Args:
        blocks: blocks of each stage.
        width: channels of the stem, a multiple of 16.
        embedding: features of an embedding.
        classes: how many texts.
        texts: the hash of their vectors, or "". It tells descriptions with other vectors apart, and changes no number.
        mean: r, g and b in [0, 1], see ``CentredNet``.
        deviation: of r, g and b, positive.

    Returns:
        The network, with freshly drawn weights.

    Raises:
        ValueError: a width that heads of 64 features do not divide.
    """
    if math.prod((4 * width, 2 ** (len(blocks) - 1))) % 64 or width % 2:
        raise ValueError(f"a stem of {width} channels makes no heads of 64 features")
    return CentredNet(TextScores(_Tower(blocks, width, embedding), classes, embedding, texts), mean, deviation)
