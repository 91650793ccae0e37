"""Clips in: every frame the right one at the right time, from every kind of file, whole or broken."""

from __future__ import annotations

import itertools
import os
import struct
import sys
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
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
    animate,
    close_to,
    counted,
    film,
    number,
    numbers,
    packets_of,
    picture,
)
from PIL import Image

from coda_cli.errors import MediaError, UsageError
from coda_cli.video import decoding, reading
from coda_cli.video.reading import ClipWriter, Reader, Selection, parse_box, parse_time, probe, read_frames

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


# ---- broken and foreign files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_a_truncated_file_gives_what_is_there_and_says_so(tmp_path: Path, name: str) -> None:
    options = {"movflags": "+faststart"} if name == "a.mp4" else {}
    path = film(tmp_path / name, counted(60), rate=Fraction(25), container=options, options={"bf": "0"})
    position, _ = packets_of(path)[40]
    path.write_bytes(path.read_bytes()[: position + 3])
    reader = Reader(path)
    assert [number(f.rgb) for f in reader] == list(range(40))
    assert reader.lost == 20
    assert any("cut off after 1.60 s" in note for note in reader.notes)
    short = Reader(path, Selection(end=1.0))
    assert (len(list(short)), short.lost, short.notes) == (25, 0, [])
    with pytest.raises(MediaError, match=r"no frame from 2 s; cut off after 1\.60 s"):
        list(read_frames(path, start=2))


