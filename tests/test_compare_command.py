"""coda compare: sheets, arrays and records of one picture under many methods."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
import torchvision
from conftest import Coda
from PIL import Image
from program import photo, woollen

from coda_cli.checkpoints.manifest import Checkpoint, Preprocessing
from coda_cli.checkpoints.saving import save
from coda_cli.cli.console import console
from coda_cli.core.networks import build
from coda_cli.errors import MediaError
from coda_cli.explanation import compare as comparisons
from coda_cli.schema.comparisons import Comparison, MethodPart
from coda_cli.study.by_name import KnownMethod

QUICK = ("--method", "ours", "--method", "gradient", "--method", "occlusion:window=8,stride=8")


def test_everything_is_written_and_adds_up(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    result = coda("compare", "a.png", *QUICK, "-c", "cat", "-c", "dog", "--json")
    schema = json.loads(coda("schema", "compare").out)
    assert [r["explained"]["name"] for r in result.records] == ["cat", "dog"]
    for record in result.records:
        jsonschema.validate(record, schema)
        folder = tmp_path / "coda-out"
        with np.load(folder / record["files"]["npz"]) as arrays:
            assert arrays["maps"].shape == (3, 32, 32)
            assert arrays["methods"].tolist() == ["ours", "gradient", "occlusion:window=8,stride=8"]
            for part, pixels in zip(record["methods"], arrays["maps"], strict=True):
                assert part["sum"] == pytest.approx(float(pixels.sum(dtype=np.float64)), abs=1e-6)
                assert part["off"] == pytest.approx(part["sum"] - (record["logit"] - record["bias"]), abs=1e-6)
        ours, *others = record["methods"]
        assert abs(ours["off"]) < 1e-4
        assert all(abs(part["off"]) > 1e-2 for part in others)
        assert json.loads((folder / record["files"]["json"]).read_text()) == record
        with Image.open(folder / record["files"]["png"]) as sheet:
            assert sheet.width > 4 * 320
    explained = coda("explain", "a.png", "-c", "cat", "--json", "--write", "none").records[0]["explained"][0]
    assert result.records[0]["logit"] == pytest.approx(explained["logit"], abs=1e-5)


def test_all_methods_are_the_default(coda: Coda, tmp_path: Path) -> None:
    # With their own parameters, 1000 masks among them; on a network of one layer, which all of them take.
    arguments = {"channels": [6, 3], "kernels": [3], "strides": [2], "ranks": [2], "norm": "SQ", "temperature": 1.0}
    checkpoint = Checkpoint(
        name="tiny",
        architecture="coda_net",
        arguments=arguments,
        classes=("a", "b", "c"),
        preprocessing=Preprocessing(resize=16, crop=16),
    )
    save(build("coda_net", arguments), checkpoint, tmp_path / "tiny.safetensors")
    photo(tmp_path / "a.png")
    record = coda("compare", "a.png", "-m", "tiny.safetensors", "--json").record
    assert [part["method"] for part in record["methods"]] == [
        "ours",
        "gradient",
        "input-x-gradient",
        "integrated-gradients",
        "deeplift",
        "grad-cam",
        "guided-backprop",
        "occlusion:window=4,stride=2",
        "lime",
        "rise:masks=1000",
    ]
    assert record["left_out"] == {}


def test_an_ordinary_network_is_compared_at_its_cut(coda: Coda, tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), tmp_path / "r.pth")
    photo(tmp_path / "a.png", 60, 60)
    network = ("-m", "r.pth", "--arch", "torchvision:resnet18")
    record = coda("compare", "a.png", *network, "--method", "grad-cam", "--method", "gradient", "--json").record
    assert record["network"]["architecture"] == "torchvision"
    record = coda("compare", "a.png", *network, "--method", "ours", "-o", "out", "--json").record
    assert record["network"]["cut"] == "maxpool"  # without biases, as torchvision draws it, all layers carry everything
    (ours,) = record["methods"]
    assert ours["sum"] == pytest.approx(record["logit"] - record["bias"], abs=1e-4)


def test_a_method_that_does_not_fit_the_network_is_left_out_and_named(coda: Coda, tmp_path: Path) -> None:
    torch.manual_seed(0)
    arguments = {"dim": 64, "depth": 1, "patch": 8, "hidden": 32, "classes": 3, "bias": -1.0}
    checkpoint = Checkpoint(
        name="small",
        architecture="bcos_vit",
        arguments=arguments,
        classes=("a", "b", "c"),
        preprocessing=Preprocessing(resize=16, crop=16),
    )
    save(build("bcos_vit", arguments), checkpoint, tmp_path / "vit.safetensors")
    photo(tmp_path / "a.png")
    result = coda("compare", "a.png", "-m", "vit.safetensors", "--json")
    assert list(result.record["left_out"]) == ["grad-cam"]
    assert "without grad-cam: Grad-CAM needs a network whose last layers give maps" in result.err
    assert result.record["methods"][0]["method"] == "ours"
    refused = coda("compare", "a.png", "-m", "vit.safetensors", "--method", "grad-cam", "--force", status=1)
    assert refused.error == "a.png: Grad-CAM needs a network whose last layers give maps; this one has none"
    (tmp_path / "a").write_bytes((tmp_path / "a.png").read_bytes())  # a name that the message holds anyway
    named = coda("compare", "a", "-m", "vit.safetensors", "--method", "grad-cam", "-f", status=1)
    assert named.error.startswith("a: Grad-CAM needs")


def test_an_inexact_map_is_never_passed_over(coda: Coda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photo(tmp_path / "a.png")
    monkeypatch.setattr("coda_cli.core.decompose.RELATIVE_TOLERANCE", {torch.float32: 0.0})
    assert "NOT EXACT: a residual is inf times its tolerance" in coda("compare", "a.png", status=4).error


def test_what_is_there_is_seen_before_anything_is_computed(
    coda: Coda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo(tmp_path / "a.png")
    coda("compare", "a.png", "--method", "ours")
    monkeypatch.setattr("coda_cli.explanation.compare.method_of", lambda _: pytest.fail("computed for nothing"))
    assert "exists" in coda("compare", "a.png", "--method", "ours", status=1).error


def test_where_no_method_works_it_is_said(coda: Coda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no luck")

    photo(tmp_path / "a.png")
    monkeypatch.setattr("coda_cli.study.by_name.METHODS", {"gradient": KnownMethod(broken)})
    monkeypatch.setattr("coda_cli.explanation.compare.default_methods", lambda *_: ("gradient",))
    assert (
        "no method works with cifar10: gradient does not work here: no luck" in coda("compare", "a.png", status=1).error
    )
    assert not list((tmp_path / "coda-out").iterdir())


def test_mistakes_are_one_line(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("no picture")
    assert "no such method" in coda("compare", "a.png", "--method", "magic", status=2).error
    assert "no class" in coda("compare", "a.png", *QUICK, "-c", "unicorn", status=2).error
    mixed = coda("compare", "a.png", "b.png", "--method", "ours", "--json", status=1)
    assert [r["status"] for r in mixed.records] == ["ok", "error"]
    jsonschema.validate(mixed.records[1], json.loads(coda("schema", "compare").out))
    assert "b.png" in mixed.error
    assert (
        len(coda("explain", ".", "-r", "-o", "other", "--write", "none", "--json", status=1).records) == 2
    )  # no sheets
    there = coda("compare", "a.png", "--method", "ours", status=1)
    assert "--force replaces it" in there.error
    same = coda("compare", "a.png", photo(tmp_path / "x" / "a.png"), "--method", "ours", status=2)
    other = tmp_path / "x" / "a.png"
    assert same.error == (
        f"a.png and {other} would both be written as coda-out/a.class.compare.png; compare them in two runs, with an "
        "--output each"
    )
    photo(tmp_path / "b[1].png")
    coda("compare", "b[1].png", "--method", "ours")
    assert "--force" in coda("compare", "b[1].png", "--method", "ours", status=1).error
    coda("compare", "a.png", "--method", "ours", "--force")
    assert not list((tmp_path / "coda-out").glob(".*"))


def test_classes_of_one_file_name_do_not_replace_each_other(coda: Coda, tmp_path: Path) -> None:
    woollen(tmp_path / "net.safetensors")
    photo(tmp_path / "a.png")
    both = coda("compare", "a.png", "-m", "net.safetensors", "-c", "0", "-c", "1", "--method", "ours", "--json")
    names = [record["files"][kind] for record in both.records for kind in ("png", "npz", "json")]
    assert len(set(names)) == 6
    assert all((tmp_path / "coda-out" / name).exists() for name in names)
    # Both from one computation are what each is alone.
    alone = coda("compare", "a.png", "-m", "net.safetensors", "-c", "1", "--method", "ours", "--json", "-o", "o").record
    assert both.records[1]["methods"][0]["sum"] == pytest.approx(alone["methods"][0]["sum"], rel=1e-5)
    assert alone["explained"]["name"] == both.records[1]["explained"]["name"] == "cardigan"


def test_a_map_of_few_pixels_is_not_drawn_blank(coda: Coda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LIME's holds three superpixels, less than a 200th of a large picture."""

    def one_pixel(_: object, x: torch.Tensor, classes: list[int]) -> torch.Tensor:
        maps = torch.zeros(len(classes), *x.shape[2:])
        maps[:, 3, 5] = 2.0
        return maps

    photo(tmp_path / "a.png")
    monkeypatch.setattr("coda_cli.study.by_name.METHODS", {"lime": KnownMethod(one_pixel)})
    part = coda("compare", "a.png", "--method", "lime", "--json").record["methods"][0]
    assert (part["scale"], part["sum"], part["parameters"]) == (2.0, 2.0, {})


