"""The library as a user of Python meets it: what can be explained, what an explanation can do, what old code does."""

from __future__ import annotations

import asyncio
import copy
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Coda
from numpy.typing import NDArray
from PIL import Image
from program import photo, photos, scene, tree

import coda_cli as coda_package
from coda_cli import CodaError, Drawing, Explanation, Net, explain, explain_clip, explain_many, load
from coda_cli.errors import ExactnessError, MediaError, UsageError


@pytest.fixture(scope="module")
def net() -> Net:
    return load("cifar10")


def pixels() -> NDArray[np.uint8]:
    return scene(40, 36)


GREY = np.array(Image.fromarray(pixels()).convert("L"))
RGBA = np.dstack([pixels(), np.full(pixels().shape[:2], 255, np.uint8)])
SAME = {
    "PIL image": Image.fromarray(pixels()),
    "RGBA": RGBA,
    "16 bits": pixels().astype(np.uint16) * 257,
    "floats": pixels() / 255,
    "float32": (pixels() / 255).astype(np.float32),
    "reversed in memory": pixels()[::-1][::-1],
    "tensor": torch.from_numpy(pixels()).permute(2, 0, 1),
    "float tensor": torch.from_numpy(pixels()).permute(2, 0, 1) / 255,
    "tensor of another type": (torch.from_numpy(pixels()).permute(2, 0, 1) / 255).double(),
}


@pytest.mark.parametrize("name", SAME)
def test_every_kind_of_source_gives_the_same_explanation(net: Net, name: str) -> None:
    expected, found = explain(pixels(), net), explain(SAME[name], net)
    np.testing.assert_array_equal(found.view.rgb, expected.view.rgb)
    np.testing.assert_allclose(found.maps, expected.maps, atol=1e-6)


def test_a_file_gives_what_its_pixels_give(net: Net, tmp_path: Path) -> None:
    path = photo(tmp_path / "a.png")
    expected = explain(np.asarray(Image.open(path)), net)
    for source in (path, str(path)):
        np.testing.assert_allclose(explain(source, net).maps, expected.maps, atol=1e-6)
    assert explain(path, net).record().source.path == path.as_posix()


@pytest.mark.parametrize(
    "source",
    [GREY, GREY[..., None], torch.from_numpy(GREY), torch.from_numpy(GREY)[None]],
    ids=["array", "one channel", "tensor", "tensor of one channel"],
)
def test_grey_is_three_equal_colours(net: Net, source: Any) -> None:
    np.testing.assert_array_equal(explain(source, net).view.rgb, explain(np.dstack([GREY] * 3), net).view.rgb)


