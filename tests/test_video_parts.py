"""``coda video`` on clips as they come: what goes in by PyAV comes out of the program, and plays in a browser."""

from __future__ import annotations

import functools
import http.server
import json
import queue
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import program
import pytest
import torch
from conftest import Coda
from films import UNEVEN, counted, film, largest_file, packets_of, picture
from PIL import Image
from program import strict_json

import coda_cli
from coda_cli.checkpoints.loading import load
from coda_cli.checkpoints.manifest import Checkpoint, Preprocessing
from coda_cli.core.networks import build
from coda_cli.errors import MediaError
from coda_cli.explanation.clip.survey import MOST_CURVES, Survey
from coda_cli.explanation.request import Request
from coda_cli.render import clip
from coda_cli.render.clip import GAP, Curve, Sheet, Tile, places
from coda_cli.video.reading import Reader, probe


def _cut(path: Path) -> Path:
    film(path, counted(30), rate=Fraction(25), container={"movflags": "+faststart"}, options={"bf": "0"})
    position, _ = packets_of(path)[20]
    path.write_bytes(path.read_bytes()[: position + 3])
    return path


def _corrupt(path: Path) -> Path:
    film(path, counted(40), rate=Fraction(25), options={"x264-params": "bframes=2:keyint=10:min-keyint=10:scenecut=0"})
    data = bytearray(path.read_bytes())
    for position, size in packets_of(path)[14:17]:
        data[position : position + size] = bytes(size)
    path.write_bytes(data)
    return path


# Suffix, maker, and what the clip's record has to say about it.
PARTS: dict[str, tuple[str, Callable[[Path], Path], str]] = {
    "B-frames and AAC": (".mp4", lambda p: film(p, counted(20), sound="aac", options={"bf": "3"}), ""),
    "variable rate": (".mkv", lambda p: film(p, counted(len(UNEVEN)), UNEVEN), ""),
    "turned": (".mp4", lambda p: film(p, [np.rot90(rgb, -1) for rgb in counted(6)], turn=90), "turned"),
    "ten bits": (".mkv", lambda p: film(p, counted(6), codec="ffv1", pixels="yuv420p10le"), "10-bit"),
    "odd size": (".webm", lambda p: film(p, counted(6, width=67, height=51), codec="libvpx-vp9"), ""),
    "cut off": (".mp4", _cut, "cut off after 0.80 s"),
    "corrupt middle": (".mp4", _corrupt, "3 frames"),
    "sound first": (".mkv", lambda p: film(p, counted(8), sound="aac", sound_first=True), ""),
    "one frame": (".mkv", lambda p: film(p, [picture(5)]), ""),
}


@pytest.mark.parametrize("name", PARTS)
def test_a_clip_as_it_comes_keeps_its_frames_times_and_length(name: str, coda: Coda, tmp_path: Path) -> None:
    suffix, make, note = PARTS[name]
    path = make(tmp_path / f"a{suffix}")
    reader = Reader(path)
    frames = list(reader)
    *lines, whole = coda("video", path.name, "-o", "o.mp4", "-c", "cat", "--no-strip", "--json", "-q").records
    assert [(line["frame"], line["pts"], line["damaged"]) for line in lines] == [
        (f.index, f.pts, f.damaged) for f in frames
    ]
    assert [line["time"] for line in lines] == pytest.approx([f.time for f in frames])
    assert (whole["frames"], whole["lost"]) == (len(frames), reader.lost)
    assert note in "; ".join(whole["source"]["notes"])
    written = list(Reader(tmp_path / "o.mp4"))
    start = frames[0].time
    assert [f.time for f in written] == pytest.approx([f.time - start for f in frames], abs=1e-4)
    assert written[0].rgb.shape[0] % 2 == written[0].rgb.shape[1] % 2 == 0
    last = frames[-1].duration or frames[-1].time - frames[max(0, len(frames) - 2)].time or 0.04
    length = probe(tmp_path / "o.mp4").duration
    assert length == pytest.approx(frames[-1].time - start + last, abs=0.03)
    assert probe(tmp_path / "o.mp4").has_audio == probe(path).has_audio
    if stamp := whole["source"]["time_base"]:
        seconds = [line["pts"] * Fraction(stamp) for line in lines]
        assert [float(s - seconds[0]) for s in seconds] == pytest.approx([f.time - start for f in frames])


