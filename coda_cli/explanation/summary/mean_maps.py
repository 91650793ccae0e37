"""The mean of the maps that were kept, one for each class: added up in float64, proven, drawn and written.

Where all views of a class have one size, the pixels of their maps can be added up, and the sum of the mean map is the
mean of the sums, as exact as every one of them. Only one map is held at a time: the sums of all classes are in a
temporary file, which takes about as much room as one kept map of each class.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from coda_cli.errors import MediaError
from coda_cli.explanation.summary.records import MOST_ERRORS
from coda_cli.explanation.summary.rows import LARGEST, Key, Row
from coda_cli.explanation.summary.truth import Classes, Label
from coda_cli.media.files import TEMPORARY_PREFIX, regular_size, shown_name, write_with
from coda_cli.schema.parts import to_json
from coda_cli.schema.pictures import Explained
from coda_cli.schema.summaries import MeanMap, MeanMaps

FOLDER = "mean-maps"  # in the output folder
LONGEST = 60  # letters of a class in a name of a file, which has 255 bytes at most
Size = tuple[int, int]  # height and width
Sums = tuple[NDArray[np.float64], NDArray[np.uint32]]  # of maps [h, w], and of views [h, w, 3]


@dataclass
class Group:
    """The maps of one class's pictures that are about one class.

    Attributes:
        name: of the class of the pictures.
        explained: the class that the maps are about.
        own: whether both are the same.
        size: (height, width) of the first view.
        place: of the sums in the temporary file, in bytes.
        mixed: whether there was a view of another size.
        pictures: how many there are.
        logit: sum of the logits.
        constants: sum of what belongs to no pixel.
        tolerance: sum of what the residuals may be.
        networks: by which they were explained, each with how far down it is exact.
    """

    name: str
    explained: str
    own: bool
    size: Size
    place: int
    mixed: bool = False
    pictures: int = 0
    logit: float = 0.0
    constants: float = 0.0
    tolerance: float = 0.0
    networks: set[str] = field(default_factory=set)


class MapSums:
    """Sums of maps and views by group, in a temporary file. Used in a ``with`` block, after which it is gone.

    Args:
        folder: where the file is.
    """

    def __init__(self, folder: Path) -> None:
        self._file: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (closed by __exit__)
        self._end, self.groups = 0, dict[tuple[str, str], Group]()

    def __enter__(self) -> MapSums:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, name: str, explained: str, own: bool, values: NDArray[np.float32], view: NDArray[np.uint8]) -> Group:
        """Add one map to the sums of its group, in float64.

        Args:
            name: of the class of the picture.
            explained: the class that the map is about.
            own: whether both are the same.
            values: the map [h, w], in logit units.
            view: what the network saw, uint8 [h, w, 3].

        Returns:
            The group. A map of another size is counted in it, but not added.
        """
        height, width = values.shape
        group = self.groups.get((name, explained))
        if group is None:
            group = self.groups[name, explained] = Group(name, explained, own, (height, width), self._end)
            self._end += height * width * (8 + 3 * 4)  # bytes of a pixel in float64, and of three colours in uint32
            sums: Sums = np.zeros((height, width)), np.zeros((height, width, 3), np.uint32)
        elif group.size == (height, width):
            sums = self.sums(group)
        group.pictures += 1
        if group.size != (height, width):
            group.mixed = True
            return group
        total, colours = sums
        total += values
        colours += view
        self._file.seek(group.place)
        self._file.writelines((total.data, colours.data))
        return group

    def sums(self, group: Group) -> Sums:
        """Read the sums of a group.

        Args:
            group: one of ``groups``.

        Returns:
            The sum of its maps, float64 [h, w], and of its views, uint32 [h, w, 3].
        """
        height, width = group.size
        sums: Sums = np.empty((height, width)), np.empty((height, width, 3), np.uint32)
        self._file.seek(group.place)
        for total in sums:
            self._file.readinto(total.data.cast("B"))  # type: ignore[attr-defined]
        return sums

    def chosen(self) -> Iterator[tuple[Group, int]]:
        """Choose one group for every class of pictures: that about this class, else that with the most maps.

        Yields:
            The group, and how many maps of the same pictures are about other classes, in the order of the names.
        """
        best, counts = dict[str, Group](), dict[str, int]()
        for group in self.groups.values():
            counts[group.name] = counts.get(group.name, 0) + group.pictures
            before = best.setdefault(group.name, group)
            if (group.own, group.pictures) > (before.own, before.pictures):
                best[group.name] = group
        for name in sorted(best):
            yield best[name], counts[name] - best[name].pictures


class MeanMapFolder:
    """The folder of the mean maps, which gets its name when the ``with`` block ends well; else nothing is left behind.

    Args:
        output: the folder that it is in.
        replace: whether files that are in it already are replaced.
    """

    def __init__(self, output: Path, *, replace: bool) -> None:
        self._output, self._replace = output, replace
        self._temporary = output / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}.part"
        self._taken = set[str]()

    def __enter__(self) -> MeanMapFolder:
        self._temporary.mkdir()
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        final = self._output / FOLDER
        try:
            if kind is None and not (self._replace and final.is_dir()):
                os.rename(self._temporary, final)  # does not replace a folder with files in it
            elif kind is None:
                for path in self._temporary.iterdir():
                    os.replace(path, final / path.name)
                _remove_earlier(final, self._taken)
        except OSError as error:
            raise MediaError(f"cannot be written ({error.strerror or error})", item=final) from error
        finally:
            shutil.rmtree(self._temporary, ignore_errors=True)

    def write(
        self,
        rows: Iterable[tuple[Label | None, Row]],
        count: int,
        classes: Classes,
        by_label: bool,
        on_error: Callable[[MediaError], None],
        on_file: Callable[[float, int], None],
    ) -> MeanMaps:
        """Add up the maps of all pictures, and write the mean of each class as PNG and npz.

        Args:
            rows: of the pictures, each with the class it belongs to; None where it belongs to none.
            count: how many rows there are.
            classes: of all records.
            by_label: whether the classes of pictures are their labels.
            on_error: hears of maps that cannot be read; of more than MOST_ERRORS, only how many.
            on_file: hears how many pictures were looked at, of how many.

        Returns:
            What was written, and what was not.

        Raises:
            MediaError: the disk is full.
        """
        without = unreadable = 0
        try:
            with MapSums(self._output) as sums:
                for number, (label, row) in enumerate(rows, 1):
                    try:
                        without += label is not None and not _added(sums, label, row, classes)
                    except MediaError as error:
                        unreadable += 1
                        if unreadable <= MOST_ERRORS:
                            on_error(error)
                    on_file(number, count)
                if unreadable > MOST_ERRORS:
                    on_error(MediaError(f"{unreadable - MOST_ERRORS} more maps cannot be read"))
                found = list(sums.chosen())
                one_size = [(group, more) for group, more in found if not group.mixed]
                scale = _scale_of(sums, [group for group, _ in one_size])
                return MeanMaps(
                    maps=tuple(self._write_one(g, sums.sums(g), more, by_label, scale) for g, more in one_size),
                    without_map=without,
                    unreadable=unreadable,
                    different_sizes=tuple(group.name for group, _ in found if group.mixed),
                )
        except OSError as error:
            raise MediaError(f"cannot be written ({error.strerror or error})", item=self._output / FOLDER) from error

    def _write_one(self, group: Group, sums: Sums, more: int, by_label: bool, scale: float) -> MeanMap:
        """Write the mean map of one class as PNG and npz. Raises MediaError."""
        from coda_cli.media.sources import RECORD_KEY
        from coda_cli.media.stills import write_png

        mean, picture = (total / group.pictures for total in sums)
        stem = self._stem(group.name)
        record = _mean_map(group, mean, more, scale)
        record = record.model_copy(update={"files": {kind: f"{FOLDER}/{stem}.{kind}" for kind in ("png", "npz")}})
        content: dict[str, Any] = {"mean": mean, "view": picture, "record": np.array(to_json(record))}
        write_with(self._temporary / f"{stem}.npz", lambda stream: np.savez_compressed(stream, **content))
        rgb = draw_mean_map(mean, np.round(picture).astype(np.uint8), record, sorted(group.networks), by_label)
        write_png(self._temporary / f"{stem}.png", rgb, {RECORD_KEY: to_json(record)})
        return record

    def _stem(self, name: str) -> str:
        """The name of a class's files without the suffix; no other class has it."""
        from coda_cli.explanation.naming import slug

        stem, n = slug(name)[:LONGEST], 2
        while (free := stem if n == 2 else f"{stem}-{n - 1}") in self._taken:
            n += 1
        self._taken.add(free)
        return free


