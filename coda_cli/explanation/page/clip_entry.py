"""The part of a page about one clip: frames are kept as they come, and what stands above them is made at the end."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import asdict
from pathlib import PurePath
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup

from coda_cli.explanation.page.entry import LONGEST
from coda_cli.explanation.page.maps import pack
from coda_cli.explanation.page.output import Kept
from coda_cli.explanation.page.plot import Moment, curve_names, plot_of
from coda_cli.explanation.page.templates import in_script, rendered
from coda_cli.explanation.phrases import clip_text, equation, regions_text, span_text, standing, title_of
from coda_cli.explanation.picture import Explanation
from coda_cli.explanation.record import network_part
from coda_cli.explanation.regions.shapes import Region
from coda_cli.machine import gate
from coda_cli.media.files import shown_name
from coda_cli.media.pictures import small_copy
from coda_cli.media.view import paste_back
from coda_cli.render.clip import resized
from coda_cli.render.overlay import overlay
from coda_cli.schema.clips import ClipRecord, ExplainedFrame, FrameRecord
from coda_cli.schema.parts import to_json
from coda_cli.video.reading import Frame

FEW = 6  # overlays in a row below the plot
SMALL = 160  # pixels of their longer side
MOST_TOLD = 5  # classes of a clip that are told of in words
_COPY_BYTES = 8  # for one pixel of a frame while it is made smaller


class FramePart(NamedTuple):
    """What a page holds of a frame.

    Attributes:
        html: its data for the script, UTF-8.
        small: the address of a small overlay.
        image: the address of its copy.
        size: (width, height) of the copy in pixels.
        record: its record.
    """

    html: bytes
    small: str
    image: str
    size: tuple[int, int]
    record: FrameRecord


class ClipEntry:
    """The part of a page about one clip.

    Frames are explained one after the other, and how many there will be is not known. Every n-th is kept, with n a
    power of two that grows when there are too many, so that those of the page are always evenly spaced.

    Args:
        kept: takes the parts of the page; this is called from one thread at a time.
        most: frames that the page may hold.
        alpha: opacity of full colour in overlays, from 0 to 1.
    """

    def __init__(self, kept: Kept, most: int, alpha: float) -> None:
        self._kept, self._most, self._alpha = kept, most, alpha
        self._moments, self._end = list[Moment](), 0.0
        self._every = 1
        self._frames: dict[int, tuple[int, int]] = {}  # which parts are its data, and its small overlay
        self._first: FramePart | None = None

    def count(self, frame: Frame, record: FrameRecord) -> int | None:
        """Note the next frame for the plot.

        Args:
            frame: the frame, with its duration.
            record: its record.

        Returns:
            Its number, if the page may show it; else None.
        """
        number = len(self._moments)
        self._moments.append(Moment.of(record))
        self._end = frame.time + (frame.duration or 0.0)
        if number == self._most * self._every:
            self._every *= 2
        return None if number % self._every else number

    def made(
        self,
        frame: Frame,
        explanation: Explanation,
        record: FrameRecord,
        regions: Sequence[Region],
        origin: tuple[int, int],
    ) -> FramePart:
        """Make what the page holds of a frame; any thread may call it.

        Args:
            frame: the frame.
            explanation: its explanation.
            record: its record.
            regions: those that are outlined.
            origin: (x, y) of the frame's corner in the source, in its pixels.

        Returns:
            That part.
        """
        height, width = frame.rgb.shape[:2]
        with gate.PICTURES.holding(height * width * _COPY_BYTES):
            kind, content, size = small_copy(frame.rgb, LONGEST)
        image = _address(kind, content)
        data = self._data(explanation, record, regions, origin) | {"size": size, "image": image}
        text = f'{json.dumps(data, separators=(",", ":"))[:-1]},"record":{to_json(record)}}}'
        html = f'<script type="application/json" data-time="{frame.time!r}">{in_script(text)}</script>\n'
        small = self._small_overlay(frame, explanation, record.explained[0])
        return FramePart(html.encode(), small, image, size, record)

    def put(self, number: int, made: Future[FramePart]) -> None:
        """Keep a frame when it is made. It is called from one thread, in the order of the frames.

        Args:
            number: of the frame, from ``count``.
            made: what ``made`` gives.

        Raises:
            MediaError: the disk is full.
        """
        part = made.result()
        self._first = self._first or part
        self._frames[number] = self._kept.add(part.html), self._kept.add(part.small.encode())

    def parts(self, summary: ClipRecord) -> Iterator[int]:
        """Finish the part, when all frames are kept.

        Args:
            summary: the clip's record.

        Yields:
            The numbers of the parts that were kept, in the order of the page.

        Raises:
            MediaError: the disk is full.
        """
        frames = [kept for number, kept in sorted(self._frames.items()) if number % self._every == 0]
        few = [frames[k * len(frames) // FEW] for k in range(FEW)] if len(frames) > FEW else frames
        yield self._kept.add(self._head(summary, len(frames), [self._kept[small] for _, small in few]).encode())
        yield from (data for data, _ in frames)
        yield self._kept.add(
            f'<script type="application/json">{in_script(to_json(summary))}</script>\n</article>'.encode()
        )

    def _data(
        self, explanation: Explanation, record: FrameRecord, regions: Sequence[Region], origin: tuple[int, int]
    ) -> dict[str, Any]:
        """What the script reads of a frame, beside its picture and its record."""
        view, positions = explanation.view, explanation.positions.numpy()
        height, width = view.rgb.shape[:2]
        said = [_said(explanation, record, part) for part in record.explained]
        return {
            "maps": [asdict(pack(positions[k])) for k in range(len(record.explained))],
            "said": said,
            "regions": [
                [region.name, [np.round(ring - origin, 1).tolist() for ring in region.outlines]] for region in regions
            ],
            "place": {
                "source": {"path": record.path, "width": view.size[0], "height": view.size[1]},
                "view": {"width": width, "height": height, "box": view.box},
                "origin": origin,
            },
        }

    def _small_overlay(self, frame: Frame, explanation: Explanation, part: ExplainedFrame) -> str:
        """The address of a small picture of the first map over its frame, for readers without a script and paper."""
        height, width = frame.rgb.shape[:2]
        factor = min(1.0, SMALL / max(height, width))
        size = max(1, round(width * factor)), max(1, round(height * factor))
        values = paste_back(explanation.drawn_map(0), explanation.view, size)
        drawn = overlay(resized(frame.rgb, size), values, part.scale, self._alpha)
        return _address(*small_copy(drawn, SMALL)[:2])

    def _head(self, summary: ClipRecord, held: int, small: Sequence[str]) -> str:
        """What stands above the data of the frames."""
        assert self._first is not None
        path, whole = PurePath(summary.source.path), summary.explained[0]
        rest = [region for span in whole.spans[:1] for region in span.regions[-1:]]
        return rendered(
            "clip_entry.html",
            name=shown_name(path.name or str(path)),
            folder=shown_name(path.parent.name),
            image=self._first.image,
            size=self._first.size,
            predicted=summary.predicted[0],
            p=sum(moment.p for moment in self._moments) / len(self._moments),
            whole=whole,
            outside=rest[0].share if rest else None,
            exact=summary.exact,
            frames=summary.frames,
            held=held,
            every=self._every,
            plot=Markup(plot_of(self._moments, self._end)),
            curves=curve_names(self._moments),
            small=small,
            first=[equation(part) for part in self._first.record.explained],
            told=[(clip_text(part), list(map(span_text, part.spans))) for part in summary.explained[:MOST_TOLD]],
            more=max(0, len(summary.explained) - MOST_TOLD),
        )


def _said(explanation: Explanation, record: FrameRecord, part: ExplainedFrame) -> dict[str, str]:
    """What is said in words of one target of a frame."""
    return {
        "title": title_of(part),
        "equation": equation(part),
        "standing": standing(network_part(explanation.net), record.top, part.index, None),
        "regions": regions_text(part.regions),
    }


def _address(kind: str, content: bytes) -> str:
    """A picture as an address that holds it."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
