"""The authors' pickles: their logits, their configuration, no code run, and what only looks like one is refused."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from foreign import RANK_4, authors_state, rank_4_state
from small_files import SMALL, authors_file, picture, refusal, small_checkpoint
from torch import Tensor

from coda_cli.checkpoints.loading import Net, load
from coda_cli.checkpoints.published import PUBLISHED, published_name
from coda_cli.checkpoints.published_descriptions import published_checkpoint
from coda_cli.errors import UsageError

# ---- the authors' files ----------------------------------------------------------------------------------------------


def authors_network(arguments: Mapping[str, Any], state: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """Logits by the authors' formulation: dynamic weights by a 1x1 convolution, unfold, weighted sum, then the norm.

    Steps 1 to 5 of section 3 of the notes on the published models, in float64; x [B, C, H, W] -> [B, classes].
    """
    x = x.double()
    for i, (k, stride) in enumerate(zip(arguments["kernels"], arguments["strides"], strict=True)):
        W0, W1, b1 = (state[f"{i}.weight_mod.weighting_f.{n}"].double() for n in ("0.weight", "1.weight", "1.bias"))
        padding = arguments["paddings"][i] if "paddings" in arguments else (k - 1) // 2
        groups = arguments["groups"][i] if "groups" in arguments else 1
        B, d, O = len(x), W0[0].numel(), arguments["channels"][i + 1]
        z = F.conv2d(x, W0, stride=stride, padding=padding)
        H, W = z.shape[2:]
        w = F.conv2d(z, W1, b1, groups=groups).view(B, d, O, H, W)  # flat index n = entry * O + o
        patches = F.unfold(x, k, padding=padding, stride=stride).view(B, d, 1, H, W)
        n = w.norm(dim=1)
        divisor = (1 + n**2) / n if arguments["norm"] == "SQ" else n
        x = (patches * w).sum(1) / divisor
    return x.sum((2, 3)) / arguments["temperature"] + arguments["bias"]


def assert_same_logits(net: Net, arguments: Mapping[str, Any], state: Mapping[str, Tensor], size: int = 32) -> None:
    expected = authors_network(arguments, state, picture(size))
    with torch.no_grad():
        logits = net.model.double()(picture(size).double())
    # The pooled values, without temperature and bias: what the weights alone decide.
    scale = arguments["temperature"]
    evidence = (expected - arguments["bias"]) * scale
    assert evidence.std() > 1e-3
    torch.testing.assert_close((logits - arguments["bias"]) * scale, evidence, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_the_authors_weights_give_the_authors_logits(tmp_path: Path, legacy: bool) -> None:
    path = authors_file(tmp_path / "weights.pkl", legacy=legacy)
    net = load(path, arch=RANK_4)
    assert_same_logits(net, PUBLISHED[RANK_4], rank_4_state())


@pytest.mark.parametrize("norm", ["SQ", "L2"])
@pytest.mark.parametrize("groups", [[1, 1], [2, 1], [3, 2], [6, 4]])
def test_groups_strides_paddings_and_norm_of_a_sidecar_give_the_authors_logits(
    tmp_path: Path, groups: list[int], norm: str
) -> None:
    arguments = SMALL | {"groups": groups, "ranks": [6, 4], "norm": norm, "kernels": [3, 2]}
    state = authors_state(arguments)
    path = authors_file(tmp_path / "weights.pkl", state)
    sidecar = small_checkpoint(arguments=arguments).model_dump_json()
    (tmp_path / "weights.pkl.json").write_text(sidecar, encoding="utf-8")
    net = load(path)
    assert net.assumed == ("everything but the weights from weights.pkl.json",)
    assert_same_logits(net, arguments, state, size=12)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {f"module.{key}": value for key, value in state.items()},
        lambda state: {"the_model": state, "optimiser": {"lr": 0.1, "betas": (0.9, 0.99)}},
        lambda state: {"state_dict": {f"module.{key}": value for key, value in state.items()}, "epoch": 3},
        lambda state: {"model_state_dict": state},
        lambda state: {key: value.half() for key, value in state.items()},
        lambda state: {key: value.requires_grad_() for key, value in state.items()},
    ],
    ids=["module.", "the_model", "state_dict+module.", "model_state_dict", "half", "requires_grad"],
)
def test_wrappings_of_trainers_are_taken_off(tmp_path: Path, wrap: Callable[[dict[str, Tensor]], Any]) -> None:
    bare = load(authors_file(tmp_path / "bare.pkl"), arch=RANK_4)
    wrapped = load(authors_file(tmp_path / "wrapped.pkl", wrap(rank_4_state())), arch=RANK_4)
    for key, value in bare.model.state_dict().items():
        torch.testing.assert_close(wrapped.model.state_dict()[key], value, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("file", ["model_epoch_200.pkl", "last_model_epoch_17.pkl", "model_epoch_200.pt"])
def test_the_folders_of_the_authors_name_the_configuration(tmp_path: Path, file: str) -> None:
    net = load(authors_file(tmp_path / "CIFAR10" / "final" / RANK_4 / file))
    assert net.checkpoint.name == RANK_4
    assert net.checkpoint.arguments == PUBLISHED[RANK_4]
    assert net.checkpoint.classes[3] == "cat"
    (assumed,) = net.assumed  # a guess is never silent
    assert f"configuration {RANK_4} from the file's path" in assumed
    assert "norm SQ, temperature 1000, bias -2.1972, 10 class names" in assumed


def test_a_path_is_taken_relative_to_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = authors_file(tmp_path / RANK_4 / "model_epoch_1.pkl")
    monkeypatch.chdir(path.parent)
    assert load("model_epoch_1.pkl").checkpoint.name == RANK_4


def test_arch_beats_the_sidecar_and_the_sidecar_the_path(tmp_path: Path) -> None:
    path = authors_file(tmp_path / RANK_4 / "model_epoch_1.pkl")
    sidecar = published_checkpoint(RANK_4).model_copy(update={"name": "mine", "classes": tuple("abcdefghij")})
    (path.parent / "model_epoch_1.pkl.json").write_text(sidecar.model_dump_json(), encoding="utf-8")
    assert load(path).checkpoint.name == "mine"
    net = load(path, arch=RANK_4)
    assert net.checkpoint.classes[3] == "cat"
    assert "from --arch" in net.assumed[0]


def _small_but(changes: dict[str, Any]) -> bytes:
    return json.dumps(json.loads(small_checkpoint().model_dump_json()) | changes).encode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe{", "cannot be read as text"),
        (b"{", "not valid JSON"),
        (b"[]", "not valid"),
        (b'{"name": "x"}', "architecture: Field required"),
        (_small_but({"preprocessing": {"resize": 8, "crop": 0}}), "greater than or equal to 1"),
        (_small_but({"classes": ["a", "b"], "wnids": None, "synonyms": None}), "2 classes and 3 outputs"),
    ],
)
def test_a_bad_sidecar_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = authors_file(tmp_path / "weights.pkl")
    (tmp_path / "weights.pkl.json").write_bytes(content)
    assert re.search(message, refusal(path))


def test_where_nothing_names_the_configuration_the_fitting_ones_are_listed(tmp_path: Path) -> None:
    message = refusal(authors_file(tmp_path / "weights.pkl"))
    assert re.search("weights alone do not tell stride, norm, temperature", message)
    assert f"its shapes fit {RANK_4}; " in message
    assert "--arch NAME" in message
    assert "weights.pkl.json" in message


def test_shapes_that_fit_several_configurations_list_all_of_them(tmp_path: Path) -> None:
    path = authors_file(tmp_path / "weights.pkl", authors_state(PUBLISHED["9L-S-CoDA-SQ-10"]))
    message = refusal(path)
    assert re.search("its shapes fit", message)
    for name, arguments in PUBLISHED.items():
        assert (f" {name}," in message or f" {name};" in message) == (arguments["ranks"] == [32, 32] + [64] * 7)


def test_shapes_that_fit_none_are_said_to(tmp_path: Path) -> None:
    assert re.search(
        "its shapes fit no published network", refusal(authors_file(tmp_path / "weights.pkl", authors_state(SMALL)))
    )


def test_a_wrong_arch_names_key_and_shapes(tmp_path: Path) -> None:
    path = authors_file(tmp_path / "weights.pkl")
    message = refusal(path, arch="9L-S-CoDA-SQ-rank-8")
    assert re.search(r"0\.weight_mod\.weighting_f\.0\.weight: ", message)
    assert "9L-S-CoDA-SQ-rank-8 expects [8, 6, 3, 3], got [4, 6, 3, 3]" in message
    assert "--arch" in message


def test_an_unknown_arch_lists_the_configurations(tmp_path: Path) -> None:
    message = refusal(authors_file(tmp_path / "weights.pkl"), UsageError, arch="zebra")
    assert re.search("--arch zebra", message)
    assert all(name in message for name in PUBLISHED)


def test_missing_and_additional_authors_tensors_are_named(tmp_path: Path) -> None:
    state = rank_4_state()
    del state["8.weight_mod.weighting_f.1.bias"]
    assert re.search(
        r"lacks 8\.weight_mod\.weighting_f\.1\.bias", refusal(authors_file(tmp_path / "a.pkl", state), arch=RANK_4)
    )
    state = rank_4_state() | {"11.weight": torch.zeros(2)}
    assert re.search(
        r"holds 1 tensors .* has not, 11\.weight among", refusal(authors_file(tmp_path / "b.pkl", state), arch=RANK_4)
    )


def test_authors_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    state = rank_4_state()
    state["3.weight_mod.weighting_f.1.weight"][5] = float("nan")
    path = authors_file(tmp_path / "weights.pkl", state)
    assert re.search(r"8 of .* values of layers\.3\.U are not finite", refusal(path, arch=RANK_4))


@pytest.mark.parametrize(
    ("keys", "family"),
    [
        (["0.linear.weight", "1.linear.weight"], "a B-cos network"),
        (["0.transformer.encoder_0.attn.to_qkv.weight", "0.linear_head.linear.linear.weight"], "B-cos network"),
        (["layer1.0.conv1.weight", "fc.weight", "fc.bias"], "an ordinary convolutional network"),
        (["features.0.weight"], "an ordinary convolutional network"),
        (["encoder.weight"], "the weights of no network that coda knows"),
    ],
)
def test_weights_of_another_family_are_named(tmp_path: Path, keys: list[str], family: str) -> None:
    path = authors_file(tmp_path / "weights.pkl", dict.fromkeys(keys, torch.zeros(2)))
    assert re.search(family, refusal(path, arch=RANK_4))


def test_every_published_name_is_found_in_a_path_of_its_own() -> None:
    for name in PUBLISHED:
        assert published_name(f"/data/CIFAR10/final/{name}/model_epoch_200.pkl") == name
        assert published_name(f"/data/{name}.pkl") == name
    assert published_name("/data/9L-S-CoDA-SQ-10/9L-S-CoDA-SQ-50.pkl") is None
    assert published_name("/data/9L-S-CoDA-SQ-100000.pkl") is None
    assert published_name("/data/my-9L-S-CoDA-SQ-10.pkl") is None


# ---- files that are no checkpoints -----------------------------------------------------------------------------------


class Payload:
    """Unpickled by Python's own pickle, it makes a file."""

    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.made,)


