"""Still pictures in and out: every format is read by one function, which says what it converted; writes are atomic."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from coda_cli.errors import MediaError
from coda_cli.machine import budget, gate
from coda_cli.media import dicom, heif, png
from coda_cli.media.files import read_whole, regular_size, write_with
from coda_cli.media.frames import turn_to
from coda_cli.media.kinds import HEAD, kind_of, of_file
from coda_cli.media.profiles import Conversion, conversion_of, embedded_profile
from coda_cli.media.quiet import pillow_silent
from coda_cli.media.stored import Page, Stored
from coda_cli.media.tiff import bits_of, is_signed, refuse_misread, zero_is_white

# Suffixes that a folder scan takes for pictures; a file named on the command line may have any.
SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm",
    ".avif", ".jp2", ".tga", *heif.suffixes(), *dicom.suffixes(),
)  # fmt: skip

# Formats as Pillow names them: the only ones that are opened, whatever a file's name. Pillow has others, and starts
# Ghostscript for one of them. TGA cannot be told by its content, so that only files of that name are taken for it.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF", "JPEG2000")
MAX_PIXELS = 128_000_000  # beyond this a file is taken for a decompression bomb
BACKGROUND = (255, 255, 255)  # what shows through transparent pixels


@dataclass(frozen=True)
class Picture:
    """A decoded still.

    Attributes:
        rgb: uint8 [H, W, 3] sRGB, turned as its EXIF orientation says.
        sha256: hex sha256 of the file.
        bytes: size of the file.
        notes: in words, what decoding changed.
        full_size: (width, height) in pixels that the picture has in its file, where ``rgb`` has fewer.
        page: which page or frame of several it is, from 1 on; None for the picture as a whole.
    """

    rgb: NDArray[np.uint8]
    sha256: str
    bytes: int
    notes: tuple[str, ...]
    full_size: tuple[int, int] | None = None
    page: int | None = None


def read_image(path: Path) -> Picture:
    """Decode a picture file.

    Palette, 1-bit, grey and CMYK become RGB; 16 bits are scaled to 8; colours are converted from the file's profile to
    sRGB; transparency is laid on white; the picture is turned as its EXIF orientation says; of an animation the first
    frame is taken. A JPEG of more than 50 million pixels is decoded at half its size, or less.

    Args:
        path: the file, in one of FORMATS; its content decides, not its name.

    Returns:
        The picture, with notes on what was changed.

    Raises:
        MediaError: when the file cannot be read, is no picture, is broken, has more than 128 million pixels, or would
            take too much memory.
    """
    with reading(path) as picture:
        return picture


@contextmanager
def reading(source: Path | Stored) -> Iterator[Picture]:
    """Decode a picture, and count its memory until the end of a block.

    Several threads that read large pictures take turns, so that their memory stays bounded. Keep no more of the picture
    than is needed afterwards.

    Args:
        source: the file, or what is stored elsewhere.

    Yields:
        The picture, as ``read_image`` gives it.

    Raises:
        MediaError: as ``read_image`` does.
    """
    if isinstance(source, Path):
        with gate.PICTURES.holding(memory_of(source)):
            yield _decoded(read_whole(source, budget.PICTURE_FILE), source)
        return
    page = source.number if isinstance(source, Page) else None
    with gate.STORED.holding(source.size):
        data = source.read()
        with gate.PICTURES.holding(memory_of(source.name, data, page)):
            yield _decoded(data, source.name, page)


def memory_of(name: Path | str, data: bytes | None = None, page: int | None = None) -> int:
    """Say how many bytes decoding a picture will take, by its header.

    Args:
        name: the file, or what the picture is called.
        data: its bytes, where it is not a file.
        page: which page of several, from 1 on; the first unless given.

    Returns:
        Bytes, about.

    Raises:
        MediaError: it is no picture, or that is too much.
    """
    size = regular_size(Path(name), budget.PICTURE_FILE) if data is None else len(data)
    if not size:
        raise MediaError("the file is empty", item=name)
    header = Path(name) if data is None else io.BytesIO(data)
    with decoder_errors(name), pillow_silent, open_image(header, name) as image:
        refuse_bombs(name, image.size)
        if page is not None:
            turn_to(image, page)
            refuse_bombs(name, image.size)
        own = {"1": 1, "L": 1, "P": 1}.get(image.mode, 2 if image.mode.startswith("I;16") else 4)
        pixels, extra = image.width * image.height, budget.DECODER_BYTES.get(image.format or "", 0)
        if image.format == "JPEG" and "progressive" in image.info:
            extra += 6  # the coefficients of the whole picture
        if pixels * (own + extra + 3) > budget.DECODED_BYTES:
            most = budget.DECODED_BYTES // (own + extra + 3) // 10**6
            raise MediaError(
                f"{image.width} x {image.height} pixels, more than the {most} million that a {image.format} of this "
                "kind may have; make it smaller first",
                item=name,
            )
    return size + pixels * (own + extra + 3)


def _decoded(data: bytes, name: Path | str, page: int | None = None) -> Picture:
    """The picture, or a page of it, in a file whose header was accepted."""
    with decoder_errors(name), pillow_silent, open_image(io.BytesIO(data), name) as image:
        turn_to(image, page)
        full, drafted = image.size, _draft(image)
        if (profile := embedded_profile(image.format or "", data)) is not None:
            image.info.setdefault("icc_profile", profile)
        rgb, notes = to_rgb(image, page)
    if drafted:
        turned = rgb.shape[:2] != drafted[::-1]
        notes = (f"a large JPEG, decoded at {rgb.shape[1]} x {rgb.shape[0]} pixels", *notes)
    whole = (full[::-1] if turned else full) if drafted else None
    return Picture(rgb, hashlib.sha256(data).hexdigest(), len(data), notes, whole, page)


_BEGINNINGS = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n|GIF8[79]a.{0,64}\0|RIFF.{4}WEBP|BM.{4}\0{4}|II[*+]\0|MM\0[*+]|.{4}ftyp(?:avi[fs]|hei[cxms]|hev[cx]|mi[fs]1)"
    rb"|.{128}DICM|\0{3}\x0cjP  |\xff\x4f\xff\x51|P[1-6]\s+(?:#[^\n]*\n\s*)*\d+\s+\d+\s",
    re.DOTALL,
)


def begins_as_picture(head: bytes) -> bool:
    """Say whether bytes are the beginning of a picture, and not of a list of names.

    Args:
        head: the first bytes, 4,096 or all there are.

    Returns:
        Whether they begin as one of FORMATS does.
    """
    return _BEGINNINGS.match(head) is not None


def _draft(image: Image.Image) -> tuple[int, int] | None:
    """Let the decoder of a large JPEG make it smaller; the (width, height) that it will have, None for its own."""
    if image.format != "JPEG" or image.width * image.height <= budget.DRAFTED_PIXELS or min(image.size) < 2048:
        return None
    image.draft(image.mode, (image.width // 2, image.height // 2))
    return image.size


def open_image(file: Path | IO[bytes], name: Path | str) -> Image.Image:
    """Open a picture in a format that coda reads, which its content decides; no other decoder looks at it.

    Args:
        file: what is opened.
        name: the file's name, which may allow one more format: TGA cannot be told by its content.

    Returns:
        The image, of which only the header has been read.

    Raises:
        MediaError: when it is none of these formats, or is HEIC or DICOM, and pillow-heif or pydicom is not installed.
    """
    formats: tuple[str, ...] = (*FORMATS, "TGA") if Path(name).suffix.lower() == ".tga" else FORMATS
    if heif.is_heif(file):
        heif.require()
        formats = ("HEIF",)
    elif dicom.is_dicom(file):
        dicom.require()
        formats = ("DICOM",)
    try:
        return Image.open(file, formats=formats)
    except UnidentifiedImageError as error:
        kind = of_file(file) if isinstance(file, Path) else kind_of(_beginning(file))
        raise MediaError(f"not a picture in a format coda can read{f': it is {kind}' if kind else ''}") from error


def _beginning(stream: IO[bytes]) -> bytes:
    stream.seek(0)
    return stream.read(HEAD)


@contextmanager
def decoder_errors(path: Path | str) -> Iterator[None]:
    """Turn whatever a decoder raises inside the block into a MediaError about the file.

    Args:
        path: the file, or what the picture is called.

    Yields:
        Nothing.

    Raises:
        MediaError: for everything but a lack of memory.
    """
    try:
        yield
    except MediaError as error:
        raise error.about(path)  # noqa: B904 (it is the same error)
    except MemoryError:
        raise
    except Image.DecompressionBombError as error:
        raise MediaError(f"more than {MAX_PIXELS // 10**6} million pixels; make it smaller first", item=path) from error
    except Exception as error:  # decoders raise IndexError, RuntimeError and errors of other classes for broken files
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise MediaError(f"broken or truncated picture ({reason})", item=path) from error


def refuse_bombs(path: Path | str, size: tuple[int, int]) -> None:
    """Refuse a file that is so large that it would fill the memory.

    Args:
        path: the file, for the message.
        size: (width, height) that its header states.

    Raises:
        MediaError: when it has more than 128 million pixels.
    """
    if size[0] * size[1] > MAX_PIXELS:
        raise MediaError(
            f"{size[0]} x {size[1]} pixels, more than {MAX_PIXELS // 10**6} million; make it smaller first", item=path
        )


def to_rgb(image: Image.Image, page: int | None = None) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """Convert an image of any mode.

    Args:
        image: as Pillow opened it.
        page: which page or frame, from 1 on; the first unless given.

    Returns:
        sRGB uint8 [H, W, 3], and what changed the picture on the way, in words.

    Raises:
        MediaError: its numbers are stored in a way in which decoders err.
    """
    notes = list(turn_to(image, page))
    refuse_misread(image)
    image.load()
    notes += image.info.get(dicom.NOTES, ())
    levels = _Levels.of(image) if image.mode.startswith("I") or image.mode == "F" else None
    conversion, note = conversion_of(image)
    if image.getexif().get(0x0112) in range(2, 9):
        image = ImageOps.exif_transpose(image)
        notes.append("turned as its EXIF orientation says")
    if levels:
        notes.append("scaled to 8 bits")
    if note:
        notes.append(note)
    rgb, transparent = np.empty((image.height, image.width, 3), np.uint8), False
    step = max(1, budget.CONVERTED_PIXELS // image.width)
    for top in range(0, image.height, step):  # in strips: whole, every stage would take memory of its own
        end = min(top + step, image.height)
        strip = image if step >= image.height else image.crop((0, top, image.width, end))
        strip, some = _strip_to_rgb(levels.scaled(strip) if levels else strip, conversion)
        rgb[top:end] = np.asarray(strip)
        transparent |= some
    if transparent:  # screenshots have an alpha channel that hides nothing
        notes.append("transparency laid on white")
    return rgb, tuple(notes)


def _strip_to_rgb(image: Image.Image, conversion: Conversion | None) -> tuple[Image.Image, bool]:
    """Part of an image as RGB on white, and whether something of it is transparent."""
    if not image.has_transparency_data:
        if conversion:
            return conversion(image), False
        return image if image.mode == "RGB" else image.convert("RGB"), False
    rgba = image.convert("RGBA")
    if conversion:
        alpha = rgba.getchannel("A")
        rgba = conversion(rgba.convert("RGB")).convert("RGBA")
        rgba.putalpha(alpha)
    background = Image.new("RGBA", rgba.size, (*BACKGROUND, 255))
    transparent = bool(np.asarray(rgba.getchannel("A")).min() < 255)
    return Image.alpha_composite(background, rgba).convert("RGB"), transparent


@dataclass(frozen=True)
class _Levels:
    """How the numbers of a grey picture of 16 or 32 bits become 8 bits.

    Attributes:
        top: what becomes 255: the full white of 12, 15 or 16 bits, or the picture's largest value.
        inverted: whether 0 is white, which Pillow does not undo at 16 bits.
        clear: the one grey that is transparent, if there is one.
    """

    top: float
    inverted: bool
    clear: int | None

    @classmethod
    def of(cls, image: Image.Image) -> _Levels:
        """Find them out; raises ValueError for values that are no numbers."""
        bits = bits_of(image)
        clear = image.info.get("transparency")
        top = float((1 << bits) - 1) if image.mode.startswith("I;16") and 8 < bits < 16 else 65535.0
        if not image.mode.startswith("I;16"):
            largest = _largest(image)
            top = 65535.0 if image.mode != "F" and largest <= 65535 else largest
            top = 32767.0 if image.mode == "I" and is_signed(image) and bits == 16 else top
        return cls(top, zero_is_white(image), clear if isinstance(clear, int) else None)

    def scaled(self, image: Image.Image) -> Image.Image:
        """Scale an image, or part of it, to 8 bits; what is transparent gets an alpha channel."""
        numbers = np.asarray(image)
        values = numbers.astype(np.float64)
        values = self.top - values if self.inverted else values
        grey = Image.fromarray(np.clip(np.round(values / self.top * 255), 0, 255).astype(np.uint8))
        if self.clear is not None:
            grey.putalpha(Image.fromarray(np.where(numbers != self.clear, 255, 0).astype(np.uint8)))
        return grey


def _largest(image: Image.Image) -> float:
    """The largest value of a grey picture, at least 1; raises ValueError where one is no number."""
    if image.mode == "F" and not np.isfinite(np.asarray(image)).all():
        raise ValueError("some of its values are no numbers")
    return max(1.0, float(image.getextrema()[1]))  # type: ignore[arg-type]


# ---- out ------------------------------------------------------------------------------------------------------------


def write_png(
    path: Path, rgb: NDArray[np.uint8], text: Mapping[str, str] | None = None, *, replace: bool = True
) -> None:
    """Write a picture as PNG, whole or not at all.

    Args:
        path: the file to write.
        rgb: uint8 [H, W, 3] sRGB.
        text: what the file carries as UTF-8 text chunks, by their keys.
        replace: whether a file of this name may be replaced.

    Raises:
        TakenError: when there is a file of this name that may not be replaced.
        MediaError: when the file cannot be written.
    """
    write_with(path, lambda stream: stream.write(png.encode(rgb, text)), replace=replace)
