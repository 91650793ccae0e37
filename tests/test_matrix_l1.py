"""The loss on the dynamic weights: the right matrix, gradients that reach the parameters, and maps that get sparser."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from squares import CLASSES, CPU, TINY, run, squares

from coda_cli.core.dau import NORMS
from coda_cli.core.decompose import decompose
from coda_cli.core.networks import CodaNet, coda_net, encode
from coda_cli.errors import UsageError
from coda_cli.training import batches, loop


def small_net(norm: str = "SQ", **changes: object) -> CodaNet:
    torch.manual_seed(0)
    arguments = {
        "channels": [6, 4, 5, 3],
        "kernels": [3, 4, 1],
        "strides": [1, 2, 1],
        "ranks": [3, 4, 3],
        "norm": norm,
        "temperature": 2.0,
        **changes,
    }
    return coda_net(**arguments).double()  # type: ignore[arg-type]


@pytest.mark.parametrize("changes", [{}, {"antialias": True}, {"groups": [1, 2, 1]}])
@pytest.mark.parametrize("norm", NORMS)
def test_the_rows_are_the_dynamic_weights(norm: str, changes: dict[str, object]) -> None:
    model, x = small_net(norm, **changes), encode(torch.rand(3, 3, 8, 8, dtype=torch.float64))
    classes = torch.tensor([[0, 2], [1, 0], [2, 1]])
    logits, rows = model.logits_and_rows(x, classes)
    d = decompose(model, x, classes)
    torch.testing.assert_close(rows.detach(), d.dynamic_weights, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(logits.detach(), d.logits, rtol=1e-6, atol=1e-9)


def test_its_gradient_is_that_of_finite_differences_for_every_parameter() -> None:
    model, x = small_net(), encode(torch.rand(2, 3, 6, 6, dtype=torch.float64))
    classes = torch.tensor([[0, 1], [2, 0]])

    def loss() -> torch.Tensor:
        return model.logits_and_rows(x, classes)[1].square().mean()  # smooth, unlike |W|

    gradients = torch.autograd.grad(loss(), list(model.parameters()))
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        direction = torch.randn_like(parameter)
        expected = float((gradient * direction).sum())
        values = []
        with torch.no_grad():
            for step in (1e-5, -1e-5):
                parameter += step * direction
                with torch.enable_grad():
                    values.append(float(loss().detach()))
                parameter -= step * direction
        assert (values[0] - values[1]) / 2e-5 == pytest.approx(expected, rel=1e-4, abs=1e-12)
        assert expected != 0


def test_training_with_it_makes_the_matrices_smaller(tmp_path: Path) -> None:
    data = squares(240, 0), squares(60, 1)
    x = encode(data[1].images[:30])

    def mean_size(weight: float) -> tuple[float, float]:
        result = run(replace(TINY, matrix_l1=weight), data, tmp_path / str(weight))
        assert isinstance(result.model, CodaNet)
        assert result.accuracy is not None
        d = decompose(result.model, x, data[1].labels[:30, None])
        return float(d.dynamic_weights.abs().mean()), result.accuracy

    plain, accuracy = mean_size(0.0)
    regularised, _ = mean_size(20.0)
    assert accuracy > 0.8
    assert regularised < 0.7 * plain


def test_a_picture_s_own_class_and_another_one() -> None:
    labels = torch.arange(3000) % 3
    chosen = batches.two_classes(labels, 3, TINY, 5)
    assert torch.equal(chosen[:, 0], labels)
    assert (chosen[:, 1] != labels).all()
    assert torch.bincount(chosen[:, 1] * 3 + labels, minlength=9).tolist().count(0) == 3
    assert all(400 < n < 600 for n in torch.bincount(chosen[:, 1] * 3 + labels).tolist() if n)
    assert not torch.equal(chosen, batches.two_classes(labels, 3, TINY, 6))
    assert torch.equal(chosen, batches.two_classes(labels, 3, TINY, 5))


def test_other_networks_have_none(tmp_path: Path) -> None:
    recipe = replace(
        TINY,
        matrix_l1=0.1,
        architecture="bcos_chain",
        arguments={
            "channels": [6, 4, len(CLASSES)],
            "kernels": [3, 1],
            "strides": [2, 1],
            "b": 2.0,
            "max_out": 1,
            "scale": 1.0,
            "temperature": 1.0,
            "bias": -1.0,
        },
    )
    with pytest.raises(UsageError, match="--matrix-l1 is for CoDA-Nets"):
        loop.train(recipe, (squares(60, 0), squares(30, 1)), tmp_path, device=CPU)
