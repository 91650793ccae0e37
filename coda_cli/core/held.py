"""The held mode: inside it, dynamic-linear layers are differentiated as the linear maps they are for this input.

A dynamic-linear layer computes ``y = W(x) x``. Its ordinary gradient also differentiates ``W(x)``; an exact
decomposition must not. Inside ``with held():`` every layer of this package treats the dynamic quantities it computed
(weights, norms) as constants, so that the gradient of a logit is the network's dynamic weight row ``W(x)``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge


class Constant(NamedTuple):
    """What a layer adds that is no function of the input. Times its gradient it is a share of the logit of no pixel.

    Attributes:
        layer: the layer that adds it.
        kind: what it is: "bias", "batch norm", "saturation", "positional" ...
        edge: the place in the graph where it is added.
        value: what is added, in any shape that fits the layer's output [B, ...].
    """

    layer: str
    kind: str
    edge: GradientEdge
    value: Tensor


@dataclass
class Held:
    """What layers report while they are held.

    Attributes:
        constants: what they added, in the order of the computation.
        gates: layers whose gate was held though no theorem makes it a constant: GELU, attention, layer norm ...
        unknown: functions that were computed as they are, and of which nothing says that they are linear.
    """

    constants: list[Constant] = field(default_factory=list)
    gates: set[str] = field(default_factory=set)
    unknown: set[str] = field(default_factory=set)

    def note(self, y: Tensor, value: Tensor, kind: str, layer: str) -> None:
        """Note what a layer has just added to its output.

        Args:
            y: the output [B, ...]; nothing is noted of one that no gradient passes through.
            value: what was added.
            kind: what it is, a word or two.
            layer: the layer.
        """
        if not y.requires_grad:
            return
        constant = Constant(layer, kind, get_gradient_edge(y), value.detach())
        if self.constants and self.constants[-1].edge.node is constant.edge.node:
            self.constants.pop()  # an addition that ``add_constant`` and ``piecewise`` have both seen
        self.constants.append(constant)


# A context variable and not a flag inside the modules: the model is not modified, an exception cannot leave the mode
# switched on, nesting restores what was there, and threads do not see each other's mode.
_HELD: ContextVar[Held | None] = ContextVar("coda_held", default=None)


@contextmanager
def held() -> Iterator[Held]:
    """Hold dynamic weights constant for gradients taken of anything computed inside the block.

    Yields:
        What the layers inside the block report, as it comes.
    """
    reported = Held()
    token = _HELD.set(reported)
    try:
        yield reported
    finally:
        _HELD.reset(token)


def is_held() -> bool:
    """Whether the caller runs inside ``with held():``.

    Returns:
        The answer, for this thread or asynchronous task.
    """
    return _HELD.get() is not None


def reported() -> Held | None:
    """Where a layer reports what it adds.

    Returns:
        The object that ``held`` gave; None outside the held mode.
    """
    return _HELD.get()


def hold(t: Tensor) -> Tensor:
    """Take something as a constant in held mode: for what is a number once the input is known.

    Args:
        t: any tensor.

    Returns:
        The same numbers; in held mode no gradient passes through them.
    """
    return t.detach() if is_held() else t


def add_constant(x: Tensor, constant: Tensor, layer: str = "embedding") -> Tensor:
    """Add a tensor that is no function of the input: a positional embedding.

    What it adds to a logit belongs to no pixel. In held mode its place is kept, and times the gradient there it is
    exactly that share.

    Args:
        x: [B, ...].
        constant: [...], the same for all inputs.
        layer: the layer that adds it.

    Returns:
        The sum, [B, ...].
    """
    y = x + constant
    if (to := _HELD.get()) is not None:
        to.note(y, constant, "positional", layer)
    return y
