"""A forward pass with everything dynamic held, and the gradients that are taken of it: the rows of W(x)."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from coda_cli.core.abilities import above, cut, is_ordinary, shares_gradients, to_cut
from coda_cli.core.held import Constant, Held, held
from coda_cli.machine import budget


class HeldPass(NamedTuple):
    """A forward pass of a batch of which gradients can be taken.

    Attributes:
        x: [B, C, h, w], a leaf: the input, or the cut.
        logits: [B, classes], with their graph.
        reported: what layers added that is no function of the input, and which gates were held.
        at_once: how many weightings one call takes gradients of.
    """

    x: Tensor
    logits: Tensor
    reported: Held
    at_once: int


class HeldGradients(NamedTuple):
    """What the gradients of K weightings say about B inputs.

    Attributes:
        dynamic_weights: [B, K, C, h, w], the rows of W(x).
        of_input: float64 [B, K, 2] on the CPU: sum and sum of magnitudes of the input's contributions.
        of_constants: float64 [B, K, N, 2], the same of each of the N constants that layers added.
    """

    dynamic_weights: Tensor
    of_input: Tensor
    of_constants: Tensor


def differentiable(model: nn.Module) -> nn.Module:
    """The model, or a copy of it where gradients cannot pass through its tensors; outside ``torch.inference_mode()``.

    These are tensors made inside ``torch.inference_mode()``: they stay what they are for ever, so every call makes a
    new copy. A model that is made outside is not copied.

    Args:
        model: any network; it is not modified.

    Returns:
        A model that computes the same.
    """
    if any(t.is_inference() for t in itertools.chain(model.parameters(), model.buffers())):
        return copy.deepcopy(model)
    return model


def held_pass(model: nn.Module, x: Tensor) -> HeldPass:
    """Compute the logits with all dynamic weights held.

    Of a hybrid only what lies above its cut can have gradients: nothing is exact below.

    Args:
        model: the network.
        x: encoded pictures, float [B, C, H, W]; not modified.

    Returns:
        The pass, as long as which its graph is kept.
    """
    with torch.inference_mode(False), held() as reported:
        if is_ordinary(model):
            leaf, logits, _ = model.pass_from(x, cut(model))  # type: ignore[operator]
            return HeldPass(leaf, logits, reported, 1)
        with torch.no_grad():
            x = to_cut(model, x)
        upper = above(model)
        with torch.enable_grad():
            x = x.detach().clone().requires_grad_()
            return HeldPass(x, upper(x), reported, budget.SHARED_GRADIENTS if shares_gradients(upper) else 1)


def held_gradients(held_pass: HeldPass, weightings: Tensor) -> HeldGradients:
    """Take the gradients of weighted logits, which frees the graph of the pass.

    Args:
        held_pass: the forward pass.
        weightings: [B, K, classes], of the type of the logits.

    Returns:
        The rows of W(x), and the sums of the contributions.
    """
    x, logits, reported, at_once = held_pass
    constants, B = reported.constants, len(x)
    parts = weightings.transpose(0, 1).split(at_once)  # of [K, B, classes]
    rows, of_constants = list[Tensor](), list[Tensor]()
    with torch.inference_mode(False), torch.enable_grad():
        for part in parts:
            further, k = part is not parts[-1], len(part)
            if k > 1:
                leaves: list[Any] = [x, *(c.edge for c in constants)]
                row, *found = torch.vmap(partial(torch.autograd.grad, logits, leaves, retain_graph=further))(part)
                sums = [constant_sums(c.value, g, k, B) for c, g in zip(constants, found, strict=True)]
            else:
                with _summed_as_they_come(constants, B) as sums:
                    # Of a sum: torch's first gradient with weights given to it costs 0.3 s of imports.
                    row = torch.autograd.grad((logits * part[0]).sum(), x, retain_graph=further)[0][None]
            rows.append(row)
            none = torch.zeros(k, B, 0, 2, dtype=torch.float64)
            of_constants.append(torch.cat([none, *(s.cpu()[:, :, None] for s in sums)], 2))
    W = joined(rows).transpose(0, 1)
    return HeldGradients(W, sums_of_products(x.detach(), W), torch.cat(of_constants).transpose(0, 1))


@contextmanager
def _summed_as_they_come(constants: Sequence[Constant], B: int) -> Iterator[list[Tensor]]:
    """The sums of the constants, of B inputs, as long as the gradient of one weighting is taken.

    All gradients of constants together are as large as the graph, and memory that is new costs more time than the sums.
    """
    sums = [constant_sums(c.value, None, 1, B) for c in constants]

    def add(n: int, gradients: Sequence[Tensor | None]) -> None:
        if (g := gradients[constants[n].edge.output_nr]) is not None:
            sums[n] = constant_sums(constants[n].value, g[None], 1, B)

    hooks = [c.edge.node.register_prehook(partial(add, n)) for n, c in enumerate(constants)]
    try:
        yield sums
    finally:
        for hook in hooks:
            hook.remove()


def constant_sums(value: Tensor, gradients: Tensor | None, K: int, B: int) -> Tensor:
    """Sum, and sum of magnitudes, of a constant times its gradients, for each input.

    Args:
        value: what a layer added, in a shape that fits its output [B', ...].
        gradients: [K, B', ...]. B' is B, or a multiple where a layer works on windows of each input. None where no way
            leads from the constant to the logits.
        K: how many weightings there are.
        B: how many inputs there are.

    Returns:
        float64 [K, B, 2], on the gradients' device where that has float64.
    """
    if gradients is None:
        return torch.zeros(K, B, 2, dtype=torch.float64)
    if gradients.device.type == "mps":  # it has no float64
        value, gradients = value.cpu(), gradients.cpu()
    value = value.to(gradients).view(*[1] * (gradients.ndim - 1 - value.ndim), *value.shape)
    same = [axis + 1 for axis in range(1, value.ndim) if value.shape[axis] == 1]
    if not same:
        products = (value * gradients).reshape(K, B, -1)
        return torch.stack([products.sum(2), products.abs_().sum(2)], 2).double()  # in its place: twice as fast
    # Along an axis on which the constant is the same, gradients are summed first, as torch sums: pair by pair.
    signed, size = gradients.sum(same, keepdim=True), gradients.abs().sum(same, keepdim=True)
    both = (value.double() * signed, value.double().abs() * size)
    return torch.stack([t.reshape(K, B, -1).sum(2) for t in both], 2)


def joined(parts: Sequence[Tensor]) -> Tensor:
    """Put the parts of a batch together.

    Args:
        parts: tensors [b, ...], at least one.

    Returns:
        [B, ...]; a single part without a copy.
    """
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def sums_of_products(x: Tensor, W: Tensor) -> Tensor:
    """Sum, and sum of magnitudes, of inputs times each of their gradients.

    In float64, so that summing adds no residual of its own; on CPUs one map after the other, which stays in the cache.

    Args:
        x: [B, ...].
        W: [B, K, ...].

    Returns:
        float64 [B, K, 2] on the CPU.
    """
    if x.device.type == "mps":  # it has no float64
        x, W = x.cpu(), W.cpu()
    found, at_once = [], budget.maps_summed_at_once(x.device.type, x[0].numel())
    for one, weights in zip(x, W, strict=True):
        for part in weights.split(at_once):
            products = (one * part).double()
            of_each = tuple(range(1, products.ndim))  # not flattened, which copies maps that are channels last
            found.append(torch.stack([products.sum(of_each), products.abs().sum(of_each)], 1))
    return torch.cat(found).cpu().view(len(x), -1, 2)
