"""The held mode: inside it, dynamic-linear layers are differentiated as the linear maps they are for this input.

A dynamic-linear layer computes ``y = W(x) x``. Its ordinary gradient also differentiates ``W(x)``; an exact
decomposition must not. Inside ``with held():`` every layer of this package treats the dynamic quantities it computed
(weights, norms) as constants, so that the gradient of a logit is the network's dynamic weight row ``W(x)``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

# A context variable and not a flag inside the modules: the model is not modified, an exception cannot leave the mode
# switched on, nesting restores what was there, and threads do not see each other's mode.
_HELD: ContextVar[bool] = ContextVar("coda_held", default=False)


@contextmanager
def held() -> Iterator[None]:
    """Hold dynamic weights constant for gradients taken of anything computed inside the block."""
    token = _HELD.set(True)
    try:
        yield
    finally:
        _HELD.reset(token)


def is_held() -> bool:
    """Whether the caller runs inside ``with held():``."""
    return _HELD.get()