@pytest.mark.parametrize("how", ["zeros", "noise", "one byte"])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_frames_lost_in_a_corrupt_middle_are_counted(tmp_path: Path, name: str, how: str) -> None:
    options = {"x264-params": "bframes=2:keyint=10:min-keyint=10:scenecut=0"}
    path = film(tmp_path / name, counted(40), rate=Fraction(25), options=options)
    data = bytearray(path.read_bytes())
    for position, size in packets_of(path)[14:17]:
        if how == "one byte":
            data[position + size // 2] ^= 0xFF
        else:
            junk = bytes(size) if how == "zeros" else np.random.default_rng(1).bytes(size)
            data[position : position + size] = junk
    path.write_bytes(data)
    reader = Reader(path)
    frames = list(reader)
    assert [f.index for f in frames if not f.damaged] == [number(f.rgb) for f in frames if not f.damaged]
    assert len(frames) + reader.lost == 40
    assert reader.lost + reader.damaged >= 3
    assert {f.index for f in frames if f.damaged} <= set(range(10, 20))  # until the next key frame, no longer
    assert [f.time for f in frames] == pytest.approx([f.index / 25 for f in frames], abs=0.0006)
    assert any("could not be decoded" in note or "damaged" in note for note in reader.notes)
    before = Reader(path, Selection(end=0.4))
    assert ([f.index for f in before], before.lost) == (list(range(10)), 0)


def broken(folder: Path) -> dict[str, tuple[Path, str]]:
    """What is no clip, and what has to be said about it."""

    def file(name: str, data: bytes) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    sound = folder / "sound.mp4"
    with av.open(str(sound), "w") as output:
        tone: Any = output.add_stream("aac", rate=48000)
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        samples.sample_rate = 48000
        output.mux(tone.encode(samples))
        output.mux(tone.encode(None))
    foreign = film(folder / "foreign.avi", counted(3), codec="mpeg4", rate=Fraction(25))
    foreign.write_bytes(foreign.read_bytes().replace(b"FMP4", b"ZZZZ"))
    headless = film(folder / "headless.mp4", counted(20))
    headless.write_bytes(headless.read_bytes().partition(b"moov")[0][:-4])
    hollow = film(folder / "hollow.mp4", counted(4), container={"movflags": "+faststart"})
    data = bytearray(hollow.read_bytes())
    for position, size in packets_of(hollow):
        data[position : position + size] = bytes(size)
    hollow.write_bytes(data)
    subtitles = b"1\n00:00:01,000 --> 00:00:02,000\nhello\n"
    return {
        "missing": (folder / "missing.mp4", "cannot be read (No such file"),
        "folder-like": (folder / "a\0b.mp4", "cannot be read"),
        "empty": (file("empty.mp4", b""), "the file is empty"),
        "text": (file("text.mp4", b"a text that calls itself a clip\n" * 9), "not a clip that can be read"),
        "subtitles": (file("t.mkv", subtitles), "no video in it, only subtitle"),
        "playlist": (file("p.mp4", b"#EXTM3U\n#EXTINF:3,\nhttp://127.0.0.1:9/a.ts\n"), "not a clip that can be read"),
        "sound": (sound, "no video in it, only audio"),
        "codec": (foreign, "no decoder for its codec, unknown, marked ZZZZ"),
        "headless": (headless, "broken"),
        "hollow": (hollow, "none of its video can be decoded"),
        "gif": (file("x.gif", b"GIF89a" + bytes(30)), "broken or truncated animation"),
        "png": (file("x.png", b"\x89PNG\r\n\x1a\n" + bytes(30)), "broken or truncated animation"),
    }


def test_what_is_no_clip_is_said_in_one_line_with_its_name(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for path, wanted in broken(tmp_path).values():
        for attempt in (lambda p=path: list(read_frames(p)), lambda p=path: probe(p)):
            with pytest.raises(MediaError) as caught:
                attempt()
            text = str(caught.value)
            assert text.startswith(f"{path}: "), text
            assert wanted in text
            assert "\n" not in text
    assert capfd.readouterr() == ("", "")


def test_names_with_colons_percent_signs_and_accents_are_names(tmp_path: Path, monkeypatch: Any) -> None:
    clip = film(tmp_path / "plain.mp4", counted(2)).read_bytes()
    monkeypatch.chdir(tmp_path)
    for name in ("a:b.mp4", "pipe:0", "http:x", "100%d.mp4", "été 1.mp4", "-i.mp4"):
        path = Path(name)
        path.write_bytes(clip)
        assert numbers(path) == [0, 1]
        with ClipWriter(path, "mp4") as writer:
            writer.write(picture(3), 0.0)
        assert numbers(path) == [3]


# ---- animations, sequences, cameras ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.gif", "a.apng", "a.webp"])
def test_an_animation_keeps_its_uneven_delays(tmp_path: Path, name: str) -> None:
    delays = [40, 120, 500, 20, 80]
    path = animate(tmp_path / name, counted(5), delays, **({"lossless": True} if name == "a.webp" else {}))
    frames = list(read_frames(path))
    assert [number(f.rgb) for f in frames] == list(range(5))
    assert [f.time for f in frames] == pytest.approx([0, 0.04, 0.16, 0.66, 0.68])
    assert [f.duration for f in frames] == pytest.approx([d / 1000 for d in delays])
    assert close_to(frames[2].rgb, picture(2), 3)
    info = probe(path)
    assert (info.width, info.height, info.frames, info.codec) == (W, H, 5, name[2:])
    assert info.duration == pytest.approx(0.76)
    assert numbers(path, start=0.16, end=0.68) == [2, 3]
    assert numbers(path, fps=4) == [0, 2, 3]


def test_delays_that_mean_nothing_are_those_of_browsers(tmp_path: Path) -> None:
    path = animate(tmp_path / "a.gif", counted(3), [10, 20, 0])
    reader = Reader(path)
    assert [f.duration for f in reader] == pytest.approx([0.1, 0.02, 0.1])
    assert reader.notes == ["delays of 10 ms or less taken as 100 ms, as browsers do"]


def test_the_stand_in_of_an_apng_is_not_a_frame(tmp_path: Path) -> None:
    path = animate(tmp_path / "a.apng", counted(4), [40, 50, 60], default_image=True)
    assert [(number(f.rgb), f.index, f.duration) for f in read_frames(path)] == [
        (1, 0, 0.04),
        (2, 1, 0.05),
        (3, 2, 0.06),
    ]


def test_transparent_frames_are_laid_on_white(tmp_path: Path) -> None:
    half = np.dstack([picture(1), np.full((H, W), 255, np.uint8)])
    half[:, 32:, 3] = 0
    whole = half.copy()
    whole[..., 3] = 128
    path = tmp_path / "a.webp"
    Image.fromarray(half).save(path, save_all=True, append_images=[Image.fromarray(whole)], duration=50, lossless=True)
    reader = Reader(path)
    first, second = (f.rgb for f in reader)
    np.testing.assert_array_equal(first[:, :32], picture(1)[:, :32])
    assert (first[:, 32:] == 255).all()
    assert np.abs(second[:, :32].astype(int) - (picture(1)[:, :32] * 128.0 + 255 * 127.0) / 255).max() <= 1
    assert reader.notes == ["transparency laid on white"]


def test_a_truncated_gif_gives_what_is_there(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (6, H, W, 3), np.uint8)
    path = animate(tmp_path / "a.gif", list(noise), [100] * 6)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])
    reader = Reader(path)
    frames = list(reader)
    assert 3 <= len(frames) < 6
    assert any("broken inside" in note for note in reader.notes)


