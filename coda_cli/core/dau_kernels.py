"""The fast forms of the Dynamic Alignment Unit, as functions of tensors; ``dau`` has the definition.

The dynamic weights ``w_o``, O d numbers for every position, are written out only where that is less work. Otherwise
three small facts give all that is needed:

    w_o . x  =  z . (U_o^T x) + b_o . x          one product of x with U, then a dot product with z
    |w_o|^2  =  |R_o z + c_o|^2 + e_o^2          from the QR decomposition of [U_o b_o]: a sum of squares
    sum_o q_o w_o  =  sum_oj q_o z_j U_oj + sum_o q_o b_o   the held backward pass, q = cotangent times g

written as matrix products over blocks of positions that stay in the cache. Here patches are rows [P, d] in the order of
``Patches.rows``, V is [r, d], U [O, r, d] (output o's matrix transposed), b [O, d], and ``scale`` the function g.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from coda_cli.core.dau_sparse import add_live
from coda_cli.core.patches import Patches
from coda_cli.machine import budget

Scale = Callable[[Tensor], Tensor]


class NormFactors(NamedTuple):
    """What ``|w_o| = hypot(|R_o z + c_o|, e_o)`` needs; m = min(d, r).

    Attributes:
        R: [O, m, r].
        c: [O, m].
        e: [O], not negative: the part of b_o that no z can cancel.
    """

    R: Tensor
    c: Tensor
    e: Tensor


@dataclass(frozen=True)
class HeldMap:
    """The linear map that a layer is for one input.

    Attributes:
        z: [P, r]; or the dynamic weights themselves [P, O, d], where they were written out.
        g: [P, O], the factors of the norms.
        U: [O, r, d].
        b: [O, d].
        patches: what the kernels see of maps.
        size: [B, C, H, W] of the input.
        product: the type of the large matrix products.
    """

    z: Tensor
    g: Tensor
    U: Tensor
    b: Tensor
    patches: Patches
    size: torch.Size
    product: torch.dtype


# ---- parameters in other forms ---------------------------------------------------------------------------------------


def rows(kernels: Tensor) -> Tensor:
    """Write kernels as rows in the order of ``Patches.rows``; without a copy when they are channels last in memory.

    Args:
        kernels: [n, C, k, k].

    Returns:
        [n, d].
    """
    return kernels.permute(0, 2, 3, 1).flatten(1)


def without_groups(U: Tensor, outputs: int, rank: int, groups: int) -> Tensor:
    """Write out the zeros that grouping leaves away.

    Args:
        U: [O r / groups, C, k, k], see ``DAUConv2d``.
        outputs: O.
        rank: r.
        groups: the number of groups.

    Returns:
        [O r, C, k, k]; U itself when there is one group.
    """
    if groups == 1:
        return U
    O, j, d = outputs, rank // groups, U[0].numel()
    # The original numbers the second convolution's outputs n = entry * O + o; block n * groups // (O d) of z.
    n = torch.arange(d, device=U.device)[None, :] * O + torch.arange(O, device=U.device)[:, None]
    member = F.one_hot(n * groups // (O * d), groups).to(U.dtype)  # [O, d, groups]
    dense = torch.einsum("odg,ojd->ogjd", member, U.reshape(O, j, d))
    return dense.reshape(O * rank, *U.shape[1:])


def norm_factors(A: Tensor) -> NormFactors:
    """Find the numbers that turn z into the norms of the dynamic weights; computed in float64.

    QR rather than the Gram matrix ``[U b]^T [U b]``: a sum of squares cannot be negative and does not cancel.

    Args:
        A: [U_o b_o] transposed, [O, r + 1, d], the entries of patches in any order.

    Returns:
        The factors, of the type and device of ``A``.
    """
    # float64 does not exist on every device (MPS), and LAPACK runs on the CPU anyway.
    wide, r = A.cpu().double().transpose(1, 2), A.shape[1] - 1  # [O, d, r + 1]
    e = wide.new_zeros(len(wide))
    if wide.shape[1] > r:  # else it has no more rows than its triangle would
        wide = torch.linalg.qr(wide, mode="r").R
        wide, e = wide[:, :r], wide[:, r, r].abs()
    # Contiguous, without the column c_o: products with slices or of odd widths take up to twice the time.
    return NormFactors(*(part.to(A.device, A.dtype).contiguous() for part in (wide[..., :r], wide[..., r], e)))


def blocks(
    positions: int, outputs: int, width: int, device: torch.device, most_rows: int = budget.PRODUCT_ROWS
) -> Iterator[tuple[slice, slice]]:
    """Divide all positions and outputs into blocks of about 2 MB on CPUs, larger ones on GPUs.

    A block that stays in the cache makes what follows its matrix product almost free.

    Args:
        positions: P.
        outputs: O.
        width: how many numbers one output has at one position.
        device: where they are.
        most_rows: positions of a block, at most, on CPUs.

    Yields:
        Pairs of slices, of positions and of outputs.
    """
    on_cpu = device.type == "cpu"
    most_rows = most_rows if on_cpu else 8 * most_rows
    step = max(1, (budget.BLOCK_NUMBERS if on_cpu else budget.BLOCK_NUMBERS_GPU) // (most_rows * width))
    for p in range(0, positions, most_rows):
        for o in range(0, outputs, step):
            yield slice(p, min(p + most_rows, positions)), slice(o, min(o + step, outputs))


# ---- forward ---------------------------------------------------------------------------------------------------------


def writing_out_pays(positions: int, U: Tensor) -> bool:
    """Whether ``written_out`` is less work than ``factored``; see ``budget.WRITTEN_RANK``.

    Args:
        positions: P.
        U: [O, r, d].

    Returns:
        The answer.
    """
    O, r, d = U.shape
    return r >= budget.WRITTEN_RANK and positions * O * d <= budget.WRITTEN_NUMBERS


def written_out(X: Tensor, V: Tensor, U: Tensor, b: Tensor, scale: Scale) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the outputs by writing the dynamic weights out.

    Args:
        X: patches [P, d].
        V: [r, d].
        U: [O, r, d].
        b: [O, d].
        scale: the function g.

    Returns:
        y [P, O], the dynamic weights w [P, O, d], and g [P, O].
    """
    z = X @ V.t()
    w = torch.baddbmm(b[:, None], z.expand(len(U), -1, -1), U).transpose(0, 1)
    g = scale(torch.linalg.vector_norm(w, dim=2))
    return g * torch.bmm(w, X[..., None])[..., 0], w, g


