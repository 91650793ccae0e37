"""The first half of a run: an input is read, or it is found to be done already."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coda_cli.checkpoints.loading import Net
from coda_cli.errors import CodaError, MediaError
from coda_cli.explanation.regions.annotations import Place
from coda_cli.explanation.remote_writer import RemoteWriter
from coda_cli.explanation.request import Input, Request, input_of, with_regions
from coda_cli.explanation.writer import Outcome, Writer
from coda_cli.machine.memory import out_of_memory
from coda_cli.media.pictures import as_picture
from coda_cli.media.sources import Item
from coda_cli.media.stills import reading

ReadOrDone = Input | Outcome


@dataclass(frozen=True)
class InMemory(Item):
    """A picture that is not a file: ``path`` names its outputs, and ``pixels`` is what ``as_picture`` takes."""

    pixels: Any = None


def read_item(item: Item, *, net: Net, request: Request, writer: Writer | None) -> ReadOrDone:
    """Read one input.

    Args:
        item: the input.
        net: the network that will see it.
        request: what is asked.
        writer: looks for the results of an earlier run; None where these do not matter.

    Returns:
        What was read; an outcome where it cannot be read, or where its results exist already.
    """
    try:
        if isinstance(writer, RemoteWriter) and (known := writer.known(item)) is not None:
            return known
        if not isinstance(item, InMemory) and item.stored is None:
            _refuse_no_file(item.path)
        opened = nullcontext(as_picture(item.pixels)) if isinstance(item, InMemory) else reading(item.content)
        with opened as picture:
            files = request.regions.files(Place(item.path, item.subfolder)) if request.regions else {}
            if writer and (stored := writer.stored(item, picture, files)) is not None:
                return stored
            source = input_of(item, picture, net, request.fit)
        return with_regions(source, request)  # not in the block: masks are read under the same limit as pictures
    except Exception as error:
        return Outcome(item, error=error_of_item(error, item))


def error_of_item(error: Exception, item: Item) -> CodaError:
    """Find the error to report about one input, so that the run goes on.

    Args:
        error: what was raised.
        item: the input.

    Returns:
        The error. A fault of the program is raised again instead.
    """
    if isinstance(error, CodaError):
        return error.about(item.name)
    if not out_of_memory(error):
        raise error
    return MediaError("not enough memory to read or draw it; make it smaller first", item=item.name)


def _refuse_no_file(path: Path) -> None:
    """Raise MediaError where a path is not a file."""
    try:
        if not path.exists():
            raise MediaError("no such file", item=path)
        if path.is_dir():
            raise MediaError("is a folder; name it as a source, or list its files", item=path)
    except (OSError, ValueError) as error:  # too long for a file name, or not possible as one
        raise MediaError(f"no such file ({getattr(error, 'strerror', None) or error})", item=path) from error
