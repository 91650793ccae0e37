"""A golf ball on a fairway: as a picture, and rolling through a clip."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from drawing import Array, Scene, blades, lawn, mix, smooth
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

SUN = np.array((-0.52, 0.72, 0.46)) / np.linalg.norm((-0.52, 0.72, 0.46))
DARK, BRIGHT = (38, 66, 22), (156, 182, 78)


def dimples(fineness: int = 6) -> Array:
    """The centres of a ball's dimples: the points of a subdivided icosahedron."""
    gold = (1 + 5**0.5) / 2
    corners = np.array([p for a in (-1, 1) for b in (-gold, gold) for p in ((0, a, b), (a, b, 0), (b, 0, a))])
    points = []
    near = [(i, j, k) for i in range(12) for j in range(i) for k in range(j)
            if all(np.linalg.norm(corners[p] - corners[q]) < 2.1 for p, q in ((i, j), (j, k), (i, k)))]  # fmt: skip
    for i, j, k in near:
        for a in range(fineness + 1):
            for b in range(fineness + 1 - a):
                points.append(a * corners[i] + b * corners[j] + (fineness - a - b) * corners[k])
    found = np.array(points) / np.linalg.norm(points, axis=1, keepdims=True)
    return np.unique(found.round(6), axis=0)


def label() -> Array:
    """What is printed on the ball, 1 where there is ink."""
    text = Image.new("L", (512, 256), 0)
    draw = ImageDraw.Draw(text)
    draw.text((256, 96), "CODA", fill=255, anchor="mm", font=ImageFont.load_default(150))
    draw.text((256, 216), "4", fill=255, anchor="mm", font=ImageFont.load_default(84))
    return np.asarray(text.filter(ImageFilter.GaussianBlur(2)), np.float32) / 255


def ball(radius: int, turn: NDArray[np.float64]) -> Array:
    """A dimpled ball in the sun above grass, [2 radius, 2 radius, 4] with its cover last; ``turn`` rotates it."""
    ys, xs = (np.mgrid[-radius:radius, -radius:radius] + 0.5) / radius
    inside = xs**2 + ys**2 < 1
    n = np.stack([xs[inside], -ys[inside], np.sqrt(1 - xs[inside] ** 2 - ys[inside] ** 2)], axis=1)
    own = n @ turn  # the same points on the ball before it was turned
    centres = dimples()
    nearest = np.concatenate([centres[(part @ centres.T).argmax(1)] for part in np.array_split(own, 64)])
    angle = np.arccos(np.clip((own * nearest).sum(1), -1, 1)) / 0.088  # from the dimple's centre, 1 at its edge
    bowl = angle * (1 - smooth(angle, 0.78, 1.04))
    inward = nearest - own * (own * nearest).sum(1, keepdims=True)
    inward /= np.linalg.norm(inward, axis=1, keepdims=True) + 1e-9
    bent = n + 0.34 * bowl[:, None] * (inward @ turn.T)
    bent /= np.linalg.norm(bent, axis=1, keepdims=True)

    sun = np.clip((bent @ SUN + 0.06) / 1.06, 0, 1)
    half = SUN + np.array((0, 0, 1))
    gloss = np.clip(bent @ (half / np.linalg.norm(half)), 0, 1) ** 70
    up = 0.5 + 0.5 * bent[:, 1]
    open_sky = up * (1 - 0.10 * (1 - smooth(angle, 0.5, 1.0)))
    hidden = smooth(n[:, 1], -1.0, -0.30)[:, None]  # the grass about its foot takes light away
    light = sun[:, None] * np.array((0.80, 0.765, 0.70)) + open_sky[:, None] * np.array((0.20, 0.235, 0.30))
    light = light + (1 - up)[:, None] * np.array((0.085, 0.125, 0.035)) * 1.5
    ink = label()
    u, v = own[:, 0], own[:, 1]
    row, column = ((0.33 - v) * 400).astype(int), ((u + 0.64) * 400).astype(int)
    printed = (own[:, 2] > 0.3) & (row >= 0) & (row < 256) & (column >= 0) & (column < 512)
    amount = np.where(printed, ink[np.clip(row, 0, 255), np.clip(column, 0, 511)], 0)[:, None]
    surface = np.array((0.90, 0.90, 0.885)) * (1 - 0.9 * amount) + np.array((0.03, 0.05, 0.16)) * 0.9 * amount
    shade = surface * light * (0.22 + 0.78 * hidden) + 0.30 * gloss[:, None]
    values = np.zeros((2 * radius, 2 * radius, 4))
    values[inside, :3] = 255 * np.clip(shade, 0, 1) ** (1 / 2.2)
    values[inside, 3] = 1
    return values


def rolled(angle: float, tilt: float = 0.0, yaw: float = 0.0) -> NDArray[np.float64]:
    """A turn about the axis of view by ``angle`` (to the right), after a yaw and a tilt."""
    (c, s), (ct, st), (cy, sy) = ((np.cos(a), np.sin(a)) for a in (angle, tilt, yaw))
    roll = np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])
    return roll @ np.array([[1, 0, 0], [0, ct, -st], [0, st, ct]]) @ np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])


