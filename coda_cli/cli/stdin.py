"""What ``-`` as a source stands for: a list of names on stdin, or the bytes of one picture."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from coda_cli.errors import UsageError

if TYPE_CHECKING:
    from coda_cli.media.sources import Item

_HEAD = 4096  # bytes by which a picture is recognised
_NAME = "stdin"  # of the picture, and of what is written about it


def read_stdin(null: bool) -> tuple[list[str], list[Item]]:
    """Read stdin to its end: the names of a list, or one picture. Raises UsageError."""
    from coda_cli.machine import budget
    from coda_cli.media.kinds import kind_of
    from coda_cli.media.sources import Item
    from coda_cli.media.stills import begins_as_picture
    from coda_cli.media.stored import Given

    if sys.stdin is None:  # closed by the shell
        raise UsageError("- reads a list of paths from stdin, which is closed; pipe one in, or name the files")
    if sys.stdin.isatty():
        raise UsageError("- reads a list of paths from stdin, which is a terminal; pipe one in, or name the files")
    stream = sys.stdin.buffer
    head = stream.read(_HEAD)
    if not null and begins_as_picture(head):
        content = head + stream.read(budget.PICTURE_FILE + 1 - len(head))
        return [], [Item(Path(_NAME), stored=Given(_NAME, content))]
    if not null and (kind := kind_of(head)):
        raise UsageError(f"stdin is no list and no picture in a format coda can read: it is {kind}")
    text = (head + stream.read()).decode(errors="surrogateescape").removeprefix("\ufeff")  # as Windows marks UTF-8
    if not null and "\0" in text:
        raise UsageError(
            "stdin is no picture in a format coda can read, and as a list it is separated by NUL, not lines; add -0"
        )
    # Not splitlines: it also splits at characters that a file name can hold.
    return [line for line in (text.split("\0") if null else re.split("\r?\n", text)) if line], []
