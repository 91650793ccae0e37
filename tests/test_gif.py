"""GIF: colours that mean something are kept exactly, a long one does not fill the memory, and it carries a comment."""

from __future__ import annotations

import os
import sys
import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from films import (
    RGB,
    H,
    W,
    counted,
    length_of,
    write,
)
from PIL import Image

from coda_cli.errors import MediaError
from coda_cli.media.carried import read_gif_text
from coda_cli.render.colour import TABLE
from coda_cli.video.gif import MOST_FIXED, Gif
from coda_cli.video.reading import read_frames
from coda_cli.video.writing import ClipWriter, write_gif

BAR = np.concatenate([TABLE[::10], np.full((1, 3), 254, np.uint8)])


def noise(count: int, height: int = 60, width: int = 90) -> list[RGB]:
    """Photographs at their worst: every pixel another colour."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in range(count)]


def shown(path: Path) -> Iterator[tuple[RGB, dict[str, object]]]:
    """Every frame as Pillow shows it, with what the file says of it."""
    with Image.open(path) as image:
        for n in range(getattr(image, "n_frames", 1)):
            image.seek(n)
            yield np.asarray(image.convert("RGB")), dict(image.info)


def palette_of(path: Path) -> set[tuple[int, ...]]:
    """The colours of a GIF's one palette, read from its bytes."""
    data = path.read_bytes()
    count = 2 << (data[10] & 7)
    return {tuple(data[13 + 3 * n : 16 + 3 * n]) for n in range(count)}


def test_a_gif_keeps_the_colours_that_mean_something(tmp_path: Path) -> None:
    """A bar of a few pixels beside a photograph of thousands of colours: a palette of the pictures alone loses it."""
    frames = noise(3)
    for frame in frames:
        frame[:, :8] = 255
        frame[:52, 2] = TABLE[::10]
        frame[:, 5] = 254  # beside white, but not white
    path = tmp_path / "a.gif"
    write_gif(path, frames, 0.5, "said", BAR)
    found = list(shown(path))
    assert len(found) == 3
    for frame, (rgb, info) in zip(frames, found, strict=True):
        assert (info["duration"], info["loop"]) == (500, 0)
        np.testing.assert_array_equal(rgb[:, :8], frame[:, :8])
        assert np.abs(rgb.astype(int) - frame).mean() < 25  # the rest, in the two hundred colours that are left
    assert {tuple(colour) for colour in BAR.tolist()} <= palette_of(path)
    assert read_gif_text(path) == "said"
    assert [file.name for file in tmp_path.iterdir()] == ["a.gif"]


@pytest.mark.parametrize("count", [0, 1, 129, MOST_FIXED])
def test_fixed_colours_are_in_the_file_whether_or_not_a_picture_has_them(tmp_path: Path, count: int) -> None:
    rng = np.random.default_rng(1)
    fixed = np.unique(rng.integers(0, 256, (400, 3), dtype=np.uint8), axis=0)[:count]
    path = tmp_path / "a.gif"
    with ClipWriter(path, fixed_colours=fixed) as clip:
        for n, frame in enumerate(noise(2)):
            clip.write(frame, n / 10)
    assert {tuple(colour) for colour in fixed.tolist()} <= palette_of(path)
    assert len(list(shown(path))) == 2


def test_more_fixed_colours_than_there_is_room_for_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="254 fixed colours; a GIF has room for at most 253"):
        Gif(tmp_path / "a.gif", (8, 8), fixed_colours=np.stack([np.arange(254, dtype=np.uint8)] * 3, 1))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("loop", [True, False])
@pytest.mark.parametrize("length", [0, 1, 255, 256, 70_000])
def test_a_comment_is_read_back_whatever_its_length(tmp_path: Path, length: int, loop: bool) -> None:
    path, plain = tmp_path / "a.gif", tmp_path / "plain.gif"
    text = ("{«ü»" * length)[:length]
    for name, comment in ((path, text), (plain, "")):
        with ClipWriter(name, loop=loop, comment=comment) as clip:
            for n, frame in enumerate(noise(3)):
                clip.write(frame, n / 10)
    assert (read_gif_text(path) or "") == text
    for (one, info), (other, expected) in zip(shown(path), shown(plain), strict=True):
        np.testing.assert_array_equal(one, other)
        assert {**info, "comment": 0} == {**expected, "comment": 0}
    assert (b"NETSCAPE2.0" in path.read_bytes()) == loop


def test_nothing_is_left_of_an_animation_that_is_interrupted(tmp_path: Path) -> None:
    """A clip that is interrupted is the shorter clip; half an animation over depth would look like a whole one."""

    def frames(error: type[BaseException]) -> Iterator[RGB]:
        yield from noise(2)
        raise error

    for error in (KeyboardInterrupt, RuntimeError):
        with pytest.raises(error):
            write_gif(tmp_path / "a.gif", frames(error), 0.5, "said", BAR)
    with pytest.raises(MediaError, match="no frame to write"):
        write_gif(tmp_path / "a.gif", [], 0.5, "said", BAR)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_long_animation_streams(tmp_path: Path) -> None:
    """Frames are taken one by one and spooled: 300 of them would be 69 MB."""
    base, levels = noise(1, 240, 320)[0] // 16 * 16, []

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def frames() -> Iterator[RGB]:
        for k in range(300):
            yield np.roll(base, k, 1)
            levels.append(resident())

    tracemalloc.start()
    try:
        write_gif(tmp_path / "a.gif", frames(), 0.05, "said", BAR)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    levels.append(resident())
    assert peak < 8_000_000
    assert max(levels[100:]) - max(levels[50:100]) < 20_000_000
    assert sum(1 for _ in shown(tmp_path / "a.gif")) == 300


def test_gif_delays_add_up_and_frames_beyond_fifty_a_second_go(tmp_path: Path) -> None:
    path = tmp_path / "a.gif"
    write(path, counted(100), [k / 30 for k in range(100)])
    assert length_of(path, "gif") == pytest.approx(100 / 30, abs=0.01)  # truncated delays would make it 3.0
    writer = write(path, counted(60), [k / 60 for k in range(60)])
    assert length_of(path, "gif") == pytest.approx(1.0, abs=0.01)
    assert writer.frames + writer.dropped == 60
    assert writer.dropped > 10
    assert writer.notes == [f"{writer.dropped} frames dropped: gif cannot show them that fast"]
    with Image.open(path) as image:
        assert image.info["loop"] == 0
        for index in range(getattr(image, "n_frames", 1)):
            image.seek(index)
            assert image.info["duration"] >= 20


def test_a_gif_has_one_good_palette(tmp_path: Path) -> None:
    """As near to the frames as Pillow's own quantisation of each; rgb8, libav's default, is five times farther off."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:H, :W]
    base = np.stack([x * 4, y * 5, 255 - x * 2 - y], -1).clip(0, 255) + rng.integers(-8, 9, (H, W, 3))
    pictures = [np.roll(base, k, 1).clip(0, 255).astype(np.uint8) for k in range(8)]
    path = tmp_path / "a.gif"
    write(path, pictures, [k / 10 for k in range(8)])

    def error(found: Sequence[RGB]) -> float:
        return float(
            np.mean([((a.astype(float) - b) ** 2).mean() for a, b in zip(found, pictures, strict=True)]) ** 0.5
        )

    ours = error([f.rgb for f in read_frames(path)])
    pillow = error([np.asarray(Image.fromarray(p).quantize(256).convert("RGB")) for p in pictures])
    assert ours < 1.5 * pillow
