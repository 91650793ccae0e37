"""COCO's annotations: instances, as polygons or run lengths, and panoptic segments."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coda_cli.errors import MediaError
from coda_cli.explanation.regions.annotations import Named, Place, chosen, file_box, frame_number, number, plain
from coda_cli.explanation.regions.shapes import Shape, polygon
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
        self._called, self._numbered = _by_name(self._images)
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
        entries, shapes = self._of_image.get(_id(image), []), list[Named]()
        size = (number(image.get("width")), number(image.get("height")))
        for entry in entries:
            if "segments_info" in entry:
                shapes += self._panoptic(entry)
            else:
                name = self._name(entry)
                shapes.append((name, partial(_instance, name, entry, size)))
        return chosen(shapes, wanted, self._names.values())

    def masks(self, place: Place) -> list[Path]:
        """List the masks of a picture's panoptic annotations.

        Args:
            place: the picture, or frame.

        Returns:
            Their files.

        Raises:
            MediaError: the file knows nothing of the picture, or a mask is not there.
        """
        return [self._mask(e) for e in self._of_image.get(_id(self._image(place)), []) if "segments_info" in e]

    def _image(self, place: Place) -> Mapping[str, Any]:
        """The entry of a picture; the one that agrees in most folders goes before others of its name.

        Raises MediaError.
        """
        frame = place.frame
        found = self._called.get(place.path.name, []) if frame is None else self._numbered.get(frame, [])
        if len(found) > 1 and place.frame is None:
            whole = "/" + place.path.absolute().as_posix().lstrip("/")
            agreeing = [image for image in found if whole.endswith("/" + _name_of(image).lstrip("/"))]
            most = max((_name_of(image).lstrip("/").count("/") for image in agreeing), default=0)
            found = [image for image in agreeing if _name_of(image).lstrip("/").count("/") == most] or found
        who = place.path.name if place.frame is None else f"frame {place.frame} (frames are counted from 0)"
        if not found:
            begin = repr(_name_of(self._images[0])) if self._images else "none"
            raise MediaError(f"does not know {who}; its images begin with {begin}")
        if len(found) > 1:
            raise MediaError(f"has {len(found)} images that may be {who}; their names differ only in folders")
        return found[0]

    def _name(self, entry: Mapping[str, Any]) -> str:
        """The name of an annotation's category. Raises MediaError."""
        index = _id(entry, "category_id")
        if index not in self._names:
            raise MediaError(f"a region is of category {index}, which is not among its categories")
        return self._names[index]

    def _panoptic(self, entry: Mapping[str, Any]) -> Iterator[Named]:
        """The segments of a panoptic annotation, from the mask beside it."""
        numbers = read_mask(self._mask(entry))
        for segment in _objects(entry, "segments_info"):
            name = self._name(segment)
            yield name, partial(_segment, name, numbers, _id(segment))

    def _mask(self, entry: Mapping[str, Any]) -> Path:
        """The mask of a panoptic annotation. Raises MediaError."""
        name = entry.get("file_name")
        if not isinstance(name, str) or Path(name).is_absolute() or ".." in Path(name).parts:
            raise MediaError("a panoptic annotation names no mask beside it")
        folders = (self._path.with_suffix(""), self._path.parent)
        if (mask := next((f / name for f in folders if (f / name).is_file()), None)) is None:
            raise MediaError(f"its mask {name} is neither in {folders[0].name}/ nor beside it")
        return mask


def _by_name(
    images: Sequence[dict[str, Any]],
) -> tuple[Mapping[str, list[dict[str, Any]]], Mapping[int, list[dict[str, Any]]]]:
    """Images by their names without folders, and by the frames that they belong to: looked up for every picture."""
    called, numbered = defaultdict[str, list[dict[str, Any]]](list), defaultdict[int, list[dict[str, Any]]](list)
    for image in images:
        name = _name_of(image)
        called[name.rpartition("/")[2]].append(image)
        if (number_of := frame_number(name)) is not None:
            numbered[number_of].append(image)
    return called, numbered


def _name_of(image: Mapping[str, Any]) -> str:
    """The name of an image, its folders between slashes."""
    return str(image.get("file_name", "")).replace("\\", "/")


def _segment(name: str, numbers: NDArray[np.int32], value: int) -> Shape:
    """The region of one segment."""
    return Shape(name, mask=numbers == value, size=(numbers.shape[1], numbers.shape[0]))


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
    return Shape(name, (file_box(name, x, y, x + w, y + h),), size=size)


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
        but = "" if value is None else f" that is a whole number: {str(value)[:40]!r}"
        raise MediaError(f"an entry has no {key}{but}")
    return value
