"""Explain the pictures in a dataset of Ray, from Python: ``coda_cli.ray.explain``. It needs the extra ``ray``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coda_cli.checkpoints.loading import Net
from coda_cli.checkpoints.reference import Reference
from coda_cli.errors import UsageError
from coda_cli.explanation.cluster import room
from coda_cli.explanation.naming import Naming
from coda_cli.explanation.picture import Explanation
from coda_cli.explanation.reading import InMemory
from coda_cli.explanation.record import Drawing
from coda_cli.explanation.request import Input, Request, network_of
from coda_cli.explanation.run import explain_items
from coda_cli.explanation.writer import Outcome, Output
from coda_cli.media.sources import Item
from coda_cli.media.stored import Given
from coda_cli.schema.parts import to_json
from coda_cli.schema.pictures import FailedRecord, Record
from coda_cli.vocabulary import Fit, Precision

_ROWS = 64  # that a worker is given together


def explain(
    dataset: Any,
    net: Net | str | Path | None = None,
    classes: Sequence[str | int] | str | int = (),
    *,
    column: str = "bytes",
    name: str | None = None,
    versus: str | None = None,
    fit: Fit = "crop",
    precision: Precision = "float32",
    device: str = "auto",
    maps: bool = True,
) -> Any:
    """Explain every picture of a dataset of Ray, on the machines of its cluster. Nothing is written.

    Each worker loads the network once, by its name and hash; its weights are not sent. As all datasets of Ray, the
    result is computed while it is read, and what a lost machine had is done again.

    Args:
        dataset: a ``ray.data.Dataset`` with one picture in each row.
        net: a network from ``load``, or its name or file, which all machines have; the default network unless given.
        classes: class names, WordNet ids, indices, "top:K" or "all"; the predicted class unless given.
        column: the column with the pictures: the bytes of files, their paths, or arrays uint8 [H, W, 3].
        name: the column with the names that records give them, such as "path"; "picture" unless given.
        versus: a class that is subtracted from each of ``classes``.
        fit: how pictures are shown to the network: "crop", "pad" or "native".
        precision: what is computed in.
        device: "auto" takes GPUs where the cluster has some; "cpu" or "cuda".
        maps: whether the maps are given, too.

    Returns:
        The dataset with a column ``record``, which is JSON as ``coda explain --json`` prints it, also for a picture
        that cannot be explained; and with a column ``maps`` float32 [K, h, w] in logit units, [0, 0, 0] for such a one.

    Raises:
        UsageError: the network does not have a class, or is in no file.
        CheckpointError: the network cannot be loaded.

    Example:
        >>> pictures = ray.data.read_binary_files("s3://bucket/photos/", include_paths=True)
        >>> coda.ray.explain(pictures, "imagenet", name="path").write_parquet("out/")
    """
    request = Request(classes, versus, fit, precision)  # type: ignore[arg-type]
    source = None if isinstance(net, Net) or net is None else str(net)
    loaded = network_of(net, precision)
    request.targets(loaded)
    resources, workers = room(device)
    return dataset.map_batches(
        _Rows,
        fn_constructor_args=(Reference.to(loaded, source), request, device, column, name, maps),
        batch_size=_ROWS,
        batch_format="numpy",
        concurrency=(1, workers),
        **resources,
    )


class _Rows:
    """A worker of a dataset: its network, and what is done with some rows of it."""

    def __init__(
        self, net: Reference, request: Request, device: str, column: str, name: str | None, maps: bool
    ) -> None:
        self._net, self._request = net.load(device, request.precision), request
        self._column, self._name, self._maps = column, name, maps
        naming = Naming(Path(), self._net.checkpoint.name)
        self._output = Output(naming, Drawing(kinds=()), entry=_maps_of if maps else None)

    def __call__(self, rows: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Explain rows; what else they hold stays."""
        if missing := {self._column, self._name or self._column} - {*rows}:
            raise UsageError(f"the dataset has no column {missing.pop()}; it has {', '.join(rows)}")
        outcomes = list(explain_items(self._net, list(self._items(rows)), self._request, self._output))
        found = {"record": np.array([to_json(_record_of(outcome)) for outcome in outcomes], dtype=object)}
        if self._maps:
            found["maps"] = np.empty(len(outcomes), dtype=object)  # pictures at their own size have maps of many sizes
            found["maps"][:] = [np.zeros((0, 0, 0), np.float32) if o.entry is None else o.entry for o in outcomes]
        return {**rows, **found}

    def _items(self, rows: dict[str, NDArray[Any]]) -> Iterator[Item]:
        """The pictures of rows as inputs."""
        names = rows[self._name] if self._name else ["picture"] * len(rows[self._column])
        for picture, name in zip(rows[self._column], map(str, names), strict=True):
            if isinstance(picture, bytes):
                yield Item(Path(name), stored=Given(name, picture))
            elif isinstance(picture, str):
                yield Item(Path(picture))
            else:
                yield InMemory(Path(name), pixels=picture)


def _record_of(outcome: Outcome) -> Record | FailedRecord:
    """What is said of a picture, whether it could be explained or not."""
    if outcome.error:
        return FailedRecord.of(outcome.item.name, outcome.error)
    assert outcome.record
    return outcome.record


def _maps_of(source: Input, explanation: Explanation, record: Record) -> NDArray[np.float32]:
    """The maps of a picture, as ``Output.entry`` keeps something."""
    del source, record
    return np.asarray(explanation.maps, dtype=np.float32)
