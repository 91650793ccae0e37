"""One text that stands for several sources, as in a shell: ``shards-{000..099}.tar`` and ``{a,b}.png``."""

from __future__ import annotations

import os
import re

from coda_cli.errors import UsageError

_BRACES = re.compile(r"\{(?:([0-9]{1,18})\.\.([0-9]{1,18})|([^{}]*,[^{}]*))\}")
_MOST_BRACED = 100_000  # sources that one text may stand for


def braced(text: str) -> list[str]:
    """Find the sources that ``{first..last}`` and ``{one,other}`` in a text stand for.

    Args:
        text: what a user wrote.

    Returns:
        The sources in order; the text itself where it has no such braces, or is the name of a file.

    Raises:
        UsageError: they are more than 100,000.
    """
    ranges = (found for found in _BRACES.finditer(text) if not os.path.lexists(text))
    if (found := next(ranges, None)) is None:
        return [text]
    first, last, words = found.groups()
    if words is None:
        if abs(int(last) - int(first)) >= _MOST_BRACED:
            raise UsageError(f"stands for more than {_MOST_BRACED} sources", item=text)
        digits = max(len(first), len(last)) if "0" in (first[0], last[0]) else 1
        step = 1 if int(last) >= int(first) else -1
        parts = [f"{number:0{digits}d}" for number in range(int(first), int(last) + step, step)]
    else:
        parts = words.split(",")
    whole = [one for part in parts for one in braced(text[: found.start()] + part + text[found.end() :])]
    if len(whole) > _MOST_BRACED:
        raise UsageError(f"stands for more than {_MOST_BRACED} sources", item=text)
    return whole
