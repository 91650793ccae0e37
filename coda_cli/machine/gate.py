"""A limit on what several threads use together, such as memory."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from coda_cli.machine import budget


class Gate:
    """Lets threads use no more than so much of something together; who comes first is served first.

    Args:
        most: how much may be in use at a time.
    """

    def __init__(self, most: int) -> None:
        self._most, self._used = most, 0
        self._changed, self._queue = threading.Condition(), deque[object]()

    @contextmanager
    def holding(self, amount: int) -> Iterator[None]:
        """Wait until there is room, and hold it for the length of a block.

        A block must not ask the same gate again: it could wait for itself.

        Args:
            amount: how much is used in the block. More than there is at all is used alone.

        Yields:
            Nothing.
        """
        own = object()
        with self._changed:
            self._queue.append(own)
            try:
                self._changed.wait_for(lambda: self._queue[0] is own and self._has_room(amount))
                self._used += amount
            finally:
                self._queue.remove(own)
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._used -= amount
                self._changed.notify_all()

    def _has_room(self, amount: int) -> bool:
        return not self._used or self._used + amount <= self._most


PICTURES = Gate(budget.PICTURES_BYTES)  # bytes of pictures that are being decoded or drawn, of the whole process
STORED = Gate(budget.STORED_BYTES)  # bytes of pictures that are no files; who holds them may ask for PICTURES
