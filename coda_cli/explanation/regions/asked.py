"""Which regions are asked for, and finding those of one picture or frame."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from numbers import Real
from pathlib import Path

import numpy as np

from coda_cli.checkpoints.headers import odd_name
from coda_cli.errors import CodaError, MediaError, UsageError
from coda_cli.explanation.regions.annotations import (
    SUFFIXES_OF_ANNOTATIONS,
    Place,
    files_beside,
    frame_number,
    knows_many,
    shapes_in,
)
from coda_cli.explanation.regions.shapes import Region, Shape, box_ring, laid, with_own_names
from coda_cli.machine import budget
from coda_cli.media.addresses import refuse_missing
from coda_cli.media.files import read_whole, regular_size, utf8
from coda_cli.media.masks import read_mask
from coda_cli.media.stills import SUFFIXES
from coda_cli.media.view import View
from coda_cli.video.spans import Box, parse_span

EVERY_LABEL = "all"
SUFFIXES_OF_MASKS = (".png", *(suffix for suffix in SUFFIXES if suffix != ".png"))  # the usual one first


@dataclass(frozen=True)
class Found:
    """The regions of one picture.

    Attributes:
        regions: laid on what the network saw.
        files: the files that they are from: path -> sha256.
        boxes: as they were given; None where no regions were asked for.
        labels: as they were given.
    """

    regions: tuple[Region, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    boxes: tuple[str, ...] | None = None
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Regions:
    """Parts of pictures, or of the frames of a clip, whose contributions are summed.

    Making one raises UsageError for a box that is none, and for a file that does not exist.

    Attributes:
        boxes: each "X0,Y0,X1,Y1" in pixels of the original, or relative to it where no number is above 1 or all end
            in %; with a name before it, "dog=10,20,300,200", and for clips with times after it, "0,0,0.5,1@2.5-4". Four
            numbers do as well. For many pictures with boxes of their own, a mapping from the path or the name of each
            to its boxes.
        masks: a picture whose pixels other than 0 are inside, or a folder with one for each picture, or frame.
        labels: of masks, "all" or the values that are regions of their own, each with a name if it is given one:
            "1=dog"; of annotations, the names that are wanted.
        annotations: a file of regions, or a folder with one for each picture: COCO (instances or panoptic), labelme,
            YOLO, Pascal VOC.
    """

    boxes: tuple[str, ...] | Mapping[str, tuple[str, ...]] = ()
    masks: str | None = None
    labels: tuple[str, ...] = ()
    annotations: str | None = None

    def __post_init__(self) -> None:
        given = self.boxes
        boxes = {str(k): _texts(own) for k, own in given.items()} if isinstance(given, Mapping) else _texts(given)
        object.__setattr__(self, "boxes", boxes)
        object.__setattr__(self, "labels", _texts(self.labels))
        for text in self._every_box:
            _parsed(text)
        for name in ("masks", "annotations"):
            if (given := getattr(self, name)) is not None:
                object.__setattr__(self, name, str(given))
                refuse_missing(str(given), "masks and annotations")
        if self.labels and self.masks is None and self.annotations is None:
            raise UsageError("--labels chooses among the parts of --mask or --regions; give one of these")
        _named_values(self.labels, strict=self.masks is not None and self.annotations is None)

    @property
    def times(self) -> dict[str, tuple[float, float]]:
        """The boxes that hold for a part of a clip only, as they are written, with start and end in seconds."""
        return {text: span for text in self._every_box if (span := _parsed(text)[2])}

    @property
    def of_one_picture(self) -> tuple[str, ...]:
        """The files that hold the regions of one picture, which are laid on every one: all but COCO's and folders."""
        given = [path for path in (self.masks, self.annotations) if path is not None and not Path(path).is_dir()]
        return tuple(path for path in given if path is self.masks or not knows_many(Path(path)))

    @property
    def _every_box(self) -> tuple[str, ...]:
        """The boxes of all pictures."""
        return sum(self.boxes.values(), ()) if isinstance(self.boxes, Mapping) else self.boxes

    def _boxes_of(self, place: Place) -> tuple[str, ...]:
        """The boxes of one picture, as they are written. Raises MediaError where only others have any."""
        if not isinstance(self.boxes, Mapping):
            return self.boxes
        for key in (place.path.as_posix(), place.path.name):
            if key in self.boxes:
                return self.boxes[key]
        raise MediaError(f"no boxes are given for {place.path.name}; write an empty list where it has none")

    def files(self, place: Place) -> dict[str, str]:
        """List the files that say what the regions of a picture are.

        Args:
            place: the picture, or frame.

        Returns:
            Path -> sha256.

        Raises:
            MediaError: a folder has no file for the picture, or a file cannot be read or does not know the picture.
        """
        named = [path for path in (self._mask_of(place), self._annotations_of(place)) if path]
        if self.annotations is not None:
            named += files_beside(named[-1], place)
        return {utf8(path.as_posix()): _sha256(path) for path in named}

    def key(self, place: Place) -> tuple[object, ...]:
        """Say what the regions of a frame depend on; frames with the same key have the same.

        Args:
            place: the frame.

        Returns:
            The boxes of its time, its files with their hashes, and its number where a file may know many frames.

        Raises:
            MediaError: a folder has no file for the frame, or a file cannot be read.
        """
        holding = tuple(text for text in self._boxes_of(place) if _holds(_parsed(text)[2], place.time))
        many = self.annotations is not None and not Path(self.annotations).is_dir()
        return holding, tuple(self.files(place).items()), place.frame if many else None

    def found(self, place: Place, view: View) -> Found:
        """Find the regions of a picture, laid on what the network saw of it.

        Args:
            place: the picture, or frame.
            view: what the network saw; its ``size`` is that of the original.

        Returns:
            The regions, in the order boxes, masks, annotations, and their files.

        Raises:
            MediaError: a file is missing, cannot be read or does not fit the picture, or a box lies outside of it.
            UsageError: a box has times, and this is no clip.
        """
        files = self.files(place)
        shapes = with_own_names((*self._boxes(view.size, place), *self._masks(place), *self._annotated(place)))
        regions, size = list[Region](), 0
        for shape in shapes:
            regions.append(laid(shape, view))
            size += regions[-1].coverage.shares.nbytes
            if size > budget.REGIONS_BYTES:
                raise MediaError(f"its {len(shapes)} regions take too much memory at this size; choose some of them")
        return Found(tuple(regions), files, self._boxes_of(place), self.labels)

    def _boxes(self, size: tuple[int, int], place: Place) -> Iterator[Shape]:
        for k, text in enumerate(self._boxes_of(place), 1):
            name, numbers, span = _parsed(text)
            if span and place.time is None:
                raise UsageError(f"--box {text}: has times, and a picture has none")
            if not _holds(span, place.time):
                continue
            yield Shape(name or f"box {k}", (box_ring(*_in_pixels(numbers, size, text)),))

    def _masks(self, place: Place) -> Iterator[Shape]:
        if (path := self._mask_of(place)) is None:
            return
        numbers, values = read_mask(path), _named_values(self.labels, strict=False)
        if not self.labels:
            yield Shape("mask", mask=numbers != 0, size=(numbers.shape[1], numbers.shape[0]))
            return
        if EVERY_LABEL in self.labels:
            values = {int(v): values.get(int(v), str(v)) for v in np.unique(numbers) if v}
        for value, name in values.items():
            yield Shape(name, mask=numbers == value, size=(numbers.shape[1], numbers.shape[0]))

    def _annotated(self, place: Place) -> Iterator[Shape]:
        if (path := self._annotations_of(place)) is None:
            return
        try:
            yield from shapes_in(path, place, tuple(name for name in self.labels if name != EVERY_LABEL))
        except CodaError as error:
            raise error.about(path)  # noqa: B904 (it is the same error)

    def _mask_of(self, place: Place) -> Path | None:
        return _file_for(self.masks, place, SUFFIXES_OF_MASKS, "mask")

    def _annotations_of(self, place: Place) -> Path | None:
        return _file_for(self.annotations, place, SUFFIXES_OF_ANNOTATIONS, "file of regions")


