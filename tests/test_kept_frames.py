"""What the first pass over a clip keeps: the second pass says the same with it and without it, from less work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_video_command import clip, frame

import coda_cli
from coda_cli.core.dau_layer import DAUConv2d
from coda_cli.core.decompose import decompose
from coda_cli.core.networks import coda_net
from coda_cli.explanation.clip.drawing import ClipDrawing
from coda_cli.explanation.clip.files import ClipOutputs
from coda_cli.explanation.clip.kept import Memory, Seen, keeps, see
from coda_cli.explanation.request import Request
from coda_cli.machine import budget
from coda_cli.media.view import View, fit
from coda_cli.schema.clips import ClipRecord, FrameRecord
from coda_cli.vocabulary import Precision

FRAMES = 6


@pytest.fixture(scope="module")
def net() -> coda_cli.Net:
    return coda_cli.load("imagenet")


def view_of(n: int) -> View:
    return fit(frame(3, n), 224, 224)


def records(net: coda_cli.Net, path: Path, **asked: Any) -> tuple[list[FrameRecord], ClipRecord]:
    *frames, whole = coda_cli.explain_clip(path, net, **asked).records(ClipDrawing(), ClipOutputs())
    assert isinstance(whole, ClipRecord)
    return [one for one in frames if isinstance(one, FrameRecord)], whole


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"precision": "bfloat16", "classes": "top:2"},
        {"policy": "frame", "versus": "tench"},
        {"classes": ["lorikeet", "tench"], "tolerance": 1e-4},
    ],
    ids=lambda asked: "-".join(asked) or "plain",
)
def test_records_are_those_of_a_run_that_keeps_nothing(
    net: coda_cli.Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any]
) -> None:
    path = clip(tmp_path / "a.mkv", FRAMES)
    kept, whole = records(net, path, **asked)
    monkeypatch.setattr(budget, "KEPT_BYTES", 0)
    plain, same = records(net, path, **asked)
    assert [p.name for p in whole.explained] == [p.name for p in same.explained]
    assert whole.exact
    assert whole.scale == pytest.approx(same.scale, rel=1e-5)
    assert len(kept) == len(plain) == FRAMES
    for one, other in zip(kept, plain, strict=True):
        assert [(t.name, t.logit) for t in one.top] == [(t.name, pytest.approx(t.logit, abs=1e-4)) for t in other.top]
        assert len(one.explained) == len(other.explained)
        for part, expected in zip(one.explained, other.explained, strict=True):
            assert (part.name, part.exact) == (expected.name, True)
            for key in ("logit", "positive", "negative", "probability", "tolerance", "bias"):
                found, right = getattr(part, key), getattr(expected, key)
                assert found == (None if right is None else pytest.approx(right, rel=1e-4, abs=1e-5)), key


def test_in_float64_no_logit_is_rounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = coda_cli.load("imagenet", dtype=torch.float64)
    path = clip(tmp_path / "a.mkv", 2)
    kept, _ = records(net, path, precision="float64")
    monkeypatch.setattr(budget, "KEPT_BYTES", 0)
    plain, _ = records(net, path, precision="float64")
    for one, other in zip(kept, plain, strict=True):
        assert [t.logit for t in one.top] == pytest.approx([t.logit for t in other.top], rel=1e-13)


def test_the_second_pass_does_not_compute_the_backbone_again(
    net: coda_cli.Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, to_cut = list[int](), type(net.model).to_cut
    monkeypatch.setattr(type(net.model), "to_cut", lambda model, x: (seen.append(len(x)), to_cut(model, x))[1])
    path = clip(tmp_path / "a.mkv", FRAMES)
    records(net, path)
    assert sum(seen) == FRAMES
    monkeypatch.setattr(budget, "KEPT_BYTES", 0)
    seen.clear()
    records(net, path)
    assert sum(seen) > 2 * FRAMES


def test_what_has_no_room_is_computed_again(net: coda_cli.Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = clip(tmp_path / "a.mkv", FRAMES)
    expected, _ = records(net, path)
    monkeypatch.setattr(budget, "KEPT_BYTES", 3 * 1280 * 14 * 14 * 4)
    found, _ = records(net, path)
    for one, other in zip(found, expected, strict=True):
        assert one.explained[0].logit == pytest.approx(other.explained[0].logit, abs=1e-4)


def test_memory_keeps_the_first_frames_and_never_more_than_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "KEPT_BYTES", 100)
    memory, small = Memory(), Seen(np.zeros(2, np.float32), torch.zeros(2, 2, 10, dtype=torch.uint8))
    large = small._replace(cut=torch.zeros(2, 2, 10))
    assert [memory.kept(one).cut is not None for one in (small, small, large, small)] == [True, True, False, False]


def test_under_a_limit_on_memory_work_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coda_cli.explanation.clip.kept.memory_left", lambda: budget.WORKING_MEMORY + 200.0)
    small = Seen(np.zeros(2, np.float32), torch.zeros(2, 2, 15, dtype=torch.uint8))
    kept = Memory()
    assert [kept.kept(small).cut is not None for _ in range(2)] == [True, False]


@pytest.mark.parametrize(("precision", "kind"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_no_bit_of_the_cut_is_lost(net: coda_cli.Net, precision: Precision, kind: torch.dtype) -> None:
    view = view_of(0)
    (seen,) = see([view], net, Request(precision=precision))
    assert seen.cut is not None
    assert (seen.cut.shape, seen.cut.dtype) == ((14, 14, 1280), kind)
    x = coda_cli.encode(torch.from_numpy(view.rgb.copy()).permute(2, 0, 1)[None])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        cut = net.model.to_cut(x)  # type: ignore[operator]
        logits = net.model(x)
    torch.testing.assert_close(seen.cut.float(), cut[0].permute(1, 2, 0), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.from_numpy(seen.logits), logits[0].float(), rtol=1e-4, atol=1e-4)


def test_a_file_that_was_changed_between_the_passes_is_computed_again(net: coda_cli.Net) -> None:
    (seen,) = see([view_of(0)], net, Request())
    assert seen.is_of(view_of(0))
    assert not seen.is_of(view_of(1))
    assert not Seen(seen.logits).is_of(view_of(0))


def test_only_hybrids_without_questions_about_their_inside_are_kept(net: coda_cli.Net) -> None:
    assert keeps(net, Request())
    assert not keeps(net, Request(neurons=("stage3:5",)))
    assert not keeps(coda_cli.load("cifar10"), Request())


GROUPED: dict[str, Callable[[], DAUConv2d]] = {
    "one by one": lambda: DAUConv2d(6, 5, 1, 3),
    "windows, groups, L2": lambda: DAUConv2d(6, 4, 3, 4, stride=2, norm="L2", groups=2),
    "no b": lambda: DAUConv2d(3, 5, 3, 2, bias=False),
    "written out": lambda: DAUConv2d(2, 5, 1, 40),
}


@pytest.mark.parametrize("make", GROUPED.values(), ids=list(GROUPED))
def test_a_layer_of_some_outputs_gives_these_outputs(make: Callable[[], DAUConv2d]) -> None:
    torch.manual_seed(0)
    layer = make().double()
    x, outputs = torch.rand(2, layer.in_channels, 7, 7, dtype=torch.float64), torch.tensor([3, 0])
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    with torch.no_grad():
        torch.testing.assert_close(layer.only(outputs)(x), layer(x)[:, outputs], rtol=1e-12, atol=1e-12)
    for key, value in layer.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_a_network_of_some_classes_is_decomposed_as_the_whole_one() -> None:
    torch.manual_seed(0)
    whole = coda_net(channels=[6, 8, 5], kernels=[3, 1], strides=[2, 1], ranks=[4, 3], norm="SQ", temperature=2.0)
    whole.double().eval()
    x, classes = torch.rand(2, 6, 9, 9, dtype=torch.float64), torch.tensor([4, 1])
    found, expected = decompose(whole.only(classes), x, [0, 1]), decompose(whole, x, classes.tolist())
    torch.testing.assert_close(found.pixels, expected.pixels, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.logit, expected.logit, rtol=1e-12, atol=1e-12)
    assert found.exact.all()
