"""Files of B-cosified networks: told from those of B-cos v2, which can have the same tensors, or asked for."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Coda
from films import counted, film
from program import photo
from test_bcosified import authors_names, settled
from torch import Tensor, nn

from coda_cli.checkpoints import manifest
from coda_cli.checkpoints.loading import load
from coda_cli.checkpoints.published_bcos import BCOS, bcos_named_in, twin
from coda_cli.checkpoints.published_descriptions import published_checkpoint
from coda_cli.core.networks import build, encode
from coda_cli.errors import CheckpointError, CodaError, UsageError

RESNET, DENSENET, VIT = "bcosified-resnet18", "bcosified-densenet121", "bcosified-vitc_ti_patch1_14"
CLIP = "bcosified-clip_rn50"


@lru_cache(3)  # no test changes them
def network(name: str) -> nn.Module:
    torch.manual_seed(1)
    entry = published_checkpoint(name)
    return settled(build(entry.architecture, entry.arguments), encode(torch.rand(2, 3, 64, 64)))


def lightning(state: dict[str, Tensor], prefix: str = "model.model.", **told: str) -> dict[str, Any]:
    """A file of the authors' trainer."""
    return {
        "epoch": 89,
        "pytorch-lightning_version": "1.9.4",
        "state_dict": {prefix + key: value for key, value in state.items()},
        "hyper_parameters": {**told, "save_dir": Path("/somewhere"), "b": 2},
    }


def saved(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path


def same(model: nn.Module, other: nn.Module, side: int = 64) -> bool:
    x = torch.rand(1, 6, side, side)
    with torch.no_grad():
        return torch.equal(model(x), other(x))


@pytest.mark.parametrize("name", [RESNET, "bcosified-resnet50", DENSENET, VIT, "bcosified-simple_vit_ti_patch16_224"])
def test_the_authors_files_load_with_either_count_of_prefixes(name: str, tmp_path: Path) -> None:
    model = network(name)
    state = authors_names(model)
    twice = load(saved(tmp_path / "last.ckpt", lightning(state)), arch=name)
    once = load(saved(tmp_path / "bare.pth", {"model." + key: value for key, value in state.items()}), arch=name)
    for net in (twice, once):
        assert same(net.model, model)
        assert net.checkpoint == published_checkpoint(name)
        assert f"configuration {name} from --arch" in " ".join(net.assumed)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("ImageNet/bcosification/resnet_18/last.ckpt", RESNET),
        ("ImageNet/bcosification/resnet_50_V1/last.ckpt", "bcosified-resnet50_V1"),
        ("ImageNet/bcosification/resnet_50/epoch=89-val_acc1=0.75.ckpt", "bcosified-resnet50"),
        ("bcosification/resnet_18-0123456789.pth", RESNET),
        ("bcosified-resnet18/last.ckpt", RESNET),
        ("bcosifyv2_bcos_simple_vit_b_patch16_224_0.001_lrWarmup_gapReorder.ckpt",
         "bcosified-simple_vit_b_patch16_224"),
        ("vit_bcosification/bcosifyv2_bcos_vitc_ti_patch1_14_0.001_gapReorder/last.ckpt", VIT),
        ("ImageNet/clip_bcosification/resnet_50_clip_b2_noBias_randomResizedCrop_sigLip_ImageNet_bcosification/a.ckpt",
         CLIP),
        # Other networks: without GELU, with the mean first, trained with another seed's or another depth's name.
        ("bcosifyv2_bcos_simple_vit_b_patch16_224_0.001_lrWarmup_noGelu_gapReorder.ckpt", None),
        ("bcosifyv2_bcos_simple_vit_b_patch16_224_0.001_lrWarmup.ckpt", None),
        ("ImageNet/bcosification/resnet_181/last.ckpt", None),
        ("resnet_18/last.ckpt", None),
    ],
)  # fmt: skip
def test_paths_name_experiments(path: str, name: str | None) -> None:
    assert bcos_named_in(f"/d/{path}", [n for n, entry in BCOS.items() if entry.version in (2, 3)]) == name


