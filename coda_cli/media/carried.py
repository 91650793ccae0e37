"""What pictures carry beside their pixels: the text chunks of PNG, and the comment of GIF."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from coda_cli.media.quiet import pillow_silent


def read_gif_text(path: Path) -> str | None:
    """Read the comment of a GIF.

    Args:
        path: the file.

    Returns:
        The comment; None where there is none or the file is broken.
    """
    try:
        with pillow_silent, Image.open(path, formats=("GIF",)) as image:
            comment = image.info.get("comment")
    except Exception:  # see stills.read_image
        return None
    return comment.decode(errors="replace") if isinstance(comment, bytes) else None


def read_png_text(path: Path, key: str) -> str | None:
    """Read a text chunk of a PNG without decoding the picture.

    Args:
        path: the file.
        key: the chunk's key.

    Returns:
        The text; None where there is none or the file is broken.
    """
    try:
        with pillow_silent, Image.open(path, formats=("PNG",)) as image:
            value = image.info.get(key)
    except Exception:  # see stills.read_image
        return None
    return str(value) if value is not None else None