@pytest.mark.parametrize(
    "write",
    [
        lambda path, payload: path.write_bytes(pickle.dumps(payload)),
        lambda path, payload: torch.save(payload, path),
        lambda path, payload: torch.save(payload, path, _use_new_zipfile_serialization=False),
        lambda path, payload: torch.save(rank_4_state() | {"0": payload}, path),
        lambda path, payload: torch.save({"state_dict": rank_4_state(), "hyper_parameters": payload}, path),
    ],
    ids=["pickle", "zip", "legacy", "among tensors", "beside a state dict"],
)
def test_code_in_a_pickle_is_not_run(tmp_path: Path, write: Callable[[Path, Payload], object]) -> None:
    path, made = tmp_path / "weights.pkl", tmp_path / "made by the payload"
    write(path, Payload(made))
    assert re.search("it was not opened further, since that could run code in it", refusal(path, arch=RANK_4))
    assert not made.exists()


def test_the_payload_of_the_test_above_works(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Payload(tmp_path / "made")))
    assert (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello, I am text\n",
        b"<html><body>404</body></html>",
        b"\x80",
        b"PK\x03\x04",
        b"\x80\x04N.",
        b"a",
        "Größe\n".encode(),
        bytes(range(256)),
    ],
)
def test_what_is_no_torch_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "weights.pkl").write_bytes(content)
    assert re.search("not a torch file|holds no state dict", refusal(tmp_path / "weights.pkl", arch=RANK_4))


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path, legacy: bool) -> None:
    state = {"0.weight_mod.weighting_f.0.weight": torch.zeros(4, 6, 3, 3)}
    content = authors_file(tmp_path / "whole.pkl", state, legacy=legacy).read_bytes()
    for length in range(0, len(content) - 1, 11):
        path = tmp_path / "weights.pkl"
        path.write_bytes(content[:length])
        assert re.search("not a torch file", refusal(path, arch=RANK_4))


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_file_with_changed_bytes_never_escapes_as_anything_but_a_checkpoint_error(
    tmp_path: Path, legacy: bool
) -> None:
    state = {"0.weight_mod.weighting_f.0.weight": torch.zeros(4, 6, 3, 3)}
    content = authors_file(tmp_path / "whole.pkl", state, legacy=legacy).read_bytes()
    draw = torch.Generator().manual_seed(0)
    for _ in range(300):
        broken = bytearray(content)
        for place, value in torch.randint(0, 1 << 20, (3, 2), generator=draw).tolist():
            broken[place % min(len(content), 700)] = value % 256
        (tmp_path / "weights.pkl").write_bytes(broken)
        assert re.search("weights.pkl", refusal(tmp_path / "weights.pkl", arch=RANK_4))


@pytest.mark.parametrize("content", [{}, [1, 2], torch.zeros(3), {"a": 1}, {"a": torch.zeros(2), "b": "text"}])
def test_a_torch_file_without_a_state_dict_is_refused(tmp_path: Path, content: Any) -> None:
    assert re.search("holds no state dict", refusal(authors_file(tmp_path / "weights.pkl", content), arch=RANK_4))


def test_a_folder_is_no_checkpoint(tmp_path: Path) -> None:
    assert re.search("no such file", refusal(tmp_path))