def test_a_path_and_an_experiment_inside_a_file_name_the_network(tmp_path: Path) -> None:
    state = authors_names(network(RESNET))
    by_path = load(saved(tmp_path / "ImageNet/bcosification/resnet_18/last.ckpt", lightning(state)))
    assert by_path.checkpoint.name == RESNET
    assert "from the file's path" in " ".join(by_path.assumed)
    told = {"dataset": "ImageNet", "base_network": "bcosification", "experiment_name": "resnet_18"}
    inside = load(saved(tmp_path / "renamed.ckpt", lightning(state, **told)))
    assert inside.checkpoint.name == RESNET
    assert "from its experiment" in " ".join(inside.assumed)
    told["base_network"] = "bcos_final"
    assert load(saved(tmp_path / "v2.ckpt", lightning(state, "model.", **told))).checkpoint.name == "bcos-resnet18"


@pytest.mark.parametrize("prefix", ["", "model."])
@pytest.mark.parametrize("path", ["weights.pth", "resnet_18-0123456789.pth"])
def test_bare_weights_of_a_resnet_are_asked_about(prefix: str, path: str, tmp_path: Path) -> None:
    state = {prefix + key: value for key, value in authors_names(network(RESNET)).items()}
    file = saved(tmp_path / path, state)
    with pytest.raises(CheckpointError, match=r"fit bcos-resnet18, bcosified-resnet18 .*keeps the norms.*--arch NAME"):
        load(file)
    v2, bcosified = load(file, arch="bcos-resnet18"), load(file, arch=RESNET)
    assert not same(v2.model, bcosified.model)


def test_a_second_prefix_leaves_b_cosified_networks_alone_to_choose_from(tmp_path: Path) -> None:
    file = saved(tmp_path / "last.ckpt", lightning(authors_names(network(RESNET))))
    with pytest.raises(CheckpointError, match="its shapes fit bcosified-resnet18; say which"):
        load(file)


@pytest.mark.parametrize(
    ("name", "arch", "told", "said"),
    [
        (RESNET, "bcos-resnet18", {"base_network": "bcosification"}, "its experiment is ImageNet/bcosification/x"),
        (RESNET, RESNET, {"base_network": "bcos_final"}, "its experiment is ImageNet/bcos_final/x, as in files of"),
        (DENSENET, "bcos-densenet121", {}, "its dense blocks are numbered"),
        (VIT, "bcos-vitc_ti_patch1_14", {}, 'its names do not begin with "0."'),
    ],
)  # fmt: skip
def test_a_name_that_the_file_denies_is_refused(
    name: str, arch: str, told: dict[str, str], said: str, tmp_path: Path
) -> None:
    told = {"dataset": "ImageNet", "experiment_name": "x"} | told if told else {}
    file = saved(tmp_path / "a.ckpt", lightning(authors_names(network(name)), "model.", **told))
    with pytest.raises(CheckpointError, match=said):
        load(file, arch=arch)


def test_the_names_of_version_2_are_no_b_cosified_network(tmp_path: Path) -> None:
    for arch, other, zero in (("bcos-densenet121", DENSENET, ""), ("bcos-vitc_ti_patch1_14", VIT, "0.")):
        state = {zero + k.removeprefix("backbone."): v for k, v in network(arch).state_dict().items()}
        file = saved(tmp_path / f"{arch}.pth.tar", state)
        assert load(file, arch=arch).checkpoint.name == arch
        with pytest.raises(CheckpointError, match=r"files of B-cos networks of version 2; --arch bcosified"):
            load(file, arch=other)


def test_unequal_norms_of_the_first_filters_are_a_hint_and_decide_nothing(tmp_path: Path) -> None:
    state = authors_names(network(RESNET))
    equal = saved(tmp_path / "equal.pth", state)
    state["conv1.linear.weight"] = state["conv1.linear.weight"] * torch.linspace(0.01, 2, 64)[:, None, None, None]
    unequal = saved(tmp_path / "unequal.pth", state)
    assert len(load(equal, arch="bcos-resnet18").assumed) == 1
    assert "if it is one, --arch bcosified-resnet18" in load(unequal, arch="bcos-resnet18").assumed[1]
    assert len(load(unequal, arch=RESNET).assumed) == 1
    assert "if it is one, --arch bcos-resnet18" in load(equal, arch=RESNET).assumed[1]


def test_twins_have_the_same_shapes() -> None:
    pairs = [(name, twin(name)) for name, entry in BCOS.items() if entry.version == 3 and name != CLIP]
    assert len(pairs) == 12
    for name, other in pairs:
        assert other is not None
        assert BCOS[name].parameters == BCOS[other].parameters
        assert BCOS[other].version == 2
    assert twin(CLIP) is None
    assert twin("9L-M2-B2") is None


