"""Exact contributions behind the interfaces of captum and of Quantus, so that their metrics and tools can use them.

captum's tools take an object with ``attribute`` and ``forward_func``: that is ``Attribution``. Quantus' metrics take a
function of a model, inputs and targets: that is ``quantus_explain``. Both return what ``core.decompose`` computes, in
logit units. Neither library is imported before it is needed, and Quantus is never imported here.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import cache, wraps
from typing import Any, Literal, Self, TypeVar, cast, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from coda_cli.checkpoints.loading import Net
from coda_cli.core.decompose import decompose
from coda_cli.core.hybrid import spread
from coda_cli.core.networks import encode
from coda_cli.errors import UsageError
from coda_cli.machine.memory import as_many_as_fit
from coda_cli.study.methods import refuse_inexact

Target = int | list[int] | Tensor | None
Inputs = Tensor | tuple[Tensor, ...]
InputsT = TypeVar("InputsT", Tensor, tuple[Tensor, ...])


class EncodingNet(nn.Module):
    """A network that also takes pictures of three channels and encodes them itself.

    Metrics call a network with the inputs that were explained. The networks of this library take six channels; this
    module takes three or six.

    Args:
        net: a network, or a module that takes six channels; its mode (training or evaluation) is kept.
    """

    def __init__(self, net: Net | nn.Module) -> None:
        super().__init__()
        self.model = _module_of(net)
        self.training = self.model.training

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits.

        Args:
            x: float [B, 3, H, W], sRGB in [0, 1], or [B, 6, H, W], encoded already.

        Returns:
            Logits [B, classes].

        Raises:
            ValueError: for inputs of another shape or type.
        """
        logits: Tensor = self.model(_encoded(x))
        return logits


class Attribution:
    """Exact contributions with the interface of ``captum.attr.Attribution``.

    Every object is also an instance of that class, so captum's metrics and tools accept it. For each input
    ``contributions.sum() + constants == logit``, up to rounding. The constants are the bias and, in transformers, the
    share of the positional embedding.

    Inputs with three channels are encoded first; the contributions of r and 1 - r are then added, and likewise for g
    and b. The sum over the channels is the pixel's contribution in any case. In a hybrid network the identity holds at
    its cut: the contribution of each position of the cut is divided equally among the pixels that the position stands
    for, and among their channels.

    Metrics call ``forward_func``, which takes three or six channels. For ``captum.metrics.infidelity``, use six
    channels and decorate the perturbation with ``infidelity_perturb_func_decorator(True)``: contributions include the
    input as a factor. With three channels they also include 1 - r, and that metric has no meaning.

    Args:
        net: a network, or a module that ``decompose`` takes; its inputs have six channels.

    Raises:
        UsageError: if captum is not installed.

    Example:
        >>> attribution = Attribution(load("imagenette"))
        >>> contributions = attribution.attribute(pictures, target=3)
    """

    net: Net | nn.Module
    forward_func: EncodingNet  # what captum calls to compute logits

    def __new__(cls, net: Net | nn.Module) -> Self:  # noqa: ARG004
        """Make an object whose class inherits from captum's, too."""
        return cast(Self, object.__new__(_joined_with_captum(cast(Hashable, cls))))

    def __init__(self, net: Net | nn.Module) -> None:
        self.net = net
        self.forward_func = EncodingNet(net)

    def __reduce__(self) -> tuple[object, ...]:
        # The class of the object is made while the program runs, so pickle cannot find it by its name.
        return type(self).__bases__[0], (self.net,), self.__dict__

    @property
    def multiplies_by_inputs(self) -> bool:
        """Whether attributions include the input as a factor: always True."""
        return True

    def has_convergence_delta(self) -> bool:
        """Say whether ``compute_convergence_delta`` exists.

        Returns:
            Always True: it is the residual of the decomposition.
        """
        return True

    @overload
    def attribute(
        self,
        inputs: InputsT,
        target: Target = ...,
        additional_forward_args: None = ...,
        *,
        return_convergence_delta: Literal[False] = ...,
    ) -> InputsT: ...

    @overload
    def attribute(
        self,
        inputs: InputsT,
        target: Target = ...,
        additional_forward_args: None = ...,
        *,
        return_convergence_delta: Literal[True],
    ) -> tuple[InputsT, Tensor]: ...

    def attribute(
        self,
        inputs: Inputs,
        target: Target = None,
        additional_forward_args: None = None,
        *,
        return_convergence_delta: bool = False,
    ) -> Inputs | tuple[Inputs, Tensor]:
        """Compute what each channel of each pixel contributes to the logit of one class.

        Args:
            inputs: float [B, 3, H, W], sRGB in [0, 1], or [B, 6, H, W], encoded already; or a tuple of one such tensor.
                Values outside [0, 1], which perturbations produce, are not changed.
            target: a class index for all inputs; a list or an integer tensor [B] with one index for each input; or
                None for the predicted class of each input.
            additional_forward_args: must be None; it is here because captum's methods have it.
            return_convergence_delta: whether to return the residuals, too; see ``compute_convergence_delta``.

        Returns:
            Contributions of the shape of ``inputs``, signed, in logit units; a tuple where ``inputs`` is one. With
            ``return_convergence_delta`` a pair of these and the residuals, float64 [B] on the CPU.

        Raises:
            ValueError: if inputs or targets do not fit, or the network gives no logits.
            ExactnessError: if a residual is above its tolerance.
        """
        x = _only_tensor(inputs)
        _refuse_arguments(additional_forward_args)
        contributions, share = _decomposed(self.forward_func.model, x, target)
        result = (contributions,) if isinstance(inputs, tuple) else contributions
        return (result, _missed(share, contributions)) if return_convergence_delta else result

    def compute_convergence_delta(
        self,
        attributions: Inputs,
        start_point: None,
        end_point: Inputs,
        target: Target = None,
        additional_forward_args: None = None,
    ) -> Tensor:
        """Compute by how much attributions miss the logit: logit - constants - sum of the attributions.

        The sign is that of ``Decomposition.residual`` and of captum's ``LRP``; captum's gradient methods have the
        opposite one.

        Args:
            attributions: [B, C, H, W], in logit units, as ``attribute`` returns them.
            start_point: must be None: a decomposition has no baseline.
            end_point: the inputs that were explained, as for ``attribute``.
            target: the classes that were explained, as for ``attribute``.
            additional_forward_args: must be None.

        Returns:
            float64 [B] on the CPU, in logit units; only rounding for attributions that ``attribute`` returned.

        Raises:
            ValueError: if there is a start point, or shapes or targets do not fit.
            ExactnessError: if a residual is above its tolerance.
        """
        if start_point is not None:
            raise ValueError("start_point must be None: a decomposition has no baseline")
        _refuse_arguments(additional_forward_args)
        x, given = _only_tensor(end_point), _only_tensor(attributions)
        if given.shape != x.shape:
            raise ValueError(f"expected attributions of the inputs' shape {list(x.shape)}, got {list(given.shape)}")
        _, share = _decomposed(self.forward_func.model, x, target)
        return _missed(share, given)


