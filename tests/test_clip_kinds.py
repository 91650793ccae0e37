"""Clips of every kind: broken and foreign files, animations, sequences of pictures and cameras."""

from __future__ import annotations

import itertools
import os
import sys
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
from films import (
    RGB,
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
from coda_cli.video.reading import ClipWriter, Reader, Selection, probe, read_frames

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