def test_a_record_names_what_it_was_made_with(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png", 60, 40)
    record = coda("compare", "a.png", "--method", "occlusion:window=8", "--fit", "pad", "--json").record
    assert record["methods"][0]["parameters"] == {"window": 8, "stride": 32}
    assert (record["view"]["fit"], record["view"]["width"], record["view"]["height"]) == ("pad", 32, 21)
    assert record["device"] == "cpu"
    assert list(record["versions"]) == ["coda", "torch", "python"]
    by_captum = coda("compare", "a.png", "--method", "gradient", "--force", "--json").record
    assert list(by_captum["versions"]) == ["coda", "torch", "python", "captum"]


def test_the_sheet_states_every_method_s_sum_its_distance_from_the_logit_its_scale_and_time(
    coda: Coda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[tuple[str, list[str], str]] = []
    framed = comparisons.framed

    def noted(rgb: object, scale: float | None, title: str, lines: list[str], unit: str = "logit") -> object:
        said.append((title, lines, unit))
        return framed(rgb, scale, title, lines, unit)  # type: ignore[arg-type]

    monkeypatch.setattr(comparisons, "framed", noted)
    photo(tmp_path / "a.png")
    records = coda("compare", "a.png", *QUICK, "-c", "cat", "-c", "dog", "--json").records
    assert len(said) == 8
    for record, tiles in zip(records, (said[:4], said[4:]), strict=True):
        (title, lines, _), *methods = tiles
        assert title == f"{record['explained']['name']} · logit {record['logit']:.2f}"
        assert f"logit − bias = {record['logit'] - record['bias']:.2f}" in lines[0]
        for part, (title, lines, unit) in zip(record["methods"], methods, strict=True):
            assert title == part["method"]
            *sums, colours = lines
            # Only of methods that claim it is said how far the sum is from the logit.
            assert sums == [f"sum {part['sum']:.3g}, off by {part['off']:+.2g}"] * part["complete"]
            assert part["complete"] == (part["method"] in ("ours", "input-x-gradient"))
            assert colours == f"full colour ±{part['scale']:.2g}, {part['seconds']:.2g} s for each of 2 classes"
            assert unit == ("" if part["method"] == "gradient" else "logit")


@pytest.mark.parametrize(("seconds", "said"), [(0.0774, "0.077 s"), (3.34, "3.3 s"), (99.4, "99 s"), (128, "128 s")])
def test_a_time_has_no_power_of_ten(seconds: float, said: str) -> None:
    part = MethodPart(method="ours", parameters={}, sum=0, off=0, scale=1, seconds=seconds)
    assert comparisons.time_of(part, Comparison.model_construct(together=1)) == said
    assert comparisons.time_of(part, Comparison.model_construct(together=2)) == f"{said} for each of 2 classes"


def test_a_map_of_positive_values_is_drawn_from_its_least_value_on(coda: Coda, tmp_path: Path) -> None:
    """Maps by RISE are probabilities that differ little: from 0 on, all of them would be one red."""
    photo(tmp_path / "a.png")
    record = coda("compare", "a.png", "--method", "rise:masks=40", "-c", "cat", "--json").record
    (part,) = record["methods"]
    with np.load(tmp_path / "coda-out" / record["files"]["npz"]) as content:
        assert part["white"] == pytest.approx(float(content["maps"].min()))
        assert part["white"] > 0
    assert part["white"] < part["scale"]
    tile = np.asarray(Image.open(tmp_path / "coda-out" / record["files"]["png"]))
    reds = np.unique(tile[..., 0].astype(int) - tile[..., 2])
    assert len(reds) > 50  # from white to full colour


def test_an_input_is_never_written_over(coda: Coda, tmp_path: Path) -> None:
    """A shell's *.png holds the sheets of the run before."""
    photo(tmp_path / "a.png")
    coda("compare", "a.png", "-c", "cat", "--method", "ours", "-o", ".")
    sheet = (tmp_path / "a.cat.compare.png").read_bytes()
    result = coda("compare", "a.png", "a.cat.compare.png", "-c", "cat", "--method", "ours", "-o", ".", "-f", status=1)
    assert "a.cat.compare.png: is one of the inputs and is not overwritten; choose another --output" in result.err
    assert (tmp_path / "a.cat.compare.png").read_bytes() == sheet


def test_a_sheet_that_is_replaced_has_no_old_record_beside_it(
    coda: Coda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo(tmp_path / "a.png")
    coda("compare", "a.png", "-c", "cat", "--method", "ours")

    def full(*_: object, **__: object) -> None:
        raise MediaError("disk full")

    monkeypatch.setattr(comparisons, "write_png", full)
    coda("compare", "a.png", "-c", "cat", "--method", "ours", "--force", status=1)
    assert not (tmp_path / "coda-out" / "a.cat.compare.json").exists()


def test_every_class_has_a_line_and_the_progress_counts_methods(
    coda: Coda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[tuple[float, int]] = []
    monkeypatch.setattr(console, "progress", lambda *_: nullcontext(lambda done, total: heard.append((done, total))))
    for name in ("a.png", "c.png"):
        photo(tmp_path / name)
    (tmp_path / "b.png").write_text("no picture")
    methods = ("--method", "ours", "--method", "gradient", "--method", "occlusion:window=16,stride=16")
    result = coda("compare", "a.png", "b.png", "c.png", "-c", "cat", "-c", "dog", *methods, status=1)
    said = [line.split(" methods in ") for line in result.err.splitlines() if " methods in " in line]
    assert [who for who, _ in said] == [f"coda: {n}: {c}: 3" for n in ("a.png", "c.png") for c in ("cat", "dog")]
    assert all(took.endswith(" s for 2 classes together") for _, took in said)
    assert [done for done, _ in heard] == pytest.approx([1 / 3, 2 / 3, 1, 2, 7 / 3, 8 / 3, 3])
    assert {total for _, total in heard} == {3}
