"""Clips of neurons: ``coda video --neuron``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from conftest import Coda
from program import tree
from test_neurons import watched
from test_video_command import clip, frame, lines_of

import coda_cli
import coda_cli.explanation.clip.drawing as drawing
import coda_cli.explanation.inside as inside
from coda_cli.core.neurons import NeuronMap
from coda_cli.explanation.clip.kept import Seen
from coda_cli.render.clip import Sheet
from coda_cli.schema import clips

ASKED = ("--neuron", "2:5", "--neuron", "1:3:sum", "--neuron", "1:4:4,9")


def test_every_frame_s_neurons_are_those_of_the_held_network(coda: Coda, tmp_path: Path) -> None:
    """The slow definition in float64: the input times the gradient of the activation; and its sums in a region."""
    clip(tmp_path / "a.mkv", frames=3)
    half = ("--region", "left=0,0,0.5,1")
    result = coda("video", "a.mkv", *ASKED, *half, "--precision", "float64", "--format", "none", "--json")
    *frames, whole = result.records
    for record in result.records:
        jsonschema.validate(record, clips.json_schema())
    net = coda_cli.load("cifar10", dtype=torch.float64)
    for n, record in enumerate(frames):
        x = coda_cli.explain(frame(3, n), net, precision="float64").decomposition.inputs
        assert [(p["layer"], p["channel"]) for p in record["neurons"]] == [
            ("layers.1", 5), ("layers.0", 3), ("layers.0", 4)
        ]  # fmt: skip
        for part in record["neurons"]:
            leaf, a = watched(net.model, x, part["layer"])
            maps = a[0, part["channel"]]
            value = maps.sum() if part["position"] is None else maps[tuple(part["position"])]
            if part["channel"] == 5:
                assert float(value.detach()) == float(maps.detach().max())
            (gradient,) = torch.autograd.grad(value, leaf)
            pixels = (leaf * gradient).detach()[0].sum(0).numpy()
            assert part["activation"] == pytest.approx(float(value.detach()), rel=1e-9)
            assert part["positive"] == pytest.approx(pixels.clip(0).sum(), rel=1e-9)
            assert part["negative"] == pytest.approx(pixels.clip(None, 0).sum(), rel=1e-9)
            assert part["exact"]
            assert part["regions"]["exact"]
            (left,) = part["regions"]["regions"]
            assert left["positive"] == pytest.approx(pixels[:, :16].clip(0).sum(), rel=1e-9)
    assert len({tuple(p["scale"] for p in record["neurons"]) for record in frames}) == 1
    for k, neuron in enumerate(whole["neurons"]):
        assert neuron["frames"] == 3
        parts = [record["neurons"][k] for record in frames]
        assert neuron["mean_activation"] == pytest.approx(np.mean([p["activation"] for p in parts]))
        terms = neuron["mean_positive"] + neuron["mean_negative"] + neuron["mean_constants"]
        assert neuron["mean_activation"] == pytest.approx(terms, rel=1e-9)
    assert "layers.1, channel 5: 3 frames, mean activation " in result.err


def test_a_neuron_takes_the_place_of_the_class_and_the_strip_has_its_value(
    coda: Coda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sheets, labels = list[Any](), list[list[str]]()

    class Noted(Sheet):
        def __init__(self, *given: Any) -> None:
            sheets.append(given)
            super().__init__(*given)

        def frame(self, tiles: Any, *given: Any) -> Any:
            labels.append([tile.label for tile in tiles])
            assert "activation a pixel" in given[1]
            return super().frame(tiles, *given)

    monkeypatch.setattr(drawing, "Sheet", Noted)
    clip(tmp_path / "a.mkv", frames=3)
    coda("video", "a.mkv", "--neuron", "2:5", "--format", "png")
    *frames, _ = lines_of(tmp_path / "coda-out" / "a.coda.jsonl")
    ((_, _, (curve,), _),) = sheets
    assert (curve.name, curve.what) == ("layers.1, channel 5", "activation of")
    values = [record["neurons"][0]["activation"] for record in frames]
    np.testing.assert_allclose(curve.values, values, rtol=1e-5)
    expected = []
    for record in frames:
        y, x = record["neurons"][0]["position"]
        expected.append(["", f"layers.1, channel 5 at {y},{x} {record['neurons'][0]['activation']:+.3g}"])
    assert sorted(labels) == sorted(expected)  # frames are drawn in several threads
    sheets.clear()
    coda("video", "a.mkv", *ASKED, "--format", "none", "-o", "several", "--scale", "0.5")
    *frames, whole = lines_of(tmp_path / "several" / "a.coda.jsonl")
    assert {part["scale"] for part in frames[0]["neurons"]} == {0.5}
    assert whole["exact"]


def test_activations_of_several_units_are_each_drawn_as_a_share_of_the_largest(tmp_path: Path) -> None:
    net = coda_cli.load("cifar10")
    run = coda_cli.explain_clip(clip(tmp_path / "a.mkv", frames=3), net, neurons=["2:5", "1:3:sum"])
    records = [record.neurons for record in run]
    assert [[n.channel for n in neurons] for neurons in records] == [[5, 3]] * 3
    found = drawing.Survey()
    for t in range(3):
        found.add(t, Seen(np.zeros(10, np.float32)), drawing.View(np.zeros((8, 8, 3), np.uint8), (0, 0, 8, 8), (8, 8)),
                  [("a", float(t)), ("b", -100.0 * t)])  # fmt: skip
    one, two = found.curves(run.targets, net)
    assert (one.name, two.name) == ("a (1 is 2)", "b (1 is 200)")
    assert (one.values.tolist(), two.values.tolist()) == ([0, 0.5, 1], [0, -0.5, -1])


@pytest.mark.parametrize(
    ("args", "part"),
    [
        (
            ("--neurons", "2:top:5"),
            "--neurons 2:top:5: the strongest channels change from frame to frame; coda explain",
        ),
        (("--neuron", "2:5", "--neuron", "2:5:1,1"), "--neuron 2:5: channel 5 is asked for in two ways"),
        (("--neuron", "2:5", "--centroid"), "--centroid: marks the evidence for a class"),
        (("--neuron", "2:x"), "--neuron 2:x: expected LAYER:CHANNEL"),
        (("--neuron", "nowhere:1"), "--neuron nowhere:1: no such layer that gives maps; there are "),
        (("--neuron", "1:9999"), "--neuron 1:9999: no channel 9999; layers.0 has "),
        (("--neuron", "1:3:99,0"), "--neuron 1:3:99,0: no position 99,0; layers.0 has "),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    coda: Coda, tmp_path: Path, args: tuple[str, ...], part: str
) -> None:
    clip(tmp_path / "a.mkv", frames=2)
    assert part in coda("video", "a.mkv", *args, status=2).error
    assert not (tmp_path / "coda-out").exists() or not tree(tmp_path / "coda-out")


def test_a_neuron_that_does_not_add_up_has_its_exit_code(
    coda: Coda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = inside.decompose_neurons

    def off(*given: Any, **more: Any) -> list[NeuronMap]:
        return [NeuronMap(**{**vars(n), "residual": 1.0}) for n in honest(*given, **more)]

    clip(tmp_path / "a.mkv", frames=2)
    monkeypatch.setattr(inside, "decompose_neurons", off)
    assert "NOT EXACT" in coda("video", "a.mkv", "--neuron", "2:5", "--format", "none", status=4).err
