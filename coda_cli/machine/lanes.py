"""Batches on CPUs: a part of the batch for every core, where torch alone splits every operation over all cores.

A lane is a thread that computes with one core. Cores that do not wait for each other after every operation are faster,
and when other work of the program takes a core for a moment, the other cores go on.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from contextvars import copy_context
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from coda_cli.machine import budget
from coda_cli.machine.ahead import threads

T = TypeVar("T")


def parts(x: Tensor) -> tuple[Tensor, ...]:
    """Divide a batch into parts for ``each``, one for every thread that torch may use.

    It stays whole where a thread would be left without a part, and on other devices than CPUs.

    Args:
        x: [B, ...].

    Returns:
        The parts, in order.
    """
    return torch.tensor_split(x, torch.get_num_threads()) if x.device.type == "cpu" and divides(len(x)) else (x,)


def divides(count: int) -> bool:
    """Whether a batch has a part for every thread; a smaller one is computed by all of them together.

    Args:
        count: how many inputs it has.

    Returns:
        The answer.
    """
    return count >= torch.get_num_threads()


def prepare() -> None:
    """Make the lanes, before threads are started that compute batches at the same time.

    Making them changes torch's number of threads for a moment, and a thread that asks for it just then keeps it.
    """
    if (threads := torch.get_num_threads()) > 1:
        _pool(threads)


def batch_pool(device: str) -> AbstractContextManager[ThreadPoolExecutor]:
    """A thread for each of the batches that are computed at a time.

    Args:
        device: the kind of device, "cpu", "cuda" or "mps".

    Returns:
        The pool, for the length of a block.
    """
    batches = budget.batches_at_once(device)
    if batches > 1:
        prepare()
    return threads(batches)


def each(function: Callable[..., T], *sequences: Sequence[Any]) -> list[T]:
    """Call a function of the first members of all sequences, of the second, and so on, all at the same time.

    Gradient mode, inference mode, autocast and context variables are the caller's. An exception of one is raised when
    all have ended.

    Args:
        function: takes one member of each sequence.
        sequences: of the same length, at least 1.

    Returns:
        The results, in order.
    """
    calls = list(zip(*sequences, strict=True))
    if len(calls) == 1:
        return [function(*calls[0])]
    grad, inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    kind, enabled = torch.get_autocast_dtype("cpu"), torch.is_autocast_enabled("cpu")

    def call(arguments: tuple[Any, ...]) -> T:
        with torch.inference_mode(inference), torch.set_grad_enabled(grad), torch.autocast("cpu", kind, enabled):
            return function(*arguments)

    pool = _pool(max(len(calls), torch.get_num_threads()))
    futures = [pool.submit(copy_context().run, call, arguments) for arguments in calls]
    wait(futures)
    return [future.result() for future in futures]


@contextlib.contextmanager
def one_thread_if_busy() -> Iterator[bool]:
    """Let torch compute on one thread in a block where other programs have the cores already.

    Threads that share an operation wait for each other after it, and for a core that another program has. Measured with
    14 programs on two cores: a step of training takes 27 to 40 s on two threads, 7 to 8 s of it processor time, and 3
    to 4 s on one thread, 1 s of it processor time. OpenMP's passive waiting hardly helps: 24 to 34 s.

    Yields:
        Whether it is so. Where OMP_NUM_THREADS says how many threads there are, it counts.
    """
    usual = torch.get_num_threads()
    busy = usual > 1 and "OMP_NUM_THREADS" not in os.environ and _is_busy()
    if busy:
        torch.set_num_threads(1)
    try:
        yield busy
    finally:
        if busy:
            torch.set_num_threads(usual)


def _is_busy() -> bool:
    """Whether other programs have all cores, each time that one looks: one that has just ended does not count."""
    cores = os.cpu_count() or 1
    for look in range(budget.LOOKS):
        time.sleep(budget.BETWEEN_LOOKS if look else 0.0)
        if _others_running() < cores:
            return False
    return True


def _others_running() -> int:
    """How many other threads of the machine compute or wait for a core; 0 where the system does not say."""
    try:
        return max(0, int(Path("/proc/loadavg").read_text().split()[3].split("/")[0]) - 1)
    except (OSError, ValueError, IndexError):
        return 0


_POOLS: dict[int, ThreadPoolExecutor] = {}
_MAKING = threading.Lock()


def _pool(lanes: int) -> ThreadPoolExecutor:
    """``lanes`` threads that compute with one thread of torch's each; made once, and kept."""
    with _MAKING:
        if lanes not in _POOLS:
            _POOLS[lanes] = _start(lanes)
        return _POOLS[lanes]


def _start(lanes: int) -> ThreadPoolExecutor:
    """Start ``lanes`` threads that compute with one thread of torch's each."""
    usual, all_there = torch.get_num_threads(), threading.Barrier(lanes + 1)

    def prepare() -> None:
        torch.get_num_threads()  # gives a thread the number of the process; a number that is set before is lost
        torch.set_num_threads(1)
        all_there.wait()

    pool = ThreadPoolExecutor(lanes, "lane", initializer=prepare)
    try:
        with contextlib.ExitStack() as failing:  # Ctrl-C, or no more threads to be had: no thread may wait for ever
            failing.callback(all_there.abort)
            for _ in range(lanes):
                pool.submit(int)
            all_there.wait()
            failing.pop_all()
    finally:
        torch.set_num_threads(usual)  # what the lanes set, threads that start later would inherit
    return pool
