"""How often a network is right, and what its probabilities are worth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BINS = 15  # of equal width, over the probability of the predicted class


@dataclass(frozen=True)
class Performance:
    """What was measured on some pictures; all shares are in [0, 1].

    Attributes:
        value: share of pictures whose highest logit is their label's.
        pictures: how many there were.
        by_class: the same share of the pictures of each class; NaN for a class without pictures.
        mean_probability: mean probability of the predicted class.
        calibration_error: the expected calibration error: mean over pictures of |share right - mean probability|.
    """

    value: float
    pictures: int
    by_class: tuple[float, ...]
    mean_probability: float
    calibration_error: float


def performance(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> Performance:
    """Measure accuracy and calibration.

    The probability of a class is the sigmoid of its logit, as these networks are trained. For the calibration error
    pictures are sorted by the probability of the predicted class into BINS bins.

    Args:
        logits: float [N, classes].
        labels: int [N], the true classes.

    Returns:
        All that was measured.

    Source:
        Guo et al., ICML 2017 (expected calibration error).
    """
    logits = np.asarray(logits, np.float64)
    predicted = logits.argmax(1)
    right = predicted == labels
    probability = 1 / (1 + np.exp(-logits.max(1)))
    bins = np.minimum((probability * BINS).astype(int), BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    gaps = np.abs(np.bincount(bins, right, BINS) - np.bincount(bins, probability, BINS))  # times the bin's count
    by_class = tuple(
        float(right[labels == c].mean()) if (labels == c).any() else float("nan") for c in range(logits.shape[1])
    )
    error = float(gaps.sum() / counts.sum())
    return Performance(float(right.mean()), len(labels), by_class, float(probability.mean()), error)
