"""A logit shared out, exactly, over the pixels and channels of the input: the heart of the program.

    logit = W(x) x + bias        contributions = x * W(x)        logit == sum(contributions) + bias + residual

For one input a dynamic-linear network is a linear map W(x) (CVPR 2021, eq. 8); W(x) is the gradient of the logit taken
through the network with its dynamic weights held (see ``held``). The residual is what rounding left over. It is always
computed: an exact decomposition has a small one, and whoever uses a map should see it and not have to believe it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import partial

import torch
from torch import Tensor, nn

from coda_cli.core.abilities import bias_of
from coda_cli.core.gradients import differentiable, held_gradients, held_pass, joined
from coda_cli.core.weightings import TargetsLike, weightings
from coda_cli.machine.lanes import each, parts
from coda_cli.machine.precision import true_float32

# Tolerated |residual| relative to sum |contributions| + |bias|, by the type the convolutions compute in.
RELATIVE_TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 5e-2, torch.float16: 5e-2}


@dataclass(frozen=True)
class Decomposition:
    """K class weightings of the logits of B inputs, each shared out over the input [C, h, w].

    A weighting is a row of numbers, one per class: one-hot for a class, +1 and -1 for "A minus B".

    Attributes:
        inputs: [B, C, h, w], the encoded pictures; of a hybrid the output of its backbone, the cut.
        dynamic_weights: [B, K, C, h, w], the rows of W(x): logit units per unit of input.
        logits: [B, classes], the logits of all classes.
        weights: [B, K, classes], the weightings that were explained.
        logit: float64 [B, K] on the CPU, ``weights`` times ``logits``.
        bias: float64 [B, K], the share of ``logit`` that is there for every input.
        positional: float64 [B, K], the share of a positional embedding, which belongs to no pixel; 0 without one.
        residual: float64 [B, K] = logit - sum of contributions - bias - positional.
        tolerance: float64 [B, K], what the residual's magnitude may be; see RELATIVE_TOLERANCE.
    """

    inputs: Tensor
    dynamic_weights: Tensor
    logits: Tensor
    weights: Tensor
    logit: Tensor
    bias: Tensor
    positional: Tensor
    residual: Tensor
    tolerance: Tensor

    def __getitem__(self, b: int) -> Decomposition:
        """The decomposition of one input of the batch, as a batch of one."""
        b = range(len(self.logits))[b]  # counts from the end when negative; IndexError beyond
        return Decomposition(**{f.name: getattr(self, f.name)[b : b + 1] for f in fields(self)})

    def first(self, count: int) -> Decomposition:
        """The decomposition of the first weightings alone.

        Args:
            count: how many of the K.

        Returns:
            It, without a copy.
        """
        shared = {"inputs": self.inputs, "logits": self.logits}
        rest = {f.name: getattr(self, f.name)[:, :count] for f in fields(self) if f.name not in shared}
        return Decomposition(**shared, **rest)

    def cpu(self) -> Decomposition:
        """The decomposition in the CPU's memory: what waits to be drawn must not fill a GPU's."""
        return Decomposition(**{f.name: getattr(self, f.name).cpu() for f in fields(self)})

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
    model: nn.Module, x: Tensor, targets: TargetsLike = None, *, relative_tolerance: float | None = None
) -> Decomposition:
    """Split logits into the contributions of the input, exactly; of a hybrid into those of its cut.

    It can be called anywhere: inside ``torch.inference_mode()``, ``torch.no_grad()`` and autocast, and from threads.

        d = decompose(net.model, encode(pictures), [0, 3])     # two classes for every picture
        d.pixels[0, 1]                                         # the map of class 3 in the first picture

    Args:
        model: a dynamic-linear network with a ``bias``, the constant it adds to every logit; not modified.
        x: float [B, C, h, w], what the network takes, for most of them ``encode(pictures)``; not modified.
        targets: what is explained, from one forward pass. None: the predicted class of each input. An int: one class
            for all inputs. A list, tuple or range: several classes for all inputs. An integer tensor or array [B]: one
            class for each input, as in captum; [B, K]: K classes for each input. A floating tensor [K, classes] or
            [B, K, classes]: weightings. A function: gets the logits [B, classes] and returns one of these tensors.
        relative_tolerance: what the residual may be, in place of that of RELATIVE_TOLERANCE.

    Returns:
        The decomposition of all B inputs, K weightings each.

    Raises:
        ValueError: the model has no ``bias``, shapes or indices do not fit, or could be read in two ways.

    Source:
        Böhle, Fritz and Schiele, CVPR 2021, equation 8.
    """
    if x.ndim != 4 or not x.is_floating_point():
        raise ValueError(f"expected a floating tensor [B, C, h, w], got {x.dtype} {list(x.shape)}")
    constant = bias_of(model)
    # What is made inside torch.inference_mode() can have no gradient, so the mode ends here, for the caller's too.
    with torch.inference_mode(False), torch.no_grad(), true_float32():
        passes = each(partial(held_pass, differentiable(model)), parts(x))
        logits = joined([p.logits.detach() for p in passes])
        weights = weightings(targets, logits)
        rows = each(held_gradients, passes, weights.split([len(p.x) for p in passes]))
        x = joined([p.x.detach() for p in passes])
        W, sums, elsewhere = (joined(column) for column in zip(*rows, strict=True))
        wide = weights.cpu().double()
        logit = torch.einsum("bkc,bc->bk", wide, logits.cpu().double())
        bias, positional = constant * wide.sum(2), elsewhere[..., 0]
        residual = logit - sums[..., 0] - bias - positional
        # The bias of every weighted logit is rounded into it, also where A minus B cancels it.
        size = sums[..., 1] + elsewhere[..., 1] + abs(constant) * wide.abs().sum(2)
        rtol = tolerance_for(x) if relative_tolerance is None else relative_tolerance
        return Decomposition(x, W, logits, weights, logit, bias, positional, residual, rtol * size)


def tolerance_for(x: Tensor) -> float:
    """The relative tolerance for what is computed here and now, inside autocast or not.

    Args:
        x: an input; its type decides where autocast does not.

    Returns:
        The entry of RELATIVE_TOLERANCE.
    """
    device = x.device.type
    return RELATIVE_TOLERANCE[torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype]
