"""The page of a comparison: the maps of all methods side by side, read at one pixel and in one rectangle."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, Self

from markupsafe import Markup

from coda_cli.errors import UsageError
from coda_cli.explanation.compare import Map, time_of
from coda_cli.explanation.page.entry import LONGEST
from coda_cli.explanation.page.maps import pack
from coda_cli.explanation.page.output import Kept, PagePath
from coda_cli.explanation.page.report import MOST_MAPS, drawing_numbers
from coda_cli.explanation.page.templates import in_script, page_of, rendered
from coda_cli.explanation.phrases import map_change_text, predicted_text, regions_change_text, regions_text
from coda_cli.explanation.request import Input
from coda_cli.media.files import shown_name
from coda_cli.media.pictures import small_copy
from coda_cli.schema.comparisons import Comparison, MethodPart
from coda_cli.schema.parts import to_json
from coda_cli.study.by_name import unit_of

ALPHA = 0.85  # opacity of full colour


class ComparisonPage:
    """A page about the methods that are compared, in a ``with`` block. Nothing is at its path before ``finish``.

    Args:
        path: the file.
        maps: how many maps it is going to hold, at most.
        force: whether a file that exists is replaced.
        inputs: the files that are compared; they are never written over.

    Raises:
        UsageError: before any work: there are too many maps for one page, the file exists and may not be replaced, or
            its folder cannot be written.
    """

    def __init__(self, path: Path, maps: int, *, force: bool, inputs: Iterable[Path]) -> None:
        if maps > MOST_MAPS:
            raise UsageError(
                f"--html: {maps} maps are more than the {MOST_MAPS} that one page holds; name fewer pictures, classes, "
                "or methods with --method"
            )
        self._networks = set[str]()
        self._where, self._kept = PagePath(path, "overwrite" if force else "error", inputs), Kept(path)

    def __enter__(self) -> Self:
        self._kept.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._kept.__exit__()

    def add(self, source: Input, record: Comparison, pixels: Map) -> None:
        """Keep what the page will say of one class of a picture.

        Args:
            source: the picture as it was read.
            record: the numbers about every method.
            pixels: the maps, float32 [methods, h, w].

        Raises:
            MediaError: the disk is full.
        """
        self._networks.add(record.network.name)
        kind, content, size = small_copy(source.picture.rgb, LONGEST)
        maps = [asdict(pack(one)) for one in pixels]
        html = rendered(
            "comparison_entry.html",
            name=shown_name(source.item.path.name),
            record=record,
            number=len(self._kept) + 1,
            image=f"data:image/{kind};base64,{base64.b64encode(content).decode()}",
            size=size,
            said=_said(record),
            methods=[(part, _sum(part, record), _scale(part), time_of(part, record)) for part in record.methods],
            data=in_script(f'{{"size":{json.dumps(size)},"units":{json.dumps(_units(record))},'
                           f'"maps":{json.dumps(maps, separators=(",", ":"))},"record":{to_json(record)}}}'),
        )  # fmt: skip
        self._kept.add(html.encode())

    def finish(self) -> Path | None:
        """Write the file, unless there is nothing in it.

        Returns:
            Its path; None where no picture could be compared.

        Raises:
            CodaError: a file of this name came in the meantime and may not be replaced, or the disk is full.
        """
        return self._where.write(self._fill) if len(self._kept) else None

    def _fill(self, stream: IO[bytes]) -> None:
        """Write the page into a stream."""
        count = len(self._kept)
        page_of(
            "comparison.html",
            stream,
            scripts=("maps.js", "pointing.js", "comparison.js"),
            styles=("page.css", "comparison.css"),
            config=drawing_numbers(ALPHA),
            count=f"{count} {'comparison' if count == 1 else 'comparisons'} of methods"
            if len(self._networks) == 1
            else f"{count} explanations by {len(self._networks)} networks",
            entries=map(Markup, self._kept),
        )


def _said(record: Comparison) -> list[str]:
    """What is said of one network of several: what it predicts, its regions, and what changed from the first one."""
    lines = [predicted_text(record), regions_text(record.regions)]
    for target in record.difference.targets if record.difference else ():
        if target.map:
            lines.append(f"To the first network: {map_change_text(target, target.map)}")
        if changes := regions_change_text(target):
            lines.append(f"Share of the evidence: {changes}")
    return [shown_name(line) for line in lines if line]


def _sum(part: MethodPart, record: Comparison) -> str:
    """Say what a map adds up to, where its method claims that it is something."""
    if not part.complete:
        return "no sum claimed"
    return f"sum {part.sum:.3f} of {record.logit - record.bias:.3f} logit, off by {part.off:+.1e}"


def _scale(part: MethodPart) -> str:
    """Say what is drawn in full colour, and what without any."""
    unit = f" {unit_of(part.method)}".rstrip()
    return f"no colour {part.white:.3g}, full colour {part.scale:.3g}{unit}" if part.white else (
        f"full colour ±{part.scale:.2g}{unit}"
    )  # fmt: skip


def _units(record: Comparison) -> list[dict[str, Any]]:
    """The unit of a pixel and that of a sum, of every method: a sum is a logit only where the method claims it."""
    return [{"pixel": unit_of(part.method), "sum": "logit" if part.complete else ""} for part in record.methods]
