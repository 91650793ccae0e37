"""The page of ``coda video --html`` without a browser: what is in the file, and that it is whole or not there."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import numpy as np
import program
import pytest
from conftest import Coda
from program import photo, tree
from test_page import HOSTILE, THEIRS, Parsed, parsed, unpacked
from test_video_command import clip, frame, lines_of

import coda_cli
from coda_cli.checkpoints.loading import load
from coda_cli.checkpoints.saving import save
from coda_cli.errors import MediaError
from coda_cli.explanation.page import clip_report, plot
from coda_cli.explanation.page.clip_entry import ClipEntry
from coda_cli.explanation.page.output import Kept
from coda_cli.explanation.page.plot import Moment, curve_names, plot_of
from coda_cli.schema.clips import FrameRecord
from coda_cli.video.reading import Frame


def numbers(path: str) -> list[tuple[float, float]]:
    """The points of a path, each with the height that holds there."""
    x, y, points = 0.0, 0.0, list[tuple[float, float]]()
    for letter, first, second in re.findall(r"([MLHV])(-?[\d.e+-]+)(?: (-?[\d.e+-]+))?", path):
        if letter == "V":
            y = float(first)
        else:
            x, y = float(first), float(second) if second else y
        points.append((x, y))
    return points


def paths(svg: str, kind: str) -> list[str]:
    """The paths of an SVG whose class begins so."""
    return re.findall(rf'<path class="{kind}[^"]*" d="([^"]*)"', svg)


def moments(*logits: float, leaders: str = "", titles: str = "") -> list[Moment]:
    """Frames of a tenth of a second."""
    return [
        Moment(n / 10, (titles[n] if titles else "a",), (logit,), leaders[n] if leaders else "a", 0.5)
        for n, logit in enumerate(logits)
    ]


# ---- the plot --------------------------------------------------------------------------------------------------------


def test_a_curve_has_every_frame_at_its_time_and_height() -> None:
    logits = [1.0, 3.0, -2.0, 2.5]
    svg = plot_of(moments(*logits), 0.4)
    (path,) = paths(svg, "curve")
    points = numbers(path)
    low, high = -2 - 0.25, 3 + 0.25
    expected = [(250 * n, 100 * (high - logit) / (high - low)) for n, logit in enumerate(logits)]
    assert points == [
        (pytest.approx(x, abs=0.01), pytest.approx(y, abs=0.01)) for x, y in [*expected, (1000, expected[-1][1])]
    ]
    (zero,) = paths(svg.split("sure")[0], "zero")
    assert float(zero.split()[1].split("H")[0]) == pytest.approx(100 * high / (high - low), abs=0.01)


def test_a_curve_is_broken_where_another_class_is_explained() -> None:
    (path,) = paths(plot_of(moments(1, 2, 3, 4, titles="aabb"), 0.4), "curve")
    assert path.count("M") == 2
    assert curve_names(moments(1, 2, titles="ab")) == ["the class of each frame"]
    assert curve_names(moments(1, 2, titles="aa")) == ["a"]
    several = [Moment(0, titles, (1,) * len(titles), "a", 1) for titles in (("a", "b"), ("b", "b", "c"))]
    assert curve_names(several) == ["class 1 of each frame", "b", "c"]


def test_a_long_curve_keeps_its_peaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plot, "MOST_BINS", 10)
    logits = np.zeros(5000)
    logits[[1234, 4321]] = 7, -5
    (path,) = paths(plot_of(moments(*logits), 500), "curve")
    points = numbers(path)
    assert len(points) <= 22
    assert {round(x) for x, y in points if y < 20} == {247}
    assert {round(x) for x, y in points if y > 80} == {864}


def test_the_band_says_which_class_leads_when() -> None:
    svg = plot_of(moments(1, 1, 1, 1, 1, leaders="aabba"), 0.5)
    spans = re.findall(
        r'class="span[^"]*" x="([\d.]+)%" y="132" width="([\d.]+)%" height="18"><title>(\w), ([\d.]+) to ([\d.]+) s',
        svg,
    )
    assert spans == [
        ("0.000", "40.000", "a", "0.00", "0.20"),
        ("40.000", "40.000", "b", "0.20", "0.40"),
        ("80.000", "20.000", "a", "0.40", "0.50"),
    ]
    assert re.findall(r'class="change" x1="([\d.]+)%', svg) == ["40.000", "80.000"]


@pytest.mark.parametrize("end", [0.0, 0.04])
def test_one_frame_has_a_plot(end: float) -> None:
    svg = plot_of(moments(2.0), end)
    assert paths(svg, "curve") == ["M0 50H1000"]


# ---- which frames ----------------------------------------------------------------------------------------------------


def test_frames_beyond_what_a_page_holds_are_left_out_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Moment, "of", staticmethod(lambda _: moments(0)[0]))
    for most in (10, 11):
        for total in (1, 9, 10, 11, 12, 19, 20, 21, 22, 23, 44, 45, 100, 1000):
            entry = ClipEntry(Kept(Path("r.html")), most, 1)
            made = [
                entry.count(
                    Frame(n, None, n / 25, None, False, np.zeros((1, 1, 3), np.uint8)), FrameRecord.model_construct()
                )
                for n in range(total)
            ]
            held = [n for n in made if n is not None and n % entry._every == 0]
            assert held == list(range(0, total, entry._every))
            assert min(total, most // 2) <= len(held) <= most
            assert len([n for n in made if n is not None]) < 8 * most  # little is made that the page does not show


def test_a_page_says_how_many_of_the_frames_it_holds(
    coda: Coda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clip_report, "MOST_MAPS", 20)
    clip(tmp_path / "a.mkv", frames=41)
    coda("video", "a.mkv", "-c", "0", "--format", "none", "--html", "r.html")
    page = parsed(tmp_path / "r.html")
    assert [entry["record"]["frame"] for entry in page.entries] == list(range(0, 41, 4))
    assert any(
        "This page holds 11 of 41 frames, one in 4; the curves are of all" in text
        for tag, text in page.texts
        if tag == "li"
    )
    frames = lines_of(tmp_path / "coda-out/a.coda.jsonl")[:-1]
    (path,) = paths((tmp_path / "r.html").read_text(), "curve")
    assert len(numbers(path)) == len(frames) + 1


def test_three_hundred_frames_stay_below_what_a_page_may_have(coda: Coda, tmp_path: Path) -> None:
    clip(tmp_path / "a.mkv", frames=4, width=640, height=360)
    coda("video", "a.mkv", "-c", "0", "--format", "none", "--html", "r.html", "-m", "imagenette")
    frames = [
        text
        for tag, text in parsed(tmp_path / "r.html").texts
        if tag == "script" and '"maps":' in text and text[0] == "{"
    ]
    assert 300 * max(map(len, frames)) < 40e6


# ---- the file --------------------------------------------------------------------------------------------------------


def test_a_page_holds_every_frame_with_its_maps_and_record(coda: Coda, tmp_path: Path) -> None:
    clip(tmp_path / "a.mkv", frames=5)
    result = coda("video", "a.mkv", "-c", "cat", "-c", "dog", "--html", "r.html")
    assert result.lines == ["coda-out/a.coda.mp4", "coda-out/a.coda.jsonl", "r.html"]
    page, net = parsed(tmp_path / "r.html"), coda_cli.load("cifar10")
    *records, whole = lines_of(tmp_path / "coda-out/a.coda.jsonl")
    assert [entry["record"] for entry in page.entries] == records
    for n, entry in enumerate(page.entries):
        explained = coda_cli.explain(frame(3, n), net, ["cat", "dog"])
        for packed, exact in zip(entry["maps"], explained.maps, strict=True):
            assert np.abs(unpacked(packed) - exact).max() <= packed["step"] / 2 * (1 + 1e-6) + 1e-6
        assert entry["said"][0]["equation"].startswith("cat, p ")
        assert entry["place"]["source"] == {"path": "a.mkv", "width": 64, "height": 48}
    times = [a["data-time"] for a in page.of("script") if "data-time" in a]
    assert list(map(float, filter(None, times))) == [record["time"] for record in records]
    assert json.loads(next(t for tag, t in page.texts if tag == "script" and '"coda.clip"' in t)) == whole


def test_several_clips_are_several_entries_and_one_that_fails_is_named(coda: Coda, tmp_path: Path) -> None:
    clip(tmp_path / "a.mkv", frames=3)
    clip(tmp_path / "b.mkv", frames=2, seed=4)
    (tmp_path / "<i>.mp4").write_text("no clip")
    coda("video", "a.mkv", "<i>.mp4", "b.mkv", "--format", "none", "--html", "r.html", status=1)
    page = parsed(tmp_path / "r.html")
    assert [a["data-name"] for a in page.of("article")] == ["/a.mkv", "/b.mkv"]
    assert [entry["record"]["path"] for entry in page.entries] == ["a.mkv"] * 3 + ["b.mkv"] * 2
    assert any("<i>.mp4" in text for tag, text in page.texts if tag == "li")
    assert any(text.startswith("2 clips") for tag, text in page.texts if tag == "h1")


def test_names_with_html_in_them_stay_text(coda: Coda, tmp_path: Path) -> None:
    names = ["<b>bold</b>", "</script><script>alert(1)</script>", "<!--", *(f"c{n}" for n in range(7))]
    net = load("cifar10")
    save(net.model, net.checkpoint.model_copy(update={"classes": tuple(names)}), tmp_path / "net.safetensors")
    clip(tmp_path / f"{HOSTILE}.mkv", frames=2)
    coda("video", f"{HOSTILE}.mkv", "-m", "net.safetensors", "-c", "all", "--region", "<u>=0,0,0.5,0.5", "--format",
         "none", "--html", "r.html")  # fmt: skip
    page = parsed(tmp_path / "r.html")
    assert not page.of("b") + page.of("u")
    assert len(page.of("script")) == 5  # two frames, the record, the numbers of drawing, the script
    assert {part["title"] for part in page.entries[0]["said"]} == set(names)
    assert [a["data-name"] for a in page.of("article")] == [f"/{HOSTILE}.mkv"]


def test_the_page_reaches_nothing_outside_itself(coda: Coda, tmp_path: Path) -> None:
    clip(tmp_path / "a.mkv", frames=8)
    coda("video", "a.mkv", "--format", "none", "--html", "r.html")
    page = parsed(tmp_path / "r.html")
    sources = [value for _, a in page.elements for name, value in a.items() if name in ("src", "href", "xlink:href")]
    assert len(sources) == 1 + 6  # the first frame, and small overlays
    assert all(value and value.startswith("data:image/") for value in sources)
    assert not any(name.startswith("on") or name == "style" for _, a in page.elements for name in a)
    (script,) = [text for tag, text in page.texts if tag == "script" and text.startswith('"use strict"')]
    (style,) = [text for tag, text in page.texts if tag == "style"]
    assert not re.search(r"url\(|@import|https?:|fetch\(|XMLHttp|innerHTML", script + style)
    assert "filmOf" in script


def test_regions_and_coordinates_are_those_of_the_part_that_is_shown(coda: Coda, tmp_path: Path) -> None:
    clip(tmp_path / "a.mkv", frames=2)
    coda(
        "video", "a.mkv", "--box", "16,0,64,48", "--region", "part=20,10,40,30", "--format", "none", "--html", "r.html"
    )
    (entry, _) = parsed(tmp_path / "r.html").entries
    assert entry["place"]["origin"] == [16, 0]
    assert entry["place"]["source"] == {"path": "a.mkv", "width": 48, "height": 48}
    assert entry["place"]["view"]["box"] == [0, 0, 48, 48]
    assert entry["regions"] == [["part", [[[4, 10], [24, 10], [24, 30], [4, 30]]]]]


def test_frames_may_each_explain_their_own_class(coda: Coda, tmp_path: Path) -> None:
    clip(tmp_path / "a.mkv", frames=12)
    coda("video", "a.mkv", "--class-policy", "frame", "--format", "none", "--html", "r.html", "--scale", "frame")
    page = parsed(tmp_path / "r.html")
    assert all(e["said"][0]["title"] == e["record"]["top"][0]["name"] for e in page.entries)


def test_a_page_that_is_not_exact_says_so(coda: Coda, tmp_path: Path) -> None:
    clip(tmp_path / "a.mkv", frames=2)
    coda("video", "a.mkv", "--check", "0", "--format", "none", "--html", "r.html", status=4)
    assert any("NOT EXACT" in text for tag, text in parsed(tmp_path / "r.html").texts if tag == "p")


# ---- files that are there, disks and signals -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["a.mkv", "--html", "there.html"], "there.html: exists; --force replaces it, --html names another file"),
        (["a.mkv", "--html", "report"], "report: --html names a file that ends in .html"),
        (["camera:0", "--html", "r.html"], "--html: camera:0 ends with Ctrl-C, which leaves no page; add --seconds"),
        (["a.mkv", "b.mkv", "--class", "all", "-m", "imagenet", "--html", "r.html"], "--html: 2 clips of"),
    ],
)
def test_what_makes_no_page_is_refused_before_any_work(
    coda: Coda, tmp_path: Path, options: list[str], message: str
) -> None:
    clip(tmp_path / "a.mkv", frames=2)
    clip(tmp_path / "b.mkv", frames=2)
    (tmp_path / "there.html").write_bytes(THEIRS)
    before = tree(tmp_path)
    assert coda("video", *options, status=2).error.startswith(message)
    assert tree(tmp_path) == before


def test_a_page_that_is_there_is_replaced_when_asked(coda: Coda, tmp_path: Path) -> None:
    clip(tmp_path / "a.mkv", frames=2)
    (tmp_path / "r.html").write_bytes(THEIRS)
    coda("video", "a.mkv", "--format", "none", "--html", "r.html", "--force")
    assert len(parsed(tmp_path / "r.html").entries) == 2


def test_a_full_disk_leaves_no_half_of_a_page(coda: Coda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Kept, _: bytes) -> int:
        raise MediaError("cannot be written (No space left on device)", item=self._path)

    clip(tmp_path / "a.mkv", frames=2)
    monkeypatch.setattr(Kept, "add", full)
    error = coda("video", "a.mkv", "--html", "sub/r.html", status=1).errors[0]
    assert error == "sub/r.html: cannot be written (No space left on device)"
    assert not list((tmp_path / "coda-out").iterdir())


def test_ctrl_c_leaves_no_page(tmp_path: Path) -> None:
    clip(tmp_path / "a.mkv", frames=300)
    arguments = ("video", "a.mkv", "-c", "cat", "--scale", "1", "--no-strip", "--json", "--html", "r.html")
    with program.started(*arguments, cwd=tmp_path) as child:
        assert child.stdout is not None
        child.stdout.readline()  # the first frame is done
        child.send_signal(signal.SIGINT)
        rest = child.stdout.read().decode().splitlines()
        assert child.wait(timeout=program.PATIENCE) == 130
    assert json.loads(rest[-1])["status"] == "interrupted"
    assert sorted(os.listdir(tmp_path)) == ["a.mkv", "coda-out"]


def test_pictures_of_a_folder_are_a_clip_too(coda: Coda, tmp_path: Path) -> None:
    for n in range(3):
        photo(tmp_path / f"seq/f{n:03}.png", seed=n)
    result = coda("video", "seq", "--format", "none", "--json", "-q", "--html", "r.html")
    assert [record["schema"] for record in result.records] == ["coda.frame"] * 3 + ["coda.clip"]
    page: Parsed = parsed(tmp_path / "r.html")
    assert [entry["record"]["frame"] for entry in page.entries] == [0, 1, 2]
