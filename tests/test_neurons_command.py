"""Neurons on the command line and in records: ``--neuron`` and ``--neurons``."""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from conftest import Coda
from documents import ROOT, blocks
from PIL import Image
from program import photo, strict_json, tree
from torch import nn

import coda_cli
import coda_cli.explanation.inside as inside
from coda_cli.core.neurons import NeuronMap, decompose_neurons
from coda_cli.errors import UsageError
from coda_cli.explanation.picture import Explanation
from coda_cli.render import overlay
from coda_cli.schema import pictures


def proven(part: dict[str, Any]) -> None:
    """The parts of a neuron's record add up to its value."""
    value = part["share"] if part["activation"] is None else part["activation"]
    size = abs(part["positive"]) + abs(part["negative"]) + abs(part["constants"])
    assert value == pytest.approx(part["positive"] + part["negative"] + part["constants"], abs=1e-5 * size + 1e-9)
    assert part["exact"]
    assert abs(part["residual"]) <= part["tolerance"]


def test_activations_and_channels_are_drawn_said_and_recorded(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png", 40, 40)
    asked = ("--neuron", "2:5", "--neuron", "layers.0:3:4,9", "--neuron", "1:3:sum", "--neurons", "layers.1:top:2")
    result = coda("explain", "a.png", "-m", "cifar10", "-c", "cat", "-c", "dog", *asked, "--json", "--layer", "2")
    record = result.record
    jsonschema.validate(record, pictures.json_schema())
    strongest, placed, summed = record["neurons"]
    assert (strongest["layer"], strongest["channel"]) == ("layers.1", 5)
    assert (placed["layer"], placed["channel"], placed["position"]) == ("layers.0", 3, [4, 9])
    assert (summed["layer"], summed["channel"], summed["position"]) == ("layers.0", 3, None)
    for neuron in record["neurons"]:
        proven(neuron)
        assert neuron["share"] is None
    for part in record["explained"]:
        (channels,), (layer,) = part["channels"], part["layers"]
        # The first step: all channels together are what the layer's positions have of the logit.
        assert channels["sum"] == pytest.approx(layer["sum"], rel=1e-5)
        assert part["logit"] == pytest.approx(channels["sum"] + channels["constants"], rel=1e-5)
        assert channels["exact"]
        assert len(channels["strongest"]) == 2
        for neuron in channels["strongest"]:
            proven(neuron)
            assert neuron["activation"] is None
            assert neuron["position"] is None
    y, x = strongest["position"]
    names = {path.name for path in (tmp_path / "coda-out").iterdir()}
    best = record["explained"][0]["channels"][0]["strongest"][0]
    assert {
        f"a.layers-1-5-{y}-{x}.overlay.png",
        "a.layers-0-3-4-9.overlay.png",
        "a.layers-0-3-sum.overlay.png",
    } <= names
    assert best["files"] == {"overlay": f"a.cat-layers-1-{best['channel']}.overlay.png"}
    assert set(best["files"].values()) < names
    assert f"of layers.1, channel 5 at {y},{x} = " in result.err
    assert f"layers.1: its {record['explained'][0]['channels'][0]['channels']} channels have" in result.err


def test_a_neuron_s_picture_has_its_record_and_the_class_s_picture_has_not(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png", 40, 40)
    coda("explain", "a.png", "-m", "cifar10", "-c", "cat", "--neuron", "1:3:4,9", "--neurons", "1:top:2")
    record = strict_json((tmp_path / "coda-out" / "a.coda.json").read_text())
    (neuron,), (channels,) = record["neurons"], record["explained"][0]["channels"]

    def inside_of(files: dict[str, str]) -> dict[str, Any]:
        with Image.open(tmp_path / "coda-out" / files["overlay"]) as drawn:
            found: dict[str, Any] = strict_json(drawn.info["coda"])
        return found

    of_activation, of_share = inside_of(neuron["files"]), inside_of(channels["strongest"][1]["files"])
    assert [n["channel"] for n in of_activation["neurons"]] == [3]
    assert of_activation["explained"] == []
    assert of_share["explained"][0]["channels"][0]["strongest"][0]["channel"] == channels["strongest"][1]["channel"]
    plain = inside_of(record["explained"][0]["files"])
    assert (plain["neurons"], plain["explained"][0]["channels"]) == ([], [])
    again = coda("explain", "a.png", "-m", "cifar10", "-c", "cat", "--neuron", "1:3:4,9", "--neurons", "1:top:2")
    assert "(already there)" in again.err
    assert len(again.out.split()) == 5  # three neurons, the class and the record


def test_captions_name_the_unit(coda: Coda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import coda_cli.explanation.drawing as drawing

    said = list[tuple[str, list[str], str]]()

    def kept(body: Any, scale: Any, title: str, lines: list[str], measured_in: str = "logit", **more: Any) -> Any:
        said.append((title, lines, measured_in))
        return overlay.framed(body, scale, title, lines, measured_in, **more)

    monkeypatch.setattr(drawing, "framed", kept)
    photo(tmp_path / "a.png", 40, 40)
    coda("explain", "a.png", "-m", "cifar10", "-c", "cat", "--neuron", "1:3:4,9", "--neurons", "1:top:1")
    (_, activation, share) = said
    assert activation[0].startswith("activation ")
    assert activation[0].endswith(" of layers.0, channel 3 at 4,9")
    assert activation[1][0].startswith("activation = ")
    assert activation[1][1].endswith("activation a pixel")
    assert "logit" not in " ".join((activation[0], *activation[1], activation[2]))
    assert all("evidence" not in line for _, lines, _ in said for line in lines)
    assert share[0].startswith("cat · ")
    assert " of logit " in share[0]
    assert " by layers.0, channel " in share[0]
    assert (activation[2], share[2]) == ("activation", "logit")
    said.clear()
    coda("explain", "a.png", "-m", "cifar10", "-c", "cat", "--neuron", "1:3:4,9", "--box", "0,0,20,40", "-o", "other")
    assert [sum(line.startswith("box 1: ") for line in lines) for _, lines, _ in said] == [1, 1]


@pytest.mark.parametrize(
    ("neuron", "part"),
    [
        ("1", "--neuron 1: expected LAYER:CHANNEL, LAYER:CHANNEL:Y,X, LAYER:CHANNEL:sum or LAYER:top:K"),
        ("1:x", "--neuron 1:x: expected LAYER:CHANNEL"),
        ("1:3:4", "--neuron 1:3:4: expected LAYER:CHANNEL"),
        ("1:3:4,9:2", "--neuron 1:3:4,9:2: expected LAYER:CHANNEL"),
        ("1:top:0", "--neuron 1:top:0: expected LAYER:CHANNEL"),
        (":3", "--neuron :3: expected LAYER:CHANNEL"),
        ("1:999", "--neuron 1:999: no channel 999; layers.0 has "),
        ("1:3:99,0", "--neuron 1:3:99,0: no position 99,0; layers.0 has "),
        ("layer.0:3", "--neuron layer.0:3: no such layer that gives maps; there are layers.0, layers."),
        (
            "zzz:top:2",
            "--neuron zzz:top:2: no such layer that the whole logit passes through; there are 0 (input), 1 (",
        ),
        ("1:top:999", "--neuron 1:top:999: layers.0 has "),
    ],
)
def test_bad_input_is_one_line(coda: Coda, tmp_path: Path, neuron: str, part: str) -> None:
    photo(tmp_path / "a.png")
    result = coda("explain", "a.png", "-m", "cifar10", "--neuron", neuron, status=2)
    assert part in result.error
    assert not (tmp_path / "coda-out").exists() or not tree(tmp_path / "coda-out")


def test_a_name_that_would_be_given_twice_is_refused(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    result = coda("explain", "a.png", "-m", "cifar10", "--neuron", "1:3", "--name", "{stem}.{kind}.{ext}", status=2)
    assert "needs {class_slug} or {index}" in result.error


def test_a_difference_is_called_so_and_indices_name_files(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    named = ("--name", "{stem}.{index}.{kind}.{ext}", "-c", "3", "--versus", "5")
    result = coda("explain", "a.png", "-m", "cifar10", "--neuron", "1:3:4,9", "--neurons", "1:top:1", *named, "--json")
    best = result.record["explained"][0]["channels"][0]["strongest"][0]
    assert best["files"]["overlay"] == f"a.3-5-layers.0-{best['channel']}.overlay.png"
    assert result.record["neurons"][0]["files"]["overlay"] == "a.layers.0-3-4-9.overlay.png"
    assert " of the difference of logits; " in result.err


def test_a_neuron_that_does_not_add_up_has_its_exit_code(
    coda: Coda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo(tmp_path / "a.png")
    honest = decompose_neurons

    def off(*given: Any, **more: Any) -> list[NeuronMap]:
        return [NeuronMap(**{**vars(n), "residual": 1.0}) for n in honest(*given, **more)]

    monkeypatch.setattr(inside, "decompose_neurons", off)
    result = coda("explain", "a.png", "-m", "cifar10", "--neuron", "1:3", status=4)
    assert "a.png: NOT EXACT: layers.0, channel 3 at " in result.err
    strict = coda("explain", "a.png", "-m", "cifar10", "--neurons", "1:top:1", "--check", "0", "--force", status=4)
    assert "NOT EXACT: the channels of layers.0 do not add up" in strict.err


def test_regions_of_neurons_are_summed_said_drawn_and_proven(
    coda: Coda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo(tmp_path / "a.png", 40, 40)
    asked = ("-c", "cat", "--neuron", "1:3:4,9", "--neurons", "1:top:2", "--box", "left=0%,0%,50%,100%")
    result = coda("explain", "a.png", "-m", "cifar10", *asked, "--json")
    jsonschema.validate(result.record, pictures.json_schema())
    neurons = [*result.record["neurons"], *result.record["explained"][0]["channels"][0]["strongest"]]
    assert len(neurons) == 3
    for neuron in neurons:
        (left,), rest = neuron["regions"]["regions"], neuron["regions"]["rest"]
        assert left["area"] == pytest.approx(0.5)
        assert left["positive"] + rest["positive"] == pytest.approx(neuron["positive"], rel=1e-5)
        assert left["negative"] + rest["negative"] == pytest.approx(neuron["negative"], rel=1e-5)
        assert neuron["regions"]["exact"]
    assert result.err.count("left: ") == 2  # of the class and of the activation
    honest = inside.decompose_neurons

    def off(*given: Any, **more: Any) -> list[NeuronMap]:
        return [NeuronMap(**{**vars(n), "pixels": n.pixels * 1.01}) for n in honest(*given, **more)]

    monkeypatch.setattr(inside, "decompose_neurons", off)
    wrong = coda("explain", "a.png", "-m", "cifar10", *asked, "--force", status=4)
    assert "a.png: NOT EXACT: layers.0, channel 3 at 4,9 does not add up" in wrong.err


def test_older_records_have_no_neurons(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    record = coda("explain", "a.png", "-m", "cifar10", "--json", "--write", "none").record
    del record["neurons"], record["explained"][0]["channels"]
    read = pictures.from_json(json.dumps(record))
    assert (read.neurons, read.explained[0].channels) == ((), ())


def test_neurons_are_there_from_python(tmp_path: Path) -> None:
    net = coda_cli.load("cifar10")
    e = coda_cli.explain(photo(tmp_path / "a.png", 40, 40), net, "cat", neurons=["1:3:4,9", "1:top:2"])
    assert isinstance(e, Explanation)
    (activation,), ((channels,),) = e.inside.activations, e.inside.channels
    assert (activation.channel, activation.position) == (3, (4, 9))
    assert activation.exact
    x = coda_cli.encode(torch.from_numpy(e.view.rgb.copy()).permute(2, 0, 1)[None])
    (same,) = coda_cli.decompose_neurons(net.model, x, "layers.0", [(3, (4, 9))])
    np.testing.assert_allclose(same.pixels, activation.pixels, rtol=1e-4, atol=1e-7)
    every = coda_cli.strongest_channels(net.model, x, 1, e.decomposition.weights[0, 0], len(channels.shares))
    together = torch.stack([n.pixels for n in every.strongest]).sum(0)
    assert float((together - e.decomposition.pixels[0, 0]).abs().max()) < 1e-4 * float(together.abs().max())


def test_neurons_of_an_ordinary_network_end_at_its_cut(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layers = {
        "first": nn.Conv2d(3, 4, 3, padding=1), "act": nn.ReLU(), "second": nn.Conv2d(4, 5, 3, padding=1),
        "last": nn.ReLU(), "pool": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten(), "fc": nn.Linear(5, 3),
    }  # fmt: skip
    net = coda_cli.load(nn.Sequential(OrderedDict(layers)), size=8, cut="act")
    picture = photo(tmp_path / "a.png", 40, 40)
    left = coda_cli.Regions(boxes=("left=0%,0%,30%,100%",))
    e = coda_cli.explain(picture, net, 0, neurons=["second:2:1,1", "last:top:2"], regions=left)
    (neuron,) = e.record().neurons
    assert neuron.exact
    assert neuron.constants == pytest.approx(float(layers["second"].state_dict()["bias"][2]))
    assert [n.exact for n in e.inside.channels[0][0].strongest] == [True, True]
    # What belongs to no pixel is in no region, and not in the rest.
    assert neuron.regions
    assert neuron.regions.exact
    parts = neuron.regions.regions[0], neuron.regions.rest
    assert neuron.activation == pytest.approx(sum(p.positive + p.negative for p in parts) + neuron.constants)
    for layer in ("first", "0"):
        with pytest.raises(UsageError, match=f"--neuron {layer}:0: (first|input) lies below act, the cut"):
            coda_cli.explain(picture, net, 0, neurons=[f"{layer}:0"])


def test_the_commands_of_the_document_run(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "photo.jpg", 64, 64)
    first = blocks(ROOT / "docs" / "neurons.md", "sh")[0]  # those about concepts: test_concepts.py
    commands = [line.split("#")[0].split() for line in first.splitlines()]
    assert len(commands) >= 3
    for n, (program, *args) in enumerate(commands):
        assert program == "coda"
        coda(*args, "-o", f"out{n}")
        assert len(tree(tmp_path / f"out{n}")) > 2
