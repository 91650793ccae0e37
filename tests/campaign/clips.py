"""Hostile clips for ``coda video``."""

from __future__ import annotations

import io
import itertools
import random
import struct
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np

from campaign.case import PICTURE_FAILED, USED_WRONGLY, Case
from campaign.mutations import spoiled
from campaign.pictures import animation, gif, whole

# Suffix, libav's name of the container, codec, pixels, sound.
FORMS = (
    ("mp4", "mp4", "libx264", "yuv420p", "aac"), ("mov", "mov", "mpeg4", "yuv420p", "pcm_s16le"),
    ("mkv", "matroska", "libx264", "yuv420p", "pcm_s16le"), ("webm", "webm", "libvpx-vp9", "yuva420p", None),
    ("webm", "webm", "libvpx-vp9", "yuv420p", "libopus"), ("avi", "avi", "mpeg4", "yuv420p", "pcm_s16le"),
    ("flv", "flv", "flv1", "yuv420p", None), ("ts", "mpegts", "mpeg2video", "yuv420p", None),
    ("avi", "avi", "mjpeg", "yuvj420p", None), ("mkv", "matroska", "ffv1", "rgb48le", None),
)  # fmt: skip
OPTIONS = (
    [], ["--every", "2"], ["--start", "0.1"], ["--no-audio"], ["--layout", "panel"], ["--centroid"], ["--height", "64"],
    ["--end", "0.2"], ["--class-policy", "frame"], ["--fps", "10"], ["--box", "0,0,0.5,1"], ["--fit", "pad"],
)  # fmt: skip
FRAMES = 8


def make(folder: Path, rng: random.Random) -> Case:
    """A clip that is not what it should be."""
    kind = rng.random()
    if kind < 0.1:
        return _animation(folder, rng)
    if kind < 0.16:
        return _frames(folder, rng)
    if kind < 0.36:
        return rng.choice((_turned, _heard, _late))(folder, rng)
    suffix, container, codec, pixels, sound = rng.choice(FORMS)
    data = clip(container, codec, pixels, sound)
    if kind < 0.42:
        how, suffix = "under another name", rng.choice(("mp4", "gif", "mkv", "avi", "png"))
    else:
        how, data = spoiled(data, rng)
    (folder / f"a.{suffix}").write_bytes(data)
    return Case(f"{container} {codec}, {how}", _video(f"a.{suffix}", rng), USED_WRONGLY)


def _video(name: str, rng: random.Random) -> list[str]:
    form = rng.choice(("none", "mp4", "gif", "webm", "png", "webp"))
    args = ["video", name, "-o", "out", "--format", form, "--max-frames", str(FRAMES), *rng.choice(OPTIONS)]
    return [*args, "--json"] if rng.random() < 0.3 else args


