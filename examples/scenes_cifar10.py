"""The pictures for the CIFAR-10 network: airplane, ship, automobile and truck, of flat shapes on soft backgrounds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from drawing import Points, image
from drawing import noise as any_noise
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter

W, H, FINE = 384, 384, 3  # pixels of a picture, and how much finer it is drawn
Canvas = tuple[Image.Image, Image.Image]  # the picture and the object's mask


def noise(seed: int, roughness: float, size: tuple[int, int] = (W * FINE, H * FINE)) -> NDArray[np.float64]:
    return any_noise(seed, roughness, size)


def gradient(top: tuple[int, int, int], bottom: tuple[int, int, int], power: float = 1.0) -> NDArray[np.float64]:
    """A vertical gradient, float [H, W, 3] on the fine grid."""
    t = np.linspace(0, 1, H * FINE)[:, None, None] ** power
    return (1 - t) * np.array(top, float) + t * np.array(bottom, float) + np.zeros((1, W * FINE, 1))


def scaled(points: Points) -> Points:
    return [(x * W * FINE, y * H * FINE) for x, y in points]


def shape(canvas: Canvas, points: Points, colour: tuple[int, int, int], shade: float = 0.25, soft: float = 1.2) -> None:
    """A polygon (coordinates in 0..1), darker towards its lower edge, added to the picture and to the mask."""
    picture, mask = canvas
    area = Image.new("L", picture.size, 0)
    ImageDraw.Draw(area).polygon(scaled(points), fill=255)
    _fill(picture, mask, area, colour, shade, soft)


def disc(canvas: Canvas, x: float, y: float, r: float, colour: tuple[int, int, int], shade: float = 0.3) -> None:
    """A disc, shaded likewise."""
    picture, mask = canvas
    area = Image.new("L", picture.size, 0)
    box = [(x - r) * W * FINE, (y - r) * W * FINE, (x + r) * W * FINE, (y + r) * W * FINE]
    ImageDraw.Draw(area).ellipse(box, fill=255)
    _fill(picture, mask, area, colour, shade, 1.0)


def _fill(
    picture: Image.Image, mask: Image.Image, area: Image.Image, colour: tuple[int, int, int], shade: float, soft: float
) -> None:
    box = area.getbbox()
    if box is None:
        return
    light = np.ones((picture.size[1], 1, 1))
    light[box[1] : box[3], 0, 0] = np.linspace(1 + shade, 1 - shade, box[3] - box[1])
    grain = 1 + 0.06 * (noise(7, 0.9) - 0.5)[..., None]
    paint = image(np.array(colour, float) * light * grain)
    edge = area.filter(ImageFilter.GaussianBlur(soft))
    picture.paste(paint, mask=edge)
    mask.paste(ImageChops.lighter(mask, area))


def finish(canvas: Canvas, seed: int) -> Canvas:
    """Down to the final size, with a lens's softness and a sensor's grain."""
    picture, mask = canvas
    small = picture.filter(ImageFilter.GaussianBlur(1.5)).resize((W, H), Image.Resampling.LANCZOS)
    grain = np.random.default_rng(seed).normal(0, 2.5, (H, W, 1))
    return image(np.asarray(small, float) + grain), mask.resize((W, H), Image.Resampling.BOX).point(
        lambda v: 255 * (v > 127)
    ).convert("1")


def blank(background: NDArray[np.float64]) -> Canvas:
    picture = image(background)
    return picture, Image.new("L", picture.size, 0)


def sky(seed: int, blue: tuple[int, int, int], pale: tuple[int, int, int], clouds: float) -> NDArray[np.float64]:
    cover = np.clip(noise(seed, 0.55) * 2.2 - 1.0, 0, 1)[..., None] * clouds
    return gradient(blue, pale) * (1 - cover) + 248 * cover


def mirrored(points: Points) -> Points:
    return [(1 - x, y) for x, y in points]


def airplane() -> Canvas:
    canvas = blank(sky(1, (84, 142, 214), (196, 220, 240), 0.55))
    white, grey, blue = (226, 230, 236), (150, 156, 166), (60, 84, 130)
    shape(canvas, [(0.43, 0.46), (0.30, 0.27), (0.36, 0.26), (0.57, 0.45)], grey)  # far wing
    shape(canvas, [(0.16, 0.44), (0.10, 0.27), (0.16, 0.27), (0.27, 0.44)], blue)  # fin
    shape(canvas, [(0.10, 0.45), (0.20, 0.42), (0.70, 0.43), (0.82, 0.455), (0.90, 0.50), (0.87, 0.525), (0.72, 0.55),
                   (0.24, 0.535), (0.11, 0.48)], white)  # fmt: skip
    shape(canvas, [(0.14, 0.48), (0.05, 0.56), (0.11, 0.565), (0.25, 0.50)], grey)  # tailplane
    shape(canvas, [(0.42, 0.52), (0.22, 0.76), (0.30, 0.765), (0.60, 0.535)], grey, shade=0.15)  # near wing
    for x in (0.36, 0.45):
        disc(canvas, x, 0.635, 0.028, (92, 98, 110))
    for x in np.arange(0.30, 0.74, 0.035):
        disc(canvas, float(x), 0.465, 0.007, (70, 88, 112))
    shape(canvas, [(0.80, 0.463), (0.845, 0.475), (0.835, 0.49), (0.795, 0.482)], (60, 74, 96))
    return finish(canvas, 1)


def ship() -> Canvas:
    background = sky(5, (120, 164, 212), (214, 226, 236), 0.5)
    horizon = int(0.55 * H * FINE)
    rows = np.linspace(0, 1, H * FINE - horizon)[:, None]
    waves = noise(9, 0.95, (W * FINE // 4, H * FINE))
    waves = np.asarray(Image.fromarray(waves.astype(np.float32)).resize((W * FINE, H * FINE), Image.Resampling.BICUBIC))
    light = 0.78 + 0.5 * waves[horizon:] * (0.3 + 0.7 * rows)
    background[horizon:] = np.array((38, 84, 122.0)) * light[..., None]
    canvas = blank(background)
    hull, white, red = (42, 48, 66), (232, 232, 228), (168, 52, 44)
    shape(canvas, [(0.08, 0.52), (0.93, 0.50), (0.85, 0.64), (0.15, 0.645)], hull, shade=0.3)
    shape(canvas, [(0.13, 0.605), (0.875, 0.60), (0.85, 0.64), (0.15, 0.645)], red, shade=0.1)
    shape(canvas, [(0.17, 0.45), (0.70, 0.445), (0.72, 0.515), (0.16, 0.52)], white)
    shape(canvas, [(0.22, 0.39), (0.58, 0.385), (0.59, 0.45), (0.21, 0.455)], white)
    shape(canvas, [(0.27, 0.34), (0.40, 0.34), (0.41, 0.395), (0.26, 0.395)], white)
    shape(canvas, [(0.46, 0.26), (0.535, 0.26), (0.545, 0.39), (0.455, 0.39)], red)
    shape(canvas, [(0.46, 0.26), (0.535, 0.26), (0.537, 0.29), (0.459, 0.29)], (30, 30, 34))
    shape(canvas, [(0.325, 0.20), (0.333, 0.20), (0.335, 0.345), (0.323, 0.345)], (90, 90, 96))
    for y, first, last in ((0.48, 0.20, 0.68), (0.42, 0.25, 0.56)):
        for x in np.arange(first, last, 0.035):
            shape(
                canvas, [(x, y - 0.010), (x + 0.018, y - 0.010), (x + 0.018, y + 0.010), (x, y + 0.010)], (58, 74, 96)
            )
    return finish(canvas, 2)


def _road(seed: int) -> NDArray[np.float64]:
    background = sky(seed, (150, 186, 222), (226, 232, 236), 0.4)
    ground = int(0.62 * H * FINE)
    hedge = int(0.50 * H * FINE)
    green = 0.55 + 0.7 * noise(seed + 1, 0.95)[hedge:ground]
    background[hedge:ground] = np.array((58, 92, 52.0)) * green[..., None]
    tar = 0.85 + 0.3 * noise(seed + 2, 1.0)[ground:]
    background[ground:] = np.array((122, 122, 124.0)) * tar[..., None]
    return background


def _wheel(canvas: Canvas, x: float, y: float, r: float) -> None:
    disc(canvas, x, y, r, (26, 26, 28))
    disc(canvas, x, y, r * 0.58, (178, 180, 186))
    disc(canvas, x, y, r * 0.2, (70, 72, 78))


def _shadow(canvas: Canvas, x0: float, x1: float, y: float) -> None:
    picture, _ = canvas
    area = Image.new("L", picture.size, 0)
    ImageDraw.Draw(area).ellipse([x0 * W * FINE, (y - 0.03) * H * FINE, x1 * W * FINE, (y + 0.03) * H * FINE], fill=190)
    picture.paste((36, 36, 38), mask=area.filter(ImageFilter.GaussianBlur(14)))


def automobile() -> Canvas:
    canvas = blank(_road(21))
    _shadow(canvas, 0.06, 0.95, 0.755)
    red, glass, dark = (188, 32, 34), (70, 92, 112), (28, 28, 32)
    shape(
        canvas, [(0.27, 0.53), (0.36, 0.405), (0.42, 0.385), (0.62, 0.385), (0.69, 0.41), (0.80, 0.53)], red, shade=0.3
    )
    shape(canvas, [(0.06, 0.60), (0.09, 0.55), (0.28, 0.515), (0.80, 0.515), (0.92, 0.545), (0.955, 0.62), (0.95, 0.70),
                   (0.90, 0.72), (0.10, 0.72), (0.055, 0.69)], red, shade=0.35)  # fmt: skip
    shape(canvas, [(0.32, 0.515), (0.385, 0.42), (0.43, 0.405), (0.50, 0.405), (0.50, 0.515)], glass)
    shape(canvas, [(0.525, 0.405), (0.61, 0.405), (0.665, 0.425), (0.745, 0.515), (0.525, 0.515)], glass)
    shape(canvas, [(0.09, 0.695), (0.91, 0.695), (0.90, 0.725), (0.10, 0.725)], dark)
    shape(canvas, [(0.065, 0.575), (0.12, 0.565), (0.12, 0.595), (0.062, 0.60)], (246, 240, 214), shade=0.1)
    shape(canvas, [(0.90, 0.56), (0.94, 0.57), (0.948, 0.60), (0.905, 0.595)], (120, 12, 14), shade=0.1)
    shape(canvas, [(0.55, 0.555), (0.60, 0.555), (0.60, 0.563), (0.55, 0.563)], (230, 200, 200))
    for x in (0.245, 0.765):
        disc(canvas, x, 0.715, 0.088, dark)
        _wheel(canvas, x, 0.72, 0.075)
    return finish(canvas, 3)


def truck() -> Canvas:
    canvas = blank(_road(33))
    _shadow(canvas, 0.04, 0.96, 0.785)
    box, cab, glass, dark = (222, 222, 216), (36, 84, 158), (66, 88, 108), (30, 30, 34)
    shape(canvas, [(0.05, 0.22), (0.65, 0.22), (0.65, 0.66), (0.05, 0.66)], box, shade=0.15)
    for x in np.arange(0.09, 0.64, 0.055):
        shape(canvas, [(x, 0.23), (x + 0.006, 0.23), (x + 0.006, 0.65), (x, 0.65)], (176, 176, 172), shade=0.1)
    shape(canvas, [(0.05, 0.655), (0.95, 0.655), (0.95, 0.72), (0.05, 0.72)], dark)
    shape(
        canvas, [(0.675, 0.34), (0.84, 0.34), (0.89, 0.50), (0.955, 0.53), (0.96, 0.70), (0.675, 0.70)], cab, shade=0.3
    )
    shape(canvas, [(0.74, 0.375), (0.825, 0.375), (0.865, 0.50), (0.74, 0.50)], glass)
    shape(canvas, [(0.925, 0.58), (0.957, 0.585), (0.957, 0.62), (0.925, 0.62)], (246, 240, 214), shade=0.1)
    for x in (0.15, 0.29, 0.80):
        disc(canvas, x, 0.735, 0.082, dark)
        _wheel(canvas, x, 0.74, 0.07)
    return finish(canvas, 4)


SCENES: dict[str, Callable[[], Canvas]] = {"airplane": airplane, "automobile": automobile, "ship": ship, "truck": truck}
