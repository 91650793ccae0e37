"""What is to be explained: class indices and weightings of logits in every way that they may be written."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn


class ArrayLike(Protocol):
    """A numpy array, or anything else that can be made one."""

    def __array__(self) -> Any: ...


TargetsLike = int | Sequence[int] | Tensor | ArrayLike | Callable[[Tensor], Tensor] | None


def weightings(targets: TargetsLike, logits: Tensor) -> Tensor:
    """Write what is to be explained as weightings of the logits: 1 for a class, +1 and -1 for the difference of two.

    Args:
        targets: what ``decompose`` takes.
        logits: the logits, float [B, classes].

    Returns:
        Weightings [B, K, classes] of the type and device of the logits.

    Raises:
        ValueError: shapes, types or indices do not fit, or could be read in two ways.
    """
    if callable(targets):
        targets = targets(logits)
    if targets is None:
        # A NaN logit must not be skipped over: argmax returns its index, and the residual says so.
        return _one_hot(logits.argmax(1, keepdim=True), logits)
    if isinstance(targets, Sequence):
        return _one_hot(_for_all_inputs(targets).expand(len(logits), -1), logits)
    given = _as_tensor(targets)
    if given.is_floating_point():
        return _fitting(given, logits)
    return _one_hot(_for_each_input(given, len(logits)), logits)


def _as_tensor(targets: int | Tensor | ArrayLike) -> Tensor:
    """A tensor of a number, an array or a tensor."""
    if isinstance(targets, Tensor):
        return targets
    try:
        return torch.tensor(targets)  # a copy: arrays may be read-only, which torch warns of
    except (TypeError, RuntimeError) as error:
        raise ValueError(
            "expected class indices as an int, a list of ints or an integer tensor, or weightings as a floating "
            f"tensor; got {type(targets).__name__}"
        ) from error


def _for_all_inputs(targets: Sequence[int]) -> Tensor:
    """The classes [1, K] that a list, tuple or range names."""
    try:
        return torch.tensor([[_index(target) for target in targets]], dtype=torch.long)
    except TypeError as error:
        raise ValueError(
            f"expected whole class indices in the list, got {targets!r}; "
            "classes of each input by itself are an integer tensor [B, K], weightings a floating one [K, classes]"
        ) from error


def _index(target: int) -> int:
    """A class index of any integer type; TypeError for all else, True and False too."""
    if isinstance(target, bool):
        raise TypeError("a truth value is no class index")
    return operator.index(target)


def _for_each_input(given: Tensor, B: int) -> Tensor:
    """The class indices [B, K] that an integer tensor names for B inputs."""
    if given.dtype == torch.bool or given.is_complex() or given.ndim > 2:
        raise ValueError(f"expected whole class indices [{B}] or [{B}, K], got {given.dtype} {list(given.shape)}")
    if given.ndim == 0:
        return given.expand(B, 1)
    if given.ndim == 1 and len(given) != B:
        raise ValueError(
            f"{len(given)} class indices for {B} inputs: an integer tensor [B] is one class for each input. "
            f"For several classes of all inputs pass a list (targets.tolist()); "
            f"for classes of each input by itself a tensor [{B}, K]"
        )
    if given.ndim == 2 and len(given) not in (1, B):
        raise ValueError(f"expected class indices [{B}, K], K for each input, got {list(given.shape)}")
    return given[:, None] if given.ndim == 1 else given.expand(B, -1)


def _fitting(given: Tensor, logits: Tensor) -> Tensor:
    """Weightings [B, K, classes] from some for all inputs, or for each by itself."""
    B, classes = logits.shape
    fits = given.ndim in (2, 3) and given.shape[-1] == classes and given.shape[-2] > 0
    if not fits or (given.ndim == 3 and len(given) != B):
        raise ValueError(f"expected weightings [K, {classes}] or [{B}, K, {classes}], got {list(given.shape)}")
    # A copy where the tensor was made inside torch.inference_mode(): such tensors cannot take part in a gradient.
    given = given.clone() if given.is_inference() else given
    return given.detach().to(logits).expand(B, -1, -1)


def _one_hot(indices: Tensor, logits: Tensor) -> Tensor:
    """Weightings [B, K, classes] of class indices [B, K]."""
    classes = logits.shape[1]
    if indices.shape[-1] == 0 or indices.min() < 0 or indices.max() >= classes:
        raise ValueError(f"class indices must lie in 0..{classes - 1}, at least one; got {indices.tolist()}")
    return nn.functional.one_hot(indices.long().to(logits.device), classes).to(logits)