def _texts(given: object) -> tuple[str, ...]:
    """One text or several; the numbers of a box can stand for its text."""
    if isinstance(given, str) or not isinstance(given, Iterable):
        return (str(given),)
    listed = list(given)
    if listed and all(isinstance(number, Real) for number in listed):
        return (",".join(map(str, listed)),)
    return tuple(text for one in listed for text in _texts(one))


def _parsed(text: str) -> tuple[str, tuple[str, ...], tuple[float, float] | None]:
    """The name, the four numbers and the times of a box. Raises UsageError."""
    name, equals, rest = text.rpartition("=")
    coordinates, at, times = rest.partition("@")
    parts = tuple(part.strip() for part in coordinates.split(","))
    number = re.compile(r"-?(\d+(\.\d*)?|\.\d+)%?")
    if len(parts) != 4 or not all(number.fullmatch(part) for part in parts):
        raise UsageError(f"--box {text}: expected left,top,right,bottom, as in 10,20,300,200 or dog=0.1,0.2,0.5,0.9")
    if len({part.endswith("%") for part in parts}) > 1:
        raise UsageError(f"--box {text}: all four numbers are percentages, or none")
    if equals and odd_name(name):
        raise UsageError(f"--box {text}: the name before = is empty, too long, or cannot be shown")
    return name, parts, parse_span(times) if at else None


