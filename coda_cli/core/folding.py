"""What a network would compute in every pass although it depends on its weights alone, computed once.

Batch norms become part of the convolutions before them, filters of B-cos layers get their norm, and weights the type
that is computed in: a third less work for a backbone that stays as it is, and up to half for a B-cos network.
"""

from __future__ import annotations

import copy
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from coda_cli.core.bcos import BcosConv2d, BcosLinear, UncentredBatchNorm2d, halves
from coda_cli.core.efficientnet_lite import SameConv2d
from coda_cli.core.held import is_held
from coda_cli.machine.precision import product_type


class Folded:
    """A copy of a module that is computed with, made anew when a tensor of the module changes.

    A batch norm belongs to the convolution that is defined right before it, as in all networks of coda and torchvision;
    in blocks that others wrote it stays as it is.
    """

    def __init__(self) -> None:
        """There is no copy yet."""
        self._kept: dict[torch.dtype, tuple[list[Tensor], list[int], nn.Module]] = {}
        self._making = threading.Lock()

    def of(self, module: nn.Module) -> nn.Module:
        """Find what to compute with: the copy where nothing is learned or watched, else the module itself.

        Args:
            module: some layers; they are not changed.

        Returns:
            A module that computes the same, up to rounding.
        """
        if _AS_DEFINED.get() or (torch.is_grad_enabled() and not is_held()) or any(map(_is_watched, module.modules())):
            return module
        tensors = list(itertools.chain(module.parameters(), module.buffers()))
        if not tensors or any(t.is_inference() for t in tensors):  # these do not count their changes
            return module
        versions, product = [t._version for t in tensors], product_type(tensors[0])
        with self._making:
            kept = self._kept.get(product)
            if kept is None or versions != kept[1] or not all(map(_is, tensors, kept[0])):
                kept = self._kept[product] = tensors, versions, _folded(module, product)
        return kept[2]

    def __deepcopy__(self, memo: object) -> Folded:
        return Folded()  # the copy of the module is another one

    def __reduce__(self) -> tuple[type[Folded], tuple[()]]:
        return Folded, ()


# Not a flag of the network: what one thread looks at must not change the numbers of another, not even in rounding.
_AS_DEFINED: ContextVar[bool] = ContextVar("coda_as_defined", default=False)


@contextmanager
def as_defined(wanted: bool = True) -> Iterator[None]:
    """Let networks compute with their layers themselves: then their logits are those of passes that look at layers.

    In bfloat16 they would be a little apart, and the terms of a record of both would not add up.

    Args:
        wanted: whether this is done at all.

    Yields:
        Nothing.
    """
    token = _AS_DEFINED.set(wanted or _AS_DEFINED.get())
    try:
        yield
    finally:
        _AS_DEFINED.reset(token)


@contextmanager
def watching(note: Callable[[nn.Module, Any], None]) -> Iterator[None]:
    """Look at what modules give in this thread. No module is changed, and other threads compute as they always do.

    Args:
        note: is called with every module that has been computed, whosever it is, and with what it gave.

    Yields:
        Nothing.
    """
    caller = threading.get_ident()

    def look(module: nn.Module, _: Any, y: Any) -> None:
        if threading.get_ident() == caller:
            note(module, y)

    handle = register_module_forward_hook(look)  # of the modules of all threads
    try:
        with as_defined():
            yield
    finally:
        handle.remove()


def _is(a: Tensor, b: Tensor) -> bool:
    return a is b


def _is_watched(layer: nn.Module) -> bool:
    """Whether a layer learns from what it sees, or somebody looks at what it takes and gives."""
    return bool(layer.training or layer._forward_hooks or layer._forward_pre_hooks)


