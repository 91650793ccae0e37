"""A decoded frame as it is shown: sRGB, upright, on white where it is transparent, all of one size."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from coda_cli.errors import MediaError
from coda_cli.media.stills import BACKGROUND

if TYPE_CHECKING:
    from av.video.frame import VideoFrame
    from av.video.reformatter import VideoReformatter

MAX_FRAME_PIXELS = 36_000_000  # a frame of 8K has 33 million; dozens of frames are in memory at a time
ON_WHITE = "transparency laid on white"
_ROWS = 1 << 20  # pixels that are laid on white at a time


class Orientation(NamedTuple):
    """One of the eight ways in which a stored picture can be shown.

    Attributes:
        mirrored: whether left and right are exchanged first.
        turns: how often it is then turned by 90 degrees counter-clockwise, 0 to 3.
    """

    mirrored: bool
    turns: int

    @property
    def note(self) -> str:
        """What is changed, in words; empty for nothing."""
        words = ["mirrored"] * self.mirrored + ["turned"] * bool(self.turns)
        return f"{' and '.join(words)} by its rotation metadata" if words else ""

    def apply(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Bring a stored picture into the position in which it is shown.

        Args:
            pixels: uint8 [H, W, C].

        Returns:
            uint8 [H, W, C], or [W, H, C] where it lies on its side.
        """
        return np.rot90(pixels[:, ::-1] if self.mirrored else pixels, self.turns)


def orientation_of(frame: VideoFrame) -> Orientation:
    """Find how a frame is to be shown, which PyAV and imageio leave to the caller.

    Args:
        frame: as it was decoded.

    Returns:
        The nearest of the eight orientations.

    Source:
        The display matrix of QuickTime and MP4: x' = a x + c y, y' = b x + d y, with y pointing down.
    """
    try:
        data: Any = frame.side_data.get("DISPLAYMATRIX")  # a buffer, which PyAV's types do not say
    except ValueError:  # PyAV does not know the kind of another piece of data beside it
        return Orientation(False, round(frame.rotation / 90) % 4)
    if data is None:
        return Orientation(False, 0)
    a, b, _, c, d, *_ = (int(value) for value in np.frombuffer(bytes(data), np.int32))

    def fit(orientation: Orientation) -> int:
        """How much of the matrix is that of an orientation."""
        x, y = -1 if orientation.mirrored else 1, 1  # what becomes of the two axes
        (pa, pb), (pc, pd) = (x, 0), (0, y)
        for _ in range(orientation.turns):
            pa, pb, pc, pd = pb, -pa, pd, -pc
        return a * pa + b * pb + c * pc + d * pd

    return max((Orientation(mirrored, turns) for mirrored in (False, True) for turns in range(4)), key=fit)


def refuse_large_frames(path: Path, size: tuple[int, int]) -> None:
    """Refuse frames so large that those in memory at a time would fill it.

    Args:
        path: the clip, for the message.
        size: (width, height) of a frame in pixels.

    Raises:
        MediaError: when it has more than 36 million pixels.
    """
    if size[0] * size[1] > MAX_FRAME_PIXELS:
        raise MediaError(
            f"frames of {size[0]} x {size[1]} pixels; more than {MAX_FRAME_PIXELS // 10**6} million (8K) are not read, "
            "make it smaller first",
            item=path,
        )


def shown(
    frame: VideoFrame, size: tuple[int, int], reformatter: VideoReformatter
) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """Compute the colours of a frame, with the matrix and range that it states.

    A frame that states no matrix is read as players read it: as BT.709 from HD on, as BT.601 below.

    Args:
        frame: as it was decoded.
        size: (width, height) in pixels as shown: that of the clip's first frame, to which others are scaled.
        reformatter: the clip's own, which makes its tables only once.

    Returns:
        uint8 [H, W, 3] sRGB, and in words what was changed that only this frame could tell.
    """
    from av.video.reformatter import Colorspace

    orientation, notes = orientation_of(frame), []
    width, height = size[::-1] if orientation.turns % 2 else size
    if (frame.width, frame.height) != (width, height):
        own = (frame.height, frame.width) if orientation.turns % 2 else (frame.width, frame.height)
        notes.append(
            f"its size changes inside, to {own[0]} x {own[1]} pixels: scaled to {size[0]} x {size[1]}, as it begins"
        )
    unstated = frame.colorspace == 2 and (frame.width >= 1280 or frame.height > 576)
    matrix = Colorspace.ITU709 if unstated else None
    form = "rgba" if may_be_transparent(frame) else "rgb24"
    # One thread, because the network needs the others.
    plain = reformatter.reformat(frame, width, height, form, src_colorspace=matrix, threads=1)
    pixels = orientation.apply(plain.to_ndarray().astype(np.uint8, copy=False))
    if form == "rgb24":
        return np.ascontiguousarray(pixels), tuple(notes)
    rgb, transparent = on_white(pixels)
    return rgb, (*notes, ON_WHITE) if transparent else tuple(notes)


def may_be_transparent(frame: VideoFrame) -> bool:
    """Tell whether a frame's kind of pixels has room for transparency.

    Args:
        frame: as it was decoded.

    Returns:
        Whether there is an alpha channel, or a palette, whose colours may be transparent.
    """
    return frame.format.has_palette or any(component.is_alpha for component in frame.format.components)


def on_white(rgba: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], bool]:
    """Lay a picture on the same background as stills.

    Args:
        rgba: uint8 [H, W, 4].

    Returns:
        uint8 [H, W, 3], and whether any of it was transparent.
    """
    if not rgba.size or int(rgba[..., 3].min()) == 255:
        return np.ascontiguousarray(rgba[..., :3]), False
    laid = np.empty((*rgba.shape[:2], 3), np.uint8)
    rows = max(1, _ROWS // rgba.shape[1])
    background = np.array(BACKGROUND, np.uint16)
    for start in range(0, rgba.shape[0], rows):  # in parts, because the products take twice the memory
        part = rgba[start : start + rows]
        alpha = part[..., 3:].astype(np.uint16)
        laid[start : start + rows] = (part[..., :3] * alpha + background * (255 - alpha) + 127) // 255
    return laid, True
