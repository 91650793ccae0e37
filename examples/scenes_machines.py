"""A garbage truck and a gas pump, of flat faces before a camera."""

from __future__ import annotations

import numpy as np
from drawing import Camera, Plane, Scene, bricks, curve, foliage, mix, ribs, sky, smooth, write
from PIL import Image

Drawn = tuple[Image.Image, Image.Image]  # the picture and the object's mask


def _wheel(scene: Scene, camera: Camera, x: float, r: float, z: float = 0.03) -> None:
    """A lorry's wheel: a tyre with a tread, a rim, nuts."""
    before, behind = Plane(camera, (x, r, z), (1, 0, 0)), Plane(camera, (x, r, z - 0.38), (1, 0, 0))
    scene.fill(behind.circle(0, 0, r), (18, 18, 20))
    scene.fill(before.circle(0, 0, r), (40, 40, 42), light=(1.3, 1.0, 0.7))
    scene.fill(before.circle(0, 0, 0.93 * r), (50, 50, 52), light=(1.2, 0.9, 0.7))
    scene.fill(before.circle(0, 0, 0.62 * r), (28, 28, 30))
    scene.fill(before.circle(0, 0, 0.57 * r), (206, 206, 204), light=(0.75, 1.0, 1.05))
    scene.fill(before.circle(0, 0, 0.44 * r), (120, 120, 122), light=(0.7, 1.25))
    scene.fill(before.circle(0, 0, 0.22 * r), (190, 190, 190), light=(1.1, 0.75))
    for a in np.arange(0, 2 * np.pi, np.pi / 5):
        scene.fill(before.circle(0.33 * r * float(np.cos(a)), 0.33 * r * float(np.sin(a)), 0.035 * r), (60, 60, 62))


