"""Ways to attribute by the names and parameters that users give: "occlusion:window=8,stride=2"."""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from coda_cli.errors import MediaError, UsageError
from coda_cli.machine.precision import true_float32
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


@dataclass(frozen=True)
class KnownMethod:
    """A function that takes a network, an encoded picture and classes (see ``study.methods``), and what is known of it.

    ``unit`` is of its maps. ``libraries`` must be installed. ``exact``: it needs an exact decomposition, which not
    every network has. ``quick``: parameters for a picture whose shorter side has so many pixels, where nobody chose any
    and the published ones would take long.
    """

    function: Callable[..., Tensor]
    unit: Literal["logit", ""] = "logit"
    libraries: tuple[str, ...] = ()
    exact: bool = False
    quick: Callable[[int], str] | None = None


CAPTUM = ("captum",)
METHODS: dict[str, KnownMethod] = {
    "ours": KnownMethod(ours, exact=True),
    "gradient": KnownMethod(gradient, "", CAPTUM),  # logits per unit of colour
    "input-x-gradient": KnownMethod(input_x_gradient, "logit", CAPTUM),
    "integrated-gradients": KnownMethod(integrated_gradients, "logit", CAPTUM),
    "deeplift": KnownMethod(deeplift, "logit", CAPTUM),
    "grad-cam": KnownMethod(grad_cam, "", CAPTUM),
    "guided-backprop": KnownMethod(guided_backprop, "", CAPTUM),
    "occlusion": KnownMethod(occlusion, quick=lambda side: f"window={max(4, side // 8)},stride={max(2, side // 16)}"),
    "lime": KnownMethod(lime, "", (*CAPTUM, "scikit-learn", "scikit-image")),
    "rise": KnownMethod(rise, "", quick=lambda _: "masks=1000"),
}
CHOICES = {"absolute": (0, 1), "channels": (3, 6)}  # parameters of few values
RAISED = (RuntimeError, AssertionError, AttributeError, ValueError, MemoryError)  # by captum and torch
IMPORTED = {"captum": "captum.attr", "scikit-learn": "sklearn.linear_model", "scikit-image": "skimage.segmentation"}


def libraries_of(methods: Iterable[str]) -> list[str]:
    """The distributions that methods need beside coda's own."""
    return sorted({library for text in methods for library in METHODS[_name_of(text)].libraries})


def require(methods: Iterable[str]) -> None:
    """Import the libraries of methods, so that no method's time holds that. Raises UsageError where one is missing."""
    missing = []
    for library in libraries_of(methods):
        try:
            with quiet():
                importlib.import_module(IMPORTED[library])
        except ImportError:
            missing.append(library)
    if missing:
        free = ", ".join(name for name, known in METHODS.items() if not known.libraries)
        raise UsageError(
            f"{', '.join(missing)} not installed; get it with: pip install {' '.join(missing)}, or name "
            f"only methods that need nothing more: {free}"
        )


def usual(methods: Iterable[str], side: int) -> tuple[str, ...]:
    """Methods by their names alone as they are used on a picture whose shorter side has ``side`` pixels."""
    quick = {name: METHODS[name].quick for name in methods}
    return tuple(f"{name}:{form(side)}" if form else name for name, form in quick.items())


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
        except RAISED as error:
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
    function = METHODS[name].function
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


def unit_of(text: str) -> str:
    """What the values of a method's maps are: "logit", or "" for what is in no unit that can be summed to one."""
    return METHODS[_name_of(text)].unit


def is_exact(text: str) -> bool:
    """Whether a method needs an exact decomposition, which not every network has."""
    return METHODS[_name_of(text)].exact


def _name_of(text: str) -> str:
    return text.partition(":")[0]
