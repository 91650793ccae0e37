"""The colour explanation of the B-cos papers: the dynamic weights themselves, as a picture.

The weights of a pixel's six channels (r g b 1-r 1-g 1-b) say for which colour of that pixel the logit would be largest.
Their hue is drawn, their norm is the opacity, and pixels that count against the class are left out.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from coda_cli.opencv import cv2

Floats = NDArray[np.float32]


def colour_explanation(
    weights: Floats, contributions: Floats, smooth: int = 15, percentile: float = 99.5
) -> NDArray[np.float32]:
    """Draw dynamic weights in the colours that they ask for.

    Opacity is the norm of the weights, smoothed. Near the border the mean is taken over the pixels inside the picture;
    the original counts zeros beyond it, so that its borders fade.

    Args:
        weights: dynamic weights, float32 [6, h, w].
        contributions: contributions of the same inputs, float32 [6, h, w], logit units.
        smooth: side of the window over which opacity is averaged, in pixels; odd, so that it has a centre.
        percentile: of the smoothed norms, 0 to 100, that is drawn with full opacity.

    Returns:
        Red, green, blue and opacity, float32 [h, w, 4] in [0, 1]; the colours are not multiplied by the opacity.

    Raises:
        ValueError: for a ``smooth`` that is not odd.

    Source: B-cos Networks (CVPR 2022), section 4; ``gradient_to_image`` of B-cos-v2.
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
    # Where no pixel counts for the class nothing is drawn; the original divides 0 by 0 there and draws all pixels.
    opacity = np.clip(opacity / full, 0, 1) if full > 0 else np.zeros_like(opacity)
    return np.concatenate([hue, opacity[None]]).transpose(1, 2, 0).astype(np.float32)


def on_paper(rgba: NDArray[np.float32], paper: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Lay a colour explanation over a picture.

    Args:
        rgba: red, green, blue and opacity, float32 [H, W, 4] in [0, 1]; where they are NaN the picture stays.
        paper: the picture, uint8 [H, W, 3] sRGB.

    Returns:
        uint8 [H, W, 3] sRGB.
    """
    known = np.nan_to_num(rgba)
    alpha = known[..., 3:]
    laid = 255 * known[..., :3] * alpha + paper.astype(np.float32) * (1 - alpha)
    return np.asarray(np.round(laid), np.uint8)
