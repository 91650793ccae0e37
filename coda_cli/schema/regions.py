"""What records say of regions that the user gave: exact sums of contributions inside them."""

from __future__ import annotations

from coda_cli.schema.parts import Part


class RegionSum(Part):
    """The contributions inside one region, or in the rest that no region covers.

    Attributes:
        name: of the region; "rest" for the rest.
        positive: sum of its positive contributions, in logit units; of a neuron in units of its value.
        negative: sum of its negative contributions, at most 0.
        share: of the positive evidence of the whole view, in [0, 1]; None where there is none.
        area: share of the view that it covers, in [0, 1].
        ratio: share / area: above 1 where evidence is denser than on average; None where one of them does not exist.
        outside: share of the region's own area that the view does not show, in [0, 1]; None for the rest.
    """

    name: str
    positive: float
    negative: float
    share: float | None
    area: float
    ratio: float | None
    outside: float | None = None


class RegionSums(Part):
    """A map split into regions and rest.

    logit == sum of regions + rest - overlap + constants + residual; of a neuron, its value stands in the place of the
    logit. A pixel that the border of a region cuts counts in proportion to its covered area. Of a network with a cut,
    contributions are exact there, and those of a position are spread evenly over its pixels.

    Attributes:
        regions: in the order in which they were given, each summed by itself.
        rest: what no region covers.
        overlap: what was counted more than once because regions overlap, positive and negative together.
        residual: what rounding left over.
        tolerance: the largest |residual| that counts as exact.
        exact: whether |residual| is at most the tolerance.
    """

    regions: tuple[RegionSum, ...]
    rest: RegionSum
    overlap: float
    residual: float
    tolerance: float
    exact: bool


class RegionMean(Part):
    """One region over the frames of a span of time.

    Attributes:
        name: of the region; "rest" for the rest.
        frames: in how many of the frames it is.
        mean_positive: over these, of the sum of positive contributions.
        mean_negative: over these, of the sum of negative contributions.
        share: of the positive evidence of these frames; None where there is none.
        mean_area: over these, of the share of the view.
        ratio: share / mean_area.
    """

    name: str
    frames: int
    mean_positive: float
    mean_negative: float
    share: float | None
    mean_area: float
    ratio: float | None


class SpanPart(Part):
    """One class over a span of time of a clip.

    mean_logit == mean_positive + mean_negative + mean_constants + mean_residual

    Attributes:
        start: in seconds from the source's first frame; frames with start <= time < end count.
        end: in seconds; None for the whole clip.
        frames: how many.
        mean_logit: over these frames.
        mean_positive: over these, of the sum of positive contributions.
        mean_negative: over these, of the sum of negative contributions.
        mean_constants: over these, of what belongs to no pixel.
        mean_residual: over these, of what rounding left over.
        share: of the positive evidence of all explained frames; None where there is none.
        regions: the same for every region in these frames, and for the rest, the last one; none where no regions were
            asked for.
    """

    start: float
    end: float | None
    frames: int
    mean_logit: float
    mean_positive: float
    mean_negative: float
    mean_constants: float
    mean_residual: float
    share: float | None
    regions: tuple[RegionMean, ...] = ()
