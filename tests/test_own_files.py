"""Names behind links, the choice of weights, and files of coda's own that are read again: all are foreign at first."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from conftest import Coda
from foreign import RANK_4, rank_4_state
from PIL import Image
from torch import Tensor, nn

from coda_cli.checkpoints.loading import load
from coda_cli.checkpoints.manifest import Checkpoint, Preprocessing
from coda_cli.checkpoints.published_bcos import BCOS, bcos_named_in
from coda_cli.checkpoints.published_descriptions import published_checkpoint
from coda_cli.checkpoints.saving import save
from coda_cli.checkpoints.unpickling import AVERAGE_TAKEN, WEIGHTS_TAKEN
from coda_cli.core.networks import build
from coda_cli.errors import CheckpointError, MediaError, TrainingError, UsageError
from coda_cli.media.view import fit
from coda_cli.study import scores
from coda_cli.study.scores import Scores
from coda_cli.training import state as training_state
from coda_cli.training.datasets import Split, load_held_out
from coda_cli.training.recipes import RECIPES
from coda_cli.training.state import LOG_FIELDS, Log, load_state, save_state

# ---- names -----------------------------------------------------------------------------------------------------------


def weights(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(rank_4_state(), path)
    return path


def link(path: Path, target: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.symlink_to(target)
    except OSError:
        pytest.skip("no links here")
    return path


def test_a_link_has_the_name_of_itself_or_of_its_target(tmp_path: Path) -> None:
    blob = weights(tmp_path / "blobs" / "0123456789abcdef")
    snapshot = link(tmp_path / "snapshots" / "1" / f"{RANK_4}.pkl", blob)
    assert load(snapshot).checkpoint.name == RANK_4
    assert load(link(tmp_path / "mine.pkl", snapshot)).checkpoint.name == RANK_4  # in the middle of a chain
    named = weights(tmp_path / RANK_4 / "model_epoch_1.pkl")
    assert load(link(tmp_path / "other.pkl", named)).checkpoint.name == RANK_4
    with pytest.raises(CheckpointError, match="weights alone do not tell"):
        load(blob)


def test_a_link_and_a_target_that_name_two_networks_are_an_error(tmp_path: Path) -> None:
    named = weights(tmp_path / RANK_4 / "model_epoch_1.pkl")
    other = link(tmp_path / "9L-S-CoDA-SQ-rank-8.pkl", named)
    with pytest.raises(
        CheckpointError, match=r"its name says 9L-S-CoDA-SQ-rank-8, the file that it links to .* --arch"
    ):
        load(other)
    assert load(other, arch=RANK_4).checkpoint.name == RANK_4


def test_links_that_only_seem_to_go_in_a_circle_come_to_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """.. of a folder that is a link is not the folder that the name says."""
    weights(tmp_path / "real" / "w.pkl")
    (tmp_path / "real" / "sub").mkdir()
    link(tmp_path / "d", tmp_path / "real" / "sub")
    link(tmp_path / "d" / "w.pkl", Path("../w.pkl"))
    link(tmp_path / "w.pkl", Path("d/w.pkl"))
    honest, followed = os.readlink, list[object]()

    def counted(path: Any, **more: Any) -> Any:
        followed.append(path)
        assert len(followed) < 500
        return honest(path, **more)

    monkeypatch.setattr(os, "readlink", counted)
    with pytest.raises(CheckpointError, match="weights alone do not tell"):
        load(tmp_path / "w.pkl")


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/d/ImageNet/bcos_final/resnet_18/last.ckpt", "bcos-resnet18"),
        ("/d/ImageNet/bcos_final/vgg_11_bnu/last.ckpt", "bcos-vgg11_bnu"),
        ("/d/ImageNet/bcos_final/resnet_50/epoch=89-val_acc1=0.75.ckpt", "bcos-resnet50"),
        ("/d/ImageNet/bcos_final_long/resnet_50/last.ckpt", "bcos-resnet50_long"),
        ("/d/ImageNet/bcos_final_long/resnet_50_long/last.ckpt", "bcos-resnet50_long"),
        ("/d/ImageNet/vit_final/bcos_simple_vit_ti_patch16_224/last.ckpt", "bcos-simple_vit_ti_patch16_224"),
        ("/d/ImageNet/bcos_final/resnet_19/last.ckpt", None),
        ("/d/mine/resnet_18/last.ckpt", None),
    ],
)
def test_the_folders_of_version_2_name_the_configuration(path: str, name: str | None) -> None:
    assert bcos_named_in(path, [n for n, entry in BCOS.items() if entry.version == 2]) == name


def test_every_network_of_version_2_is_named_by_its_folder() -> None:
    candidates = [n for n, entry in BCOS.items() if entry.version == 2]
    for name in candidates:
        theirs = BCOS[name].link.rpartition("-")[0]
        experiment = "bcos_final_long" if theirs.endswith("_long") else "bcos_final"
        assert bcos_named_in(f"/d/{experiment}/{theirs}/last.ckpt", candidates) == name


# ---- which weights ---------------------------------------------------------------------------------------------------

V2 = "bcos-resnet18"


def trainer_s_file(path: Path, *, average: bool = True, last: bool = True) -> tuple[nn.Module, nn.Module]:
    """A trainer's file; the moving average and the last weights, as networks."""
    torch.manual_seed(1)
    entry = published_checkpoint(V2)
    models = build(entry.architecture, entry.arguments), build(entry.architecture, entry.arguments)
    state: dict[str, Tensor] = {}
    for model, prefix, wanted in zip(models, ("ema.module.", "model."), (average, last), strict=True):
        if wanted:
            state |= {prefix + key.removeprefix("backbone."): value for key, value in model.state_dict().items()}
    torch.save({"state_dict": state}, path)
    return models


