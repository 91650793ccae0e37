"""The held mode: inside it, dynamic-linear layers are differentiated as the linear maps they are for this input.

A dynamic-linear layer computes ``y = W(x) x``. Its ordinary gradient also differentiates ``W(x)``; an exact
decomposition must not. Inside ``with held():`` every layer of this package treats the dynamic quantities it computed
(weights, norms) as constants, so that the gradient of a logit is the network's dynamic weight row ``W(x)``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

# A context variable and not a flag inside the modules: the model is not modified, an exception cannot leave the mode
# switched on, nesting restores what was there, and threads do not see each other's mode. It holds what was added on the
# way that comes from no pixel.
_HELD: ContextVar[list[Tensor] | None] = ContextVar("coda_held", default=None)


@contextmanager
def held() -> Iterator[list[Tensor]]:
    """Hold dynamic weights constant for gradients taken of anything computed inside the block.

    Yields:
        The tensors [B, ...] that layers add to their input inside the block (see ``add_constant``), as they come.
    """
    added: list[Tensor] = []
    token = _HELD.set(added)
    try:
        yield added
    finally:
        _HELD.reset(token)


def is_held() -> bool:
    """Whether the caller runs inside ``with held():``.

    Returns:
        The answer, for this thread or asynchronous task.
    """
    return _HELD.get() is not None


def hold(t: Tensor) -> Tensor:
    """Take something as a constant in held mode: for what is a number once the input is known.

    Args:
        t: any tensor.

    Returns:
        The same numbers; in held mode no gradient passes through them.
    """
    return t.detach() if is_held() else t


def add_constant(x: Tensor, constant: Tensor) -> Tensor:
    """Add a tensor that is no function of the input: a positional embedding.

    What it adds to a logit belongs to no pixel. In held mode a copy of it is kept that gradients can be taken of, and
    times its gradient it is exactly that share.

    Args:
        x: [B, ...].
        constant: [...], the same for all inputs.

    Returns:
        The sum, [B, ...].
    """
    if (added := _HELD.get()) is None:
        return x + constant
    added.append(constant.expand_as(x).clone().requires_grad_())
    return x + added[-1]
