"""Float32 stays float32 on GPUs: the switches that decide it, which exist without one."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from coda_cli.core.decompose import decompose
from coda_cli.core.depth import shares_by_layer
from coda_cli.core.networks import forward
from coda_cli.machine.precision import denormals_flushed, true_float32
from coda_cli.study import by_name

SWITCHES = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)  # type: ignore[attr-defined]


def state() -> list[str]:
    return [switch.fp32_precision for switch in SWITCHES]


@pytest.fixture(autouse=True)
def tf32(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine with a GPU on which somebody has asked for TF32."""
    before = state()
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    for switch in SWITCHES:
        switch.fp32_precision = "tf32"
    yield
    for switch, value in zip(SWITCHES, before, strict=True):
        switch.fp32_precision = value


def test_the_switches_are_set_back_when_the_last_one_leaves() -> None:
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with true_float32():
            inside.set()
            leave.wait()

    thread = threading.Thread(target=other)
    with true_float32(), true_float32():
        assert state() == ["ieee", "ieee"]
        thread.start()
        inside.wait()
    assert state() == ["ieee", "ieee"]
    leave.set()
    thread.join()
    assert state() == ["tf32", "tf32"]


def keeps_denormals() -> bool:
    return bool((torch.full((4,), 1e-39) * 0.5).view(torch.int32).all())


def test_denormals_are_0_inside_a_block_and_what_they_were_behind_it() -> None:
    assert keeps_denormals()
    with denormals_flushed():
        with denormals_flushed():
            assert not keeps_denormals()
        assert not keeps_denormals()
    assert keeps_denormals()


class Seen(nn.Module):
    """A network that remembers what it was computed with."""

    bias = 0.0

    def forward(self, x: Tensor) -> Tensor:
        self.state = state()
        return x.mean((2, 3))


class Broken(Seen):
    def forward(self, x: Tensor) -> Tensor:
        super().forward(x)
        raise RuntimeError("broken")


def test_explaining_is_computed_in_float32_and_leaves_everything_as_it_was() -> None:
    model, x = Seen(), torch.rand(2, 6, 4, 4)
    assert decompose(model, x).exact.all()
    assert model.state == ["ieee", "ieee"]
    model.state = []
    shares_by_layer(model, x[:1], torch.eye(6)[0])
    assert model.state == ["ieee", "ieee"]
    broken = Broken()
    with pytest.raises(RuntimeError, match="broken"):
        decompose(broken, x)
    assert broken.state == ["ieee", "ieee"]
    assert state() == ["tf32", "tf32"]


def test_forward_passes_and_methods_are_computed_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Seen()
    forward(model, torch.zeros(1, 6, 4, 4))
    assert model.state == ["ieee", "ieee"]

    def gradient(model: nn.Module, x: Tensor, _: object) -> Tensor:
        return model(x)

    monkeypatch.setitem(by_name.METHODS, "gradient", by_name.KnownMethod(gradient))
    model.state = []
    by_name.method_of("gradient")(model, torch.zeros(1, 6, 4, 4), [0])
    assert model.state == ["ieee", "ieee"]
    assert state() == ["tf32", "tf32"]
