"""A part of the batch for every core: the same results, modes of the caller, errors that arrive, threads as before."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from program import PATIENCE
from torch import Tensor, nn

from coda_cli.cli.told import beside_others
from coda_cli.core.bcos_nets import bcos_chain
from coda_cli.core.decompose import decompose
from coda_cli.core.networks import classify, coda_net, forward
from coda_cli.machine import budget, lanes


@pytest.fixture(autouse=True)
def _four_threads() -> Iterator[None]:
    usual = torch.get_num_threads()
    torch.set_num_threads(4)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(usual)


def networks() -> list[nn.Module]:
    coda = coda_net(channels=[6, 3, 4], kernels=[3, 3], strides=[1, 2], ranks=[4, 5], norm="SQ", temperature=3.0)
    bcos = bcos_chain(
        channels=[6, 4, 4], kernels=[3, 3], strides=[1, 2], max_out=2, b=2.0, scale=0.5, temperature=2.0, bias=-1.0
    )
    return [coda.double(), bcos.double().eval()]


@pytest.mark.parametrize("batch", [1, 2, 3, 4, 5, 9])
def test_parts_are_the_batch_in_order(batch: int) -> None:
    x = torch.arange(batch * 6.0).view(batch, 6)
    divided = lanes.parts(x)
    assert len(divided) == (4 if batch >= 4 else 1)
    assert max(map(len, divided)) - min(map(len, divided)) <= 1
    assert torch.equal(torch.cat(divided), x)


@pytest.mark.parametrize("model", networks(), ids=["coda", "bcos"])
@pytest.mark.parametrize("batch", [4, 5, 9])
def test_lanes_change_nothing(model: nn.Module, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.rand(batch, 6, 8, 7, dtype=torch.float64)
    targets = torch.randint(4, (batch, 2))
    threads: list[str] = []
    handle = model.register_forward_hook(lambda *_: threads.append(threading.current_thread().name))
    divided, logits = decompose(model, x, targets), forward(model, x)
    handle.remove()
    assert len(threads) == 2 * 4
    assert threading.current_thread().name not in threads
    monkeypatch.setattr("coda_cli.core.decompose.parts", lambda x: (x,))
    whole = decompose(model, x, targets)
    assert divided.exact.all()
    assert torch.equal(divided.weights, whole.weights)
    torch.testing.assert_close(divided.contributions, whole.contributions, rtol=0, atol=1e-14)
    torch.testing.assert_close(divided.logits, whole.logits, rtol=0, atol=1e-14)
    torch.testing.assert_close(logits, whole.logits, rtol=0, atol=1e-14)


def test_a_function_chooses_targets_from_the_whole_batch() -> None:
    seen: list[tuple[int, ...]] = []

    def best(logits: Tensor) -> Tensor:
        seen.append(tuple(logits.shape))
        return logits.argmax(1, keepdim=True)

    decompose(networks()[0], torch.rand(6, 6, 8, 7, dtype=torch.float64), best)
    assert seen == [(6, 4)]


def test_the_modes_of_the_caller_hold() -> None:
    def modes(_: int) -> tuple[bool, bool, bool, torch.dtype]:
        return (
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch.is_autocast_enabled("cpu"),
            torch.get_autocast_dtype("cpu"),
        )

    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert lanes.each(modes, range(3)) == [modes(0)] * 3
    with torch.inference_mode():
        assert lanes.each(modes, range(3)) == [modes(0)] * 3
    assert lanes.each(modes, range(3)) == [modes(0)] * 3
    assert not modes(0)[1]


def test_an_error_arrives_when_all_have_ended() -> None:
    ended = []

    def work(i: int) -> int:
        if i == 0:
            raise ValueError("the first")
        threading.Event().wait(0.1)
        ended.append(i)
        return i

    with pytest.raises(ValueError, match="the first"):
        lanes.each(work, range(4))
    assert sorted(ended) == [1, 2, 3]
    assert lanes.each(lambda i: i + 1, range(4)) == [1, 2, 3, 4]  # and the lanes go on


def test_every_lane_has_one_thread_and_nobody_else_notices() -> None:
    assert lanes.each(lambda _: torch.get_num_threads(), range(4)) == [1, 1, 1, 1]
    assert torch.get_num_threads() == 4
    elsewhere: list[int] = []
    thread = threading.Thread(target=lambda: elsewhere.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert elsewhere == [4]


def test_a_batch_inside_a_lane_is_not_divided_again() -> None:
    assert lanes.each(lambda _: len(lanes.parts(torch.zeros(8, 1))), range(4)) == [1] * 4


def test_many_callers_share_the_lanes() -> None:
    model, x = networks()[0], torch.rand(7, 6, 8, 7, dtype=torch.float64)
    expected = decompose(model, x).contributions
    results: list[Tensor] = []
    callers = [threading.Thread(target=lambda: results.append(decompose(model, x).contributions)) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(PATIENCE)
    assert len(results) == 4
    assert all(torch.equal(r, expected) for r in results)


def test_only_cpus_compute_two_batches_at_a_time() -> None:
    assert budget.batches_at_once("cpu") == 2
    assert budget.batches_at_once("cuda") == budget.batches_at_once("mps") == 1


@pytest.mark.parametrize(
    ("side", "targets", "count"), [(128, 1, 16), (128, 10, 16), (2000, 1, 1), (224, 1000, 1), (224, 200, 4)]
)
def test_a_batch_bounds_pixels_and_dynamic_weights(side: int, targets: int, count: int) -> None:
    assert budget.pictures_at_once("cpu", side * side, targets) == count


def test_a_hybrid_takes_more_pictures_together_on_cpus() -> None:
    """Below its cut nothing is kept; 16 pictures at most, however small they are."""
    sizes = [(224, 1, 16), (128, 1, 16), (500, 1, 4), (2000, 1, 1), (224, 1000, 1)]
    assert [budget.pictures_at_once("cpu", s * s, t, hybrid=True) for s, t, _ in sizes] == [n for *_, n in sizes]
    assert budget.pictures_at_once("cuda", 1 << 16, hybrid=True) == budget.pictures_at_once("cuda", 1 << 16)


def test_lanes_are_made_before_the_threads_that_share_them(monkeypatch: pytest.MonkeyPatch) -> None:
    start = lanes._start

    def slowly(count: int) -> ThreadPoolExecutor:
        torch.set_num_threads(1)  # as the lanes do
        time.sleep(0.2)
        torch.set_num_threads(4)
        return start(count)

    monkeypatch.setattr(lanes, "_POOLS", {})
    monkeypatch.setattr(lanes, "_start", slowly)
    with lanes.batch_pool("cpu") as pool:
        pool.submit(lanes.each, lambda i: i, range(4))
        time.sleep(0.1)
        assert pool.submit(torch.get_num_threads).result() == 4


def test_lanes_that_cannot_be_made_keep_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "_POOLS", {})
    honest, started = threading.Thread.start, []

    def fails_for_the_third(thread: threading.Thread) -> None:
        started.append(thread)
        if len(started) == 3:
            raise RuntimeError("can't start new thread")
        honest(thread)

    monkeypatch.setattr(threading.Thread, "start", fails_for_the_third)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        lanes.each(lambda i: i, range(4))
    monkeypatch.undo()
    for thread in started[:2]:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert torch.get_num_threads() == 4


def test_pictures_are_classified_in_lanes() -> None:
    pictures = torch.randint(256, (9, 3, 8, 7), dtype=torch.uint8)
    model = networks()[0].float()
    with torch.no_grad():
        torch.testing.assert_close(classify(model, pictures), classify(model, pictures, batch=1), rtol=0, atol=1e-6)


def test_large_pictures_are_classified_fewer_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures, steps = torch.randint(256, (9, 3, 8, 7), dtype=torch.uint8), list[int]()
    monkeypatch.setattr(budget, "CLASSIFIED_PIXELS", 4 * 8 * 7)
    classify(networks()[0].float(), pictures, on_step=lambda done, _: steps.append(done))
    assert steps == [4, 8, 9]


@pytest.mark.parametrize("looks", [[9] * budget.LOOKS, [9, 9, 0]])
def test_beside_other_programs_training_has_one_thread_and_says_so(
    looks: list[int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    busy, seen = 0 not in looks, iter(looks)
    monkeypatch.setattr(lanes, "_others_running", lambda: next(seen))
    usual = torch.get_num_threads()
    with beside_others():
        assert torch.get_num_threads() == (1 if busy else usual)
    assert torch.get_num_threads() == usual
    assert ("one thread" in capsys.readouterr().err) == busy
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    with beside_others():
        assert torch.get_num_threads() == usual


@pytest.mark.parametrize(("said", "others"), [("9.5 1.2 1.0 3/250 77", 2), ("0.0 0.0 0.0 0/0 0", 0), ("", 0)])
def test_it_counts_the_others_that_run_now(said: str, others: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pathlib.Path.read_text", lambda _: said)
    assert lanes._others_running() == others
