"""Colour profiles (ICC): the numbers of a picture that has one are converted to sRGB."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import numpy as np
from PIL import Image, ImageCms

BROKEN = "its colour profile is broken and was left out of account"
LARGEST = 8_000_000  # bytes of a profile; those of printers have up to 3 MB
_LIKE_SRGB = 3  # levels of 255: profiles that call themselves sRGB differ by as much, by rounding
_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # modes of Pillow by the colour space of a profile


@dataclass(frozen=True)
class Conversion:
    """The way from the colours of a profile to sRGB.

    Attributes:
        transform: what LittleCMS does.
        mode: the mode of images that it takes.
        note: what is done, in words.
    """

    transform: ImageCms.ImageCmsTransform
    mode: str
    note: str

    def __call__(self, image: Image.Image) -> Image.Image:
        """Convert an image.

        Args:
            image: of any mode that Pillow converts to ``mode``; transparency is dropped.

        Returns:
            The same in sRGB, of the mode "RGB".
        """
        image = image if image.mode == self.mode else image.convert(self.mode)
        return cast("Image.Image", ImageCms.applyTransform(image, self.transform))  # None only where it works in place


def conversion_of(image: Image.Image) -> tuple[Conversion | None, str | None]:
    """Find out how the colours of an image become sRGB.

    Args:
        image: as Pillow opened it, with the profile in its ``info``.

    Returns:
        The conversion, None where the numbers mean sRGB as they are; and a note for the user, if there is something to
        say.
    """
    if image.mode == "LAB":
        return _from_lab(), "colours converted from CIELAB to sRGB"
    data = image.info.get("icc_profile")
    if not isinstance(data, bytes) or not data:
        return None, None
    grey = image.mode[:1] in ("1", "L", "I", "F")
    own = "CMYK" if image.mode == "CMYK" else "L" if grey else "RGB"
    return _conversion(data, own) if len(data) <= LARGEST else (None, BROKEN)


@lru_cache(maxsize=8)
def _conversion(data: bytes, own: str) -> tuple[Conversion | None, str | None]:
    """From a profile to sRGB, for pictures of the mode ``own``: "L", "RGB" or "CMYK"."""
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
        space = profile.profile.xcolor_space.strip()
        mode = _MODES.get(space, "")
        if mode != own and (mode, own) != ("RGB", "L"):
            return None, f"its colour profile is for {_plain(space)}, which it is not, and was left out of account"
        intent = ImageCms.Intent(ImageCms.getDefaultIntent(profile))
        if intent == ImageCms.Intent.ABSOLUTE_COLORIMETRIC:  # it would show the white of paper as a colour
            intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
        transform = ImageCms.buildTransform(
            profile, ImageCms.createProfile("sRGB"), mode, "RGB", intent, ImageCms.Flags.BLACKPOINTCOMPENSATION
        )
        name = _plain(ImageCms.getProfileDescription(profile)) or "the colours of its profile"
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError, AttributeError, struct.error):
        return None, BROKEN
    note = f"colours converted from {name} to sRGB"
    conversion = Conversion(transform, mode, note)
    return (None, None) if _changes_nothing(conversion) else (conversion, note)


def _changes_nothing(conversion: Conversion) -> bool:
    """Whether a profile is sRGB in all but rounding."""
    levels = np.linspace(0, 255, 9).round().astype(np.uint8)
    if conversion.mode == "CMYK":
        return False
    if conversion.mode == "L":
        sample = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    else:
        sample = Image.fromarray(np.stack(np.meshgrid(levels, levels, levels), -1).reshape(1, -1, 3))
    before, after = (np.asarray(x, np.int16) for x in (sample.convert("RGB"), conversion(sample)))
    return bool(np.abs(before - after).max() <= _LIKE_SRGB)


@lru_cache(maxsize=1)
def _from_lab() -> Conversion:
    """From CIELAB with the white of D50, as TIFF has it."""
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    return Conversion(ImageCms.buildTransform(lab, srgb, "LAB", "RGB"), "LAB", "")


def _plain(text: str) -> str:
    """A name out of a file, short, in one line and without control characters."""
    return " ".join("".join(c for c in text if c.isprintable()).split())[:60]


# ---- profiles that Pillow does not hand on ---------------------------------------------------------------------------


def embedded_profile(kind: str, data: bytes) -> bytes | None:
    """Find the colour profile in a file of a format whose profiles Pillow does not read.

    Args:
        kind: Pillow's name of the format.
        data: the whole file.

    Returns:
        The profile; None where there is none.
    """
    if kind == "BMP" and data[70:74] == b"DEBM" and len(data) >= 138:  # PROFILE_EMBEDDED of a header of version 5
        start, size = struct.unpack("<2I", data[14 + 112 : 14 + 120])
        return data[14 + start : 14 + start + size] or None
    if kind == "GIF":
        return _of_gif(data)
    return _of_jp2(data) if kind == "JPEG2000" else None


def _of_jp2(data: bytes) -> bytes | None:
    """The profile in the colour box (method 2) of a JPEG 2000 file's header box."""
    header = _box(data, b"jp2h")
    colour = header and _box(header, b"colr")
    return colour[3:] if colour and colour[:1] == b"\x02" else None


def _box(data: bytes, kind: bytes) -> bytes | None:
    """The content of the first box of a kind."""
    at = 0
    while at + 8 <= len(data):
        size, name = struct.unpack(">I4s", data[at : at + 8])
        if size < 8:  # of the whole rest, or with a size of 64 bits: only the picture itself is so large
            return None
        if name == kind:
            return data[at + 8 : at + size]
        at += size
    return None


def _of_gif(data: bytes) -> bytes | None:
    """The profile in a GIF's application block, made of parts of up to 255 bytes."""
    at = data.find(b"\x21\xff\x0bICCRGBG1012", 0, 1 << 16)
    if at < 0:
        return None
    parts, at = [], at + 14
    while at < len(data) and (size := data[at]):
        parts.append(data[at + 1 : at + 1 + size])
        at += 1 + size
    return b"".join(parts)