def _remove_earlier(folder: Path, stems: Container[str]) -> None:
    """Remove the files of an earlier summary's classes, which would pass for those of this one.

    Files that coda did not make stay, whatever they are called. Raises OSError.
    """
    for path in folder.glob("*.npz"):
        if path.stem not in stems and _is_ours(path):
            path.with_suffix(".png").unlink(missing_ok=True)
            path.unlink()


def _is_ours(path: Path) -> bool:
    """Whether an npz file is that of a mean map."""
    from coda_cli.explanation.files import BROKEN, MAX_READ
    from coda_cli.machine import budget

    try:
        regular_size(path, MAX_READ)
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as content:
            if content.zip.getinfo("record.npy").file_size > budget.RECORD_FILE:
                return False
            MeanMap.model_validate_json(str(content["record"]))
    except (MediaError, *BROKEN):
        return False
    return True


def _added(sums: MapSums, label: Label, row: Row, classes: Classes) -> bool:
    """Add the map of one picture; False where none is beside its record. Raises MediaError where it cannot be read."""
    from coda_cli.explanation.runs.maps import ROUNDING, kept_maps
    from coda_cli.explanation.runs.stored import Stored, Where, read

    if row.place is None:
        return False
    where = Where(*row.place)
    record = read(where)
    if record.source.path != row.path or not [e for e in record.explained[row.part :][:1] if e.logit == row.logit]:
        raise MediaError("changed while it was read", item=str(where))
    if (kept := kept_maps(Stored(record, where))) is None:
        return False
    part, values = record.explained[row.part], kept.maps[row.part]
    if not 0 <= part.tolerance < LARGEST:
        raise MediaError("has a tolerance that no explanation has; explain its picture again", item=str(where))
    key = _key(part)
    title = row.explained if key is None else classes.title(key)
    group = sums.add(label.title, title, key in label.keys, values, kept.view)
    group.logit += row.logit
    group.constants += row.constants
    group.tolerance += part.tolerance + ROUNDING * float(np.abs(values.astype(np.float64)).sum())
    group.networks.add(record.network.title)
    return True


