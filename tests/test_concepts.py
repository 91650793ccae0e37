"""Concepts: a dictionary behind a layer, held against its definition, and used as a program by somebody with a file."""

from __future__ import annotations

import csv
import json
import re
import threading
from pathlib import Path
from typing import Any, NamedTuple

import document_files
import documents
import jsonschema
import numpy as np
import pytest
import torch
import torchvision
from conftest import Coda
from documents import ROOT
from PIL import Image
from program import photo, strict_json
from safetensors.torch import save_file
from test_bcos import SMALL, small
from test_everywhere import TABLE
from test_hostile_checkpoints import HOSTILE, TORCH_HEAD
from torch import Tensor, nn

from coda_cli.checkpoints import loading
from coda_cli.checkpoints.manifest import Checkpoint, Preprocessing
from coda_cli.checkpoints.saving import save
from coda_cli.core import concepts
from coda_cli.core.concepts import ConceptDictionary, concepts_left_out, insert, layer_of
from coda_cli.core.decompose import decompose
from coda_cli.core.held import held
from coda_cli.core.networks import build, forward, hybrid_table
from coda_cli.core.neurons import Neuron, decompose_neurons, strongest_channels
from coda_cli.explanation.picture import explain
from coda_cli.schema import pictures

NUMBER, ACTIVE = 12, 3
# Of each network a layer, the name of its concepts, and the channels it has.
PLACES = {
    "chain, B = 2": ("1", "backbone.concepts.encoder", 4),  # among others in a sequence
    "resnet, basic": ("layer2", "backbone.layer2.concepts.encoder", 128),  # a sequence itself
    "densenet": ("features.norm5", "backbone.features.concepts.encoder", 12),  # the last of one
    "vit": ("0.transformer.encoder_0", "backbone.transformer.concepts.encoder", 64),  # tokens
}


HYBRID = {**hybrid_table("cifar-resnet20", "layer1", 3.0), "ranks": [4, 4, 4], "channels": [16, 8, 8, 3]}


class Textbook(NamedTuple):
    """What the formulas give for one class of one input."""

    logit: Tensor
    activations: Tensor  # u, [n, positions]
    contributions: Tensor  # [n], of each concept to the logit
    sums: Tensor  # [n, h, w], the map of each concept's activations
    shares: Tensor  # [n, h, w], the map of each concept's contribution


def dictionary(width: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """E [n, C], and D [C, n] with columns of length 1, which is not its transpose."""
    draw = torch.Generator().manual_seed(5)
    E, D = (torch.randn(NUMBER, width, generator=draw, dtype=dtype) for _ in range(2))
    return E, (D / D.norm(dim=1, keepdim=True)).T.contiguous()


def with_dictionary(name: str, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, Tensor]:
    """A small network with concepts, and its inputs."""
    model, x = small(name, dtype)
    layer, encoder, width = PLACES[name]
    at = insert(model, layer=layer, width=width, number=NUMBER, active=ACTIVE)
    assert f"{at}.encoder" == encoder
    E, D = dictionary(width, dtype)
    model.get_submodule(at).to(dtype).load_state_dict({"encoder.weight": E, "decoder.weight": D})
    return model.eval().requires_grad_(False), x


def by_the_book(name: str, x: Tensor, target: int) -> Textbook:
    """u = top_k(relu(E f)), D u in the place of f, by a hook on the network without concepts; gradients one by one."""
    model = small(name)[0]
    layer, _, width = PLACES[name]
    E, D = dictionary(width)
    kept: list[Tensor] = []

    def replaced(_: nn.Module, __: Any, f: Tensor) -> Tensor:
        rows = f.permute(0, 2, 3, 1) if f.ndim == 4 else f
        strongest = (rows @ E.T).relu().topk(ACTIVE)
        u = torch.zeros(*rows.shape[:-1], NUMBER, dtype=f.dtype).scatter(-1, strongest.indices, strongest.values)
        kept.append(u)
        y = u @ D.T
        return y.permute(0, 3, 1, 2) if f.ndim == 4 else y

    end = layer.removeprefix("0.")
    (place,) = [module for found, module in model.named_modules() if found.endswith(f".{end}")]
    place.register_forward_hook(replaced)
    with held(), torch.enable_grad():
        leaf = x.clone().requires_grad_()
        logit = model(leaf)[0, target]
    (g,) = torch.autograd.grad(logit, kept[0], retain_graph=True)
    u, gradient = kept[0].reshape(-1, NUMBER), g.reshape(-1, NUMBER)

    def pixels(value: Tensor) -> Tensor:
        (row,) = torch.autograd.grad(value, leaf, retain_graph=True)
        return (x * row)[0].sum(0)

    sums = torch.stack([pixels(u[:, j].sum()) for j in range(NUMBER)])
    shares = torch.stack([pixels((u[:, j] * gradient[:, j]).sum()) for j in range(NUMBER)])
    return Textbook(logit.detach(), u.detach().T, (u * gradient).detach().sum(0), sums, shares)


def close(found: Tensor, expected: Tensor) -> None:
    """Equal to 1e-9 of the largest number."""
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9 * float(expected.abs().max()))


