"""An animal: a lorikeet on a branch, feather by feather."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from drawing import Array, Colour, Points, Scene, curve, drawn_out, foliage, mix, smooth
from PIL import Image, ImageDraw, ImageFilter

BILL = np.array((0.262, 0.262))  # feathers lie away from here: over the head, down the breast and along the back
SHOULDER = np.array((0.495, 0.330))  # and those of the wing away from here
SUN = np.array((-0.46, -0.62, 0.64))  # y runs down here, as in the picture

BODY = [
    *((0.290, 0.235), (0.300, 0.165), (0.355, 0.108), (0.430, 0.100), (0.490, 0.145), (0.520, 0.220), (0.565, 0.300)),
    *((0.625, 0.420), (0.665, 0.550), (0.690, 0.650), (0.660, 0.700), (0.590, 0.715), (0.500, 0.708), (0.420, 0.675)),
    *((0.340, 0.620), (0.285, 0.530), (0.265, 0.445), (0.278, 0.375), (0.300, 0.315)),
]
WING = [
    *((0.490, 0.355), (0.540, 0.322), (0.595, 0.365), (0.652, 0.470), (0.700, 0.590), (0.745, 0.720), (0.780, 0.825)),
    *((0.725, 0.795), (0.645, 0.740), (0.570, 0.665), (0.505, 0.580), (0.464, 0.485), (0.458, 0.410)),
]


class Kind(NamedTuple):
    """A kind of feather: its colours (from, to), its rim's colour and how much of that shows, its lengths."""

    low: Colour
    high: Colour
    rim: Colour
    shown: float
    length: float
    width: float


KINDS = {
    "face": Kind((46, 44, 160), (84, 100, 228), (24, 22, 84), 0.18, 0.029, 0.0029),
    "crown": Kind((44, 52, 176), (96, 130, 244), (24, 26, 96), 0.18, 0.041, 0.0034),
    "nape": Kind((52, 44, 128), (70, 84, 190), (26, 26, 76), 0.24, 0.040, 0.0039),
    "collar": Kind((172, 200, 44), (216, 230, 80), (120, 150, 34), 0.18, 0.044, 0.0045),
    "breast": Kind((226, 52, 18), (252, 112, 28), (60, 18, 62), 0.56, 0.046, 0.0105),
    "side": Kind((244, 138, 22), (254, 200, 56), (204, 70, 20), 0.30, 0.048, 0.0070),
    "belly": Kind((40, 40, 140), (70, 78, 200), (20, 20, 76), 0.24, 0.046, 0.0063),
    "thigh": Kind((76, 150, 38), (150, 196, 56), (214, 216, 70), 0.45, 0.046, 0.0065),
    "back": Kind((44, 138, 40), (100, 194, 60), (24, 84, 28), 0.25, 0.048, 0.0075),
}
ZONES = (  # where on the body each kind grows
    *((0.300, 0.250, "face"), (0.330, 0.190, "crown"), (0.390, 0.140, "crown"), (0.440, 0.150, "crown")),
    *((0.340, 0.290, "face"), (0.380, 0.230, "face"), (0.430, 0.220, "crown"), (0.480, 0.190, "nape")),
    *((0.400, 0.290, "face"), (0.450, 0.270, "nape"), (0.330, 0.325, "face")),
    *((0.515, 0.260, "collar"), (0.475, 0.305, "collar"), (0.430, 0.330, "collar")),
    *((0.320, 0.395, "breast"), (0.380, 0.370, "breast"), (0.340, 0.460, "breast"), (0.400, 0.450, "breast")),
    *((0.430, 0.400, "breast"), (0.380, 0.530, "side"), (0.450, 0.500, "side"), (0.325, 0.530, "breast")),
    *((0.400, 0.605, "belly"), (0.450, 0.600, "belly"), (0.355, 0.590, "belly"), (0.500, 0.640, "thigh")),
    *((0.460, 0.690, "thigh"), (0.540, 0.720, "thigh"), (0.600, 0.720, "thigh"), (0.580, 0.350, "back")),
    *((0.540, 0.320, "back"), (0.640, 0.500, "back"), (0.660, 0.640, "back")),
)