def garbage_truck() -> Drawn:
    scene = Scene()
    sky(scene, 98, (118, 158, 204), (212, 222, 230), 0.45, horizon=0.6)
    camera = Camera((10.2, 2.2, 13.4), (4.62, 1.72, -1.0), 1.60, (0.5, 0.50))
    far = Plane(camera, (-14, 0, -9), (1, 0, 0))
    joint, number = bricks(*far.coordinates(scene), 0.5, 0.2)
    walls = mix((150, 92, 74), (186, 170, 152), joint * 0.7) * (0.82 + 0.3 * number)[..., None]
    scene.fill(far.box(0, 0, 18, 6.2), walls)
    scene.fill(far.box(0, 6.0, 18.2, 6.4), (206, 200, 190))
    for u in np.arange(3, 17, 2.6):
        for v in (0.9, 3.6):
            scene.fill(far.box(u - 0.1, v - 0.1, u + 1.3, v + 1.8), (226, 222, 214))
            scene.fill(far.box(u, v, u + 1.2, v + 1.7), (62, 72, 84), light=(1.5, 0.7))
            scene.stroke(far([(u + 0.6, v), (u + 0.6, v + 1.7)]), 0.003, (214, 212, 206))
    x, y = camera([(6.5, 3.4, -8)])[0]
    scene.stroke([(x + 0.1, y + 0.2), (x + 0.1, y)], 0.02, (62, 50, 40))
    tree = [(0.10, -0.05, 0.10), (0.22, -0.02, 0.10), (0.04, 0.02, 0.06), (0.34, 0.0, 0.09)]
    foliage(scene, 92, [(x + u, y + v, r) for u, v, r in tree], (22, 36, 20), (126, 146, 72), 0.006, 14_000)
    y = camera([(6, 0.6, -8)])[0][1]
    foliage(scene, 93, [(u, y, 0.035) for u in np.arange(0.5, 1.05, 0.04)], (24, 40, 22), (104, 130, 62), 0.005, 8000)
    scene.picture[:] = scene.blurred(0.0045)

    ground = Plane(camera, (0, 0, 0), (1, 0, 0), (0, 0, -1))
    u, v = ground.coordinates(scene)
    below = scene.y > camera([(-9, 0, -9)])[0][1] - 0.02
    tar = 0.74 + 0.30 * scene.noise(94, 1.0, (6, 10)) + 0.24 * scene.noise(95, 0.8, (2, 6))
    tar = (tar * (1 - 0.10 * np.exp(-(((v + 0.2) / 0.5) ** 2)) - 0.08 * np.exp(-(((v - 1.9) / 0.5) ** 2))))[..., None]
    stones = np.array((178, 172, 162)) * ribs(u, 1.5, 0.22)[..., None]
    strips = (
        (2.75, 8.9, stones),
        (2.72, 3.05, (200, 196, 188)),
        (-30, 2.75, (112, 112, 115)),
        (-3.3, -3.08, (214, 180, 76)),
    )
    for first, last, colour in strips:
        area = scene.where(below & (v > first) & (v < last))
        scene.paint(area, np.asarray(colour, float) * tar, soft=0.002, rough=0.6)
    scene.shadow(scene.polygon(ground.box(-0.1, -0.95, 8.6, 2.5)), 0.72, 0.010, (22, 22, 28))
    scene.shadow(scene.polygon(ground.box(0.3, -0.1, 8.2, 2.4)), 0.6, 0.008, (12, 12, 14))

    scene.behind()

    green, cab, chassis = np.array((38, 116, 72.0)), (232, 233, 230), (38, 38, 42)
    side = Plane(camera, (0, 0, 0), (1, 0, 0))
    depth = 2.4
    for x in (2.0, 3.35, 7.05):
        scene.fill(Plane(camera, (x, 0.52, -depth + 0.1), (1, 0, 0)).circle(0, 0, 0.5), (16, 16, 18))
    scene.fill(side.box(0.5, 0.62, 8.1, 1.06), chassis, light=(1.3, 0.8))
    for a in (4.2, 5.2):
        scene.fill(side.box(a, 0.42, a + 0.75, 0.95), (92, 94, 98), light=(1.3, 1.0, 0.6))

    # the body: its front wall and roof edge, then the ribbed side
    nose = Plane(camera, (6.0, 0, 0), (0, 0, -1))
    scene.fill(nose.box(0, 1.05, depth, 3.45), green * 0.52)
    body = [(1.35, 1.05), (6.0, 1.05), (6.0, 3.45), (5.75, 3.62), (1.35, 3.62)]
    scene.fill(side(body), green, light=(1.25, 1.05, 1.0, 0.82))
    for a in np.arange(1.45, 5.95, 0.62):
        scene.shadow(scene.polygon(side.box(a + 0.16, 1.25, a + 0.24, 3.4)), 0.5, 0.0022)
        scene.fill(side.box(a, 1.2, a + 0.16, 3.45), green, light=(1.38, 1.18, 1.1, 0.92))
    for low, high, light in ((1.05, 1.25, (1.2, 0.7)), (3.42, 3.62, (1.5, 1.05))):
        scene.fill(side.box(1.35, low, 6.0, high), green, light=light)
    scene.fill(side.box(2.35, 2.0, 5.05, 2.95), (238, 236, 226), light=(1.03, 0.95))
    scene.fill(side.box(2.35, 1.92, 5.05, 2.02), (236, 190, 50))
    write(scene, "CITY WASTE", side.box(2.5, 2.42, 4.9, 2.83), (30, 92, 58))
    write(scene, "KEEP IT CLEAN", side.box(2.8, 2.1, 4.6, 2.32), (60, 60, 62))
    # the hopper behind
    scene.fill(
        side([(1.38, 0.8), (1.38, 3.78), (0.75, 3.78), (0.10, 2.45), (-0.02, 1.25), (0.45, 0.72)]),
        green * 0.92,
        light=(1.3, 1.0, 0.75),
    )
    scene.fill(side([(1.2, 1.3), (1.2, 3.4), (0.9, 3.4), (0.42, 2.4), (0.36, 1.5)]), green * 0.70, light=(0.9, 1.15))
    scene.stroke(side([(1.25, 3.55), (0.34, 1.75)]), 0.013, (150, 152, 154), light=(1.2, 0.9))
    scene.stroke(side([(1.25, 3.55), (0.80, 2.66)]), 0.020, (64, 66, 70), light=(1.3, 0.9))
    scene.fill(side.box(0.0, 0.72, 1.35, 0.98), (52, 52, 56))
    for k, a in enumerate(np.arange(0.02, 1.33, 0.19)):
        scene.fill(side.box(a, 0.78, a + 0.19, 0.90), (196, 40, 36) if k % 2 else (236, 234, 228))
    for v in (1.12, 3.3):
        scene.fill(side.box(0.62, v, 0.80, v + 0.13), (206, 34, 28))

    # the cab: its front in shade, its side with door and window
    front = Plane(camera, (8.25, 0, 0), (0, 0, -1))
    face = [(8.25, 0.75), (8.25, 1.75), (8.08, 3.0)]
    corners = [(x, y, 0.0) for x, y in face] + [(x, y, -depth) for x, y in reversed(face)]
    scene.fill(camera(corners), np.array(cab) * 0.74)
    glass = camera([(8.24, 1.80, -0.12), (8.24, 1.80, -depth + 0.12), (8.10, 2.82, -depth + 0.12), (8.10, 2.82, -0.12)])
    scene.fill(glass, (58, 72, 84), light=(1.7, 0.9, 0.7))
    scene.fill(front.box(0.35, 1.1, depth - 0.35, 1.6), (34, 34, 38))
    for v in np.arange(1.16, 1.6, 0.1):
        scene.stroke(front([(0.4, v), (depth - 0.4, v)]), 0.003, (128, 128, 132))
    scene.fill(front.box(-0.02, 0.55, depth, 0.95), (58, 58, 62), light=(1.3, 0.8))
    for a in (0.12, depth - 0.42):
        scene.fill(front.box(a, 0.66, a + 0.3, 0.86), (250, 244, 222))
    outline = [(6.25, 0.78), (8.25, 0.78), (8.25, 1.75), (8.08, 3.0), (6.45, 3.0), (6.25, 2.85)]
    scene.fill(side(outline), cab, light=(1.06, 1.0, 0.86))
    scene.fill(side.box(6.25, 1.42, 8.25, 1.56), green, light=(1.2, 0.9))
    pane = [(6.72, 1.82), (7.98, 1.82), (7.86, 2.74), (6.78, 2.74)]
    scene.fill(side([(6.66, 1.76), (8.06, 1.76), (7.92, 2.80), (6.72, 2.80)]), (40, 42, 46))
    scene.fill(side(pane), (84, 100, 112), light=(1.45, 0.85, 0.7))
    scene.fill(side([(7.1, 1.84), (7.42, 1.84), (7.28, 2.20), (7.16, 2.20)]), (34, 38, 44), strength=0.7)  # a seat
    scene.fill(side([(7.5, 1.84), (7.66, 1.84), (7.50, 2.72), (7.30, 2.72)]), (226, 234, 240), strength=0.25)
    for a in ([(6.60, 1.0), (6.60, 2.84)], [(8.1, 1.0), (8.12, 1.75)], [(6.60, 1.0), (8.1, 1.0)]):
        scene.stroke(side(a), 0.0022, (150, 152, 154))
    scene.fill(side.box(6.72, 1.62, 6.94, 1.68), (40, 40, 44))
    scene.stroke(side([(8.1, 2.55), (8.42, 2.6), (8.42, 1.95)]), 0.004, (30, 30, 32))
    scene.fill(side.box(8.34, 1.95, 8.50, 2.50), (36, 36, 40), light=(1.4, 0.8))
    scene.fill(side.box(8.06, 1.2, 8.24, 1.34), (240, 160, 40))
    for a in (6.7, 7.8):
        scene.fill(
            side([(a - 0.12, 3.0), (a + 0.12, 3.0), (a + 0.08, 3.17), (a - 0.08, 3.17)]),
            (240, 148, 30),
            light=(1.2, 0.85),
        )
    scene.stroke(side([(6.13, 1.0), (6.13, 3.7)]), 0.011, (150, 152, 156), light=(1.1, 0.8))
    for x in (2.0, 3.35, 7.05):
        scene.fill(Plane(camera, (x, 0.55, 0), (1, 0, 0)).circle(0, 0, 0.66), (14, 14, 16))
        _wheel(scene, camera, x, 0.54)
    scene.fill(side([(6.30, 1.22), (7.80, 1.22), (7.72, 1.12), (6.38, 1.12)]), np.array(cab) * 0.82)
    return scene.finish(96)


