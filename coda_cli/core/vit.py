"""Vision transformers (TPAMI 2024): SimpleViT on patches, and ViT-C behind a convolutional stem.

Built from a kit of layers: B-cos ones, or those of an ordinary transformer. Their positional embedding is added to the
tokens and comes from no pixel; see ``held.add_constant``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coda_cli.core.attention import held_attention
from coda_cli.core.bcos import BcosConv2d, BcosLinear, ImageNorm2d, TokenNorm
from coda_cli.core.bcos_nets import BcosNet
from coda_cli.core.held import add_constant, hold, is_held

Layer = Callable[..., nn.Module]


@dataclass(frozen=True)
class Kit:
    """The layers a transformer is made of.

    Attributes:
        channels: channels of its input.
        linear: makes a linear layer of (features in, features out).
        mixer: the same for the layer after the attention; without a bias.
        conv: makes a convolution of (channels in, channels out, kernel size, stride=, padding=).
        norm: makes a norm of tokens of (features).
        norm2d: makes a norm of pictures of (channels).
        activation: makes the layer between two others.
    """

    channels: int
    linear: Layer
    mixer: Layer
    conv: Layer
    norm: Layer
    norm2d: Layer
    activation: Layer


def positional_embedding(rows: int, columns: int, dim: int, like: Tensor) -> Tensor:
    """Compute sines and cosines of every token's column and row.

    Args:
        rows: rows of tokens.
        columns: columns of tokens.
        dim: features of a token, a multiple of 4.
        like: a tensor of the type and device that are asked for.

    Returns:
        [rows * columns, dim], tokens row by row.
    """
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    omega = 10000 ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim // 4 - 1))
    xs, ys = (t.flatten()[:, None].double() * omega for t in (x, y))
    return torch.cat([xs.sin(), xs.cos(), ys.sin(), ys.cos()], 1).to(like)


class _Patches(nn.Module):
    """Square patches [B, C, H, W] -> [B, tokens, dim]: within a patch by row, column, channel."""

    def __init__(self, patch: int, dim: int, kit: Kit) -> None:
        super().__init__()
        self.patch = patch
        self.linear = kit.linear(kit.channels * patch * patch, dim)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """x [B, C, H, W] -> tokens [B, N, dim] and their rows and columns. Raises ValueError for parts of patches."""
        p = self.patch
        rows, columns = x.shape[2] // p, x.shape[3] // p
        if x.shape[2] % p or x.shape[3] % p or not rows or not columns:
            raise ValueError(f"{x.shape[2]} x {x.shape[3]} pixels are not whole patches of {p} x {p}")
        cut = x.unflatten(3, (columns, p)).unflatten(2, (rows, p))  # [B, C, rows, p, columns, p]
        return self.linear(cut.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)), (rows, columns)


class _Stem(nn.Module):
    """Convolutions down to the tokens' grid, of stride 2 wherever the channels grow; one token per position."""

    def __init__(self, channels: Sequence[int], dim: int, kit: Kit) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for C, O in zip([kit.channels, *channels[:-1]], channels, strict=True):
            layers += [kit.conv(C, O, 3, stride=2 if O > C else 1, padding=1), kit.norm2d(O), kit.activation()]
        self.conv_stem = nn.Sequential(*layers)
        self.linear = kit.linear(channels[-1], dim)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """x [B, C, H, W] -> tokens [B, N, dim] and their rows and columns."""
        y = self.conv_stem(x)
        return self.linear(y.flatten(2).transpose(1, 2)), (y.shape[2], y.shape[3])


class _Attention(nn.Module):
    """Multi-head attention of tokens [B, N, C] whose weights, from queries and keys, are held; values stay live."""

    def __init__(self, dim: int, heads: int, kit: Kit) -> None:
        super().__init__()
        self.heads = heads
        self.norm = kit.norm(dim)
        self.to_qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.to_out = kit.mixer(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, N, dim] -> [B, N, dim]."""
        parts = self._held_parts(self.norm(x)) if is_held() else self.to_qkv(self.norm(x)).chunk(3, -1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        mixed = (held_attention if is_held() else F.scaled_dot_product_attention)(hold(q), hold(k), v)
        y: Tensor = self.to_out(mixed.transpose(1, 2).flatten(2))
        return y

    def _held_parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values; no gradient is taken of the first two, two thirds of the layer's products."""
        w = self.to_qkv.weight
        asked = F.linear(hold(x), w[: -x.shape[-1]])
        q, k = asked.chunk(2, -1)
        return q, k, F.linear(x, w[-x.shape[-1] :])


