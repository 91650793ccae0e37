"""A page about many pictures: entries are kept on disk as they come, and the file appears whole at the end."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any, Self

from markupsafe import Markup

from coda_cli.checkpoints.loading import Net
from coda_cli.errors import MediaError, UsageError
from coda_cli.explanation.files import FilePolicy, prepare, sweep
from coda_cli.explanation.page.templates import generated, hash_of, own_file
from coda_cli.explanation.record import network_part, versions
from coda_cli.explanation.request import Request
from coda_cli.explanation.writer import Outcome
from coda_cli.media.files import utf8, write_with
from coda_cli.media.sources import Item
from coda_cli.render.colour import NEGATIVE, POSITIVE
from coda_cli.render.overlay import DIMMED, FADED
from coda_cli.vocabulary import IfExists

MOST_MAPS = 300  # of one page: 24 MB of photographs and maps of 128 x 128; more is badly taken by browsers and mail
ADVICE = "--force replaces it, --html names another file"


class Report:
    """A page that is being made, in a ``with`` block. Nothing is at its path before ``finish``.

    Args:
        path: the file.
        if_exists: what happens to a file that exists; "match" refuses it, since a page does not say what it was made
            from.
        inputs: the files that are explained; they are never written over.
        net: the network.
        request: what is asked.
        alpha: opacity of full colour in overlays, from 0 to 1.
        part: which part of a run the page is about; "" for a whole one.

    Raises:
        UsageError: before any work: there are too many maps for one page, the file exists and may not be replaced, or
            its folder cannot be written.
    """

    def __init__(
        self,
        path: Path,
        if_exists: IfExists,
        inputs: Sequence[Item],
        net: Net,
        request: Request,
        alpha: float,
        part: str = "",
    ) -> None:
        self._path, self._net, self._alpha, self._part = path, net, alpha, part
        _refuse_too_many(len(inputs), request.targets(net).most)
        self._policy = FilePolicy(
            "error" if if_exists == "match" else if_exists,
            (item.path for item in inputs),
            advice=ADVICE,
            other="--html",
            error=UsageError,
        )
        if path.is_dir() or path.suffix.lower() not in (".html", ".htm"):
            raise UsageError("--html names a file that ends in .html", item=path)
        self._policy.place(path)
        prepare(path.parent)
        sweep(path.parent)
        self._lengths, self._failures = list[int](), list[str]()

    def __enter__(self) -> Self:
        # Nameless, so that not even a killed run leaves it.
        self._kept: IO[bytes] = tempfile.TemporaryFile(dir=self._path.parent)
        return self

    def __exit__(self, *_: object) -> None:
        self._kept.close()

    def add(self, outcome: Outcome) -> None:
        """Keep what the page will say of one input.

        Args:
            outcome: how it ended.

        Raises:
            MediaError: the disk is full.
        """
        if outcome.error:
            self._failures.append(str(outcome.error))
        if not outcome.entry:
            return
        try:
            self._kept.write(outcome.entry)
        except OSError as error:
            raise MediaError(f"cannot be written ({error.strerror or error})", item=self._path) from error
        self._lengths.append(len(outcome.entry))

    def finish(self) -> Path | None:
        """Write the file.

        Returns:
            Its path; None where a file exists and is kept.

        Raises:
            CodaError: a file of this name came in the meantime and may not be replaced, or the disk is full.
        """
        return self._policy.write(self._path, partial(write_with, write=self._fill))

    def _fill(self, stream: IO[bytes]) -> None:
        """Write the page into a stream."""
        style, script = own_file("page.css"), own_file("page.js")
        count = len(self._lengths)
        parts = generated(
            "page.html",
            count=f"{count} {'picture' if count == 1 else 'pictures'}" + (f" ({self._part})" if self._part else ""),
            network=network_part(self._net),
            classes=sorted({*self._net.checkpoint.classes}),
            style=Markup(style),
            script=Markup(script),
            style_hash=hash_of(style),
            script_hash=hash_of(script),
            config=Markup(json.dumps(self._config())),
            entries=self._entries(),
            failures=[utf8(text) for text in self._failures],
            version=versions()["coda"],
        )
        for part in parts:
            stream.write(part.encode())

    def _config(self) -> dict[str, Any]:
        """The numbers of ``render`` that the script draws with."""
        return {
            "positive": POSITIVE,
            "negative": NEGATIVE,
            "faded": FADED,
            "dimmed": DIMMED,
            "alpha": self._alpha,
        }

    def _entries(self) -> Iterator[Markup]:
        """The entries in their order, one at a time."""
        self._kept.seek(0)
        for length in self._lengths:
            yield Markup(self._kept.read(length).decode())


def _refuse_too_many(pictures: int, targets: int) -> None:
    """Refuse to begin what would be no page that one can open. Raises UsageError."""
    if pictures * targets > MOST_MAPS:
        maps = f"{pictures} pictures" + (f" of up to {targets} classes each" if targets > 1 else "")
        raise UsageError(
            f"--html: {maps} are more than the {MOST_MAPS} maps that one page holds; name fewer pictures"
            + (", or fewer classes with --class" if targets > 1 else ", such as one folder for each page")
        )
