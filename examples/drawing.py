"""What the scenes are drawn with: noise, a fine canvas with a mask, a camera, skies, grass, foliage and a lens."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

Points = list[tuple[float, float]]
Colour = tuple[float, float, float]
Array = NDArray[np.floating]


def noise(seed: int, roughness: float, size: tuple[int, int], octaves: tuple[int, int] = (2, 8)) -> NDArray[np.float64]:
    """Smooth noise in [0, 1]: octaves of random values, each enlarged; lower ``roughness`` is softer."""
    rng = np.random.default_rng(seed)
    total = np.zeros((size[1], size[0]))
    for octave in range(*octaves):
        grid = rng.random((2**octave, 2**octave)).astype(np.float32)
        layer = Image.fromarray(grid).resize(size, Image.Resampling.BICUBIC)
        total += np.asarray(layer) * roughness**octave
    low, high = total.min(), total.max()
    return (total - low) / (high - low)


def image(values: Array) -> Image.Image:
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


def drawn_out(scene_size: tuple[int, int], seed: int, roughness: float, across: int) -> Array:
    """Noise drawn out from left to right, as in wood."""
    narrow = noise(seed, roughness, (max(1, scene_size[0] // across), scene_size[1]), (2, 9)).astype(np.float32)
    return np.asarray(Image.fromarray(narrow).resize(scene_size, Image.Resampling.BICUBIC), np.float32)


def smooth(values: Array, low: float, high: float) -> Array:
    """0 up to ``low``, 1 from ``high``, smooth between."""
    t = np.clip((values - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def mix(a: ArrayLike, b: ArrayLike, t: ArrayLike) -> Array:
    """From ``a`` (where t is 0) to ``b`` (where t is 1); a map ``t`` without channels mixes colours."""
    weight = np.asarray(t, np.float32)
    if weight.ndim == 2:
        weight = weight[..., None]
    return np.asarray(a, np.float32) * (1 - weight) + np.asarray(b, np.float32) * weight


@cache
def grain(width: int, height: int, seed: int) -> NDArray[np.float32]:
    """The fine unevenness of every painted surface, about 1."""
    coarse, fine = noise(seed, 0.8, (width, height), (2, 7)), noise(seed + 1, 1.0, (width, height), (7, 9))
    return (1 + 0.10 * (coarse - 0.5) + 0.05 * (fine - 0.5)).astype(np.float32)


class Scene:
    """A picture drawn on a finer grid, with the mask of its object. Lengths are shares of the picture's width."""

    def __init__(self, width: int = 480, height: int = 480, fine: int = 3) -> None:
        self.width, self.height, self.fine = width, height, fine
        self.size = (width * fine, height * fine)
        self.unit = float(self.size[0])
        self.picture = np.zeros((self.size[1], self.size[0], 3), np.float32)
        self.mask = np.zeros((self.size[1], self.size[0]), np.float32)
        ys, xs = np.mgrid[: self.size[1], : self.size[0]].astype(np.float32)
        self.x, self.y = (xs + 0.5) / self.unit, (ys + 0.5) / self.unit

    def noise(self, seed: int, roughness: float = 0.6, octaves: tuple[int, int] = (2, 8)) -> Array:
        return noise(seed, roughness, self.size, octaves).astype(np.float32)

    def blank(self) -> Image.Image:
        return Image.new("L", self.size, 0)

    def pixels(self, points: Points) -> Points:
        return [(x * self.unit, y * self.unit) for x, y in points]

    def polygon(self, points: Points) -> Image.Image:
        area = self.blank()
        ImageDraw.Draw(area).polygon(self.pixels(points), fill=255)
        return area

    def ellipse(self, x: float, y: float, rx: float, ry: float | None = None) -> Image.Image:
        area, ry = self.blank(), rx if ry is None else ry
        ImageDraw.Draw(area).ellipse(sum(self.pixels([(x - rx, y - ry), (x + rx, y + ry)]), ()), fill=255)
        return area

    def box(self, x0: float, y0: float, x1: float, y1: float, r: float = 0.0) -> Image.Image:
        area = self.blank()
        corners = sum(self.pixels([(x0, y0), (x1, y1)]), ())
        ImageDraw.Draw(area).rounded_rectangle(corners, radius=r * self.unit, fill=255)
        return area

    def where(self, condition: NDArray[np.bool_]) -> Image.Image:
        return Image.fromarray(condition.astype(np.uint8) * 255)

    def line(self, points: Points, width: float) -> Image.Image:
        area = self.blank()
        ImageDraw.Draw(area).line(self.pixels(points), fill=255, width=max(1, round(width * self.unit)), joint="curve")
        return area

    def paint(self, area: Image.Image, colour: ArrayLike, *, light: Sequence[float] = (1.0, 1.0), across: bool = False,
              thing: bool = True, soft: float = 0.0008, strength: float = 1.0, rough: float = 1.0) -> None:  # fmt: skip
        """Paints an area in a colour or from a picture of colours; ``light`` runs down it, or across it.

        ``thing`` adds it to the mask, ``soft`` is the width of its edge and ``rough`` how uneven its surface is.
        """
        found = area.getbbox()
        if found is None:
            return
        margin = round(3 * soft * self.unit) + 1
        left, top = max(0, found[0] - margin), max(0, found[1] - margin)
        right, bottom = min(self.size[0], found[2] + margin), min(self.size[1], found[3] + margin)
        part = area.crop((left, top, right, bottom))
        here = np.s_[top:bottom, left:right]
        if thing:
            self.mask[here] = np.maximum(self.mask[here], np.asarray(part, np.float32) / 255)
        alpha = np.asarray(part.filter(ImageFilter.GaussianBlur(soft * self.unit)), np.float32)[..., None] / 255
        values = np.asarray(colour, np.float32)
        values = values[here] if values.ndim == 3 else np.broadcast_to(values, (*alpha.shape[:2], 3))
        steps = np.interp(np.linspace(0, 1, alpha.shape[1 if across else 0]), np.linspace(0, 1, len(light)), light)
        values = values * (steps[None, :, None] if across else steps[:, None, None])
        values = values * (1 + rough * (grain(*self.size, 7)[here] - 1))[..., None]
        self.picture[here] += (values - self.picture[here]) * alpha * strength

    def fill(self, points: Points, colour: ArrayLike, **how: Any) -> None:
        self.paint(self.polygon(points), colour, **how)

    def stroke(self, points: Points, width: float, colour: ArrayLike, **how: Any) -> None:
        self.paint(self.line(points, width), colour, **how)

    def behind(self) -> None:
        """All that was drawn so far is background."""
        self.mask[:] = 0

    def shadow(self, area: Image.Image, strength: float, soft: float, tint: Colour = (20, 24, 34)) -> None:
        """Darkens an area with a soft edge."""
        self.paint(area, tint, thing=False, soft=soft, strength=strength, rough=0)

    def blurred(self, radius: float) -> Array:
        """The picture out of focus; ``radius`` is a share of the width."""
        return np.asarray(image(self.picture).filter(ImageFilter.GaussianBlur(radius * self.unit)), np.float32)

    def finish(self, seed: int, sharp: float = 0.45, vignette: float = 0.16) -> tuple[Image.Image, Image.Image]:
        """Down to the final size: a lens's softness and dark corners, a film's tones, a sensor's noise."""
        size = (self.width, self.height)
        picture = image(self.picture).filter(ImageFilter.GaussianBlur(sharp * self.fine))
        values = np.asarray(picture.resize(size, Image.Resampling.LANCZOS), np.float32) / 255
        ys, xs = np.mgrid[: self.height, : self.width].astype(np.float32)
        far = ((xs / self.width - 0.5) ** 2 + (ys / self.height - 0.5) ** 2) / 0.5
        values = values * (1 - vignette * far[..., None] ** 1.5)
        values = values + 0.05 * np.sin(2 * np.pi * (values - 0.5))  # a gentle contrast curve
        rng = np.random.default_rng(seed)
        sensor = rng.normal(0, 1, (self.height, self.width, 1)) + 0.35 * rng.normal(0, 1, (self.height, self.width, 3))
        values = values * 255 + sensor * (0.8 + 1.4 * np.sqrt(np.clip(values, 0, 1)))
        mask = image(self.mask * 255).resize(size, Image.Resampling.BOX).point(lambda v: 255 * (v > 127))
        mask = mask.filter(ImageFilter.MaxFilter(3)).filter(ImageFilter.MinFilter(3))  # closes hair-thin gaps
        return image(values), mask


