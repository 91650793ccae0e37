"""The summary of many records: what ``coda summary`` prints with ``--json`` and writes to ``summary.json``."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from coda_cli.schema.parts import Part, schema_of
from coda_cli.schema.shards import Missing
from coda_cli.vocabulary import LabelSource, ScaleOf

SCHEMA: Literal["coda.summary"] = "coda.summary"


class RegionShare(Part):
    """One region of one picture, or the rest that no region covers; see ``RegionSum``.

    Attributes:
        name: of the region; "rest" for the rest, the last one.
        share: of the positive evidence of the whole view, in [0, 1]; None where there is none.
        area: share of the view that it covers, in [0, 1].
        ratio: share / area; None where one of them does not exist.
        outside: share of the region's own area that the view does not show; None for the rest.
    """

    name: str
    share: float | None
    area: float
    ratio: float | None
    outside: float | None


class PictureLine(Part):
    """One picture in numbers: a line of ``summary.csv``.

    logit == positive + negative + constants + residual

    Attributes:
        path: of the picture, as its record has it.
        label: the class that it is known to show; None where that is not known.
        predicted: the class with the highest logit; its index is added where two classes have one name.
        right: whether the label is the predicted class; None without a label.
        probability: of the predicted class, in [0, 1].
        runner_up: the class with the second highest logit; None where there is one class.
        runner_up_probability: of the runner-up.
        explained: the class that the numbers from here on are about: the predicted one if the record explains it, else
            the first one that it explains; "A − B" for a difference.
        logit: of this class.
        positive: sum of all positive contributions, in logit units.
        negative: sum of all negative contributions, at most 0.
        constants: what belongs to no pixel.
        residual: what rounding left over.
        exact: whether |residual| is within its tolerance, also where regions were summed.
        half_share: the smallest share of the view's pixels that holds half of the positive evidence.
        centroid_x: of the positive contributions, in the source's pixels; None where there are none.
        centroid_y: the same.
        inside: share of the positive evidence inside any region: 1 less that of the rest; None without regions.
        inside_area: share of the view that the regions cover together.
        inside_ratio: inside / inside_area.
        logit_without_concepts: of the same class; None for a network without concepts.
        regions: each region by itself, then the rest; none where no regions were asked for.
    """

    path: str
    label: str | None
    predicted: str
    right: bool | None
    probability: float
    runner_up: str | None
    runner_up_probability: float | None
    explained: str
    logit: float
    positive: float
    negative: float
    constants: float
    residual: float
    exact: bool
    half_share: float | None
    centroid_x: float | None
    centroid_y: float | None
    inside: float | None
    inside_area: float | None
    inside_ratio: float | None
    logit_without_concepts: float | None = None
    regions: tuple[RegionShare, ...] = ()


class RegionMean(Part):
    """One region over all pictures of a group that have it.

    Attributes:
        name: of the region; "rest" for the rest.
        pictures: how many have it.
        mean_share: over those with positive evidence, of the share of it; None where there are none.
        mean_area: over all of them, of the share of the view.
        ratio: mean_share / mean_area.
    """

    name: str
    pictures: int
    mean_share: float | None
    mean_area: float
    ratio: float | None


class Group(Part):
    """The pictures of one class, or all of them. Every mean counts every picture once.

    mean_logit == mean_positive + mean_negative + mean_constants + mean_residual

    Attributes:
        name: of the class; None for all pictures.
        pictures: how many.
        labelled: of how many the label is known.
        right: of how many it is the predicted class.
        accuracy: right / labelled; None where no label is known.
        inexact: of how many a residual is above its tolerance.
        mean_probability: of the predicted class.
        mean_logit: of the explained class.
        mean_positive: of the sum of positive contributions.
        mean_negative: of the sum of negative contributions.
        mean_constants: of what belongs to no pixel.
        mean_residual: of what rounding left over.
        mean_half_share: over the pictures with positive evidence; None where there are none.
        mean_inside: over the pictures with regions, of the share of the positive evidence inside any of them.
        mean_inside_area: over the same pictures, of the share of the view that the regions cover.
        inside_ratio: mean_inside / mean_inside_area.
        mean_logit_without_concepts: None unless every network has concepts.
        regions: every region by itself, and the rest.
    """

    name: str | None
    pictures: int
    labelled: int
    right: int
    accuracy: float | None
    inexact: int
    mean_probability: float
    mean_logit: float
    mean_positive: float
    mean_negative: float
    mean_constants: float
    mean_residual: float
    mean_half_share: float | None
    mean_inside: float | None
    mean_inside_area: float | None
    inside_ratio: float | None
    mean_logit_without_concepts: float | None = None
    regions: tuple[RegionMean, ...] = ()


class Confusion(Part):
    """How often pictures of one class were taken for a class; pairs that do not occur are left out.

    Attributes:
        label: the class that they show.
        predicted: the class that they were taken for; the same class where that was right.
        pictures: how many.
    """

    label: str
    predicted: str
    pictures: int


class Bin(Part):
    """The labelled pictures whose probability of the predicted class lies in (start, end].

    Attributes:
        start: in [0, 1]; the first bin holds 0 as well.
        end: in [0, 1].
        pictures: how many.
        accuracy: the share of them that is right; None for an empty bin.
        mean_probability: None for an empty bin.
    """

    start: float
    end: float
    pictures: int
    accuracy: float | None
    mean_probability: float | None


class Calibration(Part):
    """Whether a network that says "90 %" is right in 90 of 100 cases.

    Attributes:
        error: the expected calibration error: mean of |accuracy - mean probability| over the bins, each weighted with
            its pictures.
        bins: of equal width, in order.
    """

    error: float
    bins: tuple[Bin, ...]


class Outliers(Part):
    """The pictures that are worth a look, the most extreme first; of equal ones the first by path.

    Attributes:
        outside: with the most positive evidence outside of all regions, by share.
        wrong: those that are wrong, by the probability of what was predicted.
        against: those with more evidence against the explained class than for it, by the difference.
    """

    outside: tuple[PictureLine, ...]
    wrong: tuple[PictureLine, ...]
    against: tuple[PictureLine, ...]


class NetworkCount(Part):
    """One of the networks by which the pictures were explained.

    Attributes:
        name: as in the records.
        sha256: hex digest of its file.
        pictures: how many records are of it.
    """

    name: str
    sha256: str
    pictures: int


class MeanMap(Part):
    """The mean of the contribution maps of the pictures of one class, pixel by pixel.

    logit == sum + constants + residual

    Attributes:
        name: of the class whose pictures they are: their label or their predicted class, as ``grouped_by`` says.
        explained: the class that the maps are about. It is ``name`` if any map of these pictures is, else the class
            that most of them are about.
        pictures: of how many the mean is taken.
        other_classes: how many more maps of these pictures are about other classes; they are left out.
        width: of the map, in pixels of the views.
        height: of the map.
        logit: of the explained class, the mean over these pictures.
        constants: the mean of what belongs to no pixel.
        sum: of the mean map, in logit units.
        magnitude: sum of the absolute values of the mean map; what was for in one picture and against in another
            cancels, so that it is at most the mean of those sums.
        residual: logit - constants - sum: what rounding left over.
        tolerance: the largest |residual| that counts as exact: the mean of the records' tolerances, and what rounding
            to float32, in which maps are kept, may add to it.
        exact: whether |residual| is at most the tolerance.
        scale: the mean contribution of one pixel, in logit units, that is drawn in full colour.
        scale_of: what decided it: "run", all mean maps of the summary together; None in summaries of older versions,
            where each decided for itself.
        files: kind -> name in the output folder.
    """

    name: str
    explained: str
    pictures: int
    other_classes: int
    width: int
    height: int
    logit: float
    constants: float
    sum: float
    magnitude: float
    residual: float
    tolerance: float
    exact: bool
    scale: float
    scale_of: ScaleOf | None = None
    files: dict[str, str] = Field(default={})


class MeanMaps(Part):
    """The mean maps of all classes.

    Attributes:
        maps: in the order of the classes' names.
        without_map: how many pictures have no map beside their record; those that belong to no class are not counted.
        unreadable: how many maps cannot be read, or are not those of their record.
        different_sizes: classes without a mean map, since their views are not all of one size.
    """

    maps: tuple[MeanMap, ...]
    without_map: int
    unreadable: int
    different_sizes: tuple[str, ...]


class Summary(Part):
    """Many explained pictures in numbers.

    Attributes:
        schema_name: "coda.summary"; "schema" in the JSON.
        schema_version: 1.
        pictures: how many records were summed up.
        failed: how many records say that their picture could not be explained.
        unreadable: how many files or lines hold no record.
        labels: where the labels are from.
        grouped_by: whether ``classes`` holds the pictures by label or, where no label is known, by predicted class.
        overall: all pictures.
        classes: the classes in the order of their names. Pictures without a label are in none of them where any has
            one.
        confusion: which class was taken for which, the most frequent first; none without labels.
        calibration: over the pictures with labels; None without any.
        outliers: the pictures that are worth a look.
        networks: by which the pictures were explained.
        settings: how many different settings the records have. More than one is mostly a mixture of several runs.
        repeated: how many of the records are of a picture that another of them is of, by its path and its bytes; they
            were summed up, too. Mostly several runs with other classes or settings went into one folder.
        no_classes: folders of pictures whose name is no class that the records show, with how many pictures.
        mean_maps: the mean map of each class; None where they were not asked for.
        missing: what the shards of a run did not do; only from ``coda merge``.
        files: what was written: kind -> name in the output folder.
        versions: of coda.
    """

    schema_name: Literal["coda.summary"] = Field(SCHEMA, alias="schema")
    schema_version: Literal[1] = 1
    pictures: int
    failed: int
    unreadable: int
    labels: LabelSource
    grouped_by: Literal["label", "predicted"]
    overall: Group
    classes: tuple[Group, ...]
    confusion: tuple[Confusion, ...]
    calibration: Calibration | None
    outliers: Outliers
    networks: tuple[NetworkCount, ...]
    settings: int
    repeated: int = 0
    no_classes: dict[str, int] = Field(default={})
    mean_maps: MeanMaps | None = None
    missing: Missing | None = None
    files: dict[str, str] = Field(default={})
    versions: dict[str, str]


def json_schema() -> dict[str, Any]:
    """Describe what ``coda summary --json`` prints.

    Returns:
        The JSON Schema.
    """
    return schema_of(Summary, f"{SCHEMA} version 1")
