"""B-cos vision transformers (TPAMI 2024): SimpleViT on patches, and ViT-C behind a convolutional stem.

Their positional embedding is added to the tokens and comes from no pixel; see ``held.add_constant``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from coda_cli.core.bcos import Attention, BcosConv2d, BcosLinear, ImageNorm2d, TokenNorm
from coda_cli.core.bcos_nets import BcosNet
from coda_cli.core.held import add_constant


def positional_embedding(rows: int, columns: int, dim: int, like: Tensor) -> Tensor:
    """Sines and cosines of a token's column and row, [rows * columns, dim]; tokens row by row."""
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    omega = 10000 ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim // 4 - 1))
    xs, ys = (t.flatten()[:, None].double() * omega for t in (x, y))
    return torch.cat([xs.sin(), xs.cos(), ys.sin(), ys.cos()], 1).to(like)


class _Patches(nn.Module):
    """Square patches [B, C, H, W] -> [B, tokens, dim]: within a patch by row, column, channel."""

    def __init__(self, patch: int, dim: int, b: float) -> None:
        super().__init__()
        self.patch = patch
        self.linear = BcosLinear(6 * patch * patch, dim, b=b)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        p = self.patch
        rows, columns = x.shape[2] // p, x.shape[3] // p
        if x.shape[2] % p or x.shape[3] % p or not rows or not columns:
            raise ValueError(f"{x.shape[2]} x {x.shape[3]} pixels are not whole patches of {p} x {p}")
        cut = x.unflatten(3, (columns, p)).unflatten(2, (rows, p))  # [B, C, rows, p, columns, p]
        return self.linear(cut.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)), (rows, columns)


class _Stem(nn.Module):
    """Convolutions down to the tokens' grid, of stride 2 wherever the channels grow; one token per position."""

    def __init__(self, channels: Sequence[int], dim: int, b: float) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for C, O in zip([6, *channels[:-1]], channels, strict=True):
            layers += [BcosConv2d(C, O, 3, stride=2 if O > C else 1, padding=1, b=b), ImageNorm2d(O), nn.Identity()]
        self.conv_stem = nn.Sequential(*layers)
        self.linear = BcosLinear(channels[-1], dim, b=b)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        y = self.conv_stem(x)
        return self.linear(y.flatten(2).transpose(1, 2)), (y.shape[2], y.shape[3])


class _Feed(nn.Module):
    def __init__(self, dim: int, hidden: int, b: float) -> None:
        super().__init__()
        self.net = nn.Sequential()
        self.net.add_module("norm", TokenNorm(dim))
        self.net.add_module("linear1", BcosLinear(dim, hidden, b=b))
        self.net.add_module("linear2", BcosLinear(hidden, dim, b=b))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.net(x)
        return y


class _Encoder(nn.Module):
    def __init__(self, dim: int, heads: int, hidden: int, b: float) -> None:
        super().__init__()
        self.attn, self.ff = Attention(dim, heads, b=b), _Feed(dim, hidden, b)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(x)
        y: Tensor = x + self.ff(x)
        return y


class _Transformer(nn.Module):
    def __init__(self, embedding: nn.Module, dim: int, depth: int, hidden: int, classes: int, b: float) -> None:
        super().__init__()
        self.dim = dim
        self.to_patch_embedding = embedding
        self.transformer = nn.Sequential()
        for i in range(depth):
            self.transformer.add_module(f"encoder_{i}", _Encoder(dim, dim // 64, hidden, b))
        self.linear_head = nn.Sequential()
        self.linear_head.add_module("norm", TokenNorm(dim))
        self.linear_head.add_module("linear", BcosLinear(dim, classes, b=b))

    def forward(self, x: Tensor) -> Tensor:
        tokens, grid = self.to_patch_embedding(x)
        tokens = add_constant(tokens, positional_embedding(grid[0], grid[1], self.dim, tokens))
        y: Tensor = self.linear_head(self.transformer(tokens).mean(1))
        return y


def bcos_vit(
    *, dim: int, depth: int, classes: int, bias: float, patch: int | None = None, stem: Sequence[int] | None = None,
    hidden: int | None = None, b: float = 2.0, temperature: float = 1.0,
) -> BcosNet:  # fmt: skip
    """SimpleViT on square patches of ``patch`` pixels, or ViT-C behind a convolutional ``stem`` (its channels)."""
    if (patch is None) == (stem is None) or dim % 64:
        raise ValueError("expected a patch size or a stem, and a width that is a multiple of 64")
    embedding: nn.Module = _Patches(patch, dim, b) if patch else _Stem(list(stem or ()), dim, b)
    return BcosNet(
        _Transformer(embedding, dim, depth, hidden or 4 * dim, classes, b), temperature=temperature, bias=bias
    )
