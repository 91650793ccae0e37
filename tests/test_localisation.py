"""Grid localisation: known answers, the published choice of pictures, and the command."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import filelock
import jsonschema
import numpy as np
import pytest
import torch
from conftest import Coda
from foreign import authors_state
from PIL import Image
from program import CIFAR10
from torch import Tensor, nn

from coda_cli.checkpoints import saving
from coda_cli.checkpoints.manifest import Checkpoint, Preprocessing
from coda_cli.core.networks import build, classify, encode
from coda_cli.errors import ExactnessError, MediaError
from coda_cli.study import localisation, plots
from coda_cli.study.localisation import (
    Localisation,
    choose_grids,
    chosen_pictures,
    grid_picture,
    grid_scores,
    grids,
    localise,
    ours,
    score_grids,
)

CLASSES = 10
ARGUMENTS = {
    "channels": [6, 4, 10],
    "kernels": [3, 1],
    "strides": [2, 1],
    "ranks": [3, 3],
    "norm": "SQ",
    "temperature": 1.0,
}


class Reader(nn.Module):
    """Sees a picture's class in its red channel: 20 times the class. Blue is its confidence."""

    def __init__(self) -> None:
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        number = (x[:, 0].mean((1, 2)) * 255 / 20).round().long()
        return (nn.functional.one_hot(number, CLASSES) * 2 - 1) * x[:, 2].mean((1, 2))[:, None] * 9


def pictures(count: int, size: int = 4) -> tuple[Tensor, Tensor]:
    labels = torch.arange(count) % CLASSES
    images = torch.zeros(count, 3, size, size, dtype=torch.uint8)
    images[:, 0] = (labels * 20)[:, None, None].to(torch.uint8)
    images[:, 2] = torch.linspace(255, 40, count)[:, None, None].to(torch.uint8)
    return images, labels


def in_own_cells(model: nn.Module, x: Tensor, classes: Sequence[int]) -> Tensor:
    """A perfect map: one where the picture is that of the class."""
    del model
    number = (x[0, 0] * 255 / 20).round().long()
    return torch.stack([(number == c).float() for c in classes])


def everywhere(model: nn.Module, x: Tensor, classes: Sequence[int]) -> Tensor:
    del model
    return torch.ones(len(classes), *x.shape[2:])


@pytest.mark.parametrize("side", [2, 3])
def test_a_perfect_map_scores_one_a_uniform_one_chance_and_a_negated_one_nothing(side: int) -> None:
    images, labels = pictures(200)
    perfect = localise(Reader(), images, labels, side=side, count=7, method=in_own_cells)
    assert perfect.scores.shape == (7, side * side)
    np.testing.assert_array_equal(perfect.scores, 1)
    even = localise(Reader(), images, labels, side=side, count=7, method=everywhere)
    np.testing.assert_allclose(even.scores, 1 / side**2, rtol=1e-12)
    assert even.mean == pytest.approx(1 / side**2)
    negated = localise(Reader(), images, labels, side=side, count=7, method=lambda *a: -in_own_cells(*a))
    np.testing.assert_array_equal(negated.scores, 0)


def test_negative_evidence_is_left_out_and_a_part_counts_as_its_share() -> None:
    maps = torch.zeros(4, 4, 4)
    maps[1, 2, 1] = 3.0  # of picture 1: row 1, column 0
    maps[1, 0, 3] = 1.0
    maps[1, 3, 3] = -50.0
    maps[2, 0, 2] = 1.0  # of picture 2: row 0, column 1
    assert grid_scores(maps) == [0.0, 0.75, 1.0, 0.0]


def test_pictures_stand_in_columns() -> None:
    cells = torch.arange(9.0)[:, None, None, None].expand(9, 2, 3, 5)
    grid = grid_picture(cells)
    assert grid.shape == (2, 9, 15)
    assert grid[0, ::3, ::5].tolist() == [[0, 3, 6], [1, 4, 7], [2, 5, 8]]


def test_every_grid_is_of_different_classes_and_shows_each_in_its_cell() -> None:
    images, labels = pictures(300)
    seen: list[list[int]] = []

    def listening(model: nn.Module, x: Tensor, classes: Sequence[int]) -> Tensor:
        cells = (x[0, 0].unflatten(0, (3, -1)).unflatten(2, (3, -1))[:, 0, :, 0] * 255 / 20).round().long()
        assert cells.t().flatten().tolist() == list(classes)
        seen.append(list(classes))
        return in_own_cells(model, x, classes)

    localise(Reader(), images, labels, count=20, method=listening)
    assert all(len(set(classes)) == 9 for classes in seen)
    assert len({tuple(classes) for classes in seen}) > 1


