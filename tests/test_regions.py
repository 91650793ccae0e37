"""Regions: exact areas, sums held against plain numpy, outlines, and what Python offers."""

from __future__ import annotations

import tracemalloc
from dataclasses import asdict, make_dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from maps import RGB
from numpy.typing import NDArray
from program import EXAMPLES, photo
from test_neurons import watched

import coda_cli as coda
from coda_cli.errors import MediaError, UsageError
from coda_cli.explanation.picture import Explanation
from coda_cli.explanation.record import settings_hash
from coda_cli.explanation.regions.asked import Regions
from coda_cli.explanation.regions.shapes import Shape, box_ring, laid, with_own_names
from coda_cli.explanation.request import Request
from coda_cli.media.coverage import Coverage, of_mask, of_rings
from coda_cli.media.view import View, fit
from coda_cli.render.outlines import PLATE, outlined

VIEW = View(np.zeros((20, 24, 3), np.uint8), (10.3, -2.2, 110.7, 95.5), (120, 90))  # reaches beyond the picture


def whole(coverage: Coverage, view: View = VIEW) -> NDArray[np.float64]:
    """The covered share of every pixel of the view."""
    shares = np.zeros(view.rgb.shape[:2])
    shares[coverage.part] = coverage.shares
    return shares


def overlap(low: float, high: float, edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """How much of each cell between edges lies between two places, as a share of the cell."""
    return (np.minimum(edges[1:], high) - np.maximum(edges[:-1], low)).clip(0) / np.diff(edges)


# ---- areas -----------------------------------------------------------------------------------------------------------


def test_a_box_covers_pixels_by_exactly_its_area() -> None:
    rng = np.random.default_rng(0)
    columns, rows = np.linspace(10.3, 110.7, 25), np.linspace(-2.2, 95.5, 21)
    for _ in range(50):
        (x0, x1), (y0, y1) = np.sort(rng.uniform(0, 120, 2)), np.sort(rng.uniform(0, 90, 2))
        coverage = of_rings([box_ring(x0, y0, x1, y1)], VIEW)
        expected = np.outer(overlap(y0, y1, rows), overlap(x0, x1, columns))
        np.testing.assert_allclose(whole(coverage), expected, atol=1e-12)
        shown = max(0.0, min(x1, 110.7) - max(x0, 10.3)) / (x1 - x0)
        assert coverage.outside == pytest.approx(1 - shown, abs=1e-9)


def test_a_polygon_covers_pixels_by_exactly_its_area() -> None:
    # A fine mask of the same polygon, made by counting the edges at the left of each place.
    ring = np.array([(20, 10), (100, 20), (70, 45), (115, 85), (30, 80), (50, 50)], float)
    fine = 12
    y, x = (np.mgrid[0 : 90 * fine, 0 : 120 * fine] + 0.5) / fine
    inside = np.zeros(x.shape, bool)
    for a, b in zip(ring, np.roll(ring, -1, 0), strict=True):
        inside ^= ((a[1] > y) != (b[1] > y)) & (x < (b[0] - a[0]) * (y - a[1]) / (b[1] - a[1]) + a[0])
    exact, counted = of_rings([ring], VIEW), of_mask(inside, VIEW)
    np.testing.assert_allclose(whole(exact), whole(counted), atol=2e-3)
    assert exact.outside == pytest.approx(counted.outside, abs=1e-4)
    np.testing.assert_allclose(whole(of_rings([ring[::-1]], VIEW)), whole(exact), atol=1e-12)


def test_polygons_of_one_region_count_once_where_they_overlap() -> None:
    both = of_rings([box_ring(20, 20, 60, 60), box_ring(20, 20, 60, 60)], VIEW)
    one = of_rings([box_ring(20, 20, 60, 60)], VIEW)
    pixels = np.isclose(whole(one), 1)  # of pixels that are cut, the two shares are added up
    np.testing.assert_allclose(whole(both)[pixels], 1)
    assert pixels.sum() > 40


def test_a_polygon_of_edges_that_all_cross_the_picture_takes_little_memory() -> None:
    n = 10_000
    x, y = np.where(np.arange(n) % 2, 0.0, 224.0), np.linspace(0, 224, n)
    ring = np.concatenate([np.stack([x, y], 1), [[0.0, 224.0]]])
    tracemalloc.start()
    try:
        coverage = of_rings([ring], fit(np.zeros((224, 224, 3), np.uint8), 224, 224))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 0 < coverage.shares.sum() < 224 * 224
    assert peak < 100e6  # all pieces at once take 216 MB


def test_polygons_of_too_many_points_are_refused() -> None:
    ring = np.stack([np.arange(60_000.0), np.arange(60_000.0) % 7], 1)
    with pytest.raises(MediaError, match="polygons of more than 100,000 points for one picture"):
        with_own_names([Shape("a", (ring,)), Shape("b", (ring,))])


def test_a_mask_covers_pixels_by_its_average(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coda_cli.machine.budget.CONVERTED_PIXELS", 1000)  # several strips
    mask = np.random.default_rng(1).random((90, 120)) < 0.4
    columns, rows = np.linspace(10.3, 110.7, 25), np.linspace(-2.2, 95.5, 21)
    expected = np.zeros((20, 24))
    for i in range(20):
        for j in range(24):
            y = (np.minimum(np.arange(1, 91), rows[i + 1]) - np.maximum(np.arange(90), rows[i])).clip(0)
            x = (np.minimum(np.arange(1, 121), columns[j + 1]) - np.maximum(np.arange(120), columns[j])).clip(0)
            expected[i, j] = y @ mask @ x / ((rows[1] - rows[0]) * (columns[1] - columns[0]))
    np.testing.assert_allclose(whole(of_mask(mask, VIEW)), expected, atol=1e-12)
    # A mask of half the size says the same of the blocks that it stands for.
    small = np.random.default_rng(2).random((45, 60)) < 0.4
    large = np.kron(small, np.ones((2, 2))) > 0
    np.testing.assert_allclose(whole(of_mask(small, VIEW)), whole(of_mask(large, VIEW)), atol=1e-12)


def test_what_the_view_does_not_show_is_told() -> None:
    wide = View(np.zeros((8, 8, 3), np.uint8), (25.0, 0.0, 75.0, 50.0), (100, 50))
    left = np.zeros((50, 100), bool)
    left[:, :50] = True
    assert of_mask(left, wide).outside == pytest.approx(0.5)
    assert of_rings([box_ring(0, 0, 20, 50)], wide).outside == 1
    assert of_rings([box_ring(30, 0, 40, 50)], wide).outside == 0


# ---- shapes that do not fit ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "part"),
    [
        (Shape("a", mask=np.ones((90, 60), bool), size=(60, 90)), "is for a picture of 60 x 90 pixels"),
        (Shape("a", mask=np.zeros((90, 120), bool), size=(120, 90)), "is empty"),
        (Shape("a", (box_ring(200, 0, 210, 10),)), "holds nothing of a picture of 120 x 90"),
        (Shape("a", (box_ring(0, 0, 9, 9),), size=(0, 0)), "is for a picture of 0 x 0"),
    ],
)
def test_a_shape_that_does_not_fit_is_refused(shape: Shape, part: str) -> None:
    with pytest.raises(MediaError, match=part):
        laid(shape, VIEW)


def test_a_mask_of_the_same_proportions_fits_whatever_its_size() -> None:
    for size in ((240, 180), (60, 45), (41, 31)):  # the last is 120 x 90 made smaller, sides rounded
        assert laid(Shape("a", mask=np.ones(size[::-1], bool), size=size), VIEW).coverage.outside > 0


@pytest.mark.parametrize(
    "text", ["", "1,2,3", "a,b,c,d", "1,2,3,4,5", "1,2,3,nan", "10%,2,3,4", "=1,2,3,4", "1,2,3,4@5", "1,2,3,4@5-2"]
)
def test_text_that_is_no_box_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        Regions(boxes=(text,))


def test_four_numbers_do_as_a_box() -> None:
    assert Regions(boxes=[(1, 2.5, 30, 40)]).boxes == Regions(boxes=(1, 2.5, 30, 40)).boxes == ("1,2.5,30,40",)
    assert Regions(boxes={Path("x/a.png"): (1, 2, 3, 4), "b": ["dog=1,2,3,4", (5, 6, 7, 8)]}).boxes == {
        "x/a.png": ("1,2,3,4",),
        "b": ("dog=1,2,3,4", "5,6,7,8"),
    }
    for wrong in ({"a": [None]}, {"a": 3}, [(1, 2, 3)]):
        with pytest.raises(UsageError, match="expected left,top,right,bottom"):
            Regions(boxes=wrong)


# ---- sums ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def explanation(tmp_path_factory: pytest.TempPathFactory) -> Explanation:
    path = photo(tmp_path_factory.mktemp("regions") / "a.png", 61, 40)
    net = coda.load("cifar10", dtype=torch.float64)
    return coda.explain(path, net, ["cat", "ship"], precision="float64")


def test_sums_are_those_of_plain_numpy(explanation: Explanation) -> None:
    mask = np.random.default_rng(0).random((40, 61)) < 0.3
    results = explanation.regions(box=(20.25, 3.5, 41.7, 30.1), mask=mask)
    view, d = explanation.view, explanation.decomposition
    (x0, y0, x1, y1), (w, h) = view.box, view.resolution
    for k, result in enumerate(results):
        values = (d.inputs[0] * d.dynamic_weights[0, k]).sum(0).numpy()
        gain, total = values.clip(0), values.clip(0).sum()
        columns, rows = np.linspace(x0, x1, w + 1), np.linspace(y0, y1, h + 1)
        box = np.outer(overlap(3.5, 30.1, rows), overlap(20.25, 41.7, columns))
        across = np.stack([overlap(x, x + 1, columns) for x in range(61)])  # not shares of x, but of view pixels
        down = np.stack([overlap(y, y + 1, rows) for y in range(40)])
        covered = [box, down.T @ mask @ across]
        for region, shares in zip(result.regions, covered, strict=True):
            assert region.positive == pytest.approx((shares * gain).sum(), rel=1e-12)
            assert region.negative == pytest.approx((shares * values.clip(None, 0)).sum(), rel=1e-12)
            assert region.share == pytest.approx((shares * gain).sum() / total, rel=1e-12)
            assert region.area == pytest.approx(shares.mean(), rel=1e-12)
            assert region.ratio == pytest.approx(region.share / region.area)
        rest = 1 - (covered[0] + covered[1]).clip(0, 1)
        assert result.rest.positive == pytest.approx((rest * gain).sum(), rel=1e-12)
        assert result.rest.area == pytest.approx(rest.mean(), rel=1e-12)


def test_regions_and_rest_add_up_to_the_logit_less_constants(explanation: Explanation) -> None:
    for k, result in enumerate(explanation.regions(a=(0, 0, 30.5, 40), b=(30.5, 0, 61, 22.2))):
        d = explanation.decomposition
        parts = (*result.regions, result.rest)
        total = sum(part.positive + part.negative for part in parts) + float(d.constant_shares[0, k].sum())
        assert result.overlap == pytest.approx(0, abs=1e-12)  # they share a border inside a pixel
        assert total == pytest.approx(float(d.logit[0, k]), rel=1e-11)
        assert result.residual == pytest.approx(float(d.logit[0, k]) - total, abs=1e-12)
        assert result.exact
        assert sum(part.area for part in parts) == pytest.approx(1)


def test_a_neuron_s_sums_are_those_of_the_held_network_s_gradient() -> None:
    """The slow definition in float64: the input times the gradient of one activation, times the covered areas."""
    net = coda.load("cifar10", dtype=torch.float64)
    rgb = np.random.default_rng(3).integers(0, 256, (40, 61, 3), np.uint8)
    boxes = (10.5, 3.5, 41.7, 30.1), (30.0, 0.0, 61.0, 20.0)  # they overlap
    asked = coda.Regions(boxes=boxes)
    e = coda.explain(rgb, net, ["cat"], precision="float64", regions=asked, neurons=["2:5", "1:3:sum", "1:top:2"])
    (x0, y0, x1, y1), (w, h) = e.view.box, e.view.resolution
    columns, rows = np.linspace(x0, x1, w + 1), np.linspace(y0, y1, h + 1)
    covered = [np.outer(overlap(b[1], b[3], rows), overlap(b[0], b[2], columns)) for b in boxes]
    covered.append(1 - (covered[0] + covered[1]).clip(0, 1))
    record = e.record()
    maps = []
    for neuron in record.neurons:
        leaf, a = watched(net.model, e.decomposition.inputs, neuron.layer)
        maps_of_channel = a[0, neuron.channel]
        value = maps_of_channel.sum() if neuron.position is None else maps_of_channel[neuron.position]
        (gradient,) = torch.autograd.grad(value, leaf)
        maps.append((leaf * gradient).detach()[0].sum(0).numpy())
    maps += [neuron.pixels.numpy() for neuron in e.inside.channels[0][0].strongest]
    neurons = [*record.neurons, *record.explained[0].channels[0].strongest]
    assert len(neurons) == len(maps) == 4
    for neuron, values in zip(neurons, maps, strict=True):
        found = neuron.regions
        assert found is not None
        for region, shares in zip((*found.regions, found.rest), covered, strict=True):
            assert region.positive == pytest.approx((shares * values.clip(0)).sum(), rel=1e-9)
            assert region.negative == pytest.approx((shares * values.clip(None, 0)).sum(), rel=1e-9)
            assert region.share == pytest.approx((shares * values.clip(0)).sum() / values.clip(0).sum(), rel=1e-9)
        # Regions and rest, less what lies in both regions, are the activation (or share) less its constants.
        whole = neuron.activation if neuron.share is None else neuron.share
        parts = sum(r.positive + r.negative for r in (*found.regions, found.rest)) - found.overlap
        assert whole == pytest.approx(parts + neuron.constants, rel=1e-9)
        assert abs(found.residual) <= found.tolerance < 1e-6 * abs(neuron.positive)
        assert found.exact


def test_regions_of_the_default_network_are_sums_of_its_map() -> None:
    """A hybrid: its positions of 16 x 16 pixels are cut by the border of the box."""
    e = coda.explain(EXAMPLES / "pictures" / "church.png", "imagenet")
    columns = overlap(100, 300, np.linspace(0, 480, 225))
    (result,) = e.regions(box=(100, 0, 300, 480))
    values = e.maps[0].astype(np.float64)
    assert values.shape == (224, 224)
    assert e.decomposition.pixels.shape[2:] == (14, 14)
    assert result.regions[0].positive == pytest.approx((values.clip(0) * columns).sum(), rel=1e-5)
    assert result.rest.positive == pytest.approx((values.clip(0) * (1 - columns)).sum(), rel=1e-5)
    assert result.exact


def test_what_overlapping_regions_count_twice_is_stated(explanation: Explanation) -> None:
    (result, _) = explanation.regions(a=(10, 0, 50, 40), b=(10, 0, 50, 40))
    once = explanation.regions(a=(10, 0, 50, 40))[0]
    first = once.regions[0]
    assert result.regions[0].positive == result.regions[1].positive == first.positive
    assert result.exact
    twice = sum(r.positive + r.negative for r in result.regions) + result.rest.positive + result.rest.negative
    assert twice - result.overlap == pytest.approx(
        first.positive + first.negative + once.rest.positive + once.rest.negative
    )
    assert result.overlap == pytest.approx(first.positive + first.negative, rel=0.1)  # but for pixels that are cut


def test_contributions_at_a_cut_are_spread_as_the_map_is(explanation: Explanation) -> None:
    values = torch.arange(1.0, 7.0, dtype=torch.float64).reshape(1, 1, 2, 3)
    d = replace(
        explanation.decomposition, inputs=torch.ones_like(values), dynamic_weights=values[:, None].repeat(1, 2, 1, 1, 1)
    )
    view = View(np.zeros((8, 12, 3), np.uint8), (0, 0, 12, 8), (12, 8))  # each position stands for 4 x 4 pixels
    coarse = replace(explanation, view=view, decomposition=d)
    (result, _) = coarse.regions(one=(0, 0, 4, 4), half=(4, 0, 6, 4), quarter=(8, 4, 10, 6))
    assert [region.positive for region in result.regions] == pytest.approx([1, 1, 1.5])
    assert result.rest.positive == pytest.approx(21 - 3.5)


def test_what_is_no_region_is_refused(explanation: Explanation) -> None:
    for given in ((1, 2, 3), (5, 5, 5, 9), np.zeros((4, 40, 61)), (0, 0, float("nan"), 5)):
        with pytest.raises(MediaError, match="neither a box"):
            explanation.regions(a=given)


# ---- the library -----------------------------------------------------------------------------------------------------


def test_regions_that_are_asked_for_are_in_the_record_and_drawn(tmp_path: Path) -> None:
    path = photo(tmp_path / "a.png", 64, 64)
    without = coda.explain(path, "cifar10", "cat")
    asked = coda.explain(path, "cifar10", "cat", regions=coda.Regions(boxes=("left=0%,0%,50%,100%",)))
    part = asked.record().explained[0]
    assert part.regions is not None
    assert [r.name for r in part.regions.regions] == ["left"]
    assert part.regions == asked.regions(left=(0, 0, 32, 64))[0]
    assert without.record().explained[0].regions is None
    assert (np.asarray(asked.overlay())[:64] != np.asarray(without.overlay())[:64]).any()


def test_many_pictures_have_regions_each_has_alone(tmp_path: Path) -> None:
    """Boxes by picture, masks from a folder; what is missing for one picture fails for that one alone."""
    names = ("a.png", "b.png", "c.png", "d.png")
    paths = [photo(tmp_path / "in" / name, 64, 64, seed=n) for n, name in enumerate(names)]
    boxes = {paths[0]: (0, 0, 20, 64), "b.png": ["left=0,0,30,64", "low=0,40,64,64"], "c.png": []}
    asked = coda.Regions(boxes=boxes)
    outcomes = list(coda.explain_many([tmp_path / "in"], "cifar10", "cat", regions=asked, output=tmp_path / "out"))
    found = [o.record.explained[0].regions if o.record else None for o in outcomes]
    assert [[r.name for r in f.regions] if f else None for f in found] == [["box 1"], ["left", "low"], [], None]
    assert "d.png: no boxes are given for d.png; write an empty list where it has none" in str(outcomes[3].error)
    alone = coda.explain(paths[1], "cifar10", "cat").regions(left=(0, 0, 30, 64), low=(0, 40, 64, 64))[0]
    assert found[1]
    for one, other in zip((*found[1].regions, found[1].rest), (*alone.regions, alone.rest), strict=True):
        assert (one.positive, one.negative) == pytest.approx((other.positive, other.negative), rel=1e-4)
    again = coda.explain_many([tmp_path / "in"], "cifar10", "cat", regions=asked, output=tmp_path / "out")
    assert [o.skipped for o in again] == [True, True, True, False]
    other = coda.Regions(boxes={**boxes, "b.png": (0, 0, 9, 9)})
    changed = [*coda.explain_many([tmp_path / "in"], "cifar10", "cat", regions=other, output=tmp_path / "out")][1]
    assert not changed.skipped
    assert changed.record
    in_memory = coda.Regions(boxes={"picture-000001": (0, 0, 9, 9), "picture-000000": ()})
    pictures = [np.zeros((64, 64, 3), np.uint8), np.full((64, 64, 3), 99, np.uint8)]
    sums = [
        o.record.explained[0].regions for o in coda.explain_many(pictures, "cifar10", regions=in_memory) if o.record
    ]
    assert [len(s.regions) for s in sums if s] == [0, 1]


def test_settings_tell_regions_apart_and_are_as_before_without_any() -> None:
    net = coda.load("cifar10")
    known = asdict(Request())
    assert known.pop("regions") is None
    before = make_dataclass("Before", list(known))(**known)  # as a request was when it knew no regions
    plain = settings_hash(net, Request())
    assert plain == settings_hash(net, before)
    asked = [settings_hash(net, Request(regions=Regions(boxes=(box,)))) for box in ("0,0,0.5,1", "0,0,0.6,1")]
    assert len({plain, *asked}) == 3


# ---- outlines --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ground", [0, 128, 255])
def test_an_outline_is_seen_on_light_and_dark_and_has_no_colour(ground: int) -> None:
    picture: RGB = np.full((200, 300, 3), ground, np.uint8)
    drawn = outlined(picture, [("dog", [box_ring(50, 60, 250, 180)])], (1, 1))
    assert (picture == ground).all()
    assert (drawn[..., 0] == drawn[..., 1]).all()
    row = drawn[120, 40:60, 0].astype(int)  # across the left border
    assert row.min() < 60
    assert row.max() > 150


def test_names_stand_beside_their_regions_and_never_on_each_other() -> None:
    picture: RGB = np.full((200, 300, 3), 200, np.uint8)
    regions = [(f"region {n}", [box_ring(50, 60, 250, 180)]) for n in range(9)]
    plates = [int((outlined(picture, regions[:n], (1, 1))[..., 2] == PLATE[2]).sum()) for n in (1, 2, 9)]
    assert 0 < plates[0] < plates[1] <= plates[2]
    assert plates[2] < 6 * plates[0]  # there is no room for all


def test_outlines_are_drawn_where_regions_are() -> None:
    picture: RGB = np.full((100, 200, 3), 128, np.uint8)
    drawn = outlined(picture, [("x" * 60, [box_ring(120, 20, 160, 60)])], (2, 1), (100, 0))  # no room for the name
    changed = np.argwhere((drawn != 128).any(2))
    assert changed.min(0).tolist() == pytest.approx([20, 40], abs=3)
    assert changed.max(0).tolist() == pytest.approx([60, 120], abs=3)
