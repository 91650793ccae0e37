"""Clips in: every frame the right one at the right time, and just those that are asked for."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from films import (
    FILM,
    UNEVEN,
    H,
    W,
    close_to,
    counted,
    film,
    number,
    numbers,
    picture,
)

from coda_cli.errors import MediaError, UsageError
from coda_cli.video import decoding
from coda_cli.video.reading import Reader, Selection, parse_box, parse_time, probe, read_frames

# ---- reading: order, times, looks ------------------------------------------------------------------------------------


def test_frames_of_film_with_b_frames_and_sound_come_in_the_order_of_showing(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", counted(20), sound="aac", options={"bf": "3"})
    with av.open(str(path)) as container:
        stamps = [p.pts for p in container.demux(video=0) if p.pts is not None]
    assert stamps != sorted(stamps)  # B-frames are in it, or this test shows nothing
    reader = Reader(path)
    frames = list(reader)
    assert [number(f.rgb) for f in frames] == [f.index for f in frames] == list(range(20))
    assert [f.time for f in frames] == pytest.approx([k * 1001 / 24000 for k in range(20)], abs=1e-9)
    assert [f.pts for f in frames] == sorted(stamps)
    assert all(close_to(f.rgb, picture(f.index)) for f in frames)
    assert (reader.lost, reader.damaged, reader.notes) == (0, 0, [])
    info = probe(path)
    assert (info.width, info.height, info.rate, info.frames, info.codec) == (W, H, FILM, 20, "h264")
    assert info.has_audio
    assert info.duration == pytest.approx(20 * 1001 / 24000, abs=1e-3)


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv"])
def test_a_variable_rate_keeps_its_times(tmp_path: Path, name: str) -> None:
    path = film(tmp_path / name, counted(10), UNEVEN)
    frames = list(read_frames(path))
    assert [number(f.rgb) for f in frames] == list(range(10))
    assert [f.time for f in frames] == pytest.approx(UNEVEN, abs=0.0006 if name == "a.mkv" else 1e-9)


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.webm", "libvpx-vp9"), ("a.webm", "libvpx"), ("a.avi", "mpeg4"), ("a.mkv", "ffv1"), ("a.mov", "mjpeg")],
)
def test_other_containers_and_codecs(tmp_path: Path, name: str, codec: str) -> None:
    pixels = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    options = {"bf": "2"} if codec == "mpeg4" else {"auto-alt-ref": "1", "lag-in-frames": "8"} if "vpx" in codec else {}
    path = film(tmp_path / name, counted(20), codec=codec, rate=Fraction(25), pixels=pixels, options=options)
    reader = Reader(path)
    frames = list(reader)
    assert [number(f.rgb) for f in frames] == [f.index for f in frames] == list(range(20))
    assert [f.time for f in frames] == pytest.approx([k / 25 for k in range(20)], abs=0.0006)
    assert (reader.lost, reader.notes) == (0, [])


def test_a_bare_stream_without_times_is_given_its_rate(tmp_path: Path) -> None:
    path = film(tmp_path / "a.h264", counted(12), rate=Fraction(25))
    reader = Reader(path)
    frames = list(reader)
    assert [number(f.rgb) for f in frames] == list(range(12))
    assert [f.time for f in frames] == pytest.approx([k / 25 for k in range(12)])
    assert [f.pts for f in frames] == [None] * 12
    assert reader.notes == ["no time stamps in it: taken as 25 frames a second"]


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_a_turned_clip_stands_upright(tmp_path: Path, turns: int) -> None:
    """Stored lying, marked as to be turned counter-clockwise ``turns`` times."""
    lying = [np.rot90(rgb, -turns) for rgb in counted(5)]
    path = film(tmp_path / "a.mp4", lying, turn=90 * turns)
    reader = Reader(path)
    frames = list(reader)
    assert all(close_to(f.rgb, picture(f.index)) for f in frames)
    assert len(frames) == 5
    assert reader.notes == (["turned by its rotation metadata"] if turns else [])
    assert (probe(path).width, probe(path).height) == (W, H)


def test_the_matrix_that_telephones_write_puts_the_first_pixel_at_the_top_right(tmp_path: Path) -> None:
    """By the letter of the QuickTime format: x' = a x + c y + tx, y' = b x + d y + ty."""
    path = film(tmp_path / "a.mp4", [picture(9)] * 3)
    data = path.read_bytes()
    place = data.index(struct.pack(">9i", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000), data.index(b"tkhd"))
    a, b, c, d, tx, ty = 0, 1, -1, 0, H, 0
    matrix = [a << 16, b << 16, 0, c << 16, d << 16, 0, tx << 16, ty << 16, 0x40000000]
    path.write_bytes(data[:place] + struct.pack(">9i", *matrix) + data[place + 36 :])
    shown = next(read_frames(path)).rgb
    assert shown.shape == (W, H, 3)
    for x, y in [(2, 2), (W - 3, 2), (2, H - 3), (20, 10), (50, 40)]:
        x_shown, y_shown = a * (x + 0.5) + c * (y + 0.5) + tx, b * (x + 0.5) + d * (y + 0.5) + ty
        assert np.abs(shown[int(y_shown), int(x_shown)].astype(int) - picture(9)[y, x]).max() < 30, (x, y)


def test_ten_bits_become_eight(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mkv", counted(6), codec="ffv1", pixels="yuv420p10le")
    reader = Reader(path)
    assert all(close_to(f.rgb, picture(f.index)) for f in reader)
    assert reader.notes == ["10-bit converted to 8"] == list(probe(path).notes)


def test_pixels_that_are_not_square_are_said(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", counted(3), shape=Fraction(16, 15))
    assert probe(path).notes == ("its pixels are not square (16:15): shown as they are stored",)
    assert probe(film(tmp_path / "b.mp4", counted(3), shape=Fraction(1))).notes == ()


def test_odd_sizes_stay_odd(tmp_path: Path) -> None:
    path = film(tmp_path / "a.webm", counted(5, width=67, height=51), codec="libvpx-vp9")
    frames = list(read_frames(path))
    assert {f.rgb.shape for f in frames} == {(51, 67, 3)}
    assert [number(f.rgb) for f in frames] == list(range(5))


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", [1, 5, 6])  # BT.709, BT.601 in its two writings
def test_the_stated_matrix_and_range_give_the_true_colours(tmp_path: Path, matrix: int, full: bool) -> None:
    colour = np.empty((H, W, 3), np.uint8)
    colour[:] = (210, 60, 20)
    path = film(tmp_path / "a.mp4", [colour], matrix=matrix, full=full, options={"crf": "4"})
    rgb = next(read_frames(path)).rgb
    assert np.abs(rgb.astype(int) - colour).max() <= 3


@pytest.mark.parametrize(("width", "height", "matrix"), [(64, 48, 5), (1280, 16, 1), (32, 592, 1)])
def test_an_unstated_matrix_is_taken_by_size(tmp_path: Path, width: int, height: int, matrix: int) -> None:
    colour = np.empty((height, width, 3), np.uint8)
    colour[:] = (210, 60, 20)
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as output:
        stream: Any = output.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        frame = av.VideoFrame.from_ndarray(colour, format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace=matrix, dst_color_range=1)
        frame.colorspace = 2
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    assert np.abs(next(read_frames(path)).rgb.astype(int) - colour).max() <= 3


def test_sound_as_the_first_stream_and_a_single_frame(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mkv", [picture(5)], sound="aac", sound_first=True)
    with av.open(str(path)) as container:
        assert container.streams[0].type == "audio"
    (frame,) = read_frames(path)
    assert (number(frame.rgb), frame.index, frame.time) == (5, 0, 0.0)
    assert probe(path).has_audio


# ---- which frames ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"x264-params": "open-gop=1:bframes=3:keyint=12:min-keyint=12"}])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_a_start_that_is_sought_gives_what_decoding_everything_gives(
    tmp_path: Path, name: str, options: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"g": "12", "bf": "2"} | options
    path = film(tmp_path / name, counted(100), rate=Fraction(25), options=options)
    everything = list(read_frames(path))
    assert [number(f.rgb) for f in everything] == list(range(100))
    jumps = []
    key_frame_before = decoding._key_frame_before

    def watched(*args: Any) -> Any:
        jumps.append(key_frame_before(*args))
        return jumps[-1]

    monkeypatch.setattr(decoding, "_key_frame_before", watched)
    for start, end in [(0.52, 0.7), (1.0, 1.2), (2.0, 2.04), (3.37, 3.9), (3.96, None)]:
        reader = Reader(path, Selection(start=start, end=end))
        found = [(f.index, f.time, f.pts, number(f.rgb)) for f in reader]
        wanted = [f for f in everything if f.time >= start - 1e-6 and (end is None or f.time < end - 1e-6)]
        assert found == [(f.index, f.time, f.pts, f.index) for f in wanted]
        assert (reader.lost, reader.notes) == (0, [])
    if name != "a.ts":
        assert max(key.index for key in jumps if key) >= 60  # it was a leap and no walk


def test_end_every_and_max_frames(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", counted(20), rate=Fraction(25))
    assert numbers(path, end=0.2) == [0, 1, 2, 3, 4]
    assert numbers(path, start=0.08, end=0.2) == [2, 3, 4]
    assert numbers(path, every=6) == [0, 6, 12, 18]
    assert numbers(path, start=0.04, every=6) == [1, 7, 13, 19]
    assert numbers(path, every=3, max_frames=2) == [0, 3]


def test_fps_takes_the_nearest_frames_and_invents_none(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", counted(20), rate=Fraction(30))
    assert numbers(path, fps=30) == list(range(20))
    assert numbers(path, fps=60) == list(range(20))
    assert numbers(path, fps=10) == [0, 3, 6, 9, 12, 15, 18]
    twenty = list(read_frames(path, fps=20))
    assert len(twenty) == 13  # two of three; a tick half-way between two frames takes one of them, never both
    for k in range(13):
        assert min(abs(f.time - k / 20) for f in twenty) <= 0.5 / 30 + 1e-6
    assert [f.time for f in twenty] == pytest.approx([number(f.rgb) / 30 for f in twenty])
    uneven = film(tmp_path / "b.mp4", counted(10), UNEVEN)
    assert numbers(uneven, fps=5) == [0, 3, 6, 7, 8, 9]  # nearest to 0, .2, .4 (.3 and .5 tie) and .6, .8, 1, 1.2


@pytest.mark.parametrize("box", [(0.25, 0.5, 0.75, 1.0), (16, 24, 48, 48)])
def test_a_box_is_cut_out(tmp_path: Path, box: tuple[float, float, float, float]) -> None:
    path = film(tmp_path / "a.mkv", counted(3), codec="ffv1", pixels="bgr0")
    for frame in read_frames(path, box=box):
        np.testing.assert_array_equal(frame.rgb, picture(frame.index)[24:48, 16:48])


def test_what_cannot_be_meant_is_a_usage_error(tmp_path: Path) -> None:
    for wrong in ({"start": -1}, {"start": 2, "end": 2}, {"end": 0}, {"every": 0}, {"fps": 0}, {"max_frames": 0}):
        with pytest.raises(UsageError):
            Selection(**wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="one of them"):
        Reader("a.mp4", Selection(every=2, fps=5))
    path = film(tmp_path / "a.mp4", counted(3))
    with pytest.raises(UsageError, match="beyond the picture of 64 x 48"):
        list(read_frames(path, box=(0, 0, 65, 10)))
    with pytest.raises(MediaError, match=r"a\.mp4: no frame from 9 s"):
        list(read_frames(path, start=9))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("10", 10), ("2.5", 2.5), (".5", 0.5), ("00:02:53.6", 173.6), ("1:20", 80), ("2:00:00", 7200), (" 3 ", 3)],
)
def test_times(text: str, seconds: float) -> None:
    assert parse_time(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "x", "-1", "1:", ":30", "1:60", "1:2:3:4", "1e3", "nan", "1,5", "0:1.5:2", "٣x"])
def test_no_times(text: str) -> None:
    with pytest.raises(UsageError, match="is not a time"):
        parse_time(text)


def test_boxes() -> None:
    assert parse_box("0,0,0.5,1", (64, 48)) == (0, 0, 32, 48)
    assert parse_box("0, 0.5, 1, 1", (65, 49)) == (0, 24, 65, 49)
    assert parse_box("10,20,30,48", (64, 48)) == (10, 20, 30, 48)
    assert parse_box("0,0,0.5,1") == (0, 0, 0.5, 1)
    for text in ("", "0,0,1", "a,b,c,d", "0,0,nan,1", "0.5,0,0.5,1", "1,0,0,1", "-1,0,5,5", "0,0,inf,9", "0,1,0,1"):
        with pytest.raises(UsageError, match="box"):
            parse_box(text, (64, 48))
    for text in ("0,0,65,48", "0,0,0.001,1", "60,40,64.2,49"):
        with pytest.raises(UsageError, match="picture of 64 x 48"):
            parse_box(text, (64, 48))


def test_frames_that_an_edit_list_hides_are_not_there(tmp_path: Path) -> None:
    """A clip trimmed on a telephone: the first frames stay in the file, for the decoder, and are not to be shown."""
    path = film(tmp_path / "a.mp4", counted(40), rate=Fraction(25), options={"g": "20", "bf": "0"})
    data = bytearray(path.read_bytes())
    place = data.index(b"elst") + 12
    length, first = struct.unpack(">ii", data[place : place + 8])
    with av.open(str(path)) as container:
        tick = container.streams.video[0].time_base
    data[place : place + 8] = struct.pack(">ii", length - 200, first + round(5 / 25 / tick))
    path.write_bytes(data)
    reader = Reader(path)
    assert [(f.index, number(f.rgb)) for f in reader] == [(k, k + 5) for k in range(35)]
    assert (reader.lost, reader.notes) == (0, [])
    assert [number(f.rgb) for f in read_frames(path, start=1.0, end=1.2)] == [30, 31, 32, 33, 34]
