"""Clips out: every written file is read back, has its true times, and is there whole or not at all."""

from __future__ import annotations

import os
import signal
import sys
import tracemalloc
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from films import (
    FILM,
    RGB,
    UNEVEN,
    H,
    W,
    close_to,
    counted,
    film,
    largest_file,
    length_of,
    number,
    numbers,
    picture,
    write,
)
from numpy.typing import NDArray

from coda_cli.errors import MediaError, UsageError
from coda_cli.video import encoders
from coda_cli.video.reading import ClipWriter, kind_of, read_frames

# ---- writing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mp4", "webm", "gif", "webp"])
@pytest.mark.parametrize("times", ["uneven", "film", "ntsc"])
def test_what_is_written_is_read_back(tmp_path: Path, kind: str, times: str) -> None:
    rates = {"film": FILM, "ntsc": Fraction(30000, 1001)}
    rate = rates.get(times)
    # 10 ms are more than browsers show of an animation.
    uneven = [t for t in UNEVEN if kind not in ("gif", "webp") or t != 0.21]
    moments = [float(k / rate) for k in range(20)] if rate else uneven
    last = float(1 / rate) if rate else 0.33
    path = tmp_path / f"a.{kind}"
    writer = write(path, counted(len(moments)), moments, last, rate=rate)
    assert (writer.frames, writer.dropped, writer.notes) == (len(moments), 0, [])
    frames = list(read_frames(path))
    assert [number(f.rgb) for f in frames] == list(range(len(moments)))
    grid = {"mp4": 1e-9 if rate else 1e-5, "webm": 0.0006, "gif": 0.00501, "webp": 0.0006}[kind]
    assert [f.time for f in frames] == pytest.approx(moments, abs=grid)
    assert length_of(path, kind) == pytest.approx(moments[-1] + last, abs=max(grid, 1e-4))
    assert all(close_to(f.rgb, picture(f.index), 5) for f in frames)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask()


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_times_need_not_start_at_zero(tmp_path: Path) -> None:
    for kind in ("mp4", "gif"):
        path = tmp_path / f"a.{kind}"
        write(path, counted(4), [7.5, 7.6, 7.8, 7.9], 0.2)
        assert [f.time for f in read_frames(path)] == pytest.approx([0, 0.1, 0.3, 0.4], abs=1e-4)
        assert length_of(path, kind) == pytest.approx(0.6, abs=1e-4)


def test_the_last_frame_lasts_as_long_as_the_one_before_unless_said(tmp_path: Path) -> None:
    for kind in ("mp4", "gif", "webp"):
        path = tmp_path / f"a.{kind}"
        write(path, counted(3), [0, 1.0, 1.1])
        assert length_of(path, kind) == pytest.approx(1.2, abs=1e-3)
    write(tmp_path / "b.gif", counted(1), [0], rate=Fraction(10))
    write(tmp_path / "b.mp4", counted(1), [0], rate=Fraction(10))
    assert length_of(tmp_path / "b.mp4", "mp4") == pytest.approx(0.1, abs=1e-3)