class Camera:
    """A pinhole camera: x to the right, y up, z towards the viewer, in metres."""

    def __init__(self, eye: Colour, target: Colour, zoom: float, centre: tuple[float, float] = (0.5, 0.5)) -> None:
        self.eye = np.array(eye, float)
        forward = np.array(target, float) - self.eye
        forward /= np.linalg.norm(forward)
        right = np.cross(forward, (0, 1, 0))
        right /= np.linalg.norm(right)
        lens = np.array([[zoom, 0, centre[0]], [0, -zoom, centre[1]], [0, 0, 1]])
        self.matrix = lens @ np.stack([right, np.cross(right, forward), forward])

    def __call__(self, points: Sequence[Sequence[float]]) -> Points:
        seen = (np.array(points, float) - self.eye) @ self.matrix.T
        return [(float(x / w), float(y / w)) for x, y, w in seen]


class Plane:
    """A flat wall before a camera, with its own coordinates in metres: across it and up it."""

    def __init__(self, camera: Camera, origin: Colour, across: Colour, up: Colour = (0, 1, 0)) -> None:
        self.camera = camera
        self.origin, self.across, self.up = (np.array(v, float) for v in (origin, across, up))

    def __call__(self, points: Points) -> Points:
        return self.camera([self.origin + u * self.across + v * self.up for u, v in points])

    def box(self, u0: float, v0: float, u1: float, v1: float) -> Points:
        return self([(u0, v0), (u1, v0), (u1, v1), (u0, v1)])

    def circle(self, u: float, v: float, r: float) -> Points:
        turns = np.linspace(0, 2 * np.pi, 64, endpoint=False)
        return self([(u + r * float(np.cos(a)), v + r * float(np.sin(a))) for a in turns])

    def arch(self, u0: float, v0: float, u1: float, v1: float) -> Points:
        """An opening with a pointed head."""
        middle, spring = (u0 + u1) / 2, v1 - 0.75 * (u1 - u0)
        bend = [(k / 8, (1 - (1 - k / 8) ** 2) ** 0.5) for k in range(9)]
        left = [(u0 + (middle - u0) * s * (0.4 + 0.6 * s), spring + (v1 - spring) * t) for s, t in bend]
        right = [(u1 - (u - u0), v) for u, v in reversed(left)]
        return self([(u0, v0), *left, *right, (u1, v0)])

    def coordinates(self, scene: Scene) -> tuple[Array, Array]:
        """The plane's coordinates of every pixel."""
        columns = np.stack([self.across, self.up, self.origin - self.camera.eye], axis=1)
        inverse = np.linalg.inv(self.camera.matrix @ columns)
        u, v, w = (inverse[k, 0] * scene.x + inverse[k, 1] * scene.y + inverse[k, 2] for k in range(3))
        w = np.where(np.abs(w) < 1e-9, 1e-9, w)
        return u / w, v / w


