"""What a process that explains for another one is told, and does: on a machine of a cluster, or for one device."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

from coda_cli.checkpoints.loading import Net
from coda_cli.checkpoints.reference import Reference
from coda_cli.explanation.request import Request
from coda_cli.explanation.run import explain_items
from coda_cli.explanation.writer import Outcome, Output
from coda_cli.machine import budget
from coda_cli.media.sources import Item


@dataclass(frozen=True)
class Job:
    """What every worker is told once.

    Attributes:
        net: the network.
        request: what is asked.
        output: what is written, and where.
        device: where the network computes, as ``machine.devices.pick`` takes it.
        batch: how many pictures are computed together; decided by their size unless given.
        inputs: inputs that lie where results are written, and are never written over.
    """

    net: Reference
    request: Request
    output: Output
    device: str = "auto"
    batch: int | None = None
    inputs: tuple[Item, ...] = ()


class Worker:
    """Explains what it is given, with a network that is loaded once.

    Args:
        job: what is to be done.
    """

    def __init__(self, job: Job) -> None:
        self._job, self._stopped = job, threading.Event()
        self._net: Net | None = None

    def load_network(self) -> None:
        """Load the network.

        Raises:
            CodaError: it cannot be loaded here, or there is no such device.
        """
        self._net = self._job.net.load(self._job.device, self._job.request.precision)

    def explain(self, items: Sequence[Item]) -> Iterator[list[Outcome]]:
        """Explain inputs.

        Args:
            items: the inputs.

        Yields:
            Their outcomes in order, those of a short time together.
        """
        assert self._net
        job, given = self._job, takewhile(lambda _: not self._stopped.is_set(), items)
        outcomes = explain_items(self._net, given, job.request, job.output, batch=job.batch, inputs=job.inputs)
        group, since = list[Outcome](), time.monotonic()
        for outcome in outcomes:
            group.append(outcome)
            if time.monotonic() - since > budget.TOGETHER:
                yield group
                group, since = [], time.monotonic()
        yield group

    def stop(self) -> None:
        """Begin no further input; what is begun comes to its end."""
        self._stopped.set()
