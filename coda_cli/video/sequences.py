"""Clips that lie on the disk as single pictures: a folder, or a printf pattern such as frame%04d.png."""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coda_cli.errors import MediaError, UsageError
from coda_cli.media.sources import resolve
from coda_cli.media.stills import read_image
from coda_cli.video.decoding import ClipInfo, CodedFrame, DecodingLog

SEQUENCE_RATE = 25.0  # pictures a second of a sequence whose rate is not given

_NUMBER = re.compile(r"%0?(\d*)d")


def is_sequence(source: str | Path) -> bool:
    """Decide whether a path stands for many pictures.

    Args:
        source: the path.

    Returns:
        Whether it is a folder, or a pattern that is not itself the name of a file.
    """
    path = Path(source)
    return path.is_dir() or bool(_NUMBER.search(path.name) and not path.exists())


def sequence_frames(source: str | Path, rate: float, log: DecodingLog) -> Generator[CodedFrame]:
    """Read the pictures of a sequence.

    A picture that cannot be read, or has another size than the first, is a lost frame: no frame is shown at its time.

    Args:
        source: a folder or a printf pattern.
        rate: pictures a second.
        log: what is lost or changed is added to it.

    Yields:
        One frame for each picture.

    Raises:
        UsageError: when there is no such picture.
    """
    shape: tuple[int, ...] = ()
    for index, file in enumerate(_files_of(source)):
        time = index / rate
        try:
            picture = read_image(file)
        except MediaError as error:
            log.lose(1, time)
            log.note(str(error))
            continue
        shape = shape or picture.rgb.shape
        if picture.rgb.shape != shape:
            height, width, _ = picture.rgb.shape
            log.lose(1, time)
            log.note(f"{file}: {width} x {height} pixels, not {shape[1]} x {shape[0]} as the first: left out")
            continue
        for note in picture.notes:
            log.note(note)

        def colours(rgb: NDArray[np.uint8] = picture.rgb) -> NDArray[np.uint8]:
            return rgb

        yield CodedFrame(index, None, time, 1 / rate, False, colours)


def sequence_info(source: str | Path, rate: float) -> ClipInfo:
    """Find out what a sequence of pictures is, from its first picture.

    Args:
        source: a folder or a printf pattern.
        rate: pictures a second.

    Returns:
        Its size, rate, length and number of pictures.

    Raises:
        UsageError: when there is no such picture.
        MediaError: when no picture of it can be read.
    """
    files = _files_of(source)
    height, width = _first_readable(files).shape[:2]
    exact_rate = Fraction(rate).limit_denominator(1001)
    suffix = files[0].suffix.lstrip(".")
    length = float(len(files) / exact_rate)
    return ClipInfo(str(source), width, height, exact_rate, length, len(files), suffix, False)


def _files_of(source: str | Path) -> list[Path]:
    """The files of a folder, or of a printf pattern, in the order of their numbers. Raises UsageError for none."""
    path = Path(source)
    if path.is_dir():
        return [item.path for item in resolve([str(source)])]
    before, digits, after = _NUMBER.split(path.name, maxsplit=1)
    name = re.compile(rf"{re.escape(before)}(\d{{{digits or 1},}}){re.escape(after)}")
    try:
        found = [(match, file) for file in path.parent.iterdir() if (match := name.fullmatch(file.name))]
    except OSError as error:
        raise UsageError(f"cannot be read ({error.strerror})", item=source) from error
    if not found:
        raise UsageError("no file's name fits this pattern", item=source)
    return [file for _, file in sorted(found, key=lambda pair: int(pair[0][1]))]


def _first_readable(files: Sequence[Path]) -> NDArray[np.uint8]:
    """The first picture that can be read; raises the MediaError of the first file where none can."""
    first: MediaError | None = None
    for file in files:
        try:
            return read_image(file).rgb
        except MediaError as error:
            first = first or error
    assert first is not None
    raise first
