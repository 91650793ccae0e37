"""A logit shared out, exactly, over the pixels and channels of the input: the heart of the program.

    logit = W(x) x + constants      contributions = x * W(x)      logit == sum(contributions) + constants + residual

For one input a dynamic-linear network is a linear map W(x) (CVPR 2021, eq. 8); W(x) is the gradient of the logit taken
through the network with its dynamic weights held (see ``held``). The residual is what rounding left over. It is always
computed: an exact decomposition has a small one, and whoever uses a map should see it and not have to believe it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from coda_cli.core.abilities import bias_of, is_dynamic_linear
from coda_cli.core.gradients import differentiable, held_gradients, held_pass, joined
from coda_cli.core.held import Held
from coda_cli.core.ordinary import with_cut
from coda_cli.core.weightings import TargetsLike, weightings
from coda_cli.machine.lanes import each, parts
from coda_cli.machine.precision import true_float32
from coda_cli.vocabulary import Exactness

# Tolerated |residual| relative to sum |contributions| + |bias|, by the type the convolutions compute in.
RELATIVE_TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 5e-2, torch.float16: 5e-2}


@dataclass(frozen=True)
class ConstantShare:
    """A share of logits that belongs to no pixel.

    Attributes:
        layer: which adds it; "logits" for a network's own ``bias``.
        kind: "bias", "positional", "batch norm", "saturation" (of a ReLU6), "norm", "token" or "added".
        share: float64 [B, K], in logit units.
    """

    layer: str
    kind: str
    share: Tensor


@dataclass(frozen=True)
class Decomposition:
    """K class weightings of the logits of B inputs, each shared out over the input [C, h, w].

    A weighting is a row of numbers, one per class: one-hot for a class, +1 and -1 for "A minus B".

    Attributes:
        inputs: [B, C, h, w], the encoded pictures, less a mean where the network subtracts one; the output of the cut
            where the network has one.
        dynamic_weights: [B, K, C, h, w], the rows of W(x): logit units per unit of input.
        logits: [B, classes], the logits of all classes.
        weights: [B, K, classes], the weightings that were explained.
        logit: float64 [B, K] on the CPU, ``weights`` times ``logits``.
        constant_shares: float64 [B, K, N], the shares of ``logit`` that belong to no pixel; see ``constants``.
        constant_names: layer and kind of each of the N.
        residual: float64 [B, K] = logit - sum of contributions - sum of constant_shares.
        tolerance: float64 [B, K], what the residual's magnitude may be; see RELATIVE_TOLERANCE.
        exactness: why the shares add up: "by construction" of the network, since it is "piecewise linear", or because
            "held gates" were taken as constants, which is a definition and no theorem.
        unknown: functions of which coda does not know that they are linear, each with the class of the layer that it is
            in; they explain a residual.
    """

    inputs: Tensor
    dynamic_weights: Tensor
    logits: Tensor
    weights: Tensor
    logit: Tensor
    constant_shares: Tensor
    constant_names: tuple[tuple[str, str], ...]
    residual: Tensor
    tolerance: Tensor
    exactness: Exactness = "by construction"
    unknown: tuple[str, ...] = ()

    def __getitem__(self, b: int) -> Decomposition:
        """The decomposition of one input of the batch, as a batch of one."""
        b = range(len(self.logits))[b]  # counts from the end when negative; IndexError beyond
        return self._with_tensors(lambda _, t: t[b : b + 1])

    def first(self, count: int) -> Decomposition:
        """The decomposition of the first weightings alone.

        Args:
            count: how many of the K.

        Returns:
            It, without a copy.
        """
        return self._with_tensors(lambda name, t: t if name in ("inputs", "logits") else t[:, :count])

    def cpu(self) -> Decomposition:
        """Move everything to the CPU's memory: what waits to be drawn must not fill a GPU's.

        Returns:
            The same decomposition; itself not changed.
        """
        return self._with_tensors(lambda _, t: t.cpu())

    def _with_tensors(self, change: Callable[[str, Tensor], Tensor]) -> Decomposition:
        """A copy with other tensors."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        changed: dict[str, Any] = {name: change(name, t) for name, t in found.items() if isinstance(t, Tensor)}
        return replace(self, **changed)

    @property
    def constants(self) -> list[ConstantShare]:
        """The shares that belong to no pixel, in the order in which the network adds them; signed, logit units."""
        shares = self.constant_shares.unbind(2)
        return [ConstantShare(*name, share) for name, share in zip(self.constant_names, shares, strict=True)]

    @property
    def positional(self) -> Tensor:
        """The share of positional embeddings alone, float64 [B, K]; 0 without one."""
        return self._sum_of(lambda kind: kind == "positional")

    @property
    def bias(self) -> Tensor:
        """All other constants together, float64 [B, K]: of networks that are exact by construction their bias."""
        return self._sum_of(lambda kind: kind != "positional")

    def _sum_of(self, chosen: Callable[[str], bool]) -> Tensor:
        which = [n for n, (_, kind) in enumerate(self.constant_names) if chosen(kind)]
        with torch.inference_mode(False):  # a tensor that can be used everywhere, wherever it is asked for
            return self.constant_shares[:, :, which].sum(2)

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
    model: nn.Module,
    x: Tensor,
    targets: TargetsLike = None,
    *,
    cut: str | None = None,
    relative_tolerance: float | None = None,
) -> Decomposition:
    """Split logits into the contributions of the input, exactly; of a network with a cut into those of its cut.

    It can be called anywhere: inside ``torch.inference_mode()``, ``torch.no_grad()`` and autocast, and from threads.

        d = decompose(net.model, encode(pictures), [0, 3])     # two classes for every picture
        d.pixels[0, 1]                                         # the map of class 3 in the first picture

        decompose(torchvision.models.resnet18(), normalised, 3, cut="layer4")     # any ordinary network

    Args:
        model: any network; not modified. One that is not coda's own takes ``x`` as it is.
        x: float [B, C, h, w], what the network takes, for most of coda's own ``encode(pictures)``; not modified.
        targets: what is explained, from one forward pass. None: the predicted class of each input. An int: one class
            for all inputs. A list, tuple or range: several classes for all inputs. An integer tensor or array [B]: one
            class for each input, as in captum; [B, K]: K classes for each input. A floating tensor [K, classes] or
            [B, K, classes]: weightings. A function: gets the logits [B, classes] and returns one of these tensors.
        cut: of an ordinary network, the layer at whose output logits are split, as ``named_modules`` calls it; None is
            the network's own cut where it has one, or else ``x``.
        relative_tolerance: what the residual may be, in place of that of RELATIVE_TOLERANCE.

    Returns:
        The decomposition of all B inputs, K weightings each.

    Raises:
        ValueError: shapes or indices do not fit, or could be read in two ways; there is no such cut.

    Source:
        Böhle, Fritz and Schiele, CVPR 2021, equation 8; for ordinary networks Srinivas and Fleuret, NeurIPS 2019.
    """
    if x.ndim != 4 or not x.is_floating_point():
        raise ValueError(f"expected a floating tensor [B, C, h, w], got {x.dtype} {list(x.shape)}")
    constant = bias_of(model)
    # What is made inside torch.inference_mode() can have no gradient, so the mode ends here, for the caller's too.
    with torch.inference_mode(False), torch.no_grad(), true_float32():
        passes = each(partial(held_pass, with_cut(differentiable(model), cut, x)), parts(x))
        logits = joined([p.logits.detach() for p in passes])
        weights = weightings(targets, logits)
        rows = each(held_gradients, passes, weights.split([len(p.x) for p in passes]))
        x = joined([p.x.detach() for p in passes])
        W, sums, elsewhere = (joined(column) for column in zip(*rows, strict=True))
        wide = weights.cpu().double()
        logit = torch.einsum("bkc,bc->bk", wide, logits.cpu().double())
        shares, sizes = elsewhere.unbind(3)
        names = tuple((c.layer, c.kind) for c in passes[0].reported.constants)
        if is_dynamic_linear(model):
            # The bias of every weighted logit is rounded into it, also where A minus B cancels it.
            names += (("logits", "bias"),)
            shares = torch.cat([shares, constant * wide.sum(2, keepdim=True)], 2)
            sizes = torch.cat([sizes, abs(constant) * wide.abs().sum(2, keepdim=True)], 2)
        residual = logit - sums[..., 0] - shares.sum(2)
        rtol = tolerance_for(x) if relative_tolerance is None else relative_tolerance
        tolerance = rtol * (sums[..., 1] + sizes.sum(2))
        told = [p.reported for p in passes]
        return Decomposition(
            x,
            W,
            logits,
            weights,
            logit,
            shares,
            names,
            residual,
            tolerance,
            exactness_of(model, told),
            unknown_in(told),
        )


def exactness_of(model: nn.Module, told: Sequence[Held]) -> Exactness:
    """Tell why the shares of a decomposition add up.

    Args:
        model: the network.
        told: what its layers reported.

    Returns:
        See ``Decomposition``.
    """
    if is_dynamic_linear(model):
        return "by construction"
    # What is not known may be anything that happens to add up: no theorem covers it either.
    return "held gates" if any(t.gates or t.unknown for t in told) else "piecewise linear"


def unknown_in(told: Sequence[Held]) -> tuple[str, ...]:
    """List the functions of which coda does not know that they are linear.

    Args:
        told: what a network's layers reported.

    Returns:
        Their names, sorted.
    """
    return tuple(sorted(set().union(*(t.unknown for t in told))))


def tolerance_for(x: Tensor) -> float:
    """The relative tolerance for what is computed here and now, inside autocast or not.

    Args:
        x: an input; its type decides where autocast does not.

    Returns:
        The entry of RELATIVE_TOLERANCE.
    """
    device = x.device.type
    return RELATIVE_TOLERANCE[torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype]
