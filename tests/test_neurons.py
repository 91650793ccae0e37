"""Neurons: activations shared out over the input, and logits over channels, held against slow definitions."""

from __future__ import annotations

import pytest
import torch
from oracle import layer_matrix
from small_nets import picture, small_net
from test_everywhere import CLASSES, FAMILIES, made
from textbook import PIECEWISE_LINEAR, WITH_GATES, classifier
from torch import Tensor, nn

from coda_cli.core import abilities
from coda_cli.core.dau_layer import DAUConv2d
from coda_cli.core.decompose import decompose
from coda_cli.core.depth import shares_by_layer
from coda_cli.core.held import held
from coda_cli.core.networks import encode
from coda_cli.core.neurons import ChannelShares, Neuron, NeuronMap, decompose_neurons, strongest_channels

WEIGHTING = torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64)


def colours() -> Tensor:
    return torch.rand(1, 3, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def adds_up(found: NeuronMap | ChannelShares) -> None:
    """The value is what its parts add up to, and float64 rounds little."""
    whole, parts = (found.value, found.pixels) if isinstance(found, NeuronMap) else (found.logit, found.shares)
    off = whole - float(parts.double().sum()) - found.constants
    # pixels are float32
    assert off == pytest.approx(found.residual, abs=1e-6 * float(parts.abs().double().sum()) + 1e-12)
    assert found.exact
    assert abs(found.residual) <= found.tolerance


def watched(model: nn.Module, x: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """What the dynamic linear part sees of an input, and a layer's output: float64, held, with their graph."""
    upper, kept = abilities.above(model), list[Tensor]()
    hook = dict(upper.named_modules())[name].register_forward_hook(lambda *given: kept.append(given[-1]))
    try:
        with held():
            leaf = abilities.to_cut(model, x).detach().clone().requires_grad_()
            upper(leaf)
    finally:
        hook.remove()
    return leaf, kept[0]


def grid(a: Tensor) -> Tensor:
    """[C, h, w] of an output [1, C, h, w] or of tokens [1, N, C] of a square picture."""
    side = round(a.shape[1] ** 0.5)
    return a[0] if a.ndim == 4 else a[0].T.reshape(a.shape[2], side, side)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_layer_s_neurons_equal_the_gradient_of_the_held_network(family: str) -> None:
    """The slow definition: one plain backward pass for each neuron, and nothing but the input times it."""
    model, x = made(family).double(), encode(colours())
    names = [s.name for s in shares_by_layer(model, x, WEIGHTING)]
    names = names[names.index(abilities.cut(model) or "input") + 1 :]
    assert names
    for name in names:
        leaf, a = watched(model, x, name)
        maps = grid(a)
        last = maps.shape[0] - 1, maps.shape[1] - 1, maps.shape[2] - 1
        neurons = [Neuron(0, (0, 0)), Neuron(last[0], last[1:]), Neuron(last[0]), Neuron(0, "sum")]
        strongest = divmod(int(maps[last[0]].detach().argmax()), maps.shape[2])
        values = [maps[0, 0, 0], maps[last], maps[last[0]].max(), maps[0].sum()]
        found = decompose_neurons(model, x, name, neurons)
        assert [n.position for n in found] == [(0, 0), last[1:], strongest, None]
        for neuron, value in zip(found, values, strict=True):
            adds_up(neuron)
            assert neuron.layer == name
            assert neuron.value == pytest.approx(float(value.detach()), rel=1e-9)
            (g,) = torch.autograd.grad(value, leaf, retain_graph=True)
            expected = grid((leaf * g).detach()).sum(0)
            assert float((neuron.pixels - expected).abs().max()) <= 1e-6 * float(expected.abs().max())


@pytest.mark.parametrize("family", FAMILIES)
def test_the_logit_is_its_channels_and_each_channel_is_its_pixels(family: str) -> None:
    """Two steps: the shares of all channels add up to the logit less its constants, and each map to its share."""
    model, x = made(family).double(), encode(colours())
    pixels = decompose(model, x, WEIGHTING[None]).pixels[0, 0]
    for share in shares_by_layer(model, x, WEIGHTING):
        if share.approximate:
            continue
        channels = len(strongest_channels(model, x, share.name, WEIGHTING, 1).shares)
        found = strongest_channels(model, x, share.name, WEIGHTING, channels)
        adds_up(found)
        assert found.logit == pytest.approx(share.logit)
        assert float(found.shares.sum()) == pytest.approx(float(share.pixels.double().sum()), rel=1e-5, abs=1e-7)
        assert found.constants == pytest.approx(share.bias + share.positional)
        assert sorted(n.channel for n in found.strongest) == [*range(channels)]
        sizes = [abs(n.value) for n in found.strongest]
        assert sizes == sorted(sizes, reverse=True)
        for neuron in found.strongest:
            adds_up(neuron)
            assert neuron.value == float(found.shares[neuron.channel])
        # The maps of all channels together are the map of the logit.
        together = torch.stack([n.pixels for n in found.strongest]).double().sum(0)
        assert float((together - pixels).abs().max()) <= 1e-5 * float(pixels.abs().max())


def test_neurons_of_a_coda_net_equal_its_dynamic_weights_by_hand() -> None:
    """No autograd: every layer as a matrix by the paper's formulas, matrices multiplied up to the layer."""
    torch.manual_seed(2)
    model, x = (
        small_net(channels=[2, 3, 5, 4], kernels=[3, 3, 1], strides=[1, 2, 1], ranks=[4, 5, 3]),
        picture(1, 2, 6, 5),
    )
    total, y = torch.eye(x.numel(), dtype=torch.float64), x[0]
    for k, layer in enumerate(model.layers):
        assert isinstance(layer, DAUConv2d)
        matrix, size = layer_matrix(layer, y)
        total = matrix @ total
        y = (matrix @ y.flatten()).reshape(size)
        C, h, w = size
        neurons = [Neuron(c, (p, q)) for c in range(C) for p in range(h) for q in range(w)]
        rows = total.reshape(C * h * w, *x.shape[1:])
        for neuron, value, row in zip(
            decompose_neurons(model, x, f"layers.{k}", neurons), y.flatten(), rows, strict=True
        ):
            assert neuron.value == pytest.approx(float(value), rel=1e-10)
            expected = (row * x[0]).sum(0)
            assert float((neuron.pixels - expected).abs().max()) <= 1e-6 * float(expected.abs().max())
            assert neuron.constants == 0


def plain(model: nn.Module, x: Tensor, cut: str, name: str) -> tuple[Tensor, Tensor]:
    """The outputs of two layers of an ordinary network, with torch's own graph between them."""
    kept: dict[str, Tensor] = {}

    def keep(key: str) -> object:
        def hook(_module: nn.Module, _given: object, y: Tensor) -> Tensor:
            kept[key] = y.clone()  # what follows may change it in place
            return kept[key]

        return hook

    hooks = [module.register_forward_hook(keep(key)) for key, module in model.named_modules() if key in (cut, name)]  # type: ignore[arg-type]
    try:
        model(x)
    finally:
        for hook in hooks:
            hook.remove()
    return kept[cut], kept[name]


@pytest.mark.parametrize(
    ("architecture", "cut", "layer"),
    [("resnet18", "layer2", "layer4"), ("resnet18", "layer1", "layer2.0.conv2"),
     ("vgg11_bn", "features.7", "features.24"),
     ("densenet121", "features.transition1", "features.denseblock3"), ("mobilenet_v2", "features.6", "features.14")],
)  # fmt: skip
def test_neurons_of_an_ordinary_network_equal_torch_s_own_gradients(architecture: str, cut: str, layer: str) -> None:
    """What is piecewise linear is its own gradient: also on a branch of a residual block."""
    model = classifier(architecture)
    x = torch.randn(1, 3, *[PIECEWISE_LINEAR[architecture]] * 2, dtype=torch.float64)
    leaf, a = plain(model, x, cut, layer)
    found = decompose_neurons(model, x, layer, [(1, (0, 0)), (2, "sum")], cut=cut)
    for neuron, value in zip(found, (a[0, 1, 0, 0], a[0, 2].sum()), strict=True):
        adds_up(neuron)
        assert neuron.value == pytest.approx(float(value.detach()))
        (g,) = torch.autograd.grad(value, leaf, retain_graph=True)
        expected = (leaf * g)[0].sum(0).detach()
        assert float((neuron.pixels - expected).abs().max()) <= 1e-6 * float(expected.abs().max())
        assert neuron.constants == pytest.approx(float(value.detach() - expected.sum()), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(
    ("architecture", "layer"), [("swin_t", "features.3"), ("vit_b_32", "encoder.layers.encoder_layer_1")]
)
def test_networks_with_gates_add_up_as_well(architecture: str, layer: str) -> None:
    """Channels come last in the maps of Swin transformers and in tokens."""
    model = classifier(architecture)
    x = torch.randn(1, 3, *[WITH_GATES[architecture]] * 2, dtype=torch.float64)
    weighting = torch.eye(5, dtype=torch.float64)[2]
    if architecture == "swin_t":
        with torch.no_grad():
            a = model.features[:4](x)
        (one,) = decompose_neurons(model, x, layer, [(7, (1, 2))])
        assert one.value == pytest.approx(float(a[0, 1, 2, 7]))
        adds_up(one)
        found = strongest_channels(model, x, layer, weighting, 3)
        assert len(found.shares) == a.shape[3]
        adds_up(found)
    else:  # the class token stands beside the others; there is no grid, and only channels can be asked for
        one = decompose_neurons(model, x, layer, [(7, "sum")])[0]
        found = strongest_channels(model, x, layer, weighting, 3)
        assert len(found.shares) == 768
        adds_up(found)
    adds_up(one)
    for neuron in found.strongest:
        adds_up(neuron)


def test_a_map_as_high_as_it_has_channels_is_not_turned() -> None:
    """[C, h, w] = [3, 3, 5] looks like a map of a Swin transformer, whose channels come last."""
    model, x = small_net(channels=[2, 3, 4], strides=[2, 1]), picture(1, 2, 6, 10)
    (neuron,) = decompose_neurons(model, x, "layers.0", [(1, (2, 4))])
    with torch.no_grad():
        assert neuron.value == pytest.approx(float(model.layers[0](x)[0, 1, 2, 4]))
    assert len(strongest_channels(model, x, "layers.0", torch.ones(4), 1).shares) == 3
    assert shares_by_layer(model, x, torch.ones(4))[1].pixels.shape == (3, 5)


def test_a_layer_is_known_by_number_and_the_cut_itself_has_neurons() -> None:
    model, x = made("hybrid").double(), encode(colours())
    named = decompose_neurons(model, x, "layers.1", [3])[0]
    (numbered,) = decompose_neurons(model, x, 3, [3])
    assert numbered.layer == "layers.1"
    assert torch.equal(numbered.pixels, named.pixels)
    (own,) = decompose_neurons(model, x, "layer1", [(5, (2, 3))])
    assert own.value == pytest.approx(float(own.pixels[2, 3]))
    assert int((own.pixels != 0).sum()) <= 1


def test_a_layer_whose_name_is_a_number_is_named_with_a_sign() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.ReLU(), torch.nn.Conv2d(4, 2, 1)).double()
    model = torch.nn.Sequential(*model, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()).eval()
    x = torch.rand(1, 3, 4, 4, dtype=torch.float64)
    (counted,) = decompose_neurons(model, x, "2", [1])
    (named,) = decompose_neurons(model, x, "=2", [1])
    assert (counted.layer, named.layer) == ("1", "2")


@pytest.mark.parametrize(
    ("family", "layer", "neuron", "message"),
    [
        ("coda", "layers.0", 4, "no channel 4; layers.0 has 4 channels, from 0 on, at 6 x 6 positions"),
        ("coda", "layers.0", -1, "no channel -1; layers.0 has 4 channels"),
        ("coda", 1, (0, (6, 0)), "no position 6,0; layers.0 has 6 x 6 positions"),
        ("coda", 1, (0, (0, -1)), "no position 0,-1"),
        ("coda", "layer.0", 0, "no such layer that gives maps; there are layers.0, layers.1"),
        ("coda", 3, 0, r"there are 0 \(input\), 1 \(layers.0\), 2 \(layers.1\)"),
        ("hybrid", "input", 0, "input lies below layer1, the cut"),
        (
            "hybrid",
            "conv1",
            0,
            "conv1 lies below layer1, the cut; activations are shared out over the output of the cut",
        ),
    ],
)
def test_what_there_is_not_is_refused(family: str, layer: str | int, neuron: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decompose_neurons(made(family), encode(colours()).float(), layer, [neuron])  # type: ignore[list-item]


def test_shares_need_a_layer_that_the_whole_logit_passes_through() -> None:
    model, x = made("resnet, basic"), encode(colours()).float()
    branch = "backbone.layer1.0.conv1"
    assert decompose_neurons(model, x, branch, [0])[0].exact
    with pytest.raises(ValueError, match="no such layer that the whole logit passes through"):
        strongest_channels(model, x, branch, torch.ones(CLASSES))
    with pytest.raises(ValueError, match=r"backbone.layer1.0 has 64 channels; 65 were asked for"):
        strongest_channels(model, x, "backbone.layer1.0", torch.ones(CLASSES), 65)


def test_a_layer_is_found_without_what_coda_puts_around_the_authors_network() -> None:
    model, x = made("resnet, basic"), encode(colours()).float()
    (short,), (long,) = (decompose_neurons(model, x, name, [0]) for name in ("layer1.0", "backbone.layer1.0"))
    assert (short.layer, short.value) == (long.layer, long.value)
    found = strongest_channels(model, x, "layer1.0", WEIGHTING.float(), 1)
    assert found.layer == "backbone.layer1.0"
    with pytest.raises(ValueError, match="no such layer"):  # an end of several names is no name
        decompose_neurons(model, x, "0.conv1", [0])


@pytest.mark.parametrize("family", FAMILIES)
def test_they_can_be_asked_for_in_inference_mode(family: str) -> None:
    model, x = made(family), encode(colours()).float()
    name = [s.name for s in shares_by_layer(model, x, WEIGHTING.float())][-1]
    with torch.inference_mode():
        y = x.clone()
        found = (
            decompose_neurons(model, y, name, [1])[0],
            *strongest_channels(model, y, name, WEIGHTING.float(), 2).strongest,
        )
    for neuron in found:
        assert neuron.exact
        assert not neuron.pixels.is_inference()