@pytest.mark.parametrize("name", PLACES)
def test_concepts_their_contributions_and_their_maps_equal_the_textbook(name: str) -> None:
    model, x = with_dictionary(name)
    encoder = PLACES[name][1]
    x, weighting = x[:1], torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    book = by_the_book(name, x, 1)
    assert int((book.activations > 0).sum(0).max()) == ACTIVE
    found = strongest_channels(model, x, encoder, weighting, NUMBER)
    assert found.exact
    assert abs(found.residual) <= 1e-12 * max(1.0, float(found.shares.abs().sum()))
    assert found.logit == pytest.approx(float(book.logit), rel=1e-12)
    close(found.shares, book.contributions)
    maps = torch.zeros_like(book.shares)
    for one in found.strongest:
        assert one.exact
        maps[one.channel] = one.pixels
    close(maps, book.shares)
    sums = decompose_neurons(model, x, encoder, [Neuron(j, "sum") for j in range(NUMBER)])
    assert all(one.exact for one in sums)
    close(torch.stack([one.pixels for one in sums]), book.sums)
    close(torch.tensor([one.value for one in sums], dtype=torch.float64), book.activations.sum(1))
    d = decompose(model, x, 1)
    assert d.exact.all()
    assert d.exactness == "by construction"
    close(d.pixels[0, 0], book.shares.sum(0))  # the maps of all concepts are the map of the logit


@pytest.mark.parametrize("name", PLACES)
def test_the_map_of_the_network_without_concepts_is_another_one(name: str) -> None:
    """What the textbook would miss if the dictionary were passed by, or its gates not taken as they are."""
    model, x = with_dictionary(name)
    book = by_the_book(name, x[:1], 1)
    with concepts_left_out():
        plain = decompose(model, x[:1], 1)
    apart = float((plain.pixels[0, 0] - book.shares.sum(0)).abs().sum() / book.shares.abs().sum())
    assert apart > 0.05
    torch.testing.assert_close(plain.logits, small(name)[0](x[:1]), rtol=1e-12, atol=1e-12)


def test_exactly_k_concepts_are_kept_the_first_of_those_that_are_equally_strong() -> None:
    encoder = concepts.Encoder(1, 6, 3)
    nn.init.constant_(encoder.weight, 1.0)
    with torch.no_grad():
        encoder.weight[4] = 2.0
        encoder.weight[1] = -1.0
        u = encoder(torch.tensor([[[1.0], [-1.0], [0.0], [torch.nan]]]))[0]
        assert u[:2].tolist() == [[1, 0, 1, 0, 2, 0], [0, 1, 0, 0, 0, 0]]
        assert not u[2].any()
        assert u[3].isnan().all()  # it does not vanish
        maps = encoder(torch.ones(2, 1, 3, 4))
        assert maps.shape == (2, 6, 3, 4)
        assert ((maps != 0).sum(1) == 3).all()


