"""Files to networks and back: our own safetensors, the authors' pickles, and everything that only looks like one."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from foreign import RANK_4, authors_state, rank_4_state
from torch import Tensor

from coda_cli.checkpoints import headers, manifest, proof
from coda_cli.checkpoints.loading import Net, file_sha256, load, save
from coda_cli.checkpoints.manifest import Accuracy, Checkpoint, KnownCheckpoint, Preprocessing, known
from coda_cli.checkpoints.published import PUBLISHED, published_name
from coda_cli.core.networks import CodaNet, build, encode
from coda_cli.errors import CheckpointError, CodaError, ExactnessError, ExitCode, MediaError, UsageError

SMALL: dict[str, Any] = {
    "channels": [6, 4, 3],
    "kernels": [3, 1],
    "strides": [2, 1],
    "ranks": [2, 4],
    "norm": "L2",
    "temperature": 7.0,
    "bias": -0.5,
    "paddings": [1, 0],
    "groups": [2, 1],
}


def small_checkpoint(**changes: Any) -> Checkpoint:
    fields = {
        "name": "small",
        "architecture": "coda_net",
        "arguments": SMALL,
        "classes": ("cat", "dog", "Ähre"),
        "wnids": ("n1", "n2", "n3"),
        "synonyms": (("tom",), (), ("ear", "spike")),
        "preprocessing": Preprocessing(resize=20, crop=16),
        "accuracy": Accuracy(value=0.25, pictures=8, split="test"),
        "training": {"data": "none", "seconds": 1.5},
        "licence": "none",
    }
    return Checkpoint.model_validate(fields | changes)


def small_file(path: Path, **changes: Any) -> Path:
    torch.manual_seed(0)
    save(build("coda_net", SMALL), small_checkpoint(**changes), path)
    return path


def picture(size: int = 32) -> Tensor:
    """A fixed input, float32 [2, 6, size, size]."""
    return encode(torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1)))


def refusal(path: Path | str, error: type[CodaError] = CheckpointError, **options: Any) -> str:
    """What loading is refused with: one line, which names the file unless an option is wrong."""
    with pytest.raises(error) as caught:
        load(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert error is UsageError or Path(path).name in message
    return message


# ---- our own files ---------------------------------------------------------------------------------------------------


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build("coda_net", SMALL)
    save(model, small_checkpoint(), tmp_path / "net.safetensors")
    net = load(tmp_path / "net.safetensors")
    assert net.checkpoint == small_checkpoint()
    assert net.path == tmp_path / "net.safetensors"
    assert net.sha256 == hashlib.sha256(net.path.read_bytes()).hexdigest()
    assert net.assumed == ()
    with torch.no_grad():
        assert torch.equal(net.model(picture()), model(picture()))


def test_a_loaded_network_is_ready_for_use(tmp_path: Path) -> None:
    model = load(small_file(tmp_path / "net.safetensors")).model
    assert isinstance(model, CodaNet)
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_it_is_loaded_in_the_type_asked_for(tmp_path: Path) -> None:
    model = load(small_file(tmp_path / "net.safetensors"), dtype=torch.float64).model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}


def test_the_description_can_be_read_without_the_tensors(tmp_path: Path) -> None:
    metadata = headers.read_metadata(small_file(tmp_path / "net.safetensors"))
    assert manifest.parse_checkpoint(metadata[manifest.METADATA_KEY], "here") == small_checkpoint()


def test_half_precision_files_are_computed_in_float32(tmp_path: Path) -> None:
    whole = load(small_file(tmp_path / "net.safetensors"))
    rewrite(whole.path, tensors=lambda _, value: value.half())
    half = load(whole.path)
    assert {p.dtype for p in half.model.parameters()} == {torch.float32}
    torch.testing.assert_close(half.model(picture()), whole.model(picture()), rtol=1e-2, atol=1e-2)


def test_saving_into_a_folder_that_is_not_there_is_a_media_error(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="cannot be written"):
        small_file(tmp_path / "missing" / "net.safetensors")


def rewrite(
    path: Path,
    *,
    tensors: Callable[[str, Tensor], Tensor | None] = lambda _, value: value,
    description: Callable[[dict[str, Any]], object] | None = None,
) -> Path:
    """Change the tensors (None drops one) or the description in a file of ours."""
    content = {key: tensors(key, value) for key, value in safetensors.torch.load_file(path).items()}
    metadata = json.loads(headers.read_metadata(path)[manifest.METADATA_KEY])
    if description:
        description(metadata)
    kept = {key: value.contiguous() for key, value in content.items() if value is not None}
    path.write_bytes(safetensors.torch.save(kept, {manifest.METADATA_KEY: json.dumps(metadata)}))
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(format=99), "written by a newer coda .format 99.; upgrade"),
        (lambda d: d.update(architecture="transformer"), "architecture 'transformer' is not known; known: coda_net"),
        (lambda d: d["arguments"].update(depth=3), "arguments do not fit architecture 'coda_net'"),
        (lambda d: d["arguments"].pop("norm"), "arguments do not fit architecture 'coda_net'"),
        (lambda d: d["arguments"].update(norm="L7"), "norm is 'L7'; expected one of SQ, L2"),
        (lambda d: d["arguments"].update(ranks=[2]), "2 kernels need 3 channels"),
        (lambda d: d["arguments"].update(ranks=[2, -4]), "net.safetensors: "),
        (lambda d: d["arguments"].update(groups=[0, 1]), "net.safetensors: "),
        (lambda d: d["arguments"].update(ranks=[2, 5]), r"layers.1.V: expected \[5, 4, 1, 1\], got \[4, 4, 1, 1\]"),
        (lambda d: d["arguments"].update(kernels=[10**12, 1]), "kernels: expected 1 to 128 whole numbers"),
        (lambda d: d["arguments"].update(ranks=[2, 10**13]), "ranks: expected 1 to 128 whole numbers"),
        (lambda d: d.update(classes=["cat", "dog"], wnids=None, synonyms=None), "2 classes and 3 outputs"),
        (lambda d: d.update(wnids=["n1"]), "1 wnids for 3 classes"),
        (lambda d: d.pop("preprocessing"), "preprocessing: Field required"),
        (lambda d: d.update(colour="red"), "colour: Extra inputs are not permitted"),
    ],
)
def test_a_description_that_does_not_fit_is_named(
    tmp_path: Path, change: Callable[[Any], object], message: str
) -> None:
    path = rewrite(small_file(tmp_path / "net.safetensors"), description=change)
    said = refusal(path)
    assert re.search(message, said)
    assert str(path) in said


def test_missing_and_additional_tensors_are_named(tmp_path: Path) -> None:
    path = rewrite(small_file(tmp_path / "net.safetensors"), tensors=lambda k, v: None if k == "layers.1.b" else v)
    assert re.search(r"lacks 1 tensors of its architecture, layers\.1\.b among them", refusal(path))
    content = safetensors.torch.load_file(small_file(path)) | {"layers.9.b": torch.zeros(1)}
    path.write_bytes(safetensors.torch.save(content, headers.read_metadata(path)))
    assert re.search(r"holds 1 tensors its architecture has not, layers\.9\.b among them", refusal(path))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    def spoil(key: str, tensor: Tensor) -> Tensor:
        if key == "layers.1.U":
            tensor.view(-1)[3] = value
        return tensor

    path = rewrite(small_file(tmp_path / "net.safetensors"), tensors=spoil)
    assert re.search(r"1 of 48 values of layers\.1\.U are not finite", refusal(path))


def test_a_safetensors_file_of_another_program_is_refused(tmp_path: Path) -> None:
    safetensors.torch.save_file({"weight": torch.zeros(2)}, tmp_path / "net.safetensors")
    assert re.search("without coda's description", refusal(tmp_path / "net.safetensors"))


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.999])
def test_a_truncated_safetensors_file_is_refused(tmp_path: Path, share: float) -> None:
    path = small_file(tmp_path / "net.safetensors")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert re.search("not a safetensors file|damaged or truncated", refusal(path))


@pytest.mark.parametrize("content", [b"I am text\n" * 9, struct.pack("<Q", 1 << 60), struct.pack("<Q", 2) + b"[]"])
def test_what_is_no_safetensors_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "net.safetensors").write_bytes(content)
    assert re.search("not a safetensors file", refusal(tmp_path / "net.safetensors"))


def test_arch_is_refused_where_the_file_describes_itself(tmp_path: Path) -> None:
    path = small_file(tmp_path / "net.safetensors")
    assert re.search("--arch is for files without a description", refusal(path, UsageError, arch=RANK_4))


# ---- names -----------------------------------------------------------------------------------------------------------


def test_neither_name_nor_file_says_what_is_near_or_here() -> None:
    message = refusal("zebra")
    assert re.search("no such file, and no network has that name; here are ", message)
    assert all((name in message) == entry.here for name, entry in known().items())
    assert "coda models list shows all" in message
    message = refusal("imagenett")
    assert re.search("no such file, and no network has that name", message)
    assert "did you mean 'imagenette'?" in message


def test_a_published_network_that_is_not_here_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CODA_CACHE_DIR", str(tmp_path))
    assert re.search("not on this machine; get it with: coda models pull 9L-S-CoDA-SQ-10", refusal("9L-S-CoDA-SQ-10"))


def put_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sha256: str | None) -> KnownCheckpoint:
    """A published network's file in a cache of its own; ``sha256`` is what an earlier pull recorded."""
    monkeypatch.setenv("CODA_CACHE_DIR", str(tmp_path))
    entry = known()["9L-S-CoDA-SQ-10"]
    entry.path.parent.mkdir()
    torch.save(authors_state(PUBLISHED["9L-S-CoDA-SQ-10"]), entry.path)
    if sha256:
        manifest.recorded_hash_file(entry.path).write_text(sha256 + "\n", encoding="ascii")
    return entry


