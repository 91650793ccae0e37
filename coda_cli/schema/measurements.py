"""The records of measurements over a data set: what ``coda evaluate --json`` prints."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from coda_cli.schema.parts import Network, Part, schema_of
from coda_cli.vocabulary import Baseline, Direction, Grid, Protocol


class LocalisationRecord(Part):
    """Grid localisation by one method; see ``study.localisation``.

    Attributes:
        leaves_out_none: fields that are None are not written.
        schema_name: "coda.localisation"; "schema" in the JSON.
        schema_version: 1.
        network: that was measured.
        pictures: how many the data set has, of which grids could be made.
        data: sha256 over all pictures and labels of the data set.
        method: as it was asked for.
        parameters: all of the method's, by name.
        grid: pictures in a grid.
        protocol: how pictures were put into grids.
        threshold: the probability in [0, 1] above which a picture was confident enough.
        rescale: whether pictures were shrunk until a grid is as wide as one.
        smooth: side of the window over which maps were averaged first, in pixels; 1 is not at all.
        seed: of the choice of pictures.
        grids: how many grids there were.
        mean: over all scores, in [0, 1].
        interval_95: the 95 % confidence interval of the mean.
        uniform: what evenly spread evidence scores.
        scores: in [0, 1], of every grid, of each of its pictures.
        device: on which it was computed.
        versions: of coda and the libraries that had a part in it.
    """

    leaves_out_none: ClassVar[bool] = True

    schema_name: Literal["coda.localisation"] = Field("coda.localisation", alias="schema")
    schema_version: Literal[1] = 1
    network: Network
    pictures: int
    data: str
    method: str
    parameters: dict[str, float]
    grid: Grid
    protocol: Protocol
    threshold: float
    rescale: bool
    smooth: int
    seed: int
    grids: int
    mean: float
    interval_95: tuple[float, float]
    uniform: float
    scores: tuple[tuple[float, ...], ...]
    device: str
    versions: dict[str, str]


class RemovalRecord(Part):
    """Pixel removal in the order of one method's maps; see ``study.removal``.

    Attributes:
        leaves_out_none: fields that are None are not written.
        schema_name: "coda.removal"; "schema" in the JSON.
        schema_version: 1.
        network: that was measured.
        pictures: how many were measured.
        data: sha256 over all pictures and labels of the data set.
        method: as it was asked for.
        parameters: all of the method's, by name.
        direction: which pixels were removed first.
        baseline: what took the place of removed pixels.
        points: how often the network was asked while pixels were removed, beside the beginning.
        share: of the pixels, removed at the end; in [0, 1].
        first: whether these are the first pictures of the data set, not some from all over it.
        area: under the mean curve, as a share of what a constant 1 has.
        removed: share of the pixels that are gone at each point, from 0 on.
        mean: probability of the true class at each point, over all pictures.
        curves: the same for every picture.
        device: on which it was computed.
        versions: of coda and the libraries that had a part in it.
    """

    leaves_out_none: ClassVar[bool] = True

    schema_name: Literal["coda.removal"] = Field("coda.removal", alias="schema")
    schema_version: Literal[1] = 1
    network: Network
    pictures: int
    data: str
    method: str
    parameters: dict[str, float]
    direction: Direction
    baseline: Baseline
    points: int
    share: float
    first: bool = False
    area: float
    removed: tuple[float, ...]
    mean: tuple[float, ...]
    curves: tuple[tuple[float, ...], ...]
    device: str
    versions: dict[str, str]


class DepthPart(Part):
    """How much of the logits the positions of one layer carry, over some pictures.

    Attributes:
        name: of the layer, or "input".
        height: of its output, in positions.
        width: of its output, in positions.
        carried: 10th, 50th and 90th percentile of sum of contributions over (logit - classifier's bias); null where
            that is 0 for every picture.
        ratio: the same of sum of magnitudes over |logit - classifier's bias|.
        constants: the same of the constants above the layer, the classifier's bias left out, over that.
        interpretable: whether the positions carry the logit and do not cancel, for nearly all pictures.
    """

    name: str
    height: int
    width: int
    carried: tuple[float | None, float | None, float | None]
    ratio: tuple[float | None, float | None, float | None]
    constants: tuple[float | None, float | None, float | None]
    interpretable: bool


class DepthRecord(Part):
    """The interpretable depth of a network; see ``core.cuts``.

    Attributes:
        schema_name: "coda.depth"; "schema" in the JSON.
        schema_version: 1.
        network: that was measured.
        pictures: how many were measured, their predicted classes.
        layers: from the input up, those that the whole logit passes through.
        device: on which it was computed.
        versions: of coda and the libraries that had a part in it.
    """

    schema_name: Literal["coda.depth"] = Field("coda.depth", alias="schema")
    schema_version: Literal[1] = 1
    network: Network
    pictures: int
    layers: tuple[DepthPart, ...]
    device: str
    versions: dict[str, str]


def json_schema() -> dict[str, Any]:
    """Describe a line of ``coda evaluate ... --json``.

    Returns:
        The JSON Schema.
    """
    title = "coda.localisation, coda.removal and coda.depth version 1"
    return schema_of(LocalisationRecord | RemovalRecord | DepthRecord, title)
