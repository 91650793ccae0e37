"""The folder of a ``coda train``: which network is in it. torch is not imported."""

from __future__ import annotations

from pathlib import Path

from coda_cli.checkpoints.headers import read_metadata
from coda_cli.checkpoints.manifest import METADATA_KEY
from coda_cli.errors import CheckpointError


def trained_in(path: Path) -> Path:
    """Find the network that ``coda train`` wrote into a folder.

    Args:
        path: a folder, or anything else.

    Returns:
        The network's file; ``path`` itself where it is no folder.

    Raises:
        CheckpointError: the folder holds none, or several.
    """
    if not path.is_dir():
        return path
    found = [file for file in sorted(path.glob("*.safetensors")) if METADATA_KEY in read_metadata(file)]
    if not found:
        raise CheckpointError("a folder, with no such file in it as coda train writes, NAME.safetensors", item=path)
    if len(found) > 1:
        raise CheckpointError(f"holds {len(found)} networks; name one of them, such as {found[0]}", item=path)
    return found[0]
