"""Why nothing is shown of a picture, and which numbers nothing can be drawn with."""

from __future__ import annotations

import math

import torch

from coda_cli.checkpoints.loading import Net
from coda_cli.core.decompose import Decomposition
from coda_cli.errors import ExactnessError, MediaError, UsageError
from coda_cli.machine.memory import out_of_memory
from coda_cli.media.view import View


def too_small(error: ValueError | RuntimeError, view: View, net: Net) -> MediaError | None:
    """Find out whether a layer's error means that a picture is too small.

    The new error is returned, not raised: an error that is a local variable in its own traceback keeps all tensors
    there alive.

    Args:
        error: what a layer raised.
        view: what the network saw.
        net: the network.

    Returns:
        The error about the picture; None where the layer's error means something else.
    """
    if out_of_memory(error):
        return None
    if isinstance(error, ValueError):  # from a layer of this package
        return MediaError(f"{error}; use --fit crop")
    if min(view.rgb.shape[:2]) >= net.checkpoint.preprocessing.crop:
        return None
    reason = str(error).splitlines()[0]  # from a layer of torch
    return MediaError(f"too small for this network ({reason}); use --fit crop")


def refusal(d: Decomposition, net: Net) -> ExactnessError | None:
    """Find out why nothing is shown of one input, if that is so.

    A residual of a network that is exact by construction is shown: it is a fault of rounding or of the program. That of
    an ordinary network means that a layer does what coda does not know.

    Args:
        d: the decomposition of the input.
        net: the network.

    Returns:
        The error about the input; None where it is shown.
    """
    if not (torch.isfinite(d.logits).all() and torch.isfinite(d.residual).all()):
        return ExactnessError("the network's logits are not finite; nothing can be explained")
    if d.exactness == "by construction" or d.exact.all():
        return None
    used = float((d.residual.abs() / d.tolerance).max())
    return ExactnessError(
        f"{net.checkpoint.name} is not understood above {net.cut or 'its input'}: a residual is {used:.2g} times its "
        f"tolerance; not known to coda: {', '.join(d.unknown) or 'no function by its name'}; --cut names a layer above"
    )


def refuse_bad_drawing(
    scale: float | str, words: tuple[str, ...], percentile: float, alpha: float, smooth: int
) -> None:
    """Refuse numbers that nothing can be drawn with.

    Args:
        scale: the contribution in full colour, in logit units, or one of ``words``.
        words: the ways to find the scale.
        percentile: from 0 to 100.
        alpha: opacity, from 0 to 1.
        smooth: an odd window, in pixels.

    Raises:
        UsageError: a number or word is none of these.
    """
    if scale not in words and not (isinstance(scale, float | int) and 0 <= scale < math.inf):
        raise UsageError(f"scale is {scale!r}; expected {', '.join(words)} or a number of logit units")
    if not 0 <= percentile <= 100:
        raise UsageError(f"percentile is {percentile}; expected a number from 0 to 100")
    if not 0 <= alpha <= 1:
        raise UsageError(f"alpha is {alpha}; expected a number from 0 to 1")
    if smooth < 1 or smooth % 2 == 0:
        raise UsageError(f"smooth is {smooth}; expected an odd number of pixels")
