"""Pages and frames of a picture that is open: how many there are, and which one is decoded."""

from __future__ import annotations

from PIL import Image

from coda_cli.errors import MediaError

FIRST = "first of"  # how a note begins on a picture of which only the first page or frame is taken


def frames_of(image: Image.Image) -> int:
    """Say how many pages or frames a picture has.

    Args:
        image: as Pillow opened it.

    Returns:
        At least 1.
    """
    return int(getattr(image, "n_frames", 1))


def turn_to(image: Image.Image, page: int | None = None) -> tuple[str, ...]:
    """Turn to a page or frame of a picture.

    Args:
        image: as Pillow opened it.
        page: which, from 1 on; the first unless given.

    Returns:
        Which it is, in words; nothing where there is only one.

    Raises:
        MediaError: there is no such page.
    """
    count = frames_of(image)
    if (page or 1) > count:
        raise MediaError(f"has {count} page{'s' if count > 1 else ''}, and no page {page}")
    if count == 1:
        return ()
    image.seek((page or 1) - 1)
    kind = "page" if image.format == "TIFF" else "frame"
    return (f"{FIRST} {count} {kind}s" if page is None else f"{kind} {page} of {count}",)
