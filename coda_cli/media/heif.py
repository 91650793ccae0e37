"""HEIC and HEIF, as phones write them: read by pillow-heif where it is installed (the extra ``heic``)."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import IO

from coda_cli.errors import MediaError

NAMES = (".heic", ".heif", ".hif")  # suffixes of such files
ADVICE = "pip install 'coda-cli[heic]' reads HEIC"
_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx")  # of which one stands in the first box of the file


def suffixes() -> tuple[str, ...]:
    """Say which suffixes a scan takes for pictures of this kind.

    Returns:
        NAMES where pillow-heif is installed, and nothing where it is not.
    """
    return NAMES if importlib.util.find_spec("pillow_heif") else ()


def is_heif(file: Path | IO[bytes]) -> bool:
    """Say whether a file is of this kind, by its first bytes.

    Args:
        file: the file, or a stream at its beginning, which stays there.

    Returns:
        Whether it is; AVIF is not, although it is built in the same way.
    """
    if isinstance(file, Path):
        with file.open("rb") as stream:
            return is_heif(stream)
    head = file.read(64)
    file.seek(0)
    return head[4:8] == b"ftyp" and any(brand in head[8:] for brand in _BRANDS)


def require() -> None:
    """Make Pillow read such files, under the name HEIF.

    Raises:
        MediaError: pillow-heif is not installed.
    """
    try:
        from pillow_heif import register_heif_opener
    except ImportError as error:
        raise MediaError(f"is a HEIC picture, and {ADVICE}") from error
    register_heif_opener(thumbnails=False)