def test_other_threads_keep_their_concepts_while_one_leaves_them_out() -> None:
    model, x = with_dictionary("chain, B = 2")
    with_them, found = model(x), list[Tensor]()
    with concepts_left_out():
        thread = threading.Thread(target=lambda: found.append(model(x)))
        thread.start()
        thread.join()
        without = forward(model, x)  # a lane for every core
    assert torch.equal(found[0], with_them)
    assert not torch.allclose(without, with_them)
    assert torch.equal(model(x), with_them)


def test_a_batch_in_lanes_and_in_bfloat16_gives_what_its_pictures_give() -> None:
    model, x = with_dictionary("resnet, basic", torch.float32)
    both = decompose(model, x, [0, 1])
    for b in range(len(x)):
        alone = decompose(model, x[b : b + 1], [0, 1])
        scale = float(both.contributions.abs().max())
        torch.testing.assert_close(both[b].contributions, alone.contributions, rtol=0, atol=1e-5 * scale)
    with torch.autocast("cpu", torch.bfloat16):
        coarse = decompose(model, x, [0, 1])
    assert coarse.exact.all()


def test_a_layer_is_found_by_the_end_of_its_name_and_else_the_message_says_where_concepts_can_be() -> None:
    model = small("resnet, basic")[0]
    assert layer_of(model, "layer1") == layer_of(model, "backbone.layer1") == "backbone.layer1"
    assert layer_of(model, "layer1.0") == "backbone.layer1.0"
    assert layer_of(model, "conv1") == "backbone.conv1"  # though layer1.0.conv1 ends in it
    for layer, said in {
        "layer9": "layer9: no such layer; concepts can be put behind backbone.layer2, backbone.layer1, ",
        "layer1.0.conv1": "nothing can be put behind it; concepts can be put behind backbone.layer1.0",
        "conv2": "names 2 layers, backbone.layer1.0.conv2 and backbone.layer2.0.conv2 the first; concepts can be",
        "": "no such layer",
    }.items():
        with pytest.raises(ValueError, match=said):
            layer_of(model, layer)
    with_one = with_dictionary("resnet, basic")[0]
    with pytest.raises(ValueError, match="it has concepts already"):
        insert(with_one, layer="layer1", width=64, number=2, active=1)
    with pytest.raises(ValueError, match="this is an ordinary one"):
        insert(build("torchvision", {"name": "resnet18", "classes": 3}), layer="layer4", width=1, number=1, active=1)


@pytest.mark.parametrize(
    ("architecture", "arguments", "layer", "width"),
    [
        ("coda_net", TABLE, "layers.0", 4),
        ("hybrid", HYBRID, "layers.1", 8),  # above its cut
        ("bcosified", {"name": "resnet18", "classes": 3}, "layer4", 512),  # behind the step that subtracts the mean
    ],
)
def test_other_networks_that_are_exact_by_construction_take_concepts_too(
    architecture: str, arguments: dict[str, Any], layer: str, width: int
) -> None:
    torch.manual_seed(0)
    model = build(architecture, arguments)
    at = insert(model, layer=layer, width=width, number=NUMBER, active=ACTIVE)
    model.double().eval().requires_grad_(False)
    half = torch.rand(1, 3, 40, 40, dtype=torch.float64)
    x, weighting = torch.cat([half, 1 - half], 1), torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64)
    found, d = strongest_channels(model, x, f"{at}.encoder", weighting, NUMBER), decompose(model, x, weighting[None])
    assert found.exact
    assert all(one.exact for one in found.strongest)
    maps = torch.stack([one.pixels for one in found.strongest]).sum(0)
    assert float(maps.abs().sum()) > 0
    close(maps, d.pixels[0, 0])


