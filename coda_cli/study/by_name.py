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
from coda_cli.study.masks import lime, occlusion, rise
from coda_cli.study.methods import (
    Method,
    deeplift,
    grad_cam,
    gradient,
    guided_backprop,
    input_x_gradient,
    integrated_gradients,
    ours,
    quiet,
)


@dataclass(frozen=True)
class KnownMethod:
    """A way to attribute that has a name.

    Attributes:
        function: a ``Method`` (see ``study.methods``) with its parameters as keyword arguments.
        unit: of its maps; "" where their sum means nothing.
        complete: whether its maps are to sum to the logit less what belongs to no pixel.
        libraries: distributions that must be installed for it.
        exact: whether it needs an exact decomposition, which not every network has.
        quick: where the published parameters take long: gives those that are used when the user chose none, as text,
            for a picture whose shorter side has so many pixels.
    """

    function: Callable[..., Tensor]
    unit: Literal["logit", ""] = "logit"
    complete: bool = False
    libraries: tuple[str, ...] = ()
    exact: bool = False
    quick: Callable[[int], str] | None = None


CAPTUM = ("captum",)
METHODS: dict[str, KnownMethod] = {
    "ours": KnownMethod(ours, complete=True, exact=True),
    "gradient": KnownMethod(gradient, "", libraries=CAPTUM),  # logits per unit of colour
    "input-x-gradient": KnownMethod(input_x_gradient, complete=True, libraries=CAPTUM),
    "integrated-gradients": KnownMethod(integrated_gradients, complete=True, libraries=CAPTUM),
    "deeplift": KnownMethod(deeplift, complete=True, libraries=CAPTUM),
    "grad-cam": KnownMethod(grad_cam, "", libraries=CAPTUM),
    "guided-backprop": KnownMethod(guided_backprop, "", libraries=CAPTUM),
    "occlusion": KnownMethod(occlusion, quick=lambda side: f"window={max(4, side // 8)},stride={max(2, side // 16)}"),
    "lime": KnownMethod(lime, "", libraries=(*CAPTUM, "scikit-learn", "scikit-image")),
    "rise": KnownMethod(rise, "", quick=lambda _: "masks=1000"),
}
CHOICES = {"absolute": (0, 1), "channels": (3, 6)}  # parameters of few values
RAISED = (RuntimeError, AssertionError, AttributeError, ValueError, MemoryError)  # by captum and torch
IMPORTED = {"captum": "captum.attr", "scikit-learn": "sklearn.linear_model", "scikit-image": "skimage.segmentation"}


def libraries_of(methods: Iterable[str]) -> list[str]:
    """List the distributions that methods need beside coda's own.

    Args:
        methods: names, with or without parameters.

    Returns:
        Names of distributions, sorted, each once.
    """
    return sorted({library for text in methods for library in METHODS[without_parameters(text)].libraries})


def require(methods: Iterable[str]) -> None:
    """Import the libraries of methods, so that importing does not count as a method's time.

    Args:
        methods: names, with or without parameters.

    Raises:
        UsageError: a library is not installed; the message says how to get it.
    """
    missing = []
    for library in libraries_of(methods):
        try:
            with quiet():
                importlib.import_module(IMPORTED[library])
        except ImportError:
            missing.append(library)
    if missing:
        free = ", ".join(name for name, method in METHODS.items() if not method.libraries)
        raise UsageError(
            f"{', '.join(missing)} not installed; get it with: pip install {' '.join(missing)}, or name "
            f"only methods that need nothing more: {free}"
        )


def usual(methods: Iterable[str], side: int) -> tuple[str, ...]:
    """Add to names of methods the parameters that coda chooses where the published ones would take long.

    Args:
        methods: names without parameters.
        side: shorter side of the picture in pixels.

    Returns:
        Names with parameters, as ``method_of`` takes them.
    """
    quick = {name: METHODS[name].quick for name in methods}
    return tuple(f"{name}:{form(side)}" if form else name for name, form in quick.items())


def method_of(text: str) -> Method:
    """Find a method by its name.

    What the libraries raise inside the method becomes a MediaError with their reason; so do maps that are not finite.

    Args:
        text: the name, with parameters if wanted: "occlusion", "occlusion:window=8,stride=2".

    Returns:
        The method with its parameters chosen.

    Raises:
        UsageError: there is no such method or parameter, or a value is out of range.
    """
    function, chosen = _chosen(text)

    def method(model: nn.Module, x: Tensor, classes: Sequence[int]) -> Tensor:
        """Call the function with the chosen parameters.

        Args:
            model: the network.
            x: one encoded picture, float [1, 6, h, w] in [0, 1].
            classes: indices of K classes.

        Returns:
            A map of each class, [K, h, w], in the method's own units.

        Raises:
            MediaError: the method does not work for this network, or gives numbers that are not finite.
        """
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
    """List all parameters of a method, those that were not given with their defaults.

    Args:
        text: the name, with or without parameters.

    Returns:
        Values by name.

    Raises:
        UsageError: as ``method_of``.
    """
    function, chosen = _chosen(text)
    return {p.name: chosen.get(p.name, p.default) for p in _parameters(function)}


def _parameters(function: Callable[..., Tensor]) -> list[inspect.Parameter]:
    """The parameters that a user can choose: the function's keyword arguments."""
    return [p for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]


def _chosen(text: str) -> tuple[Callable[..., Tensor], dict[str, float]]:
    """The function that ``text`` names, and the parameters that it gives."""
    name, _, given = text.partition(":")
    if name not in METHODS:
        raise UsageError(f"--method {name}: no such method; there are {', '.join(METHODS)}")
    function = METHODS[name].function
    parameters = {p.name: p for p in _parameters(function)}
    chosen: dict[str, float] = {}
    for part in filter(None, given.split(",")):
        key, _, value = part.partition("=")
        if key not in parameters:
            there = f"it has {', '.join(parameters)}" if parameters else "it has none"
            raise UsageError(f"--method {text}: {name} has no parameter {key}; {there}")
        kind = type(parameters[key].default)
        try:
            chosen[key] = kind(value)
        except ValueError as error:
            raise UsageError(
                f"--method {text}: {key} is {value!r}; expected a number like {parameters[key].default}"
            ) from error
        if chosen[key] not in (choices := CHOICES.get(key, (chosen[key],))):
            raise UsageError(f"--method {text}: {key} must be {' or '.join(map(str, choices))}")
        if not (0 < chosen[key] < math.inf or key in CHOICES or key == "seed"):
            raise UsageError(f"--method {text}: {key} must be positive")
        if key == "kept" and chosen[key] > 1:
            raise UsageError(f"--method {text}: kept is a share, at most 1")
    return function, chosen


def unit_of(text: str) -> str:
    """Tell the unit of a method's maps.

    Args:
        text: the name, with or without parameters.

    Returns:
        "logit", or "" where the sum of a map means nothing.
    """
    return METHODS[without_parameters(text)].unit


def is_complete(text: str) -> bool:
    """Tell whether a method's maps are to sum to the logit less what belongs to no pixel.

    Args:
        text: the name, with or without parameters.

    Returns:
        Whether they are.
    """
    return METHODS[without_parameters(text)].complete


def is_exact(text: str) -> bool:
    """Tell whether a method needs an exact decomposition, which not every network has.

    Args:
        text: the name, with or without parameters.

    Returns:
        Whether it does.
    """
    return METHODS[without_parameters(text)].exact


def without_parameters(text: str) -> str:
    """Take the parameters off the name of a method.

    Args:
        text: "occlusion" or "occlusion:window=8".

    Returns:
        "occlusion".
    """
    return text.partition(":")[0]
