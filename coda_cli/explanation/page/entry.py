"""The part of a page about one picture: what a reader sees of it without a script, and what the script reads."""

from __future__ import annotations

import base64
import json
from dataclasses import asdict
from typing import Any

import numpy as np
from markupsafe import Markup

from coda_cli.checkpoints.labels import class_of_folder
from coda_cli.explanation.page.maps import pack
from coda_cli.explanation.page.templates import rendered
from coda_cli.explanation.phrases import equation, regions_text, standing, title_of
from coda_cli.explanation.picture import Explanation
from coda_cli.explanation.request import Input
from coda_cli.machine import gate
from coda_cli.media.files import shown_name
from coda_cli.media.pictures import small_copy
from coda_cli.schema.parts import to_json
from coda_cli.schema.pictures import Record

LONGEST = 480  # pixels of the longer side of a picture in a page
_COPY_BYTES = 8  # for one pixel of the original while it is made smaller


def entry_of(source: Input, explanation: Explanation, record: Record) -> bytes:
    """Make the part of a page about one picture.

    Args:
        source: the picture as it was read.
        explanation: its explanation.
        record: its record.

    Returns:
        HTML, UTF-8. It holds the picture at a smaller size, the maps of all targets and the record.
    """
    height, width = source.picture.rgb.shape[:2]
    with gate.PICTURES.holding(height * width * _COPY_BYTES):
        kind, content, size = small_copy(source.picture.rgb, LONGEST)
    path = source.item.path.absolute()
    truth = class_of_folder(path.parent.name, explanation.net.checkpoint)
    first, best = record.explained[0], record.top[0]
    return rendered(
        "entry.html",
        name=shown_name(path.name),
        folder=shown_name(path.parent.name),
        image=f"data:image/{kind};base64,{base64.b64encode(content).decode()}",
        size=size,
        predicted=best,
        truth=None if truth is None else explanation.net.checkpoint.classes[truth],
        wrong=truth is not None and truth != best.index,
        first=first,
        outside=first.regions.rest.share if first.regions else None,
        exact=all(part.exact for part in record.explained),
        said=[_said(record, k) for k in range(len(record.explained))],
        data=in_script(_data(source, explanation, record, size)),
    ).encode()


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
    positions = explanation.decomposition.pixels[0].float().cpu().numpy()
    own: dict[str, Any] = {
        "size": size,
        "maps": [asdict(pack(positions[k])) for k in range(len(record.explained))],
        "said": [_said(record, k) for k in range(len(record.explained))],
        "regions": [
            [region.name, [np.round(ring, 1).tolist() for ring in region.outlines]] for region in source.found.regions
        ],
    }
    return f'{json.dumps(own, separators=(",", ":"))[:-1]},"record":{to_json(record)}}}'


def in_script(text: str) -> Markup:
    """Escape JSON for a script element: nothing in it can end the element or begin a comment.

    Args:
        text: the JSON.

    Returns:
        JSON of the same value.
    """
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return Markup(text)
