"""Options about regions, and what they ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from coda_cli.cli.console import console
from coda_cli.errors import UsageError

if TYPE_CHECKING:
    from coda_cli.explanation.regions.asked import Regions

Boxes = Annotated[
    list[str] | None,
    typer.Option(
        "--box",
        "--region",
        metavar="[NAME=]X0,Y0,X1,Y1",
        help="Sum the contributions in this box, in pixels or in shares such as 0,0,0.5,1; can be repeated.",
    ),
]
RegionBoxes = Annotated[
    list[str] | None,
    typer.Option(
        "--region",
        metavar="[NAME=]X0,Y0,X1,Y1[@TIMES]",
        help="Sum the contributions in this box, in pixels or in shares such as 0,0,0.5,1, at the times 2.5-4; can be "
        "repeated.",
    ),
]
Masks = Annotated[
    str | None,
    typer.Option(
        "--mask",
        metavar="FILE|FOLDER",
        help="Sum the contributions where this picture, or that of a folder for each picture or frame, is not 0.",
    ),
]
Labels = Annotated[
    str | None,
    typer.Option(
        "--labels",
        metavar="all|1=dog,2,...",
        help="Make these values of a mask regions of their own, or take these names of --regions only.",
    ),
]
RegionFile = Annotated[
    str | None,
    typer.Option(
        "--regions",
        metavar="FILE|FOLDER",
        help="Sum the contributions in the regions of this file, or of a folder with one for each picture: COCO, "
        "labelme, YOLO, Pascal VOC.",
    ),
]


def regions_of(
    boxes: list[str] | None, masks: str | None, labels: str | None, annotations: str | None
) -> Regions | None:
    """What the options about regions ask for; None for nothing. Raises UsageError."""
    if not boxes and masks is None and labels is None and annotations is None:
        return None
    from coda_cli.explanation.regions.asked import Regions

    parts = tuple(part.strip() for part in (labels or "").split(",") if part.strip())
    return Regions(tuple(boxes or ()), masks, parts, annotations)


def regions_of_pictures(
    boxes: list[str] | None, masks: str | None, labels: str | None, annotations: str | None, pictures: int
) -> Regions | None:
    """The same for pictures; says which regions are laid on all of them. Raises UsageError."""
    regions = regions_of(boxes, masks, labels, annotations)
    if regions and regions.times:
        raise UsageError("--box: times after @ are for clips; coda video has them")
    for path in regions.of_one_picture if regions and pictures > 1 else ():
        console.say(f"{path}: its regions are laid on every picture; a folder has a file for each, with its name")
    return regions