def test_a_module_that_stands_in_a_sequence_twice_stays_there_twice() -> None:
    twice = nn.ReLU()
    model = nn.Sequential(nn.Sequential(nn.Conv2d(1, 2, 1), twice, nn.Conv2d(2, 2, 1), twice))
    insert(model, layer="0.2", width=2, number=4, active=1)
    assert [*model[0]._modules] == ["0", "1", "2", "concepts", "3"]
    assert model[0][4] is twice


def test_every_place_that_is_offered_works() -> None:
    for name in SMALL:
        names = [key for key, _ in small(name)[0].named_modules() if key]
        for layer in (key for key in names if concepts._is_place(small(name)[0], key)):
            model, x = small(name)
            kept: list[Tensor] = []
            handle = model.get_submodule(layer).register_forward_hook(lambda *given, kept=kept: kept.append(given[2]))
            before = model(x)
            handle.remove()
            if not isinstance(kept[0], Tensor) or kept[0].ndim == 2:
                continue
            width = kept[0].shape[1 if kept[0].ndim == 4 else 2]
            at = insert(model, layer=layer, width=width, number=2 * width, active=2 * width)
            # relu(f) - relu(-f) is f: a dictionary that gives back what it takes changes nothing.
            eye = torch.eye(width, dtype=x.dtype)
            both = torch.cat([eye, -eye])
            model.get_submodule(at).load_state_dict({"encoder.weight": both, "decoder.weight": both.T})
            torch.testing.assert_close(model.double()(x), before, rtol=1e-9, atol=1e-9, msg=f"{name}, {layer}")


# ---- as a program ----------------------------------------------------------------------------------------------------

SIDE = 64
PUBLISHED = "v0.1-resnet18_long-layer4-BiasFreeTopK-K12-S3-LR0.001.pt"


def network(path: Path, architecture: str = "bcos_resnet", **changes: Any) -> Path:
    """A network's file, with logits that are not all alike."""
    torch.manual_seed(0)
    arguments = {"blocks": [1, 1, 1, 1], "classes": 3, "bottleneck": False, "bias": -2.0, "temperature": 1e-7} | changes
    if architecture != "bcos_resnet":
        arguments = changes
    described = Checkpoint(
        name="small",
        architecture=architecture,
        arguments=arguments,
        classes=("ant", "bee", "cat"),
        preprocessing=Preprocessing(resize=SIDE, crop=SIDE),
        full_colour=0.1,
    )
    save(build(architecture, arguments), described, path)
    return path


def contents(width: int = 512, **more: Any) -> dict[str, Any]:
    E, D = dictionary(width, torch.float32)
    return {"encoder.weight": E, "decoder.weight": D, **more}


@pytest.fixture
def made(coda: Coda, tmp_path: Path) -> Coda:
    """A network, a picture, and the network with concepts."""
    network(tmp_path / "small.safetensors")
    photo(tmp_path / "a.png", 80, 70)
    torch.save(contents(k=torch.tensor(3, dtype=torch.int32), threshold=torch.tensor(-1.0)), tmp_path / "d.pt")
    coda("models", "convert", "small.safetensors", "--concepts", "d.pt", "--at", "layer4", "-o", "c.safetensors")
    return coda


