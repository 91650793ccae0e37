"""The heart: a logit shared out, exactly, over the pixels and channels of the input.

    logit = W(x) x + bias        contributions = x * W(x)        logit == sum(contributions) + bias + residual

For one input a dynamic-linear network is a linear map W(x) (CVPR 2021, eq. 8); W(x) is the gradient of the logit taken
through the network with its dynamic weights held (see ``held``). The residual is what rounding left over. It is always
computed: a small residual is necessary for an exact decomposition, and nobody should have to take it on trust.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from coda_cli.core.dau import DAUConv2d
from coda_cli.core.held import held
from coda_cli.core.hybrid import HybridNet
from coda_cli.machine import budget
from coda_cli.machine.lanes import each, parts
from coda_cli.machine.precision import true_float32

# Tolerated |residual| relative to sum |contributions| + |bias|, by the type the convolutions compute in.
RELATIVE_TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 5e-2, torch.float16: 5e-2}

Targets = int | Sequence[int] | Tensor | Callable[[Tensor], Tensor] | None


@dataclass(frozen=True)
class Decomposition:
    """K class weightings of the logits of B inputs, each shared out over the input [C, h, w].

    A weighting is a row of numbers, one per class: one-hot for a class, +1 and -1 for "A minus B".
    """

    inputs: Tensor  # [B, C, h, w], the encoded pictures; of a hybrid the output of its backbone, the cut
    dynamic_weights: Tensor  # [B, K, C, h, w], the rows of W(x)
    logits: Tensor  # [B, classes], of all classes
    weights: Tensor  # [B, K, classes], the weighting that was explained
    logit: Tensor  # float64 [B, K] = weights . logits
    bias: Tensor  # float64 [B, K], the share of ``logit`` that is there for every input
    positional: Tensor  # float64 [B, K], the share of a positional embedding: of no pixel; 0 for networks without one
    residual: Tensor  # float64 [B, K] = logit - sum of contributions - bias - positional
    tolerance: Tensor  # float64 [B, K], what |residual| may be; see RELATIVE_TOLERANCE

    def __getitem__(self, b: int) -> Decomposition:
        """The decomposition of one input of the batch, as a batch of one."""
        b = range(len(self.logits))[b]  # counts from the end when negative; IndexError beyond
        return Decomposition(**{f.name: getattr(self, f.name)[b : b + 1] for f in fields(self)})

    @property
    def contributions(self) -> Tensor:
        """x * W(x), [B, K, C, h, w]; signed, logit units."""
        return self.inputs[:, None] * self.dynamic_weights

    @property
    def pixels(self) -> Tensor:
        """Contribution maps [B, K, h, w]: contributions summed over the channels; signed, logit units."""
        return (self.inputs[:, None] * self.dynamic_weights).sum(2)

    @property
    def exact(self) -> Tensor:
        """bool [B, K]: whether the residual is within its tolerance (False for NaN)."""
        return self.residual.abs() <= self.tolerance


def decompose(
    model: nn.Module, x: Tensor, targets: Targets = None, *, relative_tolerance: float | None = None
) -> Decomposition:
    """Split logits of ``model`` into the contributions of the input ``x`` float [B, C, h, w].

    Those of a hybrid are shared out over its cut.

    ``targets`` chooses what is explained, from one forward pass: None, the predicted class of each input; a class
    index or a sequence of K; an integer tensor [B, K] of indices; a floating tensor [K, classes] or [B, K, classes] of
    class weightings; or a function that makes one of these tensors from the logits [B, classes].
    ``relative_tolerance`` replaces that of RELATIVE_TOLERANCE. The model must have a ``bias``, the constant it adds to
    every logit; neither it nor ``x`` is modified. Raises ValueError for shapes or indices that do not fit.
    """
    if x.ndim != 4 or not x.is_floating_point():
        raise ValueError(f"expected a floating tensor [B, C, h, w], got {x.dtype} {list(x.shape)}")
    if not hasattr(model, "bias"):
        raise ValueError(f"{type(model).__name__} is not dynamic linear: its logits have no exact decomposition")
    with true_float32():
        passes = each(partial(_forward, model), parts(x))
        logits = _joined([p.logits.detach() for p in passes])
        weights = _weightings(targets, logits)
        rows = each(_dynamic_weights, passes, weights.split([len(p.x) for p in passes]))
    x = _joined([p.x.detach() for p in passes])
    W, sums, elsewhere = (_joined(column) for column in zip(*rows, strict=True))
    wide = weights.cpu().double()
    logit = torch.einsum("bkc,bc->bk", wide, logits.cpu().double())
    constant = float(model.bias)  # type: ignore[arg-type]
    bias = constant * wide.sum(2)
    positional = elsewhere[..., 0]
    residual = logit - sums[..., 0] - bias - positional
    # The bias of every weighted logit is rounded into it, also where A minus B cancels it.
    size = sums[..., 1] + elsewhere[..., 1] + abs(constant) * wide.abs().sum(2)
    rtol = tolerance_for(x) if relative_tolerance is None else relative_tolerance
    return Decomposition(x, W, logits, weights, logit, bias, positional, residual, rtol * size)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """The parts of a batch as one; a single part without a copy."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def tolerance_for(x: Tensor) -> float:
    """The RELATIVE_TOLERANCE of what is computed from ``x`` here and now, autocast or not."""
    device = x.device.type
    return RELATIVE_TOLERANCE[torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype]


