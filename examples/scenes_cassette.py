"""A cassette player: loudspeakers, a tuner, a deck with a cassette in it, keys."""

from __future__ import annotations

import numpy as np
from drawing import Array, Colour, Scene, drawn_out, image, mix, smooth, write
from PIL import Image, ImageFilter


def _panel(scene: Scene, x0: float, y0: float, x1: float, y1: float, r: float, colour: Colour | Array,
           light: tuple[float, ...] = (1.08, 1.0, 0.88), raised: bool = True, lip: float = 0.0022) -> None:  # fmt: skip
    """A moulded part with rounded corners, standing out of what it is on or let into it."""
    if raised:
        scene.shadow(scene.box(x0 + lip, y0 + 1.5 * lip, x1 + 1.2 * lip, y1 + 2.5 * lip, r), 0.55, 1.3 * lip)
    up = -lip / 2 if raised else lip / 2
    for shift, tone in ((up, 255.0), (-up, 0.0)):  # one edge catches the light, the other is dark
        scene.paint(scene.box(x0, y0 + shift, x1, y1 + shift, r), (tone, tone, tone), strength=0.45)
    scene.paint(scene.box(x0, y0, x1, y1, r), colour, light=light)
    if not raised:
        scene.shadow(scene.box(x0, y0, x1, y0 + 2.5 * lip, min(r, lip)), 0.5, 1.2 * lip)


def _dial(scene: Scene, x: float, y: float, r: float, colour: Colour, turn: float = -0.7) -> None:
    """A round knob with a mark."""
    scene.shadow(scene.ellipse(x + 0.2 * r, y + 0.35 * r, 1.08 * r), 0.6, 0.18 * r)
    scene.paint(scene.ellipse(x, y, r), np.array(colour) * 0.55, light=(1.3, 0.7))
    sweep = np.arctan2(scene.y - y, scene.x - x)
    sheen = 0.88 + 0.30 * np.cos(2 * (sweep + 0.8)) ** 4
    scene.paint(scene.ellipse(x, y, 0.84 * r), np.array(colour) * sheen[..., None], light=(1.1, 0.9))
    mark = [(x + k * r * np.cos(turn), y + k * r * np.sin(turn)) for k in (0.3, 0.78)]
    scene.stroke(mark, 0.16 * r, (30, 30, 34))


def _speaker(scene: Scene, x: float, y: float, r: float) -> None:
    """A loudspeaker behind a grille of wire, in a ring of chrome."""
    scene.shadow(scene.ellipse(x + 0.02 * r, y + 0.05 * r, 1.05 * r), 0.6, 0.04 * r)
    sweep = np.arctan2(scene.y - y, scene.x - x)
    ring = 0.72 + 0.42 * np.cos(sweep + 2.2) ** 2 - 0.25 * np.cos(2 * sweep - 0.5) ** 4
    scene.paint(scene.ellipse(x, y, 1.03 * r), np.array((196, 198, 202)) * ring[..., None], light=(1.12, 0.8))
    scene.paint(scene.ellipse(x, y, 0.95 * r), (26, 26, 29))
    far = np.hypot(scene.x - x, scene.y - y) / r
    lean = 0.5 - 0.5 * ((scene.x - x) * 0.5 + (scene.y - y) * 0.85) / (r * np.maximum(far, 0.05))
    rubber = np.exp(-(((far - 0.83) / 0.055) ** 2))
    cone = mix((30, 30, 33), (92, 92, 96), (1 - lean) * smooth(far, 0.25, 0.75) * (far < 0.76))
    cone = cone + (rubber * (18 + 60 * lean))[..., None]
    gleam = ((scene.x - x + 0.08 * r) ** 2 + (scene.y - y + 0.1 * r) ** 2) / (0.12 * r) ** 2
    cap = ((far < 0.27) * (26 + 95 * np.exp(-gleam)))[..., None]
    pitch = 0.0105
    row = np.round(scene.y / pitch / 0.866)
    across = np.mod(scene.x / pitch + 0.5 * np.mod(row, 2), 1) - 0.5
    hole = 1 - smooth(np.hypot(across, scene.y / pitch - row * 0.866), 0.24, 0.36)
    wire = np.array((66, 67, 71)) * (0.8 + 0.5 * (1 - smooth(scene.y, y - r, y + r)))[..., None]
    scene.paint(scene.ellipse(x, y, 0.93 * r), mix(wire, cone + cap, 0.25 + 0.75 * hole))
    scene.shadow(scene.ellipse(x, y - 0.88 * r, 0.5 * r, 0.10 * r), 0.5, 0.05 * r)


