"""What makes files of frames: libav for MP4, WebM, WebP and GIF, our own writer for PNG; sound goes along.

PyAV throughout, not imageio: its writer knows no times and no encoder options, and crashes on odd sizes and filters.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from coda_cli.errors import MediaError
from coda_cli.media import png
from coda_cli.video.containers import exact, opened
from coda_cli.video.decoding import opening_of

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame
    from av.audio.stream import AudioStream
    from av.container import InputContainer, OutputContainer
    from av.filter import Graph
    from av.filter.context import FilterContext
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

Kind = Literal["mp4", "webm", "gif", "webp", "png"]
DEFAULT_RATE = Fraction(25)  # when a clip of one frame says nothing about how long it is
RGB = NDArray[np.uint8]


class Encoder(Protocol):
    """What turns frames into a file or folder ``path``; times are whole ticks of ``tick`` seconds from the first."""

    tick: Fraction
    shortest: int  # ticks between frames; those that come faster are dropped

    def add(self, rgb: RGB, at: int) -> None:
        """Take the frame that begins at tick ``at``."""

    def finish(self, end: int) -> None:
        """Complete the file; the last frame ends at tick ``end``."""

    def close(self) -> None:
        """Let go of everything, finished or not."""


# ---- MP4, WebM, WebP -------------------------------------------------------------------------------------------------

_CODECS: dict[str, tuple[str, str, dict[str, str]]] = {
    # No B-frames: with them the MP4 index holds the durations of the decoding order, and a clip of variable rate
    # ends early (measured: 0.42 s instead of 1.23 s). They would save a quarter of the size.
    "mp4": ("libx264", "yuv420p", {"crf": "18", "preset": "superfast", "bf": "0"}),
    # libsvtav1 is smaller and as fast, but it writes to stderr on its own and fewer players show AV1.
    "webm": ("libvpx-vp9", "yuv420p", {"crf": "30", "b": "0", "deadline": "realtime", "cpu-used": "7", "row-mt": "1"}),
    "webp": ("libwebp_anim", "bgra", {"quality": "80", "compression_level": "1"}),
}
SOUND: dict[str, tuple[str, ...]] = {
    # What browsers play in each container; the first is what other sound becomes.
    "mp4": ("aac", "mp3", "opus", "flac"),
    "webm": ("libopus", "opus", "vorbis"),
}


class Video:
    """Straight into the file: libav with real time stamps in a fine time base."""

    def __init__(
        self,
        path: Path,
        kind: Kind,
        size: tuple[int, int],
        rate: Fraction | None,
        quality: int | None,
        loop: bool,
        sound: Sound | None,
    ) -> None:
        import av
        from av.video.reformatter import VideoReformatter

        self.path, self.kind, self.sound = path, kind, sound
        codec, self.pixels, options = _CODECS[kind]
        if quality is not None:
            options = options | {"quality" if kind == "webp" else "crf": str(quality)}
        rate = Fraction(rate or DEFAULT_RATE)
        # A multiple of the rate, so that its times are exact, and fine enough for all others.
        ticks = 1000 if kind == "webp" else rate.numerator * -(-90000 // rate.numerator)
        self.tick = Fraction(1, ticks)
        self.shortest = 11 if kind == "webp" else 1  # browsers show 10 ms as 100
        more = {"mp4": {"movflags": "+faststart"}, "webp": {"loop": "0" if loop else "1"}}.get(kind, {})
        self.container: OutputContainer = av.open(f"file:{path}", "w", format=kind, options=more)
        stream = cast("VideoStream", self.container.add_stream(codec, rate=rate, options=options))
        # Odd sizes do not exist in yuv420p.
        self.padding = (-size[1] % 2, -size[0] % 2) if self.pixels == "yuv420p" else (0, 0)
        stream.width, stream.height, stream.pix_fmt = size[0] + self.padding[1], size[1] + self.padding[0], self.pixels
        stream.codec_context.time_base = self.tick
        if self.pixels == "yuv420p":  # said, so that every player shows the same colours: BT.709, limited range
            context = stream.codec_context
            context.colorspace = context.color_primaries = context.color_trc = context.color_range = 1
        self.stream, self.at = stream, 0
        self.reformatter = VideoReformatter()
        if sound:
            sound.into(self.container)

    def add(self, rgb: RGB, at: int) -> None:
        """Encode a frame, and the sound that comes before it."""
        if self.sound:
            self.sound.copy_until(float(at * self.tick))
        self.at = at
        for packet in self.stream.encode(self._frame(rgb, at)):
            self.container.mux(packet)

    def _frame(self, rgb: RGB, at: int) -> VideoFrame:
        from av.video.frame import VideoFrame as Frame
        from av.video.reformatter import Interpolation

        down, right = self.padding
        if down or right:
            rgb = np.pad(rgb, ((0, down), (0, right), (0, 0)), mode="edge")
        frame = Frame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
        if self.pixels == "yuv420p":
            frame = self.reformatter.reformat(
                frame, format=self.pixels, dst_colorspace=1, dst_color_range=1, threads=1,
                interpolation=Interpolation.BICUBIC | Interpolation.ACCURATE_RND,
            )  # fmt: skip
        else:
            frame = self.reformatter.reformat(frame, format=self.pixels, threads=1)
        frame.pts, frame.time_base = at, self.tick
        return frame

    def finish(self, end: int) -> None:
        """Encode what is left, with the length of the last frame."""
        for packet in self.stream.encode():
            base = exact(packet.time_base)
            if packet.pts is not None and round(packet.pts * base / self.tick) == self.at:
                packet.duration = round((end - self.at) * self.tick / base)  # the others end where the next begins
            self.container.mux(packet)
        if self.sound:
            self.sound.copy_until(float(end * self.tick))
            self.sound.finish()
        self.container.close()
        if self.kind == "webp":
            _end_webp(self.path, end)

    def close(self) -> None:
        """Close the file, and the clip that the sound is from."""
        self.container.close()
        if self.sound:
            self.sound.close()


def _end_webp(path: Path, total: int) -> None:
    """Set the delay of an animated WebP's last frame (libwebp makes it the mean) so that all last ``total`` ms."""
    data = bytearray(path.read_bytes())
    place, last, before = 12, 0, 0
    delays = []
    while place + 8 <= len(data):
        if data[place : place + 4] == b"ANMF":
            last = place + 8 + 12  # after the frame's position and size
            delays.append(int.from_bytes(data[last : last + 3], "little"))
        place += 8 + int.from_bytes(data[place + 4 : place + 8], "little") + 1 & ~1
    if last:
        before = sum(delays[:-1])
        data[last : last + 3] = max(0, total - before).to_bytes(3, "little")
        path.write_bytes(data)


