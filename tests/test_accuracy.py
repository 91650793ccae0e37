"""Accuracy and calibration against counts by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from coda_cli.study.accuracy import performance


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def test_shares_are_counted_overall_and_by_class() -> None:
    logits = np.array([[2.0, 0, 0], [0, 2, 0], [0, 2, 0], [0, 0, 2]])
    found = performance(logits, np.array([0, 0, 1, 1]))
    assert found.value == 0.5
    assert found.pictures == 4
    assert found.by_class[:2] == (0.5, 0.5)
    assert math.isnan(found.by_class[2])


def test_honest_probabilities_have_no_calibration_error_and_boasts_have_theirs() -> None:
    # Ten pictures at 0.8 of which eight are right, ten at 0.6 of which six are.
    p = [0.8] * 10 + [0.6] * 10
    logits = np.array([[logit(x), -9.0] for x in p])
    honest = np.array([0] * 8 + [1] * 2 + [0] * 6 + [1] * 4)
    found = performance(logits, honest)
    assert found.calibration_error == pytest.approx(0, abs=1e-12)
    assert found.mean_probability == pytest.approx(0.7)
    boast = performance(logits, np.array([0] * 8 + [1] * 12))
    assert boast.calibration_error == pytest.approx(0.3)
    assert performance(np.array([[40.0, -40.0]]), np.array([0])).calibration_error == pytest.approx(0, abs=1e-12)
