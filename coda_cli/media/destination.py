"""Where results go: a folder on this disk, one at an address, or one file."""

from __future__ import annotations

import os
from pathlib import Path

from coda_cli.errors import UsageError
from coda_cli.media import parquet_rows, tar_samples
from coda_cli.media.addresses import is_address
from coda_cli.media.elsewhere import Elsewhere
from coda_cli.media.packed import is_packed
from coda_cli.media.parquet_output import ParquetOutput
from coda_cli.media.remote_folder import RemoteFolder
from coda_cli.media.tar_output import PART, TarOutput
from coda_cli.vocabulary import IfExists

_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".tar.zst")


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
            f"{Path(output).name.partition('.t')[0]}{tar_samples.SUFFIX}"
        )
    if not is_packed(output):
        return RemoteFolder(output, written=written) if is_address(output) else None
    anew, parent, path, name = if_exists == "overwrite", None, Path(output), output
    kind = ParquetOutput if output.lower().endswith(parquet_rows.SUFFIX) else TarOutput
    if is_address(output):
        parent = RemoteFolder(output.rpartition("/")[0], written=written)
        path = parent.folder / output.rpartition("/")[2]
        name = parent.shown(path)
        if not anew:
            parent.fetch_large(path)
    if if_exists == "error" and (path.exists() or path.with_name(path.name + PART).exists()):
        raise UsageError("exists; --if-exists match goes on with it, overwrite replaces it", item=name)
    return kind(path, name, anew=anew, written=written, parent=parent)
