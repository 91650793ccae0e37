"""The sound of one clip, handed on to another."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, cast

from coda_cli.errors import MediaError
from coda_cli.video.containers import as_fraction, open_container
from coda_cli.video.decoding import opening_of

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame
    from av.audio.stream import AudioStream
    from av.container import InputContainer, OutputContainer
    from av.packet import Packet

SOUND: dict[str, tuple[str, ...]] = {
    # What browsers play in each container; the first is what other sound becomes.
    "mp4": ("aac", "mp3", "opus", "flac"),
    "webm": ("libopus", "opus", "vorbis"),
}


class Sound:
    """The sound of another clip, from a given moment on.

    Packets are copied as they are, or decoded and encoded again where the new container does not allow their codec.
    """

    def __init__(self, source: Path, kind: str, start: float) -> None:
        """Open the clip that the sound is from.

        Args:
            source: that clip.
            kind: the container that the sound goes into, a key of ``SOUND``.
            start: seconds from the first frame of ``source`` at which the sound begins.

        Raises:
            MediaError: when the clip cannot be read, or has no sound that can be decoded.
        """
        self._begin = opening_of(source).zero + Fraction(start)
        self._resources = contextlib.ExitStack()
        container = self._resources.enter_context(open_container(source))
        if not container.streams.audio or container.streams.audio[0].codec_context is None:
            self._resources.close()
            raise MediaError("has no sound that can be decoded", item=source)
        self._stream = container.streams.audio[0]
        self._copied = self._stream.codec_context.name in SOUND[kind]
        self._codec = SOUND[kind][0]
        self._base = as_fraction(self._stream.time_base)
        with contextlib.suppress(OSError, ValueError):  # a file that cannot be sought is read from the beginning
            container.seek(int((self._begin - 1) / self._base), stream=self._stream)
        self._pieces = self._read_pieces(container)
        self._next = next(self._pieces, None)

    def add_to(self, output: OutputContainer) -> None:
        """Add a stream of sound to a file whose header is not yet written.

        Args:
            output: that file, open in libav.
        """
        self._output = output
        if self._copied:
            self._target = output.add_stream_from_template(self._stream)
        else:
            rate = 48000 if self._codec == "libopus" else self._stream.rate  # Opus accepts few rates, and this one
            self._target = cast("AudioStream", output.add_stream(self._codec, rate=rate))
            self._target.codec_context.layout = "mono" if self._stream.layout.nb_channels == 1 else "stereo"

    def copy_until(self, time: float) -> None:
        """Write the sound up to a moment; a piece belongs to it when its middle lies before that moment.

        Args:
            time: seconds from the beginning of the sound.
        """
        while self._next and self._next[0] + self._next[1] / 2 < time:
            piece = self._next[2]
            shift = round(self._begin / self._base)
            piece.pts = max(0, (piece.pts or 0) - shift)
            if self._copied:
                packet = cast("Packet[AudioStream]", piece)
                packet.dts = max(0, (packet.dts or 0) - shift)
                packet.stream = self._target
                self._output.mux(packet)
            else:
                self._output.mux(self._target.encode(cast("AudioFrame", piece)))
            self._next = next(self._pieces, None)

    def finish(self) -> None:
        """Write what the sound's encoder still holds, where there is one."""
        if not self._copied:
            self._output.mux(self._target.encode(None))

    def close(self) -> None:
        """Close the clip that the sound is from."""
        self._resources.close()

    def _read_pieces(self, file: InputContainer) -> Iterator[tuple[float, float, Packet[AudioStream] | AudioFrame]]:
        """Yield seconds from the beginning, length in seconds, and the packet or frame that sounds then."""
        import av

        packets = file.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
                if packet is None:
                    return
                whole = [packet] if packet.size and packet.dts is not None else []
                for piece in whole if self._copied else packet.decode():
                    at = float((piece.pts or 0) * self._base - self._begin)
                    if piece.pts is not None and at > -0.001:
                        yield at, float((piece.duration or 0) * self._base), piece
            except av.InvalidDataError:  # a broken packet is a click in the sound, not its end
                continue
