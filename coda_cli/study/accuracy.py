"""How often a network is right, and what its probabilities are worth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BINS = 15  # of equal width, over the probability of the predicted class


@dataclass(frozen=True)
class Performance:
    """Measured on N pictures; shares in [0, 1]."""

    value: float  # share of pictures whose highest logit is their label's
    pictures: int
    by_class: tuple[float, ...]  # of the pictures of each class; NaN for a class without pictures
    mean_probability: float  # of the predicted class, a sigmoid
    calibration_error: float  # expected calibration error: mean over pictures of |share right - mean probability|


def performance(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> Performance:
    """Accuracy and calibration from logits [N, classes] and labels [N].

    The probability of a class is the sigmoid of its logit, as these networks are trained. For the calibration error
    (Guo et al., ICML 2017) pictures are sorted by the probability of the predicted class into BINS bins.
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
    return Performance(float(right.mean()), len(labels), by_class, float(probability.mean()),
                       float(gaps.sum() / counts.sum()))  # fmt: skip
