"""Work that overlaps with its consumer, or its producer, in threads, with a bound on how much waits.

for batch, results in ahead(pool, calls, depth):       # computed before it is asked for
    for result in results:
        yield from behind.add(partial(write, result))  # written while the next batch is computed
yield from behind.rest()
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar, cast

S = TypeVar("S")
T = TypeVar("T")


@contextmanager
def threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of threads for the length of a block.

    When the block ends, however it ends, what runs comes to its end and what waits is dropped.

    Args:
        count: how many threads.

    Yields:
        The pool.
    """
    pool = ThreadPoolExecutor(count)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def ahead(
    pool: ThreadPoolExecutor, calls: Iterable[tuple[S, Callable[[], T]]], depth: int,
    *, alone: Callable[[S], bool] = lambda _: False,
) -> Generator[tuple[S, T], None, None]:  # fmt: skip
    """Make calls before their results are asked for.

    Args:
        pool: the threads that make them.
        calls: what each call is about, and the call. They are taken one after the other, as there is room.
        depth: how many calls may be made before the result of the first is asked for.
        alone: whether nothing else may run beside a call, by what it is about.

    Yields:
        What each call is about, and its result, in order.

    Raises:
        Exception: whatever a call raises, when its result is asked for.
    """
    waiting: deque[tuple[S, Future[T]]] = deque()
    one_alone = False
    try:
        for about, call in calls:
            if alone(about) or one_alone:
                wait([future for _, future in waiting])
            one_alone = alone(about)
            waiting.append((about, pool.submit(call)))
            if len(waiting) > depth:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
    finally:
        for _, future in waiting:
            future.cancel()


def in_time(call: Callable[[], T], seconds: float) -> T:
    """Make a call that may wait for something outside for ever, such as a server.

    Args:
        call: what is called, in a thread of its own; one that is late goes on there, and its result is lost.
        seconds: how long it may take.

    Returns:
        What the call gives.

    Raises:
        TimeoutError: it took longer.
        BaseException: whatever the call raises.
    """
    results: SimpleQueue[tuple[T | None, BaseException | None]] = SimpleQueue()

    def make() -> None:
        try:
            results.put((call(), None))
        except BaseException as error:  # it belongs to the thread that waits
            results.put((None, error))

    thread = threading.Thread(target=make, name="in time", daemon=True)
    thread.start()
    try:
        result, error = results.get(timeout=max(0.0, seconds))
    except Empty:
        raise TimeoutError(f"no result in {seconds:g} s") from None
    thread.join()  # it has nothing left to do, and none of it is left behind
    if error is not None:
        raise error
    return cast("T", result)


class Behind(Generic[T]):
    """Calls that are made behind the back of who asks for them; results come in order, as they are there.

    Args:
        pool: the threads that make them.
        most: how many results may wait for others to be done, at most.
    """

    def __init__(self, pool: ThreadPoolExecutor, most: int) -> None:
        self._pool, self._most, self._waiting = pool, most, deque[Future[T]]()

    def add(self, call: Callable[[], T]) -> Iterator[T]:
        """Ask for one more call.

        Args:
            call: what is called.

        Yields:
            Results that are there; where too many wait, the first of them once it is.

        Raises:
            Exception: whatever a call raises.
        """
        self._waiting.append(self._pool.submit(call))
        while len(self._waiting) > self._most or (self._waiting and self._waiting[0].done()):
            yield self._waiting.popleft().result()

    def rest(self) -> Iterator[T]:
        """Wait for the end of all calls.

        Yields:
            The results that have not come yet.

        Raises:
            Exception: whatever a call raises.
        """
        while self._waiting:
            yield self._waiting.popleft().result()
