"""Regions in files of annotations: labelme, YOLO and Pascal VOC here, COCO in ``coco``.

The files are of others and are read strictly; only what is needed is taken.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from threading import Lock
from typing import Any
from xml.etree import ElementTree

import numpy as np

from coda_cli.checkpoints.descriptions import read_json
from coda_cli.checkpoints.headers import odd_name
from coda_cli.errors import MediaError
from coda_cli.explanation.regions.shapes import Shape, box_ring, polygon
from coda_cli.explanation.regions.strict_xml import read_xml
from coda_cli.machine import budget
from coda_cli.media.coverage import Ring
from coda_cli.media.files import read_whole

SUFFIXES_OF_ANNOTATIONS = (".json", ".xml", ".txt")
NAMES_OF_YOLO = "classes.txt"  # beside the files: a name on each line
CIRCLE = 360  # corners of the polygon that stands for a circle; its area is 0.005 % less

Named = tuple[str, Callable[[], Shape]]  # a region's name, and its shape, which is made where it is wanted


@dataclass(frozen=True)
class Place:
    """What regions are looked for: a picture, or a frame of a clip.

    Attributes:
        path: the picture's file, or the clip's.
        subfolder: its place in a scanned tree of folders.
        frame: number of the frame, from 0; None for a picture.
        time: of the frame, in seconds; None for a picture.
    """

    path: Path
    subfolder: Path = Path()
    frame: int | None = None
    time: float | None = None


def frame_number(name: str) -> int | None:
    """Find the number of the frame that a file belongs to.

    Args:
        name: of the file, with or without folders.

    Returns:
        The last digits of the name without its suffix, as a number; None where there are none.
    """
    digits = re.findall(r"[0-9]+", Path(name.replace("\\", "/")).stem)
    return int(digits[-1]) if digits and len(digits[-1]) < 10 else None


def shapes_in(path: Path, place: Place, wanted: tuple[str, ...] = ()) -> list[Shape]:
    """Read the regions of a picture from a file.

    Args:
        path: a .json file of COCO or labelme, an .xml file of Pascal VOC, or a .txt file of YOLO.
        place: the picture, or frame.
        wanted: the names that are taken; all unless given.

    Returns:
        The shapes, in the order of the file.

    Raises:
        MediaError: the file cannot be read, is none of these, knows nothing of the picture, or has no such name.
    """
    suffix = path.suffix.lower()
    if suffix == ".xml":
        shapes = _of_voc(read_xml(read_whole(path, budget.ANNOTATIONS_FILE)))
    elif suffix == ".txt":
        shapes = _of_yolo(path)
    elif suffix == ".json":
        return _of_json(path, place, wanted)
    else:
        raise MediaError("expected .json (COCO or labelme), .xml (Pascal VOC) or .txt (YOLO)")
    return chosen(shapes, wanted)


def files_beside(path: Path, place: Place) -> list[Path]:
    """List the files beside a file of regions that say, with it, what the regions of a picture are.

    Args:
        path: the file of regions.
        place: the picture, or frame.

    Returns:
        The masks of a panoptic COCO file, and the names of a YOLO file's classes.

    Raises:
        MediaError: the file cannot be read, or does not know the picture.
    """
    if path.suffix.lower() == ".txt":
        names = _names_beside(path)
        return [] if names is None else [names]
    if path.suffix.lower() != ".json":
        return []
    from coda_cli.explanation.regions.coco import Coco

    try:
        content = _json(path)
        return content.masks(place) if isinstance(content, Coco) else []
    except MediaError as error:
        raise error.about(path)  # noqa: B904 (it is the same error)


def knows_many(path: Path) -> bool:
    """Say whether a file of regions tells pictures apart.

    Args:
        path: the file.

    Returns:
        Whether it is one of COCO; False also where it cannot be read, which is said where its regions are taken.
    """
    from coda_cli.explanation.regions.coco import Coco

    with contextlib.suppress(MediaError):
        return path.suffix.lower() == ".json" and isinstance(_json(path), Coco)
    return False


def _of_json(path: Path, place: Place, wanted: tuple[str, ...]) -> list[Shape]:
    from coda_cli.explanation.regions.coco import Coco

    content = _json(path)
    if isinstance(content, Coco):
        return content.shapes(place, wanted)
    return chosen(_of_labelme(content), wanted)


def _json(path: Path) -> Any:
    """What a JSON file holds: a ``Coco``, or an object of labelme; the last few files are kept. Raises MediaError."""
    try:
        status = path.stat()
    except OSError as error:
        raise MediaError(f"cannot be read ({error.strerror or error})") from error
    with _READING:  # of several threads that want the same file, one reads it
        return _json_as_it_is(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=2)
def _json_as_it_is(path: Path, _changed: int, _size: int) -> Any:
    from coda_cli.explanation.regions.coco import Coco

    try:
        content = read_json(read_whole(path, budget.ANNOTATIONS_FILE).decode("utf-8-sig"))
    except ValueError as error:
        raise MediaError(f"is not JSON that can be read ({' '.join(str(error).split())[:150]})") from error
    if isinstance(content, dict) and isinstance(content.get("annotations"), list):
        return Coco(content, path)
    if isinstance(content, dict) and isinstance(content.get("shapes"), list):
        return content
    raise MediaError("is JSON of neither COCO (images and annotations) nor labelme (shapes)")


_READING = Lock()


def chosen(shapes: Iterable[Named], wanted: tuple[str, ...], known: Iterable[str] = ()) -> list[Shape]:
    """Take the shapes with the names that are wanted; what is wrong with others does not matter.

    Args:
        shapes: those of the picture.
        wanted: names; none means all.
        known: names that the file has, besides those of the shapes.

    Returns:
        The shapes, at least one.

    Raises:
        MediaError: a name is not known, nothing is left, or a shape that is wanted is none.
    """
    listed_shapes = list(shapes)
    names = sorted({*known, *(name for name, _ in listed_shapes)})
    if unknown := [name for name in wanted if name not in names]:
        listed = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
        raise MediaError(f"there is no {unknown[0]} among its names: {listed or 'it has none'}")
    kept = [make() for name, make in listed_shapes if not wanted or name in wanted]
    if not kept:
        raise MediaError("has no region for this picture" + (f" with the name {', '.join(wanted)}" if wanted else ""))
    return kept


def plain(value: object, what: str) -> str:
    """Check a name in a file.

    Args:
        value: what stands there.
        what: what it names, for the message.

    Returns:
        The name.

    Raises:
        MediaError: it is none that can be shown.
    """
    text = str(value) if isinstance(value, str | int) else ""
    if odd_name(text):
        raise MediaError(f"a {what} has no name that can be shown")
    return text


def number(value: object) -> float:
    """Check a number in a file.

    Args:
        value: what stands there.

    Returns:
        The number.

    Raises:
        MediaError: it is none, or too large for a place in a picture.
    """
    try:
        found = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if isinstance(value, bool) or not abs(found) < 1e7:
        raise MediaError(f"{str(value)[:40]!r} stands where a number of pixels is expected")
    return found


def file_box(name: str, x0: float, y0: float, x1: float, y1: float) -> Ring:
    """Make the polygon of a box in a file.

    Args:
        name: of the region.
        x0: left edge, in pixels.
        y0: top edge, in pixels.
        x1: right edge, in pixels.
        y1: bottom edge, in pixels.

    Returns:
        Its corners [4, 2].

    Raises:
        MediaError: its right edge lies before the left one, or its bottom above its top.
    """
    if x1 < x0 or y1 < y0:
        raise MediaError(f"the box of {name} has its edges in the wrong order: {x0:g},{y0:g} to {x1:g},{y1:g}")
    return box_ring(x0, y0, x1, y1)


# ---- labelme ---------------------------------------------------------------------------------------------------------


def _of_labelme(content: Mapping[str, Any]) -> Iterator[Named]:
    """The shapes of a labelme file. Raises MediaError."""
    for entry in content["shapes"]:
        if not isinstance(entry, dict):
            raise MediaError("a shape has no points")
        name = plain(entry.get("label"), "shape")
        yield name, partial(_labelme_shape, name, entry, content)


def _labelme_shape(name: str, entry: Mapping[str, Any], content: Mapping[str, Any]) -> Shape:
    """One shape of a labelme file. Raises MediaError."""
    size = (number(content.get("imageWidth")), number(content.get("imageHeight")))
    kind, points = entry.get("shape_type") or "polygon", entry.get("points")
    if not isinstance(points, list):
        raise MediaError(f"the shape {name} has no points")
    if not all(isinstance(point, list) and len(point) == 2 for point in points):
        raise MediaError(f"the shape {name} has points that are not x, y")
    flat = [number(value) for point in points for value in point]
    if kind == "rectangle" and len(points) == 2:
        (x0, x1), (y0, y1) = sorted(flat[::2]), sorted(flat[1::2])
        ring = box_ring(x0, y0, x1, y1)
    elif kind == "circle" and len(points) == 2:
        angles = np.linspace(0, 2 * np.pi, CIRCLE, endpoint=False)
        radius = math.hypot(flat[2] - flat[0], flat[3] - flat[1])
        ring = np.stack([flat[0] + radius * np.cos(angles), flat[1] + radius * np.sin(angles)], 1)
    elif kind in ("polygon", "rectangle", "rotation"):
        ring = polygon(flat)
    else:
        raise MediaError(f"the shape {name} is a {str(kind)[:20]}; polygons, rectangles and circles are read")
    return Shape(name, (ring,), size=size)


# ---- YOLO ------------------------------------------------------------------------------------------------------------


def _of_yolo(path: Path) -> Iterator[Named]:
    """The shapes of a YOLO file: boxes "class x y width height" or polygons "class x y x y ...", relative to 1."""
    beside = _names_beside(path)
    names = [] if beside is None else _lines(beside)
    while names and not names[-1]:
        names.pop()
    for n, line in enumerate(_lines(path), 1):
        if not line:
            continue
        first, *rest = line.split()
        if not first.isdecimal() or len(first) > 6:
            raise MediaError(f"line {n} does not begin with the number of a class")
        index = int(first)
        if names and index >= len(names):
            raise MediaError(f"line {n} is of class {index}, and {NAMES_OF_YOLO} beside it has {len(names)} names")
        name = plain(names[index] if names else first, "class")
        yield name, partial(_yolo_shape, n, name, rest)


def _yolo_shape(n: int, name: str, numbers: Sequence[str]) -> Shape:
    """The shape on line ``n`` of a YOLO file. Raises MediaError."""
    try:
        values = [float(value) for value in numbers]
    except ValueError as error:
        raise MediaError(f"line {n} holds something that is no number") from error
    if not all(-1e-6 <= value <= 1 + 1e-6 for value in values):
        raise MediaError(f"line {n} has numbers outside 0 to 1; YOLO's are relative to the picture")
    if len(values) == 4:
        x, y, w, h = values
        ring = box_ring(x - w / 2, y - h / 2, x + w / 2, y + h / 2)
    elif len(values) >= 6:
        ring = polygon(values)
    else:
        raise MediaError(f"line {n} has {len(values)} numbers after its class; expected 4, or 6 and more")
    return Shape(name, (ring,), relative=True)


def _names_beside(path: Path) -> Path | None:
    """The file with the names of the classes of a YOLO file; None where there is none."""
    beside = path.parent / NAMES_OF_YOLO
    return beside if beside.is_file() and beside != path else None


def _lines(path: Path) -> list[str]:
    """The lines of a text file, without the spaces around them. Raises MediaError."""
    try:
        text = read_whole(path, budget.ANNOTATIONS_FILE).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise MediaError("is not a text in UTF-8", item=path) from error
    return [line.strip() for line in text.split("\n")]


# ---- Pascal VOC ------------------------------------------------------------------------------------------------------


def _of_voc(root: ElementTree.Element) -> Iterator[Named]:
    """The boxes of a Pascal VOC file; its pixels are counted from 1, and the last one belongs to the box."""
    if root.tag != "annotation":
        raise MediaError("is XML, but not a Pascal VOC annotation")
    width, height = root.findtext("size/width"), root.findtext("size/height")
    size = (number(width), number(height)) if width and height else None
    for entry in root.findall("object"):
        name = plain((entry.findtext("name") or "").strip(), "object")
        yield name, partial(_voc_shape, name, entry, size)


def _voc_shape(name: str, entry: ElementTree.Element, size: tuple[float, float] | None) -> Shape:
    """The box of one object. Raises MediaError."""
    x0, y0, x1, y1 = (number(entry.findtext(f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax"))
    return Shape(name, (file_box(name, x0 - 1, y0 - 1, x1, y1),), size=size)
