"""The signed colour scale: zero is neutral, the sign has a colour, and one stated number is full colour."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Blue to white to red, dark at both ends so that strength shows in print too; told apart by all common forms of colour
# blindness. The anchors are our own choice, interpolated evenly.
_ANCHORS = np.array(
    [(10, 32, 104), (33, 96, 190), (116, 169, 226), (205, 224, 244), (255, 255, 255),
     (250, 214, 200), (238, 138, 110), (205, 42, 48), (110, 6, 26)], np.float64,
)  # fmt: skip
POSITIVE, NEGATIVE = (221, 28, 38), (24, 92, 205)  # full colours of an overlay
OUTSIDE = (214, 214, 214)  # what the network did not see


def _table() -> NDArray[np.uint8]:
    """The colours of the scale, interpolated between the anchors."""
    # An odd number of entries: zero is in the middle of one, which is exactly white.
    at = np.linspace(0, len(_ANCHORS) - 1, 513)
    columns = [np.interp(at, np.arange(len(_ANCHORS)), _ANCHORS[:, c]) for c in range(3)]
    return np.round(np.stack(columns, 1)).astype(np.uint8)


TABLE = _table()  # uint8 [513, 3], from -scale to +scale


def robust_scale(values: NDArray[np.float32], percentile: float) -> float:
    """Find the contribution that full colour stands for, so that a few extreme pixels do not pale all others.

    Args:
        values: contribution map, float32 of any shape, logit units; NaN is left out.
        percentile: of the absolute values, 0 to 100.

    Returns:
        That percentile, in logit units; 0 where there is no value.
    """
    size = np.abs(values[~np.isnan(values)])
    return float(np.percentile(size, percentile)) if size.size else 0.0


class Magnitudes:
    """Percentiles of the absolute values of any number of maps, within 0.3 %: a histogram, so that no map is kept."""

    _PER_DECADE, _BINS = 400, 400 * 36  # logarithmic, from 1e-30 to 1e6; values of 0 in the first

    def __init__(self) -> None:
        self._counts = np.zeros(self._BINS + 1, np.int64)

    def add(self, values: NDArray[np.float32]) -> None:
        """Count the values of one more map.

        Args:
            values: contribution map, float32 of any shape, logit units.
        """
        size = np.maximum(np.abs(values.ravel()), 1e-30)
        index = np.clip((np.log10(size) + 30) * self._PER_DECADE, 0, self._BINS)
        self._counts += np.bincount(index.astype(np.int64), minlength=self._BINS + 1)

    def percentile(self, percentile: float) -> float:
        """Find the contribution that full colour stands for in all maps, as ``robust_scale`` does for one.

        Args:
            percentile: of the absolute values, 0 to 100.

        Returns:
            That percentile with six digits, in logit units; 0 where there is no value.
        """
        if not (total := self._counts.sum()):
            return 0.0
        index = int(np.searchsorted(np.cumsum(self._counts), percentile / 100 * total))
        return float(f"{10 ** ((index + 0.5) / self._PER_DECADE - 30):.6g}") if index else 0.0


def strength(values: NDArray[np.float32], scale: float) -> NDArray[np.float32]:
    """Express values as shares of full colour.

    Args:
        values: contribution map, float32 of any shape, logit units; NaN becomes 0.
        scale: the contribution in full colour, in logit units; where it is 0 there is no evidence, and all is 0.

    Returns:
        values / scale, clipped to [-1, 1].
    """
    if scale <= 0:
        return np.zeros_like(values)
    result = (values * np.float32(1 / scale) if 1 / scale < np.inf else values / scale).astype(np.float32)
    np.clip(result, -1, 1, out=result)
    result[np.isnan(result)] = 0
    return result


def coloured(values: NDArray[np.float32], scale: float) -> NDArray[np.uint8]:
    """Draw a signed map: white at 0, full red at +scale, full blue at -scale, grey for NaN.

    Args:
        values: contribution map, float32 of any shape [...], logit units.
        scale: the contribution in full colour, in logit units.

    Returns:
        uint8 [..., 3] sRGB.
    """
    half = len(TABLE) // 2
    result: NDArray[np.uint8] = TABLE[np.round(strength(values, scale) * half).astype(np.int64) + half]
    result[np.isnan(values)] = OUTSIDE
    return result
