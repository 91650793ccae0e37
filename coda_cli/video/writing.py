"""Clips out: MP4, WebM, GIF, animated WebP and folders of PNG, frame by frame, with true times, all or nothing.

``ClipWriter`` checks and counts frames and gives the finished file its name. What turns frames into files is in
``encoders`` and ``gif``.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import cast, get_args

from coda_cli.errors import STOPPING, MediaError, UsageError
from coda_cli.media.files import TEMPORARY_PREFIX, TakenError, give_name
from coda_cli.video.checking import verify
from coda_cli.video.containers import reason_of
from coda_cli.video.encoders import DEFAULT_RATE, RGB, Encoder, Kind, Pictures, Video
from coda_cli.video.gif import Gif
from coda_cli.video.sound import SOUND, add_sound

KINDS: tuple[Kind, ...] = get_args(Kind)


def kind_of(path: Path) -> Kind:
    """Find the kind of clip that a path's suffix asks for.

    Args:
        path: where a clip is to be written; a path without a suffix is a folder of PNG.

    Returns:
        The kind.

    Raises:
        UsageError: for a suffix of something else.
    """
    suffix = path.suffix.lower().lstrip(".")
    if not suffix:
        return "png"
    if suffix not in KINDS or suffix == "png":
        raise UsageError(
            "clips are written as .mp4, .webm, .gif or .webp, or as numbered PNG into a folder (no suffix)", item=path
        )
    return cast(Kind, suffix)


class ClipWriter:
    """Writes one clip, whose file appears under its name when the block ends well.

    After KeyboardInterrupt it is the valid, shorter clip of the frames so far. After any other exception, and without
    a frame, nothing is left. Frames closer together than the kind can show (GIF: 20 ms) are dropped; the length of the
    clip stays true.

    Example:
        with ClipWriter(Path("clip.mp4")) as clip:
            clip.write(rgb, time)

    Attributes:
        frames: how many frames have been written.
        dropped: how many frames came too fast for this kind of clip.
        notes: in words, what the file lacks: frames that were dropped, sound that could not be had.
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
        fixed_colours: RGB | None = None,
        comment: str = "",
        replace: bool = True,
    ) -> None:
        """Check that the clip can be written there; its file is opened with the first frame.

        Args:
            path: the file or folder to write.
            kind: "mp4" (H.264, plays in a browser), "webm" (VP9), "gif", "webp" (animated) or "png" (a folder of
                numbered pictures); what the suffix of ``path`` says unless given.
            rate: frames a second, if they are constant; it makes times such as k / 23.976 exact. Times need not be
                regular.
            audio: a clip whose sound goes along (mp4 and webm), cut to the frames written. Packets are copied where
                the kind allows, and encoded again where it does not. ``notes`` says when there is none.
            quality: crf of mp4 (18 unless given) and webm (30), where lower is better; quality of webp (80), where
                higher is better.
            loop: whether gif and webp start again at their end.
            fixed_colours: uint8 [n, 3] sRGB, n at most 253: colours that a gif must show exactly.
            comment: text that a gif carries.
            replace: whether a clip of this name, or a folder of numbered frames, may be replaced.

        Raises:
            UsageError: for an unknown suffix.
            MediaError: when the folder is missing, or the path is a folder with something else in it.
        """
        self.path, self.kind = path, kind or kind_of(path)
        self.frames, self.dropped, self.notes = 0, 0, list[str]()
        self._rate, self._audio, self._quality, self._loop = rate, audio, quality, loop
        self._fixed_colours, self._comment, self._replace = fixed_colours, comment, replace
        self._temporary = path.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}.part")
        self._encoder: Encoder | None = None
        self._shape: tuple[int, ...] = ()
        self._first = self._time = self._end = 0.0
        self._at, self._done, self._failed = 0, False, False
        self._repeated = 0
        if self.kind == "png" and path.exists() and not _holds_only_frames(path):
            raise MediaError("exists and is not a folder of numbered frames; choose a new name", item=path)
        if not path.parent.is_dir():
            raise MediaError(f"the folder {path.parent} does not exist", item=path)

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
        """Add a frame, which lasts until the next one.

        Args:
            rgb: uint8 [H, W, 3] sRGB, of the first frame's size.
            time: seconds; later than the frame before. The first frame's time is the clip's beginning.
            duration: seconds, which count for the last frame; the time since the frame before unless given.

        Raises:
            ValueError: for a frame of another size.
            MediaError: when the file cannot be written.
        """
        if self._encoder is None:
            self._shape, self._first, self._time = rgb.shape, time, time
        if rgb.shape != self._shape:
            raise ValueError(f"frames of a clip must have one size: {rgb.shape} after {self._shape}")
        usual = time - self._time or float(1 / (self._rate or DEFAULT_RATE))
        self._time, self._end = time, time + (duration or usual)
        with self._media_errors(), uninterrupted():
            if self._encoder is None:
                self._encoder = self._begin(rgb.shape[1], rgb.shape[0])
            at = round((time - self._first) / self._encoder.tick)
            if self.frames and at < self._at + self._encoder.shortest:
                self.dropped += 1
                return
            self._hold_until(at)
            self._encoder.add(rgb, at)
            self._at, self._shown = at, rgb
            self.frames += 1

    def _hold_until(self, at: int) -> None:
        """Write the last frame again where it lasts longer than the kind can say."""
        assert self._encoder is not None
        while self.frames and at - self._at > self._encoder.longest:
            self._at += self._encoder.longest
            self._encoder.add(self._shown, self._at)
            self._repeated += 1

    def finish(self) -> None:
        """Complete the file and give it its name.

        Raises:
            TakenError: when there is a clip of this name that may not be replaced.
            MediaError: when the file cannot be written, or there is no frame.
        """
        with contextlib.ExitStack() as unless_done:
            unless_done.callback(self.discard)
            with self._media_errors():
                if self._encoder is None:
                    raise MediaError("no frame to write", item=self.path)
                length = round((self._end - self._first) / self._encoder.tick)
                self._hold_until(length)
                encoder, self._encoder = self._encoder, None
                length = max(length, self._at + encoder.shortest)
                try:
                    encoder.finish(length)
                finally:
                    encoder.close()
                self._check_and_add_sound(float(length * encoder.tick))
                _put_in_place(self._temporary, self.path, replace=self._replace)
            unless_done.pop_all()
        self._done = True
        if self.dropped:
            self.notes.append(f"{self.dropped} frames dropped: {self.kind} cannot show them that fast")

    def discard(self) -> None:
        """Give up the clip, and leave nothing behind."""
        encoder, self._encoder = self._encoder, None
        with contextlib.suppress(Exception):
            if encoder:
                encoder.close()
        with contextlib.suppress(OSError):
            self._temporary.unlink()
        shutil.rmtree(self._temporary, ignore_errors=True)

    def _begin(self, width: int, height: int) -> Encoder:
        """Open the temporary file for frames of this size."""
        if self.kind == "png":
            return Pictures(self._temporary)
        # libav would notice a folder that cannot be written only when it has a packet to write.
        self._temporary.open("xb").close()
        size = width, height
        if self.kind == "gif":
            return Gif(self._temporary, size, loop=self._loop, fixed_colours=self._fixed_colours, comment=self._comment)
        return Video(self._temporary, self.kind, size, self._rate, self._quality, self._loop)

    def _check_and_add_sound(self, length: float) -> None:
        """Read the finished file back, and give it the sound that goes along."""
        if self.kind == "png":
            return
        verify(self._temporary, self.kind, self.frames + self._repeated, length)
        if self._audio and self.kind in SOUND:
            self.notes += add_sound(self._temporary, self.kind, self._audio, self._first, length)

    @contextlib.contextmanager
    def _media_errors(self) -> Iterator[None]:
        """Turn what libav and the system raise into MediaError with the name of the file.

        After an error the encoder is not called again: it may answer with the end of the process.
        """
        import av

        if self._failed:
            raise MediaError("cannot be written (it failed before)", item=self.path)
        try:
            yield
        except (av.FFmpegError, OSError) as error:
            self._failed = True
            raise MediaError(f"cannot be written ({reason_of(error)})", item=self.path) from error
        except MediaError as error:
            self._failed = True
            raise error.about(self.path)  # noqa: B904 (it is the same error)
        except Exception:
            self._failed = True
            raise