def test_a_record_of_a_hash_that_is_none_is_about_its_own_network_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = put_published(tmp_path, monkeypatch, None)
    manifest.recorded_hash_file(entry.path).write_bytes(b"\xff\xfe no hash")
    load("cifar10")
    assert re.search("the manifest says", refusal("9L-S-CoDA-SQ-10"))


def test_loaded_weights_lie_in_memory_as_those_of_a_new_network(tmp_path: Path) -> None:
    """Kernels in another order are copied in every forward pass."""
    for net in (load("cifar10"), load(authors_file(tmp_path / "weights.pkl"), arch=RANK_4)):
        new = build(net.checkpoint.architecture, net.checkpoint.arguments).state_dict()
        assert {key: value.stride() for key, value in net.model.state_dict().items()} == {
            key: value.stride() for key, value in new.items()
        }


def test_a_published_network_is_loaded_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = put_published(tmp_path, monkeypatch, None)
    manifest.recorded_hash_file(entry.path).write_text(file_sha256(entry.path), encoding="ascii")
    net = load("9L-S-CoDA-SQ-10")
    assert net.checkpoint == entry.checkpoint
    assert net.assumed == ()  # the name says it all
    assert re.search("has its own", refusal("9L-S-CoDA-SQ-10", UsageError, arch="9L-S-CoDA-SQ-50"))


