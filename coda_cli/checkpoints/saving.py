"""A network as a file of coda's own: safetensors that hold their description."""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
from torch import nn

from coda_cli.checkpoints.manifest import METADATA_KEY, OWN, Checkpoint
from coda_cli.errors import UsageError
from coda_cli.media.files import write_with


def save(model: nn.Module, checkpoint: Checkpoint, path: Path, *, replace: bool = True, half: bool = False) -> None:
    """Write a self-describing safetensors file, whole or not at all.

    Args:
        model: whose weights are written.
        checkpoint: its description.
        path: of the file.
        replace: whether a file of this name may be replaced.
        half: write kernels and matrices in float16. Vectors keep their type: they are few, and the variances of batch
            norms can lie outside what float16 holds.

    Raises:
        UsageError: a function of the user's made the network, so that no file can describe it.
        TakenError: there is a file of this name that may not be replaced.
        MediaError: the file cannot be written.
    """
    if checkpoint.architecture == OWN:
        raise UsageError(
            f"{checkpoint.name} is made by code of yours, which no file can hold; keep its weights, with --arch "
            "module:function"
        )
    tensors = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    if half:
        tensors = {key: value.half() if value.dim() > 1 else value for key, value in tensors.items()}
    metadata = {METADATA_KEY: checkpoint.model_dump_json(), "format": "pt"}
    data = safetensors.torch.save(tensors, metadata)
    write_with(path, lambda stream: stream.write(data), replace=replace)
