"""Shards: a part of a run's pictures, chosen by their names, so that several processes do one run together.

A picture's shard follows from the name that its outputs get, and from nothing else. So every process finds the same
parts without asking the others, in whatever order its source lists them; two pictures whose outputs would have one name
meet in one shard, which refuses them; and two shards never write the same file.
"""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from coda_cli.checkpoints.loading import Net
from coda_cli.errors import MediaError, UsageError
from coda_cli.explanation.files import withdraw
from coda_cli.explanation.json_records import NoRecordError, parse
from coda_cli.explanation.naming import Naming
from coda_cli.explanation.record import settings_hash
from coda_cli.explanation.request import Request
from coda_cli.explanation.writer import Outcome, Output
from coda_cli.machine import budget
from coda_cli.media.elsewhere import Elsewhere
from coda_cli.media.files import read_whole, write_with
from coda_cli.media.sources import Item
from coda_cli.schema.parts import to_json
from coda_cli.schema.pictures import FailedRecord
from coda_cli.schema.shards import ShardRecord

MOST_SHARDS = 1_000_000
MOST_FAILURES = 1000  # that one shard names
_HASH = 1 << 64


@dataclass(frozen=True)
class Shard:
    """One of several parts of a run.

    Attributes:
        number: which one, from 1 to ``of``.
        of: how many there are.
    """

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read what a user writes for a shard.

        Args:
            text: "I/N", such as "2/3".

        Returns:
            The shard.

        Raises:
            UsageError: it is none.
        """
        found = re.fullmatch(r"([0-9]{1,7})/([0-9]{1,7})", text)
        number, of = map(int, found.groups()) if found else (0, 0)
        if not 1 <= number <= of <= MOST_SHARDS:
            raise UsageError(f"--shard {text}: expected I/N, a number from 1 to N, such as 1/8, 2/8, ... 8/8")
        return cls(number, of)

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def mark(self, path: Path) -> Path:
        """Put the shard into the name of a file about a whole run.

        Args:
            path: of the file, such as ``report.html``.

        Returns:
            A path that no other shard has, such as ``report.shard-2-of-3.html``.
        """
        return path.with_name(f"{path.stem}.{self._slug}{path.suffix}")

    def record_path(self, folder: Path) -> Path:
        """Name the file that says how the shard ended.

        Args:
            folder: the output folder.

        Returns:
            The path.
        """
        return folder / f"{self._slug}.json"

    @property
    def _slug(self) -> str:
        return f"shard-{self.number}-of-{self.of}"


@dataclass(frozen=True)
class Sharded:
    """Files of which ``explain_many`` explains one shard; made by ``shard``.

    Attributes:
        sources: files, folders, archives, addresses and patterns, as ``explain_many`` takes them.
        shard: which part of them.
    """

    sources: list[str | Path]
    shard: Shard


def shard(sources: str | Path | Iterable[str | Path], which: str | tuple[int, int]) -> Sharded:
    """Choose one of several parts of a run's pictures, so that several processes do one run together.

    A picture's part follows from its name, as that of ``coda explain --shard`` does. With an output folder, a file in
    it says how the part ended, and ``coda merge`` says what is missing of all of them.

    Args:
        sources: files, folders, archives, addresses and patterns, as a list or one alone: the same in all processes.
        which: the part, "I/N" or (I, N), a number from 1 to N.

    Returns:
        What ``explain_many`` takes for its sources.

    Raises:
        UsageError: there is no such part, or the sources are not files.

    Example:
        >>> for outcome in coda.explain_many(coda.shard("photos/**", "1/4"), output="out/"):
        ...     print(outcome.item.path)
    """
    listed = [sources] if isinstance(sources, str | Path) else list(sources)
    if not all(isinstance(source, str | Path) for source in listed):
        raise UsageError("a shard is chosen by the names of files; of pictures in memory, give each process its own")
    text = which if isinstance(which, str) else "/".join(map(str, which))
    return Sharded(listed, Shard.parse(text))


class ShardRun:
    """The pictures of one shard, and what became of them.

    Args:
        shard: which one.
        items: the inputs of the whole run.
        naming: names their outputs.
    """

    def __init__(self, shard: Shard, items: Sequence[Item], naming: Naming) -> None:
        self.shard, self._naming, self._listed = shard, naming, len(items)
        self.items, self._listing = list[Item](), 0
        for item in items:
            number = hash_of(item, naming)
            self._listing = (self._listing + number) % _HASH  # a sum, so that the order does not matter
            if number % shard.of == shard.number - 1:
                self.items.append(item)
        self._counts, self._failures = Counter[str](), list[FailedRecord]()

    def begin(self) -> None:
        """Remove what an earlier run of this shard said when it ended: it holds no more.

        Raises:
            UsageError: a file of that name is there, and is not coda's.
            MediaError: it cannot be removed.
        """
        path, remote = self._place()
        if remote:
            remote.fetch(path)
        if os.path.lexists(path) and not _is_of_a_shard(path):
            shown = remote.shown(path) if remote else str(path)
            raise UsageError("exists, and is not coda's; choose another --output", item=shown)
        withdraw(path)
        if remote:
            remote.remove(path)

    def add(self, outcome: Outcome) -> None:
        """Count one input.

        Args:
            outcome: how it ended.
        """
        self._counts["failed" if outcome.error else "skipped" if outcome.skipped else "explained"] += 1
        if outcome.error and len(self._failures) < MOST_FAILURES:
            self._failures.append(FailedRecord.of(outcome.item.name, outcome.error))

    def told(
        self, outcomes: Generator[Outcome, None, None], net: Net, request: Request, output: Output
    ) -> Generator[Outcome, None, None]:
        """Pass the outcomes of the shard on, and say how it ended when all of them were taken.

        Args:
            outcomes: of ``items``.
            net: the network that explains.
            request: what is asked.
            output: what is written, and where.

        Yields:
            The same outcomes.

        Raises:
            UsageError: a file is in the way of what the shard says.
            MediaError: it cannot be written.
        """
        if output.drawing.kinds:
            self.begin()
        with closing(outcomes):
            for outcome in outcomes:
                self.add(outcome)
                yield outcome
        self.end(net, request, output)

    def end(self, net: Net, request: Request, output: Output) -> ShardRecord:
        """Say how the shard ended, in a file too where files are written.

        Args:
            net: the network that explained.
            request: what was asked.
            output: what was written, and where.

        Returns:
            The record.

        Raises:
            MediaError: it cannot be written.
        """
        record = ShardRecord(
            shard=self.shard.number,
            of=self.shard.of,
            listed=self._listed,
            listing=f"{self._listing:016x}",
            pictures=len(self.items),
            explained=self._counts["explained"],
            skipped=self._counts["skipped"],
            failed=self._counts["failed"],
            failures=tuple(self._failures),
            network=net.checkpoint.name,
            network_sha256=net.sha256,
            settings=settings_hash(net, request, output.drawing),
            versions={"coda": version("coda-cli")},
        )
        if output.drawing.kinds:
            text = to_json(record).encode() + b"\n"
            path, remote = self._place()
            write_with(path, lambda stream: stream.write(text))
            if remote:
                remote.put(path)
        return record

    def _place(self) -> tuple[Path, Elsewhere | None]:
        """The file that says how the shard ended, beside a tar, and where it goes from there."""
        remote = self._naming.remote
        folder, place = remote.around if remote else (self._naming.folder, None)
        return self.shard.record_path(folder), place


def hash_of(item: Item, naming: Naming) -> int:
    """Compute the number that decides a picture's shard, on every machine the same.

    Args:
        item: the picture.
        naming: names its outputs.

    Returns:
        A number of 64 bits. It is that of the record's name below the output folder; upper and lower case, and the
        forms that Unicode has of one letter, make no difference, since some file systems know none.
    """
    name = f"{item.subfolder.as_posix()}/{naming.record_name(item)}"
    text = unicodedata.normalize("NFC", name).casefold()
    return int.from_bytes(hashlib.sha256(text.encode(errors="surrogateescape")).digest()[:8])


def _is_of_a_shard(path: Path) -> bool:
    """Whether a file holds the record of a shard."""
    try:
        return isinstance(parse(read_whole(path, budget.RECORD_FILE)), ShardRecord)
    except (MediaError, NoRecordError):
        return False
