"""From a record back to its picture, its network and what was asked; then the same is computed again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from coda_cli.checkpoints.loading import Net, load, with_cut
from coda_cli.checkpoints.manifest import known
from coda_cli.checkpoints.packages import PACKAGED
from coda_cli.core.abilities import is_ordinary
from coda_cli.core.cuts import AUTO
from coda_cli.errors import CheckpointError, CodaError, ExactnessError, MediaError, UsageError
from coda_cli.explanation.picture import Explanation, explain_batch
from coda_cli.explanation.request import Input, Request, input_of
from coda_cli.explanation.runs.neurons import texts_of
from coda_cli.explanation.runs.pictures import Pictures
from coda_cli.machine import budget
from coda_cli.machine.devices import pick
from coda_cli.machine.memory import as_many_as_fit
from coda_cli.machine.precision import DTYPES
from coda_cli.media.stills import reading
from coda_cli.schema.pictures import Explained, Record
from coda_cli.vocabulary import Precision, one_of

NETWORKS = 2  # that stay loaded: the records of a run have one
SAME_PLACE = 1e-6  # of a pixel: what two boxes of one view may differ by


class Networks:
    """Finds the networks that records name, and loads each once.

    Args:
        source: a name or file that is taken in place of what records say; None takes the record's name.
        device: where to compute, as ``machine.devices.pick`` takes it.
        options: what else ``load`` is to know of a file that does not describe itself.
    """

    def __init__(
        self, source: str | None = None, device: str = "auto", options: Mapping[str, Any] | None = None
    ) -> None:
        self._source, self._device, self._options = source, device, dict(options or {}) | {"cut": None}
        self._loaded: dict[tuple[str, str | None, Precision], Net] = {}

    def of(self, record: Record, precision: Precision) -> Net:
        """Give the network of a record.

        Args:
            record: the record.
            precision: in which is computed.

        Returns:
            The network, in that precision and with the record's cut.

        Raises:
            MediaError: the network is not on this machine.
            CheckpointError: it cannot be loaded, or is another one.
        """
        name = self._source or _here(record.network.name)
        key = (name, record.network.cut, precision)
        if (net := self._loaded.pop(key, None)) is None:
            net = load(name, device=pick(self._device, precision), dtype=DTYPES[precision], **self._options)
            if is_ordinary(net.model):
                net = with_cut(net, record.network.cut or AUTO)
        self._loaded[key] = net  # the one that was used last stands last
        while len(self._loaded) > NETWORKS:
            del self._loaded[next(iter(self._loaded))]
        if net.sha256 != record.network.sha256:
            raise CheckpointError(
                f"another network: the sha256 of {net.path.name} is {net.sha256}, that of the record "
                f"{record.network.sha256[:64]}; -m FILE says where the right one lies"
            )
        return net


def _here(name: str) -> str:
    """The name, if there is such a network on this machine. Raises MediaError."""
    entry = known().get(name)
    if name not in PACKAGED and not (entry and entry.here):
        raise MediaError(f"its network {name[:100]!r} is not on this machine; -m FILE says where it lies")
    return name


def precision_of(record: Record) -> Precision:
    """Check in which precision a record was computed.

    Args:
        record: the record.

    Returns:
        The precision.

    Raises:
        MediaError: there is no such precision.
    """
    if not one_of(record.precision, Precision):
        raise MediaError(f"says that it was computed in {record.precision[:40]!r}, which is no precision")
    return cast("Precision", record.precision)


def request_of(record: Record, net: Net, precision: Precision) -> Request:
    """Say what was asked about the picture of a record.

    Args:
        record: the record.
        net: its network.
        precision: in which is computed.

    Returns:
        The request: the same targets, view, layers and neurons. Regions are not in it: a record does not say how
        they were given.

    Raises:
        MediaError: one run cannot have explained these targets.
        ExactnessError: the network does not have these classes or neurons.
    """
    classes, parts = net.checkpoint.classes, record.explained
    subtracted = {None if part.versus is None else part.versus.index for part in parts}
    targets = [part.index for part in parts]
    if len(subtracted) != 1 or len(set(targets)) != len(targets) or subtracted <= set(targets):
        raise MediaError("its targets are not those of one run")
    for one in [*parts, *(part.versus for part in parts if part.versus), *record.top]:
        if not 0 <= one.index < len(classes) or classes[one.index] != one.name:
            own = f"{classes[one.index]!r}" if 0 <= one.index < len(classes) else "none"
            raise ExactnessError(
                f"not proven: class {one.index} is {one.name[:100]!r} in the record, {own} in the network"
            )
    layers = [layer.name for layer in parts[0].layers]
    versus = next(iter(subtracted))
    with _had_by_the_network():
        return Request(
            classes=tuple(map(str, targets)),
            versus=None if versus is None else str(versus),
            fit=record.view.fit,
            precision=precision,
            layer=None if not layers else "all" if len(layers) > 1 else layers[0],
            neurons=texts_of(record),
        )


@contextmanager
def _had_by_the_network() -> Iterator[None]:
    """A layer or neuron that is not there is a fault of the record, and not of the command's options."""
    try:
        yield
    except UsageError as error:
        raise ExactnessError(f"not proven: the network does not have what the record names: {error.message}") from error