class Sound:
    """The sound of another clip, from a moment of it on: packets as they are, or encoded anew where they may not be."""

    def __init__(self, source: Path, kind: Kind, start: float) -> None:
        self.begin = opening_of(source).zero + Fraction(start)
        self.resources = contextlib.ExitStack()
        container = self.resources.enter_context(opened(source))
        if not container.streams.audio or container.streams.audio[0].codec_context is None:
            self.resources.close()
            raise MediaError(f"{source}: has no sound that can be decoded")
        self.stream = container.streams.audio[0]
        self.copied = self.stream.codec_context.name in SOUND[kind]
        self.codec = SOUND[kind][0]
        self.base = exact(self.stream.time_base)
        with contextlib.suppress(OSError, ValueError):  # where it cannot be sought it is read from the beginning
            container.seek(int((self.begin - 1) / self.base), stream=self.stream)
        self.pieces = self._pieces(container)
        self.next = next(self.pieces, None)

    def _pieces(self, container: InputContainer) -> Iterator[tuple[float, float, Packet[AudioStream] | AudioFrame]]:
        """From the beginning on: seconds since, length in seconds, and what sounds then."""
        import av

        packets = container.demux(self.stream)
        while True:
            try:
                packet = next(packets, None)
                if packet is None:
                    return
                whole = [packet] if packet.size and packet.dts is not None else []
                for piece in whole if self.copied else packet.decode():
                    at = float((piece.pts or 0) * self.base - self.begin)
                    if piece.pts is not None and at > -0.001:
                        yield at, float((piece.duration or 0) * self.base), piece
            except av.InvalidDataError:  # a click in the sound, not the end of it
                continue

    def into(self, output: OutputContainer) -> None:
        """Add the stream to a file whose header is not yet written."""
        self.output = output
        if self.copied:
            self.target = output.add_stream_from_template(self.stream)
        else:
            rate = 48000 if self.codec == "libopus" else self.stream.rate  # the only one that Opus has in common
            self.target = cast("AudioStream", output.add_stream(self.codec, rate=rate))
            self.target.codec_context.layout = "mono" if self.stream.layout.nb_channels == 1 else "stereo"

    def copy_until(self, time: float) -> None:
        """Hand over what sounds before ``time``, in seconds from the beginning; the last piece by its middle."""
        while self.next and self.next[0] + self.next[1] / 2 < time:
            piece = self.next[2]
            shift = round(self.begin / self.base)
            piece.pts = max(0, (piece.pts or 0) - shift)
            if self.copied:
                packet = cast("Packet[AudioStream]", piece)
                packet.dts = max(0, (packet.dts or 0) - shift)
                packet.stream = self.target
                self.output.mux(packet)
            else:
                self.output.mux(self.target.encode(cast("AudioFrame", piece)))
            self.next = next(self.pieces, None)

    def finish(self) -> None:
        """That was all."""
        if not self.copied:
            self.output.mux(self.target.encode(None))

    def close(self) -> None:
        """Close the clip that the sound is from."""
        self.resources.close()


