"""What turns frames into a file: libav for MP4, WebM and WebP, our own PNG encoder for folders; GIF is in ``gif``.

PyAV is used directly, not through imageio, whose writer knows no times and no options of encoders, and crashes on odd
sizes and filters.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from coda_cli.media import png
from coda_cli.video.checking import webp_delays
from coda_cli.video.containers import as_fraction

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

Kind = Literal["mp4", "webm", "gif", "webp", "png"]
DEFAULT_RATE = Fraction(25)  # frames a second of a clip whose only frame does not say how long it lasts
USUAL_TICKS, FINEST = 90000, 240000  # a second; the second fits every usual rate, such as 120000/1001
SHORT = Fraction(1, 1000)  # seconds: the unit of time of a WebM
LONGEST = 1 << 30  # ticks of one frame: an MP4 has room for 31 bits
HIGHEST = Fraction(1000)  # frames a second that encoders are told
RGB = NDArray[np.uint8]


class Encoder(Protocol):
    """What turns frames into a file or folder.

    Attributes:
        tick: seconds of one unit of time; times are whole ticks from the first frame.
        shortest: ticks between frames; those that come faster are dropped.
        longest: ticks that one frame can last; after these it is written once more.
    """

    tick: Fraction
    shortest: int
    longest: int

    def add(self, rgb: RGB, at: int) -> None:
        """Take one more frame.

        Args:
            rgb: uint8 [H, W, 3] sRGB.
            at: the tick at which the frame begins.
        """

    def finish(self, end: int) -> None:
        """Complete the file.

        Args:
            end: the tick at which the last frame ends.
        """

    def close(self) -> None:
        """Release everything that is held, whether the file is finished or not."""


_CODECS: dict[str, tuple[str, str, dict[str, str]]] = {
    # No B-frames: with them the MP4 index holds the durations of the decoding order, and a clip of variable rate
    # ends early (measured: 0.42 s instead of 1.23 s). They would save a quarter of the size.
    "mp4": ("libx264", "yuv420p", {"crf": "18", "preset": "superfast", "bf": "0"}),
    # libsvtav1 is smaller and as fast, but it writes to stderr on its own and fewer players show AV1.
    "webm": ("libvpx-vp9", "yuv420p", {"crf": "30", "b": "0", "deadline": "realtime", "cpu-used": "7", "row-mt": "1"}),
    "webp": ("libwebp_anim", "bgra", {"quality": "80", "compression_level": "1"}),
}


class Video:
    """MP4, WebM or animated WebP: frames go into the file at once, with their true times in a fine time base.

    Attributes:
        tick: seconds of one unit of time.
        shortest: ticks between frames.
        longest: ticks that one frame can last.
    """

    def __init__(
        self,
        path: Path,
        kind: Kind,
        size: tuple[int, int],
        rate: Fraction | None = None,
        quality: int | None = None,
        loop: bool = True,
    ) -> None:
        """Open the file.

        Args:
            path: the file to write.
            kind: "mp4", "webm" or "webp".
            size: (width, height) of the frames in pixels.
            rate: frames a second, if they are constant.
            quality: crf of mp4 and webm, quality of webp; the kind's default unless given.
            loop: whether a webp starts again at its end.
        """
        import av
        from av.video.reformatter import VideoReformatter

        codec, self._pixels, options = _CODECS[kind]
        if quality is not None:
            options = options | {"quality" if kind == "webp" else "crf": str(quality)}
        rate = Fraction(rate or DEFAULT_RATE)
        ticks = 1000 if kind == "webp" else _ticks_a_second(rate)
        self.tick = Fraction(1, ticks)
        self.shortest = 11 if kind == "webp" else 1  # browsers show 10 ms as 100
        self.longest = (1 << 24) - 1 if kind == "webp" else LONGEST
        self._path, self._kind, self._last = path, kind, 0
        # Encoders plan with the rate only roughly. One that is no usual rate is an average of uneven times.
        rate = min(
            max(rate if ticks % rate.numerator == 0 else rate.limit_denominator(1001), Fraction(1, 1000)), HIGHEST
        )
        more = {"mp4": {"movflags": "+faststart"}, "webp": {"loop": "0" if loop else "1"}}.get(kind, {})
        self._container: OutputContainer = av.open(f"file:{path}", "w", format=kind, options=more)
        # yuv420p has no odd sizes.
        self._padding = (-size[1] % 2, -size[0] % 2) if self._pixels == "yuv420p" else (0, 0)
        self._stream = cast("VideoStream", self._container.add_stream(codec, rate=rate, options=options))
        self._describe_stream(size)
        self._reformatter = VideoReformatter()

    def _describe_stream(self, size: tuple[int, int]) -> None:
        """State the size, the kind of pixels, the times and the colours of the stream of pictures."""
        down, right = self._padding
        self._stream.width, self._stream.height, self._stream.pix_fmt = size[0] + right, size[1] + down, self._pixels
        context = self._stream.codec_context
        context.time_base = self.tick
        if self._pixels == "yuv420p":  # stated, so that every player shows the same colours: BT.709, limited range
            context.colorspace = context.color_primaries = context.color_trc = context.color_range = 1

    def add(self, rgb: RGB, at: int) -> None:
        """Encode a frame.

        Args:
            rgb: uint8 [H, W, 3] sRGB.
            at: the tick at which the frame begins.
        """
        self._last = at
        for packet in self._stream.encode(self._frame(rgb, at)):
            self._mux(packet)

    def _mux(self, packet: Packet[VideoStream]) -> None:
        """Write a packet, whose frame lasts until the next one."""
        if self._kind == "webm":  # lengths are guessed from the rate, and would make the clip longer than it is
            packet.duration = round(SHORT / as_fraction(packet.time_base))
        self._container.mux(packet)

    def finish(self, end: int) -> None:
        """Encode what is left, give the last frame its length, and complete the file.

        Args:
            end: the tick at which the last frame ends.
        """
        for packet in self._stream.encode():
            base = as_fraction(packet.time_base)
            if packet.pts is not None and round(packet.pts * base / self.tick) == self._last:
                packet.duration = round((end - self._last) * self.tick / base)
                self._container.mux(packet)
            else:
                self._mux(packet)
        self._container.close()
        if self._kind == "webp":
            _set_length_of_webp(self._path, end)

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def _frame(self, rgb: RGB, at: int) -> VideoFrame:
        """A frame as the codec wants it: padded to an even size with its edge, in the codec's kind of pixels."""
        from av.video.frame import VideoFrame as Frame
        from av.video.reformatter import Interpolation

        down, right = self._padding
        if down or right:
            rgb = np.pad(rgb, ((0, down), (0, right), (0, 0)), mode="edge")
        frame = Frame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
        if self._pixels == "yuv420p":
            frame = self._reformatter.reformat(
                frame,
                format=self._pixels,
                dst_colorspace=1,
                dst_color_range=1,
                threads=1,
                interpolation=Interpolation.BICUBIC | Interpolation.ACCURATE_RND,
            )
        else:
            frame = self._reformatter.reformat(frame, format=self._pixels, threads=1)
        frame.pts, frame.time_base = at, self.tick
        return frame


