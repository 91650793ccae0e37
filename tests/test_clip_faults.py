"""Clips that are not what they seem: how they are shown, what is counted as lost, what a written clip must hold."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.video.reformatter import VideoReformatter
from films import H, W, animate, close_to, counted, film, length_of, number, numbers, packets_of, picture, write
from PIL import Image

from coda_cli.errors import MediaError
from coda_cli.explanation.clip.run import _with_durations
from coda_cli.media.stills import read_image
from coda_cli.video import colours, sound
from coda_cli.video.checking import held_in, verify
from coda_cli.video.reading import ClipWriter, Reader, Selection, probe, read_frames

# ---- how clips are shown ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("mirrored", [False, True])
def test_all_eight_orientations_stand_upright(tmp_path: Path, turns: int, mirrored: bool) -> None:
    upright = picture(9)
    # Stored so that turning counter-clockwise, then exchanging left and right, brings it back.
    stored = np.ascontiguousarray(np.rot90(upright[:, ::-1] if mirrored else upright, -turns))
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as output:
        stream: Any = output.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = *stored.shape[:2], "yuv420p"
        stream.set_display_rotation(90 * turns, hflip=mirrored)
        output.mux(stream.encode(av.VideoFrame.from_ndarray(stored, format="rgb24")))
        output.mux(stream.encode(None))
    reader = Reader(path)
    (frame,) = reader
    assert close_to(frame.rgb, upright)
    assert (probe(path).width, probe(path).height) == (W, H)
    assert any("mirrored" in note for note in reader.notes) == mirrored
    assert bool(reader.notes) == (mirrored or turns > 0)


def test_a_turn_beside_data_that_pyav_does_not_know_is_kept() -> None:
    def unknown(_: str) -> None:
        raise ValueError("no such kind")

    frame: Any = type("Frame", (), {"side_data": type("Data", (), {"get": staticmethod(unknown)})(), "rotation": -90})
    assert colours.orientation_of(frame) == colours.Orientation(False, 3)


def transparent(path: Path, codec: str, pixels: str) -> Path:
    """Three frames, opaque on the left, invisible on the right."""
    with av.open(str(path), "w") as output:
        stream: Any = output.add_stream(codec, rate=10, options={"auto-alt-ref": "0"} if "vpx" in codec else {})
        stream.width, stream.height, stream.pix_fmt = W, H, pixels
        if path.suffix == ".webm":
            stream.metadata["alpha_mode"] = "1"
        for k in range(3):
            rgba = np.dstack([picture(k), np.full((H, W), 255, np.uint8)])
            rgba[:, W // 2 :] = 0
            frame = av.VideoFrame.from_ndarray(rgba, format="rgba").reformat(format=pixels)
            frame.pts, frame.time_base = k, Fraction(1, 10)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("name", "codec", "pixels"),
    [
        ("a.webm", "libvpx-vp9", "yuva420p"),
        ("a.webm", "libvpx", "yuva420p"),
        ("a.mkv", "ffv1", "bgra"),
        ("a.mov", "prores_ks", "yuva444p10le"),
        ("a.mov", "png", "rgba"),
    ],
)
def test_transparency_is_laid_on_white_and_said(tmp_path: Path, name: str, codec: str, pixels: str) -> None:
    reader = Reader(transparent(tmp_path / name, codec, pixels))
    frames = list(reader)
    assert len(frames) == 3
    assert "transparency laid on white" in reader.notes
    assert all((frame.rgb[:, W // 2 + 8 :] > 250).all() for frame in frames)
    assert all(close_to(f.rgb[:, : W // 2 - 8], picture(f.index)[:, : W // 2 - 8], 9) for f in frames)


def test_colours_of_a_palette_can_be_transparent() -> None:
    palette = np.array([[255, 200, 10, 10], [0, 0, 0, 0]] + [[255, 0, 0, 0]] * 254, np.uint8)  # opacity, r, g, b
    indices = np.array([[0, 1]] * 2, np.uint8).repeat(8, 1).repeat(8, 0)
    frame = av.VideoFrame.from_ndarray((indices, palette), format="pal8")  # type: ignore[arg-type]
    rgb, notes = colours.shown(frame, (16, 16), VideoReformatter())
    assert notes == ("transparency laid on white",)
    assert (rgb[:, :8] == [200, 10, 10]).all()
    assert (rgb[:, 8:] == 255).all()


def test_an_alpha_channel_that_hides_nothing_is_not_mentioned(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mkv", counted(3), codec="ffv1", pixels="bgra")
    reader = Reader(path)
    assert ([number(frame.rgb) for frame in reader], reader.notes) == ([0, 1, 2], [])


def gif(blocks: list[bytes], palette: bytes, background: int = 0, size: tuple[int, int] = (8, 8)) -> bytes:
    head = b"GIF89a" + size[0].to_bytes(2, "little") + size[1].to_bytes(2, "little") + bytes([0x91, background, 0])
    return head + palette + b"".join(blocks) + b";"


def square(box: tuple[int, int, int, int], colour: int, disposal: int, clear: int | None = None) -> bytes:
    """An area of one colour; codes of three bits, each pixel after a code that empties the table."""
    left, top, width, height = box
    bits, count = 0, 0
    for code in [c for _ in range(width * height) for c in (4, colour)] + [5]:
        bits, count = bits | code << count, count + 3
    data = bits.to_bytes(-(-count // 8), "little")
    pieces = b"".join(bytes([len(data[n : n + 255])]) + data[n : n + 255] for n in range(0, len(data), 255))
    control = bytes([0x21, 0xF9, 4, disposal << 2 | (clear is not None), 10, 0, clear or 0, 0])
    place = b"".join(value.to_bytes(2, "little") for value in (left, top, width, height))
    return control + b"," + place + b"\0" + b"\x02" + pieces + b"\0"


PALETTE = bytes([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])  # black, red, green, blue


@pytest.mark.parametrize("restored", [3, 4])  # 4 is an old way to write 3
def test_a_gif_is_cleared_as_browsers_clear_it(tmp_path: Path, restored: int) -> None:
    path = tmp_path / "a.gif"
    path.write_bytes(
        gif(
            [
                square((0, 0, 8, 8), 1, 1),  # red, stays
                square((0, 0, 4, 4), 2, 2),  # green, then cleared
                square((4, 4, 4, 4), 3, restored),  # blue, then what was there before
                square((0, 4, 2, 2), 0, 0, clear=0),  # nothing: all of it is transparent
            ],
            PALETTE,
        )
    )
    reader = Reader(path)
    red, green, blue, white = [255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]
    first, second, third, last = (frame.rgb for frame in reader)
    assert (first == red).all()
    assert (second[:4, :4] == green).all()
    assert (second[4:] == red).all()
    assert (third[:4, :4] == white).all()
    assert (third[4:, 4:] == blue).all()
    assert (third[4:, :4] == red).all()
    assert (last[4:] == red).all()
    assert (last[:4, :4] == white).all()
    assert reader.notes == ["transparency laid on white"]


def test_a_gif_that_starts_beside_its_canvas_is_white_there(tmp_path: Path) -> None:
    path = tmp_path / "a.gif"
    path.write_bytes(gif([square((2, 2, 4, 4), 1, 0), square((6, 6, 4, 4), 2, 0)], PALETTE, background=3))
    first, second = (frame.rgb for frame in read_frames(path))
    assert first.shape == (8, 8, 3)
    assert (first[:2] == 255).all()
    assert (second[6:, 6:] == [0, 255, 0]).all()  # what lies outside is cut off


def test_a_gif_whose_first_picture_is_larger_than_its_canvas_has_its_size(tmp_path: Path) -> None:
    (tmp_path / "a.gif").write_bytes(gif([square((2, 0, 8, 10), 1, 0), square((0, 0, 2, 2), 2, 0)], PALETTE))
    assert [frame.rgb.shape for frame in read_frames(tmp_path / "a.gif")] == [(10, 10, 3)] * 2


def test_how_a_picture_of_a_gif_is_shown_is_said_for_one_picture(tmp_path: Path) -> None:
    """The second has no such block: nothing of it is transparent, and its delay is not stated."""
    first, second = square((0, 0, 8, 8), 1, 1, clear=0), square((0, 0, 8, 8), 0, 0)[8:]
    (tmp_path / "a.gif").write_bytes(gif([first, second], PALETTE))
    reader = Reader(tmp_path / "a.gif")
    before, after = list(reader)
    assert (after.rgb == 0).all()
    assert (before.duration, after.duration) == (0.1, 0.1)
    assert reader.notes == ["delays of 10 ms or less taken as 100 ms, as browsers do"]


def test_an_interlaced_gif_has_its_rows_in_order(tmp_path: Path) -> None:
    Image.fromarray(picture(9)).quantize(8).save(tmp_path / "a.gif", interlace=True)
    (frame,) = read_frames(tmp_path / "a.gif")
    assert np.array_equal(frame.rgb, read_image(tmp_path / "a.gif").rgb)
    assert close_to(frame.rgb, picture(9))


def test_the_default_track_is_shown_and_said(tmp_path: Path) -> None:
    from av.stream import Disposition

    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as output:
        streams: list[Any] = [output.add_stream("ffv1", rate=10) for _ in range(2)]
        for stream, disposition in zip(streams, (Disposition(0), Disposition.default), strict=True):
            stream.width, stream.height, stream.pix_fmt, stream.disposition = W, H, "bgr0", disposition
        for k in range(3):
            for n, stream in enumerate(streams):
                frame = av.VideoFrame.from_ndarray(picture(k + 100 * n), format="rgb24").reformat(format="bgr0")
                frame.pts, frame.time_base = k, Fraction(1, 10)
                output.mux(stream.encode(frame))
        for stream in streams:
            output.mux(stream.encode(None))
    reader = Reader(path)
    assert [number(frame.rgb) for frame in reader] == [100, 101, 102]
    assert reader.notes == ["2 tracks of video in it: number 2, its default, is shown"]


def test_a_size_that_changes_inside_is_said(tmp_path: Path) -> None:
    first = film(tmp_path / "a.h264", counted(4), rate=Fraction(25))
    second = film(tmp_path / "b.h264", counted(4, width=128, height=96), rate=Fraction(25))
    path = tmp_path / "c.h264"
    path.write_bytes(first.read_bytes() + second.read_bytes())
    reader = Reader(path)
    assert {frame.rgb.shape for frame in reader} == {(H, W, 3)}
    assert "its size changes inside, to 128 x 96 pixels: scaled to 64 x 48, as it begins" in reader.notes


def test_frames_that_would_fill_the_memory_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.gif"
    path.write_bytes(gif([square((0, 0, 2, 2), 1, 0)], PALETTE, size=(9000, 9000)))
    for attempt in (lambda: list(read_frames(path)), lambda: probe(path)):
        with pytest.raises(MediaError, match="frames of 9000 x 9000 pixels"):
            attempt()


@pytest.mark.parametrize("name", ["a.mp4", "a.webp", "a.apng", "a.gif"])
def test_frames_of_every_kind_have_a_largest_size(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / name
    film(path, counted(3)) if name == "a.mp4" else animate(path, counted(3), [40] * 3)
    assert (probe(path).width, probe(path).height) == (W, H)
    monkeypatch.setattr(colours, "MAX_FRAME_PIXELS", W * H - 1)
    for attempt in (lambda: list(read_frames(path)), lambda: probe(path)):
        with pytest.raises(MediaError, match=f"frames of {W} x {H} pixels"):
            attempt()


def test_frames_that_become_larger_inside_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = film(tmp_path / "a.h264", counted(4), rate=Fraction(25))
    second = film(tmp_path / "b.h264", counted(4, width=128, height=96), rate=Fraction(25))
    (tmp_path / "c.h264").write_bytes(first.read_bytes() + second.read_bytes())
    (tmp_path / "c.gif").write_bytes(gif([square((0, 0, 8, 8), 1, 0), square((0, 0, 8, 9), 2, 0)], PALETTE))
    for name, size, said in (("c.h264", W * H, "128 x 96"), ("c.gif", 64, "8 x 9")):
        monkeypatch.setattr(colours, "MAX_FRAME_PIXELS", size)
        with pytest.raises(MediaError, match=f"frames of {said} pixels"):
            list(read_frames(tmp_path / name))


def test_a_playlist_opens_no_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    allowed, honest = list[object](), av.open

    def listening(*args: Any, **more: Any) -> Any:
        allowed.append(more["options"]["protocol_whitelist"])
        return honest(*args, **more)

    monkeypatch.setattr(av, "open", listening)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}/a.ts"
        (tmp_path / "a.mp4").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{address}\n#EXT-X-ENDLIST\n")
        with pytest.raises(MediaError, match="not a clip that can be read"):
            probe(tmp_path / "a.mp4")
        server.settimeout(0.1)
        with pytest.raises(TimeoutError):
            server.accept()
    assert allowed == ["file"]  # by itself libav allows some protocols, which ones depends on its version


def test_a_song_with_a_cover_is_told_without_contradiction(tmp_path: Path) -> None:
    cover = tmp_path / "cover.png"
    Image.fromarray(picture(1)).save(cover)
    path = tmp_path / "a.mp4"
    film(path, counted(1), codec="png", pixels="rgb24", sound="aac")
    from av.stream import Disposition

    from coda_cli.video import containers

    stream: Any = type("Stream", (), {"type": "video", "disposition": Disposition.attached_pic})()
    tone: Any = type("Stream", (), {"type": "audio", "disposition": Disposition(0)})()
    streams: Any = type("Streams", (list,), {"video": [stream]})([tone, stream])
    container: Any = type("Container", (), {"streams": streams})()
    with pytest.raises(MediaError, match="no video in it, only audio and a cover picture"):
        containers.video_stream(path, container)


# ---- what is lost ----------------------------------------------------------------------------------------------------


def matroska(
    path: Path,
    times: list[float],
    tone_from: float = 0.0,
    tone_longer: float = 0.1,
    marks: dict[str, str] | None = None,
) -> Path:
    """Frames at these times, and sound from a given one on."""
    with av.open(str(path), "w") as output:
        stream: Any = output.add_stream("libx264", rate=10, options={"bf": "0"})
        stream.width, stream.height, stream.pix_fmt = W, H, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        stream.metadata.update(marks or {})
        tone: Any = output.add_stream("aac", rate=48000)
        tone.codec_context.layout = "mono"
        for start in range(int(tone_from * 48000), int((times[-1] + tone_longer) * 48000), 1024):
            samples = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            samples.sample_rate, samples.pts, samples.time_base = 48000, start, Fraction(1, 48000)
            output.mux(tone.encode(samples))
        output.mux(tone.encode(None))
        for k, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(picture(k), format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = round(time * 1000), Fraction(1, 1000)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def test_video_that_begins_late_has_lost_nothing(tmp_path: Path) -> None:
    path = matroska(tmp_path / "a.mkv", [1 + k / 10 for k in range(10)])
    reader = Reader(path)
    assert [number(frame.rgb) for frame in reader] == list(range(10))
    assert (reader.lost, reader.notes) == (0, [])
    assert probe(path).duration == pytest.approx(1.0, abs=0.01)
    # mkvmerge, which leaves this mark, states how long the stream is, and not when it ends.
    other = matroska(tmp_path / "b.mkv", [1 + k / 10 for k in range(10)], marks={"_STATISTICS_TAGS": "DURATION"})
    other.write_bytes(other.read_bytes().replace(b"00:00:02.000000000", b"00:00:01.000000000"))
    assert probe(other).duration == pytest.approx(1.0, abs=0.01)
    position, _ = packets_of(path)[3]
    path.write_bytes(path.read_bytes()[:position])  # and where it has, that is counted
    reader = Reader(path)
    assert (len(list(reader)), reader.lost) == (3, 7)


def test_a_length_that_is_stated_too_long_is_no_loss(tmp_path: Path) -> None:
    path = matroska(tmp_path / "a.mkv", [k / 10 for k in range(10)])
    data = path.read_bytes()
    assert data.count(b"00:00:01.000000000") == 1
    path.write_bytes(data.replace(b"00:00:01.000000000", b"00:00:09.000000000"))
    reader = Reader(path)
    assert (len(list(reader)), reader.lost, reader.notes) == (10, 0, [])


def test_the_length_of_the_sound_of_a_file_that_is_cut_off_is_no_loss_of_pictures(tmp_path: Path) -> None:
    path = matroska(tmp_path / "a.mkv", [k / 10 for k in range(10)], tone_longer=3.0)
    path.write_bytes(path.read_bytes().replace(b"DURATION", b"DURATIOX")[:-10])
    reader = Reader(path)
    assert (len(list(reader)), reader.lost) == (10, 0)


def lasting(path: Path, last: float) -> Path:
    """A Matroska of three frames of 40 ms, the last of which lasts longer, as only its header says."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = W, H, "bgr0"
        packets = [p for n in range(3) for p in stream.encode(av.VideoFrame.from_ndarray(picture(n), format="rgb24"))]
        packets += stream.encode()
        packets[-1].duration = round(last / packets[-1].time_base)
        output.mux(packets)
    head, _, tail = path.read_bytes().rpartition(b"\x9b")  # the length of a block; b"\xec": to be skipped
    stated = int.from_bytes(tail[1 : 1 + (tail[0] & 0x7F)])
    assert stated == round(last * 1000)
    path.write_bytes(head + b"\xec" + tail)
    return path


