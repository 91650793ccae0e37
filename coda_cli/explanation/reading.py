"""The first half of a run: inputs are found; each is read, or it is found to be done already."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from coda_cli.checkpoints.loading import Net
from coda_cli.errors import CodaError, MediaError
from coda_cli.explanation.regions.annotations import Place
from coda_cli.explanation.remote_writer import RemoteWriter
from coda_cli.explanation.request import Input, Request, input_of, with_regions
from coda_cli.explanation.writer import Outcome, Output, Writer
from coda_cli.machine.memory import out_of_memory
from coda_cli.media.pictures import as_picture
from coda_cli.media.sources import Item, resolve
from coda_cli.media.stills import reading
from coda_cli.media.tar_output import TarOutput

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
        The error.

    Raises:
        Exception: ``error`` itself, where it is a fault of the program.
    """
    if isinstance(error, CodaError):
        return error.about(item.name)
    if isinstance(error, OSError):  # a path too long for this disk, a disk that is gone
        return MediaError(f"cannot be read, or its results written ({error.strerror or error})", item=item.name)
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


def items_of(sources: str | Path | Iterable[object], output: Output) -> Iterable[Item]:
    """Find the inputs that sources mean.

    Args:
        sources: as ``explain_many`` takes them.
        output: where results go; nothing is read from there.

    Returns:
        The inputs: files as a list, anything else one after the other.

    Raises:
        UsageError: a file or folder does not exist, or holds no picture.
    """
    one = isinstance(sources, str | Path) or not isinstance(sources, Iterable) or hasattr(sources, "ndim")
    # An array is a picture or a batch, not an iterable of its rows.
    listed = [sources] if one else cast("Iterable[object]", sources)
    if isinstance(listed, list | tuple) and all(isinstance(source, str | Path) for source in listed):
        place = output.naming.remote or output.naming.folder
        leave_out = (place.path if isinstance(place, TarOutput) else place) if output.drawing.kinds else None
        return resolve([str(source) for source in listed], leave_out=leave_out)
    return _one_by_one(listed)


def _one_by_one(sources: Iterable[object]) -> Iterator[Item]:
    """Paths, pictures in memory, and the pictures of batches, as they come; what has no name is numbered from 0."""
    number = 0
    for entry in sources:
        first = entry[0] if isinstance(entry, tuple | list) else entry  # (pictures, labels), as data loaders give
        if isinstance(first, str | Path):
            yield Item(Path(first))
            continue
        batch = cast("Iterable[object]", first) if getattr(first, "ndim", 0) == 4 else [first]
        for pixels in batch:
            yield InMemory(Path(f"picture-{number:06d}"), pixels=pixels)
            number += 1
