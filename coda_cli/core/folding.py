"""Batch norms as part of the convolutions before them: a third less work for a backbone that stays as it is."""

from __future__ import annotations

import copy
import itertools

import torch
from torch import Tensor, nn


class Folded:
    """A copy of a module whose batch norms are folded into its convolutions, made anew when a tensor of it changes.

    A batch norm belongs to the convolution that is defined right before it, as in all networks of ``backbones``.
    """

    def __init__(self) -> None:
        """There is no copy yet."""
        self._kept: tuple[list[Tensor], list[int], nn.Module] | None = None

    def of(self, module: nn.Module) -> nn.Module:
        """Find what to compute with: the copy where nothing is learned or differentiated, else the module itself.

        Args:
            module: a backbone; it is not changed.

        Returns:
            A module that computes the same, up to rounding.
        """
        if torch.is_grad_enabled() or module.training:
            return module
        tensors = list(itertools.chain(module.parameters(), module.buffers()))
        if any(t.is_inference() for t in tensors):  # these do not count their changes
            return module
        versions = [t._version for t in tensors]
        kept = self._kept  # one read: another thread may replace it
        if kept is None or versions != kept[1] or not all(map(_is, tensors, kept[0])):
            kept = self._kept = tensors, versions, _folded(module)
        return kept[2]

    def __deepcopy__(self, memo: object) -> Folded:
        return Folded()  # the copy of the module is another one

    def __reduce__(self) -> tuple[type[Folded], tuple[()]]:
        return Folded, ()


def _is(a: Tensor, b: Tensor) -> bool:
    return a is b


@torch.no_grad()
def _folded(module: nn.Module) -> nn.Module:
    """A copy in which each batch norm behind a convolution is part of it; all other tensors are the module's own."""
    same = {id(t): t for t in itertools.chain(module.parameters(), module.buffers())}  # tensors are not copied
    whole = copy.deepcopy(module, same)
    for owner in list(whole.modules()):
        children = list(owner.named_children())
        for (_, conv), (name, norm) in itertools.pairwise(children):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                _fold(conv, norm)
                setattr(owner, name, nn.Identity())
        for _, child in children:
            if isinstance(child, nn.ReLU | nn.ReLU6):
                child.inplace = True  # what they take is new, and nothing else sees it
    return whole


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    """Make a convolution compute what it and the batch norm behind it do in evaluation mode."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    factor = (norm.running_var.double() + norm.eps).rsqrt()
    shift = -norm.running_mean.double() * factor
    if norm.affine:
        factor, shift = factor * norm.weight.double(), shift * norm.weight.double() + norm.bias.double()
    if conv.bias is not None:
        shift = shift + conv.bias.double() * factor
    kernel = conv.weight.double() * factor[:, None, None, None]
    kernel = kernel.to(conv.weight.dtype).contiguous(memory_format=torch.channels_last)
    conv.weight = nn.Parameter(kernel, requires_grad=False)
    conv.bias = nn.Parameter(shift.to(conv.weight.dtype), requires_grad=False)