def factored(
    X: Tensor, V: Tensor, U: Tensor, b: Tensor, factors: NormFactors, scale: Scale, columns: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the outputs without the dynamic weights.

    Args:
        X: patches [P, d].
        V: [r, d].
        U: [O, r, d], and
        b: [O, d], in the type of the products with them; everything else, the norms above all, keeps that of ``X``.
        factors: those of U and b.
        scale: the function g.
        columns: U and b as ``dau_sparse.columns_of`` has them, where most entries of the patches are 0: only the others
            are multiplied then, in the type of these.

    Returns:
        y [P, O], z [P, r] and g [P, O].
    """
    O, r, _ = U.shape
    R, c, e = factors
    m, wide = R.shape[1], torch.promote_types(X.dtype, torch.float32)  # the squares of half precision overflow
    z, X = X @ V.t(), X.to(U.dtype if columns is None else columns.dtype)
    z_columns = z.t().contiguous().to(wide)
    dot = (X @ b.t()).to(z.dtype) if columns is None else z.new_zeros(len(X), O)
    g, most_rows = torch.empty_like(dot), budget.PRODUCT_ROWS if columns is None else budget.LIVE_ROWS
    # Fresh blocks of this size would cost a page fault for every 4 kB: two buffers serve all of them.
    u_buffer, w_buffer = X.new_empty(0), z_columns.new_empty(0)
    for p, o in blocks(len(X), O, max(r, m), X.device, most_rows):
        count, outputs = p.stop - p.start, len(U[o])
        if columns is None:
            u = torch.mm(X[p], U[o].flatten(0, 1).t(), out=u_buffer.resize_(count, outputs * r))  # U_o^T x
            dot[p, o] += torch.bmm(u.to(z.dtype).view(count, -1, r), z[p, :, None])[..., 0]
        else:
            add_live(dot[p, o], X[p], z[p], columns[..., o])
        # Positions last: sums over a few neighbouring numbers take five times as long.
        w = w_buffer.resize_(outputs * m, count)
        torch.addmm(c[o].reshape(-1, 1).to(wide), R[o].flatten(0, 1).to(wide), z_columns[:, p], out=w)
        n = w.square_().view(outputs, m, count).sum(1).add_(e[o, None].to(wide).square()).sqrt_()
        g[p, o] = scale(n.to(z.dtype)).t()
        dot[p, o] *= g[p, o]
    return dot, z, g


# ---- backward, by the held weights -----------------------------------------------------------------------------------


def linear_in(x: Tensor, y: Tensor, held_map: HeldMap) -> Tensor:
    """Give outputs the graph of the linear map that they come from.

    Args:
        x: the input [B, C, H, W].
        y: the outputs [B, O, H', W'], without a graph.
        held_map: the map that the layer is for ``x``.

    Returns:
        ``y``, whose gradient in ``x`` is that of the map.
    """
    h = held_map
    outputs: Tensor = _LinearIn.apply(x, y, h.z, h.g, h.U, h.b, h.patches, h.product)
    return outputs


class _LinearIn(torch.autograd.Function):
    """Outputs as a linear function of the input: the backward pass applies W(x)^T and keeps what ``HeldMap`` has."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, *held_map: Any) -> Tensor:
        """Pass ``y`` [B, O, H', W'] on, with a graph that leads to ``x`` [B, C, H, W] by the map."""
        *tensors, patches, product = held_map
        ctx.save_for_backward(*tensors)
        ctx.rest = patches, x.shape, product
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, c: Tensor) -> tuple[Tensor | None, ...]:
        """W(x)^T c [B, C, H, W] of the outputs' gradient ``c`` [B, O, H', W']; None for all but the input."""
        with torch.autocast(c.device.type, enabled=False):
            return _PullBack.apply(c, *ctx.saved_tensors, *ctx.rest), *[None] * 7


