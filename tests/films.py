"""Clips made for the tests.

Frame k of a test clip shows k in binary, eight bands of bright and dark, so that a frame says which one it is.
"""

from __future__ import annotations

import contextlib
import resource
import signal
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from coda_cli.video.reading import ClipWriter, read_frames

RGB = NDArray[np.uint8]
W, H = 64, 48
FILM = Fraction(24000, 1001)
UNEVEN = [0.0, 0.04, 0.08, 0.2, 0.21, 0.3, 0.5, 0.9, 0.95, 1.4]


def picture(k: int, width: int = W, height: int = H) -> RGB:
    """Eight bands, the bits of k from the left; the lower half dimmer, red at the top left: no turn looks alike."""
    bits = [(k >> bit) & 1 for bit in range(8)]
    row = np.repeat([220 if bit else 40 for bit in bits], -(-width // 8))[:width]
    rgb = np.empty((height, width, 3), np.uint8)
    rgb[:] = row[None, :, None]
    rgb[height // 2 :] = rgb[height // 2 :] // 2 + 30
    rgb[: height // 6, : width // 8] = (230, 20, 20)
    return rgb


def number(rgb: RGB) -> int:
    """Which frame a picture shows."""
    height, width = rgb.shape[:2]
    band = width / 8
    level = rgb[height // 6 + 4 : height // 2 - 4].mean(axis=(0, 2))
    return sum(1 << bit for bit in range(8) if level[int(band * bit + 2) : int(band * (bit + 1) - 2)].mean() > 130)


def film(
    path: Path,
    pictures: Sequence[RGB],
    times: Sequence[float] | None = None,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    rate: Fraction = FILM,
    sound: str | None = None,
    sound_first: bool = False,
    turn: float | None = None,
    shape: Fraction | None = None,
    matrix: int | None = None,
    full: bool = False,
    form: str | None = None,
    options: dict[str, str] | None = None,
    container: dict[str, str] | None = None,
) -> Path:
    """Write a clip with PyAV alone, with B-frames where the codec has them."""
    height, width = pictures[0].shape[:2]
    tick = Fraction(1, 90000) if times else 1 / rate
    with av.open(str(path), "w", format=form, options=container or {}) as output:
        tone: Any = output.add_stream(sound, rate=48000) if sound and sound_first else None
        stream: Any = output.add_stream(codec, rate=rate, options=options or {})
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        stream.codec_context.time_base = tick
        if matrix:
            stream.codec_context.colorspace = matrix
            stream.codec_context.color_range = 2 if full else 1
        if shape:
            stream.codec_context.sample_aspect_ratio = shape
        if turn is not None:
            stream.set_display_rotation(turn)
        tone = tone or (output.add_stream(sound, rate=48000) if sound else None)
        end = (times[-1] + 0.1) if times else float(len(pictures) / rate)
        if tone:
            tone.codec_context.layout = "mono"
            for start in range(0, int(end * 48000), 1024):
                moment = np.arange(start, start + 1024)
                wave = (0.2 * moment / 48000 * np.sin(moment * 0.06))[None].astype(np.float32)  # louder and louder
                samples = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
                samples.sample_rate, samples.pts, samples.time_base = 48000, start, Fraction(1, 48000)
                output.mux(tone.encode(samples))
            output.mux(tone.encode(None))
        for k, rgb in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
            frame = frame.reformat(format=pixels, dst_colorspace=matrix, dst_color_range=2 if full else 1)
            frame.pts, frame.time_base = (round(times[k] * 90000) if times else k), tick
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def counted(n: int, **size: int) -> list[RGB]:
    return [picture(k, **size) for k in range(n)]


def numbers(source: Any, **selection: Any) -> list[int]:
    return [number(frame.rgb) for frame in read_frames(source, **selection)]


def packets_of(path: Path) -> list[tuple[int, int]]:
    """Position and size of what the packets of a file's video hold."""
    data = path.read_bytes()
    with av.open(str(path)) as container:
        return [(data.index(bytes(p)), p.size) for p in container.demux(video=0) if p.size]


def close_to(rgb: RGB, wanted: RGB, levels: float = 6) -> bool:
    return rgb.shape == wanted.shape and float(np.abs(rgb.astype(int) - wanted).mean()) < levels


def animate(path: Path, pictures: Sequence[RGB], delays: Sequence[int], **options: Any) -> Path:
    first, *rest = (Image.fromarray(rgb) for rgb in pictures)
    form = "PNG" if path.suffix == ".apng" else None
    first.save(path, form, save_all=True, append_images=rest, duration=list(delays), loop=0, **options)
    return path


def write(
    path: Path, pictures: Sequence[RGB], times: Sequence[float], last: float | None = None, **options: Any
) -> Any:
    with ClipWriter(path, **options) as writer:
        for k, (rgb, time) in enumerate(zip(pictures, times, strict=True)):
            writer.write(rgb, time, last if k == len(times) - 1 else None)
    return writer


def length_of(path: Path, kind: str) -> float:
    """Seconds, as other programs tell them."""
    if kind in ("gif", "webp"):
        with Image.open(path) as image:
            total = 0.0
            for index in range(getattr(image, "n_frames", 1)):
                image.seek(index)
                image.load()
                total += image.info["duration"]
        return total / 1000
    with av.open(str(path)) as container:
        return (container.duration or 0) / 1e6


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """A disk that is full: no file may grow beyond ``size`` bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