def closed(corners: Points, steps: int = 12) -> Points:
    """A smooth closed line through the corners (a Catmull-Rom spline)."""
    p = np.array(corners)
    before, after, next_one = np.roll(p, 1, 0), np.roll(p, -1, 0), np.roll(p, -2, 0)
    t = np.linspace(0, 1, steps, endpoint=False)[None, :, None]
    a, b, c, d = (v[:, None] for v in (before, p, after, next_one))
    points = b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
    return [(float(x), float(y)) for x, y in points.reshape(-1, 2)]


class Tilted(Scene):
    """A scene whose points are turned anticlockwise about the middle of the bird; ``tilt`` in degrees."""

    def __init__(self, tilt: float) -> None:
        super().__init__()
        c, s = np.cos(np.radians(tilt)), np.sin(np.radians(tilt))
        self.turn, self.middle = np.array([[c, s], [-s, c]]), np.array((0.54, 0.53))
        x, y = self.x - self.middle[0], self.y - self.middle[1]
        self.x, self.y = c * x - s * y + self.middle[0], s * x + c * y + self.middle[1]

    def pixels(self, points: Points) -> Points:
        turned = (np.array(points) - self.middle) @ self.turn.T + self.middle
        return [(float(x), float(y)) for x, y in turned * self.unit]

    def ellipse(self, x: float, y: float, rx: float, ry: float | None = None) -> Image.Image:
        turns = np.linspace(0, 2 * np.pi, 48, endpoint=False)
        return self.polygon([(x + rx * float(np.cos(a)), y + (ry or rx) * float(np.sin(a))) for a in turns])


class Plumage:
    """Feathers laid one over another, with the area that they cover."""

    def __init__(self, scene: Scene, seed: int, outline: Points) -> None:
        self.scene, self.rng = scene, np.random.default_rng(seed)
        self.colours, self.cover = Image.new("RGB", scene.size, (40, 80, 40)), scene.polygon(outline)
        self.inside = np.asarray(self.cover) > 0
        self.paint, self.hide = ImageDraw.Draw(self.colours, "RGBA"), ImageDraw.Draw(self.cover)

    def grows(self, root: Array) -> bool:
        """Whether feathers grow at this point, which is inside the outline."""
        x, y = self.scene.pixels([(root[0], root[1])])[0]
        return bool(self.inside[int(y), int(x)])

    def feather(self, root: Array, way: Array, kind: Kind, blunt: float = 0.72) -> None:
        """One feather: its shadow, its vane with a rim about the tip, its barbs and its shaft."""
        across, along = np.array((-way[1], way[0])), np.linspace(0, 1, 13)
        tip = np.clip((along - blunt) / (1 - blunt), 0, 1)
        wide = kind.width * np.minimum(1, 4 * along) ** 0.7 * np.sqrt(1 - tip**2)

        def vane(grown: float) -> Points:
            middle = root + way * along[:, None] * kind.length * (0.75 + 0.25 * grown)
            side = across * wide[:, None] * grown
            return self.scene.pixels([(x, y) for x, y in (*(middle - side), *(middle + side)[::-1])])

        def tone(colour: Array, opaque: int) -> tuple[int, ...]:
            return (*(int(v) for v in np.clip(colour, 0, 255)), opaque)

        colour = mix(kind.low, kind.high, np.clip(self.rng.normal(0.5, 0.30), 0, 1))
        self.paint.polygon(vane(1.30), fill=(10, 14, 24, 36))
        self.paint.polygon(vane(1.0), fill=tone(mix(colour, kind.rim, kind.shown), 255))
        self.paint.polygon(vane(0.80), fill=tone(colour, 255))
        self.hide.polygon(vane(1.0), fill=255)
        for at in np.linspace(0.3, 0.97, max(6, round(kind.length * 240))):
            spot, reach = root + way * at * kind.length, float(np.interp(at, along, wide))
            for side in (-1, 1):
                end = spot + (side * across + way) * reach * 0.92
                shade = tone(colour * self.rng.uniform(0.72, 1.36), 130)
                self.paint.line(self.scene.pixels([(spot[0], spot[1]), (end[0], end[1])]), fill=shade, width=1)
        a, b = root + way * kind.length * 0.2, root + way * kind.length * 0.94
        shaft = self.scene.pixels([(a[0], a[1]), (b[0], b[1])])
        self.paint.line(shaft, fill=tone(colour * 1.25 + 14, 170), width=2)

    def lay(self, depth: float) -> None:
        """Paints them on the scene, rounded as a cushion of this depth."""
        lit = np.asarray(self.colours, np.float32) * rounded(self.scene, self.cover, depth)[..., None]
        self.scene.paint(self.cover, lit, soft=0.0008, rough=0.8)


