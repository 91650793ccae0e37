"""The authors' files of B-cos networks: told apart, described, loaded, refused; no code in them runs."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Coda
from films import counted, film
from program import photo
from torch import Tensor, nn

from coda_cli.checkpoints import manifest
from coda_cli.checkpoints.loading import load
from coda_cli.checkpoints.published_bcos import BCOS
from coda_cli.checkpoints.published_descriptions import published_checkpoint
from coda_cli.core.networks import build
from coda_cli.errors import CheckpointError, UsageError

# The smallest published network of every kind of file.
V1, V2, VIT = "9L-M2-B2", "bcos-resnet18", "bcos-vitc_ti_patch1_14"


def network(name: str) -> nn.Module:
    torch.manual_seed(1)
    entry = published_checkpoint(name)
    return build(entry.architecture, entry.arguments).eval()


def authors_state(model: nn.Module, name: str) -> dict[str, Tensor]:
    """A state dict with the keys of the authors' files: a chain by its numbers, version 1 and transformers under 0."""
    zero = "0." if BCOS[name].version == 1 or "vit" in name else ""
    zero = "" if name.startswith("9L") else zero
    return {zero + key.removeprefix("backbone."): value for key, value in model.state_dict().items()}


def saved(path: Path, content: Any, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path, **options)
    return path


def same(model: nn.Module, other: nn.Module, size: int) -> bool:
    x = torch.rand(1, 6, size, size)
    with torch.no_grad():
        return torch.equal(model(x), other(x))


@pytest.mark.parametrize(("name", "size"), [(V1, 32), (V2, 64), (VIT, 32)])
def test_a_file_loads_by_the_name_of_its_configuration(name: str, size: int, tmp_path: Path) -> None:
    model = network(name)
    path = saved(tmp_path / "weights.pkl", authors_state(model, name))
    net = load(path, arch=name)
    assert same(net.model, model, size)
    assert net.checkpoint == published_checkpoint(name)
    assert f"configuration {name} from --arch" in net.assumed[0]


@pytest.mark.parametrize(
    ("name", "path"),
    [
        (V1, "CIFAR10/final/9L-M2-B2/state_dict.pkl"),
        (V2, "resnet_18-68b4160fff.pth"),
        ("bcos-resnet34", "resnet_34-0123456789.pth"),  # as coda's users may have trained it
        (VIT, f"{VIT}/weights.pth"),
        (VIT, "bcos_vitc_ti_patch1_14-0000000000.pth"),
    ],
)
def test_a_path_names_the_configuration(name: str, path: str, tmp_path: Path) -> None:
    net = load(saved(tmp_path / path, authors_state(network(name), name)))
    assert net.checkpoint.name == name
    assert "from the file's path" in net.assumed[0]


def test_a_hash_names_the_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "w.pth", authors_state(network(V2), V2))
    from coda_cli.checkpoints.loading import file_sha256

    link = f"resnet_50_long-{file_sha256(path)[:10]}.pth"
    entry = BCOS[V2].__class__(**{**BCOS[V2].__dict__, "link": link})
    monkeypatch.setitem(BCOS, V2, entry)
    assert "from the file's hash" in load(path).assumed[0]


def test_what_nothing_names_is_asked_for_with_what_fits(tmp_path: Path) -> None:
    path = saved(tmp_path / "w.pkl", authors_state(network(V1), V1))
    with pytest.raises(CheckpointError, match=r"its shapes fit 9L-M2-B1, 9L-M2-B1\.25.*--arch NAME"):
        load(path)
    with pytest.raises(UsageError, match="no such configuration"):
        load(path, arch="9L-M2")
    with pytest.raises(CheckpointError, match=r"of a B-cos network .version 1., which --arch"):
        load(path, arch="9L-S-CoDA-SQ-1000")
    with pytest.raises(CheckpointError, match="is it another configuration"):
        load(path, arch="bcos-v1-resnet_34")


def test_trainers_wrappings_and_the_moving_average(tmp_path: Path) -> None:
    model, other = network(V2), network(V2)
    with torch.no_grad():
        other.backbone.fc.linear.weight.neg_()  # type: ignore[union-attr, operator]
    state = authors_state(model, V2)
    average = {f"ema.module.{key}": value for key, value in authors_state(other, V2).items()}
    plain = {f"model.{key}": value for key, value in state.items()}
    wrapped = {"epoch": 3, "state_dict": plain}
    assert same(load(saved(tmp_path / "a.ckpt", wrapped), arch=V2).model, model, 64)
    both = load(
        saved(tmp_path / "b.ckpt", {"state_dict": plain | average | {"ema.n_averaged": torch.tensor(4)}}), arch=V2
    )
    assert same(both.model, other, 64)
    assert "moving average" in both.assumed[0]
    assert same(load(saved(tmp_path / "c.pkl", {"the_model": state, "optimiser": {}}), arch=V2).model, model, 64)


class _Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch harmed",)


class _Settings(dict[str, Any]):
    """What trainers pickle beside the weights."""


