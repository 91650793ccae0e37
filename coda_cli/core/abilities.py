"""What a network can do, asked of the network itself and never read off its class.

A network answers with an attribute or a method of the same name as the function here. Any other ``nn.Module`` gets the
answer of an ordinary network, so that everything with a ``bias`` can be decomposed.
"""

from __future__ import annotations

from torch import Tensor, nn


def is_dynamic_linear(model: nn.Module) -> bool:
    """Whether a network says that its logits are dynamic linear, and so can be decomposed exactly.

    Args:
        model: any network; one that does has an attribute ``bias``, the constant of every logit.

    Returns:
        The answer.
    """
    return hasattr(model, "bias")


def bias_of(model: nn.Module) -> float:
    """The constant that a network adds to every logit: its attribute ``bias``.

    Args:
        model: any network.

    Returns:
        The constant, in logit units.

    Raises:
        ValueError: the network has none, and so nothing says that its logits are dynamic linear.
    """
    if not is_dynamic_linear(model):
        raise ValueError(f"{type(model).__name__} is not dynamic linear: its logits have no exact decomposition")
    return float(model.bias)  # type: ignore[arg-type]


def cut(model: nn.Module) -> str | None:
    """The layer down to which a network is dynamic linear, or None where it is so down to the pixels.

    Args:
        model: any network; a hybrid has the attribute ``cut``.

    Returns:
        The name of the layer.
    """
    name: str | None = getattr(model, "cut", None)
    return name


def zero(model: nn.Module) -> tuple[float, ...] | None:
    """The colour that contributes nothing, whatever the network.

    A network that takes ``[x, 1 - x]`` as it is has none: a black pixel can carry as much evidence as a white one. One
    that subtracts a mean first is decomposed after that step, so a pixel of that mean has a contribution of 0.

    Args:
        model: any network; one that subtracts a mean has the attribute ``zero``.

    Returns:
        r, g and b in [0, 1], or None.
    """
    colour: tuple[float, ...] | None = getattr(model, "zero", None)
    return colour


def to_cut(model: nn.Module, x: Tensor) -> Tensor:
    """What the dynamic linear part of a network sees of an input.

    Args:
        model: any network; a hybrid has the method ``to_cut``, and so has a network that subtracts a mean first.
        x: encoded pictures, float [B, C, H, W].

    Returns:
        The output of the cut, or the input less its mean, float [B, C', h, w]; ``x`` itself where the whole network is
        dynamic linear.
    """
    a: Tensor = model.to_cut(x) if hasattr(model, "to_cut") else x  # type: ignore[operator]
    return a


def above(model: nn.Module) -> nn.Module:
    """The dynamic linear part of a network: what makes the logits of the cut.

    Args:
        model: any network; a network with the method ``to_cut`` has the attribute ``above``.

    Returns:
        That part; the network itself where the whole of it is dynamic linear.
    """
    part: nn.Module = model.above if hasattr(model, "to_cut") else model  # type: ignore[assignment]
    return part


def probabilities(model: nn.Module, logits: Tensor) -> Tensor:
    """Turn the logits of a network into probabilities: a sigmoid for each class by itself, unless the network differs.

    Args:
        model: the network; an ordinary one has a method ``probabilities`` that takes the softmax.
        logits: its logits, float [B, classes].

    Returns:
        float [B, classes], in [0, 1].
    """
    p: Tensor = model.probabilities(logits) if hasattr(model, "probabilities") else logits.sigmoid()  # type: ignore[operator]
    return p


def shares_gradients(model: nn.Module) -> bool:
    """Whether it is faster to take the gradients of several weightings in one call than one after the other.

    Args:
        model: any network; it is so when one of its layers has an attribute ``shares_gradients`` that is true.

    Returns:
        The answer.
    """
    return any(getattr(layer, "shares_gradients", False) for layer in model.modules())


def averages_class_maps(model: nn.Module) -> bool:
    """Whether a network says that its last layer gives a map of each class, and its logits are their means.

    Args:
        model: any network; one that does has an attribute ``averages_class_maps`` that is true.

    Returns:
        The answer; False also where the network does not say.
    """
    return bool(getattr(model, "averages_class_maps", False))
