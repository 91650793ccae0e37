"""Put together what the shards of one run say of themselves, and what none of them did."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from coda_cli.errors import UsageError
from coda_cli.media.packed import is_packed
from coda_cli.schema.shards import Missing, ShardRecord

NAME = re.compile(r"shard-[0-9]+-of-[0-9]+\.json")  # of the files that shards write into their output folder


class Shards:
    """The shards of one run that have ended."""

    def __init__(self) -> None:
        self._ended = dict[int, ShardRecord]()

    def add(self, record: ShardRecord) -> None:
        """Take note of a shard. Of two records of one shard the later one counts.

        Args:
            record: what it says.

        Raises:
            UsageError: it is of another run than those before.
        """
        first = next(iter(self._ended.values()), record)
        if record.run != first.run:
            raise UsageError(
                f"shard {record.shard}/{record.of} ({_run(record)}) is of another run than shard "
                f"{first.shard}/{first.of} ({_run(first)}); run the shards again that are older, or leave their "
                "records out"
            )
        self._ended[record.shard] = record

    def missing(self, found: Counter[tuple[str, str]]) -> Missing:
        """Say what was not done.

        Args:
            found: how many pictures have a record of which network (sha256) and which settings.

        Returns:
            The shards that have not ended, and the pictures that failed or have no record.

        Raises:
            UsageError: no shard has ended.
        """
        if not self._ended:
            raise UsageError(
                "no shard has ended here, for there is no shard-I-of-N.json; coda summary adds up records without that"
            )
        first = next(iter(self._ended.values()))
        failed = sum(record.failed for record in self._ended.values())
        explained = found[first.network_sha256, first.settings]
        return Missing(
            of=first.of,
            shards=tuple(n for n in range(1, first.of + 1) if n not in self._ended),
            listed=first.listed,
            failed=failed,
            absent=max(0, first.listed - failed - explained),
            twice=max(0, explained - first.listed),
            failures=tuple(one for _, record in sorted(self._ended.items()) for one in record.failures),
        )


def _run(record: ShardRecord) -> str:
    """What tells a run from others, in words."""
    return f"{record.listed} pictures, {record.network}, settings {record.settings[:8]}"


def find_shards(folders: Sequence[str]) -> list[str]:
    """Find the records of shards: in output folders, and beside files of results.

    Args:
        folders: output folders, and files; those that hold no results are passed over. Links to folders are not
            followed.

    Returns:
        The files.
    """
    beside = (os.path.dirname(place) if place != "-" and is_packed(place) else place for place in folders)
    return [
        os.path.join(folder, name)
        for folder in dict.fromkeys(place or os.curdir for place in beside)
        if Path(folder).is_dir()
        for name in sorted(os.listdir(folder))
        if NAME.fullmatch(name)
    ]
