"""Patches of maps as rows of a matrix, and back: what a convolution is, written as a matrix product.

Maps are channels last, [B, H, W, C] in memory, and a row holds its patch in that order: row, column, channel.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Patches:
    """The patches [d = k k C] that a k x k kernel sees of maps [B, C, H, W], zeros outside.

    Attributes:
        channels: C.
        kernel_size: k, in pixels.
        stride: pixels from one patch to the next.
        padding: pixels of zeros around the maps.
    """

    channels: int
    kernel_size: int
    stride: int
    padding: int

    def grid(self, size: torch.Size) -> tuple[int, int]:
        """Count the positions of the kernel.

        Args:
            size: [B, C, H, W] of the maps.

        Returns:
            Rows and columns of positions, H' and W'; below 1 where none fits.
        """
        H, W = ((n + 2 * self.padding - self.kernel_size) // self.stride + 1 for n in size[2:])
        return H, W

    def rows(self, x: Tensor) -> Tensor:
        """Write out all patches, one row for each position.

        ``F.unfold`` scatters what lies together in channels-last maps: measured, from 1.2 times (6 channels, one large
        picture) to twenty times as long.

        Args:
            x: maps [B, C, H, W].

        Returns:
            [P, d], with P = B H' W'.
        """
        k, s, p = self.kernel_size, self.stride, self.padding
        padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, p, p, p, p))
        patches = padded.unfold(1, k, s).unfold(2, k, s).permute(0, 1, 2, 4, 5, 3)  # [B, H', W', k, k, C]
        return patches.reshape(-1, self.channels * k * k)

    def parts(self, size: torch.Size, rows: int) -> Iterator[tuple[slice, slice, slice]]:
        """Divide all positions into parts: whole pictures, or some of the rows of one.

        Args:
            size: [B, C, H, W] of the maps.
            rows: how many positions a part has, at most, about.

        Yields:
            Slices of the P positions, of the pictures, and of the rows of positions that each of these has.
        """
        B, (h, w) = size[0], self.grid(size)
        n = max(1, rows // w)
        for i in range(0, B, step := max(1, n // h)):
            for y in range(0, h, min(n, h)):
                j, end = min(i + step, B), min(y + n, h)
                yield slice((i * h + y) * w, ((j - 1) * h + end) * w), slice(i, j), slice(y, end)

    def nothing(self, count: int, size: torch.Size, like: Tensor) -> Tensor:
        """Make maps of zeros that ``add`` can add to, with borders.

        Args:
            count: K, how many of each.
            size: [B, C, H, W] of the maps.
            like: a tensor of their type and device.

        Returns:
            [K, B, H + ..., W + ..., C].
        """
        (B, C, H, W), s, p = size, self.stride, self.padding
        beyond = s * (-(-self.kernel_size // s) - 1)  # the last tile of ``add``
        h, w = (max(n + 2 * p, s * m + beyond) for n, m in zip((H, W), self.grid(size), strict=True))
        return like.new_zeros(count, B, h, w, C)

    def add(self, maps: Tensor, rows: Tensor, lines: slice) -> None:
        """Add rows to maps where they came from: the transpose of ``rows``.

        Tiles of ``stride`` x ``stride`` pixels lie side by side without gaps, so that a part of all patches is added in
        one go.

        Args:
            maps: what ``nothing`` gave, or some of its pictures; changed in place.
            rows: [K, n, d], of n positions of each picture.
            lines: the rows of positions that these are, the same of all pictures.
        """
        k, s, n = self.kernel_size, self.stride, lines.stop - lines.start
        patches = rows.view(*maps.shape[:2], n, -1, k, k, self.channels)
        w = patches.shape[3]
        for i, j in itertools.product(range(0, k, s), repeat=2):
            y = s * lines.start + i
            tiles = maps[:, :, y : y + s * n, j : j + s * w].unflatten(3, (w, s)).unflatten(2, (n, s))
            part = patches[..., i : i + s, j : j + s, :].transpose(3, 4)  # [K, B, n, i, w, j, C]
            tiles[:, :, :, : part.shape[3], :, : part.shape[5]] += part

    def finished(self, maps: Tensor, size: torch.Size) -> Tensor:
        """Cut the borders off.

        Args:
            maps: what ``add`` has made of ``nothing``.
            size: [B, C, H, W] of the maps.

        Returns:
            [K, B, C, H, W].
        """
        p = self.padding
        return maps[:, :, p : p + size[2], p : p + size[3]].permute(0, 1, 4, 2, 3)
