"""The layer of Dynamic Alignment Units; ``dau`` has the formula of the unit.

It computes the numbers of the formula by the fast forms in ``dau_kernels``. Here are its parameters, the two ways
through it (with an ordinary graph for training, and as a linear map), and what it keeps from one input to the next.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from threading import Lock
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coda_cli.core import dau_kernels as kernels
from coda_cli.core.dau import NORMS, scale_of_norm
from coda_cli.core.dau_sparse import columns_of, is_mostly_zero
from coda_cli.core.dau_training import contracted, of_fixed_inputs
from coda_cli.core.held import is_held
from coda_cli.core.patches import Patches
from coda_cli.machine.precision import product_type

T = TypeVar("T")
_FACTORING = Lock()  # parts of a batch go through a layer at the same time: one of them makes what all need


class DAUConv2d(nn.Module):
    """A convolution whose kernel is computed from each patch by low-rank Dynamic Alignment Units.

    Input [B, C, H, W], output [B, O, H', W'] with the geometry of ``torch.nn.Conv2d`` and zero padding. In memory the
    parameters are channels last; safetensors' own save_file wants them ``contiguous()``.

    Args:
        in_channels: C, at least 1.
        out_channels: O, at least 1.
        kernel_size: k, the side of a patch in pixels.
        rank: r, at least 1.
        stride: pixels from one patch to the next.
        padding: pixels of zeros around the input; (k - 1) // 2 unless given.
        norm: "SQ" or "L2", see ``dau.scale_of_norm``.
        groups: into how many groups the second of the original's two convolutions is split: its outputs, ordered patch
            entry first and unit second, fall into equal blocks that see equal blocks of ``z``.
        bias: whether there is a ``b``.

    Attributes:
        V: parameter [r, C, k, k].
        U: parameter [O r / groups, C, k, k]; output o owns r / groups neighbouring rows.
        b: parameter [O, C, k, k], or None.
        shares_gradients: True, see ``abilities.shares_gradients``: dynamic weights serve all weightings at once.

    Raises:
        ValueError: another norm, sizes below 1, or groups that do not divide the rank and O d.
    """

    shares_gradients = True

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
        empty = [torch.empty(n, *patch) for n in (rank, out_channels * rank // groups, out_channels)]
        V, U, b = (kernel.to(memory_format=torch.channels_last) for kernel in empty)
        self.V, self.U, self.b = nn.Parameter(V), nn.Parameter(U), nn.Parameter(b) if bias else None
        self._forms: dict[object, tuple[Any, Any, list[Tensor]]] = {}  # see _kept()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the parameters as the original's pair of plain convolutions does: uniform in ±1/sqrt(fan in)."""
        j = self.rank // self.groups
        for parameter, fan_in in ((self.V, self.V[0].numel()), (self.U, j), (self.b, j)):
            if parameter is not None:
                drawn = torch.empty(parameter.shape, dtype=parameter.dtype, device=parameter.device)
                with torch.no_grad():  # in the order of the shape, whatever the order in memory
                    parameter.copy_(drawn.uniform_(-(fan_in**-0.5), fan_in**-0.5))

    def forward(self, x: Tensor) -> Tensor:
        """Compute the layer's outputs, differentiable in x and the parameters, or held (see ``held``).

        Args:
            x: [B, C, H, W].

        Returns:
            [B, O, H', W'].

        Raises:
            ValueError: another number of channels, or an input smaller than the kernel.
        """
        if x.shape[1] != self.in_channels:
            raise ValueError(f"expected [B, {self.in_channels}, H, W], got {list(x.shape)}")
        if min(self.patches.grid(x.shape)) < 1:
            raise ValueError(f"{x.shape[2]} x {x.shape[3]} positions are too few for a {self.kernel_size}-wide kernel")
        holds = is_held() and x.requires_grad
        if torch.is_grad_enabled() and not holds:
            return self._trainable(x)
        y, held_map = self.as_linear_map(x, product_type(x))
        return kernels.linear_in(x, y, held_map) if holds else y

    @torch.no_grad()
    def as_linear_map(self, x: Tensor, product: torch.dtype) -> tuple[Tensor, kernels.HeldMap]:
        """Compute the outputs, and the linear map that the layer is for this input; without a graph.

        Args:
            x: [B, C, H, W].
            product: the type of the large matrix products; all else, the norms above all, keeps the type of ``x``.

        Returns:
            y [B, O, H', W'], and the map.
        """
        with torch.autocast(x.device.type, enabled=False):
            X = self.patches.rows(x)
            V, U, b = (kernels.rows(t.detach()) for t in (self.V, self.dense_U(), self.bias_or_zeros()))
            U = U.unflatten(0, (-1, self.rank))
            if kernels.writing_out_pays(len(X), U) and product == x.dtype:
                y, z, g = kernels.written_out(X, V, U, b, self._scale)
            elif is_mostly_zero(X):
                y, z, g = kernels.factored(X, V, U, b, self.norm_factors(), self._scale, self._columns(product, U, b))
            else:
                y, z, g = kernels.factored(X, V, *self._in(product, U, b), self.norm_factors(), self._scale)
            y = y.view(len(x), *self.patches.grid(x.shape), self.out_channels).permute(0, 3, 1, 2)
        return y, kernels.HeldMap(z, g, U, b, self.patches, x.shape, product)

    def _trainable(self, x: Tensor) -> Tensor:
        """The same outputs with an ordinary graph: gradients flow through z, U, b and the norm."""
        if not x.requires_grad and (self.kernel_size, self.stride, self.padding) == (1, 1, 0):
            X = x.permute(0, 2, 3, 1).flatten(0, 2).to(product_type(x))
            y = of_fixed_inputs(X, self.V.flatten(1), self._wide(), self._scale)
            return y.view(len(x), *x.shape[2:], -1).permute(0, 3, 1, 2)
        all_kernels = torch.cat([self.V, self.bias_or_zeros(), self.dense_U()])
        return self._contracted(F.conv2d(x, all_kernels, stride=self.stride, padding=self.padding))

    def only(self, outputs: Tensor) -> DAUConv2d:
        """Leave the other outputs away.

        Args:
            outputs: int64 [K], the outputs that stay.

        Returns:
            A layer of K outputs, with the same V; it is not for training.
        """
        layer = copy.copy(self)
        layer._parameters, layer.out_channels, layer.groups = {**self._parameters}, len(outputs), 1
        U = self.dense_U().detach().unflatten(0, (-1, self.rank))[outputs].flatten(0, 1)
        layer.U = nn.Parameter(U.contiguous(memory_format=torch.channels_last))
        if self.b is not None:
            layer.b = nn.Parameter(self.b.detach()[outputs].contiguous(memory_format=torch.channels_last))
        return layer

    def with_weights_of(self, source: Tensor, x: Tensor) -> Tensor:
        """Apply the linear map that this layer is for one input to another: for losses on the dynamic weights.

        Args:
            source: [B, C, H, W], the input that the dynamic weights are made from.
            x: of the same shape, the input that they are applied to.

        Returns:
            [B, O, H', W'], differentiable in both and in the parameters.
        """
        z = F.conv2d(source, self.V, stride=self.stride, padding=self.padding)
        rest = torch.cat([self.bias_or_zeros(), self.dense_U()])
        h = F.conv2d(x, rest, stride=self.stride, padding=self.padding)
        return self._contracted(torch.cat([z, h], 1))

    def _contracted(self, h: Tensor) -> Tensor:
        """The outputs from (z, b.x, U^T x), which a convolution gives."""
        # A differentiable QR does not exist where ranks drop; for training the Gram form is accurate enough.
        A = self._wide()
        return contracted(h, A @ A.transpose(1, 2), self._scale)

    def _scale(self, n: Tensor) -> Tensor:
        return scale_of_norm(n, self.norm)

    # ---- the parameters in the forms that the kernels take ----------------------------------------------------------

    @property
    def patches(self) -> Patches:
        """What the kernels see of maps."""
        return Patches(self.in_channels, self.kernel_size, self.stride, self.padding)

    def dense_U(self) -> Tensor:
        """U with the zeros of grouping written out, [O r, C, k, k]; U itself when there is one group."""
        return kernels.without_groups(self.U, self.out_channels, self.rank, self.groups)

    def bias_or_zeros(self) -> Tensor:
        """b [O, C, k, k], or zeros of that shape."""
        return self.b if self.b is not None else self.U.new_zeros(self.out_channels, *self.U.shape[1:])

    def _wide(self) -> Tensor:
        """[U_o b_o] transposed, [O, r + 1, d]."""
        U = self.dense_U().reshape(self.out_channels, self.rank, -1)
        return torch.cat([U, self.bias_or_zeros().reshape(self.out_channels, 1, -1)], 1)

    def norm_factors(self) -> kernels.NormFactors:
        """The numbers that turn z into the norms of the dynamic weights; computed once for given parameters."""
        return self._kept("norm factors", lambda: kernels.norm_factors(self._wide()))

    def _in(self, product: torch.dtype, U: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """U and b in the type of the products, converted once for given parameters."""
        return (U, b) if product == U.dtype else self._kept(product, lambda: (U.to(product), b.to(product)))

    def _columns(self, product: torch.dtype, U: Tensor, b: Tensor) -> Tensor:
        """U and b as ``columns_of`` arranges them, in the type of the products; made once for given parameters."""
        return self._kept(("columns", product), lambda: columns_of(U.to(product), b.to(product)))

    def _kept(self, form: object, make: Callable[[], T]) -> T:
        """The parameters in another form, made once for given parameters."""
        key, tensors = self._state()
        with _FACTORING:
            if form not in self._forms or self._forms[form][0] != key:
                with torch.no_grad():
                    self._forms[form] = key, make(), tensors
            made: T = self._forms[form][1]
            return made

    def _state(self) -> tuple[tuple[Any, ...], list[Tensor]]:
        """What differs when the parameters change, and these."""
        U, b = self.U, self.b
        # `_version` counts in-place changes, so load_state_dict or an optimiser's step invalidates what is kept. Fused
        # optimisers go past it, and tensors made inside torch.inference_mode() have none, so their values are looked
        # at; writing through `.data` of other tensors goes past both. The tensors themselves are kept: no other can
        # get their address.
        given = [t for t in (U, b) if t is not None]
        versions = [None if t.is_inference() else t._version for t in given]
        seen = [float(torch.linalg.vector_norm(t.detach())) for t in given if t.requires_grad or t.is_inference()]
        key = ([t.data_ptr() for t in given], versions, seen, len(given), U.dtype, U.device)
        return key, [t.detach() for t in given]

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles: all but what is kept, whose key is of the original's memory."""
        return self.__dict__ | {"_forms": {}}

    def graph_numbers(self, y: Tensor) -> int:
        """Count the numbers that an ordinary graph keeps for an output: U^T x, of rank times the output's size.

        Args:
            y: an output [B, O, H', W'].

        Returns:
            The count.
        """
        return y.numel() * self.rank

    def extra_repr(self) -> str:
        """The line of ``print(model)``."""
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, rank={self.rank}, "
            f"stride={self.stride}, padding={self.padding}, norm={self.norm}, groups={self.groups}"
        )