def test_the_moving_average_or_the_last_weights_are_taken_as_asked(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    average, last = trainer_s_file(path)
    for ema, expected, said in (
        (None, average, AVERAGE_TAKEN),
        (True, average, AVERAGE_TAKEN),
        (False, last, WEIGHTS_TAKEN),
    ):
        net = load(path, arch=V2, ema=ema)
        assert net.assumed[0] == said
        for key, value in expected.state_dict().items():
            assert torch.equal(net.model.state_dict()[key], value)
    trainer_s_file(path, average=False)
    assert not {AVERAGE_TAKEN, WEIGHTS_TAKEN} & {*load(path, arch=V2, ema=False).assumed}
    with pytest.raises(UsageError, match="--ema: holds no moving average"):
        load(path, arch=V2, ema=True)
    trainer_s_file(path, last=False)
    with pytest.raises(UsageError, match="--no-ema: holds only the moving average"):
        load(path, arch=V2, ema=False)
    torch.save({"state_dict_ema": rank_4_state()}, path)
    assert load(path, arch=RANK_4, ema=True).assumed[0] == AVERAGE_TAKEN
    with pytest.raises(UsageError, match="--no-ema: holds only the moving average"):
        load(path, arch=RANK_4, ema=False)
    with pytest.raises(UsageError, match="one set of weights"):
        load(small(tmp_path / "net.safetensors"), ema=True)


def test_what_was_taken_is_in_the_record_and_said_with_q(tmp_path: Path, coda: Coda) -> None:
    Image.new("RGB", (64, 64), "red").save(tmp_path / "a.png")
    trainer_s_file(tmp_path / "last.ckpt")
    command = ("explain", "a.png", "-m", "last.ckpt", "--arch", V2, "--json", "-q", "--force")
    for more, said in (((), AVERAGE_TAKEN), (("--no-ema",), WEIGHTS_TAKEN)):
        result = coda(*command, *more)
        assert f"last.ckpt: {said}" in result.err.replace("\n", " ")
        assert result.records[0]["network"]["assumed"][0] == said
    assert AVERAGE_TAKEN in coda("models", "convert", "last.ckpt", "--arch", V2, "--ema", "-q").err.replace("\n", " ")


def test_safetensors_without_a_description_take_arch(tmp_path: Path) -> None:
    expected = load(weights(tmp_path / "weights.pkl"), arch=RANK_4)
    path = tmp_path / "weights.safetensors"
    for content in (rank_4_state(), {k: v.contiguous() for k, v in expected.model.state_dict().items()}):
        safetensors.torch.save_file(content, path)
        net = load(path, arch=RANK_4)
        assert "from --arch" in net.assumed[0]
        assert net.checkpoint == expected.checkpoint
        for key, value in expected.model.state_dict().items():
            assert torch.equal(net.model.state_dict()[key], value)
    safetensors.torch.save_file(rank_4_state(), path)
    with pytest.raises(CheckpointError, match="say which with --arch"):
        load(path)
    with pytest.raises(CheckpointError, match="expects"):
        load(path, arch="9L-S-CoDA-SQ-rank-8")


# ---- the second version's grids --------------------------------------------------------------------------------------


def small(path: Path, size: int = 32, resize: int = 40) -> Path:
    arguments = {"channels": [6, 4, 6], "kernels": [3, 1], "strides": [1, 1], "ranks": [2, 2], "norm": "SQ",
                 "temperature": 1.0}  # fmt: skip
    torch.manual_seed(0)
    view = Preprocessing(resize=resize, crop=size)
    save(build("coda_net", arguments), Checkpoint(name="small", architecture="coda_net", arguments=arguments,
         classes=tuple("abcdef"), preprocessing=view), path)  # fmt: skip
    return path


def test_rescaled_grids_are_made_of_the_originals(tmp_path: Path, coda: Coda, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(0)
    for name in "abcdef":
        (tmp_path / "data" / "test" / name).mkdir(parents=True)
        pixels = draw.integers(0, 256, (70, 90, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "data" / "test" / name / "1.png")
    net = load(small(tmp_path / "net.safetensors"))
    split, _ = load_held_out(tmp_path / "data", net.checkpoint, parts=3)
    assert split.images.shape == (6, 3, 10, 10)  # 32 // 3, cut from 40 // 3 = 13
    first = np.asarray(Image.open(tmp_path / "data" / "test" / "a" / "1.png"))
    assert np.array_equal(split.images[0].permute(1, 2, 0).numpy(), fit(first, 13, 10).rgb)
    seen: list[Any] = []

    def listening(*_: Any, **options: Any) -> list[list[float]]:
        seen.append(options["small"])
        return [[0.5] * 4]

    monkeypatch.setattr("coda_cli.study.localisation.score_grids", listening)
    monkeypatch.setattr("coda_cli.study.localisation.choose_grids", lambda *_, **__: [[0, 1, 2, 3]])
    command = ("evaluate", "localisation", "data", "-m", "net.safetensors", "--grid", "2x2", "--json")
    assert json.loads(coda(*command, "--rescale").out)["rescale"] is True
    assert json.loads(coda(*command).out)["rescale"] is False
    assert seen[0].shape == (6, 3, 16, 16)
    assert seen[1] is None
    coda(*command, "--rescale", "--scores", "kept.jsonl")  # those of version 0.1 are of finished crops that were shrunk
    assert json.loads((tmp_path / "kept.jsonl").read_text().splitlines()[0])["shrunk"] == "originals"


# ---- scores ----------------------------------------------------------------------------------------------------------

MEASURED = {"schema": "coda.localisation", "grid": "2x2"}


def scores_file(path: Path, rows: int = 3) -> bytes:
    with Scores(path, MEASURED, 2) as kept:
        for n in range(rows):
            kept.add([float(n), 0.5])
    return path.read_bytes()


def test_scores_that_were_cut_off_anywhere_go_on(tmp_path: Path) -> None:
    path = tmp_path / "kept.jsonl"
    whole = scores_file(path)
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        with Scores(path, MEASURED, 2) as kept:
            done = len(kept.rows)
            for n in range(done, 3):
                kept.add([float(n), 0.5])
        assert path.read_bytes() == whole


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b"[1]", MediaError), (b"[1, 2, 3]", MediaError), (b"{}", MediaError), (b"5", MediaError),
        (b"[[]]", MediaError),
        (b'["1", 2]', MediaError), (b"[" * 10**5, MediaError), (b"\xff", MediaError), (b"[true, 2]", MediaError),
        (b"[1" + b"0" * 400 + b", 2]", MediaError),
    ],
    ids=lambda value: ascii(value)[:30],
)  # fmt: skip
def test_scores_of_another_shape_are_an_error(tmp_path: Path, line: bytes, error: type[Exception]) -> None:
    path = tmp_path / "kept.jsonl"
    head, *rows = scores_file(path).splitlines()
    before = b"\n".join([head, line, *rows]) + b"\n"
    path.write_bytes(before)
    with pytest.raises(error, match="name another file") as caught:
        Scores(path, MEASURED, 2)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before


