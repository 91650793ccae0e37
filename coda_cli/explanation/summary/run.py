"""Summarise records: read each of them once, then add up and write what was kept of them.

Memory does not grow with the records. Of each one a row of numbers goes to a temporary file, since what a summary has
to know of all of them first (which classes and regions there are) is known only at the end.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from operator import eq
from pathlib import Path
from typing import IO, TYPE_CHECKING

from coda_cli.errors import MediaError, UsageError
from coda_cli.explanation.summary import tables
from coda_cli.explanation.summary.records import STDIN, find_records, limited, read_records
from coda_cli.explanation.summary.rows import REST, Place, Row, Spool, row_of
from coda_cli.explanation.summary.shards import Shards, find_shards
from coda_cli.explanation.summary.tally import MOST_REGIONS, Tally, line_of
from coda_cli.explanation.summary.truth import Classes, Label, Truth, folder_of, read_labels
from coda_cli.media.files import atomic, prepare
from coda_cli.schema.parts import to_json
from coda_cli.schema.pictures import FailedRecord, Record
from coda_cli.schema.shards import ShardRecord
from coda_cli.schema.summaries import NetworkCount, Summary

if TYPE_CHECKING:
    from coda_cli.explanation.page.summary import SummaryPage
    from coda_cli.explanation.summary.mean_maps import MeanMapFolder

NAMES = {"csv": "summary.csv", "parquet": "summary.parquet", "json": "summary.json"}
MOST_NETWORKS = 1000  # different networks and settings that are counted
MOST_FOLDERS = 1000  # different folders without a class that are counted
FOLDERS_TOLD = 20  # of which so many are told


@dataclass(frozen=True)
class Asked:
    """What is summarised, and how.

    Attributes:
        sources: files and folders of records, and "-".
        recursive: whether sub-folders are looked into.
        labels: a file of labels; None takes the names of the pictures' folders.
        folders: whether those are labels, as far as they are classes.
        top: how many pictures of each kind of outlier.
        output: the folder that files are written to; None writes nothing.
        parquet: whether a Parquet table is written, too.
        force: whether files that exist are replaced.
        mean_maps: whether the mean of the kept maps is written for each class.
        html: the page that is written; None writes none.
        shards: whether the records are of the shards of one run; the summary then says what is missing of it.
    """

    sources: Sequence[str]
    recursive: bool = False
    labels: Path | None = None
    folders: bool = True
    top: int = 10
    output: Path | None = None
    parquet: bool = False
    force: bool = False
    mean_maps: bool = False
    html: Path | None = None
    shards: bool = False


class Seen:
    """What is known of the records once all were read.

    Args:
        shards: takes note of shards; None where they do not matter.
    """

    def __init__(self, shards: Shards | None) -> None:
        self.shards = shards
        self.classes = Classes()
        self.networks = Counter[tuple[str, str]]()
        self.settings = set[str]()
        self.runs = Counter[tuple[str, str]]()
        self.regions = dict[str, None]()  # in the order of their appearance
        self.failed = self.unreadable = 0
        self._pictures = array("q")  # hashes of 8 bytes; what they are of would take memory for every record

    def add(self, record: Record, row: Row) -> None:
        """Take note of a record.

        Args:
            record: of an explained picture.
            row: what is kept of it.

        Raises:
            UsageError: the records are of too many networks or classes to belong together.
        """
        self.classes.add((*record.top, *record.explained), record.network)
        self.networks[record.network.name, record.network.sha256] += 1
        if len(self.networks) > MOST_NETWORKS:
            raise UsageError(f"the records are of more than {MOST_NETWORKS} networks; summarise fewer together")
        if len(self.settings) < MOST_NETWORKS:
            self.settings.add(record.settings)
        self._pictures.append(hash((record.source.path, record.source.sha256)))
        run = record.network.sha256, record.settings
        if len(self.runs) < MOST_NETWORKS or run in self.runs:
            self.runs[run] += 1
        for region in row.regions:
            if len(self.regions) < MOST_REGIONS or region.name == REST:
                self.regions.setdefault(region.name)

    @property
    def repeated(self) -> int:
        """How many records are of a picture that another one was of before."""
        found = sorted(self._pictures)
        return sum(map(eq, found, found[1:]))


def summarise(
    asked: Asked,
    stdin: IO[bytes],
    on_error: Callable[[MediaError], None],
    on_file: Callable[[float, int], None],
) -> Summary:
    """Summarise records, and write the tables that are asked for.

    Args:
        asked: what is summarised, and how.
        stdin: what the source "-" is read from.
        on_error: hears of everything that is no record; the rest is summarised.
        on_file: hears how many files were read, of how many.

    Returns:
        The summary.

    Raises:
        UsageError: a source or the file of labels cannot be used, or a file exists that may not be replaced.
        MediaError: there is no record of an explained picture, or a file cannot be written.
    """
    given = None if asked.labels is None else read_labels(asked.labels)
    sources = find_records(asked.sources, recursive=asked.recursive)
    sources += find_shards(asked.sources) if asked.shards else []
    if asked.output is not None:
        _prepare(asked, asked.output)
    page = None if asked.html is None else _prepared_page(asked, asked.html)
    seen = Seen(Shards() if asked.shards else None)
    with Spool(asked.output) as spool:
        for number, source in enumerate(sources, 1):
            _read(source, stdin, seen, spool, on_error)
            on_file(number, len(sources))
        if not spool.rows:
            failed = f"; {seen.failed} could not be explained" if seen.failed else ""
            raise MediaError(f"no record of an explained picture was found{failed}; coda explain writes records")
        truth = Truth(seen.classes, given, folders=asked.folders)
        summary = _add_up(asked, seen, spool, truth, on_error, on_file)
        if page:
            page.write(summary, lambda: ((line_of(row, seen.classes, truth), row.overlay) for row in spool))
        return summary


def foresee(asked: Asked) -> tuple[list[str], list[Path]]:
    """Say what ``summarise`` would read and write; no record is read, and nothing is written.

    Args:
        asked: what would be summarised, and how.

    Returns:
        The files of records, and the files and folders that would be written.

    Raises:
        UsageError: a source or the file of labels cannot be used, or a file exists that may not be replaced.
    """
    if asked.labels is not None:
        read_labels(asked.labels)
    records = find_records(asked.sources, recursive=asked.recursive)
    if asked.output is None:
        return records, []
    taken = _refuse_taken(asked, asked.output)
    prepare(asked.output, dry=True)
    return records, taken


def _prepare(asked: Asked, output: Path) -> None:
    """Find out before any work whether the files can be written. Raises UsageError."""
    from coda_cli.explanation.files import sweep  # it needs numpy

    _refuse_taken(asked, output)
    prepare(output)
    sweep(output)


def _refuse_taken(asked: Asked, output: Path) -> list[Path]:
    """Refuse files that exist and may not be replaced; gives all that will be written. Raises UsageError."""
    from coda_cli.explanation.files import FORCE_REPLACES, FilePolicy  # they need numpy
    from coda_cli.explanation.summary.mean_maps import FOLDER
    from coda_cli.media.files import refuse_file_name

    refuse_file_name(output)
    if asked.parquet:
        tables.require_parquet()
    policy = FilePolicy(
        "overwrite" if asked.force else "error",
        map(Path, asked.sources),
        advice=FORCE_REPLACES,
        error=UsageError,
    )
    names = [*(NAMES[kind] for kind in _kinds(asked)), *([FOLDER] if asked.mean_maps else [])]
    paths = [output / name for name in names]
    for path in paths:
        policy.place(path)
    return paths


def _prepared_page(asked: Asked, path: Path) -> SummaryPage:
    """Find out before any work whether the page can be written. Raises UsageError."""
    from coda_cli.explanation.page.summary import SummaryPage  # needs torch

    return SummaryPage(path, force=asked.force, inputs=map(Path, asked.sources))


def _kinds(asked: Asked) -> tuple[str, ...]:
    """The kinds of files that are written, the JSON first."""
    return ("json", "csv", "parquet") if asked.parquet else ("json", "csv")


def _read(source: str, stdin: IO[bytes], seen: Seen, spool: Spool, on_error: Callable[[MediaError], None]) -> None:
    """Read the records of one source. Raises UsageError."""
    name = "stdin" if source == STDIN else source
    for found in limited(_rows(source, stdin, seen), name):
        if isinstance(found, MediaError):
            on_error(found.about(name))
        else:
            spool.add(found)


def _rows(source: str, stdin: IO[bytes], seen: Seen) -> Iterator[Row | MediaError]:
    """The rows of the records of one source, of which note is taken. Raises UsageError."""
    for found in read_records(source, stdin):
        try:
            if isinstance(found, MediaError):
                raise found
            if isinstance(found.record, FailedRecord):
                seen.failed += 1
                continue
            if isinstance(found.record, ShardRecord):
                if seen.shards is not None:  # else nobody asks which shards there are
                    seen.shards.add(found.record)
                continue
            row = row_of(found.record, Place(source, found.offset, found.line, found.inside))
        except MediaError as error:
            seen.unreadable += 1
            yield error
            continue
        seen.add(found.record, row)
        yield row


def _add_up(
    asked: Asked,
    seen: Seen,
    spool: Spool,
    truth: Truth,
    on_error: Callable[[MediaError], None],
    on_file: Callable[[float, int], None],
) -> Summary:
    """Go over the rows: add them up, and write them as they come. Raises MediaError."""
    regions = sorted(seen.regions, key=lambda name: name == REST)  # the rest last
    tally, others = Tally(asked.top, frozenset(regions)), Counter[str]()
    with ExitStack() as stack:
        streams, maps = ({}, None) if asked.output is None else _open(asked, asked.output, stack)
        add_to_tables = []
        for kind, table in (("csv", tables.csv_table), ("parquet", tables.parquet_table)):
            if kind in streams:
                add_to_tables.append(stack.enter_context(table(streams[kind], regions)))
        for row in spool:
            line = line_of(row, seen.classes, truth)
            tally.add(line)
            for add in add_to_tables:
                add(line)
            folder = None if line.label is not None else folder_of(row.path)
            if folder and (len(others) < MOST_FOLDERS or folder in others):
                others[folder] += 1
        summary = _summary(asked, seen, tally, truth, others)
        if maps is not None:
            groups = ((truth.of(r.path) if tally.has_labels else _predicted(r, seen.classes), r) for r in spool)
            means = maps.write(groups, spool.rows, seen.classes, tally.has_labels, on_error, on_file)
            summary = summary.model_copy(update={"mean_maps": means})
        if "json" in streams:
            streams["json"].write(to_json(summary).encode() + b"\n")
    return summary


def _open(asked: Asked, output: Path, stack: ExitStack) -> tuple[dict[str, IO[bytes]], MeanMapFolder | None]:
    """Open what is written. Left in reverse: the JSON, which says that all else is complete, gets its name last."""
    json, *others = _kinds(asked)
    streams, maps = {json: stack.enter_context(atomic(output / NAMES[json], replace=asked.force))}, None
    if asked.mean_maps:
        from coda_cli.explanation.summary.mean_maps import MeanMapFolder  # it needs numpy

        maps = stack.enter_context(MeanMapFolder(output, replace=asked.force))
    for kind in others:
        streams[kind] = stack.enter_context(atomic(output / NAMES[kind], replace=asked.force))
    return streams, maps


def _predicted(row: Row, classes: Classes) -> Label:
    """The predicted class of a picture, as the group that it belongs to."""
    return Label(classes.title(row.predicted), frozenset([row.predicted]))


def _summary(asked: Asked, seen: Seen, tally: Tally, truth: Truth, others: Counter[str]) -> Summary:
    """Put the summary together."""
    return Summary(
        pictures=tally.overall.pictures,
        failed=seen.failed,
        unreadable=seen.unreadable,
        labels=truth.source if tally.has_labels else "none",
        grouped_by="label" if tally.has_labels else "predicted",
        overall=tally.overall.group(None),
        classes=tuple(tally.groups()),
        confusion=tally.confusion(),
        calibration=tally.calibration(),
        outliers=tally.outliers(),
        networks=tuple(
            NetworkCount(name=name, sha256=sha256, pictures=n) for (name, sha256), n in seen.networks.most_common()
        ),
        settings=len(seen.settings),
        repeated=seen.repeated,
        no_classes=dict(others.most_common(FOLDERS_TOLD)) if truth.source == "folders" else {},
        missing=seen.shards.missing(seen.runs) if seen.shards else None,
        files={kind: NAMES[kind] for kind in _kinds(asked)} if asked.output else {},
        versions={"coda": version("coda-cli")},
    )