def test_an_mp4_plays_in_a_browser(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    write(path, counted(10), [k / 25 for k in range(10)], rate=Fraction(25))
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # the index comes first
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        context = stream.codec_context
        assert (context.colorspace, context.color_primaries, context.color_trc, context.color_range) == (1, 1, 1, 1)
        assert stream.average_rate == 25


@pytest.mark.parametrize("kind", ["mp4", "webm", "gif", "webp"])
def test_odd_sizes_are_padded_with_their_edge_only_where_they_must(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    write(path, counted(4, width=67, height=51), [k / 10 for k in range(4)])
    frame = list(read_frames(path))[2]
    even = kind in ("mp4", "webm")
    assert frame.rgb.shape == ((52, 68, 3) if even else (51, 67, 3))
    assert close_to(frame.rgb[:51, :67], picture(2, 67, 51))
    if even:
        assert np.abs(frame.rgb[:, 67].astype(int) - frame.rgb[:, 66]).mean() < 8


def test_one_frame_makes_a_clip_of_every_kind(tmp_path: Path) -> None:
    for kind in ("mp4", "webm", "gif", "webp"):
        write(tmp_path / f"a.{kind}", [picture(77)], [3.0], 0.5)
        assert numbers(tmp_path / f"a.{kind}") == [77]
    assert length_of(tmp_path / "a.mp4", "mp4") == pytest.approx(0.5, abs=1e-4)


def test_numbered_pictures(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    write(folder, counted(3), [0, 0.1, 0.1])
    assert sorted(p.name for p in folder.iterdir()) == ["000000.png", "000001.png", "000002.png"]
    for frame in read_frames(folder):
        np.testing.assert_array_equal(frame.rgb, picture(frame.index))
    write(folder, counted(2), [0, 0.1])  # a second run replaces the first one's frames
    assert sorted(p.name for p in folder.iterdir()) == ["000000.png", "000001.png"]
    (folder / "mine.txt").write_text("x")
    with pytest.raises(MediaError, match="is not a folder of numbered frames"):
        ClipWriter(folder)
    assert (folder / "mine.txt").exists()


def samples_of(path: Path) -> NDArray[np.float64]:
    with av.open(str(path)) as container:
        return np.concatenate([f.to_ndarray().mean(0) for f in container.decode(audio=0)]).astype(float)


@pytest.mark.parametrize(
    ("kind", "sound", "written"),
    [("mp4", "aac", "aac"), ("mp4", "pcm_s16le", "aac"), ("webm", "aac", "opus"), ("webm", "libopus", "opus")],
)
def test_the_sound_goes_along_cut_to_the_frames(tmp_path: Path, kind: str, sound: str, written: str) -> None:
    source = film(tmp_path / "s.mkv", counted(100), rate=Fraction(25), sound=sound)
    path = tmp_path / f"a.{kind}"
    with ClipWriter(path, rate=Fraction(25), audio=source) as writer:
        for frame in read_frames(source, start=1.0, end=3.0):
            writer.write(frame.rgb, frame.time)
    assert writer.notes == []
    assert [number(f.rgb) for f in read_frames(path)] == list(range(25, 75))
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        assert stream.codec_context.name == written
        packets = [(float(p.pts * p.time_base), bytes(p)) for p in container.demux(audio=0) if p.pts is not None]
    with av.open(str(source)) as container:
        originals = {bytes(p) for p in container.demux(audio=0)}
    times = [time for time, _ in packets]
    if sound.removeprefix("lib") == written:
        assert {data for _, data in packets} <= originals  # copied, not encoded a second time
    assert -0.03 < times[0] < 0.03
    assert 1.9 < times[-1] < 2.01
    sounding = samples_of(path)
    assert len(sounding) / 48000 == pytest.approx(2.0, abs=0.05)
    for moment in (0.3, 1.0, 1.6):  # as loud as the source is a second later
        window = sounding[int((moment - 0.02) * 48000) : int((moment + 0.02) * 48000)]
        assert np.abs(window).max() == pytest.approx(0.2 * (moment + 1), rel=0.06)
    assert length_of(path, kind) == pytest.approx(2.0, abs=0.03)


def test_no_sound_is_said(tmp_path: Path) -> None:
    source = film(tmp_path / "s.mp4", counted(5))
    writer = write(tmp_path / "a.mp4", counted(3), [0, 0.1, 0.2], audio=source)
    assert writer.notes == [f"without sound: {source}: has no sound that can be decoded"]
    assert numbers(tmp_path / "a.mp4") == [0, 1, 2]


def test_an_unknown_suffix_names_the_known_ones() -> None:
    assert [kind_of(Path(f"x.{k}")) for k in ("mp4", "WEBM", "gif", "webp")] == ["mp4", "webm", "gif", "webp"]
    assert kind_of(Path("frames")) == "png"
    for name in ("x.avi", "x.png", "x.mp5"):
        with pytest.raises(UsageError, match=r"\.mp4, \.webm, \.gif or \.webp"):
            kind_of(Path(name))


# ---- all or nothing --------------------------------------------------------------------------------------------------


def write_until(path: Path, pictures: Sequence[RGB], error: BaseException) -> None:
    """Ten frames a second, and then the error."""
    with ClipWriter(path) as writer:
        for k, rgb in enumerate(pictures):
            writer.write(rgb, k / 10)
        assert any(file.name.startswith(".coda-") for file in path.parent.iterdir())
        raise error


EVERY_KIND = ("a.mp4", "a.webm", "a.gif", "a.webp", "a")


@pytest.mark.parametrize("name", EVERY_KIND)
def test_after_an_error_nothing_is_left(tmp_path: Path, name: str) -> None:
    with pytest.raises(ZeroDivisionError):
        write_until(tmp_path / name, counted(5), ZeroDivisionError())
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(MediaError, match="no frame to write"), ClipWriter(tmp_path / name):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", EVERY_KIND)
def test_after_ctrl_c_the_frames_so_far_are_a_valid_clip(tmp_path: Path, name: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        write_until(tmp_path / name, counted(12), KeyboardInterrupt())
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert numbers(tmp_path / name) == list(range(12))


def test_ctrl_c_between_the_encoder_and_the_file_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame_of = encoders.Video._frame

    def interrupted(self: Any, rgb: RGB, at: int) -> Any:
        if number(rgb) == 5:
            signal.raise_signal(signal.SIGINT)
        return frame_of(self, rgb, at)

    monkeypatch.setattr(encoders.Video, "_frame", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_until(tmp_path / "a.mp4", counted(20), AssertionError("not interrupted"))
    assert numbers(tmp_path / "a.mp4") == list(range(6))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_older_file_survives_a_failed_run(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    write(path, counted(3), [0, 0.1, 0.2])
    with pytest.raises(ValueError, match="one size"):
        write(path, [picture(0), picture(0, 32, 32)], [0, 1])
    assert numbers(path) == [0, 1, 2]


@pytest.mark.parametrize("name", EVERY_KIND)
def test_a_full_disk_is_said_and_nothing_is_left(tmp_path: Path, name: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (12, H, W, 3), np.uint8)
    wanted = r"a(\.\w+)?: cannot be written \(File too large\)"
    with largest_file(6000), pytest.raises(MediaError, match=wanted):
        write(tmp_path / name, list(noise), [k / 10 for k in range(12)])
    assert list(tmp_path.iterdir()) == []


def test_folders_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="does not exist"):
        ClipWriter(tmp_path / "no" / "a.mp4")
    (tmp_path / "a.gif").mkdir()
    with pytest.raises(MediaError, match=r"a\.gif: cannot be written"):
        write(tmp_path / "a.gif", counted(2), [0, 0.1])
    assert [p.name for p in tmp_path.iterdir()] == ["a.gif"]


# ---- memory ----------------------------------------------------------------------------------------------------------


def resident() -> int:
    """Bytes of this process in memory now, libav's included."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("kind", ["mp4", "gif"])
def test_memory_does_not_grow_with_the_length(tmp_path: Path, kind: str) -> None:
    size = {"width": 320, "height": 240}  # 230 kB a frame: 300 of them would be 69 MB
    source = film(tmp_path / "s.mp4", [picture(k % 256, **size) for k in range(300)], rate=Fraction(25))
    levels = []
    tracemalloc.start()
    try:
        with ClipWriter(tmp_path / f"a.{kind}") as writer:
            for frame in read_frames(source):
                writer.write(frame.rgb, frame.time)
                levels.append(resident())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    levels.append(resident())
    assert writer.frames == 300
    assert peak < 8_000_000
    assert max(levels[100:]) - max(levels[50:100]) < 20_000_000
