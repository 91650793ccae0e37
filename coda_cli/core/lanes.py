"""Batches on CPUs: a part of the batch for every core, where torch alone splits every operation over all cores.

Cores that do not wait for each other after every operation are faster, by a quarter to a third on two of them, and a
core that other work of the program borrows for a moment holds up nobody else.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def parts(x: Tensor) -> tuple[Tensor, ...]:
    """x [B, ...] in parts for ``each``: as many as torch may use threads and there are inputs; 1 on other devices."""
    return torch.tensor_split(x, max(1, min(len(x), torch.get_num_threads()))) if x.device.type == "cpu" else (x,)


def each(function: Callable[..., T], *sequences: Sequence[Any]) -> list[T]:
    """``function`` of the first members of all sequences, of the second, ..., at the same time; the results in order.

    Gradient mode, inference mode and autocast are the caller's. An exception of one is raised when all have ended.
    """
    calls = list(zip(*sequences, strict=True))
    if len(calls) == 1:
        return [function(*calls[0])]
    grad, inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    kind, enabled = torch.get_autocast_dtype("cpu"), torch.is_autocast_enabled("cpu")

    def call(arguments: tuple[Any, ...]) -> T:
        with torch.inference_mode(inference), torch.set_grad_enabled(grad), torch.autocast("cpu", kind, enabled):
            return function(*arguments)

    pool = _pool(len(calls), max(1, torch.get_num_threads() // len(calls)))
    futures = [pool.submit(call, arguments) for arguments in calls]
    wait(futures)
    return [future.result() for future in futures]


@cache
def _pool(lanes: int, threads: int) -> ThreadPoolExecutor:
    """``lanes`` threads that each compute with so many threads of torch's own."""
    usual = torch.get_num_threads()
    all_there = threading.Barrier(lanes + 1)

    def prepare() -> None:
        torch.get_num_threads()  # a thread's first question sets its number to everybody's; only then does its own stay
        torch.set_num_threads(threads)
        all_there.wait()

    pool = ThreadPoolExecutor(lanes, "lane", initializer=prepare)
    for _ in range(lanes):
        pool.submit(int)
    all_there.wait()
    torch.set_num_threads(usual)  # what the lanes set, threads that start later would inherit
    return pool
