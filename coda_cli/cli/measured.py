"""What ``coda evaluate`` measures: every method on every network, its title, its record and its file of scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coda_cli.checkpoints.manifest import DEFAULT
from coda_cli.cli.console import console
from coda_cli.cli.network import load_network
from coda_cli.errors import UsageError

if TYPE_CHECKING:
    from coda_cli.checkpoints.loading import Net
    from coda_cli.study.methods import Method
    from coda_cli.study.scores import Scores
    from coda_cli.training.datasets import Split

Data = Annotated[
    Path,
    typer.Argument(metavar="DATA", help="A folder with one folder for each class; these may lie in test/ or val/."),
]
DEFAULTS, OURS = [DEFAULT], ["ours"]


@dataclass(frozen=True)
class Asked:
    """What is measured: every method on every network.

    Attributes:
        data: the folder of pictures.
        models: the networks.
        methods: the methods.
        arch: what files of bare weights are of.
        device: on which is computed.
        ema: which weights are taken of a file that holds two sets.
        everything: whether all pictures count where none are set aside.
        scores: the file of scores.
        plot: the figure.
        force: whether the figure may be replaced.
    """

    data: Path
    models: Sequence[str]
    methods: Sequence[str]
    arch: str | None
    device: str
    ema: bool | None
    everything: bool
    scores: Path | None
    plot: Path | None
    force: bool

    @property
    def several(self) -> bool:
        """Whether there is more than one network or method."""
        return len(self.models) * len(self.methods) > 1

    def heading(self, network: str) -> str:
        """What a figure is of: the network, or how many there are."""
        return network if len(self.models) == 1 else f"{len(self.models)} networks"


@dataclass(frozen=True)
class Measurement:
    """One method on one network.

    Attributes:
        net: the network.
        split: the pictures, as it sees them.
        model: what the user called the network.
        method: the method's name, with parameters.
        function: the method.
        label: what tells it from the others in a figure.
        decided: what decides its scores, but for the program's version.
        file: of scores.
    """

    net: Net
    split: Split
    model: str
    method: str
    function: Method
    label: str
    decided: dict[str, object]
    file: Path | None

    @property
    def record(self) -> dict[str, object]:
        """The record, without what was found."""
        return self.decided | computed_by(self.net, self.method)

    def scores(self, columns: int, more: Mapping[str, object] | None = None) -> Scores:
        """The file of scores, of so many numbers a row, in which ``more`` decides, too."""
        from coda_cli.study.scores import Scores

        return Scores(self.file, {**self.decided, **also_decided_by(self.net), **(more or {})}, columns)


def each_of(
    asked: Asked, schema: str, decides: Mapping[str, object], *, at_most: int | None = None
) -> Iterator[Measurement]:
    """Load every network with its pictures; what can be checked without them is checked first. Raises UsageError."""
    from coda_cli.study.by_name import method_of

    functions = {method: method_of(method) for method in asked.methods}
    _refuse(asked)
    for model in asked.models:
        net, split = _prepare(asked, model)
        for method, function in functions.items():
            names = (model,) * (len(asked.models) > 1) + (method,) * (len(functions) > 1)
            decided = {
                "schema": schema,
                "schema_version": 1,
                **decided_by(net, method),
                "pictures": min(len(split), at_most or len(split)),
                "data": split.sha256(),
                **decides,
            }
            label = ", ".join(names) or method
            yield Measurement(net, split, model, method, function, label, decided, asked.scores)


def _refuse(asked: Asked) -> None:
    """Raise UsageError for what cannot be measured."""
    from coda_cli.explanation.files import refuse_taken
    from coda_cli.study import plots
    from coda_cli.study.by_name import require

    for option, values in (("--model", asked.models), ("--method", asked.methods)):
        if twice := {value for value in values if list(values).count(value) > 1}:
            raise UsageError(f"{option} {min(twice)}: is given twice")
    if asked.scores and asked.several:
        raise UsageError(
            "--scores: is a file of one method on one network; run them one after the other, or leave it out"
        )
    require(asked.methods)
    if asked.plot:
        plots.check_path(asked.plot)
        refuse_taken(asked.plot, "--plot", force=asked.force, inputs=map(Path, asked.models))


def _prepare(asked: Asked, model: str) -> tuple[Net, Split]:
    """Load a network, and the pictures as it sees them."""
    from coda_cli.explanation.request import Request
    from coda_cli.study.by_name import is_exact
    from coda_cli.training.datasets import load_held_out

    exact = any(map(is_exact, asked.methods))
    net = load_network(model, asked.arch, asked.device, Request(), explained=exact, ema=asked.ema)
    with console.progress("reading pictures") as advance:
        split, note = load_held_out(asked.data, net.checkpoint, advance, everything=asked.everything)
    if note:
        console.say(note)
    return net, split


@contextmanager
def in_table(columns: Sequence[str]) -> Iterator[list[Sequence[str]]]:
    """Rows that are printed as a table in the end, also after an error: what was measured is not lost."""
    rows = list[Sequence[str]]()
    try:
        yield rows
    finally:
        for line in _in_columns([columns, *rows]) if rows else ():
            console.result(line)


def _in_columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines in which the words of ``rows`` stand below each other; the first row has the names of the columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def title(net: Net, method: str) -> str:
    """The network, and the method that made the maps if it is not coda's own."""
    from coda_cli.explanation.record import network_part

    return network_part(net).title + ("" if method == "ours" else f" by {method}")


def decided_by(net: Net, method: str) -> dict[str, object]:
    """The parts of a record about the network and the method that are measured."""
    from coda_cli.explanation.record import network_part
    from coda_cli.study.by_name import parameters_of

    network = network_part(net).model_dump(mode="json", exclude_none=True)
    return {"network": network, "method": method, "parameters": parameters_of(method)}


def also_decided_by(net: Net) -> dict[str, object]:
    """What scores also depend on and records do not hold: the network's description, and the program's version."""
    from coda_cli.explanation.record import described, versions

    return {"described": described(net), "coda": versions()["coda"]}


def computed_by(net: Net, method: str) -> dict[str, object]:
    """The parts of a record about device and libraries; another machine may continue a measurement."""
    from coda_cli.explanation.record import versions
    from coda_cli.study.by_name import libraries_of

    device = next(net.model.parameters()).device
    return {"device": str(device), "versions": versions(libraries_of([method]))}
