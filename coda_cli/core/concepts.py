"""Concepts: a layer's output replaced by a few directions of a dictionary, which was learned elsewhere.

    u = the k strongest of relu(E f)        the layer's output f is replaced by D u

``E`` and ``D`` have no biases, and which concepts are active is a gate: a number once the input is known. So a network
with a dictionary behind one of its layers is as exact as without it, and ``u`` is a layer as any other. What a concept
has of a logit is the share of a channel of ``u``, and its map is the map of that channel (see ``neurons``).

The logit that is shared out is that of the network with the dictionary, which is another number than without it.
``concepts_left_out`` gives the other one.

Source:
    FaCT, NeurIPS 2025: TopK sparse autoencoders without biases on B-cos networks.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coda_cli.core import abilities
from coda_cli.core.ordinary import layer_named
from coda_cli.errors import CheckpointError
from coda_cli.machine.precision import in_full

NAME = "concepts"  # of the module that is put behind a layer

# As the held mode a context variable and no flag of the module: other threads go on with the concepts.
_LEFT_OUT: ContextVar[bool] = ContextVar("coda_concepts_left_out", default=False)


@contextmanager
def concepts_left_out() -> Iterator[None]:
    """Let networks compute as if they had no dictionary.

    Yields:
        Nothing.
    """
    token = _LEFT_OUT.set(True)
    try:
        yield
    finally:
        _LEFT_OUT.reset(token)


class Decoder(nn.Linear):
    """D: a matrix at every position of maps [B, n, h, w], or for every token of [B, N, n]; ``weight`` is [C, n].

    Args:
        number: n, how many concepts there are.
        width: C, channels of the layer.
    """

    def __init__(self, number: int, width: int) -> None:
        super().__init__(number, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the outputs.

        Args:
            x: [B, n, h, w], or tokens [B, N, n].

        Returns:
            [B, C, h, w], or [B, N, C].
        """
        return self.rows(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) if x.ndim == 4 else self.rows(x)

    def rows(self, x: Tensor) -> Tensor:
        """Compute the outputs of what has its channels last.

        Args:
            x: [..., n].

        Returns:
            [..., C].
        """
        return F.linear(x, self.weight)


class Encoder(Decoder):
    """E, and the gates behind it: how strongly each concept is there, of all but the k strongest 0.

    Args:
        width: C, channels of the layer.
        number: n, how many concepts there are.
        active: k, how many of them are kept at each position.
    """

    def __init__(self, width: int, number: int, active: int) -> None:
        super().__init__(width, number)
        self.active = active

    def extra_repr(self) -> str:
        """The line of ``print(model)``."""
        return f"{super().extra_repr()}, active={self.active}"

    def rows(self, x: Tensor) -> Tensor:
        """Compute u of what has its channels last. Autocast does not concern it, for its bits decide which are kept.

        Args:
            x: [..., C].

        Returns:
            [..., n]; no gradient passes the gates, which are held by nature.
        """
        return in_full(self._strongest, x)

    def _strongest(self, x: Tensor) -> Tensor:
        a = F.linear(x.to(self.weight.dtype), self.weight)
        with torch.no_grad():
            least = a.topk(self.active).values[..., -1:]
            kept = (a >= least) & (a > 0)
            if bool((kept.sum(-1) > self.active).any()):  # some are as strong as the last: the first of them are kept
                above, equal = a > least, kept & (a == least)
                room = self.active - above.sum(-1, keepdim=True)
                kept = above & kept | equal & (equal.cumsum(-1, dtype=torch.int32) <= room)
            kept |= a.isnan()  # what is not a number must not vanish
        return torch.where(kept, a, 0)