class _Pass(NamedTuple):
    x: Tensor  # [B, C, h, w], a leaf
    logits: Tensor  # [B, classes], with their graph
    added: list[Tensor]  # [B, ...], leaves: see ``add_constant``
    together: bool  # whether gradients of several weightings in one call pay: DAU layers share work among them


def _forward(model: nn.Module, x: Tensor) -> _Pass:
    with torch.inference_mode(False), held() as added:
        if isinstance(model, HybridNet):  # nothing is exact below its cut
            with torch.no_grad():
                x = model.at_cut(x)
            model = model.above
        with torch.enable_grad():
            x = x.detach().clone().requires_grad_()
            return _Pass(x, model(x), added, any(isinstance(m, DAUConv2d) for m in model.modules()))


def _dynamic_weights(p: _Pass, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """W(x) [B, K, C, h, w] for weightings [B, K, classes]; ``_sums`` of the contributions and of those of constants."""
    leaves, columns = [p.x, *p.added], weights.transpose(0, 1)  # [K, B, classes]
    with torch.inference_mode(False), torch.enable_grad():
        parts = columns.split(budget.SHARED_GRADIENTS if p.together else 1)
        found: list[Sequence[Tensor]] = []
        for part in parts:
            further = part is not parts[-1]
            if len(part) > 1:
                found.append(torch.vmap(partial(torch.autograd.grad, p.logits, leaves, retain_graph=further))(part))
            else:  # the same, of a sum: torch's first gradient with weights given to it costs 0.3 s of imports
                gradients = torch.autograd.grad((p.logits * part[0]).sum(), leaves, retain_graph=further)
                found.append([g[None] for g in gradients])
        rows = [_joined(column) for column in zip(*found, strict=True)]
    W, *of_constants = (row.transpose(0, 1) for row in rows)
    elsewhere = torch.zeros(*weights.shape[:2], 2, dtype=torch.float64)
    for constant, weight in zip(p.added, of_constants, strict=True):
        elsewhere += _sums(constant.detach(), weight)
    return W, _sums(p.x.detach(), W), elsewhere


def _weightings(targets: Targets, logits: Tensor) -> Tensor:
    """``targets`` as weightings [B, K, classes] of the type of ``logits`` [B, classes]."""
    B, classes = logits.shape
    if callable(targets):
        targets = targets(logits)
    if targets is None:
        # A NaN logit must not be skipped over: argmax returns its index, and the residual says so.
        indices = logits.argmax(1, keepdim=True)
    elif isinstance(targets, Tensor) and targets.is_floating_point():
        fits = targets.ndim in (2, 3) and targets.shape[-1] == classes and targets.shape[-2] > 0
        if not fits or (targets.ndim == 3 and len(targets) != B):
            raise ValueError(f"expected weightings [K, {classes}] or [{B}, K, {classes}], got {list(targets.shape)}")
        return targets.to(logits).expand(B, -1, -1)
    else:
        given = torch.as_tensor([targets] if isinstance(targets, int) else targets, device=logits.device)
        whole = not given.is_floating_point() and given.dtype != torch.bool
        if not whole or given.ndim not in (1, 2) or (given.ndim == 2 and len(given) not in (1, B)):
            raise ValueError(f"expected whole class indices [K] or [{B}, K], got {given.dtype} {list(given.shape)}")
        indices = given.expand(B, -1)
    if indices.shape[-1] == 0 or indices.min() < 0 or indices.max() >= classes:
        raise ValueError(f"class indices must lie in 0..{classes - 1}, at least one; got {indices.tolist()}")
    return nn.functional.one_hot(indices.long(), classes).to(logits)


def _sums(x: Tensor, W: Tensor) -> Tensor:
    """Sum and sum of magnitudes of x [B, ...] times W [B, K, ...], [B, K, 2] on the CPU.

    In float64, so that summing adds no residual of its own; on CPUs one map after the other, which stays in the cache.
    """
    if x.device.type == "mps":  # it has no float64
        x, W = x.cpu(), W.cpu()
    found, together = [], budget.maps_summed_at_once(x.device.type, x[0].numel())
    for one, weights in zip(x, W, strict=True):
        for part in weights.split(together):
            products = (one * part).double()
            of_each = tuple(range(1, products.ndim))  # not flattened, which copies maps that are channels last
            found.append(torch.stack([products.sum(of_each), products.abs().sum(of_each)], 1))
    return torch.cat(found).cpu().view(len(x), -1, 2)
