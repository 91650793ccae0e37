"""The pictures for the Imagenette network: parachute, church, garbage truck, gas pump, cassette player, golf ball."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from drawing import Array, Camera, Plane, Points, Scene, blades, bricks, foliage, lawn, mix, ribs, sky
from PIL import Image, ImageDraw, ImageFilter
from scenes_cassette import cassette_player
from scenes_golf import golf_ball
from scenes_machines import garbage_truck, gas_pump

Drawn = tuple[Image.Image, Image.Image]  # the picture and the object's mask


def _jumper(scene: Scene, x: float, y: float, k: float = 1.4) -> None:
    """A small person hanging in a harness, with the hands on the risers."""

    def at(*offsets: tuple[float, float]) -> Points:
        return [(x + k * u, y + k * v) for u, v in offsets]

    suit, skin, dark, boots = (168, 38, 34), (206, 158, 128), (34, 36, 44), (28, 26, 26)
    for side, knee, foot in ((-1, (-0.020, 0.056), (-0.012, 0.088)), (1, (0.016, 0.060), (0.022, 0.091))):
        hand = (side * 0.016, -0.046)
        scene.stroke(at((side * 0.012, 0.0), (side * 0.024, -0.020), hand), 0.0095 * k, suit, light=(1.25, 0.8))
        scene.paint(scene.ellipse(*at(hand)[0], 0.0052 * k), skin)
        scene.stroke(at((side * 0.008, 0.034), knee), 0.0155 * k, (58, 66, 86), light=(1.25, 0.9), across=True)
        scene.stroke(at(knee, foot), 0.0125 * k, (50, 58, 76), light=(1.25, 0.75), across=True)
        scene.stroke(at(foot, (foot[0] - 0.009, foot[1] + 0.006)), 0.010 * k, boots)
    (x0, y0), (x1, y1) = at((-0.017, -0.008), (0.017, 0.042))
    scene.paint(scene.box(x0, y0, x1, y1, 0.009 * k), suit, light=(1.35, 1.05, 0.65), across=True)
    for side in (-1, 1):
        scene.stroke(at((side * 0.011, -0.008), (side * 0.005, 0.018), (side * 0.012, 0.046)), 0.0040 * k, dark)
    scene.stroke(at((-0.015, 0.018), (0.015, 0.018)), 0.0036 * k, dark)
    scene.paint(scene.ellipse(*at((0.0, -0.018))[0], 0.0105 * k, 0.013 * k), skin, light=(1.1, 0.7))
    helmet = at(
        (-0.013, -0.017), (-0.0125, -0.026), (-0.006, -0.033), (0.003, -0.0345), (0.010, -0.030), (0.013, -0.017)
    )
    scene.fill(helmet, (232, 232, 236), light=(1.05, 0.9, 0.7), across=True)
    scene.stroke(at((-0.009, -0.0165), (0.009, -0.0165)), 0.0042 * k, dark)


def parachute() -> Drawn:
    scene = Scene()
    sky(scene, 61, (62, 116, 182), (160, 194, 222), 0.40)
    gores, columns, rows, reach = 16, 8, 28, 1.32
    sun, colours = np.array((-0.5, 0.72, 0.48)), [(206, 34, 40), (240, 238, 232), (30, 62, 150), (246, 190, 40)]
    sun = sun / np.linalg.norm(sun)
    tilt = 0.30  # seen from below

    def at(turn: float, down: float) -> Array:
        """A point of the canopy, a dome of bulging gores with a scalloped hem."""
        bulge = abs(np.sin(gores * turn / 2)) ** 0.8
        r = np.sin(down) * (1 + 0.05 * bulge * down)
        y = 0.80 * np.cos(down) - 0.05 * (1 - bulge) * (down > 1.25) - 0.02 * (1 - bulge)
        x, z = r * np.cos(turn), r * np.sin(turn)
        return np.array((x, y * np.cos(tilt) + z * np.sin(tilt), z * np.cos(tilt) - y * np.sin(tilt)))

    def seen(p: Array, roll: float = -0.10) -> tuple[float, float]:
        x, y = p[0] * np.cos(roll) - p[1] * np.sin(roll), p[0] * np.sin(roll) + p[1] * np.cos(roll)
        return 0.50 + 0.335 * x, 0.40 - 0.335 * y

    sheet, cover = Image.new("RGB", scene.size), scene.blank()
    paint, hide = ImageDraw.Draw(sheet), ImageDraw.Draw(cover)
    pieces = []
    step = 2 * np.pi / gores / columns
    for i in range(gores * columns):
        for j in range(rows):
            a, b = i * step, j * reach / rows
            corners = [at(a, b), at(a + step, b), at(a + step, b + reach / rows), at(a, b + reach / rows)]
            normal = np.cross(corners[2] - corners[0], corners[3] - corners[1])
            middle = sum(corners) / 4
            normal *= np.sign(normal @ middle) / (np.linalg.norm(normal) + 1e-9)  # outwards
            pieces.append((middle[2], i // columns, i % columns, j, normal, corners))
    for _, gore, column, row, normal, corners in sorted(pieces, key=lambda piece: piece[0]):
        colour = np.array(colours[(0, 1, 2, 1, 0, 3, 2, 3)[gore % 8]], float)
        outside = normal[2] > 0
        lit = 0.40 + 0.22 * max(0.0, normal[1]) + 0.55 * max(0.0, float(normal @ sun))
        if not outside:  # the sun shines through the cloth
            lit = 0.34 + 0.24 * max(0.0, float(normal @ sun)) + 0.34 * (row / rows) ** 2
        lit *= 1 - 0.16 * abs(2 * (column + 0.5) / columns - 1) ** 5 - 0.10 * (row == rows - 1)
        tone = tuple(int(v) for v in np.clip(colour * lit + 16 * (1 - lit), 0, 255))
        points = scene.pixels([seen(p) for p in corners])
        paint.polygon(points, fill=tone, outline=tone)
        hide.polygon(points, fill=255, outline=255)

    hang = (0.535, 0.815)
    turns = 2 * np.pi * np.arange(gores) / gores

    def lines(some: Array, width: float, strength: float) -> None:
        for turn in some:
            x, y = seen(at(turn, reach))
            riser = (hang[0] + 0.020 * float(np.sign(x - 0.5)), hang[1] - 0.066)
            scene.stroke([(x, y), riser], width, (216, 219, 224), thing=False, strength=strength)

    lines(turns[np.sin(turns) <= 0], 0.0014, 0.75)  # the far ones, behind the canopy
    scene.paint(cover, np.asarray(sheet, np.float32), soft=0.0006, rough=0.7)
    lines(turns[np.sin(turns) > 0], 0.0016, 0.85)
    _jumper(scene, *hang)
    return scene.finish(62)


def _window(scene: Scene, wall: Plane, u0: float, v0: float, u1: float, v1: float, frame: float = 0.09) -> None:
    """A pointed window with a light frame, dark panes and glazing bars."""
    scene.fill(wall.arch(u0 - frame, v0 - frame, u1 + frame, v1 + frame * 1.5), (238, 238, 234))
    scene.fill(wall.arch(u0, v0, u1, v1), (66, 78, 96), light=(1.35, 0.8, 0.6))
    middle = (u0 + u1) / 2
    for bar in (
        [(middle, v0), (middle, v1 - 0.1)],
        *([(u0, v), (u1, v)] for v in np.arange(v0 + 0.45, v1 - 0.4, 0.45)),
    ):
        scene.stroke(wall(bar), 0.0022, (222, 222, 218))


def church() -> Drawn:
    scene = Scene()
    sky(scene, 71, (66, 116, 178), (190, 210, 228), 0.16, horizon=0.85)
    camera = Camera((-7.0, 1.9, 25.0), (-0.25, 6.5, 0.0), 1.28, (0.5, 0.5))
    horizon = camera([(0, 1.9, -1e5)])[0][1]
    far = [(x, horizon - 0.008 * (1 + np.sin(9 * x) * np.sin(23 * x)), 0.028) for x in np.arange(-0.02, 1.04, 0.035)]
    foliage(scene, 70, far, (52, 74, 58), (128, 148, 96), 0.005, 9000)
    scene.picture[:] = scene.blurred(0.003)
    lawn(scene, 74, horizon, 0.036, 30_000, (52, 74, 32), (142, 158, 84))
    low = horizon - 0.01
    tree = [(0, -0.15, 0.085), (-0.07, -0.10, 0.07), (0.065, -0.08, 0.06), (-0.02, -0.24, 0.06), (0.03, -0.05, 0.06)]
    for seed, x, turned in ((72, 0.06, 1), (73, 0.92, -1)):
        scene.shadow(scene.ellipse(x + 0.03, low + 0.028, 0.15, 0.014), 0.6, 0.008, (14, 24, 12))
        scene.stroke([(x, low + 0.03), (x + 0.004, low - 0.12)], 0.018, (64, 52, 40))
        leaves = [(x + turned * u, low + v, r) for u, v, r in [*tree, (-0.09, -0.03, 0.05)]]
        foliage(scene, seed, leaves, (18, 32, 18), (138, 156, 74), 0.0055, 15_000)
    right = [(0.9, 2.2), (0.6, 5.5), (-0.6, 9.5), (-3.2, 16.0), (-5.3, 22.0)]
    left = [(-7.0, 22.0), (-5.0, 16.0), (-2.3, 9.5), (-1.2, 5.5), (-0.9, 2.2)]
    path = camera([(x, 0.0, z) for x, z in right + left])
    ground = (0.66 + 0.5 * scene.noise(75, 0.95, (2, 9)))[..., None]
    scene.fill(path, np.array((186, 172, 148.0)) * ground, soft=0.004)
    tufts, cover = blades(scene, 78, 14_000, horizon + 0.02, 1.1, horizon, 0.036, (52, 74, 32), (142, 158, 84))
    edge = np.asarray(scene.polygon(path).filter(ImageFilter.GaussianBlur(0.014 * scene.unit)), np.float32) / 255
    scene.picture[:] = mix(scene.picture, tufts, cover * (edge > 0.02) * (edge < 0.62))
    scene.behind()

    white, shade = np.array((240, 238, 230.0)), np.array((150, 162, 184.0))
    front, depth = Plane(camera, (-3.4, 0, 0), (1, 0, 0)), 11.0
    side = Plane(camera, (-3.4, 0, 0), (0, 0, -1))
    width, eaves, ridge = 6.8, 4.3, 7.4

    def boards(plane: Plane, colour: Array) -> Array:
        return colour * ribs(plane.coordinates(scene)[1], 0.22, 0.20)[..., None]

    # the nave: its long wall in shade, the slope of its roof, its gable
    scene.fill(side.box(0, 0, depth, eaves), boards(side, shade), rough=0.35)
    scene.fill(side.box(0, 0, depth, 0.45), (112, 108, 104))
    for u in np.arange(1.3, depth - 1, 2.4):
        _window(scene, side, u, 1.3, u + 0.95, 3.6)
    roof = camera([(-3.9, eaves - 0.35, 0.35), (-3.9, eaves - 0.35, -depth), (0, ridge, -depth), (0, ridge, 0.35)])
    slates = Plane(camera, (-3.9, eaves - 0.35, 0), (0, 0, -1), (0.72, 0.70, 0))
    joint, number = bricks(*slates.coordinates(scene), 0.35, 0.28)
    scene.fill(roof, mix((92, 96, 106), (52, 54, 62), joint * 0.6) * (0.85 + 0.3 * number)[..., None])
    scene.shadow(scene.polygon(side.box(0, eaves - 0.75, depth, eaves - 0.35)), 0.45, 0.003)
    gable = [(0, 0), (width, 0), (width, eaves), (width / 2, ridge), (0, eaves)]
    scene.fill(front(gable), boards(front, white), light=(0.97, 1.03), rough=0.35)
    scene.fill(front.box(0, 0, width, 0.45), (150, 144, 136))
    for u in (-0.5, width + 0.5):  # the verges of the roof
        a, b = (u, eaves - 0.45), (width / 2, ridge + 0.1)
        scene.shadow(scene.line(front([(a[0], a[1] - 0.3), (b[0], b[1] - 0.3)]), 0.008), 0.4, 0.003)
        scene.stroke(front([a, b]), 0.009, (246, 245, 240))
    for u in (0.75, width - 1.6):
        _window(scene, front, u, 1.2, u + 0.85, 3.7)

    def block(x0: float, x1: float, z0: float, z1: float, y0: float, y1: float) -> tuple[Plane, Plane]:
        """A part of the tower: its front in the sun and its side in shade."""
        before, beside = Plane(camera, (x0, y0, z0), (1, 0, 0)), Plane(camera, (x0, y0, z0), (0, 0, -1))
        scene.fill(beside.box(0, 0, z0 - z1, y1 - y0), boards(beside, shade), rough=0.35)
        scene.fill(before.box(0, 0, x1 - x0, y1 - y0), boards(before, white), light=(1.0, 1.03), rough=0.35)
        return before, beside

    def ledge(x0: float, x1: float, z0: float, z1: float, y: float) -> None:
        scene.fill(Plane(camera, (x0, y, z0), (0, 0, -1)).box(0, 0, z0 - z1, 0.28), (172, 180, 196))
        scene.fill(Plane(camera, (x0, y, z0), (1, 0, 0)).box(0, 0, x1 - x0, 0.28), (250, 249, 245))
        under = Plane(camera, (x0 + 0.2, y - 0.3, z0 - 0.2), (1, 0, 0)).box(0, 0, x1 - x0 - 0.4, 0.3)
        scene.shadow(scene.polygon(under), 0.4, 0.003)

    tower, _ = block(-1.45, 1.45, 1.2, -1.7, 0, 8.1)
    tower_side = Plane(camera, (-1.45, 0, 1.2), (0, 0, -1))
    scene.fill(tower.box(0, 0, 2.9, 0.45), (156, 150, 142))
    scene.fill(tower_side.box(0, 0, 2.9, 0.45), (112, 108, 104))
    scene.fill(tower.arch(0.72, 0.4, 2.18, 3.3), (246, 245, 240))
    scene.fill(tower.arch(0.87, 0.4, 2.03, 3.1), (112, 40, 32), light=(0.6, 1.0, 1.1))
    scene.stroke(tower([(1.45, 0.4), (1.45, 3.0)]), 0.003, (58, 20, 18))
    _window(scene, tower, 0.95, 4.4, 1.95, 6.9)
    _window(scene, tower_side, 1.0, 4.4, 1.9, 6.6)
    ledge(-1.65, 1.65, 1.4, -1.9, 8.1)
    belfry, belfry_side = block(-1.15, 1.15, 0.9, -1.4, 8.38, 10.5)
    for plane in (belfry, belfry_side):
        scene.fill(plane.arch(0.6, 0.3, 1.7, 1.9), (58, 62, 72), light=(0.6, 1.2))
        for v in np.arange(0.4, 1.6, 0.16):
            scene.stroke(plane([(0.66, v), (1.64, v)]), 0.0022, (168, 172, 180))
    ledge(-1.35, 1.35, 1.1, -1.6, 10.5)
    top, base = (0.0, 16.0, -0.25), 10.78
    shaded, lit = ((-1.1, base, 0.85), (-1.1, base, -1.35)), ((-1.1, base, 0.85), (1.1, base, 0.85))
    for corners, colour, light in ((shaded, (64, 70, 86), (1.0, 1.1)), (lit, (120, 126, 138), (1.1, 0.95))):
        scene.fill(camera([*corners, top]), colour, light=light)
        for k in np.arange(0.06, 0.95, 0.055):
            rows = [tuple(np.array(c) * (1 - k) + np.array(top) * k) for c in corners]
            scene.stroke(camera(rows), 0.0014, np.array(colour) * 0.8, strength=0.6)
    cross = (224, 190, 96)
    scene.stroke(camera([(0, 15.8, -0.25), (0, 17.5, -0.25)]), 0.0046, cross)
    scene.stroke(camera([(-0.42, 16.95, -0.25), (0.42, 16.95, -0.25)]), 0.0046, cross)

    # the steps and the shrubs
    for k in range(3):
        y, z = 0.42 - 0.14 * k, 1.2 + 0.35 * k
        tread = [(-1.1, y, z), (1.1, y, z), (1.1, y, z + 0.35), (-1.1, y, z + 0.35)]
        scene.fill(camera(tread), (196, 190, 180))
        scene.fill(Plane(camera, (-1.1, y - 0.14, z + 0.3), (1, 0, 0)).box(0, 0, 2.2, 0.14), (150, 144, 136))
    left, right = camera([(-3.4, 0, 0.6)])[0], camera([(3.4, 0, 0.6)])[0]
    shade = camera([(-3.4, 0, 0.2), (-3.4, 0, -11), (-5.4, 0, -10), (-5.0, 0, 0.4)])
    scene.shadow(scene.polygon(shade), 0.5, 0.006, (14, 22, 12))
    x0, x1, y = left[0], right[0], left[1]
    shrubs = [(x0 + 0.03, y - 0.012, 0.03), (x0 + 0.075, y - 0.008, 0.024)]
    shrubs += [(x1 - 0.03, right[1] - 0.012, 0.032), (x1 - 0.08, right[1] - 0.006, 0.024)]
    foliage(scene, 76, shrubs, (22, 40, 20), (112, 142, 66), 0.005, 2600)
    return scene.finish(77)


SCENES: dict[str, Callable[[], Drawn]] = {
    "cassette-player": cassette_player, "church": church, "garbage-truck": garbage_truck, "gas-pump": gas_pump,
    "golf-ball": golf_ball, "parachute": parachute,
}  # fmt: skip
