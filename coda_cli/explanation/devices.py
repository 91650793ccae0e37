"""Explain on several devices of this machine: a process for each of them, with its share of the inputs.

The shares are made by the names of the results, as shards are, so two processes never write the same file. A process
that ends before its time leaves what it has written; the same run, made again, finds that.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from coda_cli.errors import STOPPING
from coda_cli.explanation.naming import Naming
from coda_cli.explanation.shards import hash_of
from coda_cli.explanation.worker import Job, Worker
from coda_cli.explanation.writer import Outcome
from coda_cli.media.sources import Item

LAST_WORDS = 10.0  # seconds that a process has to finish what it is writing when a run is stopped


@dataclass
class _Child:
    """The process of a device.

    Attributes:
        device: its name.
        process: the process.
        left: how many of its inputs have no outcome yet.
    """

    device: str
    process: BaseProcess
    left: int


def explain_on_devices(
    job: Job,
    devices: Sequence[str],
    items: Sequence[Item],
    *,
    shards: int = 1,
    on_lost: Callable[[str, int], None],
) -> Generator[Outcome, None, None]:
    """Explain inputs and write their files, as ``explain_items`` does, on several devices at once.

    Args:
        job: what is to be done; ``explanation.run.prepare_run`` has said that it can be.
        devices: their names, one for each process.
        items: the inputs.
        shards: of how many the inputs are one: what these have in common must not decide the device.
        on_lost: hears why a process ended before its time, and how many of its inputs have no outcome.

    Yields:
        An outcome for each input, in the order in which they are done; none for those of a process that was lost.

    Raises:
        CodaError: a device cannot be used, or the network cannot be loaded on it.
    """
    children = dict[Connection, _Child]()
    try:
        for device, share in zip(devices, shares(items, job.output.naming, len(devices), shards), strict=True):
            if share:
                connection, child = _start(replace(job, device=device), share)
                children[connection] = child
        while children:
            for ready in wait([*children]):
                assert isinstance(ready, Connection)
                yield from _received(ready, children, on_lost)
    finally:
        for connection in children:
            connection.close()  # it begins no further input then
        for child in children.values():
            child.process.join(LAST_WORDS)
            if child.process.is_alive():
                child.process.kill()


def shares(items: Sequence[Item], naming: Naming, count: int, shards: int = 1) -> list[list[Item]]:
    """Share inputs out by the names of their results.

    Args:
        items: the inputs.
        naming: names their outputs.
        count: of the shares.
        shards: see ``explain_on_devices``.

    Returns:
        The inputs of each share, in order.
    """
    found: list[list[Item]] = [[] for _ in range(count)]
    for item in items:
        found[hash_of(item, naming) // shards % count].append(item)
    return found


def _start(job: Job, items: Sequence[Item]) -> tuple[Connection, _Child]:
    """Start the process of a device."""
    context = get_context("spawn")
    own, its = context.Pipe()
    process = context.Process(target=_work, args=(its, job, items), daemon=True)
    with _held_back():
        process.start()
    its.close()
    return own, _Child(job.device, process, len(items))


@contextmanager
def _held_back() -> Iterator[None]:
    """Start a process without the signals that end a run: Ctrl-C goes to all, and this one ends the others."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # else the first start does it, and lets these signals through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _received(
    connection: Connection, children: dict[Connection, _Child], on_lost: Callable[[str, int], None]
) -> Iterator[Outcome]:
    """What a process has sent: outcomes, None at its end, or what was raised there."""
    child = children[connection]
    try:
        sent = connection.recv()
    except (EOFError, OSError):
        del children[connection]
        child.process.join()
        code = child.process.exitcode or 0
        why = f"by signal {-code}" if code < 0 else f"with exit code {code}"
        on_lost(
            f"{child.device}: its process was ended {why}; pictures that it had and did not explain: {child.left}; the "
            "same command goes on from here",
            child.left,
        )
        return
    if isinstance(sent, BaseException):
        raise sent
    if sent is None:
        del children[connection]
        child.process.join()
        return
    child.left -= len(sent)
    yield from sent


def _work(connection: Connection, job: Job, items: Sequence[Item]) -> None:
    """What the process of a device does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.getLogger("coda_cli").addHandler(logging.NullHandler())  # the process that asks has said it already
    worker = Worker(job)
    threading.Thread(target=_listen, args=(connection, worker), daemon=True).start()
    with suppress(BrokenPipeError, ConnectionError):  # nobody listens any more
        try:
            worker.load_network()
            for outcomes in worker.explain(items):
                connection.send(outcomes)
            connection.send(None)
        except (BrokenPipeError, ConnectionError):
            raise
        except Exception as error:
            connection.send(error)


def _listen(connection: Connection, worker: Worker) -> None:
    """Stop a worker when the process that asks is gone, or wants no more."""
    with suppress(EOFError, OSError):
        connection.recv()
    worker.stop()
