"""One file that holds the results of a run: which names mean one, and how it is opened to write or to read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from coda_cli.errors import MediaError, UsageError
from coda_cli.media import parquet_output, tar_output
from coda_cli.media.addresses import is_address
from coda_cli.media.elsewhere import Elsewhere, Sample
from coda_cli.media.parquet_output import ParquetOutput
from coda_cli.media.remote_folder import RemoteFolder
from coda_cli.media.tar_output import PART, TarOutput
from coda_cli.vocabulary import IfExists

_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".tar.zst")
_MODULES = {tar_output.SUFFIX: tar_output, parquet_output.SUFFIX: parquet_output}


def is_packed(output: str | Path) -> bool:
    """Say whether a name means one file with the results of a run.

    Args:
        output: a path or an address.

    Returns:
        Whether it names a tar or a Parquet file; a folder of such a name that is there already stays a folder.
    """
    return str(output).lower().endswith((*_MODULES,)) and not os.path.isdir(output)


def elsewhere(output: str, if_exists: IfExists, *, written: bool = True) -> Elsewhere | None:
    """Open what a user names for results, where it is no folder on this disk.

    Args:
        output: a folder, a tar or Parquet file, or the address of one of them.
        if_exists: what happens to a file of results that exists: "overwrite" begins anew, "error" refuses it, the
            others go on with it.
        written: whether files will be written, which is tried at once.

    Returns:
        The file of results, or the folder at an address; None for a folder on this disk.

    Raises:
        UsageError: nothing can be written there, or what is there may not be replaced or is not coda's.
    """
    if output.lower().endswith(_COMPRESSED) and not os.path.isdir(output):
        raise UsageError(
            f"--output {output}: a tar for results is not compressed, or it could not be continued; name it "
            f"{Path(output).name.partition('.t')[0]}{tar_output.SUFFIX}"
        )
    if not is_packed(output):
        return RemoteFolder(output, written=written) if is_address(output) else None
    anew, parent, path, name = if_exists == "overwrite", None, Path(output), output
    kind = ParquetOutput if output.lower().endswith(parquet_output.SUFFIX) else TarOutput
    if is_address(output):
        parent = RemoteFolder(output.rpartition("/")[0], written=written)
        path = parent.folder / output.rpartition("/")[2]
        name = parent.shown(path)
        if not anew:
            parent.fetch_large(path)
    if if_exists == "error" and (path.exists() or path.with_name(path.name + PART).exists()):
        raise UsageError("exists; --if-exists match goes on with it, overwrite replaces it", item=name)
    return kind(path, name, anew=anew, written=written, parent=parent)


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
    if path.suffix.lower() == parquet_output.SUFFIX:
        return parquet_output.holds_results(path)
    if path.suffix.lower() != tar_output.SUFFIX or not path.is_file():
        return False
    try:
        first = next(samples(path), None)
    except MediaError:
        return False
    return first is not None and first.record.startswith(tar_output.BEGINNING)