def rounded(scene: Scene, area: Image.Image, depth: float) -> Array:
    """Light on an area as if it were a cushion: bright where it faces the sun, less where it turns away."""
    small = area.resize((scene.width, scene.height), Image.Resampling.BOX)
    soft = [small.filter(ImageFilter.GaussianBlur(r * scene.width)) for r in (0.02, 0.045, 0.08)]
    height = np.sum([np.asarray(part, np.float32) / 255 for part in soft], axis=0)
    down, right = np.gradient(height * depth * scene.width)
    normal = np.stack([-right, -down, np.ones_like(down)], -1)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    light = 0.46 + 0.80 * np.clip(normal @ SUN / np.linalg.norm(SUN), 0, 1) - 0.12 * normal[..., 1]
    return np.asarray(Image.fromarray(light.astype(np.float32)).resize(scene.size, Image.Resampling.BICUBIC))


def body(scene: Scene) -> Plumage:
    """The feathers of head and body, each kind in its zones, those nearest to the bill on top."""
    feathers, zones = Plumage(scene, 11, closed(BODY)), np.array([(x, y) for x, y, _ in ZONES])
    rng = feathers.rng
    roots = rng.random((26_000, 2)) * (0.46, 0.68) + (0.25, 0.08)
    for root in roots[np.argsort(-np.linalg.norm(roots - BILL, axis=1))]:
        if not feathers.grows(root):
            continue
        kind = KINDS[ZONES[np.linalg.norm(zones - root - rng.normal(0, 0.009, 2), axis=1).argmin()][2]]
        if rng.random() > (0.0038 / kind.width) ** 1.35:  # the larger, the fewer
            continue
        away = root - BILL
        far = float(np.linalg.norm(away))
        way = away / (far + 1e-6) + np.array((0.42, 0.90)) * min(1.4, far / 0.22) + rng.normal(0, 0.12, 2)
        feathers.feather(root, way / np.linalg.norm(way), kind)
    return feathers


def wing(scene: Scene) -> Plumage:
    """The folded wing: long flight feathers under rows of coverts."""
    feathers = Plumage(scene, 12, closed(WING))
    rng = feathers.rng
    for k in np.linspace(0, 1, 12):  # the flight feathers, the lowest first
        start = np.array((0.510, 0.525)) + k * np.array((0.120, -0.100))
        end = np.array((0.655, 0.765)) + k * np.array((0.125, 0.075))
        long = float(np.linalg.norm(end - start))
        kind = Kind((34, 112, 38), (74, 166, 56), (16, 44, 30), 0.85, long, 0.0170)
        feathers.feather(start, (end - start) / long, kind, 0.88)
    roots = rng.random((5200, 2)) * (0.29, 0.36) + (0.42, 0.31)
    for root in roots[np.argsort(-np.linalg.norm(roots - SHOULDER, axis=1))]:
        far = float(np.linalg.norm(root - SHOULDER))
        size = 0.55 + 2.4 * far
        if far > 0.265 or not feathers.grows(root):
            continue
        if rng.random() > 0.24 / size**2:
            continue
        way = np.array((0.50, 0.86)) + rng.normal(0, 0.07, 2) + (root - SHOULDER) * 0.6
        kind = Kind((44, 142, 40), (104, 200, 62), (24, 92, 34), 0.55, 0.056 * size, 0.0165 * size)
        feathers.feather(root, way / np.linalg.norm(way), kind, 0.6)
    return feathers