def test_a_hash_that_does_not_match_is_refused_and_mended_by_a_pull(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = put_published(tmp_path, monkeypatch, "0" * 64)
    with pytest.raises(CheckpointError) as caught:
        load("9L-S-CoDA-SQ-10")
    assert caught.value.exit_code == ExitCode.CHECKPOINT
    assert f"sha256 is {file_sha256(entry.path)}, the manifest says {'0' * 64}" in str(caught.value)
    assert "coda models pull 9L-S-CoDA-SQ-10 --force" in str(caught.value)


BUNDLED = [entry for entry in known().values() if entry.url is None]


@pytest.mark.parametrize("entry", BUNDLED, ids=lambda entry: entry.checkpoint.name)
def test_every_bundled_network_is_what_its_entry_says(entry: KnownCheckpoint) -> None:
    assert entry.sha256 == hashlib.sha256(entry.path.read_bytes()).hexdigest()
    net = load(entry.checkpoint.name)
    assert net.checkpoint == entry.checkpoint
    crop = net.checkpoint.preprocessing.crop
    assert net.model(picture(crop)).shape == (2, len(net.checkpoint.classes))
    assert len(set(net.checkpoint.classes)) == len(net.checkpoint.classes)
    assert net.checkpoint.accuracy is not None
    assert 0 < net.checkpoint.accuracy.value <= 1
    assert net.checkpoint.accuracy.pictures > 0
    assert net.checkpoint.training["data"]
    assert net.checkpoint.licence
    assert proof.prove(net).exact


def test_the_default_network_is_bundled() -> None:
    assert not BUNDLED or manifest.DEFAULT in {entry.checkpoint.name for entry in BUNDLED}


# ---- the authors' files ----------------------------------------------------------------------------------------------


def authors_file(path: Path, state: Mapping[str, Any] | None = None, *, legacy: bool = False) -> Path:
    """A file as the authors' ``torch.save`` writes it; ``legacy`` is the container of torch before 1.6."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(rank_4_state() if state is None else state, path, _use_new_zipfile_serialization=not legacy)
    return path


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
    sidecar = manifest.published_checkpoint(RANK_4).model_copy(update={"name": "mine", "classes": tuple("abcdefghij")})
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


# ---- converting ------------------------------------------------------------------------------------------------------


def test_a_converted_file_describes_itself_and_gives_the_same_logits(tmp_path: Path) -> None:
    source = load(authors_file(tmp_path / "weights.pkl"), arch=RANK_4)
    assert proof.convert(source, tmp_path / "net.safetensors") == 0
    converted = load(tmp_path / "net.safetensors")
    assert converted.checkpoint == source.checkpoint
    assert torch.equal(converted.model(picture()), source.model(picture()))
    assert {path.name for path in tmp_path.iterdir()} == {"weights.pkl", "net.safetensors"}


def test_a_conversion_that_changes_a_logit_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = load(authors_file(tmp_path / "weights.pkl"), arch=RANK_4)
    (tmp_path / "net.safetensors").write_text("what was there")

    def careless(model: torch.nn.Module, checkpoint: Checkpoint, path: Path) -> None:
        save(model, checkpoint.model_copy(update={"arguments": checkpoint.arguments | {"temperature": 1001.0}}), path)

    monkeypatch.setattr(proof, "save", careless)
    with pytest.raises(ExactnessError, match="not written, the copy's logits differ by"):
        proof.convert(source, tmp_path / "net.safetensors")
    assert (tmp_path / "net.safetensors").read_text() == "what was there"
    assert {path.name for path in tmp_path.iterdir()} == {"weights.pkl", "net.safetensors"}


# ---- proving ---------------------------------------------------------------------------------------------------------


def test_a_network_is_proven_exact_in_both_precisions_and_left_as_it_was(tmp_path: Path) -> None:
    net = load(authors_file(tmp_path / "weights.pkl"), arch=RANK_4)
    before = {key: value.clone() for key, value in net.model.state_dict().items()}
    found = proof.prove(net)
    assert found.exact
    assert 0 <= found.residual_float64 < 1
    assert 0 < found.residual_float32 < 1
    assert 0 < found.map_difference < 1e-4
    with torch.no_grad():
        logits = net.model(proof.picture(net))[0]
    assert found.index == int(logits.argmax())
    assert found.logit == pytest.approx(float(logits[found.index]), rel=1e-4)
    for key, value in net.model.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, before[key])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_network_with_a_constant_of_its_own_in_either_precision_is_not_exact(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    net = load(authors_file(tmp_path / "weights.pkl"), arch=RANK_4)

    class Shifted(torch.nn.Module):
        bias = net.model.bias

        def forward(self, x: Tensor) -> Tensor:
            return net.model.to(x.dtype)(x) + (0.001 if x.dtype == dtype else 0)

    found = proof.prove(Net(Shifted(), net.checkpoint, net.path, net.sha256))
    assert not found.exact
    assert (found.residual_float32 > 1) == (dtype == torch.float32)
    assert (found.residual_float64 > 1) == (dtype == torch.float64)


def test_two_exact_maps_that_differ_prove_nothing(tmp_path: Path) -> None:
    net = load(authors_file(tmp_path / "weights.pkl"), arch=RANK_4)

    class Linear(torch.nn.Module):
        """Exact in both precisions, and another network in each: as where float32 loses outputs to an overflow."""

        bias = 0.1

        def forward(self, x: Tensor) -> Tensor:
            evidence = x[:, :3] if x.dtype == torch.float32 else x[:, 3:]
            return evidence.mean((2, 3)) + self.bias

    found = proof.prove(Net(Linear(), net.checkpoint, net.path, net.sha256))
    assert found.residual_float32 < 1
    assert found.residual_float64 < 1
    assert found.map_difference > 0.1
    assert not found.exact
