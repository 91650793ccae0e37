"""``coda video`` as a program: what it prints, what it writes, and that a clip's numbers are those of its frames."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import imageio.v3 as iio
import jsonschema
import numpy as np
import program
import pytest
from conftest import Coda
from numpy.typing import NDArray
from PIL import Image
from program import photo, scene, strict_json, tree

import coda_cli
from coda_cli.errors import MediaError
from coda_cli.explanation.picture import explain_batch
from coda_cli.schema.clips import FrameRecord
from coda_cli.video.reading import ClipWriter, Reader

WIDTH, HEIGHT = 64, 48


def frame(seed: int, n: int, width: int = WIDTH, height: int = HEIGHT) -> NDArray[np.uint8]:
    """A scene that moves to the right by two pixels a frame."""
    return np.roll(scene(width, height, seed), 2 * n, 1)


def clip(path: Path, frames: int = 10, rate: Fraction = Fraction(10), seed: int = 3, **size: int) -> Path:
    """A lossless clip, so that its frames are known."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=rate, options={"g": "5"})
        shape = frame(seed, 0, **size).shape
        stream.width, stream.height, stream.pix_fmt = shape[1], shape[0], "bgr0"
        for n in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame(seed, n, **size), format="rgb24")))
        container.mux(stream.encode())
    return path


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [strict_json(line) for line in path.read_text().splitlines()]


def decoded(path: Path) -> list[NDArray[np.uint8]]:
    return [f.rgb for f in Reader(path)]


# ---- what it writes --------------------------------------------------------------------------------------------------


def test_a_clip_becomes_a_clip_and_a_record_of_every_frame(coda: Coda, tmp_path: Path) -> None:
    clip(tmp_path / "a.mkv")
    result = coda("video", "a.mkv")
    assert result.lines == [str(Path("coda-out/a.coda.mp4")), str(Path("coda-out/a.coda.jsonl"))]
    *frames, whole = lines_of(tmp_path / "coda-out/a.coda.jsonl")
    assert [f["frame"] for f in frames] == list(range(10))
    assert [f["time"] for f in frames] == pytest.approx([n / 10 for n in range(10)])
    assert whole["schema"] == "coda.clip"
    assert (whole["status"], whole["frames"], whole["lost"], whole["exact"]) == ("ok", 10, 0, True)
    assert whole["files"] == {"mp4": "coda-out/a.coda.mp4"}
    made = list(Reader(tmp_path / "coda-out/a.coda.mp4"))
    assert [f.time for f in made] == pytest.approx([n / 10 for n in range(10)], abs=1e-3)
    height, width, _ = made[0].rgb.shape
    assert height % 2 == width % 2 == 0


def test_every_line_is_valid_by_the_schema_and_streams_to_stdout(coda: Coda, tmp_path: Path) -> None:
    clip(tmp_path / "a.mkv", frames=5)
    schema = strict_json(coda("schema", "video").out)
    jsonschema.Draft202012Validator.check_schema(schema)
    result = coda("video", "a.mkv", "--class", "top:2", "--json", "-q")
    for record in result.records:
        jsonschema.validate(record, schema)
        spoiled = {**record, "unknown": 1}
        assert not jsonschema.Draft202012Validator(schema).is_valid(spoiled)
    assert result.records == lines_of(tmp_path / "coda-out/a.coda.jsonl")


def test_the_numbers_of_a_frame_are_those_of_its_picture(coda: Coda, tmp_path: Path) -> None:
    clip(tmp_path / "a.mkv", frames=4)
    records = coda("video", "a.mkv", "--class", "cat", "--format", "none", "--json", "-q").records
    net = coda_cli.load("cifar10")
    for n, record in enumerate(records[:-1]):
        expected = coda_cli.explain(frame(3, n), net, "cat")
        (part,) = record["explained"]
        d = expected.decomposition
        assert part["logit"] == pytest.approx(float(d.logit[0, 0]), abs=1e-4)
        pixels = expected.maps[0].astype(float)
        assert part["positive"] == pytest.approx(pixels[pixels > 0].sum(), rel=1e-4)
        assert part["negative"] == pytest.approx(pixels[pixels < 0].sum(), rel=1e-4)
        assert part["logit"] == pytest.approx(
            part["positive"] + part["negative"] + part["bias"] + part["residual"], abs=1e-4
        )
        assert record["top"][0]["logit"] == pytest.approx(float(d.logits.max()), abs=1e-4)
    similar = [record["explained"][0]["similarity"] for record in records[:-1]]
    assert similar[0] is None
    assert all(-1 <= s <= 1 for s in similar[1:])


