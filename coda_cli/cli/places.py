"""Where pictures are, and where results go: what sources and --output stand for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from coda_cli.cli.console import console
from coda_cli.errors import UsageError

if TYPE_CHECKING:
    from coda_cli.explanation.shards import Shard
    from coda_cli.media.elsewhere import Elsewhere
    from coda_cli.media.sources import Item
    from coda_cli.vocabulary import IfExists


SHARD = "{shard}"  # in the name of a file stands for the shard, as in part-{shard}.tar


def output_folder(
    output: str, kinds: tuple[str, ...], if_exists: IfExists, shard: Shard | None, *, written: bool
) -> tuple[Elsewhere | None, Path]:
    """Where results go if that is no folder on this disk, and the folder on this disk. Raises UsageError."""
    from coda_cli.media.destination import elsewhere
    from coda_cli.media.packed import is_packed

    if is_packed(output) and shard and SHARD not in output:
        raise UsageError(f"--output {output}: each shard writes a file of its own; put {SHARD} into the name")
    if SHARD in output and not os.path.isdir(output):
        if not shard:
            raise UsageError(f"--output {output}: {SHARD} needs --shard I/N")
        output = output.replace(SHARD, f"{shard.number}-of-{shard.of}" if shard else "")
    place = elsewhere(output, if_exists, written=written) if kinds else None
    if place and written and output.lower().startswith("memory:"):
        console.say(f"--output {output}: is gone when this command ends; such addresses are for Python")
    return place, place.folder if place else Path(output)


def find_items(
    sources: list[str],
    recursive: bool,
    null: bool,
    output: Path | Elsewhere,
    allow_private: bool,
    *,
    by_folder: bool,
    page: str | None,
) -> Iterator[Item]:
    """The inputs that the sources stand for, with those on stdin. Raises UsageError."""
    from coda_cli.cli.stdin import read_stdin
    from coda_cli.media.pages import Pages, by_page
    from coda_cli.media.sources import find
    from coda_cli.media.tar_output import TarOutput

    pages = None if page is None else Pages.parse(page)

    if null and "-" not in sources:
        raise UsageError("--null needs a list on stdin; add - as a source")
    listed, given = read_stdin(null) if "-" in sources else ([], [])
    named = [s for s in sources if s != "-"]
    yield from find(
        named,
        recursive=recursive,
        listed=listed,
        leave_out=output.path if isinstance(output, TarOutput) else output,
        on_left_out=console.say,
        allow_private=allow_private,
        by_folder=by_folder,
        pages=pages,
    )
    yield from by_page(given, pages)