# ---- the program -----------------------------------------------------------------------------------------------------


def test_the_program_explains_by_a_b_cosified_network(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png", 64, 64)
    saved(tmp_path / "last.ckpt", lightning(authors_names(network(RESNET))))
    fit = ("--fit", "native", "--class", "lorikeet")
    result = coda("explain", "a.png", "-m", "last.ckpt", "--arch", RESNET, *fit, "--json", "--style", "colour")
    assert result.records[0]["network"]["zero"] == [0.485, 0.456, 0.406]
    (part,) = result.records[0]["explained"]
    assert part["exactness"] == "by construction"
    assert part["exact"]
    total = part["positive"] + part["negative"] + part["bias"] + part["residual"]
    assert total == pytest.approx(part["logit"], abs=1e-6)
    assert "spread" not in result.err
    coda("models", "convert", "last.ckpt", "--arch", RESNET, "-o", "own.safetensors")
    again = coda("explain", "a.png", "-m", "own.safetensors", *fit, "--json", "-o", "b").records[0]
    assert again["explained"][0]["logit"] == part["logit"]
    # Where layers are looked at, their constants are not folded. That is another rounding in each of them, and another
    # one on each kind of processor: as far off as a residual in float32 may be.
    layers = coda("explain", "a.png", "-m", "own.safetensors", *fit, "--json", "-o", "c", "--layer", "all").records[0]
    assert layers["explained"][0]["logit"] == pytest.approx(part["logit"], rel=1e-5)
    assert len(layers["explained"][0]["layers"]) > 4
    shown = coda("models", "show", "own.safetensors").out
    assert "B-cosified" in shown
    assert "ImageNet's mean and deviation, as the network's first step" in shown
    assert (
        "exact down to the pixels by" in coda("explain", "a.png", "-m", "own.safetensors", "--cut", "fc", status=2).err
    )
    refused = coda("explain", "a.png", "-m", "last.ckpt", status=3)
    assert "its shapes fit bcosified-resnet18" in refused.err


def test_networks_whose_file_names_are_not_known_have_a_page(coda: Coda) -> None:
    listed = {entry["name"]: entry for entry in coda("models", "list", "--json").records}
    published = {name for name, entry in BCOS.items() if entry.version == 3}
    assert {name for name, entry in listed.items() if entry["family"] == "B-cosified"} == published
    assert listed[RESNET]["where"] == "not here"
    assert listed[RESNET]["parameters"] == 11693120
    assert listed[CLIP]["preprocessing"] == {"resize": 224, "crop": 224, "interpolation": "bicubic"}
    page = "https://github.com/shrebox/B-cosification/releases/tag/v0.0.1-checkpoints"
    assert page in coda("models", "show", RESNET).out
    assert "bicubic; CLIP's mean and deviation" in coda("models", "show", CLIP).out
    assert f"{page} it is; download it there" in coda("models", "pull", RESNET, status=2).err
    photo(Path("a.png"))
    assert f"download it from {page}" in coda("explain", "a.png", "-m", RESNET, status=3).err
    assert manifest.find(RESNET).url is None


# ---- texts -----------------------------------------------------------------------------------------------------------

TEXTS = ("a photo of a cat", "a photo of a dog", "nothing at all")


def texts(path: Path, seed: int = 0, **changes: Any) -> Path:
    vectors = np.random.default_rng(seed).normal(size=(3, 1024)).astype(np.float32)
    np.savez(path, **({"names": np.array(TEXTS), "vectors": vectors} | changes))
    return path


@pytest.fixture(scope="module")
def clip_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("clip") / "clip.ckpt", lightning(authors_names(network(CLIP))))


