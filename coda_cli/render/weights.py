"""The colour explanation of the B-cos papers: the dynamic weights themselves, as a picture. Arrays in, arrays out.

A weight row of the encoding r g b 1-r 1-g 1-b says which colour a pixel would best have had. Its hue is drawn, its norm
is the opacity, and pixels that count against the class are left out (CVPR 2022, section 4; ``gradient_to_image`` of
B-cos-v2).
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def colour_explanation(
    weights: Floats, contributions: Floats, smooth: int = 15, percentile: float = 99.5
) -> NDArray[np.float32]:
    """Dynamic weights and contributions [6, h, w] as r g b opacity, [h, w, 4] in [0, 1]; straight alpha.

    Opacity is the norm of the weights, smoothed over ``smooth`` x ``smooth`` pixels, full at its ``percentile``. Near
    the border the mean is of what lies inside: the original counts zeros beyond it and fades. Raises ValueError for a
    ``smooth`` that is not odd, whose window would have no centre.
    """
    if smooth < 1 or smooth % 2 == 0:
        raise ValueError(f"smooth is {smooth}; expected an odd number of pixels")
    gain = np.maximum(weights / (np.abs(weights).max(0) + 1e-12), 0)
    hue = gain[:3] / (gain[:3] + gain[3:] + 1e-12)
    opacity = np.linalg.norm(weights, axis=0).astype(np.float32)
    opacity[contributions.sum(0) < 0] = 0
    window = (smooth, smooth)
    inside = cv2.boxFilter(np.ones_like(opacity), -1, window, normalize=False, borderType=cv2.BORDER_CONSTANT)
    opacity = np.asarray(
        cv2.boxFilter(opacity, -1, window, normalize=False, borderType=cv2.BORDER_CONSTANT) / inside, np.float32
    )
    full = float(np.percentile(opacity, percentile))
    # Where nothing speaks for the class nothing is drawn; the original divides 0 by 0 there and draws all of it.
    opacity = np.clip(opacity / full, 0, 1) if full > 0 else np.zeros_like(opacity)
    return np.concatenate([hue, opacity[None]]).transpose(1, 2, 0).astype(np.float32)


def on_paper(rgba: NDArray[np.float32], paper: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """r g b opacity [H, W, 4] in [0, 1] laid over a picture uint8 [H, W, 3]; where it is NaN the picture stays."""
    known = np.nan_to_num(rgba)
    alpha = known[..., 3:]
    laid = 255 * known[..., :3] * alpha + paper.astype(np.float32) * (1 - alpha)
    return np.asarray(np.round(laid), np.uint8)
