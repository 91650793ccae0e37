"""``--shard I/N``: the part of a run that ``coda explain`` is to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coda_cli.cli.console import console
from coda_cli.errors import UsageError

if TYPE_CHECKING:
    from coda_cli.explanation.shards import Shard, ShardRun
    from coda_cli.explanation.writer import Output
    from coda_cli.media.sources import Item


def chosen_shard(text: str | None, scale: str | None) -> Shard | None:
    """The shard that --shard names. Raises UsageError."""
    if text is None:
        return None
    from coda_cli.explanation.shards import Shard

    shard = Shard.parse(text)
    if scale == "run":
        raise UsageError(
            "--scale run with --shard: each shard would find another scale; --scale NUMBER draws all of them alike"
        )
    return shard


def part_of_run(shard: Shard | None, items: list[Item], out: Output) -> ShardRun | None:
    """The inputs of a shard, where one is chosen."""
    if shard is None:
        return None
    from coda_cli.explanation.shards import ShardRun

    part = ShardRun(shard, items, out.naming)
    console.say(f"shard {shard}: {len(part.items)} of {len(items)} pictures")
    return part