def gas_pump() -> Drawn:
    scene = Scene()
    sky(scene, 101, (120, 162, 206), (214, 224, 232), 0.5, horizon=0.6)
    camera = Camera((1.75, 1.40, 4.2), (0.18, 1.20, 0.0), 1.58, (0.5, 0.5))
    shop = Plane(camera, (-9, 0, -9), (1, 0, 0))
    scene.fill(shop.box(0, 0, 11.5, 3.9), (112, 116, 108), light=(1.0, 0.9))
    scene.fill(shop.box(-0.3, 3.3, 11.9, 4.2), (66, 84, 78), light=(1.1, 0.85))
    scene.fill(shop.box(-0.3, 3.62, 11.9, 3.8), (238, 234, 224))
    for u in np.arange(0.6, 11, 2.5):
        scene.fill(shop.box(u, 0.7, u + 2.1, 2.9), (70, 82, 92), light=(1.6, 0.8))
        scene.fill(shop.box(u + 0.2, 0.9, u + 1.1, 1.7), (186, 150, 96), strength=0.6)
        scene.fill(shop.box(u + 1.3, 1.9, u + 1.9, 2.6), (210, 206, 190), strength=0.6)
    x, y = camera([(5.0, 1.0, -10)])[0]
    tree = [(0, -0.12, 0.12), (0.14, -0.16, 0.13), (-0.08, -0.02, 0.08), (0.05, 0.01, 0.09), (0.2, 0, 0.09)]
    foliage(scene, 102, [(x + u, y + v, r) for u, v, r in tree], (24, 40, 24), (124, 146, 76), 0.007, 14_000)
    ground = Plane(camera, (0, 0, 0), (1, 0, 0), (0, 0, -1))
    stain = (0.70 + 0.22 * scene.noise(103, 1.0, (6, 10)) + 0.34 * scene.noise(104, 0.8, (2, 6)))[..., None]
    u, v = ground.coordinates(scene)
    below = scene.y > camera([(0, 1.35, -1e5)])[0][1] + 0.005
    scene.paint(scene.where(below & (v < 9.0)), np.array((166, 162, 156)) * stain)
    joints = (ribs(u + 0.4, 3.0, 0.35) * ribs(v, 3.0, 0.35))[..., None]
    scene.picture[:] = mix(scene.picture, scene.picture * joints, smooth(scene.y, 0.5, 0.75) * below)
    scene.picture[:] = scene.blurred(0.007)

    island = np.array((188, 184, 176.0)) * stain
    scene.fill(
        camera([(-3, 0.16, 0.75), (3, 0.16, 0.75), (3, 0.16, -1.2), (-3, 0.16, -1.2)]), island * 1.08, soft=0.002
    )
    scene.fill(
        Plane(camera, (-3, 0, 0.75), (1, 0, 0)).box(0, 0, 6, 0.16), (206, 168, 52), light=(1.05, 0.85), soft=0.002
    )
    low = below & (v < -0.75) & (v > -3.9)
    scene.paint(scene.where(low), np.array((146, 143, 140)) * stain, soft=0.002)
    scene.shadow(scene.where(low & (v > -1.1)), 0.5, 0.008)

    scene.behind()

    red, white, metal = np.array((190, 34, 32.0)), np.array((236, 235, 230.0)), (168, 170, 174)
    w, d, base = 0.86, 0.56, 0.16
    foot = [(-w / 2, 0.30), (w / 2 + 0.1, 0.30), (w / 2 + 1.1, -0.35), (w / 2 + 0.3, -0.7), (-w / 2, -0.5)]
    shade = camera([(x, base, z) for x, z in foot])
    scene.shadow(scene.polygon(shade), 0.72, 0.010, (24, 24, 28))
    front, side = Plane(camera, (-w / 2, base, 0.28), (1, 0, 0)), Plane(camera, (w / 2, base, 0.28), (0, 0, -1))
    scene.fill(side.box(0, 0, d, 0.10), (30, 30, 34))
    scene.fill(front.box(0, 0, w, 0.10), (52, 52, 56))
    scene.fill(side.box(0, 0.10, d, 0.86), red * 0.62, light=(1.1, 0.9))
    scene.fill(side.box(0, 0.86, d, 1.52), white * 0.66, light=(1.05, 0.92))
    scene.fill(front.box(0, 0.10, w, 0.86), red, light=(1.15, 1.0, 0.82))
    scene.fill(front.box(0, 0.86, w, 1.52), white, light=(1.02, 0.96))
    for plane, long, k in ((front, w, 1.0), (side, d, 0.66)):
        scene.fill(plane.box(0, 0.84, long, 0.875), np.array(metal) * k, light=(1.3, 0.7))
    # the globe on top, and the head with its name
    head, head_side = (
        Plane(camera, (-w / 2 - 0.03, base + 1.52, 0.31), (1, 0, 0)),
        Plane(camera, (w / 2 + 0.03, base + 1.52, 0.31), (0, 0, -1)),
    )
    globe = Plane(camera, (0, base + 1.78, 0.03), (1, 0, 0))
    scene.fill(globe.box(-0.13, -0.02, 0.13, 0.07), metal, light=(1.2, 0.8), across=True)
    scene.fill(globe.circle(0, 0.25, 0.215), (228, 226, 216), light=(1.08, 1.0, 0.86))
    scene.fill(globe.circle(0, 0.25, 0.175), (196, 36, 34), light=(1.1, 0.9))
    scene.fill(globe.circle(0, 0.25, 0.150), (244, 241, 232), light=(1.03, 0.92))
    write(scene, "GAS", globe.box(-0.10, 0.19, 0.10, 0.31), (28, 62, 128))
    scene.fill(head_side.box(0, 0, d + 0.06, 0.26), red * 0.6)
    scene.fill(head.box(0, 0, w + 0.06, 0.26), red, light=(1.2, 0.95))
    scene.fill(head.box(0.02, 0.225, w + 0.04, 0.245), (240, 236, 226))
    write(scene, "REGULAR", head.box(0.16, 0.065, w - 0.10, 0.19), (248, 245, 236))
    scene.shadow(scene.polygon(front.box(0, 1.44, w, 1.53)), 0.5, 0.004)
    # the face: displays, price, instructions
    scene.fill(front.box(0.07, 0.98, w - 0.07, 1.43), (40, 42, 46), light=(0.8, 1.15))
    for k, (value, name) in enumerate((("018.40", "TOTAL SALE"), ("012.71", "LITRES"))):
        v = 1.235 - 0.155 * k
        scene.fill(front.box(0.12, v, 0.60, v + 0.145), (190, 198, 176), light=(0.85, 1.05))
        for j, letter in enumerate(value):
            narrow = 0.024 if letter in "1." else 0.058
            left = 0.145 + j * 0.075 + (0.058 - narrow) / 2
            tall = 0.02 if letter == "." else 0.095
            write(scene, letter, front.box(left, v + 0.022, left + narrow, v + 0.022 + tall), (26, 30, 28))
        write(scene, name, front.box(0.625, v + 0.05, 0.775, v + 0.085), (220, 220, 214))
    for k in range(6):
        a, b = 0.15 + 0.1 * k, 1.0
        scene.fill(front.box(a, b, a + 0.07, b + 0.05), (208, 208, 204) if k else (60, 140, 70))
    scene.fill(front.box(0.10, 0.895, 0.55, 0.955), (244, 214, 70))
    write(scene, "PAY FIRST", front.box(0.14, 0.907, 0.50, 0.944), (30, 30, 32))
    scene.fill(front.circle(0.43, 0.53, 0.205), (244, 241, 232), light=(1.02, 0.93))
    scene.fill(front.circle(0.43, 0.53, 0.180), (28, 62, 128), light=(1.1, 0.9))
    write(scene, "CODA", front.box(0.29, 0.475, 0.57, 0.585), (246, 244, 238))
    for v in np.arange(0.16, 0.28, 0.03):
        scene.stroke(front([(0.25, v), (0.61, v)]), 0.003, red * 0.5)
    glare = front([(0.07, 1.43), (0.36, 1.43), (0.12, 0.98), (0.07, 0.98)])
    scene.fill(glare, (255, 255, 255), strength=0.14, soft=0.003)
    scene.fill(front([(0, 0.1), (0.05, 0.1), (0.05, 1.52), (0, 1.52)]), (255, 255, 255), strength=0.16, soft=0.006)

    # the hose and the nozzle in its holder, on the side
    holder = side.box(0.12, 0.95, 0.40, 1.32)
    scene.fill(holder, (36, 36, 40), light=(1.3, 0.8))
    top, grip = camera([(w / 2 + 0.06, base + 1.45, 0.10)])[0], camera([(w / 2 + 0.15, base + 0.98, 0.10)])[0]
    loop = curve(
        top,
        (top[0] + 0.16, top[1] - 0.02),
        (top[0] + 0.26, top[1] + 0.32),
        (top[0] + 0.20, top[1] + 0.86),
        (top[0] + 0.0, top[1] + 0.62),
        (grip[0] + 0.015, grip[1] + 0.03),
    )
    lowered = [(a + 0.02, b + 0.02) for a, b in loop]
    scene.shadow(scene.line(lowered, 0.022), 0.35, 0.008)
    scene.stroke(loop, 0.024, (26, 26, 28))
    scene.stroke([(a - 0.004, b - 0.003) for a, b in loop], 0.006, (112, 112, 116), soft=0.0022, strength=0.75)
    gx, gy = grip
    scene.stroke(
        [(gx + 0.018, gy + 0.035), (gx + 0.004, gy - 0.05), (gx - 0.014, gy - 0.085)],
        0.034,
        (30, 30, 33),
        light=(1.6, 0.8),
    )
    scene.stroke(
        [(gx - 0.012, gy - 0.08), (gx - 0.040, gy - 0.062), (gx - 0.052, gy - 0.025)], 0.013, metal, light=(1.2, 0.8)
    )
    scene.stroke(
        [(gx + 0.016, gy - 0.075), (gx + 0.046, gy - 0.045), (gx + 0.040, gy + 0.012), (gx + 0.022, gy + 0.022)],
        0.007,
        (176, 38, 34),
    )
    scene.paint(scene.ellipse(top[0], top[1], 0.016), metal, light=(1.2, 0.7))
    return scene.finish(105)