def test_the_draws_are_the_published_ones() -> None:
    """The first two draws of nine from ten classes by the legacy generator seeded with 42."""
    labels = torch.arange(500) % CLASSES
    chosen = chosen_pictures(nn.functional.one_hot(labels, CLASSES) * 10.0, labels, 9)
    assert labels[chosen[:18]].tolist() == [8, 1, 5, 0, 7, 2, 9, 4, 3, 0, 1, 8, 5, 3, 4, 7, 9, 6]
    assert len(set(chosen)) == len(chosen)


def test_pictures_are_right_confident_and_the_most_confident_first() -> None:
    labels = torch.arange(400) % CLASSES
    own = torch.linspace(3, -1, 400)[torch.randperm(400, generator=torch.Generator().manual_seed(0))]  # p > 0.5 above 0
    logits = torch.full((400, CLASSES), -9.0)
    logits[torch.arange(400), labels] = own
    wrong = torch.arange(0, 400, 7)
    logits[wrong, (labels[wrong] + 1) % CLASSES] = 5.0
    chosen = chosen_pictures(logits, labels, 4)
    assert all(own[i] > 0 for i in chosen)
    assert all(i % 7 for i in chosen)
    for c in range(CLASSES):
        of_class = [float(logits[i, c]) for i in chosen if labels[i] == c]
        assert of_class == sorted(of_class, reverse=True)


def test_the_most_confident_is_by_probability() -> None:
    """Of an ordinary network a high logit beside another high one is no confidence."""
    logits = torch.tensor([[10.0, 9.9, 0.0], [8.0, 0.0, 0.0], [0.0, 5.0, 0.0], [0.0, 0.0, 5.0]])
    labels = torch.tensor([0, 0, 1, 2])
    by_p = chosen_pictures(logits, labels, 2, p=logits.double().softmax(1))
    by_logit = chosen_pictures(logits, labels, 2)
    assert next(i for i in by_p if i < 2) == 1
    assert next(i for i in by_logit if i < 2) == 0


def test_logits_order_pictures_whose_probabilities_round_to_one() -> None:
    own = torch.tensor([50.0, 70.0, 60.0, 50.0, 50.0])
    labels = torch.tensor([0, 0, 0, 1, 2])
    logits = torch.full((5, 3), -9.0)
    logits[torch.arange(5), labels] = own
    for p in (None, logits.double().sigmoid(), logits.double().softmax(1)):
        assert next(i for i in chosen_pictures(logits, labels, 2, p=p) if i < 3) == 1


def test_a_measurement_is_the_choice_of_grids_and_their_scores_and_goes_on_anywhere() -> None:
    images, labels = pictures(100)
    found = localise(Reader(), images, labels, side=2, count=3, method=everywhere)
    steps: list[tuple[int, int]] = []
    logits = classify(Reader(), images, 30, lambda done, total: steps.append((done, total)))
    assert steps == [(30, 100), (60, 100), (90, 100), (100, 100)]
    wanted = choose_grids(logits, labels, side=2, count=3)
    for before in (0, 1, 3):
        scores = list(score_grids(Reader(), images, labels, wanted, method=everywhere, before=before))
        np.testing.assert_array_equal(scores, found.scores[before:].tolist())


def test_the_corrected_protocol_takes_n_at_a_time_and_the_published_one_loses_its_step() -> None:
    labels = torch.arange(20_000) % CLASSES
    chosen = chosen_pictures(nn.functional.one_hot(labels, CLASSES) * 10.0, labels, 9)
    corrected = list(grids(chosen, labels, 9, "corrected"))
    assert corrected[:3] == [chosen[:9], chosen[9:18], chosen[18:27]]
    published = list(grids(chosen, labels, 9, "published"))
    assert published[0] == chosen[:9]
    assert published[1][0] == chosen[10], "one picture is passed over"
    for grid in published:
        assert len({int(labels[i]) for i in grid}) == 9
    # The figure in the notes on the published code: about 12.1 entries of the list for a grid of nine.
    assert len(chosen) / len(published) == pytest.approx(12.1, abs=0.15)


