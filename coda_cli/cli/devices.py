"""``--device cuda:0,cuda:1``: what ``coda explain`` has a process for each device do."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coda_cli.cli.cluster import Loaded, job_of
from coda_cli.errors import UsageError

if TYPE_CHECKING:
    from coda_cli.explanation.request import Request
    from coda_cli.explanation.shards import Shard
    from coda_cli.explanation.writer import Outcome, Output
    from coda_cli.media.sources import Item

Devices = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="auto|cpu|cuda[:n]|mps",
        help="Choose where to compute; several (cuda:0,cuda:1) share the pictures out, a process for each.",
    ),
]


def several_devices(device: str, *, html: Path | None, scale: str | None, remote: bool) -> tuple[str, ...]:
    """The devices that --device names where they are several, else none. Raises UsageError."""
    if "," not in device:
        return ()
    from coda_cli.machine.devices import refuse_unknown

    names = tuple(device.split(","))
    for name in names:
        refuse_unknown(name, one_of=device)
    if html is not None:
        raise UsageError(f"--html with --device {device}: one process makes a page; coda summary makes one of records")
    if remote:
        raise UsageError(f"--output at an address or one file with --device {device}: give a folder on this disk")
    if scale == "run":
        raise UsageError(f"--scale run with --device {device}: it needs all pictures twice; give the scale as a number")
    return names


def explain_by_devices(
    loaded: Loaded,
    devices: Sequence[str],
    items: Sequence[Item],
    request: Request,
    output: Output,
    batch: int | None,
    shard: Shard | None,
    inputs: Sequence[Item] | None,
    on_lost: Callable[[str, int], None],
) -> Generator[Outcome, None, None]:
    """Have a process for each device explain its share of the inputs. Raises UsageError."""
    from coda_cli.explanation.devices import explain_on_devices
    from coda_cli.explanation.run import prepare_run

    prepare_run(loaded.net, items, request, output)
    job = job_of(loaded, inputs or items, request, output, batch)
    return explain_on_devices(job, devices, items, shards=shard.of if shard else 1, on_lost=on_lost)
