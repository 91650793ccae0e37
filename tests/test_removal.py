"""Pixel removal: known answers, the published steps, and the command."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from conftest import Coda
from PIL import Image
from torch import Tensor, nn

from coda_cli.core.networks import encode
from coda_cli.errors import MediaError
from coda_cli.study import plots
from coda_cli.study.removal import Removal, counts, ranks, remove, replacement


class Sum(nn.Module):
    """The logit of class 0 is the sum of all six channels times known weights [h, w]; of class 1 its negative."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights, self.bias = nn.Parameter(weights), 0.0

    def forward(self, x: Tensor) -> Tensor:
        total = (x * self.weights).sum((1, 2, 3))
        return torch.stack([total, -total], 1)


def exactly(model: nn.Module, x: Tensor, classes: Sequence[int]) -> Tensor:
    sign = torch.tensor([1.0, -1.0])[list(classes)]
    return (sign[:, None, None] * (x[0] * model.weights).sum(0)).detach()


def test_steps_are_the_published_ones_for_cifar_10() -> None:
    assert counts(32 * 32).tolist() == list(range(0, 257, 2))
    assert len(counts(240 * 240)) == 129
    assert counts(240 * 240)[-1] == 240 * 240 // 4  # the original stops short of a quarter here
    assert counts(16, share=0.5, points=100).tolist() == list(range(9))


def test_ranks_go_by_signed_value_with_ties_in_reading_order() -> None:
    pixels = torch.tensor([[0.5, -1.0], [0.5, 2.0]])
    assert ranks(pixels, "least").tolist() == [[1, 0], [2, 3]]
    assert ranks(pixels, "most").tolist() == [[1, 3], [2, 0]]


@pytest.mark.parametrize("direction", ["least", "most"])
def test_the_curve_of_a_sum_is_what_is_left_of_it(direction: str) -> None:
    torch.manual_seed(0)
    model = Sum(torch.randn(6, 6) * 0.3)
    images = torch.randint(256, (3, 3, 6, 6), dtype=torch.uint8)
    labels = torch.tensor([0, 1, 0])
    curves = list(remove(model, images, labels, method=exactly, direction=direction, share=1.0, points=36))  # type: ignore[arg-type]
    for image, label, curve in zip(images, labels.tolist(), curves, strict=True):
        values = exactly(model, encode(image[None]), [label])[0].flatten().double()
        order = values.sort(descending=direction == "most").values
        left = values.sum() - torch.cat([torch.zeros(1).double(), order.cumsum(0)])
        np.testing.assert_allclose(curve, left.sigmoid().numpy(), atol=1e-5)
        assert curve[-1] == pytest.approx(0.5)  # nothing is left but the bias


def test_the_least_important_first_keeps_more_than_the_most_important_first() -> None:
    torch.manual_seed(0)
    model = Sum(torch.randn(8, 8) * 0.2)
    images, labels = torch.randint(256, (4, 3, 8, 8), dtype=torch.uint8), torch.tensor([0, 1, 1, 0])
    area = {}
    for direction in ("least", "most"):
        curves = np.array(list(remove(model, images, labels, method=exactly, direction=direction)))  # type: ignore[arg-type]
        area[direction] = Removal(curves, counts(64) / 64).area
    assert area["least"] > area["most"] + 0.1


def test_what_takes_the_place_of_a_pixel() -> None:
    x = encode(torch.rand(1, 3, 16, 16))
    assert not replacement(x, "zero").any()
    mean = replacement(x, "mean")
    assert mean.shape == x.shape
    torch.testing.assert_close(mean[0, :, 3, 4], x.mean((2, 3))[0])
    blurred = replacement(x, "blurred")
    torch.testing.assert_close(blurred[:, :3] + blurred[:, 3:], torch.ones(1, 3, 16, 16))  # a real colour
    torch.testing.assert_close(blurred[0, 1, 8, 8], x[0, 1, 3:14, 3:14].mean())