def test_texts_are_the_classes_of_clip(coda: Coda, tmp_path: Path, clip_file: Path) -> None:
    photo(tmp_path / "a.png", 80, 64)
    texts(tmp_path / "t.npz")
    model = ("-m", str(clip_file), "--arch", CLIP, "--text", "t.npz")
    cat, dog = ("--class", TEXTS[0]), ("--versus", TEXTS[1])
    record = coda("explain", "a.png", *model, *cat, *dog, "--json", "--fit", "native").records[0]
    (part,) = record["explained"]
    net = load(clip_file, arch=CLIP, text=tmp_path / "t.npz")
    assert net.checkpoint.classes == TEXTS
    assert part["exact"]
    assert part["bias"] == 0
    assert abs(part["logit"]) < 2
    assert part["positive"] + part["negative"] == pytest.approx(part["logit"], abs=1e-6)
    scores = {entry["name"]: entry["logit"] for entry in record["top"]}
    assert scores[TEXTS[0]] - scores[TEXTS[1]] == pytest.approx(part["logit"], abs=1e-6)
    film(tmp_path / "a.mkv", counted(2))
    *_, whole = coda("video", "a.mkv", *model, *cat, "--format", "none", "--json", "--fit", "native").records
    assert whole["explained"][0]["name"] == TEXTS[0]


def test_a_converted_file_holds_its_texts_and_takes_others(coda: Coda, tmp_path: Path, clip_file: Path) -> None:
    first = texts(tmp_path / "t.npz")
    said = (str(clip_file), "--arch", CLIP, "--text", "t.npz")
    assert coda("models", "show", *said, "--json").record["class_count"] == 3
    coda("models", "convert", *said, "-o", "own.safetensors")
    own = load(tmp_path / "own.safetensors")
    assert own.checkpoint.classes == TEXTS
    vectors = own.model.above.text  # type: ignore[union-attr]
    assert own.checkpoint.arguments["texts"] == hashlib.sha256(vectors.numpy().tobytes()).hexdigest()  # type: ignore[union-attr, operator]
    assert same(own.model, load(clip_file, arch=CLIP, text=first).model)
    other = load(tmp_path / "own.safetensors", text=texts(tmp_path / "u.npz", seed=1))
    assert not same(own.model, other.model)
    # Results of other vectors are not taken for these: the description is part of what is kept beside a result.
    assert own.checkpoint.arguments != other.checkpoint.arguments
    assert "its 3 classes are the texts of u.npz" in other.assumed


def test_clip_without_texts_asks_for_them(clip_file: Path) -> None:
    with pytest.raises(CheckpointError, match=r"say which with --text FILE\.npz"):
        load(clip_file, arch=CLIP)


def test_other_networks_take_no_texts(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="networks that compare pictures with texts; cifar10-bcos has classes"):
        load("cifar10-bcos", text=texts(tmp_path / "t.npz"))
    with pytest.raises(UsageError, match="networks that compare pictures with texts; Sequential has classes"):
        load(nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 3)), size=8, cut=None, text=tmp_path / "t.npz")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"names": np.array(TEXTS[:2])}, "holds 2 names and 3 vectors"),
        ({"names": np.array([*TEXTS[:2], TEXTS[0]])}, "two of its texts are 'a photo of a cat'"),
        ({"names": np.array([*TEXTS[:2], "a\nb"])}, "its texts cannot be names of classes"),
        ({"names": np.arange(3)}, r"expected names .texts, \[K\]. and vectors"),
        ({"names": np.array(["x", "y", {}], dtype=object)}, "cannot be read"),
        ({"vectors": np.ones((3, 512), np.float32)}, "its vectors have 512 numbers, the embeddings of bcosified-clip"),
        ({"vectors": np.zeros((3, 1024), np.float32)}, "the vector of 'a photo of a cat' is 0"),
        ({"vectors": np.full((3, 1024), np.nan, np.float32)}, "is 0 or not finite"),
        ({"vectors": np.zeros((3, 1024), int)}, "expected names"),
    ],
)
def test_texts_that_are_none_are_refused(changes: dict[str, Any], said: str, tmp_path: Path, clip_file: Path) -> None:
    with pytest.raises(CodaError, match=said):
        load(clip_file, arch=CLIP, text=texts(tmp_path / "t.npz", **changes))


def test_files_that_hold_no_texts_are_refused(tmp_path: Path, clip_file: Path) -> None:
    np.savez(tmp_path / "a.npz", names=np.array(TEXTS))
    (tmp_path / "b.npz").write_bytes(b"PK\x03\x04 and no more")
    for name, said in (("a.npz", "lacks the array 'vectors'"), ("b.npz", "cannot be read"), ("c.npz", "no such file")):
        with pytest.raises(CheckpointError, match=said):
            load(clip_file, arch=CLIP, text=tmp_path / name)
