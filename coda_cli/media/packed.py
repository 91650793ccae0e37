"""One file that holds the results of a run: which names mean one, and how it is read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from coda_cli.errors import MediaError
from coda_cli.media import parquet_rows, tar_samples
from coda_cli.media.elsewhere import Sample

_MODULES = {tar_samples.SUFFIX: tar_samples, parquet_rows.SUFFIX: parquet_rows}


def is_packed(output: str | Path) -> bool:
    """Say whether a name means one file with the results of a run.

    Args:
        output: a path or an address.

    Returns:
        Whether it names a tar or a Parquet file; a folder of such a name that is there already stays a folder.
    """
    return str(output).lower().endswith((*_MODULES,)) and not os.path.isdir(output)


def samples(path: Path, start: int = 0) -> Iterator[Sample]:
    """Read the records in a file of results, one after the other.

    Args:
        path: the file, for which ``is_packed`` holds.
        start: the place of the first.

    Yields:
        The records, each with the files about its picture.

    Raises:
        MediaError: it is no such file, is broken or cut off, or pyarrow is missing.
    """
    try:
        yield from _MODULES[path.suffix.lower()].samples(path, start)
    except OSError as error:
        raise MediaError(f"cannot be read ({error.strerror or error})", item=path) from error


def sample_at(path: Path, place: int) -> Sample:
    """Read one record of a file of results again.

    Args:
        path: the file.
        place: where it is, as the sample says.

    Returns:
        The record, with the files about its picture.

    Raises:
        MediaError: it is not there any more.
    """
    for sample in samples(path, place):
        return sample
    raise MediaError("changed while it was read", item=path)


def holds_results(path: Path) -> bool:
    """Say whether a file that lies in a folder of results holds some, and not for example the pictures.

    Args:
        path: any file.

    Returns:
        Whether it is a tar or a Parquet file that holds results.
    """
    if path.suffix.lower() == parquet_rows.SUFFIX:
        return parquet_rows.holds_results(path)
    if path.suffix.lower() != tar_samples.SUFFIX or not path.is_file():
        return False
    try:
        first = next(samples(path), None)
    except MediaError:
        return False
    return first is not None and first.record.startswith(tar_samples.BEGINNING)
