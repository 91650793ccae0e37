"""The one reader of animated GIF: frames are laid over one another as browsers do it.

Pillow and libav fill a cleared area with the background colour that the file states, which no browser shows. They are
not used for that; Pillow only unpacks the pixels of each picture, one at a time.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from coda_cli.media.quiet import pillow_silent

_EXTENSION, _PICTURE, _END = 0x21, 0x2C, 0x3B
_CONTROL = 0xF9  # label of the extension that says how the next picture is shown


class _Block(NamedTuple):
    """A picture of a GIF, and how it is shown."""

    box: tuple[int, int, int, int]  # left, top, width, height
    interlaced: int
    palette: bytes
    delay: int | None  # ms
    disposal: int
    clear: int | None  # the index of the colour that is transparent
    place: int  # of its pixels in the file


def _blocks(stream: IO[bytes]) -> Iterator[_Block]:
    """The pictures of a GIF; raises ValueError where the file is broken or cut off."""
    stream.seek(10)
    flags = _exactly(stream, 3)[0]
    shared = _exactly(stream, 3 << (flags & 7) + 1) if flags & 0x80 else b""
    delay, disposal, clear = None, 0, None
    while True:
        kind = _exactly(stream, 1)[0]
        if kind == _END:
            return
        if kind == _EXTENSION:
            label = _exactly(stream, 1)[0]
            data = _exactly(stream, _exactly(stream, 1)[0])
            if label == _CONTROL and len(data) >= 4:
                delay, disposal = 10 * int.from_bytes(data[1:3], "little"), data[0] >> 2 & 7
                clear = data[3] if data[0] & 1 else None
            if data:
                _skip(stream)
        elif kind == _PICTURE:
            left, top, width, height, flags = struct.unpack("<4HB", _exactly(stream, 9))
            own = _exactly(stream, 3 << (flags & 7) + 1) if flags & 0x80 else shared
            yield _Block((left, top, width, height), flags & 0x40, own, delay, disposal, clear, place := stream.tell())
            stream.seek(place + 1)
            delay, disposal, clear = None, 0, None
            _skip(stream)
        elif kind:  # a zero between blocks does no harm
            raise ValueError("something that is no block of a GIF")


def _exactly(stream: IO[bytes], count: int) -> bytes:
    """So many bytes; raises ValueError where there are fewer."""
    data = stream.read(count)
    if len(data) < count:
        raise ValueError("the file is cut off")
    return data


def _skip(stream: IO[bytes]) -> None:
    """Pass over pieces of up to 255 bytes, of which an empty one is the last."""
    while size := _exactly(stream, 1)[0]:
        stream.seek(size, 1)


def gif_lengths(stream: IO[bytes]) -> list[int | None]:
    """Find how long the pictures of a GIF are shown, without unpacking them.

    Args:
        stream: the file.

    Returns:
        The delay of each in ms, None where none is stated; those before the place where the file is broken.
    """
    found = []
    try:
        for block in _blocks(stream):
            found.append(block.delay)
    except ValueError:
        pass
    return found


def gif_pictures(
    stream: IO[bytes], refuse: Callable[[tuple[int, int]], None]
) -> Iterator[tuple[NDArray[np.uint8], int | None]]:
    """Unpack a GIF picture by picture.

    Args:
        stream: the file.
        refuse: raises an error for a (width, height) in pixels that is too large, before memory is taken for it.

    Yields:
        uint8 [H, W, 4], what is shown then, and for how many ms, None where that is not stated.

    Raises:
        ValueError: where the file is broken or cut off.
        OSError: where the pixels of a picture are broken or cut off.
    """
    stream.seek(6)
    width, height = struct.unpack("<2H", _exactly(stream, 4))
    canvas: NDArray[np.uint8] | None = None
    for block in _blocks(stream):
        left, top, wide, high = block.box
        if canvas is None:  # a first picture that is larger than it should be makes room for itself
            width, height = max(width, left + wide), max(height, top + high)
            refuse((width, height))
            canvas = np.zeros((height, width, 4), np.uint8)
        refuse((wide, high))
        area = canvas[top : top + high, left : left + wide]
        before = area.copy() if block.disposal >= 3 else None  # 4 is an old way to write 3
        _draw(area, block, stream)
        yield canvas.copy(), block.delay
        if block.disposal == 2:
            area[:] = 0
        elif before is not None:
            area[:] = before


def _draw(area: NDArray[np.uint8], block: _Block, stream: IO[bytes]) -> None:
    """Lay the opaque pixels of a picture on its area of what is shown, which cuts off what lies outside."""
    if not area.size:
        return
    indices = _indices(block, stream)[: area.shape[0], : area.shape[1]]
    colours = np.zeros((256, 4), np.uint8)
    colours[:, 3] = 255
    palette = np.frombuffer(block.palette, np.uint8).reshape(-1, 3)
    colours[: len(palette), :3] = palette
    if block.clear is None:
        area[:] = colours[indices]
    else:
        opaque = indices != block.clear
        area[opaque] = colours[indices[opaque]]


def _indices(block: _Block, stream: IO[bytes]) -> NDArray[np.uint8]:
    """The indices into the palette of a picture's pixels, uint8 [H, W]: it is made a GIF of its own for Pillow."""
    end = stream.tell()
    stream.seek(block.place)
    pixels = [_exactly(stream, 1)]
    while (size := _exactly(stream, 1))[0]:
        pixels += size, _exactly(stream, size[0])
    stream.seek(end)
    _, _, width, height = block.box
    grey = bytes(value for index in range(256) for value in (index, index, index))
    alone = struct.pack("<6s2H3B", b"GIF89a", width, height, 0xF7, 0, 0) + grey
    alone += struct.pack("<B4HB", _PICTURE, 0, 0, width, height, block.interlaced) + b"".join(pixels) + b"\0;"
    with pillow_silent, Image.open(io.BytesIO(alone), formats=("GIF",)) as image:
        return np.asarray(image)
