"""COCO's annotations: instances, as polygons or run lengths, and panoptic segments."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coda_cli.errors import MediaError
from coda_cli.explanation.regions.annotations import Place, chosen, number, plain
from coda_cli.explanation.regions.shapes import Shape, box_ring, polygon
from coda_cli.media.masks import read_mask
from coda_cli.media.stills import refuse_bombs


class Coco:
    """A file of COCO annotations: many pictures, each with regions of named categories.

    Args:
        content: what the JSON holds.
        path: the file; panoptic masks lie in the folder of its name, or beside it.

    Raises:
        MediaError: a list of it is missing, or holds something else than objects.
    """

    def __init__(self, content: Mapping[str, Any], path: Path) -> None:
        self._path = path
        self._images = _objects(content, "images")
        self._names = {_id(c): plain(c.get("name"), "category") for c in _objects(content, "categories")}
        self._of_image: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for entry in _objects(content, "annotations"):
            self._of_image[_id(entry, "image_id")].append(entry)

    def shapes(self, place: Place, wanted: tuple[str, ...] = ()) -> list[Shape]:
        """Find the regions of a picture.

        Args:
            place: the picture, or frame.
            wanted: the names of the categories that are taken; all unless given.

        Returns:
            The shapes, in the order of the file.

        Raises:
            MediaError: the file knows nothing of the picture or of a category, or its numbers make no region.
        """
        image = self._image(place)
        entries, shapes = self._of_image.get(_id(image), []), list[Shape]()
        size = (number(image.get("width")), number(image.get("height")))
        for entry in entries:
            if "segments_info" in entry:
                shapes += self._panoptic(entry)
            else:
                shapes.append(_instance(self._name(entry), entry, size))
        return chosen(shapes, wanted, self._names.values())

    def _image(self, place: Place) -> Mapping[str, Any]:
        """The entry of a picture; one whose folders agree goes before others of the same name. Raises MediaError."""
        named = [(i, str(i.get("file_name", ""))) for i in self._images]
        found = [(image, name) for image, name in named if place.names(name)]
        if len(found) > 1 and place.frame is None:
            whole = "/" + place.path.absolute().as_posix().lstrip("/")
            found = [(image, name) for image, name in found if whole.endswith("/" + name.lstrip("/"))] or found
        who = place.path.name if place.frame is None else f"frame {place.frame} (frames are counted from 0)"
        if not found:
            raise MediaError(f"does not know {who}; its images begin with {named[0][1] if named else 'none'!r}")
        if len(found) > 1:
            raise MediaError(f"has {len(found)} images that may be {who}; their names differ only in folders")
        return found[0][0]

    def _name(self, entry: Mapping[str, Any]) -> str:
        """The name of an annotation's category. Raises MediaError."""
        index = _id(entry, "category_id")
        if index not in self._names:
            raise MediaError(f"a region is of category {index}, which is not among its categories")
        return self._names[index]

    def _panoptic(self, entry: Mapping[str, Any]) -> Iterator[Shape]:
        """The segments of a panoptic annotation, from the mask beside it."""
        name = entry.get("file_name")
        if not isinstance(name, str) or Path(name).is_absolute() or ".." in Path(name).parts:
            raise MediaError("a panoptic annotation names no mask beside it")
        folders = (self._path.with_suffix(""), self._path.parent)
        if (mask := next((f / name for f in folders if (f / name).is_file()), None)) is None:
            raise MediaError(f"its mask {name} is neither in {folders[0].name}/ nor beside it")
        numbers = read_mask(mask)
        for segment in _objects(entry, "segments_info"):
            inside = numbers == _id(segment)
            yield Shape(self._name(segment), mask=inside, size=(inside.shape[1], inside.shape[0]))


def _instance(name: str, entry: Mapping[str, Any], size: tuple[float, float]) -> Shape:
    """The region of one instance: its polygons, its run lengths, or its box where it has neither. Raises MediaError."""
    segmentation = entry.get("segmentation")
    if isinstance(segmentation, dict):
        return Shape(name, mask=run_lengths(segmentation, size), size=size)
    if isinstance(segmentation, list) and segmentation:
        if not all(isinstance(part, list) for part in segmentation):
            raise MediaError(f"the segmentation of a {name} is no list of polygons")
        return Shape(name, tuple(polygon(part) for part in segmentation), size=size)
    box = entry.get("bbox")
    if not isinstance(box, list) or len(box) != 4:
        raise MediaError(f"a {name} has neither a segmentation nor a box")
    x, y, w, h = map(number, box)
    return Shape(name, (box_ring(x, y, x + w, y + h),), size=size)


def run_lengths(value: Mapping[str, Any], size: tuple[float, float]) -> NDArray[np.bool_]:
    """Decode COCO's run lengths: lengths of runs of 0 and 1 in turn, column by column.

    Args:
        value: "counts", a list of lengths or COCO's text of them, and "size", [height, width].
        size: (width, height) in pixels that the picture has.

    Returns:
        bool [height, width].

    Raises:
        MediaError: these are not the run lengths of a mask of that size.
    """
    width, height = round(size[0]), round(size[1])
    if value.get("size") != [height, width]:
        raise MediaError(f"run lengths of size {str(value.get('size'))[:40]}, and the picture is {height} x {width}")
    refuse_bombs(Path("mask"), (width, height))
    counts = value.get("counts")
    lengths = _decoded(counts) if isinstance(counts, str) else counts
    if not isinstance(lengths, list) or not all(isinstance(n, int) and 0 <= n <= width * height for n in lengths):
        raise MediaError("run lengths that are no whole numbers from 0 on")
    if sum(lengths) != width * height:
        raise MediaError(f"run lengths of {sum(lengths)} pixels in all, and the picture has {width * height}")
    inside = np.arange(len(lengths)) % 2 == 1
    return np.repeat(inside, lengths).reshape(width, height).T


def _decoded(text: str) -> Sequence[int]:
    """The lengths in COCO's text: five bits a character from "0" on, the sixth says that more follow.

    From the third on, the difference to the length before the last is written.
    """
    lengths, value, shift = list[int](), 0, 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64 or shift > 30:
            raise MediaError("run lengths with characters that COCO does not write")
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:
            value -= 1 << shift
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
        value = shift = 0
    return lengths


def _objects(content: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    """A list of objects. Raises MediaError."""
    entries = content.get(key)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise MediaError(f"its {key} are no list of objects, as COCO's are")
    return entries


def _id(entry: Mapping[str, Any], key: str = "id") -> int:
    """A whole number. Raises MediaError."""
    value = entry.get(key)
    if not isinstance(value, int) or isinstance(value, bool):
        raise MediaError(f"an entry has no {key}")
    return value