def input_again(record: Record, net: Net, pictures: Pictures, subfolder: Path = Path()) -> Input:
    """Read the picture of a record, and show it to the network in the same way.

    Args:
        record: the record.
        net: its network.
        pictures: finds the picture.
        subfolder: the place for its outputs.

    Returns:
        The picture, whose hash is the record's.

    Raises:
        MediaError: the picture is not there, cannot be read, or is another one.
        ExactnessError: the network sees another part of it than the record says.
    """
    other = ""
    for item in pictures.of(record.source.path):
        with reading(item.content) as picture:
            if picture.sha256 != record.source.sha256:
                other = item.name
                continue
            source = input_of(replace(item, subfolder=subfolder), picture, net, record.view.fit)
        seen = record.view
        if source.view.resolution != (seen.width, seen.height) or not np.allclose(
            source.view.box, seen.box, rtol=0, atol=SAME_PLACE
        ):
            raise ExactnessError("not proven: the network sees another part of the picture than the record says")
        return source
    if other:
        raise MediaError(
            f"another picture: the sha256 of {other} is not that of the record; it was changed, or replaced"
        )
    raise MediaError(f"its picture {record.source.path[:300]} is not here; --pictures DIR says where it lies")


def explained_again(source: Input, net: Net, request: Request, at_once: int | None = None) -> Iterator[Explanation]:
    """Explain the picture of a record again, a few targets at a time.

    Args:
        source: the picture.
        net: the network.
        request: what is asked.
        at_once: how many targets are explained together; as many as memory is meant for unless given.

    Yields:
        Explanations of the targets in their order.

    Raises:
        CodaError: the picture cannot be explained, or the network does not have such layers or neurons.
    """
    numbers = 6 * source.view.pixels  # of one target's dynamic weights
    step = at_once or max(1, min(budget.SHARED_GRADIENTS, budget.DYNAMIC_WEIGHTS // numbers))
    for first in range(0, len(request.classes), step):
        some = replace(request, classes=request.classes[first : first + step])
        explain = partial(explain_batch, net=net, request=some, targets=some.targets(net))
        with _had_by_the_network():
            (result,) = as_many_as_fit(net.model, [source.view], source.view.resolution, explain)
        if isinstance(result, CodaError):
            raise result
        yield replace(result, input=source)


def parts_with(explanations: Iterator[Explanation], record: Record) -> Iterator[tuple[Explained, Explanation, int]]:
    """Put every target of a record beside the same target now.

    Args:
        explanations: as ``explained_again`` gives them.
        record: the record.

    Yields:
        The part of the record, the explanation, and which of its targets this is.
    """
    parts = iter(record.explained)
    for explanation in explanations:
        for k in range(len(explanation.targets)):
            yield next(parts), explanation, k
