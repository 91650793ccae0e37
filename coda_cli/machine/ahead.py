"""Work done ahead of its consumer, in threads, with a bound on how far."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")


def ahead(pool: ThreadPoolExecutor, function: Callable[[S], T], items: Iterable[S], depth: int) -> Iterator[T]:
    """Compute a function of all items in threads, before the results are asked for.

    Args:
        pool: the threads.
        function: takes one item.
        items: looked at in the caller's thread.
        depth: how many results may wait.

    Yields:
        The results, in the order of the items; an error of the function is raised in its place.
    """
    waiting: deque[Future[T]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
