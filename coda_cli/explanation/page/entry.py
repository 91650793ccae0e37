"""The part of a page about one picture: what a reader sees of it without a script, and what the script reads."""

from __future__ import annotations

import base64
import json
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np

from coda_cli.checkpoints.labels import class_of_folder
from coda_cli.explanation.page.maps import pack
from coda_cli.explanation.page.templates import in_script, rendered
from coda_cli.explanation.phrases import equation, regions_text, standing, title_of
from coda_cli.explanation.picture import Explanation
from coda_cli.explanation.request import Input
from coda_cli.machine import gate
from coda_cli.media.files import shown_name
from coda_cli.media.pictures import jpeg, shrunk, small_copy
from coda_cli.media.view import paste_back
from coda_cli.render.overlay import overlay
from coda_cli.schema.parts import to_json
from coda_cli.schema.pictures import Record

LONGEST = 480  # pixels of the longer side of a picture in a page
LONGEST_THUMBNAIL = 96  # of one on the sheet of many pages; about 2.3 kB, so that 10,000 of them take 30 MB as text
_THUMBNAIL_QUALITY = 60  # of JPEG
_COPY_BYTES = 8  # for one pixel of the original while it is made smaller


class Entry(NamedTuple):
    """An input's part of a page, UTF-8.

    Attributes:
        html: what the page has of it.
        line: JSON, what a sheet of many pages has of it; nothing where there is no such sheet.
    """

    html: bytes
    line: bytes = b""


def entry_of(source: Input, explanation: Explanation, record: Record, *, thumbnail: float | None = None) -> Entry:
    """Make the part of a page about one picture.

    Args:
        source: the picture as it was read.
        explanation: its explanation.
        record: its record.
        thumbnail: opacity of full colour, from 0 to 1, in the small overlay for a sheet of many pages; None makes none.

    Returns:
        HTML with the picture at a smaller size, the maps of all targets and the record; and with ``thumbnail`` what the
        sheet of many pages has of it.
    """
    height, width = source.picture.rgb.shape[:2]
    with gate.PICTURES.holding(height * width * _COPY_BYTES):
        kind, content, size = small_copy(source.picture.rgb, LONGEST)
    told = _told(source, explanation, record)
    html = rendered(
        "entry.html",
        **told,
        image=f"data:image/{kind};base64,{base64.b64encode(content).decode()}",
        size=size,
        first=record.explained[0],
        said=[_said(record, k) for k in range(len(record.explained))],
        data=in_script(_data(source, explanation, record, size)),
    ).encode()
    if thumbnail is None:
        return Entry(html)
    return Entry(
        html, in_script(json.dumps(_line(told, record, _thumbnail(source, explanation, record, thumbnail)))).encode()
    )


def _told(source: Input, explanation: Explanation, record: Record) -> dict[str, Any]:
    """What a card says of the picture."""
    path = source.item.path.absolute()
    truth = class_of_folder(path.parent.name, explanation.net.checkpoint)
    first, best = record.explained[0], record.top[0]
    return {
        "name": shown_name(path.name),
        "folder": shown_name(path.parent.name),
        "predicted": best,
        "truth": None if truth is None else explanation.net.checkpoint.classes[truth],
        "wrong": truth is not None and truth != best.index,
        "outside": first.regions.rest.share if first.regions else None,
        "exact": all(part.exact for part in record.explained),
        "against": -first.negative / first.positive if first.positive else 0.0,
    }


def _line(told: dict[str, Any], record: Record, thumbnail: bytes) -> dict[str, Any]:
    """What the sheet of many pages has of a picture, by the names of a card's attributes, as far as it is known."""
    best = told["predicted"]
    line = {
        "name": f"{told['folder']}/{told['name']}",
        "class": best.name,
        "p": best.probability,
        "logit": record.explained[0].logit,
        "against": told["against"],
        "outside": told["outside"],
        "truth": told["truth"],
        "wrong": told["wrong"] or None,
        "inexact": not told["exact"] or None,
        "thumbnail": base64.b64encode(thumbnail).decode(),
    }
    return {name: value for name, value in line.items() if value is not None}


def _thumbnail(source: Input, explanation: Explanation, record: Record, alpha: float) -> bytes:
    """The overlay of the first target, very small."""
    small = shrunk(source.picture.rgb, LONGEST_THUMBNAIL)
    values = paste_back(explanation.drawn_map(0), source.view, (small.shape[1], small.shape[0]))
    return jpeg(overlay(small, values, record.explained[0].scale, alpha), _THUMBNAIL_QUALITY)


def _said(record: Record, k: int) -> dict[str, str]:
    """What is said in words of one target."""
    part = record.explained[k]
    return {
        "title": title_of(part),
        "equation": equation(part),
        "standing": standing(record.network, record.top, part.index, record.confident),
        "regions": regions_text(part.regions),
    }


def _data(source: Input, explanation: Explanation, record: Record, size: tuple[int, int]) -> str:
    """The JSON that the script reads."""
    positions = explanation.positions.numpy()
    own: dict[str, Any] = {
        "size": size,
        "maps": [asdict(pack(positions[k])) for k in range(len(record.explained))],
        "said": [_said(record, k) for k in range(len(record.explained))],
        "regions": [
            [region.name, [np.round(ring, 1).tolist() for ring in region.outlines]] for region in source.found.regions
        ],
    }
    return f'{json.dumps(own, separators=(",", ":"))[:-1]},"record":{to_json(record)}}}'
