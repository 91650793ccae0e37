"""Texts as classes: the vectors of a text encoder, from a file that numpy wrote.

CLIP compares a picture with texts, and coda has no text encoder. A file of vectors tells which texts there are: an
``.npz`` with ``names`` (texts, [K]) and ``vectors`` (float [K, E]), made once with the encoder that belongs to the
network. Each row becomes a class.
"""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from coda_cli.checkpoints.manifest import Checkpoint
from coda_cli.errors import CheckpointError, UsageError

ARCHITECTURE = "bcosified_clip"  # whose classes are texts
KEY = "above.text"  # of its tensor
MAX_BYTES = 1 << 30  # of all arrays together; 100,000 texts of 1,024 numbers have 0.4e9


@dataclass(frozen=True)
class Texts:
    """Texts and their vectors.

    Attributes:
        path: of the file.
        names: the texts.
        vectors: float32 [K, E], each of length 1.
    """

    path: Path
    names: tuple[str, ...]
    vectors: Tensor

    @property
    def sha256(self) -> str:
        """Hex digest of the vectors' bytes."""
        return hashlib.sha256(self.vectors.numpy().tobytes()).hexdigest()

    def describe(self, checkpoint: Checkpoint) -> Checkpoint:
        """Make the texts the classes of a network.

        Args:
            checkpoint: its description.

        Returns:
            The description with other classes.

        Raises:
            UsageError: the network does not compare pictures with texts.
            CheckpointError: the vectors have another length than the network's embeddings, or a text cannot be shown.
        """
        if checkpoint.architecture != ARCHITECTURE:
            raise UsageError(f"--text is for networks that compare pictures with texts; {checkpoint.name} has classes")
        wanted = checkpoint.arguments["embedding"]
        if self.vectors.shape[1] != wanted:
            raise CheckpointError(
                f"its vectors have {self.vectors.shape[1]} numbers, the embeddings of {checkpoint.name} {wanted}; take "
                "the text encoder that belongs to it",
                item=self.path,
            )
        changed = checkpoint.model_dump() | {
            "classes": self.names,
            "wnids": None,
            "synonyms": None,
            "arguments": {**checkpoint.arguments, "classes": len(self.names), "texts": self.sha256},
        }
        try:
            return Checkpoint.model_validate(changed)
        except ValidationError as error:
            said = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise CheckpointError(f"its texts cannot be names of classes: {said}", item=self.path) from error


def read_texts(path: Path) -> Texts:
    """Read texts and their vectors.

    Args:
        path: of an ``.npz`` with ``names`` and ``vectors``.

    Returns:
        The texts.

    Raises:
        CheckpointError: the file cannot be read, or does not hold one vector of numbers for each of some texts.
    """
    names, vectors = _arrays(path)
    if names.ndim != 1 or names.dtype.kind != "U" or vectors.ndim != 2 or vectors.dtype.kind != "f":
        raise CheckpointError(
            f"expected names (texts, [K]) and vectors (floats, [K, E]), got {names.dtype} {list(names.shape)} and "
            f"{vectors.dtype} {list(vectors.shape)}",
            item=path,
        )
    if len(names) != len(vectors) or not len(names):
        raise CheckpointError(f"holds {len(names)} names and {len(vectors)} vectors; each name needs one", item=path)
    texts = tuple(map(str, names))
    if double := next((name for name in texts if texts.count(name) > 1), None) if len(set(texts)) < len(texts) else "":
        raise CheckpointError(f"two of its texts are {double!a}", item=path)
    wide = vectors.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1)
    if not (np.isfinite(lengths).all() and (lengths > 0).all()):
        bad = texts[int(np.argmin(np.isfinite(lengths) & (lengths > 0)))]
        raise CheckpointError(f"the vector of {bad!a} is 0 or not finite", item=path)
    return Texts(path, texts, torch.from_numpy((wide / lengths[:, None]).astype(np.float32)))


def _arrays(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The two arrays of the file. Raises CheckpointError."""
    if not path.is_file():
        raise CheckpointError("no such file", item=path)
    try:
        with zipfile.ZipFile(path) as file:
            if (size := sum(entry.file_size for entry in file.infolist())) > MAX_BYTES:
                raise CheckpointError(f"holds {size} bytes; the limit is {MAX_BYTES}", item=path)
        with np.load(path, allow_pickle=False) as arrays:
            if missing := [key for key in ("names", "vectors") if key not in arrays.files]:
                raise CheckpointError(f"lacks the array {missing[0]!r}; --text needs names and vectors", item=path)
            return arrays["names"], arrays["vectors"]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, MemoryError) as error:
        raise CheckpointError(f"cannot be read as an npz of names and vectors ({error})", item=path) from error
