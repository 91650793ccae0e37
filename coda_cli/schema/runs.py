"""What is written about records that are there: two runs compared, and records that were proven or repeated."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from coda_cli.schema.parts import ClassPart, Failed, Network, Part, ScoredClass, schema_of

DIFFERENCE: Literal["coda.difference"] = "coda.difference"
PROOF: Literal["coda.proof"] = "coda.proof"
How = Literal["sha256", "path"]


class Change(Part):
    """One number in both runs.

    Attributes:
        first: in RUN1.
        second: in RUN2.
        change: second - first.
    """

    first: float
    second: float
    change: float

    @classmethod
    def of(cls, first: float | None, second: float | None) -> Change | None:
        """Make the change of a number.

        Args:
            first: in RUN1; None where it has none.
            second: in RUN2; None where it has none.

        Returns:
            The change; None where a run has no number.
        """
        return None if first is None or second is None else cls(first=first, second=second, change=second - first)

    @classmethod
    def between(cls, first: float, second: float) -> Change:
        """Make the change of a number that both runs have.

        Args:
            first: in RUN1.
            second: in RUN2.

        Returns:
            The change.
        """
        return cls(first=first, second=second, change=second - first)


class Side(Part):
    """What one run says of a picture.

    Attributes:
        path: of the picture, as that run named it.
        sha256: of the picture.
        network: by which it was explained.
        precision: in which it was computed.
        predicted: the class with the highest logit.
    """

    path: str
    sha256: str
    network: Network
    precision: str
    predicted: ScoredClass


class RegionChange(Part):
    """One region in both runs.

    Attributes:
        name: of the region; "rest" for what no region covers.
        share: of the positive evidence; None where a run has none.
        total: positive and negative contributions together, in logit units.
        area: share of the view. Where it changed, the region or the view is another one.
    """

    name: str
    share: Change | None
    total: Change
    area: Change


class MapChange(Part):
    """The map of RUN2 minus that of RUN1.

    sum == change of the logit - change of its constants - residual

    Attributes:
        grid: "view" where both runs saw the same part at the same size: the difference is exact for every pixel.
            "common" where they did not: both maps are spread over a grid that covers both, which keeps their sums.
        width: of the difference, in pixels.
        height: of the difference, in pixels.
        sum: of the difference, in logit units.
        magnitude: sum of the absolute differences.
        residual: what rounding left over, of both runs.
        tolerance: the largest |residual| that counts as exact.
        exact: whether |residual| is at most the tolerance.
        scale: the difference of one pixel, in logit units, that is drawn in full colour.
        file: the drawing, relative to the output folder; None where none was asked for.
    """

    grid: Literal["view", "common"]
    width: int
    height: int
    sum: float
    magnitude: float
    residual: float
    tolerance: float
    exact: bool
    scale: float
    file: str | None = None


class TargetChange(ClassPart):
    """A class, or difference of classes, that both runs explained.

    change of logit == changes of positive + negative + constants + residual

    Attributes:
        versus: the class that is subtracted, where differences were explained.
        logit: of the class, or the difference of two logits.
        probability: in [0, 1]; None for a difference.
        positive: sum of the positive contributions.
        negative: sum of the negative contributions.
        constants: what belongs to no pixel.
        residual: what rounding left over.
        logit_without_concepts: None where a network has none.
        regions: those that both runs have by the same name, and the rest.
        map: the difference of the maps; None where a run kept none.
    """

    versus: ClassPart | None = None
    logit: Change
    probability: Change | None
    positive: Change
    negative: Change
    constants: Change
    residual: Change
    logit_without_concepts: Change | None = None
    regions: tuple[RegionChange, ...] = ()
    map: MapChange | None = None


class ScoreChange(Part):
    """A class that both runs list among those with the highest logits.

    Attributes:
        name: of the class.
        logit: of the class.
        probability: in [0, 1].
    """

    name: str
    logit: Change
    probability: Change


class Difference(Part):
    """One picture that both runs explained.

    Attributes:
        schema_name: "coda.difference"; "schema" in the JSON.
        schema_version: 1.
        status: "ok".
        matched: by what the two records were matched: the picture's hash, or its path where the picture was changed.
        first: what RUN1 says of it.
        second: what RUN2 says of it.
        changed: whether another class is predicted.
        targets: what both explained.
        scores: classes that both list among the highest.
        only_first: names of targets that RUN1 alone explained.
        only_second: names of targets that RUN2 alone explained.
        notes: why there is no map, or what it is of, a sentence each.
    """

    schema_name: Literal["coda.difference"] = Field(DIFFERENCE, alias="schema")
    schema_version: Literal[1] = 1
    status: Literal["ok"] = "ok"
    matched: How
    first: Side
    second: Side
    changed: bool
    targets: tuple[TargetChange, ...]
    scores: tuple[ScoreChange, ...] = ()
    only_first: tuple[str, ...] = ()
    only_second: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class Alone(Part):
    """One picture that only one run explained.

    Attributes:
        schema_name: "coda.difference"; "schema" in the JSON.
        schema_version: 1.
        status: "alone".
        run: 1 or 2, the run that has it.
        path: of the picture, as that run named it.
        sha256: of the picture.
    """

    schema_name: Literal["coda.difference"] = Field(DIFFERENCE, alias="schema")
    schema_version: Literal[1] = 1
    status: Literal["alone"] = "alone"
    run: Literal[1, 2]
    path: str
    sha256: str


class Totals(Part):
    """Two runs as a whole; the last line.

    Attributes:
        schema_name: "coda.difference"; "schema" in the JSON.
        schema_version: 1.
        status: "totals".
        pairs: pictures that both runs explained.
        by_path: of these, how many were matched by path, since the picture was changed.
        only_first: pictures that only RUN1 explained.
        only_second: pictures that only RUN2 explained.
        failed_first: pictures that RUN1 could not explain.
        failed_second: pictures that RUN2 could not explain.
        unreadable: records, of both runs together, that cannot be read.
        changed: pictures whose predicted class changed.
        targets: classes, or differences of classes, that both explained, over all pictures.
        mean_change: of the logits of these; None where there are none.
        largest_change: of the logits of these, by magnitude.
        exact_maps: differences of maps that add up.
        inexact_maps: differences of maps that do not.
    """

    schema_name: Literal["coda.difference"] = Field(DIFFERENCE, alias="schema")
    schema_version: Literal[1] = 1
    status: Literal["totals"] = "totals"
    pairs: int = 0
    by_path: int = 0
    only_first: int = 0
    only_second: int = 0
    failed_first: int = 0
    failed_second: int = 0
    unreadable: int = 0
    changed: int = 0
    targets: int = 0
    mean_change: float | None = None
    largest_change: float | None = None
    exact_maps: int = 0
    inexact_maps: int = 0


class TargetProof(ClassPart):
    """A target of a record, computed again.

    Attributes:
        versus: the class that is subtracted, where a difference was explained.
        recorded: its logit in the record.
        again: its logit now.
        difference: between a number of the record and the same number now, in logit units: of all numbers the one that
            is farthest off, as a share of what is allowed.
        number: which number that is.
        allowed: the largest difference of this number that rounding in the record's precision explains.
        residual: of the decomposition now.
        tolerance: the largest |residual| that counts as exact.
        map_difference: where the record's map was kept: sum of |differences| as a share of sum |contributions|.
        map_allowed: the largest such share that counts as the same map.
        proven: whether all of these hold.
    """

    versus: ClassPart | None = None
    recorded: float
    again: float
    difference: float
    number: str
    allowed: float
    residual: float
    tolerance: float
    map_difference: float | None = None
    map_allowed: float | None = None
    proven: bool


class NeuronProof(Part):
    """An activation of a record, computed again.

    Attributes:
        layer: the layer's name.
        channel: counted from 0.
        position: (y, x) in the layer's output; None where it is of all positions together.
        recorded: the activation in the record.
        again: the same now.
        difference: as in ``TargetProof``, in units of the activation.
        number: which number is farthest off.
        allowed: the largest difference of this number that rounding in the record's precision explains.
        proven: whether this holds, and everything adds up.
    """

    layer: str
    channel: int
    position: tuple[int, int] | None
    recorded: float
    again: float
    difference: float
    number: str
    allowed: float
    proven: bool


class Proof(Part):
    """One record that was proven again, or repeated.

    Attributes:
        schema_name: "coda.proof"; "schema" in the JSON.
        schema_version: 1.
        status: "ok".
        record: where the record stands.
        path: of the picture that was read.
        network: the network's name.
        recorded_precision: in which the record was computed.
        precision: in which it was computed now.
        targets: each explained target, with the channels that it is made of.
        neurons: each activation.
        proven: whether everything holds.
        reasons: why not, a sentence each.
        notes: what the record does not say, so that it was not held against anything, and what else is different.
        files: what was written, relative to the output folder.
    """

    schema_name: Literal["coda.proof"] = Field(PROOF, alias="schema")
    schema_version: Literal[1] = 1
    status: Literal["ok"] = "ok"
    record: str
    path: str
    network: str
    recorded_precision: str
    precision: str
    targets: tuple[TargetProof, ...]
    neurons: tuple[NeuronProof, ...] = ()
    proven: bool
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


class FailedProof(Failed):
    """One record that could not be computed again.

    Attributes:
        schema_name: "coda.proof"; "schema" in the JSON.
    """

    schema_name: Literal["coda.proof"] = Field(PROOF, alias="schema")


def json_schema_of_differences() -> dict[str, Any]:
    """Describe a line of ``coda diff --json``.

    Returns:
        The JSON Schema.
    """
    return schema_of(Difference | Alone | Totals, f"{DIFFERENCE} version 1")


def json_schema_of_proofs() -> dict[str, Any]:
    """Describe a line of ``coda verify --json`` and of ``coda rerun --json``.

    Returns:
        The JSON Schema.
    """
    return schema_of(Proof | FailedProof, f"{PROOF} version 1")
