"""A held forward pass of an ordinary network from one of its layers up: its cut.

The modules are watched while they compute. At the cut the layer's output is taken out of the graph and put back as a
leaf, so that gradients end there; what the layers above it add is reported (see ``piecewise``). Only what lies above
the cut keeps its graph.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from coda_cli.core.abilities import is_dynamic_linear, is_ordinary
from coda_cli.core.graph import node_of, reached, shortest_way
from coda_cli.core.held import held, reported
from coda_cli.core.piecewise import Linearised

AROUND = "backbone."  # where the layers of a user's network, or of the authors', are inside coda's
INPUT = "input"  # the word for a cut at the input, where a network would be cut elsewhere


class PassFrom(NamedTuple):
    """A forward pass of which gradients can be taken down to one layer.

    Attributes:
        leaf: what gradients end at, [B, C, h, w]: the input or the output of the cut.
        logits: [B, classes], with their graph.
        layers: names and outputs of the layers above, in the order of the computation, where they were asked for.
    """

    leaf: Tensor
    logits: Tensor
    layers: list[tuple[str, Tensor]]


def watched(module: nn.Module) -> nn.Module:
    """Let a network tell which of its layers is being computed, while ``pass_from`` asks for it.

    Args:
        module: the network; it gets hooks, which do nothing otherwise.

    Returns:
        The same network.
    """
    for name, part in module.named_modules():
        part.register_forward_pre_hook(partial(_enter, name, type(part).__name__))
        part.register_forward_hook(partial(_leave, name))
    return module


def watched_copy(module: nn.Module) -> nn.Module:
    """The same for a network of somebody else's, which must not be changed: a copy without its own memory.

    Args:
        module: any network.

    Returns:
        A network of the same tensors, of which no gradients are taken, with hooks of its own.
    """
    shared: dict[int, Any] = {}
    for tensor in chain(module.parameters(), module.buffers()):
        alone = tensor.detach()
        shared[id(tensor)] = nn.Parameter(alone, False) if isinstance(tensor, nn.Parameter) else alone
    return watched(copy.deepcopy(module, shared))


def pass_from(module: nn.Module, x: Tensor, cut: str | None, *, layers: bool = False) -> PassFrom:
    """Compute the logits of an ordinary network so that gradients can be taken down to one layer.

    It is called in held mode, which gets the constants of all that lies above.

    Args:
        module: the network, ``watched``.
        x: its input, float [B, C, H, W].
        cut: the layer's name; None or "input" is the input.
        layers: also keep the outputs of all layers.

    Returns:
        The pass.

    Raises:
        ValueError: there is no such layer, it gives no map, or no gradient passes from the logits down to it.
    """
    to = reported()
    assert to is not None
    cut = None if cut == INPUT else cut
    with torch.enable_grad(), _watching(cut, layers) as seen:
        if cut is None:
            x = seen.leave_out(x)
        with Linearised(to, seen.layer, seen.kind):
            logits: Tensor = module(x)
    if seen.leaf is None:
        raise ValueError(f"no layer is called {cut!r}, or it has no part in the logits")
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        raise ValueError("the network gives no tensor of logits [B, classes]")
    if not logits.requires_grad:
        where = "the input" if cut is None else cut
        raise ValueError(f"nothing linear leads from {where} to the logits; does the network end with a softmax?")
    return PassFrom(seen.leaf, logits, seen.whole_layers())


class Uncut(nn.Module):
    """A network of somebody else's, with what ``decompose`` asks an ordinary network for.

    Args:
        model: any network; it is not changed.
        cut: the layer at whose output its logits are split; None is its input.
    """

    def __init__(self, model: nn.Module, cut: str | None) -> None:
        super().__init__()
        self.model, self.cut = watched_copy(model), cut

    def pass_from(self, x: Tensor, cut: str | None, *, layers: bool = False) -> PassFrom:
        """Compute logits so that gradients can be taken down to a layer.

        Args:
            x: what the network takes.
            cut: the layer, None for ``x``.
            layers: also keep the outputs of all layers.

        Returns:
            The pass.
        """
        return pass_from(self.model, x, cut, layers=layers)


def with_cut(model: nn.Module, cut: str | None, x: Tensor) -> nn.Module:
    """Give a network to ``decompose``, with the cut that was asked for.

    Args:
        model: any network.
        cut: the layer, or "input"; None for what the network says itself.
        x: what the network takes, [B, C, H, W]; a cut that is asked for is tried with the first input.

    Returns:
        The network itself where it needs nothing.

    Raises:
        ValueError: the network cannot be cut there.
    """
    if is_dynamic_linear(model):
        if cut is not None:
            raise ValueError(f"{type(model).__name__} is dynamic linear by construction; it is not cut at {cut!r}")
        return model
    if not is_ordinary(model):
        model = Uncut(model, cut)
    elif cut is None:
        return model
    if cut is not None and cut != INPUT:
        meant = layer_named(cut, names := map_layers(model, x[:1]))
        if meant is None:
            raise ValueError(f"the network cannot be cut at {cut!r}; {near(cut, names)}")
        cut = meant
    other = copy.copy(model)  # of the same modules
    other.cut = cut  # type: ignore[assignment]
    return other


def map_layers(model: nn.Module, x: Tensor) -> list[str]:
    """List the layers that a network can be cut at: those that give maps and that the whole logit passes through.

    One branch of a residual block is none of them: what passes it by would look like a constant.

    Args:
        model: an ordinary network.
        x: an input [1, C, H, W].

    Returns:
        Names, from the input up.
    """
    with held():
        found: PassFrom = model.pass_from(x, INPUT, layers=True)  # type: ignore[operator]
    start, bottom = node_of(found.logits), node_of(found.leaf)
    way = shortest_way(start, bottom)
    maps = [(name, node) for name, y in found.layers if y.ndim == 4 and (node := node_of(y)) in way]
    return [name for name, node in maps if bottom not in reached(start, without=node)]


def layer_named(text: str, names: Sequence[str]) -> str | None:
    """Find the layer that is meant, whether or not it is said that it is inside coda's network around the user's.

    Args:
        text: the layer's name: ``layer4``, as the user's network has it, or ``backbone.layer4``, as coda's has.
        names: the layers there are.

    Returns:
        Its name among these; None where it is none of them.
    """
    return next((name for name in (text, AROUND + text, text.removeprefix(AROUND)) if name in names), None)


def near(name: str, names: Sequence[str]) -> str:
    """Suggest layers in the place of one that a network has not.

    Args:
        name: what was asked for.
        names: the layers there are.

    Returns:
        The end of a message.
    """
    close = difflib.get_close_matches(name, names, n=3) or list(names[-3:])
    return f"it can be cut at {', '.join(close)}, or input; --layer all shows all {len(names)} layers"


# ---- the layers while they compute -----------------------------------------------------------------------------------


class _Seen:
    """What is seen of one forward pass."""

    def __init__(self, cut: str | None, keep: bool) -> None:
        self.cut, self.keep = cut, keep
        self.leaf: Tensor | None = None
        self.stack: list[tuple[str, str]] = []  # name and class
        self.outputs: dict[int, tuple[str, Tensor, int]] = {}  # name, output and its version, by the output's identity

    def layer(self) -> str:
        """The name of the layer that is being computed."""
        return self.stack[-1][0] if self.stack else ""

    def kind(self) -> str:
        """The name of its class."""
        return self.stack[-1][1] if self.stack else ""

    def leave_out(self, y: Tensor) -> Tensor:
        """Make a leaf of an output; what follows gets a copy, since it may change it in place."""
        last = is_channels_last(y)
        self.leaf = (y.permute(0, 3, 1, 2) if last else y).detach().requires_grad_()
        return self.leaf.permute(0, 2, 3, 1).clone() if last else self.leaf.clone()

    def left(self, name: str, y: Any) -> Any:
        """Take note that a layer has ended with an output; give what follows its output, or the leaf's copy."""
        self.stack.pop()
        if name == self.cut:
            if not isinstance(y, Tensor) or y.ndim != 4:
                raise ValueError(f"{name}: gives no map [B, C, h, w], so the network cannot be cut there")
            y = self.leave_out(y)
        if self.keep and name and isinstance(y, Tensor) and y.requires_grad and y.ndim in (3, 4):
            self.outputs.pop(id(y), None)  # the outer layer's name is the better known one: layer4, not layer4.2.relu
            self.outputs[id(y)] = name, y, y._version
        return y

    def whole_layers(self) -> list[tuple[str, Tensor]]:
        """Names and outputs, but for those that a later layer has changed in place."""
        return [(name, y) for name, y, version in self.outputs.values() if y._version == version]


_SEEN: ContextVar[_Seen | None] = ContextVar("coda_seen", default=None)


@contextmanager
def _watching(cut: str | None, keep: bool) -> Iterator[_Seen]:
    seen = _Seen(cut, keep)
    token = _SEEN.set(seen)
    try:
        yield seen
    finally:
        _SEEN.reset(token)


def _enter(name: str, kind: str, *_: Any) -> None:
    if (seen := _SEEN.get()) is not None:
        seen.stack.append((name, kind))


def _leave(name: str, _module: nn.Module, _args: Any, y: Any) -> Any:
    return y if (seen := _SEEN.get()) is None else seen.left(name, y)


def is_channels_last(y: Tensor) -> bool:
    """Whether a map is [B, h, w, C], as Swin transformers have it, and not [B, C, h, w].

    Args:
        y: an output of four dimensions.

    Returns:
        The answer, by its shape: maps of squares have two equal sides.
    """
    _, a, b, c = y.shape
    return a == b != c
