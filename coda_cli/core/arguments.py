"""What the arguments of architectures may be, checked before a layer is made: they come with files of others.

The ranges are wide: several times what published networks have. They keep a description of a few bytes from asking for
work or memory without end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

MAX_PARAMETERS = 500_000_000  # the largest published network has 265,706,240
MAX_LAYERS = 300  # in all stages together; the largest published network has 98
MAX_WEIGHTS = 1 << 33  # of W(x) in one layer for one picture; of the published networks 6e7

Check = Callable[[object], bool]
Rule = tuple[Check, str]  # whether a value is right, and in words what is


def check_arguments(architecture: str, arguments: Mapping[str, Any]) -> None:
    """Check the arguments of a builder, those that it has not aside.

    Args:
        architecture: a key of ``networks.ARCHITECTURES``.
        arguments: of the function there.

    Raises:
        ValueError: one is of another type, or out of range; the message says what is expected.
    """
    for name, value in arguments.items():
        rule = _LISTS_OF_GROUPS if name == "groups" and architecture in ("coda_net", "hybrid") else _RULES.get(name)
        if rule is not None and not rule[0](value):
            raise ValueError(f"{name}: expected {rule[1]}")
    blocks = arguments.get("blocks")
    if blocks is not None and sum(blocks) > MAX_LAYERS:
        raise ValueError(f"blocks: expected at most {MAX_LAYERS} together")
    channels = arguments.get("channels")
    if architecture in ("coda_net", "bcos_chain") and channels is not None and channels[0] != 6:
        raise ValueError("channels: expected 6 for the first, r g b 1-r 1-g 1-b")


def check_concepts(concepts: Mapping[str, Any]) -> None:
    """Check what a description says of a network's concepts.

    Args:
        concepts: of ``concepts.insert``.

    Raises:
        ValueError: something is missing, of another type, or out of range; the message says what is expected.
    """
    if set(concepts) != {*_CONCEPTS}:
        raise ValueError(f"concepts: expected {', '.join(_CONCEPTS)}")
    for name, (fits, expected) in _CONCEPTS.items():
        if not fits(concepts[name]):
            raise ValueError(f"{name}: expected {expected}")
    if concepts["active"] > concepts["number"]:
        raise ValueError(f"active: expected at most {concepts['number']}, of which there are")


def check_side(architecture: str, arguments: Mapping[str, Any], side: int) -> None:
    """Check that a network can see pictures of a size: that something is left of them after its last layer.

    Args:
        architecture: a key of ``networks.ARCHITECTURES``.
        arguments: of the function there; a network could be built of them.
        side: of the pictures in pixels.

    Raises:
        ValueError: they are too small, too large, or no whole number of patches.
    """
    if patch := arguments.get("patch"):
        if side % patch:
            raise ValueError(f"a crop of {side} pixels is no whole number of patches of {patch}")
    elif architecture in ("coda_net", "bcos_chain"):
        _check_layers(arguments, side)
    elif side < (least := _least_side(architecture, arguments)):
        raise ValueError(f"a crop of {side} pixels is too small; its layers need {least}")


def _check_layers(arguments: Mapping[str, Any], side: int) -> None:
    """Follow a picture through layers that stand one after the other."""
    kernels, channels = arguments["kernels"], arguments["channels"]
    paddings = arguments.get("paddings") or [(k - 1) // 2 for k in kernels]
    rest = side
    for C, O, k, stride, padding in zip(channels, channels[1:], kernels, arguments["strides"], paddings, strict=False):
        rest = (rest + 2 * padding - k) // stride + 1
        if rest < 1:
            raise ValueError(f"a crop of {side} pixels is too small; nothing is left of it for a {k}-wide kernel")
        if C * O * k * k * rest * rest > MAX_WEIGHTS:
            raise ValueError(
                f"a crop of {side} pixels is too large; a layer would need more than {MAX_WEIGHTS} weights"
            )


def _least_side(architecture: str, arguments: Mapping[str, Any]) -> int:
    """The least side of a picture of which something is left after every pool and convolution without padding."""
    if architecture == "bcos_densenet":
        return 4 * int(2 ** (len(arguments["blocks"]) - 1)) - 3  # the stem rounds up, the pools between blocks down
    if architecture == "bcos_convnext":
        return 4 * int(2 ** (len(arguments["dims"]) - 1))
    if architecture == "bcosified" and str(arguments.get("name")).startswith("densenet"):
        return 29
    if architecture == "bias_free" and arguments.get("name") == "xalexnet":
        return 63  # nothing is left of smaller ones after its pools
    at_32 = ("bcos_vgg", "bcosified_clip", "bias_free", "torchvision", "timm")
    return 75 if architecture == "bcos_inception" else 32 if architecture in at_32 else 1


def _whole(low: int, high: int) -> Rule:
    return lambda v: type(v) is int and low <= v <= high, f"a whole number from {low} to {high}"


def _number(low: float, high: float) -> Rule:
    def check(value: object) -> bool:
        return type(value) in (int, float) and low <= value <= high and math.isfinite(value)  # type: ignore[operator, arg-type]

    return check, f"a number from {low:g} to {high:g}"


def _list(low: int, high: int, most: int) -> Rule:
    def check(value: object) -> bool:
        fits = _whole(low, high)[0]
        return isinstance(value, list | tuple) and 1 <= len(value) <= most and all(map(fits, value))

    return check, f"1 to {most} whole numbers from {low} to {high}"


def _or_none(rule: Rule) -> Rule:
    return lambda v: v is None or rule[0](v), rule[1]


def _three(low: float, high: float) -> Rule:
    def check(value: object) -> bool:
        return isinstance(value, list | tuple) and len(value) == 3 and all(map(_number(low, high)[0], value))

    return check, f"three numbers from {low:g} to {high:g}"


_FLAG: Rule = (lambda v: isinstance(v, bool), "true or false")
_WORD: Rule = (lambda v: isinstance(v, str) and 0 < len(v) <= 100, "a word")
_LISTS_OF_GROUPS = _or_none(_list(1, 4096, 128))
_RULES: dict[str, Rule] = {
    "channels": _list(1, 16384, 129),
    "kernels": _list(1, 64, 128),
    "strides": _list(1, 64, 128),
    "ranks": _list(1, 65536, 128),
    "paddings": _or_none(_list(0, 64, 128)),
    "groups": _whole(1, 4096),
    "norm": _WORD,
    "temperature": _number(1e-12, 1e12),
    "bias": _number(-1e6, 1e6),
    "antialias": _FLAG,
    "b": _number(1, 16),
    "max_out": _whole(1, 64),
    "scale": _number(1e-12, 1e12),
    "scale_factor": _or_none(_number(1e-12, 1e12)),
    "classes": _whole(1, 100_000),
    "blocks": _list(1, 128, 6),
    "bottleneck": _FLAG,
    "growth": _whole(1, 1024),
    "first": _whole(1, 4096),
    "dims": _list(1, 16384, 6),
    "dim": _whole(64, 16384),
    "depth": _whole(1, 128),
    "patch": _or_none(_whole(1, 512)),
    "stem": _or_none(_list(1, 16384, 16)),
    "hidden": _or_none(_whole(1, 65536)),
    "backbone": _WORD,
    "cut": _or_none(_WORD),
    "dilated": _FLAG,
    "name": _WORD,
    "mean": _three(-1000, 1000),
    "deviation": _three(1e-6, 1000),
    "texts": _WORD,
    "depthwise": _FLAG,
    "width": _whole(2, 4096),
    "embedding": _whole(1, 65536),
}
_CONCEPTS: dict[str, Rule] = {
    "layer": _WORD,
    "width": _whole(1, 65536),
    "number": _whole(1, 1 << 20),
    "active": _whole(1, 1 << 20),
}
