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
    # An odd number of entries: zero is in the middle of one, which is exactly white.
    at = np.linspace(0, len(_ANCHORS) - 1, 513)
    columns = [np.interp(at, np.arange(len(_ANCHORS)), _ANCHORS[:, c]) for c in range(3)]
    return np.round(np.stack(columns, 1)).astype(np.uint8)


TABLE = _table()  # uint8 [513, 3], from -scale to +scale


def robust_scale(values: NDArray[np.float32], percentile: float) -> float:
    """The ``percentile`` (0..100) of |values|, NaNs left out: what full colour stands for; 0 for no evidence."""
    size = np.abs(values[~np.isnan(values)])
    return float(np.percentile(size, percentile)) if size.size else 0.0


class Magnitudes:
    """The percentiles of |values| over any number of maps, within 0.3 %, without keeping one: a histogram."""

    _PER_DECADE, _BINS = 400, 400 * 36  # logarithmic, from 1e-30 to 1e6; values of 0 in the first

    def __init__(self) -> None:
        self._counts = np.zeros(self._BINS + 1, np.int64)

    def add(self, values: NDArray[np.float32]) -> None:
        """Count the values of one more map [...]."""
        size = np.maximum(np.abs(values.ravel()), 1e-30)
        index = np.clip((np.log10(size) + 30) * self._PER_DECADE, 0, self._BINS)
        self._counts += np.bincount(index.astype(np.int64), minlength=self._BINS + 1)

    def percentile(self, percentile: float) -> float:
        """As ``robust_scale``, six digits; 0 for no evidence."""
        if not (total := self._counts.sum()):
            return 0.0
        index = int(np.searchsorted(np.cumsum(self._counts), percentile / 100 * total))
        return float(f"{10 ** ((index + 0.5) / self._PER_DECADE - 30):.6g}") if index else 0.0


def strength(values: NDArray[np.float32], scale: float) -> NDArray[np.float32]:
    """values / scale in [-1, 1], clipped; NaN becomes 0. All 0 where the scale is 0: no evidence, no colour."""
    if scale <= 0:
        return np.zeros_like(values)
    result = (values * np.float32(1 / scale) if 1 / scale < np.inf else values / scale).astype(np.float32)
    np.clip(result, -1, 1, out=result)
    result[np.isnan(result)] = 0
    return result


def coloured(values: NDArray[np.float32], scale: float) -> NDArray[np.uint8]:
    """A signed map [...] in colours, uint8 [..., 3]: white at 0, full red at +scale, full blue at -scale; NaN grey."""
    half = len(TABLE) // 2
    result: NDArray[np.uint8] = TABLE[np.round(strength(values, scale) * half).astype(np.int64) + half]
    result[np.isnan(values)] = OUTSIDE
    return result