@pytest.mark.parametrize(("last", "kept"), [(2.0, 2.0), (4000.0, 0.04)])
def test_the_last_frame_of_a_matroska_lasts_as_long_as_its_header_says(
    tmp_path: Path, last: float, kept: float
) -> None:
    reader = Reader(lasting(tmp_path / "a.mkv", last))
    *_, before, held = _with_durations(reader)
    assert (before.duration, held.duration) == (pytest.approx(0.04), pytest.approx(kept, abs=0.002))
    shorter = Reader(tmp_path / "a.mkv", Selection(end=0.5))
    *_, held = _with_durations(shorter)
    assert held.duration == pytest.approx(min(kept, 0.42), abs=0.002)


def test_b_frames_of_h264_in_avi_are_all_there(tmp_path: Path) -> None:
    path = film(tmp_path / "a.avi", counted(50), rate=Fraction(25), options={"bf": "2"})
    reader = Reader(path)
    frames = list(reader)
    assert [number(frame.rgb) for frame in frames] == list(range(50))
    assert [frame.time for frame in frames] == pytest.approx([k / 25 for k in range(50)])
    assert (reader.lost, reader.damaged) == (0, 0)
    assert numbers(path, start=1.2) == list(range(30, 50))


# ---- sound and times of written clips --------------------------------------------------------------------------------


