"""A decomposition leaves model, input and modes as they were, and a batch gives what its items give alone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from program import PATIENCE
from small_nets import CLASSES, assert_equals_definition, assert_same, explained, picture, small_net
from torch import Tensor, nn

from coda_cli.core.dau import NORMS
from coda_cli.core.decompose import decompose
from coda_cli.core.held import held, is_held
from coda_cli.core.networks import CodaNet

pytestmark = [pytest.mark.filterwarnings("error"), pytest.mark.usefixtures("seeded", "one_lane")]


# ---- 4. what must stay as it was -------------------------------------------------------------------------------------


def _state_of(model: nn.Module) -> dict[str, Any]:
    """All that a call could leave behind in a model, comparable with ==."""
    modules = dict(model.named_modules())
    return {
        "parameters": {
            n: (p.tolist(), p._version, p.requires_grad, p.grad is None, id(p)) for n, p in model.named_parameters()
        },
        "state": list(model.state_dict()),
        "training": {n: m.training for n, m in modules.items()},
        "hooks": {n: [len(getattr(m, h)) for h in sorted(vars(m)) if "hooks" in h] for n, m in modules.items()},
        "types": {n: type(m) for n, m in modules.items()},
        "methods": {n: [k for k, v in vars(m).items() if callable(v)] for n, m in modules.items()},
    }


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("requires_grad", [True, False])
def test_the_model_is_not_modified(training: bool, requires_grad: bool) -> None:
    model = small_net().train(training).requires_grad_(requires_grad)
    before = _state_of(model)
    explained(model, picture())
    assert _state_of(model) == before
    assert len(before["hooks"]["layers.0"]) > 3  # torch's dictionaries of hooks were found
    assert not any(before["hooks"]["layers.0"])


@pytest.mark.parametrize("requires_grad", [True, False])
def test_the_input_is_not_modified(requires_grad: bool) -> None:
    x = picture().requires_grad_(requires_grad)
    before, version = x.detach().clone(), x._version
    explained(small_net(), x)
    assert torch.equal(x, before)
    assert (x._version, x.requires_grad, x.is_leaf, x.grad) == (version, requires_grad, True, None)


def test_an_input_with_a_history_keeps_it_and_gives_none_to_the_result() -> None:
    source = picture().requires_grad_()
    x = source * 2
    d = explained(small_net(), x)
    assert x.requires_grad
    assert x.grad_fn is not None
    assert source.grad is None
    assert not any(t.requires_grad for t in (d.contributions, d.logits, d.weights, d.logit, d.residual))


def test_the_result_does_not_share_memory_with_the_input() -> None:
    x = picture()
    d = explained(small_net(), x)
    before = d.contributions.clone()
    x.zero_()
    assert torch.equal(d.contributions, before)


def test_the_callers_gradient_mode_does_not_matter_and_is_kept() -> None:
    model, x = small_net(), picture()
    expected = explained(model, x)
    for mode in (torch.no_grad, torch.enable_grad):
        with mode():
            before = torch.is_grad_enabled()
            d = explained(model, x)
            assert torch.is_grad_enabled() == before
        assert torch.equal(d.contributions, expected.contributions)


def test_two_runs_are_equal() -> None:
    model, x = small_net(torch.float32), picture(dtype=torch.float32)
    first, second = explained(model, x), explained(model, x)
    assert torch.equal(first.contributions, second.contributions)
    assert torch.equal(first.residual, second.residual)


def test_the_map_of_new_weights_does_not_remember_the_old_ones() -> None:
    model, x = small_net(), picture()
    explained(model, x)
    model.load_state_dict(small_net().state_dict())
    assert_equals_definition(model, x)


def test_a_model_moved_to_another_type_explains_in_it() -> None:
    model, x = small_net(torch.float32), picture()
    explained(model, x.float())
    assert_equals_definition(model.double(), x)


@pytest.mark.parametrize("norm", NORMS)
def test_a_batch_equals_its_items_alone(norm: str) -> None:
    model, x = small_net(norm=norm, strides=[2, 1]), picture(5, 2, 7, 6)
    together = explained(model, x)
    for b in range(5):
        assert_same(together[b], explained(model, x[b : b + 1]))


def test_an_item_of_a_decomposition_is_a_batch_of_one() -> None:
    d = explained(small_net(), picture(3, 2, 6, 5))
    for b in range(3):
        assert d[b].contributions.shape == (1, CLASSES, 2, 6, 5)
        assert torch.equal(d[b].contributions[0], d.contributions[b])
        assert torch.equal(d[b].residual[0], d.residual[b])


@pytest.mark.parametrize("b", [3, -4])
def test_an_item_that_is_not_there_is_an_index_error(b: int) -> None:
    # Python's for loop over an object with __getitem__ ends at the first IndexError, and nowhere else.
    d = explained(small_net(), picture(3, 2, 6, 5))
    with pytest.raises(IndexError):
        d[b]


def test_items_are_counted_from_the_end_as_python_counts_them() -> None:
    d = explained(small_net(), picture(3, 2, 6, 5))
    assert_same(d[-1], d[2])


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "transposed": lambda x: x.mT.contiguous().mT,
    "batch innermost": lambda x: x.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
    "every second pixel of a larger one": lambda x: x.repeat_interleave(2, 3).repeat_interleave(2, 2)[:, :, ::2, ::2],
    "a window of a larger one": lambda x: F.pad(x, (2, 3, 1, 4), value=9.0)[:, :, 1:-4, 2:-3],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_memory_layout_changes_nothing(layout: str) -> None:
    model, x = small_net(), picture(3, 2, 6, 5)
    other = LAYOUTS[layout](x)
    assert torch.equal(other, x)
    assert not other.is_contiguous()
    assert_same(explained(model, other), explained(model, x))


def test_an_expanded_input_can_be_explained() -> None:
    model, x = small_net(), picture(1, 1, 6, 5)
    assert_same(explained(model, x.expand(3, 2, 6, 5)), explained(model, x.repeat(3, 2, 1, 1)))


# ---- 5. the held mode ------------------------------------------------------------------------------------------------


def test_the_held_mode_ends_with_its_block_and_nests() -> None:
    assert not is_held()
    with held():
        with held():
            assert is_held()
        assert is_held()
    assert not is_held()


def test_the_held_mode_does_not_survive_an_exception() -> None:
    class Broken(CodaNet):
        def forward(self, _x: Tensor) -> Tensor:
            assert is_held()
            raise RuntimeError("broken on purpose")

    with pytest.raises(RuntimeError, match="on purpose"), torch.no_grad():
        decompose(Broken([], temperature=1.0, bias=0.0), picture())
    assert not is_held()
    assert torch.is_grad_enabled()


def test_explaining_inside_a_held_block_leaves_it_held() -> None:
    model, x = small_net(), picture()
    with held():
        d = explained(model, x)
        assert is_held()
    assert torch.equal(d.contributions, explained(model, x).contributions)


def test_threads_do_not_see_each_other_s_mode() -> None:
    entered, looked = threading.Event(), threading.Event()
    seen: list[bool] = []

    def other() -> None:
        seen.append(is_held())
        with held():
            entered.set()
            looked.wait(PATIENCE)

    thread = threading.Thread(target=other)
    with held():
        thread.start()
        assert entered.wait(PATIENCE)
    seen.append(is_held())  # the other thread is still inside
    looked.set()
    thread.join(PATIENCE)
    assert seen == [False, False]


def test_threads_can_explain_with_one_model_at_the_same_time() -> None:
    model, pictures = small_net(), [picture() for _ in range(4)]
    expected = [explained(model, x).contributions for x in pictures]
    results: dict[int, Tensor] = {}

    def work(i: int) -> None:
        for _ in range(5):
            results[i] = explained(model, pictures[i]).contributions

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert all(torch.equal(results[i], expected[i]) for i in range(4))
