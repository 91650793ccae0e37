"""The convolutional layer of Dynamic Alignment Units (Böhle, Fritz and Schiele, CVPR 2021, section 3).

For one patch ``x`` (length d = C k k) a layer with outputs o = 1..O and rank r computes

    z   = V x                 V [r, d], shared by all outputs of the layer
    w_o = U_o z + b_o         U_o [d, r], b_o [d]: the dynamic weight vector
    y_o = g(|w_o|) (w_o . x)  g(n) = n / (1 + n^2) ("SQ") or 1 / n ("L2"), and 0 at n = 0

and nothing else: no other nonlinearity exists in the network. The weights ``w_o``, O d numbers for every
position, are written out only where that is less work. Otherwise three small facts give all that is needed:

    w_o . x  =  z . (U_o^T x) + b_o . x          one convolution of x with the kernels [V, b, U], then a dot product
    |w_o|^2  =  |R_o z + c_o|^2 + e_o^2          from the QR decomposition of [U_o b_o]: a sum of squares
    sum_o q_o w_o  =  sum_oj q_o z_j U_oj + sum_o q_o b_o   the held backward pass, q = cotangent times g

written as matrix products over blocks of positions that stay in the cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from threading import Lock
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coda_cli.core.held import is_held
from coda_cli.core.patches import Patches
from coda_cli.machine import budget

NORMS = ("SQ", "L2")

_FACTORING = Lock()  # parts of a batch go through a layer at the same time: one of them makes its factors


def scale_of_norm(n: Tensor, norm: str) -> Tensor:
    """The factor g(n) that multiplies ``w . x``, for weight norms ``n >= 0`` of any shape; 0 where n is 0.

    An infinite norm gives NaN, which no residual hides, rather than the 0 of its limit: it is an overflow.
    """
    n = torch.where(n.isinf(), torch.nan, n)
    if norm == "SQ":
        return 1 / (n + 1 / n)  # n / (1 + n^2) without the square, which overflows half precision from n = 256
    return torch.where(n > 0, 1 / n.clamp_min(torch.finfo(n.dtype).tiny), n)  # n itself: 0, or NaN


class NormFactors(NamedTuple):
    """What ``|w_o| = hypot(|R_o z + c_o|, e_o)`` needs; m = min(d, r)."""

    R: Tensor  # [O, m, r]
    c: Tensor  # [O, m]
    e: Tensor  # [O], not negative: the part of b_o that no z can cancel


class DAUConv2d(nn.Module):
    """A convolution whose kernel is computed from each patch by low-rank Dynamic Alignment Units.

    Input [B, C, H, W], output [B, O, H', W'] with the geometry of ``torch.nn.Conv2d`` and zero padding.

    Parameters of the module: ``V`` [r, C, k, k], ``U`` [O r / groups, C, k, k] (output o owns r / groups neighbouring
    rows), ``b`` [O, C, k, k] (absent without ``bias``). ``groups`` splits the second of the
    original's two convolutions: its outputs, ordered patch entry first and DAU second, fall into equal blocks that see
    equal blocks of ``z``. In memory they are channels last; safetensors' own save_file wants them ``contiguous()``.

    Raises ValueError for a norm that is not "SQ" or "L2", sizes below 1, or groups that do not divide the rank and O d.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        rank: int,
        *,
        stride: int = 1,
        padding: int | None = None,
        norm: str = "SQ",
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        if norm not in NORMS:
            raise ValueError(f"norm is {norm!r}; expected one of {', '.join(NORMS)}")
        if min(in_channels, out_channels, kernel_size, rank, stride, groups) < 1 or (padding or 0) < 0:
            raise ValueError("channels, kernel size, rank, stride and groups must be at least 1, padding at least 0")
        d = in_channels * kernel_size**2
        if rank % groups or (out_channels * d) % groups:
            raise ValueError(f"groups={groups} must divide the rank {rank} and outputs times patch {out_channels * d}")
        self.in_channels, self.out_channels, self.kernel_size = in_channels, out_channels, kernel_size
        self.rank, self.stride, self.norm, self.groups = rank, stride, norm, groups
        self.padding = (kernel_size - 1) // 2 if padding is None else padding
        patch = (in_channels, kernel_size, kernel_size)
        # Channels last in memory, as maps are: rows of a kernel then have the order of patches without a copy.
        kernels = [torch.empty(n, *patch) for n in (rank, out_channels * rank // groups, out_channels)]
        V, U, b = (kernel.to(memory_format=torch.channels_last) for kernel in kernels)
        self.V, self.U, self.b = nn.Parameter(V), nn.Parameter(U), nn.Parameter(b) if bias else None
        self._factors: tuple[Any, NormFactors, Any] | None = None  # cache of norm_factors(), see there
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the parameters as the original's pair of plain convolutions does: uniform in ±1/sqrt(fan in)."""
        j = self.rank // self.groups
        for parameter, fan_in in ((self.V, self.V[0].numel()), (self.U, j), (self.b, j)):
            if parameter is not None:
                drawn = torch.empty(parameter.shape, dtype=parameter.dtype, device=parameter.device)
                with torch.no_grad():  # in the order of the shape, whatever the order in memory
                    parameter.copy_(drawn.uniform_(-(fan_in**-0.5), fan_in**-0.5))

    def extra_repr(self) -> str:
        """The line of ``print(model)``."""
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, rank={self.rank}, "
            f"stride={self.stride}, padding={self.padding}, norm={self.norm}, groups={self.groups}"
        )

    @property
    def patches(self) -> Patches:
        """What the kernels see of maps."""
        return Patches(self.in_channels, self.kernel_size, self.stride, self.padding)

    # ---- kernels ----------------------------------------------------------------------------------------------------

    def dense_U(self) -> Tensor:
        """U with the zeros of grouping written out, [O r, C, k, k]; U itself when there is one group."""
        if self.groups == 1:
            return self.U
        O, j, d = self.out_channels, self.rank // self.groups, self.U[0].numel()
        # The original numbers the second convolution's outputs n = entry * O + o; block n * groups // (O d) of z.
        n = torch.arange(d, device=self.U.device)[None, :] * O + torch.arange(O, device=self.U.device)[:, None]
        member = F.one_hot(n * self.groups // (O * d), self.groups).to(self.U.dtype)  # [O, d, groups]
        dense = torch.einsum("odg,ojd->ogjd", member, self.U.reshape(O, j, d))
        return dense.reshape(O * self.rank, *self.U.shape[1:])

    def bias_or_zeros(self) -> Tensor:
        """b [O, C, k, k], or zeros of that shape."""
        return self.b if self.b is not None else self.U.new_zeros(self.out_channels, *self.U.shape[1:])

    def norm_factors(self) -> NormFactors:
        """The numbers that turn z into the norms of the dynamic weights. Computed in float64, once per weights.

        QR rather than the Gram matrix ``[U b]^T [U b]``: a sum of squares cannot be negative and does not cancel.
        """
        U, b = self.U, self.b
        # `_version` counts in-place changes, so load_state_dict or an optimiser's step invalidates the cache. Fused
        # optimisers go past it, and so what is being trained is looked at; writing through `.data` goes past both. The
        # tensors themselves are kept: no other can get their address.
        held = (U.detach(), None if b is None else b.detach())
        seen = tuple(float(torch.linalg.vector_norm(t.detach())) for t in (U, b) if t is not None and t.requires_grad)
        key = (U.data_ptr(), U._version, None if b is None else (b.data_ptr(), b._version), U.dtype, U.device, seen)
        with _FACTORING:
            if self._factors is None or self._factors[0] != key:
                self._factors = (key, self._factorised(), held)
            return self._factors[1]

    @torch.no_grad()
    def _factorised(self) -> NormFactors:
        # float64 does not exist on every device (MPS), and LAPACK runs on the CPU anyway.
        A, r = self._wide().cpu().double().transpose(1, 2), self.rank  # [O, d, r + 1]
        e = A.new_zeros(self.out_channels)
        if A.shape[1] > r:  # else A as it is has no more rows than its triangle would
            A = torch.linalg.qr(A, mode="r").R
            A, e = A[:, :r], A[:, r, r].abs()
        # Contiguous, without the column c_o: products with slices or of odd widths take up to twice the time.
        return NormFactors(*(part.to(self.U.device, self.U.dtype).contiguous() for part in (A[..., :r], A[..., r], e)))

    def _wide(self) -> Tensor:
        """[U_o b_o] transposed, [O, r + 1, d]."""
        U = self.dense_U().reshape(self.out_channels, self.rank, -1)
        return torch.cat([U, self.bias_or_zeros().reshape(self.out_channels, 1, -1)], 1)

    # ---- forward ----------------------------------------------------------------------------------------------------

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> [B, O, H', W']; differentiable in x and the parameters, or held (see ``held``).

        Raises ValueError for another number of channels, or an input smaller than the kernel.
        """
        if x.shape[1] != self.in_channels:
            raise ValueError(f"expected [B, {self.in_channels}, H, W], got {list(x.shape)}")
        if min(self.patches.grid(x.shape)) < 1:
            raise ValueError(f"{x.shape[2]} x {x.shape[3]} positions are too few for a {self.kernel_size}-wide kernel")
        if is_held() and x.requires_grad:
            y: Tensor = _HeldDAU.apply(x, self)
            return y
        if torch.is_grad_enabled():
            return self._differentiable(x)
        product = _product_type(x)
        with torch.autocast(x.device.type, enabled=False):
            return self._evaluate(x, product)[0]

    def _evaluate(self, x: Tensor, product: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """y [B, O, H', W'], and for each of the P = B H' W' positions z [P, r] and the scale g [P, O]; no graph.

        Where the weights were written out they take the place of z: [P, O, d]. ``product`` is the type of the large
        matrix product; everything else, the norms above all, keeps x's type.
        """
        O, r = self.out_channels, self.rank
        X = self.patches.rows(x)  # [P, d]
        P, d = X.shape
        z = X @ _rows(self.V).t()
        if r >= budget.WRITTEN_RANK and P * O * d <= budget.WRITTEN_NUMBERS and product == x.dtype:
            b, U = _rows(self.bias_or_zeros())[:, None], _rows(self.dense_U()).view(O, r, d)
            w = torch.baddbmm(b, z.expand(O, P, r), U).transpose(0, 1)
            g = scale_of_norm(torch.linalg.vector_norm(w, dim=2), self.norm)
            return self._as_map(g * torch.bmm(w, X[..., None])[..., 0], x), w, g
        dot = X @ _rows(self.bias_or_zeros()).t()
        n = torch.empty_like(dot)
        R, c, e = self.norm_factors()
        m = R.shape[1]
        U, X = _rows(self.dense_U()).view(O, r, d).to(product), X.to(product)
        # Fresh blocks of this size would cost a page fault for every 4 kB: two buffers serve all of them.
        u_buffer, w_buffer = X.new_empty(0), z.new_empty(0)
        for p, o in _blocks(P, O, max(r, m), x.device):
            rows = p.stop - p.start
            u = torch.mm(X[p], U[o].flatten(0, 1).t(), out=u_buffer.resize_(rows, len(U[o]) * r))  # U_o^T x
            dot[p, o] += torch.bmm(u.to(z.dtype).view(rows, -1, r), z[p, :, None])[..., 0]
            Rz = w_buffer.resize_(rows, len(R[o]) * m)
            torch.addmm(c[o].flatten(), z[p], R[o].flatten(0, 1).t(), out=Rz)
            n[p, o] = torch.linalg.vector_norm(Rz.view(rows, -1, m), dim=-1).hypot(e[o])
        g = scale_of_norm(n, self.norm)
        return self._as_map(g * dot, x), z, g

    def _pull_back(self, c: Tensor, z: Tensor, g: Tensor, size: torch.Size, product: torch.dtype) -> Tensor:
        """K cotangents c [K, B, O, H', W'] of the outputs to those of the input, [K, B, C, H, W], by the held weights.

        Several at once share the weights, which are then written out block by block.
        """
        q = c.permute(0, 1, 3, 4, 2).reshape(len(c), -1, self.out_channels) * g  # [K, P, O]
        maps = self.patches.nothing(len(c), size, c)
        if z.ndim == 3:  # the weights themselves
            rows = torch.bmm(q.transpose(0, 1), z).transpose(0, 1)
            self.patches.add(maps, rows, slice(0, c.shape[3]))
            return self.patches.finished(maps, size)
        d, together = self.U[0].numel(), len(c) > 1 and len(c) * self.rank > budget.ONE_BY_ONE
        U, b = _rows(self.dense_U()).view(-1, self.rank, d).to(product), _rows(self.bias_or_zeros())
        # At the last layer only the explained classes have a cotangent, above it all outputs do.
        live = q.flatten(0, 1).abs().sum(0).nonzero()[:, 0]  # NaN counts as live
        if not len(live):
            return self.patches.finished(maps, size)
        if len(live) < self.out_channels:
            q, U, b = q[..., live].contiguous(), U[live], b[live]
        pulled, most = _one_by_one, budget.PRODUCT_ROWS
        if together:
            pulled, most = _together, max(budget.SHARED_ROWS, budget.SHARED_NUMBERS // (len(c) * d))
        if c.device.type != "cpu":
            most = max(budget.PRODUCT_ROWS_GPU, budget.SHARED_NUMBERS_GPU // (len(c) * d))
        out, buffer = q.new_empty(0), q.new_empty(0, dtype=U.dtype if together else q.dtype)
        for part, pictures, lines in self.patches.parts(size, most):  # each is still in the cache when it is added up
            self.patches.add(maps[:, pictures], pulled(q[:, part], z[part], U, b, out, buffer), lines)
        return self.patches.finished(maps, size)

    def _as_map(self, rows: Tensor, x: Tensor) -> Tensor:
        """Rows [B H' W', O] as [B, O, H', W'] (in channels-last memory) for the input ``x``."""
        return rows.view(x.shape[0], *self.patches.grid(x.shape), self.out_channels).permute(0, 3, 1, 2)

    def with_weights_of(self, source: Tensor, x: Tensor) -> Tensor:
        """The outputs for ``x`` [B, C, H, W] of the linear map that this layer is for ``source``, of the same shape.

        Differentiable in both and in the parameters: for losses on the dynamic weights themselves.
        """
        z = F.conv2d(source, self.V, stride=self.stride, padding=self.padding)
        rest = torch.cat([self.bias_or_zeros(), self.dense_U()])
        h = F.conv2d(x, rest, stride=self.stride, padding=self.padding)
        return self._contracted(torch.cat([z, h], 1))

    def _differentiable(self, x: Tensor) -> Tensor:
        """The same outputs with an ordinary graph, for training: gradients flow through z, U, b and the norm."""
        kernels = torch.cat([self.V, self.bias_or_zeros(), self.dense_U()])
        return self._contracted(F.conv2d(x, kernels, stride=self.stride, padding=self.padding))

    def _contracted(self, h: Tensor) -> Tensor:
        A, O, r = self._wide(), self.out_channels, self.rank
        # A differentiable QR does not exist where ranks drop; for training the Gram form is accurate enough.
        return _contract(h, A @ A.transpose(1, 2), O, r, self.norm)


def _one_by_one(q: Tensor, z: Tensor, U: Tensor, b: Tensor, out: Tensor, buffer: Tensor) -> Tensor:
    """sum_o q_o w_o [K, P, d] for q [K, P, O], z [P, r], U [O, r, d] and b [O, d]; no w_o is made.

    The result lies in the memory of ``out``, until the next call, and ``buffer`` serves what is between: fresh memory
    for every part would cost a page fault for every 4 kB.
    """
    r = U.shape[1]
    for one, weights in zip(out.resize_(len(q), len(z), U.shape[2]), q, strict=True):
        torch.mm(weights, b, out=one)
        for p, o in _blocks(len(z), len(U), r, out.device):
            outer = buffer.resize_(p.stop - p.start, len(U[o]), r)
            torch.mul(weights[p, o, None], z[p, None, :], out=outer)
            if U.dtype == out.dtype:
                one[p].addmm_(outer.flatten(1), U[o].flatten(0, 1))
            else:
                one[p] += (outer.flatten(1).to(U.dtype) @ U[o].flatten(0, 1)).to(out.dtype)
    return out


def _together(q: Tensor, z: Tensor, U: Tensor, b: Tensor, out: Tensor, buffer: Tensor) -> Tensor:
    """The same, in memory [P, K, d], where a block of weights w_o serves all K."""
    q = q.transpose(0, 1).contiguous()  # torch copies every small matrix of a product whose stride it does not like
    z_wide = z.to(U.dtype)
    out.resize_(len(z), q.shape[1], U.shape[2])
    for p, o in _blocks(len(z), len(U), U.shape[2], out.device, budget.SHARED_ROWS):
        w = buffer.resize_(len(U[o]), p.stop - p.start, U.shape[2])
        factors = z_wide[p].expand(len(w), -1, -1)
        if U.dtype == q.dtype:
            torch.baddbmm(b[o, None], factors, U[o], out=w)
        else:
            w = torch.bmm(factors, U[o], out=w).to(q.dtype).add_(b[o, None])
        out[p].baddbmm_(q[p, :, o], w.transpose(0, 1), beta=min(o.start, 1))  # with 0 nothing in memory counts
    return out.transpose(0, 1)


def _rows(kernels: Tensor) -> Tensor:
    """Kernels [n, C, k, k] as rows [n, d] in the order of ``Patches.rows``."""
    return kernels.permute(0, 2, 3, 1).flatten(1)


def _product_type(x: Tensor) -> torch.dtype:
    """The type that autocast asks of matrix products, else x's own."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def _blocks(
    positions: int, outputs: int, width: int, device: torch.device, rows: int = budget.PRODUCT_ROWS
) -> Iterator[tuple[slice, slice]]:
    """Pairs of slices, of positions and of outputs, that cover all: blocks of about 2 MB on CPUs, more on GPUs.

    ``width`` is how many numbers one output has at one position. A block that stays in the cache makes what follows its
    matrix product almost free.
    """
    on_cpu = device.type == "cpu"
    rows = rows if on_cpu else 8 * rows
    step = max(1, (budget.BLOCK_NUMBERS if on_cpu else budget.BLOCK_NUMBERS_GPU) // (rows * width))
    for p in range(0, positions, rows):
        for o in range(0, outputs, step):
            yield slice(p, min(p + rows, positions)), slice(o, min(o + step, outputs))


def _contract(h: Tensor, gram: Tensor, O: int, r: int, norm: str) -> Tensor:
    """Outputs [B, O, H', W'] from h [B, r + O + O r, H', W'] = (z, b.x, U^T x) and Gram matrices [O, r + 1, r + 1]."""
    h = h.permute(0, 2, 3, 1)  # positions first: the sums over r run over neighbouring numbers
    z, bx, u = torch.split(h, [r, O, O * r], -1)
    z1 = F.pad(z, (0, 1), value=1.0)
    # |w_o|^2 = [z; 1]^T G_o [z; 1] for all o at once: the products z_i z_j against the entries of G_o.
    n2 = (z1[..., :, None] * z1[..., None, :]).flatten(-2) @ gram.flatten(1).t().to(z1.dtype)
    wide = torch.promote_types(n2.dtype, torch.float32)
    n = n2.to(wide).clamp_min(1e-12).sqrt()  # rounding can make the Gram form negative; sqrt has no gradient at 0
    dot = (u.unflatten(-1, (O, r)).to(wide) * z.to(wide)[..., None, :]).sum(-1) + bx.to(wide)
    y: Tensor = dot * scale_of_norm(n, norm)
    return y.permute(0, 3, 1, 2)


class _HeldDAU(torch.autograd.Function):
    """A DAU layer as the linear map it is for this input: the backward pass applies W(x)^T and keeps z and g only."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: DAUConv2d) -> Tensor:
        """x [B, C, H, W] -> [B, O, H', W']."""
        product = _product_type(x)
        with torch.autocast(x.device.type, enabled=False):
            y, z, g = layer._evaluate(x, product)
        ctx.save_for_backward(z, g)
        ctx.layer, ctx.size, ctx.product = layer, x.shape, product
        return y

    @staticmethod
    def backward(ctx: Any, c: Tensor) -> tuple[Tensor, None]:
        with torch.autocast(c.device.type, enabled=False):
            return _PullBack.apply(c, *ctx.saved_tensors, ctx.layer, ctx.size, ctx.product), None


class _PullBack(torch.autograd.Function):
    """``DAUConv2d._pull_back`` of one cotangent, and, where a batch of gradients is asked for, of all in one call."""

    @staticmethod
    def forward(c: Tensor, z: Tensor, g: Tensor, layer: DAUConv2d, size: torch.Size, product: torch.dtype) -> Tensor:
        return layer._pull_back(c[None], z, g, size, product)[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Nothing is kept: dynamic weights of dynamic weights are not asked for."""

    @staticmethod
    def vmap(_: Any, in_dims: tuple[int | None, ...], c: Tensor, *rest: Any) -> tuple[Tensor, int]:
        z, g, layer, size, product = rest
        assert in_dims[0] is not None
        return layer._pull_back(c.movedim(in_dims[0], 0), z, g, size, product), 0
