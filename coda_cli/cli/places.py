"""Where pictures are, and where results go: what sources and --output stand for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from coda_cli.cli.console import console
from coda_cli.errors import UsageError

if TYPE_CHECKING:
    from coda_cli.media.remote_folder import RemoteFolder
    from coda_cli.media.sources import Item


def output_folder(output: str, kinds: tuple[str, ...], *, written: bool) -> tuple[RemoteFolder | None, Path]:
    """The output folder at an address, if it is there, and the folder on this disk. Raises UsageError."""
    from coda_cli.media.remote_folder import remote_folder

    remote = remote_folder(output, written=written) if kinds else None
    return remote, remote.folder if remote else Path(output)


def find_items(
    sources: list[str],
    recursive: bool,
    null: bool,
    output: Path | RemoteFolder,
    allow_private: bool,
    *,
    by_folder: bool,
) -> Iterator[Item]:
    """The inputs that the sources stand for, with those on stdin. Raises UsageError."""
    from coda_cli.cli.stdin import read_stdin
    from coda_cli.media.sources import find

    if null and "-" not in sources:
        raise UsageError("--null needs a list on stdin; add - as a source")
    listed, given = read_stdin(null) if "-" in sources else ([], [])
    named = [s for s in sources if s != "-"]
    yield from find(
        named,
        recursive=recursive,
        listed=listed,
        leave_out=output,
        on_left_out=console.say,
        allow_private=allow_private,
        by_folder=by_folder,
    )
    yield from given