class _Feed(nn.Module):
    """The two layers that see each token by itself."""

    def __init__(self, dim: int, hidden: int, kit: Kit) -> None:
        super().__init__()
        self.net = nn.Sequential()
        self.net.add_module("norm", kit.norm(dim))
        self.net.add_module("linear1", kit.linear(dim, hidden))
        self.net.add_module("activation", kit.activation())
        self.net.add_module("linear2", kit.linear(hidden, dim))

    def forward(self, x: Tensor) -> Tensor:
        """x [B, N, dim] -> [B, N, dim]."""
        y: Tensor = self.net(x)
        return y


class _Encoder(nn.Module):
    """A block of a transformer: attention, then each token by itself, both added to what they see."""

    def __init__(self, dim: int, heads: int, hidden: int, kit: Kit) -> None:
        super().__init__()
        self.attn, self.ff = _Attention(dim, heads, kit), _Feed(dim, hidden, kit)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, N, dim] -> [B, N, dim]."""
        x = x + self.attn(x)
        y: Tensor = x + self.ff(x)
        return y


class Transformer(nn.Module):
    """A vision transformer, with heads of 64 features; its tokens are patches, or positions behind a stem.

    Args:
        kit: the layers it is made of.
        dim: features of a token.
        depth: encoder blocks.
        classes: classes.
        patch: side of a patch in pixels.
        stem: channels of the convolutions of a stem.
        hidden: features inside a block; 4 dim unless given.
        head_first: apply the last layer to every token and take the mean of that, instead of the last layer of the
            mean token.

    Raises:
        ValueError: neither patch nor stem, or both, or a width that heads of 64 do not divide.
    """

    def __init__(
        self,
        kit: Kit,
        *,
        dim: int,
        depth: int,
        classes: int,
        patch: int | None,
        stem: Sequence[int] | None,
        hidden: int | None,
        head_first: bool = False,
    ) -> None:
        super().__init__()
        if (patch is None) == (stem is None) or dim % 64:
            raise ValueError("expected a patch size or a stem, and a width that is a multiple of 64")
        self.dim, self.head_first = dim, head_first
        self.to_patch_embedding = _Patches(patch, dim, kit) if patch else _Stem(list(stem or ()), dim, kit)
        self.transformer = nn.Sequential()
        for i in range(depth):
            self.transformer.add_module(f"encoder_{i}", _Encoder(dim, dim // 64, hidden or 4 * dim, kit))
        self.linear_head = nn.Sequential()
        self.linear_head.add_module("norm", kit.norm(dim))
        self.linear_head.add_module("linear", kit.linear(dim, classes))

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits, without the network's bias.

        Args:
            x: encoded pictures, float [B, C, H, W].

        Returns:
            logits [B, classes].
        """
        tokens, grid = self.to_patch_embedding(x)
        tokens = tokens.to(torch.promote_types(tokens.dtype, torch.float32))  # what all blocks add up has all its bits
        tokens = add_constant(tokens, positional_embedding(grid[0], grid[1], self.dim, tokens))
        tokens = self.transformer(tokens)
        logits: Tensor = self.linear_head(tokens).mean(1) if self.head_first else self.linear_head(tokens.mean(1))
        return logits


def bcos_vit(
    *,
    dim: int,
    depth: int,
    classes: int,
    bias: float,
    patch: int | None = None,
    stem: Sequence[int] | None = None,
    hidden: int | None = None,
    b: float = 2.0,
    temperature: float = 1.0,
) -> BcosNet:
    """Build SimpleViT on square patches, or ViT-C behind a convolutional stem.

    Args:
        dim: features of a token, a multiple of 64.
        depth: encoder blocks.
        classes: classes.
        bias: the constant of every logit.
        patch: side of a patch in pixels; either this or a stem.
        stem: channels of the convolutions of a stem.
        hidden: features inside a block; 4 dim unless given.
        b: the exponent B.
        temperature: what the logits are divided by, positive.

    Returns:
        The network, with freshly drawn weights.
    """
    linear = partial(BcosLinear, b=b)
    kit = Kit(6, linear, linear, partial(BcosConv2d, b=b), TokenNorm, ImageNorm2d, nn.Identity)
    backbone = Transformer(kit, dim=dim, depth=depth, classes=classes, patch=patch, stem=stem, hidden=hidden)
    return BcosNet(backbone, temperature=temperature, bias=bias)
