"""``--engine ray``: what ``coda explain`` has the workers of a cluster do."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from coda_cli.cli.console import console
from coda_cli.cli.said import said_of_network
from coda_cli.errors import UsageError

if TYPE_CHECKING:
    from coda_cli.checkpoints.loading import Net
    from coda_cli.explanation.request import Request
    from coda_cli.explanation.worker import Job
    from coda_cli.explanation.writer import Outcome, Output
    from coda_cli.media.sources import Item


class Loaded(NamedTuple):
    """A network, and what the command line said of it."""

    net: Net
    model: str
    arch: str | None
    ema: bool | None
    device: str


def refuse_on_cluster(*, shard: str | None, html: Path | None, scale: str | None, device: str, remote: bool) -> None:
    """Refuse what needs all pictures in one process, or a certain GPU. Raises UsageError."""
    if shard is not None:
        raise UsageError("--shard with --engine ray: the workers of a cluster share the pictures out; leave it out")
    if html is not None:
        raise UsageError("--html with --engine ray: one process makes a page; coda summary makes one of all records")
    if remote:
        raise UsageError("--output at an address or one file with --engine ray: give a folder that all machines share")
    if scale == "run":
        raise UsageError("--scale run with --engine ray: it needs all pictures twice; give the scale as a number")
    if device.startswith("cuda:") or "," in device:
        raise UsageError(f"--device {device} with --engine ray: Ray chooses among the GPUs; use --device cuda")


def job_of(loaded: Loaded, inputs: Sequence[Item], request: Request, output: Output, batch: int | None) -> Job:
    """What other processes are told to do; those of the ``inputs`` that lie where they write are never written over."""
    from coda_cli.checkpoints.reference import Reference
    from coda_cli.explanation.worker import Job
    from coda_cli.media.sources import identity

    said = {name: value for name, value in said_of_network().items() if name != "cut"}
    reference = Reference.to(loaded.net, loaded.model, arch=loaded.arch, ema=loaded.ema, **said)
    folder = identity(output.naming.folder)
    beside = tuple(item for item in inputs if not item.stored and identity(item.path).is_relative_to(folder))
    return Job(reference, request, output, loaded.device, batch, beside)


def explain_by_workers(
    loaded: Loaded,
    first: Sequence[Item],
    others: Iterable[Item],
    request: Request,
    output: Output,
    batch: int | None,
    address: str | None,
) -> Generator[Outcome, None, None]:
    """Have a cluster explain inputs: the ``first``, which are known, and ``others``, which are still being listed."""
    from coda_cli.explanation.cluster import explain_on_cluster
    from coda_cli.explanation.run import prepare_run

    prepare_run(loaded.net, (), request, output)
    job = job_of(loaded, first, request, output, batch)
    return explain_on_cluster(job, chain(first, others), address=address, on_change=console.say)