def quantus_explain(
    model: Net | nn.Module,
    inputs: NDArray[np.floating],
    targets: NDArray[np.integer],
    *,
    device: torch.device | str | None = None,
    per_channel: bool = False,
) -> NDArray[np.floating]:
    """Explain a batch with exact contributions; this is an ``explain_func`` for the metrics of Quantus.

    Quantus also calls the model with the inputs. If these have three channels, give Quantus ``EncodingNet(net)``.

    Args:
        model: a network, an ``EncodingNet``, or a module that ``decompose`` takes.
        inputs: [B, 3, H, W], sRGB in [0, 1], or [B, 6, H, W], encoded already.
        targets: class indices [B], or one index for all inputs.
        device: where the model computes; Quantus passes it on. The device of the parameters unless given.
        per_channel: whether to keep the channels apart, for metrics that change one channel at a time.

    Returns:
        The contribution of each pixel [B, 1, H, W], or with ``per_channel`` of each of its channels [B, C, H, W];
        signed, in logit units, of the type of the model's parameters.

    Raises:
        ValueError: if inputs or targets do not fit, or the model gives no logits.
        ExactnessError: if a residual is above its tolerance.

    Example:
        >>> metric = quantus.PixelFlipping(features_in_step=64)
        >>> metric(net.model, x_batch, y_batch, None, channel_first=True, explain_func=quantus_explain)
    """
    module = _module_of(model)
    like = next(module.parameters(), torch.empty(0))
    x = torch.as_tensor(inputs).to(like.device if device is None else device, like.dtype)
    contributions, _ = _decomposed(module, x, torch.as_tensor(targets))
    kept = contributions if per_channel else contributions.sum(1, keepdim=True)
    return kept.cpu().numpy()