def test_the_summary_is_that_of_its_frames(coda: Coda, tmp_path: Path) -> None:
    clip(tmp_path / "a.mkv", frames=12)
    told = coda("video", "a.mkv", "--class", "cat", "--format", "none", "--json")
    *frames, whole = told.records
    (cat,) = whole["explained"]
    parts = [f["explained"][0] for f in frames]
    for sign in ("positive", "negative", "positional", "bias"):
        assert cat[f"mean_{sign}"] == pytest.approx(np.mean([p[sign] for p in parts]))
    said = re.search(r"mean logit (\S+) = (\S+) (\S+) (\S+) bias, highest logit", told.err)
    assert said
    logit, *terms = map(float, said.groups())
    assert sum(terms) == pytest.approx(logit, abs=0.02)  # what is said has two decimals
    assert all(terms)
    assert cat["mean_logit"] == pytest.approx(np.mean([p["logit"] for p in parts]))
    assert cat["evidence_per_second"] == pytest.approx(np.mean([p["positive"] for p in parts]))
    assert cat["stability"] == pytest.approx(np.mean([p["similarity"] for p in parts[1:]]))
    votes = [f["top"][0]["name"] for f in frames]
    assert {p["name"]: p["share"] for p in whole["predicted"]} == pytest.approx(
        {name: votes.count(name) / 12 for name in set(votes)}
    )
    used = [abs(p["residual"]) / p["tolerance"] for p in parts]
    assert whole["worst_residual"] == pytest.approx(max(used))
    led = sum(end - start for start, end in cat["leads"])
    assert led == pytest.approx(votes.count("cat") / 10)


def test_the_class_of_a_clip_is_the_one_predicted_most_often(coda: Coda, tmp_path: Path) -> None:
    clip(tmp_path / "a.mkv", frames=12)
    *frames, whole = coda("video", "a.mkv", "--format", "none", "--json", "-q").records
    assert {f["explained"][0]["name"] for f in frames} == {whole["predicted"][0]["name"]}
    each = coda("video", "a.mkv", "--class-policy", "frame", "--format", "none", "--json", "-q", "-f").records[:-1]
    for record in each:
        assert record["explained"][0]["name"] == record["top"][0]["name"]


def test_several_classes_and_differences(coda: Coda, tmp_path: Path) -> None:
    clip(tmp_path / "a.mkv", frames=3)
    records = coda("video", "a.mkv", "-c", "cat", "-c", "dog", "--json", "-q").records
    assert [e["name"] for e in records[0]["explained"]] == ["cat", "dog"]
    wide = decoded(tmp_path / "coda-out/a.coda.mp4")[0].shape[1]
    versus = coda("video", "a.mkv", "-c", "cat", "--versus", "dog", "--json", "-q", "-f").records
    cat, dog = (e["logit"] for e in records[1]["explained"])
    (difference,) = versus[1]["explained"]
    assert difference["logit"] == pytest.approx(cat - dog, abs=1e-4)
    assert difference["probability"] is None
    assert decoded(tmp_path / "coda-out/a.coda.mp4")[0].shape[1] < wide


# ---- pictures --------------------------------------------------------------------------------------------------------


def test_the_original_stands_beside_its_overlay(coda: Coda, tmp_path: Path) -> None:
    clip(tmp_path / "a.mkv", frames=3, width=360, height=240)
    coda("video", "a.mkv", "--format", "png", "--class", "cat")
    drawn = sorted((tmp_path / "coda-out/a.coda").glob("*.png"))
    assert len(drawn) == 3
    for n, path in enumerate(drawn):
        picture = np.asarray(Image.open(path))
        np.testing.assert_array_equal(picture[:240, :360], frame(3, n, 360, 240))
        shown = picture[:240, 368:728].astype(int)
        grey = np.abs(shown.max(2) - shown.min(2))
        assert grey[:, 5:55].max() == 0, "outside the centre crop nothing is coloured"
        assert grey[:, 60:300].max() > 30


