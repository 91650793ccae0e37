"""The sound of one clip, handed on to another that is already written: what fails here costs the pictures nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, cast

from coda_cli.errors import MediaError
from coda_cli.video.checking import Held, held_in
from coda_cli.video.containers import as_fraction, default_of, open_container, reason_of
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
COMMON_RATE = 48000  # samples a second, which every codec and player takes
HIGHEST_RATE = 96000  # of AAC
NEAR = 0.05  # seconds: what rounded times of pieces of sound may differ by without there being a gap


class Sound:
    """The sound of another clip, from a given moment on.

    Packets are copied as they are, or decoded and encoded again where the new container does not allow their codec.

    Attributes:
        copied: whether packets are copied as they are.
        pieces: how many packets or decoded pieces were handed on.
        until: seconds from the beginning of the sound at which the last of these ends.
        broken: how many pieces could not be read, and are left out.
        changes: in words, what is not as in the source.
    """

    def __init__(self, source: Path, kind: str, start: float, copy: bool = True) -> None:
        """Open the clip that the sound is from.

        Args:
            source: that clip.
            kind: the container that the sound goes into, a key of ``SOUND``.
            start: seconds from the first frame of ``source`` at which the sound begins.
            copy: whether packets may be copied as they are, where the container allows their codec.

        Raises:
            MediaError: when the clip cannot be read, or has no sound that can be decoded.
        """
        import av

        self._begin = opening_of(source).zero + Fraction(start)
        self._source, self._kind = source, kind
        self.pieces, self.until, self.broken, self.changes = 0, 0.0, 0, list[str]()
        self._samples = 0  # of the source, that were encoded or passed over
        self._resources = contextlib.ExitStack()
        container = self._open()
        self.copied = copy and self._stream.codec_context.name in SOUND[kind] and self._rate <= HIGHEST_RATE
        self._base = as_fraction(self._stream.time_base)
        goal = self._begin - 1
        if goal * 1_000_000 > (container.start_time or 0):
            try:
                container.seek(int(goal / self._base), stream=self._stream)
            except (av.FFmpegError, OSError, ValueError):
                self.close()  # after a failed seek a file gives nothing more: it is read from the beginning
                container = self._open()
        self._pieces = self._read_pieces(container)
        self._next = next(self._pieces, None)

    @property
    def _rate(self) -> int:
        """Samples a second in the source."""
        return self._stream.rate or COMMON_RATE

    def _open(self) -> InputContainer:
        """Open the source, and choose its stream of sound as players do."""
        container = self._resources.enter_context(open_container(self._source))
        streams = [stream for stream in container.streams.audio if stream.codec_context is not None]
        if not streams:
            self._resources.close()
            raise MediaError("has no sound that can be decoded", item=self._source)
        self._stream = default_of(streams)
        return container

    def add_to(self, output: OutputContainer) -> None:
        """Add a stream of sound to a file whose header is not yet written.

        Args:
            output: that file, open in libav.
        """
        self._output = output
        if self.copied:
            self._target = output.add_stream_from_template(self._stream)
            return
        codec, channels = SOUND[self._kind][0], self._stream.layout.nb_channels
        # Opus accepts few rates, and this one.
        rate = COMMON_RATE if codec == "libopus" or self._rate not in _rates_of(codec) else self._rate
        if rate < self._rate or (rate != self._rate and codec != "libopus"):
            self.changes.append(f"sound of {self._rate} Hz became {rate} Hz, which players take")
        if channels > 2:
            self.changes.append(f"sound of {channels} channels became stereo")
        self._target = cast("AudioStream", output.add_stream(codec, rate=rate))
        self._target.codec_context.layout = "mono" if channels == 1 else "stereo"

    def copy_until(self, time: float) -> None:
        """Write the sound up to a moment; a piece belongs to it when its middle lies before that moment.

        Args:
            time: seconds from the beginning of the sound.
        """
        while self._next and self._next[0] + self._next[1] / 2 < time:
            piece = self._next[2]
            self.pieces, self.until = self.pieces + 1, self._next[0] + self._next[1]
            if self.copied:
                self._copy(cast("Packet[AudioStream]", piece))
            else:
                self._encode(cast("AudioFrame", piece), self._next[0])
            self._next = next(self._pieces, None)

    def _copy(self, packet: Packet[AudioStream]) -> None:
        """Write a packet as it is, at its new time."""
        shift = round(self._begin / self._base)
        packet.pts, packet.dts = max(0, (packet.pts or 0) - shift), max(0, (packet.dts or 0) - shift)
        packet.stream = self._target
        self._output.mux(packet)

    def _encode(self, frame: AudioFrame, time: float) -> None:
        """Encode a piece for its time; it follows the one before where only the rounding of times says otherwise."""
        stamp = max(0, round(time * frame.sample_rate))
        if abs(stamp - self._samples) > NEAR * frame.sample_rate and stamp > self._samples:
            self._samples = stamp
        frame.pts, frame.time_base = self._samples, Fraction(1, frame.sample_rate)
        self._samples += frame.samples
        self._output.mux(self._target.encode(frame))

    def finish(self) -> None:
        """Write what the sound's encoder still holds, where there is one."""
        if not self.copied and self.pieces:
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
                for piece in whole if self.copied else packet.decode():
                    at = float((piece.pts or 0) * self._base - self._begin)
                    if piece.pts is not None and at > -0.001:
                        yield at, float((piece.duration or 0) * self._base), piece
            except av.InvalidDataError:  # a broken packet is a click in the sound, not its end
                self.broken += self.pieces > 0  # what a seek finds first may begin in the middle