def tail(scene: Scene) -> Plumage:
    """Long, narrow feathers, those in the middle the longest."""
    feathers = Plumage(scene, 13, [(0.62, 0.70), (0.68, 0.70), (0.69, 0.74), (0.65, 0.75)])
    for k in (-1.0, 1.0, -0.7, 0.7, -0.4, 0.4, -0.15, 0.15, 0.0):
        start = np.array((0.640 + 0.030 * k, 0.700 - 0.012 * k))
        end = np.array((0.815 + 0.055 * k, 0.985 - 0.10 * abs(k) - 0.03 * k))
        long = float(np.linalg.norm(end - start))
        rim = (196, 200, 60) if k < -0.5 else (20, 66, 32)
        feathers.feather(start, (end - start) / long, Kind((44, 128, 40), (112, 186, 58), rim, 0.8, long, 0.020), 0.7)
    return feathers


def face(scene: Scene) -> None:
    """The hooked bill, the cere, and the eye."""
    lower = closed([(0.292, 0.288), (0.266, 0.294), (0.262, 0.310), (0.280, 0.324), (0.312, 0.312)])
    scene.fill(lower, (150, 36, 20), light=(0.7, 1.0))
    upper = closed([(0.312, 0.208), (0.270, 0.203), (0.230, 0.230), (0.212, 0.274), (0.217, 0.322), (0.231, 0.345),
                    (0.240, 0.310), (0.264, 0.294), (0.300, 0.298), (0.322, 0.270)])  # fmt: skip
    area = scene.polygon(upper)
    scene.shadow(scene.polygon([(x + 0.004, y + 0.008) for x, y in upper]), 0.45, 0.004)
    scene.paint(area, np.array((236, 72, 28)) * rounded(scene, area, 0.10)[..., None], rough=0.6)
    for line, width, colour in (
        (curve((0.298, 0.216), (0.250, 0.202), (0.229, 0.264)), 0.010, (255, 196, 156)),
        (curve((0.231, 0.338), (0.214, 0.306), (0.221, 0.256)), 0.006, (252, 184, 70)),
    ):
        scene.stroke(line, width, colour, soft=0.0045, strength=0.62)
    scene.fill(closed([(0.318, 0.204), (0.298, 0.200), (0.290, 0.214), (0.300, 0.230), (0.318, 0.232)]), (62, 50, 74))
    scene.paint(scene.ellipse(0.300, 0.214, 0.0040), (16, 14, 22), soft=0.001)
    x, y = 0.365, 0.205
    scene.paint(scene.ellipse(x, y, 0.0225, 0.0210), (28, 24, 58), soft=0.003)
    scene.paint(scene.ellipse(x, y, 0.0175), (204, 50, 20), light=(0.7, 1.25))
    scene.paint(scene.ellipse(x, y, 0.0135), (240, 116, 32), light=(0.7, 1.2), soft=0.003, strength=0.6)
    scene.paint(scene.ellipse(x, y, 0.0100), (8, 6, 8))
    scene.paint(scene.ellipse(x - 0.005, y - 0.006, 0.0040), (255, 255, 255), soft=0.0012)


def branch(scene: Scene) -> None:
    """A rough branch from left to right, lit from above."""
    middle = 0.768 - 0.07 * scene.x + 0.010 * np.sin(7 * scene.x)
    half = 0.040 - 0.008 * scene.x + 0.010 * (scene.noise(31, 0.8, (3, 8)) - 0.5)
    across = (scene.y - middle) / half
    bark = 0.40 + 0.60 * drawn_out(scene.size, 32, 0.95, 5) + 0.45 * scene.noise(33, 0.9, (4, 9))
    light = np.clip(0.95 - 0.50 * across - 0.36 * across**2, 0.16, 1.4)
    grey = mix((150, 126, 104), (150, 152, 128), smooth(scene.noise(34, 0.7, (3, 7)), 0.5, 0.7))
    wood = np.abs(across) < 1
    scene.paint(scene.where(wood), grey * (bark * light)[..., None], thing=False)
    scene.mask *= ~wood