def test_the_first_picture_of_a_sequence_may_be_broken_as_any_other(tmp_path: Path) -> None:
    for n in range(3):
        Image.new("RGB", (20, 10)).save(tmp_path / f"{n}.png")
    (tmp_path / "0.png").write_bytes(b"no picture")
    info = probe(tmp_path)
    assert (info.width, info.height, info.frames) == (20, 10, 3)
    assert len(list(read_frames(tmp_path))) == 2
    for n in range(1, 3):
        (tmp_path / f"{n}.png").write_bytes(b"nor this")
    with pytest.raises(MediaError, match=r"0\.png"):
        probe(tmp_path)


def test_a_sequence_of_pictures(tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    for k in range(12):
        Image.fromarray(picture(k)).save(folder / f"f{k + 1}.png")
    (folder / "note.txt").write_text("x")
    for source in (folder, str(folder / "f%d.png")):
        frames = list(read_frames(source))
        assert [number(f.rgb) for f in frames] == [f.index for f in frames] == list(range(12))
        assert [f.time for f in frames] == pytest.approx([k / 25 for k in range(12)])
        assert [f.time for f in read_frames(source, fps=10)] == pytest.approx([k / 10 for k in range(12)])
        assert numbers(source, fps=10, start=0.5, end=0.8) == [5, 6, 7]
        info = probe(source)
        assert (info.width, info.height, info.rate, info.frames, info.codec) == (W, H, 25, 12, "png")
    (folder / "f3.png").write_bytes(b"broken")
    Image.fromarray(picture(4, 32, 48)).save(folder / "f5.png")
    reader = Reader(folder)
    assert [(f.index, number(f.rgb)) for f in reader] == [(k, k) for k in range(12) if k not in (2, 4)]
    assert reader.lost == 2
    assert any("32 x 48 pixels, not 64 x 48" in note for note in reader.notes)
    for k in range(3):
        Image.fromarray(picture(k)).save(tmp_path / f"g{k:03d}.png")
    assert numbers(tmp_path / "g%03d.png") == [0, 1, 2]
    with pytest.raises(UsageError, match="no file's name fits"):
        list(read_frames(tmp_path / "h%03d.png"))


def test_a_camera(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cv2")
    released = []

    class Camera:
        def __init__(self, index: int) -> None:
            self.index, self.k = index, -1

        def isOpened(self) -> bool:
            return self.index == 0

        def read(self) -> tuple[bool, RGB | None]:
            self.k += 1
            return (True, picture(self.k)[..., ::-1]) if self.k < 50 else (False, None)

        def release(self) -> None:
            released.append(self.index)

    clock = itertools.count(100.0, 0.05)
    monkeypatch.setattr("cv2.VideoCapture", Camera)
    monkeypatch.setattr(reading, "monotonic", lambda: next(clock))
    frames = list(read_frames(0, end=0.42))
    assert [number(f.rgb) for f in frames] == list(range(9))
    assert [f.time for f in frames] == pytest.approx([k * 0.05 for k in range(9)])
    reader = Reader(0)
    assert len(list(reader)) == 50
    assert reader.notes == ["the camera stopped sending frames"]
    assert numbers(0, max_frames=3) == [0, 1, 2]
    with pytest.raises(MediaError, match="camera 3: cannot be opened"):
        list(read_frames(3))
    assert released == [0, 0, 0, 3]


def test_a_reader_that_is_left_early_closes_its_file(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", counted(10))
    frames = read_frames(path)
    next(frames)
    frames.close()
    if sys.platform == "linux":
        held = [Path(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
        assert path not in [fd.readlink() for fd in held if fd.exists()]


def test_hidden_frames_of_vp8_are_none() -> None:
    """Its references for later frames are packets of their own; libvpx makes them only in long clips of two passes."""

    class Packet(bytes):
        is_discard = False

    stream: Any = SimpleNamespace(codec_context=SimpleNamespace(name="vp8"))
    assert decoding._shows(Packet(b"\x10"), stream)  # type: ignore[arg-type]
    assert not decoding._shows(Packet(b"\x01"), stream)  # type: ignore[arg-type]
