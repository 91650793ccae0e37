"""What options say of the network, as keywords of ``load``: kept with the call that has them, and gone with it.

Many commands have these options and none of them does anything with one but to load the network, so each has a callback
that keeps it, and the commands' functions do not pass them on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from coda_cli.cli.configured import SETTINGS
from coda_cli.errors import UsageError

_KEY = "coda.said"  # of what a call keeps


def said_of_network() -> dict[str, Any]:
    """What the call that runs says of the network; nothing where its command has no such option."""
    return {} if SETTINGS.call is None else dict(SETTINGS.call.meta.get(_KEY, {}))


def _keep(call: typer.Context, name: str, value: object) -> None:
    call.meta.setdefault(_KEY, {})[name] = value


def keep_classes(call: typer.Context, classes: Path | None) -> Path | None:
    """Keep --classes."""
    _keep(call, "classes", classes)
    return classes


def keep_mean(call: typer.Context, mean: str | None) -> str | None:
    """Keep --mean. Raises UsageError."""
    _keep(call, "mean", _numbers(mean, "--mean"))
    return mean


def keep_std(call: typer.Context, std: str | None) -> str | None:
    """Keep --std. Raises UsageError."""
    _keep(call, "std", _numbers(std, "--std"))
    return std


def _numbers(text: str | None, option: str) -> tuple[float, ...] | None:
    """The numbers between commas, one or three. Raises UsageError."""
    if text is None:
        return None
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"{option} {text}: expected one number or three, such as 0.485,0.456,0.406") from error
    return values * 3 if len(values) == 1 else values


def keep_size(call: typer.Context, size: str | None) -> str | None:
    """Keep --size. Raises UsageError."""
    sides = [] if size is None else size.split(":")
    if not all(side.isdecimal() and len(side) < 6 for side in sides) or len(sides) > 2:
        raise UsageError(f"--size {size}: expected a side in pixels, or RESIZE:CROP, such as 256:224")
    _keep(call, "size", (int(sides[0]), int(sides[-1])) if sides else None)
    return size


def keep_text(call: typer.Context, text: Path | None) -> Path | None:
    """Keep --text."""
    _keep(call, "text", text)
    return text


def keep_cut(call: typer.Context, cut: str | None) -> str | None:
    """Keep --cut."""
    _keep(call, "cut", cut or "auto")
    return cut
