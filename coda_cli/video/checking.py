"""Written clips are read back before they get their name: how long they are, and what is in them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from coda_cli.errors import MediaError
from coda_cli.media.gif_pictures import gif_lengths
from coda_cli.video.containers import as_fraction, open_container, stated_duration

TOLERANCE = 0.05  # seconds by which a written clip may be longer or shorter than it should be


class Held(NamedTuple):
    """What a file of video holds.

    Attributes:
        frames: packets of pictures.
        length: seconds from the first picture to the end of the last.
        sounds: packets of sound.
        sound_length: seconds to the end of the last of these.
    """

    frames: int
    length: float
    sounds: int
    sound_length: float


def held_in(path: Path) -> Held:
    """Read a file of video packet by packet, without decoding it.

    Args:
        path: the file.

    Returns:
        What it holds.

    Raises:
        MediaError: when it cannot be read.
    """
    counts = {"video": 0, "audio": 0}
    ends = {"video": 0.0, "audio": 0.0}
    with open_container(path) as container:
        for packet in container.demux():
            kind = packet.stream.type
            if packet.size and packet.pts is not None and kind in counts:
                counts[kind] += 1
                end = float((packet.pts + (packet.duration or 0)) * as_fraction(packet.time_base))
                ends[kind] = max(ends[kind], end)
        if "matroska" in container.format.name:  # the last frame has no length of its own, only the whole has
            ends["video"] = max(ends["video"], stated_duration(container, container.streams.video[0]) or 0.0)
    return Held(counts["video"], ends["video"], counts["audio"], ends["audio"])


def verify(path: Path, kind: str, frames: int, length: float) -> None:
    """Read a written clip back, and refuse one that is not what was written.

    Args:
        path: the file.
        kind: "mp4", "webm", "webp" or "gif".
        frames: how many were written.
        length: seconds that they last.

    Raises:
        MediaError: when it has other frames, or another length.
    """
    if kind == "gif":
        with path.open("rb") as stream:
            delays = gif_lengths(stream)
        found, lasted = len(delays), sum(delay or 0 for delay in delays) / 1000
    elif kind == "webp":
        delays_of_webp = webp_delays(path.read_bytes())
        # libwebp makes one frame of several that are equal, and a still picture without a length of a single one.
        found, lasted = frames, sum(delay for _, delay in delays_of_webp) / 1000 if delays_of_webp else length
    else:
        held = held_in(path)
        found, lasted = held.frames, held.length
    if found != frames or abs(lasted - length) > TOLERANCE:
        raise MediaError(
            f"read back, it has {found} frames and {lasted:.2f} s instead of {frames} and {length:.2f} s; "
            "write another kind of clip"
        )


def webp_delays(data: bytes | bytearray) -> list[tuple[int, int]]:
    """Find the delays of an animated WebP.

    Args:
        data: the file.

    Returns:
        Of each frame the place of its delay in the file, three bytes, and the delay in ms.
    """
    place, delays = 12, []
    while place + 8 <= len(data):
        if data[place : place + 4] == b"ANMF":
            at = place + 8 + 12  # after the frame's position and size
            delays.append((at, int.from_bytes(data[at : at + 3], "little")))
        place += 8 + int.from_bytes(data[place + 4 : place + 8], "little") + 1 & ~1
    return delays
