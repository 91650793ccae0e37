"""The networks: the published configurations are what their papers' tables say, and metadata builds them."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from coda_cli.checkpoints.published import PUBLISHED, PUBLISHED_BIAS, published_name
from coda_cli.core.blur import Blur
from coda_cli.core.dau_layer import DAUConv2d
from coda_cli.core.networks import CodaNet, build, classify, coda_net, encode, forward
from coda_cli.errors import MediaError
from coda_cli.machine.memory import out_of_memory

pytestmark = pytest.mark.filterwarnings("error")

# Name: norm, temperature, ranks, number of parameters (CoDA-Nets, experiments/*/final/experiment_parameters.py).
S_RANKS = [32] * 2 + [64] * 7
TABLE: dict[str, tuple[str, float, list[int], int]] = {
    "9L-S-CoDA-SQ-10": ("SQ", 10, S_RANKS, 7_782_816),
    "9L-S-CoDA-SQ-50": ("SQ", 50, S_RANKS, 7_782_816),
    "9L-S-CoDA-SQ-100": ("SQ", 100, S_RANKS, 7_782_816),
    "9L-S-CoDA-SQ-500": ("SQ", 500, S_RANKS, 7_782_816),
    "9L-S-CoDA-SQ-1000": ("SQ", 1000, S_RANKS, 7_782_816),
    "9L-S-CoDA-SQ-5000": ("SQ", 5000, S_RANKS, 7_782_816),
    "9L-S-CoDA-SQ-10000": ("SQ", 10000, S_RANKS, 7_782_816),
    "9L-S-CoDA-L2-1000": ("L2", 1000, S_RANKS, 7_782_816),
    "9L-S-CoDA-SQ-rank-4": ("SQ", 1000, [4] * 2 + [8] * 7, 1_076_984),
    "9L-S-CoDA-SQ-rank-8": ("SQ", 1000, [8] * 2 + [16] * 7, 2_034_960),
    "9L-S-CoDA-SQ-rank-16": ("SQ", 1000, [16] * 2 + [32] * 7, 3_950_912),
    "9L-S-CoDA-SQ-rank-144": ("SQ", 1000, [144] * 2 + [288] * 7, 34_606_144),
    "9L-S-CoDA-SQ-lambda-0.0": ("SQ", 64, S_RANKS, 7_782_816),
    "9L-S-CoDA-SQ-lambda-0.1": ("SQ", 64, S_RANKS, 7_782_816),
    "9L-S-CoDA-SQ-lambda-0.25": ("SQ", 64, S_RANKS, 7_782_816),
    "9L-S-CoDA-SQ-lambda-0.5": ("SQ", 64, S_RANKS, 7_782_816),
    "9L-S-CoDA-SQ-lambda-1.0": ("SQ", 64, S_RANKS, 7_782_816),
    "9L-L-CoDA-SQ-100000": ("SQ", 100000, [64] * 3 + [128] * 3 + [256] * 3, 47_517_408),
}

# Layer by layer: C, O, kernel, stride, padding, rank, side of the output, parameters.
S_LAYERS = [
    (6, 16, 3, 1, 1, 32, 32, 30_240), (16, 16, 3, 1, 1, 32, 32, 80_640), (16, 32, 3, 2, 1, 64, 16, 308_736),
    (32, 32, 3, 1, 1, 64, 16, 617_472), (32, 32, 3, 1, 1, 64, 16, 617_472), (32, 64, 3, 2, 1, 64, 8, 1_216_512),
    (64, 64, 3, 1, 1, 64, 8, 2_433_024), (64, 64, 3, 1, 1, 64, 8, 2_433_024), (64, 10, 1, 1, 0, 64, 8, 45_696),
]  # fmt: skip
L_LAYERS = [
    (6, 16, 7, 3, 3, 64, 80, 324_576), (16, 32, 3, 1, 1, 64, 80, 308_736), (32, 32, 3, 1, 1, 64, 80, 617_472),
    (32, 64, 3, 2, 1, 128, 40, 2_414_592), (64, 64, 3, 1, 1, 128, 40, 4_829_184), (64, 64, 3, 1, 1, 128, 40, 4_829_184),
    (64, 64, 3, 2, 1, 256, 20, 9_621_504), (64, 64, 3, 1, 1, 256, 20, 9_621_504), (64, 100, 3, 1, 1, 256, 20,
    14_950_656),
]  # fmt: skip


def without_memory(arguments: dict[str, Any]) -> CodaNet:
    """The network on the meta device: shapes without numbers."""
    with torch.device("meta"):
        return coda_net(**arguments)


def count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


# ---- antialiased strides -------------------------------------------------------------------------------------------


def test_a_blur_stands_before_every_strided_layer_and_nowhere_else() -> None:
    table = {
        "channels": [6, 4, 5, 3, 2],
        "kernels": [3, 3, 4, 1],
        "strides": [2, 1, 2, 1],
        "ranks": [2] * 4,
        "norm": "SQ",
        "temperature": 1.0,
    }
    plain, antialiased = coda_net(**table), coda_net(**table, antialias=True)
    assert [type(layer).__name__ for layer in plain.layers] == ["DAUConv2d"] * 4
    kinds = [type(layer).__name__ for layer in antialiased.layers]
    assert kinds == ["Blur", "DAUConv2d", "DAUConv2d", "Blur", "DAUConv2d", "DAUConv2d"]
    assert count(antialiased) == count(plain)
    assert not list(antialiased.buffers()), "a fixed filter is neither stored nor left empty by a loader"


def test_a_blur_removes_the_highest_frequency_and_keeps_the_mean() -> None:
    stripes = torch.tensor([0.0, 1.0]).repeat(8).expand(1, 1, 16, 16).contiguous()
    for x in (stripes, stripes.mT.contiguous()):
        inner = Blur(1)(x)[..., 1:-1, 1:-1]
        torch.testing.assert_close(inner, torch.full_like(inner, 0.5))
    with torch.autocast("cpu", torch.bfloat16):
        assert Blur(1)(stripes).dtype == torch.float32
    flat = Blur(3)(torch.ones(2, 3, 5, 5))
    torch.testing.assert_close(flat[..., 1:-1, 1:-1], torch.ones(2, 3, 3, 3))


# ---- the published configurations -----------------------------------------------------------------------------------


def test_the_published_configurations_are_these() -> None:
    assert set(PUBLISHED) == set(TABLE)


@pytest.mark.parametrize("name", TABLE)
def test_a_published_configuration_is_what_its_table_says(name: str) -> None:
    norm, temperature, ranks, parameters = TABLE[name]
    model = without_memory(PUBLISHED[name])
    layers = [layer for layer in model.layers if isinstance(layer, DAUConv2d)]
    assert count(model) == parameters
    assert [layer.rank for layer in layers] == ranks
    assert {layer.norm for layer in layers} == {norm}
    assert {layer.groups for layer in layers} == {1}
    assert model.temperature == temperature
    assert model.bias == PUBLISHED_BIAS


@pytest.mark.parametrize(
    ("name", "side", "table"), [("9L-S-CoDA-SQ-1000", 32, S_LAYERS), ("9L-L-CoDA-SQ-100000", 240, L_LAYERS)]
)
def test_a_published_network_has_the_layers_of_its_table(name: str, side: int, table: list[tuple[int, ...]]) -> None:
    model = without_memory(PUBLISHED[name])
    y, rows = torch.empty(1, 6, side, side, device="meta"), []
    for layer in model.layers:
        assert isinstance(layer, DAUConv2d)
        y = layer(y)
        assert y.shape[2] == y.shape[3]
        rows.append(
            (
                layer.in_channels,
                layer.out_channels,
                layer.kernel_size,
                layer.stride,
                layer.padding,
                layer.rank,
                y.shape[2],
                count(layer),
            )
        )
    assert rows == table


def test_the_published_bias_is_the_logit_of_one_tenth() -> None:
    assert 1 / (1 + math.exp(-PUBLISHED_BIAS)) == pytest.approx(0.1, rel=1e-14)


@pytest.mark.parametrize("name", TABLE)
def test_a_configuration_survives_json(name: str) -> None:
    assert json.loads(json.dumps(PUBLISHED[name])) == PUBLISHED[name]


# ---- names in paths -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.parametrize(
    "path",
    [
        "{}",
        "/data/CIFAR10/final/{}/model_epoch_200.pkl",
        "C:\\nets\\{}\\last_model_epoch_60.pkl",
        "{}.pkl",
        "weights/{}.safetensors",
        "the network {} (epoch 60)",
        "{0}/{0}.pkl",
    ],
)
def test_a_published_name_is_found_in_a_path(name: str, path: str) -> None:
    assert published_name(path.format(name)) == name


@pytest.mark.parametrize(
    "path",
    ["", "model_epoch_200.pkl", "9L-S-CoDA-SQ", "CIFAR10/final/9L-S-CoDA-SQ-/model.pkl",
     "9L-S-CoDA-SQ-100000/model.pkl",
     "19L-S-CoDA-SQ-10/model.pkl", "9L-S-CoDA-SQ-10-tuned/model.pkl", "my-9L-S-CoDA-SQ-10/model.pkl",
     "9L-S-CoDA-SQ-rank-1/model.pkl", "9L-S-CoDA-SQ-rank-44/model.pkl", "9L-S-CoDA-SQ-lambda-0.15/model.pkl",
     "9L-S-CoDA-SQ-lambda-0.2/model.pkl", "9L-S-CoDA-SQ-10.5/model.pkl", "9L-M2-B2/model.pkl", "9l-s-coda-sq-10"],
)  # fmt: skip
def test_no_published_name_is_found_where_there_is_none(path: str) -> None:
    assert published_name(path) is None


def test_two_published_names_in_one_path_are_none() -> None:
    assert published_name("9L-S-CoDA-SQ-10/copied-to/9L-S-CoDA-SQ-50/model.pkl") is None


# ---- building from metadata -----------------------------------------------------------------------------------------

ARGUMENTS: dict[str, Any] = {
    "channels": [6, 3, 4],
    "kernels": [3, 1],
    "strides": [2, 1],
    "ranks": [4, 5],
    "norm": "L2",
    "temperature": 10.0,
}


def test_build_makes_the_network_that_the_arguments_describe() -> None:
    model = build("coda_net", ARGUMENTS | {"paddings": [0, 2], "groups": [2, 1], "bias": 0.5})
    assert isinstance(model, CodaNet)
    layers = [layer for layer in model.layers if isinstance(layer, DAUConv2d)]
    assert [(a.out_channels, b.in_channels) for a, b in pairwise(layers)] == [(3, 3)]
    rows = [(m.kernel_size, m.stride, m.padding, m.rank, m.groups, m.norm) for m in layers]
    assert rows == [(3, 2, 0, 4, 2, "L2"), (1, 1, 2, 5, 1, "L2")]
    assert (model.temperature, model.bias) == (10.0, 0.5)


def test_build_takes_the_usual_padding_groups_and_bias_where_none_are_given() -> None:
    model = build("coda_net", ARGUMENTS | {"kernels": [7, 3]})
    assert isinstance(model, CodaNet)
    layers = [layer for layer in model.layers if isinstance(layer, DAUConv2d)]
    assert [(m.padding, m.groups) for m in layers] == [(3, 1), (1, 1)]
    assert model.bias == PUBLISHED_BIAS


def test_build_refuses_an_unknown_architecture_and_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'resnet'.*coda_net"):
        build("resnet", ARGUMENTS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth": 3}, "depth"),
        ({"kernels": None}, "kernels: expected 1 to"),
        ({"channels": [6, 4]}, "2 kernels need 3 channels"),
        ({"strides": [1]}, "strides"),
        ({"ranks": [4, 4, 4]}, "ranks"),
        ({"paddings": []}, "paddings"),
        ({"groups": [1]}, "groups"),
        ({"norm": "L1"}, "L1"),
        ({"groups": [3, 1]}, "groups=3"),
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": float("inf")}, "temperature"),
        ({"bias": float("nan")}, "bias"),
    ],
)
def test_build_refuses_arguments_that_do_not_fit(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build("coda_net", ARGUMENTS | changes)


@pytest.mark.parametrize("missing", list(ARGUMENTS))
def test_build_refuses_arguments_that_are_not_complete(missing: str) -> None:
    with pytest.raises(ValueError, match=missing):
        build("coda_net", {name: value for name, value in ARGUMENTS.items() if name != missing})


@pytest.mark.parametrize(
    "changes",
    [
        {"ranks": [0, 5]},
        {"ranks": [-4, 5]},
        {"groups": [0, 1]},
        {"kernels": [0, 1]},
        {"strides": [0, 1]},
        {"channels": [6, 0, 4]},
        {"channels": [6, -3, 4]},
        {"paddings": [-1, 0]},
    ],
    ids=str,
)
def test_build_refuses_numbers_that_make_no_layer(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"rank|groups|kernel|stride|channels|outputs|padding"):
        build("coda_net", ARGUMENTS | changes)


# ---- what a network computes ----------------------------------------------------------------------------------------


def test_a_logit_is_the_sum_over_positions_by_the_temperature_plus_the_bias() -> None:
    torch.manual_seed(0)
    model, x = coda_net(**ARGUMENTS, bias=0.25), torch.rand(2, 6, 9, 7)
    y: Tensor = x
    for layer in model.layers:
        y = layer(y)
    expected = torch.stack([y[:, :, i, j] for i in range(5) for j in range(4)]).sum(0) / 10 + 0.25
    assert y.shape == (2, 4, 5, 4)
    torch.testing.assert_close(model(x), expected)


def test_logits_grow_with_the_area_of_the_picture() -> None:
    torch.manual_seed(0)
    model, x = coda_net(**ARGUMENTS | {"kernels": [1, 1], "strides": [1, 1], "bias": 1.0}), torch.rand(1, 6, 4, 4)
    once, twice = model(x), model(torch.cat([x, x], 3))
    assert (once - 1).abs().min() > 1e-3
    torch.testing.assert_close(twice - 1, 2 * (once - 1))


def test_a_networks_state_is_its_layers_parameters() -> None:
    names = {f"layers.{i}.{p}" for i in range(2) for p in ("V", "U", "b")}
    assert set(coda_net(**ARGUMENTS).state_dict()) == names


# ---- the input encoding ---------------------------------------------------------------------------------------------


def test_encoding_is_the_colours_then_their_complements() -> None:
    rgb = torch.tensor([[0, 51, 255], [102, 204, 153]], dtype=torch.uint8)[:, :, None, None]  # two pictures of a pixel
    expected = torch.tensor([[0.0, 0.2, 1.0, 1.0, 0.8, 0.0], [0.4, 0.8, 0.6, 0.6, 0.2, 0.4]])
    x = encode(rgb)
    assert (x.dtype, x.shape) == (torch.float32, (2, 6, 1, 1))
    torch.testing.assert_close(x[:, :, 0, 0], expected)


def test_encoding_keeps_every_pixel_where_it_was() -> None:
    rgb = torch.arange(3 * 5 * 4, dtype=torch.uint8).reshape(1, 3, 5, 4)
    before = rgb.clone()
    x = encode(rgb)
    torch.testing.assert_close(x[:, :3] * 255, rgb.float())
    torch.testing.assert_close(x[:, 3:], 1 - x[:, :3])
    assert torch.equal(rgb, before)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_encoding_takes_floats_as_they_are(dtype: torch.dtype) -> None:
    rgb = torch.rand(2, 3, 4, 5, dtype=torch.float32).to(dtype)
    x = encode(rgb)
    assert x.dtype == dtype
    assert torch.equal(x, torch.cat([rgb, 1 - rgb], 1))


def test_every_value_of_a_byte_is_encoded_within_zero_and_one() -> None:
    x = encode(torch.arange(256, dtype=torch.uint8).expand(1, 3, 1, 256))
    assert (float(x.min()), float(x.max())) == (0.0, 1.0)
    assert len(x[0, 0].unique()) == 256


class Scarce(torch.nn.Module):
    """The mean colours of pictures, with memory for two at a time; ``asked`` says how many it was asked for."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most, self.asked = most, list[int]()

    def forward(self, x: Tensor) -> Tensor:
        self.asked.append(len(x))
        if len(x) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return x.mean((2, 3))


