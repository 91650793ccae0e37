"""Compare two runs over the same pictures: what changed of each picture, and in all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from coda_cli.errors import CodaError, MediaError
from coda_cli.explanation.files import FORCE_REPLACES, FilePolicy
from coda_cli.explanation.naming import Naming
from coda_cli.explanation.phrases import title_of
from coda_cli.explanation.runs.maps import (
    Kept,
    Subtracted,
    draw_difference,
    folder_of,
    kept_maps,
    map_change,
    name_of,
    subtracted,
)
from coda_cli.explanation.runs.pairs import Pair, keys, pairs
from coda_cli.explanation.runs.stored import Stored, Tally, read, records
from coda_cli.media.files import prepare
from coda_cli.media.sources import RECORD_KEY, Item
from coda_cli.media.stills import write_png
from coda_cli.media.view import Box
from coda_cli.schema.parts import ClassPart, to_json
from coda_cli.schema.pictures import Explained, Record
from coda_cli.schema.regions import RegionSum, RegionSums
from coda_cli.schema.runs import (
    Alone,
    Change,
    Difference,
    How,
    MapChange,
    RegionChange,
    ScoreChange,
    Side,
    TargetChange,
)

FARTHEST = 1e9  # pixels: a box beyond is none
Named = TypeVar("Named", bound=ClassPart)


@dataclass(frozen=True)
class Compared:
    """One picture of two runs.

    Attributes:
        difference: what is recorded of it.
        maps: for each of its targets the difference of the maps; None where a run kept none.
        kept: what RUN2 kept; None where a run kept no map.
        second: the record of RUN2.
    """

    difference: Difference
    maps: tuple[Subtracted | None, ...]
    kept: Kept | None
    second: Stored


def compare_runs(run1: str, run2: str, tallies: tuple[Tally, Tally]) -> Iterator[Compared | Alone | CodaError]:
    """Compare two runs, a picture at a time; of all others only what they are matched by is held.

    Args:
        run1: a folder, a file of one record, or a file of lines of JSON.
        run2: the same of the other run.
        tallies: count and report what is no record.

    Yields:
        For each picture of RUN1 in its order, then for those that RUN2 alone has: what changed, or which run has it; an
        error where a record changed while it was read.

    Raises:
        UsageError: a run does not exist, or holds no record.
    """
    first, second = (keys(records([run], tally)) for run, tally in zip((run1, run2), tallies, strict=True))
    for pair in pairs(first, second):
        try:
            yield _compared(pair)
        except CodaError as error:
            yield error


def _compared(pair: Pair) -> Compared | Alone:
    """What two runs say of a picture. Raises MediaError."""
    one = pair.first or pair.second
    assert one
    if pair.first is None or pair.second is None:
        return Alone(run=2 if pair.first is None else 1, path=one.path, sha256=one.sha256)
    stored = tuple(Stored(read(key.where), key.where) for key in (pair.first, pair.second))
    try:
        return difference(stored[0], stored[1], pair.how)
    except ValidationError as error:  # a sum of numbers that are finite can be too large
        raise MediaError("its numbers are too large to be compared", item=str(one.where)) from error


def difference(first: Stored, second: Stored, how: How = "sha256") -> Compared:
    """Compare what two runs say of one picture.

    Args:
        first: the record of RUN1.
        second: the record of RUN2.
        how: by what the two were matched.

    Returns:
        The changes, and the differences of the maps where both runs kept theirs.
    """
    kept, notes = _both_kept(first, second)
    if how == "path":
        notes = ("the two pictures differ: they were matched by their path", *notes)
    record, maps = between(first.record, second.record, kept, how, notes)
    return Compared(record, maps, kept[1] if kept else None, second)


def between(
    a: Record, b: Record, kept: tuple[Kept, Kept] | None, how: How = "sha256", notes: tuple[str, ...] = ()
) -> tuple[Difference, tuple[Subtracted | None, ...]]:
    """Compare two records of one picture.

    Args:
        a: the first record.
        b: the second record.
        kept: the maps of both; None where one of them is not there.
        how: by what the two were matched.
        notes: what is to be said of them, a sentence each.

    Returns:
        The changes, the second minus the first, and for each common target the difference of its maps.
    """
    common = matched(a.explained, b.explained, title_of)
    targets, maps = list[TargetChange](), list[Subtracted | None]()
    for k, n in common:
        x, y = a.explained[k], b.explained[n]
        target, found = _target(x, y), None
        if kept:
            found = subtracted((kept[0].maps[k], kept[1].maps[n]), (a.view.box, b.view.box))
            change = map_change(found, target, x.tolerance + y.tolerance)
            target = target.model_copy(update={"map": change})
        targets.append(target)
        maps.append(found)
    if any(found and found.grid == "common" for found in maps):
        notes = (*notes, "the runs saw different views: maps were laid on a common grid, which keeps their sums")
    record = Difference(
        matched=how,
        first=_side(a),
        second=_side(b),
        changed=_changed(a, b),
        targets=tuple(targets),
        scores=_scores(a, b),
        only_first=_left_out(a, {k for k, _ in common}),
        only_second=_left_out(b, {n for _, n in common}),
        notes=notes,
    )
    return record, tuple(maps)


def matched(
    first: Sequence[Named], second: Sequence[Named], name: Callable[[Named], Hashable]
) -> list[tuple[int, int]]:
    """Find the classes that two networks have in common: by index and name, else by a name that each has once.

    Args:
        first: classes of one network.
        second: classes of the other.
        name: names a class.

    Returns:
        The positions in both, in the order of the first.
    """
    partner: dict[int, int] = {}
    for key in (lambda one: (one.index, name(one)), name):
        taken = set(partner.values())
        rest = [k for k in range(len(first)) if k not in partner], [n for n in range(len(second)) if n not in taken]
        once = [Counter(key(side[n]) for n in left) for side, left in zip((first, second), rest, strict=True)]
        there = {key(second[n]): n for n in rest[1] if once[1][key(second[n])] == 1}
        partner |= {k: there[key(first[k])] for k in rest[0] if once[0][key(first[k])] == 1 and key(first[k]) in there}
    return sorted(partner.items())


def _left_out(record: Record, common: set[int]) -> tuple[str, ...]:
    """The names of the targets that the other run did not explain."""
    return tuple(title_of(part) for k, part in enumerate(record.explained) if k not in common)


def _side(record: Record) -> Side:
    """What a run says of a picture as a whole."""
    return Side(
        path=record.source.path,
        sha256=record.source.sha256,
        network=record.network,
        precision=record.precision,
        predicted=record.top[0],
    )


def _changed(first: Record, second: Record) -> bool:
    """Whether another class is predicted; networks with other classes can have the same one at another index."""
    a, b = first.top[0], second.top[0]
    return a.name != b.name or (first.network.classes == second.network.classes and a.index != b.index)


def _scores(first: Record, second: Record) -> tuple[ScoreChange, ...]:
    """The classes that both runs list among the highest."""
    common = matched(first.top, second.top, lambda one: one.name)
    return tuple(
        ScoreChange(
            name=x.name,
            logit=Change.between(x.logit, y.logit),
            probability=Change.between(x.probability, y.probability),
        )
        for x, y in ((first.top[k], second.top[n]) for k, n in common)
    )


def _target(x: Explained, y: Explained) -> TargetChange:
    """What changed of a target, without its map."""
    return TargetChange(
        index=x.index,
        name=x.name,
        wnid=x.wnid,
        versus=x.versus,
        logit=Change.between(x.logit, y.logit),
        probability=Change.of(x.probability, y.probability),
        positive=Change.between(x.positive, y.positive),
        negative=Change.between(x.negative, y.negative),
        constants=Change.between(x.bias + x.positional, y.bias + y.positional),
        residual=Change.between(x.residual, y.residual),
        logit_without_concepts=Change.of(x.logit_without_concepts, y.logit_without_concepts),
        regions=_regions(x.regions, y.regions),
    )


def _regions(first: RegionSums | None, second: RegionSums | None) -> tuple[RegionChange, ...]:
    """What changed of the regions that both have by one name, and of the rest."""
    if first is None or second is None:
        return ()
    there = {region.name: region for region in reversed(second.regions)}
    both = [(one, there[one.name]) for one in first.regions if one.name in there]
    return tuple(_region(one, other) for one, other in [*both, (first.rest, second.rest)])


def _region(one: RegionSum, other: RegionSum) -> RegionChange:
    return RegionChange(
        name=one.name,
        share=Change.of(one.share, other.share),
        total=Change.between(one.positive + one.negative, other.positive + other.negative),
        area=Change.between(one.area, other.area),
    )


def _both_kept(first: Stored, second: Stored) -> tuple[tuple[Kept, Kept] | None, tuple[str, ...]]:
    """The maps of both runs; or none, and why."""
    a, b = first.record, second.record
    size = tuple((r.source.width, r.source.height) for r in (a, b))
    if not ("npz" in a.files and "npz" in b.files):
        return None, ()
    if size[0] != size[1]:
        return None, ("no difference of the maps: the pictures have different sizes",)
    if not (_is_box(a.view.box) and _is_box(b.view.box)):
        return None, ("no difference of the maps: a record says no part of the picture that was seen",)
    try:
        kept = kept_maps(first), kept_maps(second)
    except MediaError as error:
        return None, (f"no difference of the maps: {error}",)
    if kept[0] is None or kept[1] is None:
        return None, (f"no difference of the maps: the file of RUN{2 if kept[0] else 1} is not there",)
    return (kept[0], kept[1]), ()


def _is_box(box: Box) -> bool:
    x0, y0, x1, y1 = box
    return x1 - x0 > 1e-6 and y1 - y0 > 1e-6 and max(map(abs, box)) < FARTHEST


class DifferenceWriter:
    """Draws the differences of maps into a folder.

    Args:
        folder: for the drawings.
        run2: the second run as it was named; drawings go to the same sub-folders as its records.
        force: whether files that exist are replaced.
    """

    def __init__(self, folder: Path, run2: str, *, force: bool = False) -> None:
        self._folder, self._run2 = folder, run2
        self._policy = FilePolicy("overwrite" if force else "error", (), advice=FORCE_REPLACES)
        self._taken: set[Path] = set()
        prepare(folder)

    def write(self, compared: Compared) -> tuple[Difference, tuple[Path, ...]]:
        """Draw the maps of a picture.

        Args:
            compared: the picture.

        Returns:
            Its record, which names the drawings, and their paths.

        Raises:
            MediaError: a drawing exists that may not be replaced, or cannot be written.
        """
        record, written, targets = compared.difference, list[Path](), list[TargetChange]()
        for target, found in zip(record.targets, compared.maps, strict=True):
            if not (found and compared.kept and target.map):
                targets.append(target)
                continue
            wanted = self._path_of(compared, target)
            rgb = draw_difference(found, record, target, compared.kept.view)
            alone = record.model_copy(update={"targets": (target,)})
            path = self._policy.write(wanted, partial(write_png, rgb=rgb, text={RECORD_KEY: to_json(alone)}))
            written.append(path or wanted)
            change: MapChange = target.map.model_copy(update={"file": wanted.relative_to(self._folder).as_posix()})
            targets.append(target.model_copy(update={"map": change}))
        return record.model_copy(update={"targets": tuple(targets)}), tuple(written)

    def _path_of(self, compared: Compared, target: TargetChange) -> Path:
        """The path of a drawing, whose folder is made. Raises MediaError where another has it."""
        second, name = compared.second, name_of(target)
        naming = Naming(self._folder, second.record.network.name)
        item = Item(Path(second.record.source.path), folder_of(second.where, self._run2))
        index = str(target.index) if target.versus is None else f"{target.index}-{target.versus.index}"
        path = naming.path(item, "difference", name, index)
        if path in self._taken:  # class names can differ in case alone, and lines of JSON have no sub-folders
            path = naming.path(item, "difference", f"{name} {index} {second.record.source.sha256[:8]}", index)
        if path in self._taken:
            raise MediaError("two pictures of the runs would get this name; compare them in two runs", item=path)
        self._taken.add(path)
        prepare(path.parent)
        return path


def largest_change(record: Difference) -> float:
    """Say how much the logits of a picture changed, for sorting.

    Args:
        record: of the picture.

    Returns:
        The largest |change| of its targets; where there are none, of the classes that both runs list.
    """
    changes: Iterable[Change] = [t.logit for t in record.targets] or [s.logit for s in record.scores]
    return max((abs(change.change) for change in changes), default=0.0)