class ConceptDictionary(nn.Module):
    """A dictionary of n directions, of which at most k make what a layer gives at a position.

    Args:
        width: C, channels of the layer.
        number: n, how many concepts there are.
        active: k, how many of them are kept at each position.
    """

    def __init__(self, width: int, number: int, active: int) -> None:
        super().__init__()
        self.encoder, self.decoder = Encoder(width, number, active), Decoder(number, width)

    def forward(self, x: Tensor) -> Tensor:
        """Replace a layer's output.

        Args:
            x: maps [B, C, h, w], or tokens [B, N, C].

        Returns:
            The same shape and type; ``x`` itself inside ``concepts_left_out``.

        Raises:
            CheckpointError: the layer gives something else.
        """
        if _LEFT_OUT.get():
            return x
        width, channels = self.decoder.out_features, 1 if x.ndim == 4 else 2
        if x.ndim not in (3, 4) or x.shape[channels] != width:
            raise CheckpointError(f"its concepts are of {width} channels; their layer gives {list(x.shape)}")
        y: Tensor = self.decoder(self.encoder(x))
        return y.to(x.dtype)


# ---- inside a network ------------------------------------------------------------------------------------------------


def insert(model: nn.Module, *, layer: str, width: int, number: int, active: int) -> str:
    """Put a dictionary with freshly drawn weights behind a layer of a network.

    Args:
        model: a network that is exact by construction; changed.
        layer: the layer's name, or the end of it where one layer alone has that.
        width: C, channels of the layer.
        number: n, how many concepts there are.
        active: k, how many of them are kept at each position.

    Returns:
        The name of the dictionary in the network, or above the cut of one that has a cut.

    Raises:
        ValueError: the network is an ordinary one or has concepts already, or there is no such layer, or none that
            something can be put behind.
    """
    if abilities.is_ordinary(model):
        raise ValueError("concepts are for networks that are exact by construction; this is an ordinary one")
    upper = abilities.above(model)
    if any(isinstance(module, ConceptDictionary) for module in upper.modules()):
        raise ValueError("it has concepts already")
    owner, behind = _place(upper, layer_of(model, layer))
    sequence = upper.get_submodule(owner)
    children = list(sequence._modules.items())  # named_children leaves out what stands in it a second time
    for name, _ in children:
        delattr(sequence, name)
    for name, child in children:
        sequence.add_module(name, child)
        if name == behind:
            sequence.add_module(NAME, ConceptDictionary(width, number, active))
    return f"{owner}.{NAME}"


def layer_of(model: nn.Module, layer: str) -> str:
    """Find the layer that is meant.

    Args:
        model: a network.
        layer: the layer's name, or the end of it where one layer alone has that. In the names of the files that the
            authors published a transformer's layers begin with "0.", which is not looked at.

    Returns:
        Its name in the network, or above the cut of one that has a cut.

    Raises:
        ValueError: there is no such layer, or there are several, or nothing can be put behind it.
    """
    upper = abilities.above(model)
    names = [name for name, _ in upper.named_modules() if name]
    end = layer.removeprefix("0.")
    exactly = layer_named(layer, names) or layer_named(end, names)
    found = [exactly] if exactly else [name for name in names if name.endswith(f".{end}")]
    places = [name for name in names if _is_place(upper, name)]
    if len(found) == 1 and found[0] in places:
        return found[0]
    why = f"names {len(found)} layers, {' and '.join(found[:2])} the first" if len(found) > 1 else "no such layer"
    if len(found) == 1:
        why = "nothing can be put behind it"
    close = difflib.get_close_matches(found[0] if found else layer, places, n=3, cutoff=0.3) or places[-3:]
    raise ValueError(f"{layer}: {why}; concepts can be put behind {', '.join(close) or 'none of its layers'}")


def _place(upper: nn.Module, layer: str) -> tuple[str, str]:
    """The sequence that a dictionary behind a layer is put into, and the name there of what stands before it."""
    if _is_sequence(sequence := upper.get_submodule(layer)):
        return layer, next(reversed(sequence._modules))
    owner, _, name = layer.rpartition(".")
    return owner, name


def _is_place(upper: nn.Module, layer: str) -> bool:
    """Whether something can be put behind a layer: it is a sequence, or stands in one."""
    owner = layer.rpartition(".")[0]
    return _is_sequence(upper.get_submodule(layer)) or (bool(owner) and _is_sequence(upper.get_submodule(owner)))


def _is_sequence(module: nn.Module) -> bool:
    """Whether a module does no more than to call its modules one after the other."""
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward and len(module) > 0
