"""Files to networks and back: what is saved is loaded, names are found, and a proof holds what it says."""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from foreign import RANK_4, authors_state
from small_files import SMALL, authors_file, picture, refusal, small_checkpoint, small_file
from torch import Tensor

from coda_cli.checkpoints import headers, manifest, proof
from coda_cli.checkpoints.loading import Net, file_sha256, load
from coda_cli.checkpoints.manifest import Checkpoint, KnownCheckpoint, known
from coda_cli.checkpoints.published import PUBLISHED
from coda_cli.checkpoints.saving import save
from coda_cli.core.networks import CodaNet, build
from coda_cli.errors import CheckpointError, ExactnessError, ExitCode, MediaError, UsageError

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
    assert "did you mean 'imagenette' or 'imagenet'?" in message


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


BUNDLED = [entry for entry in known().values() if entry.bundled]


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

    def careless(model: torch.nn.Module, checkpoint: Checkpoint, path: Path, **_: bool) -> None:
        save(model, checkpoint.model_copy(update={"arguments": checkpoint.arguments | {"temperature": 1001.0}}), path)

    monkeypatch.setattr(proof, "save", careless)
    with pytest.raises(ExactnessError, match="not written, the copy's logits differ by"):
        proof.convert(source, tmp_path / "net.safetensors")
    assert (tmp_path / "net.safetensors").read_text() == "what was there"
    assert {path.name for path in tmp_path.iterdir()} == {"weights.pkl", "net.safetensors"}


def test_kernels_are_written_in_half_precision_vectors_are_not(tmp_path: Path) -> None:
    source = load(authors_file(tmp_path / "weights.pkl"), arch=RANK_4)
    source.model.register_buffer("variance", torch.tensor([1e-9, 1e6]))  # float16 holds neither
    save(source.model, source.checkpoint, tmp_path / "whole.safetensors")
    save(source.model, source.checkpoint, tmp_path / "half.safetensors", half=True)
    whole, half = (safetensors.torch.load_file(tmp_path / f"{name}.safetensors") for name in ("whole", "half"))
    assert torch.equal(half["variance"], whole["variance"])
    for key in whole.keys() - {"variance"}:
        assert half[key].dtype == torch.float16
        assert torch.equal(half[key], whole[key].half())


def test_a_half_is_loaded_in_single_precision_and_says_how_far_it_is_off(tmp_path: Path) -> None:
    source = load(authors_file(tmp_path / "weights.pkl"), arch=RANK_4)
    difference = proof.convert(source, tmp_path / "half.safetensors", half=True)
    proof.convert(source, tmp_path / "whole.safetensors")
    net = load(tmp_path / "half.safetensors")
    x = proof.picture(net)
    assert {p.dtype for p in net.model.parameters()} == {torch.float32}
    with torch.no_grad():
        assert difference == pytest.approx(float((net.model(x) - source.model(x)).abs().max()))
    assert 0 < difference < 0.05
    assert proof.prove(net).exact
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("half", "whole")]
    assert sizes[0] < 0.55 * sizes[1]


def test_weights_that_half_precision_does_not_hold_are_not_rounded(tmp_path: Path) -> None:
    source = load(authors_file(tmp_path / "weights.pkl"), arch=RANK_4)
    next(p for p in source.model.parameters() if p.dim() > 1).data[0, 0, 0, 0] = 1e5
    with pytest.raises(CheckpointError, match=r"half\.safetensors: 1 of .* values of .* are not finite"):
        proof.convert(source, tmp_path / "half.safetensors", half=True)
    assert not list(tmp_path.glob("*half*"))


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
