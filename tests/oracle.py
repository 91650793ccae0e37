"""The slow definitions that the fast code must equal: what the paper's formulas say, written out and nothing else.

The first part holds no autograd: loops over output positions, every dynamic weight vector from its definition in
float64, every layer as a matrix, matrices multiplied. ``written_out`` at the end is the layer with its dynamic weights
materialised, for tests that need the definition's own gradient or a layer that holds only some of it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from coda_cli.core.blur import Blur
from coda_cli.core.dau_layer import DAUConv2d
from coda_cli.core.networks import CodaNet


def patch_entries(size: torch.Size, kernel: int, stride: int, padding: int) -> tuple[tuple[int, int], list[list[int]]]:
    """Output size (H', W'), and for each output position the flat input index of every patch entry (c, ky, kx).

    ``size`` is [C, H, W]; the index is -1 where the patch reaches into the padding.
    """
    C, H, W = size
    rows = range(-padding, H + padding - kernel + 1, stride)
    columns = range(-padding, W + padding - kernel + 1, stride)
    entries = [
        [
            (c * H + y) * W + x if 0 <= y < H and 0 <= x < W else -1
            for c in range(C)
            for y in range(top, top + kernel)
            for x in range(left, left + kernel)
        ]
        for top in rows
        for left in columns
    ]
    return (len(rows), len(columns)), entries


def second_convolution(layer: DAUConv2d) -> tuple[Tensor, Tensor]:
    """The layer's U and b as the original stores them: W1 [O d, r / groups, 1, 1] and b1 [O d].

    The original numbers the outputs of its second convolution n = entry * O + o: entries slow, DAUs fast.
    """
    O, j = layer.out_channels, layer.rank // layer.groups
    d = layer.in_channels * layer.kernel_size**2
    W1 = layer.U.reshape(O, j, d).permute(2, 0, 1).reshape(d * O, j, 1, 1)
    b1 = layer.b.reshape(O, d).t().reshape(d * O) if layer.b is not None else layer.U.new_zeros(d * O)
    return W1, b1


def dynamic_weights(layer: DAUConv2d, patch: Tensor) -> Tensor:
    """w [O, d] = U z + b for one patch [d], float64, by the original's two convolutions."""
    with torch.no_grad():
        W1, b1 = (t.double() for t in second_convolution(layer))
        z = layer.V.double().reshape(layer.rank, -1) @ patch
        w = F.conv2d(z.reshape(1, -1, 1, 1), W1, b1, groups=layer.groups)  # [1, d O, 1, 1]
        return w.reshape(len(patch), layer.out_channels).t()


def scale(n: float, norm: str) -> float:
    """g(n): the factor on w . x for a weight vector of norm n, 0 at n = 0."""
    if n == 0:
        return 0.0
    return {"SQ": n / (1 + n * n), "L2": 1 / n}[norm]


def layer_matrix(layer: DAUConv2d, x: Tensor) -> tuple[Tensor, torch.Size]:
    """The matrix [O H' W', C H W] that the layer is for the input x float64 [C, H, W], and its output's size."""
    (H, W), entries = patch_entries(x.shape, layer.kernel_size, layer.stride, layer.padding)
    O, P = layer.out_channels, H * W
    matrix = x.new_zeros(O, P, x.numel() + 1)  # the last column collects what belongs to the padding
    values = torch.cat([x.flatten(), x.new_zeros(1)])
    for p, index in enumerate(entries):
        w = dynamic_weights(layer, values[index])
        for o in range(O):
            matrix[o, p, index] = w[o] * scale(float(w[o].norm()), layer.norm)
    return matrix[..., :-1].reshape(O * P, -1), torch.Size((O, H, W))


def blur_matrix(x: Tensor) -> Tensor:
    """The matrix [C H W, C H W] that blurs x [C, H, W] by 1 2 1 / 4 along both axes, zeros outside."""
    C, H, W = x.shape

    def along(length: int) -> Tensor:
        i = torch.arange(length)
        return (2.0 - (i[:, None] - i).abs()).clamp_min(0).double() / 4

    return torch.kron(torch.eye(C, dtype=torch.float64), torch.kron(along(H), along(W)))


def network_map(model: CodaNet, x: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [classes] and contributions [classes, C, H, W] of one input x [C, H, W], float64, by the definition."""
    x = x.detach().double()
    total = torch.eye(x.numel(), dtype=torch.float64)
    y = x
    for layer in model.layers:
        assert isinstance(layer, DAUConv2d | Blur)
        matrix, size = (blur_matrix(y), y.shape) if isinstance(layer, Blur) else layer_matrix(layer, y)
        total = matrix @ total
        y = (matrix @ y.flatten()).reshape(size)
    rows = total.reshape(len(y), -1, x.numel()).sum(1) / model.temperature  # sum over the positions
    return rows @ x.flatten() + model.bias, (rows * x.flatten()).reshape(-1, *x.shape)


def network_maps(model: CodaNet, x: Tensor) -> tuple[Tensor, Tensor]:
    """``network_map`` of each item of x [B, C, H, W]: logits [B, classes], contributions [B, classes, C, H, W]."""
    logits, maps = zip(*(network_map(model, item) for item in x), strict=True)
    return torch.stack(logits), torch.stack(maps)


def bcos_matrix(weight: Tensor, x: Tensor) -> tuple[Tensor, torch.Size]:
    """The matrix of a B-cos convolution (B = 2, no padding) for x [C, H, W]: rows |cos(x, w_o)| w_o, unit w_o."""
    (H, W), entries = patch_entries(x.shape, weight.shape[-1], 1, 0)
    matrix = x.new_zeros(len(weight), H * W, x.numel())
    for p, index in enumerate(entries):
        patch = x.flatten()[index]
        for o, w in enumerate(weight.flatten(1)):
            unit = w / w.norm()
            matrix[o, p, index] = (unit @ patch).abs() / patch.norm() * unit
    return matrix.flatten(0, 1), torch.Size((len(weight), H, W))


def written_out(layer: DAUConv2d, x: Tensor, *, hold_weights: bool = False, hold_norms: bool = False) -> Tensor:
    """The layer's output [B, O, H', W'] with w materialised, differentiable in x and the parameters.

    ``hold_weights`` takes w as a constant in the product w . x, ``hold_norms`` takes g(|w|) as one; with both, the
    gradient in x is the held layer's. Norms must not be 0.
    """
    O, k = layer.out_channels, layer.kernel_size
    patches = F.unfold(x, k, padding=layer.padding, stride=layer.stride)  # [B, d, P]
    z = torch.einsum("rd,bdp->brp", layer.V.flatten(1).to(x), patches)
    W1, b1 = (t.to(x) for t in second_convolution(layer))
    w = F.conv2d(z[..., None], W1, b1, groups=layer.groups).unflatten(1, (-1, O))[..., 0]  # [B, d, O, P]
    n = w.norm(dim=1)
    g = n / (1 + n * n) if layer.norm == "SQ" else 1 / n
    w, g = w.detach() if hold_weights else w, g.detach() if hold_norms else g
    y = g * torch.einsum("bdop,bdp->bop", w, patches)
    height = (x.shape[2] + 2 * layer.padding - k) // layer.stride + 1
    return y.unflatten(-1, (height, -1))
