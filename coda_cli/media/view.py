"""Geometry: from the original picture to what the network sees, and from a map back to its place in the original."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coda_cli.errors import MediaError
from coda_cli.machine import budget
from coda_cli.vocabulary import Fit, Interpolation

MAX_ENLARGED = 64_000_000  # pixels of a scaled picture before its centre is cut out
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class View:
    """What the network sees of a picture, and where that lies in the original.

    Attributes:
        rgb: uint8 [h, w, 3] sRGB.
        box: (x0, y0, x1, y1) in pixels of the original, edges and not centres: the view's pixel (i, j) covers the
            original from x0 + j (x1 - x0) / w to x0 + (j + 1) (x1 - x0) / w, and rows in the same way. The box can
            reach beyond the picture where a crop is larger than it.
        size: (width, height) of the original in pixels.
    """

    rgb: NDArray[np.uint8]
    box: Box
    size: tuple[int, int]

    @property
    def resolution(self) -> tuple[int, int]:
        """(width, height) in pixels of what the network sees."""
        return self.rgb.shape[1], self.rgb.shape[0]

    @property
    def pixels(self) -> int:
        """Number of pixels that the network sees."""
        return int(self.rgb.shape[0] * self.rgb.shape[1])

    def of_picture(self, size: tuple[int, int]) -> View:
        """The same view of a picture that was decoded at a smaller size.

        Args:
            size: (width, height) of the picture in its file, in pixels.

        Returns:
            The view with its box in the picture's own pixels.
        """
        kx, ky = size[0] / self.size[0], size[1] / self.size[1]
        x0, y0, x1, y1 = self.box
        return View(self.rgb, (x0 * kx, y0 * ky, x1 * kx, y1 * ky), size)


def fit(
    rgb: NDArray[np.uint8],
    resize: int | None,
    crop: int | None,
    mode: Fit = "crop",
    interpolation: Interpolation = "bilinear",
) -> View:
    """Scale and cut a picture for a network.

    Args:
        rgb: the picture, uint8 [H, W, 3] sRGB.
        resize: pixels of the shorter side before the cut, as the checkpoint states them; None means ``crop``.
        crop: pixels of each side of the cut, as the checkpoint states them; None leaves the picture as it is.
        mode: "crop" is the published test transform: the shorter side becomes ``resize`` (the longer side is
            truncated, as in torchvision's Resize), then the centre ``crop`` x ``crop`` is cut out, with zeros where the
            picture is smaller. "pad" scales the longer side to ``crop`` and keeps
            the whole picture; nothing is filled in, because a DAU layer gives 0 where it sees only zeros, so that a
            border of zeros would change no number. "native" keeps the whole picture at its own size.
        interpolation: how the picture is scaled; Pillow's, antialiased.

    Returns:
        What the network sees, and where it lies.

    Raises:
        MediaError: for a picture so narrow that scaling it for "crop" would fill the memory, or too large for "native".
    """
    height, width = rgb.shape[:2]
    whole = (0.0, 0.0, float(width), float(height))
    if mode == "native" or crop is None:
        if width * height > budget.NATIVE_PIXELS:
            raise MediaError(
                f"{width} x {height} pixels, more than the {budget.NATIVE_PIXELS // 10**6} million of --fit native; "
                "use --fit crop or pad, or make it smaller"
            )
        return View(rgb, whole, (width, height))
    if mode == "pad":
        scale = crop / max(height, width)
        w, h = max(1, round(width * scale)), max(1, round(height * scale))
        return View(_resized(rgb, w, h, interpolation), whole, (width, height))
    short = resize or crop
    w, h = (short, int(short * height / width)) if width <= height else (int(short * width / height), short)
    if w * h > MAX_ENLARGED:
        raise MediaError(f"too narrow for a centre crop ({width} x {height} pixels); use --fit pad")
    small = _resized(rgb, w, h, interpolation)
    top, left = _first_of_centre(h, crop), _first_of_centre(w, crop)
    view = np.zeros((crop, crop, 3), np.uint8)
    y0, x0, y1, x1 = max(0, top), max(0, left), min(h, top + crop), min(w, left + crop)
    view[y0 - top : y1 - top, x0 - left : x1 - left] = small[y0:y1, x0:x1]
    sx, sy = width / w, height / h
    return View(view, (left * sx, top * sy, (left + crop) * sx, (top + crop) * sy), (width, height))


def _first_of_centre(length: int, crop: int) -> int:
    """The first pixel of torchvision's CenterCrop: halves are rounded to even, or up where the crop is the longer."""
    return round((length - crop) / 2.0) if length >= crop else -((crop - length) // 2)


def _resized(rgb: NDArray[np.uint8], w: int, h: int, interpolation: Interpolation) -> NDArray[np.uint8]:
    """A picture scaled to w x h pixels."""
    from PIL import Image

    if rgb.shape[:2] == (h, w):
        return rgb
    return np.asarray(Image.fromarray(rgb).resize((w, h), Image.Resampling[interpolation.upper()]))


def paste_back(
    values: NDArray[np.float32], view: View, size: tuple[int, int] | None = None, *, blocks: bool = False
) -> NDArray[np.float32]:
    """Draw a map of the view's resolution on the original's pixel grid.

    Values are interpolated between the centres of the view's pixels. This is drawing: it changes no recorded number.

    Args:
        values: contribution map, float32 [h, w], logit units.
        view: what the network saw; its box says where it lies in the original.
        size: (width, height) in pixels of the drawing; the original's size unless given.
        blocks: fill each pixel of the view evenly instead of interpolating.

    Returns:
        float32 [H, W], NaN outside the view.
    """
    from coda_cli.opencv import cv2

    h, w = values.shape
    width, height = size or view.size
    kx, ky = view.size[0] / width, view.size[1] / height  # original pixels for one pixel of the drawing
    x0, y0, x1, y1 = view.box
    ax, ay = w / (x1 - x0), h / (y1 - y0)
    # Centre of a drawn pixel X -> the map's pixel coordinate j, whose centres are integers: inverse map for OpenCV.
    X, Y = (np.arange(width) + 0.5) * kx, (np.arange(height) + 0.5) * ky
    columns, rows = np.flatnonzero((x0 <= X) & (x1 >= X)), np.flatnonzero((y0 <= Y) & (y1 >= Y))
    result = np.full((height, width), np.nan, np.float32)
    if not len(columns) or not len(rows):
        return result
    # Only the part inside is drawn; its first pixel is (u, v) of the whole.
    u, v = columns[0], rows[0]
    affine = np.array([[kx * ax, 0, ((0.5 + u) * kx - x0) * ax - 0.5], [0, ky * ay, ((0.5 + v) * ky - y0) * ay - 0.5]])
    between = cv2.INTER_NEAREST if blocks else cv2.INTER_LINEAR
    inside = cv2.warpAffine(
        values.astype(np.float32),
        affine,
        (len(columns), len(rows)),
        flags=between | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    result[v : v + len(rows), u : u + len(columns)] = inside
    return result