def cassette_player() -> tuple[Image.Image, Image.Image]:
    scene = Scene()
    wall = mix((196, 186, 168), (150, 138, 122), scene.x) * (0.97 + 0.06 * scene.noise(81, 0.9))[..., None]
    scene.picture[:] = wall * mix((1.0, 1.0, 1.0), (0.78, 0.78, 0.80), smooth(scene.y, 0.1, 0.75))
    scene.paint(scene.box(0.60, -0.1, 1.1, 0.50), (214, 216, 214), soft=0.02, strength=0.55)
    for x in (0.72, 0.90):
        scene.paint(scene.box(x, -0.1, x + 0.012, 0.5), (150, 142, 130), soft=0.012, strength=0.5)
    veins = 0.55 * drawn_out(scene.size, 82, 1.0, 360) + 0.45 * drawn_out(scene.size, 86, 0.8, 120)
    wood = mix((112, 74, 46), (164, 116, 74), smooth(veins, 0.2, 0.8)) * mix(0.72, 1.15, smooth(scene.y, 0.70, 1.0))
    scene.picture[:] = mix(scene.picture, wood, smooth(scene.y, 0.745, 0.752))
    scene.picture[:] = mix(scene.blurred(0.006), scene.picture, smooth(scene.y, 0.78, 0.86))

    scene.behind()

    silver, black = (188, 190, 194), (34, 35, 38)
    body = scene.box(0.06, 0.295, 0.94, 0.822, 0.022)
    scene.paint(body, silver)
    scene.paint(scene.box(0.075, 0.425, 0.925, 0.795, 0.014), (72, 73, 77))
    _stand(scene, 0.826)
    for x in (0.11, 0.81):
        scene.paint(scene.box(x, 0.805, x + 0.08, 0.829, 0.004), (24, 24, 26))
    scene.stroke([(0.80, 0.305), (0.965, 0.045)], 0.007, (206, 208, 212), light=(1.1, 0.8))
    scene.paint(scene.ellipse(0.966, 0.042, 0.0075), (220, 222, 226))
    for x in (0.175, 0.825):  # the handle
        scene.paint(
            scene.box(x - 0.018, 0.175, x + 0.018, 0.32, 0.008), (60, 61, 65), light=(1.4, 1.0, 0.6), across=True
        )
    scene.paint(scene.box(0.15, 0.160, 0.85, 0.205, 0.018), (52, 53, 57), light=(2.2, 1.3, 0.8, 0.6))
    scene.paint(scene.box(0.26, 0.158, 0.74, 0.209, 0.012), (40, 40, 43), light=(2.0, 1.2, 0.7))
    _panel(scene, 0.06, 0.295, 0.94, 0.815, 0.022, silver, (1.20, 1.05, 1.0, 0.94, 0.78), lip=0.004)
    brushed = drawn_out(scene.size, 83, 1.0, 60)
    metal = np.array(silver) * (0.97 + 0.06 * brushed)[..., None]
    scene.paint(scene.box(0.068, 0.303, 0.932, 0.807, 0.018), metal, light=(1.15, 1.04, 1.0, 0.95, 0.82), rough=0.3)
    _panel(scene, 0.075, 0.425, 0.925, 0.795, 0.014, (72, 73, 77), (1.1, 1.0, 0.8), raised=False)

    _panel(scene, 0.085, 0.315, 0.60, 0.405, 0.006, black, (0.9, 1.1), raised=False)  # the tuner
    scene.paint(scene.box(0.095, 0.325, 0.59, 0.372, 0.003), (54, 66, 62), light=(0.7, 1.1))
    for row, (name, low) in enumerate(
        (("FM  88   92   96   100   104   108", 0.340), ("AM  53   60   80   100   130   160", 0.360))
    ):
        place = [(0.105, low + 0.005), (0.575, low + 0.005), (0.575, low - 0.007), (0.105, low - 0.007)]
        write(scene, name, place, (206, 220, 200) if row == 0 else (230, 190, 130))
    for x in np.arange(0.11, 0.58, 0.0115):
        scene.stroke([(x, 0.366), (x, 0.371)], 0.0012, (190, 200, 190))
    scene.stroke([(0.392, 0.326), (0.392, 0.371)], 0.0034, (226, 60, 34))
    write(
        scene, "STEREO CASSETTE RECORDER", [(0.11, 0.398), (0.41, 0.398), (0.41, 0.384), (0.11, 0.384)], (190, 190, 192)
    )
    scene.paint(scene.ellipse(0.565, 0.390, 0.0055), (238, 70, 48))
    for x, r, turn in ((0.665, 0.030, -1.2), (0.745, 0.030, -2.0), (0.855, 0.040, -0.6)):
        _dial(scene, x, 0.362, r, (206, 208, 212), turn)

    for x in (0.22, 0.78):
        _speaker(scene, x, 0.61, 0.128)
        for dx in (-0.125, 0.125):
            for y in (0.445, 0.775):
                scene.paint(scene.ellipse(x + dx, y, 0.006), (150, 152, 156), light=(1.3, 0.7))

    _panel(scene, 0.37, 0.44, 0.63, 0.665, 0.010, (150, 152, 157), (1.15, 1.0, 0.85))  # the deck
    _panel(scene, 0.385, 0.455, 0.615, 0.625, 0.008, (28, 28, 31), (0.8, 1.2), raised=False)
    _panel(scene, 0.397, 0.470, 0.603, 0.612, 0.006, (58, 55, 52), (1.15, 0.9))
    scene.paint(scene.box(0.410, 0.482, 0.590, 0.575, 0.004), (232, 226, 208), light=(0.98, 0.9))
    scene.paint(scene.box(0.410, 0.482, 0.590, 0.506, 0.004), (196, 62, 44))
    write(scene, "SIDE A    C-90", [(0.42, 0.501), (0.53, 0.501), (0.53, 0.489), (0.42, 0.489)], (246, 240, 226))
    for y in (0.520, 0.570):
        scene.stroke([(0.418, y), (0.582, y)], 0.0012, (150, 140, 124))
    scene.paint(scene.box(0.432, 0.525, 0.568, 0.567, 0.018), (40, 36, 34))
    for x, tape in ((0.457, 0.026), (0.543, 0.020)):
        scene.paint(scene.ellipse(x, 0.546, min(tape, 0.0195)), (74, 50, 38))
        scene.paint(scene.ellipse(x, 0.546, 0.0145), (236, 234, 228), light=(1.0, 0.85))
        scene.paint(scene.ellipse(x, 0.546, 0.0085), (30, 28, 28))
        for a in np.arange(0, 2 * np.pi, np.pi / 3):
            tooth = [(x + r * np.cos(a), 0.546 + r * np.sin(a)) for r in (0.0085, 0.005)]
            scene.stroke(tooth, 0.0028, (236, 234, 228))
    for x in (0.43, 0.57):
        scene.paint(scene.ellipse(x, 0.597, 0.0055), (22, 22, 24))
    glare = scene.polygon([(0.40, 0.458), (0.47, 0.458), (0.425, 0.623), (0.388, 0.623), (0.388, 0.50)])
    scene.paint(glare, (255, 255, 255), strength=0.13, soft=0.004)
    write(scene, "AUTO STOP", [(0.455, 0.655), (0.545, 0.655), (0.545, 0.643), (0.455, 0.643)], (40, 40, 44))
    keys = ((0.378, (190, 44, 38)), *((x, (214, 216, 220)) for x in (0.419, 0.460, 0.501, 0.542, 0.583)))
    _panel(scene, 0.37, 0.685, 0.63, 0.780, 0.006, (24, 24, 27), raised=False)
    for x, colour in keys:
        _panel(scene, x, 0.697, x + 0.037, 0.765, 0.004, colour, (1.08, 1.02, 0.98, 0.72), lip=0.003)
    signs = {0.419: "◀◀", 0.460: "▶", 0.501: "▶▶", 0.542: "■"}
    for x, sign in signs.items():
        middle, half = x + 0.0185, 0.007
        for k in range(len(sign)):
            a = middle + (k - (len(sign) - 1) / 2) * 1.1 * half
            if sign[0] == "■":
                scene.paint(scene.box(a - half * 0.7, 0.722, a + half * 0.7, 0.732), (44, 44, 48))
            else:
                way = -1 if sign[0] == "◀" else 1
                back, tip = a - way * half * 0.6, a + way * half * 0.6
                scene.fill([(back, 0.721), (tip, 0.727), (back, 0.733)], (44, 44, 48))
    scene.paint(scene.ellipse(0.3965, 0.727, 0.0055), (255, 236, 232))
    sheen = smooth(1 - np.abs(scene.x + 0.7 * scene.y - 0.62), 0.78, 1.0) * 0.10
    scene.picture[:] = mix(scene.picture, 255, sheen * scene.mask)
    return scene.finish(84)


def _stand(scene: Scene, foot: float) -> None:
    """What stands above the height ``foot``, mirrored dimly in the table, and its shadow there."""
    row = round(foot * scene.unit)
    below = scene.size[1] - row
    mirrored = image(scene.picture[row - below : row][::-1]).filter(ImageFilter.GaussianBlur(0.006 * scene.unit))
    there = scene.mask[row - below : row][::-1] * np.linspace(0.34, 0.0, below)[:, None] ** 1.2
    scene.picture[row:] = mix(scene.picture[row:], np.asarray(mirrored, np.float32), there)
    scene.shadow(scene.box(0.05, foot - 0.004, 0.96, foot + 0.022, 0.01), 0.55, 0.016, (16, 10, 8))
    scene.shadow(scene.box(0.08, foot - 0.004, 0.92, foot + 0.006, 0.002), 0.7, 0.004, (10, 6, 6))