class _PullBack(torch.autograd.Function):
    """``pull_back`` of one cotangent, and, where a batch of gradients is asked for, of all in one call."""

    @staticmethod
    def forward(c: Tensor, *held_map: Any) -> Tensor:
        """W(x)^T c [B, C, H, W] of ``c`` [B, O, H', W']."""
        return pull_back(c[None], HeldMap(*held_map))[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Nothing is kept: dynamic weights of dynamic weights are not asked for."""

    @staticmethod
    def vmap(_: Any, in_dims: tuple[int | None, ...], c: Tensor, *held_map: Any) -> tuple[Tensor, int]:
        """The same [N, B, C, H, W] of N gradients, counted at axis ``in_dims[0]`` of ``c``; and 0, the axis of N."""
        assert in_dims[0] is not None
        return pull_back(c.movedim(in_dims[0], 0), HeldMap(*held_map)), 0


def pull_back(c: Tensor, held_map: HeldMap) -> Tensor:
    """Carry K cotangents of the outputs back to the input by the held weights.

    Several at once share the weights, which are then written out block by block.

    Args:
        c: [K, B, O, H', W'].
        held_map: the map that the layer is for its input.

    Returns:
        [K, B, C, H, W].
    """
    z, g, patches, size = held_map.z, held_map.g, held_map.patches, held_map.size
    q = c.permute(0, 1, 3, 4, 2).reshape(len(c), -1, c.shape[2]) * g  # [K, P, O]
    maps = patches.nothing(len(c), size, c)
    if z.ndim == 3:  # the weights themselves
        patches.add(maps, torch.bmm(q.transpose(0, 1), z).transpose(0, 1), slice(0, c.shape[3]))
        return patches.finished(maps, size)
    U, b = held_map.U, held_map.b
    # At the last layer only the explained classes have a cotangent, above it all outputs do.
    live = q.flatten(0, 1).abs().sum(0).nonzero()[:, 0]  # NaN counts as live
    if not len(live):
        return patches.finished(maps, size)
    if len(live) < len(U):
        q, U, b = q[..., live].contiguous(), U[live], b[live]
    U = U.to(held_map.product)
    together = len(c) > 1 and len(c) * U.shape[1] > budget.ONE_BY_ONE
    pulled, out, buffer = pulled_together if together else pulled_one_by_one, q.new_empty(0), q.new_empty(0)
    if together:
        buffer = buffer.to(U.dtype)
    for part, pictures, lines in patches.parts(size, _positions_at_once(len(c), U.shape[2], c.device, together)):
        # Each part is still in the cache when it is added up.
        patches.add(maps[:, pictures], pulled(q[:, part], z[part], U, b, out, buffer), lines)
    return patches.finished(maps, size)


def _positions_at_once(K: int, d: int, device: torch.device, together: bool) -> int:
    """How many positions are pulled back at a time."""
    if device.type != "cpu":
        return max(budget.PRODUCT_ROWS_GPU, budget.SHARED_NUMBERS_GPU // (K * d))
    return max(budget.SHARED_ROWS, budget.SHARED_NUMBERS // (K * d)) if together else budget.PRODUCT_ROWS


def pulled_one_by_one(q: Tensor, z: Tensor, U: Tensor, b: Tensor, out: Tensor, buffer: Tensor) -> Tensor:
    """Compute sum_o q_o w_o for one cotangent after the other; no w_o is made.

    Args:
        q: cotangents times g, [K, P, O].
        z: [P, r].
        U: [O, r, d], of the type of the products.
        b: [O, d].
        out: memory of the result, of the type of ``q``: fresh memory for every part would cost a page fault for every
            4 kB.
        buffer: memory of what is between, of the type of ``q``.

    Returns:
        [K, P, d], in the memory of ``out`` and so valid until the next call.
    """
    r = U.shape[1]
    for one, weights in zip(out.resize_(len(q), len(z), U.shape[2]), q, strict=True):
        torch.mm(weights, b, out=one)
        for p, o in blocks(len(z), len(U), r, out.device):
            outer = buffer.resize_(p.stop - p.start, len(U[o]), r)
            torch.mul(weights[p, o, None], z[p, None, :], out=outer)
            if U.dtype == out.dtype:
                one[p].addmm_(outer.flatten(1), U[o].flatten(0, 1))
            else:
                one[p] += (outer.flatten(1).to(U.dtype) @ U[o].flatten(0, 1)).to(out.dtype)
    return out


def pulled_together(q: Tensor, z: Tensor, U: Tensor, b: Tensor, out: Tensor, buffer: Tensor) -> Tensor:
    """Compute the same, where a block of weights w_o is made once and serves all K cotangents.

    Args:
        q: cotangents times g, [K, P, O].
        z: [P, r].
        U: [O, r, d], of the type of the products.
        b: [O, d].
        out: memory of the result, of the type of ``q``.
        buffer: memory of what is between, of the type of ``U``.

    Returns:
        [K, P, d], in the memory of ``out``, where positions come first, and so valid until the next call.
    """
    q = q.transpose(0, 1).contiguous()  # torch copies every small matrix of a product whose stride it does not like
    z_wide = z.to(U.dtype)
    out.resize_(len(z), q.shape[1], U.shape[2])
    for p, o in blocks(len(z), len(U), U.shape[2], out.device, budget.SHARED_ROWS):
        w = buffer.resize_(len(U[o]), p.stop - p.start, U.shape[2])
        factors = z_wide[p].expand(len(w), -1, -1)
        if U.dtype == q.dtype:
            torch.baddbmm(b[o, None], factors, U[o], out=w)
        else:
            w = torch.bmm(factors, U[o], out=w).to(q.dtype).add_(b[o, None])
        out[p].baddbmm_(q[p, :, o], w.transpose(0, 1), beta=min(o.start, 1))  # with 0 nothing in memory counts
    return out.transpose(0, 1)
