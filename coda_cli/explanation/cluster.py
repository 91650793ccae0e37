"""Explain on the machines of a cluster, with Ray: each worker is a process that runs ``explain_items`` on a part.

The inputs are listed here, while the workers explain. A worker has the network loaded once, and gives its outcomes back
as they come. What a lost worker had not given back is given to another one, which finds what is written already.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

from coda_cli.errors import STOPPING, CodaError, MediaError, UsageError
from coda_cli.explanation.files import sweep
from coda_cli.explanation.naming import advice_on_names, without_collisions
from coda_cli.explanation.worker import Job, Worker
from coda_cli.explanation.writer import Outcome
from coda_cli.machine import budget
from coda_cli.media.sources import Item

try:
    import ray
except ImportError as error:
    raise UsageError("Ray is not installed: pip install 'coda-cli[ray]'") from error

TRIES = 3  # of a part, or of one input alone, before it counts as the reason why its workers end
LAST_WORDS = 10.0  # seconds that workers have to finish what they are writing when a run is stopped
STORE_BYTES = 100_000_000  # that a cluster of this machine alone keeps for results on their way


def explain_on_cluster(
    job: Job,
    items: Iterable[Item],
    *,
    address: str | None = None,
    on_change: Callable[[str], None] = lambda _: None,
) -> Generator[Outcome, None, None]:
    """Explain inputs and write their files, as ``explain_items`` does, by all machines of a cluster.

    Args:
        job: what is to be done; ``explanation.run.prepare_run`` has said that it can be.
        items: the inputs, which are read as the run goes on.
        address: of the cluster, "auto" for the one that this machine belongs to; None starts one of this machine alone.
        on_change: hears how many workers there are, and when one is lost.

    Yields:
        An outcome for each input, in the order in which they are done.

    Raises:
        UsageError: there is no such cluster, two inputs have one name, or results of that policy cannot be told apart.
        CheckpointError: a worker cannot load the network.
        CodaError: workers end again and again before they have loaded it.
    """
    if job.output.if_exists in ("error", "rename"):
        raise UsageError(
            f"--if-exists {job.output.if_exists} on a cluster: what a lost worker wrote would be in the way of the "
            "next; use match, skip or overwrite"
        )
    with connected(address):
        run = _Run(job, without_collisions(items, job.output.naming.record_path, advice_on_names), on_change)
        try:
            yield from run.outcomes()
        finally:
            run.stop()


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Be connected with a cluster while the block runs; a connection that is there is used, and stays.

    Args:
        address: see ``explain_on_cluster``.

    Yields:
        Nothing.

    Raises:
        UsageError: there is no such cluster.
    """
    if ray.is_initialized():
        yield
        return
    logging.getLogger("ray").setLevel(logging.ERROR)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else a cluster that is started here reports home
    ray._private.worker._worker_logs_enabled = False  # it would print on stdout when a worker is lost
    own = {"include_dashboard": False, "object_store_memory": STORE_BYTES} if address is None else {}
    handlers = {number: signal.getsignal(number) for number in STOPPING}
    try:
        ray.init(address or "local", log_to_driver=False, configure_logging=False, **own)
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UsageError(f"no cluster answers ({reason})", item=f"--ray-address {address}") from error
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():  # Ray puts its own in their place
                signal.signal(number, handler)
    try:
        yield
    finally:
        ray.shutdown()