def fairway(scene: Scene, seed: int, horizon: float, focus: float, count: int) -> tuple[Array, Array]:
    """Trees far out of focus, a fairway before them and grass down to ``focus``; gives the blades before that."""
    leaves = scene.noise(seed, 0.72, (2, 7))
    gaps = smooth(scene.noise(seed + 1, 0.7, (2, 6)) - 2.2 * scene.y / horizon * 0.28, 0.30, 0.55)
    trees = mix((22, 40, 24), (88, 118, 58), smooth(leaves, 0.25, 0.85))
    scene.picture[:] = mix(trees, (196, 214, 226), gaps * (1 - smooth(scene.y, 0.1 * horizon, 0.85 * horizon)))
    rng = np.random.default_rng(seed)
    for _ in range(70):
        r = rng.uniform(0.010, 0.026)
        tone = np.array((168, 188, 132)) + rng.normal(0, 22, 3)
        spot = scene.ellipse(rng.uniform(0, 1), horizon * rng.uniform(0.02, 0.8), r)
        scene.paint(spot, tone, thing=False, soft=0.004, strength=rng.uniform(0.12, 0.4))
    scene.picture[:] = scene.blurred(0.010)
    lawn(scene, seed + 2, horizon, 0.115, count, DARK, BRIGHT, focus + 0.03)
    far, near = scene.blurred(0.012), scene.blurred(0.0035)
    depth = (scene.y - horizon) / (focus - horizon)
    scene.picture[:] = mix(scene.picture, near, 1 - smooth(depth, 0.5, 0.85))
    scene.picture[:] = mix(scene.picture, far, 1 - smooth(depth, 0.12, 0.6))
    bottom = float(scene.y.max())
    colours, cover = blades(scene, seed + 3, count, focus + 0.010, 1.2 * bottom, horizon, 0.115, DARK, BRIGHT, 1.0)
    soft = Image.fromarray((cover * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(0.0007 * scene.unit))
    return colours, np.asarray(soft, np.float32) / 255 * cover


def set_down(scene: Scene, x: float, y: float, r: float, turn: NDArray[np.float64], front: tuple[Array, Array]) -> None:
    """Puts a ball with centre (x, y) on the grass: its shadow, itself, and the blades before it."""
    shade = np.ones_like(scene.y)
    for cx, cy, rx, ry, strength in ((0.75, 0.82, 1.25, 0.25, 0.60), (0.14, 0.97, 0.85, 0.16, 0.56)):
        d = ((scene.x - x - cx * r) / (rx * r)) ** 2 + ((scene.y - y - cy * r) / (ry * r)) ** 2
        shade *= 1 - strength * np.exp(-(d**1.5))
    scene.picture *= mix((1.0, 1.0, 1.0), (0.94, 1.0, 1.04), 1 - shade) * shade[..., None]
    size = round(r * scene.unit)
    drawn = ball(size, turn)
    left, top = round(x * scene.unit) - size, round(y * scene.unit) - size
    x0, y0 = max(0, left), max(0, top)
    x1, y1 = min(scene.size[0], left + 2 * size), min(scene.size[1], top + 2 * size)
    if x0 < x1 and y0 < y1:
        part = drawn[y0 - top : y1 - top, x0 - left : x1 - left]
        cover = Image.fromarray((part[..., 3] * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(0.8))
        alpha = np.minimum(np.asarray(cover, np.float32) / 255, part[..., 3])
        scene.picture[y0:y1, x0:x1] = mix(scene.picture[y0:y1, x0:x1], part[..., :3], alpha)
        scene.mask[y0:y1, x0:x1] = np.maximum(scene.mask[y0:y1, x0:x1], part[..., 3])
    colours, cover = front
    scene.picture[:] = mix(scene.picture, colours * shade[..., None], cover)
    scene.mask *= 1 - cover
    down = smooth(scene.y, y + 1.25 * r, y + 2.1 * r)
    scene.picture[:] = mix(scene.picture, scene.blurred(0.004), down)


def golf_ball() -> tuple[Image.Image, Image.Image]:
    scene = Scene()
    front = fairway(scene, 41, 0.40, 0.80, 22_000)
    set_down(scene, 0.47, 0.545, 0.245, rolled(-0.22, -0.15, -0.3), front)
    return scene.finish(45)


def clip(frames: int = 96, width: int = 480, height: int = 360) -> Iterator[NDArray[np.uint8]]:
    """The ball rolling over the grass from left to right and out of the picture, seen by a hand-held camera."""
    margin = 24
    wide = Scene(width + 2 * margin, height + 2 * margin, 2)
    front = fairway(wide, 51, 0.30, 0.60, 18_000)
    ground = wide.picture.copy()
    radius = 0.125
    times = np.linspace(0, 1, frames)
    shake = [np.interp(times, np.linspace(0, 1, 14), np.random.default_rng(s).normal(0, 5.5, 14)) for s in (1, 2)]
    smoothing = np.hanning(9) / np.hanning(9).sum()
    shake = [np.convolve(np.pad(s, 4, mode="edge"), smoothing, "valid") for s in shake]
    for k, t in enumerate(times):
        wide.picture[:] = ground
        x = 0.19 + 0.98 * (1.12 * t - 0.12 * t * t)
        set_down(wide, x, 0.480, radius, rolled((x - 0.19) / radius - 0.5, -0.2, -0.4), front)
        picture, _ = wide.finish(100 + k, vignette=0.1)
        left, top = round(margin + shake[0][k]), round(margin + shake[1][k])
        yield np.asarray(picture)[top : top + height, left : left + width]
