"""The networks that a visitor may choose: each is loaded when it is first asked for, and few are kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Lock

from coda_cli.checkpoints.loading import Net
from coda_cli.errors import UsageError
from coda_cli.machine import budget


class Networks:
    """Networks by name. Any thread may ask for one.

    Args:
        names: what may be asked for, in the order in which it is shown.
        load: loads the network of a name.
        most: how many are kept; beyond that, the one that was not used for longest is let go.

    Attributes:
        names: the same.
    """

    def __init__(self, names: Sequence[str], load: Callable[[str], Net], most: int = budget.DEMO_NETWORKS) -> None:
        self.names = tuple(names)
        self._load, self._most, self._kept, self._alone = load, most, dict[str, Net](), Lock()

    def __getitem__(self, name: str) -> Net:
        """The network of a name. Raises CodaError where there is none, or where it cannot be loaded."""
        if name not in self.names:  # what a browser sends need not be what the page offers
            raise UsageError("there is no such network here; choose one of the list")
        with self._alone:
            self._kept[name] = net = self._kept.pop(name, None) or self._load(name)  # now the last one
            while len(self._kept) > self._most:
                del self._kept[next(iter(self._kept))]
        return net
