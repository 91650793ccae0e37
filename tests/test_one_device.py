"""On a GPU no tensor meets one of another device; seen without a GPU by fake tensors, which have no numbers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from coda_cli.checkpoints.manifest import known
from coda_cli.core.dau_kernels import NormFactors, pull_back
from coda_cli.core.dau_layer import DAUConv2d
from coda_cli.core.gradients import held_pass, sums_of_products
from coda_cli.core.networks import build, encode
from coda_cli.machine import budget
from coda_cli.study import methods

pytestmark = pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")  # a key of a cache
SIZE = 64
NAMES = [*{entry.checkpoint.architecture: name for name, entry in known().items()}.values(), "imagenette"]  # with blurs


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every tensor is fake, and no test depends on numbers that it does not have."""
    monkeypatch.setattr(Tensor, "nonzero", lambda x: torch.arange(len(x), device=x.device)[:, None])
    with FakeTensorMode(shape_env=ShapeEnv(allow_dynamic_output_shape_ops=True, allow_scalar_outputs=True)):
        yield


def test_fake_tensors_see_a_planted_mixture() -> None:
    with pytest.raises(RuntimeError, match="device"):
        torch.zeros(3, device="cuda") + torch.zeros(3)


@pytest.mark.parametrize("name", NAMES)
def test_a_network_on_a_gpu_is_there_altogether(name: str) -> None:
    checkpoint = known()[name].checkpoint
    size = checkpoint.preprocessing.crop or SIZE
    with torch.device("cuda"):
        model = build(checkpoint.architecture, checkpoint.arguments).eval().requires_grad_(False)
    held = held_pass(model, encode(torch.zeros(2, 3, size, size, dtype=torch.uint8, device="cuda")))
    values = [constant.value for constant in held.reported.constants]
    assert {t.device for t in (held.x, held.logits, *values)} == {torch.device("cuda", 0)}
    assert held.logits.shape == (2, len(checkpoint.classes))


@pytest.mark.parametrize("product", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("rank", "groups"), [(8, 1), (32, 1), (64, 2), (256, 1)])
def test_the_ways_through_a_layer_and_back_are_on_the_gpu(rank: int, groups: int, product: torch.dtype) -> None:
    with torch.device("cuda"):
        layer = DAUConv2d(16, 32, 3, rank, groups=groups).requires_grad_(False)
        m = min(rank, 16 * 9)
        factors = NormFactors(torch.zeros(32, m, rank), torch.zeros(32, m), torch.zeros(32))
        x = torch.zeros(4, 16, 20, 20)
    layer.norm_factors = lambda: factors  # type: ignore[method-assign]  # made of numbers, by LAPACK on the CPU
    y, held_map = layer.as_linear_map(x, product)
    for count in (1, 2, 10):
        back = pull_back(torch.zeros(count, *y.shape, device="cuda"), held_map)
        assert (back.device, back.shape) == (x.device, (count, *x.shape))


def test_few_copies_at_a_time_where_the_graph_of_a_layer_keeps_much(monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.device("cuda"):
        model = torch.nn.Sequential(DAUConv2d(6, 4, 3, 8)).requires_grad_(False)
        x = torch.zeros(1, 6, 16, 16)
    kept_of_one = 4 * 8 * 16 * 16
    for copies in (1, 3):  # 32 times what a CPU may keep
        monkeypatch.setattr(budget, "GRAPH_NUMBERS", copies * kept_of_one // 32)
        assert methods._copies(model, x) == copies


def test_the_sums_of_the_proof_come_to_the_cpu() -> None:
    sums = sums_of_products(torch.zeros(4, 6, 8, 8, device="cuda"), torch.zeros(4, 3, 6, 8, 8, device="cuda"))
    assert (sums.device.type, sums.shape) == ("cpu", (4, 3, 2))