def test_batches_that_memory_does_not_hold_are_halved_said_once_and_remembered(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coda_cli.machine.batches.parts", lambda x: (x,))  # no lanes
    pictures, model = torch.randint(256, (10, 3, 6, 4), dtype=torch.uint8), Scarce(2)
    logits = classify(model, pictures, batch=5)
    torch.testing.assert_close(logits, encode(pictures).mean((2, 3)), rtol=0, atol=1e-6)
    assert model.asked == [5, 3, 2, 1, 2, 2, 1, 2]  # the second five are not tried at once again
    assert [record.getMessage() for record in caplog.records] == [
        "memory ran out with 5 pictures of 4 x 6 at once; going on with 3",
        "memory ran out with 3 pictures of 4 x 6 at once; going on with 2",
    ]


def test_a_single_picture_that_memory_does_not_hold_is_an_error() -> None:
    with pytest.raises(MediaError, match="not enough memory for 4 x 4 pixels"):
        forward(Scarce(0), torch.rand(3, 6, 4, 4))


@pytest.mark.parametrize(
    ("said", "memory"),
    [
        ("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried to", True),  # Linux
        ("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes.", True),  # Windows
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", True),
        ("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`", True),
        ("GET was unable to find an engine to execute this computation", True),
        ("OpenCV(5.0.0) alloc.cpp:73: error: (-4:Insufficient memory) Failed to allocate 9 bytes", True),
        ("could not create a primitive", True),  # oneDNN
        ("could not create a primitive descriptor for a convolution forward propagation primitive", False),
        ("Kernel size can't be greater than actual input size", False),
    ],
)
def test_memory_that_runs_out_is_known_by_the_words_of_every_platform(said: str, memory: bool) -> None:
    assert out_of_memory(RuntimeError(said)) == memory