def test_scores_that_are_foreign_large_or_no_file_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "kept.jsonl"
    path.write_text("notes of mine\n")
    with pytest.raises(UsageError, match="another measurement"):
        Scores(path, MEASURED)
    with path.open("wb") as stream:
        stream.truncate(20 << 30)
    with pytest.raises(MediaError, match="too large"):
        Scores(path, MEASURED)
    with pytest.raises(MediaError, match="no file"):
        Scores(tmp_path, MEASURED)


# ---- training --------------------------------------------------------------------------------------------------------


def run(path: Path) -> tuple[Any, ...]:
    """The state of a run after one step, and everything it is read with."""
    torch.manual_seed(0)
    recipe, data = RECIPES["cifar10"], Split(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.zeros(2), ("a", "b"))
    model = nn.Linear(2, 2)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.1)
    model(torch.ones(1, 2)).sum().backward()
    optimiser.step()
    save_state(path, recipe, data, model, optimiser, 1, 2.5)
    return recipe, data, model, optimiser


def test_a_state_gives_back_every_bit(tmp_path: Path) -> None:
    recipe, data, model, optimiser = run(tmp_path / "state.pt")
    other = nn.Linear(2, 2)
    fresh = torch.optim.Adam(other.parameters(), lr=0.1)
    assert load_state(tmp_path / "state.pt", recipe, data, other, fresh) == (1, 2.5)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    for index, moments in optimiser.state_dict()["state"].items():
        for key, value in moments.items():
            assert torch.equal(fresh.state_dict()["state"][index][key], value)


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s.update(step="1"), lambda s: s.update(step=-1), lambda s: s.update(step=True),
        lambda s: s.update(seconds=float("nan")), lambda s: s.update(seconds=None), lambda s: s.pop("model"),
        lambda s: s.update(model=5), lambda s: s["model"].pop("bias"), lambda s: s["model"].update(bias=5),
        lambda s: s["model"].update(bias=torch.zeros(3)), lambda s: s["model"].update(bias=torch.zeros(2).half()),
        lambda s: s.update(optimiser=[]), lambda s: s["optimiser"].update(state=[]),
        lambda s: s["optimiser"]["state"].update({"x": {}}), lambda s: s["optimiser"]["state"].update({9: {}}),
        lambda s: s["optimiser"]["state"][0].update(exp_avg=torch.zeros(7)),
        lambda s: s["optimiser"]["state"][0].update(exp_avg="x"),
        lambda s: s["optimiser"]["param_groups"][0].update(betas=("a", "b")),
        lambda s: s.update(more={1, 2}),
        lambda s: s["optimiser"].update(param_groups=[]), lambda s: s["optimiser"].update(param_groups=5),
    ],
)  # fmt: skip
def test_a_state_of_another_shape_is_one_line(tmp_path: Path, change: Any) -> None:
    path = tmp_path / "state.pt"
    recipe, data, model, optimiser = run(path)
    state = torch.load(path, weights_only=True)
    change(state)
    torch.save(state, path)
    with pytest.raises(TrainingError, match="damaged, or not the state of a run"):
        load_state(path, recipe, data, model, optimiser)