def _set_length_of_webp(path: Path, total: int) -> None:
    """Set the delay of the last frame of an animated WebP so that all frames last ``total`` ms; libwebp guesses it."""
    data = bytearray(path.read_bytes())
    delays = webp_delays(data)
    if delays:
        last = delays[-1][0]
        data[last : last + 3] = max(0, total - sum(delay for _, delay in delays[:-1])).to_bytes(3, "little")
        path.write_bytes(data)


def _ticks_a_second(rate: Fraction) -> int:
    """A multiple of the rate, so that its times are exact, and fine enough for all others.

    Not so for a rate that is an average of uneven times, such as 120000000/24000377: files have 32 bits for the length
    of a frame, and in ticks that fine one of 20 s would not fit (measured: 24 s became 2).
    """
    if rate.numerator > FINEST:
        return USUAL_TICKS
    return rate.numerator * -(-USUAL_TICKS // rate.numerator)


class Pictures:
    """A folder of 000000.png, 000001.png and so on, without loss; times are not kept.

    Attributes:
        tick: seconds of one unit of time.
        shortest: ticks between frames; none is dropped.
        longest: ticks that one frame can last; none is written twice.
    """

    tick, shortest, longest = Fraction(1, 90000), 0, 1 << 62

    def __init__(self, path: Path) -> None:
        """Make the folder.

        Args:
            path: the folder, which must not be there.
        """
        self._path, self._count = path, 0
        path.mkdir()

    def add(self, rgb: RGB, at: int) -> None:  # noqa: ARG002 (a folder keeps no times)
        """Write a frame as the next picture.

        Args:
            rgb: uint8 [H, W, 3] sRGB.
            at: the tick at which the frame begins.
        """
        (self._path / f"{self._count:06d}.png").write_bytes(png.encode(rgb))
        self._count += 1

    def finish(self, end: int) -> None:
        """Do nothing: every picture is complete already.

        Args:
            end: the tick at which the last frame ends.
        """

    def close(self) -> None:
        """Do nothing: no file is held open."""