def _key(part: Explained) -> Key | None:
    """Index and name of an explained class; None of a difference of two."""
    return (part.index, part.name) if part.versus is None else None


def _scale_of(sums: MapSums, groups: Iterable[Group]) -> float:
    """What full colour stands for in all mean maps: so a class with weak evidence looks weak beside the others.

    Not the network's own: what is in other places in other pictures is spread thin, so that with it the mean of a
    hundred pictures is white.
    """
    from coda_cli.explanation.runs.maps import PERCENTILE
    from coda_cli.render.colour import Magnitudes

    sizes = Magnitudes()
    for group in groups:
        sizes.add((sums.sums(group)[0] / group.pictures).astype(np.float32))
    return sizes.percentile(PERCENTILE)


def _mean_map(group: Group, mean: NDArray[np.float64], more: int, scale: float) -> MeanMap:
    """Say what a mean map adds up to."""
    logit, constants, allowed = (v / group.pictures for v in (group.logit, group.constants, group.tolerance))
    total = float(mean.sum())
    return MeanMap(
        name=group.name,
        explained=group.explained,
        pictures=group.pictures,
        other_classes=more,
        width=mean.shape[1],
        height=mean.shape[0],
        logit=logit,
        constants=constants,
        sum=total,
        magnitude=float(np.abs(mean).sum()),
        residual=logit - constants - total,
        tolerance=allowed,
        exact=abs(logit - constants - total) <= allowed,
        scale=scale,
        scale_of="run",
    )


def draw_mean_map(
    mean: NDArray[np.float64], picture: NDArray[np.uint8], record: MeanMap, networks: list[str], by_label: bool
) -> NDArray[np.uint8]:
    """Draw a mean map as a heat map beside the mean picture.

    Args:
        mean: the map [h, w], in logit units.
        picture: the mean of the views, uint8 [h, w, 3].
        record: its numbers.
        networks: by which the pictures were explained.
        by_label: whether the class of the pictures is their label.

    Returns:
        The drawing with colour bar and caption, uint8 [H', W', 3].
    """
    from coda_cli.machine import budget
    from coda_cli.render.overlay import drawing_size, enlarged, framed, heatmap, side_by_side

    size = drawing_size((record.width, record.height), budget.SHEET_PIXELS // 3)
    # The mean picture is beside the map and not below it: where pictures are of different things it is grey fog, which
    # pales the colours, and only by itself does it show whether the pictures are aligned in more than their size.
    row = [enlarged(picture, size), heatmap(enlarged(mean.astype(np.float32), size), record.scale)]
    title = f"{record.explained} · mean map, pictures: {record.pictures}"
    proof = f"residual {record.residual:.1e}" + ("" if record.exact else " ABOVE ITS TOLERANCE")
    whose = "with this label" if by_label else "predicted as this class"
    lines = [
        f"pictures {whose}: {record.name}; mean logit {record.logit:.2f} = {record.sum:.2f} map "
        f"{'−' if record.constants < 0 else '+'} {abs(record.constants):.2f} constants, {proof}",
        f"{', '.join(networks[:3])}; full colour ±{record.scale:.2g} logit a pixel (that of all mean maps)",
    ]
    return framed(side_by_side(row), record.scale, shown_name(title), [shown_name(line) for line in lines])
