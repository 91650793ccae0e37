"""coda compare with several networks: a row for each on the sheet, and what changes from the first to the others."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
import torchvision
from conftest import Coda
from numpy.typing import NDArray
from PIL import Image
from program import photo

import coda_cli
from coda_cli.checkpoints.manifest import Checkpoint, Preprocessing
from coda_cli.checkpoints.saving import save
from coda_cli.core.networks import build
from coda_cli.explanation import networks
from coda_cli.explanation.regions import sums
from coda_cli.explanation.runs.maps import Kept
from coda_cli.schema import comparisons
from coda_cli.study import by_name

BOTH = ("-m", "cifar10", "-m", "cifar10-bcos")


def network(path: Path, name: str, classes: tuple[str, ...], side: int, seed: int) -> Path:
    """A small CoDA-Net file that sees the whole centre of a picture, ``side`` pixels wide."""
    torch.manual_seed(seed)
    arguments: dict[str, Any] = {
        "channels": [6, 4, len(classes)], "kernels": [3, 1], "strides": [2, 1], "ranks": [2, 2], "norm": "SQ",
        "temperature": 1.0, "bias": -float(seed),
    }  # fmt: skip
    view = Preprocessing(resize=side, crop=side)
    described = Checkpoint(name=name, architecture="coda_net", arguments=arguments, classes=classes, preprocessing=view)
    save(build("coda_net", arguments), described, path)
    return path


def arrays_of(folder: Path, record: dict[str, Any]) -> dict[str, NDArray[Any]]:
    with np.load(folder / record["files"]["npz"]) as content:
        return dict(content)


def test_networks_are_compared_without_the_libraries_of_other_methods(
    coda: Coda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(by_name, "IMPORTED", dict.fromkeys(by_name.IMPORTED, "no_such_library"))
    photo(tmp_path / "a.png")
    assert [m["method"] for m in coda("compare", "a.png", *BOTH, "--json").record["methods"]] == ["ours"]
    assert "captum" in coda("compare", "a.png", *BOTH, "--method", "deeplift", status=2).error


def test_every_network_says_what_it_says_alone_and_the_difference_adds_up(coda: Coda, tmp_path: Path) -> None:
    path = photo(tmp_path / "a.png")
    result = coda("compare", "a.png", *BOTH, "-c", "cat", "-c", "ship", "--json")
    schema = json.loads(coda("schema", "compare").out)
    assert [r["explained"]["name"] for r in result.records] == ["cat", "ship"]
    x = [coda_cli.load(name, dtype=torch.float64) for name in ("cifar10", "cifar10-bcos")]
    slow = [coda_cli.explain(path, net, ["cat", "ship"], precision="float64") for net in x]
    for k, record in enumerate(result.records):
        jsonschema.validate(record, schema)
        (other,) = record["others"]
        assert [one["network"]["name"] for one in (record, other)] == ["cifar10", "cifar10-bcos"]
        found = arrays_of(tmp_path / "coda-out", record)
        for one, exact, end in ((record, slow[0], ""), (other, slow[1], "_2")):
            expected = exact.record().explained[k]
            assert one["predicted"]["name"] == exact.record().top[0].name
            assert one["logit"] == pytest.approx(expected.logit, abs=1e-4)
            sums = one["sums"]
            assert sums["positive"] == pytest.approx(expected.positive, rel=1e-4)
            assert sums["exact"]
            assert one["logit"] == pytest.approx(sums["positive"] + sums["negative"] + sums["bias"], abs=1e-4)
            maps = found[f"maps{end}"]
            assert maps.shape == (1, 32, 32)
            assert float(np.abs(maps[0] - exact.maps[k]).max()) < 1e-4 * float(np.abs(exact.maps[k]).max())
        # The difference, pixel by pixel, of two decompositions in float64; and what it adds up to.
        pixels = [e.decomposition.contributions[0, k].sum(0).numpy() for e in slow]
        difference = found["difference_2"]
        assert float(np.abs(difference - (pixels[1] - pixels[0])).max()) < 1e-4 * float(np.abs(pixels).max())
        (target,) = other["difference"]["targets"]
        change = target["map"]
        assert (change["grid"], change["width"], change["height"], change["exact"]) == ("view", 32, 32, True)
        assert change["sum"] == pytest.approx(float(difference.sum()))
        constants = other["bias"] - record["bias"]
        assert change["sum"] == pytest.approx(other["logit"] - record["logit"] - constants, abs=1e-4)
        assert abs(change["residual"]) <= change["tolerance"]
        assert (record["difference"], other["others"]) == (None, [])
        assert json.loads((tmp_path / "coda-out" / record["files"]["json"]).read_text()) == record
    assert "coda:   cifar10: predicted " in result.err
    assert "cifar10-bcos minus cifar10: difference " in result.err


def test_other_views_are_laid_on_a_common_grid_and_constants_are_left_out(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png", 40, 40)
    network(tmp_path / "one.safetensors", "mine", ("a", "b"), 16, 1)
    network(tmp_path / "two.safetensors", "mine", ("c", "b", "a"), 24, 2)
    both = ("-m", "one.safetensors", "-m", "two.safetensors")
    result = coda("compare", "a.png", *both, "-c", "b", "--json")
    record = result.record
    (other,) = record["others"]
    assert (record["explained"]["index"], other["explained"]["index"]) == (1, 1)
    (target,) = other["difference"]["targets"]
    assert target["map"]["grid"] == "common"
    assert target["constants"]["change"] == pytest.approx(-1)
    difference = arrays_of(tmp_path / "coda-out", record)["difference_2"]
    assert difference.shape == (target["map"]["height"], target["map"]["width"]) == (24, 24)
    change = other["logit"] - record["logit"] - (other["bias"] - record["bias"])
    assert float(difference.sum()) == pytest.approx(change, abs=1e-5)
    assert target["map"]["exact"]
    assert "mine (2) minus mine (1): difference " in result.err
    assert "on a common grid of 24 x 24" in result.err
    # A class at another index is the same class.
    moved = coda("compare", "a.png", *both, "-c", "a", "--json").record
    assert (moved["explained"]["index"], moved["others"][0]["explained"]["index"]) == (0, 2)
    assert len(moved["others"][0]["difference"]["targets"]) == 1


def test_three_networks_are_each_compared_with_the_first(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png", 40, 40)
    files = [network(tmp_path / f"{n}.safetensors", f"net-{n}", ("a", "b"), 16, n) for n in (1, 2, 3)]
    record = coda(
        "compare", "a.png", *(word for file in files for word in ("-m", file.name)), "-c", "a", "--json"
    ).record
    changes = [one["difference"]["targets"][0]["logit"] for one in record["others"]]
    assert [c["first"] for c in changes] == pytest.approx([record["logit"]] * 2)
    assert [c["second"] for c in changes] == pytest.approx([one["logit"] for one in record["others"]])
    found = arrays_of(tmp_path / "coda-out", record)
    np.testing.assert_allclose(found["difference_3"], found["maps_3"][0] - found["maps"][0], atol=1e-7)


def test_without_a_class_each_network_has_its_own_prediction(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png", 40, 40)
    for n in range(1, 40):  # two networks that predict different classes
        network(tmp_path / "one.safetensors", "one", ("a", "b"), 16, 1)
        network(tmp_path / "two.safetensors", "two", ("a", "b"), 16, n)
        predicted = [coda_cli.explain(tmp_path / "a.png", tmp_path / f"{name}.safetensors") for name in ("one", "two")]
        names = [e.record().top[0].name for e in predicted]
        if len({*names}) == 2:
            break
    result = coda("compare", "a.png", "-m", "one.safetensors", "-m", "two.safetensors", "--json")
    (other,) = result.record["others"]
    assert [one["explained"]["name"] for one in (result.record, other)] == names
    assert [one["predicted"]["name"] for one in (result.record, other)] == names
    assert other["difference"]["targets"] == []
    assert other["difference"]["changed"]
    assert result.record["files"]["png"] == f"a.{'-'.join(names)}.compare.png"
    assert "two is explained for another class than one: the maps are not subtracted" in result.err
    assert "difference_2" not in arrays_of(tmp_path / "coda-out", result.record)


def test_a_class_that_one_network_does_not_have_is_said_once(coda: Coda, tmp_path: Path) -> None:
    for name in ("p.png", "q.png"):
        photo(tmp_path / name, 40, 40)
    network(tmp_path / "one.safetensors", "one", ("a", "b"), 16, 1)
    network(tmp_path / "two.safetensors", "two", ("b", "c"), 16, 2)
    both = ("-m", "one.safetensors", "-m", "two.safetensors")
    result = coda("compare", "p.png", "q.png", *both, "-c", "a", "-c", "b", "--json")
    assert [(r["explained"]["name"], len(r["others"])) for r in result.records] == [("a", 0), ("b", 1)] * 2
    assert result.err.count("warning: two is left out for --class a: 'two' has no class 'a'\n") == 1
    refused = coda("compare", "p.png", *both, "-c", "d", "-o", "no", status=2)
    assert "'one' has no class 'd'" in refused.error
    assert not (tmp_path / "no").exists()
    assert "--class all: is for one network" in coda("compare", "p.png", *both, "-c", "all", status=2).error
    twice = coda("compare", "p.png", "-m", "cifar10", "-m", "cifar10", status=2)
    assert twice.error == "--model cifar10: is given twice"


def test_networks_with_no_class_in_common_are_not_subtracted(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png", 40, 40)
    network(tmp_path / "one.safetensors", "one", ("a", "b"), 16, 1)
    result = coda("compare", "a.png", "-m", "cifar10", "-m", "one.safetensors", "-c", "top:2", "--json")
    assert "warning: one has no class in common with cifar10, by name: their maps are not subtracted" in result.err
    assert len(result.records) == 2  # the first beside the first, the second beside the second
    for record in result.records:
        assert record["others"][0]["difference"]["targets"] == []
    alone = coda("compare", "a.png", "-m", "cifar10", "-m", "one.safetensors", "-c", "cat", "-o", "o", "--json")
    assert alone.record["others"] == []
    assert "one is left out for --class cat" in alone.err


def test_every_method_is_used_on_every_network_and_what_is_said_of_bare_weights_is_for_these(
    coda: Coda, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), tmp_path / "r.pth")
    photo(tmp_path / "a.png", 60, 60)
    nets = ("-m", "cifar10", "-m", "r.pth", "--arch", "torchvision:resnet18")
    methods = ("--method", "gradient", "--method", "input-x-gradient")
    record = coda("compare", "a.png", *nets, *methods, "--json").record
    (other,) = record["others"]
    assert other["network"]["architecture"] == "torchvision"
    for one in (record, other):
        assert [m["method"] for m in one["methods"]] == ["gradient", "input-x-gradient"]
        assert (one["sums"], one["difference"]) == (None, None)
    found = arrays_of(tmp_path / "coda-out", record)
    assert (found["maps"].shape, found["maps_2"].shape) == ((2, 32, 32), (2, 224, 224))


def test_a_difference_that_does_not_add_up_has_its_exit_code(
    coda: Coda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo(tmp_path / "a.png")
    monkeypatch.setattr(networks, "Kept", lambda maps, view: Kept(maps * np.float32(1.01), view))
    result = coda("compare", "a.png", *BOTH, "-c", "cat", status=4)
    assert "a.png: NOT EXACT: the difference of cifar10-bcos and cifar10 does not add up" in result.err


def test_the_sheet_has_a_row_for_each_network(coda: Coda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[tuple[str, list[str]]] = []
    honest = networks.framed

    def noted(rgb: Any, scale: float | None, title: str, lines: list[str]) -> Any:
        said.append((title, lines))
        return honest(rgb, scale, title, lines)

    monkeypatch.setattr(networks, "framed", noted)
    photo(tmp_path / "a.png")
    record = coda("compare", "a.png", *BOTH, "-c", "cat", "--json").record
    assert [title for title, _ in said] == ["cifar10", "cifar10-bcos", "cifar10-bcos − cifar10"]
    for (_, lines), one in zip(said, (record, record["others"][0]), strict=False):
        assert lines[0] == f"predicted {one['predicted']['name']}, p {one['predicted']['probability']:.3f}"
        assert lines[1].startswith(f"cat, p {one['sums']['probability']:.3f}: logit {one['logit']:.3f} = ")
    change = record["others"][0]["difference"]["targets"][0]["map"]
    assert said[2][1][0].startswith(f"difference {change['sum']:+.4g} = ")
    assert said[2][1][1] == f"full colour ±{change['scale']:.2g} logit a pixel"
    with Image.open(tmp_path / "coda-out" / record["files"]["png"]) as sheet:
        assert sheet.width > 3 * 320
        assert sheet.height > 2 * 320
        assert json.loads(sheet.info["coda"])["others"]
    comparisons.Comparison.model_validate(record)


def test_a_network_of_the_environment_may_have_a_space_in_its_name(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    network(tmp_path / "my net.safetensors", "spaced", ("a", "b"), 16, 1)
    named = {"CODA_MODEL": "my net.safetensors"}
    record = coda("compare", "a.png", "--method", "ours", "--json", env=named).record
    assert (record["network"]["name"], record["others"], record["sums"]) == ("spaced", [], None)


def test_a_page_has_an_entry_for_every_network_with_its_own_maps(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    record = coda("compare", "a.png", *BOTH, "-c", "cat", "--html", "a.html", "--json").record
    page = (tmp_path / "a.html").read_text("utf-8")
    heads = re.findall(r"<h2[^>]*>(.*?)</h2>", page)
    assert [re.sub("<[^>]*>", "", head) for head in heads] == ["a.png: cat, by cifar10", "a.png: cat, by cifar10-bcos"]
    entries = [json.loads(text) for text in re.findall(r'<script type="application/json">(\{"size".*?)</script>', page)]
    logits = [record["logit"], record["others"][0]["logit"]]
    assert [entry["record"]["logit"] for entry in entries] == logits
    assert entries[0]["maps"] != entries[1]["maps"]


def test_maps_of_all_networks_count_for_a_page(coda: Coda, tmp_path: Path) -> None:
    for n in range(151):
        photo(tmp_path / "in" / f"{n}.png", 8, 8)
    said = coda("compare", "in", *BOTH, "--html", "a.html", status=2).error
    assert said.startswith("--html: 302 maps are more than the 300 that one page holds")
    assert not (tmp_path / "coda-out").exists()


def test_regions_are_summed_for_every_network(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    both, box = ("compare", "a.png", *BOTH, "--class", "cat"), ("--box", "left=0,0,20.5,40")
    record = coda(*both, *box, "--json", "--html", "p.html").record
    jsonschema.validate(record, comparisons.json_schema())
    alone = [
        coda("explain", "a.png", "-m", name, "--class", "cat", *box, "--write", "none", "--json").record
        for name in ("cifar10", "cifar10-bcos")
    ]
    for one, own in zip((record, *record["others"]), alone, strict=True):
        found, expected = one["regions"], own["explained"][0]["regions"]
        assert [r["name"] for r in found["regions"]] == ["left"]
        pairs = zip((*found["regions"], found["rest"]), (*expected["regions"], expected["rest"]), strict=True)
        for got, wanted in pairs:
            assert got["positive"] == pytest.approx(wanted["positive"], rel=1e-5)
            assert got["area"] == wanted["area"]
        assert found["exact"]
    (change,) = record["others"][0]["difference"]["targets"]
    first, second = (one["regions"]["regions"][0]["share"] for one in (record, *record["others"]))
    assert change["regions"][0]["share"] == pytest.approx({"first": first, "second": second, "change": second - first})
    said = f"left {first:.0%} → {second:.0%}; rest"
    assert said in coda(*both, *box, "-o", "other").err
    page = (tmp_path / "p.html").read_text("utf-8")
    assert said in page
    assert "2 explanations by 2 networks" in page
    plain = np.asarray(Image.open(tmp_path / coda(*both, "-o", "plain").lines[0]))
    assert plain.shape[1] == np.asarray(Image.open(tmp_path / "other" / "a.cat.compare.png")).shape[1]


def test_regions_that_do_not_add_up_have_their_exit_code(
    coda: Coda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo(tmp_path / "a.png")
    real = sums.sums_inside
    monkeypatch.setattr(sums, "sums_inside", lambda v, e, *more: real(v * 1.01, e, *more))
    result = coda("compare", "a.png", *BOTH, "-c", "cat", "--box", "0,0,1,0.5", status=4)
    assert "a.png: NOT EXACT: regions and rest of cifar10 do not add up to its logit" in result.err


def test_regions_of_one_network_and_of_other_methods_are_refused(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    for args in (("-m", "cifar10"), (*BOTH, "--method", "occlusion")):
        said = coda("compare", "a.png", *args, "--box", "0,0,1,0.5", status=2).error
        assert said == "regions are summed in our maps of several networks; coda explain sums those of one"
    said = coda("compare", "a.png", *BOTH, "--class", "cat", "--box", "0,0,99,40", status=1)
    assert said.error.startswith("a.png: the box 0,0,99,40 reaches beyond the picture")
    assert not list((tmp_path / "coda-out").glob("*"))