def _holds(span: tuple[float, float] | None, time: float | None) -> bool:
    """Whether a box with these times holds at a time."""
    return span is None or time is None or span[0] <= time < span[1]


def _in_pixels(parts: tuple[str, ...], size: tuple[int, int], text: str) -> Box:
    """A box in pixels of a picture. Raises MediaError where it is empty or reaches beyond the picture."""
    x0, y0, x1, y1 = (float(part.rstrip("%")) / (100 if part.endswith("%") else 1) for part in parts)
    relative = parts[0].endswith("%") or max(x0, y0, x1, y1) <= 1
    kx, ky = size if relative else (1, 1)
    x0, y0, x1, y1 = x0 * kx, y0 * ky, x1 * kx, y1 * ky
    if not (x0 < x1 and y0 < y1):
        raise MediaError(f"the box {text} is empty; expected left < right and top < bottom")
    if min(x0, y0) < 0 or x1 > size[0] + 1e-6 or y1 > size[1] + 1e-6:
        raise MediaError(f"the box {text} reaches beyond the picture of {size[0]} x {size[1]} pixels")
    return x0, y0, x1, y1


def _named_values(labels: tuple[str, ...], *, strict: bool) -> dict[int, str]:
    """The values of masks that labels name. Raises UsageError, where ``strict``, for a label that has no value."""
    values: dict[int, str] = {}
    for label in labels:
        value, equals, name = label.partition("=")
        if value.strip().isdecimal() and len(value) < 10:
            if equals and odd_name(name):
                raise UsageError(f"--labels {label}: the name after = is empty, too long, or cannot be shown")
            values[int(value)] = name if equals else value.strip()
        elif strict and label != EVERY_LABEL:
            raise UsageError(f"--labels {label}: expected all, or values of the mask such as 1,2 or 1=dog,2=cat")
    return values


def _file_for(given: str | None, place: Place, suffixes: tuple[str, ...], what: str) -> Path | None:
    """The file itself, or the one of a folder that belongs to a picture or frame. Raises MediaError."""
    if given is None or not Path(given).is_dir():
        return None if given is None else Path(given)
    if place.frame is not None:
        found = _numbered(Path(given), suffixes, Path(given).stat().st_mtime_ns).get(place.frame)
        matches = [found] if found else []
        expected = f"whose name ends in {place.frame}; frames are counted from 0"
    else:
        folders = dict.fromkeys((Path(given) / place.subfolder, Path(given)))
        spelled = [way for suffix in suffixes for way in (suffix, suffix.upper())]
        names = [base + suffix for base in (place.path.stem, place.path.name) for suffix in spelled]
        matches = [folder / name for folder in folders for name in names if (folder / name).is_file()]
        expected = f"named {place.path.stem}{suffixes[0]}"
    if not matches:
        raise MediaError(f"the folder {given} has no {what} {expected}")
    return matches[0]


def _sha256(path: Path) -> str:
    """The hash of a file's bytes; that of a file that many pictures share is kept. Raises MediaError."""
    regular_size(path, budget.PICTURE_FILE)
    status = path.stat()
    return _sha256_as_it_is(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=64)
def _sha256_as_it_is(path: Path, _changed: int, _size: int) -> str:
    return hashlib.sha256(read_whole(path, budget.PICTURE_FILE)).hexdigest()


@lru_cache(maxsize=4)
def _numbered(folder: Path, suffixes: tuple[str, ...], _changed: int) -> dict[int, Path]:
    """The files of a folder that belong to frames, by their numbers."""
    files = sorted((path for path in folder.iterdir() if path.suffix.lower() in suffixes), reverse=True)
    numbers = ((frame_number(path.name), path) for path in files)
    return {number: path for number, path in numbers if number is not None}