def twig(scene: Scene, seed: int, x: float, y: float, turned: int) -> None:
    """A few long leaves that hang from a twig."""
    rng = np.random.default_rng(seed)
    stem = curve((x, y), (x + 0.05 * turned, y - 0.10), (x + 0.13 * turned, y - 0.14))
    scene.stroke(stem, 0.006, (110, 92, 62), light=(1.2, 0.8), thing=False)
    for u, v in stem[6::7]:
        side, long = rng.uniform(0.02, 0.09) * turned, rng.uniform(0.12, 0.17)
        tip = (u + side, v + long)
        left, right = (curve((u, v), (u + side * 0.4 + s, v + long * 0.45), tip) for s in (-0.036, 0.030))
        green = np.array((104, 146, 72)) * rng.uniform(0.75, 1.15)
        scene.fill([*left, *right[::-1]], green, light=(1.15, 0.8), thing=False)
        middle = curve((u, v), (u + side * 0.4 - 0.003, v + long * 0.45), tip)
        scene.fill([*middle, *right[::-1]], green * 0.72, light=(1.1, 0.85), thing=False, strength=0.8)
        scene.stroke(middle, 0.0018, (186, 204, 130), thing=False, strength=0.8)


def foot(scene: Scene, x: float, y: float) -> None:
    """Three ringed toes with claws about the branch."""
    for k in (1, -1, 0):
        toe = curve((x + 0.004 * k, y - 0.040), (x + 0.026 * k - 0.014, y - 0.040), (x + 0.031 * k - 0.018, y + 0.012),
                    steps=12)  # fmt: skip
        scene.shadow(scene.line([(u + 0.007, v + 0.005) for u, v in toe], 0.018), 0.45, 0.004)
        u, v = toe[-1]
        claw = curve((u, v), (u - 0.008, v + 0.012), (u - 0.002, v + 0.024))
        scene.stroke(claw, 0.007, (40, 36, 38), light=(1.5, 0.8))
        for j, (u, v) in enumerate(toe[::-1]):
            tone = (122, 116, 118) if j % 2 else (104, 98, 102)
            scene.paint(scene.ellipse(u, v, 0.0098, 0.0080), tone, light=(1.45, 1.0, 0.6), soft=0.001)


def garden(scene: Scene) -> None:
    """Leaves and light far out of focus."""
    leaves = scene.noise(21, 0.75, (2, 7))
    scene.picture[:] = mix((62, 98, 52), (176, 204, 122), smooth(leaves, 0.2, 0.85))
    rng = np.random.default_rng(22)
    clumps = [(rng.uniform(0, 1), rng.uniform(0, 1), rng.uniform(0.06, 0.13)) for _ in range(9)]
    foliage(scene, 23, clumps, (34, 66, 30), (170, 204, 104), 0.016, 4000)
    scene.picture[:] = scene.blurred(0.020)
    for _ in range(46):
        tone = np.array((222, 234, 178)) + rng.normal(0, 14, 3)
        spot = scene.ellipse(rng.uniform(0, 1), rng.uniform(0, 1), rng.uniform(0.014, 0.040))
        scene.paint(spot, tone, thing=False, soft=0.003, strength=rng.uniform(0.06, 0.24))
    scene.picture[:] = scene.blurred(0.004)


def lorikeet() -> tuple[Image.Image, Image.Image]:
    scene = Tilted(8)
    garden(scene)
    twig(scene, 25, 0.90, 0.72, 1)
    twig(scene, 26, 0.10, 0.75, -1)
    scene.behind()
    tail(scene).lay(0.05)
    branch(scene)  # before the tail, behind the body
    body(scene).lay(0.13)
    for x, y in ((0.445, 0.730), (0.535, 0.726)):
        foot(scene, x, y)
    folded = wing(scene)
    scene.shadow(folded.cover, 0.5, 0.010)
    folded.lay(0.09)
    face(scene)
    return scene.finish(24, sharp=0.3)


SCENES = {"lorikeet": lorikeet}