def sounding(path: Path, codec: str, rate: int, layout: str = "stereo") -> Path:
    """Two seconds of pictures and noise."""
    with av.open(str(path), "w") as output:
        stream: Any = output.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = W, H, "yuv420p"
        tone: Any = output.add_stream(codec, rate=rate)
        tone.codec_context.layout = layout
        noise, channels = np.random.default_rng(0), len(av.AudioLayout(layout).channels)
        for k in range(50):
            frame = av.VideoFrame.from_ndarray(picture(k), format="rgb24")
            frame.pts, frame.time_base = k, Fraction(1, 25)
            output.mux(stream.encode(frame))
            wave = noise.normal(0, 0.1, (channels, rate // 25)).astype(np.float32)
            samples = av.AudioFrame.from_ndarray(wave, format="fltp", layout=layout)
            samples.sample_rate, samples.pts, samples.time_base = rate, k * (rate // 25), Fraction(1, rate)
            output.mux(tone.encode(samples))
        output.mux(stream.encode(None))
        output.mux(tone.encode(None))
    return path


@pytest.mark.parametrize("kind", ["mp4", "webm"])
@pytest.mark.parametrize(
    ("name", "codec", "rate"),
    [
        ("s.avi", "pcm_s16le", 48000),
        ("s.avi", "libmp3lame", 44100),
        ("s.avi", "aac", 44100),
        ("s.flv", "libmp3lame", 44100),
        ("s.flv", "aac", 44100),
        ("s.ts", "aac", 48000),
        ("s.mkv", "pcm_s16le", 192000),
        ("s.mkv", "flac", 192000),
        ("s.mkv", "pcm_s16le", 12345),
    ],
)
def test_every_sound_goes_along_or_its_change_is_said(
    tmp_path: Path, name: str, codec: str, rate: int, kind: str
) -> None:
    source, path = sounding(tmp_path / name, codec, rate), tmp_path / f"a.{kind}"
    for start, length in [(0.0, 2.0), (1.2, 0.8)]:
        with ClipWriter(path, rate=Fraction(25), audio=source) as writer:
            for frame in read_frames(source, start=start):
                writer.write(frame.rgb, frame.time)
        held = held_in(path)
        assert (held.frames, held.length) == (round(25 * length), pytest.approx(length, abs=0.01))
        assert held.sound_length == pytest.approx(length, abs=0.1)
        odd = rate > 96000 or (rate == 12345 and kind == "mp4")
        assert writer.notes == ([f"sound of {rate} Hz became 48000 Hz, which players take"] if odd else [])
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted([path.name, source.name])


def test_channels_that_are_mixed_are_said(tmp_path: Path) -> None:
    source = sounding(tmp_path / "s.mkv", "ac3", 48000, "5.1")
    assert write(tmp_path / "a.mp4", counted(3), [0, 0.1, 0.2], audio=source).notes == [
        "sound of 6 channels became stereo"
    ]


@pytest.mark.parametrize("error", [ValueError("no room"), av.FFmpegError(1, "no room"), MediaError("no room")])
def test_sound_that_fails_costs_the_pictures_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: Any) -> None:
        raise error

    source = sounding(tmp_path / "s.mkv", "aac", 48000)
    monkeypatch.setattr(sound.Sound, "copy_until", fail)
    writer = write(tmp_path / "a.mp4", counted(3), [0, 0.1, 0.2], audio=source)
    assert writer.notes == ["without sound: it cannot be written (no room)"]
    assert numbers(tmp_path / "a.mp4") == [0, 1, 2]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.mp4", "s.mkv"]


def test_sound_that_does_not_arrive_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = sounding(tmp_path / "s.mkv", "aac", 48000)
    monkeypatch.setattr(sound.Sound, "_copy", lambda *_: None)
    monkeypatch.setattr(sound.Sound, "_encode", lambda *_: None)
    (note,) = write(tmp_path / "a.mp4", counted(3), [0, 0.1, 0.2], audio=source).notes
    assert note.startswith("without sound: it cannot be written (of 0.")
    assert numbers(tmp_path / "a.mp4") == [0, 1, 2]


def test_sound_that_cannot_be_copied_is_encoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("odd packet")

    source = sounding(tmp_path / "s.mkv", "aac", 48000)
    monkeypatch.setattr(sound.Sound, "_copy", fail)
    assert write(tmp_path / "a.mp4", counted(3), [0, 0.4, 0.8], audio=source).notes == []
    assert held_in(tmp_path / "a.mp4").sound_length == pytest.approx(1.2, abs=0.1)


@pytest.mark.parametrize("error", [ValueError("odd"), av.FFmpegError(1, "odd"), OSError(5, "odd")])
def test_sound_that_cannot_be_read_costs_the_pictures_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    source = sounding(tmp_path / "s.mkv", "aac", 48000)
    monkeypatch.setattr(sound.Sound, "__init__", fail)
    writer = write(tmp_path / "a.mp4", counted(3), [0, 0.1, 0.2], audio=source)
    assert writer.notes == ["without sound: it cannot be read (odd)"]
    assert numbers(tmp_path / "a.mp4") == [0, 1, 2]


class Stuck:
    """A container that gives nothing more after a seek, which fails: what libav's readers of some formats do."""

    def __init__(self, container: Any) -> None:
        self._container, self._broken = container, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._container, name)

    def seek(self, *_: Any, **__: Any) -> None:
        self._broken = True
        raise av.FFmpegError(1, "cannot seek")

    def demux(self, *streams: Any) -> Any:
        return iter(()) if self._broken else self._container.demux(*streams)


def test_sound_of_a_clip_that_cannot_be_sought_is_read_from_its_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, opened, honest = sounding(tmp_path / "s.mkv", "aac", 48000), [0], sound.Sound._open

    def stuck(self: sound.Sound) -> Any:
        opened[0] += 1
        return honest(self) if opened[0] % 2 == 0 else Stuck(honest(self))

    monkeypatch.setattr(sound.Sound, "_open", stuck)
    with ClipWriter(tmp_path / "a.mp4", rate=Fraction(25), audio=source) as writer:
        for frame in read_frames(source, start=1.6):
            writer.write(frame.rgb, frame.time)
    assert (opened[0], writer.notes) == (2, [])
    assert held_in(tmp_path / "a.mp4").sound_length == pytest.approx(0.4, abs=0.1)


@pytest.mark.parametrize("change", [{"frames": 2}, {"length": 9.0}])
def test_pictures_that_change_beside_their_sound_are_kept_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    source = sounding(tmp_path / "s.mkv", "aac", 48000)

    def changed(path: Path) -> Any:
        return held_in(path)._replace(**change) if path.name.endswith(".sound.part") else held_in(path)

    monkeypatch.setattr(sound, "held_in", changed)
    writer = write(tmp_path / "a.mp4", counted(3), [0, 0.1, 0.2], audio=source)
    assert writer.notes == ["without sound: it cannot be written (beside it the pictures do not keep their times)"]
    assert (held_in(tmp_path / "a.mp4").sounds, numbers(tmp_path / "a.mp4")) == (0, [0, 1, 2])


@pytest.mark.parametrize("fails", [True, False])
def test_no_file_beside_is_left_by_the_sound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("no room")

    source, path = sounding(tmp_path / "s.mkv", "aac", 48000), tmp_path / "a.mp4"
    write(path, counted(3), [0, 0.1, 0.2])
    if fails:
        monkeypatch.setattr(sound.Sound, "finish", fail)
    notes = sound.add_sound(path, "mp4", source, 0.0, 0.3)
    assert notes == (["without sound: it cannot be written (no room)"] if fails else [])
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.mp4", "s.mkv"]


class Broken:
    """A packet whose sound cannot be decoded."""

    def __init__(self, packet: Any) -> None:
        self._packet = packet

    def __getattr__(self, name: str) -> Any:
        return getattr(self._packet, name)

    def decode(self) -> Any:
        raise av.InvalidDataError(1, "broken")


def test_broken_pieces_of_sound_are_left_out_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, honest = sounding(tmp_path / "s.mkv", "ac3", 48000), sound.Sound._open

    def with_broken(self: sound.Sound) -> Any:
        container: Any = Stuck(honest(self))
        demuxed = container._container.demux

        def demux(*streams: Any) -> Any:
            return (Broken(packet) if 10 <= n < 12 else packet for n, packet in enumerate(demuxed(*streams)))

        container.demux = demux
        return container

    monkeypatch.setattr(sound.Sound, "_open", with_broken)
    writer = write(tmp_path / "a.webm", counted(10), [k / 10 for k in range(10)], audio=source)
    assert writer.notes == ["pieces of the sound that are broken and left out: 2"]
    assert held_in(tmp_path / "a.webm").sound_length == pytest.approx(1.0, abs=0.1)


def test_the_default_track_of_sound_goes_along(tmp_path: Path) -> None:
    from av.stream import Disposition

    with av.open(str(tmp_path / "s.mkv"), "w") as output:
        stream: Any = output.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = W, H, "bgr0"
        tones: list[Any] = [output.add_stream("pcm_s16le", rate=rate) for rate in (8000, 48000)]
        for tone, disposition in zip(tones, (Disposition(0), Disposition.default), strict=True):
            tone.codec_context.layout, tone.disposition = "mono", disposition
        output.mux(stream.encode(av.VideoFrame.from_ndarray(picture(0), format="rgb24").reformat(format="bgr0")))
        output.mux(stream.encode(None))
        for tone in tones:
            samples = av.AudioFrame.from_ndarray(np.zeros((1, tone.rate), np.int16), format="s16", layout="mono")
            samples.sample_rate, samples.pts, samples.time_base = tone.rate, 0, Fraction(1, tone.rate)
            output.mux(tone.encode(samples))
            output.mux(tone.encode(None))
    assert sound.Sound(tmp_path / "s.mkv", "mp4", 0.0)._rate == 48000


def test_a_part_without_sound_is_said(tmp_path: Path) -> None:
    source = matroska(tmp_path / "s.mkv", [k / 10 for k in range(30)], tone_from=2.0)
    writer = write(tmp_path / "a.mp4", counted(3), [0, 0.1, 0.2], audio=source)
    assert writer.notes == ["without sound: the source has none in this part"]


@pytest.mark.parametrize("kind", ["mp4", "webm", "gif", "webp"])
def test_a_still_stretch_among_fine_times_keeps_its_length(tmp_path: Path, kind: str) -> None:
    times = [k / 50 for k in range(60)] + [22 + k / 50 for k in range(60)]
    path = tmp_path / f"a.{kind}"
    writer = write(path, counted(120), times, 0.02, rate=Fraction(120000000, 24000377))
    assert (writer.frames, writer.dropped) == (120, 0)
    assert length_of(path, kind) == pytest.approx(23.2, abs=0.02)
    assert [frame.time for frame in read_frames(path)] == pytest.approx(times, abs=0.011)


@pytest.mark.parametrize(("kind", "hours"), [("mp4", 9), ("webm", 9), ("gif", 0.5), ("webp", 9)])
def test_frames_that_last_longer_than_a_kind_can_say_are_written_again(tmp_path: Path, kind: str, hours: float) -> None:
    path = tmp_path / f"a.{kind}"
    writer = write(path, counted(3), [0, 3600 * hours, 3600 * hours + 1], 3600 * hours)
    assert writer.frames == 3
    assert length_of(path, kind) == pytest.approx(7200 * hours + 1, abs=0.1)


def test_a_clip_that_is_not_what_was_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coda_cli.video.encoders._ticks_a_second", lambda _: 120000000)  # the bug of the first version
    monkeypatch.setattr("coda_cli.video.encoders.LONGEST", 1 << 62)
    times = [k / 50 for k in range(60)] + [22 + k / 50 for k in range(60)]
    with pytest.raises(MediaError, match="read back, it has"):
        write(tmp_path / "a.mp4", counted(120), times, 0.02)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a.mp4", "a.gif"])
def test_a_clip_without_a_frame_of_those_written_is_refused(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, counted(3), [0, 0.1, 0.2])
    kind = name.rpartition(".")[2]
    verify(tmp_path / name, kind, 3, 0.3)
    with pytest.raises(MediaError, match=r"read back, it has 3 frames and .* instead of 4"):
        verify(tmp_path / name, kind, 4, 0.3)


# ---- a full disk -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), MediaError("too many"), ValueError("odd")])
@pytest.mark.parametrize("name", ["a.mp4", "a.webm", "a.gif", "a.webp", "a"])
def test_no_encoder_is_called_after_one_failed(
    tmp_path: Path, name: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = ClipWriter(tmp_path / name)
    writer.write(picture(0), 0.0)
    calls = []

    def fail(*_: Any) -> None:
        calls.append(1)
        raise error

    for method in ("add", "finish"):
        monkeypatch.setattr(writer._encoder, method, fail)
    with pytest.raises((MediaError, ValueError), match=r"No space left|too many|odd"):
        writer.write(picture(1), 1.0)
    with pytest.raises(MediaError, match="failed before"):
        writer.write(picture(1), 1.0)
    with pytest.raises(MediaError, match="failed before"):
        writer.finish()
    assert len(calls) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [0, 100, 3000, 40000])
@pytest.mark.parametrize("name", ["a.mp4", "a.webm", "a.gif", "a.webp"])
def test_a_full_disk_with_sound_leaves_nothing(tmp_path: Path, name: str, size: int) -> None:
    program = (
        "import sys, numpy as np; from pathlib import Path; from films import largest_file, write\n"
        "from coda_cli.errors import MediaError\n"
        "noise = np.random.default_rng(0).integers(0, 256, (30, 200, 300, 3), np.uint8)\n"
        "path, size = Path(sys.argv[1]), int(sys.argv[2])\n"
        "try:\n    with largest_file(size): write(path, list(noise), [k / 10 for k in range(30)])\n"
        "except MediaError: sys.exit(7)\n"
    )
    places = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    run = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / name), str(size)],
        env=os.environ | {"PYTHONPATH": places},
        capture_output=True,
        text=True,
    )
    assert (run.returncode, run.stdout, run.stderr) == (7, "", "")
    assert list(tmp_path.iterdir()) == []