REFUSED: dict[str, tuple[Any, str]] = {
    "floats above 1": (pixels().astype(np.float32), "floats must lie in"),
    "standardised floats": (pixels() / 128 - 1.0, "floats must lie in"),
    "NaN": (np.full((4, 4, 3), np.nan), "floats must lie in"),
    "int64": (pixels().astype(np.int64), "pixels of type int64"),
    "booleans": (pixels() > 3, "pixels of type bool"),
    "a batch": (np.zeros((2, 8, 8, 3), np.uint8), "is not one picture"),
    "a batch of tensors": (torch.zeros(2, 3, 8, 8), "explain_many takes batches"),
    "channels last": (torch.zeros(8, 8, 3), "channels first"),
    "two channels": (np.zeros((8, 8, 2), np.uint8), "is not one picture"),
    "nothing": (np.zeros((0, 8, 3), np.uint8), "is not one picture"),
    "a list": ([[1, 2], [3, 4]], "list is not a picture"),
    "None": (None, "NoneType is not a picture"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_picture_is_refused_in_one_line(net: Net, name: str) -> None:
    source, said = REFUSED[name]
    with pytest.raises(UsageError, match=said) as error:
        explain(source, net)
    assert "\n" not in str(error.value)


def test_an_error_knows_its_item(net: Net, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("no picture")
    with pytest.raises(MediaError) as error:
        explain(tmp_path / "a.jpg", net)
    assert error.value.item == str(tmp_path / "a.jpg")
    assert str(error.value) == f"{tmp_path / 'a.jpg'}: {error.value.message}"
    assert error.value.about("another") is error.value
    assert error.value.item == str(tmp_path / "a.jpg")


def test_classes_and_differences(net: Net) -> None:
    e = explain(pixels(), net, ["cat", 3, "top:2"])
    assert [t.index for t in e.targets][-1] == 3
    apart = explain(pixels(), net, "cat", versus="dog")
    cat, dog = (explain(pixels(), net, name) for name in ("cat", "dog"))
    np.testing.assert_allclose(apart.maps, cat.maps - dog.maps, atol=1e-5)
    with pytest.raises(UsageError, match="cart"):
        explain(pixels(), net, "cart")


def test_the_numbers_of_an_explanation_belong_together(net: Net) -> None:
    e = explain(pixels(), net, "all")
    assert e.logits.shape == (10,)
    assert e.maps.shape == (10, 32, 32)
    assert e.residual.shape == (10,)
    record = e.record()
    for k, part in enumerate(record.explained):
        assert part.logit == pytest.approx(float(e.logits[part.index]), abs=1e-5)
        assert part.positive + part.negative + part.bias + part.residual == pytest.approx(part.logit, abs=1e-6)
        assert part.residual == e.residual[k]


# ---- drawing, showing, saving ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["overlay", "heatmap", "panel"])
def test_drawings_are_the_pictures_that_the_command_writes(coda: Coda, net: Net, tmp_path: Path, kind: str) -> None:
    path = photo(tmp_path / "a.png", 64, 48)
    record = coda("explain", "a.png", "--write", f"{kind},json", "-o", "out", "--json").record
    with Image.open(tmp_path / "out" / record["explained"][0]["files"][kind]) as written:
        drawn = getattr(explain(Path("a.png"), net), kind)()
        # The residual in the caption is rounding, which threads may do in another order: all above it is equal.
        height = int(drawn.height * 0.7)
        np.testing.assert_array_equal(np.asarray(drawn)[:height], np.asarray(written)[:height])
    assert path.exists()


def test_a_given_scale_and_style_are_drawn(net: Net) -> None:
    e = explain(pixels(), net, ["cat", "dog"])
    assert np.asarray(e.overlay(scale=1e-9)).tobytes() != np.asarray(e.overlay(scale=10.0)).tobytes()
    assert np.asarray(e.overlay(0)).tobytes() != np.asarray(e.overlay(1)).tobytes()
    assert np.asarray(e.overlay(style="colour")).tobytes() != np.asarray(e.overlay()).tobytes()
    with pytest.raises(UsageError, match="no target 2"):
        e.heatmap(2)


def test_saved_files_are_those_of_the_command(coda: Coda, net: Net, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    coda("explain", "a.png", "-o", "command", "--class", "top:2")
    written = explain(Path("a.png"), net, "top:2").save("library")
    assert {p.relative_to("library").as_posix() for p in written} == set(tree(tmp_path / "command"))
    assert written[-1].suffix == ".json"
    before = tree(tmp_path / "library")
    assert explain(Path("a.png"), net, "top:2").save("library") == written  # all of it is there
    assert tree(tmp_path / "library") == before
    # The command finds them as its own.
    assert "already there" in coda("explain", "a.png", "-o", "library", "--class", "top:2").err
    explain(Path("a.png"), net, "dog").save("library")  # beside it
    after = tree(tmp_path / "library")
    assert before.items() < after.items()
    photo(tmp_path / "a.png", seed=9)
    with pytest.raises(MediaError, match="exists from another"):
        explain(Path("a.png"), net, "dog").save("library")
    assert tree(tmp_path / "library") == after


def test_a_picture_without_a_file_is_saved_too(net: Net, tmp_path: Path) -> None:
    written = explain(pixels(), net, "cat").save(tmp_path, drawing=Drawing(kinds=("panel", "json")))
    assert [p.name for p in written] == ["picture.cat.panel.png", "picture.coda.json"]


def test_an_explanation_shows_itself(net: Net, tmp_path: Path) -> None:
    e = explain(photo(tmp_path / "<b>&.png"), net, "cat")
    assert "\n" not in repr(e)
    assert "cat, p 0." in repr(e)
    assert "residual" in repr(e)
    assert e._repr_png_().startswith(b"\x89PNG")
    page = e._repr_html_()
    assert "data:image/png;base64," in page
    assert "cat, p 0." in page
    assert "<b>" not in page


# ---- many ------------------------------------------------------------------------------------------------------------


def test_a_folder_is_explained_and_written(net: Net, tmp_path: Path) -> None:
    photos(tmp_path / "in", "a.png", "b.png")
    (tmp_path / "in" / "c.png").write_text("no picture")
    outcomes = list(explain_many(tmp_path / "in", net, output=tmp_path / "out"))
    assert [bool(o.error) for o in outcomes] == [False, False, True]
    assert len(tree(tmp_path / "out")) == 4
    assert not list(tmp_path.glob("coda-out"))


def test_nothing_is_written_unless_a_folder_is_named(net: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    photos(tmp_path / "in", "a.png", "b.png")
    before = tree(tmp_path)
    records = [o.record for o in explain_many(["in/a.png", Path("in/b.png")], net, "cat")]
    assert [r.explained[0].name for r in records if r] == ["cat", "cat"]
    assert tree(tmp_path) == before


def test_a_data_loader_is_explained(net: Net, tmp_path: Path) -> None:
    pictures = [scene(32, 32, seed) for seed in range(5)]
    tensors = torch.stack([torch.from_numpy(p).permute(2, 0, 1) for p in pictures])
    loader: Any = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(tensors, torch.arange(5)), batch_size=2)
    outcomes = list(explain_many(loader, net, output=tmp_path))
    assert [o.item.path.name for o in outcomes] == [f"picture-{n:06d}" for n in range(5)]
    for outcome, picture in zip(outcomes, pictures, strict=True):
        assert outcome.record
        assert outcome.record.explained[0].logit == pytest.approx(float(explain(picture, net).logits.max()), abs=1e-4)
    assert len(tree(tmp_path)) == 10
    plain = list(explain_many((p for p in pictures), net))  # any iterable of pictures
    assert [o.record.top for o in plain if o.record] == [o.record.top for o in outcomes if o.record]


def test_a_data_loader_is_taken_as_it_comes(net: Net) -> None:
    taken = 0

    def endless() -> Any:
        nonlocal taken
        while True:
            taken += 1
            yield pixels()

    outcomes = explain_many(endless(), net)
    for _ in range(3):
        assert next(outcomes).record
    outcomes.close()
    assert taken < 200
    with pytest.raises(UsageError, match="reads every picture twice"):
        next(explain_many(endless(), net, drawing=Drawing(scale="run"), output="out"))


def test_a_picture_among_others_that_is_none_costs_only_itself(net: Net) -> None:
    outcomes = list(explain_many([pixels(), pixels() * 2.0, pixels()], net))
    assert [bool(o.error) for o in outcomes] == [False, True, False]
    assert str(outcomes[1].error).startswith("picture-000001: ")


def test_an_array_is_a_picture_or_a_batch_and_paths_keep_their_names(net: Net, tmp_path: Path) -> None:
    assert len(list(explain_many(pixels(), net))) == 1
    assert len(list(explain_many(torch.zeros(3, 3, 32, 32), net))) == 3
    files = photos(tmp_path, "a.png", "b.png")
    assert [o.item.path for o in explain_many(iter(files), net)] == files
    mixed = [o.item.path for o in explain_many([files[0], pixels()], net)]
    assert mixed == [files[0], Path("picture-000000")]
    classes: Any = np.int64(3)
    assert explain(pixels(), net, classes).targets[0].index == 3


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"kinds": ("overly", "json")}, "there is no 'overly'"),
        ({"style": "pink"}, "signed, colour"),
        ({"scale": "clip"}, "image, run or a number"),
        ({"percentile": 200.0}, "from 0 to 100"),
        ({"alpha": 9.0}, "from 0 to 1"),
        ({"smooth": 4}, "an odd number"),
    ],
    ids=str,
)
def test_what_cannot_be_drawn_is_refused_at_once(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Drawing(**wrong)


def test_words_that_are_none_are_refused(net: Net, tmp_path: Path) -> None:
    wrong: Any = "foo"
    with pytest.raises(UsageError, match="crop, pad, native"):
        explain(pixels(), net, fit=wrong)
    with pytest.raises(UsageError, match="float32, float64, bfloat16"):
        explain(pixels(), net, precision=wrong)
    with pytest.raises(UsageError, match="match, error, skip"):
        explain(pixels(), net).save(tmp_path, if_exists=wrong)
    with pytest.raises(UsageError, match="clip, frame"):
        explain_clip("clip.mp4", net, policy=wrong)
    with pytest.raises(UsageError, match="layer='all'"):
        explain(pixels(), net).save(tmp_path, drawing=Drawing(kinds=("layers", "json")))
    layers = Drawing(kinds=("layers", "json"))
    (outcome,) = explain_many([pixels()], net, output=tmp_path, drawing=layers)
    assert outcome.written[0].suffix == ".png"


class Plain(torch.nn.Module):
    def __init__(self, add: float | None = None) -> None:
        super().__init__()
        self.layer, self.add = torch.nn.Conv2d(6, 10, 1), add

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.layer(x).mean((2, 3))
        return y if self.add is None else y + self.add * y.exp()


def test_any_module_is_explained_and_one_that_is_not_understood_refused(net: Net) -> None:
    e = explain(pixels(), Net(Plain(), net.checkpoint, net.path, "0"))
    assert e.decomposition.exactness == "piecewise linear"
    e = explain(pixels(), Net(Plain(0.0), net.checkpoint, net.path, "0"))
    assert e.decomposition.exactness == "held gates", "a function that is not known, though nothing of it is left"
    with pytest.raises(ExactnessError, match="not known to coda: exp"):
        explain(pixels(), Net(Plain(0.1), net.checkpoint, net.path, "0"))


def test_a_clip_is_explained(net: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for n in range(4):
        photo(tmp_path / "frames" / f"{n}.png", seed=n)
    clip = explain_clip("frames", net, "cat")
    frames = list(clip)
    assert [f.explained[0].name for f in frames] == ["cat"] * 4
    assert not list(tmp_path.glob("*.jsonl"))
    record = clip.save("out/clip.gif")
    assert record.frames == 4
    assert set(tree(tmp_path / "out")) == {"clip.gif", "clip.coda.jsonl"}
    with pytest.raises(UsageError, match="exists"):
        clip.save("out/clip.gif")
    assert clip.save("out/clip.gif", force=True).frames == 4
    with pytest.raises(UsageError, match="cart"):
        explain_clip("frames", net, "cart")


# ---- anywhere --------------------------------------------------------------------------------------------------------


def test_it_works_in_every_mode_thread_and_loop(net: Net) -> None:
    expected = explain(pixels(), net)

    def check(e: Explanation) -> None:
        np.testing.assert_allclose(e.maps, expected.maps, atol=1e-6)
        assert e.decomposition.exact.all()

    for mode in (torch.inference_mode, torch.no_grad, torch.enable_grad):
        with mode():
            check(explain(pixels(), net))
            assert all(o.record for o in explain_many([pixels()] * 3, net))
    with torch.inference_mode():
        check(explain(pixels(), load("cifar10")))
        check(explain(torch.from_numpy(pixels()).permute(2, 0, 1) / 255, net))

    async def in_a_loop() -> None:
        check(explain(pixels(), net))
        check(await asyncio.to_thread(explain, pixels(), net))

    asyncio.run(in_a_loop())
    with ThreadPoolExecutor(3) as pool:
        for e in pool.map(lambda _: explain(pixels(), net), range(6)):
            check(e)
    check(explain(pixels(), copy.deepcopy(net)))
    check(pickle.loads(pickle.dumps(expected)))
    check(copy.deepcopy(expected))


def test_precision_is_that_of_the_network(net: Net) -> None:
    with pytest.raises(UsageError, match="float64"):
        explain(pixels(), net, precision="float64")
    exact = explain(pixels(), "cifar10", precision="float64")
    np.testing.assert_allclose(exact.maps, explain(pixels(), net).maps, atol=1e-5)
    assert abs(exact.residual).max() < 1e-9


# ---- names -----------------------------------------------------------------------------------------------------------


def test_every_public_name_is_listed_and_there_and_described() -> None:
    assert set(coda_package.__all__) <= set(dir(coda_package))
    for name in coda_package.__all__:
        assert getattr(coda_package, name).__doc__, name
        assert name in (coda_package.__doc__ or ""), name
    with pytest.raises(AttributeError, match="no attribute 'explian'"):
        coda_package.explian  # noqa: B018


def test_listing_the_names_imports_no_torch() -> None:
    code = "import coda_cli, sys; print(len(dir(coda_cli)), len(coda_cli.__doc__), 'torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert int(said[0]) > len(coda_package.__all__)
    assert said[2] == "False"


def test_old_names_work_and_say_what_to_write_now(net: Net, tmp_path: Path) -> None:
    path = photo(tmp_path / "a.png")
    with pytest.warns(DeprecationWarning, match=r"explain\(source, net, classes\)"):
        old = coda_package.explain_image  # type: ignore[attr-defined]
    with pytest.warns(DeprecationWarning, match="keywords of explain"):
        request = coda_package.Request(classes=("cat",))  # type: ignore[attr-defined]
    np.testing.assert_array_equal(old(path, net, request).maps, explain(path, net, "cat").maps)
    old_names = {}
    for name, now in {"Naming": "output=FOLDER", "Output": "if_exists=", "resolve": "photos/"}.items():
        with pytest.warns(DeprecationWarning, match=now) as said:
            old_names[name] = getattr(coda_package, name)
        assert said[0].filename == __file__
    naming, output, resolve = old_names.values()
    items, written = resolve([str(path)]), output(naming(tmp_path / "out", "cifar10"), Drawing())
    with pytest.warns(DeprecationWarning, match="explain_many"):
        outcomes: Any = coda_package.explain_many(net, items, request, written)
    assert [o.record.explained[0].name for o in outcomes] == ["cat"]
    assert len(tree(tmp_path / "out")) == 2
    selection, drawing = coda_package.Selection(max_frames=2), coda_package.ClipDrawing()
    with pytest.warns(DeprecationWarning, match=r"save\(FILE\)"):
        outputs = coda_package.ClipOutputs({}, tmp_path / "records.jsonl")  # type: ignore[attr-defined]
    with pytest.warns(DeprecationWarning, match=r"save\(FILE\)"):
        records: Any = coda_package.explain_clip(net, str(path.parent), selection, request, drawing, outputs)
    assert [r.schema_name for r in records] == ["coda.frame", "coda.clip"]


def test_errors_of_the_library_are_coda_errors(net: Net, tmp_path: Path) -> None:
    for call in (lambda: load("missing"), lambda: explain(tmp_path / "missing.png", net), lambda: explain("", net)):
        with pytest.raises(CodaError):
            call()