def write_gif(
    path: Path, frames: Iterable[RGB], seconds: float, comment: str, fixed_colours: RGB, *, replace: bool = True
) -> None:
    """Write an endless GIF whose frames all last equally long; after any exception nothing of it is left.

    Args:
        path: the file to write.
        frames: pictures uint8 [H, W, 3] sRGB of one size; they are taken one by one.
        seconds: how long each of them is shown.
        comment: text that the file carries.
        fixed_colours: uint8 [n, 3] sRGB, n at most 253: colours that must be shown exactly.
        replace: whether a file of this name may be replaced.

    Raises:
        TakenError: when there is a file of this name that may not be replaced.
        MediaError: when the file cannot be written, or there is no frame.
    """
    clip = ClipWriter(path, "gif", comment=comment, fixed_colours=fixed_colours, replace=replace)
    try:
        for n, frame in enumerate(frames):
            clip.write(frame, n * seconds, seconds)
        clip.finish()
    except BaseException:  # KeyboardInterrupt as well: half an animation would look like a whole one
        clip.discard()
        raise


def _put_in_place(temporary: Path, path: Path, *, replace: bool) -> None:
    """Give a finished file or folder its name. Raises TakenError where it is not free and may not be replaced."""
    if not temporary.is_dir():
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        give_name(temporary, path, replace=replace)
        return
    if os.path.lexists(path):
        if not replace or not _holds_only_frames(path):
            raise TakenError("exists, and is not replaced", item=path)
        shutil.rmtree(path)
    temporary.rename(path)  # where a folder that is not empty came in the meantime, this fails


def _holds_only_frames(path: Path) -> bool:
    """Whether a folder holds nothing but pictures that an earlier run may have written."""
    return path.is_dir() and all(file.stem.isdecimal() and file.suffix == ".png" for file in path.iterdir())


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Let Ctrl-C and what else ends a run wait until the block has ended: a frame is written whole or not at all.

    Outside the main thread this does nothing, because signals are handled only there.

    Yields:
        Nothing; when the block has ended, the signal that came is handled as usual.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in STOPPING}
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