@cache
def clip(
    container: str,
    codec: str,
    pixels: str,
    sound: str | None,
    frames: int = FRAMES,
    rate: int = 48_000,
    longer: float = 1,
) -> bytes:
    """A sound clip of 64 x 48 pixels; its sound may last ``longer`` than the pictures, or less long."""
    stream = io.BytesIO()
    output: Any = av.open(stream, "w", format=container)
    with output:
        video = output.add_stream(codec, rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, pixels
        tone = output.add_stream(sound, rate=rate) if sound else None
        generator = np.random.default_rng(0)
        for _ in range(frames):
            rgb = np.repeat(np.repeat(generator.integers(0, 256, (6, 8, 3), dtype=np.uint8), 8, 0), 8, 1)
            output.mux(video.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
        output.mux(video.encode(None))
        if tone is not None:
            form, kinds = tone.format.name, {"s16": np.int16, "s32": np.int32, "flt": np.float32}
            silence = np.zeros((2, 960) if form.endswith("p") else (1, 1920), kinds[form.rstrip("p")])
            for start in range(0, max(960, int(frames * rate / 25 * longer)), 960):
                samples = av.AudioFrame.from_ndarray(silence, form, "stereo")
                samples.sample_rate, samples.pts, samples.time_base = rate, start, Fraction(1, rate)
                output.mux(tone.encode(samples))
            output.mux(tone.encode(None))
    return stream.getvalue()


def _animation(folder: Path, rng: random.Random) -> Case:
    """GIF, APNG and WebP, which are read by other code than clips are."""
    if rng.random() < 0.3:
        (folder / "a.gif").write_bytes(gif(rng.choice((9_000, 65_535)), rng.choice((100, 9_000))))
        return Case("huge gif as a clip", _video("a.gif", rng), USED_WRONGLY)
    how, data = ("frames anywhere", animation(rng)) if rng.random() < 0.4 else spoiled(whole("gif", "P"), rng)
    (folder / "a.gif").write_bytes(data)
    return Case(f"gif as a clip, {how}", _video("a.gif", rng), USED_WRONGLY)


def _turned(folder: Path, rng: random.Random) -> Case:
    """A clip with a display matrix: a turned or mirrored one, or one that no player could follow."""
    data = bytearray(clip("mp4", "libx264", "yuv420p", "aac"))
    upright = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    cells = rng.choice(
        [(a, b, c, d) for a, b, c, d in itertools.product((-1, 0, 1), repeat=4) if a * d - b * c]
        + [(0, 0, 0, 0), (1, 1, 1, 1), (2, 0, 0, 1), (30_000, 0, 0, 30_000)]
    )
    a, b, c, d = (value << 16 for value in cells)
    at = data.index(upright, data.index(b"tkhd"))
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, rng.choice((0, -1 << 31)), 0, rng.choice((1 << 30, 0, 1)))
    (folder / "a.mp4").write_bytes(data)
    return Case("display matrix", _video("a.mp4", rng), USED_WRONGLY)


def _heard(folder: Path, rng: random.Random) -> Case:
    """A clip with sound of any rate and length, in any container; none of it may cost the pictures."""
    container, sound = rng.choice(
        (("avi", "pcm_s16le"), ("avi", "mp3"), ("matroska", "pcm_s16le"), ("matroska", "flac"), ("mov", "pcm_s16le"),
         ("flv", "mp3"), ("matroska", "aac"))
    )  # fmt: skip
    rate = (
        rng.choice((8_000, 44_100, 48_000)) if sound in ("mp3", "aac") else rng.choice((1_000, 8_000, 96_000, 192_000))
    )
    suffix = {"matroska": "mkv"}.get(container, container)
    rate = 44_100 if container == "flv" else rate
    data = clip(
        container, "flv1" if container == "flv" else "mpeg4", "yuv420p", sound, FRAMES, rate, rng.choice((0.1, 1, 9))
    )
    (folder / f"a.{suffix}").write_bytes(data if rng.random() < 0.7 else spoiled(data, rng)[1])
    args = ["video", f"a.{suffix}", "-o", "out", "--format", rng.choice(("mp4", "webm", "mp4,webm"))]
    return Case(f"sound, {sound} in {suffix}", args, PICTURE_FAILED)


def _late(folder: Path, rng: random.Random) -> Case:
    """A clip whose times have gaps, stand still, or begin late."""
    stream, container = io.BytesIO(), rng.choice(("matroska", "mov", "mp4"))
    output: Any = av.open(stream, "w", format=container)
    with output:
        video = output.add_stream("mpeg4", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        video.codec_context.time_base = Fraction(1, 1000)
        time = rng.choice((0, 0, 40, 3_000, 50_000_000))
        for n in range(FRAMES):
            picture = av.VideoFrame.from_ndarray(np.full((48, 64, 3), n * 20, np.uint8), format="rgb24")
            picture.pts, picture.time_base = time, Fraction(1, 1000)
            output.mux(video.encode(picture))
            time += rng.choice((1, 33, 40, 40, 40, 5_000, 40_000))
        output.mux(video.encode(None))
    suffix = {"matroska": "mkv"}.get(container, container)
    (folder / f"a.{suffix}").write_bytes(stream.getvalue())
    return Case("times of frames", _video(f"a.{suffix}", rng), PICTURE_FAILED)


def _frames(folder: Path, rng: random.Random) -> Case:
    """A folder of frames, one of them spoiled or of another size."""
    (folder / "frames").mkdir()
    for n in range(4):
        data = whole("png", "RGB")
        if n == 2:
            data = rng.choice((spoiled(data, rng)[1], whole("jpg", "L"), b"", whole("png", "I;16")))
        (folder / "frames" / f"f{n}.png").write_bytes(data)
    source = rng.choice(("frames", "frames/f%01d.png", "frames/f%9999999d.png"))
    return Case("frames, one spoiled", _video(source, rng), USED_WRONGLY)