@torch.inference_mode(False)
@torch.no_grad()
def _folded(module: nn.Module, product: torch.dtype) -> nn.Module:
    """A copy whose weights hold what is constant, in the type ``product``; all other tensors are the module's own."""
    same = {id(t): t for t in itertools.chain(module.parameters(), module.buffers())}  # tensors are not copied
    whole = copy.deepcopy(module, same)
    factors: dict[nn.Module, Tensor] = {}
    for owner in list(whole.modules()):
        if hasattr(owner, "take_scale") and all(map(_takes_factors, _convolutions(owner))):
            layer, factor = owner.take_scale()  # type: ignore[operator]
            factors[layer] = factor
        children = list(owner.named_children()) if _is_in_order(owner) else []
        for (_, layer), (name, behind) in itertools.pairwise(children):
            if isinstance(layer, nn.Conv2d) and isinstance(behind, nn.BatchNorm2d):
                _fold(layer, behind, product)
                setattr(owner, name, nn.Identity())
            elif isinstance(layer, BcosConv2d) and isinstance(behind, UncentredBatchNorm2d) and _takes_factors(layer):
                factors[layer] = behind.factors()
                setattr(owner, name, nn.Identity())
            elif isinstance(layer, _MAKES_NEW) and isinstance(behind, nn.ReLU | nn.ReLU6):
                behind.inplace = True  # nothing else sees what it takes
        _clip(owner, children)
    for layer in whole.modules():
        if isinstance(layer, BcosConv2d | BcosLinear):
            _settle(layer, factors.get(layer), layer.linear.weight.dtype if layer.full else product)
    return whole


_MAKES_NEW = (nn.Conv2d, BcosConv2d, nn.BatchNorm2d, UncentredBatchNorm2d, nn.ReLU, nn.ReLU6)


def _is_in_order(owner: nn.Module) -> bool:
    """Whether what is defined right behind a layer takes its output."""
    known = type(owner).__module__.startswith(("coda_cli.", "torchvision."))
    return known or type(owner).forward is nn.Sequential.forward


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d, product: torch.dtype) -> None:
    """Make a convolution compute what it and the batch norm behind it do in evaluation mode."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    factor = (norm.running_var.double() + norm.eps).rsqrt()
    shift = -norm.running_mean.double() * factor
    if norm.affine:
        factor, shift = factor * norm.weight.double(), shift * norm.weight.double() + norm.bias.double()
    if conv.bias is not None:
        shift = shift + conv.bias.double() * factor
    of_filters = of_bias = product
    if isinstance(conv, SameConv2d):  # its bias can be of another type, and keeps all its bits
        of_bias = conv.weight.dtype
        of_filters = of_bias if conv.full else product
    conv.weight = _constant(conv.weight.double() * factor[:, None, None, None], of_filters)
    conv.bias = _constant(shift, of_bias)


def _convolutions(owner: nn.Module) -> list[BcosConv2d]:
    return [layer for layer in owner.modules() if isinstance(layer, BcosConv2d)]


def _clip(owner: nn.Module, children: Sequence[tuple[str, nn.Module]]) -> None:
    """Let convolutions whose batch norm is folded do what the ReLU6 behind that does; see ``SameConv2d.clips``."""
    for (_, conv), (_, norm), (name, gate) in zip(children, children[1:], children[2:], strict=False):
        if isinstance(conv, SameConv2d) and isinstance(norm, nn.BatchNorm2d) and isinstance(gate, nn.ReLU6):
            conv.clips = True
            setattr(owner, name, nn.Identity())


def _takes_factors(layer: BcosConv2d) -> bool:
    """Whether filters can be scaled in the place of outputs: of these B = 2 is a power, and MaxOut the largest."""
    return layer.max_out == 1 and layer.b in (1, 2)


def _settle(layer: BcosConv2d | BcosLinear, factors: Tensor | None, product: torch.dtype) -> None:
    """Give a B-cos layer the filters that it computes with: a |a| / n times s is that of filters times the root of s.

    Args:
        layer: the layer, changed.
        factors: what its outputs are multiplied by behind it, [O].
        product: the type of its filters.
    """
    w = layer.filters().double()
    if isinstance(layer, BcosConv2d) and layer.b in (1, 2):
        s = (w.new_ones(1) if factors is None else factors.double()) / layer.scale
        w, layer.scale = w * (s.sign() * s.abs() ** (1 / layer.b))[:, None, None, None], 1.0
    if isinstance(layer, BcosConv2d) and layer.max_out == 2 and layer.linear.groups == 1:
        w, layer.halved = halves(w), True
    layer.linear.weight, layer.unit = _constant(w, product), False


def _constant(t: Tensor, product: torch.dtype) -> nn.Parameter:
    """What is not learned; filters [O, C, kh, kw] in the order that convolutions read, and give their outputs in."""
    order = torch.channels_last if t.ndim == 4 else torch.contiguous_format
    return nn.Parameter(t.to(product).contiguous(memory_format=order), requires_grad=False)