def test_the_area_of_a_constant_is_its_value() -> None:
    assert Removal(np.full((3, 5), 0.7), np.linspace(0, 0.25, 5)).area == pytest.approx(0.7)
    ramp = Removal(np.array([[1.0, 0.0]]), np.array([0.0, 0.5]))
    assert ramp.area == pytest.approx(0.5)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two pictures of every class of CIFAR-10, of no worth."""
    rng = np.random.default_rng(0)
    names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    for split in ("train", "test"):
        for name in names:
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for n in range(2):
                pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "data" / split / name / f"{n}.png")
    return tmp_path / "data"


def test_the_command_measures_goes_on_and_draws(coda: Coda, data: Path, tmp_path: Path) -> None:
    command = ("evaluate", "removal", data, "-m", "cifar10", "--pictures", "4", "--points", "8", "--json")
    found = json.loads(coda(*command, "--plot", "curve.png").out)
    jsonschema.validate(found, json.loads(coda("schema", "evaluate").out))
    assert found["schema"] == "coda.removal"
    assert np.array(found["curves"]).shape == (4, 9)
    np.testing.assert_allclose(np.mean(found["curves"], 0), found["mean"])
    assert found["removed"][-1] == 0.25
    with Image.open(tmp_path / "curve.png") as figure:
        assert figure.format == "PNG"
    assert "no pictures" in coda("explain", tmp_path, status=2).error  # the figure is not taken for one
    # Stopped after two pictures and a half line, the same command gives the same.
    coda(*command, "--scores", "kept.jsonl")
    lines = (tmp_path / "kept.jsonl").read_text().splitlines()
    assert len(lines) == 5
    (tmp_path / "kept.jsonl").write_text("\n".join([*lines[:3], lines[3][:20]]))
    again = json.loads(coda(*command, "--scores", "kept.jsonl").out)
    np.testing.assert_allclose(again["curves"], found["curves"], atol=1e-6)
    kept = (tmp_path / "kept.jsonl").read_text()
    shutil.copytree(data, tmp_path / "again")
    Image.new("RGB", (32, 32)).save(tmp_path / "again" / "test" / "dog" / "0.png")
    elsewhere = coda(*command[:2], "again", *command[3:], "--scores", "kept.jsonl", status=2)
    assert "another measurement" in elsewhere.error
    assert (tmp_path / "kept.jsonl").read_text() == kept
    other = coda(*command, "--direction", "most", "--scores", "kept.jsonl", status=2)
    assert other.error == "kept.jsonl: holds the scores of another measurement; name another file, or remove it"
    sentence = coda(*command[:-1], "--direction", "most").out
    assert sentence.startswith("cifar10: probability ")
    assert "most important first" in sentence
    assert coda(*command, "--plot", "curve.txt", status=2).error.startswith("--plot curve.txt: figures are written as")
    assert "no such method" in coda(*command, "--method", "magic", status=2).error


def test_a_method_that_fails_names_its_picture() -> None:
    """Counted from the first of the measurement, not of the part that is left of it."""

    def failing(*_: object) -> Tensor:
        raise MediaError("no map")

    images, labels = torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.tensor([0, 1])
    with pytest.raises(MediaError, match=r"^picture 6: no map$"):
        next(remove(Sum(torch.ones(8, 8)), images, labels, method=failing, before=5))


def test_every_curve_of_a_figure_is_told_from_the_others() -> None:
    shares = np.linspace(0, 0.25, 5)
    curves = {f"m{n}": (shares, np.full(5, 0.9 - 0.05 * n)) for n in range(13)}
    curves["same"] = curves["m3"]
    lines = plots.removal_figure(curves, "").axes[0].lines
    assert len({(line.get_color(), line.is_dashed()) for line in lines}) == len(curves)
    assert lines[-1].is_dashed()


def test_the_first_pictures_of_a_data_set_or_some_all_over_it(coda: Coda, data: Path) -> None:
    command = ("evaluate", "removal", data, "-m", "cifar10", "--points", "2", "--json")
    curves = {
        more: json.loads(coda(*command, "--pictures", *more).out)["curves"]
        for more in (("20",), ("3",), ("3", "--first"))
    }
    np.testing.assert_allclose(curves["3", "--first"], curves["20",][:3], atol=1e-6)
    np.testing.assert_allclose(curves["3",], [curves["20",][n] for n in (0, 10, 19)], atol=1e-6)


def test_localisation_says_what_it_cannot_do(coda: Coda, data: Path, tmp_path: Path) -> None:
    command = ("evaluate", "localisation", data, "-m", "cifar10", "--grid", "2x2")
    assert (
        "no 2 x 2 grid can be made" in coda(*command, status=1).error
    )  # of these pictures of noise none is recognised
    assert "odd number" in coda(*command, "--smooth", "4", "--scores", "kept.jsonl", status=2).error
    assert not list(tmp_path.glob("*.jsonl*"))
    assert coda(*command, "--plot", "no/box.png", status=2).error == "--plot no/box.png: there is no folder no"
