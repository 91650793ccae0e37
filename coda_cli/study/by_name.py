"""Ways to attribute by the names and parameters that users give: "occlusion:window=8,stride=2"."""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from coda_cli.core.precision import true_float32
from coda_cli.errors import MediaError, UsageError
from coda_cli.study.methods import (
    Method,
    deeplift,
    grad_cam,
    gradient,
    guided_backprop,
    input_x_gradient,
    integrated_gradients,
    lime,
    occlusion,
    ours,
    quiet,
    rise,
)

METHODS: dict[str, Callable[..., Tensor]] = {
    "ours": ours,
    "gradient": gradient,
    "input-x-gradient": input_x_gradient,
    "integrated-gradients": integrated_gradients,
    "deeplift": deeplift,
    "grad-cam": grad_cam,
    "guided-backprop": guided_backprop,
    "occlusion": occlusion,
    "lime": lime,
    "rise": rise,
}
CAPTUM = {"gradient", "input-x-gradient", "integrated-gradients", "deeplift", "grad-cam", "guided-backprop"}
# The others' maps are in logit units; of these the first two are logits per unit of colour.
UNITLESS = ("gradient", "guided-backprop", "grad-cam", "lime", "rise")
CHOICES = {"absolute": (0, 1), "channels": (3, 6)}  # parameters of few values
EXACT = ("ours",)  # what networks without an exact decomposition do not have


def require(methods: Iterable[str]) -> None:
    """Import the libraries of methods, so that no method's time holds that. Raises UsageError where one is missing."""
    names = {text.partition(":")[0] for text in methods}
    needed = {"captum.attr"} if names & CAPTUM else set()
    needed |= {"captum.attr", "sklearn.linear_model", "skimage.segmentation"} if "lime" in names else set()
    missing = []
    for module in sorted(needed):
        try:
            with quiet():
                importlib.import_module(module)
        except ImportError:
            missing.append(module.partition(".")[0])
    if missing:
        packages = {"captum": "captum", "sklearn": "scikit-learn", "skimage": "scikit-image"}
        wanted = " ".join(packages[module] for module in missing)
        raise UsageError(f"{', '.join(missing)} not installed; get it with: pip install {wanted}")


def method_of(text: str) -> Method:
    """A method by name, with parameters if wanted: "occlusion", "occlusion:window=8,stride=2". Raises UsageError.

    What the libraries raise inside a method becomes a MediaError with their reason; so do maps that are not finite.
    """
    function, chosen = _chosen(text)

    def method(model: nn.Module, x: Tensor, classes: Sequence[int]) -> Tensor:
        """The function with its parameters chosen; see ``Method``."""
        try:
            with true_float32():
                maps = function(model, x, classes, **chosen)
        except (RuntimeError, AssertionError, AttributeError, ValueError) as error:  # what captum and torch raise
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise MediaError(f"{text} does not work here: {reason}") from error
        if not bool(torch.isfinite(maps).all()):
            raise MediaError(f"{text} gives numbers that are not finite")
        return maps

    return method


def parameters_of(text: str) -> dict[str, float]:
    """All parameters of a method by name, those that ``text`` does not name by their defaults. Raises UsageError."""
    function, chosen = _chosen(text)
    return {p.name: chosen.get(p.name, p.default) for p in _parameters(function)}


def _parameters(function: Callable[..., Tensor]) -> list[inspect.Parameter]:
    return [p for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]


def _chosen(text: str) -> tuple[Callable[..., Tensor], dict[str, float]]:
    """The function of METHODS that ``text`` names, and the parameters that it gives."""
    name, _, given = text.partition(":")
    if name not in METHODS:
        raise UsageError(f"--method {name}: no such method; there are {', '.join(METHODS)}")
    function = METHODS[name]
    known = {p.name: p for p in _parameters(function)}
    chosen: dict[str, float] = {}
    for part in filter(None, given.split(",")):
        key, _, value = part.partition("=")
        if key not in known:
            there = f"it has {', '.join(known)}" if known else "it has none"
            raise UsageError(f"--method {text}: {name} has no parameter {key}; {there}")
        kind = type(known[key].default)
        try:
            chosen[key] = kind(value)
        except ValueError as error:
            raise UsageError(
                f"--method {text}: {key} is {value!r}; expected a number like {known[key].default}"
            ) from error
        if chosen[key] not in (choices := CHOICES.get(key, (chosen[key],))):
            raise UsageError(f"--method {text}: {key} must be {' or '.join(map(str, choices))}")
        if not (0 < chosen[key] < math.inf or key in CHOICES or key == "seed"):
            raise UsageError(f"--method {text}: {key} must be positive")
        if key == "kept" and chosen[key] > 1:
            raise UsageError(f"--method {text}: kept is a share, at most 1")
    return function, chosen


def is_exact(text: str) -> bool:
    """Whether a method needs an exact decomposition, which not every network has."""
    return text.partition(":")[0] in EXACT
