"""A network without its weights: what a dry run needs to know of it."""

from __future__ import annotations

import contextlib
from pathlib import Path

import torch

from coda_cli.checkpoints.folders import trained_in
from coda_cli.checkpoints.headers import read_metadata
from coda_cli.checkpoints.loading import Net, file_sha256
from coda_cli.checkpoints.manifest import METADATA_KEY, STANDARD, known, parse_checkpoint
from coda_cli.checkpoints.text_vectors import ARCHITECTURE
from coda_cli.core.networks import build
from coda_cli.errors import CheckpointError


def outline(source: str) -> Net | None:
    """Describe a network from its file's header, where that says everything.

    Args:
        source: a name from ``coda models list``, a file, or the folder of a ``coda train``.

    Returns:
        The network, whose weights have shapes and no numbers; with its description, path and hash. None where only
        ``load`` can tell: of files without a description, of ordinary networks, whose cut is searched, and where
        something is wrong, which ``load`` says.
    """
    with contextlib.suppress(CheckpointError, OSError, ValueError, RuntimeError):
        entry = known().get(source)
        path = entry.path if entry else trained_in(Path(source))
        if path.suffix != ".safetensors" or METADATA_KEY not in (metadata := read_metadata(path)):
            return None
        checkpoint = parse_checkpoint(metadata[METADATA_KEY], str(path))
        sha256 = file_sha256(path)
        if checkpoint.architecture in (*STANDARD, ARCHITECTURE) or (entry and entry.sha256 not in (None, sha256)):
            return None
        with torch.device("meta"):
            model = build(checkpoint.architecture, checkpoint.arguments, checkpoint.concepts)
        return Net(model.eval(), checkpoint, path, sha256)
    return None