# ---- GIF and folders -------------------------------------------------------------------------------------------------


class Gif:
    """Twice through the frames, as one palette for all needs them all: spooled to disk without loss, not held.

    The first pass counts colours while frames arrive (``palettegen``), the second, at the end, draws with the palette.
    Times are rounded to centiseconds, not delays, so the delays add up to the clip's length.
    """

    tick, shortest = Fraction(1, 100), 2  # browsers slow down what is faster

    def __init__(self, path: Path, size: tuple[int, int], loop: bool) -> None:
        import av
        from av.filter import Graph

        self.path, self.size, self.loop = path, size, loop
        self.spool_path = path.with_name(f"{path.name}.spool")
        self.spool: OutputContainer = av.open(f"file:{self.spool_path}", "w", format="nut")
        self.spooled = self._stream(self.spool, "ffv1", "bgr0")
        # All pixels count, not only changing ones ("diff"): captions and colour bars stand still.
        self.colours = Graph()
        source, sink = self._source(self.colours, size), self.colours.add("buffersink")
        generator = self.colours.add("palettegen", "stats_mode=full")
        self.colours.link_nodes(source, generator, sink).configure()

    def _stream(self, container: OutputContainer, codec: str, pixels: str) -> VideoStream:
        stream = cast("VideoStream", container.add_stream(codec, rate=DEFAULT_RATE))
        stream.width, stream.height = self.size
        stream.pix_fmt = pixels
        stream.codec_context.time_base = self.tick
        return stream

    def _source(self, graph: Graph, size: tuple[int, int]) -> FilterContext:
        from av.video.format import VideoFormat

        return graph.add_buffer(width=size[0], height=size[1], format=VideoFormat("bgr0"), time_base=self.tick)

    def add(self, rgb: RGB, at: int) -> None:
        """Spool a frame and count its colours."""
        import av
        from av.video.frame import VideoFrame

        frame = VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24").reformat(format="bgr0", threads=1)
        frame.pts, frame.time_base = at, self.tick
        self.spool.mux(self.spooled.encode(frame))
        self.colours.vpush(frame)
        with contextlib.suppress(
            av.BlockingIOError
        ):  # nothing comes before the end, but unasked it would hold all frames
            self.colours.vpull()
        self.at = at

    def finish(self, end: int) -> None:
        """Draw all frames with the one palette."""
        import av
        from av.filter import Graph

        self.spool.mux(self.spooled.encode())
        self.spool.close()
        self.colours.vpush(None)
        palette = self.colours.vpull()
        palette.pts, palette.time_base = 0, self.tick
        drawing = Graph()
        source = self._source(drawing, self.size)
        other = drawing.add_buffer(width=palette.width, height=palette.height, format=palette.format,
                                   time_base=self.tick)  # fmt: skip
        drawer = drawing.add("paletteuse", "dither=bayer:bayer_scale=5:diff_mode=rectangle")
        sink = drawing.add("buffersink")
        source.link_to(drawer, 0, 0)
        other.link_to(drawer, 0, 1)
        drawer.link_to(sink)
        drawing.configure()
        other.push(palette)
        other.push(None)
        options = {"loop": "0" if self.loop else "-1", "final_delay": str(end - self.at)}
        with (
            av.open(f"file:{self.path}", "w", format="gif", options=options) as output,
            av.open(f"file:{self.spool_path}") as spool,
        ):
            stream = self._stream(output, "gif", "pal8")

            def write_what_is_drawn() -> None:
                with contextlib.suppress(av.BlockingIOError, av.EOFError):
                    while True:
                        output.mux(stream.encode(cast("VideoFrame", sink.pull())))

            for frame in spool.decode(video=0):
                # Neither the spool nor the graph keeps the time base it was given.
                frame.pts = round((frame.pts or 0) * exact(frame.time_base) / self.tick)
                frame.time_base = self.tick
                source.push(frame)
                write_what_is_drawn()
            source.push(None)
            write_what_is_drawn()
            output.mux(stream.encode())

    def close(self) -> None:
        """Drop the spool."""
        with contextlib.suppress(Exception):
            self.spool.close()
        self.spool_path.unlink(missing_ok=True)


class Pictures:
    """A folder of 000000.png, 000001.png and so on: no times, no loss."""

    tick, shortest = Fraction(1, 90000), 0

    def __init__(self, path: Path) -> None:
        self.path, self.count = path, 0
        path.mkdir()

    def add(self, rgb: RGB, _at: int) -> None:
        """Write a frame as the next picture."""
        (self.path / f"{self.count:06d}.png").write_bytes(png.encode(rgb))
        self.count += 1

    def finish(self, end: int) -> None:
        """Nothing is left to do."""

    def close(self) -> None:
        """Nothing is held."""