def room(device: str) -> tuple[dict[str, float], int]:
    """Find out how many workers a cluster has room for now.

    Args:
        device: where the network is to compute: "auto" takes GPUs where the cluster has some.

    Returns:
        What one worker takes, as keywords of Ray, and how many there can be, at least 1.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = [node for node in nodes if node.get("GPU", 0) >= 1]
    if device.startswith("cuda") or (device == "auto" and gpus):
        cores = min((node.get("CPU", 1) // node["GPU"] for node in gpus), default=1)
        return {"num_gpus": 1, "num_cpus": max(1, cores)}, max(1, sum(int(node["GPU"]) for node in gpus))
    cores = min([budget.WORKER_CORES, *(int(node["CPU"]) for node in nodes if node.get("CPU", 0) >= 1)])
    return {"num_cpus": cores}, max(1, sum(int(node.get("CPU", 0)) // cores for node in nodes))


class ClusterWorker(Worker):
    """One process of a cluster.

    Args:
        job: what is to be done.
        folder: the working folder of the process that asks: relative paths begin there.
        coda: the version of that process.
    """

    def __init__(self, job: Job, folder: Path, coda: str) -> None:
        super().__init__(job)
        self._folder, self._coda = folder, coda

    def load(self) -> CodaError | None:
        """Load the network.

        Returns:
            Why this machine cannot do the job; None where it can.
        """
        try:
            self._refuse_other_machine()
            self.load_network()
        except CodaError as error:
            return error
        return None

    def _refuse_other_machine(self) -> None:
        """Raise UsageError where the versions are not the same, or folders are not shared."""
        machine, folder = os.uname().nodename, self._job.output.naming.folder
        if (own := version("coda-cli")) != self._coda:
            raise UsageError(f"has coda {own}, and the run was started by coda {self._coda}", item=machine)
        try:
            os.chdir(self._folder)
            there = folder.is_dir() or not self._job.output.drawing.kinds
        except OSError:
            there, folder = False, self._folder
        if not there:
            raise UsageError(
                f"{folder} is not on this machine; all machines need the pictures, the output folder, and the folder "
                "in which the run is started, under the same paths",
                item=machine,
            )

    @ray.method(concurrency_group="stopping")  # type: ignore[untyped-decorator]
    def stop(self) -> None:
        """Begin no further input; what is begun comes to its end."""
        super().stop()


@dataclass
class _Part:
    """Inputs that one worker was given.

    Attributes:
        items: those whose outcomes have not come.
        tries: which worker it is that has it.
    """

    items: list[Item]
    tries: int = 1


class _Run:
    """Workers, and what they are given."""

    def __init__(self, job: Job, items: Iterator[Item], on_change: Callable[[str], None]) -> None:
        self._job, self._items, self._on_change = job, items, on_change
        self._starting: dict[Any, Any] = {}  # what says that it has started -> worker
        self._given: dict[Any, int] = {}  # worker -> how many parts it was given
        self._at_work: dict[Any, tuple[Any, _Part]] = {}  # stream of outcomes -> its worker and part
        self._again = deque[_Part]()
        self._lost_at_start, self._next_look = 0, 0.0
        self._swept = set[Path]()

    def outcomes(self) -> Iterator[Outcome]:
        """Give out parts and collect outcomes until nothing is left."""
        if not self._again_or_new(1):
            return
        while self._at_work or self._again:
            self._hire()
            self._give_out()
            waiting = [*self._starting, *self._at_work]
            ready, _ = ray.wait(waiting, timeout=budget.NEXT_LOOK)
            for stream in ready:
                if stream in self._starting:
                    self._started(stream)
                else:
                    yield from self._collect(stream)

    def _again_or_new(self, count: int) -> bool:
        """Whether a part is there for the next worker; of new inputs, ``count`` make one."""
        if not self._again and (items := list(islice(self._items, count))):
            new = {item.subfolder for item in items} - self._swept
            if self._job.output.drawing.kinds:
                sweep(*(self._job.output.naming.folder / folder for folder in new))
            self._swept |= new
            self._again.append(_Part(items))
        return bool(self._again)

    def _hire(self) -> None:
        """Start as many workers as there is room for; machines may have joined or left."""
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + budget.NEXT_LOOK
        resources, most = room(self._job.device)
        missing = most - len(self._given) - len(self._starting)
        actor = ray.remote(concurrency_groups={"stopping": 1})(ClusterWorker)
        for _ in range(missing):
            worker = actor.options(scheduling_strategy="SPREAD", **resources).remote(
                self._job, Path.cwd(), version("coda-cli")
            )
            self._starting[worker.load.remote()] = worker

    def _started(self, ref: Any) -> None:
        """Take a worker that has loaded the network."""
        worker = self._starting.pop(ref)
        try:
            refused = _result(ref)
        except ray.exceptions.RayError as error:
            self._lost_at_start += 1
            if self._lost_at_start >= TRIES and not self._given:
                reason = str(error).strip().splitlines()[0]
                raise CodaError(f"{TRIES} workers ended before they had loaded the network: {reason}") from error
            if not self._given and not self._starting:
                self._next_look = 0
            return
        if refused:
            raise refused
        self._given[worker], self._lost_at_start = 0, 0
        many = len(self._given)
        self._on_change(f"{many} worker{'s' if many > 1 else ''}")

    def _give_out(self) -> None:
        """Give each worker a part, and one more to begin with at once when it is done."""
        for number in range(1, budget.PARTS_OF_A_WORKER + 1):
            for worker, before in self._given.items():
                if sum(other is worker for other, _ in self._at_work.values()) >= number:
                    continue
                if not self._again_or_new(min(budget.LARGEST_PART, budget.FIRST_PART << before)):
                    return
                part = self._again.popleft()
                stream = worker.explain.options(num_returns="streaming").remote(part.items)
                self._at_work[stream], self._given[worker] = (worker, part), before + 1

    def _collect(self, stream: Any) -> Iterator[Outcome]:
        """The outcomes that a worker has given back."""
        worker, part = self._at_work[stream]
        try:
            group = _result(next(stream))
        except StopIteration:
            del self._at_work[stream]
        except ray.exceptions.RayError as error:
            del self._at_work[stream]
            if isinstance(error, ray.exceptions.RayActorError) and worker in self._given:
                del self._given[worker]
                ray.kill(worker)  # where only the connection with it is lost
                self._next_look = 0
            yield from self._lost(part)
        else:
            del part.items[: len(group)]
            part.tries = 1
            yield from group

    def _lost(self, part: _Part) -> Iterator[Outcome]:
        """Have the rest of a part done by another worker; an input that ends one worker after the other has failed."""
        if not part.items:
            return
        if part.tries < TRIES:
            many = f"{len(part.items)} pictures that it had are" if len(part.items) > 1 else "1 picture that it had is"
            self._on_change(f"a worker was lost; {many} given to another")
            self._again.append(_Part(part.items, part.tries + 1))
        elif len(part.items) > 1:  # each alone, so that the others do not suffer from one
            self._again += [_Part([item], TRIES) for item in part.items]
        else:
            (item,) = part.items
            advice = "its processes were ended, one after the other; if memory ran out, make it smaller"
            yield Outcome(item, error=MediaError(advice, item=item.name))

    def stop(self) -> None:
        """Let the workers finish what they are writing, and end them."""
        with suppress(ray.exceptions.RayError):
            for worker in self._given:
                worker.stop.remote()
            if ends := [stream.completed() for stream in self._at_work]:
                ray.wait(ends, num_returns=len(ends), timeout=LAST_WORDS)
        for worker in (*self._given, *self._starting.values()):
            with suppress(ray.exceptions.RayError):
                ray.kill(worker)


def _result(ref: Any) -> Any:
    """What a worker returned. An error that the program raised there is raised here, as itself."""
    try:
        return ray.get(ref)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