def test_one_scale_holds_for_the_whole_clip_unless_asked_otherwise(coda: Coda, tmp_path: Path) -> None:
    clip(tmp_path / "a.mkv", frames=6)

    def scales(*options: str) -> tuple[list[float], Any, Any]:
        *frames, whole = coda("video", "a.mkv", "-c", "cat", "--format", "none", "--json", "-q", "-f", *options).records
        return [f["explained"][0]["scale"] for f in frames], whole["scale"], whole["scale_frames"]

    one, stated, count = scales()
    assert set(one) == {stated}
    assert count == 6
    net = coda_cli.load("cifar10")
    maps = np.stack([coda_cli.explain(frame(3, n), net, "cat").maps[0] for n in range(6)])
    low, high = np.percentile(np.abs(maps), [99.45, 99.55])  # between two values of few, any number will do
    assert low * 0.997 <= stated <= high * 1.003
    each, stated, count = scales("--scale", "frame")
    assert len(set(each)) > 1
    assert (stated, count) == ("frame", None)
    assert scales("--scale", "0.25")[:2] == ([0.25] * 6, 0.25)
    own = net.checkpoint.full_colour
    assert scales("--scale", "network") == ([own] * 6, own, None)
    assert scales("--scale", "network", "--fit", "native")[2] == 6, "it is stated for the network's size, so not here"


@pytest.mark.parametrize("layout", ["side", "overlay", "heatmap", "panel"])
def test_layouts_have_their_pictures(coda: Coda, tmp_path: Path, layout: str) -> None:
    clip(tmp_path / "a.mkv", frames=2)
    coda("video", "a.mkv", "--layout", layout, "--no-strip", "--format", "png", "--height", "48", "--centroid")
    first = np.asarray(Image.open(min((tmp_path / "coda-out/a.coda").glob("*.png"))))
    count = {"side": 2, "overlay": 1, "heatmap": 1, "panel": 3}[layout]
    assert first.shape[1] == count * 64 + (count - 1) * 8


@pytest.mark.parametrize("suffix", ["gif", "webm", "webp", "mp4"])
def test_every_kind_of_output_is_written_and_lasts_as_long_as_its_source(
    coda: Coda, tmp_path: Path, suffix: str
) -> None:
    clip(tmp_path / "a.mkv", frames=8)
    result = coda("video", "a.mkv", "-o", f"made.{suffix}", "--height", "48")
    assert result.lines == [f"made.{suffix}", "made.coda.jsonl"]
    frames = list(Reader(tmp_path / f"made.{suffix}"))
    assert len(frames) == 8
    assert frames[-1].time == pytest.approx(0.7, abs=0.02)
    if suffix == "gif":
        with Image.open(tmp_path / "made.gif") as image:
            total = 0
            for n in range(8):
                image.seek(n)
                total += image.info["duration"]
        assert total == 800


def test_parts_of_a_clip(coda: Coda, tmp_path: Path) -> None:
    clip(tmp_path / "a.mkv", frames=20)

    def frames(*options: str) -> list[int]:
        records = coda("video", "a.mkv", "-c", "0", "--format", "none", "--json", "-q", "-f", *options).records
        return [r["frame"] for r in records[:-1]]

    assert frames("--start", "0.5", "--end", "00:00:00.9") == [5, 6, 7, 8]
    assert frames("--start", "0.5", "--seconds", "0.4") == [5, 6, 7, 8]
    assert frames("--seconds", "0.2") == [0, 1]
    assert "give one of them" in coda("video", "a.mkv", "--end", "1", "--seconds", "1", "-f", status=2).error
    assert frames("--every", "6") == [0, 6, 12, 18]
    assert frames("--max-frames", "3") == [0, 1, 2]
    assert len(frames("--fps", "5")) == 10
    shown = ("--format", "png", "--height", "48", "--no-strip", "--max-frames", "2")
    boxed = coda("video", "a.mkv", "--box", "0,0,0.5,1", *shown, "-f")
    first = np.asarray(Image.open(min(Path(boxed.lines[0]).glob("*.png"))))
    np.testing.assert_array_equal(first[:48, :32], frame(3, 0)[:, :32])


