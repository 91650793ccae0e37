"""Clips out: MP4, WebM, GIF, animated WebP and folders of PNG, frame by frame, with true times, all or nothing.

What becomes of the frames is in ``clip_encoders``.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import cast, get_args

from coda_cli.errors import MediaError, UsageError
from coda_cli.media.files import TEMPORARY_PREFIX
from coda_cli.video.encoders import DEFAULT_RATE, RGB, SOUND, Encoder, Gif, Kind, Pictures, Sound, Video

KINDS: tuple[Kind, ...] = get_args(Kind)


def kind_of(path: Path) -> Kind:
    """The kind of clip that a path's suffix asks for; none at all is a folder of PNG. Raises UsageError."""
    suffix = path.suffix.lower().lstrip(".")
    if not suffix:
        return "png"
    if suffix not in KINDS or suffix == "png":
        raise UsageError(
            f"{path}: clips are written as .mp4, .webm, .gif or .webp, or as numbered PNG into a folder (no suffix)"
        )
    return cast(Kind, suffix)


class ClipWriter:
    """Writes one clip: ``with ClipWriter(path) as clip: clip.write(rgb, time)``.

    kind      "mp4" (H.264, plays in a browser), "webm" (VP9), "gif", "webp" (animated) or "png" (a folder of numbered
              pictures); by default what the suffix of ``path`` says
    rate      frames a second if they are constant: makes times such as k / 23.976 exact. Times need not be regular.
    audio     a clip whose sound goes along (mp4 and webm), cut to the frames written; packets are copied where the
              kind allows, and encoded anew where not. ``notes`` says when there is none.
    quality   crf of mp4 (18) and webm (30): lower is better; quality of webp (80): higher is better
    loop      gif and webp start again at their end

    The file appears under its name when the block ends well. After KeyboardInterrupt it is the valid, shorter clip of
    the frames so far; after any other exception, and without a frame, nothing is left. Frames closer together than the
    kind can show (GIF: 20 ms) are dropped and counted in ``dropped``; the length stays true.
    Raises UsageError for an unknown suffix and MediaError for what cannot be written.
    """

    def __init__(
        self,
        path: Path,
        kind: Kind | None = None,
        *,
        rate: Fraction | None = None,
        audio: Path | None = None,
        quality: int | None = None,
        loop: bool = True,
    ) -> None:
        self.path, self.kind = path, kind or kind_of(path)
        self.rate, self.audio, self.quality, self.loop = rate, audio, quality, loop
        self.frames, self.dropped, self.notes = 0, 0, list[str]()
        self._temporary = path.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}.part")
        self._encoder: Encoder | None = None
        self._shape: tuple[int, ...] = ()
        self._first = self._time = self._end = 0.0
        self._at, self._done = 0, False
        if self.kind == "png" and path.exists() and not _holds_only_frames(path):
            raise MediaError(f"{path}: is there and no folder of numbered frames; choose a new name")
        if not path.parent.is_dir():
            raise MediaError(f"{path}: the folder {path.parent} does not exist")

    def __enter__(self) -> ClipWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None or (issubclass(kind, KeyboardInterrupt) and self.frames):
            if not self._done:
                self.finish()
        else:
            self.discard()

    def write(self, rgb: RGB, time: float, duration: float | None = None) -> None:
        """Add a frame, uint8 [H, W, 3] of one size throughout, at ``time`` seconds; times grow.

        A frame lasts until the next one; ``duration`` seconds matters for the last. Unless given it is the last
        distance between two frames. Raises MediaError.
        """
        if self._encoder is None:
            self._shape, self._first, self._time = rgb.shape, time, time
        if rgb.shape != self._shape:
            raise ValueError(f"frames of a clip must have one size: {rgb.shape} after {self._shape}")
        usual = time - self._time or float(1 / (self.rate or DEFAULT_RATE))
        self._time, self._end = time, time + (duration or usual)
        with self._failing(), uninterrupted():
            if self._encoder is None:
                self._encoder = self._begin(rgb.shape[1], rgb.shape[0])
            at = round((time - self._first) / self._encoder.tick)
            if self.frames and at < self._at + self._encoder.shortest:
                self.dropped += 1
                return
            self._encoder.add(rgb, at)
            self._at = at
            self.frames += 1

    def finish(self) -> None:
        """Complete the file and give it its name. Raises MediaError, also when there is no frame."""
        with contextlib.ExitStack() as unless_done:
            unless_done.callback(self.discard)
            with self._failing():
                if self._encoder is None:
                    raise MediaError(f"{self.path}: no frame to write")
                encoder, self._encoder = self._encoder, None
                try:
                    length = round((self._end - self._first) / encoder.tick)
                    encoder.finish(max(length, self._at + encoder.shortest))
                finally:
                    encoder.close()
                _put_in_place(self._temporary, self.path)
            unless_done.pop_all()
        self._done = True
        if self.dropped:
            self.notes.append(f"{self.dropped} frames dropped: {self.kind} cannot show them that fast")

    def discard(self) -> None:
        """Give up: nothing is left behind."""
        encoder, self._encoder = self._encoder, None
        with contextlib.suppress(Exception):
            if encoder:
                encoder.close()
        with contextlib.suppress(OSError):
            self._temporary.unlink()
        shutil.rmtree(self._temporary, ignore_errors=True)

    def _begin(self, width: int, height: int) -> Encoder:
        if self.kind == "png":
            return Pictures(self._temporary)
        self._temporary.open("xb").close()  # libav would find out about the folder only when it has a packet to write
        if self.kind == "gif":
            return Gif(self._temporary, (width, height), self.loop)
        sound = self._sound() if self.audio and self.kind in SOUND else None
        return Video(self._temporary, self.kind, (width, height), self.rate, self.quality, self.loop, sound)

    def _sound(self) -> Sound | None:
        assert self.audio is not None
        try:
            return Sound(self.audio, self.kind, self._first)
        except MediaError as error:  # the pictures are worth having without it
            self.notes.append(f"without sound: {error}")
            return None

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        import av

        try:
            yield
        except (av.FFmpegError, OSError) as error:
            reason = getattr(error, "strerror", None) or error
            raise MediaError(f"{self.path}: cannot be written ({reason})") from error


def _put_in_place(temporary: Path, path: Path) -> None:
    if temporary.is_dir():
        if path.exists():  # numbered frames of an earlier run: checked when the writer was made
            shutil.rmtree(path)
        temporary.rename(path)
        return
    with temporary.open("rb+") as stream:
        os.fsync(stream.fileno())
    os.replace(temporary, path)


def _holds_only_frames(path: Path) -> bool:
    return path.is_dir() and all(file.stem.isdecimal() and file.suffix == ".png" for file in path.iterdir())


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait until the block is through: what belongs together in a clip is written together."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    before = {number: handler for number, handler in before.items() if callable(handler)}
    came: list[int] = []
    for number in before:
        signal.signal(number, lambda number, _: came.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            cast(Callable[[int, None], object], before[signal.Signals(came[0])])(came[0], None)
