"""Geometry: from the original picture to what the network sees, and from a map back to its place in the original."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coda_cli.errors import MediaError
from coda_cli.vocabulary import Fit

MAX_ENLARGED = 64_000_000  # pixels of a scaled picture before its centre is cut out
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class View:
    """What the network sees of a picture, and where that lies.

    ``rgb`` is uint8 [h, w, 3], sRGB. ``box`` = (x0, y0, x1, y1) in pixels of the original, edges not centres: the
    view's pixel (i, j) covers the original from x0 + j (x1 - x0) / w to x0 + (j + 1) (x1 - x0) / w, rows alike. The
    box can reach beyond the picture where a crop is larger than it. ``size`` is the original's (width, height).
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
        """How many pixels the network sees."""
        return int(self.rgb.shape[0] * self.rgb.shape[1])


def fit(rgb: NDArray[np.uint8], resize: int | None, crop: int | None, mode: Fit = "crop") -> View:
    """Show a picture uint8 [H, W, 3] to a network whose checkpoint states ``resize`` and ``crop`` (pixels, or None).

    crop    shorter side to ``resize`` (Pillow bilinear, antialiased; the longer truncated, as torchvision's Resize),
            then the centre ``crop`` x ``crop``, zeros where the picture is smaller: the published test transform.
            Raises MediaError for a picture so narrow that its enlargement would fill the memory.
    pad     longer side to ``crop``: the whole picture, its aspect kept. Nothing is filled in: a DAU layer gives 0
            where it sees only zeros, so a zero border would change no number.
    native  the whole picture at its own size.
    """
    from PIL import Image

    height, width = rgb.shape[:2]
    whole = (0.0, 0.0, float(width), float(height))
    if mode == "native" or crop is None:
        return View(rgb, whole, (width, height))
    if mode == "pad":
        scale = crop / max(height, width)
        w, h = max(1, round(width * scale)), max(1, round(height * scale))
        return View(_resized(Image.fromarray(rgb), w, h), whole, (width, height))
    short = resize or crop
    w, h = (short, int(short * height / width)) if width <= height else (int(short * width / height), short)
    if w * h > MAX_ENLARGED:
        raise MediaError(f"too narrow for a centre crop ({width} x {height} pixels); use --fit pad")
    small = _resized(Image.fromarray(rgb), w, h)
    top, left = _first_of_centre(h, crop), _first_of_centre(w, crop)
    view = np.zeros((crop, crop, 3), np.uint8)
    y0, x0, y1, x1 = max(0, top), max(0, left), min(h, top + crop), min(w, left + crop)
    view[y0 - top : y1 - top, x0 - left : x1 - left] = small[y0:y1, x0:x1]
    sx, sy = width / w, height / h
    return View(view, (left * sx, top * sy, (left + crop) * sx, (top + crop) * sy), (width, height))


def _first_of_centre(length: int, crop: int) -> int:
    """Where torchvision's CenterCrop starts: a half is rounded to even inside, and up where it has to pad."""
    return round((length - crop) / 2.0) if length >= crop else -((crop - length) // 2)


def _resized(picture: object, w: int, h: int) -> NDArray[np.uint8]:
    from PIL import Image

    assert isinstance(picture, Image.Image)
    if picture.size == (w, h):
        return np.asarray(picture)
    return np.asarray(picture.resize((w, h), Image.Resampling.BILINEAR))


def paste_back(
    values: NDArray[np.float32], view: View, size: tuple[int, int] | None = None, *, blocks: bool = False
) -> NDArray[np.float32]:
    """A map [h, w] of the view's resolution on the original's pixel grid, float32 [H, W], NaN outside the view.

    This is drawing: values are interpolated between the centres of the view's pixels, or with ``blocks`` fill their
    pixels evenly, and change no recorded number.
    ``size`` (width, height) draws on a grid of another size than the original's, covering the same picture.
    """
    import cv2

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
        values.astype(np.float32), affine, (len(columns), len(rows)), flags=between | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )  # fmt: skip
    result[v : v + len(rows), u : u + len(columns)] = inside
    return result
