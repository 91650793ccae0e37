"""The classes somebody asks about, and the weightings of the logits they become, picture by picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from coda_cli.checkpoints.loading import Net
from coda_cli.checkpoints.manifest import Checkpoint, Preprocessing
from coda_cli.checkpoints.targets import Target, Targets
from coda_cli.errors import ExitCode, UsageError
from coda_cli.explanation.clip.survey import all_explained
from coda_cli.explanation.picture import Explanation, explain_batch
from coda_cli.explanation.request import Request
from coda_cli.explanation.writer import arrays
from coda_cli.media.view import fit

CLASSES = ("ant", "bee", "cat", "dog", "eel")
CHECKPOINT = Checkpoint(
    name="zoo",
    architecture="linear",
    arguments={},
    classes=CLASSES,
    preprocessing=Preprocessing(resize=4, crop=4),
)
LOGITS = np.array([0.5, 3.0, -1.0, 2.0, 0.1])  # in order: bee, dog, ant, eel, cat


def indices(classes: Sequence[str], versus: str | None = None, logits: np.ndarray = LOGITS) -> list[int]:
    targets = Targets(classes, versus, CHECKPOINT).of(logits)
    assert {t.versus for t in targets} <= {None if versus is None else CLASSES.index(versus)}
    return [t.index for t in targets]


def refusal(classes: Sequence[str], versus: str | None = None) -> str:
    with pytest.raises(UsageError) as caught:
        Targets(classes, versus, CHECKPOINT)
    assert caught.value.exit_code == ExitCode.USAGE
    return str(caught.value)


# ---- one picture -----------------------------------------------------------------------------------------------------


def test_without_a_class_the_prediction_is_explained() -> None:
    assert Targets([], None, CHECKPOINT).of(LOGITS) == [Target(1)]
    assert indices([], logits=-LOGITS) == [2]


def test_of_equal_logits_the_first_class_is_the_prediction() -> None:
    assert indices([], logits=np.zeros(5)) == [0]
    assert indices(["top:3"], logits=np.array([0.0, 1, 1, 1, 0])) == [1, 2, 3]


@pytest.mark.parametrize(("text", "expected"), [("top:1", [1]), ("top:2", [1, 3]), ("top:5", [1, 3, 0, 4, 2])])
def test_top_k_are_the_highest_logits_from_the_highest_down(text: str, expected: list[int]) -> None:
    assert indices([text]) == expected


def test_all_is_every_class_in_the_networks_order() -> None:
    assert indices(["all"]) == [0, 1, 2, 3, 4]


def test_classes_come_in_the_order_asked_for_each_once() -> None:
    assert indices(["eel", "ant", "3", "EEL", "dog", "0"]) == [4, 0, 3]
    assert indices(["cat", "all", "cat"]) == [2, 0, 1, 3, 4]


def test_the_top_ones_come_first_and_are_not_repeated() -> None:
    assert indices(["cat", "top:2"]) == [1, 3, 2]
    assert indices(["top:2", "dog", "cat"]) == [1, 3, 2]
    assert indices(["all", "top:1"]) == [1, 0, 2, 3, 4]


def test_of_several_tops_the_largest_holds_the_others() -> None:
    assert indices(["top:3", "top:1"]) == indices(["top:1", "top:3"]) == [1, 3, 0]


def test_versus_makes_a_difference_of_every_class() -> None:
    assert Targets(["ant", "bee"], "cat", CHECKPOINT).of(LOGITS) == [Target(0, 2), Target(1, 2)]
    assert Targets([], "dog", CHECKPOINT).of(LOGITS) == [Target(1, 3)]


def test_no_class_is_held_against_itself() -> None:
    assert indices(["all"], "cat") == [0, 1, 3, 4]
    assert indices(["top:3"], "dog") == [1, 0]
    assert indices(["dog", "ant"], "dog") == [0]


def test_when_the_prediction_is_held_against_it_is_the_runner_ups_turn() -> None:
    assert indices([], "bee") == [3]
    assert indices(["top:1"], "bee") == [3]
    assert indices([], "dog", logits=-LOGITS) == [2]


def test_a_class_asked_for_against_itself_is_refused_not_exchanged_for_another() -> None:
    assert refusal(["cat"], "cat") == "--versus cat: is the class asked for; a class minus itself is 0"
    refusal(["2", "cat"], "CAT")


@pytest.mark.parametrize("text", ["top:0", "top:6", "top:-1", "top:", "top:x", "top:1.5"])
def test_top_k_takes_a_number_of_classes(text: str) -> None:
    assert refusal([text]) == f"--class {text}: top:K takes K from 1 to 5, the number of classes"


@pytest.mark.parametrize(("classes", "versus"), [(["wolf"], None), (["5"], None), (["ant", "-1"], None), ([], "wolf")])
def test_classes_the_network_does_not_have_are_refused_before_any_work(classes: list[str], versus: str | None) -> None:
    assert (versus or classes[-1]) in refusal(classes, versus)


# ---- a batch ---------------------------------------------------------------------------------------------------------


def test_every_row_of_a_batch_gets_its_own_prediction() -> None:
    logits = torch.tensor([[0.0, 2, 1, 0, 0], [5, 0, 0, 0, 0], [0, 0, 0, 0, 1]])
    expected = torch.zeros(3, 1, 5)
    expected[[0, 1, 2], 0, [1, 0, 4]] = 1
    torch.testing.assert_close(Targets([], None, CHECKPOINT).weightings(logits), expected, rtol=0, atol=0)


def test_a_weighting_holds_one_and_minus_one() -> None:
    logits = torch.from_numpy(LOGITS).float()[None].repeat(2, 1)
    logits[1] *= -1
    weights = Targets(["top:2", "eel"], "ant", CHECKPOINT).weightings(logits)
    assert weights.tolist() == [
        [[-1, 1, 0, 0, 0], [-1, 0, 0, 1, 0], [-1, 0, 0, 0, 1]],
        [[-1, 0, 1, 0, 0], [-1, 0, 0, 0, 1], [0, 0, 0, 0, 0]],
    ]


class Linear(nn.Module):
    """The simplest network there is: logits are sums over weighted input values."""

    bias = -1.0

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6 * 4 * 4, len(CLASSES), generator=torch.Generator().manual_seed(0)))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight + self.bias


RAGGED = [(("top:2", "cat"), None), (("top:3",), "ant"), (("cat", "top:1"), None), ((), "bee")]


@pytest.mark.parametrize(("classes", "versus"), RAGGED)
def test_weightings_say_what_the_targets_of_each_picture_say(classes: tuple[str, ...], versus: str | None) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20, 5))
    targets = Targets(classes, versus, CHECKPOINT)
    weights = targets.weightings(torch.from_numpy(logits)).numpy()
    rows = [targets.of(row) for row in logits]
    assert weights.shape == (20, max(map(len, rows)), 5)
    for row, weight in zip(rows, weights, strict=True):
        expected = np.zeros_like(weight)
        for k, target in enumerate(row):
            expected[k, target.index] = 1
            if target.versus is not None:
                expected[k, target.versus] = -1
        np.testing.assert_array_equal(weight, expected)


@pytest.mark.parametrize(("classes", "versus"), RAGGED)
def test_pictures_with_different_numbers_of_targets_can_share_a_batch(
    classes: tuple[str, ...], versus: str | None
) -> None:
    net = Net(Linear().requires_grad_(False), CHECKPOINT, Path("zoo"), "0")
    rng = np.random.default_rng(1)
    views = [fit(rng.integers(0, 256, (4, 4, 3), np.uint8), 4, 4) for _ in range(12)]
    request = Request(classes, versus)
    targets = request.targets(net)
    together = all_explained(explain_batch(views, net, request, targets))
    alone = [all_explained(explain_batch([view], net, request, targets))[0] for view in views]
    assert [e.targets for e in together] == [e.targets for e in alone]
    for one, other in zip(together, alone, strict=True):
        check_explanation(one)
        np.testing.assert_allclose(one.maps, other.maps, atol=1e-6)
        assert {k: v.shape for k, v in arrays(one).items()} == {k: v.shape for k, v in arrays(other).items()}
    counts = {len(e.targets) for e in together}
    assert (len(counts) > 1) == (len(classes) > 0), "batches are ragged where they can be"


def check_explanation(explanation: Explanation) -> None:
    """One map, sum and residual for every target, and the logit that belongs to it."""
    d, logits = explanation.decomposition, explanation.decomposition.logits[0]
    assert len(explanation.maps) == len(explanation.targets)
    for field in (d.contributions, d.weights, d.logit, d.bias, d.residual, d.tolerance):
        assert field.shape[:2] == (1, len(explanation.targets))
    for k, target in enumerate(explanation.targets):
        expected = logits[target.index] - (0 if target.versus is None else logits[target.versus])
        assert float(d.logit[0, k]) == pytest.approx(float(expected), abs=1e-5)
    assert bool(d.exact.all())