def sky(scene: Scene, seed: int, top: Colour, low: Colour, cover: float, horizon: float = 1.0) -> None:
    """A clear sky with soft clouds, lit from the upper left; ``cover`` from 0 (none) to 1 (overcast)."""
    t = np.clip(scene.y / horizon, 0, 1) ** 0.8
    clear = mix(top, low, t)
    wide = noise(seed, 0.56, (scene.size[0], scene.size[1] // 2), (2, 8))
    thick = np.asarray(
        Image.fromarray(wide.astype(np.float32)).resize(scene.size, Image.Resampling.BICUBIC), np.float32
    )
    thick = thick * 0.78 + 0.22 * scene.noise(seed + 1, 0.62, (3, 9))
    edge = float(np.quantile(thick, 1 - cover))
    density = smooth(thick, edge - 0.10, edge + 0.26)
    shift = scene.size[0] // 36
    soft = np.asarray(image(thick * 255).filter(ImageFilter.GaussianBlur(shift / 2)), np.float32) / 255
    rows, columns = (np.maximum(np.arange(n) - k, 0) for n, k in ((scene.size[1], shift), (scene.size[0], shift // 2)))
    behind = soft[rows[:, None], columns]
    lit = np.clip(0.86 + 1.1 * (thick - behind), 0.62, 1.02)
    cloud = mix((176, 188, 206), (255, 253, 249), smooth(lit, 0.6, 1.0))
    scene.picture[:] = mix(clear, cloud, density * 0.96)


def blades(scene: Scene, seed: int, count: int, top: float, bottom: float, horizon: float, length: float,
           dark: Colour, bright: Colour, gather: float = 0.7) -> tuple[Array, Array]:  # fmt: skip
    """Blades of grass rooted between two heights of the picture, larger towards the viewer: colours and cover.

    They stand the denser towards the viewer the further ``gather`` is below 1.
    """
    rng = np.random.default_rng(seed)
    colours, cover = Image.new("RGB", scene.size), scene.blank()
    paint, hide = ImageDraw.Draw(colours), ImageDraw.Draw(cover)
    ys = np.sort(top + (bottom - top) * rng.random(count) ** gather)
    shades = np.clip(rng.normal(0.45, 0.24, count), 0, 1)
    for y, shade in zip(ys, shades):
        size = max((y - horizon) / (1 - horizon), 0.03)
        tall, wide = length * size * rng.uniform(0.5, 1.25), length * size * rng.uniform(0.035, 0.07)
        x, lean = rng.uniform(-0.05, 1.05), tall * rng.normal(0.12, 0.42)
        bend, up = x + lean * 0.35, y - tall * 0.55
        colour = np.array(dark) + (np.array(bright) - np.array(dark)) * shade
        if rng.random() < 0.08:
            colour = colour * 0.5 + np.array((196, 182, 120.0)) * 0.5
        low = tuple(int(v) for v in np.clip(colour * 0.72, 0, 255))
        high = tuple(int(v) for v in np.clip(colour * 1.22, 0, 255))
        stem = scene.pixels([(x - wide, y), (bend - wide * 0.8, up), (bend + wide * 0.8, up), (x + wide, y)])
        tip = scene.pixels([(bend - wide * 0.8, up), (x + lean, y - tall * 0.98), (bend + wide * 0.8, up)])
        for points, fill in ((stem, low), (tip, high)):
            paint.polygon(points, fill=fill)
            hide.polygon(points, fill=255)
    return np.asarray(colours, np.float32), np.asarray(cover, np.float32) / 255


def lawn(scene: Scene, seed: int, horizon: float, length: float, count: int, dark: Colour, bright: Colour,
         bottom: float = 1.2) -> None:  # fmt: skip
    """Grass from the horizon to the lower edge, with blades rooted as far down as ``bottom``."""
    t = np.clip((scene.y - horizon) / (scene.y.max() - horizon), 0, 1)
    patches = noise(seed, 0.75, (scene.size[0], scene.size[1] // 3), (2, 8)).astype(np.float32)
    patches = np.asarray(Image.fromarray(patches).resize(scene.size, Image.Resampling.BICUBIC), np.float32)
    ground = mix(np.array(dark) * 0.6 + np.array(bright) * 0.4, np.array(dark) * 0.8, t)
    ground = ground * (0.72 + 0.56 * patches)[..., None]
    colours, cover = blades(scene, seed + 1, count, horizon, bottom, horizon, length, dark, bright)
    ground = mix(ground, colours * (0.78 + 0.44 * patches)[..., None], cover)
    scene.picture[:] = mix(scene.picture, ground, smooth(scene.y, horizon - 0.001, horizon + 0.001))


def foliage(scene: Scene, seed: int, clumps: Sequence[tuple[float, float, float]], dark: Colour, bright: Colour,
            leaf: float = 0.006, count: int = 5000, thing: bool = False) -> None:  # fmt: skip
    """Leaves about the given discs (x, y, radius), lit from the upper left."""
    rng = np.random.default_rng(seed)
    colours, cover = Image.new("RGB", scene.size), scene.blank()
    paint, hide = ImageDraw.Draw(colours), ImageDraw.Draw(cover)
    discs = []
    for x, y, r in clumps:  # every disc is a dark heart with smaller, lit ones over it
        discs += [(x, y, r), *((x + r * np.cos(a) * s, y + r * np.sin(a) * s * 0.9, r * rng.uniform(0.22, 0.45))
                  for a, s in zip(rng.uniform(0, 2 * np.pi, 16), rng.uniform(0.25, 1.0, 16)))]  # fmt: skip
    discs = np.array(discs)
    which = rng.choice(len(discs), count, p=discs[:, 2] ** 2 / (discs[:, 2] ** 2).sum())
    angle, reach = rng.uniform(0, 2 * np.pi, count), rng.random(count) ** 0.5 * rng.normal(1, 0.08, count)
    dx, dy = np.cos(angle) * reach, np.sin(angle) * reach
    heart = np.isin(which, np.arange(len(clumps)) * 17)
    lit = np.clip(np.where(heart, 0.18, 0.42) - 0.28 * dx - 0.42 * dy + rng.normal(0, 0.17, count), 0, 1)
    for k in np.lexsort((rng.random(count) + lit, which if len(clumps) == 1 else which % 17, ~heart)):
        x, y, r = discs[which[k]]
        colour = np.array(dark) + (np.array(bright) - np.array(dark)) * lit[k]
        px, py, size = x + dx[k] * r, y + dy[k] * r, leaf * rng.uniform(0.5, 1.4)
        turn = rng.uniform(0, np.pi)
        a, b = np.array((np.cos(turn), np.sin(turn))) * size, np.array((-np.sin(turn), np.cos(turn))) * size * 0.55
        points = scene.pixels([(px + u, py + v) for u, v in (a, b, -a, -b)])
        paint.polygon(points, fill=tuple(int(v) for v in np.clip(colour, 0, 255)))
        hide.polygon(points, fill=255)
    scene.paint(cover, np.asarray(colours, np.float32), thing=thing, soft=0.0006)


def ribs(values: Array, every: float, depth: float) -> Array:
    """Brightness of boards or corrugations along a coordinate: 1, darker at each joint."""
    part = np.mod(values / every, 1.0)
    return 1 - depth * (1 - smooth(np.minimum(part, 1 - part), 0.0, 0.13)) + 0.05 * (part - 0.5)


def bricks(u: Array, v: Array, wide: float, tall: float) -> tuple[Array, Array]:
    """A wall of bricks: its mortar (1 in a joint) and a number in [0, 1] for every brick."""
    row = np.floor(v / tall)
    along = u / wide + 0.5 * np.mod(row, 2)
    column = np.floor(along)
    joint = np.minimum(
        np.minimum(along - column, column + 1 - along) * wide, np.abs(v / tall - np.round(v / tall)) * tall
    )
    number = np.mod(np.sin(row * 127.1 + column * 311.7) * 43758.5, 1.0)
    return 1 - smooth(joint, 0.006, 0.022), number


def write(scene: Scene, text: str, place: Points, colour: Colour, strength: float = 0.9) -> None:
    """Letters fitted into a four-cornered place (from its lower left corner, anticlockwise)."""
    font = ImageFont.load_default(72)
    left, top, right, bottom = font.getbbox(text)
    letters = Image.new("L", (int(right - left) + 8, int(bottom - top) + 8), 0)
    ImageDraw.Draw(letters).text((4 - left, 4 - top), text, fill=255, font=font)
    w, h = letters.size
    goal = scene.pixels([place[3], place[2], place[1], place[0]])
    rows, right_side = [], []
    for (x, y), (a, b) in zip(goal, ((0, 0), (w, 0), (w, h), (0, h))):
        rows += [[x, y, 1, 0, 0, 0, -a * x, -a * y], [0, 0, 0, x, y, 1, -b * x, -b * y]]
        right_side += [a, b]
    fitted = np.linalg.solve(np.array(rows), np.array(right_side))
    area = letters.transform(scene.size, Image.Transform.PERSPECTIVE, tuple(fitted), Image.Resampling.BICUBIC)
    scene.paint(area, colour, strength=strength)


def curve(*corners: tuple[float, float], steps: int = 40) -> Points:
    """A smooth line led by the given corners (a Bezier curve)."""
    points = []
    for t in np.linspace(0, 1, steps):
        level = [np.array(c, float) for c in corners]
        while len(level) > 1:
            level = [a + (b - a) * t for a, b in pairwise(level)]
        points.append((float(level[0][0]), float(level[0][1])))
    return points