def test_a_file_of_a_dictionary_becomes_a_network_whose_logits_are_split_over_concepts(
    made: Coda, tmp_path: Path
) -> None:
    layer = "backbone.layer4.concepts.encoder"
    asked = ("--neurons", f"{layer}:top:4", "--neuron", f"{layer}:2:sum", "-c", "bee", "-c", "cat")
    result = made("explain", "a.png", "-m", "c.safetensors", *asked, "--json")
    record = result.record
    jsonschema.validate(record, pictures.json_schema())
    assert record["network"]["name"] == "small-concepts"
    plain = made(
        "explain", "a.png", "-m", "small.safetensors", "-c", "bee", "-c", "cat", "-o", "plain", "--json"
    ).record
    for part, without in zip(record["explained"], plain["explained"], strict=True):
        (channels,) = part["channels"]
        assert part["exact"]
        assert channels["exact"]
        assert channels["channels"] == NUMBER
        size = abs(part["positive"]) + abs(part["negative"]) + 2
        assert part["logit"] == pytest.approx(channels["sum"] + channels["constants"], abs=1e-5 * size)
        assert part["logit"] == pytest.approx(part["positive"] + part["negative"] + part["bias"], abs=1e-5 * size)
        assert part["logit_without_concepts"] == pytest.approx(without["logit"], rel=1e-5)
        assert abs(part["logit"] - without["logit"]) > 0.01
        assert f"; logit {part['logit_without_concepts']:.3f} without the concepts" in result.err
        assert "logit_without_concepts" not in without
        for concept in channels["strongest"]:
            assert concept["exact"]
            total = concept["positive"] + concept["negative"] + concept["constants"]
            assert concept["share"] == pytest.approx(total, abs=1e-5 * size)
            assert (tmp_path / "coda-out" / concept["files"]["overlay"]).exists()
        with Image.open(tmp_path / "coda-out" / part["files"]["overlay"]) as drawn:
            inside = strict_json(drawn.info["coda"])
        assert inside["explained"][0]["logit_without_concepts"] == part["logit_without_concepts"]
    assert record["neurons"][0]["exact"]
    assert "without the concepts" not in str(plain)
    said = made("verify", "coda-out", "-m", "c.safetensors").out
    assert "proven" in said


def test_both_logits_are_said_of_differences_and_of_every_frame(made: Coda, tmp_path: Path) -> None:
    record = made("explain", "a.png", "-m", "c.safetensors", "-c", "bee", "--versus", "cat", "--json").record
    plain = made(
        "explain", "a.png", "-m", "small.safetensors", "-c", "bee", "--versus", "cat", "-o", "b", "--json"
    ).record
    (part,), (without,) = record["explained"], plain["explained"]
    assert part["logit_without_concepts"] == pytest.approx(without["logit"], rel=1e-4)
    frames = [Image.open(photo(tmp_path / f"{n}.png", 80, 70, n)) for n in range(2)]
    frames[0].save(tmp_path / "clip.gif", save_all=True, append_images=frames[1:])
    lines = made("video", "clip.gif", "-m", "c.safetensors", "-o", "clip.mp4", "--json").records
    of_frames = [line["explained"][0] for line in lines if line["schema"] == "coda.frame"]
    assert len(of_frames) == 2
    assert all(part["logit_without_concepts"] != part["logit"] for part in of_frames)
    (of_clip,) = lines[-1]["explained"]
    mean = np.mean([part["logit_without_concepts"] for part in of_frames])
    assert of_clip["mean_logit_without_concepts"] == pytest.approx(mean)
    compared = made(
        "compare",
        "a.png",
        "-m",
        "small.safetensors",
        "-m",
        "c.safetensors",
        "--class",
        "bee",
        "--method",
        "ours",
        "--json",
    ).record
    first, second = compared["sums"], compared["others"][0]["sums"]
    assert second["logit_without_concepts"] == pytest.approx(first["logit"], rel=1e-5)
    assert "logit_without_concepts" not in first


