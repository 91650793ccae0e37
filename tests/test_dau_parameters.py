"""The parameters of the DAU layer: which there are, how they are drawn, what is refused."""

from __future__ import annotations

import pytest
from torch import nn

from coda_cli.core.dau_layer import DAUConv2d

pytestmark = [pytest.mark.filterwarnings("error"), pytest.mark.usefixtures("seeded", "both_ways")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"norm": "L1"}, "'L1'"), ({"norm": "sq"}, "SQ, L2"), ({"groups": 3}, "groups=3"), ({"groups": 4}, "groups=4")],
)
def test_arguments_that_make_no_layer_are_refused(arguments: dict[str, object], message: str) -> None:
    # Rank 4 is no multiple of 3; 3 outputs of 9 entries are no multiple of 4.
    with pytest.raises(ValueError, match=message):
        DAUConv2d(1, 3, 3, 4, **arguments)  # type: ignore[arg-type]


def test_a_layer_says_what_it_is() -> None:
    text = repr(DAUConv2d(2, 3, 7, 4, stride=2, norm="L2"))
    assert text == "DAUConv2d(2, 3, kernel_size=7, rank=4, stride=2, padding=3, norm=L2, groups=1)"


@pytest.mark.parametrize(("groups", "bias"), [(1, True), (2, True), (1, False)])
def test_a_layer_holds_its_parameters_and_nothing_else(groups: int, bias: bool) -> None:
    layer = DAUConv2d(2, 3, 3, 4, groups=groups, bias=bias)
    layer.norm_factors()
    shapes = {"V": (4, 2, 3, 3), "U": (3 * 4 // groups, 2, 3, 3)} | ({"b": (3, 2, 3, 3)} if bias else {})
    assert {name: tuple(value.shape) for name, value in layer.state_dict().items()} == shapes


def test_fresh_parameters_are_drawn_as_the_original_s_convolutions_draw_theirs() -> None:
    layer = DAUConv2d(6, 16, 3, 32, groups=2)
    first, second = nn.Conv2d(6, 32, 3), nn.Conv2d(32, 16 * 54, 1, groups=2)
    assert second.bias is not None
    assert layer.b is not None
    for pair in ((layer.V, first.weight), (layer.U, second.weight), (layer.b, second.bias)):
        ours, theirs = (parameter.detach() for parameter in pair)
        assert ours.numel() == theirs.numel()
        assert float(ours.abs().max()) == pytest.approx(float(theirs.abs().max()), rel=0.02)
        assert float(ours.std()) == pytest.approx(float(theirs.std()), rel=0.1)
        assert abs(float(ours.mean())) < 0.1 * float(ours.abs().max())
