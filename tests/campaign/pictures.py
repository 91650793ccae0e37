"""Hostile pictures for ``coda explain`` and ``coda compare``."""

from __future__ import annotations

import io
import os
import random
import struct
import zlib
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

from campaign.case import PICTURE_FAILED, USED_WRONGLY, Case
from campaign.mutations import spoiled

FORMS = (
    ("png", "RGB"),
    ("png", "RGBA"),
    ("png", "L"),
    ("png", "LA"),
    ("png", "P"),
    ("png", "1"),
    ("png", "I;16"),
    ("jpg", "RGB"),
    ("jpg", "L"),
    ("jpg", "CMYK"),
    ("gif", "P"),
    ("webp", "RGB"),
    ("webp", "RGBA"),
    ("tif", "RGB"),
    ("tif", "CMYK"),
    ("tif", "I;16"),
    ("tif", "F"),
    ("tif", "1"),
    ("tif", "LAB"),
    ("bmp", "RGB"),
    ("avif", "RGB"),
)
OPTIONS = (
    [],
    ["--fit", "pad"],
    ["--fit", "native"],
    ["--write", "heatmap,panel,npz,json"],
    ["--class", "top:2"],
    ["--style", "colour"],
    ["--write", "none", "--json"],
    ["--json"],
    ["--layer", "all", "--write", "layers,depth"],
)
ODD_NAMES = (
    "a\x1b[31mred.png",
    "a\x9b2Jb.png",
    "a\x7fb.png",
    "a\nb.png",
    "-m.png",
    "[bold]a[/bold].png",
    ":cat:.png",
    "%s.png",
    "{stem}.png",
    "ü\u202egnp.png",
    "a" * 240 + ".png",
    "CON.png",
    " .png",
    "a\rb.png",
    "\\udcff\\x9b.png",
)
HUGE = 11_000


def make(folder: Path, rng: random.Random) -> Case:
    """A picture that is not what it should be."""
    kinds = (_spoiled, _huge, _odd_name, _special, _profile, _disguise, _scan, _bomb, _links, _animated)
    return rng.choices(kinds, (54, 8, 7, 6, 6, 5, 5, 4, 2, 3))[0](folder, rng)