def test_a_log_that_was_cut_off_goes_on_and_a_foreign_one_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    log = Log(path, 0)
    for step in (1, 2, 3):
        log.write(step, 1, 2.5, 0.1, 0.2, 0.3, 100.0)
    whole = path.read_text()
    Log(path, 2)
    assert [line.split(",")[0] for line in path.read_text().splitlines()] == ["step", "1", "2"]
    path.write_text(whole[:-20])
    Log(path, 3)
    assert [line.split(",")[0] for line in path.read_text().splitlines()] == ["step", "1", "2"]
    header = ",".join(LOG_FIELDS)
    for foreign in ("a,b\n1,2\n", header + "\nx,1,1,1,1,1,1\n1,1,1,1,1,1,1\n", header + "\n1\n1,1,1,1,1,1,1\n", "\0",
                    header + "\n" + "9" * 5000 + ",1,1,1,1,1,1\n1,1,1,1,1,1,1\n",
                    "", header + "\n1,1,1,1,1,1,1,9\n2,1,1,1,1,1,1\n"):  # fmt: skip
        path.write_text(foreign)
        with pytest.raises(TrainingError, match="not the log of this run"):
            Log(path, 3)
        assert path.read_text() == foreign
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(TrainingError, match="not the log of this run"):
        Log(path, 3)