def test_training_does_not_begin_with_it_in_silence_as_if_it_had_none(made: Coda, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    refused = made("train", "data", "--from", "c.safetensors", "-o", "run", status=2).error
    assert refused == "--from c.safetensors: has concepts, which are not trained; start from the network without them"
    assert not (tmp_path / "run").exists()


def test_both_logits_are_in_summaries_and_in_differences_of_runs(made: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "b.png", 80, 70, 1)
    for precision in ("float32", "bfloat16"):
        with_concepts = ("explain", "a.png", "b.png", "-m", "c.safetensors", "-c", "bee", "--precision", precision)
        made(*with_concepts, "-o", precision)
    made("explain", "a.png", "-m", "small.safetensors", "-c", "bee", "-o", "plain")
    parts = [json.loads(p.read_text())["explained"][0] for p in sorted((tmp_path / "float32").glob("*.json"))]
    plain = [part["logit_without_concepts"] for part in parts]
    summary = made("summary", "float32", "-o", "report", "--json").record
    assert summary["overall"]["mean_logit_without_concepts"] == pytest.approx(np.mean(plain))
    rows = list(csv.DictReader((tmp_path / "report" / "summary.csv").read_text("utf-8").splitlines()))
    assert [float(row["logit_without_concepts"]) for row in rows] == pytest.approx(plain)
    mean = np.mean([part["logit"] for part in parts])
    assert f"mean logit {mean:.2f}; {np.mean(plain):.2f} without the concepts" in made("summary", "float32").lines
    for runs in (["plain"], ["plain", "float32"]):
        assert made("summary", *runs, "--json").record["overall"]["mean_logit_without_concepts"] is None
    assert "without the concepts" not in made("summary", "plain").out
    for record, before in zip(made("diff", "float32", "bfloat16", "--json").records[:2], plain, strict=True):
        assert record["targets"][0]["logit_without_concepts"]["first"] == before
    assert made("diff", "plain", "float32", "--json").records[0]["targets"][0]["logit_without_concepts"] is None


def test_the_description_says_what_is_behind_which_layer_and_older_ones_stay_as_they_were(
    made: Coda, tmp_path: Path
) -> None:
    net = loading.load("c.safetensors")
    c = net.checkpoint
    assert c.concepts == {"layer": "backbone.layer4", "width": 512, "number": NUMBER, "active": 3}
    assert (c.full_colour, c.accuracy) == (None, None)  # nobody measured them with the concepts
    shown = made("models", "show", "c.safetensors").out
    assert "layer backbone.layer4, width 512, number 12, active 3" in " ".join(shown.split())
    assert strict_json(made("models", "show", "c.safetensors", "--json").out)["concepts"] == c.concepts
    without = loading.load("small.safetensors").checkpoint
    assert "concepts" not in without.model_dump_json()
    assert "concepts" not in made("models", "show", "small.safetensors", "--json").out
    assert "exact" in made("models", "verify", "c.safetensors").out
    e = explain(np.zeros((SIDE, SIDE, 3), np.uint8), net, "ant")
    assert e.without_concepts is not None
    assert "without the concepts" in repr(e)
    assert tmp_path


def test_the_name_of_a_published_file_says_layer_and_number(coda: Coda, tmp_path: Path) -> None:
    network(tmp_path / "small.safetensors")
    torch.save(
        {"state_dict": {f"module.{key}": value for key, value in contents(log={"a": [1]}).items()}},
        tmp_path / PUBLISHED,
    )
    result = coda("models", "convert", "small.safetensors", "--concepts", PUBLISHED, "-o", "c.safetensors")
    assert "12 concepts, 3 at each position, in the place of the output of backbone.layer4" in result.err
    assert "--neurons backbone.layer4.concepts.encoder:top:5" in result.err
    save_file(contents(), tmp_path / "d.safetensors")
    more = ("--at", "layer4", "--active", "5", "-o", "e.safetensors", "--half")
    coda("models", "convert", "small.safetensors", "--concepts", "d.safetensors", *more)
    assert (loading.load("e.safetensors").checkpoint.concepts or {})["active"] == 5


def test_a_transformer_s_concepts_are_those_of_its_tokens(coda: Coda, tmp_path: Path) -> None:
    arguments = {"dim": 64, "depth": 2, "patch": 8, "classes": 3, "bias": -2.0}
    network(tmp_path / "vit.safetensors", "bcos_vit", **arguments)
    photo(tmp_path / "a.png", 80, 70)
    torch.save(contents(64, k=2), tmp_path / "d.pt")
    at = ("--at", "0.transformer.encoder_1")  # as the authors write it
    coda("models", "convert", "vit.safetensors", "--concepts", "d.pt", *at, "-o", "c.safetensors")
    layer = "backbone.transformer.concepts.encoder"
    (part,) = coda("explain", "a.png", "-m", "c.safetensors", "--neurons", f"{layer}:top:2", "--json").record[
        "explained"
    ]
    assert part["positional"] != 0
    assert part["exact"]
    assert all(one["exact"] and one["constants"] for one in part["channels"][0]["strongest"])


def test_what_the_document_shows_runs_and_is_as_it_says(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "neurons.md").read_text("utf-8").split("## Concepts")[1].split("\n## ")[0]
    document_files.prepare(tmp_path, text)
    reader = documents.Reader(tmp_path)
    for step in documents.steps(text):
        reader.take(step)
    (line,) = [line for line in reader.printed if "without the concepts" in line]
    with_them, without = map(float, re.findall(r"logit (-?[\d.]+)", line))
    assert with_them == pytest.approx(16, abs=1.5)
    assert without == pytest.approx(19, abs=0.5)
    (told,) = [line for line in reader.printed if "its 64 channels have" in line]
    strongest = re.findall(r"(\d+): \+", told)[0]
    (path,) = (tmp_path / "coda-out").glob(f"*-encoder-{strongest}.overlay.png")
    with Image.open(path) as drawn:
        coloured = np.asarray(drawn.convert("RGB")).astype(int)
    red = coloured[..., 0] - coloured[..., 2] > 100
    red[:, 490:] = False  # the colour bar
    low, high = np.percentile(np.nonzero(red)[0], (10, 90))
    assert 280 < low < high < 370  # the wheels of a picture of 480 pixels, and neither sky nor container


BROKEN: dict[str, tuple[Any, tuple[str, ...], int, str]] = {
    "no layer": (contents(k=3), (), 2, "d.pt: does not tell the layer that it was learned from; say which with --at"),
    "no number": (contents(), ("--at", "layer4"), 2, "d.pt: does not tell how many concepts are active; say how many"),
    "a number that is none": (contents(k=torch.tensor(torch.nan)), ("--at", "layer4"), 2, "does not tell how many"),
    "a larger k in the file": (contents(k=13), ("--at", "layer4"), 3, "says that 13 of its 12 concepts are active"),
    "none active": (contents(k=0), ("--at", "layer4"), 3, "d.pt: says that 0 of its 12 concepts are active"),
    "a larger k": (contents(), ("--at", "layer4", "--active", "13"), 2, "active: expected at most 12"),
    "no such layer": (contents(k=3), ("--at", "layer7"), 2, "d.pt: small: layer7: no such layer; concepts can"),
    "inside a block": (contents(k=3), ("--at", "layer4.0.bn1"), 2, "layer4.0.bn1: nothing can be put behind it"),
    "another width": (contents(256, k=3), ("--at", "layer4"), 3, "d.pt: its concepts are of 256 channels; their layer"),
    "no decoder": ({"encoder.weight": contents()["encoder.weight"]}, (), 3, "d.pt: holds no dictionary of concepts"),
    "no dictionary": ([1, 2], (), 3, "d.pt: holds no dictionary of concepts: expected encoder.weight"),
    "shapes": (contents() | {"decoder.weight": torch.ones(12, 512)}, (), 3, "got [12, 512] and [12, 512]"),
    "whole numbers": (contents() | {"encoder.weight": torch.ones(12, 512).int()}, (), 3, "d.pt: expected floats"),
    "NaN": (contents() | {"encoder.weight": torch.full((12, 512), torch.nan)}, (), 3, "6144 values of its encoder"),
    "a bias": (contents(b_dec=torch.ones(512), k=3), (), 3, "d.pt: its b_dec is not 0; a bias is no concept's"),
    "code": (None, (), 3, "d.pt: "),
    "nothing": (b"", (), 3, "d.pt: damaged, or not a torch file"),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_what_cannot_be_used_is_one_line_and_writes_nothing(coda: Coda, tmp_path: Path, what: str) -> None:
    content, options, status, said = BROKEN[what]
    network(tmp_path / "small.safetensors")
    if content is None:
        (tmp_path / "d.pt").write_bytes(TORCH_HEAD + HOSTILE["a call of a result"] + b"\x80\x02].")
    elif isinstance(content, bytes):
        (tmp_path / "d.pt").write_bytes(content)
    else:
        torch.save(content, tmp_path / "d.pt")
    before = sorted(tmp_path.iterdir())
    command = ("models", "convert", "small.safetensors", "--concepts", "d.pt", *options, "-o", "c.safetensors")
    assert said in coda(*command, status=status).error
    assert sorted(tmp_path.iterdir()) == before


def test_commands_that_cannot_be_carried_out_say_so(made: Coda, tmp_path: Path) -> None:
    convert = ("models", "convert")
    concepts_at = ("--concepts", "d.pt", "--at", "layer4", "-o", "e.safetensors")
    assert (
        "--at and --active are for --concepts FILE" in made(*convert, "small.safetensors", "--at", "fc", status=2).error
    )
    assert "no such file" in made(*convert, "nothing", *concepts_at, status=2).error
    missing = ("--concepts", "missing.pt", "-o", "e.safetensors")
    assert made(*convert, "small.safetensors", *missing, status=3).error == "missing.pt: no such file"
    assert "it has concepts already" in made(*convert, "c.safetensors", *concepts_at, status=2).error
    torch.save(torchvision.models.resnet18(num_classes=3).state_dict(), tmp_path / "net.pth")
    ordinary = made(*convert, "net.pth", "--arch", "torchvision:resnet18", *concepts_at, status=2).error
    assert "this is an ordinary one" in ordinary
    taken = made(*convert, "small.safetensors", "--concepts", "d.pt", "--at", "layer4", "-o", "c.safetensors", status=2)
    assert "c.safetensors" in taken.error
    both = (
        *convert,
        "small.safetensors",
        "--concepts",
        "d.safetensors",
        "--at",
        "layer4",
        "-o",
        "d.safetensors",
        "--force",
    )
    save_file(contents(), tmp_path / "d.safetensors")
    assert "d.safetensors" in made(*both, status=2).error  # not over the dictionary itself


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"active": 13}, "active: expected at most 12"),
        ({"number": 10**7}, "number: expected a whole number from 1"),
        ({"number": 12.0}, "number: expected a whole number from 1"),
        ({"width": 600}, "encoder.weight: expected"),
        ({"layer": "layer9"}, "layer9: no such layer"),
        ({"layer": 4}, "layer: expected a word"),
        ({"more": 4}, "concepts: expected layer, width, number, active"),
    ],
)
def test_descriptions_of_others_are_checked(made: Coda, tmp_path: Path, change: dict[str, Any], said: str) -> None:
    net = loading.load("c.safetensors")
    told = net.checkpoint.model_copy(update={"concepts": {**(net.checkpoint.concepts or {}), **change}})
    save(net.model, told, tmp_path / "odd.safetensors")
    assert said in made("explain", "a.png", "-m", "odd.safetensors", status=3).error


def test_a_description_of_a_dictionary_that_does_not_fit_its_layer_is_one_line(made: Coda, tmp_path: Path) -> None:
    net = loading.load("c.safetensors")
    model = build("bcos_resnet", net.checkpoint.arguments)
    fields = {"layer": "backbone.layer3", "width": 512, "number": NUMBER, "active": 3}
    insert(model, **fields)
    save(model, net.checkpoint.model_copy(update={"concepts": fields}), tmp_path / "odd.safetensors")
    assert "its concepts are of 512 channels" in made("explain", "a.png", "-m", "odd.safetensors", status=3).error
    assert isinstance(model.get_submodule("backbone.layer3.concepts"), ConceptDictionary)
