"""Hostile clips for ``coda video``."""

from __future__ import annotations

import io
import random
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np

from campaign.case import USED_WRONGLY, Case
from campaign.mutations import spoiled
from campaign.pictures import gif, whole

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
    suffix, container, codec, pixels, sound = rng.choice(FORMS)
    data = clip(container, codec, pixels, sound)
    if kind < 0.22:
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
def clip(container: str, codec: str, pixels: str, sound: str | None, frames: int = FRAMES) -> bytes:
    """A sound clip of 64 x 48 pixels."""
    stream = io.BytesIO()
    output: Any = av.open(stream, "w", format=container)
    with output:
        video = output.add_stream(codec, rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, pixels
        tone = output.add_stream(sound, rate=48000) if sound else None
        generator = np.random.default_rng(0)
        for _ in range(frames):
            rgb = np.repeat(np.repeat(generator.integers(0, 256, (6, 8, 3), dtype=np.uint8), 8, 0), 8, 1)
            output.mux(video.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
        output.mux(video.encode(None))
        if tone is not None:
            form = "s16" if "pcm" in str(sound) else "flt" if "opus" in str(sound) else "fltp"
            silence = np.zeros((2, 960) if form == "fltp" else (1, 1920), np.int16 if form == "s16" else np.float32)
            for start in range(0, frames * 1920, 960):
                samples = av.AudioFrame.from_ndarray(silence, form, "stereo")
                samples.sample_rate, samples.pts, samples.time_base = 48000, start, Fraction(1, 48000)
                output.mux(tone.encode(samples))
            output.mux(tone.encode(None))
    return stream.getvalue()


def _animation(folder: Path, rng: random.Random) -> Case:
    """GIF, APNG and WebP, which are read by other code than clips are."""
    if rng.random() < 0.3:
        (folder / "a.gif").write_bytes(gif(rng.choice((9_000, 65_535)), rng.choice((100, 9_000))))
        return Case("huge gif as a clip", _video("a.gif", rng), USED_WRONGLY)
    how, data = spoiled(whole("gif", "P"), rng)
    (folder / "a.gif").write_bytes(data)
    return Case(f"gif as a clip, {how}", _video("a.gif", rng), USED_WRONGLY)


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
