"""TIFF files whose numbers Pillow misreads: they are told from the others by their tags."""

from __future__ import annotations

from typing import TypeVar

from PIL import Image

from coda_cli.errors import MediaError

T = TypeVar("T")
_BITS, _PHOTOMETRIC, _PLANES, _NUMBERS = 258, 262, 284, 339  # tags
_ZERO_IS_WHITE, _ONE_AFTER_THE_OTHER, _UNSIGNED, _SIGNED = 0, 2, 1, 2  # values of the last three


def bits_of(image: Image.Image) -> int:
    """Say how many bits a number of a picture has.

    Args:
        image: as Pillow opened it.

    Returns:
        What a TIFF states; 16 for everything else.
    """
    return int(max(_tag(image, _BITS, (16,))))


def is_signed(image: Image.Image) -> bool:
    """Decide whether the numbers of a picture are signed ones.

    Args:
        image: as Pillow opened it.

    Returns:
        What a TIFF states; False for everything else.
    """
    return int(max(_tag(image, _NUMBERS, (_UNSIGNED,)))) == _SIGNED


def zero_is_white(image: Image.Image) -> bool:
    """Decide whether 0 means white in a picture, which Pillow does not undo at 16 bits.

    Args:
        image: as Pillow opened it.

    Returns:
        The answer.
    """
    return image.mode.startswith("I;16") and int(_tag(image, _PHOTOMETRIC, 1)) == _ZERO_IS_WHITE


def refuse_misread(image: Image.Image) -> None:
    """Refuse a picture that would be another one once it is decoded. All this was tried with Pillow 13.

    Args:
        image: as Pillow opened it, not yet decoded.

    Raises:
        MediaError: planes of more than 8 bits without compression, which Pillow reads as if they had 8; compressed
            numbers of 32 bits, or signed ones, with their high byte first, whose bytes it turns twice; numbers of 32
            bits in which 0 is white; unsigned numbers of 32 bits, of which it takes the larger half for negative ones.
    """
    if not _tag(image, _BITS, ()):
        return
    deep, bits = image.mode in ("I", "F"), bits_of(image)
    tiles = getattr(image, "tile", [])
    compressed = any(tile[0] == "libtiff" for tile in tiles)
    high_byte_first = getattr(image, "tag_v2").prefix == b"MM"  # noqa: B009 (not an attribute of every Image)
    if _tag(image, _PLANES, 1) == _ONE_AFTER_THE_OTHER and bits > 8 and len(image.getbands()) > 1 and not compressed:
        raise MediaError("a TIFF of more than 8 bits in planes without compression is not read; save it compressed")
    if deep and compressed and high_byte_first:
        raise MediaError("a compressed big-endian TIFF of this type of numbers is not read; save it uncompressed")
    if deep and int(_tag(image, _PHOTOMETRIC, 1)) == _ZERO_IS_WHITE:
        raise MediaError("a TIFF of more than 16 bits in which 0 is white is not read; save it with 0 as black")
    unsigned = image.mode == "I" and bits == 32 and max(_tag(image, _NUMBERS, (_UNSIGNED,))) == _UNSIGNED
    if unsigned and float(image.getextrema()[0]) < 0:
        raise MediaError("a TIFF of unsigned numbers above 2147483647 is not read; save it with 16 bits")


def _tag(image: Image.Image, number: int, otherwise: T) -> T:
    """A tag of an image that was a TIFF, or ``otherwise``."""
    value: T = getattr(image, "tag_v2", {}).get(number, otherwise)
    return value
