"""What the rules for the functions of torch have in common: to whom they report what a layer adds, or holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from coda_cli.core.held import Held


class Reporting(TorchFunctionMode):
    """Watches the functions of torch, and reports what the layer that is being computed adds, or holds.

    Args:
        reported: where constants and held gates are reported.
        layer: tells the name of the layer that is being computed.
        kind: tells the name of its class.
    """

    def __init__(self, reported: Held, layer: Callable[[], str], kind: Callable[[], str]) -> None:
        super().__init__()
        self.reported, self.layer, self.kind = reported, layer, kind

    def note_unknown(self, what: str) -> None:
        """Report that the layer that is being computed does something of which nothing says that it is linear.

        Args:
            what: the function's name, or what it does.
        """
        self.reported.unknown.add(f"{what} in {kind}" if (kind := self.kind()) else what)

    def note(self, y: Tensor, value: Tensor, kind: str) -> None:
        """Report what the layer that is being computed has added to its output.

        Args:
            y: the output.
            value: what was added.
            kind: what it is.
        """
        self.reported.note(y, value, kind, self.layer())

    def hold_gate(self) -> None:
        """Report that the layer that is being computed has a gate, which is held."""
        self.reported.gates.add(self.layer())


def live(values: Any) -> bool:
    """Whether a gradient can pass through one of the values, or of the tensors in a list of them.

    Args:
        values: the arguments of a function, of any kind.

    Returns:
        The answer.
    """
    for value in values:
        if isinstance(value, Tensor):
            if value.requires_grad:
                return True
        elif isinstance(value, list | tuple) and live(value):
            return True
    return False