def test_a_log_that_cannot_be_written_any_more_is_named(tmp_path: Path) -> None:
    log = Log(tmp_path / "log.csv", 0)
    log.path.unlink()
    log.path.mkdir()
    with pytest.raises(MediaError, match=r"log\.csv: cannot be written"):
        log.write(1, 1, 2.5, 0.1, 0.2, 0.3, 100.0)


def test_names_that_no_file_can_hold_are_refused_before_training(tmp_path: Path, coda: Coda) -> None:
    for name in ("a", "b\x07"):
        (tmp_path / "data" / "train" / name).mkdir(parents=True)
        (tmp_path / "data" / "test" / name).mkdir(parents=True)
        for part in ("train", "test"):
            Image.new("RGB", (32, 32), "red").save(tmp_path / "data" / part / name / "1.png")
    assert "--name" in coda("train", "data", "--name", "a\x07", status=2).error
    assert "--data-note" in coda("train", "data", "--data-note", "\x1b[2J", status=2).error
    assert "rename it" in coda("train", "data", "--no-compile", status=2).error


@pytest.mark.parametrize("row", ["1,a,1,1,1,1,1", "1,1,1,1,1,1,", "1,1,1,1,1,1,1e"])
def test_a_log_with_what_is_no_number_is_foreign(tmp_path: Path, row: str) -> None:
    path, header = tmp_path / "log.csv", ",".join(LOG_FIELDS)
    path.write_text(f"{header}\n1,1,1,1,1,1,1\n2,1,1,1,1,1,1\n")
    Log(path, 3)
    path.write_text(f"{header}\n{row}\n2,1,1,1,1,1,1\n")
    with pytest.raises(TrainingError, match="not the log of this run"):
        Log(path, 3)


def test_a_log_has_a_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log.csv"
    path.write_text(",".join(LOG_FIELDS) + "\n1,1,1,1,1,1,1\n")
    Log(path, 3)
    monkeypatch.setattr(training_state, "MAX_LOG", path.stat().st_size - 1)
    with pytest.raises(TrainingError, match="not the log of this run"):
        Log(path, 3)


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_a_state_that_is_no_file_is_one_line(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "training-state.pt"
    recipe, data, model, optimiser = run(tmp_path / "other.pt")
    path.mkdir() if kind == "folder" else os.mkfifo(path)
    with pytest.raises(TrainingError, match="damaged, or not the state of a run"):
        load_state(path, recipe, data, model, optimiser)


@pytest.mark.parametrize("line", ["[]", "{}", "1", "[null]", "[true]", "[[1]]", "[1,"])
def test_a_line_of_scores_is_a_row_of_numbers(line: str) -> None:
    assert scores._row("[1, 2.5]") == [1.0, 2.5]
    assert scores._row(line) is None


def test_two_runs_keep_no_scores_in_one_file(tmp_path: Path) -> None:
    with Scores(tmp_path / "s.jsonl", {"a": 1}, 2) as kept:
        kept.add([1, 2])
        with pytest.raises(UsageError, match="name another file"), Scores(tmp_path / "s.jsonl", {"a": 1}, 2):
            pass
    with Scores(tmp_path / "s.jsonl", {"a": 1}, 2) as kept:
        assert kept.rows == [[1, 2]]