def test_our_method_sums_exact_contributions(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = build("coda_net", ARGUMENTS)
    x = encode(torch.rand(1, 3, 8, 8))
    maps = ours(model, x, [3, 7])
    logits = model(x)[0]
    bias = float(model.bias)
    torch.testing.assert_close(maps.sum((1, 2)), logits[[3, 7]].detach() - bias, rtol=1e-4, atol=1e-5)
    monkeypatch.setattr("coda_cli.core.decompose.RELATIVE_TOLERANCE", {torch.float32: 0.0})
    with pytest.raises(ExactnessError, match="NOT EXACT"):
        ours(model, encode(torch.rand(1, 3, 64, 64)), list(range(10)))


def test_too_few_confident_pictures_make_no_grid() -> None:
    images, labels = pictures(8)
    with pytest.raises(MediaError, match="no 3 x 3 grid"):
        localise(Reader(), images, labels)


def test_the_interval_is_that_of_a_mean() -> None:
    rng = np.random.default_rng(1)
    scores = rng.normal(0.6, 0.1, (400, 9))
    low, high = Localisation(scores).interval()
    assert low < scores.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * scores.mean(1).std() / 20, rel=0.15)


def test_the_command_prints_a_sentence_or_a_record(coda: Coda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = tuple("abcdefghij")
    torch.manual_seed(1)
    model = build("coda_net", ARGUMENTS)
    checkpoint = Checkpoint(
        name="tiny",
        architecture="coda_net",
        arguments=ARGUMENTS,
        classes=names,
        preprocessing=Preprocessing(resize=8, crop=8),
    )
    saving.save(model, checkpoint, tmp_path / "tiny.safetensors")
    for split in ("train", "test"):
        for name in names:
            (tmp_path / "data" / split / name).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(tmp_path / "data" / split / name / "0.png")
    choose, score = localisation.choose_grids, localisation.score_grids
    images, labels = pictures(100)

    def known_choice(*_: object, **options: object) -> list[list[int]]:
        assert options["side"] == 2
        assert options["count"] == 3
        assert options["protocol"] == "published"
        return choose(classify(Reader(), images), labels, side=2, count=2)

    def known_answer(*given: Any, **options: Any) -> Iterator[list[float]]:
        return score(Reader(), images, labels, given[3], method=in_own_cells, before=options["before"])

    monkeypatch.setattr(localisation, "choose_grids", known_choice)
    monkeypatch.setattr(localisation, "score_grids", known_answer)
    command = (
        "evaluate",
        "localisation",
        "data",
        "-m",
        "tiny.safetensors",
        "--grid",
        "2x2",
        "--grids",
        "3",
        "--protocol",
        "published",
    )
    result = coda(*command)
    assert result.out.startswith("tiny: 1.000 of the positive evidence in the right cell (1.000 to 1.000, 95 %); 2 2x2")
    assert "2 grids instead of 3" in result.err
    found = json.loads(coda(*command, "--json").out)
    assert found["mean"] == 1.0
    assert found["scores"] == [[1.0] * 4] * 2
    assert found["uniform"] == 0.25
    refused = coda("evaluate", "localisation", "data", "-m", "cifar10", status=2)
    assert refused.error == (
        "data/test: a, b, c and 7 more: no class of cifar10; coda models show cifar10 --json lists them"
    )


def test_the_command_measures_goes_on_and_draws(coda: Coda, scenes: Path, tmp_path: Path) -> None:
    command = ("evaluate", "localisation", scenes, "--grid", "2x2", "--grids", "2", "--threshold", "0", "--json")
    found = json.loads(coda(*command, "--plot", "box.png").out)
    jsonschema.validate(found, json.loads(coda("schema", "evaluate").out))
    assert np.array(found["scores"]).shape == (2, 4)
    assert (found["method"], found["threshold"], found["uniform"]) == ("ours", 0.0, 0.25)
    assert (found["parameters"], found["device"]) == ({}, "cpu")
    assert found["network"]["temperature"] > 1
    assert found["mean"] == pytest.approx(np.mean(found["scores"]))
    with Image.open(tmp_path / "box.png") as figure:
        assert figure.format == "PNG"
    # Stopped after one grid, at the end of its line but for the line's end, the same command gives the same.
    coda(*command, "--scores", "kept.jsonl")
    kept = (tmp_path / "kept.jsonl").read_text().splitlines()
    assert len(kept) == 3
    (tmp_path / "kept.jsonl").write_text("\n".join(kept[:2]))
    again = json.loads(coda(*command, "--scores", "kept.jsonl").out)
    np.testing.assert_allclose(again["scores"], found["scores"], atol=1e-6)
    assert (tmp_path / "kept.jsonl").read_text().splitlines() == kept
    # Two runs at once do not mix their lines, and nothing is left beside the file.
    with filelock.FileLock(tmp_path / ".coda-kept.jsonl.lock"):
        refused = coda(*command, "--scores", "kept.jsonl", status=2)
    assert refused.error == "kept.jsonl: another run writes to it; wait for its end, or name another file"
    coda(*command, "--scores", "kept.jsonl")
    assert not (tmp_path / ".coda-kept.jsonl.lock").exists()
    # What decides the scores tells measurements apart.
    for other in (("--method", "input-x-gradient"), ("--smooth", "3"), ("--rescale",), ("--protocol", "published")):
        assert "another measurement" in coda(*command, *other, "--scores", "kept.jsonl", status=2).error
    by_another = (tmp_path / "kept.jsonl").read_text().replace('"coda": "', '"coda": "9.')
    (tmp_path / "kept.jsonl").write_text(by_another)
    assert "another measurement" in coda(*command, "--scores", "kept.jsonl", status=2).error


def test_numbers_that_the_weights_do_not_hold_tell_measurements_apart(coda: Coda, scenes: Path, tmp_path: Path) -> None:
    """Bare weights have them in a file beside them; that of the weights stays the same."""
    torch.save(authors_state(ARGUMENTS), tmp_path / "bare.pkl")
    command = ("evaluate", "removal", scenes, "-m", "bare.pkl", "--pictures", "1", "--points", "1", "--scores", "kept")
    for bias in (-1.0, -2.0):
        checkpoint = Checkpoint(
            name="bare",
            architecture="coda_net",
            arguments={**ARGUMENTS, "bias": bias},
            classes=CIFAR10,
            preprocessing=Preprocessing(resize=32, crop=32),
        )
        (tmp_path / "bare.pkl.json").write_text(checkpoint.model_dump_json())
        result = coda(*command, status=0 if bias == -1 else 2)
    assert "another measurement" in result.error


def test_memory_that_runs_out_is_one_line(coda: Coda, scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("coda_cli.core.networks.classify", full)
    result = coda("evaluate", "localisation", scenes, "--grid", "2x2", status=1)
    assert (
        result.error
        == "memory ran out; use smaller pictures, compute fewer together, or use a machine with more memory"
    )


def test_methods_smoothing_and_size_change_what_is_measured(coda: Coda, scenes: Path) -> None:
    command = ("evaluate", "localisation", scenes, "--grid", "2x2", "--grids", "1", "--threshold", "0", "--json")
    means = {}
    for more in ((), ("--method", "occlusion:window=16,stride=16"), ("--smooth", "5"), ("--rescale",)):
        found = json.loads(coda(*command, *more).out)
        assert all(0 <= score <= 1 for score in found["scores"][0])
        means[more] = found["mean"]
    assert len(set(means.values())) == 4
    assert coda(*command[:-1]).out.startswith("cifar10: ")
    assert " by gradient: " in coda(*command[:-1], "--method", "gradient").out


def test_the_figure_has_the_lines_of_a_perfect_and_an_even_map() -> None:
    axes = plots.localisation_figure({"ours": np.full((4, 9), 0.8), "rise": np.full((4, 9), 0.2)}, 1 / 9, "").axes[0]
    across = [line.get_ydata()[0] for line in axes.lines if list(line.get_xdata()) == [0, 1]]
    assert across == [1.0, 1 / 9]
    assert {text.get_text() for text in axes.texts} == {"perfect", "even"}


def test_grids_are_made_of_the_small_pictures_where_there_are_some() -> None:
    images, labels = pictures(100)
    wanted = choose_grids(classify(Reader(), images), labels, side=2, count=3)
    small = images.flip(0)[:, :, ::2, ::2]

    def red(_: nn.Module, x: Tensor, classes: Sequence[int]) -> Tensor:
        return x[0, 0].expand(len(classes), -1, -1)

    made = list(score_grids(Reader(), images, labels, wanted, small=small, method=red))
    expected = list(score_grids(Reader(), small, labels, wanted, method=red))
    assert made == expected != list(score_grids(Reader(), images, labels, wanted, method=red))