def test_a_thinned_clip_lasts_as_long_as_its_source(coda: Coda, tmp_path: Path) -> None:
    film(tmp_path / "a.mp4", counted(50), rate=Fraction(25))
    for options, length in ((("--every", "4"), 2.0), (("--fps", "3"), 2.0), (("--every", "7", "--end", "1.5"), 1.5)):
        coda("video", "a.mp4", "-o", "o.gif", "-c", "cat", "--no-strip", "-q", "-f", *options)
        with Image.open(tmp_path / "o.gif") as animation:
            delays = []
            for n in range(animation.n_frames):
                animation.seek(n)
                delays.append(animation.info["duration"])
        assert sum(delays) / 1000 == pytest.approx(length, abs=0.02)


def test_pictures_in_sequence_last_as_their_rate_says(coda: Coda, tmp_path: Path) -> None:
    for k in range(5):
        Image.fromarray(picture(k)).save(tmp_path / f"p{k}.png")
    *_, whole = coda("video", "p%d.png", "--fps", "10", "-o", "o.mp4", "-c", "cat", "--json", "-q").records
    assert whole["source"]["duration"] == pytest.approx(0.5)
    assert probe(tmp_path / "o.mp4").duration == pytest.approx(0.5)


def test_what_cannot_be_read_is_a_record_too(coda: Coda, tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    film(tmp_path / "a.mkv", counted(2))
    result = coda("video", "empty.mp4", "a.mkv", "-c", "cat", "--format", "none", "--json", "-q", status=1)
    failed = result.records[0]
    assert (failed["schema"], failed["status"], failed["source"]["path"]) == ("coda.clip", "error", "empty.mp4")
    assert "the file is empty" in failed["error"]["message"]
    assert result.records[-1]["status"] == "ok"


def test_sound_and_frames_that_cannot_go_along_are_said(
    coda: Coda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def undecodable(source: Path, *_: object) -> None:
        raise MediaError(f"{source}: has no sound that can be decoded")

    film(tmp_path / "a.mkv", counted(3), sound="flac")
    with monkeypatch.context() as patch:
        patch.setattr("coda_cli.video.sound.Sound", undecodable)
        *_, whole = coda("video", "a.mkv", "-o", "o.mp4", "-c", "cat", "--json").records
    assert "without sound: a.mkv: has no sound that can be decoded" in whole["notes"][0]
    film(tmp_path / "fast.mkv", counted(30), rate=Fraction(120))
    *_, whole = coda("video", "fast.mkv", "-o", "fast.gif", "-c", "cat", "--json").records
    assert "frames dropped: gif cannot show them that fast" in whole["notes"][0]


def test_a_full_disk_is_said_and_nothing_is_left(coda: Coda, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (12, 48, 64, 3), np.uint8)
    film(tmp_path / "a.mkv", list(noise), codec="ffv1", pixels="yuv420p")
    with largest_file(6000):
        result = coda("video", "a.mkv", "-o", "out/o.mp4", "-c", "cat", "--no-strip", "--height", "48", status=1)
    assert "cannot be written" in result.error
    assert not list((tmp_path / "out").iterdir())


# ---- length ----------------------------------------------------------------------------------------------------------


def _tiny(path: Path) -> Path:
    """A network that costs next to nothing."""
    arguments: dict[str, Any] = {
        "channels": [6, 3],
        "kernels": [3],
        "strides": [2],
        "ranks": [2],
        "norm": "SQ",
        "temperature": 1.0,
    }
    torch.manual_seed(0)
    checkpoint = Checkpoint(
        name="tiny",
        architecture="coda_net",
        arguments=arguments,
        classes=("a", "b", "c"),
        preprocessing=Preprocessing(resize=16, crop=16),
    )
    coda_cli.save(build("coda_net", arguments), checkpoint, path)
    return path


def test_five_hundred_frames_take_no_more_memory_than_a_hundred(tmp_path: Path) -> None:
    network = _tiny(tmp_path / "tiny.safetensors")

    def peak(frames: int) -> int:
        size = {"width": 160, "height": 120}  # 58 kB a frame, 173 kB drawn: 400 of them are 23 and 69 MB
        clip = film(tmp_path / f"{frames}.mp4", [picture(k % 256, **size) for k in range(frames)], rate=Fraction(25))
        command = ("video", clip, "-m", network, "--height", "120", "-o", f"o{frames}", "-q")
        found = program.peak_memory(*command, cwd=tmp_path)
        lines = (tmp_path / f"o{frames}" / f"{frames}.coda.jsonl").read_text().splitlines()
        assert strict_json(lines[-1])["frames"] == frames
        return found

    assert peak(500) < peak(100) + 15e6


# ---- a browser -------------------------------------------------------------------------------------------------------

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PAGE = """<video id=v muted playsinline></video><script>
const v = document.getElementById('v'), say = o => fetch('/said', {method: 'POST', body: JSON.stringify(o)});
v.onerror = () => say({error: v.error && v.error.message});
v.onloadeddata = () => { v.onloadeddata = null; v.currentTime = AT; };
v.onseeked = () => {
  v.onseeked = null;
  const c = document.createElement('canvas');
  c.width = v.videoWidth; c.height = v.videoHeight;
  const g = c.getContext('2d');
  g.drawImage(v, 0, 0);
  const rgba = Array.from(g.getImageData(0, 0, c.width, c.height).data);
  v.onended = () => say(
    {width: v.videoWidth, height: v.videoHeight, duration: v.duration, played: v.played.end(0), rgba});
  v.currentTime = 0;
  v.play();
};
// As a blob: the server here knows no ranges, without which nothing can be sought.
fetch('o.mp4').then(r => r.blob()).then(b => { v.src = URL.createObjectURL(b); });
</script>"""


@contextmanager
def _served(folder: Path) -> Iterator[tuple[str, queue.Queue[Any]]]:
    said: queue.Queue[Any] = queue.Queue()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_POST(self) -> None:
            said.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *arguments: Any) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", said
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_the_clip_plays_in_chromium(coda: Coda, tmp_path: Path) -> None:
    assert CHROMIUM
    film(tmp_path / "a.mp4", counted(25), rate=Fraction(25), sound="aac")
    coda("video", "a.mp4", "-o", "o.mp4", "-c", "cat", "-q")
    frames = list(Reader(tmp_path / "o.mp4"))
    (tmp_path / "page.html").write_text(PAGE.replace("AT", "0.5"))
    with _served(tmp_path) as (address, said):
        command = [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--autoplay-policy=no-user-gesture-required",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--remote-debugging-port=0",
            f"{address}/page.html",
        ]
        browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            seen = said.get(timeout=program.PATIENCE)
        finally:
            browser.terminate()
            browser.wait()
    assert "error" not in seen
    height, width = frames[0].rgb.shape[:2]
    assert (seen["width"], seen["height"]) == (width, height)
    assert seen["duration"] == pytest.approx(1.0, abs=0.03)
    assert seen["played"] == pytest.approx(1.0, abs=0.1)
    shown = np.array(seen["rgba"], np.int32).reshape(height, width, 4)[..., :3]
    apart = [float(np.abs(shown - f.rgb).mean()) for f in frames]
    assert int(np.argmin(apart)) == 12
    assert apart[12] < 3


def test_the_written_clip_starts_at_zero_and_its_index_comes_first(coda: Coda, tmp_path: Path) -> None:
    film(tmp_path / "a.mkv", counted(10), rate=Fraction(25))
    coda("video", "a.mkv", "-o", "o.mp4", "-c", "cat", "--start", "0.2", "-q")
    data = (tmp_path / "o.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    with av.open(str(tmp_path / "o.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert next(container.decode(video=0)).pts == 0


def test_a_clip_without_sound_is_no_news(coda: Coda, tmp_path: Path) -> None:
    film(tmp_path / "a.mkv", counted(3))
    result = coda("video", "a.mkv", "-o", "o.mp4", "-c", "cat", "--json")
    assert "sound" not in result.err
    assert result.records[-1]["notes"] == []


# ---- sheets ----------------------------------------------------------------------------------------------------------


def test_many_tiles_stand_in_rows_each_above_its_own_words() -> None:
    tiles = [Tile(np.full((30, 40, 3), 20 * n, np.uint8), f"tile {n}") for n in range(1, 8)]
    sheet = Sheet([tile.label for tile in tiles], (40, 30), [], "note")
    frame = sheet.frame(tiles, 0.0, "note")
    assert frame.shape == (*sheet.shape, 3)
    assert frame.shape[1] == 4 * 40 + 3 * GAP
    second = next(y for y in range(31, frame.shape[0]) if (frame[y, :40] == 100).all())
    for n, tile in enumerate(tiles):
        y, x = n // 4 * second, n % 4 * (40 + GAP)
        np.testing.assert_array_equal(frame[y : y + 30, x : x + 40], tile.picture)
        words = frame[y + 30 : y + second, x : x + 40]
        assert (words < 120).any(), f"no words below tile {n}"
    assert (frame[second : second + 30, 3 * (40 + GAP) :] == 255).all()  # the eighth place is empty


@pytest.mark.parametrize("count", [1, 2, 4, 5, 11, 16, 17, 101, 1001])
def test_places_are_enough_and_no_row_is_empty(count: int) -> None:
    across, rows = places(count)
    assert (rows - 1) * across < count <= rows * across
    assert across <= max(4, rows + 1)


def test_the_axis_of_a_strip_says_what_it_shows_and_how_far_down_it_reaches(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    monkeypatch.setattr(clip.text, "draw", lambda _, text, *_more: written.append(text))
    times = np.linspace(0, 1, 5)
    Sheet(["a"], (400, 300), [Curve("cat", times, times * 4 - 12.6)], "")
    assert {"logit of cat", "−13"} <= {*written}
    written.clear()
    Sheet(["a"], (400, 300), [Curve("cat − dog", times, times * 4, difference=True)], "")
    assert "difference of logits cat − dog" in written
    written.clear()
    Sheet(["a"], (400, 300), [Curve("cat", times, times * 4)], "")
    assert {"4", "0"} <= {*written}
    assert not any(text.startswith("−") for text in written)


def test_where_each_frame_explains_its_own_class_the_curves_are_of_these_classes() -> None:
    net = load("cifar10")
    logits = np.full((10, 10), -5.0, np.float32)
    for n, leading in enumerate((3, 3, 3, 3, 7, 7, 7, 0, 0, 9)):
        logits[n, leading] = 2 + n
    found = Survey(times=[n / 10 for n in range(10)], logits=list(logits))
    curves = found.curves(found.targets_of_frames(net, Request()), net)
    classes = net.checkpoint.classes
    assert [curve.name for curve in curves] == [classes[n] for n in (3, 7, 0, 9)]
    for curve, leading in zip(curves, (3, 7, 0, 9), strict=True):
        np.testing.assert_array_equal(curve.values, logits[:, leading])
    every = Survey(times=found.times, logits=list(np.eye(10, dtype=np.float32)))
    assert len(every.curves(every.targets_of_frames(net, Request()), net)) == MOST_CURVES
