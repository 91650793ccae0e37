"""What a measurement is of, for its title, its record and its file of scores."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from coda_cli.checkpoints.loading import Net


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