def test_a_trainer_s_file_loads_and_no_code_in_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = network(V2)
    state = {f"model.{key}": value for key, value in authors_state(model, V2).items()}
    content = {"state_dict": state, "hyper_parameters": _Settings(lr=_Settings(a=1)), "callbacks": [_Harmful()]}
    for number, options in enumerate(({}, {"_use_new_zipfile_serialization": False})):
        assert same(load(saved(tmp_path / f"{number}.ckpt", content, **options), arch=V2).model, model, 64)
    (tmp_path / "bare.pkl").write_bytes(pickle.dumps(_Harmful()))
    with pytest.raises(CheckpointError):
        load(tmp_path / "bare.pkl", arch=V2)
    assert not (tmp_path / "harmed").exists()


def test_an_auxiliary_head_is_left_out_and_said(tmp_path: Path) -> None:
    state = {"0.fc.linear.weight": torch.zeros(2000, 2048, 1, 1), "0.AuxLogits.fc.linear.weight": torch.zeros(2, 3)}
    with pytest.raises(CheckpointError, match=r"lacks Conv2d_1a_3x3\.conv\.linear\.weight"):  # and not: holds AuxLogits
        load(saved(tmp_path / "w.pkl", state), arch="bcos-v1-inception_v3")


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (
            {"0.transformer.encoder_0.attn.to_qkv.weight": torch.zeros(3, 1)},
            "ordinary vision transformer; .*--arch: standard_simple_vit_ti_patch16_224",
        ),
        ({"layer1.0.conv1.weight": torch.zeros(1, 1, 3, 3)}, "convolutional network; .*--arch torchvision:NAME"),
        ({"x": torch.zeros(1)}, "no network that coda knows"),
    ],
)
def test_weights_that_nothing_names_are_refused_with_what_to_say(
    state: dict[str, Tensor], said: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=said):
        load(saved(tmp_path / "w.pth", state))


def test_every_published_network_is_known_with_its_link_and_size() -> None:
    known = manifest.known()
    for name, entry in BCOS.items():
        assert known[name].page if entry.version == 3 else known[name].url
        assert known[name].sha256_prefix == entry.sha256_prefix
        assert len(entry.sha256_prefix) == (10 if entry.version == 2 else 0)
        with torch.device("meta"):
            model = build(entry.architecture, entry.arguments)
        assert sum(p.numel() for p in model.parameters()) == entry.parameters
        assert len(known[name].checkpoint.classes) == (10 if name.startswith("9L") else 1000)
    assert sum(entry.version == 2 for entry in BCOS.values()) == 26 + 8  # the ordinary transformers beside them


def test_a_file_that_is_not_the_published_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODA_CACHE_DIR", str(tmp_path))
    saved(manifest.known()[V2].path, authors_state(network(V2), V2))
    with pytest.raises(CheckpointError, match="the published one begins with 68b4160fff"):
        load(V2)


def test_the_program_explains_by_b_cos_networks_and_says_the_positional_share(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png", 40, 40)
    saved(tmp_path / "vit.pth", authors_state(network(VIT), VIT))
    result = coda("explain", "a.png", "-m", "vit.pth", "--arch", VIT, "--class", "lorikeet", "--json")
    (part,) = result.records[0]["explained"]
    assert part["name"] == "lorikeet"
    assert part["positional"] != 0
    total = part["positive"] + part["negative"] + part["positional"] + part["bias"] + part["residual"]
    assert total == pytest.approx(part["logit"], abs=1e-6)
    assert " positional, residual" in result.err
    vit = ("-m", "vit.pth", "--arch", VIT)
    (record,) = coda("explain", "a.png", *vit, "--class", "lorikeet", "--layer", "all", "--json", "-o", "l").records
    layers = record["explained"][0]["layers"]
    film(tmp_path / "a.mkv", counted(2))
    *_, whole = coda("video", "a.mkv", *vit, "-c", "lorikeet", "--format", "none", "--json").records
    (clip,) = whole["explained"]
    total = clip["mean_positive"] + clip["mean_negative"] + clip["mean_positional"] + clip["mean_bias"]
    assert total == pytest.approx(clip["mean_logit"], abs=1e-5)
    assert clip["mean_bias"] == pytest.approx(part["bias"])
    for layer in layers:
        total = layer["sum"] + layer["positional"] + part["bias"] + layer["residual"]
        assert total == pytest.approx(part["logit"], abs=1e-5)
    assert (layers[0]["positional"], layers[-1]["positional"]) == (pytest.approx(part["positional"], rel=1e-4), 0)
    coda("models", "convert", "vit.pth", "--arch", VIT, "-o", "vit.safetensors")
    again = coda("explain", "a.png", "-m", "vit.safetensors", "--class", "lorikeet", "--json", "-o", "b")
    assert again.records[0]["explained"][0]["logit"] == part["logit"]
    shown = coda("models", "show", "vit.safetensors").out
    assert "B-cos v2" in shown
    assert "5318712" in shown
    assert "None" not in shown  # it has no temperature