@cache
def whole(suffix: str, mode: str) -> bytes:
    """A sound picture of 50 x 40 pixels."""
    generator = np.random.default_rng(len(suffix + mode))
    colours = Image.fromarray(generator.integers(0, 256, (5, 6, 3), dtype=np.uint8)).resize((50, 40))
    if mode == "I;16":
        image = Image.fromarray(np.asarray(colours.convert("L")).astype(np.uint16) * 257)
    elif mode == "LAB":
        image = ImageCms.profileToProfile(
            colours, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
        )
    else:
        image = colours.convert(mode)
    stream = io.BytesIO()
    more: dict[str, object] = {}
    if suffix == "gif":
        more = {"save_all": True, "append_images": [image.rotate(90), image.rotate(180)], "disposal": 2}
    if suffix == "tif" and mode in ("RGB", "1"):
        more = {"compression": "tiff_lzw" if mode == "RGB" else "group4"}
    if suffix == "jpg" and mode == "RGB":
        exif = Image.Exif()
        exif[0x0112], exif[0x010E] = 6, "text" * 20
        more = {"exif": exif, "progressive": True}
    image.save(stream, {"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix.upper()), **more)
    return stream.getvalue()


def _spoiled(folder: Path, rng: random.Random) -> Case:
    suffix, mode = rng.choice(FORMS)
    how, data = spoiled(whole(suffix, mode), rng)
    (folder / f"a.{suffix}").write_bytes(data)
    return Case(f"{suffix} {mode}, {how}", _explain(f"a.{suffix}", rng), PICTURE_FAILED)


def _explain(name: str, rng: random.Random) -> list[str]:
    if rng.random() < 0.05:
        return ["compare", name, "--method", "ours", "-o", "out"]
    return ["explain", name, "-o", "out", *rng.choice(OPTIONS)]


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG file, its checksum right."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, colour: int, depth: int, rows: int) -> bytes:
    """A black PNG that says it is so large and has so many rows of data, in a few kilobytes."""
    bits = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    squeeze = zlib.compressobj(9)
    row = bytes(1 + (width * bits + 7) // 8)
    data = b"".join(squeeze.compress(row) for _ in range(rows)) + squeeze.flush()
    palette = chunk(b"PLTE", bytes(3)) if colour == 3 else b""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + palette + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def gif(width: int, height: int) -> bytes:
    """A GIF with a canvas of a size and two frames of one pixel."""
    frame = b"\x21\xf9\x04\x08\x0a\0\0\0\x2c\0\0\0\0\x01\0\x01\0\0\x02\x02\x44\x01\0"
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6) + frame * 2 + b";"


def _huge(folder: Path, rng: random.Random) -> Case:
    """Small files of large pictures: memory must be bounded, or they must be refused with their size."""
    side = rng.choice((5_000, 8_000, HUGE, 30_000, 65_535))
    kind = rng.choice(("grey16", "RGBA", "grey", "palette", "RGB, no data", "gif", "jpeg", "webp", "strip"))
    name = f"a.{kind if kind in ('gif', 'webp') else 'jpg' if kind == 'jpeg' else 'png'}"
    colours = {"grey16": (0, 16), "RGBA": (6, 8), "grey": (0, 8), "palette": (3, 8), "RGB, no data": (2, 8)}
    side = min(side, HUGE)
    if kind == "gif":
        data = gif(rng.choice((9_000, 30_000, 65_535)), rng.choice((9_000, 20_000)))
    elif kind in ("jpeg", "webp"):
        stream = io.BytesIO()
        side = min(side, 8_000)
        Image.new("RGB" if rng.random() < 0.5 else "L", (side, side)).save(stream, kind.upper(), quality=1, method=0)
        data = stream.getvalue()
    elif kind == "strip":
        data = png(rng.choice((1, 60_000)), 1, 2, 8, 1) if rng.random() < 0.5 else png(1, 60_000, 2, 8, 60_000)
    else:
        data = png(side, side, *colours[kind], 0 if "no data" in kind else side)
    (folder / name).write_bytes(data)
    fit = rng.choice(([], ["--fit", "native"], ["--write", "none", "--json"], ["--write", "overlay,panel,json"]))
    return Case(f"huge {kind}", ["explain", name, "-o", "out", *fit], USED_WRONGLY)


def _odd_name(folder: Path, rng: random.Random) -> Case:
    name = rng.choice(ODD_NAMES)
    path = folder / name
    data = whole("png", "RGB") if rng.random() < 0.5 else b"no picture"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    source = rng.choice((f"./{name}", ".", str(path)))
    return Case("odd name", ["explain", source, "-o", "out", *rng.choice(([], ["--json"]))], USED_WRONGLY)


def _special(folder: Path, rng: random.Random) -> Case:
    """What is under the name of a picture is no file, or one without an end."""
    kind, path = (
        rng.choice(("fifo", "zero", "sparse", "folder", "link to itself", "no rights", "empty")),
        folder / "a.png",
    )
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "zero":
        path.symlink_to("/dev/zero")
    elif kind == "sparse":
        with path.open("wb") as stream:
            stream.write(whole("png", "RGB")[:8] if rng.random() < 0.5 else b"")
            stream.truncate(20_000_000_000)
    elif kind == "folder":
        path.mkdir()
    elif kind == "link to itself":
        path.symlink_to("a.png")
    else:
        path.write_bytes(b"")
        path.chmod(0o000 if kind == "no rights" else 0o644)
    if kind in ("fifo", "zero") and rng.random() < 0.5:
        return Case(f"{kind} as a list", ["explain", "-", "-o", "out"], USED_WRONGLY, stdin=b"a.png\n")
    source = rng.choice(("a.png", "a.png", "."))
    return Case(f"{kind} as a picture", ["explain", source, "-o", "out"], USED_WRONGLY)


def _profile(folder: Path, rng: random.Random) -> Case:
    """Colour profiles, sound and spoiled."""
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile(rng.choice(("sRGB", "LAB", "XYZ")))).tobytes()
    how, icc = spoiled(icc, rng) if rng.random() < 0.7 else ("whole", icc)
    suffix, mode = rng.choice(
        (("jpg", "RGB"), ("jpg", "CMYK"), ("png", "RGB"), ("png", "L"), ("tif", "RGB"), ("webp", "RGB"))
    )
    with Image.open(io.BytesIO(whole(suffix, mode))) as image:
        image.save(folder / f"a.{suffix}", icc_profile=icc)
    return Case(f"colour profile in {suffix}, {how}", _explain(f"a.{suffix}", rng), PICTURE_FAILED)


def _disguise(folder: Path, rng: random.Random) -> Case:
    """The content of one kind of file under the name of another."""
    texts = {
        "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 50 50\n%%EndComments\n0 0 moveto 50 50 lineto stroke\n%%EOF\n",  # noqa: E501
        "pdf": b"%PDF-1.4\n1 0 obj<<>>endobj\ntrailer<<>>\n",
        "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "xpm": b'/* XPM */\nstatic char *a[] = {"1 1 1 1","a c #FF0000","a"};',
        "ppm": b"P6 50 40 255\n" + bytes(6000),
        "fits": b"SIMPLE  =                    T" + b" " * 2850,
        "ico": b"\0\0\1\0\1\0\x32\x32\0\0\1\0\x20\0\x30\0\0\0\x16\0\0\0",
        "wmf": b"\xd7\xcd\xc6\x9a" + bytes(100),
        "psd": b"8BPS\0\1" + bytes(100),
        "jp2": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(60),
    }
    kind = rng.choice(list(texts))
    name = f"a.{rng.choice(('png', 'jpg', 'gif', 'tif', 'webp'))}"
    data = texts[kind] if rng.random() < 0.6 else spoiled(texts[kind], rng)[1]
    (folder / name).write_bytes(data)
    return Case(f"{kind} under another name", ["explain", rng.choice((name, ".")), "-o", "out"], USED_WRONGLY)


def _scan(folder: Path, rng: random.Random) -> Case:
    """A folder in which sound and spoiled pictures lie: the sound ones are explained all the same."""
    (folder / "in").mkdir()
    for n in range(6):
        suffix, mode = rng.choice(FORMS)
        data = whole(suffix, mode)
        (folder / "in" / f"{n}.{suffix}").write_bytes(spoiled(data, rng)[1] if n % 2 else data)
    policy = rng.choice(("match", "skip", "rename", "overwrite"))
    args = ["explain", "in", "-o", "out", "--if-exists", policy, "--batch-size", rng.choice(("1", "4", "auto"))]
    return Case("folder, half of it spoiled", [*args, *rng.choice(([], ["--json"], ["-qq"]))], PICTURE_FAILED)


def _bomb(folder: Path, rng: random.Random) -> Case:
    """A few kilobytes that unpack to much: texts and profiles of PNG, scans of JPEG, frames of GIF, tags of TIFF."""
    kind = rng.choice(("text", "profile", "scans", "frames", "exif"))
    name, sound = "a.png", whole("png", "RGB")
    squeezed = zlib.compress(bytes(rng.choice((3_000_000, 300_000_000))), 9)
    if kind == "text":
        data = rng.choice((chunk(b"zTXt", b"a\0\0" + squeezed), chunk(b"iTXt", b"a\0\1\0\0\0" + squeezed)))
        data = sound[:33] + data * rng.choice((1, 20)) + sound[33:]
    elif kind == "profile":
        data = sound[:33] + chunk(b"iCCP", b"a\0\0" + squeezed) + sound[33:]
    elif kind == "frames":
        name, one = "a.gif", gif(200, 200)
        data = one[:-1] + one[19:-1] * rng.choice((1_000, 20_000)) + b";"
    elif kind == "exif":
        name = "a.jpg"
        ring = b"MM\0\x2a\0\0\0\x08" + struct.pack(">HHHII", 1, 0x8769, 4, 1, 8) + struct.pack(">I", 8)
        segment = b"Exif\0\0" + ring
        sound = whole("jpg", "L")
        data = sound[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + sound[2:]
    else:
        name, stream = "a.jpg", io.BytesIO()
        Image.new("L", (rng.choice((500, 4_000)),) * 2).save(stream, "JPEG", progressive=True)
        data = stream.getvalue()
        last = data.rindex(b"\xff\xda")
        data = data[:-2] + data[last:-2] * rng.choice((10, 2_000)) + data[-2:]
    (folder / name).write_bytes(data)
    return Case(f"bomb, {kind}", _explain(name, rng), PICTURE_FAILED)


def _links(folder: Path, rng: random.Random) -> Case:
    """A folder with links: to itself, to the folder above, to nothing, to pictures."""
    (folder / "in").mkdir()
    (folder / "in" / "a.png").write_bytes(whole("png", "RGB"))
    for name, to in (
        ("loop", "."),
        ("up", ".."),
        ("gone.png", "nowhere"),
        ("b.png", "a.png"),
        ("self.png", "self.png"),
    ):
        if rng.random() < 0.7:
            (folder / "in" / name).symlink_to(to)
    recursive = rng.choice(([], ["-r"]))
    return Case("links in a folder", ["explain", "in", "-o", rng.choice(("out", "in/out")), *recursive], USED_WRONGLY)


def animation(rng: random.Random) -> bytes:
    """A GIF whose frames lie anywhere, are cleared in every way, and see through."""
    width, height = rng.choice(((30, 20), (200, 150)))
    data = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, rng.choice((0, 1, 255)), 0) + rng.randbytes(6)
    for _ in range(rng.choice((1, 5, 40))):
        x, y = (rng.choice((0, 0, 1, side - 1, side, 60_000)) for side in (width, height))
        flags = rng.randrange(8) << 2 | rng.choice((0, 1))
        data += b"\x21\xf9\x04" + bytes([flags]) + struct.pack("<HB", rng.choice((0, 1, 10, 65_535)), rng.randrange(3))
        data += b"\0\x2c" + struct.pack("<HHHHB", x, y, 1, 1, 0) + b"\x02\x02\x44\x01\0"
    return data + b";"


def _animated(folder: Path, rng: random.Random) -> Case:
    (folder / "a.gif").write_bytes(animation(rng))
    return Case("frames of a gif anywhere", _explain("a.gif", rng), PICTURE_FAILED)