def _module_of(net: Net | nn.Module) -> nn.Module:
    """The module that takes six channels, out of a ``Net`` or an ``EncodingNet``."""
    module = net.model if isinstance(net, Net) else net
    return module.model if isinstance(module, EncodingNet) else module


@cache
def _joined_with_captum(cls: type[Any]) -> type[Any]:
    """A class that inherits from ``cls`` and from captum's Attribution; UsageError without captum."""
    try:
        from captum.attr import Attribution as OfCaptum
    except ImportError as error:
        raise UsageError(
            "Attribution needs captum, which is not installed; get it with: pip install captum. "
            "decompose gives the same contributions without it"
        ) from error
    if issubclass(cls, OfCaptum):
        return cls

    @wraps(cls.attribute)
    def attribute(self: Attribution, *arguments: Any, **options: Any) -> Any:
        return cls.attribute(self, *arguments, **options)

    # captum's NoiseTunnel calls ``attribute.__wrapped__``, which all methods of captum have; ``wraps`` makes it.
    names = {
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__doc__": cls.__doc__,
        "attribute": attribute,
    }
    return type(cls.__name__, (cls, OfCaptum), names)


def _decomposed(model: nn.Module, x: Tensor, target: Target) -> tuple[Tensor, Tensor]:
    """Contributions of the shape of ``x``, and the pixels' share of each logit: logit - constants, float64 [B]."""
    encoded = _encoded(x)
    chosen = _one_each(target, len(x))

    def computed(some: Sequence[Any]) -> list[tuple[Tensor, Tensor]]:
        part = slice(some[0], some[-1] + 1)
        return [_shares(model, encoded[part], None if chosen is None else chosen[part])]

    found = as_many_as_fit(model, range(len(x)), (x.shape[3], x.shape[2]), computed)
    contributions, share = (torch.cat(column) for column in zip(*found, strict=True))
    if x.shape[1] == 3:
        contributions = contributions[:, :3] + contributions[:, 3:]
    return contributions, share


def _shares(model: nn.Module, x: Tensor, classes: Tensor | None) -> tuple[Tensor, Tensor]:
    """``_decomposed`` of encoded inputs [B, 6, H, W] and class indices [B, 1]."""
    d = decompose(model, x, classes)
    refuse_inexact(d)
    share = (d.logit - d.bias - d.positional)[:, 0]
    if d.inputs.equal(x):
        return d.contributions[:, 0], share
    of_channel = spread(d.pixels, x.shape[2:]) / x.shape[1]  # [B, 1, H, W], of what a hybrid has at its cut
    return of_channel.repeat(1, x.shape[1], 1, 1), share


def _missed(share: Tensor, contributions: Tensor) -> Tensor:
    """By how much contributions [B, ...] miss the pixels' share [B] of the logits."""
    return share - contributions.detach().cpu().double().flatten(1).sum(1)


def _encoded(x: Tensor) -> Tensor:
    """Inputs as six channels; those with three are encoded."""
    if x.ndim != 4 or x.shape[1] not in (3, 6) or x.numel() == 0 or not x.is_floating_point():
        raise ValueError(f"expected a floating tensor [B, 3, H, W] or [B, 6, H, W], got {x.dtype} {list(x.shape)}")
    return encode(x) if x.shape[1] == 3 else x


def _one_each(target: Target, count: int) -> Tensor | None:
    """Class indices [count, 1], one for each input, of a target as captum writes it."""
    if target is None:
        return None
    if isinstance(target, tuple) or (isinstance(target, list) and len(target) != count):
        raise ValueError(f"expected one class index or a list of {count}, one for each input; got {target}")
    given = torch.as_tensor(target)
    whole = not given.is_floating_point() and not given.is_complex() and given.dtype != torch.bool
    if not whole or not (given.numel() == 1 or given.shape == (count,)):
        raise ValueError(
            f"expected one class index or [{count}], one for each input; got {given.dtype} {list(given.shape)}"
        )
    return given.reshape(-1, 1).expand(count, 1)


def _only_tensor(given: Inputs) -> Tensor:
    """The tensor of the inputs, also out of a tuple: captum's metrics pass tuples."""
    if not isinstance(given, tuple):
        return given
    if len(given) != 1:
        raise ValueError(f"expected one tensor of inputs, got a tuple of {len(given)}: networks take one")
    return given[0]


def _refuse_arguments(additional: object) -> None:
    """Raise ValueError for additional arguments, which no network takes."""
    if additional is not None:
        raise ValueError("additional_forward_args must be None: networks take nothing but the inputs")