def _rates_of(codec: str) -> tuple[int, ...]:
    """The rates that an encoder takes, samples a second."""
    import av

    return tuple(av.Codec(codec, "w").audio_rates or ())


def add_sound(path: Path, kind: str, source: Path, start: float, length: float) -> list[str]:
    """Add the sound of another clip to one that is written; whatever goes wrong, the clip is as good as before.

    Args:
        path: the clip, which is replaced by one with sound.
        kind: "mp4" or "webm".
        source: the clip that the sound is from.
        start: seconds from the first frame of ``source`` at which the sound begins.
        length: seconds of the clip.

    Returns:
        In words, what the clip lacks or what was changed.
    """
    import av

    beside = path.with_name(f"{path.stem}.sound.part")
    reason = ""
    for copy in (True, False):
        try:
            sound = Sound(source, kind, start, copy)
        except MediaError as error:
            return [f"without sound: {error}"]
        except (av.FFmpegError, OSError, ValueError) as error:
            return [f"without sound: it cannot be read ({reason_of(error)})"]
        was_copied = sound.copied
        try:
            with contextlib.closing(sound):
                return _join(path, beside, kind, sound, length)
        except (av.FFmpegError, OSError, ValueError, ArithmeticError, MediaError) as error:
            reason = error.message if isinstance(error, MediaError) else reason_of(error)
        finally:
            with contextlib.suppress(OSError):
                beside.unlink()
        if not was_copied:
            break
    return [f"without sound: it cannot be written ({reason})"]


def _join(path: Path, beside: Path, kind: str, sound: Sound, length: float) -> list[str]:
    """Write pictures and sound into one file beside, read it back, and put it in place of the pictures alone."""
    import av

    alone = held_in(path)
    options = {"movflags": "+faststart"} if kind == "mp4" else {}
    with av.open(f"file:{path}") as pictures, av.open(f"file:{beside}", "w", format=kind, options=options) as output:
        shown = pictures.streams.video[0]
        target = output.add_stream_from_template(shown)
        target.codec_context.framerate = as_fraction(shown.average_rate) or Fraction(25)
        sound.add_to(output)
        for left, packet in enumerate(pictures.demux(shown), 1 - alone.frames):
            if packet.dts is None:
                continue
            base = as_fraction(packet.time_base)
            moment = (packet.pts or 0) * base
            sound.copy_until(float(moment))
            if kind == "webm":  # it states no lengths, and those that are guessed may be too long; see Video
                packet.duration = round((Fraction(1, 1000) if left else Fraction(length) - moment) / base)
            packet.stream = target
            output.mux(packet)
        sound.copy_until(length)
        sound.finish()
    if not sound.pieces:
        return ["without sound: the source has none in this part"]
    _refuse_differences(alone, held_in(beside), sound)
    beside.replace(path)
    lost = [f"pieces of the sound that are broken and left out: {sound.broken}"] if sound.broken else []
    return sound.changes + lost


def _refuse_differences(alone: Held, joined: Held, sound: Sound) -> None:
    """Raise MediaError where a joined file does not hold the pictures and the sound that went into it."""
    if joined.frames != alone.frames or abs(joined.length - alone.length) > 0.05:
        raise MediaError("beside it the pictures do not keep their times")
    if not joined.sounds or joined.sound_length < 0.9 * sound.until - 0.2:
        raise MediaError(f"of {sound.until:.2f} s only {joined.sound_length:.2f} s were in the file")