def test_coordinates_are_the_source_s_whatever_part_is_shown(coda: Coda, tmp_path: Path) -> None:
    clip(tmp_path / "a.mkv", frames=2)
    *frames, whole = coda("video", "a.mkv", "--box", "32,0,64,48", "--format", "none", "--json", "-q").records
    assert whole["view"]["box"] == [32, 8, 64, 40]
    assert all(32 <= f["explained"][0]["centroid"][0] <= 64 for f in frames)


def test_frames_keep_their_size_when_each_explains_its_own_classes(coda: Coda, tmp_path: Path) -> None:
    clip(tmp_path / "a.mkv", frames=12)
    coda("video", "a.mkv", "-c", "top:2", "-c", "cat", "--class-policy", "frame", "--format", "png", "--height", "48")
    shapes = {np.asarray(Image.open(p)).shape[:2] for p in (tmp_path / "coda-out/a.coda").glob("*.png")}
    assert len(shapes) == 1
    assert next(iter(shapes))[1] == 4 * 64 + 3 * 8


def test_the_record_comes_after_the_clip_or_not_at_all(
    coda: Coda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip(tmp_path / "a.mkv", frames=3)

    def full(self: ClipWriter) -> None:
        raise MediaError(f"{self.path}: cannot be written (No space left on device)")

    monkeypatch.setattr(ClipWriter, "finish", full)
    result = coda("video", "a.mkv", status=1)
    assert result.error.endswith("cannot be written (No space left on device)")
    assert not [p.name for p in (tmp_path / "coda-out").iterdir() if p.suffix == ".jsonl"]


def test_an_input_is_never_an_output(coda: Coda, tmp_path: Path) -> None:
    clip(tmp_path / "a.mkv", frames=2)
    coda("video", "a.mkv", "-o", "b.mp4", "--height", "48")
    before = (tmp_path / "b.mp4").read_bytes()
    refused = coda("video", "a.mkv", "b.mp4", "-o", "b.mp4", "-f", status=2)
    assert refused.error.startswith("--output b.mp4: is one file for 2 clips")
    refused = coda("video", "b.mp4", "-o", "b.mp4", "-f", status=2)
    assert refused.error == "b.mp4: is one of the inputs and is not overwritten; choose another --output"
    assert (tmp_path / "b.mp4").read_bytes() == before


def test_picture_sequences_and_several_sources(coda: Coda, tmp_path: Path) -> None:
    for n in range(4):
        photo(tmp_path / f"seq/f{n:03}.png", seed=n)
    clip(tmp_path / "b.mkv", frames=2)
    result = coda("video", "seq", "b.mkv", "--format", "none", "--json", "-q")
    wholes = [r for r in result.records if r["schema"] == "coda.clip"]
    assert [(w["source"]["path"], w["frames"]) for w in wholes] == [("seq", 4), ("b.mkv", 2)]
    assert sorted(p.name for p in (tmp_path / "coda-out").iterdir()) == ["b.coda.jsonl", "seq.coda.jsonl"]
    pattern = coda("video", "seq/f%03d.png", "--fps", "2", "--format", "none", "--json", "-q")
    assert [r["time"] for r in pattern.records[:-1]] == [0, 0.5, 1, 1.5]


# ---- what goes wrong -------------------------------------------------------------------------------------------------


def test_one_bad_clip_among_several_costs_only_itself(coda: Coda, tmp_path: Path) -> None:
    clip(tmp_path / "a.mkv", frames=2)
    (tmp_path / "text.mp4").write_text("not a clip")
    (tmp_path / "empty.mp4").touch()
    result = coda("video", "text.mp4", "a.mkv", "empty.mp4", status=1)
    assert [error.split(":")[0] for error in result.errors] == ["text.mp4", "empty.mp4"]
    assert sorted(p.name for p in (tmp_path / "coda-out").iterdir()) == ["a.coda.jsonl", "a.coda.mp4"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--class", "spaceship"], "'cifar10' has no class 'spaceship'"),
        (["--start", "soon"], "'soon' is not a time"),
        (["--start", "3", "--end", "2"], "no frame lies between"),
        (["--box", "0,0,9"], "is not a box"),
        (["--box", "dog=0,0,9,9"], "--region sums inside a box that has a name"),
        (["--scale", "0"], "--scale 0: expected network, clip, frame or a positive number"),
        (["-o", "a.avi"], "--output a.avi: clips are written as"),
        (["--format", "avi"], "--format avi: choose from"),
        (["-o", "a.mkv"], "--output a.mkv: clips are written as"),
        (["--every", "2", "--fps", "5"], "every and fps both choose frames"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_written(
    coda: Coda, tmp_path: Path, options: Sequence[str], message: str
) -> None:
    clip(tmp_path / "a.mkv", frames=2)
    before = {p.name for p in tmp_path.iterdir()} | {"coda-out"}
    result = coda("video", "a.mkv", *options, status=2)
    assert message in result.error
    assert {p.name for p in tmp_path.iterdir()} <= before
    assert not list(tmp_path.glob("coda-out/*"))


def test_existing_outputs_stay_unless_forced(coda: Coda, tmp_path: Path) -> None:
    clip(tmp_path / "a.mkv", frames=2)
    coda("video", "a.mkv", "-o", "a.gif")
    kept = (tmp_path / "a.gif").read_bytes()
    refused = coda("video", "a.mkv", "-o", "a.gif", status=2)
    assert refused.error.startswith("a.gif: exists; --force replaces it")
    assert (tmp_path / "a.gif").read_bytes() == kept
    coda("video", "a.mkv", "-o", "a.gif", "--force", "--layout", "heatmap")
    assert (tmp_path / "a.gif").read_bytes() != kept
    (tmp_path / "sub").mkdir()
    clip(tmp_path / "sub/a.mkv", frames=2)
    assert "would both be written to" in coda("video", "a.mkv", "sub/a.mkv", "-o", "out", status=2).error
    assert coda("video", "missing.mp4", status=2).error == "missing.mp4: no such file or folder"


def test_clips_of_other_settings_and_formats_live_side_by_side(coda: Coda, tmp_path: Path) -> None:
    clip(tmp_path / "a.mkv", frames=2)
    coda("video", "a.mkv", "--class", "cat", "--format", "gif")
    first = tree(tmp_path / "coda-out")
    names = set(first)
    changes = [
        ("--class", "dog", "--format", "gif"),
        ("--class", "cat", "--format", "gif", "--layout", "heatmap"),
        ("--class", "cat", "--format", "webp"),
        ("--class", "cat", "--format", "gif", "-m", "cifar10-bcos"),
    ]
    for change in changes:
        written = coda("video", "a.mkv", *change).lines
        added = set(tree(tmp_path / "coda-out")) - names
        assert {f"coda-out/{name}" for name in added} == set(written)
        assert all(re.search(r"/a\.[0-9a-f]{8}\.coda\.(gif|webp|jsonl)$", name) for name in written)
        assert lines_of(tmp_path / written[-1])[-1]["status"] == "ok"
        names |= added
    assert first.items() < tree(tmp_path / "coda-out").items()
    for change in [("--class", "cat", "--format", "gif"), *changes]:  # all of it is there
        assert "exists; --force replaces it" in coda("video", "a.mkv", *change, status=2).error
    clip(tmp_path / "a.mkv", frames=3)  # another clip of the same name
    assert "exists; --force replaces it" in coda("video", "a.mkv", "--format", "gif", status=2).error
    assert set(tree(tmp_path / "coda-out")) == names


def test_an_inexact_frame_has_its_exit_code(coda: Coda, tmp_path: Path) -> None:
    clip(tmp_path / "a.mkv", frames=2)
    result = coda("video", "a.mkv", "--check", "0", "--format", "none", status=4)
    assert "NOT EXACT" in result.err
    assert lines_of(tmp_path / "coda-out/a.coda.jsonl")[-1]["exact"] is False


def test_interrupted_runs_leave_a_valid_shorter_clip(tmp_path: Path) -> None:
    clip(tmp_path / "a.mkv", frames=300)
    with program.started("video", "a.mkv", "-c", "cat", "--scale", "1", "--no-strip", "--json", cwd=tmp_path) as child:
        assert child.stdout is not None
        for _ in range(5):
            child.stdout.readline()
        child.send_signal(signal.SIGINT)
        rest = child.stdout.read().decode().splitlines()
        result = program.Result(
            (), child.wait(program.PATIENCE), "", child.stderr.read().decode() if child.stderr else ""
        )
    assert result.exit_status == 130
    assert strict_json(rest[-1])["status"] == "interrupted"
    assert "a.mkv: interrupted: its first" in result.err
    *frames, whole = lines_of(tmp_path / "coda-out/a.coda.jsonl")
    assert whole["status"] == "interrupted"
    assert 5 <= len(frames) == whole["frames"] < 300
    assert len(decoded(tmp_path / "coda-out/a.coda.mp4")) == len(frames)
    assert not [p.name for p in (tmp_path / "coda-out").iterdir() if p.name.startswith(".")]


def test_nothing_is_left_of_a_clip_that_cannot_be_finished(
    coda: Coda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip(tmp_path / "a.mkv", frames=30)
    calls = 0

    def failing(*args: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > 1:  # the second batch
            raise MemoryError
        return explain_batch(*args, **more)

    monkeypatch.setattr("coda_cli.explanation.clip.survey.explain_batch", failing)
    result = coda("video", "a.mkv", "--scale", "1", "-c", "0", status=1)
    assert result.error.startswith("a.mkv: not enough memory for ")
    assert not list((tmp_path / "coda-out").iterdir())


def test_imageio_reads_what_was_written(coda: Coda, tmp_path: Path) -> None:
    clip(tmp_path / "a.mkv", frames=4)
    coda("video", "a.mkv", "-o", "a.mp4")
    assert len(list(iio.imiter(tmp_path / "a.mp4", plugin="pyav"))) == 4


def test_a_format_beside_a_file_that_says_another_is_refused(coda: Coda, tmp_path: Path) -> None:
    clip(tmp_path / "a.mkv", frames=1)
    assert "--format is for a folder" in coda("video", "a.mkv", "-o", "a.mp4", "--format", "gif", status=2).error


def test_ctrl_c_before_the_first_frame_says_that_nothing_is_kept(
    coda: Coda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object, **__: object) -> Any:
        raise KeyboardInterrupt
        yield

    clip(tmp_path / "a.mkv", frames=3)
    monkeypatch.setattr("coda_cli.explanation.clip.run.ClipExplanation.records", stopped)
    result = coda("video", "a.mkv", status=130)
    assert result.err == "coda: a.mkv: interrupted before its first frame was written; nothing is kept\n"

    def stopped_later(*_: object, **__: object) -> Any:
        yield FrameRecord.model_construct()
        raise KeyboardInterrupt

    monkeypatch.setattr("coda_cli.explanation.clip.run.ClipExplanation.records", stopped_later)
    assert coda("video", "a.mkv", status=130).err == "coda: interrupted\n"


def test_a_colour_explanation_of_an_unlikely_class_can_be_seen(coda: Coda, tmp_path: Path) -> None:
    clip(tmp_path / "a.mkv", frames=1)
    (frame, _) = coda("video", "a.mkv", "-c", "all", "--format", "none", "--json", "-q").records
    least = min(frame["explained"], key=lambda part: part["probability"])
    assert least["probability"] < 0.05
    coda(
        "video",
        "a.mkv",
        "-c",
        least["name"],
        "--style",
        "colour",
        "--layout",
        "overlay",
        "--format",
        "png",
        "--no-strip",
    )
    (drawn,) = (tmp_path / "coda-out").rglob("*.png")
    pixels = np.asarray(Image.open(drawn)).astype(int)
    assert (pixels.max(2) - pixels.min(2)).max() > 25  # it was white
